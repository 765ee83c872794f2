//! `arcssh-emulator demo`: runs ssh, scp, sftp and rsync through arcssh, and its own commands, and prints a transcript.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use arcssh_emulator::playground::Playground;

use crate::serve;

const MACHINE: &str = "web01";
/// The ssh configuration, relative to the playground's home directory.
const CONFIG: &str = ".ssh/config";

/// Run ssh, scp, sftp and rsync through arcssh, and its own commands
#[derive(clap::Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    arcssh: Arcssh,
}

impl Demo {
    /// Runs the demo. The output looks like a shell session.
    pub(crate) fn run(&self) -> Result<()> {
        let playground = self.start()?;
        let arcssh = self.arcssh.path()?;
        let transcript = Transcript { playground: &playground, arcssh, interrupted: interrupted()? };
        print("An ssh configuration with a host that connects through arcssh:");
        transcript.step(&["cat", CONFIG])?;

        print("Run a command on the machine:");
        transcript.step(&["ssh", "-F", CONFIG, MACHINE, "uname", "-a"])?;

        let home = playground.home().display().to_string();
        let remote = |path: &str| format!("{MACHINE}:{home}/{path}");
        fs::create_dir(playground.home().join("photos"))?;
        for n in 1..=3 {
            fs::write(playground.home().join(format!("photos/{n}.raw")), random_bytes(1 << 20)?)?;
        }
        print("Copy a file to the machine with scp:");
        transcript.step(&["scp", "-F", CONFIG, "photos/1.raw", &remote("copied.raw")])?;
        print("Copy the file back with sftp:");
        fs::write(playground.home().join("batch"), format!("get {home}/copied.raw returned.raw\n"))?;
        transcript.step(&["sftp", "-F", CONFIG, "-b", "batch", MACHINE])?;
        transcript.same(&["photos/1.raw", "returned.raw"])?;

        print("Copy a directory to the machine and back with rsync:");
        let shell = format!("ssh -F {CONFIG}");
        transcript.step(&["rsync", "-a", "--checksum", "-e", &shell, "photos/", &remote("mirror/")])?;
        transcript.step(&["rsync", "-a", "--checksum", "-e", &shell, &remote("mirror/"), "returned/"])?;
        transcript.same(&["photos/1.raw", "returned/1.raw"])?;
        transcript.same(&["photos/3.raw", "returned/3.raw"])?;
        print("All checksums agree.");
        if self.arcssh.arcssh.is_none() {
            commands(&transcript)?;
        }
        Ok(())
    }

    fn start(&self) -> Result<Playground> {
        Playground::start(&self.arcssh.path()?, &[MACHINE], |builder| builder)?.isolate()
    }
}

/// Runs commands of arcssh. A program of another system, for which only ssh is shown, has no ssh to run.
fn commands(transcript: &Transcript) -> Result<()> {
    print("List the machines:");
    transcript.step(&["arcssh", "list"])?;
    print("Connect to a machine by its name in Azure:");
    transcript.step(&["arcssh", "ssh", MACHINE, "uname", "-n"])?;
    print("Measure the connection:");
    transcript.step(&["arcssh", "ping", MACHINE, "--count", "2"])?;
    print("Give a program that cannot run arcssh a local port:");
    transcript.step(&["arcssh", "forward", MACHINE, "--exec", "ssh-keyscan -t ed25519 -p {port} {host}"])?;
    print("Open the remote desktop; here, the client is a program that prints the file for it:");
    transcript.step(&["arcssh", "rdp", MACHINE, "--client", "cat"])?;
    print("Check each step up to sshd:");
    transcript.step(&["arcssh", "doctor", MACHINE])
}

/// The path of arcssh
#[derive(clap::Args)]
pub(crate) struct Arcssh {
    /// The arcssh to run [default: arcssh in the directory of this program]
    #[arg(long)]
    arcssh: Option<PathBuf>,
}

impl Arcssh {
    /// Returns the path of arcssh.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let path = match &self.arcssh {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?.with_file_name("arcssh"),
        };
        ensure!(path.exists(), "{} does not exist: run cargo build", path.display());
        Ok(path)
    }
}

/// Runs commands in a playground and prints them as a user would type them.
struct Transcript<'a> {
    playground: &'a Playground,
    arcssh: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Transcript<'_> {
    fn step(&self, words: &[&str]) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::SeqCst), "interrupted");
        let typed: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        print(&format!("$ {}", typed.join(" ")));
        let (program, arguments) = words.split_first().context("no command")?;
        let path = if *program == "arcssh" { self.arcssh.as_os_str() } else { program.as_ref() };
        let status = self.playground.command(path).args(arguments).status();
        let status = status.with_context(|| format!("{program} is not installed"))?;
        ensure!(status.success(), "{program} failed: {status}");
        Ok(())
    }

    fn same(&self, files: &[&str]) -> Result<()> {
        self.step(&[&["cksum"], files].concat())?;
        let read = |file: &&str| fs::read(self.playground.home().join(file));
        let contents: Vec<Vec<u8>> = files.iter().map(read).collect::<Result<_, _>>()?;
        ensure!(contents.windows(2).all(|pair| pair[0] == pair[1]), "{} differ", files.join(" and "));
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the transcript is the product")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

/// Installs handlers for SIGINT, SIGTERM and SIGHUP, so that the program can clean up. The result becomes true with the
/// first signal.
fn interrupted() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signal = {
        let _entered = runtime.enter();
        serve::interrupted()?
    };
    thread::spawn(move || {
        runtime.block_on(signal);
        raised.store(true, Ordering::SeqCst);
    });
    Ok(flag)
}

/// Quotes a word of a shell command line if it needs quotes.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn random_bytes(length: usize) -> Result<Vec<u8>> {
    let random = Command::new("head").arg("-c").arg(length.to_string()).arg("/dev/urandom").output()?;
    Ok(random.stdout)
}
