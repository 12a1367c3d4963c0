//! COPY: its forms, and errors for callers that know nothing of diesel.

use std::cell::RefCell;
use std::io::Write;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use super::StoreError;
use crate::sorter::run::{Run, RunRow};

/// Appends `value` as one column of COPY's text form.
pub(super) fn escape(value: &[u8], buffer: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'\\' => buffer.extend_from_slice(b"\\\\"),
            b'\n' => buffer.extend_from_slice(b"\\n"),
            b'\r' => buffer.extend_from_slice(b"\\r"),
            b'\t' => buffer.extend_from_slice(b"\\t"),
            _ => buffer.push(byte),
        }
    }
}

/// Appends one row of a line number and a text, in the form that COPY takes.
///
/// # Errors
/// None in practice: the buffer is memory.
pub fn write_row(line: u64, text: &str, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    write!(buffer, "{line}\t")?;
    escape(text.as_bytes(), buffer);
    buffer.push(b'\n');
    Ok(())
}

/// What COPY's binary form begins with: signature, flags, and no extension.
pub(super) const BINARY_HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub(super) const BINARY_END: [u8; 2] = (-1_i16).to_be_bytes();

/// Bytes that are handed to a COPY at once: every hand-over is a call into libpq.
pub(super) const GATHERED: usize = 64 * 1024;

/// Hands rows to a COPY; `next` appends one, or says that there are no more.
pub(super) fn gather(
    sink: &mut dyn Write,
    mut next: impl FnMut(&mut Vec<u8>) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let mut gathered = Vec::with_capacity(GATHERED + 1024);
    while next(&mut gathered)? {
        if gathered.len() >= GATHERED {
            sink.write_all(&gathered).map_err(|error| lost(&error))?;
            gathered.clear();
        }
    }
    sink.write_all(&gathered).map_err(|error| lost(&error))
}

/// Hands the rows of a run to a COPY, as they lie; `form` appends one in the form that it takes.
///
/// # Errors
/// What `form` says, or that the connection is lost.
pub(super) fn write_run(
    run: &Run,
    sink: &mut dyn Write,
    mut form: impl FnMut(RunRow<'_>, &mut Vec<u8>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut rows = run.rows();
    gather(sink, |text| rows.next().map_or(Ok(false), |row| form(row, text).map(|()| true)))
}

/// The sink of a COPY is the connection.
pub(super) fn lost(error: &std::io::Error) -> StoreError {
    let information = Box::new(error.to_string());
    StoreError::Statement(DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection, information))
}

/// Whoever writes the rows of a COPY, and why it stopped.
///
/// diesel 2.3.14 gives back the server's "COPY from stdin failed" in place of the writer's own error, so that one is kept
/// here. And it types the sink as a function that may be called again; it calls it once.
pub(super) struct Rows<W, E> {
    write: RefCell<Option<W>>,
    stopped: RefCell<Option<E>>,
}

impl<W, E> Rows<W, E>
where
    W: FnOnce(&mut dyn Write) -> Result<(), E>,
    E: From<StoreError>,
{
    pub(super) fn new(write: W) -> Self {
        Self { write: RefCell::new(Some(write)), stopped: RefCell::new(None) }
    }

    /// Hands the sink to the writer.
    pub(super) fn feed(&self, sink: &mut dyn Write) -> Result<(), CopyError> {
        match self.write.take().map(|write| write(sink)) {
            Some(Err(error)) => {
                self.stopped.replace(Some(error));
                Err(CopyError::Stopped)
            }
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// How the COPY ended.
    pub(super) fn end(self, executed: Result<usize, CopyError>) -> Result<(), E> {
        match (self.stopped.into_inner(), executed) {
            (Some(error), _) => Err(error),
            (None, Err(CopyError::Statement(error))) => Err(StoreError::from(error).into()),
            (None, _) => Ok(()),
        }
    }
}

/// A COPY ended early: the statement failed, or the writer stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("copy rows into the store")]
    Statement(#[from] diesel::result::Error),
    #[error("the rows ended early")]
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, escaped: &str) {
        let mut buffer = Vec::new();
        escape(value.as_bytes(), &mut buffer);
        assert_eq!(buffer, escaped.as_bytes());
    }

    #[test]
    fn escapes() {
        check("PLAIN-1", "PLAIN-1");
        check("a\\b", "a\\\\b");
        check("a\tb\nc\rd", "a\\tb\\nc\\rd");
        check("\\N", "\\\\N");
        check("\\.", "\\\\.");
    }
}
