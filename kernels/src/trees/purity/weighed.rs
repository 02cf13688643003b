//! Splits by class where draws of some classes count for more than those of others. Draws are counted as whole numbers
//! all the same and weighed at last, so that no sum depends on the order of the rows.

use super::super::bins::Cuts;
use super::super::walk::Side;
use super::{Best, ClassSample, Occupied, Purity, PuritySplit, heavier};

/// As [`Purity::best_split`]; `least` is a number of draws, whatever they weigh.
pub(super) fn best_split(
    purity: &mut Purity,
    bins: &[u8],
    cuts: &Cuts,
    samples: &[ClassSample],
    totals: &[u32],
    least: u32,
) -> Option<PuritySplit> {
    let Purity { classes, counts, left, weights, .. } = purity;
    let classes = *classes;
    let at = |bin: usize| bin * classes..(bin + 1) * classes;
    let mut occupied = Occupied::default();
    for (bin, sample) in bins.iter().zip(samples) {
        occupied.set(*bin);
        counts[usize::from(*bin) * classes + usize::from(sample.class)] += u32::from(sample.weight);
    }
    let mut best = Best::new(cuts, occupied.range(cuts.value_bins()), least);
    let missing_bin = cuts.missing.then_some(cuts.value_bins());
    let missing = missing_bin.filter(|bin| counts[at(*bin)].iter().any(|count| *count > 0));
    let missing = missing.map(|bin| &counts[at(bin)]);
    left.fill(0);
    let mut values = occupied.bins().take_while(|bin| *bin < cuts.value_bins()).peekable();
    while let Some(bin) = values.next() {
        let next = values.peek().map(|bin| *bin as u8);
        for (left, count) in left.iter_mut().zip(&counts[at(bin)]) {
            *left += count;
        }
        let mut consider = |sides: Sides, default: Option<Side>| {
            if sides.rows[0] > 0 && sides.rows[1] > 0 {
                let default = default.unwrap_or_else(|| heavier(sides.rows[0], sides.rows[1]));
                let score = sides.score();
                best.consider(sides.rows, PuritySplit { score, bin: bin as u8, next, default, gap: 0.0 });
            }
        };
        let default = missing.map(|_| Side::Right);
        consider(Sides::of(left.iter().copied(), totals, weights), default);
        if let Some(missing) = missing {
            let with = left.iter().zip(missing).map(|(left, missing)| left + missing);
            consider(Sides::of(with, totals, weights), Some(Side::Left));
        }
    }
    for bin in occupied.bins() {
        counts[at(bin)].fill(0);
    }
    best.found
}

/// Both children of a node.
#[derive(Default)]
struct Sides {
    /// Draws.
    rows: [u64; 2],
    /// What they weigh.
    masses: [f64; 2],
    /// Sums over the classes of the square of that.
    squares: [f64; 2],
}

impl Sides {
    fn of(left: impl Iterator<Item = u32>, totals: &[u32], weights: &[f64]) -> Self {
        let mut sides = Self::default();
        for ((left, total), weight) in left.zip(totals).zip(weights) {
            for (side, count) in [left, total - left].into_iter().enumerate() {
                let mass = f64::from(count) * weight;
                sides.rows[side] += u64::from(count);
                sides.masses[side] += mass;
                sides.squares[side] += mass * mass;
            }
        }
        sides
    }

    fn score(&self) -> f64 {
        self.squares[0] / self.masses[0] + self.squares[1] / self.masses[1]
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::bins::cut_points;
    use super::*;

    #[test]
    fn a_weight_is_as_many_draws() {
        let mut state = 7_u64;
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (state >> 33) % n
        };
        let weights = [1_u16, 5, 2];
        let mut weighed = Purity::weighed(&weights.map(f64::from));
        let mut plain = Purity::new(3);
        for round in 0..400 {
            let values: Vec<f32> = (0..=draw(12)).map(|value| value as f32).collect();
            let cuts = Cuts { missing: round % 2 == 0, ..cut_points(&values, 256) };
            let count = 2 + draw(700) as u32;
            let rows: Vec<u32> = (0..count).collect();
            let bins: Vec<u8> = rows.iter().map(|_| draw(cuts.bins() as u64) as u8).collect();
            let sample = |_: &u32| ClassSample { class: draw(3) as u16, weight: draw(3) as u16 };
            let samples: Vec<ClassSample> = rows.iter().map(sample).collect();
            let many = |sample: &ClassSample| ClassSample {
                weight: sample.weight * weights[usize::from(sample.class)],
                ..*sample
            };
            let multiplied: Vec<ClassSample> = samples.iter().map(many).collect();
            let mut totals = [[0; 3]; 2];
            Purity::count(&rows, &samples, &mut totals[0]);
            Purity::count(&rows, &multiplied, &mut totals[1]);
            let found = weighed.best_split(&bins, &cuts, &samples, &totals[0], 1);
            let expected = plain.best_split(&bins, &cuts, &multiplied, &totals[1], 1);
            let scores = [found, expected].map(|split| split.map_or(0.0, |split| split.score));
            assert!((scores[0] - scores[1]).abs() <= 1e-9 * scores[1], "round {round}: {scores:?}");
            // Draws are counted, not what they weigh.
            let least = totals[0].iter().sum::<u32>() / 2 + 1;
            assert_eq!(weighed.best_split(&bins, &cuts, &samples, &totals[0], least), None);
        }
    }
}
