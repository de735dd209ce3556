//! Groth16's keys, and the file that they are kept in.
//!
//! ```text
//! magic "KWGROTH1" · version u16 · circuit name · origin · verifying key, compressed
//!   · proving key, uncompressed · Digest::of(label::PARAMETERS, everything before)
//! ```
//!
//! Integers and lengths are those of [`crate::codec`]. The digest is checked first. It finds damage, and
//! not malice: whoever can write the file can write its digest. So the verifying key is checked point by
//! point on every reading, the proving key's points at least for lying on their curves, and the manager
//! records [`Groth16Parameters::digest`] of the file it began with.

#[cfg(feature = "prove")]
use std::sync::OnceLock;
use std::{fs::File, io::Read, path::Path};

use ark_bn254::Bn254;
use ark_ec::AffineRepr;
#[cfg(feature = "prove")]
use ark_groth16::ProvingKey;
use ark_groth16::{PreparedVerifyingKey, VerifyingKey, prepare_verifying_key};
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
#[cfg(feature = "prove")]
use rayon::prelude::*;

#[cfg(feature = "prove")]
use super::apart;
#[cfg(feature = "prove")]
use crate::key_knowledge::groth16::Prover;
use crate::{
    Digest, Error,
    codec::{Reader, Writer},
    key_knowledge::groth16::{Groth16Circuit, Verifier},
    transcript::label,
};

const MAGIC: &[u8; 8] = b"KWGROTH1";
const VERSION: u16 = 1;
/// Largest file that is read, in bytes. That of many keys has 12.5 million, that of one key 200 thousand.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Where Groth16 parameters come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Made by one party, who could forge proofs: for development and demonstration.
    Development,
    /// Made by the ceremony with this digest.
    Ceremony(Digest),
}

/// Groth16's keys for one circuit: the verifying key, and, with feature `prove`, the proving key.
pub struct Groth16Parameters {
    circuit: Groth16Circuit,
    origin: Origin,
    file_digest: Digest,
    key_digest: Digest,
    prepared: PreparedVerifyingKey<Bn254>,
    verifier: Verifier,
    #[cfg(feature = "prove")]
    prover: OnceLock<Option<Prover>>,
    #[cfg(feature = "prove")]
    proving: ProvingKey<Bn254>,
}

impl Groth16Parameters {
    /// Makes development parameters for one key's circuit. Their secrets are dropped, not proven to be gone.
    ///
    /// # Errors
    /// [`Error::Parameters`] where the circuit cannot be set up.
    #[cfg(feature = "prove")]
    pub fn develop() -> Result<Self, Error> {
        Self::develop_for(Groth16Circuit::OneKey)
    }

    /// Makes development parameters for the circuit of many keys, which takes seconds.
    ///
    /// # Errors
    /// As [`Self::develop`].
    #[cfg(feature = "prove")]
    pub fn develop_many() -> Result<Self, Error> {
        Self::develop_for(Groth16Circuit::ManyKeys)
    }

    #[cfg(feature = "prove")]
    fn develop_for(circuit: Groth16Circuit) -> Result<Self, Error> {
        Self::from_keys(circuit, Origin::Development, circuit.set_up()?)
    }

    /// Parameters from a proving key, whose points the caller has checked.
    ///
    /// # Errors
    /// [`Error::Parameters`] for a key of another circuit.
    #[cfg(feature = "prove")]
    pub(crate) fn from_keys(
        circuit: Groth16Circuit,
        origin: Origin,
        proving: ProvingKey<Bn254>,
    ) -> Result<Self, Error> {
        check_shape(circuit, &proving).map_err(|why| Error::Parameters(why.to_owned()))?;
        let key_digest = verifying_key_digest(circuit, &compressed(&proving.vk));
        let prepared = prepare_verifying_key(&proving.vk);
        let mut parameters = Self {
            circuit,
            origin,
            file_digest: Digest([0; 32]),
            key_digest,
            verifier: Verifier::new(&prepared),
            prepared,
            prover: OnceLock::new(),
            proving,
        };
        parameters.file_digest = Digest::of(label::PARAMETERS, &parameters.body());
        Ok(parameters)
    }

    /// Reads one key's parameters at `path`; where there are none, makes development parameters and writes
    /// them. The flag says whether they were made now. Two processes that begin together end up with
    /// the same parameters.
    ///
    /// # Errors
    /// [`Error::Parameters`] for an unusable file, or one that cannot be written.
    #[cfg(feature = "prove")]
    pub fn read_or_develop(path: &Path) -> Result<(Self, bool), Error> {
        Self::read_or_develop_for(Groth16Circuit::OneKey, path)
    }

    /// The same for the parameters of many keys, which take seconds to make.
    ///
    /// # Errors
    /// As [`Self::read_or_develop`].
    #[cfg(feature = "prove")]
    pub fn read_or_develop_many(path: &Path) -> Result<(Self, bool), Error> {
        Self::read_or_develop_for(Groth16Circuit::ManyKeys, path)
    }

    #[cfg(feature = "prove")]
    fn read_or_develop_for(circuit: Groth16Circuit, path: &Path) -> Result<(Self, bool), Error> {
        if path.try_exists().map_err(|error| failed(path, "cannot be looked at", &error))? {
            return Ok((Self::read_for(circuit, path)?, false));
        }
        let made = Self::develop_for(circuit)?;
        if made.persist(path, false)? { Ok((made, true)) } else { Ok((Self::read_for(circuit, path)?, false)) }
    }

    /// Reads a file of one key's parameters and checks it.
    ///
    /// # Errors
    /// [`Error::Parameters`] for a file that cannot be read, is damaged, belongs to another circuit or
    /// goes on after its end.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::read_for(Groth16Circuit::OneKey, path)
    }

    /// Reads a file of the parameters of many keys and checks it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_many(path: &Path) -> Result<Self, Error> {
        Self::read_for(Groth16Circuit::ManyKeys, path)
    }

    pub(crate) fn read_for(circuit: Groth16Circuit, path: &Path) -> Result<Self, Error> {
        let read = |error: &std::io::Error| failed(path, "cannot be read", error);
        let file = File::open(path).map_err(|error| read(&error))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| read(&error))?;
        let parsed = Self::parse(&bytes).and_then(|parameters| match parameters.circuit == circuit {
            true => Ok(parameters),
            false => Err(format!("it belongs to another circuit, {}", parameters.circuit)),
        });
        parsed.map_err(|why| {
            let path = path.display();
            Error::Parameters(format!("{path} is not usable: {why}; delete it and start again, or fetch it again"))
        })
    }

    /// The verifying key alone, from its compressed encoding: enough for whoever only verifies. Nothing can be proven
    /// with it, and it cannot be written as a parameter file.
    ///
    /// # Errors
    /// [`Error::Parameters`] for anything but a verifying key of one key's circuit.
    pub fn for_verifying(origin: Origin, verifying_key: &[u8]) -> Result<Self, Error> {
        Self::only_verifying(Groth16Circuit::OneKey, origin, verifying_key)
    }

    /// The same for the circuit of many keys.
    ///
    /// # Errors
    /// [`Error::Parameters`] for anything but a verifying key of that circuit.
    pub fn for_verifying_many(origin: Origin, verifying_key: &[u8]) -> Result<Self, Error> {
        Self::only_verifying(Groth16Circuit::ManyKeys, origin, verifying_key)
    }

    fn only_verifying(circuit: Groth16Circuit, origin: Origin, verifying_key: &[u8]) -> Result<Self, Error> {
        let verifying = read_verifying_key(circuit, verifying_key).map_err(|why| Error::Parameters(why.to_owned()))?;
        let prepared = prepare_verifying_key(&verifying);
        Ok(Self {
            circuit,
            origin,
            file_digest: Digest::of(label::PARAMETERS, verifying_key),
            key_digest: verifying_key_digest(circuit, verifying_key),
            verifier: Verifier::new(&prepared),
            prepared,
            #[cfg(feature = "prove")]
            prover: OnceLock::new(),
            #[cfg(feature = "prove")]
            proving: ProvingKey {
                vk: verifying,
                beta_g1: AffineRepr::zero(),
                delta_g1: AffineRepr::zero(),
                a_query: Vec::new(),
                b_g1_query: Vec::new(),
                b_g2_query: Vec::new(),
                h_query: Vec::new(),
                l_query: Vec::new(),
            },
        })
    }

    /// The verifying key's compressed encoding.
    pub fn verifying_key(&self) -> Vec<u8> {
        compressed(&self.prepared.vk)
    }

    /// Checks the bytes of a parameter file, of either circuit.
    ///
    /// # Errors
    /// [`Error::Parameters`], as [`Self::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse(bytes).map_err(|why| Error::Parameters(format!("it is not usable: {why}")))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_FILE {
            return Err("it is too large".to_owned());
        }
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or("it ends too early")?;
        let file_digest = Digest::of(label::PARAMETERS, body);
        if file_digest.0 != *digest {
            return Err("it is damaged, its digest does not match".to_owned());
        }
        let mut reader = Reader::new("parameter file", body);
        let cap = MAX_FILE as usize;
        let text = |error: Error| error.to_string();
        if reader.array::<8>().map_err(text)? != *MAGIC || reader.u16().map_err(text)? != VERSION {
            return Err("it is no parameter file of version 1".to_owned());
        }
        let name = reader.bytes(cap).map_err(text)?;
        let circuit = Groth16Circuit::of_kind(name).ok_or("it belongs to another circuit")?;
        let origin = match reader.u8().map_err(text)? {
            0 => Origin::Development,
            1 => Origin::Ceremony(reader.value().map_err(text)?),
            _ => return Err("its origin is not known".to_owned()),
        };
        let verifying_bytes = reader.bytes(cap).map_err(text)?;
        let _proving_bytes = reader.bytes(cap).map_err(text)?;
        reader.finish().map_err(text)?;

        let verifying = read_verifying_key(circuit, verifying_bytes)?;
        let prepared = prepare_verifying_key(&verifying);
        Ok(Self {
            circuit,
            origin,
            file_digest,
            key_digest: verifying_key_digest(circuit, verifying_bytes),
            verifier: Verifier::new(&prepared),
            prepared,
            #[cfg(feature = "prove")]
            prover: OnceLock::new(),
            #[cfg(feature = "prove")]
            proving: read_proving_key(circuit, _proving_bytes, &verifying)?,
        })
    }

    #[cfg(feature = "prove")]
    fn body(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.array(MAGIC).u16(VERSION).bytes(self.circuit.kind().name().as_bytes());
        match &self.origin {
            Origin::Development => writer.u8(0),
            Origin::Ceremony(digest) => writer.u8(1).value(digest),
        };
        let mut proving = Vec::new();
        self.proving.serialize_uncompressed(&mut proving).expect("a vector takes every write");
        writer.bytes(&compressed(&self.proving.vk)).bytes(&proving);
        writer.into_bytes()
    }

    /// The bytes of a parameter file.
    #[cfg(feature = "prove")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.file_digest.0);
        bytes
    }

    /// Writes a parameter file, whole or not at all, in place of what was there.
    ///
    /// # Errors
    /// [`Error::Parameters`] where the file cannot be written, [`Error::MissingParameters`] where there is no proving key.
    #[cfg(feature = "prove")]
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        check_shape(self.circuit, &self.proving).map_err(|_| Error::MissingParameters("Groth16 proving"))?;
        self.persist(path, true).map(|_| ())
    }

    /// Whether the file was written; it is not where it exists already and may not be replaced.
    #[cfg(feature = "prove")]
    fn persist(&self, path: &Path, replace: bool) -> Result<bool, Error> {
        super::file::persist(path, &self.to_bytes(), replace).map_err(|error| failed(path, "cannot be written", &error))
    }

    /// The circuit that they belong to.
    pub fn circuit(&self) -> Groth16Circuit {
        self.circuit
    }

    /// Digest of the whole file, the digest that the file ends with.
    pub fn digest(&self) -> Digest {
        self.file_digest
    }

    /// Digest of the verifying key: of the kind's name and the key's compressed encoding.
    pub fn verifying_key_digest(&self) -> Digest {
        self.key_digest
    }

    /// Where they come from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The verifying key, ready for pairings.
    pub(crate) fn prepared(&self) -> &PreparedVerifyingKey<Bn254> {
        &self.prepared
    }

    /// The verifying key with its tables.
    pub(crate) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The proving key with its tables, which are made on the first call.
    ///
    /// # Errors
    /// [`Error::MissingParameters`] where there is no proving key.
    #[cfg(feature = "prove")]
    pub(crate) fn prover(&self) -> Result<&Prover, Error> {
        let make = || apart(|| Prover::new(&self.proving, self.circuit.matrices().ok()?)).flatten();
        let prover = self.prover.get_or_init(make);
        prover.as_ref().ok_or(Error::MissingParameters("Groth16 proving"))
    }

    /// The proving key.
    #[cfg(feature = "prove")]
    pub(crate) fn proving_key(&self) -> &ProvingKey<Bn254> {
        &self.proving
    }
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Error {
    Error::Parameters(format!("{} {what}: {error}", path.display()))
}

fn compressed(key: &VerifyingKey<Bn254>) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.serialize_compressed(&mut bytes).expect("a vector takes every write");
    bytes
}

/// Digest of a verifying key, as [`Groth16Parameters::verifying_key_digest`] has it.
pub(crate) fn groth16_key_digest(circuit: Groth16Circuit, key: &VerifyingKey<Bn254>) -> Digest {
    verifying_key_digest(circuit, &compressed(key))
}

fn verifying_key_digest(circuit: Groth16Circuit, compressed: &[u8]) -> Digest {
    let mut writer = Writer::default();
    writer.bytes(circuit.kind().name().as_bytes()).bytes(compressed);
    Digest::of(label::VERIFYING_KEY, &writer.into_bytes())
}

/// Reads a verifying key: every point in its group, none the identity, one encoding.
fn read_verifying_key(circuit: Groth16Circuit, bytes: &[u8]) -> Result<VerifyingKey<Bn254>, &'static str> {
    let key = VerifyingKey::<Bn254>::deserialize_compressed(bytes).map_err(|_| "its verifying key is malformed")?;
    if key.gamma_abc_g1.len() != circuit.input_points() {
        return Err("its verifying key is of another circuit");
    }
    let identity = key.alpha_g1.is_zero()
        || [key.beta_g2, key.gamma_g2, key.delta_g2].iter().any(AffineRepr::is_zero)
        || key.gamma_abc_g1.iter().skip(1).any(AffineRepr::is_zero);
    if identity || compressed(&key) != bytes {
        return Err("its verifying key is malformed");
    }
    Ok(key)
}

#[cfg(feature = "prove")]
fn read_proving_key(
    circuit: Groth16Circuit,
    mut bytes: &[u8],
    verifying: &VerifyingKey<Bn254>,
) -> Result<ProvingKey<Bn254>, &'static str> {
    let malformed = "its proving key is malformed";
    // Lengths are taken from the file, so nothing is allocated that the file does not hold.
    let key = ProvingKey::<Bn254>::deserialize_uncompressed_unchecked(&mut bytes).map_err(|_| malformed)?;
    if !bytes.is_empty() || key.vk != *verifying {
        return Err(malformed);
    }
    check_shape(circuit, &key)?;
    // With δ·G1 the identity, A would be a function of the witness alone, in a proof that verifies.
    if key.beta_g1.is_zero() || key.delta_g1.is_zero() {
        return Err(malformed);
    }
    // Points off the curve would turn a proof into an oracle for the witness. Checking G2's subgroup as
    // well costs a hundred times as much, and is left to whoever makes the file.
    let queries = [&key.a_query, &key.b_g1_query, &key.h_query, &key.l_query];
    let on_curve = queries.into_iter().all(|query| query.par_iter().all(|point| point.is_on_curve()))
        && [key.beta_g1, key.delta_g1].iter().all(|point| point.is_on_curve())
        && key.b_g2_query.par_iter().all(|point| point.is_on_curve());
    if on_curve { Ok(key) } else { Err(malformed) }
}

#[cfg(feature = "prove")]
fn check_shape(circuit: Groth16Circuit, key: &ProvingKey<Bn254>) -> Result<(), &'static str> {
    let (variables, inputs) = (circuit.variables(), circuit.input_points());
    let fits = key.vk.gamma_abc_g1.len() == inputs
        && [key.a_query.len(), key.b_g1_query.len(), key.b_g2_query.len()] == [variables; 3]
        && key.h_query.len() == circuit.domain() - 1
        && key.l_query.len() == variables - inputs;
    if fits { Ok(()) } else { Err("its proving key is of another circuit") }
}

#[cfg(all(test, feature = "prove"))]
mod tests;
