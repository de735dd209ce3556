//! Attestation intake over HTTP: identity signature checked, proof checked, logged, durable, answered.
//!
//! Everything is prepared beforehand over the same API: HSMs and keys are enrolled, challenges given, claims proven and
//! sealed. Only the answers to envelopes are timed.

use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use keywitness_circuits::{
    ClaimContext, Digest, Envelope, HsmId, Instance, KeyAlgorithm, KeyAttributes, KeyClaim, KeyOrigin, Nonce,
    Parameters, Timestamp, codec::Canonical as _, key_knowledge::Witness, registry,
};
use keywitness_verifier::{
    client::{HsmSigner, ManagerClient},
    identity::{Audience, EnrolmentParts, IdentityKey},
    wire::{
        AttestAnswer, AttestBatch, Base64, ChallengeAnswer, ChallengeBatchRequest, ChallengeRequest, ENVELOPE_TYPE,
        ENVELOPES_TYPE, EnrolKeyRequest, EnrolRequest, JoinTokenRequest, KeyRef, TrustDomainInfo, join_envelopes, path,
    },
};

use crate::{
    Options,
    generator::{self, Request},
    server::{self, Serving},
    table::{Figure, Wanted},
};

/// Envelopes in one batch.
const BATCH: usize = 256;

struct Hsm {
    id: HsmId,
    identity: SigningKey,
    audience: Audience,
}

impl HsmSigner for Hsm {
    fn audience(&self) -> &Audience {
        &self.audience
    }

    fn hsm(&self) -> &HsmId {
        &self.id
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.identity.sign(message).to_bytes()
    }

    fn now(&self) -> Timestamp {
        keywitness_manager::Clock::now(&keywitness_manager::SystemClock)
    }
}

pub(crate) fn measure(options: &Options) -> Vec<Figure> {
    let directory = tempfile::tempdir_in(&options.directory).unwrap();
    let serving = Serving::start(directory.path(), None);
    let client = ManagerClient::new(&format!("http://{}", serving.address)).unwrap();
    let operator = client.clone().with_credential(server::operator(directory.path()));
    let info = client.trust_domain().unwrap();
    let (hsms, keys) = (options.size(64, 2), options.size(64, 8));
    let mut figures = Vec::new();
    for algorithm in [KeyAlgorithm::Ristretto255, KeyAlgorithm::Ed25519] {
        let hsms: Vec<Hsm> = (0..hsms).map(|number| enrol(&operator, &info, algorithm, number)).collect();
        let keys: Vec<[u8; 32]> = (0..keys).map(|_| secret()).collect();
        for (hsm, secret) in hsms.iter().flat_map(|hsm| keys.iter().zip(0..).map(move |secret| (hsm, secret))) {
            client.enrol_key(hsm, &key(&info, algorithm, secret)).unwrap();
        }
        let [singles, batched] = [(); 2].map(|()| {
            hsms.iter().map(|hsm| envelopes(&client, &info, hsm, algorithm, &keys)).collect::<Vec<Vec<Vec<u8>>>>()
        });
        // One at a time, every HSM sends by itself; in batches, each HSM's follow each other.
        let singles: Vec<&Vec<u8>> = (0..keys.len()).flat_map(|key| singles.iter().map(move |of| &of[key])).collect();
        let batched = batched.concat();
        let name = algorithm.name();
        figures.push(timed(&serving, &format!("intake, {name}, single envelopes"), 1500.0, singles.len(), || {
            let requests: Vec<Request> = singles.iter().map(|body| request(ENVELOPE_TYPE, body.to_vec())).collect();
            let (answers, took) = generator::all(serving.address, path::ATTESTATIONS, &requests, 64);
            for (status, body) in answers {
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            }
            took
        }));
        figures.push(timed(&serving, &format!("intake, {name}, batches of {BATCH}"), 3000.0, batched.len(), || {
            let join = |batch: &[Vec<u8>]| join_envelopes(batch.iter().map(Vec::as_slice));
            let requests: Vec<Request> =
                batched.chunks(BATCH).map(|batch| request(ENVELOPES_TYPE, join(batch))).collect();
            let (answers, took) = generator::all(serving.address, path::ATTESTATION_BATCHES, &requests, 4);
            for (status, body) in answers {
                assert_eq!(status, 200);
                let answer: AttestBatch = serde_json::from_slice(&body).unwrap();
                assert!(answer.items.iter().all(|item| matches!(item, AttestAnswer::Records(_))));
            }
            took
        }));
    }
    figures.push(Figure::new("intake, most memory of the manager", serving.peak_memory(), "MiB", None));
    serving.stop();
    figures
}

fn timed(serving: &Serving, name: &str, wanted: f64, keys: usize, work: impl FnOnce() -> Duration) -> Figure {
    let before = serving.cpu();
    let took = work().as_secs_f64();
    let cpu = (serving.cpu() - before).as_secs_f64();
    let beside = format!("{keys} keys in {took:.2} s; the manager took {:.0} µs of CPU a key", cpu / keys as f64 * 1e6);
    Figure::new(name, keys as f64 / took, "keys/s", Some(Wanted::AtLeast(wanted))).beside(beside)
}

fn request(content_type: &'static str, body: Vec<u8>) -> Request {
    Request { authorization: None, content_type, body }
}

fn enrol(operator: &ManagerClient, info: &TrustDomainInfo, algorithm: KeyAlgorithm, number: usize) -> Hsm {
    let audience = Audience { trust_domain: info.trust_domain.clone(), manager: info.manager.clone() };
    let id: HsmId = format!("{}-{number}", algorithm.name()).parse().unwrap();
    let hsm = Hsm { id, identity: SigningKey::generate(&mut rand::rngs::OsRng), audience };
    let cluster = algorithm.name().parse().unwrap();
    let join_token =
        operator.join_token(&JoinTokenRequest { cluster, hsm: None, valid_for: 600, reenrol: false }).unwrap().secret;
    let identity_key = IdentityKey::from_bytes(hsm.identity.verifying_key().to_bytes()).unwrap();
    let channel_key = Nonce::random().0;
    let parts = EnrolmentParts {
        audience: &hsm.audience,
        join_token: &join_token,
        hsm: &hsm.id,
        identity_key: &identity_key,
        channel_key: &channel_key,
    };
    let signature = Base64(parts.sign(|message| hsm.sign(message)).to_vec());
    let (name, channel_key) = (hsm.id.clone(), Digest(channel_key));
    operator.enrol(&EnrolRequest { join_token, hsm: name, identity_key, channel_key, signature }).unwrap();
    hsm
}

/// A key. The top bits are clear, so that it is below the group's order.
fn secret() -> [u8; 32] {
    let mut secret = Nonce::random().0;
    secret[31] &= 0x0f;
    secret[0] |= 1;
    secret
}

fn witness_of(algorithm: KeyAlgorithm, secret: &[u8; 32]) -> Witness {
    Witness::new(algorithm, secret).unwrap()
}

fn attributes(algorithm: KeyAlgorithm) -> KeyAttributes {
    KeyAttributes::new(algorithm, KeyOrigin::Generated, false)
}

fn instance(info: &TrustDomainInfo, algorithm: KeyAlgorithm, secret: &[u8; 32]) -> Instance {
    witness_of(algorithm, secret).instance(&info.trust_domain, info.suites[0]).unwrap().into()
}

fn key(info: &TrustDomainInfo, algorithm: KeyAlgorithm, (secret, number): (&[u8; 32], usize)) -> EnrolKeyRequest {
    let instances = vec![Base64(instance(info, algorithm, secret).to_bytes())];
    let key = format!("key-{number}").parse().unwrap();
    EnrolKeyRequest { key, epoch: 1, attributes: attributes(algorithm), instances }
}

/// A right answer of an HSM to a challenge for each of its keys.
fn envelopes(
    client: &ManagerClient,
    info: &TrustDomainInfo,
    hsm: &Hsm,
    algorithm: KeyAlgorithm,
    keys: &[[u8; 32]],
) -> Vec<Vec<u8>> {
    let kind = instance(info, algorithm, &keys[0]).kind().unwrap();
    let verifying_key = info.statements.iter().find(|statement| statement.kind == kind).unwrap().verifying_key;
    let names: Vec<KeyRef> =
        (0..keys.len()).map(|number| KeyRef { key: format!("key-{number}").parse().unwrap(), epoch: 1 }).collect();
    let ask = |key: &KeyRef| ChallengeRequest { statement: kind.name().to_owned(), keys: vec![key.clone()] };
    let given = client.challenges(hsm, &ChallengeBatchRequest { items: names.iter().map(ask).collect() }).unwrap();
    let answer = |((secret, name), challenge): ((&[u8; 32], &KeyRef), ChallengeAnswer)| {
        let (instance, challenge) = (instance(info, algorithm, secret), challenge.into_result().unwrap());
        let claim = KeyClaim { key: name.key.clone(), epoch: 1, attributes: attributes(algorithm).digest() };
        let context = ClaimContext {
            statement: kind.name().to_owned(),
            verifying_key,
            trust_domain: info.trust_domain.clone(),
            manager: info.manager.clone(),
            cluster: algorithm.name().parse().unwrap(),
            hsm: hsm.id.clone(),
            enrolment: 1,
            keys: vec![claim],
            instance: instance.digest(),
            challenge: challenge.nonce,
            not_before: challenge.not_before,
            not_after: challenge.not_after,
            checkpoint: None,
            evidence: None,
        };
        let encoded = instance.to_bytes();
        let secret = witness_of(algorithm, secret).into();
        let proof = registry::prove(&Parameters::transparent(), &context, &encoded, &secret).unwrap();
        Envelope::seal(context, encoded, proof, |message| hsm.sign(message)).to_bytes()
    };
    keys.iter().zip(&names).zip(given.items).map(answer).collect()
}
