//! What a file may look like, and what is said of one that may not.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

#[test]
fn separators_marks_quotes_and_line_ends() {
    for content in [
        "x,name,y\n1,a,0\n2,b,1\n",
        "\u{feff}x;name;y\r\n1;a;0\r\n\r\n2;b;1",
        "x\tname\ty\n1\ta\t0\n2\tb\t1\n",
        "x|name|y\n 1 | a |0\n2|b| 1\n",
        "\"x\",\"name\",\"y\"\n\"1\",\"a\",\"0\"\n\"2\",\"b\",\"1\"\n",
    ] {
        let dataset = load_csv(content, &all()).unwrap();
        assert_eq!(dataset.feature_names, ["x", "name=a", "name=b"], "{content:?}");
        assert_eq!(dataset.train.features, [-1.0, 1.0, 0.0, 1.0, 0.0, 1.0], "{content:?}");
        assert_eq!(class_ids(&dataset.train), [0, 1]);
    }
}

#[test]
fn quoted_fields_may_hold_anything() {
    let dataset = load_csv("x,y\n1,\"a, \"\"b\"\"\nc\"\n2,d\n", &all()).unwrap();
    assert_eq!(labels(&dataset), ["a, \"b\"\nc", "d"]);
}

#[test]
fn files_without_rows() {
    let code = ErrorCode::InvalidArgument;
    refused("", &all(), code, &["\"t.csv\"", "empty"]);
    refused("\n\r\n\n", &all(), code, &["empty"]);
    refused("\u{feff}", &all(), code, &["empty"]);
    refused("x,y\n", &all(), code, &["header", "no rows", "allowed"]);
    refused("x,y\n  \n", &all(), code, &["header", "no rows"]);
    refused("x,y", &all(), code, &["header", "no rows"]);
}

#[test]
fn lines_of_spaces_are_skipped() {
    for content in ["  \nx,y\n   \n1,a\n\t\n2,b\n \n", "x;y\r\n1;a\r\n   \r\n2;b\r\n  "] {
        let dataset = load_csv(content, &all()).unwrap();
        assert_eq!(dataset.train.rows, [0, 1], "{content:?}");
        assert_eq!(dataset.feature_names, ["x"], "{content:?}");
    }
    refused("x,y\n1,2\n  \n1,2,3\n", &all(), ErrorCode::InvalidArgument, &["line 4", "3 fields"]);
}

#[test]
fn ragged_rows_are_named_by_line() {
    let code = ErrorCode::InvalidArgument;
    for (content, line) in [
        ("x,y\n1,2\n1,2,3\n", "line 3"),
        ("x,y\n1,2\n1,2,3", "line 3"),
        ("x,y\r\n1,2\r\n1,2,3\r\n1,2\r\n", "line 3"),
        ("x,y\n1,2\n\n\n1,2,3\n", "line 5"),
        ("x,y\n\"1\n\n\",2\n1,2,3\n", "line 5"),
        ("x,y\r\n\r\n1,2\r\n\r\n1,2,3", "line 5"),
    ] {
        refused(content, &all(), code, &[line, "3 fields", "header has 2"]);
    }
    refused("x,y\n1,2\n1\n", &all(), code, &["line 3", "1 fields", "header has 2"]);
}

#[test]
fn names_of_columns() {
    let code = ErrorCode::InvalidArgument;
    refused("x,z,x\n1,2,3\n", &all(), code, &["line 1", "columns 1 and 3", "\"x\""]);
    let dataset = load_csv(",x,y\n0,5,a\n1,6,b\n2,9,a\n", &all()).unwrap();
    assert_eq!(dataset.feature_names, ["x"]);
    assert!(dataset.notes[0].contains("\"column_1\""), "{:?}", dataset.notes);
    let dataset = load_csv(",x,y\n7,5,a\n1,6,b\n2,9,a\n", &all()).unwrap();
    assert_eq!(dataset.feature_names, ["column_1", "x"]);
}

#[test]
fn bytes_that_are_no_text() {
    let code = ErrorCode::InvalidArgument;
    refused(b"x,y\n1,a\n2,\xff\xfe\n", &all(), code, &["line 3", "field 2", "UTF-8"]);
    refused(b"x,y\n1,a\n\n2\xe9,b\n", &all(), code, &["line 4", "field 1", "UTF-8"]);
    refused(b"x,y\n1,a\n2,\0\n", &all(), code, &["line 3", "NUL"]);
    let mut late = "x,y\n".to_owned() + &"1,a\n".repeat(40_000);
    late.push_str("2,\0\n");
    refused(late, &all(), code, &["line 40002", "NUL"]);
    refused(
        b"PAR1\x15\x04",
        &all(),
        code,
        &["is a Parquet file; allowed: CSV in UTF-8 with a header (plain, gzip or zstd)"],
    );
    refused(b"PK\x03\x04\x14", &all(), code, &["ZIP", "Excel"]);
    refused(b"\xff\xfex\0,\0", &all(), code, &["UTF-16"]);
}

#[test]
fn limits_are_named() {
    let root = Root::with("t.csv", "x,z,y\n1,2,a\n2,3,b\n3,4,a\n");
    let code = ErrorCode::ResourceExhausted;
    let exact = Config {
        max_bytes: 24,
        max_unpacked_bytes: 1,
        max_rows: 3,
        max_columns: 3,
        max_cells: 9,
        ..root.config()
    };
    let check = || Ok(());
    assert!(load("t.csv", &all(), &exact, &check).is_ok());
    for (config, words) in [
        (Config { max_bytes: 23, ..exact.clone() }, "23 bytes"),
        (Config { max_rows: 2, ..exact.clone() }, "2 rows"),
        (Config { max_columns: 2, ..exact.clone() }, "2 columns"),
        (Config { max_cells: 8, ..exact.clone() }, "8 cells"),
    ] {
        let error = load("t.csv", &all(), &config, &check).unwrap_err();
        expect(error, code, &[words, "\"t.csv\""]);
    }
    let half = Config::for_machine(root.path(), 1 << 30);
    assert_eq!(half.max_memory_bytes, 1 << 29);
    assert_eq!(Config::for_machine(root.path(), 0), root.config());
    // One column of many words becomes many features.
    let words: String = (0..60).map(|row| format!("w{},{}\n", row % 15, row % 2)).collect();
    let root = Root::with("wide.csv", format!("w,y\n{words}"));
    let config = Config { max_cells: 500, ..root.config() };
    expect(load("wide.csv", &all(), &config, &check).unwrap_err(), code, &["500 cells", "after encoding"]);
}

#[test]
fn memory_is_counted_before_it_is_taken() {
    let check = || Ok(());
    // Two columns of 4 bytes, the target of 8, two features of 4, in 100 rows.
    let numbers: String = (0..100).map(|row| format!("{},{row},{}\n", row * row, row % 2)).collect();
    // 1000 words of 1000 bytes, twice as many rows with a feature of 4 bytes each.
    let words: String =
        (0..2000).map(|row| format!("{}{},{}\n", "w".repeat(1000), row % 1000, row % 2)).collect();
    // The same after a number, so that they are met on the second pass.
    let late = format!("1,0\n{words}");
    for (content, least, most) in [
        (format!("a,b,y\n{numbers}"), 2400, 2400),
        (format!("w,y\n{words}"), 1_000_000, 1_200_000),
        (format!("w,y\n{late}"), 1_000_000, 1_200_000),
    ] {
        let root = Root::with("t.csv", content);
        let with = |max_memory_bytes| Config { max_memory_bytes, ..root.config() };
        assert!(load("t.csv", &all(), &with(most), &check).is_ok());
        let limit = least - 1;
        let error = load("t.csv", &all(), &with(limit), &check).unwrap_err();
        expect(error, ErrorCode::ResourceExhausted, &["\"t.csv\"", &format!("{limit} bytes of memory")]);
    }
    // Long words are noticed long before their file has been read.
    let long: String = (0..64).map(|row| format!("{}{row},{}\n", "w".repeat(1 << 20), row % 2)).collect();
    let root = Root::with("t.csv", format!("w,y\n{long}"));
    let calls = Cell::new(0);
    let count = || {
        calls.set(calls.get() + 1);
        Ok(())
    };
    let config = Config { max_memory_bytes: 10 << 20, ..root.config() };
    assert!(matches!(load("t.csv", &all(), &config, &count), Err(DataError::TooMuchMemory { .. })));
    assert!(calls.get() < 8, "{}", calls.get());
}

#[test]
fn an_open_quote_does_not_swallow_the_file() {
    let mut content = "x,y\n1,a\n\"".to_owned();
    content.push_str(&"2,b\n".repeat(5 << 20));
    refused(content, &all(), ErrorCode::InvalidArgument, &["line 3", "bytes", "quote left open"]);
}

#[test]
fn loading_stops_when_told_to() {
    let rows: String = (0..100_000).map(|row| format!("{row},{}\n", row % 2)).collect();
    let root = Root::with("t.csv", format!("x,y\n{rows}"));
    let (calls, limit) = (Cell::new(0), Cell::new(u32::MAX));
    let check = || {
        calls.set(calls.get() + 1);
        if calls.get() > limit.get() { Err(TaskError::new(ErrorCode::TimedOut, "late")) } else { Ok(()) }
    };
    load("t.csv", &all(), &root.config(), &check).unwrap();
    let whole = calls.replace(0);
    assert!(whole > 50, "{whole}");
    // The rest are more of the same.
    for stop_after in (0..whole).step_by(9) {
        limit.set(stop_after);
        calls.set(0);
        let error = load("t.csv", &all(), &root.config(), &check).unwrap_err();
        assert_eq!(TaskError::from(error), TaskError::new(ErrorCode::TimedOut, "late"));
        assert_eq!(calls.get(), stop_after + 1);
    }
}

#[test]
fn words_after_numbers_keep_the_text_of_both() {
    let dataset = load_csv("code,y\n007,a\n7,b\nx,a\n007,b\n", &all()).unwrap();
    assert_eq!(dataset.feature_names, ["code=007", "code=7", "code=x"]);
    assert_eq!(feature(&dataset, &dataset.train, 0), [1.0, 0.0, 0.0, 1.0]);
    let [note] = &dataset.notes[..] else { panic!("{:?}", dataset.notes) };
    assert!(note.contains("\"code\" (line 4: \"x\")"), "{note}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes_never_panic(content in proptest::collection::vec(any::<u8>(), 0..400)) {
        let root = Root::with("t.csv", content);
        let _ = root.load("t.csv", &LoadOptions::default());
    }

    #[test]
    fn random_tables_never_panic(content in "([a-c0-9 .;,\"?-]{0,12}[,;\n\r]){0,40}") {
        let root = Root::with("t.csv", &content);
        for problem in [Problem::Auto, Problem::Classification, Problem::Regression] {
            let options = LoadOptions { problem, ..LoadOptions::default() };
            if let Ok(dataset) = root.load("t.csv", &options) {
                prop_assert!(dataset.train.features.iter().all(|figure| figure.is_finite()));
                prop_assert!(!dataset.train.is_empty());
            }
        }
    }

    #[test]
    fn random_paths_never_leave_the_root(path in "(\\.\\.?/|/|[a-z]{1,2}/?|:){0,8}") {
        let root = Root::new();
        prop_assert!(root.load(&path, &all()).is_err());
    }
}
