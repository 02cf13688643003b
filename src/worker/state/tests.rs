//! The rules by example.

use std::time::Duration;

use super::*;
use crate::domain::{
    Backend, ErrorCode, Hyperparameters, InvalidField, Metrics, ModelType, TaskResult, TaskStatus,
};
use crate::wire::RejectedTask;

pub(super) fn task(name: &str, attempt: u32) -> Box<TaskSpec> {
    Box::new(TaskSpec {
        identity: TaskIdentity {
            task_id: TaskId::parse(name).unwrap(),
            job_id: JobId::parse("job").unwrap(),
            attempt,
        },
        model: ModelType::parse("test").unwrap(),
        dataset_path: "builtin:digits".into(),
        hyperparameters: Hyperparameters::default(),
        notes: Vec::new(),
        epoch: 1,
        batches: 0..100,
        total_epochs: None,
        timeout: None,
        lease: None,
        initial_weights: bytes::Bytes::new(),
        received: bytes::Bytes::new(),
    })
}

pub(super) fn success() -> Finished {
    let result = TaskResult {
        train: Metrics { loss: 0.5, accuracy: 0.9 },
        validation: None,
        samples: 1,
        steps: 1,
        backend: Backend::Cpu,
        device: "cpu".into(),
        weights: bytes::Bytes::new(),
    };
    Finished { ending: Ok(result), notes: Vec::new() }
}

pub(super) fn failure(code: ErrorCode) -> Finished {
    Finished { ending: Err(TaskError::new(code, "because")), notes: Vec::new() }
}

pub(super) struct Bench {
    pub(super) state: State,
    pub(super) now: Moment,
    /// Places of the polls that are out.
    polls: VecDeque<u32>,
}

impl Bench {
    pub(super) fn new(slots: u32, mode: Mode) -> Self {
        let state = State::new(Limits { slots, max_task_retries: 1 });
        let now = Moment::LONG_AGO.after(Duration::from_secs(1_000));
        let mut bench = Self { state, now, polls: VecDeque::new() };
        let polls = bench.on(Event::LinkUp { generation: 1, mode });
        assert!(polls.iter().all(is_poll));
        assert_eq!(bench.state.polled_places, slots, "each free slot is asked for");
        bench
    }

    pub(super) fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        transition(&mut self.state, self.now, event, &mut effects);
        ask(&mut self.state, &mut effects);
        self.polls.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Poll { places, .. } => Some(*places),
            _ => None,
        }));
        effects
    }

    pub(super) fn pass(&mut self, seconds: u64) -> Vec<Effect> {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.on(Event::Tick)
    }

    pub(super) fn polled(&mut self, task: Box<TaskSpec>) -> Vec<Effect> {
        let (asked, places) = (self.now, self.polls.pop_front().expect("a poll is out"));
        self.on(Event::PollEnded { generation: 1, asked, places, polled: Polled::Tasks(vec![Ok(task)]) })
    }

    pub(super) fn finish(&mut self, run: RunId, finished: Finished) -> Vec<Effect> {
        self.on(Event::Finished { run, finished, duration: Duration::from_secs(1), energy_joules: None })
    }
}

pub(super) fn submitted(effects: &[Effect]) -> RunId {
    let run = effects.iter().find_map(|effect| match effect {
        Effect::Submit { run, .. } => Some(*run),
        _ => None,
    });
    run.unwrap_or_else(|| panic!("nothing was submitted: {effects:?}"))
}

pub(super) fn persisted(effects: &[Effect]) -> (Key, &TaskOutcome) {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Persist { key, outcome, .. } => Some((*key, &**outcome)),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("nothing was persisted: {effects:?}"))
}

fn answered(effects: &[Effect], who: Waiter) -> &Result<Arc<TaskOutcome>, ExecuteError> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Answer { waiter, answer } if *waiter == who => Some(answer),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("{who:?} was not answered: {effects:?}"))
}

pub(super) fn is_poll(effect: &Effect) -> bool {
    matches!(effect, Effect::Poll { .. })
}

#[test]
fn a_polled_task_runs_is_persisted_and_makes_room_for_the_next_poll() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(task("t", 1)));
    let effects = bench.finish(run, success());
    let (key, outcome) = persisted(&effects);
    assert_eq!(outcome.status(), TaskStatus::Completed);
    assert!(!effects.iter().any(is_poll), "the slot is held until the outcome is on disk");
    assert!(bench.on(Event::Persisted { key }).iter().any(is_poll));
    assert_eq!(bench.state.completed, 1);
}

#[test]
fn an_empty_poll_is_followed_by_the_next_and_a_failed_one_waits_for_the_link() {
    let mut bench = Bench::new(1, Mode::Base);
    assert!(
        bench
            .on(Event::PollEnded { generation: 1, asked: Moment::LONG_AGO, places: 1, polled: Polled::Empty })
            .iter()
            .any(is_poll)
    );
    assert!(
        bench
            .on(Event::PollEnded {
                generation: 1,
                asked: Moment::LONG_AGO,
                places: 1,
                polled: Polled::Failed
            })
            .is_empty()
    );
    assert!(bench.on(Event::LinkUp { generation: 2, mode: Mode::Base }).iter().any(is_poll));
}

#[test]
fn a_late_failure_of_an_old_link_does_not_break_the_new_one() {
    let mut bench = Bench::new(2, Mode::Base);
    bench.on(Event::PollEnded { generation: 1, asked: Moment::LONG_AGO, places: 1, polled: Polled::Failed });
    bench.on(Event::LinkUp { generation: 2, mode: Mode::Extended });
    assert!(
        bench
            .on(Event::PollEnded {
                generation: 1,
                asked: Moment::LONG_AGO,
                places: 1,
                polled: Polled::Failed
            })
            .iter()
            .any(is_poll)
    );
}

#[test]
fn with_the_base_contract_a_task_waits_for_its_job() {
    let mut bench = Bench::new(2, Mode::Base);
    let effects = bench.polled(task("a", 0));
    assert!(matches!(effects[..], [Effect::CheckJob { .. }]), "{effects:?}");
    assert!(bench.polled(task("b", 0)).is_empty(), "one question for a job");
    let job = JobId::parse("job").unwrap();
    let effects = bench.on(Event::JobChecked { job, wanted: true });
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Submit { .. })).count(), 2);
}

#[test]
fn a_task_of_a_cancelled_job_does_not_start() {
    let mut bench = Bench::new(1, Mode::Base);
    bench.polled(task("a", 0));
    let effects = bench.on(Event::JobChecked { job: JobId::parse("job").unwrap(), wanted: false });
    assert_eq!(persisted(&effects).1.status(), TaskStatus::Cancelled);
}

#[test]
fn the_same_task_by_poll_and_by_execute_runs_once_and_both_hear_of_it() {
    let mut bench = Bench::new(2, Mode::Extended);
    let run = submitted(&bench.on(Event::Execute { task: task("t", 0), waiter: Waiter(1) }));
    let effects = bench.polled(task("t", 4));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Submit { .. })));
    let effects = bench.finish(run, success());
    assert!(answered(&effects, Waiter(1)).is_ok());
    let (key, outcome) = persisted(&effects);
    assert_eq!(outcome.identity.attempt, 4, "reported under the attempt that the orchestrator gave");
    bench.on(Event::Persisted { key });
    let effects = bench.on(Event::Execute { task: task("t", 0), waiter: Waiter(2) });
    assert!(answered(&effects, Waiter(2)).is_ok(), "answered from what is known");
    let effects = bench.polled(task("t", 5));
    assert_eq!(persisted(&effects).1.identity.attempt, 5);
}

#[test]
fn an_id_that_is_held_with_other_fields_is_a_conflict() {
    let mut bench = Bench::new(2, Mode::Extended);
    bench.on(Event::Execute { task: task("t", 0), waiter: Waiter(1) });
    let mut other = task("t", 0);
    other.epoch = 9;
    let effects = bench.on(Event::Execute { task: other, waiter: Waiter(2) });
    assert_eq!(*answered(&effects, Waiter(2)), Err(ExecuteError::Conflict));
}

#[test]
fn execute_is_refused_when_all_slots_are_busy() {
    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(Event::Execute { task: task("a", 0), waiter: Waiter(1) });
    let effects = bench.on(Event::Execute { task: task("b", 0), waiter: Waiter(2) });
    assert_eq!(*answered(&effects, Waiter(2)), Err(ExecuteError::Busy { slots: 1 }));
    assert!(bench.polled(task("c", 1)).is_empty(), "what a poll brought beside it waits for its turn");
}

#[test]
fn a_passing_failure_is_tried_again_and_the_last_one_is_reported() {
    let mut bench = Bench::new(1, Mode::Base);
    bench.polled(task("t", 0));
    let job = JobId::parse("job").unwrap();
    let first = submitted(&bench.on(Event::JobChecked { job, wanted: true }));
    let effects = bench.finish(first, failure(ErrorCode::DeviceLost));
    assert!(matches!(effects[..], [Effect::Retry { retries: 1, .. }]), "{effects:?}");
    assert!(bench.finish(first, success()).is_empty(), "a try ends once");
    let second = submitted(&bench.on(Event::RetryDue { run: first }));
    assert_ne!(first, second);
    let effects = bench.finish(second, failure(ErrorCode::DeviceLost));
    assert_eq!(persisted(&effects).1.status(), TaskStatus::Failed);
}

#[test]
fn a_wrong_task_is_reported_at_once_and_not_tried_again() {
    let mut bench = Bench::new(1, Mode::Extended);
    let identity = task("t", 3).identity;
    let rejected = RejectedTask {
        identity,
        model: ModelType::parse("test").unwrap(),
        epoch: 0,
        error: InvalidField::new("batch_end", "3", "more than batch_start (5)"),
    };
    let effects = bench.on(Event::PollEnded {
        generation: 1,
        asked: Moment::LONG_AGO,
        places: 1,
        polled: Polled::Tasks(vec![Err(Box::new(rejected))]),
    });
    let error = persisted(&effects).1.ending.clone().unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("batch_end") && error.message.contains("more than batch_start"));

    let key = persisted(&effects).0;
    bench.on(Event::Persisted { key });
    let run = submitted(&bench.on(Event::Execute { task: task("u", 0), waiter: Waiter(1) }));
    let effects = bench.finish(run, failure(ErrorCode::NotFound));
    assert_eq!(answered(&effects, Waiter(1)).as_ref().unwrap().status(), TaskStatus::Failed);
}

#[test]
fn time_out_and_cancel_stop_a_running_task() {
    for code in [ErrorCode::TimedOut, ErrorCode::Cancelled] {
        let mut bench = Bench::new(1, Mode::Extended);
        let run = submitted(&bench.polled(task("t", 1)));
        let effects = match code {
            ErrorCode::TimedOut => bench.on(Event::TimedOut { run, limit: Duration::from_secs(3) }),
            _ => bench.on(Event::Cancel {
                task: TaskId::parse("t").unwrap(),
                up_to: None,
                reason: "unwanted",
                waiter: Some(Waiter(1)),
            }),
        };
        assert!(matches!(&effects[0], Effect::Stop { reason, .. } if reason.code == code), "{effects:?}");
        let effects = bench.finish(run, failure(code));
        assert_eq!(persisted(&effects).1.ending.as_ref().unwrap_err().code, code);
    }
}

#[test]
fn a_cancel_that_comes_too_late_changes_nothing() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(task("t", 1)));
    let effects = bench.finish(run, success());
    let key = persisted(&effects).0;
    let cancel = |waiter| Event::Cancel {
        task: TaskId::parse("t").unwrap(),
        up_to: None,
        reason: "unwanted",
        waiter: Some(Waiter(waiter)),
    };
    let answer = |effects: Vec<Effect>| match effects[..] {
        [Effect::AnswerCancel { answer, .. }] => answer,
        _ => panic!("{effects:?}"),
    };
    assert_eq!(answer(bench.on(cancel(1))), CancelAnswer::AlreadyEnded);
    bench.on(Event::Persisted { key });
    assert_eq!(answer(bench.on(cancel(2))), CancelAnswer::AlreadyEnded);
}

#[test]
fn a_drain_finishes_what_is_held_and_what_a_poll_still_brings() {
    let mut bench = Bench::new(2, Mode::Base);
    let effects = bench.on(Event::Drain);
    assert!(effects.is_empty(), "two polls are out");
    bench.polled(task("t", 0));
    let run = submitted(&bench.on(Event::JobChecked { job: JobId::parse("job").unwrap(), wanted: true }));
    bench.on(Event::PollEnded { generation: 1, asked: Moment::LONG_AGO, places: 1, polled: Polled::Empty });
    let effects = bench.finish(run, success());
    let key = persisted(&effects).0;
    assert!(matches!(bench.on(Event::Persisted { key })[..], [Effect::Drained]));
}

#[test]
fn at_the_end_of_a_drain_tasks_are_given_back_or_reported_as_interrupted() {
    let reason = "the worker was stopped";
    for mode in [Mode::Extended, Mode::Base] {
        let mut bench = Bench::new(1, mode);
        let attempt = u32::from(mode == Mode::Extended);
        let mut effects = bench.polled(task("t", attempt));
        if mode == Mode::Base {
            effects = bench.on(Event::JobChecked { job: JobId::parse("job").unwrap(), wanted: true });
        }
        let run = submitted(&effects);
        bench.on(Event::Drain);
        let effects = bench.on(Event::Abort { reason });
        assert!(matches!(effects[..], [Effect::Stop { .. }]), "{effects:?}");
        let effects = bench.finish(run, failure(ErrorCode::Interrupted));
        match mode {
            Mode::Extended => assert!(matches!(effects[..], [Effect::Release { .. }]), "{effects:?}"),
            Mode::Base => {
                let error = persisted(&effects).1.ending.as_ref().unwrap_err();
                assert_eq!((error.code, error.message.as_str()), (ErrorCode::Interrupted, reason));
            }
        }
    }
}

#[test]
fn nothing_is_polled_while_outcomes_cannot_be_written() {
    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(Event::Storage { writable: false });
    assert!(
        bench
            .on(Event::PollEnded { generation: 1, asked: Moment::LONG_AGO, places: 1, polled: Polled::Empty })
            .is_empty()
    );
    assert!(bench.on(Event::Storage { writable: true }).iter().any(is_poll));
}

#[test]
fn nothing_is_polled_while_the_engine_cannot_work() {
    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(Event::Engine { trouble: Some("no runner starts".to_owned()) });
    let asked = bench.now;
    assert!(bench.on(Event::PollEnded { generation: 1, asked, places: 1, polled: Polled::Empty }).is_empty());
    assert!(bench.on(Event::Engine { trouble: None }).iter().any(is_poll));
}

fn cancel_attempt(attempt: u32) -> Event {
    Event::Cancel {
        task: TaskId::parse("t").unwrap(),
        up_to: Some(attempt),
        reason: "unwanted",
        waiter: None,
    }
}

#[test]
fn a_cancel_of_an_attempt_that_was_given_away_does_not_touch_the_next_one() {
    let mut bench = Bench::new(2, Mode::Extended);
    let run = submitted(&bench.polled(task("t", 1)));
    bench.polled(task("t", 2));
    assert!(!bench.on(cancel_attempt(1)).iter().any(|effect| matches!(effect, Effect::Stop { .. })));
    let effects = bench.finish(run, success());
    assert_eq!(persisted(&effects).1.identity.attempt, 2);
}

#[test]
fn an_attempt_that_comes_while_the_last_one_stops_runs_after_it() {
    let mut bench = Bench::new(2, Mode::Extended);
    let first = submitted(&bench.polled(task("t", 1)));
    assert!(matches!(bench.on(cancel_attempt(1))[..], [Effect::Stop { .. }]));
    bench.polled(task("t", 2));
    let second = submitted(&bench.finish(first, failure(ErrorCode::Cancelled)));
    let effects = bench.finish(second, success());
    assert_eq!(persisted(&effects).1.status(), TaskStatus::Completed);
    assert_eq!(persisted(&effects).1.identity.attempt, 2);
}

#[test]
fn other_work_under_the_id_of_a_held_task_does_not_take_its_outcome() {
    let mut bench = Bench::new(2, Mode::Extended);
    bench.on(Event::Execute { task: task("t", 0), waiter: Waiter(1) });
    let mut other = task("t", 1);
    other.dataset_path = "builtin:iris".into();
    let run = submitted(&bench.polled(other));
    let effects = bench.finish(run, success());
    assert_eq!(persisted(&effects).1.identity.attempt, 1);
}

#[test]
fn what_the_orchestrator_does_not_take_back_is_reported() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(task("t", 1)));
    bench.on(Event::Abort { reason: "the worker was stopped" });
    let effects = bench.finish(run, failure(ErrorCode::Interrupted));
    let [Effect::Release { key, .. }] = effects[..] else { panic!("{effects:?}") };
    let effects = bench.on(Event::Released { key, taken: Taken::No });
    assert_eq!(persisted(&effects).1.ending.as_ref().unwrap_err().code, ErrorCode::Interrupted);
}

#[test]
fn what_does_not_stop_is_left_behind_and_still_given_back() {
    let mut bench = Bench::new(2, Mode::Extended);
    submitted(&bench.polled(task("t", 1)));
    bench.on(Event::Abort { reason: "the worker was stopped" });
    let effects = bench.on(Event::Abandon);
    let [Effect::Release { key, .. }] = effects[..] else { panic!("{effects:?}") };
    let effects = bench.on(Event::Released { key, taken: Taken::Yes });
    assert!(matches!(effects[..], [Effect::Drained]), "a poll that is out is not waited for: {effects:?}");
}

#[test]
fn polls_are_limited_and_the_rest_follows() {
    let mut bench = Bench::new(MOST_POLLS, Mode::Base);
    bench.state.limits.slots = 1_000;
    assert!(bench.on(Event::Tick).is_empty(), "no more than {MOST_POLLS} are out");
    assert_eq!(bench.polled(task("t", 0)).iter().filter(|effect| is_poll(effect)).count(), 1);
}

#[test]
fn one_poll_asks_for_all_free_slots_where_an_answer_may_bring_several_tasks() {
    let mut bench = Bench::new(40, Mode::Extended);
    assert_eq!(bench.polls, [MOST_PLACES, 8]);
    let tasks = ["a", "b", "c"].map(|name| Ok(task(name, 1)));
    let (asked, places) = (bench.now, bench.polls.pop_front().unwrap());
    let polled = Polled::Tasks(tasks.into());
    let effects = bench.on(Event::PollEnded { generation: 1, asked, places, polled });
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Submit { .. })).count(), 3);
    assert_eq!(bench.polls, [8, MOST_PLACES - 3], "what did not come is asked for again");
    assert_eq!(bench.state.free_slots(), 0);
}

#[test]
fn a_cancel_means_the_attempt_that_waits_for_its_turn_too() {
    let mut bench = Bench::new(2, Mode::Extended);
    let first = submitted(&bench.polled(task("t", 1)));
    bench.on(cancel_attempt(1));
    bench.polled(task("t", 2));
    bench.on(cancel_attempt(2));
    let effects = bench.finish(first, failure(ErrorCode::Cancelled));
    assert_eq!(persisted(&effects).1.status(), TaskStatus::Cancelled);
}

#[test]
fn a_disk_that_takes_nothing_does_not_hold_up_the_end_for_ever() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(task("t", 1)));
    bench.finish(run, success());
    bench.on(Event::Storage { writable: false });
    assert!(
        bench.on(Event::Abort { reason: "the worker was stopped" }).is_empty(),
        "it is waited for at first"
    );
    assert!(matches!(bench.on(Event::Abandon)[..], [Effect::Lost { .. }, Effect::Drained]));
}

#[test]
fn a_task_of_an_earlier_process_that_is_handed_out_anew_goes_on_under_that_lease() {
    let mut bench = Bench::new(2, Mode::Extended);
    assert!(bench.on(Event::Resumed { tasks: vec![*task("t", 1)] }).is_empty());
    submitted(&bench.polled(task("t", 2)));
    assert_eq!(bench.state.records.values().next().unwrap().attempt, 2);
}
