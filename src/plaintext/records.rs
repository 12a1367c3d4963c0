//! Bytes become records: comma, LF (CRLF is noted), RFC 4180 quotes, UTF-8.
//!
//! Each chunk is looked at once as a whole: is it UTF-8, does it hold a quote, a CR, a comma. Where it has neither quote nor
//! CR, as most have, a row costs the search for its LF; otherwise [`Scan`] finds its end. Neither allocates. Keeps one row
//! and one chunk in memory. A broken quote or an overlong row is a problem of that row alone:
//! reading resumes at the next LF. Bytes that are not UTF-8 and lone CRs refuse the file, but only after the source has
//! been read to its end: whether a damaged message happened to decrypt to valid text must not show in the answer.

use std::str;

use memchr::{memchr, memchr_iter};

use super::buffer::Buffer;
use super::scan::{Found, LineEnd, Scan};
use super::{Chunks, OpenError};
use crate::reason::{Finding, Reason};

/// What the reader noticed about the file as a whole. Complete after the last record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// A UTF-8 byte order mark (or several) was dropped.
    pub bom: bool,
    /// Rows and empty lines that ended in CRLF.
    pub crlf: u64,
    /// Empty lines that were skipped.
    pub empty_lines: u64,
    /// The last row has no LF.
    pub no_final_newline: bool,
    /// There was no byte at all.
    pub zero_bytes: bool,
    /// Bytes of plaintext read.
    pub plaintext_bytes: u64,
}

/// Why no further record can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The text is refused as a whole.
    #[error("read the rows: {0}")]
    Refused(Finding),
}

impl ReadError {
    /// What goes into the report; `None` when the disk failed and the work is to be retried.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        match self {
            Self::Refused(finding) | Self::Open(OpenError::Refused { finding }) => Some(finding),
            Self::Open(OpenError::Io(_)) => None,
        }
    }
}

/// One row. Borrowed from the reader until the next one.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    line: u64,
    raw: &'r str,
    /// The fields one after the other, `gap` bytes between them: the row itself, or its unquoted copy.
    text: &'r str,
    ends: &'r [usize],
    gap: usize,
    problem: Option<Reason>,
}

impl<'r> Record<'r> {
    /// The first line of the row, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The number of fields; none in a row with a problem.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no field, which is so only in a row with a problem.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Field `index` from 0, unquoted, not trimmed.
    #[must_use]
    pub fn field(&self, index: usize) -> Option<&'r str> {
        let end = *self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => self.ends.get(before)? + self.gap,
            None => 0,
        };
        self.text.get(start..end)
    }

    /// Every field, unquoted, not trimmed.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = &'r str> + use<'r> {
        let record = *self;
        (0..record.len()).map(move |index| record.field(index).unwrap_or_default())
    }

    /// The row as it stood, without its line end. Cut at the limit where the row is too long; the first line alone where
    /// a quote is never closed.
    #[must_use]
    pub fn raw(&self) -> &'r str {
        self.raw
    }

    /// Why the row cannot be read: `UnbalancedQuote` or `RowTooLong`.
    #[must_use]
    pub fn problem(&self) -> Option<Reason> {
        self.problem
    }
}

/// Reads records from a source of plaintext.
#[derive(Debug)]
pub struct RecordReader<C> {
    source: C,
    row_bytes: usize,
    buffer: Buffer,
    /// Where the next row starts in `buffer`.
    at: usize,
    started: bool,
    ended: bool,
    /// A row was cut: bytes up to the next LF belong to nobody.
    skipping: bool,
    /// Some chunk held a NUL, so rows are searched for one.
    nul_seen: bool,
    /// Lines before the next row.
    lines: u64,
    scan: Scan,
    text: String,
    ends: Vec<usize>,
    notes: Notes,
}

impl<C: Chunks> RecordReader<C> {
    /// Starts at the beginning of `source`. Rows over `row_bytes` are a problem of that row.
    pub fn new(source: C, row_bytes: usize) -> Self {
        Self {
            source,
            row_bytes,
            buffer: Buffer::default(),
            at: 0,
            started: false,
            ended: false,
            skipping: false,
            nul_seen: false,
            lines: 0,
            scan: Scan::default(),
            text: String::new(),
            ends: Vec::new(),
            notes: Notes::default(),
        }
    }

    /// The next row; `Ok(None)` at the verified end. Empty lines are skipped and counted.
    ///
    /// # Errors
    ///
    /// When the source fails, or the text is refused as a whole. Either way nothing of the file may be applied.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        let Some(row) = self.next_row()? else { return Ok(None) };
        let place = row.start..row.start + row.len;
        let bytes = self.buffer.bytes().get(place.clone()).unwrap_or_default();
        let raw = match self.buffer.text(place).filter(|_| !self.nul_seen) {
            Some(raw) => raw,
            None => match text(bytes, row.problem == Some(Reason::RowTooLong), self.nul_seen) {
                Ok(raw) => raw,
                Err(fault) => return Err(refuse(&mut self.source, fault.finding(bytes, row.line))),
            },
        };
        self.ends.clear();
        let mut record = Record { line: row.line, raw, text: raw, ends: &[], gap: 1, problem: row.problem };
        if row.problem.is_none() {
            if row.quoted {
                unquote(raw, &mut self.text, &mut self.ends);
                record.text = &self.text;
                record.gap = 0;
            } else {
                if self.buffer.commas {
                    self.ends.extend(memchr_iter(b',', bytes));
                }
                self.ends.push(raw.len());
            }
            record.ends = &self.ends;
        }
        Ok(Some(record))
    }

    /// Reads the source to its verified end without looking at rows. Whoever refuses a file for its content calls this
    /// first, and reports the source's error where there is one: a damaged message may have decrypted to anything.
    ///
    /// # Errors
    ///
    /// When the source fails.
    pub fn drain(&mut self) -> Result<(), OpenError> {
        self.buffer = Buffer::default();
        self.at = 0;
        while !self.ended {
            match self.source.next_chunk()? {
                Some(chunk) => self.notes.plaintext_bytes += chunk.len() as u64,
                None => self.ended = true,
            }
        }
        Ok(())
    }

    /// What was noticed so far.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The source, which knows more about the message once its end was reached.
    pub fn source(&self) -> &C {
        &self.source
    }

    /// The source itself.
    pub fn into_source(self) -> C {
        self.source
    }

    /// Finds the next row that is not empty and moves past it.
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        if !self.started {
            self.begin()?;
        }
        loop {
            if self.skipping && !self.skip()? {
                return Ok(None);
            }
            let rest = self.buffer.bytes().get(self.at..).unwrap_or_default();
            if self.buffer.plain
                && let Some(len) = memchr(b'\n', rest).filter(|len| *len <= self.row_bytes)
            {
                match self.take_row(len, LineEnd::Lf, None) {
                    Some(row) => return Ok(Some(row)),
                    None => continue,
                }
            }
            if rest.is_empty() && self.ended {
                return Ok(None);
            }
            match self.scan.step(rest, self.row_bytes, self.ended) {
                Found::More => self.refill()?,
                Found::LoneCr(at) => {
                    let finding = Fault::LoneCr { at }.finding(rest, self.lines + 1);
                    return Err(refuse(&mut self.source, finding));
                }
                Found::Row { len, end, problem } => {
                    if let Some(row) = self.take_row(len, end, problem) {
                        return Ok(Some(row));
                    }
                }
            }
        }
    }

    /// Moves past a row of `len` bytes and its line end; `None` for an empty line.
    fn take_row(&mut self, len: usize, end: LineEnd, problem: Option<Reason>) -> Option<Row> {
        let quoted = self.scan.quotes;
        self.scan = Scan::default();
        let row = Row { start: self.at, len, line: self.lines + 1, quoted, problem };
        if quoted {
            let inside = self.buffer.bytes().get(row.start..row.start + len).unwrap_or_default();
            self.lines += memchr_iter(b'\n', inside).count() as u64;
        }
        self.at += len + end.width();
        match end {
            LineEnd::Lf => self.lines += 1,
            LineEnd::CrLf => {
                self.lines += 1;
                self.notes.crlf += 1;
            }
            LineEnd::Cut => self.skipping = true,
            LineEnd::Input => {
                self.lines += 1;
                self.notes.no_final_newline = true;
            }
        }
        if len == 0 {
            self.notes.empty_lines += 1;
            return None;
        }
        Some(row)
    }

    /// Drops the rest of a row that was cut; `false` at the end of the input.
    fn skip(&mut self) -> Result<bool, ReadError> {
        loop {
            let rest = self.buffer.bytes().get(self.at..).unwrap_or_default();
            if let Some(lf) = memchr(b'\n', rest) {
                self.at += lf + 1;
                self.lines += 1;
                self.skipping = false;
                return Ok(true);
            }
            self.at = self.buffer.bytes().len();
            if self.ended {
                self.notes.no_final_newline = true;
                return Ok(false);
            }
            self.refill()?;
        }
    }

    /// Looks at the first bytes: drops a byte order mark, refuses UTF-16.
    fn begin(&mut self) -> Result<(), ReadError> {
        while self.buffer.bytes().len() < 3 && !self.ended {
            self.refill()?;
        }
        self.started = true;
        self.notes.zero_bytes = self.buffer.bytes().is_empty();
        // More than one, where each program that touched the file put its own in front: a header must not hide behind it.
        while let Some([0xef, 0xbb, 0xbf]) = self.buffer.bytes().get(self.at..self.at + 3) {
            self.notes.bom = true;
            self.at += 3;
            while self.buffer.bytes().len() < self.at + 3 && !self.ended {
                self.refill()?;
            }
        }
        match self.buffer.bytes().get(self.at..).unwrap_or_default() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
                let message = "the text is UTF-16; save the file as UTF-8 and send it again";
                Err(refuse(&mut self.source, Finding::line(Reason::NotUtf8, 1, message).at_column(1)))
            }
            _ => Ok(()),
        }
    }

    /// Puts one more chunk behind what is not yet used.
    fn refill(&mut self) -> Result<(), ReadError> {
        let chunk = self.source.next_chunk()?;
        self.ended = chunk.is_none();
        if let Some(chunk) = &chunk {
            self.notes.plaintext_bytes += chunk.len() as u64;
            self.nul_seen = self.nul_seen || memchr(0, chunk).is_some();
        }
        self.buffer.refill(self.at, chunk);
        self.at = 0;
        Ok(())
    }
}

/// Where a row stands in the buffer.
struct Row {
    start: usize,
    len: usize,
    line: u64,
    quoted: bool,
    problem: Option<Reason>,
}

/// What refuses the text as a whole, with its offset in the row.
enum Fault {
    NotUtf8 { at: usize },
    Nul { at: usize },
    LoneCr { at: usize },
}

impl Fault {
    fn finding(&self, row: &[u8], first_line: u64) -> Finding {
        let (at, reason, message) = match self {
            Self::NotUtf8 { at } => {
                (*at, Reason::NotUtf8, "a byte that is not UTF-8; save the file as UTF-8 and send it again")
            }
            Self::Nul { at } => (*at, Reason::NotUtf8, "a NUL byte: UTF-16, or not text; save the file as UTF-8"),
            Self::LoneCr { at } => (*at, Reason::BadRowDelimiter, "a lone carriage return (CR); end every row with LF"),
        };
        let before = row.get(..at).unwrap_or_default();
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |lf| lf + 1);
        let column = String::from_utf8_lossy(before.get(line_start..).unwrap_or_default()).chars().count() as u64 + 1;
        let line = first_line + memchr_iter(b'\n', before).count() as u64;
        Finding::line(reason, line, message).at_column(column)
    }
}

/// The row as text. Where it was cut, half a character at its end is cut off too.
fn text(bytes: &[u8], cut: bool, nul_seen: bool) -> Result<&str, Fault> {
    // Text with a NUL is valid UTF-8, but the store cannot keep one.
    if nul_seen && let Some(at) = memchr(0, bytes) {
        return Err(Fault::Nul { at });
    }
    str::from_utf8(bytes).or_else(|error| {
        let valid = bytes.get(..error.valid_up_to()).and_then(|valid| str::from_utf8(valid).ok());
        match valid {
            Some(valid) if cut && error.error_len().is_none() => Ok(valid),
            _ => Err(Fault::NotUtf8 { at: error.valid_up_to() }),
        }
    })
}

/// Copies the fields of a row with well-placed quotes into `text`, one behind the other, and their ends into `ends`.
fn unquote(raw: &str, text: &mut String, ends: &mut Vec<usize>) {
    text.clear();
    let mut rest = raw;
    loop {
        let after = match rest.strip_prefix('"') {
            Some(mut quoted) => loop {
                let (piece, behind) = quoted.split_once('"').unwrap_or((quoted, ""));
                text.push_str(piece);
                match behind.strip_prefix('"') {
                    Some(more) => {
                        text.push('"');
                        quoted = more;
                    }
                    None => break behind.strip_prefix(','),
                }
            },
            None => {
                let (field, after) = rest.split_once(',').map_or((rest, None), |(field, after)| (field, Some(after)));
                text.push_str(field);
                after
            }
        };
        ends.push(text.len());
        match after {
            Some(after) => rest = after,
            None => return,
        }
    }
}

/// The refusal of the text, unless the source turns out not to verify: then that is the answer.
fn refuse(source: &mut impl Chunks, finding: Finding) -> ReadError {
    loop {
        match source.next_chunk() {
            Ok(Some(_)) => {}
            Ok(None) => return ReadError::Refused(finding),
            Err(error) => return ReadError::Open(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Chunks as given, then the verified end or a damaged message.
    struct Given(VecDeque<Vec<u8>>, bool);

    impl Chunks for Given {
        fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, OpenError> {
            match self.0.pop_front() {
                Some(chunk) => Ok(Some(chunk)),
                None if self.1 => Err(Finding::file(Reason::OpenpgpDamaged, "damaged").into()),
                None => Ok(None),
            }
        }
    }

    type Row = (u64, Vec<String>, Option<Reason>, String);
    type Read = (Vec<Row>, Result<Notes, Finding>);

    fn read(chunks: Vec<Vec<u8>>, row_bytes: usize, damaged: bool) -> Read {
        let mut reader = RecordReader::new(Given(chunks.into(), damaged), row_bytes);
        let mut rows = Vec::new();
        loop {
            match reader.next_record() {
                Ok(Some(record)) => {
                    assert_eq!(record.fields().len(), record.len());
                    let fields = record.fields().map(str::to_owned).collect();
                    rows.push((record.line(), fields, record.problem(), record.raw().to_owned()));
                }
                Ok(None) => break,
                Err(error) => return (rows, Err(error.finding().unwrap().clone())),
            }
        }
        (rows, Ok(reader.notes().clone()))
    }

    /// The same whatever the chunks: whole, cut once at every place, and byte by byte.
    #[track_caller]
    fn read_every_way(input: &[u8], row_bytes: usize) -> Read {
        let whole = read(vec![input.to_vec()], row_bytes, false);
        for cut in 0..=input.len() {
            let (left, right) = input.split_at(cut);
            assert_eq!(read(vec![left.to_vec(), right.to_vec()], row_bytes, false), whole, "cut at {cut}");
        }
        assert_eq!(read(input.chunks(1).map(<[u8]>::to_vec).collect(), row_bytes, false), whole, "byte by byte");
        whole
    }

    /// A row as `line:field|field`, one with a problem as `line!REASON raw`.
    #[track_caller]
    fn check(input: impl AsRef<[u8]>, expected: &[&str]) {
        check_within(input, 20, expected);
    }

    #[track_caller]
    fn check_within(input: impl AsRef<[u8]>, row_bytes: usize, expected: &[&str]) {
        let (rows, end) = read_every_way(input.as_ref(), row_bytes);
        let mut shown: Vec<_> = rows
            .iter()
            .map(|(line, fields, problem, raw)| match problem {
                Some(problem) => format!("{line}!{problem} {raw}"),
                None => format!("{line}:{}", fields.join("|")),
            })
            .collect();
        if let Err(finding) = end {
            let (line, column) = (finding.line.unwrap(), finding.column.unwrap());
            shown.push(format!("{} at {line}:{column}", finding.reason));
        }
        assert_eq!(shown, expected);
    }

    #[track_caller]
    fn check_notes(input: &[u8], expected: &Notes) {
        assert_eq!(&read_every_way(input, 20).1.unwrap(), expected);
    }

    #[test]
    fn rows_and_fields() {
        check("", &[]);
        check("a", &["1:a"]);
        check("a\nb\n", &["1:a", "2:b"]);
        check("a,b\r\nc,d\r\n", &["1:a|b", "2:c|d"]);
        check(",\n,,\n", &["1:|", "2:||"]);
        check(" a ,\tb\n", &["1: a |\tb"]);
        check("\n\na\n\r\n\nb\n\n", &["3:a", "6:b"]);
        check("é,ß\n", &["1:é|ß"]);
    }

    #[test]
    fn quotes() {
        check("\"a,b\",c\n", &["1:a,b|c"]);
        check("\"a\"\"b\"\n", &["1:a\"b"]);
        check("\"\"\n\"\",\"\"", &["1:", "2:|"]);
        check("\"a\nb\",c\nd\n", &["1:a\nb|c", "3:d"]);
        check("\"a\r\nb\"\r\nd\r\n", &["1:a\r\nb", "3:d"]);
        check("\"a\rb\"\nd\n", &["1:a\rb", "2:d"]);
        check("a\"b,c\nd", &["1:a\"b|c", "2:d"]);
        check("a,\"b\"", &["1:a|b"]);
        check("\"\"\"\"\n", &["1:\""]);
        check("a,\"\",b\n", &["1:a||b"]);
    }

    #[test]
    fn a_quote_out_of_place_costs_its_own_row_only() {
        check("\"a\nb\nc\n", &["1!UNBALANCED_QUOTE \"a", "2:b", "3:c"]);
        check("\"a\r\nb\r\n", &["1!UNBALANCED_QUOTE \"a", "2:b"]);
        check("a\n\"b", &["1:a", "2!UNBALANCED_QUOTE \"b"]);
        check("\"", &["1!UNBALANCED_QUOTE \""]);
        check("\"a\nb\n\"c\"\n", &["1!UNBALANCED_QUOTE \"a", "2:b", "3:c"]);
        check("\"a\"b\nc\n", &["1!UNBALANCED_QUOTE \"a\"b", "2:c"]);
        check("x,\"y\nb,\"c\"\n", &["1!UNBALANCED_QUOTE x,\"y", "2:b|c"]);
        let far = "\"a\nbbbbbbbb\ncccccccc\ndddddddd\n";
        check(far, &["1!UNBALANCED_QUOTE \"a", "2:bbbbbbbb", "3:cccccccc", "4:dddddddd"]);
        check("\"a\n\"b\n\"c\n", &["1!UNBALANCED_QUOTE \"a", "2!UNBALANCED_QUOTE \"b", "3!UNBALANCED_QUOTE \"c"]);
    }

    #[test]
    fn long_rows() {
        check_within("abcd\nabcde\nx", 4, &["1:abcd", "2!ROW_TOO_LONG abcd", "3:x"]);
        check_within("abcd\r\nabcde\r\nx", 4, &["1:abcd", "2!ROW_TOO_LONG abcd", "3:x"]);
        check_within("abcdefghijkl", 4, &["1!ROW_TOO_LONG abcd"]);
        check_within("abcd", 4, &["1:abcd"]);
        check_within("abcdé\nx\n", 5, &["1!ROW_TOO_LONG abcd", "2:x"]);
        check_within("\"abcdefgh\nx\n", 4, &["1!ROW_TOO_LONG \"abc", "2:x"]);
        check_within("\"a\n\",bcdef\nx\n", 6, &["1!ROW_TOO_LONG \"a\n\",b", "3:x"]);
        check_within("abcdefgh\n\n\nx\n", 4, &["1!ROW_TOO_LONG abcd", "4:x"]);
    }

    #[test]
    fn refused_files() {
        check("a\rb\rc\r", &["BAD_ROW_DELIMITER at 1:2"]);
        check("a\nbc\r", &["1:a", "BAD_ROW_DELIMITER at 2:3"]);
        check("a\r\r\n", &["BAD_ROW_DELIMITER at 1:2"]);
        check("\"a\"\rb\n", &["BAD_ROW_DELIMITER at 1:4"]);
        check(b"a\nb,\xe9\n", &["1:a", "NOT_UTF8 at 2:3"]);
        check(b"\"\xc3\xa9\n\xc3\xa9\xe9\"\n", &["NOT_UTF8 at 2:2"]);
        check(b"a\n\xc3", &["1:a", "NOT_UTF8 at 2:1"]);
        check(b"\xff\xfea\0b\0", &["NOT_UTF8 at 1:1"]);
        check(b"\xfe\xff\0a\0b", &["NOT_UTF8 at 1:1"]);
        check(b"a\0b\0\n\0", &["NOT_UTF8 at 1:1"]);
        check(b"abc\nd\0\n", &["1:abc", "NOT_UTF8 at 2:2"]);
    }

    #[test]
    fn notes() {
        let none = Notes::default();
        check_notes(b"", &Notes { zero_bytes: true, ..none.clone() });
        check_notes(b"\xef\xbb\xbf", &Notes { bom: true, plaintext_bytes: 3, ..none.clone() });
        check_notes(b"\xef\xbb\xbfa\n", &Notes { bom: true, plaintext_bytes: 5, ..none.clone() });
        check_notes(b"\xef\xbb\xbf\xef\xbb\xbfa\n", &Notes { bom: true, plaintext_bytes: 8, ..none.clone() });
        check_notes(b"a", &Notes { no_final_newline: true, plaintext_bytes: 1, ..none.clone() });
        check_notes(b"a\r\n\r\n\n", &Notes { crlf: 2, empty_lines: 2, plaintext_bytes: 6, ..none.clone() });
        check_notes(&[b'a'; 30], &Notes { no_final_newline: true, plaintext_bytes: 30, ..none });
    }

    #[test]
    fn a_damaged_message_is_the_answer_whatever_it_decrypted_to() {
        for input in [&b"a\rb\n"[..], b"a\xe9\n", b"\xff\xfea\0", b"a\n"] {
            let (_, end) = read(vec![input.to_vec()], 20, true);
            assert_eq!(end.unwrap_err().reason, Reason::OpenpgpDamaged);
        }
    }

    #[test]
    fn a_sample_with_everything_in_it_reads_the_same_in_any_pieces() {
        let sample = b"\xef\xbb\xbfcode,\"bank,name\"\r\n\r\nA\"B,\"x\"\"y\nz\"\n\n\"open,1\nlong-long-long-long-long-long\n\"\",\xc3\xa9\nend";
        let whole = read_every_way(sample, 20);
        assert_eq!(whole.0.len(), 6);
        for size in 1..sample.len() {
            let chunks = sample.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(read(chunks, 20, false), whole, "chunks of {size}");
        }
    }

    /// A small generator with a fixed seed: the same rows in every run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    #[test]
    fn well_formed_rows_read_as_the_csv_crate_reads_them() {
        const PIECES: [&str; 9] = ["a", "B7", " ", "\"", ",", "\n", "\r\n", "é", ""];
        let mut dice = Dice(7);
        for round in 0..300 {
            let crlf = round % 2 == 0;
            let terminator = if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
            let mut writer = csv::WriterBuilder::new().terminator(terminator).flexible(true).from_writer(Vec::new());
            for _ in 0..dice.roll(8) {
                let fields = (0..=dice.roll(4)).map(|_| {
                    (0..dice.roll(5)).map(|_| PIECES[usize::try_from(dice.roll(9)).unwrap()]).collect::<String>()
                });
                writer.write_record(fields.collect::<Vec<_>>()).unwrap();
            }
            let input = writer.into_inner().unwrap();
            let theirs = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input.as_slice());
            let theirs: Vec<Vec<String>> =
                theirs.into_records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
            let size = usize::try_from(1 + dice.roll(9)).unwrap();
            let (ours, end) = read(input.chunks(size).map(<[u8]>::to_vec).collect(), 1000, false);
            end.unwrap();
            assert!(ours.iter().all(|row| row.2.is_none()));
            assert_eq!(ours.into_iter().map(|row| row.1).collect::<Vec<_>>(), theirs, "{input:?}");
        }
    }
}
