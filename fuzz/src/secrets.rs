//! What the secret side reads: imported keys, store files, sealed messages.

use std::fs;

use data_encoding::HEXLOWER;
use keywitness_circuits::{HsmId, KeyAlgorithm, TrustDomain, key_knowledge::Witness, tagged_key};
use keywitness_prover::{Access, SoftwareStore, TokenUri, Unlock, store::import};
use keywitness_verifier::channel;

use crate::{Target, world::World};

pub(crate) fn targets(world: &'static World) -> Vec<Target> {
    let sealed = fs::read(world.store_file()).unwrap();
    let store = sealed.clone();
    vec![
        Target::new("key-import", import_seeds(), key_import),
        Target::new("pkcs11-uri", uri_seeds(), pkcs11_uri),
        Target::new("store-file", vec![store], move |bytes| store_file(world, &sealed, bytes)),
        Target::new("channel", vec![vec![7; 80]], channel_messages()),
    ]
}

/// What is imported is a secret of its algorithm, and its other spelling is the same secret.
fn key_import(bytes: &[u8]) {
    for algorithm in KeyAlgorithm::ALL {
        if let Ok(secret) = import::read(algorithm, bytes) {
            let usable = match algorithm.is_cmac() {
                true => tagged_key::cmac(algorithm, &secret, b"").is_ok(),
                false => Witness::new(algorithm, &secret).is_ok(),
            };
            assert!(usable, "{algorithm}");
            let text = HEXLOWER.encode(&secret);
            let again = import::read(algorithm, text.as_bytes()).expect("hexadecimal text of an accepted key is one");
            assert!(*again == *secret);
        }
    }
}

/// What a URI names is the same however it is encoded.
fn pkcs11_uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(named) = text.parse::<TokenUri>() else { return };
    let encode = |name: &str, value: Option<&[u8]>| {
        let escaped = |value: &[u8]| value.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
        value.map_or_else(String::new, |value| format!("{name}={};", escaped(value)))
    };
    let (token, keys) = (&named.token, &named.keys);
    let text = |text: &Option<String>| text.as_ref().map(|text| text.as_bytes().to_vec());
    let parts = [
        ("token", text(&token.label)),
        ("serial", text(&token.serial)),
        ("manufacturer", text(&token.manufacturer)),
        ("model", text(&token.model)),
        ("slot-id", token.slot.map(|slot| slot.to_string().into_bytes())),
        ("object", text(&keys.label)),
        ("id", keys.id.clone()),
    ];
    let again: String = parts.iter().map(|(name, value)| encode(name, value.as_deref())).collect();
    let again: TokenUri = format!("pkcs11:{again}").parse().expect("what was named can be named again");
    assert_eq!((&again.token, &again.keys), (token, keys));
}

fn uri_seeds() -> Vec<Vec<u8>> {
    [
        "pkcs11:token=The%20Vault;serial=0a1b;manufacturer=a;model=b;slot-id=7;object=k;id=%00%01;type=private\
         ?module-path=/usr/lib/a.so&pin-source=file:/etc/pin",
        "pkcs11:token=a?pin-source=env:PIN",
        "pkcs11:?pin-source=prompt:",
        "pkcs11:token=a?pin-value=1234",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn import_seeds() -> Vec<Vec<u8>> {
    // RFC 8410, section 10.3; and keys of P-256 and secp256k1 that guard nothing.
    let pem = [
        "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC",
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAWFuIHVuZXZlbiBzZWNyZXQgb2YgMzIgYnl0ZXM6LSmhRANCAAQ=",
        "MIGEAgEAMBAGByqGSM49AgEGBSuBBAAKBG0wawIBAQQgAWFuIHVuZXZlbiBzZWNyZXQgb2YgMzIgYnl0ZXM6LSmhRANCAAQ=",
    ];
    let pem = pem.map(|body| format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n").into_bytes());
    let raw: Vec<u8> = (1..=32).rev().collect();
    pem.into_iter().chain([HEXLOWER.encode(&raw).into_bytes(), raw[..16].to_vec(), raw[..24].to_vec(), raw]).collect()
}

/// Only the file that was sealed opens.
fn store_file(world: &World, sealed: &[u8], bytes: &[u8]) {
    let path = world.directory.join(format!("store-{}", std::process::id()));
    fs::write(&path, bytes).unwrap();
    let opened = SoftwareStore::open(&path, &Unlock::KeyFile(world.store_key()), Access::Read);
    assert_eq!(opened.is_ok(), bytes == sealed);
}

/// Bytes that are no sealed message open at neither end, and a message survives its sealing.
fn channel_messages() -> impl Fn(&[u8]) + Send + Sync {
    let (domain, hsm): (TrustDomain, HsmId) = ("acme.example".parse().unwrap(), "hsm-1".parse().unwrap());
    let (secret, public) = channel::generate_key();
    move |bytes: &[u8]| {
        assert!(channel::open_request(&domain, &hsm, &secret, bytes).is_err());
        if let Some((key, message)) = bytes.split_first_chunk()
            && let Ok((_, answer)) = channel::seal_request(&domain, &hsm, key, message)
        {
            assert!(answer.open(message).is_err());
        }
        let (sealed, ours) = channel::seal_request(&domain, &hsm, &public, bytes).unwrap();
        let (opened, theirs) = channel::open_request(&domain, &hsm, &secret, &sealed).unwrap();
        assert_eq!(opened, bytes);
        assert_eq!(ours.open(&theirs.seal(bytes).unwrap()).unwrap(), bytes);
    }
}
