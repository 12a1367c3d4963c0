//! Whether a customer of a persistent bank keeps the code held, and if not, which of the two checks decided.

use chrono::NaiveDate;

use super::outcome::Outcome;
use super::window;

/// The code that a customer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Whether it was redeemed.
    pub redeemed: bool,
    /// The end date of its lot. That its upload was undone does not matter: the code has been sent.
    pub end_date: Option<NaiveDate>,
}

/// What happens to a customer in a batch: [`Outcome::Kept`], or one of the outcomes that need a code. A code that was
/// both redeemed and has lapsed counts as redeemed: that is what the marketer asks about.
#[must_use]
pub fn decide(hold: Option<Hold>, open_on: NaiveDate) -> Outcome {
    match hold {
        None => Outcome::New,
        Some(hold) if hold.redeemed => Outcome::ReplacedRedeemed,
        Some(hold) if !window::is_open(hold.end_date, open_on) => Outcome::ReplacedLapsed,
        Some(_) => Outcome::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hold: Option<(bool, Option<&str>)>, expected: Outcome) {
        let hold = hold.map(|(redeemed, date)| Hold { redeemed, end_date: date.map(|date| date.parse().unwrap()) });
        assert_eq!(decide(hold, "2026-03-02".parse().unwrap()), expected, "{hold:?}");
    }

    #[test]
    fn which_check_decides() {
        check(None, Outcome::New);
        check(Some((false, None)), Outcome::Kept);
        check(Some((false, Some("2026-03-02"))), Outcome::Kept);
        check(Some((false, Some("2026-03-01"))), Outcome::ReplacedLapsed);
        check(Some((true, None)), Outcome::ReplacedRedeemed);
        check(Some((true, Some("2026-03-01"))), Outcome::ReplacedRedeemed);
    }
}
