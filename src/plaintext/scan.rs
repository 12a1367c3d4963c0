//! Where one row ends.
//!
//! Three searches, one a place: outside quotes for LF, CR or a quote; inside them for the closing quote; and, once a quote
//! is known to be out of place, for the first LF. Decides nothing from bytes beyond the limit on one row, so the answer is
//! the same whatever the chunks were.

use memchr::{memchr, memchr3};

use crate::reason::Reason;

/// What ends a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    Lf,
    CrLf,
    /// The limit; the row goes on.
    Cut,
    /// The end of the file.
    Input,
}

impl LineEnd {
    pub(super) fn width(self) -> usize {
        match self {
            Self::Lf => 1,
            Self::CrLf => 2,
            Self::Cut | Self::Input => 0,
        }
    }
}

/// Looks for the end of one row, and goes on where it stood when more bytes have come.
#[derive(Debug, Default)]
pub(super) struct Scan {
    at: usize,
    place: ScanPlace,
    /// Some quote was seen.
    pub(super) quotes: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum ScanPlace {
    /// Outside quotes.
    #[default]
    Outside,
    /// Behind an opening quote.
    Inside,
    /// A quote is out of place: only the first line counts.
    Broken,
}

/// What a search came to.
pub(super) enum Found {
    /// Not decided: more bytes are needed.
    More,
    /// A row of `len` bytes without its line end.
    Row { len: usize, end: LineEnd, problem: Option<Reason> },
    /// A CR outside quotes with no LF behind it, at this offset.
    LoneCr(usize),
}

impl Scan {
    /// Goes on through `rest`, the bytes from the row's start. At most `row_bytes` and a line end are looked at, so that
    /// the answer does not depend on how much happens to be there.
    pub(super) fn step(&mut self, rest: &[u8], row_bytes: usize, ended: bool) -> Found {
        let whole = row_bytes.saturating_add(2);
        let window = rest.get(..whole).unwrap_or(rest);
        let edge = match (window.len() == whole, ended) {
            (true, _) => Edge::Limit,
            (false, true) => Edge::Input,
            (false, false) => Edge::Unknown,
        };
        let found = loop {
            let decided = match self.place {
                ScanPlace::Outside => self.outside(window, edge),
                ScanPlace::Inside => self.inside(window, edge),
                ScanPlace::Broken => Some(self.broken(window, edge)),
            };
            if let Some(found) = decided {
                break found;
            }
        };
        match found {
            Found::Row { len, .. } if len > row_bytes => Self::cut(row_bytes),
            Found::Row { end: LineEnd::Cut, .. } => Self::cut(row_bytes),
            found => found,
        }
    }

    fn cut(row_bytes: usize) -> Found {
        Found::Row { len: row_bytes, end: LineEnd::Cut, problem: Some(Reason::RowTooLong) }
    }

    /// Searches the row's end outside quotes; `None` when an opening quote came first.
    fn outside(&mut self, window: &[u8], edge: Edge) -> Option<Found> {
        loop {
            let Some(hit) = memchr3(b'\n', b'\r', b'"', window.get(self.at..)?) else {
                self.at = window.len();
                return Some(edge.row(window.len(), None));
            };
            let hit = self.at + hit;
            match (window.get(hit), window.get(hit + 1)) {
                (Some(b'\n'), _) => return Some(Found::Row { len: hit, end: LineEnd::Lf, problem: None }),
                (Some(b'\r'), Some(b'\n')) => return Some(Found::Row { len: hit, end: LineEnd::CrLf, problem: None }),
                (Some(b'\r'), None) if edge != Edge::Input => {
                    self.at = hit;
                    return Some(edge.row(window.len(), None));
                }
                (Some(b'\r'), _) => return Some(Found::LoneCr(hit)),
                _ => {
                    self.quotes = true;
                    self.at = hit + 1;
                    // A quote within an unquoted field is a character like any other, as in most readers.
                    let opens = hit.checked_sub(1).is_none_or(|before| window.get(before) == Some(&b','));
                    if opens {
                        self.place = ScanPlace::Inside;
                        return None;
                    }
                }
            }
        }
    }

    /// Searches the closing quote; `None` when it was found, or is found missing.
    fn inside(&mut self, window: &[u8], edge: Edge) -> Option<Found> {
        loop {
            let Some(hit) = memchr(b'"', window.get(self.at..)?) else {
                self.at = window.len();
                return self.unclosed(edge);
            };
            let hit = self.at + hit;
            match window.get(hit + 1) {
                Some(b'"') => self.at = hit + 2,
                Some(b',' | b'\n' | b'\r') => {
                    self.at = hit + 1;
                    self.place = ScanPlace::Outside;
                    return None;
                }
                // Nothing may follow a closing quote. Most likely the opening one was never closed, and this quote opens
                // a field some rows further down.
                Some(_) => {
                    self.at = 0;
                    self.place = ScanPlace::Broken;
                    return None;
                }
                None if edge == Edge::Input => {
                    self.at = hit + 1;
                    self.place = ScanPlace::Outside;
                    return None;
                }
                None => {
                    self.at = hit;
                    return self.unclosed(edge);
                }
            }
        }
    }

    fn unclosed(&mut self, edge: Edge) -> Option<Found> {
        if edge == Edge::Unknown {
            return Some(Found::More);
        }
        self.at = 0;
        self.place = ScanPlace::Broken;
        None
    }

    /// The first line of a row whose quotes are out of place.
    fn broken(&mut self, window: &[u8], edge: Edge) -> Found {
        let problem = Some(Reason::UnbalancedQuote);
        let Some(lf) = memchr(b'\n', window.get(self.at..).unwrap_or_default()) else {
            self.at = window.len();
            return edge.row(window.len(), problem);
        };
        let lf = self.at + lf;
        match lf.checked_sub(1).filter(|before| window.get(*before) == Some(&b'\r')) {
            Some(cr) => Found::Row { len: cr, end: LineEnd::CrLf, problem },
            None => Found::Row { len: lf, end: LineEnd::Lf, problem },
        }
    }
}

/// What lies behind the bytes that are there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// Perhaps more bytes.
    Unknown,
    /// The end of the file.
    Input,
    /// The limit on one row.
    Limit,
}

impl Edge {
    /// What a row is that reaches the edge.
    fn row(self, len: usize, problem: Option<Reason>) -> Found {
        match self {
            Self::Unknown => Found::More,
            Self::Input => Found::Row { len, end: LineEnd::Input, problem },
            Self::Limit => Found::Row { len, end: LineEnd::Cut, problem },
        }
    }
}
