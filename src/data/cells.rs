//! The cells of one column, in blocks: a column grows without being copied, and is given back block by block while
//! features are made of it, so that table and features are never held whole side by side.

/// Cells in blocks of [`BLOCK`]; only the last one is shorter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cells<T> {
    blocks: Vec<Vec<T>>,
    len: usize,
}

/// Cells of a block.
pub(super) const BLOCK: usize = 1 << 16;

impl<T: Copy> Cells<T> {
    /// Number of cells, those that were given back included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a cell at the end.
    pub(super) fn push(&mut self, cell: T) {
        match self.blocks.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(cell),
            _ => self.blocks.push(vec![cell]),
        }
        self.len += 1;
    }

    /// The cell at `index`, unless it was given back.
    pub(super) fn get(&self, index: usize) -> Option<T> {
        self.blocks.get(index / BLOCK)?.get(index % BLOCK).copied()
    }

    /// All cells in order, without those that were given back.
    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        self.blocks.iter().flatten().copied()
    }

    /// Gives back the memory of block number `block`.
    pub(super) fn release(&mut self, block: usize) {
        if let Some(block) = self.blocks.get_mut(block) {
            *block = Vec::new();
        }
    }
}

impl<T> Default for Cells<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0 }
    }
}

impl<T: Copy> FromIterator<T> for Cells<T> {
    fn from_iter<I: IntoIterator<Item = T>>(cells: I) -> Self {
        let mut made = Self::default();
        cells.into_iter().for_each(|cell| made.push(cell));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_in_order_over_blocks_and_go_block_by_block() {
        let count = 2 * BLOCK + 3;
        let mut cells: Cells<u32> = (0..count as u32).collect();
        assert_eq!(cells.len(), count);
        assert!(cells.iter().eq(0..count as u32));
        assert_eq!(cells.get(BLOCK), Some(BLOCK as u32));
        assert_eq!(cells.get(count), None);
        cells.release(1);
        assert_eq!((cells.get(BLOCK - 1), cells.get(BLOCK)), (Some(BLOCK as u32 - 1), None));
        assert_eq!((cells.get(2 * BLOCK), cells.len()), (Some(2 * BLOCK as u32), count));
        cells.release(3);
    }
}
