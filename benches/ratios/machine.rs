//! What work cost: wall time, CPU time of whole process trees, peak memory; and on which machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Linux counts CPU time in hundredths of a second wherever this runs (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What one piece of work cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Seconds from its beginning to its result.
    pub wall: f64,
    /// Seconds of CPU, user and system, of everything on the server's side.
    pub cpu: f64,
    /// Most memory that the daemon had resident meanwhile, bytes. 0: not measured.
    pub peak: u64,
}

struct Process {
    parent: u32,
    ticks: u64,
}

/// Fields of `/proc/<id>/stat` from the state on; the name before may hold anything.
fn fields(id: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

fn processes() -> BTreeMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all = ids.filter_map(|id| {
        let fields = fields(id)?;
        let field = |number: usize| fields.get(number).copied().unwrap_or(0);
        // utime, stime, and those of children that ended and were waited for.
        let ticks = field(11) + field(12) + field(13) + field(14);
        Some((id, Process { parent: u32::try_from(field(1)).ok()?, ticks }))
    });
    all.collect()
}

/// CPU seconds that the tree under process `root` has used so far, with everything in it that has ended.
pub fn tree_cpu(root: u32) -> f64 {
    let all = processes();
    let belongs = |mut id: u32| loop {
        if id == root {
            return true;
        }
        match all.get(&id) {
            Some(process) if process.parent != 0 => id = process.parent,
            _ => return false,
        }
    };
    let ticks: u64 = all.iter().filter(|(id, _)| belongs(**id)).map(|(_, process)| process.ticks).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// CPU seconds of those children of this process that it has waited for.
pub fn children_cpu() -> f64 {
    let fields = fields(std::process::id()).unwrap_or_default();
    let field = |number: usize| fields.get(number).copied().unwrap_or(0);
    (field(13) + field(14)) as f64 / TICKS_PER_SECOND
}

/// The first child of process `id`.
pub fn child_of(id: u32) -> Option<u32> {
    processes().into_iter().find(|(_, process)| process.parent == id).map(|(child, _)| child)
}

/// Forgets the peak of process `id`, so that [`peak`] tells that of the work at hand.
pub fn forget_peak(id: u32) -> anyhow::Result<()> {
    let path = format!("/proc/{id}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write `{path}`"))
}

/// Most bytes that process `id` had resident since [`forget_peak`].
pub fn peak(id: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).context("look at the daemon's memory")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Waits until the tree under `root` has rested for a while: what follows the result still belongs to the work.
pub fn rest(root: u32) {
    let patience = Instant::now() + Duration::from_secs(60);
    let mut before = tree_cpu(root);
    while Instant::now() < patience {
        std::thread::park_timeout(Duration::from_millis(400));
        let now = tree_cpu(root);
        if now - before <= 0.02 {
            return;
        }
        before = now;
    }
}

/// Whether somebody has pressed ^C.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on ^C does not end this program but what it runs (the terminal tells all of them), and it runs nothing new:
/// so it fails, and tidies up as after any failure.
pub fn heed_interrupts() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
    };
    std::thread::spawn(move || {
        while runtime.block_on(signals.recv()).is_some() {
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Runs a pipeline in bash that must succeed; answers with what it printed, and what it cost here (what it made servers
/// do is theirs).
pub fn bash(script: &str, directory: &Path) -> anyhow::Result<(String, Cost)> {
    anyhow::ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    let (start, cpu) = (Instant::now(), children_cpu());
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "bash", "-euo", "pipefail", "-c", script])
        .current_dir(directory)
        .stdin(std::process::Stdio::null())
        .output()
        .context("run bash")?;
    let cost = Cost { wall: start.elapsed().as_secs_f64(), cpu: children_cpu() - cpu, peak: 0 };
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "`{script}` ended with {}: {}", output.status, said.trim_end());
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), cost))
}

/// The first line that a program prints.
pub fn first_line(script: &str) -> String {
    let printed = bash(script, Path::new("/")).map(|(printed, _)| printed).unwrap_or_default();
    printed.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// Processor, cores, memory, system, and how busy it was when the run began.
pub fn describe() -> String {
    let cpu = first_line("sed -n 's/^model name.*: //p' /proc/cpuinfo");
    let memory = first_line("awk '/^MemTotal/ { printf \"%.0f GiB\", $2 / 1048576 }' /proc/meminfo");
    let system = first_line(". /etc/os-release; echo \"$PRETTY_NAME, Linux $(uname -r)\"");
    let load = first_line("cut -d ' ' -f 1-3 /proc/loadavg");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cpu}, {cores} cores, {memory}; {system}; load before the run {load}")
}
