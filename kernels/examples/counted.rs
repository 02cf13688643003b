//! Does one kind of work a number of times, for a tool that counts instructions: `counted WORK TIMES`.

#[path = "../../benches/support/kernels.rs"]
mod work;

use work::Histogram;

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = arguments.as_slice() else { return Err("usage: counted WORK TIMES".to_owned()) };
    let times: u32 =
        times.parse().map_err(|_| format!("TIMES \"{times}\" is not allowed; allowed: whole numbers"))?;
    let result = match name.as_str() {
        "adam" => work::Descending::new(235_146).steps(times),
        "histogram" => {
            let mut histogram = Histogram::new(10_000);
            (0..times).map(|_| histogram.pass() as f64).sum::<f64>()
        }
        _ => {
            return Err(format!("WORK \"{name}\" is not allowed; allowed: adam, histogram"));
        }
    };
    println!("{result}");
    Ok(())
}
