//! The manifest of a batch: what its files are and what stands in them.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};

use crate::bank::outcome::Outcome;

/// `<stem>.<batch>.manifest.json`. Its keys are a contract, `docs/file-contracts.md`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Manifest {
    pub(super) batch: i64,
    pub(super) namespace: String,
    pub(super) campaign: String,
    pub(super) bank: String,
    /// The list's file name.
    pub(super) recipients: String,
    pub(super) upload_id: i64,
    pub(super) business_date: NaiveDate,
    pub(super) rows: Rows,
    pub(super) files: Vec<ListedFile>,
    #[serde(serialize_with = "instant")]
    pub(super) send_at: DateTime<Utc>,
    #[serde(serialize_with = "optional_instant")]
    pub(super) redemptions_as_of: Option<DateTime<Utc>>,
    /// When its assignments were committed, so that a rerun writes the same bytes.
    #[serde(serialize_with = "instant")]
    pub(super) created_at: DateTime<Utc>,
}

/// Rows by what they got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Rows {
    new: u64,
    kept: u64,
    replaced_redeemed: u64,
    replaced_lapsed: u64,
    fallback: u64,
    proof: u64,
    pub(super) unassigned: u64,
}

impl Rows {
    pub(super) fn count(&mut self, outcome: Outcome) {
        let rows = match outcome {
            Outcome::New => &mut self.new,
            Outcome::Kept => &mut self.kept,
            Outcome::ReplacedRedeemed => &mut self.replaced_redeemed,
            Outcome::ReplacedLapsed => &mut self.replaced_lapsed,
            Outcome::Fallback => &mut self.fallback,
            Outcome::Proof => &mut self.proof,
        };
        *rows += 1;
    }

    /// Rows of the assignment file.
    pub(super) fn assigned(&self) -> u64 {
        self.new + self.kept + self.replaced_redeemed + self.replaced_lapsed + self.fallback + self.proof
    }
}

/// One published file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ListedFile {
    pub(super) name: String,
    pub(super) sha256: String,
    pub(super) bytes: u64,
    pub(super) rows: u64,
}

/// What a rerun needs of a recorded manifest.
#[derive(Debug, Deserialize)]
struct Recorded {
    files: Vec<ListedFile>,
}

/// The files that a recorded manifest lists; `None` when the record cannot be read.
pub(super) fn listed(recorded: &str) -> Option<Vec<ListedFile>> {
    serde_json::from_str::<Recorded>(recorded).ok().map(|recorded| recorded.files)
}

fn instant<S: Serializer>(instant: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&instant.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn optional_instant<S: Serializer>(value: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => instant(value, serializer),
        None => serializer.serialize_none(),
    }
}
