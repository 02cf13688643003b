//! Two hundred workers come back after an outage.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tensorfleet_worker::dev::{Contract, DevConfig, DevOrchestrator};
use tensorfleet_worker::domain::{HostUsage, Strictness, WorkerId};
use tensorfleet_worker::engine::{self, Engine, TrainingEngine};
use tensorfleet_worker::gpu::{GpuProbe, NoGpus};
use tensorfleet_worker::orchestrator::{self, Client};
use tensorfleet_worker::telemetry::host::HostProbe;
use tensorfleet_worker::worker::{self, Collaborators, StateFolder, Worker, WorkerHandle};
use tracing::field::Field;
use tracing::{Event, Instrument as _, Span, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::support::middleman::{Deed, Middleman};
use crate::support::*;

const WORKERS: usize = 200;

/// How long nobody is there.
const OUTAGE: Duration = Duration::from_secs(10);

/// Most that may come within [`WINDOW`]: of 200 that came at the same moment all would.
const MOST_IN_A_WINDOW: usize = 40;
const WINDOW: Duration = Duration::from_millis(100);

/// When workers of this process mean to come back, as they log it, by the span that they run in. A busy machine lets them
/// come later, and together.
#[derive(Clone, Default)]
struct Wishes(Arc<Mutex<Vec<(&'static str, Instant)>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Wishes {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        event.record(&mut |field: &Field, value: &dyn Debug| {
            if field.name() == "retry_in_seconds" {
                let wait = format!("{value:?}").parse().unwrap();
                let of = context.event_scope(event).unwrap().from_root().next().unwrap().name();
                self.0.lock().unwrap().push((of, Instant::now() + Duration::from_secs_f32(wait)));
            }
        });
    }
}

/// The span of the workers of an orchestrator.
fn span_of(contract: Contract) -> Span {
    match contract {
        Contract::Base => tracing::error_span!("base"),
        Contract::Extended => tracing::error_span!("extended"),
    }
}

fn engine(folder: &std::path::Path) -> Arc<dyn Engine> {
    let folder = folder.to_str().unwrap();
    let set = [("TRAINING_BACKEND", "analytic"), ("ANALYTIC_EPOCH_DELAY", "50ms"), ("STATE_DIR", folder)];
    let environment = tensorfleet_worker::config::Environment::from_iter(
        set.map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let layers = tensorfleet_worker::cli::ConfigFlags::default().over(&environment);
    let config: engine::Config = tensorfleet_worker::config::Config::resolve(&layers).unwrap().config.engine;
    Arc::new(TrainingEngine::new(config).unwrap())
}

/// A worker inside of this process.
fn start(
    number: usize,
    address: &str,
    folder: &std::path::Path,
    (engine, span): (&Arc<dyn Engine>, &Span),
) -> WorkerHandle {
    let worker_id = WorkerId::parse(&format!("w{number}")).unwrap();
    let config = worker::Config {
        worker_id: Some(worker_id.clone()),
        state_dir: folder.join(worker_id.as_str()),
        slots: 1,
        heartbeat_interval: Duration::from_secs(2),
        task_timeout: Duration::from_secs(300),
        max_task_retries: 2,
        drain_timeout: Duration::from_secs(30),
    };
    let state = StateFolder::open(&config, |_| {}).unwrap();
    let client_config = orchestrator::Config::parse(address).unwrap();
    let metrics = orchestrator::Metrics::new();
    let client = Client::new(client_config, worker_id, Strictness::Warn, metrics).unwrap();
    let with = Collaborators {
        orchestrator: Arc::new(client),
        engine: Arc::clone(engine),
        gpus: Arc::new(NoGpus) as Arc<dyn GpuProbe>,
        host: HostProbe::fixed(HostUsage::default()),
        address: String::new(),
        metrics: worker::Metrics::new().unwrap(),
        traces: tensorfleet_worker::telemetry::traces::Traces::default(),
    };
    let worker = Worker::new(config, state, with);
    let handle = worker.handle();
    spawn(worker.run().instrument(span.clone()));
    handle
}

#[test]
fn two_hundred_workers_come_back_after_an_outage_without_a_spike() {
    let wishes = Wishes::default();
    tracing_subscriber::registry().with(wishes.clone().with_filter(LevelFilter::WARN)).init();
    at_once(BOTH.map(|contract| come_back(contract, wishes.clone())));
}

async fn come_back(contract: Contract, wishes: Wishes) {
    let folder = tempfile::tempdir().unwrap();
    let config = DevConfig { lease: Duration::from_secs(60), ..config(contract) };
    let first = DevOrchestrator::start(config.clone()).await.unwrap();
    let (address, board) = (first.local_addr(), first.board().clone());
    let engine = engine(folder.path());
    let middleman = Middleman::start(address, |_, _| Deed::Carry).await;
    let (to, span) = (middleman.address.to_string(), span_of(contract));
    let workers: Vec<_> = (0..WORKERS).map(|n| start(n, &to, folder.path(), (&engine, &span))).collect();
    let job = submit(address, simulated_job(100)).await;
    let all = board.wait_for(|board| (board.worker_activity().len() == WORKERS).then_some(()));
    tokio::time::timeout(PATIENCE, all).await.expect("all have come");
    first.shutdown().await;
    tokio::time::sleep(OUTAGE).await;
    let back = Instant::now();
    let second = DevOrchestrator::resume(DevConfig { listen: address, ..config }, &board).await.unwrap();
    let returned = || middleman.calls("register_worker").into_iter().filter(|call| *call > back).count();
    // Without heartbeats some need not notice that the orchestrator was away.
    let some = if contract == Contract::Base { WORKERS / 4 } else { WORKERS };
    eventually("they are back", || returned() >= some);
    let name = span.metadata().unwrap().name();
    let said = wishes.0.lock().unwrap().clone();
    let mine = said.into_iter().filter(|(of, _)| *of == name).map(|(_, time)| time);
    let mut wished: Vec<_> = mine.filter(|time| *time > back).collect();
    wished.sort_unstable();
    let window =
        |from: &Instant| wished.iter().filter(|time| (*from..*from + WINDOW).contains(*time)).count();
    let most = wished.iter().map(window).max().unwrap();
    println!(
        "{contract:?}: {} attempts over {:?}, at most {most} in {WINDOW:?}",
        wished.len(),
        *wished.last().unwrap() - back
    );
    assert!(wished.len() >= some / 2, "{} attempts", wished.len());
    assert!(most <= MOST_IN_A_WINDOW, "{most} came within {WINDOW:?}");
    wait_for_end(&board, &job).await;
    assert_each_once(&board, &job, 1_000);
    for worker in workers {
        worker.drain(None);
    }
    second.shutdown().await;
}
