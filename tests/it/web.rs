//! The public door and the ops door over real sockets, with a real broker behind them.

mod door;
mod ops;
mod shutdown;

use std::sync::Arc;

use token_broker::clock::SystemClock;
use token_broker::error::{AmbiguousCause, OAuthCode, ProviderError};
use token_broker::secret::Secret;
use token_broker::telemetry::{Capture, Filter, Format, Logging};

use door::{Door, RETURN_URL, get, post};

/// What an honest browser brings back.
const CODE: &str = "canary-code-of-the-provider";

#[tokio::test]
async fn a_callback_leads_to_the_return_url_whose_code_finishes_the_connection() {
    let door = Door::open().await;
    let begun = door.begin().await;

    let reply = door.get(&format!("/callback/fake?code={CODE}&state={}", begun.state)).await;

    assert_eq!(reply.status, 303, "{reply:?}");
    let location = reply.header("location");
    let code = location.strip_prefix(&format!("{RETURN_URL}?code=")).expect("the return URL with a code");
    assert!(
        !location.contains(CODE) && !location.contains(&begun.state) && !location.contains(&begun.session)
    );
    let profile = door.broker.finish_connect(&begun.session, Secret::new(code.to_owned())).await.unwrap();
    assert_eq!(profile.status.as_str(), "ACTIVE");
    assert_eq!(door.provider.exchanged(), [CODE]);
}

#[tokio::test]
async fn an_answer_posted_as_a_form_is_taken_too() {
    let door = Door::open().await;
    let begun = door.begin().await;
    let form = format!("code={CODE}&state={}", begun.state);

    let other = door.ask(&post("/callback/fake", "application/json", &form)).await;
    assert_eq!(other.status, 415);
    let reply =
        door.ask(&post("/callback/fake", "application/x-www-form-urlencoded; charset=utf-8", &form)).await;

    assert_eq!(reply.status, 303);
    assert!(reply.header("location").starts_with(RETURN_URL));
}

#[tokio::test]
async fn a_refusal_goes_to_the_return_url_without_the_providers_words() {
    let door = Door::open().await;
    let begun = door.begin().await;

    let query = format!("error=access_denied&error_description=canary+words&state={}", begun.state);
    let reply = door.get(&format!("/callback/fake?{query}")).await;

    assert_eq!(reply.status, 303);
    let location = reply.header("location");
    assert_eq!(location, format!("{RETURN_URL}?error=CONNECT_SESSION_INVALID&oauth_error=access_denied"));
}

#[tokio::test]
async fn what_leads_nowhere_leads_to_a_page_under_a_clean_url() {
    let door = Door::open().await;
    let begun = door.begin().await;
    let state = &begun.state;
    let used = door.begin().await.state;
    door.get(&format!("/callback/fake?code=c&state={used}")).await;
    let cases = [
        (format!("/callback/fake?code=c&state={used}"), "expired", 400),
        ("/callback/fake?code=c&state=never-begun".to_owned(), "expired", 400),
        ("/callback/fake".to_owned(), "malformed", 400),
        (format!("/callback/fake?state={state}"), "malformed", 400),
        (format!("/callback/fake?code=c&code=d&state={state}"), "malformed", 400),
        (format!("/callback/other?code=c&state={state}"), "mixed-up", 400),
        ("/callback/unheard-of?code=c&state=s".to_owned(), "unknown-provider", 404),
    ];
    for (target, word, status) in cases {
        let reply = door.get(&target).await;
        assert_eq!(reply.status, 303, "{target}");
        let location = reply.header("location");
        let provider = target.split(['/', '?']).nth(2).unwrap();
        assert_eq!(location, format!("{provider}/failed/{word}"), "{target}");
        let page = door.get(&format!("/callback/{location}")).await;
        assert_eq!(page.status, status, "{target}");
        assert!(page.body.contains("<h1>"), "{page:?}");
        for secret in ["canary", state, &used, "code=c"] {
            assert!(!page.body.contains(secret), "{page:?}");
        }
    }
}

#[tokio::test]
async fn a_person_is_told_when_the_provider_does_not_answer() {
    for (error, reason) in [
        (ProviderError::Ambiguous { cause: AmbiguousCause::Timeout }, "PROVIDER_UNAVAILABLE"),
        (ProviderError::Misconfigured(OAuthCode::new("invalid_client")), "PROVIDER_REJECTED_CLIENT"),
    ] {
        let door = Door::open().await;
        let begun = door.begin().await;
        door.provider.fail_with(error);

        let reply = door.get(&format!("/callback/fake?code=c&state={}", begun.state)).await;

        assert_eq!(reply.status, 303);
        assert_eq!(reply.header("location"), format!("{RETURN_URL}?error={reason}"));
    }
    let page = Door::open().await.get("/callback/fake/failed/provider-unreachable").await;
    assert_eq!(page.status, 502);
    assert!(page.body.contains("Fake &amp; Sons"), "{page:?}");
}

#[tokio::test]
async fn neither_a_second_parameter_nor_a_head_request_uses_the_answer_up() {
    let door = Door::open().await;
    let begun = door.begin().await;
    let target = format!("/callback/fake?code={CODE}&state={}", begun.state);

    assert_eq!(
        door.get(&format!("{target}&state={}", begun.state)).await.header("location"),
        "fake/failed/malformed"
    );
    let head = door.ask(&get(&target).replacen("GET", "HEAD", 1)).await;
    assert_eq!((head.status, head.header("allow")), (405, "GET,POST"));

    assert!(door.get(&target).await.header("location").starts_with(RETURN_URL));
}

#[tokio::test]
async fn every_answer_is_kept_nowhere_framed_nowhere_and_refers_to_nobody() {
    let door = Door::open().await;
    let begun = door.begin().await;
    let requests = [
        get(&format!("/callback/fake?code={CODE}&state={}", begun.state)),
        get("/callback/fake"),
        get("/callback/fake/failed/declined"),
        get("/callback/fake/failed/no-such-word"),
        get("/callback/%00"),
        get("/callback/%ff"),
        get("/"),
        get("/livez"),
        get("/metrics"),
        get("/callback/fake").replacen("GET", "DELETE", 1),
        get("/callback/fake/failed/declined").replacen("GET", "PUT", 1),
        get("/callback/fake").replacen("localhost", "evil.example", 1),
        get("/callback/fake").replacen("Host:", "X-Host:", 1),
    ];
    for request in requests {
        let reply = door.ask(&request).await;
        for (name, value) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            ),
            ("connection", "close"),
        ] {
            assert_eq!(reply.header(name), value, "{name} of {request}\n{reply:?}");
        }
        assert_eq!(reply.header("x-request-id").len(), 16);
        assert!(matches!(reply.status, 200 | 303 | 400..=499), "{reply:?}");
    }
}

#[tokio::test]
async fn nobody_outside_the_allowlist_is_ever_redirected_to() {
    let door = Door::open().await;
    for target in [
        "/callback/fake?code=c&state=s&return_url=https%3A%2F%2Fevil.example&redirect_uri=https://evil.example",
        "/callback/fake?code=c&state=https://evil.example",
        "/callback/fake?error=https://evil.example&state=s",
        "/callback//evil.example?code=c&state=s",
        "/callback/%2F%2Fevil.example?code=c&state=s",
        "/callback/%5C%5Cevil.example?code=c&state=s",
        "/callback/https:evil.example?code=c&state=s",
        "/callback/fake%0D%0ALocation:%20https:%2F%2Fevil.example?code=c&state=s",
        "//evil.example/callback/fake?code=c&state=s",
        "//evil.example/..;/callback/fake",
        "/callback/fake/../../evil.example",
        "http://evil.example/callback/fake?code=c&state=s",
    ] {
        let reply = door.get(target).await;
        let location = reply.find("location").unwrap_or_default();
        assert!(!reply.raw.contains("evil"), "{target}\n{reply:?}");
        assert!(location.is_empty() || location.starts_with("fake/failed/"), "{target}\n{reply:?}");
    }
}

#[tokio::test]
async fn the_door_answers_to_its_own_names_alone() {
    let door = Door::open().await;
    let asked = |host: &str| get("/").replacen("localhost", host, 1);
    for (host, status) in [
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:1", 421),
        ("", 400),
        ("a@localhost", 400),
        ("localhost\r\nHost: localhost", 400),
        ("broker.test", 404),
        ("127.0.0.1", 404),
        (&format!("127.0.0.1:{}", door.address.port()), 404),
    ] {
        assert_eq!(door.ask(&asked(host)).await.status, status, "{host:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let door = Door::open().await;
    let long = "x".repeat(20_000);
    assert_eq!(door.get(&format!("/callback/fake?code={long}")).await.status, 431);
    assert_eq!(door.ask(&get("/").replacen("Host", &format!("X-Long: {long}\r\nHost"), 1)).await.status, 431);
    let form = format!("code={long}&state=s");
    let reply = door.ask(&post("/callback/fake", "application/x-www-form-urlencoded", &form)).await;
    assert_eq!(reply.header("location"), "fake/failed/malformed");
}

#[tokio::test]
async fn the_callbacks_are_also_below_the_public_urls_path() {
    let door = Door::open_at("https://broker.test/oauth/").await;
    for target in ["/oauth/callback/fake", "/callback/fake"] {
        assert_eq!(door.get(target).await.header("location"), "fake/failed/malformed", "{target}");
    }
    assert_eq!(door.get("/oauth/callback/fake/failed/expired").await.status, 400);
}

#[tokio::test]
async fn a_callback_is_one_line_without_its_query_at_trace() {
    let logging = Logging { filter: Filter::parse("trace").unwrap(), format: Format::Json };
    let log = Capture::start(&logging, Arc::new(SystemClock));
    let door = Door::open().await;
    let begun = door.begin().await;

    let good = format!("/callback/fake?code={CODE}&state={}", begun.state);
    let location = door.ask(&get(&good).replacen("Host", "X-Request-Id: r-1\r\nHost", 1)).await;
    door.get("/callback/fake?error=e&error_description=canary&state=canary-state").await;

    let text = log.text();
    let line = text.lines().find(|line| line.contains("\"callback\"")).expect(&text);
    assert!(line.contains("\"request_id\":\"r-1\"") && line.contains("\"provider\":\"fake\""), "{line}");
    let failed = text.lines().find(|line| line.contains("\"callback failed\"")).expect(&text);
    assert!(
        failed.contains("\"reason\":\"CONNECT_SESSION_INVALID\"") && failed.contains("\"fault\":\"owner\""),
        "{failed}"
    );
    let code = location.header("location").rsplit_once('=').unwrap().1;
    for secret in ["canary", &begun.state, &begun.session, code] {
        assert!(!text.contains(secret), "{secret} is in\n{text}");
    }
    assert!(
        door.metrics
            .encode()
            .unwrap()
            .contains("errors_total{provider=\"fake\",reason=\"CONNECT_SESSION_INVALID\"} 1")
    );
}
