//! Taking over what other programs left: sections live on under their old names, and nothing is deleted unasked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::{Lab, Run, run, world};

/// A file that `az ssh config` appended its section to, and the folder with what it generated.
struct Legacy {
    file: PathBuf,
    folder: PathBuf,
}

impl Legacy {
    /// As azure-cli-extensions `ssh_info.py` writes it for a local user: an empty line first, tabs, no newline at the end.
    fn of_az(w: &Lab, before: &str) -> Self {
        Self::with_relay_info(w, before, &w.relay_info())
    }

    fn with_relay_info(w: &Lab, before: &str, information: &str) -> Self {
        let folder = w.home().join("az_ssh_config/rg-arc-web01");
        fs::create_dir_all(&folder).unwrap();
        let relay_info = folder.join("rg-arc-web01-relay_info");
        fs::write(&relay_info, information).unwrap();
        fs::set_permissions(&relay_info, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(folder.join("id_rsa"), "a key of the user's").unwrap();
        let user = String::from_utf8(run(w.command("id").arg("-un")).stdout).unwrap();
        let section = format!(
            "\nHost rg-arc-web01-{user}\n\tHostName web01\n\tUser {user}\n\tIdentityFile \"{}\"\n\tProxyCommand \"/home/me/.clientsshproxy/sshProxy_linux_amd64_1_3_026973\" -r \"{}\" -p {}",
            w.sshd().client_key().display(),
            relay_info.display(),
            w.sshd().port(),
            user = user.trim(),
        );
        let file = w.home().join("az.conf");
        fs::write(&file, format!("{before}{section}")).unwrap();
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
fn a_section_of_az_ssh_config_lives_on_under_its_name() {
    let w = world(&["web01", "web02"]);
    let legacy = Legacy::of_az(&w, "Host other\n    Port 7\n");
    let adopted = legacy.adopt(&w, &[]);
    assert_eq!(adopted.code, Some(0), "{}", adopted.stderr);

    let mut ssh = w.command("ssh");
    ssh.arg("-F").arg(&legacy.file).args([
        "-o",
        "UserKnownHostsFile=.ssh/known_hosts",
        &legacy.alias(),
        "echo reached",
    ]);
    assert_eq!(run(&mut ssh).clean(), "reached\n");

    let text = fs::read_to_string(&legacy.file).unwrap();
    assert!(text.contains("\nHost other\n    Port 7\n"), "{text}");
    let old: Vec<&str> = text.lines().filter(|line| line.contains("sshProxy_")).collect();
    assert!(matches!(old[..], [line] if line.starts_with("# adopted by arcssh 20")), "{old:?}");
}

/// A section that logged in with a certificate of Entra ID, beside the key and the certificate that az made for it.
fn of_az_with_certificate(w: &Lab) -> Legacy {
    let legacy = Legacy::of_az(w, "");
    let folder = &legacy.folder;
    fs::remove_file(folder.join("id_rsa")).unwrap();
    for key in ["id_rsa", "ca"] {
        let mut keygen = w.command("ssh-keygen");
        run(keygen.args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"]).arg(folder.join(key))).clean();
    }
    let mut sign = w.command("ssh-keygen");
    sign.args(["-q", "-I", "me", "-n", "me", "-s"]).arg(folder.join("ca")).arg(folder.join("id_rsa.pub"));
    run(&mut sign).clean();
    fs::rename(folder.join("id_rsa-cert.pub"), folder.join("id_rsa.pub-aadcert.pub")).unwrap();
    let text = fs::read_to_string(&legacy.file).unwrap();
    let key = format!("IdentityFile \"{}\"", w.sshd().client_key().display());
    let pair = format!(
        "CertificateFile \"{0}/id_rsa.pub-aadcert.pub\"\n\tIdentityFile \"{0}/id_rsa\"",
        folder.display()
    );
    fs::write(&legacy.file, text.replace(&key, &pair)).unwrap();
    legacy
}

#[test]
fn leftovers_are_listed_and_deleted_only_when_asked() {
    let w = world(&["web01"]);
    let legacy = of_az_with_certificate(&w);
    let names = ["rg-arc-web01-relay_info", "id_rsa", "id_rsa.pub", "id_rsa.pub-aadcert.pub"];
    let files = names.map(|name| legacy.folder.join(name));
    let listed = legacy.adopt(&w, &[]);
    for file in &files {
        assert!(listed.stderr.contains(&format!("{} is left behind", file.display())), "{}", listed.stderr);
        assert!(file.exists());
    }
    let cleaned = legacy.adopt(&w, &["--clean"]);
    for file in &files {
        assert!(cleaned.stderr.contains(&format!("deleted {}", file.display())), "{}", cleaned.stderr);
        assert!(!file.exists());
    }
    assert!(legacy.folder.join("ca").exists() && w.sshd().client_key().exists());
}

#[test]
fn what_az_did_not_write_is_never_deleted() {
    let w = world(&["web01"]);
    // A key of the user's in az's own folder, and one at the place that the section names.
    let legacy = Legacy::of_az(&w, "");
    let cleaned = legacy.adopt(&w, &["--clean"]);
    assert!(!cleaned.stderr.contains("id_rsa"), "{}", cleaned.stderr);
    assert!(legacy.folder.join("id_rsa").exists() && w.sshd().client_key().exists());
    fs::remove_dir_all(&legacy.folder).unwrap();

    // A section whose files are the user's: the relay information, and the key and certificate behind links.
    let legacy = of_az_with_certificate(&w);
    let precious = w.home().join("precious");
    fs::create_dir(&precious).unwrap();
    for name in ["rg-arc-web01-relay_info", "id_rsa", "id_rsa.pub-aadcert.pub"] {
        fs::rename(legacy.folder.join(name), precious.join(name)).unwrap();
        std::os::unix::fs::symlink(precious.join(name), legacy.folder.join(name)).unwrap();
    }
    legacy.adopt(&w, &["--clean"]);
    assert_eq!(fs::read_dir(&precious).unwrap().count(), 3);
    assert!(legacy.folder.join("id_rsa").exists() && legacy.folder.join("id_rsa.pub").exists());
    fs::remove_dir_all(&legacy.folder).unwrap();

    // A certificate of another key, and a file that is called as relay information and holds something else.
    let legacy = of_az_with_certificate(&w);
    fs::write(legacy.folder.join("id_rsa.pub"), fs::read(legacy.folder.join("ca.pub")).unwrap()).unwrap();
    fs::write(legacy.folder.join("rg-arc-web01-relay_info"), "my notes").unwrap();
    let before = fs::read_dir(&legacy.folder).unwrap().count();
    let cleaned = legacy.adopt(&w, &["--clean"]);
    assert_eq!(fs::read_dir(&legacy.folder).unwrap().count(), before, "{}", cleaned.stderr);

    // A relay information of another name, such as a private key that `-r` names.
    let key = w.home().join("id_ed25519");
    fs::write(&key, w.relay_info()).unwrap();
    let text = format!(
        "Host rg-arc-web01\n\tHostName web01\n\tProxyCommand \"/x/sshProxy_linux\" -r \"{}\"\n",
        key.display()
    );
    fs::write(&legacy.file, text).unwrap();
    let cleaned = legacy.adopt(&w, &["--clean"]);
    assert!(cleaned.code == Some(0) && key.exists(), "{}", cleaned.stderr);
}

#[test]
fn what_a_section_still_names_is_no_leftover() {
    let w = world(&["web01"]);
    let legacy = of_az_with_certificate(&w);
    let text = fs::read_to_string(&legacy.file).unwrap();
    let mine = "Host mine\n    IdentityFile ~/az_ssh_config/rg-arc-web01/id_rsa\n";
    fs::write(&legacy.file, format!("{mine}{text}")).unwrap();
    let cleaned = legacy.adopt(&w, &["--clean"]);
    assert!(!cleaned.stderr.contains("id_rsa"), "{}", cleaned.stderr);
    assert!(legacy.folder.join("id_rsa").exists() && !legacy.folder.join("rg-arc-web01-relay_info").exists());
}

#[test]
fn a_refresh_keeps_what_was_adopted_and_remove_takes_it_out() {
    let w = world(&["web01"]);
    let legacy = Legacy::of_az(&w, "");
    legacy.adopt(&w, &[]);
    let before = fs::read_to_string(&legacy.file).unwrap();
    let config = |more: &[&str]| run(w.arcssh(&["config", "--file"]).arg(&legacy.file).args(more));
    assert_eq!(config(&[]).code, Some(0));
    assert_eq!(fs::read_to_string(&legacy.file).unwrap(), before);

    let alias = legacy.alias();
    assert_eq!(config(&["--remove", &alias]).code, Some(0));
    let after = fs::read_to_string(&legacy.file).unwrap();
    assert!(!after.contains(&format!("\nHost {alias}")) && !after.contains("\"adopted\""), "{after}");
}

#[test]
fn a_section_whose_machine_is_not_there_stays_as_it_is() {
    let w = world(&["db01"]);
    let legacy = Legacy::with_relay_info(&w, "", "a relay token");
    let before = fs::read_to_string(&legacy.file).unwrap();
    let adopted = legacy.adopt(&w, &["--clean"]);
    assert!(adopted.stderr.contains("stays as it is: no Arc machine"), "{}", adopted.stderr);
    assert_eq!(fs::read_to_string(&legacy.file).unwrap(), before);
    for file in ["rg-arc-web01-relay_info", "id_rsa"] {
        assert!(legacy.folder.join(file).exists(), "{file} is what it logs in with");
    }
}
