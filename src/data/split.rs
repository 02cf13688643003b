//! Which rows are held out: seeded, stratified by class, the same on every machine and any number of threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Positions (not row indices) of both parts, each ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    /// To train on.
    pub(super) train: Vec<u32>,
    /// Held out.
    pub(super) validation: Vec<u32>,
}

/// Holds out `fraction` of the positions `0..strata.len()`, rounded, from each stratum in proportion (largest
/// remainders first); every stratum keeps at least one position to train on, whatever the fraction.
///
/// `strata` holds the stratum of each position, below `count`; for regression all are in stratum 0.
pub(super) fn split(strata: &[u32], count: usize, fraction: f64, seed: u64) -> Split {
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (position, stratum) in strata.iter().enumerate() {
        if let Some(members) = members.get_mut(*stratum as usize) {
            members.push(position as u32);
        }
    }
    let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (mut members, held_out) in members.into_iter().zip(quotas(&sizes, fraction)) {
        shuffle(&mut members, &mut random);
        let (held_out, kept) = members.split_at(held_out.min(members.len()));
        validation.extend_from_slice(held_out);
        train.extend_from_slice(kept);
    }
    train.sort_unstable();
    validation.sort_unstable();
    Split { train, validation }
}

/// How many to hold out of strata of these sizes.
fn quotas(sizes: &[usize], fraction: f64) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    if fraction <= 0.0 {
        return vec![0; sizes.len()];
    }
    // Asked for a part, nobody expects none of it.
    let wanted = ((total as f64 * fraction).round() as usize).max(1);
    let exact = |size: usize| size as f64 * fraction;
    let capacity = |size: usize| size.saturating_sub(1);
    let mut quotas: Vec<usize> =
        sizes.iter().map(|size| (exact(*size) as usize).min(capacity(*size))).collect();
    let mut missing = wanted.saturating_sub(quotas.iter().sum());
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    let remainder = |stratum: &usize| sizes.get(*stratum).map_or(0.0, |size| exact(*size).fract());
    order.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)).then(a.cmp(b)));
    for stratum in order {
        if let (Some(quota), Some(size)) = (quotas.get_mut(stratum), sizes.get(stratum))
            && missing > 0
            && *quota < capacity(*size)
        {
            *quota += 1;
            missing -= 1;
        }
    }
    quotas
}

/// Fisher and Yates; of our own, because the order must survive a new version of a library.
fn shuffle(items: &mut [u32], random: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        let choices = last as u128 + 1;
        let chosen = ((u128::from(random.next_u64()) * choices) >> 64) as usize;
        items.swap(last, chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_seed_never_changes() {
        let mut items: Vec<u32> = (0..8).collect();
        shuffle(&mut items, &mut ChaCha8Rng::seed_from_u64(7));
        assert_eq!(items, [5, 0, 6, 2, 3, 4, 7, 1]);
    }

    #[test]
    fn quotas_add_up_and_leave_one_to_train_on() {
        assert_eq!(quotas(&[50, 50, 50], 0.2), [10, 10, 10]);
        assert_eq!(quotas(&[59, 71, 48], 0.2), [12, 14, 10]);
        assert_eq!(quotas(&[1, 1, 8], 0.2), [0, 0, 2]);
        assert_eq!(quotas(&[2, 2], 0.2), [1, 0]);
        assert_eq!(quotas(&[2, 2], 0.9), [1, 1]);
        assert_eq!(quotas(&[1], 0.9), [0]);
        assert_eq!(quotas(&[3, 4], 0.0), [0, 0]);
        assert_eq!(quotas(&[4], 0.01), [1]);
    }

    #[test]
    fn strata_are_held_out_in_proportion() {
        let strata: Vec<u32> = (0..1000).map(|position| u32::from(position % 10 == 0)).collect();
        let split = split(&strata, 2, 0.2, 3);
        let held_out_ones = split.validation.iter().filter(|position| *position % 10 == 0).count();
        assert_eq!((split.train.len(), split.validation.len(), held_out_ones), (800, 200, 20));
    }
}
