//! Continuous use. `make test` runs about a minute of it, `make soak` runs `SOAK_MINUTES`.

#![expect(clippy::print_stdout, reason = "a soak run prints its totals")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::store::{GREETING, greeter, request_counts, start};
use crate::support::{Lab, Limited, ended, eventually, finish, lab_with, noise, run_with_input};

const MINUTES: &str = "SOAK_MINUTES";
const MIB: usize = 1024 * 1024;

/// Duration of a test: `SOAK_MINUTES`, or `short` in `make test`.
fn duration(short: Duration) -> Duration {
    let minutes =
        std::env::var(MINUTES).ok().map(|minutes| minutes.parse::<u64>().unwrap().clamp(1, 24 * 60));
    minutes.map_or(short, |minutes| Duration::from_secs(60 * minutes))
}

/// Short lifetimes: the agent learns of a name after 20 s, and credentials expire after 60 s.
#[test]
fn with_frequent_connections_only_the_first_one_waits() {
    let w = lab_with(&["web01"], |builder| {
        builder
            .listener_delay(Duration::from_secs(20))
            .credential_lifetime(Duration::from_secs(60))
            .strict_expiry()
    });
    let port = greeter();
    let connect = || {
        let mut proxy = w.proxy_to(port);
        proxy.arg("-v");
        let run = finish(start(proxy));
        assert_eq!((run.code, run.stdout.as_slice()), (Some(0), GREETING.as_bytes()), "{}", run.stderr);
        run.stderr.contains("; retrying in ")
    };
    let begin = Instant::now();
    assert!(connect(), "the first connection must wait for the agent");
    let limit = duration(Duration::from_secs(65));
    while begin.elapsed() < limit {
        let next = Instant::now() + Duration::from_secs(1);
        assert!(!connect(), "a connection waits {} s after the first", begin.elapsed().as_secs());
        pause_until(next);
    }
    // arcssh renews credentials after 70 % of their lifetime. Near their end, more connections may request new ones.
    let (lifetimes, issued) = (begin.elapsed().as_secs() as usize / 60, request_counts(&w).1);
    assert!(
        (lifetimes + 1..=4 * lifetimes + 4).contains(&issued),
        "{issued} credentials in {lifetimes} lifetimes"
    );
}

/// Waits until `end`. The end of another thread may unpark this one earlier.
fn pause_until(end: Instant) {
    while Instant::now() < end {
        thread::park_timeout(end.saturating_duration_since(Instant::now()));
    }
}

/// Short and long sessions in both directions at the same time, while credentials are renewed.
#[test]
fn traffic_arrives_unchanged_and_long_sessions_do_not_grow() {
    let w = lab_with(&["web01"], |builder| builder.credential_lifetime(Duration::from_secs(30)));
    let (bytes, limit) = (noise(4 * MIB), duration(Duration::from_secs(25)));
    let file = w.home().join("noise");
    fs::write(&file, &bytes).unwrap();
    let totals = Totals::default();
    let (begin, is_over) = (Instant::now(), AtomicBool::new(false));
    let (up, down, both) =
        (|| up(&w, &bytes), || down(&w, &file.display().to_string(), &bytes), || both(&w, &bytes));
    let repeat = |transfer: &(dyn Fn() -> usize + Sync)| {
        while begin.elapsed() < limit && !is_over.load(Ordering::SeqCst) {
            totals.count(transfer());
            pause_until(Instant::now() + Duration::from_millis(500));
        }
    };
    thread::scope(|scope| {
        let workers =
            [scope.spawn(|| repeat(&up)), scope.spawn(|| repeat(&down)), scope.spawn(|| repeat(&both))];
        let idle = scope.spawn(|| LongSession::start(&w).run(begin, limit, 40, Duration::from_secs(3)));
        let busy = scope.spawn(|| LongSession::start(&w).run(begin, limit, MIB, Duration::from_millis(250)));
        for worker in workers {
            worker.join().unwrap_or_else(|_| is_over.store(true, Ordering::SeqCst));
        }
        for (name, session) in [("idle", idle), ("busy", busy)] {
            session.join().unwrap().assert_steady(name);
        }
        assert!(!is_over.load(Ordering::SeqCst), "a transfer failed; its message is above");
    });
    assert!(eventually(Duration::from_secs(20), || w.survivors().is_empty()), "{:?}", w.survivors());
    let left: Vec<_> =
        fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.len() < 40, "{left:?}");
    println!(
        "{} sessions, {} MiB in {} s; {} tokens and {} relay credentials were issued; {} files of state",
        totals.sessions.load(Ordering::SeqCst),
        totals.bytes.load(Ordering::SeqCst) / MIB,
        begin.elapsed().as_secs(),
        request_counts(&w).0,
        request_counts(&w).1,
        left.len()
    );
    assert!(request_counts(&w).1 > 1 || limit < Duration::from_secs(30), "no credentials were renewed");
}

#[derive(Default)]
struct Totals {
    sessions: AtomicUsize,
    bytes: AtomicUsize,
}

impl Totals {
    fn count(&self, bytes: usize) {
        self.sessions.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }
}

fn up(w: &Lab, bytes: &[u8]) -> usize {
    let output = run_with_input(w.ssh().args(["web01", "sha256sum"]), bytes.to_vec()).clean();
    assert_eq!(output.split(' ').next(), Some(sha256(bytes).as_str()));
    bytes.len()
}

fn down(w: &Lab, file: &str, bytes: &[u8]) -> usize {
    let run = w.ssh_run(&["web01", &format!("cat {file}")]);
    assert_eq!((run.code, sha256(&run.stdout)), (Some(0), sha256(bytes)), "{}", run.stderr);
    bytes.len()
}

fn both(w: &Lab, bytes: &[u8]) -> usize {
    let run = run_with_input(w.ssh().args(["web01", "cat"]), bytes.to_vec());
    assert_eq!((run.code, sha256(&run.stdout)), (Some(0), sha256(bytes)), "{}", run.stderr);
    2 * bytes.len()
}

fn sha256(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A session that lasts for the whole test and echoes its input.
struct LongSession {
    ssh: Child,
    input: ChildStdin,
    output: Limited<ChildStdout>,
    arcssh: u32,
}

impl LongSession {
    fn start(w: &Lab) -> Self {
        let mut ssh = w.ssh();
        ssh.args(["web01", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut ssh = ssh.spawn().unwrap();
        let (mut input, mut output) = (ssh.stdin.take().unwrap(), Limited(ssh.stdout.take().unwrap()));
        // After the first echo, the process of the ProxyCommand exists.
        input.write_all(b"x").unwrap();
        output.read_exact(&mut [0]).unwrap();
        let arcssh = child_of(ssh.id());
        Self { ssh, input, output, arcssh }
    }

    /// Sends `length` bytes every `pause`, compares the echo, and samples the process. Then closes the session.
    fn run(mut self, begin: Instant, limit: Duration, length: usize, pause: Duration) -> Samples {
        let mut samples = Samples::default();
        while begin.elapsed() < limit {
            let sent = noise(length);
            let mut echo = vec![0; length];
            thread::scope(|scope| {
                scope.spawn(|| self.input.write_all(&sent).unwrap());
                // The end of ssh also ends the other thread.
                self.output.read_exact(&mut echo).inspect_err(|_| drop(self.ssh.kill())).unwrap();
            });
            assert_eq!(sha256(&echo), sha256(&sent), "after {} s", begin.elapsed().as_secs());
            samples.0.push(sample(self.arcssh));
            pause_until(Instant::now() + pause);
        }
        drop(self.input);
        assert!(ended(&mut self.ssh).success());
        samples
    }
}

/// Memory and open files of a process over time.
#[derive(Default)]
struct Samples(Vec<(usize, usize)>);

impl Samples {
    /// Compares the last third with the first third, which includes the memory of the session's start.
    fn assert_steady(&self, name: &str) {
        const SLACK: usize = 3 * MIB;
        let third = (self.0.len() / 3).max(1);
        let most = |samples: &[(usize, usize)]| {
            samples.iter().fold((0, 0), |most, sample| (most.0.max(sample.0), most.1.max(sample.1)))
        };
        let (first, last) = (most(&self.0[..third]), most(&self.0[self.0.len() - third..]));
        let mib = |bytes: usize| bytes as f32 / MIB as f32;
        println!(
            "{name}: {:.1} to {:.1} MiB, {} to {} open files, {} samples",
            mib(first.0),
            mib(last.0),
            first.1,
            last.1,
            self.0.len()
        );
        assert!(last.0 <= first.0 + SLACK && last.1 <= first.1 + 2, "{name} grows: {first:?}, {last:?}");
    }
}

fn sample(process: u32) -> (usize, usize) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024;
    // Only root may list the open files of arcssh, which is not dumpable (proc(5)).
    let files = match rustix::process::geteuid().is_root() {
        true => fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        false => 0,
    };
    (memory, files)
}

/// The only child of a process.
fn child_of(process: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("children of ssh: {children:?}"))
}
