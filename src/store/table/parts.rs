//! A connection as it travels from one store to another: its parts in clear, under their names.

use zeroize::Zeroizing;

use super::Plain;
use crate::error::StoreError;
use crate::store::record;

const ID: &str = "id";
const PROFILE: &str = "profile";
const TOKENS: &str = "tokens";
const HISTORY: &str = "history";

impl Plain {
    /// Gives every part, the id first, to `take`.
    pub(crate) fn with_parts<T>(&self, take: impl FnOnce(&[(&str, &[u8])]) -> T) -> Result<T, StoreError> {
        let id = record::encode_name(&self.id)?;
        let mut parts: Vec<(&str, &[u8])> =
            vec![(ID, &id), (PROFILE, &self.profile), (HISTORY, &self.history)];
        parts.extend(self.tokens.as_ref().map(|tokens| (TOKENS, tokens.as_slice())));
        Ok(take(&parts))
    }

    /// From parts that were given; each must read as what it says it is.
    pub(crate) fn of_parts(parts: Vec<(String, Zeroizing<Vec<u8>>)>) -> Result<Self, StoreError> {
        const UNKNOWN: StoreError =
            StoreError::Unreadable("it was written by another version of token-broker");
        let (mut id, mut profile, mut tokens, mut history) = (None, None, None, None);
        for (name, value) in parts {
            match name.as_str() {
                ID => id = Some(record::decode_name(&value)?),
                PROFILE => profile = Some(value),
                TOKENS => tokens = Some(value),
                HISTORY => history = Some(value),
                _ => return Err(UNKNOWN),
            }
        }
        let ((id, profile), history) = id.zip(profile).zip(history).ok_or(UNKNOWN)?;
        record::decode_profile(&profile)?;
        tokens.as_ref().map(|tokens| record::decode_tokens(tokens)).transpose()?;
        record::decode_history(&history)?;
        Ok(Self { id, profile, tokens, history })
    }
}
