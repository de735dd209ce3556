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

mod lists {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;
    use crate::{
        token::status::{BITS, ENTRIES, StatusBits, StatusList},
        wire::Standing,
    };

    const URI: &str = "https://manager.example/v1/status-lists/0";

    fn list(bits: u8, lst: &str) -> StatusList {
        StatusList { bits, lst: Base64(BASE64URL_NOPAD.decode(lst.as_bytes()).unwrap()) }
    }

    #[test]
    fn the_drafts_vectors_are_read() {
        let one = list(1, "eNrbuRgAAhcBXQ");
        let expected = [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1];
        assert_eq!((0..16).map(|i| one.get(i).unwrap().unwrap()).collect::<Vec<_>>(), expected);
        assert_eq!(one.get(16).unwrap(), None);
        let two = list(2, "eNo76fITAAPfAgc");
        let expected = [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3];
        assert_eq!((0..12).map(|i| two.get(i).unwrap().unwrap()).collect::<Vec<_>>(), expected);
        assert_eq!(two.get(u64::MAX).unwrap(), None);
        assert!(list(3, "eNo76fITAAPfAgc").get(0).is_err());
        assert!(list(2, "eNo7").get(0).is_err());
    }

    #[test]
    fn what_is_set_is_found_and_a_bomb_is_refused() {
        let mut bits = StatusBits::default();
        bits.set(7, Standing::Revoked);
        bits.set(ENTRIES - 1, Standing::Suspended);
        bits.set(ENTRIES, Standing::Revoked);
        let list = bits.compress().unwrap();
        assert_eq!((list.bits, list.get(7).unwrap(), list.get(8).unwrap()), (BITS, Some(1), Some(0)));
        assert_eq!((list.get(ENTRIES - 1).unwrap(), list.get(ENTRIES).unwrap()), (Some(2), None));
        let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut bomb, &vec![0; 1 << 21]).unwrap();
        assert!(StatusList { bits: 8, lst: Base64(bomb.finish().unwrap()) }.get(0).is_err());
    }

    #[test]
    fn a_list_counts_only_if_it_is_this_tokens_and_new() {
        let issuer = Issuer::new();
        let token = issuer.check(|c| c["status"] = json!({ "status_list": { "idx": 5, "uri": URI } })).unwrap();
        let mut bits = StatusBits::default();
        bits.set(5, Standing::Suspended);
        let good = json!({
            "iss": "urn:keywitness:acme.example:m1", "sub": URI, "iat": NOW.0, "exp": NOW.0 + 60, "ttl": 30,
            "status_list": bits.compress().unwrap(),
        });
        let header = Header { typ: Some(status::STATUS_LIST_TYPE.to_owned()), ..Issuer::header() };
        let look = |change: fn(&mut Value), newest: Option<Timestamp>| {
            let mut claims = good.clone();
            change(&mut claims);
            let list = issuer.sign(&header, &claims);
            status(&token, &list, &issuer.keys(), newest, NOW).map(|(standing, _)| standing)
        };
        assert_eq!(look(|_| {}, Some(NOW)), Ok(Standing::Suspended));
        assert_eq!(look(|c| c["exp"] = NOW.0.into(), None), Err(TokenError::Expired(NOW)));
        assert!(matches!(look(|_| {}, Some(Timestamp(NOW.0 + 1))), Err(TokenError::Malformed(_))), "rolled back");
        for change in [
            (|c| c["iss"] = "urn:keywitness:acme.example:m2".into()) as fn(&mut Value),
            |c| c["sub"] = "https://manager.example/v1/status-lists/1".into(),
            |c| c["status_list"]["bits"] = 3.into(),
        ] {
            assert!(matches!(look(change, None), Err(TokenError::Malformed(_))));
        }
        // A list signed by another manager's key, and a token passed off as a list.
        let foreign = Issuer::new().sign(&header, &good);
        assert_eq!(status(&token, &foreign, &issuer.keys(), None, NOW).unwrap_err(), TokenError::Signature);
        let confused = issuer.sign(&Issuer::header(), &good);
        assert!(matches!(status(&token, &confused, &issuer.keys(), None, NOW), Err(TokenError::Malformed(_))));
    }

    #[test]
    fn the_older_profile_says_the_same() {
        let issuer = Issuer::new();
        let written = profile::write(claims(), Profile::Legacy);
        assert_eq!(written["eat_profile"], LEGACY_PROFILE);
        let appraisal = &written["submods"]["signing"];
        assert_eq!(appraisal["ear.status"], "affirming");
        assert!(appraisal.get("ear_status").is_none());
        let domain = domain();
        let check =
            |claims: &Value| verify(&issuer.sign(&Issuer::header(), claims), &issuer.keys(), &expected(&domain), NOW);
        assert_eq!(check(&written).unwrap(), check(&claims()).unwrap());
        let mut mixed = written;
        mixed["eat_profile"] = PROFILE.into();
        assert!(matches!(check(&mixed), Err(TokenError::Malformed(_))));
    }
}
