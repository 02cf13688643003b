//! The link over a real client, to orchestrators of the same process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant as StdInstant;

use tower::{Service as _, ServiceExt as _};

use super::*;
use crate::dev::{Contract, DevConfig, without_socket};
use crate::domain::{Backend, GpuInfo, WorkerPhase};
use crate::orchestrator::{Client, Transport};
use crate::worker::tests::Waiting;

/// GPUs that come and go.
struct Changing(watch::Sender<Arc<GpuSnapshot>>);

impl GpuProbe for Changing {
    fn snapshot(&self) -> Arc<GpuSnapshot> {
        Arc::clone(&self.0.borrow())
    }

    fn watch(&self) -> watch::Receiver<Arc<GpuSnapshot>> {
        self.0.subscribe()
    }
}

fn gpu() -> GpuInfo {
    GpuInfo {
        index: 0,
        uuid: "GPU-1".into(),
        name: "one".into(),
        memory_bytes: Some(1 << 30),
        pci_bus_id: String::new(),
        compute_capability: String::new(),
        driver_version: String::new(),
        mig: false,
    }
}

fn status(worker_id: WorkerId) -> WorkerStatus {
    WorkerStatus {
        worker_id,
        phase: WorkerPhase::Idle,
        reasons: Vec::new(),
        started_at: StdInstant::now(),
        slots_total: 1,
        slots_busy: 0,
        slots_polling: 0,
        tasks: Vec::new(),
        recent: Vec::new(),
        completed_tasks: 0,
        failed_tasks: 0,
        link: LinkState::Connecting,
        registered: false,
        last_heartbeat: None,
        backend: Backend::Analytic,
        outbox_pending: 0,
        state_dir_writable: true,
    }
}

#[tokio::test(start_paused = true)]
async fn a_contract_that_changed_meanwhile_is_noticed_when_gpus_are_told_anew() {
    let [extended, base] = [Contract::Extended, Contract::Base]
        .map(|contract| without_socket(&DevConfig { contract, ..DevConfig::default() }));
    let replaced = Arc::new(AtomicBool::new(false));
    let way = Transport::new(tower::service_fn({
        let (replaced, extended, base) = (Arc::clone(&replaced), extended.1, base.1);
        move |request| {
            let mut way = if replaced.load(Ordering::Relaxed) { base.clone() } else { extended.clone() };
            async move { way.ready().await?.call(request).await }
        }
    }));
    let worker_id = WorkerId::parse("w").unwrap();
    let gpus = Arc::new(Changing(watch::Sender::default()));
    let identity = Identity {
        worker_id: worker_id.clone(),
        address: String::new(),
        slots: 1,
        engine: Arc::new(Waiting::new(0)),
        gpus: Arc::clone(&gpus) as Arc<dyn GpuProbe>,
        unreported: Unreported::default(),
    };
    let (link, view) = Link::new(Arc::new(Client::over(way, worker_id.clone())), identity);
    let (_worker, handle) = WorkerHandle::fixed(status(worker_id));
    let (events, mut inbox) = mpsc::unbounded_channel();
    let told = async {
        let first = inbox.recv().await;
        assert!(matches!(first, Some(Event::LinkUp { generation: 1, mode: Mode::Extended })), "{first:?}");
        replaced.store(true, Ordering::Relaxed);
        gpus.0.send_replace(Arc::new(GpuSnapshot { gpus: vec![gpu()], ..GpuSnapshot::default() }));
        let lost = inbox.recv().await;
        assert!(matches!(lost, Some(Event::LinkDown { generation: 1 })), "{lost:?}");
        let second = inbox.recv().await;
        assert!(matches!(second, Some(Event::LinkUp { generation: 2, mode: Mode::Base })), "{second:?}");
    };
    tokio::select! {
        ended = link.run(handle, events, CancellationToken::new()) => panic!("{ended:?}"),
        told = tokio::time::timeout(Duration::from_secs(300), told) => told.expect("the link hears of it"),
    }
    assert_eq!(view.mode(), Some(Mode::Base));
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_orchestrator_leaves_a_worker_registered_and_an_outage_does_not() {
    let base = Registered { mode: Mode::Base, heartbeat_interval: None, lease: None };
    let mut link = LinkNow::first();
    link.miss(LinkState::Disconnected);
    assert!(!link.is_registered(), "it never was");
    link.connect(base);
    tokio::time::advance(OUTAGE * 2).await;
    assert!(link.is_registered(), "for as long as it is connected");
    link.miss(LinkState::Disconnected);
    tokio::time::advance(OUTAGE / 2).await;
    link.miss(LinkState::Connecting);
    assert!(link.is_registered());
    tokio::time::advance(OUTAGE / 2).await;
    assert!(!link.is_registered(), "a try is no connection");
    link.connect(base);
    assert!(link.is_registered());
}

#[tokio::test]
async fn any_answer_stands_for_a_heartbeat_only_where_there_are_none() {
    for (mode, stands) in [(Mode::Base, true), (Mode::Extended, false)] {
        let mut now = LinkNow::first();
        now.connect(Registered { mode, heartbeat_interval: None, lease: None });
        let (_now, now) = latest::channel(now);
        let view = LinkView { now, losses: mpsc::unbounded_channel().0, last_heartbeat: Arc::default() };
        let heard = || view.last_heartbeat.lock().unwrap().is_some();
        view.contact();
        assert_eq!(heard(), stands, "{mode:?}");
        view.beat();
        assert!(heard());
    }
}
