//! Who calls: bearer credentials, and the signatures of HSMs.

use keywitness_circuits::{ClusterId, Digest, HsmId};
use keywitness_verifier::{
    identity::{MAX_SKEW, RequestAuth, RequestParts},
    wire::{Base64, CertificateRequest, CredentialId, HsmCertificate, Problem, ProblemKind, Role, secret_digest},
};

use super::Manager;
use crate::{
    ledger::{
        Command, Outcome,
        apply::revocation,
        state::{HsmRow, RequestRow, RestorationRow, State, key},
    },
    limits::Source,
    tls::HSM_LIFE,
};

/// An enrolled HSM that signed the request it is passed with. Only [`Manager::authenticate`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HsmCaller {
    hsm: HsmId,
    enrolment: u32,
    request: Digest,
    /// The answer to these bytes is recorded: whoever sends them again spends nothing of the HSM's.
    answered: bool,
}

impl HsmCaller {
    /// Who calls.
    pub const fn hsm(&self) -> &HsmId {
        &self.hsm
    }

    /// Under which enrolment of it: what it asks for comes to nothing once it was enrolled again.
    pub const fn enrolment(&self) -> u32 {
        self.enrolment
    }

    /// Digest of the signed request: the same for the same bytes sent again.
    pub const fn request(&self) -> &Digest {
        &self.request
    }
}

/// An HTTP request, as far as a signature covers it.
#[derive(Clone, Copy)]
pub struct SignedRequest<'a> {
    /// The value of the `authorization` header.
    pub authorization: &'a str,
    /// Method, upper case.
    pub method: &'a str,
    /// Path, without query.
    pub path: &'a str,
    /// The body's bytes.
    pub body: &'a [u8],
}

/// Which clusters a caller may see and act in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope(Option<Vec<ClusterId>>);

impl Scope {
    /// Every cluster.
    pub const ALL: Self = Self(None);

    /// These clusters; every cluster when none.
    pub const fn of(clusters: Option<Vec<ClusterId>>) -> Self {
        Self(clusters)
    }

    /// Whether it is not bounded.
    pub const fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a cluster is in it.
    pub fn includes(&self, cluster: &ClusterId) -> bool {
        self.0.as_ref().is_none_or(|clusters| clusters.contains(cluster))
    }

    /// Whether all of another scope is in it.
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(clusters)) => clusters.iter().all(|cluster| self.includes(cluster)),
        }
    }
}

/// Whoever holds a bearer credential that lets it make this call, or this program itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    credential: Option<CredentialId>,
    name: String,
    role: Role,
    scope: Scope,
}

impl Caller {
    /// The program that holds the manager: an operator of the machine, who needs no credential.
    pub fn in_process() -> Self {
        Self { credential: None, name: "this process".to_owned(), role: Role::Operator, scope: Scope::ALL }
    }

    /// Which credential it showed; none for the program itself.
    pub const fn credential(&self) -> Option<CredentialId> {
        self.credential
    }

    /// Whose budget its requests spend; none for the program itself.
    pub fn source(&self) -> Option<Source> {
        self.credential.map(Source::Credential)
    }

    /// Who holds the credential.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What for.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Which clusters it may see and act in.
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Refuses what concerns a cluster out of the caller's scope.
    ///
    /// # Errors
    /// `forbidden`
    pub fn must_reach(&self, cluster: &ClusterId) -> Result<(), Problem> {
        if self.scope.includes(cluster) {
            return Ok(());
        }
        Err(Problem::new(ProblemKind::Forbidden, format!("this credential is not good for cluster {cluster}")))
    }

    /// Refuses what concerns the whole trust domain to a caller whose credential is for some clusters alone.
    ///
    /// # Errors
    /// `forbidden`
    pub fn must_reach_everything(&self) -> Result<(), Problem> {
        if self.scope.is_all() {
            return Ok(());
        }
        Err(Problem::new(ProblemKind::Forbidden, "this needs a credential that is good for every cluster"))
    }
}

impl Manager {
    /// Checks that the holder of a bearer secret has one of `roles`, now.
    ///
    /// # Errors
    /// `unauthenticated` for a secret that is unknown, withdrawn or expired; `too-many-requests`; `forbidden` for
    /// another role.
    pub fn authorise(&self, secret: &str, roles: &[Role]) -> Result<Caller, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        // Looked up by digest: how long that takes says nothing about the secret.
        let Some(credential) = state.credential(&secret_digest(secret))? else {
            return Err(self.reject(ProblemKind::Unauthenticated, "this credential is not known here"));
        };
        if !credential.in_force(self.now(state)?) {
            let end = if credential.terms.withdrawn_at.is_some() { "was withdrawn" } else { "has expired" };
            let why = format!("credential {} {end}; ask an operator for another one", credential.id());
            return Err(self.reject(ProblemKind::Unauthenticated, why));
        }
        self.limits.spend(&Source::Credential(credential.id()), 1, self.clock.now())?;
        let role = credential.row.role;
        if !roles.contains(&role) {
            let needed: Vec<_> = roles.iter().map(Role::to_string).collect();
            let why = format!("this needs role {}, and the credential has role {role}", needed.join(" or "));
            return Err(Problem::new(ProblemKind::Forbidden, why));
        }
        let id = Some(credential.id());
        Ok(Caller { credential: id, name: credential.row.name, role, scope: Scope::of(credential.terms.clusters) })
    }

    /// Spends an HSM's budget for a request that asks about so many keys, of which one is paid already.
    pub(super) fn spend_more(&self, caller: &HsmCaller, keys: usize) -> Result<(), Problem> {
        self.spend_of(caller, u32::try_from(keys).unwrap_or(u32::MAX).saturating_sub(1))
    }

    fn spend_of(&self, caller: &HsmCaller, count: u32) -> Result<(), Problem> {
        let count = if caller.answered { 0 } else { count };
        self.limits.spend(&Source::Hsm(caller.hsm.clone()), count, self.clock.now())
    }

    /// Spends one of a caller's requests for much at once: an overview, a bundle, a page of openings.
    pub(super) fn spend_overview(&self, caller: &Caller) -> Result<(), Problem> {
        match caller.source() {
            Some(source) => self.limits.spend_overview(&source, self.clock.now()),
            None => Ok(()),
        }
    }

    /// Submits what a caller asks for, in the caller's name.
    pub(super) fn submit_for(&self, caller: &Caller, command: Command) -> Result<Outcome, Problem> {
        self.submit(match caller.credential {
            Some(by) => Command::OnBehalf { by, command: Box::new(command) },
            None => command,
        })
    }

    /// Checks an HSM's signature of a request.
    ///
    /// # Errors
    /// `unauthenticated` for an unknown HSM or a wrong signature; `clock-skew`, with the manager's time, for a
    /// request that the HSM signed too long ago or too far ahead.
    pub fn authenticate(&self, request: SignedRequest<'_>) -> Result<HsmCaller, Problem> {
        let stranger =
            || self.reject(ProblemKind::Unauthenticated, "no enrolled HSM signed this request for this manager");
        let Ok(auth) = RequestAuth::from_header(request.authorization) else { return Err(stranger()) };
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let Some(hsm) = state.hsm(&auth.hsm)? else { return Err(stranger()) };
        let SignedRequest { method, path, body, .. } = request;
        let parts = RequestParts { audience: self.audience(), method, path, body };
        if auth.check(&hsm.identity_key()?, &parts).is_err() {
            return Err(stranger());
        }
        let now = self.now(state)?;
        if now.0.abs_diff(auth.created.0) > MAX_SKEW {
            let why = format!(
                "the request was made at {} by the HSM's clock, and it is {} by the manager's; set the HSM's clock",
                auth.created.0, now.0
            );
            self.report_skew(state, &hsm, (auth.digest(&parts), auth.created));
            return Err(self.reject(ProblemKind::ClockSkew, why));
        }
        // Whether it was answered before is forgotten, so it must be signed anew.
        if let Some(restoration) = state.get::<RestorationRow>(key::ONLY)?
            && auth.created <= restoration.at
        {
            let why = "the request was made before this manager was restored from a backup; make it again";
            return Err(self.reject(ProblemKind::ClockSkew, why));
        }
        let request = auth.digest(&parts);
        let answered = state.get::<RequestRow>(&request.0)?.is_some();
        let caller = HsmCaller { request, enrolment: hsm.revision, hsm: auth.hsm, answered };
        // Only now is it known whose budget this is. What was signed long ago, or sent before, anyone may have kept.
        self.spend_of(&caller, 1)?;
        Ok(caller)
    }

    /// Gives an HSM a client certificate for a TLS key. For that HSM.
    ///
    /// # Errors
    /// `malformed` for anything but a P-256 key; `hsm-revoked`; `unauthenticated` once it was enrolled again.
    pub fn certify(&self, caller: &HsmCaller, request: &CertificateRequest) -> Result<HsmCertificate, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let hsm: HsmRow = state.need(&key::hsm(caller.hsm()))?;
        if hsm.revision != caller.enrolment() {
            let why = "this HSM was enrolled again since it signed this request";
            return Err(self.reject(ProblemKind::Unauthenticated, why));
        }
        if let Some(revocation) = state.revocation(&hsm, [])? {
            return Err(revocation::problem(&revocation));
        }
        let now = self.now(state)?;
        let certificate = self.authority.hsm(caller.hsm(), &request.public_key.0, now);
        let certificate = certificate.map_err(|why| Problem::new(ProblemKind::Malformed, why))?;
        Ok(HsmCertificate { certificate: Base64(certificate.to_vec()), expires_at: now.plus(HSM_LIFE) })
    }
}
