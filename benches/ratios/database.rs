//! A database in the daemon's private PostgreSQL, spoken to with psql; and filling coupond's own by the million.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::codes;
use crate::machine::{self, Cost, bash};

/// The end date of every code.
pub const UNTIL: &str = "2099-12-31";

/// A database.
#[derive(Clone, Debug)]
pub struct Database {
    socket: PathBuf,
    name: String,
    postmaster: u32,
}

impl Database {
    /// The database `name` of the private PostgreSQL under `state`.
    pub fn of(state: &Path, name: &str) -> anyhow::Result<Self> {
        let socket = state.join("postgres/pgsock");
        anyhow::ensure!(
            socket.join(".s.PGSQL.5432").exists(),
            "find the socket in `{}`: give a shorter --dir",
            socket.display()
        );
        let mark = std::fs::read_to_string(state.join("postgres/pgdata/postmaster.pid"))?;
        let postmaster = mark.lines().next().unwrap_or_default().trim().parse()?;
        Ok(Self { socket, name: name.to_owned(), postmaster })
    }

    /// How psql is called in a script.
    pub fn psql(&self) -> String {
        let (socket, name) = (self.socket.display(), &self.name);
        format!("psql -X -q -A -t -v ON_ERROR_STOP=1 -h '{socket}' -U coupond -d {name}")
    }

    /// Runs statements; answers with the rows, columns split by `|`.
    pub fn run(&self, statements: &str) -> anyhow::Result<String> {
        let (printed, _) = bash(&format!("{} <<'SQL'\n{statements}\nSQL", self.psql()), Path::new("/"))?;
        Ok(printed.trim().to_owned())
    }

    /// The number that a query answers with.
    pub fn number(&self, query: &str) -> anyhow::Result<u64> {
        let printed = self.run(&format!("{query};"))?;
        printed.parse().with_context(|| format!("`{query}` answered `{printed}`"))
    }

    /// COPY of rows that `write` makes.
    pub fn copy(
        &self,
        table: &str,
        write: impl FnOnce(&mut BufWriter<std::process::ChildStdin>) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut child = Command::new("bash")
            .args(["-c", &format!("exec {} -c 'COPY {table} FROM STDIN'", self.psql())])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut input = BufWriter::with_capacity(1 << 20, child.stdin.take().context("no pipe")?);
        let written = write(&mut input).and_then(|()| input.flush());
        drop(input);
        let status = child.wait()?;
        written.with_context(|| format!("copy into {table}"))?;
        anyhow::ensure!(status.success(), "copy into {table}: psql ended with {status}");
        Ok(())
    }

    /// Waits until nothing of what came before is left to be done: no vacuum, no dirty pages.
    pub fn settle(&self) -> anyhow::Result<()> {
        let patience = Instant::now() + Duration::from_secs(600);
        while self.number("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'")? > 0 {
            anyhow::ensure!(Instant::now() < patience, "wait for autovacuum to end");
            std::thread::park_timeout(Duration::from_millis(100));
        }
        self.run("CHECKPOINT;").map(drop)
    }

    /// Runs a script as a team's nightly job would, and measures: the script's own CPU and PostgreSQL's.
    pub fn measure(&self, script: &str, directory: &Path) -> anyhow::Result<(String, Cost)> {
        self.settle()?;
        machine::rest(self.postmaster);
        let before = machine::tree_cpu(self.postmaster);
        let (printed, mut cost) = bash(script, directory)?;
        machine::rest(self.postmaster);
        cost.cpu += machine::tree_cpu(self.postmaster) - before;
        Ok((printed, cost))
    }

    /// What tells two sets of codes apart: how many, how many different, and a sum over all of them.
    pub fn fingerprint(&self, of: &str) -> anyhow::Result<String> {
        self.run(&format!("SELECT count(*), count(DISTINCT code), sum(hashtext(code)::bigint) FROM {of};"))
    }

    /// The statistics and the visibility map as they are a while after a large change, when autovacuum has been there.
    pub fn tend(&self) -> anyhow::Result<()> {
        self.run("VACUUM (ANALYZE);").map(drop)
    }
}

/// Codes put into the store at once: banks `b1` to `b<banks>`, each with `lots` lots of `size` codes.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// How many banks.
    pub banks: u16,
    /// Lots of each.
    pub lots: u16,
    /// Codes of each lot.
    pub size: u64,
}

impl Fill {
    /// The series of a lot's codes; bank and lot count from 1.
    pub fn series(&self, bank: u16, lot: u16) -> u16 {
        (bank - 1) * self.lots + lot - 1
    }

    /// Codes in all.
    pub fn codes(&self) -> u64 {
        u64::from(self.banks) * u64::from(self.lots) * self.size
    }

    fn each(&self, mut row: impl FnMut(u16, u16, u64, codes::Code) -> std::io::Result<()>) -> std::io::Result<()> {
        for bank in 1..=self.banks {
            for lot in 1..=self.lots {
                let series = self.series(bank, lot);
                for seq in 0..self.size {
                    row(bank, lot, seq, codes::of_lot(series, seq, self.size))?;
                }
            }
        }
        Ok(())
    }

    /// Fills coupond's store as if uploads had: same rows, same counters. The indexes are built afterwards.
    pub fn coupond(&self, database: &Database) -> anyhow::Result<()> {
        anyhow::ensure!(u32::from(self.banks) * u32::from(self.lots) <= 900, "too many lots");
        let namespace = database.number("SELECT id FROM namespace WHERE name = 'bench'")?;
        let bank = |number: u16| database.number(&format!("SELECT id FROM bank WHERE name = 'b{number}'"));
        let banks = (1..=self.banks).map(bank).collect::<anyhow::Result<Vec<u64>>>()?;
        let id_of = |number: u16| banks.get(usize::from(number) - 1).copied().unwrap_or_default();
        let shelf = format!("FROM pg_indexes WHERE tablename = 'coupon_{namespace}_0'");
        let indexes = database.run(&format!("SELECT indexdef || ';' {shelf};"))?;
        database.run(&format!("SELECT 'DROP INDEX ' || indexname {shelf} \\gexec"))?;
        database.copy("coupon (namespace_id, bank_id, lot_id, seq, line, code)", |out| {
            self.each(|bank, lot, seq, code| {
                write!(out, "{namespace}\t{}\t{lot}\t{seq}\t{}\t", id_of(bank), seq + 2)?;
                out.write_all(&codes::letters(code))?;
                out.write_all(b"\n")
            })
        })?;
        let (lots, size) = (self.lots, self.size);
        let numbers = banks.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        database.run(&format!(
            "SET maintenance_work_mem = '512MB';\n{indexes}\n\
             WITH made AS (INSERT INTO upload (namespace_id, kind, target, dry_run, name, user_name, state, session, \
               created_at, received_at, finished_at, reported_at) VALUES ({namespace}, 'coupons', '', false, 'fill.csv', \
               'feed', 'applied', 'local', now(), now(), now(), now()) RETURNING id) \
             INSERT INTO lot (namespace_id, bank_id, id, upload_id, end_date, offer_type, size, letter_case, created_at) \
               SELECT {namespace}, bank, lot, made.id, '{UNTIL}', 'other', {size}, 'upper', now() \
               FROM made, unnest(ARRAY[{numbers}]) AS bank, generate_series(1, {lots}) AS lot;\n\
             SELECT setval('lot_id_seq', {lots}); \
             UPDATE bank SET lots = {lots} WHERE namespace_id = {namespace} AND id IN ({numbers});"
        ))?;
        database.tend()
    }

    /// Fills the rival's table with the same codes.
    pub fn rival(&self, database: &Database) -> anyhow::Result<()> {
        let mut id = 0_u64;
        database.copy("coupon (id, bank_id, code, end_date, status)", |out| {
            self.each(|bank, _, _, code| {
                id += 1;
                write!(out, "{id}\t{bank}\t")?;
                out.write_all(&codes::letters(code))?;
                writeln!(out, "\t{UNTIL}\tavailable")
            })
        })?;
        database.run("SELECT setval('coupon_id_seq', (SELECT max(id) FROM coupon));")?;
        Ok(())
    }
}
