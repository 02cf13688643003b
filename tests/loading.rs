//! How much memory it takes to load a large CSV file, seen from outside of the real program.

mod support;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};

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

/// The most memory that a process has held so far, in bytes; `None` once it has ended.
fn most_memory(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

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
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        peak = most_memory(&child).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    };
    let mut told = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut told).unwrap();
    assert!(status.success() && peak > 0, "{status}: {told}");
    peak
}

/// The program itself is as large as the matrix of a file that can be tested each time, so it is measured on its own.
/// LOADING_TEST_MB makes the file larger.
#[test]
fn loading_takes_at_most_two_and_a_half_times_the_decoded_matrix() {
    let megabytes = std::env::var("LOADING_TEST_MB").ok().map_or(100, |text| text.parse().unwrap());
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
