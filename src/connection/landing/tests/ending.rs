//! What is left to be revoked when a connection is on its way out.

use super::*;
use crate::connection::TokenSet;

#[test]
fn the_token_before_is_revoked_too_where_the_provider_may_still_take_it() {
    for (what, reuse, after, expected) in [
        ("spent", ReuseProfile::default(), 0, &["rt-1"][..]),
        ("good for ever", profile(Reuse::Reusable), 3600, &["rt-1", "rt-0"][..]),
        ("good for a while", grace(60), 59, &["rt-1", "rt-0"][..]),
        ("no longer", grace(60), 60, &["rt-1"][..]),
        ("good for a further use, however late", count(2), 3600, &["rt-1", "rt-0"][..]),
    ] {
        let rotated = || tried(active(), Ok(issued("at-1", Some("rt-1"))), &at(T0, &reuse)).connection;
        let revoking = rotated().revoking(&reuse, T0 + secs(after));
        let values: Vec<_> = revoking.revocable().iter().map(refresh_value).collect();
        assert_eq!(values, expected, "{what}");
        let (connection, attempt) = begun(rotated(), &at(T0, &reuse));
        let revoking = connection.revoking(&reuse, T0 + secs(after));
        let came = Ok(issued("at-2", Some("rt-2")));
        let landed = revoking.landed(&attempt, &came, &at(T0 + secs(after), &reuse), 0).connection;
        let values: Vec<_> = landed.revocable().iter().map(refresh_value).collect();
        assert_eq!(values, [&["rt-2"][..], expected].concat(), "{what}, and tokens came meanwhile");
    }
}

fn refresh_value(set: &TokenSet) -> String {
    set.refresh.as_ref().unwrap().value.expose().clone()
}
