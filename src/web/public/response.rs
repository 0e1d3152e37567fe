//! The authorization response, out of a query or a form.

use url::form_urlencoded;

use crate::broker::AuthorizationResponse;
use crate::secret::Secret;

/// Names that are read, with the most bytes a value may have. Everything else is ignored, `error_description` before
/// all: a provider's free text goes nowhere.
const READ: [(&str, usize); 4] = [("state", 512), ("code", 8192), ("iss", 1024), ("error", 256)];

/// The answer is not one an authorization server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads an authorization response (RFC 6749 section 4.1.2, RFC 9207 section 2). A parameter that comes twice is
/// refused, one without a value counts as absent (RFC 6749 section 3.1), and there must be a `state` and exactly one of
/// `code` and `error`.
pub(super) fn parse(raw: &[u8]) -> Result<AuthorizationResponse, Malformed> {
    let mut found: [Option<String>; READ.len()] = Default::default();
    for (name, value) in form_urlencoded::parse(raw) {
        let Some(place) = READ.iter().position(|(known, _)| *known == name) else { continue };
        if found[place].is_some() || value.len() > READ[place].1 || !is_text(&value) {
            return Err(Malformed);
        }
        found[place] = Some(value.into_owned());
    }
    let [state, code, iss, error] = found.map(|value| value.filter(|value| !value.is_empty()));
    if code.is_some() == error.is_some() {
        return Err(Malformed);
    }
    Ok(AuthorizationResponse {
        state: Secret::new(state.ok_or(Malformed)?),
        code: code.map(Secret::new),
        iss,
        error,
    })
}

/// Whether a value was UTF-8 before it was decoded, and has nothing in it that no parameter has.
fn is_text(value: &str) -> bool {
    !value.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_and_free_text_is_dropped() {
        let response =
            parse(b"error=access_denied&error_description=secret+words&state=a%2Bb&iss=https%3A%2F%2Fas")
                .unwrap();
        assert_eq!(response.state.expose(), "a+b");
        assert_eq!(response.iss.as_deref(), Some("https://as"));
        assert_eq!(response.error.as_deref(), Some("access_denied"));
        assert!(!format!("{response:?}").contains("words"));
    }

    #[test]
    fn a_parameter_without_a_value_counts_as_absent() {
        let response = parse(b"code=c&state=s&iss=&error=").unwrap();
        assert_eq!((response.iss, response.error), (None, None));
        assert_eq!(parse(b"code=c&state=").unwrap_err(), Malformed);
    }

    #[test]
    fn what_no_authorization_server_sends_is_refused() {
        let long = format!("code=c&state={}", "s".repeat(513));
        for raw in [
            "",
            "code=c",
            "state=s",
            "state=s&code=c&error=e",
            "state=s&state=s&code=c",
            "state=&state=s&code=c",
            "state=s&code=c&code=d",
            "state=s&code=c&iss=a&iss=b",
            "state=s&code=%FF",
            "state=s&code=a%0d%0ab",
            &long,
        ] {
            assert_eq!(parse(raw.as_bytes()).unwrap_err(), Malformed, "{raw}");
        }
    }
}
