//! `arcssh ssh`: the system's ssh, and programs that run it, reach a machine with and without a host entry.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use arcssh_emulator::{Machine, Service};

use crate::config::Home;
use crate::support::{
    ARCSSH, LIMIT, Lab, Limited, Run, connect, ended, eventually, finish, free_port, lab, lab_with, noise,
    run, run_with_input, signal, terminal,
};

/// A user without a host entry, whose configuration has only a key and a port.
pub(crate) struct User<'a> {
    pub(crate) home: Home<'a>,
    w: &'a Lab,
}

impl<'a> User<'a> {
    pub(crate) fn new(w: &'a Lab) -> Self {
        Self::with(w, "")
    }

    /// A user with these lines at the beginning of the configuration.
    fn with(w: &'a Lab, lines: &str) -> Self {
        let text = format!(
            "{lines}Host *\n  Port {}\n  IdentityFile {}\n  StrictHostKeyChecking accept-new\n  HashKnownHosts no\n  BatchMode yes\n",
            w.sshd().port(),
            w.sshd().client_key().display()
        );
        Self { home: Home::with(w, &text), w }
    }

    fn ssh(&self, words: &[&str]) -> Command {
        let mut command = self.home.command(ARCSSH);
        command.arg("ssh").args(words);
        command
    }

    /// The output of a successful run, whose standard error is empty but for ssh's note of a new host key.
    #[track_caller]
    fn output(&self, words: &[&str]) -> String {
        clean(run(&mut self.ssh(words)))
    }

    /// The values that ssh would use.
    #[track_caller]
    fn values(&self, words: &[&str]) -> Vec<String> {
        let output = self.output(&[&["-TG"], words].concat());
        output.lines().map(str::to_owned).collect()
    }

    /// The name of web01's host key.
    fn key_name(&self) -> String {
        format!("web01.{}", self.w.emulator().machine("web01").vm_id().unwrap())
    }

    fn known_hosts(&self) -> String {
        fs::read_to_string(self.home.file().with_file_name("known_hosts")).unwrap_or_default()
    }
}

#[track_caller]
fn clean(mut run: Run) -> String {
    let is_note = |line: &&str| line.starts_with("Warning: Permanently added ");
    run.stderr = run.stderr.lines().filter(|line| !is_note(line)).map(|line| format!("{line}\n")).collect();
    run.clean()
}

#[test]
fn a_machine_without_a_host_entry_is_reached_by_each_of_its_names() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let (me, text) = (whoami(), user.home.text());
    let group = arcssh_emulator::RESOURCE_GROUP;
    for machine in ["web01", "WEB01", &w.id(), &format!("{group}/web01"), &format!("{me}@web01")] {
        assert_eq!(user.output(&[machine, "echo reached"]), "reached\n", "{machine}");
    }
    assert_eq!(user.home.text(), text);
    let known = user.known_hosts();
    let names: Vec<&str> = known.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(!names.is_empty() && names.iter().all(|name| *name == user.key_name()), "{known}");
    // The host entry that arcssh config writes then uses the accepted key.
    user.home.succeed(&["web01"]);
    let strict = ["-T", "-o", "StrictHostKeyChecking=yes", "web01", "echo reached"];
    assert_eq!(run(user.home.command("ssh").args(strict)).clean(), "reached\n");
}

fn whoami() -> String {
    run(Command::new("id").arg("-un")).clean().trim().to_owned()
}

#[test]
fn a_uri_of_ssh_names_the_user_the_machine_and_the_port() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let (me, port) = (whoami(), w.sshd().port());
    assert_eq!(user.output(&[&format!("ssh://{me}@web01:{port}/"), "echo reached"]), "reached\n");
    let has = |words: &[&str], expected: [&str; 2]| {
        let values = user.values(words);
        let has = |line: &&str| values.iter().any(|value| value == line);
        assert!(expected.iter().all(has), "{words:?}: {values:#?}");
    };
    has(&["ssh://ada%40contoso.com@web01:2222"], ["user ada@contoso.com", "port 2222"]);
    has(&["-p", "2200", "-l", "me", "ssh://ada@web01:2222"], ["user me", "port 2200"]);
    has(&["--port", "2200", "ssh://ada@web01:2222"], ["user ada", "port 2200"]);
    user.home.succeed(&["web01", "--user", "me"]);
    has(&["ssh://web01:2222"], ["user me", "port 2222"]);
    has(&["ssh://ada@web01"], ["user ada", &format!("port {port}")]);
    run(&mut user.ssh(&["ssh://web01:port"])).failed(
        2,
        &[
            "arcssh: \"web01:port\" is not a valid name in a resource ID",
            "arcssh: hint: use NAME, GROUP/NAME or a resource ID; to list the IDs, run: arcssh list -o json",
        ],
    );
}

#[test]
fn connecting_changes_nothing_in_azure() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    user.output(&["web01", "true"]);
    let requests = w.emulator().requests_to(Service::Arm);
    assert!(requests.iter().all(|request| request.method == "GET" || request.method == "POST"));
    assert!(!requests.iter().any(|request| request.method == "PUT"));
}

#[test]
fn streams_and_the_exit_status_are_those_of_ssh() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let input = noise(1 << 20);
    let transferred =
        run_with_input(&mut user.ssh(&["web01", "--", "cat; echo problem >&2; exit 7"]), input.clone());
    assert!(transferred.stdout == input);
    assert_eq!(transferred.code, Some(7));
    assert!(transferred.stderr.ends_with("problem\n"), "{}", transferred.stderr);
    for status in [0, 1, 5, 128, 254, 255] {
        assert_eq!(run(&mut user.ssh(&["web01", &format!("exit {status}")])).code, Some(status));
    }
    let signalled = run(&mut user.ssh(&["web01", "kill -TERM $$"]));
    assert_eq!(signalled.code, Some(255), "{}", signalled.stderr);
}

#[test]
fn a_host_entry_is_used_as_it_is() {
    let w = lab(&["web01"]);
    let user = User::with(&w, "Host web01\n  SetEnv LC_FROM=section\n");
    user.home.succeed(&["web01", "--user", "me"]);
    let plain = |words: &[&str]| run(user.home.command("ssh").args(["-TG"]).args(words)).clean();
    assert_eq!(user.values(&["web01"]).join("\n") + "\n", plain(&["web01"]));
    assert_eq!(user.values(&[&w.id()]).join("\n") + "\n", plain(&["web01"]));
    assert_eq!(user.values(&["other@web01", "-4"]).join("\n") + "\n", plain(&["-4", "-l", "other", "web01"]));
    let requests = w.emulator().requests_to(Service::Arm).len();
    assert_eq!(user.output(&["-l", &whoami(), "web01", "echo reached"]), "reached\n");
    let arm = w.emulator().requests_to(Service::Arm);
    assert_eq!(arm.len() - requests, 1, "only listCredentials");
    // Options of arcssh replace those of the entry.
    let text = user.home.text().replace("--port %p", "--port %p --tenant a.example --wait 3");
    fs::write(user.home.file(), text).unwrap();
    let values = user.values(&["web01", "--tenant", "b.example", "--wait", "7", "--verbose"]);
    let command = values.iter().find(|line| line.starts_with("proxycommand ")).unwrap();
    let expected = "--port %p --tenant b.example --wait 7 --verbose";
    assert!(command.ends_with(expected), "{command}");
    assert!(
        values.contains(&"host web01".to_owned()) && values.contains(&"setenv LC_FROM=section".to_owned())
    );
    assert!(values.contains(&format!("hostkeyalias {}", user.key_name())));
}

#[test]
fn a_host_entry_with_another_alias_is_used_too() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    user.home.succeed(&["web01", "--suffix", ".arc", "--user", "me"]);
    let group = arcssh_emulator::RESOURCE_GROUP;
    let expected = user.values(&["web01.arc"]);
    assert!(expected.contains(&"user me".to_owned()), "{expected:?}");
    for machine in ["web01", "WEB01", &w.id(), &format!("{group}/web01")] {
        assert_eq!(user.values(&[machine]), expected, "{machine}");
    }
}

/// The name of a machine says nothing about other hosts of that name, whose sections and shared connections must not apply.
#[test]
fn sections_for_another_host_of_the_same_name_do_not_apply() {
    let w = lab(&["web01"]);
    let lines = "Host web01\n  HostName 192.0.2.1\n  User other\n  ProxyJump bastion\n  HostKeyAlias other\n\
        Host web01.*\n  SetEnv LC_OWN=yes\nMatch all\n  ProxyJump bastion\n  ProxyCommand none\n  \
        CanonicalizeHostname always\n  CanonicalDomains example.com\n  ControlPath ~/.ssh/cm-%C\n  HostName 192.0.2.2\n";
    let user = User::with(&w, lines);
    let values = user.values(&["web01"]);
    let name = user.key_name();
    for expected in [
        &format!("host {name}"),
        &format!("hostname {name}"),
        &format!("hostkeyalias {name}"),
        &format!("user {}", whoami()),
        "canonicalizehostname false",
        "setenv LC_OWN=yes",
    ] {
        assert!(values.iter().any(|line| line == expected), "{expected}: {values:#?}");
    }
    assert!(!values.iter().any(|line| line.starts_with("proxyjump ") && line != "proxyjump none"));
    let control = |values: &[String]| values.iter().find(|line| line.starts_with("controlpath ")).cloned();
    let other = run(user.home.command("ssh").args(["-TG", "-o", "ProxyJump=none", "web01"])).clean();
    let other: Vec<String> = other.lines().map(str::to_owned).collect();
    assert!(control(&values).is_some() && control(&values) != control(&other));
    assert_eq!(user.output(&["web01", "echo $LC_OWN-reached"]).trim_start_matches("yes"), "-reached\n");
}

#[test]
fn options_of_ssh_work_before_and_after_the_machine() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    for words in [
        &["-o", "SetEnv=LC_A=1", "web01", "-T", "echo ok"][..],
        &["-To", "SetEnv=LC_A=1", "web01", "--wait", "20", "echo ok"],
        &["-T", "--wait=20", "web01", "--", "-o", "SetEnv=LC_A=1", "echo ok"],
        &["-T", "--", "web01", "echo ok"],
        &["--user", &whoami(), "-T", "web01", "echo", "ok"],
        &["--", "web01", "echo", "ok"],
        &["web01", "--", "-qT", "--", "echo", "ok"],
        &["-l", &whoami(), "--user", "wrong", "web01", "echo ok"],
    ] {
        assert_eq!(user.output(words), "ok\n", "{words:?}");
    }
    let port = w.sshd().port().to_string();
    for words in
        [&["-p", &port, "web01"][..], &["web01", "--port", &port], &["-p", &port, "--port", "1", "web01"]]
    {
        assert!(user.values(words).contains(&format!("port {port}")), "{words:?}");
    }
    let version = run(Command::new("ssh").arg("-V")).stderr;
    assert_eq!(run(&mut user.ssh(&["-V"])).stderr, version);
    assert_eq!(user.output(&["-Q", "mac"]), run(Command::new("ssh").args(["-Q", "mac"])).clean());
    let jump = run(&mut user.ssh(&["-J", "bastion", "web01", "true"]));
    assert_eq!(jump.code, Some(255));
    assert!(jump.stderr.contains("Cannot specify -J with ProxyCommand"), "{}", jump.stderr);
    for words in [&["web01", "-l"][..], &["-vo"], &["web01", "-4", "--", "-o"]] {
        let incomplete = run(&mut user.ssh(words));
        let letter = words.last().unwrap().chars().last().unwrap();
        let expected = format!("option requires an argument -- {letter}");
        assert!(incomplete.stderr.contains(&expected), "{words:?}: {}", incomplete.stderr);
        assert_eq!(incomplete.code, Some(255));
    }
    let unknown = run(&mut user.ssh(&["web01", "--", "--no-such", "true"]));
    assert_eq!(unknown.code, Some(255));
    assert!(unknown.stderr.contains("usage: ssh "), "{}", unknown.stderr);
}

#[test]
fn verbose_is_of_arcssh_and_v_is_of_ssh() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let of_ssh = run(&mut user.ssh(&["-v", "web01", "true"])).stderr;
    assert!(of_ssh.contains("debug1: ") && !of_ssh.contains("INFO arcssh"), "{of_ssh}");
    for words in [&["web01", "--verbose", "true"][..], &["--verbose", "web01", "true"]] {
        let of_arcssh = run(&mut user.ssh(words)).stderr;
        assert!(!of_arcssh.contains("debug1: ") && of_arcssh.contains("connected"), "{of_arcssh}");
    }
    let mut arcssh = user.home.command(ARCSSH);
    let log = run(arcssh.args(["-v", "--log-file", "a b.log", "ssh", "web01", "true"]));
    assert!(log.stderr.contains("connected"), "{}", log.stderr);
    let file = user.home.file().parent().unwrap().with_file_name("a b.log");
    assert!(fs::read_to_string(file).unwrap().contains("connected"));
}

#[test]
fn rsync_git_and_scp_run_it_as_their_ssh() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let place = user.home.file().parent().unwrap().parent().unwrap().to_owned();
    let at = place.display();
    fs::create_dir(place.join("tree")).unwrap();
    for number in 0..20 {
        fs::write(place.join(format!("tree/{number}")), noise(20_000)).unwrap();
    }
    let shell = format!("{ARCSSH} ssh");
    let rsync = ["-a", "--checksum", "-e", &shell, "tree/", &format!("{}@web01:{at}/copy/", whoami())];
    clean(run(user.home.command("rsync").args(rsync)));
    let script = format!(
        "git init -q -b main repo && cd repo && git -c user.name=a -c user.email=a@b.c commit -q --allow-empty -m first
        cd .. && git clone -q web01:{at}/repo clone && git -C clone log --format=%s
        git -c ssh.variant=ssh clone -q ssh://web01:{}{at}/repo again && git -C again log --format=%s",
        w.sshd().port()
    );
    let mut git = user.home.command("sh");
    git.args(["-euc", &script]).env("GIT_SSH_COMMAND", &shell);
    assert_eq!(clean(run(&mut git)), "first\nfirst\n");
    // scp and sftp run a program without arguments.
    let wrapper = format!("#!/bin/sh\nexec {ARCSSH} ssh \"$@\"\n");
    crate::support::script(&place.join("bin"), "arc", &wrapper);
    for protocol in ["-s", "-O"] {
        let scp = ["-q", protocol, "-S", "bin/arc", "-r", "copy", &format!("web01:{at}/scp{protocol}")];
        clean(run(user.home.command("scp").args(scp)));
        clean(run(user.home.command("diff").args(["-r", "tree", &format!("scp{protocol}")])));
    }
    fs::write(place.join("batch"), format!("get {at}/copy/7 seven\n")).unwrap();
    clean(run(user.home.command("sftp").args(["-q", "-S", "bin/arc", "-b", "batch", "web01"])));
    assert!(fs::read(place.join("seven")).unwrap() == fs::read(place.join("tree/7")).unwrap());
}

#[test]
fn ports_are_forwarded_until_a_signal_which_leaves_no_process() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let sshd = w.sshd().port();
    for name in ["TERM", "INT", "HUP"] {
        let port = free_port();
        let forward = format!("127.0.0.1:{port}:127.0.0.1:{sshd}");
        let mut ssh = user.ssh(&["web01", "--", "-N", "-L", &forward]);
        let mut ssh = ssh.stderr(Stdio::null()).spawn().unwrap();
        let connected = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(eventually(LIMIT, connected), "{name}");
        let mut banner = [0; 4];
        connect(port).read_exact(&mut banner).unwrap();
        assert_eq!(&banner, b"SSH-");
        // The process that the test started is ssh.
        let program = fs::read_to_string(format!("/proc/{}/comm", ssh.id()));
        assert!(program.is_err() || program.is_ok_and(|program| program == "ssh\n"));
        signal(ssh.id(), name);
        ended(&mut ssh);
    }
}

#[test]
fn standard_streams_are_forwarded_to_a_port() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let mut ssh = user.ssh(&["-W", &format!("127.0.0.1:{}", w.sshd().port()), "web01"]);
    let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut banner = [0; 8];
    Limited(ssh.stdout.as_mut().unwrap()).read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-2.0-");
    drop(ssh.stdin.take());
    finish(ssh);
}

#[test]
fn a_shared_connection_and_the_background_work() {
    let w = lab(&["web01"]);
    let user = User::with(
        &w,
        "Host web01.*\n  ControlPath ~/.ssh/cm-%C\n  ControlMaster auto\n  ControlPersist 60\n",
    );
    let script = format!(
        "{ARCSSH} ssh web01 -fN && {ARCSSH} ssh web01 -O check 2>&1 && {ARCSSH} ssh web01 echo shared && {ARCSSH} ssh -O exit web01"
    );
    let output = run(user.home.command("sh").args(["-c", &script]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Master running (pid=") && text.ends_with("shared\n"), "{text}");
    assert_eq!(w.sshd().log().matches("Accepted publickey").count(), 1);
}

#[test]
fn the_agent_is_forwarded() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let script = format!(
        "eval $(env -u LD_PRELOAD ssh-agent -s) >/dev/null && trap 'env -u LD_PRELOAD ssh-agent -k >/dev/null' EXIT
        ssh-add -q {} && {ARCSSH} ssh -A web01 ssh-add -l",
        w.sshd().client_key().display()
    );
    let listed = clean(run(user.home.command("sh").args(["-euc", &script])));
    assert!(listed.starts_with("256 SHA256:"), "{listed}");
}

/// A session on a terminal: the program under test is the foreground job of a shell.
#[test]
fn an_interactive_session_owns_the_terminal() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    for written in [false, true] {
        if written {
            user.home.succeed(&["web01"]);
        }
        let command = format!("stty rows 33 cols 91; '{ARCSSH}' ssh web01; echo status $?");
        let mut script = terminal(user.home.command("script"), &command);
        script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().unwrap();
        let mut input = script.stdin.take().unwrap();
        // Ctrl-C ends the remote program, and Ctrl-D the remote shell.
        input.write_all(b"stty size; echo sta''rted; sh -c 'echo re''ady; exec sleep 1000'\n").unwrap();
        let mut output = Limited(script.stdout.take().unwrap());
        let mut screen = String::new();
        let mut read_to = |text: &str, screen: &mut String| {
            let mut bytes = [0; 4096];
            while !screen.contains(text) {
                let read = output.read(&mut bytes).unwrap();
                assert!(read > 0, "{screen}");
                screen.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        };
        read_to("\nready", &mut screen);
        input.write_all(b"\x03").unwrap();
        input.write_all(b"echo inter''rupted; exit 9\n").unwrap();
        read_to("status 9", &mut screen);
        assert!(screen.contains("33 91\r\n") && screen.contains("interrupted\r\n"), "{screen}");
        drop(input);
        ended(&mut script);
    }
}

#[test]
fn wrong_input_names_the_next_command() {
    let w =
        lab_with(&["web01", "web02"], |builder| builder.machine(Machine::new("bare01").without_endpoint()));
    let user = User::new(&w);
    run(&mut user.ssh(&["web03"]))
        .failed(5, &[
            "arcssh: the account sees no Arc machine named web03",
            "arcssh: hint: did you mean web01 or web02? Otherwise, list the machines that the account sees: arcssh list",
        ]);
    run(&mut user.ssh(&[])).failed(
        2,
        &[
            "arcssh: no machine was given",
            "arcssh: hint: to see how to name a machine, run: arcssh ssh --help",
        ],
    );
    run(&mut user.ssh(&["@web01"])).failed(
        2,
        &[
            "arcssh: \"@web01\" is not a valid name in a resource ID",
            "arcssh: hint: use NAME, GROUP/NAME or a resource ID; to list the IDs, run: arcssh list -o json",
        ],
    );
    let bare = run(&mut user.ssh(&["bare01", "true"]));
    assert!(bare.stderr.contains("arcssh setup"), "{}", bare.stderr);
    assert_eq!(bare.code, Some(255));
    w.emulator().machine("web01").set_online(false);
    let offline = run(&mut user.ssh(&["web01", "--wait", "3", "true"]));
    assert!(offline.stderr.contains("Azure reports the machine as"), "{}", offline.stderr);
    // Without ssh.
    let bin = user.home.file().parent().unwrap().with_file_name("empty");
    fs::create_dir(&bin).unwrap();
    run(user.ssh(&["web02"]).env("PATH", &bin)).failed(
        1,
        &[
            "arcssh: ssh is not installed",
            "arcssh: hint: install the OpenSSH client, and add the directory of ssh to PATH",
        ],
    );
}

#[test]
#[cfg(target_os = "linux")]
fn no_secret_is_in_arguments_and_no_file_remains() {
    let w = lab(&["web01"]);
    let user = User::new(&w);
    let place = user.home.file().parent().unwrap().parent().unwrap().to_owned();
    let mut ssh = user.ssh(&["web01", "cat"]);
    let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    ssh.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    Limited(ssh.stdout.as_mut().unwrap()).read_exact(&mut [0]).unwrap();
    let arguments = fs::read(format!("/proc/{}/cmdline", ssh.id())).unwrap();
    let arguments = String::from_utf8(arguments).unwrap();
    assert!(arguments.contains("ProxyCommand "), "{arguments}");
    for secret in w.emulator().secrets() {
        assert!(!arguments.contains(&secret));
    }
    drop(ssh.stdin.take());
    ended(&mut ssh);
    let files: Vec<String> = fs::read_dir(place.join(".ssh"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["config", "known_hosts"].contains(&name.as_str()))
        .collect();
    assert_eq!(files, Vec::<String>::new());
}

#[test]
fn a_certificate_of_entra_id_logs_in_without_a_host_entry() {
    let me = whoami();
    let w = lab_with(&["web01"], |builder| {
        let builder = builder.user_principal_name(&me).approve_devices();
        builder.machine(Machine::new("win01").os_name("windows"))
    });
    w.sshd().trust_authority(&w.emulator().ssh_ca_public_key(), &[&me]).unwrap();
    fs::write(w.sshd().client_key().with_file_name("authorized_keys"), "").unwrap();
    let user = User::with(&w, "Host *\n  PreferredAuthentications password\n");
    let anonymous = |words: &[&str]| {
        let mut command = user.home.command(ARCSSH);
        command.args(words);
        for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"] {
            command.env_remove(name);
        }
        run(&mut command)
    };
    assert_eq!(anonymous(&["login", "--device-code"]).code, Some(0));
    let logins = || w.sshd().log().matches("-CERT").count();
    for words in [
        &["ssh", "web01", "--entra", "echo ok"][..],
        &["ssh", "--entra=agent", &format!("{me}@web01"), "echo ok"],
        &["ssh", "--entra=files", "web01", "echo ok"],
        &["ssh", "-o", "IdentitiesOnly=no", "--entra", "-l", &me, &w.id(), "echo ok"],
    ] {
        let before = logins();
        assert_eq!(clean(anonymous(words)), "ok\n", "{words:?}");
        assert!(logins() > before, "{words:?}");
    }
    let without = anonymous(&["ssh", "web01", "true"]);
    assert!(without.stderr.contains("Permission denied"), "{}", without.stderr);
    // With a host entry that has no certificate.
    assert_eq!(anonymous(&["config", "web01"]).code, Some(0));
    assert_eq!(clean(anonymous(&["ssh", "web01", "--entra", "echo ok"])), "ok\n");
    let windows = anonymous(&["ssh", "win01", "--entra"]);
    let expected = "arcssh: cannot connect to win01: Entra users can log in to Linux machines only; for Windows, use --user and a key of that user\n";
    assert_eq!((windows.code, &*windows.stderr), (Some(1), expected));
}

#[test]
fn a_certificate_of_the_users_authority_logs_in() {
    let w = lab(&["web01"]);
    let user = User::with(&w, "Host *\n  PreferredAuthentications password\n");
    let me = whoami();
    let script = format!(
        "ssh-keygen -qN '' -f ca && ssh-keygen -qN '' -f key && ssh-keygen -q -s ca -I me -n {me} key.pub"
    );
    run(user.home.command("sh").args(["-euc", &script])).clean();
    let authority = user.home.file().parent().unwrap().with_file_name("ca.pub");
    w.sshd().trust_authority(fs::read_to_string(authority).unwrap().trim(), &[&me]).unwrap();
    fs::write(w.sshd().client_key().with_file_name("authorized_keys"), "").unwrap();
    let words = ["web01", "--identity", "key", "--certificate-file", "key-cert.pub", "echo ok"];
    assert_eq!(user.output(&words), "ok\n");
    assert_eq!(run(&mut user.ssh(&["web01", "-i", "ca", "true"])).code, Some(255));
    let script = "cp key.pub old.pub && ssh-keygen -q -s ca -I me -n me -V 20200101:20200102 old.pub";
    run(user.home.command("sh").args(["-euc", script])).clean();
    for (file, cause) in [
        ("ca.pub", "is a public key, not a certificate"),
        ("key", "is a private key, not a certificate"),
        ("none", "does not exist"),
        ("/dev/zero", "cannot be read: it is not a regular file"),
        ("old-cert.pub", "expired at 2020-01-0"),
    ] {
        for command in ["ssh", "rdp"] {
            let words = [command, "web01", "--identity", "key", "--certificate-file", file];
            let failed = run(user.home.command(ARCSSH).args(words));
            let expected = format!("arcssh: cannot connect to web01: the certificate file {file} {cause}");
            assert!(failed.stderr.starts_with(&expected), "{}", failed.stderr);
            assert_eq!(failed.code, Some(1));
        }
    }
    let words = ["web01", "--identity", "ca", "--certificate-file", "key-cert.pub", "true"];
    let failed = run(&mut user.ssh(&words));
    assert!(
        failed.stderr.contains("the certificate file key-cert.pub is for another key than ca"),
        "{}",
        failed.stderr
    );
}
