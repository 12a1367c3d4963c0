//! What a row of an assignment file says about its code.

use std::fmt;

/// The `outcome` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The customer held no code, or the bank is not persistent.
    New,
    /// The code held had been redeemed.
    ReplacedRedeemed,
    /// The window of the code held had ended.
    ReplacedLapsed,
    /// The code held stays.
    Kept,
    /// The bank was short: the static fallback code.
    Fallback,
    /// A test send: the bank's proof code.
    Proof,
}

impl Outcome {
    /// Every outcome.
    pub const EVERY: [Self; 6] =
        [Self::New, Self::ReplacedRedeemed, Self::ReplacedLapsed, Self::Kept, Self::Fallback, Self::Proof];

    /// The word in assignment files and manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::ReplacedRedeemed => "replaced_redeemed",
            Self::ReplacedLapsed => "replaced_lapsed",
            Self::Kept => "kept",
            Self::Fallback => "fallback",
            Self::Proof => "proof",
        }
    }

    /// The number in the store, where only an outcome that took a code of the bank has a row.
    #[must_use]
    pub fn stored(self) -> Option<i16> {
        match self {
            Self::New => Some(1),
            Self::ReplacedRedeemed => Some(2),
            Self::ReplacedLapsed => Some(3),
            Self::Kept | Self::Fallback | Self::Proof => None,
        }
    }

    /// The outcome that the store's `number` means.
    #[must_use]
    pub fn from_stored(number: i16) -> Option<Self> {
        Self::EVERY.into_iter().find(|outcome| outcome.stored() == Some(number))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_come_back() {
        for outcome in Outcome::EVERY {
            if let Some(number) = outcome.stored() {
                assert_eq!(Outcome::from_stored(number), Some(outcome));
            }
        }
        assert_eq!(Outcome::from_stored(0), None);
        assert_eq!(Outcome::from_stored(4), None);
    }
}
