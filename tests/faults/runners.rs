//! The process that trains fails, and the worker does not.

use tensorfleet_worker::dev::Contract;

use crate::support::middleman::{Deed, Middleman};
use crate::support::*;

#[test]
fn a_panic_of_a_trainer_costs_one_attempt_and_the_orchestrator_hears_of_it() {
    // A base orchestrator forgets a failed task, so that the worker has to try it again by itself.
    let cases = [(Contract::Base, "2"), (Contract::Extended, "2"), (Contract::Extended, "0")];
    at_once(cases.map(|(contract, retries)| async move {
        let orchestrator = orchestrator(contract).await;
        let (address, board) = (orchestrator.local_addr(), orchestrator.board());
        let middleman = Middleman::start(address, |_, _| Deed::Carry).await;
        // The first runner panics over the eighth task, which the next one does: that has no eight to do.
        let settings = [
            ("TRAINING_BACKEND", "cpu"),
            ("MAX_CONCURRENT_TASKS", "1"),
            ("MAX_TASK_RETRIES", retries),
            ("FAILPOINT", "trainer-panics:8"),
        ];
        let mut worker = WorkerProcess::start(middleman.address, &settings);
        let job = submit(address, real_job(1)).await;
        wait_for_end(board, &job).await;
        eventually("the runner is replaced", || worker.shows("worker_runner_exits_total{cause=\"panic\"} 1"));
        worker.settle();
        assert_each_once(board, &job, 10);
        let failures = middleman.failures();
        if retries == "0" {
            let [(code, message)] = &failures[..] else { panic!("{failures:?}") };
            let said = message.contains("the trainer panicked: it was told to");
            assert!(code == "PANIC" && said, "{code}: {message}");
        } else {
            assert!(failures.is_empty(), "{failures:?}");
        }
    }));
}
