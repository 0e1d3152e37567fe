//! Where the broker is: the URI of its gRPC door, and where to look when nobody says.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::console::Environment;
use super::pointer;

/// The environment variable that names the broker, the same one that apps use.
pub(crate) const VARIABLE: &str = "TOKEN_BROKER_ENDPOINT";
/// Where a broker that runs as a system service listens.
pub(crate) const SYSTEM_SOCKET: &str = "/run/token-broker/broker.sock";
/// Where a broker listens on TCP unless told otherwise.
pub(crate) const DEFAULT_TCP: &str = "127.0.0.1:7450";

/// A broker's gRPC door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A Unix socket: `unix:///run/token-broker/broker.sock`.
    Unix(PathBuf),
    /// A loopback address: `tcp://127.0.0.1:7450`.
    Tcp(String),
}

impl FromStr for Endpoint {
    type Err = String;

    /// Only loopback over TCP: tokens travel in the clear there, and must not leave the machine.
    fn from_str(raw: &str) -> Result<Self, String> {
        const RULE: &str = "write unix:///absolute/path or tcp://127.0.0.1:PORT";
        if let Some(path) = raw.strip_prefix("unix://").or_else(|| raw.strip_prefix("unix:")) {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(RULE.to_owned());
            }
            return Ok(Self::Unix(path.into()));
        }
        let Some(authority) = raw.strip_prefix("tcp://") else { return Err(RULE.to_owned()) };
        let Some((host, port)) = authority.rsplit_once(':') else { return Err(RULE.to_owned()) };
        if port.parse::<u16>().is_err() {
            return Err(RULE.to_owned());
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        if host != "localhost" && !address.is_ok_and(|ip| ip.is_loopback()) {
            return Err(
                "tcp:// is for loopback addresses: elsewhere tokens would travel in the clear".to_owned()
            );
        }
        Ok(Self::Tcp(authority.to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

/// Where to look for the broker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Search {
    /// Places in order of preference; never empty.
    pub(crate) places: Vec<Endpoint>,
    /// Whether somebody named the place: then no other one will do.
    pub(crate) is_named: bool,
}

impl Search {
    /// `flag` > [`VARIABLE`] > a running `dev` broker > the system socket > [`DEFAULT_TCP`]. The error is a sentence
    /// for whoever set the variable.
    pub(crate) fn new(flag: Option<&Endpoint>, environment: &Environment) -> Result<Self, String> {
        if let Some(endpoint) = flag {
            return Ok(Self { places: vec![endpoint.clone()], is_named: true });
        }
        if let Some(raw) = environment.get(VARIABLE).filter(|raw| !raw.is_empty()) {
            let endpoint = raw.parse().map_err(|rule| format!("{VARIABLE}={raw}: {rule}"))?;
            return Ok(Self { places: vec![endpoint], is_named: true });
        }
        let socket = Path::new(SYSTEM_SOCKET);
        let mut places: Vec<Endpoint> = pointer::find(environment).into_iter().collect();
        places.extend(socket.exists().then(|| Endpoint::Unix(socket.to_owned())));
        places.push(Endpoint::Tcp(DEFAULT_TCP.to_owned()));
        Ok(Self { places, is_named: false })
    }
}

/// Whether a command that names no place looks first at one of `own`, both in a shell like this one and in one with
/// nothing exported.
pub(crate) fn finds_first(own: &[&Endpoint], environment: &Environment) -> bool {
    [environment, &Environment::default()].into_iter().all(|environment| {
        let first = Search::new(None, environment).ok().and_then(|search| search.places.into_iter().next());
        first.is_some_and(|first| own.contains(&&first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pointer::Pointer;

    #[test]
    fn a_broker_that_only_this_environment_leads_to_is_not_found_by_every_shell() {
        let runtime = tempfile::tempdir().unwrap();
        let set = Environment::of([("XDG_RUNTIME_DIR", runtime.path().to_str().unwrap())]);
        let own = Endpoint::Tcp("127.0.0.1:1".into());
        let dir = pointer::runtime_dir(&set).unwrap();
        let _pointer = Pointer::place(&dir, &own).unwrap().unwrap();
        assert_eq!(Search::new(None, &set).unwrap().places[0], own);
        assert!(!finds_first(&[&own], &set));
        // Where a shell with nothing exported looks first is the machine's affair, but it finds it there.
        let bare = Environment::default();
        let first = Search::new(None, &bare).unwrap().places.remove(0);
        assert!(finds_first(&[&own, &first], &bare) && finds_first(&[&own, &first], &set));
        // An exported endpoint leads elsewhere.
        assert!(!finds_first(&[&first], &Environment::of([(VARIABLE, "tcp://127.0.0.1:2")])));
    }

    #[test]
    fn the_two_forms_of_an_endpoint_are_read_and_written_back() {
        for raw in ["unix:///run/token-broker/broker.sock", "tcp://127.0.0.1:7450", "tcp://[::1]:7450"] {
            assert_eq!(raw.parse::<Endpoint>().unwrap().to_string(), raw);
        }
        assert_eq!("unix:/run/x".parse(), Ok(Endpoint::Unix("/run/x".into())));
        assert!("tcp://localhost:1".parse::<Endpoint>().is_ok());
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for raw in
            ["", "127.0.0.1:7450", "unix://run/x", "http://127.0.0.1:1", "tcp://127.0.0.1", "tcp://::1:x"]
        {
            assert!(raw.parse::<Endpoint>().unwrap_err().starts_with("write "), "{raw}");
        }
        assert!("tcp://10.0.0.1:7450".parse::<Endpoint>().unwrap_err().contains("loopback"));
        assert!("tcp://broker.example:7450".parse::<Endpoint>().is_err());
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_the_environment_over_the_search() {
        let flag = Endpoint::Tcp("127.0.0.1:1".into());
        let set = Environment::of([(VARIABLE, "tcp://127.0.0.1:2")]);
        assert_eq!(Search::new(Some(&flag), &set).unwrap().places, [flag]);
        let search = Search::new(None, &set).unwrap();
        assert_eq!((search.places, search.is_named), (vec![Endpoint::Tcp("127.0.0.1:2".into())], true));
        let wrong = Environment::of([(VARIABLE, "somewhere")]);
        assert!(
            Search::new(None, &wrong).unwrap_err().starts_with("TOKEN_BROKER_ENDPOINT=somewhere: write ")
        );
    }
}
