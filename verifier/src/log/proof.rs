//! A proof that travels alone: an entry's place in a log, under a cosigned checkpoint (C2SP tlog-proof).

use std::{fmt, str::FromStr};

use data_encoding::BASE64;
use keywitness_circuits::{Digest, Error};

use super::{
    CheckpointPolicy, NotTrusted, VerifiedCheckpoint,
    checkpoint::{hash, number},
    from_base64, malformed,
    note::{MAX_NOTE, Note},
    tree::{leaf_hash, verify_inclusion},
};

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// No path in a tree is longer.
const MAX_HASHES: usize = 64;

const fn wrong(why: &'static str) -> Error {
    malformed("log proof", why)
}

/// Where an entry is in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlogProof {
    /// Data that the proof does not cover.
    pub extra: Option<Vec<u8>>,
    /// The entry's number, from 0.
    pub index: u64,
    /// From the leaf to the root.
    pub hashes: Vec<Digest>,
    /// The signed checkpoint.
    pub checkpoint: Note,
}

impl TlogProof {
    /// Checks that `entry` is where the proof says, in a tree whose checkpoint counts.
    ///
    /// # Errors
    /// [`NotTrusted`]
    pub fn verify(&self, policy: &CheckpointPolicy, entry: &[u8]) -> Result<VerifiedCheckpoint, NotTrusted> {
        let verified = policy.verify(&self.checkpoint)?;
        verify_inclusion(&leaf_hash(entry), self.index, verified.tree(), &self.hashes)?;
        Ok(verified)
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", BASE64.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", BASE64.encode(&hash.0))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > 2 * MAX_NOTE {
            return Err(wrong("it is too long"));
        }
        let (head, note) = text.split_once("\n\n").ok_or(wrong("no empty line is before its checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(wrong("it does not begin with c2sp.org/tlog-proof@v1"));
        }
        let extra = match lines.next_if(|line| line.starts_with("extra ")).and_then(|line| line.strip_prefix("extra "))
        {
            Some(text) => Some(from_base64(text).ok_or(wrong("its extra data is not base64"))?),
            None => None,
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(wrong("it has no index"))?;
        let hashes = lines.take(MAX_HASHES + 1).map(hash).collect::<Result<Vec<_>, _>>()?;
        if hashes.len() > MAX_HASHES {
            return Err(wrong("it has too many hashes"));
        }
        Ok(Self { extra, index: number(index)?, hashes, checkpoint: note.parse()? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use keywitness_circuits::Timestamp;

    use super::*;
    use crate::log::{Algorithm, Checkpoint, CompactRange, NoteKey, inclusion_proof};

    #[test]
    fn a_proof_travels_as_text_and_holds_for_its_entry_alone() {
        let key = NoteKey::new("o.example/m", Algorithm::Ed25519, &[1; 32]).unwrap();
        let (mut tree, mut nodes) = (CompactRange::default(), std::collections::HashMap::new());
        for number in 0..11_u8 {
            tree.append(leaf_hash(&[number]), |node, hash| {
                nodes.insert(node, *hash);
            });
        }
        let checkpoint = Checkpoint { origin: "o.example/m".to_owned(), size: 11, root: tree.root(), state: None };
        let mut note = Note::new(checkpoint.to_string()).unwrap();
        note.add(key.sign(note.text(), Timestamp(0)));
        let hashes = inclusion_proof(9, 11, |node| nodes.get(&node).copied().ok_or(())).unwrap().unwrap();
        let proof = TlogProof { extra: Some(b"opening".to_vec()), index: 9, hashes, checkpoint: note };
        let text = proof.to_string();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra b3BlbmluZw==\nindex 9\n"));
        let read: TlogProof = text.parse().unwrap();
        assert_eq!((&read, read.to_string()), (&proof, text.clone()));
        let policy = CheckpointPolicy::log_alone(key.verifier().clone()).unwrap();
        assert_eq!(read.verify(&policy, &[9]).unwrap().tree(), (11, &tree.root()));
        assert!(matches!(read.verify(&policy, &[8]), Err(NotTrusted::Proof(_))));
        let moved = TlogProof { index: 8, ..read };
        assert!(matches!(moved.verify(&policy, &[9]), Err(NotTrusted::Proof(_))));
        for (from, to) in [("@v1", "@v2"), ("index 9", "index 09"), ("extra ", "extra  ")] {
            assert!(text.replacen(from, to, 1).parse::<TlogProof>().is_err(), "{from}");
        }
        let plain = TlogProof { extra: None, ..proof };
        assert_eq!(plain.to_string().parse::<TlogProof>().unwrap(), plain);
        let hashes = format!("{}\n", BASE64.encode(&[0; 32])).repeat(MAX_HASHES);
        assert!(text.replacen("\n\n", &format!("\n{hashes}\n"), 1).parse::<TlogProof>().is_err());
    }
}
