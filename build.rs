//! Compiles the protocol with a compiler written in Rust, so that no protoc has to be installed, and keeps its
//! descriptors for server reflection. Asks the linker for short relocations where they can be loaded.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    if loads_short_relocations() {
        // Some 300,000 are read at the start, and stay in memory: 8 MB, or 0.1 MB where they are packed.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let descriptors = protox::compile(["orchestrator.proto", "worker.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".orchestrator.TrainingJobRequest.hyperparameters")
        .btree_map(".orchestrator.AssignTaskResponse.hyperparameters")
        .btree_map(".worker.TaskRequest.hyperparameters")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Whether the C library of this machine loads packed relocations, as glibc does from 2.36 on. What is linked so asks for
/// at least that, which no machine has to have that builds for itself alone.
fn loads_short_relocations() -> bool {
    let is_native = env::var("HOST").is_ok_and(|host| env::var("TARGET").is_ok_and(|target| target == host));
    let is_gnu = env::var("TARGET").is_ok_and(|target| target.ends_with("linux-gnu"));
    let version = || {
        let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
        let told = String::from_utf8(told.stdout).ok()?;
        let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    is_native && is_gnu && version().is_some_and(|version| version >= (2, 36))
}
