//! What the log says of one request. Owns the words: endpoint, subject, effect, delivery. Does not know how records are
//! kept. Invariant: no token, code or secret is in a record, only its fingerprint.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;

use super::grant::Generation;

/// An endpoint of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Both metadata documents (OpenID Connect Discovery, RFC 8414).
    Discovery,
    /// `GET /authorize`.
    Authorize,
    /// `POST /consent`: the person's answer.
    Consent,
    /// `POST /token`.
    Token,
    /// `POST /revoke` (RFC 7009).
    Revoke,
    /// `/userinfo`.
    UserInfo,
    /// Everything below `/api/`: the protected resource.
    Echo,
}

/// What a token request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantType {
    /// `authorization_code`.
    AuthorizationCode,
    /// `refresh_token`.
    RefreshToken,
    /// Anything else, which is refused.
    Other,
}

/// A grant's number, in order of consent, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(pub u64);

/// What may be shown of a token: the first 64 bits of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a token's value.
    pub fn of(token: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        Self(digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// One request and what came of it, as far as it has come.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Number of the request, in order of arrival, from 0.
    pub id: u64,
    /// Where it arrived.
    pub endpoint: Endpoint,
    /// By which connection it came: their numbers in order from 1, since the server was last put on the network.
    pub connection: u64,
    /// When it had been read whole, by the sandbox's clock.
    pub received_at: Timestamp,
    /// Whom and what it names.
    pub subject: Subject,
    /// The name of the fault that met it.
    pub fault: Option<&'static str>,
    /// Position at which it had been read whole.
    pub received: u64,
    /// Position at which it took effect; `None` while it waits, and for ever if it was dropped unprocessed.
    pub processed: Option<u64>,
    /// Position at which it was over: answered, dropped, or processed with the client gone.
    pub ended: Option<u64>,
    /// What processing it changed.
    pub effect: Option<Effect>,
    /// What the client got.
    pub delivery: Option<Delivery>,
    /// Whether a refresh with the same refresh token was in flight when this one arrived.
    pub overlapped: bool,
}

/// Whom and what a request names, found without processing it.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// What a token request asks for.
    pub grant_type: Option<GrantType>,
    /// The registered client it names, authenticated or not.
    pub client_id: Option<String>,
    /// The account behind the token or code presented. What is typed into a page is never kept: it may be anything.
    pub account: Option<String>,
    /// The grant behind the token presented.
    pub grant: Option<GrantId>,
    /// The refresh token's number in its family.
    pub generation: Option<Generation>,
    /// The token or code presented.
    pub fingerprint: Option<Fingerprint>,
    /// Whether it was a spent refresh token, on arrival or when it was processed.
    pub spent: bool,
    /// Whether its grant had already ended on arrival.
    pub dead: bool,
}

/// What processing a request changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: a page, a document, a protected resource was served.
    Served,
    /// The person approved; a code went out.
    Approved,
    /// The person, or the sandbox's setting, said no.
    Denied,
    /// A code was exchanged for the first tokens of a grant.
    Granted,
    /// A refresh gave a new refresh token.
    Rotated {
        /// Its number.
        to: Generation,
    },
    /// A refresh gave a refresh token that was given before.
    Repeated {
        /// Its number.
        generation: Generation,
    },
    /// A refresh gave a new access token and no refresh token.
    Renewed,
    /// A token was revoked, or was unknown, which RFC 7009 does not tell apart.
    Revoked,
    /// Refused.
    Refused {
        /// The OAuth error code.
        error: String,
        /// Whether this very request ended the grant.
        family_ended: bool,
    },
}

/// What the client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// An answer was handed to the socket. Whether it was read, only the client knows.
    Sent {
        /// Its HTTP status.
        status: u16,
    },
    /// The server closed the connection instead.
    Dropped,
    /// The client hung up before there was an answer. Known as soon as it did; the request may yet take effect.
    ClientLeft,
}

impl Exchange {
    /// Whether it asks the token endpoint for a refresh.
    pub fn is_refresh(&self) -> bool {
        self.endpoint == Endpoint::Token && self.subject.grant_type == Some(GrantType::RefreshToken)
    }

    /// Whether it has begun and is not over.
    pub fn is_in_flight(&self) -> bool {
        self.ended.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_head_of_the_sha_256() {
        assert_eq!(Fingerprint::of("abc").to_string(), "ba7816bf8f01cfea");
    }
}
