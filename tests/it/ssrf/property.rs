//! Whatever is accepted has its provider's own scheme, host, port and base path, as two parsers read it.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use token_broker::provider::target::Api;

use super::{Call, acme, target, url, values};

const BASE: &str = "https://api.acme.example:8443/v1/base";

/// Pieces of which attacks are made, and letters between them.
fn piece() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "/",
        "//",
        "\\",
        "..",
        ".",
        "%2e",
        "%2f",
        "%5c",
        "%00",
        "%25",
        "%c0%ae",
        "%",
        ";",
        "?",
        "#",
        "@",
        ":",
        "::1",
        "[",
        "]",
        "127.0.0.1",
        "evil.example",
        "api.acme.example",
        "https:",
        "http://",
        "v1",
        "base",
        "files",
        "\t",
        "\r\n",
        " ",
        "\u{ff0e}",
        "\u{ff0f}",
        "\u{2024}",
        "\u{202e}",
        "ü",
        "xn--",
        "&",
        "=",
        "+",
        "|",
        "^",
        "{",
        "}",
        "'",
        "\"",
        "<",
        "*",
    ];
    prop_oneof![4 => prop::sample::select(PIECES).prop_map(str::to_owned), 1 => "\\PC{0,4}", 1 => any::<char>().prop_map(String::from)]
}

fn text() -> impl Strategy<Value = String> {
    vec(piece(), 0..8).prop_map(|pieces| pieces.concat())
}

/// Both readings of a URL that was accepted.
fn check(text: &str) -> Result<(), TestCaseError> {
    let url = url::Url::parse(text).unwrap();
    prop_assert_eq!(url.as_str(), text, "a parser changes it");
    prop_assert_eq!(url.scheme(), "https");
    prop_assert_eq!(url.host_str(), Some("api.acme.example"));
    prop_assert_eq!(url.port(), Some(8443));
    prop_assert!(url.path().starts_with("/v1/base/"), "{}", url);
    prop_assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    let uri: http::Uri = text.parse().unwrap();
    prop_assert_eq!(uri.scheme_str(), Some("https"));
    prop_assert_eq!(uri.authority().map(|authority| authority.as_str()), Some("api.acme.example:8443"));
    prop_assert_eq!(uri.path(), url.path());
    prop_assert_eq!(uri.query(), url.query());
    // As a server that decodes once more would take it.
    let decoded = percent_encoding::percent_decode_str(url.path()).decode_utf8().unwrap();
    prop_assert!(!decoded.chars().any(char::is_control) && !decoded.contains('\\'), "{}", url);
    prop_assert!(decoded.split('/').all(|segment| segment != "." && segment != ".."), "{}", url);
    let twice = url::Url::parse(BASE).unwrap().join(&decoded.replace(['?', '#'], "_")).unwrap();
    prop_assert!(twice.path().starts_with("/v1/base/"), "{} decodes to {}", url, twice);
    Ok(())
}

static OPEN: LazyLock<Api> = LazyLock::new(|| acme(BASE, &[]));

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn an_accepted_path_stays_below_its_base(path in text(), query in vec((text(), text()), 0..3)) {
        for path in [format!("/{path}"), path] {
            if let Ok(accepted) = target(&OPEN, &Call { path: &path, query: &query, ..Call::default() }, &values()) {
                let text = url(accepted);
                check(&text)?;
                let read: Vec<(String, String)> =
                    url::Url::parse(&text).unwrap().query_pairs().into_owned().collect();
                prop_assert_eq!(&read, &query, "the query is read as it was meant");
            }
        }
    }

    #[test]
    fn an_accepted_redirect_stays_below_its_base(location in text()) {
        let start = target(&OPEN, &Call::default(), &values()).unwrap();
        for location in [format!("/v1/base/{location}"), format!("{BASE}/{location}"), format!("https://{location}"), location] {
            if let Ok(accepted) = start.redirected(&location) {
                check(&url(accepted))?;
            }
        }
    }

    #[test]
    fn an_accepted_host_is_one_of_the_providers(host in text()) {
        for host in [host.clone(), format!("{host}.files.acme.example"), format!("api.acme.example{host}")] {
            if let Ok(accepted) = target(&OPEN, &Call { host: Some(&host), ..Call::default() }, &values()) {
                let url = url::Url::parse(&url(accepted)).unwrap();
                let accepted = url.host_str().unwrap();
                let label = accepted.strip_suffix(".files.acme.example");
                prop_assert!(
                    accepted == "api.acme.example" || label.is_some_and(|label| !label.contains('.')),
                    "{} for {:?}", accepted, host
                );
            }
        }
    }
}
