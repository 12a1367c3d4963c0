//! The export stage: the recipients' columns and what each row got, merged in the list's order.
//!
//! Two streams of the same length run side by side: the list, opened again, and what everyone got. Memory stays flat. The
//! files are complete and durable in `.spool/prepared` when this ends; nobody sees them yet.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::NaiveDate;

use super::assign::FALLBACK;
use super::doors::{Seal, SealError, Sealed};
use super::lines::Lines;
use super::manifest::{ListedFile, Rows};
use super::{Job, ListError, Outbound, OutboundError, stem};
use crate::bank::outcome::Outcome;
use crate::config::Bank;
use crate::recipients::{ADDED_COLUMNS, Columns, Row};
use crate::spool::{Prepared, durable};
use crate::store::answers::Answers;
use crate::store::recorded::Recorded;

/// Prepared files and what they hold.
pub(super) struct Exported {
    pub(super) rows: Rows,
    pub(super) files: Vec<ListedFile>,
}

impl Job<'_> {
    pub(super) fn bank(&self) -> Result<&Bank, OutboundError> {
        let missing = || OutboundError::NotConfigured { what: format!("bank `{}`", self.batch.bank) };
        self.namespace.banks.get(self.batch.bank.as_str()).ok_or_else(missing)
    }

    /// The list as it was received: in the archive after its verdict, before that (the move may lag) where it came in.
    fn list_file(&self) -> PathBuf {
        let archived = self.layout.archive().join(self.batch.upload_id.to_string());
        if archived.exists() { archived } else { self.layout.incoming_file(self.batch.upload_id) }
    }

    /// `<stem>.<batch>`, the beginning of the names of all its files.
    pub(super) fn file_stem(&self) -> String {
        format!("{}.{}", stem(&self.batch.list_name), self.batch.claim.id)
    }

    /// Where a file is written out of sight. The fence keeps a worker that lost its claim off the files of the next.
    pub(super) fn prepared_path(&self, name: &str) -> PathBuf {
        self.layout.prepared().join(format!("{name}.{}", self.batch.claim.fence))
    }

    pub(super) fn disk(&self) -> impl Fn(io::Error) -> OutboundError + use<> {
        let batch = self.batch.claim.id;
        move |source| OutboundError::Disk { batch, source }
    }
}

impl Outbound {
    /// Reads the list of `job`, wherever it is: between looking for it and opening it, its verdict may move it to the
    /// archive, where it then is. Nothing has been handed to `each` when a file cannot be opened.
    pub(super) fn read_list(
        &self,
        job: &Job<'_>,
        each: &mut dyn FnMut(&dyn Row) -> ControlFlow<()>,
    ) -> Result<(), ListError> {
        match self.lists.read(job.namespace, &job.list_file(), each) {
            Err(ListError::Disk(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.lists.read(job.namespace, &job.list_file(), each)
            }
            read => read,
        }
    }

    /// Writes the batch's files. `answers` is what everyone got, where this run made the draw; else the record says it.
    pub(super) fn export(&self, job: &Job<'_>, answers: Option<Box<Answers>>) -> Result<Exported, OutboundError> {
        durable::make_directory(&job.layout.prepared()).map_err(job.disk())?;
        let seal = self.seal(job)?;
        let Some(draw) = job.batch.draw else {
            return self.merge(job, seal.as_deref(), None);
        };
        let answers = match answers {
            Some(answers) => answers,
            None => {
                let recorded = Recorded {
                    namespace_id: job.batch.claim.namespace_id,
                    bank_id: job.batch.bank_id,
                    batch_id: job.batch.claim.id,
                    draw,
                    persistent: job.batch.persistent,
                    hold_channel: job.batch.hold_channel.as_deref().unwrap_or_default(),
                };
                Box::new(self.store.recorded(self.load(job)?, &recorded, &job.layout.prepared())?)
            }
        };
        self.merge(job, seal.as_deref(), Some(answers))
    }

    /// What the campaign's files are encrypted with, if they are.
    pub(super) fn seal(&self, job: &Job<'_>) -> Result<Option<Box<dyn Seal>>, OutboundError> {
        let certificate = job.namespace.campaigns.get(&job.campaign).and_then(|campaign| campaign.encrypt_to.as_ref());
        Ok(certificate.map(|path| self.seals.prepare(path)).transpose()?)
    }

    fn merge(
        &self,
        job: &Job<'_>,
        seal: Option<&dyn Seal>,
        answers: Option<Box<Answers>>,
    ) -> Result<Exported, OutboundError> {
        let mut merge = Merge {
            job,
            seal,
            answers,
            columns: None,
            bank: job.bank()?,
            read: 0,
            end_date: (None, String::new()),
            rows: Rows::default(),
            assigned: None,
            unassigned: None,
        };
        let mut failed = None;
        self.read_list(job, &mut |row| match merge.row(row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        match failed {
            Some(error) => Err(error),
            None => merge.finish(),
        }
    }
}

struct Merge<'a> {
    job: &'a Job<'a>,
    seal: Option<&'a dyn Seal>,
    /// `None` for a proof.
    answers: Option<Box<Answers>>,
    columns: Option<Columns>,
    bank: &'a Bank,
    read: i64,
    /// The end date of the row before, as it is written: most rows have that of the row before.
    end_date: (Option<NaiveDate>, String),
    rows: Rows,
    assigned: Option<OutFile<'a>>,
    unassigned: Option<OutFile<'a>>,
}

/// What stands behind the recipients' columns.
enum Cells<'c> {
    Code { code: &'c str, end_date: Option<NaiveDate>, outcome: Outcome },
    None { reason: &'c str },
}

impl Merge<'_> {
    fn row(&mut self, row: &dyn Row) -> Result<(), OutboundError> {
        let Some(columns) = &self.columns else {
            let columns = Columns::read(row, self.job.settings.limits.customer_id_bytes).map_err(ListError::Refused)?;
            let mut file = OutFile::create(self.job, self.seal, "csv")?;
            file.write(columns.names().iter().map(String::as_str), &ADDED_COLUMNS)?;
            self.assigned = Some(file);
            self.columns = Some(columns);
            return Ok(());
        };
        if columns.customer(row).is_err() {
            return Ok(());
        }
        self.read += 1;
        let fields = (0..row.width()).map(|index| row.field(index).unwrap_or_default());
        match cells(self.job, self.bank, self.answers.as_deref_mut(), self.read)? {
            Cells::Code { code, end_date, outcome } => {
                self.rows.count(outcome);
                if self.end_date.0 != end_date {
                    self.end_date = (end_date, end_date.map(|date| date.to_string()).unwrap_or_default());
                }
                let file = self.assigned.as_mut().ok_or(OutboundError::Differs { row: self.read })?;
                file.write(fields, &[self.bank.name.as_str(), code, &self.end_date.1, outcome.as_str()])
            }
            Cells::None { reason } => {
                self.rows.unassigned += 1;
                if self.unassigned.is_none() {
                    let mut file = OutFile::create(self.job, self.seal, "unassigned.csv")?;
                    file.write(columns.names().iter().map(String::as_str), &["reason"])?;
                    self.unassigned = Some(file);
                }
                let file = self.unassigned.as_mut().ok_or(OutboundError::Differs { row: self.read })?;
                file.write(fields, &[reason])
            }
        }
    }

    fn finish(mut self) -> Result<Exported, OutboundError> {
        // A list without a header would not have been accepted; a record beyond the list means another list.
        let more = match &mut self.answers {
            Some(answers) => answers.next_got().map_err(self.job.disk())?.is_some(),
            None => false,
        };
        if self.columns.is_none() || more {
            return Err(OutboundError::Differs { row: self.read + 1 });
        }
        let mut files = Vec::new();
        for (file, rows) in [(self.assigned, self.rows.assigned()), (self.unassigned, self.rows.unassigned)] {
            if let Some(file) = file {
                files.push(file.finish(rows)?);
            }
        }
        Ok(Exported { rows: self.rows, files })
    }
}

/// What the accepted row at `row`, from 1, got; `answers`: `None` for a proof.
fn cells<'c>(
    job: &Job<'_>,
    bank: &'c Bank,
    answers: Option<&'c mut Answers>,
    row: i64,
) -> Result<Cells<'c>, OutboundError> {
    let code = |code: &'c str, end_date, outcome| Ok(Cells::Code { code, end_date, outcome });
    let Some(answers) = answers else { return code(&bank.proof_code, None, Outcome::Proof) };
    let differs = || OutboundError::Differs { row };
    let got = answers.next_got().map_err(job.disk())?.ok_or_else(differs)?;
    if i64::try_from(got.ordinal) != Ok(row - 1) {
        return Err(differs());
    }
    match got.code {
        Err(reason) if reason == FALLBACK => {
            let what = || format!("`fallback_code` of bank `{}`", bank.name);
            let fallback = bank.fallback_code.as_deref();
            code(fallback.ok_or_else(|| OutboundError::NotConfigured { what: what() })?, None, Outcome::Fallback)
        }
        Err(reason) => Ok(Cells::None { reason }),
        Ok(got) => {
            let outcome = match got.outcome {
                None => Outcome::Kept,
                Some(outcome) => Outcome::from_stored(outcome).ok_or_else(differs)?,
            };
            code(got.code, got.end_date, outcome)
        }
    }
}

/// One prepared file, encrypted or not.
pub(super) struct OutFile<'s> {
    batch: i64,
    pub(super) name: String,
    prepared: Shared,
    lines: Lines<Body<'s>>,
}

/// The file below the encryption, which must be finished after it.
#[derive(Clone)]
struct Shared(Arc<Mutex<Option<Prepared>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(prepared) => prepared.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map_or(Ok(()), Prepared::flush)
    }
}

enum Body<'s> {
    Plain(Shared),
    Sealed(Box<dyn Sealed + 's>),
}

impl Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(shared) => shared.write(bytes),
            Self::Sealed(sealed) => sealed.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(shared) => shared.flush(),
            Self::Sealed(sealed) => sealed.flush(),
        }
    }
}

impl<'s> OutFile<'s> {
    pub(super) fn create(job: &Job<'_>, seal: Option<&'s dyn Seal>, extension: &str) -> Result<Self, OutboundError> {
        let sealed = if seal.is_some() { ".pgp" } else { "" };
        let name = format!("{}.{extension}{sealed}", job.file_stem());
        let file = Prepared::create(&job.prepared_path(&name)).map_err(job.disk())?;
        let prepared = Shared(Arc::new(Mutex::new(Some(file))));
        let body = match seal {
            None => Body::Plain(prepared.clone()),
            Some(seal) => Body::Sealed(seal.start(Box::new(prepared.clone()))?),
        };
        Ok(Self { batch: job.batch.claim.id, name, prepared, lines: Lines::new(body) })
    }

    pub(super) fn write<'r>(
        &mut self,
        fields: impl Iterator<Item = &'r str>,
        more: &[&'r str],
    ) -> Result<(), OutboundError> {
        fields.for_each(|field| self.lines.field(field));
        more.iter().for_each(|field| self.lines.field(field));
        self.lines.end_row().map_err(|source| OutboundError::Disk { batch: self.batch, source })
    }

    pub(super) fn finish(self, rows: u64) -> Result<ListedFile, OutboundError> {
        let batch = self.batch;
        let disk = move |source: io::Error| OutboundError::Disk { batch, source };
        let body = self.lines.into_inner().map_err(disk)?;
        if let Body::Sealed(sealed) = body {
            sealed.finish()?;
        }
        let prepared = self.prepared.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || OutboundError::Seal(SealError::Write(io::ErrorKind::BrokenPipe.into()));
        let content = prepared.ok_or_else(gone)?.finish().map_err(disk)?;
        Ok(ListedFile { name: self.name, sha256: content.sha256, bytes: content.bytes, rows })
    }
}
