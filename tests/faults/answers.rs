//! Calls that are never answered. In a file of its own, whose name comes first: it waits longer than any other test.

use std::time::Duration;

use tensorfleet_worker::dev::Contract;

use crate::replies::start;
use crate::support::middleman::Deed;
use crate::support::*;

async fn answer_never(contract: Contract) {
    let keeps = |method: &str, number: u64| match (method, number) {
        ("heartbeat", 2 | 5) | ("report_progress" | "get_job_status", 1) => Deed::Keep,
        ("report_task_completion", 4) => Deed::Keep,
        _ => Deed::Carry,
    };
    let mut case = start(contract, keeps).await;
    let board = case.orchestrator.board();
    let ended = board.wait_for(|board| board.job(&case.job).ok().filter(|job| job.status.is_final()));
    // A report is given up after a minute, and sent again.
    tokio::time::timeout(PATIENCE + Duration::from_secs(60), ended).await.expect("the job ends");
    case.worker.settle();
    assert_each_once(board, &case.job, 10);
    assert!(case.middleman.deeds() >= 2, "{contract:?}: {} calls were kept", case.middleman.deeds());
}

#[test]
fn calls_that_are_never_answered_cost_time_and_no_task() {
    at_once(BOTH.map(answer_never));
}
