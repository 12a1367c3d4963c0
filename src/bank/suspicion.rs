//! Which redemptions look like a leak or a guess. Counts of one lot in, a judgement out.

/// Fewer redemptions than this are no burst, whatever share they are.
const BURST_LEAST: u64 = 100;
/// More than one in this many of the codes that are out there.
const BURST_SHARE: u64 = 4;

/// Whether `redeemed` codes of a lot, all of them in one day (or one file), are more than its customers would redeem:
/// at least a hundred, and more than a quarter of the `out` that were handed out. A code that was sent to a customer is
/// redeemed by a few in a hundred; whoever has found a list redeems what is on it.
#[must_use]
pub fn is_burst(redeemed: u64, out: u64) -> bool {
    redeemed >= BURST_LEAST && redeemed > out / BURST_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(redeemed: u64, out: u64, expected: bool) {
        assert_eq!(is_burst(redeemed, out), expected, "{redeemed} of {out}");
    }

    #[test]
    fn bursts() {
        check(0, 0, false);
        check(99, 99, false);
        check(100, 399, true);
        check(100, 400, false);
        check(5_000, 100_000, false);
        check(25_001, 100_000, true);
        check(100, 0, true);
        check(u64::MAX, u64::MAX, true);
    }
}
