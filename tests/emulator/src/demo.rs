//! The main job as a transcript: `arcssh-emulator demo`.

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

/// Show ssh, scp, sftp and rsync at work.
#[derive(clap::Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    arcssh: Arcssh,
}

impl Demo {
    /// Runs ssh, scp, sftp and rsync through arcssh, and tells what happens as a shell session would show it.
    pub(crate) fn run(&self) -> Result<()> {
        let playground = self.start()?;
        let show = Show { playground: &playground, interrupted: interrupted()? };
        print("An ssh configuration whose host uses arcssh:");
        show.step(&["cat", CONFIG])?;

        print("A command on the machine:");
        show.step(&["ssh", "-F", CONFIG, MACHINE, "uname", "-a"])?;

        let home = playground.home().display().to_string();
        let remote = |path: &str| format!("{MACHINE}:{home}/{path}");
        fs::create_dir(playground.home().join("photos"))?;
        for n in 1..=3 {
            fs::write(playground.home().join(format!("photos/{n}.raw")), random_bytes(1 << 20)?)?;
        }
        print("A file there by scp:");
        show.step(&["scp", "-F", CONFIG, "photos/1.raw", &remote("copied.raw")])?;
        print("The same file back by sftp:");
        fs::write(playground.home().join("batch"), format!("get {home}/copied.raw returned.raw\n"))?;
        show.step(&["sftp", "-F", CONFIG, "-b", "batch", MACHINE])?;
        show.same(&["photos/1.raw", "returned.raw"])?;

        print("A folder there and back by rsync:");
        let shell = format!("ssh -F {CONFIG}");
        show.step(&["rsync", "-a", "--checksum", "-e", &shell, "photos/", &remote("mirror/")])?;
        show.step(&["rsync", "-a", "--checksum", "-e", &shell, &remote("mirror/"), "returned/"])?;
        show.same(&["photos/1.raw", "returned/1.raw"])?;
        show.same(&["photos/3.raw", "returned/3.raw"])?;
        print("All checksums agree.");
        Ok(())
    }

    fn start(&self) -> Result<Playground> {
        Playground::start(&self.arcssh.path()?, &[MACHINE], |builder| builder)
    }
}

/// Where arcssh is.
#[derive(clap::Args)]
pub(crate) struct Arcssh {
    /// The arcssh to run [default: the one in the folder of this program]
    #[arg(long)]
    arcssh: Option<PathBuf>,
}

impl Arcssh {
    /// The path of the program.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let path = match &self.arcssh {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?.with_file_name("arcssh"),
        };
        ensure!(path.exists(), "{} does not exist: cargo build", path.display());
        Ok(path)
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
        print(&format!("$ {}", typed.join(" ")));
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
pub(crate) fn print(text: &str) {
    println!("{text}");
}

/// Whether a signal has asked for the end; from now on none ends the program at once, so that it can clean up.
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

fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

fn random_bytes(length: usize) -> Result<Vec<u8>> {
    let random = Command::new("head").arg("-c").arg(length.to_string()).arg("/dev/urandom").output()?;
    Ok(random.stdout)
}
