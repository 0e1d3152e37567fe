//! The corpus as data.

use serde::Deserialize;

/// One thing that is tried, and what comes of it: a rule that refuses it, or what is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case<T> {
    #[serde(rename = "in")]
    pub(super) input: T,
    #[serde(default)]
    pub(super) rule: Option<String>,
    #[serde(default)]
    pub(super) is: Option<String>,
    /// For whoever reads the file.
    #[serde(default, rename = "what")]
    _what: Option<String>,
    /// The last text of the input is repeated so many times.
    #[serde(default)]
    pub(super) long: Option<usize>,
    /// The method that is redirected.
    #[serde(default)]
    pub(super) method: Option<String>,
    /// Redirects that came before.
    #[serde(default)]
    pub(super) after: Vec<String>,
    /// The entry of `api.hosts` with the variable, and the variable's pattern.
    #[serde(default)]
    pub(super) of: Option<String>,
    #[serde(default)]
    pub(super) pattern: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Corpus {
    pub(super) path: Vec<Case<String>>,
    pub(super) prefix: Vec<Case<String>>,
    pub(super) host: Vec<Case<String>>,
    pub(super) method: Vec<Case<String>>,
    pub(super) query: Vec<Case<Vec<(String, String)>>>,
    pub(super) redirect: Vec<Case<String>>,
    pub(super) header: Vec<Case<(String, String)>>,
    pub(super) variable: Vec<Case<Option<String>>>,
    pub(super) told: Vec<Case<Option<String>>>,
    pub(super) address: Vec<Case<Vec<Vec<String>>>>,
    pub(super) entry: Vec<Case<String>>,
}

impl Corpus {
    pub(super) fn read() -> Self {
        serde_saphyr::from_str(include_str!("corpus.yaml")).unwrap()
    }
}

/// What a case tries.
pub(super) trait Input: std::fmt::Debug + Clone {
    /// The last text in it.
    fn last(&mut self) -> Option<&mut String>;

    fn stretched(&self, times: Option<usize>) -> Self {
        let mut input = self.clone();
        if let (Some(times), Some(last)) = (times, input.last()) {
            *last = last.repeat(times);
        }
        input
    }
}

impl Input for String {
    fn last(&mut self) -> Option<&mut String> {
        Some(self)
    }
}

impl Input for Option<String> {
    fn last(&mut self) -> Option<&mut String> {
        self.as_mut()
    }
}

impl Input for (String, String) {
    fn last(&mut self) -> Option<&mut String> {
        Some(&mut self.1)
    }
}

impl Input for Vec<(String, String)> {
    fn last(&mut self) -> Option<&mut String> {
        self.last_mut().map(|(_, value)| value)
    }
}
