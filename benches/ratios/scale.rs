//! What a row costs as the bank grows a hundredfold, and whether the daemon and its commands stay quick there.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::assignments::{check, listed, manifests, write_list};
use crate::codes;
use crate::daemon::{Daemon, number};
use crate::database::{Fill, UNTIL};
use crate::ground::Ground;
use crate::machine::{self, Cost};
use crate::table::{Goal, Job, PEAK};

/// The series of codes that are not in the bank yet.
const SERIES: u16 = 1_000;
/// A row may cost so many times what it cost in the smallest bank.
const GROWTH: f64 = 1.5;
/// The longest that starting and any command may take, seconds.
const AT_ONCE: f64 = 1.0;
const MEMORY_ONLY: Goal = Goal { wall: None, cpu: None, peak: Some(PEAK) };

/// Three banks, three kinds of work on each, then the commands.
pub fn run(ground: &Ground, rounds: usize, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    let rows = ground.size.scale_rows;
    let mut smallest: Vec<Cost> = Vec::new();
    for (lots, size) in ground.size.scale {
        let fill = Fill { banks: 1, lots, size };
        let template = {
            let daemon = Daemon::new_at(ground, &ground.fresh("t"), 1)?;
            fill.coupond(&daemon.database("coupond")?)?;
            daemon.stop()?
        };
        let kinds = [("codes", rows), ("redemptions", redeemed(rows, fill)), ("recipients, all new", rows)];
        let mut worked =
            kinds.map(|(work, rows)| Job::new(format!("{rows} {work}, bank of {}", fill.codes()), "", MEMORY_ONLY));
        let mut quick: Vec<(String, f64)> = Vec::new();
        for round in 0..rounds {
            // The last round may have the template itself: there is no room for two of the largest.
            let last = round + 1 == rounds;
            let mut daemon =
                if last { Daemon::start_in(ground, &template)? } else { Daemon::copy_of(ground, &template)? };
            for (job, cost) in worked.iter_mut().zip(work(ground, &mut daemon, fill)?) {
                job.ours.push(cost);
            }
            if last {
                quick = commands(ground, daemon)?;
            }
        }
        for (place, mut job) in worked.into_iter().enumerate() {
            let median = job.ours_median().context("no rounds")?;
            match smallest.get(place) {
                None => smallest.push(median),
                Some(first) => {
                    let (wall, cpu) = (median.wall / first.wall, median.cpu / first.cpu.max(0.01));
                    let text = format!("a row costs × {wall:.2} wall, × {cpu:.2} CPU (at most × {GROWTH})");
                    job.finding = Some((text, wall < GROWTH && cpu < GROWTH));
                }
            }
            jobs.push(job);
        }
        let mut job = Job::new(format!("start and commands, bank of {}", fill.codes()), "", Goal::default());
        let slowest = quick.iter().map(|(_, wall)| *wall).fold(0.0, f64::max);
        let each = quick.iter().map(|(name, wall)| format!("{name} {wall:.2} s")).collect::<Vec<_>>().join(", ");
        job.finding = Some((format!("each under {AT_ONCE} s: {each}"), slowest < AT_ONCE));
        jobs.push(job);
    }
    Ok(())
}

/// New codes, redemptions of codes all over the bank, a batch; each on a store at rest.
fn work(ground: &Ground, daemon: &mut Daemon, fill: Fill) -> anyhow::Result<[Cost; 3]> {
    let rows = ground.size.scale_rows;
    let plain = ground.path("scale.csv");
    let tend = |daemon: &Daemon| daemon.database("coupond")?.tend();

    codes::write_file(&plain, (0..rows).map(|index| codes::of_file(SERIES, index)))?;
    let (report, coupons) = daemon.upload(&plain, "/coupons/b1", &format!("new.until-{UNTIL}.csv"))?;
    ensure!(number(&report, "/rows/accepted")? == rows, "{report:#}");
    let in_store = daemon.database("coupond")?.number("SELECT count(*) FROM coupon")?;
    ensure!(in_store == fill.codes() + rows, "the store has {in_store} codes");
    tend(daemon)?;

    let redeemed = redeemed(rows, fill);
    codes::write_file(&plain, codes::any_order(redeemed).into_iter().map(|place| spread(fill, place, redeemed)))?;
    let (report, redemptions) = daemon.upload(&plain, "/redemptions", "redeemed.csv")?;
    ensure!(number(&report, "/rows/accepted")? == redeemed && number(&report, "/rows/unknown")? == 0, "{report:#}");
    tend(daemon)?;

    write_list(&plain, 0, rows, 1)?;
    let file = [(plain.as_path(), "/recipients/c1".to_owned(), "scale.csv".to_owned())];
    let (found, batch) = daemon.measure(&file, |daemon| manifests(daemon, &[1], "scale"))?;
    check(&listed(found.first().context("no manifest")?, &[("new", rows)])?, &plain, 1, &[])?;
    tend(daemon)?;
    Ok([coupons, redemptions, batch])
}

/// How many codes are redeemed: so few that enough remains for the batch in the smallest bank.
fn redeemed(rows: u64, fill: Fill) -> u64 {
    rows.min(fill.codes()) / 2
}

/// Code `place` of `of` that are spread over the bank.
fn spread(fill: Fill, place: u64, of: u64) -> codes::Code {
    let step = fill.codes() / of;
    let at = place * step + codes::shuffled(place) % step;
    let lot = u16::try_from(at / fill.size).unwrap_or(0) + 1;
    codes::of_lot(fill.series(1, lot), at % fill.size, fill.size)
}

/// Seconds of a start and of every command that an admin waits for.
fn commands(ground: &Ground, daemon: Daemon) -> anyhow::Result<Vec<(String, f64)>> {
    let directory = daemon.stop()?;
    let start = Instant::now();
    let daemon = Daemon::start_in(ground, &directory)?;
    let mut took = vec![("start".to_owned(), start.elapsed().as_secs_f64())];
    let mut customer = Vec::new();
    codes::write_customer(&mut customer, 0)?;
    let customer = String::from_utf8(customer)?;
    let code = String::from_utf8(codes::letters(codes::of_file(SERIES, 0)).to_vec())?;
    machine::rest(daemon.id());
    for (name, arguments) in [
        ("status", "status".to_owned()),
        ("banks", "banks".to_owned()),
        ("uploads", "uploads".to_owned()),
        ("batch list", "batch list".to_owned()),
        ("code", format!("code {code} --namespace bench")),
        ("customer", format!("customer {customer} --namespace bench")),
    ] {
        let (printed, cost) = daemon.command(&arguments)?;
        ensure!(!printed.trim().is_empty(), "`coupond {name}` printed nothing");
        took.push((name.to_owned(), cost.wall));
    }
    remove(daemon, &directory)?;
    Ok(took)
}

fn remove(daemon: Daemon, directory: &Path) -> anyhow::Result<()> {
    drop(daemon);
    ensure!(!directory.exists(), "`{}` is still there", directory.display());
    Ok(())
}
