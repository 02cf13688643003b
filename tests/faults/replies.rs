//! Answers that are lost, repeated, refused or kept.

use tensorfleet_worker::dev::{Contract, DevOrchestrator};
use tensorfleet_worker::domain::JobId;

use crate::support::middleman::{Deed, Middleman};
use crate::support::*;

pub(crate) struct Case {
    pub(crate) orchestrator: DevOrchestrator,
    pub(crate) middleman: Middleman,
    pub(crate) worker: WorkerProcess,
    pub(crate) job: JobId,
}

/// A job of ten tasks that waits before the worker comes, so that every poll is answered with a task.
pub(crate) async fn start(
    contract: Contract,
    decide: impl Fn(&str, u64) -> Deed + Send + Sync + 'static,
) -> Case {
    let orchestrator = orchestrator(contract).await;
    let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
    let middleman = Middleman::start(orchestrator.local_addr(), decide).await;
    let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "20ms")];
    let worker = WorkerProcess::start(middleman.address, &settings);
    Case { orchestrator, middleman, worker, job }
}

fn on(wanted: &'static str, numbers: &'static [u64], deed: Deed) -> impl Fn(&str, u64) -> Deed {
    move |method, number| if method == wanted && numbers.contains(&number) { deed } else { Deed::Carry }
}

/// Tasks that were counted, counts, and reports of success.
fn counts(case: &Case) -> (usize, u32, u32) {
    case.orchestrator.board().read(|board| {
        let completions = board.completions(&case.job).unwrap();
        (completions.len(), completions.values().sum(), board.job(&case.job).unwrap().reports)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_lost_after_the_task_was_dequeued() {
    let lost = || on("assign_task", &[1, 4], Deed::LoseAnswer);
    let case = start(Contract::Extended, lost()).await;
    wait_for_end(case.orchestrator.board(), &case.job).await;
    assert_each_once(case.orchestrator.board(), &case.job, 10);
    assert_eq!(case.middleman.deeds(), 2);

    let case = start(Contract::Base, lost()).await;
    let rest = case
        .orchestrator
        .board()
        .wait_for(|board| board.progress_of(&case.job).ok().filter(|job| job.completed == 8));
    tokio::time::timeout(PATIENCE, rest).await.expect("all that were not lost");
    assert_eq!(counts(&case), (8, 8, 8), "each of the others once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_is_lost_after_the_report_was_counted() {
    for deed in [Deed::LoseAnswer, Deed::Repeat] {
        for contract in BOTH {
            let case = start(contract, on("report_task_completion", &[0, 3, 5], deed)).await;
            wait_for_end(case.orchestrator.board(), &case.job).await;
            eventually("all is acknowledged", || {
                case.worker.get("/metrics").1.lines().any(|line| line == "worker_outbox_pending 0")
            });
            let (tasks, counted, reports) = counts(&case);
            let again = u32::try_from(case.middleman.deeds()).unwrap();
            match contract {
                Contract::Extended => {
                    assert_each_once(case.orchestrator.board(), &case.job, 10);
                    assert_eq!(reports, 10 + again, "{deed:?}: they came again and were not counted");
                }
                // The job of a base orchestrator has ended when so many reports came, whatever they were of.
                Contract::Base => assert!(
                    counted >= 10 && tasks as u32 + again >= 10 && counted <= 10 + again,
                    "{deed:?}: {counted} counts of {tasks} tasks, {again} ambiguous"
                ),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_is_delivered_twice_costs_the_first_answer() {
    // The first of both hand-outs is another task, whose lease ends.
    let case = start(Contract::Extended, on("assign_task", &[0, 2, 3], Deed::Repeat)).await;
    wait_for_end(case.orchestrator.board(), &case.job).await;
    assert_each_once(case.orchestrator.board(), &case.job, 10);
}

#[test]
fn a_task_that_two_polls_bring_runs_once() {
    // With many slots the second answer comes while the task runs, with one after its end.
    let cases = BOTH.into_iter().flat_map(|contract| [(contract, "12"), (contract, "1")]);
    at_once(cases.map(|(contract, slots)| async move {
        let orchestrator = orchestrator(contract).await;
        let (address, board) = (orchestrator.local_addr(), orchestrator.board());
        let job = submit(address, simulated_job(1)).await;
        let middleman = Middleman::start(address, on("assign_task", &[1], Deed::AnswerAgain)).await;
        let settings = [("MAX_CONCURRENT_TASKS", slots), ("ANALYTIC_EPOCH_DELAY", "1s")];
        let mut worker = WorkerProcess::start(middleman.address, &settings);
        let all = board.wait_for(|board| (board.completions(&job).unwrap().len() == 10).then_some(()));
        tokio::time::timeout(PATIENCE, all).await.expect("all are counted");
        eventually("each was run once", || worker.shows("worker_task_queue_seconds_count 10"));
        worker.settle();
        assert_eq!(middleman.deeds(), 1);
        let counted: u32 = board.read(|board| board.completions(&job).unwrap().values().sum());
        let reports = board.read(|board| board.job(&job).unwrap().reports);
        // Whoever hands a task out again has not heard of its end, and is told once more.
        let again = u32::from(slots == "1");
        assert_eq!(reports, 10 + again, "{contract:?} with {slots} slots");
        match contract {
            Contract::Extended => assert_each_once(board, &job, 10),
            Contract::Base => assert_eq!(counted, 10 + again, "with {slots} slots"),
        }
    }));
}

#[test]
fn a_storm_of_refusals_is_weathered_without_one_of_ours() {
    at_once(BOTH.map(|contract| async move {
        let storm = |method: &str, number: u64| {
            let refused = method != "register_worker" && method != "heartbeat" && number % 3 != 2;
            if refused { Deed::Refuse } else { Deed::Carry }
        };
        let case = start(contract, storm).await;
        let began = std::time::Instant::now();
        wait_for_end(case.orchestrator.board(), &case.job).await;
        assert_each_once(case.orchestrator.board(), &case.job, 10);
        let polls = case.middleman.calls("assign_task").len() as f64;
        let rate = polls / began.elapsed().as_secs_f64().max(1.0);
        assert!(rate < 20.0, "{polls} polls, {rate} a second");
        let lost = case
            .worker
            .log()
            .iter()
            .any(|line| line.to_string().contains("the link to the orchestrator is lost"));
        assert!(!lost, "an orchestrator that refuses is there");
    }));
}
