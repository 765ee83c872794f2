//! ssh with a large file at several round-trip times.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::delay::Delay;
use crate::parts::pair;
use crate::relay::Mode;
use crate::report::{Goal, Row, median};
use crate::stage::Stage;

const PAIRS: usize = 3;
const GIB: u64 = 1024 * 1024 * 1024;

pub(crate) fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let sshd = stage.playground.sshd().port();
    stage.relay.set_mode(Mode::Port(sshd));
    let relay = stage.relay.address.port();
    let mut rows = Vec::new();
    for (milliseconds, goal) in
        [(0, Goal::None), (20, Goal::RatioAtLeast(0.97)), (50, Goal::RatioAtLeast(0.97))]
    {
        let delay = Duration::from_millis(milliseconds) / 2;
        let (to_relay, to_sshd) = (Delay::start(relay, delay)?, Delay::start(sshd, delay)?);
        let plain = format!("ProxyCommand={}", stage.plain_proxy(to_sshd.port));
        stage.move_relay(relay, to_relay.port)?;
        let (mut through, mut base) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            through.push(run(stage, &[])?);
            base.push(run(stage, &["-o", &plain])?);
        }
        stage.move_relay(to_relay.port, relay)?;
        let rates = (median(through), median(base));
        rows.push(pair(format!("ssh with 1 GiB at {milliseconds} ms, against nc"), "MiB/s", rates, goal));
    }
    Ok(rows)
}

/// Returns the rate of one download, in MiB/s.
fn run(stage: &Stage, options: &[&str]) -> Result<f64> {
    let cipher = ["-c", "aes128-gcm@openssh.com"];
    let mut ssh = stage.ssh(&[&cipher, options].concat(), &format!("head -c {GIB} /dev/zero"));
    let start = Instant::now();
    let mut process = ssh.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let read = process.stdout.take().map(|mut output| std::io::copy(&mut output, &mut std::io::sink()));
    ensure!(process.wait()?.success(), "ssh failed with the options {options:?}");
    ensure!(matches!(read, Some(Ok(GIB))), "ssh delivered {read:?} instead of {GIB} bytes");
    Ok(1024.0 / start.elapsed().as_secs_f64())
}
