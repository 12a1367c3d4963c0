//! Reports between "written" and "published".
//!
//! A report and its rejects file are written and synced under `.spool/prepared/<upload id>.*` *before* the verdict is
//! committed, and renamed into `/reports/` after it. A crash between the two leaves prepared files and a row with
//! `reported_at IS NULL`: publishing is repeated. A crash before the commit leaves prepared files that the next try at
//! the same upload overwrites.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::PathBuf;

use super::{Layout, durable};
use crate::reason::Finding;

/// The report files of one upload.
#[derive(Debug)]
pub struct PreparedReport<'a> {
    layout: &'a Layout,
    upload_id: i64,
}

impl<'a> PreparedReport<'a> {
    /// The report files of upload `upload_id`.
    #[must_use]
    pub fn new(layout: &'a Layout, upload_id: i64) -> Self {
        Self { layout, upload_id }
    }

    fn report(&self) -> PathBuf {
        self.layout.prepared().join(format!("{}.report.json", self.upload_id))
    }

    fn rejects(&self) -> PathBuf {
        self.layout.prepared().join(format!("{}.rejects.csv", self.upload_id))
    }

    /// Begins the rejects file with its header.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn begin_rejects(&self) -> io::Result<RejectsWriter> {
        let mut writer = csv::Writer::from_writer(BufWriter::new(durable::create(&self.rejects())?));
        writer.write_record(["line", "reason", "message", "value"])?;
        Ok(RejectsWriter { writer })
    }

    /// Writes the report itself, synced.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write_report(&self, json: &str) -> io::Result<()> {
        durable::write_whole(&self.report(), json.as_bytes())
    }

    /// Puts the files into `/reports/`, the report last. May be repeated. When the report is gone altogether (it was
    /// prepared on another machine), `json` from the store takes its place.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn publish(&self, name: &str, json: &str) -> io::Result<()> {
        let reports = self.layout.reports();
        let stem = format!("{name}.{}", self.upload_id);
        durable::move_file(&self.rejects(), &reports.join(format!("{stem}.rejects.csv")))?;
        let published = reports.join(format!("{stem}.report.json"));
        if !durable::move_file(&self.report(), &published)? && !published.try_exists()? {
            durable::write_whole(&published, json.as_bytes())?;
        }
        Ok(())
    }
}

/// The rejects file while rows are read.
#[derive(Debug)]
pub struct RejectsWriter {
    writer: csv::Writer<BufWriter<File>>,
}

impl RejectsWriter {
    /// Lists one row as it stood.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&mut self, finding: &Finding, value: &str) -> io::Result<()> {
        let line = finding.line.map(|line| line.to_string()).unwrap_or_default();
        Ok(self.writer.write_record([&line, finding.reason.as_str(), &finding.message, value])?)
    }

    /// Makes the file durable.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn sync(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().get_ref().sync_all()
    }
}
