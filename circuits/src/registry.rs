//! The one table from kinds to code.

use crate::{
    ClaimContext, Digest, Error, Fingerprint, KeyAlgorithm, Kind, Parameters, ProofSystem,
    codec::{Canonical, Reader, Writer},
    context::instance_digest,
    key_derivation::{self, halo2::DerivationHalo2},
    key_knowledge::{self, eddsa::Ed25519, groth16::Groth16, halo2, halo2::Halo2, schnorr},
    share_correctness::{self, feldman::Feldman, pedersen::Pedersen},
    sharing_of_key,
    tagged_key::{self, halo2::TaggedHalo2},
};
#[cfg(feature = "prove")]
use crate::{
    Statement, key_derivation::KeyDerivation, key_knowledge::KeyKnowledge, share_correctness::ShareCorrectness,
    sharing_of_key::SharingOfKey, tagged_key::TaggedKey,
};

/// The public part of any statement.
///
/// Every form of every statement begins its encoding with a byte of its own, so that an encoding has one reading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instance {
    /// Of `key_knowledge`.
    KeyKnowledge(key_knowledge::Instance),
    /// Of `tagged_key`.
    TaggedKey(tagged_key::Instance),
    /// Of `share_correctness`.
    ShareCorrectness(share_correctness::Instance),
    /// Of `sharing_of_key`.
    SharingOfKey(sharing_of_key::Instance),
    /// Of `key_derivation`.
    KeyDerivation(key_derivation::Instance),
}

/// The secret part of any statement.
#[derive(Debug)]
pub enum Witness {
    /// Of `key_knowledge`.
    KeyKnowledge(key_knowledge::Witness),
    /// Of `tagged_key`.
    TaggedKey(tagged_key::Witness),
    /// Of `share_correctness`.
    ShareCorrectness(share_correctness::Witness),
    /// Of `sharing_of_key`.
    SharingOfKey(sharing_of_key::Witness),
    /// Of `key_derivation`.
    KeyDerivation(key_derivation::Witness),
}

impl Instance {
    /// The kind that proves this instance, if it is a sensible one.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::KeyKnowledge(instance) => instance.kind(),
            Self::TaggedKey(instance) => Some(instance.kind()),
            Self::ShareCorrectness(instance) => Some(instance.kind()),
            Self::SharingOfKey(_) => Some(Kind::SharingOfKeyHalo2),
            Self::KeyDerivation(instance) => Some(instance.kind()),
        }
    }

    /// The algorithm of the key that the instance speaks of.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match self {
            Self::KeyKnowledge(instance) => instance.algorithm(),
            Self::TaggedKey(instance) => instance.algorithm(),
            Self::ShareCorrectness(instance) => instance.algorithm(),
            Self::SharingOfKey(instance) => instance.algorithm(),
            Self::KeyDerivation(instance) => instance.algorithm(),
        }
    }

    /// The fingerprint of the key that the instance speaks of.
    ///
    /// # Errors
    /// Never for an instance that was read or made by this crate.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        match self {
            Self::KeyKnowledge(instance) => instance.fingerprint(),
            Self::TaggedKey(instance) => Ok(instance.fingerprint()),
            Self::ShareCorrectness(instance) => Ok(instance.fingerprint()),
            Self::SharingOfKey(instance) => Ok(instance.fingerprint()),
            Self::KeyDerivation(instance) => Ok(instance.fingerprint()),
        }
    }

    /// The DER SubjectPublicKeyInfo (RFC 5280) of the key, where it has one.
    ///
    /// # Errors
    /// Never for an instance that was read or made by this crate.
    pub fn spki(&self) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::KeyKnowledge(instance) => instance.spki(),
            Self::TaggedKey(_) | Self::ShareCorrectness(_) | Self::SharingOfKey(_) | Self::KeyDerivation(_) => Ok(None),
        }
    }

    /// Digest of the canonical encoding, as a claim context carries it.
    pub fn digest(&self) -> Digest {
        instance_digest(&self.to_bytes())
    }
}

impl Canonical for Instance {
    const WHAT: &'static str = "instance";

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::KeyKnowledge(instance) => writer.value(instance),
            Self::TaggedKey(instance) => writer.value(instance),
            Self::ShareCorrectness(instance) => writer.value(instance),
            Self::SharingOfKey(instance) => writer.value(instance),
            Self::KeyDerivation(instance) => writer.value(instance),
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match reader.peek()? {
            0 | 1 => Ok(Self::KeyKnowledge(reader.value()?)),
            5 | 6 => Ok(Self::TaggedKey(reader.value()?)),
            2 | 3 => Ok(Self::ShareCorrectness(reader.value()?)),
            sharing_of_key::CODE => Ok(Self::SharingOfKey(reader.value()?)),
            7 => Ok(Self::KeyDerivation(reader.value()?)),
            _ => Err(reader.error("no form of instance has this code")),
        }
    }
}

impl From<key_knowledge::Instance> for Instance {
    fn from(instance: key_knowledge::Instance) -> Self {
        Self::KeyKnowledge(instance)
    }
}

impl From<share_correctness::Instance> for Instance {
    fn from(instance: share_correctness::Instance) -> Self {
        Self::ShareCorrectness(instance)
    }
}

impl From<share_correctness::Witness> for Witness {
    fn from(witness: share_correctness::Witness) -> Self {
        Self::ShareCorrectness(witness)
    }
}

impl From<key_knowledge::Witness> for Witness {
    fn from(witness: key_knowledge::Witness) -> Self {
        Self::KeyKnowledge(witness)
    }
}

impl From<tagged_key::Instance> for Instance {
    fn from(instance: tagged_key::Instance) -> Self {
        Self::TaggedKey(instance)
    }
}

impl From<tagged_key::Witness> for Witness {
    fn from(witness: tagged_key::Witness) -> Self {
        Self::TaggedKey(witness)
    }
}

impl From<sharing_of_key::Instance> for Instance {
    fn from(instance: sharing_of_key::Instance) -> Self {
        Self::SharingOfKey(instance)
    }
}

impl From<sharing_of_key::Witness> for Witness {
    fn from(witness: sharing_of_key::Witness) -> Self {
        Self::SharingOfKey(witness)
    }
}

impl From<key_derivation::Instance> for Instance {
    fn from(instance: key_derivation::Instance) -> Self {
        Self::KeyDerivation(instance)
    }
}

impl From<key_derivation::Witness> for Witness {
    fn from(witness: key_derivation::Witness) -> Self {
        Self::KeyDerivation(witness)
    }
}

/// Evidence that a proof was verified: only [`verify`] makes one.
#[derive(Clone, PartialEq, Debug)]
pub struct Verified {
    kind: Kind,
    context: Digest,
    instance: Instance,
}

impl Verified {
    /// The kind that was verified.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Digest of the claim context that the proof is bound to.
    pub const fn context(&self) -> &Digest {
        &self.context
    }

    /// What was proven.
    pub const fn instance(&self) -> &Instance {
        &self.instance
    }
}

const FOREIGN: Error = Error::WrongInstance("the instance belongs to another kind");

/// Digest of the verifying key in force for `kind`.
///
/// # Errors
/// [`Error::MissingParameters`] where the kind needs parameters that are not loaded.
pub fn verifying_key(parameters: &Parameters, kind: Kind) -> Result<Digest, Error> {
    match kind {
        Kind::KeyKnowledgeEd25519
        | Kind::KeyKnowledgeRistretto255
        | Kind::KeyKnowledgeP256
        | Kind::KeyKnowledgeSecp256k1
        | Kind::ShareCorrectnessFeldman
        | Kind::ShareCorrectnessPedersen => Ok(kind.name_digest()),
        Kind::KeyKnowledgeHalo2 => Ok(halo2::KEYS.verifying_key_digest()),
        Kind::KeyKnowledgeGroth16 => Ok(parameters.groth16()?.verifying_key_digest()),
        Kind::TaggedKeyHalo2 => Ok(tagged_key::halo2::KEYS.verifying_key_digest()),
        Kind::SharingOfKeyHalo2 => Ok(sharing_of_key::halo2::KEYS.verifying_key_digest()),
        Kind::KeyDerivationHalo2 => Ok(key_derivation::halo2::KEYS.verifying_key_digest()),
    }
}

/// Checks one proof against the whole of its context.
///
/// Checks that the context names a known kind, the verifying key in force, one key and this very
/// instance, and then the proof. Who signed, and whether the context is the one that was asked for, is
/// for the caller to check.
///
/// # Errors
/// Every way in which the claim can be wrong is its own [`Error`].
pub fn verify(
    parameters: &Parameters,
    context: &ClaimContext,
    instance: &[u8],
    proof: &[u8],
) -> Result<Verified, Error> {
    let (kind, parsed) = open(parameters, context, instance)?;
    match (kind, &parsed) {
        (Kind::KeyKnowledgeEd25519, Instance::KeyKnowledge(instance)) => {
            Ed25519::verify(parameters, context, instance, proof)
        }
        (Kind::KeyKnowledgeRistretto255, Instance::KeyKnowledge(instance)) => {
            schnorr::Schnorr::<schnorr::Ristretto255>::verify(parameters, context, instance, proof)
        }
        (Kind::KeyKnowledgeP256, Instance::KeyKnowledge(instance)) => {
            schnorr::Schnorr::<schnorr::P256>::verify(parameters, context, instance, proof)
        }
        (Kind::KeyKnowledgeSecp256k1, Instance::KeyKnowledge(instance)) => {
            schnorr::Schnorr::<schnorr::Secp256k1>::verify(parameters, context, instance, proof)
        }
        (Kind::KeyKnowledgeHalo2, Instance::KeyKnowledge(instance)) => {
            Halo2::verify(parameters, context, instance, proof)
        }
        (Kind::KeyKnowledgeGroth16, Instance::KeyKnowledge(instance)) => {
            Groth16::verify(parameters, context, instance, proof)
        }
        (Kind::TaggedKeyHalo2, Instance::TaggedKey(instance)) => {
            TaggedHalo2::verify(parameters, context, instance, proof)
        }
        (Kind::ShareCorrectnessFeldman, Instance::ShareCorrectness(instance)) => {
            Feldman::verify(parameters, context, instance, proof)
        }
        (Kind::ShareCorrectnessPedersen, Instance::ShareCorrectness(instance)) => {
            Pedersen::verify(parameters, context, instance, proof)
        }
        (Kind::SharingOfKeyHalo2, Instance::SharingOfKey(instance)) => {
            sharing_of_key::halo2::Halo2::verify(parameters, context, instance, proof)
        }
        (Kind::KeyDerivationHalo2, Instance::KeyDerivation(instance)) => {
            DerivationHalo2::verify(parameters, context, instance, proof)
        }
        _ => Err(FOREIGN),
    }?;
    Ok(Verified { kind, context: context.digest(), instance: parsed })
}

/// Makes one proof. The context must already name `instance` and the verifying key in force.
///
/// # Errors
/// [`Error::WitnessRefused`] where the witness does not hold; otherwise as [`verify`].
#[cfg(feature = "prove")]
pub fn prove(
    parameters: &Parameters,
    context: &ClaimContext,
    instance: &[u8],
    witness: &Witness,
) -> Result<Vec<u8>, Error> {
    let (kind, parsed) = open(parameters, context, instance)?;
    match (&parsed, witness) {
        (Instance::KeyKnowledge(instance), Witness::KeyKnowledge(witness)) => {
            KeyKnowledge::holds(&context.trust_domain, instance, witness)?;
            let make = match kind {
                Kind::KeyKnowledgeEd25519 => Ed25519::prove,
                Kind::KeyKnowledgeRistretto255 => schnorr::Schnorr::<schnorr::Ristretto255>::prove,
                Kind::KeyKnowledgeP256 => schnorr::Schnorr::<schnorr::P256>::prove,
                Kind::KeyKnowledgeSecp256k1 => schnorr::Schnorr::<schnorr::Secp256k1>::prove,
                Kind::KeyKnowledgeHalo2 => Halo2::prove,
                Kind::KeyKnowledgeGroth16 => Groth16::prove,
                _ => return Err(FOREIGN),
            };
            make(parameters, context, instance, witness)
        }
        (Instance::TaggedKey(instance), Witness::TaggedKey(witness)) => {
            TaggedKey::holds(&context.trust_domain, instance, witness)?;
            TaggedHalo2::prove(parameters, context, instance, witness)
        }
        (Instance::ShareCorrectness(instance), Witness::ShareCorrectness(witness)) => {
            ShareCorrectness::holds(&context.trust_domain, instance, witness)?;
            match kind {
                Kind::ShareCorrectnessFeldman => Feldman::prove(parameters, context, instance, witness),
                Kind::ShareCorrectnessPedersen => Pedersen::prove(parameters, context, instance, witness),
                _ => Err(FOREIGN),
            }
        }
        (Instance::SharingOfKey(instance), Witness::SharingOfKey(witness)) => {
            SharingOfKey::holds(&context.trust_domain, instance, witness)?;
            sharing_of_key::halo2::Halo2::prove(parameters, context, instance, witness)
        }
        (Instance::KeyDerivation(instance), Witness::KeyDerivation(witness)) => {
            KeyDerivation::holds(&context.trust_domain, instance, witness)?;
            DerivationHalo2::prove(parameters, context, instance, witness)
        }
        _ => Err(Error::WitnessRefused("the secret is of another statement")),
    }
}

fn open(parameters: &Parameters, context: &ClaimContext, instance: &[u8]) -> Result<(Kind, Instance), Error> {
    let kind: Kind = context.statement.parse()?;
    if context.verifying_key != verifying_key(parameters, kind)? {
        return Err(Error::WrongVerifyingKey);
    }
    if context.keys.len() != 1 {
        return Err(Error::WrongInstance("this kind speaks of exactly one key"));
    }
    if context.instance != instance_digest(instance) {
        return Err(Error::WrongInstance("the context names another instance"));
    }
    let parsed = Instance::from_bytes(instance)?;
    if parsed.kind() != Some(kind) {
        return Err(FOREIGN);
    }
    Ok((kind, parsed))
}
