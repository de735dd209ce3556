//! Who calls: bearer credentials, and the signatures of HSMs.

use keywitness_circuits::{Digest, HsmId};
use keywitness_verifier::{
    identity::{MAX_SKEW, RequestAuth, RequestParts},
    wire::{Problem, ProblemKind, Role, secret_digest},
};

use super::Manager;
use crate::ledger::state::{CredentialRow, State};

/// An enrolled HSM that signed the request it is passed with. Only [`Manager::authenticate`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HsmCaller {
    hsm: HsmId,
    request: Digest,
}

impl HsmCaller {
    /// Who calls.
    pub const fn hsm(&self) -> &HsmId {
        &self.hsm
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

impl Manager {
    /// Checks that the holder of a bearer secret has one of `roles`.
    ///
    /// # Errors
    /// `unauthenticated` for an unknown secret, `forbidden` for another role.
    pub fn authorise(&self, secret: &str, roles: &[Role]) -> Result<Role, Problem> {
        let rows = self.ledger.view()?;
        // Looked up by digest: how long that takes says nothing about the secret.
        let Some(credential) = State(rows.as_ref()).get::<CredentialRow>(&secret_digest(secret).0)? else {
            return Err(self.reject(ProblemKind::Unauthenticated, "this credential is not known here"));
        };
        if !roles.contains(&credential.role) {
            let needed: Vec<_> = roles.iter().map(Role::to_string).collect();
            let why =
                format!("this needs role {}, and the credential has role {}", needed.join(" or "), credential.role);
            return Err(Problem::new(ProblemKind::Forbidden, why));
        }
        Ok(credential.role)
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
        if auth.check(&hsm.identity_key, &parts).is_err() {
            return Err(stranger());
        }
        let now = self.now(state)?;
        if now.0.abs_diff(auth.created.0) > MAX_SKEW {
            let why = format!(
                "the request was made at {} by the HSM's clock, and it is {} by the manager's; set the HSM's clock",
                auth.created.0, now.0
            );
            return Err(self.reject(ProblemKind::ClockSkew, why));
        }
        Ok(HsmCaller { request: auth.digest(&parts), hsm: auth.hsm })
    }
}
