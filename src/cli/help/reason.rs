//! What each reason means and what to do about it: the one text behind `help reason NAME` and docs/cli.md.

use crate::cli::exit;
use crate::error::{Fault, Reason};

/// Everything there is to say about `reason`.
pub(crate) fn text(reason: Reason) -> String {
    let exit = exit::of_reason(reason);
    let (meaning, remedy) = words(reason);
    format!(
        "{reason}\n  {meaning}\n  {remedy}\n  whose move: {}; exit code {} ({})\n",
        mover(reason.fault()),
        exit.code(),
        exit.meaning()
    )
}

/// Who has to act, for people.
pub(crate) const fn mover(fault: Fault) -> &'static str {
    match fault {
        Fault::Caller => "the caller",
        Fault::Owner => "the owner of the account",
        Fault::Provider => "the provider",
        Fault::Operator => "whoever runs the broker",
        Fault::Broker => "the broker itself",
    }
}

/// What it means, and what helps.
pub(crate) const fn words(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::InvalidRequest => (
            "The request is malformed; every field that is wrong is listed.",
            "Mend the fields that the details name.",
        ),
        Reason::MessageTooLarge => (
            "The message is larger than this call takes.",
            "Use the streaming call that the message names, or send less.",
        ),
        Reason::CallerUnknown => (
            "The broker could not tell who calls.",
            "Call over the broker's socket or its loopback port, directly and not through a proxy.",
        ),
        Reason::CallerNotAllowed => {
            ("The caller is known and may not do this.", "Ask whoever runs the broker.")
        }
        Reason::ProviderNotConfigured => (
            "No provider of that name is in the configuration.",
            "Compare the name with the configured ones, or add the provider.",
        ),
        Reason::ProviderDisabled => (
            "The provider is switched off in the configuration.",
            "Set enabled: true at the provider and restart the broker.",
        ),
        Reason::ConnectionNotFound => (
            "There is no such connection, or this caller may not see it.",
            "Compare the name with the list of connections, or connect the account.",
        ),
        Reason::ConnectSessionInvalid => (
            "The consent that was begun is unknown, used, too old or refused.",
            "Begin again; a consent that was begun waits 10 minutes and works once.",
        ),
        Reason::ReauthRequired => (
            "The provider has ended the grant, nothing is left to refresh with, or nobody has consented yet.",
            "Let the owner consent again with the same connection name.",
        ),
        Reason::ScopeNotGranted => (
            "The grant lives and is narrower than what was asked for.",
            "Connect again and ask the owner for the missing scopes.",
        ),
        Reason::ConnectionAmbiguous => (
            "A refresh was sent and its answer was lost; the broker finds out by itself.",
            "Try again after the time that the error names.",
        ),
        Reason::ProviderRejectedClient => (
            "The provider does not accept the client: its id, secret, method or redirect URI.",
            "Compare the configuration with what is registered at the provider.",
        ),
        Reason::ProviderRateLimited => (
            "The provider asked to slow down, or its budget of requests is used up.",
            "Try again after the time that the error names; providers show tells the budget.",
        ),
        Reason::ProviderUnavailable => (
            "The provider cannot be reached or answers with errors; the grant is untouched.",
            "Try again; --allow-stale accepts a token that still lives.",
        ),
        Reason::ProviderCircuitOpen => (
            "After repeated failures the provider is left in peace for a while; nothing was sent.",
            "Try again after the time that the error names; --allow-stale accepts a token that still lives. providers show tells from what it rests.",
        ),
        Reason::ProviderMalformed => (
            "The provider's answer is not what its protocol allows.",
            "Compare the endpoints in the configuration with the provider's documentation.",
        ),
        Reason::RequestRefused => (
            "A rule for calls to the provider was broken: path, header, host or method.",
            "Mend what the rule names.",
        ),
        Reason::StoreConflict => {
            ("The connection changed while this call worked on it.", "Try again at once.")
        }
        Reason::StoreUnavailable => (
            "The store cannot be used at the moment; the log says why.",
            "Look at disk space and permissions of the data directory.",
        ),
        Reason::RecordUnreadable => (
            "A record does not open: it was sealed with another key, or it is damaged.",
            "Give the broker the key that sealed it; keys list shows what a key file holds.",
        ),
        Reason::ShuttingDown => ("The broker is ending and takes no new work.", "Try again in a second."),
        Reason::Internal => {
            ("A bug in the broker; nothing secret is in the message.", "Report it with the request id.")
        }
    }
}
