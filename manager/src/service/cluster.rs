//! Clusters: how far their HSMs agree, and keys that go from one HSM to another.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::ControlFlow,
};

use keywitness_circuits::{ClusterId, Fingerprint, HsmId, KeyId, Suite, Timestamp};
use keywitness_verifier::wire::{
    AttestationState, Base64, ClusterHsm, ClusterKey, ClusterStatus, Clusters, Coherence, KeyCopy, KeyRef,
    MAX_TRANSFER, MissingKey, Peer, Peers, Problem, ProblemKind, Standing, TransferGrant, TransferRequest,
};

use super::{
    Manager,
    access::{Caller, HsmCaller},
    status::weigh,
};
use crate::ledger::{
    Command, Configuration, Fault, Table,
    state::{HsmRow, KeyRow, State, decode, key},
};

/// Most keys that are shown in which a cluster is not coherent.
const INCOHERENT: usize = 1000;

/// Most keys that an HSM is told it misses.
const MISSING: usize = 256;

impl Manager {
    /// How far the HSMs of each of the caller's clusters agree on its keys, or of one cluster. For operators, viewers and
    /// auditors.
    ///
    /// # Errors
    /// `not-found` for a cluster without an HSM, or out of the caller's scope.
    pub fn clusters(&self, caller: &Caller, cluster: Option<&ClusterId>) -> Result<Clusters, Problem> {
        self.spend_overview(caller)?;
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let (now, configuration) = (self.now(state)?, state.configuration()?);
        let mut members: BTreeMap<ClusterId, Vec<HsmRow>> = BTreeMap::new();
        for hsm in state.all::<HsmRow>(&[])? {
            let asked = caller.scope().includes(&hsm.cluster) && cluster.is_none_or(|cluster| *cluster == hsm.cluster);
            if asked && standing(state, &hsm)? != Standing::Revoked {
                members.entry(hsm.cluster.clone()).or_default().push(hsm);
            }
        }
        if let (Some(cluster), true) = (cluster, members.is_empty()) {
            return Err(Problem::new(ProblemKind::NotFound, format!("no HSM of cluster {cluster} is enrolled here")));
        }
        let survey = Survey { state, configuration: &configuration, now };
        let clusters = members.into_iter().map(|(cluster, members)| survey.cluster(cluster, members));
        Ok(Clusters { now, clusters: clusters.collect::<Result<_, Fault>>()? })
    }

    /// The other HSMs of the caller's cluster, and keys that they attest and the caller has not enrolled.
    ///
    /// # Errors
    /// `hsm-revoked`, `suspended`
    pub fn peers(&self, caller: &HsmCaller) -> Result<Peers, Problem> {
        // Every key of the cluster is looked at.
        self.spend_more(caller, MISSING)?;
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let (now, configuration) = (self.now(state)?, state.configuration()?);
        let own: HsmRow = state.need(&key::hsm(caller.hsm()))?;
        if let Some(revocation) = state.revocation(&own, [])? {
            return Err(crate::ledger::apply::revocation::problem(&revocation));
        }
        let held = held(state, &own)?;
        let (mut peers, mut missing) = (Vec::new(), BTreeMap::<(KeyRef, Vec<Base64>), MissingKey>::new());
        for hsm in state.all::<HsmRow>(&[])? {
            if hsm.cluster != own.cluster || hsm.hsm == own.hsm || standing(state, &hsm)? != Standing::Active {
                continue;
            }
            for row in newest_besides(state, &hsm, &held)? {
                let key = described(&row);
                let place = (key.key.clone(), key.instances.clone());
                if row.sharing.is_some() || (missing.len() >= MISSING && !missing.contains_key(&place)) {
                    continue;
                }
                let weighed = weigh(state, &configuration, hsm.clone(), row, (now, None))?;
                if weighed.status.state == AttestationState::Attested {
                    missing.entry(place).or_insert(key).holders.push(hsm.hsm.clone());
                }
            }
            peers.push(peer(hsm)?);
        }
        let mut missing: Vec<_> = missing.into_values().collect();
        missing.sort_by_key(|key| key.master.is_some());
        Ok(Peers { cluster: own.cluster, peers, missing })
    }

    /// Lets the caller give copies of keys that it attests to another HSM of its cluster, and logs it.
    ///
    /// # Errors
    /// `malformed`; `forbidden` for an HSM of another cluster, and for a share; `unknown-key`; `not-attested`; and what
    /// stands against either HSM, or a key.
    pub fn transfer(&self, caller: &HsmCaller, request: &TransferRequest) -> Result<TransferGrant, Problem> {
        if !(1..=MAX_TRANSFER).contains(&request.keys.len()) {
            let why = format!("a transfer is of 1 to {MAX_TRANSFER} keys");
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        self.spend_more(caller, request.keys.len())?;
        let (to, keys) = (request.to.clone(), request.keys.clone());
        let (request, hsm, enrolment) = (*caller.request(), caller.hsm().clone(), caller.enrolment());
        self.done(Command::CopyKeys { request, hsm, enrolment, to: to.clone(), keys })?;
        let rows = self.ledger.view()?;
        let to: HsmRow = State(rows.as_ref()).need(&key::hsm(&to))?;
        Ok(TransferGrant { cluster: to.cluster.clone(), to: peer(to)? })
    }
}

/// A cluster being looked at.
struct Survey<'a> {
    state: State<'a>,
    configuration: &'a Configuration,
    now: Timestamp,
}

impl Survey<'_> {
    fn cluster(&self, cluster: ClusterId, members: Vec<HsmRow>) -> Result<ClusterStatus, Fault> {
        let mut keys: BTreeMap<KeyId, BTreeMap<HsmId, KeyRow>> = BTreeMap::new();
        let (mut hsms, mut by_name) = (Vec::with_capacity(members.len()), BTreeMap::new());
        for hsm in members {
            for (key, row) in newest(self.state, &hsm)? {
                keys.entry(key).or_default().insert(hsm.hsm.clone(), row);
            }
            let standing = standing(self.state, &hsm)?;
            hsms.push(ClusterHsm { hsm: hsm.hsm.clone(), standing, attested: 0, last_proof: None });
            by_name.insert(hsm.hsm.clone(), hsm);
        }
        let (mut all, mut coherent, mut incoherent) = (0, 0, Vec::new());
        for holders in keys.into_values() {
            let Some(key) = self.key(&by_name, &mut hsms, holders)? else { continue };
            all += 1;
            match key.coherence {
                Coherence::Coherent => coherent += 1,
                _ => incoherent.push(key),
            }
        }
        incoherent.sort_by_key(|key| Reverse(key.coherence));
        let coherence = incoherent.first().map_or(Coherence::Coherent, |key| key.coherence);
        incoherent.truncate(INCOHERENT);
        Ok(ClusterStatus { cluster, coherence, hsms, keys: all, coherent, incoherent })
    }

    /// One key in each HSM of its cluster; none where it is revoked.
    fn key(
        &self,
        members: &BTreeMap<HsmId, HsmRow>,
        hsms: &mut [ClusterHsm],
        mut holders: BTreeMap<HsmId, KeyRow>,
    ) -> Result<Option<ClusterKey>, Fault> {
        let Some(newest) = holders.values().max_by_key(|row| row.key.epoch) else { return Ok(None) };
        let (key, algorithm) = (newest.key.clone(), newest.attributes.algorithm);
        let (mut copies, mut shown) = (Vec::with_capacity(hsms.len()), BTreeMap::<Suite, BTreeSet<Fingerprint>>::new());
        for hsm in hsms {
            let row = holders.remove(&hsm.hsm).filter(|row| row.key.epoch == key.epoch);
            let (Some(row), Some(member)) = (row, members.get(&hsm.hsm)) else {
                copies.push(KeyCopy { hsm: hsm.hsm.clone(), state: None, fingerprints: Vec::new() });
                continue;
            };
            let mut weighed = weigh(self.state, self.configuration, member.clone(), row, (self.now, None))?;
            if weighed.status.state == AttestationState::Revoked {
                return Ok(None);
            }
            hsm.last_proof = weighed.records.iter().map(|record| record.proven_at).max().max(hsm.last_proof);
            hsm.attested += u64::from(weighed.status.state == AttestationState::Attested);
            weighed.records.retain(|record| record.expires_at > self.now);
            let fingerprints: Vec<_> = weighed.records.iter().map(|record| record.fingerprint).collect();
            for fingerprint in &fingerprints {
                shown.entry(fingerprint.suite).or_default().insert(*fingerprint);
            }
            copies.push(KeyCopy { hsm: hsm.hsm.clone(), state: Some(weighed.status.state), fingerprints });
        }
        let unproven = |copy: &KeyCopy| matches!(copy.state, None | Some(AttestationState::Unproven));
        let coherence = if shown.values().any(|fingerprints| fingerprints.len() > 1) {
            Coherence::Drifting
        } else if copies.iter().any(unproven) {
            Coherence::Partial
        } else if copies.iter().any(|copy| copy.state != Some(AttestationState::Attested)) {
            Coherence::Stale
        } else {
            Coherence::Coherent
        };
        Ok(Some(ClusterKey { key, algorithm, coherence, copies }))
    }
}

/// The newest epoch of each key of an HSM, but for shares.
fn newest(state: State<'_>, hsm: &HsmRow) -> Result<BTreeMap<KeyId, KeyRow>, Fault> {
    let rows = state.all::<KeyRow>(&key::hsm(&hsm.hsm))?.into_iter().filter(|row| row.sharing.is_none());
    // Rows come in the order of epochs: the last one stays.
    Ok(rows.map(|row| (row.key.key.clone(), row)).collect())
}

/// What the places of an HSM's keys end with: names and epochs.
fn held(state: State<'_>, hsm: &HsmRow) -> Result<HashSet<Vec<u8>>, Fault> {
    let (prefix, mut held) = (key::hsm(&hsm.hsm), HashSet::new());
    state.0.visit(Table::Keys, &prefix, &prefix, &mut |place, _| {
        held.insert(place.get(prefix.len()..).unwrap_or_default().to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(held)
}

/// The keys of an HSM whose newest epoch is not among `held`. Rows of the others are not decoded: a cluster has many keys,
/// and its HSMs hold the same.
fn newest_besides(state: State<'_>, hsm: &HsmRow, held: &HashSet<Vec<u8>>) -> Result<Vec<KeyRow>, Fault> {
    let (prefix, mut found) = (key::hsm(&hsm.hsm), Vec::<KeyRow>::new());
    let mut last: Option<(Vec<u8>, bool)> = None;
    state.0.visit(Table::Keys, &prefix, &prefix, &mut |place, value| {
        let own = place.get(prefix.len()..).unwrap_or_default();
        // Rows come in the order of epochs, whose four bytes end a place.
        let (name, _) = own.split_at_checked(own.len().saturating_sub(4)).unwrap_or_default();
        if last.as_ref().is_some_and(|(before, besides)| before == name && *besides) {
            found.pop();
        }
        let besides = !held.contains(own);
        if besides {
            found.push(decode(Table::Keys, value)?);
        }
        last = Some((name.to_vec(), besides));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

fn standing(state: State<'_>, hsm: &HsmRow) -> Result<Standing, Fault> {
    Ok(state.revocation(hsm, [])?.map_or(Standing::Active, |revocation| revocation.standing))
}

fn peer(hsm: HsmRow) -> Result<Peer, Fault> {
    let identity = hsm.identity_key()?;
    let HsmRow { hsm, revision, channel_key, channel_url, .. } = hsm;
    Ok(Peer { hsm, enrolment: revision, identity, channel_key, channel_url })
}

fn described(row: &KeyRow) -> MissingKey {
    let instances = row.instances.iter().map(|instance| Base64(instance.bytes.clone())).collect();
    let KeyRow { key, attributes, master, .. } = row.clone();
    MissingKey { key, attributes, instances, master, holders: Vec::new() }
}
