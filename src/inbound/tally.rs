//! What was found while the rows of one upload were read: counts, warnings, rejected rows.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use crate::config::RejectLimit;
use crate::plaintext::{Notes, Record};
use crate::reason::{Finding, Reason};
use crate::spool::RejectsWriter;

/// Rows of one upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// Data rows: without header and empty lines.
    pub read: u64,
    /// Rows that had an effect (or would, in a check).
    pub accepted: u64,
    /// Rows with an error.
    pub rejected: u64,
    /// Rows whose code was there before.
    pub duplicate: u64,
    /// Redeemed codes that no bank holds.
    pub unknown: u64,
}

/// One kind of warning, with how often it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Its stable code.
    pub reason: &'static str,
    /// What it means here.
    pub message: String,
    /// The first line it was found in, where it is about lines.
    pub line: Option<u64>,
    /// How often.
    pub count: u64,
}

/// A rejected row as the report names it; never its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectedRow {
    /// Where it begins.
    pub line: Option<u64>,
    /// The stable code.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
}

/// What was counted, for the report.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Rows.
    pub rows: RowCounts,
    /// Warnings by reason.
    pub warnings: Vec<Warning>,
    /// The first rejected rows.
    pub first_rejects: Vec<RejectedRow>,
    /// The header as it stood; empty: there was none; `None`: no row was read.
    pub columns: Option<Vec<String>>,
}

/// Counts while rows are read.
#[derive(Debug)]
pub struct Tally {
    /// Rows so far.
    pub rows: RowCounts,
    warnings: BTreeMap<Reason, Warning>,
    /// At most [`FIRST`].
    first_rejects: Vec<Finding>,
    /// The header as it stood; empty: there was none; `None`: no row was read.
    columns: Option<Vec<String>>,
    rejects: RejectsWriter,
    listed: u64,
    limit: RejectLimit,
}

/// How many rejected rows a report names itself, so that a mail about it can.
const FIRST: usize = 10;
/// How many duplicates and unknown codes a rejects file lists.
pub const LISTED_MOST: i64 = 100_000;

impl Tally {
    /// Starts counting; rejected rows go to `rejects`.
    #[must_use]
    pub fn new(rejects: RejectsWriter, limit: RejectLimit) -> Self {
        Self {
            rows: RowCounts::default(),
            warnings: BTreeMap::new(),
            first_rejects: Vec::new(),
            columns: None,
            rejects,
            listed: 0,
            limit,
        }
    }

    /// Rejects one row.
    ///
    /// # Errors
    /// The file system's error while listing it, or the finding that refuses the file because there are too many.
    pub fn reject(&mut self, finding: Finding, value: &str) -> Result<(), TallyError> {
        self.rows.rejected += 1;
        self.rejects.write(&finding, value)?;
        if self.first_rejects.len() < FIRST {
            self.first_rejects.push(finding);
        }
        if self.rows.rejected > self.limit.rows {
            return Err(self.too_many());
        }
        Ok(())
    }

    /// Lists a row that was accepted, or skipped for no fault of its own.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn list(&mut self, finding: &Finding, value: &str) -> io::Result<()> {
        self.listed += 1;
        self.rejects.write(finding, value)
    }

    /// How many rows were listed that are not rejected.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.listed
    }

    /// Notes the first row: a header, or already data.
    pub fn begin(&mut self, first: &Record<'_>, header: bool) {
        self.columns = Some(if header { first.fields().map(ToOwned::to_owned).collect() } else { Vec::new() });
    }

    /// Adds `count` findings of the same kind as a warning; the message of the first stays, and the lowest line: what is
    /// found in sorted rows is not found in the order of lines.
    pub fn warn(&mut self, finding: Finding, count: u64) {
        let Finding { reason, line, message, .. } = finding;
        let new = || Warning { reason: reason.as_str(), message, line, count: 0 };
        let warning = self.warnings.entry(reason).or_insert_with(new);
        if let (Some(first), Some(line)) = (warning.line, line) {
            warning.line = Some(first.min(line));
        }
        warning.count += count;
    }

    /// Judges the rejected rows once all are read.
    ///
    /// # Errors
    /// The finding that refuses the file.
    pub fn judge(&self) -> Result<(), TallyError> {
        let RowCounts { read, rejected, .. } = self.rows;
        if read >= 300 && rejected.saturating_mul(100) > read.saturating_mul(u64::from(self.limit.percent)) {
            return Err(self.too_many());
        }
        match self.first_rejects.first() {
            // Nothing to apply: "applied" would tell the client that all is well.
            Some(first) if rejected == read => Err(TallyError::Refused(Finding {
                message: format!("no row could be accepted; the first: {}", first.message),
                ..first.clone()
            })),
            _ => Ok(()),
        }
    }

    fn too_many(&self) -> TallyError {
        let RowCounts { read, rejected, .. } = self.rows;
        let first = self.first_rejects.first().map_or_else(String::new, |first| format!("; the first: {first}"));
        TallyError::Refused(Finding::file(
            Reason::TooManyRejected,
            format!(
                "{rejected} of {read} rows are rejected, more than {} rows or {} percent; nothing was applied{first}",
                self.limit.rows, self.limit.percent
            ),
        ))
    }

    /// Takes over what the reader noticed.
    pub fn take_notes(&mut self, notes: &Notes) {
        if notes.bom {
            self.warn(Finding::file(Reason::Bom, "a UTF-8 byte order mark was dropped"), 1);
        }
        if notes.crlf > 0 {
            self.warn(Finding::file(Reason::Crlf, "rows end in CR LF; the contract is LF"), notes.crlf);
        }
        if notes.empty_lines > 0 {
            self.warn(Finding::file(Reason::EmptyLines, "empty lines were skipped"), notes.empty_lines);
        }
        if notes.no_final_newline {
            self.warn(
                Finding::file(Reason::NoFinalNewline, "the last row has no LF; make sure that the file is whole"),
                1,
            );
        }
        if notes.zero_bytes {
            self.warn(Finding::file(Reason::ZeroBytes, "the file has no bytes at all"), 1);
        }
    }

    /// Ends the counting: warnings by reason, the rejects file durable.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn finish(&mut self) -> io::Result<Counted> {
        self.rejects.sync()?;
        let warnings = self.warnings.values().cloned().collect();
        let first_rejects = self.first_rejects.iter().map(|finding| RejectedRow {
            line: finding.line,
            reason: finding.reason.as_str(),
            message: finding.message.clone(),
        });
        let (columns, first_rejects) = (self.columns.clone(), first_rejects.collect());
        Ok(Counted { rows: self.rows, warnings, first_rejects, columns })
    }
}

/// Counting cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TallyError {
    /// The rejects file cannot be written.
    #[error("write the rejects file")]
    Io(#[from] io::Error),
    /// Too many rows are rejected.
    #[error("accept the file: {0}")]
    Refused(Finding),
}
