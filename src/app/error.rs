//! Why a broker cannot start: what, why, and what to do next, as the command line prints them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::grpc::BindError;
use crate::provider::http::TlsError;
use crate::store::guard::OpenError;
use crate::store::keyring::KeyFileError;

/// Why a broker cannot start. Nothing was changed, and nothing stays bound.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The apps' door.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The browsers' or the operators' door.
    #[error("cannot listen at {address} ({key})")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// What it says.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates that are to be trusted.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What an earlier run left in the second place.
    #[error("the tokens in {} cannot be taken up", .path.display())]
    SecondPlace {
        /// What the configuration says.
        path: PathBuf,
        /// What stands in the way.
        why: String,
    },
    /// A door could not be served.
    #[error("cannot serve: {0}")]
    Serve(String),
}
