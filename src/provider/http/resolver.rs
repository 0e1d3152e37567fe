//! Names to addresses, checked: what the HTTP client connects to is what was looked at.
//!
//! Owns the lookup and what becomes of a forbidden address. The client asks for each new connection and connects to the
//! very addresses that it is given, so a name that changes its mind between a check and a connection gains nothing.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::error::{Refusal, Rule};
use crate::provider::address::AddressPolicy;

/// Where names are looked up.
pub trait Lookup: std::fmt::Debug + Send + Sync {
    /// Every address of a host.
    fn addresses(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn addresses(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// A resolver that yields only addresses which its provider's entry lets be called.
#[derive(Clone)]
pub struct GuardedResolver {
    policy: AddressPolicy,
    lookup: Arc<dyn Lookup>,
}

impl GuardedResolver {
    /// A resolver for the client of one provider.
    pub fn new(policy: AddressPolicy, lookup: Arc<dyn Lookup>) -> Self {
        Self { policy, lookup }
    }

    /// The addresses of a host that may be called. Those that may not are left out: where IPv6 is translated, a public
    /// name has such an address beside its own.
    ///
    /// # Errors
    /// The lookup fails, or none of the addresses may be called.
    pub async fn checked(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let found = self.lookup.addresses(host.to_owned()).await.map_err(ResolveError::Lookup)?;
        let mut class = None;
        let mut checked = Vec::new();
        for address in found {
            match self.policy.check_resolved(host, address) {
                Ok(()) => checked.push(address),
                Err(refused) => class = Some(refused),
            }
        }
        match class {
            Some(class) if checked.is_empty() => Err(ResolveError::Refused(Refusal::new(
                Rule::Address,
                format!(
                    "{host} resolves to {class}; where it is meant, write its network into the provider's api.allow_networks"
                ),
            ))),
            _ => Ok(checked),
        }
    }
}

/// Why a host has no address to connect to.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It cannot be looked up.
    #[error("the name cannot be resolved")]
    Lookup(#[source] io::Error),
    /// It is none that may be called.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let checked = resolver.checked(name.as_str()).await?;
            let addresses: Addrs = Box::new(checked.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// The refusal among the causes of a failed request.
pub fn refusal_in<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e Refusal> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(ResolveError::Refused(refusal)) = cause.downcast_ref::<ResolveError>() {
            return Some(refusal);
        }
        // `io::Error` hides the error it carries from `source`.
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => cause.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each question with the next of its lists, and with the last from then on.
    #[derive(Debug)]
    struct Answers(std::sync::Mutex<Vec<Vec<&'static str>>>);

    impl Lookup for Answers {
        fn addresses(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
            let mut lists = self.0.lock().unwrap();
            let list = if lists.len() > 1 { lists.remove(0) } else { lists[0].clone() };
            Box::pin(async move { Ok(list.into_iter().map(|text| text.parse().unwrap()).collect()) })
        }
    }

    fn resolver(lists: &[&[&'static str]]) -> GuardedResolver {
        let lists = lists.iter().map(|list| list.to_vec()).collect();
        GuardedResolver::new(AddressPolicy::default(), Arc::new(Answers(std::sync::Mutex::new(lists))))
    }

    #[tokio::test]
    async fn only_checked_addresses_are_connected_to() {
        let mixed = resolver(&[&["10.0.0.1", "8.8.8.8", "::1", "64:ff9b::8.8.8.8"]]);
        let addresses = mixed.resolve("api.acme.example".parse().unwrap()).await.unwrap();
        assert_eq!(addresses.collect::<Vec<_>>(), [SocketAddr::from(([8, 8, 8, 8], 0))]);
    }

    #[tokio::test]
    async fn a_name_that_changes_its_mind_is_refused_at_the_next_connection() {
        let rebound = resolver(&[&["8.8.8.8"], &["127.0.0.1"]]);
        assert!(rebound.resolve("api.acme.example".parse().unwrap()).await.is_ok());
        let Err(error) = rebound.resolve("api.acme.example".parse().unwrap()).await else {
            panic!("a loopback address was handed out")
        };
        let refusal = refusal_in(&*error).unwrap();
        assert_eq!(refusal.rule(), Rule::Address);
        let sentence = refusal.to_string();
        assert!(sentence.starts_with("api.acme.example resolves to a loopback address"), "{sentence}");
    }

    #[tokio::test]
    async fn the_refusal_is_found_however_deep_it_is_wrapped() {
        let error = resolver(&[&["10.0.0.1"]]).checked("a").await.unwrap_err();
        let wrapped = io::Error::other(io::Error::other(error));
        assert_eq!(refusal_in(&wrapped).map(Refusal::rule), Some(Rule::Address));
        assert!(refusal_in(&io::Error::other("else")).is_none());
    }
}
