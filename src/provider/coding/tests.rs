use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use super::*;
use crate::error::Error;

const WIDE: Bounds = Bounds { bytes: 1 << 30, ratio: 2000 };

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn raw(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Text that does not repeat itself much.
fn text(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"abcdefghijklmnop"[(state >> 28) as usize]
    };
    (0..length).map(|_| next()).collect()
}

/// An answer that comes in pieces of `size`, and trailers after it.
fn answer(status: u16, coding: &str, body: &[u8], size: usize) -> (Parts, AnswerStream) {
    let response = http::Response::builder()
        .status(status)
        .header("content-encoding", coding)
        .header("content-length", body.len())
        .header("x-other", "stays");
    let (head, ()) = response.body(()).unwrap().into_parts();
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    let pieces = body.chunks(size).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
    let frames: Vec<_> = pieces.chain([Ok(Frame::trailers(trailers))]).collect();
    (head, AnswerStream::new(StreamBody::new(futures_util::stream::iter(frames))))
}

/// The body to its end, and whether its trailers came; the error and how much came before it.
async fn read(mut body: AnswerStream) -> Result<(Vec<u8>, bool), (Error, usize)> {
    let (mut whole, mut has_trailers) = (Vec::new(), false);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| (error, whole.len()))?.into_data() {
            Ok(data) => {
                assert!(!has_trailers && data.len() <= 32 * 1024);
                whole.extend_from_slice(&data);
            }
            Err(_) => has_trailers = true,
        }
    }
    Ok((whole, has_trailers))
}

fn decode(status: u16, coding: &str, body: &[u8], size: usize, bounds: Bounds) -> (Parts, AnswerStream) {
    let (mut head, body) = answer(status, coding, body, size);
    let provider = ProviderKey::parse("acme").unwrap();
    let body = decoded(&mut head, body, bounds, &provider);
    (head, body)
}

#[tokio::test]
async fn each_coding_is_undone_whatever_the_pieces() {
    let text = text(100_000);
    let two_members = [gzip(&text[..500]), gzip(&text[500..])].concat();
    let coded = [
        ("gzip", gzip(&text)),
        ("X-GZip", gzip(&text)),
        ("gzip", two_members),
        ("deflate", zlib(&text)),
        ("deflate", raw(&text)),
    ];
    for (coding, bytes) in coded {
        for size in [1, 2, 7, 4096, bytes.len()] {
            let (head, body) = decode(200, coding, &bytes, size, WIDE);
            assert_eq!(read(body).await.unwrap(), (text.clone(), true), "{coding} in pieces of {size}");
            assert_eq!(head.headers.len(), 1, "{:?}", head.headers);
            assert_eq!(head.headers["x-other"], "stays");
        }
    }
}

#[tokio::test]
async fn what_is_no_whole_body_in_one_known_coding_stays_as_it_is() {
    let bytes = gzip(b"hello");
    for (status, coding) in
        [(200, "br"), (200, "gzip, gzip"), (200, "identity"), (206, "gzip"), (304, "gzip")]
    {
        let (head, body) = decode(status, coding, &bytes, 3, WIDE);
        assert_eq!(read(body).await.unwrap().0, bytes, "{status} {coding}");
        assert_eq!(head.headers["content-encoding"], coding);
        assert!(head.headers.contains_key("content-length"));
    }
}

#[tokio::test]
async fn nothing_decodes_to_nothing() {
    for coding in ["gzip", "deflate"] {
        let (_, body) = decode(200, coding, b"", 1, WIDE);
        assert_eq!(read(body).await.unwrap(), (Vec::new(), true), "{coding}");
    }
}

#[tokio::test]
async fn a_broken_body_is_an_error_and_never_a_shorter_answer() {
    let text = text(10_000);
    for (coding, whole) in [("gzip", gzip(&text)), ("deflate", zlib(&text)), ("deflate", raw(&text))] {
        let cut = &whole[..whole.len() - 1];
        let followed = [&whole[..], b"more"].concat();
        let mut flipped = whole.clone();
        flipped[2] ^= 0xff;
        for (how, bytes) in
            [("cut", cut), ("followed", &followed), ("flipped", &flipped), ("none", b"\0none")]
        {
            for size in [1, bytes.len()] {
                let (_, body) = decode(200, coding, bytes, size, WIDE);
                let (error, _) = read(body).await.expect_err(how);
                assert_eq!(error.reason().as_str(), "PROVIDER_UNAVAILABLE", "{coding} {how}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_ends_where_it_swells_too_much() {
    let bomb = gzip(&vec![0; 16 * 1024 * 1024]);
    let by_ratio = Bounds { ratio: 100, ..WIDE };
    let by_size = Bounds { bytes: 3 * 1024 * 1024, ..WIDE };
    for (bounds, limit, most, longest) in [
        (by_ratio, "api.limits.max_decompression_ratio", 100, 2 * 1024 * 1024),
        (by_size, "api.limits.max_decompressed_bytes", by_size.bytes, 3 * 1024 * 1024),
    ] {
        let (_, body) = decode(200, "gzip", &bomb, bomb.len(), bounds);
        let (error, length) = read(body).await.unwrap_err();
        assert_eq!(error, Error::Swollen { limit, most });
        assert!(length <= longest, "{limit}: {length}");
    }
    let small = gzip(&vec![0; 1024 * 1024]);
    let (_, body) = decode(200, "gzip", &small, small.len(), by_ratio);
    assert_eq!(read(body).await.unwrap().0.len(), 1024 * 1024, "small answers are not judged");
}

/// What is read of the beginning of a body.
async fn said(status: u16, coding: &str, beginning: Vec<u8>, bounds: Bounds) -> Option<Bytes> {
    let (head, _) = answer(status, coding, b"", 1);
    let provider = ProviderKey::parse("acme").unwrap();
    read_ahead(&head, beginning.into(), 64 * 1024, bounds, &provider).await
}

#[tokio::test]
async fn what_a_coded_body_says_is_read_whatever_its_coding() {
    let json = br#"{"error":"slow_down"}"#;
    for (coding, body) in [
        ("gzip", gzip(json)),
        ("x-gzip", gzip(json)),
        ("GZIP", gzip(json)),
        ("deflate", zlib(json)),
        ("deflate", raw(json)),
    ] {
        assert_eq!(said(400, coding, body, WIDE).await.unwrap(), &json[..], "{coding}");
    }
    for coding in ["br", "zstd", "identity", "gzip, gzip"] {
        assert_eq!(said(400, coding, gzip(json), WIDE).await, None, "{coding}");
    }
    assert_eq!(said(206, "gzip", gzip(json), WIDE).await, None, "a part of a whole");
    assert_eq!(said(400, "gzip", json.to_vec(), WIDE).await.unwrap(), "", "it is not what it says");
}

#[tokio::test]
async fn however_far_a_coded_body_swells_so_much_of_it_is_read() {
    let bomb = gzip(&vec![b'0'; 64 << 20]);
    assert!(bomb.len() < 70_000);
    assert_eq!(said(400, "gzip", bomb.clone(), WIDE).await.unwrap().len(), 64 * 1024);
    let narrow = Bounds { bytes: 1000, ..WIDE };
    assert!(said(400, "gzip", bomb, narrow).await.unwrap().len() <= 1000);
    // The beginning of a longer one.
    let long = text(400_000);
    let mut cut = gzip(&long);
    cut.truncate(20_000);
    let read = said(400, "gzip", cut, WIDE).await.unwrap();
    assert!(read.len() > 20_000 && long.starts_with(&read), "{}", read.len());
}
