//! ansible from PyPI, with `arcssh list` as its inventory and everything about ssh at its own defaults.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Configuration, installed};
use crate::support::{ARCSSH, Run, World, run, script, world};

const ANSIBLE_CORE: &str = "2.19.14";
/// How many machines, and how many of them ansible works on at once.
const MACHINES: usize = 20;

const PLAYBOOK: &str = include_str!("playbook.yml");

#[test]
fn ansible_works_on_twenty_machines_at_once() {
    let names: Vec<String> = (1..=MACHINES).map(|n| format!("Node{n:02}")).collect();
    let w = world(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let hosts = Configuration::generate(&w, &["--all"]);
    inventory(&w);
    fs::write(w.home().join("playbook.yml"), PLAYBOOK).unwrap();
    fs::write(w.home().join("template.j2"), "{{ inventory_hostname }} is {{ arc.name }}\n").unwrap();
    fs::create_dir(w.home().join("there")).unwrap();
    let masters = Masters(&w);

    let pinged = run(ansible(&hosts, "ansible").args(["-m", "ping", "rg_rg_arc"]));
    assert_eq!(pinged.code, Some(0), "{}", told(&pinged));
    let pongs = told(&pinged).lines().filter(|line| line.contains(r#""ping": "pong""#)).count();
    assert_eq!(pongs, MACHINES, "{}", told(&pinged));
    assert_eq!(w.emulator().open_connections(), MACHINES, "one connection persists for each machine");

    let there = format!("there={}", w.home().join("there").display());
    let played = run(ansible(&hosts, "ansible-playbook").args(["playbook.yml", "-e", &there]));
    assert_eq!(played.code, Some(0), "{}", told(&played));
    for name in &names {
        let alias = name.to_lowercase();
        let recap = told(&played);
        let line = recap.lines().find(|line| line.starts_with(&alias) && line.contains("ok="));
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().skip(2).take(4).collect();
        assert_eq!(words, ["ok=3", "changed=2", "unreachable=0", "failed=0"], "{recap}");
        let read = |kind: &str| fs::read_to_string(w.home().join(format!("there/{kind}-{alias}"))).unwrap();
        assert_eq!(read("copied"), PLAYBOOK);
        assert_eq!(read("rendered"), format!("{alias} is {name}\n"));
    }
    assert_eq!(masters.end(), MACHINES);
}

#[test]
fn ansible_logs_in_to_ten_machines_at_once_with_one_certificate() {
    let names: Vec<String> = (1..=10).map(|n| format!("node{n:02}")).collect();
    let w = world(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let hosts = Configuration::with_certificates(&w, "--entra", &["--all"]);
    inventory(&w);
    let masters = Masters(&w);
    let pinged = run(ansible(&hosts, "ansible").args(["--forks", "10", "-m", "ping", "rg_rg_arc"]));
    assert_eq!(pinged.code, Some(0), "{}", told(&pinged));
    let pongs = told(&pinged).lines().filter(|line| line.contains(r#""ping": "pong""#)).count();
    assert_eq!(pongs, 10, "{}", told(&pinged));
    assert_eq!(masters.end(), 10);
}

#[test]
fn ansible_reads_the_inventory() {
    let w = world(&["Node01", "node02"]);
    inventory(&w);
    let read = run(program(&w, "ansible-inventory").arg("--list")).clean();
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["rg_rg_arc"]["hosts"], serde_json::json!(["node01", "node02"]));
    assert_eq!(read["os_linux"]["hosts"], read["arc"]["hosts"]);
    let arc = &read["_meta"]["hostvars"]["node01"]["arc"];
    assert_eq!((&arc["name"], &arc["resourceGroup"]), (&"Node01".into(), &"rg-arc".into()));
    assert_eq!(arc["vmId"].as_str().map(Into::into), w.emulator().machine("node01").vm_id());
    let one = run(program(&w, "ansible-inventory").args(["--host", "node01"])).clean();
    assert_eq!(&serde_json::from_str::<serde_json::Value>(&one).unwrap()["arc"], arc);
}

/// `arcssh list` as an executable inventory.
fn inventory(w: &World) {
    script(w.home(), "inventory", &format!("#!/bin/sh\nexec {ARCSSH} list \"$@\"\n"));
}

/// A program of ansible's, of which nothing is changed but where ssh finds its configuration.
fn ansible(hosts: &Configuration<'_>, name: &str) -> Command {
    let mut ansible = program(hosts.world, name);
    ansible.args(["--forks", &MACHINES.to_string()]);
    ansible.env("ANSIBLE_SSH_COMMON_ARGS", format!("-F {}", hosts.file.display()));
    // Of the pythons that may be found on a machine where programs are tested, one that works.
    ansible.env("ANSIBLE_PYTHON_INTERPRETER", install().join("bin/python3"));
    ansible
}

fn program(w: &World, name: &str) -> Command {
    let mut program = w.command(install().join("bin").join(name));
    program.args(["-i", "inventory"]).env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1");
    program
}

fn install() -> PathBuf {
    installed(&format!("ansible-core-{ANSIBLE_CORE}"), |directory| {
        let hint = "this test needs python3 with venv: apt-get install python3-venv";
        succeed(Command::new("python3").args(["-m", "venv"]).arg(directory), hint);
        let mut pip = Command::new(directory.join("bin/python3"));
        pip.args(["-m", "pip", "install", "-q", &format!("ansible-core=={ANSIBLE_CORE}")]);
        succeed(&mut pip, "pip could not install ansible-core");
    })
}

#[track_caller]
fn succeed(command: &mut Command, hint: &str) {
    let output = command.output().expect(hint);
    assert!(output.status.success(), "{hint}: {}", String::from_utf8_lossy(&output.stderr));
}

fn told(run: &Run) -> String {
    format!("{}{}", String::from_utf8_lossy(&run.stdout), run.stderr)
}

/// The connections that ansible's ControlPersist leaves open for a minute.
struct Masters<'w>(&'w World);

impl Masters<'_> {
    /// Ends them; how many there were.
    fn end(&self) -> usize {
        let sockets = fs::read_dir(self.0.home().join(".ansible/cp")).into_iter().flatten().flatten();
        let end = |socket: &Path| {
            let mut ssh = self.0.command("ssh");
            ssh.args(["-F", "none", "-O", "exit", "-S"]).arg(socket).arg("any");
            run(&mut ssh).code == Some(0)
        };
        sockets.filter(|socket| end(&socket.path())).count()
    }
}

impl Drop for Masters<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
