//! Shared helpers: a lab that fails the test if a process or connection remains, and programs that run with a time
//! limit.

use std::fs;
use std::io::{Read, Write, stderr};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use arcssh_emulator::playground::Playground;
use arcssh_emulator::{Builder, Service};

/// The shipped binary.
pub(crate) const ARCSSH: &str = env!("CARGO_BIN_EXE_arcssh");

/// Limit for one program. The slowest tests transfer hundreds of megabytes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A playground for one test. When it is dropped, no process and no connection of the test may remain.
pub(crate) struct Lab(Playground);

/// A lab with these machines and no faults.
pub(crate) fn lab(machines: &[&str]) -> Lab {
    lab_with(machines, |builder| builder)
}

/// A lab with a configured emulator.
pub(crate) fn lab_with(machines: &[&str], configure: impl FnOnce(Builder) -> Builder) -> Lab {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        raise_file_limit();
        stop_ignoring_signals();
    });
    Lab(Playground::start(Path::new(ARCSSH), machines, configure).unwrap().isolate().unwrap())
}

/// Both ends of hundreds of concurrent connections are in this process, and the usual limit is 1024 open files.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = current.map(|current| current.max(maximum.unwrap_or(u64::MAX).min(8192)));
    setrlimit(Resource::Nofile, Rlimit { current: raised, maximum }).unwrap();
}

/// Under `nohup` and in a script's background, SIGHUP or SIGINT is ignored, and child processes inherit that. A caught
/// signal is reset to its default in a started program (execve(2)).
fn stop_ignoring_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap_or("0");
    let ignored = u64::from_str_radix(mask, 16).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    for kind in [SignalKind::hangup(), SignalKind::interrupt()] {
        if ignored >> (kind.as_raw_value() - 1) & 1 == 1 {
            drop(signal(kind).unwrap());
        }
    }
}

impl Deref for Lab {
    type Target = Playground;

    fn deref(&self) -> &Playground {
        &self.0
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let ended = eventually(Duration::from_secs(15), || self.survivors().is_empty());
        assert!(ended, "processes remain: {:?}", self.survivors());
        let closed = eventually(Duration::from_secs(15), || self.emulator().open_connections() == 0);
        assert!(closed, "{} connections are still open at the relay", self.emulator().open_connections());
    }
}

impl Lab {
    /// The command lines of processes whose home directory is this lab's: ssh, arcssh and their child processes.
    pub(crate) fn survivors(&self) -> Vec<String> {
        let home = format!("HOME={}", self.home().display()).into_bytes();
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let has_home = |process: &Path| -> std::io::Result<bool> {
            let environment = fs::read(process.join("environ"))?;
            Ok(environment.split(|byte| *byte == 0).any(|variable| variable == home))
        };
        // Only root may read the environment of arcssh. The environment of its parent, ssh, is readable. If the parent
        // is gone, arcssh may belong to any lab.
        let may_be_arcssh_in_this_lab = |process: &Path| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let parent = parent(process).filter(|parent| *parent > 1);
            let parent = parent.map(|parent| PathBuf::from(format!("/proc/{parent}")));
            // A zombie has no command line (proc_pid_cmdline(5)).
            let runs = fs::read(process.join("cmdline")).is_ok_and(|words| !words.is_empty());
            name == "arcssh\n" && runs && parent.is_none_or(|parent| has_home(&parent).unwrap_or_default())
        };
        let in_this_lab = |process: &Path| {
            has_home(process).unwrap_or_else(|error| {
                error.kind() == std::io::ErrorKind::PermissionDenied && may_be_arcssh_in_this_lab(process)
            })
        };
        let command_line = |process: &Path| {
            let words = fs::read(process.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).replace('\0', " ")
        };
        let paths = processes.flatten().map(|process| process.path());
        paths.filter(|process| in_this_lab(process)).map(|process| command_line(&process)).collect()
    }

    /// The resource ID of web01.
    pub(crate) fn id(&self) -> String {
        self.emulator().machine("web01").resource_id()
    }

    /// arcssh with these arguments.
    pub(crate) fn arcssh(&self, arguments: &[&str]) -> Command {
        let mut arcssh = self.command(ARCSSH);
        arcssh.args(arguments);
        arcssh
    }

    /// The state directory.
    pub(crate) fn state_directory(&self) -> PathBuf {
        self.home().join(".local/state/arcssh")
    }

    pub(crate) fn clear_cache(&self) {
        run(&mut self.arcssh(&["cache", "clear"])).clean();
    }

    /// The names of the hybrid connections that were dialled, in order.
    pub(crate) fn dialled(&self) -> Vec<String> {
        let requests = self.emulator().requests_to(Service::Relay).into_iter();
        let senders = requests.filter(|request| request.path_and_query.contains("sb-hc-action=connect"));
        senders
            .map(|request| request.path_and_query.split('?').next().unwrap_or_default().to_owned())
            .collect()
    }

    /// `arcssh proxy` to a service of the test instead of web01's sshd.
    pub(crate) fn proxy_to(&self, port: u16) -> Command {
        self.emulator().machine("web01").set_ssh_port(port);
        self.arcssh(&["proxy", &self.id(), "--port", &port.to_string()])
    }

    /// ssh to web01 with this ProxyCommand, in which `arcssh` is the shipped binary.
    pub(crate) fn ssh_by(&self, proxy_command: &str, remote: &str) -> Command {
        let proxy_command = proxy_command.replacen("arcssh", ARCSSH, 1);
        let mut ssh = self.ssh();
        ssh.args(["-o", &format!("ProxyCommand={proxy_command}"), "web01", remote]);
        ssh
    }

    /// The address in a variable of the emulator's environment, such as `AZURE_AUTHORITY_HOST`, without a final slash.
    pub(crate) fn address(&self, variable: &str) -> String {
        let variables = self.emulator().environment();
        let (_, address) =
            variables.into_iter().find(|(name, _)| name == variable).expect("the variable is set");
        address.trim_end_matches('/').to_owned()
    }

    /// Relay information as `az ssh` writes it: the response to a listCredentials request from curl, in base64.
    pub(crate) fn relay_info(&self) -> String {
        let script = r#"
            token=$(curl -sS --cacert "$SSL_CERT_FILE" -d grant_type=client_credentials -d "client_id=$AZURE_CLIENT_ID" \
                --data-urlencode "client_secret=$AZURE_CLIENT_SECRET" -d "scope=$ARCSSH_ARM_AUDIENCE/.default" \
                "$AZURE_AUTHORITY_HOST$AZURE_TENANT_ID/oauth2/v2.0/token" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
            curl -sSf --cacert "$SSL_CERT_FILE" -H "Authorization: Bearer $token" -H 'Content-Type: application/json' \
                -d '{"serviceName":"SSH"}' "$ARCSSH_ARM_ENDPOINT$ID/providers/Microsoft.HybridConnectivity/endpoints/default/listCredentials?expiresin=3600&api-version=2023-03-15" \
                | base64 -w 0"#;
        let mut shell = self.command("bash");
        shell.args(["-eu", "-o", "pipefail", "-c", script]).env("ID", self.id());
        run(&mut shell).clean()
    }

    /// Runs `ssh {arguments}` until it ends.
    pub(crate) fn ssh_run(&self, arguments: &[&str]) -> Run {
        run(self.ssh().args(arguments))
    }
}

/// The parent of a process (proc_pid_stat(5)).
fn parent(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Exit status and output of a program.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Run {
    /// Asserts that the program succeeded with an empty standard error. Returns its standard output.
    #[track_caller]
    pub(crate) fn clean(self) -> String {
        let messages: Vec<&str> = self.stderr.lines().filter(|line| !is_waiting(line)).collect();
        assert_eq!((self.code, messages), (Some(0), vec![]));
        String::from_utf8(self.stdout).unwrap()
    }

    /// The lines of arcssh on standard error, in order, without progress lines.
    pub(crate) fn arcssh_lines(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("arcssh: ") && !is_waiting(line)).collect()
    }

    /// The progress lines on standard error.
    pub(crate) fn waiting_lines(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| is_waiting(line)).collect()
    }
}

/// Work that takes a minute on a busy machine prints a progress line.
fn is_waiting(line: &str) -> bool {
    line.starts_with("arcssh: waiting for ")
}

/// Runs a program with an empty standard input until it ends.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Run {
    run_with_input(command, Vec::new())
}

/// Runs a program until it ends. Another thread writes its standard input.
#[track_caller]
pub(crate) fn run_with_input(command: &mut Command, input: Vec<u8>) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    // A program may end before it has read its whole input, which closes the pipe.
    thread::spawn(move || drop(stdin.write_all(&input)));
    finish(child)
}

/// Waits for a program with piped output. Kills it after [`LIMIT`].
#[track_caller]
pub(crate) fn finish(child: Child) -> Run {
    let id = child.id();
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(LIMIT) {
        Ok(output) => {
            let Output { status, stdout, stderr } = output.unwrap();
            Run { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).replace('\r', "") }
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            signal(id, "KILL");
            panic!("process {id} still runs after {} s", LIMIT.as_secs());
        }
    }
}

/// Closes the standard input of a program, and waits for its end. Kills it after [`LIMIT`].
#[track_caller]
pub(crate) fn ended(child: &mut Child) -> ExitStatus {
    drop(child.stdin.take());
    let mut status = None;
    let has_ended = || {
        status = child.try_wait().unwrap();
        status.is_some()
    };
    if !eventually(LIMIT, has_ended) {
        let _ = child.kill();
        panic!("process {} still runs after {} s", child.id(), LIMIT.as_secs());
    }
    status.unwrap()
}

/// A stream of a program or a connection, whose reads fail after [`LIMIT`] without data.
pub(crate) struct Limited<T>(pub(crate) T);

impl<T: Read + AsFd> Read for Limited<T> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut stream = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut stream, Some(&Timespec::try_from(LIMIT).unwrap()))? {
            0 => Err(std::io::ErrorKind::TimedOut.into()),
            _ => self.0.read(bytes),
        }
    }
}

/// Connects to a port of this computer. Reads fail after [`LIMIT`] without data.
#[track_caller]
pub(crate) fn connect(port: u16) -> TcpStream {
    let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    connection
}

/// Accepts a connection. Fails after [`LIMIT`] without one.
#[track_caller]
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    let has_accepted = || {
        accepted = listener.accept().ok();
        accepted.is_some()
    };
    assert!(eventually(LIMIT, has_accepted), "no connection within {} s", LIMIT.as_secs());
    let (connection, _) = accepted.unwrap();
    connection.set_nonblocking(false).unwrap();
    connection
}

/// Sends a signal to a process that the test started.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -s {name} {process}");
}

/// Waits until `condition` holds. Returns whether it did within `limit`.
pub(crate) fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    true
}

/// Random bytes: incompressible, and any change of order changes the checksum.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

/// Standard error without the values that differ between runs.
fn normalize(stderr: &str) -> String {
    let mut text = stderr.to_owned();
    // Each label is followed by a UUID. A tracking ID also ends in the number of its gateway.
    let mut from = 0;
    while let Some(start) = text[from..].find("TrackingId ").map(|at| from + at + "TrackingId ".len()) {
        text.replace_range(start..start + 36 + "_G13".len(), "…");
        from = start;
    }
    for name in ["Trace ID: ", "Correlation ID: "] {
        if let Some(start) = text.find(name).map(|at| at + name.len()) {
            text.replace_range(start..start + 36, "…");
        }
    }
    if let Some(start) = text.find(" Timestamp: ").map(|at| at + 12) {
        text.replace_range(start..start + 20, "…");
    }
    text
}

impl Run {
    /// Asserts that the program failed with this status and these lines on standard error, and wrote nothing to
    /// standard output.
    #[track_caller]
    pub(crate) fn failed(&self, status: i32, lines: &[&str]) {
        let normalized = normalize(&self.stderr);
        let is_relevant = |line: &&str| !is_waiting(line) || lines.contains(line);
        assert_eq!(
            normalized.lines().filter(is_relevant).collect::<Vec<_>>(),
            lines,
            "standard error:\n{}",
            self.stderr
        );
        assert_eq!((self.code, self.stdout.len()), (Some(status), 0));
    }
}

/// A loopback port that refuses connections: it stays bound and nothing listens.
pub(crate) fn closed_port() -> u16 {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let port = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap().port();
    std::mem::forget(socket);
    port
}

/// A loopback port that was free when it was chosen.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A TCP service for the duration of the test process. `serve` handles each connection in its own thread.
pub(crate) fn service(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || serve(connection));
        }
    });
    port
}

/// Prints that a test is skipped, and why. The test runner hides the output of a test that passes, so this also adds the line to
/// the file `SKIPPED`, which `make test` prints.
pub(crate) fn skipped(reason: &str) {
    let thread = thread::current();
    let line = format!("skipped: {}: {}\n", thread.name().unwrap_or("a test"), reason.trim());
    let _ = stderr().write_all(line.as_bytes());
    if let Some(notes) = std::env::var_os("SKIPPED") {
        fs::File::options()
            .create(true)
            .append(true)
            .open(notes)
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
    }
}

/// Returns whether this machine allows `probe`. If the system denies it, prints the test's name and the system's
/// message. A probe that fails for another reason fails the test.
#[track_caller]
pub(crate) fn allowed(probe: &mut Command) -> bool {
    let denials = [
        "Operation not permitted",
        "Permission denied",
        "Function not implemented",
        "Invalid argument",
        // If user.max_user_namespaces is 0 (namespaces(7)).
        "No space left on device",
    ];
    let probed = run(probe.env("LC_ALL", "C"));
    if probed.code == Some(0) {
        return true;
    }
    let denied = denials.iter().any(|denial| probed.stderr.contains(denial));
    assert!(denied, "{probe:?}: {}", probed.stderr);
    skipped(&format!("this machine denies it: {}", probed.stderr));
    false
}

/// The unshare(1) option for namespaces of these kinds, such as `nm`, in which this process is root and may mount.
/// Prints the reason and returns `None` if this machine allows none.
#[track_caller]
pub(crate) fn namespaces(kinds: &str) -> Option<String> {
    let mut script = "mount -t tmpfs none /tmp".to_owned();
    if kinds.contains('n') {
        script += " && ip link set lo up";
    }
    let unshare = |option: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args([option, "sh", "-euc", &script]).env("LC_ALL", "C");
        unshare
    };
    // Root needs no user namespace. A chroot denies user namespaces (clone(2), EPERM).
    let options = [format!("-{kinds}"), format!("-r{kinds}")];
    if run(&mut unshare(&options[0])).code == Some(0) {
        return Some(options[0].clone());
    }
    allowed(&mut unshare(&options[1])).then(|| options[1].clone())
}

/// Returns whether the loopback has an IPv6 address. Prints the reason if not.
pub(crate) fn has_ipv6() -> bool {
    match TcpListener::bind("[::1]:0") {
        Ok(_) => true,
        Err(error) => {
            skipped(&format!("this machine has no [::1]: {error}"));
            false
        }
    }
}

/// Returns whether this process may run programs as another user and give files to that user.
#[track_caller]
pub(crate) fn may_become(uid: u32) -> bool {
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
    allowed(Command::new("setpriv").args(ids).args(["--clear-groups", "true"]))
}

/// Returns whether this process may list the open files of arcssh, which is not dumpable: only root may (proc(5)).
/// Prints the reason if not.
#[cfg(target_os = "linux")]
pub(crate) fn may_list_open_files() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped("only root may list the open files of arcssh, which is not dumpable");
    }
    is_root
}

/// Writes an executable script, and creates its directory.
pub(crate) fn script(directory: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(directory).unwrap();
    let written = directory.join(format!("{name}.written"));
    fs::write(&written, text).unwrap();
    fs::set_permissions(&written, fs::Permissions::from_mode(0o755)).unwrap();
    program_at(&directory.join(name), &written);
    fs::remove_file(written).unwrap();
}

/// Copies a program in a separate process. A file that this process has open for writing is inherited by a child
/// process of another test, and the kernel does not execute it then (execve(2), ETXTBSY).
pub(crate) fn program_at(place: &Path, program: &Path) {
    run(Command::new("cp").arg("-p").args([program, place])).clean();
}

/// Runs arcssh without a lab.
pub(crate) fn run_arcssh(words: &[&str]) -> Run {
    run(Command::new(ARCSSH).args(words).env_clear())
}

/// The output of a shell command on a terminal, and its exit status. `script` is the program script(1).
pub(crate) fn on_a_terminal(script: Command, command: &str) -> (Option<i32>, String) {
    let run = run(terminal(script, command).env("TERM", "xterm"));
    (run.code, String::from_utf8(run.stdout).unwrap())
}

/// The program `script`, script(1), with a shell command for a new terminal.
pub(crate) fn terminal(mut script: Command, command: &str) -> Command {
    match cfg!(target_os = "linux") {
        true => script.args(["-qefc", command, "/dev/null"]),
        false => script.args(["-q", "/dev/null", "sh", "-c", command]),
    };
    script
}
