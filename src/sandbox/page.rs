//! The pages a person sees. Owns their HTML and CSS. Does not know what an answer does. Invariant: everything that came from
//! outside is escaped, and a page needs neither scripts nor anything fetched.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::behavior::Account;

const STYLE: &str = include_str!("page.css");

/// What the consent page shows.
pub(super) struct Consent<'a> {
    /// Names the request when the answer comes.
    pub(super) handle: &'a str,
    pub(super) client_id: &'a str,
    pub(super) return_to: &'a str,
    /// Each scope, and whether it is ticked.
    pub(super) scopes: &'a [(&'a str, bool)],
    /// What stands in the account field.
    pub(super) account: &'a str,
    /// What the field suggests.
    pub(super) accounts: &'a [Account],
    /// What was wrong with the answer given before.
    pub(super) mistake: Option<&'a str>,
}

impl Consent<'_> {
    /// The page.
    pub(super) fn html(&self) -> String {
        let client = escaped(self.client_id);
        let mistake = self
            .mistake
            .map(|mistake| {
                format!("<p class=\"mistake\" role=\"alert\" id=\"mistake\">{}</p>", escaped(mistake))
            })
            .unwrap_or_default();
        let describes = if self.mistake.is_some() { "mistake account-hint" } else { "account-hint" };
        let mut suggestions = String::new();
        for account in self.accounts {
            let (sub, name) = (escaped(&account.sub), escaped(&account.name));
            let _ = write!(suggestions, "<option value=\"{sub}\">{name}</option>");
        }
        let body = format!(
            "<h1><strong>{client}</strong> wants to use an account of yours</h1>\
             {mistake}\
             <form method=\"post\" action=\"/consent\">\
             <input type=\"hidden\" name=\"page\" value=\"{handle}\">\
             <label for=\"account\">Account</label>\
             <input id=\"account\" name=\"account\" value=\"{account}\" list=\"accounts\" required maxlength=\"64\" \
              autocomplete=\"off\" autocapitalize=\"none\" spellcheck=\"false\" aria-describedby=\"{describes}\">\
             <datalist id=\"accounts\">{suggestions}</datalist>\
             <p class=\"hint\" id=\"account-hint\">Any name will do: accounts here are made up, and there is no \
             password.</p>\
             {scopes}\
             <div class=\"actions\">\
             <button type=\"submit\" name=\"decision\" value=\"approve\" class=\"approve\">Approve</button>\
             <button type=\"submit\" name=\"decision\" value=\"deny\" formnovalidate>Deny</button>\
             </div></form>\
             <p class=\"foot\">Either way you return to <span class=\"host\">{origin}</span></p>",
            handle = escaped(self.handle),
            account = escaped(self.account),
            scopes = self.scope_list(),
            origin = escaped(&origin(self.return_to)),
        );
        document(&format!("{} asks for consent", self.client_id), &body)
    }

    fn scope_list(&self) -> String {
        if self.scopes.is_empty() {
            return "<p class=\"hint\">It asks for no particular permission.</p>".to_owned();
        }
        let mut list = String::from("<fieldset><legend>It asks to</legend>");
        for (at, (scope, is_ticked)) in self.scopes.iter().enumerate() {
            let ticked = if *is_ticked { " checked" } else { "" };
            let scope_text = escaped(scope);
            let meaning = meaning(scope);
            let _ = write!(
                list,
                "<div class=\"scope\"><input type=\"checkbox\" id=\"scope-{at}\" name=\"scope\" \
                 value=\"{scope_text}\"{ticked}><label for=\"scope-{at}\">{meaning}<code>{scope_text}</code></label>\
                 </div>"
            );
        }
        list.push_str("</fieldset>");
        list
    }
}

/// The page for a request that cannot go on and has nowhere to return to.
pub(super) fn problem(problem: &str) -> String {
    let text = escaped(problem);
    document("This request cannot go on", &format!("<h1>This request cannot go on</h1><p>{text}</p>"))
}

/// The page at the issuer's address.
pub(super) fn front() -> String {
    let body = "<h1>A server to practise on</h1>\
        <p>It speaks OAuth 2.0 like the providers you will connect later, with accounts that are made up.</p>\
        <p>Nothing to do here: start with a <code>connect</code> command, and it will send you to the page where \
        you consent.</p>\
        <p class=\"foot\"><a href=\"/.well-known/openid-configuration\">Its metadata</a></p>";
    document("Development sandbox", body)
}

/// Scripts, fetches and frames: none. The style is allowed by its own digest. Where the form's answer leads is not
/// limited beyond http and https, for browsers hold every redirect after it to the same list.
pub(super) fn content_security_policy() -> String {
    let style = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self' http: https:; \
         frame-ancestors 'none'; base-uri 'none'"
    )
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>{title} – development sandbox</title><style>{STYLE}</style></head>\
         <body><p class=\"band\"><strong>Development sandbox</strong> No real account, no real data, this machine \
         only</p><main>{body}</main></body></html>",
        title = escaped(title),
    )
}

/// What a scope lets the client do, where that is common knowledge.
fn meaning(scope: &str) -> &'static str {
    match scope {
        "openid" => "<span>Know who you are</span>",
        "email" => "<span>See your email address</span>",
        "profile" => "<span>See your name</span>",
        "offline_access" => "<span>Keep access while you are away</span>",
        _ => "",
    }
}

/// Scheme, host and port; the whole text when it is no web address.
fn origin(uri: &str) -> String {
    Url::parse(uri)
        .ok()
        .map(|url| url.origin())
        .filter(url::Origin::is_tuple)
        .map_or_else(|| uri.to_owned(), |origin| origin.ascii_serialization())
}

/// `text` as it may stand in an element or a quoted attribute.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_cannot_become_markup() {
        let evil = "\"><script>alert('x')</script>&";
        let consent = Consent {
            handle: evil,
            client_id: evil,
            return_to: evil,
            scopes: &[(evil, true)],
            account: evil,
            accounts: &[Account { sub: evil.to_owned(), email: evil.to_owned(), name: evil.to_owned() }],
            mistake: Some(evil),
        };
        for page in [consent.html(), problem(evil)] {
            assert!(!page.contains("<script") && !page.contains("\">&lt;script\""), "{page}");
            assert!(page.contains("&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;"));
        }
    }

    #[test]
    fn the_policy_allows_the_very_style_that_the_page_carries() {
        let policy = content_security_policy();
        assert!(front().contains(&format!("<style>{STYLE}</style>")));
        assert!(policy.contains("style-src 'sha256-") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"));
    }

    #[test]
    fn the_return_address_is_shown_without_its_path() {
        assert_eq!(origin("http://127.0.0.1:8080/callback/x?y=z"), "http://127.0.0.1:8080");
        assert_eq!(origin("com.example:/cb"), "com.example:/cb");
    }
}
