//! The relation clause by clause, over all that the circuit takes as a witness.

use halo2_proofs::pasta::Fp;

use super::{Instance, kdf_domains};
use crate::{
    ClaimContext, Error,
    gadgets::canonical::Split,
    key_knowledge::symmetric::{self, KeyLimbs, SuiteField},
};

/// The master key, and what is derived from it; not yet known to belong together. Wiped on drop.
pub(super) struct Expansion {
    /// The master key.
    pub(super) master: KeyLimbs<Fp>,
    /// z1, taken apart.
    pub(super) first: Split,
    /// z2, taken apart.
    pub(super) second: Split,
    /// The low half of z2: its bits 0..64.
    pub(super) mid: Fp,
    /// The low half of z2: its bits 64..128.
    pub(super) top: Fp,
}

impl Expansion {
    /// What the master key expands to under the domains κ1 and κ2.
    #[cfg(any(test, feature = "prove"))]
    pub(super) fn new(master: KeyLimbs<Fp>, domains: [Fp; 2]) -> Self {
        use crate::gadgets::canonical::low_bits;
        let [z1, z2] = domains.map(|domain| master.fingerprint(domain));
        let half = zeroize::Zeroizing::new(low_bits(z2));
        let (mid, top) = (Fp::from_number((*half as u64).into()), Fp::from_number(*half >> 64));
        Self { master, first: Split::of(z1), second: Split::of(z2), mid, top }
    }
}

impl Drop for Expansion {
    fn drop(&mut self) {
        self.mid.wipe();
        self.top.wipe();
    }
}

/// What is public about one of the two keys.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct PublicKey {
    /// Its fingerprint.
    pub(super) fingerprint: Fp,
    /// d: trust domain, algorithm and length.
    pub(super) domain: Fp,
    /// Whether it has bytes 16..24: 0 or 1.
    pub(super) has_mid: Fp,
    /// Whether it has bytes 24..32: 0 or 1.
    pub(super) has_top: Fp,
}

/// The circuit's public inputs. The verifier computes every one of them itself.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct PublicInputs {
    /// The master key.
    pub(super) master: PublicKey,
    /// The derived key.
    pub(super) derived: PublicKey,
    /// κ1 and κ2: trust domain, the master's algorithm, the derived key's name, algorithm and epoch.
    pub(super) kdf: [Fp; 2],
    /// The claim context's digest, in two halves of 128 bits.
    pub(super) context: [Fp; 2],
}

impl PublicInputs {
    /// How many there are.
    pub(super) const COUNT: usize = 12;

    /// The public inputs of a claim.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] where the claim is about another key or epoch than the derivation.
    pub(super) fn new(context: &ClaimContext, instance: &Instance) -> Result<Self, Error> {
        let target = &instance.target;
        if !context.keys.iter().all(|claim| claim.key == target.key && claim.epoch == target.epoch) {
            return Err(Error::WrongInstance("the key was derived under another name or for another epoch"));
        }
        let public = |algorithm: crate::KeyAlgorithm, fingerprint: &crate::Digest| {
            let bits = algorithm.limb_bits().ok_or(Error::WrongInstance("keys of that algorithm are not derived"))?;
            Ok(PublicKey {
                fingerprint: Fp::from_canonical(&fingerprint.0)
                    .ok_or(Error::WrongInstance("a fingerprint is not a canonical field element"))?,
                domain: symmetric::domain(&context.trust_domain, algorithm),
                has_mid: Fp::from_number((bits >= 192).into()),
                has_top: Fp::from_number((bits >= 256).into()),
            })
        };
        Ok(Self {
            master: public(instance.master_algorithm, &instance.master)?,
            derived: public(target.algorithm, &instance.derived)?,
            kdf: kdf_domains(&context.trust_domain, instance.master_algorithm, target),
            context: context.digest().limbs().map(Fp::from_number),
        })
    }

    /// The inputs in the circuit's order: F, d, has_mid, has_top of the master and then of the derived key, κ1, κ2,
    /// c0, c1.
    pub(super) fn row(&self) -> [Fp; Self::COUNT] {
        let [m, d] = [self.master, self.derived].map(|key| [key.fingerprint, key.domain, key.has_mid, key.has_top]);
        let ([k1, k2], [c0, c1]) = (self.kdf, self.context);
        let ([m0, m1, m2, m3], [d0, d1, d2, d3]) = (m, d);
        [m0, m1, m2, m3, d0, d1, d2, d3, k1, k2, c0, c1]
    }

    /// The derived key's fingerprint, as its parts have it.
    #[cfg(any(test, feature = "prove"))]
    pub(super) fn derived_fingerprint(&self, expansion: &Expansion) -> Fp {
        let shift = Fp::from_number(1 << 64);
        let high = self.derived.has_mid * expansion.mid + shift * self.derived.has_top * expansion.top;
        Fp::hash(self.derived.domain, expansion.first.low, high)
    }

    /// The relation, natively. What the circuit accepts must be exactly this.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] names the clause that fails.
    #[cfg(any(test, feature = "prove"))]
    pub(super) fn check(&self, expansion: &Expansion) -> Result<(), Error> {
        let Expansion { master, first, second, mid, top } = expansion;
        let PublicKey { fingerprint, domain, has_mid, has_top } = self.master;
        symmetric::PublicInputs { fingerprint, domain, has_mid, has_top, context: self.context }.check(master)?;
        let [z1, z2] = self.kdf.map(|domain| master.fingerprint(domain));
        first.check(z1).and_then(|()| second.check(z2)).map_err(Error::WitnessRefused)?;
        let fits = |element: &Fp| element.to_canonical().iter().skip(8).all(|byte| *byte == 0);
        let clauses = [
            (fits(mid) && fits(top), "a part of the second output has more than 64 bits"),
            (*mid + Fp::from_number(1 << 64) * top == second.low, "the parts are not the second output's"),
            (self.derived_fingerprint(expansion) == self.derived.fingerprint, "the derived key is another"),
        ];
        match clauses.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(Error::WitnessRefused(why)),
            None => Ok(()),
        }
    }
}
