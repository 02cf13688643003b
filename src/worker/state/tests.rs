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
        reference: None,
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

fn is_answer(effect: &Effect) -> bool {
    matches!(effect, Effect::Answer { .. })
}

/// As an orchestrator hands it out.
fn assigned(attempt: u32, received: &'static str) -> Box<TaskSpec> {
    Box::new(TaskSpec {
        total_epochs: Some(7),
        timeout: Some(Duration::from_secs(9)),
        initial_weights: bytes::Bytes::from_static(b"weights"),
        received: bytes::Bytes::from_static(received.as_bytes()),
        ..*task("t", attempt)
    })
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
    let (key, outcome) = persisted(&effects);
    assert_eq!(outcome.identity.attempt, 4, "reported under the attempt that the orchestrator gave");
    assert!(!effects.iter().any(is_answer), "nobody hears of what a crash could still take away");
    let effects = bench.on(Event::Execute { task: task("t", 0), waiter: Waiter(3) });
    assert!(!effects.iter().any(is_answer));
    let effects = bench.on(Event::Persisted { key });
    for waiter in [Waiter(1), Waiter(3)] {
        assert!(answered(&effects, waiter).is_ok());
    }
    let effects = bench.on(Event::Execute { task: task("t", 0), waiter: Waiter(2) });
    assert!(answered(&effects, Waiter(2)).is_ok(), "answered from what is known");
    let effects = bench.polled(task("t", 5));
    assert_eq!(persisted(&effects).1.identity.attempt, 5);
}

#[test]
fn what_only_a_poll_tells_is_kept_of_a_task_that_came_by_execute_first() {
    for mode in [Mode::Base, Mode::Extended] {
        let attempt = u32::from(mode == Mode::Extended);
        let mut bench = Bench::new(2, mode);
        bench.on(Event::Execute { task: task("t", 0), waiter: Waiter(1) });
        bench.polled(assigned(attempt, "first"));
        let record = bench.state.records.values().next().unwrap();
        assert_eq!(*record.task, *assigned(attempt, "first"), "as it is read again after a restart");
        bench.polled(assigned(attempt + 1, "second"));
        bench.polled(assigned(attempt, "late"));
        let record = bench.state.records.values().next().unwrap();
        assert_eq!(*record.task, *assigned(attempt + 1, "second"), "the newest hand-out counts");
    }
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
fn nothing_is_polled_while_outcomes_cannot_be_written() {
    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(no_room());
    assert!(
        bench
            .on(Event::PollEnded { generation: 1, asked: Moment::LONG_AGO, places: 1, polled: Polled::Empty })
            .is_empty()
    );
    assert!(bench.on(Event::Storage { trouble: None }).iter().any(is_poll));
}

pub(super) fn no_room() -> Event {
    Event::Storage { trouble: Some("no room".to_owned()) }
}

#[test]
fn execute_is_refused_with_the_reason_while_the_worker_is_degraded() {
    let no_list = Event::HeldList { trouble: Some("no room".to_owned()) };
    for trouble in [no_room(), no_list, Event::Engine { trouble: Some("no room".to_owned()) }] {
        let mut bench = Bench::new(2, Mode::Extended);
        bench.on(Event::Execute { task: task("held", 0), waiter: Waiter(1) });
        bench.on(trouble);
        let effects = bench.on(Event::Execute { task: task("t", 0), waiter: Waiter(2) });
        let refusal = ExecuteError::Degraded { trouble: "no room".to_owned() };
        assert_eq!(*answered(&effects, Waiter(2)), Err(refusal));
        let effects = bench.on(Event::Execute { task: task("held", 0), waiter: Waiter(3) });
        assert!(effects.is_empty(), "what runs already is joined: {effects:?}");
    }
}

#[test]
fn nothing_is_polled_while_tasks_cannot_be_put_on_the_list() {
    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(Event::HeldList { trouble: Some("no room".to_owned()) });
    let asked = bench.now;
    assert!(bench.on(Event::PollEnded { generation: 1, asked, places: 1, polled: Polled::Empty }).is_empty());
    assert!(bench.on(Event::HeldList { trouble: None }).iter().any(is_poll));
}

#[test]
fn nothing_is_polled_while_the_engine_cannot_work() {
    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(Event::Engine { trouble: Some("no runner starts".to_owned()) });
    let asked = bench.now;
    assert!(bench.on(Event::PollEnded { generation: 1, asked, places: 1, polled: Polled::Empty }).is_empty());
    assert!(bench.on(Event::Engine { trouble: None }).iter().any(is_poll));
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
fn a_task_of_an_earlier_process_that_is_handed_out_anew_goes_on_under_that_lease() {
    let mut bench = Bench::new(2, Mode::Extended);
    assert!(bench.on(Event::Resumed { tasks: vec![*task("t", 1)] }).is_empty());
    submitted(&bench.polled(task("t", 2)));
    assert_eq!(bench.state.records.values().next().unwrap().attempt, 2);
}
