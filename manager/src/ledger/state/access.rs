//! Credentials: who may call, for what, and until when.

use keywitness_circuits::{ClusterId, Digest, Timestamp};
use keywitness_verifier::wire::{CredentialId, CredentialInfo, Role};
use serde::{Deserialize, Serialize};

use super::{CredentialRow, State, corrupt, decode};
use crate::ledger::tables::{Fault, Table};

/// The terms of a bearer credential. One from before schema version 6 has no such row until it is withdrawn: it is good
/// for every cluster, without an end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CredentialTerms {
    /// The clusters that it is good for; every cluster when none.
    pub clusters: Option<Vec<ClusterId>>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// The operator who made it.
    pub created_by: Option<CredentialId>,
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was withdrawn. Set once.
    pub withdrawn_at: Option<Timestamp>,
    /// The operator who withdrew it.
    pub withdrawn_by: Option<CredentialId>,
}

/// A credential with its terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownCredential {
    /// The digest of its secret.
    pub digest: Digest,
    /// Who holds it, and what for.
    pub row: CredentialRow,
    /// Its terms.
    pub terms: CredentialTerms,
}

impl KnownCredential {
    /// Its name.
    pub fn id(&self) -> CredentialId {
        CredentialId::of(&self.digest)
    }

    /// Whether it opens anything at `now`.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.terms.withdrawn_at.is_none() && self.terms.expires_at.is_none_or(|end| now < end)
    }

    /// Whether it is an operator's for the whole trust domain, in force at `now`.
    pub fn governs(&self, now: Timestamp) -> bool {
        self.row.role == Role::Operator && self.terms.clusters.is_none() && self.in_force(now)
    }

    /// Everything but the secret.
    pub fn info(self) -> CredentialInfo {
        let id = self.id();
        let CredentialTerms { clusters, created_at, created_by, expires_at, withdrawn_at, withdrawn_by } = self.terms;
        let CredentialRow { name, role } = self.row;
        CredentialInfo { id, name, role, clusters, created_at, created_by, expires_at, withdrawn_at, withdrawn_by }
    }
}

impl State<'_> {
    /// The credential whose secret has this digest.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn credential(&self, digest: &Digest) -> Result<Option<KnownCredential>, Fault> {
        let Some(row) = self.get::<CredentialRow>(&digest.0)? else { return Ok(None) };
        let terms = self.get::<CredentialTerms>(&digest.0)?.unwrap_or_default();
        Ok(Some(KnownCredential { digest: *digest, row, terms }))
    }

    /// The credential of this name.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn credential_named(&self, id: CredentialId) -> Result<Option<KnownCredential>, Fault> {
        Ok(self.credentials_from(&id.to_bytes())?.pop())
    }

    /// Every credential, in the order of names.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn credentials(&self) -> Result<Vec<KnownCredential>, Fault> {
        self.credentials_from(&[])
    }

    fn credentials_from(&self, prefix: &[u8]) -> Result<Vec<KnownCredential>, Fault> {
        let rows = self.0.range(Table::Credentials, prefix, prefix, usize::MAX)?;
        let known = rows.into_iter().map(|(key, value)| {
            let digest: [u8; 32] = key.try_into().map_err(|_| corrupt(Table::Credentials, "a key is no digest"))?;
            let row = decode(Table::Credentials, &value)?;
            let terms = self.get::<CredentialTerms>(&digest)?.unwrap_or_default();
            Ok(KnownCredential { digest: Digest(digest), row, terms })
        });
        known.collect()
    }
}
