//! `config --adopt`: `az ssh config` entries keep working under their names, and files are deleted only with `--clean`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::{Lab, Run, lab, run};

/// A file with a host entry of `az ssh config`, and the directory of its generated files.
struct AzEntry {
    file: PathBuf,
    folder: PathBuf,
}

impl AzEntry {
    /// Format of azure-cli-extensions `ssh_info.py` for a local user: an empty line first, tabs, no newline at the end.
    fn local_user(w: &Lab, before: &str) -> Self {
        Self::with_relay_info(w, before, &w.relay_info())
    }

    fn with_relay_info(w: &Lab, before: &str, information: &str) -> Self {
        let folder = w.home().join("az_ssh_config/rg-arc-web01");
        fs::create_dir_all(&folder).unwrap();
        let relay_info = folder.join("rg-arc-web01-relay_info");
        fs::write(&relay_info, information).unwrap();
        fs::set_permissions(&relay_info, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(folder.join("id_rsa"), "the user's key").unwrap();
        let user = String::from_utf8(run(w.command("id").arg("-un")).stdout).unwrap();
        let entry = format!(
            "\nHost rg-arc-web01-{user}\n\tHostName web01\n\tUser {user}\n\tIdentityFile \"{}\"\n\tProxyCommand \"/home/me/.clientsshproxy/sshProxy_linux_amd64_1_3_026973\" -r \"{}\" -p {}",
            w.sshd().client_key().display(),
            relay_info.display(),
            w.sshd().port(),
            user = user.trim(),
        );
        let file = w.home().join("az.conf");
        fs::write(&file, format!("{before}{entry}")).unwrap();
        Self { file, folder }
    }

    fn adopt(&self, w: &Lab, more: &[&str]) -> Run {
        run(w.arcssh(&["config", "--adopt", "--file"]).arg(&self.file).args(more))
    }

    fn alias(&self) -> String {
        let text = fs::read_to_string(&self.file).unwrap();
        let host = text.lines().find_map(|line| line.strip_prefix("Host rg-arc-web01-")).unwrap();
        format!("rg-arc-web01-{host}")
    }
}

#[test]
fn an_adopted_entry_connects_under_its_old_name() {
    let w = lab(&["web01", "web02"]);
    let az = AzEntry::local_user(&w, "Host other\n    Port 7\n");
    let adopted = az.adopt(&w, &[]);
    assert_eq!(adopted.code, Some(0), "{}", adopted.stderr);

    let mut ssh = w.command("ssh");
    ssh.arg("-F").arg(&az.file).args([
        "-o",
        "UserKnownHostsFile=.ssh/known_hosts",
        &az.alias(),
        "echo reached",
    ]);
    assert_eq!(run(&mut ssh).clean(), "reached\n");

    let text = fs::read_to_string(&az.file).unwrap();
    assert!(text.contains("\nHost other\n    Port 7\n"), "{text}");
    let old: Vec<&str> = text.lines().filter(|line| line.contains("sshProxy_")).collect();
    assert!(matches!(old[..], [line] if line.starts_with("# adopted by arcssh 20")), "{old:?}");
}

/// A host entry that logs in with an Entra ID certificate, and the key and certificate that az wrote for it.
fn entra_user(w: &Lab) -> AzEntry {
    let az = AzEntry::local_user(w, "");
    let folder = &az.folder;
    fs::remove_file(folder.join("id_rsa")).unwrap();
    for key in ["id_rsa", "ca"] {
        let mut keygen = w.command("ssh-keygen");
        run(keygen.args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"]).arg(folder.join(key))).clean();
    }
    let mut sign = w.command("ssh-keygen");
    sign.args(["-q", "-I", "me", "-n", "me", "-s"]).arg(folder.join("ca")).arg(folder.join("id_rsa.pub"));
    run(&mut sign).clean();
    fs::rename(folder.join("id_rsa-cert.pub"), folder.join("id_rsa.pub-aadcert.pub")).unwrap();
    let text = fs::read_to_string(&az.file).unwrap();
    let key = format!("IdentityFile \"{}\"", w.sshd().client_key().display());
    let pair = format!(
        "CertificateFile \"{0}/id_rsa.pub-aadcert.pub\"\n\tIdentityFile \"{0}/id_rsa\"",
        folder.display()
    );
    fs::write(&az.file, text.replace(&key, &pair)).unwrap();
    az
}

#[test]
fn leftover_files_are_listed_and_deleted_only_with_clean() {
    let w = lab(&["web01"]);
    let az = entra_user(&w);
    let names = ["rg-arc-web01-relay_info", "id_rsa", "id_rsa.pub", "id_rsa.pub-aadcert.pub"];
    let files = names.map(|name| az.folder.join(name));
    let listed = az.adopt(&w, &[]);
    for file in &files {
        assert!(listed.stderr.contains(&format!("no longer used: {}", file.display())), "{}", listed.stderr);
        assert!(file.exists());
    }
    let cleaned = az.adopt(&w, &["--clean"]);
    for file in &files {
        assert!(cleaned.stderr.contains(&format!("deleted {}", file.display())), "{}", cleaned.stderr);
        assert!(!file.exists());
    }
    assert!(az.folder.join("ca").exists() && w.sshd().client_key().exists());
}

#[test]
fn files_that_az_did_not_write_are_never_deleted() {
    let w = lab(&["web01"]);
    // A key of the user in az's directory, and one at the path that the host entry names.
    let az = AzEntry::local_user(&w, "");
    let cleaned = az.adopt(&w, &["--clean"]);
    assert!(!cleaned.stderr.contains("id_rsa"), "{}", cleaned.stderr);
    assert!(az.folder.join("id_rsa").exists() && w.sshd().client_key().exists());
    fs::remove_dir_all(&az.folder).unwrap();

    // Files of the user behind links: the relay information, the key and the certificate.
    let az = entra_user(&w);
    let precious = w.home().join("precious");
    fs::create_dir(&precious).unwrap();
    for name in ["rg-arc-web01-relay_info", "id_rsa", "id_rsa.pub-aadcert.pub"] {
        fs::rename(az.folder.join(name), precious.join(name)).unwrap();
        std::os::unix::fs::symlink(precious.join(name), az.folder.join(name)).unwrap();
    }
    az.adopt(&w, &["--clean"]);
    assert_eq!(fs::read_dir(&precious).unwrap().count(), 3);
    assert!(az.folder.join("id_rsa").exists() && az.folder.join("id_rsa.pub").exists());
    fs::remove_dir_all(&az.folder).unwrap();

    // A certificate for another key, and a file with the name of a relay information file and other content.
    let az = entra_user(&w);
    fs::write(az.folder.join("id_rsa.pub"), fs::read(az.folder.join("ca.pub")).unwrap()).unwrap();
    fs::write(az.folder.join("rg-arc-web01-relay_info"), "my notes").unwrap();
    let before = fs::read_dir(&az.folder).unwrap().count();
    let cleaned = az.adopt(&w, &["--clean"]);
    assert_eq!(fs::read_dir(&az.folder).unwrap().count(), before, "{}", cleaned.stderr);

    // Relay information under an unexpected name, such as a private key that `-r` names.
    let key = w.home().join("id_ed25519");
    fs::write(&key, w.relay_info()).unwrap();
    let text = format!(
        "Host rg-arc-web01\n\tHostName web01\n\tProxyCommand \"/x/sshProxy_linux\" -r \"{}\"\n",
        key.display()
    );
    fs::write(&az.file, text).unwrap();
    let cleaned = az.adopt(&w, &["--clean"]);
    assert!(cleaned.code == Some(0) && key.exists(), "{}", cleaned.stderr);
}

#[test]
fn a_file_that_another_entry_uses_is_not_deleted() {
    let w = lab(&["web01"]);
    let az = entra_user(&w);
    let text = fs::read_to_string(&az.file).unwrap();
    let other_entry = "Host mine\n    IdentityFile ~/az_ssh_config/rg-arc-web01/id_rsa\n";
    fs::write(&az.file, format!("{other_entry}{text}")).unwrap();
    let cleaned = az.adopt(&w, &["--clean"]);
    assert!(!cleaned.stderr.contains("id_rsa"), "{}", cleaned.stderr);
    assert!(az.folder.join("id_rsa").exists() && !az.folder.join("rg-arc-web01-relay_info").exists());
}

#[test]
fn an_adopted_entry_survives_a_refresh_and_can_be_removed() {
    let w = lab(&["web01"]);
    let az = AzEntry::local_user(&w, "");
    az.adopt(&w, &[]);
    let before = fs::read_to_string(&az.file).unwrap();
    let config = |more: &[&str]| run(w.arcssh(&["config", "--file"]).arg(&az.file).args(more));
    assert_eq!(config(&[]).code, Some(0));
    assert_eq!(fs::read_to_string(&az.file).unwrap(), before);

    let alias = az.alias();
    assert_eq!(config(&["--remove", &alias]).code, Some(0));
    let after = fs::read_to_string(&az.file).unwrap();
    assert!(!after.contains(&format!("\nHost {alias}")) && !after.contains("\"adopted\""), "{after}");
}

#[test]
fn an_entry_without_a_machine_is_unchanged() {
    let w = lab(&["db01"]);
    let az = AzEntry::with_relay_info(&w, "", "a relay token");
    let before = fs::read_to_string(&az.file).unwrap();
    let adopted = az.adopt(&w, &["--clean"]);
    assert!(adopted.stderr.starts_with("arcssh: skipped rg-arc-web01-"), "{}", adopted.stderr);
    assert!(
        adopted.stderr.contains(": the account sees no Arc machine that matches this entry\n"),
        "{}",
        adopted.stderr
    );
    assert_eq!(fs::read_to_string(&az.file).unwrap(), before);
    for file in ["rg-arc-web01-relay_info", "id_rsa"] {
        assert!(az.folder.join(file).exists(), "the host entry needs {file}");
    }
}

#[test]
fn the_first_of_several_entries_is_adopted_as_ssh_uses_it() {
    let w = lab(&["web01"]);
    let az = AzEntry::local_user(&w, "");
    let entry = fs::read_to_string(&az.file).unwrap();
    let user = az.alias().trim_start_matches("rg-arc-web01-").to_owned();
    let with = |name: &str| entry.replace(&format!("User {user}"), &format!("User {name}"));
    fs::write(&az.file, format!("{}\n{}\n", with("first"), with("second"))).unwrap();
    let users = || {
        let text = fs::read_to_string(&az.file).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("    User "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    az.adopt(&w, &[]);
    assert_eq!(users(), ["first"]);
    // az appends another copy with each run.
    let text = fs::read_to_string(&az.file).unwrap();
    fs::write(&az.file, format!("{text}{}\n", with("third"))).unwrap();
    assert_eq!(az.adopt(&w, &[]).code, Some(0));
    assert_eq!(users(), ["first"]);
    assert!(!fs::read_to_string(&az.file).unwrap().contains("\n\tUser third"));
}

#[test]
fn an_adopted_entry_with_the_name_of_its_machine_is_the_entry_of_the_machine() {
    let w = lab(&["web01"]);
    for before in [&["web01"][..], &["--all", "--allow-names", "*"], &[]] {
        let az = AzEntry::local_user(&w, "");
        let text = fs::read_to_string(&az.file).unwrap();
        fs::write(&az.file, "").unwrap();
        let config = |arguments: &[&str]| {
            let config = run(w.arcssh(&["config", "--file"]).arg(&az.file).args(arguments));
            assert_eq!(config.code, Some(0), "{before:?} {arguments:?}: {}", config.stderr);
        };
        if !before.is_empty() {
            config(before);
        }
        let with_name = text.replace(
            &format!("Host {}", text.split("Host ").nth(1).unwrap().lines().next().unwrap()),
            "Host web01",
        );
        fs::write(&az.file, format!("{}{with_name}\n", fs::read_to_string(&az.file).unwrap())).unwrap();
        config(&["--adopt"]);
        config(&["web01", "--user", "other"]);
        let text = fs::read_to_string(&az.file).unwrap();
        assert_eq!(text.matches("\nHost web01\n").count(), 1, "{before:?}: {text}");
        assert_eq!(text.matches("    ProxyCommand ").count(), 1, "{before:?}: {text}");
        assert!(text.contains("    User other\n"), "{before:?}: {text}");
    }
}

#[test]
fn options_and_names_that_the_user_added_to_an_entry_are_kept() {
    let w = lab(&["web01"]);
    let az = AzEntry::local_user(&w, "");
    let entry = fs::read_to_string(&az.file).unwrap();
    let alias = az.alias();
    let entry = entry.replace(&format!("Host {alias}"), &format!("Host {alias} w1 # mine"));
    let more = "\tForwardAgent yes\n\tLocalForward 15432 localhost:5432\n\tIdentityFile /mine\n";
    let copy = entry.replace("w1 # mine", "w2");
    let old = format!("{entry}\n{more}{copy}\n\tSendEnv FOO\n");
    fs::write(&az.file, &old).unwrap();
    let adopted = az.adopt(&w, &[]);
    assert_eq!(adopted.code, Some(0), "{}", adopted.stderr);
    let note = format!(
        " to {alias}: ForwardAgent (line 7), LocalForward (line 8), IdentityFile (line 9), SendEnv (line 16)\n"
    );
    assert!(adopted.stderr.contains(&note), "{}", adopted.stderr);
    let text = fs::read_to_string(&az.file).unwrap();
    for name in [&*alias, "w1", "w2"] {
        let values = run(w.command("ssh").args(["-G", "-F"]).arg(&az.file).arg(name)).stdout;
        let values = String::from_utf8(values).unwrap();
        assert!(values.contains(" proxy "), "{name}: {values}");
        for value in ["forwardagent yes", "localforward 15432 ", "identityfile /mine"] {
            assert_eq!(values.contains(value), name != "w2", "{name} {value}: {values}");
        }
        assert_eq!(values.contains("sendenv FOO"), name != "w1", "{name}: {values}");
    }
    // Each run has the same result, and the comments contain what is missing of the old entries.
    let again = az.adopt(&w, &[]);
    assert_eq!((again.code, fs::read_to_string(&az.file).unwrap()), (Some(0), text), "{}", again.stderr);
    assert_eq!(run(w.arcssh(&["config", "--remove", "--file"]).arg(&az.file)).code, Some(0));
    let restored = fs::read_to_string(&az.file).unwrap();
    let original = |line: &str| match line.strip_prefix("# adopted by arcssh ") {
        Some(rest) => rest.split_once(": ").unwrap().1.to_owned(),
        None => line.to_owned(),
    };
    let restored: Vec<String> = restored.trim().lines().map(original).collect();
    assert_eq!(restored.join("\n"), old.trim());
}

#[test]
fn an_entry_with_a_pattern_is_unchanged() {
    let w = lab(&["web01"]);
    let az = AzEntry::local_user(&w, "");
    let entry = fs::read_to_string(&az.file).unwrap();
    let entry = entry.replace(&format!("Host {}", az.alias()), &format!("Host {} w*", az.alias()));
    fs::write(&az.file, &entry).unwrap();
    let adopted = az.adopt(&w, &[]);
    assert!(adopted.stderr.contains("no pattern such as \"w*\""), "{}", adopted.stderr);
    assert_eq!(fs::read_to_string(&az.file).unwrap(), entry);
}
