//! A temporary sshd for the agent to dial: the system's OpenSSH, one process per connection as inetd starts it
//! (`sshd -i`).

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use crate::journal::lock;
use crate::keygen::{ED25519, generate_key};

/// Where sshd is installed. It is not on the PATH of an ordinary user, and it must be started by its full path.
const SSHD: [&str; 3] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/opt/homebrew/sbin/sshd"];

/// All files are in `{directory}`. `StrictModes` is off because others may write to the parents of a temporary
/// directory. PAM is off because it needs root. Sessions have a temporary home directory: the start-up files of the
/// user's shell must not affect a test.
const CONFIGURATION: &str = "\
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
LogLevel VERBOSE
AcceptEnv LC_*
SetEnv HOME={directory}/home
Subsystem sftp internal-sftp
";

/// A running sshd on a loopback port. Dropping it stops its processes.
pub struct Sshd {
    port: u16,
    directory: PathBuf,
    ended: Arc<AtomicBool>,
    sessions: Arc<Mutex<Vec<Child>>>,
    environment: Arc<Mutex<Vec<(String, String)>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Sshd {
    /// Starts sshd with its keys and its log in the existing `directory`.
    ///
    /// # Errors
    /// OpenSSH's server or key generator is not installed, or no port is free.
    pub fn start(directory: &Path) -> Result<Self> {
        let sshd = SSHD.iter().map(Path::new).find(|path| path.exists());
        let sshd = sshd.context("sshd is not installed: apt-get install openssh-server")?;
        fs::create_dir(directory.join("home"))?;
        generate_key(&ED25519, &directory.join("host_key"))?;
        generate_key(&ED25519, &directory.join("client_key"))?;
        fs::copy(directory.join("client_key.pub"), directory.join("authorized_keys"))?;
        let configuration = CONFIGURATION.replace("{directory}", &directory.display().to_string());
        fs::write(directory.join("sshd_config"), configuration)?;

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (ended, sessions) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let environment = Arc::default();
        let accept = Acceptor {
            sshd: sshd.to_owned(),
            directory: directory.to_owned(),
            ended: Arc::clone(&ended),
            sessions: Arc::clone(&sessions),
            environment: Arc::clone(&environment),
        };
        let acceptor = thread::spawn(move || accept.run(&listener));
        Ok(Self {
            port,
            directory: directory.to_owned(),
            ended,
            sessions,
            environment,
            acceptor: Some(acceptor),
        })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The private key that sshd accepts for the current user.
    pub fn client_key(&self) -> PathBuf {
        self.directory.join("client_key")
    }

    /// Returns the line of known_hosts for `host`.
    ///
    /// # Errors
    /// The key file cannot be read.
    pub fn known_hosts_line(&self, host: &str) -> Result<String> {
        Ok(format!("{host} {}", fs::read_to_string(self.directory.join("host_key.pub"))?))
    }

    /// Adds variables to the environment of sshd for new sessions.
    pub fn add_environment(&self, variables: Vec<(String, String)>) {
        lock(&self.environment).extend(variables);
    }

    /// The log of all sessions.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Makes new sessions also accept a certificate that `authority` signed for one of `principals`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn trust_authority(&self, authority: &str, principals: &[&str]) -> Result<()> {
        let file = |name: &str| self.directory.join(name);
        fs::write(file("trusted_authority.pub"), authority)?;
        fs::write(file("authorized_principals"), principals.join("\n") + "\n")?;
        let lines = format!(
            "TrustedUserCAKeys {}\nAuthorizedPrincipalsFile {}\n",
            file("trusted_authority.pub").display(),
            file("authorized_principals").display()
        );
        let configuration = fs::read_to_string(file("sshd_config"))?;
        // Every session reads the configuration file when it starts.
        fs::write(file("sshd_config"), configuration + &lines)?;
        Ok(())
    }

    /// The number of sessions that have a process.
    pub fn sessions(&self) -> usize {
        let mut sessions = lock(&self.sessions);
        sessions.retain_mut(|session| matches!(session.try_wait(), Ok(None)));
        sessions.len()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // The acceptor checks `ended` after the next connection.
        let is_awake = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| is_awake) {
            let _ = acceptor.join();
        }
        for session in lock(&self.sessions).iter_mut() {
            let _ = session.kill();
            let _ = session.wait();
        }
    }
}

struct Acceptor {
    sshd: PathBuf,
    directory: PathBuf,
    ended: Arc<AtomicBool>,
    sessions: Arc<Mutex<Vec<Child>>>,
    environment: Arc<Mutex<Vec<(String, String)>>>,
}

impl Acceptor {
    fn run(&self, listener: &TcpListener) {
        while let Ok((connection, _)) = listener.accept() {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            // If a session cannot start, its client's connection is closed.
            if let Ok(session) = self.session(connection) {
                let mut sessions = lock(&self.sessions);
                sessions.retain_mut(|session| matches!(session.try_wait(), Ok(None)));
                sessions.push(session);
            }
        }
    }

    fn session(&self, connection: TcpStream) -> io::Result<Child> {
        connection.set_nodelay(true)?;
        let connection = OwnedFd::from(connection);
        let output = connection.try_clone()?;
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        Command::new(&self.sshd)
            .args(["-i", "-e", "-f"])
            .arg(self.directory.join("sshd_config"))
            .envs(lock(&self.environment).iter().cloned())
            .stdin(Stdio::from(connection))
            .stdout(Stdio::from(output))
            .stderr(log)
            .spawn()
    }
}
