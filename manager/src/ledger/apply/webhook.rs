//! How far webhooks' receivers were told. Neither command raises an event: nobody is told that somebody was told.

use super::Apply;
use crate::ledger::{
    command::Outcome,
    state::{key, webhook::WebhookRow},
    tables::Fault,
};

impl Apply<'_> {
    /// From now on everything after the event `after` is to be delivered; everything that is yet to come where there are
    /// not so many events.
    pub(super) fn place_webhook(&mut self, webhook: &str, after: u64) -> Result<Outcome, Fault> {
        let row = key::webhook(webhook);
        let known: Option<WebhookRow> = self.state().get(&row)?;
        let placed = known.map_or(0, |known| known.placed).saturating_add(1);
        let through = after.min(self.state().head()?.events);
        self.put(&row, &WebhookRow { through, placed })?;
        Ok(Outcome::Done)
    }

    /// Everything up to `through` was delivered. Never goes back, and says nothing where the webhook was placed anew while
    /// that was under way.
    pub(super) fn advance_webhook(&mut self, webhook: &str, (placed, through): (u32, u64)) -> Result<Outcome, Fault> {
        let row = key::webhook(webhook);
        let known: Option<WebhookRow> = self.state().get(&row)?;
        if let Some(known) = known.filter(|known| known.placed == placed && known.through < through) {
            let through = through.min(self.state().head()?.events);
            self.put(&row, &WebhookRow { through, ..known })?;
        }
        Ok(Outcome::Done)
    }
}
