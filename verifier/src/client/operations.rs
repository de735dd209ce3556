//! What operators look after: webhooks and backups.

use super::{Caller, ClientError, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// The webhooks. Operator.
    pub fn webhooks(&self) -> Result<wire::Webhooks, ClientError> {
        self.get(Caller::Bearer, path::WEBHOOKS)
    }

    /// Has a webhook be told again. Operator.
    pub fn replay_webhook(&self, name: &str, request: wire::WebhookReplay) -> Result<wire::Webhook, ClientError> {
        self.send(Caller::Bearer, "POST", &path::WEBHOOK_REPLAY.replace("{name}", name), &request)
    }

    /// Sends a test to a webhook. Operator.
    pub fn test_webhook(&self, name: &str) -> Result<wire::WebhookTest, ClientError> {
        self.call(Caller::Bearer, "POST", &path::WEBHOOK_TEST.replace("{name}", name), Vec::new())
    }

    /// Has the manager back up its store. Operator only.
    pub fn back_up(&self) -> Result<wire::Backup, ClientError> {
        self.send(Caller::Bearer, "POST", path::BACKUPS, &serde_json::json!({}))
    }
}
