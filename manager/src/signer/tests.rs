#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod pkcs11;

use std::os::unix::fs::PermissionsExt;

use data_encoding::BASE64URL_NOPAD;
use keywitness_circuits::Digest;
use keywitness_verifier::{
    log::{Algorithm, CompactRange, consistency_proof, leaf_hash},
    token::{TYPE, status::STATUS_LIST_TYPE},
    wire::TokenAlgorithm,
};
use serde_json::json;
use tempfile::TempDir;

use super::*;

pub(super) const ORIGIN: &str = "acme.example/m1";

/// Signs whatever a test asks for, with the ES256 key of a directory; made where there is none.
pub(crate) fn sign_in_test(directory: &Path, claims: &impl Serialize) -> String {
    sign_typed_in_test(directory, TYPE, claims)
}

/// The same, of any type that token keys sign.
pub(crate) fn sign_typed_in_test(directory: &Path, media_type: &str, claims: &impl Serialize) -> String {
    let keys = FileKeys::open(directory).unwrap();
    let key = keys.list().into_iter().find(|key| key.algorithm == TokenAlgorithm::Es256);
    let key = key.unwrap_or_else(|| keys.make(TokenAlgorithm::Es256).unwrap());
    let name = (key.kid().unwrap(), TokenAlgorithm::Es256);
    jws(&spec(directory).open().unwrap(), (&name.0, name.1), media_type, claims).unwrap()
}

pub(super) fn spec(directory: &Path) -> Spec {
    Spec { directory: directory.to_owned(), origin: ORIGIN.to_owned(), pkcs11: None }
}

/// A signer with a key of each algorithm.
fn signer() -> (TempDir, Guard) {
    let directory = tempfile::tempdir().unwrap();
    let signer = spec(directory.path()).open().unwrap();
    TokenAlgorithm::ALL.into_iter().for_each(|algorithm| drop(signer.make(algorithm).unwrap()));
    (directory, signer)
}

/// Every signer signs tokens, under keys that anyone checks with.
pub(super) fn signs_tokens(signer: &dyn Signer) {
    for public in signer.keys().unwrap() {
        let (kid, algorithm) = (public.kid().unwrap(), public.algorithm);
        for media_type in TYPES {
            let token = jws(signer, (&kid, algorithm), media_type, &json!({ "iat": 1 })).unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            verifies(&public, message.as_bytes(), &BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap());
        }
    }
}

fn verifies(public: &PublicKey, message: &[u8], signature: &[u8]) {
    match public.algorithm {
        TokenAlgorithm::Es256 => {
            use p256::ecdsa::signature::Verifier as _;
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&public.bytes).unwrap();
            key.verify(message, &p256::ecdsa::Signature::from_slice(signature).unwrap()).unwrap();
        }
        TokenAlgorithm::EdDsa => {
            let key: [u8; 32] = public.bytes.as_slice().try_into().unwrap();
            let key = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
            key.verify_strict(message, &ed25519_dalek::Signature::from_slice(signature).unwrap()).unwrap();
        }
    }
}

/// What a manager that was taken over would have a token key sign, and what no key may.
pub(super) fn refuses_what_keys_are_not_for(signer: &dyn Signer) {
    let text = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let claims = text("{\"iat\":1}");
    for public in signer.keys().unwrap() {
        let (kid, algorithm) = (public.kid().unwrap(), public.algorithm.to_string());
        let header = |typ: &str, alg: &str, kid: &str| text(&json!({ "alg": alg, "kid": kid, "typ": typ }).to_string());
        let right = header(TYPE, &algorithm, &kid);
        signer.sign(&kid, format!("{right}.{claims}").as_bytes()).unwrap();
        let other = if algorithm == "ES256" { "EdDSA" } else { "ES256" };
        let messages = [
            // Another type, algorithm or key; none of them.
            format!("{}.{claims}", header("JWT", &algorithm, &kid)),
            format!("{}.{claims}", header("at+jwt", &algorithm, &kid)),
            format!("{}.{claims}", header(TYPE, other, &kid)),
            format!("{}.{claims}", header(TYPE, "none", &kid)),
            format!("{}.{claims}", header(TYPE, &algorithm, "another")),
            format!("{}.{claims}", text("{}")),
            // The right members in another writing, or with more beside them.
            format!("{}.{claims}", text(&format!("{{\"typ\":\"{TYPE}\",\"alg\":\"{algorithm}\",\"kid\":\"{kid}\"}}"))),
            format!(
                "{}.{claims}",
                text(&format!("{{\"alg\":\"{algorithm}\",\"crit\":[],\"kid\":\"{kid}\",\"typ\":\"{TYPE}\"}}"))
            ),
            format!("{right}=.{claims}"),
            // Claims that are none.
            right.clone(),
            format!("{right}."),
            format!("{right}.{claims}="),
            format!("{right}.{}", text("[1]")),
            format!("{right}.{}", text("{\"iat\":1} ") + "."),
            format!("{right}.{claims}.{claims}"),
            format!("{right}.{}", text("{\"iat\":")),
            // Other protocols.
            String::new(),
            format!("{ORIGIN}\n1\n{}\n", data_encoding::BASE64.encode(&[0; 32])),
            "kw_1.5.[]".to_owned(),
            "kw_1.05.{}".to_owned(),
            "kw_1-2.5.{}".to_owned(),
            "1.5.{}".to_owned(),
            // Too long.
            format!("{right}.{}", text(&format!("{{\"a\":\"{}\"}}", "a".repeat(128 * 1024)))),
        ];
        for message in messages {
            let refused = signer.sign(&kid, message.as_bytes());
            assert!(matches!(refused, Err(SignerError::Refused(_))), "{message:.200}: {refused:?}");
        }
        let webhook = signer.sign(&kid, b"kw_1_ab.1700000000.{\"type\":\"event\"}");
        assert_eq!(webhook.is_ok(), public.algorithm == TokenAlgorithm::EdDsa);
        assert!(signer.sign(&kid, &[0xff; 32]).is_err());
        signer.sign(&kid, format!("{}.{claims}", header(STATUS_LIST_TYPE, &algorithm, &kid)).as_bytes()).unwrap();
    }
    assert!(matches!(signer.sign("none", b""), Err(SignerError::UnknownKey(_))));
}

#[test]
fn keys_are_private_found_again_and_named_by_their_thumbprint() {
    let (directory, signer) = signer();
    signs_tokens(&signer);
    let again = spec(directory.path()).open().unwrap();
    assert_eq!((again.keys().unwrap(), again.log_key()), (signer.keys().unwrap(), signer.log_key()));
    for public in signer.keys().unwrap() {
        let kid = public.kid().unwrap();
        let jwk = serde_json::to_value(public.jwk().unwrap()).unwrap();
        let expected = (kid.clone().into(), "sig".into(), public.algorithm.to_string().into());
        assert_eq!((&jwk["kid"], &jwk["use"], &jwk["alg"]), (&expected.0, &expected.1, &expected.2));
    }
    let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap());
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    assert!(!format!("{:?}", FileKeys::open(directory.path()).unwrap()).contains("BEGIN"));
    for name in [FILE, LOG_FILE] {
        crate::files::write_private(directory.path(), name, b"noise").unwrap();
        let Err(SignerError::NoKey(path)) = spec(directory.path()).open() else { panic!("noise is a key") };
        assert!(path.contains(name));
        std::fs::remove_file(directory.path().join(name)).unwrap();
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    for name in [None, Some(LOG_FILE)] {
        let (directory, signer) = signer();
        signs_tokens(&signer);
        let of_tokens = signer.keys().unwrap().first().map(|key| format!("token-key-{}.pem", key.kid().unwrap()));
        let path = directory.path().join(name.map_or(of_tokens.unwrap(), str::to_owned));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let Err(error) = spec(directory.path()).open() else { panic!("{} was used", path.display()) };
        let told = error.to_string();
        assert!(told.contains("chmod 600") && told.contains(path.to_str().unwrap()), "{told}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        spec(directory.path()).open().unwrap();
    }
}

#[test]
fn a_key_signs_what_it_is_for_and_nothing_else() {
    refuses_what_keys_are_not_for(&signer().1);
}

#[test]
fn files_move_once_and_are_never_mixed() {
    let (old, signer) = signer();
    let first = signer.sign_checkpoint(&Log::of(&[1, 2]).checkpoint(), &[]).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let new = parent.path().join("signer");
    std::fs::write(old.path().join("ledger.redb"), "stays").unwrap();
    adopt(old.path(), &new).unwrap();
    let moved = spec(&new).open().unwrap();
    assert_eq!((moved.keys().unwrap(), moved.log_key()), (signer.keys().unwrap(), signer.log_key()));
    assert_eq!(moved.newest().unwrap(), Some(first));
    assert_eq!(std::fs::read_dir(old.path()).unwrap().count(), 1);
    adopt(old.path(), &new).unwrap();
    adopt(&old.path().join("nowhere"), &new).unwrap();
    // Files of another time, such as of a backup that was restored.
    std::fs::write(old.path().join(LOG_FILE), "older").unwrap();
    let error = adopt(old.path(), &new).unwrap_err().to_string();
    assert!(error.contains("both"), "{error}");
}

#[test]
fn a_log_key_without_what_it_signed_signs_nothing() {
    let (old, signer) = signer();
    let copied = |names: &[&str]| {
        let new = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::copy(old.path().join(name), new.path().join(name)).unwrap();
        }
        new
    };
    let refused = |new: &tempfile::TempDir| spec(new.path()).open().err().unwrap().to_string();
    // Before anything was signed too: nobody can tell the two apart.
    let error = refused(&copied(&[LOG_FILE]));
    assert!(error.contains(NEWEST) && error.contains("begin a new log"), "{error}");
    spec(copied(&[LOG_FILE, NEWEST]).path()).open().unwrap();
    let first = signer.sign_checkpoint(&Log::of(&[1, 2]).checkpoint(), &[]).unwrap();
    refused(&copied(&[LOG_FILE]));
    let whole = copied(&[LOG_FILE, NEWEST]);
    assert_eq!(spec(whole.path()).open().unwrap().newest().unwrap(), Some(first));
    // A new log: without both, another key is made.
    let begun = spec(copied(&[]).path()).open().unwrap();
    assert!(begun.log_key() != signer.log_key() && begun.newest().unwrap().is_none());
}

/// The key of RFC 8410, section 10.3, as `openssl` writes it.
#[test]
fn a_key_of_the_standard_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
               -----END PRIVATE KEY-----\n";
    crate::files::write_private(directory.path(), "key", pem.as_bytes()).unwrap();
    let key = note_key(directory.path(), "key", "w", Algorithm::CosignatureV1).unwrap();
    // The same section's public key.
    let public = data_encoding::BASE64.decode(b"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=").unwrap();
    assert_eq!(key.verifier().public_key().as_slice(), public);
}

pub(super) struct Log(Vec<Digest>);

impl Log {
    pub(super) fn of(entries: &[u8]) -> Self {
        Self(entries.iter().map(|entry| leaf_hash(&[*entry])).collect())
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        let mut range = CompactRange::default();
        self.0.iter().for_each(|leaf| range.append(*leaf, |_, _| {}));
        Checkpoint { origin: ORIGIN.to_owned(), size: range.size(), root: range.root(), state: None }
    }

    pub(super) fn consistency(&self, old: u64) -> Vec<Digest> {
        let mut nodes = std::collections::HashMap::new();
        let mut range = CompactRange::default();
        for leaf in &self.0 {
            range.append(*leaf, |node, hash| {
                nodes.insert(node, *hash);
            });
        }
        consistency_proof(old, range.size(), |node| nodes.get(&node).copied().ok_or(())).unwrap().unwrap()
    }
}

/// Whatever `open` opens over one directory, one after the other, signs one log that only grows.
pub(super) fn signs_one_log_that_only_grows(open: impl Fn() -> Box<dyn Signer>) {
    let signer = open();
    let (old, new) = (Log::of(&[1, 2, 3]), Log::of(&[1, 2, 3, 4, 5]));
    let first = signer.sign_checkpoint(&old.checkpoint(), &[]).unwrap();
    assert_eq!(signer.sign_checkpoint(&old.checkpoint(), &[]).unwrap(), first);
    drop(signer);
    let signer = open();
    let fork = |result| assert!(matches!(result, Err(SignerError::Fork { before: 3, .. })), "{result:?}");
    // Another root at the size, a smaller size, a tree with another beginning, one without a proof.
    fork(signer.sign_checkpoint(&Log::of(&[1, 2, 9]).checkpoint(), &[]));
    fork(signer.sign_checkpoint(&Log::of(&[1, 2]).checkpoint(), &[]));
    let empty = Checkpoint { size: 0, ..Log::of(&[]).checkpoint() };
    fork(signer.sign_checkpoint(&empty, &[]));
    let other = Log::of(&[1, 2, 9, 4, 5]);
    fork(signer.sign_checkpoint(&other.checkpoint(), &other.consistency(3)));
    fork(signer.sign_checkpoint(&new.checkpoint(), &[]));
    let elsewhere = Checkpoint { origin: "acme.example/m2".to_owned(), ..new.checkpoint() };
    let refused = signer.sign_checkpoint(&elsewhere, &new.consistency(3));
    assert!(matches!(refused, Err(SignerError::Refused(_))), "{refused:?}");
    let two_lines = Checkpoint { origin: format!("{ORIGIN}\n9"), ..new.checkpoint() };
    assert!(signer.sign_checkpoint(&two_lines, &new.consistency(3)).is_err());
    assert_eq!(signer.newest().unwrap(), Some(first));
    let note = signer.sign_checkpoint(&new.checkpoint(), &new.consistency(3)).unwrap();
    drop(signer);
    assert_eq!(open().newest().unwrap(), Some(note));
}

#[test]
fn no_fork_is_signed_not_even_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    signs_one_log_that_only_grows(|| Box::new(spec(directory.path()).open().unwrap()));
    // What was signed last is another key's: neither can be used without the other.
    std::fs::remove_file(directory.path().join(LOG_FILE)).unwrap();
    let error = spec(directory.path()).open().err().unwrap().to_string();
    assert!(error.contains(NEWEST), "{error}");
}
