//! The sandbox as its clients see it: over HTTP, through its own pages.

mod fault;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use token_broker::clock::SystemClock;
use token_broker::entropy::OsEntropy;
use token_broker::sandbox::{
    Approval, Behavior, ClientAuth, ClientRegistration, Effect, End, Generation, IssuerParameter, Lifetimes,
    ReuseProfile, Sandbox, SandboxOptions,
};

use wire::{Case, REDIRECT_URI, encoded, request};

const BOTH: [&str; 2] = ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"];

/// Approves without a page.
fn automatic() -> Behavior {
    Behavior { approval: Approval::Automatic { account: "user-42".to_owned() }, ..Behavior::default() }
}

#[tokio::test]
async fn both_metadata_documents_name_the_issuer_exactly() {
    let case = Case::new(Behavior::default());
    for document in BOTH {
        let answer = case.get(document, &[]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text("issuer"), case.sandbox.issuer());
        assert_eq!(answer.text("token_endpoint"), format!("{}/token", case.sandbox.issuer()));
        assert_eq!(answer.json()["code_challenge_methods_supported"], json!(["S256"]));
        assert_eq!(answer.json()["authorization_response_iss_parameter_supported"], json!(true));
    }
}

#[tokio::test]
async fn a_person_approves_on_the_page_and_the_code_becomes_tokens() {
    let case = Case::new(Behavior::default());
    let page = case.authorize(&[("login_hint", "ada")]).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("cache-control"), "no-store");
    assert!(page.header("content-security-policy").contains("frame-ancestors 'none'"));
    assert_eq!(page.between("name=\"account\" value=\"", "\""), "ada");

    let form = [("account", "ada"), ("scope", "openid"), ("scope", "api.read"), ("decision", "approve")];
    let back = case.consent(&page, &form).await;
    assert_eq!(back.returned("state").as_deref(), Some("a state & more"));
    assert_eq!(back.returned("iss").as_deref(), Some(case.sandbox.issuer()));

    let tokens = case.redeem(&back.returned("code").unwrap(), &[]).await;
    assert_eq!(tokens.status, 200, "{}", tokens.body);
    assert_eq!(tokens.header("cache-control"), "no-store");
    assert_eq!(tokens.text("scope"), "openid api.read", "email was unticked");
    assert_eq!(tokens.json()["expires_in"], json!(300));

    let user = case.user_info(&tokens.text("access_token")).await;
    assert_eq!(
        user.json(),
        json!({ "sub": "ada", "email": "ada@sandbox.example", "email_verified": true, "name": "Ada" })
    );
    let again = case.consent(&page, &form).await;
    assert_eq!((again.status, again.header("location")), (400, ""), "a page is answered once");
}

#[tokio::test]
async fn a_person_who_denies_sends_the_browser_back_with_access_denied() {
    let case = Case::new(Behavior::default());
    let page = case.authorize(&[]).await;
    let back = case.consent(&page, &[("decision", "deny")]).await;
    assert_eq!(back.returned("error").as_deref(), Some("access_denied"));
    assert_eq!(back.returned("state").as_deref(), Some("a state & more"));
    assert_eq!(case.sandbox.log().exchanges()[1].effect, Some(Effect::Denied));
}

#[tokio::test]
async fn a_mistake_on_the_page_is_said_and_keeps_what_was_entered() {
    let case = Case::new(Behavior::default());
    let page = case.authorize(&[]).await;
    let wrong =
        case.consent(&page, &[("account", "<ada>"), ("scope", "email"), ("decision", "approve")]).await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.body.contains("role=\"alert\""));
    assert_eq!(wrong.between("name=\"account\" value=\"", "\""), "&lt;ada&gt;");
    assert_eq!(wrong.body.matches(" checked>").count(), 1);

    let nothing = case.consent(&page, &[("account", "ada"), ("decision", "approve")]).await;
    assert_eq!(nothing.status, 422);
    let right =
        case.consent(&wrong, &[("account", "ada"), ("scope", "email"), ("decision", "approve")]).await;
    assert!(right.returned("code").is_some());
}

#[tokio::test]
async fn a_client_or_return_address_that_is_not_registered_is_never_redirected_to() {
    let case = Case::new(automatic());
    for change in [
        ("client_id", "stranger"),
        ("client_id", ""),
        ("redirect_uri", "http://127.0.0.1:8800/callback/sandbox"),
        ("redirect_uri", "http://evil.example/"),
        ("redirect_uri", ""),
    ] {
        let answer = case.authorize(&[change]).await;
        assert_eq!((answer.status, answer.header("location")), (400, ""), "{change:?}");
    }
}

#[tokio::test]
async fn a_wrong_authorization_request_is_told_to_the_client() {
    let case = Case::new(automatic());
    for (change, error) in [
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge", "too-short"), "invalid_request"),
        (("code_challenge_method", ""), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("response_type", "token"), "unsupported_response_type"),
        (("response_type", ""), "invalid_request"),
        (("response_mode", "fragment"), "invalid_request"),
        (("scope", "a\"b"), "invalid_scope"),
    ] {
        let answer = case.authorize(&[change]).await;
        assert_eq!(answer.returned("error").as_deref(), Some(error), "{change:?}");
        assert_eq!(answer.returned("state").as_deref(), Some("a state & more"));
    }
    let twice = case.authorize(&[("scope", "a"), ("scope", "b")]).await;
    assert_eq!(twice.returned("error").as_deref(), Some("invalid_request"));
    case.sandbox.change(|behavior| behavior.approval = Approval::Page);
    let silent = case.authorize(&[("prompt", "none")]).await;
    assert_eq!(silent.returned("error").as_deref(), Some("interaction_required"));
}

#[tokio::test]
async fn a_code_needs_its_verifier_its_redirect_uri_and_its_client() {
    let case = Case::new(automatic());
    case.sandbox.register_client(ClientRegistration::public("other"));
    let code = case.authorize(&[]).await.returned("code").unwrap();
    for (change, error) in [
        (("code_verifier", "another-code-verifier-of-forty-three-characters"), "invalid_grant"),
        (("code_verifier", ""), "invalid_request"),
        (("redirect_uri", "http://127.0.0.1:8800/"), "invalid_grant"),
        (("redirect_uri", ""), "invalid_request"),
        (("grant_type", "password"), "unsupported_grant_type"),
        (("grant_type", ""), "invalid_request"),
    ] {
        let answer = case.redeem(&code, &[change]).await;
        assert_eq!((answer.status, answer.text("error")), (400, error.to_owned()), "{change:?}");
    }
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", REDIRECT_URI),
        ("code_verifier", wire::VERIFIER),
        ("client_id", "other"),
    ];
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let stolen = case.send(request("POST", "/token", &headers, &encoded(&form))).await.unwrap();
    assert_eq!(stolen.text("error"), "invalid_grant");

    assert_eq!(case.redeem(&code, &[]).await.status, 200, "no failure used the code up");
    let late = case.authorize(&[]).await.returned("code").unwrap();
    case.advance(60);
    assert_eq!(case.redeem(&late, &[]).await.text("error"), "invalid_grant");
}

#[tokio::test]
async fn a_code_used_twice_revokes_what_it_gave() {
    let case = Case::new(automatic());
    let code = case.authorize(&[]).await.returned("code").unwrap();
    let first = case.redeem(&code, &[]).await;
    let access_token = first.text("access_token");
    assert_eq!(case.user_info(&access_token).await.status, 200);

    assert_eq!(case.redeem(&code, &[]).await.text("error"), "invalid_grant");
    assert_eq!(case.user_info(&access_token).await.status, 401);
    assert_eq!(case.refresh(&first.text("refresh_token")).await.unwrap().text("error"), "invalid_grant");
}

#[tokio::test]
async fn a_client_proves_itself_by_header_or_form_and_a_wrong_secret_spends_nothing() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let wrong = [("content-type", "application/x-www-form-urlencoded"), ("authorization", "Basic YXBwOm5v")];
    let form = encoded(&[("grant_type", "refresh_token"), ("refresh_token", &refresh_token)]);
    let refused = case.send(request("POST", "/token", &wrong, &form)).await.unwrap();
    assert_eq!((refused.status, refused.text("error")), (401, "invalid_client".to_owned()));
    assert!(refused.header("www-authenticate").starts_with("Basic "));

    let secret = case.secret();
    let posted = encoded(&[
        ("grant_type", "refresh_token"),
        ("refresh_token", &refresh_token),
        ("client_id", "app"),
        ("client_secret", &secret),
    ]);
    let accepted = case.send(request("POST", "/token", &wrong[..1], &posted)).await.unwrap();
    assert_eq!(accepted.status, 200);
    let in_query = format!("/token?{posted}");
    assert_eq!(case.send(request("POST", &in_query, &wrong[..1], "")).await.unwrap().status, 401);

    case.sandbox.rotate_client_secret("app").unwrap();
    let stale = case.send(request("POST", "/token", &wrong[..1], &posted)).await.unwrap();
    assert_eq!(stale.text("error"), "invalid_client");
}

#[tokio::test]
async fn a_client_is_held_to_the_method_it_registered() {
    let case = Case::new(Behavior::default());
    let post_only = ClientRegistration { auth: ClientAuth::Post, ..ClientRegistration::confidential("app") };
    case.sandbox.register_client(post_only);
    assert_eq!(case.refresh("any").await.unwrap().text("error"), "invalid_client");
}

#[tokio::test]
async fn a_spent_refresh_token_ends_the_family_and_the_log_tells_it() {
    let case = Case::new(Behavior::default());
    let (first, _) = case.tokens();
    let second = case.refresh(&first).await.unwrap();
    assert_eq!(second.status, 200);

    let reused = case.refresh(&first).await.unwrap();
    assert_eq!((reused.status, reused.text("error")), (400, "invalid_grant".to_owned()));
    assert_eq!(case.user_info(&second.text("access_token")).await.status, 401);
    assert_eq!(case.refresh(&second.text("refresh_token")).await.unwrap().status, 400);

    let log = case.sandbox.log();
    let seen: Vec<_> = log
        .refreshes()
        .into_iter()
        .map(|exchange| {
            let subject = exchange.subject;
            (subject.generation, subject.spent, subject.dead, exchange.effect.unwrap())
        })
        .collect();
    let refused = |family_ended| Effect::Refused { error: "invalid_grant".to_owned(), family_ended };
    assert_eq!(
        seen,
        [
            (Some(Generation(1)), false, false, Effect::Rotated { to: Generation(2) }),
            (Some(Generation(1)), true, false, refused(true)),
            (Some(Generation(2)), false, true, refused(false)),
        ]
    );
    let counts = log.counts();
    assert_eq!((counts.rotations, counts.spent_tokens_presented, counts.dead_tokens_presented), (1, 1, 1));
    assert_eq!(case.sandbox.grants().list()[0].ended, Some(End::Reused));
}

#[tokio::test]
async fn the_reuse_profile_may_change_between_two_requests() {
    let behavior = Behavior { reuse: ReuseProfile::django(Duration::from_secs(10)), ..Behavior::default() };
    let case = Case::new(behavior);
    let (first, old) = case.tokens();
    let second = case.refresh(&first).await.unwrap();
    assert_eq!(case.user_info(&old).await.status, 401, "the old access token dies at rotation");
    assert_eq!(case.refresh(&first).await.unwrap().json(), second.json(), "the same pair again");
    case.sandbox.change(|behavior| behavior.reuse = ReuseProfile::dex(Duration::ZERO));
    let refused = case.refresh(&first).await.unwrap();
    assert_eq!((refused.status, refused.text("error")), (400, "invalid_request".to_owned()));
    assert_eq!(case.refresh(&second.text("refresh_token")).await.unwrap().status, 200, "the family lives");
}

#[tokio::test]
async fn a_refresh_may_narrow_its_scope_and_not_widen_it() {
    let case = Case::new(Behavior::default());
    let (refresh_token, _) = case.tokens();
    let refresh = |scope| {
        let form = [("grant_type", "refresh_token"), ("refresh_token", &*refresh_token), ("scope", scope)];
        let case = &case;
        async move { case.post("/token", &form).await.unwrap() }
    };
    assert_eq!(refresh("openid admin").await.text("error"), "invalid_scope");
    assert_eq!(refresh("email").await.text("scope"), "email", "the refused request spent nothing");
}

#[tokio::test]
async fn revocation_ends_what_the_token_stands_for_and_tells_nothing() {
    let case = Case::new(Behavior::default());
    case.sandbox.register_client(ClientRegistration::confidential("other"));
    let (refresh_token, first) = case.tokens();
    let renewed = case.refresh(&refresh_token).await.unwrap();
    let (refresh_token, second) = (renewed.text("refresh_token"), renewed.text("access_token"));

    assert_eq!(case.post("/revoke", &[("token", &second)]).await.unwrap().status, 200);
    assert_eq!(case.user_info(&second).await.status, 401);
    assert_eq!(case.user_info(&first).await.status, 200, "an access token is revoked alone");

    assert_eq!(case.post("/revoke", &[("token", "unknown")]).await.unwrap().status, 200);
    assert_eq!(case.post("/revoke", &[]).await.unwrap().text("error"), "invalid_request");
    assert_eq!(case.post("/revoke", &[("token", &refresh_token)]).await.unwrap().status, 200);
    assert_eq!(case.user_info(&first).await.status, 401);
    assert_eq!(case.refresh(&refresh_token).await.unwrap().text("error"), "invalid_grant");
}

#[tokio::test]
async fn a_client_can_neither_revoke_nor_refresh_anothers_token() {
    let case = Case::new(Behavior::default());
    let (refresh_token, access_token) = case.tokens();
    case.sandbox.register_client(ClientRegistration::public("other"));
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let form = encoded(&[("client_id", "other"), ("token", &access_token)]);
    assert_eq!(case.send(request("POST", "/revoke", &headers, &form)).await.unwrap().status, 200);
    assert_eq!(case.user_info(&access_token).await.status, 200);

    let form = [("client_id", "other"), ("grant_type", "refresh_token"), ("refresh_token", &*refresh_token)];
    let stolen = case.send(request("POST", "/token", &headers, &encoded(&form))).await.unwrap();
    assert_eq!(stolen.text("error"), "invalid_grant");
    assert_eq!(case.refresh(&refresh_token).await.unwrap().status, 200, "and spends nothing");
}

#[tokio::test]
async fn an_access_token_expires_by_the_clock_or_by_the_tests_hand() {
    let case = Case::new(Behavior::default());
    let (_, early) = case.tokens();
    case.advance(299);
    assert_eq!(case.user_info(&early).await.status, 200);
    case.advance(1);
    let expired = case.user_info(&early).await;
    assert_eq!(expired.status, 401);
    assert!(expired.header("www-authenticate").contains("error=\"invalid_token\""));
    assert!(!case.get("/userinfo", &[]).await.header("www-authenticate").contains("error"));

    let (_, later) = case.tokens();
    case.sandbox.grants().expire_access_tokens();
    assert_eq!(case.user_info(&later).await.status, 401);
    let (_, last) = case.tokens();
    case.sandbox.grants().revoke_account("user-42");
    assert_eq!(case.user_info(&last).await.status, 401);
}

#[tokio::test]
async fn what_an_answer_leaves_out_is_a_knob() {
    let case = Case::new(Behavior { states_expires_in: false, states_scope: false, ..automatic() });
    let code = case.authorize(&[]).await.returned("code").unwrap();
    let tokens = case.redeem(&code, &[]).await;
    assert!(tokens.json().get("expires_in").is_none() && tokens.json().get("scope").is_none());

    case.sandbox.change(|behavior| {
        behavior.granted_scopes = Some(vec!["openid".to_owned()]);
        behavior.reuse = ReuseProfile::reusable();
        behavior.lifetimes = Lifetimes { access_token_ttl: Duration::from_secs(7), refresh_token_ttl: None };
    });
    let renewed = case.refresh(&tokens.text("refresh_token")).await.unwrap();
    assert_eq!(renewed.text("scope"), "openid", "less than was asked is always said");
    assert!(renewed.json().get("refresh_token").is_none());
    case.advance(7);
    assert_eq!(case.user_info(&renewed.text("access_token")).await.status, 401);

    case.sandbox.change(|behavior| behavior.issues_refresh_tokens = false);
    let code = case.authorize(&[]).await.returned("code").unwrap();
    assert!(case.redeem(&code, &[]).await.json().get("refresh_token").is_none());
}

#[tokio::test]
async fn the_issuer_parameter_may_be_missing_or_forged() {
    let case = Case::new(Behavior { issuer_parameter: IssuerParameter::Omitted, ..automatic() });
    assert_eq!(case.authorize(&[]).await.returned("iss"), None);
    let metadata = case.get(BOTH[0], &[]).await;
    assert_eq!(metadata.json()["authorization_response_iss_parameter_supported"], json!(false));

    let forged = IssuerParameter::Forged("https://evil.example".to_owned());
    case.sandbox.change(|behavior| behavior.issuer_parameter = forged);
    assert_eq!(case.authorize(&[]).await.returned("iss").as_deref(), Some("https://evil.example"));
}

#[tokio::test]
async fn a_further_grant_may_end_the_oldest_of_its_account() {
    let case = Case::new(Behavior { grants_per_account: Some(1), ..Behavior::default() });
    let (_, first) = case.tokens();
    let other = case.sandbox.grants().issue("user-7", &[]);
    let (_, second) = case.tokens();
    assert_eq!(case.user_info(&first).await.status, 401);
    assert_eq!(case.user_info(&second).await.status, 200);
    assert!(case.sandbox.grants().is_live(other.access_token.expose()));
}

#[tokio::test]
async fn the_echo_says_back_what_it_was_sent_without_the_token() {
    let case = Case::new(Behavior::default());
    let (_, access_token) = case.tokens();
    let headers = [("authorization", &*format!("Bearer {access_token}")), ("x-thing", "1")];
    let answer = case.send(request("PUT", "/api/echo?a=b", &headers, "{}")).await.unwrap();
    assert_eq!(answer.text("method"), "PUT");
    assert_eq!(answer.text("target"), "/api/echo?a=b");
    assert!(answer.body.contains("[\"x-thing\",\"1\"]") && !answer.body.contains(&access_token));
}

#[tokio::test]
async fn only_loopback_is_bound_and_only_its_own_host_is_served() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(OsEntropy));
        let refused = Sandbox::start(address.parse().unwrap(), SandboxOptions::default(), clock, entropy);
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::InvalidInput, "{address}");
    }
    let case = Case::new(Behavior::default());
    let port = case.sandbox.address().port();
    for (host, status) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        (format!("evil.example:{port}"), 421),
        ("127.0.0.1".to_owned(), 421),
        (format!("127.0.0.1:{}", port - 1), 421),
    ] {
        assert_eq!(case.get("/", &[("host", &host)]).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn a_taken_port_is_refused() {
    let case = Case::new(Behavior::default());
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(OsEntropy));
    let second = Sandbox::start(case.sandbox.address(), SandboxOptions::default(), clock, entropy);
    assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
}
