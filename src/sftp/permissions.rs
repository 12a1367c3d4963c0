//! What may be done where. One table in front of every operation, the extensions too; no effects.

/// The kinds of directory, as far as permissions tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// `/` and the other directories that only hold directories.
    Listing,
    /// Where files are dropped.
    Inbound,
    /// `/reports` and `/assignments/<campaign>`: may be emptied where the namespace allows it.
    Collected,
    /// `/openpgp`
    Published,
    /// `/exchange`
    Exchange,
}

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Open a file to read it.
    Read,
    /// Open a file to write it.
    Write,
    /// SETSTAT and its like, on a file or directory.
    SetAttributes,
    /// RENAME and posix-rename, either end.
    Rename,
    /// REMOVE
    Remove,
    /// MKDIR
    MakeDirectory,
    /// RMDIR
    RemoveDirectory,
}

/// The table's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Do it.
    Yes,
    /// Say OK and change nothing: clients that set a mode or a time after a download only want to hear OK.
    NoEffect,
    /// PERMISSION_DENIED.
    No,
}

/// Looking (STAT, OPENDIR, READDIR, REALPATH) is allowed wherever a directory is seen at all, and not asked here.
/// `collected_may_go` is the namespace's `may_delete_collected`.
pub(super) fn permit(ground: Ground, operation: Operation, collected_may_go: bool) -> Permit {
    match (ground, operation) {
        (Ground::Exchange, _) => Permit::Yes,
        (Ground::Inbound, Operation::Write | Operation::Rename | Operation::Remove | Operation::SetAttributes) => {
            Permit::Yes
        }
        (Ground::Collected | Ground::Published, Operation::Read) => Permit::Yes,
        (Ground::Collected, Operation::Remove) if collected_may_go => Permit::Yes,
        (_, Operation::SetAttributes) => Permit::NoEffect,
        _ => Permit::No,
    }
}

#[cfg(test)]
mod tests {
    use super::{Ground::*, Operation::*, *};

    /// One letter an operation: y(es), n(o), i(gnored).
    #[track_caller]
    fn check(ground: Ground, collected_may_go: bool, expected: &str) {
        let every = [Read, Write, SetAttributes, Rename, Remove, MakeDirectory, RemoveDirectory];
        let found: String = every
            .into_iter()
            .map(|operation| match permit(ground, operation, collected_may_go) {
                Permit::Yes => 'y',
                Permit::NoEffect => 'i',
                Permit::No => 'n',
            })
            .collect();
        assert_eq!(found, expected, "{ground:?}");
    }

    #[test]
    fn the_table() {
        check(Listing, false, "nninnnn");
        check(Listing, true, "nninnnn");
        check(Inbound, false, "nyyyynn");
        check(Collected, false, "yninnnn");
        check(Collected, true, "yninynn");
        check(Published, true, "yninnnn");
        check(Exchange, false, "yyyyyyy");
    }
}
