//! Enrolment of an attestation key: a credential that only the TPM can open which holds both that key and the endorsement key of a
//! certificate (TCG TPM 2.0 Library, Part 1, section 24; TPM2_MakeCredential and TPM2_ActivateCredential).

use std::fmt;

use aws_lc_rs::{
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
    constant_time::verify_slices_are_equal,
    hmac,
    iv::FixedLength,
    rand::SystemRandom,
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use keywitness_circuits::{Digest, Timestamp};
use rand::{RngCore as _, rngs::OsRng};
use sha2::{Digest as _, Sha256};
use x509_parser::asn1_rs::{Oid, oid};
use zeroize::Zeroizing;

use super::{
    super::{
        EvidenceError, Tpm2Policy,
        x509::{self, Authority, P256, PublicKey},
    },
    device, is_attestation_key,
    structures::Public,
};

/// tcg-kp-EKCertificate (TCG EK Credential Profile, section 3.2.16).
const EK_CERTIFICATE: Oid<'static> = oid!(2.23.133.8.1);

/// What a seed, and from it the keys, are for. Each ends in a zero byte (Part 1, section 11.4.10).
const IDENTITY: &[u8] = b"IDENTITY\0";
const STORAGE: &[u8] = b"STORAGE\0";
const INTEGRITY: &[u8] = b"INTEGRITY\0";

fn failed<T>(_: T) -> EvidenceError {
    EvidenceError::malformed("endorsement key", "nothing can be sealed to it")
}

/// An endorsement key whose certificate the policy's roots sign: 2048-bit RSA or P-256, with AES-128 and SHA-256, as in the TCG's
/// default templates L-1 and L-2.
#[derive(Debug)]
pub struct Endorsement {
    spki: Vec<u8>,
    keys: Vec<Digest>,
}

/// What a TPM gets: TPM2_ActivateCredential's `credentialBlob` and `secret`, each with its length before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// TPM2B_ID_OBJECT.
    pub blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub secret: Vec<u8>,
}

/// What the one who made a credential keeps until it is answered.
pub struct Pending {
    secret: Zeroizing<[u8; 32]>,
    device: String,
}

/// An attestation key that was shown to be in the TPM of an endorsement certificate. Nothing but [`Pending::answered`] makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Activated {
    device: String,
}

impl Activated {
    /// What evidence of this TPM names in [`super::super::Facts::device`], and [`super::super::Subject::device`] must give.
    pub fn device(&self) -> &str {
        &self.device
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Pending {
    /// What a ledger keeps instead: the SHA-256 of the secret, which is as good to compare an answer with and tells nobody the
    /// answer, and the device that a right answer shows.
    pub fn into_parts(self) -> (Digest, String) {
        (Digest(Sha256::digest(*self.secret).into()), self.device)
    }

    /// Compares a TPM's answer with the secret that the credential holds.
    pub fn answered(self, answer: &[u8]) -> Result<Activated, EvidenceError> {
        verify_slices_are_equal(&*self.secret, answer).map_err(|_| {
            EvidenceError::refused("the answer is not the credential's secret: another TPM holds the key")
        })?;
        Ok(Activated { device: self.device })
    }
}

impl Tpm2Policy {
    /// Checks the chain of an endorsement key's certificate, DER from the leaf to a root that the policy names.
    pub fn endorse(&self, chain: &[u8], now: Timestamp) -> Result<Endorsement, EvidenceError> {
        let chain = x509::read(chain)?;
        // Makers of TPMs have many roots, and none is trusted unless it is named.
        x509::verify(&chain, &self.trust, &[], Authority::Declared, now)?;
        let leaf = chain.first().ok_or_else(|| failed(()))?;
        let usage = leaf.x509.extended_key_usage().ok().flatten();
        if !usage.is_some_and(|usage| usage.value.other.contains(&EK_CERTIFICATE)) {
            return Err(EvidenceError::refused("the certificate is not of an endorsement key"));
        }
        let keys = chain.iter().map(|certificate| certificate.key_digest).collect();
        Ok(Endorsement { spki: leaf.spki().to_vec(), keys })
    }
}

impl Endorsement {
    /// The keys of the chain, from the endorsement key to the root, as [`super::super::Trust::revoked`] names keys: whoever keeps
    /// them with the device sees when one is revoked afterwards.
    pub fn keys(&self) -> &[Digest] {
        &self.keys
    }

    /// Makes a credential for the attestation key whose TPMT_PUBLIC is given, with a fresh secret.
    ///
    /// What the TPM opens is worth something only if the key may not leave it and signs nothing but its statements, so any
    /// other is refused.
    pub fn challenge(&self, attestation_key: &[u8]) -> Result<(Credential, Pending), EvidenceError> {
        let public = Public::read(attestation_key)?;
        if !is_attestation_key(public.attributes) {
            return Err(EvidenceError::refused(
                "the key is not an attestation key: make it fixedTPM, fixedParent, restricted and for signing",
            ));
        }
        let mut secret = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(&mut *secret);
        let name = public.name();
        let (seed, encrypted) = self.seed()?;
        let credential = Credential { blob: protect(&seed, &name, &*secret)?, secret: sized(&encrypted) };
        Ok((credential, Pending { secret, device: device(name) }))
    }

    /// A seed, and the seed as only the endorsement key opens it (Part 1, annexes B.10.4 and C.6.4).
    fn seed(&self) -> Result<(Zeroizing<[u8; 32]>, Vec<u8>), EvidenceError> {
        match PublicKey::from_spki(&self.spki)? {
            PublicKey::Rsa { modulus, .. } if modulus.len() == 256 => {
                let mut seed = Zeroizing::new([0; 32]);
                OsRng.fill_bytes(&mut *seed);
                let key = PublicEncryptingKey::from_der(&self.spki).map_err(failed)?;
                let key = OaepPublicEncryptingKey::new(key).map_err(failed)?;
                let mut sealed = vec![0; key.ciphertext_size()];
                key.encrypt(&OAEP_SHA256_MGF1SHA256, &*seed, &mut sealed, Some(IDENTITY)).map_err(failed)?;
                Ok((seed, sealed))
            }
            PublicKey::Ec { curve, point } if curve == P256 => {
                let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).map_err(failed)?;
                let public = own.compute_public_key().map_err(failed)?;
                let (own_x, own_y) = coordinates(public.as_ref()).ok_or_else(|| failed(()))?;
                let (x, _) = coordinates(point).ok_or_else(|| failed(()))?;
                let seed = agree_ephemeral(own, UnparsedPublicKey::new(&ECDH_P256, point), failed(()), |shared| {
                    Ok(kdf_e(shared, IDENTITY, own_x, x))
                })?;
                Ok((seed, [sized(own_x), sized(own_y)].concat()))
            }
            _ => Err(EvidenceError::refused("the endorsement key is neither 2048-bit RSA nor P-256")),
        }
    }
}

/// x and y of an uncompressed point of P-256.
fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = point.strip_prefix(&[4]).filter(|rest| rest.len() == 64)?;
    rest.split_at_checked(32)
}

/// A buffer with its length before it (TPM2B).
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// KDFe with SHA-256 for 256 bits (Part 1, section 11.4.10.3).
fn kdf_e(shared: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8]) -> Zeroizing<[u8; 32]> {
    let hash = Sha256::new().chain_update(1u32.to_be_bytes()).chain_update(shared).chain_update(label);
    Zeroizing::new(hash.chain_update(party_u).chain_update(party_v).finalize().into())
}

/// KDFa with HMAC-SHA-256 for at most 256 bits (Part 1, section 11.4.10.2).
fn kdf_a(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Zeroizing<Vec<u8>> {
    let mut hmac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    let parts: [&[u8]; 4] = [&1u32.to_be_bytes(), label, context, &bits.to_be_bytes()];
    parts.into_iter().for_each(|part| hmac.update(part));
    Zeroizing::new(hmac.sign().as_ref().iter().take(bits as usize / 8).copied().collect())
}

/// TPM2B_ID_OBJECT: the secret, encrypted and authenticated under the seed with the Name of the key (Part 1, section 24.4).
fn protect(seed: &[u8; 32], name: &[u8], secret: &[u8]) -> Result<Vec<u8>, EvidenceError> {
    let key = UnboundCipherKey::new(&AES_128, &kdf_a(seed, STORAGE, name, 128)).map_err(failed)?;
    let mut identity = sized(secret);
    // The key is used once, so the zero vector that the specification sets is no weakness.
    EncryptingKey::cfb128(key)
        .and_then(|key| key.less_safe_encrypt(&mut identity, EncryptionContext::Iv128(FixedLength::from([0; 16]))))
        .map_err(failed)?;
    let mut hmac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &kdf_a(seed, INTEGRITY, &[], 256)));
    hmac.update(&identity);
    hmac.update(name);
    Ok(sized(&[sized(hmac.sign().as_ref()), identity].concat()))
}
