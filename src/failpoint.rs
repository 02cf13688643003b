//! Places at which a debug build ends itself as by `kill -9`, panics or hangs, for the tests of what survives that.
//!
//! `FAILPOINT=NAME` does so when the process first passes the place NAME, `FAILPOINT=NAME:3` when it passes it for the
//! third time. A release build has no such places.

/// Passes the place `name`.
#[cfg(debug_assertions)]
pub(crate) fn pass(name: &str) {
    if is_due(name) {
        end();
    }
}

/// Passes the place `name`, at which `bytes` are about to be written: `write` gets half of them before the end.
#[cfg(debug_assertions)]
pub(crate) fn tear(name: &str, bytes: &[u8], write: impl FnOnce(&[u8])) {
    if is_due(name) {
        write(bytes.get(..bytes.len() / 2).unwrap_or_default());
        end();
    }
}

/// Passes the place `name`, at which something may panic that says `words`.
#[cfg(debug_assertions)]
pub(crate) fn panic(name: &str, words: &str) {
    assert!(!is_due(name), "{words}");
}

/// Passes the place `name`, at which a system call may hang: for ever, or until somebody opens the named pipe
/// `FAILPOINT_PIPE` for writing.
#[cfg(debug_assertions)]
pub(crate) fn hang(name: &str) {
    if !is_due(name) {
        return;
    }
    match std::env::var_os("FAILPOINT_PIPE") {
        // A call that hangs, as one to a disk does.
        Some(pipe) => drop(std::fs::File::open(pipe)),
        None => loop {
            std::thread::park();
        },
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn pass(_: &str) {}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn hang(_: &str) {}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn panic(_: &str, _: &str) {}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn tear(_: &str, _: &[u8], _: impl FnOnce(&[u8])) {}

#[cfg(debug_assertions)]
fn is_due(name: &str) -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WISH: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let wish = WISH.get_or_init(|| {
        let raw = std::env::var("FAILPOINT").ok()?;
        match raw.split_once(':') {
            Some((name, times)) => Some((name.to_owned(), times.parse().ok()?)),
            None => Some((raw, 1)),
        }
    });
    let Some((wished, times)) = wish else { return false };
    wished == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *times
}

#[cfg(debug_assertions)]
fn end() -> ! {
    // Not an exit, which would run destructors; and not an abort, which would leave a core.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}
