//! What becomes of traces on their way, said now and then: a collector that is away for a day is no news every second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// Least time between two warnings.
const SILENCE: Duration = Duration::from_secs(300);

/// An exporter whose failures are told.
#[derive(Debug)]
pub(super) struct Told<E> {
    exporter: E,
    trouble: Mutex<Trouble>,
}

impl<E> Told<E> {
    pub(super) fn new(exporter: E) -> Self {
        Self { exporter, trouble: Mutex::default() }
    }
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        let lost = if result.is_ok() { 0 } else { spans };
        let news = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).after(lost, Instant::now());
        match (news, &result) {
            (Some(News::Lost(spans)), Err(error)) => tracing::warn!(
                %error,
                spans,
                "traces cannot be sent and are lost; look whether OTEL_EXPORTER_OTLP_ENDPOINT is a collector's port for \
                 OTLP over gRPC (4317, not 4318)"
            ),
            (Some(News::Back(spans)), _) => tracing::info!(lost = spans, "traces can be sent again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// How it goes.
#[derive(Debug, Default)]
struct Trouble {
    /// Spans that were lost since the last batch that went through.
    lost: u64,
    said: Option<Instant>,
}

/// What is worth a line in the log, with the number of spans that are lost.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Lost(u64),
    Back(u64),
}

impl Trouble {
    /// Another batch went, or `lost` spans with it.
    fn after(&mut self, lost: u64, now: Instant) -> Option<News> {
        if lost == 0 {
            self.said = None;
            return Some(std::mem::take(&mut self.lost)).filter(|lost| *lost > 0).map(News::Back);
        }
        self.lost = self.lost.saturating_add(lost);
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < SILENCE) {
            return None;
        }
        self.said = Some(now);
        Some(News::Lost(self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_is_away_is_told_of_now_and_then_and_once_when_it_is_back() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(trouble.after(0, start), None);
        assert_eq!(trouble.after(3, after(1)), Some(News::Lost(3)));
        assert_eq!(trouble.after(3, after(6)), None);
        assert_eq!(trouble.after(4, after(300)), None);
        assert_eq!(trouble.after(1, after(301)), Some(News::Lost(11)));
        assert_eq!(trouble.after(0, after(302)), Some(News::Back(11)));
        assert_eq!(trouble.after(0, after(303)), None);
        // A new outage is told at once.
        assert_eq!(trouble.after(1, after(304)), Some(News::Lost(1)));
    }
}
