//! Tiles: runs of 256 hashes, or entries, under names that caches keep for ever (C2SP tlog-tiles).

use std::{fmt, str::FromStr};

use keywitness_circuits::Error;

use super::malformed;

/// A tile's hashes are of subtrees that are this much higher than those of the tiles below.
pub const TILE_HEIGHT: u8 = 8;

/// How many hashes, or entries, a full tile has.
pub const TILE_WIDTH: u64 = 1 << TILE_HEIGHT;

/// The highest level there is room for in a path.
const MAX_LEVEL: u8 = 63;

/// What a tile has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TileKind {
    /// Hashes of perfect subtrees of height 8·level.
    Level(u8),
    /// The entries themselves, each after its length in two bytes, big-endian.
    Entries,
}

/// A tile's name: `<L>/<N>[.p/<W>]` or `entries/<N>[.p/<W>]`, with N in groups of three digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tile {
    /// What it has.
    pub kind: TileKind,
    /// From the left, from 0.
    pub index: u64,
    /// How many hashes, or entries: 256 in a full tile, and at least 1.
    pub width: u16,
}

impl Tile {
    /// Whether it is full.
    pub const fn is_full(&self) -> bool {
        self.width as u64 == TILE_WIDTH
    }

    /// How many leaves a tree has at least that has this tile; none where no tree can have so many.
    pub fn needs(&self) -> Option<u64> {
        let height = match self.kind {
            TileKind::Level(level) => u32::from(level) * u32::from(TILE_HEIGHT),
            TileKind::Entries => 0,
        };
        let hashes = self.index.checked_mul(TILE_WIDTH)?.checked_add(self.width.into())?;
        hashes.checked_mul(1_u64.checked_shl(height)?)
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Level(level) => write!(f, "{level}")?,
            TileKind::Entries => f.write_str("entries")?,
        }
        let (mut groups, mut rest) = (vec![self.index % 1000], self.index / 1000);
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        while let Some(group) = groups.pop() {
            write!(f, "/{}{group:03}", if groups.is_empty() { "" } else { "x" })?;
        }
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

impl FromStr for Tile {
    type Err = Error;

    /// Reads what [`fmt::Display`] writes, and nothing else.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = malformed("tile path", "it is not <L>/<N>[.p/<W>] or entries/<N>[.p/<W>]");
        let parse = || {
            let (kind, rest) = text.split_once('/')?;
            let kind = match kind {
                "entries" => TileKind::Entries,
                level => TileKind::Level(level.parse().ok().filter(|level| *level <= MAX_LEVEL)?),
            };
            let (number, width) = match rest.split_once(".p/") {
                Some((number, width)) => (number, width.parse().ok().filter(|width| (1..256).contains(width))?),
                None => (rest, TILE_WIDTH as u16),
            };
            let mut index = 0_u64;
            for group in number.split('/') {
                let digits: u64 = group.strip_prefix('x').unwrap_or(group).parse().ok()?;
                index = index.checked_mul(1000)?.checked_add(digits)?;
            }
            Some(Self { kind, index, width })
        };
        let tile: Self = parse().ok_or_else(|| wrong.clone())?;
        if tile.to_string() == text { Ok(tile) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = Tile { kind: TileKind::Level(0), index: 1_234_067, width: 256 };
        assert_eq!(tile.to_string(), "0/x001/x234/067");
        for (text, kind, index, width) in [
            ("0/x001/x234/067", TileKind::Level(0), 1_234_067, 256),
            ("1/000.p/1", TileKind::Level(1), 0, 1),
            ("63/x001/000", TileKind::Level(63), 1000, 256),
            ("entries/x001/x000/000.p/255", TileKind::Entries, 1_000_000, 255),
        ] {
            assert_eq!(text.parse::<Tile>().unwrap(), Tile { kind, index, width });
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for wrong in [
            "",
            "0",
            "0/",
            "0/0",
            "0/00",
            "0/0000",
            "00/000",
            "+1/000",
            "64/000",
            "0/x000/000",
            "0/x001/x000",
            "0/001/000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/+1",
            "0/000.p/",
            "data/000",
            "0/-01",
            "0/000/",
            "/0/000",
            "0/x018/x446/x744/x073/x709/x551/616",
        ] {
            assert!(wrong.parse::<Tile>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_tile_needs() {
        let needs = |text: &str| text.parse::<Tile>().unwrap().needs();
        assert_eq!(needs("0/000.p/1"), Some(1));
        assert_eq!(needs("entries/001"), Some(512));
        assert_eq!(needs("1/000.p/3"), Some(768));
        assert_eq!(needs("8/000"), None);
        assert_eq!(needs("63/000.p/1"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(level in 0_u8..64, entries: bool, index: u64, width in 1_u16..=256) {
            let kind = if entries { TileKind::Entries } else { TileKind::Level(level) };
            let tile = Tile { kind, index, width };
            prop_assert_eq!(tile.to_string().parse::<Tile>().unwrap(), tile);
        }

        #[test]
        fn reading_is_total(text in "[0-9ex.p/]{0,30}") {
            if let Ok(tile) = text.parse::<Tile>() {
                prop_assert_eq!(tile.to_string(), text);
            }
        }
    }
}
