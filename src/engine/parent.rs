//! A child process of the worker, towards the process that started it.

use std::fs::File;
use std::io;

use rustix::process::{Pid, Signal};

/// Makes this process end with the worker whose id is `parent`; None where it was not started by that one.
///
/// # Errors
/// The system's.
pub(super) fn end_with(parent: u32) -> io::Result<Option<Pid>> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = i32::try_from(parent).ok().and_then(Pid::from_raw);
    Ok(parent.filter(|_| rustix::process::getppid() == parent))
}

/// Takes standard output over: whatever a driver prints goes to the log, and nobody else speaks to the worker.
///
/// # Errors
/// The system's.
pub(super) fn take_output() -> io::Result<File> {
    let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(File::from(output))
}
