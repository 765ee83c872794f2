//! Programs that use the ssh configuration, with host entries that `arcssh config` wrote.

mod ansible;
mod editors;
mod known_hosts;
mod list;
mod python;
#[cfg(target_os = "linux")]
mod recipes;
mod transfers;
mod wildcard;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Lab, Run, run};

/// An ssh configuration with arcssh's managed block above the user's own entries.
struct Configuration<'a> {
    lab: &'a Lab,
    file: PathBuf,
}

impl<'a> Configuration<'a> {
    /// Runs `arcssh config` for these machines on a file with own entries.
    #[track_caller]
    fn generate(lab: &'a Lab, machines: &[&str]) -> Self {
        let file = lab.home().join("hosts.conf");
        let known_hosts = lab.home().join(".ssh/known_hosts");
        let own_entries = format!(
            "# own entries\nHost *\n    UserKnownHostsFile {}\n    BatchMode yes\n",
            known_hosts.display()
        );
        fs::write(&file, &own_entries).unwrap();
        let configuration = Self { lab, file };
        let run = configuration.config(machines);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(configuration.text().ends_with(&own_entries), "{}", configuration.text());
        configuration
    }

    /// A configuration with Entra ID certificates and no other key. `option` selects how ssh gets the certificate.
    #[track_caller]
    fn with_certificates(lab: &'a Lab, option: &str, machines: &[&str]) -> Self {
        let sshd = lab.sshd();
        sshd.trust_authority(&lab.emulator().ssh_ca_public_key(), &[APPLICATION]).unwrap();
        fs::write(sshd.client_key().with_file_name("authorized_keys"), "").unwrap();
        let configuration = Self { lab, file: lab.home().join("hosts.conf") };
        let known_hosts = lab.home().join(".ssh/known_hosts");
        let own_entries =
            format!("Host *\n    UserKnownHostsFile {}\n    BatchMode yes\n", known_hosts.display());
        fs::write(&configuration.file, own_entries).unwrap();
        let mut config = lab.arcssh(&["config", option, "--allow-names", "*", "--user", &user(), "--file"]);
        config.arg(&configuration.file).args(["--port", &sshd.port().to_string()]).args(machines);
        let run = run(&mut config);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        configuration
    }

    /// Runs `arcssh config` with the user, port and key of the playground's machines.
    #[track_caller]
    fn config(&self, arguments: &[&str]) -> Run {
        let mut config = self.lab.arcssh(&["config"]);
        // The playground already has host entries and known host keys for these names.
        config.args(arguments).args(["--allow-names", "*"]);
        config.arg("--file").arg(&self.file).args(["--user", &user(), "--port"]);
        config.arg(self.lab.sshd().port().to_string()).arg("--identity").arg(self.lab.sshd().client_key());
        run(&mut config)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// A program with the option `-F`, such as ssh, scp or sftp.
    fn program(&self, name: &str) -> Command {
        let mut program = self.lab.command(name);
        program.arg("-F").arg(&self.file);
        program
    }

    /// `ssh -F {file}`, for programs that start ssh.
    fn ssh_words(&self) -> String {
        format!("ssh -F {}", self.file.display())
    }

    /// Runs `ssh {arguments}` until it ends.
    #[track_caller]
    fn ssh(&self, arguments: &[&str]) -> Run {
        run(self.program("ssh").args(arguments))
    }
}

/// Principal in the certificates of the emulator's service principal.
const APPLICATION: &str = "c11e4700-0000-4000-8000-000000000001";

/// The user who runs the tests.
pub(crate) fn user() -> String {
    run(Command::new("id").arg("-un")).clean().trim().to_owned()
}

/// Connects a machine to the playground's sshd, and adds its host key to known_hosts.
fn add_sshd(lab: &Lab, machine: &str) {
    let (name, machine) = (machine.to_lowercase(), lab.emulator().machine(machine));
    machine.set_ssh_port(lab.sshd().port());
    let id = machine.vm_id().unwrap();
    add_known_host(lab, &format!("{name}.{id},{id}"));
}

/// Adds the host key under another name to known_hosts.
fn add_known_host(lab: &Lab, name: &str) {
    let file = lab.home().join(".ssh/known_hosts");
    let known_hosts = fs::read_to_string(&file).unwrap() + &lab.sshd().known_hosts_line(name).unwrap();
    fs::write(file, known_hosts).unwrap();
}

/// A directory that `install` fills once for each target directory. Concurrent tests wait for it.
fn installed(name: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    let lock = fs::File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    let marker = directory.join("installed");
    if !marker.exists() {
        install(&directory);
        fs::write(marker, "").unwrap();
    }
    directory
}
