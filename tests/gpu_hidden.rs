//! GPUs that CUDA_VISIBLE_DEVICES hides: neither the worker nor a command touches them.

mod support;

use fake_nvml::Control;
use support::listener::listen;
use support::node::{Machine, Node};
use support::*;

#[test]
fn commands_keep_off_gpus_that_are_hidden_from_them_and_the_doctor_asks_nvml() {
    let mut machine = Machine::new(Control::with_gpus(2), 2);
    let run = |machine: &Machine, hidden: &str, arguments: &[&str]| {
        let settings = [&machine.environment()[..], &[("CUDA_VISIBLE_DEVICES", hidden)]].concat();
        command(&settings).args(arguments).output().unwrap()
    };
    let training = ["train", "--dataset", "builtin:iris", "--epochs", "1", "--backend", "wgpu", "--json"];
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let second = run(&machine, "1", &training);
    assert!(second.status.success(), "{}", told(&second));
    let none = run(&machine, "-1", &training);
    assert_eq!(none.status.code(), Some(3), "{}", told(&none));

    let found = |machine: &Machine, check: &str| {
        let output = run(machine, "1", &["doctor", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["check"] == check);
        finding.unwrap_or_else(|| panic!("nothing about {check}: {report}")).clone()
    };
    let nvml = found(&machine, "gpu.nvml");
    assert_eq!(nvml["level"], "ok", "{nvml}");
    let message = nvml["message"].as_str().unwrap();
    assert!(message.contains("1 healthy: 1 (") && message.contains("1 hidden by"), "{nvml}");
    machine.fake.set(|control| control.driver = fake_nvml::DriverState::Gone).unwrap();
    let nvml = found(&machine, "gpu.nvml");
    assert!(nvml["level"] == "error" && nvml["repair"].as_str().unwrap().contains("modprobe"), "{nvml}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nvml_is_silent_no_command_touches_gpus_of_which_some_are_hidden() {
    let mut control = Control::with_gpus(2);
    control.driver = fake_nvml::DriverState::VersionMismatch;
    let machine = Machine::new(control, 2);
    let hides = [("CUDA_VISIBLE_DEVICES", "1")];
    let run = |machine: &Machine, arguments: &[&str]| {
        command(&[&machine.environment()[..], &hides].concat()).args(arguments).output().unwrap()
    };
    let why = "NVML, which knows them by these names, has not answered yet";
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let train = ["train", "--dataset", "builtin:iris", "--epochs", "1", "--json", "--backend"];
    let refused = run(&machine, &[&train[..], &["wgpu"]].concat());
    assert_eq!(refused.status.code(), Some(3), "{}", told(&refused));
    assert!(
        told(&refused).contains(why) && told(&refused).contains("unset the variable"),
        "{}",
        told(&refused)
    );
    // Where the GPU is only preferred the CPU trains, and says why.
    let instead = run(&machine, &[&train[..], &["auto"]].concat());
    assert!(instead.status.success() && told(&instead).contains(why), "{}", told(&instead));
    let metrics: serde_json::Value = serde_json::from_slice(&instead.stdout).unwrap();
    assert_eq!((&metrics["backend"], &metrics["simulated"]), (&"cpu".into(), &false.into()));
    // Who does not want a GPU hears nothing of it.
    assert!(!told(&run(&machine, &[&train[..], &["cpu"]].concat())).contains("VISIBLE_DEVICES"));

    let hidden = |backend: &str| {
        let output = run(&machine, &["doctor", "--json", "--training-backend", backend]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["check"] == "gpu.visible")
    };
    let finding = hidden("auto").expect("the doctor says it");
    assert_eq!(finding["level"], "error", "{finding}");
    assert!(finding["message"].as_str().unwrap().contains(why), "{finding}");
    assert!(finding["repair"].as_str().unwrap().contains("unset the variable"), "{finding}");
    assert_eq!(hidden("cpu"), None);

    // A worker takes no tasks until NVML answers, and then trains on the GPU that is its own.
    let (orchestrator, heard, server) = listen().await;
    let worker = WorkerProcess::start(orchestrator, &[&machine.environment()[..], &hides].concat());
    let mut node = Node { worker, machine, heard, server };
    eventually("the worker is not ready", || node.worker.get("/readyz").1.contains("no GPU can be used"));
    let health = node.worker.get_json("/health");
    assert_eq!((&health["status"], &health["backend"]), (&"DEGRADED".into(), &"wgpu".into()), "{health}");
    assert!(health["reasons"].to_string().contains(why), "{health}");
    node.machine.fake.set(|control| control.driver = fake_nvml::DriverState::Fine).unwrap();
    eventually("the worker is ready", || node.worker.get("/readyz").0 == 200);
    node.give("a", 0);
    let report = node.report("a-0");
    assert!(report.success && report.device == "Fake card 1", "{report:?}");
    let second = run(&node.machine, &[&train[..], &["wgpu"]].concat());
    assert!(second.status.success(), "{}", told(&second));
}
