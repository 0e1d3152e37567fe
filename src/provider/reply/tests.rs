use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use super::*;
use crate::connection::Account;
use crate::secret::Secret;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn spec(value: Value) -> ProviderSpec {
    serde_json::from_value(value).unwrap()
}

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: Ok(Secret::new(body.as_bytes().to_vec())),
    }
}

fn judged(spec: &ProviderSpec, status: u16, body: &str) -> Result<Value, ProviderError> {
    judge(spec, Asked::Refresh, &answer(status, body), NOW)
}

/// One word for a failure, to write tables with.
fn word(error: &ProviderError) -> String {
    match error {
        ProviderError::Denied(code) => format!("denied {code}"),
        ProviderError::Misconfigured(code) => format!("misconfigured {code}"),
        ProviderError::RateLimited { .. } => "limited".to_owned(),
        ProviderError::NoTurn { limit, .. } => format!("no turn by {limit}"),
        ProviderError::Unavailable { cause, .. } => format!("unavailable {cause}"),
        ProviderError::Ambiguous { cause } => format!("ambiguous {cause}"),
        ProviderError::Malformed => "malformed".to_owned(),
        ProviderError::CircuitOpen { .. } => "open".to_owned(),
    }
}

const HTML: &str = "<!doctype html><title>invalid_grant</title>";
const DEAD: &str = r#"{"error":"invalid_grant","error_description":"canary"}"#;

#[test]
fn only_the_providers_own_word_ends_a_grant() {
    let table = [
        (400, DEAD, "denied invalid_grant"),
        (401, DEAD, "denied invalid_grant"),
        (403, DEAD, "denied invalid_grant"),
        (200, DEAD, "denied invalid_grant"),
        // F15: none of these is a death.
        (500, "", "ambiguous it answered 500"),
        (500, DEAD, "ambiguous it answered 500"),
        (502, HTML, "ambiguous it answered 502"),
        (503, DEAD, "ambiguous it answered 503"),
        (504, "", "ambiguous it answered 504"),
        (429, DEAD, "limited"),
        (200, "", "ambiguous a success without tokens that can be read"),
        (200, HTML, "ambiguous a success without tokens that can be read"),
        (200, r#"{"access_token":"a""#, "ambiguous a success without tokens that can be read"),
        (200, "[]", "ambiguous a success without tokens that can be read"),
        (
            200,
            r#"{"access_token":"a","access_token":"b"}"#,
            "ambiguous a success without tokens that can be read",
        ),
        (204, "", "ambiguous a success without tokens that can be read"),
        (301, DEAD, "malformed"),
        (302, HTML, "malformed"),
        (307, DEAD, "malformed"),
        (400, "", "unavailable it answered 400"),
        (400, HTML, "unavailable it answered 400"),
        (400, "invalid_grant", "unavailable it answered 400"),
        (400, r#"{"error":"Invalid_Grant"}"#, "unavailable it answered 400"),
        (400, r#"{"error":["invalid_grant"]}"#, "unavailable it answered 400"),
        (400, r#"{"error_description":"invalid_grant"}"#, "unavailable it answered 400"),
        (403, HTML, "unavailable it answered 403"),
        (404, HTML, "unavailable it answered 404"),
        (418, r#"{"error":"teapot"}"#, "unavailable it answered 418"),
        // Our client, not the grant.
        (400, r#"{"error":"invalid_client"}"#, "misconfigured invalid_client"),
        (401, r#"{"error":"invalid_client"}"#, "misconfigured invalid_client"),
        (401, r#"{"error":"unauthorized_client"}"#, "misconfigured unauthorized_client"),
        (400, r#"{"error":"invalid_request"}"#, "misconfigured invalid_request"),
        (400, r#"{"error":"invalid_scope"}"#, "misconfigured invalid_scope"),
        (401, "", "unavailable it answered 401"),
        // Passing trouble, by name.
        (400, r#"{"error":"temporarily_unavailable"}"#, "unavailable it answered 400"),
        (400, r#"{"error":"server_error"}"#, "ambiguous it answered 400"),
        (400, r#"{"error":"slow_down"}"#, "limited"),
    ];
    let spec = ProviderSpec::default();
    for (status, body, expected) in table {
        let error = judged(&spec, status, body).unwrap_err();
        assert_eq!(word(&error), expected, "{status} {body}");
        assert!(!format!("{error:?}{error}").contains("canary"));
    }
}

#[test]
fn a_challenge_without_a_body_is_about_the_client() {
    let mut answer = answer(401, "");
    answer.headers.insert("www-authenticate", HeaderValue::from_static("Basic realm=\"as\""));
    let error = judge(&ProviderSpec::default(), Asked::Refresh, &answer, NOW).unwrap_err();
    assert_eq!(word(&error), "misconfigured unrecognized");
}

#[test]
fn a_body_that_was_lost_leaves_the_status_to_speak() {
    let lost = |status: u16| {
        let answer = Answer { body: Err(AmbiguousCause::Reset), ..answer(status, "") };
        word(&judge(&ProviderSpec::default(), Asked::Refresh, &answer, NOW).unwrap_err())
    };
    assert_eq!(lost(200), "ambiguous the connection broke");
    assert_eq!(lost(429), "limited");
    assert_eq!(lost(500), "ambiguous it answered 500");
    assert_eq!(lost(400), "unavailable it answered 400");
}

#[test]
fn an_answer_that_leaves_the_outcome_open_says_how_long_to_wait() {
    let spec = spec(json!({"errors": [{"is": ["busy"], "means": "ambiguous"}]}));
    let wait = Some(Duration::from_secs(120));
    for (status, body) in [
        (500, ""),
        (502, HTML),
        (503, DEAD),
        (504, ""),
        (400, r#"{"error":"server_error"}"#),
        (400, r#"{"error":"busy"}"#),
    ] {
        let mut told = answer(status, body);
        told.headers.insert("retry-after", HeaderValue::from_static("120"));
        let error = judge(&spec, Asked::Refresh, &told, NOW).unwrap_err();
        let expected = AmbiguousCause::Status { status, retry_after: wait };
        assert_eq!(error, ProviderError::Ambiguous { cause: expected }, "{status} {body}");
        assert_eq!((error.asked_wait(), error.retry_after()), (wait, wait));
    }
    let silent = judged(&spec, 503, "").unwrap_err();
    assert_eq!((silent.asked_wait(), silent.retry_after()), (None, Some(Duration::from_secs(1))));
}

#[test]
fn what_means_death_is_data() {
    let dex = spec(json!({"dead_when": ["invalid_request"]}));
    assert_eq!(
        word(&judged(&dex, 400, r#"{"error":"invalid_request"}"#).unwrap_err()),
        "denied invalid_request"
    );
    assert_eq!(word(&judged(&dex, 400, DEAD).unwrap_err()), "unavailable it answered 400");
    let exchange = judge(&dex, Asked::Exchange, &answer(400, DEAD), NOW).unwrap_err();
    assert_eq!(word(&exchange), "denied invalid_grant", "a code is dead by the RFC's own word");
}

#[test]
fn rules_come_first_and_touch_server_errors_only_by_status() {
    let spec = spec(json!({"errors": [
        {"status": [403], "is": ["access_denied"], "means": "client_broken"},
        {"status": [503], "means": "transient"},
        {"is": ["invalid_grant"], "path": "/error", "matches": "grant", "means": "ambiguous"},
        {"path": "/message", "matches": "revoked by .* user", "means": "dead"},
        {"is": ["mfa"], "means": "step_up"},
    ]}));
    for (status, body, expected) in [
        (403, r#"{"error":"access_denied"}"#, "misconfigured access_denied"),
        (400, r#"{"error":"access_denied"}"#, "unavailable it answered 400"),
        (503, HTML, "unavailable it answered 503"),
        (400, DEAD, "ambiguous it answered 400"),
        (500, DEAD, "ambiguous it answered 500"),
        (400, r#"{"message":"token revoked by the user"}"#, "denied unrecognized"),
        (500, r#"{"message":"token revoked by the user"}"#, "ambiguous it answered 500"),
        (400, r#"{"error":"mfa"}"#, "denied mfa"),
    ] {
        assert_eq!(word(&judged(&spec, status, body).unwrap_err()), expected, "{status} {body}");
    }
}

#[test]
fn each_server_people_run_says_death_and_a_wrong_secret_in_its_own_words() {
    let spent = r#"{"error":"invalid_request","error_description":"clientID x refresh token (ID y) is invalid or has already been claimed by another client."}"#;
    let expired = r#"{"error":"invalid_request","error_description":"Refresh token expired."}"#;
    let wrong = r#"{"error":"invalid_request","error_description":"No refresh token is found in request."}"#;
    let unauthorized = r#"{"error":"unauthorized_client","error_description":"Invalid client or Invalid client credentials"}"#;
    let client = r#"{"error":"invalid_client"}"#;
    let denied = r#"{"error":"access_denied"}"#;
    for (kind, status, body, expected) in [
        ("dex", 400, spent, "denied invalid_request"),
        ("dex", 400, expired, "denied invalid_request"),
        ("dex", 400, wrong, "misconfigured invalid_request"),
        ("dex", 500, spent, "ambiguous it answered 500"),
        ("dex", 401, client, "misconfigured invalid_client"),
        ("keycloak", 400, DEAD, "denied invalid_grant"),
        ("keycloak", 401, unauthorized, "misconfigured unauthorized_client"),
        ("hydra", 400, DEAD, "denied invalid_grant"),
        ("hydra", 401, client, "misconfigured invalid_client"),
        ("django-oauth-toolkit", 400, DEAD, "denied invalid_grant"),
        ("django-oauth-toolkit", 401, client, "misconfigured invalid_client"),
        ("atlassian", 403, DEAD, "denied invalid_grant"),
        ("atlassian", 403, denied, "misconfigured access_denied"),
        ("auth0", 403, DEAD, "denied invalid_grant"),
        ("okta", 400, DEAD, "denied invalid_grant"),
    ] {
        let entry = crate::provider::catalogue::find(kind).unwrap().spec().clone();
        let spec = spec(Value::Object(entry));
        assert_eq!(word(&judged(&spec, status, body).unwrap_err()), expected, "{kind} {status} {body}");
    }
}

#[test]
fn github_says_200_and_means_no() {
    let github: ProviderSpec = serde_json::from_value(Value::Object(
        crate::provider::catalogue::find("github").unwrap().spec().clone(),
    ))
    .unwrap();
    for (body, expected) in [
        (r#"{"error":"bad_refresh_token","error_uri":"x"}"#, "denied bad_refresh_token"),
        (r#"{"error":"bad_verification_code"}"#, "denied bad_verification_code"),
        (r#"{"error":"incorrect_client_credentials"}"#, "misconfigured incorrect_client_credentials"),
        (r#"{"error":"something_new"}"#, "unavailable it answered 200"),
    ] {
        assert_eq!(word(&judged(&github, 200, body).unwrap_err()), expected);
    }
    let mut form = answer(200, "access_token=gho_1&scope=repo%2Cuser&token_type=bearer");
    form.headers
        .insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8"));
    let reply = judge(&github, Asked::Exchange, &form, NOW).unwrap();
    let (facts, canonical) = Facts::read(&github, Asked::Exchange, "c", &reply, NOW).unwrap();
    assert_eq!(canonical["access_token"], "gho_1");
    assert_eq!(facts.scopes.unwrap().as_slice(), ["repo", "user"]);
    assert_eq!(facts.expires_in, None, "neither an expiry nor a refresh token: it does not expire");
}

#[test]
fn a_success_may_need_a_word_of_its_own() {
    let slack = spec(json!({"response": {"success_when": {"path": "/ok", "is": true}, "error": "/error"}}));
    assert!(judged(&slack, 200, r#"{"ok":true,"error":"","access_token":"a"}"#).is_ok());
    let error = judged(&slack, 200, r#"{"ok":false,"error":"invalid_grant"}"#).unwrap_err();
    assert_eq!(word(&error), "denied invalid_grant");
    let error = judged(&slack, 200, r#"{"access_token":"a"}"#).unwrap_err();
    assert_eq!(word(&error), "ambiguous a success without tokens that can be read");
}

#[test]
fn retry_after_is_read_in_both_forms_and_bounded() {
    let wait = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static(text));
        retry_after(&headers, NOW).map(|wait| wait.as_secs())
    };
    assert_eq!(wait("120"), Some(120));
    assert_eq!(wait("Fri, 15 Jan 2027 08:01:00 GMT"), Some(60));
    assert_eq!(wait("Fri, 15 Jan 2010 08:01:00 GMT"), Some(0));
    assert_eq!(wait("99999999999"), Some(86_400));
    assert_eq!(wait("soon"), None);
}

fn read(spec: &ProviderSpec, asked: Asked, reply: Value) -> Option<Facts> {
    Facts::read(spec, asked, "client", &reply, NOW).map(|(facts, _)| facts)
}

#[test]
fn lifetimes_come_from_the_reply_then_the_spec_then_caution() {
    let life = |spec: Value, reply: Value| {
        let mut full = json!({"access_token": "a", "refresh_token": "r"});
        full.as_object_mut().unwrap().extend(reply.as_object().unwrap().clone());
        read(&self::spec(spec), Asked::Refresh, full).unwrap().expires_in.map(|life| life.as_secs())
    };
    let with_default = json!({"lifetimes": {"access": "10m"}});
    assert_eq!(life(with_default.clone(), json!({"expires_in": 3600})), Some(3600));
    assert_eq!(life(with_default.clone(), json!({"expires_in": "3599"})), Some(3599));
    for nothing in
        [json!({}), json!({"expires_in": null}), json!({"expires_in": 0}), json!({"expires_in": -5})]
    {
        assert_eq!(life(with_default.clone(), nothing.clone()), Some(600), "{nothing}");
    }
    for nothing in [json!({"expires_in": "soon"}), json!({"expires_in": 1e300}), json!({"expires_in": [1]})] {
        assert_eq!(life(with_default.clone(), nothing.clone()), Some(600), "{nothing}");
    }
    assert_eq!(life(json!({}), json!({})), Some(3600), "refreshable, and nobody says how long");
    assert_eq!(
        life(json!({}), json!({"expires_in": 9e12})),
        Some(10 * 365 * 86_400),
        "absurd values are cut"
    );
    assert_eq!(life(json!({"expiry": "minutes"}), json!({"expires_in": 2})), Some(120));
    assert_eq!(life(json!({"expiry": "epoch_seconds"}), json!({"expires_in": 1_800_000_060})), Some(60));
    assert_eq!(life(json!({"expiry": "timestamp"}), json!({"expires_in": "2027-01-15T08:01:00Z"})), Some(60));
    assert_eq!(life(json!({"expiry": "never"}), json!({"expires_in": 5})), None);
    assert_eq!(life(json!({"mint": {"style": "static"}}), json!({"expires_in": 5})), None);
}

#[test]
fn a_reply_without_a_usable_access_token_is_no_token() {
    for reply in [
        json!({}),
        json!({"access_token": ""}),
        json!({"access_token": 1}),
        json!({"access_token": "a\r\nb"}),
        json!({"access_token": "a b"}),
    ] {
        assert!(read(&ProviderSpec::default(), Asked::Refresh, reply.clone()).is_none(), "{reply}");
    }
}

#[test]
fn a_refresh_token_is_taken_as_it_is_and_one_that_cannot_be_read_is_not_taken_for_none() {
    let brought = |token: Value| {
        let reply = json!({"access_token": "a", "refresh_token": token});
        Facts::read(&ProviderSpec::default(), Asked::Refresh, "client", &reply, NOW)
            .map(|(_, canonical)| canonical.get("refresh_token").cloned())
    };
    for text in ["rt-1", "rt with spaces", " ", "~!\"\\"] {
        assert_eq!(brought(json!(text)), Some(Some(json!(text))));
    }
    for none in [json!(null), json!("")] {
        assert_eq!(brought(none.clone()), Some(None), "{none}");
    }
    for unread in
        [json!(17), json!(true), json!({"value": "rt"}), json!(["rt"]), json!("r\nt"), json!("r\u{e9}")]
    {
        assert_eq!(brought(unread.clone()), None, "{unread}");
    }
}

#[test]
fn token_type_is_as_spelled_and_bearer_where_it_is_missing() {
    let kind = |reply| read(&ProviderSpec::default(), Asked::Refresh, reply).unwrap().token_type;
    assert_eq!(kind(json!({"access_token": "a", "token_type": "bearer"})), "bearer");
    assert_eq!(kind(json!({"access_token": "a"})), "Bearer");
    assert_eq!(kind(json!({"access_token": "a", "token_type": "x y\nz"})), "Bearer");
}

#[test]
fn what_the_reply_calls_the_refresh_tokens_rest_is_kept() {
    let google = spec(json!({"lifetimes": {"refresh_remaining": "/refresh_token_expires_in"}}));
    let facts =
        read(&google, Asked::Exchange, json!({"access_token": "a", "refresh_token_expires_in": 604_800}));
    assert_eq!(facts.unwrap().refresh_expires_in, Some(Duration::from_secs(604_800)));
    let facts = read(&google, Asked::Exchange, json!({"access_token": "a", "refresh_token_expires_in": 0}));
    assert_eq!(facts.unwrap().refresh_expires_in, None);
}

fn id_token(claims: &Value) -> String {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.sig", encode("{}"), encode(&claims.to_string()))
}

#[test]
fn an_id_token_names_the_account_only_when_it_is_for_us_and_alive() {
    let spec = spec(json!({
        "issuer": "https://login.example/{tid}/v2.0",
        "variables": {"tid": {"from": "id_token", "path": "/tid", "pattern": "[0-9a-f]{4}"}},
        "identity": {"from": "id_token", "id": ["/tid", "/oid"], "email": ["/email", "/preferred_username"]},
    }));
    let good = json!({
        "iss": "https://login.example/00ff/v2.0", "aud": "client", "exp": 1_800_000_600,
        "tid": "00ff", "oid": "o-1", "preferred_username": "a@example.com",
    });
    let account = |change: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        read(&spec, Asked::Exchange, json!({"access_token": "a", "id_token": id_token(&claims)}))
            .unwrap()
            .account
    };
    let expected = Account { id: "00ff:o-1".to_owned(), email: Some("a@example.com".to_owned()) };
    assert_eq!(account(json!({})), Some(expected.clone()));
    assert_eq!(account(json!({"aud": ["client"]})), Some(expected));
    for wrong in [
        json!({"iss": "https://login.example/evil/v2.0"}),
        json!({"aud": "another"}),
        json!({"aud": ["client", "another"]}),
        json!({"exp": 1_799_999_000}),
        json!({"oid": null}),
        json!({"oid": "a\u{1b}[2J"}),
    ] {
        assert_eq!(account(wrong.clone()), None, "{wrong}");
    }
}
