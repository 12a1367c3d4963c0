//! Exports that nobody has collected by their campaign's time: a campaign system that has stopped looking, or cannot log in.
//!
//! Said once a batch. A batch of which all files were fetched is `collected`, and never judged here.

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::Deserialize;

use super::kinds::{Alert, Change};
use crate::bank::window;

/// A download that ended in time may take this long to be written down.
const GRACE: TimeDelta = TimeDelta::minutes(1);
/// How long a batch is remembered; longer than it is looked for.
const REMEMBERED: TimeDelta = TimeDelta::days(60);

/// A batch whose files were not all fetched in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncollected {
    /// The batch.
    pub id: i64,
    /// Its campaign.
    pub campaign: String,
    /// When its manifest appeared.
    pub exported_at: DateTime<Utc>,
    /// By when it was to be collected.
    pub collect_by: DateTime<Utc>,
    /// Files that were fetched: name, and when and by whom first.
    pub fetched: Vec<(String, DateTime<Utc>, String)>,
    /// Files that were not.
    pub missing: Vec<String>,
}

/// By when an export is to be collected; `None` while that is still to come.
#[must_use]
pub fn overdue(
    collect_by: NaiveTime,
    zone: Tz,
    exported_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    Some(window::next_local(collect_by, zone, exported_at)).filter(|by| *by + GRACE <= now)
}

impl Uncollected {
    /// Tells the files of the manifest `recorded` apart: those that are among `fetched` (name, when, by whom; oldest first)
    /// and those that are not.
    #[must_use]
    pub fn new(
        (id, campaign): (i64, &str),
        (exported_at, collect_by): (DateTime<Utc>, DateTime<Utc>),
        recorded: &str,
        fetched: &[(String, DateTime<Utc>, String)],
    ) -> Self {
        let first = |name: &String| fetched.iter().find(|(fetched, ..)| fetched == name).cloned();
        let names = names(recorded);
        Self {
            id,
            campaign: campaign.to_owned(),
            exported_at,
            collect_by,
            fetched: names.iter().filter_map(first).collect(),
            missing: names.into_iter().filter(|name| first(name).is_none()).collect(),
        }
    }

    /// The alert, once.
    #[must_use]
    pub fn change(self, now: DateTime<Utc>) -> Change {
        Change {
            subject: format!("not_collected/{}", self.id),
            from: None,
            to: 1,
            alert: Some(Alert::NotCollected(self)),
            forget_at: now.checked_add_signed(REMEMBERED),
        }
    }
}

/// The files that a recorded manifest lists, and the manifest. A record that cannot be read has none.
fn names(recorded: &str) -> Vec<String> {
    #[derive(Default, Deserialize)]
    struct Recorded {
        files: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        name: String,
    }
    let recorded: Recorded = serde_json::from_str(recorded).unwrap_or_default();
    let mut names: Vec<String> = recorded.files.into_iter().map(|listed| listed.name).collect();
    // `<stem>.<batch>` begins every name; a stem has no dot.
    let stem = names.first().map(|first| first.split('.').take(2).collect::<Vec<_>>().join("."));
    names.extend(stem.map(|stem| format!("{stem}.manifest.json")));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(exported_at: &str, now: &str, expected: Option<&str>) {
        let collect_by = NaiveTime::from_hms_opt(6, 0, 0).unwrap();
        let by = overdue(collect_by, Tz::America__New_York, instant(exported_at), instant(now));
        assert_eq!(by, expected.map(instant), "{exported_at} {now}");
    }

    /// 06:00 in New York is 11:00 UTC until 8 March 2026, then 10:00.
    #[test]
    fn overdue_from_the_first_such_time_after_the_export_on() {
        check("2026-03-02T07:00:00Z", "2026-03-02T11:00:59Z", None);
        check("2026-03-02T07:00:00Z", "2026-03-02T11:01:00Z", Some("2026-03-02T11:00:00Z"));
        check("2026-03-02T11:00:01Z", "2026-03-03T11:00:00Z", None);
        check("2026-03-02T11:00:01Z", "2026-03-03T11:01:00Z", Some("2026-03-03T11:00:00Z"));
        check("2026-03-07T12:00:00Z", "2026-03-08T10:01:00Z", Some("2026-03-08T10:00:00Z"));
    }

    #[test]
    fn fetched_and_missing() {
        let recorded = r#"{"files":[{"name":"l.7.csv"},{"name":"l.7.unassigned.csv"}]}"#;
        let at = instant("2026-03-02T08:00:00Z");
        let fetched = |name: &str, user: &str| (name.to_owned(), at, user.to_owned());
        let downloads =
            [fetched("l.7.csv", "mail"), fetched("l.7.csv", "other"), fetched("l.7.corrections.csv", "mail")];
        let found = Uncollected::new((7, "winback"), (at, at), recorded, &downloads);
        assert_eq!(found.fetched, [fetched("l.7.csv", "mail")]);
        assert_eq!(found.missing, ["l.7.unassigned.csv", "l.7.manifest.json"]);
        assert_eq!(found.change(at).subject, "not_collected/7");
        assert_eq!(names("not JSON"), Vec::<String>::new());
    }
}
