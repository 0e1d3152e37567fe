//! Where callers knock: a Unix socket in a directory of its own, or a loopback address. Owns the socket's file from
//! bind to drop. Does not know what is spoken on a connection.
//!
//! Invariant: a socket somebody answers at is never taken away, and at the end only our own file is removed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// `sun_path` holds 108 bytes, the last of them NUL (unix(7)).
const LONGEST_PATH: usize = 107;

/// The mode of a directory that is made for a socket: its group may come in, nobody else.
const DIRECTORY_MODE: u32 = 0o750;

/// How long a connect test waits. A listener whose queue is full for that long is alive, if not well.
const CONNECT_TEST: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket. Its directory is made (0750) if it is missing.
    Unix {
        /// Where; at most 107 bytes.
        path: PathBuf,
        /// Who may connect, as file mode: 0660 lets user and group in.
        mode: u32,
    },
    /// A loopback address; port 0 takes a free one.
    Tcp(SocketAddr),
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Longer than the system can name.
    #[error("the socket path {} has {} bytes; the system allows {LONGEST_PATH}", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    /// Somebody answers there.
    #[error("another process answers at {}; stop it, or choose another path", .0.display())]
    Answered(PathBuf),
    /// Something that is not a socket is in the way, and is left alone.
    #[error("{} exists and is not a socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Everybody could put a socket of their own in the place of ours.
    #[error("everybody may write to the directory {}; choose one of the broker's own", .0.display())]
    OpenDirectory(PathBuf),
    /// Only loopback is served without TLS.
    #[error(
        "{0} is not a loopback address; callers on other addresses need mTLS, which this door does not speak"
    )]
    NotLoopback(SocketAddr),
    /// The system said no.
    #[error("cannot listen at {at}: {source}")]
    System {
        /// The address.
        at: String,
        /// Why.
        source: io::Error,
    },
}

/// A bound address.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener, SocketAddr),
}

/// A connection somebody made.
#[derive(Debug)]
pub(super) enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Listener {
    /// Binds an address, so that connections queue from now on.
    ///
    /// # Errors
    /// [`BindError`], in words for whoever configured the address.
    pub async fn bind(address: &Address) -> Result<Self, BindError> {
        match address {
            Address::Unix { path, mode } => {
                if path.as_os_str().len() > LONGEST_PATH {
                    return Err(BindError::TooLong(path.clone()));
                }
                let in_words =
                    |source| BindError::System { at: format!("unix://{}", path.display()), source };
                prepare_directory(path)?;
                clear_stale(path).await?;
                let listener = UnixListener::bind(path).map_err(in_words)?;
                let file = SocketFile::claim(path).map_err(in_words)?;
                // Until now the umask decided, and the directory keeps strangers out in any case.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode)).map_err(in_words)?;
                Ok(Self(Kind::Unix(listener, file)))
            }
            Address::Tcp(address) => {
                if !address.ip().is_loopback() {
                    return Err(BindError::NotLoopback(*address));
                }
                let in_words = |source| BindError::System { at: format!("tcp://{address}"), source };
                let listener = TcpListener::bind(address).await.map_err(in_words)?;
                let bound = listener.local_addr().map_err(in_words)?;
                Ok(Self(Kind::Tcp(listener, bound)))
            }
        }
    }

    /// The TCP address, with the port that was found where 0 was asked for.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Unix(..) => None,
            Kind::Tcp(_, address) => Some(*address),
        }
    }

    /// The socket's path.
    #[must_use]
    pub fn socket_path(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Unix(_, file) => Some(&file.path),
            Kind::Tcp(..) => None,
        }
    }

    /// The next connection. Cancelling loses none.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.0 {
            Kind::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
            Kind::Tcp(listener, _) => {
                let (stream, peer) = listener.accept().await?;
                // Or Nagle holds a reply back until the peer's delayed acknowledgement: 44 ms.
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream, peer))
            }
        }
    }
}

/// The endpoint as clients name it: `unix:///run/token-broker/broker.sock`, `tcp://127.0.0.1:7450`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Unix(_, file) => write!(f, "unix://{}", file.path.display()),
            Kind::Tcp(_, address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Makes the socket's directory if it is missing, and refuses one that strangers may write to.
fn prepare_directory(socket: &Path) -> Result<(), BindError> {
    let Some(directory) = socket.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    let in_words = |source| BindError::System { at: format!("unix://{}", socket.display()), source };
    std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(in_words)?;
    let mode = std::fs::metadata(directory).map_err(in_words)?.mode();
    if mode & 0o002 != 0 {
        return Err(BindError::OpenDirectory(directory.to_owned()));
    }
    Ok(())
}

/// Removes what a crash left behind. Only a refused connection proves that nobody listens any more.
async fn clear_stale(path: &Path) -> Result<(), BindError> {
    let in_words = |source| BindError::System { at: format!("unix://{}", path.display()), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(in_words(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match tokio::time::timeout(CONNECT_TEST, UnixStream::connect(path)).await {
        Ok(Ok(_)) | Err(_) => Err(BindError::Answered(path.to_owned())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(in_words)
        }
        Ok(Err(error)) => Err(in_words(error)),
    }
}

/// Our socket in the file system; removed when dropped, if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn claim(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    fn is_ours(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have put its own socket there.
        if self.is_ours() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket_in(directory: &tempfile::TempDir, mode: u32) -> Address {
        Address::Unix { path: directory.path().join("run/broker.sock"), mode }
    }

    #[tokio::test]
    async fn a_socket_has_the_mode_asked_for_in_a_directory_closed_to_strangers() {
        let home = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&socket_in(&home, 0o600)).await.unwrap();
        let path = listener.socket_path().unwrap().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o007, 0);
        assert_eq!(listener.to_string(), format!("unix://{}", path.display()));
        drop(listener);
        assert!(!path.exists(), "the file goes with the listener");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let address = socket_in(&home, 0o660);
        let path = home.path().join("run/broker.sock");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        // std does not remove the file, as a crash would not.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = Listener::bind(&address).await.unwrap();
        assert!(matches!(Listener::bind(&address).await, Err(BindError::Answered(at)) if at == path));
        assert!(path.exists());
        drop(live);
    }

    #[tokio::test]
    async fn a_successors_socket_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&socket_in(&home, 0o660)).await.unwrap();
        let path = listener.socket_path().unwrap().to_owned();
        // Kept under another name, so that the successor cannot be given the same inode.
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        let successor = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(successor);
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_never_removed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/broker.sock");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "precious").unwrap();
        let refused = Listener::bind(&socket_in(&home, 0o660)).await;
        assert!(matches!(refused, Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_the_system_cannot_name_and_a_directory_open_to_all_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x".repeat(LONGEST_PATH));
        let refused = Listener::bind(&Address::Unix { path, mode: 0o660 }).await.unwrap_err();
        assert!(refused.to_string().contains("the system allows 107"), "{refused}");

        let open = home.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Listener::bind(&Address::Unix { path: open.join("s"), mode: 0o660 }).await;
        assert!(matches!(refused, Err(BindError::OpenDirectory(_))));
    }

    #[tokio::test]
    async fn only_loopback_is_bound_and_port_0_finds_a_free_one() {
        let refused = Listener::bind(&Address::Tcp("0.0.0.0:0".parse().unwrap())).await;
        assert!(matches!(refused, Err(BindError::NotLoopback(_))));
        let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
        assert_ne!(listener.tcp_address().unwrap().port(), 0);
        let taken = Listener::bind(&Address::Tcp(listener.tcp_address().unwrap())).await.unwrap_err();
        assert!(taken.to_string().starts_with("cannot listen at tcp://127.0.0.1:"), "{taken}");
    }

    #[tokio::test]
    async fn accepted_tcp_connections_do_not_wait_for_nagle() {
        let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let client = TcpStream::connect(listener.tcp_address().unwrap()).await.unwrap();
        let Accepted::Tcp(stream, peer) = listener.accept().await.unwrap() else { panic!("not TCP") };
        assert!(stream.nodelay().unwrap());
        assert_eq!(peer, client.local_addr().unwrap());
    }
}
