//! Encodings, JSON and text: reading never panics, and what is read has one spelling.

use std::{fmt::Display, str::FromStr};

use keywitness_circuits::{
    ClaimContext, ClusterId, Digest, Envelope, HsmId, Instance, KeyAlgorithm, KeyAttributes, KeyId, KeyOrigin, Kind,
    ManagerId, Nonce, Timestamp, TrustDomain,
    codec::Canonical,
    key_knowledge,
    params::Groth16Parameters,
    snarkjs::{Proof, PublicSignals, VerifyingKey},
    transcript::label,
};
use keywitness_manager::ledger::{Command, Outcome, Verdict};
use keywitness_prover::agent::journal;
use keywitness_verifier::{
    identity::{Audience, RequestAuth, RequestParts},
    operation::{OperationAnswer, OperationRequest},
    token::Claims,
    wire,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{Target, world::World};

pub(crate) fn targets(world: &'static World) -> Vec<Target> {
    let envelopes = || world.claims.iter().map(|(_, envelope)| envelope);
    vec![
        Target::new("envelope", envelopes().map(Canonical::to_bytes).collect(), |bytes| {
            if let Some(envelope) = canonical::<Envelope>(bytes) {
                let _ = envelope.digest();
            }
        }),
        Target::new("context", envelopes().map(|envelope| envelope.context.to_bytes()).collect(), |bytes| {
            if let Some(context) = canonical::<ClaimContext>(bytes) {
                assert_eq!(context.digest() == context.digest_without_evidence(), context.evidence.is_none());
            }
        }),
        Target::new("instance", envelopes().map(|envelope| envelope.instance.clone()).collect(), instance),
        Target::new("attributes", vec![attributes().to_bytes()], |bytes| {
            canonical::<KeyAttributes>(bytes);
        }),
        Target::new("request-header", vec![request_header(world).into_bytes()], |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            if let Ok(auth) = RequestAuth::from_header(text) {
                assert_eq!(auth.to_header(), text);
            }
        }),
        Target::new("names", names_seeds(), names),
        Target::new("json", json_seeds(world), any_json),
        Target::new("command", command_seeds(world), |bytes| {
            stored::<Command>(bytes);
            stored::<Outcome>(bytes);
        }),
        Target::new("snarkjs", snarkjs_seeds(world), snarkjs),
        parameters(world),
    ]
}

pub(crate) fn canonical<T: Canonical>(bytes: &[u8]) -> Option<T> {
    let value = T::from_bytes(bytes).ok()?;
    assert_eq!(value.to_bytes(), bytes, "{}: a second encoding is accepted", T::WHAT);
    Some(value)
}

fn instance(bytes: &[u8]) {
    if let Some(instance) = canonical::<Instance>(bytes) {
        match &instance {
            Instance::ManyKeys(many) => {
                assert!((1..=64).contains(&many.keys().len()) && many.singles().all(|key| key.fingerprint().is_ok()));
            }
            // A dealing may fix a share of zero, which is refused where it is enrolled.
            Instance::ShareCorrectness(_) => drop(instance.fingerprint()),
            one => assert!(one.fingerprint().is_ok(), "what was read has no fingerprint"),
        }
        let spki = instance.spki().expect("what was read has an encoding");
        assert_eq!(Instance::spki_of_read(bytes).expect("it was read"), spki);
        assert!(instance.kind().is_some());
    }
}

fn attributes() -> KeyAttributes {
    KeyAttributes::new(KeyAlgorithm::P256, KeyOrigin::Imported, true)
}

fn request_header(world: &World) -> String {
    use ed25519_dalek::Signer as _;
    let audience = Audience { trust_domain: "acme.example".parse().unwrap(), manager: "manager-1".parse().unwrap() };
    let parts = RequestParts { audience: &audience, method: "POST", path: "/v1/keys", body: b"{}" };
    let sign = |message: &[u8]| world.identity.sign(message).to_bytes();
    RequestAuth::sign("hsm-1".parse().unwrap(), Timestamp(5), &parts, sign).to_header()
}

/// Text that parses is written as it was read.
fn names(bytes: &[u8]) {
    fn one<T: FromStr + Display>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            assert_eq!(value.to_string(), text);
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    one::<TrustDomain>(text);
    one::<ManagerId>(text);
    one::<ClusterId>(text);
    one::<HsmId>(text);
    one::<KeyId>(text);
    one::<Digest>(text);
    one::<Nonce>(text);
    one::<Kind>(text);
    one::<KeyAlgorithm>(text);
    one::<wire::Role>(text);
}

fn names_seeds() -> Vec<Vec<u8>> {
    let texts = ["acme.example".to_owned(), Digest([0xa5; 32]).to_string(), Nonce([0xa5; 32]).to_string()];
    let kinds = Kind::ALL.map(|kind| kind.name().to_owned());
    texts.into_iter().chain(kinds).map(String::into_bytes).collect()
}

/// What is read is written, and read again as it was.
fn one_json<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);
    Some(value)
}

fn any_json(bytes: &[u8]) {
    macro_rules! each {
        ($($type:ty),* $(,)?) => { $( let _ = one_json::<$type>(bytes); )* };
    }
    each!(
        wire::TrustDomainInfo,
        wire::CredentialRequest,
        wire::Credential,
        wire::JoinTokenRequest,
        wire::JoinToken,
        wire::EnrolRequest,
        wire::Enrolment,
        wire::ChannelAnnouncement,
        wire::EnrolKeyRequest,
        wire::ChallengeRequest,
        wire::Challenge,
        wire::Record,
        wire::KeyQuery,
        wire::KeyStatus,
        wire::TokenRequest,
        wire::TokenResponse,
        wire::RevokeRequest,
        wire::ReinstateRequest,
        wire::Status,
        wire::Problem,
        wire::EventPage,
        Claims,
        OperationAnswer,
        journal::Entry,
    );
    if let Some(request) = one_json::<OperationRequest>(bytes) {
        let _ = request.check(&"acme.example".parse().unwrap(), &"hsm-1".parse().unwrap());
    }
}

fn json_seeds(world: &World) -> Vec<Vec<u8>> {
    let (name, digest) = ("signing-1", Digest([1; 32]));
    let nonce = Nonce([2; 32]);
    let target = json!({ "key": { "cluster": "payments", "key": name } });
    let record = json!({
        "hsm": "hsm-1", "cluster": "payments", "enrolment": 1, "key": { "key": name, "epoch": 1 },
        "statement": Kind::KeyKnowledgeP256, "verifying_key": digest, "envelope": digest, "proven_at": 1,
        "fingerprint": { "suite": "public-key", "bytes": digest }, "expires_at": 2,
    });
    let status = json!({
        "hsm": "hsm-1", "cluster": "payments", "key": { "key": name, "epoch": 1 }, "algorithm": "p256",
        "state": "failing", "failure": { "at": 3, "problem": "proof-refused" },
        "statements": [{ "kind": Kind::KeyKnowledgeP256, "proven_at": 1, "expires_at": null }],
    });
    let documents = [
        json!({ "trust_domain": "acme.example", "manager": "m", "suites": ["halo2-pasta"], "record_ttl": 600,
            "statements": [{ "kind": Kind::KeyKnowledgeP256, "verifying_key": digest }], "challenge_ttl": 60,
            "development_parameters": false }),
        json!({ "name": "shop", "role": "client" }),
        json!({ "cluster": "payments", "hsm": null, "valid_for": 3600, "secret": "kw_join_x", "expires_at": 1 }),
        json!({ "join_token": "kw_join_x", "hsm": "hsm-1", "identity_key": Digest(world.identity_key().to_bytes()),
            "channel_key": digest, "signature": "AAAA" }),
        json!({ "url": "http://127.0.0.1:1" }),
        json!({ "key": name, "epoch": 1, "attributes": attributes(), "instances": ["AAAA"] }),
        json!({ "statement": "s", "keys": [{ "key": name, "epoch": 1 }] }),
        json!({ "nonce": nonce, "expires_at": 1, "not_before": 1, "not_after": 2 }),
        json!({ "key": name, "cluster": "payments", "hsm": null, "max_age": 5, "audience": "shop", "nonce": nonce }),
        json!({ "target": target, "reason": "why", "at": 1 }),
        json!({ "client": Digest(world.identity_key().to_bytes()), "created": 1, "signature": "AAAA",
            "operation": { "sign": { "key": { "key": name, "epoch": 1 }, "message": "AAAA" } } }),
        json!({ "signature": "AAAA" }),
        json!({ "now": 1, "trust_domain": "acme.example", "keys": [status], "events": 1, "alerts": 0,
            "revocations": [{ "target": target, "reason": "why", "at": 1 }] }),
        record,
    ];
    documents.iter().map(|document| document.to_string().into_bytes()).collect()
}

/// A row of the manager's database: what is read is written, and read again as it was.
fn stored<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) {
    if let Ok(value) = postcard::from_bytes::<T>(bytes) {
        let written = postcard::to_stdvec(&value).expect("what was read can be written");
        assert!(postcard::from_bytes::<T>(&written).expect("what was written can be read") == value);
    }
}

fn command_seeds(world: &World) -> Vec<Vec<u8>> {
    let (hsm, request): (HsmId, Digest) = ("hsm-1".parse().unwrap(), Digest([1; 32]));
    let (_, envelope) = &world.claims[0];
    let key = wire::KeyRef { key: "signing-1".parse().unwrap(), epoch: 1 };
    let commands = [
        Command::AddCredential { digest: request, name: "shop".to_owned(), role: wire::Role::Client },
        Command::OnBehalf {
            by: wire::CredentialId::of(&request),
            command: Box::new(Command::WithdrawCredential { id: wire::CredentialId::of(&request) }),
        },
        Command::EnrolHsm {
            join_token: request,
            hsm: hsm.clone(),
            identity_key: world.identity_key(),
            channel_key: request,
        },
        Command::EnrolKey {
            request,
            hsm: hsm.clone(),
            enrolment: 1,
            key: key.clone(),
            attributes: attributes(),
            instances: vec![envelope.instance.clone()],
        },
        Command::IssueChallenge {
            request,
            hsm: hsm.clone(),
            enrolment: 1,
            statement: Kind::KeyKnowledgeP256.name().to_owned(),
            keys: vec![key],
            nonce: Nonce([2; 32]),
            beacon: Nonce([3; 32]),
        },
        Command::Attest {
            envelope: envelope.to_bytes(),
            digest: envelope.digest(),
            hsm: hsm.clone(),
            enrolment: 1,
            verdict: Verdict::Proven,
        },
        Command::Revoke { target: wire::RevocationTarget::Hsm(hsm), reason: "why".into(), by: "who".to_owned() },
    ];
    let refused = Outcome::Refused(wire::Problem::new(wire::ProblemKind::HsmRevoked, "why"));
    let commands = commands.iter().map(|command| postcard::to_stdvec(command).unwrap());
    commands.chain([postcard::to_stdvec(&refused).unwrap()]).collect()
}

fn snarkjs(bytes: &[u8]) {
    if let Ok(proof) = Proof::from_json(bytes) {
        assert_eq!(Proof::from_json(proof.to_json().as_bytes()).as_ref(), Ok(&proof));
        assert_eq!(Proof::from_bytes(&proof.to_bytes()), Ok(proof));
    }
    if let Ok(public) = PublicSignals::from_json(bytes) {
        assert_eq!(PublicSignals::from_json(public.to_json().as_bytes()), Ok(public));
    }
    if let Ok(key) = VerifyingKey::from_json(bytes) {
        assert_eq!(VerifyingKey::from_json(key.to_json().unwrap().as_bytes()), Ok(key));
    }
}

fn snarkjs_seeds(world: &World) -> Vec<Vec<u8>> {
    let (_, envelope) = world.claims.iter().find(|(kind, _)| *kind == Kind::KeyKnowledgeGroth16).unwrap();
    let instance = key_knowledge::Instance::from_bytes(&envelope.instance).unwrap();
    let key = VerifyingKey::of_parameters(world.parameters.groth16().unwrap());
    let texts = [
        Proof::from_bytes(&envelope.proof).unwrap().to_json(),
        PublicSignals::of_claim(&envelope.context, &instance).unwrap().to_json(),
        key.to_json().unwrap(),
    ];
    texts.map(String::into_bytes).to_vec()
}

/// A parameter file. Its digest is made right, since whoever changes a file can do the same; the proving key, which
/// is hundreds of kilobytes, is that of a valid file, unless the input brings one.
fn parameters(world: &World) -> Target {
    let file = world.parameters.groth16().unwrap().to_bytes();
    let body = &file[..file.len() - 32];
    // Magic, version, name, origin, verifying key; then the proving key with its length.
    let length = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap()) as usize;
    let origin = 8 + 2 + 4 + length(10);
    let proving = origin + 1 + 4 + length(origin + 1);
    let (head, proving) = (body[..proving].to_vec(), body[proving..].to_vec());
    let check = |body: Vec<u8>| {
        let digest = Digest::of(label::PARAMETERS, &body);
        let file = [body, digest.0.to_vec()].concat();
        if let Ok(parameters) = Groth16Parameters::from_bytes(&file) {
            assert_eq!(parameters.digest(), digest);
            assert!(parameters.to_bytes() == file, "a second encoding is accepted");
        }
    };
    let half = [head.as_slice(), &proving[..64]].concat();
    Target::new("parameters", vec![head, half], move |bytes| {
        check([bytes, &proving].concat());
        check(bytes.to_vec());
    })
}
