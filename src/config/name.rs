//! Names of namespaces, banks and campaigns: they become directories, file names and columns, so one rule holds for all.

use std::fmt;

/// A name of `[a-z0-9]` at both ends, `-` and `_` inside, under 40 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name: use a-z and 0-9 at both ends, `-` and `_` inside, under 40 characters")]
pub struct InvalidName {
    /// The text as it stood, cut to 60 characters.
    pub text: String,
}

impl Name {
    /// Longest name in bytes.
    pub const LONGEST: usize = 39;

    /// Checks `text` against the rule.
    ///
    /// # Errors
    /// [`InvalidName`] with the text as it stood.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let edges = bytes.first().is_some_and(edge) && bytes.last().is_some_and(edge);
        let inside = bytes.iter().all(|byte| edge(byte) || *byte == b'-' || *byte == b'_');
        if edges && inside && bytes.len() <= Self::LONGEST {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName { text: text.chars().take(60).collect() })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, valid: bool) {
        assert_eq!(Name::parse(text).is_ok(), valid, "{text:?}");
    }

    #[test]
    fn names() {
        check("spring26", true);
        check("a", true);
        check("win-back_2", true);
        check(&"a".repeat(39), true);
        check(&"a".repeat(40), false);
        check("", false);
        check("-spring", false);
        check("spring_", false);
        check("Spring", false);
        check("sprüng", false);
        check("a b", false);
        check("a/b", false);
        check("..", false);
    }
}
