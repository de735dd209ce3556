//! Copies of keys, from one HSM of a cluster to another.
//!
//! The HSM that wants keys asks the one that has them over its channel ([`crate::operation::Operation::Copy`]), by a request that
//! its identity key signs and that names its channel key. Each copy is sealed to that channel key: HPKE (RFC 9180) in base mode,
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. `info` names everything that a copy is of, and for whom: trust
//! domain, cluster, both HSMs, the request, and the key with its epoch, attributes and master. The giver's identity key signs
//! them all together. A copy that was sealed for one request, HSM or name opens under no other.

use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256,
};
use keywitness_circuits::{
    ClusterId, Digest, Error, HsmId, KeyAttributes, TrustDomain,
    codec::{Canonical, Reader, Writer},
    transcript::label,
};
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use crate::{
    channel::ChannelError,
    identity::{IdentityKey, NotAuthentic},
    wire::{KeyRef, MAX_TRANSFER},
};

type Kem = X25519HkdfSha256;

/// Longest sealed copy, in bytes.
const MAX_SEALED: usize = 256;

/// Longest reason for withholding a key, in bytes.
const MAX_WHY: usize = 256;

/// What all copies of one transfer are bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The cluster of both HSMs.
    pub cluster: ClusterId,
    /// Who has the keys.
    pub from: HsmId,
    /// Who asked for copies.
    pub to: HsmId,
    /// The digest of the request ([`crate::operation::OperationRequest::digest`]).
    pub request: Digest,
}

impl Canonical for Terms {
    const WHAT: &'static str = "terms of a transfer";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.trust_domain).value(&self.cluster).value(&self.from).value(&self.to).value(&self.request);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            trust_domain: reader.value()?,
            cluster: reader.value()?,
            from: reader.value()?,
            to: reader.value()?,
            request: reader.value()?,
        })
    }
}

/// What a copy is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// The key at its epoch.
    pub key: KeyRef,
    /// What the copy's store will say about it.
    pub attributes: KeyAttributes,
    /// The key that it is derived from.
    pub master: Option<KeyRef>,
}

fn write_key(writer: &mut Writer, key: &KeyRef) {
    writer.value(&key.key).u32(key.epoch);
}

fn read_key(reader: &mut Reader<'_>) -> Result<KeyRef, Error> {
    Ok(KeyRef { key: reader.value()?, epoch: reader.u32()? })
}

impl Canonical for Described {
    const WHAT: &'static str = "description of a key";
    fn write(&self, writer: &mut Writer) {
        write_key(writer, &self.key);
        writer.value(&self.attributes).u8(self.master.is_some().into());
        if let Some(master) = &self.master {
            write_key(writer, master);
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let (key, attributes) = (read_key(reader)?, reader.value()?);
        let master = match reader.u8()? {
            0 => None,
            1 => Some(read_key(reader)?),
            _ => return Err(reader.error("a flag is neither 0 nor 1")),
        };
        Ok(Self { key, attributes, master })
    }
}

/// A copy of one key, sealed to the channel key of the HSM that asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedKey {
    /// What it is of.
    pub described: Described,
    encapsulated: [u8; 32],
    sealed: Vec<u8>,
}

fn info(terms: &Terms, described: &Described) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(label::KEY_COPY.as_bytes()).value(terms).value(described);
    writer.into_bytes()
}

impl SealedKey {
    /// Seals `secret` to `channel_key`.
    ///
    /// # Errors
    /// [`ChannelError`] for an unusable channel key.
    pub fn seal(
        terms: &Terms,
        described: Described,
        channel_key: &[u8; 32],
        secret: &[u8],
    ) -> Result<Self, ChannelError> {
        let public = <Kem as hpke::Kem>::PublicKey::from_bytes(channel_key).map_err(|_| ChannelError)?;
        let info = info(terms, &described);
        let (encapsulated, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem, _>(
            &OpModeS::Base,
            &public,
            &info,
            secret,
            b"",
            &mut OsRng,
        )
        .map_err(|_| ChannelError)?;
        Ok(Self { described, encapsulated: encapsulated.to_bytes().into(), sealed })
    }

    /// Opens the copy.
    ///
    /// # Errors
    /// [`ChannelError`] unless it was sealed under these terms, to this channel key.
    pub fn open(&self, terms: &Terms, channel_secret: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>, ChannelError> {
        let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(channel_secret).map_err(|_| ChannelError)?;
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(&self.encapsulated).map_err(|_| ChannelError)?;
        let info = info(terms, &self.described);
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &secret,
            &encapsulated,
            &info,
            &self.sealed,
            b"",
        )
        .map(Zeroizing::new)
        .map_err(|_| ChannelError)
    }
}

impl Canonical for SealedKey {
    const WHAT: &'static str = "sealed key";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.described).array(&self.encapsulated).bytes(&self.sealed);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            described: reader.value()?,
            encapsulated: reader.array()?,
            sealed: reader.bytes(MAX_SEALED)?.to_vec(),
        })
    }
}

/// A key that was asked for and is not given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Withheld {
    /// Which.
    pub key: KeyRef,
    why: String,
}

impl Withheld {
    /// `why` is cut at 256 bytes.
    pub fn new(key: KeyRef, why: &str) -> Self {
        let end = (0..=why.len().min(MAX_WHY)).rev().find(|end| why.is_char_boundary(*end)).unwrap_or(0);
        Self { key, why: why.get(..end).unwrap_or_default().to_owned() }
    }

    /// Why not, in the giver's words.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl Canonical for Withheld {
    const WHAT: &'static str = "withheld key";
    fn write(&self, writer: &mut Writer) {
        write_key(writer, &self.key);
        writer.bytes(self.why.as_bytes());
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let (key, error) = (read_key(reader)?, reader.error("a reason is not UTF-8"));
        let why = String::from_utf8(reader.bytes(MAX_WHY)?.to_vec()).map_err(|_| error)?;
        Ok(Self { key, why })
    }
}

/// Copies of keys, signed by the HSM that gives them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// What all of them are bound to.
    pub terms: Terms,
    /// The copies, in the order of the request.
    pub copies: Vec<SealedKey>,
    /// The keys that were asked for and are not given, in the order of the request.
    pub withheld: Vec<Withheld>,
    signature: [u8; 64],
}

impl Transfer {
    /// Signs copies, and what is withheld, with `sign`, the giver's identity key.
    ///
    /// # Errors
    /// What signing says.
    pub fn sign<E>(
        terms: Terms,
        copies: Vec<SealedKey>,
        withheld: Vec<Withheld>,
        sign: impl FnOnce(&[u8]) -> Result<[u8; 64], E>,
    ) -> Result<Self, E> {
        let mut transfer = Self { terms, copies, withheld, signature: [0; 64] };
        transfer.signature = sign(&transfer.signed_message())?;
        Ok(transfer)
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write_body(&mut writer);
        [label::TRANSFER.as_bytes(), &[0], &Digest::of(label::TRANSFER, &writer.into_bytes()).0].concat()
    }

    fn write_body(&self, writer: &mut Writer) {
        writer.value(&self.terms).u8(self.copies.len() as u8);
        for copy in &self.copies {
            writer.value(copy);
        }
        writer.u8(self.withheld.len() as u8);
        for withheld in &self.withheld {
            writer.value(withheld);
        }
    }

    /// Checks that `giver` gave these copies, under these terms.
    ///
    /// # Errors
    /// [`NotAuthentic`]
    pub fn check(&self, giver: &IdentityKey, terms: &Terms) -> Result<(), NotAuthentic> {
        if self.terms != *terms {
            return Err(NotAuthentic);
        }
        giver.check(&self.signed_message(), &self.signature)
    }
}

fn read_keys<T: Canonical>(reader: &mut Reader<'_>) -> Result<Vec<T>, Error> {
    let count = usize::from(reader.u8()?);
    if count > MAX_TRANSFER {
        return Err(reader.error("it is of too many keys"));
    }
    (0..count).map(|_| reader.value()).collect()
}

impl Canonical for Transfer {
    const WHAT: &'static str = "transfer of keys";
    fn write(&self, writer: &mut Writer) {
        self.write_body(writer);
        writer.array(&self.signature);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let terms = reader.value()?;
        let (copies, withheld) = (read_keys(reader)?, read_keys(reader)?);
        Ok(Self { terms, copies, withheld, signature: reader.array()? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ed25519_dalek::{Signer as _, SigningKey};
    use keywitness_circuits::{KeyAlgorithm, KeyOrigin};

    use super::*;
    use crate::channel::generate_key;

    fn terms() -> Terms {
        Terms {
            trust_domain: "acme.example".parse().unwrap(),
            cluster: "payments".parse().unwrap(),
            from: "hsm-1".parse().unwrap(),
            to: "hsm-2".parse().unwrap(),
            request: Digest([7; 32]),
        }
    }

    fn described(master: Option<&str>) -> Described {
        let key = |name: &str| KeyRef { key: name.parse().unwrap(), epoch: 3 };
        let attributes = KeyAttributes::new(KeyAlgorithm::Aes256, KeyOrigin::Imported, true);
        Described { key: key("wrapping"), attributes, master: master.map(key) }
    }

    fn transfer(channel_key: &[u8; 32], giver: &SigningKey) -> Transfer {
        let copies = [None, Some("root")]
            .map(|master| SealedKey::seal(&terms(), described(master), channel_key, &[5; 32]).unwrap());
        let sign = |message: &[u8]| Ok::<_, ()>(giver.sign(message).to_bytes());
        let withheld = Withheld::new(described(None).key, "it lives in a token");
        Transfer::sign(terms(), copies.to_vec(), vec![withheld], sign).unwrap()
    }

    #[test]
    fn a_copy_opens_for_its_request_its_name_and_its_hsm_alone() {
        let (secret, public) = generate_key();
        let copy = SealedKey::seal(&terms(), described(None), &public, &[5; 32]).unwrap();
        assert_eq!(**copy.open(&terms(), &secret).unwrap(), [5; 32]);
        assert!(copy.open(&terms(), &generate_key().0).is_err(), "another HSM");
        for other in [
            Terms { request: Digest([8; 32]), ..terms() },
            Terms { to: "hsm-3".parse().unwrap(), ..terms() },
            Terms { from: "hsm-3".parse().unwrap(), ..terms() },
            Terms { cluster: "other".parse().unwrap(), ..terms() },
            Terms { trust_domain: "other.example".parse().unwrap(), ..terms() },
        ] {
            assert!(copy.open(&other, &secret).is_err(), "{other:?}");
        }
        let renamed = KeyRef { key: "another".parse().unwrap(), epoch: 3 };
        let aged = KeyRef { epoch: 4, ..described(None).key };
        let relabelled = KeyAttributes { algorithm: KeyAlgorithm::HmacSha256, ..described(None).attributes };
        for other in [
            Described { key: renamed, ..described(None) },
            Described { key: aged, ..described(None) },
            Described { attributes: relabelled, ..described(None) },
            described(Some("root")),
        ] {
            assert!(
                SealedKey { described: other.clone(), ..copy.clone() }.open(&terms(), &secret).is_err(),
                "{other:?}"
            );
        }
        assert!(SealedKey::seal(&terms(), described(None), &[0; 32], &[5; 32]).is_err(), "a point of small order");
    }

    #[test]
    fn copies_are_the_givers_and_all_of_them() {
        let (secret, public) = generate_key();
        let giver = SigningKey::from_bytes(&[9; 32]);
        let identity = IdentityKey::from_bytes(giver.verifying_key().to_bytes()).unwrap();
        let good = transfer(&public, &giver);
        good.check(&identity, &terms()).unwrap();
        let read = Transfer::from_bytes(&good.to_bytes()).unwrap();
        assert_eq!(read, good);
        assert_eq!(**read.copies[1].open(&terms(), &secret).unwrap(), [5; 32]);

        let other = SigningKey::from_bytes(&[8; 32]);
        let stranger = IdentityKey::from_bytes(other.verifying_key().to_bytes()).unwrap();
        assert!(good.check(&stranger, &terms()).is_err());
        let fewer = Transfer { copies: good.copies[..1].to_vec(), ..good.clone() };
        let told = Transfer { withheld: Vec::new(), ..good.clone() };
        let swapped = Transfer { copies: vec![good.copies[1].clone(), good.copies[0].clone()], ..good.clone() };
        // Sealed anew by whoever knows the channel key, which is public.
        let forged = Transfer { signature: good.signature, ..transfer(&public, &other) };
        for changed in [fewer, told, swapped, forged] {
            assert!(changed.check(&identity, &terms()).is_err());
        }
        let later = Terms { request: Digest([8; 32]), ..terms() };
        assert!(good.check(&identity, &later).is_err(), "an answer to another request");
    }

    #[test]
    fn reading_is_total() {
        let giver = SigningKey::from_bytes(&[9; 32]);
        let bytes = transfer(&generate_key().1, &giver).to_bytes();
        for length in 0..bytes.len() {
            assert!(Transfer::from_bytes(&bytes[..length]).is_err());
        }
        assert!(Transfer::from_bytes(&[bytes, vec![0]].concat()).is_err());
    }
}
