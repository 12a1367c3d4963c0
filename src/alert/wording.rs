//! What each alert says, in the namespace's own time. Numbers and names only: no code, no content of a file.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::certificates::Stage;
use super::forecast::Outlook;
use super::kinds::{Alert, FileRefused, FilesRefused, LowStock, RefusedGroup};
use super::refusal::MAILS_MOST;
use super::uncollected::Uncollected;

/// What a mail says, before it has a form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// For the subject line.
    pub title: String,
    /// One sentence that says it all; also the line in the log.
    pub headline: String,
    /// What it means.
    pub paragraphs: Vec<String>,
    /// Names and numbers.
    pub facts: Vec<(&'static str, String)>,
    /// The first errors of a file.
    pub errors: Vec<String>,
    /// What to do.
    pub action: String,
}

/// Says `alert` in the time of `zone`.
#[must_use]
pub fn say(alert: &Alert, zone: Tz) -> Message {
    match alert {
        Alert::LowStock(low) => low_stock(low),
        Alert::EmptySoon { bank, remaining, outlook } => Message {
            title: format!("{bank} will be empty on {}", day(outlook.empty_on)),
            headline: format!("Bank {bank} will be empty on {}.", day(outlook.empty_on)),
            paragraphs: vec![format!("{} {remaining} remain.", rate(outlook), remaining = codes(*remaining))],
            facts: vec![("Bank", bank.clone()), ("Remaining", grouped(*remaining))],
            action: upload_more(bank),
            ..Message::default()
        },
        Alert::Lapsing { bank, end_date, size, remaining } => Message {
            title: format!("{} in {bank} lapse on {}", codes(*remaining), day(*end_date)),
            headline: format!("{} in {bank} lapse after {}; nobody was given them.", codes(*remaining), day(*end_date)),
            paragraphs: vec![format!(
                "{} in all have this end date. Those that are not handed out by the end of that day ({zone}) never are.",
                codes(*size)
            )],
            facts: vec![
                ("Bank", bank.clone()),
                ("End date", end_date.to_string()),
                ("With this end date", grouped(*size)),
                ("Not handed out", grouped(*remaining)),
            ],
            action: "Send a campaign that uses them, or let them lapse.".to_owned(),
            ..Message::default()
        },
        Alert::RedemptionsLate { date, expected_by, newest } => redemptions_late(*date, *expected_by, *newest, zone),
        Alert::RedemptionsArrived { date, expected_by, late_by } => Message {
            title: format!("the redemption file for {date} arrived {} late", span(*late_by)),
            headline: format!("The redemption file for {date} arrived {} late.", span(*late_by)),
            paragraphs: vec![format!(
                "It was expected by {} ({zone}). What waited for it goes on by itself.",
                expected_by.format("%H:%M")
            )],
            ..Message::default()
        },
        Alert::BatchWaiting { id, campaign, bank, list, due_at, waiting_for, still } => {
            let waits = if *still { "still waits" } else { "waits" };
            Message {
                title: format!("batch {id} of {campaign} {waits}"),
                headline: format!("Batch {id} of campaign {campaign} {waits}: {waiting_for}."),
                paragraphs: vec![
                    "Nothing was handed out. It goes on by itself as soon as what it waits for is there.".to_owned(),
                ],
                facts: vec![
                    ("Campaign", campaign.clone()),
                    ("Batch", id.to_string()),
                    ("Bank", bank.clone()),
                    ("Recipients list", list.clone()),
                    ("Due", local(*due_at, zone)),
                ],
                action: format!("See `coupond batch show {id}`."),
                ..Message::default()
            }
        }
        Alert::NotCollected(batch) => not_collected(batch, zone),
        Alert::FileRefused(file) => file_refused(file, zone),
        Alert::FilesRefused(files) => files_refused(files, zone),
        Alert::CertificateExpiring { fingerprint, uses, stage, expires } => {
            certificate(fingerprint, uses, *stage, *expires, zone)
        }
    }
}

fn low_stock(low: &LowStock) -> Message {
    let LowStock { bank, remaining, threshold, .. } = low;
    let (title, headline) = match remaining {
        0 => (format!("{bank} is empty"), format!("Bank {bank} is empty.")),
        _ => (format!("{bank} has {} left", codes(*remaining)), format!("Bank {bank} has {} left.", codes(*remaining))),
    };
    let used_by = match low.campaigns.join(", ") {
        used if used.is_empty() => "the site".to_owned(),
        used => used,
    };
    let ladder = format!(
        "It is watched from {} on, and said again at a half, at a tenth and when none is left.",
        codes(*threshold)
    );
    Message {
        title,
        headline,
        paragraphs: low.outlook.iter().map(rate).chain([ladder]).collect(),
        facts: vec![("Bank", bank.clone()), ("Remaining", grouped(*remaining)), ("Used by", used_by)],
        action: upload_more(bank),
        ..Message::default()
    }
}

fn redemptions_late(date: NaiveDate, expected_by: NaiveTime, newest: Option<DateTime<Utc>>, zone: Tz) -> Message {
    let expected_by = expected_by.format("%H:%M");
    Message {
        title: format!("no redemption file for {date}"),
        headline: format!("The redemption file for {date} was expected by {expected_by} ({zone}); none came."),
        paragraphs: vec![
            "Until it comes, codes that were used since the last one count as unused: customers may be sent a code again \
             that the shop refuses."
                .to_owned(),
        ],
        facts: vec![("Newest file", newest.map_or_else(|| "none so far".to_owned(), |at| local(at, zone)))],
        action: "Have the file sent to /redemptions/. If nothing was redeemed, an empty file says so.".to_owned(),
        ..Message::default()
    }
}

fn not_collected(batch: &Uncollected, zone: Tz) -> Message {
    let Uncollected { id, campaign, exported_at, collect_by, fetched, missing } = batch;
    let all = fetched.len() + missing.len();
    let how_far = match fetched.len() {
        0 => "none of its files was fetched".to_owned(),
        some => format!("{some} of its {all} files were fetched"),
    };
    let mut facts = vec![
        ("Campaign", campaign.clone()),
        ("Batch", id.to_string()),
        ("Exported", local(*exported_at, zone)),
        ("To be collected by", local(*collect_by, zone)),
    ];
    facts.extend(missing.iter().map(|name| ("Not fetched", name.clone())));
    facts.extend(fetched.iter().map(|(name, at, user)| ("Fetched", format!("{name} by {user}, {}", local(*at, zone)))));
    Message {
        title: format!("batch {id} of {campaign} was not collected"),
        headline: format!(
            "Batch {id} of campaign {campaign} was not collected by {}: {how_far}.",
            local(*collect_by, zone)
        ),
        paragraphs: vec!["Its customers have codes, but perhaps no message that says so.".to_owned()],
        facts,
        action: format!(
            "See whether the campaign system still looks into /assignments/{campaign}/, and `coupond batch show {id}`."
        ),
        ..Message::default()
    }
}

fn file_refused(file: &FileRefused, zone: Tz) -> Message {
    let FileRefused { id, name, .. } = file;
    let (verdict, meaning, action) = match file.quarantined {
        true => (
            "quarantined",
            "The file is unsafe or unreadable and was set aside. Nothing of it was applied.",
            format!("See `coupond quarantine list`, then release or discard upload {id}."),
        ),
        false => (
            "rejected",
            "Nothing of it was applied.",
            "Correct the file and send it again. The whole report is in /reports/.".to_owned(),
        ),
    };
    let place = place(&file.kind, &file.target);
    let rejected = file.refusal.rejected;
    let rows = (rejected > 0)
        .then(|| ("Rejected rows", format!("{}; listed in /reports/{name}.{id}.rejects.csv", grouped(rejected))));
    let from = sender(&file.user);
    let last = file.last_for_now.then(|| {
        format!("These are {MAILS_MOST} refused files within an hour. Those that follow are counted in one mail.")
    });
    Message {
        title: format!("{verdict}: {name}"),
        headline: format!("The file {name} was {verdict}."),
        paragraphs: [meaning.to_owned()].into_iter().chain(last).collect(),
        facts: [
            ("File", name.clone()),
            ("Sent to", place),
            ("From", from),
            ("Received", local(file.received_at, zone)),
            ("Upload", id.to_string()),
        ]
        .into_iter()
        .chain(rows)
        .collect(),
        errors: file
            .refusal
            .errors
            .iter()
            .map(|error| {
                let at = error.line.map_or_else(String::new, |line| format!("line {line}: "));
                let times = error
                    .count
                    .filter(|count| *count > 1)
                    .map_or_else(String::new, |count| format!(" ({} times)", grouped(count)));
                format!("{at}{}: {}{times}", error.reason, error.message)
            })
            .collect(),
        action,
    }
}

fn files_refused(refused: &FilesRefused, zone: Tz) -> Message {
    const GROUPS_MOST: usize = 20;
    let files = |count: u64| if count == 1 { "1 file".to_owned() } else { format!("{} files", grouped(count)) };
    let group = |group: &RefusedGroup| {
        let place = place(&group.kind, &group.target);
        ("Of these", format!("{} {} in {place} from {}", files(group.files), group.state, sender(&group.user)))
    };
    let mut facts: Vec<_> = refused.groups.iter().take(GROUPS_MOST).map(group).collect();
    let named: u64 = refused.groups.iter().take(GROUPS_MOST).map(|group| group.files).sum();
    let others = refused.files.saturating_sub(named);
    facts.extend((others > 0).then(|| ("Others", files(others))));
    let (count, verb) = (grouped(refused.files), if refused.files == 1 { "file was" } else { "files were" });
    Message {
        title: format!("{count} more {verb} refused"),
        headline: format!("{count} more {verb} refused since {}.", local(refused.since, zone)),
        paragraphs: vec![format!(
            "At most {MAILS_MOST} refused files an hour are mailed one by one; these are the others. Each has its report \
             in /reports/ as always."
        )],
        facts,
        action: "Have the sender stopped. See `coupond uploads list --state rejected` and `coupond quarantine list`."
            .to_owned(),
        ..Message::default()
    }
}

fn place(kind: &str, target: &str) -> String {
    if target.is_empty() { format!("/{kind}/") } else { format!("/{kind}/{target}/") }
}

fn sender(user: &str) -> String {
    if user.is_empty() { "a local file".to_owned() } else { format!("user {user}") }
}

fn certificate(fingerprint: &str, uses: &[String], stage: Stage, expires: Option<DateTime<Utc>>, zone: Tz) -> Message {
    let when = match stage {
        Stage::Good | Stage::Month => "expires within a month",
        Stage::Week => "expires within a week",
        Stage::Unusable => "cannot be used any more",
    };
    let short: String = fingerprint.chars().rev().take(16).collect::<Vec<_>>().into_iter().rev().collect();
    let mut facts = vec![("Certificate", fingerprint.to_owned())];
    facts.extend(expires.map(|at| ("Expires", local(at, zone))));
    facts.extend(uses.iter().map(|text| ("Use", text.clone())));
    Message {
        title: format!("certificate {short} {when}"),
        headline: format!("The OpenPGP certificate {short} {when}."),
        paragraphs: vec![
            "From then on assignment files cannot be encrypted to it, and its signatures do not count.".to_owned(),
        ],
        facts,
        action: "Ask its owner for the renewed one, put it in place of the old file, and reload.".to_owned(),
        ..Message::default()
    }
}

fn rate(outlook: &Outlook) -> String {
    format!(
        "At the rate of the last {} nights (about {} a night) it is empty on {}.",
        outlook.nights,
        grouped(outlook.per_night),
        day(outlook.empty_on)
    )
}

fn upload_more(bank: &str) -> String {
    format!("Upload more codes to /coupons/{bank}/.")
}

fn codes(count: u64) -> String {
    if count == 1 { "1 code".to_owned() } else { format!("{} codes", grouped(count)) }
}

/// `41,200`
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `Thursday 2026-12-03`
fn day(date: NaiveDate) -> String {
    date.format("%A %Y-%m-%d").to_string()
}

/// `2026-12-03 08:10 America/New_York`
#[must_use]
pub fn local(at: DateTime<Utc>, zone: Tz) -> String {
    format!("{} {zone}", at.with_timezone(&zone).format("%Y-%m-%d %H:%M"))
}

/// `2 h 10 min`
fn span(span: TimeDelta) -> String {
    match (span.num_hours(), span.num_minutes() % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::refusal::{Refusal, ReportedError};

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(alert: &Alert, title: &str, headline: &str) {
        let message = say(alert, Tz::America__New_York);
        assert_eq!((&*message.title, &*message.headline), (title, headline));
    }

    fn low(remaining: u64) -> Alert {
        let outlook = Outlook { nights: 7, per_night: 1234, empty_on: date("2026-12-03") };
        Alert::LowStock(LowStock {
            bank: "spring26".to_owned(),
            remaining,
            threshold: 1000,
            campaigns: vec!["winback".to_owned()],
            outlook: Some(outlook).filter(|_| remaining > 0),
        })
    }

    #[test]
    fn every_alert_says_it_in_one_line() {
        check(&low(480), "spring26 has 480 codes left", "Bank spring26 has 480 codes left.");
        check(&low(1), "spring26 has 1 code left", "Bank spring26 has 1 code left.");
        check(&low(0), "spring26 is empty", "Bank spring26 is empty.");
        let outlook = Outlook { nights: 7, per_night: 100, empty_on: date("2026-12-03") };
        check(
            &Alert::EmptySoon { bank: "spring26".to_owned(), remaining: 300, outlook },
            "spring26 will be empty on Thursday 2026-12-03",
            "Bank spring26 will be empty on Thursday 2026-12-03.",
        );
        check(
            &Alert::Lapsing {
                bank: "welcome-10".to_owned(),
                end_date: date("2026-12-04"),
                size: 41_200,
                remaining: 38_000,
            },
            "38,000 codes in welcome-10 lapse on Friday 2026-12-04",
            "38,000 codes in welcome-10 lapse after Friday 2026-12-04; nobody was given them.",
        );
        let expected_by = NaiveTime::from_hms_opt(6, 0, 0).unwrap();
        check(
            &Alert::RedemptionsLate { date: date("2026-02-03"), expected_by, newest: None },
            "no redemption file for 2026-02-03",
            "The redemption file for 2026-02-03 was expected by 06:00 (America/New_York); none came.",
        );
        check(
            &Alert::RedemptionsArrived { date: date("2026-02-03"), expected_by, late_by: TimeDelta::minutes(130) },
            "the redemption file for 2026-02-03 arrived 2 h 10 min late",
            "The redemption file for 2026-02-03 arrived 2 h 10 min late.",
        );
        check(
            &Alert::BatchWaiting {
                id: 7,
                campaign: "winback".to_owned(),
                bank: "spring26".to_owned(),
                list: "list.csv".to_owned(),
                due_at: instant("2026-12-03T07:00:00Z"),
                waiting_for: "10 codes needed, 4 in stock".to_owned(),
                still: false,
            },
            "batch 7 of winback waits",
            "Batch 7 of campaign winback waits: 10 codes needed, 4 in stock.",
        );
        check(
            &Alert::CertificateExpiring {
                fingerprint: "0123456789ABCDEF0123456789ABCDEF01234567".to_owned(),
                uses: vec!["campaign `winback` encrypts to it".to_owned()],
                stage: Stage::Week,
                expires: None,
            },
            "certificate 89ABCDEF01234567 expires within a week",
            "The OpenPGP certificate 89ABCDEF01234567 expires within a week.",
        );
    }

    #[test]
    fn a_refused_file_lists_its_errors() {
        let error = |line, count| ReportedError {
            reason: "BAD_CHARACTER".to_owned(),
            message: "a blank".to_owned(),
            line,
            count,
        };
        let file = FileRefused {
            id: 17,
            name: "a.csv".to_owned(),
            kind: "coupons".to_owned(),
            target: "spring26".to_owned(),
            user: String::new(),
            quarantined: false,
            received_at: instant("2026-12-03T07:00:00Z"),
            refusal: Refusal { errors: vec![error(Some(3), None), error(None, Some(2000))], rejected: 12_345 },
            last_for_now: false,
        };
        let message = say(&Alert::FileRefused(file.clone()), Tz::America__New_York);
        assert_eq!(message.headline, "The file a.csv was rejected.");
        assert_eq!(message.errors, ["line 3: BAD_CHARACTER: a blank", "BAD_CHARACTER: a blank (2,000 times)"]);
        let rows = "12,345; listed in /reports/a.csv.17.rejects.csv".to_owned();
        assert!(message.facts.contains(&("Rejected rows", rows)));
        assert!(message.facts.contains(&("Sent to", "/coupons/spring26/".to_owned())));
        assert!(message.facts.contains(&("Received", "2026-12-03 02:00 America/New_York".to_owned())));
        let message = say(&Alert::FileRefused(FileRefused { quarantined: true, ..file }), Tz::UTC);
        assert_eq!(message.title, "quarantined: a.csv");
    }

    #[test]
    fn a_flood_is_counted_and_its_parts_add_up() {
        let group = |files, state: &str, target: &str, user: &str| RefusedGroup {
            files,
            state: state.to_owned(),
            kind: "coupons".to_owned(),
            target: target.to_owned(),
            user: user.to_owned(),
        };
        let groups = vec![group(1488, "rejected", "spring26", "acme-feed"), group(1, "quarantined", "", "")];
        let flood = FilesRefused { since: instant("2026-12-03T07:00:00Z"), files: 1490, groups };
        let message = say(&Alert::FilesRefused(flood.clone()), Tz::America__New_York);
        assert_eq!(message.headline, "1,490 more files were refused since 2026-12-03 02:00 America/New_York.");
        let facts: Vec<&str> = message.facts.iter().map(|(_, fact)| fact.as_str()).collect();
        assert_eq!(
            facts,
            [
                "1,488 files rejected in /coupons/spring26/ from user acme-feed",
                "1 file quarantined in /coupons/ from a local file",
                "1 file",
            ]
        );
        assert_eq!(
            say(&Alert::FilesRefused(FilesRefused { files: 1, ..flood }), Tz::UTC).title,
            "1 more file was refused"
        );
    }

    #[test]
    fn the_outlook_stands_in_the_mail() {
        let message = say(&low(480), Tz::UTC);
        assert_eq!(
            message.paragraphs.first().map(String::as_str),
            Some("At the rate of the last 7 nights (about 1,234 a night) it is empty on Thursday 2026-12-03.")
        );
    }

    #[test]
    fn numbers_and_spans() {
        for (count, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (41_200, "41,200"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(count), expected);
        }
        for (minutes, expected) in [(0, "0 min"), (59, "59 min"), (60, "1 h"), (130, "2 h 10 min")] {
            assert_eq!(span(TimeDelta::minutes(minutes)), expected);
        }
    }
}
