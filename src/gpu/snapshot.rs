//! What is known of all GPUs at one moment: plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{GpuInfo, GpuUsage, PciAddress};

/// All GPUs at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuSnapshot {
    /// How NVML, the source of all this, is.
    pub nvml: NvmlState,
    /// Every GPU that was seen since the start, in NVML's order; those that are lost included.
    pub devices: Vec<GpuDevice>,
    /// Those of [`Self::devices`] that are healthy, as registration tells them.
    pub gpus: Vec<GpuInfo>,
    /// What the healthy ones are doing, as heartbeats tell it; a GPU without fresh readings has no entry.
    pub usage: Vec<GpuUsage>,
    /// What an operator has to mend, each with its remedy, in one line.
    pub warnings: Vec<String>,
    /// Where the GPUs are that this worker is not to use.
    pub hidden: Vec<PciAddress>,
}

impl GpuSnapshot {
    /// Derives what others need of `devices`.
    pub fn new(nvml: NvmlState, devices: Vec<GpuDevice>, warnings: Vec<String>) -> Self {
        let healthy = || devices.iter().filter(|device| device.is_usable());
        let usage = |device: &GpuDevice| {
            Some(GpuUsage {
                uuid: device.info.uuid.clone(),
                utilization_ratio: device.readings.utilization_ratio?,
                memory_used_bytes: device.readings.memory_used_bytes?,
            })
        };
        Self {
            nvml,
            gpus: healthy().map(|device| device.info.clone()).collect(),
            usage: healthy().filter_map(usage).collect(),
            devices,
            warnings,
            hidden: Vec::new(),
        }
    }

    /// Free video memory of the healthy GPU that has most of it, in bytes.
    pub fn memory_available_bytes(&self) -> u64 {
        let usable = self.devices.iter().filter(|device| device.is_usable());
        let free = usable.filter_map(|device| {
            let readings = &device.readings;
            Some(readings.memory_total_bytes?.saturating_sub(readings.memory_used_bytes?))
        });
        free.max().unwrap_or_default()
    }

    /// The GPU called `uuid`.
    pub fn device(&self, uuid: &str) -> Option<&GpuDevice> {
        self.devices.iter().find(|device| device.info.uuid == uuid)
    }
}

/// How NVML is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum NvmlState {
    /// There is no NVML library: no NVIDIA driver on this machine, or none that this container sees.
    #[default]
    Absent,
    /// The library is being loaded.
    Starting,
    /// The latest sample came in time.
    Running,
    /// A call does not come back; readings are withdrawn until the driver answers again.
    Stalled,
    /// The library is there, and the driver is not loaded or went away.
    DriverGone,
    /// Library and kernel module are of different versions, as after an update without a restart.
    VersionMismatch,
    /// NVML fails in another way.
    Failed,
}

impl NvmlState {
    /// All states, for metrics.
    pub const ALL: [Self; 7] = [
        Self::Absent,
        Self::Starting,
        Self::Running,
        Self::Stalled,
        Self::DriverGone,
        Self::VersionMismatch,
        Self::Failed,
    ];

    /// Lower-case name, as in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stalled => "stalled",
            Self::DriverGone => "driver_gone",
            Self::VersionMismatch => "version_mismatch",
            Self::Failed => "failed",
        }
    }
}

/// Whether a GPU can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuHealth {
    /// It answers.
    Healthy,
    /// It fell off the bus, or the driver no longer lists it.
    Lost,
    /// Its driver does not answer, so that nothing is known of it now.
    Unknown,
}

impl GpuHealth {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// One GPU, or one MIG slice of one.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuDevice {
    /// What it is.
    pub info: GpuInfo,
    /// Whether it can be used.
    pub health: GpuHealth,
    /// Whether it is split into MIG slices, which then are what tasks and registration see.
    pub partitioned: bool,
    /// Whether an adapter of wgpu has its PCI address; None while adapters are not known.
    pub adapter_matched: Option<bool>,
    /// What it is doing; empty while it is not healthy.
    pub readings: GpuReadings,
    /// Xid errors since the start of the worker, by number.
    pub xid_errors: BTreeMap<u64, u64>,
    /// For how long its clocks were held down since the start of the worker, by reason.
    pub throttled: BTreeMap<ThrottleReason, Duration>,
}

impl GpuDevice {
    /// Whether work may be placed on it.
    pub fn is_usable(&self) -> bool {
        self.health == GpuHealth::Healthy && !self.partitioned
    }
}

/// What a GPU is doing, in base units. What it does not support, or what was not read in time, is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuReadings {
    /// Share of time in which a kernel ran, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Share of time in which memory was read or written, 0 to 1.
    pub memory_utilization_ratio: Option<f64>,
    /// Video memory in use, by whomever, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Video memory there is, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Temperature of the chip.
    pub temperature_celsius: Option<f64>,
    /// Power drawn by the whole board.
    pub power_watts: Option<f64>,
    /// Power at which the driver holds clocks down.
    pub power_limit_watts: Option<f64>,
    /// Energy used since the driver was loaded.
    pub energy_joules: Option<f64>,
    /// Clock of the streaming multiprocessors.
    pub sm_clock_hertz: Option<f64>,
    /// Clock of the memory.
    pub memory_clock_hertz: Option<f64>,
    /// Bytes a second sent over PCIe; measured only where asked for, since it takes 20 ms.
    pub pcie_tx_bytes_per_second: Option<f64>,
    /// Bytes a second received over PCIe; as above.
    pub pcie_rx_bytes_per_second: Option<f64>,
    /// Memory errors that ECC corrected, since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Memory errors that ECC could not correct, since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Why clocks are held down now; empty when they are not.
    pub throttle_reasons: Option<Vec<ThrottleReason>>,
    /// Processes that compute on it, ours included.
    pub processes: Option<Vec<GpuProcess>>,
}

/// A process that computes on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuProcess {
    /// Its id, as the driver sees it.
    pub pid: u32,
    /// Video memory that it uses, in bytes, where the driver tells.
    pub memory_bytes: Option<u64>,
}

/// Why a GPU runs slower than it could. An idle GPU and clocks that somebody set are no such reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ThrottleReason {
    /// It draws as much power as it may.
    PowerCap,
    /// It is too hot for its software limit.
    Thermal,
    /// It is too hot for its hardware limit.
    HardwareThermal,
    /// The power supply asks for less.
    HardwarePowerBrake,
    /// Hardware holds clocks to half or less, for one of the reasons above.
    HardwareSlowdown,
    /// It waits for the other GPUs of its sync boost group.
    SyncBoost,
}

impl ThrottleReason {
    /// All reasons, for metrics.
    pub const ALL: [Self; 6] = [
        Self::PowerCap,
        Self::Thermal,
        Self::HardwareThermal,
        Self::HardwarePowerBrake,
        Self::HardwareSlowdown,
        Self::SyncBoost,
    ];

    /// Lower-case name, as in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerCap => "power_cap",
            Self::Thermal => "thermal",
            Self::HardwareThermal => "hardware_thermal",
            Self::HardwarePowerBrake => "hardware_power_brake",
            Self::HardwareSlowdown => "hardware_slowdown",
            Self::SyncBoost => "sync_boost",
        }
    }
}
