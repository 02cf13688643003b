//! Which features may have the split of most gain of a node, on a GPU.
//!
//! WGSL has no `f64`, and an estimate in `f32` may prefer another one of two splits that gain nearly the same. So the
//! device says within which bounds the best score of each feature lies, and whoever asked looks at the features whose
//! bounds reach the greatest lower one as [`crate::trees::best_split`] does: most often that is one of them, and what is
//! found is what the CPU finds, ties included.

use cubecl::prelude::*;
use cubecl::server::ServerError;

use super::{Values, spread};
use crate::trees::{Limits, Penalties, Quantum};

/// What a feature's sums are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Its first slot among all tiles.
    pub slot: u32,
    /// Bins of values.
    pub value_bins: u32,
    /// Whether one of missing values comes behind them.
    pub missing: bool,
}

/// Features in the device's memory.
#[derive(Debug, Clone)]
pub struct Features {
    layout: Values,
    /// The end of their slots.
    end: usize,
}

/// Numbers that describe a feature: its first slot, its bins of values, 1 where there is one of missing values.
const OF_FEATURE: usize = 3;

impl Features {
    /// Puts the layout of `features`, one at least, there.
    pub fn upload(client: &Client, features: &[Feature]) -> Self {
        let numbers = |feature: &Feature| [feature.slot, feature.value_bins, u32::from(feature.missing)];
        let layout: Vec<u32> = features.iter().flat_map(numbers).collect();
        let end = features.iter().map(|f| f.slot + f.value_bins + u32::from(f.missing)).max();
        Self { layout: Values::upload(client, &layout), end: end.unwrap_or(0) as usize }
    }

    fn count(&self) -> usize {
        self.layout.len() / OF_FEATURE
    }
}

/// What a split must keep to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScanLimits {
    /// Packed sum over the node.
    pub total: i64,
    /// What a unit is.
    pub quantum: Quantum,
    /// What leaves cost.
    pub penalties: Penalties,
    /// What a split must gain at least.
    pub least: f64,
}

/// Greatest penalty, in units, with which no estimate leaves the range of `f32`.
const MOST_PENALTY: f64 = 1e30;

/// Positions in `features`, ascending, of those by which the best split of a node may be, as
/// [`crate::trees::best_split`] finds it in `sums`, packed sums; empty where none gains enough.
///
/// # Errors
/// The device failed.
///
/// # Panics
/// When a slot lies outside of `sums`.
pub fn contenders(
    client: &Client,
    sums: &Values,
    features: &Features,
    limits: &ScanLimits,
) -> Result<Vec<usize>, ServerError> {
    let in_units = Limits::new(limits.total, &limits.quantum, &limits.penalties, limits.least);
    if in_units.least > f64::from(u32::MAX) {
        // No child is that heavy.
        return Ok(Vec::new());
    }
    if in_units.l1.max(in_units.l2) > MOST_PENALTY {
        return Ok((0..features.count()).collect());
    }
    let bounds = score_bounds(client, sums, features, limits)?;
    let cut = bounds.iter().map(|[low, _]| f64::from(*low)).fold(in_units.floor, f64::max);
    let reach = bounds.iter().enumerate().filter(|(_, [_, high])| f64::from(*high) >= cut);
    Ok(reach.map(|(position, _)| position).collect())
}

/// Lower and upper bound of the best score by each of `features`, in units (of `quantum.gradient`^2 /
/// `quantum.hessian`); both are 0 where no split leaves enough on both sides. Penalties of 1e30 units at most.
///
/// # Errors
/// The device failed.
///
/// # Panics
/// When a slot lies outside of `sums`.
pub fn score_bounds(
    client: &Client,
    sums: &Values,
    features: &Features,
    limits: &ScanLimits,
) -> Result<Vec<[f32; 2]>, ServerError> {
    assert!(2 * features.end <= sums.len(), "slots must lie within sums");
    let in_units = Limits::new(limits.total, &limits.quantum, &limits.penalties, limits.least);
    let bounds = Values::empty(client, 2 * features.count());
    let (cubes, units) = spread(client, features.count());
    split_kernel::launch(
        client,
        cubes,
        units,
        sums.argument(),
        features.layout.argument(),
        bounds.argument(),
        (limits.total >> 32) as u32,
        limits.total as u32,
        in_units.l1 as f32,
        in_units.l2 as f32,
        in_units.least as u32,
    );
    Ok(bounds.read::<f32>(client)?.as_chunks::<2>().0.to_vec())
}

/// How far a score may be off, as a part of it: far above what rounding adds up to, since no term is a difference that
/// was rounded but for [`EDGE`].
const SLACK: f32 = 1e-5;

/// How far a gradient that L1 has shrunk may be off, as a part of the two that it is the difference of.
const EDGE: f32 = 1e-6;

/// Lower or upper bound of the score of a child, by the sign of `slack`. `gradient` is that of an `i32`.
#[cube]
fn score(gradient: u32, hessian: u32, l1: f32, l2: f32, slack: f32) -> f32 {
    let size = f32::cast_from(i32::cast_from(gradient)).abs();
    let shrunk = max(size - l1 + slack * (size + l1), 0.0f32);
    shrunk * (shrunk / (f32::cast_from(hessian) + l2))
}

#[cube(launch)]
fn split_kernel(
    sums: &[u32],
    layout: &[u32],
    bounds: &mut [f32],
    total_gradient: u32,
    total_hessian: u32,
    l1: f32,
    l2: f32,
    least: u32,
) {
    let feature = ABSOLUTE_POS;
    if feature < bounds.len() / 2 {
        let start = layout[3 * feature] as usize;
        let bins = layout[3 * feature + 1] as usize;
        let has_missing = layout[3 * feature + 2];
        let missing_at = start + bins * has_missing as usize;
        let missing_hessian = sums[2 * missing_at] * has_missing;
        let missing_gradient = sums[2 * missing_at + 1] * has_missing;
        let none_missing = missing_gradient == 0u32 && missing_hessian == 0u32;
        let mut low = 0.0f32;
        let mut high = 0.0f32;
        let mut gradient = 0u32;
        let mut hessian = 0u32;
        for bin in 0..bins {
            let own_hessian = sums[2 * (start + bin)];
            let own_gradient = sums[2 * (start + bin) + 1];
            // An empty bin parts the rows as the one before did.
            if own_gradient != 0u32 || own_hessian != 0u32 {
                gradient += own_gradient;
                hessian += own_hessian;
                for way in 0..2u32 {
                    let with = way == 1u32;
                    let left_gradient = gradient + select(with, missing_gradient, 0u32);
                    let left_hessian = hessian + select(with, missing_hessian, 0u32);
                    let right_gradient = total_gradient - left_gradient;
                    let right_hessian = total_hessian - left_hessian;
                    // Behind the last bin there is nothing but missing values to part from.
                    let sensible =
                        select(with, bin + 1 < bins && !none_missing, bin + 1 < bins || !none_missing);
                    if sensible && left_hessian >= least && right_hessian >= least {
                        let lower = score(left_gradient, left_hessian, l1, l2, -EDGE)
                            + score(right_gradient, right_hessian, l1, l2, -EDGE);
                        let upper = score(left_gradient, left_hessian, l1, l2, EDGE)
                            + score(right_gradient, right_hessian, l1, l2, EDGE);
                        low = max(low, lower * (1.0f32 - SLACK));
                        high = max(high, upper * (1.0f32 + SLACK));
                    }
                }
            }
        }
        bounds[2 * feature] = low;
        bounds[2 * feature + 1] = high;
    }
}
