//! token-broker holds OAuth grants so that applications never do. It runs beside each app, answers
//! `GetAccessToken` over gRPC from memory, refreshes ahead of expiry with a single flight per grant, and keeps
//! every token sealed on disk.
//!
//! # Layout
//!
//! ```text
//! main -> cli -> app -> { grpc, web } -> broker -> { provider, store }   (traits and plain data)
//! everything -> { connection, error, secret, entropy, clock }
//! ```
//!
//! | room | owns |
//! |---|---|
//! | [`connection`] | the pure core: a connection, its tokens, its status, and their transitions |
//! | [`error`] | every failure, its reason on the wire and whose move it is |
//! | [`clock`], [`entropy`], [`secret`] | small ports to the world: time, randomness, things that must not print |
//! | [`provider`] | a provider as data, the token endpoint client, the one hardened HTTP client |
//! | [`store`] | the storage contract, the sealed sled and redb stores behind one guard layer, the memory store |
//! | [`readiness`] | what start-up still waits for |
//! | [`process`] | what keeps the process's memory its own; the signals that end it |
//! | [`broker`] | one method a use case: access token, provider call, connect and import, disconnect, listing, watching; refreshing ahead |
//! | [`grpc`] | tonic services: decode, ask the broker, encode; the error table |
//! | [`web`] | the public HTTP door (callbacks) and the ops door (livez, readyz, metrics) |
//! | [`config`] | raw text to [`config::Config`]; every mistake reported together |
//! | [`app`] | the only place where parts are chosen and joined |
//! | [`cli`] | one file a subcommand |
//! | [`sandbox`] | a scriptable authorization server with rotation, faults and a ground-truth log |
//! | [`telemetry`] | subscriber set-up and every metric name |
//! | [`failpoint`] | named points at which a test kills or fails a broker; none without the feature `failpoints` |
//!
//! `tests/it/rooms.rs` reads the `use` lines and fails when a room names one it may not.
//!
//! A newcomer's way in: `tests/it/access_token.rs`, then [`broker`]'s `access_token.rs` and `cache.rs`, then
//! [`connection`].

#![forbid(unsafe_code)]

pub mod app;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod entropy;
pub mod error;
pub mod failpoint;
pub mod grpc;
pub mod process;
pub mod provider;
pub mod readiness;
pub mod sandbox;
pub mod secret;
pub mod store;
pub mod telemetry;
pub mod web;
