//! Why a runner ended, from what the system and its last words say.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::Signal;

use crate::domain::TaskError;
use crate::engine::ExitCause;

/// Exit code of a Rust program whose main thread panicked.
const PANIC_EXIT_CODE: i32 = 101;

/// A cause, and what there is to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) cause: ExitCause,
    /// In one line.
    pub(super) detail: String,
}

impl Verdict {
    pub(super) fn new(cause: ExitCause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }

    /// The end of the task that ran.
    pub(super) fn task_error(&self) -> TaskError {
        let Self { cause, detail } = self;
        TaskError::new(cause.code(), format!("the process that trained the task is gone ({cause}): {detail}"))
    }
}

/// What is known of a runner that ended without being told to.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) status: ExitStatus,
    /// The last line it wrote that was no log.
    pub(super) last_words: Option<&'a str>,
    pub(super) memory_limit_bytes: Option<u64>,
    /// Processes of this machine or group that the kernel has ended for want of memory since this one, or its task, began.
    pub(super) oom_kills: u64,
}

/// Judges.
pub(super) fn classify(evidence: &Evidence<'_>) -> Verdict {
    let words = evidence.last_words.map(|words| format!("; it said {words:?}")).unwrap_or_default();
    let no_memory = evidence.last_words.is_some_and(says_no_memory);
    match (evidence.status.signal(), evidence.status.code()) {
        (Some(signal), _) if signal == Signal::ABORT.as_raw() && no_memory => {
            Verdict::new(ExitCause::Oom, format!("{}{words}", limit(evidence.memory_limit_bytes)))
        }
        (Some(signal), _) if signal == Signal::KILL.as_raw() && evidence.oom_kills > 0 => {
            let detail = "the kernel has ended a process for want of memory, most likely this one";
            Verdict::new(ExitCause::Oom, detail)
        }
        (Some(signal), _) if signal == Signal::ABORT.as_raw() => {
            Verdict::new(ExitCause::Abort, format!("it aborted{words}"))
        }
        (Some(signal), _) => {
            Verdict::new(ExitCause::Signal, format!("{} ended it{words}", signal_name(signal)))
        }
        (None, Some(_)) if no_memory => {
            Verdict::new(ExitCause::Oom, format!("{}{words}", limit(evidence.memory_limit_bytes)))
        }
        (None, Some(PANIC_EXIT_CODE)) => Verdict::new(ExitCause::Panic, format!("it panicked{words}")),
        (None, Some(code)) => Verdict::new(ExitCause::Exit, format!("it ended with exit code {code}{words}")),
        (None, None) => Verdict::new(ExitCause::Exit, format!("it ended{words}")),
    }
}

fn limit(bytes: Option<u64>) -> String {
    match bytes {
        Some(bytes) => format!(
            "it needed more memory than TASK_MEMORY_LIMIT allows, {} MiB; a smaller model, batch_size or data set \
             needs less",
            bytes >> 20
        ),
        None => "the system gave it no more memory".to_owned(),
    }
}

/// Whether `line` is how the allocator, the standard library or a loader says that memory ran out.
fn says_no_memory(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let said = |what: &str| line.contains(what);
    said("memory allocation of")
        || said("cannot allocate memory")
        || said("out of memory")
        || said("code: 12,")
        || (said("failed to spawn thread") && said("code: 11,"))
}

/// The name of a signal, such as SIGSEGV.
fn signal_name(signal: i32) -> String {
    let known = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::HUP, "SIGHUP"),
        (Signal::ILL, "SIGILL"),
        (Signal::INT, "SIGINT"),
        (Signal::KILL, "SIGKILL"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::SYS, "SIGSYS"),
        (Signal::TERM, "SIGTERM"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
    ];
    let name = known.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("signal {signal}"))
}

/// How many processes the kernel has ended for want of memory so far: in the control group of this process where it
/// can be read, else on the whole machine.
pub(super) fn oom_kills() -> u64 {
    of_group().or_else(of_machine).unwrap_or(0)
}

fn of_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let events = fs::read_to_string(format!("/sys/fs/cgroup/{path}/memory.events")).ok()?;
    count(&events)
}

fn of_machine() -> Option<u64> {
    count(&fs::read_to_string("/proc/vmstat").ok()?)
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: i32, last_words: Option<&str>, oom_kills: u64) -> (ExitCause, String) {
        let status = ExitStatus::from_raw(status);
        let evidence = Evidence { status, last_words, memory_limit_bytes: Some(64 << 20), oom_kills };
        let Verdict { cause, detail } = classify(&evidence);
        (cause, detail)
    }

    #[test]
    fn each_end_has_its_cause() {
        let no_memory = Some("memory allocation of 4096 bytes failed");
        for (status, words, oom_kills, cause, said) in [
            (Signal::ABORT.as_raw(), None, 1, ExitCause::Abort, "aborted"),
            (Signal::ABORT.as_raw(), no_memory, 0, ExitCause::Oom, "64 MiB"),
            (Signal::KILL.as_raw(), None, 0, ExitCause::Signal, "SIGKILL"),
            (Signal::KILL.as_raw(), None, 1, ExitCause::Oom, "the kernel"),
            (Signal::SEGV.as_raw(), None, 1, ExitCause::Signal, "SIGSEGV"),
            (34, None, 0, ExitCause::Signal, "signal 34"),
            (PANIC_EXIT_CODE << 8, Some("oh"), 0, ExitCause::Panic, "oh"),
            (3 << 8, None, 0, ExitCause::Exit, "exit code 3"),
        ] {
            let (judged, detail) = verdict(status, words, oom_kills);
            assert_eq!(judged, cause, "{status}");
            assert!(detail.contains(said), "{detail}");
        }
    }

    #[test]
    fn kills_for_want_of_memory_are_counted_where_the_kernel_counts_them() {
        assert_eq!(count("oom 0\noom_kill 3\noom_group_kill 1\n"), Some(3));
        assert_eq!(count("pgpgin 1\n"), None);
        assert!(of_machine().is_some());
    }
}
