//! The live page in a real headless Chromium, see tests/page/page.mjs.

use std::path::{Path, PathBuf};
use std::process::Command;

use fake_nvml::{Control, Curve, Installed, now};

/// Two GPUs: one that works harder and harder, one that is lost.
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
    control.gpus[1].lost = true;
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
    let fake = gpus(folder.path());
    let output = Command::new("node")
        .arg("page.mjs")
        .arg(env!("CARGO_BIN_EXE_tensorfleet-worker"))
        .arg(&pictures)
        .arg(fake.library())
        .current_dir(&tests)
        .output()
        .expect("node is missing: scripts/test installs it");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // Each of the claims was checked, and none passed over.
    for claim in [
        "curves grow",
        "killed orchestrator shows within 2 s",
        "no error in the console",
        "axe-core finds nothing serious or critical, light",
        "axe-core finds nothing serious or critical, dark",
        "frames stay short",
        "no horizontal scroll, 360 pixels wide",
    ] {
        assert!(
            said.contains(&format!("ok {claim}")) || said.contains(claim),
            "{claim} was not checked: {said}"
        );
    }
}
