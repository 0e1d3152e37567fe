//! A metadata document, checked.

use serde_json::Value;

use crate::error::ProviderError;
use crate::provider::issuer::is_issuer;
use crate::provider::spec::ProviderSpec;
use crate::provider::url::{CheckedUrl, PlainHttp};
use crate::provider::wire::unusable;

/// What a provider says of itself, as far as it was asked.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::provider) struct Metadata {
    pub(in crate::provider) authorization: Option<CheckedUrl>,
    pub(in crate::provider) token: Option<CheckedUrl>,
    pub(in crate::provider) revocation: Option<CheckedUrl>,
    pub(in crate::provider) userinfo: Option<CheckedUrl>,
    /// `token_endpoint_auth_methods_supported`; empty where the document is silent.
    pub(in crate::provider) auth_methods: Vec<String>,
    /// `authorization_response_iss_parameter_supported` (RFC 9207 section 3).
    pub(in crate::provider) promises_iss: bool,
}

impl Metadata {
    /// Reads a document and holds it against the spec and against what was known before.
    ///
    /// # Errors
    /// `Misconfigured` with a word for what is wrong: another issuer, an address that may not be called, a host that
    /// was not there before.
    pub(super) fn check(
        spec: &ProviderSpec,
        document: &Value,
        before: Option<&Self>,
    ) -> Result<Self, ProviderError> {
        let issuer = document.get("issuer").and_then(Value::as_str).ok_or(ProviderError::Malformed)?;
        if !is_issuer(spec, issuer) {
            return Err(unusable("metadata_issuer_mismatch"));
        }
        let plain = PlainHttp::from_flag(spec.allow_http);
        let is_local = CheckedUrl::parse(issuer, plain).is_ok_and(|url| url.is_loopback());
        let address = |name: &str| match document.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let text = value.as_str().ok_or(ProviderError::Malformed)?;
                let url =
                    CheckedUrl::parse(text, plain).map_err(|_| unusable("metadata_endpoint_refused"))?;
                // A document from elsewhere must not point us at our own machine.
                if url.is_loopback() && !is_local {
                    return Err(unusable("metadata_endpoint_refused"));
                }
                Ok(Some(url))
            }
        };
        let metadata = Self {
            authorization: address("authorization_endpoint")?,
            token: address("token_endpoint")?,
            revocation: address("revocation_endpoint")?,
            userinfo: address("userinfo_endpoint")?,
            auth_methods: texts(document, "token_endpoint_auth_methods_supported"),
            promises_iss: document
                .get("authorization_response_iss_parameter_supported")
                .and_then(Value::as_bool)
                .unwrap_or(false),
        };
        metadata.check_hosts(spec, issuer, before)?;
        Ok(metadata)
    }

    /// Hosts are those that the spec lists, or those of the first reading.
    fn check_hosts(
        &self,
        spec: &ProviderSpec,
        issuer: &str,
        before: Option<&Self>,
    ) -> Result<(), ProviderError> {
        let own = CheckedUrl::parse(issuer, PlainHttp::from_flag(spec.allow_http));
        let own = own.as_ref().map(CheckedUrl::host).unwrap_or_default();
        let listed = &spec.discovery.hosts;
        for host in self.hosts() {
            let is_known = host == own
                || listed.iter().any(|known| known == host)
                || (listed.is_empty()
                    && before.is_none_or(|before| before.hosts().any(|known| known == host)));
            if !is_known {
                return Err(unusable("metadata_host_changed"));
            }
        }
        Ok(())
    }

    fn hosts(&self) -> impl Iterator<Item = &str> {
        [&self.authorization, &self.token, &self.revocation, &self.userinfo]
            .into_iter()
            .flatten()
            .map(CheckedUrl::host)
    }
}

fn texts(document: &Value, name: &str) -> Vec<String> {
    let items = document.get(name).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> ProviderSpec {
        serde_json::from_value(json!({"issuer": "https://as.example"})).unwrap()
    }

    fn word(result: Result<Metadata, ProviderError>) -> String {
        match result.unwrap_err() {
            ProviderError::Misconfigured(code) => code.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_document_of_another_issuer_is_refused() {
        for issuer in ["https://as.example/", "https://evil.example", "https://AS.example"] {
            let document = json!({"issuer": issuer, "token_endpoint": "https://as.example/t"});
            assert_eq!(
                word(Metadata::check(&spec(), &document, None)),
                "metadata_issuer_mismatch",
                "{issuer}"
            );
        }
    }

    #[test]
    fn an_address_that_may_not_be_called_is_refused() {
        for endpoint in [
            "http://as.example/t",
            "http://127.0.0.1/t",
            "https://localhost/t",
            "//x",
            "https://u@as.example",
        ] {
            let document = json!({"issuer": "https://as.example", "token_endpoint": endpoint});
            assert_eq!(
                word(Metadata::check(&spec(), &document, None)),
                "metadata_endpoint_refused",
                "{endpoint}"
            );
        }
    }

    #[test]
    fn the_hosts_of_the_first_reading_stay() {
        let at = |host: &str| json!({"issuer": "https://as.example", "token_endpoint": format!("https://{host}/t")});
        let first = Metadata::check(&spec(), &at("tokens.example"), None).unwrap();
        assert!(Metadata::check(&spec(), &at("tokens.example"), Some(&first)).is_ok());
        assert!(
            Metadata::check(&spec(), &at("as.example"), Some(&first)).is_ok(),
            "the issuer's own host is known"
        );
        assert_eq!(
            word(Metadata::check(&spec(), &at("evil.example"), Some(&first))),
            "metadata_host_changed"
        );

        let mut listed = spec();
        listed.discovery.hosts = vec!["tokens.example".to_owned()];
        assert!(Metadata::check(&listed, &at("tokens.example"), None).is_ok());
        assert_eq!(word(Metadata::check(&listed, &at("other.example"), None)), "metadata_host_changed");
    }
}
