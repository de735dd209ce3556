//! Shares, derived keys and tagged keys, as people run the program: a dealer and holders, each with a store of its own.

use std::path::{Path, PathBuf};

use keywitness_verifier::wire::{AttestationState, HsmKeyStatus};

use crate::support::{Manager, keywitness, keywitness_json};

/// An HSM: a store, with a key that is enrolled.
struct Hsm<'a> {
    data: &'a Path,
    name: String,
    directory: PathBuf,
}

impl<'a> Hsm<'a> {
    fn new(manager: &'a Manager, name: &str) -> Self {
        let directory = manager.data.join(format!("store-of-{name}"));
        let hsm = Self { data: &manager.data, name: name.to_owned(), directory };
        hsm.run(&["key", "generate", "--key", &format!("{name}-own"), "--algorithm", "ed25519"]);
        let invited = keywitness(hsm.data, &["join-token", "--cluster", "payments", "--hsm", name]);
        std::fs::write(hsm.path("join-token"), &invited.stdout).unwrap();
        hsm
    }

    fn path(&self, file: &str) -> String {
        std::fs::create_dir_all(&self.directory).unwrap();
        self.directory.join(file).to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn output(&self, arguments: &[&str]) -> std::process::Output {
        let (store, key) = (self.path("store"), self.path("store.key"));
        keywitness(self.data, &[&["--json"], arguments, &["--store", &store, "--key-file", &key]].concat())
    }

    fn attest(&self) -> serde_json::Value {
        self.run(&["attest", "--hsm", &self.name, "--join-token-file", &self.path("join-token")])
    }
}

/// The statement that a key was attested under, in an attestation's report.
fn statement<'a>(reports: &'a serde_json::Value, key: &str) -> Option<&'a str> {
    let of_key = |report: &&serde_json::Value| report["record"]["key"]["key"] == key;
    reports.as_array().unwrap().iter().find(of_key)?["statement"].as_str()
}

/// What the manager says of a key in one HSM.
fn status(manager: &Manager, hsm: &str, key: &str) -> HsmKeyStatus {
    let keys = manager.operator().status().unwrap().keys;
    keys.into_iter().find(|status| status.hsm.as_str() == hsm && status.key.key.as_str() == key).unwrap()
}

#[test]
fn a_key_is_dealt_and_its_holders_attest_their_shares() {
    let manager = Manager::start(&[]);
    let hsms = ["hsm-1", "hsm-2", "hsm-3"].map(|name| Hsm::new(&manager, name));
    hsms.iter().for_each(|hsm| drop(hsm.attest()));
    hsms[0].run(&["key", "generate", "--key", "root", "--algorithm", "ristretto255"]);
    let named = |key_of: &Hsm<'_>| {
        let key = key_of.run(&["key", "identity"])["sealing_key"].as_str().unwrap().to_owned();
        ["hsm-1".to_owned(), format!("hsm-2={key}"), "hsm-3".to_owned()]
    };
    let deal = |holders: [String; 3]| {
        let holders = holders.iter().flat_map(|holder| ["--holder", holder]);
        hsms[0].output(
            &["sharing", "deal", "--key", "root", "--threshold", "2"].into_iter().chain(holders).collect::<Vec<_>>(),
        )
    };
    // The manager says another sealing key of hsm-2 than its operator.
    let refused = String::from_utf8(deal(named(&hsms[2])).stderr).unwrap();
    assert!(refused.contains("not the sharing that the operator asked for"), "{refused}");
    let dealt = deal(named(&hsms[1]));
    let sharing: serde_json::Value = serde_json::from_slice(&dealt.stdout).expect("a sharing");
    assert_eq!(sharing["shares"].as_array().unwrap().len(), 3, "{sharing}");
    for (hsm, share) in hsms.iter().zip(["root.payments.1", "root.payments.2", "root.payments.3"]) {
        let reports = hsm.attest();
        assert_eq!(statement(&reports, share), Some("share-correctness/ristretto255-feldman/2"), "{reports}");
        assert_eq!(status(&manager, &hsm.name, share).state, AttestationState::Attested);
    }
    assert!(manager.fraud().is_empty());

    let revoke = ["revoke", "--cluster", "payments", "--key", "root", "--sharing", "1", "--reason", "a new dealing"];
    keywitness_json(&manager.data, &revoke);
    assert_eq!(status(&manager, "hsm-2", "root.payments.2").state, AttestationState::Revoked);
    assert_eq!(status(&manager, "hsm-1", "root").state, AttestationState::Attested, "the key itself is not revoked");
}

#[test]
fn a_derived_key_is_attested_with_its_master() {
    let manager = Manager::start(&[]);
    let hsm = Hsm::new(&manager, "hsm-1");
    hsm.run(&["key", "generate", "--key", "master", "--algorithm", "aes256"]);
    hsm.attest();
    let derive = ["key", "derive", "--master", "master", "--key", "daily", "--algorithm", "aes128"];
    for (epoch, flags) in [(1, &derive[..]), (2, &[&derive[..], &["--rotate"]].concat())] {
        hsm.run(flags);
        let reports = hsm.attest();
        assert_eq!(statement(&reports, "daily"), Some("key-derivation/halo2-pasta/1"), "{reports}");
        let daily = status(&manager, "hsm-1", "daily");
        assert_eq!((daily.state, daily.key.epoch), (AttestationState::Attested, epoch));
    }
    // Rotated again and again before the agent tells the manager of either.
    for _ in 0..2 {
        hsm.run(&[&derive[..], &["--rotate"]].concat());
    }
    hsm.attest();
    let daily = status(&manager, "hsm-1", "daily");
    assert_eq!((daily.state, daily.key.epoch), (AttestationState::Attested, 4));
    assert!(manager.fraud().is_empty());
}

#[test]
fn a_revoked_key_beside_it_does_not_keep_a_derived_key_from_being_attested() {
    let manager = Manager::start(&[]);
    let hsm = Hsm::new(&manager, "hsm-1");
    hsm.run(&["key", "generate", "--key", "master", "--algorithm", "aes256"]);
    hsm.attest();
    keywitness_json(&manager.data, &["revoke", "--cluster", "payments", "--key", "hsm-1-own", "--reason", "lost"]);
    hsm.run(&["key", "derive", "--master", "master", "--key", "daily", "--algorithm", "aes128"]);
    let reports = hsm.run(&["attest", "--hsm", "hsm-1", "--key", "daily"]);
    assert_eq!(statement(&reports, "daily"), Some("key-derivation/halo2-pasta/1"), "{reports}");
    assert_eq!(status(&manager, "hsm-1", "daily").state, AttestationState::Attested);
}

#[test]
fn hsms_that_hold_one_cmac_key_agree_on_its_tags() {
    let manager = Manager::start(&[]);
    let hsms = ["hsm-1", "hsm-2"].map(|name| Hsm::new(&manager, name));
    for (hsm, agreement) in hsms.iter().zip(["self-asserted", "agreed(2)"]) {
        std::fs::write(hsm.path("cmac.hex"), "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
            .unwrap();
        let file = hsm.path("cmac.hex");
        hsm.run(&["key", "import", "--key", "mac", "--algorithm", "aes256-cmac", "--file", &file]);
        let reports = hsm.attest();
        assert_eq!(statement(&reports, "mac"), Some("tagged-key/halo2-pasta/1"), "{reports}");
        let found = status(&manager, &hsm.name, "mac").statements[0].agreement.unwrap();
        assert_eq!(found.to_string(), agreement);
    }
    assert!(manager.fraud().is_empty());
}
