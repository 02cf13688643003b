//! Compressed text as a stream of what it was before: gzip and zstd.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    Plain,
    /// By gzip (RFC 1952), one or more members.
    Gzip,
    /// By zstd (RFC 8878), one or more frames.
    Zstd,
}

/// Largest window of a zstd frame, in bytes, hence about the memory that one takes: what `zstd -d` takes unasked.
const MAX_WINDOW_BYTES: u64 = 128 << 20;

/// What is read of the compressed bytes at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// The compressed bytes are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(pub(super) String);

impl Packing {
    /// What the first bytes say.
    pub(super) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A frame to skip, which some writers put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// Its name in errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// What was compressed, read from `packed`, which begins where the file does. Errors of the decoder carry a
    /// [`Damage`].
    pub(super) fn unpack<'a>(self, packed: impl Read + 'a) -> Box<dyn Read + 'a> {
        match self {
            Self::Plain => Box::new(packed),
            Self::Gzip => {
                let packed = BufReader::with_capacity(BUFFER_BYTES, packed);
                Box::new(Gzip { decoder: MultiGzDecoder::new(packed) })
            }
            Self::Zstd => {
                let mut decoder = FrameDecoder::new();
                decoder.set_max_window_size(MAX_WINDOW_BYTES);
                let packed = BufReader::with_capacity(BUFFER_BYTES, packed);
                Box::new(Zstd { decoder, packed, within: Within::BetweenFrames })
            }
        }
    }
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Damage(what.to_string()))
}

struct Gzip<R> {
    decoder: MultiGzDecoder<R>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| match error.raw_os_error() {
            // The file itself could not be read.
            Some(_) => error,
            None => damaged(error),
        })
    }
}

struct Zstd<R> {
    decoder: FrameDecoder,
    packed: R,
    within: Within,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    BetweenFrames,
    Frame,
}

impl<R: BufRead> Zstd<R> {
    /// Goes to the next frame that holds something; `false` at the end of the file.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.packed.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.packed) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(&mut (&mut self.packed).take(u64::from(length)), &mut io::sink())?;
                    if skipped != u64::from(length) {
                        return Err(damaged("it ends in the middle of a frame"));
                    }
                }
                Err(error) => return Err(damaged(error)),
            }
        }
    }

    /// Checks what the frame says of itself, now that all of it is known.
    fn verify(&self) -> io::Result<()> {
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(said), Some(found)) if said != found => Err(damaged("a checksum does not agree")),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.within == Within::BetweenFrames {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.within = Within::Frame;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            if self.decoder.is_finished() {
                self.verify()?;
                self.within = Within::BetweenFrames;
                continue;
            }
            self.decoder
                .decode_blocks(&mut self.packed, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(damaged)?;
        }
    }
}
