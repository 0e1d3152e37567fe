//! The pages a browser sees at the end of a consent: plain, without script, style or a button to close.

use super::super::escape::escaped;

/// The consent is stored; `account` is whose it is.
pub(crate) fn connected(connection: &str, account: &str) -> String {
    let whose = match account {
        "" => String::new(),
        account => format!("<p>Account: <strong>{}</strong></p>\n", encoded(account)),
    };
    page(
        "Connected",
        &format!(
            "<p>{} is connected.</p>\n{whose}<p>You can go back to the terminal.</p>",
            encoded(connection)
        ),
    )
}

/// The consent failed.
pub(crate) fn failed(connection: &str, what: &str) -> String {
    let text = format!(
        "<p>{} is not connected.</p>\n<p>{}</p>\n<p>The terminal says what to do next.</p>",
        encoded(connection),
        encoded(what)
    );
    page("Not connected", &text)
}

/// Any other address.
pub(crate) fn nothing_here() -> String {
    page("Nothing here", "<p>This page waits for one browser to come back from a consent.</p>")
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    )
}

/// `text` as it may stand between tags.
fn encoded(text: &str) -> String {
    let seen = escaped(text);
    let mut html = String::with_capacity(seen.len());
    for c in seen.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_the_account_and_cannot_be_written_by_it() {
        let page = connected("google user-42", "<script>alert(1)</script>&\"'");
        assert!(page.contains("google user-42 is connected"));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;"));
        assert!(!page.contains("<script") && !page.contains("<button"));
    }
}
