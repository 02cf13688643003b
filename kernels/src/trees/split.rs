//! The split of most gain (Chen and Guestrin, XGBoost, 2016, equation 7).

use super::bins::MAX_BINS;
use super::derivatives::Quantum;
use super::histogram::sum_of;
use super::walk::Side;
use crate::simd::widened;

/// Least gain of a split.
pub(crate) const LEAST_GAIN: f64 = 1e-6;

/// What a leaf costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// L2 penalty of leaf values.
    pub l2: f64,
    /// L1 penalty of leaf values.
    pub l1: f64,
    /// Least sum of second derivatives in a leaf.
    pub least_hessian: f64,
}

impl Penalties {
    /// The best value of a leaf with these sums: -g / (h + l2), after g was moved by l1 towards 0.
    pub fn leaf_value(&self, gradient: f64, hessian: f64) -> f64 {
        let weight = hessian + self.l2;
        if weight > 0.0 { -self.shrink(gradient) / weight } else { 0.0 }
    }

    /// Twice what a leaf with these sums lowers the loss.
    pub fn score(&self, gradient: f64, hessian: f64) -> f64 {
        let weight = hessian + self.l2;
        if weight > 0.0 { self.shrink(gradient).powi(2) / weight } else { 0.0 }
    }

    fn shrink(&self, gradient: f64) -> f64 {
        if self.l1 == 0.0 {
            gradient
        } else if gradient > self.l1 {
            gradient - self.l1
        } else if gradient < -self.l1 {
            gradient + self.l1
        } else {
            0.0
        }
    }
}

/// A way to part the rows of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// How much more the children score than the node.
    pub gain: f64,
    /// The last occupied bin that goes left.
    pub bin: u8,
    /// The first occupied bin after it; `None` where missing values alone go right.
    pub next: Option<u8>,
    /// Where missing values go.
    pub default: Side,
    /// Packed sum of the left child.
    pub left: i64,
}

/// The best split by one feature that gains more than `least`, or `None`.
///
/// `sums` holds the packed sums of the feature's `value_bins` bins, and one more where values are missing; `total` is
/// their sum. Both ways for missing values are tried. Where none is missing in this node, one that comes later goes
/// where most rows go. Of equal gains the lowest bin counts.
pub fn best_split(
    sums: &[i64],
    value_bins: usize,
    total: i64,
    quantum: &Quantum,
    penalties: &Penalties,
    least: f64,
) -> Option<Split> {
    let (gradient, hessian) = sum_of(total);
    let parent = penalties.score(gradient as f64 * quantum.gradient, hessian as f64 * quantum.hessian);
    let floor = parent + least.max(LEAST_GAIN);
    let missing = sums.get(value_bins).copied().unwrap_or(0);
    let values = &sums[..value_bins];
    let found = if penalties.l1 == 0.0 {
        scan::<false>(values, total, missing, quantum, penalties, floor)
    } else {
        scan::<true>(values, total, missing, quantum, penalties, floor)
    };
    found.map(|(score, bin, default, left)| {
        let next =
            values.iter().skip(bin + 1).position(|sum| *sum != 0).map(|skipped| (bin + 1 + skipped) as u8);
        Split { gain: score - parent, bin: bin as u8, next, default, left }
    })
}

fn scan<const L1: bool>(
    values: &[i64],
    total: i64,
    missing: i64,
    quantum: &Quantum,
    penalties: &Penalties,
    floor: f64,
) -> Option<(f64, usize, Side, i64)> {
    // In units: scores are quantum.gradient^2 / quantum.hessian times as large.
    let unit = quantum.gradient * quantum.gradient / quantum.hessian;
    let scores = Scores::<L1> {
        total: parts(total),
        least: (penalties.least_hessian / quantum.hessian).max(f64::MIN_POSITIVE),
        l1: penalties.l1 / quantum.gradient,
        l2: penalties.l2 / quantum.hessian,
    };
    let values = &values[..values.len().min(MAX_BINS)];
    let mut lefts = [0; MAX_BINS];
    let mut sum = 0_i64;
    for (left, value) in lefts.iter_mut().zip(values) {
        sum = sum.wrapping_add(*value);
        *left = sum;
    }
    let mut best = floor / unit;
    let mut right = [0.0; MAX_BINS];
    if missing == 0 {
        let last = values.len() - 1;
        let mut found = None;
        scores.fill(&lefts[..last], 0, values, &mut right);
        for (bin, score) in right[..last].iter().enumerate() {
            if *score > best {
                best = *score;
                found = Some((*score, bin, lefts[bin]));
            }
        }
        let all_h = sum_of(total).1;
        return found.map(|(score, bin, sum)| {
            let heavier = sum_of(sum).1 * 2 > all_h;
            (score * unit, bin, if heavier { Side::Left } else { Side::Right }, sum)
        });
    }
    let (mut found, mut left) = (None, [0.0; MAX_BINS]);
    scores.fill(&lefts[..values.len()], 0, values, &mut right);
    scores.fill(&lefts[..values.len() - 1], missing, values, &mut left);
    for bin in 0..values.len() {
        if right[bin] > best {
            best = right[bin];
            found = Some((best, bin, Side::Right, lefts[bin]));
        }
        if bin + 1 < values.len() && left[bin] > best {
            best = left[bin];
            found = Some((best, bin, Side::Left, lefts[bin].wrapping_add(missing)));
        }
    }
    found.map(|(score, bin, default, left)| (score * unit, bin, default, left))
}

/// Gradient and second derivative of a packed sum, in units, each of 32 bits.
#[inline(always)]
fn parts(packed: i64) -> (f64, f64) {
    (f64::from((packed >> 32) as i32), f64::from(packed as u32))
}

/// What splits of a node score, in units.
struct Scores<const L1: bool> {
    total: (f64, f64),
    least: f64,
    l1: f64,
    l2: f64,
}

impl<const L1: bool> Scores<L1> {
    /// Writes the score of each way to part the rows: `lefts` are packed sums of the left child, `more` is added to each.
    /// Those with too light a child get a score below all, and those at empty bins, which part the rows as the bin
    /// before does.
    fn fill(&self, lefts: &[i64], more: i64, values: &[i64], scores: &mut [f64; MAX_BINS]) {
        let (all_g, all_h) = self.total;
        let shrink = |g: f64| if L1 { (g.abs() - self.l1).max(0.0) } else { g };
        widened(|| {
            for ((score, left), value) in scores.iter_mut().zip(lefts).zip(values) {
                let (left_g, left_h) = parts(left.wrapping_add(more));
                let (right_g, right_h) = (all_g - left_g, all_h - left_h);
                let (left_g, right_g) = (shrink(left_g), shrink(right_g));
                let (left_w, right_w) = (left_h + self.l2, right_h + self.l2);
                let sum = left_g * left_g * right_w + right_g * right_g * left_w;
                let is_one = (left_h >= self.least) & (right_h >= self.least) & (*value != 0);
                *score = if is_one { sum / (left_w * right_w) } else { f64::NEG_INFINITY };
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUANTUM: Quantum = Quantum { gradient: 0.5, hessian: 0.25 };

    fn pack(g: i64, h: i64) -> i64 {
        (g << 32) + h
    }

    fn penalties(l1: f64) -> Penalties {
        Penalties { l2: 1.0, l1, least_hessian: 1.0 }
    }

    /// Every way to part the bins, by definition.
    fn by_hand(sums: &[(i64, i64)], missing: Option<(i64, i64)>, penalties: &Penalties) -> f64 {
        let real = |(g, h): (i64, i64)| (g as f64 * QUANTUM.gradient, h as f64 * QUANTUM.hessian);
        let add = |a: (i64, i64), b: (i64, i64)| (a.0 + b.0, a.1 + b.1);
        let total = sums.iter().copied().chain(missing).fold((0, 0), add);
        let mut best = 0.0_f64;
        for left_bins in 1..=sums.len() {
            let left = sums[..left_bins].iter().copied().fold((0, 0), add);
            for left in [Some(left), missing.map(|m| add(left, m))].into_iter().flatten() {
                let (l, r) = (real(left), real((total.0 - left.0, total.1 - left.1)));
                if l.1 >= penalties.least_hessian && r.1 >= penalties.least_hessian {
                    let all = real(total);
                    let gain =
                        penalties.score(l.0, l.1) + penalties.score(r.0, r.1) - penalties.score(all.0, all.1);
                    best = best.max(gain);
                }
            }
        }
        best
    }

    #[test]
    fn the_best_split_is_the_one_found_by_trying_all() {
        let mut state = 5_u64;
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            ((state >> 33) % n) as i64
        };
        for round in 0..500 {
            let bins = 1 + draw(9) as usize;
            let sums: Vec<(i64, i64)> = (0..bins).map(|_| (draw(41) - 20, draw(12))).collect();
            let missing = (round % 2 == 0).then(|| (draw(41) - 20, 1 + draw(12)));
            let packed: Vec<i64> = sums.iter().copied().chain(missing).map(|(g, h)| pack(g, h)).collect();
            let penalties = penalties(if round % 3 == 0 { 1.5 } else { 0.0 });
            let total = packed.iter().sum();
            let expected = by_hand(&sums, missing, &penalties);
            match best_split(&packed, bins, total, &QUANTUM, &penalties, 0.0) {
                None => assert!(expected <= 2e-6, "round {round}: {expected}"),
                Some(split) => {
                    assert!((split.gain - expected).abs() < 1e-9 * (1.0 + expected), "{split:?} {expected}");
                    let left: i64 = packed[..=split.bin as usize].iter().sum();
                    let with = split.default == Side::Left && missing.is_some();
                    assert_eq!(split.left, left + if with { packed[bins] } else { 0 });
                }
            }
        }
    }

    #[test]
    fn too_small_a_gain_is_no_split_and_a_leaf_is_the_minimum() {
        let sums = [pack(8, 8), pack(-8, 8)];
        assert!(best_split(&sums, 2, 16, &QUANTUM, &penalties(0.0), 5.0).is_some());
        assert!(best_split(&sums, 2, 16, &QUANTUM, &penalties(0.0), 20.0).is_none());
        assert_eq!(penalties(0.0).leaf_value(3.0, 2.0), -1.0);
        assert_eq!(penalties(0.6).leaf_value(-3.6, 2.0), 1.0);
        assert_eq!(penalties(0.6).leaf_value(-0.5, 2.0), 0.0);
    }
}
