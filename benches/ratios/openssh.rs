//! OpenSSH's client.

use std::path::Path;

use crate::machine::{Cost, bash};

/// Runs `sftp -b` with these commands, which must succeed; answers with what it printed.
pub fn sftp(
    port: u16,
    user: &str,
    key: &Path,
    commands: &str,
    directory: &Path,
    options: &str,
) -> anyhow::Result<(String, Cost)> {
    let script = format!(
        "sftp -q -b - -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
         -o IdentitiesOnly=yes -o PreferredAuthentications=publickey {options} -P {port} -i '{}' {user}@127.0.0.1 \
         <<'COMMANDS'\n{commands}\nCOMMANDS",
        key.display()
    );
    bash(&script, directory)
}
