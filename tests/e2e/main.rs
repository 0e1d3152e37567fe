//! The real binary against real peers: somebody else's authorization server, grpcurl, clients in other languages.
//!
//! Run by `tests/run.sh`, which installs the peers and says where they are; plain `cargo test` leaves it out.

#[cfg(test)]
mod binary;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod browser;
#[cfg(test)]
mod call;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod grpcurl;
#[cfg(test)]
mod oidc;
#[cfg(test)]
mod process;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod survival;
