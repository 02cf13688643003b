//! Parquet files, of pyarrow (in the folder beside this file, with the script that wrote them) and of our own making.

mod hostile;

use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::super::table::Values;
use super::mutations::read;
use super::*;

const ROWS: u32 = 300;

fn folder() -> Config {
    Config::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/data/tests/parquet_files"))
}

fn table(name: &str) -> Table {
    let source = Source::parse(name, &folder()).unwrap();
    source.read(Some("target"), &folder(), &|| Ok(())).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn refused_file(name: &str, words: &[&str]) {
    let error = load(name, &all(), &folder(), &|| Ok(())).unwrap_err();
    expect(error, ErrorCode::InvalidArgument, words);
}

/// What the script put into the column, in row `row`.
fn number(column: &str, row: u32) -> f64 {
    let i = f64::from(row);
    match column {
        "boolean" => f64::from(u8::from(row.is_multiple_of(3))),
        "int8" => f64::from(row % 100) - 50.0,
        "int16" => i * 100.0 - 15_000.0,
        "int32" => i * 1e6 - 7.0,
        "int64" => i * 1e10 - 7.0,
        "uint8" => f64::from(row % 256),
        "uint32" => 4_294_967_295.0 - i,
        "uint64" => 2_f64.powi(63) + i * 2_f64.powi(40),
        "half" => i / 8.0,
        "float" => i / 4.0,
        "double" => f64::from((i / 3.0) as f32),
        "decimal_9" => (i - 150.0) / 4.0,
        "decimal_30" => (i - 150.0) / 16.0,
        "date" => i - 10.0,
        "time" => 3723.0 + i / 1e6,
        // 2024-02-29T12:30:15.25
        "milliseconds" | "microseconds" | "nanoseconds" => 1_709_209_815.25 + i,
        "target" => f64::from(row % 2),
        other => panic!("{other}"),
    }
}

fn word(column: &str, row: u32) -> String {
    match column {
        "text" => format!("word {}", row % 5),
        "long_text" => format!("{}{row:03}", "long ".repeat(10)),
        "category" => ["a", "b", "c"][row as usize % 3].to_owned(),
        other => panic!("{other}"),
    }
}

#[test]
fn files_of_pyarrow_say_here_what_they_say_there() {
    for (name, columns) in [
        ("snappy.parquet", 22),
        ("zstd.parquet", 22),
        ("gzip_v2.parquet", 22),
        ("delta.parquet", 22),
        ("split_v2.parquet", 22),
        ("int96.parquet", 2),
    ] {
        let table = table(name);
        assert_eq!((table.rows(), table.columns.len()), (ROWS, columns), "{name}");
        assert_eq!(table.notes, Vec::<String>::new());
        for column in &table.columns {
            for row in 0..ROWS {
                let missing = row % 7 == 3 && column.name != "target";
                let at = || format!("{name}, {}, row {row}", column.name);
                match &column.values {
                    Values::Words(words) => {
                        let code = words.codes.get(row as usize).unwrap();
                        let found = words.words.get(code as usize).map(|word| word.to_string());
                        assert_eq!(found, (!missing).then(|| word(&column.name, row)), "{}", at());
                    }
                    values => {
                        let found = values.number(row);
                        let expected = number(&column.name, row);
                        // Years in seconds leave a ten-millionth for the fraction.
                        let near = (found - expected).abs() <= 1e-6 * expected.abs().max(1.0) / 10.0;
                        assert!(if missing { found.is_nan() } else { near }, "{}: {found} {expected}", at());
                    }
                }
            }
        }
    }
}

#[test]
fn a_parquet_file_trains_as_the_csv_of_the_same_data() {
    let rows = |separator: &str| -> String {
        (0..200)
            .map(|row| format!("{}{separator}w{}{separator}{}\n", row * row % 17, row % 4, row % 2))
            .collect()
    };
    let csv = load_csv(&format!("x,w,y\n{}", rows(",")), &LoadOptions::default()).unwrap();
    let bytes = write(200, Compression::SNAPPY, |row| (row * row % 17, format!("w{}", row % 4), row % 2));
    let root = Root::new();
    // The name says nothing, and one without an ending is tried with this one.
    root.write("data.bin", &bytes);
    root.write("set.parquet", &bytes);
    for path in ["data.bin", "set"] {
        let parquet = root.load(path, &LoadOptions::default()).unwrap();
        assert_eq!((&parquet.train, &parquet.validation), (&csv.train, &csv.validation), "{path}");
        assert_eq!(parquet.feature_names, csv.feature_names);
    }
}

/// A file of columns x (a number), w (a word, missing in every ninth row) and y (a whole number).
fn write(rows: i64, compression: Compression, row: impl Fn(i64) -> (i64, String, i64)) -> Vec<u8> {
    let schema = "message m { required double x; optional binary w (UTF8); required int64 y; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_data_page_row_count_limit(50)
        .set_write_batch_size(10)
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let all: Vec<_> = (0..rows).map(row).collect();
    for group in all.chunks(120) {
        let mut columns = writer.next_row_group().unwrap();
        let x: Vec<f64> = group.iter().map(|row| row.0 as f64).collect();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&x, None, None).unwrap();
        column.close().unwrap();
        let w: Vec<ByteArray> = group.iter().map(|row| ByteArray::from(row.1.as_str())).collect();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&w, Some(&vec![1; w.len()]), None).unwrap();
        column.close().unwrap();
        let y: Vec<i64> = group.iter().map(|row| row.2).collect();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&y, None, None).unwrap();
        column.close().unwrap();
        columns.close().unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn what_is_not_read_is_named_by_column() {
    refused_file("list.parquet", &["\"list.parquet\"", "column \"v\"", "nested"]);
    refused_file("struct.parquet", &["column \"place\"", "nested", "allowed"]);
    refused_file("brotli.parquet", &["column \"x\"", "BROTLI", "snappy, gzip or zstd"]);
    refused_file("bytes.parquet", &["column \"b\"", "row 1", "UTF-8"]);
    refused_file("fixed.parquet", &["column \"f\"", "fixed_len_byte_array", "allowed"]);
    refused_file("no_rows.parquet", &["no rows"]);
}

#[test]
fn an_index_of_pandas_is_neither_target_nor_feature() {
    let dataset = load("index.parquet", &all(), &folder(), &|| Ok(())).unwrap();
    assert_eq!((dataset.target_name.as_str(), dataset.feature_names.len()), ("y", 2));
    // 7, 5, 3, 1 is an index of somebody's; 0, 1, 2, … numbers rows and is left out.
    assert_eq!(dataset.feature_names, ["column_3", "x"]);
}

#[test]
fn limits_hold_before_anything_is_read() {
    let bytes = write(1000, Compression::SNAPPY, |row| (row, format!("w{}", row % 3), row % 2));
    let root = Root::with("t.parquet", &bytes);
    let check = || Ok(());
    let exact = Config { max_rows: 1000, max_columns: 3, max_cells: 3000, ..root.config() };
    let encoded = Config { max_cells: 5000, ..exact.clone() };
    assert!(load("t.parquet", &all(), &encoded, &check).is_ok());
    for (config, words) in [
        (Config { max_bytes: bytes.len() as u64 - 1, ..exact.clone() }, "bytes"),
        (Config { max_rows: 999, ..exact.clone() }, "999 rows"),
        (Config { max_columns: 2, ..exact.clone() }, "2 columns"),
        (Config { max_cells: 2999, ..exact.clone() }, "2999 cells"),
        (Config { max_unpacked_bytes: 5000, ..exact.clone() }, "5000 bytes once it is decompressed"),
        (Config { max_memory_bytes: 11_999, ..exact.clone() }, "bytes of m"),
    ] {
        let error = load("t.parquet", &all(), &config, &check).unwrap_err();
        expect(error, ErrorCode::ResourceExhausted, &[words, "\"t.parquet\""]);
    }
    let calls = std::cell::Cell::new(0);
    let stop = || {
        calls.set(calls.get() + 1);
        if calls.get() > 3 { Err(TaskError::new(ErrorCode::Cancelled, "enough")) } else { Ok(()) }
    };
    let error = load("t.parquet", &all(), &root.config(), &stop).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Cancelled);
}

#[test]
fn files_that_are_cut_or_lie_are_damaged() {
    let bytes = write(300, Compression::UNCOMPRESSED, |row| (row, "w".to_owned(), row % 2));
    let code = ErrorCode::InvalidArgument;
    let cut = [&bytes[..bytes.len() / 2], &bytes[bytes.len() - 8..]].concat();
    refused(cut, &all(), code, &["damaged or not whole"]);
    // A footer that would begin before the file does.
    let mut huge = bytes.clone();
    let at = bytes.len() - 8;
    huge[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(huge, &all(), code, &["damaged", "footer"]);
    let mut encrypted = bytes.clone();
    encrypted[at + 4..].copy_from_slice(b"PARE");
    refused(encrypted, &all(), code, &["encrypted"]);
    refused(b"PAR1\0\0\0\0\0PAR1", &all(), code, &["damaged"]);
    refused(&bytes[..bytes.len() - 20], &all(), code, &["Parquet file that is cut short"]);
}

/// Files that are changed at random elsewhere.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let folder = folder().root;
    let names = ["snappy", "zstd", "gzip_v2", "delta", "split_v2", "int96", "list", "bytes", "index"];
    let mut seeds: Vec<Vec<u8>> =
        names.iter().map(|name| std::fs::read(folder.join(format!("{name}.parquet"))).unwrap()).collect();
    seeds.push(write(130, Compression::UNCOMPRESSED, |row| (row, format!("w{}", row % 3), row % 2)));
    seeds
}
