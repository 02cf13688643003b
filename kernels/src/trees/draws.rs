//! Rows that a tree is grown on, drawn at random.

/// Draws each of the numbers 0 to `rows` - 1 with probability `share` into `drawn`, the others into `others`, both
/// ascending.
pub fn draw_rows(rows: u32, share: f64, seed: u64, drawn: &mut Vec<u32>, others: &mut Vec<u32>) {
    drawn.clear();
    others.clear();
    if share >= 1.0 {
        drawn.extend(0..rows);
        return;
    }
    for row in 0..rows {
        let random = mix(seed ^ u64::from(row).wrapping_mul(GOLDEN)) >> 11;
        if (random as f64) < share * (1_u64 << 53) as f64 { drawn.push(row) } else { others.push(row) }
    }
}

/// Draws as many rows as there are `counts`, with replacement: how often each was drawn, at most 65,535 times.
pub fn bootstrap(seed: u64, counts: &mut [u16]) {
    counts.fill(0);
    let rows = counts.len() as u128;
    for number in 0..counts.len() as u64 {
        let random = mix(seed ^ number.wrapping_mul(GOLDEN));
        let drawn = ((u128::from(random) * rows) >> 64) as usize;
        counts[drawn] = counts[drawn].saturating_add(1);
    }
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_fair_and_repeat_themselves() {
        let (mut drawn, mut others) = (Vec::new(), Vec::new());
        draw_rows(100_000, 0.3, 7, &mut drawn, &mut others);
        assert!((drawn.len() as f64 - 30_000.0).abs() < 500.0, "{}", drawn.len());
        let mut all = [drawn.clone(), others.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100_000).collect::<Vec<_>>());
        let before = drawn.clone();
        draw_rows(100_000, 0.3, 7, &mut drawn, &mut others);
        assert_eq!(drawn, before);
        draw_rows(5, 1.0, 7, &mut drawn, &mut others);
        assert_eq!((drawn, others), (vec![0, 1, 2, 3, 4], vec![]));
        let mut counts = vec![0; 100_000];
        bootstrap(3, &mut counts);
        assert_eq!(counts.iter().map(|count| u64::from(*count)).sum::<u64>(), 100_000);
        let never = counts.iter().filter(|count| **count == 0).count() as f64;
        assert!((never - 36_788.0).abs() < 500.0, "{never}");
    }
}
