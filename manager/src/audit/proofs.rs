//! Checks of what a log's attestations rest on: identity signatures and proofs, many at a time.

use keywitness_circuits::{
    Digest, Envelope, Error, Kind, Parameters,
    params::Groth16Parameters,
    registry::{self, Verified},
};
use keywitness_verifier::{
    engine::{Claim, Engine, EngineConfig, EngineError},
    identity::IdentityKey,
};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::{
    divergence::{Divergence, Offence},
    tally::Tally,
};
use crate::{config::development_parameters, ledger::Verdict};

/// What one entry of the log must answer for, taken from the state just before it.
#[derive(Clone, Debug)]
pub(crate) struct Attestation {
    /// What would be reported, but for the offence.
    pub(crate) place: Divergence,
    /// The identity key of the HSM, as enrolled at that point.
    pub(crate) identity: IdentityKey,
    /// The envelope.
    pub(crate) envelope: Envelope,
    /// What the manager said of the proof.
    pub(crate) verdict: Verdict,
}

/// Checks proofs under every set of parameters that the auditor has.
pub struct Checker {
    engines: Vec<(Parameters, Engine)>,
}

/// What looking at a proof came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finding {
    Verifies,
    Fails,
    /// Made under a verifying key that the auditor has not.
    Unknown,
}

impl Checker {
    /// A checker with the transparent parameters and these Groth16 ones, of either circuit: a log may have seen several.
    ///
    /// # Errors
    /// [`EngineError::Threads`] where no thread can be started.
    pub fn new(groth16: impl IntoIterator<Item = Groth16Parameters>) -> Result<Self, EngineError> {
        use keywitness_circuits::params::Groth16Circuit;
        let mut sets = vec![Parameters::transparent()];
        sets.extend(groth16.into_iter().map(|file| match file.circuit() {
            Groth16Circuit::OneKey => Parameters::transparent().with_groth16(file),
            Groth16Circuit::ManyKeys => Parameters::transparent().with_groth16_many(file),
        }));
        let engines = sets.into_iter().map(|parameters| {
            let engine = Engine::new(parameters.clone(), &EngineConfig::default())?;
            Ok((parameters, engine))
        });
        Ok(Self { engines: engines.collect::<Result<_, EngineError>>()? })
    }

    /// Whether a verifying key is one that proofs can be checked under.
    pub fn knows(&self, statement: &keywitness_verifier::wire::StatementInfo) -> bool {
        let has = |(parameters, _): &(Parameters, Engine)| {
            registry::verifying_key(parameters, statement.kind) == Ok(statement.verifying_key)
        };
        self.engines.iter().any(has)
    }

    /// Whether the parameters of a Groth16 verifying key were made by one party, who could forge proofs under it.
    pub(crate) fn development(&self, kind: Kind, verifying_key: &Digest) -> bool {
        let ours = |parameters: &&Parameters| registry::verifying_key(parameters, kind) == Ok(*verifying_key);
        let sets = self.engines.iter().map(|(parameters, _)| parameters);
        sets.filter(ours).any(development_parameters)
    }

    /// Digest of everything that an audit's answer rests on beside the log: anchors, and the verifying keys that there are.
    pub(crate) fn setting(&self, anchors: &Digest) -> Digest {
        let mut keys: Vec<_> = self
            .engines
            .iter()
            .flat_map(|(parameters, _)| Kind::ALL.into_iter().map(|kind| registry::verifying_key(parameters, kind)))
            .filter_map(Result::ok)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut hash = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
        hash.update(anchors.0);
        keys.iter().for_each(|key| hash.update(key.0));
        Digest(hash.finalize().into())
    }

    /// Checks one envelope's proof.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn verify(&self, envelope: &Envelope) -> Result<Verified, String> {
        let Envelope { context, instance, proof, .. } = envelope;
        let kind: Kind = context.statement.parse().map_err(|error: Error| error.to_string())?;
        let ours = |(parameters, _): &&(Parameters, Engine)| {
            registry::verifying_key(parameters, kind) == Ok(context.verifying_key)
        };
        let (parameters, _) = self.engines.iter().find(ours).ok_or_else(|| {
            format!("verifying key {} is not known here; give the parameters that it is of", context.verifying_key)
        })?;
        registry::verify(parameters, context, instance, proof).map_err(|error| error.to_string())
    }

    /// Checks attestations, which are in the log's order: counts them, and gives the first that is not what the manager said.
    ///
    /// # Errors
    /// [`EngineError`] where checks could not be done, which says nothing about the log.
    pub(crate) fn check(
        &self,
        attestations: Vec<Attestation>,
        tally: &mut Tally,
    ) -> Result<Option<Divergence>, EngineError> {
        let unsigned = attestations
            .par_iter()
            .position_first(|attestation| attestation.identity.check_envelope(&attestation.envelope).is_err());
        // Only what an HSM signed is attributed to it, and handed to the engine as its.
        let count = unsigned.unwrap_or(attestations.len());
        let signed = attestations.get(..count).unwrap_or_default();
        tally.signatures += count as u64;
        let findings = self.findings(signed)?;
        for (attestation, finding) in signed.iter().zip(findings) {
            let statement = &attestation.envelope.context.statement;
            let counts = tally.proofs.entry(statement.clone()).or_default();
            match (finding, &attestation.verdict) {
                (Finding::Verifies, Verdict::Proven) => counts.verified += 1,
                (Finding::Fails, Verdict::Refused) => counts.refused += 1,
                // The manager said nothing of this proof, as the envelope was wrong already: so does the audit.
                (Finding::Verifies | Finding::Fails | Finding::Unknown, Verdict::Unchecked) => counts.not_judged += 1,
                (Finding::Unknown, _) => {
                    counts.unchecked += 1;
                    tally.unknown_keys.insert(attestation.envelope.context.verifying_key);
                }
                (Finding::Fails, Verdict::Proven) => {
                    return Ok(Some(attestation.accuse(Offence::AcceptedBadProof, "refused", "proven")));
                }
                (Finding::Verifies, Verdict::Refused) => {
                    return Ok(Some(attestation.accuse(Offence::RefusedGoodProof, "proven", "refused")));
                }
            }
        }
        let accuse = |attestation: &Attestation| {
            let key = Digest(attestation.identity.to_bytes());
            attestation.accuse(Offence::IdentitySignature, &format!("a signature of {key}"), "another signature")
        };
        Ok(unsigned.and_then(|first| attestations.get(first)).map(accuse))
    }

    /// One finding for each attestation.
    fn findings(&self, attestations: &[Attestation]) -> Result<Vec<Finding>, EngineError> {
        let mut findings = vec![Finding::Unknown; attestations.len()];
        for (parameters, engine) in &self.engines {
            let ours = |attestation: &Attestation| {
                let context = &attestation.envelope.context;
                let Ok(kind) = context.statement.parse() else { return false };
                attestation.verdict != Verdict::Unchecked
                    && registry::verifying_key(parameters, kind) == Ok(context.verifying_key)
            };
            let (places, claims): (Vec<_>, Vec<_>) = findings
                .iter_mut()
                .zip(attestations)
                .filter(|(finding, attestation)| **finding == Finding::Unknown && ours(attestation))
                .map(|(finding, attestation)| (finding, Claim::from(attestation.envelope.clone())))
                .unzip();
            for (place, verdict) in places.into_iter().zip(engine.verify_many(claims)) {
                *place = match verdict {
                    Ok(_) => Finding::Verifies,
                    Err(EngineError::Refused(Error::MissingParameters(_) | Error::Parameters(_))) => Finding::Unknown,
                    Err(EngineError::Refused(_)) => Finding::Fails,
                    Err(error) => return Err(error),
                };
            }
        }
        Ok(findings)
    }
}

impl Attestation {
    fn accuse(&self, offence: Offence, expected: &str, found: &str) -> Divergence {
        Divergence { offence, expected: expected.to_owned(), found: found.to_owned(), ..self.place.clone() }
    }
}
