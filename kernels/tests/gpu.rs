//! Each kernel for GPUs against its form for the CPU on random numbers, through Mesa's Vulkan driver, which computes on
//! the CPU and which scripts/test installs; where it is not there, through the GPU of this machine.
#![cfg(feature = "wgpu")]

use cubecl::Device;
use cubecl::device::WgpuDeviceKind;
use tensorfleet_kernels::gpu::{self, Client, Values};
use tensorfleet_kernels::trees::{self, Penalties, Quantum, Side, TILE};
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

/// Features of a node: bins of values of each, with one more where values are missing.
const VALUE_BINS: [u32; 6] = [255, 3, 1, 64, 200, 17];

/// What the histogram and split tests begin with.
struct Node {
    bins: Vec<u8>,
    offsets: Vec<u32>,
    derivatives: Vec<[i32; 2]>,
    rows: Vec<u32>,
}

fn node(noise: &mut Noise, all: usize, count: usize) -> Node {
    let width = VALUE_BINS.len();
    let mut bins = Vec::with_capacity(all * width);
    for _ in 0..all {
        // The third feature is never missing.
        bins.extend(VALUE_BINS.iter().enumerate().map(|(feature, bins)| match feature {
            2 => noise.below(*bins) as u8,
            _ => noise.below(bins + 1) as u8,
        }));
    }
    let offsets = VALUE_BINS.iter().scan(0, |end, bins| {
        let start = *end;
        *end += bins + 1;
        Some(start)
    });
    Node {
        bins,
        offsets: offsets.collect(),
        derivatives: (0..all).map(|_| [noise.below(2001) as i32 - 1000, noise.below(500) as i32]).collect(),
        rows: (0..count).map(|_| noise.below(all as u32)).collect(),
    }
}

impl Node {
    fn on_cpu(&self) -> Box<[i64; TILE]> {
        let offsets: Vec<u16> = self.offsets.iter().map(|offset| *offset as u16).collect();
        let packed: Vec<i64> =
            self.derivatives.iter().map(|[g, h]| (i64::from(*g) << 32) + i64::from(*h)).collect();
        let (mut tile, mut own) = (Box::new([0; TILE]), Vec::new());
        trees::pick(&packed, &self.rows, &mut own);
        trees::accumulate(&self.bins, &offsets, &self.rows, &own, &mut tile);
        tile
    }

    fn on_gpu(&self, client: &Client) -> Values {
        let words = Values::upload(client, &gpu::pack_bins(&self.bins, VALUE_BINS.len()));
        let offsets = Values::upload(client, &self.offsets);
        let rows = Values::upload(client, &self.rows);
        let derivatives = Values::upload(client, self.derivatives.as_flattened());
        gpu::accumulate(
            client,
            gpu::Binned { words: &words, offsets: &offsets },
            gpu::NodeRows { rows: &rows, derivatives: &derivatives },
        )
    }
}

#[test]
fn sums_by_bin_are_those_of_the_cpu_to_the_last_unit() {
    let client = client();
    let mut noise = Noise(3);
    for (all, count) in [(1, 1), (100, 37), (5_000, 20_000)] {
        let node = node(&mut noise, all, count);
        let got: Vec<i32> = node.on_gpu(&client).read(&client).unwrap();
        let want = node.on_cpu();
        for (slot, (got, want)) in got.as_chunks::<2>().0.iter().zip(want.iter()).enumerate() {
            let (gradient, hessian) = trees::sum_of(*want);
            assert_eq!(got.map(i64::from), [gradient, hessian], "{all} {count}: slot {slot}");
        }
    }
}

#[test]
fn splits_gain_as_much_as_those_of_the_cpu() {
    /// Of the greater of the gain and the score of the node, from which it is the difference.
    const TOLERANCE: f64 = 1e-5;
    let client = client();
    let mut noise = Noise(4);
    let quantum = Quantum { gradient: 0.01, hessian: 0.02 };
    for round in 0..40 {
        let (all, count) = (1 + noise.below(3_000) as usize, 1 + noise.below(3_000) as usize);
        let node = node(&mut noise, all, count);
        let l1 = if round % 2 == 0 { 0.0 } else { 3.0 };
        let penalties = Penalties { l2: 1.0, l1, least_hessian: f64::from(round % 5) };
        let sums = node.on_cpu();
        let total = node.rows.iter().fold([0; 2], |[g, h], row| {
            let [own_g, own_h] = node.derivatives[*row as usize];
            [g + own_g, h + own_h]
        });
        let packed = (i64::from(total[0]) << 32) + i64::from(total[1]);
        let features: Vec<gpu::Feature> = std::iter::zip(&node.offsets, VALUE_BINS)
            .map(|(offset, value_bins)| gpu::Feature { offset: *offset, value_bins })
            .collect();
        let limits = gpu::ScanLimits { total, quantum, penalties };
        let found = gpu::best_splits(&client, &node.on_gpu(&client), &features, &limits);
        let real = |sum: i64| {
            let (g, h) = trees::sum_of(sum);
            (g as f64 * quantum.gradient, h as f64 * quantum.hessian)
        };
        let score = |sum| penalties.score(real(sum).0, real(sum).1);
        let parent = score(packed);
        for (feature, got) in features.iter().zip(found) {
            let (start, bins) = (feature.offset as usize, feature.value_bins as usize);
            let own = &sums[start..=start + bins];
            let want = trees::best_split(own, bins, packed, &quantum, &penalties, 0.0);
            let gain = want.map_or(0.0, |split| split.gain);
            let near = TOLERANCE * gain.max(parent).max(1.0);
            let Some(got) = got else {
                assert!(gain <= near, "round {round}: {want:?} was not found");
                continue;
            };
            // What the split that was found gains, by definition.
            let values: i64 = own[..=got.bin as usize].iter().sum();
            let missing = if got.default == Side::Left { own[bins] } else { 0 };
            let left = values + missing;
            let (left_h, right_h) = (real(left).1, real(packed - left).1);
            let exact = score(left) + score(packed - left) - parent;
            assert!((f64::from(got.gain) - exact).abs() <= near, "round {round}: {got:?} {exact}");
            assert!((exact - gain).abs() <= near, "round {round}: {got:?} {exact}, {want:?}");
            assert!(
                left_h.min(right_h) >= penalties.least_hessian * (1.0 - TOLERANCE),
                "round {round}: {got:?}"
            );
        }
    }
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
