use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A socket that does what it is told, one step a call, and remembers what it took.
#[derive(Default)]
struct Scripted {
    writes: VecDeque<Poll<io::Result<usize>>>,
    took: Vec<u8>,
    calls: usize,
    is_shut: bool,
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.calls += 1;
        let step = self.writes.pop_front().unwrap_or(Poll::Ready(Ok(usize::MAX)));
        step.map_ok(|most| {
            let taken = most.min(buf.len());
            self.took.extend_from_slice(&buf[..taken]);
            taken
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Scripted {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// Counts how often the task was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The stream under test, polled by hand.
struct Bench {
    stream: Batched<Scripted>,
    wakes: Arc<Wakes>,
    waker: Waker,
}

impl Bench {
    fn new(writes: impl IntoIterator<Item = Poll<io::Result<usize>>>) -> Self {
        let wakes = Arc::new(Wakes::default());
        let inner = Scripted { writes: writes.into_iter().collect(), ..Scripted::default() };
        Self { stream: Batched::new(inner), waker: Waker::from(wakes.clone()), wakes }
    }

    fn poll<T>(&mut self, act: impl FnOnce(Pin<&mut Batched<Scripted>>, &mut Context<'_>) -> T) -> T {
        act(Pin::new(&mut self.stream), &mut Context::from_waker(&self.waker))
    }

    fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream, cx| stream.poll_write(cx, bytes))
    }

    fn flush(&mut self) -> Poll<io::Result<()>> {
        self.poll(|stream, cx| stream.poll_flush(cx))
    }

    fn read(&mut self) -> Poll<io::Result<()>> {
        let mut space = [0; 16];
        self.poll(|stream, cx| stream.poll_read(cx, &mut ReadBuf::new(&mut space)))
    }

    fn shutdown(&mut self) -> Poll<io::Result<()>> {
        self.poll(|stream, cx| stream.poll_shutdown(cx))
    }

    fn took(&self) -> &[u8] {
        &self.stream.inner.took
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }
}

#[test]
fn replies_that_are_ready_together_leave_in_one_write() {
    let mut bench = Bench::new([]);
    for reply in ["one ", "two ", "three"] {
        assert!(bench.write(reply.as_bytes()).is_ready());
        assert!(bench.flush().is_ready());
    }
    assert_eq!(bench.took(), b"");
    assert!(bench.wakes() > 0, "a put-off flush wakes its own task");
    assert!(bench.read().is_pending());
    assert_eq!(bench.took(), b"one two three");
    assert_eq!(bench.stream.inner.calls, 1);
}

#[test]
fn a_flush_of_nothing_wakes_nobody() {
    let mut bench = Bench::new([]);
    assert!(bench.flush().is_ready());
    assert_eq!(bench.wakes(), 0);
}

#[test]
fn partial_and_pending_writes_keep_every_byte_in_order() {
    let mut bench = Bench::new([
        Poll::Ready(Ok(2)),
        Poll::Pending,
        Poll::Ready(Ok(1)),
        Poll::Pending,
        Poll::Ready(Ok(usize::MAX)),
    ]);
    assert!(bench.write(b"abcdef").is_ready());
    assert!(bench.read().is_pending());
    assert_eq!(bench.took(), b"ab");
    assert!(bench.write(b"ghi").is_ready(), "a full socket still leaves room in the buffer");
    assert!(bench.flush().is_pending(), "a full socket makes the flush wait");
    assert_eq!(bench.took(), b"abc");
    assert!(bench.flush().is_ready());
    assert_eq!(bench.took(), b"abcdefghi");
    assert_eq!(bench.wakes(), 0, "only the socket wakes the task while it is full");
}

#[test]
fn a_full_buffer_waits_for_the_socket() {
    let mut bench = Bench::new([Poll::Pending, Poll::Pending]);
    assert!(bench.write(&[b'x'; MOST_HELD]).is_ready());
    assert!(bench.write(b"y").is_pending());
    assert!(bench.write(b"y").is_pending());
    assert!(bench.write(b"y").is_ready());
    assert_eq!(bench.took().len(), MOST_HELD);
    assert!(bench.read().is_pending());
    assert_eq!(bench.took().last(), Some(&b'y'));
}

#[test]
fn what_is_larger_than_the_buffer_is_written_through_after_what_is_held() {
    let mut bench = Bench::new([]);
    let large = vec![b'z'; MOST_HELD + 1];
    assert!(bench.write(b"a").is_ready());
    assert!(matches!(bench.write(&large), Poll::Ready(Ok(taken)) if taken == large.len()));
    assert_eq!(bench.took().len(), large.len() + 1);
    assert_eq!(bench.took().first(), Some(&b'a'));
}

#[test]
fn vectored_writes_are_held_as_one() {
    let mut bench = Bench::new([]);
    let parts = [IoSlice::new(b"head "), IoSlice::new(b"body")];
    assert!(matches!(bench.poll(|stream, cx| stream.poll_write_vectored(cx, &parts)), Poll::Ready(Ok(9))));
    assert!(bench.read().is_pending());
    assert_eq!(bench.took(), b"head body");
    assert!(bench.stream.is_write_vectored());
}

#[test]
fn a_shutdown_sends_what_is_held_first() {
    let mut bench = Bench::new([Poll::Ready(Ok(1)), Poll::Pending]);
    assert!(bench.write(b"bye").is_ready());
    assert!(bench.shutdown().is_pending());
    assert!(!bench.stream.inner.is_shut);
    assert!(bench.shutdown().is_ready());
    assert_eq!(bench.took(), b"bye");
    assert!(bench.stream.inner.is_shut);
}

#[test]
fn a_write_error_surfaces_at_the_read_the_flush_and_the_shutdown() {
    let broken = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
    let mut bench = Bench::new([broken(), broken()]);
    assert!(bench.write(b"lost").is_ready());
    assert!(bench.flush().is_ready());
    assert!(matches!(bench.read(), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe));
    assert!(matches!(bench.shutdown(), Poll::Ready(Err(_))));

    let mut bench = Bench::new([Poll::Pending, broken()]);
    assert!(bench.write(b"lost").is_ready());
    assert!(bench.read().is_pending());
    assert!(matches!(bench.flush(), Poll::Ready(Err(_))));
}

#[test]
fn an_idle_connection_gives_its_memory_back() {
    let mut bench = Bench::new([]);
    assert!(bench.write(&[b'x'; MOST_HELD]).is_ready());
    assert!(bench.read().is_pending());
    assert!(bench.stream.held.capacity() <= KEPT_CAPACITY);
}

/// A peer that stops reading: the task must sleep. Counted in polls, not in time.
#[tokio::test]
async fn a_peer_that_stops_reading_costs_no_polls() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    let task = tokio::spawn(async move {
        let mut stream = Batched::new(ours);
        let mut left = 512 * 1024;
        poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::SeqCst);
            // As h2 does: read, write until no more is taken, flush.
            let mut space = [0; 16];
            let _ = Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut space))?;
            while left > 0 {
                left -= ready!(Pin::new(&mut stream).poll_write(cx, &[7; 1024]))?;
            }
            ready!(Pin::new(&mut stream).poll_flush(cx))?;
            if stream.held.is_empty() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
        })
        .await
    });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(polls.load(Ordering::SeqCst) < 10, "{} polls", polls.load(Ordering::SeqCst));
    let mut got = vec![0; 512 * 1024];
    theirs.read_exact(&mut got).await.unwrap();
    assert!(got.iter().all(|byte| *byte == 7));
    task.await.unwrap().unwrap();
}

/// Under a real HTTP/2 server: 1 GiB, far more than every window and buffer on the way holds.
#[tokio::test]
async fn a_large_answer_arrives_whole_under_flow_control() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 16 * 1024;
    let (ours, theirs) = tokio::io::duplex(16 * 1024);
    let server =
        tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(
            TokioIo::new(Batched::new(ours)),
            hyper::service::service_fn(|_: http::Request<Incoming>| async {
                let chunk = Bytes::from(vec![7_u8; CHUNK]);
                let frames = (0..CHUNKS).map(move |_| io::Result::Ok(Frame::data(chunk.clone())));
                io::Result::Ok(http::Response::new(StreamBody::new(futures_util::stream::iter(frames))))
            }),
        ));
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(theirs)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request =
        http::Request::get("http://localhost/").body(http_body_util::Empty::<Bytes>::new()).unwrap();
    let mut body = client.send_request(request).await.unwrap().into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.iter().step_by(1024).all(|byte| *byte == 7));
        total += data.len();
    }
    assert_eq!(total, CHUNK * CHUNKS);
    drop((client, body));
    connection.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
}

/// The put-off flush must not need traffic to be made good.
#[tokio::test]
async fn a_single_reply_leaves_without_further_traffic() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let task = tokio::spawn(async move {
        let mut stream = Batched::new(ours);
        let mut is_written = false;
        poll_fn(move |cx| {
            let mut space = [0; 16];
            let mut read = ReadBuf::new(&mut space);
            let end = Pin::new(&mut stream).poll_read(cx, &mut read)?;
            if end.is_ready() {
                return Poll::Ready(io::Result::Ok(()));
            }
            if !is_written {
                is_written = ready!(Pin::new(&mut stream).poll_write(cx, b"reply"))? > 0;
            }
            ready!(Pin::new(&mut stream).poll_flush(cx))?;
            Poll::Pending
        })
        .await
    });
    let mut got = [0; 5];
    theirs.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"reply");
    theirs.shutdown().await.unwrap();
    task.await.unwrap().unwrap();
}
