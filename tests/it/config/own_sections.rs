//! Sections of the user for names that arcssh writes host entries for.

use super::*;

/// The lines of a run about options that ssh adds to host entries, without `arcssh: `.
#[track_caller]
fn notes(home: &Home<'_>, arguments: &[&str]) -> Vec<String> {
    let output = home.succeed_with_changes(arguments);
    let lines = output.lines().map(|line| line.trim_start_matches("arcssh: "));
    lines.filter(|line| line.contains(" options of ") || line.contains("--port 22")).map(Into::into).collect()
}

/// A home directory with an included file.
fn home_with<'a>(w: &'a Lab, config: &str, included: &str) -> Home<'a> {
    let home = Home::with(w, config);
    fs::write(home.path.join(".ssh/more.conf"), included).unwrap();
    home
}

#[test]
fn options_of_all_sections_for_a_name_are_listed_with_their_lines() {
    let w = lab(&["web01"]);
    let own = "# my machines\nHost web01\n    HostName web01.corp.example\n    User admin\n    Port 2200\n    \
        ProxyJump bastion.example\n    LocalForward 15432 localhost:5432\n    RemoteCommand tmux new -A -s main\n    \
        RequestTTY force\n\nHost web*  # all web servers\n    DynamicForward 1080\n    IdentitiesOnly yes\n";
    let home = Home::with(&w, own);
    let added = home.config(&["web01", "--user", "azureuser", "--dry-run"]);
    let expected = [
        "ssh adds options of ~/.ssh/config to web01: Port 2200 (line 5), LocalForward (line 7), RemoteCommand (line 8), RequestTTY (line 9), DynamicForward (line 12), IdentitiesOnly (line 13)",
        "hint: if SSH is enabled on another port of the machine than 2200, such as 22: arcssh config web01 --port 22",
    ];
    for line in expected {
        assert!(home.with_tilde(&added.stderr).contains(&format!("arcssh: {line}\n")), "{}", added.stderr);
    }
    assert_eq!(notes(&home, &["web01", "--user", "azureuser"]), expected);
    for (keyword, value) in [
        ("port", "2200"),
        ("user", "azureuser"),
        ("hostname", "web01"),
        ("remotecommand", "tmux new -A -s main"),
        ("dynamicforward", "1080"),
        ("proxyjump", ""),
    ] {
        assert_eq!(home.effective("web01", keyword), value, "{keyword}");
    }
    assert_eq!(notes(&home, &[]), [""; 0], "an unchanged entry needs no note");
    // The lines are those before the run.
    let below = home.text().lines().position(|line| line == "# my machines").unwrap();
    let rest = [("LocalForward", 7), ("RemoteCommand", 8), ("RequestTTY", 9)];
    let rest = rest.into_iter().chain([("DynamicForward", 12), ("IdentitiesOnly", 13)]);
    let rest: Vec<String> =
        rest.map(|(keyword, line)| format!("{keyword} (line {})", line + below)).collect();
    let rest = format!("ssh adds options of ~/.ssh/config to web01: {}", rest.join(", "));
    assert_eq!(notes(&home, &["web01", "--port", "22"]), [&*rest]);
    let below_now = home.text().lines().position(|line| line == "# my machines").unwrap();
    let verified = home.succeed(&["--verify"]);
    assert!(verified.contains(&format!("LocalForward (line {})", 7 + below_now)), "{verified}");
    assert_eq!(home.effective("web01", "port"), "22");
}

#[test]
fn the_hint_about_the_port_of_a_wildcard_succeeds() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host *.lab\n    Port 2222\n");
    let added = notes(&home, &["--wildcard", "*.lab"]);
    let hint = "such as 22: arcssh config --wildcard '*.lab' --port 22";
    assert!(added.iter().any(|line| line.ends_with(hint)), "{added:?}");
    home.succeed(&["--wildcard", "*.lab", "--port", "22"]);
    assert_eq!(home.effective("web01.lab", "port"), "22");
}

#[test]
fn only_options_that_change_a_host_entry_are_listed() {
    let w = lab(&["web01"]);
    let more = "ssh adds options of ~/.ssh/more.conf to web01: ";
    let note = |options: &str| vec![format!("ssh adds options of ~/.ssh/config to web01: {options}")];
    let port = |file: &str, port: u16, line: usize| {
        vec![
            format!("ssh adds options of ~/.ssh/{file} to web01: Port {port} (line {line})"),
            format!(
                "hint: if SSH is enabled on another port of the machine than {port}, such as 22: arcssh config web01 --port 22"
            ),
        ]
    };
    for (config, included, expected) in [
        ("Host web02 !web01\n Compression yes\nHost web0? !web01\n Compression yes\n", "", vec![]),
        (
            "Host web01\n Port 22\n Compression NO\n RemoteCommand none\n ProxyJump x\n HostName y\n",
            "",
            vec![],
        ),
        ("Compression yes\nHost *\n ForwardAgent yes\nMatch all\n VisualHostKey yes\n", "", vec![]),
        ("Host web01\n compression=yes # why\n", "", note("compression (line 2)")),
        ("Host web*\n Compression no\nHost *\n Compression yes\n", "", note("Compression (line 2)")),
        ("Compression yes\nHost web*\n Compression yes\n", "", vec![]),
        ("Host *\n Port 2222\n", "", port("config", 2222, 2)),
        ("Host web01\n Port 2201\nHost web*\n Port 2202\n", "", port("config", 2201, 2)),
        ("Match originalhost a,web*\n SetEnv A=b\n", "", note("SetEnv (line 2)")),
        ("Match host web01 exec true\n ForwardX11 yes\n", "", note("ForwardX11 (line 2)")),
        ("Match exec \"test %h = web01\"\n Port 99\n", "", port("config", 99, 2)),
        ("Match exec \"test %h = web02\"\n Port 99\nMatch exec false\n Port 98\n", "", vec![]),
        ("Match host web01 exec false\n ForwardX11 yes\n", "", vec![]),
        (
            "Include more.conf\n",
            "Match exec false\n Port 99\nMatch exec true\n Port 98\n",
            port("more.conf", 98, 4),
        ),
        (
            "Match host web01 originalhost db*\n ForwardX11 yes\nMatch !host web01\n VisualHostKey yes\n",
            "",
            vec![],
        ),
        (
            "Include more.conf\n",
            "Host web01\n IdentityFile a\n",
            vec![format!("{more}IdentityFile (line 2)")],
        ),
        (
            "Host web01\n Include more.conf\n",
            "IdentityFile a\n",
            vec![format!("{more}IdentityFile (line 1)")],
        ),
        ("Host db01\n Include more.conf\n", "IdentityFile a\nHost web01\n Port 9\n", vec![]),
        ("Include more.conf\nHost web01\n Port 3\n", "Host w*\n Port 4\n", port("more.conf", 4, 2)),
    ] {
        let home = home_with(&w, config, included);
        assert_eq!(notes(&home, &["web01"]), expected, "{config}{included}");
        fs::remove_dir_all(&home.path).unwrap();
    }
}

#[test]
fn host_entries_with_the_same_options_share_a_note() {
    let w = lab(&["web01", "web02", "web03", "db01"]);
    let home = Home::with(&w, "Host web*\n DynamicForward 1080\nHost *.arc\n ForwardAgent yes\n");
    let expected =
        "ssh adds options of ~/.ssh/config to web01 and 2 more host entries: DynamicForward (line 2)";
    assert_eq!(notes(&home, &["--all"]), [expected]);
    let line = home.text().lines().count();
    let expected = format!("ssh adds options of ~/.ssh/config to *.arc: ForwardAgent (line {line})");
    assert_eq!(notes(&home, &["--wildcard", "*.arc"]), [expected]);
}

#[test]
fn a_section_above_the_block_overrides_the_host_name() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01"]);
    let own = format!("Host web01\n HostName web01.example.com\n{}", home.text());
    fs::write(home.file(), own).unwrap();
    let expected = "ssh adds options of ~/.ssh/config to web01: HostName (line 2)";
    assert_eq!(notes(&home, &["web01", "--user", "me"]), [expected]);
    assert_eq!(home.effective("web01", "hostname"), "web01.example.com");
}

#[test]
fn no_machine_gets_a_name_of_this_computer() {
    let names = ["localhost", "ip6-localhost", "127.0.0.1", "127.1", "0x7f000001", "api.localhost"];
    let w = lab_with(&[], |builder| {
        names.into_iter().fold(builder, |builder, name| builder.machine(Machine::new(name)))
    });
    for name in names {
        let home = Home::new(&w);
        let changes = home.changes(&[name]);
        let expected =
            format!("added {name}.rg-arc (rg-arc/{name}); its name refers to this computer or its router");
        assert_eq!(changes, [expected]);
        assert!(!home.effective(name, "proxycommand").contains("arcssh"), "{name}");
        fs::remove_dir_all(&home.path).unwrap();
    }
}
