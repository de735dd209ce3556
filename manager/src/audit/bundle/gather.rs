//! Finding what a token rests on in the log.

use keywitness_circuits::{Digest, Envelope, Timestamp, codec::Canonical};
use keywitness_verifier::{
    token::{Claims, KeyAttestation, ProvenStatement},
    wire::{KeyRef, Sighting},
};

use crate::ledger::{
    Command, Outcome, Rows, Table,
    log::Entry,
    state::{ChallengeRow, HsmRow, KeyRow, SightingRow, State, decode, evidence::EvidenceRow, key},
    tables::Fault,
};

/// Most entries of one second that are looked through, and most before another one.
const MOST_AT_ONCE: usize = 100_000;

/// How many entries are held in memory, where they are looked through from the newest on.
const PAGE: u64 = 64;

/// What is not in the log any more, or never was.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// No entry of that kind.
    #[error("the log has no opening any more of {0}")]
    Entry(&'static str),
}

/// The numbers of the entries that a token rests on, in order. The token's own signature is for the caller to check.
///
/// # Errors
/// [`Missing`]
pub fn gather(rows: &dyn Rows, claims: &Claims) -> Result<Vec<u64>, Missing> {
    let mut found = Vec::new();
    for appraisal in claims.submods.values() {
        let attestation = &appraisal.attestation;
        let own = attestation.statements.iter().map(|proven| (&attestation.key, proven));
        let master =
            attestation.derived_from.iter().flat_map(|from| from.statements.iter().map(|proven| (&from.key, proven)));
        found.push(enrolment(rows, attestation)?);
        if let Some(claim) = &attestation.evidence {
            found.push(evidence(rows, attestation, &claim.digest)?);
        }
        for (key, proven) in own.chain(master) {
            let [attested, challenge] = attested(rows, proven)?;
            found.extend([key_enrolment(rows, attestation, (key, proven), attested)?, attested, challenge]);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn enrolment(rows: &dyn Rows, attestation: &KeyAttestation) -> Result<u64, Missing> {
    const WHAT: &str = "the HSM's enrolment";
    let row: HsmRow = State(rows).hsm(&attestation.hsm)?.ok_or(Missing::Entry(WHAT))?;
    let ours = |entry: &Entry| {
        let Outcome::Enrolled(enrolment) = &entry.outcome else { return false };
        (&enrolment.hsm, enrolment.revision) == (&attestation.hsm, attestation.enrolment)
    };
    Ok(at(rows, row.enrolled_at, ours)?.ok_or(Missing::Entry(WHAT))?.0)
}

/// The evidence, while it is the newest of the HSM or the key.
fn evidence(rows: &dyn Rows, attestation: &KeyAttestation, wanted: &Digest) -> Result<u64, Missing> {
    for about in [Some(&attestation.key), None] {
        let row: Option<EvidenceRow> = State(rows).get(&key::about(&attestation.hsm, about))?;
        if let Some(good) = row.and_then(|row| row.good)
            && good.appraisal.0.evidence == *wanted
        {
            // Its opening may be gone.
            let found = next(rows, good.sequence)?.filter(|(number, _)| *number == good.sequence);
            return Ok(found.ok_or(Missing::Entry("the evidence"))?.0);
        }
    }
    Err(Missing::Entry("the evidence, since newer was given: ask for another token"))
}

/// Where the instance was enrolled that a statement of the entry `attested` proves: with the key, or later, where its suite was
/// added to the policy since. That a key has a later instance is noted nowhere but in the log. An agent proves it as soon as it
/// is enrolled, and the number of the first proof is known: so it is looked for from there back, and, where the HSM had proven
/// the same under another name before, from the entry itself.
fn key_enrolment(
    rows: &dyn Rows,
    attestation: &KeyAttestation,
    (wanted, proven): (&KeyRef, &ProvenStatement),
    attested: u64,
) -> Result<u64, Missing> {
    const MISSING: Missing = Missing::Entry("the key's enrolment");
    let row: KeyRow = State(rows).get(&key::epoch(&attestation.hsm, wanted))?.ok_or(MISSING)?;
    let proves = |bytes: &Vec<u8>| {
        row.instances.iter().any(|instance| instance.fingerprint == proven.fingerprint && instance.bytes == *bytes)
    };
    let ours = |entry: &Entry| match &entry.submission.command {
        Command::EnrolKey { hsm, key, instances, .. } => {
            (hsm, key, &entry.outcome) == (&attestation.hsm, wanted, &Outcome::Done) && instances.iter().any(proves)
        }
        _ => false,
    };
    if let Some((number, _)) = at(rows, row.enrolled_at, ours)? {
        return Ok(number);
    }
    let seen = Sighting {
        hsm: attestation.hsm.clone(),
        cluster: attestation.cluster.clone(),
        key: wanted.clone(),
        fingerprint: proven.fingerprint,
        envelope: proven.envelope,
    };
    let first: Option<SightingRow> = State(rows).get(&key::sighting(&seen))?;
    for end in first.into_iter().map(|row| row.sequence).chain([attested]) {
        if let Some(number) = newest_before(rows, end, ours)? {
            return Ok(number);
        }
    }
    Err(MISSING)
}

/// The attestation, and the challenge that it answers.
fn attested(rows: &dyn Rows, proven: &ProvenStatement) -> Result<[u64; 2], Missing> {
    let ours = |entry: &Entry| {
        let Command::Attest { digest, .. } = &entry.submission.command else { return false };
        *digest == proven.envelope && matches!(entry.outcome, Outcome::Recorded(_))
    };
    let (attested, entry) = at(rows, proven.proven_at, ours)?.ok_or(Missing::Entry("the attestation"))?;
    const CHALLENGE: Missing = Missing::Entry("the challenge");
    let Command::Attest { envelope, .. } = &entry.submission.command else { return Err(CHALLENGE) };
    let nonce = Envelope::from_bytes(envelope).map_err(|_| CHALLENGE)?.context.challenge;
    let row: ChallengeRow = State(rows).challenge(&nonce)?.ok_or(CHALLENGE)?;
    let given = |entry: &Entry| match (entry.submission.command.bare(), &entry.outcome) {
        (_, Outcome::Challenge(given)) => given.nonce == nonce,
        (Command::IssueChallenges { items, .. }, Outcome::Challenges(given)) => {
            given.nonces().take(items.len()).any(|given| given == nonce)
        }
        _ => false,
    };
    Ok([attested, at(rows, row.issued_at, given)?.ok_or(CHALLENGE)?.0])
}

/// The first entry of a second that is wanted. Times never go back, so that the second is found by halving.
fn at(rows: &dyn Rows, time: Timestamp, wanted: impl Fn(&Entry) -> bool) -> Result<Option<(u64, Entry)>, Fault> {
    let (mut low, mut high) = (1, State(rows).head()?.sequence + 1);
    // The first entry of that second, or later, is in low..=high.
    while low < high {
        let middle = low + (high - low) / 2;
        match next(rows, middle)? {
            Some((_, entry)) if entry.at < time => low = middle + 1,
            _ => high = middle,
        }
    }
    for _ in 0..MOST_AT_ONCE {
        match next(rows, low)? {
            Some((sequence, entry)) if entry.at <= time => {
                if entry.at == time && wanted(&entry) {
                    return Ok(Some((sequence, entry)));
                }
                low = sequence + 1;
            }
            _ => break,
        }
    }
    Ok(None)
}

/// The newest entry before a number that is wanted, of not too many.
fn newest_before(rows: &dyn Rows, end: u64, wanted: impl Fn(&Entry) -> bool) -> Result<Option<u64>, Fault> {
    let (mut end, oldest) = (end, end.saturating_sub(MOST_AT_ONCE as u64).max(1));
    while end > oldest {
        let start = end.saturating_sub(PAGE).max(oldest);
        let page = from(rows, start, PAGE as usize)?;
        let found = page.into_iter().rev().find(|(number, entry)| *number < end && wanted(entry));
        if let Some((number, _)) = found {
            return Ok(Some(number));
        }
        end = start;
    }
    Ok(None)
}

/// The first entry, from that number on, that is still there.
fn next(rows: &dyn Rows, sequence: u64) -> Result<Option<(u64, Entry)>, Fault> {
    Ok(from(rows, sequence, 1)?.pop())
}

/// The first entries, from that number on, that are still there.
fn from(rows: &dyn Rows, sequence: u64, count: usize) -> Result<Vec<(u64, Entry)>, Fault> {
    let read = |(number, value): (Vec<u8>, Vec<u8>)| {
        let number = number.as_slice().try_into().map_or(u64::MAX, u64::from_be_bytes);
        Ok((number, decode(Table::Commands, &value)?))
    };
    rows.range(Table::Commands, &[], &key::number(sequence), count)?.into_iter().map(read).collect()
}
