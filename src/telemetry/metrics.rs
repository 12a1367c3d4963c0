//! Counters and gauges, shown at `/metrics` in OpenMetrics text.
//!
//! A label is a name from the configuration, a kind, or a word of this code: never text of a client's, which could be
//! anything and without end. What is counted starts at 0 with the process.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::config::Name;
use crate::spool::Kind;

/// How many codes a bank can still hand out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankRemaining {
    /// The namespace.
    pub namespace: Name,
    /// The bank.
    pub bank: Name,
    /// Design rule 4: not handed out, not redeemed, not void, window open.
    pub remaining: i64,
}

/// Everything that is counted. Clones share the numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    uploads: Family<UploadLabels, Counter>,
    rows_applied: Family<KindLabels, Counter>,
    batches: Family<OutcomeLabels, Counter>,
    codes_assigned: Family<OutcomeLabels, Counter>,
    sessions: Counter,
    sessions_open: Gauge,
    received: Counter,
    sent: Counter,
    auth_failures: Family<MethodLabels, Counter>,
    local_files_left: Family<NamespaceLabels, Gauge>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UploadLabels {
    namespace: String,
    kind: &'static str,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    namespace: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    namespace: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabels {
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BankLabels {
    namespace: String,
    bank: String,
}

impl Metrics {
    /// All at 0. `stock` is asked at each scrape and may block; when it cannot tell (`None`), no remaining is shown
    /// rather than an old one.
    #[must_use]
    pub fn new(stock: impl Fn() -> Option<Vec<BankRemaining>> + Send + Sync + 'static) -> Self {
        let mut registry = Registry::with_prefix("coupond");
        let of = &mut registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        of.register("build", "The running version", build);
        let mut metrics = Self {
            uploads: counted(of, "uploads", "Uploads by kind and verdict"),
            rows_applied: counted(of, "rows_applied", "Rows that took effect"),
            batches: counted(of, "batches", "Batches by outcome"),
            codes_assigned: counted(of, "codes_assigned", "Rows of assignment files by outcome"),
            sessions: counted(of, "sftp_sessions_opened", "SFTP sessions since the start"),
            sessions_open: counted(of, "sftp_sessions", "SFTP sessions that are open"),
            received: counted(of, "sftp_received_bytes", "Bytes that SFTP clients sent"),
            sent: counted(of, "sftp_sent_bytes", "Bytes that SFTP clients took"),
            auth_failures: counted(of, "auth_failures", "Failed attempts to log in, by method"),
            local_files_left: counted(of, "local_files_left", "Files put into inbound directories that are not taken"),
            registry: Arc::default(),
        };
        registry.register_collector(Box::new(Stock(Box::new(stock))));
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// An upload got its verdict: `applied`, `rejected`, `quarantined`, `duplicate`, `checked`.
    pub fn upload(&self, namespace: &Name, kind: Kind, verdict: &'static str) {
        let labels = UploadLabels { namespace: namespace.to_string(), kind: kind.as_str(), verdict };
        self.uploads.get_or_create(&labels).inc();
    }

    /// So many rows of an upload took effect.
    pub fn rows_applied(&self, namespace: &Name, kind: Kind, rows: u64) {
        let labels = KindLabels { namespace: namespace.to_string(), kind: kind.as_str() };
        self.rows_applied.get_or_create(&labels).inc_by(rows);
    }

    /// A batch changed its state: `waiting`, `assigned`, `exported`, `failed`.
    pub fn batch(&self, namespace: &Name, outcome: &'static str) {
        self.batches.get_or_create(&OutcomeLabels { namespace: namespace.to_string(), outcome }).inc();
    }

    /// So many rows of an assignment file have this outcome: `new`, `kept`, `replaced_redeemed`, ...
    pub fn codes_assigned(&self, namespace: &Name, outcome: &'static str, codes: u64) {
        self.codes_assigned.get_or_create(&OutcomeLabels { namespace: namespace.to_string(), outcome }).inc_by(codes);
    }

    /// A session is open until the returned value is dropped.
    #[must_use]
    pub fn session(&self) -> OpenSession {
        self.sessions.inc();
        self.sessions_open.inc();
        OpenSession(self.sessions_open.clone())
    }

    /// A client wrote so many bytes.
    pub fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }

    /// A client read so many bytes.
    pub fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    /// An attempt to log in failed: `publickey`, `password`.
    pub fn auth_failure(&self, method: &'static str) {
        self.auth_failures.get_or_create(&MethodLabels { method }).inc();
    }

    /// So many local files lie in a namespace's inbound directories and are not taken.
    pub fn local_files_left(&self, namespace: &Name, files: usize) {
        let labels = NamespaceLabels { namespace: namespace.to_string() };
        self.local_files_left.get_or_create(&labels).set(i64::try_from(files).unwrap_or(i64::MAX));
    }

    /// Everything as OpenMetrics text. Blocks as long as the stock is asked for.
    ///
    /// # Errors
    /// When the text cannot be made.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// One open session in the gauge.
#[derive(Debug)]
pub struct OpenSession(Gauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn counted<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Asks for the stock at each scrape.
struct Stock(Box<dyn Fn() -> Option<Vec<BankRemaining>> + Send + Sync>);

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stock")
    }
}

impl Collector for Stock {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(banks) = (self.0)() else { return Ok(()) };
        let metric_type = prometheus_client::metrics::MetricType::Gauge;
        let help = "Codes that a bank can still hand out";
        let mut family = encoder.encode_descriptor("bank_remaining", help, None, metric_type)?;
        for bank in banks {
            let labels = BankLabels { namespace: bank.namespace.to_string(), bank: bank.bank.to_string() };
            ConstGauge::new(bank.remaining).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn what_is_counted_is_shown() {
        let stock = || Some(vec![BankRemaining { namespace: name("acme"), bank: name("spring26"), remaining: 7 }]);
        let metrics = Metrics::new(stock);
        metrics.upload(&name("acme"), Kind::Coupons, "applied");
        metrics.rows_applied(&name("acme"), Kind::Coupons, 1000);
        metrics.batch(&name("acme"), "exported");
        metrics.codes_assigned(&name("acme"), "new", 12);
        metrics.received(5);
        metrics.sent(6);
        metrics.auth_failure("publickey");
        metrics.local_files_left(&name("acme"), 2);
        let first = metrics.session();
        let second = metrics.clone().session();
        drop(first);
        let text = metrics.text().unwrap();
        for line in [
            concat!("coupond_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "coupond_uploads_total{namespace=\"acme\",kind=\"coupons\",verdict=\"applied\"} 1",
            "coupond_rows_applied_total{namespace=\"acme\",kind=\"coupons\"} 1000",
            "coupond_batches_total{namespace=\"acme\",outcome=\"exported\"} 1",
            "coupond_codes_assigned_total{namespace=\"acme\",outcome=\"new\"} 12",
            "coupond_sftp_sessions_opened_total 2",
            "coupond_local_files_left{namespace=\"acme\"} 2",
            "coupond_sftp_sessions 1",
            "coupond_sftp_received_bytes_total 5",
            "coupond_sftp_sent_bytes_total 6",
            "coupond_auth_failures_total{method=\"publickey\"} 1",
            "coupond_bank_remaining{namespace=\"acme\",bank=\"spring26\"} 7",
            "# EOF",
        ] {
            assert!(text.lines().any(|shown| shown == line), "no `{line}` in\n{text}");
        }
        drop(second);
        assert!(metrics.text().unwrap().contains("coupond_sftp_sessions 0"));
    }

    #[test]
    fn a_stock_that_nobody_knows_is_not_shown() {
        let text = Metrics::new(|| None).text().unwrap();
        assert!(!text.contains("coupond_bank_remaining"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
