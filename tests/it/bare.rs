//! `make` on a machine with only make, git and Rust: the packages it installs, and its errors. `make bare` runs demo
//! and test on such a machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Run, allowed, ended, run, script, skipped};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The programs of Debian's essential packages that the scripts run.
const ESSENTIAL: [&str; 14] =
    ["cat", "cut", "env", "find", "grep", "id", "mktemp", "mkdir", "rm", "sed", "sh", "sort", "tr", "uname"];

/// A machine with only [`ESSENTIAL`] programs on PATH, and an apt-get that logs its arguments.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine = Self { folder };
        fs::create_dir(machine.bin()).unwrap();
        for name in ESSENTIAL {
            let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
            symlink(found.iter().find(|path| path.exists()).unwrap(), machine.bin().join(name)).unwrap();
        }
        machine.program("apt-get", "echo \"apt-get $*\" >> \"$LOG\"; echo 'Get:1 progress'");
        machine
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn program(&self, name: &str, body: &str) {
        script(&self.bin(), name, &format!("#!/bin/sh\n{body}\n"));
    }

    /// Makes `id` and `getent` report this user.
    fn user(&self, uid: u32, name: &str) {
        fs::remove_file(self.bin().join("id")).unwrap();
        self.program("id", &format!("case $1 in -u) echo {uid} ;; -un) echo {name} ;; esac"));
        self.program("getent", &format!("echo $2:x:{uid}:{uid}::$FOLDER/home:/bin/sh"));
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Run {
        let mut command = Command::new(Path::new(ROOT).join(program));
        command.args(arguments).current_dir(ROOT).env_clear().env("PATH", self.bin());
        run(command.env("LOG", self.folder.path().join("log")).env("FOLDER", self.folder.path()))
    }

    /// The log of the programs that replace apt-get, sudo and cargo.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn missing(&self, set: &str) -> Vec<String> {
        let missing = self.run("tests/tools.sh", &["--missing", set]).clean();
        missing.split_whitespace().map(Into::into).collect()
    }
}

/// Omits packages that tools.sh also finds outside of PATH, on the machine that runs this test.
fn on_path(packages: Vec<String>) -> Vec<String> {
    let outside =
        ["openssh-server", "ca-certificates", "libnss-wrapper", "tinyproxy-bin", "iproute2", "debootstrap"];
    packages.into_iter().filter(|package| !outside.contains(&package.as_str())).collect()
}

#[test]
fn each_target_installs_its_own_packages_and_no_others() {
    if fs::canonicalize("/usr/sbin").is_ok_and(|folder| folder == Path::new("/usr/bin")) {
        return skipped("/usr/sbin is /usr/bin: no program can be hidden from tools.sh");
    }
    let machine = Machine::new();
    let missing = |set: &str| on_path(machine.missing(set));
    assert_eq!(missing("build"), ["gcc", "libc6-dev"]);
    assert_eq!(missing("check"), missing("build"));
    assert_eq!(missing("demo"), ["gcc", "libc6-dev", "openssh-client", "rsync"]);
    assert_eq!(missing("playground"), ["curl", "gcc", "libc6-dev", "openssh-client", "rsync"]);
    let session = ["curl", "gcc", "libc6-dev", "openssh-client", "procps", "python3", "rsync"];
    assert_eq!(missing("session"), session);
    let test = missing("test");
    for package in missing("playground").iter().map(String::as_str).chain(["npm", "zsh", "fish", "procps"]) {
        assert!(test.iter().any(|listed| listed == package), "{package} is not in {test:?}");
    }
    assert_eq!(missing("bare"), ["util-linux"]);
    let unknown = machine.run("tests/tools.sh", &["everything"]);
    assert_eq!((unknown.code, machine.log().as_str()), (Some(1), ""));
}

/// gcc without libc6-dev cannot compile or link.
#[test]
fn a_compiler_that_cannot_link_is_not_enough() {
    let machine = Machine::new();
    machine.program("cc", "exit 1");
    assert!(machine.missing("build").contains(&"libc6-dev".to_owned()));
    machine.program("cc", "exit 0");
    assert_eq!(on_path(machine.missing("build")), Vec::<String>::new());
}

/// `true` as a shell builtin loads no library.
#[test]
#[cfg(target_os = "linux")]
fn a_library_that_cannot_be_loaded_is_missing() {
    let tools = fs::read_to_string(Path::new(ROOT).join("tests/tools.sh")).unwrap();
    let machine = Machine::new();
    script(&machine.bin(), "tools.sh", &tools.replace("libnss_wrapper.so", "lib-of-no-package.so"));
    let tools = machine.bin().join("tools.sh");
    let missing = machine.run(tools.to_str().unwrap(), &["--missing", "playground"]).clean();
    assert!(missing.contains("libnss-wrapper"), "{missing}");
}

#[test]
fn packages_are_installed_by_root_or_with_sudo_and_progress_is_shown() {
    for (uid, name, prefix) in [(0, "root", ""), (1000, "ordinary", "sudo -v\nsudo ")] {
        let machine = Machine::new();
        machine.user(uid, name);
        machine.program("sudo", "echo \"sudo $*\" >> \"$LOG\"; [ \"$1\" = -v ] || exec \"$@\"");
        let installed = machine.run("tests/tools.sh", &["build"]);
        assert_eq!(installed.code, Some(0), "{}", installed.stderr);
        let log = machine.log();
        assert!(log.starts_with(&format!("{prefix}apt-get update\n")), "{log}");
        let install = log.lines().rfind(|line| line.starts_with("apt-get install")).unwrap();
        assert!(
            install.contains("--no-install-recommends") && install.ends_with("gcc libc6-dev"),
            "{install}"
        );
        let shown = String::from_utf8(installed.stdout).unwrap();
        assert!(shown.starts_with("tools: installing: ") && shown.contains("Get:1 progress"), "{shown}");
    }
}

#[test]
fn without_root_the_command_for_an_administrator_is_shown() {
    for (sudo, reason) in
        [(None, "you are not root, and sudo is not installed"), (Some("exit 1"), "sudo denies it")]
    {
        let machine = Machine::new();
        machine.user(1000, "ordinary");
        if let Some(body) = sudo {
            machine.program("sudo", body);
        }
        let denied = machine.run("tests/tools.sh", &["build"]);
        assert_eq!((denied.code, machine.log().as_str()), (Some(1), ""));
        assert!(
            denied.stderr.contains("tools: cannot install ") && denied.stderr.contains(reason),
            "{}",
            denied.stderr
        );
        assert!(
            denied.stderr.contains("apt-get install ") && denied.stderr.contains("libc6-dev"),
            "{}",
            denied.stderr
        );
    }
}

#[test]
fn without_a_known_package_manager_missing_packages_are_listed() {
    let machine = Machine::new();
    fs::remove_file(machine.bin().join("apt-get")).unwrap();
    let failed = machine.run("tests/tools.sh", &["demo"]);
    assert_eq!(failed.code, Some(1));
    assert!(
        failed.stderr.contains("tools: missing: ") && failed.stderr.contains(" rsync"),
        "{}",
        failed.stderr
    );
}

/// sudo replaces PATH.
#[test]
fn make_install_under_sudo_builds_as_the_user() {
    let machine = Machine::new();
    machine.user(0, "root");
    let none = machine.run("tests/cargo.sh", &["build"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("cargo is neither on PATH nor in "), "{}", none.stderr);

    script(
        &machine.folder.path().join("home/.cargo/bin"),
        "cargo",
        "#!/bin/sh\necho \"cargo $*\" >> \"$LOG\"\n",
    );
    machine.program("sudo", "echo \"sudo $1 $2\" >> \"$LOG\"; shift 3; exec \"$@\"");
    let found = machine.run("tests/cargo.sh", &["build", "--locked"]);
    assert_eq!((found.code, machine.log().as_str()), (Some(0), "cargo build --locked\n"), "{}", found.stderr);

    fs::remove_file(machine.bin().join("find")).unwrap();
    for (owner, prefix) in [("echo .", "sudo -u ordinary\n"), ("true", "")] {
        fs::remove_file(machine.folder.path().join("log")).unwrap();
        machine.program("find", owner);
        let mut command = Command::new(Path::new(ROOT).join("tests/cargo.sh"));
        command
            .arg("build")
            .current_dir(ROOT)
            .env_clear()
            .env("PATH", machine.bin())
            .env("SUDO_USER", "ordinary");
        let built =
            run(command.env("LOG", machine.folder.path().join("log")).env("FOLDER", machine.folder.path()));
        assert_eq!(
            (built.code, machine.log()),
            (Some(0), format!("{prefix}cargo build\n")),
            "{}",
            built.stderr
        );
    }
}

/// In a user namespace that allows no further namespaces (namespaces(7), /proc/sys/user).
#[test]
#[cfg(target_os = "linux")]
fn a_test_without_namespaces_is_skipped_with_the_reason() {
    const TEST: &str = "store::arcssh_connects_with_a_full_or_read_only_disk";
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_mnt_namespaces
        exec \"$0\" --exact \"$1\"";
    let mut unshare = Command::new("unshare");
    if !allowed(unshare.args(["-r", "true"])) {
        return;
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["-r", "sh", "-euc", script]).arg(std::env::current_exe().unwrap()).arg(TEST);
    let tested = run(unshare.env("CI", "true").env_remove("SKIPPED"));
    assert_eq!(tested.code, Some(0), "{}", tested.stderr);
    let reason =
        format!("skipped: {TEST}: this machine denies it: unshare: unshare failed: No space left on device");
    assert!(tested.stderr.contains(&reason), "{}", tested.stderr);
}

#[test]
fn a_probe_with_another_error_fails_the_test() {
    let probed =
        std::panic::catch_unwind(|| allowed(Command::new("sh").args(["-c", "echo broken >&2; exit 1"])));
    assert!(probed.is_err());
}

/// Names, sizes and modification times of the files of ssh and arcssh in the real home directory.
#[cfg(target_os = "linux")]
fn real_home() -> String {
    let uid = run(Command::new("id").arg("-u")).clean();
    let entry = run(Command::new("getent").args(["passwd", uid.trim()])).clean();
    let home = PathBuf::from(entry.split(':').nth(5).unwrap());
    let places = [".ssh", ".local/state/arcssh"].map(|name| home.join(name));
    let there: Vec<&PathBuf> = places.iter().filter(|place| place.exists()).collect();
    if there.is_empty() {
        return String::new();
    }
    run(Command::new("find").args(there).args(["-printf", "%p %s %T@\n"])).clean()
}

/// A terminal session. Each line is typed after the previous command has ended.
#[cfg(target_os = "linux")]
struct Terminal {
    script: std::process::Child,
    shown: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

#[cfg(target_os = "linux")]
impl Terminal {
    fn open(command_line: &str) -> Self {
        use std::io::Read as _;
        use std::process::Stdio;
        let mut script = crate::readme::outside_of_cargo("script");
        script.args(["-qefc", command_line, "/dev/null"]).env("TERM", "dumb");
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let shown = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let (mut output, screen) = (script.stdout.take().unwrap(), std::sync::Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                screen.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
        Self { script, shown }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).replace('\r', "")
    }

    /// Types a line and returns the output from then on, once it contains `answer`.
    #[track_caller]
    fn type_until(&mut self, line: &str, answer: &str) -> String {
        use std::io::Write as _;
        let prefix = self.shown().len();
        writeln!(self.script.stdin.as_ref().unwrap(), "{line}").unwrap();
        self.wait_for(prefix, answer)
    }

    #[track_caller]
    fn wait_for(&self, from: usize, answer: &str) -> String {
        let after = || self.shown().split_off(from);
        let answered = crate::support::eventually(crate::support::LIMIT, || after().contains(answer));
        assert!(answered, "{answer:?} is not in:\n{}", self.shown());
        after()
    }
}

/// Types the quick start in a terminal. Programs that look up the home directory in the user database find the
/// playground's.
#[test]
#[cfg(target_os = "linux")]
fn the_quick_start_works_in_a_terminal_without_touching_the_real_home() {
    const PROMPT: &str = "(playground) ~ ";
    let commands = crate::readme::quick_start();
    let [login, config, uptime] = commands[..] else { panic!("{commands:?}") };

    let prefix = real_home();
    let mut terminal = Terminal::open("make playground");
    terminal.wait_for(0, PROMPT);
    let shown = terminal.type_until(login, PROMPT);
    assert!(shown.contains("signed in as Ada@arcssh.example"), "{shown}");
    let shown = terminal.type_until(config, PROMPT);
    let written = shown.lines().find_map(|line| line.strip_suffix("/.ssh/config")).unwrap_or(&shown);
    let home =
        written.strip_prefix("arcssh: wrote 2 hosts to ").unwrap_or_else(|| panic!("{shown}")).to_owned();
    let shown = terminal.type_until(uptime, PROMPT);
    assert!(shown.contains("load average"), "{shown}");
    // A login shell has its own prompt.
    terminal.type_until("ssh web01\necho reached-$((6*7))", "\nreached-42\n");
    terminal.type_until("exit", PROMPT);
    terminal.type_until("arcssh doctor web01 && echo healthy-$((6*7))", "\nhealthy-42\n");
    let database = "python3 -c 'import os,pwd; print(pwd.getpwuid(os.getuid()).pw_dir, \"is home\")'";
    terminal.type_until(database, &format!("\n{home} is home\n"));
    terminal.type_until("exit", "");
    assert!(ended(&mut terminal.script).success(), "{}", terminal.shown());
    assert!(!Path::new(&home).exists(), "the playground left its home");
    assert_eq!(real_home(), prefix);
}
