//! How each command that the docs show is known to work.

use super::blocks::{root, shown};

/// What runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A test of workers.rs.
    Train,
    Demo,
    Serve,
    BothSides,
    Ask,
    Config,
    Secured,
    Certificates,
    DataSets,
    /// A test of deployments.rs, in the form that needs no container engine and no cluster.
    Compose,
    Chart,
    /// Cargo, for whoever builds: the target that it names is there.
    Target,
    /// This file has these words, which do it.
    File(&'static str, &'static str),
    /// Nothing does, for a reason.
    Never(&'static str),
}

use Way::{
    Ask, BothSides, Certificates, Chart, Compose, Config, DataSets, Demo, File, Never, Secured, Serve,
    Target, Train,
};

/// Beginnings of commands; the longest that fits counts.
const WAYS: &[(&str, Way)] = &[
    ("tensorfleet-worker train ", Train),
    ("tensorfleet-worker demo", Demo),
    ("ORCHESTRATOR_ADDRESS=orchestrator.example:50051 ", Serve),
    ("tensorfleet-worker orchestrator", BothSides),
    ("TRAINING_BACKEND=cpu tensorfleet-worker", BothSides),
    ("tensorfleet-worker submit", BothSides),
    ("curl -s localhost:2112/health", BothSides),
    ("kill %2", BothSides),
    ("tensorfleet-worker status", Ask),
    ("tensorfleet-worker explain ", Ask),
    ("tensorfleet-worker doctor", Ask),
    ("tensorfleet-worker health", Ask),
    ("curl -s http://127.0.0.1:2112/", Ask),
    ("tensorfleet-worker config ", Config),
    ("curl -s --cacert ", Secured),
    ("grpcurl -cacert ", Secured),
    ("openssl x509 ", Certificates),
    ("openssl s_client ", Certificates),
    ("python3 scripts/make-datasets.py ", DataSets),
    ("docker compose ", Compose),
    ("helm install ", Chart),
    ("helm upgrade ", Chart),
    ("cargo test", Target),
    ("cargo bench ", Target),
    ("cargo run --example ", Target),
    ("UPDATE_DOCS=1 cargo test ", Target),
    ("openssl rand -hex 32", File("docs/operating.md", "\nopenssl rand -hex 32 > token")),
    ("python3 deploy/grafana/dashboards.py", File("tests/dashboards.rs", "deploy/grafana/dashboards.py")),
    ("promtool test rules ", File("tests/dashboards.rs", "\"test\", \"rules\"")),
    ("cargo doc ", File("scripts/test", "cargo doc ")),
    ("cargo build --no-default-features", File("scripts/test", "--no-default-features --bins")),
    ("cargo build --profile dist", File("Dockerfile", "ARG PROFILE=dist")),
    ("./scripts/test", File(".ci/run", "exec ./scripts/test")),
    ("./scripts/fuzz", File("scripts/test", "\n./scripts/fuzz ")),
    ("./scripts/check-deploy", File("scripts/test", "\n./scripts/check-deploy\n")),
    (
        "./scripts/test-worker-integration.sh",
        File("scripts/test", "\n./scripts/test-worker-integration.sh\n"),
    ),
    ("./scripts/load-test-distributed.sh", File("scripts/test", "\n./scripts/load-test-distributed.sh ")),
    ("./scripts/soak ", File("scripts/test", "\n./scripts/soak 1 ")),
    ("./scripts/fleet", File("scripts/test", "\n./scripts/fleet ")),
    ("scripts/fleet --workers ", File("scripts/test", "\n./scripts/fleet --workers ")),
    ("docker build --tag ", File("scripts/check-images", "build Dockerfile tensorfleet-worker")),
    (
        "docker build --file Dockerfile.cuda ",
        File("scripts/check-images", "build Dockerfile.cuda tensorfleet-worker:cuda"),
    ),
    ("docker run --read-only --cap-drop ALL", File("scripts/check-images", "runc --root")),
    ("./scripts/check-images", Never("needs root and half an hour; it is run before a release")),
    ("go tool pprof ", Never("needs Go; the profile is decoded by tests of the HTTP server")),
    (
        "cargo audit bin",
        Never("is one of several programs that read the list of crates, which scripts/check-images reads"),
    ),
    ("tensorfleet-worker runner", Never("is started by the worker itself")),
    ("helm test", Never("needs a cluster; scripts/check-deploy checks the pods that it would start")),
    ("kubectl ", Never("needs a cluster")),
    ("nvidia-smi ", Never("needs an NVIDIA GPU")),
    ("modprobe nvidia", Never("needs an NVIDIA GPU")),
    ("docker tag ", Never("needs a container engine; the names are the reader's own")),
    ("docker push ", Never("needs a registry of the reader's own")),
    ("pip download ", Never("loads 9 MB; the test of the next line takes what scripts/test has installed")),
];

/// Which of the ways is that of `command`.
fn way_of(command: &str) -> Option<usize> {
    let fits = (0..WAYS.len()).filter(|at| command.starts_with(WAYS[*at].0));
    fits.max_by_key(|at| WAYS[*at].0.len())
}

/// The commands that are known to work in this `way`, each once; at least one.
pub(crate) fn known_by(way: Way) -> Vec<String> {
    let ours = |text: &String| way_of(text).is_some_and(|at| WAYS[at].1 == way);
    let mut found: Vec<String> = shown().into_iter().map(|command| command.text).filter(ours).collect();
    found.sort();
    found.dedup();
    assert!(!found.is_empty(), "{way:?}: no document shows such a command");
    found
}

#[test]
fn every_command_in_the_docs_is_run_or_named_with_a_reason() {
    let mut unknown = Vec::new();
    let mut used = vec![0; WAYS.len()];
    for command in shown() {
        match way_of(&command.text) {
            Some(at) => used[at] += 1,
            None => unknown.push(format!("{}: {}", command.place, command.text)),
        }
    }
    assert!(unknown.is_empty(), "say in WAYS how these are known to work: {unknown:#?}");
    for ((start, way), used) in WAYS.iter().zip(used) {
        assert!(used > 0, "no document shows `{start}` any more");
        match way {
            File(file, words) => {
                let text = std::fs::read_to_string(root().join(file)).unwrap();
                assert!(text.contains(words), "{file} does not do `{start}` any more: {words:?}");
            }
            Never(reason) => assert!(reason.len() > 10, "{start}: {reason}"),
            _ => {}
        }
    }
}

#[test]
fn whatever_cargo_is_told_to_build_is_there() {
    for line in known_by(Target) {
        let mut words = line.split(' ').skip_while(|word| *word != "cargo").skip(2);
        while let Some(word) = words.next() {
            let mut exists = |folder: &str| {
                let name = words.next().unwrap_or_else(|| panic!("{line}"));
                let [file, main] = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/main.rs")];
                assert!(root().join(&file).exists() || root().join(main).exists(), "{line}: {file}");
            };
            match word {
                "--test" => exists("tests"),
                "--bench" => exists("benches"),
                "--example" => exists("examples"),
                "--lib" => {}
                room if room.ends_with("::") => {
                    let room = room.trim_end_matches("::");
                    assert!(root().join(format!("src/{room}.rs")).exists(), "{line}: {room}");
                }
                test => {
                    let tests = std::fs::read_to_string(root().join("tests/docs/main.rs")).unwrap();
                    assert!(tests.contains(&format!("fn {test}")), "{line}: {test}");
                }
            }
        }
    }
}
