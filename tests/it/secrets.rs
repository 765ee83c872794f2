//! Secrets appear only in headers and bodies: never in a log, a message, a command line or a URL.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use arcssh_emulator::{ArmFault, RelayFault, Role, Service};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::support::{
    ARCSSH, LIMIT, Lab, Run, closed_port, ended, eventually, finish, lab, run, script, service,
};

/// Each way to enable a log.
const LOGS: [(&str, &str); 5] =
    [("-v", ""), ("-vv", ""), ("-vvv", ""), ("-vvv", "trace"), ("", "trace,hyper=trace,h2=trace")];

#[test]
fn no_log_of_a_session_contains_a_secret() {
    for (flag, rust_log) in LOGS {
        let w = lab(&["web01"]);
        let proxy = format!("arcssh proxy {} --port %p {flag} --log-file log", w.id());
        let run = run(w.ssh_by(&proxy, "echo reached").env("RUST_LOG", rust_log));
        assert_eq!((run.code, run.stdout.as_slice()), (Some(0), b"reached\n".as_slice()), "{}", run.stderr);
        let log = fs::read_to_string(w.home().join("log")).unwrap();
        assert!(log.contains("INFO"), "{flag} {rust_log}: the log is empty: {log}");
        assert_no_secret(&w, "standard error", &run.stderr);
        assert_no_secret(&w, "the log", &log);
        let mode = fs::metadata(w.home().join("log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn no_core_file_contains_a_secret() {
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
    assert_eq!(ended(&mut proxy).code(), Some(0));
}

#[test]
fn no_log_of_an_error_contains_a_secret() {
    let faults: [fn(&Lab); 5] = [
        |w| w.emulator().set_role(Role::None),
        |w| w.emulator().relay_fault(RelayFault::expired_token().always()),
        |w| w.emulator().machine("web01").set_online(false),
        |w| w.emulator().arm_fault(ArmFault::new(401, "InvalidAuthenticationToken", "No.")),
        // A response that is truncated within its secrets.
        |w| {
            let json = STANDARD.decode(w.relay_info().trim()).unwrap();
            let half = String::from_utf8_lossy(&json[..json.len() - 20]).into_owned();
            w.emulator().arm_fault(ArmFault::raw(200, "application/json", &half));
        },
    ];
    for fault in faults {
        let w = lab(&["web01"]);
        fault(&w);
        let arguments = ["--wait", "0", "-vvv", "--log-file", "log"];
        let run = run(w.proxy("web01").args(arguments).env("RUST_LOG", "trace"));
        assert!(!run.arcssh_lines().is_empty(), "{}", run.stderr);
        assert_ne!(run.code, Some(0));
        assert_no_secret(&w, "standard error", &run.stderr);
        assert_no_secret(&w, "the log", &fs::read_to_string(w.home().join("log")).unwrap());
    }
}

#[test]
fn a_wrong_secret_is_not_logged() {
    let w = lab(&["web01"]);
    let secret = "Xy9~almost.the-right_one";
    let mut proxy = w.proxy("web01");
    proxy.args(["-vvv", "--log-file", "log"]).env("RUST_LOG", "trace").env("AZURE_CLIENT_SECRET", secret);
    let run = run(&mut proxy);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let log = fs::read_to_string(w.home().join("log")).unwrap();
    assert!(!run.stderr.contains(secret) && !log.contains(secret));
}

/// A setting that cannot be used is a secret too: any part of it can be a password.
#[test]
fn no_error_of_a_proxy_contains_its_user_or_password() {
    let w = lab(&["web01"]);
    let closed = closed_port();
    let (user, password) = ("ada.canary", "p4ss#w\u{f6}rd-canary");
    let pair = format!("{user}:{password}");
    for setting in [
        format!("http://{pair}@127.0.0.1:{closed}"),
        format!("http://{pair}@127.0.0.1:port"),
        format!("http://{pair}@127.0.0.1:{closed}/proxy.pac"),
        format!("http://CORP\\{pair}"),
        format!("{pair}@"),
        format!("htp://{pair}@127.0.0.1:{closed}"),
        format!("socks5://{pair}@127.0.0.1:{closed}"),
        format!("https://{pair}@[::1:{closed}"),
        pair.clone(),
    ] {
        let mut proxy = w.proxy("web01");
        proxy.args(["-vvv", "--log-file", "log"]).env("RUST_LOG", "trace").env("HTTPS_PROXY", &setting);
        let failed = run(&mut proxy);
        assert_eq!(failed.code, Some(6), "{}", failed.stderr);
        let doctor = run(w.arcssh(&["doctor", "web01"]).env("HTTPS_PROXY", &setting));
        let files = fs::read_dir(w.state_directory()).unwrap();
        let files =
            files.map(|file| String::from_utf8_lossy(&fs::read(file.unwrap().path()).unwrap()).into_owned());
        let outputs = [
            fs::read_to_string(w.home().join("log")).unwrap(),
            run(&mut w.arcssh(&["last"])).clean(),
            String::from_utf8(doctor.stdout).unwrap(),
            failed.stderr + &doctor.stderr,
        ];
        for text in outputs.into_iter().chain(files) {
            for secret in [user, password, "canary", &pair] {
                let found = encodings(secret).into_iter().find(|encoding| text.contains(encoding));
                assert_eq!(found, None, "{setting}: {text}");
            }
        }
        fs::remove_file(w.home().join("log")).unwrap();
    }
}

/// Azure CLI prints a proxy's address that it cannot parse: urllib3, `LocationParseError`.
#[test]
fn no_error_of_a_program_contains_a_secret() {
    let w = lab(&["web01"]);
    let bin = w.home().join("programs");
    let pair = "CORP\\ada.canary:p4ss#word-canary";
    let token = "eyJhbGciOiJub25lIn0.eyJ0aWQiOiJjYW5hcnkifQ.c2ln-canary";
    let message =
        format!("ERROR: Please run 'az login'. Failed: http://{pair}@127.0.0.1:9/, {pair}, p4ss, {token}");
    fs::write(w.home().join("plain"), &message).unwrap();
    fs::write(w.home().join("json"), serde_json::json!({ "error": message }).to_string()).unwrap();
    for (name, file, arguments) in [
        ("az", "plain", ["account", "--credential"]),
        ("azd", "json", ["account", "--credential"]),
        ("pwsh", "plain", ["account", "--credential"]),
        ("az", "plain", ["cert", "--credential"]),
        ("az", "plain", ["proxy", "--credential"]),
    ] {
        script(&bin, name, &format!("#!/bin/sh\nPATH=/usr/bin:/bin\ncat \"$HOME/{file}\" >&2; exit 1\n"));
        let mut arcssh = w.arcssh(&arguments);
        arcssh.args([name, "-vvv", "--log-file", "log"]);
        if arguments[0] == "proxy" {
            arcssh.arg(w.id());
        }
        let path = format!("{}:/usr/bin:/bin", bin.display());
        arcssh
            .env("PATH", path)
            .env("RUST_LOG", "trace")
            .env("HTTP_PROXY", format!("http://{pair}@127.0.0.1:9"));
        let failed = run(&mut arcssh);
        assert!(failed.stderr.contains("http://***@127.0.0.1:9/"), "{name} {arguments:?}: {}", failed.stderr);
        let files = fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path());
        let files = files.chain([w.home().join("log")]).filter(|file| file.is_file());
        let files = files.map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned());
        let last = run(&mut w.arcssh(&["last"]));
        let outputs = [failed.stderr, last.stderr, String::from_utf8(last.stdout).unwrap()];
        for text in outputs.into_iter().chain(files) {
            for secret in ["canary", "p4ss", "eyJ0aWQ"] {
                assert!(!text.contains(secret), "{name} {arguments:?}: {text}");
            }
        }
    }
}

#[test]
fn no_command_line_and_no_url_contains_a_secret() {
    let w = lab(&["web01"]);
    let mut ssh = w.ssh();
    ssh.args(["web01", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ssh = ssh.spawn().unwrap();
    assert!(eventually(Duration::from_secs(20), || w.emulator().open_connections() == 1));
    let command_lines = w.survivors().join("\n");
    assert!(command_lines.contains("arcssh proxy /subscriptions/"), "{command_lines}");
    assert_no_secret(&w, "a command line", &command_lines);
    assert_eq!(finish(ssh).code, Some(0)); // `finish` closes standard input first
    let requests = w.emulator().requests().into_iter().filter(|request| match request.service {
        Service::Relay => request.path_and_query.contains("sb-hc-action=connect"),
        Service::Entra | Service::Arm => true,
        Service::Agent => false,
    });
    let addresses: Vec<String> = requests.map(|request| request.path_and_query).collect();
    assert!(addresses.len() >= 3, "{addresses:?}");
    assert_no_secret(&w, "an address", &addresses.join("\n"));
}

#[test]
fn no_relay_token_is_sent_outside_of_the_relay_domains() {
    let w = lab(&["web01"]);
    let valid = relay_object(&w);
    let trap = Trap::new();
    for (name, suffix) in trap.hosts() {
        let mut relay = valid.clone();
        relay["namespaceName"] = name.as_str().into();
        relay["namespaceNameSuffix"] = suffix.as_str().into();
        let answer = serde_json::json!({ "relay": relay }).to_string();
        w.emulator().arm_fault(ArmFault::raw(200, "application/json", &answer));
        let run = run(w.proxy("web01").env_remove("ARCSSH_RELAY_SUFFIX"));
        fails_as_untrusted(&run, "web01", &name, &suffix);
        assert_no_secret(&w, "standard error", &run.stderr);
    }
    assert_eq!(trap.connections(), 0);
    assert_eq!(w.dialled(), [""; 0]);
    assert!(!fs::read_dir(w.state_directory()).unwrap().any(|file| {
        fs::read_to_string(file.unwrap().path()).unwrap_or_default().contains("SharedAccessSignature")
    }));
}

#[test]
fn cached_credentials_for_an_untrusted_host_are_not_used() {
    let w = lab(&["web01"]);
    w.ssh_run(&["web01", "true"]).clean();
    let (issued, dialled) = (w.emulator().requests_to(Service::Arm).len(), w.dialled().len());
    assert_eq!((issued, dialled), (1, 1));
    let (name, suffix) = namespace(&w);
    let run = run(w.proxy("web01").env_remove("ARCSSH_RELAY_SUFFIX"));
    fails_as_untrusted(&run, "web01", &name, &suffix);
    assert_eq!(
        w.emulator().requests_to(Service::Arm).len(),
        issued + 1,
        "the cached credentials are ignored"
    );
    assert_eq!(w.dialled().len(), dialled);
}

#[test]
fn a_relay_domain_can_be_set_by_option_or_variable() {
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

/// The `relay` object of a listCredentials response.
fn relay_object(w: &Lab) -> serde_json::Value {
    let json = STANDARD.decode(w.relay_info().trim()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&json).unwrap()["relay"].take()
}

/// The name and the suffix of the emulator's namespace.
fn namespace(w: &Lab) -> (String, String) {
    let authority = w.emulator().relay_authority();
    let (name, suffix) = authority.split_once('.').unwrap();
    (name.to_owned(), suffix.to_owned())
}

/// A server to which no relay token may be sent.
pub(crate) struct Trap(TcpListener);

impl Trap {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    /// Names and suffixes whose host is this server, for arcssh or for another URL parser.
    pub(crate) fn hosts(&self) -> Vec<(String, String)> {
        let (port, valid) = (self.0.local_addr().unwrap().port(), "servicebus.windows.net".to_owned());
        vec![
            ("127".into(), format!("0.0.1:{port}")),
            (format!("127.0.0.1:{port}"), valid.clone()),
            (format!("localhost:{port}/"), valid.clone()),
            (format!("localhost:{port}#"), valid.clone()),
            (format!("localhost:{port}?x"), valid.clone()),
            (format!("azgn@localhost:{port}/"), valid.clone()),
            ("localhost:x".into(), valid.clone()),
            ("azgn".into(), format!("{valid}@localhost:{port}")),
            ("azgn".into(), format!("{valid}:443@localhost:{port}")),
            ("azgn".into(), format!("{valid}.localhost:{port}")),
            ("azgn".into(), format!("localhost:{port}")),
            ("[::1]".into(), format!(":{port}")),
            ("[::ffff:127".into(), format!("0.0.1]:{port}")),
            (String::new(), valid.clone()),
            ("azgn".into(), String::new()),
            ("azgn".into(), format!("{valid}.")),
            ("azgn".into(), format!("{valid}:{port}")),
            ("azgn\u{200b}".into(), valid),
        ]
    }

    /// Number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.0.incoming().take_while(Result::is_ok).count()
    }
}

/// Asserts that a connection failed because the relay is not in a trusted domain.
#[track_caller]
pub(crate) fn fails_as_untrusted(run: &Run, target: &str, name: &str, suffix: &str) {
    let host = format!("{name}.{suffix}");
    let why = format!(
        "arcssh: cannot connect to {target}: the host {host:?} is not in a trusted relay domain, so arcssh sends it no token"
    );
    let hint = "arcssh: hint: check --cloud; if your administrator confirms another relay domain, add --relay-suffix, or run: export ARCSSH_RELAY_SUFFIX=DOMAIN";
    run.failed(4, &[&why, hint]);
}

/// Asserts that a text contains no secret of the lab, in any encoding.
#[track_caller]
pub(crate) fn assert_no_secret(w: &Lab, origin: &str, text: &str) {
    let secrets = w.emulator().secrets();
    assert!(secrets.len() > 1, "the emulator issued no secret");
    for secret in secrets {
        for encoding in encodings(&secret) {
            if let Some(at) = text.find(&encoding) {
                let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                let line = text[line..].lines().next().unwrap_or_default();
                panic!("{origin} contains a secret: {}", line.chars().take(2000).collect::<String>());
            }
        }
    }
}

pub(crate) fn encodings(secret: &str) -> Vec<String> {
    let percent: String = secret
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    let whole = secret.len() / 3 * 3; // the next bytes must not change the last letters
    vec![
        secret.to_owned(),
        percent.to_lowercase(),
        percent,
        STANDARD_NO_PAD.encode(&secret[..whole]),
        URL_SAFE_NO_PAD.encode(&secret[..whole]),
        secret.escape_debug().to_string(),
    ]
}
