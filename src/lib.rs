//! The compute worker of TensorFleet.
#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod config;
pub mod data;
pub mod dev;
pub mod domain;
pub mod engine;
mod failpoint;
pub mod gpu;
pub mod grpc;
pub mod http;
pub mod orchestrator;
pub mod telemetry;
pub mod wire;
pub mod worker;
