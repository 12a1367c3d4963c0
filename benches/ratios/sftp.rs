//! SFTP against OpenSSH's sshd: the same clients, the same files, the same cipher, on the same machine.
//!
//! Bulk transfers go to memory where there is room for them (`/dev/shm`), so that they are about SFTP and not about the
//! disk. What an acknowledged CLOSE costs on the disk is measured apart: coupond syncs file and directory before it says
//! OK to CLOSE, sshd only when the client asks for it (`put -f`).

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::ensure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::assignments::sha256;
use crate::client::Client;
use crate::codes::shuffled;
use crate::daemon::{Daemon, USER};
use crate::ground::Ground;
use crate::machine::{self, Cost, bash};
use crate::openssh;
use crate::sshd::Sshd;
use crate::table::{Goal, Job, PEAK, Turn, turns};

const GCM: &str = "aes256-gcm@openssh.com";
const CHACHA: &str = "chacha20-poly1305@openssh.com";
/// Sessions at once.
const AT_ONCE: u32 = 8;
const SMALL_FILE: usize = 4096;
const MEMORY: &str = "/dev/shm";

/// Half the CPU, and never slower.
const BULK: Goal = Goal { wall: Some(1.0), cpu: Some(0.5), peak: Some(PEAK) };
/// Never slower.
const NEVER_SLOWER: Goal = Goal { wall: Some(1.0), cpu: None, peak: Some(PEAK) };

/// A server, and where it keeps what a client calls `remote`.
struct Server {
    port: u16,
    user: String,
    key: PathBuf,
    remote: String,
    local: PathBuf,
    tree: u32,
    daemon: Option<u32>,
}

/// Two servers side by side, with the client's own directory.
struct Pair {
    desk: PathBuf,
    ours: Server,
    theirs: Server,
    rounds: usize,
    // Ended in this order.
    _sshd: Sshd,
    _daemon: Daemon,
}

/// Every SFTP job.
pub fn run(ground: &Ground, rounds: usize, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    let size = ground.size;
    let room = size.transfer * u64::from(AT_ONCE + 3) + (1 << 30);
    let free = rustix::fs::statvfs(MEMORY).map_or(0, |it| it.f_bavail.saturating_mul(it.f_frsize));
    let memory = tempfile::Builder::new().prefix("cb").tempdir_in(MEMORY).ok().filter(|_| free > room);
    if let Some(memory) = &memory {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(memory.path(), fs::Permissions::from_mode(0o711))?;
    }
    let place = if memory.is_some() { "in memory" } else { "on disk" };
    let at = memory.as_ref().map_or_else(|| ground.path("bulk"), |memory| memory.path().join("bulk"));
    let pair = Pair::new(ground, &at, rounds)?;
    for cipher in [GCM, CHACHA] {
        let goal = if cipher == GCM { BULK } else { NEVER_SLOWER };
        pair.transfers(&format!("{place}, {cipher}"), cipher, size.transfer, goal, jobs)?;
    }
    pair.second_client(&format!("{place}, {GCM}, second client"), size.transfer, jobs)?;
    pair.at_once(&format!("{place}, {GCM}"), size.transfer, jobs)?;
    pair.deep(&format!("{place}, {GCM}"), size.transfer, jobs)?;
    pair.small_files(&format!("{place}, {GCM}"), size.small_files, jobs)?;
    pair.log_ins(size.logins, jobs)?;
    pair.end()?;
    drop(memory);
    let pair = Pair::new(ground, &ground.path("durable"), rounds)?;
    pair.durable(size.transfer, size.small_files, jobs)?;
    pair.end()
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A file that does not compress.
fn write_random(path: &Path, bytes: u64, seed: u64) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    let mut state = seed | 1;
    for _ in 0..bytes / 8 {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        out.write_all(&(state ^ state >> 29).to_le_bytes())?;
    }
    Ok(out.flush()?)
}

impl Pair {
    fn new(ground: &Ground, at: &Path, rounds: usize) -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::create_dir(at)?;
        fs::set_permissions(at, fs::Permissions::from_mode(0o711))?;
        let (desk, theirs) = (at.join("desk"), at.join("sshd"));
        fs::create_dir(&desk)?;
        fs::create_dir_all(theirs.join("files"))?;
        let daemon = Daemon::new_at(ground, &at.join("coupond"), 1)?;
        let sshd = Sshd::start(&theirs, &daemon.key())?;
        let ours = Server {
            port: daemon.port(),
            user: USER.to_owned(),
            key: daemon.key(),
            remote: "/exchange".to_owned(),
            local: daemon.shared("exchange"),
            tree: daemon.id(),
            daemon: Some(daemon.id()),
        };
        let theirs = Server {
            port: sshd.port,
            user: sshd.user.clone(),
            key: daemon.key(),
            remote: theirs.join("files").display().to_string(),
            local: theirs.join("files"),
            tree: sshd.tree(),
            daemon: None,
        };
        Ok(Self { desk, ours, theirs, rounds, _sshd: sshd, _daemon: daemon })
    }

    /// Ends both and removes what they had.
    fn end(self) -> anyhow::Result<()> {
        let desk = self.desk.clone();
        drop(self);
        Ok(fs::remove_dir_all(desk.parent().unwrap_or(&desk))?)
    }

    /// Rounds of a job on both; `work` does it on one and checks the outcome.
    fn play(&self, job: &mut Job, mut work: impl FnMut(&Server) -> anyhow::Result<Cost>) -> anyhow::Result<()> {
        for round in 0..self.rounds {
            for turn in turns(round) {
                if turn == Turn::Ours {
                    job.ours.push(work(&self.ours)?);
                } else {
                    job.theirs.push(work(&self.theirs)?);
                }
            }
        }
        Ok(())
    }

    fn batch(&self, name: &str, commands: &str) -> anyhow::Result<PathBuf> {
        let batch = self.desk.join(name);
        fs::write(&batch, format!("{commands}\n"))?;
        Ok(batch)
    }

    /// One file up, and the same down again.
    fn transfers(&self, how: &str, cipher: &str, bytes: u64, goal: Goal, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
        let mut up = Job::new(format!("upload {}, {how}", mebibytes(bytes)), "sshd", goal);
        let mut down = Job::new(format!("download {}, {how}", mebibytes(bytes)), "sshd", goal);
        let source = self.desk.join("large");
        write_random(&source, bytes, 1)?;
        let digest = sha256(&source)?;
        let options = format!("-c {cipher}");
        self.play(&mut up, |server| {
            let batch = self.batch("put", &format!("put \"{}\" \"{}/large\"", source.display(), server.remote))?;
            let cost = server.measure(|| server.sftp(&options, &batch))?;
            ensure!(sha256(&server.local.join("large"))? == digest, "what arrived is not what was sent");
            Ok(cost)
        })?;
        let copy = self.desk.join("copy");
        self.play(&mut down, |server| {
            let batch = self.batch("get", &format!("get \"{}/large\" \"{}\"", server.remote, copy.display()))?;
            let cost = server.measure(|| server.sftp(&options, &batch))?;
            ensure!(sha256(&copy)? == digest, "what was fetched is not what is there");
            fs::remove_file(&copy)?;
            Ok(cost)
        })?;
        self.clear(&[source], "large")?;
        jobs.extend([up, down]);
        Ok(())
    }

    fn clear(&self, desk: &[PathBuf], stored: &str) -> anyhow::Result<()> {
        for path in desk {
            fs::remove_file(path)?;
        }
        for server in [&self.ours, &self.theirs] {
            fs::remove_file(server.local.join(stored))?;
        }
        Ok(())
    }

    /// The same with a client library, as its documentation shows; a part of this process.
    fn second_client(&self, how: &str, bytes: u64, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
        let mut up = Job::new(format!("upload {}, {how}", mebibytes(bytes)), "sshd", BULK);
        let mut down = Job::new(format!("download {}, {how}", mebibytes(bytes)), "sshd", BULK);
        let source = self.desk.join("large");
        write_random(&source, bytes, 2)?;
        let digest = sha256(&source)?;
        self.play(&mut up, |server| {
            let client = Client::connect(server.port, &server.user, &server.key, Some(GCM))?;
            let cost = server.measure(|| client.put(&source, &format!("{}/large", server.remote)).map(drop))?;
            ensure!(sha256(&server.local.join("large"))? == digest, "what arrived is not what was sent");
            Ok(cost)
        })?;
        let copy = self.desk.join("copy");
        self.play(&mut down, |server| {
            let client = Client::connect(server.port, &server.user, &server.key, Some(GCM))?;
            let cost = server.measure(|| client.get(&format!("{}/large", server.remote), &copy))?;
            ensure!(sha256(&copy)? == digest, "what was fetched is not what is there");
            fs::remove_file(&copy)?;
            Ok(cost)
        })?;
        self.clear(&[source], "large")?;
        jobs.extend([up, down]);
        Ok(())
    }

    /// Eight sessions at once, a file each.
    fn at_once(&self, how: &str, bytes: u64, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
        let mut up = Job::new(format!("upload {AT_ONCE} × {} at once, {how}", mebibytes(bytes)), "sshd", BULK);
        let mut down = Job::new(format!("download {AT_ONCE} × {} at once, {how}", mebibytes(bytes)), "sshd", BULK);
        let source = self.desk.join("large");
        write_random(&source, bytes, 3)?;
        let digest = sha256(&source)?;
        let options = format!("-c {GCM}");
        self.play(&mut up, |server| {
            let line = |number| format!("put \"{}\" \"{}/large{number}\"", source.display(), server.remote);
            let cost = server.measure(|| self.all(server, &options, line))?;
            for number in 1..=AT_ONCE {
                let stored = server.local.join(format!("large{number}"));
                ensure!(sha256(&stored)? == digest, "what arrived is not what was sent");
                fs::remove_file(&stored)?;
            }
            Ok(cost)
        })?;
        self.play(&mut down, |server| {
            fs::copy(&source, server.local.join("large"))?;
            let copy = |number: u32| self.desk.join(format!("copy{number}"));
            let line = |number| format!("get \"{}/large\" \"{}\"", server.remote, copy(number).display());
            let cost = server.measure(|| self.all(server, &options, line))?;
            for number in 1..=AT_ONCE {
                ensure!(sha256(&copy(number))? == digest, "what was fetched is not what is there");
                fs::remove_file(copy(number))?;
            }
            fs::remove_file(server.local.join("large"))?;
            Ok(cost)
        })?;
        fs::remove_file(source)?;
        jobs.extend([up, down]);
        Ok(())
    }

    fn all(&self, server: &Server, options: &str, line: impl Fn(u32) -> String) -> anyhow::Result<()> {
        let mut script = "jobs=()\n".to_owned();
        for number in 1..=AT_ONCE {
            let batch = self.batch(&format!("batch{number}"), &line(number))?;
            script.push_str(&format!("{} & jobs+=($!)\n", server.command(options, &batch)));
        }
        script.push_str("for job in \"${jobs[@]}\"; do wait \"$job\"; done");
        bash(&script, &self.desk).map(drop)
    }

    /// A client that sends thousands of requests ahead: nothing may stall, and memory must stay within its cap.
    fn deep(&self, how: &str, bytes: u64, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
        const AHEAD: u32 = 16_384;
        let more = format!("{}, {how}, {AHEAD} requests ahead", mebibytes(bytes));
        let mut up = Job::new(format!("upload {more}"), "sshd", NEVER_SLOWER);
        let mut down = Job::new(format!("download {more}"), "sshd", NEVER_SLOWER);
        let (source, copy) = (self.desk.join("large"), self.desk.join("copy"));
        write_random(&source, bytes, 4)?;
        let digest = sha256(&source)?;
        let options = format!("-c {GCM} -R {AHEAD} -B 32768");
        self.play(&mut up, |server| {
            let batch = self.batch("put", &format!("put \"{}\" \"{}/large\"", source.display(), server.remote))?;
            let cost = server.measure(|| server.sftp(&options, &batch))?;
            ensure!(sha256(&server.local.join("large"))? == digest, "what arrived is not what was sent");
            Ok(cost)
        })?;
        self.play(&mut down, |server| {
            let batch = self.batch("get", &format!("get \"{}/large\" \"{}\"", server.remote, copy.display()))?;
            let cost = server.measure(|| server.sftp(&options, &batch))?;
            ensure!(sha256(&copy)? == digest, "what was fetched is not what is there");
            fs::remove_file(&copy)?;
            Ok(cost)
        })?;
        self.clear(&[source], "large")?;
        jobs.extend([up, down]);
        Ok(())
    }

    /// Many small files in one session.
    fn small_files(&self, how: &str, files: u64, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
        let more = format!("{files} files of {} KiB, {how}", SMALL_FILE >> 10);
        let mut up = Job::new(format!("upload {more}"), "sshd", NEVER_SLOWER);
        let mut down = Job::new(format!("download {more}"), "sshd", NEVER_SLOWER);
        let source = self.small_source(files)?;
        let options = format!("-c {GCM}");
        self.play(&mut up, |server| self.put_small(server, &source, &options, "put"))?;
        let copy = self.desk.join("copies");
        self.play(&mut down, |server| {
            fs::create_dir(&copy)?;
            let lines = format!("cd \"{}/small\"\nlcd \"{}\"\nget *", server.remote, copy.display());
            let batch = self.batch("get", &lines)?;
            let cost = server.measure(|| server.sftp(&options, &batch))?;
            same(&source, &copy)?;
            fs::remove_dir_all(&copy)?;
            Ok(cost)
        })?;
        fs::remove_dir_all(&source)?;
        jobs.extend([up, down]);
        Ok(())
    }

    fn small_source(&self, files: u64) -> anyhow::Result<PathBuf> {
        let source = self.desk.join("small");
        fs::create_dir(&source)?;
        for number in 0..files {
            write_random(&source.join(format!("{number:05}")), SMALL_FILE as u64, shuffled(number))?;
        }
        Ok(source)
    }

    fn put_small(&self, server: &Server, source: &Path, options: &str, put: &str) -> anyhow::Result<Cost> {
        let stored = server.local.join("small");
        if stored.exists() {
            fs::remove_dir_all(&stored)?;
        }
        let remote = format!("{}/small", server.remote);
        let lines = format!("mkdir \"{remote}\"\ncd \"{remote}\"\nlcd \"{}\"\n{put} *", source.display());
        let batch = self.batch("put", &lines)?;
        let cost = server.measure(|| server.sftp(options, &batch))?;
        same(source, &stored)?;
        Ok(cost)
    }

    /// Sessions one after another: log in, list, leave.
    fn log_ins(&self, sessions: u64, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
        let mut job = Job::new(format!("{sessions} log-ins with a listing, one after another"), "sshd", BULK);
        self.play(&mut job, |server| {
            let batch = self.batch("list", &format!("ls -1 \"{}\"", server.remote))?;
            let one = server.command("", &batch);
            let script = format!("for each in $(seq {sessions}); do {one}; done");
            server.measure(|| bash(&script, &self.desk).map(drop))
        })?;
        jobs.push(job);
        Ok(())
    }

    /// What an acknowledged upload costs when it must be on disk: against `put -f`, and against an sshd that does not care.
    fn durable(&self, bytes: u64, files: u64, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
        let source = self.desk.join("large");
        write_random(&source, bytes, 5)?;
        let digest = sha256(&source)?;
        let options = format!("-c {GCM}");
        let large = mebibytes(bytes);
        for (put, rival, goal) in [
            ("put -f", "sshd, fsync asked for (`put -f`)", NEVER_SLOWER),
            ("put", "sshd, nothing synced", Goal { peak: Some(PEAK), ..Goal::default() }),
        ] {
            let mut job = Job::new(format!("upload {large} to disk, CLOSE is durable, {GCM}"), rival, goal);
            self.play(&mut job, |server| {
                let put = if server.daemon.is_some() { "put" } else { put };
                let line = format!("{put} \"{}\" \"{}/large\"", source.display(), server.remote);
                let batch = self.batch("put", &line)?;
                let cost = server.measure(|| server.sftp(&options, &batch))?;
                ensure!(sha256(&server.local.join("large"))? == digest, "what arrived is not what was sent");
                fs::remove_file(server.local.join("large"))?;
                bash("sync", &self.desk)?;
                Ok(cost)
            })?;
            jobs.push(job);
        }
        jobs.push(self.inbound(&source, &large)?);
        fs::remove_file(source)?;
        let source = self.small_source(files)?;
        for (put, rival, goal) in [
            ("put -f", "sshd, fsync asked for (`put -f`)", NEVER_SLOWER),
            ("put", "sshd, nothing synced", Goal { peak: Some(PEAK), ..Goal::default() }),
        ] {
            let name = format!("upload {files} files of {} KiB to disk, CLOSE is durable, {GCM}", SMALL_FILE >> 10);
            let mut job = Job::new(name, rival, goal);
            self.play(&mut job, |server| {
                let put = if server.daemon.is_some() { "put" } else { put };
                let cost = self.put_small(server, &source, &options, put)?;
                bash("sync", &self.desk)?;
                Ok(cost)
            })?;
            jobs.push(job);
        }
        Ok(())
    }

    /// Into `/coupons/`, where an upload also gets its row in the store. Under a temporary name, so that it is only received.
    fn inbound(&self, source: &Path, large: &str) -> anyhow::Result<Job> {
        let name = format!("upload {large} into /coupons/b1 on disk, CLOSE is durable, {GCM}");
        let mut job = Job::new(name, "sshd, fsync asked for (`put -f`)", NEVER_SLOWER);
        let (mut closes, options) = (Vec::new(), format!("-c {GCM}"));
        let digest = sha256(source)?;
        self.play(&mut job, |server| {
            if server.daemon.is_none() {
                let line = format!("put -f \"{}\" \"{}/large\"", source.display(), server.remote);
                let batch = self.batch("put", &line)?;
                let cost = server.measure(|| server.sftp(&options, &batch))?;
                fs::remove_file(server.local.join("large"))?;
                bash("sync", &self.desk)?;
                return Ok(cost);
            }
            let line = format!("put \"{}\" /coupons/b1/large.part\nls -l /coupons/b1/large.part", source.display());
            let batch = self.batch("put", &line)?;
            let cost = server.measure(|| server.sftp(&options, &batch))?;
            let incoming = server.local.with_file_name(".spool").join("incoming");
            let mut stored = fs::read_dir(&incoming)?;
            let one = stored.next().transpose()?.map(|entry| sha256(&entry.path())).transpose()?;
            ensure!(one.as_ref() == Some(&digest) && stored.next().is_none(), "what arrived is not what was sent");
            let client = Client::connect(server.port, &server.user, &server.key, Some(GCM))?;
            client.does(async |session| Ok(session.remove_file("/coupons/b1/large.part").await?))?;
            bash("sync", &self.desk)?;
            closes.push(client.put(source, "/coupons/b1/large.part")?);
            client.does(async |session| Ok(session.remove_file("/coupons/b1/large.part").await?))?;
            Ok(cost)
        })?;
        closes.sort_by(f64::total_cmp);
        let close = closes.get(closes.len() / 2).copied().unwrap_or_default();
        job.finding = Some((format!("CLOSE alone: {:.1} ms", close * 1e3), true));
        Ok(job)
    }
}

impl Server {
    fn command(&self, options: &str, batch: &Path) -> String {
        openssh::command(self.port, &self.user, &self.key, options, batch)
    }

    fn sftp(&self, options: &str, batch: &Path) -> anyhow::Result<()> {
        bash(&self.command(options, batch), Path::new("/")).map(drop)
    }

    /// What some work costs this server: CPU of its whole tree, memory where it is the daemon.
    fn measure(&self, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Cost> {
        machine::rest(self.tree);
        self.daemon.map(machine::forget_peak).transpose()?;
        let (start, before) = (Instant::now(), machine::tree_cpu(self.tree));
        work()?;
        let wall = start.elapsed().as_secs_f64();
        machine::rest(self.tree);
        let cpu = machine::tree_cpu(self.tree) - before;
        Ok(Cost { wall, cpu, peak: self.daemon.map(machine::peak).transpose()?.unwrap_or(0) })
    }
}

fn same(left: &Path, right: &Path) -> anyhow::Result<()> {
    bash(&format!("diff -rq '{}' '{}'", left.display(), right.display()), Path::new("/")).map(drop)
}

impl Client {
    /// Uploads a file; answers with the seconds between CLOSE and its answer.
    fn put(&self, source: &Path, remote: &str) -> anyhow::Result<f64> {
        self.does(async |session| {
            let mut input = fs::File::open(source)?;
            let mut output = session.create(remote).await?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let read = input.read(&mut buffer)?;
                let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
                output.write_all(piece).await?;
            }
            output.flush().await?;
            let start = Instant::now();
            output.close().await?;
            Ok(start.elapsed().as_secs_f64())
        })
    }

    /// Downloads a file.
    fn get(&self, remote: &str, target: &Path) -> anyhow::Result<()> {
        self.does(async |session| {
            let mut input = session.open(remote).await?;
            let mut output = fs::File::create(target)?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let read = input.read(&mut buffer).await?;
                let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
                output.write_all(piece)?;
            }
            Ok(())
        })
    }
}
