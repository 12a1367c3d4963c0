//! The order in which the daemon comes up, and its parts.
//!
//! Store, then what the store and the disk must agree on, then the workers, then the doors: by the time a client can
//! connect, everything that an earlier life left behind has been taken up.

mod pickups;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use crate::alert::{Mailer, Watch};
use crate::clock::Clock;
use crate::config::{self, DatabaseSettings, LiveSettings, Namespace, Settings};
use crate::doorbell::Doorbell;
use crate::error_chain::chain;
use crate::http;
use crate::inbound::{self, Inbound, LocalDrops};
use crate::lifecycle::{AnyError, Lifecycle, Outcome};
use crate::openpgp::Keyring;
use crate::outbound::{KeyedDoors, Outbound};
use crate::sftp;
use crate::spool::{Layout, Reception, durable, retention, tree};
use crate::store::private::PrivateServer;
use crate::store::{Store, StoreError};
use crate::telemetry::{BankRemaining, Metrics};

/// What is in flight at a stop gets this long.
const SOFT_STOP: Duration = Duration::from_secs(30);
/// How often a worker looks even if nobody rang: another daemon may share the store.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often what is too old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How often alerts, mails and corrections are looked for.
const LOOK_FOR_ALERTS: Duration = Duration::from_secs(10);
/// Uploads processed at once. More would only share the same processors.
const INBOUND_WORKERS: usize = 2;
/// Batches worked on at once. Those of one bank follow one another in the store.
const BATCH_WORKERS: usize = 2;
/// Connections to the store.
const CONNECTIONS: u32 = 16;

/// The parts that share one store and one clock.
#[derive(Clone)]
struct Parts {
    live: LiveSettings,
    store: Store,
    clock: Clock,
    keyring: Arc<Keyring>,
    /// Something was received.
    received: Doorbell,
    /// Something was applied, or time has come: batches may go on.
    applied: Doorbell,
    /// Rings at the stop only: for those who wait for time to pass.
    stop: Doorbell,
}

/// Whose the private PostgreSQL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The daemon's: a second daemon on the same directory is an error.
    Daemon,
    /// Whoever runs it: a command uses the daemon's, or starts it for as long as it needs it.
    Command,
}

/// Runs the daemon until it is asked to stop.
///
/// # Errors
/// Why it could not start.
pub fn serve(settings: Settings) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(run(settings));
    // Whatever still blocks a thread is rolled back by the store when its connection goes.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run(settings: Settings) -> anyhow::Result<Outcome> {
    let mut life = Lifecycle::new(SOFT_STOP).context("catch signals")?;
    let clock = Clock::system();
    let Some(opened) = life
        .starting(blocking(move || open_store(&settings, Ownership::Daemon).map(|opened| (settings, opened))))
        .await
    else {
        return Ok(Outcome::Stopped);
    };
    let (settings, (server, store)) = opened??;
    let parts = blocking(move || prepare(settings, store, clock)).await??;
    let outcome = serve_parts(life, parts).await;
    blocking(move || drop(server)).await?;
    outcome
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("wait for a thread")
}

/// The store that `settings` name, up to date. The private server, if it is one, lives as long as what is returned.
///
/// # Errors
/// Why there is no store.
pub fn open_store(settings: &Settings, ownership: Ownership) -> anyhow::Result<(Option<PrivateServer>, Store)> {
    make_state_directory(&settings.state_dir)?;
    let (server, url) = match &settings.database {
        DatabaseSettings::Private => {
            let server = match ownership {
                Ownership::Daemon => PrivateServer::start(&settings.state_dir),
                Ownership::Command => PrivateServer::attach_or_start(&settings.state_dir),
            };
            let server = server.context("start the private PostgreSQL")?;
            let url = server.url().to_owned();
            (Some(server), url)
        }
        DatabaseSettings::Url(url) => (None, url.clone()),
    };
    let store = Store::connect(&url, CONNECTIONS)?;
    for migration in store.migrate()? {
        tracing::info!(migration, "Brought the schema up to date");
    }
    Ok((server, store))
}

fn make_state_directory(state_dir: &Path) -> anyhow::Result<()> {
    durable::make_directory(state_dir).with_context(|| format!("make the state directory `{}`", state_dir.display()))
}

/// Makes store, disk and configuration agree.
fn prepare(settings: Settings, store: Store, clock: Clock) -> anyhow::Result<Parts> {
    let now = clock.now();
    let keyring = Keyring::load_or_create(&settings.openpgp.secret_keys, &settings.state_dir, now)?;
    for warning in keyring.warnings() {
        tracing::warn!(warning, "An OpenPGP key may not work for every client");
    }
    agree(&settings, &store, &keyring, &clock)?;
    inbound::recover_drops(&store, &settings, now).context("take up local files")?;
    Ok(Parts {
        live: LiveSettings::new(settings),
        store,
        clock,
        keyring: Arc::new(keyring),
        received: Doorbell::default(),
        applied: Doorbell::default(),
        stop: Doorbell::default(),
    })
}

/// Makes what the configuration declares known to the store and visible on disk.
pub(crate) fn agree(settings: &Settings, store: &Store, keyring: &Keyring, clock: &Clock) -> anyhow::Result<()> {
    store.ensure_namespaces(settings.namespaces.keys())?;
    let certificate = keyring.certificate().context("export the OpenPGP certificate")?;
    for namespace in settings.namespaces.values() {
        if let Some(changed) = store.ensure_banks(namespace, clock.now())?.into_iter().next() {
            return Err(anyhow!(changed).context(format!("use the configuration of namespace `{}`", namespace.name)));
        }
        make_tree(settings, store, namespace, &certificate)
            .with_context(|| format!("make the directories of namespace `{}`", namespace.name))?;
    }
    Ok(())
}

fn make_tree(settings: &Settings, store: &Store, namespace: &Namespace, certificate: &[u8]) -> anyhow::Result<()> {
    let layout = Layout::new(&settings.state_dir, &namespace.name);
    tree::make(&layout, namespace, &inbound::made_banks(store, namespace)?)?;
    durable::write_whole(&layout.openpgp().join("coupond.asc"), certificate)?;
    Ok(())
}

async fn serve_parts(life: Lifecycle, parts: Parts) -> anyhow::Result<Outcome> {
    let settings = parts.live.current();
    let metrics = Metrics::new({
        let parts = parts.clone();
        move || stock(&parts).ok()
    });
    let reception = blocking({
        let parts = parts.clone();
        move || open_reception(&parts)
    })
    .await??;
    let (collected, downloads) = pickups::desk(parts.clock.clone());
    let endpoint = open_sftp(&parts, Arc::clone(&reception), &metrics, collected).await?;
    let listener = http::bind(settings.http).await?;
    let address = listener.local_addr().context("ask for the address of health and metrics")?;
    tracing::info!(http.address = %address, "Serving health and metrics");

    let (listening, listening_check) = http::flag_check("the SFTP endpoint does not listen yet");
    let checks = [("store", http::store_check(parts.store.clone())), ("sftp", listening_check)];
    spawn_workers(&life, &parts, &reception, &metrics);
    life.spawn("http", http::serve(listener, http::Endpoint::new(metrics, checks), life.soft_stop()));
    let (stop, sessions_ended) = (life.soft_stop(), CancellationToken::new());
    let (ended, hard, store) = (sessions_ended.clone(), life.hard_stop(), parts.store.clone());
    life.spawn("pickups", async move {
        pickups::record(store, downloads, ended, hard).await;
        Ok::<(), AnyError>(())
    });
    life.spawn("sftp", async move {
        endpoint.run(stop).await;
        sessions_ended.cancel();
        Ok::<(), AnyError>(())
    });
    listening.store(true, std::sync::atomic::Ordering::Relaxed);

    let reload = move || {
        let parts = parts.clone();
        async move { blocking(move || reload(&parts)).await?.map_err(AnyError::from) }
    };
    Ok(life.run(reload, || true).await)
}

fn open_reception(parts: &Parts) -> anyhow::Result<Arc<Reception>> {
    let bell = parts.received.clone();
    let reception =
        Reception::new(parts.live.clone(), parts.store.clone(), parts.clock.clone(), Arc::new(move || bell.ring()))?;
    let found = reception.recover()?;
    if found > 0 {
        tracing::info!(uploads = found, "Kept what interrupted sessions had sent");
    }
    Ok(Arc::new(reception))
}

async fn open_sftp(
    parts: &Parts,
    reception: Arc<Reception>,
    metrics: &Metrics,
    collected: sftp::Collected,
) -> anyhow::Result<sftp::Endpoint> {
    let settings = parts.live.current();
    let host_keys = sftp::host_keys::load_or_create(&settings.sftp.host_keys, &settings.state_dir)?;
    let endpoint = sftp::Endpoint::bind(sftp::Parts {
        live: parts.live.clone(),
        store: parts.store.clone(),
        reception,
        clock: parts.clock.clone(),
        host_keys,
        collected,
        metrics: metrics.clone(),
        drain: SOFT_STOP,
    })
    .await?;
    for address in endpoint.local_addresses() {
        tracing::info!(sftp.address = %address, "Serving SFTP");
    }
    Ok(endpoint)
}

fn stock(parts: &Parts) -> Result<Vec<BankRemaining>, StoreError> {
    let mut remaining = Vec::new();
    for namespace in parts.live.current().namespaces.values() {
        let today = parts.clock.now().with_timezone(&namespace.timezone).date_naive();
        for stock in parts.store.stock(parts.store.namespace_id(&namespace.name)?, today)? {
            let Ok(bank) = config::Name::parse(&stock.bank) else { continue };
            let namespace = namespace.name.clone();
            match remaining.last_mut() {
                Some(BankRemaining { namespace: of, bank: last, remaining }) if *of == namespace && *last == bank => {
                    *remaining += stock.remaining;
                }
                _ => remaining.push(BankRemaining { namespace, bank, remaining: stock.remaining }),
            }
        }
    }
    Ok(remaining)
}

/// Reads the configuration anew and swaps it whole; on any error everything stays as it was.
fn reload(parts: &Parts) -> anyhow::Result<()> {
    let old = parts.live.current();
    let new = config::load(&old.file, config::variables())?;
    for key in config::needs_restart(&old, &new) {
        tracing::warn!(key, "Changed, but takes effect only at the next start");
    }
    agree(&new, &parts.store, &parts.keyring, &parts.clock)?;
    parts.live.replace(new);
    parts.received.ring();
    parts.applied.ring();
    tracing::info!("Took over the new configuration");
    Ok(())
}

/// One round of a worker, until `stopping`. Returns when the next thing is due, if that is known.
type Work = dyn FnMut(&dyn Fn() -> bool) -> Result<Option<DateTime<Utc>>, AnyError> + Send;

/// One worker: works, then waits for the bell, for the next thing that is due, or a while.
struct Worker {
    name: &'static str,
    bell: Doorbell,
    look_every: Duration,
    work: Box<Work>,
}

fn spawn_workers(life: &Lifecycle, parts: &Parts, reception: &Arc<Reception>, metrics: &Metrics) {
    for _ in 0..INBOUND_WORKERS {
        spawn_worker(life, parts, inbound_worker(parts, metrics));
    }
    let outbound = outbound(parts);
    for _ in 0..BATCH_WORKERS {
        spawn_worker(life, parts, batch_worker(parts, &outbound));
    }
    spawn_worker(life, parts, correction_worker(parts, &outbound));
    spawn_worker(life, parts, drops_worker(parts, metrics));
    spawn_worker(life, parts, watch_worker(parts));
    spawn_worker(life, parts, mail_worker(parts));
    spawn_worker(life, parts, sweep_worker(parts, reception));
    let (stop, bells) = (life.soft_stop(), [&parts.received, &parts.applied, &parts.stop].map(Clone::clone));
    life.spawn("doorbells", async move {
        stop.cancelled().await;
        outbound.stop();
        bells.iter().for_each(Doorbell::ring);
        Ok::<(), AnyError>(())
    });
}

fn inbound_worker(parts: &Parts, metrics: &Metrics) -> Worker {
    let inbound = Inbound {
        store: parts.store.clone(),
        live: parts.live.clone(),
        keyring: Arc::clone(&parts.keyring),
        clock: parts.clock.clone(),
        applied: parts.applied.clone(),
        metrics: metrics.clone(),
    };
    Worker {
        name: "inbound",
        bell: parts.received.clone(),
        look_every: LOOK_EVERY,
        work: Box::new(move |stopping| Ok(inbound.process_waiting(stopping)?)),
    }
}

fn outbound(parts: &Parts) -> Outbound {
    let doors = Arc::new(KeyedDoors {
        keyring: Arc::clone(&parts.keyring),
        live: parts.live.clone(),
        clock: parts.clock.clone(),
    });
    Outbound::new(parts.store.clone(), parts.live.clone(), parts.clock.clone(), doors.clone(), doors)
}

fn batch_worker(parts: &Parts, outbound: &Outbound) -> Worker {
    let outbound = outbound.clone();
    Worker {
        name: "batches",
        bell: parts.applied.clone(),
        look_every: LOOK_EVERY,
        work: Box::new(move |_| Ok(Some(outbound.run_due()))),
    }
}

fn correction_worker(parts: &Parts, outbound: &Outbound) -> Worker {
    let outbound = outbound.clone();
    Worker {
        name: "corrections",
        bell: parts.applied.clone(),
        look_every: LOOK_FOR_ALERTS,
        work: Box::new(move |_| {
            outbound.correct_due();
            Ok(None)
        }),
    }
}

fn watch_worker(parts: &Parts) -> Worker {
    let watch = Watch::new(parts.store.clone(), parts.live.clone(), parts.clock.clone());
    Worker {
        name: "alerts",
        bell: parts.stop.clone(),
        look_every: LOOK_FOR_ALERTS,
        work: Box::new(move |stopping| Ok(Some(watch.tick(stopping)?))),
    }
}

fn mail_worker(parts: &Parts) -> Worker {
    let mut mailer = Mailer::new(parts.store.clone(), parts.live.clone(), parts.clock.clone());
    Worker {
        name: "mails",
        bell: parts.stop.clone(),
        look_every: LOOK_FOR_ALERTS,
        work: Box::new(move |stopping| Ok(mailer.tick(stopping)?)),
    }
}

fn drops_worker(parts: &Parts, metrics: &Metrics) -> Worker {
    let parts = parts.clone();
    let mut drops = LocalDrops::new(metrics.clone());
    Worker {
        name: "local files",
        bell: parts.stop.clone(),
        look_every: LOOK_EVERY,
        work: Box::new(move |_| {
            let settings = parts.live.current();
            if drops.take_ready(&parts.store, &settings, parts.clock.now())? > 0 {
                parts.received.ring();
            }
            let look = settings.spool.settle.clamp(Duration::from_millis(200), LOOK_EVERY);
            Ok(Some(parts.clock.now() + TimeDelta::from_std(look)?))
        }),
    }
}

fn sweep_worker(parts: &Parts, reception: &Arc<Reception>) -> Worker {
    let (reception, swept) = (Arc::clone(reception), parts.clone());
    Worker {
        name: "sweep",
        bell: parts.stop.clone(),
        look_every: SWEEP_EVERY,
        work: Box::new(move |_| {
            reception.purge_partial()?;
            sweep(&swept)?;
            Ok(None)
        }),
    }
}

/// What comes with time in every namespace: suspicion reports on days that are over, and the end of old files.
fn sweep(parts: &Parts) -> anyhow::Result<()> {
    let settings = parts.live.current();
    for namespace in settings.namespaces.values() {
        let (now, layout) = (parts.clock.now(), Layout::new(&settings.state_dir, &namespace.name));
        inbound::report_suspicions(&parts.store, &settings, namespace, now)?;
        let namespace_id = parts.store.namespace_id(&namespace.name)?;
        let gone = retention::sweep(&parts.store, &layout, namespace_id, settings.spool.archive_keep, now)?;
        if !gone.is_nothing() {
            let retention::Gone { originals, reports, assignments } = gone;
            tracing::info!(namespace = %namespace.name, originals, reports, assignments, "Deleted old files");
        }
    }
    Ok(())
}

fn spawn_worker(life: &Lifecycle, parts: &Parts, mut worker: Worker) {
    let (stop, clock) = (life.soft_stop(), parts.clock.clone());
    life.spawn(worker.name, async move {
        let stopping = move || stop.is_cancelled();
        tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            while !stopping() {
                let rings = worker.bell.rings();
                let pause = match (worker.work)(&stopping) {
                    Ok(next) => {
                        said.clear();
                        next.map_or(worker.look_every, |next| {
                            next.signed_duration_since(clock.now()).to_std().unwrap_or_default().min(worker.look_every)
                        })
                    }
                    // The store may be restarting; what is due stays due.
                    Err(error) => {
                        say_once(worker.name, error.as_ref(), &mut said);
                        Duration::from_secs(1)
                    }
                };
                if !stopping() {
                    worker.bell.wait(rings, pause.max(Duration::from_millis(20)));
                }
            }
        })
        .await
    });
}

/// Says why a worker failed, unless that was just said: by itself, or by the store of its being away.
fn say_once(worker: &str, error: &(dyn std::error::Error + 'static), said: &mut String) {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let text = chain(error);
    if causes.any(|cause| cause.downcast_ref::<StoreError>().is_some_and(StoreError::is_unavailable)) {
        tracing::debug!(worker, error = text, "Failed to work, will try again");
    } else if text != *said {
        tracing::warn!(worker, error = text, "Failed to work, will try again");
        *said = text;
    }
}
