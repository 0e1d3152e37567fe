//! What happened to a connection, in few words: for people who ask why it is as it is. No token, no text of a
//! provider's but its error code.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Events kept; the oldest give way.
const KEPT: usize = 40;

/// The last events of a connection's life, oldest first. The transitions write it; nobody else does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(Vec<Event>);

/// One event, or several of one kind in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub what: Happening,
    /// When; of several in a row the first.
    pub at: Timestamp,
    /// When the last of several in a row happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// How often in a row.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// The connection's generation afterwards.
    pub generation: u64,
    /// Why: a reason as on the wire, or a provider's own error code; of another connection its name; of scopes those
    /// that were lost; of a process that ended before an answer was written down the word for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What can happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// A consent was begun.
    Begun,
    /// The owner consented.
    Connected,
    /// Tokens came from elsewhere.
    Imported,
    /// Tokens were refreshed.
    Refreshed,
    /// The provider granted fewer scopes than before.
    Narrowed,
    /// A refresh failed, and certainly spent nothing.
    Failed,
    /// The outcome of a refresh became unknown.
    Ambiguous,
    /// A refresh whose outcome was unknown is being tried again.
    Resumed,
    /// The grant was found alive after a refresh whose outcome was unknown, or its access token after a clock that was
    /// ahead had said that it was over.
    Recovered,
    /// Tokens were saved that came when somebody else had already taken over.
    Salvaged,
    /// The provider said that the grant is dead, and is not believed yet.
    Denied,
    /// The grant is dead; only consent helps.
    ReauthRequired,
    /// An operator wanted a dead grant tried again.
    Retried,
    /// The store was put back to an older state: the tokens may be spent.
    RolledBack,
    /// It is being revoked.
    Revoking,
    /// Tokens came while it was being revoked; they are revoked too.
    Surplus,
    /// The provider could not be asked to revoke it.
    RevocationFailed,
    /// The provider has revoked it. The end.
    Revoked,
    /// What was held is revoked, and a token that never came may live on at the provider. The end.
    RevocationUnconfirmed,
    /// The provider has no way to revoke it: its owner must remove the app there. The end.
    RevocationNotSupported,
    /// It held nothing that could be revoked. The end.
    RevocationNotNeeded,
    /// Another connection was found to be of the same account: at some providers the older grant then dies.
    SameAccount,
    /// The tokens of a dead grant were wiped.
    Wiped,
}

impl Happening {
    /// Every kind of event.
    pub const ALL: [Self; 23] = [
        Self::Begun,
        Self::Connected,
        Self::Imported,
        Self::Refreshed,
        Self::Narrowed,
        Self::Failed,
        Self::Ambiguous,
        Self::Resumed,
        Self::Recovered,
        Self::Salvaged,
        Self::Denied,
        Self::ReauthRequired,
        Self::Retried,
        Self::RolledBack,
        Self::Revoking,
        Self::Surplus,
        Self::RevocationFailed,
        Self::Revoked,
        Self::RevocationUnconfirmed,
        Self::RevocationNotSupported,
        Self::RevocationNotNeeded,
        Self::SameAccount,
        Self::Wiped,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Connected => "connected",
            Self::Imported => "imported",
            Self::Refreshed => "refreshed",
            Self::Narrowed => "narrowed",
            Self::Failed => "failed",
            Self::Ambiguous => "ambiguous",
            Self::Resumed => "resumed",
            Self::Recovered => "recovered",
            Self::Salvaged => "salvaged",
            Self::Denied => "denied",
            Self::ReauthRequired => "reauth_required",
            Self::Retried => "retried",
            Self::RolledBack => "rolled_back",
            Self::Revoking => "revoking",
            Self::Surplus => "surplus",
            Self::RevocationFailed => "revocation_failed",
            Self::Revoked => "revoked",
            Self::RevocationUnconfirmed => "revocation_unconfirmed",
            Self::RevocationNotSupported => "revocation_not_supported",
            Self::RevocationNotNeeded => "revocation_not_needed",
            Self::SameAccount => "same_account",
            Self::Wiped => "wiped",
        }
    }
}

impl History {
    /// The events, oldest first.
    pub fn events(&self) -> &[Event] {
        &self.0
    }

    /// The same after the last event of an earlier life under the same name.
    pub(super) fn after(mut self, earlier: &Self) -> Self {
        self.0.splice(..0, earlier.0.last().cloned());
        self
    }

    /// One more. Equal ones in a row count as one event, so that a year of refreshes hides nothing.
    pub(super) fn note(&mut self, what: Happening, why: Option<&str>, generation: u64, at: Timestamp) {
        if let Some(last) = self.0.last_mut().filter(|last| last.what == what && last.why.as_deref() == why) {
            last.last_at = Some(at);
            last.times = last.times.saturating_add(1);
            last.generation = generation;
            return;
        }
        if self.0.len() >= KEPT {
            self.0.drain(..=self.0.len() - KEPT);
        }
        let why = why.map(ToOwned::to_owned);
        self.0.push(Event { what, at, last_at: None, times: 1, generation, why });
    }
}

fn once() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_once(times: &u32) -> bool {
    *times == 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    const T0: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn a_year_of_refreshes_is_one_event() {
        let mut history = History::default();
        history.note(Happening::Connected, None, 1, T0);
        for hour in 1..=8760u32 {
            let at = T0 + Duration::from_secs(3600) * hour;
            history.note(Happening::Refreshed, None, 1 + u64::from(hour), at);
        }
        let [connected, refreshed] = history.events() else { panic!("{history:?}") };
        assert_eq!((connected.what, connected.times), (Happening::Connected, 1));
        assert_eq!((refreshed.times, refreshed.generation), (8760, 8761));
        assert_eq!(refreshed.at, T0 + Duration::from_secs(3600));
        assert_eq!(refreshed.last_at, Some(T0 + Duration::from_secs(3600) * 8760));
    }

    #[test]
    fn the_oldest_give_way() {
        let mut history = History::default();
        for at in 0..100u64 {
            let what = if at % 2 == 0 { Happening::Refreshed } else { Happening::Failed };
            history.note(what, None, at, T0);
        }
        assert_eq!(history.events().len(), KEPT);
        assert_eq!(history.events().last().unwrap().generation, 99);
    }

    #[test]
    fn every_kind_has_a_word_of_its_own_which_is_also_the_stored_one() {
        let words: HashSet<_> = Happening::ALL.iter().map(|what| what.as_str()).collect();
        assert_eq!(words.len(), Happening::ALL.len());
        for what in Happening::ALL {
            assert_eq!(serde_json::to_string(&what).unwrap(), format!("{:?}", what.as_str()));
        }
    }
}
