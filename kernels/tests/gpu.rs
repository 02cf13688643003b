//! Each kernel for GPUs against its form for the CPU on random numbers, through Mesa's Vulkan driver, which computes on
//! the CPU and which scripts/test installs; where it is not there, through the GPU of this machine.
#![cfg(feature = "wgpu")]

use cubecl::Device;
use cubecl::device::WgpuDeviceKind;
use tensorfleet_kernels::gpu::{self, Client, Values};
use tensorfleet_kernels::trees::{self, Penalties, Quantum, TILE};
use tensorfleet_kernels::{
    self as kernels, Activation, AdamMoments, DenseGradients, Descent, Gate, Matrix, Order,
};

fn client() -> Client {
    let device = Device::wgpu(WgpuDeviceKind::Cpu).or_else(|_| Device::wgpu(WgpuDeviceKind::default()));
    device.expect("no Vulkan driver: scripts/test installs mesa-vulkan-drivers").client()
}

/// Random numbers (Knuth's generator).
struct Noise(u64);

impl Noise {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(end)) as u32
    }

    fn unit(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 24) as f32
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| 2.0 * self.unit() - 1.0).collect()
    }
}

/// Whether each differs by at most `tolerance` of the greater of 1 and itself.
fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{what} at {at}: {got} {want}");
    }
}

#[test]
fn steps_of_optimizers_are_those_of_the_cpu() {
    const TOLERANCE: f32 = 1e-6;
    let client = client();
    let mut noise = Noise(1);
    for len in [1, 10, 257, 70_001] {
        for name in ["sgd", "adam", "adamw", "rmsprop"] {
            let mut parameters = noise.values(len);
            let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
            let mut on_gpu = [&parameters, &first, &second].map(|values| Values::upload(&client, values));
            for step in 1..=3 {
                let (learning_rate, weight_decay, momentum) = (0.01 * noise.unit(), 0.1 * noise.unit(), 0.8);
                let slopes = noise.values(len);
                let gradient = Values::upload(&client, &slopes);
                let [p, f, s] = &on_gpu;
                let descent = gpu::GpuDescent {
                    client: &client,
                    parameters: p,
                    gradient: &gradient,
                    learning_rate,
                    weight_decay,
                };
                let moments = gpu::GpuMoments { first: f, second: s, step };
                let after = match name {
                    "sgd" => gpu::sgd(descent, momentum, f, s),
                    "adam" => gpu::adam(descent, moments),
                    "adamw" => gpu::adamw(descent, moments),
                    _ => gpu::rmsprop(descent, momentum, f, s),
                };
                let before = p.read::<f32>(&client).unwrap();
                assert_eq!(before, parameters, "{name}: what was there before is still there");
                on_gpu = [after.parameters, after.first, after.second];
                let descent =
                    Descent { parameters: &mut parameters, gradient: &slopes, learning_rate, weight_decay };
                let moments = AdamMoments { first: &mut first, second: &mut second, step };
                match name {
                    "sgd" => kernels::sgd(descent, momentum, &mut first),
                    "adam" => kernels::adam(descent, moments),
                    "adamw" => kernels::adamw(descent, moments),
                    _ => kernels::rmsprop(descent, momentum, &mut first, &mut second),
                }
                let wants = [&mut parameters, &mut first, &mut second];
                for (values, want) in on_gpu.iter().zip(wants) {
                    let got = values.read(&client).unwrap();
                    close(&format!("{name} of {len}, step {step}"), &got, want, TOLERANCE);
                    // Each step is compared from the same numbers.
                    *want = got;
                }
            }
        }
    }
}

#[test]
fn softmax_cross_entropy_is_that_of_the_cpu() {
    const TOLERANCE: f32 = 2e-6;
    let client = client();
    let mut noise = Noise(2);
    for (rows, classes, scale) in [(1, 2, 1.0), (128, 10, 5.0), (61, 3, 100.0), (33, 257, 20.0), (5, 1, 1.0)]
    {
        let logits: Vec<f32> = noise.values(rows * classes).iter().map(|value| value * scale).collect();
        let targets: Vec<u32> = (0..rows).map(|_| noise.below(classes as u32)).collect();
        let weights: Vec<f32> = (0..classes).map(|_| 0.1 + noise.unit()).collect();
        let found = gpu::softmax_cross_entropy_gradient(
            &client,
            &Values::upload(&client, &logits),
            &Values::upload(&client, &targets),
            &Values::upload(&client, &weights),
        );
        let mut gradient = vec![0.0; logits.len()];
        let sums =
            kernels::weighted_softmax_cross_entropy_gradient(&logits, &targets, &weights, &mut gradient);
        let what = format!("{rows} rows of {classes} classes");
        close(&what, &found.gradient.read(&client).unwrap(), &gradient, TOLERANCE);
        let figures: Vec<f32> = found.figures.read(&client).unwrap();
        let (losses, hits) = figures.split_at(rows);
        let loss: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
        assert!(
            (loss - sums.loss).abs() <= f64::from(TOLERANCE) * sums.loss.max(1.0),
            "{what}: {loss} {sums:?}"
        );
        assert_eq!(hits.iter().sum::<f32>() as u64, sums.correct, "{what}");
    }
}

/// Features by group, and bins of values of each; one more of missing values comes behind them, but for features of
/// three.
const VALUE_BINS: [&[u32]; 3] = [&[255, 3, 1, 64, 200, 17], &[255; 8], &[2]];

/// What the histogram and split tests begin with.
struct Node {
    all: usize,
    /// By group, as its features lie side by side.
    bins: Vec<Vec<u8>>,
    /// Packed derivatives of all rows.
    packed: Vec<i64>,
    rows: Vec<u32>,
}

fn has_missing(value_bins: u32) -> bool {
    value_bins != 3
}

/// First slots of the features of a group in its tile.
fn offsets(group: usize) -> Vec<u32> {
    let starts = VALUE_BINS[group].iter().scan(0, |end, bins| {
        let start = *end;
        *end += bins + u32::from(has_missing(*bins));
        Some(start)
    });
    starts.collect()
}

fn features() -> Vec<gpu::Feature> {
    let of_group = |group: usize| {
        std::iter::zip(offsets(group), VALUE_BINS[group]).map(move |(offset, value_bins)| gpu::Feature {
            slot: (group * TILE) as u32 + offset,
            value_bins: *value_bins,
            missing: has_missing(*value_bins),
        })
    };
    (0..VALUE_BINS.len()).flat_map(of_group).collect()
}

/// A node of `count` of `all` rows, whose derivatives are below `most` in size.
fn node(noise: &mut Noise, (all, count): (usize, usize), most: [u32; 2]) -> Node {
    let mut bins_of = |group: &[u32]| {
        let row = |noise: &mut Noise| -> Vec<u8> {
            let bin = |bins: &u32| noise.below(bins + u32::from(has_missing(*bins))) as u8;
            group.iter().map(bin).collect()
        };
        (0..all).flat_map(|_| row(noise)).collect::<Vec<u8>>()
    };
    let bins = VALUE_BINS.iter().map(|group| bins_of(group)).collect();
    let packed = |noise: &mut Noise| {
        let gradient = i64::from(noise.below(2 * most[0] - 1)) - i64::from(most[0] - 1);
        (gradient << 32) + i64::from(noise.below(most[1]))
    };
    Node {
        all,
        bins,
        packed: (0..all).map(|_| packed(noise)).collect(),
        rows: (0..count).map(|_| noise.below(all as u32)).collect(),
    }
}

impl Node {
    fn on_cpu(&self, rows: &[u32]) -> Vec<i64> {
        let mut sums = vec![0; VALUE_BINS.len() * TILE];
        let mut own = Vec::new();
        trees::pick(&self.packed, rows, &mut own);
        for (group, tile) in sums.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            let offsets: Vec<u16> = offsets(group).iter().map(|offset| *offset as u16).collect();
            trees::accumulate(&self.bins[group], &offsets, rows, &own, tile);
        }
        sums
    }

    fn bins(&self, client: &Client) -> gpu::GpuBins {
        let groups = self.bins.iter().enumerate().map(|(group, bins)| (bins.clone(), offsets(group)));
        gpu::GpuBins::upload(client, self.all, groups)
    }

    fn on_gpu(&self, client: &Client, rows: &[u32]) -> Values {
        let [rows, packed] = [Values::upload(client, rows), Values::upload(client, &self.packed)];
        gpu::accumulate(client, &self.bins(client), &rows, &packed)
    }
}

#[test]
fn sums_by_bin_are_those_of_the_cpu_to_the_last_unit() {
    let client = client();
    let mut noise = Noise(3);
    // One row, less than a cube has units, and more than all cubes take at 16 rows a unit; the sums of the last leave 31
    // bits, and those of each row are as large as they get.
    let million = 512 * 128 * 16 + 4321;
    for (rows, most) in [
        ((1, 1), [1000, 500]),
        ((100, 37), [1000, 500]),
        ((5_000, 20_000), [1000, 500]),
        ((200, million), [1000, 500]),
        ((400, 400), [1 << 23, 1 << 24]),
    ] {
        let node = node(&mut noise, rows, most);
        let got = node.on_gpu(&client, &node.rows);
        let want = node.on_cpu(&node.rows);
        assert_eq!(got.read::<i64>(&client).unwrap(), want, "{rows:?} {most:?}");
        // A child, and the other one by subtraction.
        let (some, others) = node.rows.split_at(node.rows.len() / 3);
        if !some.is_empty() {
            let rest = gpu::subtract(&client, &got, &node.on_gpu(&client, some));
            assert_eq!(rest.read::<i64>(&client).unwrap(), node.on_cpu(others), "{rows:?} {most:?}");
            let parts = rest.read_parts::<i64>(&client, &[0..2, 2 * TILE..2 * TILE + 512]).unwrap();
            assert_eq!(parts, [&node.on_cpu(others)[..1], &node.on_cpu(others)[TILE..TILE + 256]]);
        }
    }
    let heavy = node(&mut noise, (400, 400), [1 << 23, 1 << 24]);
    let (_, hessian) = trees::sum_of(trees::total(&heavy.packed, &heavy.rows));
    assert!(hessian > i64::from(i32::MAX), "second derivatives take the 32nd bit too: {hessian}");
}

#[test]
fn the_best_splits_are_within_the_bounds_and_no_contender_is_missing() {
    let client = client();
    let mut noise = Noise(4);
    let features = features();
    let on_gpu = gpu::Features::upload(&client, &features);
    let (mut looked_at, mut found) = (0, 0);
    for round in 0..60 {
        let rows = (1 + noise.below(3_000) as usize, 1 + noise.below(3_000) as usize);
        let most = if round % 7 == 6 { [1 << 19, 1 << 20] } else { [1001, 500] };
        let node = node(&mut noise, rows, most);
        let quantum = Quantum { gradient: 0.01, hessian: 0.02 };
        let l1 = if round % 2 == 0 { 0.0 } else { 3.0 };
        let penalties = Penalties { l2: 1.0, l1, least_hessian: f64::from(round % 5) };
        let sums = node.on_cpu(&node.rows);
        let total = trees::total(&node.packed, &node.rows);
        let least = if round % 3 == 0 { 0.0 } else { 5.0 };
        let limits = gpu::ScanLimits { total, quantum, penalties, least };
        let device_sums = node.on_gpu(&client, &node.rows);
        let bounds = gpu::score_bounds(&client, &device_sums, &on_gpu, &limits).unwrap();
        let contenders = gpu::contenders(&client, &device_sums, &on_gpu, &limits).unwrap();
        let (g, h) = trees::sum_of(total);
        let parent = penalties.score(g as f64 * quantum.gradient, h as f64 * quantum.hessian);
        let unit = quantum.gradient * quantum.gradient / quantum.hessian;
        let mut gains = Vec::new();
        for (feature, [low, high]) in features.iter().zip(&bounds) {
            let (start, bins) = (feature.slot as usize, feature.value_bins as usize);
            let own = &sums[start..start + bins + usize::from(feature.missing)];
            let split = trees::best_split(own, bins, total, &quantum, &penalties, least);
            gains.push(split.map(|split| split.gain));
            let score = split.map_or(0.0, |split| split.gain + parent) / unit;
            assert!(score <= f64::from(*high), "round {round}: {split:?} {score} {low} {high}");
            // What does not gain enough has a score all the same.
            assert!(split.is_none() || f64::from(*low) <= score, "round {round}: {split:?} {low} {high}");
            if l1 == 0.0 {
                assert!(high - low <= 1e-4 * high, "round {round}: {low} {high}");
            }
        }
        let best = gains.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
        for (position, gain) in gains.iter().enumerate().filter(|(_, gain)| **gain == Some(best)) {
            assert!(
                contenders.contains(&position),
                "round {round}: {position} gains {gain:?}, {contenders:?}"
            );
        }
        found += usize::from(best.is_finite());
        looked_at += if best.is_finite() { contenders.len() } else { 0 };
    }
    assert!(found > 20 && looked_at < 2 * found, "{looked_at} features were looked at for {found} splits");
}

#[test]
fn penalties_out_of_the_range_of_estimates_have_all_features_looked_at() {
    let client = client();
    let mut noise = Noise(5);
    let node = node(&mut noise, (50, 50), [1000, 500]);
    let features = features();
    let on_gpu = gpu::Features::upload(&client, &features);
    let sums = node.on_gpu(&client, &node.rows);
    let contenders = |penalties| {
        let quantum = Quantum { gradient: 1.0, hessian: 1.0 };
        let total = trees::total(&node.packed, &node.rows);
        let limits = gpu::ScanLimits { total, quantum, penalties, least: 0.0 };
        gpu::contenders(&client, &sums, &on_gpu, &limits).unwrap().len()
    };
    let penalties = Penalties { l2: 1.0, l1: 0.0, least_hessian: 0.0 };
    assert_eq!(contenders(Penalties { l2: 1e31, ..penalties }), features.len());
    assert_eq!(contenders(Penalties { least_hessian: 1e12, ..penalties }), 0);
    assert!((1..features.len()).contains(&contenders(penalties)));
}

#[test]
fn dense_layers_are_those_of_the_cpu() {
    const TOLERANCE: f32 = 1e-5;
    let client = client();
    let mut noise = Noise(7);
    for (rows, inputs, outputs) in
        [(1, 1, 1), (3, 5, 2), (16, 16, 16), (17, 33, 15), (128, 64, 100), (70, 300, 10)]
    {
        let what = format!("{rows} x {inputs} x {outputs}");
        let mut x = noise.values(rows * inputs);
        let (weight, bias) = (noise.values(outputs * inputs), noise.values(outputs));
        x.iter_mut().for_each(|value| *value = value.max(0.0));
        let on_gpu = [&x, &weight, &bias].map(|values| Values::upload(&client, values));
        let [gpu_x, gpu_weight, gpu_bias] = &on_gpu;
        let gpu_layer = gpu::GpuDense { weight: gpu_weight, bias: gpu_bias };
        let layer = kernels::Dense { weight: Matrix::new(&weight, outputs, inputs), bias: &bias };
        let x_matrix = Matrix::new(&x, rows, inputs);
        let mut y = vec![0.0; rows * outputs];
        layer.forward(x_matrix, Activation::Identity, &mut y);
        let got = gpu_layer.forward(&client, gpu_x, false).read(&client).unwrap();
        close(&format!("forward of {what}"), &got, &y, TOLERANCE);
        layer.forward(x_matrix, Activation::Relu, &mut y);
        let got = gpu_layer.forward(&client, gpu_x, true).read(&client).unwrap();
        close(&format!("forward of {what}, with ReLU"), &got, &y, TOLERANCE);

        let by_y = noise.values(rows * outputs);
        let gpu_by_y = Values::upload(&client, &by_y);
        let mut by_x = vec![0.0; rows * inputs];
        layer.backward(&by_y, Some(Gate { output: &x, scale: 1.0 }), &mut by_x);
        let got = gpu_layer.backward(&client, gpu_x, &gpu_by_y).read(&client).unwrap();
        close(&format!("backward of {what}"), &got, &by_x, TOLERANCE);
        let (mut by_weight, mut by_bias) = (vec![0.0; weight.len()], vec![0.0; outputs]);
        let gradients =
            DenseGradients { by_weight: &mut by_weight, order: Order::Rows, by_bias: &mut by_bias };
        kernels::dense_gradients(x_matrix, &by_y, gradients);
        let (got_weight, got_bias) = gpu::dense_gradients(&client, gpu_x, &gpu_by_y, outputs);
        close(&format!("gradient of {what} by W"), &got_weight.read(&client).unwrap(), &by_weight, TOLERANCE);
        close(&format!("gradient of {what} by b"), &got_bias.read(&client).unwrap(), &by_bias, TOLERANCE);
    }
    let nan = Values::upload(&client, &[f32::NAN]);
    let one = Values::upload(&client, &[1.0_f32]);
    let through = gpu::GpuDense { weight: &one, bias: &one }.forward(&client, &nan, true);
    assert!(through.read::<f32>(&client).unwrap()[0].is_nan(), "a network that diverges must be seen to");
}

/// A layer on the CPU: parameters with their moments.
struct Layer {
    weight: [Vec<f32>; 3],
    bias: [Vec<f32>; 3],
}

/// `values` as so many rows.
fn matrix(values: &[f32], rows: usize) -> Matrix<'_> {
    Matrix::new(values, rows, values.len() / rows)
}

/// One training step of `layers` on the CPU; returns the mean loss.
fn step_on_cpu(layers: &mut [Layer], x: &[f32], targets: &[u32], step: u64) -> f64 {
    let rows = targets.len();
    let depth = layers.len();
    let mut activations = vec![x.to_vec()];
    for (at, layer) in layers.iter().enumerate() {
        let mut y = vec![0.0; rows * layer.bias[0].len()];
        let activation = if at + 1 < depth { Activation::Relu } else { Activation::Identity };
        let x = matrix(&activations[at], rows);
        let dense =
            kernels::Dense { weight: matrix(&layer.weight[0], layer.bias[0].len()), bias: &layer.bias[0] };
        dense.forward(x, activation, &mut y);
        activations.push(y);
    }
    let classes = layers[depth - 1].bias[0].len();
    let logits = activations.pop().unwrap();
    let mut by_y = vec![0.0; logits.len()];
    let sums = kernels::softmax_cross_entropy_gradient(&logits, classes, targets, &mut by_y);
    for (at, layer) in layers.iter_mut().enumerate().rev() {
        let x = &activations[at];
        let (mut by_weight, mut by_bias) = (vec![0.0; layer.weight[0].len()], vec![0.0; layer.bias[0].len()]);
        let gradients =
            DenseGradients { by_weight: &mut by_weight, order: Order::Rows, by_bias: &mut by_bias };
        kernels::dense_gradients(matrix(x, rows), &by_y, gradients);
        let mut by_x = vec![0.0; x.len()];
        let gate = Some(Gate { output: x, scale: 1.0 });
        let weight = matrix(&layer.weight[0], layer.bias[0].len());
        kernels::Dense { weight, bias: &layer.bias[0] }.backward(&by_y, gate, &mut by_x);
        by_y = by_x;
        for (learning, gradient) in [(&mut layer.weight, &by_weight), (&mut layer.bias, &by_bias)] {
            let [parameters, first, second] = learning;
            let descent = Descent { parameters, gradient, learning_rate: 0.01, weight_decay: 0.001 };
            kernels::adam(descent, AdamMoments { first, second, step });
        }
    }
    sums.loss / rows as f64
}

#[test]
fn a_training_step_is_that_of_the_cpu_and_learns() {
    // Adam divides by the root of the squared slopes, so that a rounding of a small slope moves its parameter by more.
    const TOLERANCE: f32 = 1e-3;
    const STEPS: u64 = 60;
    let client = client();
    let mut noise = Noise(8);
    let (rows, widths) = (96, [20, 33, 16, 4]);
    let x = noise.values(rows * widths[0]);
    let targets: Vec<u32> =
        x.chunks(widths[0]).map(|row| u32::from(row[0] > 0.0) + 2 * u32::from(row[1] > 0.0)).collect();
    let mut layers: Vec<Layer> = Vec::new();
    for pair in widths.windows(2) {
        let scale = (pair[0] as f32).sqrt().recip();
        let weight: Vec<f32> = noise.values(pair[0] * pair[1]).iter().map(|value| value * scale).collect();
        let zeros = vec![0.0; weight.len()];
        layers
            .push(Layer { weight: [weight, zeros.clone(), zeros], bias: [0; 3].map(|_| vec![0.0; pair[1]]) });
    }
    let learning = |values: &[Vec<f32>; 3]| gpu::Learning::upload(&client, &values[0]);
    let mut on_gpu: Vec<_> = layers
        .iter()
        .map(|layer| gpu::LearningLayer { weight: learning(&layer.weight), bias: learning(&layer.bias) })
        .collect();
    let [gpu_x, class_weights] = [&x[..], &[1.0; 4]].map(|values| Values::upload(&client, values));
    let gpu_targets = Values::upload(&client, &targets);
    let mut losses = Vec::new();
    for step in 1..=STEPS {
        let want = step_on_cpu(&mut layers, &x, &targets, step);
        let (x, targets, class_weights) = (&gpu_x, &gpu_targets, &class_weights);
        let batch =
            gpu::StepBatch { x, targets, class_weights, learning_rate: 0.01, weight_decay: 0.001, step };
        let figures = gpu::train_step(&client, &mut on_gpu, batch).read::<f32>(&client).unwrap();
        let loss = figures[..rows].iter().sum::<f32>() / rows as f32;
        close(&format!("loss of step {step}"), &[loss], &[want as f32], TOLERANCE);
        losses.push(loss);
    }
    assert!(losses[STEPS as usize - 1] < 0.2 * losses[0], "{losses:?}");
    for (at, (layer, gpu)) in layers.iter().zip(&on_gpu).enumerate() {
        for (name, learning, want) in [("W", &gpu.weight, &layer.weight[0]), ("b", &gpu.bias, &layer.bias[0])]
        {
            close(&format!("{name} of layer {at}"), &learning.values.read(&client).unwrap(), want, TOLERANCE);
        }
    }
}

#[test]
fn what_the_device_cannot_hold_is_an_error_that_says_so() {
    let client = client();
    let most = client.properties().memory.max_page_size;
    let error = Values::empty(&client, (most / 4 + 1) as usize).read::<u32>(&client).unwrap_err().to_string();
    assert!(error.contains("can't allocate buffer of size"), "{error}");
    // And nothing else fails for that.
    assert_eq!(Values::upload(&client, &[1_u32, 2]).read::<u32>(&client).unwrap(), [1, 2]);
}
