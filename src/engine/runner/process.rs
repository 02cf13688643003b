//! One child process: its pipes, which never block, and its end.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use bytes::{Buf as _, Bytes};
use prost::Message;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::cause;
use super::frames::{Broken, Frames, encode};
use super::messages::FromRunner;
use crate::engine::RunnerConfig;

/// Wanted size of the pipe that results come through, in bytes.
const PIPE_BYTES: usize = 1 << 20;

/// Most bytes of one line on standard error that are kept.
const MOST_LINE_BYTES: usize = 16 << 10;

/// What is started as a runner.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Variables of the environment that it does not inherit.
    pub(super) withheld: Vec<&'static str>,
}

impl Program {
    /// The program of `runners` as a runner of this process.
    pub(super) fn runner(runners: &RunnerConfig) -> Self {
        Self {
            path: runners.program.clone(),
            arguments: vec!["runner".into(), "--parent".into(), std::process::id().to_string().into()],
            withheld: runners.withheld.clone(),
        }
    }
}

/// A child process that leads a process group of its own.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: Pid,
    exited: OwnedFd,
    /// None once it was told to leave.
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    errors: Option<ChildStderr>,
    outgoing: VecDeque<Bytes>,
    leaving: bool,
    frames: Frames,
    line: Vec<u8>,
    oom_kills_before: u64,
}

impl Process {
    /// Starts `program`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn start(program: &Program) -> io::Result<Self> {
        let oom_kills_before = cause::oom_kills();
        let mut command = Command::new(&program.path);
        command
            .arg0(env!("CARGO_PKG_NAME"))
            .args(&program.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for variable in &program.withheld {
            command.env_remove(variable);
        }
        let mut child = command.spawn()?;
        let opened = Self::open(&mut child);
        let (pid, exited, [input, output, errors]) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // It would stay without anybody to talk to.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        Ok(Self {
            child,
            pid,
            exited,
            input: Some(input.into()),
            output: Some(output.into()),
            errors: Some(errors.into()),
            outgoing: VecDeque::new(),
            leaving: false,
            frames: Frames::default(),
            line: Vec::new(),
            oom_kills_before,
        })
    }

    fn open(child: &mut Child) -> io::Result<(Pid, OwnedFd, [OwnedFd; 3])> {
        let no_pid = || io::Error::other("a process without an id");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(no_pid)?;
        let exited = pidfd_open(pid, PidfdFlags::empty())?;
        let no_pipe = || io::Error::other("a process without pipes");
        let input = OwnedFd::from(child.stdin.take().ok_or_else(no_pipe)?);
        let output = OwnedFd::from(child.stdout.take().ok_or_else(no_pipe)?);
        let errors = OwnedFd::from(child.stderr.take().ok_or_else(no_pipe)?);
        for pipe in [&input, &output, &errors] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        // Where the system has a lower limit for users, results take more turns.
        let _ = rustix::pipe::fcntl_setpipe_size(&output, PIPE_BYTES);
        Ok((pid, exited, [input, output, errors]))
    }

    /// Its id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Readable once it has ended.
    pub(super) fn exited(&self) -> BorrowedFd<'_> {
        self.exited.as_fd()
    }

    /// What it says, and what it logs; None once that is closed.
    pub(super) fn outputs(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [self.output.as_ref().map(AsFd::as_fd), self.errors.as_ref().map(AsFd::as_fd)]
    }

    /// Where it can be written to, when something waits for that.
    pub(super) fn blocked_input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.outgoing.is_empty()).map(AsFd::as_fd)
    }

    /// Says `message` as soon as the pipe takes it.
    pub(super) fn send(&mut self, message: &impl Message) {
        self.outgoing.push_back(encode(message));
        self.flush();
    }

    /// Writes what the pipe takes.
    pub(super) fn flush(&mut self) {
        while let (Some(input), Some(next)) = (&mut self.input, self.outgoing.front_mut()) {
            match input.write(next) {
                Ok(written) => next.advance(written.min(next.len())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It is about to end; that is seen elsewhere.
                Err(_) => return self.outgoing.clear(),
            }
            if next.is_empty() {
                self.outgoing.pop_front();
            }
        }
        if self.leaving {
            self.input = None;
        }
    }

    /// Tells it to leave once it has read everything.
    pub(super) fn dismiss(&mut self) {
        self.leaving = true;
        self.flush();
    }

    /// Reads what it said, up to the end of the pipe's content.
    pub(super) fn read_output(&mut self, scratch: &mut [u8]) {
        while let Some(output) = &mut self.output {
            match output.read(scratch) {
                Ok(0) => self.output = None,
                Ok(read) => self.frames.push(scratch.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.output = None,
            }
        }
    }

    /// The next message that was read.
    ///
    /// # Errors
    /// When what it says is no message.
    pub(super) fn next_message(&mut self) -> Result<Option<FromRunner>, Broken> {
        self.frames.next()
    }

    /// Reads what it logged; `tell` hears each line.
    pub(super) fn read_errors(&mut self, scratch: &mut [u8], tell: &mut dyn FnMut(&str)) {
        while let Some(errors) = &mut self.errors {
            match errors.read(scratch) {
                Ok(0) => self.errors = None,
                Ok(read) => {
                    for byte in scratch.get(..read).unwrap_or_default() {
                        if *byte == b'\n' {
                            tell(String::from_utf8_lossy(&self.line).trim_end());
                            self.line.clear();
                        } else if self.line.len() < MOST_LINE_BYTES {
                            self.line.push(*byte);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.errors = None,
            }
        }
        if !self.line.is_empty() {
            tell(String::from_utf8_lossy(&self.line).trim_end());
            self.line.clear();
        }
    }

    /// Ends it and all that it started, at once. It is still to be reaped.
    pub(super) fn kill(&self) {
        // Its number is its own until it is reaped; a group without members is what is wanted.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    /// Takes note of its end, and ends what it started.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.child.wait()
    }

    /// A task of it begins: what the kernel ended before says nothing of that.
    pub(super) fn forget_oom_kills(&mut self) {
        self.oom_kills_before = cause::oom_kills();
    }

    /// Processes that the kernel has ended for want of memory since this one, or its task, began.
    pub(super) fn oom_kills(&self) -> u64 {
        cause::oom_kills().saturating_sub(self.oom_kills_before)
    }

    /// Memory it holds, in bytes; 0 once it has ended.
    pub(super) fn resident_bytes(&self) -> u64 {
        let read = std::fs::read_to_string(format!("/proc/{}/statm", self.id())).unwrap_or_default();
        let pages = read.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or(0) * rustix::param::page_size() as u64
    }
}

impl Drop for Process {
    /// Nothing is left behind.
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}
