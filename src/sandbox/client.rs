//! Registered clients. Owns their registration, authentication at the token endpoint (RFC 6749 section 2.3) and the match of
//! redirect URIs. Does not know grants. Invariant: a secret is compared in constant time and a redirect URI as a whole.

use std::sync::Arc;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::{Host, Url};

use crate::secret::Secret;

use super::call::{Call, OAuthError};

/// How a client proves who it is at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_secret_basic`.
    Basic,
    /// `client_secret_post`.
    Post,
    /// Either of them, as many servers allow.
    BasicOrPost,
    /// `none`: a public client.
    None,
}

/// A client to be registered.
#[derive(Debug)]
pub struct ClientRegistration {
    /// Its `client_id`.
    pub id: String,
    /// How it proves who it is.
    pub auth: ClientAuth,
    /// Its secret; made by the sandbox when absent and the client is not public.
    pub secret: Option<Secret<String>>,
    /// Where its users may return, each matched as a whole.
    pub redirect_uris: Vec<String>,
    /// Whether a registered URI on a loopback address matches with any port (RFC 8252 section 7.3).
    pub any_loopback_port: bool,
}

impl ClientRegistration {
    /// A confidential client with a secret made by the sandbox and no redirect URI yet.
    pub fn confidential(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            auth: ClientAuth::BasicOrPost,
            secret: None,
            redirect_uris: Vec::new(),
            any_loopback_port: false,
        }
    }

    /// A public client: PKCE alone protects its codes.
    pub fn public(id: &str) -> Self {
        Self { auth: ClientAuth::None, ..Self::confidential(id) }
    }

    /// Adds a redirect URI.
    #[must_use]
    pub fn redirect_uri(mut self, uri: &str) -> Self {
        self.redirect_uris.push(uri.to_owned());
        self
    }
}

/// A registered client.
pub(super) struct Client {
    pub(super) id: String,
    pub(super) auth: ClientAuth,
    pub(super) secret: Option<Arc<Secret<String>>>,
    pub(super) redirect_uris: Vec<String>,
    pub(super) any_loopback_port: bool,
}

impl Client {
    /// Whether `uri` is one of those registered (RFC 9700 section 2.1).
    pub(super) fn accepts_redirect(&self, uri: &str) -> bool {
        self.redirect_uris.iter().any(|registered| {
            registered == uri
                || (self.any_loopback_port
                    && loopback_without_port(registered)
                        .is_some_and(|r| Some(r) == loopback_without_port(uri)))
        })
    }

    /// Accepts or refuses what a request brought as proof.
    fn admits(&self, proof: &Proof) -> bool {
        let matches = |given: &str| {
            self.secret.as_ref().is_some_and(|secret| **secret == Secret::new(given.to_owned()))
        };
        match (self.auth, proof) {
            (ClientAuth::Basic | ClientAuth::BasicOrPost, Proof::Basic(given))
            | (ClientAuth::Post | ClientAuth::BasicOrPost, Proof::Post(given)) => matches(given.expose()),
            (ClientAuth::None, Proof::None) => true,
            _ => false,
        }
    }
}

enum Proof {
    Basic(Secret<String>),
    Post(Secret<String>),
    None,
}

/// The client a request comes from, once it has proved it.
pub(super) fn authenticated<'a>(
    call: &Call,
    find: impl FnOnce(&str) -> Option<&'a Client>,
) -> Result<&'a Client, OAuthError> {
    let basic = basic_credentials(call);
    let id = call.form.one("client_id")?;
    let posted = call.form.one("client_secret")?;
    let (id, proof) = match (basic, id, posted) {
        (Some(Ok((id, _))), Some(other), None) if id != other => {
            return Err(OAuthError::invalid_request("client_id differs from the Authorization header's"));
        }
        (Some(Ok((id, secret))), _, None) => (id, Proof::Basic(secret)),
        (Some(Ok(_)), _, Some(_)) => {
            return Err(OAuthError::invalid_request("more than one way of client authentication"));
        }
        (Some(Err(())), ..) => return Err(refused(true)),
        (None, Some(id), Some(secret)) => (id.to_owned(), Proof::Post(Secret::new(secret.to_owned()))),
        (None, Some(id), None) => (id.to_owned(), Proof::None),
        (None, None, _) => return Err(refused(false)),
    };
    let challenges_basic = matches!(proof, Proof::Basic(_));
    find(&id).filter(|client| client.admits(&proof)).ok_or_else(|| refused(challenges_basic))
}

/// The client a request names, whether or not it can prove it.
pub(super) fn named(call: &Call) -> Option<String> {
    match basic_credentials(call) {
        Some(Ok((id, _))) => Some(id),
        _ => call.form.first("client_id").or_else(|| call.query.first("client_id")).map(str::to_owned),
    }
}

fn refused(challenges_basic: bool) -> OAuthError {
    OAuthError {
        status: StatusCode::UNAUTHORIZED,
        code: "invalid_client".to_owned(),
        description: "client authentication failed",
        challenges_basic,
    }
}

/// Id and secret from `Authorization: Basic`, each form-encoded (RFC 6749 section 2.3.1).
fn basic_credentials(call: &Call) -> Option<Result<(String, Secret<String>), ()>> {
    let encoded = call.authorization("basic")?;
    let decoded = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    Some(
        decoded
            .and_then(|text| {
                let (id, secret) = text.split_once(':')?;
                Some((form_decoded(id)?, Secret::new(form_decoded(secret)?)))
            })
            .ok_or(()),
    )
}

fn form_decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(Into::into)
}

/// A URI on a loopback address without its port; `None` for any other.
fn loopback_without_port(uri: &str) -> Option<Url> {
    let mut url = Url::parse(uri).ok()?;
    let is_loopback = match url.host()? {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(_) => false,
    };
    (is_loopback && url.set_port(None).is_ok()).then_some(url)
}

#[cfg(test)]
mod tests {
    use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
    use axum::http::{HeaderMap, HeaderValue, Method, Uri};

    use super::*;

    fn client(auth: ClientAuth) -> Client {
        Client {
            id: "app one".to_owned(),
            auth,
            secret: (auth != ClientAuth::None).then(|| Arc::new(Secret::new("s+c:ret".to_owned()))),
            redirect_uris: vec![
                "http://127.0.0.1:8000/cb?x=1".to_owned(),
                "https://app.example/cb".to_owned(),
            ],
            any_loopback_port: false,
        }
    }

    fn outcome(client: &Client, authorization: Option<&str>, form: &str) -> Result<(), (u16, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some(credentials) = authorization {
            let value = format!("Basic {}", STANDARD.encode(credentials));
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        let call = Call::new(Method::POST, Uri::from_static("/token"), headers, form.to_owned().into());
        authenticated(&call, |id| (id == client.id).then_some(client))
            .map(|_| ())
            .map_err(|error| (error.status.as_u16(), error.code))
    }

    #[test]
    fn each_client_is_admitted_by_its_own_way_and_no_other() {
        use ClientAuth::{Basic, BasicOrPost, None as Public, Post};
        let basic = |auth| outcome(&client(auth), Some("app+one:s%2Bc%3Aret"), "").is_ok();
        let post = |auth| outcome(&client(auth), None, "client_id=app+one&client_secret=s%2Bc%3Aret").is_ok();
        let bare = |auth| outcome(&client(auth), None, "client_id=app+one").is_ok();
        let seen = [Basic, Post, BasicOrPost, Public].map(|auth| (basic(auth), post(auth), bare(auth)));
        assert_eq!(
            seen,
            [(true, false, false), (false, true, false), (true, true, false), (false, false, true)]
        );
    }

    #[test]
    fn a_wrong_secret_is_invalid_client_and_two_ways_at_once_are_invalid_request() {
        let client = client(ClientAuth::BasicOrPost);
        let refused = |status: u16, code: &str| Err((status, code.to_owned()));
        assert_eq!(outcome(&client, Some("app+one:wrong"), ""), refused(401, "invalid_client"));
        assert_eq!(outcome(&client, Some("nobody:x"), ""), refused(401, "invalid_client"));
        assert_eq!(outcome(&client, None, ""), refused(401, "invalid_client"));
        let both = outcome(&client, Some("app+one:s%2Bc%3Aret"), "client_secret=s%2Bc%3Aret");
        assert_eq!(both, refused(400, "invalid_request"));
        let other = outcome(&client, Some("app+one:s%2Bc%3Aret"), "client_id=another");
        assert_eq!(other, refused(400, "invalid_request"));
    }

    #[test]
    fn a_redirect_uri_matches_as_a_whole() {
        let client = client(ClientAuth::None);
        assert!(client.accepts_redirect("https://app.example/cb"));
        for other in [
            "https://app.example/cb/",
            "https://app.example/cb?x=1",
            "https://APP.example/cb",
            "http://127.0.0.1:8001/cb?x=1",
            "https://app.example.evil/cb",
        ] {
            assert!(!client.accepts_redirect(other), "{other}");
        }
    }

    #[test]
    fn any_port_is_for_loopback_addresses_alone() {
        let client = Client { any_loopback_port: true, ..client(ClientAuth::None) };
        assert!(client.accepts_redirect("http://127.0.0.1:49152/cb?x=1"));
        assert!(!client.accepts_redirect("http://127.0.0.1:49152/other?x=1"));
        assert!(!client.accepts_redirect("http://127.0.0.2:8000/cb?x=1"));
        assert!(!client.accepts_redirect("https://app.example:8443/cb"));
    }
}
