//! The time from a key to its echo.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::client::Client;
use crate::parts::{in_turn, pair};
use crate::relay::Mode;
use crate::report::{Goal, Row};
use crate::stage::Stage;

const PAIRS: usize = 9;
const KEYS: usize = 2000;
/// Keys that are not measured: the first ones find cold caches.
const FIRST: usize = 100;
/// The length of ssh's packet for one key, with padding and authentication tag (RFC 4253, section 6).
const PACKET: usize = 36;

pub(crate) fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let [half, most] = in_turn(stage, PAIRS, |command| run(stage, command))?;
    Ok(vec![
        pair("echo of a key: median", "µs", half, Goal::RatioAtMost(1.04)),
        pair("echo of a key: 99th percentile", "µs", most, Goal::None),
    ])
}

fn run(stage: &Stage, command: Command) -> Result<[f64; 2]> {
    let mut client = Client::start(&stage.relay, command, Mode::Echo((KEYS * PACKET) as u64))?;
    let mut packet = [0; PACKET];
    let mut times = Vec::with_capacity(KEYS);
    for _ in 0..KEYS {
        let start = Instant::now();
        client.input.write_all(&packet)?;
        client.output.read_exact(&mut packet)?;
        times.push(start.elapsed());
    }
    client.finish()?;
    times.drain(..FIRST);
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    Ok([at(50), at(99)])
}
