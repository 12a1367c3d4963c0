//! Health and metrics over HTTP, for loopback or a private network: there is no log-in, and nothing here changes anything.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 as long as the process answers at all |
//! | `/readyz` | 200, or 503 and every reason why not, as JSON |
//! | `/metrics` | OpenMetrics text |
//!
//! Checks and metrics ask the store, which blocks; so they run on threads of their own, one `/readyz` and one `/metrics`
//! at a time, and what takes longer than a few seconds counts as a failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::telemetry::Metrics;

/// How long a check or a scrape may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long requests under way may take after the stop.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// The endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be used.
    #[error("listen on `{address}` for health and metrics")]
    Bind {
        /// The address of `[http] listen`.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The listener failed.
    #[error("serve health and metrics")]
    Serve(#[source] std::io::Error),
}

/// One condition of being ready. May block; a failure says why in a fragment.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the endpoint shows.
pub struct Endpoint {
    metrics: Metrics,
    checks: BTreeMap<&'static str, Check>,
    one_readyz: Mutex<()>,
    one_scrape: Mutex<()>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("checks", &self.checks.keys()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Shows `metrics`, and is ready while every check holds.
    #[must_use]
    pub fn new(metrics: Metrics, checks: impl IntoIterator<Item = (&'static str, Check)>) -> Self {
        let checks = checks.into_iter().collect();
        Self { metrics, checks, one_readyz: Mutex::default(), one_scrape: Mutex::default() }
    }

    /// Why not ready; empty: ready. The checks run side by side.
    async fn reasons(&self) -> BTreeMap<&'static str, String> {
        let _one = self.one_readyz.lock().await;
        let running: Vec<_> = self.checks.iter().map(|(name, check)| (*name, start(check))).collect();
        let mut reasons = BTreeMap::new();
        for (name, check) in running {
            if let Err(why) = check.await.unwrap_or_else(|why| Err(why.to_owned())) {
                reasons.insert(name, why);
            }
        }
        reasons
    }

    async fn scrape(&self) -> Result<String, &'static str> {
        let _one = self.one_scrape.lock().await;
        let metrics = self.metrics.clone();
        blocking(move || metrics.text()).await?.map_err(|_| "the text could not be made")
    }
}

fn start(check: &Check) -> impl Future<Output = Result<Result<(), String>, &'static str>> + use<> {
    let check = Arc::clone(check);
    blocking(move || check())
}

/// Begins at once; what is returned waits for it.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, &'static str>> {
    let running = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work));
    async {
        match running.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_panic)) => Err("panicked"),
            Err(_elapsed) => Err("no answer within 5 seconds"),
        }
    }
}

/// The check that the store can be reached and has the schema of this binary.
#[must_use]
pub fn store_check(store: Store) -> Check {
    Arc::new(move || match store.schema_is_current() {
        Ok(true) => Ok(()),
        Ok(false) => Err("the schema is not up to date: run `coupond migrate`".into()),
        Err(error) => Err(format!("failed to {error}")),
    })
}

/// The check that a part of the start is done: set the returned flag when it is, and clear it when it no longer holds.
#[must_use]
pub fn flag_check(reason: &'static str) -> (Arc<AtomicBool>, Check) {
    let flag = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&flag);
    let check = move || if shared.load(Ordering::Acquire) { Ok(()) } else { Err(reason.to_owned()) };
    (flag, Arc::new(check))
}

/// Listens on `address`.
///
/// # Errors
/// [`HttpError::Bind`]
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| HttpError::Bind { address, source })
}

/// Serves until `stop`, and then what is under way for two seconds more.
///
/// # Errors
/// [`HttpError::Serve`]
pub async fn serve(listener: TcpListener, endpoint: Endpoint, stop: CancellationToken) -> Result<(), HttpError> {
    let routes = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(endpoint));
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        ended = async { serving.await } => ended.map_err(HttpError::Serve),
        () = overdue => Ok(()),
    }
}

async fn readyz(State(endpoint): State<Arc<Endpoint>>) -> Response {
    let reasons = endpoint.reasons().await;
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons });
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn metrics(State(endpoint): State<Arc<Endpoint>>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match endpoint.scrape().await {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => return String::from_utf8(answer).unwrap(),
                length => answer.extend(&buffer[..length]),
            }
        }
    }

    async fn check(address: SocketAddr, path: &str, status: &str, part: &str) {
        let answer = get(address, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
    }

    #[tokio::test]
    async fn it_answers_and_stops() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flag, listeners) = flag_check("the SFTP endpoint is not bound");
        let store: Check = Arc::new(|| Err("failed to reach the store".into()));
        let endpoint = Endpoint::new(Metrics::new(|| None), [("listeners", listeners), ("store", store)]);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, endpoint, stop.clone()));

        check(address, "/healthz", "200", "alive\n").await;
        check(address, "/readyz", "503", r#""listeners":"the SFTP endpoint is not bound""#).await;
        flag.store(true, Ordering::Release);
        check(address, "/readyz", "503", r#""reasons":{"store":"failed to reach the store"}"#).await;
        check(address, "/metrics", "200", "# EOF\n").await;
        check(address, "/metrics", "200", "application/openmetrics-text").await;
        check(address, "/", "404", "").await;

        // A client that never finishes its request does not hold the stop up.
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /healthz HT").await.unwrap();
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), serving).await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_check_that_panics_is_a_reason() {
        let panics: Check = Arc::new(|| panic!("on purpose"));
        let endpoint = Endpoint::new(Metrics::new(|| None), [("bad", panics)]);
        assert_eq!(endpoint.reasons().await, BTreeMap::from([("bad", "panicked".to_owned())]));
        assert_eq!(Endpoint::new(Metrics::new(|| None), []).reasons().await, BTreeMap::new());
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let error = bind(address).await.unwrap_err();
        assert_eq!(error.to_string(), format!("listen on `{address}` for health and metrics"));
    }
}
