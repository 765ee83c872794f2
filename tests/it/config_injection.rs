//! Values that mean something to ssh, to a shell or to a terminal, given to the shipped binary: each is quoted right, or
//! refused by name and nothing is written.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use arcssh_emulator::{ArmCall, ArmFault, Machine};
use serde_json::json;

use crate::config::Home;
use crate::support::{ARCSSH, Lab, Run, lab, lab_with, program_at, run, script};

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
    let w = lab(&["web01"]);
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
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let pattern = prop_oneof![
        hostile(),
        "[*?a-z.]{1,6}",
        "[*?]\\PC{0,2}",
        "[a-z*?]{0,3}[*?][.][a-z]{3,8}",
        "[*][.]\\PC{3,5}"
    ];
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
                ascii if ascii.is_ascii() => format!(" --suffix {ascii}"),
                other => format!(" --suffix \"{other}\""),
            };
            assert!(ours.ends_with(&format!(" proxy --host %n{suffix} --port %p")), "{ours}");
        } else {
            assert!(run.stderr.starts_with(&format!("arcssh: {value:?} ")), "{value:?}: {}", run.stderr);
            assert!(!home.file().exists());
        }
    });
}

#[test]
fn a_wildcard_covers_only_names_that_are_the_users() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    fs::create_dir(w.home().join("user/.ssh")).unwrap();
    let own = "Host db.example.arc\n  ProxyJump jump.hop\n";
    fs::write(home.file(), own).unwrap();
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
        assert_eq!(fs::read_to_string(home.file()).unwrap(), own);
    }
    let output = config(&home, &["--wildcard=*.example.arc"]).stderr;
    let place = format!("{} line 1", home.file().display());
    assert!(
        output.contains(&format!("covers \"db.example.arc\", which ssh already uses: {place};")),
        "{output}"
    );
    for pattern in ["*.arc", "web-??.arc", "*.arc.example.com"] {
        fs::write(home.file(), "").unwrap();
        let written = config(&home, &[&format!("--wildcard={pattern}")]);
        assert_eq!(written.code, Some(0), "{pattern}: {}", written.stderr);
    }
}

#[test]
fn names_of_machines() {
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
fn groups_and_tags_stay_in_their_line_and_are_read_again() {
    let (tag, value) = ("k\"", "a b\n# <<< arcssh <<<\nHost *\r\n {options}{sections} 'ü\u{2028}\\ %h");
    let w = lab_with(&["web01"], |builder| builder.machine(Machine::new("tagged").tag(tag, value)));
    let home = Home::new(&w);
    let unknown = config(&home, &["web01", "-g", value]);
    assert_eq!((unknown.code, unknown.stderr.lines().count()), (Some(5), 2), "{}", unknown.stderr);
    assert!(!home.file().exists());
    let run = config(&home, &["web01", "--tag", &format!("{tag}={value}")]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(config(&home, &["--remove", "tagged"]).code, Some(0));
    let (lines, effective) = written(&home, "web01");
    let keywords =
        ["#", "#", "#", "", "#", "Host", "HostName", "HostKeyAlias", "ProxyCommand", "#", "Host", "#", ""];
    assert_eq!(lines, keywords);
    assert!(effective.contains(&format!("proxycommand {ARCSSH} proxy {} --port %p", w.id())));
    assert!(config(&home, &[]).stderr.ends_with("is as it should be\n"));
    assert_eq!(config(&home, &["--remove"]).code, Some(0));
    assert_eq!(fs::read_to_string(home.file()).unwrap(), "");
}

#[test]
fn names_of_files() {
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
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let user = w.home().join("user");
    let id = w.id();
    started_at(&home, &user, "%h;&|<>(){}*?#~ü=,^[]", &id);
    assert!(user.join("argv").exists(), "such a path can be written");
    each(hostile(), 40, |name| started_at(&home, &user, &name.replace('/', "_"), &id));
}

/// Machines that whoever may onboard one can call so, and one with a name of its own.
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

/// What the user has below the block.
const OWN: &str = "Include included.conf\nHost bastion\n  HostName bastion.example.com\n  HostKeyAlias pinned\n\
    CanonicalDomains corp.example.net\nHost 'quoted' \"join\"ed\n  User them\n\
    Host prod-*\n  ProxyJump me@jump:22\nMatch originalhost matched\n  User them\nHost *\n  Compression yes\n";

/// A user with a configuration and known hosts, some of them hashed.
fn user_of(w: &Lab) -> Home<'_> {
    let home = Home::new(w);
    let folder = w.home().join("user/.ssh");
    fs::create_dir(&folder).unwrap();
    let absolute = OWN.replace("included.conf", &folder.join("included.conf").display().to_string());
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

fn fleet_of(names: &[&str]) -> Lab {
    lab_with(&[], |builder| names.iter().fold(builder, |builder, name| builder.machine(Machine::new(name))))
}

/// What `ssh -G` makes of a name, in this home's configuration.
fn effective(home: &Home<'_>, name: &str) -> Vec<String> {
    let mut ssh = home.command("ssh");
    run(ssh.args(["-T", "-G", "-F"]).arg(home.file()).arg(name)).clean().lines().map(str::to_owned).collect()
}

fn is_ours(home: &Home<'_>, name: &str) -> bool {
    effective(home, name).iter().any(|line| line.starts_with("proxycommand ") && line.contains("arcssh"))
}

#[test]
fn a_broad_selection_takes_no_name_that_ssh_uses_for_something_else() {
    let w = fleet_of(&NAMES);
    for selector in [&["--all"][..], &["-g", "rg-arc"]] {
        let home = user_of(&w);
        let before: Vec<Vec<String>> = NAMES.iter().map(|name| effective(&home, name)).collect();
        let written = config(&home, selector);
        assert_eq!(written.code, Some(0), "{}", written.stderr);
        assert!(is_ours(&home, "web01"));
        for (name, before) in NAMES.iter().zip(before).skip(1) {
            assert_eq!(effective(&home, name), before, "{name} means what it meant");
            assert_eq!(
                effective(&home, &name.to_lowercase()).iter().filter(|l| l.contains("arcssh")).count(),
                0
            );
            let alias = format!("{}.rg-arc", name.to_lowercase());
            assert!(is_ours(&home, &alias), "{alias}");
            assert!(
                written.stderr.contains(&format!("arcssh: add {alias} (rg-arc/{name}); ")),
                "{}",
                written.stderr
            );
        }
        let place = format!("ssh already uses its name: {} line 2;", home.file().display());
        assert!(written.stderr.contains(&place), "{}", written.stderr);
        let refreshed = config(&home, &[]);
        assert!(
            refreshed.stderr.ends_with("is as it should be\n"),
            "a refresh changes nothing: {}",
            refreshed.stderr
        );
        fs::remove_dir_all(w.home().join("user")).unwrap();
    }
}

#[test]
fn the_users_word_and_an_allowed_pattern_give_a_machine_its_own_name() {
    let w = fleet_of(&["Bastion", "sql.corp.example.com", "github.com", "localhost"]);
    let home = user_of(&w);
    let named = config(&home, &["bastion"]);
    let place = format!("{} line 2", home.file().display());
    assert_eq!(named.code, Some(0), "{}", named.stderr);
    assert!(
        named.stderr.contains(&format!("arcssh: add bastion (rg-arc/Bastion); it overrides {place}\n")),
        "{}",
        named.stderr
    );
    assert!(is_ours(&home, "bastion"));
    let broad = config(&home, &["--all", "--allow-names", "*.corp.example.com"]);
    assert_eq!(broad.code, Some(0), "{}", broad.stderr);
    for (name, ours) in
        [("bastion", true), ("sql.corp.example.com", true), ("github.com", false), ("localhost", false)]
    {
        assert_eq!(is_ours(&home, name), ours, "{name}");
    }
    // A machine that is typed by the alias of its host entry gets options, and no other name.
    let typed = config(&home, &["github.com.rg-arc", "--user", "me"]);
    assert_eq!((typed.code, is_ours(&home, "github.com")), (Some(0), false), "{}", typed.stderr);
    assert!(effective(&home, "github.com.rg-arc").contains(&"user me".to_owned()));
    let typed = config(&home, &["rg-arc/github.com"]);
    assert!(typed.stderr.contains("arcssh: rename github.com.rg-arc to github.com\n"), "{}", typed.stderr);
    assert!(is_ours(&home, "github.com"));
    assert!(config(&home, &[]).stderr.ends_with("is as it should be\n"));
}

#[test]
fn a_refresh_takes_back_names_that_an_earlier_version_gave() {
    let w = fleet_of(&["web01", "github.com", "bastion"]);
    let home = user_of(&w);
    let own = fs::read_to_string(home.file()).unwrap();
    let id = |name: &str| w.emulator().machine(name).resource_id();
    let entry = |name: &str| {
        format!(
            "# {id}\nHost {name}\n    HostName {name}\n    HostKeyAlias x\n    ProxyCommand {ARCSSH} proxy {id} --port %p\n\n",
            id = id(name)
        )
    };
    let entries = ["bastion", "github.com", "web01"].map(entry).concat();
    let old = format!(
        "# >>> arcssh >>> block 1: x\n# options {{\"all\":true,\"wildcard\":\"*\"}}\n\n{entries}# Any machine.\nHost *\n    ProxyCommand {ARCSSH} proxy --host %n --port %p\n# What follows.\nHost *\n# <<< arcssh <<<\n\n{own}"
    );
    fs::write(home.file(), old).unwrap();
    assert!(is_ours(&home, "github.com") && is_ours(&home, "bastion") && is_ours(&home, "any"));
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
        let renamed = format!("arcssh: rename {name} to {name}.rg-arc; ");
        assert!(refreshed.stderr.contains(&renamed) && !is_ours(&home, name), "{}", refreshed.stderr);
    }
    assert!(is_ours(&home, "web01") && is_ours(&home, "github.com.rg-arc") && !is_ours(&home, "any"));
}

#[test]
fn a_name_and_a_group_make_no_name_of_the_internet() {
    let machine = |name: &str, group: &str| Machine::new(name).resource_group(group);
    let w = lab_with(&[], |builder| {
        let builder = builder.machine(machine("github", "com")).machine(machine("github", "rg-b"));
        builder.machine(machine("10", "1")).machine(machine("api.v1", "git.corp"))
    });
    let home = user_of(&w);
    assert_eq!(config(&home, &["--all"]).code, Some(0));
    for (name, ours) in [
        ("github.com", false),
        ("10.1", false),
        ("api.v1.git.corp", false),
        ("github.com.azure-arc", true),
        ("10.1.azure-arc", true),
        ("api.v1.git.corp.azure-arc", true),
        ("github.rg-b", true),
    ] {
        assert_eq!(is_ours(&home, name), ours, "{name}");
    }
}

#[test]
fn a_name_and_a_group_are_no_name_that_a_pattern_of_the_user_covers() {
    let w = lab_with(&[], |builder| {
        ["corp-int", "rg-1", "ca-int"]
            .into_iter()
            .fold(builder, |builder, group| builder.machine(Machine::new("srv").resource_group(group)))
    });
    let home = user_of(&w);
    let own = fs::read_to_string(home.file()).unwrap();
    fs::write(home.file(), format!("{own}Host *.corp-int srv*\n  ProxyJump jump\n")).unwrap();
    let known = w.home().join("user/.ssh/known_hosts");
    let authority = format!("@cert-authority {}", w.sshd().known_hosts_line("*.ca-int").unwrap());
    fs::write(&known, authority).unwrap();
    // A pattern that covers the machine's own name covers all longer ones: then no longer name is safer than another.
    assert_eq!(config(&home, &["--all"]).code, Some(0));
    assert!(is_ours(&home, "srv.corp-int") && is_ours(&home, "srv.rg-1") && !is_ours(&home, "srv.ca-int"));
    assert_eq!(config(&home, &["--remove"]).code, Some(0));
    fs::write(home.file(), format!("{own}Host *.corp-int\n  ProxyJump jump\n")).unwrap();
    let written = config(&home, &["--all"]);
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    for (name, ours) in [
        ("srv.corp-int", false),
        ("srv.ca-int", false),
        ("srv.corp-int.azure-arc", true),
        ("srv.ca-int.azure-arc", true),
        ("srv.rg-1", true),
    ] {
        assert_eq!(is_ours(&home, name), ours, "{name}: {}", written.stderr);
    }
}

#[test]
fn own_lines_for_a_host_entry_leave_its_name_unless_they_connect_elsewhere() {
    let w = fleet_of(&["web01", "web02"]);
    let home = Home::new(&w);
    assert_eq!(config(&home, &["--all"]).code, Some(0));
    let block = fs::read_to_string(home.file()).unwrap();
    let own = "Host web01\n  ForwardAgent yes\nHost web*\n  User me\nHost inner\n  ProxyJump web02\n";
    fs::write(home.file(), format!("{block}{own}")).unwrap();
    let refreshed = config(&home, &[]);
    assert!(refreshed.stderr.ends_with("is as it should be\n"), "{}", refreshed.stderr);
    let moved = own.replace("ForwardAgent yes", "HostName web01.example.com");
    fs::write(home.file(), format!("{block}{moved}")).unwrap();
    let refreshed = config(&home, &[]);
    assert!(refreshed.stderr.contains("arcssh: rename web01 to web01.rg-arc; "), "{}", refreshed.stderr);
    assert!(!is_ours(&home, "web01") && is_ours(&home, "web02"));
    assert!(effective(&home, "web01").contains(&"hostname web01.example.com".to_owned()));
}

#[test]
fn a_machine_that_comes_later_takes_no_name_from_another() {
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
    assert!(refreshed.stderr.contains("arcssh: add web01.rg-evil (rg-evil/web01); "), "{}", refreshed.stderr);
    assert_eq!(effective(&home, "web01"), before);
}

#[test]
fn one_machine_that_cannot_be_written_stops_no_other() {
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
    // A machine that the user names is not left out in silence.
    for (name, why) in
        [("bad", "HostKeyAlias \"-x\" cannot begin with a hyphen"), ("-x", "ssh accepts no name of it")]
    {
        let refused = config(&home, &["web01", "--", name]);
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        assert!(refused.stderr.starts_with("arcssh: no host entry for "), "{}", refused.stderr);
        assert!(refused.stderr.contains(why) && !home.file().exists(), "{}", refused.stderr);
    }
    let written = config(&home, &["--all"]);
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    assert!(is_ours(&home, "web01"), "{}", written.stderr);
    assert!(
        written.stderr.contains("bad is left out: HostKeyAlias \"-x\" cannot begin with a hyphen"),
        "{}",
        written.stderr
    );
    let text = fs::read_to_string(home.file()).unwrap();
    let hosts: Vec<&str> = text.lines().filter(|line| line.starts_with("Host ")).collect();
    assert_eq!(hosts, ["Host q", "Host web01", "Host *"], "{}", written.stderr);
    assert!(!written.stderr.contains('\u{1b}'));
}

#[test]
fn an_inventory_has_no_host_that_leads_somewhere_else() {
    let w = fleet_of(&["web01", "bastion", "github.com"]);
    let home = user_of(&w);
    let hosts = || {
        let mut list = home.command(ARCSSH);
        let text = run(list.args(["list", "--list"])).clean();
        let inventory: serde_json::Value = serde_json::from_str(&text).unwrap();
        serde_json::from_value::<Vec<String>>(inventory["arc"]["hosts"].clone()).unwrap()
    };
    assert_eq!(hosts(), ["bastion.rg-arc", "github.com.rg-arc", "web01"]);
    assert_eq!(config(&home, &["github.com"]).code, Some(0));
    assert_eq!(hosts(), ["bastion.rg-arc", "github.com", "web01"], "the names that are written");
}
