//! Schema 5, and how its rows become those of schema 6.
//!
//! Leaves stay, and the Merkle tree is made of them. The openings of schema 5 go: they hash to their leaves in their old
//! encoding alone. Everything else stays, in the new rows.

use keywitness_circuits::{ClusterId, Digest, HsmId, Timestamp};
use keywitness_verifier::wire::{Event, Reason, Revocation, RevocationTarget, Standing};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::ledger::{
    Configuration, Fault, Table, Tables, merkle,
    state::{
        self, BarRow, EpisodeRow, JoinTokenRow, RevokedFingerprint, State, VerifyingKeyRow, corrupt, decode, encode,
        key, log::RetentionRow,
    },
    tables::Row,
};

/// How many rows are held in memory.
const PAGE: usize = 4096;

/// A revocation.
#[derive(Serialize, Deserialize)]
struct OldRevocation {
    target: RevocationTarget,
    reason: String,
    at: Timestamp,
}

impl From<OldRevocation> for Revocation {
    fn from(OldRevocation { target, reason, at }: OldRevocation) -> Self {
        let reason = Reason::from(reason.as_str());
        Self { target, standing: Standing::Revoked, reason, by: String::new(), at, through: None }
    }
}

/// A join token.
#[derive(Serialize, Deserialize)]
struct OldJoinToken {
    cluster: ClusterId,
    hsm: Option<HsmId>,
    expires_at: Timestamp,
    used_by: Option<HsmId>,
}

impl From<OldJoinToken> for JoinTokenRow {
    fn from(OldJoinToken { cluster, hsm, expires_at, used_by }: OldJoinToken) -> Self {
        Self { cluster, hsm, reenrol: false, expires_at, used_by }
    }
}

/// From schema 5 to 6.
pub(super) fn migrate(tables: &mut dyn Tables) -> Result<(), Fault> {
    let head = State(tables).head()?;
    rewrite(tables, Table::JoinTokens, |row: OldJoinToken| JoinTokenRow::from(row))?;
    rewrite(tables, Table::RevokedFingerprints, |row: OldRevocation| RevokedFingerprint(row.into()))?;
    each(tables, Table::Revocations, |tables, (_, value)| {
        let revocation = Revocation::from(decode::<OldRevocation>(Table::Revocations, &value)?);
        let episode = EpisodeRow { revocation: revocation.clone(), lifted: None };
        state::put(tables, &key::episode(&revocation.target, head.sequence), &episode)
    })?;
    rewrite(tables, Table::Revocations, |row: OldRevocation| BarRow { revoked: Some(row.into()), suspended: None })?;
    each(tables, Table::Events, |tables, (place, value)| {
        let value = event(&value).map_err(|error| corrupt(Table::Events, error))?;
        tables.put(Table::Events, &place, &value)
    })?;
    each(tables, Table::Leaves, |tables, (place, value)| {
        let number =
            place.try_into().map(u64::from_be_bytes).map_err(|_| corrupt(Table::Leaves, "a key is no number"))?;
        let leaf = value.try_into().map(Digest).map_err(|_| corrupt(Table::Leaves, "a leaf has not 32 bytes"))?;
        merkle::append(tables, number, &leaf)
    })?;
    each(tables, Table::Commands, |tables, (place, _)| tables.remove(Table::Commands, &place))?;
    if head.sequence > 0 {
        state::put(tables, key::ONLY, &RetentionRow { through: head.sequence })?;
    }
    let configuration: Option<Configuration> = State(tables).get(key::ONLY)?;
    for statement in configuration.iter().flat_map(|configuration| &configuration.statements) {
        let row = VerifyingKeyRow { statement: statement.kind.name().to_owned(), since: head.at };
        state::put(tables, &statement.verifying_key.0, &row)?;
    }
    Ok(())
}

/// An event whose reason has a code, and that says who decided.
fn event(bytes: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut value = serde_json::from_slice(bytes)?;
    explain(&mut value);
    serde_json::to_vec(&serde_json::from_value::<Event>(value)?)
}

fn explain(value: &mut Value) {
    let Value::Object(fields) = value else { return };
    if let Some(Value::String(text)) = fields.get("reason")
        && fields.contains_key("target")
    {
        let reason = json!({ "code": "unspecified", "text": text });
        fields.insert("reason".to_owned(), reason);
        fields.insert("by".to_owned(), json!(""));
    }
    fields.values_mut().for_each(explain);
}

/// Runs `change` on every row that a table had at the beginning.
fn each(
    tables: &mut dyn Tables,
    table: Table,
    mut change: impl FnMut(&mut dyn Tables, Row) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut start = Vec::new();
    loop {
        let rows = tables.range(table, &[], &start, PAGE)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        // The next key after the last one.
        start = [last.as_slice(), &[0]].concat();
        rows.into_iter().try_for_each(|row| change(tables, row))?;
    }
}

fn rewrite<O: DeserializeOwned, N: Serialize>(
    tables: &mut dyn Tables,
    table: Table,
    change: impl Fn(O) -> N,
) -> Result<(), Fault> {
    each(tables, table, |tables, (place, value)| {
        tables.put(table, &place, &encode(table, &change(decode(table, &value)?))?)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keywitness_verifier::wire::{AttestationState, ProblemKind};

    use super::*;
    use crate::{
        ledger::Store as _,
        service::testing::{TestKey, World, refused},
        store::{FILE, Redb, SCHEMA_KEY, SCHEMA_TABLE, backup},
    };

    /// Rows of schema 6 as the program of schema 5 wrote them.
    fn age(store: &Redb) {
        store
            .write(&mut |tables| {
                let old = |revocation: Revocation| {
                    let Revocation { target, reason, at, .. } = revocation;
                    OldRevocation { target, reason: reason.text, at }
                };
                rewrite(tables, Table::JoinTokens, |row: JoinTokenRow| {
                    let JoinTokenRow { cluster, hsm, expires_at, used_by, .. } = row;
                    OldJoinToken { cluster, hsm, expires_at, used_by }
                })?;
                rewrite(tables, Table::Revocations, |row: BarRow| old(row.revoked.unwrap()))?;
                rewrite(tables, Table::RevokedFingerprints, |row: RevokedFingerprint| old(row.0))?;
                each(tables, Table::Events, |tables, (place, value)| {
                    let mut event: Value = serde_json::from_slice(&value).unwrap();
                    age_event(&mut event);
                    tables.put(Table::Events, &place, &serde_json::to_vec(&event).unwrap())
                })?;
                for table in Table::ALL.iter().filter(|table| table.code() > Table::Shareholders.code()) {
                    each(tables, *table, |tables, (place, _)| tables.remove(*table, &place))?;
                }
                Ok(())
            })
            .unwrap();
        let transaction = store.with(crate::store::begin).unwrap();
        transaction.open_table(SCHEMA_TABLE).unwrap().insert(SCHEMA_KEY, 5).unwrap();
        transaction.commit().unwrap();
    }

    fn age_event(value: &mut Value) {
        let Value::Object(fields) = value else { return };
        if let Some(text) = fields.get("reason").and_then(|reason| reason.get("text")).cloned() {
            fields.insert("reason".to_owned(), text);
            fields.remove("by");
        }
        fields.values_mut().for_each(age_event);
    }

    #[test]
    fn data_of_schema_5_is_copied_migrated_and_answers() {
        let world = World::on_disk();
        let (hsm, key, other) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1), world.hsm("hsm-2", "eu"));
        hsm.enrol_key(&world, &key).unwrap();
        hsm.attest(&world, "eu", &key).unwrap();
        hsm.fail(&world, "eu", &key);
        let token = world.join_token("eu", None);
        world.revoke_hsm(&other);
        let (events, leaves) =
            (world.events().len(), world.store.view().unwrap().range(Table::Leaves, &[], &[], usize::MAX));
        let path = world.directory.path().join("old.redb");
        std::fs::copy(world.directory.path().join(FILE), &path).unwrap();
        age(&Redb::open(&path).unwrap());

        let world = world.over_file(&path);
        assert!(path.with_extension("schema-5.redb").exists());
        let view = world.store.view().unwrap();
        assert_eq!(view.range(Table::Leaves, &[], &[], leaves.as_ref().unwrap().len()).unwrap(), leaves.unwrap());
        backup::check(view.as_ref(), &mut |_| ()).unwrap();
        assert_eq!(world.events().len(), events);
        assert!(
            world
                .manager
                .status(&crate::service::access::Caller::in_process())
                .unwrap()
                .keys
                .iter()
                .any(|key| key.state == AttestationState::Failing)
        );
        refused(other.challenge(&world, &key), ProblemKind::HsmRevoked);
        hsm.attest(&world, "eu", &key).unwrap();
        crate::service::testing::TestHsm::new("hsm-3").enrol(&world, &token).unwrap();
        let size = merkle::Tree(world.store.view().unwrap().as_ref()).range().unwrap().size();
        assert_eq!(size, State(world.store.view().unwrap().as_ref()).head().unwrap().sequence);
    }
}
