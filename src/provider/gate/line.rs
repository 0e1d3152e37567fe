//! The line before a token endpoint, without locks and without waiting: given a moment, who is next.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::outcome::Asker;
use super::{LONGEST_TURN, Place};
use crate::clock::Timestamp;
use crate::error::{Outage, ProviderError};
use crate::provider::Urgency;
use crate::provider::breaker::{Breaker, LONGEST_REST, Pass, Resting};
use crate::provider::budget::Purse;
use crate::provider::spec::ProviderSpec;
use crate::provider::spec::lifecycle::Reuse;

/// After so many who overtook it, work that nobody waits for has its turn.
const PATIENCE: u32 = 9;

/// How long work that nobody waits for rests after a "slower" that names no time.
const UNSAID_REST: Duration = Duration::from_secs(5);

/// How long it rests after an answer was lost where that leaves a grant in doubt, at first and at most; each rest is twice
/// the one before until something is answered. To ask whether the provider is back puts one more at risk, and whoever
/// waits for a token asks anyway.
const FIRST_LOSS_REST: Duration = Duration::from_secs(10);
const LONGEST_LOSS_REST: Duration = Duration::from_secs(300);

/// How long at most those are sent away who have stood in line for long: a provider that was slow may be quick again.
const LONGEST_AWAY: Duration = Duration::from_secs(60);

/// Somebody's place in the line.
pub(super) struct Ticket {
    sender: oneshot::Sender<Result<Place, ProviderError>>,
    /// How long it may stand.
    until: Instant,
    /// How many of its urgency had been let through when it came.
    let_through: u64,
}

impl Ticket {
    /// One that begins to stand `now`.
    pub(super) fn new(now: Instant) -> (Self, oneshot::Receiver<Result<Place, ProviderError>>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, until: now + LONGEST_TURN, let_through: 0 }, receiver)
    }

    /// A place whose taker has gone is dropped, and so given back.
    pub(super) fn answer(self, outcome: Result<Place, ProviderError>) {
        drop(self.sender.send(outcome));
    }
}

/// A ticket that is done with standing, and why.
pub(super) type Served = (Ticket, Result<(Pass, Urgency), ProviderError>);

/// Everything that decides whose turn it is.
pub(super) struct Line {
    pub(super) breaker: Breaker,
    pub(super) purse: Purse,
    pub(super) background_rests_until: Option<Instant>,
    /// When a rest was last called for: what was sent before says nothing about the time after.
    asked_to_rest_at: Option<Instant>,
    pub(super) everybody_rests_until: Option<Instant>,
    /// Whether a refresh token may be spent whose answer was lost.
    is_doubt_possible: bool,
    /// Answers that were lost since the last that came.
    lost: u32,
    pub(super) last_failure: Option<(ProviderError, Timestamp)>,
    pub(super) last_success_at: Option<Timestamp>,
    /// How many were turned away since the breaker opened.
    pub(super) refused: u64,
    /// One for each urgency, in its order.
    waiting: [VecDeque<Ticket>; 3],
    under_way: usize,
    /// How many of those nobody waits for.
    background: usize,
    /// How many of those came without a turn.
    uncalled: usize,
    places: usize,
    /// How many were ever let through, for each urgency.
    let_through: [u64; 3],
    /// How often work that nobody waits for was overtaken since the last of it went.
    overtaken: u32,
    /// When somebody will look again.
    next_look: Option<Instant>,
}

impl Line {
    pub(super) fn new(spec: &ProviderSpec) -> Self {
        let budget = spec.token_budget;
        Self {
            breaker: Breaker::new(spec.breaker.figures()),
            purse: Purse::new(budget.count, budget.per.duration()),
            background_rests_until: None,
            asked_to_rest_at: None,
            everybody_rests_until: None,
            is_doubt_possible: spec.reuse != Reuse::Reusable,
            lost: 0,
            last_failure: None,
            last_success_at: None,
            refused: 0,
            waiting: Default::default(),
            under_way: 0,
            background: 0,
            uncalled: 0,
            places: usize::try_from(spec.max_parallel_refresh).unwrap_or(usize::MAX).max(1),
            let_through: [0; 3],
            overtaken: 0,
            next_look: None,
        }
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    pub(super) fn length(&self) -> usize {
        self.waiting.iter().flatten().filter(|ticket| !ticket.sender.is_closed()).count()
    }

    /// Why whoever comes now is sent away instead of into the line.
    pub(super) fn refusal(&mut self, urgency: Urgency, now: Instant) -> Option<ProviderError> {
        if !self.is_excepted(urgency)
            && let Err(resting) = self.breaker.check(now)
        {
            return Some(self.outage(resting));
        }
        if urgency == Urgency::Rescue {
            return None;
        }
        let rest = self.rest(urgency, now);
        if rest > LONGEST_TURN {
            return Some(ProviderError::RateLimited { retry_after: Some(rest) });
        }
        let before: usize = self.waiting[urgency as usize..].iter().map(VecDeque::len).sum();
        let turn = self.purse.when(before + self.kept_from(urgency) + 1, now).saturating_duration_since(now);
        (turn > LONGEST_TURN).then_some(ProviderError::RateLimited { retry_after: Some(turn) })
    }

    pub(super) fn join(&mut self, urgency: Urgency, ticket: Ticket) {
        let let_through = self.let_through[urgency as usize];
        self.waiting[urgency as usize].push_back(Ticket { let_through, ..ticket });
    }

    pub(super) fn begin(&mut self, urgency: Urgency, asker: Asker) {
        self.under_way += 1;
        self.background += usize::from(urgency == Urgency::Ahead);
        self.uncalled += usize::from(asker == Asker::Consent);
        self.purse.take();
    }

    /// A place is free again; `sent_by` says that its request had left.
    pub(super) fn end(&mut self, urgency: Urgency, asker: Asker, sent_by: Option<Instant>) {
        self.under_way = self.under_way.saturating_sub(1);
        self.background = self.background.saturating_sub(usize::from(urgency == Urgency::Ahead));
        self.uncalled = self.uncalled.saturating_sub(usize::from(asker == Asker::Consent));
        match sent_by {
            Some(now) => self.purse.spend(now),
            None => self.purse.put_back(),
        }
    }

    /// Remembers an outcome of a request sent at `sent_at`, and rests as the provider asks, or as a lost answer does; a later
    /// request that works ends the rest of work that nobody waits for.
    pub(super) fn learn(
        &mut self,
        error: Option<&ProviderError>,
        at: Timestamp,
        now: Instant,
        sent_at: Option<Instant>,
        throttles_client: bool,
    ) {
        let rest = match error {
            None | Some(ProviderError::Denied(_)) => {
                self.last_success_at = Some(at);
                self.lost = 0;
                if sent_at > self.asked_to_rest_at {
                    self.background_rests_until = None;
                }
                return;
            }
            Some(ProviderError::RateLimited { retry_after }) => Some(retry_after.unwrap_or(UNSAID_REST)),
            Some(error @ ProviderError::Unavailable { .. }) => error.asked_wait(),
            Some(error @ ProviderError::Ambiguous { .. }) => {
                error.asked_wait().max(self.rest_after_loss(sent_at))
            }
            Some(_) => None,
        };
        self.last_failure = error.map(|error| (error.clone(), at));
        if let Some(rest) = rest.map(|rest| rest.min(LONGEST_REST)) {
            self.asked_to_rest_at = Some(now);
            self.background_rests_until = self.background_rests_until.max(Some(now + rest));
            let is_for_all = throttles_client && matches!(error, Some(ProviderError::RateLimited { .. }));
            if is_for_all {
                self.everybody_rests_until = self.everybody_rests_until.max(Some(now + rest));
            }
        }
    }

    /// One more answer was lost. Those that were under way when the last one was are of the same outage: they lengthen
    /// nothing.
    fn rest_after_loss(&mut self, sent_at: Option<Instant>) -> Option<Duration> {
        if self.lost > 0 && sent_at <= self.asked_to_rest_at {
            return None;
        }
        let rest = (FIRST_LOSS_REST * 2_u32.pow(self.lost.min(8))).min(LONGEST_LOSS_REST);
        self.lost = self.lost.saturating_add(1);
        self.is_doubt_possible.then_some(rest)
    }

    /// Takes out of the line whoever may go, and whoever waits in vain.
    pub(super) fn serve(&mut self, now: Instant) -> Vec<Served> {
        let mut served = Vec::new();
        for urgency in [Urgency::Ahead, Urgency::Waiting, Urgency::Rescue] {
            let rest = self.rest(urgency, now);
            let queue = &mut self.waiting[urgency as usize];
            queue.retain(|ticket| !ticket.sender.is_closed());
            if rest > LONGEST_TURN {
                let error = ProviderError::RateLimited { retry_after: Some(rest) };
                served.extend(queue.drain(..).map(|ticket| (ticket, Err(error.clone()))));
            }
        }
        while let Some(urgency) = self.next(now) {
            let is_excepted = self.is_excepted(urgency);
            let pass = if is_excepted { Ok(self.breaker.wave_through()) } else { self.breaker.ask(now) };
            match pass {
                Ok(pass) => {
                    let Some(ticket) = self.waiting[urgency as usize].pop_front() else { break };
                    if urgency == Urgency::Ahead {
                        self.overtaken = 0;
                    } else if !self.waiting[Urgency::Ahead as usize].is_empty() {
                        // It is owed its turn also where it does not stand in line all the time.
                        self.overtaken = self.overtaken.saturating_add(1);
                    }
                    self.let_through[urgency as usize] += 1;
                    self.begin(urgency, Asker::Refresh);
                    served.push((ticket, Ok((pass, urgency))));
                }
                // Nobody waits in line for a rest of minutes to end.
                Err(resting) => {
                    let outage = self.outage(resting);
                    let kept = usize::from(self.is_excepted(Urgency::Rescue));
                    let queues = self.waiting.len() - kept;
                    let in_vain = self.waiting[..queues].iter_mut().flat_map(|queue| queue.drain(..));
                    let before = served.len();
                    served.extend(in_vain.map(|ticket| (ticket, Err(outage.clone()))));
                    self.refused += (served.len() - before) as u64;
                }
            }
        }
        self.send_away(now, &mut served);
        served
    }

    /// Sends those away who have stood in line for as long as anybody does. Each is told to come back when its turn would
    /// come if all stood on, at the pace at which others were let through while it stood: so they come back one after the
    /// other, and not all at once to be sent away again.
    fn send_away(&mut self, now: Instant, served: &mut Vec<Served>) {
        for urgency in [Urgency::Ahead, Urgency::Waiting] {
            let mut nth = 0;
            while self.waiting[urgency as usize].front().is_some_and(|ticket| ticket.until <= now) {
                let Some(ticket) = self.waiting[urgency as usize].pop_front() else { break };
                let let_through = self.let_through[urgency as usize] - ticket.let_through;
                // Fewer than there are places: they are slow, and how slow is not known yet.
                let pace = usize::try_from(let_through).unwrap_or(usize::MAX).max(self.places);
                let rounds = u32::try_from(1 + nth / pace).unwrap_or(u32::MAX);
                let turn = LONGEST_TURN.saturating_mul(rounds).min(LONGEST_AWAY);
                let paid =
                    self.purse.when(nth + self.kept_from(urgency) + 1, now).saturating_duration_since(now);
                nth += 1;
                let is_paid = self.purse.left(now) > self.kept_from(urgency);
                let limit = if is_paid { "max_parallel_refresh" } else { "token_budget" };
                let error = ProviderError::NoTurn { limit, retry_after: turn.max(paid) };
                served.push((ticket, Err(error)));
            }
        }
    }

    /// When somebody must look at the line again because time alone will change it; `None`: never, or it is seen to.
    pub(super) fn next_look(&mut self, now: Instant) -> Option<Instant> {
        let mut looks_at: Option<Instant> = None;
        for urgency in [Urgency::Ahead, Urgency::Waiting, Urgency::Rescue] {
            let Some(until) = self.waiting[urgency as usize].front().map(|ticket| ticket.until) else {
                continue;
            };
            let (may_pay_at, sent_away_at) = match urgency {
                Urgency::Rescue => (now, None),
                Urgency::Ahead | Urgency::Waiting => {
                    (self.purse.when(1 + self.kept_from(urgency), now), Some(until))
                }
            };
            let may_go_at = may_pay_at.max(now + self.rest(urgency, now));
            // Whoever is kept by something else than time is looked at when that changes.
            let free_at = (self.has_place(urgency) && may_go_at > now).then_some(may_go_at);
            looks_at = [looks_at, free_at, sent_away_at].into_iter().flatten().min();
        }
        let at = looks_at?.max(now + Duration::from_millis(1));
        if self.next_look.is_some_and(|planned| planned <= at) {
            return None;
        }
        self.next_look = Some(at);
        self.next_look
    }

    /// Somebody looked who had meant to at `at`.
    pub(super) fn looked(&mut self, at: Instant) {
        if self.next_look.is_some_and(|planned| planned <= at) {
            self.next_look = None;
        }
    }

    /// Whose turn it is.
    fn next(&mut self, now: Instant) -> Option<Urgency> {
        let is_waiting = |queue: &Line, urgency: Urgency| !queue.waiting[urgency as usize].is_empty();
        // It overdraws the budget: the time in which it saves a grant may be over before there is any again. What it takes
        // the others lack afterwards.
        if is_waiting(self, Urgency::Rescue) && self.has_place(Urgency::Rescue) {
            return Some(Urgency::Rescue);
        }
        if !self.has_place(Urgency::Waiting) {
            return None;
        }
        let left = self.purse.left(now);
        if left == 0 {
            return None;
        }
        let is_ahead_due = is_waiting(self, Urgency::Ahead) && self.rest(Urgency::Ahead, now).is_zero();
        let has_caller = is_waiting(self, Urgency::Waiting) && self.rest(Urgency::Waiting, now).is_zero();
        if has_caller && !(is_ahead_due && self.overtaken >= PATIENCE) {
            return Some(Urgency::Waiting);
        }
        // The last place and the last of the budget are a caller's, unless it was passed over too often.
        let has_room = self.background + 1 < self.places || self.places == 1;
        let may_go = (has_room && left > self.purse.reserve()) || self.overtaken >= PATIENCE;
        (is_ahead_due && may_go).then_some(Urgency::Ahead)
    }

    /// Whether one more may be under way. The place of a first try is somebody else's by the time its lost answer is asked for
    /// again, and may be until the grant is gone. So a rescue goes beyond the places, by as many as there are: each of them
    /// loses one answer at a time. Consents wait for nobody, and keep no rescue waiting.
    fn has_place(&self, urgency: Urgency) -> bool {
        match urgency {
            Urgency::Rescue => self.under_way.saturating_sub(self.uncalled) < self.places.saturating_mul(2),
            Urgency::Waiting | Urgency::Ahead => self.under_way < self.places,
        }
    }

    /// Whether the breaker is passed whatever its state. A client that is refused saves no grant, and to go on with wrong
    /// credentials may have it locked: then a rescue waits for its turn to try like everybody.
    fn is_excepted(&self, urgency: Urgency) -> bool {
        urgency == Urgency::Rescue && !self.breaker.refuses_everybody()
    }

    /// What of the budget is not for it.
    fn kept_from(&self, urgency: Urgency) -> usize {
        if urgency == Urgency::Ahead { self.purse.reserve() } else { 0 }
    }

    fn rest(&self, urgency: Urgency, now: Instant) -> Duration {
        let rests = match urgency {
            Urgency::Rescue => None,
            Urgency::Waiting => self.everybody_rests_until,
            Urgency::Ahead => self.background_rests_until.max(self.everybody_rests_until),
        };
        rests.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn outage(&self, resting: Resting) -> ProviderError {
        ProviderError::CircuitOpen {
            retry_after: resting.retry_after,
            outage: Box::new(Outage {
                host: None,
                failures: self.breaker.streak(),
                within: self.breaker.streak_took(),
                last: self.last_failure.as_ref().map(|(error, _)| error.clone()),
                refused: self.refused,
            }),
        }
    }
}
