//! Finished downloads on their way from the SFTP sessions to the store.
//!
//! A session only puts a download on a bounded channel. One task takes them off and writes them down; when the store cannot
//! be reached it holds on to the one at hand and tries again. When so many wait that the channel is full, a download is
//! dropped with a warning: a session never waits for the store.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error_chain::chain;
use crate::outbound::{Download, collect};
use crate::sftp::{Collected, Pickup};
use crate::store::pickups::Noted;
use crate::store::{Store, StoreError};

/// Downloads that wait to be written down: at a few a second, a store that is away for some minutes.
const WAITING_MOST: usize = 4096;
/// How long until another try.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a download that came before its batch was `exported` is held back.
const PATIENCE: u32 = 5;

/// A download with its instant.
pub(super) struct Fetched {
    pickup: Pickup,
    at: DateTime<Utc>,
}

/// What sessions call, and where what they say comes out.
pub(super) fn desk(clock: Clock) -> (Collected, Receiver<Fetched>) {
    let (sender, receiver) = channel(WAITING_MOST);
    (Arc::new(move |pickup| put(&sender, Fetched { pickup: pickup.clone(), at: clock.now() })), receiver)
}

fn put(sender: &Sender<Fetched>, fetched: Fetched) {
    match sender.try_send(fetched) {
        // After the stop nobody writes it down any more; it shows as not fetched, and may be fetched again.
        Ok(()) | Err(TrySendError::Closed(_)) => {}
        Err(TrySendError::Full(Fetched { pickup, .. })) => {
            let path = String::from_utf8_lossy(&pickup.path);
            tracing::warn!(
                namespace = %pickup.namespace, user = pickup.user, path = %path,
                "a download is not recorded: too many wait for the store"
            );
        }
    }
}

/// Writes downloads down until the sessions have `ended` and none is left, or `hard` stops it.
pub(super) async fn record(
    store: Store,
    mut downloads: Receiver<Fetched>,
    ended: CancellationToken,
    hard: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            fetched = downloads.recv() => match fetched {
                Some(fetched) => {
                    if hard.run_until_cancelled(note(&store, Arc::new(fetched))).await.is_none() {
                        return;
                    }
                }
                None => return,
            },
            // What is on the channel already still comes out.
            () = ended.cancelled() => downloads.close(),
        }
    }
}

async fn note(store: &Store, fetched: Arc<Fetched>) {
    let mut tries = 0;
    loop {
        tries += 1;
        let (asked, one) = (store.clone(), Arc::clone(&fetched));
        let patient = tries <= PATIENCE;
        let noted = tokio::task::spawn_blocking(move || write_down(&asked, &one, patient)).await;
        match noted {
            Ok(Ok(Noted::TooEarly)) => {}
            Ok(Ok(Noted::NoBatch | Noted::Pickup | Noted::Collected)) => return,
            Ok(Err(error)) if error.is_transient() => {
                tracing::warn!(error = %chain(&error), "failed to record a download, will try again");
            }
            Ok(Err(error)) => return tracing::error!(error = %chain(&error), "a download is not recorded"),
            Err(panic) => return tracing::error!(error = %chain(&panic), "a download is not recorded"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn write_down(store: &Store, fetched: &Fetched, patient: bool) -> Result<Noted, StoreError> {
    let Fetched { pickup, at } = fetched;
    let download =
        Download { namespace: &pickup.namespace, path: &pickup.path, user: &pickup.user, bytes: pickup.bytes, at: *at };
    collect(store, &download, patient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Name;

    #[tokio::test]
    async fn a_full_channel_drops_and_never_waits() {
        let (collected, mut downloads) = desk(Clock::manual(DateTime::UNIX_EPOCH));
        let pickup = |bytes| Pickup {
            namespace: Name::parse("acme").unwrap(),
            user: "mail".to_owned(),
            path: b"/assignments/winback/list.1.csv".to_vec(),
            bytes,
        };
        for bytes in 0..WAITING_MOST as u64 + 10 {
            collected(&pickup(bytes));
        }
        drop(collected);
        let mut kept = 0;
        while let Some(fetched) = downloads.recv().await {
            assert_eq!(fetched.pickup.bytes, kept);
            kept += 1;
        }
        assert_eq!(kept, WAITING_MOST as u64);
    }
}
