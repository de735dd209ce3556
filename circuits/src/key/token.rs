//! What a PKCS#11 token says about a key, and how attributes are kept and told.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};

use super::{KeyAlgorithm, KeyAttributes, KeyOrigin};
use crate::{
    Error,
    codec::{Canonical, Reader, Writer},
};

/// Most mechanisms that a key's list may name.
const MAX_MECHANISMS: usize = 64;

/// What a PKCS#11 token says about a key beside CKA_LOCAL and CKA_EXTRACTABLE. What it does not say is the worse answer.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct TokenAttributes {
    /// Whether the value is never shown in plain (CKA_SENSITIVE).
    pub sensitive: bool,
    /// Whether that was always so (CKA_ALWAYS_SENSITIVE).
    pub always_sensitive: bool,
    /// Whether the key was never extractable (CKA_NEVER_EXTRACTABLE).
    pub never_extractable: bool,
    /// The mechanisms that it is used with (CKA_ALLOWED_MECHANISMS); empty where the token keeps no such list.
    pub mechanisms: Mechanisms,
}

/// Numbers of PKCS#11 mechanisms (CKM_…), each once and in ascending order: at most 64.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct Mechanisms(Vec<u32>);

impl Mechanisms {
    /// The list of these, in any order.
    ///
    /// # Errors
    /// [`Error::Malformed`] for more than 64.
    pub fn new(numbers: impl IntoIterator<Item = u32>) -> Result<Self, Error> {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.try_into()
    }

    /// The numbers, ascending.
    pub fn numbers(&self) -> &[u32] {
        &self.0
    }
}

impl TryFrom<Vec<u32>> for Mechanisms {
    type Error = Error;
    fn try_from(numbers: Vec<u32>) -> Result<Self, Error> {
        let malformed = |why| Err(Error::malformed("list of mechanisms", why));
        if numbers.len() > MAX_MECHANISMS {
            return malformed("it names more than 64");
        }
        if !numbers.is_sorted_by(|one, next| one < next) {
            return malformed("they are not in ascending order, each once");
        }
        Ok(Self(numbers))
    }
}

impl From<Mechanisms> for Vec<u32> {
    fn from(Mechanisms(numbers): Mechanisms) -> Self {
        numbers
    }
}

impl Canonical for TokenAttributes {
    const WHAT: &'static str = "token attributes";
    fn write(&self, writer: &mut Writer) {
        for flag in [self.sensitive, self.always_sensitive, self.never_extractable] {
            writer.u8(flag.into());
        }
        writer.u16(self.mechanisms.0.len() as u16);
        for number in &self.mechanisms.0 {
            writer.u32(*number);
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut flag = || match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(reader.error("a flag is neither 0 nor 1")),
        };
        let (sensitive, always_sensitive, never_extractable) = (flag()?, flag()?, flag()?);
        let count = usize::from(reader.u16()?);
        if count > MAX_MECHANISMS {
            return Err(reader.error("it names more than 64 mechanisms"));
        }
        let numbers = (0..count).map(|_| reader.u32()).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { sensitive, always_sensitive, never_extractable, mechanisms: numbers.try_into()? })
    }
}

/// How attributes stand in JSON.
#[derive(Serialize, Deserialize)]
struct Told {
    algorithm: KeyAlgorithm,
    origin: KeyOrigin,
    extractable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<TokenAttributes>,
}

impl Serialize for KeyAttributes {
    /// Where nobody reads it, the last flag says whether a token's attributes follow: of a key in no token the bytes are those
    /// of a record of algorithm, origin and one flag, as stores and logs have them from before there were others.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { algorithm, origin, extractable, token } = self;
        if serializer.is_human_readable() {
            let (extractable, token) = (*extractable, token.clone());
            return Told { algorithm: *algorithm, origin: *origin, extractable, token }.serialize(serializer);
        }
        match token {
            None => (algorithm, origin, self.flags()).serialize(serializer),
            Some(token) => (algorithm, origin, self.flags(), token).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for KeyAttributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let Told { algorithm, origin, extractable, token } = Told::deserialize(deserializer)?;
            return Ok(Self { algorithm, origin, extractable, token });
        }
        deserializer.deserialize_tuple(4, Kept)
    }
}

struct Kept;

impl<'de> Visitor<'de> for Kept {
    type Value = KeyAttributes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("key attributes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<KeyAttributes, A::Error> {
        fn part<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(parts: &mut A, at: usize) -> Result<T, A::Error> {
            parts.next_element()?.ok_or_else(|| de::Error::invalid_length(at, &Kept))
        }
        let (algorithm, origin, flags): (_, _, u8) = (part(&mut parts, 0)?, part(&mut parts, 1)?, part(&mut parts, 2)?);
        let token = match flags {
            0 | 1 => None,
            2 | 3 => Some(part(&mut parts, 3)?),
            _ => return Err(de::Error::custom("its flags are none that there are")),
        };
        Ok(KeyAttributes { algorithm, origin, extractable: flags & 1 == 1, token })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Kind;

    fn in_token(algorithm: KeyAlgorithm) -> KeyAttributes {
        let mechanisms = Mechanisms::new([0x1041, 0x8000_0001, 0x1041]).unwrap();
        let token = TokenAttributes { sensitive: true, always_sensitive: false, never_extractable: true, mechanisms };
        KeyAttributes { token: Some(token), ..KeyAttributes::new(algorithm, KeyOrigin::Generated, false) }
    }

    #[test]
    fn every_attribute_changes_the_digest() {
        let whole = in_token(KeyAlgorithm::P256);
        let token = whole.token.clone().unwrap();
        let with = |token: TokenAttributes| KeyAttributes { token: Some(token), ..whole.clone() };
        let others = [
            KeyAttributes { extractable: true, ..whole.clone() },
            KeyAttributes { origin: KeyOrigin::Imported, ..whole.clone() },
            KeyAttributes { token: None, ..whole.clone() },
            with(TokenAttributes { sensitive: false, ..token.clone() }),
            with(TokenAttributes { always_sensitive: true, ..token.clone() }),
            with(TokenAttributes { never_extractable: false, ..token.clone() }),
            with(TokenAttributes { mechanisms: Mechanisms::default(), ..token.clone() }),
            with(TokenAttributes { mechanisms: Mechanisms::new([0x1041]).unwrap(), ..token }),
        ];
        for other in &others {
            assert_ne!(other.digest(), whole.digest(), "{other:?}");
            assert_eq!(KeyAttributes::from_bytes(&other.to_bytes()).as_ref(), Ok(other));
        }
        assert_eq!(KeyAttributes::from_bytes(&whole.to_bytes()), Ok(whole));
    }

    #[test]
    fn attributes_outside_a_token_are_encoded_as_they_always_were() {
        let plain = KeyAttributes::new(KeyAlgorithm::Aes256, KeyOrigin::Imported, true);
        assert_eq!(plain.to_bytes(), [18, 1, 1]);
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            r#"{"algorithm":"aes256","origin":"imported","extractable":true}"#
        );
    }

    #[test]
    fn lists_that_are_not_canonical_are_refused() {
        let good = in_token(KeyAlgorithm::Ed25519).to_bytes();
        let (head, list) = good.split_at(good.len() - 8);
        let (first, second) = list.split_at(4);
        for (first, second) in [(second, first), (first, first)] {
            KeyAttributes::from_bytes(&[head, first, second].concat()).unwrap_err();
        }
        let json = |list: &str| {
            let text = format!(
                r#"{{"algorithm":"p256","origin":"generated","extractable":false,"token":{{"sensitive":true,"always_sensitive":true,"never_extractable":true,"mechanisms":[{list}]}}}}"#
            );
            serde_json::from_str::<KeyAttributes>(&text)
        };
        assert!(json("1,2").is_ok() && json("").is_ok());
        for list in ["2,1", "1,1", &"1,".repeat(65), "-1", "4294967296"] {
            assert!(json(list.trim_end_matches(',')).is_err(), "{list}");
        }
        Mechanisms::new(0..65).unwrap_err();
        // A token derives no keys.
        let mut derived = in_token(KeyAlgorithm::Aes256).to_bytes();
        if let Some(origin) = derived.get_mut(1) {
            *origin = 2;
        }
        KeyAttributes::from_bytes(&derived).unwrap_err();
    }

    #[test]
    fn a_token_proves_possession_of_an_ecdsa_key() {
        assert_eq!(in_token(KeyAlgorithm::P256).kinds(&[]), [Kind::KeyPossessionP256]);
        assert_eq!(in_token(KeyAlgorithm::Secp256k1).kinds(&[]), [Kind::KeyPossessionSecp256k1]);
        assert_eq!(in_token(KeyAlgorithm::Ed25519).kinds(&[]), [Kind::KeyKnowledgeEd25519]);
        assert_eq!(in_token(KeyAlgorithm::Aes128Cmac).kinds(&[]), [Kind::TaggedKeyHalo2]);
        let software = KeyAttributes::new(KeyAlgorithm::P256, KeyOrigin::Generated, true);
        assert_eq!(software.kinds(&[]), [Kind::KeyKnowledgeP256]);
    }
}
