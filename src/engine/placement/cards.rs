//! Which GPU a session gets: a pure decision from what the GPUs have and what the session needs.

use crate::domain::Hyperparameters;
use crate::engine::trainer::ModelEntry;

/// What a driver keeps on a GPU for a process that computes on it, shaders and staging buffers included, in bytes.
const CONTEXT_BYTES: u64 = 256 << 20;

/// A GPU as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Card {
    /// Whether it is healthy.
    pub(crate) healthy: bool,
    /// Its video memory in bytes; None where nobody tells.
    pub(crate) total_bytes: Option<u64>,
    /// What other processes use of it, in bytes.
    pub(crate) others_bytes: u64,
    /// What our sessions have reserved, in bytes.
    pub(crate) reserved_bytes: u64,
    /// How many sessions that is.
    pub(crate) sessions: usize,
}

impl Card {
    fn room(&self) -> Option<u64> {
        Some(self.total_bytes?.saturating_sub(self.others_bytes).saturating_sub(self.reserved_bytes))
    }

    fn has_room(&self, need_bytes: u64) -> bool {
        self.room().is_none_or(|room| need_bytes <= room)
    }
}

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It gets the card at this position.
    Card(usize),
    /// It has to wait until others leave, or a GPU is healthy again.
    Wait,
    /// No GPU has that much memory, even when it is empty.
    TooBig {
        /// Memory of the largest one, in bytes.
        most_bytes: u64,
    },
}

/// The healthy card with the fewest sessions, and among those the most room.
pub(crate) fn choose(cards: &[Card], need_bytes: u64) -> Choice {
    // Of cards that are gone for now nobody knows that they will not do.
    let most_bytes = cards.iter().map(|card| card.total_bytes.unwrap_or(u64::MAX)).max();
    if let Some(most_bytes) = most_bytes.filter(|most| need_bytes > *most) {
        return Choice::TooBig { most_bytes };
    }
    let with_room = cards.iter().enumerate().filter(|(_, card)| card.healthy && card.has_room(need_bytes));
    let best =
        with_room.min_by_key(|(_, card)| (card.sessions, std::cmp::Reverse(card.room().unwrap_or(u64::MAX))));
    best.map_or(Choice::Wait, |(position, _)| Choice::Card(position))
}

/// Video memory that a session of `entry` will need, in bytes, before its data set is known: parameters, gradients and
/// two moments, and for each row of a minibatch all activations, their gradients and their copies. Of boosting, see
/// [`boosting`].
///
/// Rows are taken to have 4,096 features and 100 classes unless an image shape says otherwise.
pub(crate) fn estimate(entry: &ModelEntry, hyperparameters: &Hyperparameters) -> u64 {
    if entry.name == "xgboost" {
        return boosting(hyperparameters);
    }
    const FEATURES: u64 = 4096;
    const CLASSES: u64 = 100;
    let inputs =
        hyperparameters.image_shape.map_or(FEATURES, |shape| shape.iter().map(|&n| n as u64).product());
    let widths: Vec<u64> = match entry.name {
        "neural_network" => {
            let hidden = hyperparameters.hidden_layers.iter().map(|&width| width as u64);
            std::iter::once(inputs).chain(hidden).chain([CLASSES]).collect()
        }
        _ => vec![inputs, CLASSES],
    };
    let dense: u64 = widths
        .windows(2)
        .map(|pair| pair[0].saturating_add(1).saturating_mul(pair[1]))
        .fold(0, u64::saturating_add);
    // Two convolutions of 3 x 3 with 16 and 32 channels keep their images, and what is made of them as columns.
    let (of_layers, of_row) = match entry.name {
        "cnn" => (inputs.saturating_mul(8 * 128), inputs.saturating_mul(16 * 9 + 16 + 32 * 9 / 4)),
        _ => (0, 0),
    };
    let parameters = dense.saturating_add(of_layers);
    let of_row = widths.iter().copied().fold(of_row, u64::saturating_add);
    let activations = of_row.saturating_mul(hyperparameters.batch_size as u64);
    let numbers = parameters.saturating_mul(4).saturating_add(activations.saturating_mul(3));
    numbers.saturating_mul(size_of::<f32>() as u64).saturating_add(CONTEXT_BYTES)
}

/// Video memory of boosting: a byte for each bin, derivatives and numbers of all rows, and the histograms that one tree
/// holds at once, two a level; of 4 million rows of 64 features, whatever they will be.
fn boosting(hyperparameters: &Hyperparameters) -> u64 {
    const ROWS: u64 = 1 << 22;
    const FEATURES: u64 = 64;
    /// Sums of 256 bins, of 8 bytes.
    const HISTOGRAM_BYTES: u64 = FEATURES * 256 * 8;
    /// Packed derivatives, and the numbers of the rows of a node and of its child.
    const ROW_BYTES: u64 = 8 + 2 * 4;
    // Nobody grows a tree that splits off one row a level.
    let levels = hyperparameters.trees.max_depth.filter(|depth| *depth > 0).unwrap_or(u32::MAX).min(64);
    CONTEXT_BYTES + ROWS * (FEATURES + ROW_BYTES) + 2 * u64::from(levels) * HISTOGRAM_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ModelType;

    const GIB: u64 = 1 << 30;

    fn card(total: u64, reserved: u64, sessions: usize) -> Card {
        Card { healthy: true, total_bytes: Some(total), others_bytes: 0, reserved_bytes: reserved, sessions }
    }

    #[test]
    fn sessions_spread_over_the_cards_and_the_unhealthy_get_none() {
        let mut cards = [card(8 * GIB, 0, 0), card(16 * GIB, 0, 0), card(16 * GIB, 0, 0)];
        cards[1].healthy = false;
        let mut given = Vec::new();
        for _ in 0..4 {
            let Choice::Card(at) = choose(&cards, GIB) else { panic!("there is room") };
            cards[at].sessions += 1;
            cards[at].reserved_bytes += GIB;
            given.push(at);
        }
        assert_eq!(given, [2, 0, 2, 0]);
    }

    #[test]
    fn what_does_not_fit_now_waits_and_what_never_fits_is_told() {
        let full = [card(4 * GIB, 3 * GIB, 3), card(4 * GIB, 4 * GIB, 1)];
        assert_eq!(choose(&full, GIB), Choice::Card(0));
        assert_eq!(choose(&full, 2 * GIB), Choice::Wait);
        assert_eq!(choose(&full, 5 * GIB), Choice::TooBig { most_bytes: 4 * GIB });
        let others = [Card { others_bytes: 3 * GIB, ..card(4 * GIB, 0, 0) }];
        assert_eq!(choose(&others, 2 * GIB), Choice::Wait);
        let gone = [Card { healthy: false, ..card(4 * GIB, 0, 0) }];
        assert_eq!(choose(&gone, GIB), Choice::Wait);
        assert_eq!(choose(&[], GIB), Choice::Wait);
    }

    #[test]
    fn a_card_of_unknown_size_takes_whatever_comes() {
        let unknown = [Card { total_bytes: None, ..card(0, 0, 7) }];
        assert_eq!(choose(&unknown, 99 * GIB), Choice::Card(0));
    }

    #[test]
    fn the_estimate_grows_with_model_and_batch() {
        let of = |model: &str, change: &dyn Fn(&mut Hyperparameters)| {
            let mut hyperparameters = Hyperparameters::default();
            change(&mut hyperparameters);
            estimate(ModelEntry::of(&ModelType::parse(model).unwrap()).unwrap(), &hyperparameters)
        };
        let small = of("mlp", &|_| {});
        assert!((CONTEXT_BYTES..GIB).contains(&small), "{small}");
        let wide = of("mlp", &|h| h.hidden_layers = vec![16384, 16384]);
        // 4096 x 16384 + 16384 x 16384 + 16384 x 100 parameters of 16 bytes.
        assert!((5 * GIB..6 * GIB).contains(&wide), "{wide}");
        let batch = of("cnn", &|h| {
            h.image_shape = Some([3, 224, 224]);
            h.batch_size = 1024;
        });
        assert!(batch > 8 * of("cnn", &|h| h.image_shape = Some([3, 224, 224])), "{batch}");
        assert!(of("logistic_regression", &|_| {}) <= small);
        let boosting = of("xgboost", &|h| h.trees.max_depth = Some(6));
        assert!((CONTEXT_BYTES + (256 << 20)..GIB).contains(&boosting), "{boosting}");
        assert!(
            (boosting..GIB).contains(&of("xgboost", &|h| h.trees.max_depth = Some(0))),
            "no limit of depth"
        );
        assert!(of("mlp", &|h| h.hidden_layers = vec![usize::MAX, usize::MAX]) == u64::MAX, "no overflow");
    }
}
