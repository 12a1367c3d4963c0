//! Where things are on disk.
//!
//! ```text
//! <state_dir>/namespaces/<ns>/
//!     coupons/ coupons/<bank>/ redemptions/ recipients/<campaign>/ check/...   local drops; SFTP uploads are shown here
//!     assignments/<campaign>/ reports/ openpgp/ exchange/                      what clients collect
//!     .spool/incoming/<upload id>     from the first byte until the verdict
//!     .spool/prepared/                reports and assignment files, complete but not yet published
//!     .spool/quarantine/<upload id>   an admin must act
//!     .spool/archive/<upload id>      originals after their verdict, for `archive_days`
//! ```
//! Nothing under `.spool` is visible over SFTP. The store says in which state an upload is; only the verdict moves its
//! file, from `incoming` to `archive` or `quarantine`.

use std::path::{Path, PathBuf};

use super::Place;
use crate::config::Name;

/// The paths of one namespace.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of `namespace` under `state_dir`.
    #[must_use]
    pub fn new(state_dir: &Path, namespace: &Name) -> Self {
        Self { root: state_dir.join("namespaces").join(namespace.as_str()) }
    }

    /// The namespace's own directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// An inbound directory.
    #[must_use]
    pub fn drop_directory(&self, place: &Place) -> PathBuf {
        self.root.join(place.directory())
    }

    /// `/reports/`
    #[must_use]
    pub fn reports(&self) -> PathBuf {
        self.root.join("reports")
    }

    /// `/assignments/<campaign>/`
    #[must_use]
    pub fn assignments(&self, campaign: &Name) -> PathBuf {
        self.root.join("assignments").join(campaign.as_str())
    }

    /// `/openpgp/`
    #[must_use]
    pub fn openpgp(&self) -> PathBuf {
        self.root.join("openpgp")
    }

    /// `/exchange/`
    #[must_use]
    pub fn exchange(&self) -> PathBuf {
        self.root.join("exchange")
    }

    /// Files from the first byte until the verdict.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.root.join(".spool/incoming")
    }

    /// The file of one upload before its verdict.
    #[must_use]
    pub fn incoming_file(&self, upload_id: i64) -> PathBuf {
        self.incoming().join(upload_id.to_string())
    }

    /// Complete files that are not published yet.
    #[must_use]
    pub fn prepared(&self) -> PathBuf {
        self.root.join(".spool/prepared")
    }

    /// Files that wait for an admin.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.root.join(".spool/quarantine")
    }

    /// Originals after their verdict.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        self.root.join(".spool/archive")
    }
}
