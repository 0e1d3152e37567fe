//! The body of a request, from the command line, a file or a pipe, piece by piece as the broker takes it.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::{mpsc, watch};

use super::unreadable;
use crate::cli::console::Input;
use crate::cli::failure::Failure;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::stream_provider_call_request::Part;

/// The largest piece that the contract allows.
const PIECE: usize = 64 * 1024;

/// Where a body is.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Text(String),
    File(PathBuf),
    Standard,
}

impl FromStr for Data {
    type Err = std::convert::Infallible;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        Ok(match typed {
            "-" | "@-" => Self::Standard,
            typed => match typed.strip_prefix('@') {
                Some(path) => Self::File(path.into()),
                None => Self::Text(typed.to_owned()),
            },
        })
    }
}

/// How much of a body has gone to the broker.
pub(super) struct Sent {
    /// How much there is, where that is known.
    pub(super) total: Option<u64>,
    bytes: watch::Receiver<u64>,
    origin: PathBuf,
    broke: mpsc::Receiver<std::io::Error>,
}

impl Sent {
    /// Waits until more has gone, and says how much in all; `None`: all of it has, or no more will.
    ///
    /// # Errors
    /// No more of it can be read. The call is to be given up: the broker still waits for the rest.
    pub(super) async fn more(&mut self) -> Option<Result<u64, Failure>> {
        tokio::select! {
            Some(error) = self.broke.recv() => Some(Err(unreadable(&self.origin, &error))),
            changed = self.bytes.changed() => changed.ok().map(|()| Ok(*self.bytes.borrow_and_update())),
        }
    }

    /// Waits for the rest to fail.
    pub(super) async fn broken(&mut self) -> Failure {
        loop {
            match self.more().await {
                Some(Ok(_)) => {}
                Some(Err(failure)) => return failure,
                None => std::future::pending().await,
            }
        }
    }
}

/// The messages of a call: its head, then its body; and how much of them was taken.
pub(super) fn messages(
    mut head: v1::CallHead,
    data: Option<Data>,
    input: &mut Input,
) -> Result<(impl Stream<Item = v1::StreamProviderCallRequest> + Send + 'static, Sent), Failure> {
    let mut origin = PathBuf::from("standard input");
    let reader: Box<dyn Read + Send> = match data {
        None => Box::new(std::io::empty()),
        Some(Data::Text(text)) => Box::new(std::io::Cursor::new(text.into_bytes())),
        Some(Data::Standard) => input.take(),
        Some(Data::File(path)) => {
            let file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
            let metadata = file.metadata().map_err(|error| unreadable(&path, &error))?;
            head.content_length = metadata.is_file().then_some(metadata.len());
            origin = path;
            Box::new(file)
        }
    };
    // Two pieces: one on its way, one being read.
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read(reader, &sender) {
            // Nobody listens any more: the call is over.
            drop(sender.blocking_send(Err(error)));
        }
    });
    let (told, broke) = mpsc::channel(1);
    let (gone, bytes) = watch::channel(0);
    let sent = Sent { total: head.content_length, bytes, origin, broke };
    let head = stream::once(std::future::ready(message(Part::Head(head))));
    let chunks = stream::unfold((receiver, gone, told), |(mut receiver, gone, told)| async {
        let chunk: v1::BodyChunk = match receiver.recv().await? {
            Ok(chunk) => chunk,
            Err(error) => {
                drop(told.send(error).await);
                // To end here would say that this is all of the body, or that there is none.
                return std::future::pending().await;
            }
        };
        gone.send_modify(|gone| *gone += chunk.data.len() as u64);
        Some((message(Part::Chunk(chunk)), (receiver, gone, told)))
    });
    Ok((stream::StreamExt::chain(head, chunks), sent))
}

fn message(part: Part) -> v1::StreamProviderCallRequest {
    v1::StreamProviderCallRequest { part: Some(part) }
}

type Sender = mpsc::Sender<std::io::Result<v1::BodyChunk>>;

/// Reads to the end, one piece ahead, so that the last one can say that it is the last. Where reading fails none does, and
/// the broker does not take the body for whole.
fn read(mut reader: Box<dyn Read + Send>, sender: &Sender) -> std::io::Result<()> {
    let mut piece = next(&mut reader)?;
    loop {
        let following = next(&mut reader)?;
        let end = following.is_empty();
        if sender.blocking_send(Ok(v1::BodyChunk { data: piece, end })).is_err() || end {
            return Ok(());
        }
        piece = following;
    }
}

/// Up to a piece; empty at the end.
fn next(reader: &mut dyn Read) -> std::io::Result<Bytes> {
    let mut piece = Vec::new();
    reader.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_says_so() {
        for (length, pieces) in [(0, 1), (1, 1), (PIECE, 1), (PIECE + 1, 2), (3 * PIECE, 3)] {
            let (sender, mut receiver) = mpsc::channel(8);
            read(Box::new(std::io::Cursor::new(vec![7; length])), &sender).unwrap();
            drop(sender);
            let chunks: Vec<_> =
                std::iter::from_fn(|| receiver.blocking_recv()).map(Result::unwrap).collect();
            let ends: Vec<bool> = chunks.iter().map(|chunk| chunk.end).collect();
            assert_eq!((chunks.len(), ends.iter().filter(|end| **end).count()), (pieces, 1), "{length}");
            assert_eq!(ends.last(), Some(&true));
            assert_eq!(chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>(), length);
        }
    }

    #[test]
    fn a_file_that_breaks_off_has_no_last_piece() {
        struct Breaks(usize);
        impl Read for Breaks {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or(std::io::ErrorKind::Other)?;
                Ok(into.len().min(PIECE))
            }
        }
        let (sender, mut receiver) = mpsc::channel(64);
        assert_eq!(read(Box::new(Breaks(40)), &sender).unwrap_err().kind(), std::io::ErrorKind::Other);
        drop(sender);
        while let Some(chunk) = receiver.blocking_recv() {
            assert!(!chunk.unwrap().end);
        }
    }
}
