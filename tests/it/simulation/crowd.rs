//! I13: many who hold the same token ask for its successor at once. The provider gets exactly one request for it, and all
//! of them get what it answered.

use std::sync::Arc;

use token_broker::broker::{Broker, Source, TokenRequest};
use token_broker::connection::Status;
use token_broker::provider::health::BreakerState;
use token_broker::store::TokenStore as _;

use super::truth::{id, split};
use super::{CONNECTIONS, Life};

/// How many ask at once.
const CROWD: usize = 8;

impl Life {
    /// A crowd asks for a successor of one connection's token, in weather that is good for so long.
    pub(super) async fn crowd(&self) {
        let name = format!("c{}", self.dice.below(CONNECTIONS));
        let (broker, _, _) = self.running();
        self.truth.show_mercy();
        let Ok(current) = broker.access_token(asking(&name, None)).await else { return };
        // Whatever an earlier fault left to be waited for is not the crowd's affair.
        let Some(stored) = self.disk.get(&id(&name)).await.unwrap() else { return };
        let profile = &stored.value.profile;
        let is_well =
            profile.status == Status::Active && profile.intent.is_none() && profile.backoff.is_none();
        let health = broker.provider("sim").unwrap().health;
        let is_open = health
            .is_none_or(|health| health.breaker == BreakerState::Closed && health.next_attempt_at.is_none());
        let (grant, number) = split(current.token.access.value.expose());
        let is_current = current.token.generation == profile.generation
            && self.truth.times_presented(&grant, number) == 0
            && self.truth.would_take(&(grant.clone(), number));
        if !is_well || !is_open || !is_current || broker.escrowed_count() > 0 {
            return;
        }
        self.truth.show_mercy();
        let digest = current.token.access.value.digest();
        let asked = (0..CROWD).map(|_| self.answered(&broker, &name, digest));
        let answers = futures_util::future::join_all(asked).await;
        let mut successors: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        successors.sort();
        successors.dedup_by_key(|(token, _)| token.clone());
        let began =
            answers.iter().flatten().filter(|(_, source)| *source == Source::Refreshed.as_str()).count();
        let requests = self.truth.times_presented(&grant, number);
        self.truth.met.lock().unwrap().crowds += 1;
        if answers.iter().any(Result::is_err) || successors.len() != 1 || began > 1 || requests != 1 {
            self.truth.breach(format!(
                "I13: {requests} requests for a crowd that holds at-{grant}-{number}: {answers:?}"
            ));
        }
    }

    /// What one of them is answered, and whence.
    async fn answered(
        &self,
        broker: &Arc<Broker>,
        name: &str,
        digest: [u8; 32],
    ) -> Result<(String, &'static str), String> {
        let answer =
            broker.access_token(asking(name, Some(digest))).await.map_err(|error| error.to_string())?;
        Ok((answer.token.access.value.expose().clone(), answer.source.as_str()))
    }
}

fn asking(name: &str, if_not_equal_to: Option<[u8; 32]>) -> TokenRequest {
    TokenRequest { id: id(name), scopes: Vec::new(), min_ttl: None, if_not_equal_to, allow_stale: false }
}
