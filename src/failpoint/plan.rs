//! What happens where, as text and as data.

use std::path::PathBuf;
use std::time::Duration;

use super::{Fails, POINTS};

/// Rules in the order given; the first that matches counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    point: &'static str,
    action: Action,
    first: u64,
    last: u64,
}

/// What happens at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Kill,
    Delay(Duration),
    Pause(PathBuf),
    /// The number of an error of the operating system.
    Error(i32),
    Count,
}

impl Plan {
    /// Reads a plan; says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rules = text.split([',', ';']).map(str::trim).filter(|rule| !rule.is_empty());
        rules.map(Rule::parse).collect::<Result<_, _>>().map(Self)
    }

    /// What happens at the `n`-th passing of `point`.
    pub(super) fn action(&self, point: &str, n: u64) -> Option<&Action> {
        let is_meant = |rule: &&Rule| rule.point == point && (rule.first..=rule.last).contains(&n);
        self.0.iter().find(is_meant).map(|rule| &rule.action)
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let (point, action) =
            text.split_once('=').ok_or_else(|| format!("{text}: point=action is wanted"))?;
        let known = POINTS.iter().find(|(known, _)| *known == point);
        let (point, fails) = known.ok_or_else(|| format!("there is no point {point}"))?;
        let (action, (first, last)) = match action.rsplit_once('@') {
            Some((action, when)) => {
                (action, times(when).ok_or_else(|| format!("{text}: {when} is no count"))?)
            }
            None => (action, (1, u64::MAX)),
        };
        let action = Action::parse(action).ok_or_else(|| format!("{text}: there is no such action"))?;
        if matches!(action, Action::Error(_)) && *fails == Fails::Never {
            return Err(format!("{point} cannot fail"));
        }
        Ok(Self { point, action, first, last })
    }
}

impl Action {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "kill" => Some(Self::Kill),
            None if text == "count" => Some(Self::Count),
            Some(("delay", span)) => duration(span).map(Self::Delay),
            Some(("pause", path)) => Some(Self::Pause(path.into())),
            Some(("error", "ENOSPC")) => Some(Self::Error(28)),
            Some(("error", "EIO")) => Some(Self::Error(5)),
            _ => None,
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}

fn times(text: &str) -> Option<(u64, u64)> {
    match text.strip_suffix('+') {
        Some(first) => Some((first.parse().ok()?, u64::MAX)),
        None => text.parse().ok().map(|only| (only, only)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_holds_at_the_times_it_says() {
        let plan = Plan::parse("refresh.send.after=kill@2, refresh.send.after=delay:5s@4+;").unwrap();
        let at = |n| plan.action("refresh.send.after", n);
        assert_eq!((at(1), at(2), at(3)), (None, Some(&Action::Kill), None));
        assert_eq!(at(9), Some(&Action::Delay(Duration::from_secs(5))));
        assert_eq!(plan.action("refresh.send.before", 2), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, said) in [
            ("refresh.sent=kill", "there is no point refresh.sent"),
            ("refresh.send.after", "point=action is wanted"),
            ("refresh.send.after=explode", "there is no such action"),
            ("refresh.send.after=kill@x", "x is no count"),
            ("refresh.send.after=error:EIO", "refresh.send.after cannot fail"),
            ("store.sync.before=error:EWHAT", "there is no such action"),
        ] {
            let refused = Plan::parse(text).unwrap_err();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }
}
