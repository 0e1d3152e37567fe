//! Writing and reading the stream, a frame at a time.

use std::io::{self, BufRead, Read as _, Write};

use zeroize::Zeroizing;

use super::{ExportError, ExportHeader, Seals};
use crate::store::seal::{Field, Place, Sealer, Unopened};

/// What the stream begins with; the form follows.
pub(super) const MAGIC: &str = "token-broker export";
const FORM: &str = "1";
/// Records are gathered up to so many bytes before they are sealed together.
const FRAME: usize = 128 * 1024;
/// A frame holds at least one record, which is at most 1 MiB.
const MAX_FRAME: usize = 4 * 1024 * 1024;
const MAX_HEADER: u64 = 4096;

/// A record's parts under their names.
pub(crate) type Parts = Vec<(String, Zeroizing<Vec<u8>>)>;

/// Writes a stream.
pub(crate) struct Writer<W> {
    into: W,
    sealer: Sealer,
    header: Vec<u8>,
    frame: Zeroizing<Vec<u8>>,
    frames: u64,
    records: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a stream with `header`.
    pub(crate) fn begin(mut into: W, seals: Seals, header: &ExportHeader) -> io::Result<Self> {
        let json = serde_json::to_string(header).map_err(io::Error::other)?;
        let line = format!("{MAGIC} {FORM} {json}\n").into_bytes();
        into.write_all(&line)?;
        let sealer = Sealer::new(seals.keys, header.export, seals.entropy);
        let frame = Zeroizing::new(Vec::with_capacity(FRAME * 2));
        Ok(Self { into, sealer, header: line, frame, frames: 0, records: 0 })
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, parts: &[(&str, &[u8])]) -> io::Result<()> {
        let len: usize = parts.iter().map(|(name, value)| 1 + name.len() + 4 + value.len()).sum();
        let number = |len: usize| u32::try_from(len).map(u32::to_be_bytes).map_err(io::Error::other);
        self.frame.extend_from_slice(&number(len)?);
        for (name, value) in parts {
            self.frame.push(u8::try_from(name.len()).map_err(io::Error::other)?);
            self.frame.extend_from_slice(name.as_bytes());
            self.frame.extend_from_slice(&number(value.len())?);
            self.frame.extend_from_slice(value);
        }
        self.records += 1;
        if self.frame.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    /// Ends the stream; answers how many records it has.
    pub(crate) fn end(mut self) -> io::Result<u64> {
        if !self.frame.is_empty() {
            self.flush()?;
        }
        let records = self.records.to_be_bytes();
        self.seal(Field::ExportEnd, &records)?;
        self.into.flush()?;
        Ok(self.records)
    }

    fn flush(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.frame);
        self.seal(Field::Export, &frame)
    }

    fn seal(&mut self, field: Field, plain: &[u8]) -> io::Result<()> {
        let sealed = self.sealer.seal(place(&self.header, field, self.frames), plain);
        self.frames += 1;
        let len = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.into.write_all(&len.to_be_bytes())?;
        self.into.write_all(&sealed)
    }
}

/// Reads a stream.
pub(crate) struct Reader<R> {
    from: R,
    sealer: Sealer,
    /// What it says of itself.
    pub(crate) header: ExportHeader,
    line: Vec<u8>,
    holds: Vec<crate::store::keyring::KeyId>,
    frames: u64,
    records: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads the beginning.
    pub(crate) fn begin(mut from: R, seals: Seals) -> Result<Self, ExportError> {
        let mut line = Vec::new();
        (&mut from).take(MAX_HEADER).read_until(b'\n', &mut line)?;
        let text = std::str::from_utf8(&line).map_err(|_| ExportError::NotAnExport)?;
        let text = text.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' '));
        let (form, json) = text.and_then(|text| text.split_once(' ')).ok_or(ExportError::NotAnExport)?;
        if form != FORM {
            return Err(ExportError::UnknownForm(form.chars().take(20).collect()));
        }
        let header: ExportHeader =
            serde_json::from_str(json.trim_end()).map_err(|_| ExportError::Damaged { records: 0 })?;
        let holds = seals.keys.infos().into_iter().map(|key| key.id).collect();
        let sealer = Sealer::new(seals.keys, header.export, seals.entropy);
        Ok(Self { from, sealer, header, line, holds, frames: 0, records: 0 })
    }

    /// The records of the next frame; `None` at the end, which must be there and be the last thing.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Vec<Parts>>, ExportError> {
        let sealed = self.sealed()?;
        match self.open(Field::Export, &sealed) {
            Ok(plain) => {
                self.frames += 1;
                let records = records(&plain).ok_or(ExportError::Damaged { records: self.records })?;
                self.records += records.len() as u64;
                Ok(Some(records))
            }
            Err(Unopened::UnknownKey) => Err(ExportError::WrongKey {
                wants: self.header.key.clone(),
                wants_made_at: self.header.key_made_at,
                holds: self.holds.clone(),
            }),
            Err(_) => self.end(&sealed).map(|()| None),
        }
    }

    fn end(&mut self, sealed: &[u8]) -> Result<(), ExportError> {
        let records = self.records;
        let total = match self.open(Field::ExportEnd, sealed) {
            Ok(total) => total,
            // The first thing that does not open: rather another key of that name than damage, if all else is well.
            Err(Unopened::Refused) if self.frames == 0 => {
                return Err(ExportError::WrongKey {
                    wants: self.header.key.clone(),
                    wants_made_at: self.header.key_made_at,
                    holds: self.holds.clone(),
                });
            }
            Err(_) => return Err(ExportError::Damaged { records }),
        };
        let is_last = self.from.read(&mut [0])? == 0;
        let is_whole = *total == records.to_be_bytes() && is_last;
        if is_whole { Ok(()) } else { Err(ExportError::Damaged { records }) }
    }

    fn sealed(&mut self) -> Result<Vec<u8>, ExportError> {
        let records = self.records;
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ExportError::CutOff { records },
            _ => ExportError::Io(error),
        };
        let mut len = [0; 4];
        self.from.read_exact(&mut len).map_err(cut)?;
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if len > MAX_FRAME {
            return Err(ExportError::Damaged { records });
        }
        let mut sealed = vec![0; len];
        self.from.read_exact(&mut sealed).map_err(cut)?;
        Ok(sealed)
    }

    fn open(&self, field: Field, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        self.sealer.open(place(&self.line, field, self.frames), sealed)
    }
}

/// A frame belongs to its stream, its header and its number.
fn place(header: &[u8], field: Field, frame: u64) -> Place<'_> {
    Place { tenant: "", provider: "", connection: header, field, generation: frame }
}

fn records(mut plain: &[u8]) -> Option<Vec<Parts>> {
    let mut records = Vec::new();
    while !plain.is_empty() {
        let mut record = counted(&mut plain)?;
        let mut parts = Parts::new();
        while let Some((&len, rest)) = record.split_first() {
            let (name, rest) = rest.split_at_checked(usize::from(len))?;
            record = rest;
            let name = std::str::from_utf8(name).ok()?.to_owned();
            parts.push((name, Zeroizing::new(counted(&mut record)?.to_vec())));
        }
        records.push(parts);
    }
    Some(records)
}

/// Takes bytes with their length before them.
fn counted<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = from.split_first_chunk::<4>()?;
    let (taken, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    *from = rest;
    Some(taken)
}
