//! Assignment files, read row by row: everybody on the list is in them once, in its order, with a code of the right bank
//! that nobody else has.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::codes::{self, Code};
use crate::daemon::{Daemon, find, number};

/// Recipients `first` to `first + rows` with a first name, which `edition` changes.
pub fn write_list(path: &Path, first: u64, rows: u64, edition: u64) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(b"customer_id,first_name\n")?;
    for index in first..first + rows {
        codes::write_customer(&mut out, index)?;
        writeln!(out, ",Name{edition}{}", index % 997)?;
    }
    Ok(out.flush()?)
}

/// Checks an assignment file against its list; answers with the code of each line. `was`: the codes that must have been
/// kept, by line.
pub fn check(path: &Path, list: &Path, bank: u32, was: &[Option<Code>]) -> anyhow::Result<Vec<Code>> {
    let mut rows = csv::Reader::from_path(path).with_context(|| format!("open `{}`", path.display()))?;
    let mut listed = csv::Reader::from_path(list)?;
    let headers: Vec<&str> = rows.headers()?.iter().collect();
    ensure!(headers == ["customer_id", "first_name", "bank_name", "code", "end_date", "outcome"], "{headers:?}");
    let (mut found, mut recipients) = (Vec::new(), listed.records());
    let bank = format!("b{bank}");
    for (line, row) in rows.records().enumerate() {
        let row = row?;
        let cell = |column: usize| row.get(column).unwrap_or_default();
        let recipient = recipients.next().context("more rows than recipients")??;
        ensure!((Some(cell(0)), Some(cell(1))) == (recipient.get(0), recipient.get(1)), "row {line} is another's");
        ensure!(cell(2) == bank, "row {line} is of bank {}", cell(2));
        let code = codes::read(cell(3).as_bytes())?;
        let held = was.get(line).copied().flatten();
        ensure!(held.is_none_or(|held| held == code), "row {line} did not keep its code");
        ensure!((cell(5) == "kept") == held.is_some(), "row {line} has outcome {}", cell(5));
        found.push(code);
    }
    ensure!(recipients.next().is_none(), "fewer rows than recipients");
    let different: HashSet<Code> = found.iter().copied().collect();
    ensure!(different.len() == found.len(), "a code went to two customers");
    Ok(found)
}

/// Campaigns `c<number>` whose manifest for the list `<stem>.csv` is there; `None` until all are.
pub fn manifests(daemon: &Daemon, campaigns: &[u32], stem: &str) -> anyhow::Result<Option<Vec<PathBuf>>> {
    let each = campaigns
        .iter()
        .map(|number| find(&daemon.shared(&format!("assignments/c{number}")), &format!("{stem}."), ".manifest.json"));
    each.collect()
}

/// The assignment file that a manifest lists, which must be as it says, and nobody left out.
pub fn listed(manifest: &Path, outcome: &[(&str, u64)]) -> anyhow::Result<PathBuf> {
    let manifest_text = std::fs::read(manifest)?;
    let says: Value = serde_json::from_slice(&manifest_text)?;
    for (name, rows) in outcome {
        ensure!(number(&says, &format!("/rows/{name}"))? == *rows, "expected {rows} {name}: {says:#}");
    }
    let files = says.get("files").and_then(Value::as_array).context("no files")?;
    let [file] = files.as_slice() else { anyhow::bail!("not one file: {says:#}") };
    let name = file.get("name").and_then(Value::as_str).context("no name")?;
    let path = manifest.with_file_name(name);
    let (digest, bytes) = sha256(&path)?;
    ensure!(file.get("sha256").and_then(Value::as_str) == Some(&digest), "`{name}` is not what the manifest says");
    ensure!(number(file, "/bytes")? == bytes, "`{name}` has {bytes} bytes");
    ensure!(number(file, "/rows")? == outcome.iter().map(|it| it.1).sum::<u64>(), "rows of `{name}`: {file}");
    Ok(path)
}

/// SHA-256 and size of a file.
pub fn sha256(path: &Path) -> anyhow::Result<(String, u64)> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
        digest.update(piece);
        bytes += read as u64;
    }
    let text = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((text, bytes))
}
