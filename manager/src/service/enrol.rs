//! Letting people, HSMs and keys in.

use keywitness_circuits::HsmId;
use keywitness_verifier::{
    channel::is_usable_key,
    identity::EnrolmentParts,
    wire::{
        ChannelAnnouncement, EnrolKeyRequest, EnrolRequest, Enrolment, JoinToken, JoinTokenRequest, KeyRef, Problem,
        ProblemKind, new_secret, secret_digest,
    },
};

use super::{
    Manager,
    access::{Caller, HsmCaller},
    unexpected,
};
use crate::ledger::{
    Command, Outcome,
    apply::enrolment::{Admission, admit, enrolment},
    state::State,
};

/// Longest life of a join token, in seconds: 30 days.
const MAX_JOIN_TOKEN: u64 = 30 * 24 * 60 * 60;

/// Longest URL of a channel, in bytes.
const MAX_URL: usize = 512;

impl Manager {
    /// Invites one HSM. For operators.
    ///
    /// # Errors
    /// `malformed` for a life that is zero or over 30 days; `forbidden` for a cluster out of the caller's scope;
    /// `already-enrolled` for a name that is taken where the caller may know it, unless the HSM is to enrol again.
    pub fn create_join_token(&self, caller: &Caller, request: &JoinTokenRequest) -> Result<JoinToken, Problem> {
        caller.must_reach(&request.cluster)?;
        if !(1..=MAX_JOIN_TOKEN).contains(&request.valid_for) {
            let why = format!("valid_for must be 1 to {MAX_JOIN_TOKEN} seconds");
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        // Whoever enrolls just before finds out when they use the token: this is for people, and no rule of the ledger.
        if let Some(hsm) = request.hsm.as_ref().filter(|_| !request.reenrol)
            && state.hsm(hsm)?.is_some_and(|enrolled| caller.scope().includes(&enrolled.cluster))
        {
            let why = format!(
                "an HSM named {hsm} is enrolled already. If it lost the answer, start its agent again with the token that it \
                 has; if it lost its store, let it return with another identity (keywitness join-token --reenrol {hsm}); for \
                 another HSM choose another name"
            );
            return Err(Problem::new(ProblemKind::AlreadyEnrolled, why));
        }
        let secret = new_secret("join");
        let now = self.now(state)?;
        drop(rows);
        let expires_at = now.plus(request.valid_for);
        let (digest, cluster, hsm) = (secret_digest(&secret), request.cluster.clone(), request.hsm.clone());
        self.submit_for(caller, Command::AddJoinToken { digest, cluster, hsm, reenrol: request.reenrol, expires_at })?;
        let (cluster, hsm) = (&request.cluster, request.hsm.as_ref().map(HsmId::as_str));
        tracing::info!(%cluster, hsm, by = caller.name(), "made a join token");
        Ok(JoinToken { secret, expires_at })
    }

    /// Enrols an HSM. For whoever holds a join token.
    ///
    /// # Errors
    /// `malformed`; `unauthenticated` where the identity key did not sign; `join-token-refused`;
    /// `already-enrolled`. None of them changes anything.
    pub fn enrol(&self, request: &EnrolRequest) -> Result<Enrolment, Problem> {
        let Ok(signature) = <[u8; 64]>::try_from(request.signature.0.as_slice()) else {
            return Err(self.reject(ProblemKind::Malformed, "the signature is not 64 bytes long"));
        };
        let parts = EnrolmentParts {
            audience: self.audience(),
            join_token: &request.join_token,
            hsm: &request.hsm,
            identity_key: &request.identity_key,
            channel_key: &request.channel_key.0,
        };
        if parts.check(&signature).is_err() {
            let why = "the identity key did not sign this enrolment for this manager";
            return Err(self.reject(ProblemKind::Unauthenticated, why));
        }
        if !is_usable_key(&request.channel_key.0) {
            return Err(self.reject(ProblemKind::Malformed, "the channel key is no usable X25519 key"));
        }
        let join_token = secret_digest(&request.join_token);
        {
            let rows = self.ledger.view()?;
            let (state, EnrolRequest { hsm, identity_key, channel_key, .. }) = (State(rows.as_ref()), request);
            match admit(state, &join_token, hsm, identity_key, channel_key, self.now(state)?)? {
                Ok(Admission::New(_) | Admission::Afresh(..) | Admission::Again(_, Some(_))) => {}
                Ok(Admission::Again(row, None)) => return Ok(enrolment(&row)),
                Err(problem) => return Err(self.rejected(problem)),
            }
        }
        let command = Command::EnrolHsm {
            join_token,
            hsm: request.hsm.clone(),
            identity_key: request.identity_key,
            channel_key: request.channel_key,
        };
        match self.submit(command)? {
            Outcome::Enrolled(enrolment) => Ok(enrolment),
            other => Err(unexpected(&other)),
        }
    }

    /// Enrols a key of an HSM. For that HSM.
    ///
    /// # Errors
    /// `malformed` for instances that are not exactly those that the trust domain asks for; `key-conflict`;
    /// `hsm-revoked`; `key-revoked`.
    pub fn enrol_key(&self, caller: &HsmCaller, request: &EnrolKeyRequest) -> Result<(), Problem> {
        let key = KeyRef { key: request.key.clone(), epoch: request.epoch };
        let command = Command::EnrolKey {
            request: *caller.request(),
            hsm: caller.hsm().clone(),
            enrolment: caller.enrolment(),
            key,
            attributes: request.attributes.clone(),
            instances: request.instances.iter().map(|instance| instance.0.clone()).collect(),
        };
        self.done(command)?;
        tracing::info!(hsm = %caller.hsm(), key = %request.key, epoch = request.epoch, "key enrolled");
        Ok(())
    }

    /// Says where an HSM's channel is. For that HSM.
    ///
    /// # Errors
    /// `malformed` for anything but a short `http` or `https` URL; `hsm-revoked`.
    pub fn announce_channel(&self, caller: &HsmCaller, request: &ChannelAnnouncement) -> Result<(), Problem> {
        let url = &request.url;
        let web =
            ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        if !web || url.len() > MAX_URL || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why = "url must be http://host:port or https://host:port, without spaces, of at most 512 characters";
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        let (request, hsm, enrolment) = (*caller.request(), caller.hsm().clone(), caller.enrolment());
        self.done(Command::AnnounceChannel { request, hsm, enrolment, url: url.clone() })
    }

    pub(super) fn done(&self, command: Command) -> Result<(), Problem> {
        match self.submit(command)? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}
