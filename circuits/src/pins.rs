//! What each kind's version stands for: its verifying key and the shape of its circuit, in `tests/vectors/pins.json`.
//!
//! A frozen proof of each version is beside it (`tests/vectors/README.md`). A pin that no longer fits means that
//! something else is proven, or proven in another way: then the kind gets a new name, with a new version.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;

use halo2_proofs::pasta::Fp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    KeyAlgorithm, Kind, Parameters,
    codec::Writer,
    key_derivation,
    key_knowledge::{
        self, groth16,
        halo2::KeyCircuit,
        symmetric::{SuiteField, tests as common},
    },
    params::{Groth16Circuit, Halo2Circuit},
    registry, sharing_of_key,
    soundness::halo2::{Shape, shape},
    tagged_key,
};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/pins.json")
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// A halo2 circuit, with an honest witness in it.
fn halo2<C: Halo2Circuit>(circuit: &C, public: &[Fp]) -> Value {
    let Shape {
        advice_columns,
        fixed_columns,
        selectors,
        polynomials,
        lookups,
        public: inputs,
        cells,
        rows,
        copies,
        constraints,
    } = shape(circuit, public);
    json!({
        "k": C::K, "public": inputs, "proof_bytes": C::PROOF_LEN, "advice_columns": advice_columns,
        "fixed_columns": fixed_columns, "selectors": selectors, "polynomials": polynomials, "lookups": lookups,
        "cells": cells, "rows": rows, "copies": copies, "constraints": constraints,
    })
}

/// A Groth16 circuit. Its verifying key comes from a setup, so the matrices stand for it: A, B, C, each row a
/// count and that many (variable, factor), numbers in 4 bytes, factors in 32 bytes, little-endian.
fn groth16(circuit: Groth16Circuit) -> Value {
    let mut writer = Writer::default();
    for row in circuit.matrices().unwrap().iter().flatten() {
        writer.u32(row.len() as u32);
        for (factor, variable) in row {
            writer.u32(*variable as u32).array(&factor.to_canonical());
        }
    }
    json!({
        "constraints": circuit.constraints(), "variables": circuit.variables(),
        "public": circuit.input_points() - 1, "proof_bytes": groth16::PROOF_LEN,
        "matrices_sha256": hex(&Sha256::digest(writer.into_bytes())),
    })
}

fn circuit(kind: Kind) -> Value {
    match kind {
        Kind::KeyKnowledgeHalo2 => {
            let (public, limbs) = common::satisfied::<Fp>(KeyAlgorithm::Aes256);
            halo2(&KeyCircuit::new(limbs), &public.row())
        }
        Kind::KeyKnowledgeGroth16 => groth16(Groth16Circuit::OneKey),
        Kind::ManyKeysGroth16 => groth16(Groth16Circuit::ManyKeys),
        Kind::ManyKeysHalo2 => {
            let (circuit, row) = key_knowledge::many::halo2::soundness::honest::<{ key_knowledge::many::SLOTS }>(64);
            halo2(&circuit, &row)
        }
        Kind::TaggedKeyHalo2 => {
            let (circuit, row) = tagged_key::halo2::soundness::honest();
            halo2(&circuit, &row)
        }
        Kind::KeyDerivationHalo2 => {
            let (circuit, row) = key_derivation::halo2::soundness::honest(KeyAlgorithm::Aes256, KeyAlgorithm::Aes256);
            halo2(&circuit, &row)
        }
        Kind::SharingOfKeyHalo2 => {
            let (circuit, column) = sharing_of_key::halo2::soundness::honest(KeyAlgorithm::Aes256, 3, 5);
            halo2(&circuit, &column)
        }
        other => {
            let has_circuit = ["halo2", "groth16"].iter().any(|system| other.name().contains(system));
            assert!(!has_circuit, "{other}: give its circuit an arm here, so that its shape is pinned");
            Value::Null
        }
    }
}

#[test]
fn every_kind_is_what_its_version_says() {
    let text = std::fs::read_to_string(path()).unwrap_or_else(|_| "{}".to_owned());
    let mut pins: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let write = std::env::var_os("KEYWITNESS_WRITE_VECTORS").is_some();
    for kind in Kind::ALL {
        let verifying_key = registry::verifying_key(&Parameters::transparent(), kind).ok();
        let pin = json!({ "verifying_key": verifying_key.map(|digest| digest.to_string()), "circuit": circuit(kind) });
        if write && !pins.contains_key(kind.name()) {
            pins.insert(kind.name().to_owned(), pin.clone());
        }
        let pinned = pins.get(kind.name()).unwrap_or_else(|| {
            panic!("{kind} is not pinned: KEYWITNESS_WRITE_VECTORS=1 ./test every_kind_is adds it to tests/vectors/pins.json")
        });
        assert_eq!(*pinned, pin, "{kind} proves something else, or in another way: raise the version in Kind::name");
    }
    if write {
        std::fs::write(path(), serde_json::to_string_pretty(&pins).unwrap() + "\n").unwrap();
    }
}
