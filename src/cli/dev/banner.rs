//! What `dev` says when it is ready: at most 22 lines of 80 columns, in the order in which one reads them. Its commands
//! run as printed, in a shell with nothing exported.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::super::connections::ConnectionView;
use super::super::escape::escaped;
use super::super::next::{Caller, Name, Next};
use super::super::page::{Page, Report, Tone};
use super::port::Port;
use super::{CONNECTED, PROVIDER, TO_CONNECT};

/// A broker that is ready, and how to try it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Banner {
    version: &'static str,
    /// Where the data is.
    data: String,
    /// Whether it stays when the broker ends.
    kept: bool,
    /// Where it listens.
    doors: Vec<Door>,
    /// The connection that is ready.
    connection: ConnectionView,
    /// The same call with grpcurl, in shell words.
    grpcurl: String,
    /// The same call with this program.
    command: String,
    /// Opened in a browser, walks through a consent.
    consent_url: String,
}

/// One address.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Door {
    pub(super) name: String,
    pub(super) address: String,
    /// The usual port, where somebody else has it.
    pub(super) taken_port: Option<u16>,
}

impl Door {
    /// The door called `name` that listens at `address` instead of `port`, if that is taken.
    pub(super) fn new(name: &str, address: String, port: &Port) -> Self {
        Self { name: name.to_owned(), address, taken_port: port.taken() }
    }
}

impl Banner {
    /// `caller` names the broker where commands would not find this one by themselves.
    pub(super) fn new(
        caller: &Caller,
        data: &Path,
        kept: bool,
        doors: Vec<Door>,
        connection: ConnectionView,
        consent_url: String,
    ) -> Self {
        let name =
            Name { provider: PROVIDER.to_owned(), connection: CONNECTED.to_owned(), tenant: String::new() };
        let command = Next::Token { name, allow_stale: false, show: true }.command(caller);
        let tcp = doors.iter().find_map(|door| door.address.strip_prefix("tcp://")).unwrap_or_default();
        let body = format!("{{\"provider\":\"{PROVIDER}\",\"connection\":\"{CONNECTED}\"}}");
        let grpcurl = format!(
            "grpcurl -plaintext -d '{body}' \\\n    {tcp} tokenbroker.v1.TokenBrokerService/GetAccessToken"
        );
        let data = data.display().to_string();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            data,
            kept,
            doors,
            connection,
            grpcurl,
            command,
            consent_url,
        }
    }
}

impl Report for Banner {
    fn text(&self, page: &Page<'_>) -> String {
        let title = format!("token-broker {}", self.version);
        let fate = if self.kept { "kept" } else { "removed at the end" };
        let mut text = format!(
            "{}  development, loopback only\n  data     {} ({fate})\n\n",
            page.toned(&title, Tone::Strong),
            escaped(&self.data)
        );
        for door in self.doors.iter().filter(|door| !door.address.is_empty()) {
            let taken = door.taken_port.map_or_else(String::new, |port| format!("  (port {port} is taken)"));
            text.push_str(&format!("  {:7}  {}{taken}\n", door.name, escaped(&door.address)));
        }
        let c = &self.connection;
        text.push_str(&format!(
            "\n  {} {}  {}  {}, token expires {}\n",
            c.provider,
            c.connection,
            page.toned(&c.status, super::super::connections::tone(&c.status)),
            escaped(c.account()),
            c.expiry(page)
        ));
        text.push_str(&format!("\n{}\n", page.toned("Try it in another terminal:", Tone::Strong)));
        text.push_str(&format!("  {}\n  {}\n", self.grpcurl, escaped(&self.command)));
        text.push_str(&format!(
            "  {}  in a browser: consent for {PROVIDER} {TO_CONNECT}\n",
            self.consent_url
        ));
        let end = if self.kept { "Ctrl-C stops it." } else { "Ctrl-C stops it and leaves nothing behind." };
        text + &format!("\n{end}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::console::tests::Desk;
    use super::*;
    use crate::grpc::proto::v1::{Connection, ConnectionStatus};

    #[test]
    fn the_banner_keeps_to_22_lines_of_80_columns() {
        let mut connection = Connection {
            provider: PROVIDER.into(),
            connection: CONNECTED.into(),
            email: "user-42@sandbox.example".into(),
            expire_time: Some(prost_types::Timestamp { seconds: 1_790_000_300, nanos: 0 }),
            ..Connection::default()
        };
        connection.set_status(ConnectionStatus::Active);
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = Port::or_any(held.local_addr().unwrap().port()).unwrap();
        let data = Path::new("/run/user/1000/token-broker/dev-8f3aGh2k");
        let socket = format!("unix://{}/broker.sock", data.display());
        let doors = vec![
            Door::new("gRPC", "tcp://127.0.0.1:45678".into(), &taken),
            Door { name: "socket".into(), address: socket, taken_port: None },
            Door::new("public", "http://127.0.0.1:45679".into(), &taken),
            Door::new("ops", "http://127.0.0.1:45680".into(), &taken),
            Door::new("sandbox", "http://127.0.0.1:45681".into(), &taken),
        ];
        let url = "http://127.0.0.1:45682/connect".to_owned();
        let caller = Caller { program: "target/release/token-broker".into(), endpoint: None };
        let banner = Banner::new(&caller, data, false, doors, connection.into(), url);
        let mut desk = Desk::terminal("");
        desk.console.report(&banner).unwrap();
        let text = desk.stdout.text();
        assert!(text.lines().count() <= 22, "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(
            text.contains("sandbox user-42  ACTIVE  user-42@sandbox.example, token expires in 5 min"),
            "{text}"
        );
        assert!(text.contains("\n  target/release/token-broker token sandbox user-42 --show\n"), "{text}");
    }
}
