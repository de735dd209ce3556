//! Keys that go from one HSM of a cluster to another, by agents as people run them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
};

use keywitness_verifier::wire::{ClusterStatus, Coherence, EventKind};

use crate::support::{Manager, Running, eventually, keywitness, keywitness_json, program};

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
    fn agent(&self, peers: &[&Hsm<'_>]) -> Running {
        let (store, key, token) = (self.path("store"), self.path("store.key"), self.path("join-token"));
        let fixed = ["agent", "--store", &store, "--key-file", &key, "--hsm", self.name, "--join-token-file", &token];
        let channel = ["--channel", "127.0.0.1:0", "--copies-every", "1s"];
        let peers: Vec<_> = peers.iter().flat_map(|peer| ["--peer", peer.identity.as_str()]).collect();
        let mut command = program(self.data, &[&fixed[..], &channel, &peers].concat());
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

    /// The copies that its journal tells of.
    fn copies(&self, way: &str) -> BTreeSet<String> {
        let journal = std::fs::read_to_string(self.path("store.journal")).unwrap_or_default();
        let lines = journal.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let copies = lines.filter(|line| line["copied"] == way);
        copies.map(|line| format!("{} @{}", line["key"].as_str().unwrap(), line["epoch"])).collect()
    }
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
    let mut giving = first.agent(&[&second]);
    let mut taking = second.agent(&[&first]);
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
    let _third = third.agent(&[&first, &second]);
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

    // Both are killed; a key is rotated in one of them meanwhile, and the other gets the next epoch.
    giving.kill();
    taking.kill();
    first.run(&["key", "generate", "--key", "signing", "--algorithm", "p256", "--rotate"]);
    let (mut giving, mut taking) = (first.agent(&[&second]), second.agent(&[&first]));
    eventually("the next epoch", || second.copies("received").contains("signing @2").then_some(()));
    coherent(&manager, 5);
    assert!(giving.terminate().success() && taking.terminate().success());
    assert!(second.keys().is_superset(&names(&all)));
    assert!(manager.fraud().is_empty(), "{:?}", manager.fraud());
}
