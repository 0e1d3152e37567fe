//! How the sandbox behaves, as data that may change while it runs. Owns the knobs and their defaults. Does not know how
//! they are obeyed. Invariant: the default is a server that keeps every rule of the norms and grants what is asked.

use std::time::Duration;

use super::client::ClientRegistration;
use super::grant::Lifetimes;
use super::profile::ReuseProfile;

/// What a sandbox starts with.
#[derive(Debug)]
pub struct SandboxOptions {
    /// Its first client: the one that [`super::Sandbox::client_id`] names.
    pub client: ClientRegistration,
    /// How it behaves at first.
    pub behavior: Behavior,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        let client =
            ClientRegistration { any_loopback_port: true, ..ClientRegistration::confidential("sandbox-app") };
        Self { client, behavior: Behavior::default() }
    }
}

/// How the sandbox answers. Read anew for every request.
#[derive(Clone, Debug)]
pub struct Behavior {
    /// What it does with refresh tokens.
    pub reuse: ReuseProfile,
    /// How long the tokens live that are issued from now on.
    pub lifetimes: Lifetimes,
    /// How long an authorization code is good.
    pub code_ttl: Duration,
    /// Who answers the consent page.
    pub approval: Approval,
    /// The accounts it knows. Any other name that is typed becomes one made up on the spot.
    pub accounts: Vec<Account>,
    /// Scopes it is willing to grant; what is asked beyond them is left out, at refresh too. `None` grants all.
    pub granted_scopes: Option<Vec<String>>,
    /// Whether `scope` is stated when it equals what was asked (RFC 6749 section 5.1 leaves that open).
    pub states_scope: bool,
    /// Whether `expires_in` is stated.
    pub states_expires_in: bool,
    /// Whether a consent gives a refresh token at all.
    pub issues_refresh_tokens: bool,
    /// The `iss` of the authorization response (RFC 9207).
    pub issuer_parameter: IssuerParameter,
    /// Living grants an account may have at one client; a further one silently ends the oldest (Google, Dex).
    pub grants_per_account: Option<usize>,
}

impl Default for Behavior {
    fn default() -> Self {
        Self {
            reuse: ReuseProfile::strict(),
            lifetimes: Lifetimes { access_token_ttl: Duration::from_secs(300), refresh_token_ttl: None },
            code_ttl: Duration::from_secs(60),
            approval: Approval::Page,
            accounts: vec![Account::named("user-42"), Account::named("user-7")],
            granted_scopes: None,
            states_scope: true,
            states_expires_in: true,
            issues_refresh_tokens: true,
            issuer_parameter: IssuerParameter::Sent,
            grants_per_account: None,
        }
    }
}

impl Behavior {
    /// `asked` without the scopes it is not willing to grant, in the order asked.
    pub(super) fn narrowed(&self, asked: &[String]) -> Vec<String> {
        let is_granted = |scope: &&String| self.granted_scopes.as_ref().is_none_or(|all| all.contains(scope));
        asked.iter().filter(is_granted).cloned().collect()
    }

    /// The account of this name.
    pub(super) fn account(&self, sub: &str) -> Account {
        self.accounts
            .iter()
            .find(|account| account.sub == sub)
            .cloned()
            .unwrap_or_else(|| Account::named(sub))
    }
}

/// Who answers the consent page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// A person, in a browser.
    Page,
    /// Nobody: `/authorize` approves at once for this account, or for the one `login_hint` names.
    Automatic {
        /// The account's name.
        account: String,
    },
    /// Nobody: `/authorize` answers `access_denied` at once.
    Denied,
}

/// The `iss` parameter of the authorization response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerParameter {
    /// Sent, and announced in the metadata.
    Sent,
    /// Neither sent nor announced.
    Omitted,
    /// Announced, and sent with this value: a mix-up attack.
    Forged(String),
}

/// A person who has an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The account's name, which is its `sub` too.
    pub sub: String,
    /// `email` at the userinfo endpoint.
    pub email: String,
    /// `name` at the userinfo endpoint.
    pub name: String,
}

impl Account {
    /// An account with an address at `sandbox.example` and a readable name, both made from its own.
    pub fn named(sub: &str) -> Self {
        let email = if sub.contains('@') { sub.to_owned() } else { format!("{sub}@sandbox.example") };
        let local = sub.split('@').next().unwrap_or_default();
        let words: Vec<String> =
            local.split(['-', '_', '.', '+']).filter(|word| !word.is_empty()).map(capitalized).collect();
        Self { sub: sub.to_owned(), email, name: words.join(" ") }
    }

    /// Whether `text` can be the name of an account: 1 to 64 of the characters that names and addresses are made of.
    pub(super) fn is_name(text: &str) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
        (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
    }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_made_from_its_name() {
        let made = |sub: &str| {
            let Account { email, name, .. } = Account::named(sub);
            (email, name)
        };
        assert_eq!(made("user-42"), ("user-42@sandbox.example".to_owned(), "User 42".to_owned()));
        assert_eq!(
            made("ada.lovelace@x.example"),
            ("ada.lovelace@x.example".to_owned(), "Ada Lovelace".to_owned())
        );
    }

    #[test]
    fn an_account_name_has_no_room_for_markup() {
        assert!(Account::is_name("ada+test@x.example"));
        for text in ["", "<b>", "a b", "é", &"x".repeat(65)] {
            assert!(!Account::is_name(text), "{text}");
        }
    }
}
