//! COPY into a temporary table: the text form, and errors for callers that know nothing of diesel.

use std::cell::RefCell;
use std::fmt;
use std::io::Write;

use super::StoreError;

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

/// A COPY ended early: the statement failed, or whoever wrote the rows stopped.
#[derive(Debug)]
pub(super) enum CopyFailed<E> {
    Statement(diesel::result::Error),
    Rows(E),
}

impl<E: From<StoreError>> CopyFailed<E> {
    /// The error as the caller of the store knows it.
    pub(super) fn into_caller(self) -> E {
        match self {
            Self::Statement(error) => StoreError::from(error).into(),
            Self::Rows(error) => error,
        }
    }
}

impl<E> From<diesel::result::Error> for CopyFailed<E> {
    fn from(error: diesel::result::Error) -> Self {
        Self::Statement(error)
    }
}

impl<E: fmt::Debug> fmt::Display for CopyFailed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("copy rows into the store")
    }
}

impl<E: fmt::Debug> std::error::Error for CopyFailed<E> {}

/// diesel types the sink as a function that may be called again; it calls it once.
pub(super) fn once<E>(
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> impl Fn(&mut dyn Write) -> Result<(), CopyFailed<E>> {
    let write = RefCell::new(Some(write));
    move |sink| match write.take() {
        Some(write) => write(sink).map_err(CopyFailed::Rows),
        None => Ok(()),
    }
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
