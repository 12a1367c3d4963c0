//! The environment over `coupond.toml`: `COUPOND_SECTION__KEY`, and `COUPOND_STATE_DIR` for the one key without a section.
//!
//! Other variables that begin with `COUPOND_`, such as `COUPOND_LOG`, belong to someone else and are left alone. An empty
//! variable counts as not set, which is how a service manager clears one. Lists are split at commas.

use std::collections::{BTreeMap, HashMap};

use config::{Config, Environment, File, FileFormat};

use super::keys::{self, Key, Shape};
use super::problem::{Origin, Problem};
use super::raw;
use super::source::Source;

/// The process's own variables, for [`super::load()`]. One that is not UTF-8 cannot be a setting and is left out;
/// `std::env::vars` would panic on it.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// A variable that names a setting, and the key it names.
struct Variable {
    name: String,
    path: Vec<String>,
    value: String,
}

/// `source` as raw settings with the environment laid over it. The variables are noted in `source`, so that a problem
/// with a value names the variable it came from.
pub(super) fn overlay(
    source: &mut Source,
    environment: impl Iterator<Item = (String, String)>,
    keys: &[Key],
) -> Result<raw::Main, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut builder = Config::builder().add_source(File::from_str(&source.text, FileFormat::Toml));
    let mut found: BTreeMap<Vec<String>, String> = BTreeMap::new();
    for variable in environment.filter_map(|(name, value)| Variable::recognise(name, value, keys)) {
        let origin = Origin::Variable(variable.name.clone());
        let refuse = |message: String| Problem { origin: origin.clone(), message };
        let Some(key) = keys.iter().find(|key| key.path == variable.path) else {
            problems.push(refuse(keys::complain(&variable.path, keys)));
            continue;
        };
        if let Some(other) = found.insert(variable.path.clone(), variable.name.clone()) {
            problems.push(refuse(format!("sets the same key as `{other}`; remove one")));
            continue;
        }
        let layer = variable.layer(key);
        // Alone first: an error that the whole gives would not say which variable it came from.
        match Config::builder().add_source(layer.clone()).build().and_then(Config::try_deserialize::<raw::Main>) {
            Ok(_) => builder = builder.add_source(layer),
            Err(error) => problems.push(refuse(format!("does not fit `{key}`: {}", without_key(&error)))),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    source.variables = found;
    builder
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| vec![Problem { origin: Origin::File(source.file.clone()), message: error.to_string() }])
}

/// The error without the key, which the caller names.
fn without_key(error: &config::ConfigError) -> String {
    let text = error.to_string();
    text.split(" for key `").next().unwrap_or_default().to_owned()
}

impl Variable {
    /// A variable that means a setting: `COUPOND_STATE_DIR`, or one whose section exists or is a slip of one that does.
    fn recognise(name: String, value: String, keys: &[Key]) -> Option<Self> {
        let rest = name.strip_prefix("COUPOND_")?.to_ascii_lowercase();
        if value.is_empty() {
            return None;
        }
        let path: Vec<String> = rest.split("__").map(str::to_owned).collect();
        let first = path.first()?;
        let ours = if path.len() == 1 {
            keys.iter().any(|key| key.path == path)
        } else {
            let sections = || keys.iter().filter(|key| key.path.len() > 1).filter_map(|key| key.path.first().copied());
            sections().any(|section| section == first) || keys::nearest(first, sections()).is_some()
        };
        ours.then_some(Self { name, path, value })
    }

    /// The variable as a layer for the merge.
    fn layer(&self, key: &Key) -> Environment {
        let list = key.shape == Shape::List;
        let value =
            if list { self.value.split(',').map(str::trim).collect::<Vec<_>>().join(",") } else { self.value.clone() };
        let environment = Environment::with_prefix("COUPOND")
            .prefix_separator("_")
            .separator("__")
            .source(Some(HashMap::from([(self.name.clone(), value)])));
        if list {
            // Only lists: parsing would also turn a text that looks like a number into one.
            environment.try_parsing(true).list_separator(",").with_list_parse_key(&key.to_string())
        } else {
            environment
        }
    }
}
