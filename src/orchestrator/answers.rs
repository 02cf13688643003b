//! What the orchestrator answers, as the worker understands it: pure conversions that take whatever comes.

use std::time::Duration;

use super::{HeartbeatAnswer, JobState, Mode, Registered};
use crate::domain::{InvalidField, TaskId};
use crate::wire::pb;

/// That a registration was accepted.
pub(super) fn registered(answer: &pb::RegisterWorkerResponse) -> Registered {
    Registered {
        mode: Mode::Extended,
        heartbeat_interval: seconds(answer.heartbeat_interval_seconds),
        lease: seconds(answer.lease_seconds),
    }
}

/// The answer to a heartbeat.
pub(super) fn heartbeat(answer: &pb::HeartbeatResponse) -> HeartbeatAnswer {
    HeartbeatAnswer {
        cancel: task_ids(&answer.cancel_task_ids),
        drain: answer.drain,
        reregister: answer.reregister,
        renewed: task_ids(&answer.leases_renewed),
    }
}

/// What is thought of a job.
pub(super) fn job_state(answer: &pb::GetJobStatusResponse) -> JobState {
    let wanted = !matches!(answer.status.as_str(), "CANCELLED" | "FAILED");
    JobState {
        wanted,
        ended: !wanted || answer.status == "COMPLETED",
        known: true,
        total_tasks: u32::try_from(answer.total_tasks).unwrap_or(0),
    }
}

fn seconds(count: u32) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count.into()))
}

/// Ids that are none of ours are left out: nothing that we hold is called so.
fn task_ids(raw: &[String]) -> Vec<TaskId> {
    raw.iter().map(String::as_str).map(TaskId::parse).filter_map(Result::<_, InvalidField>::ok).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::fuzz;

    #[test]
    fn fuzz_answers_of_the_orchestrator() {
        let good = [
            pb::RegisterWorkerResponse {
                accepted: true,
                message: "welcome".into(),
                heartbeat_interval_seconds: 5,
                lease_seconds: 30,
            }
            .encode_to_vec(),
            pb::HeartbeatResponse {
                cancel_task_ids: vec!["t1".into(), "a b".into()],
                drain: true,
                reregister: false,
                leases_renewed: vec!["t2".into()],
            }
            .encode_to_vec(),
            pb::GetJobStatusResponse { status: "RUNNING".into(), total_tasks: 7, ..Default::default() }
                .encode_to_vec(),
        ];
        fuzz::run("answers of the orchestrator", &good, |bytes| {
            if let Ok(answer) = pb::RegisterWorkerResponse::decode(bytes) {
                let Registered { lease, heartbeat_interval, .. } = registered(&answer);
                // Nothing that adds it to a time of this machine may overflow.
                for time in [lease, heartbeat_interval].into_iter().flatten() {
                    assert!(std::time::Instant::now().checked_add(time * 4).is_some());
                }
            }
            if let Ok(answer) = pb::HeartbeatResponse::decode(bytes) {
                let answer = heartbeat(&answer);
                for id in answer.cancel.iter().chain(&answer.renewed) {
                    assert_eq!(TaskId::parse(id.as_str()).as_ref(), Ok(id));
                }
            }
            if let Ok(answer) = pb::GetJobStatusResponse::decode(bytes) {
                let state = job_state(&answer);
                assert!(state.wanted || state.ended);
            }
        });
    }
}
