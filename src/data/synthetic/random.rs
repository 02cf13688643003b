//! Random numbers whose order survives new versions of libraries.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A seeded source of them.
pub(super) struct Random {
    bits: ChaCha8Rng,
    /// Box and Muller make two at a time.
    spare: Option<f64>,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { bits: ChaCha8Rng::seed_from_u64(seed), spare: None }
    }

    /// Uniform in [0, 1), with 53 bits.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.bits.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal, after Box and Muller (1958).
    pub(super) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // 1 - u is never 0.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Uniform below `choices`, which is at least 1.
    pub(super) fn below(&mut self, choices: usize) -> usize {
        ((u128::from(self.bits.next_u64()) * choices as u128) >> 64) as usize
    }

    /// Fisher and Yates.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// The numbers below `count` in random order.
    pub(super) fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        self.shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = Random::new(1);
        let count = 100_000;
        let moments = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64)
        };
        let normal: Vec<f64> = (0..count).map(|_| random.normal()).collect();
        let (mean, variance) = moments(&normal);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let uniform: Vec<f64> = (0..count).map(|_| random.uniform()).collect();
        let (mean, variance) = moments(&uniform);
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.01, "{mean} {variance}");
        assert!(uniform.iter().all(|value| (0.0..1.0).contains(value)));
    }

    #[test]
    fn an_order_is_a_permutation() {
        let mut order = Random::new(2).order(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
