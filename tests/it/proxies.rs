//! Connections through an HTTP proxy: Debian's tinyproxy, with CONNECT.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use arcssh_emulator::Service;

use crate::support::{Lab, Run, closed_port, eventually, has_ipv6, lab, run};

const PASSWORD: &str = "arcssh: hint: set the proxy's user and password: export HTTPS_PROXY=http://USER:PASSWORD@PROXY:PORT; for a proxy that requires NTLM or Kerberos, run px or cntlm on this computer and name its address";

#[test]
fn each_variable_sends_entra_id_arm_and_the_relay_through_the_proxy() {
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let w = lab(&["web01"]);
        let proxy = Tinyproxy::start(&w, "");
        assert_eq!(ssh_through(&w, variable, &proxy.address()).clean(), "reached\n");
        proxy.assert_used_for_all(&w);
    }
}

#[test]
fn a_percent_encoded_proxy_password_works() {
    let w = lab(&["web01"]);
    let proxy = Tinyproxy::start(&w, "BasicAuth alice p.a-ss_1\n");
    let address = format!("http://alice:p%2Ea%2Dss%5F1@127.0.0.1:{}", proxy.port);
    assert_eq!(ssh_through(&w, "HTTPS_PROXY", &address).clean(), "reached\n");
    proxy.assert_used_for_all(&w);
}

#[test]
fn no_log_contains_the_password_of_the_proxy() {
    let w = lab(&["web01"]);
    let proxy = Tinyproxy::start(&w, "BasicAuth alice p.a-ss_1\n");
    let address = format!("http://alice:p%2Ea%2Dss%5F1@127.0.0.1:{}", proxy.port);
    for (flag, rust_log) in [("-v", ""), ("-vvv", ""), ("", "trace")] {
        let proxy_command = format!("arcssh proxy {} --port %p {flag}", w.id());
        let mut ssh = w.ssh_by(&proxy_command, "echo reached");
        let run = run(ssh.env("HTTPS_PROXY", &address).env("RUST_LOG", rust_log));
        assert_eq!((run.code, run.stdout.as_slice()), (Some(0), b"reached\n".as_slice()), "{}", run.stderr);
        assert!(run.stderr.contains("proxy"), "the log is empty: {}", run.stderr);
        for password in ["p.a-ss_1", "p%2Ea%2Dss%5F1", &base64("alice:p.a-ss_1")] {
            let line = run.stderr.lines().find(|line| line.contains(password));
            assert_eq!(line, None, "{flag} {rust_log}");
        }
    }
}

#[test]
fn a_missing_or_wrong_proxy_password_is_reported() {
    let w = lab(&["web01"]);
    let info = w.relay_info();
    let proxy = Tinyproxy::start(&w, "BasicAuth alice right\n");
    let wrong = format!("http://alice:wrong@127.0.0.1:{}", proxy.port);
    for (address, answer) in
        [(proxy.address(), "407 Proxy Authentication Required"), (wrong, "401 Unauthorized")]
    {
        let mut arcssh = w.arcssh(&["-p", "22"]);
        let run = run(arcssh.env("SSHPROXY_RELAY_INFO", &info).env("HTTPS_PROXY", &address));
        let why = format!(
            "arcssh: cannot connect to the machine: the proxy 127.0.0.1:{} opens no tunnel to {}: the proxy responded {answer}",
            proxy.port,
            w.emulator().relay_authority()
        );
        run.failed(6, &[&why, PASSWORD]);
    }
}

#[test]
fn proxy_errors_are_reported_for_entra_id() {
    let w = lab(&["web01"]);
    let proxy = Tinyproxy::start(&w, "BasicAuth alice right\n");
    let cannot = "arcssh: cannot connect to web01:";
    let entra = w.address("AZURE_AUTHORITY_HOST").replace("https://", "");
    let cases = [
        (proxy.address(), format!("the proxy opens no tunnel to {entra}: the proxy responded 407"), PASSWORD),
        (
            format!("http://alice:wrong@127.0.0.1:{}", proxy.port),
            format!("the proxy opens no tunnel to {entra}: unsuccessful"),
            "arcssh: hint: check user and password in HTTPS_PROXY, and that the proxy allows CONNECT",
        ),
        (
            format!("http://127.0.0.1:{}", closed_port()),
            format!("cannot reach the proxy on the way to {entra}: Connection refused (os error 111)"),
            "arcssh: hint: check the proxy's address in HTTPS_PROXY",
        ),
    ];
    for (address, why, hint) in cases {
        let run = run(w.proxy("web01").env("HTTPS_PROXY", &address));
        // The request is retried, so progress lines may precede the error.
        let lines = run.arcssh_lines();
        let [.., last_but_one, last] = lines[..] else { panic!("{}", run.stderr) };
        assert_eq!([last_but_one, last], [format!("{cannot} {why}").as_str(), hint]);
        assert_eq!((run.code, run.stdout.as_slice()), (Some(6), b"".as_slice()));
        assert!(!run.stderr.contains("alice"), "{}", run.stderr);
    }
}

#[test]
fn addresses_in_no_proxy_are_reached_directly() {
    for no_proxy in ["127.0.0.1", "127.0.0.0/8", "other.example,127.0.0.1"] {
        let w = lab(&["web01"]);
        let proxy = Tinyproxy::start(&w, "");
        let mut ssh = w.ssh();
        ssh.args(["web01", "echo reached"]).env("HTTPS_PROXY", proxy.address()).env("NO_PROXY", no_proxy);
        assert_eq!(run(&mut ssh).clean(), "reached\n", "{no_proxy}");
        assert_eq!(proxy.connects(), Vec::<String>::new(), "{no_proxy}");
    }
}

#[test]
fn names_below_a_domain_in_no_proxy_are_reached_directly() {
    let w = lab(&["web01"]);
    let proxy = Tinyproxy::start(&w, "");
    // A name that does not resolve: only a proxy responds with a status.
    for (no_proxy, uses_proxy) in [
        ("invalid", false),
        (".invalid", false),
        ("relay.invalid", false),
        ("*", false),
        ("elay.invalid", true),
    ] {
        let info = base64(
            "{\"relay\":{\"namespaceName\":\"relay\",\"namespaceNameSuffix\":\"invalid\",\"hybridConnectionName\":\"a\",\"accessKey\":\"k\"}}",
        );
        let mut arcssh = w.arcssh(&["-p", "22"]);
        arcssh.env("SSHPROXY_RELAY_INFO", info).env("ARCSSH_RELAY_SUFFIX", "invalid");
        arcssh.env("HTTPS_PROXY", proxy.address()).env("NO_PROXY", no_proxy);
        let run = run(&mut arcssh);
        assert_eq!(run.stderr.contains("opens no tunnel to"), uses_proxy, "{no_proxy}: {}", run.stderr);
        assert_eq!(run.code, Some(6));
    }
}

#[test]
fn a_proxy_is_reached_over_ipv6() {
    if !has_ipv6() {
        return;
    }
    let w = lab(&["web01"]);
    let proxy = Tinyproxy::start_on(&w, "::1", "");
    assert_eq!(ssh_through(&w, "HTTPS_PROXY", &format!("http://[::1]:{}", proxy.port)).clean(), "reached\n");
    proxy.assert_used_for_all(&w);
}

#[test]
fn a_port_that_the_proxy_denies_is_reported() {
    let w = lab(&["web01"]);
    let info = w.relay_info();
    let proxy = Tinyproxy::start(&w, "ConnectPort 443\n");
    let mut arcssh = w.arcssh(&["-p", "22"]);
    let run = run(arcssh.env("SSHPROXY_RELAY_INFO", info).env("HTTPS_PROXY", proxy.address()));
    let why = format!(
        "arcssh: cannot connect to the machine: the proxy 127.0.0.1:{} opens no tunnel to {}: the proxy responded 403 Access violation",
        proxy.port,
        w.emulator().relay_authority()
    );
    let hint = format!(
        "arcssh: hint: allow CONNECT to {} in the proxy, or add the host to NO_PROXY",
        w.emulator().relay_authority()
    );
    run.failed(6, &[&why, &hint]);
}

#[test]
fn a_stopped_proxy_is_reported_with_its_address() {
    let w = lab(&["web01"]);
    let (info, port) = (w.relay_info(), closed_port());
    let mut arcssh = w.arcssh(&["-p", "22"]);
    let run =
        run(arcssh.env("SSHPROXY_RELAY_INFO", info).env("HTTPS_PROXY", format!("http://127.0.0.1:{port}")));
    let why = format!(
        "arcssh: cannot connect to the machine: cannot reach the proxy 127.0.0.1:{port}: tcp connect error: Connection refused (os error 111)"
    );
    let hint = "arcssh: hint: check the proxy's address in HTTPS_PROXY";
    run.failed(6, &[&why, hint]);
}

#[test]
fn a_socks_proxy_is_rejected() {
    let w = lab(&["web01"]);
    let info = w.relay_info();
    let before = w.emulator().requests_to(Service::Arm).len();
    let by_relay_info = "the machine: socks5://127.0.0.1:1080 is not an HTTP proxy";
    let by_arm = "web01: socks5://127.0.0.1:1080 is not an HTTP proxy";
    for (mut arcssh, error) in [(w.arcssh(&["-p", "22"]), by_relay_info), (w.proxy("web01"), by_arm)] {
        let run = run(arcssh.env("SSHPROXY_RELAY_INFO", &info).env("ALL_PROXY", "socks5://127.0.0.1:1080"));
        let lines = run.arcssh_lines();
        let [.., why, hint] = lines[..] else { panic!("{}", run.stderr) };
        assert_eq!(why, format!("arcssh: cannot connect to {error}"));
        assert_eq!(hint, "arcssh: hint: use an HTTP proxy: export HTTPS_PROXY=http://PROXY:PORT");
        assert_eq!((run.code, run.stdout.as_slice()), (Some(6), b"".as_slice()));
    }
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), before, "no request bypasses the proxy");
}

/// A session with this proxy variable.
fn ssh_through(w: &Lab, variable: &str, address: &str) -> Run {
    run(w.ssh().args(["web01", "echo reached"]).env(variable, address))
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A proxy for one test.
struct Tinyproxy {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Tinyproxy {
    fn start(w: &Lab, more: &str) -> Self {
        Self::start_on(w, "127.0.0.1", more)
    }

    fn start_on(w: &Lab, address: &str, more: &str) -> Self {
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let (log, file) = (w.home().join("tinyproxy.log"), w.home().join("tinyproxy.conf"));
        let configuration = format!(
            "Port {port}\nListen {address}\nTimeout 60\nLogFile \"{}\"\nLogLevel Connect\nMaxClients 50\n{more}",
            log.display()
        );
        fs::write(&file, configuration).unwrap();
        let mut tinyproxy = w.command("tinyproxy");
        tinyproxy.arg("-d").arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = tinyproxy.spawn().expect("tinyproxy is installed");
        let listens = || TcpStream::connect((address, port)).is_ok();
        assert!(eventually(Duration::from_secs(10), listens), "tinyproxy does not listen");
        Self { child, port, log }
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The targets of the proxy's CONNECT requests.
    fn connects(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let targets = log.lines().filter_map(|line| line.split_once("): CONNECT ")?.1.split(' ').next());
        targets.map(str::to_owned).collect()
    }

    /// Asserts that Entra ID, ARM and the relay were reached through the proxy.
    #[track_caller]
    fn assert_used_for_all(&self, w: &Lab) {
        let variables = w.emulator().environment();
        let value = |name: &str| variables.iter().find(|(key, _)| key == name).unwrap().1.clone();
        let host = |url: String| url.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let all = [
            host(value("AZURE_AUTHORITY_HOST")),
            host(value("ARCSSH_ARM_ENDPOINT")),
            w.emulator().relay_authority(),
        ];
        let mut connects = self.connects();
        connects.dedup(); // arcssh retries while the agent does not listen
        assert_eq!(connects, all);
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
