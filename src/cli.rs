//! The command line: one file a subcommand. Owns what is typed, what is printed and the exit code. Knows the broker
//! over gRPC alone, but for `serve` and `dev`, which run one.
//!
//! | file | owns |
//! |---|---|
//! | `console`, `page`, `escape`, `times` | the world a command touches, and how results look |
//! | `failure`, `exit`, `next` | errors: what, where, why, what to run next; exit codes |
//! | `endpoint`, `pointer`, `client` | where the broker is, and a connection to it |
//! | `loopback` | the browser's way back |
//! | `help`, `examples`, `complete` | texts and candidates |
//! | all others | a subcommand each |
//!
//! Invariant: standard output holds the result and nothing else, and no command asks a person anything but
//! `connections disconnect`.

mod call;
mod check_config;
mod client;
mod complete;
mod completions;
mod connect;
mod connections;
mod console;
mod dev;
mod endpoint;
mod escape;
mod examples;
mod exit;
mod failure;
mod help;
mod hold;
mod keys;
mod loopback;
mod man;
mod next;
mod page;
mod pointer;
mod process;
mod providers;
#[cfg(test)]
mod schema;
mod serve;
mod status;
mod store;
mod times;
mod token;

use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use process::main;

use client::Client;
use console::Console;
use endpoint::Endpoint;
use failure::{Cause, Failure};

/// Holds OAuth grants so that applications never do
#[derive(Debug, Parser)]
#[command(name = "token-broker", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags of every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// The broker's gRPC door: unix:///path or tcp://127.0.0.1:PORT
    #[arg(long, global = true, value_name = "URI", help_heading = "Everywhere")]
    endpoint: Option<Endpoint>,
    /// Print the result as one JSON document, and errors as one JSON object
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// When to use colour
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t = ColorChoice::Auto,
        hide_possible_values = true,
        help_heading = "Everywhere",
        long_help = "When to use colour: auto, always or never"
    )]
    color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker
    Serve(serve::Serve),
    #[command(flatten)]
    Other(Other),
}

/// Every command that does not make a runtime of its own.
#[derive(Debug, Subcommand)]
enum Other {
    /// Run a broker with a sandbox provider and a connected account, to try things
    Dev(dev::Dev),
    /// Connect an account, or renew the consent of one
    Connect(connect::Connect),
    /// See, take over, refresh and end connections
    #[command(subcommand)]
    Connections(connections::Connections),
    /// See providers, and how to set one up
    #[command(subcommand)]
    Providers(providers::Providers),
    /// Print a living access token
    Token(token::Token),
    /// Call a provider's API with a connection's token
    Call(Box<call::Call>),
    /// Check the configuration and show what holds
    CheckConfig(check_config::CheckConfig),
    /// Make and list the keys that seal the store
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Export, import and verify the store, while no broker runs
    #[command(subcommand)]
    Store(store::Store),
    /// Print a completion script, to be sourced by the shell
    Completions(completions::Completions),
    /// Write the manual pages into a directory
    Man(man::Man),
    /// Show help on a command or a topic
    Help(help::Help),
}

/// The whole command line, with examples in its help.
pub(crate) fn command() -> clap::Command {
    examples::added(Cli::command())
}

/// What somebody typed.
#[derive(Debug)]
pub(crate) enum Typed {
    /// A command to run.
    Command(Box<Cli>),
    /// `--help` or `--version`: text to print.
    Text(String),
}

/// Reads a command line, the program's name first.
pub(crate) fn parse<W>(words: &[W], has_colour: bool) -> Result<Typed, Failure>
where
    W: Into<std::ffi::OsString> + Clone,
{
    let matches = command().try_get_matches_from(words.iter().cloned());
    let error = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(Typed::Command(Box::new(cli))),
        Err(error) => error,
    };
    let plain = error.render().to_string();
    let text = if has_colour { error.render().ansi().to_string() } else { plain.clone() };
    if !error.use_stderr() {
        return Ok(Typed::Text(text));
    }
    let first = plain.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let mut failure = Failure::new(Cause::Usage, first);
    failure.ready_made = Some(text);
    Err(failure)
}

/// Runs a command, or shows how the broker fares.
async fn run(global: Global, command: Option<Other>, console: &mut Console) -> Result<(), Failure> {
    let Global { endpoint, .. } = global;
    let environment = console.environment.clone();
    let find = async || Client::find(endpoint.as_ref(), &environment).await;
    let Some(command) = command else {
        return match find().await {
            Ok(client) => status::run(console, &client).await,
            // Only where nobody said that there is one.
            Err(failure)
                if failure.cause == Cause::NoBroker && !is_named(endpoint.as_ref(), &environment) =>
            {
                status::nobody(console)
            }
            Err(failure) => Err(failure),
        };
    };
    match command {
        Other::Dev(dev) => dev.run(console).await,
        Other::Connect(connect) => connect.run(console, &find().await?).await,
        Other::Connections(connections) => connections.run(console, &find().await?).await,
        Other::Providers(providers) => providers.run(console, find().await).await,
        Other::Token(token) => token.run(console, &find().await?).await,
        Other::Call(call) => call.run(console, &find().await?).await,
        Other::CheckConfig(check) => check.run(console),
        Other::Keys(keys) => keys.run(console),
        Other::Store(store) => store.run(console).await,
        Other::Completions(completions) => completions.run(console),
        Other::Man(man) => man.run(console),
        Other::Help(help) => help.run(console),
    }
}

fn is_named(flag: Option<&Endpoint>, environment: &console::Environment) -> bool {
    flag.is_some() || environment.has(endpoint::VARIABLE)
}
