//! Checking a ceremony from its first byte to its last.

use ark_bn254::Bn254;
use ark_groth16::ProvingKey;

use super::{
    Beacon, Ceremony, CeremonyError, Phase, Progress, Source, Step,
    key::{Delta, InitialKey},
};
use crate::{
    Digest,
    params::{Groth16Circuit, Groth16Parameters, Origin},
};

/// One contribution, as verification found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The phase that it belongs to.
    pub phase: Phase,
    /// The name that its author chose.
    pub name: String,
    /// The public value that it comes from, if it is a beacon's.
    pub beacon: Option<Beacon>,
    /// What its author published: digest of it and of everything before.
    pub digest: Digest,
}

/// Evidence that a whole ceremony was checked: only [`Ceremony::verify`] makes one.
pub struct Verified {
    circuit: Groth16Circuit,
    phase: Phase,
    source: Source,
    digest: Digest,
    entries: Vec<Entry>,
    /// Present once the ceremony is closed.
    key: Option<ProvingKey<Bn254>>,
}

impl Ceremony {
    /// Checks everything, and trusts nothing: the chain of contributions from the generators onwards with its proofs of
    /// knowledge and beacons, that the powers are those that the chain leads to, and that every element of the key
    /// is derived from them and the circuit.
    ///
    /// # Errors
    /// The first offence, by name.
    pub fn verify(&self, progress: Progress<'_>) -> Result<Verified, CeremonyError> {
        let total = self.contributions.len() as u64 + 3;
        let step = |name, done| progress(Step { name, done, total });
        let places = self.places()?;
        let digests = places.before.iter().skip(1).map(|place| place.digest).chain([places.last]);
        let mut entries = Vec::with_capacity(self.contributions.len());
        // Where phase 1 ended, and phase 2.
        let (mut powers_heads, mut delta_head) = (None, None);
        for ((index, contribution), (place, digest)) in
            self.contributions.iter().enumerate().zip(places.before.iter().zip(digests))
        {
            step("checking contributions", index as u64);
            contribution.check(index + 1, place.phase, &place.digest, &place.heads, progress)?;
            let alone = entries.last().is_none_or(|before: &Entry| before.phase != place.phase);
            if contribution.beacon.is_some() && alone {
                return Err(CeremonyError::Order("a phase has no contribution but its beacon's, which is no secret"));
            }
            let heads = contribution.heads();
            match place.phase {
                Phase::Powers => powers_heads = Some(heads),
                Phase::Circuit | Phase::Closed => delta_head = heads.first().copied(),
            }
            let (name, beacon) = (contribution.name.clone(), contribution.beacon.clone());
            entries.push(Entry { phase: place.phase, name, beacon, digest });
        }
        step("checking the powers of tau", total - 3);
        self.check_powers(&powers_heads.unwrap_or_else(|| Phase::Powers.generators()))?;
        step("deriving the circuit's key", total - 2);
        let phase = self.phase();
        let key = match &self.delta {
            Some(delta) => {
                let delta_head = delta_head.unwrap_or_else(ark_ec::AffineRepr::generator);
                Some(self.check_delta(delta, delta_head, || step("checking the circuit's key", total - 1))?)
            }
            None => None,
        };
        step("done", total);
        let key = key.filter(|_| phase == Phase::Closed);
        let (circuit, source) = (self.circuit, self.source.clone());
        Ok(Verified { circuit, phase, source, digest: places.last, entries, key })
    }

    fn check_powers(&self, heads: &[ark_bn254::G1Affine]) -> Result<(), CeremonyError> {
        match &self.source {
            Source::Own => {
                let names = super::powers::SECRETS.into_iter();
                for ((name, expected), found) in names.zip(heads).zip(self.powers.heads()) {
                    if *expected != found {
                        return Err(CeremonyError::Foundation(name));
                    }
                }
            }
            Source::Ptau { powers, .. } => {
                if *powers != self.powers.digest() {
                    return Err(CeremonyError::Foundation("the digest of the powers"));
                }
            }
        }
        self.powers.check()
    }

    fn check_delta(
        &self,
        delta: &Delta,
        delta_g1: ark_bn254::G1Affine,
        derived: impl FnOnce(),
    ) -> Result<ProvingKey<Bn254>, CeremonyError> {
        let initial = InitialKey::of(self.circuit, &self.powers)?;
        derived();
        delta.check(&initial, delta_g1)?;
        Ok(initial.with_delta(delta_g1, delta))
    }
}

impl Verified {
    /// The circuit whose parameters it makes.
    pub const fn circuit(&self) -> Groth16Circuit {
        self.circuit
    }

    /// Which contributions the ceremony takes now.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Where phase 1 comes from.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// Digest of everything: that of the last contribution, or of the opening where there is none.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Every contribution, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Checks that the contribution with this digest is in the chain.
    ///
    /// # Errors
    /// [`CeremonyError::Missing`] where it is not.
    pub fn expect(&self, digest: &Digest) -> Result<(), CeremonyError> {
        let found = self.entries.iter().any(|entry| entry.digest == *digest);
        if found { Ok(()) } else { Err(CeremonyError::Missing(*digest)) }
    }

    /// The parameters that the ceremony made; they carry its digest.
    ///
    /// # Errors
    /// [`CeremonyError::Order`] where the ceremony is not closed.
    pub fn parameters(&self) -> Result<Groth16Parameters, CeremonyError> {
        let key = self.key().ok_or(CeremonyError::Order("the ceremony is not finished: it lacks its last beacon"))?;
        Ok(Groth16Parameters::from_keys(self.circuit, Origin::Ceremony(self.digest), key.clone())?)
    }

    pub(super) const fn key(&self) -> Option<&ProvingKey<Bn254>> {
        self.key.as_ref()
    }
}
