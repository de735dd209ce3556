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

use std::{fs::File, io::Read, path::Path};

use ark_bn254::{Bn254, Fr};
use ark_ec::AffineRepr;
#[cfg(feature = "prove")]
use ark_groth16::ProvingKey;
use ark_groth16::{PreparedVerifyingKey, VerifyingKey, prepare_verifying_key};
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};

#[cfg(feature = "prove")]
use crate::key_knowledge::groth16::{CONSTRAINTS, KeyCircuit, Snark, VARIABLES};
use crate::{
    Digest, Error, Kind,
    codec::{Reader, Writer},
    key_knowledge::symmetric::PublicInputs,
    transcript::label,
};

const MAGIC: &[u8; 8] = b"KWGROTH1";
const VERSION: u16 = 1;
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Points of a verifying key's input commitment: the constant and the public inputs.
pub(crate) const INPUT_POINTS: usize = 1 + PublicInputs::<Fr>::COUNT;

/// Where Groth16 parameters come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Made by one party, who could forge proofs: for development and demonstration.
    Development,
    /// Made by the ceremony with this digest.
    Ceremony(Digest),
}

/// Groth16's keys: the verifying key, and, with feature `prove`, the proving key.
pub struct Groth16Parameters {
    origin: Origin,
    file_digest: Digest,
    key_digest: Digest,
    prepared: PreparedVerifyingKey<Bn254>,
    #[cfg(feature = "prove")]
    proving: ProvingKey<Bn254>,
}

impl Groth16Parameters {
    /// Makes development parameters. Their secrets are dropped, not proven to be gone.
    ///
    /// # Errors
    /// [`Error::Parameters`] where the circuit cannot be set up.
    #[cfg(feature = "prove")]
    pub fn develop() -> Result<Self, Error> {
        use ark_snark::CircuitSpecificSetupSNARK;
        let (proving, _) = Snark::setup(KeyCircuit::default(), &mut rand::rngs::OsRng)
            .map_err(|error| Error::Parameters(format!("development parameters could not be made: {error}")))?;
        Self::from_keys(Origin::Development, proving)
    }

    /// Parameters from a proving key, whose points the caller has checked.
    ///
    /// # Errors
    /// [`Error::Parameters`] for a key of another circuit.
    #[cfg(feature = "prove")]
    pub(crate) fn from_keys(origin: Origin, proving: ProvingKey<Bn254>) -> Result<Self, Error> {
        check_shape(&proving).map_err(|why| Error::Parameters(why.to_owned()))?;
        let key_digest = verifying_key_digest(&compressed(&proving.vk));
        let prepared = prepare_verifying_key(&proving.vk);
        let mut parameters = Self { origin, file_digest: Digest([0; 32]), key_digest, prepared, proving };
        parameters.file_digest = Digest::of(label::PARAMETERS, &parameters.body());
        Ok(parameters)
    }

    /// Reads the parameters at `path`; where there are none, makes development parameters and writes
    /// them. The flag says whether they were made now. Two processes that begin together end up with
    /// the same parameters.
    ///
    /// # Errors
    /// [`Error::Parameters`] for an unusable file, or one that cannot be written.
    #[cfg(feature = "prove")]
    pub fn read_or_develop(path: &Path) -> Result<(Self, bool), Error> {
        if path.try_exists().map_err(|error| failed(path, "cannot be looked at", &error))? {
            return Ok((Self::read(path)?, false));
        }
        let made = Self::develop()?;
        if made.persist(path, false)? { Ok((made, true)) } else { Ok((Self::read(path)?, false)) }
    }

    /// Reads a parameter file and checks it.
    ///
    /// # Errors
    /// [`Error::Parameters`] for a file that cannot be read, is damaged, belongs to another circuit or
    /// goes on after its end.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let read = |error: &std::io::Error| failed(path, "cannot be read", error);
        let file = File::open(path).map_err(|error| read(&error))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| read(&error))?;
        Self::parse(&bytes).map_err(|why| {
            let path = path.display();
            Error::Parameters(format!("{path} is not usable: {why}; delete it and start again, or fetch it again"))
        })
    }

    /// The verifying key alone, from its compressed encoding: enough for whoever only verifies. Nothing can be proven
    /// with it, and it cannot be written as a parameter file.
    ///
    /// # Errors
    /// [`Error::Parameters`] for anything but a verifying key of this circuit.
    pub fn for_verifying(origin: Origin, verifying_key: &[u8]) -> Result<Self, Error> {
        let verifying = read_verifying_key(verifying_key).map_err(|why| Error::Parameters(why.to_owned()))?;
        Ok(Self {
            origin,
            file_digest: Digest::of(label::PARAMETERS, verifying_key),
            key_digest: verifying_key_digest(verifying_key),
            prepared: prepare_verifying_key(&verifying),
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

    /// Checks the bytes of a parameter file.
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
        if reader.bytes(cap).map_err(text)? != Kind::KeyKnowledgeGroth16.name().as_bytes() {
            return Err("it belongs to another circuit".to_owned());
        }
        let origin = match reader.u8().map_err(text)? {
            0 => Origin::Development,
            1 => Origin::Ceremony(reader.value().map_err(text)?),
            _ => return Err("its origin is not known".to_owned()),
        };
        let verifying_bytes = reader.bytes(cap).map_err(text)?;
        let _proving_bytes = reader.bytes(cap).map_err(text)?;
        reader.finish().map_err(text)?;

        let verifying = read_verifying_key(verifying_bytes)?;
        Ok(Self {
            origin,
            file_digest,
            key_digest: verifying_key_digest(verifying_bytes),
            prepared: prepare_verifying_key(&verifying),
            #[cfg(feature = "prove")]
            proving: read_proving_key(_proving_bytes, &verifying)?,
        })
    }

    #[cfg(feature = "prove")]
    fn body(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.array(MAGIC).u16(VERSION).bytes(Kind::KeyKnowledgeGroth16.name().as_bytes());
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
        check_shape(&self.proving).map_err(|_| Error::MissingParameters("Groth16 proving"))?;
        self.persist(path, true).map(|_| ())
    }

    /// Whether the file was written; it is not where it exists already and may not be replaced.
    #[cfg(feature = "prove")]
    fn persist(&self, path: &Path, replace: bool) -> Result<bool, Error> {
        super::file::persist(path, &self.to_bytes(), replace).map_err(|error| failed(path, "cannot be written", &error))
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
pub(crate) fn groth16_key_digest(key: &VerifyingKey<Bn254>) -> Digest {
    verifying_key_digest(&compressed(key))
}

fn verifying_key_digest(compressed: &[u8]) -> Digest {
    let mut writer = Writer::default();
    writer.bytes(Kind::KeyKnowledgeGroth16.name().as_bytes()).bytes(compressed);
    Digest::of(label::VERIFYING_KEY, &writer.into_bytes())
}

/// Reads a verifying key: every point in its group, none the identity, one encoding.
fn read_verifying_key(bytes: &[u8]) -> Result<VerifyingKey<Bn254>, &'static str> {
    let key = VerifyingKey::<Bn254>::deserialize_compressed(bytes).map_err(|_| "its verifying key is malformed")?;
    if key.gamma_abc_g1.len() != INPUT_POINTS {
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
fn read_proving_key(mut bytes: &[u8], verifying: &VerifyingKey<Bn254>) -> Result<ProvingKey<Bn254>, &'static str> {
    let malformed = "its proving key is malformed";
    // Lengths are taken from the file, so nothing is allocated that the file does not hold.
    let key = ProvingKey::<Bn254>::deserialize_uncompressed_unchecked(&mut bytes).map_err(|_| malformed)?;
    if !bytes.is_empty() || key.vk != *verifying {
        return Err(malformed);
    }
    check_shape(&key)?;
    // With δ·G1 the identity, A would be a function of the witness alone, in a proof that verifies.
    if key.beta_g1.is_zero() || key.delta_g1.is_zero() {
        return Err(malformed);
    }
    // Points off the curve would turn a proof into an oracle for the witness. Checking G2's subgroup as
    // well costs a hundred times as much, and is left to whoever makes the file.
    let queries = [&key.a_query, &key.b_g1_query, &key.h_query, &key.l_query];
    let on_curve = queries.into_iter().flatten().chain([&key.beta_g1, &key.delta_g1]).all(|point| point.is_on_curve())
        && key.b_g2_query.iter().all(|point| point.is_on_curve());
    if on_curve { Ok(key) } else { Err(malformed) }
}

#[cfg(feature = "prove")]
fn check_shape(key: &ProvingKey<Bn254>) -> Result<(), &'static str> {
    let domain = (CONSTRAINTS + INPUT_POINTS).next_power_of_two();
    let fits = key.vk.gamma_abc_g1.len() == INPUT_POINTS
        && [key.a_query.len(), key.b_g1_query.len(), key.b_g2_query.len()] == [VARIABLES; 3]
        && key.h_query.len() == domain - 1
        && key.l_query.len() == VARIABLES - INPUT_POINTS;
    if fits { Ok(()) } else { Err("its proving key is of another circuit") }
}

#[cfg(all(test, feature = "prove"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn file(parameters: &Groth16Parameters) -> Vec<u8> {
        sealed(parameters.body())
    }

    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        let digest = Digest::of(label::PARAMETERS, &body);
        body.extend_from_slice(&digest.0);
        body
    }

    fn why(bytes: &[u8]) -> String {
        Groth16Parameters::parse(bytes).err().unwrap()
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("groth16.params");
        let (made, new) = Groth16Parameters::read_or_develop(&path).unwrap();
        assert!(new);
        let (read, new) = Groth16Parameters::read_or_develop(&path).unwrap();
        assert!(!new);
        assert_eq!(read.origin(), Origin::Development);
        assert_eq!((read.digest(), read.verifying_key_digest()), (made.digest(), made.verifying_key_digest()));
        assert_eq!(read.proving_key(), made.proving_key());

        let ceremony = Groth16Parameters { origin: Origin::Ceremony(Digest([7; 32])), ..made };
        let ceremony = Groth16Parameters::from_keys(ceremony.origin, ceremony.proving).unwrap();
        ceremony.write(&path).unwrap();
        let read = Groth16Parameters::read(&path).unwrap();
        assert_eq!((read.origin(), read.digest()), (Origin::Ceremony(Digest([7; 32])), ceremony.digest()));
        assert_ne!(read.digest(), made.file_digest);
        // A late writer that may not replace leaves what is there; nothing partial stays behind.
        assert!(!ceremony.persist(&path, false).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unusable_file_is_refused_with_advice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("groth16.params");
        assert!(matches!(Groth16Parameters::read(&path), Err(Error::Parameters(_))));
        std::fs::write(&path, b"no parameters").unwrap();
        let Err(Error::Parameters(message)) = Groth16Parameters::read(&path) else { panic!("it was read") };
        assert!(message.contains("delete it and start again, or fetch it again"), "{message}");
        assert!(Groth16Parameters::read_or_develop(&path).is_err());
    }

    #[test]
    fn damage_is_found() {
        let parameters = Groth16Parameters::develop().unwrap();
        let bytes = file(&parameters);
        Groth16Parameters::parse(&bytes).unwrap();
        for index in (0..bytes.len()).step_by(4099).chain([bytes.len() - 1]) {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(why(&changed).contains("damaged"));
        }
        for length in [0, 31, 32, 100, bytes.len() - 1] {
            Groth16Parameters::parse(&bytes[..length]).err().unwrap();
        }
        assert!(why(&[bytes.as_slice(), &[0]].concat()).contains("damaged"));
    }

    #[test]
    fn a_file_with_the_right_digest_is_still_checked() {
        let parameters = Groth16Parameters::develop().unwrap();
        let body = parameters.body();
        assert!(why(&sealed([body.as_slice(), &[0]].concat())).contains("follow"));
        let mut magic = body.clone();
        magic[0] ^= 1;
        assert!(why(&sealed(magic)).contains("no parameter file"));
        let mut circuit = body.clone();
        circuit[14] ^= 1;
        assert!(why(&sealed(circuit)).contains("another circuit"));

        let name = Kind::KeyKnowledgeGroth16.name().len();
        let origin = 8 + 2 + 4 + name;
        let mut changed = body.clone();
        changed[origin] = 2;
        assert!(why(&sealed(changed)).contains("origin"));

        // The verifying key: a point off its curve or subgroup. The proving key: a point off its curve.
        let verifying = origin + 1 + 4;
        for index in [verifying, verifying + 32, body.len() - 1] {
            let mut changed = body.clone();
            changed[index] ^= 1;
            assert!(Groth16Parameters::parse(&sealed(changed)).is_err(), "byte {index}");
        }
        // A proving key that belongs to another verifying key.
        let other = Groth16Parameters::develop().unwrap();
        let mixed = Groth16Parameters { proving: ProvingKey { vk: other.proving.vk, ..parameters.proving }, ..other };
        let mut bytes = mixed.body();
        bytes.splice(verifying..verifying + compressed(&mixed.proving.vk).len(), compressed(&parameters.prepared.vk));
        assert!(Groth16Parameters::parse(&sealed(bytes)).is_err());
    }

    #[test]
    fn a_key_that_takes_away_the_proofs_randomness_is_refused() {
        let mut key = Groth16Parameters::develop().unwrap().proving;
        (key.beta_g1, key.delta_g1) = Default::default();
        key.b_g1_query.fill(Default::default());
        let parameters = Groth16Parameters::from_keys(Origin::Development, key).unwrap();
        assert!(why(&file(&parameters)).contains("proving key is malformed"));
    }

    #[test]
    fn a_key_of_another_shape_is_refused() {
        let parameters = Groth16Parameters::develop().unwrap();
        let mut proving = parameters.proving.clone();
        proving.l_query.pop();
        assert!(Groth16Parameters::from_keys(Origin::Development, proving).is_err());
        let mut verifying = parameters.prepared.vk.clone();
        verifying.gamma_abc_g1.pop();
        assert!(read_verifying_key(&compressed(&verifying)).is_err());
    }

    #[test]
    fn a_verifying_key_alone_verifies_and_no_more() {
        let made = Groth16Parameters::develop().unwrap();
        let bytes = made.verifying_key();
        let alone = Groth16Parameters::for_verifying(Origin::Development, &bytes).unwrap();
        assert_eq!(alone.verifying_key_digest(), made.verifying_key_digest());
        assert_eq!(alone.verifying_key(), bytes);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("groth16.params");
        assert_eq!(alone.write(&path), Err(Error::MissingParameters("Groth16 proving")));
        assert!(!path.exists());
        for wrong in [&bytes[..bytes.len() - 1], &[bytes.as_slice(), &[0]].concat(), &[]] {
            assert!(Groth16Parameters::for_verifying(Origin::Development, wrong).is_err());
        }
    }
}
