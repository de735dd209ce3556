//! Hostile HSMs and strangers against a live manager.

use keywitness_circuits::{Digest, Envelope, KeyAlgorithm, Nonce, Timestamp, codec::Canonical};
use keywitness_verifier::client::ClientError;
use keywitness_verifier::wire::{
    AttestationState, CredentialRequest, EventKind, KeyQuery, KeyStatus, ProblemKind, RevocationTarget, RevokeRequest,
    Role, TokenRequest, TokenResponse, path,
};

use crate::support::{Hsm, Key, Manager, enrol_request, problem};

const SHARED: Key = Key { name: "shared", algorithm: KeyAlgorithm::Ristretto255, secret: 3 };
const SYMMETRIC: Key = Key { name: "vault", algorithm: KeyAlgorithm::Aes256, secret: 5 };

fn pair(manager: &Manager) -> (Hsm, Hsm) {
    let (a, b) = (Hsm::enrol(manager, "payments", "hsm-a"), Hsm::enrol(manager, "payments", "hsm-b"));
    a.enrol_key(&SHARED);
    b.enrol_key(&SHARED);
    (a, b)
}

fn state(manager: &Manager, hsm: &Hsm, key: &Key) -> AttestationState {
    status(manager, hsm, key).hsms[0].state
}

fn status(manager: &Manager, hsm: &Hsm, key: &Key) -> KeyStatus {
    let query = KeyQuery { key: key.name.parse().unwrap(), cluster: None, hsm: Some(hsm.id.clone()), max_age: None };
    manager.operator().attested(&query).unwrap()
}

#[test]
fn an_hsm_cannot_attest_in_anothers_name_with_the_key_they_share() {
    let manager = Manager::start(&[]);
    let (a, b) = pair(&manager);
    let challenge = b.challenge(&SHARED).unwrap();

    // A knows the shared key and has seen B's challenge. It proves in B's name and signs as itself.
    let mut in_bs_name = a.context(&SHARED, &challenge);
    in_bs_name.hsm = b.id.clone();
    in_bs_name.enrolment = b.enrolment.revision;
    let forged = a.envelope(&SHARED, in_bs_name);
    assert_eq!(problem(a.client.attest(&forged)), ProblemKind::Unauthenticated);
    assert_eq!(state(&manager, &b, &SHARED), AttestationState::Unproven);

    // B's envelope with A's signature, and with none.
    let honest = b.envelope(&SHARED, b.context(&SHARED, &challenge));
    for signature in [forged.signature, [0; 64]] {
        let swapped = Envelope { signature, ..honest.clone() };
        assert_eq!(problem(a.client.attest(&swapped)), ProblemKind::Unauthenticated);
    }

    // Nothing was consumed or counted: B's own answer still passes.
    b.client.attest(&honest).unwrap();
    assert_eq!(state(&manager, &b, &SHARED), AttestationState::Attested);
    assert_eq!(state(&manager, &a, &SHARED), AttestationState::Unproven);
    assert!(manager.fraud().is_empty());
}

#[test]
fn anothers_challenge_is_refused_at_the_thiefs_cost_and_stays_the_owners() {
    let manager = Manager::start(&[]);
    let (a, b) = pair(&manager);
    let challenge = b.challenge(&SHARED).unwrap();
    let stolen = a.envelope(&SHARED, a.context(&SHARED, &challenge));
    assert_eq!(problem(a.client.attest(&stolen)), ProblemKind::ForeignChallenge);
    assert_eq!(state(&manager, &a, &SHARED), AttestationState::Failing);
    // B answers it as if nothing had been.
    assert_eq!(state(&manager, &b, &SHARED), AttestationState::Unproven);
    b.client.attest(&b.envelope(&SHARED, b.context(&SHARED, &challenge))).unwrap();
    assert_eq!(state(&manager, &b, &SHARED), AttestationState::Attested);
}

#[test]
fn every_field_of_the_context_must_be_the_one_that_was_asked_for() {
    let manager = Manager::start(&[]);
    let hsm = Hsm::enrol(&manager, "payments", "hsm-a");
    let other = Key { name: "other", ..SHARED };
    hsm.enrol_key(&SHARED);
    hsm.enrol_key(&Key { secret: 9, ..other });
    let record = hsm.attest(&SHARED).unwrap();

    type Change = fn(&mut keywitness_circuits::ClaimContext);
    let changes: [(&str, ProblemKind, Change); 14] = [
        ("statement", ProblemKind::UnknownStatement, |c| c.statement = "key-knowledge/none/1".to_owned()),
        ("another statement", ProblemKind::ContextMismatch, |c| c.statement = "key-knowledge/halo2-pasta/1".to_owned()),
        ("verifying key", ProblemKind::ContextMismatch, |c| c.verifying_key = Digest([9; 32])),
        ("trust domain", ProblemKind::ContextMismatch, |c| c.trust_domain = "other.example".parse().unwrap()),
        ("manager", ProblemKind::ContextMismatch, |c| c.manager = "other".parse().unwrap()),
        ("cluster", ProblemKind::ContextMismatch, |c| c.cluster = "archive".parse().unwrap()),
        ("enrolment", ProblemKind::ContextMismatch, |c| c.enrolment += 1),
        ("key", ProblemKind::ContextMismatch, |c| c.keys[0].key = "other".parse().unwrap()),
        ("epoch", ProblemKind::ContextMismatch, |c| c.keys[0].epoch += 1),
        ("attributes", ProblemKind::ContextMismatch, |c| c.keys[0].attributes = Digest([9; 32])),
        ("not before", ProblemKind::ContextMismatch, |c| c.not_before = Timestamp(c.not_before.0 - 1)),
        ("not after", ProblemKind::ContextMismatch, |c| c.not_after = c.not_after.plus(1_000_000)),
        ("checkpoint", ProblemKind::ContextMismatch, |c| c.checkpoint = Some(Digest([9; 32]))),
        ("evidence", ProblemKind::ContextMismatch, |c| c.evidence = Some(Digest([9; 32]))),
    ];
    for (field, expected, change) in changes {
        let challenge = hsm.challenge(&SHARED).unwrap();
        let honest = hsm.context(&SHARED, &challenge);
        let mut context = honest.clone();
        change(&mut context);
        let envelope = hsm.envelope(&SHARED, context);
        assert_eq!(problem(hsm.client.attest(&envelope)), expected, "{field}");
        // The challenge is gone with it, even for the honest context.
        let again = hsm.client.attest(&hsm.envelope(&SHARED, honest));
        assert_eq!(problem(again), ProblemKind::ChallengeConsumed, "{field}");
        // The failure is recorded; the record is untouched.
        let now = status(&manager, &hsm, &SHARED);
        assert_eq!(now.hsms[0].state, AttestationState::Failing, "{field}");
        assert_eq!(now.hsms[0].statements[0].proven_at, Some(record.proven_at), "{field}");
    }
    // Another key's instance, although the HSM holds that key too.
    let challenge = hsm.challenge(&SHARED).unwrap();
    let mut context = hsm.context(&SHARED, &challenge);
    let foreign = Key { secret: 9, ..other };
    context.instance = keywitness_circuits::context::instance_digest(&foreign.instance(&hsm.audience.trust_domain));
    assert_eq!(problem(hsm.client.attest(&hsm.envelope(&foreign, context))), ProblemKind::ContextMismatch);
    // An unknown challenge.
    let mut context = hsm.context(&SHARED, &challenge);
    context.challenge = Nonce([1; 32]);
    assert_eq!(problem(hsm.client.attest(&hsm.envelope(&SHARED, context))), ProblemKind::UnknownChallenge);
    // After all that, an honest attestation restores the key, and the events say what happened.
    hsm.attest(&SHARED).unwrap();
    assert_eq!(state(&manager, &hsm, &SHARED), AttestationState::Attested);
    let fraud = manager.fraud();
    assert!(fraud.iter().any(|event| matches!(event, EventKind::RepeatedFailures { .. })), "{fraud:?}");
    assert!(fraud.iter().any(|event| matches!(event, EventKind::Replay { .. })), "{fraud:?}");
}

#[test]
fn a_wrong_proof_is_refused_and_the_same_bytes_get_the_same_answer() {
    let manager = Manager::start(&[]);
    let hsm = Hsm::enrol(&manager, "payments", "hsm-a");
    for key in [SHARED, SYMMETRIC] {
        hsm.enrol_key(&key);
        let good = hsm.envelope(&key, hsm.context(&key, &hsm.challenge(&key).unwrap()));
        let record = hsm.client.attest(&good).unwrap();
        assert_eq!(hsm.client.attest(&good).unwrap(), record);

        let context = hsm.context(&key, &hsm.challenge(&key).unwrap());
        let proof = hsm.envelope(&key, context.clone()).proof;
        let mut wrong = proof;
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        let sign = |message: &[u8]| keywitness_verifier::client::HsmSigner::sign(&hsm, message);
        let bad = Envelope::seal(context, good.instance.clone(), wrong, sign);
        for _ in 0..3 {
            assert_eq!(problem(hsm.client.attest(&bad)), ProblemKind::ProofRefused);
        }
        assert_eq!(state(&manager, &hsm, &key), AttestationState::Failing);
        assert_eq!(hsm.client.attest(&good).unwrap(), record, "the recorded outcome, although newer attempts failed");
        assert_eq!(state(&manager, &hsm, &key), AttestationState::Failing);
    }
    assert!(manager.fraud().is_empty(), "resending is no fraud: {:?}", manager.fraud());
}

#[test]
fn noise_changes_nothing() {
    let manager = Manager::start(&[]);
    let hsm = Hsm::enrol(&manager, "payments", "hsm-a");
    hsm.enrol_key(&SHARED);
    let envelope = hsm.envelope(&SHARED, hsm.context(&SHARED, &hsm.challenge(&SHARED).unwrap()));
    let bytes = envelope.to_bytes();
    let address = manager.anonymous();
    let post = |target: &str, body: &[u8]| {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let mut response = config.new_agent().post(format!("{}{target}", address.base())).send(body).unwrap();
        let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        (response.status().as_u16(), kind, response.body_mut().read_to_string().unwrap())
    };
    let mut longer = bytes.clone();
    longer.push(0);
    for body in [&[][..], b"{}", &bytes[..bytes.len() - 1], &longer, &[0xff; 1000]] {
        let (status, kind, text) = post(path::ATTESTATIONS, body);
        assert_eq!((status, kind.as_str()), (400, "application/problem+json"), "{text}");
    }
    let (status, kind, _) = post(path::ATTESTATIONS, &vec![0; 100_000]);
    assert_eq!((status, kind.as_str()), (413, "application/problem+json"));
    // A flipped bit is unparseable or unauthenticated, wherever it is, and never an outcome of the HSM.
    for at in (0..bytes.len()).step_by(7) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let (status, _, text) = post(path::ATTESTATIONS, &changed);
        assert!(matches!(status, 400 | 401), "byte {at}: {status} {text}");
    }
    for target in [path::JOIN_TOKENS, path::CREDENTIALS, path::REVOCATIONS, path::TOKENS, path::KEYS, path::CHALLENGES]
    {
        let (status, kind, _) = post(target, b"{}");
        assert!(matches!(status, 400 | 401), "{target}: {status}");
        assert_eq!(kind, "application/problem+json", "{target}");
    }
    let (status, kind, _) = post("/v1/nothing", b"");
    assert_eq!((status, kind.as_str()), (404, "application/problem+json"));
    hsm.client.attest(&envelope).unwrap();
    assert!(manager.fraud().is_empty());
}

#[test]
fn an_identity_cannot_be_taken_over() {
    let manager = Manager::start(&[]);
    let hsm = Hsm::enrol(&manager, "payments", "hsm-a");
    let invite = |hsm: Option<&str>| {
        let request = keywitness_verifier::wire::JoinTokenRequest {
            cluster: "payments".parse().unwrap(),
            hsm: hsm.map(|name| name.parse().unwrap()),
            reenrol: false,
            valid_for: 60,
        };
        manager.operator().join_token(&request).unwrap().secret
    };
    let thief = ed25519_dalek::SigningKey::generate(&mut rand::rngs::OsRng);
    let enrol = |token: &str, name: &str, identity| {
        hsm.client.enrol(&enrol_request(&hsm.audience, token, name, identity, &[9; 32]))
    };
    assert_eq!(problem(enrol(&invite(None), "hsm-a", &thief)), ProblemKind::AlreadyEnrolled);
    assert_eq!(problem(enrol("kw_join_nothing", "hsm-c", &thief)), ProblemKind::JoinTokenRefused);
    assert_eq!(problem(enrol(&invite(Some("hsm-d")), "hsm-c", &thief)), ProblemKind::JoinTokenRefused);
    // Somebody else's identity key, without its secret: the signature is the thief's.
    let mut request = enrol_request(&hsm.audience, &invite(None), "hsm-c", &thief, &[9; 32]);
    request.identity_key =
        keywitness_verifier::identity::IdentityKey::from_bytes(hsm.identity.verifying_key().to_bytes()).unwrap();
    assert_eq!(problem(hsm.client.enrol(&request)), ProblemKind::Unauthenticated);
    // A token serves once.
    let token = invite(None);
    enrol(&token, "hsm-c", &thief).unwrap();
    let second = ed25519_dalek::SigningKey::generate(&mut rand::rngs::OsRng);
    assert_eq!(problem(enrol(&token, "hsm-d", &second)), ProblemKind::JoinTokenRefused);
}

#[test]
fn fraud_is_seen_across_clusters_and_within_one() {
    let manager = Manager::start(&["--set", "fraud.rules=drift.grace=0"]);
    let a = Hsm::enrol(&manager, "payments", "hsm-a");
    let b = Hsm::enrol(&manager, "payments", "hsm-b");
    let c = Hsm::enrol(&manager, "archive", "hsm-c");
    for (hsm, key) in [(&a, SHARED), (&b, Key { secret: 4, ..SHARED }), (&c, SHARED)] {
        hsm.enrol_key(&key);
        hsm.attest(&key).unwrap();
        hsm.attest(&key).unwrap();
    }
    let fraud = manager.fraud();
    let drift =
        |e: &EventKind| matches!(e, EventKind::Drift { earlier, later } if earlier.hsm == a.id && later.hsm == b.id);
    let foreign = |e: &EventKind| matches!(e, EventKind::ForeignCluster { earlier, later } if earlier.hsm == a.id && later.hsm == c.id);
    assert_eq!(fraud.iter().filter(|event| drift(event)).count(), 1, "{fraud:?}");
    assert_eq!(fraud.iter().filter(|event| foreign(event)).count(), 1, "{fraud:?}");
    assert_eq!(fraud.len(), 2, "{fraud:?}");
    assert_eq!(state(&manager, &a, &SHARED), AttestationState::Attested, "the earlier holder is not punished");
}

fn token(manager: &Manager, hsm: &Hsm) -> Result<TokenResponse, ClientError> {
    let query = KeyQuery { key: "shared".parse().unwrap(), cluster: None, hsm: Some(hsm.id.clone()), max_age: None };
    let request = TokenRequest { query, audience: "shop".to_owned(), nonce: Nonce::random(), form: Default::default() };
    manager.with_role(Role::Client).token(&request)
}

#[test]
fn what_is_revoked_stays_refused_after_kill_9() {
    let mut manager = Manager::start(&[]);
    let (a, b) = pair(&manager);
    let record = a.attest(&SHARED).unwrap();
    b.attest(&SHARED).unwrap();
    manager.kill_and_restart();
    assert_eq!(status(&manager, &a, &SHARED).hsms[0].statements[0].proven_at, Some(record.proven_at));
    token(&manager, &a).unwrap();
    let target = RevocationTarget::Hsm(a.id.clone());
    manager.operator().revoke(&RevokeRequest { target: target.clone(), reason: "lost".into() }).unwrap();
    manager.kill_and_restart();
    assert_eq!(problem(token(&manager, &a)), ProblemKind::HsmRevoked);
    token(&manager, &b).unwrap();
    let a = Hsm { client: manager.anonymous(), ..a };
    assert_eq!(problem(a.attest(&SHARED)), ProblemKind::HsmRevoked);
    assert!(manager.fraud().is_empty(), "one attempt after a revocation is honest");
}

#[test]
fn roles_bound_what_a_credential_may_do() {
    let manager = Manager::start(&[]);
    let (a, _) = pair(&manager);
    a.attest(&SHARED).unwrap();
    let query = KeyQuery { key: "shared".parse().unwrap(), cluster: None, hsm: None, max_age: None };
    let token = TokenRequest {
        query: query.clone(),
        audience: "shop".to_owned(),
        nonce: Nonce::random(),
        form: Default::default(),
    };
    let revoke = RevokeRequest { target: RevocationTarget::Hsm(a.id.clone()), reason: "no".into() };
    for role in [Role::Client, Role::Viewer] {
        let caller = manager.with_role(role);
        caller.status().unwrap();
        caller.attested(&query).unwrap();
        assert_eq!(problem(caller.revoke(&revoke)), ProblemKind::Forbidden, "{role}");
    }
    assert_eq!(problem(manager.with_role(Role::Viewer).token(&token)), ProblemKind::Forbidden);
    assert_eq!(problem(manager.operator().token(&token)), ProblemKind::Forbidden);
    manager.with_role(Role::Client).token(&token).unwrap();
    assert_eq!(problem(manager.with_role(Role::Client).events(0)), ProblemKind::Forbidden);
    assert_eq!(problem(manager.anonymous().status()), ProblemKind::Unauthenticated);
    assert_eq!(problem(manager.anonymous().with_credential("kw_client_x").status()), ProblemKind::Unauthenticated);
}

#[test]
fn a_credential_opens_its_clusters_until_it_is_withdrawn() {
    let mut manager = Manager::start(&["--tls", "always"]);
    let (a, _) = pair(&manager);
    a.attest(&SHARED).unwrap();
    let query = KeyQuery { key: "shared".parse().unwrap(), cluster: None, hsm: None, max_age: None };
    let make = |cluster: &str| {
        let clusters = Some(vec![cluster.parse().unwrap()]);
        let request = CredentialRequest { clusters, ..CredentialRequest::new("shop", Role::Client) };
        manager.operator().credential(&request).unwrap()
    };
    let (own, foreign) = (make("payments"), make("wallets"));
    let ask = |manager: &Manager, secret: &str| manager.anonymous().with_credential(secret).attested(&query);
    assert!(ask(&manager, &own.secret).unwrap().attested);
    assert_eq!(problem(ask(&manager, &foreign.secret)), ProblemKind::NotFound);
    assert!(manager.anonymous().with_credential(&foreign.secret).status().unwrap().keys.is_empty());
    manager.operator().withdraw_credential(own.id).unwrap();
    assert_eq!(problem(ask(&manager, &own.secret)), ProblemKind::Unauthenticated);
    let client = manager.anonymous().with_credential(&foreign.secret);
    assert_eq!(problem(client.withdraw_credential(own.id)), ProblemKind::Forbidden);
    manager.kill_and_restart();
    assert_eq!(problem(ask(&manager, &own.secret)), ProblemKind::Unauthenticated);
    let listed = manager.operator().credentials().unwrap().credentials;
    assert!(listed.iter().any(|info| info.id == own.id && info.withdrawn_at.is_some()));
}
