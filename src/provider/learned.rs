//! What a provider is seen to do, whatever its documentation says: rotation, early refreshes, lifetimes, second uses.
//!
//! Owns a bounded memory of fingerprints (eight bytes of a digest each) that starts empty with the process. Knows no
//! connection and changes no behaviour: it shows, and says once where the configuration is contradicted. Invariant: no
//! token is kept, and what is kept does not grow.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::health::{Contradiction, Learned, Spread};
use super::spec::ProviderSpec;
use super::spec::lifecycle::{Reuse, Rotation};
use crate::clock::Timestamp;
use crate::connection::{IssuedTokens, ProviderKey, RefreshToken};
use crate::error::ProviderError;
use crate::secret::Secret;

/// How many refresh tokens are known again.
const KNOWN: usize = 1024;

/// Of how many tokens the lifetimes are remembered.
const SAMPLES: usize = 101;

/// The facts about one provider.
#[derive(Debug)]
pub(in crate::provider) struct Learner {
    provider: ProviderKey,
    rotation: Rotation,
    reuse: Reuse,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    facts: Learned,
    access_lives: VecDeque<Duration>,
    refresh_lives: VecDeque<Duration>,
    tokens: HashMap<u64, Token>,
    /// The keys of `tokens`, oldest first.
    order: VecDeque<u64>,
}

/// A refresh token that is known again.
#[derive(Debug)]
struct Token {
    /// The access token that came with it, and its end.
    access: u64,
    access_ends_at: Option<Timestamp>,
    /// When its first use brought another one.
    spent_at: Option<Timestamp>,
}

impl Learner {
    pub(in crate::provider) fn new(provider: ProviderKey, spec: &ProviderSpec) -> Self {
        Self { provider, rotation: spec.rotation, reuse: spec.reuse.clone(), seen: Mutex::default() }
    }

    /// A consent brought tokens.
    pub(in crate::provider) fn consented(&self, issued: &IssuedTokens, asked_at: Timestamp) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.note_lives(issued);
        if let Some(refresh) = &issued.refresh_token {
            seen.remember(refresh, issued, asked_at);
        }
    }

    /// `presented` was presented at `asked_at`, with this outcome.
    pub(in crate::provider) fn refreshed(
        &self,
        presented: &RefreshToken,
        outcome: Result<&IssuedTokens, &ProviderError>,
        asked_at: Timestamp,
    ) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(issued) => seen.note_refresh(&presented.value, issued, asked_at),
            Err(ProviderError::Denied(_)) => seen.note_refusal(&presented.value, asked_at),
            Err(_) => return,
        }
        for contradiction in self.contradictions(&seen.facts) {
            if !seen.facts.contradictions.contains(&contradiction) {
                seen.facts.contradictions.push(contradiction);
                let (provider, seen) = (self.provider.as_str(), contradiction.as_str());
                tracing::warn!(provider, seen, "the provider does not do what its configuration says");
            }
        }
    }

    /// An access token was refused at this age, before its end, and its grant brought another.
    pub(in crate::provider) fn refused_early(&self, age: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.facts.early_ends += 1;
        let earliest = seen.facts.earliest_end.map_or(age, |before| before.min(age));
        seen.facts.earliest_end = Some(earliest);
    }

    pub(in crate::provider) fn facts(&self) -> Learned {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Learned {
            access_life: spread(&seen.access_lives),
            refresh_life: spread(&seen.refresh_lives),
            ..seen.facts.clone()
        }
    }

    fn contradictions(&self, facts: &Learned) -> Vec<Contradiction> {
        let table = [
            (self.rotation == Rotation::Never && facts.rotated > 0, Contradiction::Rotates),
            (self.rotation == Rotation::Always && facts.kept > 0, Contradiction::DoesNotRotate),
            (self.reuse == Reuse::Reusable && facts.reuse_refused > 0, Contradiction::RefusesReuse),
            (self.reuse == Reuse::Strict && facts.reuse_taken > 0, Contradiction::TakesReuse),
        ];
        table.into_iter().filter_map(|(is_so, contradiction)| is_so.then_some(contradiction)).collect()
    }
}

impl Seen {
    fn note_refresh(&mut self, presented: &Secret<String>, issued: &IssuedTokens, asked_at: Timestamp) {
        self.note_lives(issued);
        let renewed = issued.refresh_token.as_ref().filter(|renewed| *renewed != presented);
        match renewed {
            Some(_) => self.facts.rotated += 1,
            None => self.facts.kept += 1,
        }
        if let Some(token) = self.tokens.get_mut(&fingerprint(presented)) {
            if let Some(spent_at) = token.spent_at {
                self.facts.reuse_taken += 1;
                let after = asked_at.since(spent_at);
                self.facts.longest_grace = self.facts.longest_grace.max(Some(after));
            } else if token.access_ends_at.is_none_or(|end| end > asked_at) {
                let is_same = token.access == fingerprint(&issued.access_token);
                let count = if is_same { &mut self.facts.early_same } else { &mut self.facts.early_new };
                *count += 1;
            }
            if renewed.is_some() && token.spent_at.is_none() {
                token.spent_at = Some(asked_at);
            }
        } else if renewed.is_some() {
            self.remember(presented, issued, asked_at);
            if let Some(token) = self.tokens.get_mut(&fingerprint(presented)) {
                token.spent_at = Some(asked_at);
            }
        }
        self.remember(renewed.unwrap_or(presented), issued, asked_at);
    }

    fn note_refusal(&mut self, presented: &Secret<String>, asked_at: Timestamp) {
        let Some(spent_at) = self.tokens.get(&fingerprint(presented)).and_then(|token| token.spent_at) else {
            return;
        };
        self.facts.reuse_refused += 1;
        let after = asked_at.since(spent_at);
        let shortest = self.facts.shortest_refusal.map_or(after, |before| before.min(after));
        self.facts.shortest_refusal = Some(shortest);
    }

    fn note_lives(&mut self, issued: &IssuedTokens) {
        let lives = [
            (&mut self.access_lives, issued.expires_in),
            (&mut self.refresh_lives, issued.refresh_expires_in),
        ];
        for (samples, life) in lives {
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            samples.extend(life);
        }
    }

    fn remember(&mut self, refresh: &Secret<String>, issued: &IssuedTokens, asked_at: Timestamp) {
        let key = fingerprint(refresh);
        let access_ends_at = issued.expires_in.map(|life| asked_at + life);
        let access = fingerprint(&issued.access_token);
        if let Some(token) = self.tokens.get_mut(&key) {
            (token.access, token.access_ends_at) = (access, access_ends_at);
            return;
        }
        if self.order.len() == KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        self.order.push_back(key);
        self.tokens.insert(key, Token { access, access_ends_at, spent_at: None });
    }
}

/// Eight bytes of a digest: enough to know a token again, and no way back to it.
fn fingerprint(token: &Secret<String>) -> u64 {
    token.digest().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

fn spread(samples: &VecDeque<Duration>) -> Option<Spread> {
    let mut sorted: Vec<Duration> = samples.iter().copied().collect();
    sorted.sort_unstable();
    let (shortest, longest) = (*sorted.first()?, *sorted.last()?);
    Some(Spread { shortest, median: sorted[sorted.len() / 2], longest })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::OAuthCode;
    use crate::telemetry::{Capture, Filter, Format, Logging};

    const T0: Timestamp = Timestamp::from_millis(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn learner(rotation: Rotation, reuse: Reuse) -> Learner {
        let spec = ProviderSpec { rotation, reuse, ..ProviderSpec::default() };
        Learner::new(ProviderKey::parse("acme").unwrap(), &spec)
    }

    fn issued(access: &str, refresh: Option<&str>) -> IssuedTokens {
        IssuedTokens {
            access_token: Secret::new(access.to_owned()),
            token_type: "Bearer".into(),
            expires_in: Some(HOUR),
            refresh_token: refresh.map(|text| Secret::new(text.to_owned())),
            refresh_expires_in: None,
            scopes: None,
            account: None,
            variables: Default::default(),
        }
    }

    fn token(value: &str) -> RefreshToken {
        RefreshToken { value: Secret::new(value.to_owned()), expires_at: None }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn rotation_is_counted_and_the_same_token_again_is_none() {
        let learner = learner(Rotation::Sometimes, Reuse::Strict);
        learner.refreshed(&token("r1"), Ok(&issued("a1", Some("r2"))), T0);
        learner.refreshed(&token("r2"), Ok(&issued("a2", Some("r2"))), T0);
        learner.refreshed(&token("r2"), Ok(&issued("a3", None)), T0);
        let facts = learner.facts();
        assert_eq!((facts.rotated, facts.kept), (1, 2));
        assert_eq!(facts.contradictions, []);
    }

    #[test]
    fn an_early_refresh_is_one_while_the_access_token_lives() {
        let learner = learner(Rotation::Never, Reuse::Reusable);
        learner.consented(&issued("a1", Some("r")), T0);
        learner.refreshed(&token("r"), Ok(&issued("a1", None)), T0 + seconds(10));
        learner.refreshed(&token("r"), Ok(&issued("a2", None)), T0 + seconds(20));
        learner.refreshed(&token("r"), Ok(&issued("a3", None)), T0 + HOUR * 2);
        let facts = learner.facts();
        assert_eq!((facts.early_same, facts.early_new), (1, 1), "the third was not early");
    }

    #[test]
    fn a_second_use_is_known_by_what_became_of_the_first() {
        let learner = learner(Rotation::Always, Reuse::Strict);
        let dead = ProviderError::Denied(OAuthCode::new("invalid_grant"));
        learner.refreshed(&token("r1"), Ok(&issued("a1", Some("r2"))), T0);
        learner.refreshed(&token("r1"), Ok(&issued("a2", Some("r3"))), T0 + seconds(4));
        learner.refreshed(&token("r1"), Err(&dead), T0 + seconds(9));
        learner.refreshed(&token("never-seen"), Err(&dead), T0);
        let facts = learner.facts();
        assert_eq!((facts.reuse_taken, facts.longest_grace), (1, Some(seconds(4))));
        assert_eq!((facts.reuse_refused, facts.shortest_refusal), (1, Some(seconds(9))));
        assert_eq!(facts.contradictions, [Contradiction::TakesReuse]);
    }

    #[test]
    fn a_contradiction_is_said_once() {
        let logging = Logging { filter: Filter::parse("info").unwrap(), format: Format::Json };
        let log = Capture::start(&logging, Arc::new(ManualClock::new(T0)));
        let never = learner(Rotation::Never, Reuse::Reusable);
        let always = learner(Rotation::Always, Reuse::Strict);
        for n in 0..3 {
            never.refreshed(&token("r1"), Ok(&issued("a", Some(&format!("r{n}x")))), T0);
            always.refreshed(&token("r1"), Ok(&issued("a", None)), T0);
        }
        assert_eq!(never.facts().contradictions, [Contradiction::Rotates]);
        assert_eq!(always.facts().contradictions, [Contradiction::DoesNotRotate]);
        assert_eq!(log.text().lines().count(), 2, "{}", log.text());
    }

    #[test]
    fn of_tokens_refused_early_their_number_and_the_youngest_are_told() {
        let learner = learner(Rotation::Never, Reuse::Reusable);
        assert_eq!((learner.facts().early_ends, learner.facts().earliest_end), (0, None));
        for age in [900, 600, 1200] {
            learner.refused_early(seconds(age));
        }
        assert_eq!((learner.facts().early_ends, learner.facts().earliest_end), (3, Some(seconds(600))));
    }

    #[test]
    fn lifetimes_are_told_by_their_spread() {
        let learner = learner(Rotation::Never, Reuse::Reusable);
        assert_eq!(learner.facts().access_life, None);
        for life in [300, 3600, 3599, 3600, 7200] {
            let token = IssuedTokens { expires_in: Some(seconds(life)), ..issued("a", None) };
            learner.consented(&token, T0);
        }
        let expected = Spread { shortest: seconds(300), median: HOUR, longest: HOUR * 2 };
        assert_eq!(learner.facts().access_life, Some(expected));
        assert_eq!(learner.facts().refresh_life, None);
    }

    #[test]
    fn memory_is_bounded() {
        let learner = learner(Rotation::Always, Reuse::Strict);
        for n in 0..3 * KNOWN {
            learner.refreshed(&token(&format!("r{n}")), Ok(&issued("a", Some(&format!("r{}", n + 1)))), T0);
        }
        let seen = learner.seen.lock().unwrap();
        assert_eq!((seen.tokens.len(), seen.order.len()), (KNOWN, KNOWN));
        assert!(seen.access_lives.len() <= SAMPLES);
    }
}
