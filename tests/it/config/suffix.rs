//! `arcssh config --suffix`: names of host entries that no other host has.

use serde_json::Value;

use super::*;

fn fleet() -> Lab {
    lab_with(&[], |builder| {
        let names = ["web01", "localhost", "zone.example.com", "DB01"];
        names.into_iter().fold(builder, |builder, name| builder.machine(Machine::new(name)))
    })
}

const OWN: &str = "Host web01\n    HostName own.example.com\n";
const HOSTS: [&str; 4] = ["db01.arc DB01.arc", "localhost.arc", "web01.arc", "zone.example.com.arc"];

/// Runs another command in the home directory, which must succeed. Returns its output.
#[track_caller]
fn output(home: &Home<'_>, arguments: &[&str]) -> String {
    run(home.command(ARCSSH).args(arguments)).clean()
}

#[test]
fn a_suffix_separates_the_names_from_other_hosts() {
    let w = fleet();
    let home = Home::with(&w, OWN);
    home.succeed(&["--all", "--suffix", ".arc"]);
    assert_eq!(home.hosts(), [&HOSTS[..], &["web01"]].concat());
    assert_eq!(home.effective("web01", "hostname"), "own.example.com");
    assert!(home.effective("DB01.arc", "proxycommand").contains("/machines/DB01 "));
    assert!(home.succeed(&[]).ends_with("is up to date\n"));
    assert_eq!(home.succeed(&["--verify"]), "arcssh: verified 5 hosts in ~/.ssh/config\n");
    assert_eq!(home.changes(&["web01", "--user", "me"]), ["changed web01.arc: user"]);
    assert_eq!(home.changes(&["WEB01.arc", "--user", "you"]), ["changed web01.arc: user"]);
    assert_eq!(home.changes(&["--suffix", ".lab"])[0], "renamed db01.arc to db01.lab");
    let line = home.text().lines().position(|line| line == "Host web01").unwrap() + 1;
    assert_eq!(
        home.changes(&["--suffix", ""]),
        [
            "renamed localhost.lab to localhost.rg-arc; its name refers to this computer or its router",
            &format!("renamed web01.lab to web01; the entry overrides ~/.ssh/config line {line}"),
            "renamed zone.example.com.lab to zone.example.com.rg-arc; its name contains a dot, like a DNS name; to use its name anyway: arcssh config rg-arc/zone.example.com",
            "renamed db01.lab to db01",
        ]
    );
}

#[test]
fn a_suffix_of_other_hosts_is_rejected() {
    let w = fleet();
    let home = Home::with(&w, OWN);
    for suffix in [".com", "arc", ".", ".co.uk", ".*", ".1", ".a b"] {
        let error = home.fail(1, &["--all", "--suffix", suffix]);
        assert!(error.contains("suffix") || error.contains("is not a pattern"), "{suffix}: {error}");
    }
    fs::write(
        home.file(),
        "Host web01.arc\n    HostName x\nHost *.lab\n    ProxyJump y\nHost *.arc\n    User me\n",
    )
    .unwrap();
    let error = home.fail(1, &["--all", "--suffix", ".lab"]);
    let expected = "names with the suffix .lab already connect to other hosts: ~/.ssh/config line 3; choose another suffix";
    assert!(error.contains(expected), "{error}");
    let changes = home.changes(&["web01", "-g", "rg-arc", "--suffix", ".arc"]);
    assert!(changes.iter().any(|line| line.contains("added web01.arc (rg-arc/web01); the entry overrides ")));
}

#[test]
fn a_wildcard_and_a_suffix_reject_the_same_patterns_of_the_user() {
    let w = fleet();
    for (own, is_rejected) in [
        ("Host *.lab\n    ProxyJump bastion\n    User corp\n", true),
        ("Host ?*.lab\n    HostName %h.example.com\n", true),
        ("Match host *.lab\n    ProxyJump bastion\n", true),
        ("Match !host *.lab\n    ProxyJump bastion\n", false),
        ("Host *.lab\n    ProxyJump none\n    User corp\n", false),
    ] {
        for arguments in [&["--wildcard", "*.lab"][..], &["--all", "--suffix", ".lab"]] {
            let home = Home::with(&w, own);
            if is_rejected {
                let error = home.fail(1, arguments);
                let expected = "already connect to other hosts: ~/.ssh/config line 1; choose another suffix";
                assert!(error.contains(expected), "{own} {arguments:?}: {error}");
                assert_eq!(home.text(), own);
            } else {
                home.succeed(arguments);
            }
            fs::remove_dir_all(&home.path).unwrap();
        }
    }
}

#[test]
fn all_commands_know_the_names_with_the_suffix() {
    let w = lab(&["web01", "web02"]);
    let home = Home::new(&w);
    let port = w.sshd().port().to_string();
    home.succeed(&["web01", "--suffix", ".arc", "--port", &port]);
    let table = output(&home, &["list"]);
    let names: Vec<&str> = table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(
        names,
        ["web01.arc", "web02.arc"],
        "a machine without an entry gets the name that it would have"
    );
    let json: Value = serde_json::from_str(&output(&home, &["list", "--format", "json"])).unwrap();
    assert_eq!((&json[0]["name"], &json[0]["alias"]), (&"web01".into(), &"web01.arc".into()));
    let inventory: Value = serde_json::from_str(&output(&home, &["list", "--list"])).unwrap();
    assert_eq!(inventory["arc"]["hosts"], serde_json::json!(["web01.arc", "web02.arc"]));
    let variables: Value = serde_json::from_str(&output(&home, &["list", "--host", "web01.arc"])).unwrap();
    assert!(variables["arc"].is_object());
    for name in ["web01.arc", "WEB01.ARC", "web01", "web01.rg-arc.arc", "web02.arc"] {
        output(&home, &["warm", name, "--port", &port]);
        let setup = run(home.command(ARCSSH).args(["setup", "--dry-run", name, "--port", &port]));
        assert_eq!(setup.code, Some(0), "{name}: {}", setup.stderr);
        assert!(output(&home, &["known-hosts", name, "--port", &port]).contains(" ssh-ed25519 "), "{name}");
    }
    for name in ["web01.arc", "web01", "web02.arc"] {
        let doctor = run(home.command(ARCSSH).args(["doctor", name, "--port", &port]));
        let report = String::from_utf8_lossy(&doctor.stdout);
        assert!(report.contains("SSH on port"), "{name}: {report}");
    }
    let mut ssh = home.command("ssh");
    ssh.args(["-F".as_ref(), home.file().as_os_str()]).args(["-T", "-G", "web01.arc"]);
    assert!(run(&mut ssh).clean().contains(&format!("proxycommand {ARCSSH} proxy ")));
}

#[test]
fn entries_are_removed_with_and_without_the_suffix() {
    let w = fleet();
    let home = Home::with(&w, OWN);
    home.succeed(&["--all", "--suffix", ".arc", "--wildcard", "*.arc"]);
    home.succeed(&["--remove", "web01.arc", "db01", "localhost"]);
    assert_eq!(home.hosts(), ["zone.example.com.arc", "*.arc", "web01"]);
    home.succeed(&["web01"]);
    assert_eq!(home.hosts(), ["web01.arc", "zone.example.com.arc", "*.arc", "web01"]);
    home.succeed(&["--remove", "*.arc"]);
    assert!(home.succeed(&["--remove"]).contains("removed host entries"));
    assert_eq!(home.text(), OWN);
}

#[test]
fn certificates_and_wildcards_work_with_a_suffix() {
    let w = lab(&["web01"]);
    for mode in ["--entra", "--entra=files"] {
        let home = Home::new(&w);
        home.succeed(&["web01", "--suffix", ".arc", "--wildcard", "*.arc", mode]);
        assert_eq!(home.hosts(), ["web01.arc", "*.arc"]);
        assert!(home.effective("web01.arc", "proxycommand").contains("/machines/web01 "));
        assert!(home.effective("web02.arc", "proxycommand").contains(" --suffix .arc "));
        assert_eq!(home.text().contains("Match originalhost web01.arc exec"), mode == "--entra=files");
        assert!(home.succeed(&[]).ends_with("is up to date\n"));
        fs::remove_dir_all(&home.path).unwrap();
    }
}

#[test]
fn an_adopted_entry_has_no_suffix() {
    let w = lab(&["web01", "web02"]);
    let az = "Host rg-arc-web01-me\n\tHostName web01\n\tUser me\n\tProxyCommand \"/x/sshProxy_linux_amd64_1_3\" -r \"/x/az_ssh_config/rg-arc-web01/rg-arc-web01-relay_info\"\n";
    let home = Home::with(&w, az);
    home.succeed(&["--all", "--adopt", "--suffix", ".arc"]);
    assert_eq!(home.hosts(), ["rg-arc-web01-me", "web01.arc", "web02.arc"]);
    assert!(home.succeed(&["--suffix", ".lab"]).contains("wrote 3 hosts"));
    assert_eq!(home.hosts(), ["rg-arc-web01-me", "web01.lab", "web02.lab"]);
    home.succeed(&["--remove", "web01"]);
    assert_eq!(home.hosts(), ["rg-arc-web01-me", "web02.lab"]);
}
