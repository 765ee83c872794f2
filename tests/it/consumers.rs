//! Programs that live on the ssh configuration, each through sections that `arcssh config` wrote.

mod ansible;
mod editors;
mod list;
mod transfers;
mod wildcard;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Lab, Run, run};

/// An ssh configuration with arcssh's block at its top, and below it what its user had there before.
struct Configuration<'w> {
    lab: &'w Lab,
    file: PathBuf,
}

impl<'w> Configuration<'w> {
    /// The file of a user who has written something into it, and has `arcssh config` add these machines.
    #[track_caller]
    fn generate(lab: &'w Lab, machines: &[&str]) -> Self {
        let file = lab.home().join("hosts.conf");
        let known_hosts = lab.home().join(".ssh/known_hosts");
        let own = format!(
            "# my own\nHost *\n    UserKnownHostsFile {}\n    BatchMode yes\n",
            known_hosts.display()
        );
        fs::write(&file, &own).unwrap();
        let configuration = Self { lab, file };
        let run = configuration.config(machines);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(configuration.text().ends_with(&own), "{}", configuration.text());
        configuration
    }

    /// That of a user who logs in with certificates of Entra ID and no key at all, as `how` has it.
    #[track_caller]
    fn with_certificates(lab: &'w Lab, how: &str, machines: &[&str]) -> Self {
        let sshd = lab.sshd();
        sshd.trust_authority(&lab.emulator().ssh_ca_public_key(), &[APPLICATION]).unwrap();
        fs::write(sshd.client_key().with_file_name("authorized_keys"), "").unwrap();
        let configuration = Self { lab, file: lab.home().join("hosts.conf") };
        let known_hosts = lab.home().join(".ssh/known_hosts");
        let own = format!("Host *\n    UserKnownHostsFile {}\n    BatchMode yes\n", known_hosts.display());
        fs::write(&configuration.file, own).unwrap();
        let mut config = lab.arcssh(&["config", how, "--allow-names", "*", "--user", &user(), "--file"]);
        config.arg(&configuration.file).args(["--port", &sshd.port().to_string()]).args(machines);
        let run = run(&mut config);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        configuration
    }

    /// `arcssh config` with what it takes to log in to the playground's machines.
    #[track_caller]
    fn config(&self, arguments: &[&str]) -> Run {
        let mut config = self.lab.arcssh(&["config"]);
        // The playground has sections and known host keys of its own for these names.
        config.args(arguments).args(["--allow-names", "*"]);
        config.arg("--file").arg(&self.file).args(["--user", &user(), "--port"]);
        config.arg(self.lab.sshd().port().to_string()).arg("--identity").arg(self.lab.sshd().client_key());
        run(&mut config)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// ssh, scp, sftp or another one that takes `-F`.
    fn program(&self, name: &str) -> Command {
        let mut program = self.lab.command(name);
        program.arg("-F").arg(&self.file);
        program
    }

    /// `ssh -F {file}`, for programs that start it themselves.
    fn ssh_words(&self) -> String {
        format!("ssh -F {}", self.file.display())
    }

    /// `ssh {host} {command}`, to its end.
    #[track_caller]
    fn ssh(&self, arguments: &[&str]) -> Run {
        run(self.program("ssh").args(arguments))
    }
}

/// What the certificates of the emulator's service principal are made out for.
const APPLICATION: &str = "c11e4700-0000-4000-8000-000000000001";

/// Who runs the tests.
fn user() -> String {
    run(Command::new("id").arg("-un")).clean().trim().to_owned()
}

/// Gives a machine that was added to the emulator what the playground's own have: its sshd and a known host key.
fn join(lab: &Lab, machine: &str) {
    let machine = lab.emulator().machine(machine);
    machine.set_ssh_port(lab.sshd().port());
    trust(lab, &machine.vm_id().unwrap());
}

/// Adds the host key under another name.
fn trust(lab: &Lab, name: &str) {
    let file = lab.home().join(".ssh/known_hosts");
    let known = fs::read_to_string(&file).unwrap() + &lab.sshd().known_hosts_line(name).unwrap();
    fs::write(file, known).unwrap();
}

/// A directory that `install` fills once for each target directory, however many tests want it at the same time.
fn installed(name: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    let lock = fs::File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    let done = directory.join("installed");
    if !done.exists() {
        install(&directory);
        fs::write(done, "").unwrap();
    }
    directory
}
