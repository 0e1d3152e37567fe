//! When a connection is due: arithmetic on what its profile says. Pure.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::connection::lifetimes::Lifetimes;
use crate::connection::{ConnectionId, Profile, Status};

/// The least time between two refreshes ahead of one connection. A provider that answers an early refresh with the
/// token it gave before, or whose tokens live for seconds, is not asked in a loop.
pub(in crate::broker) const LEAST_GAP: Duration = Duration::from_secs(5);

/// What has no deadline.
pub(super) const NEVER: Timestamp = Timestamp::from_millis(i64::MAX);

/// When what is to happen to a connection; [`NEVER`] where it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Its access token wants a successor.
    pub(super) refresh_at: Timestamp,
    /// Its refresh token must be used lest it dies.
    pub(super) keep_alive_at: Timestamp,
    /// Its outcome must be found out, whoever asks for it.
    pub(super) is_ambiguous: bool,
}

/// What is to happen to a connection whose refresh token may be presented from `may_try_at` on; `None`: nothing, until
/// it changes. `set_back`: how far the clock was since its tokens came.
pub(super) fn plan(
    profile: &Profile,
    lifetimes: &Lifetimes,
    set_back: Duration,
    may_try_at: Timestamp,
) -> Option<Plan> {
    let not_before = |at: Timestamp| if at == NEVER { NEVER } else { (at - set_back).max(may_try_at) };
    let plan = match profile.status {
        Status::Active if profile.is_refreshable => {
            let plan = active(profile, lifetimes);
            Plan {
                refresh_at: not_before(plan.refresh_at),
                keep_alive_at: not_before(plan.keep_alive_at),
                ..plan
            }
        }
        Status::Ambiguous if profile.is_refreshable => {
            Plan { refresh_at: may_try_at, keep_alive_at: may_try_at, is_ambiguous: true }
        }
        Status::Active
        | Status::Ambiguous
        | Status::Pending
        | Status::ReauthRequired
        | Status::Revoking
        | Status::Revoked
        | Status::Disabled => return None,
    };
    (plan.refresh_at.min(plan.keep_alive_at) != NEVER).then_some(plan)
}

fn active(profile: &Profile, lifetimes: &Lifetimes) -> Plan {
    let obtained_at = profile.obtained_at();
    let share = jitter(&profile.id);
    let earliest = obtained_at + lifetimes.min_gap.unwrap_or_default().max(LEAST_GAP);
    let refresh_at = profile.expires_at.map_or(NEVER, |expires_at| {
        let life = obtained_at.until(expires_at);
        // The spread lies before the margin, so that no connection is late for the sake of the others.
        (expires_at - margin(life) - share.of(life / 10)).max(earliest)
    });
    let keep_alive_at = profile.refresh_ends_at(lifetimes.refresh_idle).map_or(NEVER, |end| {
        let life = obtained_at.until(end);
        (obtained_at + life / 3 * 2 - share.of(life / 20)).max(earliest)
    });
    Plan { refresh_at, keep_alive_at, is_ambiguous: false }
}

/// When the grant ends whatever is done; `None` where the provider states no such time.
pub(super) fn absolute_end(profile: &Profile, lifetimes: &Lifetimes) -> Option<Timestamp> {
    Some(profile.consented_at? + lifetimes.refresh_absolute?)
}

/// How long before expiry a successor must be there: a tenth of the life and at least a minute, but never more than
/// half, for else a short token would be refreshed as soon as it came.
fn margin(life: Duration) -> Duration {
    (life / 10).max(Duration::from_secs(60)).min(life / 2)
}

/// A share between 0 and 1 that is a connection's own and the same in every run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jitter(u32);

impl Jitter {
    pub(super) fn of(self, span: Duration) -> Duration {
        let millis = span.as_millis() * u128::from(self.0) / (u128::from(u32::MAX) + 1);
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// Unkeyed on purpose: the same after a restart and in another version. Nothing secret hangs on it.
pub(super) fn jitter(id: &ConnectionId) -> Jitter {
    let mut digest = Sha256::new();
    for part in [id.tenant.as_str(), id.provider.as_str(), id.name.as_str()] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let [a, b, c, d, ..] = <[u8; 32]>::from(digest.finalize());
    Jitter(u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{AccessToken, Connection, RefreshToken, Scopes, TokenSet};
    use crate::secret::Secret;

    const T0: Timestamp = Timestamp::from_millis(1_790_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn profile(name: &str, life: Option<Duration>) -> Profile {
        let id = ConnectionId::parse(String::new(), "sandbox".into(), name.into()).unwrap();
        let tokens = TokenSet {
            access: Some(AccessToken {
                value: Secret::new("at".into()),
                token_type: "Bearer".into(),
                issued_at: T0,
                expires_at: life.map(|life| T0 + life),
            }),
            refresh: Some(RefreshToken { value: Secret::new("rt".into()), expires_at: None }),
            previous: None,
            surplus: Vec::new(),
        };
        Connection::pending(id, T0).imported(tokens, Scopes::default(), T0).profile
    }

    fn due(profile: &Profile) -> Plan {
        plan(profile, &Lifetimes::default(), Duration::ZERO, T0).unwrap()
    }

    #[test]
    fn a_successor_is_due_a_tenth_of_life_before_expiry_and_a_spread_of_another_tenth() {
        for n in 0..100 {
            let at = due(&profile(&format!("user-{n}"), Some(HOUR))).refresh_at;
            let before = at.until(T0 + HOUR);
            assert!((HOUR / 10..HOUR / 5).contains(&before), "{before:?}");
        }
    }

    #[test]
    fn ten_thousand_connections_of_one_expiry_are_spread_evenly_and_each_keeps_its_place() {
        let mut minutes = [0_u32; 6];
        for n in 0..10_000 {
            let profile = profile(&format!("user-{n}"), Some(HOUR));
            let at = due(&profile).refresh_at;
            assert_eq!(at, due(&profile).refresh_at);
            let earlier = at.until(T0 + HOUR - HOUR / 10).as_secs();
            minutes[usize::try_from(earlier / 60).unwrap()] += 1;
        }
        assert!(minutes.iter().all(|count| (1500..1850).contains(count)), "{minutes:?}");
    }

    #[test]
    fn short_tokens_are_not_refreshed_in_a_loop() {
        for (life, least) in [(300, 200), (60, 24), (20, 8), (8, 5), (1, 5)] {
            let at = due(&profile("user-42", Some(Duration::from_secs(life)))).refresh_at;
            assert!(T0.until(at) >= Duration::from_secs(least), "{life} s: due after {:?}", T0.until(at));
        }
    }

    #[test]
    fn a_token_that_came_back_with_its_old_expiry_is_asked_for_less_and_less_and_never_in_a_loop() {
        let mut profile = profile("user-42", Some(HOUR));
        let (mut now, mut refreshes) = (T0, 0);
        while now < T0 + HOUR {
            now = due(&profile).refresh_at;
            profile.refreshed_at = Some(now);
            refreshes += 1;
            assert!(refreshes < 20);
        }
    }

    #[test]
    fn the_providers_least_gap_is_kept() {
        let lifetimes = Lifetimes { min_gap: Some(HOUR), ..Lifetimes::default() };
        assert_eq!(
            plan(&profile("user-42", Some(HOUR / 2)), &lifetimes, Duration::ZERO, T0).unwrap().refresh_at,
            T0 + HOUR
        );
    }

    #[test]
    fn a_refresh_token_is_used_at_two_thirds_of_its_idle_life() {
        let lifetimes = Lifetimes { refresh_idle: Some(90 * DAY), ..Lifetimes::default() };
        let plan = plan(&profile("user-42", None), &lifetimes, Duration::ZERO, T0).unwrap();
        assert_eq!(plan.refresh_at, NEVER);
        let after = T0.until(plan.keep_alive_at);
        assert!((55 * DAY..=60 * DAY).contains(&after), "{after:?}");
    }

    #[test]
    fn a_failure_makes_an_imported_refresh_token_no_younger() {
        let lifetimes = Lifetimes { refresh_idle: Some(90 * DAY), ..Lifetimes::default() };
        let imported = profile("user-42", None);
        let due = plan(&imported, &lifetimes, Duration::ZERO, T0).unwrap().keep_alive_at;
        // What a request that reached nobody writes down.
        let failed = Profile { updated_at: due, ..imported };
        assert_eq!(plan(&failed, &lifetimes, Duration::ZERO, T0).unwrap().keep_alive_at, due);
    }

    #[test]
    fn the_end_that_a_provider_states_counts_as_an_idle_life_too() {
        let mut profile = profile("user-42", None);
        profile.refresh_expires_at = Some(T0 + 30 * DAY);
        let after = T0.until(due(&profile).keep_alive_at);
        assert!((18 * DAY..=20 * DAY).contains(&after), "{after:?}");
    }

    #[test]
    fn a_stated_end_that_the_refresh_token_has_outlived_is_no_end() {
        for past in [Duration::ZERO, DAY] {
            let mut profile = profile("user-42", Some(HOUR));
            profile.refresh_expires_at = Some(T0 - past);
            assert_eq!(due(&profile).keep_alive_at, NEVER, "{past:?}");
            let lifetimes = Lifetimes { refresh_idle: Some(90 * DAY), ..Lifetimes::default() };
            let after = T0.until(plan(&profile, &lifetimes, Duration::ZERO, T0).unwrap().keep_alive_at);
            assert!((55 * DAY..=60 * DAY).contains(&after), "{after:?}");
        }
    }

    #[test]
    fn what_cannot_or_must_not_be_refreshed_is_not_planned() {
        for status in
            [Status::Pending, Status::ReauthRequired, Status::Revoking, Status::Revoked, Status::Disabled]
        {
            let profile = Profile { status, ..profile("user-42", Some(HOUR)) };
            assert_eq!(plan(&profile, &Lifetimes::default(), Duration::ZERO, T0), None, "{status:?}");
        }
        let profile = Profile { is_refreshable: false, ..profile("user-42", Some(HOUR)) };
        assert_eq!(plan(&profile, &Lifetimes::default(), Duration::ZERO, T0), None);
        let lasting = self::profile("user-42", None);
        assert_eq!(plan(&lasting, &Lifetimes::default(), Duration::ZERO, T0), None, "neither token ends");
    }

    #[test]
    fn an_unknown_outcome_is_found_out_when_the_protocol_says() {
        let profile = Profile { status: Status::Ambiguous, ..profile("user-42", Some(HOUR)) };
        let at = T0 + Duration::from_secs(7);
        let found = plan(&profile, &Lifetimes::default(), Duration::ZERO, at).unwrap();
        assert_eq!(found, Plan { refresh_at: at, keep_alive_at: at, is_ambiguous: true });
    }

    #[test]
    fn a_pause_after_a_failure_is_kept() {
        let later = T0 + 2 * HOUR;
        let found =
            plan(&profile("user-42", Some(HOUR)), &Lifetimes::default(), Duration::ZERO, later).unwrap();
        assert_eq!((found.refresh_at, found.keep_alive_at), (later, NEVER));
    }
}
