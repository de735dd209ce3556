//! Webhooks: what is sent to whom, and how operators look after it.

use std::time::{Duration, Instant};

use data_encoding::{BASE64, HEXLOWER};
use keywitness_circuits::{Nonce, Timestamp};
use keywitness_verifier::wire::{
    Action, Alert, Event, Notification, NotificationData, NotificationKind, Problem, ProblemKind, Sends,
    TokenAlgorithm, Webhook, WebhookHealth, WebhookReplay, WebhookTest, Webhooks, webhook_signed,
};
use sha2::{Digest as _, Sha256};

use super::{
    Manager,
    access::{Caller, Scope},
    fraud::visible,
    status,
};
use crate::{
    ledger::{
        Command, Fault, log,
        state::{State, key, token_key::TokenKeyRow, webhook::WebhookRow},
    },
    outbox::{Message, Outbox, Refusal, Sink, WebhookConfig},
};

/// How many events are looked at in one round, and for about how long messages are sent in it.
const PAGE: usize = 1000;
const ROUND: Duration = Duration::from_secs(5);

/// After how many events that are not for a webhook that is noted: until then a restart looks at them once more.
const SKIPPED: u64 = 10_000;

/// Longest body, in bytes, before what can be asked for is left out. A signer signs twice as much at most.
const LONGEST: usize = 64 * 1024;

/// An event that was looked at.
struct Looked {
    number: u64,
    at: Timestamp,
    /// The message's name and body, where the event is for the webhook.
    message: Option<(String, Vec<u8>)>,
}

impl Manager {
    /// Every webhook.
    pub(crate) const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Notes where each webhook begins that was never seen: with what is yet to come.
    ///
    /// # Errors
    /// Where the ledger failed.
    pub(crate) fn place_new_webhooks(&self) -> Result<(), Problem> {
        for sink in &self.outbox.sinks {
            let webhook = sink.config.name.clone();
            let (known, after) = {
                let rows = self.ledger.view()?;
                let state = State(rows.as_ref());
                (state.get::<WebhookRow>(&key::webhook(&webhook))?.is_some(), state.head()?.events)
            };
            if !known {
                self.submit(Command::PlaceWebhook { webhook, after })?;
            }
        }
        Ok(())
    }

    /// Sends what waits for a webhook, in order, until something is refused, and notes how far that came. Does nothing
    /// while the latest refusal is recent. A webhook that was never seen begins with the events that are yet to come.
    /// Whether there may be more to send at once.
    ///
    /// # Errors
    /// Where the ledger failed. What was sent is noted by a later round.
    pub(crate) fn deliver(&self, sink: &Sink) -> Result<bool, Problem> {
        if sink.waits() {
            return Ok(false);
        }
        let webhook = &sink.config.name;
        let (row, looked) = {
            let rows = self.ledger.view()?;
            let state = State(rows.as_ref());
            let Some(row) = state.get::<WebhookRow>(&key::webhook(webhook))? else {
                let command = Command::PlaceWebhook { webhook: webhook.clone(), after: state.head()?.events };
                return self.submit(command).map(|_| false);
            };
            let start = sink.progress().position(row);
            let events = log::events(rows.as_ref(), start, PAGE)?;
            let looked = events.into_iter().map(|event| self.look(state, &sink.config, event));
            (row, looked.collect::<Result<Vec<_>, Problem>>()?)
        };
        let (begun, mut more) = (Instant::now(), looked.len() == PAGE);
        for Looked { number, at, message } in looked {
            if let Some((id, body)) = message {
                let sent = self.signed(id, body).map_err(|problem| Refusal::new(problem.detail));
                let sent = sent.and_then(|message| sink.endpoint.post(&message));
                self.metrics.delivered(webhook, sent.is_ok());
                match sent {
                    Ok(()) => sink.succeeded(),
                    Err(refusal) => {
                        sink.failed(&refusal, at, self.clock.now());
                        more = false;
                        break;
                    }
                }
            }
            sink.progress().seen = Some((row.placed, number));
            if begun.elapsed() > ROUND {
                more = false;
                break;
            }
        }
        self.note(sink, row)?;
        Ok(more)
    }

    /// Has the ledger know up to where a webhook was told, where that is worth an entry.
    fn note(&self, sink: &Sink, row: WebhookRow) -> Result<(), Problem> {
        let (through, unnoted) = {
            let progress = sink.progress();
            (progress.position(row), progress.unnoted)
        };
        if through > row.through && (unnoted || through - row.through >= SKIPPED) {
            let (webhook, placed) = (sink.config.name.clone(), row.placed);
            self.submit(Command::AdvanceWebhook { webhook, placed, through })?;
            sink.progress().unnoted = false;
        }
        Ok(())
    }

    fn look(&self, state: State<'_>, config: &WebhookConfig, event: Event) -> Result<Looked, Problem> {
        let (number, at) = (event.number, event.at);
        let id = self.name_of(&event)?;
        let kind = if event.alert.is_some() { NotificationKind::Alert } else { NotificationKind::Event };
        let data = selected(state, config, event)?;
        let body = data.map(|data| self.body(&config.name, kind, (at, data))).transpose()?;
        Ok(Looked { number, at, message: body.map(|body| (id, body)) })
    }

    /// What the message of an event is called: the same whenever it is sent, and another one for whatever another history
    /// has at this number, as after a restoration from a backup.
    fn name_of(&self, event: &Event) -> Result<String, Problem> {
        let mut hash = Sha256::new();
        hash.update(json(&(&self.audience().trust_domain, &self.audience().manager, event))?);
        let digest = HEXLOWER.encode(&hash.finalize());
        Ok(format!("kw_{}_{}", event.number, digest.get(..16).unwrap_or_default()))
    }

    fn body(
        &self,
        webhook: &str,
        kind: NotificationKind,
        (timestamp, data): (Timestamp, NotificationData),
    ) -> Result<Vec<u8>, Problem> {
        let (trust_domain, manager) = (self.audience().trust_domain.clone(), self.audience().manager.clone());
        let mut message = Notification { kind, timestamp, trust_domain, manager, webhook: webhook.to_owned(), data };
        let mut body = json(&message)?;
        // Whoever is told may ask for the rest by number.
        let shorter: [fn(&mut NotificationData); 2] = [|data| data.event = None, without_evidence];
        for shorten in shorter {
            if body.len() > LONGEST && message.data.alert.is_some() {
                shorten(&mut message.data);
                body = json(&message)?;
            }
        }
        Ok(body)
    }

    /// The key that signs for webhooks now: the one that signs tokens by EdDSA, which whoever checks finds in the key set.
    fn webhook_key(&self) -> Result<Option<TokenKeyRow>, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        Ok(state.signing_key(TokenAlgorithm::EdDsa, self.now(state)?)?)
    }

    fn signed(&self, id: String, body: Vec<u8>) -> Result<Message, Problem> {
        let key = self.webhook_key()?.ok_or_else(|| {
            let why = "no EdDSA key signs here: make one (keywitness token-key rotate)";
            Problem::new(ProblemKind::Unavailable, why)
        })?;
        let timestamp = self.clock.now();
        let signature = self.signer.sign(&key.kid, &webhook_signed(&id, timestamp, &body))?;
        Ok(Message { id, timestamp, signature: format!("v1a,{}", BASE64.encode(&signature)), body })
    }

    /// How the delivery to each webhook goes.
    pub(super) fn webhook_health(&self, state: State<'_>) -> Result<Vec<WebhookHealth>, Problem> {
        self.outbox.sinks.iter().map(|sink| health(state, sink)).collect::<Result<_, Fault>>().map_err(Problem::from)
    }

    fn shown(&self, sink: &Sink) -> Result<Webhook, Problem> {
        let health = health(State(self.ledger.view()?.as_ref()), sink)?;
        let WebhookConfig { sends, rules, clusters, .. } = sink.config.clone();
        let (origin, error) = (sink.endpoint.address().to_string(), sink.progress().error.clone());
        Ok(Webhook { health, origin, sends, rules, clusters, error })
    }

    /// Every webhook. For operators of every cluster.
    ///
    /// # Errors
    /// `forbidden` for a caller who is not good for every cluster.
    pub fn webhooks(&self, caller: &Caller) -> Result<Webhooks, Problem> {
        caller.must_reach_everything()?;
        let webhooks = self.outbox.sinks.iter().map(|sink| self.shown(sink)).collect::<Result<_, _>>()?;
        let public_key = self.webhook_key()?.map(|key| format!("whpk_{}", BASE64.encode(&key.public)));
        Ok(Webhooks { webhooks, public_key })
    }

    fn webhook(&self, caller: &Caller, name: &str) -> Result<&Sink, Problem> {
        caller.must_reach_everything()?;
        let missing = || Problem::new(ProblemKind::NotFound, "the configuration has no webhook of this name");
        self.outbox.sink(name).ok_or_else(missing)
    }

    /// Has everything after an event be delivered to a webhook, once more or, past what it cannot take, for the first time.
    /// For operators of every cluster.
    ///
    /// # Errors
    /// `forbidden`; `not-found` for a webhook that the configuration does not have.
    pub fn replay_webhook(&self, caller: &Caller, name: &str, request: WebhookReplay) -> Result<Webhook, Problem> {
        let sink = self.webhook(caller, name)?;
        self.submit_for(caller, Command::PlaceWebhook { webhook: name.to_owned(), after: request.after })?;
        sink.progress().next = None;
        self.shown(sink)
    }

    /// Sends a test to a webhook, and waits for its answer. For operators of every cluster.
    ///
    /// # Errors
    /// `forbidden`; `not-found` for a webhook that the configuration does not have; `too-many-requests` while another test of
    /// it is under way.
    pub fn test_webhook(&self, caller: &Caller, name: &str) -> Result<WebhookTest, Problem> {
        let sink = self.webhook(caller, name)?;
        let Ok(_testing) = sink.testing.try_lock() else {
            let problem = Problem::new(ProblemKind::TooManyRequests, "a test of this webhook is under way");
            return Err(Problem { retry_after: Some(1), ..problem });
        };
        let id = format!("kw_test_{}", HEXLOWER.encode(&Nonce::random().0));
        let data = (self.clock.now(), NotificationData::default());
        let message = self.signed(id, self.body(name, NotificationKind::Test, data)?)?;
        let error = sink.endpoint.post(&message).err().map(|refusal| refusal.why);
        Ok(WebhookTest { delivered: error.is_none(), error })
    }
}

fn without_evidence(data: &mut NotificationData) {
    if let Some(alert) = &mut data.alert {
        alert.evidence.clear();
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "a message cannot be written");
        Problem::new(ProblemKind::Internal, "the manager's log has the reason")
    })
}

fn health(state: State<'_>, sink: &Sink) -> Result<WebhookHealth, Fault> {
    let name = sink.config.name.clone();
    let events = state.head()?.events;
    let row: Option<WebhookRow> = state.get(&key::webhook(&name))?;
    let progress = sink.progress().clone();
    let delivered = row.map_or(events, |row| progress.position(row));
    let (failures, failing_since, waiting_since) = (progress.failures, progress.failing_since, progress.waiting_since);
    let behind = events.saturating_sub(delivered);
    Ok(WebhookHealth { name, delivered, behind, waiting_since, failing_since, failures })
}

/// What a webhook is told of an event, if it is for it: of what it names, no more than a credential for the webhook's
/// clusters would see.
fn selected(state: State<'_>, config: &WebhookConfig, event: Event) -> Result<Option<NotificationData>, Fault> {
    let alert: Option<Alert> = match event.alert {
        Some(number) => state.get(&key::number(number))?,
        None => None,
    };
    // As it was raised: what is sent again is the same.
    let alert = alert.map(|alert| Alert { acknowledged: None, ..alert });
    let wanted = match config.sends {
        Sends::Quarantines => alert.as_ref().is_some_and(|alert| alert.action >= Action::Quarantine),
        Sends::Alerts => alert.is_some(),
        Sends::Fraud => event.kind.is_fraud(),
        Sends::Events => true,
    };
    let ruled = config.rules.is_empty() || event.kind.rule().is_some_and(|rule| config.rules.contains(&rule));
    if !wanted || !ruled {
        return Ok(None);
    }
    let scope = Scope::of(config.clusters.clone());
    let event = event.in_words();
    if scope.is_all() {
        return Ok(Some(NotificationData { alert, event: Some(event) }));
    }
    let alert = match alert {
        Some(alert) if visible(state, &scope, &alert)? => Some(alert),
        _ => None,
    };
    let hsms = status::hsms_within(state, &scope)?;
    let event = Some(event).filter(|event| status::concerns(&scope, &hsms, &event.kind));
    Ok((alert.is_some() || event.is_some()).then_some(NotificationData { alert, event }))
}
