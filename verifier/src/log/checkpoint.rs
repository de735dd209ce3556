//! Checkpoints: a log's size and root, signed (C2SP tlog-checkpoint), and who must have signed one for it to count.

use std::{fmt, str::FromStr};

use data_encoding::BASE64;
use keywitness_circuits::{Digest, Error, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Algorithm, ProofError, from_base64, malformed,
    note::{Note, VerifierKey},
};
use crate::identity::Audience;

const fn wrong(why: &'static str) -> Error {
    malformed("checkpoint", why)
}

/// What an extension line with a state seal begins with.
const STATE: &str = "state ";

/// The root over everything that the manager knew after a command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct StateSeal {
    /// Number of that command.
    pub sequence: u64,
    /// The root over all rows of the state.
    pub root: Digest,
}

/// A log's size and root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The log: also the name of the key that signs for it.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// The root of the tree of the first `size` leaves.
    pub root: Digest,
    /// The newest seal that is ordered in that tree.
    pub state: Option<StateSeal>,
}

impl Checkpoint {
    /// What names the log of a manager: its trust domain and its own name.
    pub fn origin_of(audience: &Audience) -> String {
        format!("{}/{}", audience.trust_domain, audience.manager)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, BASE64.encode(&self.root.0))?;
        match &self.state {
            None => Ok(()),
            Some(seal) => writeln!(f, "{STATE}{} {}", seal.sequence, BASE64.encode(&seal.root.0)),
        }
    }
}

impl FromStr for Checkpoint {
    type Err = Error;

    /// Reads a note's text. Extension lines other than one with a state seal are refused: nothing that is signed for
    /// shall go unread.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut lines = text.strip_suffix('\n').ok_or(wrong("its last line does not end"))?.split('\n');
        let mut line = || lines.next().ok_or(wrong("it has fewer than three lines"));
        let origin = line()?.to_owned();
        let size = number(line()?)?;
        let root = hash(line()?)?;
        let state = lines.next().map(seal).transpose()?;
        if origin.is_empty() || lines.next().is_some() {
            return Err(wrong("it has an empty origin, or lines of unknown meaning"));
        }
        Ok(Self { origin, size, root, state })
    }
}

fn seal(line: &str) -> Result<StateSeal, Error> {
    let form = wrong("its extension line is not state <sequence> <root>");
    let (sequence, root) = line.strip_prefix(STATE).and_then(|rest| rest.split_once(' ')).ok_or(form)?;
    Ok(StateSeal { sequence: number(sequence)?, root: hash(root)? })
}

/// A decimal number as its own `Display` writes it.
pub(super) fn number(text: &str) -> Result<u64, Error> {
    let parsed: Option<u64> = text.parse().ok();
    parsed.filter(|number| number.to_string() == text).ok_or(wrong("a number is not canonical"))
}

/// A hash in base64.
pub(super) fn hash(text: &str) -> Result<Digest, Error> {
    let bytes = from_base64(text).and_then(|bytes| bytes.try_into().ok());
    bytes.map(Digest).ok_or(wrong("a hash is not 32 bytes in base64"))
}

/// Why a checkpoint does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTrusted {
    /// It cannot be read, or a signature of a known key does not verify.
    #[error(transparent)]
    Malformed(#[from] Error),
    /// It is of another log.
    #[error("the checkpoint is of the log {found}, not of {expected}")]
    OtherLog {
        /// Whose it is.
        found: String,
        /// Whose was asked for.
        expected: String,
    },
    /// The log's key did not sign it.
    #[error("the log's key did not sign the checkpoint")]
    Unsigned,
    /// Too few witnesses have cosigned it.
    #[error("{found} of the witnesses have cosigned the checkpoint, and {needed} must")]
    TooFewWitnesses {
        /// How many have.
        found: usize,
        /// How many must.
        needed: usize,
    },
    /// A proof of what is in the log does not verify.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The policy itself makes no sense.
    #[error("{0}")]
    Policy(&'static str),
}

/// Who must have signed a checkpoint: the log, and `threshold` of the witnesses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointPolicy {
    log: VerifierKey,
    witnesses: Vec<VerifierKey>,
    threshold: usize,
}

impl CheckpointPolicy {
    /// A policy.
    ///
    /// # Errors
    /// [`NotTrusted::Policy`] for a threshold above the number of witnesses, and for keys of the wrong algorithm. One public
    /// key under two names would count twice (a name is not signed), and is refused.
    pub fn new(log: VerifierKey, witnesses: Vec<VerifierKey>, threshold: usize) -> Result<Self, NotTrusted> {
        if log.algorithm() != Algorithm::Ed25519 {
            return Err(NotTrusted::Policy("the log's key must be an Ed25519 key, not one of a witness"));
        }
        if witnesses.iter().any(|key| key.algorithm() != Algorithm::CosignatureV1) {
            return Err(NotTrusted::Policy("a witness's key must be a cosignature/v1 key"));
        }
        let mut keys: Vec<_> = witnesses.iter().map(VerifierKey::public_key).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.len() != witnesses.len() {
            return Err(NotTrusted::Policy("two witnesses have the same key"));
        }
        if threshold > witnesses.len() {
            return Err(NotTrusted::Policy("more cosignatures are asked for than there are witnesses"));
        }
        Ok(Self { log, witnesses, threshold })
    }

    /// A policy that trusts the log alone, which may show different trees to different people.
    ///
    /// # Errors
    /// [`NotTrusted::Policy`] for a witness's key.
    pub fn log_alone(log: VerifierKey) -> Result<Self, NotTrusted> {
        Self::new(log, Vec::new(), 0)
    }

    /// The witnesses' keys.
    pub fn witnesses(&self) -> &[VerifierKey] {
        &self.witnesses
    }

    /// The log's key.
    pub const fn log(&self) -> &VerifierKey {
        &self.log
    }

    /// Checks a note.
    ///
    /// # Errors
    /// [`NotTrusted`]; also where one of the witnesses' signatures is there and does not verify.
    pub fn verify(&self, note: &Note) -> Result<VerifiedCheckpoint, NotTrusted> {
        if note.signed_by(&self.log)?.is_none() {
            return Err(NotTrusted::Unsigned);
        }
        let checkpoint: Checkpoint = note.text().parse()?;
        if checkpoint.origin != self.log.name() {
            let expected = self.log.name().to_owned();
            return Err(NotTrusted::OtherLog { found: checkpoint.origin, expected });
        }
        let mut cosigned = Vec::new();
        for witness in &self.witnesses {
            if let Some(Some(time)) = note.signed_by(witness)? {
                cosigned.push((witness.name().to_owned(), time));
            }
        }
        if cosigned.len() < self.threshold {
            return Err(NotTrusted::TooFewWitnesses { found: cosigned.len(), needed: self.threshold });
        }
        Ok(VerifiedCheckpoint { checkpoint, cosigned })
    }
}

/// A checkpoint that everyone signed who must. Only [`CheckpointPolicy::verify`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedCheckpoint {
    checkpoint: Checkpoint,
    cosigned: Vec<(String, Timestamp)>,
}

impl VerifiedCheckpoint {
    /// The checkpoint.
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The witnesses that cosigned it, and when by their clocks.
    pub fn cosigned(&self) -> &[(String, Timestamp)] {
        &self.cosigned
    }

    /// How many leaves, and the root: what proofs are checked against.
    pub const fn tree(&self) -> (u64, &Digest) {
        (self.checkpoint.size, &self.checkpoint.root)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::log::NoteKey;

    const ORIGIN: &str = "acme.example/m1";

    fn key(name: &str, algorithm: Algorithm, seed: u8) -> NoteKey {
        NoteKey::new(name, algorithm, &[seed; 32]).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        let state = Some(StateSeal { sequence: 5, root: Digest([2; 32]) });
        Checkpoint { origin: ORIGIN.to_owned(), size: 7, root: Digest([1; 32]), state }
    }

    fn note(signers: &[&NoteKey]) -> Note {
        let mut note = Note::new(checkpoint().to_string()).unwrap();
        for signer in signers {
            note.add(signer.sign(note.text(), Timestamp(9)));
        }
        note
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let read: Checkpoint = text.parse().unwrap();
        assert_eq!((read.size, read.state, read.to_string().as_str()), (20_852_163, None, text));
        let note = format!(
            "{text}\n— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        );
        assert_eq!(note.parse::<Note>().unwrap().text(), text);
    }

    #[test]
    fn k_of_the_witnesses_must_have_cosigned() {
        let log = key(ORIGIN, Algorithm::Ed25519, 1);
        let witnesses: Vec<_> = (2..5).map(|seed| key("w", Algorithm::CosignatureV1, seed)).collect();
        let keys: Vec<_> = witnesses.iter().map(|witness| witness.verifier().clone()).collect();
        let policy = |k| CheckpointPolicy::new(log.verifier().clone(), keys.clone(), k).unwrap();
        let cosigned = note(&[&log, &witnesses[0], &witnesses[2]]);
        let verified = policy(2).verify(&cosigned).unwrap();
        assert_eq!((verified.checkpoint(), verified.cosigned().len()), (&checkpoint(), 2));
        assert_eq!(policy(3).verify(&cosigned), Err(NotTrusted::TooFewWitnesses { found: 2, needed: 3 }));
        assert_eq!(policy(0).verify(&note(&[&witnesses[0]])), Err(NotTrusted::Unsigned));
        // A stranger's cosignature counts for nothing.
        let stranger = key("w", Algorithm::CosignatureV1, 9);
        assert!(matches!(policy(1).verify(&note(&[&log, &stranger])), Err(NotTrusted::TooFewWitnesses { .. })));
        // A cosignature that was tampered with spoils the note.
        let spoiled = cosigned.to_string().replacen("\n7\n", "\n8\n", 1).parse().unwrap();
        assert!(matches!(policy(0).verify(&spoiled), Err(NotTrusted::Malformed(_))));
        let other = key("acme.example/m2", Algorithm::Ed25519, 1);
        let elsewhere = CheckpointPolicy::log_alone(other.verifier().clone()).unwrap();
        assert!(matches!(elsewhere.verify(&note(&[&other])), Err(NotTrusted::OtherLog { .. })));
    }

    #[test]
    fn a_policy_that_counts_one_key_twice_is_refused() {
        let log = key(ORIGIN, Algorithm::Ed25519, 1).verifier().clone();
        let [one, same] = ["w1", "w2"].map(|name| key(name, Algorithm::CosignatureV1, 2).verifier().clone());
        let refused = |result: Result<CheckpointPolicy, NotTrusted>| matches!(result, Err(NotTrusted::Policy(_)));
        assert!(refused(CheckpointPolicy::new(log.clone(), vec![one.clone(), same], 2)));
        assert!(refused(CheckpointPolicy::new(log.clone(), vec![one.clone()], 2)));
        assert!(refused(CheckpointPolicy::new(log.clone(), vec![log], 1)));
        assert!(refused(CheckpointPolicy::log_alone(one)));
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let good = checkpoint().to_string();
        assert_eq!(good.parse::<Checkpoint>().unwrap(), checkpoint());
        let root = BASE64.encode(&[1; 32]);
        for wrong in [
            String::new(),
            "a\n".to_owned(),
            "a\n1\n".to_owned(),
            format!("\n1\n{root}\n"),
            format!("a\n01\n{root}\n"),
            format!("a\n+1\n{root}\n"),
            format!("a\n-1\n{root}\n"),
            format!("a\n18446744073709551616\n{root}\n"),
            format!("a\n1\n{root}"),
            format!("a\n1\n{}\n", BASE64.encode(&[1; 31])),
            format!("a\n1\n{}{}\n", BASE64.encode(&[1; 29]), BASE64.encode(&[1; 3])),
            format!("a\n1\n{root}\n\n"),
            format!("a\n1\n{root}\nother 1\n"),
            format!("a\n1\n{root}\nstate 01 {root}\n"),
            format!("a\n1\n{root}\nstate 1 {root}\nstate 1 {root}\n"),
        ] {
            assert!(wrong.parse::<Checkpoint>().is_err(), "{wrong:?}");
        }
    }
}
