//! Sharings: who can hold shares, dealings, and complaints about them. All of it for HSMs.

use keywitness_circuits::{HsmId, codec::Canonical};
use keywitness_custody::{Complaint, Dealing, Fault, SealingKey, Verdict, complaint::Falsehood};
use keywitness_verifier::wire::{
    Base64, ComplaintRequest, ComplaintVerdict, Dealings, Dealt, EnrolSharingRequest, Holder, Holders, Problem,
    ProblemKind, RevocationTarget, SealingKeyAnnouncement, ShareStatus, Sharing, share_name,
};

use super::{Manager, access::HsmCaller, unexpected};
use crate::ledger::{
    Command, Outcome,
    apply::sharing::sharing_id,
    state::{HsmRow, ShareholderRow, SharingId, SharingRow, State, key},
};

impl Manager {
    /// Says which key shares are sealed to that are dealt to the caller.
    ///
    /// # Errors
    /// `malformed` for anything but a P-256 key; `hsm-revoked`.
    pub fn announce_sealing_key(&self, caller: &HsmCaller, request: &SealingKeyAnnouncement) -> Result<(), Problem> {
        let key = SealingKey::from_bytes(&request.key.0).map_err(malformed)?;
        let (request, hsm, enrolment) = (*caller.request(), caller.hsm().clone(), caller.enrolment());
        self.done(Command::AnnounceSealingKey { request, hsm, enrolment, key: key.as_bytes().to_vec() })
    }

    /// Every HSM that can hold shares.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn holders(&self) -> Result<Holders, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let mut holders = Vec::new();
        for hsm in state.all::<HsmRow>(&[])? {
            let revoked = state.revocation(&hsm, [])?.is_some();
            if let (Some(sealing_key), false) = (hsm.sealing_key, revoked) {
                holders.push(Holder { hsm: hsm.hsm, cluster: hsm.cluster, sealing_key: Base64(sealing_key) });
            }
        }
        Ok(Holders { holders })
    }

    /// Enrols the sharing that the caller dealt, of a key that it has enrolled.
    ///
    /// # Errors
    /// `malformed` for a dealing that is not the caller's, not of that key, or not to holders enrolled here;
    /// `unknown-key`; `key-conflict` where the key is shared already; `hsm-revoked`; `key-revoked`.
    pub fn enrol_sharing(&self, caller: &HsmCaller, request: &EnrolSharingRequest) -> Result<Sharing, Problem> {
        let dealing = Dealing::from_bytes(&request.dealing.0).map_err(malformed)?;
        {
            let rows = self.ledger.view()?;
            let dealer = hsm(State(rows.as_ref()), caller.hsm())?.identity_key()?;
            dealing.check(&dealer).map_err(malformed)?;
        }
        let (request, bytes) = (*caller.request(), request.dealing.0.clone());
        let (hsm, enrolment) = (caller.hsm().clone(), caller.enrolment());
        self.done(Command::EnrolSharing { request, hsm, enrolment, dealing: bytes })?;
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let dealer: HsmRow = state.need(&key::hsm(caller.hsm()))?;
        let id = sharing_id(&dealer, &dealing);
        sharing(state, state.need(&key::sharing(&id.cluster, &id.key))?)
    }

    /// The dealings with a share for the caller, but for those that were revoked.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn dealings(&self, caller: &HsmCaller) -> Result<Dealings, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let mut dealings = Vec::new();
        for ShareholderRow(id) in state.all(&key::hsm(caller.hsm()))? {
            let row: SharingRow = state.need(&key::sharing(&id.cluster, &id.key))?;
            let target = RevocationTarget::Sharing { cluster: id.cluster, key: id.key };
            if state.barred(&target)?.is_none() {
                let dealer = hsm(state, &row.dealer)?.identity_key()?;
                dealings.push(Dealt { dealing: Base64(row.dealing), dealer, cluster: row.id.cluster });
            }
        }
        Ok(Dealings { dealings })
    }

    /// Judges a complaint of the caller about the share that it was dealt. A founded one revokes the sharing, and
    /// an unfounded one is told of the caller.
    ///
    /// # Errors
    /// `malformed`; `not-found` where no dealing with a share for the caller is meant.
    pub fn complain(&self, caller: &HsmCaller, request: &ComplaintRequest) -> Result<ComplaintVerdict, Problem> {
        let complaint = Complaint::from_bytes(&request.complaint.0).map_err(malformed)?;
        let (sharing, verdict) = {
            let rows = self.ledger.view()?;
            let state = State(rows.as_ref());
            let Some((row, dealing)) = dealt(state, caller, &complaint)? else {
                let why = "the complaint is not about a share that was dealt to this HSM";
                return Err(Problem::new(ProblemKind::NotFound, why));
            };
            let (dealer, holder) =
                (hsm(state, &row.dealer)?.identity_key()?, hsm(state, caller.hsm())?.identity_key()?);
            let judged = complaint.judge(&dealing, &dealer, &holder).map_err(malformed)?;
            (row.id, verdict_of_complaint(judged))
        };
        let command = Command::Complain {
            request: *caller.request(),
            hsm: caller.hsm().clone(),
            enrolment: caller.enrolment(),
            sharing,
            complaint: request.complaint.0.clone(),
            verdict,
        };
        match self.submit(command)? {
            Outcome::Judged(verdict) => Ok(verdict),
            other => Err(unexpected(&other)),
        }
    }
}

fn hsm(state: State<'_>, hsm: &HsmId) -> Result<HsmRow, Problem> {
    Ok(state.need(&key::hsm(hsm))?)
}

/// The sharing, with a share for the caller, that a complaint is about.
fn dealt(
    state: State<'_>,
    caller: &HsmCaller,
    complaint: &Complaint,
) -> Result<Option<(SharingRow, Dealing)>, Problem> {
    for ShareholderRow(id) in state.all(&key::hsm(caller.hsm()))? {
        let row: SharingRow = state.need(&key::sharing(&id.cluster, &id.key))?;
        let dealing = Dealing::from_bytes(&row.dealing).map_err(malformed)?;
        if dealing.digest() == complaint.dealing && complaint.holder == *caller.hsm() {
            return Ok(Some((row, dealing)));
        }
    }
    Ok(None)
}

/// What is told, and logged, of a complaint that was judged.
pub(crate) fn verdict_of_complaint(judged: Verdict) -> ComplaintVerdict {
    match judged {
        Verdict::DealerFaulty { dealer, fault, .. } => {
            ComplaintVerdict::DealerFaulty { dealer, fault: fault_words(fault).to_owned() }
        }
        Verdict::ComplaintFalse { complainer, why, .. } => {
            ComplaintVerdict::Unfounded { complainer, why: falsehood_words(why).to_owned() }
        }
    }
}

const fn fault_words(fault: Fault) -> &'static str {
    match fault {
        Fault::DoesNotOpen => "it does not open",
        Fault::NotAShare => "it opens to what is no share",
        Fault::NotTheCommittedShare => "it opens to another share than the commitments fix",
        Fault::PublicShareIsIdentity => "the commitments fix a share that everybody knows",
    }
}

const fn falsehood_words(why: Falsehood) -> &'static str {
    match why {
        Falsehood::PointNotProven => "it does not prove the point with which the share is opened",
        Falsehood::ShareIsGood => "the share is good",
    }
}

/// A sharing as it is told.
fn sharing(state: State<'_>, row: SharingRow) -> Result<Sharing, Problem> {
    let dealing = Dealing::from_bytes(&row.dealing).map_err(malformed)?;
    let SharingId { cluster, key: shared } = row.id;
    let shares = dealing.terms().members.iter().filter_map(|member| {
        let key = share_name(&shared.key, &cluster, member.index)?;
        Some(ShareStatus { index: member.index, holder: member.holder.clone(), key })
    });
    let target = RevocationTarget::Sharing { cluster: cluster.clone(), key: shared.clone() };
    Ok(Sharing {
        threshold: dealing.terms().threshold,
        shares: shares.collect(),
        dealing: dealing.digest(),
        dealer: row.dealer,
        enrolled_at: row.enrolled_at,
        revocation: state.barred(&target)?,
        cluster,
        key: shared,
    })
}

fn malformed(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Malformed, error.to_string())
}
