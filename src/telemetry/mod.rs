//! What the daemon tells about itself: log lines on standard error, and [`Metrics`].
//!
//! One event is one line. On a terminal it has a time and colours; elsewhere it has neither, because the journal and
//! containers add the time themselves. `COUPOND_LOG` chooses what is logged (`info`, `debug`, `coupond::sftp=debug`).

mod metrics;

pub use metrics::{BankRemaining, Metrics};

use std::io::{IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;

/// The environment variable that chooses what is logged.
const VARIABLE: &str = "COUPOND_LOG";

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A bad filter is an error, not a reason to log something else.
    #[error("read `{VARIABLE}`: `{value}` is not a log filter such as `info` or `coupond::sftp=debug`")]
    Filter {
        /// What stands in the variable.
        value: String,
        /// Why it is not one.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is a subscriber already.
    #[error("set up logging")]
    Subscriber(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets up logging for the process; to be called once, first of all.
///
/// # Errors
/// [`TelemetryError`]
pub fn init() -> Result<(), TelemetryError> {
    let value = std::env::var(VARIABLE).unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(&value).map_err(|source| TelemetryError::Filter { value, source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(OneLine::new);
    if std::io::stderr().is_terminal() {
        builder.try_init().map_err(TelemetryError::Subscriber)
    } else {
        builder.with_ansi(false).without_time().try_init().map_err(TelemetryError::Subscriber)
    }
}

/// Standard error, one line an event: control characters, which may come from a client's file name, are escaped, so that
/// nobody can forge a line or command a terminal.
struct OneLine {
    colours: bool,
}

impl OneLine {
    fn new() -> Self {
        Self { colours: std::io::stderr().is_terminal() }
    }
}

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        std::io::stderr().write_all(escape(&String::from_utf8_lossy(event), self.colours).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The subscriber hands over one event at once, ended by a newline, and has escaped ESC in values before it adds colours.
fn escape(event: &str, colours: bool) -> String {
    let (line, end) = event.strip_suffix('\n').map_or((event, ""), |line| (line, "\n"));
    let mut escaped = String::with_capacity(event.len());
    for character in line.chars() {
        if character.is_control() && !(colours && character == '\u{1b}') {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped.push_str(end);
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_one_line() {
        let check = |event: &str, colours, expected: &str| assert_eq!(escape(event, colours), expected, "{event:?}");
        check("INFO coupond: received name=a.csv\n", false, "INFO coupond: received name=a.csv\n");
        check("name=a\nERROR forged\n", false, "name=a\\nERROR forged\n");
        check("name=a\r\tb\u{85}\n", false, "name=a\\r\\tb\\u{85}\n");
        check("\u{1b}[31mred\n", false, "\\u{1b}[31mred\n");
        check("\u{1b}[31mred\n", true, "\u{1b}[31mred\n");
        check("größe=5\n", false, "größe=5\n");
        check("no end", false, "no end");
    }
}
