//! Two connections of one account at one provider. At some providers the newer grant silently ends the older one, at
//! others only so many may live: so it is written down in both and in the log, and left to people. Invariant: no name is
//! told across tenants.

use std::sync::Arc;

use super::Broker;
use super::keep::Weight;
use crate::connection::{ConnectionId, Profile};
use crate::error::Error;
use crate::store::{Expected, Selection};

/// How many others are named. Whoever has more, as of a service's own account, knows why, and is not written to.
const MOST: usize = 4;

impl Broker {
    /// Looks whether another connection has the account of this one, whose grant is new. In a task of the broker's own:
    /// nobody waits for it.
    pub(super) fn look_for_twins(self: &Arc<Self>, profile: &Profile) {
        if profile.account.is_none() {
            return;
        }
        match self.roll().twins(profile) {
            Some(0) => return,
            Some(count) if count > MOST => {
                tracing::info!(connection = %profile.id, count, "others are of the same account");
                return;
            }
            Some(_) | None => {}
        }
        let (broker, profile) = (self.clone(), profile.clone());
        self.tasks.spawn(async move {
            if let Err(error) = broker.note_twins(&profile).await {
                tracing::warn!(connection = %profile.id, %error, "not looked for others of the same account");
            }
        });
    }

    async fn note_twins(&self, profile: &Profile) -> Result<(), Error> {
        let account = profile.account.as_ref().map(|account| account.id.as_str());
        let selection = Selection { provider: Some(profile.id.provider.clone()), ..Selection::default() };
        let (mut twins, mut after) = (Vec::new(), None);
        while twins.len() < MOST {
            let page = self.tokens.list(&selection, after.as_ref(), 1000).await?;
            let is_twin = |other: &Profile| {
                other.id != profile.id
                    && other.status.serves()
                    && other.account.as_ref().map(|account| account.id.as_str()) == account
            };
            twins.extend(page.profiles.into_iter().filter(is_twin).map(|other| other.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for twin in twins.iter().take(MOST) {
            tracing::warn!(
                connection = %profile.id,
                other = %twin,
                "two connections of one account at one provider: at some the older grant dies without a word"
            );
            self.note_twin(twin, &profile.id).await?;
            self.note_twin(&profile.id, twin).await?;
        }
        Ok(())
    }

    async fn note_twin(&self, id: &ConnectionId, other: &ConnectionId) -> Result<(), Error> {
        let turn = self.cache.turn(id).await;
        let Some(stored) = self.tokens.get(id).await? else {
            self.cache.retire(turn);
            return Ok(());
        };
        let name = (id.tenant == other.tenant).then_some(&other.name);
        let noted = stored.value.sharing_account(name, self.clock.now());
        self.keep(&turn, &noted, Expected::At(stored.revision), Weight::Ordinary).await?;
        Ok(())
    }
}
