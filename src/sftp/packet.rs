//! SFTP version 3 on the wire (draft-ietf-secsh-filexfer-02): bytes to requests, replies to bytes. No effects.
//!
//! Names stay bytes, and every reply carries the id of its request: clients end the session over a wrong one.

use std::borrow::Cow;

use bytes::{Buf as _, Bytes};

/// Longest packet taken from a client, as OpenSSH's `SFTP_MAX_MSG_LENGTH`.
pub(super) const LONGEST_PACKET: usize = 256 * 1024;
/// Longest READ answer and longest WRITE: a packet less its header, as OpenSSH's server announces it.
pub(super) const LONGEST_DATA: u32 = 261_120;
/// The header of a DATA reply: length, type, id, length of the data.
pub(super) const DATA_HEADER: usize = 13;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const READLINK: u8 = 19;
const SYMLINK: u8 = 20;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

/// Bits of OPEN.
pub(super) mod open_flags {
    pub(in super::super) const READ: u32 = 1;
    pub(in super::super) const WRITE: u32 = 2;
    pub(in super::super) const APPEND: u32 = 4;
    pub(in super::super) const CREATE: u32 = 8;
    pub(in super::super) const TRUNCATE: u32 = 16;
    pub(in super::super) const EXCLUSIVE: u32 = 32;
}

/// A status code of version 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    OpUnsupported = 8,
}

/// A request that is answered with a status other than OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) text: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn failure(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Failure, text)
    }

    pub(super) fn denied(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::PermissionDenied, text)
    }

    pub(super) fn missing() -> Self {
        Self::new(Code::NoSuchFile, "No such file")
    }

    pub(super) fn unsupported() -> Self {
        Self::new(Code::OpUnsupported, "Operation unsupported")
    }

    pub(super) fn end() -> Self {
        Self::new(Code::Eof, "End of file")
    }
}

/// File attributes, each one only where it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) permissions: Option<u32>,
    /// Access and modification time, seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Init {
        version: u32,
    },
    Open {
        path: Bytes,
        flags: u32,
    },
    Close {
        handle: Bytes,
    },
    Read {
        handle: Bytes,
        offset: u64,
        length: u32,
    },
    Write {
        handle: Bytes,
        offset: u64,
        data: Bytes,
    },
    /// STAT and LSTAT: no link is ever followed or shown, so they do the same.
    Stat {
        path: Bytes,
    },
    Fstat {
        handle: Bytes,
    },
    Setstat {
        path: Bytes,
        attributes: Attributes,
    },
    Fsetstat {
        handle: Bytes,
        attributes: Attributes,
    },
    Opendir {
        path: Bytes,
    },
    Readdir {
        handle: Bytes,
    },
    Remove {
        path: Bytes,
    },
    Mkdir {
        path: Bytes,
    },
    Rmdir {
        path: Bytes,
    },
    Realpath {
        path: Bytes,
    },
    Rename {
        from: Bytes,
        to: Bytes,
    },
    /// READLINK and SYMLINK: there are no links here.
    Link,
    Extended {
        name: Bytes,
        payload: Bytes,
    },
    Unknown(u8),
}

/// A packet that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// The id of the request, where that much could be read: it is answered with BAD_MESSAGE, else the channel ends.
    pub(super) id: Option<u32>,
}

/// Reads the parts of a packet from its front.
pub(super) struct Fields(pub(super) Bytes);

impl Fields {
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    pub(super) fn long(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    /// A length-prefixed string: a slice of the packet, not a copy.
    pub(super) fn string(&mut self) -> Option<Bytes> {
        let length = self.number()? as usize;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    pub(super) fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.number()?;
        let mut attributes = Attributes::default();
        if flags & 1 != 0 {
            attributes.size = Some(self.long()?);
        }
        if flags & 2 != 0 {
            attributes.owner = Some((self.number()?, self.number()?));
        }
        if flags & 4 != 0 {
            attributes.permissions = Some(self.number()?);
        }
        if flags & 8 != 0 {
            attributes.times = Some((self.number()?, self.number()?));
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.string()?;
                self.string()?;
            }
        }
        Some(attributes)
    }
}

/// A WRITE that still stands where it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write<'p> {
    pub(super) id: u32,
    pub(super) handle: &'p [u8],
    pub(super) offset: u64,
    pub(super) data: &'p [u8],
}

/// The WRITE at the front of `stream`, and what follows it; `None` when it is not all there, or is something else. What
/// is malformed is something else, too.
pub(super) fn whole_write(stream: &[u8]) -> Option<(Write<'_>, &[u8])> {
    let (packet, behind) = string(stream)?;
    if packet.len() > LONGEST_PACKET {
        return None;
    }
    let packet = packet.strip_prefix(&[WRITE])?;
    let (id, packet) = packet.split_first_chunk()?;
    let (handle, packet) = string(packet)?;
    let (offset, packet) = packet.split_first_chunk()?;
    let (data, _) = string(packet)?;
    let write = Write { id: u32::from_be_bytes(*id), handle, offset: u64::from_be_bytes(*offset), data };
    Some((write, behind))
}

/// A length-prefixed string at the front, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// Reads one packet, without its length. INIT has no id; its place is taken by 0, which nothing answers.
pub(super) fn parse(packet: Bytes) -> Result<(u32, Request), Malformed> {
    let mut fields = Fields(packet);
    let kind = fields.byte().ok_or(Malformed { id: None })?;
    let number = fields.number().ok_or(Malformed { id: None })?;
    if kind == INIT {
        return Ok((0, Request::Init { version: number }));
    }
    match body(kind, &mut fields) {
        Some(request) => Ok((number, request)),
        None => Err(Malformed { id: Some(number) }),
    }
}

fn body(kind: u8, fields: &mut Fields) -> Option<Request> {
    Some(match kind {
        OPEN => {
            let (path, flags) = (fields.string()?, fields.number()?);
            // Read and dropped: what a new file's mode is, is not the client's to say.
            fields.attributes()?;
            Request::Open { path, flags }
        }
        CLOSE => Request::Close { handle: fields.string()? },
        READ => Request::Read { handle: fields.string()?, offset: fields.long()?, length: fields.number()? },
        WRITE => Request::Write { handle: fields.string()?, offset: fields.long()?, data: fields.string()? },
        STAT | LSTAT => Request::Stat { path: fields.string()? },
        FSTAT => Request::Fstat { handle: fields.string()? },
        SETSTAT => Request::Setstat { path: fields.string()?, attributes: fields.attributes()? },
        FSETSTAT => Request::Fsetstat { handle: fields.string()?, attributes: fields.attributes()? },
        OPENDIR => Request::Opendir { path: fields.string()? },
        READDIR => Request::Readdir { handle: fields.string()? },
        REMOVE => Request::Remove { path: fields.string()? },
        MKDIR => {
            let path = fields.string()?;
            fields.attributes()?;
            Request::Mkdir { path }
        }
        RMDIR => Request::Rmdir { path: fields.string()? },
        REALPATH => Request::Realpath { path: fields.string()? },
        RENAME => Request::Rename { from: fields.string()?, to: fields.string()? },
        READLINK | SYMLINK => Request::Link,
        EXTENDED => Request::Extended { name: fields.string()?, payload: std::mem::take(&mut fields.0) },
        other => Request::Unknown(other),
    })
}

/// A reply being written. [`Reply::finish`] puts the length in front.
pub(super) struct Reply(Vec<u8>);

impl Reply {
    fn begin(kind: u8, id: u32, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity + 9);
        bytes.extend_from_slice(&[0; 4]);
        bytes.push(kind);
        bytes.extend_from_slice(&id.to_be_bytes());
        Self(bytes)
    }

    pub(super) fn number(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn long(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn string(&mut self, value: &[u8]) {
        self.number(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
    }

    pub(super) fn attributes(&mut self, attributes: &Attributes) {
        let flag = |present: bool, bit: u32| if present { bit } else { 0 };
        self.number(
            flag(attributes.size.is_some(), 1)
                | flag(attributes.owner.is_some(), 2)
                | flag(attributes.permissions.is_some(), 4)
                | flag(attributes.times.is_some(), 8),
        );
        if let Some(size) = attributes.size {
            self.long(size);
        }
        for (first, second) in attributes.owner.into_iter() {
            self.number(first);
            self.number(second);
        }
        if let Some(permissions) = attributes.permissions {
            self.number(permissions);
        }
        for (accessed, modified) in attributes.times.into_iter() {
            self.number(accessed);
            self.number(modified);
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len().saturating_sub(4)).unwrap_or(u32::MAX);
        if let Some(head) = self.0.first_chunk_mut::<4>() {
            *head = length.to_be_bytes();
        }
        self.0
    }
}

pub(super) fn version(extensions: &[(&str, &str)]) -> Vec<u8> {
    // VERSION has the version where replies have the id.
    let mut reply = Reply::begin(VERSION, 3, 256);
    for (name, data) in extensions {
        reply.string(name.as_bytes());
        reply.string(data.as_bytes());
    }
    reply.finish()
}

pub(super) fn status(id: u32, code: Code, text: &str) -> Vec<u8> {
    let mut reply = Reply::begin(STATUS, id, 16 + text.len());
    reply.number(code as u32);
    reply.string(text.as_bytes());
    reply.string(b"en");
    reply.finish()
}

pub(super) fn handle(id: u32, handle: &[u8]) -> Vec<u8> {
    let mut reply = Reply::begin(HANDLE, id, 4 + handle.len());
    reply.string(handle);
    reply.finish()
}

pub(super) fn attributes(id: u32, attributes: &Attributes) -> Vec<u8> {
    let mut reply = Reply::begin(ATTRS, id, 32);
    reply.attributes(attributes);
    reply.finish()
}

/// Makes the room for `length` bytes of data and lets `read` append at most that many to it.
pub(super) fn data(
    id: u32,
    length: usize,
    read: impl FnOnce(&mut Vec<u8>) -> Result<(), Refusal>,
) -> Result<Vec<u8>, Refusal> {
    let mut reply = Reply::begin(DATA, id, length + 4);
    reply.number(0);
    read(&mut reply.0)?;
    reply.0.truncate(DATA_HEADER + length);
    let taken = u32::try_from(reply.0.len().saturating_sub(DATA_HEADER)).unwrap_or(0);
    if taken == 0 {
        return Err(Refusal::end());
    }
    if let Some(field) = reply.0.get_mut(9..DATA_HEADER) {
        field.copy_from_slice(&taken.to_be_bytes());
    }
    Ok(reply.finish())
}

/// An entry of a directory, or the answer to REALPATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) long_name: Vec<u8>,
    pub(super) attributes: Attributes,
}

pub(super) fn names(id: u32, entries: &[Entry]) -> Vec<u8> {
    let mut reply = Reply::begin(NAME, id, entries.len() * 160);
    reply.number(u32::try_from(entries.len()).unwrap_or(0));
    for entry in entries {
        reply.string(&entry.name);
        reply.string(&entry.long_name);
        reply.attributes(&entry.attributes);
    }
    reply.finish()
}

pub(super) fn extended(id: u32, write: impl FnOnce(&mut Reply)) -> Vec<u8> {
    let mut reply = Reply::begin(EXTENDED_REPLY, id, 96);
    write(&mut reply);
    reply.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(bytes);
        out
    }

    fn packet(kind: u8, id: u32, parts: &[&[u8]]) -> Bytes {
        let mut out = vec![kind];
        out.extend_from_slice(&id.to_be_bytes());
        out.extend(parts.concat());
        Bytes::from(out)
    }

    #[track_caller]
    fn check(packet: Bytes, expected: Result<(u32, Request), Malformed>) {
        let found = parse(packet);
        assert!(found == expected, "{found:?} is not {expected:?}");
        drop(expected);
    }

    #[test]
    fn requests() {
        let path = Bytes::from_static(b"/a\xff");
        check(packet(1, 3, &[]), Ok((0, Request::Init { version: 3 })));
        check(packet(1, 3, &[&string(b"ext"), &string(b"1")]), Ok((0, Request::Init { version: 3 })));
        check(
            packet(OPEN, 7, &[&string(&path), &10u32.to_be_bytes(), &[0; 4]]),
            Ok((7, Request::Open { path: path.clone(), flags: 10 })),
        );
        check(
            packet(WRITE, 8, &[&string(b"h"), &5u64.to_be_bytes(), &string(b"data")]),
            Ok((8, Request::Write { handle: Bytes::from_static(b"h"), offset: 5, data: Bytes::from_static(b"data") })),
        );
        let times = [&8u32.to_be_bytes()[..], &1u32.to_be_bytes(), &2u32.to_be_bytes()].concat();
        check(
            packet(SETSTAT, 9, &[&string(&path), &times]),
            Ok((
                9,
                Request::Setstat {
                    path: path.clone(),
                    attributes: Attributes { times: Some((1, 2)), ..Attributes::default() },
                },
            )),
        );
        check(packet(99, 4, &[]), Ok((4, Request::Unknown(99))));
        check(packet(STAT, 5, &[&string(&path), b"more than it should have"]), Ok((5, Request::Stat { path })));
    }

    #[test]
    fn a_write_is_read_in_place_as_it_would_be_otherwise() {
        let whole = packet(WRITE, 8, &[&string(b"h"), &5u64.to_be_bytes(), &string(b"data"), b"more"]);
        let stream = [string(&whole), b"behind".to_vec()].concat();
        let write = Write { id: 8, handle: b"h", offset: 5, data: b"data" };
        assert_eq!(whole_write(&stream), Some((write, &b"behind"[..])));
        for cut in 0..whole.len() + 4 {
            assert_eq!(whole_write(&stream[..cut]), None, "cut at {cut}");
        }
        let others = [
            packet(READ, 8, &[&string(b"h"), &5u64.to_be_bytes(), &string(b"data")]),
            packet(WRITE, 8, &[&string(b"h"), &5u64.to_be_bytes(), &5u32.to_be_bytes(), b"data"]),
            packet(WRITE, 8, &[&string(b"h"), &5u64.to_be_bytes(), &string(&vec![0; LONGEST_PACKET])]),
            Bytes::new(),
        ];
        for other in others {
            assert_eq!(whole_write(&string(&other)), None);
        }
    }

    #[test]
    fn malformed_requests_keep_their_id() {
        check(Bytes::new(), Err(Malformed { id: None }));
        check(Bytes::from_static(&[READ, 0, 0, 0]), Err(Malformed { id: None }));
        check(packet(READ, 6, &[]), Err(Malformed { id: Some(6) }));
        check(packet(READ, 6, &[&string(b"h"), &[0; 8]]), Err(Malformed { id: Some(6) }));
        check(packet(STAT, 6, &[&u32::MAX.to_be_bytes(), b"x"]), Err(Malformed { id: Some(6) }));
        check(packet(WRITE, 6, &[&string(b"h"), &[0; 8], &100u32.to_be_bytes(), b"x"]), Err(Malformed { id: Some(6) }));
        let endless = [&0x8000_0000u32.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
        check(packet(SETSTAT, 6, &[&string(b"/"), &endless]), Err(Malformed { id: Some(6) }));
        check(packet(EXTENDED, 6, &[]), Err(Malformed { id: Some(6) }));
    }

    #[test]
    fn replies() {
        assert_eq!(status(7, Code::Eof, "x"), b"\0\0\0\x14\x65\0\0\0\x07\0\0\0\x01\0\0\0\x01x\0\0\0\x02en");
        assert_eq!(handle(1, b"02"), b"\0\0\0\x0b\x66\0\0\0\x01\0\0\0\x0202");
        let read = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"abcdef");
            Ok(())
        };
        assert_eq!(data(1, 3, read).unwrap(), b"\0\0\0\x0c\x67\0\0\0\x01\0\0\0\x03abc");
        assert_eq!(data(1, 3, |_| Ok(())), Err(Refusal::end()));
    }
}
