//! What nginx answers, whatever its size and its shape.

use super::upstream::GIBIBYTE;
use super::*;

#[tokio::test]
async fn a_gibibyte_goes_through_each_way_in_flat_memory() {
    let upstream = Upstream::nginx();
    a_gibibyte_goes_through(&upstream, Desk::at(&upstream).await).await;
    a_gibibyte_goes_through(&upstream, Desk::in_http2(&upstream).await).await;
}

async fn a_gibibyte_goes_through(upstream: &Upstream, desk: Desk) {
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
    assert_eq!((answer.status, length), (200, GIBIBYTE));
    let (down, down_took) = (desk.broker.peak_memory(), began.elapsed());
    let began = tokio::time::Instant::now();
    let piece = Bytes::from(vec![7; CHUNK]);
    let pieces = std::iter::repeat_n(piece, usize::try_from(GIBIBYTE).unwrap() / CHUNK);
    let (answer, _) = desk.stream(head("PUT", "/put/given"), pieces, |_| {}).await.unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(std::fs::metadata(upstream.file("given")).unwrap().len(), GIBIBYTE);
    std::fs::remove_file(upstream.file("given")).unwrap();
    let (up, up_took) = (desk.broker.peak_memory(), began.elapsed());
    println!(
        "peak memory: {before} KiB before, {down} KiB after 1 GiB down ({down_took:?}), {up} KiB after 1 GiB up ({up_took:?})"
    );
    // A gibibyte, or a hundredth of one, would show.
    assert!(up - before < 10 * 1024, "{before} KiB, then {down} KiB, then {up} KiB");
}

#[tokio::test]
async fn without_tls_nginx_is_spoken_to_in_http_2_where_the_entry_says_so() {
    let upstream = Upstream::nginx();
    for (desk, protocol) in
        [(Desk::in_http2(&upstream).await, "HTTP/2.0"), (Desk::at(&upstream).await, "HTTP/1.1")]
    {
        let answer = desk.call(request("GET", "/protocol")).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, protocol.as_bytes()));
    }
    let desk = Desk::in_http2(&upstream).await;
    let answer = desk.call(request("GET", "/repeated")).await.unwrap();
    assert_eq!(values(&answer.headers, "x-many"), ["one", "two", "three"]);
    let nothing = desk.call(request("GET", "/nothing")).await.unwrap();
    assert_eq!((nothing.status, nothing.body.len()), (204, 0));
    let asking = v1::CallHead { headers: vec![field("accept-encoding", "gzip")], ..head("GET", "/trailers") };
    let (_, trailers) = desk.stream(asking, no_body(), |_| {}).await.unwrap();
    assert_eq!(values(&trailers, "x-sum"), ["1234", "5678"]);
}

#[tokio::test]
async fn repeated_headers_stay_repeated_and_cookies_stay_away() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let answer = desk.call(request("GET", "/repeated")).await.unwrap();
    assert_eq!(values(&answer.headers, "x-many"), ["one", "two", "three"]);
    assert_eq!(values(&answer.headers, "set-cookie"), [""; 0]);
    for hop in ["connection", "keep-alive", "transfer-encoding"] {
        assert_eq!(values(&answer.headers, hop), [""; 0], "{hop}");
    }
}

#[tokio::test]
async fn answers_without_a_body_are_answers() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let nothing = desk.call(request("GET", "/nothing")).await.unwrap();
    assert_eq!((nothing.status, nothing.body.len()), (204, 0));
    let first = desk.call(request("GET", "/small.txt")).await.unwrap();
    let etag = values(&first.headers, "etag")[0].to_owned();
    let again = v1::CallProviderRequest {
        headers: vec![field("if-none-match", &etag)],
        ..request("GET", "/small.txt")
    };
    let unchanged = desk.call(again).await.unwrap();
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let only_head = desk.call(request("HEAD", "/large")).await.unwrap();
    assert_eq!((only_head.status, only_head.body.len()), (200, 0));
    assert_eq!(values(&only_head.headers, "content-length"), [GIBIBYTE.to_string()]);
}

#[tokio::test]
async fn trailers_come_last() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    // nginx sends trailers after a body in chunks, which it makes of one that it compresses.
    let asking = v1::CallHead { headers: vec![field("accept-encoding", "gzip")], ..head("GET", "/trailers") };
    let mut body = Vec::new();
    let (answer, trailers) =
        desk.stream(asking, no_body(), |piece| body.extend_from_slice(&piece)).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(values(&trailers, "x-sum"), ["1234", "5678"]);
}

#[tokio::test]
async fn what_is_compressed_stays_so() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let plain = desk.call(request("GET", "/zipped")).await.unwrap();
    assert_eq!(&plain.body[..], b"a small file\n", "nobody asked for compression");
    let asking = v1::CallProviderRequest {
        headers: vec![field("accept-encoding", "gzip")],
        ..request("GET", "/zipped")
    };
    let zipped = desk.call(asking).await.unwrap();
    assert_eq!(values(&zipped.headers, "content-encoding"), ["gzip"]);
    assert_eq!(&zipped.body[..2], b"\x1f\x8b");
    // A bomb stays as small as it came.
    let before = desk.broker.peak_memory();
    let bomb = desk.call(request("GET", "/bomb")).await.unwrap();
    let length: u64 = values(&bomb.headers, "content-length")[0].parse().unwrap();
    assert_eq!(bomb.body.len() as u64, length);
    assert!(length < 1024 * 1024, "{length}");
    let grown = desk.broker.peak_memory() - before;
    println!("a bomb of 64 MiB in {length} bytes: {grown} KiB");
    assert!(grown < 8 * 1024, "{grown} KiB");
}

#[tokio::test]
async fn what_is_compressed_is_undone_where_asked() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let asking = v1::CallProviderRequest { decompress: true, ..request("GET", "/zipped") };
    let undone = desk.call(asking).await.unwrap();
    assert_eq!(&undone.body[..], b"a small file\n");
    assert_eq!(values(&undone.headers, "content-encoding"), [""; 0]);
    assert_eq!(values(&undone.headers, "vary"), [""; 0]);
    // Trailers come after what was undone, too.
    let asking = v1::CallHead { decompress: true, ..head("GET", "/trailers") };
    let mut body = Vec::new();
    let (_, trailers) = desk.stream(asking, no_body(), |piece| body.extend_from_slice(&piece)).await.unwrap();
    assert_eq!((&body[..], values(&trailers, "x-sum")), (&b"a small file\n"[..], vec!["1234", "5678"]));
}

#[tokio::test]
async fn a_bomb_is_refused_by_ratio_and_by_size_in_flat_memory() {
    let upstream = Upstream::nginx();
    let by_ratio = json!({});
    let by_size = json!({ "max_decompression_ratio": 2000, "max_decompressed_bytes": 32 << 20 });
    for (limits, limit, longest) in [
        (by_ratio, "api.limits.max_decompression_ratio", 2 << 20),
        (by_size, "api.limits.max_decompressed_bytes", 32 << 20),
    ] {
        let desk = Desk::with(&upstream, limits).await;
        desk.stream(head("GET", "/small.txt"), no_body(), |_| {}).await.unwrap();
        let before = desk.broker.peak_memory();
        let asking = v1::CallHead { decompress: true, ..head("GET", "/bomb") };
        let mut length = 0;
        let error = desk.stream(asking, no_body(), |piece| length += piece.len()).await.unwrap_err();
        let grown = desk.broker.peak_memory() - before;
        println!("a bomb of 64 MiB: {error}; {length} bytes came, {grown} KiB of memory");
        assert_eq!((error.code(), reason(&error).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
        assert!(error.message().contains(limit), "{error}");
        assert!(length <= longest, "{length}");
        assert!(grown < 8 * 1024, "{grown} KiB");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let once = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 1 };
    let gone = v1::CallProviderRequest { retry: Some(once), ..request("GET", "/gone") };
    let error = desk.call(gone).await.unwrap_err();
    assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{error}");
    // In the middle: the file ends while it is sent.
    let mut length = 0;
    let file = upstream.file("large");
    let broken = desk
        .stream(head("GET", "/trickle"), no_body(), |piece| {
            length += piece.len();
            std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1).unwrap();
        })
        .await
        .unwrap_err();
    assert!(length > 0, "the head and some bytes came before");
    assert_eq!(reason(&broken), "PROVIDER_UNAVAILABLE", "{broken}");
}

#[tokio::test]
async fn ten_thousand_headers_are_refused_and_the_next_call_works() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let once = v1::RetryPolicy { mode: v1::RetryMode::Never.into(), max_attempts: 1 };
    let call = v1::CallProviderRequest { retry: Some(once), ..request("GET", "/fields") };
    let before = desk.broker.peak_memory();
    let error = desk.call(call).await.unwrap_err();
    let grown = desk.broker.peak_memory() - before;
    println!("{} header fields: {error}; {grown} KiB", upstream::MANY_FIELDS);
    assert_eq!(reason(&error), "PROVIDER_UNAVAILABLE", "{error}");
    assert!(error.message().contains("64 KiB"), "{error}");
    assert!(grown < 8 * 1024, "{grown} KiB");
    assert_eq!(desk.call(request("GET", "/small.txt")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_redirect_is_the_callers_business() {
    let upstream = Upstream::nginx();
    let desk = Desk::at(&upstream).await;
    let answer = desk.call(request("GET", "/moved")).await.unwrap();
    assert_eq!(answer.status, 302);
    assert_eq!(values(&answer.headers, "location"), ["http://198.51.100.1/elsewhere"]);
}
