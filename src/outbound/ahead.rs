//! An iterator that runs ahead of its reader, on a thread of its own: what everyone got is merged from disk while the rows
//! before are written.

use std::sync::mpsc::{Receiver, sync_channel};
use std::{io, thread, vec};

/// Items that are handed over at once.
const AT_ONCE: usize = 2_000;
/// Hand-overs that may wait for the reader.
const WAITING: usize = 2;

/// The items of an iterator, as they come from its thread.
pub(super) struct Ahead<T> {
    handed_over: Receiver<Vec<T>>,
    at_hand: vec::IntoIter<T>,
}

/// Lets `items` run ahead. Should its thread panic, the items end early, which the reader must be able to tell.
pub(super) fn ahead<T: Send + 'static>(items: impl Iterator<Item = T> + Send + 'static) -> io::Result<Ahead<T>> {
    let (sender, handed_over) = sync_channel(WAITING);
    thread::Builder::new().name("ahead".to_owned()).spawn(move || {
        let mut items = items.peekable();
        while items.peek().is_some() {
            // Nobody may be there any more; then nobody wants the rest.
            if sender.send(items.by_ref().take(AT_ONCE).collect()).is_err() {
                return;
            }
        }
    })?;
    Ok(Ahead { handed_over, at_hand: Vec::new().into_iter() })
}

impl<T> Iterator for Ahead<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if let Some(item) = self.at_hand.next() {
            return Some(item);
        }
        self.at_hand = self.handed_over.recv().ok()?.into_iter();
        self.at_hand.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_items_in_order() {
        for count in [0, 1, AT_ONCE, 10 * AT_ONCE + 1] {
            assert!(ahead(0..count).unwrap().eq(0..count), "{count}");
        }
    }

    #[test]
    fn who_has_enough_lets_the_rest_go() {
        let (sender, dropped) = sync_channel::<()>(0);
        let endless = (0_u64..).inspect(move |_| _ = &sender);
        assert!(ahead(endless).unwrap().take(3).eq(0..3));
        // The thread ends, and the iterator with it.
        assert!(dropped.recv().is_err());
    }
}
