//! How tokens look that lie outside the store: whose, of which attempt, and what the provider answered.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{decode, encode};
use crate::connection::{Account, ConnectionId, Intent, IssuedTokens, Scopes, Told};
use crate::error::StoreError;
use crate::secret::Secret;
use crate::store::EscrowedTokens;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EscrowRecord<'a> {
    id: Cow<'a, ConnectionId>,
    attempt: Cow<'a, Intent>,
    #[serde(borrow)]
    access_token: Cow<'a, str>,
    #[serde(borrow)]
    token_type: Cow<'a, str>,
    expires_in: Option<Duration>,
    #[serde(borrow)]
    refresh_token: Option<Cow<'a, str>>,
    refresh_expires_in: Option<Duration>,
    scopes: Option<Cow<'a, Scopes>>,
    account: Option<Cow<'a, Account>>,
    #[serde(default, skip_serializing_if = "Told::is_empty")]
    variables: Told,
}

/// Escrowed tokens, to be sealed.
pub(crate) fn encode_escrow(
    id: &ConnectionId,
    attempt: &Intent,
    issued: &IssuedTokens,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    encode(&EscrowRecord {
        id: Cow::Borrowed(id),
        attempt: Cow::Borrowed(attempt),
        access_token: Cow::Borrowed(issued.access_token.expose()),
        token_type: Cow::Borrowed(&issued.token_type),
        expires_in: issued.expires_in,
        refresh_token: issued.refresh_token.as_ref().map(|token| Cow::Borrowed(token.expose().as_str())),
        refresh_expires_in: issued.refresh_expires_in,
        scopes: issued.scopes.as_ref().map(Cow::Borrowed),
        account: issued.account.as_ref().map(Cow::Borrowed),
        variables: issued.variables.clone(),
    })
}

pub(crate) fn decode_escrow(plain: &[u8]) -> Result<EscrowedTokens, StoreError> {
    let record: EscrowRecord<'_> = decode(plain)?;
    Ok(EscrowedTokens {
        id: record.id.into_owned(),
        attempt: record.attempt.into_owned(),
        issued: IssuedTokens {
            access_token: Secret::new(record.access_token.into_owned()),
            token_type: record.token_type.into_owned(),
            expires_in: record.expires_in,
            refresh_token: record.refresh_token.map(|token| Secret::new(token.into_owned())),
            refresh_expires_in: record.refresh_expires_in,
            scopes: record.scopes.map(Cow::into_owned),
            account: record.account.map(Cow::into_owned),
            variables: record.variables,
        },
        is_apart: false,
    })
}
