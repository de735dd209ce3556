//! The only room that knows merlin, and the home of every domain-separation label.

use std::sync::LazyLock;

use merlin::Transcript;
use rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::Digest;

/// Every domain-separation label of the protocol. None is a prefix of another once its zero byte follows.
pub mod label {
    /// Opens the message that a key signs to attest itself (EdDSA).
    pub const ATTEST: &str = "keywitness/v1/attest";
    /// Opens the message whose hash a key signs to attest itself (ECDSA).
    pub const POSSESSION: &str = "keywitness/v1/possession";
    /// The claim context.
    pub const CONTEXT: &str = "keywitness/v1/context";
    /// The envelope, and the message that an identity key signs for it.
    pub const ENVELOPE: &str = "keywitness/v1/envelope";
    /// A statement's instance.
    pub const INSTANCE: &str = "keywitness/v1/instance";
    /// What a store says about a key.
    pub const ATTRIBUTES: &str = "keywitness/v1/attributes";
    /// The domain of a symmetric key's fingerprint.
    pub const FINGERPRINT: &str = "keywitness/v1/fingerprint";
    /// The domain of the commitment to a holder's share of a symmetric key.
    pub const KEY_SHARE: &str = "keywitness/v1/key-share";
    /// The fingerprint of a ristretto255 public key, which has no SubjectPublicKeyInfo.
    pub const RISTRETTO_KEY: &str = "keywitness/v1/ristretto255-key";
    /// A verifying key, or what stands for one where a proof system has none.
    pub const VERIFYING_KEY: &str = "keywitness/v1/verifying-key";
    /// A Groth16 parameter file.
    pub const PARAMETERS: &str = "keywitness/v1/parameters";
    /// The domains of the key derivation function.
    pub const KEY_DERIVATION: &str = "keywitness/v1/key-derivation";
    /// The message whose CMAC identifies a key that computes nothing else.
    pub const TAG_IDENTIFIER: &str = "keywitness/v1/tag-identifier";
    /// The message whose CMAC answers a round's beacon.
    pub const TAG_ROUND: &str = "keywitness/v1/tag-round";
    /// The domain of an identifier tag's fingerprint.
    pub const TAG_IDENTIFIER_DOMAIN: &str = "keywitness/v1/tag-identifier-fingerprint";
    /// The domain of a round tag's fingerprint.
    pub const TAG_ROUND_DOMAIN: &str = "keywitness/v1/tag-round-fingerprint";
    /// A ceremony: its opening, and every contribution after it.
    pub const CEREMONY: &str = "keywitness/v1/ceremony";
    /// The base of a contributor's proof of knowledge, hashed to G2.
    pub const CEREMONY_KNOWLEDGE: &str = "keywitness/v1/ceremony-knowledge";
    /// What a contributor's secret, or a beacon, is drawn from.
    pub const CEREMONY_SECRET: &str = "keywitness/v1/ceremony-secret";
    /// The file of a ceremony.
    pub const CEREMONY_FILE: &str = "keywitness/v1/ceremony-file";
    /// The note that parameters were found to be a ceremony's.
    pub const CEREMONY_CHECKED: &str = "keywitness/v1/ceremony-checked";
    /// A Schnorr proof of knowledge of a key.
    pub const SCHNORR: &str = "keywitness/v1/schnorr-key-knowledge";
    /// A proof that a holder knows its share of a dealing.
    pub const SHARE_CORRECTNESS: &str = "keywitness/v1/share-correctness";
    /// The fingerprint of a share: of its public point.
    pub const SHARE: &str = "keywitness/v1/share";
    /// The commitments of a sharing.
    pub const SHARING: &str = "keywitness/v1/sharing";
    /// Hashed to ristretto255, it is the second generator of Pedersen commitments.
    pub const PEDERSEN_GENERATOR: &str = "keywitness/v1/pedersen-generator";
    /// The terms and commitments of a dealing.
    pub const DEALING_TERMS: &str = "keywitness/v1/dealing-terms";
    /// A dealing, which its dealer signs.
    pub const DEALING: &str = "keywitness/v1/dealing";
    /// HPKE info of a sealed share, and the proof that its dealer sealed it.
    pub const SEALED_SHARE: &str = "keywitness/v1/sealed-share";
    /// A holder's complaint about a sealed share, which the holder signs.
    pub const COMPLAINT: &str = "keywitness/v1/complaint";
    /// The proof of the Diffie-Hellman point that a complaint publishes.
    pub const COMPLAINT_POINT: &str = "keywitness/v1/complaint-point";
    /// The terms of a public dealing.
    pub const PUBLIC_DEALING_TERMS: &str = "keywitness/v1/public-dealing-terms";
    /// A public dealing, which its dealer signs.
    pub const PUBLIC_DEALING: &str = "keywitness/v1/public-dealing";
    /// The proof that an encrypted share of a public dealing is the committed one.
    pub const PUBLIC_SHARE: &str = "keywitness/v1/public-share";
    /// The proof that a share of a public dealing was decrypted rightly.
    pub const DECRYPTED_SHARE: &str = "keywitness/v1/decrypted-share";
    /// A request that an HSM signs with its identity key.
    pub const REQUEST: &str = "keywitness/v1/request";
    /// An enrolment that an HSM signs with the identity key it enrols.
    pub const ENROL: &str = "keywitness/v1/enrol";
    /// HPKE info of a request to an HSM's channel key.
    pub const CHANNEL: &str = "keywitness/v1/channel";
    /// HPKE export context of the answer's key.
    pub const CHANNEL_ANSWER: &str = "keywitness/v1/channel-answer";
    /// The signing key that a client derives from its credential.
    pub const CLIENT_KEY: &str = "keywitness/v1/client-key";
    /// An operation that a client asks of an HSM, signed with that key.
    pub const OPERATION: &str = "keywitness/v1/operation";
    /// A bearer credential or join token, as the manager keeps it.
    pub const CREDENTIAL: &str = "keywitness/v1/credential";
    /// A leaf of the manager's log.
    pub const LOG_LEAF: &str = "keywitness/v1/log-leaf";
    /// What the key that shares are sealed to is derived from, with the channel secret.
    pub const SEALING_KEY: &str = "keywitness/v1/sealing-key";
    /// HPKE info of a copy of a key, from one HSM to another.
    pub const KEY_COPY: &str = "keywitness/v1/key-copy";
    /// Copies of keys, which the HSM signs that gives them.
    pub const TRANSFER: &str = "keywitness/v1/transfer";
    /// Vendor or TPM evidence, as a claim context names it.
    pub const EVIDENCE: &str = "keywitness/v1/evidence";
    /// What evidence of an HSM, or of a key in it, is bound to.
    pub const EVIDENCE_CONTEXT: &str = "keywitness/v1/evidence-context";
    /// What every label begins with. A key that signs messages for others refuses such messages.
    pub const RESERVED_PREFIX: &str = "keywitness/";
}

/// The Fiat-Shamir transcript of a Schnorr proof.
///
/// Absorbs protocol, group, context digest and public key before the commitment, so that the challenge
/// depends on the whole statement (the strong Fiat-Shamir transform; Bernhard, Pereira, Warinschi 2012).
#[derive(Clone)]
pub struct SchnorrTranscript(Transcript);

/// The transcript of a proof that a key is known, up to the group's name: kept for the groups that there are, which spares
/// a permutation for each proof.
fn key_knowledge_in(group: &'static str) -> Transcript {
    static KEPT: LazyLock<[(&str, Transcript); 3]> =
        LazyLock::new(|| ["ristretto255", "p256", "secp256k1"].map(|group| (group, begun(group))));
    fn begun(group: &str) -> Transcript {
        let mut transcript = Transcript::new(label::SCHNORR.as_bytes());
        transcript.append_message(b"group", group.as_bytes());
        transcript
    }
    KEPT.iter().find(|(kept, _)| *kept == group).map_or_else(|| begun(group), |(_, transcript)| transcript.clone())
}

impl SchnorrTranscript {
    /// Opens the transcript of a proof in `group` that `public_key` is known, bound to `context`.
    pub fn new(group: &'static str, context: &Digest, public_key: &[u8]) -> Self {
        let mut transcript = key_knowledge_in(group);
        transcript.append_message(b"context", &context.0);
        transcript.append_message(b"public-key", public_key);
        Self(transcript)
    }

    /// Opens the transcript of a proof of `kind` that the share is known which the dealing `sharing` fixes for the holder
    /// `index`, bound to `context`. The share's public point follows from dealing and index.
    pub fn of_share(kind: &str, context: &Digest, sharing: &Digest, index: u16) -> Self {
        let mut transcript = Transcript::new(label::SHARE_CORRECTNESS.as_bytes());
        transcript.append_message(b"kind", kind.as_bytes());
        transcript.append_message(b"context", &context.0);
        transcript.append_message(b"sharing", &sharing.0);
        transcript.append_u64(b"index", index.into());
        Self(transcript)
    }

    /// Opens the transcript of a proof in `group` that one scalar relates `points`, bases and images in turn, bound to
    /// `binding`.
    pub(crate) fn of_logarithm(label: &'static str, group: &'static str, binding: &Digest, points: &[Vec<u8>]) -> Self {
        let mut transcript = Transcript::new(label.as_bytes());
        transcript.append_message(b"group", group.as_bytes());
        transcript.append_message(b"binding", &binding.0);
        transcript.append_u64(b"points", points.len() as u64);
        for point in points {
            transcript.append_message(b"point", point);
        }
        Self(transcript)
    }

    /// Uniform bytes for a hedged nonce: a function of the transcript, the secret and fresh randomness,
    /// so that neither a bad generator nor a repeated transcript alone reveals the key.
    pub fn hedged_nonce<const N: usize>(
        &self,
        secret: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Zeroizing<[u8; N]> {
        let mut nonce = Zeroizing::new([0; N]);
        self.0.build_rng().rekey_with_witness_bytes(b"secret", secret).finalize(rng).fill_bytes(&mut *nonce);
        nonce
    }

    /// Absorbs the commitment and gives the challenge as uniform bytes.
    pub fn challenge<const N: usize>(mut self, commitment: &[u8]) -> [u8; N] {
        let mut challenge = [0; N];
        self.0.append_message(b"commitment", commitment);
        self.0.challenge_bytes(b"challenge", &mut challenge);
        challenge
    }
}
