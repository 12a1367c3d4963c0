//! From what an alert says to a mail: subject line, text, HTML. The templates are part of the binary.
//!
//! Every value goes through one door: control characters become blanks, so that a file name cannot add a header or a line,
//! and in HTML what is markup is escaped.

use std::fmt::Write as _;

use super::kinds::Severity;
use super::wording::Message;

const TEXT: &str = include_str!("templates/mail.txt");
const HTML: &str = include_str!("templates/mail.html");
/// Longest subject line; what is cut stands in the mail.
const SUBJECT_CHARS: usize = 120;

/// A mail as it is kept and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Its subject line.
    pub subject: String,
    /// Its text part.
    pub text: String,
    /// Its HTML part.
    pub html: String,
}

/// Renders `message` for the namespace called `namespace`; `when` is the local time.
#[must_use]
pub fn render(message: &Message, severity: Severity, namespace: &str, when: &str) -> Rendered {
    let subject: String = format!("[coupond {namespace}] {}", plain(&message.title));
    let subject = match subject.char_indices().nth(SUBJECT_CHARS) {
        Some(_) => subject.chars().take(SUBJECT_CHARS - 1).chain(['…']).collect(),
        None => subject,
    };
    let common = [
        ("namespace", namespace.to_owned()),
        ("severity", severity.as_str().to_owned()),
        ("when", when.to_owned()),
        ("colour", colour(severity).to_owned()),
    ];
    let text = fill(TEXT, common.clone().into_iter().chain(text_parts(message)));
    let html = fill(HTML, common.into_iter().chain(html_parts(message)));
    Rendered { subject, text: squeeze(&text), html }
}

fn colour(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "#2f7d4f",
        Severity::Warning => "#c77700",
        Severity::Error => "#b3261e",
    }
}

fn text_parts(message: &Message) -> [(&'static str, String); 5] {
    let width = message.facts.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0) + 2;
    let facts = message.facts.iter().fold(String::new(), |mut text, (label, value)| {
        let _ = writeln!(text, "  {:width$}{}", format!("{label}:"), plain(value));
        text
    });
    let errors = message.errors.iter().fold(String::new(), |mut text, error| {
        let _ = writeln!(text, "  - {}", plain(error));
        text
    });
    [
        ("headline", plain(&message.headline)),
        ("paragraphs", message.paragraphs.iter().map(|text| plain(text)).collect::<Vec<_>>().join("\n\n")),
        ("facts", facts),
        ("errors", errors),
        ("action", plain(&message.action)),
    ]
}

fn html_parts(message: &Message) -> [(&'static str, String); 5] {
    let paragraphs = message.paragraphs.iter().fold(String::new(), |mut html, text| {
        let _ = write!(html, "<p style=\"margin:0 0 12px\">{}</p>", escaped(text));
        html
    });
    let rows = message.facts.iter().fold(String::new(), |mut html, (label, value)| {
        let _ = writeln!(
            html,
            "<tr><td style=\"padding:3px 16px 3px 0;color:#6a6f76;white-space:nowrap;vertical-align:top\">{}</td>\
             <td style=\"padding:3px 0;overflow-wrap:anywhere\">{}</td></tr>",
            escaped(label),
            escaped(value)
        );
        html
    });
    let items = message.errors.iter().fold(String::new(), |mut html, error| {
        let _ = writeln!(html, "<li style=\"margin:0 0 4px\">{}</li>", escaped(error));
        html
    });
    let wrapped = |html: String, before: &str, after: &str| match html.is_empty() {
        true => html,
        false => format!("{before}{html}{after}"),
    };
    [
        ("headline", escaped(&message.headline)),
        ("paragraphs", paragraphs),
        (
            "facts",
            wrapped(rows, "<table style=\"border-collapse:collapse;font-size:15px;margin:0 0 12px\">\n", "</table>"),
        ),
        ("errors", wrapped(items, "<ul style=\"margin:0 0 12px;padding-left:20px;font-size:15px\">\n", "</ul>")),
        ("action", wrapped(escaped(&message.action), "<p style=\"margin:0;font-weight:600\">", "</p>")),
    ]
}

/// Puts values where the template names them. What a value holds is never taken for a name.
fn fill(template: &str, values: impl Iterator<Item = (&'static str, String)>) -> String {
    let values: Vec<_> = values.collect();
    let mut pieces = template.split("{{");
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value.as_str());
        filled.push_str(value);
        filled.push_str(rest);
    }
    filled
}

/// No more than one empty line in a row: a part that is empty leaves no hole.
fn squeeze(text: &str) -> String {
    let mut squeezed = String::with_capacity(text.len());
    let mut empty = true;
    for line in text.lines() {
        // The line before a signature ends in a blank.
        let line = if line == "-- " { line } else { line.trim_end() };
        if line.is_empty() && empty {
            continue;
        }
        empty = line.is_empty();
        squeezed.push_str(line);
        squeezed.push('\n');
    }
    squeezed
}

/// One line: control characters, and those that turn the direction of text, become blanks.
fn plain(text: &str) -> String {
    let unfit = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if unfit(c) { ' ' } else { c }).collect()
}

fn escaped(text: &str) -> String {
    let text = plain(text);
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            title: "file refused: a\r\nBcc: x@example.com <b>.csv".to_owned(),
            headline: "The file `{{action}}` <script> was refused.".to_owned(),
            paragraphs: Vec::new(),
            facts: vec![("File", "a&b".to_owned()), ("Rows", "1".to_owned())],
            errors: vec!["line 3: no\nrow".to_owned()],
            action: "Correct it.".to_owned(),
        }
    }

    #[test]
    fn values_stay_values() {
        let mail = render(&message(), Severity::Warning, "acme", "now");
        assert_eq!(mail.subject, "[coupond acme] file refused: a  Bcc: x@example.com <b>.csv");
        assert!(mail.html.contains("The file `{{action}}` &lt;script&gt; was refused."), "{}", mail.html);
        assert!(mail.html.contains("a&amp;b") && !mail.html.contains("<script>"));
        assert_eq!(
            mail.text,
            "The file `{{action}}` <script> was refused.\n\n  File: a&b\n  Rows: 1\n\n  - line 3: no row\n\nCorrect it.\n\n\
             -- \ncoupond, namespace acme, warning, now\nThis is sent once. The daemon's log has it, too.\n"
        );
    }

    #[test]
    fn every_name_in_the_templates_has_a_value() {
        let message = message();
        for template in [TEXT, HTML] {
            for name in template.split("{{").skip(1).filter_map(|piece| Some(piece.split_once("}}")?.0)) {
                let known = ["namespace", "severity", "when", "colour"].contains(&name)
                    || text_parts(&message).iter().any(|(known, _)| *known == name);
                assert!(known, "{name}");
            }
        }
    }

    #[test]
    fn long_subjects_are_cut() {
        let long = Message { title: "ü".repeat(500), ..message() };
        let subject = render(&long, Severity::Error, "acme", "now").subject;
        assert_eq!((subject.chars().count(), subject.ends_with('…')), (SUBJECT_CHARS, true));
    }
}
