//! Events in words, for people: the command line, the dashboard, webhooks and the API have them from here.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use keywitness_circuits::{HsmId, Timestamp};

use super::{EventKind, KeyRef, Migrant, Reason, Rule, Sighting};

/// The last second that RFC 3339 can write: the end of the year 9999.
const LAST: u64 = 253_402_300_799;

/// `2026-01-31T12:00:00Z` (RFC 3339, section 5.6), in UTC; a time that it cannot write, in seconds since 1970.
pub fn rfc3339(time: Timestamp) -> String {
    if time.0 > LAST {
        return format!("{} s since 1970", time.0);
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.0)).to_string()
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} @{}", self.key, self.epoch)
    }
}

impl fmt::Display for Migrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "key {key}"),
            Self::Fingerprint(fingerprint) => write!(f, "fingerprint {}", fingerprint.bytes),
        }
    }
}

/// `HSM hsm-1 of cluster payments proved key signing-1 @1`
impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HSM {} of cluster {} proved key {}", self.hsm, self.cluster, self.key)
    }
}

/// What happened, in a sentence. Every number and name that somebody needs to act is in it, but for digests of evidence.
impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HsmEnrolled { hsm, cluster, revision: 1 } => write!(f, "HSM {hsm} enrolled in cluster {cluster}"),
            Self::HsmEnrolled { hsm, cluster, revision } => {
                write!(f, "HSM {hsm} enrolled in cluster {cluster} again, as its enrolment {revision}")
            }
            Self::SharingEnrolled { key, dealer, threshold, shares } => {
                write!(f, "HSM {dealer} dealt key {key} in {shares} shares, any {threshold} of which restore it")
            }
            Self::Revoked { target, reason, by } => write!(f, "{by} revoked {target}{}", Why(reason)),
            Self::Suspended { target, reason, by } => write!(f, "{by} suspended {target}{}", Why(reason)),
            Self::Reinstated { target, reason, by } => write!(f, "{by} reinstated {target}{}", Why(reason)),
            Self::ForeignCluster { earlier, later } => {
                let bytes = later.fingerprint.bytes;
                write!(f, "one key in two clusters: first {earlier}, then {later}; fingerprint {bytes}")
            }
            Self::Drift { earlier, later } => {
                let (first, second) = (earlier.fingerprint.bytes, later.fingerprint.bytes);
                write!(f, "one key with two fingerprints: first {earlier} with {first}, then {later} with {second}")
            }
            Self::TagsDiffer { earlier, later, .. } => write!(
                f,
                "two tags of one beacon: first {earlier}, then {later} with another tag; at least one of them does not \
                 hold the key"
            ),
            Self::FaultyDealing { dealer, key, holder, .. } => {
                write!(f, "HSM {dealer} dealt a bad share of key {key}, as a complaint of HSM {holder} proves")
            }
            Self::UnfoundedComplaint { holder, key, .. } => {
                write!(f, "HSM {holder} complained of its share of key {key}, which is good")
            }
            Self::RepeatedFailures { hsm, failures, window, last, .. } => {
                write!(f, "HSM {hsm} failed {failures} times within {}, the last time by {last}", Span(*window))
            }
            Self::FleetFailures { hsms, window } => {
                write!(f, "{} kept failing within {}", Names(hsms), Span(*window))
            }
            Self::Replay { hsm, challenge, .. } => {
                write!(f, "a challenge that HSM {hsm} had consumed came back with other bytes: {challenge}")
            }
            Self::RevokedPersists { hsm, target, attempts } => {
                write!(f, "HSM {hsm} tried {attempts} times to attest though {target} is revoked")
            }
            Self::ImpossiblePace { hsm, key, statement, proofs, window, .. } => {
                let span = Span(*window);
                write!(f, "HSM {hsm} proved key {key} {proofs} times within {span} under {statement}: no agent does")
            }
            Self::ClockSkew { hsm, ahead, requests, window } => {
                let (skew, span) = (Skew(*ahead), Span(*window));
                write!(f, "the clock of HSM {hsm} is {skew} the manager's, by {requests} requests within {span}")
            }
            Self::ManagerClock { hsms, ahead, window } => {
                let (names, skew, span) = (Names(hsms), Skew(*ahead), Span(*window));
                write!(f, "{names} have another time than this manager, the last one {skew} it, within {span}")
            }
            Self::SilentHsm { hsm, last_proof, expired_at } => {
                let (last, expired) = (rfc3339(*last_proof), rfc3339(*expired_at));
                write!(f, "HSM {hsm} has proven nothing since {last}, and its last record expired at {expired}")
            }
            Self::AlertAcknowledged { acknowledged, by, note } => {
                let colon = if note.is_empty() { "" } else { ": " };
                write!(f, "{by} acknowledged alert {acknowledged}{colon}{note}")
            }
            Self::MigrationDeclared { migration } => {
                let (from, to, until) = (&migration.from, &migration.to, rfc3339(migration.until));
                write!(
                    f,
                    "{} declared that {} moves from cluster {from} to {to} until {until}",
                    migration.by, migration.what
                )
            }
            Self::MigrationSighting { earlier, later, migration } => {
                write!(f, "first {earlier}, then {later}, as migration {migration} allows")
            }
            Self::ForeignMeasurement { hsm, found, .. } => {
                write!(f, "what runs at HSM {hsm} is not what the evidence policy lists: {found}")
            }
            Self::DeviceEnrolled { hsm, device, by } => {
                write!(f, "HSM {hsm} enrolled device {device}, as {by} let it")
            }
            Self::SharedDevice { hsm, earlier, device } => {
                write!(f, "HSM {hsm} enrolled device {device}, with which HSM {earlier} is enrolled")
            }
            Self::KeysCopied { from, to, cluster, keys } => {
                let keys: Vec<_> = keys.iter().map(KeyRef::to_string).collect();
                write!(f, "HSM {from} of cluster {cluster} may give HSM {to} copies of {}", keys.join(", "))
            }
        }
    }
}

/// `: lost`, or nothing where nobody says why.
struct Why<'a>(&'a Reason);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = self.0.to_string();
        if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
    }
}

/// `HSMs hsm-1, hsm-2, hsm-3`
struct Names<'a>(&'a [HsmId]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(HsmId::as_str).collect();
        write!(f, "HSMs {}", names.join(", "))
    }
}

/// `1h 30m`
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(Duration::from_secs(self.0)))
    }
}

/// `5m ahead of`
struct Skew(i64);

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.0 < 0 { "behind" } else { "ahead of" };
        write!(f, "{} {side}", Span(self.0.unsigned_abs()))
    }
}

impl Rule {
    /// What to do about what it finds, for an operator.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::ForeignCluster => {
                "find out how the key came into both clusters: if it was stolen, revoke it (keywitness revoke); if it \
                 moves, declare that (keywitness migration declare)"
            }
            Self::Drift => "enrol the right key at the next epoch in every HSM of the cluster",
            Self::TagsDiffer => "compare the key in the two HSMs: one of them does not hold it",
            Self::FaultyDealing | Self::UnfoundedComplaint => {
                "look at the HSM that is at fault, and deal the key again"
            }
            Self::RepeatedFailures => "look at the HSM's store and at its agent's log",
            Self::FleetFailures => "look at this manager, its Groth16 parameters, and what was upgraded last",
            Self::Replay => "see whether two programs use this HSM's identity; if so, enrol it again with another",
            Self::ImpossiblePace => "see what asks the HSM's agent for proofs: a program uses it as an oracle",
            Self::RevokedPersists => "switch the HSM's agent off, or take what is revoked from its store",
            Self::ClockSkew => "set the HSM's clock",
            Self::ManagerClock => "set this manager's clock",
            Self::SilentHsm => "see whether the HSM and its agent run, and reach this manager",
            Self::ForeignMeasurement => {
                "find out what changed at the HSM: bring it back to what the evidence policy lists, or list what runs there now, and \
                 let the HSM enrol its device again (keywitness evidence enrol)"
            }
            Self::SharedDevice => {
                "revoke the HSM that has the device no longer; where both are on one machine, acknowledge the alert"
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(event: serde_json::Value) -> String {
        serde_json::from_value::<EventKind>(event).unwrap().to_string()
    }

    #[test]
    fn a_sentence_names_whoever_and_whatever_somebody_needs_to_act() {
        let side = |hsm: &str, cluster: &str, byte: &str| {
            json!({ "hsm": hsm, "cluster": cluster, "key": { "key": "k", "epoch": 2 }, "envelope": "00".repeat(32),
                "fingerprint": { "suite": "public-key", "bytes": byte.repeat(32) } })
        };
        let (one, other) = (side("hsm-1", "eu", "0a"), side("hsm-2", "us", "0b"));
        let foreign = said(json!({ "event": "foreign-cluster", "earlier": one, "later": other }));
        let expected = "one key in two clusters: first HSM hsm-1 of cluster eu proved key k @2, then HSM hsm-2 of \
                        cluster us proved key k @2; fingerprint ";
        assert_eq!(foreign, format!("{expected}{}", "0b".repeat(32)));
        let drift = said(json!({ "event": "drift", "earlier": one, "later": other }));
        for part in ["hsm-1", "hsm-2", &"0a".repeat(32), &"0b".repeat(32)] {
            assert!(drift.contains(part), "{drift}");
        }
        let skew = json!({ "event": "clock-skew", "hsm": "h", "ahead": -90, "requests": 5, "window": 3600 });
        assert_eq!(said(skew), "the clock of HSM h is 1m 30s behind the manager's, by 5 requests within 1h");
        let silent = json!({ "event": "silent-hsm", "hsm": "h", "last_proof": 0, "expired_at": 1_700_000_000 });
        assert!(
            said(silent).ends_with("since 1970-01-01T00:00:00Z, and its last record expired at 2023-11-14T22:13:20Z")
        );
        let reason = |text: &str| json!({ "event": "revoked", "target": { "hsm": "h" }, "reason": { "text": text }, "by": "ann" });
        assert_eq!(
            (said(reason("")), said(reason("lost"))),
            ("ann revoked HSM h".to_owned(), "ann revoked HSM h: lost".to_owned())
        );
    }

    #[test]
    fn a_time_that_cannot_be_written_is_still_told() {
        assert_eq!(rfc3339(Timestamp(LAST)), "9999-12-31T23:59:59Z");
        assert_eq!(rfc3339(Timestamp(u64::MAX)), format!("{} s since 1970", u64::MAX));
    }
}
