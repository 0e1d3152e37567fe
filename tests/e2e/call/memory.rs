//! Answers that are given again: what nginx says of files, and what it hears.

use super::*;

fn told(answer: &v1::CallProviderResponse) -> (u32, v1::AnswerSource, u32) {
    (answer.status, answer.answer_source(), answer.attempts)
}

/// What nginx has logged by the time a later call was answered.
async fn logged(desk: &Desk, upstream: &Upstream) -> Vec<String> {
    desk.call(request("GET", "/nothing")).await.unwrap();
    upstream.logged()
}

#[tokio::test]
async fn a_file_is_given_again_and_nginx_is_asked_only_when_it_must_be() {
    let upstream = Upstream::nginx();
    let desk = Desk::of(json!({ "hosts": [upstream.base], "cache": {} })).await;

    let first = desk.call(request("GET", "/kept/small.txt")).await.unwrap();
    let again = desk.call(request("GET", "/kept/small.txt")).await.unwrap();
    assert_eq!(told(&first), (200, v1::AnswerSource::Provider, 1));
    assert_eq!(told(&again), (200, v1::AnswerSource::Cache, 0));
    assert_eq!(&again.body[..], b"a small file\n");
    assert!(values(&again.headers, "age")[0].parse::<u64>().unwrap() < 60);
    let wary = v1::CallProviderRequest {
        headers: vec![field("cache-control", "no-cache")],
        ..request("GET", "/kept/small.txt")
    };
    assert_eq!(told(&desk.call(wary).await.unwrap()), (200, v1::AnswerSource::Revalidated, 1));
    let etag = values(&first.headers, "etag")[0];
    assert_eq!(
        logged(&desk, &upstream).await,
        ["GET /kept/small.txt 200 []".to_owned(), format!("GET /kept/small.txt 304 [{etag}]")]
    );
}

#[tokio::test]
async fn what_must_be_asked_about_is_and_a_changed_file_comes_anew() {
    let upstream = Upstream::nginx();
    let desk = Desk::of(json!({ "hosts": [upstream.base], "cache": {} })).await;
    let call = || v1::CallProviderRequest { decompress: true, ..request("GET", "/doubted/small.txt") };

    let first = desk.call(call()).await.unwrap();
    let again = desk.call(call()).await.unwrap();
    assert_eq!(told(&first), (200, v1::AnswerSource::Provider, 1));
    assert_eq!(told(&again), (200, v1::AnswerSource::Revalidated, 1));
    assert_eq!((&first.body[..], &again.body[..]), (&b"a small file\n"[..], &b"a small file\n"[..]));
    std::fs::write(upstream.file("small.txt"), "another file\n\n").unwrap();
    let changed = desk.call(call()).await.unwrap();
    assert_eq!(told(&changed), (200, v1::AnswerSource::Provider, 1));
    assert_eq!(&changed.body[..], b"another file\n\n");
    let etag = values(&first.headers, "etag")[0];
    assert!(etag.starts_with("W/"), "nginx says so of what it compresses: {etag}");
    let line = |status, asked| format!("GET /doubted/small.txt {status} [{asked}]");
    // Its 304 is not compressed, and has the tag as it is from then on.
    let renewed = etag.trim_start_matches("W/");
    assert_eq!(values(&again.headers, "etag"), [renewed]);
    assert_eq!(logged(&desk, &upstream).await, [line(200, ""), line(304, etag), line(200, renewed)]);
}

#[tokio::test]
async fn nothing_is_kept_unasked_nor_of_answers_with_cookies() {
    let upstream = Upstream::nginx();
    for (api, path) in [
        (json!({ "hosts": [upstream.base] }), "/kept/small.txt"),
        (json!({ "hosts": [upstream.base], "cache": {} }), "/cookie/small.txt"),
    ] {
        let desk = Desk::of(api).await;
        let before = logged(&desk, &upstream).await.len();
        for _ in 0..2 {
            let answer = desk.call(request("GET", path)).await.unwrap();
            assert_eq!(told(&answer), (200, v1::AnswerSource::Provider, 1));
        }
        assert_eq!(logged(&desk, &upstream).await.len() - before, 2, "{path}");
    }
}
