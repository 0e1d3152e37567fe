//! The metadata documents (OpenID Connect Discovery 1.0, RFC 8414). Owns what the sandbox announces. Does not know how it
//! is kept. Invariant: nothing is announced that the server does not do: there are no ID tokens, so no keys.

use axum::http::StatusCode;
use serde_json::json;

use super::behavior::IssuerParameter;
use super::call::{Call, Reply};
use super::ledger::{Ledger, Moment};
use super::record::Effect;

/// Both documents say the same.
pub(super) fn metadata(ledger: &mut Ledger, moment: Moment<'_>, _: &Call) -> Reply {
    let issuer = moment.issuer;
    let sends_iss = ledger.behavior.issuer_parameter != IssuerParameter::Omitted;
    let auth_methods = ["client_secret_basic", "client_secret_post", "none"];
    let body = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "revocation_endpoint": format!("{issuer}/revoke"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "scopes_supported": ["openid", "email", "profile", "offline_access"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": auth_methods,
        "revocation_endpoint_auth_methods_supported": auth_methods,
        "subject_types_supported": ["public"],
        "claims_supported": ["sub", "email", "email_verified", "name"],
        "prompt_values_supported": ["consent", "none"],
        "authorization_response_iss_parameter_supported": sends_iss,
    });
    Reply::json(StatusCode::OK, &body, Effect::Served)
}
