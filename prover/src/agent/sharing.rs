//! Shares: dealt to other HSMs, and received from them.

use std::sync::atomic::Ordering;

use keywitness_circuits::{HsmId, codec::Canonical, share_correctness::Scheme};
use keywitness_custody::{Dealing, Member, Purpose, SealingKey, SharingId, Terms};
use keywitness_verifier::wire::{
    Base64, ComplaintRequest, EnrolSharingRequest, KeyRef, SealingKeyAnnouncement, Sharing,
};

use super::{
    Agent, AgentError, AgentEvent, Fate,
    attest::{Session, insist},
    error::{AttestError, printable},
};
use crate::{
    clock::Stop,
    store::{Received, StoreError},
};

/// What is to be dealt.
pub struct Deal<'a> {
    /// A ristretto255 key of this HSM.
    pub key: &'a KeyRef,
    /// What the sharing is for.
    pub purpose: Purpose,
    /// How many shares restore the key.
    pub threshold: u16,
    /// Who gets a share, in the order of indices from 1.
    pub holders: &'a [HsmId],
    /// How the dealing commits.
    pub scheme: Scheme,
}

impl Agent {
    /// Deals a key of this HSM to other HSMs of the trust domain, and enrols the sharing.
    ///
    /// The holders' sealing keys are the manager's word; [`AgentEvent::Dealing`] names each, to be compared with what
    /// the holders' operators see.
    ///
    /// # Errors
    /// Where the HSM is not enrolled, a holder has announced no sealing key, the key cannot be dealt, or the manager
    /// refuses.
    pub fn deal(&self, deal: &Deal<'_>) -> Result<Sharing, AgentError> {
        let enrolled = self.enrolled()?;
        let info = self.info(&enrolled.audience)?;
        let stop = Stop::new();
        let session = self.session(&enrolled, &info, &stop);
        let known = insist(&stop, || self.client.holders(&session))?.holders;
        let mut members = Vec::with_capacity(deal.holders.len());
        for (holder, index) in deal.holders.iter().zip(1_u16..) {
            let found = known.iter().find(|known| known.hsm == *holder);
            let found = found.ok_or_else(|| AgentError::NoSealingKey(holder.clone()))?;
            let key = SealingKey::from_bytes(&found.sealing_key.0).map_err(StoreError::from)?;
            (self.observer)(&AgentEvent::Dealing { holder, sealing_key: key.as_bytes() });
            members.push(Member { index, holder: holder.clone(), key });
        }
        let terms = Terms {
            sharing: SharingId {
                trust_domain: enrolled.audience.trust_domain.clone(),
                key: deal.key.key.clone(),
                purpose: deal.purpose,
                epoch: deal.key.epoch,
            },
            dealer: enrolled.enrolment.hsm.clone(),
            threshold: deal.threshold,
            members,
        };
        let dealing = self.store.deal(deal.key, terms, deal.scheme)?;
        // A key is shared only by who attests it.
        let entry = self.store.keys().into_iter().find(|entry| entry.key == *deal.key);
        for (kind, entry) in
            entry.iter().flat_map(|entry| super::attest::kinds(entry, &info).into_iter().map(move |kind| (kind, entry)))
        {
            for (_, fate) in self.attest_together(&session, std::slice::from_ref(entry), kind) {
                if let Fate::Failed(error) | Fate::Alone(error) = fate {
                    return Err(error.into());
                }
            }
        }
        let request = EnrolSharingRequest { dealing: Base64(dealing.to_bytes()) };
        Ok(insist(&stop, || self.client.enrol_sharing(&session, &request))?)
    }

    /// Says which key shares are sealed to, and takes the shares that were dealt to this HSM; complains about bad ones.
    pub(super) fn receive_shares(&self, session: &Session<'_>) -> Result<(), AttestError> {
        if !self.sealing_key_told.load(Ordering::Relaxed) {
            let announcement = SealingKeyAnnouncement { key: Base64(self.store.sealing_key()?.as_bytes().to_vec()) };
            insist(session.stop, || self.client.announce_sealing_key(session, &announcement))?;
            self.sealing_key_told.store(true, Ordering::Relaxed);
        }
        for dealt in insist(session.stop, || self.client.dealings(session))?.dealings {
            let dealing = match Dealing::from_bytes(&dealt.dealing.0) {
                Ok(dealing) => dealing,
                Err(error) => {
                    tracing::warn!(error = printable(&error), "a dealing cannot be read");
                    continue;
                }
            };
            match self.store.receive_share(&dealing, &dealt.dealer, &dealt.cluster) {
                Ok(Received::Known) => {}
                Ok(Received::Kept(entry)) => {
                    tracing::info!(share = %entry.key.key, dealer = %dealing.terms().dealer, "received a share");
                    (self.observer)(&AgentEvent::ShareReceived { key: &entry.key, dealer: &dealing.terms().dealer });
                }
                Ok(Received::Bad(complaint)) => {
                    let request = ComplaintRequest { complaint: Base64(complaint.to_bytes()) };
                    let verdict = match insist(session.stop, || self.client.complain(session, &request)) {
                        Ok(verdict) => verdict,
                        Err(error) => {
                            tracing::error!(error = printable(&error), "a bad share cannot be complained about now");
                            continue;
                        }
                    };
                    tracing::warn!(dealer = %dealing.terms().dealer, ?verdict, "was dealt a bad share, and complained");
                    (self.observer)(&AgentEvent::Complained { dealer: &dealing.terms().dealer, verdict: &verdict });
                }
                Err(error) => tracing::warn!(error = printable(&error), "a share cannot be received"),
            }
        }
        Ok(())
    }
}
