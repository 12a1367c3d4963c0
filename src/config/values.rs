//! Values that TOML has no type for: durations, times, sizes, codes, cron expressions. Pure.

use std::str::FromStr as _;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime};
use ipnet::IpNet;

use super::{Name, Schedule};

/// Longest duration in any setting: ten years. Keeps sums with dates far from their ends.
pub(super) const LONGEST_SECS: u64 = 10 * 366 * 86_400;

/// A value for a message: never more than fits on a line.
pub(super) fn short(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(60).chain("...".chars()).collect() }
}

/// `"36h"`, `"90m"`, `"1h30m"`, `"2d"`, `"45s"`, `"1w"`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("\"{}\" is not a duration; write it like \"36h\", \"90m\" or \"2d\"", short(text));
    let mut seconds: u64 = 0;
    let mut number = String::new();
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            number.push(letter);
            continue;
        }
        let unit: u64 = match letter {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return Err(problem()),
        };
        let count: u64 = number.parse().map_err(|_| problem())?;
        seconds = count.checked_mul(unit).and_then(|more| seconds.checked_add(more)).ok_or_else(problem)?;
        number.clear();
    }
    if !number.is_empty() || text.is_empty() {
        return Err(problem());
    }
    if seconds == 0 || seconds > LONGEST_SECS {
        return Err(format!("\"{}\" is out of bounds; use 1 second to 10 years", short(text)));
    }
    Ok(Duration::from_secs(seconds))
}

/// `"06:00"` or `"06:00:30"`.
pub(super) fn time(text: &str) -> Result<NaiveTime, String> {
    // No leap second: a deadline at 23:59:60 would come on one day in years.
    let shaped = (text.len() == 5 || text.len() == 8) && !text.ends_with(":60");
    NaiveTime::parse_from_str(text, "%H:%M:%S")
        .or_else(|_| NaiveTime::parse_from_str(text, "%H:%M"))
        .ok()
        .filter(|_| shaped)
        .ok_or_else(|| format!("\"{}\" is not a time of day; write it like \"06:00\"", short(text)))
}

/// `"2026-12-25"`
pub(super) fn date(text: &str) -> Result<NaiveDate, String> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .filter(|_| text.len() == "2026-12-25".len())
        .ok_or_else(|| format!("\"{}\" is not a date; write it like \"2026-12-25\"", short(text)))
}

/// `"4GiB"`, `"500 MB"`, `"4096"`: bytes, in powers of 1024 with an `i` and of 1000 without.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let problem = || format!("\"{}\" is not a size; write it like 4096, \"64KiB\" or \"4GiB\"", short(text));
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let unit = text.get(digits.len()..).unwrap_or_default().trim();
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(problem()),
    };
    digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor)).ok_or_else(problem)
}

/// A cron expression with seconds, or `on-arrival`.
pub(super) fn schedule(text: &str) -> Result<Schedule, String> {
    if text == "on-arrival" {
        return Ok(Schedule::OnArrival);
    }
    let shown = short(text);
    if !text.starts_with('@') && text.split_whitespace().count() == 5 {
        return Err(format!("schedule \"{shown}\" has five fields; put the seconds first: \"0 {shown}\""));
    }
    let parsed = cron::Schedule::from_str(text).map_err(|_| {
        format!(
            "schedule \"{shown}\" is not \"on-arrival\" and not cron with seconds, such as \"0 0 2 * * *\" for 02:00"
        )
    })?;
    // Any instant does: only a date that no year has, such as 30 February, never comes.
    if parsed.after(&DateTime::UNIX_EPOCH).next().is_none() {
        return Err(format!("schedule \"{shown}\" never fires; such a day does not exist"));
    }
    Ok(Schedule::Cron(Box::new(parsed)))
}

/// A network such as `192.0.2.0/24`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .map(|network| network.trunc())
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| {
            format!("\"{}\" is not a network; write it like \"192.0.2.0/24\" or \"2001:db8::/32\"", short(text))
        })
}

/// A static code: the same rule as for uploaded codes.
pub(super) fn code(text: &str, longest: usize) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'|' | b'"');
    if !text.is_empty() && text.len() <= longest && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "\"{}\" cannot be a code; use 1 to {longest} printable ASCII characters without blanks and without , ; | \"",
            short(text)
        ))
    }
}

/// One address, or `Name <address>`: only what a slip of the hand would break.
pub(super) fn mail_address(text: &str) -> Result<String, String> {
    let problem = || format!("\"{}\" is not a mail address; write it like \"marketing@example.com\"", short(text));
    let bare = match text.split_once('<') {
        Some((_, rest)) => rest.strip_suffix('>').ok_or_else(problem)?,
        None => text,
    };
    let (local, domain) = bare.rsplit_once('@').ok_or_else(problem)?;
    let clean = |part: &str| {
        !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control() || "<>@,".contains(c))
    };
    let plain = !text.chars().any(char::is_control);
    if clean(local) && clean(domain) && plain { Ok(text.to_owned()) } else { Err(problem()) }
}

/// The name of a bank, campaign or namespace.
pub(super) fn name(what: &str, text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| format!("{what} {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: Clone + PartialEq + std::fmt::Debug>(
        parse: impl Fn(&str) -> Result<T, String>,
        text: &str,
        expected: impl Into<Option<T>>,
    ) {
        assert_eq!(parse(text).ok(), expected.into(), "{text:?}");
    }

    #[test]
    fn durations() {
        let hours = |n: u64| Some(Duration::from_secs(n * 3_600));
        check(duration, "36h", hours(36));
        check(duration, "1d12h", hours(36));
        check(duration, "90m", Some(Duration::from_secs(5_400)));
        for bad in ["", "36", "h", "36 h", "-1h", "0s", "1y", "99999999999999999999h", "9999999w", "1.5h", "3３h"] {
            check(duration, bad, None);
        }
    }

    #[test]
    fn times() {
        check(time, "06:00", NaiveTime::from_hms_opt(6, 0, 0));
        check(time, "23:59:59", NaiveTime::from_hms_opt(23, 59, 59));
        for bad in ["", "6:00", "24:00", "06:60", "6", "06:00 ", "0600", "23:59:60"] {
            check(time, bad, None);
        }
    }

    #[test]
    fn dates() {
        check(date, "2026-12-25", NaiveDate::from_ymd_opt(2026, 12, 25));
        for bad in ["", "2026-2-29", "2026-02-29", "25.12.2026", "+2026-12-25", "2026-12-5", "12-25"] {
            check(date, bad, None);
        }
    }

    #[test]
    fn sizes() {
        check(size, "4GiB", Some(4 << 30));
        check(size, "64 KiB", Some(65_536));
        check(size, "4096", Some(4_096));
        check(size, "2MB", Some(2_000_000));
        for bad in ["", "GiB", "4G", "-1", "1.5GiB", "4gib", "99999999999TiB", "4 GiB x"] {
            check(size, bad, None);
        }
    }

    #[test]
    fn schedules() {
        let accepted = |text: &str| schedule(text).map(|_| ());
        for good in ["on-arrival", "0 0 2 * * *", "0 */15 8-18 * * Mon-Fri", "@daily", "0 0 2 * * * 2027"] {
            check(accepted, good, Some(()));
        }
        for bad in ["", "on arrival", "0 2 * * *", "0 0 25 * * *", "0 0 2 30 2 *", "daily", "0 0 2 * * * * *"] {
            check(accepted, bad, None);
        }
    }

    #[test]
    fn networks() {
        check(network, "192.0.2.0/24", "192.0.2.0/24".parse().ok());
        check(network, "192.0.2.7/24", "192.0.2.0/24".parse().ok());
        check(network, "192.0.2.7", "192.0.2.7/32".parse().ok());
        check(network, "2001:db8::/32", "2001:db8::/32".parse().ok());
        for bad in ["", "192.0.2.0/33", "192.0.2", "example.com", "any"] {
            check(network, bad, None);
        }
    }

    #[test]
    fn codes_and_addresses() {
        let accepted = |text: &str| code(text, 99).map(|_| ());
        check(accepted, "SPRING-EXAMPLE", Some(()));
        check(accepted, &"X".repeat(99), Some(()));
        for bad in ["", "A B", "A,B", "A;B", "A|B", "A\"B", "Ä", &"X".repeat(100)] {
            check(accepted, bad, None);
        }
        let accepted = |text: &str| mail_address(text).map(|_| ());
        check(accepted, "marketing@acme.example", Some(()));
        check(accepted, "coupond <alerts@example.com>", Some(()));
        for bad in ["", "acme", "@acme", "a@", "a b@c", "a@b\r\nBcc: c@d", "coupond <a@b", "a@b,c@d"] {
            check(accepted, bad, None);
        }
    }
}
