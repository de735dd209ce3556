//! The envelope: context, instance, proof, and the HSM's identity signature over their hash.

use crate::{
    ClaimContext, Digest, Error,
    codec::{Canonical, MAX_BYTES, Reader, Writer},
    transcript::label,
};

/// The one envelope version that this build writes and reads.
pub const VERSION: u16 = 1;

/// A claim on its way from an HSM to whoever checks it.
///
/// Reading an envelope checks its form only; `keywitness-verifier` checks who signed it and what it proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// What the proof is bound to.
    pub context: ClaimContext,
    /// Canonical encoding of the statement's instance.
    pub instance: Vec<u8>,
    /// The proof, in its proof system's encoding.
    pub proof: Vec<u8>,
    /// Ed25519 signature of the HSM's identity key over [`Self::signed_message`].
    pub signature: [u8; 64],
}

impl Envelope {
    /// Digest of everything that the identity signature covers. Two envelopes with the same digest are
    /// the same claim, whatever their signatures' bytes.
    pub fn digest(&self) -> Digest {
        envelope_digest(&self.context, &self.instance, &self.proof)
    }

    /// The message that the identity key signs.
    pub fn signed_message(&self) -> Vec<u8> {
        signed_message(&self.digest())
    }

    /// Makes an envelope; `sign` signs the given message with the HSM's identity key.
    pub fn seal(
        context: ClaimContext,
        instance: Vec<u8>,
        proof: Vec<u8>,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Self {
        let signature = sign(&signed_message(&envelope_digest(&context, &instance, &proof)));
        Self { context, instance, proof, signature }
    }
}

fn envelope_digest(context: &ClaimContext, instance: &[u8], proof: &[u8]) -> Digest {
    let mut writer = Writer::default();
    writer.u16(VERSION).value(context).bytes(instance).bytes(proof);
    Digest::of(label::ENVELOPE, &writer.into_bytes())
}

fn signed_message(digest: &Digest) -> Vec<u8> {
    [label::ENVELOPE.as_bytes(), &[0], &digest.0].concat()
}

impl Canonical for Envelope {
    const WHAT: &'static str = "envelope";

    fn write(&self, writer: &mut Writer) {
        writer.u16(VERSION).value(&self.context).bytes(&self.instance).bytes(&self.proof).array(&self.signature);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match reader.u16()? {
            VERSION => {}
            version => return Err(Error::UnsupportedVersion(version)),
        }
        Ok(Self {
            context: reader.value()?,
            instance: reader.bytes(MAX_BYTES)?.to_vec(),
            proof: reader.bytes(MAX_BYTES)?.to_vec(),
            signature: reader.array()?,
        })
    }
}
