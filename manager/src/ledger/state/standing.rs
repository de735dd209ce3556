//! What stands against HSMs, keys, sharings, clusters and verifying keys: now, and at any time before.
//!
//! A key in an HSM stands as the worst of its grounds: everything that it rests on, each of which an operator can
//! revoke or suspend. Status lists, tokens, challenges and records all ask the same grounds.

use std::collections::BTreeMap;

use keywitness_circuits::{ClusterId, Digest, Fingerprint, HsmId, Suite, Timestamp};
use keywitness_verifier::wire::{KeyRef, Reason, Revocation, RevocationTarget, Standing};
use serde::{Deserialize, Serialize};

use super::{EnrolledInstance, HsmRow, KeyRow, RevokedFingerprint, SharingId, SharingRow, State, key};
use crate::ledger::tables::Fault;

/// What stands against a target now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BarRow {
    /// It is revoked.
    pub revoked: Option<Revocation>,
    /// It is suspended.
    pub suspended: Option<Revocation>,
}

impl BarRow {
    /// What hits this enrolment of an HSM, or this epoch of a key: a revocation before a suspension.
    pub fn hitting(self, number: u32) -> Option<Revocation> {
        self.revoked.filter(|revocation| revocation.hits(number)).or(self.suspended)
    }
}

/// One revocation or suspension of a target, from its beginning to its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpisodeRow {
    /// As it was decided.
    pub revocation: Revocation,
    /// How it ended.
    pub lifted: Option<Lifted>,
}

/// How a revocation or suspension ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lifted {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: Reason,
    /// Who decided.
    pub by: String,
    /// Of a revocation: the last enrolment of the HSM, or the last epoch of the key, that stays revoked.
    pub through: Option<u32>,
}

impl EpisodeRow {
    /// How this leaves an enrolment of an HSM, or an epoch of a key, at a time.
    pub fn standing(&self, number: u32, at: Timestamp) -> Standing {
        if self.revocation.at > at {
            return Standing::Active;
        }
        match self.lifted.as_ref().filter(|lifted| lifted.at <= at) {
            None => self.revocation.standing,
            Some(lifted) if lifted.through.is_some_and(|last| number <= last) => Standing::Revoked,
            Some(_) => Standing::Active,
        }
    }
}

/// What a key in an HSM rests on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ground {
    /// A target, at this enrolment where it is an HSM, or this epoch where it is a key; 0 otherwise.
    Target(RevocationTarget, u32),
    /// A fingerprint, under whatever name, in this cluster.
    Material(Fingerprint, ClusterId),
}

impl Ground {
    fn hsm(hsm: &HsmRow) -> [Self; 2] {
        let target = RevocationTarget::Hsm(hsm.hsm.clone());
        [Self::Target(target, hsm.revision), Self::Target(RevocationTarget::Cluster(hsm.cluster.clone()), 0)]
    }

    fn key(hsm: &HsmRow, key: &KeyRef) -> Self {
        let target = RevocationTarget::Key { cluster: hsm.cluster.clone(), key: key.key.clone() };
        Self::Target(target, key.epoch)
    }

    fn materials(cluster: &ClusterId, instances: &[EnrolledInstance]) -> impl Iterator<Item = Self> {
        instances.iter().map(|instance| Self::Material(instance.fingerprint, cluster.clone()))
    }
}

/// Everything that was ever revoked or suspended, read once: for many keys at one time.
#[derive(Default)]
pub struct History {
    targets: BTreeMap<RevocationTarget, Vec<EpisodeRow>>,
    /// Since when a fingerprint is revoked: in one cluster, or in every one.
    material: BTreeMap<(Fingerprint, Option<ClusterId>), Timestamp>,
}

impl History {
    /// Reads it.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn read(state: State<'_>) -> Result<Self, Fault> {
        let mut history = Self::default();
        for episode in state.all::<EpisodeRow>(&[])? {
            history.targets.entry(episode.revocation.target.clone()).or_default().push(episode);
        }
        // The row's key is the fingerprint.
        for suite in Suite::ALL {
            let prefix = key::suite(suite);
            for (place, value) in state.0.range(super::Table::RevokedFingerprints, &prefix, &prefix, usize::MAX)? {
                let RevokedFingerprint(revocation) = super::decode(super::Table::RevokedFingerprints, &value)?;
                let Some((bytes, rest)) = place.get(prefix.len()..).and_then(|rest| rest.split_first_chunk()) else {
                    continue;
                };
                let cluster = match revocation.target {
                    RevocationTarget::Key { cluster, .. } if !rest.is_empty() => Some(cluster),
                    _ => None,
                };
                history.material.insert((Fingerprint { suite, bytes: Digest(*bytes) }, cluster), revocation.at);
            }
        }
        Ok(history)
    }

    /// Whether nothing was ever revoked or suspended.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.material.is_empty()
    }

    /// How whatever rests on these grounds stood at a time: as the worst of them.
    pub fn standing<'g>(&self, grounds: impl IntoIterator<Item = &'g Ground>, at: Timestamp) -> Standing {
        let of = |ground: &Ground| match ground {
            Ground::Target(target, number) => {
                let episodes = self.targets.get(target).into_iter().flatten();
                episodes.map(|episode| episode.standing(*number, at)).max().unwrap_or_default()
            }
            Ground::Material(found, cluster) => {
                let places = [None, Some(cluster.clone())].map(|cluster| (*found, cluster));
                let revoked = places.iter().any(|place| self.material.get(place).is_some_and(|since| *since <= at));
                if revoked { Standing::Revoked } else { Standing::Active }
            }
        };
        grounds.into_iter().map(of).max().unwrap_or_default()
    }
}

impl State<'_> {
    /// What hits one ground now.
    fn bar(&self, ground: &Ground) -> Result<Option<Revocation>, Fault> {
        Ok(match ground {
            Ground::Target(target, number) => {
                self.get::<BarRow>(&key::target(target))?.and_then(|bar| bar.hitting(*number))
            }
            Ground::Material(fingerprint, cluster) => {
                let everywhere = self.get::<RevokedFingerprint>(&key::fingerprint(fingerprint))?;
                let row = match everywhere {
                    Some(row) => Some(row),
                    None => self.get(&key::claimed(fingerprint, cluster))?,
                };
                row.map(|RevokedFingerprint(revocation)| revocation)
            }
        })
    }

    /// The worst that hits these grounds now; of equals the first.
    fn worst<'g>(&self, grounds: impl IntoIterator<Item = &'g Ground>) -> Result<Option<Revocation>, Fault> {
        let mut worst: Option<Revocation> = None;
        for ground in grounds {
            match self.bar(ground)? {
                Some(revocation) if revocation.standing == Standing::Revoked => return Ok(Some(revocation)),
                Some(suspension) => worst = worst.or(Some(suspension)),
                None => {}
            }
        }
        Ok(worst)
    }

    /// What stands against a target as such, whatever its enrolment or epoch.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn barred(&self, target: &RevocationTarget) -> Result<Option<Revocation>, Fault> {
        self.bar(&Ground::Target(target.clone(), u32::MAX))
    }

    /// The revocation that hits one of these instances' fingerprints in an HSM: revoked material stays revoked under
    /// any name, and in any cluster once it was proven where it was revoked.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn revoked_material(&self, hsm: &HsmRow, instances: &[EnrolledInstance]) -> Result<Option<Revocation>, Fault> {
        self.worst(&Ground::materials(&hsm.cluster, instances).collect::<Vec<_>>())
    }

    /// The revocation or suspension that hits an HSM, its cluster, or one of `keys` in it.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn revocation<'k>(
        &self,
        hsm: &HsmRow,
        keys: impl IntoIterator<Item = &'k KeyRef>,
    ) -> Result<Option<Revocation>, Fault> {
        let mut grounds = Vec::from(Ground::hsm(hsm));
        grounds.extend(keys.into_iter().map(|key| Ground::key(hsm, key)));
        self.worst(&grounds)
    }

    /// The revocation or suspension that hits an HSM, its cluster, an enrolled key of it by name, that key's material, or
    /// what it is a share of or derived from.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn key_revocation(&self, hsm: &HsmRow, key: &KeyRow) -> Result<Option<Revocation>, Fault> {
        self.worst(&self.grounds(hsm, key)?)
    }

    /// Everything that a key in an HSM rests on, but for verifying keys, which are its records'.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn grounds(&self, hsm: &HsmRow, row: &KeyRow) -> Result<Vec<Ground>, Fault> {
        let mut grounds = Vec::from(Ground::hsm(hsm));
        grounds.push(Ground::key(hsm, &row.key));
        grounds.extend(Ground::materials(&hsm.cluster, &row.instances));
        if let Some(SharingId { cluster, key }) = &row.sharing {
            let sharing = RevocationTarget::Sharing { cluster: cluster.clone(), key: key.clone() };
            let shared = RevocationTarget::Key { cluster: cluster.clone(), key: key.key.clone() };
            grounds.push(Ground::Target(sharing, 0));
            grounds.push(Ground::Target(shared, key.epoch));
            grounds.push(Ground::Target(RevocationTarget::Cluster(cluster.clone()), 0));
            // The shared key may have been revoked under another name.
            let SharingRow { dealer, .. } = self.need(&key::sharing(cluster, key))?;
            let shared: KeyRow = self.need(&key::epoch(&dealer, key))?;
            grounds.extend(Ground::materials(cluster, &shared.instances));
        }
        // Whoever has the master key has every key that was ever derived from it. A master is derived from nothing.
        if let Some(master) = &row.master {
            let master: KeyRow = self.need(&key::epoch(&hsm.hsm, master))?;
            for ground in self.grounds(hsm, &KeyRow { master: None, ..master })? {
                if !grounds.contains(&ground) {
                    grounds.push(ground);
                }
            }
        }
        Ok(grounds)
    }

    /// How an HSM stood at a time, or a key of it.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn standing(&self, hsm: &HsmRow, key: Option<&KeyRow>, at: Timestamp) -> Result<Standing, Fault> {
        let grounds = match key {
            Some(key) => self.grounds(hsm, key)?,
            None => Vec::from(Ground::hsm(hsm)),
        };
        Ok(History::read(*self)?.standing(&grounds, at))
    }

    /// The revocations and suspensions in force.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn revocations(&self) -> Result<Vec<Revocation>, Fault> {
        let bars = self.all::<BarRow>(&[])?;
        let hitting = bars.into_iter().filter_map(|bar| bar.hitting(u32::MAX));
        Ok(hitting.collect())
    }

    /// What was ever decided about a target, in order.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn episodes(&self, target: &RevocationTarget) -> Result<Vec<EpisodeRow>, Fault> {
        self.all(&key::target(target))
    }
}

/// An entry of the status lists: one key of one HSM at one epoch, under one enrolment and one set of verifying keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusEntryRow {
    /// The HSM.
    pub hsm: HsmId,
    /// The key.
    pub key: KeyRef,
    /// Which enrolment of the HSM.
    pub enrolment: u32,
    /// What the entry rests on.
    pub grounds: Vec<Ground>,
}

/// Which entry of the status lists speaks of a key in an HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusIndexRow {
    /// Counts from 0, over all lists.
    pub index: u64,
    /// The verifying keys that the entry rests on, in order: a key that is proven under another gets another entry.
    pub verifying_keys: Vec<Digest>,
}

/// How far the status lists are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StatusHead {
    /// How many entries were given.
    pub entries: u64,
    /// Grows whenever something is revoked, suspended or reinstated.
    pub revision: u64,
}

/// A verifying key that was in force at some time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifyingKeyRow {
    /// The statement kind, by name.
    pub statement: String,
    /// Since when.
    pub since: Timestamp,
}
