//! What people ask a worker and their machine: status, explain, doctor, completions, manual, docs.

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::*;
use tensorfleet_worker::config::Variable;
use tensorfleet_worker::dev::Contract;

fn run(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    command(settings).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

const CPU: &[(&str, &str)] = &[("TRAINING_BACKEND", "cpu")];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_from_afar_how_it_is_and_why_a_task_failed() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let address = orchestrator.local_addr();
    let worker = WorkerProcess::start(address, CPU);
    let job = submit(address, real_job(1)).await;
    wait_for_end(orchestrator.board(), &job).await;
    let lost = real_job(1);
    let lost = submit(
        address,
        tensorfleet_worker::wire::pb::TrainingJobRequest { dataset_path: "nowhere.csv".into(), ..lost },
    )
    .await;
    wait_for_end(orchestrator.board(), &lost).await;

    let grpc = worker.grpc.to_string();
    let output = run(&[], &["status", "--worker", &grpc, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (status, health) = (json(&output), worker.get_json("/health"));
    for name in ["worker_id", "backend", "version", "completed_tasks", "orchestrator_connection", "gpus"] {
        assert_eq!(status[name], health[name], "{name}");
    }
    assert_eq!(status["slots"]["total"], 3);
    let recent = status["recent"].as_array().unwrap();
    let failed = recent.iter().find(|ended| ended["status"] == "failed").expect("a failure").clone();
    assert!(recent.iter().any(|ended| ended["status"] == "completed" && ended["loss"].is_f64()));

    let output = run(&[], &["status", "--worker", &grpc]);
    for part in ["connected", "slots", "completed", failed["error_code"].as_str().unwrap()] {
        assert!(text(&output).contains(part), "{part} is missing in\n{}", text(&output));
    }

    let task = failed["task_id"].as_str().unwrap();
    let output = run(&[], &["explain", task, "--worker", &grpc]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for part in ["nowhere.csv", "NOT_FOUND", "to mend it", "DATA_ROOT"] {
        assert!(text(&output).contains(part), "{part} is missing in\n{}", text(&output));
    }
    let explained = json(&run(&[], &["explain", task, "--worker", &grpc, "--json"]));
    assert_eq!(
        (&explained["state"], &explained["details"]["error_code"]),
        (&"failed".into(), &"NOT_FOUND".into())
    );
    let output = run(&[], &["explain", "no-such-task", "--worker", &grpc, "--json"]);
    assert_eq!((output.status.code(), &json(&output)["state"]), (Some(1), &"unknown".into()));
    orchestrator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_through_an_absence_and_ends_with_a_signal() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let mut worker = WorkerProcess::start(orchestrator.local_addr(), CPU);
    let grpc = worker.grpc.to_string();
    let mut watch = command(&[])
        .args(["status", "--worker", &grpc, "--watch", "--interval", "100ms", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!(first["status"], "IDLE");
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    let away = lines.find(|line| line.contains("\"error\"")).unwrap();
    assert!(away.contains("does not answer"), "{away}");
    kill_process(Pid::from_raw(i32::try_from(watch.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(wait(&mut watch).code(), Some(130));

    let output = run(&[], &["status", "--worker", &grpc]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains(&grpc), "{}", text(&output));
    let output = run(&[], &["status", "--worker", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("--worker: \"nowhere\""), "{}", text(&output));
    orchestrator.shutdown().await;
}

/// What the doctor found of `check`: level, message and repair.
fn found(report: &Value, check: &str) -> (String, String, String) {
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("nothing about {check}: {report}"));
    let word = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    (word("level"), word("message"), word("repair"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_nothing_where_all_is_well() {
    for (contract, said) in [(Contract::Extended, "extended"), (Contract::Base, "base")] {
        let orchestrator = orchestrator(contract).await;
        let address = orchestrator.local_addr().to_string();
        let state = tempfile::tempdir().unwrap();
        let settings = [
            ("TRAINING_BACKEND", "cpu"),
            ("WORKER_PORT", "0"),
            ("METRICS_PORT", "0"),
            ("ORCHESTRATOR_ADDRESS", &address),
            ("STATE_DIR", state.path().to_str().unwrap()),
        ];
        let output = run(&settings, &["doctor", "--json"]);
        let report = json(&output);
        assert_eq!((output.status.code(), &report["ok"]), (Some(0), &true.into()), "{report}");
        assert!(found(&report, "orchestrator.grpc").1.contains(said), "{report}");
        for check in
            ["configuration", "state_dir", "clock", "gpu.adapter", "orchestrator.dns", "orchestrator.tcp"]
        {
            assert_eq!(found(&report, check).0, "ok", "{report}");
        }
        // A runner was tried; what it could give up depends on the kernel.
        let (level, message, _) = found(&report, "isolation");
        assert!(level != "error" && message.contains("Landlock ABI"), "{report}");
        // It left no trace: neither a worker at the orchestrator's nor a file.
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
        assert!(orchestrator.board().read(|board| board.worker_activity().is_empty()));
        orchestrator.shutdown().await;
    }
}

#[test]
fn the_doctor_tells_configuration_from_environment_and_says_what_mends_each() {
    let output = run(&[("WORKER_PORT", "high"), ("TASK_TIMEOUT", "soon")], &["doctor", "--json"]);
    let report = json(&output);
    assert_eq!((output.status.code(), &report["exit_code"]), (Some(2), &2.into()), "{report}");
    let wrong =
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == "configuration");
    assert_eq!(wrong.filter(|finding| finding["level"] == "error").count(), 2, "{report}");

    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let state = folder.path().join("file/state");
    let settings = [
        ("TRAINING_BACKEND", "cpu"),
        ("WORKER_PORT", "0"),
        ("METRICS_PORT", &port),
        ("ORCHESTRATOR_ADDRESS", "127.0.0.1:1"),
        ("STATE_DIR", state.to_str().unwrap()),
    ];
    let output = run(&settings, &["doctor", "--json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(3), "{report}");
    for (check, repair) in [("port.http", "METRICS_PORT=0"), ("orchestrator.tcp", "ORCHESTRATOR_ADDRESS")] {
        let (level, _, mends) = found(&report, check);
        assert!(level == "error" && mends.contains(repair), "{check}: {report}");
    }
    let output = run(&settings, &["doctor"]);
    assert!(
        text(&output).contains("to mend it:") && text(&output).contains(" errors, "),
        "{}",
        text(&output)
    );
    let output = run(&[("ORCHESTRATOR_ADDRESS", "no-such-name.invalid:1")], &["doctor", "--json"]);
    assert_eq!(found(&json(&output), "orchestrator.dns").0, "error");
}

#[test]
fn shells_and_readers_of_manuals_get_what_they_want() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&[], &["completions", shell]);
        assert!(output.status.success() && text(&output).contains("doctor"), "{shell}");
    }
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), run(&[], &["completions", "bash"]).stdout).unwrap();
    assert!(Command::new("bash").arg("-n").arg(script.path()).status().unwrap().success());
    let page = run(&[], &["man"]);
    assert!(text(&page).contains(".TH tensorfleet-worker 1"));
    let folder = tempfile::tempdir().unwrap();
    assert!(run(&[], &["man", "--out", folder.path().to_str().unwrap()]).status.success());
    assert!(folder.path().join("tensorfleet-worker-doctor.1").exists());
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Between these lines docs hold what the program says.
fn generated(name: &str) -> (String, String) {
    (format!("<!-- {name}: generated -->\n"), format!("<!-- {name}: end -->\n"))
}

/// With UPDATE_DOCS=1 the files are brought up to date instead.
#[test]
fn the_reference_in_the_docs_is_what_the_program_says() {
    for (file, name, arguments) in [
        ("docs/configuration.md", "variables", &["config", "docs"][..]),
        ("docs/models.md", "models", &["config", "docs", "--models"][..]),
    ] {
        let path = root().join(file);
        let said = String::from_utf8(run(&[], arguments).stdout).unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        let (begin, end) = generated(name);
        let (head, rest) = written.split_once(&begin).unwrap_or_else(|| panic!("{file} lacks {begin}"));
        let (body, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} lacks {end}"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, format!("{head}{begin}{said}{end}{tail}")).unwrap();
        } else {
            assert!(body == said, "{file} is out of date: UPDATE_DOCS=1 cargo test --test people");
        }
    }
}

fn documents() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    found.extend(
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "data/README.md"]
            .map(|name| root().join(name)),
    );
    found.sort();
    found
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut wrong = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            let elsewhere = link.contains("://") || link.starts_with('#');
            if !elsewhere && !path.parent().unwrap().join(file).exists() {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The commands of blocks that begin with ```sh run, each block in an empty folder of its own.
#[test]
fn the_commands_in_the_docs_work() {
    let mut blocks = 0;
    let program = Path::new(PROGRAM).parent().unwrap().display().to_string();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap());
    for file in documents() {
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("```sh run\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let folder = tempfile::tempdir().unwrap();
            let output = Command::new("bash")
                .args(["-euo", "pipefail", "-c", block])
                .current_dir(folder.path())
                .env("PATH", &path)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}:\n{block}\n{}", file.display(), text_of(&output));
            blocks += 1;
        }
    }
    assert!(blocks >= 8, "only {blocks} blocks were found");
}

/// Blocks with commands that stand in the docs to be read.
fn shown_blocks(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Their lines: the variables that each sets, and what it would run with which arguments.
fn shown_commands(file: &Path) -> Vec<(Vec<String>, Vec<String>)> {
    let words = |line: &str| {
        let line = line.split(" #").next().unwrap().replace("cargo run --release -- ", "tensorfleet-worker ");
        let words: Vec<_> =
            line.split_whitespace().map(str::to_owned).filter(|word| word != "&" && word != "\\").collect();
        // Settings in front of a command.
        let name = |word: &String| word.split_once('=').map(|(name, _)| name.to_owned());
        let is_name = |name: &String| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let set: Vec<_> = words.iter().map_while(|word| name(word).filter(is_name)).collect();
        let rest = words[set.len()..].to_vec();
        (set, rest)
    };
    let blocks = shown_blocks(file);
    blocks.iter().flat_map(|block| block.lines()).map(words).filter(|(_, words)| !words.is_empty()).collect()
}

/// What cannot run here, for want of a cluster or of time, is written as this program and these files would have it.
#[test]
fn commands_that_the_docs_only_show_have_flags_and_files_that_exist() {
    let (mut ours, mut files) = (0, 0);
    for file in documents() {
        for (set, words) in shown_commands(&file) {
            if words[0] == "tensorfleet-worker" {
                for name in &set {
                    assert!(
                        Variable::find(name).is_some(),
                        "{}: {name} in front of {words:?}",
                        file.display()
                    );
                }
                let output = command(&[]).args(&words[1..]).arg("--help").output().unwrap();
                assert!(output.status.success(), "{}: {words:?}: {}", file.display(), text(&output));
                ours += 1;
            }
            for word in words.iter().filter(|word| {
                let word = word.trim_start_matches("./");
                ["deploy/", "scripts/", "Dockerfile"].iter().any(|start| word.starts_with(start))
            }) {
                assert!(root().join(word).exists(), "{}: {word}", file.display());
                files += 1;
            }
        }
    }
    assert!(ours >= 10 && files >= 5, "{ours} commands and {files} files were found");
}

#[test]
fn the_trainings_of_the_readme_train() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..60).map(|row| format!("{row},{},{}\n", row % 7, 3 * row + row % 7)).collect();
    std::fs::write(folder.path().join("my.csv"), format!("size,rooms,price\n{rows}")).unwrap();
    let mut trained = 0;
    for words in shown_commands(&root().join("README.md"))
        .iter()
        .map(|(_, words)| words)
        .filter(|words| words.get(1).is_some_and(|word| word == "train"))
    {
        let words = words[1..].iter().map(|word| word.replace("/tmp/", "./"));
        let output = command(&[]).args(words).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        trained += 1;
    }
    assert_eq!(trained, 3);
    assert!(folder.path().join("wine/model.safetensors").exists());
}

/// The block is run as it stands, on ports that are free here instead of the usual ones.
#[test]
fn both_sides_of_the_readme_work_together() {
    let block = shown_blocks(&root().join("README.md"))
        .into_iter()
        .find(|block| block.contains("tensorfleet-worker orchestrator &"))
        .expect("the README shows how to try both sides");
    // Held together, so that they differ.
    let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [orchestrator, grpc, http] = ports.map(|port| port.local_addr().unwrap().port());
    let block = block
        .replace("tensorfleet-worker orchestrator", &format!("tensorfleet-worker orchestrator --listen 127.0.0.1:{orchestrator}"))
        .replace("tensorfleet-worker submit", &format!("tensorfleet-worker submit --orchestrator 127.0.0.1:{orchestrator}"))
        .replace("localhost:2112", &format!("127.0.0.1:{http}"))
        // Whoever types it takes longer than the orchestrator to begin.
        .replace("\nTRAINING_BACKEND", &format!(
            "\ntimeout 60 bash -c 'until (: > /dev/tcp/127.0.0.1/{orchestrator}); do sleep 0.1; done' 2> /dev/null\nTRAINING_BACKEND"
        ));
    let ending = "wait %2\nkill %1\n";
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(PROGRAM).parent().unwrap().display().to_string();
    let output = Command::new("bash")
        .args([
            "-euo",
            "pipefail",
            "-c",
            &format!("trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{block}{ending}"),
        ])
        .current_dir(folder.path())
        .env("PATH", format!("{program}:{}", std::env::var("PATH").unwrap()))
        .envs([("WORKER_PORT", grpc), ("METRICS_PORT", http)].map(|(name, port)| (name, port.to_string())))
        .env("ORCHESTRATOR_ADDRESS", format!("127.0.0.1:{orchestrator}"))
        .output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    // What curl shows of the worker.
    assert!(said.contains("\"completed_tasks\":100"), "{said}");
}

fn text_of(output: &Output) -> String {
    text(output)
}
