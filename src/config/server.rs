//! `server`: the three doors, and how the process lives.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::finding::Found;
use super::value::{Authority, BaseUrl, ByteSize, FileMode, Listen, RedirectUri, ReturnUrl, SocketPath};
use crate::provider::spec::span::Span;

/// The three doors, and how the process lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// How many threads serve everything, in one runtime. One is right for a sidecar.
    #[schemars(range(min = 1, max = 256))]
    pub threads: NonZeroU16,
    /// How long a stop may take: refreshes and writes under way are finished in this time. A refresh that has left is
    /// waited for longer where its provider has a longer `token_timeout`: up to that and 5 s.
    pub drain: Span,
    /// The apps' door.
    pub grpc: Grpc,
    /// The browsers' door.
    pub public: Public,
    /// The operators' door.
    pub ops: Ops,
}

/// The apps' door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    /// The Unix socket; its directory is made with mode 0750 if it is not there. `off` or empty: none.
    pub socket: SocketPath,
    /// Who may open the socket.
    pub socket_mode: FileMode,
    /// The TCP address, on this machine only. `off`: none.
    pub tcp: Listen,
    /// The largest request that is read.
    pub max_message_bytes: ByteSize,
    /// Names besides localhost and the socket's that a caller may use for the broker.
    pub authorities: Vec<Authority>,
}

/// The browsers' door: the way back from consent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Public {
    /// The address; an ingress with TLS stands before it. `off`: every app has its own callback.
    pub listen: Listen,
    /// The address as browsers see it: providers send them to `callback/{provider}` below it. Needed when `listen`
    /// is not on this machine; else it is `http://` and the address listened on.
    pub url: Option<BaseUrl>,
    /// Where browsers may be sent after consent, compared as a whole.
    pub return_urls: Vec<ReturnUrl>,
    /// Callbacks of the apps' own, compared letter by letter. Who has one gets the code and hands it to the broker.
    pub redirect_uris: Vec<RedirectUri>,
    /// Also send browsers to any port of 127.0.0.1 or [::1] after consent, which the command line needs.
    pub allow_loopback_return: bool,
}

/// The operators' door: health and metrics, nothing secret, read-only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ops {
    /// The address. `off`: none.
    pub listen: Listen,
}

const fn at(ip: Ipv4Addr, port: u16) -> Listen {
    Listen::on(SocketAddr::V4(SocketAddrV4::new(ip, port)))
}

impl Default for Server {
    fn default() -> Self {
        Self {
            threads: NonZeroU16::MIN,
            // Longer than a token request may take by default, so that a refresh under way is stored.
            drain: Span::from_secs(15),
            grpc: Grpc::default(),
            public: Public::default(),
            ops: Ops::default(),
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            socket: SocketPath::at("/run/token-broker/broker.sock"),
            socket_mode: FileMode::new(0o660),
            tcp: at(Ipv4Addr::LOCALHOST, 7450),
            max_message_bytes: ByteSize::from_kib(1024),
            authorities: Vec::new(),
        }
    }
}

impl Default for Public {
    fn default() -> Self {
        Self {
            listen: at(Ipv4Addr::LOCALHOST, 7451),
            url: None,
            return_urls: Vec::new(),
            redirect_uris: Vec::new(),
            allow_loopback_return: true,
        }
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self { listen: at(Ipv4Addr::UNSPECIFIED, 7452) }
    }
}

impl Public {
    /// The base URL of the public door, which listens on `bound`: `url` if it is configured.
    pub fn base_url(&self, bound: SocketAddr) -> Option<Url> {
        match &self.url {
            Some(url) => Some(url.url().clone()),
            None => Url::parse(&format!("http://{bound}/")).ok(),
        }
    }
}

impl Server {
    pub(super) fn check(&self, found: &mut Found) {
        if self.drain.duration().as_secs() > 3600 {
            found.mistake("server.drain", format!("{} is too long; one hour is the most", self.drain));
        }
        let grpc = &self.grpc;
        if !grpc.tcp.is_loopback() {
            found.mistake(
                "server.grpc.tcp",
                format!(
                    "{} can be reached from other machines, and callers there cannot be told apart without mutual TLS, \
                     which is not supported yet; write 127.0.0.1:7450, or use the socket",
                    grpc.tcp
                ),
            );
        }
        if grpc.socket.path().is_none() && grpc.tcp.address().is_none() {
            found.mistake("server.grpc", "socket and tcp are both off, so nobody could ask for a token");
        }
        if grpc.socket_mode.is_writable_by_all() {
            found.warning(
                "server.grpc.socket_mode",
                format!("{}: every user who reaches the directory may ask for tokens", grpc.socket_mode),
            );
        }
        let (least, most) = (16 * 1024, 64 * 1024 * 1024);
        if !(least..=most).contains(&grpc.max_message_bytes.bytes()) {
            found.mistake(
                "server.grpc.max_message_bytes",
                format!("{} is out of range; accepted: 16KiB to 64MiB", grpc.max_message_bytes),
            );
        }
        self.check_public(found);
        self.check_ports(found);
    }

    fn check_public(&self, found: &mut Found) {
        let public = &self.public;
        if public.url.is_none() && !public.listen.is_loopback() {
            found.mistake(
                "server.public.url",
                "is missing; listen is not on this machine, so providers must be told where browsers come back",
            );
        }
        if public.listen.address().is_none() && !public.return_urls.is_empty() {
            found.mistake("server.public.return_urls", "is never used: server.public.listen is off");
        }
        for (list, doubles) in
            [("return_urls", doubles(&public.return_urls)), ("redirect_uris", doubles(&public.redirect_uris))]
        {
            for (index, first) in doubles {
                let path = format!("server.public.{list}[{index}]");
                found.mistake(path.as_str(), format!("is the same as {list}[{first}]"));
            }
        }
    }

    /// Two doors cannot share an address. Port 0 is a different port each time.
    fn check_ports(&self, found: &mut Found) {
        let doors = [
            ("server.grpc.tcp", self.grpc.tcp),
            ("server.public.listen", self.public.listen),
            ("server.ops.listen", self.ops.listen),
        ];
        for (index, (path, door)) in doors.iter().enumerate() {
            let Some(address) = door.address().filter(|address| address.port() != 0) else { continue };
            let taken = doors.iter().take(index).find(|(_, earlier)| {
                earlier.address().is_some_and(|earlier| {
                    let (a, b) = (earlier.ip(), address.ip());
                    earlier.port() == address.port() && (a == b || a.is_unspecified() || b.is_unspecified())
                })
            });
            if let Some((earlier, _)) = taken {
                found.mistake(*path, format!("{address} is already taken by {earlier}"));
            }
        }
    }
}

/// Entries that repeat an earlier one, each with the earlier one's number.
fn doubles<T: PartialEq>(list: &[T]) -> Vec<(usize, usize)> {
    let earlier = |index: usize, entry: &T| list.iter().take(index).position(|first| first == entry);
    list.iter().enumerate().filter_map(|(index, entry)| Some((index, earlier(index, entry)?))).collect()
}
