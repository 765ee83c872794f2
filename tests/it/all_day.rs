//! What a fleet does all day. `make test` runs a minute of it, `make soak` as many minutes as `SOAK_MINUTES` says. By its
//! name it is among the first tests to start: it takes the longest, and waits for most of that.

#![expect(clippy::print_stdout, reason = "a run tells what it carried")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::store::{GREETING, asked, greeter, start};
use crate::support::{World, eventually, finish, noise, run_with_input, world_with};

const MINUTES: &str = "SOAK_MINUTES";
const MIB: usize = 1024 * 1024;

/// How long to go on: for `short` in `make test`.
fn duration(short: Duration) -> Duration {
    let minutes =
        std::env::var(MINUTES).ok().map(|minutes| minutes.parse::<u64>().unwrap().clamp(1, 24 * 60));
    minutes.map_or(short, |minutes| Duration::from_secs(60 * minutes))
}

/// Lives are cut short: the agent hears of a name after 20 s, and a name lives for 60.
#[test]
fn of_a_connection_a_second_only_the_first_waits() {
    let w = world_with(&["web01"], |builder| {
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
    assert!(connect(), "the first waits for the agent");
    let limit = duration(Duration::from_secs(75));
    while begin.elapsed() < limit {
        let next = Instant::now() + Duration::from_secs(1);
        assert!(!connect(), "waited {} s after the first", begin.elapsed().as_secs());
        pause_until(next);
    }
    // A successor is minted after 70 % of a life; near its end some connections may ask too.
    let (lives, minted) = (begin.elapsed().as_secs() as usize / 60, asked(&w).1);
    assert!((lives + 1..=4 * lives + 4).contains(&minted), "{minted} credentials in {lives} lives");
}

/// Waits; what unparks the thread meanwhile, as the end of another one does, is of no account.
fn pause_until(end: Instant) {
    while Instant::now() < end {
        thread::park_timeout(end.saturating_duration_since(Instant::now()));
    }
}

/// Sessions in both directions at once, short ones and ones that last, while credentials are renewed: every byte arrives,
/// and what lasts does not grow.
#[test]
fn traffic_arrives_unchanged_and_what_lasts_does_not_grow() {
    let w = world_with(&["web01"], |builder| builder.credential_lifetime(Duration::from_secs(30)));
    let (bytes, limit) = (noise(4 * MIB), duration(Duration::from_secs(25)));
    let file = w.home().join("noise");
    fs::write(&file, &bytes).unwrap();
    let totals = Totals::default();
    let (begin, is_over) = (Instant::now(), AtomicBool::new(false));
    let (up, down, both) =
        (|| up(&w, &bytes), || down(&w, &file.display().to_string(), &bytes), || both(&w, &bytes));
    let again = |transfer: &(dyn Fn() -> usize + Sync)| {
        while begin.elapsed() < limit && !is_over.load(Ordering::SeqCst) {
            totals.count(transfer());
            // What a person's day has in it: pauses.
            pause_until(Instant::now() + Duration::from_millis(500));
        }
    };
    thread::scope(|scope| {
        let workers =
            [scope.spawn(|| again(&up)), scope.spawn(|| again(&down)), scope.spawn(|| again(&both))];
        let idle = scope.spawn(|| Lasting::start(&w).pass(begin, limit, 40, Duration::from_secs(3)));
        let busy = scope.spawn(|| Lasting::start(&w).pass(begin, limit, MIB, Duration::from_millis(250)));
        for worker in workers {
            worker.join().unwrap_or_else(|_| is_over.store(true, Ordering::SeqCst));
        }
        for (name, session) in [("idle", idle), ("busy", busy)] {
            session.join().unwrap().assert_steady(name);
        }
        assert!(!is_over.load(Ordering::SeqCst), "a transfer failed; its message is above");
    });
    assert!(eventually(Duration::from_secs(20), || w.survivors().is_empty()), "{:?}", w.survivors());
    let left: Vec<_> = fs::read_dir(w.store()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.len() < 40, "{left:?}");
    println!(
        "{} sessions, {} MiB in {} s; {} tokens and {} relay credentials were issued; {} files of state",
        totals.sessions.load(Ordering::SeqCst),
        totals.bytes.load(Ordering::SeqCst) / MIB,
        begin.elapsed().as_secs(),
        asked(&w).0,
        asked(&w).1,
        left.len()
    );
    assert!(asked(&w).1 > 1 || limit < Duration::from_secs(30), "no credentials were renewed");
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

fn up(w: &World, bytes: &[u8]) -> usize {
    let told = run_with_input(w.ssh().args(["web01", "sha256sum"]), bytes.to_vec()).clean();
    assert_eq!(told.split(' ').next(), Some(sha256(bytes).as_str()));
    bytes.len()
}

fn down(w: &World, file: &str, bytes: &[u8]) -> usize {
    let run = w.ssh_run(&["web01", &format!("cat {file}")]);
    assert_eq!((run.code, sha256(&run.stdout)), (Some(0), sha256(bytes)), "{}", run.stderr);
    bytes.len()
}

fn both(w: &World, bytes: &[u8]) -> usize {
    let run = run_with_input(w.ssh().args(["web01", "cat"]), bytes.to_vec());
    assert_eq!((run.code, sha256(&run.stdout)), (Some(0), sha256(bytes)), "{}", run.stderr);
    2 * bytes.len()
}

fn sha256(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A session that stays for the whole time and echoes what it is sent.
struct Lasting {
    ssh: Child,
    input: ChildStdin,
    output: ChildStdout,
    arcssh: u32,
}

impl Lasting {
    fn start(w: &World) -> Self {
        let mut ssh = w.ssh();
        ssh.args(["web01", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut ssh = ssh.spawn().unwrap();
        let (mut input, mut output) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
        // The first echo proves that the session is there, and with it the process of its ProxyCommand.
        input.write_all(b"x").unwrap();
        output.read_exact(&mut [0]).unwrap();
        let arcssh = child_of(ssh.id());
        Self { ssh, input, output, arcssh }
    }

    /// Sends so many bytes every `pause`, checks their echo and what the process takes of the system; then ends.
    fn pass(mut self, begin: Instant, limit: Duration, length: usize, pause: Duration) -> Samples {
        let mut samples = Samples::default();
        while begin.elapsed() < limit {
            let sent = noise(length);
            let mut echo = vec![0; length];
            thread::scope(|scope| {
                scope.spawn(|| self.input.write_all(&sent).unwrap());
                self.output.read_exact(&mut echo).unwrap();
            });
            assert_eq!(sha256(&echo), sha256(&sent), "after {} s", begin.elapsed().as_secs());
            samples.0.push(sample(self.arcssh));
            pause_until(Instant::now() + pause);
        }
        drop(self.input);
        assert!(self.ssh.wait().unwrap().success());
        samples
    }
}

/// Memory and open files of a process over time.
#[derive(Default)]
struct Samples(Vec<(usize, usize)>);

impl Samples {
    /// Compares the last third with the first, without what a session takes at its start.
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
    // An ordinary user may not list the open files of arcssh, which is not dumpable (proc(5)).
    let files = match rustix::process::geteuid().is_root() {
        true => fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        false => 0,
    };
    (memory, files)
}

/// The one process that another has started.
fn child_of(process: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("children of ssh: {children:?}"))
}
