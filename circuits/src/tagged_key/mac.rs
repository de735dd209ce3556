//! AES-CMAC in software: RFC 4493, and NIST SP 800-38B for the longer keys.

use cmac::{Cmac, Mac, digest::KeyInit};
use zeroize::Zeroizing;

use super::TAG_LEN;
use crate::{Error, KeyAlgorithm};

/// The CMAC of `message`.
///
/// # Errors
/// [`Error::WitnessRefused`] for an algorithm that is no CMAC, or a key of the wrong length.
pub fn cmac(algorithm: KeyAlgorithm, key: &[u8], message: &[u8]) -> Result<Zeroizing<[u8; TAG_LEN]>, Error> {
    match algorithm {
        KeyAlgorithm::Aes128Cmac => tag::<Cmac<aes::Aes128>>(key, message),
        KeyAlgorithm::Aes192Cmac => tag::<Cmac<aes::Aes192>>(key, message),
        KeyAlgorithm::Aes256Cmac => tag::<Cmac<aes::Aes256>>(key, message),
        _ => Err(Error::WitnessRefused("keys of that algorithm compute no CMAC")),
    }
}

fn tag<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Result<Zeroizing<[u8; TAG_LEN]>, Error> {
    let mut mac = <M as KeyInit>::new_from_slice(key)
        .map_err(|_| Error::WitnessRefused("the secret has the wrong length for its algorithm"))?;
    mac.update(message);
    let mut tag = Zeroizing::new([0; TAG_LEN]);
    for (byte, computed) in tag.iter_mut().zip(mac.finalize().into_bytes()) {
        *byte = computed;
    }
    Ok(tag)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn published_vectors() {
        // RFC 4493, section 4, and NIST SP 800-38B, appendix D: messages of 0, 16 and 40 bytes.
        let message = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411";
        for (algorithm, key, tags) in [
            (
                KeyAlgorithm::Aes128Cmac,
                "2b7e151628aed2a6abf7158809cf4f3c",
                [
                    "bb1d6929e95937287fa37d129b756746",
                    "070a16b46b4d4144f79bdd9dd04a287c",
                    "dfa66747de9ae63030ca32611497c827",
                ],
            ),
            (
                KeyAlgorithm::Aes192Cmac,
                "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
                [
                    "d17ddf46adaacde531cac483de7a9367",
                    "9e99a7bf31e710900662f65e617c5184",
                    "8a1de5be2eb31aad089a82e6ee908b0e",
                ],
            ),
            (
                KeyAlgorithm::Aes256Cmac,
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                [
                    "028962f61b7bf89efc6b551f4667d983",
                    "28a7023f452e8f82bd4bf28d8c37c35c",
                    "aaf3d8f1de5640c232f5b169b9c911e6",
                ],
            ),
        ] {
            let (key, message) =
                (HEXLOWER.decode(key.as_bytes()).unwrap(), HEXLOWER.decode(message.as_bytes()).unwrap());
            for (length, expected) in [0, 16, 40].into_iter().zip(tags) {
                let tag = cmac(algorithm, &key, &message[..length]).unwrap();
                assert_eq!(HEXLOWER.encode(&*tag), expected, "{algorithm}, {length} bytes");
            }
            assert!(cmac(algorithm, &key[1..], b"").is_err());
        }
        assert!(cmac(KeyAlgorithm::Aes128, &[7; 16], b"").is_err(), "an AES key computes no tags");
    }
}
