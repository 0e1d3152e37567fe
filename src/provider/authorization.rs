//! The URL that starts a consent (RFC 6749 section 4.1.1), and what a caller may add to it.

use std::borrow::Cow;

use url::Url;

use super::AuthorizationRequest;
use super::spec::{PROTOCOL_PARAMETERS, ProviderSpec};
use super::url::CheckedUrl;
use super::wire::{Params, unusable};
use crate::error::{Mistake, ProviderError};

/// The longest value that a caller may add.
const LONGEST_EXTRA: usize = 2048;

/// Every mistake in what a caller wants to add: only what the spec lists, and never the protocol's own.
pub(in crate::provider) fn check_extra(
    spec: &ProviderSpec,
    extra: &[(String, String)],
) -> Result<(), Vec<Mistake>> {
    let mut mistakes = Vec::new();
    for (index, (name, value)) in extra.iter().enumerate() {
        let message = if !spec.caller_parameters.contains(name) {
            match spec.caller_parameters.as_slice() {
                [] => "this provider takes no extra parameters (caller_parameters in its entry)".to_owned(),
                allowed => format!("is not among those this provider takes: {}", allowed.join(", ")),
            }
        } else if extra[..index].iter().any(|(earlier, _)| earlier == name) {
            "is given twice".to_owned()
        } else if value.len() > LONGEST_EXTRA || value.chars().any(char::is_control) {
            format!("must be at most {LONGEST_EXTRA} bytes without control characters")
        } else {
            continue;
        };
        mistakes.push(Mistake { field: format!("extra_parameters.{name}"), message });
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

/// Builds the URL. What the caller adds may replace what the spec sets for offline access, never the protocol's own.
pub(in crate::provider) fn url(
    spec: &ProviderSpec,
    client_id: &str,
    endpoint: &CheckedUrl,
    request: &AuthorizationRequest,
) -> Result<Url, ProviderError> {
    // RFC 6749 section 3.1: the endpoint may have a query, but no parameter may come twice.
    let clashes = endpoint.as_url().query_pairs().any(|(name, _)| PROTOCOL_PARAMETERS.contains(&&*name));
    if clashes || check_extra(spec, &request.extra).is_err() {
        return Err(unusable("invalid_authorization_request"));
    }
    let mut params = Params::default();
    params.set("response_type", "code");
    params.set("client_id", client_id);
    params.set("redirect_uri", &request.redirect_uri);
    let scopes = scopes(spec, request);
    if !scopes.is_empty() {
        params.set(&spec.scope_style.parameter, scopes);
    }
    for (parameter, class) in &spec.scope_style.more {
        params.set(parameter, class.join(&spec.scope_style.separator));
    }
    for (name, value) in &spec.offline.authorization {
        params.set(name, value);
    }
    for (name, value) in &request.extra {
        params.set(name, value);
    }
    if let Some(hint) = &request.login_hint {
        params.set("login_hint", hint);
    }
    params.set("state", request.state.expose());
    params.set("code_challenge", &request.code_challenge);
    params.set("code_challenge_method", "S256");
    params.reshape(&spec.requests.authorization, |name| match name {
        "client_id" => Some(Cow::Borrowed(client_id)),
        "redirect_uri" => Some(Cow::Borrowed(request.redirect_uri.as_str())),
        _ => None,
    });
    let mut url = endpoint.as_url().clone();
    params.into_query(&mut url);
    Ok(url)
}

/// The scopes as the provider wants them written, with the one that offline access needs.
fn scopes(spec: &ProviderSpec, request: &AuthorizationRequest) -> String {
    if !spec.scope_style.sent {
        return String::new();
    }
    let mut scopes: Vec<&str> = request.scopes.as_slice().iter().map(String::as_str).collect();
    if let Some(offline) = spec.offline.scope.as_deref()
        && !scopes.contains(&offline)
    {
        scopes.push(offline);
    }
    scopes.join(&spec.scope_style.separator)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::provider::url::PlainHttp;
    use crate::secret::Secret;

    fn request(extra: &[(&str, &str)]) -> AuthorizationRequest {
        AuthorizationRequest {
            redirect_uri: "https://app.example/callback/x".to_owned(),
            scopes: ["a", "b"].into_iter().collect(),
            state: Secret::new("the-state".to_owned()),
            code_challenge: "the-challenge".to_owned(),
            login_hint: Some("alice@example.com".to_owned()),
            extra: extra.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }

    fn built(
        spec: serde_json::Value,
        extra: &[(&str, &str)],
    ) -> Result<BTreeMap<String, String>, ProviderError> {
        let spec: ProviderSpec = serde_json::from_value(spec).unwrap();
        let endpoint = CheckedUrl::parse("https://as.example/auth?keep=1", PlainHttp::LoopbackOnly).unwrap();
        let url = url(&spec, "client", &endpoint, &request(extra))?;
        assert_eq!(url.path(), "/auth");
        Ok(url.query_pairs().into_owned().collect())
    }

    #[test]
    fn the_protocols_parameters_are_always_there() {
        let query = built(json!({}), &[]).unwrap();
        let expected = [
            ("client_id", "client"),
            ("code_challenge", "the-challenge"),
            ("code_challenge_method", "S256"),
            ("keep", "1"),
            ("login_hint", "alice@example.com"),
            ("redirect_uri", "https://app.example/callback/x"),
            ("response_type", "code"),
            ("scope", "a b"),
            ("state", "the-state"),
        ];
        assert_eq!(query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn offline_access_scope_style_and_shape_come_from_the_spec() {
        let spec = json!({
            "offline": {"scope": "off", "authorization": {"access_type": "offline", "prompt": "consent"}},
            "scope_style": {"separator": ",", "more": {"user_scope": ["u1", "u2"]}},
            "requests": {"authorization": {"set": {"audience": "api.{client_id}"}, "rename": {"client_id": "app"}}},
            "caller_parameters": ["prompt"],
        });
        let query = built(spec, &[("prompt", "login")]).unwrap();
        for (name, value) in [
            ("scope", "a,b,off"),
            ("user_scope", "u1,u2"),
            ("access_type", "offline"),
            ("prompt", "login"),
            ("audience", "api.client"),
            ("app", "client"),
        ] {
            assert_eq!(query.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!query.contains_key("client_id"));
    }

    #[test]
    fn a_caller_adds_only_what_is_allowed_and_hears_of_every_mistake() {
        let spec: ProviderSpec = serde_json::from_value(json!({"caller_parameters": ["prompt"]})).unwrap();
        let extra = |list: &[(&str, &str)]| {
            let extra = request(list).extra;
            check_extra(&spec, &extra).map_err(|mistakes| mistakes.len())
        };
        assert_eq!(extra(&[("prompt", "login")]), Ok(()));
        assert_eq!(
            extra(&[("state", "x"), ("redirect_uri", "https://evil.example"), ("prompt", "a\nb")]),
            Err(3)
        );
        assert_eq!(extra(&[("prompt", "a"), ("prompt", "b")]), Err(1));
        assert!(built(json!({}), &[("state", "x")]).is_err(), "the builder checks again");
    }
}
