//! Entra ID logins: host entries of `arcssh config --entra`, and a real sshd that trusts only the emulator's
//! certificate authority.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use arcssh_emulator::{Builder, CertificateFault, EntraFault, Machine, RefreshRefusal, Service};

use crate::config::as_written_now;
use crate::support::{ARCSSH, Lab, Run, eventually, finish, lab_with, may_list_open_files, run, script};

const SSH_SCOPE: &str = "https://pas.windows.net/CheckMyAccess/Linux/.default";

/// A lab with a user who signed in by device code. Its name is the name of the local user, in upper case.
fn lab_with_user(machines: &[&str], configure: impl FnOnce(Builder) -> Builder) -> Lab {
    let name = principal();
    let second = Duration::from_secs(1);
    let w = lab_with(machines, |builder| {
        configure(builder.user_principal_name(&name).approve_devices().device_interval(second))
    });
    trust_only(&w, &name);
    assert_eq!(run(anonymous(&mut w.arcssh(&["login", "--device-code"]))).code, Some(0));
    w
}

/// The user's name in upper case. Entra ID keeps the case of the registration. The login name is in lower case.
fn principal() -> String {
    user().to_uppercase()
}

fn user() -> String {
    run(Command::new("id").arg("-un")).clean().trim().to_owned()
}

/// Makes sshd accept certificates for this principal, and no other key.
fn trust_only(w: &Lab, principal: &str) {
    w.sshd().trust_authority(&w.emulator().ssh_ca_public_key(), &[principal]).unwrap();
    let keys = w.sshd().client_key().with_file_name("authorized_keys");
    fs::write(keys, "").unwrap();
}

/// Removes the service principal of the emulator's environment.
fn anonymous(command: &mut Command) -> &mut Command {
    let names = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"];
    names.iter().fold(command, |command, name| command.env_remove(name))
}

/// An ssh configuration with host entries for this lab's machines.
struct HostEntries<'a> {
    lab: &'a Lab,
    file: PathBuf,
}

impl<'a> HostEntries<'a> {
    #[track_caller]
    fn generate(lab: &'a Lab, arguments: &[&str]) -> Self {
        let entries = Self { lab, file: lab.home().join("hosts.conf") };
        let known_hosts = lab.home().join(".ssh/known_hosts");
        // With `IdentitiesOnly yes`, ssh ignores keys of an agent.
        let user_options = format!(
            "Host *\n    UserKnownHostsFile {}\n    BatchMode yes\n    IdentitiesOnly yes\n",
            known_hosts.display()
        );
        fs::write(&entries.file, user_options).unwrap();
        let result = entries.config(arguments);
        assert_eq!(result.code, Some(0), "{}", result.stderr);
        entries
    }

    #[track_caller]
    fn config(&self, arguments: &[&str]) -> Run {
        let mut config = self.lab.arcssh(&["config", "--file"]);
        config.arg(&self.file).args(["--port", &self.lab.sshd().port().to_string()]).args(arguments);
        run(anonymous(&mut config))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// A program with the option `-F`, such as ssh.
    fn program(&self, name: &str) -> Command {
        let mut program = self.lab.command(name);
        anonymous(&mut program).arg("-F").arg(&self.file);
        program
    }

    fn ssh(&self, arguments: &[&str]) -> Run {
        run(self.program("ssh").args(arguments))
    }

    /// The value of `IdentityAgent` for web01.
    fn socket(&self) -> PathBuf {
        let text = self.text();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("IdentityAgent "));
        line.unwrap().into()
    }

    /// Starts ssh to web01, which runs until its standard input ends. Returns after the login.
    fn start_session(&self) -> Child {
        let logins = || self.lab.sshd().log().matches("Accepted publickey").count();
        let before = logins();
        let mut ssh = self.program("ssh");
        ssh.args(["web01", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = ssh.spawn().unwrap();
        assert!(eventually(Duration::from_secs(30), || logins() > before), "{}", self.lab.sshd().log());
        child
    }
}

/// Number of requests to the token endpoint. After sign-in and with a cached token for ARM, each is a request for a
/// certificate.
fn token_requests(w: &Lab) -> usize {
    let requests = w.emulator().requests_to(Service::Entra);
    requests.iter().filter(|request| request.path_and_query.ends_with("/token")).count()
}

#[test]
fn a_host_entry_logs_in_with_a_certificate() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01", "--entra"]);
    let text = hosts.text();
    assert!(text.contains(&format!("\n    User {}\n", user())), "{text}");
    assert!(text.contains("\n    IdentitiesOnly no\n    PubkeyAuthentication yes\n    PubkeyAcceptedKeyTypes +rsa-sha2-512-cert-v01@openssh.com,rsa-sha2-256-cert-v01@openssh.com\n    ForwardAgent no\n"), "{text}");
    assert_eq!(hosts.ssh(&["web01", "echo reached"]).clean(), "reached\n");
    let log = w.sshd().log();
    assert!(log.contains("Accepted publickey") && log.contains("-CERT"), "{log}");
    // The agent removes its socket.
    let socket = hosts.socket();
    assert!(eventually(Duration::from_secs(10), || !socket.exists()));
    // A second run changes nothing.
    let refreshed = hosts.config(&[]);
    assert_eq!((refreshed.code, hosts.text()), (Some(0), text), "{}", refreshed.stderr);
}

/// A certificate is for one user, so an earlier `--user` would fail the login.
#[test]
fn the_user_of_the_certificate_replaces_an_earlier_user() {
    let windows = |builder: Builder| builder.machine(Machine::new("win01").os_name("windows"));
    let w = lab_with_user(&["web01"], windows);
    let file = w.home().join("users.conf");
    let users_after = |runs: &[&[&str]]| {
        let _ = fs::remove_file(&file);
        for arguments in runs {
            let config = run(anonymous(
                w.arcssh(&["config", "--allow-names", "*", "--file"]).arg(&file).args(*arguments),
            ));
            assert_eq!(config.code, Some(0), "{arguments:?}: {}", config.stderr);
        }
        let text = fs::read_to_string(&file).unwrap();
        let users = text.lines().filter_map(|line| line.strip_prefix("    User "));
        users.map(str::to_owned).collect::<Vec<_>>()
    };
    let me = user();
    let group: &[&str] = &["-g", "rg-arc", "--user", "X"];
    // The last user is that of win01, which gets no certificate.
    assert_eq!(users_after(&[group, &["web01", "--entra"]]), [&me, "X"]);
    assert_eq!(users_after(&[group, &["-g", "rg-arc", "--entra"]]), [&me, "X"]);
    assert_eq!(users_after(&[group, &["--entra"], &[]]), [&me, "X"]);
    assert_eq!(users_after(&[group, &["--all", "--entra"]]), [&me, "X"]);
    let named: &[&str] = &["web01", "--user", "X"];
    assert_eq!(users_after(&[named, &["web01", "--entra"]]), [me.as_str()]);
    assert_eq!(users_after(&[named, &["-g", "rg-arc", "--entra"]]), [me.as_str()]);
    // A later or simultaneous user is the user's choice.
    assert_eq!(users_after(&[&["web01", "--entra"], named]), ["X"]);
    assert_eq!(users_after(&[&["web01", "--entra", "--user", "X"]]), ["X"]);
    assert_eq!(users_after(&[group, &["web01", "--entra"], &["--user", "Y"]]), ["Y", "Y"]);
}

#[test]
fn scp_and_rsync_copy_both_ways() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01", "--entra"]);
    let bytes = crate::support::noise(2 << 20);
    fs::write(w.home().join("file"), &bytes).unwrap();
    let remote = |name: &str| format!("web01:{}", w.home().join(name).display());
    run(hosts.program("scp").args(["-q", "file", &remote("by-scp")])).clean();
    run(hosts.program("scp").args(["-q", &remote("by-scp"), "back-scp"])).clean();
    let shell = format!("ssh -F {}", hosts.file.display());
    let rsync = |from: &str, to: &str| {
        run(anonymous(&mut w.command("rsync")).args(["-a", "-e", &shell, from, to])).clean();
    };
    rsync("file", &remote("by-rsync"));
    rsync(&remote("by-rsync"), "back-rsync");
    for copy in ["back-scp", "back-rsync"] {
        assert!(fs::read(w.home().join(copy)).unwrap() == bytes, "{copy}");
    }
}

#[test]
fn the_agent_lists_one_certificate_to_its_user_only() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01", "--entra"]);
    let ssh = hosts.start_session();
    let socket = hosts.socket();
    assert!(eventually(Duration::from_secs(10), || socket.exists()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o700, 0o600));
    let listed = run(w.command("ssh-add").arg("-L").env("SSH_AUTH_SOCK", &socket)).clean();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(listed.starts_with("ssh-rsa-cert-v01@openssh.com "), "{listed}");
    assert_eq!(finish(ssh).code, Some(0)); // `finish` closes standard input first
}

#[test]
fn thirty_concurrent_connections_need_one_certificate() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01", "--entra"]);
    w.clear_cache();
    // Caches a token for ARM, so that further requests are for certificates.
    run(anonymous(&mut w.arcssh(&["account"]))).clean();
    let before = token_requests(&w);
    let start = |_| {
        let mut ssh = hosts.program("ssh");
        ssh.args(["web01", "echo reached"]).stdin(Stdio::null());
        ssh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<Child> = (0..30).map(start).collect();
    for ssh in all {
        assert_eq!(finish(ssh).clean(), "reached\n");
    }
    assert_eq!(token_requests(&w) - before, 1);
    // The last processes wait for the clients of other agents.
    let socket = hosts.socket();
    let sockets = || fs::read_dir(socket.parent().unwrap()).unwrap().count();
    assert!(eventually(Duration::from_secs(15), || sockets() == 0), "{} sockets remain", sockets());
}

#[test]
fn an_expired_certificate_keeps_the_session_and_is_replaced() {
    let lifetime = Duration::from_secs(20);
    let w = lab_with_user(&["web01"], |builder| builder.certificate_lifetime(lifetime));
    let hosts = HostEntries::generate(&w, &["web01", "--entra"]);
    let validity = || {
        let shown = run(anonymous(&mut w.arcssh(&["cert", "--show"]))).clean();
        shown.lines().find(|line| line.starts_with("valid")).unwrap().to_owned()
    };
    let session = hosts.start_session();
    let first = validity();
    assert!(eventually(2 * lifetime, || !has_valid_certificate(&w)), "the certificate does not expire");
    assert_eq!(hosts.ssh(&["web01", "echo reached"]).clean(), "reached\n");
    assert_ne!(validity(), first);
    let finished = finish(session);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_certificate_is_renewed_in_the_background_after_70_percent() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01", "--entra"]);
    let (file, aged) = age_certificate(&w, 3000);
    let cached = || serde_json::from_slice::<serde_json::Value>(&fs::read(&file).unwrap()).unwrap();
    let certificate = |value: &serde_json::Value| value["value"]["issued"]["certificate"].to_string();
    let (session, before) = (hosts.start_session(), certificate(&aged));
    assert!(eventually(Duration::from_secs(30), || certificate(&cached()) != before));
    assert_eq!(cached()["value"]["key"], aged["value"]["key"]);
    assert_eq!(finish(session).code, Some(0));
}

/// Makes the cached certificate this many seconds older. Returns the file and its content.
fn age_certificate(w: &Lab, seconds: u64) -> (PathBuf, serde_json::Value) {
    let file = certificate_files(w, ".json").pop().unwrap();
    let mut cached: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for time in ["at", "until"] {
        let issued = &mut cached["value"]["issued"][time];
        *issued = (issued.as_u64().unwrap() - seconds).into();
    }
    fs::write(&file, cached.to_string()).unwrap();
    (file, cached)
}

#[test]
fn an_expiring_certificate_is_used_if_renewal_fails() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let cert = || run(anonymous(&mut w.arcssh(&["cert"])));
    let first = cert().clean();
    let before = token_requests(&w);
    w.emulator().refuse_refresh_tokens(RefreshRefusal::SecondFactor);
    age_certificate(&w, 3400);
    assert_eq!((cert().clean(), token_requests(&w) - before), (first, 1));
    age_certificate(&w, 200);
    let expired = cert();
    assert!(expired.code == Some(3) && expired.stderr.contains("AADSTS50076"), "{expired:?}");
}

/// Returns whether the cached certificate is valid.
fn has_valid_certificate(w: &Lab) -> bool {
    let shown = run(&mut w.arcssh(&["cache", "show"])).clean();
    shown.lines().any(|line| line.starts_with("certificate") && line.ends_with('Z'))
}

#[test]
fn an_invalid_certificate_ends_the_connection_with_one_message() {
    let cases = [
        (CertificateFault::AnotherKey, "the certificate is for another key"),
        (CertificateFault::Expired, "the certificate expired at "),
        (CertificateFault::NotYetValid, "the certificate is not valid before "),
        (CertificateFault::HostType, "the certificate is for a host, not for a user"),
        (CertificateFault::Garbage, "it is not an ssh-rsa-cert-v01@openssh.com certificate"),
        (
            CertificateFault::Huge,
            "cannot get a token of the sign-in of arcssh: the response is longer than 4 MiB",
        ),
    ];
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01", "--entra"]);
    for (fault, error) in cases {
        w.clear_cache();
        w.emulator().certificate_fault(fault);
        let failed = hosts.ssh(&["web01", "echo reached"]);
        assert_eq!((failed.code, failed.stdout.len()), (Some(255), 0), "{fault:?}");
        let lines = failed.arcssh_lines();
        assert!(
            lines[0].starts_with("arcssh: cannot connect to web01: ") && lines[0].contains(error),
            "{lines:?}"
        );
        assert!(!failed.stderr.contains("Permission denied"), "{}", failed.stderr);
        // The next certificate is valid.
        assert_eq!(hosts.ssh(&["web01", "echo reached"]).clean(), "reached\n");
    }
    w.clear_cache();
    w.emulator().certificate_fault(CertificateFault::AnotherAuthority);
    let failed = hosts.ssh(&["web01", "echo reached"]);
    assert!(failed.stderr.contains("Permission denied (publickey)"), "{}", failed.stderr);
}

#[test]
fn service_principals_log_in_with_secret_certificate_and_federated_token() {
    let w = lab_with(&["web01"], |builder| builder);
    trust_only(&w, "c11e4700-0000-4000-8000-000000000001");
    let certificate = w.emulator().client_certificate();
    let federated = w.emulator().federated_token();
    let cases: [(&str, Option<(&str, &Path)>); 3] = [
        ("secret", None),
        ("certificate", Some(("AZURE_CLIENT_CERTIFICATE_PATH", &certificate))),
        ("federated", Some(("AZURE_FEDERATED_TOKEN_FILE", &federated))),
    ];
    for (name, variable_and_file) in cases {
        let with = |command: &mut Command| {
            if let Some((variable, file)) = variable_and_file {
                command.env_remove("AZURE_CLIENT_SECRET").env(variable, file);
            }
            run(command)
        };
        let file = w.home().join(name);
        let mut config = w.arcssh(&["config", "web01", "--entra", "--user", &user(), "--file"]);
        config.arg(&file).args(["--port", &w.sshd().port().to_string()]);
        assert_eq!(with(&mut config).code, Some(0), "{name}");
        let known_hosts = format!("UserKnownHostsFile={}", w.home().join(".ssh/known_hosts").display());
        let mut ssh = w.command("ssh");
        ssh.arg("-F").arg(&file).args(["-o", &known_hosts, "-o", "BatchMode=yes", "web01", "echo reached"]);
        assert_eq!(with(&mut ssh).clean(), "reached\n", "{name}");
    }
}

#[test]
fn a_managed_identity_gets_no_certificate() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let mut cert = w.arcssh(&["cert", "--credential", "managed-identity"]);
    let refused = run(anonymous(&mut cert));
    refused.failed(
        3,
        &[
            "arcssh: Entra ID issues no SSH certificates to managed identities",
            "arcssh: hint: sign in: arcssh login; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
        ],
    );
}

#[test]
fn azure_powershell_gets_no_certificate() {
    let w = lab_with(&["web01"], |builder| builder);
    let bin = w.home().join("bin");
    script(&bin, "pwsh", "#!/bin/sh\necho '{\"token\":\"opaque\",\"expiresOn\":4102444800}'\n");
    let keygen = run(Command::new("which").arg("ssh-keygen")).clean();
    std::os::unix::fs::symlink(keygen.trim(), bin.join("ssh-keygen")).unwrap();
    run(anonymous(&mut w.arcssh(&["cert"])).env("PATH", &bin)).failed(
        3,
        &["arcssh: Azure PowerShell cannot request SSH certificates", "arcssh: hint: sign in: arcssh login"],
    );
}

#[test]
fn a_failed_key_generation_gets_a_hint() {
    let w = lab_with(&["web01"], |builder| builder);
    let cert =
        |name, value: &str| run(w.arcssh(&["cert"]).env("ARCSSH_STATE_DIR", "/proc/x").env(name, value));
    let no_program = cert("PATH", "/proc");
    let lines = no_program.arcssh_lines();
    assert!(
        lines[0].starts_with("arcssh: cannot create a key for a certificate: ssh-keygen is not installed"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "arcssh: hint: install the OpenSSH client, which includes ssh-keygen");
    let no_folder = cert("TMPDIR", "/proc");
    let lines = no_folder.arcssh_lines();
    assert!(lines[0].contains("cannot create a temporary directory: "), "{lines:?}");
    assert_eq!(lines[1], "arcssh: hint: free disk space, or name a writable directory in TMPDIR");
}

#[test]
fn conditional_access_errors_get_a_hint() {
    let w = lab_with_user(&["web01"], |builder| builder);
    w.emulator().refuse_refresh_tokens(RefreshRefusal::SecondFactor);
    let refused = run(anonymous(&mut w.arcssh(&["cert"])));
    let lines = refused.arcssh_lines();
    let why = "arcssh: no SSH certificate: Entra ID rejected the sign-in of arcssh: AADSTS50076: Due to a configuration change";
    assert!(lines[0].starts_with(why) && lines[0].contains("Trace ID"), "{lines:?}");
    assert_eq!(lines[1], format!("arcssh: hint: sign in: arcssh login --scope {SSH_SCOPE}"));
    // The hint solves it.
    let login = ["login", "--device-code", "--scope", SSH_SCOPE];
    assert_eq!(run(anonymous(&mut w.arcssh(&login))).code, Some(0));
    assert_eq!(run(anonymous(&mut w.arcssh(&["cert"]))).code, Some(0));

    w.clear_cache();
    w.emulator().entra_fault(EntraFault::new(400, "invalid_grant", 53003, "Access has been blocked."));
    let blocked = run(anonymous(&mut w.arcssh(&["cert"])));
    assert!(blocked.arcssh_lines()[1].contains("Conditional Access"), "{}", blocked.stderr);
    w.emulator().entra_fault(EntraFault::new(400, "invalid_resource", 500_011, "No principal."));
    let lacking = run(anonymous(&mut w.arcssh(&["cert"])));
    assert!(lacking.arcssh_lines()[1].contains("az ad sp create --id ce6ff14a-"), "{}", lacking.stderr);
}

#[test]
fn azure_cli_requests_the_certificate_with_its_extension() {
    let w = lab_with(&["web01"], |builder| builder);
    trust_only(&w, &principal());
    let authority = w.home().join("authority");
    let keygen = ["-q", "-t", "rsa", "-N", "", "-f"];
    run(Command::new("ssh-keygen").args(keygen).arg(&authority)).clean();
    let bin = w.home().join("bin");
    let az = |body: &str| script(&bin, "az", &format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n"));
    let cert = || {
        let mut cert = w.arcssh(&["cert", "--credential", "azure-cli"]);
        run(anonymous(&mut cert).env("PATH", format!("{}:/usr/bin:/bin", bin.display())))
    };
    az("echo \"ERROR: 'ssh' is misspelled or not recognized by the system.\" >&2; exit 2");
    cert().failed(
        3,
        &[
            "arcssh: Azure CLI has no ssh extension, and no other account is signed in",
            "arcssh: hint: sign in: arcssh login; or install the extension: az extension add --name ssh",
        ],
    );
    // An option that Azure CLI does not support is an error.
    for (option, value) in
        [("--tenant", "contoso.com"), ("--scope", "https://x/.default"), ("--client-id", "x")]
    {
        let mut cert = w.arcssh(&["cert", option, value]);
        run(anonymous(&mut cert).env("PATH", format!("{}:/usr/bin:/bin", bin.display()))).failed(
            3,
            &[
                "arcssh: Azure CLI requests SSH certificates without --tenant, --scope and --client-id",
                "arcssh: hint: remove these options, or sign in with them: arcssh login",
            ],
        );
    }
    az(&format!(
        "echo \"$*\" > \"$HOME/arguments\"; cat > \"$HOME/read-by-az\"\n\
         ssh-keygen -q -s {} -I id -n {} -V +1h \"$4\" && mv \"${{4%.pub}}-cert.pub\" \"$6.new\" && mv \"$6.new\" \"$6\"",
        authority.display(),
        principal()
    ));
    let output = cert().clean();
    assert!(output.starts_with(&format!("login name        {}\n", user())), "{output}");
    let arguments = fs::read_to_string(w.home().join("arguments")).unwrap();
    assert!(arguments.starts_with("ssh cert --public-key-file /"), "{arguments}");
    assert_eq!(fs::read(w.home().join("read-by-az")).unwrap(), b"");
}

#[test]
fn windows_machines_are_rejected_with_the_reason() {
    let windows = |builder: Builder| builder.machine(Machine::new("win01").os_name("windows"));
    let w = lab_with_user(&["web01"], windows);
    let file = w.home().join("win.conf");
    let config = |arguments: &[&str]| {
        let mut config = w.arcssh(&["config", "--entra", "--file"]);
        run(anonymous(config.arg(&file).args(arguments)))
    };
    config(&["win01"]).failed(
        1,
        &["arcssh: win01: Entra users can log in to Linux machines only; for Windows, use --user and a key of that user"],
    );
    assert!(!file.exists() || fs::read_to_string(&file).unwrap().is_empty());
    let mixed = config(&["--all"]);
    assert_eq!(mixed.code, Some(0), "{}", mixed.stderr);
    assert!(mixed.stderr.contains("no certificate for rg-arc/win01: "), "{}", mixed.stderr);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("IdentityAgent").count(), 1, "{text}");
}

#[test]
fn ssh_renews_certificate_files() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01", "--entra=files", "--wildcard", "*.arc"]);
    let text = hosts.text();
    let line = format!("\nMatch originalhost web01 exec \"{ARCSSH} cert --file ");
    assert!(text.contains(&line), "{text}");
    let folder = w.home().join(".ssh/arcssh");
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(hosts.ssh(&["web01", "echo reached"]).clean(), "reached\n");
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // `--verify` accepts the entries, and `--remove` also removes the Match block.
    let verified = run(anonymous(w.arcssh(&["config", "--verify", "--file"]).arg(&hosts.file)));
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
    let removed = run(w.arcssh(&["config", "--file"]).arg(&hosts.file).args(["--remove", "web01"]));
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    let text = hosts.text();
    assert_eq!(
        (text.matches("\nMatch ").count(), text.matches("originalhost *.arc ").count()),
        (1, 1),
        "{text}"
    );
}

/// An encrypted private key of the user in `my keys/id_rsa`, with the passphrase `secret`.
fn own_key(w: &Lab, kind: &str) -> PathBuf {
    let folder = w.home().join("my keys");
    fs::create_dir(&folder).unwrap();
    let key = folder.join("id_own");
    run(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "secret", "-f"]).arg(&key)).clean();
    key
}

#[test]
fn ssh_renews_the_certificate_of_the_users_own_encrypted_key() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let key = own_key(&w, "rsa");
    let public_key = key.with_extension("pub");
    let public_key = public_key.to_str().unwrap();
    let hosts = HostEntries::generate(&w, &["web01", "--entra", "--public-key", public_key]);
    let text = hosts.text();
    assert!(text.contains(&format!("IdentityFile \"{}\"\n", key.display())), "{text}");
    assert!(text.contains("CertificateFile ") && !text.contains("IdentityAgent"), "{text}");
    assert!(
        !hosts.ssh(&["web01", "true"]).stderr.is_empty(),
        "without the agent, ssh cannot decrypt the key"
    );
    script(w.home(), "passphrase", "#!/bin/sh\necho secret\n");
    let login = |then: &str| {
        let line = format!(
            "eval $(ssh-agent -s 2> /dev/null) > /dev/null; ssh-add -q '{0}' < /dev/null && {then} && ssh -F {1} web01 echo reached && ssh -F {1} web01 true; kill $SSH_AGENT_PID",
            key.display(),
            hosts.file.display()
        );
        let mut shell = w.command("sh");
        let passphrase = w.home().join("passphrase");
        anonymous(&mut shell).env("SSH_ASKPASS", passphrase).env("SSH_ASKPASS_REQUIRE", "force");
        run(shell.args(["-c", &line])).clean()
    };
    let certificates = || {
        let requests = w.emulator().requests_to(Service::Entra);
        requests.iter().filter(|request| request.body.contains("ssh-cert")).count()
    };
    let issued = certificates();
    assert_eq!(login("true"), "reached\n");
    assert_eq!(certificates(), issued, "the certificate in the file is valid");
    fs::remove_dir_all(w.home().join(".ssh/arcssh")).unwrap();
    // Like a key on a token, a private key can be in the agent only.
    assert_eq!(login(&format!("mv '{0}' '{0}.away'", key.display())), "reached\n");
    assert_eq!(certificates(), issued + 1, "one of two connections renews the certificate");
    assert!(w.sshd().log().contains("RSA-CERT"), "{}", w.sshd().log());
    // Without the option, arcssh uses a key of its own again.
    assert_eq!(hosts.config(&["web01", "--entra"]).code, Some(0));
    assert!(hosts.text().contains("IdentityAgent") && !hosts.text().contains("CertificateFile"));
    assert_eq!(hosts.ssh(&["web01", "echo reached"]).clean(), "reached\n");
}

#[test]
fn a_key_that_entra_id_does_not_certify_is_rejected_before_any_request() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01"]);
    let before = hosts.text();
    let key = own_key(&w, "ed25519");
    let requests = w.emulator().requests().len();
    for (file, cause) in [
        (
            key.with_extension("pub"),
            "its type is ssh-ed25519, and Entra ID certifies only ssh-rsa; to create such a key: ssh-keygen -t rsa",
        ),
        (key.clone(), "it is a private key; its public key is in the file that ends in .pub"),
    ] {
        let failed = hosts.config(&["web01", "--entra=files", "--public-key", file.to_str().unwrap()]);
        assert_eq!(failed.code, Some(1));
        assert!(failed.stderr.contains(cause), "{}", failed.stderr);
    }
    let agent = hosts.config(&["web01", "--entra=agent", "--public-key", key.to_str().unwrap()]);
    assert!(agent.stderr.contains("add --entra=files"), "{}", agent.stderr);
    assert_eq!((hosts.text(), w.emulator().requests().len()), (before, requests));
}

/// The golden files are blocks as the first format had them, with the templates of that time.
#[test]
fn a_block_of_format_1_with_certificates_is_read_refreshed_and_removed() {
    let web01 = Machine::new("web01").vm_id("aaaaaaaa-0000-4000-8000-000000000001");
    let w = lab_with(&[], |builder| {
        let builder = builder.machine(web01).user_principal_name("Ada@contoso.com").approve_devices();
        builder.device_interval(Duration::from_secs(1))
    });
    assert_eq!(run(anonymous(&mut w.arcssh(&["login", "--device-code"]))).code, Some(0));
    let file = w.home().join("hosts.conf");
    let config = |arguments: &[&str]| {
        let config = run(anonymous(w.arcssh(&["config", "--file"]).arg(&file).args(arguments)));
        assert_eq!(config.code, Some(0), "{}", config.stderr);
        (config.stderr, fs::read_to_string(&file).unwrap())
    };
    for mode in ["agent", "files"] {
        let golden = format!("tests/golden/config-block-1-{mode}.conf");
        let golden = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(golden)).unwrap();
        let old = golden
            .replace("{arcssh}", ARCSSH)
            .replace("{subscription}", arcssh_emulator::SUBSCRIPTION)
            .replace("{home}", w.home().to_str().unwrap());
        let old = format!("{old}\nHost other\n");
        fs::write(&file, &old).unwrap();
        let (notes, new) = config(&[]);
        // The `Match` lines are now below all host entries.
        let entries = |text: &str| {
            let lines = text.split_once("\n\n").unwrap().1.lines();
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("# options "));
            lines.map(str::to_owned).partition::<Vec<_>, _>(|line| line.starts_with("Match "))
        };
        assert_eq!(entries(&new), entries(&as_written_now(&old)), "{notes}");
        assert!(mode == "agent" || new.find("\nMatch ") > new.find("\nHost *.arc"), "{new}");
        assert!(new.starts_with("# >>> arcssh >>> block 2: "), "{new}");
        fs::write(&file, &old).unwrap();
        let (_, without) = config(&["--remove", "rg-arc/web01"]);
        assert!(without.contains("\nHost *.arc\n") && !without.contains("Host web01"), "{without}");
        fs::write(&file, &old).unwrap();
        assert_eq!(config(&["--remove"]).1, "Host other\n");
    }
}

/// Options for all hosts that keep ssh from offering an RSA certificate, or from using a ProxyCommand.
const HARDENED: [&str; 4] = [
    "PubkeyAuthentication no",
    "PubkeyAcceptedAlgorithms ssh-ed25519,ssh-ed25519-cert-v01@openssh.com",
    "PubkeyAcceptedKeyTypes ecdsa-sha2-nistp256",
    "ProxyUseFdpass yes",
];

/// The arguments of ssh that an entry of an earlier version did not have.
fn as_earlier(text: &str) -> String {
    let is_new = |line: &&str| ["Pubkey", "ProxyUseFdpass"].iter().any(|word| line.trim().starts_with(word));
    text.lines().filter(|line| !is_new(line)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_certificate_works_above_a_hardened_configuration() {
    let w = lab_with_user(&["web01"], |builder| builder);
    for mode in ["--entra=agent", "--entra=files"] {
        let hosts = HostEntries::generate(&w, &["web01", mode]);
        let text = hosts.text();
        for option in HARDENED {
            fs::write(&hosts.file, format!("{text}\nHost *\n    {option}\n")).unwrap();
            assert_eq!(hosts.config(&["--verify"]).code, Some(0), "{mode} {option}");
            assert_eq!(hosts.ssh(&["web01", "echo reached"]).clean(), "reached\n", "{mode} {option}");
        }
    }
}

#[test]
fn an_option_above_the_block_that_excludes_certificates_is_found() {
    let w = lab_with_user(&["web01"], |builder| builder);
    for mode in ["--entra=agent", "--entra=files"] {
        let hosts = HostEntries::generate(&w, &["web01", mode]);
        let text = hosts.text();
        for option in HARDENED {
            fs::write(&hosts.file, format!("# mine\nHost web*\n    {option}\n{text}")).unwrap();
            assert_ne!(hosts.ssh(&["web01", "true"]).code, Some(0), "{mode} {option}");
            let verified = hosts.config(&["--verify"]);
            let location =
                format!("the host entry web01 does not work: {} line 3 sets ", hosts.file.display());
            let hint = format!("contains line 3 of {} below the managed block", hosts.file.display());
            assert_eq!(verified.code, Some(1), "{option}");
            assert!(
                verified.stderr.contains(&location) && verified.stderr.contains(&hint),
                "{}",
                verified.stderr
            );
        }
    }
}

#[test]
fn an_entry_of_an_earlier_version_in_a_hardened_configuration_is_found_and_written_again() {
    let w = lab_with_user(&["web01"], |builder| builder);
    for mode in ["--entra=agent", "--entra=files"] {
        let hosts = HostEntries::generate(&w, &["web01", mode]);
        let earlier = as_earlier(&hosts.text());
        fs::write(&hosts.file, &earlier).unwrap();
        assert_eq!(hosts.config(&["--verify"]).code, Some(0));
        for option in HARDENED {
            fs::write(&hosts.file, format!("{earlier}\nHost *\n    {option}\n")).unwrap();
            assert_ne!(hosts.ssh(&["web01", "true"]).code, Some(0), "{mode} {option}");
            let verified = hosts.config(&["--verify"]);
            assert_eq!(verified.code, Some(1), "{option}");
            assert!(verified.stderr.contains("hint: write the host entries again"), "{}", verified.stderr);
            assert_eq!(hosts.config(&[]).code, Some(0));
            assert_eq!(hosts.ssh(&["web01", "echo reached"]).clean(), "reached\n", "{mode} {option}");
        }
    }
}

#[test]
fn an_option_that_excludes_the_login_and_no_entry_can_replace_is_found() {
    let w = lab_with_user(&["web01"], |builder| builder);
    for mode in ["--entra=agent", "--entra=files"] {
        let hosts = HostEntries::generate(&w, &["web01", mode]);
        let text = hosts.text();
        for (option, hint) in [
            (
                "PreferredAuthentications password,keyboard-interactive",
                "add publickey to the list in that line",
            ),
            ("RequiredRSASize 4096", "set RequiredRSASize to 3072 or less in that line"),
        ] {
            let above = format!("Host *\n    {option}\n{text}");
            let below = format!("{text}\nHost web01\n    {option}\n");
            for changed in [above, below] {
                fs::write(&hosts.file, changed).unwrap();
                assert_ne!(hosts.ssh(&["web01", "true"]).code, Some(0), "{mode} {option}");
                let verified = hosts.config(&["--verify"]);
                let keyword = option.split(' ').next().unwrap().to_lowercase();
                assert_eq!(verified.code, Some(1), "{option}");
                assert!(
                    verified.stderr.contains(&format!(" sets {keyword} to "))
                        && verified.stderr.contains(hint),
                    "{}",
                    verified.stderr
                );
                let mut doctor = w.arcssh(&["doctor", "web01", "--file"]);
                let doctor = run(anonymous(doctor.arg(&hosts.file)));
                let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
                assert!(report.contains("the host entry web01 does not work: "), "{report}");
                let line = 1 + hosts.text().lines().position(|line| line.trim() == option).unwrap();
                assert!(verified.stderr.contains(&format!(" line {line} sets ")), "{}", verified.stderr);
                let written = hosts.config(&["--control-master"]);
                assert!(written.stderr.contains(&format!(" line {line} sets ")), "{}", written.stderr);
                assert!(written.code == Some(1) && written.stderr.contains(hint), "{}", written.stderr);
            }
        }
    }
}

#[test]
fn unusual_user_names_give_valid_host_entries() {
    for name in [
        "Ada_contoso.com#EXT#@fabrikam.onmicrosoft.com",
        "Conan.O'Brien@contoso.com",
        "jörg@contoso.com",
        "-dash@contoso.com",
        "a^b~c!'d'@contoso.com",
    ] {
        let w = lab_with(&["web01"], |builder| {
            builder.user_principal_name(name).approve_devices().device_interval(Duration::from_secs(1))
        });
        assert_eq!(run(anonymous(&mut w.arcssh(&["login", "--device-code"]))).code, Some(0));
        let hosts = HostEntries::generate(&w, &["web01", "--entra=files"]);
        let folder = w.home().join(".ssh/arcssh");
        let user = format!("user {}", name.to_lowercase());
        fs::remove_dir_all(&folder).unwrap_or_default();
        let effective = hosts.ssh(&["-T", "-G", "web01"]).clean();
        assert!(effective.lines().any(|line| line == user), "{effective}");
        assert_eq!(
            fs::read_dir(&folder).unwrap().count(),
            2,
            "{name}: Match exec writes key and certificate"
        );
        let file = fs::read_to_string(&hosts.file).unwrap();
        assert!(file.contains(" --login-name "), "{name}: {file}");
        let windows = hosts.config(&["--platform", "windows"]);
        assert_eq!(windows.code, Some(0), "{name}: {}", windows.stderr);
    }
}

#[test]
fn a_certificate_for_a_given_key_is_written_next_to_it() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let key = w.home().join("key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"]).arg(&key)).clean();
    let public = w.home().join("key.pub");
    let issued = run(anonymous(w.arcssh(&["cert", "--public-key"]).arg(&public)));
    assert_eq!(issued.code, Some(0), "{}", issued.stderr);
    let proxy = format!("arcssh proxy {} --port %p", w.id()).replacen("arcssh", ARCSSH, 1);
    let mut ssh = w.command("ssh");
    anonymous(&mut ssh).arg("-F").arg("none").args(["-o", &format!("ProxyCommand={proxy}")]);
    let known_hosts = format!("UserKnownHostsFile={}", w.home().join(".ssh/known_hosts").display());
    ssh.args(["-o", &known_hosts, "-o", "BatchMode=yes", "-p", &w.sshd().port().to_string()]);
    ssh.arg("-i").arg(&key).args(["web01", "echo reached"]);
    assert_eq!(run(&mut ssh).clean(), "reached\n");
    let shown = run(w.command("ssh-keygen").args(["-L", "-f", "key-cert.pub"])).clean();
    assert!(shown.contains(&principal()), "{shown}");

    fs::write(&public, "ssh-ed25519 AAAA").unwrap();
    let refused = run(anonymous(w.arcssh(&["cert", "--public-key"]).arg(&public)));
    assert!(refused.stderr.contains("Entra ID certifies only ssh-rsa"), "{}", refused.stderr);
}

#[test]
fn files_that_arcssh_did_not_write_are_not_overwritten() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let keygen = |arguments: &[&str]| {
        run(w.command("ssh-keygen").args(["-q"]).args(arguments)).clean();
    };
    for name in ["key", "authority"] {
        keygen(&["-t", "rsa", "-b", "2048", "-N", "", "-C", "arcssh", "-f", name]);
    }
    let read = |name: &str| fs::read(w.home().join(name)).unwrap();
    let cert = |arguments: &[&str]| run(anonymous(w.arcssh(&["cert"]).args(arguments)));
    let refused = |arguments: &[&str], name: &str| {
        let before = read(name);
        let refused = cert(arguments);
        let why = format!(
            "arcssh: cannot overwrite {name}: arcssh did not create it\narcssh: hint: name another file with --file\n"
        );
        assert!(refused.code == Some(1) && refused.stderr.contains(&why), "{}", refused.stderr);
        assert!(read(name) == before, "{name} was changed");
    };
    refused(&["--file", "key-cert.pub"], "key");
    assert!(!w.home().join("key-cert.pub").exists());
    refused(&["--public-key", "key.pub", "--file", "key"], "key");
    refused(&["--public-key", "key.pub", "--file", "key.pub"], "key.pub");
    // A valid certificate of another authority is preserved.
    keygen(&["-s", "authority", "-I", "id", "-n", "me", "-V", "+1h", "key.pub"]);
    refused(&["--public-key", "key.pub"], "key-cert.pub");
    keygen(&["-s", "authority", "-I", "id", "-n", "me", "-V", "-2h:-1h", "key.pub"]);
    for authority in
        ["an expired certificate", "a certificate of the same authority", "after a change of the authority"]
    {
        if authority.starts_with("after") {
            w.emulator().certificate_fault(CertificateFault::AnotherAuthority);
        }
        let replaced = cert(&["--public-key", "key.pub"]);
        assert_eq!(replaced.code, Some(0), "{authority}: {}", replaced.stderr);
    }
    refused(&["--file", "key-cert.pub"], "key");
    // A key pair that arcssh wrote is replaced.
    assert_eq!(cert(&["--file", "new/pair-cert.pub"]).code, Some(0));
    let key = read("new/pair");
    w.clear_cache();
    assert_eq!(cert(&["--file", "new/pair-cert.pub"]).code, Some(0));
    assert!(read("new/pair") != key);
    run(w.command("ssh-keygen").args(["-l", "-f", "new/pair"])).clean();
}

#[test]
fn a_host_entry_for_another_user_is_an_error() {
    for option in ["--entra", "--entra=files"] {
        let w = lab_with_user(&["web01"], |builder| builder);
        let hosts = HostEntries::generate(&w, &["web01", option]);
        let as_another = |file: &Path| {
            let mut ssh = w.command("ssh"); // the service principal precedes the signed-in user
            run(ssh.arg("-F").arg(file).args(["web01", "echo reached"]))
        };
        let failed = as_another(&hosts.file);
        let lines = failed.arcssh_lines();
        let (login_name, other) = (user(), "c11e4700-0000-4000-8000-000000000001");
        let why = format!("the certificate is for {other}, and the host entry for {login_name}");
        assert!(lines[0].ends_with(&why), "{option}: {}", failed.stderr);
        let hint = format!(
            "arcssh: hint: sign in as {login_name}; or, for host entries of {other}, run: arcssh config"
        );
        assert_eq!(lines[1], hint, "{option}");
        // The user of the host entry can still connect.
        assert_eq!(hosts.ssh(&["web01", "echo reached"]).clean(), "reached\n", "{option}");
        // Without `--login-name`, the server rejects the certificate.
        let old = hosts.text().replace(&format!(" --login-name {login_name}"), "");
        fs::write(w.home().join("old.conf"), old).unwrap();
        let denied = as_another(&w.home().join("old.conf"));
        assert!(denied.stderr.contains("Permission denied"), "{}", denied.stderr);
        assert!(!denied.stderr.contains(&why), "{}", denied.stderr);
    }
}

/// A waiting process opens the lock file, which /proc shows.
#[cfg(target_os = "linux")]
#[test]
fn waiting_processes_share_one_rejected_request() {
    let w = lab_with_user(&["web01"], |builder| builder);
    assert_eq!(run(anonymous(&mut w.arcssh(&["cert"]))).code, Some(0));
    fs::remove_file(certificate_files(&w, ".json").pop().unwrap()).unwrap();
    w.emulator().refuse_refresh_tokens(RefreshRefusal::SecondFactor);
    let cert = || {
        let mut cert = w.arcssh(&["cert"]);
        anonymous(&mut cert);
        cert
    };
    assert_one_request(&w, cert, "AADSTS50076", || token_requests(&w));
}

/// A waiting process opens the lock file, which /proc shows.
#[cfg(target_os = "linux")]
#[test]
fn waiting_processes_share_one_failed_call_of_azure_cli() {
    let w = lab_with(&["web01"], |builder| builder);
    let bin = w.home().join("bin");
    let az = "#!/bin/sh\nPATH=/usr/bin:/bin\necho call >> ~/calls; cat ~/error >&2; exit 1\n";
    script(&bin, "az", az);
    let cert = || {
        let mut cert = w.arcssh(&["cert", "--credential", "azure-cli"]);
        anonymous(&mut cert).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        cert
    };
    let calls = || fs::read_to_string(w.home().join("calls")).unwrap().lines().count();
    for (error, why) in [
        ("AADSTS70043: The refresh token has expired.", "cannot get a token of Azure CLI: AADSTS70043: "),
        ("ERROR: 'ssh' is misspelled or not recognized by the system.", "az extension add --name ssh"),
    ] {
        fs::write(w.home().join("error"), error).unwrap();
        assert_eq!(run(&mut cert()).code, Some(3));
        assert_one_request(&w, cert, why, calls);
    }
}

/// Asserts that all waiting processes get the error of one request, and that a later process sends another request.
#[cfg(target_os = "linux")]
#[track_caller]
fn assert_one_request(w: &Lab, cert: impl Fn() -> Command, why: &str, count_requests: impl Fn() -> usize) {
    if !may_list_open_files() {
        return;
    }
    let lock = certificate_files(w, ".lock").pop().unwrap();
    let before = count_requests();
    let locked = fs::File::open(&lock).unwrap();
    locked.lock().unwrap();
    let start = |_| {
        let mut cert = cert();
        cert.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<Child> = (0..10).map(start).collect();
    let waits = |child: &Child| {
        let files = fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|file| file == lock))
    };
    assert!(eventually(Duration::from_secs(30), || all.iter().all(waits)));
    drop(locked);
    let output = |child| finish(child).arcssh_lines().join("\n");
    let refusals: Vec<String> = all.into_iter().map(output).collect();
    assert!(refusals[0].contains(why), "{}", refusals[0]);
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    assert_eq!(count_requests() - before, 1);
    assert!(run(&mut cert()).stderr.contains(why));
    assert_eq!(count_requests() - before, 2);
}

#[test]
fn the_cached_certificate_is_shown() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let cert = |more: &[&str]| run(anonymous(w.arcssh(&["cert"]).args(more)));
    let no_certificate =
        ["arcssh: no certificate of this account is cached", "arcssh: hint: get a certificate: arcssh cert"];
    cert(&["--show"]).failed(1, &no_certificate);
    let brief = cert(&[]).clean();
    assert_eq!(brief.lines().count(), 2, "{brief}");
    let shown = cert(&["--show"]).clean();
    for word in ["login name", "principals", "valid", "key ID", &principal()] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    // A fresh certificate stays in the cache.
    assert_eq!(cert(&[]).clean(), brief);
}

#[test]
fn no_log_contains_the_private_key_or_the_sign_in() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let hosts = HostEntries::generate(&w, &["web01", "--entra"]);
    for (name, rust_log) in [("info", ""), ("trace", "trace,hyper=trace,h2=trace")] {
        w.clear_cache();
        let log = w.home().join(name);
        let text = hosts.text().replace(" proxy ", &format!(" proxy -vvv --log-file {} ", log.display()));
        let file = w.home().join("logging.conf");
        fs::write(&file, text).unwrap();
        let mut ssh = w.command("ssh");
        anonymous(&mut ssh).arg("-F").arg(&file).args(["web01", "echo reached"]).env("RUST_LOG", rust_log);
        let output = run(&mut ssh);
        assert_eq!(output.stdout, b"reached\n", "{}", output.stderr);
        let logged = fs::read_to_string(&log).unwrap() + &output.stderr;
        assert!(logged.contains("a new SSH certificate"), "{logged}");
        for secret in w.emulator().secrets().into_iter().chain(key_lines(&w)) {
            assert!(!logged.contains(&secret), "{name} contains a secret");
        }
    }
}

/// The cached files for certificates.
fn certificate_files(w: &Lab, end: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path());
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        name.starts_with("certificate-") && name.ends_with(end)
    };
    files.filter(is_wanted).collect()
}

/// The lines of the cached private key.
fn key_lines(w: &Lab) -> Vec<String> {
    let file = certificate_files(w, ".json").remove(0);
    let value: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let pem = value["value"]["key"].as_str().unwrap().to_owned();
    let lines: Vec<String> = pem.lines().filter(|line| line.len() == 64).map(Into::into).collect();
    assert!(lines.len() > 20);
    lines
}

#[test]
fn an_adopted_entry_with_a_certificate_is_renewed() {
    let w = lab_with_user(&["web01"], |builder| builder);
    let file = w.home().join("az.conf");
    let alias = format!("rg-arc-web01-{}", user());
    let az = w.home().join("az_ssh_config/rg-arc-web01");
    let entry = format!(
        "Host {alias}\n\tHostName web01\n\tUser {}\n\tCertificateFile \"{az}/id_rsa.pub-aadcert.pub\"\n\tIdentityFile \"{az}/id_rsa\"\n\tProxyCommand \"/x/sshProxy_linux_amd64_1_3_026973\" -r \"{az}/rg-arc-web01-relay_info\" -p {}\n",
        user(),
        w.sshd().port(),
        az = az.display(),
    );
    fs::write(&file, entry).unwrap();
    let adopted = run(anonymous(w.arcssh(&["config", "--adopt", "--file"]).arg(&file)));
    assert_eq!(adopted.code, Some(0), "{}", adopted.stderr);
    let known_hosts = format!("UserKnownHostsFile={}", w.home().join(".ssh/known_hosts").display());
    let mut ssh = w.command("ssh");
    anonymous(&mut ssh).arg("-F").arg(&file).args(["-o", &known_hosts, "-o", "BatchMode=yes"]);
    assert_eq!(run(ssh.args([&alias, "echo reached"])).clean(), "reached\n");
}
