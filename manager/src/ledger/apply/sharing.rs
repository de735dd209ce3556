//! Sharings: dealings, the shares that holders attest, and complaints.
//!
//! A share has the life of a key. Its holder enrols it as a key of its own, whose instance must be the one that the
//! enrolled dealing fixes for that holder; from then on it has records, tokens and a status like any key. A share is
//! revoked with its sharing, with the key that is shared, or by its own name.

use keywitness_circuits::{
    Digest, HsmId, Instance, KeyAlgorithm, KeyAttributes, codec::Canonical, key_knowledge, transcript::label,
};
use keywitness_custody::{Dealing, Member, Scheme};
use keywitness_verifier::wire::{
    ComplaintVerdict, EventKind, KeyRef, Problem, ProblemKind, Reason, ReasonCode, RevocationTarget, share_name,
};

use super::{Apply, beacon, refuse, revocation};
use crate::ledger::{
    command::Outcome,
    fraud::{self, Finding},
    state::{EnrolledInstance, HsmRow, KeyRow, OutcomeRow, ShareholderRow, SharingId, SharingRow, State, key},
    tables::Fault,
};

impl Apply<'_> {
    pub(super) fn announce_sealing_key(&mut self, mut hsm: HsmRow, sealing_key: &[u8]) -> Result<Outcome, Fault> {
        if let Some(revocation) = self.state().revocation(&hsm, [])? {
            return Ok(Outcome::Refused(revocation::problem(&revocation)));
        }
        hsm.sealing_key = Some(sealing_key.to_vec());
        self.put(&key::hsm(&hsm.hsm), &hsm)?;
        Ok(Outcome::Done)
    }

    /// Enrols a dealing whose signature and proofs were checked before the command was ordered.
    pub(super) fn enrol_sharing(&mut self, dealer: &HsmRow, bytes: &[u8]) -> Result<Outcome, Fault> {
        let dealing = match Dealing::from_bytes(bytes) {
            Ok(dealing) => dealing,
            Err(error) => return Ok(refuse(ProblemKind::Malformed, error.to_string())),
        };
        let id = sharing_id(dealer, &dealing);
        if let Some(row) = self.state().get::<SharingRow>(&key::sharing(&id.cluster, &id.key))? {
            if row.dealing == bytes && row.dealer == dealer.hsm {
                return Ok(Outcome::Done);
            }
            let why = format!("key {} at epoch {} is shared already, in another way", id.key.key, id.key.epoch);
            return Ok(refuse(ProblemKind::KeyConflict, why));
        }
        if let Err(problem) = self.admit_dealing(dealer, &id, &dealing)? {
            return Ok(Outcome::Refused(problem));
        }
        let enrolled_at = self.moment.at;
        let row = SharingRow { id: id.clone(), dealer: dealer.hsm.clone(), dealing: bytes.to_vec(), enrolled_at };
        self.put(&key::sharing(&id.cluster, &id.key), &row)?;
        for (holder, share) in shares(&id, &dealing) {
            self.put(&key::shareholder(&holder, &share, &id.cluster), &ShareholderRow(id.clone()))?;
        }
        self.events.push(EventKind::SharingEnrolled {
            key: id.key,
            dealer: dealer.hsm.clone(),
            threshold: dealing.terms().threshold.into(),
            shares: dealing.terms().members.len() as u32,
        });
        Ok(Outcome::Done)
    }

    /// Whether this dealer may share this key among these holders.
    fn admit_dealing(&self, dealer: &HsmRow, id: &SharingId, dealing: &Dealing) -> Result<Result<(), Problem>, Fault> {
        let refused = |kind, why: String| Ok(Err(Problem::new(kind, why)));
        let (terms, configuration) = (dealing.terms(), self.state().configuration()?);
        if terms.sharing.trust_domain != configuration.audience.trust_domain || terms.dealer != dealer.hsm {
            let why = "the dealing is of another trust domain or another dealer".to_owned();
            return refused(ProblemKind::Malformed, why);
        }
        if shares(id, dealing).len() != terms.members.len() {
            return refused(ProblemKind::Malformed, format!("{} is too long a name for its shares", id.key.key));
        }
        let Some(row) = self.state().get::<KeyRow>(&key::epoch(&dealer.hsm, &id.key))? else {
            let why = format!("{} has not enrolled key {} at epoch {}", dealer.hsm, id.key.key, id.key.epoch);
            return refused(ProblemKind::UnknownKey, why);
        };
        if let Some(revocation) = self.state().key_revocation(dealer, &row)? {
            return Ok(Err(revocation::problem(&revocation)));
        }
        if beacon::records_in_force(self.state(), &configuration, (dealer, &row), self.moment.at)?.is_none() {
            let why = format!("{} does not attest key {} now; attest it, and deal again", dealer.hsm, id.key.key);
            return refused(ProblemKind::NotAttested, why);
        }
        for (holder, share) in shares(id, dealing) {
            let place = key::epoch(&holder, &share);
            let taken = self.state().get::<KeyRow>(&place)?.is_some()
                || !self.state().all::<ShareholderRow>(&place)?.is_empty();
            if taken {
                let why = format!("{holder} has a key {} at epoch {} already", share.key, share.epoch);
                return refused(ProblemKind::KeyConflict, why);
            }
        }
        if !shares_key(dealing, &row) {
            let why = format!("the dealing's first commitment is not the public key of {}", id.key.key);
            return refused(ProblemKind::Malformed, why);
        }
        for member in &dealing.terms().members {
            let holder = self.state().hsm(&member.holder)?;
            let announced = holder.as_ref().and_then(|holder| holder.sealing_key.as_deref());
            if announced != Some(member.key.as_bytes().as_slice()) {
                let why = format!("{} is not enrolled here with the sealing key that the dealing names", member.holder);
                return refused(ProblemKind::Malformed, why);
            }
            if let Some(holder) = &holder
                && let Some(revocation) = self.state().revocation(holder, [])?
            {
                return Ok(Err(revocation::problem(&revocation)));
            }
        }
        Ok(Ok(()))
    }

    /// A complaint that was judged. Whoever dealt a bad share loses the whole sharing.
    pub(super) fn complain(
        &mut self,
        holder: &HsmRow,
        sharing: &SharingId,
        complaint: &[u8],
        verdict: &ComplaintVerdict,
    ) -> Result<Outcome, Fault> {
        if let Some(revocation) = self.state().revocation(holder, [])? {
            return Ok(Outcome::Refused(revocation::problem(&revocation)));
        }
        let digest = Digest::of(label::COMPLAINT, complaint);
        // A complaint can be proven in many ways: one cause is told once.
        let founded = matches!(verdict, ComplaintVerdict::DealerFaulty { .. });
        let cause =
            [key::sharing(&sharing.cluster, &sharing.key), key::hsm(&holder.hsm), vec![founded.into()]].concat();
        let cause = Digest::of(label::COMPLAINT, &cause);
        if let Some(OutcomeRow(outcome)) = self.state().get(&cause.0)? {
            return Ok(outcome);
        }
        let (holder, key) = (holder.hsm.clone(), sharing.key.clone());
        let evidence = vec![fraud::this(self, Some(digest))];
        match verdict {
            ComplaintVerdict::DealerFaulty { dealer, fault } => {
                let (cluster, target_key) = (sharing.cluster.clone(), key.clone());
                let target = RevocationTarget::Sharing { cluster, key: target_key };
                let reason = Reason::new(ReasonCode::Fraud, format!("{dealer} dealt {holder} a bad share: {fault}"));
                if let Outcome::Refused(problem) = self.revoke(&target, &reason, "a founded complaint")? {
                    return Ok(Outcome::Refused(problem));
                }
                let (subject, dealer) = (fraud::about(dealer), dealer.clone());
                let event = EventKind::FaultyDealing { dealer, key, holder, complaint: digest };
                fraud::raise(self, Finding { subject, evidence, event })?;
            }
            ComplaintVerdict::Unfounded { .. } => {
                let subject = fraud::about(&holder);
                let event = EventKind::UnfoundedComplaint { holder, key, complaint: digest };
                fraud::raise(self, Finding { subject, evidence, event })?;
            }
        }
        let outcome = Outcome::Judged(verdict.clone());
        self.put(&cause.0, &OutcomeRow(outcome.clone()))?;
        Ok(outcome)
    }
}

/// The name of a dealing's sharing: the dealer's cluster, and the key.
pub(crate) fn sharing_id(dealer: &HsmRow, dealing: &Dealing) -> SharingId {
    let shared = &dealing.terms().sharing;
    let key = KeyRef { key: shared.key.clone(), epoch: shared.epoch };
    SharingId { cluster: dealer.cluster.clone(), key }
}

/// Every holder of a dealing, and the name of its share; without those whose names would be too long.
fn shares(id: &SharingId, dealing: &Dealing) -> Vec<(HsmId, KeyRef)> {
    let named = |member: &Member| {
        let key = share_name(&id.key.key, &id.cluster, member.index)?;
        Some((member.holder.clone(), KeyRef { key, epoch: id.key.epoch }))
    };
    dealing.terms().members.iter().filter_map(named).collect()
}

/// Whether a dealing shares an enrolled key. Feldman's first commitment is the public key; Pedersen's hides what is shared, so
/// that such a sharing is of whatever its dealer says.
fn shares_key(dealing: &Dealing, row: &KeyRow) -> bool {
    let commitments = dealing.commitments();
    commitments.scheme() == Scheme::Pedersen || row.instances.iter().any(|enrolled| {
        matches!(Instance::from_bytes(&enrolled.bytes), Ok(Instance::KeyKnowledge(key_knowledge::Instance::PublicKey {
                algorithm: KeyAlgorithm::Ristretto255, bytes, ..
            })) if bytes == commitments.public_secret())
    })
}

/// The sharing that a share is of. The instance must be what the dealing fixes for this holder, under the share's own name.
pub(super) fn shared(
    state: State<'_>,
    hsm: &HsmRow,
    key: &KeyRef,
    attributes: &KeyAttributes,
    instances: &[EnrolledInstance],
) -> Result<Result<Option<SharingId>, Problem>, Fault> {
    if !attributes.algorithm.is_share() {
        return Ok(Ok(None));
    }
    for ShareholderRow(id) in state.all(&key::epoch(&hsm.hsm, key))? {
        let row: SharingRow = state.need(&key::sharing(&id.cluster, &id.key))?;
        let Ok(dealing) = Dealing::from_bytes(&row.dealing) else { continue };
        let Ok(member) = dealing.terms().member_named(&hsm.hsm) else { continue };
        let fixed = dealing.instance(member.index).ok().map(|share| Instance::from(share).to_bytes());
        if instances.iter().all(|instance| Some(&instance.bytes) == fixed.as_ref()) {
            return Ok(Ok(Some(id)));
        }
    }
    let why = format!("no sharing that is enrolled here gives {} the share {}", hsm.hsm, key.key);
    Ok(Err(Problem::new(ProblemKind::UnknownKey, why)))
}
