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

/// Rows by class, of which some classes are likelier to be drawn than others.
#[derive(Debug, Clone)]
pub struct Urn {
    /// Class by class.
    rows: Vec<u32>,
    /// Of each class that has rows: below which of 2^64 numbers it is drawn, and the end of its rows.
    classes: Vec<(u64, usize)>,
}

impl Urn {
    /// Rows of `classes`, each as likely as the weight of its class among `weights`, above 0, says.
    pub fn new(classes: &[u16], weights: &[f64]) -> Self {
        let (mut rows, mut ends) = (Vec::with_capacity(classes.len()), Vec::new());
        let mut mass = 0.0;
        for (class, weight) in weights.iter().enumerate() {
            let before = rows.len();
            rows.extend(
                (0..).zip(classes).filter(|(_, of)| usize::from(**of) == class).map(|(row, _): (u32, _)| row),
            );
            if rows.len() > before {
                mass += weight * (rows.len() - before) as f64;
                ends.push((mass, rows.len()));
            }
        }
        // The last one has all that is left by rounding.
        let threshold = |of: f64| (of / mass * 18_446_744_073_709_551_616.0) as u64;
        Self { rows, classes: ends.into_iter().map(|(of, end)| (threshold(of), end)).collect() }
    }

    /// As [`bootstrap`]; there are as many `counts` as rows.
    pub fn bootstrap(&self, seed: u64, counts: &mut [u16]) {
        counts.fill(0);
        for number in 0..counts.len() as u64 {
            let random = mix(seed ^ number.wrapping_mul(GOLDEN));
            let later =
                self.classes.iter().take(self.classes.len() - 1).take_while(|(below, _)| random >= *below);
            let class = later.count();
            let start = if class == 0 { 0 } else { self.classes[class - 1].1 };
            let rows = &self.rows[start..self.classes[class].1];
            // Another number: which class it was says what the first one is like.
            let place = (u128::from(mix(random ^ GOLDEN)) * rows.len() as u128) >> 64;
            let count = &mut counts[rows[place as usize] as usize];
            *count = count.saturating_add(1);
        }
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

    #[test]
    fn rows_are_drawn_as_often_as_their_classes_weigh() {
        // A class without a row, and one of a hundredth of the rows that counts for as much as the others together.
        let class = |row: u32| if row.is_multiple_of(100) { 3 } else { (row % 2) as u16 };
        let classes: Vec<u16> = (0..100_000).map(class).collect();
        let urn = Urn::new(&classes, &[1.0, 1.0, 5.0, 99.0]);
        let mut counts = vec![0; classes.len()];
        urn.bootstrap(11, &mut counts);
        let drawn = |class: u16| {
            let of_class = classes.iter().zip(&counts).filter(move |(of, _)| **of == class);
            of_class.map(|(_, count)| f64::from(*count))
        };
        for (class, share) in [(0, 49.0 / 198.0), (1, 50.0 / 198.0), (2, 0.0), (3, 0.5)] {
            let got = drawn(class).sum::<f64>() / 1e5;
            assert!((got - share).abs() < 0.006, "{class}: {got} {share}");
        }
        // Within a class all are alike: 50 draws a row, by Poisson.
        let spread = drawn(3).map(|count| (count - 50.0).powi(2)).sum::<f64>() / 1000.0;
        assert!((spread - 50.0).abs() < 10.0, "{spread}");
        let before = counts.clone();
        urn.bootstrap(11, &mut counts);
        assert_eq!(counts, before);
        urn.bootstrap(12, &mut counts);
        assert_ne!(counts, before);
    }
}
