//! A batch's recipients in the order of customers, which is the order in which the store has them. A list is gone through once:
//! one that is needed again is read again.

use std::io;
use std::iter::Peekable;
use std::path::Path;

use diesel::QueryResult;

use super::StoreError;
use crate::sorter::run::RunRow;
use crate::sorter::{By, Sorted, Sorter};

/// Takes a list's customers in its order.
#[derive(Debug)]
pub struct Loading {
    rows: Sorter,
    listed: u64,
}

/// A list's customers in byte order.
#[derive(Debug)]
pub struct Recipients {
    rows: Sorted,
    listed: u64,
    /// A row that belongs behind the last customers given out.
    pending: Option<(String, u64)>,
}

impl Loading {
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
        Ok(Recipients { rows: self.rows.sorted()?, listed: self.listed, pending: None })
    }
}

/// So many customers are looked up at once.
const AT_ONCE: usize = 10_000;

/// Some customers in byte order, each once.
#[derive(Debug, Default)]
pub(super) struct Customers {
    text: String,
    rows: Vec<CustomerRow>,
    /// Where else they stand in the list, customer by customer.
    again: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct CustomerRow {
    end: usize,
    ordinal: u64,
    again_end: usize,
}

/// A customer of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Customer<'c> {
    /// The id.
    pub(super) id: &'c str,
    /// Where it stands first in the list, from 0.
    pub(super) ordinal: u64,
    /// Where it stands again, in order.
    pub(super) again: &'c [u64],
}

impl Customer<'_> {
    /// All its places in the list.
    pub(super) fn ordinals(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.ordinal).chain(self.again.iter().copied())
    }
}

impl Customers {
    fn clear(&mut self) {
        self.text.clear();
        self.rows.clear();
        self.again.clear();
    }

    fn push(&mut self, id: &str, ordinal: u64) {
        self.text.push_str(id);
        self.rows.push(CustomerRow { end: self.text.len(), ordinal, again_end: self.again.len() });
    }

    fn last(&self) -> &str {
        let start = self.rows.len().checked_sub(2).and_then(|row| self.rows.get(row)).map_or(0, |row| row.end);
        self.text.get(start..).unwrap_or_default()
    }

    fn push_again(&mut self, ordinal: u64) {
        self.again.push(ordinal);
        if let Some(row) = self.rows.last_mut() {
            row.again_end = self.again.len();
        }
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Customer<'_>> {
        let (mut start, mut again_start) = (0, 0);
        self.rows.iter().map(move |row| {
            let id = self.text.get(start..row.end).unwrap_or_default();
            let again = self.again.get(again_start..row.again_end).unwrap_or_default();
            (start, again_start) = (row.end, row.again_end);
            Customer { id, ordinal: row.ordinal, again }
        })
    }

    /// Their ids.
    pub(super) fn ids(&self) -> Vec<&str> {
        self.iter().map(|customer| customer.id).collect()
    }
}

impl Recipients {
    /// Rows of the list.
    pub(super) fn listed(&self) -> u64 {
        self.listed
    }

    /// Puts the next customers into `customers`; false after the last.
    pub(super) fn next_customers(&mut self, customers: &mut Customers) -> io::Result<bool> {
        customers.clear();
        if let Some((id, ordinal)) = self.pending.take() {
            customers.push(&id, ordinal);
        }
        while let Some(row) = self.rows.next_row()? {
            if !customers.rows.is_empty() && row.text == customers.last() {
                customers.push_again(row.number);
            } else if customers.rows.len() < AT_ONCE {
                customers.push(row.text, row.number);
            } else {
                self.pending = Some((row.text.to_owned(), row.number));
                break;
            }
        }
        Ok(!customers.rows.is_empty())
    }

    /// Pairs customers, in their order, with rows of the store that are in the same order: what is not of any of them is
    /// passed over.
    pub(super) fn pair<R, I>(
        customers: &Customers,
        rows: &mut Peekable<I>,
        of: impl Fn(&R) -> &str,
        mut each: impl FnMut(Customer<'_>, Option<R>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>
    where
        I: Iterator<Item = QueryResult<R>>,
    {
        for customer in customers.iter() {
            while rows.next_if(|row| row.as_ref().is_ok_and(|row| of(row) < customer.id)).is_some() {}
            let row = rows.next_if(|row| row.as_ref().map_or(true, |row| of(row) == customer.id));
            each(customer, row.transpose()?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_customer_once_with_all_its_places() {
        let directory = tempfile::tempdir().unwrap();
        let mut loading = Loading::new(directory.path());
        for row in 0..2 * AT_ONCE + 3 {
            loading.add(&format!("c{:06}", row % (AT_ONCE + 1))).unwrap();
        }
        let mut list = loading.end().unwrap();
        assert_eq!(list.listed(), 2 * AT_ONCE as u64 + 3);
        let (mut customers, mut found) = (Customers::default(), Vec::new());
        let mut sizes = Vec::new();
        while list.next_customers(&mut customers).unwrap() {
            sizes.push(customers.iter().count());
            found.extend(customers.iter().map(|c| (c.id.to_owned(), c.ordinals().collect::<Vec<u64>>())));
        }
        assert_eq!(sizes, [AT_ONCE, 1]);
        let again = AT_ONCE as u64 + 1;
        let expected: Vec<(String, Vec<u64>)> = (0..again)
            .map(|place| {
                let places = [place, place + again, place + 2 * again];
                (format!("c{place:06}"), places.into_iter().filter(|place| *place < 2 * again + 1).collect())
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_of_others_are_passed_over() {
        let mut customers = Customers::default();
        for id in ["b", "d", "e"] {
            customers.push(id, 0);
        }
        let mut rows = ["a", "b", "c", "e", "f"].into_iter().map(Ok).peekable();
        let mut found = Vec::new();
        Recipients::pair(
            &customers,
            &mut rows,
            |row| row,
            |customer, row| {
                found.push((customer.id.to_owned(), row));
                Ok(())
            },
        )
        .unwrap();
        let expected = [("b", Some("b")), ("d", None), ("e", Some("e"))];
        assert_eq!(found, expected.map(|(id, row)| (id.to_owned(), row)));
        assert_eq!(rows.next(), Some(Ok("f")));
        let mut broken = [Ok("a"), Err(diesel::result::Error::NotFound)].into_iter().peekable();
        assert!(Recipients::pair(&customers, &mut broken, |row| row, |_, _| Ok(())).is_err());
    }
}
