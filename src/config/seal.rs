//! `seal`: the key under which records are sealed.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The key under which records are sealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Seal {
    /// The key file, readable by the broker alone (0400). `token-broker keys generate` makes one.
    #[schemars(with = "String", extend("format" = "path"))]
    pub key_file: PathBuf,
}

impl Default for Seal {
    fn default() -> Self {
        Self { key_file: PathBuf::from("/etc/token-broker/seal.key") }
    }
}
