//! Files that the user names: arcssh damages none of them, never blocks on one, and reads none without limit.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::{Lab, Run, lab, run};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn make_fifo(w: &Lab, name: &str) -> std::path::PathBuf {
    let path = w.home().join(name);
    run(w.command("mkfifo").args(["-m", "600"]).arg(&path)).clean();
    path
}

fn run_with_log(w: &Lab, file: &Path) -> Run {
    run(w.arcssh(&["version", "--log-file"]).arg(file))
}

#[test]
fn a_log_file_is_private_and_appended_to() {
    let w = lab(&["web01"]);
    let log = w.home().join("arcssh.log");
    let list = || run(w.arcssh(&["list", "--log-file"]).arg(&log));
    assert_eq!(list().code, Some(0));
    let first = fs::read_to_string(&log).unwrap();
    assert!(mode(&log) == 0o600 && first.contains(" INFO "), "{first}");
    assert_eq!(list().code, Some(0));
    let second = fs::read_to_string(&log).unwrap();
    assert!(second.starts_with(&first) && second.len() > first.len());
    write(&log, "", 0o600);
    assert_eq!(list().code, Some(0), "an empty file is accepted as log");
}

#[test]
fn a_file_that_is_not_a_log_is_unchanged() {
    let w = lab(&["web01"]);
    let path = |name: &str| w.home().join(name);
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
    write(&path("id_rsa"), key, 0o600);
    symlink("id_rsa", path("link")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    write(&path("twice"), "", 0o600);
    fs::hard_link(path("twice"), path("hard")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    make_fifo(&w, "fifo");
    write(&path("open"), "", 0o644);
    write(&path("notes"), "notes", 0o644);
    let cannot =
        |name: &str, why: &str| format!("arcssh: cannot write the log file {}: {why}", path(name).display());
    let cases = [
        (
            "id_rsa",
            format!(
                "arcssh: the log file {} contains other data than a log of arcssh",
                path("id_rsa").display()
            ),
        ),
        (
            "notes",
            format!(
                "arcssh: the log file {} contains other data than a log of arcssh",
                path("notes").display()
            ),
        ),
        ("link", cannot("link", "it is a symbolic link")),
        ("dangling", cannot("dangling", "it is a symbolic link")),
        ("hard", cannot("hard", "it is a hard link")),
        ("directory", cannot("directory", "it is not a regular file")),
        ("socket", cannot("socket", "it is not a regular file")),
        ("fifo", cannot("fifo", "it is not a regular file")),
        ("/dev/null", cannot("/dev/null", "it is not a regular file")),
        ("/dev/zero", cannot("/dev/zero", "it is not a regular file")),
        ("missing/log", cannot("missing/log", "No such file or directory (os error 2)")),
        (
            "open",
            format!("arcssh: other users can access the log file {} (mode 0644)", path("open").display()),
        ),
    ];
    for (name, why) in cases {
        let run = run_with_log(&w, &path(name));
        let lines = run.arcssh_lines();
        assert!(run.code == Some(1) && lines.len() == 2 && lines[0] == why, "{name}: {}", run.stderr);
        assert!(lines[1].starts_with("arcssh: hint: "), "{}", lines[1]);
    }
    assert!(!path("nowhere").exists());
    assert_eq!(fs::read_to_string(path("id_rsa")).unwrap(), key);
    assert_eq!(mode(&path("open")), 0o644);
}

#[test]
fn a_log_file_of_another_user_is_not_written() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can make one
    }
    let w = lab(&["web01"]);
    let log = w.home().join("log");
    write(&log, "", 0o600);
    std::os::unix::fs::chown(&log, Some(65534), None).unwrap();
    let run = run_with_log(&w, &log);
    assert!(run.code == Some(1) && run.stderr.contains("it belongs to another user"), "{}", run.stderr);
    assert_eq!(fs::read(&log).unwrap(), b"");
}

/// A FIFO without a writer: opening it blocks.
#[test]
fn no_named_file_blocks_arcssh_or_is_read_without_limit() {
    let w = lab(&["web01"]);
    let fifo = make_fifo(&w, "fifo");
    for file in [fifo.to_str().unwrap(), "/dev/zero", w.home().to_str().unwrap()] {
        let assert_rejected = |name: &str, run: Run| {
            let why = "it is not a regular file";
            assert!(
                run.code.is_some_and(|code| code != 0) && run.stderr.contains(why),
                "{name} {file}: {}",
                run.stderr
            );
        };
        assert_rejected("relay information", run(&mut w.arcssh(&["-r", file])));
        assert_rejected("template", run(&mut w.arcssh(&["config", "--all", "--template", file])));
        assert_rejected("configuration", run(&mut w.arcssh(&["config", "--all", "--file", file])));
        assert_rejected("public key", run(&mut w.arcssh(&["cert", "--public-key", file])));
        for variable in ["AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"] {
            let mut list = w.arcssh(&["list"]);
            list.env_remove("AZURE_CLIENT_SECRET").env(variable, file);
            if variable == "AZURE_FEDERATED_TOKEN_FILE" {
                list.env("ARCSSH_CREDENTIAL", "workload-identity");
            }
            assert_rejected(variable, run(&mut list));
        }
    }
}

#[test]
fn manual_pages_replace_only_manual_pages() {
    let w = lab(&["web01"]);
    let man = w.home().join("man1");
    let write_manual = || run(w.arcssh(&["man"]).arg(&man));
    write_manual().clean();
    write_manual().clean();
    assert_eq!(mode(&man.join("arcssh.1")), 0o644);
    for stray in ["file", "link"] {
        let page = man.join("arcssh-list.1");
        fs::remove_file(&page).unwrap();
        let own_file = w.home().join("own");
        fs::write(&own_file, "own").unwrap();
        match stray {
            "file" => fs::write(&page, "own").unwrap(),
            _ => symlink(&own_file, &page).unwrap(),
        }
        let run = write_manual();
        assert!(
            run.code == Some(1) && run.stderr.contains("arcssh-list.1 is not a manual page of arcssh"),
            "{}",
            run.stderr
        );
        assert_eq!(
            (fs::read_to_string(&page).unwrap(), fs::read_to_string(&own_file).unwrap()),
            ("own".into(), "own".into())
        );
    }
}

#[test]
fn a_key_that_arcssh_did_not_write_is_not_overwritten() {
    let w = lab(&["web01"]);
    let cert = || run(&mut w.arcssh(&["cert", "--file", "pair-cert.pub"]));
    let key = w.home().join("pair");
    cert().clean();
    w.clear_cache();
    cert().clean();
    let first_key = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    run(w.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", "pair"])).clean();
    let foreign_key = fs::read(&key).unwrap();
    let refused = cert();
    assert!(
        refused.code == Some(1)
            && refused.stderr.contains(
                "arcssh: cannot overwrite pair: arcssh did not create it\narcssh: hint: name another file with --file\n"
            ),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read(&key).unwrap(), foreign_key);
    // arcssh was stopped between the two writes: the old key is replaced.
    write(&key, std::str::from_utf8(&first_key).unwrap(), 0o600);
    w.clear_cache();
    cert().clean();
    assert_ne!(fs::read(&key).unwrap(), first_key);
}

#[test]
fn a_link_to_a_certificate_stays_a_link() {
    let w = lab(&["web01"]);
    let cert = || run(&mut w.arcssh(&["cert", "--file", "link-cert.pub"]));
    fs::create_dir(w.home().join("elsewhere")).unwrap();
    cert().clean();
    let (link, target) = (w.home().join("link-cert.pub"), w.home().join("elsewhere/certificate"));
    fs::rename(&link, &target).unwrap();
    symlink(&target, &link).unwrap();
    let before = fs::read(&target).unwrap();
    w.clear_cache();
    cert().clean();
    assert!(link.is_symlink() && fs::read(&target).unwrap() != before);
}
