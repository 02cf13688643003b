//! Splits that leave children as pure as can be (Breiman, Random Forests, 2001): by class with the Gini impurity, by
//! number with the variance. For one-hot targets both are the same.

mod few;
mod spread;
mod weighed;

pub use spread::Spread;

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

    /// The first and the last of those below `end`.
    fn range(&self, end: usize) -> (u8, u8) {
        let mut bins = self.bins().take_while(|bin| *bin < end);
        let first = bins.next().unwrap_or(0);
        (first as u8, bins.last().unwrap_or(first) as u8)
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
    /// A little below the score of that.
    floor: f64,
}

impl<'a> Best<'a> {
    fn new(cuts: &'a Cuts, range: (u8, u8), least: u32) -> Self {
        Self { cuts, least: u64::from(least.max(1)), range, found: None, floor: f64::MIN }
    }

    /// Whether the score of these sums of squares over these numbers of rows may be the best: asked without a division,
    /// since hardly any is. What is the best in exact figures always may be.
    fn may_be(&self, squares: [u64; 2], rows: [u64; 2]) -> bool {
        // There are no unsigned conversions in AVX2; all are below 2^63.
        let real = |value: u64| value as i64 as f64;
        let [left, right] = rows.map(real);
        real(squares[0]) * right + real(squares[1]) * left >= self.floor * (left * right)
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
            self.floor = split.score * (1.0 - 1e-9);
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

/// Rows up to which those of a node are sorted by their bins instead of counted by bin and class, and how many more a
/// class: most nodes of a deep tree have no more, and few of the counts would be of any.
const FEW: usize = 384;
const FEW_PER_CLASS: usize = 64;

/// Looks for splits by class. Keeps the room for that.
#[derive(Debug)]
pub struct Purity {
    classes: usize,
    /// Counts by bin and class, all 0 between uses.
    counts: Vec<u32>,
    left: Vec<u32>,
    /// How much a draw of each class counts; empty where all count alike.
    weights: Vec<f64>,
    /// The rows of a small node, as they come and by bin.
    few: few::Room,
}

impl Purity {
    /// For `classes` classes, at most 65,536.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * MAX_BINS],
            left: vec![0; classes],
            weights: Vec::new(),
            few: few::Room::default(),
        }
    }

    /// For classes whose draws count as much as `weights` says, above 0.
    pub fn weighed(weights: &[f64]) -> Self {
        Self { weights: weights.to_vec(), ..Self::new(weights.len()) }
    }

    /// Draws of each class among `rows`.
    pub fn count(rows: &[u32], samples: &[ClassSample], totals: &mut [u32]) {
        totals.fill(0);
        for row in rows {
            let sample = samples[*row as usize];
            totals[usize::from(sample.class)] += u32::from(sample.weight);
        }
    }

    /// The split of a node by one feature with the purest children of at least `least` draws each, or `None` where
    /// there is none. A split that leaves the children no purer than the node is one too, as in scikit-learn.
    /// `bins` and `samples` are those of the node's rows, in the same order; `totals` are its draws by class.
    pub fn best_split(
        &mut self,
        bins: &[u8],
        cuts: &Cuts,
        samples: &[ClassSample],
        totals: &[u32],
        least: u32,
    ) -> Option<PuritySplit> {
        if !self.weights.is_empty() {
            return weighed::best_split(self, bins, cuts, samples, totals, least);
        }
        if samples.len() <= FEW + FEW_PER_CLASS * self.classes
            && let Some(found) = few::best_split(&mut self.few, bins, cuts, samples, totals, least)
        {
            return found;
        }
        let classes = self.classes;
        let mut occupied = Occupied::default();
        for (bin, sample) in bins.iter().zip(samples) {
            occupied.set(*bin);
            self.counts[usize::from(*bin) * classes + usize::from(sample.class)] += u32::from(sample.weight);
        }
        let all: u64 = totals.iter().map(|count| u64::from(*count)).sum();
        let mut best = Best::new(cuts, occupied.range(cuts.value_bins()), least);
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
            if best.may_be([left_square, right_square], [rows, all - rows]) && rows < all {
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
                if best.may_be([left_square, right_square], [with, all - with]) && with < all {
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
            let count = [2 + draw(31), 60, 600][round as usize % 3];
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
            let found = purity.best_split(&column, &cuts, &samples, &totals, least);
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
            let found = spread.best_split(&column, &cuts, &samples, total, least);
            let score = found.map_or(f64::NEG_INFINITY, |split| split.score);
            assert!(score == expected || (score - expected).abs() < 1e-9 * expected, "{score} {expected}");
        }
        assert!(purity.counts.iter().all(|count| *count == 0), "the room is clean for the next use");
    }
}
