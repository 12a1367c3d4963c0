//! One step in the life of a code or a customer.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// A file, and the line in it where one is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileRef {
    /// Its upload.
    pub upload_id: i64,
    /// Its name.
    pub name: String,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<i64>,
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchRef {
    /// Its id.
    pub id: i64,
    /// Its campaign.
    pub campaign: String,
}

/// What happened, when, where it is written, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When.
    pub at: DateTime<Utc>,
    /// `uploaded`, `undone`, `redeemed`, `returned`, `lapsed`, `left out`, `replaced`, or an outcome of an assignment file.
    pub what: &'static str,
    /// The bank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank: Option<String>,
    /// The code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// The file that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileRef>,
    /// The batch it happened in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchRef>,
    /// Why, in words.
    pub why: String,
}

/// In the order of time. Within one instant cause comes before effect: a file, then what a batch made of it.
pub(super) fn sort(steps: &mut [Step]) {
    steps.sort_by(|one, other| {
        let rank = |step: &Step| (step.at, step.batch.as_ref().map(|batch| batch.id));
        rank(one).cmp(&rank(other))
    });
}
