//! Statement `share_correctness`: *I know the share that this dealing fixes for me.*
//!
//! The instance is the dealing's commitments and the holder's index; the witness is the holder's share of the secret,
//! with its blinding where the commitments are Pedersen's. `spec.md` beside this file has the relation, its argument
//! and its limits.

pub mod feldman;
pub mod pedersen;
#[cfg(all(test, feature = "prove"))]
mod strategies;

use std::{fmt, sync::LazyLock};

use curve25519_dalek::{RistrettoPoint, Scalar, ristretto::CompressedRistretto, traits::IsIdentity};
use sha2::Sha512;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Digest, Error, Fingerprint, KeyAlgorithm, Kind, Statement, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    context,
    transcript::label,
};

/// Most holders of one sharing, so the largest index, and the largest threshold. An instance of the largest threshold
/// has 32,773 bytes: half of what a reader accepts.
pub const MAX_HOLDERS: u16 = 1024;

/// Smallest threshold. Below it every share is the secret itself, which `key_knowledge` speaks of.
pub const MIN_THRESHOLD: u16 = 2;

/// The statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareCorrectness;

/// How a dealing commits to its polynomial.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// C_k = a_k·G (Feldman, FOCS 1987): reveals a_0·G, the public key of the secret.
    Feldman,
    /// C_k = a_k·G + b_k·H (Pedersen, CRYPTO 1991): reveals nothing about the secret, whatever its entropy.
    Pedersen,
}

impl Scheme {
    /// The first byte of an instance.
    const fn code(self) -> u8 {
        match self {
            Self::Feldman => 2,
            Self::Pedersen => 3,
        }
    }
}

impl Canonical for Scheme {
    const WHAT: &'static str = "commitment scheme";
    fn write(&self, writer: &mut Writer) {
        writer.u8(self.code());
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match reader.u8()? {
            2 => Ok(Self::Feldman),
            3 => Ok(Self::Pedersen),
            _ => Err(reader.error("no commitment scheme has this code")),
        }
    }
}

/// H, the second generator of Pedersen commitments: a label hashed to ristretto255 (SHA-512 and the one-way map of RFC
/// 9496, section 4.3.4), so that nobody knows its logarithm to the base G.
pub fn blinding_generator() -> &'static RistrettoPoint {
    static H: LazyLock<RistrettoPoint> =
        LazyLock::new(|| RistrettoPoint::hash_from_bytes::<Sha512>(label::PEDERSEN_GENERATOR.as_bytes()));
    &H
}

/// Reads a point; the identity is a point.
fn decode(bytes: &[u8; 32]) -> Option<RistrettoPoint> {
    CompressedRistretto(*bytes).decompress()
}

/// The commitments of one dealing: checked, canonical, of a polynomial of the degree that the threshold says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commitments {
    scheme: Scheme,
    points: Vec<RistrettoPoint>,
    encoded: Vec<[u8; 32]>,
}

impl Commitments {
    /// Checks C_0 to C_{t-1}.
    ///
    /// C_0 must not be the identity: the secret, and its blinding, would be zero. Nor must C_{t-1}: the polynomial
    /// would have a lower degree, and fewer holders than the threshold could reconstruct. Those between may be: a
    /// coefficient of zero there changes neither, and an honest one is zero with a probability of 2^-252.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another number of points than [`MIN_THRESHOLD`] to [`MAX_HOLDERS`], an encoding that is
    /// not canonical, or an identity where none may be.
    pub fn new(scheme: Scheme, encoded: Vec<[u8; 32]>) -> Result<Self, Error> {
        let malformed = |why| Error::malformed("commitments", why);
        if !(usize::from(MIN_THRESHOLD)..=usize::from(MAX_HOLDERS)).contains(&encoded.len()) {
            return Err(malformed("the threshold must be 2 to 1024"));
        }
        let points = encoded.iter().map(decode).collect::<Option<Vec<_>>>();
        let points = points.ok_or(malformed("one is not the canonical encoding of a point"))?;
        if points.first().is_none_or(IsIdentity::is_identity) {
            return Err(malformed("the first is the identity: the secret would be zero"));
        }
        if points.last().is_none_or(IsIdentity::is_identity) {
            return Err(malformed("the last is the identity: the degree is lower than the threshold says"));
        }
        Ok(Self { scheme, points, encoded })
    }

    /// How they commit.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// How many shares reconstruct the secret, t.
    pub fn threshold(&self) -> u16 {
        // `new` has bounded the length.
        self.points.len() as u16
    }

    /// C_0: for Feldman the public key of the secret.
    pub fn public_secret(&self) -> [u8; 32] {
        self.encoded.first().copied().unwrap_or_default()
    }

    /// The encoded points.
    pub fn encoded(&self) -> &[[u8; 32]] {
        &self.encoded
    }

    /// Digest of scheme and points: the same for all shares of one dealing.
    pub fn digest(&self) -> Digest {
        Digest::of(label::SHARING, &self.to_bytes())
    }

    /// S = Σ x^k·C_k, the public point of the share with index x. May be the identity.
    ///
    /// Horner's rule; x is small and public, so each step is at most 10 doublings and 9 additions, in variable time.
    pub fn evaluate(&self, index: u16) -> RistrettoPoint {
        let mut points = self.points.iter().rev();
        let Some(mut sum) = points.next().copied() else { return RistrettoPoint::default() };
        for point in points {
            sum = times_small(&sum, index) + point;
        }
        sum
    }
}

/// x·P by doubling and adding, in variable time.
fn times_small(point: &RistrettoPoint, x: u16) -> RistrettoPoint {
    let mut product = RistrettoPoint::default();
    for bit in (0..u16::BITS - x.leading_zeros()).rev() {
        product += product;
        if x >> bit & 1 == 1 {
            product += point;
        }
    }
    product
}

impl Canonical for Commitments {
    const WHAT: &'static str = "commitments";

    fn write(&self, writer: &mut Writer) {
        writer.value(&self.scheme).u16(self.threshold());
        for point in &self.encoded {
            writer.array(point);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let scheme = reader.value()?;
        let count = reader.u16()?;
        if !(MIN_THRESHOLD..=MAX_HOLDERS).contains(&count) {
            return Err(reader.error("the threshold must be 2 to 1024"));
        }
        let encoded = (0..count).map(|_| reader.array()).collect::<Result<Vec<_>, _>>()?;
        Self::new(scheme, encoded)
    }
}

/// The public part: the dealing's commitments C_0 to C_{t-1}, and the holder's index x.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    commitments: Commitments,
    index: u16,
    /// S, computed once. Boxed, because instances of other statements are small.
    point: Box<RistrettoPoint>,
    public_share: [u8; 32],
}

impl Instance {
    /// An instance, checked.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an index that is not 1 to [`MAX_HOLDERS`] (at 0 the share is the secret itself), or a
    /// public share that is the identity (anyone knows that share, and it has no public key).
    pub fn new(commitments: Commitments, index: u16) -> Result<Self, Error> {
        let malformed = |why| Error::malformed("share instance", why);
        if !(1..=MAX_HOLDERS).contains(&index) {
            return Err(malformed("the index must be 1 to 1024"));
        }
        let point = commitments.evaluate(index);
        if point.is_identity() {
            return Err(malformed("the public share is the identity"));
        }
        Ok(Self { commitments, index, public_share: point.compress().to_bytes(), point: Box::new(point) })
    }

    /// The dealing's commitments.
    pub const fn commitments(&self) -> &Commitments {
        &self.commitments
    }

    /// The holder's index, x.
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// How many shares reconstruct the secret, t.
    pub fn threshold(&self) -> u16 {
        self.commitments.threshold()
    }

    /// S = Σ x^k·C_k, encoded.
    pub const fn public_share(&self) -> &[u8; 32] {
        &self.public_share
    }

    /// Names the sharing: equal for all shares of one dealing.
    pub fn sharing_digest(&self) -> Digest {
        self.commitments.digest()
    }

    /// Tag of the share: a labelled digest of its public point, so that one share in two HSMs shows.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { suite: Suite::PublicKey, bytes: Digest::of(label::SHARE, &self.public_share) }
    }

    /// The share's algorithm.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        match self.commitments.scheme {
            Scheme::Feldman => KeyAlgorithm::Ristretto255Share,
            Scheme::Pedersen => KeyAlgorithm::Ristretto255BlindedShare,
        }
    }

    /// The kind that proves this instance.
    pub const fn kind(&self) -> Kind {
        match self.commitments.scheme {
            Scheme::Feldman => Kind::ShareCorrectnessFeldman,
            Scheme::Pedersen => Kind::ShareCorrectnessPedersen,
        }
    }

    /// Digest of the canonical encoding, as a claim context carries it.
    pub fn digest(&self) -> Digest {
        context::instance_digest(&self.to_bytes())
    }
}

impl Canonical for Instance {
    const WHAT: &'static str = "share-correctness instance";

    fn write(&self, writer: &mut Writer) {
        writer.value(&self.commitments).u16(self.index);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Self::new(reader.value()?, reader.u16()?)
    }
}

/// The secret part: the share s, and for Pedersen its blinding r.
///
/// Wiped on drop, never printed, never copied.
pub struct Witness {
    share: Zeroizing<Scalar>,
    blinding: Option<Zeroizing<Scalar>>,
}

impl Witness {
    /// Takes a copy of a share: 32 bytes s for Feldman, 64 bytes s ‖ r for Pedersen; little-endian, below the group order.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for a wrong length or a scalar that is not below the group order.
    pub fn new(scheme: Scheme, secret: &[u8]) -> Result<Self, Error> {
        let wrong_length = Error::WitnessRefused("the share has the wrong length for its commitments");
        let (share, blinding) = match (scheme, secret.len()) {
            (Scheme::Feldman, 32) => (scalar(secret)?, None),
            (Scheme::Pedersen, 64) => {
                let (share, blinding) = secret.split_at(32);
                (scalar(share)?, Some(scalar(blinding)?))
            }
            _ => return Err(wrong_length),
        };
        Ok(Self { share, blinding })
    }

    /// How the share's dealing commits.
    pub const fn scheme(&self) -> Scheme {
        if self.blinding.is_some() { Scheme::Pedersen } else { Scheme::Feldman }
    }

    /// The public point that this share has: s·G, or s·G + r·H. In constant time.
    fn point(&self) -> RistrettoPoint {
        let point = RistrettoPoint::mul_base(&self.share);
        self.blinding.as_ref().map_or(point, |blinding| point + blinding_generator() * **blinding)
    }
}

fn scalar(bytes: &[u8]) -> Result<Zeroizing<Scalar>, Error> {
    let refused = Error::WitnessRefused("the share is not below the group order");
    let mut array = Zeroizing::new([0; 32]);
    let length = Error::WitnessRefused("a scalar has 32 bytes");
    bytes.try_into().map(|bytes: &[u8; 32]| *array = *bytes).map_err(|_| length)?;
    let mut scalar = Option::<Scalar>::from(Scalar::from_canonical_bytes(*array)).ok_or(refused)?;
    let held = Zeroizing::new(scalar);
    scalar.zeroize();
    Ok(held)
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Witness({:?} share, secret)", self.scheme())
    }
}

impl Statement for ShareCorrectness {
    type Instance = Instance;
    type Witness = Witness;

    fn holds(_: &TrustDomain, instance: &Instance, witness: &Witness) -> Result<(), Error> {
        if witness.scheme() != instance.commitments.scheme {
            return Err(Error::WitnessRefused("the share is of another commitment scheme than the dealing"));
        }
        if witness.point() == *instance.point {
            Ok(())
        } else {
            Err(Error::WitnessRefused("the share is not the one that the dealing fixes for this index"))
        }
    }
}
