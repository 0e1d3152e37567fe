//! Webhooks in: K25 signature, K26 handshake, K27 meta. Typed and checked; the webhook door reads them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::span::Span;
use super::value::{Pointer, Template};

/// How the provider's webhooks are known, greeted and sorted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// How a delivery proves that it is the provider's. Without one no delivery is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// What the provider wants to see before it sends events.
    pub handshake: Handshake,
    /// Where a delivery says what it is.
    pub meta: Meta,
}

/// A recipe for checking a delivery over the exact bytes received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Which key.
    #[serde(default)]
    pub key: SignatureKey,
    /// How the key is written.
    #[serde(default)]
    pub key_encoding: Encoding,
    /// The header with the signature.
    pub header: String,
    /// How the header is written.
    #[serde(default)]
    pub grammar: Grammar,
    /// A fixed text before the signature, such as `sha256=`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// How the digest is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// What is signed; knows `{body}`, `{ts}`, `{id}`, `{url}`, `{method}` and `{secret}`.
    #[serde(default = "Signature::default_signed")]
    pub signed: Template,
    /// The header with the time of signing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_header: Option<String>,
    /// How old a delivery may be.
    #[serde(default = "Signature::default_tolerance")]
    pub tolerance: Span,
}

impl Signature {
    fn default_signed() -> Template {
        Template::new("{body}")
    }

    fn default_tolerance() -> Span {
        Span::from_secs(300)
    }
}

/// Algorithms of webhook signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-1.
    HmacSha1,
    /// HMAC with SHA-512.
    HmacSha512,
    /// A plain SHA-256 over a text that holds the secret.
    Sha256,
    /// Ed25519.
    Ed25519,
    /// The body or a header is a JWT.
    Jwt,
    /// The secret itself is sent.
    SharedToken,
}

/// Which key checks a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureKey {
    /// A secret made for webhooks.
    #[default]
    WebhookSecret,
    /// The OAuth client's secret.
    ClientSecret,
    /// A secret handed over in the handshake.
    Handshake,
    /// The provider's published keys.
    Jwks,
}

/// How bytes are written as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As they are for keys, hexadecimal for digests.
    #[default]
    Plain,
    /// Hexadecimal.
    Hex,
    /// Base64.
    Base64,
}

/// How a signature header is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// The signature alone, after the prefix.
    #[default]
    Plain,
    /// `t=…,v1=…` pairs.
    Pairs,
    /// Several signatures between commas.
    Commas,
    /// Several signatures between spaces.
    Spaces,
}

/// What the provider wants to see before it sends events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "style", rename_all = "snake_case", deny_unknown_fields)]
pub enum Handshake {
    /// Nothing.
    #[default]
    None,
    /// A field of the body, sent back.
    EchoBody {
        /// Which field.
        path: Pointer,
    },
    /// A query parameter, sent back.
    EchoQuery {
        /// Which parameter.
        parameter: String,
    },
    /// A header, sent back.
    EchoHeader {
        /// Which header.
        header: String,
        /// Whether it is also the key of later signatures.
        #[serde(default)]
        keep: bool,
    },
    /// A keyed hash of a challenge.
    KeyedHash {
        /// Where the challenge is.
        path: Pointer,
    },
    /// A token in the first body, to be kept.
    Store {
        /// Where the token is.
        path: Pointer,
    },
    /// Deliveries with a wrong signature are sent on purpose and must get 401.
    Probe,
    /// An event that wants no more than an answer.
    Ping,
}

/// Where a delivery says what it is, and how it is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Meta {
    /// The header with the delivery's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_header: Option<String>,
    /// The field with the delivery's id. Without either the delivery is known by its hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_path: Option<Pointer>,
    /// The header with the event's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_header: Option<String>,
    /// The field with the event's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_path: Option<Pointer>,
    /// The field that tells whose event it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_path: Option<Pointer>,
    /// The field with an array of events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_path: Option<Pointer>,
    /// How soon the provider wants its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_within: Option<Span>,
    /// The status it wants.
    pub answer_status: u16,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            id_header: None,
            id_path: None,
            type_header: None,
            type_path: None,
            tenant_path: None,
            batch_path: None,
            answer_within: None,
            answer_status: 200,
        }
    }
}
