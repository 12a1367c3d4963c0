//! Takes files that were dropped locally into the flow: the same upload rows, the same reports.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::RetryCause;
use crate::config::{Name, Namespace, Settings};
use crate::spool::drops::{Drop, Left, Stillness};
use crate::spool::{Layout, durable, tree};
use crate::store::drops::NewDrop;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// So many bytes of a name are logged.
const NAME_SHOWN: usize = 40;

/// Watches the namespaces' directories.
#[derive(Debug)]
pub struct LocalDrops {
    stillness: Stillness,
    /// Files that could not be taken: said once each, tried again.
    stuck: BTreeSet<PathBuf>,
    /// Files that are never taken: said once each.
    left: BTreeSet<PathBuf>,
    metrics: Metrics,
}

impl LocalDrops {
    /// Watches from now on; `metrics` shows how many files are not taken.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { stillness: Stillness::default(), stuck: BTreeSet::new(), left: BTreeSet::new(), metrics }
    }

    /// Takes every file that has been still long enough. Returns how many were taken. One that cannot be taken (another
    /// owner's, say) stays where it is and holds up no other.
    ///
    /// # Errors
    /// The first store error, or that of listing a directory; the rest is taken next time.
    pub fn take_ready(&mut self, store: &Store, settings: &Settings, now: DateTime<Utc>) -> Result<usize, RetryCause> {
        let mut taken = 0;
        for namespace in settings.namespaces.values() {
            let layout = Layout::new(&settings.state_dir, &namespace.name);
            let places = tree::places(namespace, &made_banks(store, namespace)?);
            let found = self.stillness.look(&layout, &places, now, settings.spool.settle)?;
            let gone = |path: &PathBuf| path.starts_with(layout.root());
            self.stuck.retain(|path| !gone(path) || found.ready.iter().any(|drop| drop.path == *path));
            self.tell_left(&namespace.name, &layout, &found.left);
            for drop in found.ready {
                match take(store, namespace, &layout, &drop, now) {
                    Ok(()) => taken += 1,
                    Err(RetryCause::Io(error)) => {
                        if self.stuck.insert(drop.path.clone()) {
                            tracing::error!(namespace = %namespace.name, path = ?drop.path, %error, "Failed to take a local file, will try again");
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            let here = |paths: &BTreeSet<PathBuf>| paths.iter().filter(|path| path.starts_with(layout.root())).count();
            self.metrics.local_files_left(&namespace.name, here(&self.stuck) + here(&self.left));
        }
        Ok(taken)
    }

    /// Says once of each file that it is never taken.
    fn tell_left(&mut self, namespace: &Name, layout: &Layout, left: &[Left]) {
        self.left.retain(|path| !path.starts_with(layout.root()) || left.iter().any(|still| still.path == *path));
        for Left { path, why } in left {
            if self.left.insert(path.clone()) {
                let directory = path.parent().and_then(|parent| parent.strip_prefix(layout.root()).ok());
                tracing::warn!(
                    %namespace, directory = ?directory.unwrap_or(path), name = shown(path), why,
                    "Leaves a local file where it is and never takes it; move or rename it, or delete it"
                );
            }
        }
    }
}

/// The beginning of a name, escaped: it can be anything, and as long as the file system allows.
fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let cut = if name.len() > NAME_SHOWN { "..." } else { "" };
    format!("{}{cut}", name.get(..NAME_SHOWN).unwrap_or(name).escape_ascii())
}

/// Every bank that the store knows, those that uploads created among them.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn made_banks(store: &Store, namespace: &Namespace) -> Result<Vec<Name>, StoreError> {
    let banks = store.banks(store.namespace_id(&namespace.name)?)?;
    Ok(banks.iter().filter_map(|bank| Name::parse(&bank.name).ok()).collect())
}

fn take(
    store: &Store,
    namespace: &Namespace,
    layout: &Layout,
    drop: &Drop,
    now: DateTime<Utc>,
) -> Result<(), RetryCause> {
    let namespace_id = store.namespace_id(&namespace.name)?;
    // Before the row: a file that cannot even be opened must not leave one at every try.
    if !durable::sync_file(&drop.path)? {
        return Ok(());
    }
    let new = NewDrop {
        kind: drop.place.kind.as_str(),
        target: drop.place.target.as_ref().map_or("", Name::as_str),
        dry_run: drop.place.dry_run,
        name: &drop.name,
        bytes: i64::try_from(drop.bytes).map_err(io::Error::other)?,
    };
    let id = store.begin_drop(namespace_id, &new, now)?;
    fail::fail_point!("drops::begun", |_| std::process::abort());
    let moved = durable::move_file(&drop.path, &layout.incoming_file(id));
    if moved.is_err() && drop.path.try_exists()? {
        store.forget_drop(namespace_id, id)?;
    }
    if !moved? {
        // Whoever dropped it took it away again, or another daemon was faster.
        return Ok(store.forget_drop(namespace_id, id)?);
    }
    fail::fail_point!("drops::moved", |_| std::process::abort());
    let today = now.with_timezone(&namespace.timezone).date_naive();
    if !store.complete_drop(namespace_id, id, now, today)? {
        // Another daemon started meanwhile and took the row for one that a crash left.
        durable::move_file(&layout.incoming_file(id), &drop.path)?;
        return Ok(());
    }
    tracing::info!(upload.id = id, namespace = %namespace.name, upload.kind = new.kind, size_bytes = new.bytes, "Took a local file");
    Ok(())
}

/// At start: finishes what a crash interrupted. A row whose file was moved is received; one whose file was not is
/// forgotten, because the file is still where it was dropped and is taken again.
///
/// # Errors
/// The first disk or store error.
pub fn recover_drops(store: &Store, settings: &Settings, now: DateTime<Utc>) -> Result<(), RetryCause> {
    for namespace in settings.namespaces.values() {
        let namespace_id = store.namespace_id(&namespace.name)?;
        let layout = Layout::new(&settings.state_dir, &namespace.name);
        for id in store.unfinished_drops(namespace_id)? {
            if layout.incoming_file(id).try_exists()? {
                let today = now.with_timezone(&namespace.timezone).date_naive();
                store.complete_drop(namespace_id, id, now, today)?;
            } else {
                // What an import had copied so far.
                durable::remove_if_there(&layout.prepared().join(format!("{id}.import")))?;
                store.forget_drop(namespace_id, id)?;
            }
        }
    }
    Ok(())
}
