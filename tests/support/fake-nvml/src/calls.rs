//! The functions that the library exports.
//!
//! Every pointer is one that NVML's own documentation asks for; a null one is an invalid argument.
#![allow(non_snake_case, missing_docs, reason = "named in nvml.h")]
#![allow(clippy::missing_safety_doc, reason = "as nvml.h says: valid pointers of the types it names")]
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every body is one write through a pointer that was checked for null"
)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::abi::*;
use crate::control::now;
use crate::library::{self, Found, LOOK};

pub(crate) type Answer = Result<(), u32>;

pub(crate) fn code(answer: Answer) -> u32 {
    answer.err().unwrap_or(SUCCESS)
}

/// Writes `value` where the caller wants it.
pub(crate) unsafe fn put<T>(place: *mut T, value: T) -> Answer {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    place.write(value);
    Ok(())
}

/// Writes `text` with its end into a buffer of `length` bytes.
unsafe fn put_text(place: *mut c_char, length: c_uint, text: &str) -> Answer {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
    place.add(text.len()).write(0);
    Ok(())
}

/// Functions of one device with one answer: name, whether MIG slices have it, type of the answer, the answer.
macro_rules! answers {
    ($($name:ident($lookup:ident) -> $kind:ty = $value:expr;)+) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, answer: *mut $kind) -> u32 {
            let value: fn(&Found) -> Result<$kind, u32> = $value;
            code(library::$lookup(device, stringify!($name)).and_then(|found| put(answer, value(&found)?)))
        }
    )+};
}

answers! {
    nvmlDeviceGetUtilizationRates(whole) -> Utilization = |found| {
        let gpu = found.gpu();
        if gpu.mig.is_some() {
            return Err(NOT_SUPPORTED);
        }
        Ok(Utilization {
            gpu: gpu.utilization_percent.at(now()) as u32,
            memory: gpu.memory_utilization_percent.at(now()) as u32,
        })
    };
    nvmlDeviceGetMemoryInfo(device) -> Memory = |found| {
        let (total, used) = memory(found)?;
        Ok(Memory { total, free: total - used, used })
    };
    nvmlDeviceGetPowerUsage(whole) -> c_uint = |found| Ok((found.gpu().power_watts.at(now()) * 1e3) as u32);
    nvmlDeviceGetEnforcedPowerLimit(whole) -> c_uint = |found| Ok((found.gpu().power_limit_watts * 1e3) as u32);
    nvmlDeviceGetPowerManagementLimit(whole) -> c_uint = |found| Ok((found.gpu().power_limit_watts * 1e3) as u32);
    nvmlDeviceGetTotalEnergyConsumption(whole) -> c_ulonglong = |found| {
        let gpu = found.gpu();
        Ok((gpu.energy_joules(gpu.energy_since, now()) * 1e3) as u64)
    };
    nvmlDeviceGetCurrentClocksThrottleReasons(whole) -> c_ulonglong = |found| Ok(found.gpu().throttle_reasons);
    nvmlDeviceGetCurrentClocksEventReasons(whole) -> c_ulonglong = |found| Ok(found.gpu().throttle_reasons);
    nvmlDeviceGetNumFans(whole) -> c_uint = |found| Ok(u32::from(found.gpu().fan_percent.is_some()));
    nvmlDeviceGetPerformanceState(whole) -> c_uint = |found| Ok(found.gpu().performance_state);
    nvmlDeviceGetComputeMode(whole) -> c_uint = |found| Ok(found.gpu().compute_mode);
    nvmlDeviceGetMaxMigDeviceCount(whole) -> c_uint = |found| Ok(if found.gpu().mig.is_some() { 7 } else { 0 });
    nvmlDeviceGetIndex(device) -> c_uint = |found| Ok(found.index());
    nvmlDeviceGetPciInfo_v3(device) -> PciInfo = |found| {
        let (domain, bus, device) = found.gpu().pci;
        let mut info = PciInfo {
            bus_id_legacy: [0; 16],
            domain,
            bus,
            device,
            pci_device_id: 0x1234_10de,
            pci_subsystem_id: 0,
            bus_id: [0; 32],
        };
        fill(&mut info.bus_id, &format!("{domain:08X}:{bus:02X}:{device:02X}.0"));
        fill(&mut info.bus_id_legacy, &format!("{domain:04X}:{bus:02X}:{device:02X}.0"));
        Ok(info)
    };
    nvmlDeviceGetAttributes_v2(device) -> DeviceAttributes = |found| {
        let slice = found.slice().ok_or(NOT_SUPPORTED)?;
        Ok(DeviceAttributes {
            multiprocessor_count: 14,
            shared_copy_engine_count: 1,
            shared_decoder_count: 0,
            shared_encoder_count: 0,
            shared_jpeg_count: 0,
            shared_ofa_count: 0,
            gpu_instance_slice_count: 1,
            compute_instance_slice_count: 1,
            memory_size_mb: slice.memory_mib,
        })
    };
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device) -> Device = |found| {
        found.slice().ok_or(INVALID_ARGUMENT)?;
        Ok(library::handle(&found.gpu().uuid))
    };
}

fn fill(place: &mut [c_char], text: &str) {
    for (to, from) in place.iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
}

/// Total and used memory in bytes.
fn memory(found: &Found) -> Result<(u64, u64), u32> {
    let gpu = found.gpu();
    match found.slice() {
        Some(slice) => Ok((slice.memory_mib << 20, slice.memory_used_bytes)),
        // As on a GPU that uses the machine's memory.
        None if gpu.memory_total_bytes == 0 => Err(NOT_SUPPORTED),
        None => {
            let used = (gpu.memory_used_bytes.at(now()) as u64).min(gpu.memory_total_bytes);
            Ok((gpu.memory_total_bytes, used))
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit_v2() -> u32 {
    code(library::enter_uninitialised("nvmlInit_v2").map(|_| library::initialise()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlShutdown() -> u32 {
    library::shut_down()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlErrorString(code: u32) -> *const c_char {
    let text = match code {
        SUCCESS => c"The operation was successful",
        DRIVER_NOT_LOADED => c"Driver Not Loaded",
        GPU_IS_LOST => c"GPU is lost",
        NOT_SUPPORTED => c"Not Supported",
        LIB_RM_VERSION_MISMATCH => c"RM has detected an NVML/RM version mismatch.",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> u32 {
    let entered = library::enter("nvmlSystemGetDriverVersion");
    code(entered.and_then(|control| put_text(version, length, &control.driver_version)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> u32 {
    let entered = library::enter("nvmlSystemGetNVMLVersion");
    code(entered.and_then(|control| put_text(version, length, &format!("12.{}", control.driver_version))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) -> u32 {
    code(library::enter("nvmlSystemGetCudaDriverVersion").and_then(|_| put(version, 12_040)))
}

/// As where libcuda.so.1 is not there, which a worker does not need.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(_: *mut c_int) -> u32 {
    code(library::enter("nvmlSystemGetCudaDriverVersion_v2").and(Err(LIBRARY_NOT_FOUND)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> u32 {
    code(library::enter("nvmlDeviceGetCount_v2").and_then(|control| put(count, control.gpus.len() as u32)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Device) -> u32 {
    const NAME: &str = "nvmlDeviceGetHandleByIndex_v2";
    code(library::enter(NAME).and_then(|control| {
        let gpu = control.gpus.get(index as usize).ok_or(INVALID_ARGUMENT)?;
        library::device_called(&gpu.uuid, NAME)?;
        put(device, library::handle(&gpu.uuid))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut Device) -> u32 {
    const NAME: &str = "nvmlDeviceGetHandleByUUID";
    if uuid.is_null() {
        return INVALID_ARGUMENT;
    }
    let Ok(uuid) = CStr::from_ptr(uuid).to_str() else { return INVALID_ARGUMENT };
    code(library::enter(NAME).and_then(|control| {
        let known = control
            .gpus
            .iter()
            .any(|gpu| gpu.uuid == uuid || gpu.mig.iter().flatten().any(|slice| slice.uuid == uuid));
        if !known {
            return Err(NOT_FOUND);
        }
        library::device_called(uuid, NAME)?;
        put(device, library::handle(uuid))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, device: *mut Device) -> u32 {
    const NAME: &str = "nvmlDeviceGetHandleByPciBusId_v2";
    if bus_id.is_null() {
        return INVALID_ARGUMENT;
    }
    let Ok(bus_id) = CStr::from_ptr(bus_id).to_str() else { return INVALID_ARGUMENT };
    code(library::enter(NAME).and_then(|control| {
        let address = |gpu: &crate::Gpu| {
            let (domain, bus, device) = gpu.pci;
            format!("{domain:08X}:{bus:02X}:{device:02X}.0")
        };
        let gpu = control.gpus.iter().find(|gpu| address(gpu).ends_with(&bus_id.to_uppercase()));
        let uuid = &gpu.ok_or(NOT_FOUND)?.uuid;
        library::device_called(uuid, NAME)?;
        put(device, library::handle(uuid))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Device, name: *mut c_char, length: c_uint) -> u32 {
    code(library::device(device, "nvmlDeviceGetName").and_then(|found| match found.slice() {
        Some(slice) => {
            let size = slice.memory_mib.div_ceil(1024);
            put_text(name, length, &format!("{} MIG 1g.{size}gb", found.gpu().name))
        }
        None => put_text(name, length, &found.gpu().name),
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Device, uuid: *mut c_char, length: c_uint) -> u32 {
    code(library::device(device, "nvmlDeviceGetUUID").and_then(|found| {
        put_text(uuid, length, found.slice().map_or(&found.gpu().uuid, |slice| &slice.uuid))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, info: *mut MemoryV2) -> u32 {
    code(library::device(device, "nvmlDeviceGetMemoryInfo_v2").and_then(|found| {
        if info.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let version = (*info).version;
        if version != size_of::<MemoryV2>() as u32 | 2 << 24 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        let (total, used) = memory(&found)?;
        put(info, MemoryV2 { version, total, reserved: 0, free: total - used, used })
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: Device,
    sensor: c_uint,
    celsius: *mut c_uint,
) -> u32 {
    code(library::whole(device, "nvmlDeviceGetTemperature").and_then(|found| match sensor {
        0 => put(celsius, found.gpu().temperature_celsius.at(now()) as u32),
        _ => Err(INVALID_ARGUMENT),
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperatureV(device: Device, place: *mut Temperature) -> u32 {
    code(library::whole(device, "nvmlDeviceGetTemperatureV").and_then(|found| {
        if place.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        if (*place).version != size_of::<Temperature>() as u32 | 1 << 24 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        let temperature = found.gpu().temperature_celsius.at(now()) as c_int;
        put(place, Temperature { temperature, ..*place })
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(device: Device, kind: c_uint, megahertz: *mut c_uint) -> u32 {
    code(library::whole(device, "nvmlDeviceGetClockInfo").and_then(|found| match kind {
        0 | 1 => put(megahertz, found.gpu().sm_clock_mhz.at(now()) as u32),
        2 => put(megahertz, found.gpu().memory_clock_mhz.at(now()) as u32),
        _ => Err(NOT_SUPPORTED),
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPcieThroughput(
    device: Device,
    counter: c_uint,
    rate: *mut c_uint,
) -> u32 {
    code(library::whole(device, "nvmlDeviceGetPcieThroughput").and_then(|found| {
        // Measured over 20 ms, as the real one does.
        std::thread::sleep(Duration::from_millis(20));
        let (sent, received) = found.gpu().pcie_kib_per_second;
        match counter {
            0 => put(rate, sent),
            1 => put(rate, received),
            _ => Err(INVALID_ARGUMENT),
        }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEccMode(device: Device, now: *mut c_uint, pending: *mut c_uint) -> u32 {
    code(library::whole(device, "nvmlDeviceGetEccMode").and_then(|found| {
        found.gpu().ecc_errors.ok_or(NOT_SUPPORTED)?;
        put(now, 1)?;
        put(pending, 1)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: Device,
    kind: c_uint,
    _since: c_uint,
    count: *mut c_ulonglong,
) -> u32 {
    code(library::whole(device, "nvmlDeviceGetTotalEccErrors").and_then(|found| {
        let (corrected, uncorrected) = found.gpu().ecc_errors.ok_or(NOT_SUPPORTED)?;
        put(count, if kind == 0 { corrected } else { uncorrected })
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetViolationStatus(
    device: Device,
    _: c_uint,
    time: *mut ViolationTime,
) -> u32 {
    code(
        library::whole(device, "nvmlDeviceGetViolationStatus").and_then(|_| {
            put(time, ViolationTime { reference_time: (now() * 1e6) as u64, violation_time: 0 })
        }),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(device: Device, now: *mut c_uint, pending: *mut c_uint) -> u32 {
    code(library::whole(device, "nvmlDeviceGetMigMode").and_then(|found| {
        let on = u32::from(found.gpu().mig.is_some());
        put(now, on)?;
        put(pending, on)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: Device,
    index: c_uint,
    slice: *mut Device,
) -> u32 {
    code(library::whole(device, "nvmlDeviceGetMigDeviceHandleByIndex").and_then(|found| {
        let slices = found.gpu().mig.as_ref().ok_or(NOT_SUPPORTED)?;
        let uuid = &slices.get(index as usize).ok_or(NOT_FOUND)?.uuid;
        put(slice, library::handle(uuid))
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: Device,
    major: *mut c_int,
    minor: *mut c_int,
) -> u32 {
    code(library::device(device, "nvmlDeviceGetCudaComputeCapability").and_then(|found| {
        put(major, found.gpu().compute_capability.0)?;
        put(minor, found.gpu().compute_capability.1)
    }))
}

/// UUIDs of a set of events; the handle is the address.
type EventSet = *const Mutex<Vec<String>>;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut EventSet) -> u32 {
    let created = library::enter("nvmlEventSetCreate");
    code(created.and_then(|_| put(set, Box::into_raw(Box::<Mutex<Vec<String>>>::default()).cast_const())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(set: EventSet) -> u32 {
    if set.is_null() {
        return INVALID_ARGUMENT;
    }
    drop(Box::from_raw(set.cast_mut()));
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(device: Device, kinds: c_ulonglong, set: EventSet) -> u32 {
    code(library::whole(device, "nvmlDeviceRegisterEvents").and_then(|found| {
        if set.is_null() || kinds & EVENT_XID == 0 {
            return Err(INVALID_ARGUMENT);
        }
        (*set).lock().map_err(|_| UNKNOWN)?.push(found.gpu().uuid.clone());
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(set: EventSet, data: *mut EventData, timeout_ms: c_uint) -> u32 {
    const NAME: &str = "nvmlEventSetWait_v2";
    if set.is_null() {
        return INVALID_ARGUMENT;
    }
    let limit = Instant::now() + Duration::from_millis(timeout_ms.into());
    let wait = || loop {
        library::enter(NAME)?;
        let uuids = (*set).lock().map_err(|_| UNKNOWN)?.clone();
        if let Some((uuid, xid)) = library::next_xid(&uuids) {
            return put(
                data,
                EventData {
                    device: library::handle(&uuid),
                    event_type: EVENT_XID,
                    event_data: xid,
                    gpu_instance_id: u32::MAX,
                    compute_instance_id: u32::MAX,
                },
            );
        }
        if Instant::now() >= limit {
            return Err(TIMEOUT);
        }
        std::thread::sleep(LOOK);
    };
    code(wait())
}
