//! The report: what the client gets back about one upload, as JSON. Its keys are a contract (`docs/file-contracts.md`).

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::Work;
use super::apply::{BankEffect, Effect, Suspicion};
use super::tally::{Counted, RejectedRow, RowCounts, Warning};
use crate::digest::hexadecimal;
use crate::reason::Finding;
use crate::spool::Kind;
use crate::store::uploads::Verdict;

/// A report, in the order of its keys.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    status: &'static str,
    upload_id: i64,
    namespace: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bank: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    campaign: Option<&'a str>,
    name: &'a str,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    bytes: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<String>>,
    rows: RowCounts,
    banks: Vec<BankEffect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeats_upload: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    first_rejects: Vec<RejectedRow>,
    #[serde(skip_serializing_if = "<[Suspicion]>::is_empty")]
    suspicion: &'a [Suspicion],
    warnings: Vec<Warning>,
    received_at: String,
    finished_at: String,
}

/// Why the file was refused.
#[derive(Debug, Serialize)]
struct Refused {
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
}

/// What is known of the content once it was read to its verified end.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// SHA-256 of the plaintext.
    pub sha256: [u8; 32],
    /// Its size.
    pub bytes: u64,
}

/// How the upload ended.
#[derive(Debug)]
pub enum Ending {
    /// Applied, or would be (a dry run).
    Effect(Verdict, Effect),
    /// Refused.
    Refused(Verdict, Finding),
    /// The content came before.
    Repeat(Verdict, i64),
}

impl Ending {
    /// The verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Effect(verdict, _) | Self::Refused(verdict, _) | Self::Repeat(verdict, _) => *verdict,
        }
    }
}

/// Writes the report as JSON with one key a line.
///
/// # Errors
/// None in practice: every key is a string.
pub fn render(
    work: &Work<'_>,
    ending: &Ending,
    content: Option<Content>,
    Counted { rows, warnings, first_rejects, columns }: Counted,
    now: DateTime<Utc>,
) -> serde_json::Result<String> {
    let target = work.place.target.as_ref().map(crate::config::Name::as_str);
    let recipients = work.place.kind == Kind::Recipients;
    let (mut banks, mut repeats_upload, mut refused) = (Vec::new(), None, None);
    let mut suspicion: &[Suspicion] = &[];
    match ending {
        Ending::Effect(_, effect) => {
            banks.clone_from(&effect.banks);
            suspicion = &effect.suspicion;
        }
        Ending::Refused(_, finding) => {
            refused = Some(Refused {
                reason: finding.reason.as_str(),
                message: finding.message.clone(),
                line: finding.line,
                column: finding.column,
            });
        }
        Ending::Repeat(_, earlier) => repeats_upload = Some(*earlier),
    }
    let report = Report {
        status: ending.verdict().as_str(),
        upload_id: work.claimed.id,
        namespace: work.namespace.name.as_str(),
        user: Some(work.claimed.user_name.as_str()).filter(|user| !user.is_empty()),
        kind: work.place.kind.as_str(),
        bank: target.filter(|_| !recipients),
        campaign: target.filter(|_| recipients),
        name: &work.claimed.name,
        dry_run: work.claimed.dry_run,
        sha256: content.map(|content| hexadecimal(&content.sha256)),
        bytes: work.claimed.bytes,
        plaintext_bytes: content.map(|content| content.bytes),
        header: columns.as_ref().map(|columns| !columns.is_empty()),
        columns: columns.filter(|columns| !columns.is_empty()),
        rows,
        banks,
        repeats_upload,
        refused,
        first_rejects,
        suspicion,
        warnings,
        received_at: instant(work.claimed.received_at),
        finished_at: instant(now),
    };
    serde_json::to_string_pretty(&report).map(|json| json + "\n")
}

/// The columns that the upload with this report had: empty without a header, `None` when that is not known.
#[must_use]
pub fn columns(report: Option<&str>) -> Option<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Known {
        header: Option<bool>,
        columns: Option<Vec<String>>,
    }
    let known: Known = serde_json::from_str(report?).ok()?;
    known.columns.or_else(|| known.header.is_some().then(Vec::new))
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
