//! What is remembered of a connection that is no more, pure: how its life went, and nothing else of it.

use std::time::Duration;

use super::history::{Happening, History};
use super::{Connection, Status};
use crate::clock::Timestamp;

/// How long the history of a connection is kept once it is no more: 30 days.
pub const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

impl Connection {
    /// What is remembered of it when it came to that `end`: how its life went, and nothing else of it.
    pub fn ended(&self, end: Happening, now: Timestamp) -> Self {
        let mut past = Self::pending(self.profile.id.ended(), self.profile.created_at);
        past.profile.status = Status::Revoked;
        past.profile.generation = self.profile.generation;
        past.profile.updated_at = now;
        past.history.clone_from(&self.history);
        past.note(end, None, now);
        past
    }

    /// What happened to it, after the end of the one before it under its name. `past`: what is remembered of that.
    pub fn timeline(self, past: Option<Self>) -> History {
        // One that is on its way out may have come to its end and not be gone yet: that is no life before this one.
        let is_own = |past: &Self| {
            self.profile.status == Status::Revoking && past.profile.created_at == self.profile.created_at
        };
        match past.filter(|past| !is_own(past)) {
            Some(past) => self.history.after(&past.history),
            None => self.history,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::reuse::ReuseProfile;
    use crate::connection::{Account, ConnectionId, IssuedTokens, Scopes, Told};
    use crate::secret::Secret;

    const T0: Timestamp = Timestamp::from_millis(1_000_000);
    const T1: Timestamp = Timestamp::from_millis(2_000_000);

    fn active() -> Connection {
        let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
        let issued = IssuedTokens {
            access_token: Secret::new("at-1".into()),
            token_type: "Bearer".into(),
            expires_in: None,
            refresh_token: Some(Secret::new("rt-1".into())),
            refresh_expires_in: None,
            scopes: None,
            account: None,
            variables: Told::new(),
        };
        let account = Account { id: "alice".into(), email: None };
        let connection =
            Connection::pending(id, T0).imported(issued.into_set(None, T0), Scopes::default(), T0);
        connection.identified(account, T0)
    }

    #[test]
    fn a_crash_between_the_end_and_the_forgetting_tells_no_end_that_is_not_done() {
        let leaving = active().revoking(&ReuseProfile::default(), T1);
        let past = || Some(leaving.ended(Happening::Revoked, T1));
        let told = |connection: Connection| -> Vec<Happening> {
            connection.timeline(past()).events().iter().map(|event| event.what).collect()
        };
        assert_eq!(told(leaving.copy()).last(), Some(&Happening::Revoking));
        assert_eq!(told(active())[..2], [Happening::Revoked, Happening::Begun], "of the one before");
        let past = past().unwrap();
        assert_eq!((past.profile.account, past.profile.is_refreshable), (None, false));
        assert!(past.tokens.is_none());
    }
}
