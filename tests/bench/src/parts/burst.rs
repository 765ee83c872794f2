//! Many ssh at once.

use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::parts::pair;
use crate::relay::Mode;
use crate::report::{Goal, Row, median};
use crate::stage::Stage;

const PAIRS: usize = 3;
const PROCESSES: usize = 200;

pub(crate) fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let port = stage.playground.sshd().port();
    stage.relay.set_mode(Mode::Port(port));
    let direct = [
        "-o".to_owned(),
        "ProxyCommand=none".to_owned(),
        "-o".to_owned(),
        "HostName=127.0.0.1".to_owned(),
        "-p".to_owned(),
        port.to_string(),
    ];
    let direct: Vec<&str> = direct.iter().map(String::as_str).collect();
    let (mut through, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        through.push(run(stage, &[])?);
        plain.push(run(stage, &direct)?);
    }
    let times = (median(through), median(plain));
    Ok(vec![pair(
        format!("{PROCESSES} × ssh at once, against plain ssh"),
        "s",
        times,
        Goal::RatioAtMost(1.10),
    )])
}

fn run(stage: &Stage, options: &[&str]) -> Result<f64> {
    let start = Instant::now();
    let spawn = |_| stage.ssh(options, "true").stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let processes = (0..PROCESSES).map(spawn).collect::<std::io::Result<Vec<Child>>>()?;
    let mut failed = 0;
    for mut process in processes {
        failed += usize::from(!process.wait()?.success());
    }
    ensure!(failed == 0, "{failed} of {PROCESSES} ssh failed with the options {options:?}");
    Ok(start.elapsed().as_secs_f64())
}
