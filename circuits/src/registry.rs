//! The one table from kinds to code.

use std::sync::Arc;

use crate::{
    ClaimContext, Digest, Error, Fingerprint, KeyAlgorithm, Kind, Parameters, ProofSystem,
    codec::{Canonical, Reader, Writer},
    context::{HashedContext, instance_digest},
    key_derivation::{self, halo2::DerivationHalo2},
    key_knowledge::{
        self,
        eddsa::Ed25519,
        groth16::{Groth16, many::ManyGroth16},
        halo2::{self, Halo2},
        many,
        schnorr::{P256, Ristretto255, Schnorr, Secp256k1},
    },
    key_possession::{
        self,
        ecdsa::{self, Ecdsa},
    },
    share_correctness::{self, feldman::Feldman, pedersen::Pedersen},
    sharing_of_key,
    tagged_key::{self, halo2::TaggedHalo2},
};

/// The public part of any statement.
///
/// Every form of every statement begins its encoding with a byte of its own, so that an encoding has one reading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instance {
    /// Of `key_knowledge`.
    KeyKnowledge(key_knowledge::Instance),
    /// Of `key_knowledge`, for many keys at once.
    ManyKeys(many::Instance),
    /// Of `tagged_key`.
    TaggedKey(tagged_key::Instance),
    /// Of `share_correctness`.
    ShareCorrectness(share_correctness::Instance),
    /// Of `sharing_of_key`.
    SharingOfKey(sharing_of_key::Instance),
    /// Of `key_derivation`.
    KeyDerivation(key_derivation::Instance),
    /// Of `key_possession`.
    KeyPossession(key_possession::Instance),
}

/// The secret part of any statement.
#[derive(Debug)]
pub enum Witness {
    /// Of `key_knowledge`.
    KeyKnowledge(key_knowledge::Witness),
    /// Of `key_knowledge`, for many keys at once.
    ManyKeys(many::Witness),
    /// Of `tagged_key`.
    TaggedKey(tagged_key::Witness),
    /// Of `share_correctness`.
    ShareCorrectness(share_correctness::Witness),
    /// Of `sharing_of_key`.
    SharingOfKey(sharing_of_key::Witness),
    /// Of `key_derivation`.
    KeyDerivation(key_derivation::Witness),
    /// Of `key_possession`.
    KeyPossession(key_possession::Witness),
}

impl Instance {
    /// The kind that proves this instance, if it is a sensible one.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::KeyKnowledge(instance) => instance.kind(),
            Self::ManyKeys(instance) => instance.kind(),
            Self::TaggedKey(instance) => Some(instance.kind()),
            Self::ShareCorrectness(instance) => Some(instance.kind()),
            Self::SharingOfKey(_) => Some(Kind::SharingOfKeyHalo2),
            Self::KeyDerivation(instance) => Some(instance.kind()),
            Self::KeyPossession(instance) => Some(instance.kind()),
        }
    }

    /// How many keys the instance speaks of: a claim of it names as many.
    pub fn keys(&self) -> usize {
        match self {
            Self::ManyKeys(instance) => instance.keys().len(),
            Self::KeyKnowledge(_)
            | Self::TaggedKey(_)
            | Self::ShareCorrectness(_)
            | Self::SharingOfKey(_)
            | Self::KeyDerivation(_)
            | Self::KeyPossession(_) => 1,
        }
    }

    /// The algorithm of the key that the instance speaks of; none where it speaks of many.
    pub fn algorithm(&self) -> Option<KeyAlgorithm> {
        match self {
            Self::KeyKnowledge(instance) => Some(instance.algorithm()),
            Self::ManyKeys(_) => None,
            Self::TaggedKey(instance) => Some(instance.algorithm()),
            Self::ShareCorrectness(instance) => Some(instance.algorithm()),
            Self::SharingOfKey(instance) => Some(instance.algorithm()),
            Self::KeyDerivation(instance) => Some(instance.algorithm()),
            Self::KeyPossession(instance) => Some(instance.algorithm()),
        }
    }

    /// The fingerprint of the key that the instance speaks of.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for one of many keys: [`many::Instance::keys`] has theirs. [`Error::Malformed`] where a
    /// dealing fixes a share of zero, which is nobody's key.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        match self {
            Self::KeyKnowledge(instance) => instance.fingerprint(),
            Self::ManyKeys(_) => Err(Error::WrongInstance("it speaks of many keys, each with its own fingerprint")),
            Self::TaggedKey(instance) => Ok(instance.fingerprint()),
            Self::ShareCorrectness(instance) => instance.fingerprint(),
            Self::SharingOfKey(instance) => Ok(instance.fingerprint()),
            Self::KeyDerivation(instance) => Ok(instance.fingerprint()),
            Self::KeyPossession(instance) => instance.fingerprint(),
        }
    }

    /// The DER SubjectPublicKeyInfo (RFC 5280) of the key, where it has one.
    ///
    /// # Errors
    /// Never for an instance that was read or made by this crate.
    pub fn spki(&self) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::KeyKnowledge(instance) => instance.spki(),
            Self::KeyPossession(instance) => instance.spki(),
            Self::ManyKeys(_)
            | Self::TaggedKey(_)
            | Self::ShareCorrectness(_)
            | Self::SharingOfKey(_)
            | Self::KeyDerivation(_) => Ok(None),
        }
    }

    /// [`Self::spki`] of the canonical encoding of an instance that was read before, as when its key was enrolled. Whether its
    /// point is usable is not decided again.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no encoding of a public key's instance, as far as was looked.
    pub fn spki_of_read(bytes: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut reader = Reader::new(Self::WHAT, bytes);
        match reader.peek()? {
            0 | key_possession::CODE => key_knowledge::Instance::read_spki(&mut reader),
            _ => Ok(None),
        }
    }

    /// Digest of the canonical encoding, as a claim context carries it.
    pub fn digest(&self) -> Digest {
        match self {
            Self::ShareCorrectness(instance) => instance.digest(),
            _ => instance_digest(&self.to_bytes()),
        }
    }
}

impl Canonical for Instance {
    const WHAT: &'static str = "instance";

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::KeyKnowledge(instance) => writer.value(instance),
            Self::ManyKeys(instance) => writer.value(instance),
            Self::TaggedKey(instance) => writer.value(instance),
            Self::ShareCorrectness(instance) => writer.value(instance),
            Self::SharingOfKey(instance) => writer.value(instance),
            Self::KeyDerivation(instance) => writer.value(instance),
            Self::KeyPossession(instance) => writer.value(instance),
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match reader.peek()? {
            0 | 1 => Ok(Self::KeyKnowledge(reader.value()?)),
            5 | 6 => Ok(Self::TaggedKey(reader.value()?)),
            2 | 3 => Ok(Self::ShareCorrectness(reader.value()?)),
            sharing_of_key::CODE => Ok(Self::SharingOfKey(reader.value()?)),
            7 => Ok(Self::KeyDerivation(reader.value()?)),
            many::CODE => Ok(Self::ManyKeys(reader.value()?)),
            key_possession::CODE => Ok(Self::KeyPossession(reader.value()?)),
            _ => Err(reader.error("no form of instance has this code")),
        }
    }
}

/// An instance that was read, with its digest. Cheap to clone.
///
/// Reading is dear where points have to be decoded: whoever sees an instance again and again reads it once.
#[derive(Clone, Debug)]
pub struct DecodedInstance {
    instance: Arc<Instance>,
    digest: Digest,
}

impl DecodedInstance {
    /// Reads an instance.
    ///
    /// # Errors
    /// [`Error::Malformed`]
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        Ok(Instance::from_bytes(bytes)?.into())
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// [`Instance::digest`].
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl From<Instance> for DecodedInstance {
    fn from(instance: Instance) -> Self {
        Self { digest: instance.digest(), instance: Arc::new(instance) }
    }
}

macro_rules! forms {
    ($($form:ident: $statement:ident;)*) => {$(
        impl From<$statement::Instance> for Instance {
            fn from(instance: $statement::Instance) -> Self {
                Self::$form(instance)
            }
        }
        impl From<$statement::Witness> for Witness {
            fn from(witness: $statement::Witness) -> Self {
                Self::$form(witness)
            }
        }
    )*};
}

forms! {
    KeyKnowledge: key_knowledge;
    ManyKeys: many;
    TaggedKey: tagged_key;
    ShareCorrectness: share_correctness;
    SharingOfKey: sharing_of_key;
    KeyDerivation: key_derivation;
    KeyPossession: key_possession;
}

/// A proof that was read, with the claim that it is bound to; not checked yet.
pub struct Opened {
    kind: Kind,
    verifying_key: Digest,
    context: Digest,
    instance: DecodedInstance,
    parameters: Parameters,
    proof: Proof,
}

impl Opened {
    /// The kind of the proof.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Kind and verifying key: proofs of one group can be checked together.
    pub const fn group(&self) -> (Kind, Digest) {
        (self.kind, self.verifying_key)
    }

    /// Digest of the claim context that the proof is bound to.
    pub const fn context(&self) -> &Digest {
        &self.context
    }
}

/// Evidence that a proof was verified: only [`verify`] and [`verify_all`] make one.
#[derive(Clone, PartialEq, Debug)]
pub struct Verified {
    kind: Kind,
    context: Digest,
    instance: Arc<Instance>,
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
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    fn of(opened: &Opened) -> Self {
        let Opened { kind, context, instance, .. } = opened;
        Self { kind: *kind, context: *context, instance: instance.instance.clone() }
    }
}

const FOREIGN: Error = Error::WrongInstance("the instance belongs to another kind");

/// One line for each kind: its form of instance and witness, and the proof system.
macro_rules! systems {
    ($($kind:ident: $form:ident by $system:ty;)*) => {
        /// A proof of any kind that was read.
        enum Proof {
            $($kind(<$system as ProofSystem>::Opened),)*
        }

        impl Proof {
            fn open(
                kind: Kind,
                parameters: &Parameters,
                context: &HashedContext<'_>,
                instance: &Instance,
                proof: &[u8],
            ) -> Result<Self, Error> {
                match (kind, instance) {
                    $((Kind::$kind, Instance::$form(instance)) => {
                        <$system>::open(parameters, context, instance, proof).map(Self::$kind)
                    })*
                    _ => Err(FOREIGN),
                }
            }

            /// All of `proofs` are of `kind`.
            fn check(kind: Kind, parameters: &Parameters, proofs: &[&Self]) -> Result<(), Error> {
                match kind {
                    $(Kind::$kind => {
                        let opened = proofs.iter().map(|proof| if let Self::$kind(own) = proof { Some(own) } else { None });
                        let opened = opened.collect::<Option<Vec<_>>>().ok_or(FOREIGN)?;
                        <$system>::check(parameters, &opened)
                    })*
                }
            }

            #[cfg(feature = "prove")]
            fn make(
                kind: Kind,
                parameters: &Parameters,
                context: &ClaimContext,
                instance: &Instance,
                witness: &Witness,
            ) -> Result<Vec<u8>, Error> {
                match (kind, instance, witness) {
                    $((Kind::$kind, Instance::$form(instance), Witness::$form(witness)) => {
                        type Of = <$system as ProofSystem>::Statement;
                        <Of as crate::Statement>::holds(&context.trust_domain, instance, witness)?;
                        <$system>::prove(parameters, context, instance, witness)
                    })*
                    _ => Err(Error::WitnessRefused("the secret is of another statement")),
                }
            }
        }
    };
}

systems! {
    KeyKnowledgeEd25519: KeyKnowledge by Ed25519;
    KeyKnowledgeRistretto255: KeyKnowledge by Schnorr<Ristretto255>;
    KeyKnowledgeP256: KeyKnowledge by Schnorr<P256>;
    KeyKnowledgeSecp256k1: KeyKnowledge by Schnorr<Secp256k1>;
    KeyKnowledgeHalo2: KeyKnowledge by Halo2;
    KeyKnowledgeGroth16: KeyKnowledge by Groth16;
    ManyKeysHalo2: ManyKeys by many::halo2::Halo2;
    TaggedKeyHalo2: TaggedKey by TaggedHalo2;
    ShareCorrectnessFeldman: ShareCorrectness by Feldman;
    ShareCorrectnessPedersen: ShareCorrectness by Pedersen;
    SharingOfKeyHalo2: SharingOfKey by sharing_of_key::halo2::Halo2;
    KeyDerivationHalo2: KeyDerivation by DerivationHalo2;
    ManyKeysGroth16: ManyKeys by ManyGroth16;
    KeyPossessionP256: KeyPossession by Ecdsa<ecdsa::P256>;
    KeyPossessionSecp256k1: KeyPossession by Ecdsa<ecdsa::Secp256k1>;
}

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
        | Kind::KeyPossessionP256
        | Kind::KeyPossessionSecp256k1
        | Kind::ShareCorrectnessFeldman
        | Kind::ShareCorrectnessPedersen => Ok(kind.name_digest()),
        Kind::KeyKnowledgeHalo2 => Ok(halo2::KEYS.verifying_key_digest()),
        Kind::KeyKnowledgeGroth16 => Ok(parameters.groth16()?.verifying_key_digest()),
        Kind::ManyKeysHalo2 => Ok(many::halo2::KEYS.verifying_key_digest()),
        Kind::TaggedKeyHalo2 => Ok(tagged_key::halo2::KEYS.verifying_key_digest()),
        Kind::SharingOfKeyHalo2 => Ok(sharing_of_key::halo2::KEYS.verifying_key_digest()),
        Kind::KeyDerivationHalo2 => Ok(key_derivation::halo2::KEYS.verifying_key_digest()),
        Kind::ManyKeysGroth16 => Ok(parameters.groth16_many()?.verifying_key_digest()),
    }
}

/// Reads one proof and everything that it must be bound to.
///
/// Checks that the context names a known kind, the verifying key in force, as many keys as the instance, and this very
/// instance. Who signed, and whether the context is the one that was asked for, is for the caller to check.
///
/// # Errors
/// Every way in which the claim can be wrong is its own [`Error`].
pub fn open(
    parameters: &Parameters,
    context: &ClaimContext,
    instance: &DecodedInstance,
    proof: &[u8],
) -> Result<Opened, Error> {
    let (kind, verifying_key) = named(parameters, context, instance)?;
    let hashed = HashedContext::new(context);
    let proof = Proof::open(kind, parameters, &hashed, instance.instance(), proof)?;
    let (context, instance) = (*hashed.digest(), instance.clone());
    Ok(Opened { kind, verifying_key, context, instance, parameters: parameters.clone(), proof })
}

/// Checks proofs of one group together: all of them hold, or at least one does not; which one it does not say.
///
/// A set with a bad proof in it passes with a probability of at most 2^-128 ([`ProofSystem::check`]).
///
/// # Errors
/// [`Error::ProofRefused`] where one is bad and for an empty set, [`Error::WrongVerifyingKey`] for proofs of several
/// groups.
pub fn verify_all(proofs: &[&Opened]) -> Result<Vec<Verified>, Error> {
    let Some(first) = proofs.first() else { return Err(Error::ProofRefused) };
    if proofs.iter().any(|opened| opened.group() != first.group()) {
        return Err(Error::WrongVerifyingKey);
    }
    let parts: Vec<&Proof> = proofs.iter().map(|opened| &opened.proof).collect();
    Proof::check(first.kind, &first.parameters, &parts)?;
    Ok(proofs.iter().map(|opened| Verified::of(opened)).collect())
}

/// Checks one proof against the whole of its context.
///
/// # Errors
/// As [`open`] and [`verify_all`].
pub fn verify(
    parameters: &Parameters,
    context: &ClaimContext,
    instance: &[u8],
    proof: &[u8],
) -> Result<Verified, Error> {
    let opened = open(parameters, context, &DecodedInstance::read(instance)?, proof)?;
    Proof::check(opened.kind, parameters, &[&opened.proof])?;
    Ok(Verified::of(&opened))
}

/// Makes one proof. The context must already name `instance` and the verifying key in force.
///
/// # Errors
/// [`Error::WitnessRefused`] where the witness does not hold; otherwise as [`open`].
#[cfg(feature = "prove")]
pub fn prove(
    parameters: &Parameters,
    context: &ClaimContext,
    instance: &[u8],
    witness: &Witness,
) -> Result<Vec<u8>, Error> {
    let instance = DecodedInstance::read(instance)?;
    let (kind, _) = named(parameters, context, &instance)?;
    Proof::make(kind, parameters, context, instance.instance(), witness)
}

/// The kind and the verifying key that `context` names, if it speaks of `instance`.
fn named(parameters: &Parameters, context: &ClaimContext, instance: &DecodedInstance) -> Result<(Kind, Digest), Error> {
    let kind: Kind = context.statement.parse()?;
    let verifying_key = verifying_key(parameters, kind)?;
    if context.verifying_key != verifying_key {
        return Err(Error::WrongVerifyingKey);
    }
    if context.keys.len() != instance.instance().keys() {
        return Err(Error::WrongInstance("the context names more or fewer keys than the instance speaks of"));
    }
    if context.instance != *instance.digest() {
        return Err(Error::WrongInstance("the context names another instance"));
    }
    if instance.instance().kind() != Some(kind) {
        return Err(FOREIGN);
    }
    Ok((kind, verifying_key))
}
