//! The nearest known name, for what was mistyped.

/// The one of `known` that `typed` was most likely meant to be; `None` when nothing is near.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |name: &&str| strsim::jaro_winkler(&typed.to_lowercase(), &name.to_lowercase());
    known
        .into_iter()
        .map(|name| (near(&name), name))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_mistake_finds_its_name_and_a_stranger_none() {
        let known = ["github", "google", "sandbox"];
        assert_eq!(nearest("gogle", known), Some("google"));
        assert_eq!(nearest("Github", known), Some("github"));
        assert_eq!(nearest("snadbox", known), Some("sandbox"));
        assert_eq!(nearest("salesforce", known), None);
        assert_eq!(nearest("user-24", ["user-42", "org-1"]), Some("user-42"));
    }
}
