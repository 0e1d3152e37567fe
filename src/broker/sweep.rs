//! House-keeping: one walk over all connections that counts them, and forgets what nobody came back for.

use std::collections::BTreeMap;

use super::Broker;
use super::keep::Weight;
use crate::clock::Timestamp;
use crate::connection::{Profile, ProviderKey, QUARANTINE, SESSION_TTL, Status};
use crate::error::Error;
use crate::store::{Expected, Selection};

/// What is known of a provider's connections.
#[derive(Default)]
struct Census {
    by_status: BTreeMap<&'static str, u64>,
    soonest_end: Option<Timestamp>,
}

impl Broker {
    /// Forgets consents that ran out of time, with the PENDING connections they leave, and counts the rest for the
    /// metrics. Answers how many records went. Meant to run about every minute.
    ///
    /// # Errors
    /// The store's; what is left is swept the next time.
    pub async fn sweep(&self) -> Result<usize, Error> {
        let mut swept = self.sessions.sweep(self.clock.now()).await?;
        let mut counted: BTreeMap<ProviderKey, Census> =
            self.providers.keys().map(|key| (key.clone(), Census::default())).collect();
        let mut after = None;
        loop {
            let page = self.tokens.list(&Selection::default(), after.as_ref(), 1000).await?;
            for profile in page.profiles {
                if is_out_of_quarantine(&profile, self.clock.now()) {
                    self.wipe(&profile).await?;
                }
                if is_forgotten(&profile, self.clock.now()) {
                    swept += usize::from(self.forget_pending(&profile).await?);
                } else {
                    counted.entry(profile.id.provider.clone()).or_default().count(&profile);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for (provider, census) in counted {
            for status in Status::ALL {
                let count = census.by_status.get(status.as_str()).copied().unwrap_or(0);
                self.metrics.set_connections(provider.as_str(), status, count);
            }
            self.metrics.set_soonest_grant_expiry(provider.as_str(), census.soonest_end);
        }
        Ok(swept)
    }

    /// Wipes the tokens of a grant that has been dead for long.
    async fn wipe(&self, listed: &Profile) -> Result<(), Error> {
        let turn = self.cache.turn(&listed.id).await;
        let Some(stored) = self.tokens.get(&listed.id).await? else { return Ok(()) };
        if let Some(wiped) = stored.value.wiped(self.clock.now()) {
            self.keep(&turn, &wiped, Expected::At(stored.revision), Weight::Ordinary).await?;
        }
        Ok(())
    }

    async fn forget_pending(&self, listed: &Profile) -> Result<bool, Error> {
        let turn = self.cache.turn(&listed.id).await;
        let Some(stored) = self.tokens.get(&listed.id).await? else { return Ok(false) };
        // It may have been begun again, or consented to, since it was listed.
        if !is_forgotten(&stored.value.profile, self.clock.now()) {
            return Ok(false);
        }
        self.forget_record(&turn, Expected::At(stored.revision)).await?;
        self.cache.retire(turn);
        Ok(true)
    }
}

impl Census {
    fn count(&mut self, profile: &Profile) {
        *self.by_status.entry(profile.status.as_str()).or_default() += 1;
        // min of two options, where none means no end is known.
        self.soonest_end = self.soonest_end.into_iter().chain(profile.refresh_expires_at).min();
    }
}

fn is_out_of_quarantine(profile: &Profile, now: Timestamp) -> bool {
    profile.quarantined_at.is_some_and(|since| since + QUARANTINE <= now)
}

fn is_forgotten(profile: &Profile, now: Timestamp) -> bool {
    profile.status == Status::Pending && profile.updated_at + SESSION_TTL < now
}
