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
            "port" => {
                let words: Vec<_> = words.collect();
                let ["--index", _, service, port] = &words[..] else { panic!("{line}: {words:?}") };
                let ports = services[service]["ports"].as_array().unwrap_or_else(|| panic!("{line}"));
                assert!(
                    ports.iter().any(|taken| taken["target"].as_u64() == port.parse().ok()),
                    "{line}: {ports:?}"
                );
            }
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
            "--detach" => {}
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

/// `helm template` renders what `helm install` and `helm upgrade` would send to a cluster, from the same arguments.
#[test]
fn helm_renders_what_is_installed() {
    for line in known_by(Way::Chart) {
        // An upgrade differs by what it takes over from the cluster.
        let words = line.split(' ').skip(2).filter(|word| *word != "--reuse-values").collect::<Vec<_>>();
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

/// Whether .dockerignore keeps `path` out of what images are built from: the last pattern that fits decides.
fn kept_out(patterns: &str, path: &str) -> bool {
    let fits = |pattern: &str| match (pattern.strip_prefix("**/"), pattern.split_once("/**/*")) {
        (Some(name), _) => path.split('/').any(|part| part == name),
        (_, Some((folder, ending))) => path.starts_with(&format!("{folder}/")) && path.ends_with(ending),
        _ => pattern == "*" || path == pattern || path.starts_with(&format!("{pattern}/")),
    };
    let lines = patterns.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.fold(false, |out, line| match line.strip_prefix('!') {
        Some(pattern) => out && !fits(pattern),
        None => out || fits(line),
    })
}

/// Both Dockerfiles first build all dependencies, from manifests with empty sources beside them. Cargo has to find every
/// target there that a manifest names, and again when the real sources have come.
#[test]
fn cargo_takes_the_manifests_that_images_are_built_from() {
    let patterns = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    assert!(listed.status.success(), "{}", text(&listed));
    let folder = tempfile::tempdir().unwrap();
    let [all, manifests] = ["all", "manifests"].map(|name| folder.path().join(name));
    let listed = String::from_utf8(listed.stdout).unwrap();
    for path in listed.lines().filter(|path| !kept_out(&patterns, path)) {
        let to = all.join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root().join(path), to).unwrap();
    }
    let understood = || {
        let mut cargo = Command::new(env!("CARGO"));
        // Commands that build nothing are content with manifests whose targets are missing.
        cargo.args(["build", "--offline", "--locked", "--bin", "no-such-program"]).current_dir(&manifests);
        text(&cargo.output().unwrap())
    };
    for name in ["Dockerfile", "Dockerfile.cuda"] {
        let file = std::fs::read_to_string(root().join(name)).unwrap();
        let step = file.split_once("COPY . .\nRUN ").and_then(|(_, rest)| rest.split_once("\n\n")).unwrap().0;
        let step = step
            .replace("/manifests", manifests.to_str().unwrap())
            .replace("cd /all", &format!("cd {}", all.display()));
        let output = shell(&step, &all).output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output));
        let said = understood();
        assert!(said.contains("no bin target named `no-such-program`"), "{name}, with empty sources: {said}");
        let copied = Command::new("cp").arg("-rT").args([&all, &manifests]).status().unwrap();
        assert!(copied.success());
        let said = understood();
        assert!(said.contains("no bin target named `no-such-program`"), "{name}, with the real ones: {said}");
        std::fs::remove_dir_all(&manifests).unwrap();
    }
}
