//! Whose account a grant is for (K21), asked with the access token.

use super::discovery::{refused, unread};
use super::endpoint::BODY_LIMIT;
use super::http::Outgoing;
use super::oauth::OAuthProvider;
use super::reply::{read_account, read_json};
use super::revocation::unread_body;
use super::sender::Kind;
use super::spec::outcome::IdentitySource;
use super::spec::place::{Method, RequestShape};
use super::url::CheckedUrl;
use super::wire::{self, Params};
use crate::connection::{AccessToken, Account};
use crate::error::ProviderError;

impl OAuthProvider {
    pub(in crate::provider) async fn ask_account(
        &self,
        token: &AccessToken,
    ) -> Result<Option<Account>, ProviderError> {
        let spec = &self.config.spec;
        let plain_get = RequestShape::default();
        let (url, shape) = match (spec.identity.from, &spec.identity.request) {
            (IdentitySource::Userinfo, _) => match self.userinfo_endpoint().await? {
                Some(url) => (url, &plain_get),
                None => return Ok(None),
            },
            (IdentitySource::Request, Some(shape)) => (self.own_url(shape)?, shape),
            // The token reply named the account, or nobody does.
            (IdentitySource::Request, None) => return Ok(None),
            (
                IdentitySource::Token
                | IdentitySource::IdToken
                | IdentitySource::Callback
                | IdentitySource::None,
                _,
            ) => return Ok(None),
        };
        let request = self.identity_request(url, shape, token)?;
        let answer = self.sender.send(Kind::Userinfo, request).await.map_err(unread)?;
        match answer.status.as_u16() {
            200..300 => {
                let body = answer.body.map_err(unread_body)?;
                let reply = read_json(body.expose()).ok_or(ProviderError::Malformed)?;
                read_account(&spec.identity, &reply).map(Some).ok_or(ProviderError::Malformed)
            }
            // The grant does not reach that far (RFC 6750 section 3.1): the provider has no way to tell.
            401 | 403 => Ok(None),
            status => Err(refused(status, &answer.headers, &*self.clock)),
        }
    }

    fn identity_request(
        &self,
        url: CheckedUrl,
        shape: &RequestShape,
        token: &AccessToken,
    ) -> Result<Outgoing, ProviderError> {
        let mut headers = wire::headers(shape, |_| None)?;
        wire::authorize(&mut headers, "Bearer", token.value.expose())?;
        let method = shape.method.unwrap_or(Method::Get);
        let body = (method != Method::Get).then(|| {
            let mut params = Params::default();
            params.reshape(shape, |name| (name == "client_id").then_some(self.client.id.as_str().into()));
            let (body, content_type) = params.into_body(shape.format);
            wire::set_content_type(&mut headers, content_type);
            body
        });
        Ok(Outgoing {
            method: wire::method(method),
            url,
            headers,
            body,
            timeout: None,
            body_limit: BODY_LIMIT,
        })
    }
}
