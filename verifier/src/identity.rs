//! Identity keys: who sent an envelope, a request or an enrolment.
//!
//! Until one of these checks passes, nothing that arrived is counted, consumed or logged against an HSM.

use data_encoding::BASE64URL_NOPAD;
use keywitness_circuits::{
    Digest, Envelope, Error, HsmId, ManagerId, Nonce, Timestamp, TrustDomain,
    codec::{Canonical, Reader, Writer},
    key_knowledge::eddsa,
    transcript::label,
};
use serde::{Deserialize, Serialize};

/// An HSM's public identity key: Ed25519, canonical, free of torsion, not the identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Digest", into = "Digest")]
pub struct IdentityKey([u8; 32]);

/// The signature is not the identity key's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identity signature does not verify")]
pub struct NotAuthentic;

impl IdentityKey {
    /// Checks an encoded public key.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything but the canonical encoding of a usable point.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, Error> {
        match eddsa::decode_public_key(&bytes) {
            Some(_) => Ok(Self(bytes)),
            None => Err(Error::Malformed {
                what: "identity key",
                why: "it is not the canonical encoding of a usable point",
            }),
        }
    }

    /// The encoded public key.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Checks who sealed an envelope.
    ///
    /// # Errors
    /// [`NotAuthentic`]
    pub fn check_envelope(&self, envelope: &Envelope) -> Result<(), NotAuthentic> {
        self.check(&envelope.signed_message(), &envelope.signature)
    }

    pub(crate) fn check(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), NotAuthentic> {
        if eddsa::verify_signature(&self.0, message, signature) { Ok(()) } else { Err(NotAuthentic) }
    }
}

impl TryFrom<Digest> for IdentityKey {
    type Error = Error;
    fn try_from(bytes: Digest) -> Result<Self, Error> {
        Self::from_bytes(bytes.0)
    }
}

impl From<IdentityKey> for Digest {
    fn from(key: IdentityKey) -> Self {
        Self(key.0)
    }
}

/// Whom a request is for: one manager of one trust domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Audience {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The manager.
    pub manager: ManagerId,
}

/// What an HSM signs of an HTTP request.
#[derive(Clone, Copy)]
pub struct RequestParts<'a> {
    /// Whom it is for.
    pub audience: &'a Audience,
    /// HTTP method, upper case.
    pub method: &'a str,
    /// Path, without query.
    pub path: &'a str,
    /// The body's bytes.
    pub body: &'a [u8],
}

/// An HSM's authentication of one HTTP request: `authorization: Keywitness-HSM <base64url>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestAuth {
    /// Who asks.
    pub hsm: HsmId,
    /// When the request was made, by the HSM's clock.
    pub created: Timestamp,
    /// Makes the request unlike every other.
    pub nonce: Nonce,
    /// Ed25519 signature of the identity key.
    pub signature: [u8; 64],
}

/// The authorization scheme's name.
pub const SCHEME: &str = "Keywitness-HSM";

/// How far an HSM's clock may be from the manager's, in seconds.
pub const MAX_SKEW: u64 = 60;

impl RequestAuth {
    /// Signs a request; `sign` signs with the HSM's identity key.
    pub fn sign(
        hsm: HsmId,
        created: Timestamp,
        parts: &RequestParts<'_>,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Self {
        let mut auth = Self { hsm, created, nonce: Nonce::random(), signature: [0; 64] };
        auth.signature = sign(&signed(label::REQUEST, &auth.digest(parts)));
        auth
    }

    /// Checks the signature. The caller compares `created` with its clock.
    ///
    /// # Errors
    /// [`NotAuthentic`]
    pub fn check(&self, key: &IdentityKey, parts: &RequestParts<'_>) -> Result<(), NotAuthentic> {
        key.check(&signed(label::REQUEST, &self.digest(parts)), &self.signature)
    }

    /// Digest of everything that is signed: the same for the same request sent twice.
    pub fn digest(&self, parts: &RequestParts<'_>) -> Digest {
        let mut writer = Writer::default();
        writer
            .value(&parts.audience.trust_domain)
            .value(&parts.audience.manager)
            .bytes(parts.method.as_bytes())
            .bytes(parts.path.as_bytes())
            .bytes(parts.body)
            .value(&self.hsm)
            .value(&self.created)
            .value(&self.nonce);
        Digest::of(label::REQUEST, &writer.into_bytes())
    }

    /// The value of the `authorization` header.
    pub fn to_header(&self) -> String {
        format!("{SCHEME} {}", BASE64URL_NOPAD.encode(&self.to_bytes()))
    }

    /// Reads the value of an `authorization` header.
    ///
    /// # Errors
    /// [`Error::Malformed`]
    pub fn from_header(value: &str) -> Result<Self, Error> {
        let malformed = |why| Error::Malformed { what: "authorization header", why };
        let (scheme, encoded) = value.split_once(' ').ok_or(malformed("it has no scheme"))?;
        if scheme != SCHEME {
            return Err(malformed("its scheme is not Keywitness-HSM"));
        }
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| malformed("it is not base64url"))?;
        Self::from_bytes(&bytes)
    }
}

impl Canonical for RequestAuth {
    const WHAT: &'static str = "request authentication";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.hsm).value(&self.created).value(&self.nonce).array(&self.signature);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { hsm: reader.value()?, created: reader.value()?, nonce: reader.value()?, signature: reader.array()? })
    }
}

/// What an HSM signs, with the identity key it brings, to enrol.
pub struct EnrolmentParts<'a> {
    /// Whom it enrols with.
    pub audience: &'a Audience,
    /// The single-use join token.
    pub join_token: &'a str,
    /// The name it takes.
    pub hsm: &'a HsmId,
    /// Its identity key.
    pub identity_key: &'a IdentityKey,
    /// Its X25519 channel key.
    pub channel_key: &'a [u8; 32],
}

impl EnrolmentParts<'_> {
    fn message(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer
            .value(&self.audience.trust_domain)
            .value(&self.audience.manager)
            .bytes(self.join_token.as_bytes())
            .value(self.hsm)
            .array(&self.identity_key.0)
            .array(self.channel_key);
        signed(label::ENROL, &Digest::of(label::ENROL, &writer.into_bytes()))
    }

    /// Signs the enrolment; `sign` signs with the identity key.
    pub fn sign(&self, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> [u8; 64] {
        sign(&self.message())
    }

    /// As [`Self::sign`], where signing may fail.
    ///
    /// # Errors
    /// What signing says.
    pub fn try_sign<E>(&self, sign: impl FnOnce(&[u8]) -> Result<[u8; 64], E>) -> Result<[u8; 64], E> {
        sign(&self.message())
    }

    /// Checks that the enrolling HSM holds the identity key.
    ///
    /// # Errors
    /// [`NotAuthentic`]
    pub fn check(&self, signature: &[u8; 64]) -> Result<(), NotAuthentic> {
        self.identity_key.check(&self.message(), signature)
    }
}

fn signed(label: &str, digest: &Digest) -> Vec<u8> {
    [label.as_bytes(), &[0], &digest.0].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn audience(trust_domain: &str, manager: &str) -> Audience {
        Audience { trust_domain: trust_domain.parse().unwrap(), manager: manager.parse().unwrap() }
    }

    #[test]
    fn a_request_is_authentic_for_exactly_what_was_signed() {
        let secret = SigningKey::generate(&mut rand::rngs::OsRng);
        let key = IdentityKey::from_bytes(secret.verifying_key().to_bytes()).unwrap();
        let here = audience("acme.example", "m1");
        let parts = RequestParts { audience: &here, method: "POST", path: "/v1/keys", body: b"{}" };
        let sign = |message: &[u8]| secret.sign(message).to_bytes();
        let auth = RequestAuth::sign("hsm-1".parse().unwrap(), Timestamp(5), &parts, sign);
        let auth = RequestAuth::from_header(&auth.to_header()).unwrap();
        auth.check(&key, &parts).unwrap();
        let (elsewhere, other) = (audience("other.example", "m1"), audience("acme.example", "m2"));
        for changed in [
            RequestParts { audience: &elsewhere, ..parts },
            RequestParts { audience: &other, ..parts },
            RequestParts { method: "PUT", ..parts },
            RequestParts { path: "/v1/channel", ..parts },
            RequestParts { body: b"{ }", ..parts },
        ] {
            assert_eq!(auth.check(&key, &changed), Err(NotAuthentic));
        }
        for changed in [
            RequestAuth { hsm: "hsm-2".parse().unwrap(), ..auth.clone() },
            RequestAuth { created: Timestamp(6), ..auth.clone() },
            RequestAuth { nonce: Nonce([0; 32]), ..auth.clone() },
            RequestAuth { signature: [0; 64], ..auth.clone() },
        ] {
            assert_eq!(changed.check(&key, &parts), Err(NotAuthentic));
        }
        for header in ["", "Bearer x", "Keywitness-HSM", "Keywitness-HSM !", "Keywitness-HSM AAAA"] {
            RequestAuth::from_header(header).unwrap_err();
        }
    }
}
