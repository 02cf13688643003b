//! Tasks on GPUs: a real worker trains through wgpu on software drivers that pass themselves off as graphics cards, and
//! measures them through a fake NVML.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use fake_nvml::{Control, Curve, Process};
use rustix::process::{Signal, kill_process};
use support::listener::listen;
use support::node::{Machine, Node};
use support::*;
use tensorfleet_worker::domain::{
    Backend, BackendChoice, DevicePolicy, HiddenGpus, Hyperparameters, JobId, ModelType, Progress, TaskId,
    TaskIdentity, TaskSpec,
};
use tensorfleet_worker::engine::{
    self, AnalyticProfile, Control as TaskControl, Done, Engine as _, ExitCause, GpuCondition, GpuState,
    GpuWatch, Observer, ProcessEngine, RunnerConfig, SessionLimits, Step, UnsupportedModels, Watcher,
};

#[tokio::test(flavor = "multi_thread")]
async fn two_gpus_share_the_jobs_and_each_task_knows_its_energy() {
    let mut control = Control::with_gpus(2);
    control.gpus[0].power_watts = Curve::Constant(100.0);
    control.gpus[1].power_watts = Curve::Constant(250.0);
    control.gpus[1].throttle_reasons = 4;
    let settings =
        [("TRAINING_BACKEND", "wgpu"), ("MAX_CONCURRENT_TASKS", "2"), ("DEVICE_POLICY", "require")];
    let mut node = Node::start(control, 2, &settings).await;
    eventually("both cards are matched", || {
        node.metrics()
            .lines()
            .filter(|line| line.starts_with("worker_gpu_adapter_matched{") && line.ends_with(" 1"))
            .count()
            == 2
    });
    assert_eq!(node.worker.get_json("/health")["reasons"], serde_json::json!([]));
    assert_eq!(node.worker.get_json("/health")["backend"], "wgpu");
    // Two jobs for each GPU: a runner that saw both GPUs would give its second job the other one, which does not measure it.
    for pair in [["a", "b"], ["c", "d"]] {
        for number in 0..2 {
            for job in pair {
                node.give(job, number);
            }
            for job in pair {
                node.report(&format!("{job}-{number}"));
            }
        }
    }
    let reports = ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1", "d-0", "d-1"].map(|task| node.report(task));
    for report in &reports {
        assert!(report.success, "{report:?}");
        assert_eq!(report.backend, "wgpu");
        let watts = if report.device == "Fake card 0" { 100.0 } else { 250.0 };
        let exact = watts * report.duration_seconds;
        println!(
            "{}: {} J, exact {exact} J in {} s",
            report.device, report.energy_joules, report.duration_seconds
        );
        assert!(
            (report.energy_joules / exact - 1.0).abs() < 0.02,
            "{} J instead of {exact} J",
            report.energy_joules
        );
        let slowed = report.error_message.contains("clocks of the GPU were held down");
        assert_eq!(slowed, report.device == "Fake card 1", "{}", report.error_message);
    }
    assert_eq!(reports[0].device, reports[1].device, "a session keeps its GPU");
    assert_eq!(reports[2].device, reports[3].device);
    assert_eq!(reports[4].device, reports[5].device);
    assert_eq!(reports[6].device, reports[7].device);
    assert_ne!(reports[0].device, reports[2].device, "both GPUs work");
    assert_ne!(reports[4].device, reports[6].device, "the GPU with fewer jobs takes the next one");
    let text = node.metrics();
    let energy =
        "worker_task_gpu_energy_joules_total{attribution=\"exclusive\",model_type=\"neural_network\"} ";
    let counted: f64 = text.lines().find_map(|line| line.strip_prefix(energy)).unwrap().parse().unwrap();
    let told: f64 = reports.iter().map(|report| report.energy_joules).sum();
    assert!((counted / told - 1.0).abs() < 1e-6, "{counted} is not {told}");
    let peaks = text.lines().filter(|line| line.starts_with("worker_task_gpu_memory_peak_bytes{"));
    assert_eq!(peaks.count(), 8);

    // Drivers live where they are needed: neither search nor training loads one into the worker.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", node.worker.child.id())).unwrap();
    assert!(!maps.contains("vulkan") && !maps.contains("libLLVM"), "{maps}");

    // One of the two is lost: its job goes on, on the other.
    let lost = usize::from(reports[0].device == "Fake card 1");
    node.machine.fake.set(|control| control.gpus[lost].lost = true).unwrap();
    eventually("the loss is known", || node.worker.get_json("/health")["gpus"] == 1);
    node.give("a", 2);
    let report = node.report("a-2");
    assert!(report.success, "{report:?}");
    assert_eq!(report.device, reports[2].device);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_only_gpu_is_lost_takes_no_tasks_until_it_is_back() {
    for policy in ["require", "prefer"] {
        lose_the_only_gpu(policy).await;
    }
}

async fn lose_the_only_gpu(policy: &str) {
    let settings = [("MAX_CONCURRENT_TASKS", "1"), ("DEVICE_POLICY", policy)];
    let mut node = Node::start(Control::with_gpus(1), 1, &settings).await;
    node.give("a", 0);
    assert_eq!(node.report("a-0").backend, "wgpu");
    eventually("the worker is ready", || node.worker.get("/readyz").0 == 200);
    node.machine.fake.set(|control| control.gpus[0].lost = true).unwrap();
    eventually("the worker is not ready", || node.worker.get("/readyz").0 == 503);
    let (_, why) = node.worker.get("/readyz");
    assert!(why.contains("no GPU can be used: Fake card 0 (GPU-") && why.contains("is lost"), "{why}");
    let health = node.worker.get_json("/health");
    assert_eq!((&health["status"], &health["gpus"]), (&"DEGRADED".into(), &0.into()), "{health}");
    assert!(health["reasons"].to_string().contains("no GPU can be used"), "{health}");
    // Tasks wait for it: nothing is simulated or trained elsewhere meanwhile, and none of the pages says so.
    assert_eq!(health["backend"], "wgpu", "{health}");
    assert_eq!(node.worker.get_json("/api/v1/status")["simulated"], false);
    // A poll that was out may still bring a task; after that none is asked for.
    eventually("no poll is out", || {
        node.metrics().lines().any(|line| line == "worker_slots{state=\"polling\"} 0")
    });
    node.give("a", 1);
    node.machine.fake.set(|control| control.gpus[0].lost = false).unwrap();
    let report = node.report("a-1");
    assert!(report.success && report.backend == "wgpu", "{report:?}");
    eventually("the worker is ready again", || node.worker.get("/readyz").0 == 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_a_runner_loses_costs_one_attempt_and_the_orchestrator_hears_of_it() {
    let settings = [("TRAINING_BACKEND", "wgpu"), ("MAX_TASK_RETRIES", "0"), ("FAILPOINT", "gpu-lost:2")];
    let node = Node::start(Control::with_gpus(1), 1, &settings).await;
    node.give("a", 0);
    assert!(node.report("a-0").success);
    node.give("a", 1);
    let report = node.report("a-1");
    assert_eq!((report.success, report.error_code.as_str()), (false, "DEVICE_LOST"), "{report:?}");
    assert!(report.error_message.contains("Parent device is lost"), "{report:?}");
    eventually("the end of the runner is counted", || {
        node.worker.shows("worker_runner_exits_total{cause=\"gpu_lost\"} 1")
    });
}

#[test]
fn a_gpu_that_a_runner_loses_costs_one_attempt_and_each_task_is_counted_once() {
    at_once(BOTH.map(|contract| async move {
        let machine = Machine::new(Control::with_gpus(1), 1);
        let orchestrator = orchestrator(contract).await;
        let (address, board) = (orchestrator.local_addr(), orchestrator.board());
        // The first runner loses it under the eighth task; the next one does not come to so many.
        let own = [("TRAINING_BACKEND", "wgpu"), ("MAX_CONCURRENT_TASKS", "1"), ("FAILPOINT", "gpu-lost:8")];
        let settings = [&machine.environment()[..], &own].concat();
        let mut worker = WorkerProcess::start(address, &settings);
        let mut job = real_job(1);
        job.hyperparameters.insert("backend".to_owned(), "wgpu".to_owned());
        let job = submit(address, job).await;
        wait_for_end(board, &job).await;
        assert!(worker.shows("worker_runner_exits_total{cause=\"gpu_lost\"} 1"), "{contract:?}");
        worker.settle();
        assert_each_once(board, &job, 10);
        assert_eq!(board.read(|board| board.job(&job)).unwrap().reports, 10, "{contract:?}");
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn boosting_goes_to_a_gpu_where_the_worker_or_the_task_names_wgpu_and_is_measured_there() {
    let mut node = Node::start(Control::with_gpus(1), 1, &[("MAX_CONCURRENT_TASKS", "1")]).await;
    node.give_of("xgboost", &[("seed", "1")], ("a", 0));
    node.give_of("xgboost", &[("seed", "1"), ("backend", "wgpu")], ("b", 0));
    let (cpu, gpu) = (node.report("a-0"), node.report("b-0"));
    assert_eq!((cpu.success, cpu.backend.as_str(), cpu.energy_joules), (true, "cpu", 0.0), "{cpu:?}");
    assert_eq!(
        (gpu.success, gpu.backend.as_str(), gpu.device.as_str()),
        (true, "wgpu", "Fake card 0"),
        "{gpu:?}"
    );
    assert!(gpu.energy_joules > 0.0 && gpu.model_weights == cpu.model_weights, "{gpu:?}");
    let peak = "worker_task_gpu_memory_peak_bytes{";
    assert_eq!(node.metrics().lines().filter(|line| line.starts_with(peak)).count(), 1);
    // The GPU is lost: the job goes on from its checkpoint once there is one again.
    node.machine.fake.set(|control| control.gpus[0].lost = true).unwrap();
    eventually("the loss is known", || node.worker.get_json("/health")["gpus"] == 0);
    node.machine.fake.set(|control| control.gpus[0].lost = false).unwrap();
    node.give_of("xgboost", &[("seed", "1"), ("backend", "wgpu")], ("b", 1));
    node.give_of("xgboost", &[("seed", "1")], ("a", 1));
    let (cpu, gpu) = (node.report("a-1"), node.report("b-1"));
    assert!(gpu.success && gpu.backend == "wgpu" && gpu.model_weights == cpu.model_weights, "{gpu:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gpus_without_an_adapter_are_said_loudly_and_nothing_trains_on_a_software_adapter() {
    let settings = [("TRAINING_BACKEND", "auto"), ("ANALYTIC_EPOCH_DELAY", "0")];
    let node = Node::start(Control::with_gpus(2), 0, &settings).await;
    eventually("the missing adapters are known", || {
        node.metrics()
            .lines()
            .filter(|line| line.starts_with("worker_gpu_adapter_matched{") && line.ends_with(" 0"))
            .count()
            == 2
    });
    let reasons = node.worker.get_json("/health")["reasons"].to_string();
    assert!(
        reasons.contains("GPU 0") && reasons.contains("NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics"),
        "{reasons}"
    );
    let log = node.worker.log();
    let loud = |line: &&serde_json::Value| {
        line["level"] == "WARN" && line.to_string().contains("NVIDIA_DRIVER_CAPABILITIES")
    };
    assert_eq!(log.iter().filter(loud).count(), 2, "once for each: {log:#?}");
    node.give("a", 0);
    let report = node.report("a-0");
    assert!(report.simulated && report.energy_joules == 0.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_hangs_on_a_lost_gpu_goes_on_elsewhere() {
    let settings = [("TRAINING_BACKEND", "wgpu"), ("TASK_TIMEOUT", "1h")];
    let mut node = Node::start(Control::with_gpus(2), 2, &settings).await;
    node.worker.wait_for_log("runners are confined");
    // The one that waits for work on the first GPU. It hangs as in a driver that does not come back.
    let runners = runners_of(&node.worker);
    assert_eq!(runners.len(), 1);
    kill_process(runners[0], Signal::STOP).unwrap();
    node.give("a", 0);
    eventually("the task is at work", || {
        node.heard.heartbeat().is_some_and(|beat| beat.tasks.iter().any(|task| task.task_id == "a-0"))
    });
    node.machine.fake.set(|control| control.gpus[0].lost = true).unwrap();
    let report = node.report("a-0");
    assert!(report.success && report.device == "Fake card 1", "{report:?}");
    assert!(node.metrics().contains("worker_runner_exits_total{cause=\"gpu_lost\"} 1"), "{}", node.metrics());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_was_lost_at_the_start_is_trained_on_once_it_is_back() {
    let mut control = Control::with_gpus(1);
    control.gpus[0].lost = true;
    // Somebody else uses it too.
    control.gpus[0].processes = [1, 2].map(|pid| Process { pid, memory_bytes: 1 << 20 }).into();
    let mut machine = Machine::new(control, 1);
    let away = format!("{}.away", machine.drivers);
    std::fs::rename(&machine.drivers, &away).unwrap();
    let (orchestrator, heard, server) = listen().await;
    let settings = [("TRAINING_BACKEND", "auto"), ("ANALYTIC_EPOCH_DELAY", "0")];
    let worker = WorkerProcess::start(orchestrator, &[&machine.environment()[..], &settings].concat());
    eventually("a registration without GPUs", || {
        heard.capabilities().is_some_and(|told| told.gpus.is_empty())
    });
    assert_eq!(worker.get_json("/health")["backend"], "analytic");
    std::fs::rename(&away, &machine.drivers).unwrap();
    machine.fake.set(|control| control.gpus[0].lost = false).unwrap();
    eventually("a registration with the GPU as a backend", || {
        heard
            .capabilities()
            .is_some_and(|told| told.gpus.len() == 1 && told.backends.iter().any(|backend| backend == "wgpu"))
    });
    eventually("what tasks get is told everywhere", || {
        let status = worker.get_json("/api/v1/status");
        worker.get_json("/health")["backend"] == "wgpu"
            && (&status["backend"], &status["simulated"]) == (&"wgpu".into(), &false.into())
    });
    let node = Node { worker, machine, heard, server };
    node.give("a", 0);
    let report = node.report("a-0");
    assert!(report.success && !report.simulated && report.device == "Fake card 0", "{report:?}");
    let shared = "worker_task_gpu_energy_joules_total{attribution=\"shared\",model_type=\"neural_network\"} ";
    assert!(node.metrics().contains(shared), "{}", node.metrics());
}

/// A GPU that is watched as the test says.
struct Told(Mutex<GpuState>);

impl GpuWatch for Told {
    fn gpus(&self) -> Option<Vec<GpuState>> {
        Some(vec![self.0.lock().unwrap().clone()])
    }
}

/// Hears how many runners there are.
struct Ear(mpsc::Sender<usize>);

impl Watcher for Ear {
    fn trouble(&self, _: Option<String>) {}
    fn runner_exited(&self, _: ExitCause) {}
    fn runners(&self, count: usize) {
        let _ = self.0.send(count);
    }
}

#[test]
fn a_runner_whose_jobs_have_ended_makes_room_for_the_next() {
    let machine = Machine::new(Control::with_gpus(1), 1);
    // The program, in the environment of this machine.
    let program = machine.folder.path().join("worker");
    let drivers = &machine.drivers;
    let script = format!(
        "#!/bin/sh\nexport VK_DRIVER_FILES='{drivers}' VK_ICD_FILENAMES='{drivers}'\nexec '{PROGRAM}' \"$@\"\n"
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let gpu = GpuState {
        uuid: "GPU-1".to_owned(),
        address: "0000:01:00.0".parse().unwrap(),
        condition: GpuCondition::Healthy,
        memory_bytes: Some(16 << 30),
        others_bytes: 0,
    };
    let told = Arc::new(Told(Mutex::new(gpu)));
    let config = engine::Config {
        gpu: None,
        hidden_gpus: HiddenGpus::default(),
        models_to: None,
        backend: BackendChoice::Only(Backend::Wgpu),
        device_policy: DevicePolicy::Require,
        analytic_profile: AnalyticProfile::Engine,
        analytic_delay: Duration::ZERO..=Duration::ZERO,
        unsupported_models: UnsupportedModels::Reject,
        allow_software_adapter: false,
        state_dir: None,
        data: tensorfleet_worker::data::Config::new("data"),
    };
    let runners = RunnerConfig { program, ..RunnerConfig::default() };
    let watch = Some(Arc::clone(&told) as Arc<dyn GpuWatch>);
    let engine = ProcessEngine::start(config, SessionLimits::default(), runners, watch).unwrap();
    let (sender, counts) = mpsc::channel();
    engine.watch(Box::new(Ear(sender)));
    let submit = |job: &str| {
        let (ended, ends) = mpsc::channel();
        let done = Done::new(move |finished| ended.send(finished.ending.map(|_| ())).unwrap());
        engine.submit(Arc::new(task(job)), Arc::new(TaskControl::new(Deaf)), done);
        ends
    };
    submit("a").recv_timeout(PATIENCE).unwrap().unwrap();
    engine.forget(&JobId::parse("a").unwrap());
    // What the runner keeps of the job that has ended counts as others', as in a container.
    told.0.lock().unwrap().others_bytes = 16 << 30;
    let next = submit("b");
    while counts.recv_timeout(Duration::from_secs(50)).expect("the runner is asked to leave") > 0 {}
    told.0.lock().unwrap().others_bytes = 0;
    next.recv_timeout(PATIENCE).unwrap().unwrap();
}

/// Hears nothing of a task.
struct Deaf;

impl Observer for Deaf {
    fn started(&self, _: Backend) {}
    fn stepped(&self, _: &Progress, _: Step) {}
}

fn task(job: &str) -> TaskSpec {
    TaskSpec {
        identity: TaskIdentity {
            task_id: TaskId::parse(&format!("{job}-0")).unwrap(),
            job_id: JobId::parse(job).unwrap(),
            attempt: 0,
        },
        model: ModelType::parse("logistic_regression").unwrap(),
        dataset_path: "builtin:iris".into(),
        hyperparameters: Hyperparameters::default(),
        notes: Vec::new(),
        epoch: 0,
        batches: 0..1,
        total_epochs: None,
        timeout: None,
        lease: None,
        initial_weights: Default::default(),
        received: Default::default(),
    }
}
