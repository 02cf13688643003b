//! The steps of the start that may take long, since a disk or a driver hangs: each is on a thread of its own, so that
//! signals are heard meanwhile, and after some seconds the log and the HTTP port say what is waited for.

use std::net::TcpListener;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::AppError;
use crate::guard::Guards;
use crate::http;

/// How long a step may take before anybody is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long until that is said again.
const REMINDER: Duration = Duration::from_secs(60);

/// The start of one worker.
pub(super) struct Start<'a> {
    step: Step,
    port: Option<(&'a TcpListener, &'a Guards)>,
    answers: Option<http::Starting>,
}

/// What the start is at.
#[derive(Debug, Clone)]
pub(super) struct Step(watch::Sender<String>);

impl Step {
    /// From now on it is at `what`.
    pub(super) fn is(&self, what: impl Into<String>) {
        self.0.send_replace(what.into());
    }
}

impl<'a> Start<'a> {
    /// Nobody can ask yet.
    pub(super) fn new() -> Self {
        Self { step: Step(watch::Sender::new(String::new())), port: None, answers: None }
    }

    /// Whoever asks at `listener` is answered, if it takes long.
    pub(super) fn answer_at(&mut self, listener: &'a TcpListener, guards: &'a Guards) {
        self.port = Some((listener, guards));
    }

    /// Waits for `work`, which begins with the step `what` and may tell of others.
    ///
    /// # Errors
    /// It panicked.
    pub(super) async fn wait_for<T: Send + 'static>(
        &mut self,
        what: &str,
        work: impl FnOnce(&Step) -> T + Send + 'static,
    ) -> Result<T, AppError> {
        self.step.is(what);
        let step = self.step.clone();
        let mut working = tokio::task::spawn_blocking(move || work(&step));
        let (began, mut patience) = (Instant::now(), PATIENCE);
        loop {
            if let Ok(done) = timeout(patience, &mut working).await {
                return done.map_err(AppError::Start);
            }
            patience = REMINDER;
            self.tell(began.elapsed());
        }
    }

    fn tell(&mut self, waited: Duration) {
        let seconds = waited.as_secs();
        if let (None, Some((listener, guards))) = (&self.answers, self.port) {
            let step = self.step.0.subscribe();
            let answers = http::Config::answer_meanwhile(listener, &guards.http, guards.metrics, step);
            // Without them the port is as silent as it was.
            self.answers =
                answers.inspect_err(|error| tracing::warn!(%error, "nobody can ask meanwhile")).ok();
        }
        let http =
            self.port.and_then(|(listener, _)| listener.local_addr().ok()).map(tracing::field::display);
        let step = self.step.0.borrow().clone();
        tracing::warn!(seconds, http, "the start waits for {step}; SIGTERM or SIGINT ends it");
    }
}
