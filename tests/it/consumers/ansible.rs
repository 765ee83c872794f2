//! Ansible from PyPI with `arcssh list` as inventory, and default settings for ssh.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use arcssh_emulator::{ArmCall, ArmFault, Machine};
use serde_json::json;

use super::{Configuration, installed};
use crate::support::{ARCSSH, Lab, Run, lab, lab_with, run, script};

/// The newest ansible-core for Python 3.11, and the oldest maintained one (RHEL 8 and 9). Their template engines
/// differ.
const ANSIBLE_CORE: [&str; 2] = ["2.19.14", "2.16.14"];
/// Number of machines, and of Ansible's parallel connections.
const MACHINES: usize = 20;

const PLAYBOOK: &str = include_str!("playbook.yml");

#[test]
fn ansible_works_on_twenty_machines_in_parallel() {
    let names: Vec<String> = (1..=MACHINES).map(|n| format!("Node{n:02}")).collect();
    let w = lab(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let hosts = Configuration::generate(&w, &["--all"]);
    inventory(&w);
    fs::write(w.home().join("playbook.yml"), PLAYBOOK).unwrap();
    fs::write(w.home().join("template.j2"), "{{ inventory_hostname }} is {{ arc.name }}\n").unwrap();
    fs::create_dir(w.home().join("target")).unwrap();
    let masters = Masters(&w);

    let pinged = run(ansible(&hosts, "ansible").args(["-m", "ping", "rg_rg_arc"]));
    assert_eq!(pinged.code, Some(0), "{}", output(&pinged));
    let pongs = output(&pinged).lines().filter(|line| line.contains(r#""ping": "pong""#)).count();
    assert_eq!(pongs, MACHINES, "{}", output(&pinged));
    assert_eq!(w.emulator().open_connections(), MACHINES, "one connection persists for each machine");

    let target = format!("target={}", w.home().join("target").display());
    let played = run(ansible(&hosts, "ansible-playbook").args(["playbook.yml", "-e", &target]));
    assert_eq!(played.code, Some(0), "{}", output(&played));
    for name in &names {
        let alias = name.to_lowercase();
        let recap = output(&played);
        let line = recap.lines().find(|line| line.starts_with(&alias) && line.contains("ok="));
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().skip(2).take(4).collect();
        assert_eq!(words, ["ok=3", "changed=2", "unreachable=0", "failed=0"], "{recap}");
        let read = |kind: &str| fs::read_to_string(w.home().join(format!("target/{kind}-{alias}"))).unwrap();
        assert_eq!(read("copied"), PLAYBOOK);
        assert_eq!(read("rendered"), format!("{alias} is {name}\n"));
    }
    assert_eq!(masters.stop(), MACHINES);
}

#[test]
fn ansible_logs_in_to_ten_machines_with_one_certificate() {
    let names: Vec<String> = (1..=10).map(|n| format!("node{n:02}")).collect();
    let w = lab(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let hosts = Configuration::with_certificates(&w, "--entra", &["--all"]);
    inventory(&w);
    let masters = Masters(&w);
    let pinged = run(ansible(&hosts, "ansible").args(["--forks", "10", "-m", "ping", "rg_rg_arc"]));
    assert_eq!(pinged.code, Some(0), "{}", output(&pinged));
    let pongs = output(&pinged).lines().filter(|line| line.contains(r#""ping": "pong""#)).count();
    assert_eq!(pongs, 10, "{}", output(&pinged));
    assert_eq!(masters.stop(), 10);
}

#[test]
fn ansible_reads_the_inventory() {
    let w = lab(&["Node01", "node02"]);
    inventory(&w);
    let read = run(program(&w, "ansible-inventory").arg("--list")).clean();
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["rg_rg_arc"]["hosts"], serde_json::json!(["node01", "node02"]));
    assert_eq!(read["os_linux"]["hosts"], read["arc"]["hosts"]);
    let arc = &read["_meta"]["hostvars"]["node01"]["arc"];
    let text = |field: &str| arc[field]["__ansible_unsafe"].as_str().map(str::to_owned);
    assert_eq!((text("name"), text("resourceGroup")), (Some("Node01".into()), Some("rg-arc".into())));
    assert_eq!(text("vmId"), w.emulator().machine("node01").vm_id());
    let host = run(program(&w, "ansible-inventory").args(["--host", "node01"])).clean();
    let host = &serde_json::from_str::<serde_json::Value>(&host).unwrap()["arc"];
    let same = |field: &&str| host[*field].as_str().map(str::to_owned) == text(field);
    assert!(["name", "id", "status", "os", "vmId", "agentVersion"].iter().all(same), "{host} {arc}");
}

#[test]
fn a_machine_with_the_name_of_a_group_does_not_replace_the_group() {
    let names = ["web01", "all", "ARC", "rg_rg_arc", "os_linux", "ungrouped"];
    let w = lab(&names);
    let hosts = Configuration::generate(&w, &["--all"]);
    inventory(&w);
    for version in ANSIBLE_CORE {
        for group in ["all", "arc", "rg_rg_arc", "os_linux"] {
            let mut ansible = program_of(version, &w, "ansible");
            let listed = run(ansible.args([group, "--list-hosts"])).clean();
            assert!(listed.contains("hosts (6)"), "{version} {group}: {listed}");
        }
    }
    let host = run(program(&w, "ansible-inventory").args(["--host", "all.azure-arc"])).clean();
    assert!(host.contains("ansible_host"), "{host}");
    let masters = Masters(&w);
    let pinged = run(ansible(&hosts, "ansible").args(["-m", "ping", "all"]));
    assert_eq!(output(&pinged).matches(r#""ping": "pong""#).count(), names.len(), "{}", output(&pinged));
    assert_eq!(masters.stop(), names.len());
}

#[test]
fn a_standalone_inventory_needs_no_ssh_configuration() {
    let names = ["web01", "all", "rg_x"];
    let w = lab_with(&names, |builder| builder.machine(Machine::new("win01").os_name("windows")));
    fs::remove_file(w.configuration()).unwrap();
    // A program in a folder with a space and a percent sign.
    fs::create_dir(w.home().join("100% mine")).unwrap();
    let program = w.home().join("100% mine/arcssh");
    std::os::unix::fs::symlink(ARCSSH, &program).unwrap();
    let list = format!(
        "#!/bin/sh\nexec {ARCSSH} list --standalone --user {} --program '{}' \"$@\"\n",
        super::user(),
        program.display()
    );
    script(w.home(), "inventory", &list);
    // Only what the test's sshd requires.
    let known_hosts = w.home().join(".ssh/known_hosts");
    let arguments = format!("-F none -o UserKnownHostsFile={}", known_hosts.display());
    let masters = Masters(&w);
    for version in ANSIBLE_CORE {
        let mut ansible = program_of(version, &w, "ansible");
        ansible.env("ANSIBLE_SSH_ARGS", format!("{arguments} -o ControlMaster=auto -o ControlPersist=60s"));
        ansible.env("ANSIBLE_PYTHON_INTERPRETER", install().join("bin/python3"));
        ansible.env("ANSIBLE_REMOTE_PORT", w.sshd().port().to_string());
        ansible.arg("--private-key").arg(w.sshd().client_key());
        let pinged = run(ansible.args(["-m", "ping", "os_linux"]));
        assert_eq!(pinged.code, Some(0), "{version}: {}", output(&pinged));
        let pongs = output(&pinged).matches(r#""ping": "pong""#).count();
        assert_eq!(pongs, names.len(), "{version}: {}", output(&pinged));
        masters.stop();
        let windows =
            run(program_of(version, &w, "ansible-inventory").args(["--graph", "--vars", "os_windows"]));
        assert!(output(&windows).contains("{ansible_shell_type = cmd}"), "{version}: {}", output(&windows));
    }
}

/// A user who can write to a machine in Azure, or onboard one, chooses these texts.
#[test]
fn ansible_evaluates_no_text_from_azure() {
    let w = lab(&["web01"]);
    return_hostile_machine(&w);
    inventory(&w);
    fs::write(w.home().join("constructed.yml"), CONSTRUCTED).unwrap();
    fs::write(w.home().join("evaluate.yml"), EVALUATE).unwrap();
    fs::write(w.home().join("template.j2"), "{{ arc }} {{ arc.tags }} {{ arc.status }}").unwrap();
    let note = r#""note": "{{ lookup('pipe'"#;
    for version in ANSIBLE_CORE {
        let run_version = |name: &str, words: &[&str]| {
            let run = run(program_of(version, &w, name).args(["-i", "constructed.yml"]).args(words));
            assert_eq!(run.code, Some(0), "{version} {words:?}: {}", output(&run));
            output(&run)
        };
        run_version("ansible-inventory", &["--graph", "--vars"]);
        let all = run_version("ansible-inventory", &["--list"]);
        assert!(all.contains("arc_is_linux") && all.contains("rg_rg_arc"), "{version}: {all}");
        let host = run_version("ansible-inventory", &["--host", "web01"]);
        assert!(host.contains("lookup('pipe'") && host.contains("copied"), "{version}: {host}");
        for variable in ["arc", "arc.tags", "arc.status", "hostvars"] {
            let shown = run_version(
                "ansible",
                &["web01", "-c", "local", "-m", "debug", "-a", &format!("var={variable}")],
            );
            assert!(variable == "arc.status" || shown.contains(note), "{version}: {shown}");
        }
        let played = run_version("ansible-playbook", &["evaluate.yml"]);
        assert!(played.contains(note) && played.contains("failed=0"), "{version}: {played}");
        assert_eq!(canaries(&w), [""; 0], "{version}");
        // Counter-test: without the markers, Ansible evaluates the texts.
        let unmark = r#"s/{"__ansible_unsafe":\("[^"]*"\)}/\1/g"#;
        script(w.home(), "unmarked", &format!("#!/bin/sh\n{ARCSSH} list \"$@\" | sed '{unmark}'\n"));
        let mut unmarked = w.command(install_version(version).join("bin/ansible"));
        unmarked.args(["-i", "unmarked", "web01", "-c", "local", "-m", "debug", "-a", "var=arc.tags"]);
        run(unmarked.env("LC_ALL", "C.UTF-8"));
        assert_ne!(canaries(&w), [""; 0], "{version} does not evaluate unmarked text");
        canaries(&w).iter().for_each(|name| fs::remove_file(w.home().join(name)).unwrap());
    }
}

/// Resource Graph returns a machine whose texts are templates, and tags with the keys of Ansible's JSON format.
fn return_hostile_machine(w: &Lab) {
    let template =
        |field: &str| format!("{{{{ lookup('pipe', 'touch {}/canary-{field}') }}}}", w.home().display());
    let row = json!({
        "id": w.id(), "name": template("name"), "location": template("location"), "kind": template("kind"),
        "tags": {
            "note": template("tag"), "statement": format!("{{% set x = {} %}}", template("statement").trim_matches(['{', '}'])),
            template("key"): template("value"), "{# x #}": "x", "env": "prod",
            "__ansible_unsafe": template("unsafe"), "__ansible_vault": template("vault"), "__ansible_type": "TrustedAsTemplate",
        },
        "properties": {
            "vmId": w.emulator().machine("web01").vm_id(), "status": template("status"), "osName": "linux",
            "agentVersion": template("agent"), "lastStatusChange": template("change"),
        },
    });
    let body =
        json!({ "totalRecords": 1, "count": 1, "data": [row], "resultTruncated": "false" }).to_string();
    let fault = ArmFault::raw(200, "application/json", &body);
    w.emulator().arm_fault(fault.on(ArmCall::ResourceGraph).times(1000));
}

/// Files that an evaluated text creates.
fn canaries(w: &Lab) -> Vec<String> {
    let names =
        fs::read_dir(w.home()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("canary-")).collect()
}

/// Uses of inventory variables in plays: each kind of template, twice for stored values.
const EVALUATE: &str = r#"
- hosts: arc
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    nested: "{{ arc.tags }}"
  tasks:
    - debug: var=arc
    - debug: msg="{{ arc }} {{ arc.tags.note }} {{ nested }} {{ hostvars[inventory_hostname] }}"
    - debug: msg="{{ item.key }} {{ item.value }}"
      loop: "{{ arc.tags | dict2items }}"
    - set_fact: { saved: "{{ arc }}", keys: "{{ arc.tags.keys() | list }}", json: "{{ arc | to_json | from_json }}" }
    - debug: msg="{{ saved }} {{ keys }} {{ json }} {{ saved.tags.note }} {{ keys | first }}"
    - debug: msg=never
      when: arc.status == 'Connected' or arc.tags.note == 'x'
    - template: { src: template.j2, dest: "{{ playbook_dir }}/rendered" }
    - shell: 'printf %s {{ arc.tags.note | quote }}'
    - add_host: { name: other, note: "{{ arc.tags.note }}", groups: added }
- hosts: added
  connection: local
  gather_facts: false
  tasks:
    - debug: var=note
"#;

const CONSTRUCTED: &str = r#"
plugin: constructed
strict: false
groups:
  arc_is_linux: arc.os == 'linux'
  arc_prod: arc.tags.env == 'prod' and arc.tags.note != arc.status
keyed_groups:
  - key: arc.tags
    prefix: tag
  - key: arc.status
    prefix: status
compose:
  copied: arc.tags.note
  copied_tags: arc.tags
"#;

/// An executable inventory that runs `arcssh list`.
fn inventory(w: &Lab) {
    script(w.home(), "inventory", &format!("#!/bin/sh\nexec {ARCSSH} list \"$@\"\n"));
}

/// The module parses the configuration, and writes keywords in lower case and no empty section.
#[test]
fn the_block_survives_the_ssh_config_module() {
    let w = lab(&["web01", "web02"]);
    let file = w.home().join("module.conf");
    fs::write(&file, "Include config.d/*\nServerAliveInterval 33\n\nHost work\n    HostName work.example\n")
        .unwrap();
    let config = |arguments: &[&str]| {
        let config = run(w.arcssh(&["config", "--allow-names", "*", "--file"]).arg(&file).args(arguments));
        assert_eq!(config.code, Some(0), "{arguments:?}: {}", config.stderr);
    };
    config(&["--all"]);
    let before = fs::read_to_string(&file).unwrap();
    let module = |arguments: &str| {
        let mut ansible = w.command(install_community().join("bin/ansible"));
        ansible.env("ANSIBLE_COLLECTIONS_PATH", install_community().join("collections"));
        ansible.env("ANSIBLE_PYTHON_INTERPRETER", install_community().join("bin/python3"));
        ansible.env("LC_ALL", "C.UTF-8").args([
            "localhost",
            "-c",
            "local",
            "-m",
            "community.general.ssh_config",
            "-a",
        ]);
        let result = run(ansible.arg(format!("ssh_config_file={} {arguments}", file.display())));
        assert_eq!(result.code, Some(0), "{}", output(&result));
    };
    let effective = |alias: &str, keyword: &str| {
        let text = run(w.command("ssh").arg("-T").arg("-G").arg("-F").arg(&file).arg(alias)).clean();
        text.lines()
            .find_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '))
            .unwrap_or_default()
            .to_owned()
    };
    module("host=new hostname=new.example state=present");
    config(&["--verify"]);
    for round in ["first", "second"] {
        config(&[]);
        let text = fs::read_to_string(&file).unwrap();
        let end = "# <<< arcssh <<<\n";
        assert_eq!(text.split(end).next(), before.split(end).next(), "{round}: {text}");
        assert_eq!(effective("work", "hostname"), "work.example", "{round}: {text}");
        assert_eq!(effective("new", "hostname"), "new.example", "{round}: {text}");
        assert_eq!(effective("unrelated", "serveraliveinterval"), "33", "{round}: {text}");
        assert!(text.to_lowercase().contains("include config.d/*"), "{round}: {text}");
        config(&["--verify"]);
    }
    module("host=new state=absent");
    config(&["--verify"]);
    config(&["--remove"]);
    assert_eq!(effective("work", "hostname"), "work.example");
    assert_eq!(effective("unrelated", "serveraliveinterval"), "33");
}

/// ansible-core with community.general of the package ansible.
fn install_community() -> PathBuf {
    installed("ansible-community-12.3.0", |directory| {
        let hint = "this test needs python3 with venv: apt-get install python3-venv";
        succeed(Command::new("python3").args(["-m", "venv"]).arg(directory), hint);
        let python = || Command::new(directory.join("bin/python3"));
        let core = format!("ansible-core=={}", ANSIBLE_CORE[0]);
        succeed(python().args(["-m", "pip", "install", "-q", &core, "paramiko"]), "pip install");
        let download = ["-m", "pip", "download", "-q", "--no-deps", "-d", ".", "ansible==12.3.0"];
        succeed(python().args(download).current_dir(directory), "pip download");
        let extract = "import glob, os, zipfile; [file] = glob.glob('ansible-*.whl'); wheel = zipfile.ZipFile(file); \
            wheel.extractall('collections', [name for name in wheel.namelist() if '/community/general/' in name]); os.remove(file)";
        succeed(python().args(["-c", extract]).current_dir(directory), "extract");
    })
}

/// An Ansible program. Only the path of the ssh configuration differs from the defaults.
fn ansible(hosts: &Configuration<'_>, name: &str) -> Command {
    let mut ansible = program(hosts.lab, name);
    ansible.args(["--forks", &MACHINES.to_string()]);
    ansible.env("ANSIBLE_SSH_COMMON_ARGS", format!("-F {}", hosts.file.display()));
    // A test machine may have several Python versions, and not all work with Ansible.
    ansible.env("ANSIBLE_PYTHON_INTERPRETER", install().join("bin/python3"));
    ansible
}

fn program(w: &Lab, name: &str) -> Command {
    program_of(ANSIBLE_CORE[0], w, name)
}

fn program_of(version: &str, w: &Lab, name: &str) -> Command {
    let mut program = w.command(install_version(version).join("bin").join(name));
    program.args(["-i", "inventory"]).env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1");
    program
}

pub(super) fn install() -> PathBuf {
    install_version(ANSIBLE_CORE[0])
}

fn install_version(version: &str) -> PathBuf {
    installed(&format!("ansible-core-{version}"), |directory| {
        let hint = "this test needs python3 with venv: apt-get install python3-venv";
        succeed(Command::new("python3").args(["-m", "venv"]).arg(directory), hint);
        let mut pip = Command::new(directory.join("bin/python3"));
        pip.args(["-m", "pip", "install", "-q", &format!("ansible-core=={version}")]);
        succeed(&mut pip, "pip could not install ansible-core");
    })
}

#[track_caller]
pub(super) fn succeed(command: &mut Command, hint: &str) {
    let result = command.output().expect(hint);
    assert!(result.status.success(), "{hint}: {}", String::from_utf8_lossy(&result.stderr));
}

fn output(run: &Run) -> String {
    format!("{}{}", String::from_utf8_lossy(&run.stdout), run.stderr)
}

/// The ssh masters that Ansible's ControlPersist keeps for a minute.
struct Masters<'a>(&'a Lab);

impl Masters<'_> {
    /// Stops them. Returns how many there were.
    fn stop(&self) -> usize {
        let sockets = fs::read_dir(self.0.home().join(".ansible/cp")).into_iter().flatten().flatten();
        let stop = |socket: &Path| {
            let mut ssh = self.0.command("ssh");
            ssh.args(["-F", "none", "-O", "exit", "-S"]).arg(socket).arg("any");
            run(&mut ssh).code == Some(0)
        };
        sockets.filter(|socket| stop(&socket.path())).count()
    }
}

impl Drop for Masters<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
