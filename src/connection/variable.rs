//! What a connection knows for its provider's variables, such as the address of the account's own instance.
//!
//! Whoever fills these has held each value against the pattern of the provider's entry; whoever reads them does so again.

use std::collections::BTreeMap;

/// A connection's values, by the name of the variable.
pub type Values = BTreeMap<String, String>;

/// What was told of them at one moment. `None`: something that does not fit its pattern, so that what was known before
/// holds no longer and nothing takes its place.
pub type Told = BTreeMap<String, Option<String>>;

/// Takes over what was told; what nobody spoke of stays.
pub(super) fn learn(values: &mut Values, told: Told) {
    for (name, value) in told {
        match value {
            Some(value) => drop(values.insert(name, value)),
            None => drop(values.remove(&name)),
        }
    }
}
