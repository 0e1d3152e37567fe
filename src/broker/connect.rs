//! Consent: begin, complete, finish, import.

use url::Url;

/// Where the public door may send a browser after consent: an allowlist, matched exactly.
#[derive(Clone, Debug, Default)]
pub struct ReturnUrls {
    /// The URLs, compared as a whole (RFC 9700 section 2.1).
    pub exact: Vec<Url>,
    /// Whether `http://127.0.0.1:PORT/…` is welcome at any port: how our own CLI waits for a consent
    /// (RFC 8252 section 7.3).
    pub is_loopback_allowed: bool,
}
