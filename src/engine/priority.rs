//! Training gives way: its threads run at a lower priority, so that heartbeats are on time while all cores train.

/// Niceness of threads that train; 0 is the default, 19 the lowest priority.
const NICENESS: i32 = 10;

/// Lowers the priority of the calling thread; without effect where the system does not let a thread have its own.
pub(crate) fn lower_this_thread() {
    // On Linux niceness belongs to a thread, elsewhere to the whole process, which must keep its own.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the priority of a training thread could not be lowered");
    }
}

/// Makes the threads that share a step's arithmetic give way too. Without effect when the program already has
/// such a pool; RAYON_NUM_THREADS sets its size.
pub(crate) fn lower_shared_pool() {
    let pool = rayon::ThreadPoolBuilder::new()
        .thread_name(|index| format!("arithmetic-{index}"))
        .start_handler(|_| lower_this_thread());
    if let Err(error) = pool.build_global() {
        // Most often since there is one already, which keeps its priority.
        tracing::debug!(%error, "no arithmetic pool of lower priority");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_gives_way() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let inside = std::thread::spawn(|| {
            lower_this_thread();
            rustix::process::getpriority_process(None).unwrap()
        });
        assert!(inside.join().unwrap() >= NICENESS);
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }
}
