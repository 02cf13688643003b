//! How tasks are cancelled, given back and left behind, by example.

use std::time::Duration;

use super::tests::{Bench, failure, no_room, persisted, submitted, success, task};
use super::*;
use crate::domain::{ErrorCode, TaskStatus};

fn cancel_attempt(attempt: u32) -> Event {
    Event::Cancel {
        task: TaskId::parse("t").unwrap(),
        up_to: Some(attempt),
        reason: "unwanted",
        waiter: None,
    }
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
                assert_eq!(error.code, ErrorCode::Interrupted);
            }
        }
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
fn a_cancel_finds_the_attempt_that_runs_beside_the_outcome_of_an_earlier_one() {
    let mut bench = Bench::new(2, Mode::Extended);
    let first = submitted(&bench.polled(task("t", 1)));
    bench.finish(first, failure(ErrorCode::Diverged));
    let second = submitted(&bench.polled(task("t", 2)));
    let (task, waiter) = (TaskId::parse("t").unwrap(), Some(Waiter(1)));
    let effects = bench.on(Event::Cancel { task, up_to: None, reason: "unwanted", waiter });
    let [Effect::Stop { run, .. }, Effect::AnswerCancel { answer, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((*run, *answer), (second, CancelAnswer::Stopping));
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
fn whoever_a_task_is_given_back_to_is_told_why() {
    let why = |error: &TaskError| error.code == ErrorCode::Interrupted && error.message == "because";
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(task("t", 1)));
    let effects = bench.finish(run, failure(ErrorCode::Interrupted));
    let [Effect::Release { key, reason, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(reason, "because");
    let effects = bench.on(Event::Released { key: *key, taken: Taken::No });
    assert!(why(persisted(&effects).1.ending.as_ref().unwrap_err()), "{effects:?}");

    let mut bench = Bench::new(1, Mode::Base);
    bench.polled(task("t", 0));
    let run = submitted(&bench.on(Event::JobChecked { job: JobId::parse("job").unwrap(), wanted: true }));
    let effects = bench.finish(run, failure(ErrorCode::Interrupted));
    assert!(why(persisted(&effects).1.ending.as_ref().unwrap_err()), "{effects:?}");
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
    bench.on(no_room());
    assert!(
        bench.on(Event::Abort { reason: "the worker was stopped" }).is_empty(),
        "it is waited for at first"
    );
    assert!(matches!(bench.on(Event::Abandon)[..], [Effect::Lost { .. }, Effect::Drained]));
}
