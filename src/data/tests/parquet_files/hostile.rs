//! Small files made to exhaust whoever reads them: the parquet crate's own reader of files does not survive them, this
//! one refuses them. They are why pages and the schema are judged before that crate sees them.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::*;

/// Tells the child which file to read.
const CHILD: &str = "HOSTILE_PARQUET";

/// Address space of the child, which is more than it takes for anything but these files.
const CHILD_BYTES: u64 = 2 << 30;

const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field of Thrift's compact protocol, `step` after the one before it.
fn field(step: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    [&[step << 4 | kind], value].concat()
}

fn number(step: u8, kind: u8, value: i64) -> Vec<u8> {
    field(step, kind, &varint((value << 1 ^ value >> 63) as u64))
}

fn text(step: u8, text: &str) -> Vec<u8> {
    field(step, BINARY, &[varint(text.len() as u64), text.as_bytes().to_vec()].concat())
}

fn structure(fields: &[Vec<u8>]) -> Vec<u8> {
    [fields.concat(), vec![0]].concat()
}

fn list(step: u8, kind: u8, items: &[Vec<u8>]) -> Vec<u8> {
    let length = varint(items.len() as u64);
    field(step, LIST, &[vec![0xf0 | kind], length, items.concat()].concat())
}

/// The header of a page: its type, what it becomes, what it is, and the struct of its type.
fn page(kind: i64, unpacked: i64, body: &[u8], details: Vec<u8>) -> Vec<u8> {
    let header = structure(&[
        number(1, I32, kind),
        number(1, I32, unpacked),
        number(1, I32, body.len() as i64),
        details,
    ]);
    [header, body.to_vec()].concat()
}

fn data_page(cells: i64, encoding: i64, unpacked: i64, body: &[u8]) -> Vec<u8> {
    let details = [number(1, I32, cells), number(1, I32, encoding), number(1, I32, 3), number(1, I32, 3)];
    page(0, unpacked, body, field(2, STRUCT, &structure(&details)))
}

fn dictionary(words: i64, body: &[u8]) -> Vec<u8> {
    let details = field(4, STRUCT, &structure(&[number(1, I32, words), number(1, I32, 0)]));
    page(2, body.len() as i64, body, details)
}

/// A file of one column, x, of this physical type and codec with `rows` rows in `pages`.
fn file(physical: i64, codec: i64, rows: i64, pages: &[u8]) -> Vec<u8> {
    let schema = [
        structure(&[text(4, "schema"), number(1, I32, 1)]),
        structure(&[number(1, I32, physical), number(2, I32, 0), text(1, "x")]),
    ];
    let column = structure(&[
        number(1, I32, physical),
        list(1, I32, &[varint(0)]),
        list(1, BINARY, &[[varint(1), b"x".to_vec()].concat()]),
        number(1, I32, codec),
        number(1, I64, rows),
        number(1, I64, pages.len() as i64),
        number(1, I64, pages.len() as i64),
        number(2, I64, 4),
    ]);
    let chunk = structure(&[number(2, I64, 4), field(1, STRUCT, &column)]);
    let group = structure(&[list(1, STRUCT, &[chunk]), number(1, I64, 100), number(1, I64, rows)]);
    whole(
        pages,
        &structure(&[
            number(1, I32, 1),
            list(1, STRUCT, &schema),
            number(1, I64, rows),
            list(1, STRUCT, &[group]),
        ]),
    )
}

fn whole(pages: &[u8], metadata: &[u8]) -> Vec<u8> {
    let length = (metadata.len() as u32).to_le_bytes();
    [b"PAR1", pages, metadata, &length, b"PAR1"].concat()
}

/// Columns within columns, as deep as the file is long.
fn deep() -> Vec<u8> {
    let group = structure(&[number(3, I32, 0), text(1, "a"), number(1, I32, 1)]);
    let schema = vec![group; 200_000];
    whole(&[], &structure(&[number(1, I32, 1), list(1, STRUCT, &schema), number(1, I64, 1)]))
}

const DOUBLE: i64 = 5;
const BYTES: i64 = 6;
const PLAIN: i64 = 0;
const SNAPPY: i64 = 1;
const GZIP: i64 = 2;

/// Each file, by a name, with what its refusal says.
fn files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let most = i64::from(i32::MAX);
    let words = [dictionary(most, b"\0\0\0\0\0\0\0\0"), data_page(1, 8, 2, b"\x01\x02")].concat();
    // A length of two gibibytes, then one letter.
    let snappy = data_page(1, PLAIN, most, b"\xff\xff\xff\xff\x07\0a");
    vec![
        (
            "a dictionary of two thousand million words",
            file(BYTES, PLAIN, 1, &words),
            "dictionary is shorter",
        ),
        ("a page of two gibibytes", file(DOUBLE, SNAPPY, 1, &snappy), "memory for a single page"),
        ("a schema of many levels", deep(), "nested"),
    ]
}

/// What the crate does with such a file, in a child process.
fn by_the_crate(name: &str) {
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Core, limit(0)).unwrap();
    setrlimit(Resource::As, limit(CHILD_BYTES)).unwrap();
    let (_, bytes, _) = files().into_iter().find(|(known, ..)| *known == name).unwrap();
    // Even if each panic is caught.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let file = SerializedFileReader::new(bytes::Bytes::from(bytes))?;
        match file.get_row_group(0)?.get_column_reader(0)? {
            ColumnReader::DoubleColumnReader(reader) => cells(reader),
            ColumnReader::ByteArrayColumnReader(reader) => cells(reader),
            _ => panic!("another type"),
        }
    }));
    println!("survived: {read:?}");
}

fn cells<T: DataType>(mut reader: ColumnReaderImpl<T>) -> parquet::errors::Result<usize> {
    reader.read_records(1, None, None, &mut Vec::new()).map(|read| read.0)
}

#[test]
fn files_that_end_a_process_are_refused() {
    if let Ok(name) = std::env::var(CHILD) {
        return by_the_crate(&name);
    }
    let this = "data::tests::parquet_files::hostile::files_that_end_a_process_are_refused";
    for (name, bytes, words) in files() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", this, "--nocapture"]).env(CHILD, name).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        // By its own hand or the system's: nothing that a worker could catch.
        assert!(output.status.signal().is_some(), "{name}: {}: {told}", output.status);
        let error = read(bytes).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}

#[test]
fn pages_become_no_larger_than_they_say_and_no_more_than_the_file_may() {
    let packed = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, bytes).unwrap();
        packed.finish().unwrap()
    };
    let bomb = packed(&vec![0; 32 << 20]);
    let small = data_page(1, PLAIN, 8, &bomb);
    let error = read(file(DOUBLE, GZIP, 1, &small)).unwrap_err().to_string();
    assert!(error.contains("does not become as large as its header says"), "{error}");
    // As large as it says, but there is room for a quarter of 64 MiB.
    let large = data_page(4 << 20, PLAIN, 32 << 20, &bomb);
    let error = read(file(DOUBLE, GZIP, 4 << 20, &large)).unwrap_err().to_string();
    assert!(error.contains("16777216 bytes of memory for a single page"), "{error}");
    let honest = data_page(4, PLAIN, 32, &packed(&[0; 32]));
    assert_eq!(read(file(DOUBLE, GZIP, 4, &honest)).unwrap().rows(), 4);
    // Pages without cells: one is passed over, one after the other is no file.
    let few = [data_page(0, PLAIN, 0, b""), data_page(4, PLAIN, 32, &[0; 32])].concat();
    assert_eq!(read(file(DOUBLE, PLAIN, 4, &few)).unwrap().rows(), 4);
    let empty = data_page(0, PLAIN, 0, b"").repeat(5000);
    let error = read(file(DOUBLE, PLAIN, 4, &empty)).unwrap_err().to_string();
    assert!(error.contains("page after page without a cell"), "{error}");
}
