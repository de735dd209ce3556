//! Alerts and migrations, and what keeps time for the rules.

use std::ops::ControlFlow;

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::wire::{
    AcknowledgeRequest, Alert, AlertPage, AlertQuery, AlertState, Migrant, Migration, MigrationRequest, Migrations,
    Problem, ProblemKind,
};

use super::{
    Manager,
    access::{Caller, Scope},
    unexpected,
};
use crate::ledger::{
    Command, Fault, Outcome, Table,
    fraud::{clock, silence},
    state::{HolderRow, HsmRow, State, decode, fraud::FraudCounts, key},
};

/// Most alerts in one page.
const PAGE: usize = 1000;

/// Most alerts that are looked at for one page.
const SCAN: usize = 20_000;

/// Longest note, in characters.
const MAX_NOTE: usize = 512;

/// Most migrations that are remembered within the clusters of an operator who has not all of them: a tenth of what the ledger
/// remembers, so that no such operator keeps others from declaring theirs.
const MIGRATIONS_OF_SCOPE: usize = 100;

/// How many commands one tick makes at most; each looks at some deadlines.
const TICKS: usize = 16;

impl Manager {
    /// Alerts, in order, about HSMs of the caller's clusters; about the manager to who may see every cluster. For
    /// operators, viewers and auditors. A page may hold less than what is asked for, or nothing: it goes on after `next`.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn alerts(&self, caller: &Caller, query: &AlertQuery) -> Result<AlertPage, Problem> {
        let rows = self.ledger.view()?;
        let (mut alerts, mut next, mut looked_at) = (Vec::new(), None, 0);
        let start = key::number(query.after.saturating_add(1));
        rows.visit(Table::Alerts, &[], &start, &mut |_, value| {
            let alert: Alert = decode(Table::Alerts, value)?;
            looked_at += 1;
            if looked_at > SCAN {
                next = Some(alert.number.saturating_sub(1));
                return Ok(ControlFlow::Break(()));
            }
            let state = if alert.acknowledged.is_some() { AlertState::Acknowledged } else { AlertState::Open };
            if query.state.is_some_and(|wanted| wanted != state)
                || !visible(State(rows.as_ref()), caller.scope(), &alert)?
            {
                return Ok(ControlFlow::Continue(()));
            }
            if alerts.len() == PAGE {
                next = alerts.last().map(|last: &Alert| last.number);
                return Ok(ControlFlow::Break(()));
            }
            alerts.push(alert);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(AlertPage { alerts, next })
    }

    /// One alert. For operators, viewers and auditors.
    ///
    /// # Errors
    /// `not-found`
    pub fn alert(&self, caller: &Caller, number: u64) -> Result<Alert, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let mut found: Option<Alert> = state.get(&key::number(number))?;
        if let Some(alert) = &found
            && !visible(state, caller.scope(), alert)?
        {
            found = None;
        }
        found.ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("there is no alert {number}")))
    }

    /// Notes that the caller has seen to an alert. For operators. One that was acknowledged stays as it was.
    ///
    /// # Errors
    /// `not-found`; `malformed` for an overlong note.
    pub fn acknowledge_alert(
        &self,
        caller: &Caller,
        alert: u64,
        request: &AcknowledgeRequest,
    ) -> Result<Alert, Problem> {
        let note = request.note.trim();
        if note.chars().count() > MAX_NOTE || note.chars().any(char::is_control) {
            let why = format!("give the note in at most {MAX_NOTE} characters, without control characters");
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        // An alert that does not exist writes nothing.
        let standing = self.alert(caller, alert)?;
        if standing.acknowledged.is_some() {
            return Ok(standing);
        }
        match self.submit_for(
            caller,
            Command::AcknowledgeAlert { alert, by: caller.name().to_owned(), note: note.to_owned() },
        )? {
            Outcome::Alert(alert) => Ok(*alert),
            other => Err(unexpected(&other)),
        }
    }

    /// Declares that something moves from one cluster to another. For operators.
    ///
    /// # Errors
    /// `malformed` for one cluster, or a time beyond [`keywitness_verifier::wire::MAX_MIGRATION`]; `forbidden` where
    /// too many are remembered; `not-found` for a key that no HSM of the cluster has enrolled that it moves from.
    pub fn declare_migration(&self, caller: &Caller, request: &MigrationRequest) -> Result<Migration, Problem> {
        let MigrationRequest { what, from, to, valid_for } = request.clone();
        caller.must_reach(&from)?;
        caller.must_reach(&to)?;
        if let Migrant::Key(key) = &what
            && State(self.ledger.view()?.as_ref()).some::<HolderRow>(&key::holders(key, Some(&from)), 1)?.is_empty()
        {
            let why = format!(
                "no HSM of cluster {from} has enrolled a key {key}: a migration of it would cover nothing. Look at the names \
                 with keywitness status; the target may enrol the key later, the source must have it"
            );
            return Err(Problem::new(ProblemKind::NotFound, why));
        }
        if !caller.scope().is_all() && self.migrations(caller)?.migrations.len() >= MIGRATIONS_OF_SCOPE {
            let why = format!(
                "{MIGRATIONS_OF_SCOPE} migrations within your clusters are remembered already; the oldest is forgotten first"
            );
            return Err(Problem::new(ProblemKind::Forbidden, why));
        }
        let by = caller.name().to_owned();
        match self.submit_for(caller, Command::DeclareMigration { what, from, to, valid_for, by })? {
            Outcome::Migration(migration) => Ok(*migration),
            other => Err(unexpected(&other)),
        }
    }

    /// The migrations that are remembered. For operators, viewers and auditors.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn migrations(&self, caller: &Caller) -> Result<Migrations, Problem> {
        let mut migrations: Vec<Migration> = State(self.ledger.view()?.as_ref()).all(&[])?;
        migrations
            .retain(|migration| caller.scope().includes(&migration.from) && caller.scope().includes(&migration.to));
        Ok(Migrations { migrations })
    }

    /// The number of the newest event.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn newest_event(&self) -> Result<u64, Problem> {
        Ok(State(self.ledger.view()?.as_ref()).head()?.events)
    }

    /// The number of the newest alert.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn newest_alert(&self) -> Result<u64, Problem> {
        let counts: Option<FraudCounts> = State(self.ledger.view()?.as_ref()).get(key::ONLY)?;
        Ok(counts.unwrap_or_default().alerts)
    }

    /// Looks at what is due by now, and writes nothing where nothing is. HSMs could be heard without a break since
    /// `receiving_since`: nobody counts as silent for the time before.
    ///
    /// # Errors
    /// Where the ledger failed.
    pub fn tick(&self, receiving_since: Timestamp) -> Result<(), Problem> {
        for _ in 0..TICKS {
            let due = {
                let rows = self.ledger.view()?;
                let state = State(rows.as_ref());
                silence::is_due(state, self.now(state)?)?
            };
            if !due {
                break;
            }
            self.submit(Command::Tick { receiving_since })?;
        }
        Ok(())
    }

    /// An HSM signed a request at a time that is too far from the manager's. A failure to note it changes no answer.
    pub(super) fn report_skew(&self, state: State<'_>, hsm: &HsmRow, (request, created): (Digest, Timestamp)) {
        let news = self.now(state).and_then(|now| Ok(clock::is_news(state, &hsm.hsm, created, now)?));
        let noted = match news {
            Ok(false) => return,
            Ok(true) => {
                let (hsm, enrolment) = (hsm.hsm.clone(), hsm.revision);
                self.submit(Command::ReportSkew { request, hsm, enrolment, created }).map(drop)
            }
            Err(problem) => Err(problem),
        };
        if let Err(problem) = noted {
            tracing::warn!(hsm = %hsm.hsm, %problem, "a clock that differs was not noted");
        }
    }
}

/// Whether an alert may be seen within a scope.
pub(super) fn visible(state: State<'_>, scope: &Scope, alert: &Alert) -> Result<bool, Fault> {
    if scope.is_all() {
        return Ok(true);
    }
    let Some(hsm) = alert.subject.hsm() else { return Ok(false) };
    Ok(state.hsm(hsm)?.is_some_and(|hsm| scope.includes(&hsm.cluster)))
}
