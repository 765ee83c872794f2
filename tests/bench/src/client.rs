//! One run of a client process between this program and the relay.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::relay::{Mode, Relay, Visit};

/// The bytes of one write to a client's standard input, and of one read from its standard output.
const BUFFER: usize = 64 * 1024;

/// A client that has connected to the relay.
pub(crate) struct Client {
    process: Child,
    pub(crate) input: ChildStdin,
    pub(crate) output: ChildStdout,
    visit: Visit,
    started: Instant,
    cpu_before: Duration,
}

/// What a client used from its start to its end.
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// The peak of its resident memory, with the used pages of the program's file, in KiB.
    pub(crate) peak_kib: u64,
    pub(crate) until_accepted: Duration,
    pub(crate) until_requested: Duration,
}

impl Client {
    /// Starts a client and waits for its connection.
    pub(crate) fn start(relay: &Relay, mut command: Command, mode: Mode) -> Result<Self> {
        relay.set_mode(mode);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let cpu_before = cpu_of_children()?;
        let started = Instant::now();
        let mut process = command.spawn().with_context(|| format!("{command:?}"))?;
        let visit = relay.visit().map_err(|error| failure(&mut process, error))?;
        let input = process.stdin.take().context("standard input is a pipe")?;
        let output = process.stdout.take().context("standard output is a pipe")?;
        Ok(Self { process, input, output, visit, started, cpu_before })
    }

    /// Carries the bytes of the mode, and returns the time that it took.
    pub(crate) fn transfer(&mut self, up: u64, down: u64) -> Result<Duration> {
        let start = Instant::now();
        let (input, output) = (&mut self.input, &mut self.output);
        let result = thread::scope(|scope| {
            let writer = scope.spawn(move || write_zeros(input, up));
            let read = read_and_discard(output, down);
            writer.join().map_err(|_panic| anyhow!("the writer panicked"))?.and(read)
        });
        let done = result.and_then(|()| self.visit.done());
        let done = done.map_err(|error| failure(&mut self.process, error))?;
        Ok(done.max(Instant::now()) - start)
    }

    /// Lets the relay close the connection, and waits for the end of the client.
    pub(crate) fn finish(mut self) -> Result<Usage> {
        let peak_kib = peak_memory(self.process.id())?;
        let until_accepted = self.visit.accepted - self.started;
        let until_requested = self.visit.requested - self.started;
        self.visit.close();
        drop((self.input, self.output));
        let status = self.process.wait()?;
        ensure!(status.success(), "the client failed: {status}");
        let cpu = cpu_of_children()?.saturating_sub(self.cpu_before);
        Ok(Usage { cpu, peak_kib, until_accepted, until_requested })
    }
}

/// Ends a client that did not do its part, and adds its messages to the error.
fn failure(process: &mut Child, error: anyhow::Error) -> anyhow::Error {
    let _ = process.kill();
    let mut messages = String::new();
    if let Some(stderr) = &mut process.stderr {
        let _ = stderr.read_to_string(&mut messages);
    }
    let _ = process.wait();
    error.context(format!("the client failed: {messages}"))
}

fn write_zeros(input: &mut ChildStdin, mut left: u64) -> Result<()> {
    let zeros = vec![0; BUFFER];
    while left > 0 {
        let count = BUFFER.min(usize::try_from(left)?);
        input.write_all(&zeros[..count])?;
        left -= count as u64;
    }
    Ok(())
}

fn read_and_discard(output: &mut ChildStdout, mut left: u64) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    while left > 0 {
        let count = output.read(&mut buffer)?;
        ensure!(count > 0, "standard output ended early");
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

/// The CPU time of all child processes that have ended (getrusage(2), `RUSAGE_CHILDREN`).
fn cpu_of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}

/// `VmHWM` of proc(5). `ru_maxrss` would include the memory of this program, from before execve(2).
fn peak_memory(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.context("the client has no VmHWM")?.trim().trim_end_matches(" kB");
    Ok(peak.parse()?)
}
