//! VS Code's way to connect, and the npm parser with which editors list ssh hosts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use arcssh_emulator::Machine;
use serde_json::Value;

use super::{Configuration, add_sshd, installed, user};
use crate::support::{Lab, Limited, ended, eventually, finish, free_port, lab, lab_with, noise, run, signal};

/// Replaces VS Code's server: prints its loopback port, and ends with its window.
const SERVER: &str = "\
python3 -u -m http.server 0 --bind 127.0.0.1 --directory DIRECTORY 2>/dev/null &
trap 'kill $!' EXIT
";

#[test]
fn two_windows_of_vs_code_use_separate_servers() {
    let w = lab(&["web01"]);
    let hosts = Configuration::generate(&w, &["web01"]);
    let served = w.home().join("served");
    fs::create_dir(&served).unwrap();
    let bytes = noise(5 << 20);
    fs::write(served.join("extension.vsix"), &bytes).unwrap();

    let first = Window::open(&hosts);
    let second = Window::open(&hosts);
    assert_eq!(w.emulator().open_connections(), 2);
    // Windows that install the same extension download it at the same time.
    let fetches = [&first, &second, &first, &second].map(|window| window.fetch(&w, "extension.vsix"));
    for fetch in fetches {
        let fetched = finish(fetch);
        assert_eq!((fetched.code, fetched.stderr.as_str()), (Some(0), ""));
        assert!(fetched.stdout == bytes);
    }
    let servers = [first.server, second.server];
    first.close();
    let fetched = finish(second.fetch(&w, "extension.vsix"));
    assert!(fetched.stdout == bytes, "the second window lost its connection: {}", fetched.stderr);
    second.kill();
    for port in servers {
        let ended = || TcpStream::connect(("127.0.0.1", port)).is_err();
        assert!(eventually(Duration::from_secs(10), ended), "a server still runs without its window");
    }
    assert!(eventually(Duration::from_secs(10), || w.sshd().sessions() == 0), "sshd still has a session");
}

#[test]
fn vs_code_windows_log_in_with_one_certificate() {
    let w = lab(&["web01"]);
    let hosts = Configuration::with_certificates(&w, "--entra", &["web01"]);
    let served = w.home().join("served");
    fs::create_dir(&served).unwrap();
    fs::write(served.join("extension.vsix"), noise(1 << 20)).unwrap();
    let (first, second) = (Window::open(&hosts), Window::open(&hosts));
    // The agent of the first window ends with it. The third window uses the agent of the second.
    first.close();
    let third = Window::open(&hosts);
    for window in [&second, &third] {
        assert_eq!(finish(window.fetch(&w, "extension.vsix")).code, Some(0));
    }
    second.close();
    third.close();
}

/// `ssh -T -D PORT alias bash` with a script on standard input, which has printed its HTTP port.
struct Window {
    ssh: Child,
    stdin: ChildStdin,
    socks: u16,
    server: u16,
}

impl Window {
    fn open(hosts: &Configuration<'_>) -> Self {
        let socks = free_port();
        let mut ssh = hosts.program("ssh");
        ssh.args(["-T", "-D", &socks.to_string(), "-o", "ConnectTimeout=15", "web01", "bash"]);
        let mut ssh =
            ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = ssh.stdin.take().unwrap();
        let directory = hosts.lab.home().join("served").display().to_string();
        stdin.write_all(SERVER.replace("DIRECTORY", &directory).as_bytes()).unwrap();
        let mut greeting = String::new();
        BufReader::new(Limited(ssh.stdout.as_mut().unwrap())).read_line(&mut greeting).unwrap();
        let port = greeting.split_whitespace().skip_while(|word| *word != "port").nth(1);
        let Some(server) = port.and_then(|port| port.parse().ok()) else {
            drop(stdin);
            panic!("the server does not start: {greeting}{}", finish(ssh).stderr)
        };
        Self { ssh, stdin, socks, server }
    }

    /// Starts a download from the server through the SOCKS port.
    fn fetch(&self, w: &Lab, file: &str) -> Child {
        let mut curl = w.command("curl");
        curl.args(["-sSf", "--max-time", "60", "--socks5-hostname", &format!("127.0.0.1:{}", self.socks)]);
        curl.arg(format!("http://127.0.0.1:{}/{file}", self.server));
        curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Closes the window: the script reads end of input.
    fn close(self) {
        drop(self.stdin);
        let closed = finish(self.ssh);
        assert_eq!((closed.code, closed.stderr.as_str()), (Some(0), ""));
    }

    /// VS Code ends, and kills ssh.
    fn kill(mut self) {
        signal(self.ssh.id(), "TERM");
        ended(&mut self.ssh);
    }
}

/// The versions of npm's ssh-config in use. Other editors update later than VS Code.
const SSH_CONFIG: &str = r#"{
  "private": true,
  "dependencies": { "ssh-config": "5.3.0", "ssh-config-4": "npm:ssh-config@4.4.4" }
}"#;

#[test]
fn the_parser_of_editors_lists_the_written_hosts() {
    let added = |name: &str, group: &str| Machine::new(name).resource_group(group);
    let w = lab_with(&["web01"], |b| b.machine(added("Web02", "rg-b")).machine(added("db", "rg-a")));
    add_sshd(&w, "web02");
    let hosts = Configuration::generate(&w, &["--all", "--wildcard", "*.arc"]);
    for package in ["ssh-config", "ssh-config-4"] {
        let listed = parse(&w, package, &hosts.file);
        // Editors do not list patterns, such as the user's `*`.
        let aliases: Vec<&str> = listed.keys().map(String::as_str).filter(|a| !a.contains('*')).collect();
        assert_eq!(aliases, ["Web02", "db", "web01", "web02"], "{package}");
        for alias in aliases {
            let machine = w.emulator().machine(alias);
            let read = |keyword: &str| listed[alias][keyword].as_str().unwrap_or_default().to_owned();
            assert_eq!(read("User"), user());
            assert_eq!(read("Port"), w.sshd().port().to_string());
            assert_eq!(read("HostName"), alias.to_lowercase());
            let id = machine.vm_id().unwrap();
            assert_eq!(read("HostKeyAlias"), format!("{}.{id}", alias.to_lowercase()));
            let expected = format!("{} proxy {} --port %p", crate::support::ARCSSH, machine.resource_id());
            assert_eq!(read("ProxyCommand"), expected, "{package}");
        }
        let key = w.sshd().client_key().display().to_string();
        assert_eq!(listed["web01"]["IdentityFile"], serde_json::json!([key]), "{package}");
    }
}

#[test]
fn the_parser_of_editors_accepts_match_exec() {
    let w = lab_with(&["web01"], |b| b.machine(Machine::new("web02")));
    add_sshd(&w, "web02");
    let hosts = Configuration::with_certificates(&w, "--entra=files", &["--all"]);
    for package in ["ssh-config", "ssh-config-4"] {
        let listed = parse(&w, package, &hosts.file);
        let aliases: Vec<&str> = listed.keys().map(String::as_str).filter(|a| !a.contains('*')).collect();
        assert_eq!(aliases, ["web01", "web02"], "{package}");
        for alias in aliases {
            assert_eq!(listed[alias]["User"], user().as_str(), "{package}");
            assert_eq!(listed[alias]["IdentitiesOnly"], "yes", "{package}");
        }
    }
    assert_eq!(hosts.ssh(&["web02", "echo reached"]).clean(), "reached\n");
}

/// The Azure Arc extension of VS Code parses and writes the configuration with ssh-config.
#[test]
fn the_block_survives_changes_by_the_parser_of_editors() {
    let own = "Include config.d/*\nServerAliveInterval 33\n\nHost other\n    Port 7\n";
    let new = r#"{"Host":"new","HostName":"new.example.com","User":"me"}"#;
    let edits: [&[&str]; 7] = [
        &["append", new],
        &["prepend", new],
        &["prepend", new, "true"],
        &["remove", r#"{"Host":"other"}"#],
        &["remove", r#"{"Host":"web01"}"#],
        &["remove", r#"{"Host":"web02"}"#],
        &["remove", r#"{"Host":"*.arc"}"#],
    ];
    let w = lab_with(&["web01"], |b| b.machine(Machine::new("web02")));
    for (options, package) in
        [("--all", "ssh-config"), ("--entra=files", "ssh-config"), ("--all", "ssh-config-4")]
    {
        for edit in edits {
            let hosts = Configuration { lab: &w, file: w.home().join("edited.conf") };
            fs::write(&hosts.file, own).unwrap();
            let config = |arguments: &[&str]| {
                let config = hosts.config(arguments);
                assert_eq!(config.code, Some(0), "{package} {edit:?}: {}", config.stderr);
            };
            let all: &[&str] = if options == "--all" { &[] } else { &["--all"] };
            config(&[&[options, "--wildcard", "*.arc"], all].concat());
            let before = hosts.text();
            fs::write(w.home().join("edit.js"), include_str!("edit.js")).unwrap();
            let mut node = w.command("node");
            node.arg("edit.js").arg(package).arg(&hosts.file).args(edit);
            run(node.env("NODE_PATH", install().join("node_modules"))).clean();
            config(&[]);
            let after = hosts.text();
            let block = |text: &str| {
                let from = text.find("# >>> arcssh").unwrap();
                text[from..text.find("# <<< arcssh").unwrap()].to_owned()
            };
            assert_eq!(block(&after), block(&before), "{package} {edit:?}");
            assert_eq!(after.matches(" arcssh >>>").count(), 1, "{after}");
            let verified = run(w.arcssh(&["config", "--verify", "--file"]).arg(&hosts.file));
            assert_eq!(verified.code, Some(0), "{package} {edit:?}: {}", verified.stderr);
            let value = |alias: &str, keyword: &str| {
                let text = hosts.ssh(&["-T", "-G", alias]).clean();
                let line = text.lines().find_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '));
                line.unwrap_or_default().to_owned()
            };
            assert_eq!(value("unrelated", "serveraliveinterval"), "33", "{package} {edit:?}: {after}");
            let added = if edit[0] == "remove" { "new" } else { "new.example.com" };
            assert_eq!(value("new", "hostname"), added, "{package} {edit:?}: {after}");
            let removed = edit[1].contains("other");
            assert_eq!(value("other", "port"), if removed { "22" } else { "7" }, "{package} {edit:?}");
        }
    }
}

#[test]
fn the_block_survives_the_removal_of_a_section_above_it() {
    let new = r#"{"Host":"new","HostName":"new.example.com"}"#;
    let w = lab_with(&["web01"], |b| b.machine(Machine::new("web02")));
    for package in ["ssh-config", "ssh-config-4"] {
        let hosts = Configuration { lab: &w, file: w.home().join("edited.conf") };
        fs::write(&hosts.file, "Host other\n    Port 7\n").unwrap();
        assert_eq!(hosts.config(&["--all", "--entra=files", "--wildcard", "*.arc"]).code, Some(0));
        let before = hosts.text();
        fs::write(w.home().join("edit.js"), include_str!("edit.js")).unwrap();
        for edit in [["prepend", new], ["remove", r#"{"Host":"new"}"#]] {
            let mut node = w.command("node");
            node.arg("edit.js").arg(package).arg(&hosts.file).args(edit);
            run(node.env("NODE_PATH", install().join("node_modules"))).clean();
        }
        let edited = hosts.text();
        assert!(!edited.contains(">>> arcssh >>>"), "{package} removed the first marker: {edited}");
        let verified = run(w.arcssh(&["config", "--verify", "--file"]).arg(&hosts.file));
        assert_eq!(verified.code, Some(0), "{package}: {}", verified.stderr);
        let config = hosts.config(&[]);
        assert_eq!((config.code, hosts.text()), (Some(0), before), "{package}: {}", config.stderr);
    }
}

/// The hosts of an ssh configuration, as this version of the parser lists them.
fn parse(w: &Lab, package: &str, configuration: &Path) -> BTreeMap<String, Value> {
    fs::write(w.home().join("hosts.js"), include_str!("hosts.js")).unwrap();
    let mut node = w.command("node");
    node.arg("hosts.js").arg(package).arg(configuration).env("NODE_PATH", install().join("node_modules"));
    serde_json::from_str(&run(&mut node).clean()).unwrap()
}

fn install() -> PathBuf {
    installed("ssh-config-5.3.0-4.4.4", |directory| {
        fs::write(directory.join("package.json"), SSH_CONFIG).unwrap();
        let install = ["install", "--no-audit", "--no-fund", "--ignore-scripts"];
        let npm = Command::new("npm").args(install).current_dir(directory).output();
        let npm = npm.expect("this test needs npm and node: install Node.js");
        assert!(
            npm.status.success(),
            "npm could not install ssh-config: {}",
            String::from_utf8_lossy(&npm.stderr)
        );
    })
}
