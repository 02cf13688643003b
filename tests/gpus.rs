//! GPUs from registration to /metrics: real workers that load a fake NVML and tell a real orchestrator of it.

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake_nvml::{Control, DriverState, Fault, Installed, Slice};
use support::listener::{Heard, listen};
use support::*;
use tensorfleet_worker::wire::pb;
use tokio::task::JoinHandle;

/// How long a scrape may take at most, on a busy machine: half of what a sample may take before the driver counts as hung.
const SLOWEST_SCRAPE: Duration = Duration::from_secs(1);

/// A worker, its fake, and who it reports to.
struct Node {
    worker: WorkerProcess,
    fake: Installed,
    heard: Arc<Heard>,
    server: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Node {
    async fn start(control: Control) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Installed::new(folder.path(), control).unwrap();
        let (orchestrator, heard, server) = listen().await;
        let library = fake.library();
        let settings = [("TRAINING_BACKEND", "cpu"), ("NVML_LIBRARY", library.to_str().unwrap())];
        let worker = WorkerProcess::start(orchestrator, &settings);
        Self { worker, fake, heard, server, _folder: folder }
    }

    fn metrics(&self) -> String {
        let (status, text) = self.worker.get("/metrics");
        assert_eq!(status, 200);
        text
    }

    /// The value of the one series whose line begins with `series`; None where there is none.
    fn metric(&self, series: &str) -> Option<f64> {
        value(&self.metrics(), series)
    }

    fn registered(&self, gpus: usize) {
        eventually(&format!("a registration with {gpus} GPUs"), || {
            self.heard.capabilities().is_some_and(|told| told.gpus.len() == gpus)
        });
        let told = self.heard.capabilities().unwrap();
        assert_eq!(usize::try_from(told.gpu_count).unwrap(), gpus);
    }

    fn state(&self, name: &str) {
        let series = format!("worker_nvml_state{{state=\"{name}\"}}");
        eventually(&format!("NVML is {name}"), || self.metric(&series) == Some(1.0));
    }
}

fn value(text: &str, series: &str) -> Option<f64> {
    let mut lines = text.lines().filter(|line| line.starts_with(series));
    let line = lines.next()?;
    assert!(lines.next().is_none(), "{series} is not one series");
    line.rsplit(' ').next().unwrap().parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_gpu_is_registered_beats_and_shows() {
    for gpus in [0_u32, 1, 2, 8] {
        let node = Node::start(Control::with_gpus(gpus)).await;
        let count = gpus as usize;
        node.registered(count);
        node.state("running");
        let told = node.heard.capabilities().unwrap();
        for (gpu, fake) in told.gpus.iter().zip(&node.fake.control().gpus) {
            assert_eq!((&gpu.uuid, &gpu.name), (&fake.uuid, &fake.name));
            assert_eq!((gpu.memory_bytes, gpu.mig), (16 << 30, false));
            assert_eq!((gpu.compute_capability.as_str(), gpu.driver_version.as_str()), ("8.6", "550.54.15"));
        }
        eventually("a heartbeat with the use of all GPUs", || {
            node.heard.heartbeat().is_some_and(|beat| beat.gpus.len() == count)
        });
        let beat = node.heard.heartbeat().unwrap();
        let told =
            |gpu: &pb::GpuUsage| (gpu.utilization_ratio, gpu.memory_used_bytes) == (Some(0.4), Some(1 << 30));
        assert!(beat.gpus.iter().all(told), "{beat:?}");
        let text = node.metrics();
        assert_eq!(value(&text, "worker_gpus "), Some(f64::from(gpus)));
        assert_eq!(text.lines().filter(|line| line.starts_with("worker_gpu_power_watts{")).count(), count);
        assert_eq!(node.worker.get_json("/health")["gpus"], gpus);
        assert_eq!(node.worker.get_json("/health")["reasons"], serde_json::json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_library_there_are_no_gpus_and_one_line_says_so() {
    let (orchestrator, heard, server) = listen().await;
    let worker = WorkerProcess::start(orchestrator, &[("TRAINING_BACKEND", "cpu")]);
    eventually("a registration", || heard.capabilities().is_some());
    assert_eq!(heard.capabilities().unwrap().gpu_count, 0);
    let (_, text) = worker.get("/metrics");
    assert_eq!(value(&text, "worker_gpus "), Some(0.0));
    assert_eq!(value(&text, "worker_nvml_up "), Some(0.0));
    assert_eq!(value(&text, "worker_nvml_state{state=\"absent\"}"), Some(1.0));
    assert!(!text.contains("worker_gpu_"), "{text}");
    let log = worker.log();
    let said: Vec<_> = log.iter().filter(|line| line.to_string().to_lowercase().contains("nvml")).collect();
    assert!(said.len() == 1 && said[0]["level"] == "INFO", "{said:#?}");
    // The registration was heard before its answer was.
    eventually("the worker is ready", || worker.get("/readyz").0 == 200);
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_of_a_partitioned_gpu_are_registered_in_its_place() {
    let mut control = Control::with_gpus(1);
    let slice = |number: u32| Slice {
        uuid: format!("MIG-0000000{number}-0000"),
        memory_mib: 4864,
        memory_used_bytes: 1 << 20,
    };
    control.gpus[0].mig = Some((0..3).map(slice).collect());
    let node = Node::start(control).await;
    node.registered(3);
    let told = node.heard.capabilities().unwrap();
    assert!(
        told.gpus.iter().all(|gpu| gpu.mig && gpu.uuid.starts_with("MIG-") && gpu.memory_bytes == 4864 << 20)
    );
    let text = node.metrics();
    assert_eq!(value(&text, "worker_gpus "), Some(3.0));
    let used = "worker_gpu_memory_used_bytes{gpu=\"0\",uuid=\"MIG-00000002-0000\"}";
    assert_eq!(value(&text, used), Some(f64::from(1 << 20)));
    let energy: Vec<_> =
        text.lines().filter(|line| line.starts_with("worker_gpu_energy_joules_total{")).collect();
    assert_eq!(energy.len(), 1, "slices have no counter of their own: {energy:?}");
    eventually("a heartbeat with the memory of all slices", || {
        node.heard.heartbeat().is_some_and(|beat| beat.gpus.len() == 3)
    });
    let beat = node.heard.heartbeat().unwrap();
    let told = |gpu: &pb::GpuUsage| (gpu.utilization_ratio, gpu.memory_used_bytes) == (None, Some(1 << 20));
    assert!(beat.gpus.iter().all(told), "{beat:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_away_for_a_while_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Installed::new(folder.path(), Control::with_gpus(1)).unwrap();
    let (orchestrator, heard, server) = listen().await;
    // As on most machines: not named, but where the dynamic linker finds it.
    let settings = [("TRAINING_BACKEND", "cpu"), ("LD_LIBRARY_PATH", folder.path().to_str().unwrap())];
    let worker = WorkerProcess::start(orchestrator, &settings);
    let mut node = Node { worker, fake, heard, server, _folder: folder };
    node.state("running");
    let away = node.fake.library().with_extension("away");
    std::fs::rename(node.fake.library(), &away).unwrap();
    node.fake.set(|control| control.driver = DriverState::Gone).unwrap();
    node.state("driver_gone");
    let series = "worker_nvml_errors_total{kind=\"library_not_found\"}";
    eventually("it was looked for", || node.metric(series).is_some());
    node.fake.set(|control| control.driver = DriverState::Fine).unwrap();
    std::fs::rename(away, node.fake.library()).unwrap();
    node.state("running");
    node.registered(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lost_of_two_is_told_and_the_other_goes_on() {
    let mut node = Node::start(Control::with_gpus(2)).await;
    node.registered(2);
    node.fake
        .set(|control| {
            control.gpus[1].xids.push(79);
            control.gpus[1].lost = true;
        })
        .unwrap();
    node.registered(1);
    let lost = "gpu=\"1\",uuid=\"GPU-00000000-0000-4000-8000-000000000001\"";
    let text = node.metrics();
    assert_eq!(value(&text, &format!("worker_gpu_healthy{{{lost}}}")), Some(0.0));
    assert_eq!(value(&text, "worker_gpu_healthy{gpu=\"0\""), Some(1.0));
    assert_eq!(value(&text, &format!("worker_gpu_temperature_celsius{{{lost}}}")), None);
    assert!(value(&text, "worker_gpu_temperature_celsius{gpu=\"0\"").is_some());
    assert!(value(&text, "worker_gpu_info{driver=\"550.54.15\",gpu=\"1\"").is_some(), "it stays listed");
    let series = format!("worker_gpu_xid_errors_total{{{lost},xid=\"79\"}}");
    eventually("its Xid error is counted", || node.metric(&series) == Some(1.0));
    let health = node.worker.get_json("/health");
    assert!(health["reasons"].to_string().contains("GPU 1") && health["gpus"] == 1, "{health}");
    eventually("heartbeats are without it", || {
        node.heard.heartbeat().is_some_and(|beat| beat.gpus.len() == 1)
    });
    assert_eq!(node.worker.get("/readyz").0, 200);
    node.fake.set(|control| control.gpus[1].lost = false).unwrap();
    node.registered(2);
    eventually("nothing is wrong any more", || {
        node.worker.get_json("/health")["reasons"] == serde_json::json!([])
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_gone_or_of_another_version_is_named_and_found_again() {
    let mut node = Node::start(Control::with_gpus(1)).await;
    node.registered(1);
    for (driver, name, remedy) in [
        (DriverState::Gone, "driver_gone", "modprobe"),
        (DriverState::VersionMismatch, "version_mismatch", "restart the machine"),
    ] {
        node.fake.set(|control| control.driver = driver).unwrap();
        node.state(name);
        node.registered(0);
        let text = node.metrics();
        assert_eq!(value(&text, "worker_nvml_up "), Some(0.0));
        assert!(!text.contains("worker_gpu_power_watts{"), "{text}");
        let health = node.worker.get_json("/health");
        assert!(health["reasons"].to_string().contains(remedy), "{health}");
        node.fake.set(|control| control.driver = DriverState::Fine).unwrap();
        node.state("running");
        node.registered(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_driver_hangs_scrapes_answer_as_usual_and_say_so() {
    let mut node = Node::start(Control::with_gpus(2)).await;
    node.registered(2);
    let scrape = |node: &Node| {
        let began = Instant::now();
        let text = node.metrics();
        (began.elapsed(), text)
    };
    let (usual, _) = scrape(&node);
    let hang = |control: &mut Control| {
        control.gpus[0].faults.insert("nvmlDeviceGetTotalEnergyConsumption".into(), Fault::Hang);
    };
    node.fake.set(hang).unwrap();
    // Scraped without a pause from before the call hangs until that is known, and then some more.
    let mut slowest = Duration::ZERO;
    let limit = Instant::now() + PATIENCE;
    let mut since_stalled = 0;
    while since_stalled < 30 {
        assert!(Instant::now() < limit, "NVML is not stalled yet");
        let (took, text) = scrape(&node);
        slowest = slowest.max(took);
        let stalled = value(&text, "worker_nvml_state{state=\"stalled\"}") == Some(1.0);
        since_stalled += usize::from(stalled);
    }
    println!("a scrape takes {usual:?}, the slowest while the call hangs {slowest:?}");
    assert!(slowest < SLOWEST_SCRAPE, "{slowest:?}");
    let text = node.metrics();
    assert!(!text.contains("worker_gpu_power_watts{") && !text.contains("worker_gpu_healthy{"), "{text}");
    assert_eq!(value(&text, "worker_nvml_errors_total{kind=\"stalled\"}"), Some(1.0));
    let beats = node.heard.heartbeats.lock().unwrap().len();
    eventually("heartbeats go on", || node.heard.heartbeats.lock().unwrap().len() > beats + 1);
    let health = node.worker.get_json("/health");
    assert!(health["reasons"].to_string().contains("does not answer"), "{health}");
    node.fake.set(|control| control.gpus[0].faults.clear()).unwrap();
    node.state("running");
    node.registered(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_and_the_base_units_find_nothing_in_the_metrics() {
    let mut control = Control::with_gpus(2);
    control.gpus[0].ecc_errors = Some((1, 0));
    control.gpus[0].xids = vec![13, 31];
    control.gpus[0].throttle_reasons = 4;
    let node = Node::start(control).await;
    node.registered(2);
    eventually("an Xid error is there", || node.metrics().contains("xid=\"31\""));
    let text = node.metrics();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: scripts/test installs it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    // Each name ends with its unit, or is a plain count, flag or description.
    let units = [
        "_ratio",
        "_bytes",
        "_celsius",
        "_watts",
        "_joules_total",
        "_hertz",
        "_bytes_per_second",
        "_mode",
        "_seconds",
        "_seconds_total",
        "_errors_total",
        "_info",
        "_healthy",
        "_matched",
        "_throttled",
        "_gpus",
        "_up",
        "_state",
    ];
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let of_gpus: Vec<_> =
        names.filter(|name| name.starts_with("worker_gpu") || name.starts_with("worker_nvml")).collect();
    assert!(of_gpus.len() >= 20, "{of_gpus:?}");
    for name in of_gpus {
        assert!(units.iter().any(|unit| name.ends_with(unit)), "{name} has no base unit");
    }
}
