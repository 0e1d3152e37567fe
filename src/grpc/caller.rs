//! Who calls, and by what way. Owns the identity of a connection, settled once when it is accepted, and the rules that
//! a request must keep to be a gRPC client's on this machine and nobody else's: not a browser's, not one that a proxy
//! or a fooled server passes on, not one that came by a name somebody else controls (DNS rebinding).
//!
//! Invariant: where the system does not say who calls, nobody does.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use http::header::{CONTENT_TYPE, HeaderName};
use http::request::Parts;
use tokio::net::UnixStream;

use crate::error::Error;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process on this machine, as the kernel knew it when it connected (`SO_PEERCRED`).
    Process {
        /// Its effective user.
        uid: u32,
        /// Its effective group.
        gid: u32,
    },
    /// Somebody on the loopback interface: whoever shares our network namespace.
    Loopback,
}

impl Caller {
    /// Who connected to the socket.
    pub(super) fn of_unix(stream: &UnixStream) -> Result<Self, Error> {
        match stream.peer_cred() {
            Ok(credentials) => Ok(Self::Process { uid: credentials.uid(), gid: credentials.gid() }),
            Err(_) => Err(Error::CallerUnknown("the system does not say who connected")),
        }
    }

    /// Who connected by TCP.
    pub(super) fn of_tcp(peer: SocketAddr) -> Result<Self, Error> {
        match peer.ip().to_canonical().is_loopback() {
            true => Ok(Self::Loopback),
            false => Err(Error::CallerUnknown("the connection does not come from this machine")),
        }
    }
}

/// As in the field `caller` of logs: `uid:1000`, `loopback`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, .. } => write!(f, "uid:{uid}"),
            Self::Loopback => f.write_str("loopback"),
        }
    }
}

/// The names under which a door may be called (`:authority`, RFC 9113 section 8.3.1). The port does not matter: what a
/// rebinding attacker cannot choose is the host.
#[derive(Clone, Debug)]
pub(super) struct Names(Vec<String>);

impl Names {
    /// What every client on this machine may say.
    const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

    /// The names of a TCP door: loopback's and the configured ones.
    pub(super) fn of_tcp(configured: &[String]) -> Self {
        Self(Self::LOOPBACK.into_iter().map(str::to_owned).chain(configured.iter().cloned()).collect())
    }

    /// The names of a socket: the same, what tonic says where there is no host (in its client and in its examples), and
    /// the path as gRPC-core sends it, percent-encoded.
    pub(super) fn of_unix(path: &Path, configured: &[String]) -> Self {
        let mut names = Self::of_tcp(configured);
        names.0.extend(["tonic".to_owned(), "[::]".to_owned()]);
        let path = path.to_string_lossy();
        for path in [&*path, path.trim_start_matches('/')] {
            names.0.push(
                percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC).to_string(),
            );
            names.0.push(path.replace('/', "%2F"));
        }
        names
    }

    fn contain(&self, host: &str) -> bool {
        self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// Checks the way a request came. Costs a look at each header and no allocation.
pub(super) fn check(request: &Parts, names: &Names) -> Result<(), Error> {
    for name in request.headers.keys() {
        if let Some(why) = forbidden(name) {
            return Err(Error::CallerUnknown(why));
        }
    }
    let is_grpc = request.headers.get(CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()));
    if !is_grpc {
        return Err(Error::invalid("content-type", "must be application/grpc: this door speaks gRPC only"));
    }
    // A name with user information in front is not a name anybody here gave out.
    let authority = request.uri.authority().filter(|authority| !authority.as_str().contains('@'));
    if !authority.is_some_and(|authority| names.contain(authority.host())) {
        return Err(Error::CallerUnknown(
            "the request is addressed (:authority) to a name that is not this door's; use localhost",
        ));
    }
    Ok(())
}

/// Why a request with this header is refused, if it is. gRPC clients send none of these; browsers, and whoever passes
/// on somebody else's request, do.
fn forbidden(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "origin" | "referer" | "cookie" => Some("the request comes from a browser"),
        "forwarded" => Some("the request is passed on for somebody else (forwarded)"),
        name if name.starts_with("x-forwarded-") => {
            Some("the request is passed on for somebody else (x-forwarded-*)")
        }
        name if name.starts_with("sec-fetch-") => Some("the request comes from a browser"),
        _ => None,
    }
}

/// `application/grpc`, or with `+format` or `;parameters` (PROTOCOL-HTTP2 of gRPC). Not gRPC-web.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    fn request(authority: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::post(format!("http://{authority}/a.B/C"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn a_grpc_client_on_this_machine_is_let_in() {
        let names = Names::of_tcp(&["broker.shop".to_owned()]);
        for authority in ["localhost", "LocalHost:7450", "127.0.0.1:7450", "[::1]:7450", "broker.shop:1"] {
            assert_eq!(
                check(&request(authority, &[GRPC, ("te", "trailers")]), &names),
                Ok(()),
                "{authority}"
            );
        }
        for content_type in ["application/grpc+proto", "application/grpc;charset=x"] {
            assert_eq!(check(&request("localhost", &[("content-type", content_type)]), &names), Ok(()));
        }
    }

    #[test]
    fn a_request_to_another_name_is_refused() {
        let names = Names::of_tcp(&[]);
        for authority in
            ["evil.example:7450", "localhost.evil.example", "localhost@evil.example", "[::]", "x@localhost"]
        {
            let refused = check(&request(authority, &[GRPC]), &names).unwrap_err();
            assert_eq!(refused.reason(), Reason::CallerUnknown, "{authority}");
        }
        let no_authority =
            http::Request::post("/a.B/C").header(GRPC.0, GRPC.1).body(()).unwrap().into_parts().0;
        assert_eq!(check(&no_authority, &names).unwrap_err().reason(), Reason::CallerUnknown);
    }

    #[test]
    fn browsers_and_forwarders_are_refused() {
        let names = Names::of_tcp(&[]);
        for header in [
            "X-Forwarded-For",
            "x-forwarded-host",
            "forwarded",
            "origin",
            "referer",
            "cookie",
            "sec-fetch-site",
        ] {
            let refused = check(&request("localhost", &[GRPC, (header, "x")]), &names).unwrap_err();
            assert_eq!(refused.reason(), Reason::CallerUnknown, "{header}");
        }
    }

    #[test]
    fn what_is_not_grpc_is_refused() {
        let names = Names::of_tcp(&[]);
        for content_type in ["application/grpc-web", "application/grpc-web+proto", "application/json", ""] {
            let refused =
                check(&request("localhost", &[("content-type", content_type)]), &names).unwrap_err();
            assert_eq!(refused.reason(), Reason::InvalidRequest, "{content_type}");
        }
        assert!(check(&request("localhost", &[]), &names).is_err());
    }

    #[test]
    fn a_socket_may_be_called_by_its_path() {
        let names = Names::of_unix(Path::new("/run/token-broker/broker.sock"), &[]);
        for authority in [
            "%2Frun%2Ftoken-broker%2Fbroker.sock",
            "run%2Ftoken-broker%2Fbroker.sock",
            "tonic",
            "[::]:50051",
            "localhost",
        ] {
            assert!(names.contain(authority.trim_end_matches(":50051")), "{authority}");
        }
        assert!(!names.contain("%2Frun%2Fother.sock"));
    }

    #[tokio::test]
    async fn the_kernel_says_who_connected_to_a_socket() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of_unix(&ours).unwrap();
        assert_eq!(caller.to_string(), format!("uid:{}", rustix::process::geteuid().as_raw()));
    }

    #[test]
    fn a_peer_that_is_not_on_loopback_is_nobody() {
        assert_eq!(Caller::of_tcp("127.0.0.1:5".parse().unwrap()), Ok(Caller::Loopback));
        assert_eq!(Caller::of_tcp("[::ffff:127.0.0.1]:5".parse().unwrap()), Ok(Caller::Loopback));
        assert!(Caller::of_tcp("10.0.0.7:5".parse().unwrap()).is_err());
    }
}
