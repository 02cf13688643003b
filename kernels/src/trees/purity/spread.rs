//! Splits by number, with the variance.

use super::super::bins::{Cuts, MAX_BINS};
use super::super::walk::Side;
use super::{Best, Occupied, PuritySplit, ValueSample, heavier};

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

    /// As [`super::Purity::best_split`], with the variance; `total` is [`Self::sum`] of its rows.
    pub fn best_split(
        &mut self,
        bins: &[u8],
        cuts: &Cuts,
        samples: &[ValueSample],
        (sum, count): (i64, u64),
        least: u32,
    ) -> Option<PuritySplit> {
        let mut occupied = Occupied::default();
        for (bin, sample) in bins.iter().zip(samples) {
            let bin = *bin;
            occupied.set(bin);
            self.sums[usize::from(bin)] += sample.value * i64::from(sample.weight);
            self.counts[usize::from(bin)] += u64::from(sample.weight);
        }
        let mut best = Best::new(cuts, occupied.range(cuts.value_bins()), least);
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
