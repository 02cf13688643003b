//! Where the sums by bin of nodes are, and who looks for splits in them: the memory of the host, or that of a GPU.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tensorfleet_kernels::trees::{self as kernels, Split};

use super::growth::Growth;
use crate::domain::TaskError;

/// Makes the sums by bin of nodes, and finds the splits in them. Wherever that is, the same rows have the same split.
pub(super) trait Histograms: Sync {
    /// The sums of a node.
    type Sums: Send;

    /// Whether threads work on several nodes at a time.
    const SIDE_BY_SIDE: bool;

    /// The sums of `rows`.
    ///
    /// # Errors
    /// The reason to stop.
    fn build(&self, rows: &[u32]) -> Result<Self::Sums, TaskError>;

    /// The sums of the sibling of `child`, whose parent's are `parent`.
    fn rest(&self, parent: Self::Sums, child: &Self::Sums) -> Self::Sums;

    /// The feature, as a number of the store, and the split of most gain; `total` is the packed sum of the node.
    fn best(&self, sums: &Self::Sums, total: i64) -> Option<(usize, Split)>;

    /// Takes what nobody needs any more.
    fn give_back(&self, sums: Self::Sums);
}

/// Room that threads take and give back.
type Pool = Mutex<Vec<Vec<i64>>>;

fn pool(of: &Pool) -> MutexGuard<'_, Vec<Vec<i64>>> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room for histograms, used again and again.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// Histograms that nobody needs at the moment.
    histograms: Pool,
    /// Room for the derivatives of the rows of a node.
    gathered: Pool,
}

/// Those in the memory of the host.
pub(super) struct OnHost<'a> {
    /// What is grown.
    pub(super) growth: Growth<'a>,
    /// Packed derivatives of all rows.
    pub(super) packed: &'a [i64],
    /// Room.
    pub(super) pools: &'a Pools,
}

impl Histograms for OnHost<'_> {
    type Sums = Vec<i64>;

    const SIDE_BY_SIDE: bool = true;

    fn build(&self, rows: &[u32]) -> Result<Vec<i64>, TaskError> {
        let Growth { store, control, .. } = self.growth;
        let mut histogram = match pool(&self.pools.histograms).pop() {
            Some(mut used) => {
                kernels::clear(&mut used);
                used
            }
            None => vec![0; store.histogram_len()],
        };
        if rows.len() == self.packed.len() {
            // All rows, in their order.
            store.histogram(rows, self.packed, &mut histogram, control)?;
            return Ok(histogram);
        }
        // Taken together once, instead of from all over for each group of features.
        let mut own = pool(&self.pools.gathered).pop().unwrap_or_default();
        kernels::pick(self.packed, rows, &mut own);
        let made = store.histogram(rows, &own, &mut histogram, control);
        pool(&self.pools.gathered).push(own);
        made.map(|()| histogram)
    }

    fn rest(&self, mut parent: Vec<i64>, child: &Vec<i64>) -> Vec<i64> {
        kernels::subtract(&mut parent, child);
        parent
    }

    fn best(&self, sums: &Vec<i64>, total: i64) -> Option<(usize, Split)> {
        let Growth { store, features, .. } = self.growth;
        self.growth.best(features.iter().map(|index| (*index, store.sums(sums, *index))), total)
    }

    fn give_back(&self, sums: Vec<i64>) {
        pool(&self.pools.histograms).push(sums);
    }
}
