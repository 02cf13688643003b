//! The functions that tell who uses a GPU, and how fast it may run.
#![allow(non_snake_case, missing_docs, reason = "named in nvml.h")]
#![allow(clippy::missing_safety_doc, reason = "as nvml.h says: valid pointers of the types it names")]
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every body is one write through a pointer that was checked for null"
)]

use std::ffi::{c_uint, c_ulonglong};

use crate::abi::*;
use crate::calls::{Answer, code, put};
use crate::control::Process;
use crate::library;

/// Writes `processes` into the caller's list of `*count` places.
unsafe fn list(processes: &[Process], count: *mut c_uint, places: *mut ProcessInfo) -> Answer {
    if count.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    let room = *count as usize;
    *count = processes.len() as u32;
    if room < processes.len() {
        return Err(INSUFFICIENT_SIZE);
    }
    let absent = u32::MAX;
    for (at, process) in processes.iter().enumerate() {
        put(
            places.add(at),
            ProcessInfo {
                pid: process.pid,
                used_gpu_memory: process.memory_bytes,
                gpu_instance_id: absent,
                compute_instance_id: absent,
            },
        )?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    places: *mut ProcessInfo,
) -> u32 {
    const NAME: &str = "nvmlDeviceGetComputeRunningProcesses_v3";
    code(library::device(device, NAME).and_then(|found| list(&found.gpu().processes, count, places)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    places: *mut ProcessInfo,
) -> u32 {
    const NAME: &str = "nvmlDeviceGetGraphicsRunningProcesses_v3";
    code(library::device(device, NAME).and_then(|found| list(&found.gpu().graphics_processes, count, places)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFanSpeed_v2(device: Device, fan: c_uint, percent: *mut c_uint) -> u32 {
    code(library::whole(device, "nvmlDeviceGetFanSpeed_v2").and_then(|found| {
        let speed = found.gpu().fan_percent.as_ref().ok_or(NOT_SUPPORTED)?;
        if fan > 0 { Err(INVALID_ARGUMENT) } else { put(percent, speed.at(crate::now()) as u32) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(
    device: Device,
    kind: c_uint,
    megahertz: *mut c_uint,
) -> u32 {
    code(library::whole(device, "nvmlDeviceGetMaxClockInfo").and_then(|found| match kind {
        0 | 1 => put(megahertz, found.gpu().sm_clock_max_mhz),
        2 => put(megahertz, found.gpu().memory_clock_max_mhz),
        _ => Err(NOT_SUPPORTED),
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEncoderUtilization(
    device: Device,
    percent: *mut c_uint,
    period_us: *mut c_uint,
) -> u32 {
    code(library::whole(device, "nvmlDeviceGetEncoderUtilization").and_then(|found| {
        put(percent, found.gpu().video_percent.0)?;
        put(period_us, 167_000)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDecoderUtilization(
    device: Device,
    percent: *mut c_uint,
    period_us: *mut c_uint,
) -> u32 {
    code(library::whole(device, "nvmlDeviceGetDecoderUtilization").and_then(|found| {
        put(percent, found.gpu().video_percent.1)?;
        put(period_us, 167_000)
    }))
}

/// As on an idle GPU, which has no samples.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: Device,
    _: *mut ProcessUtilizationSample,
    _: *mut c_uint,
    _: c_ulonglong,
) -> u32 {
    code(library::whole(device, "nvmlDeviceGetProcessUtilization").and(Err(NOT_FOUND)))
}
