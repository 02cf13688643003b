//! First values of parameters.

/// Fills `parameters` with values uniform in [-`bound`, `bound`), drawn from `next_unit`, which yields uniform
/// values in [0, 1).
///
/// With `bound` = 1 / sqrt(fan_in) this is what PyTorch gives weight and bias of a Linear layer: Kaiming-uniform
/// with a = sqrt(5) (He et al., 2015).
pub fn fill_uniform(parameters: &mut [f32], bound: f32, mut next_unit: impl FnMut() -> f32) {
    for parameter in parameters {
        *parameter = (2.0 * next_unit() - 1.0) * bound;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Xorshift, for tests alone.
    pub(crate) struct Noise(pub(crate) u64);

    impl Noise {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        pub(crate) fn unit(&mut self) -> f32 {
            (self.next() >> 40) as f32 / (1 << 24) as f32
        }

        pub(crate) fn below(&mut self, end: usize) -> usize {
            (self.next() >> 33) as usize % end
        }
    }

    #[test]
    fn values_fill_the_range_evenly() {
        let mut noise = Noise(4);
        let mut parameters = vec![0.0; 20_000];
        fill_uniform(&mut parameters, 0.125, || noise.unit());
        assert!(parameters.iter().all(|p| (-0.125..0.125).contains(p)));
        let mean = parameters.iter().sum::<f32>() / 20_000.0;
        let variance = parameters.iter().map(|p| p * p).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.003, "{mean}");
        assert!((variance - 0.125 * 0.125 / 3.0).abs() < 2e-4, "{variance}");
    }
}
