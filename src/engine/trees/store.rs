//! The training rows as bins, made once a session and shared by all its trees.

use rayon::prelude::*;
use tensorfleet_kernels::trees::{self as kernels, Cuts, TILE};

use crate::domain::TaskError;
use crate::engine::Control;

/// Features that are cut together: one cache line of a row.
const FEATURES_AT_ONCE: usize = 16;

/// Rows that are interleaved together.
const BLOCK_ROWS: usize = 16_384;

/// Row updates of a histogram between two looks at whether to go on: some 10 ms.
const UPDATES_AT_ONCE: usize = 1 << 24;

/// Row updates that are worth a second thread.
const UPDATES_IN_PARALLEL: usize = 1 << 15;

/// The feature that a column of bins stands for.
#[derive(Debug)]
pub(super) struct Binned {
    /// Its number in the data set.
    pub(super) feature: u32,
    /// Where it is cut.
    pub(super) cuts: Cuts,
}

/// Features whose bins lie side by side for each row, and whose sums share a tile.
#[derive(Debug)]
struct Group {
    /// Offset in the tile of each feature.
    offsets: Vec<u16>,
    /// Shape [rows, features].
    bins: Vec<u8>,
}

/// Which copies of the bins are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// By column.
    Columns,
    /// By column and by row.
    ColumnsAndRows,
}

/// Bins of all rows and of all features that have more than one.
#[derive(Debug)]
pub(super) struct Store {
    rows: usize,
    features: Vec<Binned>,
    /// One column after the other.
    columns: Vec<u8>,
    groups: Vec<Group>,
    /// First slot of each feature in a histogram.
    slots: Vec<usize>,
}

impl Store {
    /// Cuts and bins `features`, shape [rows, `width`].
    pub(super) fn new(features: &[f32], width: usize, max_bins: usize, layout: Layout) -> Self {
        let rows = features.len() / width.max(1);
        let starts: Vec<usize> = (0..width).step_by(FEATURES_AT_ONCE).collect();
        let parts: Vec<(Vec<Binned>, Vec<u8>)> = starts
            .into_par_iter()
            .map(|first| bin_columns(features, width, first..(first + FEATURES_AT_ONCE).min(width), max_bins))
            .collect();
        let (mut binned, mut columns) = (Vec::new(), Vec::new());
        for (more, bins) in parts {
            binned.extend(more);
            columns.extend_from_slice(&bins);
        }
        let mut store = Self { rows, features: binned, columns, groups: Vec::new(), slots: Vec::new() };
        if layout == Layout::ColumnsAndRows {
            store.group();
        }
        store
    }

    fn group(&mut self) {
        let bins: Vec<usize> = self.features.iter().map(|binned| binned.cuts.bins()).collect();
        // As many groups as there must be, all of about the same number of slots.
        let groups = bins.iter().sum::<usize>().div_ceil(TILE - kernels::MAX_BINS).max(1);
        let wanted = bins.iter().sum::<usize>().div_ceil(groups);
        let (mut first, mut used) = (0, 0);
        let mut offsets = Vec::new();
        for (index, bins) in bins.iter().enumerate() {
            self.slots.push(self.groups.len() * TILE + used);
            offsets.push(used as u16);
            used += bins;
            let last = index + 1 == self.features.len();
            if used >= wanted || last {
                let columns =
                    self.columns.get(first * self.rows..(index + 1) * self.rows).unwrap_or_default();
                let width = offsets.len();
                let mut bins = vec![0; columns.len()];
                bins.par_chunks_mut(BLOCK_ROWS * width).enumerate().for_each(|(block, lines)| {
                    kernels::interleave(columns, self.rows, block * BLOCK_ROWS, lines);
                });
                self.groups.push(Group { offsets: std::mem::take(&mut offsets), bins });
                (first, used) = (index + 1, 0);
            }
        }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Features with more than one bin.
    pub(super) fn features(&self) -> &[Binned] {
        &self.features
    }

    /// The bin of each row by feature number `index` of [`Self::features`].
    pub(super) fn column(&self, index: usize) -> &[u8] {
        self.columns.get(index * self.rows..(index + 1) * self.rows).unwrap_or_default()
    }

    /// Length of a histogram.
    pub(super) fn histogram_len(&self) -> usize {
        self.groups.len() * TILE
    }

    /// The part of `histogram` of feature number `index`.
    pub(super) fn sums<'a>(&self, histogram: &'a [i64], index: usize) -> &'a [i64] {
        let start = self.slots.get(index).copied().unwrap_or_default();
        let bins = self.features.get(index).map_or(0, |binned| binned.cuts.bins());
        histogram.get(start..start + bins).unwrap_or_default()
    }

    /// Adds up the derivatives of `rows` by bin into `histogram`, which holds zeros.
    ///
    /// # Errors
    /// The reason to stop.
    pub(super) fn histogram(
        &self,
        rows: &[u32],
        packed: &[i64],
        histogram: &mut [i64],
        control: &Control,
    ) -> Result<(), TaskError> {
        let tiles = histogram.as_chunks_mut::<TILE>().0;
        if rows.len() * self.features.len() < UPDATES_IN_PARALLEL {
            for (group, tile) in self.groups.iter().zip(tiles) {
                kernels::accumulate(&group.bins, &group.offsets, rows, packed, tile);
            }
            return Ok(());
        }
        // Few groups leave threads idle: then each takes a part of the rows too.
        let parts = rayon::current_num_threads().div_ceil(self.groups.len().max(1));
        let part_rows = rows.len().div_ceil(parts).max(1);
        self.groups.par_iter().zip(tiles).try_for_each(|(group, tile)| {
            let at_once = (UPDATES_AT_ONCE / group.offsets.len().max(1)).max(1);
            let sum_up = |rows: &[u32], tile: &mut [i64; TILE]| {
                for rows in rows.chunks(at_once) {
                    control.check()?;
                    kernels::accumulate(&group.bins, &group.offsets, rows, packed, tile);
                }
                Ok(())
            };
            if parts == 1 {
                return sum_up(rows, tile);
            }
            let tiles = rows.par_chunks(part_rows).map(|rows| {
                let mut tile = Box::new([0; TILE]);
                sum_up(rows, &mut tile).map(|()| tile)
            });
            for part in tiles.collect::<Result<Vec<_>, TaskError>>()? {
                kernels::add(tile, part.as_slice());
            }
            Ok(())
        })
    }

    /// Memory that it takes, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.columns.len() + self.groups.iter().map(|group| group.bins.len()).sum::<usize>()) as u64
    }
}

impl Binned {
    /// The bin of missing values, where there are some.
    pub(super) fn missing_bin(&self) -> Option<u8> {
        self.cuts.missing.then_some(self.cuts.value_bins() as u8)
    }
}

/// Features `range` of those with more than one bin, and their columns.
fn bin_columns(
    features: &[f32],
    width: usize,
    range: std::ops::Range<usize>,
    max_bins: usize,
) -> (Vec<Binned>, Vec<u8>) {
    let rows = features.len() / width.max(1);
    let mut values = vec![0.0; rows * range.len()];
    kernels::gather_columns(features, width, range.start, &mut values);
    let (mut binned, mut columns) = (Vec::new(), Vec::with_capacity(values.len()));
    for (feature, values) in range.zip(values.chunks_exact(rows.max(1))) {
        let cuts = kernels::cut_points(values, max_bins);
        if cuts.bins() < 2 {
            continue;
        }
        let start = columns.len();
        columns.resize(start + rows, 0);
        kernels::bin_values(values, &cuts, columns.get_mut(start..).unwrap_or_default());
        binned.push(Binned { feature: feature as u32, cuts });
    }
    (binned, columns)
}
