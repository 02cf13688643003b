//! Lengths that are packed as differences: whether there are no more of them than their page has cells.
//!
//! The parquet crate makes room for as many as the bytes claim, and a claim of 2^56 ends the process. So the runs are
//! walked over first, without being decoded (Parquet's Encodings.md, DELTA_BINARY_PACKED).

use parquet::basic::Encoding;

use super::pages::PageError;

/// Judges the cells of a page of `values` cells at most, in `encoding`.
///
/// # Errors
/// They claim more lengths than that, or end within them.
pub(super) fn judge(encoding: Encoding, values: u32, cells: &[u8]) -> Result<(), PageError> {
    let runs = match encoding {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        // Those of prefixes, then those of what follows them.
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    // A page of nothing but missing cells.
    if cells.is_empty() {
        return Ok(());
    }
    let mut rest = cells;
    for _ in 0..runs {
        rest = after_run(rest, u64::from(values))
            .ok_or(PageError::Damaged("a page claims more lengths than it has cells"))?;
    }
    Ok(())
}

/// What follows the run that `bytes` begin with; `None` where it has more than `most` values or does not end in time.
fn after_run(bytes: &[u8], most: u64) -> Option<&[u8]> {
    let (block, rest) = number(bytes)?;
    let (parts, rest) = number(rest)?;
    let (count, rest) = number(rest)?;
    let (_first, mut rest) = number(rest)?;
    if count > most || parts == 0 {
        return None;
    }
    let (parts, values_of_part) = (usize::try_from(parts).ok()?, block / parts);
    let mut left = count.saturating_sub(1);
    // A block takes two bytes at least, so that this ends.
    while left > 0 {
        let (_least, after) = number(rest)?;
        let (widths, mut after) = after.split_at_checked(parts)?;
        for width in widths {
            // The width of a part without values says nothing.
            if left > 0 {
                let bits = u64::from(*width).checked_mul(values_of_part)?;
                after = after.get(usize::try_from(bits / 8).ok()?..)?;
            }
            left = left.saturating_sub(values_of_part);
        }
        rest = after;
    }
    Some(rest)
}

/// A number of seven bits a byte, the lowest first, and what follows it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * place as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(place + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of 128 in 4 parts, `count` values, the first 1, all differences 0 but for the widths of one block.
    fn run(count: &[u8], block: &[u8]) -> Vec<u8> {
        [&[0x80, 0x01, 4], count, &[2], block].concat()
    }

    #[test]
    fn runs_are_walked_over_to_their_end() {
        // One value has no block.
        assert_eq!(after_run(&run(&[1], b"rest"), 1), Some(&b"rest"[..]));
        // 33 values: the second part is not begun, its width is noise.
        let widths = [0, 1, 255, 255, 255];
        let block = [&widths[..], &[0; 4], b"rest"].concat();
        assert_eq!(after_run(&run(&[33], &block), 33), Some(&b"rest"[..]));
        assert_eq!(after_run(&run(&[33], &block), 32), None, "more than the page has");
        assert_eq!(after_run(&run(&[33], &block[..7]), 33), None, "cut short");
    }

    #[test]
    fn claims_that_nobody_can_keep_are_damage() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
            assert!(judge(encoding, 1000, &run(&huge, &[0; 64])).is_err());
            assert!(judge(encoding, 1000, &[0x80]).is_err());
            assert!(judge(encoding, 1000, &[]).is_ok());
        }
        // The first run is right, the second is not.
        let both = [run(&[1], &[]), run(&huge, &[0; 64])].concat();
        assert!(judge(Encoding::DELTA_LENGTH_BYTE_ARRAY, 1000, &both).is_ok());
        assert!(judge(Encoding::DELTA_BYTE_ARRAY, 1000, &both).is_err());
        assert!(judge(Encoding::PLAIN, 1000, &run(&huge, &[])).is_ok());
    }
}
