//! Bundles: whole here, and beside it damaged, put together wrongly, and made by managers that lie.

mod anchors;
mod pieces;
mod proofs;
mod status;
mod suites;
mod words;

use std::collections::HashMap;

use keywitness_circuits::{Nonce, Timestamp};
use keywitness_verifier::{
    bundle::{Bundle, BundleRequest, BundledEntry, FORMAT},
    log::{Algorithm, Checkpoint, CompactRange, Note, NoteKey, TlogProof, inclusion_proof, leaf_hash},
    token::Claims,
    wire::{Base64, ChallengeAnswer, ChallengeBatchRequest, ChallengeRequest, KeyQuery, ProblemKind, TokenRequest},
};

use super::{archives::openings, checker, log_of, small};
use crate::{
    audit::{
        Anchors,
        bundle::{Finding, Question, check, gather},
        thumbprint,
    },
    ledger::{Command, log::Entry},
    service::testing::{Caller, TestHsm, TestKey, World},
    signer::tests::sign_in_test,
};

const AUDIENCE: &str = "auditor";
const ORIGIN: &str = "acme.example/m1";

fn log_key() -> NoteKey {
    NoteKey::new(ORIGIN, Algorithm::Ed25519, &[1; 32]).unwrap()
}

fn witness(number: u8) -> NoteKey {
    NoteKey::new(&format!("witness-{number}.example"), Algorithm::CosignatureV1, &[10 + number; 32]).unwrap()
}

/// A trust domain with an attested key, its token, and the log's entries.
struct Case {
    world: World,
    hsm: TestHsm,
    other: TestHsm,
    key: TestKey,
    log: Vec<Entry>,
    token: String,
}

impl Case {
    fn new() -> Self {
        let (world, hsm, other, key) = small();
        let token = token(&world, &key);
        Self { log: log_of(&world), world, hsm, other, key, token }
    }

    fn anchors(&self) -> Anchors {
        let info = self.world.manager.trust_domain();
        Anchors {
            trust_domain: info.trust_domain,
            manager: info.manager,
            log: log_key().verifier().to_string(),
            witnesses: [1, 2, 3].map(|number| witness(number).verifier().to_string()).to_vec(),
            cosignatures: 2,
            token_keys: self.world.manager.jwks().unwrap().keys.iter().filter_map(thumbprint).collect(),
            verifying_keys: info.statements.iter().map(|info| info.verifying_key).collect(),
        }
    }

    fn claims(&self) -> Claims {
        claims(&self.token)
    }

    /// Has the manager say something else in its token.
    fn say(&mut self, change: impl FnOnce(&mut Claims)) {
        let mut claims = self.claims();
        change(&mut claims);
        self.token = sign_in_test(self.world.directory.path(), &claims);
    }

    fn bundle(&self) -> Bundle {
        self.bundle_cosigned_by(&[1, 2])
    }

    fn bundle_cosigned_by(&self, witnesses: &[u8]) -> Bundle {
        // What a manager gathers is what it really did; where it lies, the lie stands in the same place.
        let gathered = gather(self.world.store.view().unwrap().as_ref(), &claims(&token(&self.world, &self.key)));
        Bundle {
            format: FORMAT.to_owned(),
            as_of: self.world.now(),
            token: self.token.clone(),
            keys: self.world.manager.jwks().unwrap(),
            status_list: self.world.manager.status_list(0, Some(self.world.now())).unwrap(),
            entries: proven(&self.log, &gathered.unwrap(), witnesses),
        }
    }

    fn check(&self, bundle: &Bundle) -> Result<(), String> {
        self.check_as(bundle, &self.anchors(), bundle.as_of)
    }

    fn check_as(&self, bundle: &Bundle, anchors: &Anchors, at: Timestamp) -> Result<(), String> {
        let question = Question { anchors, checker: checker(), at, audience: AUDIENCE };
        match check(bundle, &question).into_iter().find(|finding| finding.result.is_err()) {
            Some(Finding { what, result }) => Err(format!("{what}: {}", result.unwrap_err())),
            None => Ok(()),
        }
    }
}

fn token(world: &World, key: &TestKey) -> String {
    let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None };
    let request =
        TokenRequest { query, audience: AUDIENCE.to_owned(), nonce: Nonce::random(), form: Default::default() };
    world.manager.issue_token(&Caller::in_process(), &request).unwrap().token
}

fn claims(token: &str) -> Claims {
    let body = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap()
}

/// These entries of a log, with their places in it.
fn proven(log: &[Entry], sequences: &[u64], witnesses: &[u8]) -> Vec<BundledEntry> {
    let (mut tree, mut nodes) = (CompactRange::default(), HashMap::new());
    let openings = openings(log, 1);
    for opening in &openings {
        tree.append(leaf_hash(&opening.entry().0), |node, hash| {
            nodes.insert(node, *hash);
        });
    }
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: tree.size(), root: tree.root(), state: None };
    let mut note = Note::new(checkpoint.to_string()).unwrap();
    note.add(log_key().sign(note.text(), Timestamp(5)));
    for number in witnesses {
        note.add(witness(*number).sign(note.text(), Timestamp(6)));
    }
    let bundled = |sequence: &u64| {
        let index = sequence - 1;
        let hashes = inclusion_proof(index, tree.size(), |node| nodes.get(&node).copied().ok_or(())).unwrap().unwrap();
        let proof = TlogProof { extra: None, index, hashes, checkpoint: note.clone() };
        let opening = Base64(openings[index as usize].to_bytes());
        BundledEntry { opening, proof: proof.to_string() }
    };
    sequences.iter().map(bundled).collect()
}

#[track_caller]
fn refused(result: Result<(), String>, words: &str) {
    let why = result.unwrap_err();
    assert!(why.contains(words), "{why}");
}

fn opening_number(entry: &BundledEntry) -> u64 {
    keywitness_verifier::log::Opening::read(&entry.opening.0).unwrap().0.sequence
}

#[test]
fn an_honest_bundle_holds_as_of_its_time_and_not_outside_it() {
    let case = Case::new();
    let bundle = case.bundle();
    assert_eq!(bundle.entries.len(), 4);
    assert_eq!(Bundle::from_file(&bundle.to_file()).unwrap(), bundle);
    case.check(&bundle).unwrap();
    let (anchors, now) = (case.anchors(), bundle.as_of);
    refused(case.check_as(&bundle, &anchors, now.plus(3600)), "expired");
    refused(case.check_as(&bundle, &anchors, Timestamp(now.0 - 100)), "future");
    // Before the status list was made, it shows nothing.
    refused(case.check_as(&bundle, &anchors, Timestamp(now.0 - 1)), "says nothing of");
    let question = Question { anchors: &anchors, checker: checker(), at: now, audience: "somebody else" };
    let first = check(&bundle, &question).remove(0);
    assert!(first.result.unwrap_err().contains("not for this audience"));
}

#[test]
fn a_bundle_of_challenges_that_were_given_together_holds() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let keys = [TestKey::ed25519("a", 1), TestKey::ed25519("b", 2)];
    keys.iter().for_each(|key| hsm.enrol_key(&world, key).unwrap());
    let items: Vec<_> = keys
        .iter()
        .map(|key| ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] })
        .collect();
    let given = world.manager.challenges(&hsm.call(&world), &ChallengeBatchRequest { items }).unwrap();
    for (key, answer) in keys.iter().zip(given.items) {
        let ChallengeAnswer::Challenge(challenge) = answer else { panic!() };
        crate::service::testing::submit(&world, &hsm.answer(&world, "eu", key, &challenge)).unwrap();
    }
    let issued = keys.each_ref().map(|key| token(&world, key));
    let (log, other, [_, key]) = (log_of(&world), TestHsm::new("hsm-2"), keys);
    let case = Case { world, hsm, other, key, log, token: issued[1].clone() };
    let bundle = case.bundle();
    case.check(&bundle).unwrap();
    // The same challenges do not hold for a claim that answered another of them.
    let place = case.log.iter().position(|entry| entry.submission.command.name() == "issue-challenges").unwrap();
    let mut lying = case;
    let Command::IssueChallenges { items, .. } = &mut lying.log[place].submission.command else { panic!() };
    items.swap(0, 1);
    refused(lying.check(&lying.bundle()), "no entry with the challenge");
}

#[test]
fn the_bundle_that_a_manager_makes_holds() {
    let case = Case::new();
    let request = BundleRequest { token: case.token.clone(), cosignatures: 0 };
    let bundle = case.world.manager.bundle(&Caller::in_process(), &request).unwrap();
    let log = case.world.manager.log_key().log;
    let anchors = Anchors { log, witnesses: Vec::new(), cosignatures: 0, ..case.anchors() };
    case.check_as(&bundle, &anchors, bundle.as_of).unwrap();
    // Nothing is made of a token that is not this manager's, has expired, or asks for cosignatures that nobody made.
    let ask = |request| case.world.manager.bundle(&Caller::in_process(), &request).unwrap_err().kind();
    assert_eq!(ask(BundleRequest { cosignatures: 1, ..request.clone() }), Some(ProblemKind::NotFound));
    let strange = sign_in_test(tempfile::tempdir().unwrap().path(), &case.claims());
    assert_eq!(ask(BundleRequest { token: strange, ..request.clone() }), Some(ProblemKind::Malformed));
    assert_eq!(ask(BundleRequest { token: "x.y.z".to_owned(), ..request.clone() }), Some(ProblemKind::Malformed));
    case.world.advance(3600);
    assert_eq!(ask(request), Some(ProblemKind::Malformed));
}

#[test]
fn a_bundle_of_keys_proven_together_holds_for_each_of_them() {
    let mut case = Case::new();
    let keys: Vec<TestKey> = (1..4).map(|seed| TestKey::aes256(&format!("a-{seed}"), seed)).collect();
    crate::service::tests::many::attest_together(&case.world, &case.hsm, "eu", &keys);
    for key in keys {
        case.key = key;
        case.token = token(&case.world, &case.key);
        case.log = log_of(&case.world);
        case.check(&case.bundle()).unwrap();
    }
}
