//! Which request meets which fault. Owns the rules and their order. Does not know what a fault does. Invariant: a rule for
//! the next N requests is used up by exactly N requests that match it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fault::{Fault, Gate, Hold};
use super::record::{Endpoint, GrantType, Subject};

/// The requests a rule is for. An [`Endpoint`] alone means every request there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct On {
    endpoint: Endpoint,
    grant_type: Option<GrantType>,
    account: Option<String>,
}

impl On {
    /// Refreshes at the token endpoint.
    pub fn refresh() -> Self {
        Self { grant_type: Some(GrantType::RefreshToken), ..Endpoint::Token.into() }
    }

    /// Code exchanges at the token endpoint.
    pub fn code_exchange() -> Self {
        Self { grant_type: Some(GrantType::AuthorizationCode), ..Endpoint::Token.into() }
    }

    /// Only where the token or code presented belongs to this account.
    #[must_use]
    pub fn account(self, account: &str) -> Self {
        Self { account: Some(account.to_owned()), ..self }
    }

    fn matches(&self, endpoint: Endpoint, subject: &Subject) -> bool {
        self.endpoint == endpoint
            && (self.grant_type.is_none() || self.grant_type == subject.grant_type)
            && (self.account.is_none() || self.account == subject.account)
    }
}

impl From<Endpoint> for On {
    fn from(endpoint: Endpoint) -> Self {
        Self { endpoint, grant_type: None, account: None }
    }
}

/// The faults to come. Clones share them. The oldest rule that matches wins; rules for the next requests go before
/// standing ones.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Mutex<Rules>>);

#[derive(Debug, Default)]
struct Rules {
    next: Vec<(On, u32, Fault)>,
    standing: Vec<(On, Fault)>,
}

impl Script {
    /// The next request meets this fault.
    pub fn next(&self, on: impl Into<On>, fault: Fault) {
        self.next_n(1, on, fault);
    }

    /// The next `count` requests meet this fault.
    pub fn next_n(&self, count: u32, on: impl Into<On>, fault: Fault) {
        if count > 0 {
            self.rules().next.push((on.into(), count, fault));
        }
    }

    /// Every request meets this fault, until [`Script::clear`].
    pub fn always(&self, on: impl Into<On>, fault: Fault) {
        self.rules().standing.push((on.into(), fault));
    }

    /// The next request waits, once read, before it takes effect.
    pub fn hold_request(&self, on: impl Into<On>) -> Hold {
        let (gate, hold) = Gate::new();
        self.next(on, Fault::held_before(gate));
        hold
    }

    /// The next request takes effect, and its answer waits.
    pub fn hold_answer(&self, on: impl Into<On>) -> Hold {
        let (gate, hold) = Gate::new();
        self.next(on, Fault::held_after(gate));
        hold
    }

    /// Every request waits before it takes effect; after the release the rule holds nobody.
    pub fn hold_every_request(&self, on: impl Into<On>) -> Hold {
        let (gate, hold) = Gate::new();
        self.always(on, Fault::held_before(gate));
        hold
    }

    /// Forgets every rule. Requests already met by one keep their fault.
    pub fn clear(&self) {
        *self.rules() = Rules::default();
    }

    /// The fault that meets this request, used up by it.
    pub(super) fn meet(&self, endpoint: Endpoint, subject: &Subject) -> Option<Fault> {
        let mut rules = self.rules();
        let Some(at) = rules.next.iter().position(|(on, ..)| on.matches(endpoint, subject)) else {
            return rules
                .standing
                .iter()
                .find(|(on, _)| on.matches(endpoint, subject))
                .map(|(_, f)| f.clone());
        };
        let (_, left, fault) = &mut rules.next[at];
        *left -= 1;
        if *left > 0 {
            return Some(fault.clone());
        }
        Some(rules.next.remove(at).2)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(script: &Script, endpoint: Endpoint, subject: &Subject) -> Option<&'static str> {
        script.meet(endpoint, subject).map(|fault| fault.name)
    }

    #[test]
    fn a_queued_rule_is_used_up_and_then_the_standing_one_applies() {
        let script = Script::default();
        script.always(Endpoint::Token, Fault::status(503));
        script.next_n(2, Endpoint::Token, Fault::drop_answer());
        script.next(Endpoint::UserInfo, Fault::empty());

        let seen = [(); 3].map(|()| met(&script, Endpoint::Token, &Subject::default()));
        assert_eq!(seen, [Some("drop_answer"), Some("drop_answer"), Some("status")]);
        assert_eq!(met(&script, Endpoint::Revoke, &Subject::default()), None);
        script.clear();
        assert_eq!(met(&script, Endpoint::UserInfo, &Subject::default()), None);
    }

    #[test]
    fn a_rule_waits_for_the_request_it_is_for() {
        let script = Script::default();
        script.next(On::refresh().account("user-42"), Fault::drop_request());
        let refresh = |account: &str| Subject {
            grant_type: Some(GrantType::RefreshToken),
            account: Some(account.to_owned()),
            ..Subject::default()
        };
        let exchange = Subject { grant_type: Some(GrantType::AuthorizationCode), ..refresh("user-42") };
        assert_eq!(met(&script, Endpoint::Token, &exchange), None);
        assert_eq!(met(&script, Endpoint::Token, &refresh("user-7")), None);
        assert_eq!(met(&script, Endpoint::Token, &refresh("user-42")), Some("drop_request"));
    }
}
