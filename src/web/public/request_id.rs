//! One id for one request, in every line it causes.

use axum::http::{HeaderMap, HeaderName};

use crate::entropy::Entropy;

/// The header in which a request's id comes and goes back.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id the peer gave, if it is one (1 to 64 characters of `[A-Za-z0-9._-]`), else a new one.
pub(super) fn request_id(headers: &HeaderMap, entropy: &dyn Entropy) -> String {
    let is_id = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let given = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_id);
    given.map_or_else(|| entropy.token::<12>(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn a_sound_id_is_kept_and_anything_else_replaced() {
        let entropy = SeededEntropy::new(1);
        let given = |id: &str| {
            let headers = [(X_REQUEST_ID, id.parse().unwrap())].into_iter().collect();
            request_id(&headers, &entropy)
        };
        assert_eq!(given("4f2a-1.b_C"), "4f2a-1.b_C");
        assert_eq!(request_id(&HeaderMap::new(), &entropy).len(), 16);
        for junk in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_ne!(given(junk), junk);
        }
    }
}
