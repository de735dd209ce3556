//! What evidence is bound to that an HSM gives of itself, or of a key in it, when its manager asks.

use keywitness_circuits::{ClusterId, Digest, HsmId, ManagerId, Nonce, TrustDomain, codec::Writer, transcript::label};

use crate::{identity::Audience, wire::KeyRef};

/// Everything that such evidence is bound to. The HSM and its manager each make it of what they know themselves.
///
/// The identity key is in it, and signs every claim of the HSM: so one piece of evidence says where all of its claims come from,
/// and none needs a piece of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EvidenceContext {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The manager that asks.
    pub manager: ManagerId,
    /// The HSM's cluster.
    pub cluster: ClusterId,
    /// Who gives it.
    pub hsm: HsmId,
    /// Which enrolment of that HSM.
    pub enrolment: u32,
    /// The HSM's identity key.
    pub identity_key: Digest,
    /// The key that it is about; none where it is about the HSM.
    pub key: Option<KeyRef>,
    /// The manager's single-use challenge.
    pub nonce: Nonce,
}

impl EvidenceContext {
    /// Of an HSM that is asked by the manager of this audience.
    pub fn audience(&self) -> Audience {
        Audience { trust_domain: self.trust_domain.clone(), manager: self.manager.clone() }
    }

    /// What the device must sign.
    pub fn digest(&self) -> Digest {
        let Self { trust_domain, manager, cluster, hsm, enrolment, identity_key, key, nonce } = self;
        let mut writer = Writer::default();
        writer.value(trust_domain).value(manager).value(cluster).value(hsm).u32(*enrolment).value(identity_key);
        match key {
            None => writer.u8(0),
            Some(key) => writer.u8(1).value(&key.key).u32(key.epoch),
        };
        writer.value(nonce);
        Digest::of(label::EVIDENCE_CONTEXT, &writer.into_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn context() -> EvidenceContext {
        EvidenceContext {
            trust_domain: "acme.example".parse().unwrap(),
            manager: "m1".parse().unwrap(),
            cluster: "eu".parse().unwrap(),
            hsm: "hsm-1".parse().unwrap(),
            enrolment: 1,
            identity_key: Digest([1; 32]),
            key: None,
            nonce: Nonce([2; 32]),
        }
    }

    #[test]
    fn every_field_is_in_the_digest() {
        let key = |epoch| Some(KeyRef { key: "k".parse().unwrap(), epoch });
        let others = [
            context(),
            EvidenceContext { trust_domain: "acme.test".parse().unwrap(), ..context() },
            EvidenceContext { manager: "m2".parse().unwrap(), ..context() },
            EvidenceContext { cluster: "us".parse().unwrap(), ..context() },
            EvidenceContext { hsm: "hsm-2".parse().unwrap(), ..context() },
            EvidenceContext { enrolment: 2, ..context() },
            EvidenceContext { identity_key: Digest([3; 32]), ..context() },
            EvidenceContext { key: key(1), ..context() },
            EvidenceContext { key: key(2), ..context() },
            EvidenceContext { nonce: Nonce([3; 32]), ..context() },
        ];
        let digests: BTreeSet<_> = others.iter().map(EvidenceContext::digest).collect();
        assert_eq!(digests.len(), others.len());
    }
}
