//! Exponential and logarithms in plain arithmetic, which compilers turn into vectors; the system's library takes one
//! value at a time.
//!
//! Nothing is fused, so that the bits are the same with vectors of any width. Errors are stated in units of the last
//! place (ulp) of the result and held by the tests.

/// e^x within 2 ulp. 0 below -87.3, where the result would be subnormal; infinity above 88.7; NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.722_83;
    /// 1.5 * 2^23: what is added to it loses its fraction, and its integer stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts (Cody and Waite); a product of the first with a small integer is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let within = if x < LOWEST { LOWEST } else { x };
    let within = if within > HIGHEST { HIGHEST } else { within };
    let shifted = within * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let rest = (within - power * LN_2_HIGH) - power * LN_2_LOW;
    // Taylor's series up to the seventh power: what is left out is below 2^-27 for |rest| <= ln 2 / 2.
    let mut sum = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        sum = sum * rest + factor;
    }
    let fraction = sum * (rest * rest) + rest + 1.0;
    // 2^power in two factors: at the upper end it alone is beyond the greatest number.
    let whole = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = whole >> 1;
    let factor = |power: i32| f32::from_bits((power.wrapping_add(127) << 23) as u32);
    let value = fraction * factor(half) * factor(whole.wrapping_sub(half));
    let value = if x < LOWEST { 0.0 } else { value };
    if x > HIGHEST { f32::INFINITY } else { value }
}

/// ln(1 + x) within 2 ulp for x of 0 to 1; NaN for NaN.
#[inline(always)]
pub(crate) fn ln_1p(x: f32) -> f32 {
    twice_artanh(x / (2.0 + x))
}

/// ln(x) for positive x that are not subnormal: within 2 ulp, or 1e-7 where that is more. Infinity for infinity, NaN for
/// NaN.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    /// Bits of the root of 1/2, the least mantissa.
    const ROOT: u32 = 0x3f35_04f3;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let exponent = (x.to_bits().wrapping_sub(ROOT) as i32) >> 23;
    let mantissa = f32::from_bits(x.to_bits().wrapping_sub((exponent << 23) as u32));
    let power = exponent as f32;
    let fraction = twice_artanh((mantissa - 1.0) / (mantissa + 1.0));
    let value = power * LN_2_HIGH + (power * LN_2_LOW + fraction);
    if x < f32::INFINITY { value } else { x }
}

/// 2 artanh(x) for |x| <= 1/3.
#[inline(always)]
fn twice_artanh(x: f32) -> f32 {
    let square = x * x;
    let mut sum = 2.0 / 17.0;
    for factor in [2.0 / 15.0, 2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        sum = sum * square + factor;
    }
    sum * square * x + 2.0 * x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Greatest error over `inputs` in units of the last place, where `least` is the least place that counts.
    fn worst(
        inputs: impl Iterator<Item = f32>,
        got: fn(f32) -> f32,
        want: fn(f64) -> f64,
        least: f32,
    ) -> f64 {
        inputs
            .map(|x| {
                let want = want(f64::from(x));
                let ulp =
                    f64::from(f32::EPSILON) * 2.0_f64.powf(want.abs().log2().floor()).max(f64::from(least));
                (f64::from(got(x)) - want).abs() / ulp
            })
            .fold(0.0, f64::max)
    }

    /// Numbers of `low` to `high` at equal distances.
    fn steps(low: f32, high: f32) -> impl Iterator<Item = f32> {
        const COUNT: u32 = 1_000_003;
        (0..=COUNT)
            .map(move |at| (f64::from(low) + f64::from(at) * f64::from(high - low) / f64::from(COUNT)) as f32)
    }

    #[test]
    fn errors_are_a_few_units_of_the_last_place() {
        for (name, worst) in [
            ("exp", worst(steps(-87.3, 88.7), exp, f64::exp, 0.0)),
            ("exp near 0", worst(steps(-1e-3, 1e-3), exp, f64::exp, 0.0)),
            ("ln_1p", worst(steps(0.0, 1.0), ln_1p, f64::ln_1p, 0.0)),
            ("ln_1p near 0", worst(steps(1e-30, 1e-6), ln_1p, f64::ln_1p, 0.0)),
            ("ln", worst(steps(1e-3, 1e3), ln, f64::ln, 0.5)),
            ("ln of large and small ones", worst(steps(1e-37, 1e38), ln, f64::ln, 0.5)),
        ] {
            println!("{name}: {worst}");
            assert!(worst <= 2.0, "{name}: {worst} ulp");
        }
    }

    #[test]
    fn ends_and_what_is_no_number() {
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        assert_eq!(
            [exp(f32::NEG_INFINITY), exp(-90.0), exp(89.0), exp(f32::INFINITY)],
            [0.0, 0.0, f32::INFINITY, f32::INFINITY]
        );
        assert!(exp(88.72).is_finite() && exp(-87.33) > 0.0);
        assert_eq!([ln(1.0), ln_1p(0.0)], [0.0, 0.0]);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan() && ln(f32::NAN).is_nan() && ln_1p(f32::NAN).is_nan());
    }
}
