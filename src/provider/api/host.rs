//! How each host of an API fares: a breaker for each, so that one that is down stops no call to another.
//!
//! A host is a name with a port. Owns which of them are remembered, and what they come to together. Knows no connection
//! and no HTTP. Invariant: no more than [`MOST`] are remembered, and an outcome counts only for the breaker that let its
//! request through.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::connection::ProviderKey;
use crate::error::{Outage, ProviderError};
use crate::provider::breaker::{Breaker, Pass, Resting, Verdict};
use crate::provider::health::{ApiHealth, BreakerState};
use crate::provider::spec::restraint::BreakerFigures;
use crate::telemetry::Metrics;

/// Hosts remembered at most: what a connection's values and a caller's words may make of an entry has no other bound.
const MOST: usize = 1000;

/// For how long after its rest a host is remembered that nobody calls any more. Then it is news, whatever it was: one that
/// is gone for good would otherwise be told as resting for ever.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(900);

/// How often it is looked for those.
const LOOKED_EVERY: Duration = Duration::from_secs(60);

/// Names that are told of those that rest.
const TOLD: usize = 10;

/// The hosts of one API.
pub(super) struct Hosts {
    provider: ProviderKey,
    metrics: Arc<Metrics>,
    figures: BreakerFigures,
    known: HashMap<Arc<str>, Host>,
    /// How many were made so far.
    made: u64,
    next_look: Instant,
}

struct Host {
    /// Tells it from another one of its name that was forgotten.
    number: u64,
    breaker: Breaker,
    last_failure: Option<ProviderError>,
    refused: u64,
    under_way: u32,
    /// Since when nothing is heard of it, its rest not counted.
    quiet_since: Instant,
}

/// Who says when the last of a call's request leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// The broker, which has all of it.
    Own,
    /// Its sender, whose body is still to come.
    Senders,
}

/// Leave to send to a host. It must come back by [`Hosts::settle`].
#[derive(Debug)]
pub(super) struct HostPass {
    host: Arc<str>,
    number: u64,
    pass: Pass,
}

impl Hosts {
    pub(super) fn new(provider: ProviderKey, figures: BreakerFigures, metrics: Arc<Metrics>) -> Self {
        let (known, next_look) = (HashMap::new(), Instant::now() + LOOKED_EVERY);
        let hosts = Self { provider, metrics, figures, known, made: 0, next_look };
        hosts.show();
        hosts
    }

    /// Whether a call would be let through now, without letting it.
    pub(super) fn check(&mut self, host: &str, pace: Pace, now: Instant) -> Result<(), ProviderError> {
        let Some(known) = self.known.get_mut(host) else { return Ok(()) };
        let checked = match pace {
            Pace::Own => known.breaker.check(now),
            Pace::Senders => known.breaker.check_beside(now),
        };
        checked.map_err(|resting| known.refusal(host.into(), resting))
    }

    /// Lets a call through, or says why not.
    pub(super) fn ask(
        &mut self,
        host: &Arc<str>,
        pace: Pace,
        now: Instant,
    ) -> Result<HostPass, ProviderError> {
        self.look(now);
        if !self.known.contains_key(host) {
            self.make_room();
            self.made += 1;
        }
        let (figures, number) = (self.figures, self.made);
        let known = self.known.entry(host.clone()).or_insert_with(|| Host::new(figures, number, now));
        let before = known.breaker.state();
        let asked = match pace {
            Pace::Own => known.breaker.ask(now),
            Pace::Senders => known.breaker.ask_beside(now),
        };
        let pass = asked.map_err(|resting| known.refusal(host.clone(), resting))?;
        known.under_way += 1;
        known.quiet_since = now;
        let pass = HostPass { host: host.clone(), number: known.number, pass };
        self.tell(host, before);
        Ok(pass)
    }

    /// Takes the outcome of a call, and the failure that it was.
    pub(super) fn settle(
        &mut self,
        pass: &HostPass,
        verdict: Verdict,
        failure: Option<&ProviderError>,
        now: Instant,
    ) {
        let known = self.known.get_mut(&pass.host).filter(|known| known.number == pass.number);
        let Some(known) = known else { return };
        let before = known.breaker.state();
        known.under_way = known.under_way.saturating_sub(1);
        if failure.is_some() {
            known.last_failure = failure.cloned();
        }
        known.breaker.settle(pass.pass, verdict, now);
        known.quiet_since = now + known.breaker.next_try(now).unwrap_or_default();
        self.tell(&pass.host, before);
    }

    /// Lets everything through again, by hand.
    pub(super) fn close(&mut self) {
        self.known.clear();
        self.show();
    }

    /// How they fare together: as the worst of them.
    pub(super) fn health(&mut self, now: Instant, at: Timestamp) -> ApiHealth {
        self.look(now);
        let mut held_back: Vec<_> = self.known.iter().filter(|(_, host)| host.rank() > 0).collect();
        held_back.sort_by_key(|(name, host)| (std::cmp::Reverse(host.rank()), (*name).clone()));
        let next_try = held_back.iter().filter_map(|(_, host)| host.breaker.next_try(now)).min();
        ApiHealth {
            breaker: self.worst(),
            consecutive_failures: self.known.values().map(|host| host.breaker.streak()).max().unwrap_or(0),
            next_attempt_at: next_try.filter(|left| !left.is_zero()).map(|left| at + left),
            held_back: u32::try_from(held_back.len()).unwrap_or(u32::MAX),
            held_back_hosts: held_back.iter().take(TOLD).map(|(name, _)| name.to_string()).collect(),
            ..ApiHealth::default()
        }
    }

    fn worst(&self) -> BreakerState {
        let worst = self.known.values().max_by_key(|host| host.rank());
        worst.map_or(BreakerState::Closed, |host| host.breaker.state())
    }

    /// The metric has no host in it: callers could make any number of them.
    fn show(&self) {
        self.metrics.set_api_breaker_state(self.provider.as_str(), self.worst().as_str());
    }

    /// Forgets, every so often, those with which nothing is lost.
    fn look(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOKED_EVERY;
        self.known.retain(|_, host| !host.is_over(now));
        self.show();
    }

    /// Makes room for one more. Where all are in use or in trouble, one that works goes first.
    fn make_room(&mut self) {
        if self.known.len() < MOST {
            return;
        }
        self.known.retain(|_, host| !host.is_blank());
        if self.known.len() >= MOST {
            let in_use = |host: &Host| (host.rank() > 0, host.under_way > 0, host.quiet_since);
            let least = self.known.iter().min_by_key(|(_, host)| in_use(host)).map(|(name, _)| name.clone());
            least.and_then(|name| self.known.remove(&name));
            self.show();
        }
    }

    /// One line in the log and one step of the metric for each change of a breaker.
    fn tell(&mut self, host: &str, before: BreakerState) {
        let Some(known) = self.known.get_mut(host) else { return };
        let now = known.breaker.state();
        if now == before {
            return;
        }
        let provider = self.provider.as_str();
        match now {
            BreakerState::Open => {
                known.refused = 0;
                let failures = known.breaker.streak();
                let last = known.last_failure.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(provider, host, failures, last, "the provider's API fails; its breaker opens");
            }
            BreakerState::HalfOpen => {
                tracing::info!(provider, host, "the provider's API is tried again, one call at a time");
            }
            BreakerState::Closed => {
                let refused = known.refused;
                tracing::info!(
                    provider,
                    host,
                    refused,
                    "the provider's API answers again; its breaker closes"
                );
            }
        }
        self.show();
    }
}

impl Host {
    fn new(figures: BreakerFigures, number: u64, now: Instant) -> Self {
        let breaker = Breaker::new(figures);
        Self { number, breaker, last_failure: None, refused: 0, under_way: 0, quiet_since: now }
    }

    fn refusal(&mut self, host: Arc<str>, resting: Resting) -> ProviderError {
        self.refused += 1;
        let outage = Outage {
            host: Some(host),
            failures: self.breaker.streak(),
            within: self.breaker.streak_took(),
            last: self.last_failure.clone(),
            refused: self.refused,
        };
        ProviderError::CircuitOpen { retry_after: resting.retry_after, outage: Box::new(outage) }
    }

    /// How bad it is.
    fn rank(&self) -> u8 {
        match self.breaker.state() {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        }
    }

    /// Whether it is as if it had never been called.
    fn is_blank(&self) -> bool {
        self.under_way == 0 && self.rank() == 0 && self.breaker.streak() == 0
    }

    fn is_over(&self, now: Instant) -> bool {
        self.is_blank() || self.under_way == 0 && now >= self.quiet_since + FORGOTTEN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Unsent;
    use crate::provider::spec::span::Span;

    const SECOND: Duration = Duration::from_secs(1);

    /// Hosts that are left alone for 30 s after the second failure.
    fn hosts() -> (Hosts, Arc<Metrics>) {
        let figures = BreakerFigures { failures: 2, open: Span::from_secs(30), successes: 1 };
        let metrics = Arc::new(Metrics::default());
        (Hosts::new(ProviderKey::parse("p").unwrap(), figures, metrics.clone()), metrics)
    }

    fn called(hosts: &mut Hosts, name: &str, verdict: Verdict) -> Result<(), ProviderError> {
        let error = ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None };
        let pass = hosts.ask(&name.into(), Pace::Own, Instant::now())?;
        let failure = matches!(verdict, Verdict::Failure(_)).then_some(&error);
        hosts.settle(&pass, verdict, failure, Instant::now());
        Ok(())
    }

    fn broken(hosts: &mut Hosts, name: &str) {
        for _ in 0..2 {
            called(hosts, name, Verdict::Failure(None)).unwrap();
        }
    }

    fn health(hosts: &mut Hosts) -> ApiHealth {
        hosts.health(Instant::now(), Timestamp::from_millis(0))
    }

    /// The states that the metric says, with their labels.
    fn shown(metrics: &Metrics) -> Vec<String> {
        let text = metrics.encode().unwrap();
        let mut lines: Vec<_> = text.lines().filter(|line| line.contains("api_breaker_state{")).collect();
        lines.retain(|line| line.ends_with(" 1"));
        lines.into_iter().map(str::to_owned).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_down_stops_no_call_to_another() {
        let (mut hosts, _) = hosts();
        broken(&mut hosts, "one.example:443");
        called(&mut hosts, "one.example:443", Verdict::Success).unwrap_err();
        hosts.check("one.example:443", Pace::Own, Instant::now()).unwrap_err();
        for other in ["two.example:443", "one.example:8443"] {
            hosts.check(other, Pace::Own, Instant::now()).unwrap();
            called(&mut hosts, other, Verdict::Success).unwrap();
        }
        called(&mut hosts, "one.example:443", Verdict::Success).unwrap_err();
        tokio::time::sleep(30 * SECOND).await;
        called(&mut hosts, "one.example:443", Verdict::Success).unwrap();
        assert_eq!(health(&mut hosts).breaker, BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn together_they_fare_as_the_worst_and_the_metric_names_none() {
        let (mut hosts, metrics) = hosts();
        called(&mut hosts, "good.example:443", Verdict::Success).unwrap();
        broken(&mut hosts, "tried.example:443");
        tokio::time::sleep(30 * SECOND).await;
        let _probe = hosts.ask(&"tried.example:443".into(), Pace::Own, Instant::now()).unwrap();
        assert_eq!(health(&mut hosts).breaker, BreakerState::HalfOpen);
        broken(&mut hosts, "down.example:443");
        let told = health(&mut hosts);
        assert_eq!((told.breaker, told.consecutive_failures, told.held_back), (BreakerState::Open, 2, 2));
        assert_eq!(told.held_back_hosts, ["down.example:443", "tried.example:443"]);
        assert_eq!(told.next_attempt_at, Some(Timestamp::from_millis(30_000)));
        let [line] = &shown(&metrics)[..] else { panic!("{:?}", shown(&metrics)) };
        assert!(line.contains(r#"{provider="p",state="open"}"#), "{line}");
    }

    #[tokio::test(start_paused = true)]
    async fn by_hand_all_of_them_are_closed_at_once() {
        let (mut hosts, metrics) = hosts();
        for name in ["one.example:443", "two.example:443"] {
            broken(&mut hosts, name);
        }
        let late = hosts.ask(&"three.example:443".into(), Pace::Own, Instant::now()).unwrap();
        hosts.close();
        assert_eq!(health(&mut hosts), ApiHealth::default());
        assert!(shown(&metrics)[0].contains("closed"));
        called(&mut hosts, "one.example:443", Verdict::Success).unwrap();
        // What was under way then says nothing of what came after.
        called(&mut hosts, "three.example:443", Verdict::Failure(None)).unwrap();
        hosts.settle(&late, Verdict::Failure(None), None, Instant::now());
        assert_eq!(health(&mut hosts).breaker, BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_calls_any_more_is_not_told_as_resting_for_ever() {
        let (mut hosts, metrics) = hosts();
        broken(&mut hosts, "gone.example:443");
        tokio::time::sleep(30 * SECOND + FORGOTTEN_AFTER - SECOND).await;
        called(&mut hosts, "good.example:443", Verdict::Success).unwrap();
        assert_eq!(health(&mut hosts).breaker, BreakerState::Open);
        tokio::time::sleep(LOOKED_EVERY + SECOND).await;
        called(&mut hosts, "good.example:443", Verdict::Success).unwrap();
        assert!(shown(&metrics)[0].contains("closed"));
        assert_eq!(hosts.known.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_are_named_so_many_are_remembered_and_those_that_rest_longest() {
        let (mut hosts, _) = hosts();
        broken(&mut hosts, "down.example:443");
        let under_way = hosts.ask(&"busy.example:443".into(), Pace::Own, Instant::now()).unwrap();
        for n in 0..2 * MOST {
            let verdict = if n % 2 == 0 { Verdict::Success } else { Verdict::Failure(None) };
            called(&mut hosts, &format!("tenant-{n}.example:443"), verdict).unwrap();
        }
        assert_eq!(hosts.known.len(), MOST);
        called(&mut hosts, "down.example:443", Verdict::Success).unwrap_err();
        assert!(hosts.known.contains_key(&under_way.host));
        for n in 0..2 * MOST {
            broken(&mut hosts, &format!("dead-{n}.example:443"));
        }
        assert_eq!(hosts.known.len(), MOST, "also where every one of them rests");
    }
}
