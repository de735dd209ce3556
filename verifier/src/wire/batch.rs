//! Many challenges, envelopes or questions in one request.
//!
//! A batch saves round trips, signatures and flushes to disk, and decides nothing: each item is answered as it would have
//! been alone, in the order in which it was sent, and no item's refusal touches its neighbours.

use keywitness_circuits::{ClusterId, Error, HsmId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{AttestationState, Challenge, ChallengeRequest, KeyQuery, MAX_BODY, Problem, Record};

/// Longest body of a batch, in bytes.
pub const MAX_BATCH_BODY: usize = 1024 * 1024;

/// Most keys that one batch of challenges names, and most keys that one batch of questions asks about.
pub const MAX_BATCH_KEYS: usize = 4096;

/// Most envelopes in one batch.
pub const MAX_BATCH_ENVELOPES: usize = 1024;

/// Media type of a batch of envelopes: each as in [`super::ENVELOPE_TYPE`], after its length in four bytes, big-endian.
pub const ENVELOPES_TYPE: &str = "application/vnd.keywitness.envelopes";

/// Asks for many challenges.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChallengeBatchRequest {
    /// One item for each claim to be made. All of them together name 1 to [`MAX_BATCH_KEYS`] keys.
    pub items: Vec<ChallengeRequest>,
}

/// Answers [`ChallengeBatchRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChallengeBatch {
    /// One answer for each item, in order.
    pub items: Vec<ChallengeAnswer>,
}

/// What one item of [`ChallengeBatchRequest`] came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChallengeAnswer {
    /// The challenge, for this item's statement and keys and nothing else.
    Challenge(Challenge),
    /// Why there is none.
    Problem(Problem),
}

impl ChallengeAnswer {
    /// The challenge, or why there is none.
    ///
    /// # Errors
    /// The problem.
    pub fn into_result(self) -> Result<Challenge, Problem> {
        match self {
            Self::Challenge(challenge) => Ok(challenge),
            Self::Problem(problem) => Err(problem),
        }
    }
}

impl From<Result<Challenge, Problem>> for ChallengeAnswer {
    fn from(result: Result<Challenge, Problem>) -> Self {
        result.map_or_else(Self::Problem, Self::Challenge)
    }
}

/// Answers a batch of envelopes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttestBatch {
    /// One answer for each envelope, in order.
    pub items: Vec<AttestAnswer>,
}

/// What one envelope of a batch came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttestAnswer {
    /// It was accepted: one record for each key of the claim, in the claim's order.
    Records(Vec<Record>),
    /// It was refused.
    Problem(Problem),
}

impl AttestAnswer {
    /// The records, or why there are none.
    ///
    /// # Errors
    /// The problem.
    pub fn into_result(self) -> Result<Vec<Record>, Problem> {
        match self {
            Self::Records(records) => Ok(records),
            Self::Problem(problem) => Err(problem),
        }
    }
}

impl From<Result<Vec<Record>, Problem>> for AttestAnswer {
    fn from(result: Result<Vec<Record>, Problem>) -> Self {
        result.map_or_else(Self::Problem, Self::Records)
    }
}

/// Joins encoded envelopes into the body of a batch.
pub fn join_envelopes<'a>(envelopes: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut body = Vec::new();
    for envelope in envelopes {
        // Longer ones are cut in length only, and refused whole where they are read.
        let length = u32::try_from(envelope.len()).unwrap_or(u32::MAX);
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(envelope);
    }
    body
}

/// Takes the body of a batch apart, without looking into the envelopes.
///
/// # Errors
/// [`Error::Malformed`] for no envelope or more than [`MAX_BATCH_ENVELOPES`], for one that is longer than
/// [`MAX_BODY`], and for a body that ends within one.
pub fn split_envelopes(body: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let malformed = |why| Error::Malformed { what: "batch of envelopes", why };
    let mut envelopes = Vec::new();
    let mut rest = body;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        if envelopes.len() == MAX_BATCH_ENVELOPES {
            return Err(malformed("it has more than 1024 envelopes"));
        }
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_BODY {
            return Err(malformed("an envelope is too long"));
        }
        let (envelope, after) = after.split_at_checked(length).ok_or(malformed("it ends within an envelope"))?;
        envelopes.push(envelope);
        rest = after;
    }
    match (envelopes.is_empty(), rest.is_empty()) {
        (false, true) => Ok(envelopes),
        (true, true) => Err(malformed("it has no envelope")),
        (_, false) => Err(malformed("it ends within a length")),
    }
}

/// Asks whether many keys are attested.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttestedRequest {
    /// One question for each key: 1 to [`MAX_BATCH_KEYS`].
    pub keys: Vec<KeyQuery>,
}

/// Answers [`AttestedRequest`]: every answer is about one state of the manager, at one time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttestedBatch {
    /// The manager's time.
    pub now: Timestamp,
    /// One answer for each question, in order.
    pub keys: Vec<AttestedAnswer>,
}

/// What one question of [`AttestedRequest`] came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttestedAnswer {
    /// Whether the key is attested.
    Key(BriefStatus),
    /// Why that cannot be said.
    Problem(Problem),
}

/// Whether a key is attested: what a relying party decides on, and no more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BriefStatus {
    /// The key's cluster.
    pub cluster: ClusterId,
    /// Whether at least one HSM attests it now.
    pub attested: bool,
    /// One entry for each HSM.
    pub hsms: Vec<BriefHsm>,
}

/// One key in one HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BriefHsm {
    /// The HSM.
    pub hsm: HsmId,
    /// The key's newest epoch in it.
    pub epoch: u32,
    /// What the evidence comes to.
    pub state: AttestationState,
    /// When the first of the required records expires; none where one is missing.
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_batch_of_envelopes_comes_apart_as_it_was_joined() {
        let parts: Vec<&[u8]> = vec![b"one", b"", b"three"];
        let body = join_envelopes(parts.iter().copied());
        assert_eq!(split_envelopes(&body).unwrap(), parts);
        // Every other cut of it is refused, or ends at an envelope's end.
        for end in 0..body.len() {
            let whole = split_envelopes(body.get(..end).unwrap());
            assert_eq!(whole.is_ok(), [7, 11].contains(&end), "{end}");
        }
    }

    #[test]
    fn no_batch_is_larger_than_it_may_be() {
        let most = join_envelopes(std::iter::repeat_n(b"".as_slice(), MAX_BATCH_ENVELOPES));
        assert_eq!(split_envelopes(&most).unwrap().len(), MAX_BATCH_ENVELOPES);
        let more = [most, vec![0; 4]].concat();
        split_envelopes(&more).unwrap_err();
        let long = vec![0; MAX_BODY + 1];
        split_envelopes(&join_envelopes([long.as_slice()])).unwrap_err();
        split_envelopes(&join_envelopes([long.get(1..).unwrap()])).unwrap();
        split_envelopes(&[0xff; 4]).unwrap_err();
    }
}
