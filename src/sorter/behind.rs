//! Runs that are sorted and sealed by a thread of their own, while whoever reads a list fills the next one.
//!
//! An error of the disk comes out of a later run, or at the end.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use super::By;
use super::run::Run;
use super::tape::Tape;

/// Runs that were sorted, one behind the other, and where each ends.
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) tape: Tape,
    pub(super) ends: Vec<usize>,
}

/// The thread, from this side.
#[derive(Debug)]
pub(super) struct Behind {
    /// `None` when no more comes. Nothing waits in it: there are two runs in memory.
    full: Option<SyncSender<Run>>,
    empty: Receiver<Run>,
    thread: Option<JoinHandle<io::Result<Runs>>>,
}

impl Behind {
    pub(super) fn start(by: By, tape: Tape) -> io::Result<Self> {
        let ((full, filled), (emptied, empty)) = (sync_channel(0), channel());
        let thread =
            thread::Builder::new().name("sort".to_owned()).spawn(move || write(by, tape, &filled, &emptied))?;
        Ok(Self { full: Some(full), empty, thread: Some(thread) })
    }

    /// Hands a run over. Returns one that is done with, the second time and later.
    pub(super) fn hand_over(&mut self, run: Run) -> io::Result<Option<Run>> {
        if self.full.as_ref().is_none_or(|full| full.send(run).is_err()) {
            return self.end().and(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Ok(self.empty.try_recv().ok())
    }

    /// Everything that was handed over.
    pub(super) fn end(&mut self) -> io::Result<Runs> {
        self.full = None;
        let gone = || io::Error::other("the thread that sorts rows panicked");
        self.thread.take().map(JoinHandle::join).and_then(Result::ok).ok_or_else(gone)?
    }
}

/// Who lets a list go half way waits for the run at hand.
impl Drop for Behind {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

fn write(by: By, mut tape: Tape, filled: &Receiver<Run>, emptied: &Sender<Run>) -> io::Result<Runs> {
    let mut ends = Vec::new();
    while let Ok(mut run) = filled.recv() {
        by.sort(&mut run);
        run.rows().try_for_each(|row| tape.write(row))?;
        ends.push(tape.cut()?);
        run.clear();
        // At the end nobody wants it back.
        let _ = emptied.send(run);
    }
    Ok(Runs { tape, ends })
}
