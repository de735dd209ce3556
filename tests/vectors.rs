//! Frozen proofs, one of each kind and version: `tests/vectors/README.md` describes the files.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use keywitness_circuits::{
    ClaimContext, Kind, Parameters,
    codec::Canonical,
    params::{Groth16Parameters, Origin},
    registry,
};
use serde_json::{Value, json};

use crate::statements::{case, parameters};

fn path(kind: Kind) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(format!("{kind}.json"))
}

fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().expect("a string").as_bytes()).expect("lower-case hexadecimal")
}

/// The bad cases of every kind, as edits of the valid one.
fn bad_cases(proof: &[u8], challenge: usize) -> Vec<Value> {
    let swapped = HEXLOWER.encode(&[&proof[32..64], &proof[..32]].concat());
    let end = proof.len() - 32;
    let edit = |name: &str, edit: Value| json!({ "name": name, "valid": false, "edits": [edit] });
    vec![
        edit("first byte of the proof changed", json!({ "part": "proof", "at": 0, "xor": "01" })),
        edit("last byte of the proof changed", json!({ "part": "proof", "at": proof.len() - 1, "xor": "01" })),
        edit("trailing byte", json!({ "part": "proof", "append": "00" })),
        edit("one byte short", json!({ "part": "proof", "drop": 1 })),
        edit("first element zero", json!({ "part": "proof", "at": 0, "put": "00".repeat(32) })),
        edit("first element not canonical", json!({ "part": "proof", "at": 0, "put": "ff".repeat(32) })),
        edit("last element not canonical", json!({ "part": "proof", "at": end, "put": "ff".repeat(32) })),
        edit("first two elements swapped", json!({ "part": "proof", "at": 0, "put": swapped })),
        edit("foreign challenge", json!({ "part": "context", "at": challenge, "xor": "01" })),
        edit("foreign instance", json!({ "part": "instance", "at": 8, "xor": "01" })),
    ]
}

/// A file for a kind that has none: an honest proof made now.
fn write(kind: Kind) {
    let case = case(kind, 3);
    let (proof, context) = (case.prove(), case.context.to_bytes());
    let challenge = context.windows(32).position(|window| window == case.context.challenge.0).unwrap();
    let mut cases = vec![json!({ "name": "valid", "valid": true, "edits": [] })];
    cases.extend(bad_cases(&proof, challenge));
    let mut vector = json!({
        "kind": kind.name(),
        "context": HEXLOWER.encode(&context),
        "context_digest": case.context.digest().to_string(),
        "instance": HEXLOWER.encode(&case.instance),
        "proof": HEXLOWER.encode(&proof),
        "cases": cases,
    });
    let needs_setup = registry::verifying_key(&Parameters::transparent(), kind).is_err();
    if needs_setup {
        let groth16 = match kind {
            Kind::ManyKeysGroth16 => parameters().groth16_many(),
            _ => parameters().groth16(),
        };
        vector["groth16_verifying_key"] = json!(HEXLOWER.encode(&groth16.unwrap().verifying_key()));
    }
    std::fs::create_dir_all(path(kind).parent().unwrap()).unwrap();
    std::fs::write(path(kind), serde_json::to_string_pretty(&vector).unwrap() + "\n").unwrap();
}

fn apply(edit: &Value, target: &mut Vec<u8>) {
    let at = edit["at"].as_u64().unwrap_or(0) as usize;
    if !edit["xor"].is_null() {
        let change = bytes(&edit["xor"]);
        target[at..at + change.len()].iter_mut().zip(change).for_each(|(byte, change)| *byte ^= change);
    } else if !edit["put"].is_null() {
        let put = bytes(&edit["put"]);
        target[at..at + put.len()].copy_from_slice(&put);
    } else if !edit["append"].is_null() {
        target.extend(bytes(&edit["append"]));
    } else {
        let drop = edit["drop"].as_u64().expect("xor, put, append or drop") as usize;
        target.truncate(target.len() - drop);
    }
}

fn check(kind: Kind, vector: &Value) {
    let mut parameters = Parameters::transparent();
    if !vector["groth16_verifying_key"].is_null() {
        let key = bytes(&vector["groth16_verifying_key"]);
        let origin = Origin::Development;
        parameters = match kind {
            Kind::ManyKeysGroth16 => {
                parameters.with_groth16_many(Groth16Parameters::for_verifying_many(origin, &key).unwrap())
            }
            _ => parameters.with_groth16(Groth16Parameters::for_verifying(origin, &key).unwrap()),
        };
    }
    assert_eq!(vector["kind"], kind.name());
    let digest = ClaimContext::from_bytes(&bytes(&vector["context"])).unwrap().digest();
    assert_eq!(vector["context_digest"], digest.to_string(), "{kind}: contexts are hashed in another way");
    let (mut valid, mut invalid) = (0, 0);
    for case in vector["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut parts = ["context", "instance", "proof"].map(|part| (part, bytes(&vector[part])));
        for edit in case["edits"].as_array().unwrap() {
            let target = parts.iter_mut().find(|(part, _)| edit["part"] == *part).unwrap();
            apply(edit, &mut target.1);
        }
        let [(_, context), (_, instance), (_, proof)] = parts;
        let verdict = ClaimContext::from_bytes(&context)
            .and_then(|context| registry::verify(&parameters, &context, &instance, &proof).map(drop));
        if case["valid"].as_bool().unwrap() {
            valid += 1;
            assert_eq!(verdict, Ok(()), "{kind}: {name}: a frozen proof is refused: raise the version in Kind::name");
        } else {
            invalid += 1;
            assert!(verdict.is_err(), "{kind}: {name} is accepted");
        }
    }
    assert!(valid >= 1 && invalid >= 6, "{kind}: {valid} valid cases, {invalid} bad ones");
    let length = bytes(&vector["proof"]).len();
    assert_eq!(
        case(kind, 3).prove().len(),
        length,
        "{kind}: proofs have another length: raise the version in Kind::name"
    );
}

#[test]
fn frozen_proofs_keep_verifying() {
    for kind in Kind::ALL {
        let path = path(kind);
        if !path.exists() && std::env::var_os("KEYWITNESS_WRITE_VECTORS").is_some() {
            write(kind);
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|_| {
            let path = path.display();
            panic!("{kind} has no {path}: KEYWITNESS_WRITE_VECTORS=1 ./test frozen_proofs writes it; commit it")
        });
        check(kind, &serde_json::from_str(&text).unwrap());
    }
}
