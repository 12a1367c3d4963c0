//! Armor taken off: the header is skipped, base64 decoded, the footer asked for.
//!
//! The library's own reader looks at every byte by itself and costs more than the decryption. This one takes lines as a
//! whole and is as tolerant: line ends of any kind, blanks, headers of any name, a checksum or none (nobody checks it;
//! the message inside verifies itself).

use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::{memchr, memchr2, memchr3, memmem};

/// Armored bytes read at once.
const PIECE_BYTES: usize = 64 * 1024;
/// The longest header, checksum and footer.
const MOST_AROUND: usize = 16 * 1024;
const END: &[u8] = b"-----END PGP MESSAGE-----";

/// Reads what an armored message holds. The source stands at its first header line.
pub(super) struct Dearmor<R> {
    source: R,
    /// Armored bytes that are not decoded yet.
    raw: Vec<u8>,
    /// The same without line ends and blanks, less than one group between two pieces.
    symbols: Vec<u8>,
    decoded: Vec<u8>,
    /// What of `decoded` was handed out.
    taken: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Body,
    End,
}

fn bad() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the armor is damaged or cut")
}

impl<R: Read> Dearmor<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, raw: Vec::new(), symbols: Vec::new(), decoded: Vec::new(), taken: 0, state: State::Header }
    }

    /// Puts more armored bytes behind `raw`; false at the end of the source.
    fn more(&mut self) -> io::Result<bool> {
        let before = self.raw.len();
        self.raw.resize(before + PIECE_BYTES, 0);
        let read = self.source.read(self.raw.get_mut(before..).unwrap_or_default());
        self.raw.truncate(before + read.as_ref().map_or(0, |read| *read));
        Ok(read? > 0)
    }

    /// Skips the first line, the headers and the empty line behind them. A message whose empty line is missing begins in
    /// its second line.
    fn header(&mut self) -> io::Result<()> {
        let (mut at, mut lines) = (0, 0);
        loop {
            let Some(length) = memchr(b'\n', self.raw.get(at..).unwrap_or_default()) else {
                if self.raw.len() > MOST_AROUND || !self.more()? {
                    return Err(bad());
                }
                continue;
            };
            let line = self.raw.get(at..at + length).unwrap_or_default().trim_ascii();
            if lines == 1 && !line.is_empty() && memmem::find(line, b": ").is_none() {
                break;
            }
            let empty = line.is_empty();
            at += length + 1;
            lines += 1;
            if empty {
                break;
            }
            if at > MOST_AROUND {
                return Err(bad());
            }
        }
        self.raw.drain(..at);
        self.state = State::Body;
        Ok(())
    }

    /// Decodes what is there of the body, and finds its end.
    fn body(&mut self) -> io::Result<()> {
        if self.raw.is_empty() && !self.more()? {
            return Err(bad());
        }
        // Neither stands in base64, but as padding, or where the checksum or the footer begins.
        let end = memchr2(b'=', b'-', &self.raw).unwrap_or(self.raw.len());
        gather(self.raw.get(..end).unwrap_or_default(), &mut self.symbols);
        self.raw.drain(..end);
        if !self.raw.is_empty() {
            self.footer()?;
        }
        let whole = self.symbols.len() / 4 * 4;
        self.decoded.clear();
        self.taken = 0;
        let symbols = self.symbols.get(..whole).unwrap_or_default();
        STANDARD.decode_vec(symbols, &mut self.decoded).map_err(|_| bad())?;
        self.symbols.drain(..whole);
        Ok(())
    }

    /// Reads padding, checksum and footer.
    fn footer(&mut self) -> io::Result<()> {
        let footer = loop {
            if let Some(at) = memmem::find(&self.raw, END) {
                break at;
            }
            if self.raw.len() > MOST_AROUND || !self.more()? {
                return Err(bad());
            }
        };
        let mut before = self.raw.get(..footer).unwrap_or_default().trim_ascii();
        while !self.symbols.len().is_multiple_of(4) {
            before = before.strip_prefix(b"=").ok_or_else(bad)?.trim_ascii_start();
            self.symbols.push(b'=');
        }
        let checksum = before.strip_prefix(b"=").is_some_and(|sum| sum.len() == 4);
        if !before.is_empty() && !checksum {
            return Err(bad());
        }
        self.state = State::End;
        Ok(())
    }
}

/// Puts what is neither line end nor blank behind `symbols`.
fn gather(body: &[u8], symbols: &mut Vec<u8>) {
    if memchr3(b' ', b'\t', b'\r', body).is_some() {
        symbols.extend(body.iter().filter(|byte| !byte.is_ascii_whitespace()));
        return;
    }
    let mut rest = body;
    while let Some(line) = memchr(b'\n', rest) {
        symbols.extend_from_slice(rest.get(..line).unwrap_or_default());
        rest = rest.get(line + 1..).unwrap_or_default();
    }
    symbols.extend_from_slice(rest);
}

impl<R: Read> Read for Dearmor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.decoded.len() {
            match self.state {
                State::Header => self.header()?,
                State::Body => self.body()?,
                State::End => return Ok(0),
            }
        }
        let left = self.decoded.get(self.taken..).unwrap_or_default();
        let length = left.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), left.get(..length)) {
            to.copy_from_slice(from);
        }
        self.taken += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Pieces<'t>(&'t [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let (piece, rest) = self.0.split_at(self.1.min(self.0.len()).min(buffer.len()));
            buffer[..piece.len()].copy_from_slice(piece);
            self.0 = rest;
            Ok(piece.len())
        }
    }

    fn decode(text: &str, piece: usize) -> Option<Vec<u8>> {
        let mut decoded = Vec::new();
        let read = io::copy(&mut Dearmor::new(Pieces(text.as_bytes(), piece)), &mut decoded);
        read.ok().map(|_| decoded)
    }

    #[track_caller]
    fn check(text: &str, expected: Option<&[u8]>) {
        for piece in 1..=text.len() {
            assert_eq!(decode(text, piece).as_deref(), expected, "in pieces of {piece}");
        }
    }

    const BEGIN: &str = "-----BEGIN PGP MESSAGE-----\n";
    const FOOTER: &str = "-----END PGP MESSAGE-----\n";

    #[test]
    fn messages() {
        check(&format!("{BEGIN}\naGVsbG8h\n=abcd\n{FOOTER}"), Some(b"hello!"));
        check(&format!("{BEGIN}\naGVsbG8h\n{FOOTER}regards\n"), Some(b"hello!"));
        check(&format!("{BEGIN}Version: 1\nHash: a\n \naGVs\nbG8h\n\n=abcd\n{FOOTER}"), Some(b"hello!"));
        check(&format!("{BEGIN}\naGVsbG8=\n=abcd\n{FOOTER}"), Some(b"hello"));
        check(&format!("{BEGIN}\naGVsbA==\n{FOOTER}"), Some(b"hell"));
        check(&format!("{BEGIN}\naGVs\nbA=\n=\n{FOOTER}"), Some(b"hell"));
        check(&format!("{BEGIN}aGVs\nbG8h\n=abcd\n{FOOTER}"), Some(b"hello!"));
        check(&format!("{BEGIN}\n aGV sbG\t8h \n =abcd \n {FOOTER}"), Some(b"hello!"));
        let crlf = format!("{BEGIN}A: b\n\naGVs\nbG8h\n=abcd\n{FOOTER}").replace('\n', "\r\n");
        check(&crlf, Some(b"hello!"));
        check(&format!("{BEGIN}\n=abcd\n{FOOTER}"), Some(b""));
    }

    #[test]
    fn damage() {
        let whole = format!("{BEGIN}\naGVsbG8=\n=abcd\n{}", FOOTER.trim_end());
        for length in 0..whole.len() {
            check(whole.get(..length).unwrap(), None);
        }
        check(&format!("{BEGIN}\naGVsbG8\n{FOOTER}"), None);
        check(&format!("{BEGIN}\naGVsbG8h=\n{FOOTER}"), None);
        check(&format!("{BEGIN}\naGVsb*8h\n{FOOTER}"), None);
        check(&format!("{BEGIN}\naGVsbG8h\n=abcd\naGVs\n{FOOTER}"), None);
        check(&format!("{BEGIN}\naGVsbG8h\n-----END PGP SIGNATURE-----\n"), None);
        assert_eq!(decode(&format!("{BEGIN}{}\naGVsbG8h\n{FOOTER}", "A: b\n".repeat(MOST_AROUND)), 9999), None);
    }

    #[test]
    fn long_messages_in_any_pieces() {
        let content: Vec<u8> = (0..200_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let encoded = STANDARD.encode(&content);
        let lines: Vec<&str> = encoded.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        for (end, piece) in [("\n", 1000), ("\r\n", 65_537), ("\n", 300_000)] {
            let text = format!("{BEGIN}\n{}{end}=abcd\n{FOOTER}", lines.join(end));
            assert!(decode(&text, piece).as_ref() == Some(&content), "in pieces of {piece}");
        }
    }
}
