//! What a prover checks before it trusts a proving key with a witness.
//!
//! A key that was made with malice could make proofs tell of the witness (Fuchsbauer, eprint 2017/587: subversion
//! zero-knowledge of Groth16 needs a well-formed key). Here the key is compared, element by element, with the one
//! that the ceremony's file leads to: then it is well-formed, whoever took part in the ceremony.

use std::path::{Path, PathBuf};

use super::{Ceremony, CeremonyError, Progress, Verified, file::read_file};
use crate::{
    Digest,
    codec::Writer,
    params::{Groth16Parameters, Origin, file::persist},
    transcript::label,
};

impl Verified {
    /// Checks that parameters are the ceremony's, element by element.
    ///
    /// # Errors
    /// [`CeremonyError::Key`] names the part that differs; [`CeremonyError::Order`] where the ceremony has no key yet.
    pub fn check_parameters(&self, parameters: &Groth16Parameters) -> Result<(), CeremonyError> {
        let made = self.key().ok_or(CeremonyError::Order("the ceremony is not finished: it has made no key yet"))?;
        let found = parameters.proving_key();
        let parts = [
            (parameters.circuit() == self.circuit(), "the circuit"),
            (parameters.origin() == Origin::Ceremony(*self.digest()), "the digest of the ceremony"),
            (found.vk == made.vk, "the verifying key"),
            (found.beta_g1 == made.beta_g1, "beta in G1"),
            (found.delta_g1 == made.delta_g1, "delta in G1"),
            (found.a_query == made.a_query, "the A query"),
            (found.b_g1_query == made.b_g1_query, "the B query in G1"),
            (found.b_g2_query == made.b_g2_query, "the B query in G2"),
            (found.h_query == made.h_query, "the H query"),
            (found.l_query == made.l_query, "the L query"),
        ];
        let differs = parts.into_iter().find(|(same, _)| !same);
        differs.map_or(Ok(()), |(_, what)| Err(CeremonyError::Key(what)))
    }
}

/// Reads one key's parameter file, and checks it against the ceremony's file. As this takes seconds, a note beside the
/// ceremony remembers that these very two files were found to fit. The note spares time; it does not guard
/// from whoever can write in that directory.
///
/// # Errors
/// As [`Groth16Parameters::read`], [`Ceremony::read`], [`Ceremony::verify`] and [`Verified::check_parameters`].
pub fn read_parameters(
    parameters: &Path,
    ceremony: &Path,
    progress: Progress<'_>,
) -> Result<Groth16Parameters, CeremonyError> {
    check_once(Groth16Parameters::read(parameters)?, ceremony, progress)
}

/// The same for the parameters of many keys, whose ceremony takes minutes to check.
///
/// # Errors
/// As [`read_parameters`].
pub fn read_parameters_many(
    parameters: &Path,
    ceremony: &Path,
    progress: Progress<'_>,
) -> Result<Groth16Parameters, CeremonyError> {
    check_once(Groth16Parameters::read_many(parameters)?, ceremony, progress)
}

fn check_once(
    read: Groth16Parameters,
    ceremony: &Path,
    progress: Progress<'_>,
) -> Result<Groth16Parameters, CeremonyError> {
    let bytes = read_file(ceremony)?;
    let note = note(&read, &bytes);
    let path = note_path(ceremony);
    if std::fs::read_to_string(&path).is_ok_and(|text| text == note) {
        return Ok(read);
    }
    Ceremony::from_bytes(&bytes)?.verify(progress)?.check_parameters(&read)?;
    // Where it cannot be written, the next start checks again.
    let _ = persist(&path, note.as_bytes(), true);
    Ok(read)
}

fn note(parameters: &Groth16Parameters, ceremony: &[u8]) -> String {
    let mut writer = Writer::default();
    writer.bytes(parameters.circuit().kind().name().as_bytes()).value(&parameters.digest());
    writer.value(&Digest::of(label::CEREMONY_FILE, ceremony));
    format!("{}\n", Digest::of(label::CEREMONY_CHECKED, &writer.into_bytes()))
}

/// Beside the ceremony, which the prover trusts, and not beside the parameters, which may come with a note of their own.
fn note_path(ceremony: &Path) -> PathBuf {
    let mut name = ceremony.file_name().unwrap_or_default().to_owned();
    name.push(".checked");
    ceremony.with_file_name(name)
}
