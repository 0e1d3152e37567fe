//! Grants at the token endpoint, one file each, over the `oauth2` crate.

pub(in crate::provider) mod authorization_code;
pub(in crate::provider) mod refresh_token;

use oauth2::basic::{BasicClient, BasicErrorResponse, BasicTokenResponse};
use oauth2::{
    AuthType, ClientId, EndpointNotSet, EndpointSet, RequestTokenError, TokenResponse as _, TokenUrl,
};

use super::endpoint::{EndpointError, TokenEndpoint};
use crate::connection::IssuedTokens;
use crate::error::{AmbiguousCause, ProviderError};
use crate::secret::Secret;

type TokenClient = BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// The crate's client for one request. It is given no secret: the endpoint proves the client itself.
fn token_client(endpoint: &TokenEndpoint<'_>) -> TokenClient {
    BasicClient::new(ClientId::new(endpoint.client.id.clone()))
        .set_auth_type(AuthType::RequestBody)
        .set_token_uri(TokenUrl::from_url(endpoint.url.as_url().clone()))
}

/// The tokens, or the failure that the endpoint judged.
fn issued(
    endpoint: TokenEndpoint<'_>,
    answer: Result<BasicTokenResponse, RequestTokenError<EndpointError, BasicErrorResponse>>,
) -> Result<IssuedTokens, ProviderError> {
    let unparsable = ProviderError::Ambiguous { cause: AmbiguousCause::Unparsable };
    let token = match answer {
        Ok(token) => token,
        Err(RequestTokenError::Request(EndpointError(error))) => return Err(error),
        // These carry the raw body: nothing of them is kept.
        Err(
            RequestTokenError::ServerResponse(_) | RequestTokenError::Parse(..) | RequestTokenError::Other(_),
        ) => {
            return Err(unparsable);
        }
    };
    let facts = endpoint.facts.into_inner().ok_or(unparsable)?;
    Ok(IssuedTokens {
        access_token: Secret::new(token.access_token().secret().clone()),
        token_type: facts.token_type,
        expires_in: facts.expires_in,
        refresh_token: token.refresh_token().map(|token| Secret::new(token.secret().clone())),
        refresh_expires_in: facts.refresh_expires_in,
        scopes: facts.scopes,
        account: facts.account,
        variables: facts.variables,
    })
}
