//! `refresh`: what is done before anybody has to wait for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::Found;
use crate::provider::spec::span::Span;

/// What is done before anybody has to wait for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Refresh {
    /// Whether tokens are refreshed before they expire. Without it each is refreshed when a caller needs it.
    pub ahead: bool,
    /// A connection that no caller has asked for in so long is only kept alive: it is refreshed just often enough that
    /// its refresh token does not die.
    pub idle_after: Span,
    /// How long before a grant ends for good its end is announced, in the log, a metric and to who watches connections.
    pub warn_before: Span,
}

impl Default for Refresh {
    fn default() -> Self {
        const DAY: u64 = 86_400;
        Self { ahead: true, idle_after: Span::from_secs(30 * DAY), warn_before: Span::from_secs(7 * DAY) }
    }
}

impl Refresh {
    pub(super) fn check(&self, found: &mut Found) {
        if self.idle_after.is_zero() {
            found.mistake(
                "refresh.idle_after",
                "0s makes every connection an idle one; say ahead: false if you mean it",
            );
        }
    }
}
