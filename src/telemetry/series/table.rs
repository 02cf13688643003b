//! The label sets of one family, in the order in which they leave.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::Limits;

/// Values of the labels, in the family's order.
type Labels = Arc<[Box<str>]>;

/// Place in the order of leaving. Derived `Ord` does the work: finished before live, older before newer; the
/// number of the touch makes places unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Finished(Instant, u64),
    Live(u64),
}

struct Entry<V> {
    value: V,
    place: Place,
}

/// Label sets and their values.
pub(super) struct Table<V> {
    limits: Limits,
    entries: HashMap<Labels, Entry<V>>,
    leaving: BTreeMap<Place, Labels>,
    touches: u64,
}

impl<V> Table<V> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, entries: HashMap::new(), leaving: BTreeMap::new(), touches: 0 }
    }

    /// Applies `change` to the value of `labels`, made by `make` where it is new, and makes it the last to leave.
    pub(super) fn update(
        &mut self,
        labels: &[&str],
        now: Instant,
        make: impl FnOnce() -> V,
        change: impl FnOnce(&mut V),
    ) {
        if self.limits.most == 0 {
            return;
        }
        let labels = owned(labels);
        self.touches += 1;
        let place = Place::Live(self.touches);
        if let Some(entry) = self.entries.get_mut(&labels) {
            change(&mut entry.value);
            self.leaving.remove(&entry.place);
            entry.place = place;
        } else {
            self.sweep(now);
            while self.entries.len() >= self.limits.most && self.remove_first() {}
            let mut value = make();
            change(&mut value);
            self.entries.insert(Arc::clone(&labels), Entry { value, place });
        }
        self.leaving.insert(place, labels);
    }

    /// Marks `labels` as finished at `now`, unless it was before.
    pub(super) fn end(&mut self, labels: &[&str], now: Instant) {
        let labels = owned(labels);
        let Some(entry) = self.entries.get_mut(&labels) else { return };
        if let Place::Live(touch) = entry.place {
            self.leaving.remove(&entry.place);
            entry.place = Place::Finished(now, touch);
            self.leaving.insert(entry.place, labels);
        }
    }

    /// Removes what has been finished for long enough.
    pub(super) fn sweep(&mut self, now: Instant) {
        while let Some((&Place::Finished(since, _), _)) = self.leaving.first_key_value()
            && now.saturating_duration_since(since) >= self.limits.keep
            && self.remove_first()
        {}
    }

    /// Removes the first to leave; false when there is none.
    fn remove_first(&mut self) -> bool {
        let first = self.leaving.pop_first();
        first.is_some_and(|(_, labels)| self.entries.remove(&labels).is_some())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[Box<str>], &V)> {
        self.entries.iter().map(|(labels, entry)| (&**labels, &entry.value))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn owned(labels: &[&str]) -> Labels {
    labels.iter().map(|&label| Box::from(label)).collect()
}
