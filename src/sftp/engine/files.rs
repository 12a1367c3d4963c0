//! What goes by handle: READ, WRITE, CLOSE, FSTAT, FSETSTAT, fsync.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{Answer, Engine, blocking, millis, ok};
use crate::sftp::entry;
use crate::sftp::handles::{Open, Plain, Upload};
use crate::sftp::jail::Jail;
use crate::sftp::packet::{self, Attributes, LONGEST_DATA, Refusal};

/// How long a measurement of `/exchange` counts.
const EXCHANGE_MEASURED_FOR: Duration = Duration::from_secs(30);

fn modified(attributes: &Attributes) -> Option<DateTime<Utc>> {
    attributes.times.and_then(|(_, modified)| DateTime::from_timestamp(i64::from(modified), 0))
}

impl Engine {
    pub(super) fn read(&mut self, id: u32, handle: &[u8], offset: u64, length: u32) -> Answer {
        let plain = match &mut self.handles.get(handle)?.what {
            Open::Plain(plain) if plain.readable => plain,
            Open::Upload(_) => return Err(Refusal::denied("an uploaded file cannot be read back")),
            Open::Plain(_) => return Err(Refusal::denied("the file is not open for reading")),
            Open::Directory(_) => return Err(Refusal::failure("is a directory")),
        };
        let length = length.min(LONGEST_DATA) as usize;
        if length == 0 {
            return Err(Refusal::failure("a READ of no bytes"));
        }
        if i64::try_from(offset).is_err() {
            return Err(Refusal::end());
        }
        let file = &plain.file;
        let reply = packet::data(id, length, |out| {
            let wanted = out.len() + length;
            while out.len() < wanted {
                let at = offset + (out.len() + length - wanted) as u64;
                match rustix::io::pread(file, rustix::buffer::spare_capacity(out), at) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })?;
        let taken = reply.len().saturating_sub(packet::DATA_HEADER) as u64;
        plain.bytes_read = plain.bytes_read.saturating_add(taken);
        plain.read_end = plain.read_end.max(offset.saturating_add(taken));
        Ok(reply)
    }

    pub(super) fn write(&mut self, id: u32, handle: &[u8], offset: u64, data: &[u8]) -> Answer {
        match &mut self.handles.get(handle)?.what {
            Open::Upload(upload) => {
                let offset = if upload.append { upload.receiving.size() } else { offset };
                upload.receiving.write(offset, data).map_err(|error| Refusal::failure(error.text))?;
            }
            Open::Plain(plain) if plain.writable => {
                let offset = if plain.append { plain.file.metadata()?.len() } else { offset };
                let end = offset.saturating_add(data.len() as u64);
                let size = plain.size;
                self.exchange_room(size, end, handle)?;
                if let Open::Plain(plain) = &mut self.handles.get(handle)?.what {
                    plain.file.write_all_at(data, offset)?;
                    plain.size = size.max(end);
                    plain.changed = true;
                }
            }
            Open::Plain(_) => return Err(Refusal::denied("the file is not open for writing")),
            Open::Directory(_) => return Err(Refusal::failure("is a directory")),
        }
        Ok(ok(id))
    }

    /// Measures `/exchange` unless that was done just now.
    pub(super) fn measure_exchange(&mut self, jail: &Jail) -> Result<(), Refusal> {
        if self.exchange_bytes.is_none_or(|(at, _)| at.elapsed() > EXCHANGE_MEASURED_FOR) {
            self.exchange_bytes = Some((Instant::now(), jail.bytes()?));
        }
        Ok(())
    }

    /// Refuses to let a file in `/exchange` grow from `size` to `end` past a limit; charges for it.
    fn exchange_room(&mut self, size: u64, end: u64, handle: &[u8]) -> Result<(), Refusal> {
        let settings = self.shared.live.current();
        if end > settings.limits.upload_bytes {
            let most = settings.limits.upload_bytes;
            return Err(Refusal::failure(format!("the file is larger than the limit of {most} bytes")));
        }
        let more = end.saturating_sub(size);
        if more == 0 {
            return Ok(());
        }
        let used = self.exchange_bytes.map_or(0, |(_, bytes)| bytes);
        let spool = self.shared.reception.bytes_used(&self.sender.namespace);
        if used.saturating_add(spool).saturating_add(more) > settings.limits.quota_bytes {
            return Err(Refusal::failure("the quota of this namespace is used up; delete something or ask its admin"));
        }
        // Asked once in 16 MiB of growth.
        if (size ^ end) >> 24 != 0 || size == 0 {
            let Open::Plain(plain) = &self.handles.get(handle)?.what else { return Err(Refusal::missing()) };
            let space = rustix::fs::fstatvfs(&plain.file)?;
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            if free < settings.limits.free_space_bytes.saturating_add(more) {
                return Err(Refusal::failure("the server is out of space; try again later"));
            }
        }
        if let Some((_, bytes)) = &mut self.exchange_bytes {
            *bytes = bytes.saturating_add(more);
        }
        Ok(())
    }

    pub(super) async fn close(&mut self, id: u32, handle: &[u8]) -> Answer {
        let opened = self.handles.remove(handle)?;
        match opened.what {
            Open::Directory(_) => Ok(ok(id)),
            Open::Upload(upload) => {
                let (reception, sender) = (Arc::clone(&self.shared.reception), self.sender.clone());
                let (upload_id, bytes) = (upload.receiving.id(), upload.receiving.size());
                let Upload { receiving, .. } = *upload;
                let result = blocking(move || reception.close(&sender, receiving)).await?;
                let ms = millis(opened.since);
                match result {
                    Ok(closed) => {
                        tracing::info!(
                            namespace = %self.sender.namespace, user = self.sender.user, source = self.source,
                            path = %opened.path, upload = upload_id, bytes, ms, awaits_rename = closed.temporary,
                            "upload closed"
                        );
                        Ok(ok(id))
                    }
                    Err(error) => {
                        tracing::warn!(
                            namespace = %self.sender.namespace, user = self.sender.user, source = self.source,
                            path = %opened.path, upload = upload_id, bytes, ms, error = %error, "upload not accepted"
                        );
                        Err(error.into())
                    }
                }
            }
            Open::Plain(plain) => {
                if plain.shelf.is_some() && plain.read_end >= plain.size && plain.bytes_read >= plain.size {
                    self.collected(&opened.path, plain.size, opened.since);
                }
                if plain.changed {
                    let settings = self.shared.live.current();
                    let jail = self.exchange(&settings)?;
                    blocking(move || sync_closed(&plain, &jail)).await??;
                }
                Ok(ok(id))
            }
        }
    }

    pub(super) fn fstat(&mut self, id: u32, handle: &[u8]) -> Answer {
        let now = self.shared.clock.now();
        let attributes = match &self.handles.get(handle)?.what {
            Open::Upload(upload) => {
                entry::upload(upload.receiving.size(), upload.receiving.modified_at().unwrap_or(now))
            }
            Open::Plain(plain) => entry::on_disk(&rustix::fs::fstat(&plain.file)?),
            Open::Directory(_) => entry::directory(now),
        };
        Ok(packet::attributes(id, &attributes))
    }

    pub(super) fn fsetstat(&mut self, id: u32, handle: &[u8], attributes: &Attributes) -> Answer {
        let size = match &mut self.handles.get(handle)?.what {
            Open::Upload(upload) => {
                if let Some(size) = attributes.size {
                    upload.receiving.set_size(size).map_err(|error| Refusal::failure(error.text))?;
                }
                if let Some(at) = modified(attributes) {
                    upload.receiving.set_modified_at(at);
                }
                return Ok(ok(id));
            }
            // A handle on an outbound file, or a directory: OK, and nothing changes.
            Open::Directory(_) => return Ok(ok(id)),
            Open::Plain(plain) if plain.shelf.is_some() => return Ok(ok(id)),
            Open::Plain(plain) if attributes.size.is_some() && !plain.writable => {
                return Err(Refusal::denied("the file is not open for writing"));
            }
            Open::Plain(plain) => plain.size,
        };
        if let Some(wanted) = attributes.size {
            self.exchange_room(size, wanted, handle)?;
        }
        if let Open::Plain(plain) = &mut self.handles.get(handle)?.what {
            set_on_disk(&plain.file, attributes)?;
            plain.changed = true;
            plain.size = attributes.size.unwrap_or(plain.size);
        }
        Ok(ok(id))
    }

    /// fsync@openssh.com
    pub(super) async fn fsync(&mut self, id: u32, handle: &[u8]) -> Answer {
        let file = match &self.handles.get(handle)?.what {
            Open::Upload(upload) => {
                // Its CLOSE syncs again, which then costs nothing.
                upload.receiving.try_clone_file()?
            }
            Open::Plain(plain) if plain.writable => plain.file.try_clone()?,
            _ => return Err(Refusal::denied("the file is not open for writing")),
        };
        blocking(move || file.sync_data()).await??;
        Ok(ok(id))
    }
}

/// SETSTAT on a file in `/exchange`. Owners are not the client's to set, nor is a bit beyond rwx.
pub(super) fn set_on_disk(file: &std::fs::File, attributes: &Attributes) -> Result<(), Refusal> {
    use rustix::fs::{Mode, Timespec, Timestamps};
    if let Some(size) = attributes.size {
        file.set_len(size)?;
    }
    if let Some(permissions) = attributes.permissions {
        // The daemon itself keeps its access whatever the client says.
        rustix::fs::fchmod(file, Mode::from_raw_mode((permissions & 0o777) | 0o600))?;
    }
    if let Some((accessed, modified)) = attributes.times {
        let time = |seconds: u32| Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 };
        let times = Timestamps { last_access: time(accessed), last_modification: time(modified) };
        rustix::fs::futimens(file, &times)?;
    }
    Ok(())
}

fn sync_closed(plain: &Plain, jail: &Jail) -> Result<(), Refusal> {
    plain.file.sync_all()?;
    // Renamed or removed while it was open: then its entry is someone else's affair.
    match jail.sync_parent(&plain.below) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
