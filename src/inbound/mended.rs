//! A rejects file, mended and dropped again as it is: `line,reason,message,value`, where `value` is a row as it stood.
//!
//! Its name still says which upload it is of, and that upload's report says what the columns were: the values become a
//! file of that form again. Everything else about it (kind, place, limits) is as with any other file.

use super::error::InboundError;
use crate::plaintext::{Chunks, OpenError, Plaintext, RecordReader, Summary};
use crate::reason::{Finding, Reason};

/// The header of every rejects file.
const HEADER: &[u8] = b"line,reason,message,value";
/// More than a rejects file of ours ever has.
const BYTES_MOST: usize = 256 << 20;

/// Where the rows of an upload come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The file; its first chunk was looked at already.
    File { first: Option<Vec<u8>>, plaintext: Plaintext },
    /// The values of a rejects file, read to its verified end.
    Mended { text: Option<Vec<u8>>, summary: Option<Summary> },
}

impl Source {
    /// What is known of the file once its end was reached.
    pub(super) fn summary(&self) -> Option<&Summary> {
        match self {
            Self::File { plaintext, .. } => plaintext.summary(),
            Self::Mended { summary, .. } => summary.as_ref(),
        }
    }
}

impl Chunks for Source {
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, OpenError> {
        match self {
            Self::File { first, plaintext } => match first.take() {
                Some(chunk) => Ok(Some(chunk)),
                None => plaintext.next_chunk(),
            },
            Self::Mended { text, .. } => Ok(text.take()),
        }
    }
}

/// Looks at the beginning of `plaintext`. `columns` gives the header of the upload that a rejects file is of: `None` when
/// that is not known, an empty one when the file had no header.
pub(super) fn source(
    mut plaintext: Plaintext,
    row_bytes: usize,
    columns: impl FnOnce() -> Result<Option<Vec<String>>, InboundError>,
) -> Result<Source, InboundError> {
    let first = plaintext.next_chunk()?;
    let begins = first.as_deref().map(without_marks);
    if !begins.is_some_and(|text| text.get(..HEADER.len()).is_some_and(|text| text.eq_ignore_ascii_case(HEADER))) {
        return Ok(Source::File { first, plaintext });
    }
    let mut rows = RecordReader::new(Source::File { first, plaintext }, row_bytes.saturating_mul(2));
    let mut values = Vec::new();
    let mut refused = None;
    let mut header = true;
    while let Some(record) = rows.next_record()? {
        if std::mem::take(&mut header) {
            continue;
        }
        match record.field(3) {
            Some(value) if values.len() < BYTES_MOST => {
                values.extend_from_slice(value.as_bytes());
                values.push(b'\n');
            }
            // Read on to the verified end all the same: what a damaged message decrypts to must not show.
            _ => refused = refused.or(Some(broken(record.line()))),
        }
    }
    if let Some(finding) = refused {
        return Err(InboundError::Reject(finding));
    }
    let Some(columns) = columns()? else { return Err(InboundError::Reject(unknown())) };
    let mut text = csv::Writer::from_writer(Vec::new());
    if !columns.is_empty() {
        text.write_record(&columns).map_err(std::io::Error::from)?;
    }
    let mut text = text.into_inner().map_err(|error| std::io::Error::other(error.to_string()))?;
    text.extend_from_slice(&values);
    Ok(Source::Mended { text: Some(text), summary: rows.source().summary().cloned() })
}

/// The text behind its byte order marks.
fn without_marks(mut text: &[u8]) -> &[u8] {
    while let Some(rest) = text.strip_prefix(b"\xef\xbb\xbf") {
        text = rest;
    }
    text
}

fn broken(line: u64) -> Finding {
    let message = "a rejects file has four columns: line, reason, message, value; mend the value and leave the rest";
    Finding::line(Reason::WrongColumnCount, line, message)
}

fn unknown() -> Finding {
    Finding::file(
        Reason::MissingColumn,
        "this is a rejects file, but its name does not say of which upload; keep the name as it was collected \
         (<name>.<upload id>.rejects.csv), or send the rows as a file of their own",
    )
}
