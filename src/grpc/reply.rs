//! The answer of `GetAccessToken`. Owns how a published token becomes the bytes of a `GetAccessTokenResponse`.
//!
//! What is the same for every caller and no secret is encoded once and shared by reference count; the token itself is
//! written from where the broker keeps it, straight into the frame: the one copy of it that a hit makes, and no second
//! one that stays (fields of a protobuf message may come in any order).
//!
//! Invariant: the bytes are those of the message, and never printed.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

use super::proto::v1::GetAccessTokenResponse;
use super::wire::{durability, timestamp, token_source};
use crate::broker::{ServedToken, TokenAnswer};

/// Numbers of the fields that are written for each answer.
const TOKEN_TAG: u32 = 1;
const SOURCE_TAG: u32 = 6;
const DURABILITY_TAG: u32 = 7;

/// What the server of `GetAccessToken` answers with: encodes to exactly the bytes of a `GetAccessTokenResponse`, and
/// is never decoded.
pub struct TokenReply {
    answer: Option<(Arc<ServedToken>, Bytes)>,
    source: i32,
    durability: i32,
}

impl From<&TokenAnswer> for TokenReply {
    fn from(answer: &TokenAnswer) -> Self {
        let shared = answer.token.encoded(|token| shared_part(token).encode_to_vec().into());
        Self {
            answer: Some((answer.token.clone(), shared)),
            source: token_source(answer.source).into(),
            durability: durability(answer.durability).into(),
        }
    }
}

/// The part of the response that is the same for every caller, without the token.
fn shared_part(token: &ServedToken) -> GetAccessTokenResponse {
    GetAccessTokenResponse {
        token_type: token.access.token_type.clone(),
        expire_time: token.access.expires_at.map(timestamp),
        scopes: token.scopes.as_slice().to_vec(),
        generation: token.generation,
        ..GetAccessTokenResponse::default()
    }
}

impl fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReply").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Message for TokenReply {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if let Some((token, shared)) = &self.answer {
            prost::encoding::string::encode(TOKEN_TAG, token.access.value.expose(), buf);
            buf.put_slice(shared);
        }
        prost::encoding::int32::encode(SOURCE_TAG, &self.source, buf);
        prost::encoding::int32::encode(DURABILITY_TAG, &self.durability, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        // Nobody decodes into this type; what comes is skipped, as an unknown field would be.
        prost::encoding::skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        let answer = self.answer.as_ref().map_or(0, |(token, shared)| {
            prost::encoding::string::encoded_len(TOKEN_TAG, token.access.value.expose()) + shared.len()
        });
        answer
            + prost::encoding::int32::encoded_len(SOURCE_TAG, &self.source)
            + prost::encoding::int32::encoded_len(DURABILITY_TAG, &self.durability)
    }

    fn clear(&mut self) {
        *self = Self { answer: None, source: 0, durability: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Durability, Source};
    use crate::clock::Timestamp;
    use crate::connection::{AccessToken, ConnectionId};
    use crate::grpc::proto::v1;
    use crate::secret::Secret;
    use crate::telemetry::Count;

    fn answer(source: Source, durability: Durability) -> TokenAnswer {
        let access = AccessToken {
            value: Secret::new("ya29.canary".into()),
            token_type: "Bearer".into(),
            issued_at: Timestamp::from_millis(0),
            expires_at: Some(Timestamp::from_millis(1_800_000_000_005)),
        };
        let scopes = ["openid", "email"].into_iter().collect();
        let of = ConnectionId::parse(String::new(), "google".into(), "user-42".into()).unwrap();
        let token = Arc::new(ServedToken::new(of, access, scopes, 7, Count::default()));
        TokenAnswer { token, source, durability }
    }

    #[test]
    fn a_reply_decodes_as_the_response_it_stands_for() {
        for (source, durability, on_the_wire) in [
            (Source::Cache, Durability::Durable, (v1::TokenSource::Cache, v1::Durability::Durable)),
            (Source::Stale, Durability::Degraded, (v1::TokenSource::Stale, v1::Durability::Degraded)),
        ] {
            let reply = TokenReply::from(&answer(source, durability));
            let bytes = reply.encode_to_vec();
            assert_eq!(bytes.len(), reply.encoded_len());
            let expected = GetAccessTokenResponse {
                access_token: "ya29.canary".into(),
                token_type: "Bearer".into(),
                expire_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 5_000_000 }),
                scopes: vec!["email".into(), "openid".into()],
                generation: 7,
                source: on_the_wire.0.into(),
                durability: on_the_wire.1.into(),
            };
            assert_eq!(GetAccessTokenResponse::decode(bytes.as_slice()).unwrap(), expected);
        }
    }

    #[test]
    fn the_numbers_of_the_fields_are_those_of_the_contract() {
        let named = GetAccessTokenResponse { access_token: "t".into(), ..Default::default() };
        assert_eq!(u32::from(named.encode_to_vec()[0]) >> 3, TOKEN_TAG);
        let named = GetAccessTokenResponse { source: 1, ..Default::default() };
        assert_eq!(u32::from(named.encode_to_vec()[0]) >> 3, SOURCE_TAG);
        let named = GetAccessTokenResponse { durability: 1, ..Default::default() };
        assert_eq!(u32::from(named.encode_to_vec()[0]) >> 3, DURABILITY_TAG);
    }

    #[test]
    fn replies_do_not_print_the_token() {
        let printed = format!("{:?}", TokenReply::from(&answer(Source::Cache, Durability::Durable)));
        assert!(!printed.contains("canary"), "{printed}");
    }
}
