//! The few parts of Thrift's compact protocol that page headers and schemas need, over bytes nobody vouches for.
//!
//! Source: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>. All functions give
//! `None` where the bytes end or make no sense; nothing is allocated, and nesting is followed only so far.

/// Reads from the front of bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

/// A field of a struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    /// Its number.
    pub(super) id: i16,
    /// The type of its value.
    pub(super) kind: u8,
}

/// The types of values.
pub(super) mod kind {
    pub(in super::super) const TRUE: u8 = 1;
    pub(in super::super) const FALSE: u8 = 2;
    pub(in super::super) const BYTE: u8 = 3;
    pub(in super::super) const DOUBLE: u8 = 7;
    pub(in super::super) const BINARY: u8 = 8;
    pub(in super::super) const LIST: u8 = 9;
    pub(in super::super) const SET: u8 = 10;
    pub(in super::super) const MAP: u8 = 11;
    pub(in super::super) const STRUCT: u8 = 12;
    pub(in super::super) const UUID: u8 = 13;
}

/// Deepest nesting that is skipped over.
const MAX_DEPTH: u8 = 32;

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len()
    }

    /// The next field of a struct whose last one was `last`; `Some(None)` at its end.
    pub(super) fn field(&mut self, last: i16) -> Option<Option<Field>> {
        let byte = self.byte()?;
        let kind = byte & 0x0f;
        if kind == 0 {
            return Some(None);
        }
        let id = match byte >> 4 {
            0 => i16::try_from(self.integer()?).ok()?,
            delta => last.checked_add(i16::from(delta))?,
        };
        Some(Some(Field { id, kind }))
    }

    /// A whole number of 16, 32 or 64 bits.
    pub(super) fn integer(&mut self) -> Option<i64> {
        let bits = self.varint()?;
        Some((bits >> 1) as i64 ^ -((bits & 1) as i64))
    }

    /// As [`Self::integer`], if it is one of 32 bits and not negative.
    pub(super) fn size(&mut self) -> Option<u32> {
        u32::try_from(self.integer()?).ok().filter(|size| *size <= i32::MAX as u32)
    }

    /// Text or bytes.
    pub(super) fn binary(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (binary, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(binary)
    }

    /// The type of a list's items, and how many there are.
    pub(super) fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        Some((byte & 0x0f, count))
    }

    /// Passes over a value.
    pub(super) fn skip(&mut self, kind: u8) -> Option<()> {
        self.skip_nested(kind, MAX_DEPTH)
    }

    fn skip_nested(&mut self, kind: u8, depth: u8) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // Within a struct the type of a boolean is its value.
            kind::TRUE | kind::FALSE => Some(()),
            kind::BYTE => self.pass(1),
            4..=6 => self.varint().map(drop),
            kind::DOUBLE => self.pass(8),
            kind::BINARY => self.binary().map(drop),
            kind::LIST | kind::SET => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_item(kind, depth))
            }
            kind::MAP => match self.varint()? {
                0 => Some(()),
                count => {
                    let kinds = self.byte()?;
                    (0..count).try_for_each(|_| {
                        self.skip_item(kinds >> 4, depth)?;
                        self.skip_item(kinds & 0x0f, depth)
                    })
                }
            },
            kind::STRUCT => {
                let mut last = 0;
                while let Some(field) = self.field(last)? {
                    self.skip_nested(field.kind, depth)?;
                    last = field.id;
                }
                Some(())
            }
            kind::UUID => self.pass(16),
            _ => None,
        }
    }

    /// Within a collection a boolean is a byte.
    fn skip_item(&mut self, kind: u8, depth: u8) -> Option<()> {
        match kind {
            kind::TRUE | kind::FALSE => self.pass(1),
            kind => self.skip_nested(kind, depth),
        }
    }

    fn pass(&mut self, count: usize) -> Option<()> {
        self.bytes = self.bytes.get(count..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
