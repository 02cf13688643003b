//! The rules of leases by example.

use std::time::Duration;

use super::tests::{Bench, failure, is_poll, persisted, submitted, success, task};
use super::*;
use crate::domain::{ErrorCode, TaskStatus};

fn leased(name: &str, attempt: u32) -> Box<TaskSpec> {
    let mut task = task(name, attempt);
    task.lease = Some(Duration::from_secs(30));
    task
}

fn renewed(bench: &Bench, attempt: u32) -> Event {
    let task = TaskId::parse("t").unwrap();
    Event::Renewed { tasks: vec![(task, attempt)], asked: bench.now }
}

fn stop_code(effects: &[Effect]) -> ErrorCode {
    let [Effect::Stop { reason, .. }] = effects else { panic!("{effects:?}") };
    reason.code
}

#[test]
fn without_a_renewal_a_task_is_stopped_before_its_lease_ends_and_nothing_of_it_is_reported() {
    for ending in [success(), failure(ErrorCode::LeaseLost), failure(ErrorCode::Diverged)] {
        let mut bench = Bench::new(1, Mode::Extended);
        let run = submitted(&bench.polled(leased("t", 1)));
        assert!(bench.pass(26).is_empty());
        assert_eq!(stop_code(&bench.pass(1)), ErrorCode::LeaseLost);
        assert!(bench.pass(1).is_empty(), "it is told once");
        let effects = bench.finish(run, ending);
        assert!(
            !effects.iter().any(|effect| matches!(effect, Effect::Persist { .. } | Effect::Release { .. }))
        );
        assert!(effects.iter().any(is_poll), "the slot is free");
        assert_eq!(bench.state.completed, 0);
    }
}

#[test]
fn a_renewal_counts_from_its_question() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(leased("t", 1)));
    bench.pass(20);
    let question = renewed(&bench, 1);
    bench.pass(6);
    assert!(bench.on(question).is_empty());
    assert!(bench.pass(20).is_empty(), "27 seconds after the question");
    assert!(bench.on(renewed(&bench, 2)).is_empty(), "of another attempt");
    assert_eq!(stop_code(&bench.pass(1)), ErrorCode::LeaseLost);
    let effects = bench.finish(run, success());
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Persist { .. })));
}

#[test]
fn after_a_suspend_the_lease_is_looked_at_before_anything_is_written() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(leased("t", 1)));
    // No tick in between: the whole process stood still, and the first to arrive is the result.
    bench.now = bench.now.after(Duration::from_secs(3_600));
    let effects = bench.finish(run, success());
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Persist { .. })), "{effects:?}");
}

#[test]
fn what_was_trained_under_a_lost_lease_is_good_for_the_next_attempt_here() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(leased("t", 1)));
    bench.pass(30);
    bench.finish(run, success());
    let effects = bench.polled(leased("t", 2));
    let (_, outcome) = persisted(&effects);
    assert_eq!((outcome.status(), outcome.identity.attempt), (TaskStatus::Completed, 2));
}

#[test]
fn a_lease_that_is_renewed_after_the_stop_starts_the_attempt_again() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(leased("t", 1)));
    bench.pass(27);
    bench.on(renewed(&bench, 1));
    let again = submitted(&bench.finish(run, failure(ErrorCode::LeaseLost)));
    let effects = bench.finish(again, success());
    assert_eq!(persisted(&effects).1.status(), TaskStatus::Completed);
}

#[test]
fn a_new_attempt_of_a_task_that_is_being_stopped_for_its_lease_runs_unless_it_is_cancelled() {
    for cancelled in [false, true] {
        let mut bench = Bench::new(2, Mode::Extended);
        let run = submitted(&bench.polled(leased("t", 1)));
        bench.pass(27);
        bench.polled(leased("t", 2));
        if cancelled {
            let task = TaskId::parse("t").unwrap();
            bench.on(Event::Cancel { task, up_to: None, reason: "unwanted", waiter: None });
        }
        let effects = bench.finish(run, failure(ErrorCode::LeaseLost));
        let starts = effects.iter().any(|effect| matches!(effect, Effect::Submit { .. }));
        assert_eq!(starts, !cancelled, "{effects:?}");
        if cancelled {
            assert_eq!(persisted(&effects).1.status(), TaskStatus::Cancelled);
        }
    }
}

#[test]
fn what_a_long_poll_brought_too_late_waits_for_a_renewal() {
    for comes in [true, false] {
        let mut bench = Bench::new(1, Mode::Extended);
        let polled = Polled::Tasks(vec![Ok(leased("t", 1))]);
        let asked = bench.now;
        bench.now = bench.now.after(Duration::from_secs(29));
        let effects = bench.on(Event::PollEnded { generation: 1, asked, places: 1, polled });
        assert!(effects.is_empty(), "{effects:?}");
        if comes {
            submitted(&bench.on(renewed(&bench, 1)));
        } else {
            assert!(bench.pass(29).is_empty());
            assert!(matches!(bench.pass(1)[..], [Effect::Ended { .. }, Effect::Poll { .. }]));
        }
    }
}

#[test]
fn nobody_looks_again_at_a_lease_that_nothing_hangs_on_any_more() {
    let mut bench = Bench::new(2, Mode::Extended);
    let run = submitted(&bench.polled(leased("t", 1)));
    assert!(bench.state.next_look().is_some());
    bench.pass(27);
    assert_eq!(bench.state.next_look(), None, "it was told to stop");
    bench.finish(run, failure(ErrorCode::LeaseLost));
    let run = submitted(&bench.polled(leased("u", 1)));
    bench.finish(run, success());
    bench.pass(60);
    assert_eq!(bench.state.next_look(), None, "its outcome waits for the disk");
}

#[test]
fn what_an_earlier_process_held_goes_on_when_it_is_still_ours() {
    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(Event::LinkDown { generation: 1 });
    bench.on(Event::Resumed { tasks: vec![*leased("t", 3)] });
    assert!(bench.pass(3_600).is_empty(), "it waits for the link");
    let up = |mode| Event::LinkUp { generation: 2, mode };
    assert!(bench.on(up(Mode::Extended)).is_empty(), "and for the renewal");
    let run = submitted(&bench.on(renewed(&bench, 3)));
    let effects = bench.finish(run, success());
    assert_eq!(persisted(&effects).1.identity.attempt, 3);

    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(Event::LinkDown { generation: 1 });
    bench.on(Event::Resumed { tasks: vec![*leased("t", 3)] });
    let effects = bench.on(up(Mode::Base));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::CheckJob { .. })), "{effects:?}");
    let wanted = Event::JobChecked { job: JobId::parse("job").unwrap(), wanted: true };
    submitted(&bench.on(wanted));
    assert!(bench.pass(3_600).is_empty(), "a base orchestrator has no leases");
}

#[test]
fn a_stop_at_the_end_of_a_drain_gives_back_only_what_is_ours() {
    let mut bench = Bench::new(1, Mode::Extended);
    let run = submitted(&bench.polled(leased("t", 1)));
    bench.pass(27);
    bench.on(Event::Abort { reason: "the worker was stopped" });
    let effects = bench.finish(run, failure(ErrorCode::LeaseLost));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Release { .. } | Effect::Persist { .. })));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Ended { .. })));
}

#[test]
fn what_an_earlier_process_held_and_nobody_renewed_is_not_reported_without_a_question() {
    let mut bench = Bench::new(1, Mode::Extended);
    bench.on(Event::LinkDown { generation: 1 });
    bench.on(Event::Resumed { tasks: vec![*leased("t", 3)] });
    let effects = bench.on(Event::Abort { reason: "the worker was stopped" });
    let release = effects.iter().find_map(|effect| match effect {
        Effect::Release { key, .. } => Some(*key),
        _ => None,
    });
    let effects = bench.on(Event::Released { key: release.unwrap(), taken: Taken::No });
    let ours_until = effects.iter().find_map(|effect| match effect {
        Effect::Persist { lease, .. } => Some(*lease),
        _ => None,
    });
    assert_eq!(ours_until, Some(Some(Moment::LONG_AGO)), "{effects:?}");
}
