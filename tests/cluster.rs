//! Keys that go from one HSM of a cluster to another, by agents as people run them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    object::{Attribute, KeyType, ObjectClass},
    session::UserType,
    types::AuthPin,
};
use keywitness_verifier::wire::{ClusterStatus, Coherence, EventKind};

use crate::{
    support::{Manager, Running, eventually, keywitness, keywitness_json, program},
    token::{PIN, TokenHsm, exit, private},
};

/// An HSM with a store, and perhaps an agent that runs.
struct Hsm<'a> {
    data: &'a Path,
    name: &'a str,
    directory: PathBuf,
    identity: String,
}

impl<'a> Hsm<'a> {
    fn new(manager: &'a Manager, name: &'a str, keys: &[(&str, &str)]) -> Self {
        let directory = manager.data.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut hsm = Self { data: &manager.data, name, directory, identity: String::new() };
        for (key, algorithm) in keys {
            hsm.run(&["key", "generate", "--key", key, "--algorithm", algorithm]);
        }
        let invited = keywitness(hsm.data, &["join-token", "--cluster", "payments", "--hsm", name]);
        std::fs::write(hsm.path("join-token"), &invited.stdout).unwrap();
        hsm.identity = hsm.run(&["key", "identity"])["identity_key"].as_str().unwrap().to_owned();
        hsm
    }

    fn path(&self, file: &str) -> String {
        self.directory.join(file).to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> serde_json::Value {
        let (store, key) = (self.path("store"), self.path("store.key"));
        keywitness_json(self.data, &[arguments, &["--store", &store, "--key-file", &key]].concat())
    }

    /// Its agent, which writes what it says to a file.
    fn agent(&self, peers: &[&Hsm<'_>], more: &[&str]) -> Running {
        let (store, key, token) = (self.path("store"), self.path("store.key"), self.path("join-token"));
        let fixed = ["agent", "--store", &store, "--key-file", &key, "--hsm", self.name, "--join-token-file", &token];
        let channel = ["--channel", "127.0.0.1:0", "--copies-every", "1s"];
        let peers: Vec<_> = peers.iter().flat_map(|peer| ["--peer", peer.identity.as_str()]).collect();
        let mut command = program(self.data, &[&fixed[..], &channel, &peers, more].concat());
        let said = std::fs::OpenOptions::new().append(true).create(true).open(self.path("said")).unwrap();
        command.stderr(Stdio::from(said));
        Running::spawn(command)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("said")).unwrap()
    }

    fn keys(&self) -> BTreeSet<String> {
        let listed = self.run(&["key", "list"]);
        let keys = listed.as_array().unwrap_or_else(|| listed["keys"].as_array().unwrap());
        keys.iter().map(|key| format!("{} @{}", key["key"].as_str().unwrap(), key["epoch"])).collect()
    }

    fn copies(&self, way: &str) -> BTreeSet<String> {
        copies(&self.path("store.journal"), way)
    }
}

/// The copies that an HSM's journal tells of.
fn copies(journal: &str, way: &str) -> BTreeSet<String> {
    let journal = std::fs::read_to_string(journal).unwrap_or_default();
    let lines = journal.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let copies = lines.filter(|line| line["copied"] == way);
    copies.map(|line| format!("{} @{}", line["key"].as_str().unwrap(), line["epoch"])).collect()
}

fn cluster(manager: &Manager) -> Option<ClusterStatus> {
    let clusters = manager.operator().clusters(None).unwrap().clusters;
    clusters.into_iter().find(|cluster| cluster.cluster.as_str() == "payments")
}

fn coherent(manager: &Manager, keys: u64) {
    eventually("a coherent cluster", || {
        let found = cluster(manager)?;
        (found.coherence == Coherence::Coherent && found.keys == keys).then_some(())
    });
}

fn names(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn a_new_hsm_gets_the_keys_of_its_cluster_and_a_stranger_in_it_gets_none() {
    let manager = Manager::start(&[]);
    let keys = [("signing", "p256"), ("wrapping", "aes256"), ("mac", "aes128-cmac")];
    let first = Hsm::new(&manager, "hsm-1", &keys);
    first.run(&[
        "key",
        "derive",
        "--master",
        "wrapping",
        "--key",
        "daily",
        "--algorithm",
        "aes128",
        "--trust-domain",
        "acme.example",
    ]);
    let second = Hsm::new(&manager, "hsm-2", &[("own", "ed25519")]);
    let mut giving = first.agent(&[&second], &[]);
    let mut taking = second.agent(&[&first], &[]);
    coherent(&manager, 5);
    let all = ["signing @1", "wrapping @1", "mac @1", "daily @1", "own @1"];
    assert_eq!(second.copies("received"), names(&all[..4]));
    assert_eq!((first.copies("given"), first.copies("received")), (names(&all[..4]), names(&all[4..])));
    let status = keywitness(&manager.data, &["cluster", "status", "payments"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(status.status.success() && text.contains("cluster payments: coherent; 5 of 5 keys"), "{text}");
    let events = manager.operator().events(0).unwrap().events;
    let copied = |to: &str| {
        events
            .iter()
            .any(|event| matches!(&event.kind, EventKind::KeysCopied { to: found, .. } if found.as_str() == to))
    };
    assert!(copied("hsm-1") && copied("hsm-2"));

    // An HSM that the manager has in the cluster, and whose identity no operator of the others has named.
    let third = Hsm::new(&manager, "hsm-3", &[("its-own", "ed25519")]);
    let _third = third.agent(&[&first, &second], &[]);
    eventually("both refusals", || {
        let said = third.said();
        let refused =
            |hsm: &str| said.contains(&format!("no copies from {hsm}: HSM {hsm} refuses: this client is not allowed"));
        (refused("hsm-1") || refused("hsm-2")).then_some(())
    });
    assert_eq!((third.copies("received"), third.keys()), (names(&[]), names(&["its-own @1"])));
    assert_eq!(cluster(&manager).unwrap().coherence, Coherence::Partial);
    let status = keywitness(&manager.data, &["cluster", "status", "payments"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8(status.stdout).unwrap().contains("hsm-3 missing"));
    keywitness_json(&manager.data, &["revoke", "--hsm", "hsm-3", "--reason", "a stranger"]);
    coherent(&manager, 5);

    // Both are killed; a key is rotated in one of them meanwhile. The other gets the next epoch once its operator says so.
    giving.kill();
    taking.kill();
    first.run(&["key", "generate", "--key", "signing", "--algorithm", "p256", "--rotate"]);
    let (mut giving, mut taking) = (first.agent(&[&second], &[]), second.agent(&[&first], &[]));
    eventually("word of the next epoch", || {
        second.said().contains("not taking signing @2 from hsm-1: another epoch of it is here").then_some(())
    });
    assert!(taking.terminate().success());
    assert!(!second.keys().contains("signing @2"));
    let mut taking = second.agent(&[&first], &["--take-rotations"]);
    eventually("the next epoch", || second.copies("received").contains("signing @2").then_some(()));
    coherent(&manager, 5);
    assert!(giving.terminate().success() && taking.terminate().success());
    assert!(second.keys().is_superset(&names(&all)));
    assert!(manager.fraud().is_empty(), "{:?}", manager.fraud());
}

/// Set where this program is started anew, to put the wrapping key into the token of its environment.
const PROVISION: &str = "KEYWITNESS_TEST_WRAPPING_KEY";

/// What an operator does with each token's own tools: the same key, which wraps and unwraps and does nothing else.
fn put_wrapping_key() {
    let library = Pkcs11::new(std::env::var("KEYWITNESS_TEST_SOFTHSM").unwrap()).unwrap();
    library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let session = library.open_rw_session(library.get_slots_with_initialized_token().unwrap()[0]).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(PIN))).unwrap();
    let key = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(vec![0x5a; 32]),
        Attribute::Label("keywitness-wrap".into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
    ];
    session.create_object(&key).unwrap();
}

/// An HSM with a token of its own, which has the wrapping key.
struct Vault<'a> {
    hsm: TokenHsm,
    data: &'a Path,
    name: &'a str,
}

impl<'a> Vault<'a> {
    fn new(manager: &'a Manager, name: &'a str) -> Self {
        let vault = Self { hsm: TokenHsm::new(), data: &manager.data, name };
        // The library finds its tokens by the environment, which is this whole process's.
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "cluster::a_key_that_may_leave_its_token_goes_to_another_and_one_that_may_not_stays"]);
        let provisioned = vault.hsm.with_token(again.env(PROVISION, "")).output().unwrap();
        assert!(provisioned.status.success(), "{}", String::from_utf8_lossy(&provisioned.stdout));
        let invited = keywitness(vault.data, &["join-token", "--cluster", "payments", "--hsm", name]);
        std::fs::write(vault.hsm.path("join-token"), &invited.stdout).unwrap();
        vault
    }

    fn generate(&self, key: &str, algorithm: &str, more: &[&str]) {
        let generate = ["key", "generate", "--key", key, "--algorithm", algorithm];
        self.hsm.json(self.data, &[&generate[..], more].concat());
    }

    fn identity(&self) -> String {
        self.hsm.json(self.data, &["key", "identity"])["identity_key"].as_str().unwrap().to_owned()
    }

    fn agent(&self, peer: &Vault<'_>) -> Running {
        let (peer, token) = (peer.identity(), self.hsm.path("join-token"));
        let fixed = ["agent", "--hsm", self.name, "--join-token-file", &token, "--channel", "127.0.0.1:0"];
        Running::spawn(self.hsm.command(self.data, &[&fixed[..], &["--peer", &peer, "--copies-every", "1s"]].concat()))
    }

    fn copies(&self, way: &str) -> BTreeSet<String> {
        copies(&self.hsm.path("store.journal"), way)
    }

    /// What is listed of a key; null where it has none of that name.
    fn listed(&self, key: &str) -> serde_json::Value {
        let listed = self.hsm.json(self.data, &["key", "list"]);
        listed.as_array().unwrap().iter().find(|row| row["key"] == key).cloned().unwrap_or_default()
    }

    /// What a client's token names of a key that this HSM attests: the fingerprint.
    fn fingerprint(&self, key: &str) -> String {
        let (code, said) = exit(program(self.data, &["token", "--key", key, "--hsm", self.name]));
        assert!(code == 0 && said.contains("possession"), "{said}");
        said.split("fingerprint ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
    }
}

#[test]
fn a_key_that_may_leave_its_token_goes_to_another_and_one_that_may_not_stays() {
    if std::env::var_os(PROVISION).is_some() {
        return put_wrapping_key();
    }
    let manager = Manager::start(&[]);
    let data = manager.data.as_path();
    let (first, second) = (Vault::new(&manager, "hsm-1"), Vault::new(&manager, "hsm-2"));
    first.generate("signing", "p256", &["--extractable"]);
    first.generate("staying", "p256", &[]);
    second.generate("reserve", "secp256k1", &["--extractable"]);
    for vault in [&first, &second] {
        let wrapping = vault.listed("keywitness-wrap");
        assert!(wrapping["refusal"].as_str().unwrap().contains("wraps keys for other tokens"), "{wrapping}");
    }
    let (mut one, mut other) = (first.agent(&second), second.agent(&first));

    // Each token gets the other's key. The one that may not leave is named to nobody, and leaves its cluster partial.
    let found = eventually("both keys in both tokens", || {
        cluster(&manager).filter(|found| (found.keys, found.coherent) == (3, 2))
    });
    let [staying] = found.incoherent.as_slice() else { panic!("{found:?}") };
    assert_eq!((staying.key.key.as_str(), staying.coherence), ("staying", Coherence::Partial), "{staying:?}");
    let status = keywitness(data, &["cluster", "status", "payments"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8(status.stdout).unwrap().contains("hsm-2 missing"));
    assert!(second.listed("staying").is_null());
    for (vault, given, received) in [(&first, "signing @1", "reserve @1"), (&second, "reserve @1", "signing @1")] {
        assert_eq!((vault.copies("given"), vault.copies("received")), (names(&[given]), names(&[received])));
    }

    // What arrived is in the token and in no file; it was brought in, shows itself to nobody, and goes no further.
    for (vault, own, arrived) in [(&first, "signing", "reserve"), (&second, "reserve", "signing")] {
        let own = vault.listed(own);
        let told = |row: &serde_json::Value| row["attributes"]["origin"].as_str().unwrap().to_owned();
        assert!(told(&own) == "generated" && own["attributes"]["extractable"] == true, "{own}");
        let arrived = vault.listed(arrived);
        assert!(told(&arrived) == "imported" && arrived["place"] == "token vault", "{arrived}");
        assert_eq!(arrived["attributes"]["token"]["sensitive"], true, "{arrived}");
        assert_eq!(arrived["attributes"]["extractable"], false, "{arrived}");
        assert_eq!(arrived["never_extractable"], false, "it left another token: {arrived}");
        let file = program(data, &["--json", "key", "list"]).args(vault.hsm.store()).output().unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&file.stdout).unwrap(), serde_json::json!([]));
    }

    keywitness_json(data, &["revoke", "--cluster", "payments", "--key", "staying", "--reason", "kept by one HSM"]);
    let status = keywitness(data, &["cluster", "status", "payments"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(status.status.success() && text.contains("cluster payments: coherent; 2 of 2 keys"), "{text}");
    let credential = keywitness_json(data, &["credential", "--role", "client", "--name", "shop"]);
    std::fs::write(data.join("client.credential"), credential["secret"].as_str().unwrap()).unwrap();
    private(data.join("client.credential").to_str().unwrap());
    for key in ["signing", "reserve"] {
        let fingerprint = first.fingerprint(key);
        assert_eq!(fingerprint.len(), 64, "{fingerprint}");
        assert_eq!(fingerprint, second.fingerprint(key));
    }
    assert!(one.terminate().success() && other.terminate().success());
    assert!(manager.fraud().is_empty(), "{:?}", manager.fraud());
}
