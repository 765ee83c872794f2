//! Plain `ssh NAME`, without `-F`: what `arcssh config` and `arcssh doctor` verify.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use serde_json::Value;

use crate::config::Home;
use crate::support::{ARCSSH, lab, may_become, namespaces, program_at, run};

fn set_mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_home_directory_is_the_one_of_the_user_database() {
    let w = lab(&["web01"]);
    let home = Home::new(&w);
    let other = w.home().join("github");
    fs::create_dir(&other).unwrap();
    for arguments in
        [&["config", "web01", "--user", "me", "--entra=files"][..], &["config", "--verify"], &["config"]]
    {
        let run = run(home.command(ARCSSH).args(arguments).env("HOME", &other));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(run.stderr.contains(&home.file().display().to_string()), "{}", run.stderr);
    }
    assert!(!other.join(".ssh").exists());
    let used = run(home.command("ssh").args(["-T", "-G", "web01"])).clean();
    let keys = home.file().with_file_name("arcssh");
    assert!(used.contains(&format!("\nidentityfile {}", keys.display())), "{used}");
}

#[test]
fn a_user_id_without_a_user_is_an_error_of_its_own() {
    if !may_become(54321) {
        return;
    }
    let w = lab(&["web01"]);
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("arcssh");
    program_at(&copy, ARCSSH.as_ref());
    chown(directory.path(), Some(54321), None).unwrap();
    for file in [None, Some("config")] {
        let mut arcssh = w.command("setpriv");
        arcssh.args(["--reuid=54321", "--clear-groups"]).arg(&copy).args(["config", "--verify"]);
        arcssh.env_remove("LD_PRELOAD").env("HOME", directory.path()).current_dir(directory.path());
        if let Some(file) = file {
            let block = include_str!("../golden/config-unix.conf");
            fs::write(directory.path().join(file), block).unwrap();
            arcssh.args(["--file", file]);
        }
        run(&mut arcssh).failed(
            1,
            &[
                "arcssh: ssh does not run: no user exists for uid 54321",
                "arcssh: hint: add a line for the user ID 54321 to /etc/passwd, or run ssh and arcssh as a user that has one",
            ],
        );
    }
}

/// Asserts that plain `ssh NAME` ends before it connects, and that no command of arcssh reports success.
#[track_caller]
fn all_fail(home: &Home<'_>, arguments: &[&str], expected: &str) {
    let ssh = run(home.command("ssh").args(["-T", "-o", "ProxyCommand=false", "web01"]));
    assert!(!ssh.stderr.contains("Connection closed"), "{}", ssh.stderr);
    let output = home.fail(1, arguments);
    assert_eq!(output.lines().next(), Some(&*format!("arcssh: ssh already rejects {expected}")));
}

/// The report of `arcssh doctor` about the configuration.
fn doctor(home: &Home<'_>, arguments: &[&str]) -> (String, String) {
    let report = run(home.command(ARCSSH).args(["doctor", "--json"]).args(arguments));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "ssh configuration").unwrap();
    (check["outcome"].as_str().unwrap().to_owned(), home.with_tilde(check["text"].as_str().unwrap()))
}

#[test]
fn a_configuration_that_ssh_rejects_for_its_permissions_is_an_error() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Include other.conf\nHost other\n");
    let included = home.file().with_file_name("other.conf");
    fs::write(&included, "Host x\n").unwrap();
    for (file, name) in [(home.file(), "config"), (included, "other.conf")] {
        home.succeed(&["--remove"]);
        set_mode(&file, 0o666);
        let rejected = format!("~/.ssh/{name}: Bad owner or permissions");
        all_fail(&home, &["web01"], &rejected);
        set_mode(&file, 0o600);
        home.succeed(&["web01"]);
        set_mode(&file, 0o666);
        all_fail(&home, &["web01", "--user", "me"], &rejected);
        let expected =
            format!("arcssh: ssh rejects {rejected}\narcssh: hint: run: chmod go-w ~/.ssh/{name}\n");
        assert_eq!(home.fail(1, &["--verify"]), expected);
        assert_eq!(home.fail(1, &["web01"]), expected, "up to date");
        assert_eq!(doctor(&home, &[]).0, "failed");
        set_mode(&file, 0o600);
        assert_eq!(doctor(&home, &[]).0, "passed");
    }
}

#[test]
fn a_configuration_of_another_user_is_an_error() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "Host other\n");
    if !may_become(12345) {
        return;
    }
    home.succeed(&["web01"]);
    chown(home.file(), Some(12345), None).unwrap();
    all_fail(&home, &["web01", "--user", "me"], "~/.ssh/config: Bad owner or permissions");
    assert!(home.fail(1, &["--verify"]).contains("hint: run: sudo chown $(id -un) ~/.ssh/config"));
    assert_eq!(doctor(&home, &[]).0, "failed");
}

#[test]
fn an_error_in_the_system_configuration_is_reported_with_its_line() {
    let w = lab(&["web01"]);
    let Some(option) = namespaces("m").filter(|option| option == "-m") else { return };
    let home = Home::with(&w, "Host other\n");
    home.succeed(&["web01"]);
    let text = home.text();
    let system = w.home().join("etc");
    fs::create_dir_all(system.join("ssh_config.d")).unwrap();
    fs::write(system.join("ssh_config"), "Include /etc/ssh/ssh_config.d/*.conf\n").unwrap();
    let command = |text: &str, arguments: &[&str]| {
        fs::write(system.join("ssh_config.d/x.conf"), text).unwrap();
        let script = "mount --bind \"$0\" /etc/ssh && exec \"$@\"";
        let mut unshare = home.command("unshare");
        unshare.args([&option, "sh", "-euc", script]).arg(&system).arg(ARCSSH).args(arguments);
        run(&mut unshare)
    };
    let bad = "# one\n\nObscureStrokes no\nOther yes\n";
    let expected = "/etc/ssh/ssh_config.d/x.conf: line 3: Bad configuration option: obscurestrokes\n";
    for (arguments, verb) in [
        (&["config", "--user", "me"][..], "already rejects"),
        (&["config", "--verify"], "rejects"),
        (&["config"], "rejects"),
        (&["config", "--verify", "--file", ".ssh/config"], "rejects"),
    ] {
        let run = command(bad, arguments);
        assert!(run.stderr.starts_with(&format!("arcssh: ssh {verb} {expected}")), "{}", run.stderr);
        assert!(run.stderr.contains(" the file with: IgnoreUnknown obscurestrokes\n"), "{}", run.stderr);
        assert_eq!((run.code, home.text() == text), (Some(1), true));
    }
    let report: Value = serde_json::from_slice(&command(bad, &["doctor", "--json"]).stdout).unwrap();
    assert!(report.to_string().contains(expected.trim()), "{report}");
    fs::write(home.file(), format!("IgnoreUnknown ObscureStrokes,Other\n{text}")).unwrap();
    assert_eq!(command(bad, &["config", "--verify"]).code, Some(0));
}

#[test]
fn an_error_of_ssh_has_the_line_that_the_user_knows() {
    let w = lab(&["web01"]);
    let hint = "hint: correct the option; if another version of ssh knows it, add it to the first IgnoreUnknown line of your ssh configuration, or begin the file with: IgnoreUnknown usekeychain\n";
    let home = Home::new(&w);
    fs::create_dir(home.file().parent().unwrap()).unwrap();
    let (first, second) =
        ("Host *\n    UseKeychain yes\n", "    AddKeysToAgent yes\nHost b\n  UseKeychain no\n  Nonsense 1\n");
    for text in [format!("{first}{second}"), format!("\n\n{first}\n{first}"), first.replace('\n', "\r\n")] {
        fs::write(home.file(), &text).unwrap();
        let line = text.lines().position(|line| line.contains("UseKeychain")).unwrap() + 1;
        let expected = format!(
            "arcssh: ssh already rejects ~/.ssh/config: line {line}: Bad configuration option: usekeychain\narcssh: {hint}"
        );
        assert_eq!(home.fail(1, &["web01"]), expected);
        fs::write(home.file(), format!("IgnoreUnknown usekeychain,Nonsense\n{text}")).unwrap();
        home.succeed(&["web01"]);
        // Behind a block, with a longer and a shorter one.
        fs::write(home.file(), home.text().replace("IgnoreUnknown usekeychain,Nonsense", "")).unwrap();
        let line = home.text().lines().position(|line| line.contains("UseKeychain")).unwrap() + 1;
        let expected = expected.replace("line 2:", "line X:").replace("line 4:", "line X:");
        let expected = expected.replace("line X:", &format!("line {line}:"));
        for arguments in [&["web01", "--user", "me", "--port", "7"][..], &["web01", "--wildcard", "*.arc"]] {
            assert_eq!(home.fail(1, arguments), expected, "{arguments:?}");
        }
        assert_eq!(home.fail(1, &["--verify"]), expected.replace("already ", ""));
        assert_eq!(home.fail(1, &["web01"]), expected.replace("already ", ""), "up to date");
    }
    fs::write(home.file(), "Include more.conf\nHost a\n").unwrap();
    fs::write(home.file().with_file_name("more.conf"), "# x\n\nPort x\n").unwrap();
    let output = home.fail(1, &["web01"]);
    assert!(output.starts_with("arcssh: ssh already rejects ~/.ssh/more.conf: line 3: "), "{output}");
    fs::write(home.file(), "Host a\n").unwrap();
    fs::write(
        home.file().with_file_name("own.conf"),
        "Host {patterns}\n  Bogus 22x\n  ProxyCommand {proxy_command}\n",
    )
    .unwrap();
    let output = home.fail(1, &["web01", "--template", ".ssh/own.conf"]);
    assert!(
        output.contains(" of the new managed block (\"Bogus 22x\"): Bad configuration option: bogus\n"),
        "{output}"
    );
    assert!(
        output.ends_with("hint: correct the template of the host entries, and run the command again\n"),
        "{output}"
    );
}

#[test]
fn a_file_that_ssh_does_not_read_is_reported_with_its_include_line() {
    let w = lab(&["web01", "db01"]);
    let home = Home::with(&w, "Host foo\n  User foo\n");
    let file = home.file().with_file_name("arc.conf");
    let own = home.text();
    let name = file.to_str().unwrap().to_owned();
    let config = ["web01", "--user", "me", "--file", &name];
    let hint = "arcssh: hint: connect with ssh -F ~/.ssh/arc.conf web01, or begin ~/.ssh/config with the line: Include arc.conf\n";
    let missing =
        format!("arcssh: ssh web01 does not use ~/.ssh/arc.conf: ~/.ssh/config does not include it\n{hint}");
    assert_eq!(home.succeed(&config), format!("arcssh: wrote 1 host to ~/.ssh/arc.conf\n{missing}"));
    assert_eq!(home.text(), own);
    let verify = ["--verify", "--file", &name];
    assert_eq!(home.succeed(&verify), format!("{missing}arcssh: verified 1 host in ~/.ssh/arc.conf\n"));
    let (outcome, text) = doctor(&home, &["--file", &name]);
    assert_eq!(outcome, "warned", "{text}");
    symlink(home.file().parent().unwrap(), home.file().parent().unwrap().with_file_name("link")).unwrap();

    let directory = home.file().parent().unwrap().display().to_string();
    let home_directory = home.file().parent().unwrap().parent().unwrap().display().to_string();
    for include in [
        "Include arc.conf".to_owned(),
        "Include ~/.ssh/arc.conf".into(),
        "Include \"a*.conf\"".into(),
        format!("Include {directory}/arc.conf"),
        format!("Include {home_directory}/link/arc.conf"),
        "Include no.conf arc.conf".into(),
        "Host *\n  Include arc.conf".into(),
        "Match all\n  Include arc.conf".into(),
        "Host web*\n  Include arc.conf".into(),
        "Include once.conf".into(),
    ] {
        fs::write(home.file(), format!("{include}\n{own}")).unwrap();
        fs::write(home.file().with_file_name("once.conf"), "Include arc.conf\n").unwrap();
        assert_eq!(home.succeed(&verify), "arcssh: verified 1 host in ~/.ssh/arc.conf\n", "{include}");
        assert_eq!(doctor(&home, &["--file", &name]).0, "passed", "{include}");
        let used = run(home.command("ssh").args(["-T", "-G", "web01"])).clean();
        assert!(used.contains("\nuser me\n") || used.starts_with("user me\n"), "{include}{used}");
    }
    for above in [
        "Host foo\n",
        "Host * !web01\n",
        "Match user other\n",
        "Match host db01\n",
        "Host foo\nInclude once.conf\n",
    ] {
        let line = if above.contains("once") { 3 } else { 2 };
        fs::write(home.file(), format!("{above}  Include arc.conf\n")).unwrap();
        let location = if above.contains("once") {
            "~/.ssh/once.conf line 1".to_owned()
        } else {
            format!("~/.ssh/config line {line}")
        };
        let expected = format!(
            "arcssh: ssh web01 does not use ~/.ssh/arc.conf: the Include in {location} belongs to a Host or Match that does not apply\n{hint}"
        );
        assert_eq!(
            home.succeed(&verify),
            format!("{expected}arcssh: verified 1 host in ~/.ssh/arc.conf\n"),
            "{above}"
        );
        assert_eq!(doctor(&home, &["--file", &name]).0, "warned");
    }
    // One host of two.
    fs::write(home.file(), "Host web*\nInclude arc.conf\n").unwrap();
    let output = home.succeed(&["db01", "--file", &name]);
    assert!(
        output
            .contains("arcssh: ssh db01 does not use ~/.ssh/arc.conf: the Include in ~/.ssh/config line 2 "),
        "{output}"
    );
    // A line above the Include applies first.
    fs::write(home.file(), "Host web*\n  User root\nHost *\n  Include arc.conf\n").unwrap();
    let output = home.fail(1, &verify);
    assert!(
        output.starts_with(
            "arcssh: ssh does not use the user written for web01: ~/.ssh/config line 2 says \"root\"\n"
        ),
        "{output}"
    );
    // An included file is one of ssh's files, and needs their permissions.
    fs::write(home.file(), "Include arc.conf\n").unwrap();
    set_mode(&file, 0o666);
    let output = home.fail(1, &verify);
    assert!(
        output.starts_with("arcssh: ssh rejects ~/.ssh/arc.conf: Bad owner or permissions\n"),
        "{output}"
    );
}

#[test]
fn the_include_line_fits_the_file() {
    let w = lab(&["web01"]);
    let home = Home::with(&w, "");
    for name in ["a b/arc.conf", "x[1]%h*?.conf", "ü.conf", "it's#.conf"] {
        let file = home.file().parent().unwrap().with_file_name(name);
        let output = home.succeed(&["web01", "--user", "me", "--file", file.to_str().unwrap()]);
        let output = output.replace('~', home.file().parent().unwrap().parent().unwrap().to_str().unwrap());
        let line = output.trim_end().split("with the line: ").nth(1).unwrap();
        fs::write(home.file(), format!("{line}\n")).unwrap();
        let verified = home.succeed(&["--verify", "--file", file.to_str().unwrap()]);
        assert_eq!(verified.lines().count(), 1, "{verified}");
        fs::write(home.file(), "").unwrap();
    }
}
