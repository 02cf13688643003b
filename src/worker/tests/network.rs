//! The network of a simulation: calls travel for a while, and some do not arrive.
//!
//! It also sees what nobody else does: reports that a worker begins though its lease has gone, and though it has not just
//! been told that the attempt is still its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;
use tonic::codegen::http::{Request, Response};
use tower::{Service as _, ServiceExt as _};

use crate::dev::{Board, BoardHandle};
use crate::orchestrator::{BrokenWay, Transport};
use crate::wire::pb;
use crate::worker::clock::standstill::VirtualClock;

/// Where calls go wrong, and how often.
pub(super) struct Network {
    started: Instant,
    board: BoardHandle,
    inner: Mutex<Inner>,
}

struct Inner {
    chance: ChaCha8Rng,
    /// Share of calls that go wrong by themselves.
    unreliable: f64,
    cut_off_until: BTreeMap<usize, Instant>,
    /// Until when the orchestrator is away, and its machine says so.
    away_until: Option<Instant>,
    /// The living process of each worker.
    alive: BTreeMap<usize, u32>,
    trace: Vec<String>,
    faults: u64,
    /// Answers to polls that did not arrive.
    lost_polls: u32,
    /// Reports that may have been counted without an answer, or twice.
    ambiguous_reports: u32,
    /// Until when attempts were under a lease at the latest.
    leases: BTreeMap<(String, u32), std::time::Instant>,
    /// When a worker was last answered to a question about an attempt.
    answered: BTreeMap<(String, u32), Instant>,
    /// Reports of attempts whose lease had gone.
    late_reports: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    Lost,
    AnswerLost,
    Twice,
    Refused,
}

pub(super) struct Tally {
    pub(super) trace: Vec<String>,
    pub(super) faults: u64,
    pub(super) lost_polls: u32,
    pub(super) ambiguous_reports: u32,
    pub(super) late_reports: Vec<String>,
}

/// A process of a worker, as the network knows it.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) worker: usize,
    pub(super) process: u32,
    pub(super) clock: Arc<VirtualClock>,
}

impl Network {
    pub(super) fn new(seed: u64, unreliable: f64, board: BoardHandle) -> Arc<Self> {
        let inner = Inner {
            chance: ChaCha8Rng::seed_from_u64(seed),
            unreliable,
            cut_off_until: BTreeMap::new(),
            away_until: None,
            alive: BTreeMap::new(),
            trace: Vec::new(),
            faults: 0,
            lost_polls: 0,
            ambiguous_reports: 0,
            leases: BTreeMap::new(),
            answered: BTreeMap::new(),
            late_reports: Vec::new(),
        };
        Arc::new(Self { started: Instant::now(), board, inner: Mutex::new(inner) })
    }

    fn with<R>(&self, look: impl FnOnce(&mut Inner) -> R) -> R {
        look(&mut self.inner.lock().unwrap())
    }

    pub(super) fn note(&self, what: &str) {
        let at = self.started.elapsed();
        self.with(|inner| inner.trace.push(format!("{at:?} {what}")));
    }

    pub(super) fn cut_off(&self, worker: usize, time: Duration) {
        self.note(&format!("w{worker} is cut off for {time:?}"));
        self.with(|inner| {
            inner.faults += 1;
            inner.cut_off_until.insert(worker, Instant::now() + time);
        });
    }

    /// The orchestrator ends, and is there again after `time`; it has kept what it knew.
    pub(super) fn restart(&self, time: Duration) {
        self.note(&format!("the orchestrator is away for {time:?}"));
        self.with(|inner| {
            inner.faults += 1;
            inner.away_until = Some(Instant::now() + time);
        });
    }

    /// A new process of a worker; what an earlier one sends goes nowhere.
    pub(super) fn born(&self, worker: usize) -> u32 {
        self.with(|inner| {
            let process = inner.alive.entry(worker).or_default();
            *process += 1;
            *process
        })
    }

    pub(super) fn killed(&self, worker: usize) {
        self.note(&format!("w{worker} is killed"));
        self.with(|inner| inner.faults += 1);
        self.born(worker);
    }

    /// A fault that is not the network's.
    pub(super) fn fault(&self, what: &str) {
        self.note(what);
        self.with(|inner| inner.faults += 1);
    }

    /// From now on everything arrives.
    pub(super) fn heal(&self) {
        self.note("the network is well");
        self.with(|inner| {
            inner.unreliable = 0.0;
            inner.cut_off_until.clear();
            inner.away_until = None;
        });
    }

    pub(super) fn tally(&self) -> Tally {
        self.with(|inner| Tally {
            trace: std::mem::take(&mut inner.trace),
            faults: inner.faults,
            lost_polls: inner.lost_polls,
            ambiguous_reports: inner.ambiguous_reports,
            late_reports: std::mem::take(&mut inner.late_reports),
        })
    }

    /// Whether nothing passes between that process and the orchestrator now.
    fn is_cut(&self, worker: usize, process: u32) -> bool {
        self.with(|inner| {
            let cut = inner.cut_off_until.get(&worker).is_some_and(|until| Instant::now() < *until);
            cut || inner.alive.get(&worker) != Some(&process)
        })
    }

    fn is_away(&self) -> bool {
        self.with(|inner| inner.away_until.is_some_and(|until| Instant::now() < until))
    }

    fn draw(&self, method: &str, worker: usize) -> (Fate, [Duration; 2]) {
        let at = self.started.elapsed();
        self.with(|inner| {
            let wrong = inner.unreliable > 0.0 && inner.chance.random_bool(inner.unreliable);
            let fates = [Fate::Lost, Fate::AnswerLost, Fate::Twice, Fate::Refused];
            let fate = if wrong { fates[inner.chance.random_range(0..fates.len())] } else { Fate::Arrives };
            let slow = inner.unreliable > 0.0 && inner.chance.random_bool(0.02);
            let most = if slow { 3.0 } else { 0.02 };
            let travel = [(); 2].map(|()| Duration::from_secs_f64(inner.chance.random_range(0.000_1..most)));
            inner.trace.push(format!("{at:?} w{worker} {method} {fate:?} {travel:?}"));
            inner.faults += u64::from(fate != Fate::Arrives);
            (fate, travel)
        })
    }

    /// Nobody hears `answer`: what it tells of was done all the same, unless it tells of an error.
    fn lose(&self, method: &str, answer: &Response<tonic::body::Body>) {
        if answer.headers().contains_key("grpc-status") {
            return;
        }
        self.with(|inner| match method {
            "AssignTask" => inner.lost_polls += 1,
            "ReportTaskCompletion" => inner.ambiguous_reports += 1,
            _ => {}
        });
    }

    /// Reads the leases off the board, since it changed.
    fn look_at_leases(&self) {
        let leases = self.board.read(Board::leases);
        self.with(|inner| {
            for (task, attempt, expires) in leases {
                let latest = inner.leases.entry((task.to_string(), attempt)).or_insert(expires);
                *latest = expires.max(*latest);
            }
        });
    }

    /// A report begins.
    fn judge(&self, caller: &Caller, report: &pb::TaskCompletionRequest) {
        let now = Instant::now();
        let attempt = (report.task_id.clone(), report.attempt);
        self.with(|inner| {
            let has_gone = inner.leases.get(&attempt).is_some_and(|until| *until < now.into_std());
            if has_gone && inner.answered.get(&attempt) != Some(&now) {
                inner.late_reports.push(format!(
                    "w{} at {:?}: {attempt:?}",
                    caller.worker,
                    self.started.elapsed()
                ));
            }
        });
    }

    /// An answer has come.
    fn came(&self, method: &str, request: &[u8]) {
        if method == "ReportProgress" {
            let question = message::<pb::TaskProgress>(request);
            let attempt = (question.task_id, question.attempt);
            self.with(|inner| inner.answered.insert(attempt, Instant::now()));
        }
    }

    /// The way of a process of a worker to `orchestrator`.
    pub(super) fn way(self: &Arc<Self>, caller: Caller, orchestrator: &Transport) -> Transport {
        let (network, orchestrator) = (Arc::clone(self), orchestrator.clone());
        Transport::new(tower::service_fn(move |request: Request<tonic::body::Body>| {
            let (network, orchestrator, caller) =
                (Arc::clone(&network), orchestrator.clone(), caller.clone());
            async move { network.carry(caller, request, orchestrator).await }
        }))
    }

    async fn carry(
        &self,
        caller: Caller,
        request: Request<tonic::body::Body>,
        mut orchestrator: Transport,
    ) -> Result<Response<tonic::body::Body>, BrokenWay> {
        let Caller { worker, process, .. } = caller;
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        if caller.clock.stands_still() {
            // It does not do that in truth, only its timers do: nobody hears of it.
            caller.clock.moving().await;
            return Err(BrokenWay("connection reset".into()));
        }
        let (fate, [there, back]) = self.draw(&method, worker);
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(axum::body::Body::new(body), usize::MAX)
            .await
            .map_err(|error| BrokenWay(error.into()))?;
        if method == "ReportTaskCompletion" {
            self.judge(&caller, &message(&body));
        }
        let request = || {
            let body = tonic::body::Body::new(axum::body::Body::from(body.clone()));
            Request::from_parts(parts.clone(), body)
        };
        tokio::time::sleep(there).await;
        if fate == Fate::Lost || self.is_cut(worker, process) {
            return std::future::pending().await;
        }
        if fate == Fate::Refused || self.is_away() {
            return Err(BrokenWay("connection reset".into()));
        }
        if fate == Fate::Twice {
            let first = orchestrator.ready().await?.call(request()).await?;
            self.lose(&method, &first);
        }
        let answer = orchestrator.ready().await?.call(request()).await?;
        self.look_at_leases();
        let way_back = WayBack { network: self, method: &method, answer: Some(answer) };
        tokio::time::sleep(back).await;
        // It is read when the process goes on.
        caller.clock.moving().await;
        if fate == Fate::AnswerLost || self.is_cut(worker, process) {
            drop(way_back);
            return std::future::pending().await;
        }
        if self.is_away() {
            return Err(BrokenWay("connection reset".into()));
        }
        self.came(&method, &body);
        way_back.arrive()
    }
}

/// The one message of a call, behind the head that gRPC gives it.
fn message<M: Message + Default>(body: &[u8]) -> M {
    const HEAD_BYTES: usize = 5;
    M::decode(&body[HEAD_BYTES..]).unwrap()
}

/// An answer under way, which is lost with whoever waits for it.
struct WayBack<'a> {
    network: &'a Network,
    method: &'a str,
    answer: Option<Response<tonic::body::Body>>,
}

impl WayBack<'_> {
    fn arrive(mut self) -> Result<Response<tonic::body::Body>, BrokenWay> {
        self.answer.take().ok_or_else(|| BrokenWay("it arrives once".into()))
    }
}

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Some(answer) = &self.answer {
            self.network.lose(self.method, answer);
        }
    }
}
