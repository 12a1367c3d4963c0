//! Which changed settings a running daemon cannot take over.

use super::Settings;

/// The keys that differ between `old` and `new` and take effect only at the next start; a reload warns about each.
#[must_use]
pub fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    [
        ("state_dir", old.state_dir != new.state_dir),
        ("sftp.listen", old.sftp.listen != new.sftp.listen),
        ("sftp.host_keys", old.sftp.host_keys != new.sftp.host_keys),
        ("database.url", old.database != new.database),
        ("http.listen", old.http != new.http),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}
