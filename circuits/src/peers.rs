//! The libraries' own provers and verifiers over our circuits, for benches to measure ours against.
//!
//! Each does what a user of the library would write, with everything prepared beforehand that the library lets one
//! prepare. The proofs are the same as ours: either side accepts the other's. No product is built with this module.

use std::{hint::black_box, io};

use ark_bn254::{Bn254, Fq, Fr};
use ark_ff::UniformRand;
use ark_groth16::{PreparedVerifyingKey, Proof, prepare_verifying_key};
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use ark_snark::SNARK;
use ff::Field;
use halo2_proofs::{
    arithmetic::best_multiexp,
    pasta::{
        Eq, EqAffine, Fp,
        group::{Curve, Group, GroupEncoding},
    },
    plonk::{BatchVerifier, ProvingKey, SingleVerifier, create_proof, keygen_pk, keygen_vk, verify_proof},
    poly::commitment::Params,
    transcript::{Blake2bRead, Blake2bWrite, Challenge255, Transcript, TranscriptRead},
};
use rand::rngs::OsRng;
use rand_halo2::{rand_core::UnwrapErr, rngs::SysRng};

use crate::{
    ClaimContext, Error, Parameters,
    key_knowledge::{
        Instance, Witness,
        groth16::{self, Groth16Circuit, Snark},
        halo2,
        symmetric::{KeyLimbs, PublicInputs},
    },
};

/// Public inputs of a claim about one key, as the Groth16 libraries take them.
pub struct Groth16Inputs(PublicInputs<Fr>);

impl Groth16Inputs {
    /// The public inputs of a claim.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for anything but a fingerprint in the suite.
    pub fn new(context: &ClaimContext, instance: &Instance) -> Result<Self, Error> {
        PublicInputs::new(context, instance).map(Self)
    }
}

/// ark-groth16 over the circuit of one key.
pub struct ArkGroth16<'a> {
    parameters: &'a Parameters,
    prepared: PreparedVerifyingKey<Bn254>,
}

impl<'a> ArkGroth16<'a> {
    /// Prepares the verifying key.
    ///
    /// # Errors
    /// [`Error::MissingParameters`]
    pub fn new(parameters: &'a Parameters) -> Result<Self, Error> {
        let prepared = prepare_verifying_key(&parameters.groth16()?.proving_key().vk);
        Ok(Self { parameters, prepared })
    }

    /// Decodes a proof with the library's checks, and verifies it.
    pub fn verify(&self, inputs: &Groth16Inputs, proof: &[u8]) -> bool {
        let Ok(proof) = Proof::deserialize_compressed(proof) else { return false };
        Snark::verify_with_processed_vk(&self.prepared, &inputs.0.row(), &proof).unwrap_or(false)
    }

    /// Proves by `SNARK::prove`, which lays the circuit out for each proof.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`]
    pub fn prove(&self, inputs: &Groth16Inputs, witness: &Witness) -> Result<Vec<u8>, Error> {
        let circuit = groth16::KeyCircuit { assignment: Some((inputs.0, limbs(witness)?)) };
        let key = self.parameters.groth16()?.proving_key();
        encoded(Snark::prove(key, circuit, &mut OsRng).ok())
    }

    /// Proves by `create_proof_with_reduction_and_matrices`, with a layout that is kept.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`]
    pub fn prove_with_matrices(&self, inputs: &Groth16Inputs, witness: &Witness) -> Result<Vec<u8>, Error> {
        let refused = |_| Error::WitnessRefused("the circuit could not be filled in");
        let values = groth16::assignment(inputs.0, limbs(witness)?).map_err(refused)?;
        let (key, r, s) = (self.parameters.groth16()?.proving_key(), Fr::rand(&mut OsRng), Fr::rand(&mut OsRng));
        let circuit = Groth16Circuit::OneKey;
        let (matrices, inputs, constraints) = (circuit.matrices()?, circuit.input_points(), circuit.constraints());
        encoded(Snark::create_proof_with_reduction_and_matrices(key, r, s, matrices, inputs, constraints, &values).ok())
    }
}

fn encoded(proof: Option<Proof<Bn254>>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(groth16::PROOF_LEN);
    let written = proof.and_then(|proof| proof.serialize_compressed(&mut bytes).ok());
    written.map(|()| bytes).ok_or(Error::WitnessRefused("the library made no proof"))
}

fn limbs<F: crate::key_knowledge::symmetric::SuiteField>(witness: &Witness) -> Result<KeyLimbs<F>, Error> {
    KeyLimbs::new(witness.algorithm(), witness.secret())
}

/// Public inputs of a claim about one key, as halo2_proofs takes them.
pub struct Halo2Inputs(Vec<Fp>);

impl Halo2Inputs {
    /// The public inputs of a claim.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for anything but a fingerprint in the suite.
    pub fn new(context: &ClaimContext, instance: &Instance) -> Result<Self, Error> {
        Ok(Self(PublicInputs::new(context, instance)?.row().to_vec()))
    }
}

/// halo2_proofs over the circuit of one key.
pub struct Halo2Proofs {
    bases: Params<EqAffine>,
    key: ProvingKey<EqAffine>,
}

impl Halo2Proofs {
    /// Generates the keys.
    ///
    /// # Errors
    /// [`Error::MissingParameters`]
    pub fn new() -> Result<Self, Error> {
        let (bases, circuit) = (Params::new(halo2::K), halo2::KeyCircuit::default());
        let key = keygen_vk(&bases, &circuit).and_then(|key| keygen_pk(&bases, key, &circuit));
        let key = key.map_err(|_| Error::MissingParameters("halo2"))?;
        Ok(Self { bases, key })
    }

    /// `verify_proof` with `SingleVerifier`.
    pub fn verify(&self, inputs: &Halo2Inputs, proof: &[u8]) -> bool {
        let mut transcript = Blake2bRead::<_, EqAffine, Challenge255<_>>::init(proof);
        let strategy = SingleVerifier::new(&self.bases);
        verify_proof(&self.bases, self.key.get_vk(), strategy, &[&[&inputs.0]], &mut transcript).is_ok()
    }

    /// How many points a proof carries.
    pub fn points(&self, inputs: &Halo2Inputs, proof: &[u8]) -> usize {
        let mut transcript = Counting { transcript: Blake2bRead::init(proof), points: 0 };
        let strategy = SingleVerifier::new(&self.bases);
        match verify_proof(&self.bases, self.key.get_vk(), strategy, &[&[&inputs.0]], &mut transcript) {
            Ok(()) => transcript.points,
            Err(_) => 0,
        }
    }

    /// `BatchVerifier`.
    pub fn verify_all<'b>(&self, proofs: impl Iterator<Item = (&'b Halo2Inputs, &'b [u8])>) -> bool {
        let mut batch = BatchVerifier::new();
        for (inputs, proof) in proofs {
            batch.add_proof(vec![vec![inputs.0.clone()]], proof.to_vec());
        }
        batch.finalize(&self.bases, self.key.get_vk())
    }

    /// `create_proof`.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`]
    pub fn prove(&self, inputs: &Halo2Inputs, witness: &Witness) -> Result<Vec<u8>, Error> {
        let circuit = halo2::KeyCircuit::new(limbs(witness)?);
        let mut transcript = Blake2bWrite::<_, EqAffine, Challenge255<_>>::init(Vec::with_capacity(halo2::PROOF_LEN));
        create_proof(&self.bases, &self.key, &[circuit], &[&[&inputs.0]], UnwrapErr(SysRng), &mut transcript)
            .map_err(|_| Error::WitnessRefused("the library made no proof"))?;
        Ok(transcript.finalize())
    }
}

/// `count` multiplications in BN254's base field, of which a processor can have several on the way.
pub fn bn254_multiplications(count: usize) -> impl FnMut() + Send + use<> {
    let mut values: Vec<Fq> = (0..32.min(count)).map(|_| Fq::rand(&mut OsRng)).collect();
    let factor = Fq::rand(&mut OsRng);
    move || {
        let mut left = count;
        while left > 0 {
            values.iter_mut().take(left).for_each(|value| *value *= factor);
            left = left.saturating_sub(values.len());
        }
        black_box(&values);
    }
}

/// Decoding `points` points on Vesta.
pub fn halo2_decoding(points: usize) -> impl FnMut() + Send + use<> {
    let encoded: Vec<_> = vesta(points).iter().map(GroupEncoding::to_bytes).collect();
    move || {
        for point in &encoded {
            black_box(Option::<EqAffine>::from(EqAffine::from_bytes(point)));
        }
    }
}

/// One multiplication of `points` points on Vesta, with scalars of full size.
pub fn halo2_multiplication(points: usize) -> impl FnMut() + Send + use<> {
    let scalars: Vec<Fp> = (0..points).map(|_| Fp::random(&mut UnwrapErr(SysRng))).collect();
    let points = vesta(points);
    move || {
        black_box(best_multiexp(&scalars, &points));
    }
}

fn vesta(points: usize) -> Vec<EqAffine> {
    (0..points).map(|_| Eq::random(&mut UnwrapErr(SysRng)).to_affine()).collect()
}

/// A transcript that counts the points it reads.
struct Counting<'a> {
    transcript: Blake2bRead<&'a [u8], EqAffine, Challenge255<EqAffine>>,
    points: usize,
}

impl Transcript<EqAffine, Challenge255<EqAffine>> for Counting<'_> {
    fn squeeze_challenge(&mut self) -> Challenge255<EqAffine> {
        self.transcript.squeeze_challenge()
    }
    fn common_point(&mut self, point: EqAffine) -> io::Result<()> {
        self.transcript.common_point(point)
    }
    fn common_scalar(&mut self, scalar: Fp) -> io::Result<()> {
        self.transcript.common_scalar(scalar)
    }
}

impl TranscriptRead<EqAffine, Challenge255<EqAffine>> for Counting<'_> {
    fn read_point(&mut self) -> io::Result<EqAffine> {
        self.points += 1;
        self.transcript.read_point()
    }
    fn read_scalar(&mut self) -> io::Result<Fp> {
        self.transcript.read_scalar()
    }
}
