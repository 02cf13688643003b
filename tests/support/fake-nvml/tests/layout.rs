//! The layouts of the fake are those of NVIDIA's header, as a C compiler sees it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// Where nvml.h is: in the virtual environment that scripts/test makes, or where NVML_INCLUDE says.
fn include() -> PathBuf {
    if let Some(folder) = std::env::var_os("NVML_INCLUDE") {
        return folder.into();
    }
    let lib = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../.venv/lib");
    let pythons = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    let packages = pythons.map(|python| python.path().join("site-packages/nvidia"));
    let versions = packages.filter_map(|nvidia| std::fs::read_dir(nvidia).ok()).flatten().flatten();
    let mut includes = versions.map(|version| version.path().join("include"));
    includes
        .find(|folder| folder.join("nvml.h").exists())
        .expect("nvml.h of PyPI's nvidia-nvml-dev: scripts/test installs it")
}

#[test]
fn every_structure_is_laid_out_as_in_the_header() {
    let layouts = fake_nvml::abi::layouts();
    let mut program =
        String::from("#include <stdio.h>\n#include <stddef.h>\n#include <nvml.h>\nint main(void) {\n");
    let mut ours = String::new();
    for (name, size, fields) in &layouts {
        writeln!(program, "printf(\"{name} %zu\\n\", sizeof({name}));").unwrap();
        writeln!(ours, "{name} {size}").unwrap();
        for (field, offset) in fields {
            writeln!(program, "printf(\"{name}.{field} %zu\\n\", offsetof({name}, {field}));").unwrap();
            writeln!(ours, "{name}.{field} {offset}").unwrap();
        }
    }
    program.push_str("return 0; }\n");
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("layout.c"), folder.path().join("layout"));
    std::fs::write(&source, program).unwrap();
    let compiled =
        Command::new("cc").arg("-I").arg(include()).arg(&source).arg("-o").arg(&binary).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let theirs = Command::new(&binary).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&theirs.stdout), ours);
    assert!(layouts.len() >= 10);
}

#[test]
fn every_function_has_the_name_that_the_header_gives_it() {
    let header = std::fs::read_to_string(include().join("nvml.h")).unwrap();
    let source = concat!(include_str!("../src/calls.rs"), include_str!("../src/uses.rs"));
    let words = source.split(|c: char| !c.is_alphanumeric() && c != '_');
    let names: std::collections::BTreeSet<&str> =
        words.filter(|word| word.starts_with("nvml") && word.len() > 4).collect();
    assert!(names.len() >= 35, "{names:?}");
    for name in names.iter().filter(|name| **name != "nvml_h") {
        assert!(header.contains(&format!("{name}(")), "{name} is not in nvml.h");
    }
}
