//! What an agent does, told to people.

use std::sync::Arc;

use keywitness_prover::AgentEvent;
use keywitness_verifier::wire::ComplaintVerdict;

use crate::{data, output};

/// Says on standard error what an agent does.
pub(super) fn narrator(quiet: bool) -> Arc<dyn Fn(&AgentEvent<'_>) + Send + Sync> {
    let duration = |at: &keywitness_circuits::Timestamp| output::duration(at.since(data::now()));
    Arc::new(move |event| match event {
        _ if quiet => {}
        AgentEvent::Enrolled(enrolment) => eprintln!("enrolled as {} in cluster {}", enrolment.hsm, enrolment.cluster),
        AgentEvent::Announced(url) => eprintln!("channel at {url}"),
        AgentEvent::Attesting { .. } | AgentEvent::Proven { .. } => {}
        AgentEvent::Dealing { holder, sealing_key } => {
            eprintln!(
                "sealing a share to {holder}, whose sealing key is {}",
                data_encoding::HEXLOWER.encode(*sealing_key)
            );
        }
        AgentEvent::ShareReceived { key, dealer } => eprintln!("received share {} from {dealer}", key.key),
        AgentEvent::Complained { dealer, verdict } => match verdict {
            ComplaintVerdict::DealerFaulty { fault, .. } => eprintln!("{dealer} dealt a bad share: {fault}"),
            ComplaintVerdict::Unfounded { why, .. } => {
                eprintln!("the manager holds a share of {dealer} for good: {why}")
            }
        },
        AgentEvent::KeyGiven { key, to } => eprintln!("gave {to} a copy of {key}"),
        AgentEvent::KeyReceived { key, from } => eprintln!("received a copy of {key} from {from}"),
        AgentEvent::KeyLeftOut { key, holders, why } => {
            let holders: Vec<_> = holders.iter().map(|hsm| hsm.as_str()).collect();
            eprintln!("not taking {key} from {}: {why}", holders.join(", "));
        }
        AgentEvent::CopiesFailed { hsm, error } => {
            eprintln!("no copies from {hsm}: {}", output::printable(&error.to_string()));
        }
        AgentEvent::Attested { record, .. } => {
            eprintln!("attested {} under {} for {}", record.key.key, record.statement, duration(&record.expires_at));
        }
        AgentEvent::Failed { key, kind, error, .. } => {
            eprintln!("not attested: {} under {kind}: {}", key.key, output::printable(&error.to_string()));
        }
        AgentEvent::ManagerBack { due } => eprintln!("the manager is back; {due} attestations are due"),
        AgentEvent::EvidenceGiven { record } => {
            let of = record.key.as_ref().map_or("this HSM".to_owned(), |key| format!("key {key}"));
            eprintln!("evidence of {of} is good for {}", duration(&record.expires_at));
        }
        AgentEvent::EvidenceFailed { error, retry_at, .. } => {
            let error = output::printable(&error.to_string());
            eprintln!("no evidence was given ({error}); trying again in {}", duration(retry_at));
        }
        AgentEvent::ManagerAway { error, retry_at } => {
            let error = output::printable(&error.to_string());
            eprintln!("the manager is away ({error}); trying again in {}", duration(retry_at));
        }
    })
}
