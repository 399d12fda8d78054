//! How far two equal programs differ on this machine: the same work as ours and as peer. A ratio elsewhere that lies within this one's
//! distance from 1 means nothing.

use std::hint::black_box;
use std::io;
use std::time::Duration;

use suijuris_testkit::bench::{
    Better, Contender, Report, Row, Settings, allowed_cpus, interleave, pin, thread_cpu,
};

/// Iterations of one round: a few milliseconds.
const ITERATIONS: u64 = 2_000_000;

fn main() -> io::Result<()> {
    let settings = Settings::from_env();
    pin(0, allowed_cpus()?.get(..1).unwrap_or_default())?;
    let mut contenders = [
        Contender::new("ours", round),
        Contender::new("the same again", round),
    ];
    let samples = interleave(settings.scale(200), &mut contenders);
    let mut report = Report::new("noise", &settings);
    if let [ours, peer] = samples.as_slice() {
        report.row(Row {
            what: "equal work, CPU time".to_owned(),
            unit: "ms",
            better: Better::Lower,
            ours: ours.median(),
            peer: peer.name.clone(),
            theirs: peer.median(),
            budget: None,
        });
        report.note(format!(
            "half of the rounds lie within {:.1}% of each other",
            ours.spread() * 100.0
        ));
    }
    report.publish(&settings)
}

/// CPU time of one round, ms; NaN where the thread's clock fails.
fn round() -> f64 {
    let start = thread_cpu();
    let sum = (0..ITERATIONS).fold(0_u64, |sum, number| black_box(sum.rotate_left(5) ^ number));
    black_box(sum);
    let took = start.and_then(|start| Ok(thread_cpu()?.saturating_sub(start)));
    took.as_ref().map_or(f64::NAN, Duration::as_secs_f64) * 1_000.0
}
