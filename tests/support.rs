//! A manager in a process of its own, and HSMs that do exactly what a test tells them: honest ones and others.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant, SystemTime},
};

use ed25519_dalek::{Signer as _, SigningKey};
use keywitness_circuits::{
    ClaimContext, Digest, Envelope, KeyAlgorithm, KeyAttributes, KeyClaim, KeyOrigin, Kind, Parameters, Suite,
    Timestamp, TrustDomain, codec::Canonical, context, key_knowledge::Witness, registry,
};
use keywitness_verifier::{
    channel,
    client::{ClientError, HsmSigner, ManagerClient},
    identity::{Audience, EnrolmentParts, IdentityKey},
    wire::{self, ProblemKind},
};

pub(crate) fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
}

/// Waits for something to become true. Ends with a panic, never silently.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A command line of the program.
pub(crate) fn program(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keywitness"));
    command.arg("--data").arg(data).args(arguments);
    command
}

/// A copy of the program, for a user who may not reach it where it was built.
///
/// Another process writes it: a child that a test beside this one starts at that moment would keep it open for writing, and what is
/// open for writing cannot be run.
pub(crate) fn program_in(directory: &Path) -> PathBuf {
    let copy = directory.join("keywitness");
    if !copy.exists() {
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_keywitness")).arg(&copy).status().unwrap().success());
    }
    copy
}

/// Runs the program to its end.
pub(crate) fn keywitness(data: &Path, arguments: &[&str]) -> Output {
    program(data, arguments).output().unwrap()
}

/// Runs the program, expects success, and reads its JSON.
pub(crate) fn keywitness_json(data: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = keywitness(data, &[&["--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A program that runs until it is dropped or killed.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        Self::spawn(program(data, arguments))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// `kill -TERM`, and how the program ends.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        let status = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(status.success());
        self.0.wait().unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A manager in a process and a directory of its own.
pub(crate) struct Manager {
    pub(crate) data: PathBuf,
    _directory: tempfile::TempDir,
    process: Running,
    flags: Vec<String>,
    /// What starts the program in its stead, with its command line: nothing, or a shell's words.
    shell: Option<String>,
}

impl Manager {
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_by(None, flags)
    }

    /// Starts it by a line of the shell, where `"$@"` stands for the command line.
    pub(crate) fn start_by(shell: Option<String>, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().to_owned();
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let process = Self::launch(&data, &flags, shell.as_deref());
        Self { data, _directory: directory, process, flags, shell }
    }

    /// The process id of the manager.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    fn launch(data: &Path, flags: &[String], shell: Option<&str>) -> Running {
        let _ = std::fs::remove_file(data.join("manager.address"));
        let fixed = ["manager", "--listen", "127.0.0.1:0", "--trust-domain", "acme.example", "--suites", "halo2-pasta"];
        let arguments: Vec<&str> = fixed.into_iter().chain(flags.iter().map(String::as_str)).collect();
        let command = program(data, &arguments);
        let mut process = Running::spawn(match shell {
            None => command,
            Some(line) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", line, "sh"]).arg(command.get_program()).args(command.get_args());
                shell
            }
        });
        eventually("the manager's address", || {
            assert!(process.is_running(), "the manager ended");
            std::fs::read_to_string(data.join("manager.address")).ok().filter(|text| text.contains("http"))
        });
        process
    }

    /// `kill -9`, and start again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts again what was killed.
    pub(crate) fn restart(&mut self) {
        self.process = Self::launch(&self.data, &self.flags, self.shell.as_deref());
    }

    pub(crate) fn anonymous(&self) -> ManagerClient {
        let address = std::fs::read_to_string(self.data.join("manager.address")).unwrap();
        let client = ManagerClient::new(address.trim()).unwrap();
        if !client.is_secure() {
            return client;
        }
        client.with_roots(&std::fs::read_to_string(self.data.join("manager/manager.ca.pem")).unwrap()).unwrap()
    }

    pub(crate) fn operator(&self) -> ManagerClient {
        let secret = std::fs::read_to_string(self.data.join("manager/operator.credential")).unwrap();
        self.anonymous().with_credential(secret.trim())
    }

    pub(crate) fn with_role(&self, role: wire::Role) -> ManagerClient {
        let request = wire::CredentialRequest::new("test", role);
        self.anonymous().with_credential(self.operator().credential(&request).unwrap().secret)
    }

    pub(crate) fn fraud(&self) -> Vec<wire::EventKind> {
        let events = self.operator().events(0).unwrap().events;
        events.into_iter().map(|event| event.kind).filter(wire::EventKind::is_fraud).collect()
    }
}

/// An HSM with an identity of its own.
pub(crate) struct Hsm {
    pub(crate) id: keywitness_circuits::HsmId,
    pub(crate) identity: SigningKey,
    pub(crate) enrolment: wire::Enrolment,
    pub(crate) audience: Audience,
    pub(crate) client: ManagerClient,
}

impl HsmSigner for Hsm {
    fn audience(&self) -> &Audience {
        &self.audience
    }
    fn hsm(&self) -> &keywitness_circuits::HsmId {
        &self.id
    }
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.identity.sign(message).to_bytes()
    }
    fn now(&self) -> Timestamp {
        now()
    }
}

/// The audience of a manager.
pub(crate) fn audience(client: &ManagerClient) -> Audience {
    let info = client.trust_domain().unwrap();
    Audience { trust_domain: info.trust_domain, manager: info.manager }
}

impl Hsm {
    /// Enrols a new HSM into a cluster.
    pub(crate) fn enrol(manager: &Manager, cluster: &str, name: &str) -> Self {
        let client = manager.anonymous();
        let request =
            wire::JoinTokenRequest { cluster: cluster.parse().unwrap(), hsm: None, reenrol: false, valid_for: 60 };
        let token = manager.operator().join_token(&request).unwrap();
        let identity = SigningKey::generate(&mut rand::rngs::OsRng);
        let (_, channel_key) = channel::generate_key();
        let audience = audience(&client);
        let request = enrol_request(&audience, &token.secret, name, &identity, &channel_key);
        let enrolment = client.enrol(&request).unwrap();
        Self { id: name.parse().unwrap(), identity, enrolment, audience, client }
    }

    /// Enrols a key of this HSM.
    pub(crate) fn enrol_key(&self, key: &Key) {
        let request = wire::EnrolKeyRequest {
            key: key.name.parse().unwrap(),
            epoch: 1,
            attributes: key.attributes(),
            instances: vec![wire::Base64(key.instance(&self.audience.trust_domain))],
        };
        self.client.enrol_key(self, &request).unwrap();
    }

    pub(crate) fn challenge(&self, key: &Key) -> Result<wire::Challenge, ClientError> {
        let keys = vec![wire::KeyRef { key: key.name.parse().unwrap(), epoch: 1 }];
        self.client.challenge(self, &wire::ChallengeRequest { statement: key.kind().name().to_owned(), keys })
    }

    /// The context that the manager expects for a challenge.
    pub(crate) fn context(&self, key: &Key, challenge: &wire::Challenge) -> ClaimContext {
        let instance = key.instance(&self.audience.trust_domain);
        ClaimContext {
            statement: key.kind().name().to_owned(),
            verifying_key: registry::verifying_key(&Parameters::transparent(), key.kind()).unwrap(),
            trust_domain: self.audience.trust_domain.clone(),
            manager: self.audience.manager.clone(),
            cluster: self.enrolment.cluster.clone(),
            hsm: self.id.clone(),
            enrolment: self.enrolment.revision,
            keys: vec![KeyClaim { key: key.name.parse().unwrap(), epoch: 1, attributes: key.attributes().digest() }],
            instance: context::instance_digest(&instance),
            challenge: challenge.nonce,
            not_before: challenge.not_before,
            not_after: challenge.not_after,
            checkpoint: None,
            evidence: None,
        }
    }

    /// Proves whatever the context says, as far as the registry lets it, and signs it.
    pub(crate) fn envelope(&self, key: &Key, context: ClaimContext) -> Envelope {
        let instance = key.instance(&self.audience.trust_domain);
        let proof = registry::prove(&Parameters::transparent(), &context, &instance, &key.witness().into());
        // Where the context is one that no proof can be made for, bytes of the right length stand in.
        let proof = proof.unwrap_or_else(|_| vec![1; 65]);
        Envelope::seal(context, instance, proof, |message| self.identity.sign(message).to_bytes())
    }

    /// One honest attestation.
    pub(crate) fn attest(&self, key: &Key) -> Result<wire::Record, ClientError> {
        let challenge = self.challenge(key)?;
        let mut answer = self.client.attest(&self.envelope(key, self.context(key, &challenge)))?;
        assert_eq!(answer.records.len(), 1);
        Ok(answer.records.remove(0))
    }
}

pub(crate) fn enrol_request(
    audience: &Audience,
    join_token: &str,
    name: &str,
    identity: &SigningKey,
    channel_key: &[u8; 32],
) -> wire::EnrolRequest {
    let hsm = name.parse().unwrap();
    let identity_key = IdentityKey::from_bytes(identity.verifying_key().to_bytes()).unwrap();
    let parts = EnrolmentParts { audience, join_token, hsm: &hsm, identity_key: &identity_key, channel_key };
    let signature = parts.sign(|message| identity.sign(message).to_bytes());
    wire::EnrolRequest {
        join_token: join_token.to_owned(),
        identity_key,
        channel_key: Digest(*channel_key),
        signature: wire::Base64(signature.to_vec()),
        hsm,
    }
}

/// A key that HSMs share.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) secret: u8,
}

impl Key {
    pub(crate) fn kind(&self) -> Kind {
        self.algorithm.kinds(&[Suite::Halo2Pasta])[0]
    }

    pub(crate) fn witness(&self) -> Witness {
        let bytes: Vec<u8> = (0..32).map(|i| if i == 31 { 1 } else { self.secret ^ i }).collect();
        Witness::new(self.algorithm, &bytes).unwrap()
    }

    pub(crate) fn instance(&self, trust_domain: &TrustDomain) -> Vec<u8> {
        self.witness().instance(trust_domain, Suite::Halo2Pasta).unwrap().to_bytes()
    }

    pub(crate) fn attributes(&self) -> KeyAttributes {
        KeyAttributes::new(self.algorithm, KeyOrigin::Imported, false)
    }
}

/// The kind of refusal that a call ended with.
pub(crate) fn problem<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ProblemKind {
    result.unwrap_err().problem_kind().expect("the manager refused, with a problem of a known kind")
}
