//! Beacon rounds, and who agrees on a tagged key.
//!
//! A tagged key's proof opens two tags and ties neither to a key. What does is agreement: HSMs that show the same tag
//! of a beacon that nobody could foresee share the key, unless they collude or pass the beacon on.

use keywitness_circuits::{Digest, Nonce, Timestamp};
use keywitness_verifier::wire::{Agreement, Record, RevocationTarget, Sighting};

use super::Apply;
use crate::ledger::{
    command::Configuration,
    fraud,
    state::{BeaconRound, FailureRow, HolderRow, HsmRow, KeyRow, RecordRow, ShownTag, State, TagRow, key},
    tables::Fault,
};

impl Apply<'_> {
    /// The round that is open. Where it is over, or there was none, the next one is opened with `next`.
    pub(super) fn beacon_round(&mut self, configuration: &Configuration, next: &Nonce) -> Result<BeaconRound, Fault> {
        let open: Option<BeaconRound> = self.state().get(key::ONLY)?;
        let now = self.moment.at;
        if let Some(round) = open
            && now.since(round.opened_at) < configuration.beacon_period
        {
            return Ok(round);
        }
        let number = open.map_or(1, |round| round.number.saturating_add(1));
        let round = BeaconRound { number, beacon: *next, opened_at: now };
        self.put(key::ONLY, &round)?;
        Ok(round)
    }

    /// Remembers a tag that was proven. Told once for each HSM and round: a cluster's HSMs that show one key's
    /// identifier and different tags of one beacon.
    pub(super) fn show_tag(&mut self, shown: &Sighting, round: &BeaconRound, tag: Digest) -> Result<(), Fault> {
        let place = key::epoch(&shown.hsm, &shown.key);
        let mut ours: TagRow = self.state().get(&place)?.unwrap_or_default();
        let known = ours.shown.iter().position(|earlier| earlier.round == round.number);
        if known.is_none_or(|at| ours.shown.get(at).is_some_and(|earlier| earlier.tag != tag)) {
            for holder in self.state().all::<HolderRow>(&key::holders(&shown.key.key, Some(&shown.cluster)))? {
                let place = key::epoch(&holder.hsm, &shown.key);
                let Some(row) = self.state().get::<KeyRow>(&place)? else { continue };
                let same = row.instances.iter().any(|instance| instance.fingerprint == shown.fingerprint);
                let theirs: TagRow = self.state().get(&place)?.unwrap_or_default();
                let differs = |earlier: &&ShownTag| earlier.round == round.number && earlier.tag != tag;
                if let Some(earlier) = theirs.shown.iter().find(differs).filter(|_| same) {
                    let earlier = Sighting { hsm: holder.hsm, envelope: earlier.envelope, ..shown.clone() };
                    fraud::tags_differ(self, earlier, shown, round.beacon)?;
                    break;
                }
            }
        }
        if let Some(at) = known {
            ours.shown.remove(at);
        }
        ours.shown.push(ShownTag { round: round.number, tag, envelope: shown.envelope });
        // An answer to an older round's challenge may arrive after one to the newest.
        ours.shown.sort_by_key(|shown| shown.round);
        let excess = ours.shown.len().saturating_sub(TagRow::ROUNDS);
        ours.shown.drain(..excess);
        self.put(&place, &ours)
    }
}

/// How far a tagged key's record is agreed on, and until when; none for a key that has shown no tag.
///
/// Another HSM agrees when, in the newest round that both have answered, both have shown the same tag, and its record is
/// in force and, where a greatest age is asked for, no older.
pub(crate) fn agreement(
    state: State<'_>,
    configuration: &Configuration,
    (hsm, row): (&HsmRow, &KeyRow),
    (now, max_age): (Timestamp, Option<u64>),
) -> Result<Option<(Agreement, Option<Timestamp>)>, Fault> {
    let ours: TagRow = state.get(&key::epoch(&hsm.hsm, &row.key))?.unwrap_or_default();
    if ours.shown.is_empty() {
        return Ok(None);
    }
    let (mut agreeing, mut until) = (1_u32, None::<Timestamp>);
    for holder in state.all::<HolderRow>(&key::holders(&row.key.key, Some(&hsm.cluster)))? {
        if holder.hsm == hsm.hsm {
            continue;
        }
        let other: HsmRow = state.need(&key::hsm(&holder.hsm))?;
        let Some(theirs) = state.get::<KeyRow>(&key::epoch(&other.hsm, &row.key))? else { continue };
        let Some(records) = records_in_force(state, configuration, (&other, &theirs), now)? else { continue };
        let fresh = records.iter().all(|record| max_age.is_none_or(|age| now.since(record.proven_at) <= age));
        let shown: TagRow = state.get(&key::epoch(&holder.hsm, &row.key))?.unwrap_or_default();
        if theirs.instances == row.instances && fresh && agrees(&ours, &shown) {
            agreeing = agreeing.saturating_add(1);
            until = until.into_iter().chain(records.iter().map(|record| record.expires_at)).min();
        }
    }
    Ok(Some((Agreement::of(agreeing), until)))
}

/// Whether two HSMs have shown the same tag in the newest round that both have answered.
fn agrees(ours: &TagRow, theirs: &TagRow) -> bool {
    let common = |shown: &&ShownTag| theirs.shown.iter().any(|other| other.round == shown.round);
    let newest = ours.shown.iter().rfind(common);
    newest.is_some_and(|shown| theirs.shown.iter().any(|other| (other.round, other.tag) == (shown.round, shown.tag)))
}

/// The records of a key's enrolled instances, where each is in force, newer than any failure, and nothing is revoked.
pub(super) fn records_in_force(
    state: State<'_>,
    configuration: &Configuration,
    (hsm, row): (&HsmRow, &KeyRow),
    now: Timestamp,
) -> Result<Option<Vec<Record>>, Fault> {
    if state.key_revocation(hsm, row)?.is_some() {
        return Ok(None);
    }
    let mut records = Vec::with_capacity(row.instances.len());
    for instance in &row.instances {
        let place = key::evidence(&hsm.hsm, &row.key, instance.kind);
        let Some(RecordRow { record, sequence }) = state.get(&place)? else { return Ok(None) };
        let failed = state.get::<FailureRow>(&place)?.is_some_and(|failure| failure.sequence > sequence);
        let valid = record.expires_at > now
            && record.enrolment == hsm.revision
            && configuration.still_accepts(&record)
            && state.barred(&RevocationTarget::VerifyingKey(record.verifying_key))?.is_none();
        if failed || !valid {
            return Ok(None);
        }
        records.push(record);
    }
    Ok(Some(records))
}
