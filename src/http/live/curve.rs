//! A curve that grows for ever in bounded memory: when it is full, every second point goes.

use std::collections::VecDeque;

use serde::Serialize;

/// Figures of a training at one moment; what is not known is NaN, which JSON shows as null.
///
/// In JSON: `[x, loss, accuracy, validation_loss, validation_accuracy]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(in crate::http) struct Figures(
    /// Milliseconds since 1970 for a job, the step for a task.
    pub(super) u64,
    pub(super) f32,
    pub(super) f32,
    pub(super) f32,
    pub(super) f32,
);

/// Points in the order in which they came, at most as many as it was made for.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    points: Vec<Figures>,
    most: usize,
    /// One of so many points is kept; the newest is always there.
    stride: u64,
    seen: u64,
}

impl Curve {
    /// An empty curve of at most `most` points, at least 4.
    pub(super) fn new(most: usize) -> Self {
        Self { points: Vec::new(), most: most.max(4), stride: 1, seen: 0 }
    }

    /// Adds the newest point.
    pub(super) fn push(&mut self, point: Figures) {
        let is_its_turn = |seen: u64, stride| (seen - 1).is_multiple_of(stride);
        if self.seen > 0 && !is_its_turn(self.seen, self.stride) {
            // The last one was there because it was the newest, not because it was its turn.
            self.points.pop();
        }
        self.points.push(point);
        self.seen += 1;
        let full = self.points.len() + 1 >= self.most && !self.points.len().is_multiple_of(2);
        if full && is_its_turn(self.seen, self.stride) {
            // Of an odd number the first and the last stay.
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
    }

    /// The points, oldest first.
    pub(super) fn points(&self) -> &[Figures] {
        &self.points
    }
}

/// The latest readings at a steady pace; the oldest go.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Ring<T>(VecDeque<T>);

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Ring<T> {
    /// Adds the newest reading, and lets the oldest go when there are more than `most`.
    pub(super) fn push(&mut self, most: usize, reading: T) {
        self.0.push_back(reading);
        while self.0.len() > most {
            self.0.pop_front();
        }
    }

    pub(super) fn last(&self) -> Option<&T> {
        self.0.back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: u64) -> Figures {
        Figures(x, 0.0, 0.0, 0.0, 0.0)
    }

    #[test]
    fn a_curve_keeps_its_ends_and_its_bounds_however_long_it_grows() {
        let mut curve = Curve::new(16);
        for x in 0..10_000 {
            curve.push(point(x));
            let points = curve.points();
            assert!(points.len() <= 16);
            assert_eq!((points[0].0, points[points.len() - 1].0), (0, x));
        }
        let gaps: Vec<u64> = curve.points().windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        let (last, even) = gaps.split_last().unwrap();
        assert!(even.iter().all(|gap| *gap == even[0]) && *last <= even[0], "{gaps:?}");
        assert!(curve.points().len() >= 8);
    }

    #[test]
    fn a_ring_keeps_the_latest() {
        let mut ring = Ring::default();
        (0..10).for_each(|reading| ring.push(3, reading));
        assert_eq!((serde_json::to_string(&ring).unwrap().as_str(), ring.last()), ("[7,8,9]", Some(&9)));
    }

    #[test]
    fn what_is_not_known_is_null() {
        let json = serde_json::to_string(&Figures(5, 0.25, f32::NAN, f32::NAN, 1.0)).unwrap();
        assert_eq!(json, "[5,0.25,null,null,1.0]");
    }
}
