//! Wrong proofs in masses, among good ones, over real connections.

use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use keywitness_circuits::{Envelope, HsmId, Timestamp};
use keywitness_verifier::{
    client::{ClientError, HsmSigner, ManagerClient},
    identity::Audience,
    wire::{
        AlertQuery, AttestationState, ChallengeRequest, KeyQuery, ProblemKind, Rule, Subject, TokenRequest,
        TokenResponse,
    },
};

use super::Api;
use crate::{
    limits::{Budget, LimitsConfig},
    service::testing::{Caller, TestHsm, TestKey, World},
};

/// An HSM over HTTP.
struct Remote<'a> {
    world: &'a World,
    hsm: &'a TestHsm,
    client: ManagerClient,
}

impl HsmSigner for Remote<'_> {
    fn audience(&self) -> &Audience {
        self.world.manager.audience()
    }
    fn hsm(&self) -> &HsmId {
        &self.hsm.id
    }
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.hsm.sign(message)
    }
    fn now(&self) -> Timestamp {
        self.world.now()
    }
}

impl<'a> Remote<'a> {
    fn new(api: &'a Api, hsm: &'a TestHsm) -> Self {
        let client = ManagerClient::new(&format!("http://{}", api.server.address())).unwrap();
        Self { world: &api.world, hsm, client }
    }

    /// Asks for a challenge and answers it, with one bit of the proof flipped or with none. The identity signature is right.
    fn attest(&self, key: &TestKey, flip: Option<u64>) -> Result<(), ClientError> {
        let request = ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] };
        let challenge = self.client.challenge(self, &request)?;
        let right = self.hsm.answer(self.world, "eu", key, &challenge);
        let envelope = match flip {
            None => right,
            Some(bit) => {
                let mut proof = right.proof;
                let at = usize::try_from(bit).unwrap() % (8 * proof.len());
                proof[at / 8] ^= 1 << (at % 8);
                Envelope::seal(right.context, right.instance, proof, |message| self.hsm.sign(message))
            }
        };
        self.client.attest(&envelope).map(drop)
    }
}

/// With the limits that a manager begins with.
#[test]
fn ten_thousand_wrong_proofs_slow_and_name_their_source_and_move_nobody_else() {
    const ATTEMPTS: u64 = 10_000;
    let api = Api::of(World::on_disk());
    let (world, key) = (&api.world, TestKey::ed25519("k", 1));
    let bad = world.hsm("bad", "eu");
    let good = ["good-1", "good-2", "good-3"].map(|name| world.hsm(name, "eu"));
    for hsm in good.iter().chain([&bad]) {
        hsm.enrol_key(world, &key).unwrap();
        hsm.attest(world, "eu", &key).unwrap();
    }
    let started = Instant::now();
    let (begun, wrong, slowed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        // All the time while that goes on, as slowly as an agent may.
        let turns = good.each_ref().map(|hsm| {
            let (turn, turns) = mpsc::channel();
            let (api, key) = (&api, &key);
            scope.spawn(move || {
                let remote = Remote::new(api, hsm);
                let made = turns.into_iter().map(|()| remote.attest(key, None).unwrap()).count();
                assert_eq!(made, 40);
            });
            turn
        });
        for _ in 0..4 {
            let turns = turns.clone();
            let (api, bad, key, begun, wrong, slowed) = (&api, &bad, &key, &begun, &wrong, &slowed);
            scope.spawn(move || {
                let remote = Remote::new(api, bad);
                loop {
                    let number = begun.fetch_add(1, Ordering::SeqCst);
                    if number >= ATTEMPTS {
                        return;
                    }
                    if number % (ATTEMPTS / 40) == 0 {
                        turns.iter().for_each(|turn| turn.send(()).unwrap());
                    }
                    let error = remote.attest(key, Some(number * 7)).unwrap_err();
                    match error.problem_kind() {
                        Some(ProblemKind::ProofRefused) => wrong.fetch_add(1, Ordering::SeqCst),
                        Some(ProblemKind::TooManyRequests) => {
                            assert!(error.retry_after().is_some_and(|seconds| seconds > 0), "{error}");
                            slowed.fetch_add(1, Ordering::SeqCst)
                        }
                        _ => panic!("{error}"),
                    };
                }
            });
        }
    });
    let (wrong, slowed) = (wrong.into_inner(), slowed.into_inner());
    assert_eq!(wrong + slowed, ATTEMPTS);
    // A challenge, an envelope and a mistake are paid for each that is checked, however fast the machine is; a quarter more is
    // for those that are under way at once.
    let LimitsConfig { hsm: Budget { burst, rate }, mistake, .. } = LimitsConfig::default();
    let paid = u64::from(burst) + u64::from(rate) * (started.elapsed().as_secs() + 1);
    let most = paid / u64::from(mistake + 2) * 5 / 4;
    assert!((20..=most).contains(&wrong), "{wrong} were checked of {most} at most, and {slowed} turned away");
    // The source is named, once among those who ask too often, and by alerts that are about nobody else.
    let caller = Caller::in_process();
    let status = world.manager.status(&caller).unwrap();
    assert_eq!(status.limited.len(), 1);
    assert_eq!((status.limited[0].caller.as_str(), status.limited[0].refused), ("HSM bad", slowed));
    let alerts = world.manager.alerts(&caller, &AlertQuery::default()).unwrap().alerts;
    assert_eq!(alerts.len(), 1);
    assert_eq!((alerts[0].rule, &alerts[0].subject), (Rule::RepeatedFailures, &Subject::Hsm(bad.id.clone())));
    // Nobody else's standing moved.
    let query =
        |hsm: &TestHsm| KeyQuery { key: key.key.key.clone(), cluster: None, hsm: Some(hsm.id.clone()), max_age: None };
    let state = |hsm: &TestHsm| world.manager.attested(&caller, &query(hsm)).unwrap().hsms[0].state;
    assert_eq!(state(&bad), AttestationState::Failing);
    for hsm in &good {
        assert_eq!(state(hsm), AttestationState::Attested);
        let request = TokenRequest {
            query: query(hsm),
            audience: "shop".to_owned(),
            nonce: keywitness_circuits::Nonce::random(),
            form: Default::default(),
        };
        let _token: TokenResponse = api
            .bearer(
                &api.credential(keywitness_verifier::wire::Role::Client),
                "POST",
                keywitness_verifier::wire::path::TOKENS,
                &request,
            )
            .json();
    }
    assert!(world.manager.readiness().ready);
}
