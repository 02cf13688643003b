//! Features to bins: at most 256 intervals a feature, chosen by quantiles.

/// Most bins of a feature, that of missing values included.
pub const MAX_BINS: usize = 256;

/// Values that are searched for at once; enough to keep the processor busy while it waits for memory.
const LANES: usize = 16;

/// Values from which on they are sorted by digits.
const RADIX_ROWS: usize = 1024;

/// How a feature is cut into bins: bin b holds the values v with b cut points at or below v.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cuts {
    /// Ascending, each different; a feature of one value has none.
    pub points: Vec<f32>,
    /// Least and greatest value of each bin.
    pub ends: Vec<[f32; 2]>,
    /// Whether a value was missing: then there is one more bin, the last.
    pub missing: bool,
}

impl Cuts {
    /// Number of bins for values, at least one.
    pub fn value_bins(&self) -> usize {
        self.points.len() + 1
    }

    /// Number of bins, that of missing values included; at most [`MAX_BINS`].
    pub fn bins(&self) -> usize {
        self.value_bins() + usize::from(self.missing)
    }

    /// How far the values of two bins are apart, as a share of the range of all values from the first to the last bin of
    /// `range`.
    pub fn gap(&self, left: u8, right: Option<u8>, range: (u8, u8)) -> f32 {
        let ends = |bin: u8| self.ends.get(usize::from(bin)).copied();
        match (ends(left), right.and_then(ends), ends(range.0), ends(range.1)) {
            (Some([_, low]), Some([high, _]), Some([least, _]), Some([_, most])) => {
                (high - low) / (most - least)
            }
            _ => 0.0,
        }
    }

    /// The threshold between two bins with none between them that is occupied: midway between their values, as
    /// scikit-learn places it. Where there is no `right` bin, a number above all values.
    pub fn between(&self, left: u8, right: Option<u8>) -> f32 {
        let ends = |bin: u8| self.ends.get(usize::from(bin)).copied();
        match (ends(left), right.and_then(ends)) {
            (Some([_, low]), Some([high, _])) => midpoint(low, high),
            _ => f32::MAX,
        }
    }
}

/// Cuts `values` into at most `most` bins (2 to [`MAX_BINS`]). Where there are no more different values than that,
/// each has a bin of its own; else bins hold about the same number of values, and a frequent value has its own.
/// Cut points lie midway between neighbouring values, as scikit-learn places thresholds. NaN is missing.
pub fn cut_points(values: &[f32], most: usize) -> Cuts {
    let mut keys = Vec::with_capacity(values.len());
    keys.extend(values.iter().filter(|value| !value.is_nan()).map(|value| to_key(*value)));
    let missing = keys.len() < values.len();
    sort(&mut keys);
    let most = most.clamp(2, MAX_BINS) - usize::from(missing);
    let (mut points, mut ends) = (Vec::new(), Vec::new());
    let mut low = keys.first().map_or(0.0, |key| from_key(*key));
    let mut close = |high: f32, next: f32| {
        points.push(midpoint(high, next));
        ends.push([low, high]);
        low = next;
    };
    // A run is a value and how often it is there.
    let mut run_ends =
        keys.iter().zip(keys.iter().skip(1)).enumerate().filter(|(_, (key, next))| key != next);
    if run_ends.clone().take(most).count() < most {
        run_ends.for_each(|(_, (key, next))| close(from_key(*key), from_key(*next)));
    } else {
        let (mut rows_left, mut bins_left) = (keys.len(), most);
        let (mut filled, mut start) = (0, 0);
        let mut run = run_ends.next();
        while let Some((end, (key, next))) = run {
            run = run_ends.next();
            let next_end = run.map_or(keys.len(), |(end, _)| end + 1);
            let (count, next_count) = (end + 1 - start, next_end - (end + 1));
            start = end + 1;
            filled += count;
            let wanted = rows_left.div_ceil(bins_left);
            // Closes where the next value would overshoot by more than leaving it out falls short.
            if filled + next_count / 2 >= wanted && bins_left > 1 {
                close(from_key(*key), from_key(*next));
                rows_left -= filled;
                bins_left -= 1;
                filled = 0;
            }
        }
    }
    ends.push([low, keys.last().map_or(0.0, |key| from_key(*key))]);
    Cuts { points, ends, missing }
}

/// The bin of each of `values`, into `bins` of the same length. Values beyond those that `cuts` was made of fall into
/// the first or last bin; a missing one where none was missing then falls into the first.
pub fn bin_values(values: &[f32], cuts: &Cuts, bins: &mut [u8]) {
    let mut table = [f32::INFINITY; MAX_BINS];
    for (slot, point) in table.iter_mut().zip(&cuts.points) {
        *slot = *point;
    }
    let count = cuts.points.len() as u32;
    let missing = if cuts.missing { count + 1 } else { 0 };
    let bins_of = |values: &[f32; LANES]| {
        // Bisection by arithmetic alone, a bit of the result at a time: a branch would be guessed wrong every other time,
        // and the compiler makes one of a product with a step.
        let mut at = [0_u32; LANES];
        for bit in (0..MAX_BINS.ilog2()).rev() {
            for (at, value) in at.iter_mut().zip(values) {
                let probe = (*at + (1 << bit) - 1) as usize & (MAX_BINS - 1);
                *at |= u32::from(*value >= table[probe]) << bit;
            }
        }
        let mut bins = [0_u8; LANES];
        for ((bin, at), value) in bins.iter_mut().zip(at).zip(values) {
            *bin = if value.is_nan() { missing } else { at.min(count) } as u8;
        }
        bins
    };
    let (lanes, values_left) = values.as_chunks::<LANES>();
    let (bins, bins_left) = bins.as_chunks_mut::<LANES>();
    for (values, bins) in lanes.iter().zip(bins) {
        *bins = bins_of(values);
    }
    let mut last = [0.0; LANES];
    last[..values_left.len()].copy_from_slice(values_left);
    bins_left.copy_from_slice(&bins_of(&last)[..values_left.len()]);
}

/// Columns [first, first + `columns.len()` / rows) of `features`, shape [rows, `width`], one after the other.
pub fn gather_columns(features: &[f32], width: usize, first: usize, columns: &mut [f32]) {
    let rows = features.len() / width.max(1);
    let count = columns.len() / rows.max(1);
    const BLOCK: usize = 256;
    for start in (0..rows).step_by(BLOCK) {
        let end = (start + BLOCK).min(rows);
        for column in 0..count {
            let from = features[start * width..end * width].iter().skip(first + column).step_by(width);
            let to = &mut columns[column * rows + start..column * rows + end];
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
        }
    }
}

/// `columns`, one of `rows` bytes after the other, as rows: rows [first, first + lines.len() / width) of them.
pub fn interleave(columns: &[u8], rows: usize, first: usize, lines: &mut [u8]) {
    let width = columns.len() / rows.max(1);
    const BLOCK: usize = 64;
    for (block, lines) in lines.chunks_mut(BLOCK * width.max(1)).enumerate() {
        let start = first + block * BLOCK;
        let count = lines.len() / width.max(1);
        for column in 0..width {
            let from = &columns[column * rows + start..column * rows + start + count];
            for (to, from) in lines.iter_mut().skip(column).step_by(width).zip(from) {
                *to = *from;
            }
        }
    }
}

/// `columns`, one of `rows` bytes after the other, as words: of rows [first, first + words.len()), the first column
/// lowest. There are eight columns at most.
pub fn pack_words(columns: &[u8], rows: usize, first: usize, words: &mut [u64]) {
    words.fill(0);
    for (number, column) in columns.chunks_exact(rows.max(1)).enumerate() {
        for (word, bin) in words.iter_mut().zip(&column[first..]) {
            *word |= u64::from(*bin) << (8 * number);
        }
    }
}

/// Above `low`, at most `high`.
fn midpoint(low: f32, high: f32) -> f32 {
    let middle = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
    if middle > low { middle } else { high }
}

/// A number that orders as the value does; 0 and -0 are one value.
fn to_key(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn from_key(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// Ascending; by three digits of 11 bits where there are many.
fn sort(keys: &mut Vec<u32>) {
    if keys.len() < RADIX_ROWS {
        keys.sort_unstable();
        return;
    }
    let mut other = vec![0; keys.len()];
    for shift in [0, 11, 22] {
        let digit = |key: u32| (key >> shift) as usize & 2047;
        let mut starts = [0_usize; 2048];
        for key in keys.iter() {
            starts[digit(*key)] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        for key in keys.iter() {
            let start = &mut starts[digit(*key)];
            other[*start] = *key;
            *start += 1;
        }
        std::mem::swap(keys, &mut other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rows: usize) -> Vec<f32> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..rows).map(|_| next()).collect()
    }

    #[test]
    fn few_values_have_a_bin_each_with_cuts_midway() {
        let cuts = cut_points(&[3.0, 1.0, f32::NAN, 1.0, -2.0, 0.0, -0.0], 256);
        let ends = vec![[-2.0; 2], [0.0; 2], [1.0; 2], [3.0; 2]];
        assert_eq!(cuts, Cuts { points: vec![-1.0, 0.5, 2.0], ends, missing: true });
        assert_eq!((cuts.between(0, Some(3)), cuts.between(1, Some(2))), (0.5, 0.5));
        assert_eq!(cuts.between(3, None), f32::MAX);
        assert_eq!((cuts.value_bins(), cuts.bins()), (4, 5));
        let mut bins = [9; 6];
        bin_values(&[-9.0, 0.5, 0.49, 2.0, f32::NAN, 1e30], &cuts, &mut bins);
        assert_eq!(bins, [0, 2, 1, 3, 4, 3]);
        assert_eq!(cut_points(&[f32::NAN], 256).bins(), 2);
        // Neighbours in f32 have no number between them: the upper one is the cut.
        let above = f32::from_bits(1.0_f32.to_bits() + 1);
        assert_eq!(cut_points(&[1.0, above], 256).points, [above]);
    }

    #[test]
    fn many_values_fill_bins_evenly_and_each_value_lies_between_its_cuts() {
        let mut values = noise(10_000);
        values[..3000].fill(0.25);
        for most in [2, 16, 255, 256] {
            let cuts = cut_points(&values, most);
            assert!(cuts.bins() <= most && cuts.bins() * 10 >= most * 9, "{} of {most}", cuts.bins());
            assert!(cuts.points.windows(2).all(|pair| pair[0] < pair[1]));
            let mut bins = vec![0; values.len()];
            bin_values(&values, &cuts, &mut bins);
            let mut counts = vec![0; cuts.bins()];
            for (bin, value) in bins.iter().map(|bin| *bin as usize).zip(&values) {
                assert_eq!(bin, cuts.points.iter().filter(|point| *point <= value).count());
                counts[bin] += 1;
            }
            let most_rows = (7000 / cuts.bins() + 1) * 2 + 3000;
            assert!(counts.iter().all(|count| *count > 0 && *count < most_rows), "{counts:?}");
        }
    }

    #[test]
    fn sorting_by_digits_is_sorting() {
        let mut keys: Vec<u32> = noise(5000).into_iter().map(to_key).collect();
        let mut expected = keys.clone();
        expected.sort_unstable();
        sort(&mut keys);
        assert_eq!(keys, expected);
        for value in [-1e30, -1.0, 0.0, 1e-40, f32::MAX] {
            assert_eq!(from_key(to_key(value)), value);
        }
    }

    #[test]
    fn columns_and_rows_are_the_same_figures() {
        let features: Vec<f32> = (0..700 * 3).map(|i| i as f32).collect();
        let mut columns = vec![0.0; 700 * 2];
        gather_columns(&features, 3, 1, &mut columns);
        assert!((0..700).all(|row| columns[row] == features[row * 3 + 1]));
        assert!((0..700).all(|row| columns[700 + row] == features[row * 3 + 2]));
        let bytes: Vec<u8> = (0..700 * 3).map(|i| (i % 251) as u8).collect();
        let mut lines = vec![0; 600 * 3];
        interleave(&bytes, 700, 100, &mut lines);
        assert!(
            (0..600)
                .all(|row| (0..3).all(|column| lines[row * 3 + column] == bytes[column * 700 + 100 + row]))
        );
    }
}
