//! From parameters to a request: the one request shape (K4) applied, for every endpoint alike.
//!
//! Knows no network and no meaning. Invariant: a parameter is written into a URL only by [`Params::into_query`], which
//! no request with a credential uses.

use std::borrow::Cow;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use zeroize::Zeroize as _;

use super::spec::place::{self, Format, RequestShape};
use super::spec::value::Template;
use crate::error::{OAuthCode, ProviderError};
use crate::secret::Secret;

/// Parameters in order. They may hold credentials: not `Debug`, and wiped when dropped.
#[derive(Default)]
pub(in crate::provider) struct Params(Vec<(String, String)>);

impl Params {
    /// The parameters of a form-encoded body.
    pub(in crate::provider) fn from_form(body: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(body).into_owned().collect())
    }

    /// Sets a parameter; one of the same name gives way.
    pub(in crate::provider) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.0.push((name.to_owned(), value.into()));
    }

    /// Adds all of another's.
    pub(in crate::provider) fn extend(&mut self, mut other: Self) {
        for (name, value) in std::mem::take(&mut other.0) {
            self.set(&name, value);
        }
    }

    /// Takes a parameter away.
    pub(in crate::provider) fn remove(&mut self, name: &str) {
        self.0.retain_mut(|(known, value)| {
            let stays = known != name;
            if !stays {
                value.zeroize();
            }
            stays
        });
    }

    /// Applies `drop`, `rename` and `set` of a shape, in this order.
    pub(in crate::provider) fn reshape<'v>(
        &mut self,
        shape: &RequestShape,
        value: impl Fn(&str) -> Option<Cow<'v, str>>,
    ) {
        for name in &shape.drop {
            self.remove(name);
        }
        for (name, _) in &mut self.0 {
            if let Some(theirs) = shape.rename.get(name) {
                theirs.clone_into(name);
            }
        }
        for (name, template) in &shape.set {
            self.set(name, template.fill(&value));
        }
    }

    /// As a body, with its content type.
    pub(in crate::provider) fn into_body(self, format: Format) -> (Secret<Vec<u8>>, HeaderValue) {
        match format {
            Format::Json => {
                let fields = self.0.iter().map(|(name, value)| (name.clone(), value.clone().into()));
                let object = serde_json::Value::Object(fields.collect());
                (Secret::new(object.to_string().into_bytes()), HeaderValue::from_static("application/json"))
            }
            Format::Form | Format::Query => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.extend_pairs(&self.0);
                let body = Secret::new(form.finish().into_bytes());
                (body, HeaderValue::from_static("application/x-www-form-urlencoded"))
            }
        }
    }

    /// Into a URL's query, behind what is there.
    pub(in crate::provider) fn into_query(self, url: &mut url::Url) {
        if !self.0.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.0);
        }
    }
}

impl Drop for Params {
    fn drop(&mut self) {
        for (_, value) in &mut self.0 {
            value.zeroize();
        }
    }
}

/// Headers that every request has, and those of the shape.
pub(in crate::provider) fn headers<'v>(
    shape: &RequestShape,
    value: impl Fn(&str) -> Option<Cow<'v, str>>,
) -> Result<HeaderMap, ProviderError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    for (name, template) in &shape.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable("invalid_header"))?;
        headers.insert(name, header(template, &value)?);
    }
    Ok(headers)
}

/// A filled template as a header's value.
pub(in crate::provider) fn header<'v>(
    template: &Template,
    value: impl Fn(&str) -> Option<Cow<'v, str>>,
) -> Result<HeaderValue, ProviderError> {
    HeaderValue::from_str(&template.fill(value)).map_err(|_| unusable("invalid_header"))
}

/// Puts a credential into the Authorization header, marked so that nothing prints it.
pub(in crate::provider) fn authorize(
    headers: &mut HeaderMap,
    scheme: &str,
    credential: &str,
) -> Result<(), ProviderError> {
    let text = Secret::new(format!("{scheme} {credential}"));
    let mut value = HeaderValue::from_str(text.expose()).map_err(|_| unusable("invalid_credential"))?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(())
}

/// Adds a body's content type.
pub(in crate::provider) fn set_content_type(headers: &mut HeaderMap, content_type: HeaderValue) {
    headers.insert(CONTENT_TYPE, content_type);
}

/// The HTTP method of a shape.
pub(in crate::provider) fn method(method: place::Method) -> Method {
    match method {
        place::Method::Get => Method::GET,
        place::Method::Post => Method::POST,
        place::Method::Put => Method::PUT,
        place::Method::Patch => Method::PATCH,
        place::Method::Delete => Method::DELETE,
    }
}

/// A configuration that cannot work, in one of our own words.
pub(in crate::provider) fn unusable(word: &str) -> ProviderError {
    ProviderError::Misconfigured(OAuthCode::new(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(yaml_like: serde_json::Value) -> RequestShape {
        serde_json::from_value(yaml_like).unwrap()
    }

    #[test]
    fn a_shape_drops_renames_and_sets() {
        let mut params = Params::from_form(b"grant_type=refresh_token&refresh_token=r+1&client_id=c");
        let shape = shape(serde_json::json!({
            "drop": ["grant_type"], "rename": {"client_id": "app"}, "set": {"aud": "{client_id}-x", "refresh_token": "z"}
        }));
        params.reshape(&shape, |name| (name == "client_id").then_some("c".into()));
        let (body, content_type) = params.into_body(Format::Form);
        assert_eq!(body.expose(), b"app=c&aud=c-x&refresh_token=z");
        assert_eq!(content_type, "application/x-www-form-urlencoded");
    }

    #[test]
    fn a_json_body_is_a_flat_object_of_texts() {
        let mut params = Params::default();
        params.set("a", "1\"");
        assert_eq!(params.into_body(Format::Json).0.expose(), br#"{"a":"1\""}"#);
    }
}
