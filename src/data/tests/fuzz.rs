//! Files that nobody would write, the whole way from disk to prepared numbers, with little memory.

use std::io::Write as _;

use super::mutations::csv;
use super::*;
use crate::fuzz;

/// Most that this whole process may come to need while files of one kind are read, in bytes: what the limits below allow
/// for one file, many times over, since other tests may run beside.
#[cfg(target_os = "linux")]
const MOST_MORE_BYTES: u64 = 1 << 30;

/// Highest memory of this process so far, in bytes.
#[cfg(target_os = "linux")]
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn is_fit(dataset: &Dataset) {
    assert!(!dataset.train.is_empty());
    assert!(!dataset.feature_names.is_empty());
    assert!(dataset.train.features.iter().all(|value| value.is_finite()), "{:?}", dataset.feature_names);
}

fn are_read_or_refused(name: &str, good: &[Vec<u8>], part: u64) {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let config =
        Config { max_memory_bytes: 64 << 20, max_unpacked_bytes: 16 << 20, ..Config::new(folder.path()) };
    let path = folder.path().join("file");
    #[cfg(target_os = "linux")]
    let before = peak_bytes();
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    fuzz::run_part(name, good, part, |bytes| {
        fs::write(&path, bytes).unwrap();
        match load("file", &LoadOptions::default(), &config, &|| Ok(())) {
            Ok(dataset) => {
                is_fit(&dataset);
                accepted += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains(char::is_control), "{text:?}");
                refused += 1;
            }
        }
    });
    println!("fuzz {name}: {accepted} read, {refused} refused");
    assert!(accepted > 0, "{name}: nothing was read");
    #[cfg(target_os = "linux")]
    {
        let more = peak_bytes() - before;
        println!("fuzz {name}: the process grew by {} MiB at most", more >> 20);
        assert!(more < MOST_MORE_BYTES, "{name}: {} MiB", more >> 20);
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Much in little.
fn long() -> Vec<u8> {
    format!("x,y\n{}", "1,a\n2,b\n".repeat(2_000)).into_bytes()
}

#[test]
fn fuzz_csv_files() {
    let tabs = csv().iter().map(|byte| if *byte == b',' { b'\t' } else { *byte }).collect();
    let plain = b"x;y\n1;a\n2;b\n-3e5;a\n;\"b\"\n".to_vec();
    are_read_or_refused("a CSV file", &[csv(), tabs, plain], 10);
}

#[test]
fn fuzz_gzip_files() {
    let two = [gzip(b"x,y\n1,a\n"), gzip(b"2,b\n3,a\n4,b\n5,a\n")].concat();
    are_read_or_refused("a gzip file", &[gzip(&csv()), two, gzip(&long())], 10);
}

#[test]
fn fuzz_zstd_files() {
    let two = [zstd(b"x,y\n1,a\n"), zstd(b"2,b\n3,a\n4,b\n5,a\n")].concat();
    are_read_or_refused("a zstd file", &[zstd(&csv()), two, zstd(&long())], 10);
}

#[cfg(feature = "parquet")]
#[test]
fn fuzz_parquet_files() {
    are_read_or_refused("a Parquet file", &parquet_files::seeds(), 10);
}
