//! Clusters: how far their HSMs agree, and keys that go from one HSM to another.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use keywitness_circuits::{ClusterId, Fingerprint, HsmId, KeyId, Nonce, Suite, Timestamp};
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
    state::{HsmRow, KeyRow, RecordRow, State, key},
};

/// Most keys that are shown in which a cluster is not coherent.
const INCOHERENT: usize = 1000;

/// Most keys that an HSM is told it misses, but for those that others have under the same names.
const MISSING: usize = 256;

/// Most keys of one name and epoch that it is told of: more than one are a dispute.
const DISPUTING: usize = 4;

/// How many epochs of a key are looked at, from an HSM's newest on, for one that it proves.
const EPOCHS: u32 = 8;

/// For each key of its part, how many of an HSM's are looked at: it may not attest all that it has enrolled.
const LOOKS: usize = 16;

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

    /// The other HSMs of the caller's cluster, and keys that they attest and the caller has not.
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
        let mut others = Vec::new();
        for hsm in state.all::<HsmRow>(&[])? {
            if hsm.cluster == own.cluster && hsm.hsm != own.hsm && standing(state, &hsm)? == Standing::Active {
                others.push(hsm);
            }
        }
        let survey = Survey { state, configuration: &configuration, now };
        let newest = |hsm: &HsmRow| self.newest_keys.of(state, hsm);
        let missing = survey.missing(&held(state, &own)?, &others, newest)?;
        let peers = others.into_iter().map(peer).collect::<Result<_, _>>()?;
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

    /// One key in each HSM of its cluster; none where every copy is revoked.
    fn key(
        &self,
        members: &BTreeMap<HsmId, HsmRow>,
        hsms: &mut [ClusterHsm],
        holders: BTreeMap<HsmId, KeyRow>,
    ) -> Result<Option<ClusterKey>, Fault> {
        let mut weighed = BTreeMap::new();
        for (hsm, row) in holders {
            let Some(member) = members.get(&hsm) else { continue };
            let held = (row.key.clone(), row.attributes.algorithm);
            let evidence = weigh(self.state, self.configuration, member.clone(), row, (self.now, None))?;
            weighed.insert(hsm, (held, evidence));
        }
        // A revoked copy says nothing of the others, and not which epoch is the newest.
        let of_cluster = weighed.values().filter(|(_, copy)| copy.status.state != AttestationState::Revoked);
        let newest = of_cluster.map(|(held, _)| held).max_by_key(|(key, _)| key.epoch).cloned();
        let Some((key, algorithm)) = newest else { return Ok(None) };
        let mut copies = Vec::with_capacity(hsms.len());
        let (mut shown, mut algorithms) = (BTreeMap::<Suite, BTreeSet<Fingerprint>>::new(), BTreeSet::new());
        for hsm in hsms {
            let copy = weighed
                .remove(&hsm.hsm)
                .filter(|((held, _), copy)| held.epoch == key.epoch || copy.status.state == AttestationState::Revoked);
            let Some(((_, algorithm), mut weighed)) = copy else {
                copies.push(KeyCopy { hsm: hsm.hsm.clone(), state: None, fingerprints: Vec::new() });
                continue;
            };
            if weighed.status.state == AttestationState::Revoked {
                weighed.records.clear();
            }
            hsm.last_proof = weighed.records.iter().map(|record| record.proven_at).max().max(hsm.last_proof);
            hsm.attested += u64::from(weighed.status.state == AttestationState::Attested);
            weighed.records.retain(|record| record.expires_at > self.now);
            let fingerprints: Vec<_> = weighed.records.iter().map(|record| record.fingerprint).collect();
            for fingerprint in &fingerprints {
                algorithms.insert(algorithm);
                shown.entry(fingerprint.suite).or_default().insert(*fingerprint);
            }
            copies.push(KeyCopy { hsm: hsm.hsm.clone(), state: Some(weighed.status.state), fingerprints });
        }
        let unproven =
            |copy: &KeyCopy| matches!(copy.state, None | Some(AttestationState::Unproven | AttestationState::Revoked));
        // Fingerprints are compared within a suite: keys of two algorithms may have no suite in common.
        let differ = algorithms.len() > 1 || shown.values().any(|fingerprints| fingerprints.len() > 1);
        let coherence = if differ {
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

    /// Keys that `others` give now and that are not among `held`: of each HSM as many as of another, so that none crowds out the
    /// rest, and another part of them each time where there are more. Beside each there is whatever others prove under its name, be it
    /// held, and whether they give it or not, so that nobody takes it for undisputed; where that is too much, it is left out.
    fn missing(
        &self,
        held: &HashSet<Vec<u8>>,
        others: &[HsmRow],
        newest: impl Fn(&HsmRow) -> Result<Places, Fault>,
    ) -> Result<Vec<MissingKey>, Fault> {
        let share = (MISSING / others.len().max(1)).max(1);
        let mut found = BTreeMap::<Vec<u8>, BTreeSet<Vec<u8>>>::new();
        let all = others.iter().map(newest).collect::<Result<Vec<_>, _>>()?;
        for (number, (hsm, places)) in others.iter().zip(&all).enumerate().take(MISSING) {
            let mut places: Vec<_> = places.iter().filter(|place| !held.contains(*place)).cloned().collect();
            if !places.is_empty() {
                let first = if places.len() > share { random() } else { 0 };
                let middle = first.wrapping_add(number.wrapping_mul(share)) % places.len();
                places.rotate_left(middle);
            }
            let mut taken = 0;
            for place in places.into_iter().take(share.saturating_mul(LOOKS)) {
                if taken == share {
                    break;
                }
                if self.proves(hsm, &place)?.is_some_and(|(_, gives)| gives) {
                    taken += 1;
                    found.entry(name_of(&place).to_vec()).or_default().insert(place);
                }
            }
        }
        let (mut missing, mut room) = (Vec::new(), MISSING);
        for (name, mut places) in found {
            let given = places.len();
            for (hsm, newest) in others.iter().zip(&all) {
                places.extend(self.proven(hsm, newest, &name)?);
            }
            let more = places.len().saturating_sub(given);
            if more <= room {
                room -= more;
                missing.extend(self.under(others, &places)?);
            }
        }
        missing.sort_by_key(|key| key.master.is_some());
        Ok(missing)
    }

    /// What HSMs prove at the places of one name, with whoever gives it before other holders; nothing where too many differ.
    fn under(&self, others: &[HsmRow], places: &BTreeSet<Vec<u8>>) -> Result<Vec<MissingKey>, Fault> {
        let mut told = Vec::new();
        for place in places {
            let mut proofs = Vec::new();
            for hsm in others {
                proofs.extend(self.proves(hsm, place)?.map(|(key, gives)| (hsm, key, gives)));
            }
            proofs.sort_by_key(|(_, _, gives)| !gives);
            let mut keys: Vec<MissingKey> = Vec::new();
            for (hsm, proven, _) in proofs {
                match keys.iter_mut().find(|key| key.instances == proven.instances) {
                    Some(key) => key.holders.push(hsm.hsm.clone()),
                    None => keys.push(MissingKey { holders: vec![hsm.hsm.clone()], ..proven }),
                }
            }
            if keys.len() > DISPUTING {
                return Ok(Vec::new());
            }
            told.append(&mut keys);
        }
        Ok(told)
    }

    /// The place of the newest epoch that an HSM proves of a name. `newest` are its keys' newest places.
    fn proven(&self, hsm: &HsmRow, newest: &[Vec<u8>], name: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let epoch = match epoch_of(newest, name) {
            // They may be a while old.
            None => epoch_of(&newest_places(self.state, hsm, name)?, name),
            known => known,
        };
        let Some(epoch) = epoch else { return Ok(None) };
        for back in 0..EPOCHS.min(epoch) {
            let place = [name, &epoch.saturating_sub(back).to_be_bytes()[..]].concat();
            if self.proves(hsm, &place)?.is_some() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// The key of an HSM at a place, which names it and its epoch, if the HSM attests it and it is no share; and whether the HSM gives
    /// it: the newest epoch alone, and no key that may not leave.
    fn proves(&self, hsm: &HsmRow, place: &[u8]) -> Result<Option<(MissingKey, bool)>, Fault> {
        let at = [&key::hsm(&hsm.hsm)[..], place].concat();
        let Some(row) = self.state.get::<KeyRow>(&at)?.filter(|row| row.sharing.is_none()) else { return Ok(None) };
        let next = KeyRef { epoch: row.key.epoch.saturating_add(1), ..row.key.clone() };
        let later = self.state.get::<KeyRow>(&key::epoch(&hsm.hsm, &next))?.is_some();
        let (key, gives) = (described(&row), !later && row.attributes.extractable);
        let weighed = weigh(self.state, self.configuration, hsm.clone(), row, (self.now, None))?;
        Ok((weighed.status.state == AttestationState::Attested).then_some((key, gives)))
    }
}

fn random() -> usize {
    usize::from_le_bytes(Nonce::random().0.first_chunk().copied().unwrap_or_default())
}

/// The newest epoch of each key of an HSM, but for shares.
fn newest(state: State<'_>, hsm: &HsmRow) -> Result<BTreeMap<KeyId, KeyRow>, Fault> {
    let rows = state.all::<KeyRow>(&key::hsm(&hsm.hsm))?.into_iter().filter(|row| row.sharing.is_none());
    // Rows come in the order of epochs: the last one stays.
    Ok(rows.map(|row| (row.key.key.clone(), row)).collect())
}

/// What the places of the keys end with that an HSM has enrolled or attested since it was enrolled: names and epochs. What it had
/// under an earlier enrolment may be lost.
fn held(state: State<'_>, hsm: &HsmRow) -> Result<HashSet<Vec<u8>>, Fault> {
    let (prefix, mut held) = (key::hsm(&hsm.hsm), HashSet::new());
    if hsm.revision > 1 {
        let since = state.all::<KeyRow>(&prefix)?.into_iter().filter(|row| row.enrolled_at > hsm.enrolled_at);
        let records = state.all::<RecordRow>(&prefix)?.into_iter().map(|row| row.record);
        let proven = records.filter(|record| record.enrolment == hsm.revision);
        let keys = since.map(|row| row.key).chain(proven.map(|record| record.key));
        return Ok(keys.map(|held| key::epoch(&hsm.hsm, &held).split_off(prefix.len())).collect());
    }
    state.0.visit(Table::Keys, &prefix, &prefix, &mut |place, _| {
        held.insert(place.get(prefix.len()..).unwrap_or_default().to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(held)
}

/// What the places of each HSM's keys at their newest epochs end with. Those of an HSM with many keys are gathered once in a while: each
/// HSM of its cluster asks for them all the time. What they say is looked up before it is told.
#[derive(Default)]
pub(super) struct NewestKeys(Mutex<HashMap<HsmId, (Instant, Places)>>);

/// What places end with.
type Places = Arc<Vec<Vec<u8>>>;

/// How long they are kept, and from how many keys on.
const KEPT: (Duration, usize) = (Duration::from_secs(30), 1000);

impl NewestKeys {
    fn of(&self, state: State<'_>, hsm: &HsmRow) -> Result<Places, Fault> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept().retain(|_, (at, _)| at.elapsed() < KEPT.0);
        if let Some((_, places)) = kept().get(&hsm.hsm) {
            return Ok(Arc::clone(places));
        }
        let places = Arc::new(newest_places(state, hsm, &[])?);
        if places.len() >= KEPT.1 {
            kept().insert(hsm.hsm.clone(), (Instant::now(), Arc::clone(&places)));
        }
        Ok(places)
    }
}

/// The name of the key at a place: its epoch's four bytes end it.
fn name_of(place: &[u8]) -> &[u8] {
    place.get(..place.len().saturating_sub(4)).unwrap_or_default()
}

/// The epoch that an HSM's places, which are in order, have for a name.
fn epoch_of(places: &[Vec<u8>], name: &[u8]) -> Option<u32> {
    let place = places.get(places.partition_point(|place| name_of(place) < name))?;
    let epoch = place.strip_prefix(name)?.try_into().ok()?;
    Some(u32::from_be_bytes(epoch))
}

/// What the places of an HSM's keys at their newest epochs end with, in order, of one name or of all. No row is decoded.
fn newest_places(state: State<'_>, hsm: &HsmRow, name: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let (of_hsm, mut found) = (key::hsm(&hsm.hsm), Vec::<Vec<u8>>::new());
    let prefix = [&of_hsm[..], name].concat();
    // Rows come in the order of epochs.
    state.0.visit(Table::Keys, &prefix, &prefix, &mut |place, _| {
        let own = place.get(of_hsm.len()..).unwrap_or_default();
        if found.last().is_some_and(|last| name_of(last) == name_of(own)) {
            found.pop();
        }
        found.push(own.to_vec());
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
