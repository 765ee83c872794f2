//! One cell of the matrix: a connection with one fault, and the expected end.

use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::matrix::server::Server;
use crate::support::{LIMIT, Lab, eventually, signal};

/// The file to which each phase appends its part of the table. If it is set, slow cells run too.
const TABLE: &str = "FAULTS_TABLE";

/// Memory limit of a connection, without the pages of the program file, which are many in a debug build.
const MEMORY: u64 = 24 * 1024 * 1024;

/// Number of concurrent cells of a phase. Most of them only wait.
const CONCURRENT: usize = 6;

pub(crate) struct Cell {
    fault: &'static str,
    command: Command,
    server: Option<Arc<Server>>,
    input: Input,
    disturb: Option<Disturb>,
    status: Vec<Option<i32>>,
    cause: Vec<&'static str>,
    output: Vec<u8>,
    limit: Duration,
    slow: bool,
    alternative: Option<Vec<u8>>,
    extra: Option<Check>,
}

type Disturb = Box<dyn FnOnce(&mut Child) + Send>;
type Check = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// The use of standard input by ssh.
#[derive(Clone)]
pub(crate) enum Input {
    /// Sends this, then stays open without more data.
    Open(Vec<u8>),
    /// Sends this, then closes.
    Closed(Vec<u8>),
    /// The standard input of the command.
    Given,
}

impl Cell {
    /// A connection by `command` that must fail within 15 s, with one error that contains one of `cause`, and without
    /// output.
    pub(crate) fn new(fault: &'static str, command: Command, cause: &[&'static str]) -> Self {
        Self {
            fault,
            command,
            server: None,
            input: Input::Open(Vec::new()),
            disturb: None,
            status: (1..=7).map(Some).collect(),
            cause: cause.to_vec(),
            output: Vec::new(),
            limit: Duration::from_secs(15),
            slow: false,
            alternative: None,
            extra: None,
        }
    }

    /// The server, which must have no connection at the end.
    pub(crate) fn with_server(mut self, server: &Arc<Server>) -> Self {
        self.server = Some(Arc::clone(server));
        self
    }

    pub(crate) fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Sets files as standard input and output instead of pipes.
    pub(crate) fn files(mut self, input: fs::File, output: fs::File) -> Self {
        self.command.stdin(input).stdout(output);
        self
    }

    /// Alternatively, if the limit is high enough, the program connects and delivers `output`.
    pub(crate) fn or_delivers(mut self, output: &[u8]) -> Self {
        self.alternative = Some(output.to_vec());
        self
    }

    /// Acts on the running program in another thread.
    pub(crate) fn disturbed(mut self, disturb: impl FnOnce(&mut Child) + Send + 'static) -> Self {
        self.disturb = Some(Box::new(disturb));
        self
    }

    /// The expected exit statuses. `None` stands for a signal.
    pub(crate) fn status(mut self, status: &[Option<i32>]) -> Self {
        self.status = status.to_vec();
        self
    }

    /// Ends with this status and without a message.
    pub(crate) fn quiet(mut self, status: i32) -> Self {
        self.cause = Vec::new();
        self.status(&[Some(status)])
    }

    /// The expected standard output.
    pub(crate) fn delivers(mut self, output: &[u8]) -> Self {
        self.output = output.to_vec();
        self
    }

    pub(crate) fn within(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// A cell that takes too long for `make test`.
    pub(crate) fn slow(mut self, seconds: u64) -> Self {
        self.slow = true;
        self.within(seconds)
    }

    /// A fault that the client can detect only by a timeout takes the whole time for requests to Azure.
    pub(crate) fn slow_if_silent(mut self) -> Self {
        self.slow |= self.limit > Duration::from_secs(60);
        self
    }

    /// An additional check after the end.
    pub(crate) fn check(mut self, check: impl FnOnce() -> Result<(), String> + Send + 'static) -> Self {
        self.extra = Some(Box::new(check));
        self
    }
}

/// The result of a cell.
struct Outcome {
    fault: &'static str,
    status: Option<i32>,
    took: Duration,
    memory: u64,
    message: String,
    deviations: Vec<String>,
}

/// Runs all cells of a phase, and panics with all deviations.
#[track_caller]
pub(crate) fn run_phase(phase: &str, w: &Lab, cells: Vec<Cell>) {
    let table = std::env::var_os(TABLE).map(PathBuf::from);
    let cells: Vec<Cell> = cells.into_iter().filter(|cell| table.is_some() || !cell.slow).collect();
    let (count, cells) = (cells.len(), Mutex::new(cells.into_iter().enumerate()));
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..CONCURRENT.min(count) {
            scope.spawn(|| {
                loop {
                    let next = cells.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, cell)) = next else { return };
                    let outcome = run_cell(&w.home().join(format!("cell-{number}")), cell);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(number, _)| *number);
    let outcomes: Vec<Outcome> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    if let Some(table) = table {
        let rows: String = outcomes.iter().map(|outcome| row(phase, outcome)).collect();
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(table)
            .unwrap()
            .write_all(rows.as_bytes())
            .unwrap();
    }
    assert_eq!(outcomes.len(), count, "a cell did not complete");
    let wrong: Vec<String> =
        outcomes.iter().filter(|outcome| !outcome.deviations.is_empty()).map(describe).collect();
    assert!(wrong.is_empty(), "{} of {count} cells deviate:\n{}", wrong.len(), wrong.join("\n"));
}

fn row(phase: &str, outcome: &Outcome) -> String {
    let Outcome { fault, status, took, memory, message, deviations } = outcome;
    let verdict = if deviations.is_empty() { "ok" } else { "DEVIATES" };
    let status = status.map_or("signal".into(), |status| status.to_string());
    let message: String = message.chars().take(110).collect();
    format!(
        "{phase}\t{fault}\t{verdict}\t{status}\t{:.1} s\t{:.1} MiB\t{message}\n",
        took.as_secs_f32(),
        *memory as f32 / 1_048_576.0
    )
}

fn describe(outcome: &Outcome) -> String {
    format!("  {}: {}\n      messages: {}", outcome.fault, outcome.deviations.join("; "), outcome.message)
}

fn run_cell(directory: &Path, cell: Cell) -> Outcome {
    let Cell { fault, mut command, server, input, disturb, mut status, mut cause, mut output, limit, .. } =
        cell;
    let (alternative, extra) = (cell.alternative, cell.extra);
    let (temporary, state) = (directory.join("tmp"), directory.join("state"));
    fs::create_dir_all(&temporary).unwrap();
    command.env("TMPDIR", &temporary).stderr(Stdio::piped());
    if !command.get_envs().any(|(name, _)| name == "ARCSSH_STATE_DIR") {
        command.env("ARCSSH_STATE_DIR", &state);
    }
    let ran = execute(&mut command, input, disturb, limit);
    if let Some(delivered) = alternative.filter(|_| ran.code == Some(0)) {
        (status, cause, output) = (vec![Some(0)], Vec::new(), delivered);
    }
    let mut deviations = deviations(&ran, &status, &cause, &output, limit);
    server.iter().for_each(|server| server.client_ended());
    if let Some(server) = &server
        && !eventually(Duration::from_secs(5), || server.open() == 0)
    {
        deviations.push(format!("{} connections are still open", server.open()));
    }
    deviations.extend(remaining_files(&temporary, &state));
    deviations.extend(extra.and_then(|check| check().err()));
    let Ran { code, took, memory, stderr, .. } = ran;
    let message = stderr.lines().find(|line| is_error(line)).unwrap_or_default();
    let message = if deviations.is_empty() { message.to_owned() } else { stderr.clone() };
    Outcome { fault, status: code, took, memory, message, deviations }
}

/// A program that has ended.
struct Ran {
    code: Option<i32>,
    took: Duration,
    memory: u64,
    stdout: Vec<u8>,
    stderr: String,
    killed: bool,
}

fn execute(command: &mut Command, input: Input, disturb: Option<Disturb>, limit: Duration) -> Ran {
    let is_given = matches!(input, Input::Given);
    if !is_given {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    }
    let start = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let keep_open = child.stdin.take().map(|mut stdin| {
        let (Input::Open(bytes) | Input::Closed(bytes)) = input.clone() else { unreachable!("piped") };
        let feeder = thread::spawn(move || {
            let _ = stdin.write_all(&bytes);
            stdin
        });
        match input {
            Input::Closed(_) => {
                thread::spawn(move || drop(feeder.join()));
                None
            }
            _ => Some(feeder),
        }
    });
    let stderr = read_all(child.stderr.take().unwrap());
    if let Some(disturb) = disturb {
        disturb(&mut child);
    }
    let stdout = child.stdout.take().map(read_all);
    let (memory, mut killed) = (AtomicUsize::new(0), false);
    let code = loop {
        memory.fetch_max(peak(child.id()), Ordering::SeqCst);
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if start.elapsed() > limit && !killed {
            killed = true;
            signal(child.id(), "KILL");
        }
        thread::park_timeout(Duration::from_millis(3));
    };
    let took = start.elapsed();
    drop(keep_open);
    let received =
        |bytes: Receiver<_>| bytes.recv_timeout(LIMIT).expect("another process has the output open");
    let stdout = stdout.map(received).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&received(stderr)).into_owned();
    Ran { code, took, memory: memory.into_inner() as u64, stdout, stderr, killed }
}

/// Reads a stream to its end in another thread.
fn read_all(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        sender.send(bytes)
    });
    receiver
}

/// The peak memory of a process, without file pages, or 0 if the process has ended.
///
/// Until execve(2), a new process has the memory and the name of this one: also 0.
fn peak(process: u32) -> usize {
    let name = |process: &str| fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    if name(&process.to_string()) == name("thread-self") {
        return 0;
    }
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or(0)
    };
    kilobytes("VmHWM:").saturating_sub(kilobytes("RssFile:")) * 1024
}

fn is_error(line: &str) -> bool {
    line.starts_with("arcssh: ")
        && !line.starts_with("arcssh: hint: ")
        && !line.starts_with("arcssh: waiting for ")
}

fn deviations(
    ran: &Ran,
    status: &[Option<i32>],
    cause: &[&str],
    output: &[u8],
    limit: Duration,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if ran.killed {
        wrong.push(format!("still ran after {} s", limit.as_secs()));
    } else if !status.contains(&ran.code) {
        wrong.push(format!("exit status {:?}, expected one of {status:?}", ran.code));
    }
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| is_error(line)).collect();
    if errors.len() != usize::from(!cause.is_empty()) {
        wrong.push(format!("{} error messages", errors.len()));
    }
    let error = errors.first().copied().unwrap_or_default().to_lowercase();
    if !cause.is_empty() && !cause.iter().any(|cause| error.contains(&cause.to_lowercase())) {
        wrong.push(format!("the message names none of {cause:?}"));
    }
    if let Some(line) = ran.stderr.lines().find(|line| !line.starts_with("arcssh: ")) {
        wrong.push(format!("a line that is not a message: {line:?}"));
    }
    if ran.stderr.chars().any(|c| c != '\n' && is_control_or_hidden(c)) || ran.stderr.len() > 8192 {
        wrong.push("the text contains control characters, or is too long".into());
    }
    if ran.stdout != output {
        let common = ran.stdout.iter().zip(output).take_while(|(a, b)| a == b).count();
        let (length, expected) = (ran.stdout.len(), output.len());
        wrong.push(format!("{length} bytes of output, expected {expected}; the first {common} agree"));
    }
    if ran.memory > MEMORY {
        wrong.push(format!("{} MiB of memory", ran.memory / 1_048_576));
    }
    wrong
}

/// Characters with which hostile text could draw on a terminal or hide.
fn is_control_or_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Temporary files. [`Lab`] checks for processes at the end of a phase.
fn remaining_files(temporary: &Path, state: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    // Names of files that are not complete.
    let unfinished =
        |name: &String| name.starts_with("new-") || name.starts_with('.') || name.contains("tmp");
    let files = names_below(state).into_iter().filter(unfinished);
    let files: Vec<String> = names_below(temporary).into_iter().chain(files).collect();
    if !files.is_empty() {
        wrong.push(format!("files remain: {files:?}"));
    }
    wrong
}

/// The names of all files and directories below a directory.
fn names_below(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = |entry: fs::DirEntry| {
        let below = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names_below(&entry.path())
        } else {
            vec![]
        };
        [vec![entry.file_name().to_string_lossy().into_owned()], below].concat()
    };
    entries.flat_map(names).collect()
}
