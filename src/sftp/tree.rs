//! The tree that a user sees: what a clean path means to it. Pure; the directories exist because the settings (or an
//! upload) made a bank or campaign, not because something is on disk.

use std::collections::BTreeSet;

use super::path::VirtualPath;
use super::permissions::Ground;
use crate::config::{Name, Namespace, Role};
use crate::spool::{Kind, Place};

/// What one user may see, from one snapshot of the settings.
pub(super) struct View<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) role: Role,
    /// Banks that only the store knows: an upload created them.
    pub(super) created_banks: &'a BTreeSet<Name>,
}

/// An outbound directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shelf {
    Reports,
    Assignments(Name),
    Openpgp,
}

impl Shelf {
    pub(super) fn ground(&self) -> Ground {
        match self {
            Self::Reports | Self::Assignments(_) => Ground::Collected,
            Self::Openpgp => Ground::Published,
        }
    }
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A directory that only holds directories, with their names.
    Listing(Vec<String>),
    /// An inbound directory, with the directories in it.
    Drop(Place, Vec<String>),
    /// A file in an inbound directory, whether or not it exists.
    DropFile(Place, Vec<u8>),
    /// An outbound directory.
    Shelf(Shelf),
    /// A file in an outbound directory, whether or not it exists.
    ShelfFile(Shelf, Vec<u8>),
    /// `/exchange` and everything below, as the components below it.
    Exchange(Vec<Vec<u8>>),
    /// Nothing that this user sees.
    Nothing,
}

impl Node {
    /// Which row of the permissions table holds. What is not seen is treated as what is above it: a listing.
    pub(super) fn ground(&self) -> Ground {
        match self {
            Self::Listing(_) | Self::Nothing => Ground::Listing,
            Self::Drop(..) | Self::DropFile(..) => Ground::Inbound,
            Self::Shelf(shelf) | Self::ShelfFile(shelf, _) => shelf.ground(),
            Self::Exchange(_) => Ground::Exchange,
        }
    }
}

/// The kinds whose reports `role` sees.
pub(super) fn sees_kind(role: Role, kind: Kind) -> bool {
    match role {
        Role::Client => kind != Kind::Recipients,
        Role::Campaigns => kind == Kind::Recipients,
        Role::All => true,
    }
}

/// The bank that `path` may name and the settings do not know: the store is asked about it.
pub(super) fn undeclared_bank(path: &VirtualPath, namespace: &Namespace) -> bool {
    let inner = match path.components() {
        [check, rest @ ..] if check == b"check" => rest,
        all => all,
    };
    let [kind, bank, ..] = inner else { return false };
    kind == b"coupons" && name(bank).is_some_and(|bank| !namespace.banks.contains_key(&bank))
}

fn name(component: &[u8]) -> Option<Name> {
    Name::parse(std::str::from_utf8(component).ok()?).ok()
}

impl View<'_> {
    fn exchange(&self) -> bool {
        self.namespace.exchange && matches!(self.role, Role::Client | Role::All)
    }

    fn banks(&self) -> Vec<String> {
        let declared = self.namespace.banks.keys();
        let created = self.created_banks.iter().filter(|bank| !self.namespace.banks.contains_key(*bank));
        declared.chain(created).map(ToString::to_string).collect()
    }

    fn has_bank(&self, bank: &Name) -> bool {
        self.namespace.banks.contains_key(bank) || self.created_banks.contains(bank)
    }

    fn campaigns(&self) -> Vec<String> {
        self.namespace.campaigns.keys().map(ToString::to_string).collect()
    }

    fn root(&self) -> Vec<String> {
        let campaigns = sees_kind(self.role, Kind::Recipients);
        let mut names = vec!["check", "openpgp", "reports"];
        if sees_kind(self.role, Kind::Coupons) {
            names.extend(["coupons", "redemptions"]);
        }
        if campaigns {
            names.extend(["assignments", "recipients"]);
        }
        if self.exchange() {
            names.push("exchange");
        }
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect()
    }

    /// What `path` means to this user.
    pub(super) fn resolve(&self, path: &VirtualPath) -> Node {
        match path.components() {
            [] => Node::Listing(self.root()),
            [first, rest @ ..] => match (first.as_slice(), rest) {
                (b"check", []) => Node::Listing(self.kinds()),
                (b"check", [kind, rest @ ..]) => self.inbound(kind, rest, true),
                (b"reports", rest) => shelf(Shelf::Reports, rest),
                (b"openpgp", rest) => shelf(Shelf::Openpgp, rest),
                (b"exchange", rest) if self.exchange() => Node::Exchange(rest.to_vec()),
                (b"assignments", rest) if sees_kind(self.role, Kind::Recipients) => match rest {
                    [] => Node::Listing(self.campaigns()),
                    [campaign, rest @ ..] => match name(campaign) {
                        Some(campaign) if self.namespace.campaigns.contains_key(&campaign) => {
                            shelf(Shelf::Assignments(campaign), rest)
                        }
                        _ => Node::Nothing,
                    },
                },
                (kind, rest) => self.inbound(kind, rest, false),
            },
        }
    }

    fn kinds(&self) -> Vec<String> {
        Kind::EVERY
            .into_iter()
            .filter(|kind| sees_kind(self.role, *kind))
            .map(|kind| kind.as_str().to_owned())
            .collect()
    }

    fn inbound(&self, kind: &[u8], rest: &[Vec<u8>], dry_run: bool) -> Node {
        let kind = std::str::from_utf8(kind).ok().and_then(Kind::parse);
        let Some(kind) = kind.filter(|kind| sees_kind(self.role, *kind)) else { return Node::Nothing };
        let place = |target| Place { kind, target, dry_run };
        match (kind, rest) {
            (Kind::Recipients, []) => Node::Listing(self.campaigns()),
            (Kind::Recipients, [campaign, rest @ ..]) => match name(campaign) {
                Some(campaign) if self.namespace.campaigns.contains_key(&campaign) => {
                    drop_or_file(place(Some(campaign)), rest)
                }
                _ => Node::Nothing,
            },
            (Kind::Redemptions, rest) => drop_or_file(place(None), rest),
            (Kind::Coupons, []) => Node::Drop(place(None), self.banks()),
            (Kind::Coupons, [first, rest @ ..]) => match name(first) {
                Some(bank) if self.has_bank(&bank) => drop_or_file(place(Some(bank)), rest),
                _ if rest.is_empty() => Node::DropFile(place(None), first.clone()),
                _ => Node::Nothing,
            },
        }
    }
}

fn drop_or_file(place: Place, rest: &[Vec<u8>]) -> Node {
    match rest {
        [] => Node::Drop(place, Vec::new()),
        [file] => Node::DropFile(place, file.clone()),
        _ => Node::Nothing,
    }
}

fn shelf(shelf: Shelf, rest: &[Vec<u8>]) -> Node {
    match rest {
        [] => Node::Shelf(shelf),
        // A leading dot marks what is not published yet.
        [file] if !file.starts_with(b".") => Node::ShelfFile(shelf, file.clone()),
        _ => Node::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{
        Audience, Bank, Campaign, Channel, NamespaceOpenpgp, NewBanks, OfferType, PersistPer, RedemptionFeed, Require,
        Schedule, WhenShort,
    };

    fn namespace() -> Namespace {
        let named = |text: &str| Name::parse(text).unwrap();
        let bank = Bank {
            name: named("spring26"),
            audience: Audience::Communicate,
            persistent: true,
            persist_per: PersistPer::Customer,
            offer_type: OfferType::Other,
            low_stock: None,
            proof_code: "PROOF-SPRING26".into(),
            fallback_code: None,
        };
        let campaign = Campaign {
            name: named("winback"),
            bank: named("spring26"),
            channel: Channel::Email,
            schedule: Schedule::OnArrival,
            send_at: None,
            collect_by: None,
            when_short: WhenShort::Wait,
            encrypt_to: None,
        };
        Namespace {
            name: named("acme"),
            timezone: chrono_tz::UTC,
            notify: Vec::new(),
            exchange: true,
            may_delete_collected: false,
            new_banks: NewBanks::Create,
            users: BTreeMap::new(),
            openpgp: NamespaceOpenpgp { require: Require::None, signers: Vec::new() },
            banks: BTreeMap::from([(named("spring26"), bank)]),
            campaigns: BTreeMap::from([(named("winback"), campaign)]),
            redemptions: RedemptionFeed::default(),
        }
    }

    fn word(node: &Node) -> String {
        match node {
            Node::Listing(names) => format!("listing {}", names.join(" ")),
            Node::Drop(place, names) => format!("drop {} [{}]", place.directory(), names.join(" ")),
            Node::DropFile(place, name) => format!("file {} in {}", name.escape_ascii(), place.directory()),
            Node::Shelf(shelf) => format!("shelf {shelf:?}"),
            Node::ShelfFile(shelf, name) => format!("file {} on {shelf:?}", name.escape_ascii()),
            Node::Exchange(rest) => format!("exchange {}", rest.len()),
            Node::Nothing => "nothing".into(),
        }
    }

    #[track_caller]
    fn check(role: Role, path: &str, expected: &str) {
        let namespace = namespace();
        let created_banks = BTreeSet::from([Name::parse("made").unwrap()]);
        let view = View { namespace: &namespace, role, created_banks: &created_banks };
        assert_eq!(word(&view.resolve(&VirtualPath::parse(path.as_bytes()).unwrap())), expected, "{role:?} {path}");
    }

    #[test]
    fn what_each_role_sees() {
        use Role::{All, Campaigns, Client};
        check(Client, "/", "listing check coupons exchange openpgp redemptions reports");
        check(Campaigns, "/", "listing assignments check openpgp recipients reports");
        check(All, "/", "listing assignments check coupons exchange openpgp recipients redemptions reports");
        check(Client, "/check", "listing coupons redemptions");
        check(Campaigns, "/check", "listing recipients");
        check(Client, "/coupons", "drop coupons [spring26 made]");
        check(Client, "/coupons/spring26", "drop coupons/spring26 []");
        check(Client, "/coupons/made/a.csv", "file a.csv in coupons/made");
        check(Client, "/coupons/other", "file other in coupons");
        check(Client, "/coupons/other/a.csv", "nothing");
        check(Client, "/check/coupons/spring26/a.csv", "file a.csv in check/coupons/spring26");
        check(Client, "/redemptions/r.csv", "file r.csv in redemptions");
        check(Client, "/redemptions/spring26/r.csv", "nothing");
        check(Client, "/recipients", "nothing");
        check(Client, "/recipients/winback/a.csv", "nothing");
        check(Client, "/assignments/winback", "nothing");
        check(Client, "/check/recipients/winback", "nothing");
        check(Client, "/reports/a.1.report.json", "file a.1.report.json on Reports");
        check(Client, "/reports/.tmp", "nothing");
        check(Client, "/exchange/a/b", "exchange 2");
        check(Campaigns, "/exchange", "nothing");
        check(Campaigns, "/coupons", "nothing");
        check(Campaigns, "/recipients", "listing winback");
        check(Campaigns, "/recipients/winback/a.csv", "file a.csv in recipients/winback");
        check(Campaigns, "/recipients/other/a.csv", "nothing");
        check(Campaigns, "/recipients/a.csv", "nothing");
        check(Campaigns, "/assignments/winback", "shelf Assignments(Name(\"winback\"))");
        check(Campaigns, "/assignments/winback/a/b", "nothing");
        check(All, "/openpgp", "shelf Openpgp");
        check(All, "/.spool/incoming/1", "nothing");
        check(All, "/check/check/coupons", "nothing");
        check(All, "/coupons/../../acme2/coupons", "nothing");
    }

    #[test]
    fn the_store_is_asked_only_about_banks_the_settings_do_not_know() {
        let ask = |path: &str| undeclared_bank(&VirtualPath::parse(path.as_bytes()).unwrap(), &namespace());
        assert!(ask("/coupons/made"));
        assert!(ask("/check/coupons/made/a.csv"));
        assert!(!ask("/coupons/spring26/a.csv"));
        assert!(!ask("/coupons/a.csv"));
        assert!(!ask("/redemptions/made"));
    }
}
