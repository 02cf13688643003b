//! Runs arithmetic with the widest instructions of the CPU at hand, chosen when the program runs.

use pulp::{Arch, Simd, WithSimd};

/// Runs `operation` with vectors of up to 256 bits. All that it calls has to be `#[inline(always)]`: what is not inlined
/// does not get them.
#[inline(always)]
pub(crate) fn dispatch<O: WithSimd>(operation: O) -> O::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return Simd::vectorize(simd, operation);
    }
    Arch::new().dispatch(operation)
}

/// As [`dispatch`], with the longest vectors there are.
#[inline(always)]
pub(crate) fn dispatch_widest<O: WithSimd>(operation: O) -> O::Output {
    Arch::new().dispatch(operation)
}

/// Runs a loop that the compiler turns into vectors by itself, with the widest that there are. Nothing is fused or
/// taken in another order, so that the bits are those of any other CPU.
#[inline(always)]
pub(crate) fn widened<R>(run: impl FnOnce() -> R) -> R {
    struct Loop<F>(F);

    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Loop<F> {
        type Output = R;

        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }

    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(Loop(run));
    }
    Arch::new().dispatch(Loop(run))
}

/// Values in a vector of the CPU at hand.
pub(crate) fn lanes() -> usize {
    struct Lanes;

    impl WithSimd for Lanes {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _simd: S) -> usize {
            S::F32_LANES
        }
    }

    dispatch(Lanes)
}

/// `sums` += `factor` `values`. Rounded once where the CPU can do that in one instruction, else twice.
#[inline(always)]
pub(crate) fn add_multiple<S: Simd>(simd: S, factor: f32, values: &[f32], sums: &mut [f32]) {
    let (values, values_left) = S::as_simd_f32s(values);
    let (sums, sums_left) = S::as_mut_simd_f32s(sums);
    let factors = simd.splat_f32s(factor);
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = simd.mul_add_e_f32s(factors, *value, *sum);
    }
    for (sum, value) in sums_left.iter_mut().zip(values_left) {
        *sum = multiply_add::<S>(factor, *value, *sum);
    }
}

/// a b + c, rounded as [`add_multiple`] does.
#[inline(always)]
pub(crate) fn multiply_add<S: Simd>(a: f32, b: f32, c: f32) -> f32 {
    // Vectors of 8 come with fused additions on x86; on ARM all have them.
    if cfg!(target_arch = "aarch64") || S::F32_LANES >= 8 { a.mul_add(b, c) } else { a * b + c }
}
