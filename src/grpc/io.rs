//! The accepted stream under HTTP/2, with its writes batched. h2 flushes each DATA frame of 256 bytes or more at once:
//! one system call a reply, however many replies are ready. Here a flush is put off for one turn of the run queue, so
//! that other ready calls add their replies first, and then all leave in one write. No timer, and nothing to wait for
//! when there is one caller.
//!
//! Knows nothing of HTTP/2 but this: h2 reads first in every poll, and shuts down before it is done. So what a flush
//! put off is written by the next read or by the shutdown, and a stream that does neither must not be wrapped.
//!
//! Invariant: bytes leave in the order they came, and while any are held the task either has been woken or waits for
//! the socket to take more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are held: what 40 replies with a token of 1.2 KB come to. Beyond it the peer's pace counts.
const MOST_HELD: usize = 64 * 1024;

/// Capacity that an idle connection may keep.
const KEPT_CAPACITY: usize = 8 * 1024;

/// A stream whose flushes are put off until its next read. See the head of this file before wrapping anything but
/// what h2 will drive.
#[derive(Debug)]
pub(super) struct Batched<S> {
    inner: S,
    held: Vec<u8>,
    /// How many bytes of `held` the socket has taken.
    taken: usize,
    /// The socket would not take more when last asked, and will wake the task when it does.
    is_blocked: bool,
}

impl<S: AsyncWrite + Unpin> Batched<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, held: Vec::new(), taken: 0, is_blocked: false }
    }

    /// Gives what is held to the socket.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.held.len() {
            match Pin::new(&mut self.inner).poll_write(cx, &self.held[self.taken..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.taken += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.is_blocked = true;
                    return Poll::Pending;
                }
            }
        }
        self.held.clear();
        self.held.shrink_to(KEPT_CAPACITY);
        self.taken = 0;
        self.is_blocked = false;
        Poll::Ready(Ok(()))
    }

    /// Makes room for `len` bytes; whether they may be held, or are so many that they must be written through.
    fn make_room(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<bool>> {
        if self.held.len() + len > MOST_HELD {
            ready!(self.drain(cx))?;
        }
        Poll::Ready(Ok(len <= MOST_HELD))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !ready!(self.make_room(cx, buf.len()))? {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if !ready!(self.make_room(cx, len))? {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            self.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(len))
    }

    /// True whatever the socket can do: h2 then chains a payload instead of copying it a second time.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Puts the flush off to the next read, unless the socket is full: then whoever flushes has to wait for it, or
    /// waking would turn into spinning.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_blocked {
            ready!(self.drain(cx))?;
        }
        if self.held.is_empty() {
            return Pin::new(&mut self.inner).poll_flush(cx);
        }
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batched<S> {
    /// Writes what is held, then reads. A full socket does not keep us from reading: the peer may be waiting for
    /// exactly that.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.held.is_empty()
            && let Poll::Ready(Err(error)) = self.drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests;
