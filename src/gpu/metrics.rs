//! What Prometheus learns about GPUs: written at each scrape from the snapshot, so that no scrape waits for a driver.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounterVec, Opts, Registry, proto,
};

use super::snapshot::{
    ComputeMode, GpuDevice, GpuHealth, GpuReadings, GpuSnapshot, NvmlState, ThrottleReason,
};
use super::{GpuProbe, SampledGpus};

/// Bounds of the time of a sample, in seconds.
const SAMPLE_BUCKETS: [f64; 8] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.0];

/// Metrics of the sampling itself. Clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    errors: IntCounterVec,
    duration: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let errors =
            Opts::new("worker_nvml_errors_total", "Calls of NVML that failed or did not come back, by kind.");
        let duration =
            HistogramOpts::new("worker_nvml_sample_duration_seconds", "Time of one sample of all GPUs.");
        Ok(Self {
            errors: IntCounterVec::new(errors, &["kind"])?,
            duration: Histogram::with_opts(duration.buckets(SAMPLE_BUCKETS.to_vec()))?,
        })
    }

    pub(super) fn error(&self, kind: &str) {
        self.errors.with_label_values(&[kind]).inc();
    }

    pub(super) fn sampled(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }
}

/// One number of a GPU.
type Reading = (&'static str, &'static str, fn(&GpuReadings) -> Option<f64>);

/// Gauges with the labels gpu and uuid.
const GAUGES: [Reading; 19] = [
    ("worker_gpu_utilization_ratio", "Share of time in which a kernel ran on a GPU, 0 to 1.", |r| {
        r.utilization_ratio
    }),
    (
        "worker_gpu_memory_utilization_ratio",
        "Share of time in which the memory of a GPU was read or written, 0 to 1.",
        |r| r.memory_utilization_ratio,
    ),
    ("worker_gpu_memory_used_bytes", "Video memory in use, by whatever process.", |r| {
        bytes(r.memory_used_bytes)
    }),
    ("worker_gpu_memory_total_bytes", "Video memory there is.", |r| bytes(r.memory_total_bytes)),
    ("worker_gpu_temperature_celsius", "Temperature of the chip.", |r| r.temperature_celsius),
    ("worker_gpu_power_watts", "Power that the board draws.", |r| r.power_watts),
    ("worker_gpu_power_limit_watts", "Power at which the driver holds clocks down.", |r| r.power_limit_watts),
    ("worker_gpu_sm_clock_hertz", "Clock of the streaming multiprocessors.", |r| r.sm_clock_hertz),
    ("worker_gpu_memory_clock_hertz", "Clock of the video memory.", |r| r.memory_clock_hertz),
    ("worker_gpu_graphics_clock_hertz", "Clock of the graphics units.", |r| r.graphics_clock_hertz),
    ("worker_gpu_sm_clock_max_hertz", "Highest clock of the streaming multiprocessors.", |r| {
        r.sm_clock_max_hertz
    }),
    ("worker_gpu_memory_clock_max_hertz", "Highest clock of the video memory.", |r| r.memory_clock_max_hertz),
    ("worker_gpu_graphics_clock_max_hertz", "Highest clock of the graphics units.", |r| {
        r.graphics_clock_max_hertz
    }),
    ("worker_gpu_fan_speed_ratio", "Speed of the fastest fan, as a share of its highest.", |r| {
        r.fan_speed_ratio
    }),
    ("worker_gpu_performance_state", "Performance state: 0 is the fastest, 15 the slowest.", |r| {
        r.performance_state.map(f64::from)
    }),
    ("worker_gpu_encoder_utilization_ratio", "Share of time in which a GPU encoded video, 0 to 1.", |r| {
        r.encoder_utilization_ratio
    }),
    ("worker_gpu_decoder_utilization_ratio", "Share of time in which a GPU decoded video, 0 to 1.", |r| {
        r.decoder_utilization_ratio
    }),
    ("worker_gpu_pcie_tx_bytes_per_second", "Bytes a second that a GPU sends over PCIe.", |r| {
        r.pcie_tx_bytes_per_second
    }),
    ("worker_gpu_pcie_rx_bytes_per_second", "Bytes a second that a GPU receives over PCIe.", |r| {
        r.pcie_rx_bytes_per_second
    }),
];

fn bytes(value: Option<u64>) -> Option<f64> {
    value.map(|bytes| bytes as f64)
}

/// Shows a snapshot.
struct GpuCollector {
    gpus: SampledGpus,
    descs: Vec<Desc>,
}

/// Shows the metrics of `gpus` in `registry`.
///
/// # Errors
/// They are there already.
pub(super) fn register(gpus: &SampledGpus, registry: &Registry) -> Result<(), prometheus::Error> {
    registry.register(Box::new(gpus.metrics().errors.clone()))?;
    registry.register(Box::new(gpus.metrics().duration.clone()))?;
    let descs = Families::new()?.descs();
    registry.register(Box::new(GpuCollector { gpus: gpus.clone(), descs }))
}

impl Collector for GpuCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        // Made anew each time, so that nothing of a GPU stays that is not in the snapshot. They were made before, so
        // that they can be made again.
        let Ok(families) = Families::new() else { return Vec::new() };
        families.fill(&self.gpus.snapshot());
        families.collect()
    }
}

struct Families {
    info: GaugeVec,
    gauges: Vec<(GaugeVec, Reading)>,
    healthy: GaugeVec,
    matched: GaugeVec,
    throttled: GaugeVec,
    compute_mode: GaugeVec,
    energy: CounterVec,
    ecc: CounterVec,
    xid: CounterVec,
    throttle_seconds: CounterVec,
    up: Gauge,
    state: GaugeVec,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let of_gpu = ["gpu", "uuid"];
        let gauge = |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        let counter =
            |name: &str, help: &str, labels: &[&str]| CounterVec::new(Opts::new(name, help), labels);
        let gauges = GAUGES.into_iter().map(|reading| Ok((gauge(reading.0, reading.1, &of_gpu)?, reading)));
        Ok(Self {
            info: gauge(
                "worker_gpu_info",
                "Always 1; the labels tell what a GPU is.",
                &["gpu", "uuid", "name", "pci_bus_id", "driver"],
            )?,
            gauges: gauges.collect::<Result<_, prometheus::Error>>()?,
            healthy: gauge(
                "worker_gpu_healthy",
                "1 where a GPU answers, 0 where it is lost; absent while NVML does not answer.",
                &of_gpu,
            )?,
            matched: gauge(
                "worker_gpu_adapter_matched",
                "1 where an adapter of Vulkan has the PCI address of a GPU, so that it can train; 0 where none has.",
                &of_gpu,
            )?,
            throttled: gauge(
                "worker_gpu_throttled",
                "1 where clocks of a GPU are held down for this reason, else 0.",
                &["gpu", "uuid", "reason"],
            )?,
            compute_mode: gauge(
                "worker_gpu_compute_mode",
                "1 for the mode that says who may compute on a GPU, 0 for the others.",
                &["gpu", "uuid", "mode"],
            )?,
            energy: counter(
                "worker_gpu_energy_joules_total",
                "Energy that a GPU used since its driver was loaded.",
                &of_gpu,
            )?,
            ecc: counter(
                "worker_gpu_ecc_errors_total",
                "Memory errors since the driver was loaded: corrected, uncorrected.",
                &["gpu", "uuid", "type"],
            )?,
            xid: counter(
                "worker_gpu_xid_errors_total",
                "Xid errors that the driver reported since the worker started, by number.",
                &["gpu", "uuid", "xid"],
            )?,
            throttle_seconds: counter(
                "worker_gpu_throttle_seconds_total",
                "Time in which clocks of a GPU were held down since the worker started, by reason.",
                &["gpu", "uuid", "reason"],
            )?,
            up: Gauge::new("worker_nvml_up", "1 while NVML answers in time, else 0.")?,
            state: gauge(
                "worker_nvml_state",
                "1 for the state that NVML is in, 0 for the others.",
                &["state"],
            )?,
        })
    }

    fn all(&self) -> Vec<&dyn Collector> {
        let mut all: Vec<&dyn Collector> = vec![&self.info];
        all.extend(self.gauges.iter().map(|(family, _)| family as &dyn Collector));
        all.extend(
            [&self.healthy, &self.matched, &self.throttled, &self.compute_mode]
                .map(|family| family as &dyn Collector),
        );
        let counters = [&self.energy, &self.ecc, &self.xid, &self.throttle_seconds];
        all.extend(counters.map(|family| family as &dyn Collector));
        all.extend([&self.up as &dyn Collector, &self.state]);
        all
    }

    fn descs(&self) -> Vec<Desc> {
        self.all().into_iter().flat_map(Collector::desc).cloned().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let families = self.all().into_iter().flat_map(Collector::collect);
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }

    fn fill(&self, snapshot: &GpuSnapshot) {
        self.up.set(flag(snapshot.nvml == NvmlState::Running));
        for state in NvmlState::ALL {
            self.state.with_label_values(&[state.name()]).set(flag(snapshot.nvml == state));
        }
        for device in &snapshot.devices {
            self.fill_device(device);
        }
    }

    fn fill_device(&self, device: &GpuDevice) {
        let info = &device.info;
        let gpu = info.index.to_string();
        let labels = [gpu.as_str(), info.uuid.as_str()];
        let and = |last: &'static str| [labels[0], labels[1], last];
        self.info
            .with_label_values(&[labels[0], labels[1], &info.name, &info.pci_bus_id, &info.driver_version])
            .set(1.0);
        for (family, (_, _, read)) in &self.gauges {
            if let Some(value) = read(&device.readings) {
                family.with_label_values(&labels).set(value);
            }
        }
        // Of one whose driver does not answer nothing is known: that is told once, as the state of NVML.
        if device.health != GpuHealth::Unknown {
            self.healthy.with_label_values(&labels).set(flag(device.health == GpuHealth::Healthy));
        }
        if let Some(matched) = device.adapter_matched {
            self.matched.with_label_values(&labels).set(flag(matched));
        }
        if let Some(reasons) = &device.readings.throttle_reasons {
            for reason in ThrottleReason::ALL {
                self.throttled.with_label_values(&and(reason.name())).set(flag(reasons.contains(&reason)));
            }
        }
        if let Some(current) = device.readings.compute_mode {
            for mode in ComputeMode::ALL {
                self.compute_mode.with_label_values(&and(mode.name())).set(flag(mode == current));
            }
        }
        if let Some(joules) = device.readings.energy_joules {
            self.energy.with_label_values(&labels).inc_by(joules);
        }
        let ecc =
            [("corrected", device.readings.ecc_corrected), ("uncorrected", device.readings.ecc_uncorrected)];
        for (kind, count) in ecc {
            if let Some(count) = count {
                self.ecc.with_label_values(&and(kind)).inc_by(count as f64);
            }
        }
        for (xid, count) in &device.xid_errors {
            self.xid.with_label_values(&[labels[0], labels[1], &xid.to_string()]).inc_by(*count as f64);
        }
        // What was counted here stays right while the GPU does not answer.
        for (reason, time) in &device.throttled {
            if !device.info.mig {
                self.throttle_seconds.with_label_values(&and(reason.name())).inc_by(time.as_secs_f64());
            }
        }
    }
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

impl SampledGpus {
    /// Shows the metrics of GPUs and of NVML in `registry`.
    ///
    /// # Errors
    /// They are there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        register(self, registry)
    }
}
