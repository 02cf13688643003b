//! Splits by class of nodes with few rows: those are sorted by bin and looked at one by one, without a branch that
//! could be guessed wrong.

use super::super::bins::{Cuts, MAX_BINS};
use super::{Best, ClassSample, PuritySplit, heavier};

/// Rows up to which they are sorted by comparing.
const COMPARED: usize = 32;

/// The rows as they come, and by bin.
#[derive(Debug, Default)]
pub(super) struct Room {
    unsorted: Vec<Few>,
    sorted: Vec<Few>,
    /// Draws of each class: on the left so far, and in all.
    classes: Vec<[u32; 2]>,
}

/// As [`super::Purity::best_split`]; `None` where a row has no value.
pub(super) fn best_split(
    room: &mut Room,
    bins: &[u8],
    cuts: &Cuts,
    samples: &[ClassSample],
    totals: &[u32],
    least: u32,
) -> Option<Option<PuritySplit>> {
    let Room { unsorted, sorted, classes } = room;
    unsorted.clear();
    unsorted.extend(bins.iter().zip(samples).map(|(bin, sample)| Few::new(*bin, *sample)));
    let few: &[Few] = if samples.len() <= COMPARED {
        unsorted.sort_unstable();
        unsorted
    } else {
        sort(unsorted, sorted);
        sorted
    };
    let range = (few.first()?.bin(), few.last()?.bin());
    if usize::from(range.1) >= cuts.value_bins() {
        return None;
    }
    let mut best = Best::new(cuts, range, least);
    classes.clear();
    classes.extend(totals.iter().map(|total| [0, *total]));
    let (mut all, mut right_square) = (0_u64, 0_u64);
    for total in totals {
        all += u64::from(*total);
        right_square += u64::from(*total) * u64::from(*total);
    }
    let (mut left_rows, mut left_square) = (0_u64, 0_u64);
    for pair in few.windows(2) {
        let (class, more) = (&mut classes[pair[0].class()], pair[0].weight());
        let left = u64::from(class[0]);
        let right = u64::from(class[1]) - left;
        // (left + more)^2 and (right - more)^2.
        left_square += more * (2 * left + more);
        right_square -= more * (2 * right - more);
        class[0] += more as u32;
        left_rows += more;
        let right_rows = all - left_rows;
        let [bin, next] = [pair[0].bin(), pair[1].bin()];
        if (bin != next) & best.may_be([left_square, right_square], [left_rows, right_rows]) && right_rows > 0
        {
            let score = left_square as f64 / left_rows as f64 + right_square as f64 / right_rows as f64;
            let default = heavier(left_rows, right_rows);
            let split = PuritySplit { score, bin, next: Some(next), default, gap: 0.0 };
            best.consider([left_rows, right_rows], split);
        }
    }
    Some(best.found)
}

/// Bin, class and weight of a row, in this order from the highest bits: so rows sort by bin, and as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Few(u64);

impl Few {
    fn new(bin: u8, ClassSample { class, weight }: ClassSample) -> Self {
        Self(u64::from(bin) << 32 | u64::from(class) << 16 | u64::from(weight))
    }

    fn bin(self) -> u8 {
        (self.0 >> 32) as u8
    }

    fn class(self) -> usize {
        usize::from((self.0 >> 16) as u16)
    }

    fn weight(self) -> u64 {
        u64::from(self.0 as u16)
    }
}

/// Into `sorted` by bin, by counting.
fn sort(few: &[Few], sorted: &mut Vec<Few>) {
    let mut starts = [0_u32; MAX_BINS];
    for few in few {
        starts[usize::from(few.bin())] += 1;
    }
    let mut sum = 0;
    for start in &mut starts {
        sum += std::mem::replace(start, sum);
    }
    // What was there is written over.
    sorted.resize(few.len(), Few(0));
    for few in few {
        let start = &mut starts[usize::from(few.bin())];
        sorted[*start as usize] = *few;
        *start += 1;
    }
}
