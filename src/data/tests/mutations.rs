//! Files of all formats with bytes changed at random: each is read, or refused with an error.
//!
//! DATA_FUZZ_CASES says how many; with `--nocapture` the rate is printed.

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

/// Runs the decoder alone, with little memory.
pub(super) fn read(bytes: Vec<u8>) -> Result<Table, DataError> {
    let config = Config { max_memory_bytes: 64 << 20, max_unpacked_bytes: 16 << 20, ..Config::new("none") };
    let content = Arc::new(content::Content::Memory(bytes.into()));
    let opened = content::Opened { path: "t".to_owned(), content };
    decode::decode(&opened, None, &config, &|| Ok(()))
}

fn change(kind: &str, seeds: &[Vec<u8>], cases: u32) {
    let cases = std::env::var("DATA_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let started = Instant::now();
    let (accepted, refused) = (Cell::new(0), Cell::new(0));
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
    // Half of the changes hit the last kibibytes, where Parquet has its metadata; a third of the files are cut.
    let cut = prop_oneof![2 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    let strategy = (0..seeds.len(), any::<bool>(), changes, cut);
    TestRunner::new(config)
        .run(&strategy, |(seed, footer, changes, cut)| {
            let mut bytes = seeds[seed].clone();
            let start = if footer { bytes.len().saturating_sub(4096) } else { 0 };
            for (at, value) in changes {
                let place = start + at.index(bytes.len() - start);
                bytes[place] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            match read(bytes) {
                Ok(table) => {
                    accepted.set(accepted.get() + 1);
                    prop_assert!(table.rows() > 0);
                }
                Err(_) => refused.set(refused.get() + 1),
            }
            Ok(())
        })
        .unwrap();
    let (accepted, refused) = (accepted.get(), refused.get());
    let rate = f64::from(cases) / started.elapsed().as_secs_f64();
    println!("{kind}: {accepted} read, {refused} refused, {rate:.0} files a second");
    assert!(refused > cases / 100, "hardly a file was damaged: {accepted} read, {refused} refused");
}

pub(super) fn csv() -> Vec<u8> {
    let word = |row: u32| ["one", "\"two, or\nmore\"", "", "NA", "4e5"][row as usize % 5];
    let rows =
        (0..60).map(|row: u32| format!("{},{},-{}.5e3,{}\r\n", row, word(row), row * 77 % 13, row % 3));
    format!("\u{feff}id,w,x,y\r\n{}", rows.collect::<String>()).into_bytes()
}

#[test]
fn changed_csv_is_read_or_refused() {
    let tabs = csv().iter().map(|byte| if *byte == b',' { b'\t' } else { *byte }).collect();
    change("CSV", &[csv(), tabs, b"x;y\n1;a\n2;b\n".to_vec()], 2000);
}

#[test]
fn changed_packed_files_are_read_or_refused() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&csv()).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&csv()[..], ruzstd::encoding::CompressionLevel::Fastest);
    change("gzip and zstd", &[gzip.finish().unwrap(), zstd], 2000);
}

#[cfg(feature = "parquet")]
#[test]
fn changed_parquet_is_read_or_refused() {
    change("Parquet", &parquet_files::seeds(), 2000);
}
