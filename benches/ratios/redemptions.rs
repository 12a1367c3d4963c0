//! Redeemed codes by the hundred thousand, encrypted, a twentieth of each of 20 banks.

use anyhow::ensure;

use crate::codes;
use crate::daemon::{Daemon, number};
use crate::database::Fill;
use crate::ground::{Ground, Key};
use crate::pipeline::Pipeline;
use crate::table::{Goal, Job, Turn, turns};

const BANKS: u16 = 20;

/// The job.
pub fn run(ground: &Ground, rounds: usize, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    let rows = ground.size.redemptions;
    let fill = Fill { banks: BANKS, lots: 1, size: rows };
    let name = format!("{rows} redemptions over {BANKS} banks of {rows}");
    let mut job = Job::new(name, "gpg -d \\| psql: staging, update", Goal::faster(10.0));

    let plain = ground.fresh("redeemed");
    // Every 20th code of each bank, the banks by turns, in no order.
    let code = |line: u64| {
        let place = codes::shuffled(line) % u64::from(BANKS);
        let bank = u16::try_from(line % u64::from(BANKS)).unwrap_or(0) + 1;
        let at = (line / u64::from(BANKS)) * u64::from(BANKS) + place;
        codes::of_lot(fill.series(bank, 1), at, rows)
    };
    let whole = rows - rows % u64::from(BANKS);
    codes::write_file(&plain, codes::any_order(whole).into_iter().map(code))?;
    let file = plain.with_extension("csv.gpg");
    ground.gpg.encrypt(&plain, &file, Key::Rsa, "")?;
    std::fs::remove_file(&plain)?;

    let template = ground.fresh("t");
    let daemon = Daemon::new_at(ground, &template, BANKS.into())?;
    fill.coupond(&daemon.database("coupond")?)?;
    Pipeline::new(&daemon, Some(fill))?;
    let template = daemon.stop()?;
    for round in 0..rounds {
        let mut daemon = Daemon::copy_of(ground, &template)?;
        let rival = Pipeline::of(&daemon)?;
        for turn in turns(round) {
            if turn == Turn::Ours {
                let (report, cost) = daemon.upload(&file, "/redemptions", "redeemed.csv.gpg")?;
                let counted = ["/rows/read", "/rows/accepted", "/rows/unknown", "/rows/rejected", "/rows/duplicate"]
                    .iter()
                    .map(|path| number(&report, path))
                    .collect::<anyhow::Result<Vec<u64>>>()?;
                ensure!(counted == [whole, whole, 0, 0, 0], "the report counts {counted:?}: {report:#}");
                job.ours.push(cost);
            } else {
                job.theirs.push(rival.redemptions(&ground.gpg, &file, &ground.path("redemptions.sql"))?);
            }
            rival.tend_both(&daemon)?;
        }
        let ours = daemon.database("coupond")?;
        let redeemed = "coupon WHERE EXISTS (SELECT FROM redemption r WHERE (r.namespace_id, r.code) = \
                        (coupon.namespace_id, coupon.code))";
        let (ours, counters) = (
            ours.fingerprint(redeemed)?,
            ours.run("SELECT sum(redeemed_ahead), count(*) FROM lot WHERE redeemed_ahead > 0;")?,
        );
        let theirs = rival.database.fingerprint("coupon WHERE status = 'redeemed'")?;
        ensure!(ours == theirs && ours.starts_with(&format!("{whole}|{whole}|")), "{ours} and {theirs} redeemed");
        ensure!(counters == format!("{whole}|{BANKS}"), "the lots count {counters} redeemed");
    }
    std::fs::remove_dir_all(&template)?;
    std::fs::remove_file(&file)?;
    jobs.push(job);
    Ok(())
}
