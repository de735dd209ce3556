//! The one table from kinds to code.

use crate::{
    ClaimContext, Digest, Error, Kind, Parameters, ProofSystem, Verified,
    codec::Canonical,
    context::instance_digest,
    key_knowledge::{self, KeyKnowledge, eddsa::Ed25519, groth16::Groth16, halo2::Halo2, schnorr},
};

/// Digest of the verifying key in force for `kind`.
///
/// # Errors
/// [`Error::MissingParameters`] where the kind needs parameters that are not loaded.
pub fn verifying_key(parameters: &Parameters, kind: Kind) -> Result<Digest, Error> {
    match kind {
        Kind::KeyKnowledgeEd25519
        | Kind::KeyKnowledgeRistretto255
        | Kind::KeyKnowledgeP256
        | Kind::KeyKnowledgeSecp256k1 => Ok(kind.name_digest()),
        Kind::KeyKnowledgeHalo2 => Ok(parameters.halo2().verifying_key_digest()),
        Kind::KeyKnowledgeGroth16 => Ok(parameters.groth16()?.verifying_key_digest()),
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
) -> Result<Verified<KeyKnowledge>, Error> {
    let (kind, parsed) = open(parameters, context, instance)?;
    let check = match kind {
        Kind::KeyKnowledgeEd25519 => Ed25519::verify,
        Kind::KeyKnowledgeRistretto255 => schnorr::Schnorr::<schnorr::Ristretto255>::verify,
        Kind::KeyKnowledgeP256 => schnorr::Schnorr::<schnorr::P256>::verify,
        Kind::KeyKnowledgeSecp256k1 => schnorr::Schnorr::<schnorr::Secp256k1>::verify,
        Kind::KeyKnowledgeHalo2 => Halo2::verify,
        Kind::KeyKnowledgeGroth16 => Groth16::verify,
    };
    check(parameters, context, &parsed, proof)?;
    Ok(Verified::new(kind, context.digest(), parsed))
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
    witness: &key_knowledge::Witness,
) -> Result<Vec<u8>, Error> {
    use crate::Statement;
    let (kind, parsed) = open(parameters, context, instance)?;
    KeyKnowledge::holds(&context.trust_domain, &parsed, witness)?;
    let make = match kind {
        Kind::KeyKnowledgeEd25519 => Ed25519::prove,
        Kind::KeyKnowledgeRistretto255 => schnorr::Schnorr::<schnorr::Ristretto255>::prove,
        Kind::KeyKnowledgeP256 => schnorr::Schnorr::<schnorr::P256>::prove,
        Kind::KeyKnowledgeSecp256k1 => schnorr::Schnorr::<schnorr::Secp256k1>::prove,
        Kind::KeyKnowledgeHalo2 => Halo2::prove,
        Kind::KeyKnowledgeGroth16 => Groth16::prove,
    };
    make(parameters, context, &parsed, witness)
}

fn open(
    parameters: &Parameters,
    context: &ClaimContext,
    instance: &[u8],
) -> Result<(Kind, key_knowledge::Instance), Error> {
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
    let parsed = key_knowledge::Instance::from_bytes(instance)?;
    if parsed.kind() != Some(kind) {
        return Err(Error::WrongInstance("the instance belongs to another kind"));
    }
    Ok((kind, parsed))
}
