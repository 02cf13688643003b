//! The bytes of a data set, wherever they lie: read at any place, as often as needed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use bytes::Bytes;

/// An open data set.
pub(super) struct Opened {
    /// The dataset_path, for errors.
    pub(super) path: String,
    /// Its content.
    pub(super) content: Content,
}

/// Bytes that can be read more than once.
pub(super) enum Content {
    /// In memory.
    Memory(Bytes),
    /// In a regular file.
    File(File),
}

impl From<&'static [u8]> for Content {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Memory(Bytes::from_static(bytes))
    }
}

impl Content {
    /// Number of bytes; a file may grow later.
    pub(super) fn length(&self) -> io::Result<u64> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::File(file) => file.metadata().map(|metadata| metadata.len()),
        }
    }

    /// Reads from `position` on.
    pub(super) fn reader(&self, position: u64) -> ContentReader<'_> {
        ContentReader { content: self, position }
    }

    /// Fills `buffer` from `position` on as far as there are bytes; returns how many there were.
    pub(super) fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
                let mut rest = bytes.get(start..).unwrap_or_default();
                rest.read(buffer)
            }
            Self::File(file) => loop {
                match file.read_at(buffer, position) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => return read,
                }
            },
        }
    }
}

/// Reads a [`Content`] from some place to its end.
pub(super) struct ContentReader<'a> {
    content: &'a Content,
    position: u64,
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read_at(self.position, buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}
