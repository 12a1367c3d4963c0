//! `coupond demo`: the whole story on sample data, with OpenSSH's `sftp` and GnuPG against a fresh daemon.
//!
//! Everything lies in one temporary directory and is gone at the end, the daemon and its PostgreSQL included.

mod stage;
mod story;

use std::io::Write;

use stage::Stage;

/// Plays the story. `keep`: leaves the daemon running and says how to try it by hand.
pub(super) fn run(keep: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut stage = Stage::set()?;
    story::play(&mut stage, out)?;
    if !keep {
        return stage.strike();
    }
    writeln!(out, "\nThe daemon keeps running (process {}). To try it by hand:", stage.daemon_id())?;
    for command in stage.commands() {
        writeln!(out, "  {command}")?;
    }
    stage.leave();
    Ok(())
}
