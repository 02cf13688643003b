//! Through a finished tree, from the root to the leaf of a row.

/// A child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one of values below the threshold.
    Left,
    /// The other.
    Right,
}

/// A node of a tree; the root is number 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TreeNode {
    /// Which feature decides.
    pub feature: u32,
    /// Values below it go left.
    pub threshold: f32,
    /// Where missing values go.
    pub default: Side,
    /// Number of the left child, above this node's own; 0 in a leaf.
    pub left: u32,
    /// Number of the right child, above this node's own; 0 in a leaf.
    pub right: u32,
    /// What a leaf says; of an inner node what it would say as a leaf.
    pub value: f32,
}

impl TreeNode {
    /// Whether it has no children.
    pub fn is_leaf(&self) -> bool {
        self.left == 0
    }
}

/// Number of the leaf that `row`, a value a feature, comes to.
pub fn leaf_of(nodes: &[TreeNode], row: &[f32]) -> usize {
    let mut at = 0;
    loop {
        let node = &nodes[at];
        if node.is_leaf() {
            return at;
        }
        let value = row[node.feature as usize];
        let left = if value.is_nan() { node.default == Side::Left } else { value < node.threshold };
        at = if left { node.left } else { node.right } as usize;
    }
}

/// Rows that go down together: while one waits for memory, the others go on.
const LANES: usize = 8;

/// Adds what the tree says of each row to `scores`. `features` has shape [rows, `width`].
pub fn add_tree(nodes: &[TreeNode], features: &[f32], width: usize, scores: &mut [f32]) {
    each_leaf(nodes, features, width, scores, |score, leaf| *score += nodes[leaf].value);
}

/// Number of the leaf that each row comes to. `features` has shape [rows, `width`].
pub fn find_leaves(nodes: &[TreeNode], features: &[f32], width: usize, leaves: &mut [u32]) {
    each_leaf(nodes, features, width, leaves, |found, leaf| *found = leaf as u32);
}

/// Has `take` take the leaf of each row to its place.
fn each_leaf<T>(
    nodes: &[TreeNode],
    features: &[f32],
    width: usize,
    places: &mut [T],
    take: impl Fn(&mut T, usize),
) {
    let width = width.max(1);
    let (blocks, places_left) = places.as_chunks_mut::<LANES>();
    let mut rows = features.chunks_exact(width * LANES);
    for (places, rows) in blocks.iter_mut().zip(&mut rows) {
        let leaves = leaves_of(nodes, rows, width);
        places.iter_mut().zip(leaves).for_each(|(place, leaf)| take(place, leaf));
    }
    for (place, row) in places_left.iter_mut().zip(rows.remainder().chunks_exact(width)) {
        take(place, leaf_of(nodes, row));
    }
}

/// As [`leaf_of`], of each of `rows`, shape [[`LANES`], `width`]. Without a branch that could be guessed wrong, but for
/// the end.
fn leaves_of(nodes: &[TreeNode], rows: &[f32], width: usize) -> [usize; LANES] {
    let mut at = [0; LANES];
    loop {
        let mut under_way = false;
        for (lane, at) in at.iter_mut().enumerate() {
            let node = &nodes[*at];
            // Nobody says that a leaf names a feature that there is.
            let feature = if node.is_leaf() { 0 } else { node.feature as usize };
            let value = rows[lane * width + feature];
            let by_default = value.is_nan() & (node.default == Side::Left);
            let left = (value < node.threshold) | by_default;
            let child = [node.right, node.left][usize::from(left)] as usize;
            under_way |= !node.is_leaf();
            *at = if node.is_leaf() { *at } else { child };
        }
        if !under_way {
            return at;
        }
    }
}

/// Adds to the scores of `rows` what the tree says of each; `scores` begins with that of row `first`, `features`, of
/// shape [rows, `width`], with row 0.
pub fn add_tree_at(
    nodes: &[TreeNode],
    (features, width): (&[f32], usize),
    rows: &[u32],
    first: u32,
    scores: &mut [f32],
) {
    for row in rows {
        let start = *row as usize * width;
        scores[(*row - first) as usize] += nodes[leaf_of(nodes, &features[start..start + width])].value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_goes_left_below_the_threshold_and_by_default_where_it_is_missing() {
        let leaf =
            |value| TreeNode { feature: 0, threshold: 0.0, default: Side::Left, left: 0, right: 0, value };
        let split = |feature, threshold, default, left, right| TreeNode {
            feature,
            threshold,
            default,
            left,
            right,
            value: 0.0,
        };
        let nodes = [
            split(1, 2.0, Side::Right, 1, 2),
            leaf(1.0),
            split(0, -1.0, Side::Left, 3, 4),
            leaf(10.0),
            leaf(100.0),
        ];
        let rows = [0.0, 1.9, -1.0, 2.0, f32::NAN, f32::NAN, -1.1, 7.0];
        let mut scores = [0.5; 4];
        add_tree(&nodes, &rows, 2, &mut scores);
        assert_eq!(scores, [1.5, 100.5, 10.5, 10.5]);
        add_tree_at(&nodes, (&rows, 2), &[1, 3], 0, &mut scores);
        assert_eq!(scores, [1.5, 200.5, 10.5, 20.5]);
        add_tree_at(&nodes, (&rows, 2), &[3], 2, &mut scores[2..]);
        assert_eq!(scores, [1.5, 200.5, 10.5, 30.5]);
        // Together as one by one.
        let many: Vec<f32> = rows.iter().copied().cycle().take(2 * (2 * LANES + 3)).collect();
        let mut scores = vec![0.0; 2 * LANES + 3];
        add_tree(&nodes, &many, 2, &mut scores);
        let single: Vec<f32> = many.chunks(2).map(|row| nodes[leaf_of(&nodes, row)].value).collect();
        assert_eq!(scores, single);
        let mut leaves = vec![0; 2 * LANES + 3];
        find_leaves(&nodes, &many, 2, &mut leaves);
        assert!(leaves.iter().zip(&single).all(|(leaf, value)| nodes[*leaf as usize].value == *value));
    }
}
