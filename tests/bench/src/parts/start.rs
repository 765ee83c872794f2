//! The time from the start of the process to the relay, with cached credentials.

use anyhow::Result;

use crate::client::Client;
use crate::parts::{in_turn, pair};
use crate::relay::Mode;
use crate::report::{Goal, Row};
use crate::stage::Stage;

const PAIRS: usize = 101;

pub(crate) fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let [accepted, requested, cpu] = in_turn(stage, PAIRS, |command| {
        let usage = Client::start(&stage.relay, command, Mode::Up(0))?.finish()?;
        let times = [usage.until_accepted, usage.until_requested, usage.cpu];
        Ok(times.map(|time| time.as_secs_f64() * 1e3))
    })?;
    Ok(vec![
        pair("start until TCP is accepted", "ms", accepted, Goal::RatioAtMost(1.20)),
        pair("start until the upgrade request", "ms", requested, Goal::RatioAtMost(1.10)),
        pair("start: CPU time of a connection without data", "ms", cpu, Goal::None),
    ])
}
