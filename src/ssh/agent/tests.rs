//! Real ssh, ssh-add and sshd, each connection with an agent in a process of its own.

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
use crate::ssh::rsa_key::Pem;

/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where a process of [`an_agent_in_a_process_of_its_own`] finds what it is to do.
const SOCKET: &str = "ARCSSH_TEST_SOCKET";
const PORT: &str = "ARCSSH_TEST_PORT";

/// The files of two key pairs, `key` and `ca`, and of a certificate of the one by the other for `alice@contoso.com`.
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

/// A folder with those files.
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
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    true
}

/// A folder with keys, and the path of an agent for them, whose folder is still to be made.
fn socket() -> (TempDir, PathBuf) {
    let folder = keys();
    let path = folder.path().join("run/agent");
    (folder, path)
}

fn keys_of(path: &Path) -> &Path {
    path.parent().unwrap().parent().unwrap()
}

fn beside(path: &Path) -> usize {
    fs::read_dir(path.parent().unwrap()).unwrap().count()
}

/// An agent on a thread of its own. Dropping it ends its connection, and waits for its end.
struct Served {
    connection: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Served {
    fn at(path: &Path) -> Self {
        let (path, (connection, ended)) = (path.to_owned(), oneshot::channel::<()>());
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

/// A server that lets `alice@contoso.com` in as whoever runs the tests, by certificates of `ca` alone.
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

    /// ssh as a generated section would have it, its ProxyCommand a process of this test program.
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

/// The name of [`an_agent_in_a_process_of_its_own`] among the tests.
const CHILD: &str = "ssh::agent::tests::an_agent_in_a_process_of_its_own";

/// What other tests start: a ProxyCommand with an agent beside it, or, without a port, an agent alone.
#[test]
#[ignore = "it is a part of other tests"]
fn an_agent_in_a_process_of_its_own() {
    let variable = |name| std::env::var(name).unwrap();
    runtime().block_on(async {
        let path = PathBuf::from(variable(SOCKET));
        let (key, certificate) = pair(keys_of(&path));
        let agent = Agent::open(&path, key, certificate).unwrap();
        let Ok(port) = std::env::var(PORT) else { return agent.during(std::future::pending()).await };
        let carry = async {
            let mut server = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
            let mut ssh = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
            let mut hangup = signal(SignalKind::hangup()).unwrap(); // ssh's last word to its ProxyCommand
            tokio::select! {
                _ = copy_bidirectional(&mut ssh, &mut server) => {}
                _ = hangup.recv() => {}
            }
        };
        agent.during(carry).await;
    });
    std::process::exit(0); // a read of standard input cannot be given up
}

/// An agent in a process that can be killed.
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
fn nothing_is_left_behind_and_only_the_owner_can_enter() {
    let (folder, path) = socket();
    let agent = Served::at(&path);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    drop(agent);
    assert_eq!(beside(&path), 0);
    fs::set_permissions(folder.path().join("run"), fs::Permissions::from_mode(0o750)).unwrap();
    let (key, certificate) = pair(folder.path());
    let refused = Agent::open(&path, key, certificate).err().unwrap();
    assert!(
        format!("{refused:#}").ends_with("/run (mode 0750), the directory of the SSH agent"),
        "{refused:#}"
    );
}

#[test]
fn ssh_logs_in_with_an_agent_that_its_own_proxy_command_serves() {
    let server = Server::start();
    let output = server.ssh().args(["server", "echo", "welcome"]).output().unwrap();
    succeeded(&output);
    assert!(output.stdout.starts_with(b"welcome"));
    assert!(server.sshd.log().contains("Accepted certificate ID \"id\""), "{}", server.sshd.log());
}

#[test]
fn thirty_connections_to_one_host_all_log_in() {
    let server = Server::start();
    let start =
        |_| server.ssh().args(["server", "true"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let all: Vec<Child> = (0..30).map(start).collect::<Result<_, _>>().unwrap();
    for ssh in all {
        succeeded(&ssh.wait_with_output().unwrap());
    }
    assert!(eventually(|| beside(&server.socket) == 0));
}

/// With IdentityAgent, ssh forwards this agent (ssh.c sets SSH_AUTH_SOCK to it); since 8.9 it tells so beforehand.
#[test]
fn a_machine_that_the_agent_is_forwarded_to_sees_no_identity() {
    let server = Server::start();
    let output = server.ssh().args(["-A", "server", "ssh-add -L; true"]).output().unwrap();
    succeeded(&output);
    assert!(output.stdout.starts_with(b"The agent has no identities."), "{output:?}");
}

#[test]
fn whoever_comes_or_goes_somebody_answers() {
    let (_folder, path) = socket();
    let stays = Served::at(&path);
    thread::scope(|scope| {
        let come_and_go = || (0..8).for_each(|_| drop(Served::at(&path)));
        let busy: Vec<_> = (0..8).map(|_| scope.spawn(come_and_go)).collect();
        let mut asked = 0;
        while !busy.iter().all(thread::ScopedJoinHandle::is_finished) {
            let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            client.write_all(&[0, 0, 0, 1, 11]).unwrap();
            let mut answer = [0; 9];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer[4..], [12, 0, 0, 0, 1]);
            asked += 1;
        }
        assert!(asked > 100);
    });
    assert!(lists(&path));
    drop(stays);
    assert_eq!(beside(&path), 0);
}

#[test]
fn where_processes_are_killed_those_that_live_take_over() {
    let (_folder, path) = socket();
    let oldest = Served::at(&path);
    let (second, third, newest) = (Process::at(&path), Process::at(&path), Process::at(&path));
    drop(newest);
    assert!(eventually(|| lists(&path)));
    drop((second, third));
    assert!(eventually(|| lists(&path)));
    drop(oldest);
    assert_eq!(beside(&path), 0, "what the dead left is cleared away");
}

#[test]
fn what_a_process_that_was_killed_left_is_in_nobodys_way() {
    let (_folder, path) = socket();
    drop(Process::at(&path));
    assert!(!lists(&path));
    let _next = Served::at(&path);
    assert!(lists(&path));
}

#[test]
fn what_only_looks_like_a_socket_of_ours_is_in_nobodys_way() {
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
fn a_client_in_the_middle_of_something_is_served_beyond_the_connection_when_another_has_taken_over() {
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
fn clients_that_stall_or_talk_nonsense_keep_nobody_from_being_served() {
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
fn a_message_is_taken_up_to_256_kib_and_a_longer_one_ends_its_client_at_once() {
    let (_folder, path) = socket();
    let _agent = Served::at(&path);
    let answer_to = |length: u32, content: &[u8]| {
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&[&length.to_be_bytes(), content].concat()).unwrap();
        let mut answer = [0; 5];
        client.read(&mut answer).map(|got| answer[..got].to_vec()).unwrap()
    };
    assert_eq!(answer_to(256 * 1024, &[0; 256 * 1024]), [0, 0, 0, 1, 5]);
    assert!(answer_to(256 * 1024 + 1, &[]).is_empty());
}

/// Only root can be another user; for others the folder's mode is what is tested elsewhere.
#[test]
fn another_user_is_turned_away_even_where_the_folder_lets_him_in() {
    const NOBODY: u32 = 65534;
    let (folder, path) = socket();
    let _agent = Served::at(&path);
    let asks_as = |user: u32| ssh_add("-L", &path).uid(user).output();
    let ours = rustix::process::geteuid();
    assert!(asks_as(ours.as_raw()).unwrap().status.success());
    if ours.is_root() {
        for folder in [folder.path(), path.parent().unwrap()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let refused = asks_as(NOBODY).unwrap();
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_bytes_come_the_agent_lives_and_signs_nothing(bytes: Vec<u8>) {
        let (_folder, path) = socket();
        let agent = Served::at(&path);
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(&bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        let _ = client.read_to_end(&mut answers); // it may be reset, with bytes of ours unread
        prop_assert!(answers.len() < 5 || answers[4] != 14);
        prop_assert!(!agent.thread.as_ref().unwrap().is_finished());
    }
}

/// Everything in a folder but its sockets: names, and what files hold or links lead to.
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
fn a_path_that_arcssh_did_not_make_is_left_as_it_is() {
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
            matches!(error.downcast_ref(), Some(NotServed::Occupied(at)) if *at == path),
            "{what}: {error:#}"
        );
        let after = (fs::symlink_metadata(&path).unwrap().file_type(), fs::read_link(&path).ok());
        assert_eq!((after, beside(&path)), (before, 1), "{what}");
        match what {
            "a directory" => fs::remove_dir(&path).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
    }
    assert_eq!(fs::read_dir(run).unwrap().count(), 0);
}

#[test]
fn a_path_that_cannot_be_a_socket_is_named_and_nothing_is_made() {
    let (folder, path) = socket();
    let refused = |path: &Path| {
        let (key, certificate) = pair(folder.path());
        Agent::open(path, key, certificate).err().unwrap()
    };
    for length in [108, 200, 300] {
        let error = refused(&path.with_file_name("x".repeat(length)));
        assert!(matches!(error.downcast_ref(), Some(NotServed::TooLong(_))), "{length}: {error:#}");
    }
    assert!(!path.parent().unwrap().exists());
    let error = refused(Path::new("/"));
    assert!(matches!(error.downcast_ref(), Some(NotServed::Occupied(_))), "{error:#}");
}

#[test]
fn what_has_the_name_of_a_socket_or_of_a_new_link_stays() {
    use std::os::unix::fs::symlink;
    let (_folder, path) = socket();
    drop(Served::at(&path));
    let beside = |name: &str| path.with_file_name(name);
    for name in
        ["agent.1", "agent.2", "agent.7", "agent.999999999", "agent.new", "agent.new-abcdef", "agent.007"]
    {
        fs::write(beside(name), "mine").unwrap();
    }
    fs::create_dir(beside("agent.3")).unwrap();
    symlink("agent.7", beside("agent.4")).unwrap();
    symlink("nowhere", beside("agent.new-ghijkl")).unwrap();
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
fn a_file_that_takes_the_place_of_the_path_outlives_the_agent() {
    let (_folder, path) = socket();
    let (oldest, newest) = (Served::at(&path), Served::at(&path));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    drop(newest);
    drop(oldest);
    assert_eq!((fs::read_to_string(&path).unwrap(), beside(&path)), ("mine".into(), 1));
}

/// As a process leaves it that is killed between making a link and putting it in place.
#[test]
fn a_new_link_that_a_killed_process_left_is_cleared_away() {
    let (_folder, path) = socket();
    drop(Served::at(&path));
    std::os::unix::fs::symlink("agent.5", path.with_file_name("agent.new-abcdef")).unwrap();
    drop(Served::at(&path));
    assert_eq!(beside(&path), 0);
}

#[test]
fn a_directory_that_others_can_enter_is_not_to_be_closed() {
    let (folder, _) = socket();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (key, certificate) = pair(folder.path());
    let error = Agent::open(&folder.path().join("agent"), key, certificate).err().unwrap();
    assert!(matches!(error.downcast_ref(), Some(NotServed::Open { mode: 0o755, .. })), "{error:#}");
}
