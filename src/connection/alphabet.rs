//! Which characters a token may hold: one rule for every way by which tokens come in. Pure.

/// Whether `text` may be an access token: visible ASCII, and not empty. RFC 6749 appendix A.12 would let it hold spaces, but
/// it is sent in a header, where RFC 6750 section 2.1 (`b64token`) allows none.
pub fn is_access_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether `text` may be a refresh token: ASCII that can be printed, spaces too (RFC 6749 appendix A.17), and not empty. It
/// is sent form-encoded.
pub fn is_refresh_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}
