//! I11 of refresh.md section 2.8: whatever an attempt comes to, it changes nothing once others have gone on without it.

use proptest::prelude::*;

use super::*;
use crate::connection::{Consent, Profile, TokenSet};

/// What may happen to a record while the answer of an attempt is on its way.
#[derive(Clone, Copy, Debug)]
enum Later {
    /// The attempt itself comes to something, and then to something else: it was written down twice.
    Itself(Came),
    /// Somebody begins to refresh, and dies.
    Begun(Holder),
    /// Somebody refreshes.
    Refreshed(Holder, Came),
    /// What was written down was never sent.
    Unsent,
    /// The owner consents once more; the provider gives a refresh token or none.
    Consented(bool),
    /// Tokens come from elsewhere.
    Imported(bool),
    /// The store is put back to this state.
    RolledBack,
    /// The tokens of a dead grant are wiped.
    Wiped,
    /// Somebody disconnects it.
    Disconnected,
}

/// What a request may come to.
#[derive(Clone, Copy, Debug)]
enum Came {
    Tokens { with_refresh: bool },
    Lost,
    Denied,
    Unsent,
    Asked,
    Malformed,
    Refused,
    Rests,
}

impl Came {
    fn outcome(self, n: usize) -> Result<IssuedTokens, ProviderError> {
        Err(match self {
            Self::Tokens { with_refresh } => {
                let refresh = with_refresh.then(|| format!("rt-{n}"));
                return Ok(issued(&format!("at-{n}"), refresh.as_deref()));
            }
            Self::Lost => ambiguous(),
            Self::Denied => denied(),
            Self::Unsent => unreachable(),
            Self::Asked => ProviderError::RateLimited { retry_after: Some(secs(7)) },
            Self::Malformed => ProviderError::Malformed,
            Self::Refused => ProviderError::Misconfigured(OAuthCode::new("invalid_client")),
            Self::Rests => ProviderError::CircuitOpen { retry_after: secs(60), outage: Box::default() },
        })
    }
}

fn came() -> impl Strategy<Value = Came> {
    prop_oneof![
        2 => Just(Came::Tokens { with_refresh: true }),
        1 => Just(Came::Tokens { with_refresh: false }),
        1 => Just(Came::Lost),
        1 => Just(Came::Denied),
        1 => Just(Came::Unsent),
        1 => Just(Came::Asked),
        1 => Just(Came::Malformed),
        1 => Just(Came::Refused),
        1 => Just(Came::Rests),
    ]
}

fn holder() -> impl Strategy<Value = Holder> {
    prop_oneof![Just(ME), Just(OTHER)]
}

fn later() -> impl Strategy<Value = Later> {
    prop_oneof![
        1 => came().prop_map(Later::Itself),
        2 => holder().prop_map(Later::Begun),
        5 => (holder(), came()).prop_map(|(holder, came)| Later::Refreshed(holder, came)),
        1 => Just(Later::Unsent),
        2 => any::<bool>().prop_map(Later::Consented),
        2 => any::<bool>().prop_map(Later::Imported),
        1 => Just(Later::RolledBack),
        1 => Just(Later::Wiped),
        1 => Just(Later::Disconnected),
    ]
}

fn habits() -> impl Strategy<Value = ReuseProfile> {
    let same_pair = Reuse::Count { max_uses: 3, is_last_only: false, is_same_pair: true };
    let reuse = prop_oneof![
        Just(Reuse::Strict),
        Just(Reuse::Reusable),
        Just(grace(5).reuse),
        Just(grace(3600).reuse),
        Just(count(3).reuse),
        Just(same_pair),
    ];
    (reuse, 1..3_u32).prop_map(|(reuse, invalid_grant_confirmations)| ReuseProfile {
        invalid_grant_confirmations,
        ..profile(reuse)
    })
}

fn tokens(n: usize, with_refresh: bool, now: Timestamp) -> TokenSet {
    let refresh = with_refresh.then(|| format!("rt-{n}"));
    issued(&format!("at-{n}"), refresh.as_deref()).into_set(None, now)
}

/// The record after one more thing. `n`: names what comes with it.
fn after(
    connection: Connection,
    what: Later,
    n: usize,
    (attempt, moment): (&Intent, &Moment<'_>),
) -> Connection {
    let now = moment.now;
    let is_open = connection.profile.status != Status::Revoking;
    match what {
        Later::Itself(came) => connection.landed(attempt, &came.outcome(n), moment, 500).connection,
        Later::Begun(holder) if is_open => connection.begun(1000 + n as u64, &Moment { holder, ..*moment }),
        Later::Refreshed(holder, came) => {
            let moment = Moment { holder, ..*moment };
            let attempt_id = 1000 + n as u64;
            let begun = match is_open {
                true => connection.begun(attempt_id, &moment),
                false => connection.asking(attempt_id, &moment),
            };
            match begun.profile.intent.clone().filter(|intent| intent.attempt_id == attempt_id) {
                Some(theirs) => begun.landed(&theirs, &came.outcome(n), &moment, 500).connection,
                None => begun,
            }
        }
        Later::Unsent => match connection.profile.intent.clone() {
            Some(theirs) => connection.unsent(&theirs, now).connection,
            None => connection,
        },
        Later::Consented(with_refresh) if is_open => {
            let consent = Consent {
                tokens: tokens(n, with_refresh, now),
                scopes: Scopes::default(),
                account: None,
                variables: Default::default(),
                allow_account_change: false,
            };
            connection.connected(consent, now).unwrap()
        }
        Later::Imported(with_refresh) if is_open => {
            connection.imported(tokens(n, with_refresh, now), Scopes::default(), now)
        }
        Later::RolledBack => connection.copy().rolled_back(moment.reuse, now).unwrap_or(connection),
        Later::Wiped => connection.copy().wiped(now + LIFE * 24 * 365).unwrap_or(connection),
        Later::Disconnected if is_open => connection.revoking(moment.reuse, now),
        Later::Begun(_) | Later::Consented(_) | Later::Imported(_) | Later::Disconnected => connection,
    }
}

/// Whether nothing that the attempt brings can belong to the record any more.
fn is_stale(connection: &Connection, attempt: &Intent) -> bool {
    let held = connection.tokens.as_ref().and_then(|tokens| tokens.refresh.as_ref());
    connection.profile.fence != attempt.fence
        && connection.profile.generation != attempt.generation
        && held.map(RefreshToken::fingerprint) != Some(attempt.fingerprint)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_global_rejects: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_for_an_attempt_that_others_have_gone_on_without_changes_nothing(
        reuse in habits(),
        happened in prop::collection::vec((later(), 0..5000_u64), 1..8),
        is_ended in any::<bool>(),
        came in came(),
    ) {
        let (mut connection, attempt) = begun(active(), &at(T0, &reuse));
        let mut now = T0;
        for (n, (what, pause)) in happened.into_iter().enumerate() {
            now = now + secs(pause);
            connection = after(connection, what, n + 1, (&attempt, &at(now, &reuse)));
        }
        if !is_stale(&connection, &attempt) {
            for what in [Later::Imported(true), Later::Begun(OTHER)] {
                connection = after(connection, what, 90, (&attempt, &at(now, &reuse)));
            }
        }
        if is_ended {
            connection = after(connection, Later::Disconnected, 91, (&attempt, &at(now, &reuse)));
        }
        // What was disconnected while it held the very token has a place for what comes.
        prop_assume!(is_stale(&connection, &attempt));
        let landed = connection.copy().landed(&attempt, &came.outcome(99), &at(now + secs(1), &reuse), 500);
        if connection.profile.status == Status::Revoking && matches!(came, Came::Tokens { .. }) {
            // A connection on its way out takes up what came to have it revoked, and nothing else of it changes.
            let is_kept = matches!(landed.verdict, Verdict::Surplus | Verdict::Excess);
            prop_assert!(is_kept, "{:?}", landed.verdict);
            prop_assert!(landed.connection.serving().is_none());
            let revocable = landed.connection.revocable();
            for set in connection.revocable() {
                prop_assert!(revocable.contains(&set), "{set:?} is not revoked any more");
            }
            let updated_at = connection.profile.updated_at;
            prop_assert_eq!(Profile { updated_at, ..landed.connection.profile }, connection.profile);
            return Ok(());
        }
        prop_assert_eq!(landed.verdict, Verdict::Superseded);
        prop_assert_eq!(landed.connection.profile, connection.profile);
        prop_assert_eq!(landed.connection.tokens, connection.tokens);
        prop_assert_eq!(landed.connection.history, connection.history);
    }
}
