//! Curves of Braille dots.

use textplots::{Chart, LabelBuilder as _, LabelFormat, Plot as _, Shape};

use super::columns;

/// Size in dots: a character has two by four.
const WIDTH: u32 = 120;
const NARROWEST: u32 = 40;
const HEIGHT: u32 = 40;

/// Columns beside the curve for the labels of its ends.
const LABEL_COLUMNS: u32 = 10;

/// `points` (epoch, value) as a curve under `title`; None when fewer than two of them are numbers.
pub(in crate::cli) fn curve(title: &str, points: &[(u32, f64)]) -> Option<String> {
    let points: Vec<(f32, f32)> =
        points.iter().map(|(x, y)| (*x as f32, *y as f32)).filter(|(_, y)| y.is_finite()).collect();
    let (first, last) = (points.first()?.0, points.last()?.0);
    if first >= last {
        return None;
    }
    let least = points.iter().map(|(_, y)| *y).fold(f32::INFINITY, f32::min);
    let most = points.iter().map(|(_, y)| *y).fold(f32::NEG_INFINITY, f32::max);
    // A flat curve needs room too.
    let margin = ((most - least) * 0.05).max(most.abs() * 1e-3).max(1e-6);
    let floor = if least >= 0.0 { 0.0 } else { f32::NEG_INFINITY };
    let columns = columns(std::io::stdout()).map_or(WIDTH, u32::from);
    let width = (2 * columns.saturating_sub(LABEL_COLUMNS)).clamp(NARROWEST, WIDTH);
    let shape = Shape::Lines(&points);
    let mut chart =
        Chart::new_with_y_range(width, HEIGHT, first, last, (least - margin).max(floor), most + margin);
    chart.borders();
    let mut labelled = chart
        .x_label_format(LabelFormat::Custom(Box::new(|x| format!("{x:.0}"))))
        .y_label_format(LabelFormat::Custom(Box::new(|y| format!("{y:.4}"))));
    labelled = labelled.lineplot(&shape);
    labelled.figures();
    Some(format!("{title}\n{labelled}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_needs_two_numbers() {
        assert_eq!(curve("loss", &[]), None);
        assert_eq!(curve("loss", &[(1, 0.5)]), None);
        assert_eq!(curve("loss", &[(1, 0.5), (2, f64::NAN)]), None);
    }

    #[test]
    fn a_flat_and_a_falling_curve_are_drawn_with_their_labels() {
        let flat = curve("loss", &[(1, 0.5), (2, 0.5)]).unwrap();
        assert!(flat.contains('⠉') || flat.contains('⣀') || flat.contains('⠒'), "{flat}");
        let falling = curve("validation accuracy", &[(1, 0.25), (2, 0.75), (3, 0.95)]).unwrap();
        assert!(falling.starts_with("validation accuracy\n"), "{falling}");
        assert!(falling.contains("0.985"), "{falling}");
        assert!(falling.lines().count() > 10, "{falling}");
    }
}
