//! Both ways of the pipe between worker and runner, with bytes that neither would send.

use bytes::Bytes;

use super::super::confinement::Tried;
use super::super::frames::{Frames, encode};
use super::super::messages::{
    Ended, FromRunner, News, Order, Setup, Started, Stepped, Stop, Submit, ToRunner, pack, unpack,
};
use super::*;
use crate::domain::{Metrics, Progress, TaskResult};
use crate::engine::Step;
use crate::fuzz;

/// Reads all messages that `bytes` has, which come in two pieces.
fn read<M: prost::Message + Default>(bytes: &[u8], mut hear: impl FnMut(M)) {
    let mut frames = Frames::default();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for piece in [first, second] {
        frames.push(piece);
        loop {
            match frames.next() {
                Ok(Some(message)) => hear(message),
                Ok(None) => break,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
            }
        }
    }
}

#[test]
fn fuzz_what_a_runner_says() {
    let confinement = Confinement {
        landlock_abi: 7,
        no_new_privs: true,
        undumpable: true,
        memory_limit_bytes: Some(1 << 30),
        read_outside: Tried::Denied,
        write_to_data: Tried::Allowed,
        connect: Tried::NotTried,
        missing: vec!["something".to_owned()],
    };
    let progress = Progress { step: 3, total_steps: 100, loss: 0.5, ..Progress::default() };
    let steps = [Step { duration: Duration::from_millis(3), samples: 32 }; 3];
    let result = TaskResult {
        train: Metrics { loss: 0.5, accuracy: 0.9 },
        validation: Some(Metrics { loss: 0.6, accuracy: 0.8 }),
        samples: 3200,
        steps: 100,
        backend: Backend::Cpu,
        device: "cpu".to_owned(),
        weights: Bytes::from_static(b"weights"),
        reference: None,
    };
    let finished = |ending| Finished { ending, notes: vec!["a note".to_owned()] };
    let job = JobId::parse("job").unwrap();
    let refused = finished(Err(TaskError::new(ErrorCode::Diverged, "loss is NaN")));
    let all = [
        News::ready(&confinement).unwrap(),
        News::Started(Started::new(1, Backend::Cpu)),
        News::Stepped(Stepped::new(1, &progress, &steps)),
        News::Ended(Box::new(Ended::new(1, finished(Ok(result)), std::slice::from_ref(&job)))),
        News::Ended(Box::new(Ended::new(2, refused, &[]))),
    ];
    let mut good: Vec<Vec<u8>> =
        all.into_iter().map(|news| encode(&FromRunner { news: Some(news) }).to_vec()).collect();
    good.push(good.concat());
    fuzz::run("what a runner says", &good, |bytes| {
        read(bytes, |message: FromRunner| match message.news {
            None => {}
            Some(News::Ready(packed)) => {
                if let Ok(confinement) = unpack::<Confinement>(&packed) {
                    assert!(!confinement.to_string().is_empty());
                }
            }
            Some(News::Started(started)) => drop(started.backend()),
            Some(News::Stepped(stepped)) => {
                let _ = (stepped.progress(), stepped.steps().count());
            }
            Some(News::Ended(ended)) => {
                let _ = ended.warm.iter().filter_map(|job| JobId::parse(job).ok()).count();
                let _ = ended.finished();
            }
        });
    });
}

#[test]
fn fuzz_what_a_worker_says() {
    let config = config();
    let setup = Setup {
        backend: Backend::Cpu,
        gpu: Some("0000:01:00.0".to_owned()),
        allow_software_adapter: false,
        data: config.data,
        state_dir: Some("state".into()),
        models_to: None,
        idle_sessions: 4,
        session_memory_bytes: 1 << 30,
        idle_time: Duration::from_secs(600),
        memory_limit_bytes: Some(1 << 30),
        log: "info".to_owned(),
    };
    let mut spec = task("job", "neural_network", 2, 100..200);
    spec.initial_weights = Bytes::from_static(b"weights");
    let stop = Stop { number: 1, reason: TaskError::new(ErrorCode::TimedOut, "too long").into() };
    let all = [
        Order::Setup(pack(&setup).unwrap()),
        Order::Submit(Submit::new(1, &spec, 2, Some("00-1-2-01")).unwrap()),
        Order::Stop(stop),
        Order::Forget("job".to_owned()),
    ];
    let mut good: Vec<Vec<u8>> =
        all.into_iter().map(|order| encode(&ToRunner { order: Some(order) }).to_vec()).collect();
    good.push(good.concat());
    fuzz::run("what a worker says", &good, |bytes| {
        read(bytes, |message: ToRunner| match message.order {
            None => {}
            Some(Order::Setup(packed)) => {
                if let Ok(setup) = unpack::<Setup>(&packed) {
                    let _ = setup.limits();
                }
            }
            Some(Order::Submit(submit)) => {
                if let Ok(task) = submit.task() {
                    assert_eq!(
                        JobId::parse(task.identity.job_id.as_str()).as_ref(),
                        Ok(&task.identity.job_id)
                    );
                }
            }
            Some(Order::Stop(stop)) => drop(TaskError::from(stop.reason)),
            Some(Order::Forget(job)) => drop(JobId::parse(&job)),
        });
    });
}
