//! Hours of honest operation raise no alert, and one fraud among it raises its own.
//!
//! Time is simulated, everything else is real: HSMs in several clusters ask, prove and submit as agents do, with clocks of their
//! own, while replies get lost, challenges expire, keys rotate, HSMs and the manager restart, and keys move.

use std::collections::BTreeMap;

use ed25519_dalek::Signer as _;
use keywitness_circuits::{Envelope, Timestamp, codec::Canonical};
use keywitness_verifier::{
    identity::{RequestAuth, RequestParts},
    wire::{
        AlertQuery, AttestationState, Challenge, ChallengeRequest, EventKind, JoinTokenRequest, Migrant,
        MigrationRequest, Problem, ProblemKind, RevocationTarget, Rule,
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{evidence, sharing, statements};
use crate::service::{
    access::{HsmCaller, SignedRequest},
    testing::{Caller, DAWN, TestHsm, TestKey, World, refused, submit},
};

/// How much time passes at once, in seconds.
const STEP: u64 = 30;

/// After how long an agent proves a key again, in seconds: half of a record's life.
const AGAIN: u64 = 300;

/// By how much an HSM's clock may be wrong, and by how much the manager's is set: together less than what is refused.
const CLOCK: i64 = 15;
const NUDGE: i64 = 35;

/// How late an answer comes that is too late by any clock, in seconds.
const LATE: u64 = 180;

/// An HSM with its agent.
struct Member {
    hsm: TestHsm,
    cluster: String,
    enrolment: u32,
    keys: Vec<TestKey>,
    /// By how much its clock is ahead.
    ahead: i64,
    /// When it proves again.
    due: u64,
    /// Switched off until then.
    asleep_until: u64,
    /// What it proved and will bring too late.
    late: Vec<(u64, Envelope)>,
}

/// What happened, by name: that it happened at all is asserted.
type Tally = BTreeMap<&'static str, u32>;

/// A trust domain in operation.
struct Site {
    world: Option<World>,
    random: ChaCha8Rng,
    /// The time that everybody would have with a good clock.
    time: u64,
    /// By how much the manager's clock is ahead of it.
    ahead: i64,
    /// Since when the manager has been heard without a break.
    since: Timestamp,
    members: Vec<Member>,
    secrets: u32,
    tally: Tally,
}

impl Site {
    /// So many HSMs in each of so many clusters. Each cluster has a key of its own, and its first two HSMs another.
    fn new(world: World, clusters: usize, each: usize) -> Self {
        let mut site = Self {
            world: Some(world),
            random: ChaCha8Rng::seed_from_u64(7),
            time: DAWN,
            ahead: 0,
            since: Timestamp(DAWN),
            members: Vec::new(),
            secrets: 0,
            tally: Tally::new(),
        };
        for cluster in 0..clusters {
            let (shared, other) = (site.key(&format!("key-{cluster}"), 1), site.key(&format!("other-{cluster}"), 1));
            for number in 0..each {
                let keys = if number < 2 { vec![shared.clone(), other.clone()] } else { vec![shared.clone()] };
                site.join(&format!("hsm-{cluster}-{number}"), &format!("cluster-{cluster}"), keys);
            }
        }
        site
    }

    fn world(&self) -> &World {
        self.world.as_ref().unwrap()
    }

    /// A key with a secret that no other has.
    fn key(&mut self, name: &str, epoch: u32) -> TestKey {
        self.secrets += 1;
        TestKey::numbered(name, epoch, self.secrets)
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn join(&mut self, name: &str, cluster: &str, keys: Vec<TestKey>) -> usize {
        let hsm = self.world().hsm(name, cluster);
        for key in &keys {
            hsm.enrol_key(self.world(), key).unwrap();
        }
        let (due, ahead) = (self.time + self.random.gen_range(0..AGAIN), self.random.gen_range(-CLOCK..=CLOCK));
        let (cluster, enrolment, late) = (cluster.to_owned(), 1, Vec::new());
        self.members.push(Member { hsm, cluster, enrolment, keys, ahead, due, asleep_until: 0, late });
        self.members.len() - 1
    }

    fn member(&self, name: &str) -> usize {
        self.members.iter().position(|member| member.hsm.id.as_str() == name).unwrap()
    }

    /// A request that an HSM signs by its own clock.
    fn call(&self, member: &Member) -> Result<HsmCaller, Problem> {
        let created = Timestamp(self.time.checked_add_signed(member.ahead).unwrap());
        let audience = self.world().manager.audience();
        let parts = RequestParts { audience, method: "POST", path: "/", body: b"" };
        let sign = |message: &[u8]| member.hsm.identity.sign(message).to_bytes();
        let authorization = RequestAuth::sign(member.hsm.id.clone(), created, &parts, sign).to_header();
        let request = SignedRequest { authorization: &authorization, method: "POST", path: "/", body: b"" };
        self.world().manager.authenticate(request)
    }

    fn ask(&self, member: &Member, key: &TestKey) -> Result<(HsmCaller, ChallengeRequest, Challenge), Problem> {
        let request = ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] };
        let caller = self.call(member)?;
        let challenge = self.world().manager.challenge(&caller, &request)?;
        Ok((caller, request, challenge))
    }

    fn prove(&self, member: &Member, key: &TestKey, challenge: &Challenge) -> Envelope {
        let mut context = member.hsm.context(self.world(), &member.cluster, key, challenge);
        context.enrolment = member.enrolment;
        member.hsm.seal(key, context)
    }

    /// One attestation, as it goes on most days and on others.
    fn attest(&mut self, at: usize, key: &TestKey) -> Result<(), Problem> {
        let luck = self.random.gen_range(0..100);
        let member = &self.members[at];
        let (caller, request, mut challenge) = self.ask(member, key)?;
        if luck < 5 {
            // The reply was lost, and the same bytes are sent again.
            assert_eq!(self.world().manager.challenge(&caller, &request)?.nonce, challenge.nonce);
            self.count("request again");
        } else if luck < 10 {
            // The HSM restarts, and remembers no challenge.
            challenge = self.ask(member, key)?.2;
            self.count("restart");
        } else if luck < 13 {
            // It is so busy that it answers too late, and then asks anew. The ledger's time waits for a clock set back.
            let envelope = self.prove(member, key, &challenge);
            let until = self.time + LATE;
            self.members[at].late.push((until, envelope));
            self.count("late");
            challenge = self.ask(&self.members[at], key)?.2;
        }
        let envelope = self.prove(&self.members[at], key, &challenge);
        let record = submit(self.world(), &envelope)?;
        if (20..30).contains(&luck) {
            assert_eq!(submit(self.world(), &envelope)?, record);
            self.count("envelope again");
        }
        self.count("attestation");
        Ok(())
    }

    /// Time passes, and whoever is due proves.
    fn step(&mut self) {
        self.time += STEP;
        self.world().advance(STEP as i64);
        for at in 0..self.members.len() {
            self.bring_late(at);
            let member = &self.members[at];
            if self.time < member.due || self.time < member.asleep_until {
                continue;
            }
            for key in self.members[at].keys.clone() {
                self.attest(at, &key).unwrap_or_else(|problem| panic!("{}: {problem}", self.members[at].hsm.id));
            }
            self.members[at].due = self.time + AGAIN - self.random.gen_range(0..60);
        }
        self.world().manager.tick(self.since).unwrap();
    }

    fn bring_late(&mut self, at: usize) {
        let time = self.time;
        let (now, later) =
            std::mem::take(&mut self.members[at].late).into_iter().partition(|(until, _)| *until <= time);
        self.members[at].late = later;
        for (_, envelope) in Vec::<(u64, Envelope)>::from_iter(now) {
            // Challenges that were given before a restart from a backup or a revocation would be unknown; here they expire.
            refused(submit(self.world(), &envelope), ProblemKind::ChallengeExpired);
            self.count("expired");
        }
    }

    fn steps(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// The manager is away for so many seconds, and starts again; whoever is due by then comes at once.
    fn outage(&mut self, seconds: u64) {
        self.world = self.world.take().map(World::reopen);
        self.time += seconds;
        self.world().advance(seconds as i64);
        self.since = self.world().now();
        self.count("outage");
    }

    /// The manager's clock is set, by little.
    fn nudge(&mut self, seconds: i64) {
        self.ahead += seconds;
        self.world().advance(seconds);
        self.count("clock");
    }

    /// One HSM goes on to the next epoch of its cluster's key, which others have or will have.
    fn rotate(&mut self, at: usize, to: &TestKey) {
        self.members[at].hsm.enrol_key(self.world(), to).unwrap();
        let keys = &mut self.members[at].keys;
        let old = keys.iter().position(|key| key.key.key == to.key.key).unwrap();
        keys[old] = to.clone();
        self.members[at].due = self.time;
        self.count("rotation");
    }

    /// An HSM loses its identity, and enrols again under its name.
    fn enrol_again(&mut self, at: usize) {
        let (name, cluster) = (self.members[at].hsm.id.clone(), self.members[at].cluster.clone());
        let request = JoinTokenRequest {
            cluster: cluster.parse().unwrap(),
            hsm: Some(name.clone()),
            reenrol: true,
            valid_for: 600,
        };
        let token = self.world().manager.create_join_token(&Caller::in_process(), &request).unwrap().secret;
        let hsm = TestHsm::new(name.as_str());
        let enrolment = hsm.enrol(self.world(), &token).unwrap();
        assert_eq!(enrolment.revision, self.members[at].enrolment + 1);
        let member = &mut self.members[at];
        (member.hsm, member.enrolment, member.due) = (hsm, enrolment.revision, self.time);
        // What it had not brought yet, it has lost.
        member.late.clear();
        self.count("enrolment again");
    }

    /// The rules that raised alerts, in order.
    fn raised(&self) -> Vec<Rule> {
        let alerts = self.world().manager.alerts(&Caller::in_process(), &AlertQuery::default()).unwrap().alerts;
        alerts.into_iter().map(|alert| alert.rule).collect()
    }

    /// About two and a half hours in which everything honest happens, under names that `round` makes new.
    fn days_work(&mut self, round: u32) {
        self.steps(10);
        // A cluster rotates, one HSM after the other.
        let next = self.key("key-0", 2 + round);
        let holders: Vec<_> = (0..self.members.len()).filter(|at| self.members[*at].cluster == "cluster-0").collect();
        for at in holders {
            self.rotate(at, &next);
            self.steps(2);
        }
        // The manager is away, long enough for every record to expire.
        self.outage(1200);
        self.steps(25);
        self.moves(round);
        let again = self.member("hsm-3-1");
        self.enrol_again(again);
        self.steps(8);
        for nudge in [NUDGE, -NUDGE, -NUDGE, NUDGE] {
            self.nudge(nudge);
            self.steps(6);
        }
        // An HSM is in repair, within the grace of its silence.
        let repaired = self.member("hsm-2-2");
        self.members[repaired].asleep_until = self.time + 3000;
        self.steps(10);
        self.mistake(2 + 2 * round);
        self.retires(round);
        // Briefly away, with challenges under way, and then for a night.
        self.outage(90);
        self.steps(40);
        self.outage(8 * 3600);
        self.steps(30);
    }

    /// A key moves from one cluster to another, as was declared.
    fn moves(&mut self, round: u32) {
        let key = self.key(&format!("moving-{round}"), 1);
        let (from, to) = (self.member("hsm-1-0"), self.member("hsm-2-0"));
        self.members[from].hsm.enrol_key(self.world(), &key).unwrap();
        self.members[from].keys.push(key.clone());
        self.steps(12);
        let (what, from_cluster, to_cluster) = (Migrant::Key(key.key.key.clone()), "cluster-1", "cluster-2");
        let request = MigrationRequest {
            what,
            from: from_cluster.parse().unwrap(),
            to: to_cluster.parse().unwrap(),
            valid_for: 3600,
        };
        self.world().manager.declare_migration(&Caller::in_process(), &request).unwrap();
        self.members[to].hsm.enrol_key(self.world(), &key).unwrap();
        self.members[to].keys.push(key.clone());
        self.steps(14);
        self.members[from].keys.retain(|held| held.key.key != key.key.key);
        self.count("migration");
    }

    /// One HSM enrols the wrong key under the cluster's name, and the cluster goes on to the next epoch within the grace.
    /// Takes two epochs.
    fn mistake(&mut self, epoch: u32) {
        let (right, wrong) = (self.key("key-1", epoch), self.key("key-1", epoch));
        let holders: Vec<_> = (0..self.members.len()).filter(|at| self.members[*at].cluster == "cluster-1").collect();
        for (number, at) in holders.iter().enumerate() {
            self.rotate(*at, if number == 1 { &wrong } else { &right });
        }
        self.steps(10);
        let corrected = self.key("key-1", epoch + 1);
        for at in holders {
            self.rotate(at, &corrected);
        }
        self.count("mistake");
    }

    /// An HSM is revoked while its agent runs: it hears so, now and then, and is switched off.
    fn retires(&mut self, round: u32) {
        let key = self.key(&format!("short-lived-{round}"), 1);
        let at = self.join(&format!("short-lived-{round}"), "cluster-3", vec![key.clone()]);
        self.steps(12);
        let id = self.members[at].hsm.id.clone();
        self.world().revoke(RevocationTarget::Hsm(id));
        for _ in 0..3 {
            refused(self.ask(&self.members[at], &key), ProblemKind::HsmRevoked);
        }
        self.members.remove(at);
        self.count("retirement");
    }

    /// That everything happened, nothing was taken for fraud, and every HSM stands well.
    fn is_well(&self) {
        assert_eq!(self.raised(), []);
        assert_eq!(self.world().events().iter().filter(|event| event.is_fraud()).count(), 0);
        for what in [
            "attestation",
            "request again",
            "envelope again",
            "restart",
            "late",
            "expired",
            "outage",
            "clock",
            "rotation",
            "enrolment again",
            "migration",
            "mistake",
            "retirement",
        ] {
            assert!(self.tally.contains_key(what), "no {what}: {:?}", self.tally);
        }
        let sightings =
            self.world().events().into_iter().filter(|event| matches!(event, EventKind::MigrationSighting { .. }));
        assert!(sightings.count() > 0);
        let status = self.world().manager.status(&Caller::in_process()).unwrap();
        for member in &self.members {
            for key in &member.keys {
                let found = status.keys.iter().find(|row| row.hsm == member.hsm.id && row.key == key.key);
                assert_eq!(found.unwrap().state, AttestationState::Attested, "{found:?}");
            }
        }
    }
}

#[test]
fn hours_of_honest_operation_raise_no_alert() {
    let mut site = Site::new(World::new(), 4, 4);
    site.days_work(0);
    site.is_well();
}

/// Two days of 48 HSMs over a real database.
#[test]
#[ignore = "takes minutes"]
fn days_of_honest_operation_raise_no_alert() {
    let mut site = Site::new(World::on_disk(), 6, 8);
    for round in 0..4 {
        site.days_work(round);
        site.is_well();
    }
}

/// Commits one fraud of a rule's, with HSMs that do nothing else.
fn commit(site: &mut Site, rule: Rule) {
    let caller = Caller::in_process();
    match rule {
        Rule::ForeignCluster => {
            let stolen = site.members[0].keys[0].clone();
            site.join("thief", "elsewhere", vec![stolen]);
            site.steps(20);
        }
        Rule::Drift => {
            let forged = site.key("key-0", 1);
            site.join("forger", "cluster-0", vec![forged]);
            site.steps(60);
        }
        Rule::TagsDiffer => statements::differing_tags(site.world()),
        Rule::FaultyDealing => site.world = site.world.take().map(sharing::bustle),
        Rule::UnfoundedComplaint => site.world = site.world.take().map(sharing::unfounded_complaint),
        Rule::RepeatedFailures => fail(site, 1, 5),
        Rule::FleetFailures => fail(site, 5, 2),
        Rule::Replay => {
            let key = site.key("own", 1);
            let hsm = site.world().hsm("replayer", "cluster-0");
            hsm.enrol_key(site.world(), &key).unwrap();
            let challenge = hsm.challenge(site.world(), &key).unwrap();
            submit(site.world(), &hsm.answer(site.world(), "cluster-0", &key, &challenge)).unwrap();
            let other = hsm.forge(&key, hsm.context(site.world(), "cluster-0", &key, &challenge));
            refused(submit(site.world(), &other), ProblemKind::ChallengeConsumed);
        }
        Rule::ImpossiblePace => {
            let key = site.key("oracle", 1);
            let hsm = site.world().hsm("oracle", "cluster-0");
            hsm.enrol_key(site.world(), &key).unwrap();
            for _ in 0..60 {
                hsm.attest(site.world(), "cluster-0", &key).unwrap();
            }
        }
        Rule::RevokedPersists => {
            let key = site.key("stubborn", 1);
            let at = site.join("stubborn", "cluster-0", vec![key.clone()]);
            let Member { hsm, cluster, .. } = &site.members[at];
            hsm.attest(site.world(), cluster, &key).unwrap();
            site.world().revoke_hsm(hsm);
            let member = site.members.remove(at);
            site.steps(3);
            for _ in 0..5 {
                refused(site.ask(&member, &key), ProblemKind::HsmRevoked);
                site.step();
            }
        }
        Rule::ClockSkew => {
            let key = site.key("fast", 1);
            let at = site.join("fast", "cluster-0", vec![key.clone()]);
            let mut member = site.members.remove(at);
            member.ahead = 300;
            for _ in 0..5 {
                refused(site.ask(&member, &key), ProblemKind::ClockSkew);
                site.steps(3);
            }
        }
        Rule::ManagerClock => {
            site.nudge(3600);
            for at in 0..site.members.len() {
                let key = site.members[at].keys[0].clone();
                refused(site.ask(&site.members[at], &key), ProblemKind::ClockSkew);
            }
        }
        Rule::SilentHsm => {
            site.members.pop();
            site.steps(150);
        }
        Rule::ForeignMeasurement => evidence::one_that_is_not_listed(site.world()),
        Rule::SharedDevice => evidence::two_of_one_device(site.world()),
    }
    // It stands in the events too, under the alert's number.
    let events = site.world().manager.events(&caller, 0).unwrap().events;
    assert_eq!(events.iter().filter(|event| event.alert.is_some()).count(), 1, "{rule}");
}

/// So many HSMs send so many wrong proofs each.
fn fail(site: &mut Site, hsms: usize, each: usize) {
    for number in 0..hsms {
        let key = site.key(&format!("wrong-{number}"), 1);
        let hsm = site.world().hsm(&format!("wrong-{number}"), "cluster-0");
        hsm.enrol_key(site.world(), &key).unwrap();
        for _ in 0..each {
            hsm.fail(site.world(), "cluster-0", &key);
        }
    }
}

#[test]
fn one_fraud_among_honest_operation_raises_its_rule_and_no_other() {
    for rule in Rule::ALL.iter().copied() {
        let mut site = Site::new(World::new(), 2, 3);
        site.steps(20);
        assert_eq!(site.raised(), [], "{rule}");
        commit(&mut site, rule);
        assert_eq!(site.raised(), [rule]);
        // Those who do as they should go on; nobody among them is suspended, and nothing more is raised. Where the manager's
        // clock is wrong, nobody can.
        if rule != Rule::ManagerClock {
            site.steps(20);
            assert_eq!(site.raised(), [rule]);
        }
    }
}

#[test]
fn what_is_simulated_is_signed_and_sent_like_everything_else() {
    let mut site = Site::new(World::new(), 1, 2);
    site.members[0].ahead = 61;
    let key = site.members[0].keys[0].clone();
    refused(site.ask(&site.members[0], &key), ProblemKind::ClockSkew);
    site.members[0].ahead = 60;
    let (_, _, challenge) = site.ask(&site.members[0], &key).unwrap();
    let envelope = site.prove(&site.members[0], &key, &challenge);
    assert_eq!(
        submit(site.world(), &envelope).unwrap().envelope,
        Envelope::from_bytes(&envelope.to_bytes()).unwrap().digest()
    );
}
