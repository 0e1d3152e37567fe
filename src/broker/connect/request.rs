//! What a connect may ask for: every mistake found before anything is written or sent.

use url::Url;

use crate::broker::{BeginConnect, Settings};
use crate::connection::Values;
use crate::error::{Error, Mistake};
use crate::provider::{Occasion, ProviderClient};

/// Where a browser may be sent, after consent or with its outcome: an allowlist, matched letter by letter (RFC 9700
/// section 2.1).
#[derive(Clone, Debug, Default)]
pub struct AllowedUrls {
    /// The URLs.
    pub exact: Vec<String>,
    /// Whether `http://127.0.0.1:PORT/…` and `http://[::1]:PORT/…` are welcome at any port: how our own CLI waits for
    /// a consent (RFC 8252 section 7.3).
    pub is_loopback_allowed: bool,
}

impl AllowedUrls {
    fn contains(&self, raw: &str) -> bool {
        self.exact.iter().any(|listed| listed == raw) || (self.is_loopback_allowed && is_loopback(raw))
    }
}

impl BeginConnect {
    /// `held`: what the connection knows already for the provider's variables.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every mistake at once.
    pub(super) fn check(
        &self,
        provider: &dyn ProviderClient,
        settings: &Settings,
        held: &Values,
    ) -> Result<(), Error> {
        let mut mistakes = Vec::new();
        let mut refuse = |field: &str, message: &str| {
            mistakes.push(Mistake { field: field.to_owned(), message: message.to_owned() });
        };
        if let Some(raw) = &self.return_url
            && !settings.return_urls.contains(raw)
        {
            refuse(
                "return_url",
                "is not on the allowlist server.public.return_urls; it is compared as a whole",
            );
        }
        if let Some(raw) = &self.redirect_uri {
            if !settings.redirect_uris.contains(raw) {
                refuse(
                    "redirect_uri",
                    "is not on the allowlist server.public.redirect_uris; it is compared as a whole",
                );
            }
            if self.return_url.is_some() {
                refuse("return_url", "has no use beside redirect_uri: your own callback decides where to go");
            }
        }
        if self.return_url.is_none() && self.redirect_uri.is_none() {
            refuse(
                "return_url",
                "is empty; name the page of yours that gets the one-time code, or give redirect_uri",
            );
        }
        if self.scopes.iter().any(|scope| scope.is_empty() || !scope.bytes().all(is_scope_byte)) {
            refuse(
                "scopes",
                "hold one scope each, without spaces, quotes or control characters (RFC 6749 section 3.3)",
            );
        }
        if self.login_hint.as_ref().is_some_and(|hint| hint.len() > 256 || hint.chars().any(char::is_control))
        {
            refuse("login_hint", "must be at most 256 bytes without control characters");
        }
        if let Err(more) = provider.check_extra(&self.extra) {
            mistakes.extend(more);
        }
        if let Err(more) = provider.check_variables(Occasion::Connect, &self.variables, held) {
            mistakes.extend(more);
        }
        if mistakes.is_empty() { Ok(()) } else { Err(Error::InvalidRequest(mistakes)) }
    }
}

fn is_loopback(raw: &str) -> bool {
    // A URL that is not written as it would be sent could be read differently by a browser.
    let Some(url) = Url::parse(raw).ok().filter(|url| url.as_str() == raw) else { return false };
    url.scheme() == "http"
        && matches!(url.host_str(), Some("127.0.0.1" | "[::1]"))
        && url.port().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
}

fn is_scope_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(raw: &str) -> bool {
        let exact = vec!["https://app.example/connected".to_owned()];
        AllowedUrls { exact, is_loopback_allowed: true }.contains(raw)
    }

    #[test]
    fn a_listed_url_and_the_loopback_at_any_port_are_welcome() {
        assert!(allows("https://app.example/connected"));
        assert!(allows("http://127.0.0.1:43117/connected"));
        assert!(allows("http://[::1]:43117/"));
    }

    #[test]
    fn nothing_else_is_however_close() {
        for raw in [
            "https://app.example/connected/",
            "https://app.example/connected?x=1",
            "https://app.example/connected#x",
            "https://app.example:444/connected",
            "http://app.example/connected",
            "https://app.example.evil/connected",
            "https://app.example@evil/connected",
            "https://app.example/%63onnected",
            "//app.example/connected",
            "https:\\\\app.example/connected",
            "https://app.example\t/connected",
            "http://127.0.0.1/no-port",
            "http://127.0.0.1:80@evil/x",
            "http://127.1:8080/x",
            "http://localhost:8080/x",
            "https://127.0.0.1:8080/x",
            "http://127.0.0.1:8080/x#y",
            "javascript:alert(1)",
        ] {
            assert!(!allows(raw), "{raw}");
        }
    }
}
