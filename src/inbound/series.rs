//! Files that come again and again under a name with a date, such as `used-2026-02-03.csv` or `used_20260203.csv.gpg`: which
//! of them should have come and did not.
//!
//! A date is missed when the file of the same weekday a week earlier came, and so no weekend is missed where nobody works at
//! weekends, and no day of a weekly file but its own. Pure.

use std::collections::BTreeSet;

use chrono::{Days, NaiveDate};

/// More than this are not named: the series has ended, rather, and begun anew.
const MISSED_MOST: u64 = 14;

/// A name without its date, and the date.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dated {
    before: String,
    /// Up to the first dot: what follows says how the file is packed, and may change.
    after: String,
    date: NaiveDate,
}

/// The dates between the last file of the series before `name` and `name` itself whose files are not among `others`, oldest
/// first. Nothing where `name` has no date.
pub(super) fn missed<'n>(name: &str, others: impl Iterator<Item = &'n str>) -> Vec<NaiveDate> {
    let Some(dated) = read(name) else { return Vec::new() };
    let same = |other: &Dated| (&other.before, &other.after) == (&dated.before, &dated.after);
    let came: BTreeSet<NaiveDate> = others.filter_map(read).filter(same).map(|other| other.date).collect();
    let Some(last) = came.range(..dated.date).next_back() else { return Vec::new() };
    let a_week_before = |date: &NaiveDate| date.checked_sub_days(Days::new(7)).is_some_and(|date| came.contains(&date));
    let between: Vec<NaiveDate> = last.iter_days().skip(1).take_while(|date| *date < dated.date).collect();
    if between.len() as u64 > MISSED_MOST {
        return Vec::new();
    }
    between.into_iter().filter(a_week_before).collect()
}

/// The first date in a name's stem, as YYYY-MM-DD or YYYYMMDD with no digit beside it.
fn read(name: &str) -> Option<Dated> {
    let stem = name.split('.').next().unwrap_or_default();
    for (form, length) in [("%Y-%m-%d", 10), ("%Y%m%d", 8)] {
        for start in 0..(stem.len() + 1).saturating_sub(length) {
            let parts = (stem.get(..start), stem.get(start..start + length), stem.get(start + length..));
            let (Some(before), Some(text), Some(after)) = parts else { continue };
            let beside = |character: Option<char>| character.is_some_and(|character| character.is_ascii_digit());
            let digits = text.bytes().filter(u8::is_ascii_digit).count() == 8;
            if !digits || beside(before.chars().next_back()) || beside(after.chars().next()) {
                continue;
            }
            if let Ok(date) = NaiveDate::parse_from_str(text, form) {
                return Some(Dated { before: before.to_owned(), after: after.to_owned(), date });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, others: &[&str], expected: &[&str]) {
        let missed: Vec<String> = missed(name, others.iter().copied()).iter().map(ToString::to_string).collect();
        assert_eq!(missed, expected, "{name} after {others:?}");
    }

    #[track_caller]
    fn check_date(name: &str, expected: Option<(&str, &str, &str)>) {
        let read = read(name);
        let found = read.as_ref().map(|dated| (dated.before.as_str(), dated.date.to_string(), dated.after.as_str()));
        assert_eq!(found, expected.map(|(before, date, after)| (before, date.to_owned(), after)), "{name}");
    }

    #[test]
    fn dates_in_names() {
        check_date("used-2026-02-03.csv", Some(("used-", "2026-02-03", "")));
        check_date("20260203_used.csv.gpg", Some(("", "2026-02-03", "_used")));
        check_date("acme_2026-02-03T0600.csv", Some(("acme_", "2026-02-03", "T0600")));
        for none in
            ["used.csv", "used-2026-02-30.csv", "120260203.csv", "202602031.csv", "a.2026-02-03.csv", "märz.csv", ""]
        {
            check_date(none, None);
        }
    }

    #[test]
    fn a_day_of_a_daily_file() {
        let week: Vec<String> = (1..=9).map(|day| format!("used-2026-02-0{day}.csv")).collect();
        let week: Vec<&str> = week.iter().map(String::as_str).collect();
        check("used-2026-02-10.csv", &week, &[]);
        check("used-2026-02-11.csv.gpg", &week, &["2026-02-10"]);
        check("used-2026-02-12.csv", &week, &["2026-02-10", "2026-02-11"]);
        check("shop-2026-02-12.csv", &week, &[]);
        check("used.csv", &week, &[]);
        // It comes late, and is the one that was missed.
        check("used-2026-02-10.csv", &[&week[..], &["used-2026-02-11.csv"]].concat(), &[]);
        // After so long it is no gap.
        check("used-2026-06-01.csv", &week, &[]);
        // In the first week nobody knows.
        check("used-2026-02-04.csv", &week[..2], &[]);
    }

    #[test]
    fn weekends_and_weekly_files() {
        let workdays = ["20260202", "20260203", "20260204", "20260205", "20260206"].map(|date| format!("u{date}.csv"));
        let mut workdays: Vec<&str> = workdays.iter().map(String::as_str).collect();
        check("u20260209.csv", &workdays, &[]);
        check("u20260210.csv", &workdays, &["2026-02-09"]);
        workdays.extend(["u20260209.csv", "u20260210.csv"]);
        check("u20260212.csv", &workdays, &["2026-02-11"]);
        check("w20260222.csv", &["w20260201.csv", "w20260208.csv"], &["2026-02-15"]);
    }
}
