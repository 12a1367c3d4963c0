//! One file as text, and the places of its keys in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item};

use super::problem::{Origin, Problem};

/// Far more than any real file; keeps a wrong path (a device, a dump) from filling the memory.
const LONGEST_FILE: u64 = 4 << 20;

/// A file that is TOML, with the variables that were laid over it.
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) text: String,
    document: Document<String>,
    /// Variables by the path of the key that they replace.
    pub(super) variables: BTreeMap<Vec<String>, String>,
}

impl Source {
    /// Reads `file`; the problem is that it cannot be read, or where it stops being TOML.
    pub(super) fn read(file: &Path) -> Result<Self, Problem> {
        let whole = |message: String| Problem { origin: Origin::File(file.to_owned()), message };
        let mut bytes = Vec::new();
        let opened = File::open(file).map_err(|error| whole(format!("cannot be opened: {error}")))?;
        #[expect(clippy::disallowed_methods, reason = "limited by `take`")]
        opened
            .take(LONGEST_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| whole(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > LONGEST_FILE {
            return Err(whole(format!("is larger than {LONGEST_FILE} bytes: is it the right file?")));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default()).into_owned();
            Problem {
                origin: place(file, &before, good),
                message: "is not UTF-8 from here on; save it as UTF-8".into(),
            }
        })?;
        let document = Document::parse(text.clone()).map_err(|error| Problem {
            origin: place(file, &text, error.span().unwrap_or(0..0).start),
            message: format!("is not TOML: {}", error.message().trim().replace('\n', ", ")),
        })?;
        Ok(Self { file: file.to_owned(), text, document, variables: BTreeMap::new() })
    }

    /// The whole document.
    pub(super) fn root(&self) -> &Item {
        self.document.as_item()
    }

    /// The place of a byte of the text.
    pub(super) fn byte(&self, at: usize) -> Origin {
        place(&self.file, &self.text, at)
    }

    /// The place of the value at `path`, else of the nearest thing above it that stands in the file, else the file.
    pub(super) fn value(&self, path: &[&str]) -> Origin {
        self.find(path, None, false)
    }

    /// The place of one item of the list at `path`.
    pub(super) fn item(&self, path: &[&str], index: usize) -> Origin {
        self.find(path, Some(index), false)
    }

    /// The place of the key at `path`, for when the key itself is wrong.
    pub(super) fn key(&self, path: &[&str]) -> Origin {
        self.find(path, None, true)
    }

    fn find(&self, path: &[&str], index: Option<usize>, key: bool) -> Origin {
        if let Some(variable) = self.variables.iter().find(|(set, _)| set.iter().eq(path.iter())) {
            return Origin::Variable(variable.1.clone());
        }
        let mut item = self.root();
        let mut span: Option<Range<usize>> = None;
        for segment in path {
            let Some((key_span, next)) = step(item, segment) else {
                return self.spanned(span);
            };
            // A table that is a section stands where its header is, a value where it stands itself.
            span = if key || next.is_table() { key_span } else { next.span().or(key_span) }.or(span);
            item = next;
        }
        let listed = index.and_then(|index| item.as_array()?.get(index)?.span());
        self.spanned(listed.or(span))
    }

    fn spanned(&self, span: Option<Range<usize>>) -> Origin {
        match span {
            Some(span) => self.byte(span.start),
            None => Origin::File(self.file.clone()),
        }
    }
}

/// One step down by key: where the key stands, and what it names.
fn step<'a>(item: &'a Item, segment: &str) -> Option<(Option<Range<usize>>, &'a Item)> {
    let (key, next) = item.as_table_like()?.get_key_value(segment)?;
    let section = next.as_table().and_then(toml_edit::Table::span);
    Some((key.span().or(section), next))
}

fn place(file: &Path, text: &str, at: usize) -> Origin {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Origin::Text { file: file.to_owned(), line, column }
}
