//! The one place that turns a client's path into components. Policy and file system both work on the result, so that
//! they cannot differ about what a path means (which is how other servers were escaped from).

use std::fmt;

/// Why a path is refused before anything is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("path is longer than 4096 bytes")]
    TooLong,
    #[error("path has a component longer than 255 bytes")]
    LongComponent,
    #[error("path has more than 32 components")]
    TooDeep,
    #[error("path has a NUL or another control character")]
    ControlCharacter,
}

/// A clean absolute path: no empty, `.` or `..` component, no control characters. Components are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VirtualPath(Vec<Vec<u8>>);

impl VirtualPath {
    /// Cleans `raw`; a relative path starts at the root, and `..` stops there.
    pub(super) fn parse(raw: &[u8]) -> Result<Self, PathError> {
        if raw.len() > 4096 {
            return Err(PathError::TooLong);
        }
        if raw.iter().any(u8::is_ascii_control) {
            return Err(PathError::ControlCharacter);
        }
        let mut components: Vec<Vec<u8>> = Vec::new();
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop();
                }
                long if long.len() > 255 => return Err(PathError::LongComponent),
                name => components.push(name.to_vec()),
            }
        }
        if components.len() > 32 {
            return Err(PathError::TooDeep);
        }
        Ok(Self(components))
    }

    pub(super) fn components(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// The path as the client sees it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        if self.0.is_empty() {
            return b"/".to_vec();
        }
        self.0.iter().flat_map(|component| std::iter::once(b'/').chain(component.iter().copied())).collect()
    }
}

impl fmt::Display for VirtualPath {
    /// For log lines: whatever is not printable ASCII is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &[u8], expected: Result<&[u8], PathError>) {
        assert_eq!(
            VirtualPath::parse(raw).map(|path| path.to_bytes()),
            expected.map(<[u8]>::to_vec),
            "{}",
            raw.escape_ascii()
        );
    }

    #[test]
    fn paths() {
        check(b"", Ok(b"/"));
        check(b".", Ok(b"/"));
        check(b"/", Ok(b"/"));
        check(b"coupons", Ok(b"/coupons"));
        check(b"//coupons///spring26/", Ok(b"/coupons/spring26"));
        check(b"/coupons/./a", Ok(b"/coupons/a"));
        check(b"/coupons/../reports", Ok(b"/reports"));
        check(b"../../../etc/passwd", Ok(b"/etc/passwd"));
        check(b"/coupons/..", Ok(b"/"));
        check(b"/...", Ok(b"/..."));
        check(b"/a\xff\xc3", Ok(b"/a\xff\xc3"));
        check(b"/a\0b", Err(PathError::ControlCharacter));
        check(b"/a\nb", Err(PathError::ControlCharacter));
        check(b"/a\x7f", Err(PathError::ControlCharacter));
        check(&vec![b'a'; 4097], Err(PathError::TooLong));
        check(&vec![b'a'; 256], Err(PathError::LongComponent));
        check("/a".repeat(33).as_bytes(), Err(PathError::TooDeep));
        check("/..".repeat(1000).as_bytes(), Ok(b"/"));
    }

    #[test]
    fn log_lines_are_escaped() {
        assert_eq!(VirtualPath::parse(b"/a\xff b").unwrap().to_string(), "/a\\xff b");
    }
}
