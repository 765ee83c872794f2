//! The identity of the machine that arcssh runs on. Its endpoints have addresses that cannot be chosen, so that each test
//! runs in a network and with a file system of its own.

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use arcssh_emulator::Builder;

use crate::support::{ARCSSH, Run, World, closed_port, run, service, world, world_with};

const IMDS: &str = "169.254.169.254:80";
const HIMDS: &str = "127.0.0.1:40342";
const KEYS: &str = "/var/opt/azcmagent/tokens";
const SIGN_IN: &str = "arcssh: hint: run arcssh login";
const NOBODY: &str = "arcssh: nobody is signed in: no service principal, no managed identity, no sign-in of arcssh, Azure CLI or PowerShell";

#[test]
fn an_azure_vm_is_asked_for_its_own_identity_and_through_no_proxy() {
    isolated("an_azure_vm_is_asked_for_its_own_identity_and_through_no_proxy", || {
        let w = world_with(&["web01"], vm);
        let proxy = format!("http://127.0.0.1:{}", closed_port());
        let list = run(anonymous(&w, &["list"]).env("HTTP_PROXY", &proxy).env("http_proxy", &proxy)).clean();
        assert!(list.contains("web01"), "{list}");
        let shown = account(&w, &[]).clean();
        let account = "account  /subscriptions/5b5c0000-0000-4000-8000-000000000001/resourcegroups/rg-arc/providers/Microsoft.Compute/virtualMachines/vm01";
        let expected = ["source   the managed identity", account];
        assert_eq!(shown.lines().take(2).map(shorter).collect::<Vec<_>>(), expected.map(shorter));
    });
}

#[test]
fn an_azure_vm_without_an_identity_is_passed_over() {
    isolated("an_azure_vm_without_an_identity_is_passed_over", || {
        let w = world_with(&["web01"], vm);
        let other =
            run(anonymous(&w, &["account"]).env("AZURE_CLIENT_ID", "00000000-0000-4000-8000-000000000001"));
        other.failed(3, &[NOBODY, SIGN_IN]);
        w.emulator().remove_managed_identities();
        account(&w, &[]).failed(3, &[NOBODY, SIGN_IN]);
        let why =
            "arcssh: the managed identity was asked for: no managed identity is assigned to this machine";
        let hint = "arcssh: hint: assign a managed identity to this machine";
        account(&w, &["--credential", "managed-identity"]).failed(3, &[why, hint]);
    });
}

#[test]
fn the_metadata_service_of_another_cloud_is_passed_over() {
    isolated("the_metadata_service_of_another_cloud_is_passed_over", || {
        let w = world(&["web01"]);
        let listener = TcpListener::bind(IMDS).unwrap();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                answer(connection, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let shown = account(&w, &["-v"]);
        assert_eq!(shown.code, Some(3));
        assert!(
            shown.stderr.contains("passing over the managed identity: this is no machine in Azure"),
            "{}",
            shown.stderr
        );
    });
}

/// The documents' examples write numbers as text; nothing says that no version writes them otherwise.
#[test]
fn a_token_of_a_machine_is_taken_in_other_forms_too() {
    isolated("a_token_of_a_machine_is_taken_in_other_forms_too", || {
        let w = world(&["web01"]);
        let number = r#"{"access_token":"opaque","expires_on":4102444800}"#;
        answers_with(TcpListener::bind(IMDS).unwrap(), "Metadata: true", "400 Bad Request\r\nX: y", number);
        assert!(account(&w, &[]).clean().starts_with("source   the managed identity\n"));
        fs::create_dir_all(KEYS).unwrap();
        fs::write(format!("{KEYS}/a.key"), "secret\n").unwrap();
        let challenge =
            format!("401 Unauthorized\r\nWWW-Authenticate: basic Realm=\"{KEYS}/a.key\", charset=\"UTF-8\"");
        let agent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = agent.local_addr().unwrap().port();
        answers_with(
            agent,
            "Authorization: Basic secret",
            &challenge,
            r#"{"access_token":"opaque","expires_in":3599}"#,
        );
        let mut account = anonymous(&w, &["account"]);
        account.env("ARCSSH_STATE_DIR", w.home().join("other"));
        let told = run(asks_at(&mut account, port)).clean();
        assert!(told.starts_with("source   the managed identity\n") && told.contains("in 59 min"), "{told}");
    });
}

#[test]
fn an_arc_machine_is_asked_by_its_agent_for_whoever_can_read_the_key() {
    isolated("an_arc_machine_is_asked_by_its_agent_for_whoever_can_read_the_key", || {
        let w = world_with(&["web01"], arc);
        fs::create_dir_all("/opt/azcmagent/bin").unwrap();
        fs::write("/opt/azcmagent/bin/himds", "").unwrap();
        let list = run(&mut anonymous(&w, &["list", "-vvv"]));
        assert_eq!(list.code, Some(0), "{}", list.stderr);
        for secret in w.emulator().secrets() {
            assert!(!list.stderr.contains(&secret), "a log holds the secret {secret}");
        }
        let shown = account(&w, &[]).clean();
        let expected = ["source   the managed identity".to_owned(), format!("account  {}", w.id())];
        assert_eq!(shown.lines().take(2).collect::<Vec<_>>(), expected);
        // The environment of the agent's own programs names the endpoint too.
        fs::remove_file("/opt/azcmagent/bin/himds").unwrap();
        let by_variables = |endpoint: &str| {
            let mut account = anonymous(&w, &["account"]);
            account.env("IDENTITY_ENDPOINT", endpoint).env("IMDS_ENDPOINT", "http://localhost:40342");
            run(account.env("ARCSSH_STATE_DIR", w.home().join("other")))
        };
        let told = by_variables("http://localhost:40342/metadata/identity/oauth2/token");
        assert!(told.clean().starts_with("source   the managed identity\n"));
        let elsewhere = "http://203.0.113.1/metadata/identity/oauth2/token";
        let why = format!(
            "arcssh: the managed identity gives no token: IDENTITY_ENDPOINT={elsewhere} is not on this machine"
        );
        assert_eq!(by_variables(elsewhere).arcssh_lines()[0], why);
    });
}

#[test]
fn a_key_that_may_not_be_read_passes_the_arc_machine_over() {
    isolated("a_key_that_may_not_be_read_passes_the_arc_machine_over", || {
        let w = world(&["web01"]);
        let key = format!("{KEYS}/locked.key");
        fs::create_dir_all(KEYS).unwrap();
        fs::write(&key, "secret").unwrap();
        run(Command::new("chmod").args(["000", &key])).clean();
        let account = |arguments: &[&str]| {
            let mut account = w.command("/usr/bin/setpriv");
            account.args(["--inh-caps=-all", "--bounding-set=-all", ARCSSH, "account"]).args(arguments);
            asks_at(&mut account, challenging(&format!("Basic realm={key}")));
            run(&mut without_principal(&w, account))
        };
        let why =
            format!("arcssh: the managed identity was asked for: only the agent's own group may read {key}");
        let hint = "arcssh: hint: sudo usermod -a -G himds $USER, and log in again";
        account(&["--credential", "managed-identity"]).failed(3, &[&why, hint]);
        let why = format!(
            "arcssh: nobody is signed in; of the machine's own identity: only the agent's own group may read {key} (sudo usermod -a -G himds $USER, and log in again)"
        );
        account(&[]).failed(3, &[&why, SIGN_IN]);
    });
}

#[test]
fn only_a_key_in_the_folder_of_the_agent_is_read() {
    isolated("only_a_key_in_the_folder_of_the_agent_is_read", || {
        let w = world(&["web01"]);
        fs::create_dir_all(KEYS).unwrap();
        fs::write(format!("{KEYS}/long.key"), vec![b'a'; 4097]).unwrap();
        fs::write(format!("{KEYS}/other.txt"), "secret").unwrap();
        fs::write(format!("{KEYS}/lines.key"), "secret\r\nX: y").unwrap();
        let outside = "the Arc agent named a key outside of its folder: ";
        let cases = [
            ("Basic realm=/etc/passwd".into(), format!("{outside}/etc/passwd")),
            (format!("Basic realm={KEYS}/../../x.key"), format!("{outside}{KEYS}/../../x.key")),
            (format!("Basic realm={KEYS}/other.txt"), format!("{outside}{KEYS}/other.txt")),
            (
                format!("Basic realm={KEYS}/long.key"),
                format!("cannot read {KEYS}/long.key: it is longer than 4096 bytes"),
            ),
            (
                format!("Basic realm={KEYS}/lines.key"),
                format!("cannot read {KEYS}/lines.key: it holds no key"),
            ),
            (
                format!("Basic realm={KEYS}/none.key"),
                format!("cannot read {KEYS}/none.key: No such file or directory (os error 2)"),
            ),
            ("Negotiate".into(), "the Arc agent answered 401 in place of a challenge".into()),
        ];
        for (challenge, why) in cases {
            let mut account = anonymous(&w, &["account"]);
            let failed = run(asks_at(&mut account, challenging(&challenge)));
            let hint = "arcssh: hint: name another identity with --credential or ARCSSH_CREDENTIAL";
            failed.failed(3, &[&format!("arcssh: the managed identity gives no token: {why}"), hint]);
        }
    });
}

#[test]
fn an_arc_agent_that_does_not_run_is_told_as_this_machines_and_not_as_the_network() {
    isolated("an_arc_agent_that_does_not_run_is_told_as_this_machines_and_not_as_the_network", || {
        let w = world(&["web01"]);
        let why = "arcssh: the Arc agent of this machine does not answer (Connection refused (os error 111))";
        let hint = "arcssh: hint: type azcmagent show, and sudo systemctl start himdsd; or name another identity with --credential";
        run(asks_at(&mut anonymous(&w, &["account"]), closed_port())).failed(3, &[why, hint]);
    });
}

/// Runs a test of this room where nothing is but loopback, the address of the metadata service, and empty folders where
/// the Arc agent's are.
#[track_caller]
fn isolated(name: &str, test: impl FnOnce()) {
    const INSIDE: &str = "ARCSSH_TEST_IS_ISOLATED";
    if env::var_os(INSIDE).is_some() {
        return test();
    }
    let shell = "mount -t tmpfs none /opt; mount -t tmpfs none /var/opt; ip link set lo up
        ip addr add 169.254.169.254/32 dev lo; exec \"$0\" --exact \"managed_identity::$1\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["-rnm", "sh", "-euc", shell]).arg(env::current_exe().unwrap()).arg(name).env(INSIDE, "1");
    let Run { code, stdout, stderr } = run(&mut unshare);
    let stdout = String::from_utf8_lossy(&stdout);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "{stdout}");
}

fn vm(builder: Builder) -> Builder {
    builder.imds(IMDS.parse().unwrap())
}

fn arc(builder: Builder) -> Builder {
    builder.himds(HIMDS.parse().unwrap())
}

/// arcssh without the service principal and without any program.
fn anonymous(w: &World, arguments: &[&str]) -> Command {
    without_principal(w, w.arcssh(arguments))
}

fn without_principal(w: &World, mut command: Command) -> Command {
    for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"] {
        command.env_remove(name);
    }
    command.env("PATH", w.home().join("empty"));
    command
}

fn account(w: &World, arguments: &[&str]) -> Run {
    run(&mut anonymous(w, &[&["account"], arguments].concat()))
}

/// Resource groups are written in both cases.
fn shorter(line: &str) -> String {
    line.split("/resourcegroups/").last().unwrap_or_default().to_owned()
}

/// An agent that answers with this challenge.
fn challenging(challenge: &str) -> u16 {
    let text =
        format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n");
    let text: &'static str = text.leak();
    service(move |connection| answer(connection, text))
}

/// A service that gives `token` to a request with `header`, and answers others with `refusal`.
fn answers_with(listener: TcpListener, header: &str, refusal: &str, token: &str) {
    let header = header.to_lowercase();
    let refusal = format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let token =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{token}", token.len());
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let read = connection.read(&mut request).unwrap_or_default();
            let has_it = String::from_utf8_lossy(&request[..read]).to_lowercase().contains(&header);
            let _ = connection.write_all(if has_it { &token } else { &refusal }.as_bytes());
        }
    });
}

fn answer(mut connection: TcpStream, text: &str) {
    let _ = connection.read(&mut [0; 4096]);
    let _ = connection.write_all(text.as_bytes());
}

fn asks_at(command: &mut Command, port: u16) -> &mut Command {
    command
        .env("IDENTITY_ENDPOINT", format!("http://localhost:{port}/token"))
        .env("IMDS_ENDPOINT", "http://localhost")
}
