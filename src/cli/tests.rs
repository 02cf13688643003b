//! What the command line takes, and how it is answered.

use clap::CommandFactory as _;
use serde_json::json;

use super::*;
use crate::config::VARIABLES;
use crate::domain::{Backend, BackendChoice, InvalidField, TaskError};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = std::iter::once("tensorfleet-worker").chain(line.split_whitespace());
    Cli::parse_arguments(words.map(OsString::from))
}

fn command(line: &str) -> Command {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command
}

fn refusal(line: &str) -> String {
    let error = parse(line).map(|_| ()).expect_err(line);
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string()
}

/// Metrics as a training might leave them.
pub(super) fn metrics() -> Metrics {
    let epoch = |epoch: u32, loss, accuracy| Epoch {
        epoch,
        loss,
        accuracy,
        validation_loss: Some(loss + 0.1),
        validation_accuracy: Some(accuracy - 0.05),
    };
    let epochs = vec![epoch(1, 0.5, 0.8), epoch(2, 0.25, 0.9)];
    Metrics {
        model_type: "neural_network".into(),
        dataset: "builtin:digits".into(),
        backend: "cpu".into(),
        simulated: false,
        rows_train: Some(1438),
        rows_validation: Some(359),
        last: epochs.last().map(Into::into),
        epochs,
        seconds: 1.5,
        samples_per_second: 2000.0,
        seed: 7,
        version: "0.1.0",
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn run_is_meant_where_no_command_is_given() {
    assert!(matches!(command(""), Command::Run(_)));
    let Command::Run(args) = command("--worker-port 0 --strict-hyperparameters --config a.toml") else {
        panic!("not run")
    };
    assert_eq!(args.flags.values.get("WORKER_PORT").unwrap(), "0");
    assert_eq!(args.flags.values.get("STRICT_HYPERPARAMETERS").unwrap(), "true");
    assert_eq!(args.flags.file, Some("a.toml".into()));
    assert!(Cli::parse_arguments(Vec::new()).is_ok());
    for line in ["--help", "--version", "run --help"] {
        assert_eq!(parse(line).map(|_| ()).unwrap_err().exit_code(), 0, "{line}");
    }
}

#[test]
fn every_variable_is_a_flag_of_run_and_of_config() {
    for variable in VARIABLES {
        for start in ["", "run", "config show", "config check"] {
            let line = format!("{start} --{} 5", variable.flag());
            let flags = match command(&line) {
                Command::Run(args) => args.flags,
                Command::Config(config::Args { action }) => match action {
                    config::Action::Show(args) | config::Action::Check(args) => args.flags,
                    config::Action::Docs(args) => panic!("{line}: {args:?}"),
                },
                other => panic!("{line}: {other:?}"),
            };
            assert_eq!(flags.values.get(variable.name).map(String::as_str), Some("5"), "{line}");
        }
    }
}

#[test]
fn other_names_of_a_variable_are_flags_too() {
    for (line, name) in [
        ("--port 7", "WORKER_PORT"),
        ("run --orchestrator-addr 7", "ORCHESTRATOR_ADDRESS"),
        ("config show --port 7", "WORKER_PORT"),
    ] {
        let flags = match command(line) {
            Command::Run(args) => args.flags,
            Command::Config(config::Args { action: config::Action::Show(args) }) => args.flags,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(flags.values.get(name).map(String::as_str), Some("7"), "{line}");
    }
    assert!(matches!(command("submit --orchestrator-addr host:1"), Command::Submit(_)));
    let help = parse("run --help").map(|_| ()).unwrap_err().to_string();
    assert!(!help.contains("--port "), "they stay out of the help");
}

#[test]
fn unknown_names_lead_to_the_nearest_known_one() {
    for (line, nearest) in [
        ("--worker-prot 1", "--worker-port"),
        ("run --log-levl info", "--log-level"),
        ("demo --epoch 3", "--epochs"),
        ("train --datset x", "--dataset"),
        ("submit --wiat", "--wait"),
        ("orchestrator --leas 3s", "--lease"),
        ("config shwo", "show"),
        ("trian", "train"),
    ] {
        let text = refusal(line);
        assert!(text.contains(nearest), "{line}: {text}");
    }
}

#[test]
fn the_demo_has_its_defaults() {
    let Command::Demo(args) = command("demo") else { panic!("not demo") };
    assert_eq!((args.workers, args.epochs, args.keep, args.json), (2, 10, false, false));
    assert_eq!((args.model_type.as_str(), args.dataset.as_str()), ("neural_network", "builtin:digits"));
    for line in ["demo --workers 0", "demo --epochs 0", "demo --epochs -1", "demo --model-type a/b"] {
        refusal(line);
    }
}

#[test]
fn a_training_takes_its_settings() {
    let Command::Train(args) = command(
        "train --model-type mlp --set learning_rate=0.01 --set hidden_layers=64,32 --backend cpu --seed 3",
    ) else {
        panic!("not train")
    };
    assert_eq!(args.backend, Some(BackendChoice::Only(Backend::Cpu)));
    assert_eq!(args.seed, Some(3));
    let names: Vec<_> = args.settings.iter().map(|setting| setting.name.as_str()).collect();
    assert_eq!(names, ["learning_rate", "hidden_layers"]);
    assert_eq!(args.data_root, None);
    assert!(refusal("train --set learning_rate").contains("NAME=VALUE"));
    assert!(refusal("train --set =3").contains("NAME=VALUE"));
    assert!(refusal("train --backend cuda").contains("auto, wgpu, cpu or analytic"));
}

#[test]
fn a_value_may_hold_an_equals_sign() {
    let setting: Setting = "description=a=b".parse().unwrap();
    assert_eq!(setting, Setting { name: "description".into(), value: "a=b".into() });
}

#[test]
fn settings_are_checked_strictly_and_once() {
    let check = |pairs: &[&str]| -> Result<job::Settings, InvalidField> {
        job::Settings::check(pairs.iter().map(|pair| pair.parse().unwrap()).collect())
    };
    assert_eq!(check(&["learning_rate=0.5"]).unwrap().checked.learning_rate, Some(0.5));
    let unknown = check(&["learning_rat=0.5"]).unwrap_err();
    assert!(unknown.to_string().contains("learning_rate"), "{unknown}");
    let twice = check(&["seed=1", "seed=2"]).unwrap_err();
    assert!(twice.to_string().contains("\"2\"") && twice.to_string().contains("\"1\""), "{twice}");
    assert!(check(&["batch_size=0"]).is_err());
}

#[test]
fn an_orchestrator_is_told_where_and_how() {
    let Command::Orchestrator(args) = command("orchestrator --listen 127.0.0.1:0 --base --lease 2s") else {
        panic!("not orchestrator")
    };
    assert_eq!((args.listen.port(), args.base, args.lease.as_secs()), (0, true, 2));
    refusal("orchestrator --listen localhost");
    assert!(refusal("orchestrator --lease 2").contains("a duration"));
    for lease in ["0", "200ms", "999ms"] {
        assert!(refusal(&format!("orchestrator --lease {lease}")).contains("at least 1s"), "{lease}");
    }
    assert!(matches!(command("orchestrator --lease 1s"), Command::Orchestrator(_)));
    let help = parse("orchestrator --help").map(|_| ()).unwrap_err().to_string();
    assert!(help.contains("DEVELOPMENT ONLY"), "{help}");
}

#[test]
fn a_job_is_sent_to_an_address() {
    let Command::Submit(args) = command("submit --orchestrator host:1 --epochs 2 --wait --json") else {
        panic!("not submit")
    };
    assert_eq!(args.orchestrator.as_deref(), Some("host:1"));
    assert!(args.wait && args.json);
    assert!(matches!(command("submit --orchestrator-address host:1"), Command::Submit(_)));
}

#[tokio::test]
async fn a_bad_job_is_refused_before_anything_is_sent() {
    let environment = Environment::new();
    for (line, part) in [
        ("submit --orchestrator nowhere", "ORCHESTRATOR_ADDRESS"),
        ("submit --set batch_size=0", "hyperparameters.batch_size"),
        ("submit --set batchsize=8", "batch_size"),
        ("submit --job-id é", "job_id"),
    ] {
        let failure = execute(command(line), &environment).await.unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{line}: {failure}");
        assert!(failure.to_string().contains(part), "{line}: {failure}");
    }
}

#[tokio::test]
async fn an_orchestrator_that_does_not_answer_is_said_in_one_line() {
    // Bound, never listened on: nobody else gets the port, and every connection is refused.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let line = format!("submit --orchestrator {}", socket.local_addr().unwrap());
    let failure = execute(command(&line), &Environment::new()).await.unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    let text = failure.to_string();
    assert!(text.contains("does not answer") && text.contains("refused") && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn a_job_goes_to_a_real_orchestrator() {
    let config = crate::dev::DevConfig { listen: ([127, 0, 0, 1], 0).into(), ..Default::default() };
    let orchestrator = crate::dev::DevOrchestrator::start(config).await.unwrap();
    let address = orchestrator.local_addr();
    let line = format!("submit --orchestrator {address} --job-id j1 --epochs 3 --set batch_size=16");
    assert_eq!(execute(command(&line), &Environment::new()).await.unwrap(), Exit::Done);
    let jobs = orchestrator.board().read(crate::dev::Board::jobs);
    assert_eq!((jobs[0].job_id.as_str(), jobs[0].total), ("j1", 30));
    let failure = execute(command(&line), &Environment::new()).await.unwrap_err();
    assert_eq!(failure.exit_code(), 1);
    assert!(failure.to_string().contains("j1"), "{failure}");
    orchestrator.shutdown().await;
}

#[test]
fn metrics_have_the_shape_of_the_contract() {
    let value = serde_json::to_value(metrics()).unwrap();
    let close = |value: &serde_json::Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    assert_eq!(value["model_type"], "neural_network");
    assert_eq!(value["dataset"], "builtin:digits");
    assert_eq!((&value["backend"], &value["simulated"]), (&json!("cpu"), &json!(false)));
    assert_eq!((&value["rows_train"], &value["rows_validation"]), (&json!(1438), &json!(359)));
    assert_eq!(value["epochs"][1]["epoch"], 2);
    assert!(close(&value["epochs"][0]["validation_accuracy"], 0.75));
    assert_eq!(value["final"]["loss"], 0.25);
    assert!(close(&value["final"]["validation_loss"], 0.35));
    assert_eq!((&value["seed"], &value["version"]), (&json!(7), &json!("0.1.0")));
    let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(
        keys,
        [
            "backend",
            "dataset",
            "epochs",
            "final",
            "model_type",
            "rows_train",
            "rows_validation",
            "samples_per_second",
            "seconds",
            "seed",
            "simulated",
            "version"
        ]
    );
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    let codes =
        [Exit::Done, Exit::Failed, Exit::BadUsage, Exit::Environment, Exit::Interrupted].map(Exit::code);
    assert_eq!(codes, [0, 1, 2, 3, 130]);
    let training = |code| Failure::Training(TaskError::new(code, "")).exit_code();
    use crate::domain::ErrorCode;
    assert_eq!(training(ErrorCode::Diverged), 1);
    assert_eq!(training(ErrorCode::InvalidArgument), 2);
    assert_eq!(training(ErrorCode::Panic), 1);
    assert_eq!(training(ErrorCode::Unavailable), 3);
    assert_eq!(Failure::Interrupted.exit_code(), 130);
}
