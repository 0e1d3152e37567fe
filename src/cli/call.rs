//! `call`: one HTTP call with a connection's token, as curl would make it. The body of the answer is the result, byte for
//! byte; everything else goes to standard error. Holds neither body whole, but for `--json`.

mod body;
mod progress;
mod screen;

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use tonic::{Request, Streaming};

use self::body::Data;
use self::progress::Progress;
use self::screen::Screen;
use super::client::Client;
use super::connections::Named;
use super::console::Console;
use super::escape::escaped;
use super::failure::{Cause, Failure};
use super::next::Name;
use super::page::{Page, Report};
use super::times;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::stream_provider_call_response::Part;

/// Call a provider's API with a connection's token
#[derive(Args, Debug)]
pub(crate) struct Call {
    #[command(flatten)]
    named: Named,
    /// HTTP method, e.g. GET
    method: String,
    /// Path below the provider's API base, with its query if it has one, e.g. '/v1/files?page=2'
    path: String,
    /// A header field; repeat for more
    // Read by us: the parser's own error would repeat what may be a secret.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Request body: text, @FILE, or - for standard input
    #[arg(short, long, value_name = "DATA", allow_hyphen_values = true)]
    data: Option<Data>,
    /// Print status and header fields before the body
    #[arg(short, long)]
    include: bool,
    /// Follow redirects of GET and HEAD to the same host, at most 3
    #[arg(short = 'L', long)]
    location: bool,
    /// Ask for a compressed answer, and decompress it
    #[arg(long)]
    compressed: bool,
    /// Which of the provider's API hosts. Default: its first one
    #[arg(long, default_value = "", hide_default_value = true)]
    host: String,
    /// An id for this call, sent to the provider where it knows a header for it; else it is good for one call that does
    /// something
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
    /// A scope that the token must have; repeat for more
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Which calls may be sent again: never, safe or idempotent
    #[arg(long, value_name = "WHICH", value_enum, default_value_t, hide_possible_values = true)]
    retry: Which,
    /// Give up after this long, e.g. 30s
    #[arg(long, value_name = "SPAN", value_parser = times::parse_span)]
    timeout: Option<Duration>,
}

/// Which calls may be sent again.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Which {
    /// None.
    Never,
    /// Safe methods.
    #[default]
    Safe,
    /// This one.
    Idempotent,
}

/// An answer of a provider.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CallView {
    /// HTTP status code.
    status: u32,
    /// Header fields in order; names may repeat.
    headers: Vec<HeaderView>,
    /// The body, where it is UTF-8.
    body: Option<String>,
    /// The body in base64, where it is not.
    body_base64: Option<String>,
    /// Trailer fields.
    trailers: Vec<HeaderView>,
    /// How often the call was sent.
    attempts: u32,
    /// CACHE, STORE, REFRESHED, SHARED_REFRESH or STALE.
    token_source: String,
    /// PROVIDER, CACHE or REVALIDATED.
    answer_source: String,
}

/// One header field.
#[derive(Serialize, JsonSchema)]
pub(crate) struct HeaderView {
    name: String,
    value: String,
}

impl From<v1::Header> for HeaderView {
    fn from(header: v1::Header) -> Self {
        Self { name: header.name, value: header.value }
    }
}

impl Call {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let (include, timeout) = (self.include, self.timeout);
        let name = Name {
            provider: self.named.provider.clone(),
            connection: self.named.connection.clone(),
            tenant: self.named.tenant.clone(),
        };
        let (head, data) = self.opened()?;
        let (messages, mut sent) = body::messages(head, data, &mut console.input)?;
        let mut request = Request::new(messages);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let mut progress = Progress::of_request(&console.output, sent.total);
        let mut tokens = client.tokens();
        let mut answer = std::pin::pin!(tokens.stream_provider_call(request));
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                Some(bytes) = sent.more() => progress.reached(bytes?, &mut console.output.stderr)?,
            }
        };
        progress.end(&mut console.output.stderr)?;
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(client.failure(status, Some(&name), console.now()).await),
        };
        let showing = async {
            match console.output.is_json {
                true => collected(console, answer).await,
                false => told(console, answer, include).await,
            }
        };
        let shown = tokio::select! {
            shown = showing => shown,
            failure = sent.broken() => Err(Broken::Here(failure)),
        };
        match shown {
            Ok(()) => Ok(()),
            Err(Broken::Broker(status)) => Err(client.failure(*status, Some(&name), console.now()).await),
            Err(Broken::Here(failure)) => Err(failure),
        }
    }

    fn opened(self) -> Result<(v1::CallHead, Option<Data>), Failure> {
        let (path, query) = match self.path.split_once('?') {
            Some((path, typed)) => (path.to_owned(), query(typed)?),
            None => (self.path, Vec::new()),
        };
        let mode = match self.retry {
            Which::Never => v1::RetryMode::Never,
            Which::Safe => v1::RetryMode::Safe,
            Which::Idempotent => v1::RetryMode::Idempotent,
        };
        let head = v1::CallHead {
            provider: self.named.provider,
            connection: self.named.connection,
            tenant: self.named.tenant,
            method: self.method,
            path,
            query,
            headers: self.headers.iter().enumerate().map(header).collect::<Result<_, _>>()?,
            request_id: self.request_id,
            content_length: None,
            scopes: self.scopes,
            host: self.host,
            follow_redirects: self.location,
            decompress: self.compressed,
            retry: Some(v1::RetryPolicy { mode: mode.into(), max_attempts: 0 }),
        };
        Ok((head, self.data))
    }
}

/// Why an answer did not come to its end.
enum Broken {
    Broker(Box<tonic::Status>),
    Here(Failure),
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        Self::Broker(Box::new(status))
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Here(error.into())
    }
}

type Answer = Streaming<v1::StreamProviderCallResponse>;

/// The body as it comes, to standard output.
async fn told(console: &mut Console, mut answer: Answer, include: bool) -> Result<(), Broken> {
    let mut progress = Progress::default();
    let mut screen = Screen::default();
    let is_terminal = console.output.stdout.is_terminal;
    let mut status = 0;
    while let Some(message) = answer.message().await? {
        match message.part {
            Some(Part::Head(head)) => {
                status = head.status;
                progress = Progress::of_answer(&console.output, length(&head.headers));
                if include {
                    let mut text = format!("HTTP {}\n", head.status);
                    text.extend(head.headers.iter().map(line));
                    console.output.stdout.write(&(text + "\n"))?;
                }
            }
            Some(Part::Chunk(chunk)) => {
                if is_terminal {
                    console.output.stdout.write(&screen.shown(&chunk.data))?;
                } else {
                    console.output.stdout.write_all(&chunk.data)?;
                }
                progress.came(chunk.data.len(), &mut console.output.stderr)?;
            }
            Some(Part::Trailers(trailers)) if include => {
                let text: String = trailers.trailers.iter().map(line).collect();
                progress.end(&mut console.output.stderr)?;
                console.note(&format!("trailers:\n{}", text.trim_end()))?;
            }
            // What a later broker may say besides.
            Some(Part::Trailers(_)) | None => {}
        }
    }
    if is_terminal {
        console.output.stdout.write(&screen.rest())?;
    }
    console.output.stdout.flush()?;
    progress.end(&mut console.output.stderr)?;
    if status >= 400 && !include {
        console.note(&format!("the provider answered {status}"))?;
    }
    Ok(())
}

/// The whole answer as one document.
async fn collected(console: &mut Console, mut answer: Answer) -> Result<(), Broken> {
    let (mut head, mut body, mut trailers) = (v1::AnswerHead::default(), Vec::new(), Vec::new());
    while let Some(message) = answer.message().await? {
        match message.part {
            Some(Part::Head(came)) => head = came,
            Some(Part::Chunk(chunk)) => body.extend_from_slice(&chunk.data),
            Some(Part::Trailers(came)) => trailers = came.trailers,
            None => {}
        }
    }
    let token_source = head.token_source().as_str_name().trim_start_matches("TOKEN_SOURCE_").to_owned();
    let answer_source = head.answer_source().as_str_name().trim_start_matches("ANSWER_SOURCE_").to_owned();
    let (body, body_base64) = match String::from_utf8(body) {
        Ok(text) => (Some(text), None),
        Err(bytes) => (None, Some(STANDARD.encode(bytes.into_bytes()))),
    };
    Ok(console.report(&CallView {
        status: head.status,
        headers: head.headers.into_iter().map(HeaderView::from).collect(),
        body,
        body_base64,
        trailers: trailers.into_iter().map(HeaderView::from).collect(),
        attempts: head.attempts,
        token_source,
        answer_source,
    })?)
}

impl Report for CallView {
    /// Never asked for: without `--json` the body goes out as it comes.
    fn text(&self, _: &Page<'_>) -> String {
        self.body.clone().unwrap_or_default()
    }
}

fn line(header: &v1::Header) -> String {
    format!("{}: {}\n", escaped(&header.name), escaped(&header.value))
}

fn length(headers: &[v1::Header]) -> Option<u64> {
    headers.iter().find(|header| header.name == "content-length")?.value.parse().ok()
}

/// A query as it is typed after a path: names and values, which the contract has decoded. What it would send otherwise than
/// it is typed is refused, rather than changed without a word.
fn query(typed: &str) -> Result<Vec<v1::QueryParameter>, Failure> {
    let usage = |why: String| Failure::new(Cause::Usage, why);
    let decoded = |at: usize, text: &str| {
        let spaced = text.replace('+', " ");
        let decoded =
            percent_encoding::percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned);
        decoded.map_err(|_| usage(format!("query parameter {at} is not UTF-8 once it is decoded")))
    };
    let parameters = typed.split('&').enumerate().filter(|(_, typed)| !typed.is_empty());
    let parameters = parameters.map(|(at, typed)| {
        let Some((name, value)) = typed.split_once('=') else {
            return Err(usage(format!(
                "query parameter {} has no '=': write NAME= where it has no value",
                at + 1
            )));
        };
        Ok(v1::QueryParameter { name: decoded(at + 1, name)?, value: decoded(at + 1, value)? })
    });
    parameters.collect()
}

fn header((at, typed): (usize, &String)) -> Result<v1::Header, Failure> {
    let Some((name, value)) = typed.split_once(':') else {
        let which = format!("header {} has no colon: write it as 'Name: value'", at + 1);
        return Err(Failure::new(Cause::Usage, which));
    };
    Ok(v1::Header { name: name.trim().to_ascii_lowercase(), value: value.trim().to_owned() })
}

/// A file that cannot be read.
fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(Cause::Usage, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_sent_as_it_is_typed_or_refused() {
        let sent = query("q=a%20b+c&q=%C3%BC&empty=&&x=%3D=").unwrap();
        let sent: Vec<(&str, &str)> =
            sent.iter().map(|parameter| (parameter.name.as_str(), parameter.value.as_str())).collect();
        assert_eq!(sent, [("q", "a b c"), ("q", "ü"), ("empty", ""), ("x", "==")]);
        assert!(query("").unwrap().is_empty());
        for typed in ["q=%FF", "%FF=q", "acl", "a=b&acl"] {
            assert!(query(typed).is_err(), "{typed}");
        }
    }
}
