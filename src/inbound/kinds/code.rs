//! What a code may be: 1 to 99 bytes of printable ASCII without blanks and without `, ; | "`, never cut, case kept.

use crate::reason::{Finding, Reason};

/// Checks one cell as a code. Outer blanks are trimmed.
///
/// # Errors
/// A finding without a line; the message names the character and its column in the cell, never the whole code.
pub fn check(cell: &str, code_bytes: usize) -> Result<&str, Finding> {
    let code = cell.trim_matches([' ', '\t']);
    if code.is_empty() {
        return Err(Finding::file(Reason::EmptyCode, "the code is empty; fill it in or remove the row"));
    }
    // What stands before the first bad byte is ASCII, so that bytes count as characters.
    if let Some(index) = code.bytes().position(|byte| !is_allowed(byte)) {
        let character = code.get(index..).and_then(|rest| rest.chars().next()).unwrap_or_default();
        let column = u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1);
        return Err(Finding::file(
            Reason::BadCharacter,
            format!(
                "character {column} of the code is {}; a code is printable ASCII without blanks and without , ; | \"",
                describe(character)
            ),
        )
        .at_column(column));
    }
    if code.len() > code_bytes {
        return Err(Finding::file(
            Reason::CodeTooLong,
            format!("the code has {} characters, {code_bytes} are allowed; it is never cut", code.len()),
        ));
    }
    Ok(code)
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'|' | b'"')
}

fn describe(character: char) -> String {
    match character {
        ' ' => "a blank".to_owned(),
        '\t' => "a tab".to_owned(),
        '\n' | '\r' => "a line break".to_owned(),
        '\u{a0}' => "a no-break space (U+00A0)".to_owned(),
        '\u{200b}' => "a zero-width space (U+200B)".to_owned(),
        '\u{feff}' => "a byte order mark (U+FEFF)".to_owned(),
        _ if character.is_control() => format!("a control character (U+{:04X})", u32::from(character)),
        _ => format!("`{character}` (U+{:04X})", u32::from(character)),
    }
}

/// Which letters the codes of a lot have. Says how a spelling that differs in case only can be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetterCase {
    upper: bool,
    lower: bool,
}

impl LetterCase {
    /// Takes one more code into account.
    pub fn see(&mut self, code: &str) {
        self.upper |= code.bytes().any(|byte| byte.is_ascii_uppercase());
        self.lower |= code.bytes().any(|byte| byte.is_ascii_lowercase());
    }

    /// The word in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match (self.upper, self.lower) {
            (false, false) => "none",
            (true, false) => "upper",
            (false, true) => "lower",
            (true, true) => "mixed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn good(cell: &str, code: &str) {
        assert_eq!(check(cell, 99), Ok(code));
    }

    #[track_caller]
    fn bad(cell: &str, reason: Reason, column: Option<u64>) {
        let finding = check(cell, 99).unwrap_err();
        assert_eq!((finding.reason, finding.column), (reason, column), "{cell:?}: {finding}");
    }

    #[test]
    fn codes() {
        good("SPRING-1", "SPRING-1");
        good(" \tSPRING-1 ", "SPRING-1");
        good("aB#$%&'()*+-./:<=>?@[\\]^_`{}~!", "aB#$%&'()*+-./:<=>?@[\\]^_`{}~!");
        good(&"X".repeat(99), &"X".repeat(99));
        bad("", Reason::EmptyCode, None);
        bad("  ", Reason::EmptyCode, None);
        bad(&"X".repeat(100), Reason::CodeTooLong, None);
        bad("A B", Reason::BadCharacter, Some(2));
        bad("A;B", Reason::BadCharacter, Some(2));
        bad("A|B", Reason::BadCharacter, Some(2));
        bad("A\"B", Reason::BadCharacter, Some(2));
        bad("A,B", Reason::BadCharacter, Some(2));
        bad("SPR\u{dc}NG", Reason::BadCharacter, Some(4));
        bad("AB\u{a0}", Reason::BadCharacter, Some(3));
        bad("A\nB", Reason::BadCharacter, Some(2));
        bad("A\u{200b}B", Reason::BadCharacter, Some(2));
        bad("A\0B", Reason::BadCharacter, Some(2));
    }

    #[test]
    fn letter_case() {
        let mut case = LetterCase::default();
        assert_eq!(case.as_str(), "none");
        case.see("123");
        assert_eq!(case.as_str(), "none");
        case.see("AB1");
        assert_eq!(case.as_str(), "upper");
        case.see("a");
        assert_eq!(case.as_str(), "mixed");
    }
}
