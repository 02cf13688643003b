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

/// Adds what the tree says of each row to `scores`. `features` has shape [rows, `width`].
pub fn add_tree(nodes: &[TreeNode], features: &[f32], width: usize, scores: &mut [f32]) {
    for (row, score) in features.chunks_exact(width.max(1)).zip(scores) {
        *score += nodes[leaf_of(nodes, row)].value;
    }
}

/// Adds to `scores` for each of `rows` what the tree says of it.
pub fn add_tree_at(nodes: &[TreeNode], features: &[f32], width: usize, rows: &[u32], scores: &mut [f32]) {
    for row in rows {
        let start = *row as usize * width;
        scores[*row as usize] += nodes[leaf_of(nodes, &features[start..start + width])].value;
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
        add_tree_at(&nodes, &rows, 2, &[1, 3], &mut scores);
        assert_eq!(scores, [1.5, 200.5, 10.5, 20.5]);
    }
}
