//! How much memory it takes to load a large CSV file, seen from outside of the real program.

mod support;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use support::*;

/// Columns of the file, target included.
const COLUMNS: u64 = 30;

/// Writes a CSV file of about `bytes` bytes and returns its rows. Values have six digits, as measurements have.
fn write_csv(path: &Path, bytes: u64) -> u64 {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let names: Vec<String> = (1..COLUMNS).map(|column| format!("feature_{column}")).collect();
    writeln!(file, "{},target", names.join(",")).unwrap();
    let (mut rows, mut written, mut state) = (0, 0, 1_u64);
    while written < bytes || rows < 10 {
        let mut line = String::new();
        for _ in 1..COLUMNS {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            line += &format!("0.{:06},", state >> 44);
        }
        line += if rows % 2 == 0 { "a\n" } else { "b\n" };
        file.write_all(line.as_bytes()).unwrap();
        written += line.len() as u64;
        rows += 1;
    }
    file.into_inner().unwrap();
    rows
}

/// Runs its arguments and prints the most memory that they held, in KiB.
const PEAK_OF_CHILD: &str = "import resource, subprocess, sys; \
    code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; \
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)";

/// Trains one epoch on `name`, and returns the most memory that the process held, in bytes.
fn peak_of_training(folder: &Path, name: &str) -> u64 {
    let mut command = command(&[("DATA_ROOT", folder.to_str().unwrap())]);
    command.args([
        "train",
        "--model-type",
        "decision_tree",
        "--epochs",
        "1",
        "--backend",
        "cpu",
        "--dataset",
        name,
    ]);
    command.args(["--set", "max_depth=1"]);
    // Asked of the kernel when the process has ended: a look at a running one misses the peak of a short life.
    let mut python = Command::new("python3");
    python.args(["-c", PEAK_OF_CHILD]).arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        python.envs(value.map(|value| (name, value)));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let output = python.env("PATH", path).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kibibytes: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    kibibytes * 1024
}

/// The program itself is as large as the matrix of a file that can be tested each time, so it is measured on its own.
/// LOADING_TEST_MB makes the file larger.
#[test]
fn loading_takes_at_most_two_and_a_half_times_the_decoded_matrix() {
    let megabytes = std::env::var("LOADING_TEST_MB").ok().map_or(250, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    write_csv(&folder.path().join("tiny.csv"), 0);
    let rows = write_csv(&folder.path().join("large.csv"), megabytes * 1_000_000);
    let matrix = rows * COLUMNS * 4;
    let own = peak_of_training(folder.path(), "tiny.csv");
    let peak = peak_of_training(folder.path(), "large.csv");
    let times = (peak - own.min(peak)) as f64 / matrix as f64;
    println!(
        "{megabytes} MB, {rows} rows: matrix {matrix}, program {own}, peak {peak} bytes; {times:.2} times"
    );
    assert!(
        times <= 2.5,
        "{times:.2} times the matrix of {matrix} bytes: {own} without data, {peak} with it"
    );
    // Less than the matrix itself would mean that something else was measured.
    assert!(times >= 1.0, "{times:.2}");
}
