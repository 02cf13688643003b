//! What the worker says when it is asked how it is, the same over HTTP and gRPC.
//!
//! ```text
//! WorkerStatus + HostUsage + number of GPUs --> Health --> GET /health, GetStatus, GET /api/v1/status
//! ```
//!
//! The field names are part of the outside contract: nothing is renamed or added here without it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{HostUsage, WorkerPhase, WorkerStatus};

/// The answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// Id of the worker.
    pub worker_id: String,
    /// IDLE, BUSY, DRAINING or DEGRADED.
    pub status: &'static str,
    /// Time since the start, such as `2h15m30s`.
    pub uptime: String,
    /// Held tasks whose outcome is not in yet.
    pub active_tasks: u32,
    /// Tasks completed since the start.
    pub completed_tasks: u64,
    /// CPU use of the machine in percent of all its cores.
    pub cpu_usage: f64,
    /// Resident memory of the worker and its runners in bytes.
    pub memory_usage: u64,
    /// When the orchestrator last answered a heartbeat (base contract: any call), as RFC 3339 in UTC; absent before that.
    pub last_heartbeat: Option<String>,
    /// connected, connecting or disconnected.
    pub orchestrator_connection: &'static str,
    /// Tasks that ended without a result since the start.
    pub failed_tasks: u64,
    /// Healthy GPUs.
    pub gpus: u32,
    /// The backend of a task without a wish of its own.
    pub backend: &'static str,
    /// Why the worker is degraded, and what else is wrong, as with a GPU; empty when all is well.
    pub reasons: Vec<String>,
    /// Version of the worker.
    pub version: &'static str,
}

impl Health {
    /// Puts together what `status` and `host` say.
    pub fn new(status: &WorkerStatus, host: &HostUsage, gpus: usize) -> Self {
        Self {
            worker_id: status.worker_id.to_string(),
            status: status.phase.name(),
            uptime: uptime(status.uptime()),
            active_tasks: u32::try_from(status.active_tasks()).unwrap_or(u32::MAX),
            completed_tasks: status.completed_tasks,
            cpu_usage: host.cpu_percent,
            memory_usage: host.memory_bytes,
            last_heartbeat: status.last_heartbeat.map(rfc3339),
            orchestrator_connection: status.link.name(),
            failed_tasks: status.failed_tasks,
            gpus: u32::try_from(gpus).unwrap_or(u32::MAX),
            backend: status.backend.name(),
            reasons: status.reasons.clone(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl Health {
    /// Adds what an operator should know that does not keep the worker from its work, such as a GPU that is lost.
    pub fn and_reasons(mut self, more: &[String]) -> Self {
        self.reasons.extend_from_slice(more);
        self
    }
}

/// Why `status` is not ready, in words; empty when it is ([`WorkerStatus::is_ready`]).
pub fn unready_reasons(status: &WorkerStatus) -> Vec<String> {
    if status.is_ready() {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if !status.registered {
        reasons.push(format!("not registered with the orchestrator ({})", status.link.name()));
    }
    match status.phase {
        WorkerPhase::Draining => reasons.push("draining: takes no more tasks".to_owned()),
        WorkerPhase::Degraded if status.reasons.is_empty() => reasons.push("degraded".to_owned()),
        WorkerPhase::Idle | WorkerPhase::Busy | WorkerPhase::Degraded => {}
    }
    reasons.extend(status.reasons.iter().cloned());
    reasons
}

/// `elapsed` in whole hours, minutes and seconds without leading zero units: `2h0m5s`, `3m0s`, `0s`.
fn uptime(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `time` as RFC 3339 in UTC with milliseconds: `2026-01-31T23:59:59.000Z`. Times before 1970 are shown as its
/// first moment.
pub fn rfc3339(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let milliseconds = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Counts in eras of 400 years that begin on a first of March, so that the leap day is the last day of its year
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const DAYS_FROM_YEAR_0_TO_1970: u64 = 719_468;
    let days = days + DAYS_FROM_YEAR_0_TO_1970;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::domain::{Backend, LinkState, WorkerId};

    fn status() -> WorkerStatus {
        WorkerStatus {
            worker_id: WorkerId::parse("w-1").unwrap(),
            phase: WorkerPhase::Idle,
            reasons: Vec::new(),
            started_at: Instant::now(),
            slots_total: 3,
            slots_busy: 0,
            slots_polling: 3,
            tasks: Vec::new(),
            recent: Vec::new(),
            completed_tasks: 5,
            failed_tasks: 1,
            link: LinkState::Connected,
            registered: true,
            last_heartbeat: None,
            backend: Backend::Cpu,
            outbox_pending: 0,
            state_dir_writable: true,
        }
    }

    #[test]
    fn uptime_drops_leading_zero_units_only() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3599, "59m59s"),
            (3600, "1h0m0s"),
            (8130, "2h15m30s"),
            (360_005, "100h0m5s"),
        ] {
            assert_eq!(uptime(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn dates_follow_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_000_000_000, "2001-09-09T01:46:40.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), shown);
        }
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(1_234)), "1970-01-01T00:00:01.234Z");
    }

    #[test]
    fn health_has_exactly_the_fields_of_the_contract() {
        let host = HostUsage { cpu_percent: 12.5, memory_bytes: 1 << 20, memory_percent: 3.0 };
        let json = serde_json::to_value(Health::new(&status(), &host, 2)).unwrap();
        let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut expected = [
            "worker_id",
            "status",
            "uptime",
            "active_tasks",
            "completed_tasks",
            "cpu_usage",
            "memory_usage",
            "last_heartbeat",
            "orchestrator_connection",
            "failed_tasks",
            "gpus",
            "backend",
            "reasons",
            "version",
        ];
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(json["status"], "IDLE");
        assert_eq!(json["memory_usage"], 1 << 20);
        assert_eq!(json["last_heartbeat"], serde_json::Value::Null);
        assert_eq!(json["gpus"], 2);
    }

    #[test]
    fn every_cause_of_unreadiness_is_told() {
        let ready = status();
        assert!(unready_reasons(&ready).is_empty());
        let lost = WorkerStatus {
            registered: false,
            link: LinkState::Disconnected,
            phase: WorkerPhase::Draining,
            ..ready
        };
        let reasons = unready_reasons(&lost);
        assert_eq!(reasons.len(), 2);
        assert!(reasons[0].contains("disconnected"));
        assert!(reasons[1].contains("draining"));
        let degraded = WorkerStatus {
            phase: WorkerPhase::Degraded,
            reasons: vec!["STATE_DIR is full".into()],
            registered: true,
            ..lost
        };
        assert_eq!(unready_reasons(&degraded), ["STATE_DIR is full"]);
    }
}
