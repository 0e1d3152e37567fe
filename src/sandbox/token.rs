//! The token endpoint and the revocation endpoint. Owns the order of their checks: client, parameters, token. Does not know
//! what reuse means (that is [`super::grant`]). Invariant: a request that fails authentication, PKCE or its scope
//! spends nothing.

use axum::http::StatusCode;
use bytes::Bytes;
use serde_json::json;

use super::authorization::CodeRefused;
use super::authorize::scopes;
use super::call::{Call, OAuthError, Reply};
use super::client::authenticated;
use super::grant::{End, RefreshIssued, Refused};
use super::ledger::{Ledger, Moment, TokenRef, TokenSet};
use super::record::Effect;

/// `POST /token` (RFC 6749 section 3.2).
pub(super) fn issue(ledger: &mut Ledger, moment: Moment<'_>, call: &Call) -> Reply {
    let outcome = client_id(ledger, call).and_then(|client_id| match call.form.one("grant_type")? {
        Some("authorization_code") => Ok(redeem(ledger, moment, call, &client_id)),
        Some("refresh_token") => Ok(refresh(ledger, moment, call, &client_id)),
        Some(_) => {
            Err(OAuthError::new("unsupported_grant_type", "only authorization_code and refresh_token"))
        }
        None => Err(OAuthError::invalid_request("grant_type is missing")),
    });
    match outcome {
        Ok(Ok(reply)) => reply,
        Ok(Err(Failure { error, family_ended })) => Reply::error(&error, family_ended),
        Err(error) => Reply::error(&error, false),
    }
}

/// `POST /revoke` (RFC 7009): an unknown token, or another client's, is answered like a known one.
pub(super) fn revoke(ledger: &mut Ledger, _: Moment<'_>, call: &Call) -> Reply {
    let named = client_id(ledger, call).and_then(|client_id| {
        let token = call.form.one("token")?.ok_or(OAuthError::invalid_request("token is missing"))?;
        Ok((client_id, token.to_owned()))
    });
    let (client_id, token) = match named {
        Ok(named) => named,
        Err(error) => return Reply::error(&error, false),
    };
    if let Some(token) = ledger.token(&token).filter(|token| is_of(ledger, *token, &client_id)) {
        ledger.revoke(token);
    }
    Reply { status: StatusCode::OK, headers: Vec::new(), body: Bytes::new(), effect: Effect::Revoked }
}

/// An error, and whether it ended a grant.
struct Failure {
    error: OAuthError,
    family_ended: bool,
}

impl From<OAuthError> for Failure {
    fn from(error: OAuthError) -> Self {
        Self { error, family_ended: false }
    }
}

fn redeem(ledger: &mut Ledger, moment: Moment<'_>, call: &Call, client_id: &str) -> Result<Reply, Failure> {
    let parameter = |name, missing| -> Result<&str, OAuthError> {
        call.form.one(name)?.ok_or(OAuthError::invalid_request(missing))
    };
    let code = parameter("code", "code is missing")?;
    let redirect_uri = parameter("redirect_uri", "redirect_uri is missing")?;
    let verifier = parameter("code_verifier", "code_verifier is missing")?;
    match ledger.authorizations.check(code, client_id, redirect_uri, verifier, moment.now) {
        Ok(approved) => {
            let asked = approved.scopes.clone();
            let (grant, set) = ledger.begin(&approved.account, client_id, approved.scopes, moment);
            ledger.authorizations.use_up(code, grant);
            Ok(granted(ledger, &set, &asked, Effect::Granted))
        }
        Err(CodeRefused::Invalid(reason)) => Err(OAuthError::invalid_grant(reason).into()),
        Err(CodeRefused::Replayed(grant)) => {
            let family_ended = ledger.end(grant, End::Revoked);
            let error = OAuthError::invalid_grant("the code was used before; its grant is revoked");
            Err(Failure { error, family_ended })
        }
    }
}

fn refresh(ledger: &mut Ledger, moment: Moment<'_>, call: &Call, client_id: &str) -> Result<Reply, Failure> {
    let token = call.form.one("refresh_token").map_err(OAuthError::from)?;
    let token = token.ok_or(OAuthError::invalid_request("refresh_token is missing"))?;
    let asked = call.form.one("scope").map_err(OAuthError::from)?.map(scopes).transpose()?;
    let found = ledger.token(token).filter(|token| is_of(ledger, *token, client_id));
    let Some(TokenRef::Refresh(id, generation)) = found else {
        return Err(refused(ledger, Refused::Unknown));
    };
    let granted_before = ledger.grant(id).map(|grant| grant.scopes.clone()).unwrap_or_default();
    let asked = asked.unwrap_or_else(|| granted_before.clone());
    if asked.iter().any(|scope| !granted_before.contains(scope)) {
        let error = OAuthError::new("invalid_scope", "a scope was not granted by the person");
        return Err(error.into());
    }
    let scopes = ledger.behavior.narrowed(&asked);
    let set = ledger.refresh(id, generation, scopes, moment).map_err(|reason| refused(ledger, reason))?;
    let effect = match set.refresh {
        RefreshIssued::New(to) => Effect::Rotated { to },
        RefreshIssued::Same(generation) => Effect::Repeated { generation },
        RefreshIssued::Omitted => Effect::Renewed,
    };
    Ok(granted(ledger, &set, &asked, effect))
}

/// A refusal in the words that the profile has for it. Never says which of the reasons it was, as servers do not.
fn refused(ledger: &Ledger, reason: Refused) -> Failure {
    let refusal = &ledger.behavior.reuse.refusal;
    let error = OAuthError {
        status: StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST),
        ..OAuthError::new(&refusal.error, "the refresh token is not valid")
    };
    Failure { error, family_ended: reason == Refused::Reused { ended: true } }
}

/// A successful answer (RFC 6749 section 5.1). `asked` are the scopes the client believes it will get.
fn granted(ledger: &Ledger, set: &TokenSet, asked: &[String], effect: Effect) -> Reply {
    let behavior = &ledger.behavior;
    let mut body = json!({ "access_token": set.access_token.expose(), "token_type": "Bearer" });
    if behavior.states_expires_in {
        body["expires_in"] = behavior.lifetimes.access_token_ttl.as_secs().into();
    }
    if let Some(refresh_token) = &set.refresh_token {
        body["refresh_token"] = refresh_token.expose().as_str().into();
    }
    if behavior.states_scope || set.scopes != asked {
        body["scope"] = set.scopes.join(" ").into();
    }
    Reply::json(StatusCode::OK, &body, effect)
}

fn client_id(ledger: &Ledger, call: &Call) -> Result<String, OAuthError> {
    authenticated(call, |id| ledger.client(id)).map(|client| client.id.clone())
}

/// Whether the token was issued to this client.
fn is_of(ledger: &Ledger, token: TokenRef, client_id: &str) -> bool {
    ledger.grant(token.grant()).is_some_and(|grant| grant.client_id == client_id)
}
