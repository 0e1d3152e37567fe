//! What nobody came back for: consents that ran out of time, and the PENDING connections they leave.

use super::Broker;
use crate::connection::{SESSION_TTL, Status};
use crate::error::Error;
use crate::store::{Expected, Selection};

impl Broker {
    /// Forgets consents that ran out of time; answers how many records went. Meant to run every few minutes.
    ///
    /// # Errors
    /// The store's; what is left is swept the next time.
    pub async fn sweep(&self) -> Result<usize, Error> {
        let mut swept = self.sessions.sweep(self.clock.now()).await?;
        let selection = Selection { status: Some(Status::Pending), ..Selection::default() };
        let mut after = None;
        loop {
            let page = self.tokens.list(&selection, after.as_ref(), 1000).await?;
            for profile in page.profiles {
                let turn = self.cache.turn(&profile.id).await;
                let Some(stored) = self.tokens.get(&profile.id).await? else { continue };
                let pending = &stored.value.profile;
                if pending.status == Status::Pending && pending.updated_at + SESSION_TTL <= self.clock.now() {
                    self.tokens.remove(&profile.id, Expected::At(stored.revision)).await?;
                    self.cache.retire(turn);
                    swept += 1;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(swept);
            }
        }
    }
}
