//! The headers in a Parquet file that say how much follows, read here so that it can be judged before it is made.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.

use parquet::basic::Encoding;

use super::thrift::{Reader, kind};

/// What a page says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// Bytes of the header itself.
    pub(super) length: usize,
    /// Bytes that follow it in the file.
    pub(super) packed: u32,
    /// Bytes that they become.
    pub(super) unpacked: u32,
    /// What they are.
    pub(super) page: PageKind,
}

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    /// Cells, in the first version of the format.
    Data {
        /// Cells, missing ones included.
        values: u32,
        /// Of the cells.
        encoding: Encoding,
        /// Of what says which are missing.
        definition: Encoding,
    },
    /// Cells, in the second version.
    DataV2 {
        /// Cells, missing ones included.
        values: u32,
        /// Missing ones.
        nulls: u32,
        /// Rows.
        rows: u32,
        /// Of the cells.
        encoding: Encoding,
        /// Bytes of what says which are missing; never compressed.
        definition_bytes: u32,
        /// Bytes of what says where lists begin; never compressed.
        repetition_bytes: u32,
        /// Whether the cells are compressed.
        compressed: bool,
    },
    /// Different values that the cells refer to.
    Dictionary {
        /// How many.
        values: u32,
        /// How they are written.
        encoding: Encoding,
    },
    /// Nothing that is read here.
    Other,
}

impl PageKind {
    /// Whether there is nothing in it to read.
    pub(super) fn has_no_cells(self) -> bool {
        matches!(self, Self::Data { values: 0, .. } | Self::DataV2 { values: 0, .. } | Self::Other)
    }
}

impl PageHeader {
    /// Reads it from the front of `bytes`; `None` where they are too few or make no sense.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (mut what, mut packed, mut unpacked) = (None, None, None);
        let (mut data, mut data_v2, mut dictionary) = (None, None, None);
        let mut last = 0;
        while let Some(field) = reader.field(last)? {
            match (field.id, field.kind) {
                (1, 5) => what = Some(reader.integer()?),
                (2, 5) => unpacked = Some(reader.size()?),
                (3, 5) => packed = Some(reader.size()?),
                (5, kind::STRUCT) => data = Some(Body::read(&mut reader)?),
                (7, kind::STRUCT) => dictionary = Some(Body::read(&mut reader)?),
                (8, kind::STRUCT) => data_v2 = Some(Body::read(&mut reader)?),
                (_, kind) => reader.skip(kind)?,
            }
            last = field.id;
        }
        let page = match what? {
            0 => data?.data()?,
            2 => dictionary?.dictionary()?,
            3 => data_v2?.data_v2()?,
            _ => PageKind::Other,
        };
        Some(Self { length: bytes.len() - reader.left(), packed: packed?, unpacked: unpacked?, page })
    }
}

/// The whole numbers of the struct inside of a page header, by their field.
struct Body {
    numbers: [Option<u32>; 8],
    compressed: bool,
}

impl Body {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut body = Self { numbers: [None; 8], compressed: true };
        let mut last = 0;
        while let Some(field) = reader.field(last)? {
            match (field.id, field.kind) {
                (7, kind::FALSE) => body.compressed = false,
                (id @ 1..=6, 5) => {
                    let number = reader.size()?;
                    if let Some(slot) = body.numbers.get_mut(id as usize) {
                        *slot = Some(number);
                    }
                }
                (_, kind) => reader.skip(kind)?,
            }
            last = field.id;
        }
        Some(body)
    }

    fn number(&self, field: usize) -> Option<u32> {
        self.numbers.get(field).copied().flatten()
    }

    fn encoding(&self, field: usize) -> Option<Encoding> {
        Some(match self.number(field)? {
            0 => Encoding::PLAIN,
            2 => Encoding::PLAIN_DICTIONARY,
            3 => Encoding::RLE,
            4 => bit_packed(),
            5 => Encoding::DELTA_BINARY_PACKED,
            6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            7 => Encoding::DELTA_BYTE_ARRAY,
            8 => Encoding::RLE_DICTIONARY,
            9 => Encoding::BYTE_STREAM_SPLIT,
            _ => return None,
        })
    }

    fn data(&self) -> Option<PageKind> {
        let (values, encoding) = (self.number(1)?, self.encoding(2)?);
        Some(PageKind::Data { values, encoding, definition: self.encoding(3)? })
    }

    fn data_v2(&self) -> Option<PageKind> {
        Some(PageKind::DataV2 {
            values: self.number(1)?,
            nulls: self.number(2)?,
            rows: self.number(3)?,
            encoding: self.encoding(4)?,
            definition_bytes: self.number(5)?,
            repetition_bytes: self.number(6)?,
            compressed: self.compressed,
        })
    }

    fn dictionary(&self) -> Option<PageKind> {
        Some(PageKind::Dictionary { values: self.number(1)?, encoding: self.encoding(2)? })
    }
}

/// Said of the levels of columns that have none, by older writers.
#[expect(deprecated)]
fn bit_packed() -> Encoding {
    Encoding::BIT_PACKED
}

/// The schema of a file, as far as it must be known before the file's metadata are decoded: libraries follow nested
/// columns by recursion, as deep as the file says.
pub(super) enum Schema {
    /// Every column is one of cells; there are so many.
    Flat(u64),
    /// This column holds others.
    Nested(String),
}

impl Schema {
    /// Reads it from the metadata of a file; `None` where they make no sense.
    pub(super) fn read(metadata: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(metadata);
        let mut last = 0;
        while let Some(field) = reader.field(last)? {
            if (field.id, field.kind) == (2, kind::LIST) {
                return Self::read_elements(&mut reader);
            }
            reader.skip(field.kind)?;
            last = field.id;
        }
        None
    }

    fn read_elements(reader: &mut Reader<'_>) -> Option<Self> {
        let (item, count) = reader.list()?;
        if item != kind::STRUCT || count == 0 {
            return None;
        }
        for index in 0..count {
            let element = Element::read(reader)?;
            // The first one is the file itself.
            if index > 0 && element.children.is_some_and(|children| children > 0) {
                return Some(Self::Nested(element.name));
            }
            if index > 0 && element.repeated {
                return Some(Self::Nested(element.name));
            }
        }
        Some(Self::Flat(count - 1))
    }
}

struct Element {
    name: String,
    children: Option<i64>,
    repeated: bool,
}

impl Element {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut element = Self { name: String::new(), children: None, repeated: false };
        let mut last = 0;
        while let Some(field) = reader.field(last)? {
            match (field.id, field.kind) {
                (3, 5) => element.repeated = reader.integer()? == 2,
                (4, kind::BINARY) => element.name = String::from_utf8_lossy(reader.binary()?).into_owned(),
                (5, 5) => element.children = Some(reader.integer()?),
                (_, kind) => reader.skip(kind)?,
            }
            last = field.id;
        }
        Some(element)
    }
}
