//! The main job as a transcript: `arcssh-emulator demo` runs it, `arcssh-emulator playground` leaves it up.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use arcssh_emulator::playground::Playground;

use crate::serve;

/// The machine that is reached.
const MACHINE: &str = "web01";
/// The ssh configuration as it is called within the playground's home.
const CONFIG: &str = ".ssh/config";

/// Where arcssh is.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// The arcssh to show [default: the one beside this program]
    #[arg(long)]
    arcssh: Option<PathBuf>,
}

impl Demo {
    /// Runs ssh, scp, sftp and rsync through arcssh, and tells what happens as a shell session would show it.
    pub(crate) fn run(&self) -> Result<()> {
        let playground = self.start()?;
        let show = Show { playground: &playground, interrupted: interrupted()? };
        tell("An ssh configuration whose host uses arcssh:");
        show.step(&["cat", CONFIG])?;

        tell("A command on the machine:");
        show.step(&["ssh", "-F", CONFIG, MACHINE, "uname", "-a"])?;

        let home = playground.home().display().to_string();
        let remote = |path: &str| format!("{MACHINE}:{home}/{path}");
        fs::create_dir(playground.home().join("photos"))?;
        for n in 1..=3 {
            fs::write(playground.home().join(format!("photos/{n}.raw")), random_bytes(1 << 20)?)?;
        }
        tell("A file there by scp:");
        show.step(&["scp", "-F", CONFIG, "photos/1.raw", &remote("copied.raw")])?;
        tell("The same file back by sftp:");
        fs::write(playground.home().join("batch"), format!("get {home}/copied.raw returned.raw\n"))?;
        show.step(&["sftp", "-F", CONFIG, "-b", "batch", MACHINE])?;
        show.same(&["photos/1.raw", "returned.raw"])?;

        tell("A folder there and back by rsync:");
        let shell = format!("ssh -F {CONFIG}");
        show.step(&["rsync", "-a", "--checksum", "-e", &shell, "photos/", &remote("mirror/")])?;
        show.step(&["rsync", "-a", "--checksum", "-e", &shell, &remote("mirror/"), "returned/"])?;
        show.same(&["photos/1.raw", "returned/1.raw"])?;
        show.same(&["photos/3.raw", "returned/3.raw"])?;
        tell("All checksums agree.");
        Ok(())
    }

    /// Leaves the playground up, prints what to type in another terminal, and stays until it is interrupted.
    pub(crate) fn stay(&self) -> Result<()> {
        let interrupted = interruption()?;
        let playground = self.start()?;
        let environment = playground.home().join("environment");
        serve::write_env_file(&environment, &serve::env_text(playground.emulator()))?;
        let configuration = playground.configuration();
        tell(&format!(
            "{MACHINE} is up. In another terminal:

  . {environment}
  ssh -F {configuration} {MACHINE}
  scp -F {configuration} /etc/hostname {MACHINE}:/tmp/
  {arcssh} proxy -v {id} --port {port} </dev/null

Ctrl-C ends it and takes everything with it.",
            environment = environment.display(),
            configuration = configuration.display(),
            arcssh = self.arcssh()?.display(),
            id = playground.emulator().machine(MACHINE).resource_id(),
            port = playground.sshd().port(),
        ));
        interrupted();
        Ok(())
    }

    fn start(&self) -> Result<Playground> {
        let arcssh = self.arcssh()?;
        ensure!(arcssh.exists(), "{} is not there: cargo build", arcssh.display());
        Playground::start(&arcssh, &[MACHINE], |builder| builder)
    }

    fn arcssh(&self) -> Result<PathBuf> {
        let beside = || Ok(std::env::current_exe()?.with_file_name("arcssh"));
        self.arcssh.clone().map_or_else(beside, Ok)
    }
}

/// Runs commands in a playground and shows them as they are typed.
struct Show<'a> {
    playground: &'a Playground,
    interrupted: Arc<AtomicBool>,
}

impl Show<'_> {
    fn step(&self, words: &[&str]) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::SeqCst), "interrupted");
        let typed: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        tell(&format!("$ {}", typed.join(" ")));
        let (program, arguments) = words.split_first().context("no command")?;
        let status = self.playground.command(program).args(arguments).status();
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
fn tell(text: &str) {
    println!("{text}");
}

/// Whether a signal has asked for the end; from now on none ends the program at once, so that it can clean up.
fn interrupted() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let (raised, interruption) = (Arc::clone(&flag), interruption()?);
    thread::spawn(move || {
        interruption();
        raised.store(true, Ordering::SeqCst);
    });
    Ok(flag)
}

/// Takes the signals that ask for the end; the function returned waits for one.
fn interruption() -> Result<impl FnOnce()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signal = {
        let _entered = runtime.enter();
        serve::interrupted()?
    };
    Ok(move || runtime.block_on(signal))
}

fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

fn random_bytes(length: usize) -> Result<Vec<u8>> {
    let random = Command::new("head").arg("-c").arg(length.to_string()).arg("/dev/urandom").output()?;
    Ok(random.stdout)
}
