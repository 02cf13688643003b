//! A stand-in for libnvidia-ml.so.1 that says what a control file beside it tells it to.
//!
//! ```text
//! test --Installed::set--> nvml.json          libnvidia-ml.so.1 (a copy of this crate's cdylib, one a test)
//!                              ^--- read again when it changed ---+  loaded by the worker under test
//! ```
//!
//! Names, numbers and layouts are those of NVIDIA's public header `nvml.h`; nothing else of NVIDIA is in here. A
//! program that loads it sees GPUs with values that move with time, MIG slices, Xid events, and faults: any function
//! may fail with any code, sleep, or hang until the fault is taken away.
//!
//! As an ordinary Rust library (the rlib) it has what tests need to write the control file and to know what the
//! values will be, the exact integral of power among them.

pub mod abi;
mod calls;
mod control;
mod install;
mod library;
mod uses;

pub use control::{Control, Curve, DriverState, Fault, Gpu, Process, Slice, now};
pub use install::Installed;
