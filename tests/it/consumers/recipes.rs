//! The recipes of docs/RECIPES.md, with the real programs in the playground.

use std::fs;
use std::path::Path;

use super::ansible::install;
use super::python;
use crate::readme::make;
use crate::support::{Run, free_port, run, service};

const RECIPES: &str = include_str!("../../../docs/RECIPES.md");

/// The code blocks below a heading.
fn blocks(heading: &str) -> Vec<&'static str> {
    let section = RECIPES.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    section.split("```\n").skip(1).step_by(2).collect()
}

/// Runs shell commands in the playground, with a host entry for web01.
#[track_caller]
fn play(directory: &Path, commands: &str) -> Run {
    let script = directory.join("script");
    let before = "set -eu\narcssh login 2>>log\narcssh config web01 --user azureuser 2>>log\n";
    fs::write(&script, format!("{before}{commands}")).unwrap();
    let played = run(&mut make(&["playground", &format!("RUN=sh '{}'", script.display())]));
    assert_eq!(played.code, Some(0), "{}{}", String::from_utf8_lossy(&played.stdout), played.stderr);
    played
}

#[test]
fn host_keys_of_a_group_need_no_question() {
    let [add, show] = blocks("Host keys")[0].lines().collect::<Vec<_>>()[..] else { panic!() };
    let played = play(
        tempfile::tempdir().unwrap().path(),
        &format!("{add}\n{show}\nssh -o StrictHostKeyChecking=yes -o BatchMode=yes web01 echo reached\n"),
    );
    let printed = String::from_utf8(played.stdout).unwrap();
    assert!(printed.contains(" SHA256:") && printed.ends_with("reached\n"), "{printed}");
}

#[test]
fn clients_without_ssh_use_a_forwarded_port_and_a_socks_proxy() {
    let page = service(|mut connection| {
        use std::io::Write as _;
        let _ = connection.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\npage\n");
        // Without this, the request would remain unread, and the connection would be reset.
        let _ = std::io::copy(&mut connection, &mut std::io::sink());
    });
    let commands = blocks("Databases")[0];
    let (local, socks) = (free_port().to_string(), free_port().to_string());
    let started = |line: &str| format!("{line} &\n");
    let [forward, _, dynamic] = commands.lines().collect::<Vec<_>>()[..] else { panic!("{commands}") };
    let forward = started(&forward.replace("15432", &local).replace("5432", &page.to_string()));
    let dynamic = started(&dynamic.replace("1080", &socks));
    let curl = "curl -sS --retry 30 --retry-delay 1 --retry-connrefused";
    let played = play(
        tempfile::tempdir().unwrap().path(),
        &format!(
            "arcssh known-hosts web01 >>.ssh/known_hosts\n{forward}a=$!\n{dynamic}b=$!\n\
             {curl} http://127.0.0.1:{local}/\n{curl} --socks5-hostname 127.0.0.1:{socks} http://127.0.0.1:{page}/\nkill $a $b\n"
        ),
    );
    let printed = String::from_utf8(played.stdout).unwrap();
    assert!(printed.ends_with("\npage\npage\n"), "{printed}{}", played.stderr);
}

#[test]
fn plink_connects_through_arcssh() {
    let plink = blocks("PuTTY")[0].trim().replace("RESOURCE-ID", "$id");
    // plink asks for an unknown host key at a terminal.
    let plink = plink.replace("plink ", "plink -batch -hostkey \"$key\" ");
    let played = play(
        tempfile::tempdir().unwrap().path(),
        &format!(
            "puttygen .ssh/id_ed25519 -O private -o key.ppk\n\
             id=$(arcssh list -o json web01 | grep -o '/subscriptions/[^\"]*')\n\
             key=$(arcssh known-hosts web01 | ssh-keygen -lf - | cut -d' ' -f2)\n\
             {plink} echo reached\n"
        ),
    );
    let printed = String::from_utf8(played.stdout).unwrap();
    assert!(printed.ends_with("\nreached\n"), "{printed}{}", played.stderr);
}

#[test]
fn asyncssh_paramiko_and_fabric_connect_through_arcssh() {
    let directory = tempfile::tempdir().unwrap();
    let [asyncssh, paramiko] = blocks("Python")[..] else { panic!() };
    let asyncssh: String = asyncssh.lines().map(|line| format!("    {line}\n")).collect();
    let run_uptime = "print(client.exec_command('uptime')[1].read().decode())";
    for (name, program) in [
        (
            "asyncssh",
            format!("import asyncio, asyncssh\nasync def main():\n{asyncssh}\nasyncio.run(main())\n"),
        ),
        ("paramiko", format!("import os, paramiko\n{paramiko}\n{run_uptime}\nclient.close()\n")),
        ("fabric", "from fabric import Connection\nConnection('web01').run('uptime')\n".to_owned()),
    ] {
        fs::write(directory.path().join(name), program).unwrap();
    }
    let python = python::install().join("bin/python3");
    let programs = ["asyncssh", "paramiko", "fabric"].map(|name| {
        let file = directory.path().join(name);
        format!("echo {name}\n'{}' '{}'\n", python.display(), file.display())
    });
    let known_hosts = "arcssh known-hosts web01 >>.ssh/known_hosts\n";
    let played = play(directory.path(), &format!("{known_hosts}{}", programs.concat()));
    let printed = String::from_utf8(played.stdout).unwrap();
    for name in ["asyncssh", "paramiko", "fabric"] {
        let (_, after) = printed.split_once(&format!("{name}\n")).unwrap();
        assert!(after.lines().next().unwrap_or_default().contains("load average"), "{name}: {printed}");
    }
}

#[test]
fn ansible_groups_machines_by_tag_and_status() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("inventory")).unwrap();
    let file = |name: &str| directory.path().join("inventory").join(name);
    fs::write(file("constructed.yml"), blocks("Ansible")[0]).unwrap();
    crate::support::script(
        &directory.path().join("inventory"),
        "arc.sh",
        "#!/bin/sh\nexec arcssh list \"$@\"\n",
    );
    let played = play(
        directory.path(),
        &format!(
            "'{}' -i '{}' --graph\n",
            install().join("bin/ansible-inventory").display(),
            directory.path().join("inventory").display()
        ),
    );
    let printed = String::from_utf8(played.stdout).unwrap();
    assert!(printed.contains("@status_Connected:\n  |  |--db01"), "{printed}");
}
