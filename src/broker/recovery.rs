//! What a restart does first: finds out what became of the refreshes that an earlier run left unfinished, the most
//! pressing first. Invariant: nothing of a store that was put back is refreshed before its grants are marked.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Broker;
use super::access_token::Demand;
use super::keep::Weight;
use crate::clock::Timestamp;
use crate::connection::reuse::ReuseProfile;
use crate::connection::{ConnectionId, Profile, Status};
use crate::error::{Error, Reason, StoreError};
use crate::provider::ProviderClient;
use crate::store::{Expected, Selection};

/// What can be found out within this time of the start is; what must wait longer is left to the schedule.
const HORIZON: Duration = Duration::from_secs(60);

/// The time between two looks at one connection, at first and at most; each is twice the one before. What a provider
/// asks for is in the record, so that a grace period's end is weighed against it.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// Whether the store is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It holds what was last acknowledged.
    Sound,
    /// It was put back to an older state: what it holds may have been spent since.
    RolledBack,
}

/// What was found at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Refreshes that an earlier run left unfinished, and that are being seen to.
    pub unfinished: usize,
    /// Grants that were marked AMBIGUOUS because the store was put back.
    pub marked: usize,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub(super) struct Recovering {
    /// How many of its unfinished refreshes are being tried for the first time.
    first_tries: watch::Sender<usize>,
    /// Connections whose unfinished refresh is being seen to.
    seen_to: Mutex<HashSet<ConnectionId>>,
    /// Its unfinished revocations, from when all records were read until they are taken up.
    revoking: Mutex<Option<Vec<Profile>>>,
}

/// One of them.
struct FirstTry(watch::Sender<usize>);

impl Recovering {
    fn begin(&self) -> FirstTry {
        self.first_tries.send_modify(|count| *count += 1);
        FirstTry(self.first_tries.clone())
    }

    /// The revocations that were come upon when all records were last read; `None` where they were not, or were taken.
    pub(super) fn take_revoking(&self) -> Option<Vec<Profile>> {
        self.revoking.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn seen_to(&self) -> MutexGuard<'_, HashSet<ConnectionId>> {
        self.seen_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_revoking(&self, revoking: Vec<Profile>) {
        *self.revoking.lock().unwrap_or_else(PoisonError::into_inner) = Some(revoking);
    }
}

impl Drop for FirstTry {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Broker {
    /// Takes up the refreshes of the connections that the opening of the store came upon, before all records are read once
    /// more: the time in which they can be saved may be running out. [`Broker::recover`] is to follow. Answers how many.
    ///
    /// # Errors
    /// The store's.
    pub async fn recover_first(self: &Arc<Self>, unfinished: &[ConnectionId]) -> Result<usize, Error> {
        let mut found = Vec::new();
        for id in unfinished {
            match self.tokens.get(id).await {
                Ok(Some(stored)) => found.extend(self.unfinished(stored.value.profile)),
                Ok(None) | Err(StoreError::Unreadable(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.see_to(found))
    }

    /// Takes up the refreshes that an earlier run left unfinished. Returns when all of them are under way, in the order
    /// in which their time runs out; they go on in tasks of their own. Call it before anything is refreshed ahead, and
    /// before anything is served where the store was rolled back. May be called again.
    ///
    /// # Errors
    /// The store's.
    pub async fn recover(self: &Arc<Self>, trust: Trust) -> Result<Recovery, Error> {
        let mut recovery = Recovery::default();
        let mut unfinished: Vec<(Timestamp, Profile)> = Vec::new();
        // To open all records takes seconds where they are many: whoever must know of every one looks at them here, too.
        let (mut revoking, mut after) = (Vec::new(), None);
        self.roll().begin();
        let all = Selection { with_ended: true, ..Selection::default() };
        loop {
            let page = self.tokens.list(&all, after.as_ref(), 1000).await?;
            for profile in page.profiles {
                self.roll().met(&profile);
                if profile.id.is_ended() {
                    continue;
                }
                if trust == Trust::RolledBack {
                    let provider = self.configured_provider(profile.id.provider.as_str()).ok();
                    // A provider that is not configured now may be later, and then nobody remembers the rollback: of
                    // what is not known the worst is assumed.
                    let reuse = provider.map(|provider| provider.reuse_profile()).unwrap_or_default();
                    recovery.marked += usize::from(self.mark(&reuse, &profile.id).await?);
                } else if profile.status == Status::Revoking {
                    revoking.push(profile);
                } else {
                    unfinished.extend(self.unfinished(profile));
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.roll().finish();
        if trust == Trust::Sound {
            self.recovering.note_revoking(revoking);
        }
        if trust == Trust::RolledBack {
            tracing::error!(
                marked = recovery.marked,
                "the store was put back to an older state; grants whose tokens may be spent are AMBIGUOUS"
            );
        }
        recovery.unfinished = unfinished.len();
        self.see_to(unfinished);
        Ok(recovery)
    }

    /// The record with the time when it must be seen to, if an earlier run left a refresh of it unfinished.
    fn unfinished(&self, profile: Profile) -> Option<(Timestamp, Profile)> {
        let is_open =
            profile.intent.is_some() && !matches!(profile.status, Status::Revoking | Status::ReauthRequired);
        let provider = self.configured_provider(profile.id.provider.as_str()).ok();
        let reuse = provider.map(|provider| provider.reuse_profile()).unwrap_or_default();
        is_open.then(|| (profile.recovery_deadline(&reuse), profile))
    }

    /// Begins to find out what became of them, in the order in which their time runs out, each in a task of its own; answers
    /// of how many. Those that are being seen to are left alone.
    fn see_to(self: &Arc<Self>, mut unfinished: Vec<(Timestamp, Profile)>) -> usize {
        unfinished.retain(|(_, profile)| self.recovering.seen_to().insert(profile.id.clone()));
        unfinished.sort_by_key(|(deadline, _)| *deadline);
        let count = unfinished.len();
        for (_, profile) in unfinished {
            let (broker, first) = (self.clone(), self.recovering.begin());
            self.tasks.spawn(async move {
                let (id, draining) = (profile.id.clone(), broker.draining.clone());
                tokio::select! {
                    () = broker.find_out(profile, first) => {}
                    () = draining.cancelled() => {}
                }
                broker.recovering.seen_to().remove(&id);
            });
        }
        if count > 0 {
            tracing::warn!(unfinished = count, "refreshes were left unfinished; finding out");
        }
        count
    }

    /// When a connection's refresh token may be presented next, for a schedule; `None`: never by itself.
    pub fn may_try_at(&self, profile: &Profile) -> Option<Timestamp> {
        let provider = self.configured_provider(profile.id.provider.as_str()).ok()?;
        profile.next_attempt_at(&self.moment(&provider.reuse_profile()))
    }

    /// Tries a grant once more that the provider called dead, on an operator's word. One that is not dead is refreshed.
    ///
    /// # Errors
    /// `REAUTH_REQUIRED` where it is still dead or nothing is left to try with; else as [`Broker::access_token`].
    pub async fn retry_refused(self: &Arc<Self>, id: ConnectionId) -> Result<Profile, Error> {
        let provider = self.enabled_provider(id.provider.as_str())?.clone();
        let before = self.connection(&id).await?;
        // Who shares somebody else's flight shares its answer, and that one was not told to try.
        while let Some(flight) = self.cache.flight(&id) {
            let _ = flight.landed().await;
        }
        let demand = Demand { newer_than: Some(before.generation), revives: true, ..Demand::default() };
        self.fetch(&provider, &id, &demand).await?;
        self.connection(&id).await
    }

    /// Returns when each refresh that an earlier run left unfinished was tried once or must wait for longer: what is
    /// refreshed ahead of expiry comes after. A provider that hangs holds nobody up for long.
    pub(super) async fn tried_what_was_unfinished(&self) {
        let mut under_way = self.recovering.first_tries.subscribe();
        let _ = tokio::time::timeout(HORIZON, under_way.wait_for(|count| *count == 0)).await;
    }

    /// Tries until the outcome is known, or until it is clear that it will not be known for a while, and written down that
    /// it is not. `first` ends with the first try.
    async fn find_out(self: &Arc<Self>, profile: Profile, first: FirstTry) {
        let mut first = Some(first);
        let id = profile.id;
        let provider = self.enabled_provider(id.provider.as_str()).cloned().ok();
        let demand = Demand { newer_than: Some(profile.generation), ..Demand::default() };
        let mut rest = SHORTEST;
        loop {
            let (next, is_unsaid) = match self.connection(&id).await {
                Ok(profile) if profile.intent.is_none() => return,
                Ok(profile) => self.outlook(provider.as_deref(), &profile),
                // Nor will it open in a second.
                Err(Error::Store(StoreError::Unreadable(_))) => return,
                Err(Error::Store(_)) => (Some(self.clock.now() + SHORTEST), false),
                Err(_) => return,
            };
            let pause = next.map(|next| self.clock.now().until(next)).filter(|pause| *pause <= HORIZON);
            let is_said = !is_unsaid || {
                drop(first.take());
                // What can be tried at once is written down first: the time for it may be running out.
                let _ = tokio::time::timeout(LONGEST, self.tried_what_was_unfinished()).await;
                self.note_unanswered(&id).await
            };
            let (Some(pause), Some(provider)) = (pause, &provider) else {
                if is_said {
                    return;
                }
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(HORIZON);
                continue;
            };
            if !pause.is_zero() {
                drop(first.take());
                tokio::time::sleep(pause.max(SHORTEST)).await;
            }
            if let Err(error) = self.fetch(provider, &id, &demand).await {
                tracing::info!(connection = %id, reason = %error.reason(), "not found out yet");
            }
            drop(first.take());
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(LONGEST);
        }
    }

    /// When a refresh that was left unfinished may be tried, and whether its record is still to say that its outcome is
    /// unknown. Where it is tried at once, or again before a grace period is over, that is said with the try.
    fn outlook(&self, provider: Option<&dyn ProviderClient>, profile: &Profile) -> (Option<Timestamp>, bool) {
        let reuse = provider.map(|provider| provider.reuse_profile()).unwrap_or_default();
        let moment = self.moment(&reuse);
        let next = provider.and_then(|_| profile.next_attempt_at(&moment));
        let is_tried = next.is_some_and(|next| next <= moment.now || profile.is_saved_by_grace(&moment));
        let is_ours = profile.intent.as_ref().is_some_and(|intent| intent.holder == self.holder);
        (next, profile.status == Status::Active && !is_ours && !is_tried)
    }

    /// Writes down that nobody knows what became of a refresh that an earlier run sent. Answers whether it is written, or
    /// need not be.
    async fn note_unanswered(&self, id: &ConnectionId) -> bool {
        let turn = self.cache.turn(id).await;
        let stored = match self.tokens.get(id).await {
            Ok(Some(stored)) => stored,
            Ok(None) | Err(StoreError::Unreadable(_)) => return true,
            Err(_) => return false,
        };
        let reuse = ReuseProfile::default();
        let Some(unanswered) = stored.value.left_unanswered(&self.moment(&reuse)) else { return true };
        let kept = self.keep(&turn, &unanswered, Expected::At(stored.revision), Weight::Ordinary).await;
        match kept {
            Ok(_) => {
                let reason = Reason::ConnectionAmbiguous;
                tracing::info!(connection = %id, %reason, "an earlier run left a refresh unanswered; it waits");
                true
            }
            Err(error) => {
                tracing::warn!(connection = %id, %error, "an unanswered refresh could not be noted; tried again");
                false
            }
        }
    }

    async fn mark(&self, reuse: &ReuseProfile, id: &ConnectionId) -> Result<bool, Error> {
        let turn = self.cache.turn(id).await;
        let stored = match self.tokens.get(id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(false),
            // Its profile is listed; what does not open is presented to nobody. All others are to be marked, and served.
            Err(StoreError::Unreadable(why)) => {
                let reason = "RECORD_UNREADABLE";
                tracing::error!(reason, connection = %id, "it cannot be marked, for it cannot be opened: {why}");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        match stored.value.rolled_back(reuse, self.clock.now()) {
            Some(marked) => {
                self.keep(&turn, &marked, Expected::At(stored.revision), Weight::Ordinary).await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}
