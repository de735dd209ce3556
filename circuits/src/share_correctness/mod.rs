//! Statement `share_correctness`: *I know the share that this dealing fixes for me.*
//!
//! The instance is the dealing's commitments and the holder's index; the witness is the holder's share of the secret,
//! with its blinding where the commitments are Pedersen's. `spec.md` beside this file has the relation, its argument
//! and its limits.

mod batch;
pub mod feldman;
pub mod pedersen;
#[cfg(all(test, feature = "prove"))]
mod strategies;

use std::{
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use curve25519_dalek::{RistrettoPoint, Scalar, ristretto::CompressedRistretto, traits::IsIdentity};
use sha2::Sha512;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Digest, Error, Fingerprint, KeyAlgorithm, Kind, Statement, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    transcript::label,
};

pub use batch::Opened;

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
#[derive(Clone, Debug)]
pub struct Commitments {
    scheme: Scheme,
    points: Vec<RistrettoPoint>,
    encoded: Vec<[u8; 32]>,
    digest: Digest,
}

impl PartialEq for Commitments {
    fn eq(&self, other: &Self) -> bool {
        // Encodings are canonical, and points and digest follow from them.
        self.scheme == other.scheme && self.encoded == other.encoded
    }
}

impl Eq for Commitments {}

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
        let digest = Digest::of(label::SHARING, &encoding(scheme, &encoded));
        Ok(Self { scheme, points, encoded, digest })
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

    /// The points, C_0 to C_{t-1}.
    pub fn points(&self) -> &[RistrettoPoint] {
        &self.points
    }

    /// The encoded points.
    pub fn encoded(&self) -> &[[u8; 32]] {
        &self.encoded
    }

    /// Digest of scheme and points: the same for all shares of one dealing.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// S = Σ x^k·C_k, the public point of the share with index x. May be the identity.
    ///
    /// Horner's rule; x is small and public, so each step is [`evaluation_step`] additions, in variable time.
    pub fn evaluate(&self, index: u16) -> RistrettoPoint {
        evaluate(&self.points, index)
    }
}

/// Σ x^k·C_k of any points, lowest first; the identity for none. As [`Commitments::evaluate`].
pub fn evaluate(points: &[RistrettoPoint], index: u16) -> RistrettoPoint {
    if index == 0 {
        return points.first().copied().unwrap_or_default();
    }
    let digits = signed_digits(index);
    let mut points = points.iter().rev();
    let highest = points.next().copied().unwrap_or_default();
    points.fold(highest, |sum, point| times_small(&sum, &digits) + point)
}

/// What one coefficient costs [`evaluate`], in additions: at most 15 for a holder's index.
pub fn evaluation_step(index: u16) -> usize {
    let digits = signed_digits(index);
    1 + digits.len() + digits.iter().filter(|digit| **digit != 0).count()
}

/// The digits of x after the first, which is 1, the highest first: binary, or the non-adjacent form (Reitwiesner 1960) where
/// that takes fewer additions. None for zero, as for one.
fn signed_digits(x: u16) -> Vec<i8> {
    let binary: Vec<i8> = (0..u16::BITS - x.leading_zeros()).map(|bit| (x >> bit & 1) as i8).collect();
    let (mut non_adjacent, mut rest) = (Vec::new(), i32::from(x));
    while rest > 0 {
        let digit = if rest & 1 == 0 { 0 } else { 2 - (rest & 3) };
        non_adjacent.push(digit as i8);
        rest = (rest - digit) >> 1;
    }
    let cost = |digits: &Vec<i8>| digits.len() + digits.iter().filter(|digit| **digit != 0).count();
    let mut digits = if cost(&non_adjacent) < cost(&binary) { non_adjacent } else { binary };
    digits.pop();
    digits.reverse();
    digits
}

/// x·P by doubling, adding and subtracting, in variable time. The digits are those of [`signed_digits`].
fn times_small(point: &RistrettoPoint, digits: &[i8]) -> RistrettoPoint {
    let mut product = *point;
    for digit in digits {
        product += product;
        match digit {
            1 => product += point,
            -1 => product -= point,
            _ => {}
        }
    }
    product
}

fn encoding(scheme: Scheme, points: &[[u8; 32]]) -> Vec<u8> {
    let mut writer = Writer::default();
    // `Commitments::new` has bounded the number.
    writer.value(&scheme).u16(points.len() as u16);
    for point in points {
        writer.array(point);
    }
    writer.into_bytes()
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
///
/// Cheap to clone: instances of one dealing may share its commitments. The public share S = Σ x^k·C_k is computed when it is
/// first asked for, once for all clones; whether it is the identity is seen then.
#[derive(Clone, Debug)]
pub struct Instance {
    commitments: Arc<Commitments>,
    index: u16,
    point: Arc<OnceLock<RistrettoPoint>>,
}

impl PartialEq for Instance {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.commitments == other.commitments
    }
}

impl Eq for Instance {}

impl Instance {
    /// An instance, checked. Many of one dealing are made from one `Arc` of its commitments.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an index that is not 1 to [`MAX_HOLDERS`] (at 0 the share is the secret itself).
    pub fn new(commitments: impl Into<Arc<Commitments>>, index: u16) -> Result<Self, Error> {
        if !(1..=MAX_HOLDERS).contains(&index) {
            return Err(Error::malformed("share instance", "the index must be 1 to 1024"));
        }
        Ok(Self { commitments: commitments.into(), index, point: Arc::default() })
    }

    /// The dealing's commitments.
    pub const fn commitments(&self) -> &Arc<Commitments> {
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

    /// S = Σ x^k·C_k. May be the identity.
    pub fn point(&self) -> &RistrettoPoint {
        self.point.get_or_init(|| self.commitments.evaluate(self.index))
    }

    /// S, encoded.
    ///
    /// # Errors
    /// [`Error::Malformed`] where it is the identity: anyone knows that share, which is zero, and it has no public key.
    pub fn public_share(&self) -> Result<[u8; 32], Error> {
        if self.point().is_identity() {
            return Err(Error::malformed("share instance", "the public share is the identity"));
        }
        Ok(self.point().compress().to_bytes())
    }

    /// Names the sharing: equal for all shares of one dealing.
    pub fn sharing_digest(&self) -> Digest {
        self.commitments.digest()
    }

    /// Tag of the share: a labelled digest of its public point, so that one share in two HSMs shows.
    ///
    /// # Errors
    /// As [`Self::public_share`]. Whoever enrols, receives or records a share asks for its tag, or for its public point,
    /// before.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        Ok(Fingerprint { suite: Suite::PublicKey, bytes: Digest::of(label::SHARE, &self.public_share()?) })
    }

    /// The share's algorithm.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match self.commitments.scheme {
            Scheme::Feldman => KeyAlgorithm::Ristretto255Share,
            Scheme::Pedersen => KeyAlgorithm::Ristretto255BlindedShare,
        }
    }

    /// The kind that proves this instance.
    pub fn kind(&self) -> Kind {
        match self.commitments.scheme {
            Scheme::Feldman => Kind::ShareCorrectnessFeldman,
            Scheme::Pedersen => Kind::ShareCorrectnessPedersen,
        }
    }

    /// What a claim context carries: the labelled hash of the scheme's code, the sharing's digest and the index. It binds the
    /// whole encoding, and n shares of one dealing hash its commitments once.
    pub fn digest(&self) -> Digest {
        two_level_digest(self.commitments.scheme.code(), &self.commitments.digest, self.index.to_be_bytes())
    }
}

/// [`Instance::digest`]. No other statement's encoding begins with a scheme's code.
fn two_level_digest(code: u8, sharing: &Digest, index: [u8; 2]) -> Digest {
    let mut writer = Writer::default();
    writer.u8(code).value(sharing).array(&index);
    Digest::of(label::INSTANCE, &writer.into_bytes())
}

/// [`Instance::digest`] of encoded bytes, without reading the points; none for those that begin as no instance of this
/// statement does.
pub(crate) fn digest_of_encoding(instance: &[u8]) -> Option<Digest> {
    let code = *instance.first()?;
    if code != Scheme::Feldman.code() && code != Scheme::Pedersen.code() {
        return None;
    }
    let (commitments, index) = instance.split_last_chunk()?;
    Some(two_level_digest(code, &Digest::of(label::SHARING, commitments), *index))
}

impl Canonical for Instance {
    const WHAT: &'static str = "share-correctness instance";

    fn write(&self, writer: &mut Writer) {
        writer.value(&*self.commitments).u16(self.index);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Self::new(reader.value::<Commitments>()?, reader.u16()?)
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
        if witness.point() == *instance.point() {
            Ok(())
        } else {
            Err(Error::WitnessRefused("the share is not the one that the dealing fixes for this index"))
        }
    }
}
