//! The channel to an HSM: requests sealed to the channel key that a verification token names, answers that
//! only the holder of that key can make.
//!
//! HPKE (RFC 9180) in base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. The answer is sealed
//! under a key exported from the same context, as in Oblivious HTTP (RFC 9458, section 4.4), so that it
//! answers this request and no other. `info` names trust domain and HSM: a request to one HSM opens at no
//! other, even where two of them were enrolled with one channel key.

use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, aead::Aead};
use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305 as HpkeAead, kdf::HkdfSha256,
    kem::X25519HkdfSha256 as HpkeKem,
};
use keywitness_circuits::{HsmId, TrustDomain, codec::Writer, transcript::label};
use rand::rngs::OsRng;
use zeroize::Zeroizing;

/// Bytes of an encapsulated key.
const ENCAPSULATED: usize = 32;

/// The channel failed: a wrong key, a wrong peer, or changed bytes. It does not say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed message does not open")]
pub struct ChannelError;

/// Opens or seals the one answer to one request.
pub struct AnswerKey(Zeroizing<[u8; 32]>);

impl AnswerKey {
    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(Key::from_slice(&*self.0))
    }

    /// Seals the answer. The key serves one message, so its nonce is zero.
    ///
    /// # Errors
    /// [`ChannelError`] for an answer too long for the cipher.
    pub fn seal(self, answer: &[u8]) -> Result<Vec<u8>, ChannelError> {
        self.cipher().encrypt(&Default::default(), answer).map_err(|_| ChannelError)
    }

    /// Opens the answer.
    ///
    /// # Errors
    /// [`ChannelError`] unless the holder of the channel key sealed it for this request.
    pub fn open(self, sealed: &[u8]) -> Result<Vec<u8>, ChannelError> {
        self.cipher().decrypt(&Default::default(), sealed).map_err(|_| ChannelError)
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
    let mut key = Zeroizing::new([0; 32]);
    context.export(label::CHANNEL_ANSWER.as_bytes(), &mut *key).map_err(|_| ChannelError)?;
    Ok(([encapsulated.to_bytes().as_slice(), &sealed].concat(), AnswerKey(key)))
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
    let encapsulated = <HpkeKem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| ChannelError)?;
    let mut context = hpke::setup_receiver::<HpkeAead, HkdfSha256, HpkeKem>(
        &OpModeR::Base,
        &secret,
        &encapsulated,
        &info(trust_domain, hsm),
    )
    .map_err(|_| ChannelError)?;
    let request = context.open(ciphertext, b"").map_err(|_| ChannelError)?;
    let mut key = Zeroizing::new([0; 32]);
    context.export(label::CHANNEL_ANSWER.as_bytes(), &mut *key).map_err(|_| ChannelError)?;
    Ok((request, AnswerKey(key)))
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
    fn a_small_order_channel_key_is_refused() {
        let (domain, hsm) = names();
        assert!(seal_request(&domain, &hsm, &[0; 32], b"x").is_err());
    }
}
