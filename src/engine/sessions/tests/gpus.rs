//! Sessions on several GPUs: who gets which, who waits, and what becomes of a lost one.

use std::sync::Mutex;

use super::*;
use crate::domain::{Hyperparameters, Progress};
use crate::engine::Observer;
use crate::engine::cards::tests::{Told, machine};
use crate::engine::cards::{GpuCondition, GpuWatch};
use crate::engine::control::Step;
use crate::engine::placement::cards::estimate;

/// Sessions on `count` GPUs with room for `each` puppets.
fn on_gpus(count: usize, each: u64) -> (Sessions, Arc<Told>) {
    let need = estimate(&PUPPETS, &Hyperparameters::default());
    let (search, told) = machine(count, each * need + 1);
    let cards = Arc::new(Cards::new(search, Some(Arc::clone(&told) as Arc<dyn GpuWatch>)));
    (Sessions::new(SessionLimits::default(), config().data, None, cards), told)
}

fn submit(sessions: &Sessions, job: &str, epoch: u32, control: &Arc<Control>) -> Receiver<Finished> {
    let task = puppet(job, epoch, 0..1);
    let plan = SessionPlan {
        entry: &PUPPETS,
        dataset_path: task.dataset_path.clone(),
        hyperparameters: task.hyperparameters.clone(),
        seed: 1,
        device: ComputeDevice { backend: Backend::Wgpu, ..ComputeDevice::cpu() },
    };
    submit_plan(sessions, plan, task, control)
}

/// The name of the device that trained.
fn device(finished: &Receiver<Finished>) -> String {
    wait_for(finished).ending.unwrap().device
}

/// Keeps the GPU that it is told of.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<String>>>);

impl Observer for Ear {
    fn on_gpu(&self, uuid: &str) {
        self.0.lock().unwrap().push(uuid.to_owned());
    }
    fn started(&self, _: Backend) {}
    fn stepped(&self, _: &Progress, _: Step) {}
}

#[test]
fn jobs_spread_over_the_gpus_and_each_keeps_its_own() {
    let (sessions, _) = on_gpus(2, 4);
    let devices: Vec<_> =
        ["a", "b", "c", "d", "a", "b"].map(|job| device(&submit(&sessions, job, FINE, &quiet()))).into();
    assert_eq!(devices, ["card 0", "card 1", "card 0", "card 1", "card 0", "card 1"]);
    let ear = Ear::default();
    device(&submit(&sessions, "b", FINE, &Arc::new(Control::new(ear.clone()))));
    assert_eq!(*ear.0.lock().unwrap(), ["GPU-1"], "whoever measures hears the UUID");
}

#[test]
fn what_does_not_fit_waits_for_an_idle_session_to_leave() {
    let (sessions, _) = on_gpus(1, 1);
    let (first, second, third) = (quiet(), quiet(), quiet());
    let running = submit(&sessions, "a", STUCK, &first);
    let waiting = submit(&sessions, "b", FINE, &second);
    let unwanted = submit(&sessions, "c", FINE, &third);
    assert!(waiting.recv_timeout(Duration::from_millis(300)).is_err(), "the GPU is full");
    stop(&third);
    assert_eq!(unwanted.try_recv().expect("it ends at once").ending.unwrap_err().code, ErrorCode::Cancelled);
    stop(&first);
    assert_eq!(wait_for(&running).ending.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(device(&waiting), "card 0", "the idle session of the other job left");
}

#[test]
fn a_lost_gpu_fails_its_tasks_as_such_and_the_next_try_is_elsewhere() {
    let (sessions, told) = on_gpus(2, 4);
    let lost = submit(&sessions, "a", DEVICE_PANIC, &quiet());
    let error = wait_for(&lost).ending.unwrap_err();
    assert_eq!(error.code, ErrorCode::DeviceLost, "{error}");
    assert!(error.message.contains("card 0 (GPU-0)"), "{error}");
    let again = wait_for(&submit(&sessions, "a", FINE, &quiet()));
    assert!(again.notes.iter().any(|note| note.contains("lost with its GPU")), "{:?}", again.notes);
    assert_eq!(again.ending.unwrap().device, "card 1");

    told.0.lock().unwrap()[1].condition = GpuCondition::Lost;
    told.0.lock().unwrap()[0].condition = GpuCondition::Silent;
    let control = quiet();
    let waiting = submit(&sessions, "a", FINE, &control);
    assert!(waiting.recv_timeout(Duration::from_millis(300)).is_err(), "no GPU is healthy");
    told.0.lock().unwrap()[1].condition = GpuCondition::Healthy;
    assert_eq!(device(&waiting), "card 1");
    // Another panic is none of a device.
    let error = wait_for(&submit(&sessions, "a", PANIC, &quiet())).ending.unwrap_err();
    assert_eq!(error.code, ErrorCode::Panic);
}

#[test]
fn a_gpu_whose_memory_is_full_fails_the_task_as_such_and_goes_on() {
    let (sessions, _) = on_gpus(1, 4);
    let error = wait_for(&submit(&sessions, "a", NO_MEMORY, &quiet())).ending.unwrap_err();
    assert_eq!(error.code, ErrorCode::OutOfMemory, "{error}");
    assert!(!error.code.is_retryable(), "it would need as much again");
    assert!(error.message.contains("card 0 (GPU-0)") && error.message.contains("batch_size"), "{error}");
    assert!(error.message.contains("out of device memory allocating 4096 bytes;"), "{error}");
    assert_eq!(device(&submit(&sessions, "b", FINE, &quiet())), "card 0");
}

#[test]
fn a_process_that_has_lost_its_only_gpu_says_so_instead_of_panicking_again() {
    let (sessions, _) = on_gpus(1, 4);
    let lost = wait_for(&submit(&sessions, "a", DEVICE_PANIC, &quiet())).ending.unwrap_err();
    assert_eq!(lost.code, ErrorCode::DeviceLost, "{lost}");
    let next = wait_for(&submit(&sessions, "b", FINE, &quiet())).ending.unwrap_err();
    assert!(next.code == ErrorCode::Unavailable && next.message.contains("restart the worker"), "{next}");
}

#[test]
fn a_closed_engine_lets_nobody_wait() {
    let (sessions, told) = on_gpus(1, 1);
    told.0.lock().unwrap()[0].condition = GpuCondition::Silent;
    let waiting = submit(&sessions, "a", FINE, &quiet());
    drop(sessions);
    assert_eq!(wait_for(&waiting).ending.unwrap_err().code, ErrorCode::Interrupted);
}
