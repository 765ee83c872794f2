//! A connection's memory contains tokens. Other processes of the same user cannot read it.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::support::{ARCSSH, LIMIT, Run, ended, eventually, lab, run, service};

/// Runs a program without capabilities: root's capabilities would bypass the protection.
fn without_capabilities(mut command: Command, program: &str) -> Command {
    match rustix::process::geteuid().is_root() {
        true => command.args(["--inh-caps=-all", "--bounding-set=-all", program]),
        false => command.args(["--", program]),
    };
    command
}

fn wrapper() -> &'static str {
    if rustix::process::geteuid().is_root() { "setpriv" } else { "env" }
}

/// A process that is killed at the end of the test.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(script: &str) -> Run {
    run(without_capabilities(Command::new(wrapper()), "sh").args(["-c", script]))
}

#[test]
fn other_processes_cannot_read_the_memory_of_a_connection() {
    let w = lab(&["web01"]);
    let port = service(|mut connection| drop(std::io::copy(&mut connection, &mut std::io::sink())));
    w.emulator().machine("web01").set_ssh_port(port);
    let mut proxy = without_capabilities(w.command(wrapper()), ARCSSH);
    proxy.args(["proxy", &w.id(), "--port", &port.to_string()]);
    let mut proxy = proxy.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert!(eventually(LIMIT, || w.emulator().open_connections() == 1));
    let mut other = without_capabilities(Command::new(wrapper()), "sleep");
    let other = KilledOnDrop(other.arg("1000").stdout(Stdio::null()).spawn().unwrap());
    let reads = |process: u32, file: &str| shell(&format!("exec 3< /proc/{process}/{file} && cat <&3"));
    let name = |process: u32| fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    assert!(eventually(LIMIT, || name(other.0.id()) == "sleep\n"));
    assert_eq!(reads(other.0.id(), "environ").code, Some(0), "the test must be able to read another process");
    for file in ["environ", "mem", "maps", "auxv", "fd/0"] {
        let denied = reads(proxy.id(), file);
        assert_ne!(denied.code, Some(0), "{file}");
        let denials = ["Permission denied", "cannot open", "Operation not permitted"];
        assert!(denials.iter().any(|denial| denied.stderr.contains(denial)), "{file}: {}", denied.stderr);
    }
    let attach =
        "import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(16, int(sys.argv[1]), None, None) == 0)";
    let mut python = without_capabilities(Command::new(wrapper()), "python3");
    let attached = run(python.args(["-c", attach, &proxy.id().to_string()]));
    assert_eq!(attached.code, Some(0), "a debugger attached: {}", attached.stderr);
    drop(proxy.stdin.take());
    assert_eq!(ended(&mut proxy).code(), Some(0));
}

/// The user's own programs stay dumpable: some read files of `/proc` that require it (proc(5)).
#[test]
fn a_program_that_arcssh_starts_stays_dumpable() {
    let w = lab(&["web01"]);
    let bin = w.home().join("bin");
    let body = "#!/bin/sh\nPATH=/usr/bin:/bin\ncat /proc/$$/environ > \"$HOME/read\"\nexit 1\n";
    crate::support::script(&bin, "az", body);
    let mut account = without_capabilities(w.command(wrapper()), ARCSSH);
    account.args(["account", "--credential", "az"]).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    assert_eq!(run(&mut account).code, Some(3));
    let read = fs::read_to_string(w.home().join("read")).unwrap();
    assert!(read.contains("HOME="), "{read}");
}
