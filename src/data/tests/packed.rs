//! Compressed files: known by their bytes, streamed, and bounded.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    compress_to_vec(content, CompressionLevel::Fastest)
}

/// What `zstd -19` of version 1.5 makes of `x,y\n` and 40 times `1,a\n2,b\n`: with a checksum.
const BY_THE_TOOL: &[u8] = b"\x28\xb5\x2f\xfd\x04\x68\x95\x00\x00\x58\x78\x2c\x79\x0a\x31\x2c\x61\x0a\x32\x2c\x62\x01\x00\x36\xd5\xeb\x05\xce\xb3\xfb\x06";

fn table() -> String {
    // A word after numbers, so that the file is read twice.
    let rows: String = (0..30_000).map(|row| format!("{},{}\n", row * 7 % 1000, row % 2)).collect();
    format!("x,y\n{rows}late,1\n")
}

#[test]
fn packed_files_are_those_they_were_before() {
    let content = table();
    let plain = load_csv(&content, &all()).unwrap();
    let (first, second) = content.as_bytes().split_at(content.len() / 3);
    let mut skipped = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    skipped.extend(zstd(content.as_bytes()));
    for (kind, packed) in [
        ("gzip", gzip(content.as_bytes())),
        ("gzip of two members", [gzip(first), gzip(second)].concat()),
        ("zstd", zstd(content.as_bytes())),
        ("zstd of two frames", [zstd(first), zstd(second)].concat()),
        ("zstd after a frame to skip", skipped),
    ] {
        // The name says nothing.
        let dataset = load_csv_bytes(&packed);
        assert_eq!(dataset.train, plain.train, "{kind}");
        assert_eq!(dataset.notes, plain.notes, "{kind}");
    }
}

fn load_csv_bytes(content: &[u8]) -> Dataset {
    Root::with("t.csv", content).load("t.csv", &all()).unwrap()
}

#[test]
fn files_of_the_zstd_tool_are_read() {
    let dataset = load_csv_bytes(BY_THE_TOOL);
    assert_eq!((dataset.train.len(), labels(&dataset)), (80, &["a".to_owned(), "b".to_owned()][..]));
    let mut wrong = BY_THE_TOOL.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    refused(wrong, &all(), ErrorCode::InvalidArgument, &["damaged", "zstd", "checksum"]);
}

#[test]
fn byte_order_marks_and_delimiters_are_found_within() {
    for packed in [gzip(b"\xef\xbb\xbfx;y\r\n1;a\r\n2;b\r\n"), zstd(b"\xef\xbb\xbfx;y\r\n1;a\r\n2;b\r\n")] {
        assert_eq!(load_csv_bytes(&packed).feature_names, ["x"]);
    }
}

#[test]
fn endings_are_tried_where_there_is_none() {
    let root = Root::new();
    root.write("a.csv.gz", gzip(b"x,y\n1,a\n2,b\n"));
    root.write("b.csv.zst", zstd(b"x,y\n1,a\n2,b\n3,a\n"));
    assert_eq!(root.load("a", &all()).unwrap().train.len(), 2);
    assert_eq!(root.load("b", &all()).unwrap().train.len(), 3);
    let error = root.load("c", &all()).unwrap_err();
    expect(error, ErrorCode::NotFound, &["\"c.csv\"", "\"c.parquet\"", "\"c.csv.gz\"", "\"c.csv.zst\""]);
}

#[test]
fn damaged_files_are_told_from_unreadable_ones() {
    let code = ErrorCode::InvalidArgument;
    for (kind, packed) in [("gzip", gzip(table().as_bytes())), ("zstd", zstd(table().as_bytes()))] {
        let cut = packed[..packed.len() / 2].to_vec();
        refused(cut, &all(), code, &["\"t.csv\"", "damaged or not whole", kind]);
        let mut wrong = packed.clone();
        let middle = packed.len() / 2;
        wrong[middle..middle + 64].fill(0xa5);
        let error = Root::with("t.csv", wrong).load("t.csv", &all()).unwrap_err();
        assert_eq!(error.code(), code, "{kind}: {error}");
    }
    refused([0x28, 0xb5, 0x2f, 0xfd], &all(), code, &["damaged", "zstd"]);
    refused([0x1f, 0x8b, 8], &all(), code, &["damaged", "gzip"]);
    refused(gzip(b""), &all(), code, &["empty"]);
    refused(gzip(b"x,y\n1,\xff\n"), &all(), code, &["line 2", "UTF-8"]);
    refused(
        gzip(&gzip(b"x,y\n1,2\n")),
        &all(),
        code,
        &["compressed with gzip; allowed: CSV in UTF-8 with a header (plain, gzip or zstd)"],
    );
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    // 16 MiB of short rows in some KiB.
    let rows = b"1,2\n".repeat(4 << 20);
    let content = [b"x,y\n".as_slice(), &rows].concat();
    for packed in [gzip(&content), zstd(&content)] {
        assert!(packed.len() < 1 << 20, "{}", packed.len());
        let root = Root::with("t.csv", packed);
        let config = Config { max_unpacked_bytes: 4 << 20, ..root.config() };
        let error = load("t.csv", &all(), &config, &|| Ok(())).unwrap_err();
        let words = ["\"t.csv\"", "4194304 bytes once it is decompressed", "limit of this worker"];
        expect(error, ErrorCode::ResourceExhausted, &words);
    }
    // Nothing but line ends: no row, no cell, and yet no end.
    let root = Root::with("t.csv", gzip(&[b"x,y\n".as_slice(), &b"\n".repeat(64 << 20)].concat()));
    let error = root.load("t.csv", &all()).unwrap_err();
    assert!(matches!(error, DataError::Line { .. }), "{error}");
}
