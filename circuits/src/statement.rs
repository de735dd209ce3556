//! What a statement is, and what a proof system for one is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    ClaimContext, Digest, Error, Parameters, TrustDomain,
    codec::Canonical,
    context::{HashedContext, MAX_KEYS},
    transcript::label,
};

/// One statement under one proof system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Kind {
    /// Knowledge of an Ed25519 key: EdDSA over the context.
    KeyKnowledgeEd25519,
    /// Knowledge of a ristretto255 scalar: Schnorr over merlin.
    KeyKnowledgeRistretto255,
    /// Knowledge of a P-256 scalar: Schnorr over merlin.
    KeyKnowledgeP256,
    /// Knowledge of a secp256k1 scalar: Schnorr over merlin.
    KeyKnowledgeSecp256k1,
    /// Knowledge of the symmetric key behind a fingerprint: halo2 on the Pasta curves.
    KeyKnowledgeHalo2,
    /// Knowledge of the symmetric key behind a fingerprint: Groth16 on BN254.
    KeyKnowledgeGroth16,
    /// Knowledge of the symmetric keys behind up to 64 fingerprints: halo2 on the Pasta curves.
    ManyKeysHalo2,
    /// The same: Groth16 on BN254.
    ManyKeysGroth16,
    /// Knowledge of the tags that a key computed: halo2 on the Pasta curves.
    TaggedKeyHalo2,
    /// Knowledge of the share that a dealing with Feldman commitments fixes for one holder: Schnorr over merlin.
    ShareCorrectnessFeldman,
    /// Knowledge of the share and its blinding that a dealing with Pedersen commitments fixes for one holder.
    ShareCorrectnessPedersen,
    /// Committed shares reconstruct to the symmetric key behind a fingerprint: halo2 on the Pasta curves.
    SharingOfKeyHalo2,
    /// Derivation of a key from a master key, both by fingerprint: halo2 on the Pasta curves.
    KeyDerivationHalo2,
    /// Possession of a P-256 key, of which nothing more can be shown: ECDSA over the context.
    KeyPossessionP256,
    /// The same of a secp256k1 key.
    KeyPossessionSecp256k1,
}

/// How much a claim shows.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// Whoever made the proof knows the secret of which its statement speaks: a proof of knowledge, which gives away nothing else.
    #[default]
    Knowledge,
    /// Whoever made the proof could have the key sign: a signature, and no more.
    Possession,
}

impl Shown {
    /// Whether it is knowledge.
    pub const fn is_knowledge(&self) -> bool {
        matches!(self, Self::Knowledge)
    }
}

impl Kind {
    /// Every kind. Harness, benches and fuzz targets iterate over this list.
    pub const ALL: [Self; 15] = [
        Self::KeyKnowledgeEd25519,
        Self::KeyKnowledgeRistretto255,
        Self::KeyKnowledgeP256,
        Self::KeyKnowledgeSecp256k1,
        Self::KeyKnowledgeHalo2,
        Self::KeyKnowledgeGroth16,
        Self::ManyKeysHalo2,
        Self::ManyKeysGroth16,
        Self::TaggedKeyHalo2,
        Self::ShareCorrectnessFeldman,
        Self::ShareCorrectnessPedersen,
        Self::SharingOfKeyHalo2,
        Self::KeyDerivationHalo2,
        Self::KeyPossessionP256,
        Self::KeyPossessionSecp256k1,
    ];

    /// The name in a claim context, in JSON and on the command line. Names the circuit's version too: a
    /// change in what is proven gets a new name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyKnowledgeEd25519 => "key-knowledge/ed25519-eddsa/1",
            Self::KeyKnowledgeRistretto255 => "key-knowledge/ristretto255-schnorr/1",
            Self::KeyKnowledgeP256 => "key-knowledge/p256-schnorr/1",
            Self::KeyKnowledgeSecp256k1 => "key-knowledge/secp256k1-schnorr/1",
            Self::KeyKnowledgeHalo2 => "key-knowledge/halo2-pasta/1",
            Self::KeyKnowledgeGroth16 => "key-knowledge/groth16-bn254/1",
            Self::ManyKeysHalo2 => "key-knowledge-many/halo2-pasta/1",
            Self::ManyKeysGroth16 => "key-knowledge-many/groth16-bn254/1",
            Self::TaggedKeyHalo2 => "tagged-key/halo2-pasta/1",
            Self::ShareCorrectnessFeldman => "share-correctness/ristretto255-feldman/2",
            Self::ShareCorrectnessPedersen => "share-correctness/ristretto255-pedersen/2",
            Self::SharingOfKeyHalo2 => "sharing-of-key/halo2-pasta/1",
            Self::KeyDerivationHalo2 => "key-derivation/halo2-pasta/1",
            Self::KeyPossessionP256 => "key-possession/p256-ecdsa/1",
            Self::KeyPossessionSecp256k1 => "key-possession/secp256k1-ecdsa/1",
        }
    }

    /// Whether a claim of this kind answers the beacon of the round that is open.
    pub const fn needs_beacon(self) -> bool {
        matches!(self, Self::TaggedKeyHalo2)
    }

    /// What a claim of this kind shows of the key or keys that it speaks of.
    pub const fn shows(self) -> Shown {
        match self {
            Self::KeyPossessionP256 | Self::KeyPossessionSecp256k1 => Shown::Possession,
            _ => Shown::Knowledge,
        }
    }

    /// The kind that attests one key as this one attests each of many; of every other kind, itself.
    pub const fn single(self) -> Self {
        match self {
            Self::ManyKeysHalo2 => Self::KeyKnowledgeHalo2,
            Self::ManyKeysGroth16 => Self::KeyKnowledgeGroth16,
            one => one,
        }
    }

    /// The kind that attests each of many keys in one proof as this one attests one.
    pub const fn many(self) -> Option<Self> {
        match self {
            Self::KeyKnowledgeHalo2 => Some(Self::ManyKeysHalo2),
            Self::KeyKnowledgeGroth16 => Some(Self::ManyKeysGroth16),
            _ => None,
        }
    }

    /// How many keys a claim of this kind may speak of.
    pub const fn most_keys(self) -> usize {
        match self {
            Self::ManyKeysHalo2 | Self::ManyKeysGroth16 => MAX_KEYS,
            _ => 1,
        }
    }

    /// What stands for a verifying key where the proof system has none: the digest of the kind's name.
    pub(crate) fn name_digest(self) -> Digest {
        Digest::of(label::VERIFYING_KEY, self.name().as_bytes())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| Error::UnknownStatement(text.to_owned()))
    }
}

impl TryFrom<String> for Kind {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.name().to_owned()
    }
}

/// A relation between a public instance and a secret witness.
pub trait Statement {
    /// The public part.
    type Instance: Canonical + Clone + PartialEq + fmt::Debug;
    /// The secret part.
    type Witness;

    /// Whether the relation holds, computed natively. What a circuit accepts must be exactly this.
    fn holds(trust_domain: &TrustDomain, instance: &Self::Instance, witness: &Self::Witness) -> Result<(), Error>;
}

/// One proof system for one statement.
///
/// Verification has two steps. [`Self::open`] reads a proof; [`Self::check`] decides about one or many that were read. A
/// proof is accepted alone and in company, or neither, but for a probability of 2^-128 for each set that is checked.
pub trait ProofSystem {
    /// What is proven.
    type Statement: Statement;
    /// A proof that was read: all that its check needs, points decoded, challenge derived.
    type Opened: Send + Sync;
    /// The kind this implements.
    const KIND: Kind;

    /// Reads `proof` for `instance`, bound to `context`. What can be refused by looking at one encoding is refused here.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::WrongInstance`], [`Error::MissingParameters`].
    fn open(
        parameters: &Parameters,
        context: &HashedContext<'_>,
        instance: &<Self::Statement as Statement>::Instance,
        proof: &[u8],
    ) -> Result<Self::Opened, Error>;

    /// Checks all of `proofs`: one exactly, several by a linear combination with random weights of 128 bits, so that a
    /// set with a bad proof in it passes with a probability of at most 2^-128. Does not say which proof is bad.
    ///
    /// Works on the rayon pool that it is called in.
    ///
    /// # Errors
    /// [`Error::ProofRefused`] where one is bad, and for an empty set.
    fn check(parameters: &Parameters, proofs: &[&Self::Opened]) -> Result<(), Error>;

    /// Checks `proof` for `instance`, bound to `context`.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::check`].
    fn verify(
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &<Self::Statement as Statement>::Instance,
        proof: &[u8],
    ) -> Result<(), Error> {
        Self::check(parameters, &[&Self::open(parameters, &HashedContext::new(context), instance, proof)?])
    }

    /// Proves `instance` from `witness`, bound to `context`. Refuses a witness that does not hold.
    #[cfg(feature = "prove")]
    fn prove(
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &<Self::Statement as Statement>::Instance,
        witness: &<Self::Statement as Statement>::Witness,
    ) -> Result<Vec<u8>, Error>;
}
