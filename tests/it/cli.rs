//! What helps people at their keyboards: help, completions, the manual, and what a bug report needs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::readme;
use crate::support::{ARCSSH, namespaces, on_a_terminal, program_at, run, script, typed, world};

/// The commands that the help lists, but `help` itself.
fn commands() -> Vec<String> {
    let help = typed(&["--help"]).clean();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let first_words = listed.map_while(|line| line.split_whitespace().next());
    first_words.filter(|word| *word != "help").map(Into::into).collect()
}

/// The lines that stand in a help below the options, apart from the title.
fn examples(help: &str) -> impl Iterator<Item = &str> {
    let (_, below) = help.split_once("--log-file").unwrap();
    below.lines().skip_while(|line| !line.is_empty()).filter(|line| *line != "Examples:")
}

#[test]
fn arcssh_alone_says_what_it_is_and_what_to_type_first() {
    let alone = typed(&[]);
    assert_eq!((alone.code, alone.stdout.len()), (Some(2), 0), "standard output belongs to ssh");
    assert_eq!(alone.stderr, typed(&["--help"]).clean());
    assert!(alone.stderr.starts_with("Plain ssh to Azure Arc-enabled servers"), "{}", alone.stderr);
    assert!(alone.stderr.contains("\nExamples:\n  arcssh login "), "{}", alone.stderr);
    assert_eq!(commands()[..3], ["login", "config", "list"]);
}

/// A line of the examples that is broken in two reads as nonsense.
#[test]
fn each_command_has_help_whose_examples_fit_a_terminal() {
    for command in commands().iter().map(String::as_str).chain([""]) {
        let words: Vec<&str> = [command, "-h"].into_iter().filter(|word| !word.is_empty()).collect();
        let help = typed(&words).clean();
        assert!(help.contains(format!("\nUsage: arcssh {command}").trim_end()), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        assert!(examples(&help).all(|line| line.chars().count() < 80), "{help}");
    }
}

#[test]
fn help_has_colours_on_a_terminal_alone_unless_they_are_not_wanted() {
    let w = world(&[]);
    let shown = |variables: &str| {
        on_a_terminal(w.command("script"), &format!("{variables} '{ARCSSH}' --help")).1.contains('\u{1b}')
    };
    assert!(shown(""));
    for unwanted in ["NO_COLOR=1", "TERM=dumb", "CI=true TERM=dumb", "CLICOLOR=0"] {
        assert!(!shown(unwanted), "{unwanted}");
    }
    assert!(!typed(&["--help"]).clean().contains('\u{1b}'));
}

/// A shell's answer to this script, in which `$1` is a file with the completions.
fn completed_by(shell: &str, name: &str, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, typed(&["completions", shell]).clean()).unwrap();
    // No start-up files: what the tester's own shell does is none of ours.
    let w = world(&[]);
    let mut command = w.command(shell);
    match shell {
        "bash" => command.args(["--norc", "--noprofile", "-c", script, shell]),
        "zsh" => command.args(["-f", "-c", script, shell]),
        _ => command.args(["--no-config", "-c", script]),
    };
    // fish adds the completions that are installed for arcssh.
    run(command.arg(&file).env("XDG_DATA_DIRS", w.home())).clean()
}

#[test]
fn bash_completes_commands_and_options() {
    let script = r#"source "$1"
        complete -p arcssh >/dev/null
        try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _arcssh arcssh "${@: -1}" "${@: -2:1}"; echo "${COMPREPLY[*]}"; }
        try arcssh acc; try arcssh warm --all --j; try arcssh proxy --service ''"#;
    assert_eq!(completed_by("bash", "arcssh", script), "account\n--jobs\nSSH WAC\n");
}

#[test]
fn zsh_finds_the_completions_and_loads_them() {
    let script = r#"fpath=(${1:h} $fpath); autoload -Uz compinit; compinit -u -D
        print $_comps[arcssh]; autoload +X _arcssh && print ${+functions[_arcssh]}"#;
    assert_eq!(completed_by("zsh", "_arcssh", script), "_arcssh\n1\n");
}

#[test]
fn fish_completes_commands_and_options() {
    let script = "source $argv[1]; complete -C 'arcssh acc'; complete -C 'arcssh warm --all --j'";
    assert_eq!(
        completed_by("fish", "arcssh.fish", script),
        "account\tShow who connects to Azure\n--jobs\tMachines at a time\n"
    );
}

#[test]
fn each_shell_is_given_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = typed(&["completions", shell]).clean();
        assert!(commands().iter().all(|command| script.contains(command.as_str())), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command_that_renders_without_a_warning() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("share/man1");
    typed(&["man", folder.to_str().unwrap()]).clean();
    for command in commands() {
        assert!(folder.join(format!("arcssh-{command}.1")).exists(), "{command}");
    }
    let mut pages = 0;
    for page in fs::read_dir(&folder).unwrap() {
        let page = page.unwrap().path();
        let text =
            run(Command::new("groff").args(["-k", "-man", "-Tutf8", "-P-cbou", "-ww"]).arg(&page)).clean();
        assert!(text.contains("NAME") && text.contains("OPTIONS"), "{}: {text}", page.display());
        let words = page.file_stem().unwrap().to_str().unwrap().split('-').skip(1);
        let help = typed(&words.chain(["-h"]).collect::<Vec<_>>()).clean();
        assert!(examples(&help).all(|line| text.contains(line)), "{text}");
        pages += 1;
    }
    assert!(pages > commands().len());
}

#[test]
fn make_install_puts_program_manual_and_completions_in_their_places_and_make_uninstall_removes_them() {
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("release");
    fs::create_dir(&built).unwrap();
    program_at(&built.join("arcssh"), Path::new(ARCSSH));
    let mut make = readme::make(&["install", "CARGO=true", "PREFIX=/usr"]);
    make.arg(format!("TARGET={}", folder.path().display()));
    make.arg(format!("DESTDIR={}", folder.path().join("root").display()));
    let made = run(&mut make);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(
        said.ends_with("\n  arcssh login\n  arcssh config MACHINE --user USER\n  ssh MACHINE\n"),
        "{said}"
    );
    let installed = |path: &str| fs::metadata(folder.path().join("root/usr").join(path)).unwrap().len() > 100;
    assert!(installed("bin/arcssh") && installed("share/man/man1/arcssh.1"));
    assert!(installed("share/man/man1/arcssh-proxy.1"));
    assert!(installed("share/bash-completion/completions/arcssh"));
    assert!(installed("share/zsh/site-functions/_arcssh"));
    assert!(installed("share/fish/vendor_completions.d/arcssh.fish"));
    let other = folder.path().join("root/usr/share/man/man1/ssh.1");
    fs::write(&other, "").unwrap();
    let mut make = readme::make(&["uninstall", "PREFIX=/usr"]);
    make.arg(format!("DESTDIR={}", folder.path().join("root").display()));
    assert_eq!(run(&mut make).code, Some(0));
    let left = run(Command::new("find").arg(folder.path().join("root")).args(["-type", "f"])).clean();
    assert_eq!(left.trim(), other.to_str().unwrap());
}

#[test]
fn make_install_says_before_it_builds_that_it_may_not_write() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    script(folder.path(), "cargo", &format!("#!/bin/sh\necho \"$*\" >> '{}'\n", log.display()));
    // Even root makes no folder below a file.
    let place = log.join("usr");
    let mut make = readme::make(&["install"]);
    make.arg(format!("CARGO={}", folder.path().join("cargo").display()));
    let denied = run(make.arg(format!("PREFIX={}", place.display())));
    assert_eq!(denied.code, Some(2), "{}", denied.stderr);
    let why = format!("make: cannot install arcssh: you may not write below {}\n", place.display());
    let hint =
        "make: hint: for all users: sudo make install; for you alone: make install PREFIX=$HOME/.local\n";
    assert!(denied.stderr.contains(&(why + hint)), "{}", denied.stderr);
    assert_eq!(fs::read_to_string(&log).unwrap(), "--version\n");
}

#[test]
fn the_version_is_one_line_and_more_for_a_bug_report() {
    let line = format!("arcssh {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(typed(&["version"]).clean(), line);
    assert_eq!(typed(&["--version"]).clean(), line);
    let w = world(&[]);
    let told = run(&mut w.arcssh(&["version", "--verbose"])).clean();
    assert!(told.starts_with(&line), "{told}");
    let value = |title: &str| {
        let value = told.lines().find_map(|line| line.strip_prefix(title)).map(str::trim);
        value.unwrap_or_else(|| panic!("no {title} in {told}"))
    };
    assert!(value("rustc").starts_with("rustc 1."), "{told}");
    assert!(value("target").contains(std::env::consts::ARCH), "{told}");
    assert!(["debug", "release"].contains(&value("profile")) && value("tls").contains("ring"), "{told}");
    assert!(Path::new(value("store")).starts_with(w.home()), "{told}");
    assert!(value("features").contains("--entra"), "{told}");
    assert!(value("ssh ").starts_with("OpenSSH_") && value("ssh ").contains('/'), "{told}");
}

#[test]
fn what_a_full_disk_does_not_take_is_told_and_a_closed_pipe_is_no_failure() {
    let w = world(&["web01"]);
    for command in [
        "list",
        "list --format json",
        "doctor",
        "last",
        "account",
        "cache show",
        "completions bash",
        "cache clear",
        "version",
        "version --verbose",
        "warm web01 --port {PORT}",
        "config --output - web01",
        "cert",
        "--version",
        "--help",
        "help warm",
    ] {
        let command = command.replace("{PORT}", &w.sshd().port().to_string());
        let words = |end: &str| format!("'{ARCSSH}' {command} {end}");
        let full = run(w.command("sh").args(["-c", &words("> /dev/full")]));
        let told = "arcssh: standard output cannot be written: No space left on device (os error 28)\n\
            arcssh: hint: free the disk, or write elsewhere\n";
        assert_eq!((full.code, full.stderr.as_str()), (Some(1), told), "{command}");
        let closed = run(w.command("bash").args(["-o", "pipefail", "-c", &words("| true")]));
        assert_eq!((closed.code, closed.stderr.as_str()), (Some(0), ""), "{command}");
    }
}

#[test]
fn a_full_disk_fails_a_dry_run_and_the_manual() {
    let w = world(&["web01"]);
    let dry_run = format!("'{ARCSSH}' config --dry-run web01 --file new > /dev/full");
    let full = run(w.command("sh").args(["-c", &dry_run]));
    assert_eq!(full.code, Some(1), "{}", full.stderr);
    let end = "arcssh: standard output cannot be written: No space left on device (os error 28)\n\
        arcssh: hint: free the disk, or write elsewhere\n";
    assert!(
        full.stderr.ends_with(end) && full.stderr.matches("cannot be written").count() == 1,
        "{}",
        full.stderr
    );
    assert!(!w.home().join("new").exists());

    let Some(own_namespaces) = namespaces("m") else { return };
    let folder = w.home().join("manual");
    fs::create_dir(&folder).unwrap();
    let shell = "mount -t tmpfs -o size=8k none \"$2\"; exec \"$1\" man \"$2\"";
    let mut unshare = Command::new("unshare");
    let full = run(unshare.args([&own_namespaces, "sh", "-euc", shell, "sh", ARCSSH]).arg(&folder));
    let why = format!("arcssh: cannot write to {}: No space left on device", folder.display());
    assert_eq!(full.code, Some(1), "{}", full.stderr);
    assert!(full.stderr.starts_with(&why) && full.arcssh_lines().len() == 1, "{}", full.stderr);
}

#[test]
fn a_message_about_the_command_line_quotes_no_escape_sequence() {
    for words in
        [&["list", "\u{1b}]0;x\u{7}"][..], &["\u{1b}[2J"], &["list", "--format", "\u{1b}[31m\u{202e}"]]
    {
        let wrong = run(Command::new(ARCSSH).args(words));
        assert_eq!((wrong.code, wrong.stdout.len()), (Some(2), 0), "{}", wrong.stderr);
        assert!(
            wrong.stderr.starts_with("error: ") || wrong.stderr.starts_with("arcssh: "),
            "{}",
            wrong.stderr
        );
        assert!(!wrong.stderr.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{:?}", wrong.stderr);
    }
}
