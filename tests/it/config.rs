//! `arcssh config`: its edits of the user's files, and how ssh reads the result.

mod key_names;
mod next_step;
mod own_certificate;
mod own_sections;
mod suffix;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use arcssh_emulator::{ArmCall, ArmFault, Machine};

use crate::support::{
    ARCSSH, LIMIT, Lab, Run, ended, eventually, finish, lab, lab_with, may_become, on_a_terminal, program_at,
    run, script,
};

/// An empty home directory.
pub(crate) struct Home<'a> {
    w: &'a Lab,
    path: PathBuf,
}

impl<'a> Home<'a> {
    pub(crate) fn new(w: &'a Lab) -> Self {
        let path = w.home().join("user");
        fs::create_dir(&path).unwrap();
        w.add_home(&path).unwrap();
        Self { w, path }
    }

    /// A home directory with this ~/.ssh/config.
    pub(crate) fn with(w: &'a Lab, config: &str) -> Self {
        let home = Self::new(w);
        fs::create_dir(home.path.join(".ssh")).unwrap();
        fs::write(home.file(), config).unwrap();
        home
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.path.join(".ssh/config")
    }

    pub(crate) fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.w.command_in(&self.path, program)
    }

    pub(crate) fn arcssh(&self, arguments: &[&str]) -> Command {
        let mut arcssh = self.command(ARCSSH);
        arcssh.arg("config").args(arguments);
        arcssh
    }

    #[track_caller]
    pub(crate) fn config(&self, arguments: &[&str]) -> Run {
        run(&mut self.arcssh(arguments))
    }

    /// Runs `arcssh config`, which must succeed. Returns its messages without the list of changes and the next step, with
    /// the home directory as `~`.
    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        self.succeed_with_changes(arguments)
            .lines()
            .filter(|line| !is_change(line) && !line.starts_with(NEXT_STEP))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Returns all messages of a successful run.
    #[track_caller]
    fn succeed_with_changes(&self, arguments: &[&str]) -> String {
        let run = self.config(arguments);
        assert_eq!((run.code, run.stdout.len()), (Some(0), 0), "{}", run.stderr);
        self.with_tilde(&run.stderr)
    }

    /// Returns the list of changes, without `arcssh: `.
    #[track_caller]
    fn changes(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.succeed_with_changes(arguments);
        let lines = output.lines().filter(|line| is_change(line));
        lines.map(|line| line.trim_start_matches("arcssh: ").to_owned()).collect()
    }

    /// Runs `arcssh config`, which must fail with this status and change nothing. Returns its messages.
    #[track_caller]
    pub(crate) fn fail(&self, status: i32, arguments: &[&str]) -> String {
        let before = fs::read(self.file()).ok();
        let run = self.config(arguments);
        assert_eq!((run.code, run.stdout.len()), (Some(status), 0), "{}", run.stderr);
        assert_eq!(fs::read(self.file()).ok(), before);
        assert_eq!(self.temporary_files(), Vec::<String>::new());
        self.with_tilde(&run.stderr)
    }

    pub(crate) fn with_tilde(&self, text: &str) -> String {
        text.replace(self.path.to_str().unwrap(), "~")
    }

    /// Temporary files of an interrupted edit.
    fn temporary_files(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(self.path.join(".ssh")) else { return Vec::new() };
        let names = files.flatten().map(|file| file.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".arcssh-")).collect()
    }

    /// The value of a keyword in the output of `ssh -G`.
    #[track_caller]
    fn effective(&self, alias: &str, keyword: &str) -> String {
        let mut ssh = self.command("ssh");
        let text = run(ssh.args(["-T", "-G", "-F"]).arg(self.file()).arg(alias)).clean();
        let value = text.lines().find_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '));
        value.unwrap_or_default().to_owned()
    }

    /// The host entries in the file, without `Host *`.
    fn hosts(&self) -> Vec<String> {
        let text = self.text();
        let hosts = text.lines().filter_map(|line| line.strip_prefix("Host ")).filter(|host| *host != "*");
        hosts.map(str::to_owned).collect()
    }
}

/// The beginning of the line with the command that connects.
const NEXT_STEP: &str = "arcssh: hint: to connect";

/// Returns whether a line reports an addition, change or removal.
fn is_change(line: &str) -> bool {
    let kinds = ["add", "added", "change", "changed", "rename", "renamed", "remove", "removed"];
    let words: Vec<&str> = line.split(' ').take(3).collect();
    matches!(words[..], ["arcssh:", kind, name] if kinds.contains(&kind) && name != "host")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_new_configuration_file_is_private() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    assert_eq!(home.succeed(&["web01"]), "arcssh: wrote 1 host to ~/.ssh/config\n");
    assert_eq!((mode(&home.path.join(".ssh")), mode(&home.file())), (0o700, 0o600));
    assert_eq!(home.hosts(), ["web01"]);
    assert_eq!(home.temporary_files(), Vec::<String>::new());
}

#[test]
fn a_host_entry_has_the_needed_options_and_weakens_no_check() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01", "--user", "me", "--port", "2222", "--identity", "~/.ssh/key"]);
    let id = w.id();
    assert_eq!(home.effective("web01", "hostname"), "web01");
    assert_eq!(home.effective("web01", "user"), "me");
    assert_eq!(home.effective("web01", "port"), "2222");
    assert_eq!(home.effective("web01", "identityfile"), "~/.ssh/key");
    let key_name = format!("web01.{}", w.emulator().machine("web01").vm_id().unwrap());
    assert_eq!(home.effective("web01", "hostkeyalias"), key_name);
    assert_eq!(home.effective("web01", "proxycommand"), format!("{ARCSSH} proxy {id} --port %p"));
    let text = home.text();
    for word in ["StrictHostKeyChecking", "/dev/null", "IdentitiesOnly", "ControlMaster", "KnownHosts"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn mode_owner_and_links_of_the_file_are_preserved() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host other\n");
    let real = home.path.join("dotfiles");
    fs::create_dir(&real).unwrap();
    fs::rename(home.file(), real.join("config")).unwrap();
    symlink("../dotfiles/config", home.file()).unwrap();
    fs::set_permissions(real.join("config"), Permissions::from_mode(0o640)).unwrap();
    let is_root_user = is_root(&home) && may_become(12345);
    if is_root_user {
        chown(real.join("config"), Some(12345), Some(23456)).unwrap();
    }
    // ssh of root rejects a file of another user, but not with `-F`.
    let other = home.path.join(".ssh/other");
    fs::rename(home.file(), &other).unwrap();
    home.succeed(&["web01", "--file", other.to_str().unwrap()]);
    fs::rename(&other, home.file()).unwrap();
    assert!(fs::symlink_metadata(home.file()).unwrap().is_symlink());
    let file = fs::metadata(real.join("config")).unwrap();
    assert_eq!(file.mode() & 0o7777, 0o640);
    if is_root_user {
        assert_eq!((file.uid(), file.gid()), (12345, 23456));
    }
    assert!(home.text().ends_with("\nHost other\n"));
}

#[test]
fn a_dangling_link_is_followed() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    fs::create_dir(home.path.join(".ssh")).unwrap();
    symlink("../dotfiles/ssh/config", home.file()).unwrap();
    home.succeed(&["web01"]);
    assert!(fs::symlink_metadata(home.file()).unwrap().is_symlink());
    assert_eq!(mode(&home.path.join("dotfiles/ssh/config")), 0o600);
}

#[test]
fn dangling_links_in_a_row_are_followed() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let folder = home.path.join("dotfiles");
    fs::create_dir(home.path.join(".ssh")).unwrap();
    fs::create_dir(&folder).unwrap();
    symlink("../dotfiles/c3", home.file()).unwrap();
    symlink(folder.join("c2"), folder.join("c3")).unwrap();
    symlink("c1", folder.join("c2")).unwrap();
    home.succeed(&["web01"]);
    for link in [home.file(), folder.join("c3"), folder.join("c2")] {
        assert!(fs::symlink_metadata(link).unwrap().is_symlink());
    }
    assert!(fs::symlink_metadata(folder.join("c1")).unwrap().is_file());
}

#[test]
fn a_linked_directory_is_followed() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    fs::create_dir(home.path.join("real")).unwrap();
    symlink("real", home.path.join(".ssh")).unwrap();
    home.succeed(&["web01"]);
    assert!(home.path.join("real/config").is_file());
    assert!(fs::symlink_metadata(home.path.join(".ssh")).unwrap().is_symlink());
}

#[test]
fn backups_contain_the_previous_file_and_the_first_one_stays() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host other");
    fs::set_permissions(home.file(), Permissions::from_mode(0o600)).unwrap();
    let output = home.succeed(&["web01"]);
    assert_eq!(output, "arcssh: wrote 1 host to ~/.ssh/config (backup: ~/.ssh/.config.arcssh-backup)\n");
    let backup = home.path.join(".ssh/.config.arcssh-backup");
    let oldest = || (fs::read_to_string(&backup).unwrap(), mode(&backup));
    assert_eq!(oldest(), ("Host other".into(), 0o600));
    let mut texts = BTreeSet::new();
    for user in 0..14 {
        texts.insert(home.text());
        home.succeed(&["web01", "--user", &format!("user{user}")]);
    }
    assert_eq!(oldest(), ("Host other".into(), 0o600));
    let names = fs::read_dir(home.path.join(".ssh")).unwrap().map(|file| file.unwrap().path());
    let backups: Vec<PathBuf> = names.filter(|path| *path != home.file()).collect();
    assert_eq!(backups.len(), 10);
    let versions = backups.iter().filter(|path| texts.contains(&fs::read_to_string(path).unwrap())).count();
    assert_eq!(versions, 9, "each backup has another version");
}

#[test]
fn a_link_at_the_path_of_a_backup_is_not_followed() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host other");
    let precious = home.path.join("precious");
    fs::write(&precious, "mine").unwrap();
    symlink(&precious, home.path.join(".ssh/.config.arcssh-backup")).unwrap();
    let output = home.succeed(&["web01"]);
    assert!(output.ends_with(" (backup: ~/.ssh/.config.arcssh-backup.1)\n"), "{output}");
    assert_eq!(fs::read_to_string(precious).unwrap(), "mine");
}

#[test]
fn the_backup_of_an_included_file_is_not_included() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "");
    let folder = home.path.join("included");
    fs::create_dir(&folder).unwrap();
    fs::write(home.file(), format!("Include {}/*\n", folder.display())).unwrap();
    home.succeed(&["web01", "--user", "old", "--file", "included/arc"]);
    home.succeed(&["--remove", "--file", "included/arc"]);
    assert_ne!(home.effective("web01", "user"), "old");
}

#[test]
fn a_second_run_changes_nothing() {
    let w = lab(&["web01", "web02"]);
    let home = Home::with(&w, "# mine\r\nHost other\r\n\tUser x");
    home.succeed(&["web01", "web02", "--user", "me", "--wildcard", "*.arc"]);
    let (text, inode) = (home.text(), fs::metadata(home.file()).unwrap().ino());
    let again = ["web01", "web02", "--user", "me", "--wildcard", "*.arc"];
    for arguments in [&again[..], &again[..1], &[]] {
        assert_eq!(home.succeed(arguments), "arcssh: ~/.ssh/config is up to date\n");
        assert_eq!((home.text(), fs::metadata(home.file()).unwrap().ino()), (text.clone(), inode));
    }
}

#[test]
fn removing_the_block_restores_every_byte() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "");
    for original in ["", "Host a", "# ü\r\nHost a\r\n\tPort 1\n\n", "\n\nUser u\n", "Match all\n User x"] {
        fs::write(home.file(), original).unwrap();
        home.succeed(&["web01"]);
        let output = home.succeed(&["--remove"]);
        assert!(
            output.starts_with(
                "arcssh: removed host entries from ~/.ssh/config (backup: ~/.ssh/.config.arcssh-backup"
            ),
            "{output}"
        );
        assert_eq!(home.text(), original);
        assert_eq!(home.succeed(&["--remove"]), "arcssh: ~/.ssh/config is up to date\n");
    }
}

#[test]
fn bytes_that_are_not_utf_8_are_preserved() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "");
    let original = b"# caf\xe9\nHost other\n    Port 7\n";
    fs::write(home.file(), original).unwrap();
    assert_eq!(home.config(&["web01", "--dry-run"]).code, Some(1));
    home.succeed(&["web01"]);
    assert!(fs::read(home.file()).unwrap().ends_with(original));
    assert_eq!(fs::read(home.path.join(".ssh/.config.arcssh-backup")).unwrap(), original);
    assert_eq!(
        (home.effective("other", "port"), home.effective("web01", "hostname")),
        ("7".into(), "web01".into())
    );
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 1 host in ~/.ssh/config\n");
    assert_eq!(home.succeed(&["web01"]), "arcssh: ~/.ssh/config is up to date\n");
    home.succeed(&["--remove"]);
    assert_eq!(fs::read(home.file()).unwrap(), original);
}

#[test]
fn a_directory_that_cannot_be_created_gets_a_hint() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    std::os::unix::fs::symlink("nowhere/.ssh", home.path.join(".ssh")).unwrap();
    let output = home.fail(1, &["web01"]);
    assert!(output.starts_with("arcssh: cannot create ~/.ssh: "), "{output}");
    let hint = "arcssh: hint: write the host entries to another file, and begin your ssh configuration with the line Include FILE: arcssh config MACHINE --file FILE";
    assert_eq!(output.lines().nth(1), Some(hint));
}

#[test]
fn a_file_that_ssh_rejects_is_unchanged() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "\u{feff}Host a\n");
    let output = home.fail(1, &["web01"]);
    let expected = "arcssh: ssh already rejects ~/.ssh/config: line 1: Bad configuration option: ";
    assert!(output.starts_with(expected), "{output}");
    let hint = "arcssh: hint: save ~/.ssh/config as UTF-8 text without a byte order mark, and run the command again\n";
    assert!(output.ends_with(hint), "{output}");
    let utf_16: Vec<u8> = "\u{feff}Host a\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(home.file(), utf_16).unwrap();
    let output = home.fail(1, &["web01"]);
    assert!(output.ends_with(hint), "{output}");
    fs::write(home.file(), "Host a\n    Bogus yes\n").unwrap();
    assert_eq!(
        home.fail(1, &["web01"]).to_lowercase(),
        "arcssh: ssh already rejects ~/.ssh/config: line 2: bad configuration option: bogus\n\
         arcssh: hint: correct the option; if another version of ssh knows it, add it to the first ignoreunknown line of your ssh configuration, or begin the file with: ignoreunknown bogus\n"
    );
}

#[test]
fn a_cycle_of_includes_is_rejected_at_once() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Include self\n");
    fs::write(home.file().with_file_name("self"), "Include config\nInclude config\n").unwrap();
    let output = home.fail(1, &["web01"]);
    let expected = "arcssh: ssh already rejects ~/.ssh/config: Too many recursive configuration includes\narcssh: hint: ";
    assert!(output.starts_with(expected), "{output}");
}

#[test]
fn an_error_of_ssh_without_a_line_gets_its_own_hint() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "ControlPath ${ARCSSH_NONE}/%C\n");
    let output = home.fail(1, &["web01"]);
    assert!(
        output.contains("rejects ~/.ssh/config: vdollar_percent_expand: env var ${ARCSSH_NONE}"),
        "{output}"
    );
    assert!(output.contains("hint: set the environment variable, or "), "{output}");
    let canonical = "CanonicalDomains arcssh.invalid\nCanonicalizeFallbackLocal no\nCanonicalizeHostname";
    fs::write(home.file(), format!("{canonical} always\n")).unwrap();
    let output = home.fail(1, &["web01"]);
    assert!(output.contains("hint: write CanonicalizeHostname yes instead of always"), "{output}");
    fs::write(home.file(), format!("{canonical} yes\n")).unwrap();
    home.succeed(&["web01"]);
    home.succeed(&["--verify"]);
}

#[test]
fn an_option_that_needs_a_command_is_no_error() {
    let w = lab(&["web01"]);
    let version =
        run(Command::new("ssh").args(["-G", "-F", "none", "-o", "ForkAfterAuthentication=no", "x"]));
    if version.code != Some(0) {
        return;
    }
    let home = Home::with(&w, "ForkAfterAuthentication yes\n");
    home.succeed(&["web01"]);
    home.succeed(&["--verify"]);
}

#[test]
fn unbalanced_markers_are_rejected_with_their_line() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host a\n\n# >>> arcssh >>> block 1: x\nHost b\n");
    let expected = "arcssh: ~/.ssh/config: line 3 begins a managed block that no line ends\n\
        arcssh: hint: delete the markers of arcssh in ~/.ssh/config and the host entries between them, and repeat the runs of arcssh config that you need; if a later version of arcssh wrote the block, update arcssh\n";
    for arguments in
        [&["web01"][..], &["--remove"], &["--verify"], &["--remove", "b"], &["web01", "--dry-run"]]
    {
        assert_eq!(home.fail(1, arguments), expected, "{arguments:?}");
    }
}

/// A section that another program adds above the block, and that looks like a host entry.
const ABOVE: &str = "Host mine\n    ProxyCommand ssh proxy -W %h:%p\n";

/// What remains after a program has removed the section above the block with the comments below it.
fn without_comments_above(text: &str) -> String {
    format!("{ABOVE}{}", &text[text.find("Host ").unwrap()..])
}

#[test]
fn a_block_without_its_first_lines_is_recognized() {
    let w = lab(&["web01", "web02"]);
    for mode in [&[][..], &["--entra=files"], &["--wildcard", "*.arc"]] {
        let home = Home::with(&w, "Host after\n    Port 7\n");
        home.succeed(&[&["--all"], mode].concat());
        let text = home.text();
        for arguments in [&[][..], &["web01"], &["--remove", "web02"], &["--remove"]] {
            fs::write(home.file(), without_comments_above(&text)).unwrap();
            home.succeed(&["--verify"]);
            assert_eq!(home.changes(&[]), [""; 0]);
            assert_eq!(home.text(), format!("{ABOVE}{text}"));
            fs::write(home.file(), without_comments_above(&text)).unwrap();
            home.succeed(arguments);
            assert_eq!(home.hosts()[0], "mine");
            assert!(
                home.effective("after", "port") == "7"
                    && home.effective("mine", "proxycommand").contains("-W")
            );
        }
        assert!(!home.text().contains("arcssh"), "{}", home.text());
        fs::remove_dir_all(&home.path).unwrap();
    }
}

#[test]
fn the_lines_of_a_block_that_is_not_complete_are_named() {
    let w = lab(&["web01", "web02"]);
    let home = Home::with(&w, "Host after\n    Port 7\n");
    home.succeed(&["--all"]);
    let text = home.text();
    let options = text.lines().find(|line| line.starts_with("# options ")).unwrap();
    let rest = without_comments_above(&text.replace(&format!("{options}\n"), ""));
    fs::write(home.file(), &rest).unwrap();
    let error = home.fail(1, &[]);
    let last = rest.lines().position(|line| line == "Host after").unwrap() - 1;
    let hint = format!("hint: delete lines 3 to {last} of ~/.ssh/config, which arcssh wrote, and repeat");
    assert!(
        error.contains(" ends a managed block that no line begins\n") && error.contains(&hint),
        "{error}"
    );
    let changed = without_comments_above(&text.replace("    HostName web01\n", "    Compression yes\n"));
    fs::write(home.file(), &changed).unwrap();
    let error = home.fail(1, &[]);
    assert!(error.contains(" no line begins\n") && error.contains("hint: delete the markers"), "{error}");
    let without_end = text.split("# End of").next().unwrap();
    fs::write(home.file(), without_end).unwrap();
    let error = home.fail(1, &["--remove"]);
    let hint = format!("hint: delete lines 1 to {} of", without_end.trim_end().lines().count());
    assert!(
        error.contains(" begins a managed block that no line ends\n") && error.contains(&hint),
        "{error}"
    );
    let doctor = run(home.command(ARCSSH).args(["doctor", "--json"]));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("\"config-rejected\""));
}

/// Returns whether root runs the tests, who may read and write all files.
fn is_root(home: &Home<'_>) -> bool {
    fs::metadata(&home.path).unwrap().uid() == 0
}

/// Runs `arcssh config` as a user without privileges who owns the home directory. Returns `None` if root cannot change
/// the user here.
fn unprivileged(home: &Home<'_>, arguments: &[&str]) -> Option<Run> {
    if !is_root(home) {
        return Some(home.config(arguments));
    }
    if !may_become(65534) {
        return None;
    }
    // Other users may have no access to the build directory. Another process makes the copy: a forked child of another
    // test may otherwise hold it open for writing, and exec fails then.
    let copy = home.w.home().join("arcssh");
    program_at(&copy, Path::new(ARCSSH));
    for path in [home.w.home(), home.w.emulator().directory(), &copy] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    for path in [home.path.clone(), home.path.join(".ssh"), home.file()] {
        chown(&path, Some(65534), Some(65534)).unwrap();
    }
    let mut command = home.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(copy).arg("config");
    // The user database has another home directory for this user.
    Some(run(command.args(arguments).arg("--file").arg(home.file())))
}

#[test]
fn an_unreadable_file_is_named() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host a\n");
    fs::set_permissions(home.file(), Permissions::from_mode(0o000)).unwrap();
    let Some(run) = unprivileged(&home, &["web01"]) else { return };
    assert_eq!(run.code, Some(1));
    assert_eq!(
        home.with_tilde(&run.stderr),
        "arcssh: cannot read ~/.ssh/config: Permission denied (os error 13)\n"
    );
}

#[test]
fn a_read_only_directory_is_named() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host a\n");
    fs::set_permissions(home.path.join(".ssh"), Permissions::from_mode(0o500)).unwrap();
    let Some(run) = unprivileged(&home, &["web01"]) else { return };
    fs::set_permissions(home.path.join(".ssh"), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(run.code, Some(1));
    let output = home.with_tilde(&run.stderr);
    assert!(output.starts_with("arcssh: cannot write to ~/.ssh: Permission denied"), "{output}");
    assert_eq!(home.text(), "Host a\n");
}

#[test]
fn concurrent_writers_all_succeed() {
    let names: Vec<String> = (0..8).map(|n| format!("web{n}")).collect();
    let machines: Vec<&str> = names.iter().map(String::as_str).collect();
    let w = lab(&machines);
    let home = Home::with(&w, "Host other\n");
    let start = |name: &&str| {
        let mut arcssh = home.arcssh(&[name]);
        arcssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let writers: Vec<_> = machines.iter().map(start).collect();
    for writer in writers {
        let run = finish(writer);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    }
    let hosts: BTreeSet<String> = home.hosts().into_iter().filter(|host| host != "other").collect();
    assert_eq!(hosts, names.iter().cloned().collect());
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 8 hosts in ~/.ssh/config\n");
    assert!(home.text().ends_with("\n\nHost other\n"));
    assert_eq!(home.temporary_files(), Vec::<String>::new());
}

#[test]
fn changes_made_before_the_lock_is_taken_are_preserved() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host a\n");
    let lock = File::open(home.path.join(".ssh")).unwrap();
    lock.lock().unwrap();
    let mut arcssh = home.arcssh(&["web01"]);
    let arcssh = arcssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // arcssh reads the file before its first request to Azure.
    assert!(eventually(LIMIT, || !w.emulator().requests().is_empty()));
    fs::write(home.file(), "Host b\n").unwrap();
    drop(lock);
    let run = finish(arcssh);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(home.hosts(), ["web01", "b"]);
}

#[test]
fn options_that_the_user_added_inside_the_block_still_apply() {
    let w = lab(&["web01", "web02"]);
    let home = Home::new(&w);
    home.succeed(&["web01", "--user", "me"]);
    let added = "    Port 2222\n    ForwardAgent yes\n    IdentityFile ~/.ssh/mine\n";
    let text = home.text().replace("    User me\n", &format!("    User me\n{added}"));
    fs::write(home.file(), text).unwrap();
    let used = || run(home.command("ssh").args(["-TG", "web01"])).clean();
    let before = used();
    assert!(before.contains("\nport 2222\n") && before.contains("\nforwardagent yes\n"), "{before}");
    home.succeed(&["web02"]);
    assert_eq!(used(), before);
    let (block, rest) =
        home.text().split_once("# <<< arcssh <<<").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(!block.contains("Port 2222") && rest.contains(&format!("Host web01\n{added}")), "{rest}");
    // A value on the command line comes first.
    home.succeed(&["web01", "--port", "2223"]);
    assert!(used().contains("\nport 2223\n") && home.text().contains("    Port 2222\n"));
}

#[test]
fn a_concurrent_save_of_an_editor_is_not_overwritten() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host a\n");
    let save = format!(
        "#!/bin/sh\ncase $* in *.arcssh-*) echo 'Host b' > '{}' ;; esac\nexec /usr/bin/ssh \"$@\"\n",
        home.file().display()
    );
    script(&home.path.join("bin"), "ssh", &save);
    let path = format!("{}:{}", home.path.join("bin").display(), std::env::var("PATH").unwrap());
    let run = run(home.arcssh(&["web01"]).env("PATH", path));
    let expected = "arcssh: another program changed ~/.ssh/config\narcssh: hint: run the command again\n";
    assert_eq!((run.code, home.with_tilde(&run.stderr).as_str()), (Some(1), expected));
    assert_eq!((home.text().as_str(), home.temporary_files()), ("Host b\n", vec![]));
}

#[test]
fn a_concurrent_reader_reads_the_old_file_completely() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host old\n");
    let reader = File::open(home.file()).unwrap();
    home.succeed(&["web01"]);
    assert_eq!(std::io::read_to_string(reader).unwrap(), "Host old\n");
}

#[test]
fn a_killed_writer_leaves_the_old_file_or_the_new_one() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, &"# a comment of the user\n".repeat(40_000));
    let state = |port: &str| {
        home.succeed(&["--wildcard", "*.arc", "--port", port]);
        home.text()
    };
    let states = [state("1"), state("2")];
    let start = Instant::now();
    assert_eq!(state("1"), states[0]);
    let duration = start.elapsed();
    for n in 0..50 {
        let mut arcssh = home.arcssh(&["--port", ["2", "1"][n % 2]]);
        let mut arcssh = arcssh.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From the start of a run until after its end.
        thread::sleep(duration * n as u32 / 40);
        arcssh.kill().unwrap();
        ended(&mut arcssh);
        assert!(states.contains(&home.text()), "after {n} of 40 parts of {duration:?}");
    }
    assert_eq!(state("1"), states[0], "the next run succeeds");
}

#[test]
fn a_dry_run_prints_a_diff_and_exits_with_1() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host other\n");
    let run = home.config(&["web01", "--user", "me", "--dry-run"]);
    let diff = home.with_tilde(&String::from_utf8(run.stdout).unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), "arcssh: add web01 (rg-arc/web01)\n"));
    assert!(diff.starts_with("--- ~/.ssh/config\n+++ ~/.ssh/config\n@@ -1 +1,"), "{diff}");
    assert!(diff.contains("\n+    User me\n") && diff.ends_with("\n Host other\n"), "{diff}");
    assert!(!diff.contains('\u{1b}'));
    assert_eq!(home.text(), "Host other\n");

    home.succeed(&["web01", "--user", "me"]);
    let run = home.config(&["web01", "--dry-run"]);
    assert_eq!((run.code, run.stdout.len(), run.stderr.as_str()), (Some(0), 0, ""));

    let run = home.config(&["--remove", "--dry-run"]);
    assert_eq!(run.code, Some(1));
    assert!(String::from_utf8(run.stdout).unwrap().contains("\n-    User me\n"));
}

#[test]
fn a_dry_run_creates_no_directory() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    assert_eq!(home.config(&["web01", "--dry-run"]).code, Some(1));
    assert!(!home.path.join(".ssh").exists());
}

/// The terminal output of `arcssh config`, and its exit status.
fn config_on_a_terminal(
    home: &Home<'_>,
    arguments: &str,
    variables: &[(&str, &str)],
) -> (Option<i32>, String) {
    let mut terminal = home.command("script");
    terminal.envs(variables.iter().copied());
    let (code, screen) = on_a_terminal(terminal, &format!("'{ARCSSH}' config {arguments}"));
    (code, screen.replace('\r', ""))
}

#[test]
fn a_diff_is_coloured_on_a_terminal_unless_no_color_is_set() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host other\n");
    let (code, diff) = config_on_a_terminal(&home, "web01 --dry-run", &[]);
    assert_eq!(code, Some(1));
    assert!(
        diff.contains("\u{1b}[32m+Host web01\u{1b}[0m\n") && diff.contains("\u{1b}[2m@@ -1 +1,"),
        "{diff}"
    );
    assert!(diff.contains("\n Host other\n"), "{diff}");
    let (_, plain) = config_on_a_terminal(&home, "web01 --dry-run", &[("NO_COLOR", "1")]);
    assert!(plain.contains("\n+Host web01\n") && !plain.contains('\u{1b}'), "{plain}");
    let (_, coloured) = config_on_a_terminal(&home, "web01 --dry-run", &[("NO_COLOR", "")]);
    assert_eq!(coloured, diff);
}

#[test]
fn removing_named_entries_needs_no_confirmation() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host other\n");
    let (code, output) = config_on_a_terminal(&home, "web01", &[]);
    assert_eq!((code, output.lines().count()), (Some(0), 3), "{output}");
    let (code, output) = config_on_a_terminal(&home, "--remove", &[]);
    assert_eq!((code, output.lines().count()), (Some(0), 2), "{output}");
    assert!(output.starts_with("arcssh: removed web01 (rg-arc/web01)\n"), "{output}");
}

#[test]
fn the_block_can_be_printed_or_written_to_another_file() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let printed = run(&mut home.arcssh(&["web01", "--output", "-"])).clean();
    assert!(!home.path.join(".ssh").exists());
    let note = "arcssh: ssh web01 does not use arc.conf: ~/.ssh/config does not include it\n\
                arcssh: hint: connect with ssh -F arc.conf web01, or begin ~/.ssh/config with the line: Include ~/arc.conf\n";
    assert_eq!(
        home.succeed(&["web01", "--file", "arc.conf"]),
        format!("arcssh: wrote 1 host to arc.conf\n{note}")
    );
    assert_eq!(fs::read_to_string(home.path.join("arc.conf")).unwrap(), printed);
    assert!(!home.path.join(".ssh").exists());
    let mut ssh = home.command("ssh");
    let effective = run(ssh.args(["-T", "-G", "-F", "arc.conf", "web01"])).clean();
    assert!(effective.contains(&format!("proxycommand {ARCSSH} proxy ")), "{effective}");
    assert_eq!(
        home.succeed(&["--verify", "--file", "arc.conf"]),
        format!("{note}arcssh: verified 1 host in arc.conf\n")
    );
    assert_eq!(home.config(&["web01", "--output", "file"]).code, Some(2));
}

#[test]
fn a_run_without_arguments_refreshes_with_the_stored_options() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let options = ["-g", "rg-arc", "--user", "me", "--port", "2222", "--identity", "~/k", "--control-master"];
    home.succeed(&options);
    let written = home.text();
    let damaged = written.replace("    User me\n", "").replace("Host web01", "Host web00");
    fs::write(home.file(), damaged).unwrap();
    home.succeed(&[]);
    assert_eq!(home.text(), written);
    home.succeed(&["--user", "you"]);
    assert_eq!(home.text(), written.replace("User me\n", "User you\n").replace("\"me\"", "\"you\""));
}

#[test]
fn a_refresh_adds_new_machines_of_a_stored_group() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["-g", "RG-ARC"]);
    assert_eq!(home.hosts(), ["web01"]);
    let larger = lab(&["web01", "web02"]);
    let mut arcssh = home.arcssh(&[]);
    assert_eq!(run(arcssh.envs(larger.emulator().environment())).code, Some(0));
    assert_eq!(home.hosts(), ["web01", "web02"]);
}

#[test]
fn stored_platform_cloud_and_paths_do_not_depend_on_the_directory() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    fs::write(home.path.join("key"), "").unwrap();
    fs::write(
        home.path.join("own.conf"),
        "Host {patterns}\n  IdentityFile {identity_file}\n  ProxyCommand {proxy_command}\n",
    )
    .unwrap();
    home.succeed(&[
        "web01",
        "--identity",
        "key",
        "--template",
        "own.conf",
        "--platform",
        "windows",
        "--cloud",
        "china",
    ]);
    let text = home.text();
    assert!(
        home.with_tilde(&text).contains("\n  IdentityFile ~/key\n") && text.contains("--cloud china\n"),
        "{text}"
    );
    let mut arcssh = home.arcssh(&[]);
    let run = run(arcssh.current_dir("/"));
    assert_eq!(home.with_tilde(&run.stderr), "arcssh: ~/.ssh/config is up to date\n");
}

#[test]
fn a_host_entry_uses_its_credential_and_tenant() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let tenant =
        w.emulator().environment().into_iter().find(|(name, _)| name == "AZURE_TENANT_ID").unwrap().1;
    home.succeed(&["web01", "--credential", "environment", "--tenant", &tenant]);
    let command = format!(" --port %p --credential environment --tenant {tenant}\n");
    assert!(home.text().contains(&command), "{}", home.text());
    assert_eq!(home.succeed(&[]), "arcssh: ~/.ssh/config is up to date\n");

    home.succeed(&["--credential", "any"]);
    let command = format!(" --port %p --tenant {tenant}\n");
    assert!(home.text().contains(&command), "{}", home.text());
}

#[test]
fn a_run_without_machines_gets_a_hint() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let expected = "arcssh: no machine was given\narcssh: hint: to see how to name a machine, run: arcssh config --help\n";
    assert_eq!(home.fail(2, &[]), expected);
    assert!(!home.path.join(".ssh").exists());
}

#[test]
fn a_removed_machine_stays_out_until_it_is_named() {
    let w = lab(&["web01", "web02", "web03"]);
    let home = Home::new(&w);
    home.succeed(&["-g", "rg-arc", "--wildcard", "*.arc"]);
    home.succeed(&["--remove", "WEB02"]);
    assert_eq!(home.hosts(), ["web01", "web03", "*.arc"]);
    let text = home.text();
    assert_eq!(home.succeed(&[]), "arcssh: ~/.ssh/config is up to date\n");
    let output = home.succeed(&["-g", "rg-arc"]);
    let out = "arcssh: skipped rg-arc/web02: you removed it; to add it: arcssh config rg-arc/web02\n";
    assert!(output.starts_with(out) && home.text() == text, "{output}");
    home.succeed(&["web02"]);
    assert_eq!(home.hosts(), ["web01", "web02", "web03", "*.arc"]);
    home.succeed(&["--remove", "*.arc"]);
    home.succeed(&[]);
    assert_eq!(home.hosts(), ["web01", "web02", "web03"]);
}

#[test]
fn a_machine_can_be_removed_by_any_of_its_names() {
    let w = lab(&["web01", "web02"]);
    let home = Home::with(&w, "Host other\r\n");
    let original = home.text();
    let id = w.id();
    for name in ["web01", "rg-arc/web01", "RG-ARC/Web01", &id] {
        home.succeed(&["web01", "web02"]);
        home.succeed(&["--remove", name]);
        assert_eq!(home.hosts(), ["web02", "other"], "{name}");
        assert_eq!(home.succeed(&[]), "arcssh: ~/.ssh/config is up to date\n");
    }
    let unknown = |name: &str, suggestion: &str| {
        format!(
            "arcssh: ~/.ssh/config has no host entry of arcssh for {name}\n\
             arcssh: hint: {suggestion}see the host entries, without changes: arcssh config --remove --dry-run\n"
        )
    };
    let suggestion = "did you mean web02? Otherwise, ";
    assert_eq!(home.fail(5, &["--remove", "web01"]), unknown("web01", suggestion));
    assert_eq!(home.fail(5, &["--remove", "*"]), unknown("*", ""));
    home.succeed(&["--remove", "web02"]);
    assert_eq!(home.text(), original, "the block is removed");
    assert_eq!(home.fail(1, &["--remove", "web02"]), "arcssh: there is no managed block\n");
}

#[test]
fn a_deleted_machine_can_be_removed() {
    let w = lab(&["web01", "web02"]);
    let home = Home::new(&w);
    home.succeed(&["web01", "web02"]);
    fs::write(home.file(), home.text().replace("/machines/web01", "/machines/gone")).unwrap();
    let output = home.fail(1, &[]);
    assert_eq!(
        output,
        "arcssh: remove web01 (rg-arc/gone); the machine no longer exists in Azure\n\
         arcssh: nothing was changed: there is no terminal to ask for confirmation\n\
         arcssh: hint: to confirm without a question, add --yes\n"
    );
    home.succeed(&["--remove", "gone"]);
    home.succeed(&[]);
    assert_eq!(home.hosts(), ["web02"]);
}

#[test]
fn remove_rejects_selectors() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01"]);
    for selector in [&["-g", "rg-arc"][..], &["--all"], &["--tag", "a=b"], &["-s", "x"]] {
        let output = home.fail(2, &[&["--remove"], selector].concat());
        assert!(output.contains("cannot be used with"), "{output}");
    }
}

/// Moves the managed block below these lines, and asserts the first message of `--verify`.
#[track_caller]
fn verify_fails_below(home: &Home<'_>, above: &str, expected: &str) {
    let text = home.text();
    fs::write(home.file(), format!("{above}{text}")).unwrap();
    let before = home.text();
    let run = home.config(&["--verify"]);
    assert_eq!((run.code, home.text()), (Some(1), before));
    assert_eq!(
        home.with_tilde(&run.stderr).lines().next().unwrap(),
        expected,
        "below\n{above}{}",
        run.stderr
    );
    fs::write(home.file(), text).unwrap();
}

#[test]
fn verify_names_file_line_and_option_of_an_override() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01", "--user", "me", "--port", "2222"]);
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 1 host in ~/.ssh/config\n");

    let user = |location: &str| {
        format!("arcssh: ssh does not use the user written for web01: {location} says \"root\"")
    };
    verify_fails_below(&home, "User root\n", &user("~/.ssh/config line 1"));
    verify_fails_below(
        &home,
        "# x\nHost *\n    Compression yes\n    User root\n",
        &user("~/.ssh/config line 4"),
    );
    verify_fails_below(&home, "Host no\n User no\nHost web*\n\tuser=root\n", &user("~/.ssh/config line 4"));
    verify_fails_below(
        &home,
        "Host WEB01 !web01\n User no\nHost !x web01\n User \"root\"\n",
        &user("~/.ssh/config line 4"),
    );
    let me = String::from_utf8(run(Command::new("id").arg("-un")).stdout).unwrap();
    let match_user = format!("Match user no\n User no\nMatch localuser {}\n User root\n", me.trim());
    verify_fails_below(&home, &match_user, &user("~/.ssh/config line 4"));
    verify_fails_below(
        &home,
        "Match exec false\n User no\nMatch host web01 exec true\n User root\n",
        &user("~/.ssh/config line 4"),
    );
    verify_fails_below(&home, "Match all\n User root\nHost *\n", &user("~/.ssh/config line 2"));

    let port = "arcssh: ssh does not use the port written for web01: ~/.ssh/config line 2 says \"22\"";
    verify_fails_below(&home, "Host *\n    Port 22\n", port);
    let alias =
        "arcssh: ssh does not use the hostkeyalias written for web01: ~/.ssh/config line 2 says \"x\"";
    verify_fails_below(&home, "Host *\n    HostKeyAlias x\n", alias);
    for (line, value) in
        [("ProxyCommand none", ""), ("ProxyJump bastion", ""), ("ProxyCommand nc %h %p", "nc %h %p")]
    {
        let expected = format!(
            "arcssh: ssh does not use the proxycommand written for web01: ~/.ssh/config line 2 says {value:?}"
        );
        verify_fails_below(&home, &format!("Host *\n    {line}\n"), &expected);
    }
}

#[test]
fn verify_names_the_line_of_an_included_file() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01", "--user", "me"]);
    let folder = home.path.join("includes ü");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("1.conf"), "Host other\n  User no\n").unwrap();
    fs::write(folder.join("2.conf"), "# here\nHost web??\n  User root\n").unwrap();
    let expected =
        "arcssh: ssh does not use the user written for web01: ~/includes ü/2.conf line 3 says \"root\"";
    let include = format!("Include \"{}/*.conf\"\n", folder.display());
    verify_fails_below(&home, &include, expected);
    verify_fails_below(&home, &format!("Host *\n{include}"), expected);
    verify_fails_below(&home, &format!("{include}User later\n"), expected);
    verify_fails_below(&home, &format!("Host other\n{include}Match host web01\n{include}"), expected);
    // ssh reads an Include in an entry that does not match, but ignores its options.
    fs::write(folder.join("2.conf"), "User root\nMatch all\nUser no\n").unwrap();
    let expected = "arcssh: ssh does not use the user written for web01: ~/.ssh/config line 4 says \"root\"";
    verify_fails_below(&home, &format!("Host other\n{include}Match host web01\nUser root\n"), expected);
}

#[test]
fn verify_finds_an_option_with_which_no_entry_works() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01"]);
    let does_not_work =
        |rest: &str| format!("arcssh: the host entry web01 does not work: ~/.ssh/config {rest}");
    verify_fails_below(
        &home,
        "ProxyUseFdpass yes\n",
        &does_not_work("line 1 sets proxyusefdpass to \"yes\""),
    );
    let shared = home.path.join("shared").display().to_string();
    let path = does_not_work("line 2 sets controlpath to \"~/shared\"");
    verify_fails_below(&home, &format!("Host *\n  ControlPath {shared}\n"), &path);
    // ssh reads a section below the block for options that the entry does not set.
    let block = home.text();
    fs::write(
        home.file(),
        format!("{block}\nHost other\n ControlPath x\nHost web01\n ControlPath {shared}\n"),
    )
    .unwrap();
    let failed = home.fail(1, &["--verify"]);
    assert!(failed.ends_with("hint: add the token %C to the path in that line\n"), "{failed}");
    for fine in
        ["ControlPath ~/.ssh/%r@%h:%p", "ControlPath ~/.ssh/%C", "ControlPath none", "ProxyUseFdpass yes"]
    {
        fs::write(home.file(), format!("{block}\nHost *\n {fine}\n")).unwrap();
        home.succeed(&["--verify"]);
    }
}

#[test]
fn only_the_entries_of_named_machines_are_verified() {
    let w = lab(&["web01", "web02"]);
    let home = Home::new(&w);
    home.succeed(&["web01", "web02", "--user", "me", "--wildcard", "*.arc"]);
    fs::write(home.file(), format!("Host web02\n    User root\n{}", home.text())).unwrap();
    let verified = "arcssh: verified 1 host in ~/.ssh/config\n";
    for name in ["web01", "WEB01", "rg-arc/web01", "web07.arc", "*.arc"] {
        assert_eq!(home.succeed(&["--verify", name]), verified, "{name}");
    }
    for names in [&["--verify"][..], &["--verify", "web02"], &["--verify", "web01", "rg-arc/web02"]] {
        assert!(home.fail(1, names).contains("does not use the user written for web02"), "{names:?}");
    }
    assert!(home.fail(5, &["--verify", "web01", "nosuch"]).contains(" for nosuch\n"));
    home.fail(2, &["--verify", "--all"]);
}

#[test]
fn verify_finds_a_value_that_ssh_cannot_use_when_it_connects() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01"]);
    let block = home.text();
    let folder = home.path.display().to_string();
    for (lines, hint) in [
        (format!("ControlMaster auto\nControlPath {folder}/none/%C"), "create the directory of that path"),
        (
            format!("ControlMaster yes\nControlPath {folder}/.ssh/config/%C"),
            "create the directory of that path",
        ),
        (format!("RevokedHostKeys {folder}/none"), "create the file, or"),
        (format!("RevokedHostKeys {folder}"), "create the file, or"),
        ("IdentityFile ~/.ssh/a\nIdentityFile ${ARCSSH_NONE}/k".into(), "set the environment variable, or"),
        ("CertificateFile ${ARCSSH_NONE}/k".into(), "set the environment variable, or"),
        ("CertificateFile ${ARCSSH_NONE".into(), "set the environment variable, or"),
        ("IdentityFile ~no-such-user/k".into(), "name an existing user in the value"),
        ("IdentityFile ~/.ssh/%q".into(), "write only tokens"),
        ("IdentityFile ~/.ssh/x%".into(), "write only tokens"),
        ("KnownHostsCommand /bin/true %Q".into(), "write only tokens"),
        ("PermitLocalCommand yes\nLocalCommand echo %Q".into(), "write only tokens"),
    ] {
        fs::write(home.file(), format!("{block}\nHost *\n{lines}\n")).unwrap();
        let failed = home.fail(1, &["--verify"]);
        assert!(failed.contains(&format!("arcssh: hint: {hint}")), "{lines}: {failed}");
        assert!(failed.starts_with("arcssh: the host entry web01 does not work: "), "{lines}: {failed}");
    }
    // The line is in the host entry itself.
    fs::write(home.file(), &block).unwrap();
    for (option, keyword) in [("--identity", "identityfile"), ("--certificate-file", "certificatefile")] {
        let failed = home.fail(1, &["web01", option, "~no-such-user/k"]);
        let shown =
            format!("arcssh: the host entry web01 does not work: it sets {keyword} to \"~no-such-user/k\"\n");
        assert!(failed.starts_with(&shown), "{failed}");
    }
    for lines in [
        format!("ControlMaster no\nControlPath {folder}/none/%C"),
        format!("ControlMaster auto\nControlPath {folder}/%C"),
        "ControlMaster auto\nControlPath none".into(),
        "RevokedHostKeys none".into(),
        "RevokedHostKeys /dev/null".into(),
        format!("RevokedHostKeys {folder}/.ssh/config"),
        "IdentityFile ${HOME}/%%/%r@%h-%C".into(),
        "IdentityFile ~root/k".into(),
        "IdentityFile none".into(),
        "LocalCommand echo %Q".into(),
        "PermitLocalCommand yes\nLocalCommand echo ${ARCSSH_NONE} %T %h".into(),
    ] {
        fs::write(home.file(), format!("{block}\nHost *\n{lines}\n")).unwrap();
        home.succeed(&["--verify"]);
    }
}

#[test]
fn a_wildcard_is_verified_with_a_made_up_name() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["--wildcard", "*.arc", "--user", "me"]);
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 1 host in ~/.ssh/config\n");
    let user =
        "arcssh: ssh does not use the user written for example.arc: ~/.ssh/config line 2 says \"root\"";
    verify_fails_below(&home, "Host *\n User root\n", user);
    verify_fails_below(&home, "Host *.arc !x*.arc\n User root\n", user);
    let proxy =
        "arcssh: ssh does not use the proxycommand written for example.arc: ~/.ssh/config line 2 says \"\"";
    verify_fails_below(&home, "Match host *.arc\n ProxyCommand none\n", proxy);
    let name = "arcssh: the host entry example.arc does not work: ~/.ssh/config line 2 sets hostname to \"example.arc.corp\"";
    verify_fails_below(&home, "Host *\n HostName %h.corp\n", name);
    // The name that a section matches is not the one to verify with.
    let text = home.text();
    fs::write(home.file(), format!("Host example.arc m*\n User root\n{text}\nHost *\n HostName %h.corp\n"))
        .unwrap();
    home.succeed(&["--verify"]);
    // ssh does not start with a token that it does not know.
    fs::write(home.file(), text.replace("    User me\n", "    User me\n    Bogus x\n")).unwrap();
    assert!(home.fail(1, &["--verify"]).starts_with("arcssh: ssh rejects "));
}

#[test]
fn a_wildcard_of_an_earlier_version_is_verified_and_written_again() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["--wildcard", "*.arc"]);
    let new = home.text();
    let is_new = |line: &&str| {
        !["HostName", "Canonicalize", "ProxyUse"].iter().any(|word| line.trim().starts_with(word))
    };
    let old: String = new.lines().filter(is_new).map(|line| format!("{line}\n")).collect();
    let old = old.replace("--host %h", "--host %n");
    fs::write(home.file(), &old).unwrap();
    home.succeed(&["--verify"]);
    assert_eq!(
        home.changes(&[]),
        ["changed *.arc: canonicalizehostname, hostname, proxycommand, proxyusefdpass"]
    );
    assert_eq!(home.text(), new);
}

/// A home directory whose host entry names a link to arcssh in a folder with a blank.
fn with_linked_program<'a>(w: &'a Lab) -> (Home<'a>, PathBuf) {
    let home = Home::new(w);
    let program = home.path.join("my bin/arcssh");
    fs::create_dir(home.path.join("my bin")).unwrap();
    std::os::unix::fs::symlink(ARCSSH, &program).unwrap();
    let written = run(home.command(&program).args(["config", "web01", "--wildcard", "*.arc"]));
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    assert!(
        home.text().contains(&format!("ProxyCommand \"{}\" proxy ", program.display())),
        "{}",
        home.text()
    );
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 2 hosts in ~/.ssh/config\n");
    (home, program)
}

#[test]
fn verify_finds_a_program_that_cannot_be_started() {
    let w = lab(&["web01"]);
    let (home, program) = with_linked_program(&w);
    let fails = |cause: &str| {
        assert_eq!(
            home.fail(1, &["--verify"]),
            format!(
                "arcssh: the host entry *.arc does not work: ~/my bin/arcssh {cause}\n\
                 arcssh: hint: write the host entries again with the path of this arcssh: arcssh config\n"
            )
            .replace("*.arc", if home.text().contains("Host web01") { "web01" } else { "*.arc" })
        );
    };
    fs::remove_file(&program).unwrap();
    fails("does not exist");
    std::os::unix::fs::symlink("nothing", &program).unwrap();
    fails("does not exist");
    fs::remove_file(&program).unwrap();
    fs::create_dir(&program).unwrap();
    fails("is not a file");
    fs::remove_dir(&program).unwrap();
    fs::write(&program, "#!/bin/sh\necho other\n").unwrap();
    fails("is not executable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fails("is not arcssh");
    let report = run(home.command(ARCSSH).args(["doctor", "web01"]));
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("/my bin/arcssh is not arcssh"), "{report}");
    home.succeed(&[]);
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 2 hosts in ~/.ssh/config\n");
}

#[test]
fn verify_names_another_arcssh_that_the_entries_start() {
    let w = lab(&["web01"]);
    let (home, program) = with_linked_program(&w);
    fs::remove_file(&program).unwrap();
    fs::write(&program, format!("#!/bin/sh\nexec '{ARCSSH}' \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        home.succeed(&["--verify"]),
        format!(
            "arcssh: the host entries start ~/my bin/arcssh, not this arcssh, {ARCSSH}\n\
             arcssh: hint: to change the path, write the host entries again: arcssh config\n\
             arcssh: verified 2 hosts in ~/.ssh/config\n"
        )
    );
    home.succeed(&[]);
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 2 hosts in ~/.ssh/config\n");
}

#[test]
fn a_template_is_verified_like_the_built_in_one() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host *\n  ProxyUseFdpass yes\n");
    let template = home.path.join("own.conf");
    fs::write(&template, "Host {patterns}\n  ProxyCommand {proxy_command}\n").unwrap();
    let failed = home.fail(1, &["web01", "--template", "own.conf"]);
    assert!(
        failed.contains("add the line ProxyUseFdpass no to a template of your own: arcssh config"),
        "{failed}"
    );
    let with_proxy = |command: &str| {
        fs::write(&template, format!("Host {{patterns}}\n  ProxyUseFdpass no\n  ProxyCommand {command}\n"))
            .unwrap();
    };
    fs::write(&template, "Host {patterns}\n  ProxyUseFdpass yes\n  ProxyCommand {proxy_command}\n").unwrap();
    let failed = home.fail(1, &["web01", "--template", "own.conf"]);
    assert!(
        failed.contains("add the line ProxyUseFdpass no to a template of your own: arcssh config"),
        "{failed}"
    );
    with_proxy("/no/arcssh proxy {resource_id} --port %p");
    let failed = home.fail(1, &["web01", "--template", "own.conf"]);
    assert!(
        failed.starts_with("arcssh: the host entry web01 does not work: /no/arcssh does not exist\n"),
        "{failed}"
    );
    with_proxy("no-such-arcssh proxy {resource_id} --port %p");
    let failed = home.fail(1, &["web01", "--template", "own.conf"]);
    assert!(failed.contains("no-such-arcssh is not in PATH\n"), "{failed}");
    for command in ["env A=b {proxy_command} 2>/dev/null", "arcssh proxy {resource_id}"] {
        with_proxy(command);
        let mut config = home.arcssh(&["web01", "--template", "own.conf"]);
        let folder = Path::new(ARCSSH).parent().unwrap().display();
        config.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
        let config = run(&mut config);
        assert_eq!(config.code, Some(0), "{command}: {}", config.stderr);
    }
}

#[test]
fn a_section_of_the_user_with_another_proxy_stays() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01"]);
    let block = home.text();
    let end = "# End of the arcssh host entries.\n";
    for own in [
        "Host git.corp\n    User git\n    ProxyCommand corkscrew proxy 8080 %h %p\n",
        "Host *.tele node1\n    ProxyCommand \"/usr/bin/tsh\" proxy ssh %r@%h:%p\n",
    ] {
        for arguments in [&["--remove"][..], &["--yes"], &["web01", "--user", "me"]] {
            fs::write(home.file(), block.replace(end, &format!("{own}{end}"))).unwrap();
            home.succeed(arguments);
            let text = home.text();
            let below = text.rsplit("# <<< arcssh <<<\n").next().unwrap();
            assert!(below.contains(own), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn a_program_of_another_computer_is_noted() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let note = "arcssh: the host entries do not work on this computer, where /opt/arcssh does not exist\n\
                arcssh: hint: set the path of arcssh with arcssh config --program PATH\n";
    let written = home.succeed(&["web01", "--program", "/opt/arcssh"]);
    assert_eq!(written, format!("arcssh: wrote 1 host to ~/.ssh/config\n{note}"));
    assert_eq!(home.fail(1, &["--verify"]), note);
    let wrapper = home.path.join("wrap");
    fs::write(&wrapper, format!("#!/bin/sh\necho start\nexec {ARCSSH} \"$@\"\n")).unwrap();
    let note = note.replace("/opt/arcssh does not exist", "~/wrap is not executable");
    assert!(home.succeed(&["web01", "--program", wrapper.to_str().unwrap()]).ends_with(&note));
    assert_eq!(home.fail(1, &["--verify"]), note);
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 1 host in ~/.ssh/config\n");
    fs::write(&wrapper, "#!/bin/sh\n").unwrap();
    assert_eq!(home.fail(1, &["--verify"]), note.replace("is not executable", "is not arcssh"));
    home.succeed(&["web01", "--program", "/opt/arcssh.exe", "--platform", "windows"]);
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 1 host in ~/.ssh/config\n");
}

#[test]
fn a_key_that_does_not_exist_is_noted() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01", "--identity", "~/my key"]);
    let note = "arcssh: the host entry web01 names the key ~/my key, which does not exist\n";
    assert!(home.succeed(&["--verify"]).contains(note));
    fs::write(home.path.join("my key"), "").unwrap();
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 1 host in ~/.ssh/config\n");
    for (identity, shown) in [("no_key", "no_key in the current directory"), ("~/id%h", "~/id%h")] {
        home.succeed(&["web01", "--identity", identity]);
        let note = format!("arcssh: the host entry web01 names the key {shown}, which does not exist\n");
        let verified = home.succeed(&["--verify"]);
        assert!(verified.contains(&note), "{verified}");
    }
}

#[test]
fn a_key_that_others_can_access_is_noted() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let key = home.path.join("my key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    home.succeed(&["web01", "--identity", "~/my key"]);
    let verified = "arcssh: verified 1 host in ~/.ssh/config\n";
    for mode in [0o644, 0o640, 0o602, 0o601] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let note = format!(
            "arcssh: other users can access ~/my key (mode {mode:04o}), so ssh ignores this key of the host entry web01\n\
             arcssh: hint: run: chmod 600 '~/my key'\n"
        );
        assert_eq!(home.succeed(&["--verify"]), format!("{note}{verified}"));
    }
    fs::set_permissions(&key, Permissions::from_mode(0o400)).unwrap();
    assert_eq!(home.succeed(&["--verify"]), verified);
    fs::set_permissions(key.with_extension("pub"), Permissions::from_mode(0o644)).unwrap();
    home.succeed(&["--identity", "~/my key.pub"]);
    assert_eq!(home.succeed(&["--verify"]), verified);
    if may_become(12345) {
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        chown(&key, Some(12345), None).unwrap();
        home.succeed(&["--identity", "~/my key"]);
        assert_eq!(home.succeed(&["--verify"]), verified);
    }
}

#[test]
fn a_change_that_another_entry_overrides_is_not_written() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01"]);
    fs::write(home.file(), format!("Host *\n    User root\n\n{}", home.text())).unwrap();
    let output = home.fail(1, &["--user", "me"]);
    assert_eq!(
        output,
        "arcssh: ssh does not use the user written for web01: ~/.ssh/config line 2 says \"root\"\n\
         arcssh: hint: move the Host or Match section that contains line 2 of ~/.ssh/config below the managed block\n"
    );
}

#[test]
fn verify_without_a_block_fails() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host a\n");
    assert_eq!(home.fail(1, &["--verify"]), "arcssh: ~/.ssh/config has no managed block\n");
}

#[test]
fn an_included_block_is_named() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Include conf.d/*\n");
    let folder = home.path.join(".ssh/conf.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("00-other"), "Host other\n  User me\n").unwrap();
    let file = folder.join("10 arc");
    home.succeed(&["web01", "--file", file.to_str().unwrap()]);
    assert_eq!(
        home.fail(1, &["--verify"]),
        "arcssh: ~/.ssh/config has no managed block\n\
         arcssh: hint: verify the managed block that it includes: arcssh config --verify --file '~/.ssh/conf.d/10 arc'\n"
    );
    let doctor = run(home.command(ARCSSH).args(["doctor", "web01", "--json"])).stdout;
    let doctor = String::from_utf8(doctor).unwrap();
    let skipped = format!("to check the managed block that it includes, add --file '{}'", file.display());
    assert!(doctor.contains(&skipped), "{doctor}");
}

#[test]
fn without_ssh_the_file_is_written_with_a_warning() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let run = run(home.arcssh(&["web01"]).env("PATH", home.path.join("nothing")));
    let expected = "arcssh: cannot verify the host entries: ssh is not installed\narcssh: added web01 (rg-arc/web01)\narcssh: wrote 1 host to ~/.ssh/config\n";
    assert_eq!((run.code, home.with_tilde(&run.stderr).as_str()), (Some(0), expected));
    assert_eq!(home.hosts(), ["web01"]);
    let run = crate::support::run(home.arcssh(&["--verify"]).env("PATH", home.path.join("nothing")));
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), "arcssh: ssh is not installed\n"));
}

#[test]
fn nothing_is_written_if_ssh_reads_other_values() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host a\n");
    script(&home.path.join("bin"), "ssh", "#!/bin/sh\necho 'user other'\n");
    let path = format!("{}:{}", home.path.join("bin").display(), std::env::var("PATH").unwrap());
    let run = run(home.arcssh(&["web01"]).env("PATH", path));
    assert_eq!(run.code, Some(1));
    assert_eq!((home.text().as_str(), home.temporary_files()), ("Host a\n", vec![]));
    assert!(!home.path.join(".ssh/.config.arcssh-backup").exists());
}

fn same_name_in_two_groups() -> Lab {
    let machine = |name: &str, group: &str| Machine::new(name).resource_group(group);
    lab_with(&["solo"], |builder| builder.machine(machine("web01", "rg-a")).machine(machine("Web01", "rg-b")))
}

#[test]
fn an_ambiguous_name_lists_the_candidates() {
    let w = same_name_in_two_groups();
    let home = Home::new(&w);
    assert_eq!(
        home.fail(5, &["web01"]),
        "arcssh: 2 machines are named web01: rg-a/web01, rg-b/Web01\n\
         arcssh: hint: name the machine as GROUP/NAME\n"
    );
    home.succeed(&["rg-b/web01"]);
    // The name is unique among all visible machines, including those without a host entry.
    assert_eq!(home.hosts(), ["web01.rg-b Web01.rg-b"]);
    assert_eq!(
        home.fail(5, &["web99"]),
        "arcssh: the account sees no Arc machine named web99\n\
         arcssh: hint: list the machines that the account sees: arcssh list\n"
    );
}

#[test]
fn machines_with_the_same_name_get_name_and_group() {
    let w = same_name_in_two_groups();
    let home = Home::new(&w);
    home.succeed(&["--all"]);
    assert_eq!(home.hosts(), ["solo", "web01.rg-a", "web01.rg-b Web01.rg-b"]);
    assert!(home.effective("Web01.rg-b", "proxycommand").contains("/rg-b/"));
    let output = home.fail(5, &["--remove", "web01"]);
    assert!(output.starts_with("arcssh: 2 machines are named web01: web01.rg-a, web01.rg-b\n"), "{output}");
    home.succeed(&["--remove", "rg-a/web01"]);
    assert_eq!(home.hosts(), ["solo", "web01.rg-b Web01.rg-b"]);
}

#[test]
fn a_name_that_looks_like_name_and_group_stays_unique() {
    let machine = |name: &str, group: &str| Machine::new(name).resource_group(group);
    let w = lab_with(&[], |builder| {
        let builder = builder.machine(machine("web01", "rg-a")).machine(machine("web01", "rg-b"));
        builder.machine(machine("web01.rg-a", "rg-c"))
    });
    let home = Home::new(&w);
    home.succeed(&["--all"]);
    assert_eq!(home.hosts(), ["web01.rg-a.azure-arc", "web01.rg-b", "web01.rg-a.rg-c"]);
    // A name that fits two machines resolves to neither.
    let wildcard = run(&mut w.arcssh(&["proxy", "--host", "web01.rg-a"]));
    wildcard.failed(
        5,
        &[
            "arcssh: cannot connect to web01.rg-a: 2 machines are named web01.rg-a: rg-a/web01, rg-c/web01.rg-a",
            "arcssh: hint: run: ssh web01.rg-a.rg-c",
        ],
    );
}

#[test]
fn a_name_with_capitals_also_works_in_lower_case() {
    let w = lab_with(&[], |builder| builder.machine(Machine::new("WIN-SQL01").vm_id("0A1B-2C3D")));
    let home = Home::new(&w);
    home.succeed(&["win-sql01"]);
    assert_eq!(home.hosts(), ["win-sql01 WIN-SQL01"]);
    for name in ["win-sql01", "WIN-SQL01"] {
        assert!(home.effective(name, "proxycommand").ends_with("/machines/WIN-SQL01 --port %p"), "{name}");
        assert_eq!(home.effective(name, "hostkeyalias"), "win-sql01.0a1b-2c3d");
    }
}

const TYPES: [&str; 4] = [
    "Microsoft.HybridCompute/machines",
    "Microsoft.ConnectedVMwarevSphere/virtualMachines",
    "Microsoft.ScVmm/virtualMachines",
    "Microsoft.AzureStackHCI/virtualMachines",
];

#[test]
fn all_types_of_arc_machines_are_found() {
    let w = lab_with(&[], |builder| {
        TYPES
            .iter()
            .zip(["a", "b", "c", "d"])
            .fold(builder, |builder, (kind, name)| builder.machine(Machine::new(name).resource_type(kind)))
    });
    let home = Home::new(&w);
    home.succeed(&["--all"]);
    let assert_all_found = || {
        for (kind, name) in TYPES.iter().zip(["a", "b", "c", "d"]) {
            let command = home.effective(name, "proxycommand");
            assert!(command.ends_with(&format!("/providers/{kind}/{name} --port %p")), "{command}");
        }
    };
    assert_all_found();
    // The lists of each subscription replace Resource Graph if Azure denies access to it.
    w.emulator().arm_fault(ArmFault::new(403, "AuthorizationFailed", "No.").on(ArmCall::ResourceGraph));
    home.succeed(&[]);
    assert_all_found();
}

/// Most properties in the example of the REST specification are null.
#[test]
fn null_and_malformed_properties_hide_no_machine() {
    let w = lab(&["web01"]);
    let id = w.id();
    let rows = serde_json::json!([
        { "id": id, "name": "web01", "tags": "", "location": null, "kind": null, "properties": {
            "osProfile": null, "guestAgentProfile": null, "status": "Connected", "agentVersion": 1.67,
            "osName": "", "osType": "Linux" } },
        { "id": id.replace("web01", "web02"), "tags": null, "properties": null },
        { "id": null, "name": "not a machine" },
        { "name": "neither a machine" },
    ]);
    for (call, list) in [(ArmCall::ResourceGraph, "data"), (ArmCall::List, "value")] {
        if call == ArmCall::List {
            w.emulator()
                .arm_fault(ArmFault::new(403, "AuthorizationFailed", "No.").on(ArmCall::ResourceGraph));
        }
        let body = serde_json::json!({ list: rows, "nextLink": null, "$skipToken": null });
        w.emulator().arm_fault(ArmFault::raw(200, "application/json", &body.to_string()).on(call));
        let text = run(&mut w.arcssh(&["list", "--format", "json"])).clean();
        let machines: serde_json::Value = serde_json::from_str(&text).unwrap();
        let names: Vec<&str> =
            machines.as_array().unwrap().iter().filter_map(|machine| machine["name"].as_str()).collect();
        assert_eq!(names, ["web01", "web02"], "{call:?}");
        assert_eq!((&machines[0]["os"], &machines[0]["status"]), (&"linux".into(), &"Connected".into()));
    }
}

#[test]
fn a_circular_list_ends() {
    let w = lab(&["web01"]);
    let page = format!(r#"{{"$skipToken":"again","data":[{{"id":"{}"}}]}}"#, w.id());
    w.emulator()
        .arm_fault(ArmFault::raw(200, "application/json", &page).on(ArmCall::ResourceGraph).times(100));
    assert_eq!(run(&mut w.arcssh(&["list"])).clean().lines().count(), 2, "the lists replace Resource Graph");
    let (_, arm) =
        w.emulator().environment().into_iter().find(|(name, _)| name == "ARCSSH_ARM_ENDPOINT").unwrap();
    let link = format!(r#"{{"value":[],"nextLink":"{arm}/subscriptions?api-version=2022-12-01"}}"#);
    w.emulator()
        .arm_fault(ArmFault::raw(200, "application/json", &link).on(ArmCall::Subscriptions).times(100));
    let run = run(&mut w.arcssh(&["list"]));
    assert!(run.stderr.contains("a page links to a previous page"), "{}", run.stderr);
}

/// A user may see a subscription without permission to list its resources. A subscription may not have the type
/// registered.
#[test]
fn a_denied_subscription_hides_no_other() {
    let other = "5b5c4700-0000-4000-8000-000000000002";
    let w = lab_with(&["web01"], |builder| builder.machine(Machine::new("web02").subscription(other)));
    w.emulator()
        .arm_fault(ArmFault::new(403, "AuthorizationFailed", "No.").on(ArmCall::ResourceGraph).times(2));
    w.emulator().arm_fault(ArmFault::new(409, "MissingSubscriptionRegistration", "No.").on(ArmCall::List));
    let text = run(&mut w.arcssh(&["list"])).clean();
    assert!(text.contains("web01") != text.contains("web02"), "{text}");
    w.emulator().arm_fault(ArmFault::new(403, "AuthorizationFailed", "No.").on(ArmCall::List).times(100));
    let run = run(&mut w.arcssh(&["list"]));
    assert_eq!((run.code, run.stdout.len()), (Some(4), 0), "{}", run.stderr);
}

#[test]
fn machines_that_differ_only_in_type_get_unique_names() {
    let w = lab_with(&[], |builder| {
        TYPES.iter().fold(builder, |builder, kind| builder.machine(Machine::new("vm").resource_type(kind)))
    });
    let home = Home::new(&w);
    home.succeed(&["--all"]);
    let first = |hosts: &String| hosts.split(' ').next().unwrap().to_owned();
    let hosts: Vec<String> = home.hosts().iter().map(first).collect();
    let full = format!("vm.rg-arc.{}", arcssh_emulator::SUBSCRIPTION);
    let namespaces = ["azurestackhci", "connectedvmwarevsphere", "hybridcompute", "scvmm"];
    assert_eq!(hosts, namespaces.map(|kind| format!("{full}.microsoft.{kind}")));
}

#[test]
fn the_id_of_a_virtual_machine_instance_names_its_machine() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let child = "/providers/Microsoft.ScVmm/virtualMachineInstances/default";
    home.succeed(&[&format!("{}{child}", w.id())]);
    assert_eq!(home.effective("web01", "proxycommand"), format!("{ARCSSH} proxy {} --port %p", w.id()));
    home.succeed(&["--remove", &format!("{}{child}", w.id())]);
    assert_eq!(home.text(), "");
}

#[test]
fn machines_are_selected_by_tag_group_and_subscription() {
    let other = "5b5c4700-0000-4000-8000-000000000002";
    let w = lab_with(&[], |builder| {
        builder
            .machine(Machine::new("a").tag("env", "prod x=1"))
            .machine(Machine::new("b").tag("env", "test").resource_group("rg-b"))
            .machine(Machine::new("c").tag("Env", "test").subscription(other))
    });
    let home = Home::new(&w);
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--tag", "env=test"], &["b", "c"]),
        (&["--tag", "ENV=prod x=1"], &["a"]),
        (&["--tag", "Env=test", "a"], &["a", "b", "c"]),
        (&["-g", "rg-arc", "--tag", "env=test"], &["c"]),
        (&["--all", "-s", other], &["c"]),
        (&["--all"], &["a", "b", "c"]),
    ];
    for (arguments, hosts) in cases {
        home.succeed(arguments);
        assert_eq!(home.hosts(), hosts, "{arguments:?}");
        home.succeed(&["--remove"]);
    }
    // A selector without a match is an error, even together with other arguments.
    for (arguments, selector) in [
        (&["--tag", "env=TEST", "a"][..], "--tag env=TEST"),
        (&["-g", "rg-B", "-g", "nothing"], "-g nothing"),
        (&["-g", "rg-b", "--tag", "env=prod x=1"], "-g rg-b --tag 'env=prod x=1'"),
    ] {
        let output = home.fail(5, arguments);
        assert!(
            output.contains(&format!(
                "arcssh: the account sees no Arc machine that matches {selector}; it sees 3 machines\n"
            )),
            "{output}"
        );
    }
}

#[test]
fn a_template_replaces_the_built_in_one() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let template = "# {name}\r\nHost {patterns}\r\n  User {user}\r\n  Port {port}\r\n  ForwardAgent no\r\n  ProxyCommand {proxy_command}\r\n";
    fs::write(home.path.join("own.conf"), template).unwrap();
    home.succeed(&["web01", "--template", "own.conf", "--port", "7"]);
    let section = format!(
        "# web01\nHost web01\n  Port 7\n  ForwardAgent no\n  ProxyCommand {ARCSSH} proxy {} --port %p\n",
        w.id()
    );
    assert!(home.text().contains(&section), "{}", home.text());
    fs::write(home.path.join("own.conf"), "Host {patterns}\n  User {login}\n").unwrap();
    let output = home.fail(1, &["web01"]);
    assert!(
        output.contains("the placeholder {login} of the template is unknown; valid are patterns, host_name,"),
        "{output}"
    );
    fs::remove_file(home.path.join("own.conf")).unwrap();
    assert!(home.fail(1, &["web01"]).starts_with("arcssh: cannot read ~/own.conf: "));
}

#[test]
fn a_template_cannot_break_the_block_or_the_file() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host a\n");
    for (template, error) in [
        ("Host {patterns}\n# <<< arcssh <<<\n", "ends a managed block that no line begins"),
        ("# >>> arcssh >>> block 1: x\nHost {patterns}\n", "begins a managed block inside"),
        ("Host {patterns}\n  Bogus {port}x\n  Nonsense\n", "ssh rejects ~/.ssh/"),
    ] {
        fs::write(home.path.join("own.conf"), template).unwrap();
        let output = home.fail(1, &["web01", "--template", "own.conf"]);
        assert!(output.contains(error), "{output}");
    }
}

#[test]
fn a_template_without_a_host_entry_is_named() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01"]);
    let before = home.text();
    for template in ["", "\n", "# Host {patterns}\n", "Match all\n  User me\n"] {
        fs::write(home.path.join("own.conf"), template).unwrap();
        let output = home.fail(1, &["--template", "own.conf"]);
        assert_eq!(output, "arcssh: the template ~/own.conf has no line Host {patterns}\n");
        assert_eq!(home.text(), before);
    }
}

#[test]
fn connections_are_shared_only_on_request_and_not_on_windows() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01"]);
    assert!(!home.text().contains("    Control"));
    home.succeed(&["--control-master"]);
    let lines = "    ControlMaster auto\n    ControlPath ~/.ssh/arcssh-%C\n    ControlPersist 60s\n";
    assert!(home.text().contains(lines), "{}", home.text());
    home.succeed(&["--platform", "windows"]);
    assert!(!home.text().contains("    Control"), "{}", home.text());
}

#[test]
fn the_block_for_each_platform_matches_the_golden_file() {
    let machines = |builder: arcssh_emulator::Builder| {
        builder
            .machine(Machine::new("web01").vm_id("aaaaaaaa-0000-4000-8000-000000000001"))
            .machine(Machine::new("WIN01").vm_id("AAAAAAAA-0000-4000-8000-000000000002").os_name("windows"))
            .machine(Machine::new("bare").without_vm_id())
    };
    let w = lab_with(&[], machines);
    let home = Home::new(&w);
    let full =
        ["--all", "--user", "CONTOSO\\me", "--port", "2222", "--control-master", "--wildcard", "*.arc"];
    for (golden, platform, identity) in [
        ("config-windows.conf", "windows", r"C:\Users\me\my keys\id"),
        ("config-unix.conf", "unix", "~/my keys/id"),
    ] {
        let options = ["--identity", identity, "--platform", platform, "--output", "-"];
        let composed = run(&mut home.arcssh(&[&full[..], &options].concat()));
        assert_eq!(composed.code, Some(0), "{}", composed.stderr);
        assert_eq!(composed.stderr.contains("to set another one: --program PATH"), platform == "windows");
        let text = String::from_utf8(composed.stdout).unwrap();
        let text = text.replace(ARCSSH, "{arcssh}").replace(arcssh_emulator::SUBSCRIPTION, "{subscription}");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(golden);
        // With ARCSSH_RECORD, updates the golden file.
        if std::env::var_os("ARCSSH_RECORD").is_some() {
            fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&file).unwrap(), "{golden}");
    }
}

#[test]
fn each_run_adds_to_the_selection() {
    let machine =
        |name: &str, group: &str, env: &str| Machine::new(name).resource_group(group).tag("env", env);
    let w = lab_with(&[], |builder| {
        let builder = builder.machine(machine("a", "rg-a", "prod")).machine(machine("b", "rg-b", "prod"));
        builder.machine(machine("c", "rg-c", "test")).machine(machine("d", "rg-d", "test"))
    });
    let home = Home::new(&w);
    assert_eq!(home.changes(&["--tag", "env=prod"]), ["added a (rg-a/a)", "added b (rg-b/b)"]);
    assert_eq!(home.changes(&["-g", "rg-c"]), ["added c (rg-c/c)"]);
    assert_eq!(home.hosts(), ["a", "b", "c"]);
    assert_eq!(home.changes(&[]), [""; 0]);
    assert_eq!(home.changes(&["--all"]), ["added d (rg-d/d)"]);
    assert_eq!(home.hosts(), ["a", "b", "c", "d"]);
    // Selectors of one run narrow each other.
    home.succeed(&["--remove"]);
    home.succeed(&["-g", "rg-a", "-g", "rg-c", "--tag", "env=test"]);
    assert_eq!(home.hosts(), ["c"]);
}

#[test]
fn options_apply_to_the_machines_selected_with_them() {
    let machine = |name: &str, group: &str| Machine::new(name).resource_group(group);
    let w = lab_with(&[], |builder| {
        let builder = builder.machine(machine("web01", "rg-web")).machine(machine("web02", "rg-web"));
        builder.machine(machine("db01", "rg-db"))
    });
    let home = Home::new(&w);
    fs::write(
        home.path.join("own.conf"),
        "Host {patterns}\n  User {user}\n  Compression yes\n  ProxyCommand {proxy_command}\n",
    )
    .unwrap();
    let users = || ["web01", "web02", "db01"].map(|name| home.effective(name, "user"));
    home.succeed(&["web01", "--user", "a", "--port", "1"]);
    home.succeed(&["web02", "--user", "b", "--control-master"]);
    assert_eq!(users()[..2], ["a", "b"]);
    assert_eq!(
        (home.effective("web01", "controlmaster").as_str(), home.effective("web02", "port").as_str()),
        ("false", "22")
    );
    assert_eq!(home.changes(&["-g", "rg-web", "--user", "group", "--port", "3"]), ["changed web02: port"]);
    assert_eq!(
        (users()[..2].to_vec(), home.effective("web01", "port").as_str()),
        (vec!["a".into(), "b".into()], "1")
    );
    home.succeed(&["--all", "--template", "own.conf"]);
    assert_eq!(home.effective("db01", "compression"), "yes");
    let me = String::from_utf8(run(Command::new("id").arg("-un")).stdout).unwrap();
    assert_eq!(users(), ["a", "b", me.trim()]);
    // A later selection outranks an earlier one, and the machine's own options outrank both.
    home.succeed(&["--remove", "web02"]);
    home.succeed(&["db01", "--credential", "environment"]);
    assert_eq!(home.text().matches("--credential environment").count(), 1, "{}", home.text());
    // Without a selection, options apply to all host entries.
    assert_eq!(home.changes(&["--user", "all"]), ["changed db01: user", "changed web01: user"]);
    home.succeed(&["web02"]);
    assert_eq!(home.text().matches("\"user\":\"all\"").count(), 4, "{}", home.text());
}

#[test]
fn the_last_value_of_an_option_applies() {
    let machine = |name: &str, group: &str| Machine::new(name).resource_group(group).tag("env", "prod");
    let w = lab_with(&[], |builder| {
        builder.machine(machine("web01", "rg-web")).machine(machine("db01", "rg-db"))
    });
    let home = Home::new(&w);
    home.succeed(&["-g", "rg-web", "--user", "a", "--port", "2222"]);
    home.succeed(&["--all", "--user", "b"]);
    assert_eq!(home.changes(&["-g", "RG-WEB", "--user", "c"]), ["changed web01: user"]);
    assert_eq!(home.changes(&["--all"]), [""; 0], "a selector without options changes no entry");
    assert_eq!(home.changes(&["--tag", "ENV=prod"]), [""; 0]);
    let effective =
        ["web01", "db01"].map(|name| (home.effective(name, "user"), home.effective(name, "port")));
    assert_eq!(effective, [("c".into(), "2222".into()), ("b".into(), "22".into())]);
    assert_eq!(home.changes(&["--all", "--user", "d"]), ["changed db01: user", "changed web01: user"]);
    assert_eq!(home.effective("web01", "port"), "2222");
}

#[test]
fn changed_names_are_listed_first() {
    let w = lab_with(&[], |builder| {
        let builder = (0..25).fold(builder, |builder, n| builder.machine(Machine::new(&format!("m{n:02}"))));
        builder.machine(Machine::new("zone.example.com"))
    });
    let changes = Home::new(&w).changes(&["--all"]);
    assert!(
        changes[0].starts_with("added zone.example.com.rg-arc (rg-arc/zone.example.com); "),
        "{changes:?}"
    );
    assert_eq!((changes.len(), changes.last().unwrap().as_str()), (11, "added 16 more"));
}

/// Runs `arcssh config` against the emulator of another lab, with the same machines or fewer.
fn config_in(home: &Home<'_>, w: &Lab, arguments: &[&str]) -> Run {
    run(home.arcssh(arguments).envs(w.emulator().environment()))
}

#[test]
fn a_host_entry_is_removed_only_if_the_user_agrees() {
    let w = lab(&["web01", "web02"]);
    let home = Home::new(&w);
    home.succeed(&["-g", "rg-arc"]);
    let fewer = lab(&["web01"]);
    let text = home.text();
    let denied = config_in(&home, &fewer, &[]);
    assert_eq!((denied.code, home.text()), (Some(1), text.clone()), "{}", denied.stderr);
    assert!(
        denied
            .stderr
            .starts_with("arcssh: remove web02 (rg-arc/web02); the account does not see the machine\n"),
        "{}",
        denied.stderr
    );
    assert!(
        denied.stderr.contains("there is no terminal to ask for confirmation\narcssh: hint: to confirm without a question, add --yes\n")
    );
    let dry_run = config_in(&home, &fewer, &["--dry-run"]);
    assert!(dry_run.code == Some(1) && dry_run.stderr.contains("arcssh: remove web02"), "{}", dry_run.stderr);
    assert_eq!(home.text(), text);

    let mut terminal = home.command("script");
    terminal.envs(fewer.emulator().environment());
    let (code, screen) = on_a_terminal(terminal, &format!("'{ARCSSH}' config"));
    assert!(
        home.with_tilde(&screen).contains("arcssh: remove 1 host entry from ~/.ssh/config? [y/N]"),
        "{screen}"
    );
    assert!(
        code == Some(1)
            && screen.contains("arcssh: nothing was changed: you did not confirm the changes\r\n"),
        "{screen}"
    );
    assert_eq!(home.text(), text);

    let agreed = config_in(&home, &fewer, &["--yes"]);
    assert_eq!((agreed.code, home.hosts()), (Some(0), vec!["web01".to_owned()]), "{}", agreed.stderr);
    let removed = "arcssh: removed web02 (rg-arc/web02); the account does not see the machine\n";
    assert!(agreed.stderr.starts_with(removed), "{}", agreed.stderr);
}

#[test]
fn an_account_without_visible_machines_removes_no_entry() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["--all"]);
    let text = home.text();
    let empty = ArmFault::raw(200, "application/json", r#"{"data":[]}"#).on(ArmCall::ResourceGraph).times(2);
    w.emulator().arm_fault(empty);
    let denied = home.config(&[]);
    assert_eq!((denied.code, home.text()), (Some(1), text.clone()), "{}", denied.stderr);
    let message = "arcssh: the account sees no Arc machine; arcssh keeps the selection for the next run\n";
    assert!(denied.stderr.contains(message), "{}", denied.stderr);
    w.emulator().clear_faults();
    assert_eq!(home.succeed(&[]), "arcssh: ~/.ssh/config is up to date\n");
}

#[test]
fn a_long_list_of_changes_ends_with_a_count() {
    let names: Vec<String> = (0..25).map(|n| format!("web{n:02}")).collect();
    let w = lab_with(&[], |builder| {
        names.iter().fold(builder, |builder, name| builder.machine(Machine::new(name)))
    });
    let home = Home::new(&w);
    let changes = home.changes(&["--all"]);
    assert_eq!((changes.len(), changes[10].as_str()), (11, "added 15 more"), "{changes:?}");
}

/// A text of format 1 with the comments and lines that arcssh writes now.
pub(crate) fn as_written_now(text: &str) -> String {
    let certificate = "    PubkeyAuthentication yes\n    PubkeyAcceptedKeyTypes +rsa-sha2-512-cert-v01@openssh.com,rsa-sha2-256-cert-v01@openssh.com\n";
    [
        (
            "# Any machine, found by its name when it is connected to.",
            "# Finds any machine by its name when you connect.",
        ),
        ("    ProxyCommand ", "    ProxyUseFdpass no\n    ProxyCommand "),
        ("--host %n", "--host %h"),
        ("\nHost *.arc\n", "\nHost *.arc\n    HostName %h\n    CanonicalizeHostname no\n"),
        ("    IdentitiesOnly no\n", &format!("    IdentitiesOnly no\n{certificate}")),
        ("    IdentitiesOnly yes\n", &format!("    IdentitiesOnly yes\n{certificate}")),
        (
            "# What follows is for every host again.\nHost *\n# <<< arcssh <<<\n",
            "# End of the arcssh host entries.\nHost *\n# <<< arcssh <<<\n# The settings below apply to all hosts.\nHost *\n",
        ),
    ]
    .iter()
    .fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
}

/// The managed block in format 1, in which each run replaced the options of the last one.
fn block_of_format_1() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config-block-1.conf");
    let text = fs::read_to_string(file).unwrap();
    text.replace("{arcssh}", ARCSSH).replace("{subscription}", arcssh_emulator::SUBSCRIPTION)
}

#[test]
fn a_block_of_format_1_is_read_refreshed_and_removed() {
    let w = lab_with(&[], |builder| {
        builder
            .machine(Machine::new("web01").vm_id("aaaaaaaa-0000-4000-8000-000000000001"))
            .machine(Machine::new("WIN01").vm_id("AAAAAAAA-0000-4000-8000-000000000002").os_name("windows"))
            .machine(Machine::new("bare").without_vm_id())
    });
    let old = block_of_format_1();
    let home = Home::with(&w, &format!("{old}\nHost other\n"));
    fs::create_dir(home.path.join("my keys")).unwrap();
    fs::write(home.path.join("my keys/id"), "").unwrap();
    let mut changes =
        ["bare", "web01", "win01"].map(|host| format!("changed {host}: proxyusefdpass")).to_vec();
    changes.push("changed *.arc: canonicalizehostname, hostname, proxycommand, proxyusefdpass".into());
    assert_eq!(home.changes(&[]), changes);
    let new = home.text();
    assert!(new.starts_with("# >>> arcssh >>> block 2: "), "{new}");
    let entries = |text: &str| {
        let lines = text.lines().skip_while(|line| !line.is_empty());
        lines.filter(|line| !line.starts_with("# options ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(entries(&new), entries(&as_written_now(&format!("{old}\nHost other\n"))));
    assert_eq!(home.succeed(&[]), "arcssh: ~/.ssh/config is up to date\n");
    assert_eq!(home.changes(&["web01", "--user", "me"]), ["changed web01: user"]);
    assert_eq!(home.effective("bare", "user"), "CONTOSO\\me");

    fs::write(home.file(), format!("{old}\nHost other\n")).unwrap();
    home.succeed(&["--remove", "WIN01"]);
    assert_eq!(home.hosts(), ["bare", "web01", "*.arc", "other"]);
    assert_eq!(home.succeed(&[]).lines().count(), 1);
    home.succeed(&["--remove"]);
    assert_eq!(home.text(), "Host other\n");
}

#[test]
fn ssh_connects_through_the_written_entry() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let port = w.sshd().port().to_string();
    let key = w.sshd().client_key().display().to_string();
    home.succeed(&["web01", "--port", &port, "--identity", &key, "--wildcard", "*.arc"]);
    let known_hosts = w.home().join(".ssh/known_hosts");
    let mut ssh = home.command("ssh");
    ssh.arg("-F").arg(home.file()).arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    ssh.args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "web01", "echo reached"]);
    assert_eq!(run(&mut ssh).clean(), "reached\n");
}

#[test]
fn the_program_of_another_computer_is_in_the_entries_of_later_runs_too() {
    let w = lab(&["web01", "web02"]);
    let config = |arguments: &[&str]| {
        let mut config = w.arcssh(&["config", "--platform", "windows", "--user", "me", "--file", "hosts"]);
        run(config.args(arguments))
    };
    let note = "arcssh: the host entries contain the path of arcssh on this computer; to set another one: --program PATH";
    assert!(config(&["web01"]).stderr.contains(note));
    let added = config(&["web01", "--program", r"C:\Program Files\arcssh\arcssh.exe"]);
    assert!(added.code == Some(0) && !added.stderr.contains(note), "{}", added.stderr);
    assert_eq!(config(&["web02"]).code, Some(0));
    let text = fs::read_to_string(w.home().join("hosts")).unwrap();
    let line = r#"    ProxyCommand "C:/Program Files/arcssh/arcssh.exe" proxy /subscriptions/"#;
    assert_eq!(text.matches(line).count(), 2, "{text}");
}
