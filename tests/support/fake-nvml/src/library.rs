//! The state of one loaded copy: the control file as last read, handles, and what was delivered.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::abi::{self, Device};
use crate::control::{Control, DriverState, Fault, Gpu, Slice};
use crate::install::CONTROL;

/// How often a call that hangs looks whether it still has to.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// What a call may see; the lock is never held while one hangs.
static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct State {
    users: u32,
    /// GPUs that were found to be lost since the bus was looked at.
    lost: HashSet<String>,
    read: Option<(SystemTime, u64, Arc<Control>)>,
    /// UUID of each handle; the handle is the address of the allocation. Never freed, as handles live as long as
    /// the library.
    handles: Vec<&'static str>,
    /// Xid events delivered, by UUID.
    delivered: HashMap<String, usize>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder of this copy, as the dynamic linker knows it.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is one of this very library, and `info` is a place for the answer.
    let found = unsafe { libc::dladdr(here as *const c_void, info.as_mut_ptr()) };
    if found == 0 {
        return PathBuf::from(".");
    }
    // SAFETY: dladdr succeeded, so the name is a C string that lives as long as the library.
    let name = unsafe { CStr::from_ptr(info.assume_init().dli_fname) };
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    path.parent().map(PathBuf::from).unwrap_or_default()
});

extern "C" fn here() {}

/// The control file. One that cannot be read is one without GPUs.
pub(crate) fn control() -> Arc<Control> {
    use std::os::unix::fs::MetadataExt as _;
    let path = FOLDER.join(CONTROL);
    let seen = fs::metadata(&path).and_then(|data| Ok((data.modified()?, data.ino())));
    let mut state = state();
    let Ok((modified, inode)) = seen else { return Arc::default() };
    if let Some((at, number, control)) = &state.read
        && (*at, *number) == (modified, inode)
    {
        return Arc::clone(control);
    }
    let control: Control =
        fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let control = Arc::new(control);
    state.read = Some((modified, inode, Arc::clone(&control)));
    control
}

/// Counts who uses the library.
pub(crate) fn initialise() {
    let mut state = state();
    if state.users == 0 {
        state.lost.clear();
    }
    state.users += 1;
}

/// The end of one use.
pub(crate) fn shut_down() -> u32 {
    let mut state = state();
    match state.users {
        0 => abi::UNINITIALIZED,
        _ => {
            state.users -= 1;
            abi::SUCCESS
        }
    }
}

/// Ok once a fault has run its course; `faults` says whether it is still there.
fn suffer(faults: impl Fn(&Control) -> Option<Fault>) -> Result<(), u32> {
    loop {
        match faults(&control()) {
            None => return Ok(()),
            Some(Fault::Error(code)) => return Err(code),
            Some(Fault::SleepMs(time)) => {
                std::thread::sleep(Duration::from_millis(time));
                return Ok(());
            }
            Some(Fault::Hang) => std::thread::sleep(LOOK),
            Some(Fault::Abort) => std::process::abort(),
        }
    }
}

/// What every function does first: the driver's state, then faults of all GPUs.
pub(crate) fn enter(name: &str) -> Result<Arc<Control>, u32> {
    if state().users == 0 {
        return Err(abi::UNINITIALIZED);
    }
    enter_uninitialised(name)
}

/// As [`enter`], for the functions that may be called first.
pub(crate) fn enter_uninitialised(name: &str) -> Result<Arc<Control>, u32> {
    suffer(|control| control.faults.get(name).cloned())?;
    let control = control();
    match control.driver {
        DriverState::Fine => Ok(control),
        DriverState::Gone => Err(abi::DRIVER_NOT_LOADED),
        DriverState::VersionMismatch => Err(abi::LIB_RM_VERSION_MISMATCH),
    }
}

/// A GPU, and the slice of it where the handle is that of one.
pub(crate) struct Found {
    control: Arc<Control>,
    gpu: usize,
    slice: Option<usize>,
}

impl Found {
    pub(crate) fn gpu(&self) -> &Gpu {
        &self.control.gpus[self.gpu]
    }

    pub(crate) fn index(&self) -> u32 {
        self.gpu as u32
    }

    pub(crate) fn slice(&self) -> Option<&Slice> {
        self.gpu().mig.as_ref()?.get(self.slice?)
    }
}

fn find(control: Arc<Control>, uuid: &str) -> Option<Found> {
    for (gpu, candidate) in control.gpus.iter().enumerate() {
        if candidate.uuid == uuid {
            return Some(Found { gpu, slice: None, control });
        }
        let slices = candidate.mig.iter().flatten();
        if let Some(slice) = slices.clone().position(|slice| slice.uuid == uuid) {
            return Some(Found { gpu, slice: Some(slice), control });
        }
    }
    None
}

/// The GPU called `uuid`, for the function called `name`.
pub(crate) fn device_called(uuid: &str, name: &str) -> Result<Found, u32> {
    let found = find(enter(name)?, uuid).ok_or(abi::GPU_IS_LOST)?;
    if found.gpu().lost {
        state().lost.insert(found.gpu().uuid.clone());
    }
    if state().lost.contains(&found.gpu().uuid) {
        return Err(abi::GPU_IS_LOST);
    }
    suffer(|control| {
        control.gpus.iter().find(|gpu| gpu.uuid == found.gpu().uuid)?.faults.get(name).cloned()
    })?;
    Ok(found)
}

/// The GPU behind `handle`, for the function called `name`.
pub(crate) fn device(handle: Device, name: &str) -> Result<Found, u32> {
    let uuid = state().handles.iter().find(|uuid| uuid.as_ptr().cast() == handle).copied();
    device_called(uuid.ok_or(abi::INVALID_ARGUMENT)?, name)
}

/// As [`device`], for a function that MIG slices do not have.
pub(crate) fn whole(handle: Device, name: &str) -> Result<Found, u32> {
    let found = device(handle, name)?;
    if found.slice.is_some() { Err(abi::NOT_SUPPORTED) } else { Ok(found) }
}

/// The handle of `uuid`, the same each time.
pub(crate) fn handle(uuid: &str) -> Device {
    let mut state = state();
    if let Some(known) = state.handles.iter().find(|known| **known == uuid) {
        return known.as_ptr().cast();
    }
    let kept: &'static str = Box::leak(uuid.to_owned().into_boxed_str());
    state.handles.push(kept);
    kept.as_ptr().cast()
}

/// The next Xid event of one of `uuids` that was not delivered yet.
pub(crate) fn next_xid(uuids: &[String]) -> Option<(String, u64)> {
    let control = control();
    let mut state = state();
    for gpu in control.gpus.iter().filter(|gpu| uuids.contains(&gpu.uuid)) {
        let delivered = state.delivered.entry(gpu.uuid.clone()).or_default();
        if let Some(xid) = gpu.xids.get(*delivered) {
            *delivered += 1;
            return Some((gpu.uuid.clone(), *xid));
        }
    }
    None
}
