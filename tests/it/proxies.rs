//! Connections through an HTTP proxy, with CONNECT: Debian's tinyproxy, and Squid if it is installed.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use arcssh_emulator::Service;

use crate::support::{Lab, Run, closed_port, eventually, finish, has_ipv6, lab, run, skipped};

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
    let (cannot, closed) = ("arcssh: cannot connect to web01:", closed_port());
    let entra = w.address("AZURE_AUTHORITY_HOST").replace("https://", "");
    let cases = [
        (
            proxy.address(),
            format!(
                "the proxy 127.0.0.1:{} opens no tunnel to {entra}: the proxy responded 407 Proxy Authentication Required",
                proxy.port
            ),
            PASSWORD,
        ),
        (
            format!("http://alice:wrong@127.0.0.1:{}", proxy.port),
            format!(
                "the proxy 127.0.0.1:{} opens no tunnel to {entra}: the proxy responded 401 Unauthorized",
                proxy.port
            ),
            PASSWORD,
        ),
        (
            format!("http://127.0.0.1:{closed}"),
            format!(
                "cannot reach the proxy 127.0.0.1:{closed}: tcp connect error: Connection refused (os error 111)"
            ),
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
    for no_proxy in
        ["127.0.0.1", "127.0.0.0/8", "other.example,127.0.0.1", "other.example; 127.0.0.1", "*", "127.*"]
    {
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
        ("*.invalid", false),
        (".INVALID", false),
        ("a.example *.invalid:443", false),
        ("a.example; relay.invalid:443", false),
        ("*.invalid:8443", true),
        ("elay.invalid", true),
    ] {
        let info = base64(
            "{\"relay\":{\"namespaceName\":\"relay\",\"namespaceNameSuffix\":\"invalid\",\"hybridConnectionName\":\"a\",\"accessKey\":\"k\"}}",
        );
        let mut arcssh = w.arcssh(&["-p", "22", "--wait", "0"]);
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
    let invalid = "the proxy setting ALL_PROXY is invalid: it names a SOCKS proxy, and arcssh supports only HTTP proxies";
    let (by_relay_info, by_arm) = (format!("the machine: {invalid}"), format!("web01: {invalid}"));
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

#[test]
fn an_unusable_setting_is_rejected_before_any_connection() {
    let w = lab(&["web01"]);
    let info = w.relay_info();
    // The agent connects to the relay by itself.
    let requests = || [Service::Entra, Service::Arm].map(|service| w.emulator().requests_to(service).len());
    let before = (requests(), w.dialled().len());
    let tinyproxy = Tinyproxy::start(&w, "");
    let proxy = |text: &str| text.replace("PROXY", &format!("127.0.0.1:{}", tinyproxy.port));
    let port = "its port is not a number from 1 to 65535";
    for (variable, value, problem) in [
        ("HTTPS_PROXY", "http://ada:s3cret@127.0.0.1:port".to_owned(), port),
        ("https_proxy", "http://ada:s3cret@127.0.0.1:70000".into(), port),
        ("ALL_PROXY", "ada:s3cret@127.0.0.1:".into(), port),
        ("all_proxy", "http://ada:s3cret".into(), port),
        (
            "HTTPS_PROXY",
            "CORP\\ada:s3cret".into(),
            "its host contains a character that a host name cannot have",
        ),
        ("HTTPS_PROXY", "ada:s3cret@".into(), "it names no host"),
        ("HTTPS_PROXY", proxy("htp://ada:s3cret@PROXY"), "its scheme is neither http nor https"),
        (
            "HTTPS_PROXY",
            proxy("http://ada:s3cret@PROXY/proxy.pac"),
            "its host is followed by a path, which the address of a proxy cannot have",
        ),
        (
            "NO_PROXY",
            "127.0.0.1, 10.0.0.0/33".into(),
            "its entry number 2 is not a host, domain, address or network",
        ),
    ] {
        let mut with_relay_info = w.arcssh(&["-p", "22"]);
        with_relay_info.env("SSHPROXY_RELAY_INFO", &info);
        let commands =
            [with_relay_info, w.proxy("web01"), w.arcssh(&["list"]), w.arcssh(&["config", "web01"])];
        for mut command in commands {
            let run = run(command.args(["-vvv"]).env(variable, &value));
            let error = format!("the proxy setting {variable} is invalid: {problem}");
            let [.., why, hint] = run.arcssh_lines()[..] else { panic!("{}", run.stderr) };
            assert!(why.ends_with(&error), "{}", run.stderr);
            assert!(hint.starts_with("arcssh: hint: "), "{hint}");
            assert_eq!(run.code, Some(6), "{}", run.stderr);
            assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
        }
    }
    assert_eq!((requests(), w.dialled().len()), before, "no request bypasses the proxy");
    assert_eq!(tinyproxy.connects(), Vec::<String>::new());
}

#[test]
fn a_proxy_is_used_in_each_form_of_its_address() {
    let w = lab(&["web01"]);
    let proxy = Tinyproxy::start(&w, "");
    let port = proxy.port;
    for address in [
        format!("127.0.0.1:{port}"),
        format!("HTTP://127.0.0.1:{port}/"),
        format!(" http://127.0.0.1:{port} "),
        format!("\"http://127.0.0.1:{port}\""),
        format!("http://CORP\\ada:a#b@c%zz$ä@127.0.0.1:{port}"),
    ] {
        let before = proxy.connects().len();
        // An empty variable counts as absent.
        let mut list = w.arcssh(&["list"]);
        run(list.env("HTTPS_PROXY", " ").env("https_proxy", &address)).clean();
        assert!(proxy.connects().len() > before, "{address}");
    }
}

/// Several wrong passwords lock an account of a directory.
#[test]
fn a_rejected_password_is_sent_once_in_each_run() {
    let w = lab(&["web01", "web02"]);
    let tinyproxy = Tinyproxy::start(&w, "BasicAuth alice right\n");
    let squid = Squid::start(&w, "alice", "right");
    let proxies: [(u16, &dyn Fn() -> usize); 2] = [
        (tinyproxy.port, &|| tinyproxy.connects().len()),
        (squid.as_ref().map_or(0, |squid| squid.port), &|| squid.as_ref().map_or(0, Squid::connects)),
    ];
    let commands: [&[&str]; 11] = [
        &["proxy", &w.id()],
        &["proxy", "--host", "web01"],
        &["config", "web01"],
        &["config", "--all"],
        &["list"],
        &["doctor", "web01"],
        &["warm", "--all"],
        &["forward", "web01", "web02"],
        &["ping", "web01"],
        &["setup", "web01", "--yes"],
        &["account"],
    ];
    for (port, attempts) in proxies.into_iter().filter(|(port, _)| *port > 0) {
        for arguments in commands {
            let before = attempts();
            let mut arcssh = w.arcssh(arguments);
            let run = run(arcssh.env("HTTPS_PROXY", format!("http://alice:s3cret@127.0.0.1:{port}")));
            assert_ne!(run.code, Some(0), "{arguments:?}");
            let output = run.stderr + &String::from_utf8_lossy(&run.stdout);
            assert!(output.contains("opens no tunnel to"), "{arguments:?}: {output}");
            assert!(!output.contains("s3cret"), "{output}");
            assert!(eventually(Duration::from_secs(10), || attempts() > before), "{arguments:?}: {output}");
            assert_eq!(attempts() - before, 1, "{arguments:?}: {output}");
        }
    }
}

/// The proxy responds 5xx while another proxy behind it does not run.
#[test]
fn a_failure_behind_the_proxy_is_retried() {
    for by_relay_info in [false, true] {
        let w = lab(&["web01"]);
        let info = w.relay_info();
        let behind = closed_port();
        let proxy = Tinyproxy::start(&w, &format!("Upstream http 127.0.0.1:{behind}\n"));
        let mut arcssh = if by_relay_info { w.arcssh(&["-p", "22"]) } else { w.proxy("web01") };
        if by_relay_info {
            arcssh.env("SSHPROXY_RELAY_INFO", &info).args(["--wait", "3"]);
        }
        let run = run(arcssh.env("HTTPS_PROXY", proxy.address()));
        let [.., why, hint] = run.arcssh_lines()[..] else { panic!("{}", run.stderr) };
        assert!(
            why.contains("opens no tunnel to") && why.contains("the proxy responded 50"),
            "{}",
            run.stderr
        );
        assert!(
            hint.starts_with("arcssh: hint: retry in a minute; if the error persists, ask the proxy's"),
            "{hint}"
        );
        assert!(proxy.connects().len() > 1, "{:?}", proxy.connects());
        assert_eq!(run.code, Some(6));
    }
}

#[test]
fn a_connection_succeeds_after_a_failure_behind_the_proxy() {
    let w = lab(&["web01"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = Tinyproxy::start(&w, &format!("Upstream http 127.0.0.1:{port}\n"));
    let mut list = w.arcssh(&["list"]);
    list.env("HTTPS_PROXY", proxy.address()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let list = list.spawn().unwrap();
    assert!(eventually(Duration::from_secs(20), || !proxy.connects().is_empty()));
    let _behind = Tinyproxy::start_at(&w, "127.0.0.1", port, "");
    assert!(finish(list).clean().contains("web01"));
    assert!(proxy.connects().len() > 2, "{:?}", proxy.connects());
}

#[test]
fn doctor_shows_the_proxy_without_its_user() {
    let w = lab(&["web01"]);
    let proxy = Tinyproxy::start(&w, "BasicAuth alice s3cret\n");
    let check = |no_proxy: &str| {
        let mut doctor = w.arcssh(&["doctor", "web01", "--json", "--file", "no-such-file"]);
        doctor
            .env("ALL_PROXY", format!("http://alice:s3cret@127.0.0.1:{}", proxy.port))
            .env("NO_PROXY", no_proxy);
        let run = run(&mut doctor);
        assert_eq!(run.code, Some(0), "{}", String::from_utf8_lossy(&run.stdout));
        let json: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        assert!(!json.to_string().contains("s3cret") && !json.to_string().contains("alice"), "{json}");
        let text = |name: &str| {
            let checks = json["checks"].as_array().unwrap();
            let check = checks.iter().find(|check| check["name"] == name).unwrap();
            assert_eq!(check["outcome"], "passed", "{json}");
            check["text"].as_str().unwrap().to_owned()
        };
        (text("cloud"), text("proxy"))
    };
    let host = |name: &str| w.address(name).replace("https://", "").trim_end_matches('/').to_owned();
    let (arm, entra) = (host("ARCSSH_ARM_ENDPOINT"), host("AZURE_AUTHORITY_HOST"));
    let through = format!("http://127.0.0.1:{} (ALL_PROXY)", proxy.port);
    assert_eq!(check(""), (format!("custom endpoints: {arm}, {entra}"), through.clone()));
    assert_eq!(check(&arm).1, format!("{through}; NO_PROXY excludes {arm}"));
    assert_eq!(check("*").1, "none");
}

#[test]
fn any_character_in_a_proxy_password_works() {
    let w = lab(&["web01"]);
    let (user, password) = ("CORP\\ada", "a#b@c/d?e%f$g:hä");
    let Some(squid) = Squid::start(&w, user, password) else { return };
    for encoded in [password, "a%23b%40c%2Fd%3Fe%25f%24g%3Ah%C3%A4"] {
        let before = squid.connects();
        let mut list = w.arcssh(&["list"]);
        run(list.env("HTTPS_PROXY", format!("{user}:{encoded}@127.0.0.1:{}", squid.port))).clean();
        // Squid logs a tunnel after its end.
        assert!(eventually(Duration::from_secs(10), || squid.connects() > before), "{encoded}");
    }
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
pub(crate) struct Tinyproxy {
    child: Child,
    pub(crate) port: u16,
    log: PathBuf,
}

impl Tinyproxy {
    pub(crate) fn start(w: &Lab, more: &str) -> Self {
        Self::start_on(w, "127.0.0.1", more)
    }

    fn start_on(w: &Lab, address: &str, more: &str) -> Self {
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        Self::start_at(w, address, port, more)
    }

    pub(crate) fn start_at(w: &Lab, address: &str, port: u16, more: &str) -> Self {
        let path = |extension: &str| w.home().join(format!("tinyproxy-{port}.{extension}"));
        let (log, file) = (path("log"), path("conf"));
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

/// A Squid that requires a password, for one test.
struct Squid {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Squid {
    /// Returns `None` if the program is not installed.
    fn start(w: &Lab, user: &str, password: &str) -> Option<Self> {
        let helper = "/usr/lib/squid/basic_ncsa_auth";
        if !PathBuf::from(helper).exists() {
            skipped("squid is not installed");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = w.home().join("squid");
        fs::create_dir(&folder).unwrap();
        // Squid's helpers run as another user.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let hash = run(w.command("openssl").args(["passwd", "-apr1", password])).clean();
        fs::write(folder.join("users"), format!("{user}:{hash}")).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let configuration = format!(
            "http_port 127.0.0.1:{port}\nauth_param basic casesensitive on\nauth_param basic program {helper} {}\n\
             acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n\
             access_log stdio:{}\ncache_log {}\npid_filename none\ncache deny all\nshutdown_lifetime 0 seconds\n",
            path("users"),
            path("access.log"),
            path("cache.log")
        );
        fs::write(folder.join("squid.conf"), configuration).unwrap();
        let mut squid = w.command("/usr/sbin/squid");
        squid.args(["-N", "-f"]).arg(folder.join("squid.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = squid.spawn().unwrap();
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(eventually(Duration::from_secs(20), listens), "squid does not listen");
        Some(Self { child, port, log: folder.join("access.log") })
    }

    /// The number of CONNECT requests.
    fn connects(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(" CONNECT ")).count()
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
