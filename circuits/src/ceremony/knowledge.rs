//! One secret of one contributor: what it multiplies, and the proof that the contributor knows it.
//!
//! The proof is that of Bowe, Gabizon and Miers (eprint 2017/1050): hash everything that was said before to a
//! point r of G2 whose logarithm nobody knows, and show x·r. With x·G1 public, a pairing shows that it is the
//! same x. Whoever can give x·r for a random r knows x, under the knowledge of exponent assumption (there), or
//! in the algebraic group model with a random oracle, also for adversaries that see other contributors' proofs
//! (Kohlweiss, Maller, Siim, Volkhov, eprint 2021/219). Extraction needs no rewinding, so that many
//! contributions may follow each other.

use ark_bn254::{Fq, Fq2, Fr, G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{PrimeField, Zero};
use rand::{RngCore, rngs::OsRng};
use sha2::{Digest as _, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::points::{Ratio, same_ratio};
use crate::transcript::label;

/// A contributor's secret factor. Wiped on drop; never zero.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Secret(Fr);

impl Secret {
    /// From the operating system, mixed with `entropy`: at least as hard to guess as the better of the two.
    pub(super) fn draw(name: &str, entropy: &[u8]) -> Self {
        let mut fresh = Zeroizing::new([0; 64]);
        loop {
            OsRng.fill_bytes(&mut *fresh);
            if let Some(secret) = Self::derive(name, &[&*fresh, entropy]) {
                return secret;
            }
        }
    }

    /// The secret that `parts` lead to, which is public where they are; none where it is zero.
    pub(super) fn derive(name: &str, parts: &[&[u8]]) -> Option<Self> {
        let mut hash = Sha512::new().chain_update(label::CEREMONY_SECRET).chain_update([0]);
        for part in [name.as_bytes()].iter().chain(parts) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut wide: [u8; 64] = hash.finalize().into();
        let secret = Self(Fr::from_le_bytes_mod_order(&wide));
        wide.zeroize();
        (!secret.0.is_zero()).then_some(secret)
    }

    pub(super) const fn scalar(&self) -> &Fr {
        &self.0
    }

    /// 1, x, x² and so on.
    pub(super) fn powers(&self, count: usize) -> Zeroizing<Vec<Fr>> {
        let mut power = Fr::from(1_u64);
        let powers = Zeroizing::new(
            (0..count)
                .map(|_| {
                    let now = power;
                    power *= self.0;
                    now
                })
                .collect(),
        );
        power.zeroize();
        powers
    }
}

/// What a contributor shows of one secret x.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Share {
    /// x·G1.
    pub(super) in_g1: G1Affine,
    /// x·G2.
    pub(super) in_g2: G2Affine,
    /// x times what all before have made of G1.
    pub(super) after: G1Affine,
    /// x·r, with r from [`base`].
    pub(super) knowledge: G2Affine,
}

impl Share {
    /// The share of `secret`, built on `before`, still without its proof.
    pub(super) fn unproven(secret: &Secret, before: G1Affine) -> Self {
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        let x = secret.0;
        Self {
            in_g1: (g1 * x).into_affine(),
            in_g2: (g2 * x).into_affine(),
            after: (before * x).into_affine(),
            knowledge: g2,
        }
    }

    pub(super) fn prove(&mut self, secret: &Secret, base: G2Affine) {
        self.knowledge = (base * secret.0).into_affine();
    }

    /// Whether x is the same in both groups.
    pub(super) fn is_one_secret(&self) -> bool {
        let g1 = Ratio { from: G1Affine::generator(), to: self.in_g1 };
        same_ratio(g1, Ratio { from: G2Affine::generator(), to: self.in_g2 })
    }

    /// Whether x is known to whoever made the proof on `base`.
    pub(super) fn is_known(&self, base: G2Affine) -> bool {
        let g1 = Ratio { from: G1Affine::generator(), to: self.in_g1 };
        same_ratio(g1, Ratio { from: base, to: self.knowledge })
    }

    /// Whether `after` is x times `before`.
    pub(super) fn builds_on(&self, before: G1Affine) -> bool {
        let g2 = Ratio { from: G2Affine::generator(), to: self.in_g2 };
        same_ratio(Ratio { from: before, to: self.after }, g2)
    }
}

/// A point of G2 of unknown logarithm: the first of the x-coordinates SHA-512(label, seed, counter, half) for
/// which there is one, with the cofactor cleared. Its input is public, so its time may vary.
pub(super) fn base(seed: &[u8; 32]) -> G2Affine {
    let half = |counter: u32, half: u8| -> [u8; 64] {
        let hash = Sha512::new().chain_update(label::CEREMONY_KNOWLEDGE).chain_update([0]).chain_update(seed);
        hash.chain_update(counter.to_be_bytes()).chain_update([half]).finalize().into()
    };
    (0..=u32::MAX)
        .find_map(|counter| {
            let [c0, c1] = [half(counter, 0), half(counter, 1)].map(|wide| Fq::from_le_bytes_mod_order(&wide));
            let greater = half(counter, 2).first().is_some_and(|byte| byte & 1 == 1);
            let point = G2Affine::get_point_from_x_unchecked(Fq2::new(c0, c1), greater)?.clear_cofactor();
            (!point.is_zero()).then_some(point)
        })
        .expect("half of all x-coordinates have a point")
}
