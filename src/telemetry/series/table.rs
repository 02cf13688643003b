//! The label sets of one family, in the order in which they leave.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::Limits;

/// Between two values of a key. Labels are ids of printable characters, and a key that is cut elsewhere is only shown
/// otherwise.
const END: char = '\0';

/// Values of the labels, in the family's order, each with an [`END`].
type Key = Arc<str>;

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
    entries: HashMap<Key, Entry<V>>,
    leaving: BTreeMap<Place, Key>,
    touches: u64,
    /// Room for the key that is looked for, so that nothing is allocated for one that is there.
    wanted: String,
}

impl<V> Table<V> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, entries: HashMap::new(), leaving: BTreeMap::new(), touches: 0, wanted: String::new() }
    }

    /// Applies `change` to the value of `labels`, made by `make` where it is new, and makes it the last to leave.
    pub(super) fn update<R>(
        &mut self,
        labels: &[&str],
        now: Instant,
        make: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        if self.limits.most == 0 {
            return None;
        }
        self.touches += 1;
        let place = Place::Live(self.touches);
        self.look_for(labels);
        if let Some(entry) = self.entries.get_mut(self.wanted.as_str()) {
            if let Some(key) = self.leaving.remove(&entry.place) {
                self.leaving.insert(place, key);
            }
            entry.place = place;
            return Some(change(&mut entry.value));
        }
        self.sweep(now);
        while self.entries.len() >= self.limits.most && self.remove_first() {}
        let key = Key::from(self.wanted.as_str());
        let entry = self.entries.entry(Arc::clone(&key)).insert_entry(Entry { value: make(), place });
        self.leaving.insert(place, key);
        Some(change(&mut entry.into_mut().value))
    }

    /// Marks `labels` as finished at `now`, unless it was before.
    pub(super) fn end(&mut self, labels: &[&str], now: Instant) {
        self.look_for(labels);
        let Some(entry) = self.entries.get_mut(self.wanted.as_str()) else { return };
        if let Place::Live(touch) = entry.place
            && let Some(key) = self.leaving.remove(&entry.place)
        {
            entry.place = Place::Finished(now, touch);
            self.leaving.insert(entry.place, key);
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
        first.is_some_and(|(_, key)| self.entries.remove(&key).is_some())
    }

    /// The values of the labels, in the family's order, and the value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (impl Iterator<Item = &str>, &V)> {
        self.entries.iter().map(|(key, entry)| (key.split_terminator(END), &entry.value))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn look_for(&mut self, labels: &[&str]) {
        self.wanted.clear();
        for label in labels {
            self.wanted.push_str(label);
            self.wanted.push(END);
        }
    }
}
