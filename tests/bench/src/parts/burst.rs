//! ssh alone, and many ssh at once, against plain ssh to the same sshd.

use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::parts::pair;
use crate::relay::Mode;
use crate::report::{Goal, Row, median};
use crate::stage::Stage;

const PROCESSES: usize = 200;

pub(crate) fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let port = stage.playground.sshd().port();
    stage.relay.set_mode(Mode::Port(port));
    let port = format!("Port={port}");
    let direct = ["-o", "ProxyCommand=none", "-o", "HostName=127.0.0.1", "-o", &port];
    let in_turn = |pairs: usize, processes: usize| {
        let (mut through, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            through.push(run(stage, &[], processes)?);
            plain.push(run(stage, &direct, processes)?);
        }
        Ok::<_, anyhow::Error>((median(through), median(plain)))
    };
    Ok(vec![
        pair("ssh web01 true, against plain ssh", "s", in_turn(21, 1)?, Goal::None),
        pair(
            format!("{PROCESSES} × ssh at once, against plain ssh"),
            "s",
            in_turn(3, PROCESSES)?,
            Goal::RatioAtMost(1.10),
        ),
    ])
}

/// Returns the seconds until the last of the processes has ended.
fn run(stage: &Stage, options: &[&str], count: usize) -> Result<f64> {
    let start = Instant::now();
    let spawn = |_| stage.ssh(options, "true").stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let processes = (0..count).map(spawn).collect::<std::io::Result<Vec<Child>>>()?;
    let mut failed = 0;
    for mut process in processes {
        failed += usize::from(!process.wait()?.success());
    }
    ensure!(failed == 0, "{failed} of {count} ssh failed with the options {options:?}");
    Ok(start.elapsed().as_secs_f64())
}
