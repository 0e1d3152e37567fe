//! The books: clients, pending consents, codes, grants, and which token value stands for what. Owns everything the
//! endpoints share. Does not know HTTP. Invariant: a token is looked up by its digest, and whether it is good is asked
//! of its family alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::secret::Secret;

use super::authorization::Authorizations;
use super::behavior::Behavior;
use super::client::{Client, ClientAuth, ClientRegistration};
use super::grant::{AccessSerial, End, Family, Generation, Issued, RefreshIssued, Refused, Terms};
use super::record::GrantId;

/// The present, as one request sees it.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) now: Timestamp,
    pub(super) entropy: &'a dyn Entropy,
    pub(super) issuer: &'a str,
}

/// What a token value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenRef {
    Refresh(GrantId, Generation),
    Access(GrantId, AccessSerial),
}

impl TokenRef {
    pub(super) fn grant(self) -> GrantId {
        match self {
            Self::Refresh(grant, _) | Self::Access(grant, _) => grant,
        }
    }

    /// The number of a refresh token.
    pub(super) fn generation(self) -> Option<Generation> {
        match self {
            Self::Refresh(_, generation) => Some(generation),
            Self::Access(..) => None,
        }
    }
}

/// One consent: who gave it to whom, for what, and the tokens that came of it.
pub(super) struct Grant {
    pub(super) account: String,
    pub(super) client_id: String,
    pub(super) scopes: Vec<String>,
    pub(super) family: Family,
    /// The value of each refresh token: a grace answer repeats it.
    refresh_tokens: BTreeMap<Generation, Arc<Secret<String>>>,
    access_tokens: BTreeMap<AccessSerial, AccessToken>,
}

struct AccessToken {
    value: Arc<Secret<String>>,
    scopes: Vec<String>,
}

/// What a successful token request is answered with.
#[derive(Debug)]
pub(super) struct TokenSet {
    pub(super) access_token: Arc<Secret<String>>,
    pub(super) refresh_token: Option<Arc<Secret<String>>>,
    pub(super) scopes: Vec<String>,
    pub(super) refresh: RefreshIssued,
}

/// Who stands behind a bearer token.
pub(super) struct Bearer {
    pub(super) account: String,
    pub(super) scopes: Vec<String>,
}

/// All of it. Grants and tokens are kept for as long as the sandbox lives, or spent ones could not be told from
/// unknown ones.
pub(super) struct Ledger {
    pub(super) behavior: Behavior,
    pub(super) authorizations: Authorizations,
    clients: BTreeMap<String, Client>,
    grants: BTreeMap<GrantId, Grant>,
    tokens: HashMap<[u8; 32], TokenRef>,
}

pub(super) fn digest(value: &str) -> [u8; 32] {
    Sha256::digest(value.as_bytes()).into()
}

impl Ledger {
    pub(super) fn new(behavior: Behavior) -> Self {
        Self {
            behavior,
            authorizations: Authorizations::default(),
            clients: BTreeMap::new(),
            grants: BTreeMap::new(),
            tokens: HashMap::new(),
        }
    }

    /// Registers a client, or replaces one of the same id. Returns its secret, made here if none was given.
    pub(super) fn register(
        &mut self,
        registration: ClientRegistration,
        entropy: &dyn Entropy,
    ) -> Option<Arc<Secret<String>>> {
        let ClientRegistration { id, auth, secret, redirect_uris, any_loopback_port } = registration;
        let secret =
            (auth != ClientAuth::None).then(|| Arc::new(secret.unwrap_or_else(|| minted("sbx_cs", entropy))));
        let client =
            Client { id: id.clone(), auth, secret: secret.clone(), redirect_uris, any_loopback_port };
        self.clients.insert(id, client);
        secret
    }

    pub(super) fn client(&self, id: &str) -> Option<&Client> {
        self.clients.get(id)
    }

    pub(super) fn client_mut(&mut self, id: &str) -> Option<&mut Client> {
        self.clients.get_mut(id)
    }

    pub(super) fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(&id)
    }

    pub(super) fn grants_mut(&mut self) -> impl Iterator<Item = &mut Grant> {
        self.grants.values_mut()
    }

    pub(super) fn grants(&self) -> impl Iterator<Item = (GrantId, &Grant)> {
        self.grants.iter().map(|(id, grant)| (*id, grant))
    }

    pub(super) fn token(&self, value: &str) -> Option<TokenRef> {
        self.tokens.get(&digest(value)).copied()
    }

    /// Begins a grant with its first tokens, and ends the account's oldest ones where the behavior says so.
    pub(super) fn begin(
        &mut self,
        account: &str,
        client_id: &str,
        scopes: Vec<String>,
        moment: Moment<'_>,
    ) -> (GrantId, TokenSet) {
        let (family, issued) =
            Family::begun(moment.now, self.behavior.lifetimes, self.behavior.issues_refresh_tokens);
        let id = GrantId(self.grants.len() as u64 + 1);
        let mut grant = Grant {
            account: account.to_owned(),
            client_id: client_id.to_owned(),
            scopes: scopes.clone(),
            family,
            refresh_tokens: BTreeMap::new(),
            access_tokens: BTreeMap::new(),
        };
        let set = grant.valued(issued, scopes, moment.entropy);
        self.grants.insert(id, grant);
        self.enter(id, issued, &set);
        self.end_surplus(account, client_id);
        (id, set)
    }

    /// Answers a refresh, or refuses it.
    pub(super) fn refresh(
        &mut self,
        id: GrantId,
        presented: Generation,
        scopes: Vec<String>,
        moment: Moment<'_>,
    ) -> Result<TokenSet, Refused> {
        let grant = self.grants.get_mut(&id).ok_or(Refused::Unknown)?;
        let terms = Terms { now: moment.now, profile: &self.behavior.reuse, ttl: self.behavior.lifetimes };
        let issued = grant.family.refresh(presented, &terms)?;
        let set = grant.valued(issued, scopes, moment.entropy);
        self.enter(id, issued, &set);
        Ok(set)
    }

    /// Ends a grant. Whether it was alive until now.
    pub(super) fn end(&mut self, id: GrantId, end: End) -> bool {
        let Some(grant) = self.grants.get_mut(&id) else { return false };
        let was_alive = grant.family.ended().is_none();
        grant.family.end(end);
        was_alive
    }

    /// Revokes what a token stands for: a refresh token its whole grant, an access token only itself.
    pub(super) fn revoke(&mut self, token: TokenRef) {
        let Some(grant) = self.grants.get_mut(&token.grant()) else { return };
        match token {
            TokenRef::Refresh(..) => grant.family.end(End::Revoked),
            TokenRef::Access(_, serial) => grant.family.end_access(serial),
        }
    }

    /// Who stands behind a living access token.
    pub(super) fn bearer(&self, value: &str, now: Timestamp) -> Option<Bearer> {
        let TokenRef::Access(id, serial) = self.token(value)? else { return None };
        let grant = self.grants.get(&id).filter(|grant| grant.family.is_access_live(serial, now))?;
        let scopes = grant.access_tokens.get(&serial)?.scopes.clone();
        Some(Bearer { account: grant.account.clone(), scopes })
    }

    /// Ends the oldest living grants of an account beyond the number it may have. No one is told.
    fn end_surplus(&mut self, account: &str, client_id: &str) {
        let Some(allowed) = self.behavior.grants_per_account else { return };
        let is_theirs = |grant: &&mut Grant| {
            grant.account == account && grant.client_id == client_id && grant.family.ended().is_none()
        };
        let living = self.grants.values_mut().filter(is_theirs).count();
        let surplus = living.saturating_sub(allowed);
        self.grants
            .values_mut()
            .filter(is_theirs)
            .take(surplus)
            .for_each(|grant| grant.family.end(End::Revoked));
    }

    /// Makes the values of a token set findable.
    fn enter(&mut self, id: GrantId, issued: Issued, set: &TokenSet) {
        self.tokens.insert(digest(set.access_token.expose()), TokenRef::Access(id, issued.access.serial()));
        if let (Some(value), Some(generation)) = (&set.refresh_token, issued.refresh.generation()) {
            self.tokens.insert(digest(value.expose()), TokenRef::Refresh(id, generation));
        }
    }
}

impl Grant {
    /// Every token of it, dead or alive.
    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<Secret<String>>> {
        self.refresh_tokens.values().chain(self.access_tokens.values().map(|token| &token.value))
    }

    /// Gives values to what the family issued; what was issued before keeps the value it has.
    fn valued(&mut self, issued: Issued, scopes: Vec<String>, entropy: &dyn Entropy) -> TokenSet {
        let access = self
            .access_tokens
            .entry(issued.access.serial())
            .or_insert_with(|| AccessToken { value: Arc::new(minted("sbx_at", entropy)), scopes });
        let refresh_token = issued.refresh.generation().map(|generation| {
            let mint = || Arc::new(minted("sbx_rt", entropy));
            Arc::clone(self.refresh_tokens.entry(generation).or_insert_with(mint))
        });
        TokenSet {
            access_token: Arc::clone(&access.value),
            refresh_token,
            scopes: access.scopes.clone(),
            refresh: issued.refresh,
        }
    }
}

/// A fresh secret: 256 bits behind a prefix that a scan of logs and disks can look for.
pub(super) fn minted(prefix: &str, entropy: &dyn Entropy) -> Secret<String> {
    Secret::new(format!("{prefix}_{}", entropy.token::<32>()))
}
