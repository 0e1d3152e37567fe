//! Whether a name is the issuer's: exact, but for a claim that stands in the issuer itself.

use super::spec::ProviderSpec;
use super::spec::value::Template;

/// Whether `name` is exactly the provider's issuer (RFC 8414 section 3.3, RFC 9207 section 2.4). Where the issuer holds
/// a claim (Microsoft's `{tenantid}`), anything that the claim's pattern allows may stand there. Without an issuer
/// nothing is.
pub(in crate::provider) fn is_issuer(spec: &ProviderSpec, name: &str) -> bool {
    spec.issuer.as_ref().is_some_and(|issuer| fits(spec, issuer, name))
}

fn fits(spec: &ProviderSpec, issuer: &Template, name: &str) -> bool {
    let Some(claim) = issuer.names().next() else { return issuer.as_str() == name };
    let Some((before, after)) = issuer.as_str().split_once(&format!("{{{claim}}}")) else { return false };
    let Some(pattern) = spec.variables.get(claim).and_then(|variable| variable.pattern.as_ref()) else {
        return false;
    };
    name.strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .is_some_and(|value| pattern.matches_all(value) && !after.contains('{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: serde_json::Value) -> ProviderSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_issuer_is_compared_exactly() {
        let spec = spec(serde_json::json!({"issuer": "https://as.example/a"}));
        assert!(is_issuer(&spec, "https://as.example/a"));
        for other in ["https://as.example/a/", "https://AS.example/a", "https://as.example", ""] {
            assert!(!is_issuer(&spec, other), "{other}");
        }
        assert!(!is_issuer(&ProviderSpec::default(), ""));
    }

    #[test]
    fn a_claim_in_the_issuer_is_held_to_its_pattern() {
        let spec = spec(serde_json::json!({
            "issuer": "https://login.example/{tid}/v2.0",
            "variables": {"tid": {"from": "id_token", "pattern": "[0-9a-f]{4}"}}
        }));
        assert!(is_issuer(&spec, "https://login.example/00ff/v2.0"));
        for other in [
            "https://login.example/{tid}/v2.0",
            "https://login.example/00ff/x/v2.0",
            "https://login.example//v2.0",
        ] {
            assert!(!is_issuer(&spec, other), "{other}");
        }
    }
}
