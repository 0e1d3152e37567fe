//! Which host a request may be for.

use std::net::SocketAddr;

use axum::http::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use url::Url;

/// The names under which the public door answers: the public URL's host, and the loopback names where it is bound to
/// loopback. Anything else is a rebound DNS name or a proxy that mixes up its backends.
#[derive(Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
    ports: Vec<u16>,
}

/// What is wrong with a request's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrongHost {
    /// None, several, or not a host at all (RFC 9112 section 3.2: 400).
    Unclear,
    /// One that is not ours (RFC 9110 section 15.5.20: 421).
    Foreign,
}

impl Hosts {
    pub(super) fn new(public_url: &Url, bound: Option<SocketAddr>) -> Self {
        let mut hosts = Self {
            names: public_url.host_str().map(str::to_ascii_lowercase).into_iter().collect(),
            ports: public_url.port_or_known_default().into_iter().collect(),
        };
        if let Some(bound) = bound {
            hosts.ports.push(bound.port());
            if bound.ip().is_loopback() {
                hosts.names.extend(["127.0.0.1", "[::1]", "localhost"].map(str::to_owned));
            }
        }
        hosts
    }

    /// Checks the one `Host` header, and the target's authority where the request line carries a whole URL.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), WrongHost> {
        let mut named = request.headers().get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else { return Err(WrongHost::Unclear) };
        let host: Authority =
            host.to_str().ok().and_then(|host| host.parse().ok()).ok_or(WrongHost::Unclear)?;
        self.accept(&host)?;
        request.uri().authority().map_or(Ok(()), |authority| self.accept(authority))
    }

    fn accept(&self, authority: &Authority) -> Result<(), WrongHost> {
        // `user@host` and `host:` parse as authorities; neither is a Host.
        let name = authority.host();
        let port = match authority.as_str().strip_prefix(name) {
            Some("") => None,
            Some(_) => Some(authority.port_u16().ok_or(WrongHost::Unclear)?),
            None => return Err(WrongHost::Unclear),
        };
        let is_ours = self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
            && port.is_none_or(|port| self.ports.contains(&port));
        if is_ours { Ok(()) } else { Err(WrongHost::Foreign) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bound: &str, target: &str, hosts: &[&str]) -> Result<(), WrongHost> {
        let public = Url::parse("https://Broker.example.com/oauth/").unwrap();
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        Hosts::new(&public, Some(bound.parse().unwrap())).check(&request.body(()).unwrap())
    }

    #[test]
    fn the_public_name_is_accepted_with_the_ports_it_can_have() {
        for host in
            ["broker.example.com", "BROKER.example.com", "broker.example.com:443", "broker.example.com:7451"]
        {
            assert_eq!(check("0.0.0.0:7451", "/callback/google", &[host]), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_foreign_host_is_refused() {
        for host in [
            "evil.example",
            "broker.example.com.evil.example",
            "broker.example.com.",
            "broker.example.com:8080",
            "localhost",
            "127.0.0.1:7451",
        ] {
            assert_eq!(check("0.0.0.0:7451", "/", &[host]), Err(WrongHost::Foreign), "{host}");
        }
        let absolute = check("0.0.0.0:7451", "http://evil.example/", &["broker.example.com"]);
        assert_eq!(absolute, Err(WrongHost::Foreign));
    }

    #[test]
    fn loopback_names_are_ours_only_where_the_door_is_bound_to_loopback() {
        for host in ["localhost:7451", "127.0.0.1:7451", "[::1]:7451"] {
            assert_eq!(check("127.0.0.1:7451", "/", &[host]), Ok(()), "{host}");
            assert_eq!(check("10.0.0.7:7451", "/", &[host]), Err(WrongHost::Foreign), "{host}");
        }
        assert_eq!(check("127.0.0.1:7451", "/", &["localhost:80"]), Err(WrongHost::Foreign));
    }

    #[test]
    fn a_host_that_is_none_or_many_is_unclear() {
        let unclear: [&[&str]; 6] = [
            &[],
            &[""],
            &["broker.example.com", "broker.example.com"],
            &["evil@broker.example.com"],
            &["broker.example.com:"],
            &["broker.example.com/x"],
        ];
        for hosts in unclear {
            assert_eq!(check("0.0.0.0:7451", "/", hosts), Err(WrongHost::Unclear), "{hosts:?}");
        }
    }
}
