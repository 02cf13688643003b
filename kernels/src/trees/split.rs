//! The split of most gain (Chen and Guestrin, XGBoost, 2016, equation 7).

use super::bins::MAX_BINS;
use super::derivatives::Quantum;
use super::histogram::sum_of;
use super::walk::Side;
use crate::simd::widened;

/// Least gain of a split.
const LEAST_GAIN: f64 = 1e-6;

/// Bins that are looked at together.
const LANES: usize = 16;

/// Bins from which on scores are estimated first.
const ESTIMATED_FROM: usize = 64;

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
    let limits = Limits::new(total, quantum, penalties, least);
    let missing = sums.get(value_bins).copied().unwrap_or(0);
    let values = &sums[..value_bins];
    let found = if penalties.l1 == 0.0 {
        scan::<false>(values, total, missing, &limits)
    } else {
        scan::<true>(values, total, missing, &limits)
    };
    let parent = limits.parent;
    found.map(|(score, bin, default, left)| {
        let next =
            values.iter().skip(bin + 1).position(|sum| *sum != 0).map(|skipped| (bin + 1 + skipped) as u8);
        Split { gain: score - parent, bin: bin as u8, next, default, left }
    })
}

/// What splits of a node are held to, in units but for `parent`: scores in units are quantum.gradient^2 /
/// quantum.hessian times as large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// What the node itself scores.
    parent: f64,
    /// One unit of a score.
    unit: f64,
    /// What a split has to score more than.
    pub(crate) floor: f64,
    /// Least second derivative of a child, a whole number.
    pub(crate) least: f64,
    /// L1 penalty.
    pub(crate) l1: f64,
    /// L2 penalty.
    pub(crate) l2: f64,
}

impl Limits {
    /// Those of a node with the packed sum `total`, whose splits have to gain more than `least`.
    pub(crate) fn new(total: i64, quantum: &Quantum, penalties: &Penalties, least: f64) -> Self {
        let (gradient, hessian) = sum_of(total);
        let parent = penalties.score(gradient as f64 * quantum.gradient, hessian as f64 * quantum.hessian);
        let unit = quantum.gradient * quantum.gradient / quantum.hessian;
        Self {
            parent,
            unit,
            floor: (parent + least.max(LEAST_GAIN)) / unit,
            least: (penalties.least_hessian / quantum.hessian).max(1.0).ceil(),
            l1: penalties.l1 / quantum.gradient,
            l2: penalties.l2 / quantum.hessian,
        }
    }
}

fn scan<const L1: bool>(
    values: &[i64],
    total: i64,
    missing: i64,
    limits: &Limits,
) -> Option<(f64, usize, Side, i64)> {
    let Limits { unit, floor, least, l1, l2, .. } = *limits;
    let scores = Scores::<L1> { total, least, l1, l2 };
    let (mut best, mut found) = (floor, None);
    let mut consider = |left: i64, bin: usize, default: Side| {
        if let Some(score) = scores.exact(left).filter(|score| *score > best) {
            best = score;
            found = Some((score, bin, default, left));
        }
    };
    let all_h = sum_of(total).1;
    // Where none is missing now.
    let heavier = |left: i64| if sum_of(left).1 * 2 > all_h { Side::Left } else { Side::Right };
    let last = values.len() - usize::from(missing == 0);
    if missing == 0 && !L1 && last >= ESTIMATED_FROM {
        scores.near(&values[..last], floor, |bin, left| consider(left, bin, heavier(left)));
    } else {
        let mut sum = 0_i64;
        // An empty bin parts the rows as the one before did.
        for (bin, value) in values[..last].iter().enumerate().filter(|(_, value)| **value != 0) {
            sum = sum.wrapping_add(*value);
            if missing == 0 {
                consider(sum, bin, heavier(sum));
            } else {
                consider(sum, bin, Side::Right);
                if bin + 1 < values.len() {
                    consider(sum.wrapping_add(missing), bin, Side::Left);
                }
            }
        }
    }
    found.map(|(score, bin, default, left)| (score * unit, bin, default, left))
}

/// What splits of a node score, in units.
struct Scores<const L1: bool> {
    /// Packed sum of the node.
    total: i64,
    /// Least second derivative of a child, a whole number.
    least: f64,
    l1: f64,
    l2: f64,
}

impl<const L1: bool> Scores<L1> {
    /// The score with this packed sum in the left child; `None` where a child is too light.
    fn exact(&self, left: i64) -> Option<f64> {
        let ((all_g, all_h), (left_g, left_h)) = (sum_of(self.total), sum_of(left));
        let (right_g, right_h) = ((all_g - left_g) as f64, (all_h - left_h) as f64);
        let (left_g, left_h) = (left_g as f64, left_h as f64);
        if left_h < self.least || right_h < self.least {
            return None;
        }
        let shrink = |g: f64| if L1 { (g.abs() - self.l1).max(0.0) } else { g };
        let (left_g, right_g) = (shrink(left_g), shrink(right_g));
        let (left_w, right_w) = (left_h + self.l2, right_h + self.l2);
        Some((left_g * left_g * right_w + right_g * right_g * left_w) / (left_w * right_w))
    }

    /// Calls `found` with the bins, and the packed sums up to them, that may be the best of `values` and above `floor`: in
    /// their order, and more often than not with one alone. Estimates the scores in vectors of `f32`.
    fn near(&self, values: &[i64], floor: f64, mut found: impl FnMut(usize, i64)) {
        /// Far above the relative error of an estimate: none of its terms is a difference that was rounded.
        const SLACK: f64 = 1e-5;
        if self.least > f64::from(u32::MAX) {
            return;
        }
        let values = &values[..values.len().min(MAX_BINS)];
        let mut lefts = [0; MAX_BINS];
        let mut sum = 0_i64;
        for (left, value) in lefts.iter_mut().zip(values) {
            sum = sum.wrapping_add(*value);
            *left = sum;
        }
        let (all_g, all_h) = ((self.total >> 32) as i32, self.total as u32);
        let (least, l2) = (self.least as u32, self.l2 as f32);
        let mut near = [-1.0_f32; MAX_BINS];
        let mut tops = [-1.0_f32; LANES];
        widened(|| {
            for (near, left) in near.iter_mut().zip(&lefts[..values.len()]) {
                let (left_g, left_h) = ((*left >> 32) as i32, *left as u32);
                let (right_g, right_h) = (all_g.wrapping_sub(left_g), all_h.wrapping_sub(left_h));
                let fits = (left_h >= least) & (right_h >= least);
                let (left_g, right_g) = (left_g as f32, right_g as f32);
                let (left_w, right_w) = (left_h as f32 + l2, right_h as f32 + l2);
                let score = (left_g * left_g * right_w + right_g * right_g * left_w) / (left_w * right_w);
                *near = if fits { score } else { -1.0 };
            }
            for near in near.as_chunks::<LANES>().0 {
                for (top, near) in tops.iter_mut().zip(near) {
                    *top = if *near > *top { *near } else { *top };
                }
            }
        });
        let most = tops.into_iter().fold(-1.0, f32::max);
        let cut = (f64::from(most).max(floor) * (1.0 - SLACK)) as f32;
        for (block, near) in near.as_chunks::<LANES>().0.iter().enumerate() {
            // All at once: seldom is there one.
            if !near.iter().fold(false, |any, near| any | (*near >= cut)) {
                continue;
            }
            for (lane, _) in near.iter().enumerate().filter(|(_, near)| **near >= cut) {
                let bin = block * LANES + lane;
                // An empty bin parts the rows as the one before did.
                if values.get(bin).is_some_and(|value| *value != 0) {
                    found(bin, lefts[bin]);
                }
            }
        }
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
            // Few enough to be looked at one by one, or estimated first.
            let bins =
                if round % 4 == 3 { ESTIMATED_FROM + draw(192) as usize } else { 1 + draw(9) as usize };
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
