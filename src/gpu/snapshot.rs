//! What is known of all GPUs at one moment: plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{GpuInfo, GpuUsage, HiddenGpus};

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
    pub hidden: HiddenGpus,
}

impl GpuSnapshot {
    /// Derives what others need of `devices`.
    pub fn new(nvml: NvmlState, devices: Vec<GpuDevice>, warnings: Vec<String>) -> Self {
        let healthy = || devices.iter().filter(|device| device.is_usable());
        let usage = |device: &GpuDevice| {
            let GpuReadings { utilization_ratio, memory_used_bytes, .. } = device.readings;
            // A slice has no utilisation, and some GPUs no memory of their own.
            (utilization_ratio.is_some() || memory_used_bytes.is_some()).then(|| GpuUsage {
                uuid: device.info.uuid.clone(),
                utilization_ratio,
                memory_used_bytes,
            })
        };
        Self {
            nvml,
            gpus: healthy().map(|device| device.info.clone()).collect(),
            usage: healthy().filter_map(usage).collect(),
            devices,
            warnings,
            hidden: HiddenGpus::default(),
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
    /// The driver is not loaded, or it or its library went away.
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
    /// Whether an adapter of wgpu has its PCI address; None while adapters are not known, and for what never has one: slices
    /// and the GPUs that are split into them.
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
    /// Clock of the graphics units.
    pub graphics_clock_hertz: Option<f64>,
    /// Highest clock of the streaming multiprocessors.
    pub sm_clock_max_hertz: Option<f64>,
    /// Highest clock of the memory.
    pub memory_clock_max_hertz: Option<f64>,
    /// Highest clock of the graphics units.
    pub graphics_clock_max_hertz: Option<f64>,
    /// Speed of the fastest fan, as a share of its highest.
    pub fan_speed_ratio: Option<f64>,
    /// Performance state: 0 is the fastest, 15 the slowest.
    pub performance_state: Option<u32>,
    /// Who may compute on it.
    pub compute_mode: Option<ComputeMode>,
    /// Share of time in which video was encoded, 0 to 1.
    pub encoder_utilization_ratio: Option<f64>,
    /// Share of time in which video was decoded, 0 to 1.
    pub decoder_utilization_ratio: Option<f64>,
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
    /// Processes on it, ours included.
    pub processes: Option<Vec<GpuProcess>>,
}

impl GpuReadings {
    /// Whether somebody else uses it beside this worker, as far as that can be known.
    pub(super) fn has_strangers(&self) -> bool {
        let count = |owner| self.processes.iter().flatten().filter(|process| process.owner == owner).count();
        let ours = count(Owner::Ours).min(1);
        // One of those that cannot be told apart may be ours.
        count(Owner::Others) > 0 || ours + count(Owner::Unknown) > 1
    }
}

/// Who may compute on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeMode {
    /// Whoever wants to.
    Default,
    /// One thread of one process, as old drivers have it.
    ExclusiveThread,
    /// Nobody.
    Prohibited,
    /// One process.
    ExclusiveProcess,
}

impl ComputeMode {
    /// All modes, for metrics.
    pub const ALL: [Self; 4] =
        [Self::Default, Self::ExclusiveThread, Self::Prohibited, Self::ExclusiveProcess];

    /// Lower-case name, as in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::ExclusiveThread => "exclusive_thread",
            Self::Prohibited => "prohibited",
            Self::ExclusiveProcess => "exclusive_process",
        }
    }
}

impl From<nvml_wrapper::enum_wrappers::device::ComputeMode> for ComputeMode {
    fn from(mode: nvml_wrapper::enum_wrappers::device::ComputeMode) -> Self {
        use nvml_wrapper::enum_wrappers::device::ComputeMode as Theirs;
        match mode {
            Theirs::Default => Self::Default,
            Theirs::ExclusiveThread => Self::ExclusiveThread,
            Theirs::Prohibited => Self::Prohibited,
            Theirs::ExclusiveProcess => Self::ExclusiveProcess,
        }
    }
}

/// Whose process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This worker's, or one that it started.
    Ours,
    /// Somebody else's.
    Others,
    /// The driver tells ids that mean nothing here, as in a container.
    Unknown,
}

/// A process on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuProcess {
    /// Its id, as the driver sees it.
    pub pid: u32,
    /// Video memory that it uses, in bytes, where the driver tells.
    pub memory_bytes: Option<u64>,
    /// Whose it is.
    pub owner: Owner,
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
