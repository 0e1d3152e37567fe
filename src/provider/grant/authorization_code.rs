//! A code for tokens (RFC 6749 section 4.1.3), with the PKCE verifier always (RFC 7636 section 4.5).

use std::borrow::Cow;

use oauth2::{AuthorizationCode, PkceCodeVerifier, RedirectUrl};

use super::{issued, token_client};
use crate::connection::IssuedTokens;
use crate::error::ProviderError;
use crate::provider::endpoint::TokenEndpoint;
use crate::provider::{CodeGrant, wire};

pub(in crate::provider) async fn exchange(
    endpoint: TokenEndpoint<'_>,
    grant: &CodeGrant,
) -> Result<IssuedTokens, ProviderError> {
    let redirect_uri =
        RedirectUrl::new(grant.redirect_uri.clone()).map_err(|_| wire::unusable("invalid_redirect_uri"))?;
    let client = token_client(&endpoint);
    let answer = client
        .exchange_code(AuthorizationCode::new(grant.code.expose().clone()))
        .set_pkce_verifier(PkceCodeVerifier::new(grant.code_verifier.expose().clone()))
        .set_redirect_uri(Cow::Owned(redirect_uri))
        .request_async(&endpoint)
        .await;
    issued(endpoint, answer)
}
