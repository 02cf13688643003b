//! Bytes to a [`Table`]: what they are is told by the bytes alone, never by a name.
//!
//! ```text
//! first bytes --> gzip, zstd --unpack (a stream)--> delimited (CSV)
//!            \--> anything else -------------------/
//! ```

mod delimited;
mod packed;
mod sniff;

use super::content::Opened;
use super::error::DataError;
use super::table::Table;
use super::{Check, Config};
use packed::Packing;

/// Cells between two looks at whether to go on; well under 20 ms of work.
pub(super) const CELLS_PER_CHECK: usize = 1 << 16;

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
    delimited::decode(opened, packing, &delimited::Options { target, config, check })
}

fn too_large(path: &str, limit: u64, unit: &'static str) -> DataError {
    DataError::TooLarge { path: path.to_owned(), limit, unit }
}
