//! Checked URLs as types: an address is looked at once, where it enters, and the type says that it was.
//!
//! Knows no network. Invariant: a [`CheckedUrl`] is absolute, has a host, no user information and no fragment, and is
//! `https` unless it points at this machine or its owner said in so many words that plain HTTP will do.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

/// Whether plain `http` to other machines was allowed by the provider's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only to this machine.
    LoopbackOnly,
    /// Anywhere: the entry says `allow_http: true`.
    Allowed,
}

impl PlainHttp {
    /// From the entry's `allow_http`.
    pub fn from_flag(allow_http: bool) -> Self {
        if allow_http { Self::Allowed } else { Self::LoopbackOnly }
    }
}

/// An address that may be called. `Debug` and `Display` leave the query out.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckedUrl(Url);

/// Why an address may not be called. Displays as a sentence fragment without the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not parse, or is relative.
    #[error("is not an absolute URL")]
    NotAUrl,
    /// Neither `https` nor `http`.
    #[error("must start with https://")]
    Scheme,
    /// `http` to another machine.
    #[error(
        "must be https:// (http:// only to this machine, or with allow_http: true, and then tokens travel unencrypted)"
    )]
    PlainHttp,
    /// `user:password@`.
    #[error("must not hold a user name or a password")]
    UserInfo,
    /// `#…`.
    #[error("must not hold a fragment")]
    Fragment,
}

impl CheckedUrl {
    /// Checks an address.
    pub fn parse(text: &str, plain: PlainHttp) -> Result<Self, UrlError> {
        // The parser forgives white space and control characters and drops them; an address from data has none.
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(UrlError::NotAUrl);
        }
        let url = Url::parse(text).map_err(|_| UrlError::NotAUrl)?;
        if url.host().is_none() {
            return Err(UrlError::NotAUrl);
        }
        match url.scheme() {
            "https" => {}
            "http" if plain == PlainHttp::Allowed || is_loopback(&url) => {}
            "http" => return Err(UrlError::PlainHttp),
            _ => return Err(UrlError::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(UrlError::Fragment);
        }
        Ok(Self(url))
    }

    /// The address itself.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The address, where the host is written as one.
    pub fn literal(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// The host as text, brackets included for IPv6.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// Whether requests to it cross the network unencrypted.
    pub fn is_unencrypted(&self) -> bool {
        self.0.scheme() == "http" && !is_loopback(&self.0)
    }

    /// Whether it points at this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }

    /// Scheme, host, port and path, for people and logs.
    fn shown(&self) -> &str {
        &self.0[..url::Position::AfterPath]
    }
}

impl fmt::Debug for CheckedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedUrl({})", self.shown())
    }
}

impl fmt::Display for CheckedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

/// Loopback literals and `localhost`, which RFC 6761 keeps on this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_loopback_pass() {
        for good in [
            "https://a.example/token?x=1",
            "http://127.0.0.1:8080/token",
            "http://127.9.9.9/",
            "http://[::1]:1/token",
            "http://localhost/token",
        ] {
            assert!(CheckedUrl::parse(good, PlainHttp::LoopbackOnly).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://a.example/token", UrlError::PlainHttp),
            ("http://localhost.evil.example/", UrlError::PlainHttp),
            ("http://10.0.0.1/", UrlError::PlainHttp),
            ("http://[::ffff:10.0.0.1]/", UrlError::PlainHttp),
            ("ftp://a.example/", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::NotAUrl),
            ("/token", UrlError::NotAUrl),
            ("a.example/token", UrlError::NotAUrl),
            ("https:\\\\a.example", UrlError::NotAUrl),
            ("\thttps://a.example", UrlError::NotAUrl),
            ("https://user@a.example/", UrlError::UserInfo),
            ("https://:pw@a.example/", UrlError::UserInfo),
            ("https://a.example/#x", UrlError::Fragment),
        ] {
            assert_eq!(CheckedUrl::parse(bad, PlainHttp::LoopbackOnly), Err(why), "{bad}");
        }
        let allowed = CheckedUrl::parse("http://a.example/token", PlainHttp::Allowed).unwrap();
        assert!(allowed.is_unencrypted());
    }

    #[test]
    fn the_query_is_never_shown() {
        let url = CheckedUrl::parse("https://a.example/cb?code=canary", PlainHttp::LoopbackOnly).unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://a.example/cb CheckedUrl(https://a.example/cb)");
    }
}
