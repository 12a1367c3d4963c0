//! Finding a customer in the recipients lists that are still in the archive.
//!
//! That a code was kept is not recorded, because a million rows a night would say nothing new. Who was in a batch stands
//! in its list; so the list is read again where somebody asks, as long as the archive has it.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::{Desk, FileRef};
use crate::error_chain::chain;
use crate::outbound::Lists;
use crate::recipients::Columns;
use crate::store::ledger::batches::ListedBatch;

/// Reads lists, and says before each which one.
pub struct ListReader<'a> {
    /// Opens them.
    pub lists: &'a dyn Lists,
    /// Told the number of the batch whose list is read next.
    pub reading: &'a dyn Fn(i64),
}

impl std::fmt::Debug for ListReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListReader").finish_non_exhaustive()
    }
}

/// Whether a customer is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// At this line first.
    Line(u64),
    /// Not at all.
    No,
    /// The list is not in the archive any more, or cannot be read.
    Unknown,
}

impl ListReader<'_> {
    pub(super) fn find(&self, desk: &Desk<'_>, batch: &ListedBatch, customer: &str) -> Listed {
        (self.reading)(batch.id);
        let Some(file) = list_file(desk, batch.upload_id) else { return Listed::Unknown };
        let longest = desk.settings.limits.customer_id_bytes;
        let (mut columns, mut found) = (None, Listed::No);
        let read = self.lists.read(desk.namespace, &file, &mut |row| match &columns {
            None => match Columns::read(row, longest) {
                Ok(header) => {
                    columns = Some(header);
                    ControlFlow::Continue(())
                }
                Err(_) => ControlFlow::Break(()),
            },
            Some(columns) if columns.customer(row).is_ok_and(|id| id == customer) => {
                found = Listed::Line(row.line());
                ControlFlow::Break(())
            }
            Some(_) => ControlFlow::Continue(()),
        });
        match read {
            Ok(()) if columns.is_some() => found,
            Ok(()) => Listed::Unknown,
            Err(error) => {
                tracing::warn!(batch = batch.id, error = %chain(&error), "Failed to read a recipients list again");
                Listed::Unknown
            }
        }
    }
}

fn list_file(desk: &Desk<'_>, upload_id: i64) -> Option<PathBuf> {
    let archived = desk.layout.archive().join(upload_id.to_string());
    [archived, desk.layout.incoming_file(upload_id)].into_iter().find(|path| path.exists())
}

/// The list of a batch, with the line where it is known.
pub(super) fn list_of(batch: &ListedBatch, listed: Option<Listed>) -> FileRef {
    let line = match listed {
        Some(Listed::Line(line)) => i64::try_from(line).ok(),
        _ => None,
    };
    FileRef { upload_id: batch.upload_id, name: batch.list_name.clone(), line }
}
