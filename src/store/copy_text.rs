//! The text form of COPY: what must be escaped.

/// Appends `value` as one column of COPY's text form.
pub(crate) fn escape(value: &[u8], buffer: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'\\' => buffer.extend_from_slice(b"\\\\"),
            b'\n' => buffer.extend_from_slice(b"\\n"),
            b'\r' => buffer.extend_from_slice(b"\\r"),
            b'\t' => buffer.extend_from_slice(b"\\t"),
            _ => buffer.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, escaped: &str) {
        let mut buffer = Vec::new();
        escape(value.as_bytes(), &mut buffer);
        assert_eq!(buffer, escaped.as_bytes());
    }

    #[test]
    fn escapes() {
        check("PLAIN-1", "PLAIN-1");
        check("a\\b", "a\\\\b");
        check("a\tb\nc\rd", "a\\tb\\nc\\rd");
        check("\\N", "\\\\N");
        check("\\.", "\\\\.");
    }
}
