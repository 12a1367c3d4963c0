//! The suspicion report: once a day, what was redeemed that nobody should have redeemed.
//!
//! For each local date that is over, in the order of dates, `/reports/suspicion.<date>.csv` is written when there is
//! something to say, and the date is remembered in the store. Killed in between, it is written again as it was. It counts and
//! names lots, uploads and lines; it has no codes.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};

use crate::bank::suspicion::is_burst;
use crate::bank::window;
use crate::config::{Namespace, Settings};
use crate::reason::Reason;
use crate::spool::{Layout, durable};
use crate::store::suspicion::{Counted, LotCount};
use crate::store::{Store, StoreError};

/// How many dates back a daemon looks that was not running.
const CAUGHT_UP: u64 = 7;
/// How long a date waits for the verdict on files that were received in it.
const PATIENCE: TimeDelta = TimeDelta::hours(24);

/// A report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SuspicionError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error("write the suspicion report")]
    Disk(#[from] std::io::Error),
    /// A row of it.
    #[error("write a row of the suspicion report")]
    Row(#[from] csv::Error),
}

/// Makes the suspicion reports of every date of `namespace` that is over. Returns how many were written.
///
/// # Errors
/// [`SuspicionError`]; the date is looked through again next time.
pub fn report_suspicions(
    store: &Store,
    settings: &Settings,
    namespace: &Namespace,
    now: DateTime<Utc>,
) -> Result<usize, SuspicionError> {
    let namespace_id = store.namespace_id(&namespace.name)?;
    let layout = Layout::new(&settings.state_dir, &namespace.name);
    let mut written = 0;
    for date in due_dates(now.with_timezone(&namespace.timezone).date_naive(), store.last_suspicion(namespace_id)?) {
        let day = (start_of(date, namespace), start_of(next(date), namespace));
        if now < day.1 + PATIENCE && store.is_open_before(namespace_id, day.1)? {
            break;
        }
        let found = findings(store, namespace_id, day)?;
        if !found.is_empty() {
            let path = layout.reports().join(format!("suspicion.{date}.csv"));
            durable::write_whole(&path, &render(&found)?)?;
            written += 1;
            tracing::warn!(namespace = %namespace.name, date = %date, findings = found.len(), "Redemptions look suspicious");
        }
        store.suspicion_made(namespace_id, date, found.len(), now)?;
    }
    Ok(written)
}

/// The dates to look through, oldest first: from the one after `last` to yesterday.
fn due_dates(today: NaiveDate, last: Option<NaiveDate>) -> Vec<NaiveDate> {
    let earliest = today.checked_sub_days(Days::new(CAUGHT_UP)).unwrap_or(today);
    let first = match last {
        Some(last) => next(last).max(earliest),
        None => today.pred_opt().unwrap_or(today),
    };
    first.iter_days().take_while(|date| *date < today).collect()
}

fn next(date: NaiveDate) -> NaiveDate {
    date.succ_opt().unwrap_or(date)
}

/// The first instant of a local date.
fn start_of(date: NaiveDate, namespace: &Namespace) -> DateTime<Utc> {
    window::instants(date.and_time(NaiveTime::MIN), namespace.timezone).0
}

fn findings(
    store: &Store,
    namespace_id: i32,
    day: (DateTime<Utc>, DateTime<Utc>),
) -> Result<Vec<(Reason, LotCount)>, StoreError> {
    let with = |reason| move |row| (reason, row);
    let mut found: Vec<(Reason, LotCount)> = Vec::new();
    let count = |counted| store.count_redeemed(namespace_id, counted, day);
    found.extend(count(Counted::Unassigned)?.into_iter().map(with(Reason::RedeemedUnassigned)));
    found.extend(count(Counted::BeforeUpload)?.into_iter().map(with(Reason::RedeemedBeforeUpload)));
    found.extend(bursts(count(Counted::All)?).into_iter().map(with(Reason::RedemptionBurst)));
    Ok(found)
}

/// Those rows whose lot had a burst on the day, over all its uploads.
fn bursts(rows: Vec<LotCount>) -> Vec<LotCount> {
    let mut lots = std::collections::BTreeMap::<(String, i32), u64>::new();
    for row in &rows {
        *lots.entry((row.bank.clone(), row.lot_id)).or_default() += u64::try_from(row.count).unwrap_or_default();
    }
    let mut rows = rows;
    rows.retain(|row| {
        let redeemed = lots.get(&(row.bank.clone(), row.lot_id)).copied().unwrap_or_default();
        is_burst(redeemed, u64::try_from(row.lot_out).unwrap_or_default())
    });
    rows
}

fn render(found: &[(Reason, LotCount)]) -> Result<Vec<u8>, SuspicionError> {
    let mut file = csv::Writer::from_writer(Vec::new());
    file.write_record([
        "reason",
        "bank_name",
        "lot",
        "coupons_upload",
        "redemptions_upload",
        "count",
        "first_line",
        "last_line",
    ])?;
    for (reason, row) in found {
        let numbers = [row.coupons_upload, row.redemptions_upload, row.count, row.first_line, row.last_line];
        let mut cells = vec![reason.as_str().to_owned(), row.bank.clone(), row.lot_id.to_string()];
        cells.extend(numbers.map(|number| number.to_string()));
        file.write_record(&cells)?;
    }
    file.into_inner().map_err(|error| std::io::Error::other(error.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(last: Option<&str>, expected: &[&str]) {
        let dates = due_dates("2026-03-10".parse().unwrap(), last.map(|date| date.parse().unwrap()));
        assert_eq!(dates.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn dates_that_are_over() {
        check(None, &["2026-03-09"]);
        check(Some("2026-03-09"), &[]);
        check(Some("2026-03-10"), &[]);
        check(Some("2026-03-07"), &["2026-03-08", "2026-03-09"]);
        let week: Vec<String> = (3..10).map(|day| format!("2026-03-0{day}")).collect();
        check(Some("2026-01-01"), &week.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn a_lot_has_a_burst_over_all_uploads_of_the_day() {
        let row = |lot_id, redemptions_upload, count| LotCount {
            bank: "spring26".to_owned(),
            lot_id,
            coupons_upload: 1,
            redemptions_upload,
            count,
            first_line: 1,
            last_line: count,
            lot_out: 200,
        };
        let found = bursts(vec![row(1, 7, 60), row(1, 8, 60), row(2, 7, 99)]);
        assert_eq!(found.iter().map(|row| (row.lot_id, row.redemptions_upload)).collect::<Vec<_>>(), [(1, 7), (1, 8)]);
    }
}
