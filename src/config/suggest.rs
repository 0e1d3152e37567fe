//! The nearest known word to one that is not known.

/// What to say after "unknown": the word that was probably meant, or all that are accepted.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => "nothing is accepted here".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// The candidate that differs from `word` by at most a third of its letters, if there is one.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| {
            let plain = candidate.to_ascii_lowercase().replace('-', "_");
            (strsim::osa_distance(&word, &plain), candidate)
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word_and_another_word_finds_none() {
        let known = ["client_id", "client_secret", "client_secret_file", "key", "enabled"];
        for (word, near) in [
            ("cliend_id", Some("client_id")),
            ("clientId", Some("client_id")),
            ("client-secret", Some("client_secret")),
            ("enable", Some("enabled")),
            ("kye", Some("key")),
            ("colour", None),
        ] {
            assert_eq!(nearest(word, known), near, "{word}");
        }
        assert_eq!(hint("colour", ["b", "a"]), "known here: a, b");
    }
}
