//! Every key that the raw structs know, taken from their own deserialisers, so that no second list can disagree.
//!
//! From it come the suggestions for a mistyped key, the shape of an environment variable, and the test that every key is
//! documented.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer as _, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use toml_edit::Item;

/// A key: its path, in which `*` stands for a name that the admin chooses, and the shape of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// For example `users`, `*`, `role`.
    pub path: Vec<&'static str>,
    /// What its value looks like.
    pub shape: Shape,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A text.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list of texts.
    List,
    /// A number of bytes, or a text such as `"4GiB"`.
    Size,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path.join("."))
    }
}

/// An unknown key: its path as written and what to say about it.
pub(super) struct Unknown {
    pub(super) path: Vec<String>,
    pub(super) message: String,
}

/// Every key of `T`.
pub(super) fn of<T: for<'de> Deserialize<'de>>() -> Vec<Key> {
    let mut keys = Vec::new();
    // Tracing visits every field with an empty value; only a value that refuses to be empty could fail.
    let _ = T::deserialize(Tracer { path: Vec::new(), keys: &mut keys });
    keys
}

/// The keys under `item` that none of `keys` names.
pub(super) fn unknown(item: &Item, keys: &[Key]) -> Vec<Unknown> {
    let mut found = Vec::new();
    walk(item, &mut Vec::new(), keys, &mut found);
    found
}

fn walk(item: &Item, path: &mut Vec<String>, keys: &[Key], found: &mut Vec<Unknown>) {
    // What is no table where one belongs, or the other way round, is a wrong type: deserialising says so.
    let Some(table) = item.as_table_like() else { return };
    if keys.iter().any(|key| key.path.len() == path.len() && covers(key, path)) {
        return;
    }
    for (name, next) in table.iter() {
        path.push(name.to_owned());
        if keys.iter().any(|key| covers(key, path)) {
            walk(next, path, keys, found);
        } else {
            found.push(Unknown { path: path.clone(), message: complain(path, keys) });
        }
        path.pop();
    }
}

/// Whether `path` is `key` or leads to it.
fn covers(key: &Key, path: &[String]) -> bool {
    path.len() <= key.path.len() && key.path.iter().zip(path).all(|(known, given)| *known == "*" || known == given)
}

/// What to say about a key that nothing knows.
pub(super) fn complain(path: &[String], keys: &[Key]) -> String {
    // The outermost unknown thing is the one to name: a key in a section that does not exist is not the slip.
    let known = (1..=path.len()).find(|depth| !keys.iter().any(|key| covers(key, path.get(..*depth).unwrap_or(path))));
    let path = known.and_then(|depth| path.get(..depth)).unwrap_or(path);
    let (name, parent) = path.split_last().map_or(("", &[][..]), |(name, parent)| (name.as_str(), parent));
    let siblings: Vec<&str> =
        keys.iter().filter(|key| covers(key, parent)).filter_map(|key| key.path.get(parent.len()).copied()).collect();
    let section = if parent.is_empty() { String::new() } else { format!(" in `[{}]`", parent.join(".")) };
    if let Some(near) = nearest(name, siblings.iter().copied()) {
        return format!("unknown key `{name}`{section}; did you mean `{near}`?");
    }
    // A key under a section header belongs to that section: the usual slip is one that was meant to stand above it.
    let elsewhere = keys.iter().find(|key| key.path.last() == Some(&name));
    match elsewhere.map(|key| key.path.split_last().map_or(&[][..], |(_, above)| above)) {
        Some([]) => {
            format!("unknown key `{name}`{section}; it belongs at the top of the file, above the first `[section]`")
        }
        Some(above) => format!("unknown key `{name}`{section}; it belongs in `[{}]`", above.join(".")),
        None => {
            let mut known = siblings;
            known.sort_unstable();
            known.dedup();
            let known: Vec<String> = known.into_iter().map(|key| format!("`{key}`")).collect();
            format!("unknown key `{name}`{section}; known here: {}", known.join(", "))
        }
    }
}

/// The candidate that `text` most likely meant, if any is near enough.
pub(super) fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (text.chars().count() / 3).clamp(1, 3);
    candidates
        .filter(|candidate| *candidate != "*")
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two texts.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().take(60).collect(), to.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, left) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, right) in to.iter().enumerate() {
            let cell = |cells: &[usize], at: usize| cells.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best = (cell(&last, column + 1) + 1)
                .min(cell(&current, column) + 1)
                .min(cell(&last, column) + usize::from(left != right));
            let swapped = row > 0 && column > 0 && from.get(row - 1) == Some(right) && to.get(column - 1) == Some(left);
            if swapped {
                best = best.min(cell(&before_last, column - 1) + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or_default()
}

/// A deserialiser that has every field, all of them empty, and notes each one.
struct Tracer<'a> {
    path: Vec<&'static str>,
    keys: &'a mut Vec<Key>,
}

impl Tracer<'_> {
    fn note(self, shape: Shape) {
        self.keys.push(Key { path: self.path, shape });
    }
}

impl<'de> de::Deserializer<'de> for Tracer<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.note(Shape::Size);
        visitor.visit_u64(0)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.note(Shape::Text);
        visitor.visit_str("")
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.note(Shape::Boolean);
        visitor.visit_bool(false)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.note(Shape::Integer);
        visitor.visit_u64(0)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.note(Shape::List);
        visitor.visit_seq(de::value::SeqDeserializer::new(std::iter::empty::<()>()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_map(Fields { rest: fields.iter(), field: "", tracer: self })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(Fields { rest: ["*"].iter(), field: "", tracer: self })
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u16 u32 f32 f64 char str bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct
        enum identifier ignored_any
    }
}

struct Fields<'a> {
    rest: std::slice::Iter<'static, &'static str>,
    field: &'static str,
    tracer: Tracer<'a>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = de::value::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let Some(field) = self.rest.next() else { return Ok(None) };
        self.field = field;
        let name: StrDeserializer<'_, Self::Error> = self.field.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Self::Error> {
        let mut path = self.tracer.path.clone();
        path.push(self.field);
        seed.deserialize(Tracer { path, keys: self.tracer.keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let known = ["listen", "host_keys", "login_grace_secs", "idle_secs", "*"];
        assert_eq!(nearest(text, known.into_iter()), expected, "{text:?}");
    }

    #[test]
    fn the_nearest_key() {
        check("lisen", Some("listen"));
        check("lsiten", Some("listen"));
        check("hostkeys", Some("host_keys"));
        check("idle", None);
        check("login_grace", None);
        check("zzz", None);
        check("", None);
    }
}
