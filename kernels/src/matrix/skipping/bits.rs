//! A bit for each value that is not 0.

use super::{DEPTH, Matrix, stretches};

/// Values that are compared together.
const TOGETHER: usize = 16;

/// A word for each row of `values`, stretch by stretch of its terms, and how many bits are set.
pub(super) fn gather(values: Matrix<'_>, words: &mut Vec<u64>) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};

        if let Some(comparing) = V4::try_new() {
            return comparing.vectorize(Gather { comparing, values, words });
        }
        if let Some(comparing) = V3::try_new() {
            return comparing.vectorize(Gather { comparing, values, words });
        }
    }
    pulp::NullaryFnOnce::call(Gather { comparing: OneByOne, values, words })
}

/// Compares values with 0.
trait Comparing: Copy {
    /// The bits of those that differ.
    fn differ(self, values: &[f32; TOGETHER]) -> u64;
}

#[cfg(target_arch = "x86_64")]
impl Comparing for pulp::x86::V4 {
    #[inline(always)]
    fn differ(self, values: &[f32; TOGETHER]) -> u64 {
        let zero = self.avx512f._mm512_setzero_ps();
        let values = pulp::cast(*values);
        u64::from(self.avx512f._mm512_cmp_ps_mask::<{ std::arch::x86_64::_CMP_NEQ_UQ }>(values, zero))
    }
}

#[cfg(target_arch = "x86_64")]
impl Comparing for pulp::x86::V3 {
    #[inline(always)]
    fn differ(self, values: &[f32; TOGETHER]) -> u64 {
        let [low, high] = pulp::cast::<_, [_; 2]>(*values).map(|values| {
            let zero = self.avx._mm256_setzero_ps();
            let differ = self.avx._mm256_cmp_ps::<{ std::arch::x86_64::_CMP_NEQ_UQ }>(values, zero);
            u64::from(self.avx._mm256_movemask_ps(differ) as u8)
        });
        low | high << (TOGETHER / 2)
    }
}

#[derive(Clone, Copy)]
struct OneByOne;

impl Comparing for OneByOne {
    #[inline(always)]
    fn differ(self, values: &[f32; TOGETHER]) -> u64 {
        some(values)
    }
}

#[inline(always)]
fn some(values: &[f32]) -> u64 {
    values.iter().enumerate().map(|(bit, value)| u64::from(*value != 0.0) << bit).sum()
}

struct Gather<'a, C> {
    comparing: C,
    values: Matrix<'a>,
    words: &'a mut Vec<u64>,
}

impl<C: Comparing> pulp::NullaryFnOnce for Gather<'_, C> {
    type Output = usize;

    #[inline(always)]
    fn call(self) -> usize {
        let Self { comparing, values, words } = self;
        let mut count = 0;
        words.resize(stretches(values.columns, 1).count() * values.rows, 0);
        for (stretch, words) in stretches(values.columns, 1).zip(words.chunks_exact_mut(values.rows)) {
            for (row, word) in words.iter_mut().enumerate() {
                let values = &values.line(row)[stretch.terms.clone()];
                // Whole words have a length that the compiler knows.
                *word = match values.first_chunk::<DEPTH>() {
                    Some(values) => word_of(comparing, values),
                    None => word_of(comparing, values),
                };
                count += word.count_ones() as usize;
            }
        }
        count
    }
}

#[inline(always)]
fn word_of(comparing: impl Comparing, values: &[f32]) -> u64 {
    let (whole, rest) = values.as_chunks();
    let mut word = some(rest).unbounded_shl((whole.len() * TOGETHER) as u32);
    for (number, values) in whole.iter().enumerate() {
        word |= comparing.differ(values) << (number * TOGETHER);
    }
    word
}
