//! Addresses that browsers are sent to, and the names by which callers call us.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

use super::{Refused, checked_text, quoted};

/// Under which address browsers reach the public door; its path ends with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

checked_text!(
    BaseUrl,
    "base-url",
    "string",
    "An https:// URL without query (http:// only for this machine)."
);

/// A URL to which a browser may be sent after consent: kept as written, for it is compared letter by letter with what
/// an application asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnUrl(String);

checked_text!(ReturnUrl, "return-url", "string", "An https:// URL (http:// only for this machine).");

/// A redirect URI of an application, as it is registered at the provider: compared letter by letter (RFC 9700
/// section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUri(String);

checked_text!(
    RedirectUri,
    "redirect-uri",
    "string",
    "An https:// URL, http:// for this machine, or an app's own scheme (com.example.app:/callback)."
);

/// A host name, with or without a port, that a gRPC caller may put into `:authority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(String);

checked_text!(Authority, "authority", "string", "A host name, with or without a port.");

impl BaseUrl {
    /// The URL; its path ends with `/`, so that it can be joined.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl ReturnUrl {
    /// The URL as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RedirectUri {
    /// The URI as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Authority {
    /// The authority, in small letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BaseUrl {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let mut url = web_url(text)?;
        if url.query().is_some() {
            return Err(Refused("must not hold a query".to_owned()));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self(url))
    }
}

impl FromStr for ReturnUrl {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        web_url(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for RedirectUri {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        // RFC 8252 section 7.1: an app's own scheme is a domain name turned round, so it has a dot.
        let is_own_scheme = text.split_once(':').is_some_and(|(scheme, _)| scheme.contains('.'));
        let url = if is_own_scheme { absolute(text)? } else { web_url(text)? };
        if url.fragment().is_some() { Err(fragment()) } else { Ok(Self(text.to_owned())) }
    }
}

impl FromStr for Authority {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let is_odd = text.contains(['/', '\\', '?', '#', '@']) || text.chars().any(char::is_whitespace);
        if is_odd || Url::parse(&format!("http://{text}/")).is_err() {
            return Err(Refused(format!(
                "{} is not a host; write broker.example or broker.example:7450",
                quoted(text)
            )));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// `https`, or `http` for this machine.
fn web_url(text: &str) -> Result<Url, Refused> {
    let url = absolute(text)?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let problem = match url.scheme() {
        "https" => None,
        "http" if is_loopback => None,
        "http" => Some("must be https://; http:// is accepted for this machine only"),
        _ => Some("must start with https://"),
    };
    if let Some(problem) = problem {
        return Err(Refused(problem.to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused("must not hold a user name or a password".to_owned()));
    }
    if url.fragment().is_some() { Err(fragment()) } else { Ok(url) }
}

fn absolute(text: &str) -> Result<Url, Refused> {
    // The parser drops white space and turns \ into /; an address that needs this was not meant so.
    let is_odd = text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\');
    match Url::parse(text) {
        Ok(url) if !is_odd => Ok(url),
        // Not quoted: an address may hold a password.
        _ => Err(Refused("is not an absolute URL; write https://host/path".to_owned())),
    }
}

fn fragment() -> Refused {
    Refused("must not hold a fragment (#…)".to_owned())
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for ReturnUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RedirectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_are_safe_to_send_a_browser_to_pass() {
        for good in
            ["https://app.example/done?x=1", "http://127.0.0.1:3000/cb", "http://[::1]/", "http://localhost"]
        {
            assert!(good.parse::<ReturnUrl>().is_ok(), "{good}");
            assert!(good.parse::<RedirectUri>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/done",
            "//evil.example/",
            "http://app.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "ftp://a.example/",
            "https://user:pw@a.example/",
            "https://a.example/#x",
            "\thttps://a.example/",
            "https:\\\\a.example/",
        ] {
            assert!(bad.parse::<ReturnUrl>().is_err(), "{bad}");
            assert!(bad.parse::<RedirectUri>().is_err(), "{bad}");
        }
        assert!("com.example.app:/callback".parse::<RedirectUri>().is_ok());
        assert!("com.example.app:/callback".parse::<ReturnUrl>().is_err());
    }

    #[test]
    fn what_is_compared_letter_by_letter_is_kept_as_written() {
        for raw in ["https://app.example", "https://App.example:443/a/../done?x=%7e", "http://localhost:3000"]
        {
            assert_eq!(raw.parse::<ReturnUrl>().unwrap().as_str(), raw);
            assert_eq!(raw.parse::<ReturnUrl>().unwrap().to_string(), raw);
            assert_eq!(raw.parse::<RedirectUri>().unwrap().as_str(), raw);
        }
    }

    #[test]
    fn a_base_can_be_joined() {
        let base: BaseUrl = "https://auth.example/broker".parse().unwrap();
        assert_eq!(base.url().join("callback/x").unwrap().as_str(), "https://auth.example/broker/callback/x");
        assert!("https://auth.example/?a=b".parse::<BaseUrl>().is_err());
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in ["broker", "Broker.example:7450", "[::1]:7450", "10.0.0.1"] {
            assert!(good.parse::<Authority>().is_ok(), "{good}");
        }
        for bad in ["", "http://broker", "a b", "user@broker", "broker/x", "broker:port"] {
            assert!(bad.parse::<Authority>().is_err(), "{bad}");
        }
    }
}
