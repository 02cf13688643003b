//! Sums of derivatives by bin on a GPU.
//!
//! WGSL has atomics of 32 bits and integers alone: gradient and second derivative are summed up as a pair of `i32`.
//! Each cube adds up in its shared memory and adds that to the result once.

use cubecl::prelude::*;

use super::Values;

/// Slots of a group of features, as of [`crate::trees::TILE`].
const SLOTS: usize = crate::trees::TILE;

/// Units of a cube.
const UNITS: u32 = 128;

/// Rows that a unit adds up before its cube adds its sums to the result.
const ROWS_PER_UNIT: usize = 16;

/// Bins of one group of features in the device's memory.
#[derive(Debug, Clone, Copy)]
pub struct Binned<'a> {
    /// As [`pack_bins`] packs them.
    pub words: &'a Values,
    /// The first slot of each feature (`u32`); that and the bins of its feature stay below [`crate::trees::TILE`].
    pub offsets: &'a Values,
}

/// Rows of a node in the device's memory.
#[derive(Debug, Clone, Copy)]
pub struct NodeRows<'a> {
    /// Their numbers (`u32`), below that of all rows.
    pub rows: &'a Values,
    /// Gradient and second derivative of all rows in units, one after the other (`i32`), shape `[all rows, 2]`. Sums over
    /// the rows of the node fit in 31 bits.
    pub derivatives: &'a Values,
}

/// Four bins a word, lowest byte first, each row beginning with a new word: `bins` has shape `[rows, features]`, what
/// comes out shape `[rows, features / 4 rounded up]`.
pub fn pack_bins(bins: &[u8], features: usize) -> Vec<u32> {
    let word = |bins: &[u8]| bins.iter().rev().fold(0, |word, bin| word << 8 | u32::from(*bin));
    bins.chunks(features).flat_map(|row| row.chunks(4)).map(word).collect()
}

/// As [`crate::trees::accumulate`], from zero: sums of gradients and of second derivatives (`i32`), shape
/// `[crate::trees::TILE, 2]`. The same whatever the order in which units add up.
///
/// # Panics
/// When the shapes do not fit.
pub fn accumulate(client: &Client, bins: Binned<'_>, node: NodeRows<'_>) -> Values {
    let features = bins.offsets.len();
    let all = node.derivatives.len() / 2;
    assert_eq!(bins.words.len(), all * features.div_ceil(4), "there must be bins for each row");
    let sums = Values::upload(client, &[0_i32; 2 * SLOTS]);
    let cubes = node.rows.len().div_ceil(UNITS as usize * ROWS_PER_UNIT);
    histogram_kernel::launch(
        client,
        CubeCount::Static(u32::try_from(cubes).unwrap_or(u32::MAX), 1, 1),
        CubeDim::new_1d(UNITS),
        bins.words.argument(),
        bins.offsets.argument(),
        node.rows.argument(),
        node.derivatives.argument(),
        sums.argument(),
    );
    sums
}

#[cube(launch)]
fn histogram_kernel(words: &[u32], offsets: &[u32], rows: &[u32], derivatives: &[i32], sums: &[Atomic<i32>]) {
    let unit = UNIT_POS as usize;
    let units = CUBE_DIM as usize;
    let own = Shared::<[Atomic<i32>]>::new_slice(2 * SLOTS);
    for slot in range_stepped(unit, 2 * SLOTS, units) {
        own[slot].store(0i32);
    }
    sync_cube();
    let features = offsets.len();
    let line = words.len() / (derivatives.len() / 2);
    for at in range_stepped(ABSOLUTE_POS, rows.len(), CUBE_COUNT * units) {
        let row = rows[at] as usize;
        let gradient = derivatives[2 * row];
        let hessian = derivatives[2 * row + 1];
        for feature in 0..features {
            let word = words[row * line + feature / 4];
            let bin = (word >> (8 * (feature % 4) as u32)) & 255u32;
            let slot = (offsets[feature] + bin) as usize;
            own[2 * slot].fetch_add(gradient);
            own[2 * slot + 1].fetch_add(hessian);
        }
    }
    sync_cube();
    for slot in range_stepped(unit, 2 * SLOTS, units) {
        let sum = own[slot].load();
        if sum != 0i32 {
            sums[slot].fetch_add(sum);
        }
    }
}
