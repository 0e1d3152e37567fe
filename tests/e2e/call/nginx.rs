//! What nginx answers, whatever its size and its shape, by each way that there is to it: in clear text and over TLS, in
//! HTTP/1.1 and in HTTP/2.

use super::upstream::{GIBIBYTE, WAYS};
use super::*;

/// The trailers of the answer to a call, and its body.
async fn trailed(desk: &Desk, call: v1::CallHead) -> (Bytes, Vec<v1::Header>) {
    let mut body = Vec::new();
    let (answer, trailers) =
        desk.stream(call, no_body(), |piece| body.extend_from_slice(&piece)).await.unwrap();
    assert_eq!(answer.status, 200);
    (body.into(), trailers)
}

fn wanting_gzip(call: v1::CallHead) -> v1::CallHead {
    v1::CallHead { headers: vec![field("accept-encoding", "gzip")], ..call }
}

#[tokio::test]
async fn each_way_speaks_the_protocol_that_was_settled_on() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let answer = Desk::by(way, &upstream).await.call(request("GET", "/protocol")).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, way.protocol().as_bytes()), "{way:?}");
    }
}

#[tokio::test]
async fn every_method_is_seen_as_it_was_named_and_only_the_answer_to_head_has_no_body() {
    let upstream = Upstream::nginx();
    let methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "REPORT", "QUERY"];
    for way in WAYS {
        let desk = Desk::by(way, &upstream).await;
        for (method, body) in methods.into_iter().flat_map(|method| [(method, ""), (method, "a body")]) {
            let call = v1::CallProviderRequest { body: body.into(), ..request(method, "/asked") };
            let answer = desk.call(call).await.unwrap();
            assert_eq!(answer.status, 200, "{way:?} {method} {body}");
            assert_eq!(values(&answer.headers, "x-method"), [method], "{way:?} {body}");
            // Of an empty body HTTP/2 tells the length where HTTP/1.1 does not.
            let length = values(&answer.headers, "x-length").first().copied().unwrap_or("0");
            assert_eq!(length, body.len().to_string(), "{way:?} {method}");
            assert_eq!(values(&answer.headers, "content-length"), ["5"], "{way:?} {method}");
            let expected = if method == "HEAD" { "" } else { "asked" };
            assert_eq!(&answer.body[..], expected.as_bytes(), "{way:?} {method}");
        }
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone() {
    let upstream = Upstream::nginx();
    let doomed = upstream.file("doomed");
    for way in WAYS {
        let desk = Desk::by(way, &upstream).await;
        std::fs::write(&doomed, "not for long").unwrap();
        let delete = || request("DELETE", "/put/doomed");
        // nginx wants no body with it, and says so only where one came.
        let with_body = v1::CallProviderRequest { body: b"why".into(), ..delete() };
        assert_eq!((desk.call(with_body).await.unwrap().status, doomed.exists()), (415, true), "{way:?}");
        assert_eq!((desk.call(delete()).await.unwrap().status, doomed.exists()), (204, false), "{way:?}");
        assert_eq!(desk.call(delete()).await.unwrap().status, 404, "{way:?}");
    }
}

#[tokio::test]
async fn a_gibibyte_goes_through_each_way_in_flat_memory() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let desk = Desk::by(way, &upstream).await;
        // What a call costs at all: connections, buffers, the first pages of code.
        desk.stream(head("GET", "/small.txt"), no_body(), |_| {}).await.unwrap();
        let before = desk.broker.peak_memory();
        let (mut length, began) = (0, tokio::time::Instant::now());
        let (answer, _) = desk
            .stream(head("GET", "/large"), no_body(), |piece| {
                assert!(piece.len() <= CHUNK && piece.iter().all(|byte| *byte == 0));
                length += piece.len() as u64;
            })
            .await
            .unwrap();
        assert_eq!((answer.status, length), (200, GIBIBYTE), "{way:?}");
        let (down, down_took) = (desk.broker.peak_memory(), began.elapsed());
        let began = tokio::time::Instant::now();
        let piece = Bytes::from(vec![7; CHUNK]);
        let pieces = std::iter::repeat_n(piece, usize::try_from(GIBIBYTE).unwrap() / CHUNK);
        let (answer, _) = desk.stream(head("PUT", "/put/given"), pieces, |_| {}).await.unwrap();
        assert_eq!(answer.status, 201, "{way:?}");
        assert_eq!(std::fs::metadata(upstream.file("given")).unwrap().len(), GIBIBYTE);
        std::fs::remove_file(upstream.file("given")).unwrap();
        let (up, up_took) = (desk.broker.peak_memory(), began.elapsed());
        println!(
            "{way:?}: peak memory {before} KiB before, {down} KiB after 1 GiB down ({down_took:?}), {up} KiB after 1 GiB up ({up_took:?})"
        );
        // A gibibyte, or a hundredth of one, would show.
        assert!(up - before < 10 * 1024, "{way:?}: {before} KiB, then {down} KiB, then {up} KiB");
    }
}

#[tokio::test]
async fn a_hundred_callers_that_take_nothing_hold_their_windows_and_starve_nobody() {
    let upstream = Upstream::nginx();
    for way in [Way::ClearHttp2, Way::TlsHttp2] {
        let desk = Desk::by_within(way, &upstream, json!({ "max_parallel": 200 })).await;
        desk.stream(head("GET", "/small.txt"), no_body(), |_| {}).await.unwrap();
        let before = desk.broker.peak_memory();
        let mut untaken = Vec::new();
        for _ in 0..100 {
            let begun = v1::StreamProviderCallRequest { part: Some(Sent::Head(head("GET", "/large"))) };
            let begun = futures_util::stream::iter([begun]);
            // Each on a connection of its own to the broker.
            let answer = desk.broker.tokens().await.stream_provider_call(begun).await;
            untaken.push(answer.unwrap().into_inner());
        }
        let mut length = 0;
        let (answer, _) =
            desk.stream(head("GET", "/middling"), no_body(), |piece| length += piece.len()).await.unwrap();
        assert_eq!((answer.status, length), (200, 64 << 20), "{way:?}");
        let grown = desk.broker.peak_memory() - before;
        println!("{way:?}: a hundred callers that take nothing: {grown} KiB");
        // Of each a window of 512 KiB, and 400 KiB that the gRPC library holds for its caller: 90 MiB, and a quarter more for
        // what the allocator holds. A window of 1 MiB would show.
        assert!(grown < 112 * 1024, "{way:?}: {grown} KiB");
    }
}

#[tokio::test]
async fn repeated_headers_stay_repeated_and_cookies_stay_away() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let answer = Desk::by(way, &upstream).await.call(request("GET", "/repeated")).await.unwrap();
        assert_eq!(values(&answer.headers, "x-many"), ["one", "two", "three"], "{way:?}");
        for kept_back in ["set-cookie", "connection", "keep-alive", "transfer-encoding"] {
            assert_eq!(values(&answer.headers, kept_back), [""; 0], "{way:?} {kept_back}");
        }
    }
}

#[tokio::test]
async fn answers_without_a_body_are_answers() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let desk = Desk::by(way, &upstream).await;
        let nothing = desk.call(request("GET", "/nothing")).await.unwrap();
        assert_eq!((nothing.status, nothing.body.len()), (204, 0), "{way:?}");
        let first = desk.call(request("GET", "/small.txt")).await.unwrap();
        let etag = values(&first.headers, "etag")[0].to_owned();
        let again = v1::CallProviderRequest {
            headers: vec![field("if-none-match", &etag)],
            ..request("GET", "/small.txt")
        };
        let unchanged = desk.call(again).await.unwrap();
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{way:?}");
        let only_head = desk.call(request("HEAD", "/large")).await.unwrap();
        assert_eq!((only_head.status, only_head.body.len()), (200, 0), "{way:?}");
        assert_eq!(values(&only_head.headers, "content-length"), [GIBIBYTE.to_string()], "{way:?}");
    }
}

#[tokio::test]
async fn trailers_come_last_and_after_what_was_undone_too() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let desk = Desk::by(way, &upstream).await;
        // nginx sends trailers after a body of unknown length, which it makes of one that it compresses.
        let (_, trailers) = trailed(&desk, wanting_gzip(head("GET", "/trailers"))).await;
        assert_eq!(values(&trailers, "x-sum"), ["1234", "5678"], "{way:?}");
        let asking = v1::CallHead { decompress: true, ..head("GET", "/trailers") };
        let (body, trailers) = trailed(&desk, asking).await;
        let told = (&body[..], values(&trailers, "x-sum"));
        assert_eq!(told, (&b"a small file\n"[..], vec!["1234", "5678"]), "{way:?}");
    }
}

#[tokio::test]
async fn what_is_compressed_stays_so() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let desk = Desk::by(way, &upstream).await;
        let plain = desk.call(request("GET", "/zipped")).await.unwrap();
        assert_eq!(&plain.body[..], b"a small file\n", "{way:?}: nobody asked for compression");
        let asking = v1::CallProviderRequest {
            headers: vec![field("accept-encoding", "gzip")],
            ..request("GET", "/zipped")
        };
        let zipped = desk.call(asking).await.unwrap();
        assert_eq!(values(&zipped.headers, "content-encoding"), ["gzip"], "{way:?}");
        assert_eq!(&zipped.body[..2], b"\x1f\x8b", "{way:?}");
        // A bomb stays as small as it came.
        let before = desk.broker.peak_memory();
        let bomb = desk.call(request("GET", "/bomb")).await.unwrap();
        let length: u64 = values(&bomb.headers, "content-length")[0].parse().unwrap();
        assert_eq!(bomb.body.len() as u64, length, "{way:?}");
        assert!(length < 1024 * 1024, "{length}");
        let grown = desk.broker.peak_memory() - before;
        println!("{way:?}: a bomb of 64 MiB in {length} bytes: {grown} KiB");
        assert!(grown < 8 * 1024, "{way:?}: {grown} KiB");
    }
}

#[tokio::test]
async fn what_is_compressed_is_undone_where_asked() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let asking = v1::CallProviderRequest { decompress: true, ..request("GET", "/zipped") };
        let undone = Desk::by(way, &upstream).await.call(asking).await.unwrap();
        assert_eq!(&undone.body[..], b"a small file\n", "{way:?}");
        for gone in ["content-encoding", "vary"] {
            assert_eq!(values(&undone.headers, gone), [""; 0], "{way:?} {gone}");
        }
    }
}

#[tokio::test]
async fn a_bomb_is_refused_by_ratio_and_by_size_in_flat_memory() {
    let upstream = Upstream::nginx();
    let by_ratio = (json!({}), "api.limits.max_decompression_ratio", 2 << 20);
    let by_size = (
        json!({ "max_decompression_ratio": 2000, "max_decompressed_bytes": 32 << 20 }),
        "api.limits.max_decompressed_bytes",
        32 << 20,
    );
    for way in WAYS {
        for (limits, limit, longest) in [&by_ratio, &by_size] {
            let desk = Desk::by_within(way, &upstream, limits.clone()).await;
            desk.stream(head("GET", "/small.txt"), no_body(), |_| {}).await.unwrap();
            let before = desk.broker.peak_memory();
            let asking = v1::CallHead { decompress: true, ..head("GET", "/bomb") };
            let mut length = 0;
            let error = desk.stream(asking, no_body(), |piece| length += piece.len()).await.unwrap_err();
            let grown = desk.broker.peak_memory() - before;
            println!("{way:?}: a bomb of 64 MiB: {limit}; {length} bytes came, {grown} KiB of memory");
            assert_eq!(
                (error.code(), reason(&error).as_str()),
                (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
                "{way:?}"
            );
            assert!(error.message().contains(limit), "{way:?}: {error}");
            assert!(length <= *longest, "{way:?}: {length}");
            assert!(grown < 8 * 1024, "{way:?}: {grown} KiB");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer() {
    let upstream = Upstream::nginx();
    let large = std::fs::OpenOptions::new().write(true).open(upstream.file("large")).unwrap();
    for way in WAYS {
        let desk = Desk::by(way, &upstream).await;
        let error = desk.call(once(request("GET", "/gone"))).await.unwrap_err();
        assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{way:?}: {error}");
        // In the middle: the file ends while it is sent.
        let mut length = 0;
        let broken = desk
            .stream(head("GET", "/trickle"), no_body(), |piece| {
                length += piece.len();
                large.set_len(1).unwrap();
            })
            .await
            .unwrap_err();
        assert!(length > 0, "{way:?}: the head and some bytes came before");
        assert_eq!(reason(&broken), "PROVIDER_UNAVAILABLE", "{way:?}: {broken}");
        large.set_len(GIBIBYTE).unwrap();
    }
}

#[tokio::test]
async fn ten_thousand_headers_are_refused_and_the_next_call_works() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let desk = Desk::by(way, &upstream).await;
        let before = desk.broker.peak_memory();
        let error = desk.call(once(request("GET", "/fields"))).await.unwrap_err();
        let grown = desk.broker.peak_memory() - before;
        println!("{way:?}: {} header fields: {error}; {grown} KiB", upstream::MANY_FIELDS);
        assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{way:?}: {error}");
        assert!(error.message().contains("64 KiB"), "{way:?}: {error}");
        assert!(grown < 8 * 1024, "{way:?}: {grown} KiB");
        assert_eq!(desk.call(request("GET", "/small.txt")).await.unwrap().status, 200, "{way:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_the_callers_business() {
    let upstream = Upstream::nginx();
    for way in WAYS {
        let answer = Desk::by(way, &upstream).await.call(request("GET", "/moved")).await.unwrap();
        assert_eq!(answer.status, 302, "{way:?}");
        assert_eq!(values(&answer.headers, "location"), ["http://198.51.100.1/elsewhere"], "{way:?}");
    }
}
