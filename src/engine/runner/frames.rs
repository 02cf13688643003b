//! Messages as bytes in a pipe: the length as a varint, then the message.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;

/// Longest message, in bytes: a model to start from, and room to spare.
const MOST_BYTES: usize = 1 << 30;

/// Bytes of the longest varint.
const VARINT_BYTES: usize = 10;

/// What came through the pipe is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// A length that no message has.
    #[error("a message of an impossible length")]
    Length,
    /// Its content.
    #[error("{0}")]
    Content(#[from] prost::DecodeError),
}

/// `message` with its length before it.
pub(super) fn encode(message: &impl Message) -> Bytes {
    Bytes::from(message.encode_length_delimited_to_vec())
}

/// Cuts messages out of what comes in.
#[derive(Debug, Default)]
pub(super) struct Frames(BytesMut);

impl Frames {
    /// More came in.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next message that is whole. Long fields of it share its memory.
    ///
    /// # Errors
    /// When the pipe has come out of step: nothing that follows can be read.
    pub(super) fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Broken> {
        let ends = self.0.iter().take(VARINT_BYTES).any(|byte| byte & 0x80 == 0);
        if !ends {
            return if self.0.len() < VARINT_BYTES { Ok(None) } else { Err(Broken::Length) };
        }
        let mut rest = self.0.as_ref();
        let length = prost::decode_length_delimiter(&mut rest)?;
        if length > MOST_BYTES {
            return Err(Broken::Length);
        }
        let header = self.0.len() - rest.len();
        if rest.len() < length {
            let missing = length - rest.len();
            self.0.reserve(missing);
            return Ok(None);
        }
        self.0.advance(header);
        Ok(Some(M::decode(self.0.split_to(length).freeze())?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::messages::{FromRunner, News};
    use super::*;

    proptest! {
        #[test]
        fn messages_come_out_whole_however_they_are_cut(
            texts in prop::collection::vec("[a-z]{0,300}", 0..20),
            cut in 1_usize..64,
        ) {
            let messages: Vec<_> =
                texts.into_iter().map(|text| FromRunner { news: Some(News::Ready(text.into_bytes())) }).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(|message| encode(message).to_vec()).collect();
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(cut) {
                frames.push(part);
                while let Some(message) = frames.next::<FromRunner>().unwrap() {
                    seen.push(message);
                }
            }
            prop_assert_eq!(seen, messages);
        }

        #[test]
        fn whatever_comes_in_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            while let Ok(Some(_)) = frames.next::<FromRunner>() {}
        }
    }

    #[test]
    fn a_length_that_no_message_has_is_told() {
        let mut frames = Frames::default();
        frames.push(&[0xff; 16]);
        assert_eq!(frames.next::<FromRunner>(), Err(Broken::Length));
    }
}
