//! Keys in a PKCS#11 token: a hardware security module, or SoftHSM.
//!
//! They are made in the token, sensitive and not extractable. A key's label names the log of the manager whose it is, so that
//! several managers share a token, and its CKA_ID ties the two halves of a pair together. The library's code runs in the signer's
//! process.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, RwLock},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};
use keywitness_verifier::wire::TokenAlgorithm;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Keys, PublicKey, SignerError, at};

/// Most sessions that are kept open for later calls.
const IDLE_SESSIONS: usize = 8;

/// Longest PIN, in bytes.
const MAX_PIN: usize = 255;

/// Where a token is, and what its library needs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Config {
    /// The library.
    pub module: PathBuf,
    /// The token's label, or `slot:` and the number of its slot.
    pub token: String,
    /// The file with the user's PIN, which nobody but its owner can read.
    pub pin_file: PathBuf,
    /// Where the library writes.
    pub paths: Vec<PathBuf>,
    /// Variables of the environment that it reads.
    pub environment: Vec<String>,
    /// It reaches its hardware over the network.
    pub network: bool,
}

fn failed(doing: &str) -> impl Fn(Error) -> SignerError + '_ {
    move |error| {
        SignerError::Failed(match error {
            Error::Pkcs11(code, function) => format!("the PKCS#11 token, {doing}: {function} returned {code:?}"),
            other => format!("the PKCS#11 token, {doing}: {other}"),
        })
    }
}

/// Reads a PIN; a line feed at its end is no part of it.
fn read_pin(path: &Path) -> Result<AuthPin, SignerError> {
    use std::os::unix::fs::PermissionsExt;
    let wrong = |why: &str| SignerError::Failed(format!("{}: {why}", path.display()));
    let mode = std::fs::metadata(path).map_err(at(path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(wrong("others than its owner can read the PIN; take that away (chmod 600)"));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(at(path))?);
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(wrong("there is no PIN in it")),
        pin if pin.len() > MAX_PIN => Err(wrong("the PIN is longer than 255 bytes")),
        pin => Ok(AuthPin::from(pin)),
    }
}

/// DER of the object identifier of P-256 (RFC 5480, section 2.1.1.1): CKA_EC_PARAMS.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// Edwards25519 as CKA_EC_PARAMS names it: PrintableString "edwards25519" (PKCS#11 3.0, section 2.3.5).
const EDWARDS25519: [u8; 14] = *b"\x13\x0cedwards25519";

#[derive(Clone)]
struct Pair {
    public: PublicKey,
    private: ObjectHandle,
}

/// The keys of one manager in a token.
pub struct TokenKeys {
    library: Pkcs11,
    slot: Slot,
    idle: Mutex<Vec<Session>>,
    /// Keeps the login alive.
    _login: Mutex<Session>,
    token_label: String,
    keys: RwLock<BTreeMap<String, Pair>>,
    log: Pair,
}

impl TokenKeys {
    /// Opens a token, logs in with one attempt, and finds the keys of the manager whose log has this origin. Makes the log's
    /// key where there is none.
    ///
    /// # Errors
    /// [`SignerError::Failed`], which says what to do; also for a key of ours that could leave the token.
    pub fn open(config: &Pkcs11Config, origin: &str) -> Result<Self, SignerError> {
        let pin = read_pin(&config.pin_file)?;
        // An absolute path: a bare name would be searched for in the system's directories.
        let module = config.module.canonicalize().map_err(at(&config.module))?;
        let library = Pkcs11::new(&module).map_err(failed("loading its library"))?;
        match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed("starting its library")(error)),
        }
        let (slot, info) = find(&library, &config.token)?;
        if info.user_pin_locked() || info.user_pin_final_try() {
            let why = format!(
                "the PIN of token {} is locked, or the next wrong one locks it, so none is tried; log in once with the \
                 token's own tool",
                config.token
            );
            return Err(SignerError::Failed(why));
        }
        let session = library.open_rw_session(slot).map_err(failed("opening a session"))?;
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(failed("logging in")(error)),
        }
        let (token_label, log_label) = (format!("keywitness token {origin}"), format!("keywitness log {origin}"));
        let mut keys = BTreeMap::new();
        for pair in pairs(&session, &token_label)? {
            keys.insert(pair.public.kid()?, pair);
        }
        let mut of_log = pairs(&session, &log_label)?;
        let log = match (of_log.pop(), of_log.is_empty()) {
            (Some(pair), true) if pair.public.algorithm == TokenAlgorithm::EdDsa => pair,
            (None, _) => {
                tracing::info!(token = config.token, "made a key that signs for the log, in its token");
                generate(&session, TokenAlgorithm::EdDsa, &log_label)?
            }
            _ => return Err(SignerError::Failed(format!("the token has several keys {log_label:?}, or another one"))),
        };
        let (idle, keys, login) = (Mutex::default(), RwLock::new(keys), Mutex::new(session));
        Ok(Self { library, slot, idle, _login: login, token_label, keys, log })
    }

    fn find(&self, kid: &str) -> Option<Pair> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(kid).cloned()
    }

    /// Has the token sign. A session on which something failed is closed, since an operation may be under way on it.
    fn sign_with(&self, pair: &Pair, message: &[u8]) -> Result<[u8; 64], SignerError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let open = || self.library.open_ro_session(self.slot).map_err(failed("opening a session"));
        let session = idle.map_or_else(open, Ok)?;
        let signature = match pair.public.algorithm {
            TokenAlgorithm::Es256 => session.sign(&Mechanism::Ecdsa, pair.private, &Sha256::digest(message)),
            TokenAlgorithm::EdDsa => {
                let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
                session.sign(&pure, pair.private, message)
            }
        };
        let signature = signature.map_err(failed("signing"))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_SESSIONS {
            idle.push(session);
        }
        let wrong = |_| SignerError::Failed("the PKCS#11 token gave a signature of another length".to_owned());
        signature.try_into().map_err(wrong)
    }
}

impl Keys for TokenKeys {
    fn list(&self) -> Vec<PublicKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).values().map(|pair| pair.public.clone()).collect()
    }

    fn algorithm(&self, kid: &str) -> Option<TokenAlgorithm> {
        Some(self.find(kid)?.public.algorithm)
    }

    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError> {
        let session = self.library.open_rw_session(self.slot).map_err(failed("opening a session"))?;
        let pair = generate(&session, algorithm, &self.token_label)?;
        let (public, kid) = (pair.public.clone(), pair.public.kid()?);
        tracing::info!(%algorithm, kid, "made a key that signs tokens, in its token");
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(kid, pair);
        Ok(public)
    }

    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError> {
        self.sign_with(&self.find(kid).ok_or_else(|| SignerError::UnknownKey(kid.to_owned()))?, message)
    }

    fn log_key(&self) -> Result<[u8; 32], SignerError> {
        let wrong = |_| SignerError::Failed("the log's key in the token is no Ed25519 key".to_owned());
        self.log.public.bytes.clone().try_into().map_err(wrong)
    }

    fn sign_log(&self, message: &[u8]) -> Result<[u8; 64], SignerError> {
        self.sign_with(&self.log, message)
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKeys({})", self.token_label)
    }
}

/// The token of that label, or in that slot.
fn find(library: &Pkcs11, wanted: &str) -> Result<(Slot, TokenInfo), SignerError> {
    let slots = library.get_slots_with_initialized_token().map_err(failed("listing slots"))?;
    let mut found = Vec::new();
    for slot in slots {
        let info = library.get_token_info(slot).map_err(failed("listing slots"))?;
        let by_slot = wanted.strip_prefix("slot:").and_then(|number| number.parse().ok()) == Some(slot.id());
        if by_slot || info.label() == wanted {
            found.push((slot, info));
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => {
            Err(SignerError::Failed(format!("several tokens are labelled {wanted}: name one as slot:NUMBER")))
        }
        (None, _) => Err(SignerError::Failed(format!("the PKCS#11 library shows no token {wanted}"))),
    }
}

/// Makes a key pair that cannot leave the token, and does nothing but sign.
fn generate(session: &Session, algorithm: TokenAlgorithm, label: &str) -> Result<Pair, SignerError> {
    let mut id = [0; 16];
    rand::rngs::OsRng.fill_bytes(&mut id);
    let (mechanism, params) = match algorithm {
        TokenAlgorithm::Es256 => (Mechanism::EccKeyPairGen, P256.to_vec()),
        TokenAlgorithm::EdDsa => (Mechanism::EccEdwardsKeyPairGen, EDWARDS25519.to_vec()),
    };
    let named = |private| {
        vec![
            Attribute::Token(true),
            Attribute::Private(private),
            Attribute::Label(label.into()),
            Attribute::Id(id.to_vec()),
        ]
    };
    let mut public = named(false);
    public.extend([Attribute::EcParams(params), Attribute::Verify(true)]);
    let mut private = named(true);
    private.extend([
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Derive(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
    ]);
    session.generate_key_pair(&mechanism, &public, &private).map_err(failed("making a key"))?;
    let mut made = pairs(session, label)?;
    made.retain(|pair| has_id(session, pair.private, &id));
    made.pop().ok_or_else(|| SignerError::Failed("the PKCS#11 token does not show the key it made".to_owned()))
}

fn has_id(session: &Session, handle: ObjectHandle, id: &[u8]) -> bool {
    let found = session.get_attributes(handle, &[AttributeType::Id]);
    found.is_ok_and(|found| found.contains(&Attribute::Id(id.to_vec())))
}

/// The key pairs of a label.
fn pairs(session: &Session, label: &str) -> Result<Vec<Pair>, SignerError> {
    let doing = failed("listing keys");
    let of = |class, more: &[Attribute]| {
        let mut template = vec![Attribute::Token(true), Attribute::Class(class), Attribute::Label(label.into())];
        template.extend_from_slice(more);
        session.find_objects(&template)
    };
    let mut pairs = Vec::new();
    for private in of(ObjectClass::PRIVATE_KEY, &[]).map_err(&doing)? {
        let wanted = [
            AttributeType::Id,
            AttributeType::KeyType,
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::NeverExtractable,
        ];
        let attributes = session.get_attributes(private, &wanted).map_err(&doing)?;
        let kept = [Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::NeverExtractable(true)];
        if !kept.iter().all(|flag| attributes.contains(flag)) {
            let why = format!("key {label:?} of the PKCS#11 token could leave it, or once could; remove it");
            return Err(SignerError::Failed(why));
        }
        let id = attributes.iter().find(|attribute| matches!(attribute, Attribute::Id(_))).cloned();
        let algorithm = if attributes.contains(&Attribute::KeyType(KeyType::EC)) {
            TokenAlgorithm::Es256
        } else {
            TokenAlgorithm::EdDsa
        };
        let others = of(ObjectClass::PUBLIC_KEY, id.as_slice()).map_err(&doing)?;
        let [other] = others.as_slice() else {
            return Err(SignerError::Failed(format!(
                "a key {label:?} of the PKCS#11 token has no public half, or several"
            )));
        };
        let point = session.get_attributes(*other, &[AttributeType::EcPoint]).map_err(&doing)?;
        let bytes = point.iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => bare(point, algorithm),
            _ => None,
        });
        let bytes = bytes.ok_or_else(|| SignerError::Failed(format!("the public half of {label:?} is no point")))?;
        pairs.push(Pair { public: PublicKey { algorithm, bytes }, private });
    }
    Ok(pairs)
}

/// A point without the header of a DER OCTET STRING, which some tokens leave out.
fn bare(point: &[u8], algorithm: TokenAlgorithm) -> Option<Vec<u8>> {
    let length = match algorithm {
        TokenAlgorithm::Es256 => 65,
        TokenAlgorithm::EdDsa => 32,
    };
    let bare = point.get(2..).filter(|rest| point.first() == Some(&4) && rest.len() == length).unwrap_or(point);
    let right = match algorithm {
        TokenAlgorithm::Es256 => p256::PublicKey::from_sec1_bytes(bare).is_ok(),
        TokenAlgorithm::EdDsa => true,
    };
    (right && bare.len() == length).then(|| bare.to_vec())
}
