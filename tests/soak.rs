//! A fleet under everything that happens to one: HSMs that are removed, restarted and whose clocks are set, and a manager that is killed and
//! comes back. At the end every key is fresh, and nobody was suspected of anything.
//!
//! A minute with 12 HSMs; with `KEYWITNESS_SOAK=MINUTES`, so many minutes with 50.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use keywitness_circuits::{KeyAlgorithm, Parameters, Timestamp};
use keywitness_prover::{
    Agent, AgentConfig, AgentError, Placement, SoftwareStore, Stop, SystemClock, Unlock, create_key_file,
};
use keywitness_verifier::{
    client::ManagerClient,
    wire::{AttestationState, JoinTokenRequest, Reason, RevocationTarget, RevokeRequest},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    agent::lasting_manager,
    support::{Manager, eventually, now},
};

/// HSMs of one cluster, which have the same keys.
const CLUSTER: usize = 5;

/// What a fleet goes through.
struct Plan {
    hsms: usize,
    lasts: Duration,
    /// The manager is killed when so much of the time is over, for so long.
    outage: (f64, Duration),
    record_ttl: &'static str,
    /// All HSMs prove on one machine, in the worst case all at once.
    challenge_ttl: &'static str,
    /// Furthest that an HSM's clock is set, in seconds: beyond a record's life its claims would be over before they are made, and beyond a
    /// minute it is told of as fraud.
    step: i64,
    between: Duration,
}

impl Plan {
    fn chosen() -> Self {
        let minutes =
            std::env::var("KEYWITNESS_SOAK").ok().map(|text| text.parse::<u64>().expect("KEYWITNESS_SOAK=MINUTES"));
        match minutes {
            None => Self {
                hsms: 12,
                lasts: Duration::from_secs(45),
                outage: (0.4, Duration::from_secs(6)),
                record_ttl: "20s",
                challenge_ttl: "10s",
                step: 6,
                between: Duration::from_millis(1500),
            },
            Some(minutes) => Self {
                hsms: 50,
                lasts: Duration::from_secs(60 * minutes.max(2)),
                outage: (0.4, Duration::from_secs(60)),
                record_ttl: "60s",
                challenge_ttl: "50s",
                step: 20,
                between: Duration::from_secs(2),
            },
        }
    }
}

/// A clock that is set now and then, beside one that nobody sets.
struct SetClock(AtomicI64);

impl keywitness_prover::Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0.saturating_add_signed(self.0.load(Ordering::Relaxed)))
    }

    fn steady(&self) -> Timestamp {
        SystemClock.steady()
    }
}

/// An HSM, whose agent runs in a thread.
struct Hsm {
    name: String,
    directory: tempfile::TempDir,
    clock: Arc<SetClock>,
    running: Option<(Stop, JoinHandle<Result<(), AgentError>>)>,
}

impl Hsm {
    /// A new HSM with its cluster's keys and one of its own, whose agent runs.
    fn join(number: usize, manager: &Manager) -> Self {
        let hsm = Self {
            name: format!("hsm-{number}"),
            directory: tempfile::tempdir().unwrap(),
            clock: Arc::new(SetClock(AtomicI64::new(0))),
            running: None,
        };
        let cluster = number % 50 / CLUSTER;
        create_key_file(&hsm.directory.path().join("store.key")).unwrap();
        let store = SoftwareStore::create(&hsm.directory.path().join("store"), &hsm.unlock()).unwrap();
        for (name, algorithm) in [
            ("signing", KeyAlgorithm::Ed25519),
            ("tls", KeyAlgorithm::P256),
            ("sealing", KeyAlgorithm::Ristretto255),
            ("storage", KeyAlgorithm::Aes256),
        ] {
            let secret: [u8; 32] = std::array::from_fn(|at| if at == 31 { 1 } else { cluster as u8 ^ at as u8 ^ 0x5a });
            store.import(&name.parse().unwrap(), algorithm, &secret, Placement::New).unwrap();
        }
        store.generate(&format!("own-{number}").parse().unwrap(), KeyAlgorithm::Ed25519, Placement::New).unwrap();
        let request = JoinTokenRequest {
            cluster: format!("cluster-{cluster}").parse().unwrap(),
            hsm: None,
            reenrol: false,
            valid_for: 600,
        };
        let token = manager.operator().join_token(&request).unwrap().secret;
        let agent = hsm.agent(store, manager);
        agent.enrol(&hsm.name.parse().unwrap(), &token).unwrap();
        drop(agent);
        let mut hsm = hsm;
        hsm.start(manager);
        hsm
    }

    fn unlock(&self) -> Unlock {
        Unlock::KeyFile(self.directory.path().join("store.key"))
    }

    fn agent(&self, store: SoftwareStore, manager: &Manager) -> Agent {
        let config = AgentConfig {
            journal: Some(self.directory.path().join("journal")),
            attest_at_start: false,
            ..AgentConfig::default()
        };
        let address = std::fs::read_to_string(manager.data.join("manager.address")).unwrap();
        let client = ManagerClient::new(address.trim()).unwrap();
        Agent::new(Arc::new(store), client, Parameters::transparent(), config).unwrap().with_clock(self.clock.clone())
    }

    fn start(&mut self, manager: &Manager) {
        let path = self.directory.path().join("store");
        let store = SoftwareStore::open(&path, &self.unlock(), keywitness_prover::Access::Write).unwrap();
        let (agent, stop) = (self.agent(store, manager), Stop::new());
        let flag = stop.clone();
        self.running = Some((stop, std::thread::spawn(move || agent.run(&flag))));
    }

    fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.stop();
            thread.join().unwrap().unwrap();
        }
    }
}

/// What happens, one thing after the other.
struct Fate {
    hsms: Vec<Hsm>,
    born: usize,
    happened: [usize; 3],
    rng: StdRng,
    step: i64,
}

impl Fate {
    fn strike(&mut self, manager: &Manager, away: bool) {
        let place = self.rng.gen_range(0..self.hsms.len());
        // Nobody joins while the manager is away.
        match self.rng.gen_range(0..if away { 8 } else { 10 }) {
            0..4 => {
                self.happened[0] += 1;
                self.hsms[place].stop();
                self.hsms[place].start(manager);
            }
            4..8 => {
                self.happened[1] += 1;
                self.hsms[place].clock.0.store(self.rng.gen_range(-self.step..=self.step), Ordering::Relaxed);
            }
            _ => {
                self.happened[2] += 1;
                let mut gone = self.hsms.swap_remove(place);
                // Half of them are switched off first, as they should be.
                let orderly = self.rng.r#gen();
                if orderly {
                    gone.stop();
                }
                let target = RevocationTarget::Hsm(gone.name.parse().unwrap());
                manager.operator().revoke(&RevokeRequest { target, reason: Reason::from("removed") }).unwrap();
                gone.stop();
                self.hsms.push(Hsm::join(self.born, manager));
                self.born += 1;
            }
        }
    }
}

#[test]
fn a_fleet_stays_fresh_through_removals_restarts_clock_steps_and_an_outage() {
    let plan = Plan::chosen();
    let mut manager = lasting_manager(&["--record-ttl", plan.record_ttl, "--challenge-ttl", plan.challenge_ttl]);
    let hsms = (0..plan.hsms).map(|number| Hsm::join(number, &manager)).collect();
    let mut fate = Fate { hsms, born: plan.hsms, happened: [0; 3], rng: StdRng::seed_from_u64(7), step: plan.step };
    let (begun, mut away, mut outages) = (Instant::now(), false, 0);
    let (when, long) = (plan.lasts.mul_f64(plan.outage.0), plan.outage.1);
    while begun.elapsed() < plan.lasts {
        let over = begun.elapsed() >= when + long;
        match away {
            false if begun.elapsed() >= when && !over => {
                manager.kill();
                (away, outages) = (true, outages + 1);
            }
            true if over => {
                manager.restart();
                away = false;
            }
            _ => {}
        }
        fate.strike(&manager, away);
        std::thread::sleep(plan.between);
    }
    let [restarts, steps, removals] = fate.happened;
    println!(
        "{} HSMs: {restarts} restarts, {steps} clock steps, {removals} removals, an outage of {long:?}",
        plan.hsms
    );
    assert!(outages == 1 && !away && restarts > 2 && steps > 2 && removals > 0);
    let names: BTreeSet<String> = fate.hsms.iter().map(|hsm| hsm.name.clone()).collect();
    let over = now();
    eventually("every key to be fresh", || {
        let status = manager.operator().status().unwrap();
        let ours: Vec<_> = status.keys.iter().filter(|key| names.contains(key.hsm.as_str())).collect();
        let fresh = ours.iter().all(|key| {
            let proven = key.statements.iter().all(|statement| statement.proven_at.is_some_and(|at| at >= over));
            key.state == AttestationState::Attested && proven
        });
        (ours.len() == 5 * names.len() && fresh).then_some(())
    });
    for hsm in &mut fate.hsms {
        assert!(hsm.running.as_ref().is_some_and(|(_, thread)| !thread.is_finished()), "{}", hsm.name);
        hsm.stop();
    }
    assert_eq!(manager.fraud(), []);
}
