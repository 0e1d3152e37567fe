//! nginx over TLS with a certificate that is not good: nothing of a call reaches it, and the error says what is wrong.

use super::upstream::Shown;
use super::*;

#[tokio::test]
async fn to_a_server_that_is_not_the_one_that_was_meant_nothing_is_said() {
    let good = Shown::default;
    for (shown, is_trusted, cause) in [
        (good(), false, "vouches for its certificate"),
        (Shown { name: "elsewhere.example", ..good() }, true, "its certificate is for another name"),
        (Shown { until_year: 2020, ..good() }, true, "its certificate has expired"),
    ] {
        let upstream = Upstream::nginx_with(&shown);
        for way in [Way::Tls, Way::TlsHttp2] {
            let home = home(upstream.api(way));
            let home = if is_trusted { home.trusting(&upstream.authority()) } else { home };
            let desk = Desk::in_home(home).await;
            let error = desk.call(once(request("GET", "/small.txt"))).await.unwrap_err();
            assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{way:?}: {error}");
            assert!(error.message().contains(cause), "{way:?}: {error}");
            assert!(!desk.broker.stop().contains(TOKEN), "{way:?}");
        }
        // A line is there once a later request of its connection is answered: two in clear text show that lines are written.
        let control = Desk::at(&upstream).await;
        for _ in 0..2 {
            control.call(request("GET", "/nothing")).await.unwrap();
        }
        let heard = upstream.heard();
        assert!(!heard.is_empty());
        for line in heard {
            assert_eq!(line, format!("GET /nothing HTTP/1.1 Bearer {TOKEN}"), "{cause}");
        }
    }
}
