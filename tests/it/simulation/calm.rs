//! The end of a life: no more faults, and what must then be so. I12: who has a living grant has a fresh token soon; I5 and
//! I6: no grant is lost that may not be; and what was ended is ended.

use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::TokenRequest;
use token_broker::connection::Status;
use token_broker::store::TokenStore as _;
use tokio::time::Instant;

use super::truth::{Kind, LIFE, held, id};
use super::{CONNECTIONS, Life};

/// Within this after the last fault a living grant has a fresh token (I12): twice the lease and the timeout. On one node
/// an intent is the lease: it lasts for the timeout and the margin between two clocks.
const SOON: Duration = Duration::from_secs(2 * ((10 + 2) + 10));
/// A token is fresh that lives so long.
const FRESH: Duration = Duration::from_secs(100);
/// The longest that the provider asks to be let alone, which is honoured as if it were still bad weather.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

impl Life {
    /// Calm weather at last: who still has a living grant gets a fresh token soon, and what was ended is ended.
    pub(super) async fn end(&self) {
        self.truth.is_calm.store(true, Ordering::SeqCst);
        self.all_recover().await;
        // The longest pause, the longest lease, and the late probe before the end of the last token's life.
        tokio::time::sleep(Duration::from_secs(600) + LIFE * 2).await;
        for at in 0..CONNECTIONS {
            let name = format!("c{at}");
            let Some(stored) = self.disk.get(&id(&name)).await.unwrap() else {
                let grants = self.truth.grants.lock().unwrap();
                let grant = &grants[&self.truth.stored.lock().unwrap()[&name]];
                if !grant.is_dead && !grant.revoked.contains(&grant.delivered) {
                    self.truth.breach(format!("rt-{} of {name} was not revoked: {grant:?}", grant.delivered));
                }
                continue;
            };
            if stored.value.profile.status == Status::Revoking {
                self.truth.breach(format!("{name} is still being revoked"));
                continue;
            }
            let held = held(&stored.value).unwrap();
            let is_alive = self.truth.would_take(&held);
            let lost_an_answer = self.truth.grants.lock().unwrap()[&held.0].lost_an_answer;
            let is_inherent = self.truth.kind == Kind::Strict && lost_an_answer;
            if !is_alive && !is_inherent {
                self.truth.breach(format!("I5/I6: the grant of {name} is lost"));
            }
        }
    }

    /// I12, twice: as the weather left things, for whoever need not wait for an old token's end; and with nothing left to
    /// wait for by the wall clock, for everybody.
    async fn all_recover(&self) {
        let names: Vec<_> = (0..CONNECTIONS).map(|at| format!("c{at}")).collect();
        let began = Instant::now();
        futures_util::future::join_all(names.iter().map(|name| self.recovers(name, began, false))).await;
        // A clock that was set back makes the last token live the longer.
        self.clock.jump_past_everything();
        self.truth.forget_waits();
        // A gate rests by a clock that nobody sets, and a breaker that opens at the last moment for as long as is asked.
        if self.world.is_gated {
            tokio::time::sleep(LONGEST_ASKED).await;
        }
        let began = Instant::now();
        futures_util::future::join_all(names.iter().map(|name| self.recovers(name, began, true))).await;
    }

    /// Asks for a fresh token of `name` until there is one, which I12 gives it so long for from `began` on. `is_past_all`:
    /// nothing that was asked for or that lived then is in the way any more.
    async fn recovers(&self, name: &str, began: Instant, is_past_all: bool) {
        let allowed = if is_past_all { SOON } else { SOON + LONGEST_ASKED };
        let (broker, _, run) = self.running();
        let mut told = String::new();
        while began.elapsed() < allowed {
            let Some(stored) = self.disk.get(&id(name)).await.unwrap() else { return };
            let profile = &stored.value.profile;
            let is_unknown = profile.status == Status::Ambiguous || profile.intent.is_some();
            let waits_for_an_end = self.truth.kind == Kind::Strict && is_unknown && !is_past_all;
            if profile.status == Status::Revoking || waits_for_an_end {
                return;
            }
            match tokio::time::timeout_at(began + allowed, broker.access_token(asking(name))).await {
                Ok(Ok(answer)) => {
                    match self.truth.age(answer.token.access.value.expose(), run) {
                        Some(age) if age + FRESH > LIFE => told = format!("a token of {age:?} ago"),
                        // Of one that nobody can know the age of, the clock says that it is fresh.
                        None if is_past_all => told = "a token from before the calm".to_owned(),
                        _ => return,
                    }
                }
                Ok(Err(error)) => told = error.to_string(),
                Err(_) => told = "no answer".to_owned(),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let Some(stored) = self.disk.get(&id(name)).await.unwrap() else { return };
        if held(&stored.value).is_some_and(|held| self.truth.would_take(&held)) {
            let profile = stored.value.profile;
            self.truth.breach(format!(
                "I12: {name} lives and got no fresh token in {allowed:?}: {told}; {profile:?}"
            ));
        }
    }
}

/// A fresh token and no other.
fn asking(name: &str) -> TokenRequest {
    TokenRequest {
        id: id(name),
        scopes: Vec::new(),
        min_ttl: Some(FRESH),
        if_not_equal_to: None,
        allow_stale: false,
    }
}
