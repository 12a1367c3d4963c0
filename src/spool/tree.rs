//! The directories that a namespace's configuration asks for, and the file of an upload after its verdict.

use std::io;

use super::{Kind, Layout, Place, durable};
use crate::config::{Name, Namespace};
use crate::store::uploads::Verdict;

/// Every inbound place of a namespace: declared banks, `more_banks` that uploads created, campaigns; and their checks.
#[must_use]
pub fn places(namespace: &Namespace, more_banks: &[Name]) -> Vec<Place> {
    let mut banks: Vec<&Name> = namespace.banks.keys().chain(more_banks).collect();
    banks.sort();
    banks.dedup();
    let mut places = Vec::new();
    for dry_run in [false, true] {
        let place = |kind, target: Option<&Name>| Place { kind, target: target.cloned(), dry_run };
        places.push(place(Kind::Coupons, None));
        places.push(place(Kind::Redemptions, None));
        places.extend(banks.iter().map(|bank| place(Kind::Coupons, Some(bank))));
        places.extend(namespace.campaigns.keys().map(|campaign| place(Kind::Recipients, Some(campaign))));
    }
    places
}

/// Makes the whole tree of a namespace.
///
/// # Errors
/// Whatever the file system says.
pub fn make(layout: &Layout, namespace: &Namespace, more_banks: &[Name]) -> io::Result<()> {
    for place in places(namespace, more_banks) {
        durable::make_directory(&layout.drop_directory(&place))?;
    }
    for campaign in namespace.campaigns.keys() {
        durable::make_directory(&layout.assignments(campaign))?;
    }
    for directory in [layout.reports(), layout.openpgp(), layout.incoming(), layout.prepared()] {
        durable::make_directory(&directory)?;
    }
    for directory in [layout.quarantine(), layout.archive()] {
        durable::make_directory(&directory)?;
    }
    if namespace.exchange {
        durable::make_directory(&layout.exchange())?;
    }
    Ok(())
}

/// Moves an upload's file to where its verdict sends it. May be repeated.
///
/// # Errors
/// Whatever the file system says.
pub fn settle(layout: &Layout, upload_id: i64, verdict: Verdict) -> io::Result<()> {
    let directory = if verdict == Verdict::Quarantined { layout.quarantine() } else { layout.archive() };
    durable::move_file(&layout.incoming_file(upload_id), &directory.join(upload_id.to_string()))?;
    Ok(())
}
