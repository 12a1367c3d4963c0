//! Batches by the million: all recipients new, all kept, half redeemed; then ten batches on ten banks at once.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::assignments::{check, listed, manifests, write_list};
use crate::codes::{self, Code};
use crate::daemon::Daemon;
use crate::database::Fill;
use crate::ground::{Ground, Key};
use crate::machine::Cost;
use crate::pipeline::Pipeline;
use crate::table::{Goal, Job, Turn, turns};

const RIVAL: &str = "psql: \\copy, anti-join, skip locked, update, \\copy";
/// Banks of the batches at once.
const AT_ONCE: u32 = 10;
/// The bank holds as many lots as this ...
const LOTS: u16 = 8;
/// ... of so many codes for so many recipients.
const LOT_FOR: (u64, u64) = (1, 5);

/// All four jobs.
pub fn run(ground: &Ground, rounds: usize, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    one_after_another(ground, rounds, jobs)?;
    at_once(ground, rounds, jobs)
}

fn template(ground: &Ground, fill: Fill) -> anyhow::Result<PathBuf> {
    let daemon = Daemon::new_at(ground, &ground.fresh("t"), fill.banks.into())?;
    fill.coupond(&daemon.database("coupond")?)?;
    Pipeline::new(&daemon, Some(fill))?;
    daemon.stop()
}

/// What one side has given out so far, by line.
#[derive(Default)]
struct Side {
    codes: Vec<Code>,
}

/// The three editions of the list, and what must come of them.
struct Edition {
    list: PathBuf,
    ours: Vec<(&'static str, u64)>,
    /// Which lines keep their code.
    keeps: fn(usize) -> bool,
}

fn one_after_another(ground: &Ground, rounds: usize, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    let rows = ground.size.recipients;
    let fill = Fill { banks: 1, lots: LOTS, size: rows * LOT_FOR.0 / LOT_FOR.1 };
    let half = rows / 2;
    let edition = |number: u64, ours: &[(&'static str, u64)], keeps: fn(usize) -> bool| -> anyhow::Result<Edition> {
        let list = ground.path(&format!("list{number}.csv"));
        write_list(&list, 0, rows, number)?;
        Ok(Edition { list, ours: ours.to_vec(), keeps })
    };
    let editions = [
        edition(1, &[("new", rows)], |_| false)?,
        edition(2, &[("kept", rows)], |_| true)?,
        edition(3, &[("kept", rows - half), ("replaced_redeemed", half)], |line| line % 2 == 0)?,
    ];
    let mut played = [
        Job::new(format!("{rows} recipients, all new"), RIVAL, Goal::faster(5.0)),
        Job::new(format!("{rows} recipients, all kept"), RIVAL, Goal::faster(5.0)),
        Job::new(format!("{rows} recipients, half redeemed"), RIVAL, Goal::faster(5.0)),
    ];
    let template = template(ground, fill)?;
    for round in 0..rounds {
        let mut daemon = Daemon::copy_of(ground, &template)?;
        let rival = Pipeline::of(&daemon)?;
        let (mut us, mut them) = (Side::default(), Side::default());
        for (number, (edition, job)) in editions.iter().zip(&mut played).enumerate() {
            if number == 2 {
                redeem_every_other(ground, &mut daemon, &rival, &us, &them)?;
            }
            for turn in turns(round) {
                if turn == Turn::Ours {
                    job.ours.push(our_batch(&mut daemon, edition, number, &mut us)?);
                } else {
                    job.theirs.push(their_batch(&rival, edition, ground, &mut them)?);
                }
                rival.tend_both(&daemon)?;
            }
        }
    }
    std::fs::remove_dir_all(&template)?;
    jobs.extend(played);
    Ok(())
}

impl Side {
    /// Holds what was given out now against what was before: who keeps a code, and that nobody gets a used one.
    fn take(&mut self, edition: &Edition, file: &Path) -> anyhow::Result<()> {
        let keeps = |(line, code): (usize, &Code)| (edition.keeps)(line).then_some(*code);
        let held: Vec<Option<Code>> = self.codes.iter().enumerate().map(keeps).collect();
        let now = check(file, &edition.list, 1, &held)?;
        let used: std::collections::HashSet<&Code> = self.codes.iter().collect();
        let again = now.iter().enumerate().find(|(line, code)| !(edition.keeps)(*line) && used.contains(code));
        ensure!(again.is_none(), "a code that was used went out again, line {again:?}");
        self.codes = now;
        Ok(())
    }
}

fn our_batch(daemon: &mut Daemon, edition: &Edition, number: usize, us: &mut Side) -> anyhow::Result<Cost> {
    let stem = format!("list{number}");
    let file = [(edition.list.as_path(), "/recipients/c1".to_owned(), format!("{stem}.csv"))];
    let (found, cost) = daemon.measure(&file, |daemon| manifests(daemon, &[1], &stem))?;
    let manifest = found.first().context("no manifest")?;
    us.take(edition, &listed(manifest, &edition.ours)?)?;
    Ok(cost)
}

fn their_batch(rival: &Pipeline, edition: &Edition, ground: &Ground, them: &mut Side) -> anyhow::Result<Cost> {
    let out = ground.path("assigned.csv");
    let cost = rival.batches(&[(1, &edition.list, &out)])?;
    them.take(edition, &out)?;
    std::fs::remove_file(&out)?;
    Ok(cost)
}

/// The codes of every other line are redeemed, on both sides. Not measured here.
fn redeem_every_other(
    ground: &Ground,
    daemon: &mut Daemon,
    rival: &Pipeline,
    us: &Side,
    them: &Side,
) -> anyhow::Result<()> {
    let (ours, theirs, script) = (ground.path("used.csv"), ground.path("theirs.csv"), ground.path("used.sql"));
    let every_other = |side: &Side| side.codes.iter().copied().skip(1).step_by(2).collect::<Vec<_>>();
    codes::write_file(&ours, every_other(us).into_iter())?;
    daemon.upload(&ours, "/redemptions", "used.csv")?;
    codes::write_file(&theirs, every_other(them).into_iter())?;
    let sealed = theirs.with_extension("gpg");
    ground.gpg.encrypt(&theirs, &sealed, Key::Rsa, "")?;
    rival.redemptions(&ground.gpg, &sealed, &script)?;
    rival.tend_both(daemon)
}

fn at_once(ground: &Ground, rounds: usize, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    let rows = ground.size.recipients / u64::from(AT_ONCE);
    let banks: Vec<u32> = (1..=AT_ONCE).collect();
    let fill = Fill { banks: u16::try_from(AT_ONCE)?, lots: 2, size: rows };
    let name = format!("{AT_ONCE} batches of {rows} recipients on {AT_ONCE} banks at once, all new");
    let mut job = Job::new(name, RIVAL, Goal::faster(5.0));
    let mut files = Vec::new();
    for bank in &banks {
        let (list, out) = (ground.path(&format!("many{bank}.csv")), ground.path(&format!("out{bank}.csv")));
        write_list(&list, u64::from(*bank) * rows, rows, 1)?;
        files.push((*bank, list, out));
    }
    let template = template(ground, fill)?;
    for round in 0..rounds {
        let mut daemon = Daemon::copy_of(ground, &template)?;
        let rival = Pipeline::of(&daemon)?;
        for turn in turns(round) {
            if turn == Turn::Ours {
                let drops: Vec<(&Path, String, String)> = files
                    .iter()
                    .map(|(bank, list, _)| (list.as_path(), format!("/recipients/c{bank}"), "many.csv".to_owned()))
                    .collect();
                let (found, cost) = daemon.measure(&drops, |daemon| manifests(daemon, &banks, "many"))?;
                for ((bank, list, _), manifest) in files.iter().zip(&found) {
                    check(&listed(manifest, &[("new", rows)])?, list, *bank, &[])?;
                }
                job.ours.push(cost);
            } else {
                let scripts: Vec<(u32, &Path, &Path)> =
                    files.iter().map(|(bank, list, out)| (*bank, list.as_path(), out.as_path())).collect();
                job.theirs.push(rival.batches(&scripts)?);
                for (bank, list, out) in &files {
                    check(out, list, *bank, &[])?;
                    std::fs::remove_file(out)?;
                }
            }
            rival.tend_both(&daemon)?;
        }
    }
    std::fs::remove_dir_all(&template)?;
    jobs.push(job);
    Ok(())
}
