//! The end of a connection that has an access token and nothing to renew it with: by the clock alone, and undone with it.
//! Pure. Invariant: what a provider has said of a grant is not undone here.

use super::history::Happening;
use super::{Connection, Status};
use crate::clock::Timestamp;

impl Connection {
    /// The same connection once its access token has expired and there is no refresh token to renew it.
    pub fn expired(mut self, now: Timestamp) -> Self {
        self.profile.status = Status::ReauthRequired;
        self.profile.updated_at = now;
        self.note(Happening::ReauthRequired, None, now);
        self
    }

    /// The same connection where nothing but the clock has said that its access token was over, and the clock says so no
    /// more: it was ahead. `None` where its end stands.
    pub fn unexpired(&self, now: Timestamp) -> Option<Self> {
        let access = self.tokens.as_ref().and_then(|tokens| tokens.access.as_ref());
        let is_alive = access.is_some_and(|access| access.is_alive(now));
        // A grant that its provider ended had something to be refreshed with.
        let was_said_by_clock = !self.profile.is_refreshable && self.profile.quarantined_at.is_none();
        if self.profile.status != Status::ReauthRequired || !was_said_by_clock || !is_alive {
            return None;
        }
        let mut connection = self.copy();
        connection.profile.status = Status::Active;
        connection.profile.updated_at = now;
        connection.note(Happening::Recovered, None, now);
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::reuse::ReuseProfile;
    use crate::connection::{AccessToken, ConnectionId, RefreshToken, Scopes, TokenSet};
    use crate::secret::Secret;

    const T0: Timestamp = Timestamp::from_millis(1_000_000);
    const LIFE: Duration = Duration::from_secs(3600);

    fn connection(refresh: Option<&str>) -> Connection {
        let id = ConnectionId::parse(String::new(), "sandbox".into(), "user-42".into()).unwrap();
        let access = AccessToken {
            value: Secret::new("at-1".into()),
            token_type: "Bearer".into(),
            issued_at: T0,
            expires_at: Some(T0 + LIFE),
        };
        let refresh =
            refresh.map(|value| RefreshToken { value: Secret::new(value.into()), expires_at: None });
        let tokens = TokenSet { access: Some(access), refresh, previous: None, surplus: Vec::new() };
        Connection::pending(id, T0).imported(tokens, Scopes::default(), T0)
    }

    #[test]
    fn what_the_clock_alone_has_ended_comes_back_with_it_and_nothing_else_does() {
        let end = T0 + LIFE;
        let before = end - Duration::from_millis(1);
        let ended = connection(None).expired(end);
        assert!(ended.serving().is_none());
        assert!(ended.unexpired(end).is_none(), "it is over");
        let back = ended.unexpired(before).unwrap();
        assert_eq!((back.profile.status, back.serving().is_some()), (Status::Active, true));
        assert!(connection(None).unexpired(before).is_none(), "it never ended");
        let refused = connection(Some("rt-1")).expired(end);
        assert!(refused.unexpired(before).is_none(), "its provider may have spoken");
        let revoking = connection(None).revoking(&ReuseProfile::default(), before);
        assert!(revoking.unexpired(before).is_none());
    }
}
