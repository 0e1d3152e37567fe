//! The gRPC door: decode, ask the broker, encode. Owns the wire contract (`proto/`), the table from a failure to a
//! gRPC status, and who is calling. Knows nothing of stores, providers or configuration.
//!
//! Invariant: a request is checked in one order everywhere (decode, who, well-formed, allowed, act), and a failure is
//! logged once, here.

pub mod proto;
pub mod reflection;
pub mod reply;
