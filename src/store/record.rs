//! How a connection and a session look on disk: the only place where a token is serialized. Owns the row layout and
//! their versions. Does not know keys or engines. Invariant: a row of an unknown version is refused, never guessed at;
//! name, profile, tokens and history lie apart, so that a listing opens no token.
//!
//! ```text
//! connection = version 1 | revision 8 | name 4 + n | profile 4 + n | tokens 4 + n | history 4 + n        each sealed
//! session    = version 1 | expiry in milliseconds 8 | sealed session
//! ```
//!
//! Connections are written in version 2. Version 1 had no history, and profiles without intent and backoff; it is read
//! and becomes version 2 when it is next written.

mod escrow;
#[cfg(test)]
mod tests;

pub(crate) use escrow::{decode_escrow, encode_escrow};

use std::borrow::Cow;
use std::io;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::connection::{
    AccessToken, Account, CodeWait, ConnectSession, ConnectionId, FinishWait, History, Phase, Profile,
    RefreshToken, Scopes, TokenSet, Told, Values,
};
use crate::error::StoreError;
use crate::secret::Secret;

/// The version in which connections are written.
const VERSION: u8 = 2;
/// The version before, which is still read.
const WITHOUT_HISTORY: u8 = 1;
/// The one version of sessions.
const SESSION_VERSION: u8 = 1;

const DAMAGED: StoreError = StoreError::Unreadable("it is damaged");
const UNKNOWN: StoreError = StoreError::Unreadable("it was written by another version of token-broker");

/// The sealed parts of a connection as they lie in a row.
#[derive(Debug, PartialEq)]
pub(crate) struct ConnectionRow<'a> {
    pub(crate) revision: u64,
    pub(crate) name: &'a [u8],
    pub(crate) profile: &'a [u8],
    /// Empty: no tokens.
    pub(crate) tokens: &'a [u8],
    /// Empty: none was written yet.
    pub(crate) history: &'a [u8],
}

impl<'a> ConnectionRow<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let parts = [self.name, self.profile, self.tokens, self.history];
        let mut row = Vec::with_capacity(9 + parts.iter().map(|part| 4 + part.len()).sum::<usize>());
        row.push(VERSION);
        row.extend_from_slice(&self.revision.to_be_bytes());
        for part in parts {
            // A row is far below 4 GiB: the engine refuses anything above 1 MiB.
            row.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            row.extend_from_slice(part);
        }
        row
    }

    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, StoreError> {
        let (version, revision, mut rest) = versioned(row)?;
        let mut part = || {
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let (part, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
            rest = tail;
            Some(part)
        };
        let (Some(name), Some(profile), Some(tokens)) = (part(), part(), part()) else {
            return Err(DAMAGED);
        };
        let history = if version == WITHOUT_HISTORY { &[][..] } else { part().ok_or(DAMAGED)? };
        if !rest.is_empty() {
            return Err(DAMAGED);
        }
        Ok(Self { revision: u64::from_be_bytes(revision), name, profile, tokens, history })
    }

    /// The revision of a row, without looking at the rest.
    pub(crate) fn revision_of(row: &[u8]) -> Result<u64, StoreError> {
        versioned(row).map(|(_, revision, _)| u64::from_be_bytes(revision))
    }
}

/// A session as it lies in a row. The expiry is in clear, so that a sweep opens nothing; the seal binds it.
pub(crate) struct SessionRow<'a> {
    pub(crate) expires_at: Timestamp,
    pub(crate) sealed: &'a [u8],
}

impl<'a> SessionRow<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(9 + self.sealed.len());
        row.push(SESSION_VERSION);
        row.extend_from_slice(&self.expires_at.as_millis().to_be_bytes());
        row.extend_from_slice(self.sealed);
        row
    }

    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, StoreError> {
        let (SESSION_VERSION, expires_at, sealed) = versioned(row)? else { return Err(UNKNOWN) };
        Ok(Self { expires_at: Timestamp::from_millis(i64::from_be_bytes(expires_at)), sealed })
    }
}

fn versioned(row: &[u8]) -> Result<(u8, [u8; 8], &[u8]), StoreError> {
    match row.split_first() {
        Some((version @ (&VERSION | &WITHOUT_HISTORY), rest)) => {
            rest.split_first_chunk::<8>().map(|(counter, rest)| (*version, *counter, rest)).ok_or(DAMAGED)
        }
        Some(_) => Err(UNKNOWN),
        None => Err(DAMAGED),
    }
}

/// A name, to be sealed.
pub(crate) fn encode_name(id: &ConnectionId) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    encode(id)
}

pub(crate) fn decode_name(plain: &[u8]) -> Result<ConnectionId, StoreError> {
    decode(plain)
}

/// A profile, to be sealed.
pub(crate) fn encode_profile(profile: &Profile) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    encode(profile)
}

pub(crate) fn decode_profile(plain: &[u8]) -> Result<Profile, StoreError> {
    decode(plain)
}

/// Whether a profile tells of a refresh that was begun and whose outcome is not written down. Reads that alone, for a look
/// at every record there is; one that does not read is found out when it is needed.
pub(crate) fn is_unfinished(plain: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Unfinished {
        intent: Option<IgnoredAny>,
    }

    decode::<Unfinished>(plain).is_ok_and(|profile| profile.intent.is_some())
}

/// Tokens, to be sealed.
pub(crate) fn encode_tokens(tokens: &TokenSet) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    encode(&TokensRecord::from(tokens))
}

pub(crate) fn decode_tokens(plain: &[u8]) -> Result<TokenSet, StoreError> {
    decode::<TokensRecord<'_>>(plain).map(TokensRecord::into)
}

/// A history, to be sealed.
pub(crate) fn encode_history(history: &History) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    encode(history)
}

pub(crate) fn decode_history(plain: &[u8]) -> Result<History, StoreError> {
    decode(plain)
}

/// A session, to be sealed.
pub(crate) fn encode_session(session: &ConnectSession) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    encode(&SessionRecord::from(session))
}

pub(crate) fn decode_session(plain: &[u8]) -> Result<ConnectSession, StoreError> {
    decode::<SessionRecord<'_>>(plain).map(SessionRecord::into)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensRecord<'a> {
    #[serde(borrow)]
    access: Option<AccessRecord<'a>>,
    #[serde(borrow)]
    refresh: Option<RefreshRecord<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    previous: Option<RefreshRecord<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    surplus: Vec<TokensRecord<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessRecord<'a> {
    #[serde(borrow)]
    value: Cow<'a, str>,
    #[serde(borrow)]
    token_type: Cow<'a, str>,
    issued_at: Timestamp,
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshRecord<'a> {
    #[serde(borrow)]
    value: Cow<'a, str>,
    expires_at: Option<Timestamp>,
}

impl<'a> From<&'a TokenSet> for TokensRecord<'a> {
    fn from(tokens: &'a TokenSet) -> Self {
        Self {
            access: tokens.access.as_ref().map(|access| AccessRecord {
                value: Cow::Borrowed(access.value.expose()),
                token_type: Cow::Borrowed(&access.token_type),
                issued_at: access.issued_at,
                expires_at: access.expires_at,
            }),
            refresh: tokens.refresh.as_ref().map(RefreshRecord::from),
            previous: tokens.previous.as_ref().map(RefreshRecord::from),
            surplus: tokens.surplus.iter().map(Self::from).collect(),
        }
    }
}

impl<'a> From<&'a RefreshToken> for RefreshRecord<'a> {
    fn from(refresh: &'a RefreshToken) -> Self {
        Self { value: Cow::Borrowed(refresh.value.expose()), expires_at: refresh.expires_at }
    }
}

impl From<RefreshRecord<'_>> for RefreshToken {
    fn from(record: RefreshRecord<'_>) -> Self {
        Self { value: Secret::new(record.value.into_owned()), expires_at: record.expires_at }
    }
}

impl From<TokensRecord<'_>> for TokenSet {
    fn from(record: TokensRecord<'_>) -> Self {
        Self {
            access: record.access.map(|access| AccessToken {
                value: Secret::new(access.value.into_owned()),
                token_type: access.token_type.into_owned(),
                issued_at: access.issued_at,
                expires_at: access.expires_at,
            }),
            refresh: record.refresh.map(RefreshToken::from),
            previous: record.previous.map(RefreshToken::from),
            surplus: record.surplus.into_iter().map(Self::from).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionRecord<'a> {
    #[serde(borrow)]
    session: Cow<'a, str>,
    connection: Cow<'a, ConnectionId>,
    expires_at: Timestamp,
    allow_account_change: bool,
    #[serde(borrow)]
    phase: PhaseRecord<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum PhaseRecord<'a> {
    Code {
        #[serde(borrow)]
        code_verifier: Cow<'a, str>,
        #[serde(borrow)]
        redirect_uri: Cow<'a, str>,
        return_url: Option<String>,
        scopes: Cow<'a, Scopes>,
        #[serde(default, skip_serializing_if = "Values::is_empty")]
        variables: Values,
    },
    Finish {
        #[serde(borrow)]
        tokens: TokensRecord<'a>,
        scopes: Cow<'a, Scopes>,
        account: Option<Account>,
        #[serde(default, skip_serializing_if = "Told::is_empty")]
        variables: Told,
    },
}

impl<'a> From<&'a ConnectSession> for SessionRecord<'a> {
    fn from(session: &'a ConnectSession) -> Self {
        let phase = match &session.phase {
            Phase::Code(wait) => PhaseRecord::Code {
                code_verifier: Cow::Borrowed(wait.code_verifier.expose()),
                redirect_uri: Cow::Borrowed(&wait.redirect_uri),
                return_url: wait.return_url.clone(),
                scopes: Cow::Borrowed(&wait.scopes),
                variables: wait.variables.clone(),
            },
            Phase::Finish(wait) => PhaseRecord::Finish {
                tokens: (&wait.tokens).into(),
                scopes: Cow::Borrowed(&wait.scopes),
                account: wait.account.clone(),
                variables: wait.variables.clone(),
            },
        };
        Self {
            session: Cow::Borrowed(&session.session),
            connection: Cow::Borrowed(&session.connection),
            expires_at: session.expires_at,
            allow_account_change: session.allow_account_change,
            phase,
        }
    }
}

impl From<SessionRecord<'_>> for ConnectSession {
    fn from(record: SessionRecord<'_>) -> Self {
        let phase = match record.phase {
            PhaseRecord::Code { code_verifier, redirect_uri, return_url, scopes, variables } => {
                Phase::Code(CodeWait {
                    code_verifier: Secret::new(code_verifier.into_owned()),
                    redirect_uri: redirect_uri.into_owned(),
                    return_url,
                    scopes: scopes.into_owned(),
                    variables,
                })
            }
            PhaseRecord::Finish { tokens, scopes, account, variables } => Phase::Finish(FinishWait {
                tokens: tokens.into(),
                scopes: scopes.into_owned(),
                account,
                variables,
            }),
        };
        Self {
            session: record.session.into_owned(),
            connection: record.connection.into_owned(),
            expires_at: record.expires_at,
            allow_account_change: record.allow_account_change,
            phase,
        }
    }
}

/// JSON in a buffer that is wiped. It is measured first: a buffer that grows leaves copies behind.
fn encode(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    const NOT_WRITTEN: StoreError = StoreError::Unreadable("it cannot be encoded");
    let mut size = Size(0);
    serde_json::to_writer(&mut size, value).map_err(|_| NOT_WRITTEN)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(size.0));
    serde_json::to_writer(&mut *plain, value).map_err(|_| NOT_WRITTEN)?;
    Ok(plain)
}

fn decode<'a, T: Deserialize<'a>>(plain: &'a [u8]) -> Result<T, StoreError> {
    // The text of a parse error quotes what it parsed: dropped.
    serde_json::from_slice(plain).map_err(|_| UNKNOWN)
}

/// Counts what is written to it.
struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
