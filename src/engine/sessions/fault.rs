//! What a GPU's driver says through the panic of a trainer: wgpu and CubeCL have no other way.

/// What has happened to a GPU under a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is gone, or does not answer any more.
    Lost,
    /// Its memory is full.
    NoMemory,
}

/// How memory that has run out is told. wgpu gives a device up for that, so that these words come first.
const NO_MEMORY: [&str; 6] = [
    "out of memory",
    "out of device memory",
    "out-of-memory",
    "out_of_device_memory",
    "not enough memory left",
    "can't allocate buffer of size",
];

/// How a device is told that was given up, for whatever reason.
const GIVEN_UP: [&str; 2] = ["device is poisoned", "device was poisoned"];

/// How a lost device is told.
const LOST: [&str; 7] = [
    "device is lost",
    "device lost",
    "devicelost",
    "device_lost",
    "lost device",
    "deviceerror(lost)",
    // wgpu, of an error that the driver must not give at this place.
    "unexpected error variant",
];

impl Fault {
    /// The fault that made a trainer say this; None where it was none of a GPU.
    pub(super) fn of(said: &str) -> Option<Self> {
        let told = said.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|words| told.contains(words));
        if has(&NO_MEMORY) {
            Some(Self::NoMemory)
        } else {
            (has(&LOST) || has(&GIVEN_UP)).then_some(Self::Lost)
        }
    }
}

/// Whether this process cannot use the device any more.
pub(super) fn is_for_good(said: &str) -> bool {
    let told = said.to_lowercase();
    GIVEN_UP.iter().any(|words| told.contains(words))
}

/// What was said, without the backtrace.
pub(super) fn in_one_line(said: &str) -> String {
    let lines = said.lines().map(str::trim).take_while(|line| !line.to_lowercase().starts_with("backtrace"));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).take(4).collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wgpu_and_cubecl_say_is_told_apart() {
        use Fault::{Lost, NoMemory};
        for (said, fault, for_good) in [
            ("wgpu error: Validation Error: Parent device is lost", Some(Lost), false),
            (
                "The device is poisoned\nCaused by:\n  Unknown: Device is lost\nBacktrace:\n 0: x",
                Some(Lost),
                true,
            ),
            ("Unknown: Unexpected error variant (driver implementation is at fault)", Some(Lost), false),
            (
                "A launch error happened\nCaused by:\n  The device was poisoned during launch",
                Some(Lost),
                true,
            ),
            ("The device is poisoned\nCaused by:\n  Unknown: Out of memory", Some(NoMemory), true),
            ("wgpu error: Out of Memory", Some(NoMemory), false),
            (
                "An IO error happened\nCaused by:\n  out of device memory allocating 4096 bytes\n",
                Some(NoMemory),
                false,
            ),
            ("An out-of-memory error happened during launch", Some(NoMemory), false),
            ("can't allocate buffer of size: 17179869184", Some(NoMemory), false),
            ("Unable to acquire wgpu device: Not enough memory left.", Some(NoMemory), false),
            ("index out of bounds: the len is 3 but the index is 4", None, false),
        ] {
            assert_eq!((Fault::of(said), is_for_good(said)), (fault, for_good), "{said}");
        }
        let said = "The device is poisoned\nCaused by:\n  Unknown: Out of memory\nBacktrace:\n  0: main";
        assert_eq!(in_one_line(said), "The device is poisoned Caused by: Unknown: Out of memory");
    }
}
