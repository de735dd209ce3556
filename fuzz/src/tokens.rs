//! Verification tokens and key sets.

use std::fs;

use keywitness_circuits::{Digest, Kind, Nonce, TrustDomain};
use keywitness_manager::signer::{Signer, Spec, jws};
use keywitness_verifier::{
    token::{self, ChannelJwk, Claims, Expected, PROFILE, TYPE},
    wire::TokenAlgorithm,
};
use serde_json::json;

use crate::{
    Target,
    world::{NOW, World},
};

/// A token and the key set that it verifies under; kept with its seeds, since ECDSA signatures are not all alike.
fn issued(world: &World) -> (String, Vec<u8>) {
    let path = world.directory.join("token.json");
    let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some((token, keys)) = kept.filter(|(token, keys): &(String, Vec<u8>)| accepted(token, keys)) {
        return (token, keys);
    }
    let spec = Spec { directory: world.directory.clone(), origin: "acme.example/m1".to_owned(), pkcs11: None };
    let signer = spec.open().unwrap();
    let public = signer.make(TokenAlgorithm::Es256).unwrap();
    let attestation = json!({
        "trust_domain": "acme.example", "manager": "m1", "cluster": "eu", "hsm": "hsm-1", "enrolment": 1,
        "key": { "key": "signing", "epoch": 1 }, "algorithm": "ristretto255", "residence": "not-evidenced",
        "statements": [{
            "kind": Kind::KeyKnowledgeRistretto255, "verifying_key": Digest([1; 32]), "envelope": Digest([2; 32]),
            "fingerprint": { "suite": "public-key", "bytes": Digest([3; 32]) },
            "proven_at": NOW.0 - 10, "expires_at": NOW.0 + 300,
        }],
    });
    let claims = json!({
        "iss": "urn:keywitness:acme.example:m1", "aud": "shop", "iat": NOW.0, "exp": NOW.0 + 300, "jti": "1",
        "eat_profile": PROFILE, "eat_nonce": Nonce([7; 32]), "ear_verifier_id": { "developer": "d", "build": "b" },
        "cnf": { "jwk": ChannelJwk::new(&[9; 32]) },
        "submods": { "signing": {
            "ear_status": "affirming", "ear_trustworthiness_vector": { "instance-identity": 2 },
            "ear_appraisal_policy_ids": [], "urn:keywitness:attestation": attestation,
        } },
    });
    let claims: Claims = serde_json::from_value(claims).unwrap();
    let token = jws(&signer, (&public.kid().unwrap(), TokenAlgorithm::Es256), TYPE, &claims).unwrap();
    let issued = (token, serde_json::to_vec(&json!({ "keys": [public.jwk().unwrap()] })).unwrap());
    fs::write(path, serde_json::to_vec(&issued).unwrap()).unwrap();
    issued
}

fn accepted(token: &str, keys: &[u8]) -> bool {
    let trust_domain: TrustDomain = "acme.example".parse().unwrap();
    let expected = Expected { trust_domain: &trust_domain, audience: "shop", nonce: None };
    serde_json::from_slice(keys).is_ok_and(|keys| token::verify(token, &keys, &expected, NOW).is_ok())
}

pub(crate) fn targets(world: &World) -> Vec<Target> {
    let (token, keys) = issued(world);
    assert!(accepted(&token, &keys));
    let (ours, same_keys) = (token.clone(), keys.clone());
    vec![
        Target::new("token", vec![token.clone().into_bytes()], move |bytes| {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(accepted(&text, &same_keys), *text == *ours, "a forgery is accepted, or a token refused");
        }),
        Target::new("key-set", vec![keys], move |bytes| {
            let _ = accepted(&token, bytes);
        }),
    ]
}
