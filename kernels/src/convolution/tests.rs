//! The convolution against one that is written out in f64, and its gradients.

use super::*;
use crate::parameters::tests::Noise;

/// max(pool(conv(image))) of one image `[channels, height, width]`, as PyTorch orders it, in f64.
fn reference(stage: Stage, weight: &[f64], bias: &[f64], image: &[f64]) -> Vec<f64> {
    let Stage { channels, height, width, filters } = stage;
    let at = |c: usize, y: isize, x: isize| {
        let inside = y >= 0 && x >= 0 && y < height as isize && x < width as isize;
        if inside { image[(c * height + y as usize) * width + x as usize] } else { 0.0 }
    };
    let pixel = |f: usize, y: usize, x: usize| {
        let mut sum = bias[f];
        for c in 0..channels {
            for ky in 0..3 {
                for kx in 0..3 {
                    let weight = weight[((f * channels + c) * 3 + ky) * 3 + kx];
                    sum += weight * at(c, (y + ky) as isize - 1, (x + kx) as isize - 1);
                }
            }
        }
        sum
    };
    let mut out = Vec::new();
    for y in 0..height / 2 {
        for x in 0..width / 2 {
            for f in 0..filters {
                let window =
                    [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(dy, dx)| pixel(f, 2 * y + dy, 2 * x + dx));
                out.push(window.into_iter().fold(0.0, f64::max));
            }
        }
    }
    out
}

struct Case {
    stage: Stage,
    count: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Channels first.
    images: Vec<f32>,
}

impl Case {
    fn draw(noise: &mut Noise) -> Self {
        let stage = Stage {
            channels: 1 + noise.below(5),
            height: 2 + noise.below(6),
            width: 2 + noise.below(6),
            filters: 1 + noise.below(20),
        };
        let count = 1 + noise.below(6);
        let mut some = |count: usize| (0..count).map(|_| noise.unit() - 0.5).collect::<Vec<f32>>();
        let (weight, bias) = (some(stage.filters * stage.taps()), some(stage.filters));
        Self { stage, count, weight, bias, images: some(count * stage.input_len()) }
    }

    fn channels_last(&self, images: &[f32]) -> Vec<f32> {
        let size = self.stage.input_len();
        let mut last = vec![0.0; images.len()];
        for (from, to) in images.chunks_exact(size).zip(last.chunks_exact_mut(size)) {
            transpose(from, self.stage.channels, self.stage.height * self.stage.width, to);
        }
        last
    }

    fn matrix<'a>(&self, images: &'a [f32]) -> Matrix<'a> {
        Matrix::new(images, self.count, self.stage.input_len())
    }

    fn forth(&self) -> (Filters, Vec<f32>, Vec<f32>, Vec<u8>) {
        let mut filters = Filters::default();
        filters.set(self.stage, &self.weight, &self.bias);
        let images = self.channels_last(&self.images);
        let mut pooled = vec![9.0; self.count * self.stage.output_len()];
        let mut winners = vec![9; pooled.len()];
        convolve(self.stage, &filters, self.matrix(&images), &mut pooled, &mut winners);
        (filters, images, pooled, winners)
    }

    /// Sum of `by_pooled` times the output, in f64.
    fn loss(&self, weight: &[f64], bias: &[f64], images: &[f64], by_pooled: &[f32]) -> f64 {
        let outputs = images
            .chunks_exact(self.stage.input_len())
            .flat_map(|image| reference(self.stage, weight, bias, image));
        outputs.zip(by_pooled).map(|(output, slope)| output * f64::from(*slope)).sum()
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

#[test]
fn outputs_agree_with_the_written_out_ones() {
    let mut noise = Noise(3);
    for _ in 0..60 {
        let case = Case::draw(&mut noise);
        let (_, _, pooled, winners) = case.forth();
        let (weight, bias) = (wide(&case.weight), wide(&case.bias));
        let want: Vec<f64> = case
            .images
            .chunks_exact(case.stage.input_len())
            .flat_map(|image| reference(case.stage, &weight, &bias, &wide(image)))
            .collect();
        assert_eq!(pooled.len(), want.len());
        for ((got, want), winner) in pooled.iter().zip(&want).zip(&winners) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
            assert_eq!(*winner == CLOSED, *got == 0.0, "{got} {winner}");
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let mut noise = Noise(5);
    for _ in 0..25 {
        let case = Case::draw(&mut noise);
        let (filters, images, pooled, winners) = case.forth();
        let by_pooled: Vec<f32> = pooled.iter().map(|_| noise.unit() - 0.5).collect();
        let (mut by_weight, mut by_bias) = (vec![9.0; case.weight.len()], vec![9.0; case.bias.len()]);
        let mut by_images = vec![9.0; images.len()];
        let slopes =
            Slopes { by_weight: &mut by_weight, by_bias: &mut by_bias, by_images: Some(&mut by_images) };
        let passed = Passed { images: case.matrix(&images), winners: &winners };
        convolve_backward(case.stage, &filters, (passed, &by_pooled), (slopes, &mut Vec::new()));
        let (weight, bias, first) = (wide(&case.weight), wide(&case.bias), wide(&case.images));
        let loss = |weight: &[f64], bias: &[f64], images: &[f64]| case.loss(weight, bias, images, &by_pooled);
        let mut compared = 0;
        let mut check = |values: &[f64], gradient: &[f32], loss: &dyn Fn(&[f64]) -> f64| {
            let step = 1e-6;
            for (at, slope) in gradient.iter().enumerate().step_by(3) {
                let near = |by: f64| {
                    let mut moved = values.to_vec();
                    moved[at] += by;
                    loss(&moved)
                };
                let here = loss(values);
                let (up, down) = ((near(step) - here) / step, (here - near(-step)) / step);
                // Where another pixel wins, or ReLU closes, between them there is no derivative to compare with.
                if (up - down).abs() < 1e-4 {
                    compared += 1;
                    let want = f64::midpoint(up, down);
                    assert!((f64::from(*slope) - want).abs() < 1e-3, "{slope} {want}");
                }
            }
        };
        check(&weight, &by_weight, &|weight| loss(weight, &bias, &first));
        check(&bias, &by_bias, &|bias| loss(&weight, bias, &first));
        let size = case.stage.input_len();
        let mut by_first = vec![0.0; by_images.len()];
        for (from, to) in by_images.chunks_exact(size).zip(by_first.chunks_exact_mut(size)) {
            transpose(from, case.stage.height * case.stage.width, case.stage.channels, to);
        }
        check(&first, &by_first, &|images| loss(&weight, &bias, images));
        assert!(compared > 10, "{compared}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut noise = Noise(8);
    let mut case = Case::draw(&mut noise);
    case.count = 11;
    case.images = (0..case.count * case.stage.input_len()).map(|_| noise.unit() - 0.5).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (filters, images, pooled, winners) = case.forth();
            let (mut by_weight, mut by_bias) = (vec![0.0; case.weight.len()], vec![0.0; case.bias.len()]);
            let mut by_images = vec![0.0; images.len()];
            let slopes =
                Slopes { by_weight: &mut by_weight, by_bias: &mut by_bias, by_images: Some(&mut by_images) };
            let passed = Passed { images: case.matrix(&images), winners: &winners };
            convolve_backward(case.stage, &filters, (passed, &pooled), (slopes, &mut Vec::new()));
            [pooled, by_weight, by_bias, by_images].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!((2..5).all(|threads| run(threads) == one));
}

#[test]
fn nan_goes_through() {
    let stage = Stage { channels: 1, height: 4, width: 4, filters: 1 };
    for poisoned in 0..16 {
        let mut images = vec![0.5; 16];
        images[poisoned] = f32::NAN;
        let case = Case { stage, count: 1, weight: vec![1.0; 9], bias: vec![0.0], images };
        let (_, _, pooled, _) = case.forth();
        assert!(pooled.iter().any(|value| value.is_nan()), "pixel {poisoned}");
    }
}
