//! The agent with real ssh, ssh-add and sshd. Each connection runs its agent in a separate process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::Instant;

use arcssh_emulator::sshd::Sshd;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::*;
use crate::ssh::SocketProblem;
use crate::ssh::rsa_key::Pem;

/// The time limit of a step on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The environment variables of [`agent_process`].
const SOCKET: &str = "ARCSSH_TEST_SOCKET";
const PORT: &str = "ARCSSH_TEST_PORT";

/// The files of the key pairs `key` and `ca`, and of a certificate that `ca` signed for `key` and `alice@contoso.com`.
static KEY_FILES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for name in ["key", "ca"] {
        keygen(&folder, &["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", name]);
    }
    keygen(&folder, &["-q", "-s", "ca", "-I", "id", "-n", "alice@contoso.com", "key.pub"]);
    let files = ["key", "key-cert.pub", "ca.pub"].into_iter();
    files.map(|name| (name, fs::read(folder.path().join(name)).unwrap())).collect()
});

fn keygen(folder: &TempDir, arguments: &[&str]) {
    assert!(Command::new("ssh-keygen").current_dir(folder).args(arguments).status().unwrap().success());
}

/// Creates a directory with [`KEY_FILES`].
pub(super) fn keys() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in KEY_FILES.iter() {
        fs::write(folder.path().join(name), content).unwrap();
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

pub(super) fn pair(folder: &Path) -> (KeyPair, Certificate) {
    let certificate = fs::read_to_string(folder.join("key-cert.pub")).unwrap();
    let pem = Pem(fs::read_to_string(folder.join("key")).unwrap().into());
    (KeyPair::from_pem(&pem).unwrap(), Certificate::parse(&certificate).unwrap())
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn eventually(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    true
}

/// Creates a directory with keys. Also returns the path of an agent for them, whose directory does not exist yet.
fn socket() -> (TempDir, PathBuf) {
    let folder = keys();
    let path = folder.path().join("run/agent");
    (folder, path)
}

fn keys_of(path: &Path) -> &Path {
    path.parent().unwrap().parent().unwrap()
}

fn entries_next_to(path: &Path) -> usize {
    fs::read_dir(path.parent().unwrap()).unwrap().count()
}

/// An agent on a separate thread. Dropping it ends its connection and joins the thread.
struct Served {
    connection: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Served {
    fn at(path: &Path) -> Self {
        let path = path.to_owned();
        let (connection, ended) = oneshot::channel::<()>();
        let (opened, is_open) = std::sync::mpsc::channel();
        let serve = move || {
            runtime().block_on(async {
                let (key, certificate) = pair(keys_of(&path));
                let agent = Agent::open(&path, key, certificate).unwrap();
                opened.send(()).unwrap();
                agent.during(ended).await.unwrap_err();
            });
        };
        let thread = thread::spawn(serve);
        is_open.recv().unwrap();
        Self { connection: Some(connection), thread: Some(thread) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.connection.take());
        let ended = self.thread.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok());
    }
}

fn ssh_add(option: &str, path: &Path) -> Command {
    let mut command = Command::new("ssh-add");
    command.arg(option).env("SSH_AUTH_SOCK", path);
    command
}

fn lists(path: &Path) -> bool {
    let output = ssh_add("-L", path).output().unwrap();
    let certificate = fs::read_to_string(keys_of(path).join("key-cert.pub")).unwrap();
    let body = certificate.split(' ').nth(1).unwrap();
    output.status.success()
        && String::from_utf8(output.stdout).unwrap()
            == format!("ssh-rsa-cert-v01@openssh.com {body} arcssh\n")
}

/// A server that accepts only certificates by `ca`, with the principal `alice@contoso.com`, for the user of the tests.
struct Server {
    folder: TempDir,
    sshd: Sshd,
    socket: PathBuf,
}

impl Server {
    fn start() -> Self {
        let (folder, socket) = socket();
        let sshd = Sshd::start(folder.path()).unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("authorized_keys"), "").unwrap();
        fs::write(path("principals"), "alice@contoso.com\n").unwrap();
        fs::write(path("known_hosts"), sshd.known_hosts_line("server").unwrap()).unwrap();
        let mut configuration = fs::OpenOptions::new().append(true).open(path("sshd_config")).unwrap();
        writeln!(configuration, "TrustedUserCAKeys {}", path("ca.pub").display()).unwrap();
        writeln!(configuration, "AuthorizedPrincipalsFile {}", path("principals").display()).unwrap();
        Self { folder, sshd, socket }
    }

    /// ssh with the options of a generated host entry. Its ProxyCommand is [`agent_process`].
    fn ssh(&self) -> Command {
        let program = std::env::current_exe().unwrap();
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "HostKeyAlias=server",
            "-o",
            "IdentityFile=none",
        ])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", self.folder.path().join("known_hosts").display()))
        .arg("-o")
        .arg(format!("IdentityAgent={}", self.socket.display()))
        .arg("-o")
        .arg(format!("ProxyCommand={} -q --ignored --exact {CHILD}", program.display()))
        .env_remove("SSH_AUTH_SOCK")
        .env(SOCKET, &self.socket)
        .env(PORT, self.sshd.port().to_string())
        .stdin(Stdio::null());
        ssh
    }
}

/// The name of [`agent_process`] among the tests.
const CHILD: &str = "ssh::agent::tests::agent_process";

/// The process that other tests start: a ProxyCommand with an agent or, without a port, only an agent.
#[test]
#[ignore = "other tests start it"]
fn agent_process() {
    let variable = |name| std::env::var(name).unwrap();
    runtime().block_on(async {
        let path = PathBuf::from(variable(SOCKET));
        let (key, certificate) = pair(keys_of(&path));
        let agent = Agent::open(&path, key, certificate).unwrap();
        let Ok(port) = std::env::var(PORT) else { return agent.during(std::future::pending()).await };
        let carry = async {
            let mut server = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
            let mut ssh = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
            let mut hangup = signal(SignalKind::hangup()).unwrap(); // ssh ends its ProxyCommand by SIGHUP
            tokio::select! {
                _ = copy_bidirectional(&mut ssh, &mut server) => {}
                _ = hangup.recv() => {}
            }
        };
        agent.during(carry).await;
    });
    std::process::exit(0); // a read of standard input cannot be cancelled
}

/// An agent in a process, which is killed on drop.
struct Process(Child);

impl Process {
    fn at(path: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["-q", "--ignored", "--exact", CHILD]).env_remove(PORT);
        command.env(SOCKET, path).stdin(Stdio::null()).stdout(Stdio::null());
        let before = fs::read_link(path).ok();
        let process = Self(command.spawn().unwrap());
        assert!(eventually(|| fs::read_link(path).ok() != before));
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn ssh_add_lists_exactly_one_certificate() {
    let (_folder, path) = socket();
    let _agent = Served::at(&path);
    assert!(lists(&path));
}

#[test]
fn only_the_owner_can_reach_the_socket_and_all_files_are_deleted_at_the_end() {
    let (folder, path) = socket();
    let agent = Served::at(&path);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    drop(agent);
    assert_eq!(entries_next_to(&path), 0);
    fs::set_permissions(folder.path().join("run"), fs::Permissions::from_mode(0o750)).unwrap();
    let (key, certificate) = pair(folder.path());
    let error = Agent::open(&path, key, certificate).err().unwrap();
    assert!(format!("{error:#}").ends_with("/run (mode 0750), the directory of the SSH agent"), "{error:#}");
}

#[test]
fn ssh_logs_in_with_the_agent_of_its_proxy_command() {
    let server = Server::start();
    let output = server.ssh().args(["server", "echo", "welcome"]).output().unwrap();
    succeeded(&output);
    assert!(output.stdout.starts_with(b"welcome"));
    assert!(server.sshd.log().contains("Accepted certificate ID \"id\""), "{}", server.sshd.log());
}

#[test]
fn thirty_connections_at_once_to_one_host_all_log_in() {
    let server = Server::start();
    let start =
        |_| server.ssh().args(["server", "true"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let all: Vec<Child> = (0..30).map(start).collect::<Result<_, _>>().unwrap();
    for ssh in all {
        succeeded(&ssh.wait_with_output().unwrap());
    }
    assert!(eventually(|| entries_next_to(&server.socket) == 0));
}

/// With IdentityAgent, ssh forwards this agent (ssh.c sets SSH_AUTH_SOCK to it). Since 8.9 it announces that first.
#[test]
fn a_machine_that_the_agent_is_forwarded_to_sees_no_identity() {
    let server = Server::start();
    let output = server.ssh().args(["-A", "server", "ssh-add -L; true"]).output().unwrap();
    succeeded(&output);
    assert!(output.stdout.starts_with(b"The agent has no identities."), "{output:?}");
}

#[test]
fn clients_are_answered_while_processes_start_and_end() {
    let (_folder, path) = socket();
    let stays = Served::at(&path);
    thread::scope(|scope| {
        let start_and_end = || (0..8).for_each(|_| drop(Served::at(&path)));
        let others: Vec<_> = (0..8).map(|_| scope.spawn(start_and_end)).collect();
        let mut answers = 0;
        while !others.iter().all(thread::ScopedJoinHandle::is_finished) {
            let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            client.write_all(&[0, 0, 0, 1, 11]).unwrap();
            let mut answer = [0; 9];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer[4..], [12, 0, 0, 0, 1]);
            answers += 1;
        }
        assert!(answers > 100);
    });
    assert!(lists(&path));
    drop(stays);
    assert_eq!(entries_next_to(&path), 0);
}

#[test]
fn a_process_that_ends_replaces_the_link_of_a_killed_one() {
    let (_folder, path) = socket();
    let oldest = Served::at(&path);
    let second = Served::at(&path);
    let (third, newest) = (Process::at(&path), Process::at(&path));
    drop((third, newest));
    assert!(!lists(&path));
    drop(second);
    assert!(lists(&path));
    drop(oldest);
    assert_eq!(entries_next_to(&path), 0, "the sockets of killed processes are deleted");
}

#[test]
fn a_process_that_starts_replaces_the_link_of_a_killed_one() {
    let (_folder, path) = socket();
    drop(Process::at(&path));
    assert!(!lists(&path));
    let _next = Served::at(&path);
    assert!(lists(&path));
}

#[test]
fn files_named_like_a_socket_do_not_disturb() {
    let (_folder, path) = socket();
    drop(Served::at(&path));
    for stray in
        ["agent.7", "agent.18446744073709551615", "agent.99999999999999999999999999", "agent.x", "agent.new"]
    {
        fs::write(path.with_file_name(stray), "").unwrap();
        let _agent = Served::at(&path);
        assert!(lists(&path), "{stray}");
    }
}

#[test]
fn a_connected_client_is_served_after_another_process_has_taken_over() {
    let (_folder, path) = socket();
    let leaving = Served::at(&path);
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut ask = || {
        client.write_all(&[0, 0, 0, 1, 11]).unwrap();
        client.read_exact(&mut [0; 9]).unwrap();
        let mut rest = [0; 4];
        client.read_exact(&mut rest).unwrap();
        let mut certificate = vec![0; u32::from_be_bytes(rest) as usize + "....arcssh".len()];
        client.read_exact(&mut certificate).unwrap();
    };
    ask();
    let _other = Served::at(&path);
    let end = thread::spawn(move || drop(leaving));
    ask();
    assert!(eventually(|| fs::read_link(&path).is_ok_and(|target| target == Path::new("agent.2"))));
    ask();
    drop(client);
    end.join().unwrap();
}

#[test]
fn stalled_and_malformed_clients_do_not_block_others() {
    let (_folder, path) = socket();
    let _agent = Served::at(&path);
    let messages: [&[u8]; 5] =
        [&[], &[0, 0], &[0, 0, 1, 0, 11], &[0xff, 0xff, 0xff, 0xff, 11], &[0, 0, 0, 1, 200, 0, 0, 0, 0]];
    let stalled: Vec<_> = (0..50)
        .map(|at| {
            let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            client.write_all(messages[at % messages.len()]).unwrap();
            client
        })
        .collect();
    assert!(lists(&path));
    drop(stalled);
    assert!(lists(&path));
}

#[test]
fn messages_up_to_256_kib_are_answered_and_longer_ones_close_the_connection() {
    let (_folder, path) = socket();
    let _agent = Served::at(&path);
    let answer_to = |length: u32, content: &[u8]| {
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.write_all(&[&length.to_be_bytes(), content].concat()).unwrap();
        let mut answer = [0; 5];
        client.read(&mut answer).map(|got| answer[..got].to_vec()).unwrap()
    };
    assert_eq!(answer_to(256 * 1024, &[0; 256 * 1024]), [0, 0, 0, 1, 5]);
    assert!(answer_to(256 * 1024 + 1, &[]).is_empty());
}

/// Only root can run a process as another user. Another test covers the mode of the directory.
#[test]
fn other_users_are_rejected_even_if_the_directory_is_open() {
    const OTHER_USER: u32 = 65534;
    let (folder, path) = socket();
    let _agent = Served::at(&path);
    let list_as = |user: u32| ssh_add("-L", &path).uid(user).output();
    let user = rustix::process::geteuid();
    assert!(list_as(user.as_raw()).unwrap().status.success());
    if user.is_root() {
        for folder in [folder.path(), path.parent().unwrap()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let rejected = list_as(OTHER_USER).unwrap();
        assert!(!rejected.status.success() && rejected.stdout.is_empty(), "{rejected:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_agent_survives_any_bytes_and_signs_nothing(bytes: Vec<u8>) {
        let (_folder, path) = socket();
        let agent = Served::at(&path);
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(&bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        let _ = client.read_to_end(&mut answers); // the connection may be reset while bytes are unread
        prop_assert!(answers.len() < 5 || answers[4] != 14);
        prop_assert!(!agent.thread.as_ref().unwrap().is_finished());
    }
}

/// The names in a directory, without sockets, each with the content of the file or the target of the link.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    use std::os::unix::fs::FileTypeExt as _;
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| !entry.file_type().unwrap().is_socket())
        .map(|entry| {
            let link = fs::read_link(entry.path()).map(|link| link.into_os_string().into_encoded_bytes());
            (entry.path(), link.or_else(|_| fs::read(entry.path())).unwrap_or_default())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_path_that_arcssh_did_not_create_is_not_changed() {
    use std::os::unix::fs::symlink;
    let (folder, path) = socket();
    drop(Served::at(&path));
    let run = path.parent().unwrap();
    let makes: [(&str, &dyn Fn()); 8] = [
        ("a private key", &|| fs::write(&path, "PRIVATE KEY").unwrap()),
        ("a directory", &|| fs::create_dir(&path).unwrap()),
        ("a link to a file", &|| symlink("../key", &path).unwrap()),
        ("a link to a number elsewhere", &|| symlink("other/agent.1", &path).unwrap()),
        ("a link to another form of a number", &|| symlink("agent.+1", &path).unwrap()),
        ("a link that leads nowhere", &|| symlink("nowhere", &path).unwrap()),
        ("a FIFO", &|| assert!(Command::new("mkfifo").arg(&path).status().unwrap().success())),
        ("a socket", &|| drop(std::os::unix::net::UnixListener::bind(&path).unwrap())),
    ];
    for (what, make) in makes {
        make();
        let before = (fs::symlink_metadata(&path).unwrap().file_type(), fs::read_link(&path).ok());
        let (key, certificate) = pair(folder.path());
        let error = Agent::open(&path, key, certificate).err().unwrap();
        assert!(
            matches!(&error, SshError::AgentSocket(SocketProblem::Occupied(at)) if *at == path),
            "{what}: {error:#}"
        );
        let after = (fs::symlink_metadata(&path).unwrap().file_type(), fs::read_link(&path).ok());
        assert_eq!((after, entries_next_to(&path)), (before, 1), "{what}");
        match what {
            "a directory" => fs::remove_dir(&path).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
    }
    assert_eq!(fs::read_dir(run).unwrap().count(), 0);
}

#[test]
fn a_path_that_cannot_be_a_socket_is_an_error_and_creates_nothing() {
    let (folder, path) = socket();
    let error_for = |path: &Path| {
        let (key, certificate) = pair(folder.path());
        Agent::open(path, key, certificate).err().unwrap()
    };
    for length in [108, 200, 300] {
        let error = error_for(&path.with_file_name("x".repeat(length)));
        assert!(matches!(error, SshError::AgentSocket(SocketProblem::TooLong(_))), "{length}: {error:#}");
    }
    assert!(!path.parent().unwrap().exists());
    let error = error_for(Path::new("/"));
    assert!(matches!(error, SshError::AgentSocket(SocketProblem::Occupied(_))), "{error:#}");
}

#[test]
fn foreign_files_next_to_the_socket_are_not_changed() {
    use std::os::unix::fs::symlink;
    let (_folder, path) = socket();
    drop(Served::at(&path));
    let sibling = |name: &str| path.with_file_name(name);
    for name in
        ["agent.1", "agent.2", "agent.7", "agent.999999999", "agent.new", "agent.new-abcdef", "agent.007"]
    {
        fs::write(sibling(name), "mine").unwrap();
    }
    fs::create_dir(sibling("agent.3")).unwrap();
    symlink("agent.7", sibling("agent.4")).unwrap();
    symlink("nowhere", sibling("agent.new-ghijkl")).unwrap();
    let before = contents(path.parent().unwrap());
    let process = Process::at(&path);
    assert!(lists(&path));
    drop(process);
    for _ in 0..2 {
        let _agent = Served::at(&path);
        assert!(lists(&path));
    }
    assert_eq!(contents(path.parent().unwrap()), before);
}

#[test]
fn a_file_that_replaces_the_link_is_not_deleted() {
    let (_folder, path) = socket();
    let (oldest, newest) = (Served::at(&path), Served::at(&path));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    drop(newest);
    drop(oldest);
    assert_eq!((fs::read_to_string(&path).unwrap(), entries_next_to(&path)), ("mine".into(), 1));
}

/// A process that is killed between creating a link and renaming it leaves such a link.
#[test]
fn an_unfinished_link_of_a_killed_process_is_deleted() {
    let (_folder, path) = socket();
    drop(Served::at(&path));
    std::os::unix::fs::symlink("agent.5", path.with_file_name("agent.new-abcdef")).unwrap();
    drop(Served::at(&path));
    assert_eq!(entries_next_to(&path), 0);
}

#[test]
fn an_existing_directory_that_others_can_enter_is_an_error_and_keeps_its_mode() {
    let (folder, _) = socket();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (key, certificate) = pair(folder.path());
    let error = Agent::open(&folder.path().join("agent"), key, certificate).err().unwrap();
    assert!(matches!(error, SshError::AgentSocket(SocketProblem::Open { mode: 0o755, .. })), "{error:#}");
}
