//! The facts in a token reply: lifetimes, scopes, account. Reads what the spec says where it says.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::{Asked, read_json};
use crate::clock::Timestamp;
use crate::connection::{Account, Scopes, Told, alphabet};
use crate::provider::spec::ProviderSpec;
use crate::provider::spec::mint::Mint;
use crate::provider::spec::outcome::{Identity, IdentitySource};
use crate::provider::spec::reply::Expiry;
use crate::provider::spec::value::Pointer;
use crate::provider::variable;

/// No token lives longer for us than this, whatever the reply says.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How long a token lives of which neither the reply nor the spec says anything, though it can be refreshed.
const UNSAID_LIFE: Duration = Duration::from_secs(3600);

/// How far the provider's clock may be off ours.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// What a reply says besides the tokens.
#[derive(Debug)]
pub(in crate::provider) struct Facts {
    pub(in crate::provider) token_type: String,
    pub(in crate::provider) expires_in: Option<Duration>,
    pub(in crate::provider) refresh_expires_in: Option<Duration>,
    pub(in crate::provider) scopes: Option<Scopes>,
    pub(in crate::provider) account: Option<Account>,
    pub(in crate::provider) variables: Told,
}

impl Facts {
    /// Reads a reply; beside the facts comes the reply rewritten as RFC 6749 section 5.1 would have it. `None` where it
    /// holds no access token that can be sent, or a refresh token that cannot be read: the one before may be spent, and
    /// must not be kept as if none had come.
    pub(in crate::provider) fn read(
        spec: &ProviderSpec,
        asked: Asked,
        client_id: &str,
        reply: &Value,
        now: Timestamp,
    ) -> Option<(Self, Value)> {
        let at = &spec.response;
        let access_token =
            at.access_token.find(reply)?.as_str().filter(|text| alphabet::is_access_token(text))?;
        let refresh_token = match at.refresh_token.find(reply) {
            // Some servers write "" or null for none.
            None => None,
            Some(came) if came.as_str() == Some("") => None,
            Some(came) => Some(came.as_str().filter(|text| alphabet::is_refresh_token(text))?),
        };
        let mut canonical = Map::new();
        canonical.insert("access_token".to_owned(), json!(access_token));
        canonical.insert("token_type".to_owned(), json!("bearer"));
        if let Some(refresh_token) = refresh_token {
            canonical.insert("refresh_token".to_owned(), json!(refresh_token));
        }
        let is_refreshable = refresh_token.is_some() || asked == Asked::Refresh;
        let facts = Self {
            token_type: token_type(spec, reply),
            expires_in: access_life(spec, reply, now, is_refreshable),
            refresh_expires_in: spec.lifetimes.refresh_remaining.as_ref().and_then(|path| {
                Some(Duration::try_from_secs_f64(number(path.find(reply)?)?).ok()?.min(LONGEST_LIFE))
                    .filter(|life| !life.is_zero())
            }),
            scopes: at.scope.find(reply).and_then(|scope| read_scopes(spec, scope)),
            account: account(spec, client_id, reply, now),
            variables: variable::told(spec, reply),
        };
        Some((facts, Value::Object(canonical)))
    }
}

/// The token type as the provider spelled it, where it is a word at all.
fn token_type(spec: &ProviderSpec, reply: &Value) -> String {
    spec.response
        .token_type
        .text(reply)
        .filter(|text| {
            text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        .map_or_else(|| "Bearer".to_owned(), |text| text.into_owned())
}

fn access_life(spec: &ProviderSpec, reply: &Value, now: Timestamp, is_refreshable: bool) -> Option<Duration> {
    if matches!(spec.mint, Mint::Static) {
        return None;
    }
    let found = spec.response.expires.find(reply);
    let seconds = |factor: f64| {
        let seconds = number(found?)? * factor;
        Duration::try_from_secs_f64(seconds).ok()
    };
    let until = |millis: f64| {
        // Far beyond any date that a clock shows; the clamp below cuts it to size.
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and the life is clamped")]
        let end = Timestamp::from_millis(millis as i64);
        now.until(end)
    };
    let said = match spec.expiry {
        Expiry::Seconds => seconds(1.0),
        Expiry::Minutes => seconds(60.0),
        Expiry::Milliseconds => seconds(0.001),
        Expiry::EpochSeconds => found.and_then(number).map(|end| until(end * 1000.0)),
        Expiry::EpochMilliseconds => found.and_then(number).map(until),
        Expiry::Timestamp => found.and_then(Value::as_str).and_then(|text| {
            let end: jiff::Timestamp = text.parse().ok()?;
            Some(now.until(Timestamp::from_millis(end.as_millisecond())))
        }),
        Expiry::Never => return None,
        Expiry::Fixed | Expiry::Introspect | Expiry::Jwt => None,
    };
    // Nothing, zero and less are no lifetimes: some providers write 0 for "does not apply".
    said.filter(|life| !life.is_zero())
        .or_else(|| spec.lifetimes.access.map(Into::into))
        .or_else(|| is_refreshable.then_some(UNSAID_LIFE))
        .map(|life| life.min(LONGEST_LIFE))
}

/// A number, or a text that is one.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn read_scopes(spec: &ProviderSpec, scope: &Value) -> Option<Scopes> {
    let own = spec.scope_style.reply_separator.as_deref().unwrap_or_default();
    match scope {
        Value::String(text) => Some(
            text.split(|c: char| c.is_ascii_whitespace() || own.contains(c))
                .filter(|s| !s.is_empty())
                .collect(),
        ),
        Value::Array(items) => items.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn account(spec: &ProviderSpec, client_id: &str, reply: &Value, now: Timestamp) -> Option<Account> {
    match spec.identity.from {
        IdentitySource::Token => read_account(&spec.identity, reply),
        IdentitySource::IdToken => {
            let token = spec.response.id_token.find(reply)?.as_str()?;
            claims_account(spec, client_id, token, now)
        }
        IdentitySource::Userinfo
        | IdentitySource::Request
        | IdentitySource::Callback
        | IdentitySource::None => None,
    }
}

/// The account in an ID token that came from the token endpoint itself over TLS: there the TLS server validation may
/// stand for the signature (OpenID Connect Core 3.1.3.7 rule 6). Issuer, audience and expiry are checked. A token that
/// fails the check names nobody.
fn claims_account(spec: &ProviderSpec, client_id: &str, id_token: &str, now: Timestamp) -> Option<Account> {
    let mut parts = id_token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let claims = read_json(&URL_SAFE_NO_PAD.decode(payload).ok()?)?;
    let issuer = claims.get("iss")?.as_str()?;
    if !crate::provider::issuer::is_issuer(spec, issuer) {
        return None;
    }
    let is_for_us = match claims.get("aud")? {
        Value::String(audience) => audience == client_id,
        // Several audiences need `azp` (rule 4 and 5).
        Value::Array(audiences) => {
            audiences.iter().any(|audience| audience == client_id)
                && (audiences.len() == 1 || claims.get("azp").is_some_and(|party| party == client_id))
        }
        _ => false,
    };
    let expires_at = Timestamp::from_millis(claims.get("exp")?.as_i64()?.saturating_mul(1000));
    (is_for_us && expires_at + CLOCK_SKEW > now).then(|| read_account(&spec.identity, &claims)).flatten()
}

/// The account in any object, where the spec says. Every part of the id must be there.
pub(in crate::provider) fn read_account(identity: &Identity, reply: &Value) -> Option<Account> {
    let (default_id, default_email) = ([Pointer::fixed("/sub")], [Pointer::fixed("/email")]);
    let ids = if identity.id.is_empty() { &default_id[..] } else { &identity.id };
    let emails = if identity.email.is_empty() { &default_email[..] } else { &identity.email };
    let parts: Option<Vec<_>> =
        ids.iter().map(|path| path.text(reply).filter(|text| is_plain(text))).collect();
    let email = emails.iter().find_map(|path| path.text(reply)).filter(|text| is_plain(text));
    Some(Account { id: parts?.join(":"), email: email.map(std::borrow::Cow::into_owned) })
}

/// Short and without anything that could disturb a terminal or a log.
fn is_plain(text: &str) -> bool {
    text.len() <= 256 && !text.chars().any(char::is_control)
}
