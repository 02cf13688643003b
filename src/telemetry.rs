//! Sight: metrics registry, series with an end, logs, traces, and what the machine and the process use.
//!
//! ```text
//! room's Metrics --register--> Registry --render--> text of GET /metrics
//!    |                            ^
//!    +-- series: label sets that end and leave
//! host: one thread samples the machine --> HostProbe (read without waiting) --> gauges, /health, heartbeats
//! logs: tracing events --> standard error, for people or as one JSON object a line
//! ```
//!
//! Invariants: nothing here is global beside the one subscriber that [`logs::init`] installs; reading a metric or a
//! usage never waits for a measurement; series that carry job or task ids are bounded in number and in age.
//!
//! Deliberately absent: the metrics of other rooms (each has a struct of its own) and anything about GPUs.

pub mod host;
pub mod logs;
pub mod series;
pub mod traces;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder as _, GaugeVec, Opts, Registry, TextEncoder};

/// Content type of what [`render`] returns.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// What this build can do, as the label `features` of worker_build_info.
const FEATURES: &str = if cfg!(feature = "wgpu") { "cpu,wgpu" } else { "cpu" };

/// A registry with the metrics of the process (`process_*`) and worker_build_info.
///
/// # Errors
/// What the metrics library refuses; never in a correct build.
pub fn registry() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let build = GaugeVec::new(
        Opts::new("worker_build_info", "Always 1; the labels tell the build."),
        &["version", "features"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), FEATURES]).set(1.0);
    registry.register(Box::new(build))?;
    Ok(registry)
}

/// All metrics in Prometheus' text format.
///
/// # Errors
/// A metric that cannot be written, such as one of an empty name.
pub fn render(registry: &Registry) -> Result<Vec<u8>, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_registry_tells_build_and_process() {
        let text = String::from_utf8(render(&registry().unwrap()).unwrap()).unwrap();
        let build = format!(
            "worker_build_info{{features=\"{FEATURES}\",version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        assert!(text.contains(&build), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn registries_share_nothing() {
        assert!(registry().is_ok());
        assert!(registry().is_ok());
    }
}
