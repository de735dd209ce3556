//! halo2's keys. They are derived from nothing but the circuit, so they are computed and never stored:
//! halo2_proofs has no codec for them.

use std::{
    marker::PhantomData,
    sync::{LazyLock, OnceLock},
};

use ff::PrimeField;
#[cfg(feature = "prove")]
use halo2_proofs::plonk::{ProvingKey, keygen_pk};
use halo2_proofs::{
    pasta::{EqAffine, Fp},
    plonk::{Circuit, Error as PlonkError, VerificationStrategy, VerifyingKey, keygen_vk, verify_proof},
    poly::commitment::{Guard, MSM, Params},
    transcript::{Blake2bRead, Challenge255, EncodedChallenge},
};
use rayon::prelude::*;

use crate::{Digest, Error, Kind, codec::Writer, combination, transcript::label};

/// A circuit of the suite, and all that its keys depend on.
pub(crate) trait Halo2Circuit: Circuit<Fp> + Default {
    /// The kind that the circuit proves.
    const KIND: Kind;
    /// The circuit has 2^K rows.
    const K: u32;
    /// Values in the instance column.
    const PUBLIC: usize;
    /// Bytes of every proof.
    const PROOF_LEN: usize;
}

/// Largest circuit of the suite: 2^MAX_K rows.
const MAX_K: u32 = 16;

/// The commitment scheme's bases for 2^k rows, shared by every circuit of that size.
fn commitment(k: u32) -> &'static Params<EqAffine> {
    static BASES: [OnceLock<Params<EqAffine>>; MAX_K as usize + 1] = [const { OnceLock::new() }; MAX_K as usize + 1];
    BASES.get(k as usize).expect("no circuit is larger").get_or_init(|| Params::new(k))
}

fn check_length<C: Halo2Circuit>(public: &[Fp]) -> Result<(), Error> {
    if public.len() == C::PUBLIC {
        Ok(())
    } else {
        Err(Error::WrongInstance("the circuit has another number of inputs"))
    }
}

/// A sum of multiples of points, over the bases of one size.
type Equation = MSM<'static, EqAffine>;

/// A proof that was read: points and scalars decoded, challenges derived, evaluations compared with the gates.
///
/// What is left is its equation: a sum of multiples of points that is the identity if the proof is good. A proof of the
/// right form with wrong values in it is opened, and refused by its check.
pub struct Halo2Opened {
    verifying_key: Digest,
    equation: Equation,
}

/// Hands out the equation of a proof, where the library's strategies evaluate it.
struct Open(&'static Params<EqAffine>);

impl VerificationStrategy<'static, EqAffine> for Open {
    type Output = Equation;

    fn process<E: EncodedChallenge<EqAffine>>(
        self,
        read: impl FnOnce(Equation) -> Result<Guard<'static, EqAffine, E>, PlonkError>,
    ) -> Result<Equation, PlonkError> {
        Ok(read(self.0.empty_msm())?.use_challenges())
    }
}

/// The sum of equations, each multiplied with a weight of its own: the group of Vesta has prime order.
///
/// What was added is never multiplied again, so the work is linear in the number of proofs; points that all of
/// them share, the bases and the verifying key's, are added up as scalars.
fn weighted_sum(bases: &'static Params<EqAffine>, proofs: &[&Halo2Opened]) -> Equation {
    let weighted: Vec<_> = combination::weights(proofs.len()).into_iter().zip(proofs).collect();
    let part = weighted.len().div_ceil(rayon::current_num_threads()).max(1);
    let sum = |part: &[(u128, &&Halo2Opened)]| {
        part.iter().fold(bases.empty_msm(), |mut sum, (weight, proof)| {
            let mut equation = proof.equation.clone();
            equation.scale(Fp::from_u128(*weight));
            sum.add_msm(&equation);
            sum
        })
    };
    let both = |mut left: Equation, right: Equation| {
        left.add_msm(&right);
        left
    };
    weighted.par_chunks(part).map(sum).reduce(|| bases.empty_msm(), both)
}

/// The keys of one circuit, generated on first use and then shared by the whole process.
pub(crate) struct Halo2Keys<C> {
    verifying: LazyLock<(VerifyingKey<EqAffine>, Digest)>,
    #[cfg(feature = "prove")]
    proving: OnceLock<ProvingKey<EqAffine>>,
    circuit: PhantomData<fn() -> C>,
}

impl<C: Halo2Circuit> Halo2Keys<C> {
    /// Keys that are not generated yet.
    pub(crate) const fn new() -> Self {
        Self {
            verifying: LazyLock::new(Self::generate),
            #[cfg(feature = "prove")]
            proving: OnceLock::new(),
            circuit: PhantomData,
        }
    }

    fn generate() -> (VerifyingKey<EqAffine>, Digest) {
        let key = super::apart(|| keygen_vk(commitment(C::K), &C::default()).expect("the circuit fits into 2^K rows"))
            .expect("the system has a thread to spare");
        let mut writer = Writer::default();
        writer.bytes(C::KIND.name().as_bytes()).u32(C::K).bytes(format!("{:?}", key.pinned()).as_bytes());
        (key, Digest::of(label::VERIFYING_KEY, &writer.into_bytes()))
    }

    /// Digest of the verifying key: of the kind's name, the size and the key's pinned description.
    pub(crate) fn verifying_key_digest(&self) -> Digest {
        self.verifying.1
    }

    /// Reads a proof for the values of the instance column.
    ///
    /// halo2 fills the column up with zeros, so a row with surplus zeros, or without its last ones, is the same row to
    /// it. Here there is one row.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for a row of another length, [`Error::Malformed`] for a proof of another length,
    /// [`Error::ProofRefused`] for points and scalars that are not canonical, and for the identity.
    pub(crate) fn open(&self, public: &[Fp], proof: &[u8]) -> Result<Halo2Opened, Error> {
        check_length::<C>(public)?;
        if proof.len() != C::PROOF_LEN {
            return Err(Error::malformed("halo2 proof", "it has the wrong length"));
        }
        let (key, verifying_key) = &*self.verifying;
        let bases = commitment(C::K);
        let mut transcript = Blake2bRead::<_, EqAffine, Challenge255<_>>::init(proof);
        let equation = verify_proof(bases, key, Open(bases), &[&[public]], &mut transcript);
        Ok(Halo2Opened { verifying_key: *verifying_key, equation: equation.map_err(|_| Error::ProofRefused)? })
    }

    /// Checks proofs of this circuit: one exactly, several by one equation.
    ///
    /// # Errors
    /// [`Error::ProofRefused`] where one is bad or of another circuit, and for an empty set.
    pub(crate) fn check(&self, proofs: &[&Halo2Opened]) -> Result<(), Error> {
        if proofs.iter().any(|proof| proof.verifying_key != self.verifying.1) {
            return Err(Error::ProofRefused);
        }
        let equation = match proofs {
            [] => return Err(Error::ProofRefused),
            [proof] => proof.equation.clone(),
            several => weighted_sum(commitment(C::K), several),
        };
        if equation.eval() { Ok(()) } else { Err(Error::ProofRefused) }
    }

    /// Opens and checks one proof.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::check`].
    #[cfg(all(test, feature = "prove"))]
    pub(crate) fn verify(&self, public: &[Fp], proof: &[u8]) -> Result<(), Error> {
        self.check(&[&self.open(public, proof)?])
    }

    /// Makes a proof; the circuit's witness must satisfy the relation, or the proof will not verify.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for a row of another length, [`Error::WitnessRefused`] where the circuit cannot be filled
    /// in.
    #[cfg(feature = "prove")]
    pub(crate) fn prove(&self, circuit: C, public: &[Fp]) -> Result<Vec<u8>, Error> {
        use halo2_proofs::{plonk::create_proof, transcript::Blake2bWrite};
        use rand_halo2::{rand_core::UnwrapErr, rngs::SysRng};

        check_length::<C>(public)?;
        let mut transcript = Blake2bWrite::<_, EqAffine, Challenge255<_>>::init(Vec::with_capacity(C::PROOF_LEN));
        let (key, bases) = (self.proving_key(), commitment(C::K));
        create_proof(bases, key, &[circuit], &[&[public]], UnwrapErr(SysRng), &mut transcript)
            .map_err(|_| Error::WitnessRefused("the circuit could not be filled in"))?;
        Ok(transcript.finalize())
    }

    /// The proving key, generated when the first proof is made: whoever only verifies never pays for it.
    #[cfg(feature = "prove")]
    fn proving_key(&self) -> &ProvingKey<EqAffine> {
        self.proving.get_or_init(|| {
            let verifying = self.verifying.0.clone();
            let make = || keygen_pk(commitment(C::K), verifying, &C::default());
            super::apart(make).expect("the system has a thread to spare").expect("the circuit fits into 2^K rows")
        })
    }
}

#[cfg(all(test, feature = "prove"))]
mod tests;
