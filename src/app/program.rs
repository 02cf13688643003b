//! The program that a worker lives in, as its child processes know it.
//!
//! ```text
//! main --Program::enter(models)--> started by a worker as its child? --> trains or looks for GPUs, and ends
//!                                  else: the program goes on; its worker may start it again as a child
//! ```

use std::ffi::OsString;
use std::io::{self, Write as _};

use crate::engine::{Isolation, ModelRegistry, Runner, RunnerError, tell_adapters};
use crate::telemetry::logs::{self, LogFormat};

/// What a program can train, and whether it may be started again as a child process of its worker.
#[derive(Debug, Clone)]
pub struct Program {
    pub(super) models: ModelRegistry,
    children: Children,
}

/// Whether a program, started as a child, does what a child is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Children {
    Served,
    Unknown,
}

impl Program {
    /// Comes first in `main` of a program that holds a worker: where a worker started this process as its child, it
    /// trains `models` or looks for GPUs as it is told, and ends. Everywhere else this returns at once.
    ///
    /// Must be called while the process has one thread, before any runtime: a child gives up rights for the threads
    /// that it starts later.
    pub fn enter(models: ModelRegistry) -> Self {
        if let Some(child) = Child::of(std::env::args_os()) {
            std::process::exit(child.serve(models));
        }
        Self::with_children(models)
    }

    /// A program that never calls [`Self::enter`]: its worker trains `models` in threads of its own.
    pub fn without_children(models: ModelRegistry) -> Self {
        Self { models, children: Children::Unknown }
    }

    /// A program that is a child where it has to be.
    pub(crate) fn with_children(models: ModelRegistry) -> Self {
        Self { models, children: Children::Served }
    }

    /// Where this program can train of what was wished.
    pub(super) fn isolation(&self, wished: Isolation) -> Isolation {
        let Isolation::Process(runners) = &wished else { return wished };
        if !runners.is_this_program() && self.models.has_others() {
            tracing::warn!(
                program = %runners.program.display(),
                "tasks train in threads of this process: another program does not know models that are not the \
                 library's own"
            );
            return Isolation::Thread;
        }
        if runners.is_this_program() && self.children == Children::Unknown {
            tracing::warn!(
                "tasks train in threads of this process: TASK_ISOLATION=process needs a program whose main begins \
                 with Program::enter"
            );
            return Isolation::Thread;
        }
        wished
    }
}

/// What a child is for.
#[derive(Debug, PartialEq, Eq)]
enum Child {
    Runner { parent: u32 },
    Adapters { parent: u32, software: bool },
}

/// Why a child could not do its work.
#[derive(Debug, thiserror::Error)]
enum ChildError {
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error("cannot start the log: {0}")]
    Logs(#[from] logs::Error),
    #[error("cannot tell the adapters: {0}")]
    Adapters(#[from] io::Error),
}

impl Child {
    /// What `arguments` ask for, the program's name first; None for those that no worker gives to its child.
    fn of(arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let words: Vec<_> = arguments.skip(1).filter_map(|word| word.into_string().ok()).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let (kind, parent, software) = match words.as_slice() {
            [kind, "--parent", parent] => (*kind, parent, false),
            [kind, "--parent", parent, "--software"] => (*kind, parent, true),
            _ => return None,
        };
        let parent = parent.parse().ok()?;
        match kind {
            "runner" if !software => Some(Self::Runner { parent }),
            "adapters" => Some(Self::Adapters { parent, software }),
            _ => None,
        }
    }

    /// Does it, and returns the exit code.
    fn serve(self, models: ModelRegistry) -> i32 {
        let served = match self {
            Self::Runner { parent } => serve_runner(parent, models),
            Self::Adapters { parent, software } => tell_adapters(parent, software).map_err(ChildError::from),
        };
        match served {
            Ok(()) => 0,
            Err(error) => {
                // When standard error is closed too, the exit code has to do.
                let _ = writeln!(io::stderr().lock(), "error: {error}");
                1
            }
        }
    }
}

fn serve_runner(parent: u32, models: ModelRegistry) -> Result<(), ChildError> {
    let runner = Runner::accept(parent)?;
    let filter = runner.log_filter().parse().unwrap_or_default();
    // The worker reads each line and logs it anew.
    logs::init(&logs::Config { filter, format: LogFormat::Json })?;
    Ok(runner.serve(models)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::RunnerConfig;

    fn child(words: &[&str]) -> Option<Child> {
        Child::of(std::iter::once("host").chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn only_what_a_worker_gives_its_child_makes_one() {
        assert_eq!(child(&["runner", "--parent", "7"]), Some(Child::Runner { parent: 7 }));
        let adapters = |software| Some(Child::Adapters { parent: 7, software });
        assert_eq!(child(&["adapters", "--parent", "7"]), adapters(false));
        assert_eq!(child(&["adapters", "--parent", "7", "--software"]), adapters(true));
        let others: [&[&str]; 6] = [
            &[],
            &["runner"],
            &["runner", "--parent", "me"],
            &["runner", "--parent", "7", "--software"],
            &["--parent", "7"],
            &["race", "--parent", "7"],
        ];
        for words in others {
            assert_eq!(child(words), None, "{words:?}");
        }
    }

    #[test]
    fn a_program_that_would_not_be_a_runner_is_not_started_as_one() {
        let models = ModelRegistry::default;
        let this = Isolation::Process(RunnerConfig::default());
        let other = Isolation::Process(RunnerConfig { program: "/bin/other".into(), ..Default::default() });
        assert_eq!(Program::without_children(models()).isolation(this.clone()), Isolation::Thread);
        assert_eq!(Program::without_children(models()).isolation(other.clone()), other);
        assert_eq!(Program::with_children(models()).isolation(this.clone()), this);
    }
}
