//! The provider as the broker reaches it: processes what arrives, and breaks off as the dice fall.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use token_broker::clock::Clock as _;
use token_broker::connection::reuse::ReuseProfile;
use token_broker::connection::{
    AccessToken, Account, IssuedTokens, ProviderKey, RefreshToken, Scopes, TokenSet,
};
use token_broker::error::{AmbiguousCause, Mistake, ProviderError, Unsent};
use token_broker::provider::{
    Admission, AuthorizationRequest, CodeGrant, ProviderClient, ProviderInfo, Revocation, Urgency,
};
use token_broker::secret::Secret;
use token_broker::store::TokenStore as _;
use tokio::time::Instant;

use super::gate::Gate;
use super::truth::{Kind, LIFE, Truth, id, owner, split};
use super::world::Power;
use crate::kit::in_time;

/// How much earlier than its patience allows a request may be given up: what it took to write its intent counts.
const LEEWAY: Duration = Duration::from_secs(1);

/// The provider as one run of the broker sees it.
pub(super) struct SimProvider {
    pub(super) key: ProviderKey,
    pub(super) scopes: Scopes,
    pub(super) peer: Arc<Peer>,
    /// What stands before it, if anything does.
    pub(super) gate: Option<Gate>,
}

/// The provider as one run of the broker reaches it.
pub(super) struct Peer {
    pub(super) truth: Arc<Truth>,
    pub(super) power: Power,
    /// Which run of the broker this is the provider of.
    pub(super) run: u64,
}

pub(super) fn issued(name: &str, number: u32) -> IssuedTokens {
    IssuedTokens {
        access_token: Secret::new(format!("at-{name}-{number}")),
        token_type: "Bearer".into(),
        expires_in: Some(LIFE),
        refresh_token: Some(Secret::new(format!("rt-{name}-{number}"))),
        refresh_expires_in: None,
        scopes: None,
        account: None,
        variables: Default::default(),
    }
}

/// Whoever waits for an answer. One that is given up because it takes too long is lost, which is a fault; one that is
/// given up earlier is a refresh that somebody aborted.
struct Wait {
    truth: Arc<Truth>,
    power: Power,
    name: String,
    presented: u32,
    run: u64,
    since: Instant,
    patience: Duration,
    is_over: bool,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.truth.is_over(&self.name, self.run);
        if self.is_over || self.power.is_cut() {
            return;
        }
        self.truth.show_mercy();
        let waited = self.since.elapsed();
        if waited + LEEWAY < self.patience {
            let Self { name, presented, .. } = self;
            self.truth.breach(format!(
                "I10: the refresh of {name} with rt-{presented} was aborted after {waited:?}"
            ));
        }
    }
}

impl Peer {
    /// How long a request that leaves now must be waited for.
    async fn patience(&self, name: &str) -> Duration {
        let stored = self.truth.disk.get(&id(owner(name))).await.unwrap();
        let intent = stored.and_then(|stored| stored.value.profile.intent);
        intent.map_or(Duration::ZERO, |intent| intent.patience(&self.truth.reuse(), self.truth.clock.now()))
    }

    /// The life of a request, which goes on whether or not somebody still waits for it.
    async fn process(
        truth: Arc<Truth>,
        power: Power,
        run: u64,
        name: String,
        presented: u32,
    ) -> Result<u32, ProviderError> {
        let dice = truth.dice.clone();
        let is_calm = truth.is_merciful();
        let leave = |truth: &Truth| {
            let mut grants = truth.grants.lock().unwrap();
            *grants.get_mut(&name).unwrap().under_way.get_mut(&presented).unwrap() -= 1;
        };
        // Within anybody's patience: an answer that is given up is a fault by itself, and fate has those.
        tokio::time::sleep(dice.millis(if is_calm { 50 } else { 2900 })).await;
        // Another fault may have come in the meantime.
        let fate = match truth.is_down.load(Ordering::SeqCst) {
            true => 0,
            false if is_calm || truth.is_merciful() => 99,
            false => dice.below(20),
        };
        match fate {
            0 => {
                leave(&truth);
                return Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
            }
            1 => {
                leave(&truth);
                let retry_after = Some(Duration::from_secs(dice.below(60)));
                return Err(ProviderError::RateLimited { retry_after });
            }
            // Lost on the way there: nothing was spent, and nobody knows.
            2 => {
                leave(&truth);
                truth.show_mercy();
                return Err(ProviderError::Ambiguous { cause: AmbiguousCause::Reset });
            }
            _ => {}
        }
        let answer = truth.spend(&name, presented, run);
        leave(&truth);
        let is_lost = fate == 3 || power.is_cut();
        if let (true, Ok(_)) = (is_lost, &answer) {
            truth.grants.lock().unwrap().get_mut(&name).unwrap().lost_an_answer = true;
        }
        if fate == 3 {
            truth.show_mercy();
            let cause = if dice.one_in(2) {
                AmbiguousCause::Reset
            } else {
                let retry_after = dice.one_in(2).then(|| Duration::from_secs(dice.below(60)));
                AmbiguousCause::Status { status: 502, retry_after }
            };
            return Err(ProviderError::Ambiguous { cause });
        }
        if let (Ok(number), false) = (&answer, power.is_cut()) {
            let mut grants = truth.grants.lock().unwrap();
            let grant = grants.get_mut(&name).unwrap();
            grant.delivered = grant.delivered.max(*number);
        }
        answer
    }

    /// A refresh token is presented. Answers the grant and the number of what it brought.
    pub(super) async fn present(&self, refresh: &RefreshToken) -> Result<(String, u32), ProviderError> {
        let (name, presented) = split(refresh.value.expose());
        self.truth.check_arrival(&name, presented, refresh, self.run).await;
        let mut wait = Wait {
            truth: self.truth.clone(),
            power: self.power.clone(),
            name: name.clone(),
            presented,
            run: self.run,
            since: Instant::now(),
            patience: self.patience(&name).await,
            is_over: false,
        };
        let work = Self::process(self.truth.clone(), self.power.clone(), self.run, name.clone(), presented);
        let answer = tokio::spawn(work).await.unwrap();
        self.power.hold().await;
        wait.is_over = true;
        self.truth.tell(&name, answer.as_ref().err().and_then(ProviderError::asked_wait));
        if let Ok(number) = &answer {
            self.truth.has_arrived(&name, *number, self.run);
            let mut grants = self.truth.grants.lock().unwrap();
            grants.get_mut(&name).unwrap().answered.insert(presented);
            let is_replaced = self.truth.stored.lock().unwrap().get(owner(&name)) != Some(&name);
            self.truth.met.lock().unwrap().stale += u64::from(is_replaced);
        }
        answer.map(|number| (name, number))
    }
}

#[async_trait]
impl ProviderClient for SimProvider {
    fn key(&self) -> &ProviderKey {
        &self.key
    }

    fn info(&self) -> ProviderInfo {
        let health = self.gate.as_ref().and_then(Gate::health);
        ProviderInfo { key: self.key.to_string(), health, ..ProviderInfo::default() }
    }

    fn is_enabled(&self) -> bool {
        true
    }

    fn default_scopes(&self) -> &Scopes {
        &self.scopes
    }

    fn check_extra(&self, _: &[(String, String)]) -> Result<(), Vec<Mistake>> {
        Ok(())
    }

    async fn authorization_url(&self, _: &AuthorizationRequest) -> Result<url::Url, ProviderError> {
        Err(ProviderError::Malformed)
    }

    async fn accepts_issuer(&self, _: Option<&str>) -> Result<bool, ProviderError> {
        Ok(true)
    }

    async fn exchange(&self, _: &CodeGrant) -> Result<IssuedTokens, ProviderError> {
        Err(ProviderError::Malformed)
    }

    fn reuse_profile(&self) -> ReuseProfile {
        self.peer.truth.reuse()
    }

    async fn admit(&self, urgency: Urgency) -> Result<Admission, ProviderError> {
        tokio::time::sleep(self.peer.truth.dice.millis(20)).await;
        self.peer.power.hold().await;
        let admission = match &self.gate {
            Some(gate) => gate.admit(urgency).await?,
            None => Admission::holding(()),
        };
        self.peer.truth.met.lock().unwrap().ahead += u64::from(urgency == Urgency::Ahead);
        Ok(admission)
    }

    async fn refresh(
        &self,
        admission: Admission,
        refresh: &RefreshToken,
        patience: Duration,
    ) -> Result<IssuedTokens, ProviderError> {
        self.peer.power.hold().await;
        match &self.gate {
            Some(gate) => gate.refresh(admission, refresh, patience).await,
            None => {
                let (grant, number) = in_time(patience, self.peer.present(refresh)).await?;
                Ok(issued(&grant, number))
            }
        }
    }

    async fn revoke(&self, tokens: &TokenSet) -> Result<Revocation, ProviderError> {
        self.peer.power.hold().await;
        tokio::time::sleep(self.peer.truth.dice.millis(500)).await;
        self.peer.power.hold().await;
        let truth = &self.peer.truth;
        let presented = tokens.refresh.as_ref().map(|refresh| refresh.value.expose().as_str());
        if let Some(presented) = presented {
            truth.check_wait(presented);
        }
        if !truth.is_merciful() && truth.dice.one_in(6) {
            let wait = Duration::from_secs(truth.dice.below(60));
            if let Some(presented) = presented {
                truth.tell(presented, Some(wait));
            }
            return Err(ProviderError::RateLimited { retry_after: Some(wait) });
        }
        if !truth.is_merciful() && truth.dice.one_in(3) {
            return Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
        }
        if let Some(refresh) = &tokens.refresh {
            let (name, number) = split(refresh.value.expose());
            let mut grants = self.peer.truth.grants.lock().unwrap();
            let grant = grants.get_mut(&name).unwrap();
            grant.revoked.insert(number);
            grant.is_dead |= self.peer.truth.kind != Kind::Reusable;
        }
        Ok(Revocation::Revoked)
    }

    async fn account(&self, _: &AccessToken) -> Result<Option<Account>, ProviderError> {
        Ok(None)
    }
}
