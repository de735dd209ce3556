//! Finding what a token rests on in the log.

use keywitness_circuits::{Envelope, Timestamp, codec::Canonical};
use keywitness_verifier::{
    token::{Claims, KeyAttestation, ProvenStatement},
    wire::KeyRef,
};

use crate::ledger::{
    Command, Outcome, Rows, Table,
    log::Entry,
    state::{ChallengeRow, HsmRow, KeyRow, State, decode, key},
    tables::Fault,
};

/// Most entries of one second that are looked through.
const MOST_AT_ONCE: usize = 100_000;

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
        for (key, proven) in own.chain(master) {
            found.push(key_enrolment(rows, attestation, key)?);
            found.extend(attested(rows, proven)?);
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

fn key_enrolment(rows: &dyn Rows, attestation: &KeyAttestation, wanted: &KeyRef) -> Result<u64, Missing> {
    const WHAT: &str = "the key's enrolment";
    let row: Option<KeyRow> = State(rows).get(&key::epoch(&attestation.hsm, wanted))?;
    let ours = |entry: &Entry| match &entry.submission.command {
        Command::EnrolKey { hsm, key, .. } => (hsm, key, &entry.outcome) == (&attestation.hsm, wanted, &Outcome::Done),
        _ => false,
    };
    Ok(at(rows, row.ok_or(Missing::Entry(WHAT))?.enrolled_at, ours)?.ok_or(Missing::Entry(WHAT))?.0)
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

/// The first entry, from that number on, that is still there.
fn next(rows: &dyn Rows, sequence: u64) -> Result<Option<(u64, Entry)>, Fault> {
    let found = rows.range(Table::Commands, &[], &key::number(sequence), 1)?;
    let Some((number, value)) = found.first() else { return Ok(None) };
    let number = number.as_slice().try_into().map_or(u64::MAX, u64::from_be_bytes);
    Ok(Some((number, decode(Table::Commands, value)?)))
}
