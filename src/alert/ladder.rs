//! Low stock: at T, T/2, T/10 and 0, once each; a refill re-arms the rungs that it rises above.

use super::kinds::{Alert, Change, LowStock};

/// How many rungs of the ladder `remaining` has reached, from 0 (above T) to 4 (empty).
#[must_use]
pub fn rung(remaining: u64, threshold: u64) -> i32 {
    let reached = [
        remaining <= threshold,
        remaining.saturating_mul(2) <= threshold,
        remaining.saturating_mul(10) <= threshold,
        remaining == 0,
    ];
    // Whoever is empty has reached every rung, whatever T is.
    if remaining == 0 { 4 } else { reached.into_iter().map(i32::from).sum() }
}

/// Judges a bank that ever had `size` codes. A bank that never had any has not run out of them.
#[must_use]
pub fn judge(low: LowStock, size: u64, remembered: Option<i32>) -> Option<Change> {
    let level = if size == 0 { 0 } else { rung(low.remaining, low.threshold) };
    if remembered.unwrap_or(0) == level {
        return None;
    }
    Some(Change {
        subject: format!("low_stock/{}", low.bank),
        from: remembered,
        to: level,
        alert: (level > remembered.unwrap_or(0)).then_some(Alert::LowStock(low)),
        forget_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_rung(threshold: u64, remaining: &[u64], expected: i32) {
        for remaining in remaining {
            assert_eq!(rung(*remaining, threshold), expected, "{remaining} of {threshold}");
        }
    }

    #[test]
    fn rungs() {
        check_rung(1000, &[1001, u64::MAX], 0);
        check_rung(1000, &[1000, 501], 1);
        check_rung(1000, &[500, 101], 2);
        check_rung(1000, &[100, 1], 3);
        check_rung(1000, &[0], 4);
        check_rung(5, &[6], 0);
        check_rung(5, &[5, 3], 1);
        check_rung(5, &[2, 1], 2);
        check_rung(0, &[1, 10], 0);
        check_rung(0, &[0], 4);
        check_rung(u64::MAX, &[u64::MAX - 1], 3);
    }

    /// What remains at each look, and what is alerted then.
    #[track_caller]
    fn check(threshold: u64, looks: &[(u64, bool)]) {
        let mut remembered = None;
        for (at, (remaining, alerted)) in looks.iter().enumerate() {
            let low = LowStock {
                bank: "spring26".to_owned(),
                remaining: *remaining,
                threshold,
                campaigns: Vec::new(),
                outlook: None,
            };
            let change = judge(low, 5000, remembered);
            assert_eq!(
                change.as_ref().is_some_and(|change| change.alert.is_some()),
                *alerted,
                "look {at} of {looks:?}"
            );
            remembered = change.map_or(remembered, |change| Some(change.to));
        }
    }

    #[test]
    fn each_rung_once() {
        check(1000, &[(5000, false), (1000, true), (999, false), (501, false), (500, true), (100, true), (0, true)]);
        check(1000, &[(0, true), (0, false)]);
        // Several rungs at once are one alert.
        check(1000, &[(5000, false), (50, true), (40, false), (0, true)]);
        // Without T, only when it is empty.
        check(0, &[(5000, false), (1, false), (0, true), (0, false)]);
    }

    #[test]
    fn a_refill_arms_again() {
        check(1000, &[(400, true), (5000, false), (900, true), (400, true)]);
        // A small one arms only what it rises above.
        check(1000, &[(0, true), (700, false), (600, false), (450, true), (0, true)]);
    }

    #[test]
    fn a_bank_that_never_had_codes_is_not_empty() {
        let low =
            LowStock { bank: "new".to_owned(), remaining: 0, threshold: 10, campaigns: Vec::new(), outlook: None };
        assert_eq!(judge(low, 0, None), None);
    }
}
