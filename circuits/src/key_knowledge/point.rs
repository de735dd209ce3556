//! A public key as the point that it encodes, decoded once for every proof of it.

use curve25519_dalek::{EdwardsPoint, RistrettoPoint};

use super::{
    eddsa,
    schnorr::{P256, Ristretto255, SchnorrGroup, Secp256k1},
};
use crate::KeyAlgorithm;

/// A point of an asymmetric algorithm's group that may be a public key: neither the identity nor of small order.
///
/// Boxed, because instances without one are small.
#[derive(Clone, PartialEq, Debug)]
pub struct PublicPoint(Box<Point>);

impl Eq for PublicPoint {}

#[derive(Clone, PartialEq, Debug)]
enum Point {
    Edwards(EdwardsPoint),
    Ristretto(RistrettoPoint),
    P256(p256::ProjectivePoint),
    Secp256k1(k256::ProjectivePoint),
}

impl PublicPoint {
    /// Decodes a public key; none for anything but the canonical encoding of a usable point of that algorithm.
    pub(super) fn decode(algorithm: KeyAlgorithm, bytes: &[u8]) -> Option<Self> {
        let point = match algorithm {
            KeyAlgorithm::Ed25519 => eddsa::decode_public_key(bytes).map(Point::Edwards),
            KeyAlgorithm::Ristretto255 => Ristretto255::point_from_bytes(bytes).map(Point::Ristretto),
            KeyAlgorithm::P256 => P256::point_from_bytes(bytes).map(Point::P256),
            KeyAlgorithm::Secp256k1 => Secp256k1::point_from_bytes(bytes).map(Point::Secp256k1),
            KeyAlgorithm::Aes128
            | KeyAlgorithm::Aes192
            | KeyAlgorithm::Aes256
            | KeyAlgorithm::HmacSha256
            | KeyAlgorithm::Aes128Cmac
            | KeyAlgorithm::Aes192Cmac
            | KeyAlgorithm::Aes256Cmac
            | KeyAlgorithm::Ristretto255Share
            | KeyAlgorithm::Ristretto255BlindedShare => None,
        };
        point.map(|point| Self(Box::new(point)))
    }

    pub(super) fn edwards(&self) -> Option<&EdwardsPoint> {
        if let Point::Edwards(point) = &*self.0 { Some(point) } else { None }
    }

    pub(super) fn ristretto(&self) -> Option<&RistrettoPoint> {
        if let Point::Ristretto(point) = &*self.0 { Some(point) } else { None }
    }

    pub(crate) fn p256(&self) -> Option<&p256::ProjectivePoint> {
        if let Point::P256(point) = &*self.0 { Some(point) } else { None }
    }

    pub(crate) fn secp256k1(&self) -> Option<&k256::ProjectivePoint> {
        if let Point::Secp256k1(point) = &*self.0 { Some(point) } else { None }
    }
}
