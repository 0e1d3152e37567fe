//! How the broker holds itself back at a provider: the circuit breaker and the budget of its token endpoint.
//!
//! Facts about the provider stand elsewhere; these are an operator's choice, and the catalogue mostly leaves them alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lifecycle::Window;
use super::span::Span;

/// When the token endpoint is left alone after failures: a preset by name, or figures of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Breaker {
    /// Figures by name.
    Preset(Preset),
    /// Figures of one's own; what is missing is as in `standard`.
    Own(BreakerFigures),
}

/// Figures by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// 5 failures in a row, 60 s of rest.
    #[default]
    Standard,
    /// 3 failures in a row, 30 s of rest.
    Aggressive,
    /// 10 failures in a row, 120 s of rest.
    Tolerant,
}

/// When a breaker opens, how long it rests, and when it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerFigures {
    /// How many failures in a row open it.
    pub failures: u32,
    /// How long nothing is sent once it is open. After that one request at a time is let through to try.
    pub open: Span,
    /// How many of those must succeed, one after the other, before everything flows again.
    pub successes: u32,
}

impl BreakerFigures {
    const STANDARD: Self = Self { failures: 5, open: Span::from_secs(60), successes: 3 };
}

impl Default for BreakerFigures {
    fn default() -> Self {
        Self::STANDARD
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Preset(Preset::default())
    }
}

impl Breaker {
    /// The figures meant.
    pub fn figures(&self) -> BreakerFigures {
        match self {
            Self::Preset(Preset::Standard) => BreakerFigures::STANDARD,
            Self::Preset(Preset::Aggressive) => {
                BreakerFigures { failures: 3, open: Span::from_secs(30), ..BreakerFigures::STANDARD }
            }
            Self::Preset(Preset::Tolerant) => {
                BreakerFigures { failures: 10, open: Span::from_secs(120), ..BreakerFigures::STANDARD }
            }
            Self::Own(figures) => *figures,
        }
    }
}

/// The budget of a token endpoint about which nothing is known: far above what tokens of an hour's life need for a
/// hundred thousand connections, and far below what any provider calls abuse.
pub const DEFAULT_BUDGET: Window = Window { count: 50, per: Span::from_secs(1) };
