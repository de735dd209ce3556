//! The log's Merkle tree in the store: it grows with every command, and every hash of it can be read.
//!
//! The frontier (at most 64 hashes) is what the tree grows from. Of the subtrees inside only those of height 8, 16, 24
//! and so on are kept, which is what tiles above level 0 are made of; the rest is made from entries and these.

use keywitness_circuits::Digest;
use keywitness_verifier::log::{
    CompactRange, Node, TILE_HEIGHT, TILE_WIDTH, Tile, TileKind, consistency_proof, inclusion_proof, leaf_hash,
};

use super::{
    state::{self, State, corrupt, key, log::Frontier},
    tables::{Fault, Rows, Table, Tables},
};

/// Adds the entry of command `sequence`.
pub(crate) fn append(tables: &mut dyn Tables, sequence: u64, entry: &Digest) -> Result<(), Fault> {
    let Frontier(mut range) = State(tables).get(key::ONLY)?.unwrap_or_default();
    if range.size() + 1 != sequence {
        return Err(corrupt(Table::Frontier, "the tree has not one leaf for each command"));
    }
    let mut whole = Vec::new();
    range.append(leaf_hash(&entry.0), |node, hash| {
        if node.height > 0 && node.height % TILE_HEIGHT == 0 {
            whole.push((node, *hash));
        }
    });
    for (node, hash) in whole {
        tables.put(Table::Subtrees, &key::subtree(node.height / TILE_HEIGHT, node.index), &hash.0)?;
    }
    state::put(tables, key::ONLY, &Frontier(range))
}

/// The tree, as far as a view has it.
#[derive(Clone, Copy)]
pub struct Tree<'a>(pub &'a dyn Rows);

impl Tree<'_> {
    /// How large it is, and its root.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn range(&self) -> Result<CompactRange, Fault> {
        Ok(State(self.0).get::<Frontier>(key::ONLY)?.unwrap_or_default().0)
    }

    /// Entries, from number `start` on, from 0.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] where fewer are there.
    pub fn entries(&self, start: u64, count: u64) -> Result<Vec<Digest>, Fault> {
        // Leaves are under their commands' numbers, from 1.
        self.hashes(Table::Leaves, &key::number(start + 1), count)
    }

    fn hashes(&self, table: Table, start: &[u8], count: u64) -> Result<Vec<Digest>, Fault> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let rows = self.0.range(table, &[], start, count)?;
        let hash = |value: &[u8]| value.try_into().map(Digest).map_err(|_| corrupt(table, "a hash has not 32 bytes"));
        let contiguous = rows.first().is_none_or(|(key, _)| key == start);
        if rows.len() != count || !contiguous {
            return Err(corrupt(table, "a hash of the tree is missing"));
        }
        rows.iter().map(|(_, value)| hash(value)).collect()
    }

    /// Hashes of perfect subtrees of height 8·level.
    fn level(&self, level: u8, start: u64, count: u64) -> Result<Vec<Digest>, Fault> {
        match level {
            0 => Ok(self.entries(start, count)?.iter().map(|entry| leaf_hash(&entry.0)).collect()),
            _ => self.hashes(Table::Subtrees, &key::subtree(level, start), count),
        }
    }

    /// The hash of a perfect subtree that is whole.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] where it is not.
    pub fn node(&self, Node { height, index }: Node) -> Result<Digest, Fault> {
        let (level, above) = (height / TILE_HEIGHT, height % TILE_HEIGHT);
        let mut range = CompactRange::default();
        for hash in self.level(level, index << above, 1 << above)? {
            range.append(hash, |_, _| {});
        }
        Ok(range.root())
    }

    /// A tile's bytes; none where the tree has not so many leaves.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn tile(&self, tile: &Tile) -> Result<Option<Vec<u8>>, Fault> {
        if tile.needs().is_none_or(|needed| self.range().is_ok_and(|range| range.size() < needed)) {
            return Ok(None);
        }
        let (start, count) = (tile.index * TILE_WIDTH, tile.width.into());
        Ok(Some(match tile.kind {
            TileKind::Level(level) => self.level(level, start, count)?.iter().flat_map(|hash| hash.0).collect(),
            TileKind::Entries => {
                let length = 32_u16.to_be_bytes();
                self.entries(start, count)?.iter().flat_map(|entry| length.into_iter().chain(entry.0)).collect()
            }
        }))
    }

    /// Proves that entry `index` is among the first `size`; none where it is not, or there are not so many.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Digest>>, Fault> {
        if size > self.range()?.size() {
            return Ok(None);
        }
        inclusion_proof(index, size, |node| self.node(node))
    }

    /// Proves that the tree of `new` entries begins with that of `old`; none where it does not, or there are not so many.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn consistency(&self, old: u64, new: u64) -> Result<Option<Vec<Digest>>, Fault> {
        if new > self.range()?.size() {
            return Ok(None);
        }
        consistency_proof(old, new, |node| self.node(node))
    }
}
