//! Commands that need a container engine or a cluster: run as far as these files decide what they do.

use std::process::Command;

use serde_json::Value;
use tensorfleet_worker::dev::Contract;

use super::blocks::root;
use super::support::{WorkerProcess, orchestrator};
use super::{Way, known_by, shell, text};

fn tool(name: &str) -> Command {
    let tool = root().join("target/tools").join(name);
    assert!(tool.exists(), "{} is missing: scripts/check-deploy --tools installs it", tool.display());
    let mut command = Command::new(tool);
    command.current_dir(root());
    command
}

/// The services of compose files, as Compose itself reads them.
fn services(files: &[&str]) -> Value {
    let output = tool("compose-go").args(["-format", "json"]).args(files).output().unwrap();
    assert!(output.status.success(), "{files:?}: {}", text(&output));
    let project: Value = serde_json::from_slice(&output.stdout).unwrap();
    project["services"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_has_the_services_that_are_scaled_and_run() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let _worker = WorkerProcess::start(orchestrator.local_addr(), &[("TRAINING_BACKEND", "cpu")]);
    for line in known_by(Way::Compose) {
        let mut words = line.strip_prefix("docker compose ").unwrap().split(' ');
        let (mut files, mut verb) = (Vec::new(), "");
        while let Some(word) = words.next() {
            match word {
                "--file" => files.push(words.next().unwrap()),
                word => {
                    verb = word;
                    break;
                }
            }
        }
        let services = services(&files);
        match verb {
            "up" => up(&line, &services, words),
            "run" => {
                let words: Vec<_> = words.collect();
                let ["--rm", service, arguments @ ..] = &words[..] else { panic!("{line}: {words:?}") };
                // What the container would run, here.
                let entrypoint =
                    services[service]["entrypoint"].as_array().unwrap_or_else(|| panic!("{line}"));
                let entrypoint = entrypoint.iter().map(|word| word.as_str().unwrap());
                let all: Vec<_> = entrypoint.chain(arguments.iter().copied()).collect();
                let here =
                    all.join(" ").replace("orchestrator:50051", &orchestrator.local_addr().to_string());
                let folder = tempfile::tempdir().unwrap();
                let output = shell(&here, folder.path()).output().unwrap();
                assert!(output.status.success(), "{here}: {}", text(&output));
                assert!(text(&output).contains("COMPLETED"), "{here}: {}", text(&output));
            }
            _ => panic!("{line}: how should `{verb}` be run here?"),
        }
    }
    orchestrator.shutdown().await;
}

fn up<'a>(line: &str, services: &Value, mut words: impl Iterator<Item = &'a str>) {
    while let Some(word) = words.next() {
        match word {
            "--build" => {
                let built =
                    services.as_object().unwrap().values().filter(|service| service["build"].is_object());
                let mut files = 0;
                for service in built {
                    let file = service["build"]["dockerfile"].as_str().unwrap();
                    assert!(root().join(file).exists(), "{line}: {file}");
                    files += 1;
                }
                assert!(files >= 1, "{line}: nothing is built");
            }
            "--scale" => {
                let (service, count) = words.next().and_then(|scale| scale.split_once('=')).unwrap();
                assert!(count.parse::<u32>().is_ok(), "{line}");
                let ports =
                    services[service]["ports"].as_array().unwrap_or_else(|| panic!("{line}: {service}"));
                assert!(
                    ports.iter().all(|port| port["published"].is_null()),
                    "{line}: {ports:?} can be taken once"
                );
            }
            _ => panic!("{line}: how should `{word}` be run here?"),
        }
    }
}

/// A version that the chart allows.
const KUBERNETES: &str = "1.34.1";

/// `helm template` renders what `helm install` would send to a cluster, from the same arguments.
#[test]
fn helm_renders_what_is_installed() {
    for line in known_by(Way::Chart) {
        let words: Vec<_> = line.strip_prefix("helm install ").unwrap().split(' ').collect();
        let [release, chart, settings @ ..] = &words[..] else { panic!("{line}") };
        // Nobody asks a cluster for its version.
        let version = ["--kube-version", KUBERNETES];
        let output = tool("helm").arg("template").args(&words).args(version).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output));
        let rendered = String::from_utf8(output.stdout).unwrap();
        assert!(
            rendered.contains("kind: Deployment") && rendered.contains(&format!("name: {release}")),
            "{line}"
        );
        for setting in settings.iter().filter(|word| **word != "--set") {
            let (name, value) = setting.split_once('=').unwrap_or_else(|| panic!("{line}: {setting}"));
            assert!(rendered.contains(value), "{line}: {name} has no effect");
        }
        let linted =
            tool("helm").args(["lint", "--strict", chart]).args(version).args(settings).output().unwrap();
        assert!(linted.status.success(), "{line}: {}", text(&linted));
    }
}
