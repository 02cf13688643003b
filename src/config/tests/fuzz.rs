//! Files and environments that nobody would write.

use super::*;
use crate::fuzz;

const GOOD: &str = "worker_id = \"w\"\nSTRICT_HYPERPARAMETERS = true\nport = 7\nHEARTBEAT_INTERVAL = \"1m\"\n\
                    orchestrator_address = \"https://fleet:443\"\nanalytic_epoch_delay = \"200ms..500ms\"\n\
                    log_level = \"info,tensorfleet_worker::engine=debug\"\nlisten_address = \"::1\"\n\
                    max_concurrent_tasks = 9\ndata_root = \"/data\"\nmetrics_tls = \"auto\"\n";

/// Either a configuration, or errors that say so and hold no control characters of the input.
fn is_told(resolved: Result<Resolved, ConfigErrors>) {
    if let Err(errors) = resolved {
        assert!(!errors.0.is_empty());
        let text = errors.to_string();
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

#[test]
fn fuzz_files() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = folder.path().join("worker.toml");
    fuzz::run("a configuration file", &[GOOD.as_bytes().to_vec()], |bytes| {
        std::fs::write(&path, bytes).unwrap();
        is_told(Config::resolve(&Layers { file: Some(path.clone()), ..Layers::default() }));
    });
}

#[test]
fn fuzz_environments() {
    let good = VARIABLES.iter().filter_map(|variable| variable.default).chain(GOOD.split(['"', '\n']));
    let good: Vec<_> = good.filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec()).collect();
    let mut number = 0;
    fuzz::run("a value of the environment", &good, |bytes| {
        number += 1;
        let variable = &VARIABLES[number % VARIABLES.len()];
        let value = String::from_utf8_lossy(bytes).into_owned();
        // Whatever file is named here would be read.
        let names_a_file = variable.name.contains("TLS_C") || variable.name.ends_with("_FILE");
        let value = if names_a_file { format!("/no/such/{value}") } else { value };
        is_told(from_environment(&[(variable.name, &value)]));
    });
}
