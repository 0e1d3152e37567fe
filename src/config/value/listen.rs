//! Where a door listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Refused, checked_text, quoted};

/// The longest path that a Unix socket's address holds on Linux, its closing zero byte not counted (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;

/// An address and a port, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(Option<SocketAddr>);

checked_text!(
    Listen,
    "listen",
    "string",
    "An address and a port (127.0.0.1:7450; port 0 takes any), or off."
);

impl Listen {
    /// Listens on `address`.
    pub const fn on(address: SocketAddr) -> Self {
        Self(Some(address))
    }

    /// The address; `None`: this door stays closed.
    pub const fn address(self) -> Option<SocketAddr> {
        self.0
    }

    /// Whether only this machine can reach it; a closed door nobody can.
    pub fn is_loopback(self) -> bool {
        self.0.is_none_or(|address| address.ip().to_canonical().is_loopback())
    }
}

impl FromStr for Listen {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        if text.is_empty() || text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(Self::on).map_err(|_| {
            let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(7450);
            Refused(format!("{} is not an address with a port; write 127.0.0.1:{port}, or off", quoted(text)))
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("off"),
        }
    }
}

/// The path of a Unix socket, or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPath(Option<PathBuf>);

checked_text!(SocketPath, "socket-path", "string", "The path of a Unix socket, or off.");

impl SocketPath {
    /// A socket at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(Some(path.into()))
    }

    /// No socket.
    pub const fn off() -> Self {
        Self(None)
    }

    /// The path; `None`: this door stays closed.
    pub fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }
}

impl FromStr for SocketPath {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let refuse = |why: String| Err(Refused(why));
        match text {
            "" | "off" => Ok(Self(None)),
            _ if text.starts_with("unix:") => refuse("is a path; leave unix: away".to_owned()),
            _ if text.starts_with('@') => {
                refuse("is an abstract socket, which no file permission guards; write a path".to_owned())
            }
            _ if text.contains('\0') => refuse("holds a zero byte, which no path may hold".to_owned()),
            _ if text.len() > SOCKET_PATH_LIMIT => {
                let len = text.len();
                refuse(format!("is {len} bytes long; a socket's path has at most {SOCKET_PATH_LIMIT}"))
            }
            path => Ok(Self::at(path)),
        }
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "{}", path.display()),
            None => f.write_str("off"),
        }
    }
}
