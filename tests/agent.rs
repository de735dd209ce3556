//! The agent as a daemon: settings that change while it runs, a manager that goes and comes, restarts, how it ends, what it measures.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use keywitness_verifier::wire::{AttestationState, JoinTokenRequest};

use crate::support::{Manager, Running, eventually, keywitness, keywitness_json, program};

/// An HSM with a store and a settings file.
pub(crate) struct Daemon {
    directory: tempfile::TempDir,
    name: String,
}

impl Daemon {
    pub(crate) fn new(manager: &Manager, name: &str, keys: &[(&str, &str)]) -> Self {
        let daemon = Self { directory: tempfile::tempdir().unwrap(), name: name.to_owned() };
        for folder in ["hsm", "etc"] {
            fs::create_dir(daemon.directory.path().join(folder)).unwrap();
        }
        daemon.invite(manager);
        for (key, algorithm) in keys {
            daemon.run(&["key", "generate", "--key", key, "--algorithm", algorithm]);
        }
        daemon
    }

    fn invite(&self, manager: &Manager) {
        let request =
            JoinTokenRequest { cluster: "payments".parse().unwrap(), hsm: None, reenrol: false, valid_for: 600 };
        fs::write(self.path("token"), manager.operator().join_token(&request).unwrap().secret).unwrap();
    }

    /// The store's file has a directory of its own, since the agent gives up what is made later beside it and above, and the settings have one.
    fn path(&self, name: &str) -> String {
        let folder = match name {
            store if store.starts_with("store") => "hsm",
            settings if settings.starts_with("agent.toml") => "etc",
            _ => ".",
        };
        self.directory.path().join(folder).join(name).to_str().unwrap().to_owned()
    }

    /// A command about its store.
    pub(crate) fn run(&self, words: &[&str]) -> serde_json::Value {
        let unlock = ["--store", &self.path("store"), "--key-file", &self.path("store.key")];
        keywitness_json(self.directory.path(), &[words, &unlock].concat())
    }

    /// Writes the settings: those of every agent here, and these lines.
    pub(crate) fn set(&self, lines: &str) {
        let text = format!(
            "store = {:?}\nkey-file = {:?}\nhsm = {:?}\njoin-token-file = {:?}\nchannel = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n{lines}",
            self.path("store"),
            self.path("store.key"),
            self.name,
            self.path("token"),
        );
        // As an editor does.
        fs::write(self.path("agent.toml.new"), text).unwrap();
        fs::set_permissions(self.path("agent.toml.new"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(self.path("agent.toml.new"), self.path("agent.toml")).unwrap();
    }

    fn command(&self, manager: &Manager, more: &[&str]) -> Command {
        let address = fs::read_to_string(manager.data.join("manager.address")).unwrap();
        let settings = self.path("agent.toml");
        let words = match more.contains(&"--manager") {
            true => vec!["agent", "--settings", &settings],
            false => vec!["agent", "--manager", address.trim(), "--settings", &settings],
        };
        program(self.directory.path(), &[&words, more].concat())
    }

    /// Its agent, which writes what it says to a file.
    pub(crate) fn start(&self, manager: &Manager, more: &[&str]) -> Running {
        fs::write(self.path("said"), "").unwrap();
        let mut command = self.command(manager, more);
        let said = fs::OpenOptions::new().append(true).open(self.path("said")).unwrap();
        command.stderr(Stdio::from(said));
        Running::spawn(command)
    }

    /// How its agent ends that cannot begin, and what it says.
    fn end(&self, manager: &Manager, more: &[&str]) -> (Option<i32>, String) {
        let output = self.command(manager, more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    /// Asks the agent that runs now.
    fn ask(&self, path: &str) -> Option<(u16, String)> {
        let said = self.said();
        let base = said.lines().find_map(|line| line.strip_prefix("metrics at ")?.strip_suffix("/metrics"))?;
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.get(format!("{base}{path}")).call().ok()?;
        Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
    }

    /// A measurement, or the sum of those with such labels.
    pub(crate) fn measured(&self, name: &str) -> Option<f64> {
        let (status, text) = self.ask("/metrics")?;
        assert_eq!(status, 200);
        let lines =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        let values: Vec<f64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Waits until every record is in force.
    pub(crate) fn ready(&self) {
        eventually("an agent that is ready", || (self.ask("/readyz")?.0 == 200).then_some(()));
    }
}

fn hang_up(agent: &Running) {
    assert!(Command::new("kill").args(["-HUP", &agent.id().to_string()]).status().unwrap().success());
}

/// A manager that comes back at the same address.
pub(crate) fn lasting_manager(flags: &[&str]) -> Manager {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = format!("listen.address={address}");
    Manager::start(&[&["--set", &listen], flags].concat())
}

const IN_FORCE: &str = "keywitness_agent_attestations{state=\"in-force\"}";

#[test]
fn settings_are_read_again_and_a_mistake_changes_nothing() {
    let manager = Manager::start(&[]);
    let data = manager.data.as_path();
    let credential = keywitness_json(data, &["credential", "--role", "client", "--name", "shop"]);
    let client = credential["client_key"].as_str().unwrap();
    let secret = data.join("client.credential");
    let mut file = fs::OpenOptions::new();
    let mut file =
        std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600).write(true).create(true).open(secret).unwrap();
    file.write_all(credential["secret"].as_str().unwrap().as_bytes()).unwrap();
    let sign = || keywitness(data, &["sign", "--key", "signing-1", "--message", "hello"]);
    let signs = || sign().status.success().then_some(());

    let daemon = Daemon::new(&manager, "hsm-1", &[("signing-1", "p256")]);
    daemon.set("allow-client = []\n");
    let mut agent = daemon.start(&manager, &[]);
    daemon.ready();
    let refused = sign();
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    daemon.set(&format!("allow-client = [{client:?}]\nlog = \"info\"\n"));
    hang_up(&agent);
    eventually("a signature for the new client", signs);

    // A mistake, even beside what is right, changes nothing.
    let reloads = |outcome: &str| daemon.measured(&format!("keywitness_agent_reloads_total{{outcome={outcome:?}}}"));
    assert_eq!((reloads("applied"), reloads("refused")), (Some(1.0), Some(0.0)));
    daemon.set("allow-client = []\nlog = \"info\"\nallow-clients = []\n");
    hang_up(&agent);
    eventually("a refusal", || (reloads("refused")? == 1.0).then_some(()));
    assert!(daemon.said().contains("allow-client?"), "{}", daemon.said());
    assert!(signs().is_some());
    daemon.set("allow-client = [\"xx\"]\nlog = \"info\"\n");
    hang_up(&agent);
    eventually("a second refusal", || (reloads("refused")? == 2.0).then_some(()));
    assert!(signs().is_some());

    // What needs a restart is told, and so is a peer that the process with the keys does not know.
    daemon.set(&format!("allow-client = []\nlog = \"info\"\nproving-threads = 1\npeer = [{client:?}]\n"));
    hang_up(&agent);
    eventually("no more signatures", || (sign().status.code() == Some(1)).then_some(()));
    eventually("what waits for a restart", || {
        let said = daemon.said();
        let line = said.lines().find(|line| line.contains("wait until the agent is started again"))?.to_owned();
        (line.contains("proving-threads") && line.contains("peer (the new ones")).then_some(())
    });

    // The last peer goes, and how often it was asked stays.
    daemon.set(&format!("copies-every = \"5s\"\ntake-rotations = true\npeer = [{client:?}]\n"));
    hang_up(&agent);
    eventually("a peer", || (reloads("applied")? == 3.0).then_some(()));
    daemon.set("copies-every = \"5s\"\ntake-rotations = true\n");
    hang_up(&agent);
    eventually("no peer", || (reloads("applied")? == 4.0).then_some(()));
    assert_eq!(reloads("refused"), Some(2.0));
    assert!(agent.is_running() && agent.terminate().success());
}

#[test]
fn a_manager_that_was_away_is_caught_up_with() {
    let mut manager = lasting_manager(&["--record-ttl", "12s", "--challenge-ttl", "6s"]);
    let keys: Vec<_> = (0..20).map(|number| format!("signing-{number}")).collect();
    let mut keys: Vec<_> = keys.iter().map(|key| (key.as_str(), "ed25519")).collect();
    keys.push(("storage", "aes128"));
    let daemon = Daemon::new(&manager, "hsm-1", &keys);
    daemon.set("");
    let mut agent = daemon.start(&manager, &[]);
    daemon.ready();
    eventually("all records in force", || (daemon.measured(IN_FORCE)? == 21.0).then_some(()));
    manager.kill();
    eventually("an agent that misses its manager", || {
        (daemon.measured("keywitness_agent_manager_answers")? == 0.0).then_some(())
    });
    eventually("records that expire", || (daemon.measured(IN_FORCE)? == 0.0).then_some(()));
    let (status, why) = daemon.ask("/readyz").unwrap();
    assert!(status == 503 && why.contains("does not answer"), "{status}: {why}");
    assert_eq!(daemon.ask("/healthz").unwrap().0, 200);
    manager.restart();
    daemon.ready();
    let status = manager.operator().status().unwrap();
    assert!(
        status.keys.len() == 21 && status.keys.iter().all(|key| key.state == AttestationState::Attested),
        "{status:?}"
    );
    // While it was away, one batch of each lane came to nothing, and not one after the other.
    let journal = fs::read_to_string(daemon.path("store.journal")).unwrap();
    let unanswered = journal.lines().filter(|line| line.contains("\"unanswered\"")).count();
    assert!(unanswered <= 2 * 21, "{unanswered}");
    assert!(daemon.said().contains("the manager is back"));
    assert!(manager.fraud().is_empty() && agent.terminate().success());
}

#[test]
fn a_restart_attests_nothing_that_is_fresh() {
    // The first slot is a tenth of a record's life after the start: this test is over by then, however slow the machine is.
    let manager = Manager::start(&["--record-ttl", "6h"]);
    let daemon = Daemon::new(&manager, "hsm-1", &[("signing", "ed25519"), ("other", "p256"), ("storage", "aes256")]);
    daemon.set("");
    let attempts = || daemon.measured("keywitness_agent_attempts_total");
    let mut agent = daemon.start(&manager, &[]);
    daemon.ready();
    eventually("word of three attempts", || (attempts()? == 3.0).then_some(()));
    assert!(agent.terminate().success());
    let mut agent = daemon.start(&manager, &[]);
    daemon.ready();
    assert_eq!((attempts(), daemon.measured(IN_FORCE)), (None, Some(3.0)));
    // A key that is new is attested, and nothing else.
    assert!(agent.terminate().success());
    daemon.run(&["key", "generate", "--key", "later", "--algorithm", "secp256k1"]);
    let mut agent = daemon.start(&manager, &[]);
    eventually("the new key", || (daemon.measured(IN_FORCE)? == 4.0).then_some(()));
    eventually("word of one attempt", || (attempts()? == 1.0).then_some(()));
    agent.kill();
    let _agent = daemon.start(&manager, &["--attest-at-start"]);
    eventually("all of them", || (attempts()? == 4.0).then_some(()));
    daemon.ready();
    assert_eq!(manager.operator().status().unwrap().keys.len(), 4);
    assert!(manager.fraud().is_empty());
}

#[test]
fn an_agent_says_by_its_exit_code_why_it_does_not_begin() {
    let manager = Manager::start(&[]);
    let daemon = Daemon::new(&manager, "hsm-1", &[("signing", "ed25519")]);
    let told = |expected: i32, (code, said): (Option<i32>, String), words: &str| {
        assert!(code == Some(expected) && said.contains(words), "{expected}, {words}: {code:?}: {said}");
    };
    daemon.set("stor = 1\n");
    told(2, daemon.end(&manager, &[]), "agent.toml:7: stor: there is no such setting; is it store?");
    daemon.set("");
    told(2, daemon.end(&manager, &["--nonsense"]), "--nonsense");
    told(2, daemon.end(&manager, &["--log", "debgu"]), "is no level");
    told(4, daemon.end(&manager, &["--metrics", "0.0.0.0:0"]), "--metrics-beyond-loopback");
    told(3, daemon.end(&manager, &["--manager", "http://127.0.0.1:1"]), "cannot be reached");
    told(7, daemon.end(&manager, &["--store", "/nonexistent/store"]), "there is no key store");
    fs::write(daemon.path("other.key"), "0".repeat(64)).unwrap();
    told(7, daemon.end(&manager, &["--key-file", &daemon.path("other.key")]), "keywitness: ");
    told(8, daemon.end(&manager, &["--isolation", "required", "--unconfined"]), "isolation is required");
    fs::rename(daemon.path("token"), daemon.path("good")).unwrap();
    fs::write(daemon.path("token"), "kw_join_nonsense").unwrap();
    assert_eq!(daemon.end(&manager, &[]).0, Some(1));
    // The file's token is one that an enrolled HSM needs no more; without any, a store that is not enrolled is told of.
    let text = fs::read_to_string(daemon.path("agent.toml")).unwrap();
    let without: Vec<_> = text.lines().filter(|line| !line.starts_with("join-token-file")).collect();
    fs::write(daemon.path("agent.toml"), without.join("\n")).unwrap();
    told(5, daemon.end(&manager, &[]), "this store is not enrolled");
    fs::rename(daemon.path("good"), daemon.path("token")).unwrap();
    daemon.set("");
    let mut agent = daemon.start(&manager, &[]);
    daemon.ready();
    // While it runs, the store is its own.
    told(7, daemon.end(&manager, &[]), "");
    assert_eq!(agent.terminate().code(), Some(0));
    let other = Manager::start(&["--manager-id", "manager-2"]);
    told(6, daemon.end(&other, &[]), "is enrolled with manager-1");
    told(6, daemon.end(&manager, &["--hsm", "hsm-2"]), "this store belongs to HSM hsm-1");
}

#[test]
fn systemd_is_told_when_the_agent_has_begun_and_when_it_stops() {
    let manager = Manager::start(&[]);
    let daemon = Daemon::new(&manager, "hsm-1", &[("signing", "ed25519")]);
    daemon.set("");
    let socket = UnixDatagram::bind(daemon.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut command = daemon.command(&manager, &[]);
    command.env("NOTIFY_SOCKET", daemon.path("notify")).stderr(Stdio::null());
    let mut agent = Running::spawn(command);
    assert_eq!(heard(), "READY=1");
    assert!(agent.terminate().success());
    assert_eq!(heard(), "STOPPING=1");
}

#[test]
fn measurements_name_no_key_and_no_hsm() {
    let manager = Manager::start(&[]);
    let daemon = Daemon::new(&manager, "hsm-of-alice", &[("signing-of-alice", "ed25519"), ("storage", "aes128")]);
    daemon.set("");
    let _agent = daemon.start(&manager, &[]);
    daemon.ready();
    let (_, text) = daemon.ask("/metrics").unwrap();
    assert!(!text.contains("alice") && !text.contains("storage"), "{text}");
    let expected = BTreeMap::from([
        (IN_FORCE, 2.0),
        ("keywitness_agent_attestations{state=\"unproven\"}", 0.0),
        ("keywitness_agent_failing", 0.0),
        ("keywitness_agent_manager_answers", 1.0),
        ("keywitness_agent_proof_duration_seconds_count", 2.0),
        ("keywitness_agent_proving_process_restarts_total", 0.0),
        ("keywitness_agent_ready", 1.0),
    ]);
    for (name, value) in expected {
        assert_eq!(daemon.measured(name), Some(value), "{name}: {text}");
    }
    assert!(daemon.measured("process_resident_memory_bytes").unwrap() > 1e6);
    // A proving process that is killed is told of.
    let workers = || -> Vec<PathBuf> {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let ours = |path: &PathBuf| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("\0--work\0") && line.contains(&daemon.path("store"))
        };
        processes.filter(ours).collect()
    };
    let [worker] = &workers()[..] else { panic!("one proving process") };
    let pid = worker.file_name().unwrap().to_str().unwrap();
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    eventually("its successor", || {
        (daemon.measured("keywitness_agent_proving_process_restarts_total")? == 1.0).then_some(())
    });
}
