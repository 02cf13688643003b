//! What the values of a column mean: numbers, or words.
//!
//! | in the file | here |
//! |-|-|
//! | booleans | 0 and 1 |
//! | integers of any width and sign, floating point of 16, 32, 64 bits | the number |
//! | decimals | the number |
//! | dates | days since 1970-01-01 |
//! | times and timestamps | seconds, since midnight or since 1970-01-01T00:00:00 |
//! | text, also enumerations, JSON, and bytes without a type that are UTF-8 | words, whatever they say; blank ones are missing |
//! | NaN and infinite numbers | missing |
//!
//! Sources: the format's LogicalTypes.md; INT96 as Impala and Spark wrote timestamps.

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::schema::types::ColumnDescriptor;

/// A cell that is there.
pub(super) enum Cell<'a> {
    /// A number; may be infinite or NaN.
    Number(f64),
    /// A word.
    Word(&'a str),
    /// Bytes that are no text.
    NotText,
}

/// How the values of a column become cells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Meaning {
    /// The number, divided by this.
    Number(f64),
    /// A whole number without a sign in the same bits.
    Unsigned,
    /// Big-endian two's complement, divided by this.
    Decimal(f64),
    /// Half-precision floating point.
    Half,
    /// Text.
    Word,
}

/// Most bytes of a decimal; more than 76 digits.
const MAX_DECIMAL_BYTES: usize = 32;

impl Meaning {
    /// What `column` means.
    ///
    /// # Errors
    /// The name of a type that is not read.
    pub(super) fn of(column: &ColumnDescriptor) -> Result<Self, String> {
        let (physical, converted) = (column.physical_type(), column.converted_type());
        let unread = |what: &dyn std::fmt::Debug| Err(format!("{what:?}").to_lowercase());
        match (physical, column.logical_type_ref()) {
            (Type::BOOLEAN | Type::FLOAT | Type::DOUBLE, _) => Ok(Self::Number(1.0)),
            (Type::INT96, _) => Ok(Self::Number(1.0)),
            (Type::INT32 | Type::INT64, Some(LogicalType::Decimal(decimal))) => {
                Ok(Self::Number(power_of_ten(decimal.scale)))
            }
            (Type::INT32 | Type::INT64, Some(LogicalType::Timestamp(stamp) | LogicalType::Time(stamp))) => {
                Ok(Self::Number(match stamp.unit {
                    TimeUnit::MILLIS => 1e3,
                    TimeUnit::MICROS => 1e6,
                    TimeUnit::NANOS => 1e9,
                }))
            }
            (Type::INT32 | Type::INT64, Some(LogicalType::Integer(integer))) if !integer.is_signed => {
                Ok(Self::Unsigned)
            }
            (Type::INT32 | Type::INT64, _) => Ok(match converted {
                ConvertedType::DECIMAL => Self::Number(power_of_ten(column.type_scale())),
                ConvertedType::TIME_MILLIS | ConvertedType::TIMESTAMP_MILLIS => Self::Number(1e3),
                ConvertedType::TIME_MICROS | ConvertedType::TIMESTAMP_MICROS => Self::Number(1e6),
                ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::UINT_64 => Self::Unsigned,
                _ => Self::Number(1.0),
            }),
            (_, Some(LogicalType::Decimal(decimal))) => Ok(Self::Decimal(power_of_ten(decimal.scale))),
            (_, _) if converted == ConvertedType::DECIMAL => {
                Ok(Self::Decimal(power_of_ten(column.type_scale())))
            }
            (Type::BYTE_ARRAY, None | Some(LogicalType::String | LogicalType::Enum | LogicalType::Json))
                if converted != ConvertedType::BSON =>
            {
                Ok(Self::Word)
            }
            (Type::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Float16)) => Ok(Self::Half),
            (_, Some(logical)) => unread(logical),
            (_, None) if converted != ConvertedType::NONE => unread(&converted),
            (physical, None) => unread(&physical),
        }
    }
}

fn power_of_ten(scale: i32) -> f64 {
    10_f64.powi(scale)
}

/// A value of a physical type.
pub(super) trait Value {
    /// What it is in a column of this meaning.
    fn cell(&self, meaning: Meaning) -> Cell<'_>;
}

impl Value for bool {
    fn cell(&self, _: Meaning) -> Cell<'_> {
        Cell::Number(f64::from(u8::from(*self)))
    }
}

impl Value for i32 {
    fn cell(&self, meaning: Meaning) -> Cell<'_> {
        Cell::Number(match meaning {
            Meaning::Unsigned => f64::from(*self as u32),
            Meaning::Number(divisor) => f64::from(*self) / divisor,
            Meaning::Decimal(_) | Meaning::Half | Meaning::Word => f64::from(*self),
        })
    }
}

impl Value for i64 {
    fn cell(&self, meaning: Meaning) -> Cell<'_> {
        Cell::Number(match meaning {
            Meaning::Unsigned => *self as u64 as f64,
            Meaning::Number(divisor) => *self as f64 / divisor,
            Meaning::Decimal(_) | Meaning::Half | Meaning::Word => *self as f64,
        })
    }
}

impl Value for f32 {
    fn cell(&self, _: Meaning) -> Cell<'_> {
        Cell::Number(f64::from(*self))
    }
}

impl Value for f64 {
    fn cell(&self, _: Meaning) -> Cell<'_> {
        Cell::Number(*self)
    }
}

impl Value for Int96 {
    /// Nanoseconds of a day and a Julian day, hence seconds since 1970.
    fn cell(&self, _: Meaning) -> Cell<'_> {
        const DAY_OF_1970: i64 = 2_440_588;
        let &[low, high, day] = self.data() else { return Cell::NotText };
        let nanoseconds = (u64::from(high) << 32 | u64::from(low)) as f64;
        let days = i64::from(day as i32) - DAY_OF_1970;
        Cell::Number((days * 86_400) as f64 + nanoseconds / 1e9)
    }
}

impl Value for ByteArray {
    fn cell(&self, meaning: Meaning) -> Cell<'_> {
        of_bytes(self.data(), meaning)
    }
}

impl Value for FixedLenByteArray {
    fn cell(&self, meaning: Meaning) -> Cell<'_> {
        of_bytes(self.data(), meaning)
    }
}

fn of_bytes(bytes: &[u8], meaning: Meaning) -> Cell<'_> {
    match (meaning, bytes) {
        (Meaning::Decimal(divisor), _) if bytes.len() <= MAX_DECIMAL_BYTES => {
            Cell::Number(twos_complement(bytes) / divisor)
        }
        (Meaning::Half, &[low, high]) => Cell::Number(half(u16::from_le_bytes([low, high]))),
        (Meaning::Word, _) => std::str::from_utf8(bytes).map_or(Cell::NotText, Cell::Word),
        _ => Cell::NotText,
    }
}

/// The number of big-endian bytes in two's complement.
fn twos_complement(bytes: &[u8]) -> f64 {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    // The magnitude first, so that small negative numbers stay exact.
    let flip = if negative { 0xff } else { 0 };
    let magnitude = bytes.iter().fold(0.0_f64, |sum, byte| sum * 256.0 + f64::from(byte ^ flip));
    if negative { -(magnitude + 1.0) } else { magnitude }
}

/// The number of IEEE 754's binary16.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match bits >> 10 & 0x1f {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2_f64.powi(i32::from(exponent) - 15),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_numbers() {
        for (bytes, number) in [
            (&[0x01, 0x00][..], 256.0),
            (&[0xff][..], -1.0),
            (&[0xff, 0x00][..], -256.0),
            (&[0x80, 0, 0, 0, 0, 0, 0, 0][..], -9_223_372_036_854_775_808.0),
            (&[][..], 0.0),
        ] {
            assert_eq!(twos_complement(bytes), number, "{bytes:?}");
        }
        for (bits, number) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 2_f64.powi(-24)),
            (0x7bff, 65504.0),
            (0x3555, 0.333_251_953_125),
        ] {
            assert_eq!(half(bits), number, "{bits:x}");
        }
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }
}
