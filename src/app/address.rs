//! Where a broker listens, in words that clients take.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;

use crate::grpc::{Door, Offer};
use crate::readiness::Readiness;

/// Where a broker listens; `None` for a door that is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The apps' Unix socket.
    pub grpc_socket: Option<PathBuf>,
    /// The apps' loopback address.
    pub grpc_tcp: Option<SocketAddr>,
    /// The browsers' address.
    pub public: Option<SocketAddr>,
    /// The operators' address.
    pub ops: Option<SocketAddr>,
}

impl Addresses {
    pub(super) fn of(grpc: &[Door], public: Option<&TcpListener>, ops: Option<&TcpListener>) -> Self {
        let apps = || grpc.iter().filter(|door| door.offer == Offer::Apps);
        let address = |listener: &TcpListener| listener.local_addr().ok();
        Self {
            grpc_socket: apps().find_map(|door| door.listener.socket_path()).map(ToOwned::to_owned),
            grpc_tcp: apps().find_map(|door| door.listener.tcp_address()),
            public: public.and_then(address),
            ops: ops.and_then(address),
        }
    }

    /// What a client puts into `TOKEN_BROKER_ENDPOINT`: the socket, else the loopback address.
    pub fn endpoint(&self) -> Option<String> {
        let socket = self.grpc_socket.as_ref().map(|path| format!("unix://{}", path.display()));
        socket.or_else(|| self.grpc_tcp.map(|address| format!("tcp://{address}")))
    }

    /// Says once, in one log line, where everything is, as soon as the last readiness guard has dropped.
    pub(super) fn announce_when(&self, readiness: Readiness) {
        let addresses = self.clone();
        tokio::spawn(async move {
            if readiness.subscribe().wait_for(|is_ready| *is_ready).await.is_err() {
                return;
            }
            let http = |address: Option<SocketAddr>| address.map(|address| format!("http://{address}"));
            tracing::info!(
                grpc = addresses.grpc_socket.as_ref().map(|path| format!("unix://{}", path.display())),
                grpc_tcp = addresses.grpc_tcp.map(|address| address.to_string()),
                public = http(addresses.public),
                ops = http(addresses.ops),
                "serving"
            );
        });
    }
}
