//! A batch's recipients in the order of customers, which is the order in which the store has them. A list is gone through once:
//! one that is needed again is read again.

use std::io;
use std::iter::Peekable;
use std::path::Path;

use diesel::QueryResult;

use super::StoreError;
use crate::sorter::run::{Run, RunRow};
use crate::sorter::{By, Sorted, Sorter};

/// Takes a list's customers in its order.
#[derive(Debug)]
pub struct UnsortedRecipients {
    rows: Sorter,
    listed: u64,
}

/// A list's customers in byte order, those of one customer in the list's.
#[derive(Debug)]
pub struct Recipients {
    rows: Sorted,
    listed: u64,
}

impl UnsortedRecipients {
    /// An empty list. What does not fit into memory goes to `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { rows: Sorter::new(directory, By::Text), listed: 0 }
    }

    /// Adds the next recipient.
    ///
    /// # Errors
    /// What the disk says.
    pub fn add(&mut self, customer: &str) -> io::Result<()> {
        self.rows.push(RunRow { number: self.listed, group: 0, text: customer })?;
        self.listed += 1;
        Ok(())
    }

    /// The list is complete.
    ///
    /// # Errors
    /// What the disk says.
    pub fn end(self) -> io::Result<Recipients> {
        Ok(Recipients { rows: self.rows.sorted()?, listed: self.listed })
    }
}

/// So many rows are looked up at once.
const AT_ONCE: usize = 10_000;

/// What the store has for a row of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Met<R> {
    /// The customer's first row, and what the store has.
    First(Option<R>),
    /// Another row of the customer of the row before.
    Again,
}

impl Recipients {
    /// Rows of the list.
    pub(super) fn listed(&self) -> u64 {
        self.listed
    }

    /// Goes through the list beside rows of the store, which are in byte order of what `of` gives; what is not of any customer
    /// is passed over.
    pub(super) fn beside<R>(
        &mut self,
        rows: impl Iterator<Item = QueryResult<R>>,
        of: fn(&R) -> &str,
        mut each: impl FnMut(RunRow<'_>, Met<R>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut rows, mut last) = (InOrder::new(rows, of), None);
        while let Some(row) = self.rows.next_row()? {
            each(row, rows.meet(row.text, &mut last)?)?;
        }
        rows.end()
    }

    /// Goes through the list and looks customers up, some thousand at a time: `look_up` gives the rows of the store for some of
    /// them, in byte order of what `of` gives.
    pub(super) fn looked_up<R>(
        &mut self,
        mut look_up: impl FnMut(&[&str]) -> QueryResult<Vec<R>>,
        of: fn(&R) -> &str,
        mut each: impl FnMut(RunRow<'_>, Met<R>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut some, mut last) = (Run::of(AT_ONCE), None);
        loop {
            while !some.is_full()
                && let Some(row) = self.rows.next_row()?
            {
                some.push(row);
            }
            if some.is_empty() {
                return Ok(());
            }
            let mut customers: Vec<&str> = some.rows().map(|row| row.text).collect();
            customers.dedup();
            let mut rows = InOrder::new(look_up(&customers)?.into_iter().map(Ok), of);
            for row in some.rows() {
                each(row, rows.meet(row.text, &mut last)?)?;
            }
            rows.end()?;
            some.clear();
        }
    }
}

/// Rows of the store, which must come in byte order: a store that orders text in another way would hide them.
struct InOrder<R, I: Iterator> {
    rows: Peekable<I>,
    of: fn(&R) -> &str,
    /// What the last row gave.
    before: String,
}

impl<R, I: Iterator<Item = QueryResult<R>>> InOrder<R, I> {
    fn new(rows: I, of: fn(&R) -> &str) -> Self {
        Self { rows: rows.peekable(), of, before: String::new() }
    }

    /// What there is for the next row of a list, which is of `customer`; `last` is the customer of the row before.
    fn meet(&mut self, customer: &str, last: &mut Option<String>) -> Result<Met<R>, StoreError> {
        match last {
            Some(last) if last == customer => return Ok(Met::Again),
            Some(last) => {
                last.clear();
                last.push_str(customer);
            }
            None => *last = Some(customer.to_owned()),
        }
        let of = self.of;
        while let Some(row) = self.rows.next_if(|row| row.as_ref().map_or(true, |row| of(row) <= customer)) {
            let row = self.checked(row)?;
            if of(&row) == customer {
                return Ok(Met::First(Some(row)));
            }
        }
        Ok(Met::First(None))
    }

    fn checked(&mut self, row: QueryResult<R>) -> Result<R, StoreError> {
        let row = row?;
        let text = (self.of)(&row);
        if text < self.before.as_str() {
            return Err(StoreError::Missing { what: "customers in byte order (is the database in UTF-8?)".to_owned() });
        }
        self.before.clear();
        self.before.push_str(text);
        Ok(row)
    }

    /// What is left is of nobody; still it must be in order.
    fn end(mut self) -> Result<(), StoreError> {
        while let Some(row) = self.rows.next() {
            self.checked(row)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = Vec<(u64, String, Met<&'static str>)>;

    fn list(directory: &Path, customers: &[&str]) -> Recipients {
        let mut loading = UnsortedRecipients::new(directory);
        customers.iter().for_each(|customer| loading.add(customer).unwrap());
        loading.end().unwrap()
    }

    fn beside(customers: &[&str], rows: &[&'static str]) -> Result<Found, StoreError> {
        let directory = tempfile::tempdir().unwrap();
        let mut found = Vec::new();
        let rows = rows.iter().map(|row| if *row == "!" { Err(diesel::result::Error::NotFound) } else { Ok(*row) });
        list(directory.path(), customers).beside(
            rows,
            |row| row,
            |row, met| {
                found.push((row.number, row.text.to_owned(), met));
                Ok(())
            },
        )?;
        Ok(found)
    }

    #[test]
    fn the_list_meets_rows_in_order() {
        let found = beside(&["d", "b", "e", "b", "b"], &["a", "b", "c", "e", "f"]).unwrap();
        let expected = [
            (1, "b", Met::First(Some("b"))),
            (3, "b", Met::Again),
            (4, "b", Met::Again),
            (0, "d", Met::First(None)),
            (2, "e", Met::First(Some("e"))),
        ];
        assert_eq!(found, expected.map(|(number, text, met)| (number, text.to_owned(), met)));
        assert_eq!(beside(&[], &["a"]).unwrap(), []);
        assert!(matches!(beside(&["b"], &["a", "!"]), Err(StoreError::Statement(_))));
    }

    /// As from a store that orders text in another way.
    #[test]
    fn rows_in_another_order_are_refused() {
        for rows in [&["z", "a"][..], &["a", "z", "b"], &["c", "b"]] {
            let found = beside(&["a", "b", "z"], rows);
            assert!(matches!(found, Err(StoreError::Missing { .. })), "{rows:?}: {found:?}");
        }
    }

    #[test]
    fn some_are_looked_up_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..AT_ONCE + 5).map(|row| format!("c{:06}", row / 3)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut asked, mut met) = (Vec::new(), [0, 0]);
        list(directory.path(), &names)
            .looked_up(
                |customers| {
                    asked.push(customers.len());
                    Ok(customers.iter().map(|customer| (*customer).to_owned()).collect())
                },
                |row: &String| row.as_str(),
                |row, found| {
                    match found {
                        Met::First(found) => {
                            met[0] += 1;
                            assert_eq!(found.as_deref(), Some(row.text));
                        }
                        Met::Again => met[1] += 1,
                    }
                    Ok(())
                },
            )
            .unwrap();
        // 10,000 rows are 3,334 customers, the last of whom has two rows more behind them.
        assert_eq!(asked, [3_334, 2]);
        assert_eq!(met, [3_335, AT_ONCE + 5 - 3_335]);
    }
}
