//! Dealing a key, checking a share against its commitment, and putting the key together again.
//!
//! Arithmetic with secrets in the Pallas base field is its library's, and takes time that depends on the operands.

use std::{fmt, sync::Arc};

use ff::{Field, FromUniformBytes};
use halo2_proofs::pasta::Fp;
use rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::{
    CommittedShare, Instance, MAX_HOLDERS, Witness, check_points,
    relation::{HIGHER, SecretElements, Secrets, commit, share_domain},
};
use crate::{
    Digest, Error, KeyAlgorithm, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    key_knowledge::symmetric::{self, KeyLimbs, SuiteField},
};

/// What one holder keeps: its share of the key, and what opens the commitment to it.
///
/// A secret: wiped on drop, never printed. It travels sealed to its holder; whoever encodes it wipes the bytes.
pub struct Opening {
    x: u16,
    low: Fp,
    high: Fp,
    blinder: Fp,
}

impl Opening {
    /// Where the polynomials were evaluated.
    pub const fn x(&self) -> u16 {
        self.x
    }

    fn commitment(&self, trust_domain: &TrustDomain, instance: &Instance) -> Digest {
        let domain = share_domain(trust_domain, instance, self.x);
        Digest(commit(domain, self.low, self.high, self.blinder).to_canonical())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        for element in [&mut self.low, &mut self.high, &mut self.blinder] {
            element.wipe();
        }
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opening(x = {}, secret)", self.x)
    }
}

impl Canonical for Opening {
    const WHAT: &'static str = "opening of a share";

    fn write(&self, writer: &mut Writer) {
        writer.u16(self.x);
        for element in [self.low, self.high, self.blinder] {
            writer.array(&element.to_canonical());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let x = reader.u16()?;
        let mut element = || {
            let bytes = Zeroizing::new(reader.array()?);
            Fp::from_canonical(&bytes).ok_or(reader.error("it holds a field element that is not canonical"))
        };
        Ok(Self { x, low: element()?, high: element()?, blinder: element()? })
    }
}

/// A uniform element; the bias of the reduction is below 2^-250.
fn random_element(rng: &mut (impl RngCore + CryptoRng)) -> Fp {
    let mut bytes = Zeroizing::new([0; 64]);
    rng.fill_bytes(&mut *bytes);
    Fp::from_uniform_bytes(&bytes)
}

impl Witness {
    /// Shares `key` among holders at `points`, so that `threshold` of them can put it together and fewer learn nothing
    /// from their shares. `rng` must be the operating system's, or as good: every coefficient and blinder comes from
    /// it.
    ///
    /// `points` are above zero and ascending. Gives the instance, the witness of its proof, and each holder's opening
    /// in the order of `points`.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for a key of the wrong length; [`Error::Malformed`] for points or a threshold that
    /// [`Instance::new`] refuses.
    pub fn deal(
        algorithm: KeyAlgorithm,
        key: &[u8],
        trust_domain: &TrustDomain,
        threshold: u16,
        points: &[u16],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Instance, Self, Vec<Opening>), Error> {
        let fingerprint = symmetric::fingerprint(trust_domain, algorithm, Suite::Halo2Pasta, key)?;
        // The points and the threshold are checked before a share is made: the share at zero is the key.
        let blank = |x: &u16| CommittedShare { x: *x, commitment: Digest([0; 32]) };
        let mut instance = Instance::new(algorithm, fingerprint, threshold, points.iter().map(blank).collect())?;

        let higher = usize::from(threshold) - 1;
        // Filled in where they stay: a move would leave a copy behind.
        let mut shared = Arc::new(Secrets {
            key: KeyLimbs::new(algorithm, key)?,
            low: SecretElements([Fp::ZERO; HIGHER]),
            high: SecretElements([Fp::ZERO; HIGHER]),
            blinders: SecretElements([Fp::ZERO; MAX_HOLDERS]),
        });
        let secrets = Arc::get_mut(&mut shared).expect("nobody else has it yet");
        let coefficients = secrets.low.0.iter_mut().take(higher).chain(secrets.high.0.iter_mut().take(higher));
        coefficients.chain(secrets.blinders.0.iter_mut().take(points.len())).for_each(|e| *e = random_element(rng));

        let open = |(x, blinder): (&u16, &Fp)| {
            let (low, high) = secrets.evaluate(Fp::from(u64::from(*x)));
            Opening { x: *x, low, high, blinder: *blinder }
        };
        let openings: Vec<Opening> = points.iter().zip(&secrets.blinders.0).map(open).collect();
        let commitments: Vec<_> = openings.iter().map(|opening| opening.commitment(trust_domain, &instance)).collect();
        for (share, commitment) in instance.shares.iter_mut().zip(commitments) {
            share.commitment = commitment;
        }
        Ok((instance, Self { algorithm, secrets: shared }, openings))
    }
}

impl Instance {
    /// Checks a holder's own opening against its commitment.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] where no holder has that x, or the commitment is to something else.
    pub fn check_opening(&self, trust_domain: &TrustDomain, opening: &Opening) -> Result<(), Error> {
        let share = self.shares.iter().find(|share| share.x == opening.x);
        let share = share.ok_or(Error::WitnessRefused("the sharing has no holder with this x"))?;
        if opening.commitment(trust_domain, self) == share.commitment {
            Ok(())
        } else {
            Err(Error::WitnessRefused("the opening is not that of this holder's commitment"))
        }
    }

    /// The key, from the openings of at least `threshold` holders, in any order.
    ///
    /// Every opening is checked first; [`Instance::check_opening`] names the culprits one by one.
    ///
    /// # Errors
    /// [`Error::Malformed`] for two openings of one holder; [`Error::WitnessRefused`] for too few openings, for one
    /// that is not its commitment's, and where what comes out is not the key of the fingerprint.
    pub fn reconstruct(&self, trust_domain: &TrustDomain, openings: &[Opening]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut openings: Vec<&Opening> = openings.iter().collect();
        openings.sort_by_key(|opening| opening.x);
        check_points(openings.iter().map(|opening| opening.x))?;
        openings.iter().try_for_each(|opening| self.check_opening(trust_domain, opening))?;
        let openings = openings
            .get(..usize::from(self.threshold))
            .ok_or(Error::WitnessRefused("there are fewer shares than the threshold"))?;
        let points: Vec<Fp> = openings.iter().map(|opening| Fp::from(u64::from(opening.x))).collect();
        let mut limbs = SecretElements([Fp::ZERO; 2]);
        let [low, high] = &mut limbs.0;
        for (opening, x) in openings.iter().zip(&points) {
            let weight = lagrange_at_zero(&points, *x);
            *low += weight * opening.low;
            *high += weight * opening.high;
        }
        let key = self.key_bytes(*low, *high)?;
        if symmetric::fingerprint(trust_domain, self.algorithm, Suite::Halo2Pasta, &key)? == self.fingerprint {
            Ok(key)
        } else {
            Err(Error::WitnessRefused("the shares make another key"))
        }
    }

    /// The inverse of [`KeyLimbs::new`]: low is bytes 0..16, high = mid + 2^64·top.
    fn key_bytes(&self, low: Fp, high: Fp) -> Result<Zeroizing<Vec<u8>>, Error> {
        let refused = Error::WitnessRefused("the shares make no key");
        let number = |element: Fp| {
            let bytes = Zeroizing::new(element.to_canonical());
            let (number, rest) = bytes.split_at(16);
            let number = number.iter().rev().fold(0, |number, byte| (number << 8) | u128::from(*byte));
            if rest.iter().all(|byte| *byte == 0) { Ok(Zeroizing::new(number)) } else { Err(refused.clone()) }
        };
        let (low, high) = (number(low)?, number(high)?);
        // The middle comes first in the key, and is the lower half of the number.
        let high = Zeroizing::new(high.rotate_left(64));
        let mut key = Zeroizing::new(Vec::with_capacity(32));
        key.extend_from_slice(&*Zeroizing::new(low.to_be_bytes()));
        key.extend_from_slice(&*Zeroizing::new(high.to_be_bytes()));
        let unused = key.iter().skip(self.algorithm.secret_len());
        if unused.clone().any(|byte| *byte != 0) {
            return Err(refused);
        }
        key.truncate(self.algorithm.secret_len());
        Ok(key)
    }
}

/// The weight of the value at `x` in the value at zero, among `points`, which are distinct and not zero.
fn lagrange_at_zero(points: &[Fp], x: Fp) -> Fp {
    let others = || points.iter().filter(|other| **other != x);
    let numerator: Fp = others().product();
    let denominator: Fp = others().map(|other| other - x).product();
    // Differences of distinct points are not zero.
    numerator * denominator.invert().unwrap_or(Fp::ZERO)
}
