//! Connections to a relay that is sometimes slow or silent.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use crate::relay::{GREETING, Mode};
use crate::report::Row;
use crate::stage::Stage;

/// Connections at once, and in turn in each of these rows.
const ROWS: usize = 30;
const IN_ROW: usize = 10;
const CONNECTIONS: usize = ROWS * IN_ROW;

pub(crate) fn measure(stage: &Stage) -> Result<Vec<Row>> {
    stage.relay.set_mode(Mode::Tail);
    let dials = &stage.relay.counts().tcp;
    let before = dials.load(Ordering::Relaxed);
    let mut times = thread::scope(|scope| {
        let rows: Vec<_> =
            (0..ROWS).map(|_| stage.arcssh()).map(|arcssh| scope.spawn(|| row(arcssh))).collect();
        let joined = rows.into_iter().map(|row| row.join().map_err(|_panic| anyhow!("a thread panicked"))?);
        Ok::<_, anyhow::Error>(joined.collect::<Result<Vec<_>>>()?.concat())
    })?;
    times.sort_by(f64::total_cmp);
    let dials = dials.load(Ordering::Relaxed) - before;
    let name = |figure: &str| format!("{CONNECTIONS} connections to a slow relay: {figure}");
    Ok(vec![
        Row::alone(name("median"), "s", times[CONNECTIONS / 2]),
        Row::alone(name("99th percentile"), "s", times[CONNECTIONS * 99 / 100]),
        Row::alone(name("TCP connections for each"), "number", dials as f64 / CONNECTIONS as f64),
    ])
}

/// Returns the times from the start of arcssh to its end, which follows the greeting.
fn row(mut arcssh: Command) -> Result<Vec<f64>> {
    let mut run = || {
        let start = Instant::now();
        let output = arcssh.stdin(Stdio::null()).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.stdout == GREETING.as_bytes(), "a connection failed: {errors}");
        Ok(start.elapsed().as_secs_f64())
    };
    (0..IN_ROW).map(|_| run()).collect()
}
