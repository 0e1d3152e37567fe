//! Connections and sessions as rows of an engine: where they lie, how they are sealed, when a write is refused.
//! Owns the rules of compare-and-swap. Does not know threads, files or async: every function takes an engine, and a
//! write answers the changes to apply. Invariant: a row is sealed for exactly its name and its revision.

mod escrow;
mod parts;
#[cfg(test)]
mod tests;

pub(crate) use escrow::FOREIGN;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use super::engine::{Change, Engine, Fault};
use super::index::{Index, Key, Kind};
use super::record::{self, ConnectionRow, SessionRow};
use super::seal::{Field, Place, Sealer, Unopened};
use super::{Expected, Page, PageToken, Revision, Selection, SessionKey, Stored};
use crate::clock::Timestamp;
use crate::connection::{ConnectSession, Connection, ConnectionId, History, Profile};
use crate::error::StoreError;

/// Rows read at a time while listing or sweeping: bounds both memory and how long a writer waits.
const STRIDE: usize = 256;

/// How connections and sessions lie in one store.
pub(crate) struct Table {
    sealer: Sealer,
    index: Index,
    /// The highest revision that was ever removed. A record that is made again starts above it, so that no revision
    /// repeats for a name. One number for all names: it costs eight bytes instead of a grave for each.
    floor: AtomicU64,
}

/// A connection ready to be sealed: what travels to the thread that writes.
pub(crate) struct Plain {
    id: ConnectionId,
    profile: Zeroizing<Vec<u8>>,
    tokens: Option<Zeroizing<Vec<u8>>>,
    history: Zeroizing<Vec<u8>>,
}

impl Plain {
    pub(crate) fn new(connection: &Connection) -> Result<Self, StoreError> {
        Ok(Self {
            id: connection.profile.id.clone(),
            profile: record::encode_profile(&connection.profile)?,
            tokens: connection.tokens.as_ref().map(record::encode_tokens).transpose()?,
            history: record::encode_history(&connection.history)?,
        })
    }
}

/// A connection that a scan came upon, by its key; or why it does not open.
pub(crate) type Opened = (Key, Result<Plain, StoreError>);

/// A session ready to be sealed.
pub(crate) struct PlainSession {
    expires_at: Timestamp,
    plain: Zeroizing<Vec<u8>>,
}

impl PlainSession {
    pub(crate) fn new(session: &ConnectSession) -> Result<Self, StoreError> {
        Ok(Self { expires_at: session.expires_at, plain: record::encode_session(session)? })
    }
}

impl Table {
    pub(crate) fn new(sealer: Sealer, index: Index) -> Arc<Self> {
        Arc::new(Self { sealer, index, floor: AtomicU64::new(0) })
    }

    pub(crate) fn get(
        &self,
        engine: &dyn Engine,
        id: &ConnectionId,
    ) -> Result<Option<Stored<Connection>>, Fault> {
        let Some(row) = engine.get(&self.index.connection(id))? else { return Ok(None) };
        let row = ConnectionRow::decode(&row)?;
        let profile = self.open_profile(id, &row)?;
        let tokens = match row.tokens {
            [] => None,
            sealed => {
                let plain = self.open(named(id, Field::Tokens, row.revision), sealed)?;
                Some(record::decode_tokens(&plain)?)
            }
        };
        let history = match row.history {
            [] => History::default(),
            sealed => record::decode_history(&self.open(named(id, Field::History, row.revision), sealed)?)?,
        };
        let value = Connection { profile, tokens, history };
        Ok(Some(Stored { value, revision: Revision(row.revision) }))
    }

    pub(crate) fn put(
        &self,
        engine: &dyn Engine,
        plain: &Plain,
        expected: Expected,
        changes: &mut Vec<Change>,
    ) -> Result<Revision, Fault> {
        let key = self.index.connection(&plain.id);
        let revision = match (held(engine, &key)?, expected) {
            (None, Expected::Absent) => self.floor.load(Ordering::SeqCst) + 1,
            (Some(held), Expected::At(Revision(expected))) if held == expected => held + 1,
            (None | Some(_), Expected::Absent | Expected::At(_)) => return Err(StoreError::Conflict.into()),
        };
        let name = record::encode_name(&plain.id)?;
        let tokens = plain.tokens.as_ref();
        let row = ConnectionRow {
            revision,
            name: &self.sealer.seal(by_row(&key, Field::Name, revision), &name),
            profile: &self.sealer.seal(named(&plain.id, Field::Profile, revision), &plain.profile),
            tokens: &tokens.map_or(Vec::new(), |tokens| {
                self.sealer.seal(named(&plain.id, Field::Tokens, revision), tokens)
            }),
            history: &self.sealer.seal(named(&plain.id, Field::History, revision), &plain.history),
        };
        changes.push(Change { key, value: Some(row.encode()) });
        Ok(Revision(revision))
    }

    pub(crate) fn remove(
        &self,
        engine: &dyn Engine,
        id: &ConnectionId,
        expected: Expected,
        changes: &mut Vec<Change>,
    ) -> Result<(), Fault> {
        let key = self.index.connection(id);
        match (held(engine, &key)?, expected) {
            (None, Expected::Absent) => Ok(()),
            (Some(held), Expected::At(Revision(expected))) if held == expected => {
                self.floor.fetch_max(held, Ordering::SeqCst);
                changes.push(Change { key, value: None });
                Ok(())
            }
            (None | Some(_), Expected::Absent | Expected::At(_)) => Err(StoreError::Conflict.into()),
        }
    }

    pub(crate) fn list(
        &self,
        engine: &dyn Engine,
        selection: &Selection,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<Page, Fault> {
        let page = self.part(engine, selection, after, limit.max(1))?;
        warn_of_unreadable(page.unreadable, "connections");
        Ok(page)
    }

    fn part(
        &self,
        engine: &dyn Engine,
        selection: &Selection,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<Page, Fault> {
        let mut page = Page { profiles: Vec::new(), next: None, unreadable: 0 };
        let mut cursor = after.map(|token| token.0.clone());
        loop {
            let rows = engine.scan(Kind::Connection, cursor.as_deref(), STRIDE)?;
            let is_last = rows.len() < STRIDE;
            for (key, row) in rows {
                match row.and_then(|row| self.profile_at(&key, &row)) {
                    Ok(profile) if !selection.contains(&profile) => {}
                    // One more than asked for is looked for, so that the last page knows it is the last.
                    Ok(_) if page.profiles.len() == limit => {
                        page.next = cursor.map(PageToken);
                        return Ok(page);
                    }
                    Ok(profile) => page.profiles.push(profile),
                    Err(StoreError::Unreadable(_)) => page.unreadable += 1,
                    Err(error) => return Err(error.into()),
                }
                cursor = Some(key[1..].to_vec());
            }
            if is_last {
                return Ok(page);
            }
        }
    }

    /// The profile of a row that was not asked for by name.
    fn profile_at(&self, key: &Key, row: &[u8]) -> Result<Profile, StoreError> {
        let row = ConnectionRow::decode(row)?;
        let name = self.open(by_row(key, Field::Name, row.revision), row.name)?;
        self.open_profile(&record::decode_name(&name)?, &row)
    }

    /// Up to `limit` whole connections that come after `after`, with the key of each; what does not open is there as why.
    pub(crate) fn connections(
        &self,
        engine: &dyn Engine,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Opened>, Fault> {
        let whole = |key: &Key, row: &[u8]| -> Result<Plain, Fault> {
            let profile = self.profile_at(key, row)?;
            let found = self.get(engine, &profile.id)?;
            let found = found.ok_or(StoreError::Unreadable("it lies in another place than its name says"))?;
            Ok(Plain::new(&found.value)?)
        };
        let rows = engine.scan(Kind::Connection, after, limit)?;
        let opened = rows.into_iter().map(|(key, row)| {
            let plain = match row {
                Ok(row) => match whole(&key, &row) {
                    Ok(plain) => Ok(plain),
                    Err(Fault::Refused(error)) => Err(error),
                    Err(fault) => return Err(fault),
                },
                Err(error) => Err(error),
            };
            Ok((key, plain))
        });
        opened.collect()
    }

    /// Opens every part of a row that lies under `key` and answers whose it is where it tells of an unfinished refresh; else
    /// says why not, and whose it is if that can be told.
    pub(crate) fn verify(
        &self,
        key: &Key,
        row: &[u8],
    ) -> Result<Option<ConnectionId>, (Option<ConnectionId>, StoreError)> {
        if key[0] == Kind::Session.byte() {
            let opened = SessionRow::decode(row)
                .and_then(|row| self.open(by_row(key, Field::Session, counter(row.expires_at)), row.sealed));
            return opened.map(|_| None).map_err(|why| (None, why));
        }
        let unnamed = |why| (None, why);
        let row = ConnectionRow::decode(row).map_err(unnamed)?;
        let name = self.open(by_row(key, Field::Name, row.revision), row.name).map_err(unnamed)?;
        let id = record::decode_name(&name).map_err(unnamed)?;
        let open = |field, sealed| self.open(named(&id, field, row.revision), sealed);
        let others = [(Field::Tokens, row.tokens), (Field::History, row.history)];
        let opened = open(Field::Profile, row.profile).and_then(|profile| {
            let mut others = others.into_iter().filter(|(_, sealed)| !sealed.is_empty());
            others.try_for_each(|(field, sealed)| open(field, sealed).map(drop))?;
            Ok(record::is_unfinished(&profile))
        });
        match opened {
            Ok(is_unfinished) => Ok(is_unfinished.then_some(id)),
            Err(why) => Err((Some(id), why)),
        }
    }

    pub(crate) fn put_session(&self, key: SessionKey, session: &PlainSession, changes: &mut Vec<Change>) {
        let key = self.index.session(key);
        let sealed =
            self.sealer.seal(by_row(&key, Field::Session, counter(session.expires_at)), &session.plain);
        let row = SessionRow { expires_at: session.expires_at, sealed: &sealed };
        changes.push(Change { key, value: Some(row.encode()) });
    }

    pub(crate) fn session(
        &self,
        engine: &dyn Engine,
        key: SessionKey,
    ) -> Result<Option<ConnectSession>, Fault> {
        let key = self.index.session(key);
        let Some(row) = engine.get(&key)? else { return Ok(None) };
        let row = SessionRow::decode(&row)?;
        let plain = self.open(by_row(&key, Field::Session, counter(row.expires_at)), row.sealed)?;
        Ok(Some(record::decode_session(&plain)?))
    }

    pub(crate) fn take_session(
        &self,
        engine: &dyn Engine,
        key: SessionKey,
        changes: &mut Vec<Change>,
    ) -> Result<Option<ConnectSession>, Fault> {
        let session = self.session(engine, key)?;
        if session.is_some() {
            changes.push(Change { key: self.index.session(key), value: None });
        }
        Ok(session)
    }

    pub(crate) fn sweep_sessions(
        &self,
        engine: &dyn Engine,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Result<usize, Fault> {
        let (mut cursor, mut swept, mut unreadable) = (None::<Vec<u8>>, 0, 0);
        loop {
            let rows = engine.scan(Kind::Session, cursor.as_deref(), STRIDE)?;
            let is_last = rows.len() < STRIDE;
            for (key, row) in rows {
                match row.and_then(|row| Ok(SessionRow::decode(&row)?.expires_at)) {
                    Ok(expires_at) if expires_at < now => {
                        changes.push(Change { key, value: None });
                        swept += 1;
                    }
                    Ok(_) => {}
                    Err(StoreError::Unreadable(_)) => unreadable += 1,
                    Err(error) => return Err(error.into()),
                }
                cursor = Some(key[1..].to_vec());
            }
            if is_last {
                warn_of_unreadable(unreadable, "sessions");
                return Ok(swept);
            }
        }
    }

    fn open_profile(&self, id: &ConnectionId, row: &ConnectionRow<'_>) -> Result<Profile, StoreError> {
        let plain = self.open(named(id, Field::Profile, row.revision), row.profile)?;
        record::decode_profile(&plain)
    }

    fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        self.sealer.open(place, sealed).map_err(Unopened::into)
    }
}

impl From<Unopened> for StoreError {
    fn from(why: Unopened) -> Self {
        Self::Unreadable(why.as_str())
    }
}

/// Once for each listing or sweep, and not for each record: damage may be wide.
fn warn_of_unreadable(unreadable: usize, of: &'static str) {
    if unreadable > 0 {
        tracing::error!(
            reason = "RECORD_UNREADABLE",
            unreadable,
            of,
            "records do not open and were left out: another key sealed them, or they are damaged"
        );
    }
}

fn held(engine: &dyn Engine, key: &Key) -> Result<Option<u64>, Fault> {
    match engine.get(key)? {
        Some(row) => Ok(Some(ConnectionRow::revision_of(&row)?)),
        None => Ok(None),
    }
}

/// The place of a part of a connection.
fn named(id: &ConnectionId, field: Field, generation: u64) -> Place<'_> {
    Place {
        tenant: id.tenant.as_str(),
        provider: id.provider.as_str(),
        connection: id.name.as_str().as_bytes(),
        field,
        generation,
    }
}

/// The place of what must open before any name is known: the row's key, an HMAC of the names, stands for them.
fn by_row(key: &Key, field: Field, generation: u64) -> Place<'_> {
    Place { tenant: "", provider: "", connection: key, field, generation }
}

/// A session is written once; its expiry stands in for the count of its writes and binds the copy kept in clear.
fn counter(expires_at: Timestamp) -> u64 {
    expires_at.as_millis().cast_unsigned()
}
