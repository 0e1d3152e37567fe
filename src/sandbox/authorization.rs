//! Consents under way: the requests a person has yet to answer, and the codes that answers gave. Owns PKCE and the single
//! use of codes. Does not know pages or tokens. Invariant: a code is exchanged once; the second time it names the grant
//! to be revoked.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use crate::clock::Timestamp;

use super::ledger::digest;
use super::record::GrantId;

/// How long a consent page may stay open.
const PAGE_TTL: Duration = Duration::from_secs(600);
/// How long a code is remembered after it has died, so that a replay is known for one.
const CODE_MEMORY: Duration = Duration::from_secs(3600);

/// What a client asked for at the authorization endpoint, checked.
#[derive(Clone, Debug)]
pub(super) struct AuthorizationRequest {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) state: Option<String>,
    pub(super) scopes: Vec<String>,
    /// Of PKCE, method S256.
    pub(super) code_challenge: String,
    pub(super) login_hint: Option<String>,
}

/// Consent pages open and codes issued.
#[derive(Default)]
pub(super) struct Authorizations {
    pages: HashMap<String, (AuthorizationRequest, Timestamp)>,
    codes: HashMap<[u8; 32], Code>,
}

struct Code {
    request: AuthorizationRequest,
    account: String,
    scopes: Vec<String>,
    expires_at: Timestamp,
    /// The grant it was exchanged for.
    grant: Option<GrantId>,
}

/// What a code, found good, stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Approved {
    pub(super) account: String,
    pub(super) scopes: Vec<String>,
}

/// Why a code is not exchanged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CodeRefused {
    /// Unknown, expired, of another client or redirect URI, or the verifier does not match.
    Invalid(&'static str),
    /// It was exchanged before, for this grant.
    Replayed(GrantId),
}

impl Authorizations {
    /// Keeps a request until its page is answered under `handle`.
    pub(super) fn open(&mut self, handle: String, request: AuthorizationRequest, now: Timestamp) {
        self.pages.retain(|_, (_, expires_at)| now < *expires_at);
        self.pages.insert(handle, (request, now + PAGE_TTL));
    }

    /// The request whose page is open under `handle`.
    pub(super) fn page(&self, handle: &str, now: Timestamp) -> Option<&AuthorizationRequest> {
        self.pages.get(handle).filter(|(_, expires_at)| now < *expires_at).map(|(request, _)| request)
    }

    /// Closes the page: it can be answered once.
    pub(super) fn close(&mut self, handle: &str) {
        self.pages.remove(handle);
    }

    /// Enters a code for what a person approved.
    pub(super) fn issue(
        &mut self,
        code: &str,
        request: AuthorizationRequest,
        approved: Approved,
        (now, ttl): (Timestamp, Duration),
    ) {
        self.codes.retain(|_, code| now < code.expires_at + CODE_MEMORY);
        let Approved { account, scopes } = approved;
        let code_entry = Code { request, account, scopes, expires_at: now + ttl, grant: None };
        self.codes.insert(digest(code), code_entry);
    }

    /// The account behind a code, whatever its state.
    pub(super) fn account(&self, code: &str) -> Option<&str> {
        self.codes.get(&digest(code)).map(|code| code.account.as_str())
    }

    /// Checks a code against all it was issued for.
    pub(super) fn check(
        &self,
        code: &str,
        client_id: &str,
        redirect_uri: &str,
        verifier: &str,
        now: Timestamp,
    ) -> Result<Approved, CodeRefused> {
        let code = self.codes.get(&digest(code)).ok_or(CodeRefused::Invalid("the code is unknown"))?;
        if code.request.client_id != client_id {
            return Err(CodeRefused::Invalid("the code was issued to another client"));
        }
        if let Some(grant) = code.grant {
            return Err(CodeRefused::Replayed(grant));
        }
        if code.expires_at <= now {
            return Err(CodeRefused::Invalid("the code has expired"));
        }
        if code.request.redirect_uri != redirect_uri {
            return Err(CodeRefused::Invalid("redirect_uri differs from the authorization request's"));
        }
        let challenge = URL_SAFE_NO_PAD.encode(digest(verifier));
        if !bool::from(challenge.as_bytes().ct_eq(code.request.code_challenge.as_bytes())) {
            return Err(CodeRefused::Invalid("code_verifier does not match code_challenge"));
        }
        Ok(Approved { account: code.account.clone(), scopes: code.scopes.clone() })
    }

    /// Marks a code as exchanged for `grant`.
    pub(super) fn use_up(&mut self, code: &str, grant: GrantId) {
        if let Some(code) = self.codes.get_mut(&digest(code)) {
            code.grant = Some(grant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7636, appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn request() -> AuthorizationRequest {
        AuthorizationRequest {
            client_id: "app".to_owned(),
            redirect_uri: "http://127.0.0.1/cb".to_owned(),
            state: None,
            scopes: Vec::new(),
            code_challenge: CHALLENGE.to_owned(),
            login_hint: None,
        }
    }

    fn issued() -> Authorizations {
        let mut authorizations = Authorizations::default();
        let approved = Approved { account: "user-42".to_owned(), scopes: Vec::new() };
        authorizations.issue("code", request(), approved, (NOW, Duration::from_secs(60)));
        authorizations
    }

    #[test]
    fn a_code_is_bound_to_client_redirect_uri_verifier_and_time() {
        let authorizations = issued();
        let uri = "http://127.0.0.1/cb";
        let late = NOW + Duration::from_secs(60);
        assert!(authorizations.check("code", "app", uri, VERIFIER, NOW).is_ok());
        for (code, client, uri, verifier, now) in [
            ("other", "app", uri, VERIFIER, NOW),
            ("code", "other", uri, VERIFIER, NOW),
            ("code", "app", "http://127.0.0.1/cb/", VERIFIER, NOW),
            ("code", "app", uri, CHALLENGE, NOW),
            ("code", "app", uri, VERIFIER, late),
        ] {
            let refused = authorizations.check(code, client, uri, verifier, now);
            assert!(matches!(refused, Err(CodeRefused::Invalid(_))), "{code} {client} {uri} {verifier}");
        }
    }

    #[test]
    fn a_replayed_code_names_its_grant_even_when_it_has_expired() {
        let mut authorizations = issued();
        authorizations.use_up("code", GrantId(3));
        let late = NOW + Duration::from_secs(120);
        let replay = authorizations.check("code", "app", "http://127.0.0.1/cb", VERIFIER, late);
        assert_eq!(replay, Err(CodeRefused::Replayed(GrantId(3))));
    }

    #[test]
    fn a_page_is_answered_once_and_not_for_ever() {
        let mut authorizations = Authorizations::default();
        authorizations.open("handle".to_owned(), request(), NOW);
        assert!(authorizations.page("handle", NOW).is_some());
        assert!(authorizations.page("handle", NOW + PAGE_TTL).is_none());
        authorizations.close("handle");
        assert!(authorizations.page("handle", NOW).is_none());
    }
}
