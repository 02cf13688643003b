//! curve.svg: loss and accuracy of every epoch, side by side.

use plotters::prelude::*;

use crate::cli::ui::Quality;
use crate::cli::{Epoch, Failure, Metrics};

const SIZE: (u32, u32) = (1000, 440);
const FONT: &str = "sans-serif";

/// A line of a panel.
struct Line {
    label: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

impl Line {
    fn new(label: &'static str, epochs: &[Epoch], value: impl Fn(&Epoch) -> Option<f64>) -> Self {
        let color = if label == TRAINING { RGBColor(31, 119, 180) } else { RGBColor(214, 90, 14) };
        let point = |epoch: &Epoch| Some((f64::from(epoch.epoch), value(epoch).filter(|v| v.is_finite())?));
        Self { label, color, points: epochs.iter().filter_map(point).collect() }
    }
}

const TRAINING: &str = "training";
const VALIDATION: &str = "validation";

/// The picture as SVG.
///
/// # Errors
/// What the drawing library refuses.
pub(super) fn svg(metrics: &Metrics, quality: Quality) -> Result<String, Failure> {
    let mut text = String::new();
    draw(&mut text, metrics, quality).map_err(|error| Failure::Draw(error.to_string()))?;
    Ok(text)
}

fn draw(text: &mut String, metrics: &Metrics, quality: Quality) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let simulated =
        if metrics.simulated { ", SIMULATED: a convergence curve, nothing was trained" } else { "" };
    let title = format!("{} on {} ({}{simulated})", metrics.model_type, metrics.dataset, metrics.backend);
    let root = root.titled(&title, (FONT, 20))?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    let epochs = &metrics.epochs;
    let losses = [
        Line::new(TRAINING, epochs, |epoch| Some(epoch.loss)),
        Line::new(VALIDATION, epochs, |epoch| epoch.validation_loss),
    ];
    panel(&left, "loss", &losses)?;
    let qualities = [
        Line::new(TRAINING, epochs, |epoch| Some(epoch.accuracy)),
        Line::new(VALIDATION, epochs, |epoch| epoch.validation_accuracy),
    ];
    panel(&right, quality.name(), &qualities)?;
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    name: &str,
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let last = points().map(|point| point.0).fold(2.0, f64::max);
    let least = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let most = points().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let (least, most) = if least <= most { (least, most) } else { (0.0, 1.0) };
    // A flat curve needs room too.
    let margin = ((most - least) * 0.05).max(most.abs() * 1e-3).max(1e-9);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(62)
        .build_cartesian_2d(1.0..last, least - margin..most + margin)?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .y_desc(name)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_labels(usize::min(last as usize, 10))
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 15))
        .draw()?;
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let color = line.color;
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(2)))?
            .label(line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        // A line of one point would not be seen.
        chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 2, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::metrics;

    /// Names of tags that are open at the end; panics on one that closes another.
    fn unclosed(svg: &str) -> Vec<&str> {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap();
            let name = tag.split_whitespace().next().unwrap().trim_end_matches('/');
            if tag.starts_with(['?', '!']) || tag.ends_with('/') {
                continue;
            }
            match name.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop(), Some(closed)),
                None => open.push(name),
            }
        }
        open
    }

    #[test]
    fn the_picture_is_well_formed_and_labelled() {
        let mut metrics = metrics();
        metrics.dataset = "a<b>&\"c\".csv".into();
        let svg = svg(&metrics, Quality::Accuracy).unwrap();
        assert!(svg.starts_with("<svg"), "{svg}");
        assert!(svg.contains("xmlns=\"http://www.w3.org/2000/svg\""), "{svg}");
        assert_eq!(unclosed(&svg), Vec::<&str>::new());
        for text in ["a&lt;b&gt;&amp;", "epoch", "loss", "accuracy", "training", "validation"] {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
        assert!(!svg.contains("SIMULATED"));
    }

    #[test]
    fn a_simulated_curve_says_so() {
        let metrics = Metrics { simulated: true, ..metrics() };
        assert!(svg(&metrics, Quality::Accuracy).unwrap().contains("SIMULATED"));
    }

    #[test]
    fn no_epoch_and_one_epoch_and_no_number_are_drawn_too() {
        let one = metrics().epochs.into_iter().take(1).collect();
        let nan = vec![Epoch {
            epoch: 1,
            loss: f64::NAN,
            accuracy: f64::INFINITY,
            validation_loss: None,
            validation_accuracy: None,
        }];
        for epochs in [vec![], one, nan] {
            let metrics = Metrics { epochs, ..metrics() };
            assert_eq!(unclosed(&svg(&metrics, Quality::Rmse).unwrap()), Vec::<&str>::new());
        }
    }
}
