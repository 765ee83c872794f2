//! The effort of `arcssh config` for many machines: processes of ssh, and runs of a user's `Match exec`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use arcssh_emulator::{Builder, Machine};

use crate::config::Home;
use crate::support::{ARCSSH, Lab, Limited, Run, ended, lab_with, run, script, terminal};

fn machines(count: usize) -> Lab {
    let add = |builder: Builder, n| builder.machine(Machine::new(&format!("web{n:03}")));
    lab_with(&[], |builder| (0..count).fold(builder, add))
}

/// Runs `arcssh config` with an ssh that counts its processes. Returns the run and this number.
fn config(home: &Home<'_>, arguments: &[&str]) -> (Run, usize) {
    let folder = home.file().parent().unwrap().with_file_name("bin");
    let log = folder.join("runs");
    let _ = fs::remove_file(&log);
    script(&folder, "ssh", "#!/bin/sh\necho >>\"${0%/*}/runs\"\nPATH=${PATH#*:} exec ssh \"$@\"\n");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let done = run(home.command(ARCSSH).arg("config").args(arguments).env("PATH", path));
    (done, lines(&log))
}

/// An ssh that ends its sixth run and all later ones only after the file `go` exists. The first one is for the home directory.
const WAITING_SSH: &str = "#!/bin/sh
here=${0%/*}
echo >>\"$here/runs\"
test $(wc -l <\"$here/runs\") -lt 6 || until [ -e \"$here/go\" ]; do sleep 0.1; done
PATH=${PATH#*:} exec ssh \"$@\"
";

#[test]
fn the_number_of_verified_host_entries_is_shown_if_ssh_takes_long() {
    let w = machines(10);
    // Each of these sections makes its machine's host entry a kind of its own.
    let above: String = (0..10).map(|n| format!("Host web{n:03}*\n LogLevel ERROR\n")).collect();
    let home = Home::new(&w);
    config(&home, &["--all"]);
    let block = fs::read_to_string(home.file()).unwrap();
    fs::write(home.file(), above + &block).unwrap();
    let folder = home.file().parent().unwrap().with_file_name("bin");
    script(&folder, "ssh", WAITING_SSH);
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    fs::remove_file(folder.join("runs")).unwrap();
    let command = format!("stty cols 100 rows 30; exec {ARCSSH} config --verify");
    let mut config = terminal(home.command("script"), &command);
    config.env("PATH", path).env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = config.spawn().unwrap();
    let screen = BufReader::new(Limited(running.stdout.take().unwrap())).split(b'\x1b').map_while(Result::ok);
    let mut shown = screen.map(|line| String::from_utf8(line).unwrap());
    let progress = "[Karcssh: waiting for ssh: 4 of 10 kinds of host entries are verified; ";
    let mut printed = Vec::new();
    let is_progress = |line: &String| line.starts_with(progress);
    let found = shown.by_ref().inspect(|line| printed.push(line.clone())).any(|line| is_progress(&line));
    assert!(found, "{printed:?}");
    fs::write(folder.join("go"), "").unwrap();
    let rest: Vec<String> = shown.collect();
    assert_eq!(ended(&mut running).code(), Some(0), "{rest:?}");
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn the_number_of_ssh_processes_does_not_depend_on_the_number_of_machines() {
    for count in [3, 300] {
        let w = machines(count);
        let home = Home::new(&w);
        let (written, processes) = config(&home, &["--all", "--user", "me"]);
        // For the home directory, the new file, the present configuration, and the file in its place.
        assert_eq!((written.code, processes), (Some(0), 4), "{}", written.stderr);
        let (verified, processes) = config(&home, &["--verify"]);
        assert_eq!((verified.code, processes), (Some(0), 2), "{}", verified.stderr);
        assert!(verified.stderr.contains(&format!("verified {count} hosts")), "{}", verified.stderr);
        let (unchanged, processes) = config(&home, &[]);
        assert_eq!((unchanged.code, processes), (Some(0), 2), "{}", unchanged.stderr);
    }
}

#[test]
fn a_match_exec_of_the_user_runs_once_for_each_kind_of_host_entry() {
    let w = machines(100);
    let home = Home::new(&w);
    config(&home, &["--all"]);
    let log = home.file().with_file_name("log");
    let command = format!("Match exec \"echo >>{}; false\"\n User root\n", log.display());
    let block = fs::read_to_string(home.file()).unwrap();
    fs::write(home.file(), format!("{command}{block}{command}")).unwrap();
    let (verified, processes) = config(&home, &["--verify"]);
    assert_eq!((verified.code, processes, lines(&log)), (Some(0), 2, 2), "{}", verified.stderr);
}

#[test]
fn an_override_of_one_machine_of_many_is_found() {
    let w = machines(60);
    let home = Home::new(&w);
    config(&home, &["--all", "--user", "me"]);
    let block = fs::read_to_string(home.file()).unwrap();
    let folder = home.file().with_file_name("included");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a"), format!("Host *\nInclude \"{}/b\"\n", folder.display())).unwrap();
    fs::write(folder.join("b"), "Host x web017\n User root\n").unwrap();
    for above in [
        "Host web017\n User root\n",
        "Host WEB017 web?17\n User root\n",
        "Host *17\n User root\n",
        "Host * !web00* !web01[0-6] !web0[2-5]? !web01? web017\n User x\nHost web017\n User root\n",
        "Match originalhost other,web017 exec true\n User root\n",
        "Match all\nInclude \"FOLDER/b\"\n",
        "Include \"FOLDER/[ax]\"\n",
        "Host web017 no\n HostName gate\nMatch host gate\n User root\n",
    ] {
        let above = above.replace("FOLDER", folder.to_str().unwrap());
        fs::write(home.file(), format!("{above}{block}")).unwrap();
        let (verified, processes) = config(&home, &["--verify"]);
        assert!(
            verified.code == Some(1)
                && verified.stderr.starts_with("arcssh: ssh does not use the user written for web017: "),
            "{above}{}",
            verified.stderr
        );
        assert!(processes < 70, "{processes} {above}");
    }
    let second = "Host web017\n User root\n";
    let end = block.replacen("\nHost web000\n", &format!("\n{second}Host web000\n"), 1);
    fs::write(home.file(), end).unwrap();
    let (verified, _) = config(&home, &["--verify"]);
    assert!(verified.stderr.contains("the user written for web017: "), "{}", verified.stderr);
}
