//! The look at every row when a store is opened (G10): whether each opens for the name it lies under, how many there are,
//! whether they are the ones that were last written, and which tell of a refresh that an earlier run left unfinished: to
//! look for those afterwards would cost a second scan, while their time runs out. Owns the scan. Invariant: what is found wrong is said aloud,
//! and what is well is served all the same.

use std::num::NonZero;
use std::thread;

use super::mark::Mark;
use super::shared::catching;
use crate::connection::ConnectionId;
use crate::error::StoreError;
use crate::store::engine::{Engine, Fault, Found};
use crate::store::index::{Key, Kind};
use crate::store::table::Table;

/// Rows read at a time.
const STRIDE: usize = 256;
/// Threads at most: opening 100 000 records must not take a machine for itself.
const MAX_THREADS: usize = 4;
/// Rows that are named in the log, of those that do not open: damage may be wide.
const MAX_NAMED: usize = 20;

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// The rows that are there, readable or not.
    pub(super) mark: Mark,
    /// Rows that do not open.
    pub(super) unreadable: u64,
    /// Rows of which not even the revision can be told.
    pub(super) unknown: Vec<Key>,
    /// Connections with a refresh that was begun and whose outcome is not written down.
    pub(super) unfinished: Vec<ConnectionId>,
    named: Vec<Unreadable>,
}

/// A row that does not open, and what is still known of it.
#[derive(Debug)]
struct Unreadable {
    key: Key,
    connection: Option<ConnectionId>,
    why: StoreError,
}

/// Looks at every row of `engine`. Keys are HMACs, so that their first byte deals them out evenly.
pub(super) fn take(engine: &dyn Engine, table: &Table) -> Result<Census, Fault> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let parts: Vec<Result<Census, Fault>> = thread::scope(|scope| {
        let look = |part| move || catching(|| take_part(engine, table, part, threads));
        let others: Vec<_> = (1..threads).map(|part| scope.spawn(look(part))).collect();
        let first = look(0)();
        let panicked = || Err(Fault::Broken("the scan of the store ended unexpectedly".to_owned()));
        let others = others.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked()));
        std::iter::once(first).chain(others).collect()
    });
    let mut census = Census::default();
    for part in parts {
        let part = part?;
        census.mark = census.mark.joined(part.mark);
        census.unreadable += part.unreadable;
        census.unknown.extend(part.unknown);
        census.unfinished.extend(part.unfinished);
        census.named.extend(part.named);
    }
    census.tell();
    Ok(census)
}

/// The rows whose keys begin with a byte of this part's share.
fn take_part(engine: &dyn Engine, table: &Table, part: usize, parts: usize) -> Result<Census, Fault> {
    let bound = |part: usize| u8::try_from(256 * part / parts).ok();
    let mut census = Census::default();
    for kind in [Kind::Connection, Kind::Session] {
        let mut after: Option<Vec<u8>> = bound(part).filter(|first| *first > 0).map(|first| vec![first]);
        'rows: loop {
            let rows = engine.scan(kind, after.as_deref(), STRIDE)?;
            let is_last = rows.len() < STRIDE;
            for found in rows {
                if bound(part + 1).is_some_and(|end| found.0[1] >= end) {
                    break 'rows;
                }
                after = Some(found.0[1..].to_vec());
                census.look_at(found, table);
            }
            if is_last {
                break;
            }
        }
    }
    Ok(census)
}

impl Census {
    fn look_at(&mut self, found: Found, table: &Table) {
        self.mark.add(&found);
        let (key, row) = found;
        if row.is_err() {
            self.unknown.push(key);
        }
        let (connection, why) = match row {
            Ok(row) => match table.verify(&key, &row) {
                Ok(unfinished) => return self.unfinished.extend(unfinished),
                Err(unread) => unread,
            },
            Err(why) => (None, why),
        };
        self.unreadable += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(Unreadable { key, connection, why });
        }
    }

    /// Names what does not open, as far as it can be named.
    fn tell(&self) {
        for Unreadable { key, connection, why } in self.named.iter().take(MAX_NAMED) {
            let reason = "RECORD_UNREADABLE";
            let row: String = key[1..9].iter().map(|byte| format!("{byte:02x}")).collect();
            match connection {
                Some(id) => {
                    let (tenant, provider, name) =
                        (id.tenant.as_str(), id.provider.as_str(), id.name.as_str());
                    tracing::error!(
                        reason,
                        tenant,
                        provider,
                        connection = name,
                        "a record cannot be opened: {why}"
                    );
                }
                None if key[0] == Kind::Session.byte() => {
                    tracing::error!(reason, row, "a consent under way cannot be opened: {why}");
                }
                None => tracing::error!(reason, row, "a record cannot be opened, nor its name: {why}"),
            }
        }
        let more = self.unreadable.saturating_sub(MAX_NAMED as u64);
        if more > 0 {
            tracing::error!(reason = "RECORD_UNREADABLE", "{more} more records cannot be opened");
        }
    }
}
