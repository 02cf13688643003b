//! The training rows as bins, made once a session and shared by all its trees.

use std::ops::Range;

use rayon::prelude::*;
use tensorfleet_kernels::trees::{self as kernels, Cuts, Routing, TILE, Tile};

use crate::domain::TaskError;
use crate::engine::Control;

/// Most features that are cut together: one cache line of a row.
const FEATURES_AT_ONCE: usize = 16;

/// Values that are copied out of the rows at once by each thread, in bytes, but for one feature at least.
const GATHERED_BYTES: usize = 16 << 20;

/// Rows that are interleaved together.
const BLOCK_ROWS: usize = 16_384;

/// Rows of a node up to which their bins are read line by line: each line is a line of the cache too, which then serves
/// all features that are tried there and below.
const ROWS_BY_LINE: usize = 8192;

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
    /// Number of features.
    width: usize,
    bins: Bins,
}

/// The bins of a group.
#[derive(Debug)]
enum Bins {
    /// Shape [rows, features], and the offset in the tile of each feature.
    Lines(Vec<u8>, Vec<u16>),
    /// A word a row, for features that have many bins.
    Words(Vec<u64>),
}

impl Group {
    /// Adds `packed`, the derivatives of `rows`, to the slots of their bins.
    fn accumulate(&self, rows: &[u32], packed: &[i64], tile: &mut Tile) {
        match &self.bins {
            Bins::Lines(bins, offsets) => kernels::accumulate(bins, offsets, rows, packed, tile),
            Bins::Words(words) => kernels::accumulate_words(words, self.width, rows, packed, tile),
        }
    }

    fn memory_bytes(&self) -> usize {
        match &self.bins {
            Bins::Lines(bins, _) => bins.len(),
            Bins::Words(words) => size_of_val(words.as_slice()),
        }
    }
}

/// Which copies of the bins are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// By column, and by row with all features side by side.
    ColumnsAndLines,
    /// By column, and by row in groups of features.
    ColumnsAndGroups,
}

/// Bins of all rows and of all features that have more than one.
#[derive(Debug)]
pub(super) struct Store {
    rows: usize,
    features: Vec<Binned>,
    /// One column after the other.
    columns: Vec<u8>,
    /// One row after the other; empty where they are grouped.
    lines: Vec<u8>,
    groups: Vec<Group>,
    /// First slot of each feature in a histogram.
    slots: Vec<usize>,
}

impl Store {
    /// Cuts and bins `features`, shape [rows, `width`].
    pub(super) fn new(features: &[f32], width: usize, max_bins: usize, layout: Layout) -> Self {
        let rows = features.len() / width.max(1);
        let at_once = features_at_once(rows, width);
        let mut columns = vec![0; rows * width];
        let parts: Vec<Vec<Binned>> = columns
            .par_chunks_mut((rows * at_once).max(1))
            .enumerate()
            .map(|(part, columns)| {
                let first = part * at_once;
                bin_columns(features, width, first..(first + at_once).min(width), max_bins, columns)
            })
            .collect();
        // Each part has its columns at its beginning, and there may be a gap behind them.
        let mut end = 0;
        for (part, binned) in parts.iter().enumerate() {
            let (start, length) = (part * at_once * rows, binned.len() * rows);
            columns.copy_within(start..start + length, end);
            end += length;
        }
        columns.truncate(end);
        let binned = parts.into_iter().flatten().collect();
        let mut store = Self {
            rows,
            features: binned,
            columns,
            lines: Vec::new(),
            groups: Vec::new(),
            slots: Vec::new(),
        };
        match layout {
            Layout::ColumnsAndLines => store.lines = store.lines_of(&store.columns),
            Layout::ColumnsAndGroups => store.group(),
        }
        store
    }

    /// `columns` by row.
    fn lines_of(&self, columns: &[u8]) -> Vec<u8> {
        let width = columns.len() / self.rows.max(1);
        let mut all = vec![0; columns.len()];
        all.par_chunks_mut((BLOCK_ROWS * width).max(1)).enumerate().for_each(|(block, lines)| {
            kernels::interleave(columns, self.rows, block * BLOCK_ROWS, lines);
        });
        all
    }

    /// `columns`, of eight features at most, as a word a row.
    fn words_of(&self, columns: &[u8]) -> Vec<u64> {
        let mut all = vec![0; self.rows];
        all.par_chunks_mut(BLOCK_ROWS).enumerate().for_each(|(block, words)| {
            kernels::pack_words(columns, self.rows, block * BLOCK_ROWS, words);
        });
        all
    }

    fn group(&mut self) {
        let bins: Vec<usize> = self.features.iter().map(|binned| binned.cuts.bins()).collect();
        // As many groups as there must be, all of about the same number of slots.
        let total = bins.iter().sum::<usize>();
        let by_slots = total.div_ceil(TILE - kernels::MAX_BINS).max(1);
        let by_words = bins.len().div_ceil(kernels::WORD).max(1);
        if by_words <= by_slots {
            return self.group_by_words(bins.len().div_ceil(by_words));
        }
        let wanted = total.div_ceil(by_slots);
        let (mut first, mut used) = (0, 0);
        let mut offsets = Vec::new();
        for (index, bins) in bins.iter().enumerate() {
            self.slots.push(self.groups.len() * TILE + used);
            offsets.push(used as u16);
            used += bins;
            let last = index + 1 == self.features.len();
            if used >= wanted || last {
                let bins = self.lines_of(self.columns_of(first..index + 1));
                self.groups.push(Group {
                    width: offsets.len(),
                    bins: Bins::Lines(bins, std::mem::take(&mut offsets)),
                });
                (first, used) = (index + 1, 0);
            }
        }
    }

    fn group_by_words(&mut self, width: usize) {
        let features = self.features.len();
        for first in (0..features).step_by(width.max(1)) {
            let last = (first + width).min(features);
            let start = self.groups.len() * TILE;
            self.slots.extend((0..last - first).map(|feature| start + feature * kernels::MAX_BINS));
            let words = self.words_of(self.columns_of(first..last));
            self.groups.push(Group { width: last - first, bins: Bins::Words(words) });
        }
    }

    fn columns_of(&self, features: Range<usize>) -> &[u8] {
        self.columns.get(features.start * self.rows..features.end * self.rows).unwrap_or_default()
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
        self.columns_of(index..index + 1)
    }

    /// Makes `bins` the bin of each of `rows` by feature number `index`.
    pub(super) fn bins_of(&self, index: usize, rows: &[u32], bins: &mut Vec<u8>) {
        bins.clear();
        match self.by_line(index, rows) {
            Some(bin_of) => bins.extend(rows.iter().map(|row| bin_of(*row))),
            None => bins.extend(rows.iter().map(|row| bin_in(self.column(index), *row))),
        }
    }

    /// As [`kernels::partition`], by feature number `index`.
    pub(super) fn partition(
        &self,
        index: usize,
        rows: &mut [u32],
        scratch: &mut [u32],
        routing: &Routing,
    ) -> usize {
        let column = self.column(index);
        match self.by_line(index, rows) {
            Some(bin_of) => kernels::partition(rows, scratch, bin_of, routing),
            None => kernels::partition(rows, scratch, |row| bin_in(column, row), routing),
        }
    }

    /// Where the bins of `rows` by feature number `index` are, if it is better to read them by line.
    fn by_line(&self, index: usize, rows: &[u32]) -> Option<impl Fn(u32) -> u8 + use<'_>> {
        let width = self.features.len();
        let lines = self.lines.get(index..)?;
        (rows.len() <= ROWS_BY_LINE && !lines.is_empty())
            .then_some(move |row| lines.get(row as usize * width).copied().unwrap_or_default())
    }

    /// Length of a histogram.
    pub(super) fn histogram_len(&self) -> usize {
        self.groups.len() * TILE
    }

    /// The part of `histogram` of feature number `index`.
    pub(super) fn sums<'a>(&self, histogram: &'a [i64], index: usize) -> &'a [i64] {
        histogram.get(self.slots_of(index)).unwrap_or_default()
    }

    /// The slots of a histogram of feature number `index`.
    pub(super) fn slots_of(&self, index: usize) -> Range<usize> {
        let start = self.slots.get(index).copied().unwrap_or_default();
        start..start + self.features.get(index).map_or(0, |binned| binned.cuts.bins())
    }

    /// The features of each group.
    #[cfg(feature = "wgpu")]
    pub(super) fn groups(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.groups.iter().scan(0, |end, group| {
            let first = *end;
            *end += group.width;
            Some(first..*end)
        })
    }

    /// The bins of `features`, those of a group, by row, and the offset in its tile of each.
    #[cfg(feature = "wgpu")]
    pub(super) fn lines_and_offsets(&self, features: Range<usize>) -> (Vec<u8>, Vec<u32>) {
        let offset = |index: usize| (self.slots_of(index).start % TILE) as u32;
        (self.lines_of(self.columns_of(features.clone())), features.map(offset).collect())
    }

    /// Adds up `packed`, the derivatives of `rows`, by bin into `histogram`, which holds zeros.
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
                group.accumulate(rows, packed, tile);
            }
            return Ok(());
        }
        // Few groups leave threads idle: then each takes a part of the rows too.
        let parts = rayon::current_num_threads().div_ceil(self.groups.len().max(1));
        let part_rows = rows.len().div_ceil(parts).max(1);
        self.groups.par_iter().zip(tiles).try_for_each(|(group, tile)| {
            let at_once = (UPDATES_AT_ONCE / group.width.max(1)).max(1);
            let sum_up = |rows: &[u32], packed: &[i64], tile: &mut [i64; TILE]| {
                for (rows, packed) in rows.chunks(at_once).zip(packed.chunks(at_once)) {
                    control.check()?;
                    group.accumulate(rows, packed, tile);
                }
                Ok(())
            };
            if parts == 1 {
                return sum_up(rows, packed, tile);
            }
            let tiles = rows.par_chunks(part_rows).zip(packed.par_chunks(part_rows)).map(|(rows, packed)| {
                let mut tile = Box::new([0; TILE]);
                sum_up(rows, packed, &mut tile).map(|()| tile)
            });
            for part in tiles.collect::<Result<Vec<_>, TaskError>>()? {
                kernels::add(tile, part.as_slice());
            }
            Ok(())
        })
    }

    /// Memory that it takes, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.columns.len() + self.lines.len() + self.groups.iter().map(Group::memory_bytes).sum::<usize>())
            as u64
    }
}

impl Binned {
    /// The bin of missing values, where there are some.
    pub(super) fn missing_bin(&self) -> Option<u8> {
        self.cuts.missing.then_some(self.cuts.value_bins() as u8)
    }
}

/// The bin of `row`.
fn bin_in(column: &[u8], row: u32) -> u8 {
    column.get(row as usize).copied().unwrap_or_default()
}

/// How many features are cut together, so that all threads have some, and about as many.
fn features_at_once(rows: usize, width: usize) -> usize {
    let most = (GATHERED_BYTES / (rows * size_of::<f32>()).max(1)).clamp(1, FEATURES_AT_ONCE);
    let threads = rayon::current_num_threads();
    let parts = width.div_ceil(most).max(1).next_multiple_of(threads);
    width.div_ceil(parts).max(1)
}

/// Features `range` of those with more than one bin, whose columns are written to the beginning of `columns`.
fn bin_columns(
    features: &[f32],
    width: usize,
    range: Range<usize>,
    max_bins: usize,
    columns: &mut [u8],
) -> Vec<Binned> {
    let rows = features.len() / width.max(1);
    let mut values = vec![0.0; rows * range.len()];
    kernels::gather_columns(features, width, range.start, &mut values);
    let mut binned = Vec::new();
    let mut free = columns.chunks_exact_mut(rows.max(1));
    for (feature, values) in range.zip(values.chunks_exact(rows.max(1))) {
        let cuts = kernels::cut_points(values, max_bins);
        if cuts.bins() < 2 {
            continue;
        }
        if let Some(column) = free.next() {
            kernels::bin_values(values, &cuts, column);
            binned.push(Binned { feature: feature as u32, cuts });
        }
    }
    binned
}
