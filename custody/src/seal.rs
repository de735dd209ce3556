//! Shares sealed to their holders: HPKE (RFC 9180) in base mode with DHKEM(P-256, HKDF-SHA256), HKDF-SHA256 and
//! ChaCha20-Poly1305.
//!
//! P-256, and not X25519: in a group of prime order with canonical points, a Diffie-Hellman point can be published and proven
//! to be the right one by a proof of equal logarithms, which is how a holder shows the world a bad share. On X25519 points are
//! x-coordinates under a cofactor, and no such proof fits them.
//!
//! A holder opens with the `hpke` crate. Sealing, and opening with a published Diffie-Hellman point, run the key schedule
//! here, because the sender must prove that it knows its ephemeral key and the judge has no private key; the crate offers
//! neither. Tests compare the two byte for byte.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::Aead, aead::Payload};
use hkdf::{Hkdf, HkdfExtract};
use hpke::{Deserializable, OpModeR, kem::DhP256HkdfSha256};
use keywitness_circuits::{
    codec::{Canonical, Reader, Writer},
    key_knowledge::schnorr::{P256, SchnorrGroup},
    sigma::SigmaGroup,
};
use p256::{ProjectivePoint, elliptic_curve::sec1::ToEncodedPoint};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Error;

/// KEM 0x0010, and the whole suite: KEM 0x0010, KDF 0x0001, AEAD 0x0003 (RFC 9180, section 7).
const KEM_SUITE: &[u8] = b"KEM\x00\x10";
const HPKE_SUITE: &[u8] = b"HPKE\x00\x10\x00\x01\x00\x03";
const VERSION: &[u8] = b"HPKE-v1";

/// Bytes that sealing adds to a plaintext.
pub const TAG: usize = 16;

/// A holder's public sealing key: a P-256 point in its compressed SEC1 encoding, checked, not the identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SealingKey([u8; 33]);

impl SealingKey {
    /// Checks an encoded key.
    ///
    /// # Errors
    /// [`Error::Refused`] for anything but the compressed encoding of a point of the curve.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Ok(<Self as Canonical>::from_bytes(bytes)?)
    }

    /// The encoded key.
    pub const fn as_bytes(&self) -> &[u8; 33] {
        &self.0
    }

    pub(crate) fn point(&self) -> Result<ProjectivePoint, Error> {
        point(&self.0)
    }
}

impl Canonical for SealingKey {
    const WHAT: &'static str = "sealing key";
    fn write(&self, writer: &mut Writer) {
        writer.array(&self.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        let bytes: [u8; 33] = reader.array()?;
        match P256::point_from_bytes(&bytes) {
            Some(_) => Ok(Self(bytes)),
            None => Err(reader.error("it is not the compressed encoding of a point of P-256")),
        }
    }
}

/// Decodes a compressed point; refuses the identity.
pub(crate) fn point(bytes: &[u8; 33]) -> Result<ProjectivePoint, Error> {
    let refused = keywitness_circuits::Error::Malformed { what: "P-256 point", why: "it is not canonical" };
    P256::point_from_bytes(bytes).ok_or(Error::Refused(refused))
}

/// Encodes a point that is not the identity.
pub(crate) fn encode(point: &ProjectivePoint) -> Result<[u8; 33], Error> {
    let refused = keywitness_circuits::Error::Malformed { what: "P-256 point", why: "it is the identity" };
    P256::encode(point).and_then(|bytes| bytes.try_into().ok()).ok_or(Error::Refused(refused))
}

/// A holder's sealing key pair. Wiped on drop, never printed.
pub struct HolderKey {
    secret: Zeroizing<p256::Scalar>,
    public: SealingKey,
}

impl HolderKey {
    /// Makes a key pair.
    pub fn generate() -> Self {
        loop {
            let secret = p256::SecretKey::random(&mut rand::rngs::OsRng);
            if let Ok(key) = Self::from_bytes(&Zeroizing::new(secret.to_bytes())) {
                return key;
            }
        }
    }

    /// Reads a private key: 32 bytes, big-endian, not zero and below the group order.
    ///
    /// # Errors
    /// [`Error::Refused`]
    pub fn from_bytes(secret: &[u8]) -> Result<Self, Error> {
        let range = keywitness_circuits::Error::WitnessRefused("the sealing key is out of range");
        let secret = P256::secret_from_bytes(secret).ok_or(Error::Refused(range))?;
        let public = SealingKey(encode(&P256::times(&P256::generator(), &secret))?);
        Ok(Self { secret, public })
    }

    /// The private key's bytes.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(P256::scalar_to_bytes(&self.secret))
    }

    /// The public key.
    pub const fn public(&self) -> &SealingKey {
        &self.public
    }

    /// Opens what was sealed to this key; none if it does not open.
    pub fn open(&self, enc: &[u8; 33], info: &[u8], aad: &[u8], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        type Kem = DhP256HkdfSha256;
        let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(&*self.to_bytes()).ok()?;
        let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(&uncompressed(&point(enc).ok()?)).ok()?;
        let mut context = hpke::setup_receiver::<hpke::aead::ChaCha20Poly1305, hpke::kdf::HkdfSha256, Kem>(
            &OpModeR::Base,
            &secret,
            &enc,
            info,
        )
        .ok()?;
        context.open(ciphertext, aad).ok().map(Zeroizing::new)
    }

    #[cfg(feature = "prove")]
    pub(crate) fn secret(&self) -> &p256::Scalar {
        &self.secret
    }
}

impl std::fmt::Debug for HolderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HolderKey({:?}, secret)", self.public)
    }
}

/// SEC1 without compression, as HPKE writes points (RFC 9180, section 7.1.1).
fn uncompressed(point: &ProjectivePoint) -> Vec<u8> {
    point.to_affine().to_encoded_point(false).as_bytes().to_vec()
}

/// LabeledExtract (RFC 9180, section 4).
fn labeled_extract(salt: &[u8], suite: &[u8], label: &[u8], ikm: &[u8]) -> ([u8; 32], Hkdf<Sha256>) {
    let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
    for part in [VERSION, suite, label, ikm] {
        extract.input_ikm(part);
    }
    let (prk, hkdf) = extract.finalize();
    (prk.into(), hkdf)
}

/// LabeledExpand (RFC 9180, section 4).
fn labeled_expand<const N: usize>(prk: &Hkdf<Sha256>, suite: &[u8], label: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    let length = (N as u16).to_be_bytes();
    prk.expand_multi_info(&[&length, VERSION, suite, label, info], &mut *out).expect("at most 32 bytes are asked for");
    out
}

/// What one message is encrypted under. Wiped on drop.
struct MessageKey {
    key: Zeroizing<[u8; 32]>,
    nonce: Zeroizing<[u8; 12]>,
}

/// Key and nonce of the first message under the Diffie-Hellman point `dh`: ExtractAndExpand (section 4.1) and KeySchedule in
/// base mode (section 5.1).
fn schedule(
    dh: &ProjectivePoint,
    enc: &ProjectivePoint,
    recipient: &ProjectivePoint,
    info: &[u8],
) -> Option<MessageKey> {
    let dh = Zeroizing::new(P256::encode(dh)?);
    let (_, x_coordinate) = dh.split_first()?;
    let kem_context = [uncompressed(enc), uncompressed(recipient)].concat();
    let (_, eae) = labeled_extract(&[], KEM_SUITE, b"eae_prk", x_coordinate);
    let shared_secret = labeled_expand::<32>(&eae, KEM_SUITE, b"shared_secret", &kem_context);
    let (psk_id_hash, _) = labeled_extract(&[], HPKE_SUITE, b"psk_id_hash", &[]);
    let (info_hash, _) = labeled_extract(&[], HPKE_SUITE, b"info_hash", info);
    let context = [&[0], psk_id_hash.as_slice(), &info_hash].concat();
    let (_, secret) = labeled_extract(&*shared_secret, HPKE_SUITE, b"secret", &[]);
    Some(MessageKey {
        key: labeled_expand(&secret, HPKE_SUITE, b"key", &context),
        nonce: labeled_expand(&secret, HPKE_SUITE, b"base_nonce", &context),
    })
}

/// Opens a sealed message with its Diffie-Hellman point; none if it does not open.
pub(crate) fn open_with_point(
    dh: &ProjectivePoint,
    enc: &[u8; 33],
    recipient: &SealingKey,
    info: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let MessageKey { key, nonce } = schedule(dh, &point(enc).ok()?, &recipient.point().ok()?, info)?;
    let cipher = ChaCha20Poly1305::new(key.as_slice().into());
    cipher.decrypt(nonce.as_slice().into(), Payload { msg: ciphertext, aad }).ok().map(Zeroizing::new)
}

/// Seals to `recipient` from an ephemeral key of the caller's, which must be fresh: the ciphertext.
#[cfg(feature = "prove")]
pub(crate) fn seal_from(
    ephemeral: &HolderKey,
    recipient: &SealingKey,
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, Error> {
    let refused = keywitness_circuits::Error::Malformed { what: "sealed share", why: "it cannot be sealed" };
    let recipient = recipient.point()?;
    let dh = Zeroizing::new(P256::times(&recipient, ephemeral.secret()));
    let sealed = schedule(&dh, &ephemeral.public.point()?, &recipient, info).and_then(|MessageKey { key, nonce }| {
        let cipher = ChaCha20Poly1305::new(key.as_slice().into());
        cipher.encrypt(nonce.as_slice().into(), Payload { msg: plaintext, aad }).ok()
    });
    sealed.ok_or(Error::Refused(refused))
}

#[cfg(all(test, feature = "prove"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use hpke::{Kem, OpModeS, Serializable};

    use super::*;

    type Aead = hpke::aead::ChaCha20Poly1305;
    type Kdf = hpke::kdf::HkdfSha256;

    #[test]
    fn the_crate_opens_what_we_seal() {
        let (holder, ephemeral) = (HolderKey::generate(), HolderKey::generate());
        for plaintext in [&b""[..], b"a share", &[7; 64]] {
            let sealed = seal_from(&ephemeral, holder.public(), b"info", b"aad", plaintext).unwrap();
            assert_eq!(sealed.len(), plaintext.len() + TAG);
            let enc = ephemeral.public().as_bytes();
            assert_eq!(*holder.open(enc, b"info", b"aad", &sealed).unwrap(), plaintext);
            assert!(holder.open(enc, b"other", b"aad", &sealed).is_none());
            assert!(holder.open(enc, b"info", b"other", &sealed).is_none());
            assert!(HolderKey::generate().open(enc, b"info", b"aad", &sealed).is_none());
        }
    }

    #[test]
    fn we_open_what_the_crate_seals_with_the_point_alone() {
        let holder = HolderKey::generate();
        let public = uncompressed(&holder.public().point().unwrap());
        let public = <DhP256HkdfSha256 as Kem>::PublicKey::from_bytes(&public).unwrap();
        let (enc, sealed) = hpke::single_shot_seal::<Aead, Kdf, DhP256HkdfSha256, _>(
            &OpModeS::Base,
            &public,
            b"info",
            b"the share",
            b"aad",
            &mut rand::rngs::OsRng,
        )
        .unwrap();
        let enc = p256::PublicKey::from_sec1_bytes(&enc.to_bytes()).unwrap().to_projective();
        let bytes = encode(&enc).unwrap();
        let dh = P256::times(&enc, holder.secret());
        let opened = open_with_point(&dh, &bytes, holder.public(), b"info", b"aad", &sealed).unwrap();
        assert_eq!(*opened, b"the share");
        let wrong = dh + ProjectivePoint::GENERATOR;
        assert!(open_with_point(&wrong, &bytes, holder.public(), b"info", b"aad", &sealed).is_none());
        assert!(
            open_with_point(&ProjectivePoint::IDENTITY, &bytes, holder.public(), b"info", b"aad", &sealed).is_none()
        );
    }

    #[test]
    fn keys_are_canonical() {
        let key = HolderKey::generate();
        assert_eq!(SealingKey::from_bytes(key.public().as_bytes()).unwrap(), *key.public());
        assert_eq!(HolderKey::from_bytes(&*key.to_bytes()).unwrap().public(), key.public());
        for bytes in [&[0; 33][..], &[2; 32], &[0xff; 33], &[0], &uncompressed(&key.public().point().unwrap())] {
            assert!(SealingKey::from_bytes(bytes).is_err());
        }
        assert!(HolderKey::from_bytes(&[0; 32]).is_err());
        assert!(HolderKey::from_bytes(&[0xff; 32]).is_err());
        assert!(HolderKey::from_bytes(&[1; 31]).is_err());
        assert!(!format!("{key:?}").contains(&format!("{:?}", &key.to_bytes()[..4])));
    }
}
