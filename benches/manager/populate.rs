//! A data directory with many attestation records.
//!
//! The rows are written by the ledger's own `execute`, from the same commands that HSMs' requests become, in large
//! transactions. What is left out is what no row remembers: identity signatures and proofs, which nobody checks again.

use std::path::Path;

use curve25519_dalek::{EdwardsPoint, constants::ED25519_BASEPOINT_POINT};
use keywitness_circuits::{
    ClaimContext, Digest, Envelope, HsmId, Instance, KeyAlgorithm, KeyAttributes, KeyClaim, KeyOrigin, Kind, Nonce,
    Parameters, Timestamp, codec::Canonical as _, key_knowledge, registry,
};
use keywitness_manager::{
    Manager,
    ledger::{
        Command, Outcome, Store as _, Tables, Verdict,
        log::{Submission, execute},
    },
    store::{FILE, Redb, backup},
};
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{ChallengeRequest, KeyRef},
};

use crate::server::{TTL, config, shifted};

/// HSMs of one cluster, which hold the same keys.
pub(crate) const CLUSTER: usize = 4;

/// Keys of one HSM.
const KEYS: usize = 1000;

/// Records that expire before the others.
pub(crate) fn early(records: usize) -> usize {
    records / 10
}

/// When the first records are made; they expire [`TTL`] later.
pub(crate) const BEGIN: u64 = 1_800_000_000;

/// When the others are made.
pub(crate) const LATER: u64 = BEGIN + 3600;

/// The name of a key, of `keys` in a cluster.
pub(crate) fn key_name(number: usize) -> String {
    format!("key-{number}")
}

/// Which keys there are: as many as there are records for each HSM of a cluster.
pub(crate) fn distinct(records: usize) -> usize {
    records / CLUSTER
}

struct Hsm {
    id: HsmId,
    cluster: String,
}

fn submit(tables: &mut dyn Tables, command: Command, at: u64) -> Outcome {
    let submission = Submission { salt: Nonce::random(), command };
    let (outcome, _) = execute(tables, submission, Timestamp(at)).unwrap();
    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    outcome
}

/// Fills a new data directory with `records` records of Ed25519 keys.
pub(crate) fn populate(directory: &Path, records: usize) {
    // The manager writes its configuration and credential, before the records.
    let clock = shifted(BEGIN - 10);
    let parameters = Parameters::transparent();
    let info = Manager::open(config(directory), parameters.clone(), clock).unwrap().trust_domain();
    let store = Redb::open(&directory.join(FILE)).unwrap();
    let verifying_key = registry::verifying_key(&parameters, Kind::KeyKnowledgeEd25519).unwrap();
    let context = ClaimContext {
        statement: Kind::KeyKnowledgeEd25519.name().to_owned(),
        verifying_key,
        trust_domain: info.trust_domain,
        manager: info.manager,
        cluster: "c".parse().unwrap(),
        hsm: "h".parse().unwrap(),
        enrolment: 1,
        keys: Vec::new(),
        instance: Digest([0; 32]),
        challenge: Nonce([0; 32]),
        not_before: Timestamp(0),
        not_after: Timestamp(0),
        checkpoint: None,
        evidence: None,
    };
    let mut point = ED25519_BASEPOINT_POINT;
    let mut done = 0;
    for block in 0..distinct(records).div_ceil(KEYS) {
        let keys: Vec<(String, EdwardsPoint)> = (block * KEYS..distinct(records).min((block + 1) * KEYS))
            .map(|number| {
                point += ED25519_BASEPOINT_POINT;
                (key_name(number), point)
            })
            .collect();
        for member in 0..CLUSTER {
            let hsm = Hsm { id: format!("hsm-{block}-{member}").parse().unwrap(), cluster: format!("cluster-{block}") };
            let at = if done < early(records) { BEGIN } else { LATER };
            store
                .write(&mut |tables| {
                    fill(tables, &hsm, &keys, &context, at);
                    Ok(())
                })
                .unwrap();
            done += keys.len();
        }
    }
    drop(store);
    backup::compact(&directory.join(FILE), &mut |_| ()).unwrap();
}

/// One HSM with its keys, each attested once.
fn fill(tables: &mut dyn Tables, hsm: &Hsm, keys: &[(String, EdwardsPoint)], context: &ClaimContext, at: u64) {
    let join_token = Digest(Nonce::random().0);
    let identity = ed25519_dalek::SigningKey::generate(&mut rand::rngs::OsRng).verifying_key().to_bytes();
    let cluster = hsm.cluster.parse().unwrap();
    let invite = Command::AddJoinToken {
        digest: join_token,
        cluster,
        hsm: None,
        expires_at: Timestamp(at + 60),
        reenrol: false,
    };
    submit(tables, invite, at);
    let enrol = Command::EnrolHsm {
        join_token,
        hsm: hsm.id.clone(),
        identity_key: IdentityKey::from_bytes(identity).unwrap(),
        channel_key: Digest(Nonce::random().0),
    };
    submit(tables, enrol, at);
    let attributes = KeyAttributes::new(KeyAlgorithm::Ed25519, KeyOrigin::Generated, false);
    let mut instances = Vec::with_capacity(keys.len());
    for (name, point) in keys {
        let encoded = point.compress().to_bytes();
        let instance: Instance = key_knowledge::Instance::public_key(KeyAlgorithm::Ed25519, &encoded).unwrap().into();
        let command = Command::EnrolKey {
            request: Digest(Nonce::random().0),
            hsm: hsm.id.clone(),
            enrolment: 1,
            key: KeyRef { key: name.parse().unwrap(), epoch: 1 },
            attributes: attributes.clone(),
            instances: vec![instance.to_bytes()],
        };
        submit(tables, command, at);
        instances.push(instance);
    }
    let ask = |(name, _): &(String, EdwardsPoint)| ChallengeRequest {
        statement: context.statement.clone(),
        keys: vec![KeyRef { key: name.parse().unwrap(), epoch: 1 }],
    };
    let command = Command::IssueChallenges {
        request: Digest(Nonce::random().0),
        hsm: hsm.id.clone(),
        enrolment: 1,
        items: keys.iter().map(ask).collect(),
        seed: Nonce::random(),
        beacon: Nonce::random(),
    };
    let Outcome::Challenges(given) = submit(tables, command, at) else { panic!("no challenges") };
    for (((name, _), instance), nonce) in keys.iter().zip(&instances).zip(given.nonces()) {
        let claim = KeyClaim { key: name.parse().unwrap(), epoch: 1, attributes: attributes.digest() };
        let context = ClaimContext {
            cluster: hsm.cluster.parse().unwrap(),
            hsm: hsm.id.clone(),
            keys: vec![claim],
            instance: instance.digest(),
            challenge: nonce,
            not_before: Timestamp(at),
            not_after: Timestamp(at + TTL),
            ..context.clone()
        };
        let envelope = Envelope::seal(context, instance.to_bytes(), vec![0; 64], |_| [0; 64]);
        let command = Command::Attest {
            digest: envelope.digest(),
            envelope: envelope.to_bytes(),
            hsm: hsm.id.clone(),
            enrolment: 1,
            verdict: Verdict::Proven,
        };
        submit(tables, command, at);
    }
}
