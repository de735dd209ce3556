//! The log as anyone reads it: notes, checkpoints, tiles, proofs, openings, snapshots, bundles; and what is sent in batches.

use std::{collections::BTreeSet, fmt::Display, path::Path, str::FromStr};

use keywitness_circuits::{Digest, Nonce, codec::Canonical as _};
use keywitness_manager::{
    Settings,
    audit::archive::entry_of,
    ledger::{
        Memory, Table, Tables as _,
        seal::{read_snapshot, write_snapshot},
    },
};
use keywitness_verifier::{
    bundle::Bundle,
    log::{
        Algorithm, Checkpoint, CheckpointPolicy, CompactRange, Note, NoteKey, Opening, StateSeal, Tile, TlogProof,
        VerifierKey, leaf_hash, read_page, write_page,
    },
    token::status::{StatusBits, StatusList},
    wire::{Base64, Standing, join_envelopes, split_envelopes},
};

use crate::{
    Target,
    world::{NOW, World},
};

/// The log's name, and whose origin its checkpoints have.
const ORIGIN: &str = "keywitness/acme.example/manager-1";

/// A log of two entries, its checkpoint and the key that it verifies under.
struct Small {
    openings: Vec<Opening>,
    note: Note,
    policy: CheckpointPolicy,
    key: VerifierKey,
}

fn small() -> Small {
    let opening =
        |sequence| Opening { sequence, salt: Nonce([7; 32]), at: NOW, command: vec![1; 20], outcome: vec![2; 3] };
    let openings = vec![opening(1), opening(2)];
    let mut range = CompactRange::default();
    for opening in &openings {
        range.append(leaf_hash(&opening.entry().0), |_, _| ());
    }
    let state = Some(StateSeal { sequence: 1, root: Digest([9; 32]) });
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: range.size(), root: range.root(), state };
    let signer = NoteKey::new(ORIGIN, Algorithm::Ed25519, &[3; 32]).unwrap();
    let mut note = Note::new(checkpoint.to_string()).unwrap();
    note.add(signer.sign(note.text(), NOW));
    let key = signer.verifier().clone();
    Small { openings, note, policy: CheckpointPolicy::log_alone(key.clone()).unwrap(), key }
}

/// Text that parses is written as it was read.
fn spelled<T: FromStr + Display>(bytes: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value: T = text.parse().ok()?;
    assert_eq!(value.to_string(), text, "a second spelling is accepted");
    Some(value)
}

fn proof(log: &Small) -> TlogProof {
    let hashes = vec![leaf_hash(&log.openings[1].entry().0)];
    TlogProof { extra: None, index: 0, hashes, checkpoint: log.note.clone() }
}

fn snapshot() -> Vec<u8> {
    let mut rows = Memory::default();
    rows.put(Table::Hsms, b"hsm-1", b"a row").unwrap();
    rows.put(Table::Keys, b"k", &[1; 40]).unwrap();
    let mut bytes = Vec::new();
    write_snapshot(&rows, &mut bytes).unwrap();
    bytes
}

fn status_list() -> Vec<u8> {
    let mut bits = StatusBits::default();
    bits.set(5, Standing::Revoked);
    bits.compress().unwrap().lst.0
}

pub(crate) fn targets(world: &'static World) -> Vec<Target> {
    let log = small();
    let (note, text, entry) = (log.note.to_string(), log.note.text().to_owned(), log.openings[0].entry());
    let (signed, proven) = (text.clone(), proof(&log));
    proven.verify(&log.policy, &entry.0).unwrap();
    let tiles = ["0/000", "1/x001/234.p/7", "entries/000"].map(|tile| tile.as_bytes().to_vec()).to_vec();
    let small = small();
    let bodies: Vec<_> = world.claims.iter().map(|(_, envelope)| envelope.to_bytes()).collect();
    vec![
        Target::new("note", vec![note.into_bytes()], move |bytes| {
            let Some(note) = spelled::<Note>(bytes) else { return };
            if note.signed_by(&log.key).is_ok_and(|signed| signed.is_some()) {
                assert_eq!(note.text(), signed, "a signature is forged");
            }
        }),
        Target::new("checkpoint", vec![text.into_bytes(), log_key(&small).into_bytes()], |bytes| {
            spelled::<Checkpoint>(bytes);
            spelled::<VerifierKey>(bytes);
        }),
        Target::new("tile", tiles, |bytes| {
            spelled::<Tile>(bytes);
        }),
        Target::new("log-proof", vec![proven.to_string().into_bytes()], move |bytes| {
            let Some(proof) = spelled::<TlogProof>(bytes) else { return };
            if proof.verify(&small.policy, &entry.0).is_ok() {
                assert_eq!((proof.index, &proof.hashes), (0, &proven.hashes), "another place is proven");
            }
        }),
        Target::new("openings", vec![write_page(&log.openings)], |bytes| {
            if let Ok(openings) = read_page(bytes, 0) {
                assert_eq!(write_page(&openings), bytes);
                openings.iter().for_each(|opening| drop(entry_of(opening)));
            }
        }),
        Target::new("snapshot", vec![snapshot()], |bytes| {
            let mut rows = Memory::default();
            if let Ok(seal) = read_snapshot(bytes, &mut rows) {
                let mut again = Vec::new();
                assert_eq!(write_snapshot(&rows, &mut again).unwrap(), seal);
                assert_eq!(again, bytes, "a second snapshot of one state is accepted");
            }
        }),
        Target::new("status-list", vec![status_list()], |bytes| {
            let list = StatusList { bits: 2, lst: Base64(bytes.to_vec()) };
            let _ = list.get(5);
        }),
        Target::new("bundle", vec![br#"{"bundle":{},"sha256":""}"#.to_vec()], |bytes| {
            if let Ok(bundle) = Bundle::from_file(bytes) {
                assert_eq!(Bundle::from_file(&bundle.to_file()).as_ref(), Ok(&bundle));
            }
        }),
        Target::new("batch", vec![join_envelopes(bodies.iter().map(Vec::as_slice).take(3))], |bytes| {
            if let Ok(envelopes) = split_envelopes(bytes) {
                assert_eq!(join_envelopes(envelopes), bytes);
            }
        }),
        Target::new("settings", vec![Settings::example().into_bytes()], |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let loaded = Settings::load(Path::new("data"), Some((Path::new("m.toml"), text)), [], &[]);
            if let Err(complaints) = loaded {
                let told: BTreeSet<_> = complaints.iter().map(ToString::to_string).collect();
                assert!(!told.is_empty(), "refused without a reason");
            }
        }),
    ]
}

fn log_key(log: &Small) -> String {
    log.key.to_string()
}
