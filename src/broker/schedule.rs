//! What is to be done ahead of time, and when. Owns one queue a provider, ordered by deadline: finding what is due costs
//! nothing that grows with the number of connections, and none of them has a timer. Does not know tokens, stores or
//! requests; it is told of every change by [`Broker::keep`](super::Broker) and driven by `ahead`.
//!
//! Invariant: a connection is in its queue or in flight, never both, and one that must not be refreshed is in neither.

mod lane;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub(super) use lane::Verdict;
use lane::{Lane, Place};
pub(super) use plan::LEAST_GAP;
use plan::{NEVER, Plan};

use crate::clock::Timestamp;
use crate::connection::lifetimes::Lifetimes;
use crate::connection::{ConnectionId, Profile, ProviderKey};

/// What an operator may choose.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// A connection that nobody has asked for in so long is only kept alive.
    pub idle_after: Duration,
    /// How long before a grant ends for good its end is announced.
    pub warn_before: Duration,
}

impl Default for Ahead {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self { idle_after: 30 * DAY, warn_before: 7 * DAY }
    }
}

/// How long after a failure a connection is tried again, at first and at most; each wait is twice the one before, and
/// between half of it and all of it is waited.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A grant end that moved by more than this moves with every refresh: it is a sliding one, and no end.
const SLIDES: Duration = Duration::from_secs(60);

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Get a successor of the tokens of `generation`. Give back by [`Schedule::land`].
    Refresh {
        id: Arc<ConnectionId>,
        generation: u64,
        /// How long after it was due.
        lateness: Duration,
    },
    /// Say that the grant ends.
    Warn { id: Arc<ConnectionId>, ends_at: Timestamp },
}

/// What is known of one connection.
#[derive(Debug)]
struct Entry {
    plan: Plan,
    generation: u64,
    asked_at: Timestamp,
    /// Not tried again before, after a failure or a refresh.
    not_before: Timestamp,
    failures: u8,
    warning: Warning,
    /// How far the wall clock was set back since these tokens came: what their record says is by the clock before.
    set_back: Duration,
    /// Where it is in its queue; `None` while it is in flight.
    place: Option<Place>,
}

/// The end of a grant, and whether it was announced.
#[derive(Clone, Copy, Debug)]
struct Warning {
    /// The end that the provider last stated with a refresh token.
    stated: Timestamp,
    /// The end that is to be announced, or was; [`NEVER`] where there is none.
    ends_at: Timestamp,
    /// When; [`NEVER`] once it was.
    at: Timestamp,
    /// Where it is among those that are to be announced.
    place: Option<Place>,
}

impl Warning {
    /// The end that was announced and has not come yet.
    fn announced(&self, now: Timestamp) -> Option<Timestamp> {
        (self.at == NEVER && self.ends_at != NEVER && now < self.ends_at).then_some(self.ends_at)
    }

    /// Until when it must be remembered: who asks after it was announced is told, too.
    fn is_needed_until(&self, now: Timestamp) -> Timestamp {
        match self.place {
            Some((due, _)) => self.ends_at.max(due),
            None => self.announced(now).unwrap_or(NEVER),
        }
    }
}

impl Entry {
    fn is_asked_for(&self, ahead: &Ahead, now: Timestamp) -> bool {
        self.plan.is_ambiguous || now <= self.asked_at + ahead.idle_after
    }

    /// When its tokens are to be refreshed as things stand.
    fn refresh_due(&self, ahead: &Ahead, now: Timestamp) -> Timestamp {
        let at = if self.is_asked_for(ahead, now) {
            self.plan.refresh_at.min(self.plan.keep_alive_at)
        } else {
            self.plan.keep_alive_at
        };
        if at == NEVER { NEVER } else { at.max(self.not_before) }
    }
}

/// Every deadline there is.
#[derive(Debug)]
pub(super) struct Schedule {
    ahead: Ahead,
    lanes: BTreeMap<ProviderKey, Lane>,
    /// Ends that are to be announced: they wait for no provider, and so for no lane that rests.
    warnings: Lane,
    entries: HashMap<Arc<ConnectionId>, Entry>,
    /// While all are read: those that were forgotten since the page was asked for.
    left: Option<HashSet<ConnectionId>>,
}

impl Schedule {
    pub(super) fn new(ahead: Ahead) -> Self {
        let (lanes, entries) = (BTreeMap::new(), HashMap::new());
        Self { ahead, lanes, warnings: Lane::default(), entries, left: None }
    }

    /// Whether the connection has a place here or is in flight, or was to be left alone since [`Schedule::begin_page`]:
    /// what was read then is older than what is known.
    pub(super) fn knows(&self, id: &ConnectionId) -> bool {
        self.entries.contains_key(id) || self.left.as_ref().is_some_and(|left| left.contains(id))
    }

    /// Connections are about to be read, to be planned if they are not known.
    pub(super) fn begin_page(&mut self) {
        self.left = Some(HashSet::new());
    }

    /// All were read.
    pub(super) fn end_pages(&mut self) {
        self.left = None;
    }

    /// When the grant of a connection ends, from when that was announced until it does.
    pub(super) fn announced_end(&self, id: &ConnectionId, now: Timestamp) -> Option<Timestamp> {
        self.entries.get(id)?.warning.announced(now)
    }

    /// How many connections have a deadline or are in flight.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A connection is like this now. `may_try_at`: from when on its refresh token may be presented, if ever.
    /// `asked_at`: when a caller last asked for it in this run.
    pub(super) fn note(
        &mut self,
        profile: &Profile,
        lifetimes: &Lifetimes,
        may_try_at: Option<Timestamp>,
        asked_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        let known = self.entries.get(&profile.id);
        let is_new_generation = known.is_none_or(|known| known.generation != profile.generation);
        let set_back = known.filter(|_| !is_new_generation).map_or(Duration::ZERO, |known| known.set_back);
        let plan = may_try_at.and_then(|at| plan::plan(profile, lifetimes, set_back, at));
        let Some(plan) = plan else { return self.forget(&profile.id) };
        let warning = self.warning(profile, lifetimes, known);
        let outdated =
            known.and_then(|known| known.warning.place).filter(|place| warning.place != Some(*place));
        // Whoever consented or imported was there.
        let asked_at = asked_at
            .max(profile.asked_at)
            .max(profile.consented_at)
            .max(known.map(|known| known.asked_at))
            .unwrap_or(profile.created_at);
        let entry = Entry {
            plan,
            generation: profile.generation,
            asked_at,
            not_before: known
                .filter(|_| !is_new_generation)
                .map_or(Timestamp::from_millis(i64::MIN), |known| known.not_before),
            failures: known.filter(|_| !is_new_generation).map_or(0, |known| known.failures),
            warning,
            set_back,
            place: known.and_then(|known| known.place),
        };
        let is_in_flight = known.is_some_and(|known| known.place.is_none());
        // A caller's own refresh, not one of ours: the provider answers, whatever it said before.
        let is_answered = known.is_some()
            && !is_in_flight
            && is_new_generation
            && profile.refreshed_at == Some(profile.updated_at);
        let id = match self.entries.get_key_value(&profile.id) {
            Some((id, _)) => id.clone(),
            None => Arc::new(profile.id.clone()),
        };
        self.entries.insert(id.clone(), entry);
        if let Some(outdated) = outdated {
            self.warnings.remove(outdated);
        }
        self.put_warning(&id);
        if !is_in_flight {
            self.put(&id, now);
        }
        if is_answered && self.lanes.get_mut(&id.provider).is_some_and(Lane::answered) {
            self.spread(&id.provider, now);
        }
    }

    /// The connection is no more, or must be left alone.
    pub(super) fn forget(&mut self, id: &ConnectionId) {
        if let Some(left) = &mut self.left {
            left.insert(id.clone());
        }
        let Some(entry) = self.entries.remove(id) else { return };
        if let (Some(place), Some(lane)) = (entry.place, self.lanes.get_mut(&id.provider)) {
            lane.remove(place);
        }
        if let Some(place) = entry.warning.place {
            self.warnings.remove(place);
        }
    }

    /// The next thing to do, if any is due. `asked_at` says when a caller last asked for a connection.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        asked_at: impl Fn(&ConnectionId) -> Option<Timestamp>,
    ) -> Option<Job> {
        if let Some(warning) = self.take_warning(now) {
            return Some(warning);
        }
        loop {
            let id = self.lanes.values_mut().find_map(|lane| lane.take(now))?;
            let ahead = self.ahead;
            let Some(entry) = self.entries.get_mut(&id) else {
                self.give_back(&id);
                continue;
            };
            entry.place = None;
            entry.asked_at = entry.asked_at.max(asked_at(&id).unwrap_or(entry.asked_at));
            let due = entry.refresh_due(&ahead, now);
            if due <= now {
                let generation = entry.generation;
                return Some(Job::Refresh { id, generation, lateness: due.until(now) });
            }
            self.give_back(&id);
            self.put(&id, now);
        }
    }

    fn take_warning(&mut self, now: Timestamp) -> Option<Job> {
        let id = self.warnings.take(now)?;
        self.warnings.give_back();
        let warning = &mut self.entries.get_mut(&id)?.warning;
        (warning.at, warning.place) = (NEVER, None);
        let ends_at = warning.ends_at;
        Some(Job::Warn { id, ends_at })
    }

    /// When [`Schedule::take`] is worth asking again; `None`: not before something changes.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.lanes.values().chain([&self.warnings]).filter_map(Lane::next_due).min()
    }

    /// A refresh that was taken has ended. What it changed was noted before.
    pub(super) fn land(&mut self, id: &Arc<ConnectionId>, is_done: bool, verdict: Verdict, now: Timestamp) {
        if let Some(lane) = self.lanes.get_mut(&id.provider)
            && lane.land(verdict, now)
        {
            self.spread(&id.provider, now);
        }
        let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.place.is_none()) else { return };
        let wait = if is_done {
            entry.failures = 0;
            LEAST_GAP
        } else if let Verdict::NoTurn { after } = verdict {
            after
        } else {
            let longest = (FIRST_WAIT * 2_u32.pow(u32::from(entry.failures.min(16)))).min(LONGEST_WAIT);
            entry.failures = entry.failures.saturating_add(1);
            longest / 2 + plan::jitter(id).of(longest / 2)
        };
        entry.not_before = entry.not_before.max(now + wait);
        self.put(id, now);
    }

    /// What is overdue everywhere is done one after the other from `now` on: after a start, or when time jumped.
    pub(super) fn spread_all(&mut self, now: Timestamp) {
        for provider in self.lanes.keys().cloned().collect::<Vec<_>>() {
            self.spread(&provider, now);
        }
        for (id, place) in self.warnings.spread(now) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.warning.place = Some(place);
            }
        }
    }

    /// The wall clock was set back by `span`.
    pub(super) fn shift(&mut self, span: Duration) {
        let earlier = |at: &mut Timestamp| {
            if *at != NEVER {
                *at = *at - span;
            }
        };
        self.lanes.values_mut().chain([&mut self.warnings]).for_each(|lane| lane.shift(span));
        for entry in self.entries.values_mut() {
            earlier(&mut entry.plan.refresh_at);
            earlier(&mut entry.plan.keep_alive_at);
            earlier(&mut entry.warning.at);
            entry.not_before = entry.not_before - span;
            entry.set_back += span;
            for (due, _) in entry.place.iter_mut().chain(&mut entry.warning.place) {
                *due = *due - span;
            }
        }
    }

    /// How many of a provider's connections are due and not under way.
    pub(super) fn overdue(&self, now: Timestamp) -> impl Iterator<Item = (&ProviderKey, usize)> {
        self.lanes.iter().map(move |(provider, lane)| (provider, lane.overdue(now)))
    }

    fn warning(&self, profile: &Profile, lifetimes: &Lifetimes, known: Option<&Entry>) -> Warning {
        let stated = profile.refresh_expires_at.unwrap_or(NEVER);
        let before = known.map(|known| known.warning);
        // An end that stayed where it was although the tokens are new ones is a real one.
        let is_fixed = known.is_some_and(|known| {
            known.warning.stated != NEVER
                && stated != NEVER
                && (known.generation == profile.generation && known.warning.ends_at == stated
                    || known.generation != profile.generation && stated <= known.warning.stated + SLIDES)
        });
        let ends = plan::absolute_end(profile, lifetimes).into_iter().chain(is_fixed.then_some(stated));
        let Some(ends_at) = ends.min() else {
            return Warning { stated, ends_at: NEVER, at: NEVER, place: None };
        };
        if let Some(before) = before.filter(|before| is_about(before.ends_at, ends_at)) {
            return Warning { stated, ..before };
        }
        // Where the whole grant lives for days, its owner is not bothered for most of them.
        let life = profile.consented_at.unwrap_or(profile.created_at).until(ends_at);
        Warning { stated, ends_at, at: ends_at - self.ahead.warn_before.min(life / 4), place: None }
    }

    fn spread(&mut self, provider: &ProviderKey, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(provider) else { return };
        for (id, place) in lane.spread(now) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.place = Some(place);
            }
        }
    }

    fn give_back(&mut self, id: &ConnectionId) {
        if let Some(lane) = self.lanes.get_mut(&id.provider) {
            lane.give_back();
        }
    }

    /// Puts the end of a grant among those that are to be announced, where it is not there and was not announced.
    fn put_warning(&mut self, id: &Arc<ConnectionId>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.warning.place.is_none() && entry.warning.at != NEVER {
            entry.warning.place = Some(self.warnings.insert(entry.warning.at, id.clone()));
        }
    }

    /// Puts a connection where it belongs in its queue.
    fn put(&mut self, id: &Arc<ConnectionId>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let due = entry.refresh_due(&self.ahead, now).min(entry.warning.is_needed_until(now));
        if !self.lanes.contains_key(&id.provider) {
            self.lanes.insert(id.provider.clone(), Lane::default());
        }
        let Some(lane) = self.lanes.get_mut(&id.provider) else { return };
        if let Some(place) = entry.place.take() {
            lane.remove(place);
        }
        if due == NEVER {
            // Nobody asks for it, nothing keeps it alive and no end is ahead: a caller's own refresh brings it back.
            self.entries.remove(id);
            return;
        }
        entry.place = Some(lane.insert(due, id.clone()));
    }
}

/// Whether two ends are one, told in whole seconds at different moments.
fn is_about(one: Timestamp, other: Timestamp) -> bool {
    one.until(other).max(other.until(one)) <= SLIDES
}
