//! Values of connections for a provider's variables (K1): what a token reply tells, and what an app may give.
//!
//! Knows no store and no URL. Invariant: nothing leaves here that does not fit its pattern in the provider's entry.

use super::Occasion;
use super::spec::ProviderSpec;
use super::spec::place::{Variable, VariableSource};
use super::spec::value::Pointer;
use crate::connection::{Told, Values};
use crate::error::Mistake;

/// What a token reply tells. A field that is not there tells nothing.
pub(in crate::provider) fn told(spec: &ProviderSpec, reply: &serde_json::Value) -> Told {
    let variables = spec.variables.iter().filter(|(_, variable)| variable.from == VariableSource::Token);
    let told = variables.filter_map(|(name, variable)| {
        let path = variable.path.clone().unwrap_or_else(|| Pointer::to_field(name));
        let value = path.text(reply)?;
        Some((name.clone(), variable.takes(&value).then(|| value.into_owned())))
    });
    told.collect()
}

/// Says of what was told which values do not fit, for those who run the broker. The values may be anything and are not
/// shown.
pub(in crate::provider) fn warn(provider: &str, spec: &ProviderSpec, told: &Told) {
    for name in told.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name) {
        let pattern = spec.variables.get(name).map_or("", shown);
        tracing::warn!(
            provider,
            variable = name,
            pattern,
            "the provider told a value that does not fit its pattern; calls that need it are refused"
        );
    }
}

/// Checks what an app gives.
///
/// # Errors
/// Every mistake, with the variable's name and pattern.
pub(in crate::provider) fn check(
    spec: &ProviderSpec,
    occasion: Occasion,
    given: &Values,
    held: &Values,
) -> Result<(), Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut add = |name: &str, message: String| {
        let field = if name.is_empty() { "variables".to_owned() } else { format!("variables.{name}") };
        mistakes.push(Mistake { field, message });
    };
    let is_welcome = |variable: &Variable| match variable.from {
        VariableSource::Input => true,
        VariableSource::Token => occasion == Occasion::Import,
        _ => false,
    };
    for (name, value) in given {
        match spec.variables.get(name) {
            Some(variable) if !is_welcome(variable) => {
                add(name, "cannot be given: the provider or the configuration says it".to_owned());
            }
            Some(variable) if variable.takes(value) => {}
            Some(variable) => add(name, format!("does not fit; it must be {}", shown(variable))),
            None => {
                let known: Vec<_> = spec
                    .variables
                    .iter()
                    .filter(|(_, known)| is_welcome(known))
                    .map(|(name, _)| &**name)
                    .collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                add("", format!("{name:?} is none of this provider's; accepted: {known}"));
            }
        }
    }
    for (name, variable) in &spec.variables {
        let is_known = given.contains_key(name) || held.contains_key(name) || variable.default.is_some();
        if variable.from == VariableSource::Input && !is_known {
            let what = match variable.description.as_str() {
                "" => String::new(),
                what => format!(" ({what})"),
            };
            add(name, format!("is missing{what}; it must be {}", shown(variable)));
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

/// The check of a provider that has none.
///
/// # Errors
/// Any value.
pub(in crate::provider) fn none(given: &Values) -> Result<(), Vec<Mistake>> {
    check(&ProviderSpec::default(), Occasion::Connect, given, &Values::new())
}

fn shown(variable: &Variable) -> &str {
    variable.pattern.as_ref().map_or("", |pattern| pattern.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> ProviderSpec {
        serde_json::from_value(json!({"variables": {
            "instance_url": {"from": "token", "pattern": "https://[a-z0-9-]+\\.my\\.acme\\.example"},
            "account": {"from": "token", "path": "/team/id", "pattern": "[0-9]+"},
            "region": {"from": "input", "pattern": "eu|us", "description": "where the account lives"},
            "tier": {"from": "input", "pattern": "a|b", "default": "a"},
        }}))
        .unwrap()
    }

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_reply_tells_what_fits_and_takes_back_what_does_not() {
        let reply = json!({"instance_url": "https://org.my.acme.example", "team": {"id": 7}});
        let is = |value: &str| Some(value.to_owned());
        let told_now = told(&spec(), &reply);
        assert_eq!(told_now["instance_url"], is("https://org.my.acme.example"));
        assert_eq!(told_now["account"], is("7"), "a number reads as its text");
        assert_eq!(told_now.len(), 2, "the app's are the app's");
        for evil in ["https://evil.example", "https://org.my.acme.example\n", "https://org.my.acme.example/"]
        {
            let told_now = told(&spec(), &json!({"instance_url": evil}));
            assert_eq!(told_now, Told::from([("instance_url".to_owned(), None)]), "{evil:?}");
        }
        assert!(told(&spec(), &json!({"instance_url": null, "region": "eu"})).is_empty());
        let long = format!("https://{}.my.acme.example", "a".repeat(512));
        assert_eq!(told(&spec(), &json!({"instance_url": long}))["instance_url"], None);
    }

    #[test]
    fn an_app_gives_what_it_must_and_no_more() {
        let mistakes = |occasion, given: &[(&str, &str)], held: &[(&str, &str)]| {
            let found = check(&spec(), occasion, &values(given), &values(held)).err().unwrap_or_default();
            found
                .into_iter()
                .map(|mistake| format!("{} {}", mistake.field, mistake.message))
                .collect::<Vec<_>>()
        };
        let org = ("instance_url", "https://org.my.acme.example");
        assert!(mistakes(Occasion::Connect, &[("region", "eu")], &[]).is_empty());
        assert!(mistakes(Occasion::Connect, &[], &[("region", "eu")]).is_empty(), "known from before");
        assert!(mistakes(Occasion::Import, &[("region", "eu"), org], &[]).is_empty());
        assert_eq!(
            mistakes(Occasion::Connect, &[], &[]),
            ["variables.region is missing (where the account lives); it must be eu|us"]
        );
        assert_eq!(
            mistakes(Occasion::Connect, &[("region", "eu.evil.example"), ("tier", "c")], &[]),
            [
                "variables.region does not fit; it must be eu|us",
                "variables.tier does not fit; it must be a|b"
            ]
        );
        assert_eq!(
            mistakes(Occasion::Connect, &[("region", "us"), org], &[]),
            ["variables.instance_url cannot be given: the provider or the configuration says it"]
        );
        assert_eq!(
            mistakes(Occasion::Import, &[("region", "us"), ("host", "evil.example")], &[]),
            ["variables \"host\" is none of this provider's; accepted: account, instance_url, region, tier"]
        );
        assert!(none(&values(&[])).is_ok() && none(&values(&[("x", "y")])).is_err());
    }
}
