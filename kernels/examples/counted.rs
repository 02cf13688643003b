//! Does one kind of work a number of times, for a tool that counts instructions: `counted WORK TIMES`.

#[path = "../../benches/support/kernels.rs"]
mod work;

use work::{DenseStep, Histogram};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = arguments.as_slice() else { return Err("usage: counted WORK TIMES".to_owned()) };
    let times: u32 =
        times.parse().map_err(|_| format!("TIMES \"{times}\" is not allowed; allowed: whole numbers"))?;
    let steps = |widths: &[usize]| {
        let mut step = DenseStep::new(widths, 128);
        (0..times).map(|_| step.step()).sum::<f64>()
    };
    let result = match name.as_str() {
        "mlp_small_step" => steps(&[64, 128, 64, 10]),
        "mlp_784_step" => steps(&[784, 256, 128, 10]),
        "adam" => work::Descending::new(235_146).steps(times),
        "histogram" => {
            let mut histogram = Histogram::new(10_000);
            (0..times).map(|_| histogram.pass() as f64).sum::<f64>()
        }
        _ => {
            return Err(format!(
                "WORK \"{name}\" is not allowed; allowed: mlp_small_step, mlp_784_step, adam, histogram"
            ));
        }
    };
    println!("{result}");
    Ok(())
}
