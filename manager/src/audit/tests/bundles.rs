//! Bundles: whole, damaged, put together wrongly, and made by managers that lie.

use std::{collections::HashMap, sync::OnceLock};

use keywitness_circuits::{
    Digest, Envelope, KeyAlgorithm, Nonce, Suite, Timestamp, codec::Canonical, params::Groth16Parameters,
};
use keywitness_verifier::{
    bundle::{Bundle, BundleRequest, BundledEntry, FORMAT},
    log::{Algorithm, Checkpoint, CompactRange, Note, NoteKey, TlogProof, inclusion_proof, leaf_hash},
    token::{
        Appraisal, Claims, DerivedFrom,
        status::{STATUS_LIST_TYPE, StatusBits, StatusListClaims},
    },
    wire::{
        Agreement, Base64, ChallengeAnswer, ChallengeBatchRequest, ChallengeRequest, KeyQuery, ProblemKind, Standing,
        TokenRequest,
    },
};
use proptest::prelude::*;

use super::{archives::openings, checker, lies::relived, log_of, small};
use crate::{
    audit::{
        Anchors, Checker,
        bundle::{Finding, Question, check, gather},
        thumbprint,
    },
    ledger::{Command, log::Entry},
    service::{
        testing::{Caller, TestHsm, TestKey, World},
        tests::statements,
    },
    signer::tests::{sign_in_test, sign_typed_in_test},
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
fn a_status_list_counts_only_where_it_is_the_tokens_own_and_of_its_time() {
    type Change = fn(&mut StatusListClaims, &Claims, Timestamp);
    let case = Case::new();
    let (whole, token) = (case.bundle(), case.claims());
    let at = whole.as_of;
    let body = whole.status_list.split('.').nth(1).unwrap();
    let honest: StatusListClaims =
        serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap();
    let with = |status_list: String| case.check(&Bundle { status_list, ..whole.clone() });
    let signed = |directory: &std::path::Path, change: Change| {
        let mut claims = honest.clone();
        change(&mut claims, &token, at);
        with(sign_typed_in_test(directory, STATUS_LIST_TYPE, &claims))
    };
    let ours = case.world.directory.path();
    signed(ours, |_, _, _| {}).unwrap();
    fn standing(list: &mut StatusListClaims, token: &Claims, standing: Standing) {
        let mut bits = StatusBits::default();
        bits.set(token.status.as_ref().unwrap().status_list.idx, standing);
        list.status_list = bits.compress().unwrap();
    }
    let changes: [(Change, &str); 9] = [
        (|list, _, _| list.sub += "1", "not the one that the token names"),
        (|list, _, _| list.iss = "urn:keywitness:acme.example:m2".to_owned(), "another manager's"),
        (|list, token, _| list.iat = Timestamp(token.iat.0 - 1), "before the token was issued"),
        (|list, _, at| list.exp = at, "the status list expired at"),
        (|list, _, at| list.iat = at.plus(1), "says nothing of"),
        (|list, _, at| list.iat = at.plus(100), "was made at"),
        (|list, token, _| standing(list, token, Standing::Revoked), "was revoked at"),
        (|list, token, _| standing(list, token, Standing::Suspended), "was suspended at"),
        (|list, _, _| list.status_list.lst.0.clear(), "the status list"),
    ];
    for (change, words) in changes {
        refused(signed(ours, change), words);
    }
    refused(signed(tempfile::tempdir().unwrap().path(), |_, _, _| {}), "which is not anchored");
    refused(with(case.token.clone()), "its type is not");
    refused(with(String::new()), "status: ");
    // A bit of the list, with the signature as it was.
    let mut parts: Vec<String> = whole.status_list.split('.').map(str::to_owned).collect();
    let mut forged = honest.clone();
    standing(&mut forged, &token, Standing::Revoked);
    parts[1] = data_encoding::BASE64URL_NOPAD.encode(&serde_json::to_vec(&forged).unwrap());
    refused(with(parts.join(".")), "signature does not verify");
}

#[test]
fn a_bundle_made_after_a_revocation_says_so_whatever_list_was_signed_before() {
    let case = Case::new();
    let manager = &case.world.manager;
    // A list that is kept, and was signed before the next token.
    manager.status_list(0, None).unwrap();
    case.world.advance(5);
    let request = |token: &str| BundleRequest { token: token.to_owned(), cosignatures: 0 };
    let make = |token: &str| manager.bundle(&Caller::in_process(), &request(token)).unwrap();
    let anchors = Anchors { log: manager.log_key().log, witnesses: Vec::new(), cosignatures: 0, ..case.anchors() };
    let newer = token(&case.world, &case.key);
    let bundle = make(&newer);
    case.check_as(&bundle, &anchors, bundle.as_of).unwrap();
    case.world.revoke_hsm(&case.hsm);
    let bundle = make(&newer);
    refused(case.check_as(&bundle, &anchors, bundle.as_of), "was revoked at");
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
fn one_witness_is_one_witness_however_often_it_is_named() {
    let case = Case::new();
    refused(case.check(&case.bundle_cosigned_by(&[1, 1])), "1 of the witnesses have cosigned");
    let mut anchors = case.anchors();
    anchors.witnesses[1] = anchors.witnesses[0].clone();
    let bundle = case.bundle_cosigned_by(&[1]);
    refused(case.check_as(&bundle, &anchors, bundle.as_of), "two witnesses have the same key");
    anchors.witnesses.truncate(1);
    let text = serde_json::to_vec(&anchors).unwrap();
    assert!(Anchors::from_json(&text).unwrap_err().contains("ask for 2 cosignatures, and name 1"));
}

#[test]
fn another_proof_of_the_same_key_is_not_the_tokens() {
    let mut case = Case::new();
    case.world.advance(1);
    case.hsm.attest(&case.world, "eu", &case.key).unwrap();
    (case.log, case.token) = (log_of(&case.world), token(&case.world, &case.key));
    let whole = case.bundle();
    case.check(&whole).unwrap();
    let attested: Vec<_> = (1_u64..)
        .zip(&case.log)
        .filter(|(_, entry)| entry.submission.command.name() == "attest")
        .map(|(number, _)| number)
        .collect();
    let mut bundle = whole;
    let place = bundle.entries.iter().position(|entry| opening_number(entry) == attested[1]).unwrap();
    bundle.entries[place] = proven(&case.log, &attested[..1], &[1, 2]).remove(0);
    refused(case.check(&bundle), "no entry with the attestation");
}

#[test]
fn a_file_that_is_cut_or_too_long_is_no_bundle() {
    let file = Case::new().bundle().to_file();
    for length in (0..file.len()).step_by(97).chain([file.len() - 1]) {
        let why = Bundle::from_file(&file[..length]).unwrap_err();
        assert!(why.contains("no audit bundle") || why.contains("damaged"), "{why}");
    }
    let mut long = file;
    long.resize(keywitness_verifier::bundle::MAX_BUNDLE + 1, b' ');
    assert!(Bundle::from_file(&long).unwrap_err().contains("at most"));
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

#[test]
fn what_the_anchors_do_not_name_does_not_count() {
    let case = Case::new();
    let (bundle, right) = (case.bundle(), case.anchors());
    let now = bundle.as_of;
    let check = |change: &dyn Fn(&mut Anchors)| {
        let mut anchors = right.clone();
        change(&mut anchors);
        case.check_as(&bundle, &anchors, now)
    };
    check(&|_| {}).unwrap();
    refused(check(&|anchors| anchors.token_keys.clear()), "not in the key set");
    refused(check(&|anchors| anchors.verifying_keys.clear()), "do not accept verifying key");
    refused(check(&|anchors| anchors.manager = "m2".parse().unwrap()), "of manager m1");
    refused(check(&|anchors| anchors.trust_domain = "other.example".parse().unwrap()), "another trust domain");
    refused(check(&|anchors| anchors.cosignatures = 3), "cosigned");
    let stranger = NoteKey::new(ORIGIN, Algorithm::Ed25519, &[7; 32]).unwrap();
    refused(check(&|anchors| anchors.log = stranger.verifier().to_string()), "did not sign");
    refused(case.check(&case.bundle_cosigned_by(&[2])), "cosigned");
    refused(case.check(&case.bundle_cosigned_by(&[])), "cosigned");
}

#[test]
fn a_bundle_without_one_of_its_entries_does_not_hold() {
    let case = Case::new();
    let whole = case.bundle();
    for missing in 0..whole.entries.len() {
        let mut bundle = whole.clone();
        bundle.entries.remove(missing);
        refused(case.check(&bundle), "the bundle has no entry");
    }
}

#[test]
fn entries_of_two_logs_make_no_bundle() {
    let case = Case::new();
    let whole = case.bundle();
    let mut bundle = whole.clone();
    // The same manager, a little later: every proof holds, under another checkpoint.
    case.hsm.attest(&case.world, "eu", &case.key).unwrap();
    let later = log_of(&case.world);
    bundle.entries[0] = proven(&later, &[opening_number(&bundle.entries[0])], &[1, 2]).remove(0);
    refused(case.check(&bundle), "another checkpoint");
    let mut bundle = whole;
    let proof = bundle.entries[1].proof.clone();
    bundle.entries[0].proof = proof;
    refused(case.check(&bundle), "another entry");
}

fn opening_number(entry: &BundledEntry) -> u64 {
    keywitness_verifier::log::Opening::read(&entry.opening.0).unwrap().0.sequence
}

/// Has the manager enter another envelope in the place of the attested one, and say so in its token.
fn lie(case: &mut Case, envelope: &Envelope) {
    let place = case.log.iter().position(|entry| entry.submission.command.name() == "attest").unwrap();
    let Command::Attest { envelope: bytes, digest, .. } = &mut case.log[place].submission.command else { panic!() };
    (*bytes, *digest) = (envelope.to_bytes(), envelope.digest());
    case.log = relived(&case.log);
    case.say(|claims| {
        let appraisal = claims.submods.values_mut().next().unwrap();
        appraisal.attestation.statements[0].envelope = envelope.digest();
    });
}

fn attested(case: &Case) -> Envelope {
    let attested = case.log.iter().find_map(|entry| match &entry.submission.command {
        Command::Attest { envelope, .. } => Some(Envelope::from_bytes(envelope).unwrap()),
        _ => None,
    });
    attested.unwrap()
}

#[test]
fn a_manager_that_made_up_a_proof_or_a_signature_is_found() {
    let mut case = Case::new();
    let context = attested(&case).context;
    let forged = case.hsm.forge(&case.key, context.clone());
    lie(&mut case, &forged);
    refused(case.check(&case.bundle()), "proof of k @1");
    let mut case = Case::new();
    let context = attested(&case).context;
    let borrowed = case.other.seal(&case.key, context);
    lie(&mut case, &borrowed);
    refused(case.check(&case.bundle()), "identity signature of k @1");
}

/// The public key of somebody else.
fn another_public_key() -> Vec<u8> {
    TestKey::ed25519("k", 9).instance().spki().unwrap().unwrap()
}

fn from_itself(claims: &Claims) -> DerivedFrom {
    let attestation = &claims.submods.values().next().unwrap().attestation;
    DerivedFrom { key: attestation.key.clone(), statements: attestation.statements.clone() }
}

/// A case of a key that something else attested.
fn case_of(name: &str, bustle: fn(&World)) -> Case {
    let world = World::new();
    bustle(&world);
    let key = TestKey::aes256(name, 1);
    let (log, token) = (log_of(&world), token(&world, &key));
    Case { world, hsm: TestHsm::new("x-1"), other: TestHsm::new("x-2"), key, log, token }
}

#[test]
fn a_derived_key_names_its_master_and_no_other() {
    let mut case = case_of("daily", statements::bustle_of_derivation);
    case.check(&case.bundle()).unwrap();
    let honest = case.claims();
    case.say(|claims| claims.submods.values_mut().next().unwrap().attestation.derived_from = None);
    refused(case.check(&case.bundle()), "master key: the key is derived, and the token does not say from what");
    case.token = sign_in_test(case.world.directory.path(), &honest);
    case.say(|claims| {
        let itself = from_itself(claims);
        claims.submods.values_mut().next().unwrap().attestation.derived_from = Some(itself);
    });
    refused(case.check(&case.bundle()), "master key: the key is derived from more than one key, or from itself");
    // The master is not derived from the derived key.
    let other = honest.submods.into_values().next().unwrap().attestation;
    case.key = TestKey::aes256("master", 1);
    case.token = token(&case.world, &case.key);
    case.say(|claims| {
        let from = DerivedFrom { key: other.key, statements: other.statements };
        claims.submods.values_mut().next().unwrap().attestation.derived_from = Some(from);
    });
    let bundle = Bundle { token: case.token.clone(), ..case_bundle_of(&case, "daily") };
    refused(case.check(&bundle), "master key: the token derives the key from daily");
}

/// A bundle with the entries of another key's token.
fn case_bundle_of(case: &Case, name: &str) -> Bundle {
    let claims = claims(&token(&case.world, &TestKey::aes256(name, 1)));
    let gathered = gather(case.world.store.view().unwrap().as_ref(), &claims).unwrap();
    Bundle { entries: proven(&case.log, &gathered, &[1, 2]), ..case.bundle() }
}

#[test]
fn who_agrees_on_tags_is_the_managers_word_and_marked() {
    let mut case = case_of("mac", statements::bustle_of_agreement);
    let bundle = case.bundle();
    case.check(&bundle).unwrap();
    let (anchors, at) = (case.anchors(), bundle.as_of);
    let found = check(&bundle, &Question { anchors: &anchors, checker: checker(), at, audience: AUDIENCE });
    let agreement = found.iter().find(|finding| finding.what == "agreement").unwrap();
    assert!(agreement.result.as_ref().unwrap().contains("agreed(2): the manager's word"), "{agreement:?}");
    for (agreement, words) in [(None, "the token names none"), (Some(Agreement::of(1)), "nobody else agrees")] {
        case.say(|claims| claims.submods.values_mut().next().unwrap().attestation.agreement = agreement);
        refused(case.check(&case.bundle()), words);
    }
}

#[test]
fn parameters_for_development_are_said_to_be() {
    let mut case = Case::new();
    let hsm = case.world.hsm("hsm-3", "eu");
    case.world = case.world.reopen_with(vec![Suite::Groth16Bn254]);
    case.key = TestKey::aes256("g", 1).in_suite(Suite::Groth16Bn254);
    hsm.enrol_key(&case.world, &case.key).unwrap();
    hsm.attest(&case.world, "eu", &case.key).unwrap();
    (case.log, case.token) = (log_of(&case.world), token(&case.world, &case.key));
    let file = crate::service::testing::parameters().groth16().unwrap().to_bytes();
    let checker = Checker::new([Groth16Parameters::from_bytes(&file).unwrap()]).unwrap();
    let look = |case: &Case| {
        let (bundle, anchors) = (case.bundle(), case.anchors());
        let question = Question { anchors: &anchors, checker: &checker, at: bundle.as_of, audience: AUDIENCE };
        check(&bundle, &question)
    };
    let parameters = |found: Vec<Finding>| found.into_iter().find(|it| it.what == "parameters").unwrap().result;
    let honest = look(&case);
    assert!(honest.iter().all(|finding| finding.result.is_ok()), "{honest:?}");
    assert!(parameters(honest).unwrap().contains("for development"));
    case.say(|claims| {
        claims.submods.values_mut().next().unwrap().attestation.statements[0].development_parameters = false;
    });
    refused(parameters(look(&case)).map(drop), "the token does not say so");
}

#[test]
fn a_token_that_says_more_than_the_log_is_found() {
    type Change = fn(&mut keywitness_verifier::token::KeyAttestation);
    let changes: [(Change, &str); 6] = [
        (|it| it.key.key = "other".parse().unwrap(), "record"),
        (|it| it.statements[0].fingerprint.bytes = Digest([1; 32]), "record"),
        (|it| it.statements[0].proven_at = it.statements[0].proven_at.plus(1), "record"),
        (|it| it.statements[0].expires_at = it.statements[0].expires_at.plus(3600), "record"),
        (|it| it.enrolment = 2, "enrolment"),
        (|it| it.cluster = "us".parse().unwrap(), "enrolment"),
    ];
    for (change, words) in changes {
        let mut case = Case::new();
        case.say(|claims| change(&mut claims.submods.values_mut().next().unwrap().attestation));
        refused(case.check(&case.bundle()), words);
    }
    type Say = fn(&mut Claims);
    fn appraisal(claims: &mut Claims) -> &mut Appraisal {
        claims.submods.values_mut().next().unwrap()
    }
    let changes: [(Say, &str); 8] = [
        (
            |it| appraisal(it).ear_veraison_key_attestation.as_mut().unwrap().akpub = Base64(another_public_key()),
            "public key: the token's public key is not that of the key that was proven",
        ),
        (|it| appraisal(it).ear_veraison_key_attestation = None, "public key: "),
        (|it| it.submods = [("other".to_owned(), appraisal(it).clone())].into(), "appraisal: it is named"),
        (|it| appraisal(it).ear_trustworthiness_vector.extend([("hardware".to_owned(), 2)]), "trustworthiness vector"),
        (|it| appraisal(it).attestation.residence = "hardware".to_owned(), "residence"),
        (|it| appraisal(it).attestation.statements[0].development_parameters = true, "parameters: nobody made any"),
        (|it| appraisal(it).attestation.agreement = Some(Agreement::of(3)), "the key has no tags"),
        (|it| appraisal(it).attestation.derived_from = Some(from_itself(it)), "master key: the token derives the key"),
    ];
    for (change, words) in changes {
        let mut case = Case::new();
        case.say(change);
        refused(case.check(&case.bundle()), words);
    }
    let mut case = Case::new();
    case.say(|claims| claims.cnf.jwk = keywitness_verifier::token::ChannelJwk::new(&[9; 32]));
    refused(case.check(&case.bundle()), "another channel key");
    let mut case = Case::new();
    case.say(|claims| {
        claims.submods.values_mut().next().unwrap().attestation.algorithm = KeyAlgorithm::P256;
    });
    refused(case.check(&case.bundle()), "other attributes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damage anywhere is seen, and lies in whatever the bundle rests on are seen where the checksum was made up for.
    #[test]
    fn a_flipped_bit_anywhere_in_a_bundle_is_caught(
        place in any::<prop::sample::Index>(), part in 0..4_usize, entry in 0..4_usize, bit in 0..8_u8,
    ) {
        static CASE: OnceLock<(Case, Bundle)> = OnceLock::new();
        let (case, whole) = CASE.get_or_init(|| {
            let case = Case::new();
            let bundle = case.bundle();
            (case, bundle)
        });
        let flip = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[place.index(text.len())] ^= 1 << bit;
            String::from_utf8(bytes).ok()
        };
        let mut bundle = whole.clone();
        match part {
            0 => {
                let mut bytes = whole.to_file();
                let length = bytes.len();
                bytes[place.index(length)] ^= 1 << bit;
                prop_assert!(Bundle::from_file(&bytes).is_err());
                return Ok(());
            }
            1 => {
                let opening = &mut bundle.entries[entry].opening.0;
                let length = opening.len();
                opening[place.index(length)] ^= 1 << bit;
            }
            2 => match flip(&bundle.entries[entry].proof) {
                Some(proof) => bundle.entries[entry].proof = proof,
                None => return Ok(()),
            },
            _ => match flip(&bundle.token) {
                Some(token) => bundle.token = token,
                None => return Ok(()),
            },
        }
        let mended = Bundle::from_file(&bundle.to_file()).unwrap();
        prop_assert!(case.check(&mended).is_err());
    }
}
