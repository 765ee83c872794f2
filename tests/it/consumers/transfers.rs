//! ssh, scp, sftp, rsync and git.

use std::fs;
use std::process::Command;

use super::Configuration;
use crate::support::{Lab, lab, noise, run, run_with_input};

#[test]
fn ssh_transfers_streams_and_exit_status() {
    let w = lab(&["web01", "Web02"]);
    let hosts = Configuration::generate(&w, &["web01", "web02"]);
    let script = "cat; echo problem >&2; exit 7";
    let run = run_with_input(hosts.program("ssh").args(["web01", script]), b"input\n".to_vec());
    assert_eq!((run.code, run.stderr.as_str()), (Some(7), "problem\n"));
    assert_eq!(run.stdout, b"input\n");
    for spelling in ["web02", "Web02"] {
        assert_eq!(hosts.ssh(&[spelling, "echo reached"]).clean(), "reached\n");
    }
}

#[test]
fn ssh_verifies_the_file_and_a_second_run_changes_nothing() {
    let w = lab(&["web01", "Web02"]);
    let hosts = Configuration::generate(&w, &["web01", "web02"]);
    let before = hosts.text();
    let refreshed = hosts.config(&[]);
    let last = refreshed.arcssh_lines().pop().map(str::to_owned);
    assert_eq!(last, Some(format!("arcssh: {} is up to date", hosts.file.display())));
    assert_eq!(hosts.text(), before);
    let verified = run(w.arcssh(&["config", "--verify", "--file"]).arg(&hosts.file));
    assert_eq!((verified.code, verified.stdout.len()), (Some(0), 0), "{}", verified.stderr);
}

#[test]
fn scp_sftp_and_rsync_copy_both_ways() {
    let w = lab(&["web01"]);
    let hosts = Configuration::generate(&w, &["web01"]);
    let home = w.home().display().to_string();
    fs::create_dir(w.home().join("tree")).unwrap();
    for n in 0..20 {
        fs::write(w.home().join(format!("tree/{n}")), noise(100_000)).unwrap();
    }
    let scp = |from: &str, to: &str| run(hosts.program("scp").args(["-q", "-r", from, to])).clean();
    scp("tree", &format!("web01:{home}/scp"));
    scp(&format!("web01:{home}/scp"), "scp-back");

    fs::write(w.home().join("batch"), format!("put -R tree {home}/sftp\nget -R {home}/sftp sftp-back\n"))
        .unwrap();
    fs::create_dir(w.home().join("sftp")).unwrap();
    run(hosts.program("sftp").args(["-q", "-b", "batch", "web01"])).clean();

    let rsync = |from: &str, to: &str| {
        run(w.command("rsync").args(["-a", "-e", &hosts.ssh_words(), from, to])).clean()
    };
    rsync("tree/", &format!("web01:{home}/rsync/"));
    rsync(&format!("web01:{home}/rsync/"), "rsync-back/");

    for copy in ["scp-back", "sftp-back/tree", "rsync-back"] {
        assert_eq!(run(w.command("diff").args(["-r", "tree", copy])).clean(), "", "{copy}");
    }
}

#[test]
fn git_clones_and_pushes() {
    let w = lab(&["web01"]);
    let hosts = Configuration::generate(&w, &["web01"]);
    let home = w.home().display().to_string();
    run(git(&w).args(["init", "-q", "--bare", "-b", "main", "remote.git"])).clean();
    let remote = format!("web01:{home}/remote.git");
    let over_ssh = |arguments: &[&str]| {
        let run = run(git(&w).env("GIT_SSH_COMMAND", hosts.ssh_words()).args(arguments));
        assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
    };
    over_ssh(&["clone", "-q", &remote, "first"]);
    let bytes = noise(1 << 20);
    fs::write(w.home().join("first/file"), &bytes).unwrap();
    run(git(&w).args(["-C", "first", "add", "file"])).clean();
    run(git(&w).args(["-C", "first", "commit", "-q", "-m", "a file"])).clean();
    over_ssh(&["-C", "first", "push", "-q", "origin", "HEAD:main"]);
    over_ssh(&["clone", "-q", &remote, "second"]);
    assert!(fs::read(w.home().join("second/file")).unwrap() == bytes);
    run(git(&w).args(["-C", "second", "commit", "-q", "--allow-empty", "-m", "empty"])).clean();
    over_ssh(&["-C", "second", "push", "-q"]);
    over_ssh(&["-C", "first", "fetch", "-q"]);
    let ahead = run(git(&w).args(["-C", "first", "rev-list", "--count", "origin/main"])).clean();
    assert_eq!(ahead, "2\n");
}

/// git without the settings of the user who runs the tests.
fn git(w: &Lab) -> Command {
    let mut git = w.command("git");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CONFIG_GLOBAL", "GIT_SSH"] {
        git.env_remove(name);
    }
    git.env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "Web Master").env(format!("GIT_{role}_EMAIL"), "web@example.org");
    }
    git
}
