//! `pkcs11:` URIs (RFC 7512): which token, which of its keys, and where the PIN comes from.
//!
//! A PIN in a URI (`pin-value`) would be an argument, which other users of the machine can read: it is refused. So is every
//! attribute that this build does not know, since leaving one out would name more than was meant.

use std::{path::PathBuf, str::FromStr};

use super::{KeyChoice, TokenChoice, TokenError};

/// What a URI begins with.
pub const SCHEME: &str = "pkcs11:";

/// Longest URI, in bytes.
const MAX_URI: usize = 4096;

/// Where a PIN comes from. Never from an argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PinSource {
    /// A file that nobody but its owner can read: `file:/path`, or a path.
    File(PathBuf),
    /// A variable of the environment: `env:NAME`.
    Environment(String),
    /// Whoever sits at the terminal: `prompt:`.
    Prompt,
}

impl FromStr for PinSource {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let wrong = |why: &str| Err(TokenError::Uri(format!("pin-source: {why}")));
        if let Some(name) = text.strip_prefix("env:") {
            let usable = !name.is_empty() && !name.contains(['=', '\0']);
            return if usable { Ok(Self::Environment(name.to_owned())) } else { wrong("name the variable: env:NAME") };
        }
        if text == "prompt:" || text == "prompt" {
            return Ok(Self::Prompt);
        }
        if text.starts_with('|') {
            return wrong("no command is run for a PIN; give file:/path, env:NAME or prompt:");
        }
        // RFC 8089: file:///path, file:/path.
        let path = text.strip_prefix("file://").or_else(|| text.strip_prefix("file:")).unwrap_or(text);
        if !path.starts_with('/') || path.contains('\0') {
            return wrong("give file:/path with the whole path, env:NAME or prompt:");
        }
        Ok(Self::File(PathBuf::from(path)))
    }
}

/// What a URI names. Everything may be left out.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct TokenUri {
    /// Which token: `token`, `serial`, `manufacturer`, `model`, `slot-id`.
    pub token: TokenChoice,
    /// Which of its keys: `object` (CKA_LABEL), `id` (CKA_ID).
    pub keys: KeyChoice,
    /// The library: `module-path`.
    pub module: Option<PathBuf>,
    /// The PIN: `pin-source`.
    pub pin: Option<PinSource>,
}

impl FromStr for TokenUri {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let wrong = |why: String| TokenError::Uri(format!("this is no PKCS#11 URI: {why}"));
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong(format!("it does not begin with {SCHEME}")))?;
        if text.len() > MAX_URI {
            return Err(wrong(format!("it is longer than {MAX_URI} bytes")));
        }
        if rest.contains('#') {
            return Err(wrong("it has a fragment".to_owned()));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = path.split(';').map(|part| (part, false));
        let query = query.split('&').map(|part| (part, true));
        let mut uri = Self::default();
        let mut seen = Vec::new();
        for (part, in_query) in path.chain(query).filter(|(part, _)| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| wrong("a part of it is no name=value".to_owned()))?;
            if seen.contains(&name) {
                return Err(wrong(format!("it names {name} twice")));
            }
            seen.push(name);
            let value =
                decoded(value).ok_or_else(|| wrong(format!("the value of {name} is not rightly percent-encoded")))?;
            uri.set((name, in_query), value)?;
        }
        Ok(uri)
    }
}

impl TokenUri {
    fn set(&mut self, place: (&str, bool), value: Vec<u8>) -> Result<(), TokenError> {
        let (name, _) = place;
        let wrong = |why: &str| TokenError::Uri(format!("{name} in a PKCS#11 URI: {why}"));
        if place == ("id", false) {
            let usable = (1..=64).contains(&value.len());
            self.keys.id = Some(if usable { value } else { return Err(wrong("it has 1 to 64 bytes")) });
            return Ok(());
        }
        let text = String::from_utf8(value).map_err(|_| wrong("it is not text"))?;
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        match place {
            ("token", false) => self.token.label = Some(text),
            ("serial", false) => self.token.serial = Some(text),
            ("manufacturer", false) => self.token.manufacturer = Some(text),
            ("model", false) => self.token.model = Some(text),
            ("slot-id", false) => {
                // One spelling: RFC 7512 has decimal digits.
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let number = if digits { text.parse().ok() } else { None };
                self.token.slot = Some(number.ok_or_else(|| wrong("it is no number"))?);
            }
            ("object", false) => self.keys.label = Some(text),
            ("type", false) if matches!(text.as_str(), "private" | "secret-key") => {}
            ("type", false) => return Err(wrong("only private and secret keys are attested")),
            ("module-path", true) if text.starts_with('/') => self.module = Some(PathBuf::from(text)),
            ("module-path", true) => return Err(wrong("give the whole path of the library")),
            ("pin-source", true) => self.pin = Some(text.parse()?),
            ("pin-value", _) => {
                return Err(wrong(
                    "a PIN is no argument, since others on this machine can read those; give pin-source=file:/path, \
                     pin-source=env:NAME or pin-source=prompt:",
                ));
            }
            _ => return Err(wrong("this build does not select by it")),
        }
        Ok(())
    }
}

/// Percent-decoding (RFC 3986, section 2.1). None for what stands for nothing.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high << 4 | low).ok()?
            }
            // What RFC 3986 lets no URI have.
            0..=0x20 | 0x7f.. | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => return None,
            other => other,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<TokenUri>().unwrap_err().to_string()
    }

    #[test]
    fn a_uri_names_token_keys_library_and_pin() {
        let text = "pkcs11:token=The%20Vault;serial=0a1b;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;slot-id=7;\
                    object=signing-1;id=%00%00%00%02;type=private?module-path=/usr/lib/softhsm/libsofthsm2.so&\
                    pin-source=file:/etc/keywitness/pin";
        let uri: TokenUri = text.parse().unwrap();
        let named = |text: &str| Some(text.to_owned());
        let token = TokenChoice {
            label: named("The Vault"),
            serial: named("0a1b"),
            manufacturer: named("SoftHSM project"),
            model: named("SoftHSM v2"),
            slot: Some(7),
        };
        assert_eq!(uri.token, token);
        assert_eq!(uri.keys, KeyChoice { label: named("signing-1"), id: Some(vec![0, 0, 0, 2]) });
        assert_eq!(uri.module, Some(PathBuf::from("/usr/lib/softhsm/libsofthsm2.so")));
        assert_eq!(uri.pin, Some(PinSource::File(PathBuf::from("/etc/keywitness/pin"))));
        assert_eq!("pkcs11:".parse::<TokenUri>().unwrap(), TokenUri::default());
        assert_eq!("pkcs11:;token=a;".parse::<TokenUri>().unwrap().token, TokenChoice::label("a"));
    }

    #[test]
    fn a_pin_is_never_an_argument() {
        for text in ["pkcs11:token=a?pin-value=1234", "pkcs11:pin-value=1234", "pkcs11:?pin-value=%31"] {
            let said = refused(text);
            assert!(said.contains("pin-source") && !said.contains("1234"), "{said}");
        }
        assert!(refused("pkcs11:?pin-source=|cat%20pin").contains("percent-encoded"));
        assert!(refused("pkcs11:?pin-source=%7Ccat%20pin").contains("no command is run"));
        let source = |text: &str| text.parse::<PinSource>().map_err(|error| error.to_string());
        assert_eq!(source("env:PIN"), Ok(PinSource::Environment("PIN".to_owned())));
        assert_eq!(source("prompt:"), Ok(PinSource::Prompt));
        for path in ["file:/a b", "file:///a b", "/a b"] {
            assert_eq!(source(path), Ok(PinSource::File(PathBuf::from("/a b"))), "{path}");
        }
        for wrong in ["env:", "env:A=B", "file:pin", "pin", "", "file://host/pin", "http://x/pin"] {
            source(wrong).unwrap_err();
        }
    }

    #[test]
    fn what_would_name_more_than_was_meant_is_refused() {
        for text in [
            "token=a",
            "PKCS11:token=a",
            "pkcs11:token",
            "pkcs11:token=a;token=b",
            "pkcs11:token=a;token=a",
            "pkcs11:token=",
            "pkcs11:id=",
            "pkcs11:token=%",
            "pkcs11:token=%4",
            "pkcs11:token=%zz",
            "pkcs11:token=%ff",
            "pkcs11:token=a b",
            "pkcs11:token=a#b",
            "pkcs11:slot-id=-1",
            "pkcs11:slot-id=+1",
            "pkcs11:slot-id=0x1",
            "pkcs11:slot-id=99999999999999999999",
            "pkcs11:type=cert",
            "pkcs11:slot-description=a",
            "pkcs11:library-version=3",
            "pkcs11:x-vendor=a",
            "pkcs11:token=a?module-name=softhsm2",
            "pkcs11:token=a?module-path=libsofthsm2.so",
            "pkcs11:module-path=/a",
            "pkcs11:pin-source=/a",
            "pkcs11:?token=a",
        ] {
            refused(text);
        }
        refused(&format!("pkcs11:token={}", "a".repeat(MAX_URI)));
        refused(&format!("pkcs11:id={}", "%00".repeat(65)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_what_is_named(label in "\\PC{1,40}", id in proptest::collection::vec(any::<u8>(), 1..64)) {
            let encode = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let uri: TokenUri = format!("pkcs11:token={};id={}", encode(label.as_bytes()), encode(&id)).parse().unwrap();
            prop_assert_eq!(uri.token, TokenChoice::label(label));
            prop_assert_eq!(uri.keys.id, Some(id));
        }

        #[test]
        fn reading_never_panics(text in "pkcs11:\\PC{0,200}") {
            let _ = text.parse::<TokenUri>();
        }
    }
}
