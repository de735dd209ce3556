//! The relation over the Pallas base field: what the circuit sees of an instance and of a witness.
//!
//! An instance of any threshold and number of holders fills the same cells. What it does not use is zero, and the flags
//! that say so are computed by the verifier.

use ff::{Field, FromUniformBytes};
use halo2_poseidon::{self as poseidon, ConstantLength, P128Pow5T3};
use halo2_proofs::pasta::Fp;
use sha2::Digest as _;

use super::{Instance, MAX_HOLDERS};
use crate::{
    ClaimContext, Error, TrustDomain,
    codec::Writer,
    key_knowledge::symmetric::{KeyLimbs, PublicInputs as KeyInputs, SuiteField},
    transcript::label,
};

/// Coefficients of either polynomial beyond its constant term, in the circuit.
pub(crate) const HIGHER: usize = MAX_HOLDERS - 1;

/// Secret field elements, wiped on drop.
pub(crate) struct SecretElements<const N: usize>(pub(crate) [Fp; N]);

impl<const N: usize> Drop for SecretElements<N> {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(SuiteField::wipe);
    }
}

/// The witness as the circuit takes it; not yet known to satisfy anything.
///
/// Wiped on drop, with the limits of [`KeyLimbs`].
pub(crate) struct Secrets {
    /// The key: `low` and `high` are the polynomials' constant terms.
    pub(crate) key: KeyLimbs<Fp>,
    /// Coefficients 1..32 of the polynomial through `low`.
    pub(crate) low: SecretElements<HIGHER>,
    /// Coefficients 1..32 of the polynomial through `high`.
    pub(crate) high: SecretElements<HIGHER>,
    /// One blinder for each slot.
    pub(crate) blinders: SecretElements<MAX_HOLDERS>,
}

impl Secrets {
    /// Both polynomials at `x`.
    pub(crate) fn evaluate(&self, x: Fp) -> (Fp, Fp) {
        let horner = |constant, higher: &SecretElements<HIGHER>| {
            higher.0.iter().rev().fold(Fp::ZERO, |sum, coefficient| sum * x + coefficient) * x + constant
        };
        (horner(self.key.low, &self.low), horner(self.key.high(), &self.high))
    }
}

/// What is public about one holder, or zeros in a slot without one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Slot {
    /// Where the polynomials are evaluated.
    pub(crate) x: Fp,
    /// d_i: trust domain, algorithm, key and x.
    pub(crate) domain: Fp,
    /// Whether the slot has a holder: 0 or 1.
    pub(crate) used: Fp,
    /// C_i.
    pub(crate) commitment: Fp,
}

/// The public inputs that speak of the sharing.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct SharingInputs {
    /// For each coefficient beyond the constant term, whether it may differ from zero: 0 or 1.
    pub(crate) allowed: [Fp; HIGHER],
    /// The holders, and then the empty slots.
    pub(crate) slots: [Slot; MAX_HOLDERS],
}

impl SharingInputs {
    /// The public inputs of an instance.
    ///
    /// # Errors
    /// Never for an instance that was read or made by this crate.
    pub(crate) fn new(trust_domain: &TrustDomain, instance: &Instance) -> Result<Self, Error> {
        let threshold = usize::from(instance.threshold);
        let allowed = std::array::from_fn(|index| Fp::from(u64::from(index + 1 < threshold)));
        let mut slots = [Slot { x: Fp::ZERO, domain: Fp::ZERO, used: Fp::ZERO, commitment: Fp::ZERO }; MAX_HOLDERS];
        for (slot, share) in slots.iter_mut().zip(&instance.shares) {
            let commitment = Fp::from_canonical(&share.commitment.0)
                .ok_or(Error::WrongInstance("a commitment is not a canonical field element"))?;
            let (x, domain) = (Fp::from(u64::from(share.x)), share_domain(trust_domain, instance, share.x));
            *slot = Slot { x, domain, used: Fp::ONE, commitment };
        }
        Ok(Self { allowed, slots })
    }

    /// The clauses about polynomials and commitments, natively; those about the key are
    /// [`KeyInputs::check`].
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] names the clause that fails.
    pub(crate) fn check(&self, secrets: &Secrets) -> Result<(), Error> {
        let forbidden = |higher: &SecretElements<HIGHER>| {
            self.allowed.iter().zip(&higher.0).any(|(allowed, element)| (Fp::ONE - allowed) * element != Fp::ZERO)
        };
        if forbidden(&secrets.low) || forbidden(&secrets.high) {
            return Err(Error::WitnessRefused("a polynomial has a higher degree than the threshold allows"));
        }
        for (slot, blinder) in self.slots.iter().zip(&secrets.blinders.0) {
            let (low, high) = secrets.evaluate(slot.x);
            if slot.commitment != slot.used * commit(slot.domain, low, high, *blinder) {
                return Err(Error::WitnessRefused("a commitment does not open to the key's share"));
            }
        }
        Ok(())
    }
}

/// All public inputs of the circuit. The verifier computes every one of them itself.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PublicInputs {
    /// The key's fingerprint and length, and the claim context.
    pub(crate) key: KeyInputs<Fp>,
    /// The sharing.
    pub(crate) sharing: SharingInputs,
}

impl PublicInputs {
    /// The public inputs of a claim.
    ///
    /// # Errors
    /// Never for an instance that was read or made by this crate.
    pub(crate) fn new(context: &ClaimContext, instance: &Instance) -> Result<Self, Error> {
        let digest = context.digest().limbs().map(Fp::from_number);
        Ok(Self {
            key: KeyInputs::of_key(&context.trust_domain, instance.algorithm, &instance.fingerprint, digest)?,
            sharing: SharingInputs::new(&context.trust_domain, instance)?,
        })
    }

    /// The instance column: F, d, has_mid, has_top, c0, c1; the flags of the coefficients; and x, d, used, C of each
    /// slot.
    pub(crate) fn column(&self) -> Vec<Fp> {
        let slots = self.sharing.slots.iter().flat_map(|slot| [slot.x, slot.domain, slot.used, slot.commitment]);
        self.key.row().into_iter().chain(self.sharing.allowed).chain(slots).collect()
    }

    /// The relation, natively. What the circuit accepts must be exactly this.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] names the clause that fails.
    #[cfg(feature = "prove")]
    pub(crate) fn check(&self, secrets: &Secrets) -> Result<(), Error> {
        self.key.check(&secrets.key)?;
        self.sharing.check(secrets)
    }
}

/// The domain of the commitment to the share at `x`: bound to its purpose by the label, and to trust domain, algorithm,
/// key and holder.
pub(crate) fn share_domain(trust_domain: &TrustDomain, instance: &Instance, x: u16) -> Fp {
    let mut writer = Writer::default();
    writer.value(trust_domain).value(&instance.algorithm).value(&instance.fingerprint).u16(x);
    let hash = sha2::Sha512::new().chain_update(label::KEY_SHARE).chain_update([0]).chain_update(writer.into_bytes());
    Fp::from_uniform_bytes(&hash.finalize().into())
}

/// The commitment to a share: Poseidon of exactly four elements.
pub(crate) fn commit(domain: Fp, low: Fp, high: Fp, blinder: Fp) -> Fp {
    poseidon::Hash::<_, P128Pow5T3, ConstantLength<4>, 3, 2>::init().hash([domain, low, high, blinder])
}
