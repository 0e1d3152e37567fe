//! What is said of a panic.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

use super::sink::{Sink as _, Stderr};

/// From now on a panic is one ERROR line with its place in the code. Its text is left out: a formatted panic message
/// may hold any value, and this process holds tokens. `RUST_BACKTRACE=1` adds the call stack, which has no values.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(report));
}

fn report(info: &PanicHookInfo<'_>) {
    let location = info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    if !tracing::dispatcher::has_been_set() {
        Stderr.write(&format!("error: token-broker met a bug of its own at {location}\n"));
        return;
    }
    let thread = std::thread::current();
    let (thread, backtrace) = (thread.name().unwrap_or("unnamed"), Backtrace::capture());
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(reason = "INTERNAL", fault = "broker", location, thread, %backtrace, "panicked");
    } else {
        tracing::error!(reason = "INTERNAL", fault = "broker", location, thread, "panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::telemetry::{Capture, Filter, Format, Logging};

    // The hook belongs to the whole process: other tests' panics pass through it while this one runs, and are printed
    // by the hook that was there before.
    #[test]
    fn a_panic_is_logged_with_its_place_and_without_its_text() {
        let logging = Logging { filter: Filter::info(), format: Format::Json };
        let capture = Capture::start(&logging, Arc::new(SystemClock));
        let me = std::thread::current().id();
        let before = Arc::new(std::panic::take_hook());
        let others = Arc::clone(&before);
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == me { report(info) } else { others(info) }
        }));
        let token = "canary-token";
        assert!(catch_unwind(|| panic!("cannot use {token}")).is_err());
        drop(std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| before(info)));
        let text = capture.text();
        assert!(text.contains("src/telemetry/panic.rs:"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}
