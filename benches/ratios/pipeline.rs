//! The rival of the store's jobs: what a team builds from gpg, psql and SQL, in the same PostgreSQL with the same settings.
//!
//! One table of codes with a primary key and one unique key. A team would have more indexes, which cost it more; where
//! this page had a choice, it took what is faster for the rival: temporary tables, analysed; as much memory as coupond takes;
//! no durability of its files.

use std::path::Path;

use crate::daemon::Daemon;
use crate::database::{Database, Fill, UNTIL};
use crate::ground::Gpg;
use crate::machine::Cost;

const TABLE: &str = "CREATE TABLE coupon (id bigserial, bank_id integer NOT NULL, code text NOT NULL, end_date date, \
                     status text NOT NULL DEFAULT 'available', customer text);";
const KEYS: &str = "SET maintenance_work_mem = '512MB'; \
                    ALTER TABLE coupon ADD PRIMARY KEY (id), ADD UNIQUE (bank_id, code);";
/// What coupond sets for its own batches.
const WORK_MEM: &str = "SET work_mem = '128MB';\n";

/// The team's database.
pub struct Pipeline {
    /// The database.
    pub database: Database,
}

impl Pipeline {
    /// A database beside the daemon's own, with these codes in it.
    pub fn new(daemon: &Daemon, fill: Option<Fill>) -> anyhow::Result<Self> {
        daemon.database("postgres")?.run("CREATE DATABASE rival;")?;
        let pipeline = Self::of(daemon)?;
        pipeline.database.run(TABLE)?;
        if let Some(fill) = fill {
            fill.rival(&pipeline.database)?;
        }
        pipeline.database.run(KEYS)?;
        pipeline.database.tend()?;
        Ok(pipeline)
    }

    /// The one that is there.
    pub fn of(daemon: &Daemon) -> anyhow::Result<Self> {
        Ok(Self { database: daemon.database("rival")? })
    }

    /// Nothing of the last turn is left for autovacuum to do in the next one, on neither side.
    pub fn tend_both(&self, daemon: &Daemon) -> anyhow::Result<()> {
        daemon.database("coupond")?.tend()?;
        self.database.tend()
    }

    /// `gpg -d | psql`: an encrypted file through a script that reads it as `pstdin`.
    fn decrypted(&self, gpg: &Gpg, file: &Path, script: &Path, sql: &str) -> anyhow::Result<Cost> {
        std::fs::write(script, sql)?;
        let (file, script, psql) = (file.display(), script.display(), self.database.psql());
        let line = format!("{} -d '{file}' | {psql} -f '{script}'", gpg.command());
        self.database.measure(&line, Path::new("/")).map(|(_, cost)| cost)
    }

    /// Codes into bank 1.
    pub fn coupons(&self, gpg: &Gpg, file: &Path, script: &Path) -> anyhow::Result<Cost> {
        let sql = format!(
            "{WORK_MEM}BEGIN;\n\
             CREATE TEMPORARY TABLE staging (code text) ON COMMIT DROP;\n\
             \\copy staging (code) FROM pstdin WITH (FORMAT csv, HEADER)\n\
             INSERT INTO coupon (bank_id, code, end_date) SELECT 1, code, '{UNTIL}' FROM staging \
               ON CONFLICT (bank_id, code) DO NOTHING;\n\
             COMMIT;\n"
        );
        self.decrypted(gpg, file, script, &sql)
    }

    /// Codes that were redeemed, whichever bank has them.
    pub fn redemptions(&self, gpg: &Gpg, file: &Path, script: &Path) -> anyhow::Result<Cost> {
        let sql = format!(
            "{WORK_MEM}BEGIN;\n\
             CREATE TEMPORARY TABLE staging (code text) ON COMMIT DROP;\n\
             \\copy staging (code) FROM pstdin WITH (FORMAT csv, HEADER)\n\
             ANALYZE staging;\n\
             UPDATE coupon SET status = 'redeemed' FROM staging WHERE coupon.code = staging.code;\n\
             COMMIT;\n"
        );
        self.decrypted(gpg, file, script, &sql)
    }

    /// One batch: who holds a code keeps it, the others get the next ones; everybody's code into a file.
    fn batch_script(bank: u32, list: &Path, out: &Path) -> String {
        let (list, out) = (list.display(), out.display());
        format!(
            "{WORK_MEM}BEGIN;\n\
             CREATE TEMPORARY TABLE list (line bigserial, customer text, first_name text) ON COMMIT DROP;\n\
             \\copy list (customer, first_name) FROM '{list}' WITH (FORMAT csv, HEADER)\n\
             ANALYZE list;\n\
             CREATE TEMPORARY TABLE need ON COMMIT DROP AS \
               SELECT customer, row_number() OVER (ORDER BY line) AS n FROM list \
               WHERE NOT EXISTS (SELECT FROM coupon c WHERE c.bank_id = {bank} AND c.customer = list.customer \
                 AND c.status = 'assigned' AND c.end_date >= current_date);\n\
             ANALYZE need;\n\
             CREATE TEMPORARY TABLE drawn ON COMMIT DROP AS \
               SELECT id, row_number() OVER () AS n FROM (SELECT id FROM coupon \
                 WHERE bank_id = {bank} AND status = 'available' AND end_date >= current_date \
                 ORDER BY end_date, id LIMIT (SELECT count(*) FROM need) FOR UPDATE SKIP LOCKED) AS free;\n\
             ANALYZE drawn;\n\
             UPDATE coupon c SET status = 'assigned', customer = need.customer \
               FROM drawn JOIN need USING (n) WHERE c.id = drawn.id;\n\
             \\copy (SELECT list.customer AS customer_id, first_name, 'b{bank}' AS bank_name, c.code, c.end_date, \
             CASE WHEN need.customer IS NULL THEN 'kept' ELSE 'new' END AS outcome FROM list \
             JOIN coupon c ON c.bank_id = {bank} AND c.customer = list.customer AND c.status = 'assigned' \
             LEFT JOIN need ON need.customer = list.customer ORDER BY list.line) TO '{out}' WITH (FORMAT csv, HEADER)\n\
             COMMIT;\n"
        )
    }

    /// Batches, all at once: bank, recipients list, assignment file.
    pub fn batches(&self, batches: &[(u32, &Path, &Path)]) -> anyhow::Result<Cost> {
        let mut lines = String::new();
        for (bank, list, out) in batches {
            let script = out.with_extension("sql");
            std::fs::write(&script, Self::batch_script(*bank, list, out))?;
            lines.push_str(&format!("{} -f '{}' & jobs+=($!)\n", self.database.psql(), script.display()));
        }
        let script = format!("jobs=()\n{lines}for job in \"${{jobs[@]}}\"; do wait \"$job\"; done");
        self.database.measure(&script, Path::new("/")).map(|(_, cost)| cost)
    }
}
