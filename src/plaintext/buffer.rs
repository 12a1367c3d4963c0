//! The bytes that rows are read from: looked at once as a whole, so that not every row has to be.

use std::ops::Range;

use memchr::{memchr, memchr2};

/// The bytes at hand, and what they are as a whole.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    content: Content,
    /// The first bytes of a character that the next chunk goes on with.
    half: Vec<u8>,
    /// Neither quotes nor CRs: every LF ends a row.
    pub(super) plain: bool,
    /// A comma, so there are rows of several fields.
    pub(super) commas: bool,
}

#[derive(Debug)]
enum Content {
    Text(String),
    /// Not UTF-8: the row at fault is found when its turn comes, for the rows before it are good.
    Bytes(Vec<u8>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Bytes(Vec::new())
    }
}

impl Buffer {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Text(text) => text.as_bytes(),
            Content::Bytes(bytes) => bytes,
        }
    }

    /// The bytes there as text, if all at hand is UTF-8 and no character is cut.
    pub(super) fn text(&self, place: Range<usize>) -> Option<&str> {
        match &self.content {
            Content::Text(text) => text.get(place),
            Content::Bytes(_) => None,
        }
    }

    /// Drops `used` bytes and puts `chunk` behind the rest; `None` at the end of the input.
    pub(super) fn refill(&mut self, used: usize, chunk: Option<Vec<u8>>) {
        let ended = chunk.is_none();
        let mut bytes = match std::mem::take(&mut self.content) {
            Content::Text(text) => text.into_bytes(),
            Content::Bytes(bytes) => bytes,
        };
        bytes.drain(..used.min(bytes.len()));
        bytes.append(&mut self.half);
        match chunk {
            Some(chunk) if bytes.is_empty() => bytes = chunk,
            Some(chunk) => bytes.extend_from_slice(&chunk),
            None => {}
        }
        self.content = match String::from_utf8(bytes) {
            Ok(text) => Content::Text(text),
            Err(error) => {
                let fault = error.utf8_error();
                let mut bytes = error.into_bytes();
                if fault.error_len().is_none() && !ended {
                    self.half = bytes.split_off(fault.valid_up_to());
                }
                match self.half.is_empty() {
                    true => Content::Bytes(bytes),
                    false => {
                        String::from_utf8(bytes).map_or_else(|error| Content::Bytes(error.into_bytes()), Content::Text)
                    }
                }
            }
        };
        self.plain = memchr2(b'"', b'\r', self.bytes()).is_none();
        self.commas = memchr(b',', self.bytes()).is_some();
    }
}
