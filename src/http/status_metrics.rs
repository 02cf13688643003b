//! Metrics that mirror the worker's status: read at each scrape from the one snapshot that everyone reads, so that
//! /metrics, /health and the heartbeats cannot disagree.

use std::fmt;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::{Gauge, GaugeVec, Opts, Registry, proto};

use crate::domain::LinkState;
use crate::gpu::GpuProbe;
use crate::worker::WorkerHandle;

/// worker_slots, worker_concurrent_tasks, worker_orchestrator_up, worker_outbox_pending, worker_state_dir_writable and
/// worker_gpus.
#[derive(Clone)]
pub struct StatusCollector {
    handle: WorkerHandle,
    gpu: Arc<dyn GpuProbe>,
    slots: GaugeVec,
    concurrent_tasks: Gauge,
    orchestrator_up: Gauge,
    outbox_pending: Gauge,
    state_dir_writable: Gauge,
    gpus: Gauge,
}

impl StatusCollector {
    /// Reads `handle` and `gpu` when it is scraped.
    ///
    /// # Errors
    /// What the metrics library refuses; never in a correct build.
    pub fn new(handle: WorkerHandle, gpu: Arc<dyn GpuProbe>) -> Result<Self, prometheus::Error> {
        let slots = Opts::new("worker_slots", "Slots by state: busy with a task, polling for one, idle.");
        Ok(Self {
            handle,
            gpu,
            slots: GaugeVec::new(slots, &["state"])?,
            concurrent_tasks: Gauge::new(
                "worker_concurrent_tasks",
                "Held tasks whose outcome is not in yet.",
            )?,
            orchestrator_up: Gauge::new(
                "worker_orchestrator_up",
                "1 when the last call to the orchestrator was answered, else 0.",
            )?,
            outbox_pending: Gauge::new("worker_outbox_pending", "Outcomes that wait for acknowledgement.")?,
            state_dir_writable: Gauge::new(
                "worker_state_dir_writable",
                "Whether the disk of STATE_DIR takes what is written; 0 while it is full or does not answer.",
            )?,
            gpus: Gauge::new("worker_gpus", "Healthy GPUs.")?,
        })
    }

    /// Shows the metrics in `registry`.
    ///
    /// # Errors
    /// They are there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.clone()))
    }

    fn gauges(&self) -> [&Gauge; 5] {
        [
            &self.concurrent_tasks,
            &self.orchestrator_up,
            &self.outbox_pending,
            &self.state_dir_writable,
            &self.gpus,
        ]
    }
}

impl Collector for StatusCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.slots.desc().into_iter().chain(self.gauges().into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let status = self.handle.status();
        let idle = status.slots_total.saturating_sub(status.slots_busy.saturating_add(status.slots_polling));
        for (state, slots) in [("busy", status.slots_busy), ("polling", status.slots_polling), ("idle", idle)]
        {
            self.slots.with_label_values(&[state]).set(slots.into());
        }
        self.concurrent_tasks.set(status.active_tasks() as f64);
        self.orchestrator_up.set(if status.link == LinkState::Connected { 1.0 } else { 0.0 });
        self.outbox_pending.set(status.outbox_pending as f64);
        self.state_dir_writable.set(f64::from(u8::from(status.state_dir_writable)));
        self.gpus.set(self.gpu.snapshot().gpus.len() as f64);
        let gauges = self.gauges().into_iter().flat_map(Collector::collect);
        self.slots.collect().into_iter().chain(gauges).collect()
    }
}

impl fmt::Debug for StatusCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusCollector").finish_non_exhaustive()
    }
}
