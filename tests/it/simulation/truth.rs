//! The ground truth: what the provider issued to whom and when, what was presented, and what must hold at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use token_broker::clock::{Clock as _, Timestamp};
use token_broker::connection::reuse::{Reuse, ReuseProfile};
use token_broker::connection::{Connection, ConnectionId, RefreshToken, Status};
use token_broker::error::{OAuthCode, ProviderError};
use token_broker::store::TokenStore as _;
use token_broker::store::memory::MemoryStore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::ended::Arrival;
use super::world::{Dice, SimClock};

pub(super) const LIFE: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(5);
/// After a fault the next requests go well for so long: invariants speak of one fault at a time.
const MERCY: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reusable,
    Grace,
    Strict,
}

/// One grant as the provider knows it.
#[derive(Debug, Default)]
pub(super) struct Grant {
    pub(super) newest: u32,
    rotated_at: Option<Instant>,
    pub(super) is_dead: bool,
    /// A request was processed and its answer reached nobody.
    pub(super) lost_an_answer: bool,
    /// The newest refresh token that arrived at a living broker.
    pub(super) delivered: u32,
    pub(super) revoked: BTreeSet<u32>,
    /// Requests under way, by the number of the token they present.
    pub(super) under_way: BTreeMap<u32, u32>,
    /// Tokens that were presented and answered with success.
    pub(super) answered: BTreeSet<u32>,
    /// How often each token was presented.
    pub(super) presented: BTreeMap<u32, u32>,
    /// Which tokens were presented when each was issued.
    won_with: BTreeMap<u32, BTreeSet<u32>>,
    /// When each access token was issued, and to which run of the broker.
    issued: BTreeMap<u32, (Instant, u64)>,
    /// The newest token whose answer a run of the broker has had, and when.
    arrived: BTreeMap<u64, (u32, Instant)>,
}

/// What was met, so that nothing is tried in vain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    /// Refreshes under way whose last caller hung up.
    pub(super) abandoned: u64,
    /// Settings of the clock while a request was under way.
    pub(super) jumps_under_way: u64,
    /// Tokens that came when the grant that they belong to had been replaced.
    pub(super) stale: u64,
    /// Crowds that asked for one successor at once.
    pub(super) crowds: u64,
    /// Times at which all places at the provider were taken.
    pub(super) full: u64,
    /// Requests that were to show whether the provider is back.
    pub(super) probes: u64,
    /// Requests that nobody had asked for, ahead of expiry.
    pub(super) ahead: u64,
    /// Answers that asked to wait.
    pub(super) waits: u64,
    /// Looks for a token that its provider had ended, between its successor's arrival and that one's being durable.
    pub(super) between: u64,
    /// Tokens that were served although their provider had ended them, which the broker could not know.
    pub(super) in_doubt: u64,
}

impl Met {
    pub(super) fn add(&mut self, more: Self) {
        self.abandoned += more.abandoned;
        self.jumps_under_way += more.jumps_under_way;
        self.stale += more.stale;
        self.crowds += more.crowds;
        self.full += more.full;
        self.probes += more.probes;
        self.ahead += more.ahead;
        self.waits += more.waits;
        self.between += more.between;
        self.in_doubt += more.in_doubt;
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { abandoned, jumps_under_way, stale, crowds, full, probes, ahead, waits, between, in_doubt } =
            self;
        write!(
            f,
            "{abandoned} abandoned, {stale} replaced and {jumps_under_way} met by a jump of the clock, {crowds} for a \
             crowd, {full} that took the last place, {probes} probes, {ahead} let through ahead, {waits} waits asked for, \
             {between} looks for an ended token before its successor was durable, {in_doubt} ended tokens served in doubt"
        )
    }
}

/// What all runs of the broker share.
pub(super) struct Truth {
    pub(super) kind: Kind,
    /// Whether the provider ends the access tokens before a refresh when it carries it out. The broker is told so of all.
    pub(super) ends_old: bool,
    pub(super) dice: Arc<Dice>,
    pub(super) clock: Arc<SimClock>,
    pub(super) disk: Arc<MemoryStore>,
    /// By name; see [`owner`].
    pub(super) grants: Mutex<BTreeMap<String, Grant>>,
    /// Which grant of each connection was stored last.
    pub(super) stored: Mutex<BTreeMap<String, String>>,
    pub(super) broken: Mutex<Vec<String>>,
    pub(super) requests: Mutex<u64>,
    /// Requests whose answer a run of the broker waits for, by connection and run.
    awaited: Mutex<BTreeMap<(String, u64), u32>>,
    pub(super) met: Mutex<Met>,
    mercy_until: Mutex<Option<Instant>>,
    /// Until when the provider has asked a living broker to wait with a refresh of a grant, or with a revocation of a token.
    told: Mutex<BTreeMap<String, Told>>,
    /// Whoever wants to hear of each answer that a run has.
    pub(super) arrivals: Mutex<Option<UnboundedSender<Arrival>>>,
    /// No more faults.
    pub(super) is_calm: AtomicBool,
    /// Nobody reaches the provider.
    pub(super) is_down: AtomicBool,
}

/// The end of a wait, by a clock that nobody sets and by the one on the wall.
#[derive(Clone, Copy, Debug)]
struct Told {
    until: Instant,
    by_the_wall: Timestamp,
}

/// Whose a grant is: that of `c1` are `c1`, and after each further consent `c1@1`, `c1@2`.
pub(super) fn owner(grant: &str) -> &str {
    grant.split('@').next().unwrap()
}

fn consents(grant: &str) -> u32 {
    grant.split_once('@').map_or(0, |(_, count)| count.parse().unwrap())
}

/// The grant and the number of a token, as it is written: `rt-c1@2-17`.
pub(super) fn split(token: &str) -> (String, u32) {
    let (_, rest) = token.split_once('-').unwrap();
    let (grant, number) = rest.rsplit_once('-').unwrap();
    (grant.to_owned(), number.parse().unwrap())
}

/// The grant and the number of the refresh token that a record holds.
pub(super) fn held(connection: &Connection) -> Option<(String, u32)> {
    let refresh = connection.tokens.as_ref()?.refresh.as_ref()?;
    Some(split(refresh.value.expose()))
}

pub(super) fn id(name: &str) -> ConnectionId {
    ConnectionId::parse(String::new(), "sim".into(), name.into()).unwrap()
}

impl Truth {
    pub(super) fn new(
        (kind, ends_old): (Kind, bool),
        dice: Arc<Dice>,
        clock: Arc<SimClock>,
        disk: Arc<MemoryStore>,
    ) -> Self {
        Self {
            kind,
            ends_old,
            dice,
            clock,
            disk,
            grants: Mutex::default(),
            stored: Mutex::default(),
            broken: Mutex::default(),
            requests: Mutex::default(),
            awaited: Mutex::default(),
            met: Mutex::default(),
            mercy_until: Mutex::default(),
            told: Mutex::default(),
            arrivals: Mutex::default(),
            is_calm: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
        }
    }

    pub(super) fn reuse(&self) -> ReuseProfile {
        let reuse = match self.kind {
            Kind::Reusable => Reuse::Reusable,
            Kind::Grace => Reuse::Grace { window: GRACE, max_uses: 9 },
            Kind::Strict => Reuse::Strict,
        };
        ReuseProfile { reuse, ..ReuseProfile::default() }
    }

    pub(super) fn breach(&self, what: String) {
        self.broken.lock().unwrap().push(what);
    }

    pub(super) fn show_mercy(&self) {
        *self.mercy_until.lock().unwrap() = Some(Instant::now() + MERCY);
    }

    pub(super) fn is_merciful(&self) -> bool {
        self.is_calm.load(Ordering::SeqCst)
            || self.mercy_until.lock().unwrap().is_some_and(|until| Instant::now() < until)
    }

    /// The owner consents: a grant beside the one there was, with a first access token.
    pub(super) fn consent(&self, name: &str, run: u64) -> String {
        let mut grants = self.grants.lock().unwrap();
        let before = grants.keys().filter(|grant| owner(grant) == name).count();
        let grant = if before == 0 { name.to_owned() } else { format!("{name}@{before}") };
        let issued = BTreeMap::from([(0, (Instant::now(), run))]);
        grants.insert(grant.clone(), Grant { issued, ..Grant::default() });
        grant
    }

    /// Whether a request of this connection is under way.
    pub(super) fn is_asked_for(&self, name: &str) -> bool {
        let grants = self.grants.lock().unwrap();
        grants
            .iter()
            .any(|(grant, state)| owner(grant) == name && state.under_way.values().any(|count| *count > 0))
    }

    /// A process was killed: what it had been told and not stored, nobody knows any more.
    pub(super) fn forget_unstored(&self, name: &str, stored: Option<(String, u32)>) {
        let mut grants = self.grants.lock().unwrap();
        if let Some((grant, stored)) = stored {
            let grant = grants.get_mut(&grant).unwrap();
            grant.lost_an_answer |= grant.newest > stored;
            grant.delivered = stored;
        }
        for (_, grant) in grants.iter_mut().filter(|(grant, _)| owner(grant) == name) {
            grant.answered.clear();
        }
    }

    /// Whether a refresh token would be taken.
    pub(super) fn would_take(&self, (grant, presented): &(String, u32)) -> bool {
        let grants = self.grants.lock().unwrap();
        let grant = &grants[grant];
        !grant.is_dead && (self.kind == Kind::Reusable || grant.newest == *presented)
    }

    /// How often a refresh token was presented.
    pub(super) fn times_presented(&self, grant: &str, number: u32) -> u32 {
        self.grants.lock().unwrap()[grant].presented.get(&number).copied().unwrap_or(0)
    }

    /// How old an access token is, where that run can know. What was issued before the clock was set back is known by a
    /// better clock only to the run that it was issued to.
    pub(super) fn age(&self, token: &str, run: u64) -> Option<Duration> {
        let (grant, number) = split(token);
        let (issued_at, issued_to) = self.grants.lock().unwrap()[&grant].issued[&number];
        let is_known = issued_to == run || self.clock.was_set_back_at().is_none_or(|at| at < issued_at);
        is_known.then(|| issued_at.elapsed())
    }

    /// Whether the grant that stands behind a connection is dead.
    pub(super) fn is_dead(&self, name: &str) -> bool {
        let stored = self.stored.lock().unwrap().get(name).cloned();
        stored.is_some_and(|grant| self.grants.lock().unwrap()[&grant].is_dead)
    }

    /// What the provider does with a refresh token.
    pub(super) fn spend(&self, grant: &str, presented: u32, run: u64) -> Result<u32, ProviderError> {
        let mut grants = self.grants.lock().unwrap();
        let grant = grants.get_mut(grant).unwrap();
        let denied = Err(ProviderError::Denied(OAuthCode::new("invalid_grant")));
        if grant.is_dead || grant.revoked.contains(&presented) {
            return denied;
        }
        let is_repeated = self.kind == Kind::Grace
            && presented + 1 == grant.newest
            && grant.rotated_at.is_some_and(|at| at.elapsed() < GRACE);
        if presented == grant.newest || self.kind == Kind::Reusable {
            grant.newest += 1;
            grant.rotated_at = Some(Instant::now());
            grant.issued.insert(grant.newest, (Instant::now(), run));
        } else if !is_repeated {
            grant.is_dead = true;
            return denied;
        }
        grant.won_with.entry(grant.newest).or_default().insert(presented);
        Ok(grant.newest)
    }

    /// What an answer says of the next request about the same: to wait so long, or nothing.
    pub(super) fn tell(&self, about: &str, asked: Option<Duration>) {
        let mut told = self.told.lock().unwrap();
        told.remove(about);
        if let Some(wait) = asked.filter(|wait| !wait.is_zero()) {
            self.met.lock().unwrap().waits += 1;
            let end = Told { until: Instant::now() + wait, by_the_wall: self.clock.now() + wait };
            told.insert(about.to_owned(), end);
        }
    }

    /// By a clock that was set nobody knows how long is left: a wait may end early, or count anew.
    pub(super) fn forget_waits(&self) {
        self.told.lock().unwrap().clear();
    }

    /// After a restart only what is written down is known.
    pub(super) async fn forget_unwritten_waits(&self) {
        let told: Vec<_> =
            self.told.lock().unwrap().iter().map(|(about, end)| (about.clone(), *end)).collect();
        for (about, end) in told {
            let grant = if about.starts_with("rt-") { split(&about).0 } else { about.clone() };
            let stored = self.disk.get(&id(owner(&grant))).await.unwrap();
            let pause = stored.and_then(|stored| stored.value.profile.backoff);
            if !pause.is_some_and(|pause| pause.is_asked && pause.until >= end.by_the_wall) {
                self.told.lock().unwrap().remove(&about);
            }
        }
    }

    /// Whoever asks now does not do so before the wait is over.
    pub(super) fn check_wait(&self, about: &str) {
        let told = self.told.lock().unwrap().get(about).copied();
        let left = told.map(|told| told.until.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            self.breach(format!("wait: {about} is asked for {left:?} before the provider's wait is over"));
        }
    }

    /// A run waits for an answer no more.
    pub(super) fn is_over(&self, name: &str, run: u64) {
        *self.awaited.lock().unwrap().get_mut(&(owner(name).to_owned(), run)).unwrap() -= 1;
    }

    /// What must hold whenever a request of that run arrives.
    pub(super) async fn check_arrival(&self, name: &str, presented: u32, token: &RefreshToken, run: u64) {
        *self.requests.lock().unwrap() += 1;
        let awaited = {
            let mut awaited = self.awaited.lock().unwrap();
            let awaited = awaited.entry((owner(name).to_owned(), run)).or_default();
            *awaited += 1;
            *awaited
        };
        if awaited > 1 {
            self.breach(format!("I13: {awaited} requests for {name} at a time"));
        }
        match self.disk.get(&id(owner(name))).await.unwrap() {
            None => self.breach(format!("I2: {name} is asked for without a record")),
            Some(stored) => {
                let profile = &stored.value.profile;
                let is_named =
                    profile.intent.as_ref().is_some_and(|intent| intent.fingerprint == token.fingerprint());
                if !is_named {
                    self.breach(format!("I2: rt-{presented} of {name} left without a durable intent"));
                }
                // What a grace period saves is asked for again while it lasts, whatever the provider says.
                let is_repeated = profile.intent.as_ref().is_some_and(|intent| intent.tries > 1);
                if self.kind != Kind::Grace || !is_repeated {
                    self.check_wait(name);
                }
                if profile.status == Status::ReauthRequired {
                    self.breach(format!("I9: {name} was asked for although it is REAUTH_REQUIRED"));
                }
                let held = stored.value.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref());
                if held.is_none_or(|held| held.fingerprint() != token.fingerprint()) {
                    self.breach(format!("I7: rt-{presented} of {name} left after its successor was stored"));
                }
            }
        }
        let mut grants = self.grants.lock().unwrap();
        let grant = grants.get_mut(name).unwrap();
        let under_way = grant.under_way.entry(presented).or_default();
        *under_way += 1;
        if self.kind == Kind::Strict && *under_way > 1 {
            self.breach(format!("I1: rt-{presented} of {name} is under way twice"));
        }
        *grant.presented.entry(presented).or_default() += 1;
        if grant.answered.contains(&presented) {
            self.breach(format!("I13: rt-{presented} of {name} was answered and is presented again"));
        }
    }

    /// A run of the broker has this answer.
    pub(super) fn has_arrived(&self, grant: &str, number: u32, run: u64) {
        let mut grants = self.grants.lock().unwrap();
        let arrived =
            grants.get_mut(grant).unwrap().arrived.entry(run).or_insert_with(|| (number, Instant::now()));
        if number > arrived.0 {
            *arrived = (number, Instant::now());
        }
        if let Some(arrivals) = &*self.arrivals.lock().unwrap() {
            // A life that is over looks no more.
            let _ = arrivals.send(Arrival { grant: grant.to_owned(), number, run });
        }
    }

    /// An access token that is served now, as durable, by that run: its provider has not ended it, or the broker cannot know.
    /// It can where it has had an answer that brought a later one, and where its record holds a later one.
    pub(super) async fn check_ended(&self, token: &str, run: u64) {
        if !self.ends_old {
            return;
        }
        let (name, number) = split(token);
        let stored = self.disk.get(&id(owner(&name))).await.unwrap();
        let stored = stored.and_then(|stored| held(&stored.value)).filter(|(grant, _)| *grant == name);
        let grants = self.grants.lock().unwrap();
        let grant = &grants[&name];
        // Of what came at this very moment nobody need have heard.
        let arrived =
            grant.arrived.get(&run).filter(|(_, at)| *at < Instant::now()).map(|(number, _)| *number);
        let known = stored.map(|(_, number)| number).max(arrived);
        if let Some(known) = known.filter(|known| *known > number) {
            self.breach(format!("ended: {token} was served although {known} is known to have ended it"));
        } else if grant.newest > number && !grant.is_dead {
            self.met.lock().unwrap().in_doubt += 1;
        }
    }

    /// An access token that is served now to a caller of that run.
    pub(super) fn check_served(&self, token: &str, run: u64) {
        // What a grace period repeats is older than the request that it answers.
        let longest = LIFE + if self.kind == Kind::Grace { GRACE } else { Duration::ZERO };
        if let Some(age) = self.age(token, run).filter(|age| *age >= longest) {
            self.breach(format!("F23: {token} was served at the age of {age:?}"));
        }
    }

    /// I11, at a write that took place: whoever writes a refresh token won it with the very one that it replaces, and
    /// whoever writes a failure has an intent there.
    pub(super) fn check_write(&self, before: Option<&Connection>, after: &Connection) {
        let profile = &after.profile;
        let name = profile.id.name.as_str();
        let came = held(after);
        if let Some((grant, _)) = &came {
            self.stored.lock().unwrap().insert(name.to_owned(), grant.clone());
        }
        let Some(before) = before else { return };
        if profile.generation < before.profile.generation || profile.fence < before.profile.fence {
            self.breach(format!("I11: {name} was put back to an older generation or fence"));
        }
        match (held(before), came) {
            (Some(stood), Some(came)) if stood.0 == came.0 && stood != came => {
                let grants = self.grants.lock().unwrap();
                let won_with = grants[&came.0].won_with.get(&came.1);
                if !won_with.is_some_and(|presented| presented.contains(&stood.1)) {
                    self.breach(format!(
                        "I11: {came:?} was won with {won_with:?} and written over {stood:?}"
                    ));
                }
            }
            (Some(stood), Some(came)) if consents(&stood.0) > consents(&came.0) => {
                self.breach(format!("I11: {came:?} of an older consent was written over {stood:?}"));
            }
            _ => {}
        }
        let stood = &before.profile;
        let has_failed = profile.denials != stood.denials
            || (profile.last_failure != stood.last_failure && profile.last_failure.is_some())
            || (profile.status != stood.status
                && matches!(profile.status, Status::Ambiguous | Status::ReauthRequired));
        if has_failed && stood.status.serves() && stood.intent.is_none() {
            self.breach(format!("I11: a refresh that {name} does not know of made it {profile:?}"));
        }
    }
}
