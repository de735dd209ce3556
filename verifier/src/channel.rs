//! The channel to an HSM: requests sealed to the channel key that a verification token names, answers that
//! only the holder of that key can make.
//!
//! HPKE (RFC 9180) in base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. The answer is sealed
//! as in Oblivious HTTP (RFC 9458, section 4.4): under a key and nonce that depend on a secret exported from the
//! same context, so that it answers this request and no other, and on a random response nonce, so that a request
//! that is sent twice is never answered under the same key and nonce. `info` names trust domain and HSM: a request to one HSM opens at no
//! other, even where two of them were enrolled with one channel key.

use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, aead::Aead};
use hkdf::Hkdf;
use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305 as HpkeAead, kdf::HkdfSha256,
    kem::X25519HkdfSha256 as HpkeKem,
};
use keywitness_circuits::{HsmId, TrustDomain, codec::Writer, transcript::label};
use rand::{RngCore, rngs::OsRng};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of an encapsulated key.
const ENCAPSULATED: usize = 32;

/// The channel failed: a wrong key, a wrong peer, or changed bytes. It does not say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed message does not open")]
pub struct ChannelError;

/// Bytes of a response nonce.
const RESPONSE_NONCE: usize = 32;

/// Opens or seals an answer to one request.
pub struct AnswerKey {
    encapsulated: [u8; ENCAPSULATED],
    exported: Zeroizing<[u8; 32]>,
}

impl AnswerKey {
    /// The key, for another process of the same HSM.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 64]> {
        let mut bytes = Zeroizing::new([0; 64]);
        let (encapsulated, exported) = bytes.split_at_mut(ENCAPSULATED);
        encapsulated.copy_from_slice(&self.encapsulated);
        exported.copy_from_slice(&*self.exported);
        bytes
    }

    /// The key of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let (mut encapsulated, mut exported) = ([0; ENCAPSULATED], Zeroizing::new([0; 32]));
        let (head, tail) = bytes.split_at(ENCAPSULATED);
        encapsulated.copy_from_slice(head);
        exported.copy_from_slice(tail);
        Self { encapsulated, exported }
    }

    fn cipher(&self, response_nonce: &[u8]) -> Result<(ChaCha20Poly1305, [u8; 12]), ChannelError> {
        let salt = [&self.encapsulated, response_nonce].concat();
        let hkdf = Hkdf::<Sha256>::new(Some(&salt), &*self.exported);
        let (mut key, mut nonce) = (Zeroizing::new([0; 32]), [0; 12]);
        hkdf.expand(b"key", &mut *key).map_err(|_| ChannelError)?;
        hkdf.expand(b"nonce", &mut nonce).map_err(|_| ChannelError)?;
        Ok((ChaCha20Poly1305::new(Key::from_slice(&*key)), nonce))
    }

    /// Seals the answer.
    ///
    /// # Errors
    /// [`ChannelError`] for an answer too long for the cipher.
    pub fn seal(self, answer: &[u8]) -> Result<Vec<u8>, ChannelError> {
        let mut response_nonce = [0; RESPONSE_NONCE];
        OsRng.fill_bytes(&mut response_nonce);
        let (cipher, nonce) = self.cipher(&response_nonce)?;
        let sealed = cipher.encrypt(&nonce.into(), answer).map_err(|_| ChannelError)?;
        Ok([&response_nonce, sealed.as_slice()].concat())
    }

    /// Opens the answer.
    ///
    /// # Errors
    /// [`ChannelError`] unless the holder of the channel key sealed it for this request.
    pub fn open(self, sealed: &[u8]) -> Result<Vec<u8>, ChannelError> {
        let (response_nonce, sealed) = sealed.split_at_checked(RESPONSE_NONCE).ok_or(ChannelError)?;
        let (cipher, nonce) = self.cipher(response_nonce)?;
        cipher.decrypt(&nonce.into(), sealed).map_err(|_| ChannelError)
    }
}

fn info(trust_domain: &TrustDomain, hsm: &HsmId) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(label::CHANNEL.as_bytes()).value(trust_domain).value(hsm);
    writer.into_bytes()
}

/// Makes a channel key pair: secret, public.
pub fn generate_key() -> (Zeroizing<[u8; 32]>, [u8; 32]) {
    let (secret, public) = HpkeKem::gen_keypair(&mut OsRng);
    (Zeroizing::new(secret.to_bytes().into()), public.to_bytes().into())
}

/// Whether requests can be sealed to this channel key: an X25519 key that is not of small order.
pub fn is_usable_key(channel_key: &[u8; 32]) -> bool {
    let (Ok(trust_domain), Ok(hsm)) = ("probe".parse(), "probe".parse()) else { return false };
    seal_request(&trust_domain, &hsm, channel_key, b"").is_ok()
}

/// Seals `request` to the HSM whose channel key is `channel_key`.
///
/// # Errors
/// [`ChannelError`] when the key is no usable X25519 key.
pub fn seal_request(
    trust_domain: &TrustDomain,
    hsm: &HsmId,
    channel_key: &[u8; 32],
    request: &[u8],
) -> Result<(Vec<u8>, AnswerKey), ChannelError> {
    let public = <HpkeKem as hpke::Kem>::PublicKey::from_bytes(channel_key).map_err(|_| ChannelError)?;
    let (encapsulated, mut context) = hpke::setup_sender::<HpkeAead, HkdfSha256, HpkeKem, _>(
        &OpModeS::Base,
        &public,
        &info(trust_domain, hsm),
        &mut OsRng,
    )
    .map_err(|_| ChannelError)?;
    let sealed = context.seal(request, b"").map_err(|_| ChannelError)?;
    let mut exported = Zeroizing::new([0; 32]);
    context.export(label::CHANNEL_ANSWER.as_bytes(), &mut *exported).map_err(|_| ChannelError)?;
    let encapsulated: [u8; ENCAPSULATED] = encapsulated.to_bytes().into();
    Ok(([&encapsulated, sealed.as_slice()].concat(), AnswerKey { encapsulated, exported }))
}

/// Opens a request at the HSM.
///
/// # Errors
/// [`ChannelError`] unless it was sealed to this HSM's channel key, under its name and trust domain.
pub fn open_request(
    trust_domain: &TrustDomain,
    hsm: &HsmId,
    channel_secret: &[u8; 32],
    sealed: &[u8],
) -> Result<(Vec<u8>, AnswerKey), ChannelError> {
    let (encapsulated, ciphertext) = sealed.split_at_checked(ENCAPSULATED).ok_or(ChannelError)?;
    let secret = <HpkeKem as hpke::Kem>::PrivateKey::from_bytes(channel_secret).map_err(|_| ChannelError)?;
    let encapsulated: [u8; ENCAPSULATED] = encapsulated.try_into().map_err(|_| ChannelError)?;
    let encapsulated_key = <HpkeKem as hpke::Kem>::EncappedKey::from_bytes(&encapsulated).map_err(|_| ChannelError)?;
    let mut context = hpke::setup_receiver::<HpkeAead, HkdfSha256, HpkeKem>(
        &OpModeR::Base,
        &secret,
        &encapsulated_key,
        &info(trust_domain, hsm),
    )
    .map_err(|_| ChannelError)?;
    let request = context.open(ciphertext, b"").map_err(|_| ChannelError)?;
    let mut exported = Zeroizing::new([0; 32]);
    context.export(label::CHANNEL_ANSWER.as_bytes(), &mut *exported).map_err(|_| ChannelError)?;
    Ok((request, AnswerKey { encapsulated, exported }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn names() -> (TrustDomain, HsmId) {
        ("acme.example".parse().unwrap(), "hsm-1".parse().unwrap())
    }

    #[test]
    fn an_answer_comes_back_to_its_request() {
        let (domain, hsm) = names();
        let (secret, public) = generate_key();
        let (sealed, ours) = seal_request(&domain, &hsm, &public, b"sign this").unwrap();
        let (request, theirs) = open_request(&domain, &hsm, &secret, &sealed).unwrap();
        assert_eq!(request, b"sign this");
        assert_eq!(ours.open(&theirs.seal(b"signed").unwrap()).unwrap(), b"signed");
    }

    #[test]
    fn a_request_opens_at_no_other_hsm_and_not_when_changed() {
        let (domain, hsm) = names();
        let (secret, public) = generate_key();
        let (sealed, _) = seal_request(&domain, &hsm, &public, b"sign this").unwrap();
        let other: HsmId = "hsm-2".parse().unwrap();
        assert!(open_request(&domain, &other, &secret, &sealed).is_err());
        assert!(open_request(&domain, &hsm, &generate_key().0, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open_request(&domain, &hsm, &secret, &changed).is_err(), "byte {at}");
        }
        assert!(open_request(&domain, &hsm, &secret, &sealed[..31]).is_err());
    }

    #[test]
    fn an_answer_to_another_request_is_refused() {
        let (domain, hsm) = names();
        let (secret, public) = generate_key();
        let (first, _) = seal_request(&domain, &hsm, &public, b"same").unwrap();
        let (_, ours) = seal_request(&domain, &hsm, &public, b"same").unwrap();
        let (_, theirs) = open_request(&domain, &hsm, &secret, &first).unwrap();
        assert!(ours.open(&theirs.seal(b"signed").unwrap()).is_err());
    }

    #[test]
    fn a_request_that_is_sent_twice_is_answered_under_two_keys() {
        let (domain, hsm) = names();
        let (secret, public) = generate_key();
        let (sealed, _) = seal_request(&domain, &hsm, &public, b"sign this").unwrap();
        let answer = |text| open_request(&domain, &hsm, &secret, &sealed).unwrap().1.seal(text).unwrap();
        let (first, second) = (answer(b"the same text"), answer(b"the same text"));
        assert_ne!(first[..RESPONSE_NONCE], second[..RESPONSE_NONCE]);
        assert_ne!(first[RESPONSE_NONCE..], second[RESPONSE_NONCE..]);
    }

    #[test]
    fn a_small_order_channel_key_is_refused() {
        let (domain, hsm) = names();
        assert!(seal_request(&domain, &hsm, &[0; 32], b"x").is_err());
    }
}
