//! What the driver hears from threads of the engine, the writer of the outbox and polls.

use super::{Driver, Tiding};
use crate::orchestrator::Orchestrator;
use crate::worker::observer::{MeasuredRun, Notice};
use crate::worker::state::{Effect, Event};

impl<O: Orchestrator> Driver<O> {
    pub(super) fn notice(&mut self, notice: Notice, effects: &mut Vec<Effect>) {
        match notice {
            Notice::Polled { ended, answered } => {
                self.answered = answered;
                self.apply(ended, effects);
                self.answered = None;
            }
            Notice::Started { run, at } => {
                if let Some(run) = self.runs.get_mut(&run) {
                    run.started = Some(at);
                    self.parts.traces.run(&run.task.identity);
                    self.parts.metrics.queued(at.saturating_duration_since(run.waits_since));
                }
            }
            Notice::Engine { trouble } => {
                match &trouble {
                    Some(trouble) => tracing::error!("no task is taken: {trouble}"),
                    None if self.state.engine_trouble.is_some() => tracing::info!("tasks are taken again"),
                    None => {}
                }
                self.apply(Event::Engine { trouble }, effects);
            }
            Notice::Backend(backend) => {
                tracing::info!(
                    backend = backend.name(),
                    "tasks that ask for no backend get another one than before"
                );
                self.outwards.gives(backend);
            }
            Notice::Stored { key, report } => {
                self.parts.unreported.add(&report);
                self.tidings.push(Tiding::Report(report));
                self.apply(Event::Persisted { key }, effects);
            }
            Notice::Finished { run, finished } => {
                let ended = self.runs.remove(&run);
                let started = ended.as_ref().and_then(|run| run.started);
                let duration = started.map(|started| started.elapsed()).unwrap_or_default();
                match ended.and_then(|run| Some((run.account.close()?, run.task))) {
                    None => {
                        let ended = Event::Finished { run, finished, duration, energy_joules: None };
                        self.apply(ended, effects);
                    }
                    Some((meter, task)) => {
                        let ended = Box::new(MeasuredRun { run, task, finished, duration });
                        let notices = self.outlets.notices.clone();
                        // It ended now, not when somebody has time to look.
                        let share = meter.end();
                        self.parts.tracker.spawn(async move {
                            let share = share.await;
                            let _ = notices.send(Notice::Measured { ended, share });
                        });
                    }
                }
            }
            Notice::Measured { ended, share } => {
                let MeasuredRun { run, task, mut finished, duration } = *ended;
                self.parts.metrics.took(&task, &share);
                finished.notes.extend(share.note(duration));
                let energy_joules = share.energy_joules;
                self.apply(Event::Finished { run, finished, duration, energy_joules }, effects);
            }
        }
    }
}
