//! What a call at the API may cost: times, sizes, and how often. An operator's choice, as in [`super::restraint`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lifecycle::Window;
use super::restraint::{Breaker, BreakerFigures};
use super::span::Span;

/// What a call at the API may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CallLimits {
    /// How long a unary call may take in all, with its waits and repetitions. A caller's shorter deadline goes before it.
    pub timeout: Span,
    /// How long a streamed call may take in all, its waits included; as long as it takes, if nothing is said. A caller's
    /// shorter deadline goes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_timeout: Option<Span>,
    /// How long the caller of a streamed call may take nothing of what has come, or send nothing of what is to follow.
    pub stall_timeout: Span,
    /// From the moment a call is sent, connecting included, or from the last byte of its body, to the head of its answer.
    pub head_timeout: Span,
    /// Between two pieces of an answer.
    pub idle_timeout: Span,
    /// Bytes a second that an answer brings at least, over half a minute of waiting.
    pub min_bytes_per_second: u64,
    /// Bytes of a request's body at most.
    pub max_request_bytes: u64,
    /// Bytes of an answer's body at most.
    pub max_response_bytes: u64,
    /// Bytes of an answer's body at most once it is decompressed, where a caller asks for that.
    pub max_decompressed_bytes: u64,
    /// How many bytes may come of one byte of a compressed answer, once there is a mebibyte of them.
    pub max_decompression_ratio: u32,
    /// Calls under way at a time, for each connection. Further ones wait for their turn.
    pub max_parallel: u32,
    /// Requests within any span of that length, for each connection: calls, repetitions, and redirects that are followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Window>,
    /// When a host of the API is left alone after failures, each by itself; apart from the token endpoint's, so that an API
    /// that is down stops no refresh.
    pub breaker: Breaker,
    /// How often a call is tried that fails and may be repeated: `network` (3 attempts, from 200 ms), `aggressive` (5,
    /// from 100 ms), `conservative` (2, from 1 s).
    pub retry: RetryPreset,
}

/// How much is remembered of answers to GET, all connections together, in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerCache {
    /// Answers at most.
    pub max_entries: u32,
    /// Bytes at most: bodies, fields and addresses. The answers used longest ago go first.
    pub max_bytes: u64,
    /// Bytes of one body at most; a larger one is not kept.
    pub max_body_bytes: u64,
}

impl Default for AnswerCache {
    fn default() -> Self {
        Self { max_entries: 1000, max_bytes: 16 * 1024 * 1024, max_body_bytes: 1024 * 1024 }
    }
}

/// How often a call is tried, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryPreset {
    /// 3 attempts, the first pause up to 200 ms.
    #[default]
    Network,
    /// 5 attempts, the first pause up to 100 ms.
    Aggressive,
    /// 2 attempts, the pause up to 1 s.
    Conservative,
}

impl RetryPreset {
    /// Attempts in all.
    pub const fn attempts(self) -> u32 {
        match self {
            Self::Network => 3,
            Self::Aggressive => 5,
            Self::Conservative => 2,
        }
    }

    /// The longest first pause.
    pub const fn pause(self) -> Span {
        match self {
            Self::Network => Span::from_millis(200),
            Self::Aggressive => Span::from_millis(100),
            Self::Conservative => Span::from_secs(1),
        }
    }
}

const GIBIBYTE: u64 = 1024 * 1024 * 1024;

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            timeout: Span::from_secs(60),
            stream_timeout: None,
            stall_timeout: Span::from_secs(300),
            head_timeout: Span::from_secs(10),
            idle_timeout: Span::from_secs(30),
            min_bytes_per_second: 64,
            max_request_bytes: 16 * GIBIBYTE,
            max_response_bytes: 16 * GIBIBYTE,
            max_decompressed_bytes: GIBIBYTE,
            max_decompression_ratio: 100,
            max_parallel: 64,
            budget: None,
            breaker: Breaker::Own(BreakerFigures { failures: 10, open: Span::from_secs(30), successes: 1 }),
            retry: RetryPreset::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_presets_name_stands_for_so_many_attempts_and_so_long_a_pause() {
        for (name, attempts, pause) in
            [("network", 3, 200), ("aggressive", 5, 100), ("conservative", 2, 1000)]
        {
            let preset: RetryPreset = serde_json::from_value(name.into()).unwrap();
            assert_eq!((preset.attempts(), preset.pause()), (attempts, Span::from_millis(pause)), "{name}");
        }
    }
}
