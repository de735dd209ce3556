//! halo2's keys. They are derived from nothing but the circuit, so they are computed and never stored:
//! halo2_proofs has no codec for them.

use std::sync::OnceLock;

#[cfg(feature = "prove")]
use halo2_proofs::plonk::{ProvingKey, keygen_pk};
use halo2_proofs::{
    pasta::EqAffine,
    plonk::{VerifyingKey, keygen_vk},
    poly::commitment::Params,
};

use crate::{
    Digest, Kind,
    codec::Writer,
    key_knowledge::halo2::{K, KeyCircuit},
    transcript::label,
};

/// halo2's commitment parameters and keys.
pub struct Halo2Parameters {
    commitment: Params<EqAffine>,
    verifying_key: VerifyingKey<EqAffine>,
    digest: Digest,
    #[cfg(feature = "prove")]
    proving_key: OnceLock<ProvingKey<EqAffine>>,
}

impl Halo2Parameters {
    /// The keys of this process, generated on first use.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Halo2Parameters> = OnceLock::new();
        SHARED.get_or_init(Self::generate)
    }

    fn generate() -> Self {
        let commitment = Params::new(K);
        let verifying_key = keygen_vk(&commitment, &KeyCircuit::default()).expect("the circuit fits into 2^K rows");
        let mut writer = Writer::default();
        writer
            .bytes(Kind::KeyKnowledgeHalo2.name().as_bytes())
            .u32(K)
            .bytes(format!("{:?}", verifying_key.pinned()).as_bytes());
        Self {
            commitment,
            verifying_key,
            digest: Digest::of(label::VERIFYING_KEY, &writer.into_bytes()),
            #[cfg(feature = "prove")]
            proving_key: OnceLock::new(),
        }
    }

    /// Digest of the verifying key: of the kind's name, the size and the key's pinned description.
    pub fn verifying_key_digest(&self) -> Digest {
        self.digest
    }

    /// The commitment scheme's bases.
    pub(crate) fn commitment(&self) -> &Params<EqAffine> {
        &self.commitment
    }

    /// The verifying key.
    pub(crate) fn verifying_key(&self) -> &VerifyingKey<EqAffine> {
        &self.verifying_key
    }

    /// The proving key, generated when the first proof is made: whoever only verifies never pays for it.
    #[cfg(feature = "prove")]
    pub(crate) fn proving_key(&self) -> &ProvingKey<EqAffine> {
        self.proving_key.get_or_init(|| {
            keygen_pk(&self.commitment, self.verifying_key.clone(), &KeyCircuit::default())
                .expect("the circuit fits into 2^K rows")
        })
    }
}
