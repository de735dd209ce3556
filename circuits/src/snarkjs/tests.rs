#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::sync::LazyLock;

use ark_bn254::{Fq, Fq2, Fr, G2Affine};
use ark_ff::{BigInt, BigInteger, Field, PrimeField};
use serde_json::{Value, json};

use super::*;
use crate::{
    KeyAlgorithm, Kind, Parameters, ProofSystem, Suite,
    key_knowledge::{groth16::Groth16, symmetric::tests::claim},
};

static PARAMETERS: LazyLock<Parameters> =
    LazyLock::new(|| Parameters::default().with_groth16(Groth16Parameters::develop().unwrap()));

/// Proof, public inputs and verifying key of a fixed claim.
fn exported() -> [Value; 3] {
    let (context, instance, witness) = claim(Kind::KeyKnowledgeGroth16, Suite::Groth16Bn254, KeyAlgorithm::Aes192);
    let proof = Groth16::prove(&PARAMETERS, &context, &instance, &witness).unwrap();
    let key = VerifyingKey::of_parameters(PARAMETERS.groth16().unwrap());
    let texts = [
        Proof::from_bytes(&proof).unwrap().to_json(),
        PublicSignals::of_claim(&context, &instance).unwrap().to_json(),
        key.to_json().unwrap(),
    ];
    texts.map(|text| serde_json::from_str(&text).unwrap())
}

fn proof(value: &Value) -> Result<Proof, Error> {
    Proof::from_json(value.to_string().as_bytes())
}

fn public(value: &Value) -> Result<PublicSignals, Error> {
    PublicSignals::from_json(value.to_string().as_bytes())
}

fn key(value: &Value) -> Result<VerifyingKey, Error> {
    VerifyingKey::from_json(value.to_string().as_bytes())
}

/// `value` after a change at `pointer`.
fn with(value: &Value, pointer: &str, new: impl Into<Value>) -> Value {
    let mut changed = value.clone();
    *changed.pointer_mut(pointer).unwrap() = new.into();
    changed
}

#[test]
fn what_is_written_is_read_and_verifies() {
    let [proof_json, public_json, key_json] = exported();
    let (proof, public, key) = (proof(&proof_json).unwrap(), public(&public_json).unwrap(), key(&key_json).unwrap());
    key.verify(&public, &proof).unwrap();
    assert_eq!(Proof::from_bytes(&proof.to_bytes()).unwrap(), proof);
    assert_eq!(serde_json::from_str::<Value>(&proof.to_json()).unwrap(), proof_json);
    assert_eq!(serde_json::from_str::<Value>(&public.to_json()).unwrap(), public_json);
    assert_eq!(serde_json::from_str::<Value>(&key.to_json().unwrap()).unwrap(), key_json);
    assert_eq!(key.digest(), PARAMETERS.groth16().unwrap().verifying_key_digest());
    let other = VerifyingKey::of_parameters(&Groth16Parameters::develop().unwrap());
    assert_eq!(other.verify(&public, &proof), Err(Error::ProofRefused));
}

#[test]
fn the_form_is_snarkjs() {
    let [proof_json, public_json, key_json] = exported();
    assert_eq!((&proof_json["protocol"], &proof_json["curve"]), (&json!("groth16"), &json!("bn128")));
    assert_eq!(
        (&key_json["protocol"], &key_json["curve"], &key_json["nPublic"]),
        (&json!("groth16"), &json!("bn128"), &json!(6))
    );
    assert_eq!(proof_json["pi_a"][2], "1");
    assert_eq!(proof_json["pi_b"][2], json!(["1", "0"]));
    // A 192-bit key has bytes 16..24 and none beyond.
    assert_eq!((&public_json[2], &public_json[3]), (&json!("1"), &json!("0")));
    assert_eq!(key_json["IC"].as_array().unwrap().len(), 7);
    assert_eq!(key_json["vk_alphabeta_12"][1][2].as_array().unwrap().len(), 2);
}

#[test]
fn changed_proofs_and_inputs_do_not_verify() {
    let [proof_json, public_json, key_json] = exported();
    let accepts = |proof_json: &Value, public_json: &Value| {
        key(&key_json).unwrap().verify(&public(public_json)?, &proof(proof_json)?)
    };
    accepts(&proof_json, &public_json).unwrap();
    let swapped = with(&with(&proof_json, "/pi_a", proof_json["pi_c"].clone()), "/pi_c", proof_json["pi_a"].clone());
    assert_eq!(accepts(&swapped, &public_json), Err(Error::ProofRefused));
    for position in 0..PUBLIC_INPUTS {
        let (pointer, one) = (format!("/{position}"), public_json[position] == "1");
        let changed = with(&public_json, &pointer, if one { "0" } else { "1" });
        assert_eq!(accepts(&proof_json, &changed), Err(Error::ProofRefused), "input {position}");
    }
    let swapped = with(&with(&public_json, "/4", public_json[5].clone()), "/5", public_json[4].clone());
    assert_eq!(accepts(&proof_json, &swapped), Err(Error::ProofRefused));
    // The negated point is on the curve as well.
    let y: Fq = proof_json["pi_c"][1].as_str().unwrap().parse().unwrap();
    let negated = with(&proof_json, "/pi_c/1", (-y).to_string());
    assert_eq!(accepts(&negated, &public_json), Err(Error::ProofRefused));
}

#[test]
fn a_number_has_one_spelling_below_its_modulus() {
    let [proof_json, public_json, _] = exported();
    let decimal = |number: &Value| number.as_str().unwrap().to_owned();
    let domain = decimal(&public_json[1]);
    for wrong in ["", "-1", "+1", "00", "01", "0x1", "1.0", "1e1", " 1", "1_0", "\u{661}", &format!("0{domain}")] {
        assert!(public(&with(&public_json, "/1", wrong)).is_err(), "{wrong:?}");
    }
    let modulus = Fr::MODULUS.to_string();
    for wrong in [modulus.as_str(), "9".repeat(77).as_str(), "9".repeat(60_000).as_str()] {
        assert!(public(&with(&public_json, "/1", wrong)).is_err());
    }
    assert!(public(&with(&public_json, "/1", (-Fr::from(1)).to_string())).is_ok());
    // Numbers of JSON are no numbers of snarkjs: readers round them.
    assert!(public(&with(&public_json, "/2", 1)).is_err());
    // x + q names the same point to a reader that reduces.
    let mut x: BigInt<4> = decimal(&proof_json["pi_a"][0]).parse().unwrap();
    assert!(!x.add_with_carry(&Fq::MODULUS));
    assert!(proof(&with(&proof_json, "/pi_a/0", x.to_string())).is_err());
}

#[test]
fn unusable_points_are_refused() {
    let [proof_json, _, key_json] = exported();
    for (pointer, identity) in [
        ("/pi_a", json!(["0", "1", "0"])),
        ("/pi_a", json!(["0", "0", "1"])),
        ("/pi_c", json!(["0", "1", "0"])),
        ("/pi_b", json!([["0", "0"], ["1", "0"], ["0", "0"]])),
        ("/pi_b", json!([["0", "0"], ["0", "0"], ["1", "0"]])),
        ("/pi_a", json!(["1", "1", "1"])),
        ("/pi_a/2", json!("2")),
        ("/pi_b/2", json!(["1", "1"])),
        ("/pi_a", json!([proof_json["pi_a"][0], proof_json["pi_a"][1]])),
        ("/pi_a", json!([proof_json["pi_a"][0], proof_json["pi_a"][1], "1", "1"])),
    ] {
        assert!(proof(&with(&proof_json, pointer, identity.clone())).is_err(), "{pointer} {identity}");
    }
    let outside = (1_u64..)
        .filter_map(|x| G2Affine::get_point_from_x_unchecked(x.into(), false))
        .find(|point| !point.is_in_correct_subgroup_assuming_on_curve())
        .unwrap();
    let write = |element: &Fq2| json!([element.c0.to_string(), element.c1.to_string()]);
    let outside = json!([write(&outside.x), write(&outside.y), write(&Fq2::ONE)]);
    assert!(proof(&with(&proof_json, "/pi_b", outside.clone())).is_err());
    for pointer in ["/vk_beta_2", "/vk_gamma_2", "/vk_delta_2"] {
        assert!(key(&with(&key_json, pointer, outside.clone())).is_err(), "{pointer}");
    }
    for pointer in ["/vk_alpha_1", "/IC/0", "/IC/6"] {
        assert!(key(&with(&key_json, pointer, json!(["0", "1", "0"]))).is_err(), "{pointer}");
    }
}

#[test]
fn surplus_and_missing_parts_are_refused() {
    let [proof_json, public_json, key_json] = exported();
    for (protocol, curve) in [("plonk", "bn128"), ("groth16", "bls12381"), ("groth16", "bn254")] {
        let other = |value: &Value| with(&with(value, "/protocol", protocol), "/curve", curve);
        assert!(proof(&other(&proof_json)).is_err() && key(&other(&key_json)).is_err());
    }
    for value in [&proof_json, &key_json] {
        let refused = |value: &Value| proof(value).is_err() && key(value).is_err();
        let mut surplus = value.clone();
        surplus["note"] = json!("");
        assert!(refused(&surplus));
        for field in value.as_object().unwrap().keys() {
            let mut less = value.clone();
            less.as_object_mut().unwrap().remove(field);
            assert!(refused(&less), "{field}");
        }
    }
    let twice = proof_json.to_string().replacen('{', "{\"protocol\":\"groth16\",", 1);
    assert!(Proof::from_json(twice.as_bytes()).is_err());
    assert!(Proof::from_json(format!("{proof_json} {{}}").as_bytes()).is_err());

    let mut inputs = public_json.as_array().unwrap().clone();
    inputs.push(json!("0"));
    assert!(public(&json!(inputs)).is_err());
    assert!(public(&json!(inputs[..5])).is_err());
    assert!(public(&json!({})).is_err());

    assert!(key(&with(&key_json, "/nPublic", 7)).is_err());
    let mut points = key_json["IC"].as_array().unwrap().clone();
    points.push(points[1].clone());
    assert!(key(&with(&key_json, "/IC", points.clone())).is_err());
    assert!(key(&with(&key_json, "/IC", json!(points[..6]))).is_err());
    assert!(key(&with(&key_json, "/vk_alphabeta_12/0/0/0", "1")).is_err());
}
