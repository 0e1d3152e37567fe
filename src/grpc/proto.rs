//! The generated messages, servers and clients of `proto/tokenbroker`. Owns nothing by hand: `build.rs` writes all of
//! it, also the `Debug` of every message with a `debug_redact` field.
//!
//! Invariant: no message prints a field that the contract marks as secret.

use std::fmt;

/// Package `tokenbroker.v1`: what apps use.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "written by tonic-prost-build"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/tokenbroker.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/redacted.v1.rs"));
}

/// Package `tokenbroker.admin.v1`: what operators use, on its own socket.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "written by tonic-prost-build"
)]
pub mod admin_v1 {
    include!(concat!(env!("OUT_DIR"), "/tokenbroker.admin.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/redacted.admin.v1.rs"));
}

/// The contract of the apps' doors with its imports and comments, an encoded `google.protobuf.FileDescriptorSet`.
pub const FOR_APPS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/apps.bin"));

/// The same of the operators' door.
pub const FOR_OPERATORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/operators.bin"));

/// Stands for a secret field in a `Debug`.
struct Redacted {
    is_set: bool,
}

impl Redacted {
    fn new(is_set: bool) -> Self {
        Self { is_set }
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set { "Secret(…)" } else { "(empty)" })
    }
}
