//! The pages of one column of one row group, one at a time: read, judged, decompressed to what they said they become.
//!
//! The parquet crate's own reader of pages takes what a header says at its word, and lets some codecs make more of a
//! page than that. Here every size is checked before memory is taken for it.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};

use super::super::super::content::Content;
use super::super::packed::{Damage, Packing};
use super::delta;
use super::header::{PageHeader, PageKind};

/// Bytes in which a page's header is looked for first, and at last: some carry the least and largest value.
const HEADER_BYTES: [u64; 2] = [4 << 10, 16 << 20];

/// Memory that a value of a dictionary takes beside its bytes, at most.
const DICTIONARY_VALUE_BYTES: u64 = 64;

/// Most pages of a column without a cell; nobody can be asked whether to go on in between.
const MAX_EMPTY_PAGES: u32 = 1000;

/// Why a page is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    /// It does not hold together.
    #[error("{0}")]
    Damaged(&'static str),
    /// It does not decompress.
    #[error("{0}")]
    Packed(String),
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(io::Error),
    /// All pages so far hold more than that.
    #[error("more than {0} bytes once it is decompressed")]
    TooLarge(u64),
    /// It takes more memory than this worker spends on a page.
    #[error("a page takes more than {0} bytes of memory")]
    TooMuchMemory(u64),
}

impl From<PageError> for ParquetError {
    fn from(error: PageError) -> Self {
        Self::External(Box::new(error))
    }
}

/// How much the pages of a file may take.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    /// Of one page and of what is made of it, in bytes.
    pub(super) page_bytes: u64,
    /// Of all of them once they are decompressed.
    pub(super) unpacked_bytes: u64,
    /// What they took so far.
    pub(super) unpacked: Arc<AtomicU64>,
}

/// Where the pages lie and what they are.
pub(super) struct Chunk {
    /// The file.
    pub(super) content: Arc<Content>,
    /// Where the next page begins in it.
    pub(super) position: u64,
    /// Where the last one ends.
    pub(super) end: u64,
    /// How they are compressed.
    pub(super) codec: Codec,
    /// Cells of them that are still to come.
    pub(super) cells: u64,
    /// Pages without a cell so far.
    pub(super) empty_pages: u32,
    /// Whether cells may be missing.
    pub(super) optional: bool,
    /// Fewest bytes of a value in a dictionary.
    pub(super) value_bytes: u64,
    /// Most values that are asked for at once.
    pub(super) batch: u64,
    /// What they may take.
    pub(super) budget: Budget,
}

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// As files are.
    File(Packing),
    /// By Snappy, without frames.
    Snappy,
}

impl Codec {
    /// The codec of this name, if it is one that is read here; else the names of those that are.
    pub(super) fn of(compression: Compression) -> std::result::Result<Self, &'static str> {
        match compression {
            Compression::UNCOMPRESSED => Ok(Self::File(Packing::Plain)),
            Compression::SNAPPY => Ok(Self::Snappy),
            Compression::GZIP(_) => Ok(Self::File(Packing::Gzip)),
            Compression::ZSTD(_) => Ok(Self::File(Packing::Zstd)),
            _ => Err("none, snappy, gzip or zstd"),
        }
    }

    /// Exactly `size` bytes made of `packed`.
    fn unpack(self, packed: Bytes, size: usize) -> std::result::Result<Bytes, PageError> {
        let wrong_size = || PageError::Damaged("a page does not become as large as its header says");
        let unpacked = match self {
            Self::File(Packing::Plain) => packed,
            Self::Snappy => {
                let said = snap::raw::decompress_len(&packed);
                if said.map_err(|error| PageError::Packed(error.to_string()))? != size {
                    return Err(wrong_size());
                }
                let unpacked = snap::raw::Decoder::new().decompress_vec(&packed);
                Bytes::from(unpacked.map_err(|error| PageError::Packed(error.to_string()))?)
            }
            Self::File(packing) => {
                let mut unpacked = Vec::with_capacity(size);
                let reader = packing.unpack(packed.as_ref());
                reader.take(size as u64 + 1).read_to_end(&mut unpacked).map_err(|error| {
                    let damage = error.get_ref().and_then(|inner| inner.downcast_ref::<Damage>());
                    PageError::Packed(damage.map_or_else(|| error.to_string(), |Damage(what)| what.clone()))
                })?;
                Bytes::from(unpacked)
            }
        };
        if unpacked.len() == size { Ok(unpacked) } else { Err(wrong_size()) }
    }
}

impl Chunk {
    /// The header of the next page; `None` after the last one.
    fn header(&self) -> std::result::Result<Option<PageHeader>, PageError> {
        let left = self.end.saturating_sub(self.position);
        // Some writers leave a little room behind the last page.
        if left == 0 || self.cells == 0 {
            return Ok(None);
        }
        for bytes in HEADER_BYTES {
            let head = self.read(bytes.min(left))?;
            if let Some(header) = PageHeader::read(&head) {
                return Ok(Some(header));
            }
            if head.len() as u64 == left {
                break;
            }
        }
        Err(PageError::Damaged("the header of a page makes no sense"))
    }

    fn read(&self, count: u64) -> std::result::Result<Vec<u8>, PageError> {
        let mut bytes = Vec::new();
        let mut reader = self.content.reader(self.position).take(count);
        reader.read_to_end(&mut bytes).map_err(PageError::Unreadable)?;
        if bytes.len() as u64 == count {
            Ok(bytes)
        } else {
            Err(PageError::Damaged("it ends in the middle of a page"))
        }
    }

    /// Whether the next page may be made.
    fn judge(&mut self, header: &PageHeader) -> std::result::Result<(), PageError> {
        let Budget { page_bytes, unpacked_bytes, unpacked } = &self.budget;
        let left = self.end.saturating_sub(self.position).saturating_sub(header.length as u64);
        if u64::from(header.packed) > left {
            return Err(PageError::Damaged("a page is larger than its column"));
        }
        let size = u64::from(header.unpacked);
        if size.max(u64::from(header.packed)) > *page_bytes {
            return Err(PageError::TooMuchMemory(*page_bytes));
        }
        if unpacked.fetch_add(size, Ordering::Relaxed).saturating_add(size) > *unpacked_bytes {
            return Err(PageError::TooLarge(*unpacked_bytes));
        }
        if header.page.has_no_cells() {
            self.empty_pages += 1;
            if self.empty_pages > MAX_EMPTY_PAGES {
                return Err(PageError::Damaged("a column has page after page without a cell"));
            }
        }
        match header.page {
            PageKind::Data { values, encoding, .. } | PageKind::DataV2 { values, encoding, .. } => {
                let values = u64::from(values);
                self.cells = self
                    .cells
                    .checked_sub(values)
                    .ok_or(PageError::Damaged("a column has more cells than there are rows"))?;
                // Each value may repeat all of the one before it.
                let repeated = values.min(self.batch).saturating_mul(size);
                if encoding == Encoding::DELTA_BYTE_ARRAY && repeated > 4 * page_bytes {
                    return Err(PageError::TooMuchMemory(4 * page_bytes));
                }
            }
            PageKind::Dictionary { values, .. } => {
                let values = u64::from(values);
                if values.saturating_mul(self.value_bytes) > size {
                    return Err(PageError::Damaged("a dictionary is shorter than its header says"));
                }
                if values.saturating_mul(DICTIONARY_VALUE_BYTES) > *page_bytes {
                    return Err(PageError::TooMuchMemory(*page_bytes));
                }
            }
            PageKind::Other => {}
        }
        Ok(())
    }

    /// The next page; `None` after the last one.
    fn next_page(&mut self) -> std::result::Result<Option<Page>, PageError> {
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            self.judge(&header)?;
            self.position += header.length as u64;
            if header.page.has_no_cells() {
                // The reader of values would take such a page for the end.
                self.position += u64::from(header.packed);
                continue;
            }
            let packed = Bytes::from(self.read(u64::from(header.packed))?);
            self.position += u64::from(header.packed);
            let size = header.unpacked as usize;
            return Ok(Some(match header.page {
                PageKind::Other => continue,
                PageKind::Data { values, encoding, definition } => {
                    let buf = self.codec.unpack(packed, size)?;
                    let levels = self.level_bytes(definition, values, &buf);
                    delta::judge(encoding, values, buf.get(levels..).unwrap_or_default())?;
                    Page::DataPage {
                        buf,
                        num_values: values,
                        encoding,
                        def_level_encoding: definition,
                        rep_level_encoding: Encoding::RLE,
                        statistics: None,
                    }
                }
                PageKind::DataV2 {
                    values,
                    nulls,
                    rows,
                    encoding,
                    definition_bytes,
                    repetition_bytes,
                    compressed,
                } => {
                    let levels = (definition_bytes, repetition_bytes);
                    let buf = self.unpack_v2(packed, size, levels, compressed)?;
                    let levels = (u64::from(levels.0) + u64::from(levels.1)) as usize;
                    delta::judge(encoding, values, buf.get(levels..).unwrap_or_default())?;
                    Page::DataPageV2 {
                        buf,
                        num_values: values,
                        encoding,
                        num_nulls: nulls,
                        num_rows: rows,
                        def_levels_byte_len: definition_bytes,
                        rep_levels_byte_len: repetition_bytes,
                        is_compressed: false,
                        statistics: None,
                    }
                }
                PageKind::Dictionary { values, encoding } => Page::DictionaryPage {
                    buf: self.codec.unpack(packed, size)?,
                    num_values: values,
                    encoding,
                    is_sorted: false,
                },
            }));
        }
    }

    /// Bytes before the cells of a page of the first version, which say which of its `values` cells are there.
    fn level_bytes(&self, encoding: Encoding, values: u32, page: &[u8]) -> usize {
        match page.first_chunk() {
            _ if !self.optional => 0,
            Some(length) if encoding == Encoding::RLE => {
                size_of::<u32>().saturating_add(u32::from_le_bytes(*length) as usize)
            }
            // A bit each.
            _ => values.div_ceil(8) as usize,
        }
    }

    /// A page of the second version, whose levels are never compressed.
    fn unpack_v2(
        &self,
        packed: Bytes,
        size: usize,
        (definition_bytes, repetition_bytes): (u32, u32),
        compressed: bool,
    ) -> std::result::Result<Bytes, PageError> {
        let levels = (u64::from(definition_bytes) + u64::from(repetition_bytes)) as usize;
        if levels > packed.len() || levels > size {
            return Err(PageError::Damaged("a page is shorter than its levels"));
        }
        if !compressed || self.codec == Codec::File(Packing::Plain) {
            return Codec::File(Packing::Plain).unpack(packed, size);
        }
        let cells = packed.slice(levels..);
        // Nothing but missing cells.
        if size == levels && cells.is_empty() {
            return Ok(packed);
        }
        let cells = self.codec.unpack(cells, size - levels)?;
        Ok(Bytes::from([packed.slice(..levels).as_ref(), cells.as_ref()].concat()))
    }
}

/// What this reader does not do: pages are read in order.
fn in_order_only<T>() -> Result<T> {
    Err(ParquetError::General("pages are read in order only".to_owned()))
}

impl PageReader for Chunk {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        Ok(self.next_page()?)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        in_order_only()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        in_order_only()
    }
}

impl Iterator for Chunk {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
