//! A value that many follow. As tokio's watch channel, but who waited first is woken first, where that one draws lots:
//! so that what follows from a change is the same each time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
struct Inner<T> {
    /// The value, and how often it was changed.
    value: Mutex<(T, u64)>,
    changes: Notify,
    ended: AtomicBool,
}

impl<T: Copy> Inner<T> {
    fn get(&self) -> (T, u64) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that changes it. When this is dropped, there will be no other value.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Inner<T>>);

/// The end that reads it.
#[derive(Debug, Clone)]
pub(super) struct Receiver<T> {
    inner: Arc<Inner<T>>,
    seen: u64,
}

/// Both ends.
pub(super) fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
    let inner =
        Inner { value: Mutex::new((first, 0)), changes: Notify::new(), ended: AtomicBool::new(false) };
    let inner = Arc::new(inner);
    (Sender(Arc::clone(&inner)), Receiver { inner, seen: 0 })
}

impl<T> Sender<T> {
    pub(super) fn send_modify(&self, change: impl FnOnce(&mut T)) {
        let mut value = self.0.value.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut value.0);
        value.1 += 1;
        drop(value);
        self.0.changes.notify_waiters();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.changes.notify_waiters();
    }
}

impl<T: Copy> Receiver<T> {
    /// The value now.
    pub(super) fn get(&self) -> T {
        self.inner.get().0
    }

    /// Waits until the value is as wished; None when it will never be.
    pub(super) async fn wait_for(&mut self, wished: impl Fn(&T) -> bool) -> Option<T> {
        loop {
            let mut changed = std::pin::pin!(self.inner.changes.notified());
            // Before the look, so that a change between look and wait is not missed.
            changed.as_mut().enable();
            let ended = self.inner.ended.load(Ordering::Acquire);
            let (value, version) = self.inner.get();
            if wished(&value) {
                self.seen = version;
                return Some(value);
            }
            if ended {
                return None;
            }
            changed.await;
        }
    }

    /// Waits for a value that was not seen yet; None when there will be none.
    pub(super) async fn changed(&mut self) -> Option<()> {
        loop {
            let mut changed = std::pin::pin!(self.inner.changes.notified());
            changed.as_mut().enable();
            let ended = self.inner.ended.load(Ordering::Acquire);
            let (_, version) = self.inner.get();
            if version != self.seen {
                self.seen = version;
                return Some(());
            }
            if ended {
                return None;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followers_see_the_latest_value_and_the_end() {
        let (sender, mut receiver) = channel(1);
        let mut other = receiver.clone();
        assert_eq!(receiver.wait_for(|value| *value == 1).await, Some(1));
        sender.send_modify(|value| *value = 2);
        assert_eq!(other.changed().await, Some(()));
        assert_eq!((other.get(), receiver.wait_for(|value| *value == 2).await), (2, Some(2)));
        let waits = receiver.wait_for(|value| *value == 3);
        let ends = async {
            tokio::task::yield_now().await;
            drop(sender);
        };
        assert_eq!(tokio::join!(waits, ends).0, None);
        assert_eq!(other.changed().await, None);
    }
}
