//! What the newest evidence comes to (`IsKeyAttested`): derived each time, and never stored.

use std::{collections::BTreeMap, ops::ControlFlow};

use keywitness_circuits::{ClusterId, HsmId, KeyId, Timestamp};
use keywitness_verifier::wire::{
    Alert, AttestationState, Event, EventKind, EventPage, HsmKeyStatus, KeyQuery, KeyStatus, Problem, ProblemKind,
    Record, Revocation, RevocationTarget, Standing, StatementStatus, Status,
};

use super::{
    Manager,
    access::{Caller, Scope},
    evidence::Residence,
    fraud::visible,
};
use crate::ledger::{
    Configuration, Fault, Table,
    apply::beacon,
    log,
    state::{FailureRow, HolderRow, HsmRow, KeyRow, RecordRow, State, decode, fraud::FraudCounts, key},
};

/// Most events in one page.
const PAGE: usize = 1000;

/// Of how many of the newest alerts a bounded scope's are counted.
const ALERTS: u64 = 1000;

/// One key in one HSM, and what its status rests on.
pub(super) struct Evidence {
    pub(super) hsm: HsmRow,
    pub(super) key: KeyRow,
    pub(super) status: HsmKeyStatus,
    /// The records in force, one for each required statement when the key is attested.
    pub(super) records: Vec<Record>,
    /// Until when every HSM that agrees on a tagged key does so.
    pub(super) agreed_until: Option<Timestamp>,
    /// The key that a derived key is derived from, in the same HSM.
    pub(super) master: Option<Box<Evidence>>,
    pub(super) revocation: Option<Revocation>,
    pub(super) residence: Residence,
}

/// What one HSM's newest epoch of a key comes to at `now`.
pub(super) fn weigh(
    state: State<'_>,
    configuration: &Configuration,
    hsm: HsmRow,
    key: KeyRow,
    (now, max_age): (Timestamp, Option<u64>),
) -> Result<Evidence, Fault> {
    let required = key.attributes.kinds(&configuration.suites);
    let (mut statements, mut records) = (Vec::with_capacity(required.len()), Vec::with_capacity(required.len()));
    let mut agreed_until = None;
    let (mut failure, mut failing): (Option<FailureRow>, bool) = (None, false);
    for kind in &required {
        let place = key::evidence(&hsm.hsm, &key.key, *kind);
        let proven: Option<RecordRow> = state.get(&place)?;
        let failed: Option<FailureRow> = state.get(&place)?;
        let newest_success = proven.as_ref().map_or(0, |row| row.sequence);
        let standing = failed.filter(|row| row.sequence > newest_success);
        // A record made under an older verifying key or enrolment proves nothing under today's.
        let mut in_force = proven
            .map(|row| row.record)
            .filter(|record| record.enrolment == hsm.revision && configuration.still_accepts(record));
        if let Some(record) = &in_force
            && state.barred(&RevocationTarget::VerifyingKey(record.verifying_key))?.is_some()
        {
            in_force = None;
        }
        // An answer that came too late contradicts no record that is still in force.
        let harmless = |failed: &FailureRow| {
            failed.failure.problem == ProblemKind::ChallengeExpired
                && in_force.as_ref().is_some_and(|record| record.expires_at > now)
        };
        failing |= standing.as_ref().is_some_and(|failed| !harmless(failed));
        failure = [failure, standing].into_iter().flatten().max_by_key(|row| row.sequence);
        let agreed = match kind.needs_beacon() {
            true => beacon::agreement(state, configuration, (&hsm, &key), (now, max_age))?,
            false => None,
        };
        agreed_until = agreed_until.into_iter().chain(agreed.and_then(|(_, until)| until)).min();
        statements.push(StatementStatus {
            kind: *kind,
            proven_at: in_force.as_ref().map(|record| record.proven_at),
            expires_at: in_force.as_ref().map(|record| record.expires_at),
            agreement: agreed.map(|(agreement, _)| agreement),
        });
        records.extend(in_force);
    }
    let revocation = state.key_revocation(&hsm, &key)?;
    let verdict = if let Some(revocation) = &revocation {
        match revocation.standing {
            Standing::Active | Standing::Suspended => AttestationState::Suspended,
            Standing::Revoked => AttestationState::Revoked,
        }
    } else if failing {
        AttestationState::Failing
    } else if required.is_empty() || records.len() < required.len() {
        AttestationState::Unproven
    } else if records.iter().any(|record| record.expires_at <= now) {
        AttestationState::Expired
    } else if max_age.is_some_and(|age| records.iter().any(|record| now.since(record.proven_at) > age)) {
        AttestationState::Stale
    } else {
        AttestationState::Attested
    };
    let master = match &key.master {
        Some(master) => {
            let row = state.need(&key::epoch(&hsm.hsm, master))?;
            Some(Box::new(weigh(state, configuration, hsm.clone(), row, (now, max_age))?))
        }
        None => None,
    };
    // A derived key stands no better than the key it is derived from.
    let verdict = match &master {
        Some(master) if verdict == AttestationState::Attested => master.status.state,
        _ => verdict,
    };
    let residence = Residence::of(state, &hsm, &key.key, now)?;
    let status = HsmKeyStatus {
        hsm: hsm.hsm.clone(),
        cluster: hsm.cluster.clone(),
        key: key.key.clone(),
        algorithm: key.attributes.algorithm,
        state: verdict,
        statements,
        failure: failure.map(|row| row.failure),
        demoted: residence.missing,
    };
    Ok(Evidence { hsm, key, status, records, agreed_until, master, revocation, residence })
}

impl Manager {
    /// Whether a key is attested, in each HSM that enrolled it. For operators, clients and viewers.
    ///
    /// # Errors
    /// `not-found`; `ambiguous-key` where several clusters have a key of that name.
    pub fn attested(&self, caller: &Caller, query: &KeyQuery) -> Result<KeyStatus, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let now = self.now(state)?;
        let (cluster, evidence) = self.evidence(state, caller.scope(), query, now)?;
        let hsms: Vec<_> = evidence.into_iter().map(|evidence| evidence.status).collect();
        let attested = hsms.iter().any(|status| status.state == AttestationState::Attested);
        Ok(KeyStatus { key: query.key.clone(), cluster, attested, hsms })
    }

    /// The evidence for a key in each HSM that the query allows: at least one.
    pub(super) fn evidence(
        &self,
        state: State<'_>,
        scope: &Scope,
        query: &KeyQuery,
        now: Timestamp,
    ) -> Result<(ClusterId, Vec<Evidence>), Problem> {
        let mut holders: Vec<HolderRow> = state.all(&key::holders(&query.key, query.cluster.as_ref()))?;
        // What is out of the scope is not there: not found, and no reason for a name to be ambiguous.
        holders.retain(|holder| scope.includes(&holder.cluster));
        holders.retain(|holder| query.hsm.as_ref().is_none_or(|hsm| *hsm == holder.hsm));
        let Some(first) = holders.first() else {
            let why = format!("no HSM has enrolled key {} where you asked for it", query.key);
            return Err(Problem::new(ProblemKind::NotFound, why));
        };
        let mut cluster = first.cluster.clone();
        if holders.iter().any(|holder| holder.cluster != cluster) {
            // A mere enrolment makes no name ambiguous: whoever proved the key counts.
            let mut proven = Vec::with_capacity(holders.len());
            for holder in &holders {
                if !state.all::<RecordRow>(&key::epochs(&holder.hsm, &query.key))?.is_empty() {
                    proven.push(holder.cluster.clone());
                }
            }
            if let Some(first) = proven.first() {
                holders.retain(|holder| proven.contains(&holder.cluster));
                cluster = first.clone();
            }
        }
        if holders.iter().any(|holder| holder.cluster != cluster) {
            let why = format!("several clusters have a key named {}; name the cluster", query.key);
            return Err(Problem::new(ProblemKind::AmbiguousKey, why));
        }
        let configuration = state.configuration()?;
        let mut evidence = Vec::with_capacity(holders.len());
        for holder in &holders {
            let hsm: HsmRow = state.need(&key::hsm(&holder.hsm))?;
            let Some(row) = state.newest_key(&holder.hsm, &query.key)? else { continue };
            evidence.push(weigh(state, &configuration, hsm, row, (now, query.max_age))?);
        }
        Ok((cluster, evidence))
    }

    /// Everything in the caller's clusters at a glance. For every role.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn status(&self, caller: &Caller) -> Result<Status, Problem> {
        self.spend_overview(caller)?;
        let limited = if caller.scope().is_all() { self.limits.limited() } else { Vec::new() };
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let (now, head, configuration) = (self.now(state)?, state.head()?, state.configuration()?);
        let hsms: BTreeMap<HsmId, HsmRow> = state
            .all::<HsmRow>(&[])?
            .into_iter()
            .filter(|hsm| caller.scope().includes(&hsm.cluster))
            .map(|hsm| (hsm.hsm.clone(), hsm))
            .collect();
        let mut newest: BTreeMap<(HsmId, KeyId), KeyRow> = BTreeMap::new();
        for row in state.all::<KeyRow>(&[])? {
            // Rows come in the order of epochs: the last one stays.
            newest.insert((row.hsm.clone(), row.key.key.clone()), row);
        }
        let mut keys = Vec::with_capacity(newest.len());
        for ((hsm, _), row) in newest {
            let Some(hsm) = hsms.get(&hsm).cloned() else { continue };
            keys.push(weigh(state, &configuration, hsm, row, (now, None))?.status);
        }
        let trust_domain = configuration.audience.trust_domain;
        let mut revocations = state.revocations()?;
        revocations.retain(|revocation| reaches(caller.scope(), &hsms, &revocation.target));
        let (events, verification) = (head.events, self.verification());
        let (alerts, open_alerts) = alerts_within(state, caller.scope())?;
        let webhooks = if caller.scope().is_all() { self.webhook_health(state)? } else { Vec::new() };
        Ok(Status {
            now,
            trust_domain,
            keys,
            revocations,
            events,
            alerts,
            open_alerts,
            verification,
            limited,
            webhooks,
        })
    }

    /// The events in the caller's clusters among the 1,000 after number `after`. For operators, viewers and auditors.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn events(&self, caller: &Caller, after: u64) -> Result<EventPage, Problem> {
        let rows = self.ledger.view()?;
        let mut events = log::events(rows.as_ref(), after, PAGE)?;
        if !caller.scope().is_all() {
            let state = State(rows.as_ref());
            let hsms = hsms_within(state, caller.scope())?;
            events.retain(|event| concerns(caller.scope(), &hsms, &event.kind));
        }
        Ok(EventPage { events: events.into_iter().map(Event::in_words).collect() })
    }
}

/// How many alerts there are, and how many of them wait for an operator: for a bounded scope, of those among the
/// [`ALERTS`] newest that may be seen within it.
fn alerts_within(state: State<'_>, scope: &Scope) -> Result<(u64, u64), Fault> {
    let counts: FraudCounts = state.get(key::ONLY)?.unwrap_or_default();
    if scope.is_all() {
        return Ok((counts.alerts, counts.open));
    }
    let (mut all, mut open) = (0, 0);
    let start = key::number(counts.alerts.saturating_sub(ALERTS) + 1);
    state.0.visit(Table::Alerts, &[], &start, &mut |_, value| {
        let alert: Alert = decode(Table::Alerts, value)?;
        if visible(state, scope, &alert)? {
            all += 1;
            open += u64::from(alert.acknowledged.is_none());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((all, open))
}

/// The HSMs of a scope's clusters.
pub(super) fn hsms_within(state: State<'_>, scope: &Scope) -> Result<BTreeMap<HsmId, HsmRow>, Fault> {
    let hsms = state.all::<HsmRow>(&[])?.into_iter().filter(|hsm| scope.includes(&hsm.cluster));
    Ok(hsms.map(|hsm| (hsm.hsm.clone(), hsm)).collect())
}

/// Whether a revocation is of something in a scope, whose HSMs are `hsms`.
fn reaches(scope: &Scope, hsms: &BTreeMap<HsmId, HsmRow>, target: &RevocationTarget) -> bool {
    match target {
        RevocationTarget::Hsm(hsm) => hsms.contains_key(hsm),
        RevocationTarget::Key { cluster, .. }
        | RevocationTarget::Sharing { cluster, .. }
        | RevocationTarget::Cluster(cluster) => scope.includes(cluster),
        // A circuit is nobody's own: whoever relies on it may know.
        RevocationTarget::VerifyingKey(_) => true,
    }
}

/// Whether a bounded scope, whose HSMs are `hsms`, may see an event: only where all that it names is known to be
/// inside. What is not listed here stays unseen.
pub(super) fn concerns(scope: &Scope, hsms: &BTreeMap<HsmId, HsmRow>, kind: &EventKind) -> bool {
    match kind {
        EventKind::HsmEnrolled { cluster, .. } => scope.includes(cluster),
        EventKind::Revoked { target, .. }
        | EventKind::Suspended { target, .. }
        | EventKind::Reinstated { target, .. } => reaches(scope, hsms, target),
        EventKind::KeysCopied { cluster, .. } => scope.includes(cluster),
        EventKind::Drift { earlier, later } | EventKind::TagsDiffer { earlier, later, .. } => {
            scope.includes(&earlier.cluster) && scope.includes(&later.cluster)
        }
        EventKind::RepeatedFailures { hsm, .. }
        | EventKind::Replay { hsm, .. }
        | EventKind::ForeignMeasurement { hsm, .. }
        | EventKind::SharedDevice { hsm, .. }
        | EventKind::DeviceEnrolled { hsm, .. } => hsms.contains_key(hsm),
        EventKind::RevokedPersists { hsm, target, .. } => hsms.contains_key(hsm) && reaches(scope, hsms, target),
        _ => false,
    }
}
