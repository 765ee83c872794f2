//! CPU time, rate and memory of large transfers.

use std::process::Command;

use anyhow::Result;

use crate::client::Client;
use crate::parts::{in_turn, pair};
use crate::relay::Mode;
use crate::report::{Goal, Row};
use crate::stage::Stage;

const PAIRS: usize = 7;
const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

pub(crate) fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, mode, (up, down), bound) in [
        ("up", Mode::Up(GIB), (GIB, 0), 1.10),
        ("down", Mode::Down(GIB), (0, GIB), 0.85),
        ("both ways", Mode::Echo(GIB), (GIB, GIB), 1.05),
    ] {
        let run = |command: Command| {
            let mut client = Client::start(&stage.relay, command, mode)?;
            let time = client.transfer(up, down)?;
            let usage = client.finish()?;
            let rate = 1024.0 / time.as_secs_f64();
            Ok([usage.cpu.as_secs_f64(), rate, usage.peak_kib as f64 / 1024.0])
        };
        let [cpu, rate, peak] = in_turn(stage, PAIRS, run)?;
        rows.push(pair(format!("{name}: CPU time"), "s/GiB", cpu, Goal::RatioAtMost(bound)));
        rows.push(pair(format!("{name}: rate"), "MiB/s", rate, Goal::None));
        rows.push(pair(format!("{name}: peak memory"), "MiB", peak, Goal::AtMost(6.0)));
    }
    Ok(rows)
}
