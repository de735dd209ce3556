//! Groth16 proofs, public inputs and verifying keys in the JSON of snarkjs, so that people who run none of our code can
//! check a proof: `snarkjs groth16 verify verification_key.json public.json proof.json`.
//!
//! Form and names are those that snarkjs 0.7 writes: numbers as decimal text, points in projective coordinates with a
//! last coordinate of one, elements of an extension field lowest coefficient first. Reading is total and strict where
//! snarkjs is not: numbers below their modulus and in one spelling, points in their subgroups and none the
//! identity, as many public inputs as the circuit has, and no other fields. What the JSON does not carry is who made the
//! proof, and how the public inputs follow from a claim: that an [`crate::Envelope`] says.

mod decimal;
#[cfg(all(test, feature = "prove"))]
mod tests;

use ark_bn254::{Bn254, Fq12, Fr};
use ark_ec::pairing::Pairing;
use ark_ff::AdditiveGroup;
use ark_groth16::prepare_verifying_key;
use ark_snark::SNARK;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ClaimContext, Digest, Error,
    codec::MAX_BYTES,
    key_knowledge::{
        Instance,
        groth16::{self, Snark},
        symmetric::PublicInputs,
    },
    params::{Groth16Circuit, Groth16Parameters, groth16_key_digest},
};
use decimal::{Decimal, Point1, Point2, Target, target};

/// How many public inputs the circuit has.
pub const PUBLIC_INPUTS: usize = PublicInputs::<Fr>::COUNT;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Protocol {
    #[serde(rename = "groth16")]
    Groth16,
}

/// BN254 under its older name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Curve {
    #[serde(rename = "bn128")]
    Bn128,
}

fn to_json(document: &impl Serialize) -> String {
    serde_json::to_string_pretty(document).expect("text and arrays of text have a JSON form")
}

fn from_json<T: DeserializeOwned>(what: &'static str, json: &[u8]) -> Result<T, Error> {
    if json.len() > MAX_BYTES {
        return Err(Error::malformed(what, "it is longer than allowed"));
    }
    serde_json::from_slice(json).map_err(|_| Error::malformed(what, "it is not JSON of the form that snarkjs writes"))
}

/// A Groth16 proof whose points are usable. Whether it proves anything, [`VerifyingKey::verify`] says.
#[derive(Clone, PartialEq, Debug)]
pub struct Proof(ark_groth16::Proof<Bn254>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofDocument {
    pi_a: Point1,
    pi_b: Point2,
    pi_c: Point1,
    protocol: Protocol,
    curve: Curve,
}

impl Proof {
    /// Reads a proof as an envelope carries it, in 128 bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        groth16::decode(bytes).map(Self)
    }

    /// The proof as an envelope carries it.
    pub fn to_bytes(&self) -> Vec<u8> {
        groth16::encode(&self.0)
    }

    /// Reads a `proof.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let document: ProofDocument = from_json("snarkjs proof", json)?;
        let unusable = Error::malformed("snarkjs proof", "one of its points is not usable");
        let points = (document.pi_a.point(), document.pi_b.point(), document.pi_c.point());
        let (Some(a), Some(b), Some(c)) = points else { return Err(unusable) };
        Ok(Self(ark_groth16::Proof { a, b, c }))
    }

    /// Writes a `proof.json`.
    pub fn to_json(&self) -> String {
        to_json(&ProofDocument {
            pi_a: Point1::new(&self.0.a),
            pi_b: Point2::new(&self.0.b),
            pi_c: Point1::new(&self.0.c),
            protocol: Protocol::Groth16,
            curve: Curve::Bn128,
        })
    }
}

/// The public inputs of a proof, in the order of the circuit: the key's fingerprint, its domain, whether it has bytes
/// 16..24 and 24..32, and the two halves of the claim context's digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicSignals([Fr; PUBLIC_INPUTS]);

impl PublicSignals {
    /// The public inputs of a claim.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for anything but a symmetric key's fingerprint in Groth16's suite.
    pub fn of_claim(context: &ClaimContext, instance: &Instance) -> Result<Self, Error> {
        PublicInputs::new(context, instance).map(|public| Self(public.row()))
    }

    /// Reads a `public.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let what = "snarkjs public inputs";
        let numbers: [Decimal; PUBLIC_INPUTS] = from_json(what, json)?;
        let mut row = [Fr::ZERO; PUBLIC_INPUTS];
        for (element, number) in row.iter_mut().zip(&numbers) {
            *element = number.element().ok_or(Error::malformed(what, "a number is not canonical"))?;
        }
        Ok(Self(row))
    }

    /// Writes a `public.json`.
    pub fn to_json(&self) -> String {
        to_json(&self.0.map(Decimal::new))
    }
}

/// A verifying key for this circuit's number of public inputs, whose points are usable.
#[derive(Clone, PartialEq, Debug)]
pub struct VerifyingKey(ark_groth16::VerifyingKey<Bn254>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyDocument {
    protocol: Protocol,
    curve: Curve,
    #[serde(rename = "nPublic")]
    n_public: usize,
    vk_alpha_1: Point1,
    vk_beta_2: Point2,
    vk_gamma_2: Point2,
    vk_delta_2: Point2,
    /// The pairing of alpha and beta.
    vk_alphabeta_12: Target,
    /// The input commitment's points: the constant's, then one for each public input.
    #[serde(rename = "IC")]
    ic: [Point1; 1 + PUBLIC_INPUTS],
}

impl VerifyingKey {
    /// The verifying key of a parameter file.
    pub fn of_parameters(parameters: &Groth16Parameters) -> Self {
        Self(parameters.prepared().vk.clone())
    }

    /// Reads a `verification_key.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let what = "snarkjs verifying key";
        let document: KeyDocument = from_json(what, json)?;
        if document.n_public != PUBLIC_INPUTS {
            return Err(Error::malformed(what, "it is for another number of public inputs"));
        }
        let unusable = Error::malformed(what, "one of its points is not usable");
        let groups = (document.vk_beta_2.point(), document.vk_gamma_2.point(), document.vk_delta_2.point());
        let input_commitment = document.ic.iter().map(Point1::point).collect::<Option<Vec<_>>>();
        let (Some(alpha_g1), (Some(beta_g2), Some(gamma_g2), Some(delta_g2)), Some(gamma_abc_g1)) =
            (document.vk_alpha_1.point(), groups, input_commitment)
        else {
            return Err(unusable);
        };
        let key = Self(ark_groth16::VerifyingKey { alpha_g1, beta_g2, gamma_g2, delta_g2, gamma_abc_g1 });
        if target(&key.alpha_beta()) != document.vk_alphabeta_12 {
            return Err(Error::malformed(what, "its alphabeta is not the pairing of alpha and beta"));
        }
        Ok(key)
    }

    /// Writes a `verification_key.json`.
    ///
    /// # Errors
    /// Never for a key of this circuit: [`Error::Malformed`] for another number of points.
    pub fn to_json(&self) -> Result<String, Error> {
        let points: Vec<_> = self.0.gamma_abc_g1.iter().map(Point1::new).collect();
        let other = |_| Error::malformed("verifying key", "it is for another number of public inputs");
        Ok(to_json(&KeyDocument {
            protocol: Protocol::Groth16,
            curve: Curve::Bn128,
            n_public: PUBLIC_INPUTS,
            vk_alpha_1: Point1::new(&self.0.alpha_g1),
            vk_beta_2: Point2::new(&self.0.beta_g2),
            vk_gamma_2: Point2::new(&self.0.gamma_g2),
            vk_delta_2: Point2::new(&self.0.delta_g2),
            vk_alphabeta_12: target(&self.alpha_beta()),
            ic: points.try_into().map_err(other)?,
        }))
    }

    fn alpha_beta(&self) -> Fq12 {
        Bn254::pairing(self.0.alpha_g1, self.0.beta_g2).0
    }

    /// Digest of the key, as claim contexts and [`Groth16Parameters::verifying_key_digest`] have it.
    pub fn digest(&self) -> Digest {
        groth16_key_digest(Groth16Circuit::OneKey, &self.0)
    }

    /// Checks a proof.
    ///
    /// # Errors
    /// [`Error::ProofRefused`].
    pub fn verify(&self, public: &PublicSignals, proof: &Proof) -> Result<(), Error> {
        match Snark::verify_with_processed_vk(&prepare_verifying_key(&self.0), &public.0, &proof.0) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Error::ProofRefused),
        }
    }
}
