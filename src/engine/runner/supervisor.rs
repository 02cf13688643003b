//! The one thread that talks to all runners.
//!
//! ```text
//! loop: mailbox --> pool: place what waits, end what is late --> poll: pipes, exits, mailbox, clock --> news
//! ```
//!
//! Nothing here blocks but the poll: pipes are written as far as they take it, and whoever hears of a task returns at
//! once.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::messages::News;
use super::pool::{Lane, Pool};
use super::{GpuRef, Shared};
use crate::domain::{JobId, TaskSpec};
use crate::engine::{Control, Done, Finished, Watcher};

/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// What others want of the supervisor.
pub(super) enum Command {
    Submit(Try),
    Stop(u64),
    Forget(JobId),
    Watch(Box<dyn Watcher>),
    KeepOne(Lane),
    /// The runner of a GPU is to leave if it is idle: others need the room.
    Vacate(Lane),
    /// The GPU of a lane is lost, and with it whatever is at work there.
    Lost(Lane),
    Close,
}

/// One try of a task.
pub(super) struct Try {
    pub(super) number: u64,
    pub(super) lane: Lane,
    /// The GPU of that lane, where it has a real one.
    pub(super) gpu: Option<GpuRef>,
    pub(super) task: Arc<TaskSpec>,
    pub(super) control: Arc<Control>,
    pub(super) done: Done,
}

impl Try {
    /// Tells whoever waits for it how it ended.
    pub(super) fn finish(self, finished: Finished) {
        let job = self.task.identity.job_id.clone();
        guarded(&job, || self.done.finish(finished));
    }
}

/// A listener that panics must not take the other tasks with it.
fn guarded(job: &JobId, tell: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(tell)).is_err() {
        tracing::error!(job_id = %job, "a listener of a task panicked");
    }
}

/// The way to the supervisor.
#[derive(Clone)]
pub(super) struct Mailbox {
    sender: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl Mailbox {
    pub(super) fn send(&self, command: Command) {
        // It is gone only when the engine is.
        if self.sender.send(command).is_ok() {
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// What poll said of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Input(u64),
    Output(u64),
    Errors(u64),
    Exited(u64),
}

pub(super) struct Supervisor {
    inbox: mpsc::Receiver<Command>,
    wake: Arc<OwnedFd>,
    pool: Pool,
    scratch: Vec<u8>,
}

impl Supervisor {
    /// Starts its thread.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn start(mut pool: Pool, shared: Arc<Shared>) -> io::Result<(Mailbox, JoinHandle<()>)> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, inbox) = mpsc::channel();
        let mailbox = Mailbox { sender, wake: Arc::clone(&wake) };
        pool.show_to(Arc::clone(&shared));
        let supervisor = Self { inbox, wake, pool, scratch: vec![0; READ_BYTES] };
        // The kernel kills runners when the thread that started them ends: all are started here.
        let thread = thread::Builder::new().name("runners".to_owned()).spawn(move || {
            supervisor.run();
            shared.change(|seen| seen.ended = true);
        })?;
        Ok((mailbox, thread))
    }

    fn run(mut self) {
        loop {
            self.read_mailbox();
            self.pool.advance(Instant::now());
            if self.pool.is_closed() {
                return;
            }
            for ready in self.wait() {
                self.serve(ready);
            }
        }
    }

    fn read_mailbox(&mut self) {
        let mut count = [0; 8];
        // Empty when something else woke us.
        let _ = rustix::io::read(&self.wake, &mut count);
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Submit(run) => self.pool.submit(run),
                Command::Stop(number) => self.pool.stop(number),
                Command::Forget(job) => self.pool.forget(&job),
                Command::Watch(watcher) => self.pool.watch(watcher),
                Command::KeepOne(lane) => self.pool.keep_one(lane),
                Command::Vacate(lane) => self.pool.vacate(lane),
                Command::Lost(lane) => self.pool.lost(lane),
                Command::Close => self.pool.close(),
            }
        }
    }

    /// Waits until something happens or is due.
    fn wait(&self) -> Vec<Ready> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        let mut whose = Vec::new();
        for (id, runner) in self.pool.runners() {
            let process = &runner.process;
            let [output, errors] = process.outputs();
            let all = [
                // The log first: its last words explain an exit.
                (errors, PollFlags::IN, Ready::Errors(id)),
                (output, PollFlags::IN, Ready::Output(id)),
                (process.blocked_input(), PollFlags::OUT, Ready::Input(id)),
                (Some(process.exited()), PollFlags::IN, Ready::Exited(id)),
            ];
            for (fd, flags, ready) in all {
                if let Some(fd) = fd {
                    fds.push(PollFd::from_borrowed_fd(fd, flags));
                    whose.push(ready);
                }
            }
        }
        let due = self.pool.next_deadline().map(|due| due.saturating_duration_since(Instant::now()));
        // Rounded up, so that it is due when we wake.
        let timeout = due.and_then(|due| Timespec::try_from(due + std::time::Duration::from_micros(50)).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Vec::new(),
            Ok(_) => {
                let of_runners = fds.iter().skip(1).zip(whose);
                of_runners.filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, ready)| ready).collect()
            }
            Err(error) => {
                tracing::error!(%error, "runners cannot be waited for");
                thread::sleep(std::time::Duration::from_millis(100));
                Vec::new()
            }
        }
    }

    fn serve(&mut self, ready: Ready) {
        match ready {
            Ready::Input(id) => {
                if let Some(runner) = self.pool.runner(id) {
                    runner.process.flush();
                }
            }
            Ready::Errors(id) => self.read_errors(id),
            Ready::Output(id) => self.read_output(id),
            Ready::Exited(id) => {
                self.read_errors(id);
                self.read_output(id);
                self.pool.exited(id);
            }
        }
    }

    fn read_errors(&mut self, id: u64) {
        if let Some(runner) = self.pool.runner(id) {
            runner.read_log(&mut self.scratch);
        }
    }

    fn read_output(&mut self, id: u64) {
        let Some(runner) = self.pool.runner(id) else { return };
        runner.process.read_output(&mut self.scratch);
        loop {
            let Some(runner) = self.pool.runner(id) else { return };
            match runner.process.next_message() {
                Ok(None) => return,
                Ok(Some(message)) => match message.news {
                    Some(news) => self.hear(id, news),
                    None => return self.pool.misunderstood(id, "news of an unknown kind"),
                },
                Err(error) => return self.pool.misunderstood(id, &error.to_string()),
            }
        }
    }

    fn hear(&mut self, id: u64, news: News) {
        match news {
            News::Ready(confinement) => self.pool.ready(id, &confinement),
            News::Started(started) => {
                if let (Some(run), Some(backend)) = (self.pool.current(id, started.number), started.backend())
                {
                    guarded(&run.task.identity.job_id, || {
                        if let Some(uuid) = run.gpu.as_ref().and_then(|gpu| gpu.uuid.as_deref()) {
                            run.control.on_gpu(uuid);
                        }
                        run.control.started(backend);
                    });
                }
            }
            News::Stepped(stepped) => {
                if let Some(run) = self.pool.current(id, stepped.number) {
                    let progress = stepped.progress();
                    guarded(&run.task.identity.job_id, || {
                        stepped.steps().for_each(|step| run.control.stepped(progress, step));
                    });
                }
            }
            News::Ended(ended) => self.pool.ended(id, *ended),
        }
    }
}
