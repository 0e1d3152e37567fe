//! The HTTP doors. Owns the public door, where browsers come back from consent, and the ops door, where kubelet and a
//! metrics scraper ask. Does not know stores, providers or gRPC. Invariants: a door closes by its own deadline, whatever
//! its peers do; nothing a request carried is ever echoed unescaped, logged or put into a URL; the only other place a
//! browser is ever sent to is the return URL that the broker answers.

mod door;
mod host;
mod ops;
mod public;
mod pulse;

pub use ops::{Ops, serve_ops};
pub use public::{Public, serve_public};
pub use pulse::Pulse;
