//! The control file: which GPUs there are, and what they say at which time.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Seconds since 1970, as times of the control file are given.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A value over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Curve {
    /// Always the same.
    Constant(f64),
    /// Points (seconds since 1970, value) in order of time, joined by straight lines; level before and after.
    Points(Vec<(f64, f64)>),
}

impl From<f64> for Curve {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

impl Curve {
    /// The value at `time`.
    pub fn at(&self, time: f64) -> f64 {
        let points = match self {
            Self::Constant(value) => return *value,
            Self::Points(points) => points,
        };
        match points.iter().position(|(t, _)| *t > time) {
            None => points.last().map_or(0.0, |(_, value)| *value),
            Some(0) => points[0].1,
            Some(after) => {
                let ((t0, v0), (t1, v1)) = (points[after - 1], points[after]);
                v0 + (v1 - v0) * (time - t0) / (t1 - t0)
            }
        }
    }

    /// The exact integral from `from` to `to`.
    pub fn integral(&self, from: f64, to: f64) -> f64 {
        let inner = match self {
            Self::Constant(_) => Vec::new(),
            Self::Points(points) => points.iter().map(|(t, _)| *t).filter(|t| from < *t && *t < to).collect(),
        };
        let ends: Vec<f64> = std::iter::once(from).chain(inner).chain([to]).collect();
        ends.windows(2).map(|pair| (pair[1] - pair[0]) * (self.at(pair[0]) + self.at(pair[1])) / 2.0).sum()
    }
}

/// What a function does instead of answering.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Fails with this code of `nvmlReturn_t`.
    Error(u32),
    /// Answers after so many milliseconds.
    SleepMs(u64),
    /// Does not come back while the fault is there.
    Hang,
    /// Ends the process, as a library does that finds itself in a state that cannot be.
    Abort,
}

/// How the driver as a whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverState {
    /// It works.
    #[default]
    Fine,
    /// It is not loaded.
    Gone,
    /// The kernel module has another version than the library.
    VersionMismatch,
}

/// A process on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Video memory that it uses, in bytes.
    pub memory_bytes: u64,
}

/// A MIG slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// With its `MIG-` prefix.
    pub uuid: String,
    /// Its video memory, in MiB as NVML tells it.
    pub memory_mib: u64,
    /// What of it is in use, in bytes.
    pub memory_used_bytes: u64,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// With its `GPU-` prefix.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// domain, bus, device.
    pub pci: (u32, u32, u32),
    /// CUDA compute capability.
    pub compute_capability: (i32, i32),
    /// Share of time with a kernel, percent.
    pub utilization_percent: Curve,
    /// Share of time with memory traffic, percent.
    pub memory_utilization_percent: Curve,
    /// Video memory in bytes; 0 = none of its own, as where it uses the machine's.
    pub memory_total_bytes: u64,
    /// What of it is in use.
    pub memory_used_bytes: Curve,
    /// Degrees Celsius.
    pub temperature_celsius: Curve,
    /// Power in watts; energy is its integral.
    pub power_watts: Curve,
    /// Limit of power.
    pub power_limit_watts: f64,
    /// The time at which the energy counter was 0.
    pub energy_since: f64,
    /// Clock of the multiprocessors.
    pub sm_clock_mhz: Curve,
    /// Clock of the memory.
    pub memory_clock_mhz: Curve,
    /// Sent and received over PCIe, KiB/s.
    pub pcie_kib_per_second: (u32, u32),
    /// Corrected and uncorrected ECC errors; None = no ECC memory.
    pub ecc_errors: Option<(u64, u64)>,
    /// Bits of nvmlClocksEventReasons.
    pub throttle_reasons: u64,
    /// Processes that compute.
    pub processes: Vec<Process>,
    /// Processes with a graphics context, as those that compute through Vulkan have.
    pub graphics_processes: Vec<Process>,
    /// Speed of its one fan; None = it has none.
    pub fan_percent: Option<Curve>,
    /// 0 is the fastest, 15 the slowest.
    pub performance_state: u32,
    /// Number of nvmlComputeMode_t.
    pub compute_mode: u32,
    /// Highest clock of multiprocessors and graphics units.
    pub sm_clock_max_mhz: u32,
    /// Highest clock of the memory.
    pub memory_clock_max_mhz: u32,
    /// Use of the encoder and of the decoder.
    pub video_percent: (u32, u32),
    /// MIG slices; None = MIG is off.
    pub mig: Option<Vec<Slice>>,
    /// Xid events so far; new ones are appended.
    pub xids: Vec<u64>,
    /// Whether it fell off the bus. Back on it, it is seen again when the library is opened anew while nobody else has it
    /// open.
    pub lost: bool,
    /// By name of function.
    pub faults: BTreeMap<String, Fault>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            uuid: String::new(),
            name: "Fake GPU".to_owned(),
            pci: (0, 1, 0),
            compute_capability: (8, 6),
            utilization_percent: Curve::Constant(40.0),
            memory_utilization_percent: Curve::Constant(20.0),
            memory_total_bytes: 16 << 30,
            memory_used_bytes: Curve::Constant((1_u64 << 30) as f64),
            temperature_celsius: Curve::Constant(50.0),
            power_watts: Curve::Constant(100.0),
            power_limit_watts: 250.0,
            energy_since: now(),
            sm_clock_mhz: Curve::Constant(1500.0),
            memory_clock_mhz: Curve::Constant(7000.0),
            pcie_kib_per_second: (2000, 1000),
            ecc_errors: None,
            throttle_reasons: 0,
            processes: Vec::new(),
            graphics_processes: Vec::new(),
            fan_percent: Some(Curve::Constant(30.0)),
            performance_state: 2,
            compute_mode: 0,
            sm_clock_max_mhz: 2100,
            memory_clock_max_mhz: 7500,
            video_percent: (0, 0),
            mig: None,
            xids: Vec::new(),
            lost: false,
            faults: BTreeMap::new(),
        }
    }
}

impl Gpu {
    /// The `number`th GPU of a machine, with a UUID and a PCI address of its own.
    pub fn numbered(number: u32) -> Self {
        Self {
            uuid: format!("GPU-00000000-0000-4000-8000-{number:012x}"),
            pci: (0, number + 1, 0),
            ..Self::default()
        }
    }

    /// Energy from `from` to `to` (seconds since 1970) in joules: the integral of power.
    pub fn energy_joules(&self, from: f64, to: f64) -> f64 {
        self.power_watts.integral(from, to)
    }
}

/// The control file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// Version of the driver.
    pub driver_version: String,
    /// How it is.
    pub driver: DriverState,
    /// In NVML's order.
    pub gpus: Vec<Gpu>,
    /// Of all GPUs and of functions without one, by name of function.
    pub faults: BTreeMap<String, Fault>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            driver_version: "550.54.15".to_owned(),
            driver: DriverState::Fine,
            gpus: Vec::new(),
            faults: BTreeMap::new(),
        }
    }
}

impl Control {
    /// A machine with `count` GPUs.
    pub fn with_gpus(count: u32) -> Self {
        Self { gpus: (0..count).map(Gpu::numbered).collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_join_their_points_and_integrate_exactly() {
        let ramp = Curve::Points(vec![(10.0, 0.0), (20.0, 100.0), (30.0, 100.0)]);
        assert_eq!([0.0, 10.0, 15.0, 20.0, 99.0].map(|t| ramp.at(t)), [0.0, 0.0, 50.0, 100.0, 100.0]);
        assert_eq!(ramp.integral(0.0, 10.0), 0.0);
        assert_eq!(ramp.integral(10.0, 20.0), 500.0);
        assert_eq!(ramp.integral(15.0, 25.0), 375.0 + 500.0);
        assert_eq!(ramp.integral(30.0, 40.0), 1000.0);
        assert_eq!(Curve::Constant(3.0).integral(1.0, 3.0), 6.0);
    }
}
