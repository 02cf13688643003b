//! The live page in a real headless Chromium, see tests/page/page.mjs.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fake_nvml::{Control, Curve, Installed, now};

/// Two GPUs, one of which works harder and harder.
fn gpus(folder: &Path) -> Installed {
    let mut control = Control::with_gpus(2);
    let wave = |low: f64, high: f64| {
        let point = |n: u32| (now() + f64::from(n) * 4.0, if n.is_multiple_of(2) { low } else { high });
        Curve::Points((0..60).map(point).collect())
    };
    let busy = &mut control.gpus[0];
    busy.utilization_percent = wave(62.0, 97.0);
    busy.power_watts = wave(180.0, 260.0);
    busy.temperature_celsius = wave(61.0, 68.0);
    Installed::new(folder, control).unwrap()
}

#[test]
fn the_live_page_works_in_a_browser() {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/page");
    let modules = tests.join("node_modules");
    assert!(modules.exists(), "{} is missing: scripts/test installs it, and Chromium", modules.display());
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&pictures).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut fake = gpus(folder.path());
    let mut browser = Command::new("node")
        .arg("page.mjs")
        .arg(env!("CARGO_BIN_EXE_tensorfleet-worker"))
        .arg(&pictures)
        .arg(fake.library())
        .current_dir(&tests)
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is missing: scripts/test installs it");
    let mut said = String::new();
    for line in BufReader::new(browser.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "lose a GPU" {
            fake.set(|control| control.gpus[1].lost = true).unwrap();
        }
        println!("{line}");
        said += &line;
        said.push('\n');
    }
    assert!(browser.wait().unwrap().success(), "{said}");
    // Each of the claims was checked, and none passed over.
    for claim in [
        "curves grow",
        "killed orchestrator shows within 2 s",
        "no error in the console",
        "axe-core finds nothing serious or critical, light",
        "axe-core finds nothing serious or critical, dark",
        "frames stay short",
        "no horizontal scroll, 360 pixels wide",
        "the button drains the worker",
        "figures from a curve are marked in rows, outcomes, cards and charts",
        "figures of real training are marked nowhere",
        "the marks are there on a phone",
        "a task that has not begun tells no time left",
        "the time left falls while a task trains",
        "and is about the time that it takes",
        "a speed of simulated tasks is marked",
        "an answer that ends in order is no loss",
    ] {
        assert!(
            said.contains(&format!("ok {claim}")) || said.contains(claim),
            "{claim} was not checked: {said}"
        );
    }
}
