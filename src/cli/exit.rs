//! Exit codes: whose move it is, as a number that a script can branch on. One function leads from a [`Reason`] to its
//! code, and one table says what each code means; help, man page and docs print that table.

use crate::error::Reason;

/// A process exit code. The numbers up to 78 are those of BSD's `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// What was typed or configured is wrong.
    Wrong = 64,
    /// No such name.
    NoSuchName = 66,
    /// No broker answers there.
    NoBroker = 69,
    /// Our fault.
    OurFault = 70,
    /// The store was stuck.
    Stuck = 74,
    /// Try later.
    TryLater = 75,
    /// Not allowed.
    NotAllowed = 77,
    /// An operator must act.
    Operator = 78,
    /// The owner of the account must consent.
    Owner = 79,
    /// Interrupted (128 + SIGINT).
    Interrupted = 130,
    /// Told twice to end, and did not end in order (128 + SIGTERM).
    Terminated = 143,
}

impl Exit {
    /// Every code, in order.
    pub(crate) const ALL: [Self; 12] = [
        Self::Done,
        Self::Wrong,
        Self::NoSuchName,
        Self::NoBroker,
        Self::OurFault,
        Self::Stuck,
        Self::TryLater,
        Self::NotAllowed,
        Self::Operator,
        Self::Owner,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, in a few words.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Wrong => "what you typed or configured is wrong",
            Self::NoSuchName => "no such name",
            Self::NoBroker => "no broker answers there",
            Self::OurFault => "a fault of token-broker itself",
            Self::Stuck => "the store was stuck and the broker ended itself: look at its volume",
            Self::TryLater => "try again later",
            Self::NotAllowed => "not allowed",
            Self::Operator => "an operator must act",
            Self::Owner => "the owner of the account must consent",
            Self::Interrupted => "interrupted",
            Self::Terminated => "told twice to end",
        }
    }

    /// The reasons that end with this code, in the order of [`Reason::ALL`].
    pub(crate) fn reasons(self) -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(move |reason| of_reason(*reason) == self)
    }
}

/// The exit code of a command that failed for `reason`. A new reason does not compile before it has a code.
pub(crate) const fn of_reason(reason: Reason) -> Exit {
    match reason {
        Reason::InvalidRequest | Reason::MessageTooLarge | Reason::RequestRefused => Exit::Wrong,
        Reason::ConnectionNotFound | Reason::ProviderNotConfigured => Exit::NoSuchName,
        Reason::Internal => Exit::OurFault,
        Reason::ProviderUnavailable
        | Reason::ProviderRateLimited
        | Reason::ProviderCircuitOpen
        | Reason::ProviderMalformed
        | Reason::ConnectionAmbiguous
        | Reason::StoreUnavailable
        | Reason::StoreConflict
        | Reason::ShuttingDown => Exit::TryLater,
        Reason::CallerUnknown | Reason::CallerNotAllowed => Exit::NotAllowed,
        Reason::ProviderRejectedClient | Reason::ProviderDisabled | Reason::RecordUnreadable => {
            Exit::Operator
        }
        Reason::ReauthRequired | Reason::ScopeNotGranted | Reason::ConnectSessionInvalid => Exit::Owner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the design, written down a second time: a code is a promise to every script.
    #[test]
    fn every_reason_has_the_code_that_was_promised() {
        let promised = [
            (64, "INVALID_REQUEST MESSAGE_TOO_LARGE REQUEST_REFUSED"),
            (66, "PROVIDER_NOT_CONFIGURED CONNECTION_NOT_FOUND"),
            (70, "INTERNAL"),
            (
                75,
                "CONNECTION_AMBIGUOUS PROVIDER_RATE_LIMITED PROVIDER_UNAVAILABLE PROVIDER_CIRCUIT_OPEN \
                 PROVIDER_MALFORMED STORE_CONFLICT STORE_UNAVAILABLE SHUTTING_DOWN",
            ),
            (77, "CALLER_UNKNOWN CALLER_NOT_ALLOWED"),
            (78, "PROVIDER_DISABLED PROVIDER_REJECTED_CLIENT RECORD_UNREADABLE"),
            (79, "CONNECT_SESSION_INVALID REAUTH_REQUIRED SCOPE_NOT_GRANTED"),
        ];
        let words = |exit: Exit| exit.reasons().map(Reason::as_str).collect::<Vec<_>>().join(" ");
        for exit in Exit::ALL {
            let expected = promised.iter().find(|(code, _)| *code == exit.code()).map_or("", |(_, w)| w);
            assert_eq!(words(exit), expected, "{}", exit.code());
        }
    }

    #[test]
    fn the_code_of_a_stuck_store_is_the_one_that_the_store_ends_with() {
        assert_eq!(i32::from(Exit::Stuck.code()), crate::store::guard::STUCK_EXIT_CODE);
    }

    #[test]
    fn whose_move_it_is_and_the_code_agree() {
        use crate::error::Fault;
        for reason in Reason::ALL {
            let exit = of_reason(reason);
            let agrees = match reason.fault() {
                Fault::Caller => matches!(exit, Exit::Wrong | Exit::NoSuchName | Exit::NotAllowed),
                Fault::Owner => exit == Exit::Owner,
                Fault::Provider => exit == Exit::TryLater,
                Fault::Operator => exit == Exit::Operator,
                Fault::Broker => matches!(exit, Exit::TryLater | Exit::OurFault),
            };
            assert!(agrees, "{reason}");
        }
    }
}
