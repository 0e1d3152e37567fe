//! Whose a second place is. Owns the marker in it, and the note in the store's directory that says that there is one.
//! Does not know what lies there. Invariant: a store that has used a place never begins with another in silence: a
//! volume that is not mounted holds the only tokens that are not spent.
//!
//! ```text
//! PLACE/ID.place      made when the store of that id first uses the place
//! STORE/second-place  the id of the store, and where its place was last
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::disk;
use super::open_error::OpenError;

/// How the names of markers end.
pub(super) const MARKER: &str = ".place";
const NOTE: &str = "second-place";

/// Makes the directory `place` the second place of the store of that `id`, which lies at `store`, or knows it again.
pub(super) fn claim(place: &Path, store: &Path, id: Uuid) -> Result<(), OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| OpenError::Io { path, why: error.to_string() }
    };
    let (marker, note) = (place.join(format!("{id}{MARKER}")), store.join(NOTE));
    let Seen { is_marked, noted } = seen(place, store, id)?;
    if !is_marked {
        disk::make_dir(place).map_err(failed(place))?;
        let aside = place.join(format!("{id}.new{MARKER}"));
        let what =
            b"The second place of a token-broker store: tokens that the store could not take lie here.\n";
        disk::write_whole(&aside, &marker, what).map_err(failed(place))?;
    } else if noted.is_some_and(|last| last == place.display().to_string()) {
        return Ok(());
    }
    let text = format!("{id}\n{}\n", place.display());
    // The marker comes first, so that what is noted was there. A store without room needs its second place all the more.
    if let Err(error) = disk::write_whole(&store.join(format!("{NOTE}.new")), &note, text.as_bytes()) {
        tracing::warn!(path = %note.display(), %error, "not noted: if the second place is missing later, it is not missed");
    }
    Ok(())
}

/// Refuses `place` where the store of that `id`, which lies at `store`, has used another. Changes nothing.
pub(super) fn check(place: &Path, store: &Path, id: Uuid) -> Result<(), OpenError> {
    seen(place, store, id).map(drop)
}

/// Refuses to do without a second place where the store of that `id`, which lies at `store`, has used one.
pub(super) fn check_none(store: &Path, id: Uuid) -> Result<(), OpenError> {
    let note = store.join(NOTE);
    let noted = noted(&note, id)
        .map_err(|error: io::Error| OpenError::Io { path: note.clone(), why: error.to_string() })?;
    match noted {
        Some(last) => Err(OpenError::NoPlace { path: store.to_owned(), note, last }),
        None => Ok(()),
    }
}

/// What is known of a place.
struct Seen {
    is_marked: bool,
    /// Where it was last, if there was one.
    noted: Option<String>,
}

fn seen(place: &Path, store: &Path, id: Uuid) -> Result<Seen, OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| OpenError::Io { path, why: error.to_string() }
    };
    let (marker, note) = (place.join(format!("{id}{MARKER}")), store.join(NOTE));
    let noted = noted(&note, id).map_err(failed(&note))?;
    let is_marked = marker.try_exists().map_err(failed(place))?;
    match noted {
        Some(last) if !is_marked => Err(refusal(place, note, &last)),
        noted => Ok(Seen { is_marked, noted }),
    }
}

/// Where the place of the store was last; `None` if it has none. A note of a store that lay here before is not ours; a
/// damaged one may be.
fn noted(note: &Path, id: Uuid) -> io::Result<Option<String>> {
    let text = match fs::read(note) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = text.lines();
    let owner = lines.next().unwrap_or_default();
    let is_others = Uuid::parse_str(owner).is_ok_and(|owner| owner != id);
    Ok((!is_others).then(|| lines.next().unwrap_or_default().to_owned()))
}

fn refusal(place: &Path, note: PathBuf, last: &str) -> OpenError {
    let mut why = if place.exists() {
        "it lacks the mark of this store, whose tokens may lie on a volume that is not mounted".to_owned()
    } else {
        "it is not there; is its volume mounted?".to_owned()
    };
    if !last.is_empty() && last != place.display().to_string() {
        why.push_str(&format!(" It was {last}"));
    }
    OpenError::OtherPlace { path: place.to_owned(), note, why }
}
