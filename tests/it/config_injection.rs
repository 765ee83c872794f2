//! Values with a meaning for ssh, a shell or a terminal as input of `arcssh config`: each is quoted correctly, or
//! rejected with its name and nothing is written.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use arcssh_emulator::{ArmCall, ArmFault, Machine};
use serde_json::json;

use crate::config::Home;
use crate::support::{ARCSSH, Lab, Run, lab, lab_with, program_at, run, script};

/// Parts of hostile values.
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
    "{host_entries}",
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
fn for_each(strategy: impl Strategy<Value = String>, cases: u32, test: impl Fn(String)) {
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

/// The first words of the file's lines, and the output of `ssh -G` for `alias`.
fn directives(home: &Home<'_>, alias: &str) -> (Vec<String>, Vec<String>) {
    let text = fs::read_to_string(home.file()).unwrap();
    let keyword = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let mut ssh = home.command("ssh");
    let effective = run(ssh.args(["-T", "-G", "-F"]).arg(home.file()).arg(alias)).clean();
    // `str::lines` splits at other line ends than ssh.
    (text.split('\n').map(keyword).collect(), effective.split('\n').map(str::to_owned).collect())
}

/// Passes each value to `option`, and asserts that the host entry contains it as `keyword`, or that arcssh rejects it
/// with the option's name.
fn accepts_or_rejects(option: &str, name: &str, prefix: &str, expected: impl Fn(&str) -> String) {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    assert_eq!(config(&home, &["--wildcard", "*.arc", &format!("{option}=plain")]).code, Some(0));
    let (lines, _) = directives(&home, "x.arc");
    for_each(hostile(), 60, |value| {
        let value = format!("{prefix}{value}");
        fs::remove_file(home.file()).unwrap();
        let run = config(&home, &["--wildcard", "*.arc", &format!("{option}={value}")]);
        if run.code == Some(0) {
            let (updated, effective) = directives(&home, "x.arc");
            assert_eq!(updated, lines, "{value:?}");
            assert!(effective.contains(&expected(&value)), "{value:?}: {effective:?}");
            let refreshed = config(&home, &[]);
            assert!(refreshed.stderr.ends_with("is up to date\n"), "{value:?}: {}", refreshed.stderr);
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
fn user_values() {
    accepts_or_rejects("--user", "User", "", |value| format!("user {value}"));
}

#[test]
fn identity_values() {
    accepts_or_rejects("--identity", "IdentityFile", "/no folder/", |value| {
        format!("identityfile {}", value.replace('%', "%%"))
    });
}

#[test]
fn wildcard_values() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let pattern = prop_oneof![
        hostile(),
        "[*?a-z.]{1,6}",
        "[*?]\\PC{0,2}",
        "[a-z*?]{0,3}[*?][.][a-z]{3,8}",
        "[*][.]\\PC{3,5}"
    ];
    for_each(pattern, 100, |value| {
        let _ = fs::remove_file(home.file());
        let run = config(&home, &[&format!("--wildcard={value}")]);
        if run.code == Some(0) {
            let text = fs::read_to_string(home.file()).unwrap();
            assert!(text.contains(&format!("\nHost {value}\n")), "{value:?}: {text}");
            let probe = value.replace(['*', '?'], "x");
            let (_, effective) = directives(&home, &probe);
            let suffix = value.rsplit(['*', '?']).next().unwrap();
            let command = effective.iter().find(|line| line.starts_with("proxycommand ")).unwrap();
            let suffix = match suffix {
                ascii if ascii.is_ascii() => format!(" --suffix {ascii}"),
                other => format!(" --suffix \"{other}\""),
            };
            assert!(command.ends_with(&format!(" proxy --host %h{suffix} --port %p")), "{command}");
        } else {
            assert!(run.stderr.starts_with(&format!("arcssh: {value:?} ")), "{value:?}: {}", run.stderr);
            assert!(!home.file().exists());
        }
    });
}

#[test]
fn a_wildcard_covers_only_a_suffix_of_the_user() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    fs::create_dir(w.home().join("user/.ssh")).unwrap();
    let own_entries = "Host db.example.arc\n  ProxyJump jump.hop\n";
    fs::write(home.file(), own_entries).unwrap();
    for pattern in [
        "*",
        "**",
        "?*",
        "*?",
        "*.*",
        "*.?",
        "?",
        "web*",
        "git*",
        "*com",
        "*.com",
        "*.COM",
        "*.de",
        "*.co.uk",
        "*.local",
        "*.localhost",
        "*.internal",
        "*.1",
        "10.*",
        "*.",
        "*..arc",
        "!x",
        "!*.arc",
        "*.arc,*",
        "*.arc *",
        "*.example.arc",
        "*.hop",
        "x*.example.arc*",
        "*.xn--p1ai",
        "-*.arc",
        "",
    ] {
        let refused = config(&home, &[&format!("--wildcard={pattern}")]);
        assert_eq!(refused.code, Some(1), "{pattern}: {}", refused.stderr);
        assert!(
            refused.stderr.starts_with(&format!("arcssh: {pattern:?} ")),
            "{pattern}: {}",
            refused.stderr
        );
        assert_eq!(fs::read_to_string(home.file()).unwrap(), own_entries);
    }
    let output = config(&home, &["--wildcard=*.example.arc"]).stderr;
    let location = format!("{} line 1", home.file().display());
    assert!(
        output.contains(&format!("covers \"db.example.arc\", which ssh already uses: {location};")),
        "{output}"
    );
    for pattern in ["*.arc", "web-??.arc", "*.arc.example.com"] {
        fs::write(home.file(), "").unwrap();
        let result = config(&home, &[&format!("--wildcard={pattern}")]);
        assert_eq!(result.code, Some(0), "{pattern}: {}", result.stderr);
    }
}

#[test]
fn machine_names() {
    let w = lab(&["web01"]);
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
fn groups_and_tags_stay_in_one_line_and_are_parsed_again() {
    let (tag, value) = ("k\"", "a b\n# <<< arcssh <<<\nHost *\r\n {options}{host_entries} 'ü\u{2028}\\ %h");
    let w = lab_with(&["web01"], |builder| builder.machine(Machine::new("tagged").tag(tag, value)));
    let home = Home::new(&w);
    let unknown = config(&home, &["web01", "-g", value]);
    assert_eq!((unknown.code, unknown.stderr.lines().count()), (Some(5), 2), "{}", unknown.stderr);
    assert!(!home.file().exists());
    let run = config(&home, &["web01", "--tag", &format!("{tag}={value}")]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(config(&home, &["--remove", "tagged"]).code, Some(0));
    let (lines, effective) = directives(&home, "web01");
    let keywords = [
        "#",
        "#",
        "",
        "#",
        "Host",
        "HostName",
        "HostKeyAlias",
        "ProxyUseFdpass",
        "ProxyCommand",
        "#",
        "Host",
        "#",
        "#",
        "#",
        "Host",
        "",
    ];
    assert_eq!(lines, keywords);
    assert!(effective.contains(&format!("proxycommand {ARCSSH} proxy {} --port %p", w.id())));
    assert!(config(&home, &[]).stderr.ends_with("is up to date\n"));
    assert_eq!(config(&home, &["--remove"]).code, Some(0));
    assert_eq!(fs::read_to_string(home.file()).unwrap(), "");
}

#[test]
fn file_names() {
    let w = lab(&["web01"]);
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
            // ssh prints the name of such a file on two lines, and arcssh reads single lines.
            continue;
        }
        let text = fs::read_to_string(w.home().join("user").join(&file)).unwrap();
        fs::write(w.home().join("user").join(&file), format!("Host *\n  HostKeyAlias x\n{text}")).unwrap();
        let run = config(&home, &["--verify", &format!("--file={file}")]);
        assert!(run.stderr.contains(&format!("{file} line 2 says \"x\"")), "{name:?}: {}", run.stderr);
    }
}

/// Writes a host entry with the shipped binary at a path that contains `name`. Replaces the binary with a program that
/// logs its arguments, and runs ssh.
fn runs_from(home: &Home<'_>, user: &Path, name: &str, id: &str) {
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
            run_config.stderr.contains("cannot be used in a ProxyCommand"),
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
    let arguments: Vec<&str> = argv.split_terminator('\0').collect();
    assert_eq!(arguments, [program.to_str().unwrap(), "proxy", id, "--port", "22"], "{name:?}");
    assert!(!user.join("x").exists(), "a command was injected by {name:?}");
}

#[test]
fn program_paths() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let user = w.home().join("user");
    let id = w.id();
    runs_from(&home, &user, "%h;&|<>(){}*?#~ü=,^[]", &id);
    assert!(user.join("argv").exists(), "ssh runs the program at such a path");
    for_each(hostile(), 40, |name| runs_from(&home, &user, &name.replace('/', "_"), &id));
}

/// Names that a user who can onboard a machine may choose. Only the first is unused.
const NAMES: [&str; 18] = [
    "web01",
    "github.com",
    "Bastion",
    "prod-1",
    "jump",
    "matched",
    "localhost",
    "10.0.0.1",
    "2130706433",
    "0x7f.1",
    "knownhost",
    "hashedhost",
    "included",
    "quoted",
    "joined",
    "known2",
    "completed",
    "_gateway",
];

/// The user's own entries, below the managed block.
const OWN_ENTRIES: &str = "Include included.conf\nHost bastion\n  HostName bastion.example.com\n  HostKeyAlias pinned\n\
    CanonicalDomains corp.example.net\nHost 'quoted' \"join\"ed\n  User them\n\
    Host prod-*\n  ProxyJump me@jump:22\nMatch originalhost matched\n  User them\nHost *\n  Compression yes\n";

/// A home directory with an ssh configuration and known hosts, some of them hashed.
fn home_with_own_entries(w: &Lab) -> Home<'_> {
    let home = Home::new(w);
    let folder = w.home().join("user/.ssh");
    fs::create_dir(&folder).unwrap();
    let absolute = OWN_ENTRIES.replace("included.conf", &folder.join("included.conf").display().to_string());
    fs::write(home.file(), absolute).unwrap();
    fs::write(folder.join("included.conf"), "Host included\n  Port 2222\n").unwrap();
    let known = w.sshd().known_hosts_line("hashedhost").unwrap();
    let hosts = folder.join("known_hosts");
    fs::write(&hosts, known).unwrap();
    run(home.command("ssh-keygen").arg("-qHf").arg(&hosts));
    let hashed = fs::read_to_string(&hosts).unwrap();
    assert!(hashed.starts_with("|1|"), "{hashed}");
    let line = |names: &str| w.sshd().known_hosts_line(names).unwrap();
    fs::write(&hosts, hashed + &line("other,[KnownHost]:2222") + &line("completed.corp.example.net"))
        .unwrap();
    fs::write(folder.join("known_hosts2"), line("known2")).unwrap();
    home
}

fn lab_of(names: &[&str]) -> Lab {
    lab_with(&[], |builder| names.iter().fold(builder, |builder, name| builder.machine(Machine::new(name))))
}

/// The output of `ssh -G` for a name.
fn effective(home: &Home<'_>, name: &str) -> Vec<String> {
    let mut ssh = home.command("ssh");
    run(ssh.args(["-T", "-G", "-F"]).arg(home.file()).arg(name)).clean().lines().map(str::to_owned).collect()
}

fn uses_arcssh(home: &Home<'_>, name: &str) -> bool {
    effective(home, name).iter().any(|line| line.starts_with("proxycommand ") && line.contains("arcssh"))
}

#[test]
fn a_filter_takes_no_name_that_ssh_already_uses() {
    let w = lab_of(&NAMES);
    for selector in [&["--all", "-v"][..], &["-g", "rg-arc", "-v"]] {
        let home = home_with_own_entries(&w);
        let before: Vec<Vec<String>> = NAMES.iter().map(|name| effective(&home, name)).collect();
        let result = config(&home, selector);
        assert_eq!(result.code, Some(0), "{}", result.stderr);
        assert!(uses_arcssh(&home, "web01"));
        for (name, before) in NAMES.iter().zip(before).skip(1) {
            assert_eq!(effective(&home, name), before, "{name} is unchanged");
            let lower = name.to_lowercase();
            assert!(!uses_arcssh(&home, &lower), "{:?}", effective(&home, &lower));
            let alias = format!("{}.rg-arc", name.to_lowercase());
            assert!(uses_arcssh(&home, &alias), "{alias}");
            assert!(
                result.stderr.contains(&format!("arcssh: added {alias} (rg-arc/{name}); ")),
                "{}",
                result.stderr
            );
        }
        let location = format!("ssh already uses its name: {} line 2;", home.file().display());
        assert!(result.stderr.contains(&location), "{}", result.stderr);
        let refreshed = config(&home, &[]);
        assert!(
            refreshed.stderr.ends_with("is up to date\n"),
            "a refresh changes nothing: {}",
            refreshed.stderr
        );
        fs::remove_dir_all(w.home().join("user")).unwrap();
    }
}

#[test]
fn a_named_machine_or_an_allowed_pattern_gets_the_short_name() {
    let w = lab_of(&["Bastion", "sql.corp.example.com", "github.com", "localhost"]);
    let home = home_with_own_entries(&w);
    let named = config(&home, &["bastion"]);
    let location = format!("{} line 2", home.file().display());
    assert_eq!(named.code, Some(0), "{}", named.stderr);
    assert!(
        named
            .stderr
            .contains(&format!("arcssh: added bastion (rg-arc/Bastion); the entry overrides {location}\n")),
        "{}",
        named.stderr
    );
    assert!(uses_arcssh(&home, "bastion"));
    let broad = config(&home, &["--all", "--allow-names", "*.corp.example.com"]);
    assert_eq!(broad.code, Some(0), "{}", broad.stderr);
    for (name, expected) in
        [("bastion", true), ("sql.corp.example.com", true), ("github.com", false), ("localhost", false)]
    {
        assert_eq!(uses_arcssh(&home, name), expected, "{name}");
    }
    // The alias of a host entry selects its machine for options, and does not rename the entry.
    let by_alias = config(&home, &["github.com.rg-arc", "--user", "me"]);
    assert_eq!((by_alias.code, uses_arcssh(&home, "github.com")), (Some(0), false), "{}", by_alias.stderr);
    assert!(effective(&home, "github.com.rg-arc").contains(&"user me".to_owned()));
    let by_alias = config(&home, &["rg-arc/github.com"]);
    assert!(
        by_alias.stderr.contains("arcssh: renamed github.com.rg-arc to github.com\n"),
        "{}",
        by_alias.stderr
    );
    assert!(uses_arcssh(&home, "github.com"));
    assert!(config(&home, &[]).stderr.ends_with("is up to date\n"));
}

#[test]
fn a_refresh_renames_unsafe_names_of_an_earlier_version() {
    let w = lab_of(&["web01", "github.com", "bastion"]);
    let home = home_with_own_entries(&w);
    let own_entries = fs::read_to_string(home.file()).unwrap();
    let id = |name: &str| w.emulator().machine(name).resource_id();
    let entry = |name: &str| {
        format!(
            "# {id}\nHost {name}\n    HostName {name}\n    HostKeyAlias x\n    ProxyCommand {ARCSSH} proxy {id} --port %p\n\n",
            id = id(name)
        )
    };
    let entries = ["bastion", "github.com", "web01"].map(entry).concat();
    let old = format!(
        "# >>> arcssh >>> block 1: x\n# options {{\"all\":true,\"wildcard\":\"*\"}}\n\n{entries}# Any machine.\nHost *\n    ProxyCommand {ARCSSH} proxy --host %n --port %p\n# What follows.\nHost *\n# <<< arcssh <<<\n\n{own_entries}"
    );
    fs::write(home.file(), old).unwrap();
    assert!(uses_arcssh(&home, "github.com") && uses_arcssh(&home, "bastion") && uses_arcssh(&home, "any"));
    let refused = config(&home, &[]);
    assert!(
        refused.code == Some(1)
            && refused.stderr.contains("arcssh: remove *; \"*\" covers names that are not yours"),
        "{}",
        refused.stderr
    );
    let refreshed = config(&home, &["--yes"]);
    assert_eq!(refreshed.code, Some(0), "{}", refreshed.stderr);
    for name in ["github.com", "bastion"] {
        let renamed = format!("arcssh: renamed {name} to {name}.rg-arc; ");
        assert!(refreshed.stderr.contains(&renamed) && !uses_arcssh(&home, name), "{}", refreshed.stderr);
    }
    assert!(
        uses_arcssh(&home, "web01") && uses_arcssh(&home, "github.com.rg-arc") && !uses_arcssh(&home, "any")
    );
}

#[test]
fn name_and_group_never_form_an_internet_name() {
    let machine = |name: &str, group: &str| Machine::new(name).resource_group(group);
    let w = lab_with(&[], |builder| {
        let builder = builder.machine(machine("github", "com")).machine(machine("github", "rg-b"));
        builder.machine(machine("10", "1")).machine(machine("api.v1", "git.corp"))
    });
    let home = home_with_own_entries(&w);
    assert_eq!(config(&home, &["--all"]).code, Some(0));
    for (name, expected) in [
        ("github.com", false),
        ("10.1", false),
        ("api.v1.git.corp", false),
        ("github.com.azure-arc", true),
        ("10.1.azure-arc", true),
        ("api.v1.git.corp.azure-arc", true),
        ("github.rg-b", true),
    ] {
        assert_eq!(uses_arcssh(&home, name), expected, "{name}");
    }
}

#[test]
fn name_and_group_avoid_patterns_of_the_user() {
    let w = lab_with(&[], |builder| {
        ["corp-int", "rg-1", "ca-int"]
            .into_iter()
            .fold(builder, |builder, group| builder.machine(Machine::new("srv").resource_group(group)))
    });
    let home = home_with_own_entries(&w);
    let own_entries = fs::read_to_string(home.file()).unwrap();
    fs::write(home.file(), format!("{own_entries}Host *.corp-int srv*\n  ProxyJump jump\n")).unwrap();
    let known = w.home().join("user/.ssh/known_hosts");
    let authority = format!("@cert-authority {}", w.sshd().known_hosts_line("*.ca-int").unwrap());
    fs::write(&known, authority).unwrap();
    // A pattern that covers the machine's name covers all longer names too, so no longer name is safer.
    assert_eq!(config(&home, &["--all"]).code, Some(0));
    assert!(
        uses_arcssh(&home, "srv.corp-int")
            && uses_arcssh(&home, "srv.rg-1")
            && !uses_arcssh(&home, "srv.ca-int")
    );
    assert_eq!(config(&home, &["--remove"]).code, Some(0));
    fs::write(home.file(), format!("{own_entries}Host *.corp-int\n  ProxyJump jump\n")).unwrap();
    let result = config(&home, &["--all"]);
    assert_eq!(result.code, Some(0), "{}", result.stderr);
    for (name, expected) in [
        ("srv.corp-int", false),
        ("srv.ca-int", false),
        ("srv.corp-int.azure-arc", true),
        ("srv.ca-int.azure-arc", true),
        ("srv.rg-1", true),
    ] {
        assert_eq!(uses_arcssh(&home, name), expected, "{name}: {}", result.stderr);
    }
}

#[test]
fn own_options_for_a_host_keep_its_name_unless_they_connect_elsewhere() {
    let w = lab_of(&["web01", "web02"]);
    let home = Home::new(&w);
    assert_eq!(config(&home, &["--all"]).code, Some(0));
    let block = fs::read_to_string(home.file()).unwrap();
    let own_entries = "Host web01\n  ForwardAgent yes\nHost web*\n  User me\nHost inner\n  ProxyJump web02\n";
    fs::write(home.file(), format!("{block}{own_entries}")).unwrap();
    let refreshed = config(&home, &[]);
    assert!(refreshed.stderr.ends_with("is up to date\n"), "{}", refreshed.stderr);
    let moved = own_entries.replace("ForwardAgent yes", "HostName web01.example.com");
    fs::write(home.file(), format!("{block}{moved}")).unwrap();
    let refreshed = config(&home, &[]);
    assert!(refreshed.stderr.contains("arcssh: renamed web01 to web01.rg-arc; "), "{}", refreshed.stderr);
    assert!(!uses_arcssh(&home, "web01") && uses_arcssh(&home, "web02"));
    assert!(effective(&home, "web01").contains(&"hostname web01.example.com".to_owned()));
}

#[test]
fn a_new_machine_takes_no_name_of_another() {
    let machine = |group: &str, id: &str| Machine::new("web01").resource_group(group).vm_id(id);
    let w = lab_with(&[], |builder| builder.machine(machine("rg-a", "a")));
    let home = Home::new(&w);
    assert_eq!(config(&home, &["--all"]).code, Some(0));
    let before = effective(&home, "web01");
    let later =
        lab_with(&[], |builder| builder.machine(machine("rg-a", "a")).machine(machine("rg-evil", "b")));
    let mut refresh = home.command(ARCSSH);
    let refreshed = run(refresh.arg("config").envs(later.emulator().environment()));
    assert_eq!(refreshed.code, Some(0), "{}", refreshed.stderr);
    assert!(
        refreshed.stderr.contains("arcssh: added web01.rg-evil (rg-evil/web01); "),
        "{}",
        refreshed.stderr
    );
    assert_eq!(effective(&home, "web01"), before);
}

#[test]
fn an_unusable_machine_does_not_stop_the_others() {
    let w = lab_with(&["web01"], |builder| builder.machine(Machine::new("bad").vm_id("-oProxyCommand")));
    let rows = |ids: &[(&str, &str)]| {
        let row = |(name, id): &(&str, &str)| json!({ "id": w.id().replace("web01", name), "name": name, "location": "\u{1b}[2J", "properties": { "vmId": id } });
        json!({ "data": ids.iter().map(row).collect::<Vec<_>>() }).to_string()
    };
    let hostile = rows(&[
        ("web01", "a"),
        ("-x", "b"),
        ("bad", "-x"),
        ("a b", "c"),
        ("!n", "d"),
        ("q", "e\nHost *"),
        ("r(1)", "f"),
    ]);
    let home = Home::new(&w);
    let fault = || ArmFault::raw(200, "application/json", &hostile).on(ArmCall::ResourceGraph).times(3);
    w.emulator().arm_fault(fault());
    // A machine that the user names is never skipped without an error.
    for (name, error) in [
        ("bad", "HostKeyAlias \"-x\" cannot begin with a hyphen"),
        ("-x", "none of its names is valid in an ssh configuration"),
    ] {
        let refused = config(&home, &["web01", "--", name]);
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        assert!(refused.stderr.starts_with("arcssh: cannot write a host entry for "), "{}", refused.stderr);
        assert!(refused.stderr.contains(error) && !home.file().exists(), "{}", refused.stderr);
    }
    let result = config(&home, &["--all"]);
    assert_eq!(result.code, Some(0), "{}", result.stderr);
    assert!(uses_arcssh(&home, "web01"), "{}", result.stderr);
    assert!(
        result.stderr.contains("skipped bad: HostKeyAlias \"-x\" cannot begin with a hyphen"),
        "{}",
        result.stderr
    );
    let text = fs::read_to_string(home.file()).unwrap();
    let hosts: Vec<&str> = text.lines().filter(|line| line.starts_with("Host ")).collect();
    assert_eq!(hosts, ["Host q", "Host web01", "Host *", "Host *"], "{}", result.stderr);
    assert!(!result.stderr.contains('\u{1b}'));
}

#[test]
fn an_inventory_contains_no_name_that_connects_elsewhere() {
    let w = lab_of(&["web01", "bastion", "github.com"]);
    let home = home_with_own_entries(&w);
    let hosts = || {
        let mut list = home.command(ARCSSH);
        let text = run(list.args(["list", "--list"])).clean();
        let inventory: serde_json::Value = serde_json::from_str(&text).unwrap();
        serde_json::from_value::<Vec<String>>(inventory["arc"]["hosts"].clone()).unwrap()
    };
    assert_eq!(hosts(), ["bastion.rg-arc", "github.com.rg-arc", "web01"]);
    assert_eq!(config(&home, &["github.com"]).code, Some(0));
    assert_eq!(
        hosts(),
        ["bastion.rg-arc", "github.com", "web01"],
        "the inventory uses the aliases of the ssh configuration"
    );
}
