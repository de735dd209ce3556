//! Alerts and migrations.

use super::{Caller, ClientError, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// Alerts. Operator, viewer or auditor.
    pub fn alerts(&self, query: &wire::AlertQuery) -> Result<wire::AlertPage, ClientError> {
        let state = query.state.map_or("", |state| match state {
            wire::AlertState::Open => "&state=open",
            wire::AlertState::Acknowledged => "&state=acknowledged",
        });
        self.get(Caller::Bearer, &format!("{}?after={}{state}", path::ALERTS, query.after))
    }

    /// One alert. Operator, viewer or auditor.
    pub fn alert(&self, number: u64) -> Result<wire::Alert, ClientError> {
        self.get(Caller::Bearer, &path::ALERT.replace("{number}", &number.to_string()))
    }

    /// Acknowledges an alert. Operator.
    pub fn acknowledge_alert(
        &self,
        number: u64,
        request: &wire::AcknowledgeRequest,
    ) -> Result<wire::Alert, ClientError> {
        self.send(Caller::Bearer, "POST", &path::ACKNOWLEDGEMENT.replace("{number}", &number.to_string()), request)
    }

    /// Declares a migration. Operator.
    pub fn declare_migration(&self, request: &wire::MigrationRequest) -> Result<wire::Migration, ClientError> {
        self.send(Caller::Bearer, "POST", path::MIGRATIONS, request)
    }

    /// The migrations that are remembered. Operator, viewer or auditor.
    pub fn migrations(&self) -> Result<wire::Migrations, ClientError> {
        self.get(Caller::Bearer, path::MIGRATIONS)
    }
}
