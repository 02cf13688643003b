//! Compiles the protocol with a compiler written in Rust, so that no protoc has to be installed, and keeps its
//! descriptors for server reflection.

use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
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
