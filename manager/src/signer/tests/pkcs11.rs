//! Against SoftHSM, a PKCS#11 library in software.

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    object::{Attribute, AttributeType, ObjectClass},
    session::{Session, UserType},
    types::AuthPin,
};
use rand::RngCore;

use super::*;

const PIN: &str = "correct horse";

fn library() -> PathBuf {
    assert!(std::env::var("SOFTHSM2_CONF").is_ok(), "./test sets SOFTHSM2_CONF: these tests make tokens");
    PathBuf::from(std::env::var("KEYWITNESS_TEST_SOFTHSM").expect("./test sets KEYWITNESS_TEST_SOFTHSM"))
}

fn loaded() -> Pkcs11 {
    let library = Pkcs11::new(library().canonicalize().unwrap()).unwrap();
    let _ = library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    library
}

/// Makes a token, and says where it is.
fn token(directory: &Path) -> Pkcs11Config {
    let label = format!("signer-{:016x}", rand::thread_rng().next_u64());
    let library = loaded();
    let taken = library.get_slots_with_initialized_token().unwrap();
    let free = library.get_all_slots().unwrap().into_iter().find(|slot| !taken.contains(slot)).unwrap();
    let officer = AuthPin::from("security officer");
    library.init_token(free, &officer, &label).unwrap();
    let session = library.open_rw_session(free).unwrap();
    session.login(UserType::So, Some(&officer)).unwrap();
    session.init_pin(&AuthPin::from(PIN)).unwrap();
    drop(session);
    let pin_file = directory.join("pin");
    std::fs::write(&pin_file, format!("{PIN}\n")).unwrap();
    std::fs::set_permissions(&pin_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    Pkcs11Config { module: self::library(), token: label, pin_file, ..Pkcs11Config::default() }
}

fn private_keys(config: &Pkcs11Config) -> (Session, Vec<cryptoki::object::ObjectHandle>) {
    let library = loaded();
    let slots = library.get_slots_with_initialized_token().unwrap().into_iter();
    let slot = slots.into_iter().find(|slot| library.get_token_info(*slot).unwrap().label() == config.token).unwrap();
    let session = library.open_rw_session(slot).unwrap();
    let _ = session.login(UserType::User, Some(&AuthPin::from(PIN)));
    let found = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap();
    (session, found)
}

// One test: SoftHSM shares one list of slots among all threads, and aborts where two change it.
#[test]
fn a_token_holds_the_keys_and_the_guard_stands_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let config = token(directory.path());
    let spec = Spec { pkcs11: Some(config.clone()), ..spec(directory.path()) };
    let signer = spec.open().unwrap();
    assert_eq!(signer.keys().unwrap(), []);
    let mut made = TokenAlgorithm::ALL.map(|algorithm| signer.make(algorithm).unwrap()).to_vec();
    signs_tokens(&signer);
    refuses_what_keys_are_not_for(&signer);
    let log_key = signer.log_key();
    signs_one_log_that_only_grows(|| Box::new(spec.open().unwrap()));
    // Found again; and another manager of the same token sees none of them.
    let again = spec.open().unwrap();
    let mut found = again.keys().unwrap();
    made.sort_by_key(|key| key.kid().unwrap());
    found.sort_by_key(|key| key.kid().unwrap());
    assert_eq!((found, again.log_key()), (made, log_key.clone()));
    let beside = tempfile::tempdir().unwrap();
    let other = Spec { directory: beside.path().to_owned(), origin: "acme.example/m2".to_owned(), ..spec.clone() };
    let other = other.open().unwrap();
    assert!(other.keys().unwrap().is_empty() && other.log_key().public_key() != log_key.public_key());
    // The token says that no key can leave it, and shows none.
    let (session, keys) = private_keys(&config);
    assert_eq!(keys.len(), 4);
    for key in keys {
        let flags = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::NeverExtractable];
        let expected = [Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::NeverExtractable(true)];
        assert_eq!(session.get_attributes(key, &flags).unwrap(), expected);
        assert!(session.get_attributes(key, &[AttributeType::Value]).is_ok_and(|shown| shown.is_empty()));
    }
    // No file has a key.
    let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(files.into_iter().all(|name| name == "pin" || name == NEWEST));
    // What is told of a wrong PIN, an open PIN file, and another token.
    let refused =
        |config: Pkcs11Config| Spec { pkcs11: Some(config), ..spec.clone() }.open().err().unwrap().to_string();
    std::fs::set_permissions(&config.pin_file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused(config.clone()).contains("chmod 600"));
    std::fs::set_permissions(&config.pin_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refused(Pkcs11Config { token: "another".to_owned(), ..config.clone() }).contains("no token another"));
    let nowhere = Pkcs11Config { module: "/nowhere.so".into(), ..config };
    assert!(refused(nowhere).contains("/nowhere.so"));
}
