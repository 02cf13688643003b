//! Layers, rules and reports of the configuration.

mod fuzz;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::data;
use crate::data::remote::LocalAddresses;
use crate::domain::{Backend, BackendChoice, DevicePolicy};
use crate::engine::{AnalyticProfile, Isolation, UnsupportedModels};
use crate::guard::{Demand, SecretFile};
use crate::telemetry::logs::LogFormat;

/// A certificate that can be read.
const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/orchestrator/tests/authority.pem");

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Resolved, ConfigErrors> {
    Config::resolve(&Layers { environment: environment(pairs), ..Layers::default() })
}

fn good(pairs: &[(&str, &str)]) -> Config {
    from_environment(pairs).unwrap_or_else(|errors| panic!("{pairs:?}: {errors}")).config
}

fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
    let Err(ConfigErrors(problems)) = from_environment(pairs) else { panic!("{pairs:?} was taken") };
    problems.iter().map(ToString::to_string).collect()
}

/// A file with `text`, and the folder that keeps it.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn from_file(text: &str) -> Result<Resolved, ConfigErrors> {
    let (_folder, path) = file(text);
    Config::resolve(&Layers { file: Some(path), ..Layers::default() })
}

#[test]
fn nothing_given_means_the_defaults() {
    let resolved = from_environment(&[]).unwrap();
    let config = resolved.config;
    assert_eq!(config.worker.worker_id, None);
    assert_eq!(config.worker.state_dir, PathBuf::from("./state"));
    assert_eq!(config.worker.slots, 3);
    assert_eq!(config.worker.heartbeat_interval, Duration::from_secs(30));
    assert_eq!(config.worker.task_timeout, Duration::from_secs(300));
    assert_eq!(config.worker.max_task_retries, 2);
    assert_eq!(config.worker.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.engine.backend, BackendChoice::Auto);
    assert_eq!(config.engine.device_policy, DevicePolicy::Prefer);
    assert_eq!(config.engine.analytic_profile, AnalyticProfile::Engine);
    assert_eq!(config.engine.analytic_delay, Duration::from_millis(200)..=Duration::from_millis(500));
    assert_eq!(config.engine.unsupported_models, UnsupportedModels::Simulate);
    assert!(!config.engine.allow_software_adapter);
    assert_eq!(config.engine.data.root, PathBuf::from("./data"));
    assert_eq!(config.orchestrator.endpoint, "http://localhost:50051");
    assert_eq!((config.grpc_listen.port(), config.http_listen.port()), (50052, 2112));
    assert!(config.grpc_listen.ip().is_unspecified());
    assert_eq!(config.logs, logs::Config::default());
    assert_eq!(config.strictness, Strictness::Warn);
    assert_eq!(resolved.warnings, Vec::<String>::new());
    assert!(resolved.rows.iter().all(|row| row.source == Source::Default));
}

#[test]
fn every_default_of_the_table_is_taken_when_it_is_written_out() {
    let written: Vec<_> = VARIABLES.iter().filter_map(|v| Some((v.name, v.default?))).collect();
    good(&written);
}

/// The rows of README.md's table of variables: names with aliases, then default and meaning.
fn readme_rows() -> Vec<(Vec<String>, String)> {
    let readme = include_str!("../../README.md");
    let section = readme.split("\n## ").find(|section| section.starts_with("Configuration\n")).unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [names, default, meaning] = cells.as_slice() else { panic!("{row}") };
        assert!(!meaning.is_empty(), "{row}");
        (quoted(names), (*default).to_owned())
    })
    .collect()
}

#[test]
fn the_readme_tells_the_truth_about_every_variable() {
    let rows = readme_rows();
    for variable in VARIABLES.iter() {
        let names: Vec<_> = variable.names().collect();
        let found = rows.iter().find(|(told, _)| told.first().is_some_and(|name| name == variable.name));
        let Some((told, default)) = found else { panic!("{} is missing in README.md", variable.name) };
        assert_eq!(told, &names);
        match variable.default {
            Some(value) => assert_eq!(default, &format!("`{value}`"), "{}", variable.name),
            None => assert!(!default.is_empty() && !default.contains('`'), "{}: {default}", variable.name),
        }
    }
    assert_eq!(rows.len(), VARIABLES.len(), "README.md has a row too many");
}

#[test]
fn the_table_is_in_order() {
    let mut names: Vec<_> = VARIABLES.iter().flat_map(Variable::names).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name means two variables");
    for variable in VARIABLES {
        assert!(!variable.help.is_empty() && !variable.takes.is_empty(), "{}", variable.name);
        assert_eq!(variable.flag(), variable.name.to_lowercase().replace('_', "-"));
    }
}

#[test]
fn values_are_taken() {
    let (_folder, token) = file("secret-1\n");
    let config = good(&[
        ("WORKER_ID", "gpu-7"),
        ("ORCHESTRATOR_ADDRESS", "https://fleet:443"),
        ("ORCHESTRATOR_TLS_CA", AUTHORITY),
        ("AUTH_TOKEN_FILE", token.to_str().unwrap()),
        ("LISTEN_ADDRESS", "::1"),
        ("METRICS_AUTH", "true"),
        ("METRICS_TLS", "off"),
        ("WORKER_PORT", "0"),
        ("METRICS_PORT", "0"),
        ("HEARTBEAT_INTERVAL", "100ms"),
        ("TASK_TIMEOUT", "1h30m"),
        ("MAX_CONCURRENT_TASKS", "1024"),
        ("LOG_LEVEL", "warn,tensorfleet_worker::engine=debug"),
        ("LOG_FORMAT", "json"),
        ("TRAINING_BACKEND", "analytic"),
        ("ANALYTIC_PROFILE", "basic"),
        ("ANALYTIC_EPOCH_DELAY", "0"),
        ("STRICT_HYPERPARAMETERS", "TRUE"),
        ("DATA_ROOT", "/data"),
        ("DATA_ALLOWED_HOSTS", "data.example.org, *.example.net:8443"),
        ("DATA_ALLOW_LOCAL_ADDRESSES", "true"),
        ("DATA_CACHE_SIZE", "500 MB"),
        ("S3_ENDPOINT", "http://minio:9000/"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
        ("CHECKPOINT_URI", "s3://bucket/models/"),
        ("STATE_DIR", "/state"),
        ("MAX_TASK_RETRIES", "0"),
        ("DRAIN_TIMEOUT", "0"),
        ("TASK_ISOLATION", "thread"),
        ("ALLOW_SOFTWARE_ADAPTER", "1"),
    ]);
    assert_eq!(config.worker.worker_id.unwrap().as_str(), "gpu-7");
    assert_eq!(config.orchestrator.endpoint, "https://fleet:443");
    assert_eq!(config.orchestrator.ca_file, Some(SecretFile::new("ORCHESTRATOR_TLS_CA", AUTHORITY.as_ref())));
    assert_eq!(config.orchestrator.token_file, Some(SecretFile::token(&token)));
    let listen = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    assert_eq!((config.grpc_listen, config.http_listen), (listen, listen));
    assert_eq!(config.guard.token_file, Some(token));
    assert_eq!((config.guard.metrics, config.guard.http_tls), (Demand::Private, Demand::Open));
    assert_eq!(config.worker.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.worker.task_timeout, Duration::from_secs(5400));
    assert_eq!(config.worker.slots, 1024);
    assert_eq!(config.logs.format, LogFormat::Json);
    assert_eq!(config.engine.backend, BackendChoice::Only(Backend::Analytic));
    assert_eq!(config.engine.analytic_delay, Duration::ZERO..=Duration::ZERO);
    assert_eq!(config.strictness, Strictness::Reject);
    assert_eq!(config.worker.drain_timeout, Duration::ZERO);
    assert!(config.engine.allow_software_adapter);
    assert_eq!(config.engine.models_to.unwrap().to_string(), "s3://bucket/models");
    let data::Config { remote, cache, .. } = config.engine.data;
    assert_eq!((cache.folder, cache.max_bytes), ("/state/cache/data".into(), 500_000_000));
    assert_eq!(remote.local_addresses, LocalAddresses::Allowed);
    assert!(remote.allowed_hosts[1].allows("a.example.net", 8443, 443));
    assert_eq!(remote.s3.endpoint.as_deref(), Some("http://minio:9000"));
    assert_eq!(remote.s3.region.as_deref(), Some("eu-central-1"));
    assert_eq!(remote.s3.credentials.unwrap().session_token, None);
}

#[test]
fn each_bad_value_is_named_with_its_source_and_what_is_allowed() {
    for (name, value) in [
        ("WORKER_ID", "a b"),
        ("ORCHESTRATOR_ADDRESS", "localhost"),
        ("ORCHESTRATOR_ADDRESS", "ftp://host:1"),
        ("WORKER_PORT", "65536"),
        ("WORKER_PORT", "-1"),
        ("METRICS_PORT", "http"),
        ("HEARTBEAT_INTERVAL", "30"),
        ("HEARTBEAT_INTERVAL", "99ms"),
        ("HEARTBEAT_INTERVAL", "2h"),
        ("HEARTBEAT_INTERVAL", "-30s"),
        ("TASK_TIMEOUT", "0"),
        ("TASK_TIMEOUT", "999999999999999999999999d"),
        ("MAX_CONCURRENT_TASKS", "0"),
        ("MAX_CONCURRENT_TASKS", "1025"),
        ("LOG_LEVEL", "inof"),
        ("LOG_FORMAT", "xml"),
        ("TRAINING_BACKEND", "cuda"),
        ("DEVICE_POLICY", "gpu"),
        ("ANALYTIC_PROFILE", "advanced"),
        ("ANALYTIC_EPOCH_DELAY", "500ms..200ms"),
        ("ANALYTIC_EPOCH_DELAY", "200..500"),
        ("ANALYTIC_EPOCH_DELAY", "2h"),
        ("UNSUPPORTED_MODELS", "ignore"),
        ("STRICT_HYPERPARAMETERS", "maybe"),
        ("STATE_DIR", "bad\u{fffd}path"),
        ("MAX_TASK_RETRIES", "1000"),
        ("DRAIN_TIMEOUT", "2d"),
        ("TASK_ISOLATION", "container"),
        ("DATA_ALLOWED_HOSTS", "http://host"),
        ("DATA_ALLOWED_HOSTS", "a,,b"),
        ("DATA_ALLOWED_HOSTS", "*"),
        ("DATA_ALLOW_LOCAL_ADDRESSES", "private"),
        ("DATA_CACHE_SIZE", "10 gigabytes"),
        ("DATA_CACHE_SIZE", "99999999999999999999TiB"),
        ("S3_ENDPOINT", "minio:9000"),
        ("AWS_REGION", "Europe"),
        ("CHECKPOINT_URI", "/models"),
        ("CHECKPOINT_URI", "s3://Bucket/models"),
        ("CHECKPOINT_URI", "s3://bucket/models"),
        ("TASK_MEMORY_LIMIT", "1023KiB"),
        ("TASK_MEMORY_LIMIT", "2G"),
        ("TASK_MEMORY_LIMIT", "99999999TiB"),
        ("ALLOW_SOFTWARE_ADAPTER", "2"),
        ("ORCHESTRATOR_TLS_CA", "/etc/ca.pem"),
        ("ORCHESTRATOR_TLS_SERVER_NAME", "fleet"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
        ("LISTEN_ADDRESS", "localhost"),
        ("METRICS_TLS", "maybe"),
        ("METRICS_TLS", "on"),
        ("METRICS_AUTH", "true"),
        ("TLS_CERT", "/etc/cert.pem"),
        ("TLS_CLIENT_CA", "/etc/ca.pem"),
        ("ORCHESTRATOR_TLS_CERT", "/etc/cert.pem"),
    ] {
        let problems = problems(&[(name, value)]);
        let [problem] = problems.as_slice() else { panic!("{name}={value}: {problems:?}") };
        let start = format!("{name} (environment {name}): \"{value}\" is not allowed; allowed: ");
        assert!(problem.starts_with(&start), "{problem}");
        assert!(problem.len() > start.len() + 4, "{problem}");
    }
}

#[test]
fn all_errors_come_in_one_report() {
    let (_folder, path) = file("worker_prot = 1\nmax_concurrent_tasks = 0\n");
    let layers = Layers {
        flags: [("WORKER_PORT", "70000".to_owned())].into(),
        environment: environment(&[("TASK_TIMEOUT", "soon"), ("TLS_KEY", "/etc/key.pem")]),
        file: Some(path.clone()),
    };
    let errors = Config::resolve(&layers).unwrap_err();
    assert_eq!(errors.0.len(), 5, "{errors}");
    let report = errors.to_string();
    let file = format!("file {}", path.display());
    for part in [
        "5 errors in the configuration:".to_owned(),
        "WORKER_PORT (flag --worker-port): \"70000\" is not allowed; allowed: a port from 0".to_owned(),
        "TASK_TIMEOUT (environment TASK_TIMEOUT): \"soon\"".to_owned(),
        format!("MAX_CONCURRENT_TASKS ({file}): \"0\""),
        format!("worker_prot ({file}): unknown; did you mean WORKER_PORT?"),
        "TLS_KEY (environment TLS_KEY): \"********\" is not allowed; allowed: unset without TLS_CERT"
            .to_owned(),
    ] {
        assert!(report.contains(&part), "{part} is missing in {report}");
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let (_folder, path) = file("WORKER_PORT = 1001\nMETRICS_PORT = 1002\nMAX_CONCURRENT_TASKS = 4\n");
    let layers = Layers {
        flags: [("WORKER_PORT", "3001".to_owned())].into(),
        environment: environment(&[("WORKER_PORT", "2001"), ("METRICS_PORT", "2002")]),
        file: Some(path.clone()),
    };
    let Resolved { config, rows, .. } = Config::resolve(&layers).unwrap();
    assert_eq!(config.grpc_listen.port(), 3001);
    assert_eq!(config.http_listen.port(), 2002);
    assert_eq!(config.worker.slots, 4);
    let source = |name| rows.iter().find(|row| row.name == name).unwrap().source.clone();
    assert_eq!(source("WORKER_PORT"), Source::Flag("worker-port".into()));
    assert_eq!(source("METRICS_PORT"), Source::Environment("METRICS_PORT".into()));
    assert_eq!(source("MAX_CONCURRENT_TASKS"), Source::File(path));
    assert_eq!(source("LOG_LEVEL"), Source::Default);
}

#[test]
fn aliases_count_and_the_name_counts_more() {
    let config = good(&[("PORT", "1"), ("ORCHESTRATOR_ADDR", "other:9")]);
    assert_eq!(config.grpc_listen.port(), 1);
    assert_eq!(config.orchestrator.endpoint, "http://other:9");
    assert_eq!(good(&[("PORT", "1"), ("WORKER_PORT", "2")]).grpc_listen.port(), 2);
    assert_eq!(good(&[("PORT", "1"), ("WORKER_PORT", "")]).grpc_listen.port(), 1);
    assert!(problems(&[("PORT", "x")])[0].starts_with("WORKER_PORT (environment PORT): \"x\""));
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let all: Vec<_> = VARIABLES.iter().map(|variable| (variable.name, " ")).collect();
    assert_eq!(good(&all).worker.slots, 3);
}

#[test]
fn the_file_takes_both_cases_and_the_types_of_toml() {
    let config = from_file(
        "worker_id = \"w\"\nSTRICT_HYPERPARAMETERS = true\nport = 7\nHEARTBEAT_INTERVAL = \"1m\"\n",
    )
    .unwrap()
    .config;
    assert_eq!(config.worker.worker_id.unwrap().as_str(), "w");
    assert_eq!(config.strictness, Strictness::Reject);
    assert_eq!(config.grpc_listen.port(), 7);
    assert_eq!(config.worker.heartbeat_interval, Duration::from_secs(60));
}

#[test]
fn what_is_wrong_with_the_file_is_said() {
    let says = |text: &str, part: &str| {
        let report = from_file(text).unwrap_err().to_string();
        assert!(report.contains(part), "{part} is missing in {report}");
    };
    says("port = 1\nworker_port = 2", "worker_port (file ");
    says("port = 1\nworker_port = 2", "means the same as port");
    says("Worker_Port = 2", "did you mean WORKER_PORT?");
    says("[worker]\nport = 1", "worker (file ");
    says("data_root = [\"a\"]", "DATA_ROOT (file ");
    says("worker_port = ", "allowed: the path of a readable TOML file");
    let missing = Layers { file: Some("/no/such/file.toml".into()), ..Layers::default() };
    let report = Config::resolve(&missing).unwrap_err().to_string();
    assert!(report.contains("--config /no/such/file.toml: "), "{report}");
}

#[test]
fn tasks_train_in_processes_of_three_quarters_of_the_memory_unless_it_is_said_otherwise() {
    let isolation = |settings: &[(&str, &str)]| from_environment(settings).unwrap().config.isolation;
    let limits = |settings: &[(&str, &str)]| match isolation(settings) {
        Isolation::Process(runners) => (runners.cpu_memory_limit, runners.gpu_memory_limit),
        Isolation::Thread => panic!("threads"),
    };
    let (cpu, gpu) = limits(&[]);
    assert!(cpu.unwrap() > 100 << 20);
    assert_eq!(gpu, None);
    assert_eq!(limits(&[("TASK_MEMORY_LIMIT", "none")]), (None, None));
    for (raw, bytes) in
        [("512MiB", 512 << 20), ("2 GiB", 2 << 30), ("1500kB", 1_500_000), ("1048576", 1 << 20)]
    {
        let settings = [("TASK_MEMORY_LIMIT", raw)];
        assert_eq!(limits(&settings), (Some(bytes), Some(bytes)));
    }
    assert_eq!(isolation(&[("TASK_ISOLATION", "thread")]), Isolation::Thread);
}

#[test]
fn files_of_credentials_are_read_before_the_first_call() {
    let (_folder, words) = file("two words");
    let words = words.to_str().unwrap();
    let https = ("ORCHESTRATOR_ADDRESS", "https://fleet:443");
    for (name, path, why) in [
        ("AUTH_TOKEN_FILE", "/no/such/token", "No such file"),
        ("AUTH_TOKEN_FILE", words, "one token"),
        ("ORCHESTRATOR_TLS_CA", "/no/such/ca.pem", "No such file"),
        ("ORCHESTRATOR_TLS_CA", words, "a PEM file"),
    ] {
        let problems = problems(&[https, (name, path)]);
        let [problem] = problems.as_slice() else { panic!("{name}={path}: {problems:?}") };
        assert!(problem.starts_with(&format!("{name} (environment {name}): ")), "{problem}");
        assert!(problem.contains(why), "{problem}");
    }
    let both = problems(&[https, ("AUTH_TOKEN_FILE", words), ("ORCHESTRATOR_TLS_CA", words)]);
    assert_eq!(both.len(), 2, "{both:?}");
}

#[test]
fn variables_that_contradict_each_other_are_refused() {
    let refused = |pairs: &[(&str, &str)], name: &str| {
        let problems = problems(pairs);
        assert!(problems.len() == 1 && problems[0].starts_with(name), "{problems:?}");
    };
    refused(&[("TRAINING_BACKEND", "cpu"), ("DEVICE_POLICY", "require")], "DEVICE_POLICY");
    refused(&[("TRAINING_BACKEND", "analytic"), ("DEVICE_POLICY", "require")], "DEVICE_POLICY");
    refused(&[("TRAINING_BACKEND", "wgpu"), ("DEVICE_POLICY", "cpu")], "DEVICE_POLICY");
    refused(&[("WORKER_PORT", "9000"), ("METRICS_PORT", "9000")], "METRICS_PORT");
    good(&[("WORKER_PORT", "0"), ("METRICS_PORT", "0")]);
    refused(&[("AWS_ACCESS_KEY_ID", "id")], "AWS_ACCESS_KEY_ID");
    refused(&[("AWS_SECRET_ACCESS_KEY", "key")], "AWS_SECRET_ACCESS_KEY");
    refused(&[("AWS_SESSION_TOKEN", "token")], "AWS_SESSION_TOKEN");
    // A certificate whose key is another one's.
    let (_folder, key) = file(&crate::guard::testing::Authority::new().issue("worker").key);
    let pair = [("TLS_CERT", AUTHORITY), ("TLS_KEY", key.to_str().unwrap())];
    refused(&pair, "TLS_KEY");
}

#[test]
fn a_token_in_plain_text_is_warned_of_where_it_leaves_the_machine() {
    let (_folder, token) = file("secret-1\n");
    let warnings = |address: &str| {
        let pairs = [("AUTH_TOKEN_FILE", token.to_str().unwrap()), ("ORCHESTRATOR_ADDRESS", address)];
        from_environment(&pairs).unwrap().warnings
    };
    for near in ["localhost:1", "127.0.0.1:1", "[::1]:1", "https://fleet:1"] {
        assert_eq!(warnings(near), Vec::<String>::new(), "{near}");
    }
    assert!(warnings("fleet:1")[0].contains("plain text"));
}

#[test]
fn another_token_for_the_orchestrator_goes_before_the_common_one() {
    let (_folder, common) = file("common\n");
    let (_other, own) = file("own\n");
    let (common, own) = (common.to_str().unwrap(), own.to_str().unwrap());
    let config = good(&[("AUTH_TOKEN_FILE", common), ("ORCHESTRATOR_TOKEN_FILE", own)]);
    assert_eq!(
        config.orchestrator.token_file,
        Some(SecretFile::new("ORCHESTRATOR_TOKEN_FILE", own.as_ref()))
    );
    assert_eq!(config.guard.token_file, Some(common.into()));
    let missing = problems(&[("AUTH_TOKEN_FILE", "/no/such/token")]);
    assert_eq!(missing.len(), 1, "one file is complained of once: {missing:?}");
}

#[test]
fn what_cannot_be_trained_is_simulated_only_where_nothing_else_was_asked_for() {
    let of = |pairs: &[(&str, &str)]| good(pairs).engine.unsupported_models;
    assert_eq!(of(&[("TRAINING_BACKEND", "analytic")]), UnsupportedModels::Simulate);
    assert_eq!(of(&[("TRAINING_BACKEND", "cpu")]), UnsupportedModels::Reject);
    assert_eq!(of(&[("TRAINING_BACKEND", "wgpu")]), UnsupportedModels::Reject);
    assert_eq!(
        of(&[("TRAINING_BACKEND", "cpu"), ("UNSUPPORTED_MODELS", "simulate")]),
        UnsupportedModels::Simulate
    );
}

#[test]
fn secrets_and_credentials_are_never_repeated() {
    let secrets: Vec<_> = VARIABLES.iter().filter(|variable| variable.secret).collect();
    assert!(!secrets.is_empty());
    for variable in secrets {
        match from_environment(&[(variable.name, "hunter2")]) {
            Ok(resolved) => assert!(!format!("{:?}", resolved.rows).contains("hunter2")),
            Err(errors) => assert!(!errors.to_string().contains("hunter2"), "{errors}"),
        }
    }
    let bad = problems(&[("ORCHESTRATOR_ADDRESS", "http://me:hunter2@host:1")]);
    assert!(!bad[0].contains("hunter2") && bad[0].contains("@host:1"), "{bad:?}");
    let bad = problems(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@otel/x")]);
    assert!(!bad[0].contains("hunter2"), "{bad:?}");
    let (_folder, path) = file("worker_port = 1\naws_key = \"hunter2\n");
    let torn = Config::resolve(&Layers { file: Some(path), ..Layers::default() }).unwrap_err().to_string();
    assert!(torn.contains("line 2") && !torn.contains("hunter2"), "{torn}");
}

#[test]
fn a_service_link_of_kubernetes_is_explained() {
    let problems = problems(&[("WORKER_PORT", "tcp://10.0.0.7:50052")]);
    assert!(problems[0].contains("enableServiceLinks"), "{problems:?}");
}

#[test]
fn durations_have_units() {
    for (raw, milliseconds) in [
        ("0", 0),
        ("0s", 0),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1h30m0s", 5_400_000),
        ("500ms", 500),
        ("1.5s", 1_500),
        ("1s250ms", 1_250),
        (" 2d ", 172_800_000),
        ("1000us", 1),
    ] {
        assert_eq!(duration(raw), Some(Duration::from_millis(milliseconds)), "{raw}");
    }
    for raw in
        ["", "30", "s", "1.2.3s", "5 m", "30m1h", "1s1s", "-1s", "1e3s", "NaNs", "infs", "1y", "401d", ".s"]
    {
        assert_eq!(duration(raw), None, "{raw}");
    }
}
