//! Commands that the docs show, run against real workers: on ports that are free here, with ids and files that exist.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tensorfleet_worker::dev::Contract;
use tensorfleet_worker::wire::pb;

use super::blocks::{blocks, root, shown};
use super::certificates::{Authority, replace};
use super::support::{WorkerProcess, eventually, orchestrator, real_job, submit, wait, wait_for_end};
use super::{Way, known_by, shell, text};

const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

#[test]
fn the_trainings_train() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..60).map(|row| format!("{row},{},{}\n", row % 7, 3 * row + row % 7)).collect();
    std::fs::write(folder.path().join("my.csv"), format!("size,rooms,price\n{rows}")).unwrap();
    let trainings = known_by(Way::Train);
    for training in &trainings {
        let output = shell(&training.replace("/tmp/", "./"), folder.path()).output().unwrap();
        assert!(output.status.success(), "{training}: {}", text(&output));
    }
    assert_eq!(trainings.len(), 3);
    assert!(folder.path().join("wine/model.safetensors").exists());
}

#[test]
fn the_demo_is_one_command() {
    for demo in known_by(Way::Demo) {
        let folder = tempfile::tempdir().unwrap();
        let output = shell(&demo, folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("100 of 100 tasks"), "{}", text(&output));
    }
}

/// The settings are those of the docs: its orchestrator is not there, and the worker starts and waits for it.
#[test]
fn a_worker_starts_with_the_settings_that_are_shown() {
    let known = known_by(Way::Serve);
    for line in shown().iter().filter(|line| known.contains(&line.text)) {
        assert_eq!(line.words(), ["tensorfleet-worker"], "{}", line.place);
        let mut settings = line.settings();
        let address = settings.iter().position(|(name, _)| *name == "ORCHESTRATOR_ADDRESS").unwrap();
        let (_, orchestrator) = settings.remove(address);
        let mut worker = WorkerProcess::start_at(orchestrator, &settings);
        assert_eq!(worker.get("/livez").0, 200);
        assert_eq!(worker.get_json("/api/v1/status")["orchestrator"], format!("http://{orchestrator}"));
        worker.signal(Signal::TERM);
        assert_eq!(worker.wait().code(), Some(0), "{:#?}", worker.log());
    }
}

/// The block is run as it stands, on ports that are free here instead of the usual ones.
#[test]
fn both_sides_work_together() {
    let block = blocks()
        .into_iter()
        .find(|block| block.language == "sh" && block.text.contains("tensorfleet-worker orchestrator &"))
        .expect("the README shows how to try both sides");
    // Each of the commands that count as run is in it.
    for line in known_by(Way::BothSides) {
        assert!(block.text.contains(&line), "{line} is not in {}", block.place);
    }
    // Held together, so that they differ.
    let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [orchestrator, grpc, http] = ports.map(|port| port.local_addr().unwrap().port());
    let block = block
        .text
        .replace("tensorfleet-worker orchestrator", &format!("tensorfleet-worker orchestrator --listen 127.0.0.1:{orchestrator}"))
        .replace("tensorfleet-worker submit", &format!("tensorfleet-worker submit --orchestrator 127.0.0.1:{orchestrator}"))
        .replace("localhost:2112", &format!("127.0.0.1:{http}"))
        // Whoever types it takes longer than the orchestrator to begin.
        .replace("\nTRAINING_BACKEND", &format!(
            "\ntimeout 60 bash -c 'until (: > /dev/tcp/127.0.0.1/{orchestrator}); do sleep 0.1; done' 2> /dev/null\nTRAINING_BACKEND"
        ));
    let ending = "wait %2\nkill %1\n";
    let folder = tempfile::tempdir().unwrap();
    let script = format!("trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{block}{ending}");
    let output = shell(&script, folder.path())
        .envs([("WORKER_PORT", grpc), ("METRICS_PORT", http)].map(|(name, port)| (name, port.to_string())))
        .env("ORCHESTRATOR_ADDRESS", format!("127.0.0.1:{orchestrator}"))
        .output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    // What curl shows of the worker.
    assert!(said.contains("\"completed_tasks\":100"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers_what_it_is_asked() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let address = orchestrator.local_addr().to_string();
    let worker = WorkerProcess::start(orchestrator.local_addr(), &[("TRAINING_BACKEND", "cpu")]);
    let job = pb::TrainingJobRequest { dataset_path: "nowhere.csv".into(), ..real_job(1) };
    let job = submit(orchestrator.local_addr(), job).await;
    wait_for_end(orchestrator.board(), &job).await;
    let tasks = worker.get_json("/api/v1/tasks");
    let task = tasks["recent"][0]["task_id"].as_str().expect("a task that failed").to_owned();
    let (grpc, http) = (worker.grpc.to_string(), worker.http.to_string());
    let settings = [
        ("ORCHESTRATOR_ADDRESS", address.as_str()),
        ("TRAINING_BACKEND", "cpu"),
        ("WORKER_PORT", "0"),
        ("METRICS_PORT", "0"),
    ];
    // Heartbeats come each second, and one of the commands counts them.
    eventually("heartbeats are counted", || worker.get("/metrics").1.contains("method=\"Heartbeat\""));
    for line in known_by(Way::Ask) {
        let mut here = line.replace("127.0.0.1:50052", &grpc).replace("127.0.0.1:2112", &http);
        here = here.replace("TASK", &task);
        let asks = here.contains(" status") || here.contains(" explain");
        if asks && !here.contains("--worker") {
            here.push_str(&format!(" --worker {grpc}"));
        }
        let folder = tempfile::tempdir().unwrap();
        if here.contains("--watch") {
            watches(&here, folder.path());
            continue;
        }
        let mut shell = shell(&here, folder.path());
        shell.envs(settings);
        if here.ends_with(" health") {
            // It asks the worker that has its own settings.
            shell.env("METRICS_PORT", worker.http.port().to_string());
        }
        let output = shell.output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{here}: {said}");
        let expected = match line.split([' ', '/']).collect::<Vec<_>>()[..] {
            [_, "health"] => "\"ok\"",
            [_, "status", ..] | [.., "health"] => "failed",
            [_, "explain", ..] | [.., "tasks"] => "nowhere.csv",
            [_, "doctor"] => "extended contract",
            [.., "livez"] => "",
            [.., "metrics", "|", "grep", _] => "Heartbeat",
            _ => panic!("{line}: what should it say?"),
        };
        assert!(said.contains(expected), "{here}: {said}");
    }
    orchestrator.shutdown().await;
}

/// Goes on until it is interrupted.
fn watches(line: &str, folder: &Path) {
    let mut watch = shell(&format!("exec {line}"), folder).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    let mut first = String::new();
    while !first.contains("slots") {
        assert!(lines.read_line(&mut first).unwrap() > 0, "{line} ended: {first}");
    }
    kill_process(Pid::from_raw(i32::try_from(watch.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    lines.read_to_string(&mut first).unwrap();
    assert_eq!(wait(&mut watch).code(), Some(130), "{first}");
}

/// A worker behind TLS and a token, and the folder with the files that the commands name.
fn secured() -> (WorkerProcess, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let issued = authority.issue("worker");
    for (name, content) in [
        ("ca.pem", authority.pem.as_str()),
        ("tls.crt", &issued.certificate),
        ("tls.key", &issued.key),
        ("token", "0123456789abcdef"),
    ] {
        replace(&folder.path().join(name), content);
    }
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key, token) = (path("tls.crt"), path("tls.key"), path("token"));
    let settings = [("TLS_CERT", certificate.as_str()), ("TLS_KEY", &key), ("AUTH_TOKEN_FILE", &token)];
    (WorkerProcess::start(NOBODY, &settings), folder)
}

#[test]
fn the_configuration_is_shown_and_checked() {
    for line in known_by(Way::Config) {
        let folder = tempfile::tempdir().unwrap();
        let output = shell(&line, folder.path()).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{line}: {}", text(&output));
    }
}

#[test]
fn a_secured_worker_lets_in_who_shows_the_token() {
    let grpcurl = root().join("target/tools/grpcurl");
    assert!(grpcurl.exists(), "{} is missing: scripts/check-deploy --tools builds it", grpcurl.display());
    let (worker, folder) = secured();
    for line in known_by(Way::Secured) {
        let (grpc, http) = (worker.grpc.port(), worker.http.port());
        let here = line
            .replace("worker:2112", &format!("localhost:{http}"))
            .replace(" worker:50052 ", &format!(" localhost:{grpc} "));
        let output = shell(&here, folder.path()).output().unwrap();
        let said = text(&output);
        // Go's JSON of protobuf writes names in its own way.
        assert!(
            output.status.success() && said.to_lowercase().replace('_', "").contains("workerid"),
            "{here}: {said}"
        );
        replace(&folder.path().join("token"), "0123456789abcdef");
        let stranger = here.replace("$(cat token)", "wrong");
        let said = text(&shell(&stranger, folder.path()).output().unwrap()).to_lowercase();
        assert!(said.contains("unauthenticated"), "{stranger}: {said}");
    }
}

#[test]
fn openssl_tells_when_a_certificate_ends() {
    let (worker, folder) = secured();
    for line in known_by(Way::Certificates) {
        let here = line.replace("127.0.0.1:50052", &worker.grpc.to_string());
        let output = shell(&here, folder.path()).output().unwrap();
        assert!(output.status.success() && text(&output).contains("notAfter="), "{here}: {}", text(&output));
    }
}

/// From the package that scripts/test installs, in place of the one that would be loaded.
#[test]
fn the_data_sets_are_made_from_the_package() {
    let packages = root().join(".venv/lib");
    let found =
        std::fs::read_dir(&packages).unwrap().flatten().map(|entry| entry.path().join("site-packages"));
    let packages: Vec<_> = found.filter(|path| path.join("sklearn/datasets/data").exists()).collect();
    let [packages] = &packages[..] else { panic!("scikit-learn is missing: scripts/test installs it") };
    for line in known_by(Way::DataSets) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["scripts", "data"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let script = "scripts/make-datasets.py";
        std::fs::copy(root().join(script), folder.path().join(script)).unwrap();
        let wheel = folder.path().join("scikit_learn-1-any.whl");
        let zipped = Command::new("python3")
            .args(["-m", "zipfile", "--create"])
            .arg(&wheel)
            .arg("sklearn/")
            .current_dir(pack(packages, folder.path()))
            .output()
            .unwrap();
        assert!(zipped.status.success(), "{}", text(&zipped));
        let output = shell(&line, folder.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output));
        for name in ["iris", "wine", "breast_cancer", "digits"] {
            let file = format!("data/{name}.csv");
            let made = std::fs::read(folder.path().join(&file)).unwrap();
            assert!(made == std::fs::read(root().join(&file)).unwrap(), "{file} is another one");
        }
    }
}

/// A copy of the data sets alone, laid out as in the package.
fn pack(packages: &Path, folder: &Path) -> std::path::PathBuf {
    let (data, top) = ("sklearn/datasets/data", folder.join("package"));
    std::fs::create_dir_all(top.join(data)).unwrap();
    for entry in std::fs::read_dir(packages.join(data)).unwrap().flatten() {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), top.join(data).join(entry.file_name())).unwrap();
        }
    }
    top
}
