//! The convergence curves, as TensorFleet specifies them: one row a profile and model.

use crate::domain::Metrics;
use crate::engine::AnalyticProfile;

/// loss = scale exp(-rate e) + noise U
struct LossCurve {
    scale: f64,
    rate: f64,
    noise: f64,
}

/// How accuracy follows, before it is clamped.
enum AccuracyCurve {
    /// 0.9 (1 - exp(-0.2 e))
    OfEpoch,
    /// top - loss / divisor + noise U
    OfLoss { top: f64, divisor: f64, noise: f64 },
}

struct Row {
    profile: AnalyticProfile,
    model: &'static str,
    loss: LossCurve,
    accuracy: AccuracyCurve,
}

/// Model types without a row of their own take this one's.
const FALLBACK: &str = "neural_network";

const fn row(
    profile: AnalyticProfile,
    model: &'static str,
    (scale, rate, noise): (f64, f64, f64),
    accuracy: AccuracyCurve,
) -> Row {
    Row { profile, model, loss: LossCurve { scale, rate, noise }, accuracy }
}

const fn of_loss(top: f64, divisor: f64, noise: f64) -> AccuracyCurve {
    AccuracyCurve::OfLoss { top, divisor, noise }
}

const ROWS: &[Row] = {
    use AnalyticProfile::{Basic, Engine};
    &[
        row(Engine, FALLBACK, (3.0, 0.1, 0.1), AccuracyCurve::OfEpoch),
        row(Engine, "xgboost", (2.0, 0.3, 0.05), of_loss(1.0, 2.5, 0.02)),
        row(Engine, "random_forest", (1.5, 0.2, 0.03), of_loss(0.95, 2.0, 0.0)),
        row(Basic, FALLBACK, (2.5, 0.1, 0.1), of_loss(1.0, 2.5, 0.0)),
        row(Basic, "xgboost", (1.0, 0.2, 0.05), of_loss(1.0, 1.5, 0.0)),
        row(Basic, "random_forest", (0.8, 0.15, 0.03), of_loss(0.95, 2.0, 0.0)),
    ]
};

/// Figures of `model` in `epoch`; `noise` are two draws, uniform in [0, 1): of the loss and of the accuracy.
pub(super) fn at(profile: AnalyticProfile, model: &str, epoch: u32, noise: [f64; 2]) -> Metrics {
    let of = |name: &str| ROWS.iter().find(|row| row.profile == profile && row.model == name);
    // The fallback has a row in every profile, which a test sees to.
    let Some(row) = of(model).or_else(|| of(FALLBACK)) else {
        return Metrics { loss: f64::NAN, accuracy: f64::NAN };
    };
    let epoch = f64::from(epoch);
    let loss = row.loss.scale * (-row.loss.rate * epoch).exp() + row.loss.noise * noise[0];
    let accuracy = match row.accuracy {
        AccuracyCurve::OfEpoch => 0.9 * (1.0 - (-0.2 * epoch).exp()),
        AccuracyCurve::OfLoss { top, divisor, noise: share } => top - loss / divisor + share * noise[1],
    };
    match profile {
        AnalyticProfile::Engine => Metrics { loss: loss.max(0.01), accuracy: accuracy.clamp(0.1, 0.99) },
        AnalyticProfile::Basic => Metrics { loss, accuracy: accuracy.clamp(0.0, 1.0) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curves_are_those_of_the_table() {
        use AnalyticProfile::{Basic, Engine};
        // (profile, model, epoch, U, loss, accuracy), worked out by hand from the specification.
        let cases = [
            (Engine, "neural_network", 0, 0.0, 3.0, 0.1),
            (Engine, "neural_network", 10, 0.5, 1.153_638_323_514_327, 0.778_198_245_086_748_6),
            (Engine, "neural_network", 100, 0.0, 0.01, 0.899_999_998_144_961_8),
            (Engine, "xgboost", 5, 0.5, 0.471_260_320_296_859_7, 0.821_495_871_881_256_2),
            (Engine, "xgboost", 50, 0.9, 0.045_000_611_804_641_01, 0.99),
            (Engine, "random_forest", 5, 0.5, 0.566_819_161_757_163_5, 0.666_590_419_121_418_3),
            (Basic, "neural_network", 0, 0.5, 2.55, 0.0),
            (Basic, "neural_network", 10, 0.5, 0.969_698_602_928_605_8, 0.612_120_558_828_557_7),
            (Basic, "xgboost", 5, 0.5, 0.392_879_441_171_442_3, 0.738_080_372_552_371_8),
            (Basic, "random_forest", 5, 0.5, 0.392_893_242_192_811_8, 0.753_553_378_903_594_1),
        ];
        for (profile, model, epoch, u, loss, accuracy) in cases {
            let got = at(profile, model, epoch, [u, u]);
            assert!((got.loss - loss).abs() < 1e-9, "{profile} {model} {epoch}: loss {}", got.loss);
            assert!(
                (got.accuracy - accuracy).abs() < 1e-9,
                "{profile} {model} {epoch}: accuracy {}",
                got.accuracy
            );
        }
    }

    #[test]
    fn any_other_model_takes_the_curve_of_neural_network() {
        for profile in [AnalyticProfile::Engine, AnalyticProfile::Basic] {
            for model in ["cnn", "test", "gpt2"] {
                assert_eq!(at(profile, model, 3, [0.2, 0.4]), at(profile, FALLBACK, 3, [0.2, 0.4]));
            }
        }
    }
}
