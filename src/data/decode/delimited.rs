//! CSV to a [`Table`], as a stream: one record is held at a time, and its cells go straight into their columns.
//!
//! ```text
//! head --sniff--> format --pass 1--> columns --(a word after numbers?)--> pass 2, those columns only, as words
//! ```
//!
//! Fields are trimmed; quotes as in RFC 4180; lines of nothing but spaces are skipped. The target keeps its numbers as
//! the file has them, other columns what training can tell apart. Words after numbers in a column
//! are rare, and their earlier cells are exact only in the file: hence the second pass instead of a second copy. A
//! compressed file is decompressed anew by each pass.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::rc::Rc;

use csv::{ByteRecord, StringRecord};

use super::super::content::Opened;
use super::super::dataset::Notes;
use super::super::error::{DataError, Malformed, shown};
use super::super::table::{ColumnBuilder, Table, unnamed};
use super::super::{Check, Config};
use super::packed::{Damage, Packing};
use super::sniff::{Format, HEAD_BYTES, LineEnd, Whole, is_blank, sniff};
use super::{CELLS_PER_CHECK, too_large};

/// What is read from the file at once, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// Longest record, in bytes: an open quote would else swallow the file whole.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// Characters between two such looks, for words of any length: what they take is not known before they are there.
const TEXT_BYTES_PER_CHECK: usize = 4 << 20;

/// What is asked of a reading.
#[derive(Clone, Copy)]
pub(super) struct Options<'a> {
    /// Name of the target column; the last one where absent.
    pub(super) target: Option<&'a str>,
    /// How much there may be.
    pub(super) config: &'a Config,
    /// Whether to go on.
    pub(super) check: Check<'a>,
}

/// Reads all of `opened`, which is compressed by `packing`.
///
/// # Errors
/// It is not CSV, a line is wrong, a limit is passed, or `check` says to stop.
pub(super) fn decode(opened: &Opened, packing: Packing, options: &Options<'_>) -> Result<Table, DataError> {
    let Options { target, config, check } = *options;
    let file = Packed { opened, packing, config };
    let path = opened.path.clone();
    let format = file.look()?;
    let mut pass = Pass::begin(file, format)?;
    let names = column_names(pass.header()?, &pass, config)?;
    let last = names.len().saturating_sub(1);
    let mut columns: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let is_target = target.map_or(index == last, |target| target == name);
            Some(if is_target { ColumnBuilder::exact() } else { ColumnBuilder::new() })
        })
        .collect();
    let limits = Limits { config, held_bytes: 0, check };
    let rows = pass.rows(&mut columns, &limits)?;
    if rows == 0 {
        return Err(DataError::HeaderOnly { path });
    }

    let mut notes = Notes::default();
    let again = |column: &Option<ColumnBuilder>| column.as_ref().is_some_and(ColumnBuilder::needs_words);
    if columns.iter().any(again) {
        let mut second: Vec<_> =
            columns.iter().map(|column| again(column).then(ColumnBuilder::words)).collect();
        let mut pass = Pass::begin(file, format)?;
        let header = pass.header()?;
        let limits = Limits { held_bytes: memory_bytes(&columns), ..limits };
        if column_names(header, &pass, config)? != names || pass.rows(&mut second, &limits)? != rows {
            return Err(DataError::Changed { path });
        }
        for ((first, second), name) in columns.iter_mut().zip(second).zip(&names) {
            if let (Some(first), Some(second)) = (first, second) {
                first.replace(second);
                if let Some(word) = first.first_word() {
                    let item = format!("{} (line {}: {})", shown(name), word.line, shown(&word.text));
                    notes.add("columns read as words, since not all of their cells are numbers", item);
                }
            }
        }
    }
    let columns =
        columns.into_iter().zip(names).filter_map(|(column, name)| Some(column?.finish(name))).collect();
    Ok(Table { columns, rows, notes: notes.lines().collect() })
}

/// What a pass must keep to.
#[derive(Clone, Copy)]
struct Limits<'a> {
    config: &'a Config,
    /// Memory that an earlier pass holds.
    held_bytes: u64,
    check: Check<'a>,
}

fn memory_bytes(columns: &[Option<ColumnBuilder>]) -> u64 {
    columns.iter().flatten().map(ColumnBuilder::memory_bytes).sum()
}

/// A file that is compressed, or not.
#[derive(Clone, Copy)]
struct Packed<'a> {
    opened: &'a Opened,
    packing: Packing,
    config: &'a Config,
}

impl<'a> Packed<'a> {
    fn path(self) -> String {
        self.opened.path.clone()
    }

    /// What is in it, from its beginning.
    fn reader(self) -> Box<dyn Read + 'a> {
        self.packing.unpack(self.opened.content.reader(0))
    }

    /// Most bytes of what is in it, and what they are called.
    fn max_bytes(self) -> (u64, &'static str) {
        match self.packing {
            Packing::Plain => (self.config.max_bytes, "bytes"),
            Packing::Gzip | Packing::Zstd => {
                (self.config.max_unpacked_bytes, "bytes once it is decompressed")
            }
        }
    }

    /// Looks at the beginning.
    fn look(self) -> Result<Format, DataError> {
        let mut head = Vec::new();
        self.reader().take(HEAD_BYTES + 1).read_to_end(&mut head).map_err(|error| self.failed(error))?;
        let whole = if head.len() as u64 <= HEAD_BYTES { Whole::Yes } else { Whole::No };
        head.truncate(HEAD_BYTES as usize);
        let format =
            sniff(&head, whole).map_err(|looks_like| DataError::NotCsv { path: self.path(), looks_like })?;
        match head.iter().position(|byte| *byte == 0) {
            None => Ok(format),
            Some(nul) => {
                let line = 1 + head.iter().take(nul).filter(|byte| **byte == b'\n').count() as u64;
                Err(DataError::Line { path: self.path(), line, problem: Malformed::NulByte })
            }
        }
    }

    fn failed(self, error: io::Error) -> DataError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Damage>()) {
            Some(Damage(what)) => {
                let what = format!("it does not decompress with {}: {what}", self.packing.name());
                DataError::Damaged { path: self.path(), what }
            }
            None => DataError::Unreadable { path: self.path(), source: error },
        }
    }
}

/// The names in the header, made unique or refused.
fn column_names(header: StringRecord, pass: &Pass<'_>, config: &Config) -> Result<Vec<String>, DataError> {
    if header.len() > config.max_columns {
        return Err(too_large(&pass.file.opened.path, config.max_columns as u64, "columns"));
    }
    let mut names = Vec::with_capacity(header.len());
    let mut places = HashMap::with_capacity(header.len());
    for (index, name) in header.iter().enumerate() {
        // Tables written with an unnamed index column are common.
        let name = match name.trim() {
            "" => unnamed(index),
            name => name.to_owned(),
        };
        if let Some(first) = places.insert(name.clone(), index) {
            let problem = Malformed::DuplicateColumn { name, first: first + 1, second: index + 1 };
            return Err(pass.wrong(pass.line(&header), problem));
        }
        names.push(name);
    }
    Ok(names)
}

/// One reading of the file.
struct Pass<'a> {
    file: Packed<'a>,
    reader: csv::Reader<Metered<'a>>,
    meter: Rc<Meter>,
    format: Format,
    /// Where the record begins that is being read, blank lines before it included.
    next_line: u64,
}

impl<'a> Pass<'a> {
    fn begin(file: Packed<'a>, format: Format) -> Result<Self, DataError> {
        let mut inner = file.reader();
        io::copy(&mut (&mut inner).take(format.start), &mut io::sink())
            .map_err(|error| file.failed(error))?;
        let meter = Rc::new(Meter::default());
        let (max_bytes, unit) = file.max_bytes();
        let metered = Metered { inner, meter: Rc::clone(&meter), max_bytes, unit };
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(format.delimiter)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(metered);
        Ok(Self { file, reader, meter, format, next_line: 1 })
    }

    fn header(&mut self) -> Result<StringRecord, DataError> {
        let mut record = StringRecord::new();
        while self.next(&mut record)? {
            if !is_blank(record.as_byte_record()) {
                return Ok(record);
            }
        }
        Err(DataError::Empty { path: self.file.path() })
    }

    /// Reads all rows into `columns`; those that are `None` are skipped. Returns how many rows there are.
    fn rows(&mut self, columns: &mut [Option<ColumnBuilder>], limits: &Limits<'_>) -> Result<u32, DataError> {
        let config = limits.config;
        let width = columns.len().max(1);
        let mut record = StringRecord::new();
        let (mut rows, mut unchecked_cells, mut unchecked_bytes) = (0_u32, 0_usize, 0_usize);
        while self.next(&mut record)? {
            unchecked_cells += record.len();
            unchecked_bytes += record.as_slice().len();
            if unchecked_cells >= CELLS_PER_CHECK || unchecked_bytes >= TEXT_BYTES_PER_CHECK {
                (unchecked_cells, unchecked_bytes) = (0, 0);
                (limits.check)()?;
                self.fits(columns, limits)?;
            }
            if is_blank(record.as_byte_record()) {
                continue;
            }
            if record.len() != width {
                let problem = Malformed::Ragged { found: record.len(), expected: width };
                return Err(self.wrong(self.line(&record), problem));
            }
            if rows == config.max_rows {
                return Err(too_large(&self.file.opened.path, u64::from(config.max_rows), "rows"));
            }
            if (u64::from(rows) + 1).saturating_mul(width as u64) > config.max_cells {
                return Err(too_large(
                    &self.file.opened.path,
                    config.max_cells,
                    "cells (rows times columns)",
                ));
            }
            for (column, cell) in columns.iter_mut().zip(&record) {
                if let Some(column) = column {
                    column.push(cell.trim(), || self.line(&record));
                }
            }
            rows += 1;
        }
        self.fits(columns, limits)?;
        Ok(rows)
    }

    fn fits(&self, columns: &[Option<ColumnBuilder>], limits: &Limits<'_>) -> Result<(), DataError> {
        let limit_bytes = limits.config.max_memory_bytes;
        if limits.held_bytes.saturating_add(memory_bytes(columns)) > limit_bytes {
            return Err(DataError::TooMuchMemory { path: self.file.path(), limit_bytes });
        }
        Ok(())
    }

    /// Reads the next record; `false` at the end.
    fn next(&mut self, record: &mut StringRecord) -> Result<bool, DataError> {
        let start = self.reader.position();
        self.meter.record_start.set(start.byte());
        let half_a_line_end = self.format.line_end == LineEnd::CarriageReturn && start.byte() > 0;
        self.next_line = start.line() + u64::from(half_a_line_end);
        let mut bytes = std::mem::take(record).into_byte_record();
        let more = self.reader.read_byte_record(&mut bytes).map_err(|error| self.failed(error))?;
        if bytes.as_slice().contains(&0) {
            return Err(self.wrong(self.line_of(&bytes), Malformed::NulByte));
        }
        *record = StringRecord::from_byte_record(bytes).map_err(|error| {
            let field = error.utf8_error().field() + 1;
            self.wrong(self.line_of(&error.into_byte_record()), Malformed::NotUtf8 { field })
        })?;
        Ok(more)
    }

    /// The line on which the record that was just read begins, from 1.
    fn line(&self, record: &StringRecord) -> u64 {
        self.line_of(record.as_byte_record())
    }

    /// csv's own position of a record does not know of blank lines skipped before it, nor of the second byte of the
    /// `\r\n` before it. So this goes back from where the reader is now: past the line feed that ended the record
    /// (of `\r\n` it has taken only the first byte yet; the end of the file ends a record too) and those inside.
    fn line_of(&self, record: &ByteRecord) -> u64 {
        let position = self.reader.position();
        let inside = record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
        let at_the_end = position.byte() == self.meter.delivered.get() && self.meter.last.get() != b'\n';
        let ended_by_line_feed = self.format.line_end == LineEnd::LineFeed && !at_the_end;
        position.line().saturating_sub(inside + u64::from(ended_by_line_feed)).max(1)
    }

    fn wrong(&self, line: u64, problem: Malformed) -> DataError {
        DataError::Line { path: self.file.path(), line, problem }
    }

    fn failed(&self, error: csv::Error) -> DataError {
        let line = self.next_line;
        let source = match error.into_kind() {
            csv::ErrorKind::Io(source) => source,
            other => io::Error::other(format!("{other:?}")),
        };
        match source.get_ref().and_then(|inner| inner.downcast_ref::<Passed>()) {
            Some(Passed::Bytes { limit, unit }) => too_large(&self.file.opened.path, *limit, unit),
            Some(Passed::Record) => self.wrong(line, Malformed::LongRow { limit_bytes: MAX_RECORD_BYTES }),
            None => self.file.failed(source),
        }
    }
}

/// What a pass has taken from its file, seen from both ends of csv's buffer.
#[derive(Debug, Default)]
struct Meter {
    /// Bytes given to csv.
    delivered: Cell<u64>,
    /// The last of them.
    last: Cell<u8>,
    /// Where the record begins that is being read.
    record_start: Cell<u64>,
}

/// A limit that was passed in the middle of a read.
#[derive(Debug, thiserror::Error)]
enum Passed {
    #[error("more than {limit} {unit}")]
    Bytes { limit: u64, unit: &'static str },
    #[error("a row of more than {MAX_RECORD_BYTES} bytes")]
    Record,
}

/// Counts what goes through and refuses what is too much.
struct Metered<'a> {
    inner: Box<dyn Read + 'a>,
    meter: Rc<Meter>,
    max_bytes: u64,
    /// What `max_bytes` counts.
    unit: &'static str,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let delivered = self.meter.delivered.get();
        // The length was checked before, but a file may grow while it is read.
        if delivered > self.max_bytes {
            return Err(io::Error::other(Passed::Bytes { limit: self.max_bytes, unit: self.unit }));
        }
        if delivered - self.meter.record_start.get().min(delivered) > MAX_RECORD_BYTES {
            return Err(io::Error::other(Passed::Record));
        }
        let count = self.inner.read(buffer)?;
        if let Some(last) = buffer.get(..count).and_then(|read| read.last()) {
            self.meter.last.set(*last);
        }
        self.meter.delivered.set(delivered + count as u64);
        Ok(count)
    }
}
