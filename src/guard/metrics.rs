//! What was refused.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Metrics of the guard.
#[derive(Debug, Clone)]
pub struct Metrics {
    refused: IntCounterVec,
}

/// Why something was refused, as the label `reason`.
const REASONS: [&str; 5] = ["certificate", "connections", "handshake", "rate", "token"];

impl Metrics {
    /// Makes them.
    ///
    /// # Errors
    /// What the metrics library refuses; never in a correct build.
    pub fn new() -> Result<Self, prometheus::Error> {
        let about = "Connections and calls that were not let in, by server and by what was wrong with them.";
        let refused = IntCounterVec::new(Opts::new("worker_refused_total", about), &["server", "reason"])?;
        Ok(Self { refused })
    }

    /// Shows them.
    ///
    /// # Errors
    /// They are shown already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.refused.clone()))
    }

    /// Those of one server, each of which begins at 0.
    pub(super) fn of(&self, server: &str) -> Refusals {
        let counter = |reason: &str| self.refused.with_label_values(&[server, reason]);
        let [certificate, connections, handshake, rate, token] = REASONS.map(counter);
        Refusals { certificate, connections, handshake, rate, token }
    }
}

/// Counters of one server.
#[derive(Debug, Clone)]
pub(super) struct Refusals {
    pub(super) certificate: IntCounter,
    pub(super) connections: IntCounter,
    pub(super) handshake: IntCounter,
    pub(super) rate: IntCounter,
    pub(super) token: IntCounter,
}
