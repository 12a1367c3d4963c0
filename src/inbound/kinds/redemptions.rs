//! Redemption files: one column of codes, header optional (known names only). More columns refuse the file unless a
//! header names the code column.

use super::{code, header};
use crate::plaintext::Record;
use crate::reason::{Finding, Reason};

/// Where the code column is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    code: usize,
    count: usize,
    /// Whether the first row was a header.
    pub header: bool,
}

impl Columns {
    /// Reads the first row.
    ///
    /// # Errors
    /// A finding that refuses the file.
    pub fn from_first(record: &Record<'_>) -> Result<Self, Finding> {
        header::refuse_too_long(record)?;
        header::refuse_other_delimiters(record.line(), record.fields())?;
        match header::find(record.line(), record.fields(), "code", header::names_code)? {
            Some(code) => Ok(Self { code, count: record.len(), header: true }),
            None if record.len() == 1 => Ok(Self { code: 0, count: 1, header: false }),
            None => Err(too_many(record)),
        }
    }

    /// Reads one row: the code, and whether blanks were cut off it.
    ///
    /// # Errors
    /// `Err(Ok(finding))` rejects the row, `Err(Err(finding))` refuses the file: without a header nobody can say which
    /// column is the code.
    pub fn read<'r>(
        &self,
        record: &Record<'r>,
        code_bytes: usize,
    ) -> Result<(&'r str, bool), Result<Finding, Finding>> {
        if record.len() != self.count {
            if !self.header {
                return Err(Err(too_many(record)));
            }
            return Err(Ok(Finding::line(
                Reason::WrongColumnCount,
                record.line(),
                format!("the row has {} columns where {} belong", record.len(), self.count),
            )));
        }
        let written = record.field(self.code).unwrap_or_default();
        let code =
            code::check(written, code_bytes).map_err(|finding| Ok(Finding { line: Some(record.line()), ..finding }))?;
        Ok((code, code.len() != written.len()))
    }
}

fn too_many(record: &Record<'_>) -> Finding {
    Finding::line(
        Reason::UnexpectedColumns,
        record.line(),
        format!(
            "the row has {} columns; send one column of codes, or a header that names the `code` column",
            record.len()
        ),
    )
}
