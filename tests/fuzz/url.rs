//! The URL builder: whatever it accepts is the provider's own scheme, host, port and base path, as two parsers read it and
//! after it is decoded once more. Input: shop, account, method, host, path, redirect, then names and values of the query.

#![no_main]

mod provider;

use libfuzzer_sys::fuzz_target;
use provider::{API, CONNECTION, pieces, token, values};
use token_broker::connection::Credential;
use token_broker::provider::target::{Request, Target};

fuzz_target!(|data: &[u8]| {
    let Some(pieces) = pieces(data) else { return };
    let [shop, account, method, host, path, location, rest @ ..] = pieces.as_slice() else { return };
    let query: Vec<(String, String)> =
        rest.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect();
    let variables = values(shop, account);
    for (host, path) in [(None, (*path).to_owned()), (Some(*host), format!("/{path}"))] {
        for method in [method, "GET"] {
            let request = Request {
                connection: &CONNECTION,
                method,
                host,
                path: &path,
                query: &query,
                variables: &variables,
            };
            let Ok(target) = API.target(&request) else { continue };
            let url = check(target.clone());
            let read: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            assert_eq!(read, query);
            for location in
                [(*location).to_owned(), format!("{}{location}", &url[..url::Position::BeforePath])]
            {
                if let Ok(next) = target.redirected(&location) {
                    assert_eq!(check(next).origin(), url.origin());
                }
            }
        }
    }
});

fn check(target: Target) -> url::Url {
    assert!(!["TRACE", "CONNECT"].contains(&target.method().as_str()));
    let target = target.authorize(&Credential::new(&CONNECTION, &token())).unwrap();
    let url = url::Url::parse(target.url().as_str()).unwrap();
    let uri: http::Uri = url.as_str().parse().unwrap();
    let host = url.host_str().unwrap();
    let base = if host == "api.acme.example" {
        assert_eq!(url.port(), Some(8443));
        "/v1/".to_owned()
    } else if let Some(label) = host.strip_suffix(".files.acme.example") {
        assert!(!label.contains('.') && url.port().is_none());
        "/".to_owned()
    } else {
        assert!(host.ends_with(".shops.acme.example") && url.port().is_none());
        let account = url.path().split('/').nth(1).unwrap();
        assert!(!account.is_empty() && account.bytes().any(|byte| byte != b'.'));
        format!("/{account}/v2/")
    };
    assert!(url.scheme() == "https" && uri.scheme_str() == Some("https"));
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    assert!(uri.host() == Some(host) && uri.port_u16() == url.port());
    assert!(uri.path() == url.path() && uri.query() == url.query());
    assert!(url.path().starts_with(&base), "{url}");
    let decoded = percent_encoding::percent_decode_str(url.path()).decode_utf8().unwrap();
    assert!(!decoded.chars().any(char::is_control) && !decoded.contains('\\'), "{url}");
    assert!(decoded.split('/').all(|segment| segment != "." && segment != ".."), "{url}");
    url
}
