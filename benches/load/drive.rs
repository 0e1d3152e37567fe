//! The driver: callers that ask again as soon as they are answered. It speaks HTTP/2 by hand, so that the server and
//! not the client is what is measured.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::Outcome;

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    Tcp(String),
    Socket(String),
}

impl Door {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "TCP",
            Self::Socket(_) => "socket",
        }
    }
}

/// What is asked, by how many.
pub(crate) struct Load {
    pub(crate) callers: usize,
    pub(crate) connections: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// An encoded request message.
    pub(crate) request: Bytes,
}

/// What came of it.
pub(crate) struct Run {
    /// Of every call that was answered inside the window, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
    /// Calls in all, the warm-up included.
    pub(crate) calls: usize,
    pub(crate) window: Duration,
    pub(crate) reply_bytes: usize,
}

/// Drives one server for one window.
pub(crate) async fn run(door: &Door, load: &Load) -> Outcome<Run> {
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        connections.push(connect(door).await?);
    }
    let frame = frame(&load.request);
    let first = connections.first().ok_or("no connection")?;
    let reply_bytes = call(first.clone(), frame.clone()).await?;
    let opens = Instant::now() + load.warm_up;
    let closes = opens + load.window;
    let callers: Vec<_> = (0..load.callers)
        .map(|caller| {
            let (sender, frame) = (connections[caller % connections.len()].clone(), frame.clone());
            tokio::spawn(async move {
                call_until(sender, frame, opens, closes).await.map_err(|error| error.to_string())
            })
        })
        .collect();
    let mut run = Run { latencies: Vec::new(), calls: 1, window: load.window, reply_bytes };
    for caller in callers {
        let (latencies, calls) = caller.await??;
        run.latencies.extend(latencies);
        run.calls += calls;
    }
    Ok(run)
}

async fn call_until(
    sender: SendRequest<Bytes>,
    frame: Bytes,
    opens: Instant,
    closes: Instant,
) -> Result<(Vec<u32>, usize), Box<dyn Error>> {
    let mut latencies = Vec::new();
    let mut calls = 0;
    loop {
        let asked = Instant::now();
        if asked >= closes {
            return Ok((latencies, calls));
        }
        call(sender.clone(), frame.clone()).await?;
        calls += 1;
        let answered = Instant::now();
        if asked >= opens && answered <= closes {
            latencies.push(u32::try_from((answered - asked).as_nanos()).unwrap_or(u32::MAX));
        }
    }
}

/// One unary call; an error unless the status is OK. Returns the length of the reply message.
async fn call(sender: SendRequest<Bytes>, frame: Bytes) -> Outcome<usize> {
    let mut sender = sender.ready().await?;
    let request = http::Request::post("http://localhost/tokenbroker.v1.TokenBrokerService/GetAccessToken")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (answer, mut stream) = sender.send_request(request, false)?;
    stream.send_data(frame, true)?;
    let mut body = answer.await?.into_body();
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        length += chunk.len();
        body.flow_control().release_capacity(chunk.len())?;
    }
    let trailers = body.trailers().await?.ok_or("no trailers")?;
    match trailers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        Some(b"0") => Ok(length - 5),
        status => Err(format!("grpc-status {status:?}").into()),
    }
}

async fn connect(door: &Door) -> Outcome<SendRequest<Bytes>> {
    match door {
        Door::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            handshake(stream).await
        }
        Door::Socket(path) => handshake(UnixStream::connect(path).await?).await,
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Outcome<SendRequest<Bytes>> {
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A message with its gRPC prefix: not compressed, length.
fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), message].concat().into()
}
