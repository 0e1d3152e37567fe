//! The prepared answer of `GetAccessToken`. Owns how a published token becomes the bytes of a `GetAccessTokenResponse`.
//!
//! All of the answer but its source is the same for every caller, so it is encoded once when the token is published and
//! shared by reference count; only `source` is appended (fields of a protobuf message may come in any order). The
//! stock codec then copies it into the frame: the one copy of the token that a hit makes.
//!
//! Invariant: the prepared bytes are wiped when the last answer that shares them is gone, and never printed.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};
use zeroize::Zeroizing;

use super::proto::v1::{GetAccessTokenResponse, TokenSource};

/// Number of the field `source`.
const SOURCE_TAG: u32 = 6;

/// Encodes a response but for its source, to be shared by every hit. The token given is wiped.
pub fn prepare(mut response: GetAccessTokenResponse) -> Bytes {
    response.set_source(TokenSource::Unspecified);
    let encoded = Zeroizing::new(response.encode_to_vec());
    drop(Zeroizing::new(response.access_token));
    Bytes::from_owner(encoded)
}

/// What the server of `GetAccessToken` answers with: encodes to exactly the bytes of a `GetAccessTokenResponse`, and
/// is never decoded.
pub struct TokenReply {
    prepared: Bytes,
    source: TokenSource,
}

impl TokenReply {
    /// What was prepared, and where this answer came from.
    pub fn new(prepared: Bytes, source: TokenSource) -> Self {
        Self { prepared, source }
    }
}

impl fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReply").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Message for TokenReply {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.prepared);
        prost::encoding::int32::encode(SOURCE_TAG, &(self.source as i32), buf);
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
        self.prepared.len() + prost::encoding::int32::encoded_len(SOURCE_TAG, &(self.source as i32))
    }

    fn clear(&mut self) {
        self.prepared = Bytes::new();
        self.source = TokenSource::Unspecified;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::v1::Durability;

    fn response() -> GetAccessTokenResponse {
        GetAccessTokenResponse {
            access_token: "ya29.canary".into(),
            token_type: "Bearer".into(),
            expire_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 5_000_000 }),
            scopes: vec!["email".into(), "openid".into()],
            generation: 7,
            source: TokenSource::Store.into(),
            durability: Durability::Durable.into(),
        }
    }

    #[test]
    fn a_prepared_reply_decodes_as_the_response_with_its_source() {
        let prepared = prepare(response());
        for source in [TokenSource::Cache, TokenSource::SharedRefresh, TokenSource::Stale] {
            let reply = TokenReply::new(prepared.clone(), source);
            let bytes = reply.encode_to_vec();
            assert_eq!(bytes.len(), reply.encoded_len());
            let decoded = GetAccessTokenResponse::decode(bytes.as_slice()).unwrap();
            assert_eq!(decoded, GetAccessTokenResponse { source: source.into(), ..response() });
        }
    }

    #[test]
    fn replies_do_not_print_the_token() {
        let reply = TokenReply::new(prepare(response()), TokenSource::Cache);
        let printed = format!("{:?} {reply:?}", response());
        assert!(!printed.contains("canary"), "{printed}");
    }
}
