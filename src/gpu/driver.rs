//! What NVML is asked for in one sample. Runs on the thread that owns the library; may take long, or for ever.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::failure::{Scope, kind, scope};
use super::snapshot::{ComputeMode, GpuReadings, ThrottleReason};
use super::{NvmlState, PcieThroughput, processes, raw};
use crate::domain::GpuInfo;

/// Why there is no sample: what NVML is then, and what it said.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) state: NvmlState,
    pub(super) kind: &'static str,
    pub(super) said: String,
}

impl Failure {
    pub(super) fn new(state: NvmlState, error: &NvmlError) -> Self {
        Self { state, kind: kind(error), said: error.to_string() }
    }
}

/// One GPU or slice in a sample.
#[derive(Debug)]
pub(super) struct Sampled {
    pub(super) info: GpuInfo,
    pub(super) parent: Option<String>,
    pub(super) partitioned: bool,
    pub(super) readings: GpuReadings,
    /// When its energy was read.
    pub(super) at: Instant,
}

/// All that answered.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) devices: Vec<Sampled>,
    /// GPUs that NVML counts, those that did not answer included.
    pub(super) count: u32,
    /// Kinds of errors, one for each call that failed.
    pub(super) errors: Vec<&'static str>,
    pub(super) took: Duration,
}

/// The library, and what never changes about its GPUs.
pub(super) struct Driver {
    pub(super) nvml: std::sync::Arc<Nvml>,
    known: HashMap<String, GpuInfo>,
    pcie: PcieThroughput,
    driver_version: String,
}

/// The readings of one sample that failed.
#[derive(Default)]
pub(super) struct Errors(Vec<&'static str>);

impl Errors {
    /// A reading, or None where it is not supported or failed; an error where more than a reading is concerned.
    pub(super) fn reading<T>(&mut self, answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(error) => match scope(&error) {
                Scope::Unsupported => Ok(None),
                Scope::Reading => {
                    self.0.push(kind(&error));
                    Ok(None)
                }
                Scope::Gpu | Scope::Driver(_) => Err(error),
            },
        }
    }
}

impl Driver {
    /// Loads the library and connects it to the driver.
    pub(super) fn open(library: Option<&Path>, pcie: PcieThroughput) -> Result<Self, NvmlError> {
        let mut builder = Nvml::builder();
        if let Some(path) = library {
            builder.lib_path(path.as_os_str());
        }
        let nvml = builder.init()?;
        let driver_version = nvml.sys_driver_version().unwrap_or_default();
        let cuda =
            raw::cuda_version(&nvml).map(|version| format!("{}.{}", version / 1000, version % 1000 / 10));
        tracing::debug!(
            driver_version,
            cuda_version = cuda.unwrap_or_default(),
            gpus = nvml.device_count().unwrap_or_default(),
            "NVML is connected to the driver"
        );
        Ok(Self { nvml: std::sync::Arc::new(nvml), known: HashMap::new(), pcie, driver_version })
    }

    /// Asks every GPU.
    pub(super) fn sample(&mut self) -> Result<Sample, Failure> {
        let began = Instant::now();
        let nvml = std::sync::Arc::clone(&self.nvml);
        let failed = |error: NvmlError| match scope(&error) {
            Scope::Driver(state) => Failure::new(state, &error),
            _ => Failure::new(NvmlState::Failed, &error),
        };
        let count = nvml.device_count().map_err(failed)?;
        let mut devices = Vec::new();
        let mut errors = Errors::default();
        for index in 0..count {
            let asked = nvml.device_by_index(index).and_then(|device| self.ask(&device, index, &mut errors));
            match asked {
                Ok(answers) => devices.extend(answers),
                Err(error) => match scope(&error) {
                    Scope::Driver(_) => return Err(failed(error)),
                    // What was known of it and did not answer is lost.
                    _ => errors.0.push(kind(&error)),
                },
            }
        }
        Ok(Sample { devices, count, errors: errors.0, took: began.elapsed() })
    }

    /// A GPU and its slices.
    fn ask(
        &mut self,
        device: &Device<'_>,
        index: u32,
        errors: &mut Errors,
    ) -> Result<Vec<Sampled>, NvmlError> {
        let info = self.info(device, None, errors)?;
        let mig = errors.reading(device.mig_mode())?.is_some_and(|mode| mode.current == 1);
        let (readings, at) = self.readings(device, errors)?;
        let info = GpuInfo { index, ..self.sized(info, readings.memory_total_bytes) };
        let parent = info.clone();
        let mut answers = vec![Sampled { info, parent: None, partitioned: mig, readings, at }];
        if !mig {
            return Ok(answers);
        }
        for slot in 0..errors.reading(device.mig_device_count())?.unwrap_or_default() {
            // NotFound: fewer slices than there is room for.
            let Some(slice) = errors.reading(device.mig_device_by_index(slot))? else { continue };
            let info = self.info(&slice, Some(&parent), errors)?;
            let mut readings = GpuReadings::default();
            (readings.memory_total_bytes, readings.memory_used_bytes) = memory(&slice, errors)?;
            let info = GpuInfo { index, ..self.sized(info, readings.memory_total_bytes) };
            let parent = Some(parent.uuid.clone());
            answers.push(Sampled { info, parent, partitioned: false, readings, at: Instant::now() });
        }
        Ok(answers)
    }

    /// What never changes about `device`; asked until all of it was answered. Its index is that of now.
    fn info(
        &mut self,
        device: &Device<'_>,
        slice_of: Option<&GpuInfo>,
        errors: &mut Errors,
    ) -> Result<GpuInfo, NvmlError> {
        let uuid = device.uuid()?;
        if let Some(known) = self.known.get(&uuid) {
            return Ok(known.clone());
        }
        let before = errors.0.len();
        let pci_bus_id = match slice_of {
            Some(gpu) => gpu.pci_bus_id.clone(),
            None => {
                errors.reading(device.pci_info())?.map(|pci| pci.bus_id.to_lowercase()).unwrap_or_default()
            }
        };
        let capability = match slice_of {
            Some(gpu) => gpu.compute_capability.clone(),
            None => errors
                .reading(device.cuda_compute_capability())?
                .map(|version| format!("{}.{}", version.major, version.minor))
                .unwrap_or_default(),
        };
        let info = GpuInfo {
            index: 0,
            uuid: uuid.clone(),
            name: errors.reading(device.name())?.unwrap_or_default(),
            memory_bytes: None,
            pci_bus_id,
            compute_capability: capability,
            driver_version: self.driver_version.clone(),
            mig: slice_of.is_some(),
        };
        if errors.0.len() == before {
            self.known.insert(uuid, info.clone());
        }
        Ok(info)
    }

    /// `info` with its memory, which stays known while a call for it fails.
    fn sized(&mut self, info: GpuInfo, memory_bytes: Option<u64>) -> GpuInfo {
        let info = GpuInfo { memory_bytes: memory_bytes.or(info.memory_bytes), ..info };
        if let Some(known) = self.known.get_mut(&info.uuid) {
            known.memory_bytes = info.memory_bytes;
        }
        info
    }

    fn readings(
        &self,
        device: &Device<'_>,
        errors: &mut Errors,
    ) -> Result<(GpuReadings, Instant), NvmlError> {
        let utilization = errors.reading(device.utilization_rates())?;
        let (memory_total_bytes, memory_used_bytes) = memory(device, errors)?;
        let milli = |value: u32| f64::from(value) / 1e3;
        let mega = |value: u32| f64::from(value) * 1e6;
        let power_watts = errors.reading(device.power_usage())?.map(milli);
        let before = Instant::now();
        let energy = errors.reading(device.total_energy_consumption())?;
        // The counter was read somewhere in between.
        let at = before + before.elapsed() / 2;
        let limit = match errors.reading(device.enforced_power_limit())? {
            Some(limit) => Some(limit),
            None => errors.reading(device.power_management_limit())?,
        };
        let pcie = |counter| match self.pcie {
            PcieThroughput::Skipped => Err(NvmlError::NotSupported),
            PcieThroughput::Measured => device.pcie_throughput(counter),
        };
        let kibi = |value: u32| f64::from(value) * 1024.0;
        let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile);
        let percent = |value: u32| f64::from(value) / 100.0;
        let mut clock = |answer| errors.reading(answer).map(|clock| clock.map(mega));
        let [sm_clock_hertz, memory_clock_hertz, graphics_clock_hertz] = [
            clock(device.clock_info(Clock::SM))?,
            clock(device.clock_info(Clock::Memory))?,
            clock(device.clock_info(Clock::Graphics))?,
        ];
        let [sm_clock_max_hertz, memory_clock_max_hertz, graphics_clock_max_hertz] = [
            clock(device.max_clock_info(Clock::SM))?,
            clock(device.max_clock_info(Clock::Memory))?,
            clock(device.max_clock_info(Clock::Graphics))?,
        ];
        let readings = GpuReadings {
            utilization_ratio: utilization.as_ref().map(|utilization| percent(utilization.gpu)),
            memory_utilization_ratio: utilization.map(|utilization| percent(utilization.memory)),
            memory_used_bytes,
            memory_total_bytes,
            temperature_celsius: errors.reading(device.temperature(TemperatureSensor::Gpu))?.map(f64::from),
            power_watts,
            power_limit_watts: limit.map(milli),
            energy_joules: energy.map(|millijoules| millijoules as f64 / 1e3),
            sm_clock_hertz,
            memory_clock_hertz,
            graphics_clock_hertz,
            sm_clock_max_hertz,
            memory_clock_max_hertz,
            graphics_clock_max_hertz,
            fan_speed_ratio: fans(device, errors)?.map(percent),
            performance_state: errors
                .reading(device.performance_state())?
                .map(|state| state.as_c())
                .filter(|state| *state < 16),
            compute_mode: errors.reading(device.compute_mode())?.map(ComputeMode::from),
            encoder_utilization_ratio: errors
                .reading(device.encoder_utilization())?
                .map(|used| percent(used.utilization)),
            decoder_utilization_ratio: errors
                .reading(device.decoder_utilization())?
                .map(|used| percent(used.utilization)),
            pcie_tx_bytes_per_second: errors.reading(pcie(PcieUtilCounter::Send))?.map(kibi),
            pcie_rx_bytes_per_second: errors.reading(pcie(PcieUtilCounter::Receive))?.map(kibi),
            ecc_corrected: errors.reading(ecc(MemoryError::Corrected))?,
            ecc_uncorrected: errors.reading(ecc(MemoryError::Uncorrected))?,
            throttle_reasons: errors.reading(device.current_throttle_reasons())?.map(reasons),
            processes: processes::of(device, errors)?,
        };
        Ok((readings, at))
    }
}

/// Speed of the fastest fan in percent of its highest; None where there is none.
fn fans(device: &Device<'_>, errors: &mut Errors) -> Result<Option<u32>, NvmlError> {
    let mut fastest = None;
    for fan in 0..errors.reading(device.num_fans())?.unwrap_or_default() {
        fastest = fastest.max(errors.reading(device.fan_speed(fan))?);
    }
    Ok(fastest)
}

/// Total and used video memory in bytes. Neither is told where a GPU has no memory of its own.
fn memory(device: &Device<'_>, errors: &mut Errors) -> Result<(Option<u64>, Option<u64>), NvmlError> {
    let second = match device.memory_info() {
        Ok(info) => return Ok((Some(info.total), Some(info.used))),
        Err(error) => error,
    };
    // Old drivers have the first version only, or do not know the structure of the second.
    let old = matches!(second, NvmlError::UnexpectedVariant(25) | NvmlError::InvalidArg)
        || scope(&second) == Scope::Unsupported;
    let answer = if old { raw::memory(device) } else { Err(second) };
    let known = errors.reading(answer)?;
    Ok((known.map(|(total, _)| total), known.map(|(_, used)| used)))
}

fn reasons(bits: ThrottleReasons) -> Vec<ThrottleReason> {
    [
        (ThrottleReasons::SW_POWER_CAP, ThrottleReason::PowerCap),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, ThrottleReason::Thermal),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, ThrottleReason::HardwareThermal),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, ThrottleReason::HardwarePowerBrake),
        (ThrottleReasons::HW_SLOWDOWN, ThrottleReason::HardwareSlowdown),
        (ThrottleReasons::SYNC_BOOST, ThrottleReason::SyncBoost),
    ]
    .into_iter()
    .filter(|(bit, _)| bits.contains(*bit))
    .map(|(_, reason)| reason)
    .collect()
}
