//! `[limits]`: limits on everything from outside.

use std::ops::RangeInclusive;

use serde::Deserialize;

use crate::config::judge::Judge;
use crate::config::raw::Size;
use crate::config::{Limits, RejectLimit, values};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    upload_bytes: Option<Size>,
    plaintext_bytes: Option<Size>,
    plaintext_ratio: Option<u64>,
    nesting: Option<u64>,
    row_bytes: Option<Size>,
    code_bytes: Option<Size>,
    customer_id_bytes: Option<Size>,
    reject_rows: Option<u64>,
    reject_percent: Option<u64>,
    quota_bytes: Option<Size>,
    free_space_bytes: Option<Size>,
    sessions: Option<u64>,
    sessions_per_source: Option<u64>,
    sessions_before_login: Option<u64>,
    login_grace_secs: Option<u64>,
    login_attempts: Option<u64>,
    idle_secs: Option<u64>,
    open_files: Option<u64>,
    open_directories: Option<u64>,
    lease_secs: Option<u64>,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const PIB: u64 = 1 << 50;

/// No session count beyond what one process can hold open.
const MOST_SESSIONS: u64 = 100_000;

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<Limits> {
    let mut limit = Limiter { judge };
    let upload_bytes = limit.size("upload_bytes", raw.upload_bytes.as_ref(), 1..=PIB, 4 * GIB);
    let plaintext_bytes = limit.size("plaintext_bytes", raw.plaintext_bytes.as_ref(), 1..=PIB, 32 * GIB);
    let plaintext_ratio = limit.number("plaintext_ratio", raw.plaintext_ratio, 1..=1_000_000, 1_000);
    let nesting = limit.count("nesting", raw.nesting, 1..=16, 8);
    let row_bytes = limit.size("row_bytes", raw.row_bytes.as_ref(), 256..=16 * MIB, 64 * KIB);
    // The codes' column and their index are laid out for 99 bytes.
    let code_bytes = limit.size("code_bytes", raw.code_bytes.as_ref(), 1..=99, 99);
    let customer_id_bytes = limit.size("customer_id_bytes", raw.customer_id_bytes.as_ref(), 1..=KIB, 320);
    let rows = limit.number("reject_rows", raw.reject_rows, 0..=u64::from(u32::MAX), 10_000);
    let percent = limit.number("reject_percent", raw.reject_percent, 0..=100, 10);
    let quota_bytes = limit.size("quota_bytes", raw.quota_bytes.as_ref(), 1..=PIB, 64 * GIB);
    let free_space_bytes = limit.size("free_space_bytes", raw.free_space_bytes.as_ref(), 0..=TIB, GIB);
    let sessions = limit.count("sessions", raw.sessions, 1..=MOST_SESSIONS, 500);
    let sessions_per_source = limit.count("sessions_per_source", raw.sessions_per_source, 1..=MOST_SESSIONS, 20);
    let sessions_before_login = limit.count("sessions_before_login", raw.sessions_before_login, 1..=MOST_SESSIONS, 100);
    let login_grace = limit.judge.span(&["limits", "login_grace_secs"], raw.login_grace_secs, 1..=3_600, 30, 1);
    let login_attempts = limit.count("login_attempts", raw.login_attempts, 1..=100, 6);
    let idle = limit.judge.span(&["limits", "idle_secs"], raw.idle_secs, 1..=7 * 86_400, 15 * 60, 1);
    let open_files = limit.count("open_files", raw.open_files, 1..=1_024, 64);
    let open_directories = limit.count("open_directories", raw.open_directories, 1..=1_024, 8);
    let lease = limit.judge.span(&["limits", "lease_secs"], raw.lease_secs, 5..=3_600, 60, 1);
    Some(Limits {
        upload_bytes: upload_bytes?,
        plaintext_bytes: plaintext_bytes?,
        plaintext_ratio: plaintext_ratio?,
        nesting: nesting?,
        row_bytes: whole(row_bytes?),
        code_bytes: whole(code_bytes?),
        customer_id_bytes: whole(customer_id_bytes?),
        reject: RejectLimit { rows: rows?, percent: u8::try_from(percent?).unwrap_or(100) },
        quota_bytes: quota_bytes?,
        free_space_bytes: free_space_bytes?,
        sessions: sessions?,
        sessions_per_source: sessions_per_source?,
        sessions_before_login: sessions_before_login?,
        login_grace: login_grace?,
        login_attempts: login_attempts?,
        idle: idle?,
        open_files: open_files?,
        open_directories: open_directories?,
        lease: lease?,
    })
}

/// Bounds above keep every such number far below 4 GiB.
fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

struct Limiter<'a, 'b> {
    judge: &'a mut Judge<'b>,
}

impl Limiter<'_, '_> {
    fn number(&mut self, key: &str, given: Option<u64>, bounds: RangeInclusive<u64>, default: u64) -> Option<u64> {
        self.judge.number(&["limits", key], given, bounds, default)
    }

    fn count(&mut self, key: &str, given: Option<u64>, bounds: RangeInclusive<u64>, default: u64) -> Option<usize> {
        self.number(key, given, bounds, default).map(whole)
    }

    fn size(&mut self, key: &str, given: Option<&Size>, bounds: RangeInclusive<u64>, default: u64) -> Option<u64> {
        let bytes = match given {
            None => None,
            Some(Size::Bytes(bytes)) => Some(*bytes),
            Some(Size::Text(text)) => Some(self.judge.accept(&["limits", key], values::size(text))?),
        };
        self.number(key, bytes, bounds, default)
    }
}
