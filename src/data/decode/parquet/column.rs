//! One column of one row group: its values, in batches, into the column's builder.

use std::sync::Arc;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::DataType;

use super::super::super::error::{DataError, shown};
use super::super::{CELLS_PER_CHECK, MAX_WORD_BYTES};
use super::cells::{Cell, Value};
use super::pages::Chunk;
use super::{BATCH_OF_BYTES, ColumnOf, File, batch};

/// Reading one column of one row group.
pub(super) struct Reading<'a> {
    pub(super) file: File<'a>,
    /// Memory of the other columns.
    pub(super) held_bytes: u64,
    /// Rows before this group.
    pub(super) first_row: u64,
}

impl Reading<'_> {
    /// Reads all of it.
    pub(super) fn column(&self, chunk: Chunk, column: &mut ColumnOf) -> Result<(), DataError> {
        let rows = chunk.cells;
        let descriptor = Arc::clone(&column.descriptor);
        let reader = self.file.caught(|| Ok(get_column_reader(descriptor, Box::new(chunk))))?;
        match reader {
            ColumnReader::BoolColumnReader(reader) => self.values(reader, rows, column),
            ColumnReader::Int32ColumnReader(reader) => self.values(reader, rows, column),
            ColumnReader::Int64ColumnReader(reader) => self.values(reader, rows, column),
            ColumnReader::Int96ColumnReader(reader) => self.values(reader, rows, column),
            ColumnReader::FloatColumnReader(reader) => self.values(reader, rows, column),
            ColumnReader::DoubleColumnReader(reader) => self.values(reader, rows, column),
            ColumnReader::ByteArrayColumnReader(reader) => self.values(reader, rows, column),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => self.values(reader, rows, column),
        }
    }

    fn values<T: DataType<T: Value>>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        rows: u64,
        column: &mut ColumnOf,
    ) -> Result<(), DataError> {
        let options = self.file.options;
        let optional = column.descriptor.max_def_level() > 0;
        let batch = batch(&column.descriptor);
        let (mut levels, mut values) = (Vec::<i16>::new(), Vec::<T::T>::new());
        let (mut read, mut unchecked) = (0_u64, 0);
        while read < rows {
            levels.clear();
            values.clear();
            let wanted = batch.min((rows - read) as usize);
            let (records, _, _) = self
                .file
                .caught(|| reader.read_records(wanted, optional.then_some(&mut levels), None, &mut values))?;
            if records == 0 {
                return Err(self.file.damaged(format!("column {} ends early", shown(&column.name))));
            }
            let mut present = values.iter();
            for row in 0..records {
                let value = match levels.get(row) {
                    Some(0) => None,
                    _ => present.next(),
                };
                let line = self.first_row + read + row as u64 + 1;
                self.cell(value.map(|value| value.cell(column.meaning)), line, column)?;
            }
            read += records as u64;
            unchecked += records;
            if unchecked >= CELLS_PER_CHECK || batch == BATCH_OF_BYTES {
                unchecked %= CELLS_PER_CHECK;
                (options.check)()?;
                let limit_bytes = options.config.max_memory_bytes;
                if self.held_bytes.saturating_add(column.builder.memory_bytes()) > limit_bytes {
                    return Err(DataError::TooMuchMemory { path: self.file.path(), limit_bytes });
                }
            }
        }
        (options.check)()?;
        Ok(())
    }

    fn cell(&self, cell: Option<Cell<'_>>, line: u64, column: &mut ColumnOf) -> Result<(), DataError> {
        match cell {
            None => column.builder.push_missing(),
            Some(Cell::Number(number)) if number.is_finite() => column.builder.push_number(number + 0.0),
            Some(Cell::Number(number)) => {
                column.infinite += u64::from(number.is_infinite());
                column.builder.push_missing();
            }
            Some(Cell::Word(word)) => match word.trim() {
                "" => column.builder.push_missing(),
                word if word.len() > MAX_WORD_BYTES => {
                    let problem = format!("has text of more than {MAX_WORD_BYTES} bytes in row {line}");
                    return Err(self.file.unfit(&column.name, problem));
                }
                word => column.builder.push_word(word, line),
            },
            Some(Cell::NotText) => {
                let problem = format!("has bytes in row {line} that are no text; allowed: numbers and UTF-8");
                return Err(self.file.unfit(&column.name, problem));
            }
        }
        Ok(())
    }
}
