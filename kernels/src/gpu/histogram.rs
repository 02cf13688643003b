//! Sums of derivatives by bin on a GPU.
//!
//! WGSL has atomics of 32 bits and integers alone: gradient and second derivative are summed up as two words that wrap
//! around. A [`Quantum`](crate::trees::Quantum) keeps the sum of any rows within 31 bits and a sign, and within 32 bits:
//! so that two words that wrapped on their way are those of the sum all the same, and the two words side by side in
//! memory, the second derivative first, are the packed `i64` of the CPU.
//!
//! Each cube adds up in its shared memory and adds that to the result once.

use cubecl::prelude::*;

use super::{Values, spread};
use crate::trees::TILE;

/// Units of a cube.
const UNITS: u32 = 128;

/// Rows that a unit adds up before its cube adds its sums to the result, where there are no more than
/// [`MOST_CUBES`] such cubes.
const ROWS_PER_UNIT: usize = 16;

/// Most cubes for a group of features: each adds a whole tile to the result, and devices take 65,535 at most. Of more
/// rows a unit adds up more.
const MOST_CUBES: usize = 512;

/// Numbers that describe a group: its first word, the words of a row, its first feature, its features.
const OF_GROUP: usize = 4;

/// Bins of all rows in the device's memory, in groups of features, whose sums share a tile as on the CPU.
#[derive(Debug, Clone)]
pub struct GpuBins {
    rows: usize,
    count: usize,
    words: Values,
    groups: Values,
    offsets: Values,
}

impl GpuBins {
    /// Puts the bins of `rows` rows there. Each of `groups` has the bins of its features by row, shape [rows, features],
    /// and the offset in its tile of each feature; that and the bins of its feature stay below
    /// [`TILE`](crate::trees::TILE).
    ///
    /// # Panics
    /// Without a group, or a feature in each; when the shapes do not fit.
    pub fn upload(
        client: &Client,
        rows: usize,
        groups: impl IntoIterator<Item = (Vec<u8>, Vec<u32>)>,
    ) -> Self {
        let (mut words, mut layout, mut all_offsets) = (Vec::new(), Vec::new(), Vec::new());
        for (bins, offsets) in groups {
            assert_eq!(bins.len(), rows * offsets.len(), "there must be a bin for each row and feature");
            let line = offsets.len().div_ceil(4);
            layout.extend([words.len(), line, all_offsets.len(), offsets.len()].map(|number| number as u32));
            words.extend(pack_bins(&bins, offsets.len()));
            all_offsets.extend(offsets);
        }
        Self {
            rows,
            count: layout.len() / OF_GROUP,
            words: Values::upload(client, &words),
            groups: Values::upload(client, &layout),
            offsets: Values::upload(client, &all_offsets),
        }
    }

    /// Memory that the largest buffer of so many `rows` takes, in bytes: theirs with so many features in each group.
    pub fn bytes_of(rows: usize, groups: impl IntoIterator<Item = usize>) -> u64 {
        let words: usize = groups.into_iter().map(|features| features.div_ceil(4)).sum();
        (4 * rows as u64).saturating_mul(words as u64)
    }

    /// Numbers of a histogram: two a slot, [`TILE`](crate::trees::TILE) slots a group.
    fn sums(&self) -> usize {
        2 * TILE * self.count
    }
}

/// Four bins a word, lowest byte first, each row beginning with a new word.
fn pack_bins(bins: &[u8], features: usize) -> impl Iterator<Item = u32> {
    let word = |bins: &[u8]| bins.iter().rev().fold(0, |word, bin| word << 8 | u32::from(*bin));
    bins.chunks(features).flat_map(|row| row.chunks(4)).map(word)
}

/// As [`crate::trees::accumulate`] for each group, from zero: packed sums, a tile a group. `rows` are the rows of a node
/// (`u32`), one at least, and `packed` the packed derivatives of all rows. The same whatever the order in which units add
/// up, and the same as on the CPU.
///
/// # Panics
/// When there are not as many derivatives as rows.
pub fn accumulate(client: &Client, bins: &GpuBins, rows: &Values, packed: &Values) -> Values {
    assert_eq!(packed.len(), 2 * bins.rows, "there must be derivatives for each row");
    let sums = Values::empty(client, bins.sums());
    let (cubes, units) = spread(client, sums.len());
    clear_kernel::launch(client, cubes, units, sums.argument());
    let cubes = rows.len().div_ceil(UNITS as usize * ROWS_PER_UNIT).min(MOST_CUBES);
    histogram_kernel::launch(
        client,
        CubeCount::Static(cubes as u32, bins.count as u32, 1),
        CubeDim::new_1d(UNITS),
        bins.words.argument(),
        bins.groups.argument(),
        bins.offsets.argument(),
        rows.argument(),
        packed.argument(),
        sums.argument(),
    );
    sums
}

/// As [`crate::trees::subtract`]: the sums of one child, those of its parent without its `sibling`'s.
///
/// # Panics
/// When they are not as long.
pub fn subtract(client: &Client, parent: &Values, sibling: &Values) -> Values {
    assert_eq!(parent.len(), sibling.len(), "histograms must be of the same features");
    let rest = Values::empty(client, parent.len());
    let (cubes, units) = spread(client, rest.len());
    subtract_kernel::launch(client, cubes, units, parent.argument(), sibling.argument(), rest.argument());
    rest
}

#[cube(launch)]
fn clear_kernel(values: &mut [u32]) {
    if ABSOLUTE_POS < values.len() {
        values[ABSOLUTE_POS] = 0u32;
    }
}

#[cube(launch)]
fn subtract_kernel(parent: &[u32], sibling: &[u32], rest: &mut [u32]) {
    if ABSOLUTE_POS < rest.len() {
        rest[ABSOLUTE_POS] = parent[ABSOLUTE_POS] - sibling[ABSOLUTE_POS];
    }
}

#[cube(launch)]
fn histogram_kernel(
    words: &[u32],
    groups: &[u32],
    offsets: &[u32],
    rows: &[u32],
    packed: &[u32],
    sums: &[Atomic<u32>],
) {
    let unit = UNIT_POS as usize;
    let units = CUBE_DIM as usize;
    let group = CUBE_POS_Y as usize;
    let own = Shared::<[Atomic<u32>]>::new_slice(2 * TILE);
    for slot in range_stepped(unit, 2 * TILE, units) {
        own[slot].store(0u32);
    }
    sync_cube();
    let first_word = groups[4 * group] as usize;
    let line = groups[4 * group + 1] as usize;
    let first_feature = groups[4 * group + 2] as usize;
    let features = groups[4 * group + 3] as usize;
    let first = CUBE_POS_X as usize * units + unit;
    for at in range_stepped(first, rows.len(), CUBE_COUNT_X as usize * units) {
        let row = rows[at] as usize;
        let hessian = packed[2 * row];
        let gradient = packed[2 * row + 1];
        for feature in 0..features {
            let word = words[first_word + row * line + feature / 4];
            let bin = (word >> (8 * (feature % 4) as u32)) & 255u32;
            let slot = (offsets[first_feature + feature] + bin) as usize;
            own[2 * slot].fetch_add(hessian);
            own[2 * slot + 1].fetch_add(gradient);
        }
    }
    sync_cube();
    let tile = 2 * TILE * group;
    for slot in range_stepped(unit, 2 * TILE, units) {
        let sum = own[slot].load();
        if sum != 0u32 {
            sums[tile + slot].fetch_add(sum);
        }
    }
}
