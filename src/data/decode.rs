//! Bytes to a [`Table`]: what they are is told by the bytes alone, never by a name.
//!
//! ```text
//! first and last bytes --> Parquet -----------------------------------> parquet
//!                     \--> gzip, zstd --unpack (a stream)--> delimited (CSV)
//!                      \-> anything else -------------------/
//! ```

mod delimited;
mod packed;
#[cfg(feature = "parquet")]
mod parquet;
mod sniff;

use super::content::Opened;
use super::error::DataError;
use super::table::Table;
use super::{Check, Config};
use packed::Packing;

/// Cells between two looks at whether to go on; well under 20 ms of work.
pub(super) const CELLS_PER_CHECK: usize = 1 << 16;

/// Longest text of a cell, in bytes.
const MAX_WORD_BYTES: usize = 16 << 20;

/// First and last bytes of a Parquet file.
const PARQUET: [u8; 4] = *b"PAR1";

/// Last bytes of one whose footer is encrypted.
const PARQUET_ENCRYPTED: [u8; 4] = *b"PARE";

/// Fewest bytes of a Parquet file: both marks, and the length of what lies before the last one.
const LEAST_PARQUET_BYTES: u64 = 12;

/// What is asked of a reading.
#[derive(Clone, Copy)]
struct Options<'a> {
    /// Name of the target column; the last one where absent.
    target: Option<&'a str>,
    /// How much there may be.
    config: &'a Config,
    /// Whether to go on.
    check: Check<'a>,
}

/// Reads all of `opened`. `target` is the name of the target column; the last one where absent.
///
/// # Errors
/// It is nothing that is read here, it is damaged, a limit of `config` is passed, or `check` says to stop.
pub(super) fn decode(
    opened: &Opened,
    target: Option<&str>,
    config: &Config,
    check: Check<'_>,
) -> Result<Table, DataError> {
    let unreadable = |source| DataError::Unreadable { path: opened.path.clone(), source };
    let length = opened.content.length().map_err(unreadable)?;
    if length > config.max_bytes {
        return Err(too_large(&opened.path, config.max_bytes, "bytes"));
    }
    let mut magic = [0; 4];
    let count = opened.content.read_at(0, &mut magic).map_err(unreadable)?;
    let packing = Packing::of(magic.get(..count).unwrap_or_default());
    let options = Options { target, config, check };
    let mut end = [0; 4];
    if magic == PARQUET && length >= LEAST_PARQUET_BYTES {
        opened.content.read_at(length - 4, &mut end).map_err(unreadable)?;
    }
    if end == PARQUET || end == PARQUET_ENCRYPTED {
        return columns(opened, &options);
    }
    delimited::decode(opened, packing, &options)
}

#[cfg(feature = "parquet")]
fn columns(opened: &Opened, options: &Options<'_>) -> Result<Table, DataError> {
    parquet::decode(opened, options)
}

#[cfg(not(feature = "parquet"))]
fn columns(opened: &Opened, _: &Options<'_>) -> Result<Table, DataError> {
    Err(DataError::without_parquet(&opened.path))
}

fn too_large(path: &str, limit: u64, unit: &'static str) -> DataError {
    DataError::TooLarge { path: path.to_owned(), limit, unit }
}
