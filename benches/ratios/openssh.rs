//! OpenSSH's client.

use std::path::Path;

use crate::machine::{Cost, bash};

/// How `sftp` is called in a script to run the commands in the file `batch`.
pub fn command(port: u16, user: &str, key: &Path, options: &str, batch: &Path) -> String {
    format!(
        "sftp -q -b '{}' -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
         -o IdentitiesOnly=yes -o PreferredAuthentications=publickey {options} -P {port} -i '{}' {user}@127.0.0.1 \
         >/dev/null",
        batch.display(),
        key.display()
    )
}

/// Runs `sftp` with these commands, which must succeed.
pub fn sftp(port: u16, user: &str, key: &Path, commands: &str, directory: &Path) -> anyhow::Result<Cost> {
    let batch = directory.join("commands");
    std::fs::write(&batch, format!("{commands}\n"))?;
    bash(&command(port, user, key, "", &batch), directory).map(|(_, cost)| cost)
}
