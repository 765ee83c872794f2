//! Secrets travel in headers and bodies only: no log, no message, no command line and no address holds one.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use arcssh_emulator::{ArmFault, RelayFault, Role, Service};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::support::{ARCSSH, LIMIT, Lab, Run, eventually, finish, lab, run, service};

/// Each way to ask for a log.
const LOGS: [(&str, &str); 5] =
    [("-v", ""), ("-vv", ""), ("-vvv", ""), ("-vvv", "trace"), ("", "trace,hyper=trace,h2=trace")];

#[test]
fn no_log_of_a_session_holds_a_secret() {
    for (flag, rust_log) in LOGS {
        let w = lab(&["web01"]);
        let proxy = format!("arcssh proxy {} --port %p {flag} --log-file log", w.id());
        let run = run(w.ssh_by(&proxy, "echo reached").env("RUST_LOG", rust_log));
        assert_eq!((run.code, run.stdout.as_slice()), (Some(0), b"reached\n".as_slice()), "{}", run.stderr);
        let log = fs::read_to_string(w.home().join("log")).unwrap();
        assert!(log.contains("INFO"), "{flag} {rust_log}: an empty log proves nothing: {log}");
        keeps_secrets(&w, "standard error", &run.stderr);
        keeps_secrets(&w, "the log", &log);
        let mode = fs::metadata(w.home().join("log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn no_core_file_holds_a_secret() {
    let w = lab(&["web01"]);
    let port = service(|mut connection| drop(connection.read_to_end(&mut Vec::new())));
    w.emulator().machine("web01").set_ssh_port(port);
    let script = format!("ulimit -Sc hard; exec {ARCSSH} proxy {} --port {port}", w.id());
    let mut shell = w.command("bash");
    let mut proxy = shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert!(eventually(LIMIT, || w.emulator().open_connections() == 1));
    let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    drop(proxy.stdin.take());
    assert_eq!(proxy.wait().unwrap().code(), Some(0));
}

#[test]
fn no_log_of_a_failure_holds_a_secret() {
    let damage: [fn(&Lab); 5] = [
        |w| w.emulator().set_role(Role::None),
        |w| w.emulator().relay_fault(RelayFault::expired_token().always()),
        |w| w.emulator().machine("web01").set_online(false),
        |w| w.emulator().arm_fault(ArmFault::new(401, "InvalidAuthenticationToken", "No.")),
        // An answer cut in the middle of its secrets.
        |w| {
            let json = STANDARD.decode(w.relay_info().trim()).unwrap();
            let half = String::from_utf8_lossy(&json[..json.len() - 20]).into_owned();
            w.emulator().arm_fault(ArmFault::raw(200, "application/json", &half));
        },
    ];
    for damage in damage {
        let w = lab(&["web01"]);
        damage(&w);
        let arguments = ["--wait", "0", "-vvv", "--log-file", "log"];
        let run = run(w.proxy("web01").args(arguments).env("RUST_LOG", "trace"));
        assert!(!run.arcssh_lines().is_empty(), "{}", run.stderr);
        assert_ne!(run.code, Some(0));
        keeps_secrets(&w, "standard error", &run.stderr);
        keeps_secrets(&w, "the log", &fs::read_to_string(w.home().join("log")).unwrap());
    }
}

#[test]
fn a_wrong_secret_is_kept_as_well() {
    let w = lab(&["web01"]);
    let secret = "Xy9~almost.the-right_one";
    let mut proxy = w.proxy("web01");
    proxy.args(["-vvv", "--log-file", "log"]).env("RUST_LOG", "trace").env("AZURE_CLIENT_SECRET", secret);
    let run = run(&mut proxy);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let log = fs::read_to_string(w.home().join("log")).unwrap();
    assert!(!run.stderr.contains(secret) && !log.contains(secret));
}

#[test]
fn no_command_line_and_no_address_holds_a_secret() {
    let w = lab(&["web01"]);
    let mut ssh = w.ssh();
    ssh.args(["web01", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ssh = ssh.spawn().unwrap();
    assert!(eventually(Duration::from_secs(20), || w.emulator().open_connections() == 1));
    let command_lines = w.survivors().join("\n");
    assert!(command_lines.contains("arcssh proxy /subscriptions/"), "{command_lines}");
    keeps_secrets(&w, "a command line", &command_lines);
    assert_eq!(finish(ssh).code, Some(0)); // it closes standard input first
    let ours = w.emulator().requests().into_iter().filter(|request| match request.service {
        Service::Relay => request.path_and_query.contains("sb-hc-action=connect"),
        Service::Entra | Service::Arm => true,
        Service::Agent => false,
    });
    let addresses: Vec<String> = ours.map(|request| request.path_and_query).collect();
    assert!(addresses.len() >= 3, "{addresses:?}");
    keeps_secrets(&w, "an address", &addresses.join("\n"));
}

#[test]
fn a_relay_token_goes_to_no_host_outside_of_the_relay_domains() {
    let w = lab(&["web01"]);
    let genuine = relay_of(&w);
    let trap = Trap::new();
    for (name, suffix) in trap.places() {
        let mut relay = genuine.clone();
        relay["namespaceName"] = name.as_str().into();
        relay["namespaceNameSuffix"] = suffix.as_str().into();
        let answer = serde_json::json!({ "relay": relay }).to_string();
        w.emulator().arm_fault(ArmFault::raw(200, "application/json", &answer));
        let run = run(w.proxy("web01").env_remove("ARCSSH_RELAY_SUFFIX"));
        foreign(&run, "web01", &name, &suffix);
        keeps_secrets(&w, "standard error", &run.stderr);
    }
    assert_eq!(trap.connections(), 0);
    assert_eq!(w.dialled(), [""; 0]);
    assert!(!fs::read_dir(w.state_directory()).unwrap().any(|file| {
        fs::read_to_string(file.unwrap().path()).unwrap_or_default().contains("SharedAccessSignature")
    }));
}

#[test]
fn cached_credentials_for_a_host_that_is_not_accepted_any_more_are_not_used() {
    let w = lab(&["web01"]);
    w.ssh_run(&["web01", "true"]).clean();
    let (asked, dialled) = (w.emulator().requests_to(Service::Arm).len(), w.dialled().len());
    assert_eq!((asked, dialled), (1, 1));
    let (name, suffix) = parts(&w);
    let run = run(w.proxy("web01").env_remove("ARCSSH_RELAY_SUFFIX"));
    foreign(&run, "web01", &name, &suffix);
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), asked + 1, "the cached ones count as absent");
    assert_eq!(w.dialled().len(), dialled);
}

#[test]
fn a_relay_domain_may_be_given_by_option_or_variable() {
    let w = lab(&["web01"]);
    for (options, variable) in [
        ("--relay-suffix 0.0.1", None),
        ("--relay-suffix relay.example,0.0.1", None),
        ("", Some(" relay.example, 0.0.1")),
    ] {
        let mut ssh = w.ssh_by(&format!("arcssh proxy {} --port %p {options}", w.id()), "echo reached");
        ssh.env_remove("ARCSSH_RELAY_SUFFIX").envs(variable.map(|value| ("ARCSSH_RELAY_SUFFIX", value)));
        assert_eq!(run(&mut ssh).clean(), "reached\n");
    }
    for value in ["0.0.1:8443", "https://relay.example", ".relay.example", "*.example", "a,,b"] {
        let run = run(&mut w.arcssh(&["proxy", &w.id(), "--relay-suffix", value]));
        assert_eq!((run.code, run.stdout.len()), (Some(2), 0), "{value}");
        assert!(run.stderr.contains("is not a DNS suffix such as servicebus.example.com"), "{}", run.stderr);
    }
}

/// The `relay` object of an answer of ARM's.
fn relay_of(w: &Lab) -> serde_json::Value {
    let json = STANDARD.decode(w.relay_info().trim()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&json).unwrap()["relay"].take()
}

/// The two parts of the emulator's namespace.
fn parts(w: &Lab) -> (String, String) {
    let authority = w.emulator().relay_authority();
    let (name, suffix) = authority.split_once('.').unwrap();
    (name.to_owned(), suffix.to_owned())
}

/// A host that waits for relay tokens.
pub(crate) struct Trap(TcpListener);

impl Trap {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    /// Names and suffixes that lead here, or would in another parser of URLs.
    pub(crate) fn places(&self) -> Vec<(String, String)> {
        let (port, genuine) = (self.0.local_addr().unwrap().port(), "servicebus.windows.net".to_owned());
        vec![
            ("127".into(), format!("0.0.1:{port}")),
            (format!("127.0.0.1:{port}"), genuine.clone()),
            (format!("localhost:{port}/"), genuine.clone()),
            (format!("localhost:{port}#"), genuine.clone()),
            (format!("localhost:{port}?x"), genuine.clone()),
            (format!("azgn@localhost:{port}/"), genuine.clone()),
            ("localhost:x".into(), genuine.clone()),
            ("azgn".into(), format!("{genuine}@localhost:{port}")),
            ("azgn".into(), format!("{genuine}:443@localhost:{port}")),
            ("azgn".into(), format!("{genuine}.localhost:{port}")),
            ("azgn".into(), format!("localhost:{port}")),
            ("[::1]".into(), format!(":{port}")),
            ("[::ffff:127".into(), format!("0.0.1]:{port}")),
            (String::new(), genuine.clone()),
            ("azgn".into(), String::new()),
            ("azgn".into(), format!("{genuine}.")),
            ("azgn".into(), format!("{genuine}:{port}")),
            ("azgn\u{200b}".into(), genuine),
        ]
    }

    /// How many have come.
    pub(crate) fn connections(&self) -> usize {
        self.0.incoming().take_while(Result::is_ok).count()
    }
}

/// Asserts that a connection failed since the relay is not in a trusted domain.
#[track_caller]
pub(crate) fn foreign(run: &Run, goal: &str, name: &str, suffix: &str) {
    let host = format!("{name}.{suffix}");
    let why = format!(
        "arcssh: cannot connect to {goal}: arcssh sends no relay token: the host {host:?} is not in a trusted relay domain"
    );
    let hint = "arcssh: hint: check --cloud; if your administrator confirms another relay domain, add --relay-suffix, or: export ARCSSH_RELAY_SUFFIX=DOMAIN";
    run.failed(4, &[&why, hint]);
}

/// Asserts that a text holds no secret of the lab, in any spelling.
#[track_caller]
fn keeps_secrets(w: &Lab, origin: &str, text: &str) {
    let secrets = w.emulator().secrets();
    assert!(secrets.len() > 1, "nothing was handed out");
    for secret in secrets {
        for spelling in spellings(&secret) {
            if let Some(at) = text.find(&spelling) {
                let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                let line = text[line..].lines().next().unwrap_or_default();
                panic!("{origin} holds a secret: {}", line.chars().take(2000).collect::<String>());
            }
        }
    }
}

fn spellings(secret: &str) -> Vec<String> {
    let percent: String = secret
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    let whole = secret.len() / 3 * 3; // so that what follows does not change the last letters
    vec![
        secret.to_owned(),
        percent.to_lowercase(),
        percent,
        STANDARD_NO_PAD.encode(&secret[..whole]),
        URL_SAFE_NO_PAD.encode(&secret[..whole]),
        secret.escape_debug().to_string(),
    ]
}
