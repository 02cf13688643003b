//! The board's promises, one by one, and then under any order of calls.

use proptest::prelude::*;

use super::*;
use crate::dev::job::{EpochSummary, Figures};
use crate::domain::{ModelType, TASKS_PER_EPOCH};
use crate::wire::pb;

const LEASE: Duration = Duration::from_secs(30);

fn worker(name: &str) -> WorkerId {
    WorkerId::parse(name).unwrap()
}

fn job_id(name: &str) -> JobId {
    JobId::parse(name).unwrap()
}

fn request(name: &str, epochs: u32) -> JobRequest {
    JobRequest {
        job_id: job_id(name),
        model: ModelType::parse("test").unwrap(),
        dataset_path: "builtin:iris".into(),
        hyperparameters: BTreeMap::new(),
        epochs,
    }
}

fn board(contract: Contract, jobs: &[(&str, u32)]) -> (Board, Instant) {
    let mut board = Board::new(contract, LEASE);
    for (name, epochs) in jobs {
        assert_eq!(board.create_job(request(name, *epochs)).unwrap(), epochs * TASKS_PER_EPOCH);
    }
    (board, Instant::now())
}

fn figures(loss: f64) -> Figures {
    Figures { train: Metrics { loss, accuracy: 1.0 - loss }, validation: None }
}

fn success(task: &Assignment, by: &str) -> Report {
    let ending = Ok(figures(0.5));
    Report { task_id: task.task_id.clone(), worker: worker(by), attempt: task.attempt, ending }
}

fn failure(task: &Assignment, by: &str, code: ErrorCode) -> Report {
    let failure = Failure { code: Some(code), message: "because".into() };
    Report { ending: Err(failure), ..success(task, by) }
}

fn held(task: &Assignment) -> (TaskId, u32) {
    (task.task_id.clone(), task.attempt)
}

fn status(board: &Board, job: &str) -> JobStatus {
    board.job(&job_id(job)).unwrap().status
}

#[test]
fn tasks_come_in_order_of_epoch_and_slice() {
    let (mut board, now) = board(Contract::Extended, &[("j", 2)]);
    assert_eq!(status(&board, "j"), JobStatus::Pending);
    let tasks: Vec<_> = std::iter::from_fn(|| board.claim(&worker("w"), &[], now)).collect();
    assert_eq!(status(&board, "j"), JobStatus::Running);
    let slices: Vec<_> = tasks.iter().map(|task| (task.epoch, task.batches.clone())).collect();
    let expected: Vec<_> =
        (0..2).flat_map(|epoch| (0..10).map(move |b| (epoch, 100 * b..100 * (b + 1)))).collect();
    assert_eq!(slices, expected);
    assert!(tasks.iter().all(|task| task.attempt == 1 && task.total_epochs == 2));
    for task in &tasks {
        assert_eq!(board.complete(&success(task, "w"), now), Ok(Receipt::Counted));
    }
    let job = board.job(&job_id("j")).unwrap();
    assert_eq!((job.status, job.completed, job.workers[&worker("w")]), (JobStatus::Completed, 20, 20));
}

#[test]
fn a_repeated_report_is_acknowledged_and_not_counted() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    let task = board.claim(&worker("w"), &[], now).unwrap();
    assert_eq!(board.complete(&success(&task, "w"), now), Ok(Receipt::Counted));
    assert_eq!(board.complete(&success(&task, "w"), now), Ok(Receipt::Repeated));
    assert_eq!(board.complete(&failure(&task, "w", ErrorCode::Panic), now), Ok(Receipt::Repeated));
    let job = board.job(&job_id("j")).unwrap();
    assert_eq!((job.completed, job.reports, job.failed), (1, 2, 0));
}

#[test]
fn a_base_board_counts_each_report_and_forgets_failures() {
    let (mut board, now) = board(Contract::Base, &[("j", 1)]);
    let first = board.claim(&worker("w"), &[], now).unwrap();
    let second = board.claim(&worker("w"), &[], now).unwrap();
    board.complete(&success(&first, "w"), now).unwrap();
    board.complete(&success(&first, "w"), now).unwrap();
    assert_eq!(board.complete(&failure(&second, "w", ErrorCode::Panic), now), Ok(Receipt::Failed));
    assert_eq!(board.completions(&job_id("j")).unwrap()[&first.task_id], 2);
    assert_eq!(board.expire(now + LEASE * 1000), 0);
    let rest = std::iter::from_fn(|| board.claim(&worker("w"), &[], now)).count();
    assert_eq!(rest, 8, "the failed task is gone");
    assert_eq!(status(&board, "j"), JobStatus::Running);
}

#[test]
fn a_base_board_still_hands_out_tasks_of_cancelled_jobs() {
    let (mut board, now) = board(Contract::Base, &[("j", 1)]);
    assert_eq!(board.cancel_job(&job_id("j")), Ok(JobStatus::Pending));
    let tasks: Vec<_> = std::iter::from_fn(|| board.claim(&worker("w"), &[], now)).collect();
    assert_eq!(tasks.len(), 10);
    for task in &tasks {
        board.complete(&success(task, "w"), now).unwrap();
    }
    assert_eq!(status(&board, "j"), JobStatus::Cancelled);
}

#[test]
fn a_lost_task_comes_back_with_the_next_attempt_and_its_old_report_is_stale() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    let lost = board.claim(&worker("a"), &[], now).unwrap();
    assert_eq!(board.expire(now + LEASE - Duration::from_millis(1)), 0);
    let later = now + LEASE;
    assert!(board.has_expired(later));
    assert_eq!(board.expire(later), 1);
    let again = board.claim(&worker("b"), &[], later).unwrap();
    assert_eq!((&again.task_id, again.attempt), (&lost.task_id, 2));

    assert_eq!(board.complete(&success(&lost, "a"), later), Ok(Receipt::Stale));
    let reply = board.heartbeat(&worker("a"), None, &[held(&lost)], later);
    assert_eq!(reply.cancel, std::slice::from_ref(&lost.task_id));
    assert!(board.progress(&worker("a"), &held(&lost), later));
    assert_eq!(board.complete(&success(&again, "b"), later), Ok(Receipt::Counted));
    assert_eq!(board.complete(&success(&lost, "a"), later), Ok(Receipt::Stale));
    assert_eq!(board.job(&job_id("j")).unwrap().completed, 1);
}

#[test]
fn heartbeats_and_progress_prolong_leases() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    board.register(&worker("w"), &[], now);
    let task = board.claim(&worker("w"), &[], now).unwrap();
    let half = now + LEASE / 2;
    let reply = board.heartbeat(&worker("w"), Some(WorkerPhase::Busy), &[held(&task)], half);
    assert_eq!(reply, HeartbeatReply { renewed: vec![task.task_id.clone()], ..HeartbeatReply::default() });
    assert_eq!(board.expire(now + LEASE), 0);
    let later = half + LEASE / 2;
    assert!(!board.progress(&worker("w"), &held(&task), later));
    assert_eq!(board.expire(half + LEASE), 0);
    assert_eq!(board.expire(later + LEASE), 1);
}

#[test]
fn a_failure_that_may_pass_has_three_tries_and_then_fails_the_job() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    for (attempt, receipt) in [(1, Receipt::Requeued), (2, Receipt::Requeued), (3, Receipt::Failed)] {
        let task = board.claim(&worker("w"), &[], now).unwrap();
        assert_eq!((task.batches.start, task.attempt), (0, attempt));
        assert_eq!(board.complete(&failure(&task, "w", ErrorCode::DeviceLost), now), Ok(receipt));
    }
    let job = board.job(&job_id("j")).unwrap();
    assert_eq!((job.status, job.failed), (JobStatus::Failed, 1));
    assert_eq!(job.message, "task j-e0-b0: DEVICE_LOST: because");
    assert_eq!(board.claim(&worker("w"), &[], now), None);
}

#[test]
fn a_failure_for_good_fails_the_job_and_stops_its_other_tasks() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    let bad = board.claim(&worker("w"), &[], now).unwrap();
    let other = board.claim(&worker("w"), &[], now).unwrap();
    assert_eq!(board.complete(&failure(&bad, "w", ErrorCode::Diverged), now), Ok(Receipt::Failed));
    assert_eq!(status(&board, "j"), JobStatus::Failed);
    let reply = board.heartbeat(&worker("w"), None, &[held(&other)], now);
    assert_eq!(reply.cancel, std::slice::from_ref(&other.task_id));
    board.complete(&failure(&other, "w", ErrorCode::Cancelled), now).unwrap();
    assert_eq!(board.job(&job_id("j")).unwrap().failed, 1);
}

#[test]
fn a_released_task_is_handed_out_first_and_only_by_its_holder() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    let task = board.claim(&worker("a"), &[], now).unwrap();
    board.release(&worker("b"), &held(&task), now).unwrap();
    board.release(&worker("a"), &(task.task_id.clone(), 7), now).unwrap();
    assert_ne!(board.claim(&worker("b"), &[], now).unwrap().task_id, task.task_id);
    board.release(&worker("a"), &held(&task), now).unwrap();
    let again = board.claim(&worker("b"), &[], now).unwrap();
    assert_eq!((again.task_id, again.attempt), (task.task_id, 2));
}

#[test]
fn a_cancelled_job_hands_nothing_out_and_calls_its_tasks_back() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    let task = board.claim(&worker("w"), &[], now).unwrap();
    assert_eq!(board.cancel_job(&job_id("j")), Ok(JobStatus::Running));
    assert_eq!(board.cancel_job(&job_id("j")), Ok(JobStatus::Cancelled));
    assert_eq!(board.claim(&worker("w"), &[], now), None);
    assert!(board.progress(&worker("w"), &held(&task), now));
    assert_eq!(board.expire(now + LEASE), 1);
    assert_eq!(board.claim(&worker("w"), &[], now), None, "a lost task of a cancelled job stays away");
}

#[test]
fn warm_jobs_go_first_and_cold_ones_do_not_starve() {
    let (mut board, now) = board(Contract::Extended, &[("a", 9), ("b", 9), ("c", 9)]);
    let warm = [job_id("b")];
    let order: Vec<_> =
        (0..40).map(|_| board.claim(&worker("w"), &warm, now).unwrap().job_id.to_string()).collect();
    assert!(order[..8].iter().all(|job| job == "b"), "{order:?}");
    for cold in ["a", "c"] {
        let turns: Vec<_> =
            order.iter().enumerate().filter(|(_, job)| *job == cold).map(|(i, _)| i).collect();
        assert!(turns.len() >= 3, "{order:?}");
        assert!(turns.windows(2).all(|pair| pair[1] - pair[0] <= PATIENCE as usize + 3), "{order:?}");
    }
}

#[test]
fn without_warm_jobs_jobs_take_turns() {
    let (mut board, now) = board(Contract::Extended, &[("a", 1), ("b", 1)]);
    let order: String =
        (0..6).map(|_| board.claim(&worker("w"), &[], now).unwrap().job_id.to_string()).collect();
    assert_eq!(order, "ababab");
}

#[test]
fn a_fresh_board_takes_over_what_workers_hold_and_counts_it_once() {
    let (mut before, now) = board(Contract::Extended, &[("j", 1)]);
    let kept = before.claim(&worker("w"), &[], now).unwrap();
    let reported = before.claim(&worker("w"), &[], now).unwrap();
    let (mut board, _) = board(Contract::Extended, &[("j", 1)]);
    let reply = board.heartbeat(&worker("w"), None, &[], now);
    assert!(reply.reregister);
    board.register(&worker("w"), &[held(&kept)], now);
    assert_eq!(board.complete(&success(&reported, "w"), now), Ok(Receipt::Counted));
    let next = board.claim(&worker("v"), &[], now).unwrap();
    assert_eq!(next.batches.start, 200, "the first is held, the second has been reported");
    assert_eq!(board.complete(&success(&kept, "w"), now), Ok(Receipt::Counted));
}

#[test]
fn a_draining_worker_hears_so_and_gets_nothing() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    board.register(&worker("w"), &[], now);
    board.drain_worker(&worker("w"), now);
    assert!(board.heartbeat(&worker("w"), None, &[], now).drain);
    assert_eq!(board.claim(&worker("w"), &[], now), None);
    assert!(board.claim(&worker("v"), &[], now).is_some());
}

#[test]
fn an_epoch_is_the_mean_of_its_tasks_and_its_last_slice_validates_it() {
    let (mut board, now) = board(Contract::Extended, &[("j", 2)]);
    let report = |board: &mut Board, loss: f64, validation: Option<f64>| {
        let task = board.claim(&worker("w"), &[], now).unwrap();
        let validation = validation.map(|loss| Metrics { loss, accuracy: 1.0 - loss });
        let ending = Ok(Figures { validation, ..figures(loss) });
        board.complete(&Report { ending, ..success(&task, "w") }, now).unwrap();
        board.job(&job_id("j")).unwrap()
    };
    report(&mut board, 0.5, None);
    let job = report(&mut board, 0.25, Some(0.5));
    let expected = EpochSummary {
        epoch: 0,
        tasks: 2,
        loss: 0.375,
        accuracy: 0.625,
        validation_loss: Some(0.5),
        validation_accuracy: Some(0.5),
    };
    assert_eq!(job.epochs, [expected]);
    assert_eq!(job.current, Some(Metrics { loss: 0.375, accuracy: 0.625 }));
    for _ in 2..9 {
        report(&mut board, 0.375, Some(0.75));
    }
    let job = report(&mut board, 0.375, Some(0.125));
    assert_eq!((job.epochs[0].tasks, job.epochs[0].validation_loss), (10, Some(0.125)));
    let job = report(&mut board, 0.0, None);
    assert_eq!((job.epochs.len(), job.epochs[1].validation_loss), (2, None));
    assert_eq!(job.current, Some(Metrics { loss: 0.0, accuracy: 1.0 }));
}

#[test]
fn what_does_not_exist_is_named() {
    let (mut board, now) = board(Contract::Extended, &[("j", 1)]);
    let task = board.claim(&worker("w"), &[], now).unwrap();
    for name in ["x", "j-e0-b10", "j-e00-b0", "j-e1-b0", "k-e0-b0", "j-e99999999999-b0", "j-e4294967295-b9"] {
        let task_id = TaskId::parse(name).unwrap();
        let report = Report { task_id: task_id.clone(), ..success(&task, "w") };
        assert_eq!(board.complete(&report, now), Err(BoardError::UnknownTask(task_id)), "{name}");
    }
    assert_eq!(board.cancel_job(&job_id("k")), Err(BoardError::UnknownJob(job_id("k"))));
    assert_eq!(board.create_job(request("j", 1)), Err(BoardError::JobExists(job_id("j"))));
}

#[test]
fn a_bad_request_names_its_field() {
    let good = pb::TrainingJobRequest { model_type: "cnn".into(), epochs: 1, ..Default::default() };
    assert!(!JobRequest::from_wire(good.clone()).unwrap().job_id.as_str().is_empty());
    type Break = fn(&mut pb::TrainingJobRequest);
    let cases: [(&str, Break); 6] = [
        ("epochs", |m| m.epochs = 0),
        ("epochs", |m| m.epochs = -3),
        ("epochs", |m| m.epochs = 100_001),
        ("model_type", |m| m.model_type.clear()),
        ("job_id", |m| m.job_id = "a b".into()),
        ("job_id", |m| m.job_id = "x".repeat(241)),
    ];
    for (field, break_it) in cases {
        let mut message = good.clone();
        break_it(&mut message);
        assert_eq!(JobRequest::from_wire(message).unwrap_err().field, field);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Create,
    Claim { worker: u8, warm: Option<u8> },
    Succeed { which: prop::sample::Index },
    Fail { which: prop::sample::Index, code: ErrorCode },
    Release { which: prop::sample::Index },
    Heartbeat { worker: u8, known: bool },
    Cancel { job: u8 },
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        1 => Just(Step::Create),
        8 => (0..4_u8, prop::option::of(0..4_u8)).prop_map(|(worker, warm)| Step::Claim { worker, warm }),
        6 => which().prop_map(|which| Step::Succeed { which }),
        2 => (which(), prop::sample::select(ErrorCode::ALL.as_slice()))
            .prop_map(|(which, code)| Step::Fail { which, code }),
        2 => which().prop_map(|which| Step::Release { which }),
        3 => (0..4_u8, any::<bool>()).prop_map(|(worker, known)| Step::Heartbeat { worker, known }),
        1 => (0..4_u8).prop_map(|job| Step::Cancel { job }),
        2 => (0..40_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// A board with everything that was ever handed out by it, so that late and repeated reports come too.
struct Play {
    board: Board,
    now: Instant,
    handed_out: Vec<(String, Assignment)>,
    jobs: u8,
}

impl Play {
    fn take(&mut self, step: &Step) {
        let pick = |which: &prop::sample::Index| {
            (!self.handed_out.is_empty()).then(|| self.handed_out[which.index(self.handed_out.len())].clone())
        };
        match step {
            Step::Create => {
                self.board.create_job(request(&format!("j{}", self.jobs), 1)).unwrap();
                self.jobs += 1;
            }
            Step::Claim { worker: index, warm } => {
                let name = format!("w{index}");
                let warm: Vec<_> = warm.iter().map(|job| job_id(&format!("j{job}"))).collect();
                if let Some(task) = self.board.claim(&worker(&name), &warm, self.now) {
                    self.handed_out.push((name, task));
                }
            }
            Step::Succeed { which } => {
                if let Some((by, task)) = pick(which) {
                    self.board.complete(&success(&task, &by), self.now).unwrap();
                }
            }
            Step::Fail { which, code } => {
                if let Some((by, task)) = pick(which) {
                    self.board.complete(&failure(&task, &by, *code), self.now).unwrap();
                }
            }
            Step::Release { which } => {
                if let Some((by, task)) = pick(which) {
                    self.board.release(&worker(&by), &held(&task), self.now).unwrap();
                }
            }
            Step::Heartbeat { worker: index, known } => {
                let name = format!("w{index}");
                let tasks: Vec<_> = self
                    .handed_out
                    .iter()
                    .filter(|(by, _)| *by == name)
                    .map(|(_, task)| held(task))
                    .collect();
                if *known {
                    self.board.register(&worker(&name), &tasks, self.now);
                }
                self.board.heartbeat(&worker(&name), None, &tasks, self.now);
            }
            Step::Cancel { job } => {
                let _ = self.board.cancel_job(&job_id(&format!("j{job}")));
            }
            Step::Wait { seconds } => {
                self.now += Duration::from_secs(*seconds);
                self.board.expire(self.now);
            }
        }
    }
}

fn check(board: &Board) {
    let mut holders = BTreeMap::new();
    for (id, worker) in &board.workers {
        for at in &worker.held {
            assert!(holders.insert(*at, id).is_none(), "held twice");
        }
    }
    for (index, job) in board.jobs.iter().enumerate() {
        let waits = board.waiting.iter().filter(|waiting| **waiting == index).count();
        assert_eq!(waits, usize::from(!job.pending.is_empty()));
        let mut counted = 0;
        for (number, task) in job.tasks.iter().enumerate() {
            let holder = holders.remove(&At { job: index, task: number });
            let state_holder = match &task.state {
                TaskState::Held { worker, .. } => Some(worker),
                _ => None,
            };
            assert_eq!(holder, state_holder);
            assert_eq!(job.pending.contains(&number), task.state == TaskState::Pending);
            if board.contract == Contract::Extended {
                assert_eq!(task.counted, u32::from(task.state == TaskState::Completed));
            }
            counted += task.counted;
        }
        assert_eq!(counted, job.completed);
        assert_eq!(job.summary().workers.values().sum::<u32>(), counted);
        if board.contract == Contract::Extended {
            let all = counted == job.total();
            assert!(if job.status == JobStatus::Completed { all } else { !all || job.status.is_final() });
            assert!(!job.status.is_final() || job.pending.is_empty());
        }
    }
    assert!(holders.is_empty(), "a task that does not exist is held");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_calls_breaks_the_board(
        steps in prop::collection::vec(step(), 1..150),
        base in any::<bool>(),
    ) {
        let contract = if base { Contract::Base } else { Contract::Extended };
        let mut play = Play { board: Board::new(contract, LEASE), now: Instant::now(), handed_out: Vec::new(), jobs: 0 };
        for step in &steps {
            play.take(step);
            check(&play.board);
        }
        // What is left goes through, once everything that was lost came back.
        play.now += LEASE;
        play.board.expire(play.now);
        while let Some(task) = play.board.claim(&worker("last"), &[], play.now) {
            play.board.complete(&success(&task, "last"), play.now).unwrap();
            check(&play.board);
        }
        if contract == Contract::Extended {
            for job in play.board.jobs() {
                prop_assert!(job.status.is_final(), "{job:?}");
                prop_assert!(job.status != JobStatus::Completed || job.completed == job.total);
            }
        }
    }
}
