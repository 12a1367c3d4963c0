//! Something that is made ahead of its reader, on a thread of its own: what everyone got is read from disk while the rows
//! before are written.

use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

/// Items as they come from their thread: one is ready, while the reader is at the one before.
#[derive(Debug)]
pub(super) struct Ahead<T> {
    /// `None` when nobody wants more.
    items: Option<Receiver<io::Result<T>>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Lets `next` run ahead, until it gives nothing or an error.
    pub(super) fn of(mut next: impl FnMut() -> io::Result<Option<T>> + Send + 'static) -> io::Result<Self> {
        let (sender, items) = sync_channel(0);
        let thread = thread::Builder::new().name("ahead".to_owned()).spawn(move || {
            while let Some(item) = next().transpose() {
                let failed = item.is_err();
                // Nobody may be there any more; then nobody wants the rest.
                if sender.send(item).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { items: Some(items), thread: Some(thread) })
    }
}

impl<T> Ahead<T> {
    /// The next item; `None` behind the last.
    pub(super) fn next(&mut self) -> io::Result<Option<T>> {
        match self.items.as_ref().map(Receiver::recv) {
            Some(Ok(item)) => item.map(Some),
            Some(Err(_)) | None => self.end().map(|()| None),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.items = None;
        let panicked = |_| io::Error::other("the thread that reads rows ahead panicked");
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(panicked))
    }
}

/// Who has enough waits for the thread, which is at one item at most.
impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn all_items_in_order() {
        for count in [0, 1, 2, 1_000] {
            let mut numbers = 0..count;
            let mut ahead = Ahead::of(move || Ok(numbers.next())).unwrap();
            for number in 0..count {
                assert_eq!(ahead.next().unwrap(), Some(number));
            }
            assert_eq!(ahead.next().unwrap(), None);
            assert_eq!(ahead.next().unwrap(), None);
        }
    }

    #[test]
    fn who_has_enough_lets_the_rest_go() {
        let held = Arc::new(());
        for taken in [0, 3] {
            let (mut numbers, thread_holds) = (0.., Arc::clone(&held));
            let mut ahead = Ahead::of(move || {
                let _ = &thread_holds;
                Ok(numbers.next())
            })
            .unwrap();
            (0..taken).for_each(|number| assert_eq!(ahead.next().unwrap(), Some(number)));
            drop(ahead);
            assert_eq!(Arc::strong_count(&held), 1, "the thread is still there");
        }
    }

    #[test]
    fn errors_and_panics_come_out() {
        let mut numbers = 0..2;
        let mut ahead =
            Ahead::of(move || numbers.next().map(Some).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())).unwrap();
        assert_eq!((ahead.next().unwrap(), ahead.next().unwrap()), (Some(0), Some(1)));
        assert_eq!(ahead.next().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(ahead.next().unwrap(), None);
        let mut numbers = 0..1;
        let mut ahead = Ahead::of(move || Ok(Some(numbers.next().unwrap()))).unwrap();
        assert_eq!(ahead.next().unwrap(), Some(0));
        assert_eq!(ahead.next().unwrap_err().to_string(), "the thread that reads rows ahead panicked");
    }
}
