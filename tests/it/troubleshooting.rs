//! docs/TROUBLESHOOTING.md quotes actual messages of ssh, and notes of arcssh.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use arcssh_emulator::Role;

use crate::support::{ARCSSH, Lab, lab, lab_with, run, script};

const DOCUMENT: &str = include_str!("../../docs/TROUBLESHOOTING.md");
/// Returns the source of the program.
fn source(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { source(&path) } else { fs::read_to_string(path).unwrap() })
        .collect()
}

/// The texts in backticks in the first column of the tables.
fn quoted(part: &str) -> Vec<&str> {
    let rows = part.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| row.split(" | ").next().unwrap_or_default().split('`').skip(1).step_by(2)).collect()
}

/// Unit tests of `diagnosis` check the tables of errors.
#[test]
fn every_documented_note_is_in_the_source() {
    let source = source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let (_, section) = DOCUMENT.split_once("\n### Notes of ").unwrap();
    let texts = quoted(section);
    assert!(texts.len() > 10, "{} texts", texts.len());
    let exists = |text: &&str| text.split('…').all(|piece| source.contains(piece.trim()));
    let unknown: Vec<&str> = texts.into_iter().filter(|text| !exists(text)).collect();
    assert!(unknown.is_empty(), "not in the source: {unknown:#?}");
}

/// Asserts that ssh prints these texts, and that the document quotes them.
#[track_caller]
fn prints(ssh: &mut Command, texts: &[&str]) {
    let run = run(ssh);
    let quotes = quoted(DOCUMENT);
    for text in texts {
        assert!(quotes.iter().any(|quote| matches(quote, text)), "{text} is not documented");
        assert!(run.stderr.contains(text), "{text}: {}", run.stderr);
    }
}

/// Returns whether a quote with ellipses matches a text.
fn matches(quote: &str, text: &str) -> bool {
    let mut pieces = quote.split('…');
    let mut rest = text.strip_prefix(pieces.next().unwrap_or_default());
    for piece in pieces {
        rest = rest.and_then(|rest| Some(rest.split_once(piece)?.1));
    }
    rest.is_some()
}

fn ssh(w: &Lab, options: &[&str]) -> Command {
    let mut ssh = w.ssh();
    ssh.args(options.iter().flat_map(|option| ["-o", option])).args(["web01", "true"]);
    ssh
}

#[test]
fn quotes_of_ssh_after_the_end_of_arcssh() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    prints(
        &mut ssh(&w, &[]),
        &[
            "Connection closed by UNKNOWN port 65535",
            "kex_exchange_identification: Connection closed by remote host",
        ],
    );
    prints(
        ssh(&w, &["ProxyCommand=arcssh proxy"]).env("SHELL", "/bin/sh"),
        &["exec: arcssh: not found"], // ssh's next message depends on whether it wrote before the shell ended
    );
}

#[test]
fn quotes_of_ssh_about_its_shell() {
    let w = lab(&["web01"]);
    let verbose = |shell: &str| {
        let mut ssh = ssh(&w, &["LogLevel=VERBOSE"]);
        ssh.env("SHELL", shell);
        ssh
    };
    // It reads ssh's first line, because ssh's message depends on whether ssh wrote before the shell ended.
    script(w.home(), "nologin", "#!/bin/sh\nread -r line\nexit 1\n");
    let nologin = w.home().join("nologin");
    prints(&mut verbose(nologin.to_str().unwrap()), &["Connection closed by UNKNOWN port 65535"]);
    fs::write(w.home().join(".zshenv"), "printf noise").unwrap();
    let texts = [
        "kex_exchange_identification: banner line contains invalid characters",
        "banner exchange: Connection to UNKNOWN port 65535: invalid format",
    ];
    prints(&mut verbose("/usr/bin/zsh"), &texts);
}

#[test]
fn quotes_of_ssh_about_its_timeouts() {
    let w = lab_with(&["web01"], |builder| builder.listener_delay(Duration::from_secs(30)));
    prints(
        &mut ssh(&w, &["ConnectTimeout=1"]),
        &["Connection timed out during banner exchange", "Connection to UNKNOWN port 65535 timed out"],
    );
}

#[test]
fn quotes_of_ssh_about_keys() {
    let w = lab(&["web01"]);
    prints(&mut ssh(&w, &["PubkeyAuthentication=no"]), &["Permission denied (publickey"]);
    let open = "Permissions 0666 for '/dev/null' are too open.";
    prints(&mut ssh(&w, &["IdentityFile=/dev/null"]), &[open]);
    let known_hosts = w.home().join(".ssh/known_hosts");
    let known = fs::read_to_string(&known_hosts).unwrap();
    fs::write(&known_hosts, "").unwrap();
    prints(
        &mut ssh(&w, &["StrictHostKeyChecking=yes"]),
        &[
            "host key is known for web01 and you have requested strict checking.",
            "Host key verification failed.",
        ],
    );
    // The client's key as host key: another key of the same type.
    let other = fs::read_to_string(w.sshd().client_key().with_extension("pub")).unwrap();
    let key: Vec<&str> = other.split_whitespace().take(2).collect();
    let names: Vec<&str> = known.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let changed: String = names.iter().map(|name| format!("{name} {}\n", key.join(" "))).collect();
    fs::write(&known_hosts, changed).unwrap();
    prints(
        &mut ssh(&w, &[]),
        &["WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!", "Host key verification failed."],
    );
}

#[test]
fn quotes_of_ssh_about_too_many_keys() {
    let w = lab(&["web01"]);
    let key = |number: usize| {
        let key = w.home().join(format!("key{number}"));
        run(Command::new("ssh-keygen").args(["-qt", "ed25519", "-N", "", "-f"]).arg(&key)).clean();
        format!("IdentityFile={}", key.display())
    };
    let keys: Vec<String> = (0..7).map(key).collect();
    let options: Vec<&str> = keys.iter().map(String::as_str).collect();
    prints(&mut ssh(&w, &options), &["Too many authentication failures"]);
}

#[test]
fn quotes_of_ssh_about_unexpected_bytes_and_sockets() {
    let w = lab(&["web01"]);
    let after_the_greeting = r#"{ IFS= read -r greeting; echo "$greeting"; echo noise; cat; }"#;
    let noisy = format!("{ARCSSH} proxy {} --port %p | {after_the_greeting}", w.id());
    prints(&mut ssh(&w, &[&format!("ProxyCommand={noisy}")]), &["Bad packet length 1852795251"]);
    script(w.home(), "noisy", "#!/bin/sh\necho noise\nexec cat > /dev/null\n");
    prints(w.command("sftp").args(["-D", "./noisy"]), &["Received message too long 1852795251"]);
    let socket = w.home().join("dead");
    drop(UnixListener::bind(&socket).unwrap());
    let refused = format!("Control socket connect({}): Connection refused", socket.display());
    prints(&mut ssh(&w, &[&format!("ControlPath={}", socket.display())]), &[&refused]);
}

#[test]
fn quotes_of_ssh_about_its_configuration() {
    let w = lab(&["web01"]);
    prints(&mut ssh(&w, &["ProxyCommand=arcssh %f"]), &["vdollar_percent_expand: unknown key %f"]);
    prints(w.ssh().args(["unknown.invalid", "true"]), &["Could not resolve hostname unknown.invalid"]);
    let configuration = fs::read_to_string(w.configuration()).unwrap();
    fs::write(w.configuration(), format!("Prroxy none\n{configuration}")).unwrap();
    prints(&mut ssh(&w, &[]), &["Bad configuration option: prroxy"]);
}
