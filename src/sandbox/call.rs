//! One request as the endpoints read it, and the answer they give. Owns parameter parsing by RFC 6749's rules. Does not
//! know what any endpoint does with them. Invariant: credentials are read from the header and the form, never from
//! the query, and a parameter given twice is an error and not a choice.

use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::record::Effect;

/// A request, read whole.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) query: Params,
    /// Empty when the body is no form.
    pub(super) form: Params,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn new(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Self {
        let is_form = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            value
                .split(';')
                .next()
                .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
        });
        let query = Params::parse(uri.query().unwrap_or_default().as_bytes());
        let form = if is_form { Params::parse(&body) } else { Params::default() };
        Self { method, uri, headers, query, form, body }
    }

    /// What follows the scheme's name in the `Authorization` header.
    pub(super) fn authorization(&self, scheme: &str) -> Option<&str> {
        let (name, rest) = self.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        name.eq_ignore_ascii_case(scheme).then(|| rest.trim())
    }
}

/// Decoded parameters in the order given.
#[derive(Default)]
pub(super) struct Params(Vec<(String, String)>);

/// A parameter was given more than once (RFC 6749 section 3.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repeated(pub(super) &'static str);

impl Params {
    fn parse(text: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(text).into_owned().collect())
    }

    /// The parameter's value; one sent without a value counts as left out.
    pub(super) fn one(&self, name: &'static str) -> Result<Option<&str>, Repeated> {
        let mut values = self.all(name).filter(|value| !value.is_empty());
        let first = values.next();
        if values.next().is_some() { Err(Repeated(name)) } else { Ok(first) }
    }

    /// The parameter's first value, where a repetition is somebody else's to refuse.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// Every value of a parameter that may repeat: checkboxes.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A failure in OAuth's words: RFC 6749 sections 4.1.2.1 and 5.2, RFC 7009 section 2.2.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OAuthError {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) description: &'static str,
    /// Whether the client tried HTTP Basic and must be told the scheme.
    pub(super) challenges_basic: bool,
}

impl OAuthError {
    pub(super) fn new(code: &str, description: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: code.to_owned(), description, challenges_basic: false }
    }

    pub(super) fn invalid_request(description: &'static str) -> Self {
        Self::new("invalid_request", description)
    }

    pub(super) fn invalid_grant(description: &'static str) -> Self {
        Self::new("invalid_grant", description)
    }
}

impl From<Repeated> for OAuthError {
    fn from(_: Repeated) -> Self {
        Self::invalid_request("a parameter is given more than once")
    }
}

/// An endpoint's answer, and what giving it has changed.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    pub(super) effect: Effect,
}

impl Reply {
    pub(super) fn json(status: StatusCode, body: &Value, effect: Effect) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        Self { status, headers, body: Bytes::from(body.to_string()), effect }
    }

    pub(super) fn html(status: StatusCode, page: String, effect: Effect) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))];
        Self { status, headers, body: Bytes::from(page), effect }
    }

    /// 303: the browser goes on with GET, whatever it came with (RFC 9700 section 4.12).
    pub(super) fn see_other(location: &str, effect: Effect) -> Self {
        let mut reply =
            Self { status: StatusCode::SEE_OTHER, headers: Vec::new(), body: Bytes::new(), effect };
        reply.header(LOCATION, location);
        reply
    }

    pub(super) fn error(error: &OAuthError, family_ended: bool) -> Self {
        let body = json!({ "error": error.code, "error_description": error.description });
        let effect = Effect::Refused { error: error.code.clone(), family_ended };
        let mut reply = Self::json(error.status, &body, effect);
        if error.challenges_basic {
            reply.header(WWW_AUTHENTICATE, "Basic realm=\"sandbox\", charset=\"UTF-8\"");
        }
        reply
    }

    /// Adds a header; a value that HTTP cannot carry is left out.
    pub(super) fn header(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
    }
}

/// Every answer says that nothing of it may be kept or guessed at, unless a script has it say otherwise.
impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let headers = response.headers_mut();
        headers.remove(CONTENT_TYPE);
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        if !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert("pragma", HeaderValue::from_static("no-cache"));
        }
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_parameter_is_refused_and_an_empty_one_is_absent() {
        let params = Params::parse(b"a=1&a=2&b=&c=x%20y");
        assert_eq!(params.one("a"), Err(Repeated("a")));
        assert_eq!(params.one("b"), Ok(None));
        assert_eq!(params.one("c"), Ok(Some("x y")));
    }

    #[test]
    fn a_body_is_a_form_only_when_it_says_so() {
        let call = |kind: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            Call::new(Method::POST, Uri::from_static("/token?a=q"), headers, Bytes::from_static(b"a=f"))
        };
        assert_eq!(call("application/x-www-form-urlencoded; charset=UTF-8").form.first("a"), Some("f"));
        assert_eq!(call("application/json").form.first("a"), None);
        assert_eq!(call("application/json").query.first("a"), Some("q"));
    }
}
