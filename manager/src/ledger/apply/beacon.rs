//! Beacon rounds, and who agrees on a tagged key.
//!
//! A tagged key's proof opens two tags and ties neither to a key. What does is agreement: HSMs that show the same tag
//! of a beacon that nobody could foresee share the key, unless they collude or pass the beacon on.

use keywitness_circuits::{Digest, Nonce, Timestamp};
use keywitness_verifier::wire::{Agreement, EventKind, Sighting};

use super::Apply;
use crate::ledger::{
    command::Configuration,
    state::{BeaconRound, HolderRow, HsmRow, KeyRow, RecordRow, ShownTag, State, TagRow, key},
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
                    self.events.push(EventKind::TagsDiffer { earlier, later: shown.clone(), beacon: round.beacon });
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

/// How far a tagged key's record is agreed on; none for a key that has shown no tag.
pub(crate) fn agreement(
    state: State<'_>,
    configuration: &Configuration,
    (hsm, row): (&HsmRow, &KeyRow),
    now: Timestamp,
) -> Result<Option<Agreement>, Fault> {
    let ours: TagRow = state.get(&key::epoch(&hsm.hsm, &row.key))?.unwrap_or_default();
    if ours.shown.is_empty() {
        return Ok(None);
    }
    let mut agreeing = vec![1_u32; ours.shown.len()];
    for holder in state.all::<HolderRow>(&key::holders(&row.key.key, Some(&hsm.cluster)))? {
        if holder.hsm == hsm.hsm || !in_force(state, configuration, &holder, row, now)? {
            continue;
        }
        let theirs: TagRow = state.get(&key::epoch(&holder.hsm, &row.key))?.unwrap_or_default();
        for (shown, count) in ours.shown.iter().zip(&mut agreeing) {
            let agrees = |other: &ShownTag| (other.round, other.tag) == (shown.round, shown.tag);
            *count = count.saturating_add(theirs.shown.iter().any(agrees).into());
        }
    }
    Ok(agreeing.into_iter().max().map(Agreement::of))
}

/// Whether another holder has a record in force of the same identifier.
fn in_force(
    state: State<'_>,
    configuration: &Configuration,
    holder: &HolderRow,
    row: &KeyRow,
    now: Timestamp,
) -> Result<bool, Fault> {
    let hsm: HsmRow = state.need(&key::hsm(&holder.hsm))?;
    let Some(theirs) = state.get::<KeyRow>(&key::epoch(&hsm.hsm, &row.key))? else { return Ok(false) };
    if theirs.instances != row.instances || state.key_revocation(&hsm, &theirs)?.is_some() {
        return Ok(false);
    }
    for instance in &theirs.instances {
        let place = key::evidence(&hsm.hsm, &row.key, instance.kind);
        let Some(RecordRow { record, .. }) = state.get(&place)? else { return Ok(false) };
        let valid = record.expires_at > now
            && record.enrolment == hsm.revision
            && configuration.verifying_key(instance.kind) == Some(record.verifying_key);
        if !valid {
            return Ok(false);
        }
    }
    Ok(true)
}
