//! A refresh token for tokens (RFC 6749 section 6). No scope is sent: what was granted stays granted.

use oauth2::RefreshToken;

use super::{issued, token_client};
use crate::connection::{self, IssuedTokens};
use crate::error::ProviderError;
use crate::provider::endpoint::TokenEndpoint;

pub(in crate::provider) async fn refresh(
    endpoint: TokenEndpoint<'_>,
    refresh: &connection::RefreshToken,
) -> Result<IssuedTokens, ProviderError> {
    let client = token_client(&endpoint);
    let token = RefreshToken::new(refresh.value.expose().clone());
    let answer = client.exchange_refresh_token(&token).request_async(&endpoint).await;
    issued(endpoint, answer)
}
