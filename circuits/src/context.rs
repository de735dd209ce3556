//! The claim context: everything that a proof is bound to, hashed once.

use crate::{
    ClusterId, Digest, Error, HsmId, KeyId, ManagerId, Nonce, Timestamp, TrustDomain,
    codec::{Canonical, Reader, Writer},
    share_correctness,
    transcript::label,
};

/// Most keys that one claim may speak of.
pub const MAX_KEYS: usize = 64;

/// Longest statement name, in bytes.
const MAX_STATEMENT: usize = 64;

/// The digest of an instance's canonical encoding, as a claim context carries it.
///
/// An instance of `share_correctness` is hashed in two levels, so that all shares of one dealing hash its commitments once:
/// [`crate::share_correctness::Instance::digest`].
pub fn instance_digest(instance: &[u8]) -> Digest {
    share_correctness::digest_of_encoding(instance).unwrap_or_else(|| Digest::of(label::INSTANCE, instance))
}

/// One key of a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyClaim {
    /// The key's name.
    pub key: KeyId,
    /// Which generation of the key; rises with every rotation.
    pub epoch: u32,
    /// [`crate::KeyAttributes::digest`] of what the store says about the key.
    pub attributes: Digest,
}

impl Canonical for KeyClaim {
    const WHAT: &'static str = "key claim";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.key).u32(self.epoch).value(&self.attributes);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { key: reader.value()?, epoch: reader.u32()?, attributes: reader.value()? })
    }
}

/// Everything that a proof is bound to.
///
/// In a Schnorr proof the digest opens the transcript; in a SNARK it enters as two constrained 128-bit
/// public inputs. The prover builds the context itself, from parts it has checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimContext {
    /// Name of the statement kind. Kept as text, so that an authenticated claim of an unknown kind can
    /// be told from noise.
    pub statement: String,
    /// Digest of the verifying key that the proof is made for.
    pub verifying_key: Digest,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The manager that gave the challenge: the audience.
    pub manager: ManagerId,
    /// The HSM's cluster.
    pub cluster: ClusterId,
    /// Who claims.
    pub hsm: HsmId,
    /// Which enrolment of that HSM.
    pub enrolment: u32,
    /// The 1 to 64 keys that the claim speaks of.
    pub keys: Vec<KeyClaim>,
    /// Digest of the instance's canonical encoding.
    pub instance: Digest,
    /// The manager's single-use challenge.
    pub challenge: Nonce,
    /// The claim says nothing about the time before this.
    pub not_before: Timestamp,
    /// The claim says nothing about the time from this on.
    pub not_after: Timestamp,
    /// The log checkpoint that the agent verified last: a lower bound in time.
    pub checkpoint: Option<Digest>,
    /// Digest of vendor or TPM evidence bound to the same claim.
    pub evidence: Option<Digest>,
}

impl ClaimContext {
    /// The digest that a proof is bound to.
    pub fn digest(&self) -> Digest {
        Digest::of(label::CONTEXT, &self.to_bytes())
    }

    /// The digest that evidence is bound to: of the same context, with no evidence in it, so that the
    /// two can name each other without a circle.
    pub fn digest_without_evidence(&self) -> Digest {
        Self { evidence: None, ..self.clone() }.digest()
    }
}

/// A claim context with its digest, computed once.
#[derive(Clone, Copy, Debug)]
pub struct HashedContext<'a> {
    context: &'a ClaimContext,
    digest: Digest,
}

impl<'a> HashedContext<'a> {
    /// Hashes a context.
    pub fn new(context: &'a ClaimContext) -> Self {
        Self { context, digest: context.digest() }
    }

    /// The context.
    pub const fn context(&self) -> &'a ClaimContext {
        self.context
    }

    /// [`ClaimContext::digest`].
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl Canonical for ClaimContext {
    const WHAT: &'static str = "claim context";

    fn write(&self, writer: &mut Writer) {
        writer
            .bytes(label::CONTEXT.as_bytes())
            .bytes(self.statement.as_bytes())
            .value(&self.verifying_key)
            .value(&self.trust_domain)
            .value(&self.manager)
            .value(&self.cluster)
            .value(&self.hsm)
            .u32(self.enrolment)
            .u16(self.keys.len() as u16);
        for key in &self.keys {
            writer.value(key);
        }
        writer
            .value(&self.instance)
            .value(&self.challenge)
            .value(&self.not_before)
            .value(&self.not_after)
            .option(self.checkpoint.as_ref())
            .option(self.evidence.as_ref());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        if reader.bytes(MAX_STATEMENT)? != label::CONTEXT.as_bytes() {
            return Err(reader.error("it does not begin with the protocol's tag"));
        }
        let statement = std::str::from_utf8(reader.bytes(MAX_STATEMENT)?)
            .map_err(|_| reader.error("the statement's name is not text"))?
            .to_owned();
        let verifying_key = reader.value()?;
        let (trust_domain, manager, cluster) = (reader.value()?, reader.value()?, reader.value()?);
        let (hsm, enrolment) = (reader.value()?, reader.u32()?);
        let count = usize::from(reader.u16()?);
        if !(1..=MAX_KEYS).contains(&count) {
            return Err(reader.error("it must name 1 to 64 keys"));
        }
        let keys = (0..count).map(|_| reader.value()).collect::<Result<Vec<KeyClaim>, _>>()?;
        Ok(Self {
            statement,
            verifying_key,
            trust_domain,
            manager,
            cluster,
            hsm,
            enrolment,
            keys,
            instance: reader.value()?,
            challenge: reader.value()?,
            not_before: reader.value()?,
            not_after: reader.value()?,
            checkpoint: reader.option()?,
            evidence: reader.option()?,
        })
    }
}
