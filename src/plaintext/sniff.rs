//! What a file is, by its first bytes. Its name is not asked.

use memchr::memmem;

/// How many of the first bytes are looked at.
pub(super) const HEAD_BYTES: usize = 4096;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Text, or nothing at all. UTF-16 counts as text: the reader of records names it.
    Text,
    /// A gzip member.
    Gzip,
    /// A binary OpenPGP message.
    OpenpgpBinary,
    /// An armored OpenPGP message that starts at this offset.
    OpenpgpArmored(usize),
    /// OpenPGP, but no message that carries a file.
    OpenpgpOther(&'static str),
    /// Neither text nor a form that is opened.
    Other(&'static str),
}

/// Judges `head`, the first [`HEAD_BYTES`] or the whole of a shorter file.
pub(super) fn sniff(head: &[u8]) -> Form {
    const MAGIC: [(&[u8], &str); 9] = [
        (b"PK\x03\x04", "a ZIP archive or an Office workbook"),
        (b"\xd0\xcf\x11\xe0", "an Office workbook"),
        (b"BZh", "a bzip2 file"),
        (b"\xfd7zXZ\0", "an xz file"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"%PDF-", "a PDF document"),
        (b"\x89PNG", "an image"),
        (b"\x7fELF", "a program"),
    ];
    if head.starts_with(&[0x1f, 0x8b, 8]) {
        return Form::Gzip;
    }
    // Read as a code, `BZh9` is possible; as the start of a bzip2 file it has a digit and pi behind it.
    let bzip2 = head.get(4..10) == Some(&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59]);
    let magic = MAGIC.iter().find(|(magic, _)| head.starts_with(magic) && (*magic != b"BZh" || bzip2));
    if let Some((_, what)) = magic {
        return Form::Other(what);
    }
    if let Some(form) = binary(head).or_else(|| armored(head)) {
        return form;
    }
    let utf16 = match head {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [first, second, ..] => (*first == 0) != (*second == 0),
        _ => false,
    };
    let controls = head.iter().filter(|byte| is_control(**byte)).count();
    if !utf16 && (head.contains(&0) || controls * 10 > head.len()) { Form::Other("binary data") } else { Form::Text }
}

/// Whether `byte` is a control character that text does not have.
fn is_control(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b)
}

/// The first packet of a binary OpenPGP file. Its version octet is a control character, which tells it from text that
/// starts with a byte above 0x7f; where a packet has none, the bytes behind it must look like ciphertext.
fn binary(head: &[u8]) -> Option<Form> {
    let (tag, body) = first_packet(head)?;
    let dense = || {
        let some = head.get(..512).unwrap_or(head);
        let odd = some.iter().filter(|byte| is_control(**byte) || **byte >= 0x7f).count();
        odd * 5 > some.len()
    };
    let version = *body.first()?;
    match (tag, version) {
        (1, 2 | 3 | 6) | (3, 4..=6) | (18, 1 | 2) | (20, 1) => Some(Form::OpenpgpBinary),
        (4, 3 | 6) | (8, 0..=3) => Some(Form::OpenpgpBinary),
        (9 | 11 | 21, _) if dense() => Some(Form::OpenpgpBinary),
        (10, b'P') if body.starts_with(b"PGP") => Some(Form::OpenpgpBinary),
        (2, 2..=6) => Some(Form::OpenpgpOther("a detached signature")),
        (5..=7 | 14, 2..=6) => Some(Form::OpenpgpOther("a key")),
        _ => None,
    }
}

/// Tag and body of the first packet.
fn first_packet(head: &[u8]) -> Option<(u8, &[u8])> {
    let (first, rest) = head.split_first()?;
    if first & 0x80 == 0 {
        return None;
    }
    let (tag, skip) = if first & 0x40 == 0 {
        ((first >> 2) & 0x0f, [1, 2, 4, 0].get(usize::from(first & 3)).copied()?)
    } else {
        let skip = match rest.first()? {
            192..=223 => 2,
            255 => 5,
            _ => 1,
        };
        (first & 0x3f, skip)
    };
    Some((tag, rest.get(skip..)?))
}

/// The first armor header line. A byte order mark, a mail's text or empty lines may stand before it.
fn armored(head: &[u8]) -> Option<Form> {
    const BEGIN: &[u8] = b"-----BEGIN PGP ";
    memmem::find_iter(head, BEGIN).find_map(|at| {
        let before = head.get(..at)?;
        let line_start = matches!(before, [] | [0xef, 0xbb, 0xbf]) || before.ends_with(b"\n");
        let what = head.get(at + BEGIN.len()..)?;
        let kind = what.get(..memmem::find(what, b"-----")?)?;
        let form = match kind {
            b"MESSAGE" => Form::OpenpgpArmored(at),
            b"SIGNATURE" => Form::OpenpgpOther("a detached signature"),
            b"SIGNED MESSAGE" => Form::OpenpgpOther("a text with a clear signature"),
            _ if kind.ends_with(b"KEY BLOCK") => Form::OpenpgpOther("a key"),
            _ => return None,
        };
        line_start.then_some(form)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: impl AsRef<[u8]>, expected: Form) {
        assert_eq!(sniff(head.as_ref()), expected, "{:?}", String::from_utf8_lossy(head.as_ref()));
    }

    #[test]
    fn forms() {
        check("", Form::Text);
        check("code\nA\n", Form::Text);
        check("BZh91\nBZh92\nBZh93\n", Form::Text);
        check("\u{feff}code\n", Form::Text);
        check(b"\xff\xfec\0o\0", Form::Text);
        check(b"c\0o\0d\0e\0", Form::Text);
        check(b"\0c\0o\0d\0e", Form::Text);
        check(b"\x1f\x8b\x08\0", Form::Gzip);
        check(b"PK\x03\x04....", Form::Other("a ZIP archive or an Office workbook"));
        check(b"abc\0def", Form::Other("binary data"));
        check(b"\x85\x01\x0c\x03abcdefgh", Form::OpenpgpBinary);
        check(b"\xc1\x5e\x03abcdefgh", Form::OpenpgpBinary);
        check(b"\xd2\xff\0\0\x10\0\x01abcdefgh", Form::OpenpgpBinary);
        check(b"\xa3\x02x\x9c", Form::OpenpgpBinary);
        check(b"\x99\x01\x0d\x04abc", Form::OpenpgpOther("a key"));
        check("-----BEGIN PGP MESSAGE-----\n", Form::OpenpgpArmored(0));
        check("\u{feff}-----BEGIN PGP MESSAGE-----\n", Form::OpenpgpArmored(3));
        check("hello\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n", Form::OpenpgpArmored(9));
        check("A,-----BEGIN PGP MESSAGE-----\n", Form::Text);
        check("-----BEGIN PGP PUBLIC KEY BLOCK-----\n", Form::OpenpgpOther("a key"));
        check("-----BEGIN PGP SIGNED MESSAGE-----\n", Form::OpenpgpOther("a text with a clear signature"));
    }

    #[test]
    fn text_that_starts_with_any_high_byte_is_text() {
        for first in 0x80..=0xff_u8 {
            check([&[first], "name,code\nMüller,A1\n".as_bytes()].concat(), Form::Text);
            check([&[first, 0xe9], &b"bname,code\nM\xfcller,A1\n"[..]].concat(), Form::Text);
        }
    }
}
