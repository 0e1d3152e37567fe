//! The test's own hand on grants. Owns what no client can ask for: tokens without a consent, revocation behind everybody's
//! back, time running out early. Does not know HTTP. Invariant: it acts through the same books as the endpoints.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::secret::Secret;

use super::exchange::World;
use super::grant::{End, Generation};
use super::ledger::TokenRef;
use super::record::GrantId;

/// The grants of a sandbox. Clones share them.
#[derive(Clone)]
pub struct Grants {
    pub(super) world: Arc<World>,
    pub(super) client_id: Arc<str>,
}

/// A grant made by [`Grants::issue`], as if its consent had just been given.
#[derive(Clone, Debug)]
pub struct IssuedGrant {
    /// Its number.
    pub id: GrantId,
    /// Its first access token.
    pub access_token: Arc<Secret<String>>,
    /// Its first refresh token; `None` when the sandbox issues none.
    pub refresh_token: Option<Arc<Secret<String>>>,
    /// How long the access token lives.
    pub expires_in: Duration,
}

/// A grant as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantState {
    /// Its number.
    pub id: GrantId,
    /// Whose it is.
    pub account: String,
    /// Whom it was given to.
    pub client_id: String,
    /// What for.
    pub scopes: Vec<String>,
    /// The newest refresh token's number.
    pub newest: Option<Generation>,
    /// Why it issues no more, if so.
    pub ended: Option<End>,
}

impl Grants {
    /// Gives the sandbox's first client a grant on `account`, tokens and all.
    pub fn issue(&self, account: &str, scopes: &[&str]) -> IssuedGrant {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let mut ledger = self.world.ledger();
        let expires_in = ledger.behavior.lifetimes.access_token_ttl;
        let (id, set) = ledger.begin(account, &self.client_id, scopes, self.world.moment());
        IssuedGrant { id, access_token: set.access_token, refresh_token: set.refresh_token, expires_in }
    }

    /// Every grant, in order of consent.
    pub fn list(&self) -> Vec<GrantState> {
        let ledger = self.world.ledger();
        let states = ledger.grants().map(|(id, grant)| GrantState {
            id,
            account: grant.account.clone(),
            client_id: grant.client_id.clone(),
            scopes: grant.scopes.clone(),
            newest: grant.family.newest(),
            ended: grant.family.ended(),
        });
        states.collect()
    }

    /// Every token ever issued, spent and dead ones too: what must not be found where tokens do not belong.
    pub fn tokens(&self) -> Vec<Arc<Secret<String>>> {
        self.world.ledger().grants().flat_map(|(_, grant)| grant.values()).cloned().collect()
    }

    /// Ends a grant without telling anybody, as a person does in a provider's settings.
    pub fn revoke(&self, id: GrantId) {
        self.world.ledger().end(id, End::Revoked);
    }

    /// Ends every grant of an account.
    pub fn revoke_account(&self, account: &str) {
        let mut ledger = self.world.ledger();
        let theirs = ledger.grants_mut().filter(|grant| grant.account == account);
        theirs.for_each(|grant| grant.family.end(End::Revoked));
    }

    /// Lets every access token issued so far expire now. What clients were told of their lifetime stays said.
    pub fn expire_access_tokens(&self) {
        let now = self.world.clock.now();
        self.world.ledger().grants_mut().for_each(|grant| grant.family.expire_access(now));
    }

    /// The refresh token that an access token was last issued together with, by its number: who was served the one
    /// holds the other. `None` for a token that is unknown, or beside which another was issued since.
    pub fn issued_beside(&self, access_token: &str) -> Option<(GrantId, Generation)> {
        let ledger = self.world.ledger();
        let TokenRef::Access(id, serial) = ledger.token(access_token)? else { return None };
        Some((id, ledger.grant(id)?.family.issued_beside(serial)?))
    }

    /// Whether the access token is good at this moment.
    pub fn is_live(&self, access_token: &str) -> bool {
        self.world.ledger().bearer(access_token, self.world.clock.now()).is_some()
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}
