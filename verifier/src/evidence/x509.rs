//! Chains of X.509 certificates (RFC 5280, section 6, as far as vendors' chains need it).
//!
//! A chain is given whole and in order, from the leaf to the root, and the root is known by its digest. Nothing is searched for,
//! and no name is matched to a host: what a critical extension says is understood, or the chain is refused.

use keywitness_circuits::{Digest, Timestamp};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    asn1_rs::{FromDer as _, Oid, oid},
    certificate::X509Certificate,
    extensions::ParsedExtension,
    public_key::RSAPublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::{EvidenceError, Trust};

/// Most certificates in a chain.
const MAX_CHAIN: usize = 8;

/// A certificate with the digests of its DER and of its key.
pub(super) struct Certificate<'a> {
    pub(super) x509: X509Certificate<'a>,
    digest: Digest,
    /// What it is revoked by. The whole certificate would not do: an ECDSA signature has a second form, which anybody can
    /// write, and which would be another certificate.
    pub(super) key_digest: Digest,
}

/// Signature algorithms that are believed: RSA PKCS #1 v1.5 and ECDSA with SHA-2, RSASSA-PSS, Ed25519. No SHA-1.
const ALGORITHMS: [Oid<'static>; 7] = [
    oid!(1.2.840.113549.1.1.10),
    oid!(1.2.840.113549.1.1.11),
    oid!(1.2.840.113549.1.1.12),
    oid!(1.2.840.113549.1.1.13),
    oid!(1.2.840.10045.4.3.2),
    oid!(1.2.840.10045.4.3.3),
    oid!(1.3.101.112),
];

/// What the certificate of the key that signs the leaf must say of it. Above that, and in a root that has extensions, every
/// issuer is [`Authority::Declared`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    /// `basicConstraints` with `cA`, and `keyUsage` with `keyCertSign` (RFC 5280, sections 4.2.1.9 and 4.2.1.3).
    Declared,
    /// A YubiHSM's attestation key: its certificate has `cA` and a path length, and no `keyUsage`. One that is there must have
    /// `keyCertSign`.
    WithoutUsage,
    /// A Marvell card: its certificate is of X.509 version 1, which has no extensions. One that has either of the two must have
    /// both, and both must allow it.
    WithoutExtensions,
}

/// Reads the certificates that follow one another in `bytes`.
pub(super) fn read(mut bytes: &[u8]) -> Result<Vec<Certificate<'_>>, EvidenceError> {
    let malformed = |why: &str| EvidenceError::malformed("certificate chain", why);
    let mut chain = Vec::new();
    while !bytes.is_empty() {
        if chain.len() == MAX_CHAIN {
            return Err(malformed("it is longer than 8 certificates"));
        }
        let (rest, x509) = X509Certificate::from_der(bytes).map_err(|_| malformed("it is not DER of certificates"))?;
        let der = bytes.strip_suffix(rest).unwrap_or_default();
        if !is_der(der, &x509) {
            return Err(malformed("it is not DER of certificates"));
        }
        let key_digest = Digest(Sha256::digest(x509.public_key().raw).into());
        chain.push(Certificate { x509, digest: Digest(Sha256::digest(der).into()), key_digest });
        bytes = rest;
    }
    Ok(chain)
}

/// A DER value: its tag, the length of `parts` together, and these.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = body.len().to_be_bytes();
    let length = trim(&length);
    let long = if body.len() < 0x80 { None } else { Some(0x80 | length.len() as u8) };
    [[tag].as_slice(), long.as_slice(), length, &body].concat()
}

/// Whether what nobody signs of a certificate is spelt as it must be: the parser reads other tags there as well.
///
/// The signature covers the first of the three parts, in which the second must stand word for word.
fn is_der(der: &[u8], x509: &X509Certificate<'_>) -> bool {
    let signed = x509.tbs_certificate.as_ref();
    let bits = tlv(0x03, &[&[0], &x509.signature_value.data]);
    let algorithm = der.strip_suffix(bits.as_slice()).and_then(|rest| {
        // After the tag, and a length of one to four bytes.
        (2..=5).find_map(|start| rest.get(start..)?.strip_prefix(signed))
    });
    algorithm.is_some_and(|algorithm| {
        !algorithm.is_empty()
            && signed.windows(algorithm.len()).any(|window| window == algorithm)
            && der == tlv(0x30, &[signed, algorithm, &bits])
    })
}

/// Checks a chain up to a root that is trusted: one of `trust`, or of the vendor's where `trust` has none.
///
/// The leaf is the first. The root is believed for what it is: neither its dates nor its own signature say anything.
pub(super) fn verify(
    chain: &[Certificate<'_>],
    trust: &Trust,
    vendor: &[Digest],
    authority: Authority,
    now: Timestamp,
) -> Result<(), EvidenceError> {
    let (root, below) = chain
        .split_last()
        .filter(|(_, below)| !below.is_empty())
        .ok_or_else(|| EvidenceError::malformed("certificate chain", "it must have a leaf and a root"))?;
    let roots = if trust.roots.is_empty() { vendor } else { &trust.roots };
    if !roots.contains(&root.digest) {
        return Err(root.error("it is not a trusted root"));
    }
    for certificate in chain {
        if trust.revoked.contains(&certificate.key_digest) {
            return Err(certificate.error("its key is revoked"));
        }
    }
    for (depth, pair) in chain.windows(2).enumerate() {
        let [subject, issuer] = pair else { continue };
        subject.is_plain(now)?;
        subject.is_signed_by(issuer)?;
        // The root may be older than extensions are.
        if !std::ptr::eq(issuer, root) || issuer.x509.version().0 == 2 {
            issuer.may_sign(depth, if depth == 0 { authority } else { Authority::Declared })?;
        }
    }
    debug_assert!(!below.is_empty());
    Ok(())
}

impl Certificate<'_> {
    fn error(&self, why: &'static str) -> EvidenceError {
        EvidenceError::Chain { subject: self.x509.subject().to_string(), why }
    }

    /// In force at `now`, of an algorithm that is believed, with no critical extension that is not understood.
    fn is_plain(&self, now: Timestamp) -> Result<(), EvidenceError> {
        let validity = self.x509.validity();
        let now = i64::try_from(now.0).map_err(|_| self.error("the time is out of range"))?;
        if now < validity.not_before.timestamp() {
            return Err(self.error("it is not in force yet"));
        }
        if now > validity.not_after.timestamp() {
            return Err(self.error("it has expired"));
        }
        if !ALGORITHMS.contains(&self.x509.signature_algorithm.algorithm) {
            return Err(self.error("its signature algorithm is not believed"));
        }
        if self.x509.signature_algorithm != self.x509.signature {
            return Err(self.error("it names two signature algorithms"));
        }
        let mut seen = Vec::new();
        for extension in self.x509.extensions() {
            if seen.contains(&&extension.oid) {
                return Err(self.error("it has an extension twice"));
            }
            seen.push(&extension.oid);
            let understood = matches!(
                extension.parsed_extension(),
                ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::KeyUsage(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::SubjectAlternativeName(_)
                    | ParsedExtension::CertificatePolicies(_)
            );
            if extension.critical && !understood {
                return Err(self.error("it has a critical extension that is not understood"));
            }
        }
        Ok(())
    }

    fn is_signed_by(&self, issuer: &Self) -> Result<(), EvidenceError> {
        if self.x509.issuer().as_raw() != issuer.x509.subject().as_raw() {
            return Err(self.error("its issuer is not the next certificate"));
        }
        self.x509
            .verify_signature(Some(issuer.x509.public_key()))
            .map_err(|_| self.error("its signature does not verify"))
    }

    /// May sign certificates with `depth` others between them and the leaf.
    fn may_sign(&self, depth: usize, authority: Authority) -> Result<(), EvidenceError> {
        let constraints =
            self.x509.basic_constraints().map_err(|_| self.error("its basicConstraints cannot be read"))?;
        let usage = self.x509.key_usage().map_err(|_| self.error("its keyUsage cannot be read"))?;
        if authority == Authority::WithoutExtensions && constraints.is_none() && usage.is_none() {
            return Ok(());
        }
        match constraints.map(|constraints| constraints.value) {
            Some(constraints) if constraints.ca => {
                if constraints.path_len_constraint.is_some_and(|length| depth > length as usize) {
                    return Err(self.error("it may not sign so long a chain"));
                }
            }
            _ => return Err(self.error("it is not an authority's")),
        }
        let allowed = usage.map_or(authority == Authority::WithoutUsage, |usage| usage.value.key_cert_sign());
        if allowed { Ok(()) } else { Err(self.error("its key may not sign certificates")) }
    }

    /// The value of an extension that is there once.
    pub(super) fn extension(&self, oid: &Oid<'_>) -> Option<&[u8]> {
        self.x509.get_extension_unique(oid).ok().flatten().map(|extension| extension.value)
    }

    /// SubjectPublicKeyInfo, in DER.
    pub(super) fn spki(&self) -> &[u8] {
        self.x509.public_key().raw
    }

    /// The bytes of the public key: a SEC1 point, or an RSAPublicKey.
    pub(super) fn key(&self) -> &[u8] {
        &self.x509.public_key().subject_public_key.data
    }
}

/// A public key as devices write it.
pub(super) enum PublicKey<'a> {
    /// An elliptic-curve point in SEC1, uncompressed, and its curve.
    Ec { curve: Oid<'a>, point: &'a [u8] },
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa { modulus: &'a [u8], exponent: &'a [u8] },
}

/// NIST P-256.
pub(super) const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);

/// Without leading zeros, as DER's integers have none but for the sign.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

impl<'a> PublicKey<'a> {
    /// Reads exactly one SubjectPublicKeyInfo of an elliptic curve or of RSA.
    pub(super) fn from_spki(spki: &'a [u8]) -> Result<Self, EvidenceError> {
        let malformed = || EvidenceError::malformed("public key", "it is no SubjectPublicKeyInfo of ECDSA or RSA");
        let (rest, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        Self::of(&info, spki).ok_or_else(malformed)
    }

    fn of(info: &SubjectPublicKeyInfo<'a>, spki: &'a [u8]) -> Option<Self> {
        // The bits are the end of the encoding: borrowed from there, and not from what was parsed.
        let bits = spki.get(spki.len().checked_sub(info.subject_public_key.data.len())?..)?;
        if info.algorithm.algorithm == oid!(1.2.840.10045.2.1) {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            return Some(Self::Ec { curve: curve.to_owned(), point: bits });
        }
        if info.algorithm.algorithm == oid!(1.2.840.113549.1.1.1) {
            let (rest, key) = RSAPublicKey::from_der(bits).ok()?;
            return rest.is_empty().then(|| Self::Rsa { modulus: trim(key.modulus), exponent: trim(key.exponent) });
        }
        None
    }
}

/// Checks a signature with the public key of a certificate.
pub(super) fn check(
    algorithm: &'static dyn aws_lc_rs::signature::VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
    what: &'static str,
) -> Result<(), EvidenceError> {
    aws_lc_rs::signature::UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .map_err(|_| EvidenceError::Signature(what))
}
