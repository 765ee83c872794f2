//! What a connection with cached credentials costs, in counts that do not depend on the machine's load: round trips,
//! requests, processes and instructions.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::print;
use crate::relay::Mode;
use crate::stage::Stage;

/// The largest accepted difference to the recorded instructions, in percent. Runs of one program differ by less than 1 %
/// (docs/PERFORMANCE.md).
const TOLERANCE: f64 = 3.0;
const RUNS: usize = 3;
const MIB_16: u64 = 16 * 1024 * 1024;
/// The instruction sets that ring, memchr and the C library select at run time (cpuid(4), names of `/proc/cpuinfo`).
const CPU_FLAGS: [&str; 9] =
    ["adx", "aes", "avx", "avx2", "bmi1", "bmi2", "pclmulqdq", "sha_ni", "vpclmulqdq"];
/// The system's root certificates, which every start reads.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The recorded file.
#[derive(Serialize, Deserialize)]
struct Record {
    /// What the counts depend on, besides arcssh.
    conditions: BTreeMap<String, String>,
    instructions: BTreeMap<String, u64>,
}

/// What happens to the counted instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Compare,
    Record,
}

/// Checks the counts of a connection, and compares the instructions with the recorded ones, or records them.
pub(crate) fn check(arcssh: &Path, file: &Path, action: Action) -> Result<()> {
    let stage = Stage::start(arcssh)?;
    check_round_trips(&stage)?;
    print(
        "round trips: 1 TCP connection, 1 TLS handshake without HelloRetryRequest, 1 upgrade, no request to Azure",
    );
    let Ok(valgrind) = output("valgrind", &["--version"]) else {
        print("instructions: not counted: valgrind is not installed");
        return Ok(());
    };
    let measured = Record { conditions: conditions(arcssh, valgrind)?, instructions: instructions(&stage)? };
    if action == Action::Record {
        fs::write(file, serde_json::to_string_pretty(&measured)? + "\n")?;
        print(&format!("recorded in {}", file.display()));
        return Ok(());
    }
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    compare(&serde_json::from_str(&text)?, &measured)
}

/// Compares only if the conditions are those of the record.
fn compare(recorded: &Record, measured: &Record) -> Result<()> {
    for (name, condition) in &measured.conditions {
        let before = recorded.conditions.get(name).map_or("unknown", String::as_str);
        if before != condition {
            print(&format!("instructions: not compared: {name} is {condition}, and was {before}"));
            return Ok(());
        }
    }
    let mut different = Vec::new();
    for (name, count) in &measured.instructions {
        let before = *recorded.instructions.get(name).with_context(|| format!("{name} is not recorded"))?;
        let percent = (*count as f64 / before as f64 - 1.0) * 100.0;
        if percent.abs() > TOLERANCE {
            different.push(format!(
                "{name}: recorded {before} instructions, measured {count} ({percent:+.1} %, limit {TOLERANCE} %)"
            ));
        }
    }
    ensure!(
        different.is_empty(),
        "{}; if the change is intended, record the new figures: make bench-record",
        different.join("; ")
    );
    print("instructions: as recorded");
    Ok(())
}

/// Fails if a connection with cached credentials does anything but connect once.
fn check_round_trips(stage: &Stage) -> Result<()> {
    let counts = stage.relay.counts();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let all = || [&counts.tcp, &counts.tls, &counts.hello_retry, &counts.upgrades].map(count);
    let (before, requests) = (all(), stage.playground.emulator().requests().len());
    Client::start(&stage.relay, stage.arcssh(), Mode::Up(0))?.finish()?;
    let after = all();
    let requests = stage.playground.emulator().requests().len() - requests;
    let names = ["TCP connections", "TLS handshakes", "HelloRetryRequests", "upgrades"];
    for (n, (name, expected)) in names.into_iter().zip([1, 1, 0, 1]).enumerate() {
        let measured = after[n] - before[n];
        ensure!(measured == expected, "a connection made {measured} {name} instead of {expected}");
    }
    ensure!(requests == 0, "a connection with cached credentials sent {requests} requests to Azure");
    Ok(())
}

/// Counts the instructions of a start and of two transfers.
fn instructions(stage: &Stage) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for (name, mode, (up, down)) in [
        ("start", Mode::Up(0), (0, 0)),
        ("16 MiB up", Mode::Up(MIB_16), (MIB_16, 0)),
        ("16 MiB down", Mode::Down(MIB_16), (0, MIB_16)),
    ] {
        let mut runs = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            runs.push(count_instructions(stage, mode, (up, down))?);
        }
        runs.sort_unstable();
        let median = runs[RUNS / 2];
        print(&format!("{name}: {median} instructions (of {runs:?})"));
        counts.insert(name.to_owned(), median);
    }
    Ok(counts)
}

/// Runs arcssh under cachegrind, which counts instructions in user space.
fn count_instructions(stage: &Stage, mode: Mode, (up, down): (u64, u64)) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let arcssh = stage.arcssh();
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    valgrind.args(["--trace-children=yes", &format!("--log-file={}.%p", log.display())]);
    valgrind.arg(arcssh.get_program()).args(arcssh.get_args()).env_clear();
    valgrind.envs(arcssh.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut client = Client::start(&stage.relay, valgrind, mode)?;
    client.transfer(up, down)?;
    client.finish()?;
    let logs = fs::read_dir(directory.path())?.map(|entry| Ok(fs::read_to_string(entry?.path())?));
    let log = logs.collect::<Result<String>>()?;
    let programs = log.matches(" Command: ").count();
    ensure!(programs == 1, "a connection with cached credentials started {programs} programs instead of 1");
    let line = log.lines().find_map(|line| line.split_once(" refs:")).context("cachegrind has no count")?;
    Ok(line.1.trim().replace(',', "").parse()?)
}

/// What the instructions depend on, besides the sources.
fn conditions(arcssh: &Path, valgrind: String) -> Result<BTreeMap<String, String>> {
    let version = output(arcssh, &["version", "-v"])?;
    let field = |name: &str| {
        let mut lines = version.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
        let value = lines.find(|(field, _)| field.trim_end_matches(':') == name);
        Ok::<_, anyhow::Error>(
            value.with_context(|| format!("arcssh version has no {name}"))?.1.trim().to_owned(),
        )
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let flags: Vec<&str> = flags.split_whitespace().filter(|flag| CPU_FLAGS.contains(flag)).collect();
    let certificates = fs::read_to_string(BUNDLE).unwrap_or_default().matches("BEGIN CERTIFICATE").count();
    let conditions = [
        ("rustc", field("rustc")?),
        ("the program", linking(arcssh)?.to_owned()),
        ("target", field("target")?),
        ("the C library", output("getconf", &["GNU_LIBC_VERSION"]).unwrap_or_else(|_| "unknown".into())),
        ("the CPU", flags.join(" ")),
        ("the number of root certificates", certificates.to_string()),
        ("valgrind", valgrind),
    ];
    Ok(conditions.map(|(name, value)| (name.to_owned(), value)).into())
}

/// The start of a dynamic program includes the work of the loader, whose path is in the program (elf(5), `PT_INTERP`).
fn linking(program: &Path) -> Result<&'static str> {
    let loader = b"/ld-";
    let mut head = Vec::new();
    fs::File::open(program)?.take(4096).read_to_end(&mut head)?;
    Ok(if head.windows(loader.len()).any(|bytes| bytes == loader) { "dynamic" } else { "static" })
}

fn output(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
