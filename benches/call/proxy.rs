//! The bare proxy: the same contract over the same libraries, and nothing between them. No token, no check, no limit.

use std::io::Write as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyDataStream, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::grpc::proto::v1::stream_provider_call_response::Part as Came;
use token_broker::grpc::proto::v1::token_broker_service_server::{
    TokenBrokerService, TokenBrokerServiceServer,
};
use token_broker::grpc::reply::TokenReply;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::child::{Kept, SERVER_CORE, pinned, ready_line};
use crate::upstream::{PLAIN_HTTP2, Upstream, client};
use crate::{LARGEST, Outcome, ROLE};

const BASES: &str = "CALL_PROXY_BASES";
const CERTIFICATE: &str = "CALL_PROXY_CERTIFICATE";

/// A running proxy.
pub(crate) struct Proxy {
    _child: Kept,
    tcp: String,
}

/// Starts this executable as the proxy.
pub(crate) fn start(upstream: &Upstream) -> Outcome<Proxy> {
    let mut child = Kept(
        pinned(SERVER_CORE, &std::env::current_exe()?)
            .env(ROLE, "proxy")
            .env(BASES, json!(upstream.bases).to_string())
            .env(CERTIFICATE, &upstream.certificate)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let tcp = ready_line(child.0.stdout.take().ok_or("no stdout")?, |line| {
        Some(serde_json::from_str::<Value>(line).ok()?["tcp"].as_str()?.to_owned())
    })?;
    Ok(Proxy { _child: child, tcp })
}

impl Proxy {
    pub(crate) async fn channel(&self) -> Outcome<Channel> {
        crate::channel(&self.tcp).await
    }
}

/// What the child does.
pub(crate) async fn serve() -> Outcome<()> {
    let bases: Vec<(String, String)> = serde_json::from_str(&std::env::var(BASES)?)?;
    let certificate = PathBuf::from(std::env::var(CERTIFICATE)?);
    let (client, http2) = (client(&certificate, false)?, client(&certificate, true)?);
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout().lock(), "{}", json!({ "tcp": tcp.local_addr()?.to_string() }))?;
    let incoming = stream::unfold(tcp, async |listener| {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        Some((accepted, listener))
    });
    let service =
        TokenBrokerServiceServer::new(Bare { bases, client, http2 }).max_encoding_message_size(LARGEST);
    tonic::transport::Server::builder().add_service(service).serve_with_incoming(Box::pin(incoming)).await?;
    Ok(())
}

struct Bare {
    bases: Vec<(String, String)>,
    client: reqwest::Client,
    /// For the door without TLS to which HTTP/2 is spoken at once.
    http2: reqwest::Client,
}

impl Bare {
    async fn get(&self, provider: &str, path: &str) -> Result<reqwest::Response, Status> {
        self.request(reqwest::Method::GET, provider, path)?.send().await.map_err(lost)
    }

    fn request(
        &self,
        method: reqwest::Method,
        provider: &str,
        path: &str,
    ) -> Result<reqwest::RequestBuilder, Status> {
        let base = self.bases.iter().find(|(name, _)| name == provider).map(|(_, base)| base);
        let base = base.ok_or_else(|| Status::not_found(provider))?;
        let client = if provider == PLAIN_HTTP2 { &self.http2 } else { &self.client };
        Ok(client.request(method, format!("{base}{path}")))
    }
}

/// What a message adds to the body of a request.
async fn frame(
    message: Result<v1::StreamProviderCallRequest, Status>,
) -> Option<Result<Frame<Bytes>, Status>> {
    match message {
        Ok(message) => match message.part? {
            Sent::Chunk(chunk) => Some(Ok(Frame::data(chunk.data))),
            Sent::Head(_) => None,
        },
        Err(status) => Some(Err(status)),
    }
}

fn lost(error: reqwest::Error) -> Status {
    Status::unavailable(error.to_string())
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl TokenBrokerService for Bare {
    type WatchAccessTokenStream = Answers<v1::WatchAccessTokenResponse>;
    type StreamProviderCallStream = Answers<v1::StreamProviderCallResponse>;

    async fn call_provider(
        &self,
        request: Request<v1::CallProviderRequest>,
    ) -> Result<Response<v1::CallProviderResponse>, Status> {
        let request = request.into_inner();
        let answer = self.get(&request.provider, &request.path).await?;
        let status = answer.status().as_u16().into();
        let body = answer.bytes().await.map_err(lost)?;
        Ok(Response::new(v1::CallProviderResponse { status, body, ..Default::default() }))
    }

    async fn stream_provider_call(
        &self,
        request: Request<Streaming<v1::StreamProviderCallRequest>>,
    ) -> Result<Response<Self::StreamProviderCallStream>, Status> {
        let mut request = request.into_inner();
        let Some(Sent::Head(head)) = request.message().await?.and_then(|message| message.part) else {
            return Err(Status::invalid_argument("the head comes first"));
        };
        let method = head.method.parse().map_err(|_| Status::invalid_argument("no method"))?;
        let mut outgoing = self.request(method, &head.provider, &head.path)?;
        if head.method == "PUT" {
            outgoing = outgoing.body(reqwest::Body::wrap(StreamBody::new(request.filter_map(frame))));
        }
        let answer = outgoing.send().await.map_err(lost)?;
        let said = v1::AnswerHead { status: answer.status().as_u16().into(), ..Default::default() };
        let part = |part| v1::StreamProviderCallResponse { part: Some(part) };
        let chunks = BodyDataStream::new(reqwest::Body::from(answer)).map(move |piece| {
            Ok(part(Came::Chunk(v1::BodyChunk { data: piece.map_err(lost)?, end: false })))
        });
        let end = v1::BodyChunk { data: Bytes::new(), end: true };
        let all = stream::iter([Ok(part(Came::Head(said)))])
            .chain(chunks)
            .chain(stream::iter([Ok(part(Came::Chunk(end)))]));
        Ok(Response::new(Box::pin(all)))
    }

    async fn get_access_token(
        &self,
        _: Request<v1::GetAccessTokenRequest>,
    ) -> Result<Response<TokenReply>, Status> {
        Err(Status::unimplemented("not a broker"))
    }

    async fn watch_access_token(
        &self,
        _: Request<v1::WatchAccessTokenRequest>,
    ) -> Result<Response<Self::WatchAccessTokenStream>, Status> {
        Err(Status::unimplemented("not a broker"))
    }
}
