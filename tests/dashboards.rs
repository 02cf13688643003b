//! What deploy/ shows of the workers: dashboards and rules fit their programs, and each of their queries has data.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fake_nvml::{Control, Curve, DriverState, Fault, Installed};
use fake_vulkan::Card;
use serde_json::Value;
use support::middleman::{Deed, Middleman};
use support::prometheus::{Prometheus, files, promtool};
use support::*;
use tensorfleet_worker::dev::Contract;
use tensorfleet_worker::domain::JobId;
use tensorfleet_worker::wire::pb::TrainingJobRequest;

/// The bit of nvmlClocksEventReasons for a GPU that draws as much power as it may.
const POWER_CAP: u64 = 4;

/// The code of nvmlReturn_t for an error without a name.
const UNKNOWN: u32 = 999;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rule_files() -> Vec<PathBuf> {
    files(&root().join("deploy/prometheus/rules"), ".yml")
}

/// Runs a program to its end; a failure of it fails the test.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    said.into_owned()
}

/// A dashboard of deploy/grafana.
struct Dashboard {
    name: String,
    model: Value,
}

impl Dashboard {
    fn read(path: &Path) -> Self {
        let model = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        Self { name: path.file_stem().unwrap().to_string_lossy().into_owned(), model }
    }

    fn all() -> Vec<Self> {
        let all = files(&root().join("deploy/grafana/dashboards"), ".json");
        all.iter().map(|path| Self::read(path)).collect()
    }

    fn called(name: &str) -> Self {
        Self::read(&root().join(format!("deploy/grafana/dashboards/{name}.json")))
    }

    /// Its panels, without the headings of rows.
    fn panels(&self) -> impl Iterator<Item = &Value> {
        self.model["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
    }

    /// Title of the panel and query, for each query.
    fn queries(&self) -> Vec<(&str, &str)> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            let title = panel["title"].as_str().unwrap();
            for target in panel["targets"].as_array().unwrap() {
                queries.push((title, target["expr"].as_str().unwrap()));
            }
        }
        queries
    }

    /// Its variables, without the one that chooses the data source.
    fn variables(&self) -> impl Iterator<Item = &Value> {
        let all = self.model["templating"]["list"].as_array().unwrap();
        all.iter().filter(|variable| variable["type"] == "query")
    }

    /// A query as Grafana sends it when everything is chosen.
    fn filled(&self, query: &str) -> String {
        let mut filled = query.replace("$__rate_interval", "10s").replace("$__range", "60s");
        for variable in self.variables() {
            filled = filled.replace(&format!("\"${}\"", variable["name"].as_str().unwrap()), "\".+\"");
        }
        assert!(!filled.contains('$'), "{}: what is meant in {filled}?", self.name);
        filled
    }

    /// Asks Prometheus all that the dashboard asks.
    fn has_data(&self, prometheus: &Prometheus) {
        for (title, query) in self.queries() {
            println!("{}: {title}", self.name);
            prometheus.query(&self.filled(query));
        }
        for variable in self.variables() {
            let definition = self.filled(variable["query"]["query"].as_str().unwrap());
            let inside = definition.strip_prefix("label_values(").and_then(|text| text.strip_suffix(')'));
            let (selector, label) =
                inside.and_then(|text| text.rsplit_once(", ")).expect("label_values(a, b)");
            prometheus.label_values(selector, label);
        }
    }
}

#[test]
fn dashboards_are_what_their_source_makes() {
    let source = root().join("deploy/grafana/dashboards.py");
    succeed(Command::new("python3").env("PYTHONDONTWRITEBYTECODE", "1").arg(source).arg("--check"));
}

#[test]
fn dashboards_fit_the_types_that_grafana_publishes() {
    let modules = root().join("target/npm");
    assert!(modules.join("node_modules").exists(), "{} is missing: scripts/test makes it", modules.display());
    let check = root().join("tests/peers/deploy/dashboards.mjs");
    let said =
        succeed(Command::new("node").arg(check).arg(root().join("deploy/grafana/dashboards")).arg(modules));
    assert!(said.starts_with("2 dashboards fit"), "{said}");
}

#[test]
fn dashboards_keep_the_rules_of_shared_dashboards() {
    let mut uids = BTreeSet::new();
    for dashboard in Dashboard::all() {
        let model = &dashboard.model;
        assert!(model["schemaVersion"].as_u64().unwrap() >= 39);
        assert!(model["id"].is_null() && model["__inputs"].is_null(), "{}", dashboard.name);
        assert!(uids.insert(model["uid"].as_str().unwrap().to_owned()), "the uid is its own");
        let names: Vec<&str> =
            dashboard.variables().map(|variable| variable["name"].as_str().unwrap()).collect();
        assert_eq!(&names[..2], ["job", "instance"], "{}", dashboard.name);
        assert_eq!(model["templating"]["list"][0]["type"], "datasource");
        let mut titles = BTreeSet::new();
        for panel in dashboard.panels() {
            let title = panel["title"].as_str().unwrap();
            assert!(titles.insert(title), "{title} is there twice");
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            let position = &panel["gridPos"];
            assert!(position["x"].as_u64().unwrap() + position["w"].as_u64().unwrap() <= 24, "{title}");
        }
        for (title, query) in dashboard.queries() {
            assert!(query.contains("job=~\"$job\", instance=~\"$instance\""), "{title}: {query}");
            let fixed = query.split('[').skip(1).any(|window| !window.starts_with("$__"));
            assert!(!fixed, "{title} has a window of a fixed length: {query}");
        }
    }
}

#[test]
fn rules_are_valid_and_each_alert_is_tested_and_explained() {
    let folder = root().join("deploy/prometheus");
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    promtool(&["check", "config", "--syntax-only", &text(&folder.join("prometheus.yml"))], "");
    let tests = files(&folder.join("tests"), "_test.yml");
    for rules in rule_files() {
        promtool(&["check", "rules", &text(&rules)], "");
        let name = rules.file_stem().unwrap().to_str().unwrap();
        assert!(tests.iter().any(|test| test.ends_with(format!("{name}_test.yml"))), "{name} has no tests");
    }
    for test in &tests {
        promtool(&["test", "rules", &text(test)], "");
    }
    let tested: String = tests.iter().map(|test| fs::read_to_string(test).unwrap()).collect();
    let manual = fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let mut seen = 0;
    for line in rule_files().iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    }) {
        if let Some(alert) = line.strip_prefix("- alert: ") {
            seen += 1;
            let fires = tested.split(&format!("- alertname: {alert}\n")).count() > 1;
            assert!(fires, "no test in which {alert} fires");
            assert!(
                tested.contains(&format!("{{ alertname: {alert}, ")),
                "no test in which {alert} is quiet"
            );
            assert!(
                manual.contains(&format!("\n### {alert}\n")),
                "docs/operating.md does not explain {alert}"
            );
        }
        if let Some(record) = line.strip_prefix("- record: ") {
            seen += 1;
            assert!(tested.contains(record), "{record} has no test");
        }
    }
    assert!(seen > 20, "only {seen} rules were found");
}

/// What the tests below bring about, one after the other, with what somebody wants to be told of: on a real Prometheus each
/// alert has what it alerts for.
const FLEET_ALERTS: [&str; 7] = [
    "WorkerSimulatesTasks",
    "WorkerTasksFailing",
    "WorkerHeartbeatFailing",
    "WorkerOutboxGrowing",
    "WorkerStateDirFailing",
    "WorkerOrchestratorUnreachable",
    "WorkerDown",
];

/// The same, of GPUs.
const GPU_ALERTS: [&str; 7] = [
    "WorkerGpuXidErrors",
    "WorkerGpuThrottled",
    "WorkerGpuMemoryNearlyFull",
    "WorkerGpuEccErrors",
    "WorkerGpuWithoutAdapter",
    "WorkerGpuLost",
    "WorkerNvmlDown",
];

/// Which would take a whole fleet, or a quarter of an hour: promtool alone shows them.
const UNSEEN_ALERTS: [&str; 2] = ["WorkerFleetSaturated", "WorkerRestarting"];

/// What the dashboards 12239 (of dcgm-exporter) and 14574 (of nvidia_gpu_exporter) show of a GPU, as far as NVML tells it:
/// 12239 also has the use of tensor cores, which only NVIDIA's profiling library knows.
const OF_OTHERS: [&str; 20] = [
    "worker_gpu_info",
    "worker_gpu_utilization_ratio",
    "worker_gpu_memory_utilization_ratio",
    "worker_gpu_memory_used_bytes",
    "worker_gpu_memory_total_bytes",
    "worker_gpu_temperature_celsius",
    "worker_gpu_power_watts",
    "worker_gpu_power_limit_watts",
    "worker_gpu_energy_joules_total",
    "worker_gpu_sm_clock_hertz",
    "worker_gpu_sm_clock_max_hertz",
    "worker_gpu_memory_clock_hertz",
    "worker_gpu_memory_clock_max_hertz",
    "worker_gpu_graphics_clock_hertz",
    "worker_gpu_fan_speed_ratio",
    "worker_gpu_performance_state",
    "worker_gpu_compute_mode",
    "worker_gpu_encoder_utilization_ratio",
    "worker_gpu_decoder_utilization_ratio",
    "worker_gpu_throttled",
];

#[test]
fn nothing_that_other_dashboards_and_operators_look_at_is_missing() {
    let rules: String = rule_files().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let alerts: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let expected = FLEET_ALERTS.iter().chain(&GPU_ALERTS).chain(&UNSEEN_ALERTS).copied();
    assert_eq!(alerts, expected.collect::<BTreeSet<_>>());
    let gpu = Dashboard::called("gpu");
    let queries = gpu.queries();
    let of = |title: &str| {
        let found = queries.iter().filter(|(of, _)| *of == title);
        let all = found.map(|(_, query)| *query).collect::<Vec<_>>().join("; ");
        assert!(!all.is_empty(), "no panel {title}");
        all
    };
    for metric in OF_OTHERS {
        let shown = queries.iter().any(|(_, query)| query.contains(&format!("{metric}{{")));
        assert!(shown, "no panel shows {metric}");
    }
    // What no exporter can tell, since it knows of no tasks.
    for (title, parts) in [
        ("Utilisation and tasks", ["worker_gpu_utilization_ratio", "state=\"busy\""]),
        ("Joules per sample", ["worker_task_gpu_energy_joules_total", "worker_training_samples_total"]),
        ("Energy by model type", ["sum by (model_type)", "worker_task_gpu_energy_joules_total"]),
        ("Time slowed down while tasks ran", ["worker_gpu_throttle_seconds_total", "state=\"busy\""]),
    ] {
        assert!(parts.iter().all(|part| of(title).contains(part)), "{title}: {}", of(title));
    }
}

/// Alerts whose cause a test brings about.
struct Alarm<'a> {
    prometheus: &'a Prometheus,
    group: &'static str,
    left: Vec<&'static str>,
}

impl<'a> Alarm<'a> {
    fn new(prometheus: &'a Prometheus, group: &'static str, alerts: &[&'static str]) -> Self {
        Self { prometheus, group, left: alerts.to_vec() }
    }

    /// Waits until the alert called `name` has what it alerts for; where it has it from the labels.
    fn fires(&mut self, name: &str) -> Vec<Value> {
        println!("alert {name}");
        let rules = rules(self.prometheus, &[self.group]);
        let rule = rules.iter().find(|rule| rule["name"] == name).unwrap_or_else(|| panic!("no rule {name}"));
        let place = self.left.iter().position(|left| *left == name);
        self.left.remove(place.unwrap_or_else(|| panic!("{name} is on no list")));
        self.prometheus.query(rule["query"].as_str().unwrap())
    }

    /// Waits until it has that because of the worker at `address`.
    fn fires_for(&mut self, name: &str, address: std::net::SocketAddr) {
        let instance = address.to_string();
        let series = self.fires(name);
        assert!(series.iter().all(|series| series["metric"]["instance"] == *instance), "{name}: {series:?}");
    }

    fn all_have_fired(self) {
        assert!(self.left.is_empty(), "{:?}", self.left);
    }
}

/// All rules of a Prometheus whose group is named `group`, or begins with it and a dash.
fn rules(prometheus: &Prometheus, groups: &[&str]) -> Vec<Value> {
    let all = prometheus.api("rules");
    let chosen = |group: &&Value| groups.contains(&group["name"].as_str().unwrap());
    all["groups"]
        .as_array()
        .unwrap()
        .iter()
        .filter(chosen)
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// Asks for what each rule records, and for all that each alert looks at.
fn rules_have_data(prometheus: &Prometheus, groups: &[&str]) {
    let rules = rules(prometheus, groups);
    assert!(rules.len() > 5, "only {} rules in {groups:?}", rules.len());
    for rule in rules {
        assert_ne!(rule["health"], "err", "{rule}");
        if rule["type"] == "recording" {
            prometheus.query(rule["name"].as_str().unwrap());
            continue;
        }
        let expression = rule["query"].as_str().unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let words = expression.split(|c| !is_name(c));
        let metrics: BTreeSet<&str> = words
            .filter(|word| *word == "up" || ["worker_", "process_"].iter().any(|start| word.contains(start)))
            .collect();
        assert!(!metrics.is_empty(), "{expression}");
        for metric in metrics {
            prometheus.query(metric);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_about_the_fleet_has_data_of_a_real_worker() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let settings = [("TRAINING_BACKEND", "cpu"), ("MAX_CONCURRENT_TASKS", "3"), ("MAX_TASK_RETRIES", "0")];
    let mut worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
    // One whose disk hangs with its first outcome, and one that the orchestrator has no ear for.
    let (other, aside) = (support::orchestrator(Contract::Extended).await, [("FAILPOINT", "outbox-hangs")]);
    let hanging = WorkerProcess::start(other.local_addr(), &aside);
    let deaf = support::orchestrator(Contract::Extended).await;
    let refuses = |method: &str| method == "heartbeat" || method == "report_task_completion";
    let between =
        Middleman::start(
            deaf.local_addr(),
            move |method, _| {
                if refuses(method) { Deed::Refuse } else { Deed::Carry }
            },
        );
    let unheard = WorkerProcess::start(between.await.address, &settings);
    let prometheus = Prometheus::start(&[worker.http, hanging.http, unheard.http], &rule_files());
    prometheus.query("worker_slots");
    let on = |dataset: &str, job| TrainingJobRequest { dataset_path: dataset.to_owned(), ..job };
    let trained = submit(orchestrator.local_addr(), on("builtin:digits", real_job(1_000))).await;
    let simulated = submit(orchestrator.local_addr(), on("builtin:digits", simulated_job(1_000))).await;
    submit(orchestrator.local_addr(), on("absent.csv", real_job(2))).await;
    submit(other.local_addr(), simulated_job(1)).await;
    submit(deaf.local_addr(), on("absent.csv", real_job(100))).await;
    prometheus.query("worker_tasks_failed_total > 0");
    Dashboard::called("worker-fleet").has_data(&prometheus);
    rules_have_data(&prometheus, &["tensorfleet-worker", "tensorfleet-worker-fleet"]);
    let parses = rules(&prometheus, &["tensorfleet-worker-gpu"]);
    assert!(parses.iter().all(|rule| rule["health"] != "err"), "{parses:?}");
    simulated_figures_are_told_apart(&prometheus, &trained, &simulated);
    let mut alarm = Alarm::new(&prometheus, "tensorfleet-worker", &FLEET_ALERTS);
    alarm.fires("WorkerSimulatesTasks");
    alarm.fires("WorkerTasksFailing");
    alarm.fires_for("WorkerHeartbeatFailing", unheard.http);
    alarm.fires_for("WorkerOutboxGrowing", unheard.http);
    alarm.fires_for("WorkerStateDirFailing", hanging.http);
    orchestrator.shutdown().await;
    alarm.fires_for("WorkerOrchestratorUnreachable", worker.http);
    worker.child.kill().unwrap();
    alarm.fires_for("WorkerDown", worker.http);
    alarm.all_have_fired();
}

/// Figures of curves are series of their own, and no others are among them.
fn simulated_figures_are_told_apart(prometheus: &Prometheus, trained: &JobId, simulated: &JobId) {
    let fleet = Dashboard::called("worker-fleet");
    for title in ["Training loss by job", "Training accuracy by job"] {
        let panel = fleet.panels().find(|panel| panel["title"] == title).unwrap();
        let [real, curves] = &panel["targets"].as_array().unwrap()[..] else { panic!("{panel}") };
        assert_eq!(curves["legendFormat"], "{{job_id}} (simulated)");
        for (target, job, other) in [(real, trained, simulated), (curves, simulated, trained)] {
            let query = fleet.filled(target["expr"].as_str().unwrap());
            let has = |series: &[Value], job: &JobId| {
                series.iter().any(|series| series["metric"]["job_id"] == job.as_str())
            };
            let mut series = Vec::new();
            eventually(&format!("{title} shows {job}"), || {
                series = prometheus.query(&query);
                has(&series, job)
            });
            assert!(!has(&series, other), "{title}: {series:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_about_gpus_has_data_of_a_worker_on_the_fake() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let folder = tempfile::tempdir().unwrap();
    let mut control = Control::with_gpus(3);
    for gpu in &mut control.gpus {
        gpu.ecc_errors = Some((3, 0));
        gpu.throttle_reasons = POWER_CAP;
    }
    // The last one is known to no graphics driver.
    let drivers: Vec<PathBuf> = (control.gpus.iter().take(2).enumerate())
        .map(|(number, gpu)| {
            let folder = folder.path().join(format!("card-{number}"));
            fs::create_dir(&folder).unwrap();
            let (domain, bus, device) = gpu.pci;
            let card = Card { name: gpu.name.clone(), pci: (domain, bus, device, 0) };
            fake_vulkan::install(&folder, &card).unwrap()
        })
        .collect();
    let drivers = std::env::join_paths(drivers).unwrap().into_string().unwrap();
    let mut fake = Installed::new(folder.path(), control).unwrap();
    let library = fake.library();
    let settings = [
        ("TRAINING_BACKEND", "wgpu"),
        ("DEVICE_POLICY", "require"),
        ("MAX_CONCURRENT_TASKS", "2"),
        ("VK_DRIVER_FILES", &drivers),
        // Loaders before 1.3.234 know it by this name only.
        ("VK_ICD_FILENAMES", &drivers),
        ("NVML_LIBRARY", library.to_str().unwrap()),
        ("GPU_PCIE_THROUGHPUT", "true"),
    ];
    let worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
    let prometheus = Prometheus::start(&[worker.http], &rule_files());
    prometheus.query("worker_gpu_power_watts");
    let mut job = real_job(1_000);
    job.hyperparameters.insert("backend".to_owned(), "wgpu".to_owned());
    submit(orchestrator.local_addr(), job).await;
    let events = |control: &mut Control| {
        control.gpus[0].xids.push(31);
        control.gpus[1].faults.insert("nvmlDeviceGetTemperature".into(), Fault::Error(UNKNOWN));
    };
    fake.set(events).unwrap();
    prometheus.query("worker_gpu_xid_errors_total > 0");
    Dashboard::called("gpu").has_data(&prometheus);
    rules_have_data(&prometheus, &["tensorfleet-worker-gpu"]);
    let mut alarm = Alarm::new(&prometheus, "tensorfleet-worker-gpu", &GPU_ALERTS);
    for alert in ["WorkerGpuXidErrors", "WorkerGpuThrottled", "WorkerGpuWithoutAdapter"] {
        alarm.fires(alert);
    }
    fake.set(|control| control.gpus[0].ecc_errors = Some((3, 1))).unwrap();
    alarm.fires("WorkerGpuEccErrors");
    let fill = |control: &mut Control| {
        let gpu = &mut control.gpus[1];
        gpu.memory_used_bytes = Curve::Constant(0.97 * gpu.memory_total_bytes as f64);
    };
    fake.set(fill).unwrap();
    alarm.fires("WorkerGpuMemoryNearlyFull");
    fake.set(|control| control.gpus[1].lost = true).unwrap();
    alarm.fires("WorkerGpuLost");
    fake.set(|control| control.driver = DriverState::Gone).unwrap();
    alarm.fires("WorkerNvmlDown");
    alarm.all_have_fired();
}
