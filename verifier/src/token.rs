//! Verification tokens: EAT attestation results (draft-ietf-rats-ear-04) in a signed JWT, checked offline.

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use keywitness_circuits::{
    ClusterId, Digest, Fingerprint, HsmId, KeyAlgorithm, Kind, ManagerId, Nonce, Shown, Timestamp, TrustDomain,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    evidence::{Binding, Format},
    wire::{Agreement, Base64, KeyRef, rfc3339},
};

pub mod profile;
pub mod status;

pub use profile::{LEGACY_PROFILE, Profile};
pub use status::{StatusClaim, StatusListClaims, StatusReference, status};

/// The EAT profile of draft-ietf-rats-ear-04.
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";

/// `typ` of a token's header (RFC 9711, section 7).
pub const TYPE: &str = "eat+jwt";

/// How far a checker's clock may be from the manager's, in seconds.
pub const LEEWAY: u64 = 30;

/// A token's claims.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The manager: `urn:keywitness:<trust domain>:<manager>`.
    pub iss: String,
    /// Who asked for the token, and checks it.
    pub aud: String,
    /// When it was issued.
    pub iat: Timestamp,
    /// When it expires: never later than the records it rests on.
    pub exp: Timestamp,
    /// Unique name of this token.
    pub jti: String,
    /// [`PROFILE`].
    pub eat_profile: String,
    /// The client's nonce.
    pub eat_nonce: Nonce,
    /// Who appraised.
    pub ear_verifier_id: VerifierId,
    /// The HSM's channel key (RFC 7800).
    pub cnf: Confirmation,
    /// Where to see whether it was revoked since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusClaim>,
    /// One appraisal, named by the key.
    pub submods: BTreeMap<String, Appraisal>,
}

/// Who appraised, and with what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifierId {
    /// Who made the verifier.
    pub developer: String,
    /// Name and version of the verifier.
    pub build: String,
}

/// The key that the token's subject can be reached and recognised by.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Confirmation {
    /// An X25519 key (RFC 8037).
    pub jwk: ChannelJwk,
}

/// An X25519 public key as a JWK.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelJwk {
    /// `OKP`.
    pub kty: String,
    /// `X25519`.
    pub crv: String,
    /// 32 bytes.
    pub x: Base64,
}

impl ChannelJwk {
    /// The JWK of an X25519 public key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { kty: "OKP".to_owned(), crv: "X25519".to_owned(), x: Base64(key.to_vec()) }
    }

    /// The key's bytes, if this is an X25519 key.
    pub fn key(&self) -> Option<[u8; 32]> {
        if self.kty == "OKP" && self.crv == "X25519" { self.x.0.as_slice().try_into().ok() } else { None }
    }
}

/// The trustworthiness tier of an appraisal (AR4SI).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Nothing can be said.
    None,
    /// Everything that was appraised is as it should be.
    Affirming,
    /// Something needs attention.
    Warning,
    /// Something is wrong.
    Contraindicated,
}

/// What the manager found about one key in one HSM.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Appraisal {
    /// The overall tier.
    pub ear_status: Tier,
    /// AR4SI claims. `instance-identity` is about the HSM; `hardware` is there only where evidence says where the key lives.
    pub ear_trustworthiness_vector: BTreeMap<String, i8>,
    /// The policies that were applied.
    pub ear_appraisal_policy_ids: Vec<String>,
    /// An asymmetric key's public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ear_veraison_key_attestation: Option<PublicKeyClaim>,
    /// What was proven.
    #[serde(rename = "urn:keywitness:attestation")]
    pub attestation: KeyAttestation,
}

/// A public key in a token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublicKeyClaim {
    /// DER SubjectPublicKeyInfo.
    pub akpub: Base64,
}

/// What was proven, by whom, and until when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyAttestation {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The manager that checked.
    pub manager: ManagerId,
    /// The HSM's cluster.
    pub cluster: ClusterId,
    /// The HSM.
    pub hsm: HsmId,
    /// Which enrolment of it.
    pub enrolment: u32,
    /// The key.
    pub key: KeyRef,
    /// Its algorithm.
    pub algorithm: KeyAlgorithm,
    /// One entry for each proven statement.
    pub statements: Vec<ProvenStatement>,
    /// For a tagged key, how far its record is agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
    /// For a derived key, what it is derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_from: Option<DerivedFrom>,
    /// Where the key lives, as far as evidence says: `key` where a device's own statement names the key, `platform` where one says
    /// what the HSM runs on, `not-evidenced` without, since a proof shows access and not residence.
    pub residence: String,
    /// The evidence that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceClaim>,
    /// Whether the HSM's cluster must give evidence that it has not given: then the token warns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evidence_missing: bool,
}

/// Evidence of where a key lives, as the manager appraised it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceClaim {
    /// Its format.
    pub format: Format,
    /// Its digest.
    pub digest: Digest,
    /// How far it is bound to the manager's challenge.
    pub binding: Binding,
    /// Who made the device and vouches for it.
    pub vendor: String,
    /// The device, where the evidence names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether the key could leave the device, where the evidence says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extractable: Option<bool>,
    /// When it was appraised.
    pub appraised_at: Timestamp,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

/// The key that a derived key is derived from, attested by the same HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DerivedFrom {
    /// The key.
    pub key: KeyRef,
    /// One entry for each statement proven of it.
    pub statements: Vec<ProvenStatement>,
}

/// One proven statement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProvenStatement {
    /// The statement kind.
    pub kind: Kind,
    /// Digest of its verifying key.
    pub verifying_key: Digest,
    /// The key's fingerprint in the statement's suite.
    pub fingerprint: Fingerprint,
    /// What that shows; left out where it is knowledge.
    #[serde(default, skip_serializing_if = "Shown::is_knowledge")]
    pub shows: Shown,
    /// Whether the verifying key was made by one party, who could forge proofs: for development.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub development_parameters: bool,
    /// Digest of the envelope with the proof.
    pub envelope: Digest,
    /// When it was proven.
    pub proven_at: Timestamp,
    /// Until when it holds.
    pub expires_at: Timestamp,
}

/// The `iss` of a manager.
pub fn issuer(trust_domain: &TrustDomain, manager: &ManagerId) -> String {
    format!("urn:keywitness:{trust_domain}:{manager}")
}

/// What a relying party expects of a token.
pub struct Expected<'a> {
    /// The trust domain that it trusts the JWKS for.
    pub trust_domain: &'a TrustDomain,
    /// Its own name.
    pub audience: &'a str,
    /// The nonce that it sent; `None` accepts any, and so accepts a token that was issued to it before.
    pub nonce: Option<&'a Nonce>,
}

/// A token whose signature, audience, nonce, time and form were checked.
#[derive(Clone, PartialEq, Debug)]
pub struct VerifiedToken(Claims);

impl VerifiedToken {
    /// The claims.
    pub const fn claims(&self) -> &Claims {
        &self.0
    }

    /// The one appraisal.
    pub fn appraisal(&self) -> &Appraisal {
        self.0.submods.values().next().expect("verification refuses a token without exactly one appraisal")
    }

    /// The HSM's channel key.
    pub fn channel_key(&self) -> [u8; 32] {
        self.0.cnf.jwk.key().expect("verification refuses a token without a channel key")
    }
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no JWT of this kind.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// Its key is not in the JWKS.
    #[error("the token is signed by key {0:?}, which is not in the key set; fetch the key set again")]
    UnknownKey(String),
    /// The signature is wrong.
    #[error("the token's signature does not verify")]
    Signature,
    /// It was issued to somebody else.
    #[error("the token is for {0:?}, not for this audience")]
    Audience(String),
    /// It answers another request.
    #[error("the token carries another nonce than the one that was sent")]
    Nonce,
    /// It is of another trust domain.
    #[error("the token is of another trust domain: {0}")]
    TrustDomain(String),
    /// It has expired.
    #[error("the token expired at {}", rfc3339(*.0))]
    Expired(Timestamp),
    /// It comes from the future.
    #[error("the token was issued at {}, in the future of this clock", rfc3339(*.0))]
    NotYet(Timestamp),
    /// It does not affirm.
    #[error("the token does not affirm: {0:?}")]
    NotAffirming(Tier),
}

/// Checks a token offline, at time `now`.
///
/// # Errors
/// Each way in which it can be wrong is its own [`TokenError`].
pub fn verify(
    token: &str,
    keys: &JwkSet,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<VerifiedToken, TokenError> {
    match verify_at_any_tier(token, keys, expected, now)? {
        verified if verified.appraisal().ear_status == Tier::Affirming => Ok(verified),
        other => Err(TokenError::NotAffirming(other.appraisal().ear_status)),
    }
}

/// As [`verify`], for a token that may warn, or worse: whoever calls this looks at `ear_status` and decides.
///
/// # Errors
/// As [`verify`], but for [`TokenError::NotAffirming`].
pub fn verify_at_any_tier(
    token: &str,
    keys: &JwkSet,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<VerifiedToken, TokenError> {
    let claims: serde_json::Value = open(token, keys, TYPE)?;
    let claims: Claims =
        serde_json::from_value(profile::read(claims)).map_err(|error| TokenError::Malformed(error.to_string()))?;
    let malformed = |why: &str| Err(TokenError::Malformed(why.to_owned()));
    if claims.eat_profile != PROFILE {
        return malformed("it is of another EAT profile");
    }
    if claims.aud != expected.audience {
        return Err(TokenError::Audience(claims.aud));
    }
    if expected.nonce.is_some_and(|nonce| *nonce != claims.eat_nonce) {
        return Err(TokenError::Nonce);
    }
    if claims.exp <= now {
        return Err(TokenError::Expired(claims.exp));
    }
    if claims.iat > now.plus(LEEWAY) {
        return Err(TokenError::NotYet(claims.iat));
    }
    let mut appraisals = claims.submods.values();
    let (Some(appraisal), None) = (appraisals.next(), appraisals.next()) else {
        return malformed("it does not hold exactly one appraisal");
    };
    let attestation = &appraisal.attestation;
    if attestation.trust_domain != *expected.trust_domain
        || claims.iss != issuer(&attestation.trust_domain, &attestation.manager)
    {
        return Err(TokenError::TrustDomain(claims.iss));
    }
    let masters = attestation.derived_from.iter().flat_map(|master| &master.statements);
    if attestation.statements.is_empty()
        || attestation.statements.iter().chain(masters).any(|proven| proven.expires_at < claims.exp)
    {
        return malformed("it outlives the records it rests on");
    }
    let every = attestation.statements.iter().chain(attestation.derived_from.iter().flat_map(|from| &from.statements));
    if every.into_iter().any(|proven| proven.shows != proven.kind.shows()) {
        return malformed("a statement does not show what it is said to show");
    }
    if claims.cnf.jwk.key().is_none() {
        return malformed("its channel key is not an X25519 key");
    }
    if attestation.evidence.as_ref().is_some_and(|evidence| evidence.expires_at < claims.exp) {
        return malformed("it outlives the evidence it rests on");
    }
    let worst = appraisal.ear_trustworthiness_vector.values().copied().max().unwrap_or_default();
    if appraisal.ear_status == Tier::Affirming && (worst >= 32 || attestation.evidence_missing) {
        return malformed("it affirms what its own claims do not");
    }
    Ok(VerifiedToken(claims))
}

/// Checks the signature alone. The algorithm is the JWK's, never the token's own word.
fn open<T: DeserializeOwned>(token: &str, keys: &JwkSet, media_type: &str) -> Result<T, TokenError> {
    let malformed = |error: jsonwebtoken::errors::Error| TokenError::Malformed(error.to_string());
    let header = jsonwebtoken::decode_header(token).map_err(malformed)?;
    if header.typ.as_deref() != Some(media_type) {
        return Err(TokenError::Malformed(format!("its type is not {media_type}")));
    }
    let kid = header.kid.ok_or_else(|| TokenError::Malformed("it names no key".to_owned()))?;
    let jwk = keys.find(&kid).ok_or_else(|| TokenError::UnknownKey(kid.clone()))?;
    let algorithm = match jwk.common.key_algorithm {
        Some(jsonwebtoken::jwk::KeyAlgorithm::ES256) => Algorithm::ES256,
        Some(jsonwebtoken::jwk::KeyAlgorithm::EdDSA) => Algorithm::EdDSA,
        _ => return Err(TokenError::Malformed("its key is for another algorithm than ES256 or EdDSA".to_owned())),
    };
    let key = DecodingKey::from_jwk(jwk).map_err(malformed)?;
    let mut validation = Validation::new(algorithm);
    // Time, audience and all other claims are checked by the caller, against its own clock.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    match jsonwebtoken::decode::<T>(token, &key, &validation) {
        Ok(data) => Ok(data.claims),
        Err(error) => match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature | jsonwebtoken::errors::ErrorKind::InvalidAlgorithm => {
                Err(TokenError::Signature)
            }
            _ => Err(malformed(error)),
        },
    }
}

#[cfg(test)]
mod tests;
