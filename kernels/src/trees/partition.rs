//! Rows of a node to rows of its children.

use super::walk::Side;

/// Which bins of a feature go left.
#[derive(Debug, Clone)]
pub struct Routing([u8; 256]);

impl Routing {
    /// Bins up to `last` go left, later ones right; `missing` is the bin of missing values, where there is one, which
    /// go to `default`.
    pub fn new(last: u8, missing: Option<u8>, default: Side) -> Self {
        let mut left = [0; 256];
        left[..=usize::from(last)].fill(1);
        if let Some(bin) = missing {
            left[usize::from(bin)] = u8::from(default == Side::Left);
        }
        Self(left)
    }
}

/// Puts those of `rows` first that go left and returns how many; both parts keep their order. `bin_of` tells the bin of
/// a row; `scratch` is as long as `rows` at least.
pub fn partition(
    rows: &mut [u32],
    scratch: &mut [u32],
    bin_of: impl Fn(u32) -> u8,
    routing: &Routing,
) -> usize {
    let scratch = &mut scratch[..rows.len()];
    let (mut left, mut right) = (0, 0);
    for index in 0..rows.len() {
        let row = rows[index];
        let goes_left = usize::from(routing.0[usize::from(bin_of(row))]);
        // Written both ways, counted one way: no branch that guesses wrong.
        rows[left] = row;
        scratch[right] = row;
        left += goes_left;
        right += 1 - goes_left;
    }
    rows[left..].copy_from_slice(&scratch[..right]);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_keep_their_order() {
        let column: Vec<u8> = (0..100).map(|row| (row * 7 % 10) as u8).collect();
        let all: Vec<u32> = (0..100).filter(|row| row % 3 != 0).collect();
        for (missing, default) in [(None, Side::Right), (Some(9), Side::Left), (Some(9), Side::Right)] {
            let mut rows = all.clone();
            let mut scratch = vec![0; rows.len()];
            let left = partition(
                &mut rows,
                &mut scratch,
                |row| column[row as usize],
                &Routing::new(4, missing, default),
            );
            let goes = |row: &u32| {
                let bin = column[*row as usize];
                if Some(bin) == missing { default == Side::Left } else { bin <= 4 }
            };
            let (lefts, rights): (Vec<u32>, Vec<u32>) = all.iter().partition(|row| goes(row));
            assert_eq!(rows[..left], lefts);
            assert_eq!(rows[left..], rights);
        }
    }
}
