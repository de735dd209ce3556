//! The Merkle tree of RFC 6962, section 2: roots, inclusion proofs and consistency proofs, made and checked.

use keywitness_circuits::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a proof does not show what it was to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The numbers make no sense together.
    #[error("no proof can show this: the numbers are out of range")]
    OutOfRange,
    /// The proof has too many hashes, or too few.
    #[error("the proof has the wrong number of hashes")]
    Length,
    /// The proof leads to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// A perfect subtree: of `2^height` leaves, the first of which is leaf `index · 2^height`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// 0 for a leaf.
    pub height: u8,
    /// From the left, from 0.
    pub index: u64,
}

/// The root of the tree without leaves.
pub fn empty_root() -> Digest {
    Digest(Sha256::digest([]).into())
}

/// The hash of a leaf with this entry.
pub fn leaf_hash(entry: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

/// The hash over two subtrees.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The perfect subtrees that a tree consists of, largest first: one for each bit of its size. All that a tree needs to
/// grow, and its root.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "(u64, Vec<Digest>)", into = "(u64, Vec<Digest>)")]
pub struct CompactRange {
    size: u64,
    hashes: Vec<Digest>,
}

impl TryFrom<(u64, Vec<Digest>)> for CompactRange {
    type Error = &'static str;
    fn try_from((size, hashes): (u64, Vec<Digest>)) -> Result<Self, Self::Error> {
        if hashes.len() != size.count_ones() as usize {
            return Err("a compact range has one hash for each bit of its size");
        }
        Ok(Self { size, hashes })
    }
}

impl From<CompactRange> for (u64, Vec<Digest>) {
    fn from(range: CompactRange) -> Self {
        (range.size, range.hashes)
    }
}

impl CompactRange {
    /// How many leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    pub fn root(&self) -> Digest {
        let mut hashes = self.hashes.iter().rev();
        let Some(last) = hashes.next() else { return empty_root() };
        hashes.fold(*last, |right, left| node_hash(left, &right))
    }

    /// Adds a leaf by its hash, and tells of every perfect subtree that this completes, the leaf itself first.
    pub fn append(&mut self, leaf: Digest, mut completed: impl FnMut(Node, &Digest)) {
        let mut hash = leaf;
        let mut node = Node { height: 0, index: self.size };
        completed(node, &hash);
        while node.index & 1 == 1 {
            // A set bit of the size has its hash.
            let Some(left) = self.hashes.pop() else { break };
            hash = node_hash(&left, &hash);
            node = Node { height: node.height + 1, index: node.index >> 1 };
            completed(node, &hash);
        }
        self.hashes.push(hash);
        self.size += 1;
    }
}

/// The greatest power of two below `size`, which is at least 2.
const fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// The root over the leaves from `start` to before `end`, where `start` is a multiple of the largest power of two that
/// fits between.
fn root_of<E>(start: u64, end: u64, read: &mut dyn FnMut(Node) -> Result<Digest, E>) -> Result<Digest, E> {
    let mut hashes = Vec::new();
    let mut at = start;
    while at < end {
        let height = u64::BITS - 1 - (end - at).leading_zeros();
        hashes.push(read(Node { height: height as u8, index: at >> height })?);
        at += 1 << height;
    }
    let mut hashes = hashes.into_iter().rev();
    let Some(last) = hashes.next() else { return Ok(empty_root()) };
    Ok(hashes.fold(last, |right, left| node_hash(&left, &right)))
}

/// Proves that leaf `index` is in the tree of the first `size` leaves (RFC 6962, section 2.1.1). `read` gives the hash of a
/// perfect subtree within that tree. No proof where `index` is not below `size`.
///
/// # Errors
/// Those of `read`.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    mut read: impl FnMut(Node) -> Result<Digest, E>,
) -> Result<Option<Vec<Digest>>, E> {
    if index >= size {
        return Ok(None);
    }
    let (mut start, mut end, mut proof) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(root_of(middle, end, &mut read)?);
            end = middle;
        } else {
            proof.push(root_of(start, middle, &mut read)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(Some(proof))
}

/// Proves that the tree of the first `new` leaves begins with that of the first `old` (RFC 6962, section 2.1.2). No proof
/// where `old` is above `new`.
///
/// # Errors
/// Those of `read`.
pub fn consistency_proof<E>(
    old: u64,
    new: u64,
    mut read: impl FnMut(Node) -> Result<Digest, E>,
) -> Result<Option<Vec<Digest>>, E> {
    if old > new {
        return Ok(None);
    }
    let (mut start, mut end, mut proof) = (0, new, Vec::new());
    if old > 0 {
        while old != end {
            let middle = start + split(end - start);
            if old <= middle {
                proof.push(root_of(middle, end, &mut read)?);
                end = middle;
            } else {
                proof.push(root_of(start, middle, &mut read)?);
                start = middle;
            }
        }
        // The verifier knows the old root itself.
        if start > 0 {
            proof.push(root_of(start, end, &mut read)?);
        }
    }
    proof.reverse();
    Ok(Some(proof))
}

/// Checks that the leaf of this hash is number `index` of the tree (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// [`ProofError`]
pub fn verify_inclusion(
    leaf: &Digest,
    index: u64,
    (size, root): (u64, &Digest),
    proof: &[Digest],
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange);
    }
    let (mut left, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if left & 1 == 1 || left == last {
            hash = node_hash(sibling, &hash);
            climb(&mut left, &mut last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (left, last) = (left >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Leaves out the levels at which the rightmost node has no sibling.
const fn climb(left: &mut u64, last: &mut u64) {
    while *left & 1 == 0 && *left != 0 {
        *left >>= 1;
        *last >>= 1;
    }
}

/// Checks that the tree of `new` leaves begins with that of `old` leaves (RFC 9162, section 2.1.4.2). Every tree begins with
/// the empty one.
///
/// # Errors
/// [`ProofError`]
pub fn verify_consistency(
    (old, old_root): (u64, &Digest),
    (new, new_root): (u64, &Digest),
    proof: &[Digest],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::OutOfRange);
    }
    if old == 0 || old == new {
        let expected = if old == new { *new_root } else { empty_root() };
        return match (proof.is_empty(), *old_root == expected) {
            (true, true) => Ok(()),
            (true, false) => Err(ProofError::Root),
            (false, _) => Err(ProofError::Length),
        };
    }
    let (first, rest) = match proof.split_first() {
        // The old tree is one perfect subtree: the proof need not repeat its root.
        _ if old.is_power_of_two() => (old_root, proof),
        Some(found) => found,
        None => return Err(ProofError::Length),
    };
    let (mut left, mut last) = (old - 1, new - 1);
    let shift = left.trailing_ones();
    (left, last) = (left >> shift, last >> shift);
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if left & 1 == 1 || left == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            climb(&mut left, &mut last);
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        (left, last) = (left >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if old_hash == *old_root && new_hash == *new_root { Ok(()) } else { Err(ProofError::Root) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::{collections::HashMap, convert::Infallible};

    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    /// RFC 6962, section 2.1, word for word.
    fn naive(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
                node_hash(&naive(left), &naive(right))
            }
        }
    }

    fn leaves(count: u64) -> Vec<Digest> {
        (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
    }

    struct Tree(HashMap<Node, Digest>, CompactRange);

    impl Tree {
        fn of(leaves: &[Digest]) -> Self {
            let mut tree = Self(HashMap::new(), CompactRange::default());
            for leaf in leaves {
                tree.1.append(*leaf, |node, hash| {
                    tree.0.insert(node, *hash);
                });
            }
            tree
        }

        fn inclusion(&self, index: u64, size: u64) -> Vec<Digest> {
            inclusion_proof(index, size, |node| Ok::<_, Infallible>(self.0[&node])).unwrap().unwrap()
        }

        fn consistency(&self, old: u64, new: u64) -> Vec<Digest> {
            consistency_proof(old, new, |node| Ok::<_, Infallible>(self.0[&node])).unwrap().unwrap()
        }
    }

    /// The leaves and roots of the reference implementation of RFC 6962 (certificate-transparency, merkletree tests).
    #[test]
    fn roots_are_those_of_the_reference_implementation() {
        let entries =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut range = CompactRange::default();
        assert_eq!(
            HEXLOWER.encode(&range.root().0),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for (entry, root) in entries.into_iter().zip(roots) {
            range.append(leaf_hash(&HEXLOWER.decode(entry.as_bytes()).unwrap()), |_, _| {});
            assert_eq!(HEXLOWER.encode(&range.root().0), root);
        }
    }

    /// Every tree of up to 40 leaves: every proof verifies, in its place alone, and no other does.
    #[test]
    fn every_proof_of_small_trees() {
        let leaves = leaves(40);
        let tree = Tree::of(&leaves);
        for size in 1..=40_u64 {
            let root = naive(&leaves[..size as usize]);
            for index in 0..size {
                let (leaf, proof) = (leaves[index as usize], tree.inclusion(index, size));
                verify_inclusion(&leaf, index, (size, &root), &proof).unwrap();
                for wrong in (0..size).filter(|wrong| *wrong != index) {
                    verify_inclusion(&leaf, wrong, (size, &root), &proof).unwrap_err();
                }
                let longer = [proof.as_slice(), &[root]].concat();
                verify_inclusion(&leaf, index, (size, &root), &longer).unwrap_err();
                if let Some((_, shorter)) = proof.split_last() {
                    assert_eq!(verify_inclusion(&leaf, index, (size, &root), shorter), Err(ProofError::Length));
                }
            }
            for old in 0..=size {
                let old_root = naive(&leaves[..old as usize]);
                let proof = tree.consistency(old, size);
                verify_consistency((old, &old_root), (size, &root), &proof).unwrap();
                let longer = [proof.as_slice(), &[root]].concat();
                verify_consistency((old, &old_root), (size, &root), &longer).unwrap_err();
                verify_consistency((old, &leaf_hash(b"else")), (size, &root), &proof).unwrap_err();
                if old > 0 {
                    verify_consistency((old, &old_root), (size, &leaf_hash(b"else")), &proof).unwrap_err();
                }
                if let Some((_, shorter)) = proof.split_last() {
                    verify_consistency((old, &old_root), (size, &root), shorter).unwrap_err();
                }
            }
        }
        let root = naive(&leaves);
        assert_eq!(verify_inclusion(&leaves[0], 40, (40, &root), &[]), Err(ProofError::OutOfRange));
        assert_eq!(verify_consistency((41, &root), (40, &root), &[]), Err(ProofError::OutOfRange));
        let none = |_| Err(());
        assert_eq!((inclusion_proof(40, 40, none), consistency_proof(41, 40, none)), (Ok(None), Ok(None)));
    }

    #[test]
    fn a_compact_range_has_one_encoding() {
        let range = Tree::of(&leaves(13)).1;
        let text = serde_json::to_string(&range).unwrap();
        assert_eq!(serde_json::from_str::<CompactRange>(&text).unwrap(), range);
        serde_json::from_str::<CompactRange>(&text.replacen("13", "12", 1)).unwrap_err();
    }

    proptest! {
        #[test]
        fn proofs_of_larger_trees_and_with_a_flipped_bit(size in 1_u64..3000, at: u64, old: u64, bit: usize) {
            let (index, old) = (at % size, old % (size + 1));
            let leaves = leaves(size);
            let tree = Tree::of(&leaves);
            let root = naive(&leaves);
            prop_assert_eq!(tree.1.root(), root);
            let old_root = naive(&leaves[..old as usize]);
            let mut proof = tree.inclusion(index, size);
            let leaf = leaves[index as usize];
            prop_assert!(verify_inclusion(&leaf, index, (size, &root), &proof).is_ok());
            if !proof.is_empty() {
                let at = bit % proof.len();
                proof[at].0[bit % 32] ^= 1 << (bit % 8);
                prop_assert_eq!(verify_inclusion(&leaf, index, (size, &root), &proof), Err(ProofError::Root));
            }
            let mut proof = tree.consistency(old, size);
            prop_assert!(verify_consistency((old, &old_root), (size, &root), &proof).is_ok());
            if !proof.is_empty() {
                let at = bit % proof.len();
                proof[at].0[bit % 32] ^= 1 << (bit % 8);
                prop_assert!(verify_consistency((old, &old_root), (size, &root), &proof).is_err());
            }
        }

        #[test]
        fn whatever_is_claimed_is_refused_without_a_panic(
            old: u64, new: u64, hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..70),
        ) {
            let proof: Vec<_> = hashes.into_iter().map(Digest).collect();
            let (one, other) = (leaf_hash(b"one"), leaf_hash(b"other"));
            prop_assert!(verify_consistency((old, &one), (new, &other), &proof).is_err());
            prop_assert!(verify_inclusion(&one, old, (new, &other), &proof).is_err());
        }
    }
}
