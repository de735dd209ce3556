//! Signed notes: text with signatures under it (C2SP signed-note), and cosignatures with a time (C2SP tlog-cosignature).

use std::{fmt, str::FromStr};

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use keywitness_circuits::{Error, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{from_base64, malformed};

/// Longest note that is read, in bytes.
pub(super) const MAX_NOTE: usize = 64 * 1024;

/// Most signatures that a note may have.
const MAX_SIGNATURES: usize = 64;

/// Longest name of a key, in bytes.
const MAX_NAME: usize = 256;

const fn wrong(why: &'static str) -> Error {
    malformed("signed note", why)
}

/// What a key signs, and how.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// The note's text: what a log signs with.
    Ed25519,
    /// The note's text under a time: what a witness signs with, once it has seen that the log only grew.
    CosignatureV1,
}

impl Algorithm {
    /// The byte that begins a public key and enters its id.
    const fn identifier(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::CosignatureV1 => 0x04,
        }
    }

    fn message(self, text: &str, time: Option<Timestamp>) -> Vec<u8> {
        match (self, time) {
            (Self::CosignatureV1, Some(time)) => format!("cosignature/v1\ntime {}\n{text}", time.0).into_bytes(),
            _ => text.as_bytes().to_vec(),
        }
    }
}

/// Whether this can name a key: neither empty nor long, without white space, control characters or plus.
fn is_name(text: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    !text.is_empty() && text.len() <= MAX_NAME && !text.contains(forbidden)
}

/// A public key: `<name>+<id in hexadecimal>+<base64 of algorithm and key>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifierKey {
    name: String,
    algorithm: Algorithm,
    key: VerifyingKey,
}

impl VerifierKey {
    /// A key under a name.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what can name no key, and bytes that are no key.
    pub fn new(name: &str, algorithm: Algorithm, key: &[u8; 32]) -> Result<Self, Error> {
        if !is_name(name) {
            return Err(wrong("a key's name has 1 to 256 bytes, without white space, control characters or plus"));
        }
        let key = VerifyingKey::from_bytes(key).ok().filter(|key| !key.is_weak());
        Ok(Self { name: name.to_owned(), algorithm, key: key.ok_or(wrong("its key is no Ed25519 public key"))? })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it signs.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// What tells it from other keys of that name.
    pub fn id(&self) -> [u8; 4] {
        let digest = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', self.algorithm.identifier()])
            .chain_update(self.key.as_bytes())
            .finalize();
        let [a, b, c, d, ..] = <[u8; 32]>::from(digest);
        [a, b, c, d]
    }

    /// A signature by this key's secret half, made elsewhere, over the text of a note.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a witness's key, whose signatures have a time.
    pub fn signature(&self, bytes: &[u8; 64]) -> Result<NoteSignature, Error> {
        match self.algorithm {
            Algorithm::Ed25519 => Ok(NoteSignature { name: self.name.clone(), id: self.id(), bytes: bytes.to_vec() }),
            Algorithm::CosignatureV1 => Err(wrong("a cosignature has a time")),
        }
    }

    fn checks(&self, text: &str, signature: &NoteSignature) -> Option<Option<Timestamp>> {
        let (time, bytes) = match self.algorithm {
            Algorithm::Ed25519 => (None, signature.bytes.as_slice()),
            Algorithm::CosignatureV1 => {
                let (time, bytes) = signature.bytes.split_first_chunk()?;
                (Some(Timestamp(u64::from_be_bytes(*time))), bytes)
            }
        };
        let bytes = Signature::from_slice(bytes).ok()?;
        self.key.verify_strict(&self.algorithm.message(text, time), &bytes).ok()?;
        Some(time)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![self.algorithm.identifier()];
        key.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, HEXLOWER.encode(&self.id()), BASE64.encode(&key))
    }
}

impl FromStr for VerifierKey {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why| malformed("verifier key", why);
        let form = wrong("it is not <name>+<id>+<base64 of a key>");
        let (name, rest) = text.split_once('+').ok_or_else(|| form.clone())?;
        let (id, key) = rest.split_once('+').ok_or_else(|| form.clone())?;
        let key = from_base64(key).ok_or(form.clone())?;
        let (algorithm, key) = key.split_first().ok_or_else(|| form.clone())?;
        let algorithm = [Algorithm::Ed25519, Algorithm::CosignatureV1]
            .into_iter()
            .find(|one| one.identifier() == *algorithm)
            .ok_or(wrong("it is neither Ed25519 nor cosignature/v1"))?;
        let key = Self::new(name, algorithm, key.try_into().map_err(|_| form)?)?;
        if id == HEXLOWER.encode(&key.id()) { Ok(key) } else { Err(wrong("its id is not the key's")) }
    }
}

/// A key that signs notes under a name.
pub struct NoteKey {
    public: VerifierKey,
    secret: SigningKey,
}

impl NoteKey {
    /// A key from its secret.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what can name no key.
    pub fn new(name: &str, algorithm: Algorithm, secret: &[u8; 32]) -> Result<Self, Error> {
        let secret = SigningKey::from_bytes(secret);
        Ok(Self { public: VerifierKey::new(name, algorithm, secret.verifying_key().as_bytes())?, secret })
    }

    /// Its public half.
    pub const fn verifier(&self) -> &VerifierKey {
        &self.public
    }

    /// Signs a text; `time` enters a cosignature alone.
    pub fn sign(&self, text: &str, time: Timestamp) -> NoteSignature {
        let cosignature = self.public.algorithm == Algorithm::CosignatureV1;
        let time = cosignature.then_some(time);
        let mut bytes = time.map_or_else(Vec::new, |time| time.0.to_be_bytes().to_vec());
        bytes.extend_from_slice(&self.secret.sign(&self.public.algorithm.message(text, time)).to_bytes());
        NoteSignature { name: self.public.name.clone(), id: self.public.id(), bytes }
    }
}

impl fmt::Debug for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteKey({}, secret)", self.public)
    }
}

/// A signature under a note, of a key that may be known or not: `— <name> <base64 of id and signature>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteSignature {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

impl NoteSignature {
    /// Whether it says that it is this key's.
    pub fn is_by(&self, key: &VerifierKey) -> bool {
        self.name == key.name && self.id == key.id()
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "— {} {}", self.name, BASE64.encode(&[self.id.as_slice(), &self.bytes].concat()))
    }
}

impl FromStr for NoteSignature {
    type Err = Error;
    fn from_str(line: &str) -> Result<Self, Error> {
        let form = || wrong("a signature is not — <name> <base64>");
        let (name, encoded) = line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')).ok_or_else(form)?;
        let bytes = from_base64(encoded).ok_or_else(form)?;
        let (id, bytes) = bytes.split_first_chunk().ok_or_else(form)?;
        if !is_name(name) || bytes.is_empty() {
            return Err(form());
        }
        Ok(Self { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
    }
}

/// Text with signatures, none of which is checked yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// A note under which nobody has signed yet.
    ///
    /// # Errors
    /// [`Error::Malformed`] for text that does not end its last line, or has control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        if !text.ends_with('\n') || text.contains(|c: char| c.is_ascii_control() && c != '\n') {
            return Err(wrong("its text is not made of whole lines without control characters"));
        }
        if text.len() > MAX_NOTE {
            return Err(wrong("it is too long"));
        }
        Ok(Self { text, signatures: Vec::new() })
    }

    /// What is signed: whole lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, whosever they are.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Puts a signature under it, in place of an older one by the same key.
    pub fn add(&mut self, signature: NoteSignature) {
        let same = |one: &NoteSignature| one.name == signature.name && one.id == signature.id;
        match self.signatures.iter_mut().find(|one| same(one)) {
            Some(old) => *old = signature,
            None => self.signatures.push(signature),
        }
    }

    /// Whether `key` signed it, and when it says so: nothing where there is no signature of that key.
    ///
    /// # Errors
    /// [`Error::Malformed`] where there is one and it does not verify.
    pub fn signed_by(&self, key: &VerifierKey) -> Result<Option<Option<Timestamp>>, Error> {
        match self.signatures.iter().find(|signature| signature.is_by(key)) {
            None => Ok(None),
            Some(signature) => match key.checks(&self.text, signature) {
                Some(time) => Ok(Some(time)),
                None => Err(wrong("a signature does not verify")),
            },
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl FromStr for Note {
    type Err = Error;

    /// Reads a note with at least one signature, and no two of one key.
    fn from_str(note: &str) -> Result<Self, Error> {
        if note.len() > MAX_NOTE {
            return Err(wrong("it is too long"));
        }
        let end = note.rfind("\n\n").ok_or(wrong("no empty line ends its text"))?;
        let (text, signatures) = note.split_at_checked(end + 1).ok_or(wrong("no empty line ends its text"))?;
        let mut read = Self::new(text)?;
        let lines = signatures.strip_prefix('\n').and_then(|lines| lines.strip_suffix('\n'));
        for line in lines.ok_or(wrong("it does not end with a signature's line"))?.split('\n') {
            let signature: NoteSignature = line.parse()?;
            if read.signatures.len() == MAX_SIGNATURES {
                return Err(wrong("it has too many signatures"));
            }
            read.add(signature);
        }
        if read.to_string() == note { Ok(read) } else { Err(wrong("a key signed it twice")) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    /// The example of the Go package golang.org/x/mod/sumdb/note, where the format comes from.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_example_of_the_original_verifies() {
        let (key, note) = (KEY.parse::<VerifierKey>().unwrap(), NOTE.parse::<Note>().unwrap());
        assert_eq!((key.to_string().as_str(), note.to_string().as_str()), (KEY, NOTE));
        assert_eq!(note.signed_by(&key).unwrap(), Some(None));
        let tampered: Note = NOTE.replace("don't", "do").parse().unwrap();
        tampered.signed_by(&key).unwrap_err();
        let stranger = NoteKey::new("PeterNeumann", Algorithm::Ed25519, &[7; 32]).unwrap();
        assert_eq!(note.signed_by(stranger.verifier()).unwrap(), None);
    }

    #[test]
    fn a_cosignature_is_of_its_time_and_of_no_other_algorithm() {
        let witness = NoteKey::new("w.example/1", Algorithm::CosignatureV1, &[3; 32]).unwrap();
        let mut note = Note::new("o\n1\n").unwrap();
        note.add(witness.sign(note.text(), Timestamp(1_700_000_000)));
        let note: Note = note.to_string().parse().unwrap();
        assert_eq!(note.signed_by(witness.verifier()).unwrap(), Some(Some(Timestamp(1_700_000_000))));
        let mut later = note.clone();
        later.signatures.first_mut().unwrap().bytes[7] ^= 1;
        later.signed_by(witness.verifier()).unwrap_err();
        // The same secret under the log's algorithm has another id.
        let log = NoteKey::new("w.example/1", Algorithm::Ed25519, &[3; 32]).unwrap();
        assert_eq!(note.signed_by(log.verifier()).unwrap(), None);
        assert_ne!(log.verifier().id(), witness.verifier().id());
        let key: VerifierKey = witness.verifier().to_string().parse().unwrap();
        assert_eq!(&key, witness.verifier());
        // A newer cosignature takes the older one's place.
        let mut renewed = note;
        renewed.add(witness.sign(renewed.text(), Timestamp(1_700_000_001)));
        assert_eq!(renewed.signatures().len(), 1);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for wrong in [
            "",
            "\n\n",
            "a\n",
            "a\n\n",
            "\u{2014} a AAAAAAA=\n",
            "a\n\n\u{2014} a AAAAAAA=",
            "a\n\n- a AAAAAAA=\n",
            "a\n\n\u{2014} a+b AAAAAAA=\n",
            "a\n\n\u{2014}  AAAAAAA=\n",
            "a\n\n\u{2014} a AAAA\n",
            "a\r\n\n\u{2014} a AAAAAAA=\n",
            "a\n\n\u{2014} a AAAAAAA=\n\n",
            "a\n\n\u{2014} a AAAAAAB=\n",
            "a\n\n\u{2014} a AAAAAAA=\n\u{2014} a AAAAAAA=\n",
        ] {
            assert!(wrong.parse::<Note>().is_err(), "{wrong:?}");
        }
        "a\n\n\u{2014} a AAAAAAA=\n".parse::<Note>().unwrap();
        let many: String = (0..=MAX_SIGNATURES).map(|number| format!("— n{number} AAAAAAA=\n")).collect();
        format!("a\n\n{many}").parse::<Note>().unwrap_err();
        for wrong in ["", "a+b", &KEY.replace("c74f", "c74e"), &KEY.replace("+AR", "+BR"), &KEY[1..], "+c74f20a3+AA=="]
        {
            assert!(wrong.parse::<VerifierKey>().is_err(), "{wrong}");
        }
        assert!(VerifierKey::new("weak", Algorithm::Ed25519, &[0; 32]).is_err());
    }

    #[test]
    fn a_key_shows_no_secret() {
        let key = NoteKey::new("n", Algorithm::Ed25519, &[5; 32]).unwrap();
        assert!(!format!("{key:?}").contains("5, 5") && format!("{key:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn reading_is_total(text in "[a\n\u{2014} A=+]{0,40}") {
            if let Ok(note) = text.parse::<Note>() {
                prop_assert_eq!(note.to_string(), text);
            }
        }
    }
}
