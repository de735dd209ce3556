//! A trust domain in a test: a manager with a clock that tests move, and HSMs that prove.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

pub(crate) use super::access::Caller;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use ed25519_dalek::{Signer as _, SigningKey};
use keywitness_circuits::{
    ClaimContext, Digest, Envelope, HsmId, Instance, KeyAlgorithm, KeyAttributes, KeyClaim, KeyOrigin, Kind, Nonce,
    Parameters, Suite, Timestamp, codec::Canonical, key_knowledge::Witness, params::Groth16Parameters, registry,
};
use keywitness_verifier::{
    engine::{Claim, EngineError, Priority, Ticket, Work},
    identity::{EnrolmentParts, IdentityKey, RequestAuth, RequestParts},
    wire::{
        Base64, Challenge, ChallengeRequest, EnrolKeyRequest, EnrolRequest, Enrolment, EventKind, JoinTokenRequest,
        KeyRef, Problem, ProblemKind, Record, RevocationTarget, RevokeRequest,
    },
};
use tempfile::TempDir;

use super::{
    Manager,
    access::{HsmCaller, SignedRequest},
};
use crate::{
    clock::Clock,
    config::Config,
    ledger::{Store, tables::MemoryStore},
    store::{FILE, Redb},
};

/// When tests begin.
pub(crate) const DAWN: u64 = 1_700_000_000;

/// A clock that tests move.
pub(crate) struct FakeClock(AtomicU64);

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Parameters of both suites, made once for all tests.
pub(crate) fn parameters() -> Parameters {
    static PARAMETERS: OnceLock<Parameters> = OnceLock::new();
    let make = || Parameters::transparent().with_groth16(Groth16Parameters::develop().unwrap());
    PARAMETERS.get_or_init(make).clone()
}

const BOTH: [Suite; 2] = [Suite::Halo2Pasta, Suite::Groth16Bn254];

/// A trust domain.
pub(crate) struct World {
    pub(crate) manager: Arc<Manager>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: TempDir,
    clock: Arc<FakeClock>,
}

impl World {
    /// In memory.
    pub(crate) fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap())
    }

    /// In memory, with files that are there already.
    pub(crate) fn in_directory(directory: TempDir) -> Self {
        Self::over(directory, Arc::new(MemoryStore::default()), vec![Suite::Halo2Pasta])
    }

    /// In memory, where a symmetric key must be proven in both suites.
    pub(crate) fn of_both_suites() -> Self {
        Self::over(tempfile::tempdir().unwrap(), Arc::new(MemoryStore::default()), BOTH.to_vec())
    }

    /// Over redb.
    pub(crate) fn on_disk() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Redb::open(&directory.path().join(FILE)).unwrap();
        Self::over(directory, Arc::new(store), vec![Suite::Halo2Pasta])
    }

    /// In memory, where one thread checks proofs and one proof may wait.
    pub(crate) fn that_is_soon_busy() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory, vec![Suite::Halo2Pasta]);
        Self::with(Config { verify_threads: 1, verify_queue: 1, ..config }, directory, Arc::new(MemoryStore::default()))
    }

    /// In memory, with a configuration of its own.
    pub(crate) fn with_config(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&directory, vec![Suite::Halo2Pasta]);
        change(&mut config);
        Self::with(config, directory, Arc::new(MemoryStore::default()))
    }

    fn over(directory: TempDir, store: Arc<dyn Store>, suites: Vec<Suite>) -> Self {
        Self::with(config(&directory, suites), directory, store)
    }

    fn with(config: Config, directory: TempDir, store: Arc<dyn Store>) -> Self {
        let clock = Arc::new(FakeClock(AtomicU64::new(DAWN)));
        let manager = Manager::over(Arc::clone(&store), config, parameters(), clock.clone()).unwrap();
        Self { manager: Arc::new(manager), store, directory, clock }
    }

    /// Has the manager's engine check an envelope's proof, and nothing else.
    pub(crate) fn verify(&self, envelope: Envelope) -> Result<Ticket, EngineError> {
        let source = envelope.context.hsm.clone();
        self.manager.engine.submit(Work { claim: Claim::from(envelope), source, priority: Priority::Fresh })
    }

    /// Closes the manager and opens it again over the same store.
    pub(crate) fn reopen(self) -> Self {
        let suites = self.manager.config().suites.clone();
        self.reopen_with(suites)
    }

    /// Opens it again with other suites.
    pub(crate) fn reopen_with(self, suites: Vec<Suite>) -> Self {
        let Self { manager, store, directory, clock } = self;
        let config = Config { suites, ..manager.config().clone() };
        drop(manager);
        let manager = Manager::over(Arc::clone(&store), config, parameters(), clock.clone()).unwrap();
        Self { manager: Arc::new(manager), store, directory, clock }
    }

    /// Closes the manager and opens it over the database in a file.
    pub(crate) fn over_file(self, file: &std::path::Path) -> Self {
        let Self { manager, store, directory, clock } = self;
        drop((manager, store));
        let store: Arc<dyn Store> = Arc::new(Redb::open(file).unwrap());
        let config = config(&directory, vec![Suite::Halo2Pasta]);
        let manager = Manager::over(Arc::clone(&store), config, parameters(), clock.clone()).unwrap();
        Self { manager: Arc::new(manager), store, directory, clock }
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds as u64, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// An enrolled HSM.
    pub(crate) fn hsm(&self, name: &str, cluster: &str) -> TestHsm {
        let hsm = TestHsm::new(name);
        let token = self.join_token(cluster, None);
        hsm.enrol(self, &token).unwrap();
        hsm
    }

    pub(crate) fn join_token(&self, cluster: &str, hsm: Option<&str>) -> String {
        let hsm = hsm.map(|name| name.parse().unwrap());
        let request = JoinTokenRequest { cluster: cluster.parse().unwrap(), hsm, reenrol: false, valid_for: 600 };
        self.manager.create_join_token(&Caller::in_process(), &request).unwrap().secret
    }

    /// What happened so far.
    pub(crate) fn events(&self) -> Vec<EventKind> {
        self.manager.events(&Caller::in_process(), 0).unwrap().events.into_iter().map(|event| event.kind).collect()
    }

    /// The fraud events so far.
    pub(crate) fn alerts(&self) -> Vec<EventKind> {
        let alerts: Vec<_> = self.events().into_iter().filter(EventKind::is_fraud).collect();
        assert_eq!(self.manager.status(&Caller::in_process()).unwrap().alerts, alerts.len() as u64);
        alerts
    }

    pub(crate) fn revoke_hsm(&self, hsm: &TestHsm) {
        self.revoke(RevocationTarget::Hsm(hsm.id.clone()));
    }

    pub(crate) fn revoke(&self, target: RevocationTarget) {
        self.manager.revoke(&Caller::in_process(), &RevokeRequest { target, reason: "lost".into() }).unwrap();
    }
}

fn config(directory: &TempDir, suites: Vec<Suite>) -> Config {
    let mut config = Config::new(directory.path(), "acme.example".parse().unwrap(), "m1".parse().unwrap());
    config.suites = suites;
    config
}

/// A key in a test: name, epoch, algorithm and secret.
#[derive(Clone)]
pub(crate) struct TestKey {
    pub(crate) key: KeyRef,
    pub(crate) attributes: KeyAttributes,
    secret: [u8; 32],
    /// In which suite a symmetric key is proven.
    suite: Suite,
}

impl TestKey {
    pub(crate) fn new(name: &str, algorithm: KeyAlgorithm, seed: u8) -> Self {
        let attributes = KeyAttributes::new(algorithm, KeyOrigin::Generated, true);
        // Below every group order, and not zero.
        Self {
            key: KeyRef { key: name.parse().unwrap(), epoch: 1 },
            attributes,
            secret: [seed & 15; 32],
            suite: Suite::Halo2Pasta,
        }
    }

    /// A symmetric key; each `secret` is another one.
    pub(crate) fn aes256(name: &str, secret: u8) -> Self {
        Self { secret: [secret; 32], ..Self::new(name, KeyAlgorithm::Aes256, 0) }
    }

    pub(crate) fn ed25519(name: &str, seed: u8) -> Self {
        Self::new(name, KeyAlgorithm::Ed25519, seed)
    }

    /// One of many: each `number`, which is not zero, is another secret.
    pub(crate) fn numbered(name: &str, epoch: u32, number: u32) -> Self {
        let mut secret = [0; 32];
        // In the middle: below every group order, whichever end comes first.
        secret[14..18].copy_from_slice(&number.to_be_bytes());
        let key = KeyRef { key: name.parse().unwrap(), epoch };
        Self { key, secret, ..Self::ed25519(name, 1) }
    }

    pub(crate) fn epoch(&self, epoch: u32, seed: u8) -> Self {
        Self { key: KeyRef { epoch, ..self.key.clone() }, secret: [seed & 15; 32], ..self.clone() }
    }

    /// The same key, proven in another suite.
    pub(crate) fn in_suite(&self, suite: Suite) -> Self {
        Self { suite, ..self.clone() }
    }

    pub(crate) fn witness(&self) -> Witness {
        Witness::new(self.attributes.algorithm, &self.secret).unwrap()
    }

    pub(crate) fn instance(&self) -> Instance {
        self.witness().instance(&"acme.example".parse().unwrap(), self.suite).unwrap().into()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.instance().kind().unwrap()
    }

    pub(crate) fn request(&self) -> EnrolKeyRequest {
        EnrolKeyRequest {
            key: self.key.key.clone(),
            epoch: self.key.epoch,
            attributes: self.attributes.clone(),
            instances: vec![Base64(self.instance().to_bytes())],
        }
    }
}

/// Anything that can be attested: what is enrolled of it, and what a claim is made with.
pub(crate) struct Subject {
    pub(crate) key: KeyRef,
    pub(crate) attributes: KeyAttributes,
    pub(crate) enrolled: Instance,
}

impl Subject {
    pub(crate) fn enrol(&self, world: &World, hsm: &TestHsm) -> Result<(), Problem> {
        let request = EnrolKeyRequest {
            key: self.key.key.clone(),
            epoch: self.key.epoch,
            attributes: self.attributes.clone(),
            instances: vec![Base64(self.enrolled.to_bytes())],
        };
        world.manager.enrol_key(&hsm.call(world), &request)
    }

    pub(crate) fn challenge(&self, world: &World, hsm: &TestHsm) -> Result<Challenge, Problem> {
        let statement = self.enrolled.kind().unwrap().name().to_owned();
        let request = ChallengeRequest { statement, keys: vec![self.key.clone()] };
        world.manager.challenge(&hsm.call(world), &request)
    }

    /// Answers a challenge with an instance and what proves it.
    pub(crate) fn answer(
        &self,
        (world, hsm, cluster): (&World, &TestHsm, &str),
        challenge: &Challenge,
        (instance, witness): (&Instance, &keywitness_circuits::Witness),
    ) -> Result<Record, Problem> {
        let kind = self.enrolled.kind().unwrap();
        let stand_in = TestKey::ed25519("stand-in", 1);
        let mut context = hsm.context(world, cluster, &stand_in, challenge);
        let KeyRef { key, epoch } = self.key.clone();
        context.keys = vec![KeyClaim { key, epoch, attributes: self.attributes.digest() }];
        context.statement = kind.name().to_owned();
        context.verifying_key = registry::verifying_key(&parameters(), kind).unwrap();
        context.instance = instance.digest();
        let instance = instance.to_bytes();
        let proof = registry::prove(&parameters(), &context, &instance, witness).unwrap();
        submit(world, &Envelope::seal(context, instance, proof, |message| hsm.sign(message)))
    }
}

/// An HSM in a test.
pub(crate) struct TestHsm {
    pub(crate) id: HsmId,
    pub(crate) identity: SigningKey,
    pub(crate) channel: [u8; 32],
}

impl TestHsm {
    pub(crate) fn new(name: &str) -> Self {
        let identity = SigningKey::generate(&mut rand::rngs::OsRng);
        Self { id: name.parse().unwrap(), identity, channel: Nonce::random().0 }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.identity.sign(message).to_bytes()
    }

    pub(crate) fn enrolment(&self, world: &World, join_token: &str) -> EnrolRequest {
        let identity_key = IdentityKey::from_bytes(self.identity.verifying_key().to_bytes()).unwrap();
        let parts = EnrolmentParts {
            audience: world.manager.audience(),
            join_token,
            hsm: &self.id,
            identity_key: &identity_key,
            channel_key: &self.channel,
        };
        let signature = Base64(parts.sign(|message| self.sign(message)).to_vec());
        let (hsm, channel_key) = (self.id.clone(), Digest(self.channel));
        EnrolRequest { join_token: join_token.to_owned(), hsm, identity_key, channel_key, signature }
    }

    pub(crate) fn enrol(&self, world: &World, join_token: &str) -> Result<Enrolment, Problem> {
        world.manager.enrol(&self.enrolment(world, join_token))
    }

    /// The authorization header of a request.
    pub(crate) fn authorization(&self, world: &World, method: &str, path: &str, body: &[u8]) -> String {
        let parts = RequestParts { audience: world.manager.audience(), method, path, body };
        RequestAuth::sign(self.id.clone(), world.now(), &parts, |message| self.sign(message)).to_header()
    }

    /// A signed request that the manager has authenticated.
    pub(crate) fn call(&self, world: &World) -> HsmCaller {
        self.try_call(world).unwrap()
    }

    pub(crate) fn try_call(&self, world: &World) -> Result<HsmCaller, Problem> {
        let authorization = self.authorization(world, "POST", "/", b"");
        let request = SignedRequest { authorization: &authorization, method: "POST", path: "/", body: b"" };
        world.manager.authenticate(request)
    }

    pub(crate) fn enrol_key(&self, world: &World, key: &TestKey) -> Result<(), Problem> {
        world.manager.enrol_key(&self.call(world), &key.request())
    }

    pub(crate) fn challenge(&self, world: &World, key: &TestKey) -> Result<Challenge, Problem> {
        let request = ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] };
        world.manager.challenge(&self.call(world), &request)
    }

    /// The context that an honest HSM builds for a challenge.
    pub(crate) fn context(&self, world: &World, cluster: &str, key: &TestKey, challenge: &Challenge) -> ClaimContext {
        let info = world.manager.trust_domain();
        let kind = key.kind();
        let statement = info.statements.iter().find(|statement| statement.kind == kind).unwrap();
        ClaimContext {
            statement: kind.name().to_owned(),
            verifying_key: statement.verifying_key,
            trust_domain: info.trust_domain,
            manager: info.manager,
            cluster: cluster.parse().unwrap(),
            hsm: self.id.clone(),
            enrolment: 1,
            keys: vec![KeyClaim {
                key: key.key.key.clone(),
                epoch: key.key.epoch,
                attributes: key.attributes.digest(),
            }],
            instance: key.instance().digest(),
            challenge: challenge.nonce,
            not_before: challenge.not_before,
            not_after: challenge.not_after,
            checkpoint: None,
            evidence: None,
        }
    }

    /// Proves `context` with `key`'s secret, and seals it.
    pub(crate) fn seal(&self, key: &TestKey, context: ClaimContext) -> Envelope {
        let instance = key.instance().to_bytes();
        let proof = registry::prove(&parameters(), &context, &instance, &key.witness().into()).unwrap();
        Envelope::seal(context, instance, proof, |message| self.sign(message))
    }

    /// Seals a context whatever it says, with a proof that proves nothing.
    pub(crate) fn forge(&self, key: &TestKey, context: ClaimContext) -> Envelope {
        Envelope::seal(context, key.instance().to_bytes(), vec![0; 64], |message| self.sign(message))
    }

    /// A right answer to a challenge.
    pub(crate) fn answer(&self, world: &World, cluster: &str, key: &TestKey, challenge: &Challenge) -> Envelope {
        self.seal(key, self.context(world, cluster, key, challenge))
    }

    /// Proves what an envelope of this HSM claims once more, and signs it.
    pub(crate) fn answer_again(&self, key: &TestKey, envelope: &Envelope) -> Envelope {
        self.seal(key, envelope.context.clone())
    }

    /// Asks for a challenge, proves, and submits.
    pub(crate) fn attest(&self, world: &World, cluster: &str, key: &TestKey) -> Result<Record, Problem> {
        let challenge = self.challenge(world, key)?;
        submit(world, &self.answer(world, cluster, key, &challenge))
    }

    /// Asks for a challenge, and answers with a proof that is wrong.
    pub(crate) fn fail(&self, world: &World, cluster: &str, key: &TestKey) -> Problem {
        let challenge = self.challenge(world, key).unwrap();
        let problem = submit(world, &self.forge(key, self.context(world, cluster, key, &challenge))).unwrap_err();
        assert_eq!(problem.kind(), Some(ProblemKind::ProofRefused));
        problem
    }
}

/// Brings an envelope of one key to the manager.
pub(crate) fn submit(world: &World, envelope: &Envelope) -> Result<Record, Problem> {
    let mut records = submit_many(world, envelope)?;
    assert_eq!(records.len(), 1);
    Ok(records.remove(0))
}

/// Brings an envelope to the manager.
pub(crate) fn submit_many(world: &World, envelope: &Envelope) -> Result<Vec<Record>, Problem> {
    world.manager.attest(&envelope.to_bytes()).map(|answer| answer.records)
}

/// Asserts the kind of a refusal.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Problem>, kind: ProblemKind) -> Problem {
    let problem = result.unwrap_err();
    assert_eq!(problem.kind(), Some(kind), "{problem}");
    problem
}
