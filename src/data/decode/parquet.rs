//! Parquet to a [`Table`]: row group by row group, column by column, page by page, straight into the table's columns.
//!
//! ```text
//! footer --judged--> metadata --> schema, flat --> one builder a column
//!                        \--> chunk (column of a row group) --Chunk: pages--> ColumnReader --Meaning--> cells
//! ```
//!
//! Types say what is a number and what is a word (see `cells`), so nothing is guessed and nothing read twice. What a
//! file says of its sizes is checked before memory is taken for it; a fault of the decoder on a damaged file is caught
//! and reported as damage. Nested columns and encrypted files are refused by name.

mod cells;
mod column;
mod delta;
mod header;
mod pages;
mod thrift;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader,
    ParquetStatisticsPolicy,
};
use parquet::schema::types::ColumnDescriptor;

use super::super::content::Opened;
use super::super::dataset::Notes;
use super::super::error::{DataError, shown};
use super::super::table::{ColumnBuilder, Table, unnamed};
use super::{Options, PARQUET, PARQUET_ENCRYPTED, too_large};
use cells::Meaning;
use column::Reading;
use header::Schema;
use pages::{Budget, Chunk, Codec, PageError};

/// Length of the metadata and the magic after it.
const FOOTER_BYTES: u64 = 8;

/// Largest metadata of a file.
const MAX_METADATA_BYTES: u64 = 64 << 20;

/// Largest page, once it is decompressed.
const MAX_PAGE_BYTES: u64 = 256 << 20;

/// Values that are read at once; few of those that have a length of their own.
const BATCH: usize = 4096;
const BATCH_OF_BYTES: usize = 128;

/// What pandas calls the columns that it makes of an index.
const INDEX_PREFIX: &str = "__index_level_";

/// Reads all of `opened`.
///
/// # Errors
/// It is damaged, it has what is not read here, a limit is passed, or `check` says to stop.
pub(super) fn decode(opened: &Opened, options: &Options<'_>) -> Result<Table, DataError> {
    let file = File { opened, options };
    let metadata = file.metadata()?;
    let rows = file.rows(&metadata)?;
    let schema = metadata.file_metadata().schema_descr();
    let mut columns = file.columns(schema.columns())?;
    file.fits(u64::from(rows), &columns)?;
    let page_bytes = MAX_PAGE_BYTES.min(options.config.max_memory_bytes / 4);
    let budget = Budget {
        page_bytes,
        unpacked_bytes: options.config.max_unpacked_bytes,
        unpacked: Arc::new(AtomicU64::new(0)),
    };
    let mut notes = Notes::default();
    let mut held_bytes = 0;
    let mut first_row = 0;
    for group in metadata.row_groups() {
        for (column, chunk) in columns.iter_mut().zip(group.columns()) {
            let before = column.builder.memory_bytes();
            let codec = Codec::of(chunk.compression()).map_err(|allowed| {
                let what = format!("is compressed with {:?}; allowed: {allowed}", chunk.compression());
                file.unfit(&column.name, what)
            })?;
            let (position, end) = file.place(chunk, &column.name)?;
            let chunk = Chunk {
                content: Arc::clone(&opened.content),
                position,
                end,
                codec,
                cells: group.num_rows().unsigned_abs(),
                empty_pages: 0,
                optional: column.descriptor.max_def_level() > 0,
                value_bytes: least_value_bytes(&column.descriptor),
                batch: batch(&column.descriptor) as u64,
                budget: budget.clone(),
            };
            let reading = Reading { file, held_bytes: held_bytes - before, first_row };
            reading.column(chunk, column)?;
            held_bytes = held_bytes - before + column.builder.memory_bytes();
        }
        first_row += group.num_rows().unsigned_abs();
    }
    // An index comes last in the file; what comes last here is the target unless one is named.
    columns.sort_by_key(|column| !column.index);
    let columns: Vec<_> = columns
        .into_iter()
        .map(|column| {
            if column.infinite > 0 {
                let item = format!("{} ({})", shown(&column.name), column.infinite);
                notes.add("columns with infinite numbers, which count as missing", item);
            }
            column.builder.finish(column.name)
        })
        .collect();
    Ok(Table { columns, rows, notes: notes.lines().collect() })
}

/// Values that are read at once.
fn batch(descriptor: &ColumnDescriptor) -> usize {
    match descriptor.physical_type() {
        Type::BYTE_ARRAY => BATCH_OF_BYTES,
        _ => BATCH,
    }
}

/// Fewest bytes of a value of this type.
fn least_value_bytes(descriptor: &ColumnDescriptor) -> u64 {
    match descriptor.physical_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => u64::from(descriptor.type_length().unsigned_abs().max(1)),
    }
}

/// A column while it is read.
struct ColumnOf {
    name: String,
    descriptor: Arc<ColumnDescriptor>,
    meaning: Meaning,
    builder: ColumnBuilder,
    /// Whether pandas made it of an index.
    index: bool,
    /// Infinite numbers in it.
    infinite: u64,
}

#[derive(Clone, Copy)]
struct File<'a> {
    opened: &'a Opened,
    options: &'a Options<'a>,
}

impl File<'_> {
    fn path(self) -> String {
        self.opened.path.clone()
    }

    fn damaged(self, what: impl Into<String>) -> DataError {
        DataError::Damaged { path: self.path(), what: what.into() }
    }

    fn unfit(self, column: &str, problem: impl Into<String>) -> DataError {
        DataError::Column { path: self.path(), column: column.to_owned(), problem: problem.into() }
    }

    /// Reads the footer.
    fn metadata(self) -> Result<ParquetMetaData, DataError> {
        let unreadable = |source| DataError::Unreadable { path: self.path(), source };
        let length = self.opened.content.length().map_err(unreadable)?;
        let mut footer = [0; FOOTER_BYTES as usize];
        let at = length.saturating_sub(FOOTER_BYTES);
        self.opened.content.read_exact_at(at, &mut footer).map_err(unreadable)?;
        let [a, b, c, d, magic @ ..] = footer;
        if magic == PARQUET_ENCRYPTED {
            return Err(self.damaged("its footer is encrypted, and nothing here has the key"));
        }
        let size = u64::from(u32::from_le_bytes([a, b, c, d]));
        let most = MAX_METADATA_BYTES.min(self.options.config.max_memory_bytes / 16);
        if size > at.saturating_sub(PARQUET.len() as u64) {
            return Err(self.damaged("its footer is larger than itself"));
        }
        if size > most {
            return Err(too_large(&self.opened.path, most, "bytes of metadata"));
        }
        let mut bytes = vec![0; size as usize];
        self.opened.content.read_exact_at(at - size, &mut bytes).map_err(unreadable)?;
        match Schema::read(&bytes) {
            None => return Err(self.damaged("its schema makes no sense")),
            Some(Schema::Nested(column)) => {
                return Err(self.unfit(&column, "is nested; allowed: columns of single values"));
            }
            Some(Schema::Flat(0)) => return Err(DataError::Empty { path: self.path() }),
            Some(Schema::Flat(columns)) if columns > self.options.config.max_columns as u64 => {
                let limit = self.options.config.max_columns as u64;
                return Err(too_large(&self.opened.path, limit, "columns"));
            }
            Some(Schema::Flat(_)) => {}
        }
        let skip = ParquetMetaDataOptions::new()
            .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
        self.caught(|| ParquetMetaDataReader::decode_metadata_with_options(&bytes, Some(&skip)))
    }

    /// Runs a part of the decoder, whose faults are those of the file.
    fn caught<T>(self, decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, DataError> {
        match catch_unwind(AssertUnwindSafe(decode)) {
            Ok(result) => result.map_err(|error| self.failed(error)),
            Err(_) => Err(self.damaged("the decoder of Parquet files cannot make sense of it")),
        }
    }

    fn failed(self, error: ParquetError) -> DataError {
        let error = match error {
            ParquetError::External(error) => match error.downcast::<PageError>() {
                Ok(error) => *error,
                Err(error) => return self.damaged(error.to_string()),
            },
            other => return self.damaged(other.to_string()),
        };
        match error {
            PageError::Damaged(what) => self.damaged(what),
            PageError::Packed(what) => self.damaged(format!("a page does not decompress: {what}")),
            PageError::Unreadable(source) => DataError::Unreadable { path: self.path(), source },
            PageError::TooLarge(limit) => {
                too_large(&self.opened.path, limit, "bytes once it is decompressed")
            }
            PageError::TooMuchMemory(limit) => {
                too_large(&self.opened.path, limit, "bytes of memory for a single page")
            }
        }
    }

    /// How many rows there are, if they are not too many.
    fn rows(self, metadata: &ParquetMetaData) -> Result<u32, DataError> {
        let mut rows = 0_u64;
        for group in metadata.row_groups() {
            let more =
                u64::try_from(group.num_rows()).map_err(|_| self.damaged("a group of negative rows"))?;
            rows = rows.saturating_add(more);
        }
        let config = self.options.config;
        let columns = metadata.file_metadata().schema_descr().num_columns() as u64;
        if rows > u64::from(config.max_rows) {
            return Err(too_large(&self.opened.path, u64::from(config.max_rows), "rows"));
        }
        if rows.saturating_mul(columns) > config.max_cells {
            return Err(too_large(&self.opened.path, config.max_cells, "cells (rows times columns)"));
        }
        match u32::try_from(rows) {
            Ok(0) => Err(DataError::HeaderOnly { path: self.path() }),
            Ok(rows) => Ok(rows),
            Err(_) => Err(too_large(&self.opened.path, u64::from(u32::MAX), "rows")),
        }
    }

    /// An empty column for each one of the file.
    fn columns(self, descriptors: &[Arc<ColumnDescriptor>]) -> Result<Vec<ColumnOf>, DataError> {
        let mut columns: Vec<ColumnOf> = Vec::with_capacity(descriptors.len());
        let mut places = HashMap::with_capacity(descriptors.len());
        for (place, descriptor) in descriptors.iter().enumerate() {
            let index = descriptor.name().starts_with(INDEX_PREFIX);
            let name = match descriptor.name() {
                // Without a name it is known as an index further on.
                name if index || name.trim().is_empty() => match unnamed(place) {
                    unnamed if descriptors.iter().any(|other| other.name() == unnamed) => name.to_owned(),
                    unnamed => unnamed,
                },
                name => name.trim().to_owned(),
            };
            if let Some(first) = places.insert(name.clone(), place) {
                let problem = format!("is there twice, as columns {} and {}", first + 1, place + 1);
                return Err(self.unfit(&name, problem));
            }
            let meaning = Meaning::of(descriptor).map_err(|found| {
                self.unfit(&name, format!("has the type {found}; allowed: numbers, dates, times and text"))
            })?;
            let builder = ColumnBuilder::new();
            let descriptor = Arc::clone(descriptor);
            columns.push(ColumnOf { name, descriptor, meaning, builder, index, infinite: 0 });
        }
        let last = columns.iter().rposition(|column| !column.index).unwrap_or(0);
        for (place, column) in columns.iter_mut().enumerate() {
            if self.options.target.map_or(place == last, |target| target == column.name) {
                column.builder = ColumnBuilder::exact();
            }
        }
        Ok(columns)
    }

    /// Whether the cells can fit at all: each takes four bytes at least, if it is not missing in a whole column.
    fn fits(self, rows: u64, columns: &[ColumnOf]) -> Result<(), DataError> {
        let limit_bytes = self.options.config.max_memory_bytes;
        if rows.saturating_mul(columns.len() as u64).saturating_mul(4) > limit_bytes {
            return Err(DataError::TooMuchMemory { path: self.path(), limit_bytes });
        }
        Ok(())
    }

    /// Where the pages of a column begin and end.
    fn place(self, chunk: &ColumnChunkMetaData, column: &str) -> Result<(u64, u64), DataError> {
        if chunk.file_path().is_some_and(|path| !path.is_empty()) {
            return Err(self.unfit(column, "lies in another file; allowed: files that are complete"));
        }
        let unreadable = |source| DataError::Unreadable { path: self.path(), source };
        let length = self.opened.content.length().map_err(unreadable)?;
        let data = chunk.data_page_offset();
        // Some writers say 0 where there is no dictionary.
        let start =
            chunk.dictionary_page_offset().filter(|offset| (1..data).contains(offset)).unwrap_or(data);
        let place = u64::try_from(start).ok().zip(u64::try_from(chunk.compressed_size()).ok());
        place
            .and_then(|(start, size)| Some((start, start.checked_add(size)?)))
            .filter(|(start, end)| *start >= PARQUET.len() as u64 && *end <= length)
            .ok_or_else(|| self.damaged("a column lies outside of it"))
    }
}
