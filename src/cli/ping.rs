//! The options of `arcssh ping`.

use std::time::Duration;

use clap::Args;

use crate::cli::destination::DestinationArgs;
use crate::cli::{OutputOrJsonArgs, complete};

/// The shortest and the longest time between two round trips, in seconds.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.2..=3600.0;

#[derive(Debug, Args)]
#[command(next_help_heading = "Measurement")]
pub(crate) struct PingArgs {
    /// Host entry, name, GROUP/NAME or resource ID of a machine
    #[arg(value_name = "MACHINE", display_order = 0, help_heading = "Machines", add = complete::machine())]
    pub(crate) machine: Option<String>,
    /// Number of round trips (0: until Ctrl-C)
    #[arg(short, long, value_name = "NUMBER", default_value = "5")]
    pub(crate) count: u64,
    /// Seconds between two round trips
    #[arg(short, long, value_name = "SECONDS", value_parser = interval, default_value = "1")]
    pub(crate) interval: Duration,
    /// Connect to the machine in each round trip
    ///
    /// Each connection reaches sshd, which limits connections without a login (PerSourcePenalties of OpenSSH 9.8 and
    /// later): for all users of the machine, it can reject connections for some time
    #[arg(long)]
    pub(crate) connect: bool,
    #[command(flatten)]
    pub(crate) output: OutputOrJsonArgs,
    #[command(flatten)]
    pub(crate) destination: DestinationArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| INTERVALS.contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("not a number of seconds from {} to {}", INTERVALS.start(), INTERVALS.end()))
}
