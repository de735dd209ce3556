//! Credentials: granted, withdrawn, and asked again at the moment that what their holders want is done.

use keywitness_circuits::{ClusterId, Digest, Timestamp};
use keywitness_verifier::wire::{CredentialId, ProblemKind, Role};

use super::{Apply, refuse};
use crate::ledger::{
    command::{Command, Outcome},
    state::{CredentialRow, access::CredentialTerms},
    tables::Fault,
};

impl Apply<'_> {
    /// A credential may have been withdrawn since its holder was let in: no command of a withdrawn one is done.
    pub(super) fn on_behalf(&mut self, by: CredentialId, command: &Command) -> Result<Outcome, Fault> {
        let asks = self.state().credential_named(by)?;
        if !asks.is_some_and(|asks| asks.in_force(self.moment.at)) || self.by.is_some() {
            return Ok(refuse(ProblemKind::Unauthenticated, "this credential is no longer in force"));
        }
        self.by = Some(by);
        self.run(command)
    }

    pub(super) fn grant_credential(
        &mut self,
        digest: &Digest,
        (name, role): (&str, Role),
        clusters: Option<&[ClusterId]>,
        expires_at: Option<Timestamp>,
    ) -> Result<Outcome, Fault> {
        let id = CredentialId::of(digest);
        if let Some(known) = self.state().credential_named(id)? {
            // The same command sent again, because nobody knew whether the first was written.
            let same = known.digest == *digest && known.row == CredentialRow { name: name.to_owned(), role };
            if same && known.terms.clusters.as_deref() == clusters && known.terms.expires_at == expires_at {
                return Ok(Outcome::Done);
            }
            return Ok(refuse(ProblemKind::Unavailable, "a credential has this name already; ask again"));
        }
        let terms = CredentialTerms {
            clusters: clusters.map(<[_]>::to_vec),
            created_at: Some(self.moment.at),
            created_by: self.by,
            expires_at,
            ..CredentialTerms::default()
        };
        self.put(&digest.0, &CredentialRow { name: name.to_owned(), role })?;
        self.put(&digest.0, &terms)?;
        Ok(Outcome::Done)
    }

    /// Withdraws a credential for good; again changes nothing. An operator's only while another one could still let
    /// people in.
    pub(super) fn withdraw_credential(&mut self, id: CredentialId) -> Result<Outcome, Fault> {
        let at = self.moment.at;
        let Some(found) = self.state().credential_named(id)? else {
            return Ok(refuse(ProblemKind::NotFound, format!("there is no credential {id}; nothing was withdrawn")));
        };
        if found.terms.withdrawn_at.is_some() {
            return Ok(Outcome::Done);
        }
        if found.governs(at) {
            let others = self.state().credentials()?;
            if !others.iter().any(|other| other.digest != found.digest && other.governs(at)) {
                let why = "it is the last operator credential in force for every cluster; make another one first";
                return Ok(refuse(ProblemKind::LastOperator, why));
            }
        }
        let terms = CredentialTerms { withdrawn_at: Some(at), withdrawn_by: self.by, ..found.terms };
        self.put(&found.digest.0, &terms)?;
        Ok(Outcome::Done)
    }
}
