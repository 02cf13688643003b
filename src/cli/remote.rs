//! An orchestrator as its clients see it: jobs go in, their state comes out.

use std::error::Error as _;
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic::{Code, Request};

use super::{Failure, ui};
use crate::orchestrator::{Backoff, Config, ConfigError, Credential};
use crate::wire::pb;
use crate::wire::pb::orchestrator_service_client::OrchestratorServiceClient;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a followed job is waited for while its orchestrator is away.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the state of a followed job is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The orchestrator at an address.
#[derive(Debug)]
pub(super) struct Remote {
    address: String,
    client: OrchestratorServiceClient<Channel>,
    token: Option<Credential>,
}

impl Remote {
    /// The orchestrator that `config` names; connects with the first call.
    ///
    /// # Errors
    /// A file of `config` cannot be used.
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        let address = config.endpoint.clone();
        Ok(Self {
            client: OrchestratorServiceClient::new(config.channel()?),
            token: config.token()?,
            address,
        })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(CALL_TIMEOUT);
        if let Some(header) = self.token.as_ref().and_then(Credential::header) {
            request.metadata_mut().insert("authorization", header);
        }
        request
    }

    /// Gives it a job.
    ///
    /// # Errors
    /// It refuses the job, or does not answer any more.
    pub(super) async fn create(
        &mut self,
        request: pb::TrainingJobRequest,
    ) -> Result<pb::TrainingJobResponse, Failure> {
        let request = self.request(request);
        match self.client.create_training_job(request).await {
            Ok(created) => Ok(created.into_inner()),
            Err(status) => Err(self.failure(&status)),
        }
    }

    /// Shows how the job goes and waits for its end, through absences of the orchestrator.
    ///
    /// # Errors
    /// It does not know the job, or stays away.
    pub(super) async fn follow(
        &mut self,
        job_id: &str,
        board: &ui::Board,
    ) -> Result<pb::GetJobStatusResponse, Failure> {
        let track = board.whole("job", 0);
        let mut backoff = Backoff::reconnect();
        let mut heard = Instant::now();
        let mut said = None;
        loop {
            let request = self.request(pb::GetJobStatusRequest { job_id: job_id.to_owned() });
            match self.client.get_job_status(request).await {
                Ok(status) => {
                    backoff.reset();
                    heard = Instant::now();
                    let status = status.into_inner();
                    let done = u64::try_from(status.completed_tasks).unwrap_or(0);
                    let total = u64::try_from(status.total_tasks).unwrap_or(0);
                    // Before the first task has ended its figures are zeros that mean nothing.
                    let figures = if done == 0 {
                        String::new()
                    } else {
                        format!(
                            ", {}",
                            ui::figures(status.current_loss, ui::Quality::Accuracy, status.current_accuracy)
                        )
                    };
                    track.set(done, total, format!("tasks{figures}"));
                    if said.replace(done) != Some(done) {
                        board.line(|| format!("{} {done} of {total} tasks{figures}", status.status));
                    }
                    if matches!(status.status.as_str(), "COMPLETED" | "FAILED" | "CANCELLED") {
                        track.finish();
                        board.close();
                        return Ok(status);
                    }
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Err(status) if may_pass(&status) && heard.elapsed() < PATIENCE => {
                    track.set(0, 0, "orchestrator is away");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                Err(status) => {
                    board.clear();
                    return Err(self.failure(&status));
                }
            }
        }
    }

    fn failure(&self, status: &tonic::Status) -> Failure {
        let address = self.address.clone();
        if may_pass(status) {
            Failure::Unreachable { address, reason: innermost(status) }
        } else {
            Failure::Refused { address, reason: format!("{:?}: {}", status.code(), status.message()) }
        }
    }
}

/// Whether the call failed on its way, not by the orchestrator's decision.
pub(super) fn may_pass(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// The last cause, which says more than "transport error", or the message where there is no cause.
pub(super) fn innermost(status: &tonic::Status) -> String {
    let mut cause = status.source();
    let mut reason = status.message().to_owned();
    while let Some(error) = cause {
        reason = error.to_string();
        cause = error.source();
    }
    reason
}
