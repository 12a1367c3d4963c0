//! How a list meets a table: as a whole, or row by row through an index.
//!
//! Which one is decided by counters, not by the planner: right after a large upload it may still take a bank for a handful of
//! codes, and would look each customer up in it one by one, or read it whole for one.

/// How a list meets a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meets {
    /// As a whole: the list is large beside the table.
    Joined,
    /// Row by row: it is small.
    LookedUp,
}

/// How many rows there must be to one of the list before each is looked up.
const WORTH_LOOKING_UP: i64 = 4;
/// Shorter lists are always looked up.
const LARGE_LIST: i64 = 10_000;

impl Meets {
    /// `rows` of the table against `listed` rows of the list.
    pub(super) fn by(rows: i64, listed: i64) -> Self {
        if listed > LARGE_LIST && rows < listed.saturating_mul(WORTH_LOOKING_UP) {
            Self::Joined
        } else {
            Self::LookedUp
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rows: i64, listed: i64, expected: Meets) {
        assert_eq!(Meets::by(rows, listed), expected, "{rows} rows, {listed} listed");
    }

    #[test]
    fn what_is_small_beside_the_table_is_looked_up() {
        check(0, 100, Meets::LookedUp);
        check(20_000_000, 100, Meets::LookedUp);
        check(0, 1_000_000, Meets::Joined);
        check(3_999_999, 1_000_000, Meets::Joined);
        check(4_000_000, 1_000_000, Meets::LookedUp);
        check(i64::MAX, i64::MAX, Meets::LookedUp);
    }
}
