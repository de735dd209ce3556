//! Symmetric keys as limbs, their fingerprints, and the relation that both SNARK suites prove.
//!
//! A key of b bits is three big-endian numbers: `low` is bytes 0..16, `mid` bytes 16..24 and `top` bytes
//! 24..32; a part that the key is too short for is zero. Among keys of one length this is injective, and
//! the length enters the fingerprint through its domain. The fingerprint is H(d; low, mid + 2^64·top),
//! with d drawn from [`fingerprint::domain`].

use std::{
    fmt::Debug,
    ops::{Add, Mul},
};

use ark_bn254::Fr;
use halo2_proofs::pasta::Fp;

use super::Instance;
use crate::{ClaimContext, Digest, Error, Fingerprint, KeyAlgorithm, Suite, TrustDomain, fingerprint};

/// The scalar field of a SNARK suite, with the suite's hash.
pub(crate) trait SuiteField: Copy + PartialEq + Debug + Add<Output = Self> + Mul<Output = Self> {
    /// The suite.
    const SUITE: Suite;

    /// Reduces 64 uniform little-endian bytes; the bias is below 2^-250.
    fn from_uniform(bytes: &[u8; 64]) -> Self;
    /// A small number.
    fn from_number(number: u128) -> Self;
    /// Decodes 32 little-endian bytes below the modulus.
    fn from_canonical(bytes: &[u8; 32]) -> Option<Self>;
    /// Encodes in 32 little-endian bytes.
    fn to_canonical(self) -> [u8; 32];
    /// Poseidon of a key's limbs under a domain.
    fn hash(domain: Self, low: Self, high: Self) -> Self;
    /// Overwrites a secret element, as far as its library allows.
    fn wipe(&mut self);
}

/// A symmetric key's parts as field elements; not yet known to be in range.
///
/// Wiped on drop. What the proving libraries copy on their way (assignments, polynomials) is out of
/// reach, and their arithmetic takes time that depends on its operands: prove where an observer of time
/// or memory is no concern, in a process of its own.
pub(crate) struct KeyLimbs<F: SuiteField> {
    /// Bytes 0..16.
    pub(crate) low: F,
    /// Bytes 16..24.
    pub(crate) mid: F,
    /// Bytes 24..32.
    pub(crate) top: F,
}

impl<F: SuiteField> KeyLimbs<F> {
    /// Takes a key apart.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for a key whose length is not its algorithm's.
    pub(crate) fn new(algorithm: KeyAlgorithm, key: &[u8]) -> Result<Self, Error> {
        if algorithm.limb_bits().map(|bits| usize::from(bits / 8)) != Some(key.len()) {
            return Err(Error::WitnessRefused("the secret has the wrong length for a symmetric key"));
        }
        let number = |from: usize, to: usize| {
            let part = key.iter().take(to).skip(from);
            F::from_number(part.fold(0, |number, byte| (number << 8) | u128::from(*byte)))
        };
        Ok(Self { low: number(0, 16), mid: number(16, 24), top: number(24, 32) })
    }

    /// The key of zeros, which stands in a slot without a key.
    #[cfg(feature = "prove")]
    pub(crate) fn filler() -> Self {
        let zero = F::from_number(0);
        Self { low: zero, mid: zero, top: zero }
    }

    /// `mid + 2^64·top`.
    pub(crate) fn high(&self) -> F {
        self.mid + F::from_number(1 << 64) * self.top
    }

    /// The key's fingerprint under `domain`.
    pub(crate) fn fingerprint(&self, domain: F) -> F {
        F::hash(domain, self.low, self.high())
    }
}

impl<F: SuiteField> Drop for KeyLimbs<F> {
    fn drop(&mut self) {
        self.low.wipe();
        self.mid.wipe();
        self.top.wipe();
    }
}

/// The public inputs of both circuits. The verifier computes every one of them itself.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct PublicInputs<F> {
    /// F: the key's fingerprint.
    pub(crate) fingerprint: F,
    /// d: trust domain, algorithm and length.
    pub(crate) domain: F,
    /// Whether the key has bytes 16..24: 0 or 1.
    pub(crate) has_mid: F,
    /// Whether the key has bytes 24..32: 0 or 1.
    pub(crate) has_top: F,
    /// The claim context's digest, in two halves of 128 bits.
    pub(crate) context: [F; 2],
}

impl<F: SuiteField> PublicInputs<F> {
    /// How many there are.
    pub(crate) const COUNT: usize = 6;

    /// The public inputs of a claim.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for anything but a symmetric key's fingerprint in this suite.
    pub(crate) fn new(context: &ClaimContext, instance: &Instance) -> Result<Self, Error> {
        let Instance::Symmetric { algorithm, fingerprint } = instance else {
            return Err(Error::WrongInstance("this proof needs the fingerprint of a symmetric key"));
        };
        let digest = context.digest().limbs().map(F::from_number);
        Self::of_key(&context.trust_domain, *algorithm, fingerprint, digest)
    }

    /// The public inputs for a key and the two halves of a context's digest.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for anything but a symmetric key's fingerprint in this suite.
    pub(crate) fn of_key(
        trust_domain: &TrustDomain,
        algorithm: KeyAlgorithm,
        fingerprint: &Fingerprint,
        context: [F; 2],
    ) -> Result<Self, Error> {
        Self::under_domain(domain(trust_domain, algorithm), algorithm, fingerprint, context)
    }

    /// The same, with a domain that is known already.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for anything but a symmetric key's fingerprint in this suite.
    pub(crate) fn under_domain(
        domain: F,
        algorithm: KeyAlgorithm,
        fingerprint: &Fingerprint,
        context: [F; 2],
    ) -> Result<Self, Error> {
        let bits = algorithm.limb_bits().ok_or(Error::WrongInstance("keys of that algorithm have no fingerprint"))?;
        if fingerprint.suite != F::SUITE {
            return Err(Error::WrongInstance("the fingerprint is of another suite"));
        }
        Ok(Self {
            fingerprint: F::from_canonical(&fingerprint.bytes.0)
                .ok_or(Error::WrongInstance("the fingerprint is not a canonical field element"))?,
            domain,
            has_mid: F::from_number((bits >= 192).into()),
            has_top: F::from_number((bits >= 256).into()),
            context,
        })
    }

    /// The inputs of a slot without a key: the fingerprint of the key of zeros under the domain zero.
    pub(crate) fn filler(context: [F; 2]) -> Self {
        let zero = F::from_number(0);
        Self { fingerprint: F::hash(zero, zero, zero), domain: zero, has_mid: zero, has_top: zero, context }
    }

    /// The inputs in the order of both circuits: F, d, has_mid, has_top, c0, c1.
    pub(crate) fn row(&self) -> [F; 6] {
        let [c0, c1] = self.context;
        [self.fingerprint, self.domain, self.has_mid, self.has_top, c0, c1]
    }

    /// The relation, natively. What the circuits accept must be exactly this.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] names the clause that fails.
    pub(crate) fn check(&self, limbs: &KeyLimbs<F>) -> Result<(), Error> {
        let zero = F::from_number(0);
        let fits = |element: F, bytes: usize| element.to_canonical().iter().skip(bytes).all(|byte| *byte == 0);
        let clauses = [
            (fits(limbs.low, 16), "the low limb has more than 128 bits"),
            (fits(limbs.mid, 8), "the middle limb has more than 64 bits"),
            (fits(limbs.top, 8), "the top limb has more than 64 bits"),
            (self.has_mid != zero || limbs.mid == zero, "a key of 128 bits has more bytes"),
            (self.has_top != zero || limbs.top == zero, "a key below 256 bits has more bytes"),
            (self.fingerprint == limbs.fingerprint(self.domain), "the secret belongs to another key"),
        ];
        match clauses.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(Error::WitnessRefused(why)),
            None => Ok(()),
        }
    }
}

/// d, in the suite's field.
pub(crate) fn domain<F: SuiteField>(trust_domain: &TrustDomain, algorithm: KeyAlgorithm) -> F {
    F::from_uniform(&fingerprint::domain(trust_domain, algorithm))
}

/// Refuses a fingerprint that is no canonical element of its suite's field, or an asymmetric algorithm.
///
/// # Errors
/// [`Error::Malformed`].
pub fn check_fingerprint(algorithm: KeyAlgorithm, fingerprint: &Fingerprint) -> Result<(), Error> {
    let malformed = |why| Err(Error::malformed("fingerprint", why));
    if algorithm.limb_bits().is_none() {
        return malformed("keys of that algorithm are not attested by a fingerprint of the key");
    }
    let canonical = match fingerprint.suite {
        Suite::PublicKey => return malformed("a symmetric key has none in the suite of public keys"),
        Suite::Halo2PastaTag => return malformed("it is a tag's, not a key's"),
        Suite::Halo2Pasta => Fp::from_canonical(&fingerprint.bytes.0).is_some(),
        Suite::Groth16Bn254 => Fr::from_canonical(&fingerprint.bytes.0).is_some(),
    };
    if canonical { Ok(()) } else { malformed("it is not a canonical field element") }
}

/// The fingerprint of a symmetric key.
///
/// # Errors
/// [`Error::WitnessRefused`] for a suite without a fingerprint of symmetric keys, or a wrong length.
pub fn fingerprint(
    trust_domain: &TrustDomain,
    algorithm: KeyAlgorithm,
    suite: Suite,
    key: &[u8],
) -> Result<Fingerprint, Error> {
    fn compute<F: SuiteField>(domain: F, algorithm: KeyAlgorithm, key: &[u8]) -> Result<Digest, Error> {
        Ok(Digest(KeyLimbs::new(algorithm, key)?.fingerprint(domain).to_canonical()))
    }
    let bytes = match suite {
        Suite::PublicKey => {
            return Err(Error::WitnessRefused("a symmetric key has no fingerprint in the suite of public keys"));
        }
        Suite::Halo2PastaTag => return Err(Error::WitnessRefused("a key has no fingerprint in the suite of tags")),
        Suite::Halo2Pasta => compute::<Fp>(domain(trust_domain, algorithm), algorithm, key)?,
        Suite::Groth16Bn254 => compute::<Fr>(domain(trust_domain, algorithm), algorithm, key)?,
    };
    Ok(Fingerprint { suite, bytes })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::{KeyClaim, Kind, Nonce, Timestamp, key_knowledge::Witness};

    /// One key of every length.
    pub(crate) const ALGORITHMS: [KeyAlgorithm; 4] =
        [KeyAlgorithm::Aes128, KeyAlgorithm::Aes192, KeyAlgorithm::Aes256, KeyAlgorithm::HmacSha256];

    pub(crate) fn key(algorithm: KeyAlgorithm) -> Vec<u8> {
        (1..=algorithm.secret_len()).map(|byte| (7 * byte) as u8).collect()
    }

    /// A claim of a fixed key, with the instance it names.
    pub(crate) fn claim(kind: Kind, suite: Suite, algorithm: KeyAlgorithm) -> (ClaimContext, Instance, Witness) {
        let trust_domain: TrustDomain = "acme.example".parse().unwrap();
        let witness = Witness::new(algorithm, &key(algorithm)).unwrap();
        let instance = witness.instance(&trust_domain, suite).unwrap();
        let context = ClaimContext {
            statement: kind.name().to_owned(),
            verifying_key: Digest([1; 32]),
            trust_domain,
            manager: "manager".parse().unwrap(),
            cluster: "cluster".parse().unwrap(),
            hsm: "hsm-1".parse().unwrap(),
            enrolment: 1,
            keys: vec![KeyClaim { key: "key".parse().unwrap(), epoch: 1, attributes: Digest([2; 32]) }],
            instance: instance.digest(),
            challenge: Nonce([3; 32]),
            not_before: Timestamp(1),
            not_after: Timestamp(2),
            checkpoint: None,
            evidence: None,
        };
        (context, instance, witness)
    }

    /// Public inputs and limbs of a fixed key; they satisfy the relation.
    pub(crate) fn satisfied<F: SuiteField>(algorithm: KeyAlgorithm) -> (PublicInputs<F>, KeyLimbs<F>) {
        let (context, instance, _) = claim(Kind::KeyKnowledgeHalo2, F::SUITE, algorithm);
        (PublicInputs::new(&context, &instance).unwrap(), KeyLimbs::new(algorithm, &key(algorithm)).unwrap())
    }

    /// Ways to break exactly one clause, the others kept: the fingerprint is computed anew from the
    /// broken limbs, except where the fingerprint is what is wrong.
    pub(crate) fn strategies<F: SuiteField>() -> Vec<(&'static str, PublicInputs<F>, KeyLimbs<F>)> {
        use KeyAlgorithm::{Aes128, Aes192, Aes256, HmacSha256};
        type Break<F> = fn(&mut PublicInputs<F>, &mut KeyLimbs<F>);
        fn two<F: SuiteField>() -> F {
            F::from_number(2)
        }
        // The highest canonical encoding, bit by bit.
        fn minus_one<F: SuiteField>() -> F {
            let mut bytes = [0; 32];
            for bit in (0..256).rev() {
                bytes[bit / 8] |= 1 << (bit % 8);
                if F::from_canonical(&bytes).is_none() {
                    bytes[bit / 8] &= !(1 << (bit % 8));
                }
            }
            F::from_canonical(&bytes).unwrap()
        }
        let honest_fingerprint: [(&str, KeyAlgorithm, Break<F>); 9] = [
            ("key_limb_over_128_bits", Aes256, |_, limbs| limbs.low = limbs.low + F::from_number(1 << 127) * two()),
            ("key_limb_below_zero", Aes128, |_, limbs| limbs.low = minus_one()),
            ("mid_limb_over_64_bits", Aes256, |_, limbs| {
                limbs.mid = limbs.mid + F::from_number(1 << 64);
                limbs.top = limbs.top + minus_one();
            }),
            ("mid_limb_below_zero", Aes192, |_, limbs| limbs.mid = minus_one()),
            ("top_limb_over_64_bits", Aes256, |_, limbs| limbs.top = limbs.top + F::from_number(1 << 64)),
            ("aes128_key_with_nonzero_high_limb", Aes128, |_, limbs| limbs.mid = F::from_number(1)),
            ("aes128_key_with_nonzero_top_limb", Aes128, |_, limbs| limbs.top = F::from_number(1)),
            ("aes192_key_with_nonzero_top_limb", Aes192, |_, limbs| limbs.top = F::from_number(1)),
            ("aes192_key_with_128_bit_selectors", Aes192, |public, _| public.has_mid = F::from_number(0)),
        ];
        let wrong_fingerprint: [(&str, KeyAlgorithm, Break<F>); 3] = [
            ("fingerprint_of_another_key", Aes256, |_, limbs| limbs.low = limbs.low + F::from_number(1)),
            ("foreign_trust_domain", Aes256, |public, limbs| {
                public.fingerprint = limbs.fingerprint(domain(&"evil.example".parse().unwrap(), Aes256));
            }),
            ("foreign_algorithm", Aes256, |public, limbs| {
                public.fingerprint = limbs.fingerprint(domain(&"acme.example".parse().unwrap(), HmacSha256));
            }),
        ];
        let honest = honest_fingerprint.map(|(name, algorithm, spoil)| {
            let (mut public, mut limbs) = satisfied(algorithm);
            spoil(&mut public, &mut limbs);
            public.fingerprint = limbs.fingerprint(public.domain);
            (name, public, limbs)
        });
        let wrong = wrong_fingerprint.map(|(name, algorithm, spoil)| {
            let (mut public, mut limbs) = satisfied(algorithm);
            spoil(&mut public, &mut limbs);
            (name, public, limbs)
        });
        honest.into_iter().chain(wrong).collect()
    }

    fn relation_refuses<F: SuiteField>() {
        for algorithm in ALGORITHMS {
            let (public, limbs) = satisfied::<F>(algorithm);
            public.check(&limbs).unwrap();
        }
        for (name, public, limbs) in strategies::<F>() {
            assert!(matches!(public.check(&limbs), Err(Error::WitnessRefused(_))), "{name}");
        }
    }

    #[test]
    fn native_relation_refuses_every_strategy() {
        relation_refuses::<Fp>();
        relation_refuses::<Fr>();
    }

    #[test]
    fn limbs_are_big_endian_and_fill_from_the_front() {
        let key: Vec<u8> = (1..=32).collect();
        let limbs = KeyLimbs::<Fp>::new(KeyAlgorithm::Aes256, &key).unwrap();
        assert_eq!(limbs.low, Fp::from_number(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
        assert_eq!(limbs.mid, Fp::from_number(0x1112_1314_1516_1718));
        assert_eq!(limbs.top, Fp::from_number(0x191a_1b1c_1d1e_1f20));
        let short = KeyLimbs::<Fp>::new(KeyAlgorithm::Aes128, &key[..16]).unwrap();
        assert_eq!((short.mid, short.top), (Fp::from_number(0), Fp::from_number(0)));
        assert!(KeyLimbs::<Fp>::new(KeyAlgorithm::Aes128, &key).is_err());
        assert!(KeyLimbs::<Fp>::new(KeyAlgorithm::Ed25519, &key).is_err());
    }

    #[test]
    fn fingerprints_are_canonical_and_separated() {
        let mut seen = std::collections::HashSet::new();
        for suite in [Suite::Halo2Pasta, Suite::Groth16Bn254] {
            for trust_domain in ["acme.example", "other.example"] {
                for algorithm in ALGORITHMS {
                    let trust_domain = trust_domain.parse().unwrap();
                    let tag = fingerprint(&trust_domain, algorithm, suite, &key(algorithm)).unwrap();
                    check_fingerprint(algorithm, &tag).unwrap();
                    assert!(check_fingerprint(KeyAlgorithm::Ed25519, &tag).is_err());
                    assert!(seen.insert(tag.bytes.0));
                }
            }
            let beyond = Fingerprint { suite, bytes: Digest([0xff; 32]) };
            assert!(check_fingerprint(KeyAlgorithm::Aes128, &beyond).is_err());
        }
        let trust_domain = "acme.example".parse().unwrap();
        assert!(fingerprint(&trust_domain, KeyAlgorithm::Aes128, Suite::PublicKey, &[0; 16]).is_err());
        let public = Fingerprint { suite: Suite::PublicKey, bytes: Digest([0; 32]) };
        assert!(check_fingerprint(KeyAlgorithm::Aes128, &public).is_err());
    }

    #[test]
    fn fingerprints_of_a_fixed_key_are_pinned() {
        let trust_domain = "acme.example".parse().unwrap();
        let of = |suite| fingerprint(&trust_domain, KeyAlgorithm::Aes256, suite, &key(KeyAlgorithm::Aes256)).unwrap();
        assert_eq!(
            of(Suite::Halo2Pasta).bytes.to_string(),
            "1f49f0c30ea7bcaa5f126bfb0b8078c473bea1d42485f0da2f00ab07e270a70b"
        );
        assert_eq!(
            of(Suite::Groth16Bn254).bytes.to_string(),
            "99f8af4e62dfe56747eefad9dc492d82688a01c90429476d1df3f26b09103807"
        );
    }

    #[cfg(feature = "prove")]
    #[test]
    fn the_registry_proves_and_verifies_both_suites() {
        use crate::{Parameters, codec::Canonical, params::Groth16Parameters, registry};
        let transparent = Parameters::default();
        let parameters = transparent.clone().with_groth16(Groth16Parameters::develop().unwrap());
        let suites = [(Kind::KeyKnowledgeHalo2, Suite::Halo2Pasta), (Kind::KeyKnowledgeGroth16, Suite::Groth16Bn254)];
        for (kind, suite) in suites {
            let (mut context, instance, witness) = claim(kind, suite, KeyAlgorithm::HmacSha256);
            let (bytes, witness) = (instance.to_bytes(), witness.into());
            assert_eq!(registry::prove(&parameters, &context, &bytes, &witness).err(), Some(Error::WrongVerifyingKey));
            context.verifying_key = registry::verifying_key(&parameters, kind).unwrap();
            let proof = registry::prove(&parameters, &context, &bytes, &witness).unwrap();
            let verified = registry::verify(&parameters, &context, &bytes, &proof).unwrap();
            assert_eq!((verified.kind(), verified.instance()), (kind, &instance.into()));
            context.challenge = Nonce([4; 32]);
            assert_eq!(registry::verify(&parameters, &context, &bytes, &proof).err(), Some(Error::ProofRefused));
        }
        let missing = registry::verifying_key(&transparent, Kind::KeyKnowledgeGroth16);
        assert!(matches!(missing, Err(Error::MissingParameters(_))));
    }
}
