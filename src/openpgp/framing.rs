//! Watches the outer packets of a message on their way to the library.
//!
//! The library reads some messages that are cut, or have bytes behind them, without a word, and its words about others
//! do not say what the sender should do. So the outer sequence is checked here: keys' packets, one encrypted container
//! with integrity protection, nothing else, and the end of the file where the container ends. Keeps six bytes.

use std::io::{self, Read};

use super::decrypt::{Verdict, damaged, unsupported};
use crate::reason::Finding;

/// Packets before the container: one for each key or password.
const PACKETS_BEFORE: usize = 1000;
/// The largest of them.
const PACKET_BYTES: u64 = 64 * 1024;

/// A reader that hands its bytes on and judges them.
pub(super) struct Framing<R> {
    inner: R,
    verdict: Verdict,
    state: State,
    packets: usize,
    container: bool,
}

enum State {
    /// Bytes of a packet's header.
    Header(Vec<u8>),
    /// Bytes of the length of a packet's next part.
    Length(Vec<u8>),
    /// So many bytes of a packet or a part, and whether another part follows.
    Body { left: u64, partial: bool },
    /// Up to the end of the file.
    Open,
}

/// How long a packet is, or its next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// More bytes of the header are needed.
    More,
    /// No header at all.
    Bad,
    Bytes {
        left: u64,
        partial: bool,
    },
    /// To the end of the file.
    Open,
}

impl<R: Read> Framing<R> {
    pub(super) fn new(inner: R, verdict: Verdict) -> Self {
        Self { inner, verdict, state: State::Header(Vec::new()), packets: 0, container: false }
    }

    /// Follows `bytes`.
    fn walk(&mut self, mut bytes: &[u8]) -> Result<(), Finding> {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Open => return Ok(()),
                State::Body { left: 0, partial: false } => self.state = State::Header(Vec::new()),
                State::Body { left: 0, partial: true } => self.state = State::Length(Vec::new()),
                State::Body { left, .. } => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    bytes = bytes.get(taken..).unwrap_or_default();
                }
                State::Length(length) => {
                    length.push(*first);
                    bytes = rest;
                    if let Extent::Bytes { left, partial } = new_length(length) {
                        self.state = State::Body { left, partial };
                    }
                }
                State::Header(header) => {
                    header.push(*first);
                    bytes = rest;
                    let (tag, extent) = read_header(header);
                    self.begin(tag, extent)?;
                }
            }
        }
        Ok(())
    }

    /// Judges a packet by its header.
    fn begin(&mut self, tag: u8, extent: Extent) -> Result<(), Finding> {
        let (state, length) = match extent {
            Extent::More => return Ok(()),
            Extent::Bad => return Err(damaged()),
            Extent::Bytes { left, partial } => (State::Body { left, partial }, Some(left).filter(|_| !partial)),
            Extent::Open => (State::Open, None),
        };
        self.state = state;
        self.packets += 1;
        if self.container {
            return Err(damaged());
        }
        match tag {
            18 => self.container = true,
            1 | 3 | 10 | 21 => {
                if self.packets > PACKETS_BEFORE || length.is_none_or(|length| length > PACKET_BYTES) {
                    return Err(damaged());
                }
            }
            9 => return Err(unsupported("it has no integrity protection (no MDC); do not use `--disable-mdc`")),
            20 => {
                let what = "it uses GnuPG's own AEAD form; import this daemon's current certificate, or encrypt with \
                            `--rfc4880`";
                return Err(unsupported(what));
            }
            2 | 4 | 8 | 11 => return Err(unsupported("it is not encrypted; encrypt it to this daemon's certificate")),
            5 | 6 | 7 | 14 => return Err(unsupported("it is a key, not a message")),
            _ => return Err(damaged()),
        }
        Ok(())
    }

    /// Whether the file may end here.
    fn complete(&self) -> bool {
        self.container && matches!(&self.state, State::Open | State::Body { left: 0, partial: false })
    }
}

impl<R: Read> Read for Framing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let verdict = match buffer.get(..read) {
            Some([]) | None if buffer.is_empty() || self.complete() => Ok(()),
            Some([]) | None => Err(damaged()),
            Some(bytes) => self.walk(bytes),
        };
        verdict.map_err(|finding| {
            self.verdict.note(finding);
            io::Error::other("not one encrypted message")
        })?;
        Ok(read)
    }
}

/// Tag and extent of the packet that starts with `header`.
fn read_header(header: &[u8]) -> (u8, Extent) {
    let Some((first, rest)) = header.split_first() else { return (0, Extent::More) };
    match first & 0xc0 {
        0xc0 => (first & 0x3f, new_length(rest)),
        0x80 => ((first >> 2) & 0x0f, old_length(first & 3, rest)),
        _ => (0, Extent::Bad),
    }
}

fn new_length(bytes: &[u8]) -> Extent {
    let (left, partial) = match *bytes {
        [one @ ..192, ..] => (u64::from(one), false),
        [first @ 192..=223, second, ..] => ((u64::from(first - 192) << 8) + u64::from(second) + 192, false),
        [power @ 224..=254, ..] => (1 << (power & 0x1f), true),
        [255, a, b, c, d, ..] => (u64::from(u32::from_be_bytes([a, b, c, d])), false),
        _ => return Extent::More,
    };
    Extent::Bytes { left, partial }
}

fn old_length(kind: u8, bytes: &[u8]) -> Extent {
    let left = match (kind, bytes) {
        (3, _) => return Extent::Open,
        (0, [a, ..]) => u64::from(*a),
        (1, [a, b, ..]) => u64::from(u16::from_be_bytes([*a, *b])),
        (2, [a, b, c, d, ..]) => u64::from(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => return Extent::More,
    };
    Extent::Bytes { left, partial: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<&Finding>) {
        for size in 1..=bytes.len() {
            let mut framing = Framing::new(bytes, Verdict::default());
            let mut buffer = vec![0; size];
            let found = loop {
                match framing.read(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(_) => break Err(framing.verdict.fault().unwrap()),
                }
            };
            assert_eq!(found.as_ref().err(), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn outer_packets() {
        let unencrypted = unsupported("it is not encrypted; encrypt it to this daemon's certificate");
        check(b"\xc1\x02ab\xd2\x03\x01cd", None);
        check(b"\x84\x02ab\xd2\xe1ab\xe0c\x01d", None);
        check(b"\x85\0\x02ab\xd2\xff\0\0\0\x01c", None);
        check(b"\xc1\x02ab\xcb\x01a", Some(&unencrypted));
        check(b"\xc1\x02ab\xd2\x03\x01c", Some(&damaged()));
        check(b"\xc1\x02ab\xd2\x03\x01cdX", Some(&damaged()));
        check(b"\xc1\x02ab\xd2\x03\x01cd\xd2\x01x", Some(&damaged()));
        check(b"\xc1\x02ab", Some(&damaged()));
        check(b"\xc1\x02ab\xd2\xe1ab", Some(&damaged()));
        check(b"\xc1", Some(&damaged()));
    }
}
