//! What a call through the broker costs: `tests/run.sh --bench`, or `cargo bench --profile dist --bench call`.
//!
//! Three ways to the same upstream, measured in turns in one run: the client by itself; a bare proxy of the same stack
//! (tonic in front, reqwest behind, nothing between); the real binary. Plain and over TLS, with either version; streams
//! both ways. Proxy and broker have one core, this client and the upstream the other.
//! Every figure is a ratio formed in one run; nothing is asserted about time. Writes `target/bench/call.md`.

mod broker;
#[expect(dead_code, reason = "the other harness reads more of its children")]
#[path = "../load/child.rs"]
mod child;
mod proxy;
mod upstream;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Duration;

use broker::Home;
use futures_util::StreamExt as _;
use token_broker::grpc::proto::v1;
use token_broker::grpc::proto::v1::stream_provider_call_request::Part as Sent;
use token_broker::grpc::proto::v1::stream_provider_call_response::Part as Came;
use token_broker::grpc::proto::v1::token_broker_service_client::TokenBrokerServiceClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How the same executable is told what it is this time.
const ROLE: &str = "CALL_ROLE";

/// Turns of each way in each case; odd, so that the median is a measured one.
const ROUNDS: usize = 7;

/// Turns before those, which count for nothing: whoever is first finds everything cold.
const WARM_UPS: usize = 1;

/// Calls a turn: as many as show a 99th percentile, of each size.
const SIZES: [(&str, usize); 2] = [("/1KiB", 1000), ("/1MiB", 60)];

/// Bytes of one streamed body.
const STREAMED: usize = 256 * 1024 * 1024;

/// The largest message a caller takes here.
const LARGEST: usize = 8 * 1024 * 1024;

/// How a call gets there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Direct,
    Proxy,
    Broker,
}

const WAYS: [Way; 3] = [Way::Direct, Way::Proxy, Way::Broker];

fn main() -> Outcome<()> {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match std::env::var(ROLE).as_deref() {
        Ok("upstream") => runtime()?.block_on(upstream::serve()),
        Ok("proxy") => runtime()?.block_on(proxy::serve()),
        // `cargo test --benches` comes here: there is nothing to test.
        _ if !std::env::args().any(|argument| argument == "--bench") => Ok(()),
        Ok("driver") => runtime()?.block_on(measure()),
        _ => {
            let mut driver = child::pinned(child::DRIVER_CORE, &std::env::current_exe()?);
            Err(driver.args(std::env::args_os().skip(1)).env(ROLE, "driver").exec().into())
        }
    }
}

async fn measure() -> Outcome<()> {
    let upstream = upstream::start()?;
    let proxy = proxy::start(&upstream)?;
    let home = Home::new(&upstream)?;
    let broker = home.start()?;
    for (name, _) in &upstream.bases {
        broker.import(name).await?;
    }
    let (over_proxy, over_broker) = (proxy.channel().await?, broker.channel().await?);

    let mut report = String::from(
        "| upstream | answer | direct p50 | p99 | bare proxy ÷ direct p50 | p99 | broker ÷ direct p50 | p99 | broker ÷ bare proxy p50 | p99 |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, base) in &upstream.bases {
        let direct = upstream.client(name)?;
        for (path, calls) in SIZES {
            let mut taken: BTreeMap<Way, Vec<Duration>> = BTreeMap::new();
            for round in 0..WARM_UPS + ROUNDS {
                // Who goes first takes turns too.
                for at in 0..WAYS.len() {
                    let way = WAYS[(at + round) % WAYS.len()];
                    for _ in 0..calls {
                        let began = Instant::now();
                        match way {
                            Way::Direct => {
                                direct.get(format!("{base}{path}")).send().await?.bytes().await?;
                            }
                            Way::Proxy => unary(&over_proxy, name, path).await?,
                            Way::Broker => unary(&over_broker, name, path).await?,
                        }
                        if round >= WARM_UPS {
                            taken.entry(way).or_default().push(began.elapsed());
                        }
                    }
                }
            }
            let mut quantiles = |way: Way| {
                let times = taken.entry(way).or_default();
                times.sort();
                let at = |part: usize| {
                    times.get(times.len() * part / 100).copied().unwrap_or_default().as_secs_f64()
                };
                (at(50), at(99))
            };
            let (direct, proxy, broker) =
                (quantiles(Way::Direct), quantiles(Way::Proxy), quantiles(Way::Broker));
            writeln!(
                report,
                "| {name} | {} | {:.0} µs | {:.0} µs | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
                path.trim_start_matches('/'),
                direct.0 * 1e6,
                direct.1 * 1e6,
                proxy.0 / direct.0,
                proxy.1 / direct.1,
                broker.0 / direct.0,
                broker.1 / direct.1,
                broker.0 / proxy.0,
                broker.1 / proxy.1,
            )?;
            say(&format!("{name} {path}: done"))?;
        }
    }
    writeln!(
        report,
        "\n| upstream | streamed | bare proxy | broker | broker ÷ bare proxy |\n|---|---|---|---|---|"
    )?;
    for (name, _) in &upstream.bases {
        for (what, direction) in [("down", Direction::Down), ("up", Direction::Up)] {
            let mut rates = [Vec::new(), Vec::new()];
            for round in 0..WARM_UPS + ROUNDS {
                for at in 0..2 {
                    let which = (at + round) % 2;
                    let channel = [&over_proxy, &over_broker][which];
                    let began = Instant::now();
                    let length = streamed(channel, name, direction).await?;
                    if length != STREAMED {
                        return Err(format!("{length} bytes came of {STREAMED}").into());
                    }
                    if round >= WARM_UPS {
                        rates[which].push(STREAMED as f64 / 1e6 / began.elapsed().as_secs_f64());
                    }
                }
            }
            let [proxy, broker] = rates.map(|mut rates| {
                rates.sort_by(f64::total_cmp);
                rates[ROUNDS / 2]
            });
            writeln!(
                report,
                "| {name} | {what} | {proxy:.0} MB/s | {broker:.0} MB/s | {:.2} |",
                broker / proxy
            )?;
        }
        say(&format!("{name} streams: done"))?;
    }
    let connections = upstream.connections().await?;
    writeln!(
        report,
        "\nConnections that the upstream saw in all: {connections} (one client, one proxy, one broker, four doors)."
    )?;
    writeln!(
        report,
        "\n{} cores, profile {}, load average {:.1}.",
        child::cores()?,
        child::profile()?,
        child::load_average()?
    )?;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("call.md"), &report)?;
    say(&format!("\n{report}"))
}

async fn unary(channel: &Channel, provider: &str, path: &str) -> Outcome<()> {
    let request = v1::CallProviderRequest {
        provider: provider.to_owned(),
        connection: broker::CONNECTION.to_owned(),
        method: "GET".to_owned(),
        path: path.to_owned(),
        ..Default::default()
    };
    let mut client = TokenBrokerServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST);
    let answer = client.call_provider(request).await?.into_inner();
    if answer.status == 200 { Ok(()) } else { Err(format!("{provider}{path}: {}", answer.status).into()) }
}

/// Which way the bytes of a stream go.
#[derive(Clone, Copy)]
enum Direction {
    Down,
    Up,
}

/// How many bytes came, here or, by its own count, at the upstream.
async fn streamed(channel: &Channel, provider: &str, direction: Direction) -> Outcome<usize> {
    const PIECE: usize = 64 * 1024;
    let (method, path, pieces) = match direction {
        Direction::Down => ("GET", "/stream", 0),
        Direction::Up => ("PUT", upstream::SINK, STREAMED / PIECE),
    };
    let head = v1::CallHead {
        provider: provider.to_owned(),
        connection: broker::CONNECTION.to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        ..Default::default()
    };
    let chunk = |data, end| Sent::Chunk(v1::BodyChunk { data, end });
    let piece = bytes::Bytes::from(vec![0; PIECE]);
    let sent = std::iter::once(Sent::Head(head))
        .chain(std::iter::repeat_n(piece, pieces).map(move |piece| chunk(piece, false)))
        .chain([chunk(bytes::Bytes::new(), true)])
        .map(|part| v1::StreamProviderCallRequest { part: Some(part) });
    let mut client = TokenBrokerServiceClient::new(channel.clone());
    let mut came = client.stream_provider_call(futures_util::stream::iter(sent)).await?.into_inner();
    let (mut length, mut counted) = (0, Vec::new());
    while let Some(message) = came.next().await {
        if let Some(Came::Chunk(chunk)) = message?.part {
            length += chunk.data.len();
            if pieces > 0 {
                counted.extend_from_slice(&chunk.data);
            }
        }
    }
    Ok(if pieces > 0 { std::str::from_utf8(&counted)?.parse()? } else { length })
}

async fn channel(tcp: &str) -> Outcome<Channel> {
    Ok(Endpoint::from_shared(format!("http://{tcp}"))?.tcp_nodelay(true).connect().await?)
}

fn say(line: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
