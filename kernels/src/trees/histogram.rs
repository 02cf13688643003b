//! Sums of packed derivatives by bin.
//!
//! The bins of some features, those of a *group*, share a tile that fits a first-level cache; a row's bins of one
//! group lie side by side. A slot of the tile is the feature's offset plus the bin. Features with many bins are kept as
//! *words*: eight of them fill a tile, the offsets are known to the compiler, and a row is read at once.

use super::bins::MAX_BINS;

/// Slots of a tile: 16 KiB, half of the smallest first-level cache in use.
pub const TILE: usize = 2048;

/// Sums of one group of features.
pub type Tile = [i64; TILE];

/// Adds the derivatives of `rows` to the slots of their bins. `bins` has shape [all rows, `offsets.len()`],
/// `packed` one number for each of `rows`. An offset and the bins of its feature stay below [`TILE`].
pub fn accumulate(bins: &[u8], offsets: &[u16], rows: &[u32], packed: &[i64], tile: &mut Tile) {
    // With a width that the compiler knows a row is one straight line of code.
    macro_rules! by_width {
        ($($width:literal)*) => {
            match offsets.len() {
                $($width => of_width::<$width>(bins, offsets, rows, packed, tile),)*
                _ => of_any_width(bins, offsets, rows, packed, tile),
            }
        };
    }
    by_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
}

/// Features of a word at most.
pub const WORD: usize = 8;

/// As [`accumulate`], with the bins of each row in one word of `words`, that of the first of `width` features lowest.
/// Feature f has the slots from f * [`MAX_BINS`] on.
pub fn accumulate_words(words: &[u64], width: usize, rows: &[u32], packed: &[i64], tile: &mut Tile) {
    macro_rules! by_width {
        ($($width:literal)*) => {
            match width {
                $($width => of_words::<$width>(words, rows, packed, tile),)*
                _ => of_words::<WORD>(words, rows, packed, tile),
            }
        };
    }
    by_width!(1 2 3 4 5 6 7)
}

fn of_words<const WIDTH: usize>(words: &[u64], rows: &[u32], packed: &[i64], tile: &mut Tile) {
    let features = tile.as_chunks_mut::<MAX_BINS>().0;
    let Some(features) = features.first_chunk_mut::<WIDTH>() else { return };
    for (&row, &derivatives) in rows.iter().zip(packed) {
        let mut word = words[row as usize];
        for sums in features.iter_mut() {
            let sum = &mut sums[usize::from(word as u8)];
            *sum = sum.wrapping_add(derivatives);
            word >>= 8;
        }
    }
}

fn of_width<const WIDTH: usize>(bins: &[u8], offsets: &[u16], rows: &[u32], packed: &[i64], tile: &mut Tile) {
    let Some(offsets) = offsets.first_chunk::<WIDTH>() else { return };
    let lines = bins.as_chunks::<WIDTH>().0;
    for (&row, &derivatives) in rows.iter().zip(packed) {
        add_row(&lines[row as usize], offsets, derivatives, tile);
    }
}

fn of_any_width(bins: &[u8], offsets: &[u16], rows: &[u32], packed: &[i64], tile: &mut Tile) {
    let width = offsets.len();
    for (&row, &derivatives) in rows.iter().zip(packed) {
        let row = row as usize;
        add_row(&bins[row * width..row * width + width], offsets, derivatives, tile);
    }
}

#[inline(always)]
fn add_row(line: &[u8], offsets: &[u16], derivatives: i64, tile: &mut Tile) {
    for (bin, offset) in line.iter().zip(offsets) {
        // The mask changes nothing; it shows that no slot lies outside.
        let slot = (*offset as usize + *bin as usize) & (TILE - 1);
        tile[slot] = tile[slot].wrapping_add(derivatives);
    }
}

/// Makes the sums of a node those of one child by taking away the other's, `sibling`.
pub fn subtract(sums: &mut [i64], sibling: &[i64]) {
    for (sum, other) in sums.iter_mut().zip(sibling) {
        *sum = sum.wrapping_sub(*other);
    }
}

/// Adds `other` to `sums`.
pub fn add(sums: &mut [i64], other: &[i64]) {
    for (sum, other) in sums.iter_mut().zip(other) {
        *sum = sum.wrapping_add(*other);
    }
}

/// Makes all sums 0.
pub fn clear(sums: &mut [i64]) {
    sums.fill(0);
}

/// The packed sum of `rows`.
pub fn total(packed: &[i64], rows: &[u32]) -> i64 {
    rows.iter().fold(0, |sum, row| sum.wrapping_add(packed[*row as usize]))
}

/// Gradient and second derivative of a packed sum, in units.
pub fn sum_of(packed: i64) -> (i64, i64) {
    (packed >> 32, packed & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_lines_say() {
        let rows: u32 = 300;
        let packed: Vec<i64> = (0..i64::from(rows)).map(|row| (((row % 41) - 20) << 32) + row % 13).collect();
        let some: Vec<u32> = (0..rows).filter(|row| row % 3 != 1).rev().collect();
        let mut of_some = Vec::new();
        crate::trees::pick(&packed, &some, &mut of_some);
        for width in 1..=WORD {
            let columns: Vec<u8> =
                (0..width * rows as usize).map(|at| (at * at * 31 / 7 % MAX_BINS) as u8).collect();
            let mut lines = vec![0; columns.len()];
            crate::trees::interleave(&columns, rows as usize, 0, &mut lines);
            let offsets: Vec<u16> = (0..width).map(|feature| (feature * MAX_BINS) as u16).collect();
            let (mut expected, mut sums) = ([0; TILE], [0; TILE]);
            accumulate(&lines, &offsets, &some, &of_some, &mut expected);
            let mut words = vec![0; rows as usize];
            let (first, second) = words.split_at_mut(123);
            crate::trees::pack_words(&columns, rows as usize, 0, first);
            crate::trees::pack_words(&columns, rows as usize, 123, second);
            accumulate_words(&words, width, &some, &of_some, &mut sums);
            assert_eq!(sums, expected, "{width} features");
        }
    }

    #[test]
    fn sums_are_those_of_the_rows_whatever_their_order_and_siblings_differ_by_subtraction() {
        let (rows, offsets) = (500_u32, [0_u16, 7, 300]);
        let bins: Vec<u8> =
            (0..rows).flat_map(|row| [row % 7, row % 251, row % 3].map(|b| b as u8)).collect();
        let packed: Vec<i64> = (0..i64::from(rows)).map(|row| (((row % 41) - 20) << 32) + row % 13).collect();
        let of = |rows: &[u32]| {
            let (mut tile, mut own) = ([0; TILE], Vec::new());
            crate::trees::pick(&packed, rows, &mut own);
            accumulate(&bins, &offsets, rows, &own, &mut tile);
            tile
        };
        let all: Vec<u32> = (0..rows).collect();
        let back: Vec<u32> = all.iter().rev().copied().collect();
        let total = of(&all);
        assert_eq!(total, of(&back));
        let (g, h) = sum_of(total[7 + 5]);
        let expected =
            |part: fn(i64) -> i64| (0..i64::from(rows)).filter(|r| r % 251 == 5).map(part).sum::<i64>();
        assert_eq!((g, h), (expected(|r| (r % 41) - 20), expected(|r| r % 13)));
        let (some, others) = all.split_at(123);
        let mut rest = total;
        subtract(&mut rest, &of(some));
        assert_eq!(rest, of(others));
        add(&mut rest, &of(some));
        assert_eq!(rest, total);
    }
}
