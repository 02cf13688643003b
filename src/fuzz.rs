//! For tests: inputs that nobody would send, made from good ones by a seeded generator, and a count of how many.
//!
//! FUZZ_INPUTS and FUZZ_SEED say how many and which; scripts/fuzz asks for a million of each. An input follows from
//! seed and number alone: FUZZ_ONLY=NUMBER repeats one.

use std::time::Instant;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Inputs of each kind in an ordinary run of the tests.
const INPUTS: u64 = 5_000;

/// Longest input that is made, in bytes; what matters is near the beginning.
const MAX_BYTES: usize = 1 << 16;

/// Values at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    u64::MAX,
];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Says which input it was when the reader under test panics.
struct Witness<'a> {
    name: &'a str,
    seed: u64,
    number: u64,
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("fuzz {}: FUZZ_SEED={} FUZZ_ONLY={} does it", self.name, self.seed, self.number);
        }
    }
}

/// Gives `target` inputs made from `good` ones, as many as FUZZ_INPUTS says.
pub(crate) fn run(name: &str, good: &[Vec<u8>], target: impl FnMut(&[u8])) {
    run_part(name, good, 1, target);
}

/// As [`run`], for a slow reader: one in `part` of the inputs that an ordinary run has, all of what is asked for.
pub(crate) fn run_part(name: &str, good: &[Vec<u8>], part: u64, mut target: impl FnMut(&[u8])) {
    assert!(!good.is_empty());
    let seed = variable("FUZZ_SEED").unwrap_or(1);
    let numbers = match variable("FUZZ_ONLY") {
        Some(number) => number..number + 1,
        None => 0..variable("FUZZ_INPUTS").unwrap_or(INPUTS / part),
    };
    for input in good {
        target(input);
    }
    let began = Instant::now();
    let count = numbers.end - numbers.start;
    for number in numbers {
        let witness = Witness { name, seed, number };
        target(&input(good, seed, number));
        std::mem::drop(witness);
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    println!("fuzz {name}: {count} inputs, seed {seed}, {rate:.0} a second, none panicked");
}

/// The input of this seed and number.
fn input(good: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    if random.random_range(0..32) == 0 {
        let mut noise = vec![0; random.random_range(0..256)];
        random.fill(noise.as_mut_slice());
        return noise;
    }
    let mut bytes = good[random.random_range(0..good.len())].clone();
    for _ in 0..random.random_range(1..=6) {
        damage(&mut bytes, good, &mut random);
        bytes.truncate(MAX_BYTES);
    }
    bytes
}

/// Does one thing to `bytes`.
fn damage(bytes: &mut Vec<u8>, good: &[Vec<u8>], random: &mut ChaCha8Rng) {
    let length = bytes.len();
    let at = random.random_range(0..=length);
    let end = random.random_range(at..=length.min(at + 32));
    let edge = EDGES[random.random_range(0..EDGES.len())];
    match random.random_range(0..9) {
        0 if at < length => bytes[at] ^= 1 << random.random_range(0..8),
        1 if at < length => bytes[at] = random.random(),
        2 => {
            let mut noise = vec![0; random.random_range(1..9)];
            random.fill(noise.as_mut_slice());
            bytes.splice(at..at, noise);
        }
        3 => drop(bytes.drain(at..end)),
        4 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        5 => bytes.truncate(at),
        6 => {
            let width = if random.random() { 4 } else { 8 };
            let edge = &edge.to_le_bytes()[..width];
            bytes.splice(at..length.min(at + width), edge.iter().copied());
        }
        7 => {
            let mut varint = Vec::new();
            prost::encoding::encode_varint(edge, &mut varint);
            bytes.splice(at..end, varint);
        }
        _ => {
            let other = &good[random.random_range(0..good.len())];
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len().min(from + 64));
            bytes.splice(at..at, other[from..to].iter().copied());
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_inputs_and_they_differ() {
    let good = vec![b"a good input".to_vec(), b"another one".to_vec()];
    let made: Vec<_> = (0..200).map(|number| input(&good, 7, number)).collect();
    assert_eq!(made, (0..200).map(|number| input(&good, 7, number)).collect::<Vec<_>>());
    let distinct: std::collections::BTreeSet<_> = made.iter().collect();
    assert!(distinct.len() > 180, "{}", distinct.len());
}
