//! The ground truth: a provider that knows what it issued, notes what is presented, and breaks off as the dice fall.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use token_broker::connection::reuse::{Reuse, ReuseProfile};
use token_broker::connection::{
    AccessToken, Account, ConnectionId, IssuedTokens, ProviderKey, RefreshToken, Scopes, Status, TokenSet,
};
use token_broker::error::{AmbiguousCause, Mistake, OAuthCode, ProviderError, Unsent};
use token_broker::provider::{
    Admission, AuthorizationRequest, CodeGrant, ProviderClient, ProviderInfo, Revocation, Urgency,
};
use token_broker::secret::Secret;
use token_broker::store::TokenStore as _;
use token_broker::store::memory::MemoryStore;
use tokio::time::Instant;

use super::world::{Dice, Power};

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
    newest: u32,
    rotated_at: Option<Instant>,
    pub(super) is_dead: bool,
    /// A request was processed and its answer reached nobody.
    pub(super) lost_an_answer: bool,
    /// The newest refresh token that arrived at a living broker.
    pub(super) delivered: u32,
    pub(super) revoked: BTreeSet<u32>,
    /// Requests under way, by the number of the token they present.
    under_way: BTreeMap<u32, u32>,
    /// Tokens that were presented and answered with success.
    answered: BTreeSet<u32>,
}

/// What all runs of the broker share.
pub(super) struct Truth {
    pub(super) kind: Kind,
    pub(super) dice: Arc<Dice>,
    pub(super) grants: Mutex<BTreeMap<String, Grant>>,
    pub(super) broken: Mutex<Vec<String>>,
    pub(super) requests: Mutex<u64>,
    mercy_until: Mutex<Option<Instant>>,
    /// No more faults.
    pub(super) is_calm: std::sync::atomic::AtomicBool,
    pub(super) disk: Arc<MemoryStore>,
}

impl Truth {
    pub(super) fn new(kind: Kind, dice: Arc<Dice>, disk: Arc<MemoryStore>) -> Self {
        Self {
            kind,
            dice,
            grants: Mutex::default(),
            broken: Mutex::default(),
            requests: Mutex::default(),
            mercy_until: Mutex::default(),
            is_calm: std::sync::atomic::AtomicBool::new(false),
            disk,
        }
    }

    pub(super) fn reuse(&self) -> ReuseProfile {
        let reuse = match self.kind {
            Kind::Reusable => Reuse::Reusable,
            Kind::Grace => Reuse::Grace { window: GRACE, max_uses: 9, is_same_pair: true },
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
        self.is_calm.load(std::sync::atomic::Ordering::SeqCst)
            || self.mercy_until.lock().unwrap().is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.grants.lock().unwrap().values().all(|grant| grant.under_way.values().all(|count| *count == 0))
    }

    /// A process was killed: what it had been told and not stored, nobody knows any more.
    pub(super) fn forget_unstored(&self, name: &str, stored: Option<u32>) {
        let mut grants = self.grants.lock().unwrap();
        let grant = grants.get_mut(name).unwrap();
        if let Some(stored) = stored {
            grant.lost_an_answer |= grant.newest > stored;
            grant.delivered = stored;
        }
        grant.answered.clear();
    }

    /// Whether a refresh token would be taken.
    pub(super) fn would_take(&self, name: &str, presented: u32) -> bool {
        let grants = self.grants.lock().unwrap();
        let grant = &grants[name];
        !grant.is_dead && (self.kind == Kind::Reusable || grant.newest == presented)
    }

    /// What the provider does with a refresh token.
    fn spend(&self, name: &str, presented: u32) -> Result<u32, ProviderError> {
        let mut grants = self.grants.lock().unwrap();
        let grant = grants.get_mut(name).unwrap();
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
        } else if !is_repeated {
            grant.is_dead = true;
            return denied;
        }
        Ok(grant.newest)
    }

    /// What must hold whenever a request arrives.
    async fn check_arrival(&self, name: &str, presented: u32, token: &RefreshToken) {
        *self.requests.lock().unwrap() += 1;
        let id = ConnectionId::parse(String::new(), "sim".into(), name.into()).unwrap();
        match self.disk.get(&id).await.unwrap() {
            None => self.breach(format!("I2: {name} is asked for without a record")),
            Some(stored) => {
                let profile = &stored.value.profile;
                let is_named =
                    profile.intent.as_ref().is_some_and(|intent| intent.fingerprint == token.fingerprint());
                if !is_named {
                    self.breach(format!("I2: rt-{presented} of {name} left without a durable intent"));
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
        if self.kind != Kind::Reusable && grant.answered.contains(&presented) {
            self.breach(format!("I13: rt-{presented} of {name} was answered and is presented again"));
        }
    }
}

/// The provider as one run of the broker reaches it.
pub(super) struct SimProvider {
    pub(super) key: ProviderKey,
    pub(super) scopes: Scopes,
    pub(super) truth: Arc<Truth>,
    pub(super) power: Power,
}

fn split(token: &RefreshToken) -> (String, u32) {
    let text = token.value.expose();
    let (name, number) = text.strip_prefix("rt-").unwrap().rsplit_once('-').unwrap();
    (name.to_owned(), number.parse().unwrap())
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

/// Whoever waits for an answer. One that is given up because it takes too long is lost, which is a fault.
struct Wait {
    truth: Arc<Truth>,
    is_over: bool,
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !self.is_over {
            self.truth.show_mercy();
        }
    }
}

impl SimProvider {
    /// The life of a request, which goes on whether or not somebody still waits for it.
    async fn process(
        truth: Arc<Truth>,
        power: Power,
        name: String,
        presented: u32,
    ) -> Result<u32, ProviderError> {
        let dice = truth.dice.clone();
        let is_calm = truth.is_merciful();
        let leave = |truth: &Truth| {
            let mut grants = truth.grants.lock().unwrap();
            *grants.get_mut(&name).unwrap().under_way.get_mut(&presented).unwrap() -= 1;
        };
        tokio::time::sleep(dice.millis(if is_calm { 50 } else { 3000 })).await;
        // Another fault may have come in the meantime.
        let fate = if is_calm || truth.is_merciful() { 99 } else { dice.below(20) };
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
        let answer = truth.spend(&name, presented);
        leave(&truth);
        let is_lost = fate == 3 || power.is_cut();
        if let (true, Ok(_)) = (is_lost, &answer) {
            truth.grants.lock().unwrap().get_mut(&name).unwrap().lost_an_answer = true;
        }
        if fate == 3 {
            truth.show_mercy();
            let cause = if dice.one_in(2) { AmbiguousCause::Reset } else { AmbiguousCause::Status(502) };
            return Err(ProviderError::Ambiguous { cause });
        }
        if let (Ok(number), false) = (&answer, power.is_cut()) {
            let mut grants = truth.grants.lock().unwrap();
            let grant = grants.get_mut(&name).unwrap();
            grant.delivered = grant.delivered.max(*number);
        }
        answer
    }
}

#[async_trait]
impl ProviderClient for SimProvider {
    fn key(&self) -> &ProviderKey {
        &self.key
    }

    fn info(&self) -> ProviderInfo {
        ProviderInfo { key: self.key.to_string(), ..ProviderInfo::default() }
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
        self.truth.reuse()
    }

    async fn admit(&self, _: Urgency) -> Result<Admission, ProviderError> {
        tokio::time::sleep(self.truth.dice.millis(20)).await;
        self.power.hold().await;
        Ok(Admission::holding(()))
    }

    async fn refresh(&self, _: Admission, refresh: &RefreshToken) -> Result<IssuedTokens, ProviderError> {
        self.power.hold().await;
        let (name, presented) = split(refresh);
        self.truth.check_arrival(&name, presented, refresh).await;
        let mut wait = Wait { truth: self.truth.clone(), is_over: false };
        let work = Self::process(self.truth.clone(), self.power.clone(), name.clone(), presented);
        let answer = tokio::spawn(work).await.unwrap();
        wait.is_over = true;
        self.power.hold().await;
        if answer.is_ok() {
            let mut grants = self.truth.grants.lock().unwrap();
            grants.get_mut(&name).unwrap().answered.insert(presented);
        }
        answer.map(|number| issued(&name, number))
    }

    async fn revoke(&self, tokens: &TokenSet) -> Result<Revocation, ProviderError> {
        self.power.hold().await;
        tokio::time::sleep(self.truth.dice.millis(500)).await;
        self.power.hold().await;
        if !self.truth.is_merciful() && self.truth.dice.one_in(3) {
            return Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
        }
        if let Some(refresh) = &tokens.refresh {
            let (name, number) = split(refresh);
            let mut grants = self.truth.grants.lock().unwrap();
            let grant = grants.get_mut(&name).unwrap();
            grant.revoked.insert(number);
            grant.is_dead |= self.truth.kind != Kind::Reusable;
        }
        Ok(Revocation::Revoked)
    }

    async fn account(&self, _: &AccessToken) -> Result<Option<Account>, ProviderError> {
        Ok(None)
    }
}
