//! Which paths lead to data, and which do not.

use std::os::unix::fs::symlink;

use super::*;

const TINY: &str = "x,y\n1,a\n2,b\n3,a\n4,b\n";

#[test]
fn built_in_sets_have_their_shapes() {
    for (name, rows, columns, classes) in
        [("digits", 1797, 64, 10), ("iris", 150, 4, 3), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2)]
    {
        let dataset = Root::new().load(&format!("builtin:{name}"), &LoadOptions::default()).unwrap();
        assert_eq!(dataset.train.len() + dataset.validation.len(), rows, "{name}");
        assert_eq!(dataset.width(), columns, "{name}");
        assert_eq!(dataset.classes(), Some(classes), "{name}");
        assert_eq!(dataset.target_name, "target");
        assert_eq!(dataset.notes, Vec::<String>::new());
        assert_eq!(dataset.train.features.len(), dataset.train.len() * columns);
        assert_eq!(dataset.validation.len(), (rows as f64 * 0.2).round() as usize);
        let figures = dataset.train.features.iter().chain(&dataset.validation.features);
        assert!(figures.into_iter().all(|figure| figure.is_finite()));
        assert_eq!(dataset.memory_bytes(), rows * (columns + 2) * 4);
    }
    let digits = Root::new().load("builtin:digits", &all()).unwrap();
    assert_eq!(labels(&digits), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(&class_ids(&digits.train)[..5], [0, 1, 2, 3, 4]);
    assert_eq!(digits.feature_names[9], "pixel_1_1");
    let cancer = Root::new().load("builtin:breast_cancer", &all()).unwrap();
    assert_eq!(labels(&cancer), ["benign", "malignant"]);
}

#[test]
fn the_files_and_the_built_in_sets_are_the_same() {
    let config = Config::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data"));
    for set in Builtin::ALL {
        let name = set.name;
        let options = LoadOptions::default();
        let file = load(&format!("{name}.csv"), &options, &config, &|| Ok(())).unwrap();
        let built_in = load(&format!("builtin:{name}"), &options, &config, &|| Ok(())).unwrap();
        assert_eq!(file.train, built_in.train);
    }
}

#[test]
fn paths_as_tensorfleet_sends_them() {
    let root = Root::with("sample.csv", TINY);
    root.write("datasets/mnist.csv", TINY);
    root.write("data/mnist.csv", TINY);
    root.write("plain", TINY);
    root.write("both/inner.csv", TINY);
    root.write("both.csv", TINY);
    let inside = root.path().join("sample.csv");
    for path in [
        "sample.csv",
        "./sample.csv",
        "sample",
        "datasets/mnist",
        "/data/mnist",
        "/sample.csv",
        "//data//mnist.csv",
        "datasets/../sample.csv",
        "plain",
        "both",
        inside.to_str().unwrap(),
    ] {
        assert_eq!(root.load(path, &all()).map(|dataset| dataset.train.len()).unwrap(), 4, "{path}");
    }
}

#[test]
fn a_relative_root_works() {
    let config = Config::new("data");
    let absolute = std::env::current_dir().unwrap().join("data/iris.csv");
    for path in ["iris", "data/../iris", absolute.to_str().unwrap()] {
        let loaded = load(path, &all(), &config, &|| Ok(()));
        // `data/data` does not exist, so the second is not found; it must not be refused as an escape.
        match path.contains("..") {
            true => assert_eq!(loaded.unwrap_err().code(), ErrorCode::NotFound),
            false => assert_eq!(loaded.unwrap().train.len(), 150, "{path}"),
        }
    }
}

#[test]
fn what_is_not_there_is_named_with_what_was_looked_for() {
    let root = Root::new();
    let error = root.load("datasets/none", &all()).unwrap_err();
    let words = ["\"datasets/none\"", "datasets/none.csv", "DATA_ROOT", "allowed", "builtin:NAME"];
    expect(error, ErrorCode::NotFound, &words);
    expect(root.load(&"n".repeat(3000), &all()).unwrap_err(), ErrorCode::NotFound, &["nnn…"]);
    let config = Config::new(root.path().join("nowhere"));
    let error = load("a.csv", &all(), &config, &|| Ok(())).unwrap_err();
    expect(error, ErrorCode::NotFound, &["DATA_ROOT", "nowhere"]);
}

#[test]
fn other_schemes_say_what_is_allowed() {
    let root = Root::new();
    for path in ["ftp://localhost/a.csv", "file:///etc/passwd", "builtin:mnist", "builtin:", "", " ", "a\0b"]
    {
        let error = root.load(path, &all()).unwrap_err();
        let shown = path.replace('\0', "\u{fffd}");
        expect(error, ErrorCode::InvalidArgument, &["dataset_path", &shown, "builtin:NAME", "breast_cancer"]);
    }
}

#[test]
fn nothing_outside_of_the_root_is_read() {
    let outside = Root::with("secret.csv", TINY);
    let root = Root::new();
    symlink(outside.path().join("secret.csv"), root.path().join("file.csv")).unwrap();
    symlink(outside.path(), root.path().join("folder")).unwrap();
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    for path in [
        format!("../{name}/secret.csv"),
        format!("/../{name}/secret.csv"),
        format!("{}/../{name}/secret.csv", root.path().display()),
        "../../../../etc/passwd".to_owned(),
        "file.csv".to_owned(),
        "file".to_owned(),
        "folder/secret.csv".to_owned(),
        "folder/secret".to_owned(),
    ] {
        let error = root.load(&path, &all()).unwrap_err();
        expect(error, ErrorCode::InvalidArgument, &["dataset_path", "DATA_ROOT", "allowed"]);
    }
    // The file itself, taken relative to the root, is just not there.
    let absolute = outside.path().join("secret.csv");
    let error = root.load(absolute.to_str().unwrap(), &all()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
}

#[test]
fn links_within_the_root_are_followed() {
    let root = Root::with("real/a.csv", TINY);
    symlink("real/a.csv", root.path().join("relative.csv")).unwrap();
    symlink(root.path().join("real"), root.path().join("absolute")).unwrap();
    symlink("loop", root.path().join("loop")).unwrap();
    assert!(root.load("relative.csv", &all()).is_ok());
    assert!(root.load("absolute/a.csv", &all()).is_ok());
    assert_eq!(root.load("loop", &all()).unwrap_err().code(), ErrorCode::NotFound);
}

#[test]
fn only_regular_files_are_opened() {
    let root = Root::with("folder/a.csv", TINY);
    rustix::fs::mkfifoat(rustix::fs::CWD, root.path().join("pipe.csv"), rustix::fs::Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket.csv")).unwrap();
    for (path, kind) in [
        ("folder", "folder"),
        (".", "folder"),
        ("pipe.csv", "named pipe"),
        ("pipe", "named pipe"),
        ("socket", "socket"),
    ] {
        let error = root.load(path, &all()).unwrap_err();
        expect(error, ErrorCode::InvalidArgument, &[path, kind, "; allowed: a regular CSV file"]);
    }
}
