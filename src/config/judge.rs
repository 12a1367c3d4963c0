//! What every section's judge needs: the file's text for places, and a list to put problems on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::nearest;
use super::problem::{Origin, Problem};
use super::source::Source;
use super::values;

/// A section's judge goes on after a problem, so that the admin sees all of them at once; what it builds is then dropped.
pub(super) struct Judge<'a> {
    source: &'a Source,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(source: &'a Source, problems: &'a mut Vec<Problem>) -> Self {
        Self { source, problems }
    }

    /// Notes what is wrong with the value at `path`, or with its absence.
    pub(super) fn refuse(&mut self, path: &[&str], message: impl Into<String>) {
        self.note(self.source.value(path), message);
    }

    /// Notes what is wrong with the key at `path`: with a name, or with a section as a whole.
    pub(super) fn refuse_key(&mut self, path: &[&str], message: impl Into<String>) {
        self.note(self.source.key(path), message);
    }

    /// Notes what is wrong with one item of the list at `path`.
    pub(super) fn refuse_item(&mut self, path: &[&str], index: usize, message: impl Into<String>) {
        self.note(self.source.item(path, index), message);
    }

    fn note(&mut self, origin: Origin, message: impl Into<String>) {
        self.problems.push(Problem { origin, message: message.into() });
    }

    /// Where the key at `path` stands, for a problem that names a second place.
    pub(super) fn place(&self, path: &[&str]) -> Origin {
        self.source.key(path)
    }

    /// The value, or `None` and a problem.
    pub(super) fn accept<T>(&mut self, path: &[&str], value: Result<T, String>) -> Option<T> {
        value.map_err(|message| self.refuse(path, message)).ok()
    }

    /// One of a few words; `default` where the key is left out.
    pub(super) fn choice<T: Copy>(
        &mut self,
        path: &[&str],
        given: Option<&str>,
        choices: &[(&str, T)],
        default: T,
    ) -> Option<T> {
        let Some(given) = given else { return Some(default) };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == given) {
            return Some(*value);
        }
        let key = path.last().copied().unwrap_or_default();
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let hint = match nearest(given, choices.iter().map(|(word, _)| *word)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("use {}", words.join(" or ")),
        };
        self.refuse(path, format!("`{key}` cannot be \"{}\"; {hint}", values::short(given)));
        None
    }

    /// A number between two bounds; `default` where the key is left out.
    pub(super) fn number(
        &mut self,
        path: &[&str],
        given: Option<u64>,
        bounds: std::ops::RangeInclusive<u64>,
        default: u64,
    ) -> Option<u64> {
        let number = given.unwrap_or(default);
        if bounds.contains(&number) {
            return Some(number);
        }
        let key = path.last().copied().unwrap_or_default();
        self.refuse(path, format!("`{key}` is {number}; use {} to {}", bounds.start(), bounds.end()));
        None
    }

    /// As [`Judge::number`], in whole units of `unit` seconds.
    pub(super) fn span(
        &mut self,
        path: &[&str],
        given: Option<u64>,
        bounds: std::ops::RangeInclusive<u64>,
        default: u64,
        unit: u64,
    ) -> Option<Duration> {
        Some(Duration::from_secs(self.number(path, given, bounds, default)?.saturating_mul(unit)))
    }

    /// An absolute path from one that is relative to the file that names it, or to the working directory where an
    /// environment variable names it.
    pub(super) fn resolve(&self, path: &[&str], given: &str) -> PathBuf {
        let relative_to_file = !matches!(self.source.value(path), Origin::Variable(_));
        let given = match self.source.file.parent() {
            Some(directory) if relative_to_file => directory.join(given),
            _ => PathBuf::from(given),
        };
        std::path::absolute(&given).unwrap_or(given)
    }

    /// The files of a list, each of which can be read now.
    pub(super) fn files(&mut self, path: &[&str], given: &[String], what: &str) -> Option<Vec<PathBuf>> {
        let mut good = Vec::new();
        for (index, name) in given.iter().enumerate() {
            let file = self.resolve(path, name);
            match readable(&file, name) {
                Ok(()) if good.contains(&file) => {
                    self.refuse_item(path, index, format!("{what} `{name}` is listed twice; remove one"));
                }
                Ok(()) => good.push(file),
                Err(message) => self.refuse_item(path, index, format!("{what} {message}")),
            }
        }
        (good.len() == given.len()).then_some(good)
    }

    /// A file that can be read now.
    pub(super) fn file(&mut self, path: &[&str], given: &str, what: &str) -> Option<PathBuf> {
        let file = self.resolve(path, given);
        self.accept(path, readable(&file, given).map_err(|message| format!("{what} {message}")))?;
        Some(file)
    }
}

fn readable(file: &Path, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("has an empty name; leave the key out instead".into());
    }
    let shown = file.display();
    let opened = File::open(file).map_err(|error| format!("`{shown}` cannot be opened: {error}"))?;
    match opened.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(format!("`{shown}` is a directory; name a file")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("`{shown}` cannot be read: {error}")),
    }
}

/// `values` by name, unless one of them was refused.
pub(super) fn all<K: Ord, V>(values: Vec<Option<(K, V)>>) -> Option<BTreeMap<K, V>> {
    values.into_iter().collect()
}
