//! Refreshing before anybody has to wait for it: drives what the [`Schedule`] says is due. One task and one timer for
//! all connections. Knows no provider's limits: whose turn it is at a token endpoint is settled by its `admit`.
//!
//! Invariant: all connections are looked at once, at the start; after that only those that changed or are due.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::access_token::Demand;
use super::schedule::{Ahead, Job, Schedule, Verdict};
use super::{Broker, Change, Source};
use crate::clock::Timestamp;
use crate::connection::{ConnectionId, Moment, Others, Profile};
use crate::error::{Error, ProviderError};
use crate::store::Selection;

/// How long at most the driver sleeps: it must see when the wall clock was set.
const NAP: Duration = Duration::from_secs(1);

/// How long after a store that does not answer it is read again.
const STORE_RETRY: Duration = Duration::from_secs(5);

impl Broker {
    /// Refreshes ahead of expiry from now on, until the broker drains. Call it once, after what an earlier run left was
    /// taken up.
    pub fn start_ahead(self: &Arc<Self>, ahead: Ahead) {
        *self.schedule() = Some(Schedule::new(ahead));
        let broker = self.clone();
        self.tasks.spawn(async move {
            let draining = broker.draining.clone();
            tokio::select! {
                () = broker.drive() => {}
                () = draining.cancelled() => {}
            }
            *broker.schedule() = None;
        });
    }

    /// How many connections have something to be done for them ahead of time, now or later.
    pub fn scheduled_connections(&self) -> usize {
        self.schedule().as_ref().map_or(0, Schedule::len)
    }

    /// A successor of the tokens of `generation`; nothing is sent where there is one already.
    ///
    /// # Errors
    /// As [`Broker::access_token`].
    pub(super) async fn refresh_ahead(
        self: &Arc<Self>,
        id: &ConnectionId,
        generation: u64,
    ) -> Result<Source, Error> {
        let provider = self.enabled_provider(id.provider.as_str())?.clone();
        let demand = Demand { newer_than: Some(generation), is_ahead: true, ..Demand::default() };
        self.fetch(&provider, id, &demand).await.map(|(_, source)| source)
    }

    /// When the grant of a connection ends for good, from when that was announced in this run until it does.
    pub(super) fn announced_end(&self, id: &ConnectionId) -> Option<Timestamp> {
        self.schedule().as_ref()?.announced_end(id, self.clock.now())
    }

    /// Tells the schedule how a connection is now.
    pub(super) fn plan_ahead(&self, profile: &Profile) {
        let mut schedule = self.schedule();
        let Some(schedule) = schedule.as_mut() else { return };
        match self.providers.get(&profile.id.provider).filter(|provider| provider.is_enabled()) {
            Some(provider) => {
                let (now, reuse) = (self.clock.now(), provider.reuse_profile());
                let moment = Moment { now, holder: self.holder, others: Others::Gone, reuse: &reuse };
                let may_try_at = profile.next_attempt_at(&moment);
                let asked_at = self.cache.asked_at(&profile.id, now);
                schedule.note(profile, &provider.lifetimes(), may_try_at, asked_at, now);
            }
            None => schedule.forget(&profile.id),
        }
        self.scheduled.notify_one();
    }

    /// Tells the schedule that a connection is no more.
    pub(super) fn forget_ahead(&self, id: &ConnectionId) {
        if let Some(schedule) = self.schedule().as_mut() {
            schedule.forget(id);
        }
    }

    async fn drive(self: &Arc<Self>) {
        self.tried_what_was_unfinished().await;
        while let Err(error) = self.survey().await {
            tracing::warn!(%error, reason = %error.reason(), "connections cannot be read yet; trying again");
            tokio::time::sleep(STORE_RETRY).await;
        }
        let mut hand = Hand { wall: self.clock.now(), steady: Instant::now() };
        let mut counted_at = None;
        loop {
            let (now, steady) = (self.clock.now(), Instant::now());
            self.heed(hand.move_to(now, steady), now);
            if counted_at.is_none_or(|at| steady.duration_since(at) >= NAP) {
                counted_at = Some(steady);
                self.count_due(now);
            }
            while let Some(job) = self.next_job(now) {
                self.start(job);
            }
            let next = self.schedule().as_ref().and_then(Schedule::next_due);
            let nap = next.map_or(NAP, |due| now.until(due).min(NAP));
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = self.scheduled.notified() => {}
            }
        }
    }

    /// The one walk over all connections.
    async fn survey(&self) -> Result<(), Error> {
        let mut after = None;
        loop {
            if let Some(schedule) = self.schedule().as_mut() {
                schedule.begin_page();
            }
            let page = self.tokens.list(&Selection::default(), after.as_ref(), 1000).await?;
            for profile in &page.profiles {
                // What changed since this page was read was told already, and is newer.
                if !self.schedule().as_ref().is_some_and(|schedule| schedule.knows(&profile.id)) {
                    self.plan_ahead(profile);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let now = self.clock.now();
        let mut schedule = self.schedule();
        let Some(schedule) = schedule.as_mut() else { return Ok(()) };
        schedule.end_pages();
        schedule.spread_all(now);
        tracing::info!(connections = schedule.len(), "refreshing ahead");
        Ok(())
    }

    fn heed(&self, jump: Option<Jump>, now: Timestamp) {
        let Some(jump) = jump else { return };
        let mut schedule = self.schedule();
        let Some(schedule) = schedule.as_mut() else { return };
        match jump {
            Jump::Back(span) => {
                tracing::warn!(?span, "the clock was set back; deadlines come earlier by as much");
                schedule.shift(span);
            }
            Jump::Ahead(span) => {
                tracing::warn!(?span, "the clock jumped ahead; what is due now is spread");
                schedule.spread_all(now);
            }
        }
    }

    fn next_job(&self, now: Timestamp) -> Option<Job> {
        self.schedule().as_mut()?.take(now, |id| self.cache.asked_at(id, now))
    }

    fn start(self: &Arc<Self>, job: Job) {
        match job {
            Job::Refresh { id, generation, lateness } => {
                self.metrics.refresh_lateness(id.provider.as_str(), lateness);
                let broker = self.clone();
                self.tasks.spawn(async move {
                    let outcome = broker.refresh_ahead(&id, generation).await;
                    broker.landed_ahead(&id, outcome);
                });
            }
            Job::Warn { id, ends_at } => {
                tracing::warn!(connection = %id, %ends_at, "the grant ends soon; its owner must consent again");
                self.metrics.grant_ending(id.provider.as_str());
                self.tell(|| Change::Ending { id: ConnectionId::clone(&id), ends_at });
            }
        }
    }

    fn landed_ahead(&self, id: &Arc<ConnectionId>, outcome: Result<Source, Error>) {
        match &outcome {
            Ok(Source::Refreshed) => self.metrics.refreshed_ahead(id.provider.as_str()),
            // Somebody was there first.
            Ok(_) => {}
            Err(error) => {
                tracing::info!(connection = %id, reason = %error.reason(), %error, "not refreshed ahead");
            }
        }
        if let Some(schedule) = self.schedule().as_mut() {
            schedule.land(id, outcome.is_ok(), verdict(&outcome), self.clock.now());
        }
        self.scheduled.notify_one();
    }

    fn count_due(&self, now: Timestamp) {
        let schedule = self.schedule();
        let Some(schedule) = schedule.as_ref() else { return };
        for (provider, overdue) in schedule.overdue(now) {
            self.metrics.set_refreshes_due(provider.as_str(), overdue);
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Option<Schedule>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a refresh ahead says about its provider. What came from memory or the store says nothing.
fn verdict(outcome: &Result<Source, Error>) -> Verdict {
    let error = match outcome {
        Ok(Source::Refreshed) => return Verdict::Served,
        Ok(_) => return Verdict::Unknown,
        Err(error) => error,
    };
    match error {
        Error::Provider { error, .. } => match error {
            ProviderError::Denied(_) => Verdict::Served,
            ProviderError::Misconfigured(_) => Verdict::Refused { rest: None },
            ProviderError::NoTurn { retry_after, .. } => Verdict::NoTurn { after: *retry_after },
            ProviderError::RateLimited { .. } | ProviderError::CircuitOpen { .. } => {
                Verdict::Refused { rest: error.asked_wait() }
            }
            ProviderError::Unavailable { .. } | ProviderError::Ambiguous { .. } => match error.asked_wait() {
                rest @ Some(_) => Verdict::Refused { rest },
                None => Verdict::Failed,
            },
            ProviderError::Malformed => Verdict::Failed,
        },
        Error::ReauthRequired { .. } => Verdict::Served,
        // Its answer was lost just now: one that was AMBIGUOUS before is due only when it may be asked for again.
        Error::ConnectionAmbiguous { .. } => Verdict::Failed,
        _ => Verdict::Unknown,
    }
}

/// How the wall clock moved against the steady one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jump {
    Back(Duration),
    Ahead(Duration),
}

/// Where both clocks stood when they were last looked at.
struct Hand {
    wall: Timestamp,
    steady: Instant,
}

impl Hand {
    fn move_to(&mut self, wall: Timestamp, steady: Instant) -> Option<Jump> {
        /// A step ahead that is worth a line in the log: more than any pause of the driver.
        const LEAST: Duration = Duration::from_secs(30);
        let expected = self.wall + (steady - self.steady);
        let jump = if wall < self.wall {
            Some(Jump::Back(wall.until(expected)))
        } else {
            Some(expected.until(wall)).filter(|span| *span > LEAST).map(Jump::Ahead)
        };
        *self = Self { wall, steady };
        jump
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{AmbiguousCause, Unsent};

    #[test]
    fn a_lost_answer_is_a_failure_of_the_provider_however_it_is_told() {
        let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
        let told = |error| verdict(&Err(Error::Provider { provider: id.provider.clone(), error }));
        let lost =
            Error::ConnectionAmbiguous { connection: id.clone(), retry_after: Duration::from_secs(300) };
        assert_eq!(verdict(&Err(lost)), Verdict::Failed);
        assert_eq!(told(ProviderError::Ambiguous { cause: AmbiguousCause::Reset }), Verdict::Failed);
        let unsent = ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None };
        assert_eq!(told(unsent), Verdict::Failed);
        assert_eq!(verdict(&Err(Error::ConnectionNotFound(id))), Verdict::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_is_told_from_one_that_runs() {
        let t0 = Timestamp::from_millis(1_790_000_000_000);
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut hand = Hand { wall: t0, steady: start };
        assert_eq!(hand.move_to(t0 + second, start + second), None);
        assert_eq!(hand.move_to(t0 + second * 3, start + second * 2), None, "a little slew is none");
        let hour = Duration::from_secs(3600);
        assert_eq!(hand.move_to(t0 + second * 4 + hour, start + second * 3), Some(Jump::Ahead(hour)));
        assert_eq!(hand.move_to(t0 + second * 5, start + second * 4), Some(Jump::Back(hour)));
        assert_eq!(hand.move_to(t0 + second * 6, start + second * 5), None);
    }
}
