//! Values that mean something to ssh, to a shell or to a terminal, given to the shipped binary: each is quoted right, or
//! refused by name and nothing is written.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::config::Home;
use crate::support::{ARCSSH, Run, program_at, run, script, world};

/// Pieces of hostile values.
const PIECES: [&str; 36] = [
    " ",
    "\t",
    "\n",
    "\r\n",
    "\u{1b}[2J",
    "\u{a0}",
    "\u{2028}",
    "\"",
    "'",
    "`touch x`",
    "\\",
    "\\\\",
    "%",
    "%%",
    "%h",
    "$",
    "$HOME",
    "$(touch x)",
    "#",
    "*",
    "?",
    "!",
    "-",
    "=",
    ",",
    ";",
    "&",
    "|",
    ">",
    "(",
    "{user}",
    "{sections}",
    "\nHost *\n  ProxyCommand touch x\n",
    "ü",
    "机器",
    "a",
];

fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned),
        1 => "\\PC{0,3}",
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

/// Runs `test` with a bounded number of random values.
fn each(strategy: impl Strategy<Value = String>, cases: u32, test: impl Fn(String)) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let result = TestRunner::new(config).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn config(home: &Home<'_>, arguments: &[&str]) -> Run {
    let mut arcssh = home.command(ARCSSH);
    run(arcssh.arg("config").args(arguments))
}

/// The file's directives without the block's first comment lines, and what ssh makes of `alias`.
fn written(home: &Home<'_>, alias: &str) -> (Vec<String>, Vec<String>) {
    let text = fs::read_to_string(home.file()).unwrap();
    let keyword = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let mut ssh = home.command("ssh");
    let effective = run(ssh.args(["-T", "-G", "-F"]).arg(home.file()).arg(alias)).clean();
    // Not by `lines`, which knows other ends of lines than ssh does.
    (text.split('\n').map(keyword).collect(), effective.split('\n').map(str::to_owned).collect())
}

/// Gives `option` each value, and asserts that the section has it as `keyword`, or that it is refused by that name.
fn values_of(option: &str, name: &str, lead: &str, expected: impl Fn(&str) -> String) {
    let w = world(&["web01"]);
    let home = Home::new(&w);
    assert_eq!(config(&home, &["--wildcard", "*.arc", &format!("{option}=plain")]).code, Some(0));
    let (lines, _) = written(&home, "x.arc");
    each(hostile(), 60, |value| {
        let value = format!("{lead}{value}");
        fs::remove_file(home.file()).unwrap();
        let run = config(&home, &["--wildcard", "*.arc", &format!("{option}={value}")]);
        if run.code == Some(0) {
            let (now, effective) = written(&home, "x.arc");
            assert_eq!(now, lines, "{value:?}");
            assert!(effective.contains(&expected(&value)), "{value:?}: {effective:?}");
            let again = config(&home, &[]);
            assert!(again.stderr.ends_with("is as it should be\n"), "{value:?}: {}", again.stderr);
        } else {
            assert_eq!(run.code, Some(1), "{value:?}");
            assert!(run.stderr.starts_with(&format!("arcssh: {name} ")), "{value:?}: {}", run.stderr);
            assert!(!run.stderr.trim_end().contains(char::is_control), "{:?}", run.stderr);
            assert!(!home.file().exists());
            fs::write(home.file(), "").unwrap();
        }
        assert!(!w.home().join("user/x").exists(), "a command was injected by {value:?}");
    });
}

#[test]
fn users() {
    values_of("--user", "User", "", |value| format!("user {value}"));
}

#[test]
fn identities() {
    values_of("--identity", "IdentityFile", "/no folder/", |value| {
        format!("identityfile {}", value.replace('%', "%%"))
    });
}

#[test]
fn wildcards() {
    let w = world(&["web01"]);
    let home = Home::new(&w);
    let pattern = prop_oneof![hostile(), "[*?a-z.]{1,6}", "[*?]\\PC{0,2}"];
    each(pattern, 100, |value| {
        let _ = fs::remove_file(home.file());
        let run = config(&home, &[&format!("--wildcard={value}")]);
        if run.code == Some(0) {
            let text = fs::read_to_string(home.file()).unwrap();
            assert!(text.contains(&format!("\nHost {value}\n")), "{value:?}: {text}");
            let probe = value.replace(['*', '?'], "x");
            let (_, effective) = written(&home, &probe);
            let suffix = value.rsplit(['*', '?']).next().unwrap();
            let ours = effective.iter().find(|line| line.starts_with("proxycommand ")).unwrap();
            let suffix = match suffix {
                "" => String::new(),
                ascii if ascii.is_ascii() => format!(" --suffix {ascii}"),
                other => format!(" --suffix \"{other}\""),
            };
            assert!(ours.ends_with(&format!(" proxy --host %n{suffix} --port %p")), "{ours}");
        } else {
            assert_eq!(run.stderr, format!("arcssh: {value:?} is not a pattern such as *.arc\n"));
            assert!(!home.file().exists());
        }
    });
}

#[test]
fn names_of_machines() {
    let w = world(&["web01"]);
    let home = Home::new(&w);
    for name in [
        "a b",
        "a\nHost *",
        "*",
        "a%h",
        "$(touch x)",
        "..",
        "",
        "a\"b",
        "a/b c",
        "/subscriptions/x/$(touch x)",
    ] {
        let run = config(&home, &["--", name]);
        assert!(matches!(run.code, Some(1..)), "{name:?}");
        assert!(run.stderr.lines().all(|line| line.starts_with("arcssh: ")), "{name:?}: {}", run.stderr);
        assert!(!home.file().exists(), "{name:?}");
    }
}

#[test]
fn groups_and_tags_stay_in_their_line_and_are_read_again() {
    let w = world(&["web01"]);
    let home = Home::new(&w);
    let value = "k\"=a b\n# <<< arcssh <<<\nHost *\r\n {options}{sections} 'ü\u{2028}\\ %h";
    for selector in ["-g", "--tag"] {
        let run = config(&home, &["web01", selector, value]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let (lines, effective) = written(&home, "web01");
        let keywords = [
            "#",
            "#",
            "#",
            "",
            "#",
            "Host",
            "HostName",
            "HostKeyAlias",
            "ProxyCommand",
            "#",
            "Host",
            "#",
            "",
        ];
        assert_eq!(lines, keywords);
        assert!(effective.contains(&format!("proxycommand {ARCSSH} proxy {} --port %p", w.id())));
        assert!(config(&home, &[]).stderr.ends_with("is as it should be\n"));
        assert_eq!(config(&home, &["--remove"]).code, Some(0));
        assert_eq!(fs::read_to_string(home.file()).unwrap(), "");
    }
}

#[test]
fn names_of_files() {
    let w = world(&["web01"]);
    let home = Home::new(&w);
    for name in
        ["a b", "%h%%", "$HOME", "it's", "\"", "\\", "-o", "#x", "*?!", "ü 机", "a\nb", "~", "=,;&|<>()"]
    {
        let file = format!("folder {name}/{name}");
        let run = config(&home, &["web01", &format!("--file={file}")]);
        assert_eq!(run.code, Some(0), "{name:?}: {}", run.stderr);
        let run = config(&home, &["--verify", &format!("--file={file}")]);
        assert_eq!(run.code, Some(0), "{name:?}: {}", run.stderr);
        if name.contains('\n') {
            // ssh names such a file on two lines, where it is not looked for.
            continue;
        }
        let text = fs::read_to_string(w.home().join("user").join(&file)).unwrap();
        fs::write(w.home().join("user").join(&file), format!("Host *\n  HostKeyAlias x\n{text}")).unwrap();
        let run = config(&home, &["--verify", &format!("--file={file}")]);
        assert!(run.stderr.contains(&format!("{file} line 2 says \"x\"")), "{name:?}: {}", run.stderr);
    }
}

/// The shipped binary at a path with `name` in it writes a section; then a program that shows its arguments takes its
/// place, and ssh starts that.
fn started_at(home: &Home<'_>, user: &Path, name: &str, id: &str) {
    let program = user.join(format!("bin {name}")).join("arcssh");
    if fs::create_dir_all(program.parent().unwrap()).is_err() {
        return;
    }
    let _ = (fs::remove_file(&program), fs::remove_file(home.file()), fs::remove_file(user.join("argv")));
    fs::hard_link(ARCSSH, &program).unwrap_or_else(|_| program_at(&program, Path::new(ARCSSH)));
    let run_config = run(home.command(&program).args(["config", "web01"]));
    fs::remove_file(&program).unwrap();
    if run_config.code != Some(0) {
        assert!(
            run_config.stderr.contains("cannot stand in a ProxyCommand"),
            "{name:?}: {}",
            run_config.stderr
        );
        assert!(
            run_config.stderr.contains(&format!("{:?}", program.to_str().unwrap()).replace('%', "%%")),
            "{}",
            run_config.stderr
        );
        assert!(!home.file().exists());
        return;
    }
    script(program.parent().unwrap(), "arcssh", "#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\" >argv\n");
    let mut ssh = home.command("ssh");
    run(ssh.arg("-F").arg(home.file()).args(["-o", "BatchMode=yes", "web01"]));
    let argv = fs::read_to_string(user.join("argv")).unwrap();
    let given: Vec<&str> = argv.split_terminator('\0').collect();
    assert_eq!(given, [program.to_str().unwrap(), "proxy", id, "--port", "22"], "{name:?}");
    assert!(!user.join("x").exists(), "a command was injected by {name:?}");
}

#[test]
fn paths_of_the_program() {
    let w = world(&["web01"]);
    let home = Home::new(&w);
    let user = w.home().join("user");
    let id = w.id();
    started_at(&home, &user, "%h;&|<>(){}*?#~ü=,^[]", &id);
    assert!(user.join("argv").exists(), "such a path can be written");
    each(hostile(), 40, |name| started_at(&home, &user, &name.replace('/', "_"), &id));
}
