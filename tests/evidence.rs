//! Evidence of a TPM, from the TPM to the token: swtpm, tpm2-tools, our evidence program, an agent and a manager as people run them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use data_encoding::{BASE64, HEXLOWER};
use keywitness_circuits::{Digest, Nonce};
use keywitness_verifier::{
    evidence::{Evidence, EvidenceContext, Format},
    token::{Expected, Tier, VerifiedToken, verify_at_any_tier},
    wire::{self, Base64, EventKind, EvidenceStanding, ProblemKind, Role},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::{Hsm, Manager, Running, eventually, keywitness, keywitness_json, now, problem, program};

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A TPM of its own, with an authority that certifies its endorsement key.
struct Tpm {
    directory: tempfile::TempDir,
    process: Running,
}

impl Tpm {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for inner in ["state", "evidence"] {
            fs::create_dir(directory.path().join(inner)).unwrap();
        }
        let process = Self::boot(directory.path());
        let tpm = Self { directory, process };
        tpm.run(
            "openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -new -x509 -key ca.key -sha256 -days 7300 -subj '/CN=Maker of TPMs' \
                -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
                -outform der -out evidence/issuers.der
            openssl x509 -inform der -in evidence/issuers.der -out ca.pem
            tpm2_createek -Q -G ecc -c ek.ctx && tpm2_readpublic -Q -c ek.ctx -f pem -o ek.pem && tpm2_flushcontext -t
            printf '%s\\n' 'basicConstraints=critical,CA:FALSE' 'extendedKeyUsage=2.23.133.8.1' > ek.ext
            openssl x509 -new -force_pubkey ek.pem -CA ca.pem -CAkey ca.key -sha256 -days 7200 -subj '/CN=EK' \
                -extfile ek.ext -outform der -out evidence/ek.der
            openssl pkey -pubin -in ek.pem -outform der -out ek.spki",
        );
        tpm
    }

    fn boot(directory: &Path) -> Running {
        let socket = directory.join("tpm");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", "startup-clear", "--tpmstate"]);
        command.arg(format!("dir={}", directory.join("state").display()));
        command.args(["--server", &format!("type=unixio,path={}", socket.display())]);
        command.args(["--ctrl", &format!("type=unixio,path={}.ctrl", socket.display())]);
        command.stderr(Stdio::null());
        let process = Running::spawn(command);
        eventually("a TPM", || socket.exists().then_some(()));
        process
    }

    /// Switched off and on: its PCRs are as at the beginning, its keys are still there.
    fn reboot(&mut self) {
        self.process.kill();
        self.process = Self::boot(self.directory.path());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn environment(&self, command: &mut Command) {
        command.env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path("tpm").display()));
        command.env("EVIDENCE_TPM2_DIR", self.path("evidence"));
    }

    fn run(&self, script: &str) {
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(self.directory.path());
        self.environment(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn digest(&self, file: &str) -> String {
        HEXLOWER.encode(&Sha256::digest(fs::read(self.path(file)).unwrap()))
    }

    /// The digest of the authority's certificate.
    fn root(&self) -> String {
        self.digest("evidence/issuers.der")
    }

    /// Asks the evidence program something.
    fn ask(&self, question: &str) -> Value {
        let mut command = Command::new("sh");
        command.args(["-c", "printf '%s\\n' \"$1\" | \"$2\" 2>/dev/null", "sh", question, PROGRAM]);
        self.environment(&mut command);
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    }

    fn evidence(&self, context: &Digest, key: Option<&[u8]>) -> Evidence {
        let key = key.map_or("null".to_owned(), |spki| format!("\"{}\"", BASE64.encode(spki)));
        let answer = self.ask(&format!(r#"{{"ask":"evidence","context":"{context}","key":{key}}}"#));
        let parts = answer["parts"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let parts = parts.iter().map(|part| BASE64.decode(part.as_str().unwrap().as_bytes()).unwrap());
        Evidence::new(Format::Tpm2, parts.collect()).unwrap()
    }
}

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/tpm2/keywitness-tpm2-evidence");

/// A manager that accepts what these TPMs say, as long as they booted nothing, from whom cluster `payments` must have it.
struct Site {
    manager: Manager,
    policy: tempfile::NamedTempFile,
    roots: Vec<String>,
}

impl Site {
    fn new(tpms: &[&Tpm]) -> Self {
        let policy = tempfile::NamedTempFile::new().unwrap();
        let roots: Vec<_> = tpms.iter().map(|tpm| tpm.root()).collect();
        let file = format!("evidence.policy={}", policy.path().display());
        Self::write(&policy, &roots, &[]);
        let sets = [file.as_str(), "evidence.required=payments", "evidence.max-age=1m"];
        let flags: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
        Self { manager: Manager::start(&flags), policy, roots }
    }

    fn write(policy: &tempfile::NamedTempFile, roots: &[String], revoked: &[String]) {
        let pcrs: Vec<_> = [0, 2, 4, 7].iter().map(|pcr| format!("{pcr} = [\"{ZEROS}\"]")).collect();
        let text = format!(
            "[tpm2]\npcrs = {{ {} }}\n[tpm2.trust]\nroots = {roots:?}\nrevoked = {revoked:?}\n",
            pcrs.join(", ")
        );
        fs::write(policy.path(), text).unwrap();
    }

    /// The manager starts again, with a policy that does not believe these keys.
    fn revoke(&mut self, keys: &[String]) {
        Self::write(&self.policy, &self.roots, keys);
        self.manager.kill_and_restart();
    }

    fn evidence(&self, hsm: &str) -> wire::HsmEvidence {
        let found = self.manager.operator().evidence().unwrap().hsms;
        found.into_iter().find(|found| found.hsm.as_str() == hsm).unwrap()
    }

    fn stands(&self, hsm: &str, standing: EvidenceStanding) {
        eventually("evidence", || (self.evidence(hsm).standing == standing).then_some(()));
    }

    /// The token of a key, if there is one now.
    fn token(&self, key: &str) -> Option<VerifiedToken> {
        let (client, nonce) = (self.manager.with_role(Role::Client), Nonce::random());
        let query = wire::KeyQuery { key: key.parse().unwrap(), cluster: None, hsm: None, max_age: None };
        let request = wire::TokenRequest { query, audience: "shop".to_owned(), nonce, form: Default::default() };
        let response = client.token(&request).ok()?;
        let trust_domain = "acme.example".parse().unwrap();
        let expected = Expected { trust_domain: &trust_domain, audience: "shop", nonce: Some(&nonce) };
        Some(verify_at_any_tier(&response.token, &client.jwks().unwrap(), &expected, now()).unwrap())
    }

    fn eventually_said(&self, tier: Tier, residence: &str) -> VerifiedToken {
        eventually("the token", || {
            let token = self.token("signing")?;
            let appraisal = token.appraisal();
            (appraisal.ear_status == tier && appraisal.attestation.residence == residence).then_some(token)
        })
    }
}

/// An HSM with a store, whose agent has a TPM.
struct Evident<'a> {
    site: &'a Site,
    directory: PathBuf,
}

impl<'a> Evident<'a> {
    fn new(site: &'a Site) -> Self {
        let data = &site.manager.data;
        let directory = data.join("hsm-1");
        fs::create_dir_all(&directory).unwrap();
        let hsm = Self { site, directory };
        let (store, key) = (hsm.path("store"), hsm.path("store.key"));
        let made = ["key", "generate", "--store", &store, "--key-file", &key, "--key", "signing"];
        keywitness_json(data, &[&made[..], &["--algorithm", "ed25519"]].concat());
        let invited = keywitness(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]);
        fs::write(hsm.path("token"), &invited.stdout).unwrap();
        hsm
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    fn agent(&self, tpm: &Tpm) -> Running {
        let (store, key, token) = (self.path("store"), self.path("store.key"), self.path("token"));
        let fixed = ["agent", "--store", &store, "--key-file", &key, "--hsm", "hsm-1", "--join-token-file", &token];
        let mut command = program(&self.site.manager.data, &[&fixed[..], &["--evidence", PROGRAM]].concat());
        tpm.environment(&mut command);
        let said = fs::OpenOptions::new().append(true).create(true).open(self.path("said")).unwrap();
        command.stderr(Stdio::from(said));
        Running::spawn(command)
    }

    fn enrol_device(&self) {
        let enrolled = keywitness(&self.site.manager.data, &["evidence", "enrol", "hsm-1"]);
        assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    }
}

#[test]
fn a_tpm_is_enrolled_affirms_is_suspended_by_a_changed_pcr_and_recovers() {
    let mut tpm = Tpm::new();
    let mut site = Site::new(&[&tpm]);
    let ek = tpm.digest("ek.spki");
    {
        let hsm = Evident::new(&site);
        let mut agent = hsm.agent(&tpm);
        // Nobody let its device in: keys are attested, and the tokens warn.
        let token = site.eventually_said(Tier::Warning, "not-evidenced");
        assert!(token.appraisal().attestation.evidence_missing);
        site.stands("hsm-1", EvidenceStanding::Refused);
        let listed = keywitness(&site.manager.data, &["evidence", "list"]);
        assert_eq!(listed.status.code(), Some(1));

        hsm.enrol_device();
        agent.kill();
        let mut agent = hsm.agent(&tpm);
        let token = site.eventually_said(Tier::Affirming, "platform");
        let appraisal = token.appraisal();
        let vector = &appraisal.ear_trustworthiness_vector;
        assert_eq!((vector["instance-identity"], vector["hardware"], vector["executables"]), (2, 2, 3));
        let claim = appraisal.attestation.evidence.clone().unwrap();
        let device = site.evidence("hsm-1").device.unwrap();
        assert_eq!((claim.format, claim.device.as_ref()), (Format::Tpm2, Some(&device.device)));
        assert_eq!(device.endorsement[0].to_string(), ek);
        assert!(keywitness(&site.manager.data, &["evidence", "list"]).status.success());

        // Something else is booted.
        tpm.run(&format!("tpm2_pcrextend 4:sha256={}", "11".repeat(32)));
        agent.kill();
        let mut agent = hsm.agent(&tpm);
        eventually("a suspension", || {
            let events = site.manager.fraud();
            events.iter().any(|event| matches!(event, EventKind::ForeignMeasurement { .. })).then_some(())
        });
        assert!(site.token("signing").is_none());
        // It does not help to boot what is listed again: an operator must have looked.
        tpm.reboot();
        agent.kill();
        let mut agent = hsm.agent(&tpm);
        eventually("what to do", || {
            let said = fs::read_to_string(hsm.path("said")).unwrap();
            said.contains("have an operator let it enrol its device again").then_some(())
        });
        assert!(site.token("signing").is_none());
        hsm.enrol_device();
        agent.kill();
        let mut agent = hsm.agent(&tpm);
        site.eventually_said(Tier::Affirming, "platform");
        assert_eq!(site.manager.fraud().len(), 1);
        assert!(agent.terminate().success());
    }
    // The TPM's endorsement key is believed no more: what was enrolled with it falls at once.
    site.revoke(&[ek]);
    assert_eq!(site.evidence("hsm-1").standing, EvidenceStanding::Revoked);
    let token = site.eventually_said(Tier::Warning, "not-evidenced");
    assert!(token.appraisal().attestation.evidence_missing);
    let hsm = Evident { site: &site, directory: site.manager.data.join("hsm-1") };
    let _agent = hsm.agent(&tpm);
    eventually("a refusal", || {
        let said = fs::read_to_string(hsm.path("said")).unwrap();
        said.contains("a key that vouches for this TPM was revoked").then_some(())
    });
}

#[test]
fn an_agent_goes_on_when_its_evidence_program_fails() {
    let tpm = Tpm::new();
    let site = Site::new(&[&tpm]);
    let hsm = Evident::new(&site);
    let broken = tpm.path("broken");
    fs::write(&broken, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let (store, key, token) = (hsm.path("store"), hsm.path("store.key"), hsm.path("token"));
    let fixed = ["agent", "--store", &store, "--key-file", &key, "--hsm", "hsm-1", "--join-token-file", &token];
    let evidence = ["--evidence", broken.to_str().unwrap()];
    let mut command = program(&site.manager.data, &[&fixed[..], &evidence].concat());
    command.stderr(fs::File::create(hsm.path("said")).unwrap());
    let mut agent = Running::spawn(command);
    site.eventually_said(Tier::Warning, "not-evidenced");
    eventually("the reason", || {
        let said = fs::read_to_string(hsm.path("said")).unwrap();
        said.contains("the evidence program has ended").then_some(())
    });
    assert!(agent.is_running() && agent.terminate().success());
    // One that is not there is told before anything is done.
    let none = ["--evidence", "/nowhere/at-all"];
    let output = keywitness(&site.manager.data, &[&fixed[..], &none].concat());
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/at-all cannot be started"));
}

impl Hsm {
    fn evidence_context(&self, nonce: Nonce, key: Option<wire::KeyRef>) -> Digest {
        let context = EvidenceContext {
            trust_domain: self.audience.trust_domain.clone(),
            manager: self.audience.manager.clone(),
            cluster: self.enrolment.cluster.clone(),
            hsm: self.id.clone(),
            enrolment: self.enrolment.revision,
            identity_key: Digest(self.identity.verifying_key().to_bytes()),
            key,
            nonce,
        };
        context.digest()
    }

    fn evidence_nonce(&self) -> Nonce {
        let request = wire::EvidenceChallengeRequest { key: None };
        self.client.evidence_challenge(self, &request).unwrap().nonce
    }

    fn present(&self, nonce: Nonce, evidence: &Evidence) -> Result<(), keywitness_verifier::client::ClientError> {
        use keywitness_circuits::codec::Canonical as _;
        let submission = wire::EvidenceSubmission { nonce, evidence: Base64(evidence.to_bytes()) };
        self.client.submit_evidence(self, &submission).map(drop)
    }

    /// Enrols a TPM, by the credential that it alone opens; gives what `opener` makes of it.
    fn enrol_tpm(&self, manager: &Manager, tpm: &Tpm, opener: &Tpm) -> Result<wire::Device, ProblemKind> {
        let request = wire::DeviceRequest { hsm: self.id.clone(), device: None, valid_for: 60 };
        manager.operator().allow_device(&request).unwrap();
        let decoded = |answer: &Value, field: &str| BASE64.decode(answer[field].as_str().unwrap().as_bytes()).unwrap();
        let endorsement = tpm.ask(r#"{"ask":"endorsement"}"#);
        let request = wire::EndorsementRequest {
            chain: Base64(decoded(&endorsement, "chain")),
            attestation_key: Base64(decoded(&opener.ask(r#"{"ask":"endorsement"}"#), "attestation_key")),
        };
        let offer = self.client.device_credential(self, &request).map_err(|error| error.problem_kind().unwrap())?;
        let (blob, secret) = (BASE64.encode(&offer.blob.0), BASE64.encode(&offer.secret.0));
        let answer = opener.ask(&format!(r#"{{"ask":"activation","blob":"{blob}","secret":"{secret}"}}"#));
        // A TPM that cannot open it says so; whoever asks it tries a guess.
        let answer = if answer.get("answer").is_some() { decoded(&answer, "answer") } else { vec![0; 32] };
        let answer = wire::CredentialAnswer { answer: Base64(answer) };
        self.client.answer_credential(self, &answer).map_err(|error| error.problem_kind().unwrap())
    }
}

#[test]
fn evidence_that_was_made_for_anything_else_is_refused() {
    let (tpm, other) = (Tpm::new(), Tpm::new());
    let site = Site::new(&[&tpm, &other]);
    let (hsm, stranger) = (Hsm::enrol(&site.manager, "payments", "one"), Hsm::enrol(&site.manager, "payments", "two"));
    // An attestation key that is in another TPM than the certificate's, which is genuine itself.
    assert_eq!(hsm.enrol_tpm(&site.manager, &tpm, &other).unwrap_err(), ProblemKind::EvidenceRefused);
    hsm.enrol_tpm(&site.manager, &tpm, &tpm).unwrap();
    stranger.enrol_tpm(&site.manager, &other, &other).unwrap();

    let nonce = hsm.evidence_nonce();
    let good = tpm.evidence(&hsm.evidence_context(nonce, None), None);
    hsm.present(nonce, &good).unwrap();
    site.stands("one", EvidenceStanding::Good);
    // Replayed: for its own challenge, for the next one, and by another HSM.
    assert_eq!(problem(hsm.present(nonce, &good)), ProblemKind::ChallengeConsumed);
    assert_eq!(problem(hsm.present(hsm.evidence_nonce(), &good)), ProblemKind::EvidenceRefused);
    assert_eq!(problem(stranger.present(stranger.evidence_nonce(), &good)), ProblemKind::EvidenceRefused);
    site.stands("one", EvidenceStanding::Refused);

    // The other HSM's TPM, asked for this HSM's claim; and this TPM, asked for the other HSM's.
    let nonce = hsm.evidence_nonce();
    let foreign = other.evidence(&hsm.evidence_context(nonce, None), None);
    assert_eq!(problem(hsm.present(nonce, &foreign)), ProblemKind::EvidenceRefused);
    let nonce = hsm.evidence_nonce();
    let foreign = tpm.evidence(&stranger.evidence_context(nonce, None), None);
    assert_eq!(problem(hsm.present(nonce, &foreign)), ProblemKind::EvidenceRefused);

    // Parts of two TPMs in one.
    let nonce = hsm.evidence_nonce();
    let context = hsm.evidence_context(nonce, None);
    let (ours, theirs) = (tpm.evidence(&context, None), other.evidence(&context, None));
    let mut parts = ours.parts().to_vec();
    parts[1..4].clone_from_slice(&theirs.parts()[1..4]);
    assert_eq!(problem(hsm.present(nonce, &Evidence::new(Format::Tpm2, parts).unwrap())), ProblemKind::EvidenceRefused);

    // And still the right one is good.
    let nonce = hsm.evidence_nonce();
    hsm.present(nonce, &tpm.evidence(&hsm.evidence_context(nonce, None), None)).unwrap();
    site.stands("one", EvidenceStanding::Good);
    assert!(site.manager.fraud().is_empty(), "{:?}", site.manager.fraud());
}
