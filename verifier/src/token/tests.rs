#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use jsonwebtoken::{EncodingKey, Header};
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp(1_000_000);
const AUDIENCE: &str = "shop";
const NONCE: Nonce = Nonce([7; 32]);

/// A manager that signs whatever a test asks for.
struct Issuer {
    pem: String,
    jwk: Value,
}

impl Issuer {
    fn new() -> Self {
        let secret = p256::SecretKey::random(&mut rand::rngs::OsRng);
        let mut jwk: Value = serde_json::from_str(&secret.public_key().to_jwk_string()).unwrap();
        jwk["kid"] = "k1".into();
        jwk["alg"] = "ES256".into();
        Self { pem: secret.to_pkcs8_pem(LineEnding::LF).unwrap().to_string(), jwk }
    }

    fn keys(&self) -> JwkSet {
        serde_json::from_value(json!({ "keys": [self.jwk] })).unwrap()
    }

    fn header() -> Header {
        Header { typ: Some(TYPE.to_owned()), kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_ec_pem(self.pem.as_bytes()).unwrap()).unwrap()
    }

    /// Checks a token whose claims `change` has changed.
    fn check(&self, change: impl FnOnce(&mut Value)) -> Result<VerifiedToken, TokenError> {
        let mut claims = claims();
        change(&mut claims);
        verify(&self.sign(&Self::header(), &claims), &self.keys(), &expected(&domain()), NOW)
    }
}

fn domain() -> TrustDomain {
    "acme.example".parse().unwrap()
}

fn expected(trust_domain: &TrustDomain) -> Expected<'_> {
    Expected { trust_domain, audience: AUDIENCE, nonce: Some(&NONCE) }
}

fn claims() -> Value {
    let attestation = json!({
        "trust_domain": "acme.example", "manager": "m1", "cluster": "eu", "hsm": "hsm-1", "enrolment": 1,
        "key": { "key": "signing", "epoch": 1 }, "algorithm": "ristretto255", "residence": "not-evidenced",
        "statements": [{
            "kind": Kind::KeyKnowledgeRistretto255, "verifying_key": Digest([1; 32]), "envelope": Digest([2; 32]),
            "fingerprint": { "suite": "public-key", "bytes": Digest([3; 32]) },
            "proven_at": NOW.0 - 10, "expires_at": NOW.0 + 300,
        }],
    });
    json!({
        "iss": "urn:keywitness:acme.example:m1", "aud": AUDIENCE, "iat": NOW.0, "exp": NOW.0 + 300, "jti": "1",
        "eat_profile": PROFILE, "eat_nonce": NONCE, "ear_verifier_id": { "developer": "d", "build": "b" },
        "cnf": { "jwk": ChannelJwk::new(&[9; 32]) },
        "submods": { "signing": {
            "ear_status": "affirming", "ear_trustworthiness_vector": { "instance-identity": 2 },
            "ear_appraisal_policy_ids": [], "urn:keywitness:attestation": attestation,
        } },
    })
}

#[test]
fn a_good_token_is_what_it_says() {
    let token = Issuer::new().check(|_| {}).unwrap();
    assert_eq!(token.channel_key(), [9; 32]);
    assert_eq!(token.appraisal().attestation.hsm.as_str(), "hsm-1");
}

#[test]
fn every_claim_that_matters_is_checked() {
    let issuer = Issuer::new();
    let refusal = |change: fn(&mut Value)| issuer.check(change).unwrap_err();
    assert_eq!(refusal(|c| c["aud"] = "bank".into()), TokenError::Audience("bank".to_owned()));
    assert_eq!(refusal(|c| c["eat_nonce"] = json!(Nonce([8; 32]))), TokenError::Nonce);
    assert_eq!(refusal(|c| c["exp"] = NOW.0.into()), TokenError::Expired(NOW));
    let future = Timestamp(NOW.0 + LEEWAY + 1);
    assert_eq!(refusal(|c| c["iat"] = (NOW.0 + LEEWAY + 1).into()), TokenError::NotYet(future));
    assert!(matches!(refusal(|c| c["iss"] = "urn:keywitness:acme.example:m2".into()), TokenError::TrustDomain(_)));
    let attested = |c: &mut Value, field: &str, value: Value| {
        c["submods"]["signing"]["urn:keywitness:attestation"][field] = value;
    };
    let foreign = issuer.check(|c| attested(c, "trust_domain", "evil.example".into())).unwrap_err();
    assert!(matches!(foreign, TokenError::TrustDomain(_)));
    for change in [
        (|c| c["eat_profile"] = "tag:github.com,2023:veraison/ear".into()) as fn(&mut Value),
        |c| c["submods"] = json!({}),
        |c| c["submods"]["another"] = c["submods"]["signing"].clone(),
        |c| c["cnf"]["jwk"]["crv"] = "P-256".into(),
        |c| c["cnf"]["jwk"]["x"] = "AAAA".into(),
        |c| c["exp"] = (NOW.0 + 301).into(),
        |c| c["submods"]["signing"]["urn:keywitness:attestation"]["statements"] = json!([]),
        |c| drop(c.as_object_mut().unwrap().remove("cnf")),
    ] {
        assert!(matches!(refusal(change), TokenError::Malformed(_)));
    }
    for (word, tier) in [("warning", Tier::Warning), ("contraindicated", Tier::Contraindicated), ("none", Tier::None)] {
        let weak = issuer.check(|c| c["submods"]["signing"]["ear_status"] = word.into());
        assert_eq!(weak.unwrap_err(), TokenError::NotAffirming(tier));
    }
}

#[test]
fn the_signature_is_by_the_named_key_and_its_own_algorithm() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let (good, domain) = (claims(), domain());
    let check = |token: &str, keys: &JwkSet| verify(token, keys, &expected(&domain), NOW).unwrap_err();
    let token = issuer.sign(&Issuer::header(), &good);
    assert_eq!(check(&token, &other.keys()), TokenError::Signature);
    let unknown = Header { kid: Some("k2".to_owned()), ..Issuer::header() };
    assert_eq!(check(&issuer.sign(&unknown, &good), &issuer.keys()), TokenError::UnknownKey("k2".to_owned()));
    for header in [Header { kid: None, ..Issuer::header() }, Header { typ: Some("JWT".to_owned()), ..Issuer::header() }]
    {
        assert!(matches!(check(&issuer.sign(&header, &good), &issuer.keys()), TokenError::Malformed(_)));
    }
    // The public key as an HMAC secret.
    let hmac = Header { alg: Algorithm::HS256, ..Issuer::header() };
    let secret = EncodingKey::from_secret(issuer.jwk.to_string().as_bytes());
    let confused = jsonwebtoken::encode(&hmac, &good, &secret).unwrap();
    assert_eq!(check(&confused, &issuer.keys()), TokenError::Signature);
    // No signature at all.
    let parts: Vec<&str> = token.split('.').collect();
    let none = data_encoding::BASE64URL_NOPAD.encode(br#"{"alg":"none","typ":"eat+jwt","kid":"k1"}"#);
    for forged in [format!("{none}.{}.", parts[1]), format!("{}.{}.", parts[0], parts[1])] {
        assert!(matches!(check(&forged, &issuer.keys()), TokenError::Malformed(_) | TokenError::Signature));
    }
    for noise in ["", "a.b.c", "....", &token[..token.len() - 4]] {
        assert!(matches!(check(noise, &issuer.keys()), TokenError::Malformed(_) | TokenError::Signature));
    }
}
