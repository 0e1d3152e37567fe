//! Tokens that came and cannot be stored: held in memory until they can, and where a second place is configured,
//! written down there as well. Knows neither disk nor provider beyond the moment of trying again. Invariant: what is
//! held here is served as degraded or not at all, and not at all once its connection was disconnected or connected
//! anew; a token that the provider ended when it gave these is served to nobody meanwhile; no further refresh of its
//! connection is begun, and it leaves only when the store has it or says that somebody else's outcome stands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::access_token::Demand;
use super::attempt::{Outcome, Settled};
use super::cache::Landing;
use super::keep::Weight;
use super::{Broker, ServedToken, Source, Trust};
use crate::connection::{Connection, ConnectionId, Intent, IssuedTokens, Profile};
use crate::error::{Error, StoreError};
use crate::provider::ProviderClient;
use crate::store::{EscrowStore, EscrowedTokens, Expected};

/// How long after a failed write the next is tried, at first, at most, and at most while the broker drains.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
const DRAIN_RETRY: Duration = Duration::from_millis(100);

/// How long callers wait for the second place. A volume that hangs must not make them wait for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many connections have tokens that the store does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Escrowed {
    /// In memory only: lost if the process ends now.
    pub in_memory: usize,
    /// In the second place as well: taken up at the next start.
    pub in_second_place: usize,
}

/// Why what an earlier run left in the second place could not be taken up.
#[derive(Debug, thiserror::Error)]
pub enum NotTakenUp {
    /// The second place cannot be read.
    #[error(transparent)]
    Place(StoreError),
    /// The store that is to take it fails.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What is held, by connection.
pub(super) struct Escrow {
    held: Mutex<HashMap<ConnectionId, Held>>,
    /// The second place, where one is configured.
    place: Option<Arc<dyn EscrowStore>>,
    counts: watch::Sender<Escrowed>,
}

struct Held {
    /// The new token, degraded; `None` where it is served to nobody.
    token: Option<Arc<ServedToken>>,
    /// The generation of the tokens that it is to take the place of.
    generation: u64,
    /// Whether the token before it may still be served.
    old_survives: bool,
    /// Whether the second place has it.
    is_aside: bool,
}

/// Tokens on their way into the store.
pub(super) struct Holding {
    id: ConnectionId,
    attempt: Intent,
    outcome: Outcome,
    /// Whether the second place has them.
    is_aside: bool,
}

impl Escrow {
    pub(super) fn new(place: Option<Arc<dyn EscrowStore>>) -> Self {
        Self { held: Mutex::default(), place, counts: watch::Sender::new(Escrowed::default()) }
    }

    pub(super) fn holds(&self, id: &ConnectionId) -> bool {
        self.lock().contains_key(id)
    }

    /// A record was made durable: what is held for one before it is served no more.
    pub(super) fn overtake(&self, profile: &Profile) {
        if let Some(held) = self.lock().get_mut(&profile.id)
            && (profile.generation > held.generation || !profile.status.serves())
        {
            held.token = None;
        }
    }

    /// A record is no more: what is held for it is served to nobody.
    pub(super) fn withhold(&self, id: &ConnectionId) {
        if let Some(held) = self.lock().get_mut(id) {
            held.token = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// How many connections have tokens that are not durable. More than none is trouble.
    pub fn escrowed_count(&self) -> usize {
        self.escrow.lock().len()
    }

    /// Follows how many connections have tokens that the store does not hold.
    pub fn escrowed_counts(&self) -> watch::Receiver<Escrowed> {
        self.escrow.counts.subscribe()
    }

    /// What is answered for a connection whose new tokens are held here; `None` where none are that may be served.
    pub(super) fn escrowed(&self, id: &ConnectionId, demand: &Demand) -> Option<Landing> {
        let (token, old_survives) = {
            let held = self.escrow.lock();
            let held = held.get(id)?;
            (held.token.clone()?, held.old_survives)
        };
        let now = self.clock.now();
        let old = self.cache.token(id).filter(|old| {
            old_survives && old.access.is_alive(now) && !old.is_over() && demand.is_content_with(&old.access)
        });
        if let Some(old) = old {
            return Some(Ok((old, Source::Stale)));
        }
        if token.access.is_alive(now) && !token.is_over() && !demand.refuses(Some(&token.access)) {
            return Some(Ok((token, Source::SharedRefresh)));
        }
        Some(Err(not_durable()))
    }

    /// Takes up what an earlier run left in the second place: the store gets it as if its answer had just come. Call it
    /// before anything is served, and before what was left unfinished is found out: the refresh tokens in the store are
    /// spent. Answers how many were found. `trust`: a record that a store lacks which was put back is not forgotten.
    ///
    /// # Errors
    /// The second place cannot be read, or the store fails: then nothing may be served.
    pub async fn take_up_escrow(self: &Arc<Self>, trust: Trust) -> Result<usize, NotTakenUp> {
        let Some(place) = &self.escrow.place else { return Ok(0) };
        let contents = place.list().await.map_err(NotTakenUp::Place)?;
        for kept in &contents.unreadable {
            tracing::error!(place = %kept.place, why = kept.why, "not tokens that can be taken up; it is kept");
        }
        let found = contents.tokens.len();
        let mut kept = contents.unreadable.len();
        let mut tokens = contents.tokens;
        // Of several of one connection the newest: what stayed there by mistake is then found to be of the past.
        tokens.sort_by_key(|held| std::cmp::Reverse(held.attempt.generation));
        let mut trust = trust;
        if trust == Trust::Sound
            && let Some(id) = self.is_behind(&tokens).await?
        {
            tracing::error!(connection = %id, "the second place is ahead of the store: the store was put back");
            // A copy of all that lies at the store's path shows no rollback by itself. What is ahead of it stays here until
            // all is marked, so that the next start finds it again. What came of a record as it is comes before: it says
            // of its grant more than the mark.
            let mut later = Vec::new();
            for held in tokens {
                match self.tokens.get(&held.id).await {
                    Ok(Some(stored)) if stored.value.profile.generation >= held.attempt.generation => {
                        kept += self.seen_to(&**place, held, Trust::RolledBack).await?;
                    }
                    _ => later.push(held),
                }
            }
            tokens = later;
            trust = Trust::RolledBack;
            self.recover(trust).await?;
        }
        for held in tokens {
            kept += self.seen_to(&**place, held, trust).await?;
        }
        self.metrics.set_escrow_kept(kept);
        if found > 0 {
            tracing::warn!(found, kept, "tokens that the store had not taken were found in the second place");
        }
        Ok(found)
    }

    /// A connection whose record is of a time before that of tokens found here; `None` where the store lacks nothing.
    async fn is_behind(&self, tokens: &[EscrowedTokens]) -> Result<Option<ConnectionId>, Error> {
        for held in tokens {
            match self.tokens.get(&held.id).await {
                Ok(Some(stored)) if stored.value.is_before(&held.attempt) => {
                    return Ok(Some(held.id.clone()));
                }
                Ok(_) | Err(StoreError::Unreadable(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Answers how many are kept: none or this one.
    async fn seen_to(
        self: &Arc<Self>,
        place: &dyn EscrowStore,
        held: EscrowedTokens,
        trust: Trust,
    ) -> Result<usize, NotTakenUp> {
        let (id, attempt, is_apart) = (held.id.clone(), held.attempt.clone(), held.is_apart);
        if self.take_up(held, trust).await? {
            return Ok(0);
        }
        if trust == Trust::RolledBack && !is_apart {
            // At the next start nothing else may show any more that the store was put back.
            place.set_apart(&id, &attempt).await.map_err(NotTakenUp::Place)?;
        }
        Ok(1)
    }

    /// Answers whether the tokens were seen to; else they stay where they are.
    async fn take_up(self: &Arc<Self>, held: EscrowedTokens, trust: Trust) -> Result<bool, Error> {
        let EscrowedTokens { id, attempt, issued, is_apart } = held;
        let keep = |why: &str| {
            tracing::error!(connection = %id, why, "tokens in the second place are kept and not taken up");
            Ok(false)
        };
        let Ok(provider) = self.configured_provider(id.provider.as_str()).cloned() else {
            return keep("their provider is not configured");
        };
        let begun = match self.tokens.get(&id).await {
            Ok(Some(stored)) => stored.value,
            Ok(None) if is_apart || trust == Trust::RolledBack => {
                return keep("the store was put back and lacks their connection");
            }
            Ok(None) => {
                let holding = Holding { id, attempt, outcome: Ok(issued), is_aside: true };
                self.let_go(&provider, holding, &Settled::Stray).await;
                return Ok(true);
            }
            Err(StoreError::Unreadable(why)) => return keep(why),
            Err(error) => return Err(error.into()),
        };
        if begun.profile.generation < attempt.generation {
            return match self.put_forward(&*provider, &id, &attempt, &issued).await? {
                true => {
                    self.drop_aside(&id, &attempt).await;
                    Ok(true)
                }
                false => keep("they are of a later state than its record's, and do not belong to it"),
            };
        }
        let holding = Holding { id, attempt, outcome: Ok(issued), is_aside: true };
        match self.settle(&*provider, &holding.id, &holding.attempt, &holding.outcome).await {
            Ok(settled) => self.let_go(&provider, holding, &settled).await,
            Err(error) => {
                self.hold(&provider, begun, holding, &error);
            }
        }
        Ok(true)
    }

    /// Gives a record of a store that was put back the newer tokens that `attempt` brought: what the record holds in
    /// their place is spent. Answers whether they are durable; else they do not belong to it.
    async fn put_forward(
        self: &Arc<Self>,
        provider: &dyn ProviderClient,
        id: &ConnectionId,
        attempt: &Intent,
        issued: &IssuedTokens,
    ) -> Result<bool, Error> {
        let reuse = provider.reuse_profile();
        let turn = self.cache.turn(id).await;
        let Some(stored) = self.tokens.get(id).await? else { return Ok(false) };
        let before = stored.value.profile.scopes.clone();
        let Some(restored) = stored.value.restored(attempt, issued, &self.moment(&reuse)) else {
            return Ok(false);
        };
        self.keep(&turn, &restored, Expected::At(stored.revision), Weight::Rescue).await?;
        self.heed_lost_scopes(&before, &restored.profile);
        tracing::warn!(connection = %id, "newer tokens than the record's were taken up from the second place");
        Ok(true)
    }

    /// Writes what came to the second place, if there is one; answers whether it is there.
    pub(super) async fn set_aside(&self, id: &ConnectionId, attempt: &Intent, outcome: &Outcome) -> bool {
        let (Some(place), Ok(issued)) = (&self.escrow.place, outcome) else { return false };
        match tokio::time::timeout(PATIENCE, place.put(id, attempt, issued)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::error!(connection = %id, %error, "the second place does not take new tokens either");
            }
            Err(_) => tracing::error!(connection = %id, "the second place hangs"),
        }
        false
    }

    /// Removes from the second place what the store has, or nobody needs any more. What stays there by mistake does no
    /// harm: at the next start it is found to be of the past.
    pub(super) async fn drop_aside(&self, id: &ConnectionId, attempt: &Intent) {
        let Some(place) = &self.escrow.place else { return };
        match tokio::time::timeout(PATIENCE, place.remove(id, attempt)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(connection = %id, %error, "not removed from the second place"),
            Err(_) => tracing::warn!(connection = %id, "not removed from the second place: it hangs"),
        }
    }

    /// Holds what a refresh brought, answers it as degraded, and tries to store it until that works. `None` where the
    /// connection was disconnected or connected anew meanwhile. `is_aside`: the second place has it.
    pub(super) fn put_in_escrow(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        begun: Connection,
        attempt: Intent,
        outcome: Outcome,
        is_aside: bool,
        why: &StoreError,
    ) -> Option<Arc<ServedToken>> {
        let holding = Holding { id: begun.profile.id.clone(), attempt, outcome, is_aside };
        self.hold(provider, begun, holding, why)
    }

    fn hold(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        begun: Connection,
        holding: Holding,
        why: &StoreError,
    ) -> Option<Arc<ServedToken>> {
        let id = &holding.id;
        let reuse = provider.reuse_profile();
        let generation = holding.attempt.generation;
        let stood = begun.serving().is_some() && begun.profile.generation == generation;
        let would_be = begun.landed(&holding.attempt, &holding.outcome, &self.moment(&reuse), 0).connection;
        let access = would_be.tokens.and_then(|tokens| tokens.access).filter(|_| stood);
        let token = access.map(|access| Arc::new(self.serving(access, &would_be.profile).degraded()));
        tracing::error!(
            connection = %id,
            %why,
            is_in_second_place = holding.is_aside,
            "new tokens are held in memory: the store does not take them"
        );
        let old_survives = reuse.old_at_survives;
        let token = {
            let mut held = self.escrow.lock();
            // The store may not even be readable now, so memory says what was made durable since the request left.
            // Looked at under the lock: whoever overtakes notes its generation first and asks for the lock then.
            let token = token.filter(|_| self.cache.generation(id) <= generation);
            let is_aside = holding.is_aside;
            held.insert(id.clone(), Held { token: token.clone(), generation, old_survives, is_aside });
            token
        };
        if !old_survives {
            // What callers find in memory would be refused.
            self.cache.withdraw_spent(id, generation);
        }
        self.count_escrowed();
        let (broker, provider) = (self.clone(), provider.clone());
        // It ends what a flight began: a stop that waits for flights waits for it.
        let emptying = async move { broker.empty_escrow(&provider, holding).await };
        self.tasks.spawn(self.flights.track_future(emptying));
        token
    }

    async fn empty_escrow(self: &Arc<Self>, provider: &Arc<dyn ProviderClient>, mut holding: Holding) {
        let mut wait = FIRST_RETRY;
        let id = holding.id.clone();
        let settled = loop {
            let Holding { attempt, outcome, .. } = &holding;
            match self.settle(&**provider, &id, attempt, outcome).await {
                Ok(settled) => break settled,
                Err(error) => tracing::warn!(connection = %id, %error, "held tokens are not durable yet"),
            }
            if !holding.is_aside && self.set_aside(&id, attempt, outcome).await {
                holding.is_aside = true;
                if let Some(held) = self.escrow.lock().get_mut(&id) {
                    held.is_aside = true;
                }
                self.count_escrowed();
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(LAST_RETRY),
                // Now it is stored or lost: try often.
                () = self.draining.cancelled(), if wait > DRAIN_RETRY => wait = DRAIN_RETRY,
            }
            if self.draining.is_cancelled() {
                wait = DRAIN_RETRY;
            }
        };
        let is_stored = matches!(settled, Settled::Token(_));
        tracing::info!(connection = %id, is_stored, "held tokens were settled");
        self.let_go(provider, holding, &settled).await;
        self.escrow.lock().remove(&id);
        self.count_escrowed();
    }

    /// What was held is settled: nothing of it is left to be kept, unless it is still to be revoked.
    async fn let_go(
        self: &Arc<Self>,
        provider: &Arc<dyn ProviderClient>,
        holding: Holding,
        settled: &Settled,
    ) {
        let Holding { id, attempt, outcome, is_aside } = holding;
        match settled {
            Settled::Stray => self.revoke_stray(provider, &id, &attempt, outcome, is_aside),
            // Also where it was not told to be there: what took too long to write may be written all the same.
            Settled::Token(_)
            | Settled::Dead(_)
            | Settled::Failed(_)
            | Settled::Surplus
            | Settled::Superseded => self.drop_aside(&id, &attempt).await,
        }
    }

    fn count_escrowed(&self) {
        let counts = {
            let held = self.escrow.lock();
            let in_second_place = held.values().filter(|held| held.is_aside).count();
            Escrowed { in_memory: held.len() - in_second_place, in_second_place }
        };
        self.metrics.set_escrowed(counts.in_memory + counts.in_second_place);
        self.escrow.counts.send_if_modified(|before| std::mem::replace(before, counts) != counts);
    }
}

/// What those are told who must wait for what is held.
pub(super) fn not_durable() -> Error {
    StoreError::Unavailable("the last refresh of this connection is not durable yet".to_owned()).into()
}
