//! Keys of rows. Names hold no zero byte, so that a zero byte ends them; numbers are fixed in width.

use keywitness_circuits::{ClusterId, Fingerprint, HsmId, KeyId, Kind, Suite, Timestamp};
use keywitness_verifier::wire::{KeyRef, RevocationTarget, Sighting};

use crate::ledger::tables::Table;

pub(super) fn join(names: &[&str]) -> Vec<u8> {
    let mut key = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
    for name in names {
        key.extend_from_slice(name.as_bytes());
        key.push(0);
    }
    key
}

/// A table with one row.
pub const ONLY: &[u8] = &[];

/// A number, in order.
pub const fn number(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// A webhook, by its name in the configuration.
pub fn webhook(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// A perfect subtree of the log's Merkle tree.
pub fn subtree(level: u8, index: u64) -> Vec<u8> {
    let mut bytes = vec![level];
    bytes.extend_from_slice(&number(index));
    bytes
}

/// An HSM; also what all its rows begin with.
pub fn hsm(hsm: &HsmId) -> Vec<u8> {
    join(&[hsm.as_str()])
}

/// A key of an HSM: what its epochs begin with.
pub fn epochs(hsm: &HsmId, key: &KeyId) -> Vec<u8> {
    join(&[hsm.as_str(), key.as_str()])
}

/// A key of an HSM at an epoch.
pub fn epoch(hsm: &HsmId, key: &KeyRef) -> Vec<u8> {
    let mut bytes = epochs(hsm, &key.key);
    bytes.extend_from_slice(&key.epoch.to_be_bytes());
    bytes
}

/// Evidence of an HSM, or of a key in it.
pub fn about(of: &HsmId, key: Option<&KeyRef>) -> Vec<u8> {
    key.map_or_else(|| hsm(of), |key| epoch(of, key))
}

/// A record or a failure.
pub fn evidence(hsm: &HsmId, key: &KeyRef, kind: Kind) -> Vec<u8> {
    let mut bytes = epoch(hsm, key);
    bytes.extend_from_slice(&join(&[kind.name()]));
    bytes
}

/// Who holds a key.
pub fn holder(key: &KeyId, cluster: &ClusterId, hsm: &HsmId) -> Vec<u8> {
    join(&[key.as_str(), cluster.as_str(), hsm.as_str()])
}

/// What the holders of a key begin with, in one cluster or in all.
pub fn holders(key: &KeyId, cluster: Option<&ClusterId>) -> Vec<u8> {
    cluster.map_or_else(|| join(&[key.as_str()]), |cluster| join(&[key.as_str(), cluster.as_str()]))
}

/// A sharing.
pub fn sharing(cluster: &ClusterId, key: &KeyRef) -> Vec<u8> {
    let mut bytes = join(&[cluster.as_str(), key.key.as_str()]);
    bytes.extend_from_slice(&key.epoch.to_be_bytes());
    bytes
}

/// A holder's share, of a key of this cluster; begins with [`epoch`] of the share in its holder.
pub fn shareholder(holder: &HsmId, share: &KeyRef, cluster: &ClusterId) -> Vec<u8> {
    let mut bytes = epoch(holder, share);
    bytes.extend_from_slice(&join(&[cluster.as_str()]));
    bytes
}

/// A revocation.
pub fn target(target: &RevocationTarget) -> Vec<u8> {
    match target {
        RevocationTarget::Hsm(hsm) => join(&["hsm", hsm.as_str()]),
        RevocationTarget::Key { cluster, key } => join(&["key", cluster.as_str(), key.as_str()]),
        RevocationTarget::Sharing { cluster, key } => {
            let mut bytes = join(&["sharing"]);
            bytes.extend_from_slice(&sharing(cluster, key));
            bytes
        }
        RevocationTarget::Cluster(cluster) => join(&["cluster", cluster.as_str()]),
        RevocationTarget::VerifyingKey(digest) => {
            let mut bytes = join(&["verifying-key"]);
            bytes.extend_from_slice(&digest.0);
            bytes
        }
    }
}

/// A revocation or suspension, by the number of its command; begins with its target.
pub fn episode(of: &RevocationTarget, sequence: u64) -> Vec<u8> {
    let mut bytes = target(of);
    bytes.extend_from_slice(&number(sequence));
    bytes
}

/// Attempts of an HSM with something revoked.
pub fn attempts(revoked: &RevocationTarget, hsm: &HsmId) -> Vec<u8> {
    let mut bytes = target(revoked);
    bytes.extend_from_slice(&join(&[hsm.as_str()]));
    bytes
}

/// What the fingerprints of a suite begin with.
pub fn suite(suite: Suite) -> Vec<u8> {
    join(&[suite.name()])
}

/// What the sightings of a fingerprint begin with.
pub fn fingerprint(fingerprint: &Fingerprint) -> Vec<u8> {
    let mut bytes = suite(fingerprint.suite);
    bytes.extend_from_slice(&fingerprint.bytes.0);
    bytes
}

/// A fingerprint inside one cluster.
pub fn claimed(claimed: &Fingerprint, cluster: &ClusterId) -> Vec<u8> {
    let mut bytes = fingerprint(claimed);
    bytes.extend_from_slice(&join(&[cluster.as_str()]));
    bytes
}

/// A sighting.
pub fn sighting(sighting: &Sighting) -> Vec<u8> {
    let mut bytes = fingerprint(&sighting.fingerprint);
    bytes.extend_from_slice(&join(&[sighting.cluster.as_str(), sighting.hsm.as_str()]));
    bytes
}

/// The first proof of a key at an epoch in the sighting's suite.
pub fn first_proof(sighting: &Sighting) -> Vec<u8> {
    let mut bytes = join(&[sighting.cluster.as_str(), sighting.key.key.as_str()]);
    bytes.extend_from_slice(&sighting.key.epoch.to_be_bytes());
    bytes.extend_from_slice(&join(&[sighting.fingerprint.suite.name()]));
    bytes
}

/// That an HSM differs from the first proof.
pub fn drift(sighting: &Sighting) -> Vec<u8> {
    let mut bytes = first_proof(sighting);
    bytes.extend_from_slice(&hsm(&sighting.hsm));
    bytes
}

/// When a row may be forgotten.
pub fn due(at: Timestamp, table: Table, row: &[u8]) -> Vec<u8> {
    let mut bytes = number(at.0).to_vec();
    bytes.push(table.code());
    bytes.extend_from_slice(row);
    bytes
}

/// When something is looked at: the time, what it is, and whom it is about.
pub fn deadline(at: Timestamp, deadline: &super::fraud::Deadline) -> Vec<u8> {
    let mut bytes = number(at.0).to_vec();
    match deadline {
        super::fraud::Deadline::Silence(silent) => {
            bytes.push(0);
            bytes.extend_from_slice(&hsm(silent));
        }
    }
    bytes
}
