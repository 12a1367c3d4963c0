//! Accepts connections, within limits that hold before anybody has logged in, and ends those that idle or stall.
//!
//! An error of accept never ends the loop: out of file descriptors, it pauses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::server::Config;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::session::{Connection, SshSession};
use super::stream::{Progress, Stream};
use crate::config::Limits;

/// A client that takes nothing for this long, while something waits for it, is ended.
const LONGEST_STALL: Duration = Duration::from_secs(60);

/// Counts connections.
#[derive(Debug, Default)]
struct Gate(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    before_login: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One connection's place in the counts.
#[derive(Debug)]
struct Ticket {
    gate: Arc<Gate>,
    source: IpAddr,
    logged_in: bool,
}

/// What counts as one source: an IPv6 customer has a /64 at least.
fn source_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

impl Gate {
    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Result<Ticket, &'static str> {
        let source = source_key(address);
        let mut counts = self.counts();
        let from_here = counts.by_source.get(&source).copied().unwrap_or(0);
        if counts.all >= limits.sessions {
            return Err("sessions");
        }
        if counts.before_login >= limits.sessions_before_login {
            return Err("sessions_before_login");
        }
        if from_here >= limits.sessions_per_source {
            return Err("sessions_per_source");
        }
        counts.all += 1;
        counts.before_login += 1;
        counts.by_source.insert(source, from_here + 1);
        Ok(Ticket { gate: Arc::clone(self), source, logged_in: false })
    }
}

impl Ticket {
    fn logged_in(&mut self) {
        if !std::mem::replace(&mut self.logged_in, true) {
            self.gate.counts().before_login -= 1;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.logged_in();
        let mut counts = self.gate.counts();
        counts.all -= 1;
        if let Some(from_here) = counts.by_source.get_mut(&self.source) {
            *from_here -= 1;
            if *from_here == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

/// Serves until `stop`, then drains.
pub(super) async fn run(
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    ssh: Arc<Config>,
    (stop, drain): (CancellationToken, Duration),
) {
    let gate = Arc::new(Gate::default());
    let kill = CancellationToken::new();
    let (accepted, mut incoming) = tokio::sync::mpsc::channel(16);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, accepted.clone(), stop.clone()));
    }
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some((tcp, source)) = incoming.recv() => {
                match gate.admit(source.ip(), &shared.live.current().limits) {
                    Ok(ticket) => {
                        sessions.spawn(serve(tcp, source, Arc::clone(&shared), Arc::clone(&ssh), (ticket, kill.child_token())));
                    }
                    Err(limit) => tracing::warn!(%source, limit, "connection refused: too many"),
                }
            }
            Some(_) = sessions.join_next() => {}
        }
    }
    shared.stopping.store(true, Ordering::Relaxed);
    accepting.shutdown().await;
    let all = async { while sessions.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all).await.is_err() {
        tracing::warn!(sessions = sessions.len(), "sessions are still busy; they are ended now");
        kill.cancel();
        while sessions.join_next().await.is_some() {}
    }
}

async fn accept(
    listener: TcpListener,
    accepted: tokio::sync::mpsc::Sender<(TcpStream, SocketAddr)>,
    stop: CancellationToken,
) {
    while let Some(result) = stop.run_until_cancelled(listener.accept()).await {
        match result {
            Ok(connection) => {
                if accepted.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::error!(%error, "failed to accept a connection; trying again shortly");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// One connection from accept to the last partial file.
async fn serve(
    tcp: TcpStream,
    source: SocketAddr,
    shared: Arc<Shared>,
    ssh: Arc<Config>,
    (ticket, end): (Ticket, CancellationToken),
) {
    let connection = Connection::new(source, end.clone());
    let progress = Progress::new();
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%source, %error, "connection lost at once");
        return;
    }
    let _open = shared.metrics.session();
    let mut counted = (0, 0);
    let ticket = Arc::new(Mutex::new(ticket));
    let at_login = Arc::clone(&ticket);
    let logged_in = Box::new(move || at_login.lock().unwrap_or_else(PoisonError::into_inner).logged_in());
    let handler = SshSession::new(Arc::clone(&shared), Arc::clone(&connection), logged_in);
    let stream = Stream::new(tcp, end.clone(), Arc::clone(&progress));
    let drive = async {
        match russh::server::run_stream(ssh, stream, handler).await {
            Ok(running) => running.await,
            Err(error) => Err(error),
        }
    };
    tokio::pin!(drive);
    let mut ended_for = None;
    let mut ticks = tokio::time::interval_at(Instant::now() + Duration::from_millis(250), Duration::from_millis(250));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let result = loop {
        tokio::select! {
            result = &mut drive => break result,
            _ = ticks.tick(), if ended_for.is_none() => {
                count_bytes(&shared, &progress, &mut counted);
                ended_for = reason_to_end(&shared, &connection, &progress);
                if ended_for.is_some() {
                    end.cancel();
                }
            }
        }
    };
    end.cancel();
    count_bytes(&shared, &progress, &mut counted);
    for channel in connection.channels() {
        channel.inbox.close();
        channel.engine.lock().await.abandon().await;
    }
    let user = connection.user();
    tracing::info!(
        namespace = user.as_ref().map(|user| user.namespace.as_str()), user = user.as_ref().map(|user| user.user.as_str()),
        %source, reason = ended_for, error = result.err().map(|error| error.to_string()),
        ms = u64::try_from(connection.age().as_millis()).unwrap_or(u64::MAX),
        received = progress.received.load(Ordering::Relaxed), sent = progress.sent.load(Ordering::Relaxed),
        "disconnected"
    );
}

/// Adds what came and went since it was `counted` last.
fn count_bytes(shared: &Shared, progress: &Progress, counted: &mut (u64, u64)) {
    let now = (progress.received.load(Ordering::Relaxed), progress.sent.load(Ordering::Relaxed));
    shared.metrics.received(now.0.saturating_sub(counted.0));
    shared.metrics.sent(now.1.saturating_sub(counted.1));
    *counted = now;
}

fn reason_to_end(shared: &Shared, connection: &Connection, progress: &Progress) -> Option<&'static str> {
    let settings = shared.live.current();
    let limits = &settings.limits;
    let Some(user) = connection.user() else {
        return (shared.is_stopping() || connection.age() > limits.login_grace).then_some("not logged in in time");
    };
    let known =
        settings.namespaces.get(&user.namespace).is_some_and(|namespace| namespace.users.contains_key(&user.user));
    if !known {
        return Some("the user is no longer configured");
    }
    if connection.idle_for() > limits.idle {
        return Some("idle");
    }
    if Duration::from_millis(progress.stalled_for()) > LONGEST_STALL {
        return Some("the client takes no data");
    }
    let busy = || {
        let at_work = |engine: &tokio::sync::Mutex<super::engine::Engine>| {
            engine.try_lock().is_ok_and(|engine| !engine.is_busy())
        };
        connection.channels().iter().any(|channel| !at_work(&channel.engine))
    };
    (shared.is_stopping() && !busy()).then_some("the server is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            upload_bytes: 0,
            plaintext_bytes: 0,
            plaintext_ratio: 0,
            nesting: 0,
            row_bytes: 0,
            code_bytes: 0,
            customer_id_bytes: 0,
            reject: crate::config::RejectLimit { rows: 0, percent: 0 },
            quota_bytes: 0,
            free_space_bytes: 0,
            sessions: 4,
            sessions_per_source: 2,
            sessions_before_login: 3,
            login_grace: Duration::ZERO,
            login_attempts: 0,
            idle: Duration::ZERO,
            open_files: 0,
            open_directories: 0,
            lease: Duration::ZERO,
        }
    }

    #[test]
    fn connections_are_counted() {
        let gate = Arc::new(Gate::default());
        let limits = limits();
        let from = |text: &str| gate.admit(text.parse().unwrap(), &limits);
        let mut one = from("192.0.2.1").unwrap();
        let _two = from("::ffff:192.0.2.1").unwrap();
        assert_eq!(from("192.0.2.1").unwrap_err(), "sessions_per_source");
        let three = from("2001:db8::1").unwrap();
        assert_eq!(from("192.0.2.2").unwrap_err(), "sessions_before_login");
        one.logged_in();
        one.logged_in();
        let _four = from("2001:db8::ffff:2").unwrap();
        assert_eq!(from("192.0.2.2").unwrap_err(), "sessions");
        drop(three);
        assert_eq!(from("192.0.2.2").map(|_| ()), Ok(()));
        drop(one);
        assert_eq!(gate.counts().all, 2);
        assert_eq!(gate.counts().before_login, 2);
    }
}
