//! Histogram trees: bins, derivatives, histograms, splits, partitions, and the walk through a finished tree.
//!
//! ```text
//! bins        cut_points, bin_values, interleave, pack_words         features [rows, width] -> u8 bins
//! derivatives logistic, softmax, squared error, quantise             scores -> one packed i64 a row
//! draws       draw_rows, bootstrap, Urn                          rows that a tree is grown on
//! histogram   accumulate, subtract, add                              rows of a node -> sums by bin
//! split       best_split                                             sums by bin -> threshold of most gain
//! purity      Purity, Spread                                         the same for forests, by class or variance
//! partition   partition                                              rows of a node -> rows of its children
//! walk        leaf_of, add_tree                                      rows -> leaves of a finished tree
//! ```
//!
//! Invariants: sums that decide on a split are sums of integers, so that neither order nor number of threads moves a
//! bit; a value belongs left where it is below the threshold; NaN is a missing value and has a bin of its own, the
//! last one of its feature.

mod bins;
mod derivatives;
mod draws;
mod histogram;
mod partition;
mod purity;
mod split;
mod walk;

pub use bins::{Cuts, MAX_BINS, bin_values, cut_points, gather_columns, interleave, pack_words};
pub use derivatives::{
    Magnitudes, Quantum, add_to_rows, logistic_derivatives, logistic_loss, pick, quantise, rows_within,
    share_loss, shares_of, softmax_derivatives, softmax_loss, squared_derivatives, sum_of_rows,
    weigh_derivatives,
};
pub use draws::{Urn, bootstrap, draw_rows};
pub use histogram::{TILE, Tile, WORD, accumulate, accumulate_words, add, clear, subtract, sum_of, total};
pub use partition::{Routing, partition};
pub use purity::{ClassSample, Purity, PuritySplit, Spread, ValueSample, drawn, weigh_classes, weigh_values};
#[cfg(feature = "wgpu")]
pub(crate) use split::Limits;
pub use split::{Penalties, Split, best_split};
pub use walk::{Side, TreeNode, add_tree, add_tree_at, find_leaves, leaf_of};
