//! The live page in a real headless Chromium, see tests/page/page.mjs.

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn the_live_page_works_in_a_browser() {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/page");
    let modules = tests.join("node_modules");
    assert!(modules.exists(), "{} is missing: scripts/test installs it, and Chromium", modules.display());
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&pictures).unwrap();
    let output = Command::new("node")
        .arg("page.mjs")
        .arg(env!("CARGO_BIN_EXE_tensorfleet-worker"))
        .arg(&pictures)
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
