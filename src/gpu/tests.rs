//! The sampler against the fake NVML, in this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fake_nvml::{Control, DriverState, Fault, Installed, Process, Slice};

use super::*;
use crate::domain::HiddenGpus;

const PATIENCE: Duration = Duration::from_secs(60);

/// A fake of its own and the sampler on it.
struct Machine {
    fake: Installed,
    gpus: SampledGpus,
    _sampler: GpuSampler,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn start(control: Control) -> Self {
        Self::start_with(control, &[], |_| {})
    }

    fn start_with(control: Control, without: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Installed::new(folder.path(), control).unwrap().without(without).unwrap();
        let mut config = Config { library: Some(fake.library()), ..Config::default() };
        change(&mut config);
        let sampler = GpuSampler::start(config).unwrap();
        Self { fake, gpus: sampler.probe(), _sampler: sampler, _folder: folder }
    }

    /// The first snapshot that `holds`.
    fn until(&self, what: &str, holds: impl Fn(&GpuSnapshot) -> bool) -> Arc<GpuSnapshot> {
        let limit = Instant::now() + PATIENCE;
        loop {
            let snapshot = self.gpus.snapshot();
            if holds(&snapshot) {
                return snapshot;
            }
            assert!(Instant::now() < limit, "{what}: still not, but {snapshot:#?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn running(&self) -> Arc<GpuSnapshot> {
        self.until("running", |snapshot| snapshot.nvml == NvmlState::Running)
    }

    fn text(&self) -> String {
        let registry = prometheus::Registry::new();
        self.gpus.register(&registry).unwrap();
        prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }
}

#[test]
fn every_reading_is_in_base_units_and_what_is_not_supported_is_absent() {
    let mut control = Control::with_gpus(2);
    control.gpus[0].ecc_errors = Some((7, 1));
    control.gpus[0].throttle_reasons = 0x4 | 0x1;
    (control.gpus[0].compute_mode, control.gpus[0].video_percent) = (3, (10, 5));
    // It has no fan, and a state that is none.
    (control.gpus[1].fan_percent, control.gpus[1].performance_state) = (None, 32);
    control.gpus[1].faults.insert("nvmlDeviceGetPowerUsage".into(), Fault::Error(3));
    control.gpus[1].faults.insert("nvmlDeviceGetTotalEnergyConsumption".into(), Fault::Error(3));
    control.gpus[1].faults.insert("nvmlDeviceGetTemperature".into(), Fault::Error(999));
    let machine = Machine::start(control);
    let snapshot = machine.running();
    let [first, second] = &snapshot.devices[..] else { panic!("{snapshot:#?}") };
    let readings = &first.readings;
    assert_eq!(readings.utilization_ratio, Some(0.4));
    assert_eq!(readings.memory_used_bytes, Some(1 << 30));
    assert_eq!(readings.memory_total_bytes, Some(16 << 30));
    assert_eq!((readings.power_watts, readings.power_limit_watts), (Some(100.0), Some(250.0)));
    assert_eq!((readings.sm_clock_hertz, readings.memory_clock_hertz), (Some(1.5e9), Some(7e9)));
    assert_eq!(
        (readings.graphics_clock_hertz, readings.graphics_clock_max_hertz),
        (Some(1.5e9), Some(2.1e9))
    );
    assert_eq!((readings.sm_clock_max_hertz, readings.memory_clock_max_hertz), (Some(2.1e9), Some(7.5e9)));
    assert_eq!((readings.fan_speed_ratio, second.readings.fan_speed_ratio), (Some(0.3), None));
    assert_eq!((readings.performance_state, second.readings.performance_state), (Some(2), None));
    assert_eq!(readings.compute_mode, Some(ComputeMode::ExclusiveProcess));
    assert_eq!(
        (readings.encoder_utilization_ratio, readings.decoder_utilization_ratio),
        (Some(0.1), Some(0.05))
    );
    assert_eq!((readings.ecc_corrected, readings.ecc_uncorrected), (Some(7), Some(1)));
    assert_eq!(readings.throttle_reasons.as_deref(), Some(&[ThrottleReason::PowerCap][..]));
    assert_eq!(readings.pcie_tx_bytes_per_second, None);
    let info = &first.info;
    assert_eq!(
        (info.index, info.pci_bus_id.as_str(), info.compute_capability.as_str()),
        (0, "00000000:01:00.0", "8.6")
    );
    assert_eq!(info.driver_version, "550.54.15");
    assert_eq!((second.readings.power_watts, second.readings.temperature_celsius), (None, None));
    assert_eq!((snapshot.gpus.len(), snapshot.usage.len()), (2, 2));

    let text = machine.text();
    for line in [
        "worker_nvml_up 1",
        "worker_nvml_state{state=\"running\"} 1",
        "worker_nvml_state{state=\"stalled\"} 0",
        "worker_gpu_power_watts{gpu=\"0\",uuid=\"GPU-00000000-0000-4000-8000-000000000000\"} 100",
        "worker_gpu_compute_mode{gpu=\"0\",mode=\"exclusive_process\",uuid=\"GPU-00000000-0000-4000-8000-000000000000\"} 1",
        "worker_gpu_compute_mode{gpu=\"0\",mode=\"default\",uuid=\"GPU-00000000-0000-4000-8000-000000000000\"} 0",
        "worker_gpu_fan_speed_ratio{gpu=\"0\",uuid=\"GPU-00000000-0000-4000-8000-000000000000\"} 0.3",
        "worker_gpu_throttled{gpu=\"0\",reason=\"power_cap\",uuid=\"GPU-00000000-0000-4000-8000-000000000000\"} 1",
        "worker_gpu_ecc_errors_total{gpu=\"0\",type=\"corrected\",uuid=\"GPU-00000000-0000-4000-8000-000000000000\"} 7",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("worker_gpu_power_watts{gpu=\"1\""), "{text}");
    assert!(!text.contains("worker_gpu_fan_speed_ratio{gpu=\"1\""), "{text}");
    assert!(!text.contains("worker_gpu_adapter_matched{"), "no adapters are known: {text}");
    assert!(text.contains("worker_nvml_errors_total{kind=\"unknown\"}"), "{text}");
    assert!(!text.contains("kind=\"not_supported\""), "{text}");
}

#[test]
fn an_old_driver_tells_memory_by_the_first_version() {
    let without = ["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetEnforcedPowerLimit", "nvmlShutdown"];
    let machine = Machine::start_with(Control::with_gpus(1), &without, |_| {});
    let snapshot = machine.running();
    assert_eq!(snapshot.devices[0].readings.memory_used_bytes, Some(1 << 30));
    assert_eq!(snapshot.devices[0].info.memory_bytes, Some(16 << 30));
    assert_eq!(snapshot.devices[0].readings.power_limit_watts, Some(250.0));
}

#[test]
fn no_library_is_no_gpu_and_a_named_one_that_is_not_there_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libnvidia-ml.so.1");
    let sampler = GpuSampler::start(Config { library: Some(library), ..Config::default() }).unwrap();
    let limit = Instant::now() + PATIENCE;
    while sampler.probe().snapshot().nvml == NvmlState::Starting {
        assert!(Instant::now() < limit);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let snapshot = sampler.probe().snapshot();
    assert_eq!((snapshot.nvml, snapshot.gpus.len()), (NvmlState::Failed, 0));
}

#[test]
fn slices_stand_for_a_partitioned_gpu() {
    let mut control = Control::with_gpus(2);
    let part = |number: u32| Slice {
        uuid: format!("MIG-{number:08x}"),
        memory_mib: 4864,
        memory_used_bytes: u64::from(number) << 20,
    };
    control.gpus[0].mig = Some(vec![part(1), part(2)]);
    let mut machine = Machine::start(control);
    let snapshot = machine.running();
    let names: Vec<_> = snapshot.gpus.iter().map(|gpu| (gpu.uuid.as_str(), gpu.mig)).collect();
    let second = "GPU-00000000-0000-4000-8000-000000000001";
    assert_eq!(names, [("MIG-00000001", true), ("MIG-00000002", true), (second, false)]);
    let slice = snapshot.device("MIG-00000002").unwrap();
    assert_eq!(slice.info.memory_bytes, Some(4864 << 20));
    assert_eq!(slice.readings.memory_used_bytes, Some(2 << 20));
    assert_eq!((slice.readings.power_watts, slice.info.pci_bus_id.as_str()), (None, "00000000:01:00.0"));
    assert!(snapshot.devices[0].partitioned && snapshot.devices[0].readings.power_watts.is_some());
    let usage = snapshot.usage.iter().find(|usage| usage.uuid == "MIG-00000002").unwrap();
    assert_eq!((usage.utilization_ratio, usage.memory_used_bytes), (None, Some(2 << 20)));

    // Vulkan has adapters for whole GPUs alone, so that none is missed.
    machine.gpus.match_adapters(Box::new(|| Some(vec!["0000:02:00.0".parse().unwrap()])));
    machine.until("adapters are known", |snapshot| {
        snapshot.device(second).unwrap().adapter_matched == Some(true)
    });
    let matched = |text: &str| text.matches("\nworker_gpu_adapter_matched{").count();
    assert_eq!(matched(&machine.text()), 1, "{}", machine.text());

    // It is split anew: slices that are there no more are not lost.
    machine.fake.set(|control| control.gpus[0].mig = Some(vec![part(2), part(3)])).unwrap();
    let anew = machine.until("it is split anew", |snapshot| snapshot.device("MIG-00000003").is_some());
    assert!(anew.device("MIG-00000001").is_none() && anew.warnings.is_empty(), "{anew:#?}");
}

#[test]
fn memory_that_is_not_told_is_unknown_until_it_is_told() {
    let mut control = Control::with_gpus(2);
    control.gpus[0].memory_total_bytes = 0;
    let memory = "nvmlDeviceGetMemoryInfo_v2".to_owned();
    control.gpus[1].faults.insert(memory.clone(), Fault::Error(999));
    let mut machine = Machine::start(control);
    let snapshot = machine.running();
    let told: Vec<_> = snapshot.gpus.iter().map(|gpu| gpu.memory_bytes).collect();
    assert_eq!(told, [None, None]);
    assert_eq!(snapshot.usage[0].memory_used_bytes, None);
    assert!(machine.text().contains("worker_nvml_errors_total{kind=\"unknown\"}"), "the failed call counts");
    machine.fake.set(|control| control.gpus[1].faults.clear()).unwrap();
    machine.until("it is told", |snapshot| snapshot.gpus[1].memory_bytes == Some(16 << 30));
    machine
        .fake
        .set(|control| {
            control.gpus[1].faults.insert(memory, Fault::Error(999));
        })
        .unwrap();
    let again =
        machine.until("it fails again", |snapshot| snapshot.devices[1].readings.memory_total_bytes.is_none());
    assert_eq!((again.gpus[0].memory_bytes, again.gpus[1].memory_bytes), (None, Some(16 << 30)));
}

#[test]
fn a_slow_driver_is_waited_for() {
    let mut control = Control::with_gpus(1);
    control.gpus[0].faults.insert("nvmlDeviceGetPowerUsage".into(), Fault::SleepMs(300));
    let machine = Machine::start(control);
    assert_eq!(machine.running().devices[0].readings.power_watts, Some(100.0));
}

#[test]
fn processes_that_compute_through_vulkan_are_seen_too() {
    let mut control = Control::with_gpus(1);
    let own = std::process::id();
    control.gpus[0].processes = vec![Process { pid: own, memory_bytes: 5 << 20 }];
    control.gpus[0].graphics_processes =
        vec![Process { pid: own, memory_bytes: 7 << 20 }, Process { pid: 1, memory_bytes: 1 << 20 }];
    let machine = Machine::start(control);
    let snapshot = machine.running();
    let seen: Vec<_> = snapshot.devices[0].readings.processes.iter().flatten().collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].pid == 1 && seen[0].owner != Owner::Ours, "{seen:?}");
    assert_eq!((seen[1].pid, seen[1].memory_bytes, seen[1].owner), (own, Some(7 << 20), Owner::Ours));
}

#[test]
fn while_nvml_tells_nothing_hidden_gpus_are_not_to_be_used() {
    let mut control = Control::with_gpus(2);
    control.driver = DriverState::VersionMismatch;
    let mut machine = Machine::start_with(control, &[], |config| {
        config.visible.cuda = Some("1".into());
        config.purpose = Purpose::Training;
    });
    let [first, second] = ["0000:01:00.0", "0000:02:00.0"].map(|address| Some(address.parse().unwrap()));
    assert!(machine.gpus.snapshot().hidden.forbids(second), "from the very start");
    let mismatch = machine.until("mismatch", |snapshot| snapshot.nvml == NvmlState::VersionMismatch);
    assert!(mismatch.hidden.forbids(first) && mismatch.hidden.forbids(second));
    assert!(mismatch.warnings.iter().any(|warning| warning.contains("VISIBLE_DEVICES")));
    machine.fake.set(|control| control.driver = DriverState::Fine).unwrap();
    let running = machine.running();
    assert!(running.hidden.forbids(first) && !running.hidden.forbids(second) && running.warnings.is_empty());
}

#[test]
fn a_gpu_that_never_answered_is_not_replaced_by_a_hidden_one() {
    let mut control = Control::with_gpus(2);
    control.gpus[1].lost = true;
    let mut machine = Machine::start_with(control, &[], |config| config.visible.nvidia = Some("1".into()));
    let snapshot = machine.running();
    assert!(snapshot.gpus.is_empty(), "{snapshot:#?}");
    assert!(snapshot.hidden.forbids(Some("0000:01:00.0".parse().unwrap())));
    machine.fake.set(|control| control.gpus[1].lost = false).unwrap();
    let back = machine.until("it answers", |snapshot| snapshot.gpus.len() == 1);
    assert_eq!(back.gpus[0].index, 1);
    machine.fake.set(|control| control.gpus[1].xids.push(31)).unwrap();
    machine.until("its Xids are heard", |snapshot| snapshot.devices[0].xid_errors.contains_key(&31));
}

#[test]
fn a_lost_gpu_stays_listed_and_comes_back() {
    let mut machine = Machine::start(Control::with_gpus(2));
    machine.running();
    // Xids are listened for a moment after the first readings, and of a GPU that is lost by then not before it is back.
    machine.fake.set(|control| control.gpus[0].xids.push(13)).unwrap();
    machine.until("an Xid is heard", |snapshot| snapshot.devices[0].xid_errors.contains_key(&13));
    machine
        .fake
        .set(|control| {
            control.gpus[0].xids.push(79);
            control.gpus[0].lost = true;
        })
        .unwrap();
    let lost = machine.until("one is lost", |snapshot| snapshot.gpus.len() == 1);
    let device = &lost.devices[0];
    assert_eq!((device.health, &device.readings), (GpuHealth::Lost, &GpuReadings::default()));
    assert_eq!((lost.devices[1].health, lost.usage.len()), (GpuHealth::Healthy, 1));
    assert!(lost.warnings.iter().any(|warning| warning.contains("is lost")), "{:?}", lost.warnings);
    let told =
        machine.until("its Xid is counted", |snapshot| snapshot.devices[0].xid_errors.contains_key(&79));
    assert_eq!(told.devices[0].xid_errors[&79], 1);
    let text = machine.text();
    assert!(
        text.contains("worker_gpu_healthy{gpu=\"0\",uuid=\"GPU-00000000-0000-4000-8000-000000000000\"} 0"),
        "{text}"
    );
    assert!(!text.contains("worker_gpu_power_watts{gpu=\"0\""), "{text}");
    machine.fake.set(|control| control.gpus[0].lost = false).unwrap();
    machine.until("both are there", |snapshot| snapshot.gpus.len() == 2 && snapshot.warnings.is_empty());
}

#[test]
fn a_driver_that_goes_and_comes_back_is_found_again() {
    let mut machine = Machine::start(Control::with_gpus(1));
    machine.running();
    for (driver, state) in [
        (DriverState::Gone, NvmlState::DriverGone),
        (DriverState::Fine, NvmlState::Running),
        (DriverState::VersionMismatch, NvmlState::VersionMismatch),
        (DriverState::Fine, NvmlState::Running),
    ] {
        machine.fake.set(|control| control.driver = driver).unwrap();
        let snapshot = machine.until(state.name(), |snapshot| snapshot.nvml == state);
        let up = state == NvmlState::Running;
        assert_eq!((snapshot.gpus.len(), snapshot.usage.len()), (usize::from(up), usize::from(up)));
        assert_eq!(snapshot.devices.len(), 1, "it stays listed");
        assert_eq!(snapshot.warnings.is_empty(), up, "{:?}", snapshot.warnings);
    }
}

#[test]
fn a_call_that_hangs_withdraws_all_readings_until_it_comes_back() {
    let mut machine = Machine::start(Control::with_gpus(2));
    machine.running();
    machine
        .fake
        .set(|control| {
            control.gpus[1].faults.insert("nvmlDeviceGetPowerUsage".into(), Fault::Hang);
        })
        .unwrap();
    let stalled = machine.until("stalled", |snapshot| snapshot.nvml == NvmlState::Stalled);
    assert!(stalled.devices.iter().all(|device| device.readings == GpuReadings::default()));
    // Nothing is known of them: that NVML stalls is told once, and no GPU is called lost.
    assert!(!machine.text().contains("worker_gpu_healthy{"), "{}", machine.text());
    assert!(
        stalled.gpus.is_empty() && stalled.devices.iter().all(|device| device.health == GpuHealth::Unknown)
    );
    machine.fake.set(|control| control.gpus[1].faults.clear()).unwrap();
    let back = machine.running();
    assert_eq!(back.gpus.len(), 2);
}

#[test]
fn only_visible_gpus_are_seen_and_adapters_are_matched_by_address() {
    let machine = Machine::start_with(Control::with_gpus(3), &[], |config| {
        config.visible.cuda = Some("1,2".into());
        config.pcie = PcieThroughput::Measured;
        config.purpose = Purpose::Training;
    });
    machine.gpus.match_adapters(Box::new(|| Some(vec!["0000:02:00.0".parse().unwrap()])));
    let snapshot = machine.until("adapters are known", |snapshot| {
        snapshot.devices.iter().any(|device| device.adapter_matched.is_some())
    });
    let seen: Vec<_> =
        snapshot.devices.iter().map(|device| (device.info.index, device.adapter_matched)).collect();
    assert_eq!(seen, [(1, Some(true)), (2, Some(false))]);
    assert_eq!(snapshot.devices[0].readings.pcie_tx_bytes_per_second, Some(2000.0 * 1024.0));
    assert_eq!(snapshot.hidden, HiddenGpus::At(vec!["0000:01:00.0".parse().unwrap()]));
    let [warning] = &snapshot.warnings[..] else { panic!("{:?}", snapshot.warnings) };
    assert!(warning.contains("GPU 2") && warning.contains("NVIDIA_DRIVER_CAPABILITIES"), "{warning}");
}

#[tokio::test]
async fn the_energy_of_a_task_is_the_integral_of_power() {
    let mut control = Control::with_gpus(1);
    let start = fake_nvml::now();
    control.gpus[0].energy_since = start;
    // Up and down again, steeply.
    control.gpus[0].power_watts = fake_nvml::Curve::Points(
        (0..200).map(|i| (start + f64::from(i) * 0.7, if i % 2 == 0 { 50.0 } else { 300.0 })).collect(),
    );
    control.gpus[0].graphics_processes = vec![Process { pid: std::process::id(), memory_bytes: 1 }];
    let machine = Machine::start(control);
    machine.running();
    let uuid = machine.fake.control().gpus[0].uuid.clone();
    let meter = machine.gpus.meter(&uuid).unwrap();
    let began = fake_nvml::now();
    tokio::time::sleep(Duration::from_millis(3700)).await;
    let ended = fake_nvml::now();
    let share = meter.end();
    // It ended before anybody had time to wait for its account.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let share = share.await;
    let exact = machine.fake.control().gpus[0].energy_joules(began, ended);
    let measured = share.energy_joules.unwrap();
    assert!((measured / exact - 1.0).abs() < 0.02, "{measured} J instead of {exact} J");
    assert_eq!(share.attribution, Attribution::Exclusive);
    assert_eq!(share.memory_peak_bytes, Some(1 << 30));
}
