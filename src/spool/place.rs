//! Where an upload was put: the directory decides its kind, its bank or campaign, and whether it is only checked.

use crate::config::Name;

/// Kind of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Codes for banks.
    Coupons,
    /// Codes that were used.
    Redemptions,
    /// Customers of one batch.
    Recipients,
}

impl Kind {
    /// Every kind.
    pub const EVERY: [Self; 3] = [Self::Coupons, Self::Redemptions, Self::Recipients];

    /// The word in paths, reports and store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coupons => "coupons",
            Self::Redemptions => "redemptions",
            Self::Recipients => "recipients",
        }
    }

    /// The kind that `text` names exactly.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// An inbound directory of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// What is dropped here.
    pub kind: Kind,
    /// The bank (coupons) or campaign (recipients) that the directory names.
    pub target: Option<Name>,
    /// Whether it lies under `/check/`: full report, nothing applied.
    pub dry_run: bool,
}

impl Place {
    /// The directory, relative to the namespace's root, for example `check/coupons/spring26`.
    #[must_use]
    pub fn directory(&self) -> String {
        let check = if self.dry_run { "check/" } else { "" };
        match &self.target {
            None => format!("{check}{}", self.kind.as_str()),
            Some(target) => format!("{check}{}/{target}", self.kind.as_str()),
        }
    }

    /// The place that a clean relative path names, whether or not the configuration has it. Recipients need a campaign,
    /// redemptions take no target.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (dry_run, path) = match path.strip_prefix("check/") {
            Some(rest) => (true, rest),
            None => (false, path),
        };
        let (kind, target) = match path.split_once('/') {
            None => (Kind::parse(path)?, None),
            Some((kind, target)) => (Kind::parse(kind)?, Some(Name::parse(target).ok()?)),
        };
        let complete = match kind {
            Kind::Coupons => true,
            Kind::Redemptions => target.is_none(),
            Kind::Recipients => target.is_some(),
        };
        complete.then_some(Self { kind, target, dry_run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, valid: bool) {
        let place = Place::parse(path);
        assert_eq!(place.is_some(), valid, "{path:?}");
        if let Some(place) = place {
            assert_eq!(place.directory(), path);
        }
    }

    #[test]
    fn places() {
        check("coupons", true);
        check("coupons/spring26", true);
        check("check/coupons/spring26", true);
        check("redemptions", true);
        check("check/redemptions", true);
        check("redemptions/spring26", false);
        check("recipients/winback", true);
        check("recipients", false);
        check("check/recipients/winback", true);
        check("check/check/coupons", false);
        check("coupons/", false);
        check("coupons/a/b", false);
        check("coupons/..", false);
        check("assignments/winback", false);
        check("", false);
    }
}
