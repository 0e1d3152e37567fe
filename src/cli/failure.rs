//! Failures as a person or a script reads them: what, where, why, and what to run next. Owns the form; what a broker's
//! error means is decoded in `failure/refusal.rs`. Invariant: text and JSON carry the same facts, and the exit code
//! follows from the cause alone.

mod refusal;

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use serde_json::{Map, Value, json};

pub(crate) use refusal::Refusal;

use super::console::Stream;
use super::escape::escaped;
use super::exit::{self, Exit};
use super::next::{Caller, Step};
use super::page::{Tone, toned};
use crate::error::{Fault, Reason};
use crate::process::Stop;

/// Why a command failed, as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The broker's answer.
    Broker(Reason),
    /// The command line is wrong.
    Usage,
    /// The configuration is wrong.
    Config,
    /// No broker answers.
    NoBroker,
    /// The broker is there and did not answer in time.
    NoAnswer,
    /// The broker does not know this call: it is older than the command line.
    Unimplemented,
    /// A file or an address of this machine cannot be used.
    Machine,
    /// The store, or the key that opens it, cannot be used.
    Key,
    /// The person at the keyboard has had enough.
    Interrupted,
    /// A second signal put an end to an orderly end.
    Stopped(Stop),
    /// A bug on this side.
    Bug,
}

impl Cause {
    /// The word in JSON: a reason of the contract, or one of the command line's own.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Broker(reason) => reason.as_str(),
            Self::Usage => "USAGE",
            Self::Config => "CONFIG",
            Self::NoBroker => "NO_BROKER",
            Self::NoAnswer => "NO_ANSWER",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Machine => "MACHINE",
            Self::Key => "KEY",
            Self::Interrupted | Self::Stopped(_) => "INTERRUPTED",
            Self::Bug => "INTERNAL",
        }
    }

    /// Whose move it is; `None` where nobody is at fault.
    pub(crate) const fn fault(self) -> Option<Fault> {
        match self {
            Self::Broker(reason) => Some(reason.fault()),
            Self::Usage => Some(Fault::Caller),
            Self::Config | Self::NoBroker | Self::Unimplemented | Self::Machine | Self::Key => {
                Some(Fault::Operator)
            }
            Self::NoAnswer | Self::Bug => Some(Fault::Broker),
            Self::Interrupted | Self::Stopped(_) => None,
        }
    }

    /// The exit code.
    pub(crate) const fn exit(self) -> Exit {
        match self {
            Self::Broker(reason) => exit::of_reason(reason),
            Self::Usage | Self::Config => Exit::Wrong,
            Self::NoBroker => Exit::NoBroker,
            Self::NoAnswer => Exit::TryLater,
            Self::Unimplemented | Self::Machine | Self::Key => Exit::Operator,
            Self::Interrupted | Self::Stopped(Stop::Interrupt) => Exit::Interrupted,
            Self::Stopped(Stop::Terminate) => Exit::Terminated,
            Self::Bug => Exit::OurFault,
        }
    }
}

/// One mistake among several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Where it is written: `12:5`, or the name of a variable; empty where nobody wrote it.
    pub(crate) place: String,
    /// The field or key.
    pub(crate) field: String,
    /// What is wrong, and what is accepted instead.
    pub(crate) message: String,
}

/// A failed command: its [`Facts`], boxed, for every command returns one.
#[derive(Debug)]
pub(crate) struct Failure(Box<Facts>);

/// Everything known of a failed command.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Why, as one word.
    pub(crate) cause: Cause,
    /// What failed, with the names.
    pub(crate) what: String,
    /// Where: an address or a file; empty where `what` says it.
    pub(crate) place: String,
    /// What is known of the reason; empty if nothing.
    pub(crate) why: String,
    /// Single mistakes, each with its place.
    pub(crate) mistakes: Vec<Flaw>,
    /// What to change where no command does it; empty if nothing.
    pub(crate) fix: String,
    /// What to run next.
    pub(crate) next: Vec<Step>,
    /// When it is worth trying again.
    pub(crate) retry_after: Option<Duration>,
    /// The broker's id of the request.
    pub(crate) request_id: Option<String>,
    /// What else the broker said, by its own names.
    pub(crate) details: Map<String, Value>,
    /// Text that takes the place of all of the above on a terminal: clap's own messages.
    pub(crate) ready_made: Option<String>,
}

impl Failure {
    /// A failure of which nothing more is known.
    pub(crate) fn new(cause: Cause, what: impl Into<String>) -> Self {
        Self(Box::new(Facts {
            cause,
            what: what.into(),
            place: String::new(),
            why: String::new(),
            mistakes: Vec::new(),
            fix: String::new(),
            next: Vec::new(),
            retry_after: None,
            request_id: None,
            details: Map::new(),
            ready_made: None,
        }))
    }

    /// Says why.
    #[must_use]
    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Says what to change where no command does it.
    #[must_use]
    pub(crate) fn fixed_by(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Says what to run next.
    #[must_use]
    pub(crate) fn then(mut self, step: impl Into<Step>) -> Self {
        self.next.push(step.into());
        self
    }

    /// The failure as text.
    pub(crate) fn text(&self, caller: &Caller, has_colour: bool) -> String {
        if let Some(ready_made) = &self.ready_made {
            return ready_made.clone();
        }
        let mut text = format!("{} {}", toned("error:", Tone::Bad, has_colour), escaped(&self.what));
        if let Cause::Broker(reason) = self.cause {
            text.push_str(&format!(" ({reason})"));
        }
        text.push('\n');
        let widest = |column: fn(&Flaw) -> usize| self.mistakes.iter().map(column).max().unwrap_or(0);
        let (places, fields) = (widest(|flaw| flaw.place.len()), widest(|flaw| flaw.field.len()));
        for Flaw { place, field, message } in &self.mistakes {
            let (after_place, after_field) =
                (if places == 0 { "" } else { " " }, if fields == 0 { "" } else { "  " });
            let (field, message) = (escaped(field), escaped(message));
            let line = format!("  {place:places$}{after_place}{field:fields$}{after_field}{message}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        for (name, value) in [("where:", &self.place), ("why:", &self.why), ("fix:", &self.fix)] {
            if !value.is_empty() {
                text.push_str(&format!("  {name:5} {}\n", escaped(value)));
            }
        }
        if let Some(id) = &self.request_id {
            text.push_str(&format!("  request {}\n", escaped(id)));
        }
        for step in &self.next {
            let command = step.command.command(caller);
            let remark =
                if step.remark.is_empty() { String::new() } else { format!("      ({})", step.remark) };
            text.push_str(&format!("  next: {}{}\n", escaped(&command), escaped(&remark)));
        }
        text
    }

    /// The failure as one JSON object.
    pub(crate) fn json(&self, caller: &Caller) -> Value {
        let mut details = self.details.clone();
        for (name, value) in [("where", &self.place), ("why", &self.why), ("fix", &self.fix)] {
            if !value.is_empty() {
                details.insert(name.to_owned(), value.clone().into());
            }
        }
        if !self.mistakes.is_empty() {
            let flaw = |f: &Flaw| json!({"place": f.place, "field": f.field, "message": f.message});
            let list = self.mistakes.iter().map(flaw);
            details.insert("mistakes".to_owned(), list.collect());
        }
        json!({
            "reason": self.cause.as_str(),
            "fault": self.cause.fault().map(Fault::as_str),
            "message": self.what,
            "next": self.next.iter().map(|step| step.command.command(caller)).collect::<Vec<_>>(),
            "retry_after_seconds": self.retry_after.map(|span| span.as_secs_f64()),
            "request_id": self.request_id,
            "details": details,
        })
    }

    /// Tells it on `stream`.
    pub(crate) fn tell(&self, stream: &mut Stream, is_json: bool, caller: &Caller) -> io::Result<()> {
        let has_colour = stream.has_colour;
        if is_json {
            stream.write(&format!("{}\n", self.json(caller)))
        } else {
            stream.write(&self.text(caller, has_colour))
        }
    }
}

impl Deref for Failure {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.0
    }
}

/// Output that cannot be written, input that cannot be read.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Cause::Machine, "a stream of this command cannot be used").because(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::next::tests::caller;
    use super::super::next::{Name, Next};
    use super::*;

    fn needs_consent() -> Failure {
        let name = Name { provider: "google".into(), connection: "user-42".into(), tenant: String::new() };
        let connect = Next::Connect { name, scopes: vec![], allow_account_change: false };
        Failure::new(Cause::Broker(Reason::ReauthRequired), "google user-42 needs its owner's consent again")
            .because("invalid_grant; consent is 7 days old")
            .then(connect.with("same connection"))
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_run_next() {
        assert_eq!(
            needs_consent().text(&caller(), false),
            "error: google user-42 needs its owner's consent again (REAUTH_REQUIRED)\n  \
             why:  invalid_grant; consent is 7 days old\n  \
             next: token-broker connect google user-42      (same connection)\n"
        );
    }

    #[test]
    fn mistakes_stand_in_two_columns() {
        let mut failure = Failure::new(Cause::Config, "2 mistakes in config.yaml, nothing was started");
        let flaw = |place: &str, field: &str, message: &str| Flaw {
            place: place.into(),
            field: field.into(),
            message: message.into(),
        };
        failure.mistakes = vec![flaw("12:5", "a", "unknown key"), flaw("18:14", "drain", "\u{7}")];
        assert_eq!(
            failure.text(&caller(), false),
            "error: 2 mistakes in config.yaml, nothing was started\n  12:5  a      unknown key\n  18:14 drain  \\u{7}\n"
        );
    }

    #[test]
    fn a_failure_is_one_json_object_with_the_promised_names() {
        let json = needs_consent().json(&caller());
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut promised =
            ["reason", "fault", "message", "next", "retry_after_seconds", "request_id", "details"];
        promised.sort_unstable();
        assert_eq!(
            {
                let mut names = names;
                names.sort_unstable();
                names
            },
            promised
        );
        assert_eq!(json["reason"], "REAUTH_REQUIRED");
        assert_eq!(json["fault"], "owner");
        assert_eq!(json["next"][0], "token-broker connect google user-42");
    }
}
