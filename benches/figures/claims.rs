//! Claims to prove and to verify.

use keywitness_circuits::{
    ClaimContext, Digest, KeyClaim, Kind, Nonce, Parameters, Timestamp, TrustDomain, context::HashedContext, registry,
};

pub(crate) fn trust_domain() -> TrustDomain {
    "acme.example".parse().unwrap()
}

/// A claim of `kind` about `keys` keys, unlike that of any other `number`.
pub(crate) fn context(
    parameters: &Parameters,
    kind: Kind,
    keys: usize,
    instance: Digest,
    number: usize,
) -> ClaimContext {
    let mut challenge = [7; 32];
    challenge[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let key = |i: usize| KeyClaim { key: format!("key-{i}").parse().unwrap(), epoch: 1, attributes: Digest([2; 32]) };
    ClaimContext {
        statement: kind.name().to_owned(),
        verifying_key: registry::verifying_key(parameters, kind).unwrap(),
        trust_domain: trust_domain(),
        manager: "manager-1".parse().unwrap(),
        cluster: "payments".parse().unwrap(),
        hsm: "hsm-1".parse().unwrap(),
        enrolment: 1,
        keys: (0..keys).map(key).collect(),
        instance,
        challenge: Nonce(challenge),
        not_before: Timestamp(0),
        not_after: Timestamp(1),
        checkpoint: None,
        evidence: None,
    }
}

/// A context with its digest, kept until the process ends.
pub(crate) fn hashed(context: ClaimContext) -> HashedContext<'static> {
    HashedContext::new(Box::leak(Box::new(context)))
}
