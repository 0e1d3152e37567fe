//! What an answer of the token endpoint means. Decided here, once, for every caller.
//!
//! Owns the reading of bodies and the table from statuses and error codes to [`ProviderError`]. Knows no network.
//! Invariant: only the provider's own word, in a reply that is not a server error, ends a grant; and no text of the
//! provider's leaves but its error code.

mod json;
mod token;

use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::Value;

use super::http::Answer;
use super::spec::ProviderSpec;
use super::spec::outcome::{ErrorRule, ErrorSource, Meaning};
use super::spec::reply::Decode;
use crate::clock::Timestamp;
use crate::error::{AmbiguousCause, OAuthCode, ProviderError, Unsent};

pub(in crate::provider) use json::read_json;
pub(in crate::provider) use token::{Facts, read_account};

/// The longest time a provider can make us wait with `Retry-After`.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Which request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::provider) enum Asked {
    /// A code was presented.
    Exchange,
    /// A refresh token was presented.
    Refresh,
    /// A token was to be revoked.
    Revoke,
}

/// The body of a success, or what the failure means.
pub(in crate::provider) fn judge(
    spec: &ProviderSpec,
    asked: Asked,
    answer: &Answer,
    now: Timestamp,
) -> Result<Value, ProviderError> {
    let status = answer.status.as_u16();
    let retry_after = retry_after(&answer.headers, now);
    let value = match &answer.body {
        Ok(body) => Ok(decode(body.expose(), &answer.headers, spec.response.decode)),
        Err(cause) => Err(*cause),
    };
    let read = value.as_ref().ok().and_then(Option::as_ref);
    let is_confirmed = read
        .zip(spec.response.success_when.as_ref())
        .map(|(reply, equals)| equals.path.find(reply) == Some(&equals.is));
    let code = read.filter(|_| is_confirmed != Some(true)).and_then(|reply| spec.response.error.text(reply));
    let code = code.as_deref();

    if let Some(meaning) =
        spec.errors.iter().find(|rule| matches(rule, spec, status, code, read)).map(|rule| rule.means)
    {
        return Err(mean(meaning, code, status, retry_after));
    }
    match status {
        429 => Err(ProviderError::RateLimited { retry_after }),
        500.. => Err(ambiguous(AmbiguousCause::Status { status, retry_after })),
        // Whoever redirects a token request did not process it, and we do not follow.
        ..200 | 300..400 => Err(ProviderError::Malformed),
        200..300 if code.is_none() => match value {
            Ok(Some(reply))
                if spec.response.success_status.contains(&status) && is_confirmed != Some(false) =>
            {
                Ok(reply)
            }
            Ok(_) => Err(ambiguous(AmbiguousCause::Unparsable)),
            Err(cause) => Err(ambiguous(cause)),
        },
        _ => Err(refusal(spec, asked, code, answer, retry_after)),
    }
}

/// Whether a rule speaks about this reply. A rule without a status never speaks about server errors: what a proxy or a
/// broken database writes into a 5xx is not the provider's word.
fn matches(
    rule: &ErrorRule,
    spec: &ProviderSpec,
    status: u16,
    code: Option<&str>,
    reply: Option<&Value>,
) -> bool {
    let is_its_status = if rule.status.is_empty() { status < 500 } else { rule.status.contains(&status) };
    if rule.at != ErrorSource::Token || !is_its_status {
        return false;
    }
    if rule.is.is_empty() && rule.matches.is_none() {
        return true;
    }
    let found = match &rule.path {
        Some(path) => reply.and_then(|reply| path.text(reply)),
        None => code.map(Into::into).or_else(|| reply.and_then(|reply| spec.response.error.text(reply))),
    };
    let Some(text) = found else { return false };
    (rule.is.is_empty() || rule.is.iter().any(|is| *is == text))
        && rule.matches.as_ref().is_none_or(|pattern| pattern.matches_part(&text))
}

fn mean(meaning: Meaning, code: Option<&str>, status: u16, retry_after: Option<Duration>) -> ProviderError {
    let word = OAuthCode::new(code.unwrap_or_default());
    match meaning {
        Meaning::Dead | Meaning::Consent | Meaning::StepUp => ProviderError::Denied(word),
        Meaning::ClientBroken => ProviderError::Misconfigured(word),
        // The check lets no row of the token endpoint say `token_bad`: no access token is presented there.
        Meaning::Transient | Meaning::TokenBad => {
            ProviderError::Unavailable { cause: Unsent::Refused(status), retry_after }
        }
        Meaning::Throttled => ProviderError::RateLimited { retry_after },
        Meaning::Ambiguous => ambiguous(AmbiguousCause::Status { status, retry_after }),
    }
}

/// A refusal by code: what the spec calls death, then the RFCs, then "it refused, try again later".
fn refusal(
    spec: &ProviderSpec,
    asked: Asked,
    code: Option<&str>,
    answer: &Answer,
    retry_after: Option<Duration>,
) -> ProviderError {
    let status = answer.status.as_u16();
    let refused = ProviderError::Unavailable { cause: Unsent::Refused(status), retry_after };
    let Some(code) = code else {
        // RFC 6749 section 5.2 lets 401 with a challenge stand for invalid_client; a bare 401 may be a proxy's.
        let is_challenge = status == 401 && answer.headers.contains_key(WWW_AUTHENTICATE);
        return if is_challenge { ProviderError::Misconfigured(OAuthCode::new("")) } else { refused };
    };
    let word = OAuthCode::new(code);
    let is_dead = match asked {
        Asked::Exchange => code == "invalid_grant",
        // Google's word for a token that is revoked already, or that it does not know.
        Asked::Revoke => code == "invalid_token",
        Asked::Refresh => false,
    };
    if is_dead || spec.dead_when.iter().any(|dead| dead == code) {
        return ProviderError::Denied(word);
    }
    match code {
        "invalid_client"
        | "invalid_redirect_uri"
        | "invalid_request"
        | "invalid_scope"
        | "invalid_target"
        | "redirect_uri_mismatch"
        | "unauthorized_client"
        | "unsupported_grant_type"
        | "unsupported_token_type" => ProviderError::Misconfigured(word),
        "slow_down" => ProviderError::RateLimited { retry_after },
        "server_error" => ambiguous(AmbiguousCause::Status { status, retry_after }),
        _ => refused,
    }
}

fn ambiguous(cause: AmbiguousCause) -> ProviderError {
    ProviderError::Ambiguous { cause }
}

/// The body as an object, or nothing where it is none.
pub(in crate::provider) fn decode(body: &[u8], headers: &HeaderMap, decode: Decode) -> Option<Value> {
    let is_form = match decode {
        Decode::Json => false,
        Decode::Form => true,
        Decode::Auto => headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded")),
    };
    if is_form { json::read_form(body) } else { read_json(body) }
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3), at most a day.
pub(in crate::provider) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            now.until(Timestamp::from_millis(date.as_millisecond()))
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests;
