//! The split of most gain of each feature of a node, on a GPU.

use cubecl::prelude::*;

use super::{Values, spread};
use crate::trees::{LEAST_GAIN, Penalties, Quantum, Side};

/// What a feature's sums are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Its first slot.
    pub offset: u32,
    /// Bins of values; that of missing ones comes behind them.
    pub value_bins: u32,
}

/// What a split must keep to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScanLimits {
    /// Sums of gradient and second derivative over the node, in units.
    pub total: [i32; 2],
    /// What a unit is.
    pub quantum: Quantum,
    /// What leaves cost.
    pub penalties: Penalties,
}

/// The best split by a feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FoundSplit {
    /// How much more the children score than the node.
    pub gain: f32,
    /// The last bin that goes left.
    pub bin: u32,
    /// Where missing values go.
    pub default: Side,
}

/// As [`crate::trees::best_split`] for each of `features`, whose sums are in `sums`, shape `[slots, 2]` (`i32`); `None`
/// where no split gains anything, or the device failed. Scores are computed in `f32`: of splits that gain as much but
/// for rounding, another one may be found.
pub fn best_splits(
    client: &Client,
    sums: &Values,
    features: &[Feature],
    limits: &ScanLimits,
) -> Vec<Option<FoundSplit>> {
    let layout: Vec<u32> = features.iter().flat_map(|feature| [feature.offset, feature.value_bins]).collect();
    let end = features.iter().map(|feature| 2 * (feature.offset + feature.value_bins + 1)).max();
    assert!(end.unwrap_or(0) as usize <= sums.len(), "slots must lie within sums");
    let layout = Values::upload(client, &layout);
    let gains = Values::empty(client, features.len());
    let choices = Values::empty(client, features.len());
    let ScanLimits { total: [gradient, hessian], quantum, penalties } = *limits;
    let (cubes, units) = spread(client, features.len());
    split_kernel::launch(
        client,
        cubes,
        units,
        sums.argument(),
        layout.argument(),
        gains.argument(),
        choices.argument(),
        gradient,
        hessian,
        quantum.gradient as f32,
        quantum.hessian as f32,
        penalties.l1 as f32,
        penalties.l2 as f32,
        penalties.least_hessian as f32,
        LEAST_GAIN as f32,
    );
    let (Some(gains), Some(choices)) = (gains.read::<f32>(client), choices.read::<u32>(client)) else {
        return vec![None; features.len()];
    };
    let found = |(gain, choice): (f32, u32)| {
        let default = if choice & LEFT == 0 { Side::Right } else { Side::Left };
        (choice & FOUND != 0).then_some(FoundSplit { gain, bin: choice & 255, default })
    };
    gains.into_iter().zip(choices).map(found).collect()
}

/// Marks of a choice beside the bin in its lowest byte.
const LEFT: u32 = 256;
const FOUND: u32 = 512;

#[cube]
fn score(gradient: f32, hessian: f32, l1: f32, l2: f32) -> f32 {
    let shrunk = max(gradient.abs() - l1, 0.0f32);
    let weight = hessian + l2;
    select(weight > 0.0f32, shrunk * shrunk / weight, 0.0f32)
}

#[cube(launch)]
fn split_kernel(
    sums: &[i32],
    layout: &[u32],
    gains: &mut [f32],
    choices: &mut [u32],
    total_gradient: i32,
    total_hessian: i32,
    gradient_unit: f32,
    hessian_unit: f32,
    l1: f32,
    l2: f32,
    least_hessian: f32,
    least_gain: f32,
) {
    let feature = ABSOLUTE_POS;
    if feature < gains.len() {
        let start = layout[2 * feature] as usize;
        let bins = layout[2 * feature + 1] as usize;
        let missing_gradient = sums[2 * (start + bins)];
        let missing_hessian = sums[2 * (start + bins) + 1];
        let none_missing = missing_gradient == 0i32 && missing_hessian == 0i32;
        let parent = score(
            f32::cast_from(total_gradient) * gradient_unit,
            f32::cast_from(total_hessian) * hessian_unit,
            l1,
            l2,
        );
        let mut best = 0.0f32;
        let mut choice = 0u32;
        let mut gradient = 0i32;
        let mut hessian = 0i32;
        for bin in 0..bins {
            let own_gradient = sums[2 * (start + bin)];
            let own_hessian = sums[2 * (start + bin) + 1];
            // An empty bin parts the rows as the one before did.
            if own_gradient != 0i32 || own_hessian != 0i32 {
                gradient += own_gradient;
                hessian += own_hessian;
                for way in 0..2u32 {
                    let with = way == 1u32;
                    let left_g = gradient + select(with, missing_gradient, 0i32);
                    let left_h = hessian + select(with, missing_hessian, 0i32);
                    let left_hessian = f32::cast_from(left_h) * hessian_unit;
                    let right_hessian = f32::cast_from(total_hessian - left_h) * hessian_unit;
                    let heavy = left_hessian >= least_hessian
                        && right_hessian >= least_hessian
                        && left_h > 0i32
                        && total_hessian - left_h > 0i32;
                    // Behind the last bin there is nothing but missing values to part from.
                    let sensible = bin + 1 < bins || (!with && !none_missing);
                    if heavy && sensible && (!with || !none_missing) {
                        let gain = score(f32::cast_from(left_g) * gradient_unit, left_hessian, l1, l2)
                            + score(
                                f32::cast_from(total_gradient - left_g) * gradient_unit,
                                right_hessian,
                                l1,
                                l2,
                            )
                            - parent;
                        if gain > best && gain > least_gain {
                            best = gain;
                            let heavier = none_missing && left_h > total_hessian - left_h;
                            choice = FOUND + bin as u32 + select(with || heavier, LEFT, 0u32);
                        }
                    }
                }
            }
        }
        gains[feature] = best;
        choices[feature] = choice;
    }
}
