//! Phase 1: the powers of tau (Bowe, Gabizon, Miers, eprint 2017/1050).

use ark_bn254::{G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup};

use super::{
    CeremonyError,
    knowledge::Secret,
    points::{self, Ratio, same_ratio, steps},
};
use crate::{
    Digest,
    codec::{Reader, Writer},
    transcript::label,
};

/// Powers for a domain of n: they serve every circuit of at most n constraints and inputs.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Powers {
    /// τ^i·G1, 2n - 1 of them.
    pub(super) tau_g1: Vec<G1Affine>,
    /// τ^i·G2, n of them.
    pub(super) tau_g2: Vec<G2Affine>,
    /// α·τ^i·G1, n of them.
    pub(super) alpha_g1: Vec<G1Affine>,
    /// β·τ^i·G1, n of them.
    pub(super) beta_g1: Vec<G1Affine>,
    /// β·G2.
    pub(super) beta_g2: G2Affine,
}

/// The names of phase 1's secrets, in their order everywhere.
pub(super) const SECRETS: [&str; 3] = ["tau", "alpha", "beta"];

impl Powers {
    /// Where every ceremony begins: τ = α = β = 1.
    pub(super) fn one(domain: usize) -> Self {
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        Self {
            tau_g1: vec![g1; 2 * domain - 1],
            tau_g2: vec![g2; domain],
            alpha_g1: vec![g1; domain],
            beta_g1: vec![g1; domain],
            beta_g2: g2,
        }
    }

    /// Multiplies τ, α and β by a contributor's secrets.
    pub(super) fn contribute(&mut self, [tau, alpha, beta]: &[Secret; 3]) {
        let powers = tau.powers(self.tau_g1.len());
        points::scale(&mut self.tau_g1, &powers);
        points::scale(&mut self.tau_g2, &powers);
        for (list, secret) in [(&mut self.alpha_g1, alpha), (&mut self.beta_g1, beta)] {
            let mut factors = powers.clone();
            factors.iter_mut().for_each(|factor| *factor *= secret.scalar());
            points::scale(list, &factors);
        }
        self.beta_g2 = (self.beta_g2 * beta.scalar()).into_affine();
    }

    /// τ·G1, α·G1 and β·G1, which determine everything else.
    pub(super) fn heads(&self) -> [G1Affine; 3] {
        let head = |list: &[G1Affine], index: usize| list.get(index).copied().unwrap_or_default();
        [head(&self.tau_g1, 1), head(&self.alpha_g1, 0), head(&self.beta_g1, 0)]
    }

    /// Checks that all lists are what one τ, one α and one β make of the two generators.
    pub(super) fn check(&self) -> Result<(), CeremonyError> {
        let inconsistent = |what| Err(CeremonyError::Powers(what));
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        if self.tau_g1.first() != Some(&g1) || self.tau_g2.first() != Some(&g2) {
            return inconsistent("they do not begin with the generators");
        }
        let [tau_g1, _, beta_g1] = self.heads();
        let Some(&tau_g2) = self.tau_g2.get(1) else { return inconsistent("there are too few") };
        let tau_in_g2 = Ratio { from: g2, to: tau_g2 };
        if !same_ratio(steps(&self.tau_g1), tau_in_g2) {
            return inconsistent("tau in G1 against tau in G2");
        }
        if !same_ratio(Ratio { from: g1, to: tau_g1 }, steps(&self.tau_g2)) {
            return inconsistent("tau in G2 against tau in G1");
        }
        if !same_ratio(steps(&self.alpha_g1), tau_in_g2) {
            return inconsistent("alpha times the powers of tau");
        }
        if !same_ratio(steps(&self.beta_g1), tau_in_g2) {
            return inconsistent("beta times the powers of tau");
        }
        if !same_ratio(Ratio { from: g1, to: beta_g1 }, Ratio { from: g2, to: self.beta_g2 }) {
            return inconsistent("beta in G1 against beta in G2");
        }
        Ok(())
    }

    /// Checks every point by itself; see [`points::check`].
    pub(super) fn check_points(&self) -> Result<(), CeremonyError> {
        points::check("tau in G1", &self.tau_g1)?;
        points::check("tau in G2", &self.tau_g2)?;
        points::check("alpha in G1", &self.alpha_g1)?;
        points::check("beta in G1", &self.beta_g1)?;
        points::check("beta in G2", &[self.beta_g2])
    }

    pub(super) fn digest(&self) -> Digest {
        let mut writer = Writer::default();
        writer.bytes(b"powers");
        self.write(&mut writer);
        Digest::of(label::CEREMONY, &writer.into_bytes())
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        points::write(writer, &self.tau_g1);
        points::write(writer, &self.tau_g2);
        points::write(writer, &self.alpha_g1);
        points::write(writer, &self.beta_g1);
        points::write(writer, &[self.beta_g2]);
    }

    pub(super) fn read(reader: &mut Reader<'_>, domain: usize) -> Result<Self, CeremonyError> {
        Ok(Self {
            tau_g1: points::read(reader, "tau in G1", 2 * domain - 1)?,
            tau_g2: points::read(reader, "tau in G2", domain)?,
            alpha_g1: points::read(reader, "alpha in G1", domain)?,
            beta_g1: points::read(reader, "beta in G1", domain)?,
            beta_g2: points::read_one(reader, "beta in G2")?,
        })
    }
}
