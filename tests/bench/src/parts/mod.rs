//! The parts of the benchmark. Each returns its figures.

mod burst;
mod echo;
mod fleet;
mod latency;
mod start;
mod tail;
mod throughput;

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::report::{Goal, Row, median};
use crate::stage::Stage;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// CPU time, rate and memory of large transfers
    Throughput,
    /// The time from a key to its echo
    Echo,
    /// The time from the start to the relay
    Start,
    /// ssh alone and 200 times at once
    Burst,
    /// ssh with 1 GiB at several round-trip times
    Latency,
    /// The configuration of 5,000 machines
    Fleet,
    /// Connections to a relay that is sometimes slow or silent
    Tail,
}

impl Part {
    /// Measures one part.
    pub(crate) fn measure(self, stage: &Stage, arcssh: &Path) -> Result<Vec<Row>> {
        match self {
            Self::Throughput => throughput::measure(stage),
            Self::Echo => echo::measure(stage),
            Self::Start => start::measure(stage),
            Self::Burst => burst::measure(stage),
            Self::Latency => latency::measure(stage),
            Self::Fleet => fleet::measure(arcssh),
            Self::Tail => tail::measure(stage),
        }
    }
}

/// Runs arcssh and the limit in turn, so that a change of the machine's speed affects both. Each run returns `N` figures.
/// Returns the medians of arcssh and of the limit.
fn in_turn<const N: usize>(
    stage: &Stage,
    pairs: usize,
    run: impl Fn(Command) -> Result<[f64; N]>,
) -> Result<[(f64, f64); N]> {
    let mut runs = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        runs.push((run(stage.arcssh())?, run(stage.limit())?));
    }
    Ok(std::array::from_fn(|n| {
        let arcssh = median(runs.iter().map(|(arcssh, _)| arcssh[n]).collect());
        (arcssh, median(runs.iter().map(|(_, limit)| limit[n]).collect()))
    }))
}

/// A figure with its base line.
fn pair(name: impl Into<String>, unit: &'static str, (arcssh, base): (f64, f64), goal: Goal) -> Row {
    Row { name: name.into(), unit, arcssh, base: Some(base), goal }
}
