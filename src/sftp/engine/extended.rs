//! The extensions that OpenSSH's client and others ask for.

use bytes::Bytes;

use super::{Answer, Engine, Resolved, names};
use crate::config::Settings;
use crate::sftp::jail::Jail;
use crate::sftp::packet::{self, Fields, LONGEST_DATA, LONGEST_PACKET, Refusal};
use crate::sftp::path::VirtualPath;
use crate::sftp::tree::Node;

/// Named in VERSION.
pub(super) const ANNOUNCED: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("home-directory", "1"),
];

fn malformed() -> Refusal {
    Refusal::new(packet::Code::BadMessage, "malformed request")
}

impl Engine {
    pub(super) async fn extended(&mut self, id: u32, name: &[u8], payload: Bytes) -> Answer {
        let mut fields = Fields(payload);
        let mut string = || fields.string().ok_or_else(malformed);
        match name {
            b"posix-rename@openssh.com" => {
                let (from, to) = (string()?, string()?);
                self.rename(id, &from, &to, true).await
            }
            b"fsync@openssh.com" => {
                let handle = string()?;
                self.fsync(id, &handle).await
            }
            b"lsetstat@openssh.com" => {
                let path = string()?;
                let attributes = fields.attributes().ok_or_else(malformed)?;
                self.setstat(id, &path, attributes).await
            }
            b"statvfs@openssh.com" => {
                let Resolved { node, settings, .. } = self.resolve(&string()?).await?;
                if node == Node::Nothing {
                    return Err(Refusal::missing());
                }
                self.statvfs(id, &settings)
            }
            b"fstatvfs@openssh.com" => {
                let handle = string()?;
                self.handles.get(&handle)?;
                let settings = self.shared.live.current();
                self.statvfs(id, &settings)
            }
            b"limits@openssh.com" => {
                let handles = self.shared.live.current().limits.open_files as u64;
                Ok(packet::extended(id, |reply| {
                    for limit in [LONGEST_PACKET as u64, LONGEST_DATA.into(), LONGEST_DATA.into(), handles] {
                        reply.long(limit);
                    }
                }))
            }
            b"home-directory" => {
                string()?;
                Ok(names::one_name(id, b"/".to_vec()))
            }
            b"expand-path@openssh.com" => expand(id, &string()?),
            _ => Err(Refusal::unsupported()),
        }
    }

    /// The file system that holds the namespace, no larger than its quota.
    fn statvfs(&mut self, id: u32, settings: &Settings) -> Answer {
        let layout = self.layout(settings);
        let space = rustix::fs::fstatvfs(Jail::open_or_create(layout.root())?.handle())?;
        let block = space.f_frsize.max(1);
        let used = self.shared.reception.bytes_used(&self.sender.namespace);
        let exchange = self.exchange_bytes.map_or(0, |(_, bytes)| bytes);
        let quota_left = settings.limits.quota_bytes.saturating_sub(used.saturating_add(exchange)) / block;
        let floor = settings.limits.free_space_bytes / block;
        let free = space.f_bavail.saturating_sub(floor).min(quota_left);
        let blocks = space.f_blocks.min(settings.limits.quota_bytes / block);
        Ok(packet::extended(id, |reply| {
            let figures = [
                space.f_bsize,
                block,
                blocks,
                free,
                free,
                space.f_files,
                space.f_ffree,
                space.f_favail,
                0,
                // ST_NOSUID
                2,
                255,
            ];
            for figure in figures {
                reply.long(figure);
            }
        }))
    }
}

fn expand(id: u32, raw: &[u8]) -> Answer {
    let relative = match raw {
        b"~" => &[],
        [b'~', b'/', rest @ ..] => rest,
        [b'~', ..] => return Err(Refusal::missing()),
        all => all,
    };
    let path = VirtualPath::parse(relative).map_err(|error| Refusal::failure(error.to_string()))?;
    Ok(names::one_name(id, path.to_bytes()))
}
