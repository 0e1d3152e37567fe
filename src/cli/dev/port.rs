//! A loopback port: the usual one, or any where that is taken.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Where a door of the development broker is to listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    usual: u16,
    is_taken: bool,
}

impl Port {
    /// `usual`, or any other where somebody listens there.
    pub(super) fn or_any(usual: u16) -> io::Result<Self> {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, usual)) {
            Ok(_) => Ok(Self { usual, is_taken: false }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(Self { usual, is_taken: true }),
            Err(error) => Err(error),
        }
    }

    /// Any port but `usual`, which was taken a moment ago.
    pub(super) fn any(usual: u16) -> Self {
        Self { usual, is_taken: true }
    }

    /// What `bind` makes at `usual`, or at any other port where somebody listens there.
    pub(super) fn bound<T>(usual: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<(T, Self)> {
        let first = Self { usual, is_taken: false };
        match bind(first.address()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let other = Self::any(usual);
                Ok((bind(other.address())?, other))
            }
            bound => Ok((bound?, first)),
        }
    }

    /// Whether it is any port.
    pub(super) fn is_any(self) -> bool {
        self.is_taken
    }

    /// What to bind.
    pub(super) fn address(&self) -> SocketAddr {
        let port = if self.is_taken { 0 } else { self.usual };
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// The usual port, where it was taken.
    pub(super) fn taken(&self) -> Option<u16> {
        self.is_taken.then_some(self.usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_and_said() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let replaced = Port::or_any(port).unwrap();
        assert_eq!((replaced.address().port(), replaced.taken()), (0, Some(port)));
        drop(held);
        let free = Port::or_any(port).unwrap();
        assert_eq!((free.address().port(), free.taken()), (port, None));
    }
}
