//! Splits that leave children as pure as can be (Breiman, Random Forests, 2001): by class with the Gini impurity, by
//! number with the variance. For one-hot targets both are the same.

use super::bins::{Cuts, MAX_BINS};
use super::walk::Side;

/// A way to part the rows of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PuritySplit {
    /// What is maximised: the sum over both children of the squared class counts (or the squared sum) divided by the
    /// child's number of rows.
    pub score: f64,
    /// The last occupied bin that goes left.
    pub bin: u8,
    /// The first occupied bin after it; `None` where missing values alone go right.
    pub next: Option<u8>,
    /// Where missing values go.
    pub default: Side,
    /// How far the two sides lie apart, as a share of the range that the feature has in the node.
    pub gap: f32,
}

/// A row of a classifier: its class, and how often it was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassSample {
    /// The class.
    pub class: u16,
    /// How often it counts.
    pub weight: u16,
}

/// A row of a regression: its value in fixed point, and how often it was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueSample {
    /// The value; sums over all draws stay within 62 bits.
    pub value: i64,
    /// How often it counts.
    pub weight: u32,
}

/// Each of `samples` counts as often as `counts` says.
pub fn weigh_classes(samples: &mut [ClassSample], counts: &[u16]) {
    for (sample, count) in samples.iter_mut().zip(counts) {
        sample.weight = *count;
    }
}

/// Each of `samples` counts as often as `counts` says.
pub fn weigh_values(samples: &mut [ValueSample], counts: &[u16]) {
    for (sample, count) in samples.iter_mut().zip(counts) {
        sample.weight = u32::from(*count);
    }
}

/// The rows that were drawn at all, ascending.
pub fn drawn(counts: &[u16], rows: &mut Vec<u32>) {
    rows.clear();
    rows.extend((0..).zip(counts).filter(|(_, count)| **count > 0).map(|(row, _): (u32, _)| row));
}

/// Bins that hold rows.
#[derive(Debug, Default)]
struct Occupied([u64; 4]);

impl Occupied {
    fn set(&mut self, bin: u8) {
        self.0[usize::from(bin >> 6)] |= 1 << (bin & 63);
    }

    /// Ascending.
    fn bins(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            let mut bits = *bits;
            std::iter::from_fn(move || {
                let bin = (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize);
                bits &= bits.wrapping_sub(1);
                bin
            })
        })
    }
}

/// Best of what was seen. Of equally good splits the one counts whose sides lie farthest apart.
#[derive(Debug)]
struct Best<'a> {
    cuts: &'a Cuts,
    least: u64,
    /// First and last occupied bin.
    range: (u8, u8),
    found: Option<PuritySplit>,
}

impl<'a> Best<'a> {
    fn new(cuts: &'a Cuts, occupied: &Occupied, least: u32) -> Self {
        let mut bins = occupied.bins().take_while(|bin| *bin < cuts.value_bins());
        let first = bins.next().unwrap_or(0);
        let range = (first as u8, bins.last().unwrap_or(first) as u8);
        Self { cuts, least: u64::from(least.max(1)), range, found: None }
    }

    fn consider(&mut self, counts: [u64; 2], mut split: PuritySplit) {
        if counts[0] < self.least || counts[1] < self.least {
            return;
        }
        if self.found.as_ref().is_some_and(|best| split.score < best.score) {
            return;
        }
        split.gap = self.cuts.gap(split.bin, split.next, self.range);
        if self.found.as_ref().is_none_or(|best| split.is_better(best)) {
            self.found = Some(split);
        }
    }
}

impl PuritySplit {
    /// Whether it is purer than `other`, or as pure with sides farther apart.
    pub fn is_better(&self, other: &Self) -> bool {
        self.score > other.score || (self.score == other.score && self.gap > other.gap)
    }
}

fn heavier(left: u64, right: u64) -> Side {
    if left > right { Side::Left } else { Side::Right }
}

/// Rows a class up to which a node's rows are sorted by their bins instead of counted by bin and class: most nodes of a
/// deep tree have no more, and few of the counts would be of any.
const FEW_PER_CLASS: usize = 64;

/// Rows up to which they are sorted by comparing.
const COMPARED: usize = 32;

/// Looks for splits by class. Keeps the room for that.
#[derive(Debug)]
pub struct Purity {
    classes: usize,
    /// Counts by bin and class, all 0 between uses.
    counts: Vec<u32>,
    left: Vec<u32>,
    /// The rows of a small node, as they come and by bin.
    few: [Vec<Few>; 2],
}

impl Purity {
    /// For `classes` classes, at most 65,536.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * MAX_BINS], left: vec![0; classes], few: Default::default() }
    }

    /// Draws of each class among `rows`.
    pub fn count(rows: &[u32], samples: &[ClassSample], totals: &mut [u32]) {
        totals.fill(0);
        for row in rows {
            let sample = samples[*row as usize];
            totals[usize::from(sample.class)] += u32::from(sample.weight);
        }
    }

    /// The split of `rows` by one feature with the purest children of at least `least` draws each, or `None` where
    /// there is none. A split that leaves the children no purer than the node is one too, as in scikit-learn.
    /// `column` holds the bin and `samples` the class of each of all rows; `totals` are the draws by class in `rows`.
    pub fn best_split(
        &mut self,
        column: &[u8],
        cuts: &Cuts,
        (rows, samples): (&[u32], &[ClassSample]),
        totals: &[u32],
        least: u32,
    ) -> Option<PuritySplit> {
        if rows.len() <= FEW_PER_CLASS * self.classes
            && let Some(found) = self.best_of_few(column, cuts, (rows, samples), totals, least)
        {
            return found;
        }
        let classes = self.classes;
        let mut occupied = Occupied::default();
        for row in rows {
            let (bin, sample) = (column[*row as usize], samples[*row as usize]);
            occupied.set(bin);
            self.counts[usize::from(bin) * classes + usize::from(sample.class)] += u32::from(sample.weight);
        }
        let all: u64 = totals.iter().map(|count| u64::from(*count)).sum();
        let mut best = Best::new(cuts, &occupied, least);
        let at = |bin: usize| bin * classes..(bin + 1) * classes;
        let missing_bin = cuts.missing.then_some(cuts.value_bins());
        let missing = missing_bin.filter(|bin| self.counts[at(*bin)].iter().any(|count| *count > 0));
        let missing = missing.map(|bin| &self.counts[at(bin)]);
        self.left.fill(0);
        let mut bins = occupied.bins().take_while(|bin| *bin < cuts.value_bins()).peekable();
        while let Some(bin) = bins.next() {
            let next = bins.peek().map(|bin| *bin as u8);
            let split = |score, default| PuritySplit { score, bin: bin as u8, next, default, gap: 0.0 };
            let (mut rows, mut left_square, mut right_square) = (0_u64, 0_u64, 0_u64);
            for ((left, count), total) in self.left.iter_mut().zip(&self.counts[at(bin)]).zip(totals) {
                *left += count;
                let (left, right) = (u64::from(*left), u64::from(total - *left));
                rows += left;
                left_square += left * left;
                right_square += right * right;
            }
            let score = |left_square: u64, right_square: u64, left: u64| {
                left_square as f64 / left as f64 + right_square as f64 / (all - left) as f64
            };
            let default = if missing.is_some() { Side::Right } else { heavier(rows, all - rows) };
            if rows < all {
                let score = score(left_square, right_square, rows);
                best.consider([rows, all - rows], split(score, default));
            }
            if let Some(missing) = missing {
                let (mut with, mut left_square, mut right_square) = (0_u64, 0_u64, 0_u64);
                for ((left, count), total) in self.left.iter().zip(missing).zip(totals) {
                    let (left, right) = (u64::from(left + count), u64::from(total - left - count));
                    with += left;
                    left_square += left * left;
                    right_square += right * right;
                }
                if with < all {
                    let score = score(left_square, right_square, with);
                    best.consider([with, all - with], split(score, Side::Left));
                }
            }
        }
        for bin in occupied.bins() {
            self.counts[at(bin)].fill(0);
        }
        best.found
    }
}

impl Purity {
    /// As [`Self::best_split`], for few rows; `None` where one of them has no value.
    fn best_of_few(
        &mut self,
        column: &[u8],
        cuts: &Cuts,
        (rows, samples): (&[u32], &[ClassSample]),
        totals: &[u32],
        least: u32,
    ) -> Option<Option<PuritySplit>> {
        let Self { few: [unsorted, sorted], left: lefts, .. } = self;
        unsorted.clear();
        unsorted.extend(
            rows.iter().map(|row| Few { bin: column[*row as usize], sample: samples[*row as usize] }),
        );
        let few: &[Few] = if rows.len() <= COMPARED {
            unsorted.sort_unstable_by_key(|few| few.bin);
            unsorted
        } else {
            sort(unsorted, sorted);
            sorted
        };
        let range = (few.first()?.bin, few.last()?.bin);
        if usize::from(range.1) >= cuts.value_bins() {
            return None;
        }
        let mut best = Best { cuts, least: u64::from(least.max(1)), range, found: None };
        lefts.fill(0);
        let (mut all, mut right_square) = (0_u64, 0_u64);
        for total in totals {
            all += u64::from(*total);
            right_square += u64::from(*total) * u64::from(*total);
        }
        let (mut left_rows, mut left_square) = (0_u64, 0_u64);
        let mut groups = few.chunk_by(|a, b| a.bin == b.bin).peekable();
        while let Some(group) = groups.next() {
            for Few { sample, .. } in group {
                let class = usize::from(sample.class);
                let (left, more) = (u64::from(lefts[class]), u64::from(sample.weight));
                let right = u64::from(totals[class]) - left;
                // (left + more)^2 and (right - more)^2.
                left_square += more * (2 * left + more);
                right_square -= more * (2 * right - more);
                lefts[class] += u32::from(sample.weight);
                left_rows += more;
            }
            if left_rows < all {
                let score =
                    left_square as f64 / left_rows as f64 + right_square as f64 / (all - left_rows) as f64;
                let next = groups.peek().map(|group| group[0].bin);
                let default = heavier(left_rows, all - left_rows);
                let split = PuritySplit { score, bin: group[0].bin, next, default, gap: 0.0 };
                best.consider([left_rows, all - left_rows], split);
            }
        }
        Some(best.found)
    }
}

/// A row by its bin.
#[derive(Debug, Clone, Copy)]
struct Few {
    bin: u8,
    sample: ClassSample,
}

/// Into `sorted` by bin, by counting.
fn sort(few: &[Few], sorted: &mut Vec<Few>) {
    let mut starts = [0_u32; MAX_BINS];
    for few in few {
        starts[usize::from(few.bin)] += 1;
    }
    let mut sum = 0;
    for start in &mut starts {
        sum += std::mem::replace(start, sum);
    }
    // What was there is written over.
    sorted.resize(few.len(), Few { bin: 0, sample: ClassSample { class: 0, weight: 0 } });
    for few in few {
        let start = &mut starts[usize::from(few.bin)];
        sorted[*start as usize] = *few;
        *start += 1;
    }
}

/// Looks for splits by number. Keeps the room for that.
#[derive(Debug)]
pub struct Spread {
    sums: [i64; MAX_BINS],
    counts: [u64; MAX_BINS],
}

impl Default for Spread {
    fn default() -> Self {
        Self { sums: [0; MAX_BINS], counts: [0; MAX_BINS] }
    }
}

impl Spread {
    /// Sum of the values and number of draws among `rows`.
    pub fn sum(rows: &[u32], samples: &[ValueSample]) -> (i64, u64) {
        rows.iter().fold((0, 0), |(sum, count), row| {
            let sample = samples[*row as usize];
            (sum + sample.value * i64::from(sample.weight), count + u64::from(sample.weight))
        })
    }

    /// Whether all of `rows` have one value.
    pub fn is_constant(rows: &[u32], samples: &[ValueSample]) -> bool {
        rows.windows(2).all(|pair| samples[pair[0] as usize].value == samples[pair[1] as usize].value)
    }

    /// As [`Purity::best_split`], with the variance; `total` is [`Self::sum`] of `rows`.
    pub fn best_split(
        &mut self,
        column: &[u8],
        cuts: &Cuts,
        (rows, samples): (&[u32], &[ValueSample]),
        (sum, count): (i64, u64),
        least: u32,
    ) -> Option<PuritySplit> {
        let mut occupied = Occupied::default();
        for row in rows {
            let (bin, sample) = (column[*row as usize], samples[*row as usize]);
            occupied.set(bin);
            self.sums[usize::from(bin)] += sample.value * i64::from(sample.weight);
            self.counts[usize::from(bin)] += u64::from(sample.weight);
        }
        let mut best = Best::new(cuts, &occupied, least);
        let missing_bin = cuts.missing.then_some(cuts.value_bins()).filter(|bin| self.counts[*bin] > 0);
        let missing = missing_bin.map(|bin| (self.sums[bin], self.counts[bin]));
        let score = |left: i64, rows: u64| {
            let right = (sum - left) as f64;
            left as f64 * left as f64 / rows as f64 + right * right / (count - rows) as f64
        };
        let (mut left, mut rows) = (0_i64, 0_u64);
        let mut bins = occupied.bins().take_while(|bin| *bin < cuts.value_bins()).peekable();
        while let Some(bin) = bins.next() {
            let next = bins.peek().map(|bin| *bin as u8);
            let split = |score, default| PuritySplit { score, bin: bin as u8, next, default, gap: 0.0 };
            left += self.sums[bin];
            rows += self.counts[bin];
            let default = if missing.is_some() { Side::Right } else { heavier(rows, count - rows) };
            if rows < count {
                best.consider([rows, count - rows], split(score(left, rows), default));
            }
            if let Some((sum, more)) = missing
                && rows + more < count
            {
                let score = score(left + sum, rows + more);
                best.consider([rows + more, count - rows - more], split(score, Side::Left));
            }
        }
        for bin in occupied.bins() {
            self.sums[bin] = 0;
            self.counts[bin] = 0;
        }
        best.found
    }
}

#[cfg(test)]
mod tests {
    use super::super::bins::cut_points;
    use super::*;

    fn noise(round: u64) -> impl FnMut(u64) -> u64 {
        let mut state = round + 1;
        move |n| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (state >> 33) % n
        }
    }

    /// The greatest score over all ways to part the bins, by definition.
    fn by_hand(column: &[u8], cuts: &Cuts, least: u32, score: impl Fn(&[u32]) -> (u32, f64)) -> f64 {
        let goes = |bin: u8, last: usize, with: bool| {
            let bin = usize::from(bin);
            if bin == cuts.value_bins() { with } else { bin <= last }
        };
        let mut best = f64::NEG_INFINITY;
        for last in 0..cuts.value_bins() {
            for with in [false, true] {
                let (left, right): (Vec<u32>, Vec<u32>) =
                    (0..column.len() as u32).partition(|row| goes(column[*row as usize], last, with));
                let ((left_rows, left), (right_rows, right)) = (score(&left), score(&right));
                if left_rows >= least && right_rows >= least {
                    best = best.max(left + right);
                }
            }
        }
        best
    }

    #[test]
    fn the_purest_split_is_the_one_found_by_trying_all() {
        let (mut purity, mut spread) = (Purity::new(3), Spread::default());
        for round in 0..600 {
            let mut draw = noise(round);
            // Few, some and many.
            let count = [2 + draw(31), 60, 300][round as usize % 3];
            let rows: Vec<u32> = (0..count as u32).collect();
            let values: Vec<f32> = (0..=draw(12)).map(|value| value as f32).collect();
            let cuts = Cuts { missing: round % 2 == 0, ..cut_points(&values, 256) };
            let bins = cuts.bins() as u64;
            let column: Vec<u8> = rows.iter().map(|_| draw(bins) as u8).collect();
            let least = 1 + draw(5) as u32;
            let samples: Vec<ClassSample> =
                rows.iter().map(|_| ClassSample { class: draw(3) as u16, weight: draw(3) as u16 }).collect();
            let mut totals = [0; 3];
            Purity::count(&rows, &samples, &mut totals);
            let expected = by_hand(&column, &cuts, least, |rows| {
                let mut counts = [0; 3];
                Purity::count(rows, &samples, &mut counts);
                let all: u32 = counts.iter().sum();
                (all, counts.iter().map(|c| f64::from(*c).powi(2)).sum::<f64>() / f64::from(all))
            });
            let found = purity.best_split(&column, &cuts, (&rows, &samples), &totals, least);
            let score = found.map_or(f64::NEG_INFINITY, |split| split.score);
            assert!(
                score == expected || (score - expected).abs() < 1e-9,
                "round {round}: {score} {expected}"
            );

            let samples: Vec<ValueSample> = rows
                .iter()
                .map(|_| ValueSample { value: draw(1000) as i64 - 500, weight: draw(3) as u32 })
                .collect();
            let total = Spread::sum(&rows, &samples);
            let expected = by_hand(&column, &cuts, least, |rows| {
                let (sum, count) = Spread::sum(rows, &samples);
                (count as u32, (sum as f64).powi(2) / count as f64)
            });
            let found = spread.best_split(&column, &cuts, (&rows, &samples), total, least);
            let score = found.map_or(f64::NEG_INFINITY, |split| split.score);
            assert!(score == expected || (score - expected).abs() < 1e-9 * expected, "{score} {expected}");
        }
        assert!(purity.counts.iter().all(|count| *count == 0), "the room is clean for the next use");
    }
}
