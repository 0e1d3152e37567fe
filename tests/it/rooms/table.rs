//! Who may import whom, as data.

/// The core: everybody may name it, and it names nobody but itself. (`failpoint` is empty in a default build.)
pub(super) const CORE: &[&str] = &["clock", "connection", "entropy", "error", "failpoint", "secret"];

/// Modules of `provider` and `store` that are traits or plain data; every other one is an implementation.
pub(super) const PLAIN: &[&str] = &[
    "provider::address",
    "provider::call",
    "provider::catalogue",
    "provider::field",
    "provider::health",
    "provider::spec",
    "provider::target",
    "provider::throttle",
    "provider::trust",
    "provider::url",
];

/// What one room may name besides itself and the core.
pub(super) struct Rule {
    /// A top-level module; `provider::*` and `store::*` are the implementations behind the traits.
    pub(super) room: &'static str,
    /// Rooms, or single modules or types of one.
    pub(super) may: &'static [&'static str],
    pub(super) crates: Crates,
}

pub(super) enum Crates {
    /// These and the standard library.
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

/// Data, encodings, digests: nothing that waits, listens or writes.
const PURE: Crates =
    Crates::Only(&["base64", "jiff", "serde", "sha2", "subtle", "thiserror", "url", "zeroize"]);

pub(super) const RULES: &[Rule] = &[
    Rule { room: "clock", may: &[], crates: PURE },
    Rule { room: "connection", may: &[], crates: PURE },
    Rule { room: "entropy", may: &[], crates: Crates::Only(&["base64", "getrandom"]) },
    Rule { room: "error", may: &[], crates: PURE },
    Rule { room: "failpoint", may: &[], crates: Crates::Only(&["rustix", "tokio", "tracing"]) },
    Rule { room: "secret", may: &[], crates: PURE },
    Rule { room: "readiness", may: &[], crates: Crates::Only(&["tokio"]) },
    Rule { room: "process", may: &[], crates: Crates::Only(&["rustix", "tokio", "tokio_util", "tracing"]) },
    Rule {
        room: "telemetry",
        may: &[],
        crates: Crates::AllBut(&["axum", "clap", "redb", "reqwest", "sled", "tonic"]),
    },
    Rule {
        room: "provider",
        may: &[],
        crates: Crates::Only(&[
            "async_trait",
            "base64",
            "bytes",
            "http",
            "http_body_util",
            "httpdate",
            "ipnet",
            "jiff",
            "percent_encoding",
            "regex",
            "rustls",
            "schemars",
            "serde",
            "serde_json",
            "serde_path_to_error",
            "thiserror",
            "url",
        ]),
    },
    Rule {
        room: "provider::*",
        may: &["provider", "telemetry"],
        crates: Crates::AllBut(&["axum", "clap", "prost", "redb", "sled", "tonic"]),
    },
    Rule { room: "store", may: &[], crates: Crates::Only(&["async_trait"]) },
    Rule {
        room: "store::*",
        may: &["store", "telemetry"],
        crates: Crates::AllBut(&["axum", "clap", "prost", "reqwest", "tonic"]),
    },
    Rule {
        room: "broker",
        may: &["provider", "store", "telemetry"],
        crates: Crates::AllBut(&[
            "aes_gcm",
            "axum",
            "clap",
            "h2",
            "hyper",
            "prost",
            "prost_types",
            "redb",
            "reqwest",
            "sled",
            "tonic",
        ]),
    },
    Rule {
        room: "grpc",
        may: &[
            "broker",
            "provider::ProviderInfo",
            "provider::call",
            "provider::catalogue",
            "provider::health",
            "readiness",
            "store::Selection",
            "telemetry",
        ],
        crates: Crates::AllBut(&["aes_gcm", "axum", "clap", "redb", "reqwest", "sled"]),
    },
    Rule {
        room: "web",
        may: &["broker", "readiness", "telemetry"],
        crates: Crates::AllBut(&["aes_gcm", "clap", "prost", "redb", "reqwest", "sled", "tonic"]),
    },
    Rule {
        room: "config",
        may: &["provider"],
        crates: Crates::AllBut(&["axum", "clap", "redb", "reqwest", "sled", "tokio", "tonic"]),
    },
    Rule {
        room: "sandbox",
        may: &[],
        crates: Crates::AllBut(&["clap", "prost", "redb", "reqwest", "sled", "tonic"]),
    },
    Rule {
        room: "app",
        may: &[
            "broker",
            "config",
            "grpc",
            "process",
            "provider",
            "provider::*",
            "readiness",
            "sandbox",
            "store",
            "store::*",
            "telemetry",
            "web",
        ],
        crates: Crates::AllBut(&["clap", "redb", "sled"]),
    },
    Rule {
        room: "cli",
        may: &[
            "app",
            "config",
            "grpc",
            "process",
            "provider",
            "readiness",
            "sandbox",
            "store::keyring",
            "store::remedy",
            "telemetry",
        ],
        crates: Crates::AllBut(&["aes_gcm", "axum", "redb", "reqwest", "sled"]),
    },
    Rule {
        room: "main",
        may: &["cli"],
        crates: Crates::AllBut(&["axum", "redb", "reqwest", "sled", "tonic"]),
    },
];

/// Crates, and parts of the standard library, that some places alone may name, so that what they do can be read in one
/// sitting.
pub(super) const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("aes_gcm", &["store::keyring", "store::record", "store::seal"], "all sealing is in one place"),
    ("clap", &["cli", "main"], "arguments are the command line's own business"),
    ("failsafe", &["provider::breaker"], "it is wrapped where it lacks something"),
    ("flate2", &["provider::coding"], "what comes from outside is undone within bounds, in one place"),
    ("getrandom", &["entropy"], "randomness comes in by one door"),
    ("reqwest", &["provider::http"], "there is one HTTP client, and it is hardened"),
    ("serde_saphyr", &["config", "provider::catalogue"], "YAML is read where its mistakes are reported"),
    (
        "http_cache_semantics",
        &["provider::cache"],
        "it is given only what it reads rightly, and only its decisions are used",
    ),
    ("redb", &["store::redb"], "the engine stays behind its guard layer"),
    ("sled", &["store::sled"], "the engine stays behind its guard layer"),
    (
        "std::env",
        &["cli", "config", "failpoint", "telemetry"],
        "who is asked in other ways knows all of its inputs",
    ),
    (
        "std::fs",
        &[
            "cli",
            "config",
            "failpoint",
            "grpc::listener",
            "store::engine",
            "store::guard",
            "store::keyring",
            "store::sled",
        ],
        "files have owners",
    ),
    (
        "std::net::TcpListener",
        &["cli"],
        "listening is tokio's, but for a port that is tried before a runtime is there",
    ),
    ("std::net::TcpStream", &[], "no thread waits for a peer"),
    ("std::net::UdpSocket", &[], "nothing speaks UDP"),
    (
        "std::process",
        &["cli", "failpoint", "main", "store::guard"],
        "the rest of a process ends by returning",
    ),
    (
        "std::thread",
        &["cli", "failpoint", "store::guard", "telemetry::panic"],
        "a task is what is counted and drained",
    ),
];
