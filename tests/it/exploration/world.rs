//! One world: the store, the provider, two replicas, what is on the wire, and the time. Every step that something in it
//! can take makes another world. Time passes only when nobody has anything to do at once: who does not act although it
//! could, is paused, and that is a fault.

use std::fmt::Write as _;
use std::time::Duration;

use token_broker::clock::Timestamp;
use token_broker::connection::reuse::{Reuse, ReuseProfile};
use token_broker::connection::{
    Connection, ConnectionId, Holder, Intent, IssuedTokens, Moment, Scopes, Status, Step, Verdict,
};
use token_broker::error::{AmbiguousCause, OAuthCode, ProviderError};
use token_broker::secret::Secret;

use super::scheme::Scheme;

const T0: Timestamp = Timestamp::from_millis(1_000_000_000);
const LIFE: Duration = Duration::from_secs(300);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any lease, shorter than the access token's life.
const PAUSE: Duration = Duration::from_secs(60);
/// Longer than the pause: the table speaks of a retry inside the window.
const GRACE: Duration = Duration::from_secs(120);
/// How long the lock of the TTL scheme lasts.
const TTL: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Reusable,
    Grace,
    /// A spent token is refused, and the grant lives on.
    Refusing,
    /// A spent token ends the grant.
    Strict,
}

/// One of these comes at most once, at any step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    /// A replica forgets all that is not stored, and starts anew.
    Crash,
    /// A request or an answer is lost.
    Message,
    /// A replica stands still for longer than a lease.
    Pause,
}

/// The provider. Refresh tokens are numbers: `newest` is the good one.
#[derive(Clone, Debug)]
struct Provider {
    kind: Kind,
    newest: u32,
    rotated_at: Option<Timestamp>,
    is_dead: bool,
}

impl Provider {
    fn refresh(&mut self, presented: u32, now: Timestamp) -> Result<u32, ()> {
        match self.kind {
            _ if self.is_dead => return Err(()),
            Kind::Reusable => self.newest += 1,
            _ if presented == self.newest => {
                self.newest += 1;
                self.rotated_at = Some(now);
            }
            Kind::Grace if self.takes_previous(presented, now) => {}
            Kind::Refusing => return Err(()),
            Kind::Grace | Kind::Strict => {
                self.is_dead = true;
                return Err(());
            }
        }
        Ok(self.newest)
    }

    fn takes_previous(&self, presented: u32, now: Timestamp) -> bool {
        self.kind == Kind::Grace
            && presented + 1 == self.newest
            && self.rotated_at.is_some_and(|at| now < at + GRACE)
    }

    fn would_take(&self, presented: u32, now: Timestamp) -> bool {
        !self.is_dead
            && (self.kind == Kind::Reusable
                || presented == self.newest
                || self.takes_previous(presented, now))
    }
}

/// Where a replica is.
#[derive(Debug)]
enum At {
    /// About to look.
    Idle,
    /// It looked, and may send until that time is over. `None` in the attempt: a scheme without intents.
    Ready { attempt: Option<Intent>, presented: u32, deadline: Timestamp },
    /// It read a record and is about to write the intent.
    Read { record: Box<Connection>, revision: u32 },
    /// Its request has left.
    Sent { attempt: Option<Intent>, deadline: Timestamp },
    /// It knows the outcome and has not stored it.
    Came { attempt: Option<Intent>, outcome: Result<u32, bool> },
    /// It read the record once more and is about to write.
    Storing { attempt: Intent, outcome: Result<u32, bool>, record: Box<Connection>, revision: u32 },
    /// It has what it wanted, or knows that it cannot.
    Done,
}

#[derive(Debug)]
struct Replica {
    at: At,
    holder: u64,
    paused_until: Option<Timestamp>,
    /// An answer that has arrived and was not looked at.
    answer: Option<Result<u32, ()>>,
}

/// A request on the wire.
#[derive(Clone, Debug)]
struct Request {
    from: usize,
    /// The run that sent it: an answer to one that is no more reaches nobody.
    holder: u64,
    presented: u32,
}

#[derive(Debug)]
pub(super) struct World {
    scheme: Scheme,
    fault: Option<Fault>,
    now: Timestamp,
    /// One store, or one for each replica where nothing is shared.
    stores: Vec<Connection>,
    revision: u32,
    /// Which run holds the lock, and until when.
    lock: Option<(u64, Timestamp)>,
    provider: Provider,
    replicas: [Replica; 2],
    wire: Vec<Request>,
    was_on_the_wire: bool,
}

fn token(number: u32) -> IssuedTokens {
    IssuedTokens {
        access_token: Secret::new(format!("at-{number}")),
        token_type: "Bearer".into(),
        expires_in: Some(LIFE),
        refresh_token: Some(Secret::new(format!("rt-{number}"))),
        refresh_expires_in: None,
        scopes: None,
        account: None,
        variables: Default::default(),
    }
}

fn number(connection: &Connection) -> u32 {
    let tokens = connection.tokens.as_ref().unwrap();
    tokens.refresh.as_ref().unwrap().value.expose()[3..].parse().unwrap()
}

impl World {
    pub(super) fn new(scheme: Scheme, kind: Kind, fault: Option<Fault>) -> Self {
        let record = || {
            let id = ConnectionId::parse(String::new(), "p".into(), "c".into()).unwrap();
            Connection::pending(id, T0).imported(token(0).into_set(None, T0), Scopes::default(), T0)
        };
        let stores = if scheme == Scheme::Nothing { vec![record(), record()] } else { vec![record()] };
        let replica = |holder| Replica {
            at: if holder > scheme.nodes() as u64 { At::Done } else { At::Idle },
            holder,
            paused_until: None,
            answer: None,
        };
        Self {
            scheme,
            fault,
            now: T0,
            stores,
            revision: 0,
            lock: None,
            provider: Provider { kind, newest: 0, rotated_at: None, is_dead: false },
            replicas: [replica(1), replica(2)],
            wire: Vec::new(),
            was_on_the_wire: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.replicas.iter().all(|replica| matches!(replica.at, At::Done)) && self.wire.is_empty()
    }

    /// Whether some store ended with a refresh token that will never work again.
    pub(super) fn is_lost(&self) -> bool {
        self.stores.iter().any(|store| !self.provider.would_take(number(store), self.now))
    }

    /// Whether some store calls a grant dead whose refresh token, as it is stored, still works.
    pub(super) fn is_falsely_dead(&self) -> bool {
        let is_dead = |store: &&Connection| store.profile.status == Status::ReauthRequired;
        self.stores.iter().filter(is_dead).any(|store| self.provider.would_take(number(store), self.now))
    }

    pub(super) fn was_on_the_wire(&self) -> bool {
        self.was_on_the_wire
    }

    /// Every world that one step leads to.
    pub(super) fn successors(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for who in 0..2 {
            next.extend(self.act(who));
        }
        for at in 0..self.wire.len() {
            next.push(self.delivered(at));
        }
        // What is prompt comes before the time moves on; but what a dead or standing replica sent may linger.
        let is_prompt = !next.is_empty() && !self.wire_may_linger(next.len());
        if !is_prompt {
            next.extend(self.later());
        }
        next.extend(self.faults());
        next
    }

    fn wire_may_linger(&self, steps: usize) -> bool {
        let lingers = |request: &Request| {
            let sender = &self.replicas[request.from];
            sender.holder != request.holder || sender.paused_until.is_some_and(|until| until > self.now)
        };
        steps == self.wire.len() && self.wire.iter().all(lingers) && !self.wire.is_empty()
    }

    fn reuse(&self) -> ReuseProfile {
        let reuse = match self.provider.kind {
            Kind::Reusable => Reuse::Reusable,
            Kind::Grace => Reuse::Grace { window: GRACE, max_uses: 9 },
            Kind::Refusing | Kind::Strict => Reuse::Strict,
        };
        ReuseProfile { reuse, token_timeout: TIMEOUT, ..ReuseProfile::default() }
    }

    fn store(&self, who: usize) -> &Connection {
        &self.stores[who % self.stores.len()]
    }

    /// What the scheme lets a replica do that wants a fresh token.
    fn step(&self, who: usize) -> Step {
        let record = self.store(who);
        match self.scheme {
            Scheme::Hasty if record.profile.status == Status::ReauthRequired => Step::NotServing,
            Scheme::Nothing | Scheme::TtlLock | Scheme::Hasty | Scheme::RowLock => match self.lock {
                Some((owner, until)) if owner != self.replicas[who].holder => {
                    let until = if self.scheme == Scheme::RowLock { T0 + LIFE * 9 } else { until };
                    if until <= self.now {
                        return Step::Send;
                    }
                    Step::Wait { until, why: token_broker::connection::Waiting::Outcome }
                }
                _ => Step::Send,
            },
            Scheme::Takeover => match &record.profile.intent {
                _ if record.profile.status == Status::ReauthRequired => Step::NotServing,
                Some(intent) if intent.until() > self.now => {
                    Step::Wait { until: intent.until(), why: token_broker::connection::Waiting::Outcome }
                }
                _ => Step::Send,
            },
            Scheme::ManyNodes | Scheme::OneNode => {
                let reuse = self.reuse();
                record.profile.step(&self.moment(who, &reuse), false)
            }
        }
    }

    fn moment<'a>(&self, who: usize, reuse: &'a ReuseProfile) -> Moment<'a> {
        Moment {
            now: self.now,
            holder: Holder(self.replicas[who].holder),
            others: self.scheme.others(),
            reuse,
        }
    }

    /// The steps that a replica can take at once.
    fn act(&self, who: usize) -> Option<Self> {
        let replica = &self.replicas[who];
        if replica.paused_until.is_some_and(|until| until > self.now) {
            return None;
        }
        let mut next = self.copy();
        next.replicas[who].paused_until = None;
        match &replica.at {
            At::Done => return None,
            At::Idle if self.store(who).profile.generation > 1 => next.finish(who),
            At::Idle => match self.step(who) {
                Step::Wait { .. } => return None,
                Step::NotServing | Step::Unrefreshable => next.finish(who),
                Step::Send if self.scheme.has_intent() => {
                    let record = Box::new(self.store(who).copy());
                    next.replicas[who].at = At::Read { record, revision: self.revision };
                }
                Step::Send => {
                    let owner = replica.holder;
                    next.lock = (self.scheme != Scheme::Nothing).then_some((owner, self.now + TTL));
                    let (presented, deadline) = (number(self.store(who)), self.now + TIMEOUT);
                    next.replicas[who].at = At::Ready { attempt: None, presented, deadline };
                }
            },
            At::Read { record, revision } => {
                if *revision != self.revision {
                    next.replicas[who].at = At::Idle;
                    return Some(next);
                }
                let reuse = self.reuse();
                let attempt_id = record.profile.fence * 100 + replica.holder;
                let begun = record.copy().begun(attempt_id, &self.moment(who, &reuse));
                let attempt = begun.profile.intent.clone();
                let (presented, deadline) = (number(&begun), self.now + TIMEOUT);
                next.write(begun);
                next.replicas[who].at = At::Ready { attempt, presented, deadline };
            }
            At::Ready { attempt, presented, deadline } => {
                // The check and the write to the socket are one step: nothing leaves after its deadline. A scheme that
                // does not check sends whenever it wakes.
                if self.scheme.has_intent() && self.now >= *deadline {
                    let attempt = attempt.clone().unwrap();
                    let landed = self.store(who).copy().unsent(&attempt, self.now);
                    if landed.verdict.is_change() {
                        next.write(landed.connection);
                    }
                    next.replicas[who].at = At::Idle;
                    return Some(next);
                }
                next.wire.push(Request { from: who, holder: replica.holder, presented: *presented });
                let deadline = self.now + TIMEOUT;
                next.replicas[who].at = At::Sent { attempt: attempt.clone(), deadline };
            }
            At::Sent { attempt, deadline } => {
                let outcome = match &replica.answer {
                    Some(answer) => answer.map_err(|()| true),
                    None if self.now >= *deadline => Err(false),
                    None => return None,
                };
                next.replicas[who].answer = None;
                next.replicas[who].at = At::Came { attempt: attempt.clone(), outcome };
            }
            At::Came { attempt: Some(attempt), outcome } => {
                let record = Box::new(self.store(who).copy());
                next.replicas[who].at = At::Storing {
                    attempt: attempt.clone(),
                    outcome: *outcome,
                    record,
                    revision: self.revision,
                };
            }
            At::Storing { attempt, outcome, record, revision } => {
                if *revision != self.revision {
                    next.replicas[who].at = At::Came { attempt: Some(attempt.clone()), outcome: *outcome };
                    return Some(next);
                }
                let outcome = match outcome {
                    Ok(number) => Ok(token(*number)),
                    Err(true) => Err(ProviderError::Denied(OAuthCode::new("invalid_grant"))),
                    Err(false) => Err(ProviderError::Ambiguous { cause: AmbiguousCause::Timeout }),
                };
                let reuse = self.reuse();
                let landed = record.copy().landed(attempt, &outcome, &self.moment(who, &reuse), 1000);
                if landed.verdict != Verdict::Superseded {
                    next.write(landed.connection);
                }
                next.replicas[who].at = At::Idle;
            }
            At::Came { attempt: None, outcome } => {
                match outcome {
                    // A blind write: whatever stands there is written over.
                    Ok(number) => {
                        let at = who % self.stores.len();
                        let stood = &self.stores[at];
                        let tokens = token(*number).into_set(None, self.now);
                        next.stores[at] = stood.copy().imported(tokens, Scopes::default(), self.now);
                    }
                    Err(_) if self.scheme == Scheme::Hasty => {
                        next.stores[0].profile.status = Status::ReauthRequired;
                        next.finish(who);
                        return Some(next);
                    }
                    Err(true) => {
                        next.finish(who);
                        return Some(next);
                    }
                    Err(false) => {}
                }
                next.unlock(who);
                next.replicas[who].at = At::Idle;
            }
        }
        Some(next)
    }

    fn write(&mut self, connection: Connection) {
        self.stores[0] = connection;
        self.revision += 1;
    }

    fn unlock(&mut self, who: usize) {
        let holder = self.replicas[who].holder;
        self.lock = self.lock.filter(|(owner, _)| *owner != holder);
    }

    fn finish(&mut self, who: usize) {
        self.unlock(who);
        self.replicas[who].at = At::Done;
    }

    /// The provider takes a request, and its answer arrives where somebody waits for it.
    fn delivered(&self, at: usize) -> Self {
        let mut next = self.copy();
        let request = next.wire.remove(at);
        let answer = next.provider.refresh(request.presented, self.now);
        let sender = &mut next.replicas[request.from];
        if sender.holder == request.holder && matches!(sender.at, At::Sent { .. }) {
            sender.answer = Some(answer);
        }
        next
    }

    /// The next time at which somebody has something to do.
    fn later(&self) -> Option<Self> {
        let mut times: Vec<Timestamp> = Vec::new();
        for (who, replica) in self.replicas.iter().enumerate() {
            if let Some(until) = replica.paused_until.filter(|until| *until > self.now) {
                times.push(until);
                continue;
            }
            match &replica.at {
                At::Sent { deadline, .. } => times.push(*deadline),
                At::Idle => {
                    if let Step::Wait { until, .. } = self.step(who) {
                        times.push(until);
                    }
                }
                _ => {}
            }
        }
        let soonest = times.into_iter().filter(|at| *at > self.now).min()?;
        // What has left arrives, or is lost, before the lease of its sender is over.
        let lingers_until = T0 + TIMEOUT + token_broker::connection::CLOCK_MARGIN;
        if !self.wire.is_empty() && soonest > lingers_until {
            return None;
        }
        let mut next = self.copy();
        next.now = soonest;
        Some(next)
    }

    /// The worlds in which the fault comes now.
    fn faults(&self) -> Vec<Self> {
        let Some(fault) = self.fault else { return Vec::new() };
        let spend = || Self { fault: None, ..self.copy() };
        let mut next = Vec::new();
        match fault {
            Fault::Crash => {
                for who in 0..2 {
                    if matches!(self.replicas[who].at, At::Done) {
                        continue;
                    }
                    let mut world = spend();
                    let replica = &self.replicas[who];
                    let is_on_the_wire =
                        matches!(replica.at, At::Sent { .. } | At::Came { .. } | At::Storing { .. });
                    world.was_on_the_wire |= is_on_the_wire;
                    let holder = replica.holder + 10;
                    // The database lets go of what a lost connection held; a lock with a time does not.
                    if self.scheme == Scheme::RowLock {
                        world.unlock(who);
                    }
                    world.replicas[who] = Replica { at: At::Idle, holder, paused_until: None, answer: None };
                    next.push(world);
                }
            }
            Fault::Message => {
                for at in 0..self.wire.len() {
                    // The request: the provider never saw it.
                    let mut world = spend();
                    world.wire.remove(at);
                    next.push(world);
                    // The answer.
                    let mut world = Self { fault: None, ..self.delivered(at) };
                    world.replicas[self.wire[at].from].answer = None;
                    world.was_on_the_wire = true;
                    next.push(world);
                }
            }
            Fault::Pause => {
                for who in 0..2 {
                    if matches!(self.replicas[who].at, At::Done) {
                        continue;
                    }
                    let mut world = spend();
                    world.replicas[who].paused_until = Some(self.now + PAUSE);
                    next.push(world);
                }
            }
        }
        next
    }

    /// What tells this world from another, as far as anything that can still happen depends on it.
    pub(super) fn key(&self) -> String {
        let mut key = format!(
            "{:?} {} {:?} {:?} {:?} {} {}",
            self.fault,
            self.now.as_millis(),
            self.lock,
            self.provider,
            self.wire,
            self.was_on_the_wire,
            self.revision
        );
        let record = |key: &mut String, connection: &Connection| {
            let profile = &connection.profile;
            let _ = write!(
                key,
                " [{:?} {} {} {:?} {:?} {} {:?} {}]",
                profile.status,
                profile.generation,
                profile.fence,
                profile.intent,
                profile.backoff,
                profile.denials,
                profile.expires_at,
                number(connection)
            );
        };
        for store in &self.stores {
            record(&mut key, store);
        }
        for replica in &self.replicas {
            let _ = write!(key, " | {} {:?} {:?} ", replica.holder, replica.paused_until, replica.answer);
            match &replica.at {
                At::Read { record: read, revision } => {
                    let _ = write!(key, "read {revision}");
                    record(&mut key, read);
                }
                At::Storing { attempt, outcome, record: read, revision } => {
                    let _ = write!(key, "storing {attempt:?} {outcome:?} {revision}");
                    record(&mut key, read);
                }
                at => {
                    let _ = write!(key, "{at:?}");
                }
            }
        }
        key
    }

    fn copy(&self) -> Self {
        let replica = |replica: &Replica| Replica {
            at: replica.at.copy(),
            holder: replica.holder,
            paused_until: replica.paused_until,
            answer: replica.answer,
        };
        Self {
            scheme: self.scheme,
            fault: self.fault,
            now: self.now,
            stores: self.stores.iter().map(Connection::copy).collect(),
            revision: self.revision,
            lock: self.lock,
            provider: self.provider.clone(),
            replicas: [replica(&self.replicas[0]), replica(&self.replicas[1])],
            wire: self.wire.clone(),
            was_on_the_wire: self.was_on_the_wire,
        }
    }
}

impl At {
    fn copy(&self) -> Self {
        match self {
            Self::Idle => Self::Idle,
            Self::Done => Self::Done,
            Self::Ready { attempt, presented, deadline } => {
                Self::Ready { attempt: attempt.clone(), presented: *presented, deadline: *deadline }
            }
            Self::Read { record, revision } => {
                Self::Read { record: Box::new(record.copy()), revision: *revision }
            }
            Self::Sent { attempt, deadline } => Self::Sent { attempt: attempt.clone(), deadline: *deadline },
            Self::Came { attempt, outcome } => Self::Came { attempt: attempt.clone(), outcome: *outcome },
            Self::Storing { attempt, outcome, record, revision } => Self::Storing {
                attempt: attempt.clone(),
                outcome: *outcome,
                record: Box::new(record.copy()),
                revision: *revision,
            },
        }
    }
}
