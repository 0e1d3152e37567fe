//! How the client proves itself (RFC 6749 section 2.3), for every request that needs it.
//!
//! Owns the client's id and secret. Invariant: the secret goes into a header or a body, never into a URL.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};

use super::spec::mint::ClientAuth;
use super::wire::{self, Params};
use crate::error::ProviderError;
use crate::secret::Secret;

/// The client as it is registered at the provider.
#[derive(Debug)]
pub(in crate::provider) struct Client {
    /// Its id; not a secret.
    pub(in crate::provider) id: String,
    /// Its secret; a public client has none.
    pub(in crate::provider) secret: Option<Secret<String>>,
}

impl Client {
    /// Puts what `auth` asks for into a request. `offered` are the methods that the provider's metadata lists, if there
    /// is metadata.
    pub(in crate::provider) fn prove(
        &self,
        auth: &ClientAuth,
        offered: Option<&[String]>,
        params: &mut Params,
        headers: &mut HeaderMap,
    ) -> Result<(), ProviderError> {
        params.remove("client_id");
        params.remove("client_secret");
        let Some(secret) = &self.secret else {
            params.set("client_id", &self.id);
            return Ok(());
        };
        let secret = secret.expose();
        match self.settle(auth, offered) {
            ClientAuth::Basic => {
                let pair = Secret::new(format!("{}:{}", encode(&self.id), encode(secret)));
                wire::authorize(headers, "Basic", &STANDARD.encode(pair.expose()))
            }
            ClientAuth::SecretAsUser => {
                let pair = Secret::new(format!("{secret}:"));
                wire::authorize(headers, "Basic", &STANDARD.encode(pair.expose()))
            }
            ClientAuth::Bearer => {
                params.set("client_id", &self.id);
                wire::authorize(headers, "Bearer", secret)
            }
            ClientAuth::Header { name, value } => {
                let mut value = wire::header(value, |name| match name {
                    "client_id" => Some(Cow::Borrowed(self.id.as_str())),
                    "client_secret" => Some(Cow::Borrowed(secret.as_str())),
                    _ => None,
                })?;
                value.set_sensitive(true);
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap_or(AUTHORIZATION);
                headers.insert(name, value);
                Ok(())
            }
            ClientAuth::Post => {
                params.set("client_id", &self.id);
                params.set("client_secret", secret);
                Ok(())
            }
            ClientAuth::None => {
                params.set("client_id", &self.id);
                Ok(())
            }
            // The check of the spec refuses these; should one slip through, nothing is sent.
            ClientAuth::Auto | ClientAuth::PrivateKeyJwt(_) | ClientAuth::MintedSecret(_) => {
                Err(wire::unusable("unsupported_client_auth"))
            }
        }
    }

    /// What `auto` means here: `basic` where the metadata offers it or is silent about methods (RFC 8414 section 2),
    /// `post` where there is no metadata or it offers that alone.
    fn settle<'a>(&self, auth: &'a ClientAuth, offered: Option<&[String]>) -> &'a ClientAuth {
        match (auth, offered) {
            (ClientAuth::Auto, Some(methods)) => {
                let offers = |method: &str| methods.iter().any(|offered| offered == method);
                if methods.is_empty() || offers("client_secret_basic") || !offers("client_secret_post") {
                    &ClientAuth::Basic
                } else {
                    &ClientAuth::Post
                }
            }
            (ClientAuth::Auto, None) => &ClientAuth::Post,
            (settled, _) => settled,
        }
    }
}

/// Form-encoding, which RFC 6749 section 2.3.1 asks for before Basic's own encoding.
fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::spec::place::Format;

    fn proved(auth: &ClientAuth, offered: Option<&[&str]>, secret: Option<&str>) -> (String, HeaderMap) {
        let client =
            Client { id: "id:1".to_owned(), secret: secret.map(|secret| Secret::new(secret.to_owned())) };
        let offered: Option<Vec<String>> =
            offered.map(|list| list.iter().map(|&method| method.to_owned()).collect());
        let (mut params, mut headers) = (Params::default(), HeaderMap::new());
        client.prove(auth, offered.as_deref(), &mut params, &mut headers).unwrap();
        (String::from_utf8(params.into_body(Format::Form).0.expose().clone()).unwrap(), headers)
    }

    fn basic(headers: &HeaderMap) -> String {
        let text = headers[AUTHORIZATION].to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    }

    #[test]
    fn basic_encodes_both_parts_as_a_form_first() {
        let (body, headers) = proved(&ClientAuth::Basic, None, Some("s e:c/"));
        assert_eq!(basic(&headers), "id%3A1:s+e%3Ac%2F");
        assert_eq!(body, "");
        assert!(headers[AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn auto_follows_the_metadata() {
        let is_basic = |offered| proved(&ClientAuth::Auto, offered, Some("s")).1.contains_key(AUTHORIZATION);
        assert!(is_basic(Some(&["client_secret_post", "client_secret_basic"])));
        assert!(is_basic(Some(&[])));
        assert!(!is_basic(Some(&["client_secret_post"])));
        assert!(!is_basic(None));
        assert_eq!(proved(&ClientAuth::Auto, None, Some("s")).0, "client_id=id%3A1&client_secret=s");
    }

    #[test]
    fn a_public_client_sends_its_id_alone() {
        let (body, headers) = proved(&ClientAuth::Auto, Some(&["client_secret_basic"]), None);
        assert_eq!((body.as_str(), headers.len()), ("client_id=id%3A1", 0));
    }

    #[test]
    fn a_header_of_the_providers_own_is_filled() {
        let auth = ClientAuth::Header {
            name: "Authorization".to_owned(),
            value: crate::provider::spec::value::Template::new("Client {client_secret}"),
        };
        assert_eq!(proved(&auth, None, Some("s")).1[AUTHORIZATION], "Client s");
    }
}
