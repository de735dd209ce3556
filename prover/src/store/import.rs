//! Key material from outside: which forms are read, and which keys are refused.

use data_encoding::HEXLOWER_PERMISSIVE;
use ed25519_dalek::SigningKey;
use keywitness_circuits::{KeyAlgorithm, key_knowledge::Witness};
use p256::pkcs8::{ObjectIdentifier, PrivateKeyInfo, SecretDocument};
use zeroize::Zeroizing;

use super::StoreError;

/// id-Ed25519 (RFC 8410).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Fewest bytes of a secret: 128 bits.
const MIN_SECRET: usize = 16;

/// Reads key material of `algorithm`: PKCS#8 in PEM (`BEGIN PRIVATE KEY`; Ed25519, P-256, secp256k1), hexadecimal text,
/// or exactly the secret's bytes (a seed, a scalar, a symmetric key). Refuses a key that could be searched for.
///
/// # Errors
/// [`StoreError::Unreadable`], [`StoreError::WeakKey`]; [`StoreError::ShareIsDealt`] for a share, which is nothing
/// without its dealing.
pub fn read(algorithm: KeyAlgorithm, material: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    if algorithm.is_share() {
        return Err(StoreError::ShareIsDealt(algorithm));
    }
    let text = material.trim_ascii();
    let secret = if text.starts_with(b"-----BEGIN") {
        from_pem(algorithm, text)?
    } else if is_hexadecimal(text) {
        from_hexadecimal(text)?
    } else {
        Zeroizing::new(material.to_vec())
    };
    check(algorithm, &secret)?;
    Ok(secret)
}

/// Random bytes are hexadecimal digits throughout with a probability below 2^-56, and then their length is wrong.
fn is_hexadecimal(text: &[u8]) -> bool {
    text.len() >= 2 && text.iter().all(u8::is_ascii_hexdigit)
}

fn from_hexadecimal(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    if !text.len().is_multiple_of(2) {
        return Err(StoreError::Unreadable("hexadecimal text has an even number of digits"));
    }
    let mut secret = Zeroizing::new(vec![0; text.len() / 2]);
    match HEXLOWER_PERMISSIVE.decode_mut(text, &mut secret) {
        Ok(_) => Ok(secret),
        Err(_) => Err(StoreError::Unreadable("it is not hexadecimal text")),
    }
}

fn from_pem(algorithm: KeyAlgorithm, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let text = std::str::from_utf8(text).map_err(|_| StoreError::Unreadable("PEM is text"))?;
    let (label, document) =
        SecretDocument::from_pem(text).map_err(|_| StoreError::Unreadable("it is not well-formed PEM"))?;
    if label != "PRIVATE KEY" {
        return Err(StoreError::Unreadable(
            "only unencrypted PKCS#8 is read (BEGIN PRIVATE KEY); convert it: openssl pkcs8 -topk8 -nocrypt",
        ));
    }
    let info = PrivateKeyInfo::try_from(document.as_bytes())
        .map_err(|_| StoreError::Unreadable("it is not a PKCS#8 private key"))?;
    let other = StoreError::Unreadable("the PKCS#8 key is of another algorithm");
    match algorithm {
        KeyAlgorithm::Ed25519 if info.algorithm.oid == ED25519 => ed25519_seed(&info),
        KeyAlgorithm::P256 => {
            let key = p256::SecretKey::try_from(info).map_err(|_| other)?;
            Ok(Zeroizing::new(Zeroizing::new(key.to_bytes()).to_vec()))
        }
        KeyAlgorithm::Secp256k1 => {
            let key = k256::SecretKey::try_from(info).map_err(|_| other)?;
            Ok(Zeroizing::new(Zeroizing::new(key.to_bytes()).to_vec()))
        }
        KeyAlgorithm::Ed25519 => Err(other),
        _ => Err(StoreError::Unreadable("PKCS#8 is read for ed25519, p256 and secp256k1 keys")),
    }
}

/// RFC 8410, section 7: the private key is an OCTET STRING of 32 bytes inside the OCTET STRING. A public key beside it
/// must be its own.
fn ed25519_seed(info: &PrivateKeyInfo<'_>) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let malformed = StoreError::Unreadable("it is not an Ed25519 private key (RFC 8410)");
    let seed = match info.private_key.split_first_chunk() {
        Some(([0x04, 0x20], seed)) => seed,
        _ => return Err(malformed),
    };
    let Ok(array) = seed.try_into() else { return Err(malformed) };
    let public_key = SigningKey::from_bytes(array).verifying_key();
    match info.public_key {
        Some(named) if named != public_key.as_bytes() => {
            Err(StoreError::Unreadable("the public key inside does not belong to the private key"))
        }
        _ => Ok(Zeroizing::new(seed.to_vec())),
    }
}

/// Refuses what is no secret of `algorithm`, or one that holds clearly fewer than 128 bits.
fn check(algorithm: KeyAlgorithm, secret: &[u8]) -> Result<(), StoreError> {
    if secret.len() < MIN_SECRET {
        return Err(StoreError::WeakKey("it has fewer than 128 bits"));
    }
    if secret.len() != algorithm.secret_len() {
        return Err(StoreError::Unreadable("it has the wrong length for its algorithm"));
    }
    if secret.iter().all(|byte| secret.first() == Some(byte)) {
        return Err(StoreError::WeakKey("one byte repeats throughout"));
    }
    let leading = secret.iter().take_while(|byte| **byte == 0).count();
    let trailing = secret.iter().rev().take_while(|byte| **byte == 0).count();
    if secret.len() - leading.max(trailing) < MIN_SECRET {
        return Err(StoreError::WeakKey("most of it is zero"));
    }
    if algorithm.symmetric_bits().is_some() {
        return Ok(());
    }
    match Witness::new(algorithm, secret) {
        Ok(_) => Ok(()),
        Err(_) => Err(StoreError::Unreadable("the scalar is zero or not below the group order")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use data_encoding::HEXLOWER;
    use p256::pkcs8::{EncodePrivateKey, LineEnding};

    use super::*;

    const SECRET: [u8; 32] = *b"\x01an uneven secret of 32 bytes:-)";

    #[test]
    fn hexadecimal_text_and_raw_bytes() {
        for algorithm in KeyAlgorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_share()) {
            let mut secret = SECRET[..algorithm.secret_len()].to_vec();
            if algorithm == KeyAlgorithm::Ristretto255 {
                secret[31] = 1;
            }
            let text = HEXLOWER.encode(&secret);
            assert_eq!(*read(algorithm, &secret).unwrap(), secret, "{algorithm}");
            assert_eq!(*read(algorithm, format!("  {text}\n").as_bytes()).unwrap(), secret, "{algorithm}");
            assert_eq!(*read(algorithm, text.to_uppercase().as_bytes()).unwrap(), secret, "{algorithm}");
            assert!(read(algorithm, &text.as_bytes()[1..]).is_err(), "{algorithm}");
        }
    }

    #[test]
    fn a_share_is_no_key() {
        for algorithm in KeyAlgorithm::ALL.into_iter().filter(|algorithm| algorithm.is_share()) {
            let mut secret = [SECRET, SECRET].concat()[..algorithm.secret_len()].to_vec();
            secret.iter_mut().skip(31).step_by(32).for_each(|top| *top = 1);
            assert!(matches!(read(algorithm, &secret), Err(StoreError::ShareIsDealt(_))), "{algorithm}");
        }
    }

    #[test]
    fn raw_bytes_that_look_like_white_space_at_an_end_stay() {
        let mut secret = SECRET;
        secret[31] = b'\n';
        assert_eq!(*read(KeyAlgorithm::Aes256, &secret).unwrap(), secret);
    }

    #[test]
    fn half_a_key_in_hexadecimal_is_not_taken_for_a_raw_key() {
        // 32 digits have the length of an AES-256 key and the entropy of half of one.
        let text = HEXLOWER.encode(&SECRET[..16]);
        assert!(matches!(read(KeyAlgorithm::Aes256, text.as_bytes()), Err(StoreError::Unreadable(_))));
    }

    #[test]
    fn pkcs8_of_each_curve() {
        let p256 = p256::SecretKey::from_slice(&SECRET).unwrap().to_pkcs8_pem(LineEnding::LF).unwrap();
        let k256 = k256::SecretKey::from_slice(&SECRET).unwrap().to_pkcs8_pem(LineEnding::LF).unwrap();
        // RFC 8410, section 10.3.
        let (ed25519, seed) = (
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
             -----END PRIVATE KEY-----\n",
            "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842",
        );
        assert_eq!(*read(KeyAlgorithm::P256, p256.as_bytes()).unwrap(), SECRET);
        assert_eq!(*read(KeyAlgorithm::Secp256k1, k256.as_bytes()).unwrap(), SECRET);
        assert_eq!(HEXLOWER.encode(&read(KeyAlgorithm::Ed25519, ed25519.as_bytes()).unwrap()), seed);
        for (algorithm, pem) in [
            (KeyAlgorithm::Secp256k1, p256.as_str()),
            (KeyAlgorithm::P256, k256.as_str()),
            (KeyAlgorithm::P256, ed25519),
            (KeyAlgorithm::Ed25519, p256.as_str()),
            (KeyAlgorithm::Aes256, p256.as_str()),
            (KeyAlgorithm::P256, &p256.replace("PRIVATE KEY", "EC PRIVATE KEY")),
            (KeyAlgorithm::P256, &p256[..60]),
        ] {
            assert!(matches!(read(algorithm, pem.as_bytes()), Err(StoreError::Unreadable(_))), "{algorithm}");
        }
    }

    #[test]
    fn weak_keys_are_refused() {
        let weak = |algorithm, secret: &[u8]| matches!(read(algorithm, secret), Err(StoreError::WeakKey(_)));
        assert!(weak(KeyAlgorithm::Aes128, &SECRET[..15]));
        assert!(weak(KeyAlgorithm::Aes128, &[0; 16]));
        assert!(weak(KeyAlgorithm::Aes256, &[0x5a; 32]));
        assert!(weak(KeyAlgorithm::Ed25519, &[0; 32]));
        let mut short = [0; 32];
        short[20..].copy_from_slice(&SECRET[..12]);
        assert!(weak(KeyAlgorithm::P256, &short));
        short.reverse();
        assert!(weak(KeyAlgorithm::HmacSha256, &short));
        assert!(matches!(read(KeyAlgorithm::P256, &[0xff; 32]), Err(StoreError::WeakKey(_))));
        let mut large = [0xff; 32];
        large[31] = 0xfe;
        assert!(matches!(read(KeyAlgorithm::P256, &large), Err(StoreError::Unreadable(_))));
    }
}
