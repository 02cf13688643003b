//! Numbers as JSON, as serde_json writes them, but faster: most of those in a tree are whole.

use std::io;

/// Whole floats up to here are written as integers with `.0` behind them.
const WHOLE: f32 = 16_777_216.0;

/// Appends `value`.
pub(super) fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends `value`, which is finite.
///
/// # Errors
/// None in memory.
pub(super) fn float(out: &mut Vec<u8>, value: f32) -> io::Result<()> {
    let whole = value as i32;
    // The bits tell -0.0 from 0.0.
    if value.abs() <= WHOLE && (whole as f32).to_bits() == value.to_bits() {
        integer(out, whole);
        out.extend_from_slice(b".0");
        return Ok(());
    }
    Ok(serde_json::to_writer(out, &value)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: f32) -> String {
        let mut out = Vec::new();
        float(&mut out, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_edges_are_written_as_serde_json_does() {
        for value in [0.0, -0.0, 1.0, -1.0, 0.5, WHOLE, -WHOLE, 16_777_218.0, f32::MAX, f32::MIN_POSITIVE] {
            assert_eq!(written(value), serde_json::to_string(&value).unwrap());
        }
        let mut out = Vec::new();
        integer(&mut out, -1_i64);
        integer(&mut out, u32::MAX);
        assert_eq!(out, b"-14294967295");
    }

    proptest! {
        #[test]
        fn any_float_is_written_as_serde_json_does(bits: u32, whole in -20_000_000_i32..20_000_000) {
            for value in [f32::from_bits(bits), whole as f32] {
                if value.is_finite() {
                    prop_assert_eq!(written(value), serde_json::to_string(&value).unwrap());
                }
            }
        }
    }
}
