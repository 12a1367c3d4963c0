//! Codes by the million, encrypted: into an empty bank, and into one that has twice as many and 1 % of these.

use std::path::PathBuf;

use anyhow::ensure;

use crate::codes;
use crate::daemon::{Daemon, number};
use crate::database::{Fill, UNTIL};
use crate::ground::{Ground, Key};
use crate::pipeline::Pipeline;
use crate::table::{Goal, Job, Turn, turns};

/// The series of the file's codes.
const SERIES: u16 = 1_000;
/// In the file for the filled bank, every so many-th code is there already.
const DUPLICATE_EVERY: u64 = 100;

/// Both jobs.
pub fn run(ground: &Ground, rounds: usize, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    let rival = "gpg -d \\| psql: staging, insert .. on conflict do nothing";
    let (rows, (lots, size)) = (ground.size.coupons, ground.size.filled);
    let fill = Fill { banks: 1, lots, size };

    let mut empty = Job::new(format!("{rows} codes into an empty bank"), rival, Goal::faster(5.0));
    let file = sealed(ground, "empty", (0..rows).map(|index| codes::of_file(SERIES, index)))?;
    for round in 0..rounds {
        let daemon = Daemon::new(ground, 1)?;
        let rival = Pipeline::new(&daemon, None)?;
        play(ground, (daemon, rival), &file, (rows, 0, 0), round, &mut empty)?;
    }
    std::fs::remove_file(&file)?;
    jobs.push(empty);

    let name = format!("{rows} codes, 1 % of them there already, into a bank of {}", fill.codes());
    let mut filled = Job::new(name, rival, Goal::faster(3.0));
    let duplicates = rows.div_ceil(DUPLICATE_EVERY);
    let order = codes::any_order(duplicates);
    let there = |index: u64| {
        // Spread over the bank, none twice, in no order.
        let place = order.get((index / DUPLICATE_EVERY) as usize).copied().unwrap_or_default();
        let step = fill.codes() / duplicates;
        let at = place * step + codes::shuffled(place) % step;
        let lot = u16::try_from(at / size).unwrap_or(0) + 1;
        codes::of_lot(fill.series(1, lot), at % size, size)
    };
    let code =
        |index: u64| if index.is_multiple_of(DUPLICATE_EVERY) { there(index) } else { codes::of_file(SERIES, index) };
    let file = sealed(ground, "filled", (0..rows).map(code))?;
    let template = ground.fresh("t");
    let daemon = Daemon::new_at(ground, &template, 1)?;
    fill.coupond(&daemon.database("coupond")?)?;
    Pipeline::new(&daemon, Some(fill))?;
    let template = daemon.stop()?;
    for round in 0..rounds {
        let daemon = Daemon::copy_of(ground, &template)?;
        let rival = Pipeline::of(&daemon)?;
        play(ground, (daemon, rival), &file, (rows, duplicates, fill.codes()), round, &mut filled)?;
    }
    std::fs::remove_dir_all(&template)?;
    std::fs::remove_file(&file)?;
    jobs.push(filled);
    Ok(())
}

fn sealed(ground: &Ground, name: &str, codes: impl Iterator<Item = codes::Code>) -> anyhow::Result<PathBuf> {
    let plain = ground.fresh(name);
    codes::write_file(&plain, codes)?;
    let sealed = plain.with_extension("csv.gpg");
    ground.gpg.encrypt(&plain, &sealed, Key::Rsa, "")?;
    std::fs::remove_file(&plain)?;
    Ok(sealed)
}

/// One round; who begins changes with every round.
fn play(
    ground: &Ground,
    (mut daemon, rival): (Daemon, Pipeline),
    file: &std::path::Path,
    (rows, duplicates, before): (u64, u64, u64),
    round: usize,
    job: &mut Job,
) -> anyhow::Result<()> {
    for turn in turns(round) {
        if turn == Turn::Ours {
            let name = format!("codes.until-{UNTIL}.csv.gpg");
            let (report, cost) = daemon.upload(file, "/coupons/b1", &name)?;
            let counted = ["/rows/read", "/rows/accepted", "/rows/duplicate", "/rows/rejected", "/banks/0/after"]
                .iter()
                .map(|path| number(&report, path))
                .collect::<anyhow::Result<Vec<u64>>>()?;
            let new = rows - duplicates;
            ensure!(counted == [rows, new, duplicates, 0, before + new], "the report counts {counted:?}: {report:#}");
            job.ours.push(cost);
        } else {
            job.theirs.push(rival.coupons(&ground.gpg, file, &ground.path("coupons.sql"))?);
        }
        rival.tend_both(&daemon)?;
    }
    let ours = daemon.database("coupond")?.fingerprint("coupon")?;
    let theirs = rival.database.fingerprint("coupon")?;
    let expected = before + rows - duplicates;
    ensure!(ours == theirs && ours.starts_with(&format!("{expected}|{expected}|")), "{ours} and {theirs} codes");
    Ok(())
}
