//! The deliver stage: prepared files get their final names, the manifest last.
//!
//! The manifest is recorded in the store before the first file is published. A rerun finds each listed file either
//! published or prepared, by its hash; only one that is neither is written again.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::export::Exported;
use super::manifest::{ListedFile, Manifest, Rows, listed};
use super::{Job, Outbound, OutboundError};
use crate::spool::{Content, Prepared, content_of, durable, publish};

impl Outbound {
    /// Publishes what [`Outbound::export`] prepared.
    pub(super) fn deliver(&self, job: &Job<'_>, exported: Exported) -> Result<(), OutboundError> {
        let published = job.batch.manifest.as_deref().and_then(listed).unwrap_or_default();
        let (mut files, mut fresh) = (Vec::new(), Vec::new());
        for file in exported.files {
            // What is out stays as it is, even if the same rows were encrypted to other bytes this time.
            let before = published.iter().find(|before| before.name == file.name);
            match before {
                Some(before) if is_published(job, before)? => files.push(before.clone()),
                _ => {
                    fresh.push(file.name.clone());
                    files.push(file);
                }
            }
        }
        let manifest = render(job, exported.rows, files).map_err(job.disk())?;
        self.store.record_manifest(job.batch.claim, &manifest)?;
        fail::fail_point!("outbound-after-record", |_| std::process::abort());
        for name in &fresh {
            publish(&job.prepared_path(name), &job.layout.assignments(&job.campaign), name).map_err(job.disk())?;
            fail::fail_point!("outbound-between-files", |_| std::process::abort());
        }
        publish_manifest(job, &manifest)
    }

    /// Finishes a delivery that an earlier run has recorded. `false`: there is none, or one of its files is gone.
    pub(super) fn deliver_recorded(&self, job: &Job<'_>) -> Result<bool, OutboundError> {
        let Some(manifest) = job.batch.manifest.as_deref() else { return Ok(false) };
        let Some(files) = listed(manifest) else { return Ok(false) };
        for file in &files {
            if !publish_listed(job, file)? {
                return Ok(false);
            }
        }
        publish_manifest(job, manifest)?;
        Ok(true)
    }
}

/// Sees to it that a listed file is published. `false`: it is neither published nor prepared.
fn publish_listed(job: &Job<'_>, file: &ListedFile) -> Result<bool, OutboundError> {
    if is_published(job, file)? {
        return Ok(true);
    }
    for path in leftovers(job, &format!("{}.", file.name)).map_err(job.disk())? {
        if content_of(&path).map_err(job.disk())?.is_some_and(|content| is(&content, file)) {
            publish(&path, &job.layout.assignments(&job.campaign), &file.name).map_err(job.disk())?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_published(job: &Job<'_>, file: &ListedFile) -> Result<bool, OutboundError> {
    let path = job.layout.assignments(&job.campaign).join(&file.name);
    Ok(content_of(&path).map_err(job.disk())?.is_some_and(|content| is(&content, file)))
}

fn is(content: &Content, file: &ListedFile) -> bool {
    content.sha256 == file.sha256 && content.bytes == file.bytes
}

fn publish_manifest(job: &Job<'_>, manifest: &str) -> Result<(), OutboundError> {
    fail::fail_point!("outbound-before-manifest", |_| std::process::abort());
    let name = format!("{}.manifest.json", job.file_stem());
    let path = job.prepared_path(&name);
    let write = || {
        durable::make_directory(&job.layout.prepared())?;
        let mut file = Prepared::create(&path)?;
        io::Write::write_all(&mut file, manifest.as_bytes())?;
        file.finish()?;
        publish(&path, &job.layout.assignments(&job.campaign), &name)?;
        for leftover in leftovers(job, &format!("{}.", job.file_stem()))? {
            durable::remove_if_there(&leftover)?;
        }
        Ok(())
    };
    write().map_err(job.disk())?;
    fail::fail_point!("outbound-after-manifest", |_| std::process::abort());
    Ok(())
}

/// Prepared files of this batch whose names begin with `prefix`.
fn leftovers(job: &Job<'_>, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(job.layout.prepared())? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn render(job: &Job<'_>, rows: Rows, files: Vec<ListedFile>) -> io::Result<String> {
    let batch = &job.batch;
    let unset = || io::Error::other("an assigned batch without the instant of its assignment");
    let manifest = Manifest {
        batch: batch.claim.id,
        namespace: job.namespace.name.to_string(),
        campaign: job.campaign.to_string(),
        bank: batch.bank.clone(),
        recipients: batch.list_name.clone(),
        upload_id: batch.upload_id,
        business_date: batch.business_date,
        rows,
        files,
        send_at: batch.send_at.ok_or_else(unset)?,
        redemptions_as_of: batch.redemptions_as_of,
        created_at: batch.assigned_at.ok_or_else(unset)?,
    };
    Ok(serde_json::to_string_pretty(&manifest)? + "\n")
}
