//! The log's Merkle tree as it grows (RFC 6962, section 2.1), of which only the roots of whole subtrees are kept.

use keywitness_circuits::Digest;
use sha2::{Digest as _, Sha256};

/// A tree that leaves are appended to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tree {
    size: u64,
    /// Roots of the whole subtrees, largest first: one for each bit of the size that is set.
    roots: Vec<Digest>,
}

impl Tree {
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Appends an entry of the log: what its leaf is the hash of.
    pub(crate) fn push(&mut self, entry: &Digest) {
        let mut node = hash(&[&[0], &entry.0]);
        let mut size = self.size;
        while size & 1 == 1
            && let Some(left) = self.roots.pop()
        {
            node = hash(&[&[1], &left.0, &node.0]);
            size >>= 1;
        }
        self.roots.push(node);
        self.size += 1;
    }

    /// The root over all entries.
    pub(crate) fn root(&self) -> Digest {
        let mut roots = self.roots.iter().rev();
        let Some(smallest) = roots.next() else { return hash(&[]) };
        roots.fold(*smallest, |right, left| hash(&[&[1], &left.0, &right.0]))
    }
}

fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    Digest(hasher.finalize().into())
}
