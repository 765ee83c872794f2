//! Help, completions, manual and version.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::readme;
use crate::support::{ARCSSH, lab, namespaces, on_a_terminal, program_at, run, run_arcssh, script};

/// The commands that the help lists.
fn commands() -> Vec<String> {
    descriptions().into_iter().map(|(command, _)| command).collect()
}

/// The commands that the help lists, with their descriptions.
fn descriptions() -> Vec<(String, String)> {
    let help = run_arcssh(&["--help"]).clean();
    let groups =
        help.lines().skip_while(|line| *line != "Start here:").take_while(|line| *line != "General:");
    let described = groups.filter_map(|line| line.strip_prefix("  ")?.split_once("  "));
    described.map(|(command, text)| (command.to_owned(), text.trim().to_owned())).collect()
}

/// The examples at the end of a help text, without the heading.
fn examples(help: &str) -> impl Iterator<Item = &str> {
    let (_, below) = help.split_once("\n  -h, --help\n").unwrap();
    below.lines().skip_while(|line| !line.is_empty()).filter(|line| *line != "Examples:")
}

#[test]
fn arcssh_without_arguments_prints_the_help() {
    let alone = run_arcssh(&[]);
    assert_eq!((alone.code, alone.stdout.len()), (Some(2), 0), "standard output belongs to ssh");
    assert_eq!(alone.stderr, run_arcssh(&["-h"]).clean());
    let help = run_arcssh(&["--help"]).clean();
    for text in [&alone.stderr, &help] {
        assert!(text.starts_with("Plain ssh to Azure Arc-enabled servers"), "{text}");
        assert!(text.contains("\nStart here:\n  login  ") && text.contains("\nGeneral:\n"), "{text}");
    }
    assert!(help.contains("\nExamples:\n  arcssh login "), "{help}");
    assert_eq!(commands()[..3], ["login", "setup", "config"]);
}

/// The last line of the terminal is for the next command.
#[test]
fn the_short_help_of_each_command_fits_a_terminal_and_points_to_the_full_help() {
    let w = lab(&[]);
    for command in commands().iter().map(String::as_str).chain(["", "cache show", "cache clear"]) {
        let shown = |columns: usize| {
            let line = format!("stty rows 24 cols {columns}; NO_COLOR=1 '{ARCSSH}' {command} -h");
            let help = on_a_terminal(w.command("script"), &line).1;
            assert!(help.lines().all(|line| line.chars().count() <= columns), "{columns} columns: {help}");
            help
        };
        assert!(shown(60).lines().count() >= shown(100).lines().count());
        let help = shown(80);
        assert!(help.lines().count() < 24, "{} lines: {help}", help.lines().count());
        assert!(help.contains("--help lists all options, with examples"), "{help}");
        let full =
            run_arcssh(&[&command.split_whitespace().collect::<Vec<_>>()[..], &["--help"]].concat()).clean();
        let options = full.lines().filter(|line| line.trim_start().starts_with('-') && !line.contains(": "));
        assert!(
            options.count() >= 2 && full.contains("--log-file") && !full.contains("\nOptions:\n"),
            "{full}"
        );
    }
}

#[test]
fn a_usage_error_suggests_the_similar_word_and_names_the_command_of_the_help() {
    for (words, tip, usage, help) in [
        (&["confg"][..], "subcommand exists: 'config'", "arcssh [OPTIONS] <COMMAND>", ""),
        (&["--verbos", "list"], "argument exists: '--verbose'", "arcssh [OPTIONS] <COMMAND>", "list "),
        (
            &["config", "--usr", "x"],
            "argument exists: '--user'",
            "arcssh config [OPTIONS] [MACHINE]...",
            "config ",
        ),
        (
            &["config", "web01", "--conrtol-master"],
            "exists: '--control-master'",
            "arcssh config [OPTIONS] [MACHINE]...",
            "config ",
        ),
        (
            &["setup", "--jbos", "3", "web01"],
            "exists: '--jobs'",
            "arcssh setup [OPTIONS] [MACHINE]...",
            "setup ",
        ),
        (
            &["config", "--group", "rg-web"],
            "exists: '--resource-group'",
            "arcssh config [OPTIONS] [MACHINE]...",
            "config ",
        ),
        (&["login", "--device"], "exists: '--device-code'", "arcssh login [OPTIONS]", "login "),
        (&["cache", "shwo"], "subcommand exists: 'show'", "arcssh cache [OPTIONS] <COMMAND>", "cache "),
        (&["cache", "show", "--verbos"], "exists: '--verbose'", "arcssh cache show [OPTIONS]", "cache "),
        (&["list", "--format", "jso"], "value exists: 'json'", "", "list "),
        (&["completions", "bsh"], "value exists: 'bash'", "", "completions "),
    ] {
        let error = run_arcssh(words);
        assert_eq!((error.code, error.stdout.len()), (Some(2), 0), "{words:?}");
        let lines: Vec<&str> = error.stderr.lines().collect();
        assert!(
            lines.iter().any(|line| line.starts_with("  tip: ") && line.ends_with(tip)),
            "{}",
            error.stderr
        );
        let usages = lines.iter().filter_map(|line| line.strip_prefix("Usage: ")).collect::<Vec<_>>();
        assert_eq!(usages, if usage.is_empty() { vec![] } else { vec![usage] }, "{}", error.stderr);
        let help = format!("For help: arcssh {help}--help");
        assert_eq!(lines.last(), Some(&help.as_str()), "{}", error.stderr);
    }
}

#[test]
fn a_value_that_is_no_number_is_described_in_plain_words() {
    for (words, option, cause) in [
        (&["ping", "web01", "--count", "x"][..], "--count <NUMBER>", "not a whole number"),
        (
            &["ping", "web01", "--count", "99999999999999999999"],
            "--count <NUMBER>",
            "the number is too large",
        ),
        (&["setup", "web01", "--port", "ssh"], "--port <PORT>", "not a whole number"),
        (&["warm", "web01", "--jobs", ""], "--jobs <NUMBER>", "not a whole number"),
    ] {
        let error = run_arcssh(words);
        let value = words.last().unwrap();
        let line = format!("error: invalid value '{value}' for '{option}': {cause}");
        assert_eq!((error.code, error.stderr.lines().next()), (Some(2), Some(line.as_str())));
    }
}

#[test]
fn an_unknown_option_gets_no_unrelated_suggestion() {
    for words in [
        &["config", "--rg", "x"][..],
        &["setup", "--format", "json"],
        &["list", "--force"],
        &["warm", "--host-name", "web01"],
        &["list", "--yess"],
        &["cache", "show", "--json"],
    ] {
        let error = run_arcssh(words);
        assert!(error.code == Some(2) && !error.stderr.contains("tip:"), "{words:?}: {}", error.stderr);
    }
}

/// Also from a call that sets options in the environment, and without values.
#[test]
fn a_usage_error_is_short() {
    for words in [
        &["config", "--adopt", "--remove"][..],
        &["config", "--output", "-", "--file", "x"],
        &["list", "--format", "table", "--list"],
        &["doctor", "--fix"],
        &["proxy", "--suffix", ".arc"],
        &["cert", "--show", "--file", "x"],
        &["cache"],
        &["completions"],
        &["man"],
        &["list", "--tag"],
    ] {
        let mut arcssh = Command::new(ARCSSH);
        arcssh.args(words).env_clear().envs([("ARCSSH_CLOUD", "usgov"), ("ARCSSH_CREDENTIAL", "azure-cli")]);
        let error = run(&mut arcssh);
        assert_eq!(error.code, Some(2), "{}", error.stderr);
        if words == ["cache"] {
            assert_eq!(error.stderr, run_arcssh(&["cache", "-h"]).clean());
            continue;
        }
        let lines = error.stderr.lines().collect::<Vec<_>>();
        let help = format!("For help: arcssh {} --help", words[0]);
        assert!(lines.len() <= 6 && lines.last() == Some(&help.as_str()), "{}", error.stderr);
        assert!(
            !error.stderr.contains("--cloud") && !error.stderr.contains("--credential"),
            "{}",
            error.stderr
        );
    }
}

/// An example that wraps cannot be copied.
#[test]
fn each_command_has_help_whose_examples_fit_a_terminal() {
    for command in commands().iter().map(String::as_str).chain([""]) {
        let words: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let help = run_arcssh(&words).clean();
        assert!(help.contains(format!("\nUsage: arcssh {command}").trim_end()), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        assert!(examples(&help).all(|line| line.chars().count() < 80), "{help}");
    }
}

#[test]
fn help_is_coloured_only_on_a_terminal_and_can_be_plain() {
    let w = lab(&[]);
    let shown = |variables: &str, command: &str| {
        let line = format!("{variables} '{ARCSSH}' {command} --help");
        on_a_terminal(w.command("script"), &line).1.contains('\u{1b}')
    };
    for command in commands().iter().map(String::as_str).chain([""]) {
        assert!(shown("", command) && shown("NO_COLOR=", command), "{command}");
        assert!(!shown("NO_COLOR=1", command), "{command}");
    }
    for setting in ["TERM=dumb", "CI=true TERM=dumb", "CLICOLOR=0"] {
        assert!(!shown(setting, ""), "{setting}");
    }
    assert!(!run_arcssh(&["--help"]).clean().contains('\u{1b}'));
}

/// The output of a shell that runs this script, in which `$1` is a file with the completions.
fn completed_by(shell: &str, name: &str, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, run_arcssh(&["completions", shell]).clean()).unwrap();
    // No start-up files, so that the user's shell configuration has no effect.
    let w = lab(&[]);
    let mut command = w.command(shell);
    match shell {
        "bash" => command.args(["--norc", "--noprofile", "-c", script, shell]),
        "zsh" => command.args(["-f", "-c", script, shell]),
        _ => command.args(["--no-config", "-c", script]),
    };
    // The scripts run arcssh. fish also loads completions that are installed for arcssh.
    let programs = Path::new(ARCSSH).parent().unwrap().display();
    command.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
    run(command.arg(&file).env("XDG_DATA_DIRS", w.home())).clean()
}

#[test]
fn bash_completes_commands_and_options() {
    let script = r#"source "$1"
        complete -p arcssh >/dev/null
        try() { COMP_WORDS=("$@"); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; _arcssh arcssh "${@: -1}"; echo "${COMPREPLY[*]}"; }
        try arcssh acc; try arcssh warm --all --j; try arcssh proxy --service ''"#;
    assert_eq!(completed_by("bash", "arcssh", script), "account\n--jobs\nSSH WAC\n");
}

#[test]
fn zsh_finds_the_completions_and_loads_them() {
    let script = r#"fpath=(${1:h} $fpath); autoload -Uz compinit; compinit -u -D
        print $_comps[arcssh]; autoload +X _arcssh && print ${+functions[_arcssh]}"#;
    assert_eq!(completed_by("zsh", "_arcssh", script), "_arcssh\n1\n");
}

/// What a user sees who presses the tab key: zsh types and reads in a pseudo-terminal (zshmodules(1), zpty).
#[test]
fn zsh_shows_the_description_of_each_command_option_and_value() {
    let script = r#"zmodload zsh/zpty
        zpty user zsh -f -i
        zpty -w user "PS1=; stty cols 120 rows 60; fpath=(${1:h} \$fpath); autoload -Uz compinit; compinit -u -D; print READY=\$?"
        zpty -r user shown $'*READY=0*'
        press() { zpty -w -n user "$1"; zpty -r user shown "*$2*"; print -r -- "$shown"; zpty -w -n user $'\x15'; }
        press $'arcssh \t\t' 'warm *advance'
        press $'arcssh login --\t\t' '--verbose *more'
        press $'arcssh list --output \t\t' 'ansible *inventory'"#;
    let shown = completed_by("zsh", "_arcssh", script);
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for (command, text) in descriptions() {
        assert!(words.contains(&format!("{command} -- {text}")), "{command}: {shown}");
    }
    for described in ["--device-code -- Sign in with a browser on another device", "json -- array of objects"]
    {
        assert!(words.contains(described), "{described}: {shown}");
    }
}

#[test]
fn fish_shows_the_description_of_each_command() {
    let shown = completed_by("fish", "arcssh.fish", "source $argv[1]; complete -C 'arcssh '");
    for (command, text) in descriptions() {
        assert!(shown.lines().any(|line| line == format!("{command}\t{text}")), "{command}: {shown}");
    }
}

#[test]
fn fish_completes_commands_and_options() {
    let script = "source $argv[1]; complete -C 'arcssh acc'; complete -C 'arcssh warm --all --j'";
    assert_eq!(
        completed_by("fish", "arcssh.fish", script),
        "account\tShow the Azure account in use\n--jobs\tNumber of machines to connect to in parallel\n"
    );
}

#[test]
fn completions_of_each_shell_contain_every_command() {
    for (shell, separator) in [("bash", '\n'), ("zsh", ':'), ("fish", '\t'), ("powershell", '\t')] {
        let values = run_arcssh(&["complete", shell, "--"]).clean();
        for command in commands() {
            let is_completed = |line: &str| line.split(separator).next() == Some(&command);
            assert!(values.lines().any(is_completed), "{shell}: {command}: {values}");
        }
    }
    let elvish = run_arcssh(&["completions", "elvish"]).clean();
    assert!(commands().iter().all(|command| elvish.contains(&format!("cand {command} '"))));
}

#[test]
fn each_command_has_a_manual_page_that_renders_without_warnings() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("share/man1");
    run_arcssh(&["man", folder.to_str().unwrap()]).clean();
    for command in commands() {
        assert!(folder.join(format!("arcssh-{command}.1")).exists(), "{command}");
    }
    let mut pages = 0;
    for page in fs::read_dir(&folder).unwrap() {
        let page = page.unwrap().path();
        let text =
            run(Command::new("groff").args(["-k", "-man", "-Tutf8", "-P-cbou", "-ww"]).arg(&page)).clean();
        assert!(text.contains("NAME") && text.contains("OPTIONS"), "{}: {text}", page.display());
        let name = page.file_stem().unwrap().to_str().unwrap();
        let command = name.strip_prefix("arcssh-").filter(|name| commands().iter().any(|one| one == name));
        let words: Vec<&str> =
            command.map_or_else(|| name.split('-').skip(1).collect(), |command| vec![command]);
        let help = run_arcssh(&[&words[..], &["--help"]].concat()).clean();
        assert!(examples(&help).all(|line| text.contains(line)), "{text}");
        pages += 1;
    }
    assert!(pages > commands().len());
}

#[test]
fn make_install_installs_all_files_and_make_uninstall_removes_them() {
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("release");
    fs::create_dir(&built).unwrap();
    program_at(&built.join("arcssh"), Path::new(ARCSSH));
    let mut make = readme::make(&["install", "CARGO=true", "PREFIX=/usr"]);
    make.arg(format!("TARGET={}", folder.path().display()));
    make.arg(format!("DESTDIR={}", folder.path().join("root").display()));
    let made = run(&mut make);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let output = String::from_utf8(made.stdout).unwrap();
    assert!(
        output.ends_with("\n  arcssh login\n  arcssh config MACHINE --user USER\n  ssh MACHINE\n"),
        "{output}"
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
fn make_install_checks_permissions_before_it_builds() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    script(folder.path(), "cargo", &format!("#!/bin/sh\necho \"$*\" >> '{}'\n", log.display()));
    // Even root cannot create a directory below a file.
    let prefix = log.join("usr");
    let mut make = readme::make(&["install"]);
    make.arg(format!("CARGO={}", folder.path().join("cargo").display()));
    let denied = run(make.arg(format!("PREFIX={}", prefix.display())));
    assert_eq!(denied.code, Some(2), "{}", denied.stderr);
    let error = format!("make: cannot install arcssh: you may not write below {}\n", prefix.display());
    let hint =
        "make: hint: for all users: sudo make install; for you alone: make install PREFIX=$HOME/.local\n";
    assert!(denied.stderr.contains(&(error + hint)), "{}", denied.stderr);
    assert_eq!(fs::read_to_string(&log).unwrap(), "--version\n");
}

#[test]
fn version_is_one_line_and_verbose_lists_build_details() {
    let name = format!("arcssh {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(run_arcssh(&["--version"]).clean(), format!("{name}\n"));
    let line = run_arcssh(&["version"]).clean();
    let origin = line.strip_prefix(&name).unwrap().trim();
    assert!(
        origin.starts_with('(') && origin.ends_with(')') && origin.contains(std::env::consts::ARCH),
        "{line}"
    );
    let w = lab(&[]);
    let output = run(&mut w.arcssh(&["version", "--verbose"])).clean();
    assert!(output.starts_with(&line), "{output}");
    let value = |title: &str| {
        let value = output.lines().find_map(|line| line.strip_prefix(title)).map(str::trim);
        value.unwrap_or_else(|| panic!("no {title} in {output}"))
    };
    assert!(value("rustc").starts_with("rustc 1."), "{output}");
    assert!(value("target").contains(std::env::consts::ARCH), "{output}");
    assert!(["debug", "release"].contains(&value("profile")) && value("tls").contains("ring"), "{output}");
    assert!(Path::new(value("state")).starts_with(w.home()), "{output}");
    assert!(value("features").contains("--entra"), "{output}");
    assert!(value("ssh ").starts_with("OpenSSH_") && value("ssh ").contains('/'), "{output}");
}

#[test]
fn a_full_disk_is_an_error_and_a_closed_pipe_is_not() {
    let w = lab(&["web01"]);
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
        "ping web01 --count 1 --port {PORT}",
        "ping web01 --count 1 --port {PORT} -o json",
        "known-hosts web01 --port {PORT}",
        "config --output - web01",
        "cert",
        "--version",
        "--help",
        "help warm",
    ] {
        let command = command.replace("{PORT}", &w.sshd().port().to_string());
        let words = |end: &str| format!("'{ARCSSH}' {command} {end}");
        let full = run(w.command("sh").args(["-c", &words("> /dev/full")]));
        let expected = "arcssh: cannot write to standard output: No space left on device (os error 28)\n\
            arcssh: hint: free disk space, or write to another location\n";
        assert_eq!((full.code, full.stderr.as_str()), (Some(1), expected), "{command}");
        let closed = run(w.command("bash").args(["-o", "pipefail", "-c", &words("| true")]));
        assert_eq!((closed.code, closed.stderr.as_str()), (Some(0), ""), "{command}");
    }
}

#[test]
fn a_full_disk_is_an_error_for_a_dry_run_and_the_manual() {
    let w = lab(&["web01"]);
    let dry_run = format!("'{ARCSSH}' config --dry-run web01 --file new > /dev/full");
    let full = run(w.command("sh").args(["-c", &dry_run]));
    assert_eq!(full.code, Some(1), "{}", full.stderr);
    let end = "arcssh: cannot write to standard output: No space left on device (os error 28)\n\
        arcssh: hint: free disk space, or write to another location\n";
    assert!(
        full.stderr.ends_with(end) && full.stderr.matches("cannot write").count() == 1,
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
    let error = format!("arcssh: cannot write to {}: No space left on device", folder.display());
    assert_eq!(full.code, Some(1), "{}", full.stderr);
    assert!(full.stderr.starts_with(&error) && full.arcssh_lines().len() == 1, "{}", full.stderr);
}

#[test]
fn usage_errors_contain_no_escape_sequences() {
    for words in
        [&["list", "\u{1b}]0;x\u{7}"][..], &["\u{1b}[2J"], &["list", "--format", "\u{1b}[31m\u{202e}"]]
    {
        let failed = run(Command::new(ARCSSH).args(words));
        assert_eq!((failed.code, failed.stdout.len()), (Some(2), 0), "{}", failed.stderr);
        assert!(
            failed.stderr.starts_with("error: ") || failed.stderr.starts_with("arcssh: "),
            "{}",
            failed.stderr
        );
        assert!(!failed.stderr.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{:?}", failed.stderr);
    }
}
