//! What a training is made of, and how it ends when its thread does not end well.

use std::path::Path;

use super::*;
use crate::cli::{Cli, Command};

fn order_of(line: &str, environment: &[(&str, &str)]) -> Order {
    let words = ["tensorfleet-worker", "train"].into_iter().chain(line.split_whitespace());
    let cli = Cli::parse_arguments(words.map(Into::into)).unwrap_or_else(|error| panic!("{line}: {error}"));
    let Command::Train(args) = cli.command else { panic!("{line} is no training") };
    let environment = environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    order(&args, &environment).unwrap_or_else(|error| panic!("{line}: {error}")).0
}

#[test]
fn the_data_root_is_the_flag_then_the_environment_then_the_current_folder() {
    let root = |line: &str, environment: &[(&str, &str)]| order_of(line, environment).config.data.root;
    assert_eq!(root("", &[]), Path::new("."));
    assert_eq!(root("", &[("DATA_ROOT", " ")]), Path::new("."));
    assert_eq!(root("", &[("DATA_ROOT", "/srv")]), Path::new("/srv"));
    assert_eq!(root("--data-root /other", &[("DATA_ROOT", "/srv")]), Path::new("/other"));
}

#[test]
fn the_device_policy_of_the_environment_holds_where_no_backend_is_named() {
    let policy = |line: &str, text: &str| order_of(line, &[("DEVICE_POLICY", text)]).config.device_policy;
    assert_eq!(policy("", "require"), DevicePolicy::Require);
    assert_eq!(policy("--backend auto", "require"), DevicePolicy::Require);
    assert_eq!(policy("--backend wgpu", "require"), DevicePolicy::Require);
    assert_eq!(policy("--backend cpu", "require"), DevicePolicy::Cpu);
    assert_eq!(policy("--set backend=analytic", "require"), DevicePolicy::Cpu);
    assert_eq!(policy("--backend wgpu", "cpu"), DevicePolicy::Cpu);
}

#[test]
fn what_concerns_only_the_worker_is_not_looked_at() {
    let order =
        order_of("", &[("MAX_CONCURRENT_TASKS", "many"), ("TLS_CERT", "x"), ("TRAINING_BACKEND", "cuda")]);
    assert_eq!(order.config.backend, BackendChoice::Auto);
}

#[tokio::test]
async fn a_panic_of_the_trainer_is_a_failure_not_a_lack_of_the_machine() {
    let watcher = training::Watcher::new(&order_of("", &[]), ui::Board::new());
    let mut signals = Signals::listen().unwrap();
    let ended = follow(|_| panic!("a defect"), watcher, &mut signals).await.unwrap();
    let failure = Failure::from(TaskError::from(ended.unwrap_err()));
    assert_eq!(failure.exit_code(), 1);
    assert!(failure.to_string().contains("panicked"), "{failure}");
}
