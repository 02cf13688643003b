//! No sequence of events leaks a slot, reports a task twice, or loses an outcome.
//!
//! A little world stands around the state machine: it holds what is under way (polls, questions, tries, writes,
//! waits) and lets chance choose what happens next, late and repeated events among it. In the end it drains, lets
//! everything that is under way come back, and counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{failure, success, task};
use super::*;
use crate::domain::{ErrorCode, InvalidField, ModelType};
use crate::wire::RejectedTask;

/// One thing that chance may choose, with a number that picks among what is under way.
#[derive(Debug, Clone, Copy)]
enum Chance {
    LinkUp { base: bool },
    LinkDown,
    PollBrings { which: u8, attempt: u8 },
    PollBringsBad { which: u8, attempt: u8 },
    PollEmpty,
    PollFails,
    Execute { which: u8 },
    JobAnswer { wanted: bool },
    Finish { pick: u8, how: u8 },
    FinishAgain { pick: u8 },
    TimeOut { pick: u8 },
    RetryDue { pick: u8 },
    Cancel { which: u8, up_to: Option<u8> },
    CancelJob,
    Written { pick: u8 },
    GivenBack { pick: u8, taken: bool },
    Storage { writable: bool },
    HeldList { writable: bool },
    Engine { able: bool },
    Drain,
    Abort,
    Abandon,
    Pass { seconds: u8 },
    Renew { which: u8, late: u8 },
    Resume { which: u8, attempt: u8 },
}

fn chance() -> impl Strategy<Value = Chance> {
    prop_oneof![
        3 => any::<bool>().prop_map(|base| Chance::LinkUp { base }),
        1 => Just(Chance::LinkDown),
        8 => (0..12_u8, 0..4_u8).prop_map(|(which, attempt)| Chance::PollBrings { which, attempt }),
        1 => (0..12_u8, 0..4_u8).prop_map(|(which, attempt)| Chance::PollBringsBad { which, attempt }),
        2 => Just(Chance::PollEmpty),
        1 => Just(Chance::PollFails),
        4 => (0..12_u8).prop_map(|which| Chance::Execute { which }),
        4 => prop::bool::weighted(0.8).prop_map(|wanted| Chance::JobAnswer { wanted }),
        10 => (any::<u8>(), 0..6_u8).prop_map(|(pick, how)| Chance::Finish { pick, how }),
        1 => any::<u8>().prop_map(|pick| Chance::FinishAgain { pick }),
        2 => any::<u8>().prop_map(|pick| Chance::TimeOut { pick }),
        4 => any::<u8>().prop_map(|pick| Chance::RetryDue { pick }),
        2 => (0..12_u8, prop::option::of(0..4_u8)).prop_map(|(which, up_to)| Chance::Cancel { which, up_to }),
        1 => Just(Chance::CancelJob),
        8 => any::<u8>().prop_map(|pick| Chance::Written { pick }),
        4 => any::<(u8, bool)>().prop_map(|(pick, taken)| Chance::GivenBack { pick, taken }),
        1 => any::<bool>().prop_map(|writable| Chance::Storage { writable }),
        1 => any::<bool>().prop_map(|writable| Chance::HeldList { writable }),
        1 => any::<bool>().prop_map(|able| Chance::Engine { able }),
        1 => Just(Chance::Drain),
        1 => Just(Chance::Abort),
        1 => Just(Chance::Abandon),
        3 => (0..12_u8).prop_map(|seconds| Chance::Pass { seconds }),
        5 => (0..12_u8, 0..12_u8).prop_map(|(which, late)| Chance::Renew { which, late }),
        1 => (0..12_u8, 0..4_u8).prop_map(|(which, attempt)| Chance::Resume { which, attempt }),
    ]
}

const SLOTS: u32 = 3;

struct World {
    state: State,
    now: Moment,
    /// Records that ended under a lost lease.
    given_up: BTreeSet<Key>,
    resumed: u32,
    generation: u64,
    /// Generation and places of the polls that are out.
    polls: Vec<(u64, u32)>,
    questions: Vec<JobId>,
    /// Tries in the engine, with the code they were asked to stop with.
    tries: BTreeMap<RunId, Option<ErrorCode>>,
    ended_tries: Vec<RunId>,
    waits: Vec<RunId>,
    writes: Vec<Key>,
    releases: Vec<Key>,
    /// Records that owe the orchestrator an answer.
    owed: BTreeSet<Key>,
    waiting: BTreeSet<Waiter>,
    answered: BTreeSet<Waiter>,
    next_waiter: u64,
    persisted: BTreeMap<Key, u32>,
    released: BTreeMap<Key, u32>,
    /// How often an attempt came by poll, or from an earlier process.
    handed_out: BTreeMap<TaskIdentity, u32>,
    /// How often one was reported or given back.
    reported: BTreeMap<TaskIdentity, u32>,
    drained: u32,
}

impl World {
    fn new() -> Self {
        Self {
            state: State::new(Limits { slots: SLOTS, max_task_retries: 2 }),
            now: Moment::LONG_AGO.after(Duration::from_secs(1_000)),
            given_up: BTreeSet::new(),
            resumed: 0,
            generation: 0,
            polls: Vec::new(),
            questions: Vec::new(),
            tries: BTreeMap::new(),
            ended_tries: Vec::new(),
            waits: Vec::new(),
            writes: Vec::new(),
            releases: Vec::new(),
            owed: BTreeSet::new(),
            waiting: BTreeSet::new(),
            answered: BTreeSet::new(),
            next_waiter: 0,
            persisted: BTreeMap::new(),
            released: BTreeMap::new(),
            handed_out: BTreeMap::new(),
            reported: BTreeMap::new(),
            drained: 0,
        }
    }

    fn on(&mut self, event: Event) {
        let handed_out: Vec<TaskIdentity> = match &event {
            Event::PollEnded { polled: Polled::Tasks(tasks), .. } => tasks.iter().map(identity_of).collect(),
            Event::Resumed { tasks } => tasks.iter().map(|task| task.identity.clone()).collect(),
            _ => Vec::new(),
        };
        for identity in handed_out {
            *self.handed_out.entry(identity).or_default() += 1;
        }
        let ended_before = self.all_ended();
        let before: BTreeSet<Key> = self.state.records.keys().copied().collect();
        let mut effects = Vec::new();
        transition(&mut self.state, self.now, event, &mut effects);
        ask(&mut self.state, &mut effects);
        let mut ended = 0;
        for effect in effects {
            match effect {
                Effect::Poll { generation, places, .. } => {
                    assert!(self.state.troubles().next().is_none(), "nothing is asked for in trouble");
                    self.polls.push((generation, places));
                }
                Effect::CheckJob { job } => self.questions.push(job),
                Effect::Submit { run, .. } => assert!(self.tries.insert(run, None).is_none()),
                Effect::Stop { run, reason } => {
                    let told = self.tries.get_mut(&run).expect("only a try that runs is stopped");
                    // The first reason counts, as in the engine.
                    told.get_or_insert(reason.code);
                }
                Effect::Retry { run, .. } => self.waits.push(run),
                Effect::Persist { key, outcome, .. } => {
                    *self.reported.entry(outcome.identity.clone()).or_default() += 1;
                    let lease = self.state.records.get(&key).and_then(|record| record.lease);
                    assert!(
                        !lease.is_some_and(|lease| lease.is_over(self.now)),
                        "written under a lost lease"
                    );
                    *self.persisted.entry(key).or_default() += 1;
                    self.writes.push(key);
                }
                Effect::Release { key, .. } => self.releases.push(key),
                Effect::Answer { waiter, .. } => {
                    assert!(self.waiting.remove(&waiter), "{waiter:?} was answered and did not wait");
                    assert!(self.answered.insert(waiter));
                }
                Effect::AnswerCancel { .. } => {}
                Effect::Ended { .. } => ended += 1,
                Effect::Lost { .. } => {
                    assert!(self.state.storage_trouble.is_some());
                    assert_eq!(self.state.admission, Admission::Abandoned);
                    // Among them what came, was refused and was lost within this one event.
                    self.owed.extend(self.writes.iter().filter(|key| !self.state.records.contains_key(key)));
                    self.writes.retain(|key| self.state.records.contains_key(key));
                }
                Effect::Drained => self.drained += 1,
            }
        }
        assert_eq!(self.all_ended() - ended_before, ended);
        let gone = before.iter().filter(|key| !self.state.records.contains_key(key));
        let settled = |key: &Key| self.persisted.contains_key(key) || self.released.contains_key(key);
        self.given_up.extend(gone.filter(|key| !settled(key)));
        self.owed.extend(self.state.records.iter().filter(|(_, record)| record.polled).map(|(key, _)| *key));
        self.check();
    }

    fn all_ended(&self) -> u64 {
        self.state.completed + self.state.failed + self.state.cancelled
    }

    /// What holds after every event.
    fn check(&self) {
        let running = self.state.records.values().filter(|r| matches!(r.stage, Stage::Running(_))).count();
        assert_eq!(running, self.tries.len(), "the engine has what the records say");
        assert!(running <= SLOTS as usize);
        assert_eq!(self.state.polls as usize, self.polls.len());
        let places: u32 = self.polls.iter().map(|(_, places)| places).sum();
        assert_eq!(self.state.polled_places, places);
        assert!(places <= SLOTS);
        assert!(
            self.state.records.len() <= (2 * SLOTS + self.resumed) as usize,
            "each slot holds one task, or a poll may bring one"
        );
        let writing = self.state.records.values().filter(|r| matches!(r.stage, Stage::Persisting(_))).count();
        assert_eq!(writing, self.writes.len());
        let releasing =
            self.state.records.values().filter(|r| matches!(r.stage, Stage::Releasing(_))).count();
        assert_eq!(releasing, self.releases.len());
        assert!(self.persisted.values().chain(self.released.values()).all(|times| *times == 1));
        for (attempt, times) in &self.reported {
            let handed_out = self.handed_out.get(attempt).copied().unwrap_or_default();
            assert!(
                *times <= handed_out,
                "{attempt:?} was reported {times} times, and came {handed_out} times"
            );
        }
        let both = self.persisted.keys().any(|key| self.released.contains_key(key));
        assert!(!both, "a task is reported or given back");
        let waiters: usize = self.state.records.values().map(|record| record.waiters.len()).sum();
        assert_eq!(waiters, self.waiting.len(), "everyone who waits is known to a record");
        for record in self.state.records.values() {
            if let Stage::Running(run) = record.stage {
                let lost = record.lease.is_some_and(|lease| lease.is_over(self.now));
                assert!(!lost || self.tries[&run].is_some(), "nothing runs on under a lost lease");
            }
        }
        let runnable = |record: &Record| record.stage == Stage::Ready && record.holds(self.now);
        let ready = self.state.records.values().any(runnable);
        assert!(!ready || running == SLOTS as usize, "a task that is ready runs when there is a place");
    }

    fn happen(&mut self, chance: Chance) {
        let pick_from = |len: usize, pick: u8| (len > 0).then(|| usize::from(pick) % len);
        match chance {
            Chance::LinkUp { base } => {
                self.generation += 1;
                let mode = if base { Mode::Base } else { Mode::Extended };
                self.on(Event::LinkUp { generation: self.generation, mode });
            }
            Chance::LinkDown => self.on(Event::LinkDown { generation: self.generation }),
            Chance::PollBrings { which, attempt } => {
                // As many as were asked for, of neighbouring names.
                let places = self.polls.last().map_or(1, |(_, places)| *places as u8);
                let tasks = (0..places).map(|more| Ok(leased((which + more) % 12, attempt)));
                self.end_poll(Polled::Tasks(tasks.collect()));
            }
            Chance::PollBringsBad { which, attempt } => {
                let identity = leased(which, attempt).identity;
                let error = InvalidField::new("batch_end", "3", "more than batch_start (5)");
                let model = ModelType::parse("test").expect("a valid type");
                let rejected = RejectedTask { identity, model, epoch: 0, error };
                self.end_poll(Polled::Tasks(vec![Err(Box::new(rejected))]));
            }
            Chance::PollEmpty => self.end_poll(Polled::Empty),
            Chance::PollFails => self.end_poll(Polled::Failed),
            Chance::Execute { which } => {
                self.next_waiter += 1;
                let waiter = Waiter(self.next_waiter);
                self.waiting.insert(waiter);
                self.on(Event::Execute { task: task(&format!("t{which}"), 0), waiter });
            }
            Chance::JobAnswer { wanted } => {
                if let Some(job) = self.questions.pop() {
                    self.on(Event::JobChecked { job, wanted });
                }
            }
            Chance::Finish { pick, how } => {
                if let Some(n) = pick_from(self.tries.len(), pick) {
                    self.finish(n, how);
                }
            }
            Chance::FinishAgain { pick } => {
                if let Some(n) = pick_from(self.ended_tries.len(), pick) {
                    let run = self.ended_tries[n];
                    self.on(Event::Finished {
                        run,
                        finished: success(),
                        duration: Duration::ZERO,
                        energy_joules: None,
                    });
                }
            }
            Chance::TimeOut { pick } => {
                if let Some(n) = pick_from(self.tries.len(), pick) {
                    let run = *self.tries.keys().nth(n).expect("picked among them");
                    self.on(Event::TimedOut { run, limit: Duration::from_secs(1) });
                }
            }
            Chance::RetryDue { pick } => {
                if let Some(n) = pick_from(self.waits.len(), pick) {
                    let run = self.waits.swap_remove(n);
                    self.on(Event::RetryDue { run });
                }
            }
            Chance::Cancel { which, up_to } => {
                let task = TaskId::parse(&format!("t{which}")).expect("a valid id");
                let up_to = up_to.map(u32::from);
                self.on(Event::Cancel { task, up_to, reason: "unwanted", waiter: None });
            }
            Chance::CancelJob => {
                let job = JobId::parse("job").expect("a valid id");
                self.on(Event::CancelJob { job, reason: "unwanted" });
            }
            Chance::Written { pick } => {
                if let Some(n) = pick_from(self.writes.len(), pick) {
                    let key = self.writes.swap_remove(n);
                    self.on(Event::Persisted { key });
                }
            }
            Chance::GivenBack { pick, taken } => {
                if let Some(n) = pick_from(self.releases.len(), pick) {
                    let key = self.releases.swap_remove(n);
                    if taken {
                        *self.released.entry(key).or_default() += 1;
                        let identity = self.state.records[&key].identity();
                        *self.reported.entry(identity).or_default() += 1;
                    }
                    let taken = if taken { Taken::Yes } else { Taken::No };
                    self.on(Event::Released { key, taken });
                }
            }
            Chance::Storage { writable } => self.on(Event::Storage { trouble: trouble(writable) }),
            Chance::HeldList { writable } => self.on(Event::HeldList { trouble: trouble(writable) }),
            Chance::Engine { able } => self.on(Event::Engine { trouble: trouble(able) }),
            Chance::Drain => self.on(Event::Drain),
            Chance::Abort => self.on(Event::Abort { reason: "the worker was stopped" }),
            Chance::Pass { seconds } => {
                self.now = self.now.after(Duration::from_secs(seconds.into()));
                self.on(Event::Tick);
            }
            Chance::Renew { which, late } => {
                let asked = self.now;
                self.now = self.now.after(Duration::from_secs(late.into()));
                let task = TaskId::parse(&format!("t{which}")).expect("a valid id");
                self.on(Event::Renewed {
                    tasks: (1..4).map(|attempt| (task.clone(), attempt)).collect(),
                    asked,
                });
            }
            Chance::Resume { which, attempt } => {
                // Only a process that has just started has any.
                if self.generation == 0 && self.state.records.is_empty() && self.ended_tries.is_empty() {
                    self.resumed += 1;
                    self.on(Event::Resumed { tasks: vec![*leased(which, attempt)] });
                }
            }
            Chance::Abandon => {
                self.on(Event::Abort { reason: "the worker was stopped" });
                // What the engine still works on is left behind, and may end late.
                self.ended_tries.extend(std::mem::take(&mut self.tries).into_keys());
                self.on(Event::Abandon);
            }
        }
    }

    fn end_poll(&mut self, polled: Polled) {
        if let Some((generation, places)) = self.polls.pop() {
            self.on(Event::PollEnded { generation, asked: self.now, places, polled });
        }
    }

    fn finish(&mut self, n: usize, how: u8) {
        let run = *self.tries.keys().nth(n).expect("picked among them");
        let told = self.tries.remove(&run).expect("picked among them");
        self.ended_tries.push(run);
        let finished = match (told, how) {
            (Some(code), 1..) => failure(code),
            (_, 0..3) => success(),
            (_, 3) => failure(ErrorCode::Diverged),
            _ => failure(ErrorCode::DeviceLost),
        };
        self.on(Event::Finished { run, finished, duration: Duration::ZERO, energy_joules: None });
    }

    /// Drains and lets come back what is under way, until nothing is.
    fn come_to_rest(&mut self) {
        self.on(Event::Drain);
        self.generation += 1;
        self.on(Event::LinkUp { generation: self.generation, mode: Mode::Extended });
        for _ in 0..1_000 {
            self.happen(Chance::Pass { seconds: 1 });
            self.happen(Chance::PollEmpty);
            self.happen(Chance::JobAnswer { wanted: true });
            self.happen(Chance::Finish { pick: 0, how: 0 });
            self.happen(Chance::RetryDue { pick: 0 });
            self.happen(Chance::Written { pick: 0 });
            self.happen(Chance::GivenBack { pick: 0, taken: true });
            if self.drained > 0 && self.state.records.is_empty() {
                break;
            }
        }
        assert_eq!(self.drained, 1, "a drain ends, and ends once: {:?}", self.state);
        assert!(self.state.records.is_empty() && self.waiting.is_empty());
        if self.state.admission != Admission::Abandoned {
            assert!(self.polls.is_empty());
            assert_eq!(self.state.free_slots(), SLOTS);
        }
        let settled: BTreeSet<Key> = self.persisted.keys().chain(self.released.keys()).copied().collect();
        let given_up: BTreeSet<Key> = self.given_up.intersection(&self.owed).copied().collect();
        assert!(settled.is_disjoint(&given_up));
        let all: BTreeSet<Key> = settled.union(&given_up).copied().collect();
        assert_eq!(
            all, self.owed,
            "what a poll brought is reported, given back or lost, and nothing else is"
        );
        self.on(Event::Drain);
        self.on(Event::Abort { reason: "again" });
        assert_eq!(self.drained, 1);
    }
}

fn identity_of(claimed: &ClaimedTask) -> TaskIdentity {
    match claimed {
        Ok(task) => task.identity.clone(),
        Err(rejected) => rejected.identity.clone(),
    }
}

fn trouble(is_well: bool) -> Option<String> {
    (!is_well).then(|| "no room".to_owned())
}

/// A task whose lease lasts ten seconds, where the orchestrator counts attempts.
fn leased(which: u8, attempt: u8) -> Box<TaskSpec> {
    let mut task = task(&format!("t{which}"), attempt.into());
    task.lease = (attempt > 0).then_some(Duration::from_secs(10));
    task
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_slot_leaks_nothing_is_reported_twice_and_nothing_is_lost(
        chances in prop::collection::vec(chance(), 0..120),
    ) {
        let mut world = World::new();
        world.on(Event::LinkUp { generation: 0, mode: Mode::Extended });
        for chance in chances {
            world.happen(chance);
        }
        world.come_to_rest();
    }
}
