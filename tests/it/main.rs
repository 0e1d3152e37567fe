//! The integration tests: one binary, a module a flow.

#[cfg(test)]
mod access_token;
#[cfg(test)]
mod ahead;
#[cfg(test)]
mod call;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod config;
#[cfg(test)]
mod connect;
#[cfg(test)]
mod disabled;
#[cfg(test)]
mod exploration;
#[cfg(test)]
mod failpoint;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod proto;
#[cfg(test)]
mod provider;
#[cfg(test)]
mod put_back;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod refresh;
#[cfg(test)]
mod reuse;
#[cfg(test)]
mod rooms;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod secrecy;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod ssrf;
#[cfg(test)]
mod store;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod web;
#[cfg(test)]
mod whole;
