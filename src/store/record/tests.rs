use proptest::prelude::*;

use super::*;
use crate::connection::{Backoff, Connection, Failure, Holder, Intent, Status};
use crate::error::OAuthCode;

const T: Timestamp = Timestamp::from_millis(1_795_269_600_123);

fn tokens(access: &str, refresh: Option<&str>) -> TokenSet {
    TokenSet {
        access: Some(AccessToken {
            value: Secret::new(access.to_owned()),
            token_type: "Bearer".into(),
            issued_at: T,
            expires_at: None,
        }),
        refresh: refresh
            .map(|value| RefreshToken { value: Secret::new(value.to_owned()), expires_at: Some(T) }),
        previous: None,
        surplus: Vec::new(),
    }
}

fn id() -> ConnectionId {
    ConnectionId::parse("acme".into(), "google".into(), "user-42".into()).unwrap()
}

/// What stands on users' disks. If this test fails, existing stores cannot be read: raise `VERSION` and keep
/// reading the old form.
#[test]
fn the_stored_form_is_pinned() {
    let encoded = encode_tokens(&tokens("at", Some("rt"))).unwrap();
    assert_eq!(
        std::str::from_utf8(&encoded).unwrap(),
        r#"{"access":{"value":"at","token_type":"Bearer","issued_at":1795269600123,"expires_at":null},"refresh":{"value":"rt","expires_at":1795269600123}}"#
    );
    let mut profile = Connection::pending(id(), T).profile;
    profile.status = Status::ReauthRequired;
    profile.account = Some(Account { id: "a".into(), email: None });
    profile.last_failure = Some(Failure {
        reason: "REAUTH_REQUIRED".into(),
        oauth_error: Some(OAuthCode::new("invalid_grant")),
        at: T,
    });
    let text = r#"{"id":{"tenant":"acme","provider":"google","name":"user-42"},"status":"reauth_required","generation":0,"account":{"id":"a","email":null},"scopes":[],"expires_at":null,"refresh_expires_at":null,"is_refreshable":false,"consented_at":null,"refreshed_at":null,"last_failure":{"reason":"REAUTH_REQUIRED","oauth_error":"invalid_grant","at":1795269600123},"created_at":1795269600123,"updated_at":1795269600123}"#;
    assert_eq!(std::str::from_utf8(&encode_profile(&profile).unwrap()).unwrap(), text);
    assert_eq!(decode_profile(text.as_bytes()).unwrap(), profile);
    assert_eq!(
        ConnectionRow { revision: 258, name: b"n", profile: b"pp", tokens: b"", history: b"h" }.encode(),
        b"\x02\0\0\0\0\0\0\x01\x02\0\0\0\x01n\0\0\0\x02pp\0\0\0\0\0\0\0\x01h"
    );
}

/// What the protocol added in version 2 of the row.
#[test]
fn the_stored_form_of_an_unfinished_refresh_is_pinned() {
    let mut profile = Connection::pending(id(), T).profile;
    profile.fence = 9;
    profile.intent = Some(Intent {
        attempt_id: u64::MAX,
        holder: Holder(7),
        generation: 3,
        fence: 9,
        first_sent_at: T,
        sent_at: T,
        deadline: T,
        tries: 2,
        fingerprint: 11,
    });
    profile.backoff = Some(Backoff { failures: 2, until: T, is_asked: false });
    profile.denials = 1;
    profile.quarantined_at = Some(T);
    let encoded = encode_profile(&profile).unwrap();
    let text = std::str::from_utf8(&encoded).unwrap();
    let pinned = r#""fence":9,"intent":{"attempt_id":18446744073709551615,"holder":7,"generation":3,"fence":9,"first_sent_at":1795269600123,"sent_at":1795269600123,"deadline":1795269600123,"tries":2,"fingerprint":11},"backoff":{"failures":2,"until":1795269600123},"denials":1,"quarantined_at":1795269600123,"#;
    assert!(text.contains(pinned), "{text}");
    assert_eq!(decode_profile(&encoded).unwrap(), profile);

    let mut tokens = tokens("at", None);
    tokens.previous = Some(RefreshToken { value: Secret::new("old".into()), expires_at: None });
    let encoded = encode_tokens(&tokens).unwrap();
    assert!(encoded.ends_with(br#""refresh":null,"previous":{"value":"old","expires_at":null}}"#));
    assert_eq!(decode_tokens(&encoded).unwrap(), tokens);
    tokens.surplus = vec![tokens.copy(), tokens.copy()];
    let encoded = encode_tokens(&tokens).unwrap();
    assert_eq!(decode_tokens(&encoded).unwrap(), tokens);

    let history = Connection::pending(id(), T).history;
    let encoded = encode_history(&history).unwrap();
    assert_eq!(&encoded[..], br#"[{"what":"begun","at":1795269600123,"generation":0}]"#);
    assert_eq!(decode_history(&encoded).unwrap(), history);
}

#[test]
fn a_row_of_the_version_before_is_read_and_has_no_history() {
    let row = b"\x01\0\0\0\0\0\0\x01\x02\0\0\0\x01n\0\0\0\x02pp\0\0\0\0";
    let read = ConnectionRow::decode(row).unwrap();
    assert_eq!(read, ConnectionRow { revision: 258, name: b"n", profile: b"pp", tokens: b"", history: b"" });
}

#[test]
fn a_session_comes_back_whole_in_both_phases() {
    let scopes: Scopes = ["a", "b"].into_iter().collect();
    let phases = [
        Phase::Code(CodeWait {
            code_verifier: Secret::new("verifier".into()),
            redirect_uri: "https://broker/callback/google".into(),
            return_url: Some("https://app/done".into()),
            scopes: scopes.clone(),
            variables: [("region".to_owned(), "eu".to_owned())].into(),
        }),
        Phase::Finish(FinishWait {
            tokens: tokens("at", None),
            scopes,
            account: Some(Account { id: "a".into(), email: Some("a@b".into()) }),
            variables: [("region".to_owned(), Some("eu".to_owned())), ("org".to_owned(), None)].into(),
        }),
    ];
    for phase in phases {
        let session = ConnectSession {
            session: "s-1".into(),
            connection: id(),
            expires_at: T,
            allow_account_change: true,
            phase,
        };
        let encoded = encode_session(&session).unwrap();
        let back = decode_session(&encoded).unwrap();
        assert_eq!(encode_session(&back).unwrap(), encoded);
        assert_eq!((back.connection, back.expires_at), (id(), T));
    }
}

#[test]
fn records_of_before_the_variables_are_read_and_know_none() {
    let profile = Connection::pending(id(), T).profile;
    let encoded = encode_profile(&profile).unwrap();
    assert!(!String::from_utf8_lossy(&encoded).contains("variables"), "what is not there is not written");
    assert!(decode_profile(&encoded).unwrap().variables.is_empty());
    let knowing = Connection::pending(id(), T).knowing([("region".to_owned(), "eu".to_owned())].into());
    let encoded = encode_profile(&knowing.profile).unwrap();
    assert_eq!(decode_profile(&encoded).unwrap(), knowing.profile);

    let session = br#"{"session":"s","connection":{"tenant":"","provider":"google","name":"a"},"expires_at":1,
        "allow_account_change":false,"phase":{"code":{"code_verifier":"v","redirect_uri":"r","return_url":null,"scopes":[]}}}"#;
    let Phase::Code(wait) = decode_session(session).unwrap().phase else { panic!("another phase") };
    assert!(wait.variables.is_empty());
}

#[test]
fn another_version_is_refused_by_name() {
    let mut row = ConnectionRow { revision: 1, name: b"", profile: b"", tokens: b"", history: b"" }.encode();
    assert_eq!(SessionRow::decode(&row).err(), Some(UNKNOWN));
    row[0] = 3;
    assert_eq!(ConnectionRow::decode(&row).unwrap_err(), UNKNOWN);
    assert_eq!(SessionRow::decode(&row).err(), Some(UNKNOWN));
    assert_eq!(ConnectionRow::decode(&[]).unwrap_err(), DAMAGED);
}

#[test]
fn a_field_this_version_does_not_know_is_refused_rather_than_lost() {
    let newer = br#"{"access":null,"refresh":null,"dpop":"x"}"#;
    assert_eq!(decode_tokens(newer).unwrap_err(), UNKNOWN);
}

#[test]
fn an_encoding_never_outgrows_its_buffer() {
    // Escapes are longer than what they stand for.
    let encoded = encode_tokens(&tokens(&"\u{1}\"\\".repeat(100), None)).unwrap();
    assert_eq!(encoded.len(), encoded.capacity());
}

proptest! {
    #[test]
    fn any_token_comes_back_as_it_was(access in "\\PC{0,64}", refresh in proptest::option::of(any::<String>())) {
        let tokens = tokens(&access, refresh.as_deref());
        prop_assert_eq!(decode_tokens(&encode_tokens(&tokens).unwrap()).unwrap(), tokens);
    }

    #[test]
    fn any_row_comes_back_as_it_was(
        revision: u64,
        parts in proptest::array::uniform4(proptest::collection::vec(any::<u8>(), 0..200)),
    ) {
        let [name, profile, tokens, history] = parts.each_ref().map(Vec::as_slice);
        let row = ConnectionRow { revision, name, profile, tokens, history };
        let encoded = row.encode();
        prop_assert_eq!(ConnectionRow::decode(&encoded).unwrap(), row);
        prop_assert!(ConnectionRow::decode(&encoded[..encoded.len() - 1]).is_err());
    }

    #[test]
    fn arbitrary_rows_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = ConnectionRow::decode(&bytes);
        let _ = SessionRow::decode(&bytes);
        let _ = decode_session(&bytes);
    }
}
