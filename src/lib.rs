//! The compute worker of TensorFleet.
#![deny(unsafe_code)]

pub mod app;
pub mod cli;
pub mod config;
pub mod data;
pub mod dev;
pub mod domain;
pub mod engine;
pub mod gpu;
pub mod grpc;
pub mod http;
pub mod orchestrator;
pub mod telemetry;
pub mod wire;
pub mod worker;
