//! Two connections of one account at one provider. At some providers the newer grant silently ends the older one, at
//! others only so many may live: so it is written down in both and in the log, and left to people. Invariant: no name is
//! told across tenants; one walk over a provider's connections is under way at a time, for all that came before it began.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::Broker;
use super::keep::Weight;
use crate::connection::{ConnectionId, Profile};
use crate::error::Error;
use crate::store::{Expected, Selection};

/// How many others are named. Whoever has more, as of a service's own account, knows why, and is not written to.
const MOST: usize = 4;

/// Whose others are yet to be looked for.
#[derive(Default)]
pub(super) struct Twins(Mutex<Wanted>);

#[derive(Default)]
struct Wanted {
    profiles: Vec<Profile>,
    is_walking: bool,
}

impl Twins {
    /// Adds one; answers whether the walk is to be begun.
    fn want(&self, profile: Profile) -> bool {
        let mut wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.profiles.push(profile);
        !std::mem::replace(&mut wanted.is_walking, true)
    }

    /// All of one provider that came until now; empty where the walk is over.
    fn next(&self) -> Vec<Profile> {
        let mut wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let provider = wanted.profiles.first().map(|profile| profile.id.provider.clone());
        let of_one = |profile: &mut Profile| provider.as_ref() == Some(&profile.id.provider);
        let next: Vec<_> = wanted.profiles.extract_if(.., of_one).collect();
        wanted.is_walking = !next.is_empty();
        next
    }
}

impl Broker {
    /// Looks whether another connection has the account of this one, whose grant is new. In a task of the broker's own:
    /// nobody waits for it, not even the end of the broker.
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
        if !self.twins.want(profile.clone()) {
            return;
        }
        let broker = self.clone();
        self.tasks.spawn(async move {
            let draining = broker.draining.clone();
            tokio::select! {
                () = broker.walk_for_twins() => {}
                () = draining.cancelled() => {}
            }
        });
    }

    async fn walk_for_twins(&self) {
        loop {
            let wanted = self.twins.next();
            let Some(first) = wanted.first() else { return };
            if let Err(error) = self.note_twins(&wanted).await {
                let (provider, count) = (&first.id.provider, wanted.len());
                tracing::warn!(%provider, count, %error, "not looked for others of the same account");
            }
        }
    }

    /// One walk over the connections of the provider whose `wanted` all are.
    async fn note_twins(&self, wanted: &[Profile]) -> Result<(), Error> {
        let mut by_account: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, profile) in wanted.iter().enumerate() {
            if let Some(account) = &profile.account {
                by_account.entry(&account.id).or_default().push(at);
            }
        }
        let provider = wanted.first().map(|profile| profile.id.provider.clone());
        let selection = Selection { provider, ..Selection::default() };
        let mut twins: Vec<Vec<ConnectionId>> = wanted.iter().map(|_| Vec::new()).collect();
        let mut after = None;
        loop {
            let page = self.tokens.list(&selection, after.as_ref(), 1000).await?;
            for other in page.profiles.iter().filter(|other| other.status.serves()) {
                let Some(account) = &other.account else { continue };
                for at in by_account.get(account.id.as_str()).into_iter().flatten() {
                    if let (Some(profile), Some(twins)) = (wanted.get(*at), twins.get_mut(*at))
                        && profile.id != other.id
                        && twins.len() < MOST
                    {
                        twins.push(other.id.clone());
                    }
                }
            }
            after = page.next;
            if after.is_none() || twins.iter().all(|twins| twins.len() == MOST) {
                break;
            }
        }
        // Two that were made anew together find each other twice.
        let mut told = HashSet::new();
        for (profile, twins) in wanted.iter().zip(&twins) {
            for twin in twins {
                if !told.insert((profile.id.clone().min(twin.clone()), profile.id.clone().max(twin.clone())))
                {
                    continue;
                }
                tracing::warn!(
                    connection = %profile.id,
                    other = %twin,
                    "two connections of one account at one provider: at some the older grant dies without a word"
                );
                self.note_twin(twin, &profile.id).await?;
                self.note_twin(&profile.id, twin).await?;
            }
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
