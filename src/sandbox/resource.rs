//! What an access token opens: the userinfo endpoint and a resource that echoes. Owns bearer checks (RFC 6750). Does not
//! know how tokens are issued. Invariant: without a living access token nothing is said but 401.

use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use super::call::{Call, OAuthError, Reply};
use super::ledger::{Bearer, Ledger, Moment};
use super::record::Effect;

/// `/userinfo` (OpenID Connect Core section 5.3).
pub(super) fn user_info(ledger: &mut Ledger, moment: Moment<'_>, call: &Call) -> Reply {
    opened(ledger, moment, call, |ledger, bearer| {
        let account = ledger.behavior.account(&bearer.account);
        json!({ "sub": account.sub, "email": account.email, "email_verified": true, "name": account.name })
    })
}

/// Everything below `/api/`: says back what it was sent, without the token.
pub(super) fn echo(ledger: &mut Ledger, moment: Moment<'_>, call: &Call) -> Reply {
    opened(ledger, moment, call, |_, bearer| {
        let headers: Vec<Value> = call
            .headers
            .iter()
            .filter(|(name, _)| **name != AUTHORIZATION)
            .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
            .collect();
        json!({
            "account": bearer.account,
            "scope": bearer.scopes.join(" "),
            "method": call.method.as_str(),
            "target": call.uri.path_and_query().map(|target| target.as_str()),
            "headers": headers,
            "body": String::from_utf8_lossy(&call.body),
            "body_bytes": call.body.len(),
        })
    })
}

/// Serves what `body` says when the token is good; otherwise says 401 in RFC 6750's words.
fn opened(
    ledger: &Ledger,
    moment: Moment<'_>,
    call: &Call,
    body: impl FnOnce(&Ledger, &Bearer) -> Value,
) -> Reply {
    let Some(token) = call.authorization("bearer") else {
        // No token, no error code (RFC 6750 section 3.1).
        let mut reply = Reply::error(&unauthorized(), false);
        reply.header(WWW_AUTHENTICATE, "Bearer realm=\"sandbox\"");
        return reply;
    };
    let Some(bearer) = ledger.bearer(token, moment.now) else {
        let mut reply = Reply::error(&unauthorized(), false);
        let challenge = "Bearer realm=\"sandbox\", error=\"invalid_token\", \
                         error_description=\"the access token is unknown, expired or revoked\"";
        reply.header(WWW_AUTHENTICATE, challenge);
        return reply;
    };
    Reply::json(StatusCode::OK, &body(ledger, &bearer), Effect::Served)
}

fn unauthorized() -> OAuthError {
    OAuthError {
        status: StatusCode::UNAUTHORIZED,
        ..OAuthError::new("invalid_token", "a living access token is needed")
    }
}
