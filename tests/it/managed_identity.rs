//! Managed identities. Their endpoints have fixed addresses, so each test runs in its own network and mount namespace.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _, stderr};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arcssh_emulator::Builder;

use crate::support::{
    ARCSSH, Lab, Run, closed_port, finish, lab, lab_with, may_become, namespaces, run, script, service,
};

const IMDS: &str = "169.254.169.254:80";
const HIMDS: &str = "127.0.0.1:40342";
const KEYS: &str = "/var/opt/azcmagent/tokens";
const SIGN_IN: &str = "arcssh: hint: sign in: arcssh login";
/// A user ID that owns nothing on this machine.
const OTHER_USER: u32 = 61234;
/// A response of a token service.
const TOKEN: &str = r#"{"access_token":"opaque","expires_in":"86399","expires_on":"4102444800"}"#;
const NO_ACCOUNT: &str = "arcssh: no account is signed in: arcssh found no service principal, no managed identity, and no sign-in of arcssh, Azure CLI, Azure Developer CLI or Azure PowerShell";

#[test]
fn an_azure_vm_uses_its_managed_identity_without_a_proxy() {
    isolated("an_azure_vm_uses_its_managed_identity_without_a_proxy", || {
        let w = lab_with(&["web01"], vm);
        let proxy = format!("http://127.0.0.1:{}", closed_port());
        let list = run(anonymous(&w, &["list"]).env("HTTP_PROXY", &proxy).env("http_proxy", &proxy)).clean();
        assert!(list.contains("web01"), "{list}");
        let shown = account(&w, &[]).clean();
        let account = "account  /subscriptions/5b5c0000-0000-4000-8000-000000000001/resourcegroups/rg-arc/providers/Microsoft.Compute/virtualMachines/vm01";
        let expected = ["source   the managed identity", account];
        assert_eq!(
            shown.lines().take(2).map(resource_group).collect::<Vec<_>>(),
            expected.map(resource_group)
        );
    });
}

#[test]
fn an_azure_vm_without_a_managed_identity_is_skipped() {
    isolated("an_azure_vm_without_a_managed_identity_is_skipped", || {
        let w = lab_with(&["web01"], vm);
        w.emulator().remove_managed_identities();
        account(&w, &[]).failed(3, &[NO_ACCOUNT, SIGN_IN]);
        let why = "arcssh: the credential source managed-identity is unavailable: no managed identity is assigned to this computer";
        let hint = "arcssh: hint: assign a managed identity to this computer";
        account(&w, &["--credential", "managed-identity"]).failed(3, &[why, hint]);
    });
}

#[test]
fn every_other_response_of_the_metadata_service_is_reported() {
    isolated("every_other_response_of_the_metadata_service_is_reported", || {
        let w = lab(&["web01"]);
        const SEVERAL: &str = "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request";
        const ID: &str = "55555555-0000-4000-8000-000000000001";
        let oauth = |text: &str| format!(r#"{{"error":"invalid_request","error_description":"{text}"}}"#);
        let select = "select another credential source with --credential or ARCSSH_CREDENTIAL";
        let check = format!(
            "check AZURE_CLIENT_ID: assign the identity {ID} to this computer, or unset AZURE_CLIENT_ID"
        );
        let name_one = "set AZURE_CLIENT_ID to the client ID of one of the identities";
        let cases = [
            (400, oauth(SEVERAL), "", SEVERAL, name_one),
            (400, oauth("Identity not found"), ID, "Identity not found", &check),
            (400, oauth("The resource is unknown"), "", "The resource is unknown", select),
            (
                400,
                "\u{feff}{\"StatusCode\":400,\"Message\":\"No identity.\"}".into(),
                ID,
                "No identity.",
                &check,
            ),
            (403, "forbidden by a policy".into(), "", "forbidden by a policy", select),
            (400, String::new(), "", "", select),
        ];
        let listener = TcpListener::bind(IMDS).unwrap();
        for (status, body, client_id, description, hint) in cases {
            let listener = listener.try_clone().unwrap();
            // The probe, then the request.
            let service = thread::spawn(move || {
                for refusal in [
                    "400 Bad Request\r\nContent-Length: 0".into(),
                    format!("{status} No\r\nContent-Length: {}", body.len()),
                ] {
                    let (mut connection, _) = listener.accept().unwrap();
                    let is_token = request(&connection).contains("metadata: true");
                    let body = if is_token { body.as_str() } else { "" };
                    let _ = write!(connection, "HTTP/1.1 {refusal}\r\nConnection: close\r\n\r\n{body}");
                }
            });
            let mut command = anonymous(&w, &["account"]);
            let failed = run(command.env("AZURE_CLIENT_ID", client_id));
            service.join().unwrap();
            let why = format!(
                "arcssh: cannot get a token of the managed identity: the metadata service responded {status}: {description}"
            );
            failed.failed(3, &[why.trim_end_matches(": "), &format!("arcssh: hint: {hint}")]);
        }
    });
}

#[test]
fn a_selected_managed_identity_waits_for_a_slow_metadata_service() {
    isolated("a_selected_managed_identity_waits_for_a_slow_metadata_service", || {
        let w = lab(&["web01"]);
        static DELAY: AtomicUsize = AtomicUsize::new(0);
        let listener = TcpListener::bind(IMDS).unwrap();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                thread::spawn(move || {
                    let has_header = request(&connection).contains("metadata: true");
                    if !has_header {
                        thread::sleep(Duration::from_millis(DELAY.load(Ordering::SeqCst) as u64));
                    }
                    let (status, body) = if has_header { ("200 OK", TOKEN) } else { ("400 Bad Request", "") };
                    let mut connection = connection;
                    let _ = write!(
                        connection,
                        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    );
                });
            }
        });
        let attempt = |delay, arguments: &[&str], variables: &[(&str, &str)]| {
            w.clear_cache();
            DELAY.store(delay, Ordering::SeqCst);
            run(anonymous(&w, &[&["account"], arguments].concat()).envs(variables.iter().copied()))
        };
        let source = "source   the managed identity\n";
        let named: &[&str] = &["--credential", "managed-identity"];
        assert!(attempt(800, &[], &[]).clean().starts_with(source));
        assert!(attempt(3000, named, &[]).clean().starts_with(source));
        assert!(attempt(3000, &[], &[("AZURE_CLIENT_ID", "c")]).clean().starts_with(source));
        let by_variable = [("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")];
        assert!(attempt(3000, &[], &by_variable).clean().starts_with(source));
        // Nothing says that this is an Azure VM.
        attempt(3000, &[], &[]).failed(3, &[NO_ACCOUNT, SIGN_IN]);
        let why = "arcssh: the credential source managed-identity is unavailable: the metadata service did not respond within 10 s";
        let hint = "arcssh: hint: let this computer connect to 169.254.169.254, if it is an Azure VM";
        attempt(12_000, named, &[]).failed(3, &[why, hint]);
    });
}

#[test]
fn the_metadata_service_of_another_cloud_is_skipped() {
    isolated("the_metadata_service_of_another_cloud_is_skipped", || {
        let w = lab(&["web01"]);
        let listener = TcpListener::bind(IMDS).unwrap();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                respond(connection, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let shown = account(&w, &["-v"]);
        assert_eq!(shown.code, Some(3));
        assert!(
            shown.stderr.contains("skipping the managed identity: this computer is not in Azure"),
            "{}",
            shown.stderr
        );
    });
}

/// The examples in the documentation write numbers as text. Other versions may not.
#[test]
fn other_token_and_challenge_formats_are_accepted() {
    isolated("other_token_and_challenge_formats_are_accepted", || {
        let w = lab(&["web01"]);
        let number = r#"{"access_token":"opaque","expires_on":4102444800}"#;
        serve_token(TcpListener::bind(IMDS).unwrap(), "Metadata: true", "400 Bad Request\r\nX: y", number);
        assert!(account(&w, &[]).clean().starts_with("source   the managed identity\n"));
        fs::create_dir_all(KEYS).unwrap();
        fs::write(format!("{KEYS}/a.key"), "secret\n").unwrap();
        let challenge = format!(
            "401 Unauthorized\r\nWWW-Authenticate: Negotiate, Digest realm=\"realm={KEYS}/b.key\"\r\nWWW-Authenticate: basic x=\"a, realm={KEYS}/b.key\", Realm=\"{KEYS}/a.key\", charset=\"UTF-8\""
        );
        let agent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = agent.local_addr().unwrap().port();
        serve_token(
            agent,
            "Authorization: Basic secret",
            &challenge,
            r#"{"access_token":"opaque","expires_in":3599}"#,
        );
        let mut account = anonymous(&w, &["account"]);
        account.env("ARCSSH_STATE_DIR", w.home().join("other"));
        let output = run(with_endpoint(&mut account, port)).clean();
        assert!(
            output.starts_with("source   the managed identity\n") && output.contains("in 60 minutes"),
            "{output}"
        );
    });
}

#[test]
fn an_arc_machine_uses_its_managed_identity() {
    isolated("an_arc_machine_uses_its_managed_identity", || {
        let w = lab_with(&["web01"], arc);
        fs::create_dir_all("/opt/azcmagent/bin").unwrap();
        fs::write("/opt/azcmagent/bin/himds", "").unwrap();
        let list = run(&mut anonymous(&w, &["list", "-vvv"]));
        assert_eq!(list.code, Some(0), "{}", list.stderr);
        for secret in w.emulator().secrets() {
            assert!(!list.stderr.contains(&secret), "a log contains the secret {secret}");
        }
        let shown = account(&w, &[]).clean();
        let expected = ["source   the managed identity".to_owned(), format!("account  {}", w.id())];
        assert_eq!(shown.lines().take(2).collect::<Vec<_>>(), expected);
        // The agent sets the endpoint in the environment of its own programs.
        fs::remove_file("/opt/azcmagent/bin/himds").unwrap();
        let with_variables = |endpoint: &str| {
            let mut account = anonymous(&w, &["account"]);
            account.env("IDENTITY_ENDPOINT", endpoint).env("IMDS_ENDPOINT", "http://localhost:40342");
            run(account.env("ARCSSH_STATE_DIR", w.home().join("other")))
        };
        let output = with_variables("http://localhost:40342/metadata/identity/oauth2/token");
        assert!(output.clean().starts_with("source   the managed identity\n"));
        let elsewhere = "http://203.0.113.1/metadata/identity/oauth2/token";
        let why = format!(
            "arcssh: cannot get a token of the managed identity: IDENTITY_ENDPOINT={elsewhere} is not on this machine"
        );
        assert_eq!(with_variables(elsewhere).arcssh_lines()[0], why);
    });
}

#[test]
fn an_arc_machine_with_an_unreadable_key_is_skipped() {
    isolated("an_arc_machine_with_an_unreadable_key_is_skipped", || {
        let w = lab(&["web01"]);
        let key = format!("{KEYS}/locked.key");
        fs::create_dir_all(KEYS).unwrap();
        fs::write(&key, "secret").unwrap();
        run(Command::new("chmod").args(["000", &key])).clean();
        let account = |arguments: &[&str]| {
            let mut account = w.command("/usr/bin/setpriv");
            account.args(["--inh-caps=-all", "--bounding-set=-all", ARCSSH, "account"]).args(arguments);
            with_endpoint(&mut account, challenging_agent(&format!("Basic realm={key}")));
            run(&mut without_principal(&w, account))
        };
        let why = format!(
            "arcssh: the credential source managed-identity is unavailable: only the group of the Arc agent may read {key}"
        );
        let hint = "arcssh: hint: join the agent's group, then log in again: sudo usermod -a -G himds $USER";
        account(&["--credential", "managed-identity"]).failed(3, &[&why, hint]);
        let why = format!(
            "arcssh: no account is signed in: the managed identity is unavailable: only the group of the Arc agent may read {key}"
        );
        let hint = "arcssh: hint: sign in: arcssh login; or join the agent's group, then log in again: sudo usermod -a -G himds $USER";
        account(&[]).failed(3, &[&why, hint]);
    });
}

#[test]
fn only_a_key_in_the_directory_of_the_agent_is_read() {
    isolated("only_a_key_in_the_directory_of_the_agent_is_read", || {
        let w = lab(&["web01"]);
        fs::create_dir_all(KEYS).unwrap();
        fs::write(format!("{KEYS}/long.key"), vec![b'a'; 4097]).unwrap();
        fs::write(format!("{KEYS}/other.txt"), "secret").unwrap();
        fs::write(format!("{KEYS}/lines.key"), "secret\r\nX: y").unwrap();
        fs::write(format!("{KEYS}/empty.key"), "\n").unwrap();
        fs::create_dir(format!("{KEYS}/folder.key")).unwrap();
        std::os::unix::fs::symlink(format!("{KEYS}/other.txt"), format!("{KEYS}/link.key")).unwrap();
        run(Command::new("mkfifo").arg(format!("{KEYS}/pipe.key"))).clean();
        let outside = "the Arc agent named a key outside its directory: ";
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
                format!("cannot read {KEYS}/lines.key: it contains no key"),
            ),
            (
                format!("Basic realm={KEYS}/none.key"),
                format!("cannot read {KEYS}/none.key: No such file or directory (os error 2)"),
            ),
            (
                format!("Basic realm={KEYS}/pipe.key"),
                format!("cannot read {KEYS}/pipe.key: it is not a regular file"),
            ),
            (
                format!("Basic realm={KEYS}/folder.key"),
                format!("cannot read {KEYS}/folder.key: it is not a regular file"),
            ),
            (
                format!("Basic realm={KEYS}/link.key"),
                format!("cannot read {KEYS}/link.key: it is a symbolic link"),
            ),
            (
                format!("Basic realm={KEYS}/empty.key"),
                format!("cannot read {KEYS}/empty.key: it contains no key"),
            ),
            ("Negotiate".into(), "the Arc agent responded 401 instead of a challenge".into()),
        ];
        for (challenge, why) in cases {
            let mut account = anonymous(&w, &["account"]);
            let failed = run(with_endpoint(&mut account, challenging_agent(&challenge)));
            let hint =
                "arcssh: hint: select another credential source with --credential or ARCSSH_CREDENTIAL";
            failed.failed(3, &[&format!("arcssh: cannot get a token of the managed identity: {why}"), hint]);
        }
    });
}

#[test]
fn a_stopped_arc_agent_is_reported() {
    isolated("a_stopped_arc_agent_is_reported", || {
        let w = lab(&["web01"]);
        let why =
            "arcssh: the Arc agent of this computer does not respond (Connection refused (os error 111))";
        let hint = "arcssh: hint: check the agent with azcmagent show, or select another credential source with --credential; to start the agent, run: sudo systemctl start himdsd";
        run(with_endpoint(&mut anonymous(&w, &["account"]), closed_port())).failed(3, &[why, hint]);
    });
}

// Other users of this machine.

#[test]
fn a_listener_of_another_user_receives_nothing() {
    isolated("a_listener_of_another_user_receives_nothing", || {
        if !may_become(OTHER_USER) {
            return;
        }
        let w = lab(&["web01"]);
        install_agent();
        write_key("a.key", "worth-a-token");
        for (host, endpoint, accept) in [
            ("127.0.0.1", "", "at once"),
            ("127.0.0.1", "", "late"),
            ("0.0.0.0", "", "at once"),
            ("::", "", "at once"),
            ("::1", "http://[::1]:40342/metadata/identity/oauth2/token", "at once"),
        ] {
            let other = OtherService::start(host, 40342, accept, &challenge("a.key"));
            let mut account = anonymous(&w, &["account"]);
            if !endpoint.is_empty() {
                account.env("IDENTITY_ENDPOINT", endpoint).env("IMDS_ENDPOINT", "http://localhost:40342");
            }
            let failed = run(&mut account);
            let address = if host == "::1" { "[::1]:40342" } else { HIMDS };
            let why = format!(
                "arcssh: a process of user ID {OTHER_USER} listens on {address} in place of the Arc agent"
            );
            let hint = "arcssh: hint: stop that process; then start the agent: sudo systemctl start himdsd";
            failed.failed(3, &[&why, hint]);
            assert_eq!(other.received(), "", "{host}");
        }
    });
}

#[test]
fn localhost_is_not_resolved() {
    isolated("localhost_is_not_resolved", || {
        if !may_become(OTHER_USER) {
            return;
        }
        let w = lab_with(&["web01"], arc);
        fs::write(w.home().join("hosts"), "::1 localhost\n").unwrap();
        run(Command::new("mount").args(["--bind"]).arg(w.home().join("hosts")).arg("/etc/hosts")).clean();
        let other = OtherService::start("::1", 40342, "at once", &challenge("a.key"));
        let mut account = anonymous(&w, &["account"]);
        account.env("IDENTITY_ENDPOINT", "http://localhost:40342/metadata/identity/oauth2/token");
        let shown = run(account.env("IMDS_ENDPOINT", "http://localhost:40342")).clean();
        assert!(shown.contains(&format!("account  {}\n", w.id())), "{shown}");
        assert_eq!(other.received(), "");
    });
}

/// The agent's package runs the service as the user himds, who owns the directory of keys.
#[test]
fn an_agent_that_runs_as_the_owner_of_its_keys_is_accepted() {
    isolated("an_agent_that_runs_as_the_owner_of_its_keys_is_accepted", || {
        if !may_become(OTHER_USER) {
            return;
        }
        let w = lab(&["web01"]);
        install_agent();
        write_key("a.key", "worth-a-token");
        let himds = OtherService::start("127.0.0.1", 40342, "at once", &challenge("a.key"));
        run(Command::new("chown").args(["-R", &OTHER_USER.to_string(), KEYS])).clean();
        // The agent challenges again, so arcssh sent the key and got no token.
        let why = "arcssh: cannot get a token of the managed identity: the Arc agent responded 401";
        assert_eq!(account(&w, &[]).arcssh_lines()[0], why);
        let received = himds.received();
        assert_eq!(received.lines().count(), 2, "{received}");
        assert!(received.lines().nth(1).unwrap().contains("Basic worth-a-token"), "{received}");
    });
}

#[test]
fn a_key_of_another_user_is_not_sent() {
    isolated("a_key_of_another_user_is_not_sent", || {
        if !may_become(OTHER_USER) {
            return;
        }
        let w = lab(&["web01"]);
        write_key("a.key", "foreign-key");
        run(Command::new("chown").args([&OTHER_USER.to_string(), &format!("{KEYS}/a.key")])).clean();
        let port = challenging_agent(&format!("Basic realm={KEYS}/a.key"));
        let failed = run(with_endpoint(&mut anonymous(&w, &["account"]), port));
        let why = format!(
            "arcssh: cannot get a token of the managed identity: cannot read {KEYS}/a.key: it belongs to user ID {OTHER_USER}, not to the Arc agent"
        );
        assert_eq!(failed.arcssh_lines()[0], why);
    });
}

#[test]
fn malformed_responses_of_the_agent_fail_in_bounded_time() {
    isolated("malformed_responses_of_the_agent_fail_in_bounded_time", || {
        let w = lab(&["web01"]);
        static FOLLOWED: AtomicUsize = AtomicUsize::new(0);
        let elsewhere = service(|_| {
            FOLLOWED.fetch_add(1, Ordering::SeqCst);
        });
        let redirect = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
        );
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n{",
            "",
            "\u{0}\u{1}",
            &redirect,
        ];
        let children: Vec<(Instant, Child)> = answers
            .iter()
            .map(|text| {
                let text: &'static str = text.to_string().leak();
                let port = service(move |connection| respond_and_hang(connection, text));
                let mut account = anonymous(&w, &["account"]);
                with_endpoint(&mut account, port).stdout(Stdio::piped()).stderr(Stdio::piped());
                (Instant::now(), account.spawn().unwrap())
            })
            .collect();
        for ((started, child), respond) in children.into_iter().zip(answers) {
            let failed = finish(child);
            assert_eq!(failed.code, Some(3), "{respond:?}: {}", failed.stderr);
            assert!(started.elapsed() < Duration::from_secs(60), "{respond:?}");
        }
        assert_eq!(FOLLOWED.load(Ordering::SeqCst), 0, "a redirect was followed");
    });
}

// The network.

#[test]
fn credentials_of_the_user_precede_the_metadata_service() {
    isolated("credentials_of_the_user_precede_the_metadata_service", || {
        let w =
            lab_with(&["web01"], |builder| builder.device_interval(Duration::from_secs(1)).approve_devices());
        let requests = metadata_service();
        let source = |account: Run| account.clean().lines().next().unwrap_or_default().to_owned();
        assert_eq!(source(account(&w, &[])), "source   the managed identity");
        assert_ne!(requests(), 0);
        // The token of the network's metadata service is cached, but only for that source.
        assert_eq!(run(&mut anonymous(&w, &["login", "--device-code"])).code, Some(0));
        assert_eq!(source(account(&w, &[])), "source   the sign-in of arcssh");
        assert_eq!(run(&mut anonymous(&w, &["logout"])).code, Some(0));
        let account_by_az = || {
            let mut account = anonymous(&w, &["account"]);
            run(account.env("PATH", w.home().join("bin")))
        };
        let az = |body: &str| {
            script(&w.home().join("bin"), "az", &format!("#!/bin/sh\n{body}\n"));
            w.clear_cache();
        };
        az(&format!("echo '{TOKEN}'"));
        let before = requests();
        assert_eq!(source(account_by_az()), "source   Azure CLI");
        // An expired sign-in is the user's choice too.
        az("echo 'AADSTS70043: The refresh token has expired.' >&2; exit 1");
        assert_eq!(account_by_az().code, Some(3));
        assert_eq!(requests(), before);
        az("echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1");
        assert_eq!(source(account_by_az()), "source   the managed identity");
    });
}

#[test]
fn without_azure_firmware_the_metadata_service_is_used_only_on_request() {
    isolated("without_azure_firmware_the_metadata_service_is_used_only_on_request", || {
        let w = lab(&["web01"]);
        let requests = metadata_service();
        run(Command::new("mount").args(["-t", "tmpfs", "none", "/sys/class"])).clean();
        fs::create_dir_all("/sys/class/dmi/id").unwrap();
        for tag in ["Default string\n", "\n"] {
            fs::write("/sys/class/dmi/id/chassis_asset_tag", tag).unwrap();
            account(&w, &[]).failed(3, &[NO_ACCOUNT, SIGN_IN]);
        }
        assert_eq!(requests(), 0);
        let named = account(&w, &["--credential", "managed-identity"]).clean();
        assert!(named.starts_with("source   the managed identity\n"), "{named}");
        w.clear_cache();
        fs::write("/sys/class/dmi/id/chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77\n").unwrap();
        assert!(account(&w, &[]).clean().starts_with("source   the managed identity\n"));
    });
}

#[test]
fn an_endless_or_silent_metadata_service_fails_in_bounded_time() {
    isolated("an_endless_or_silent_metadata_service_fails_in_bounded_time", || {
        let w = lab(&["web01"]);
        static ENDLESS: AtomicBool = AtomicBool::new(true);
        let listener = TcpListener::bind(IMDS).unwrap();
        thread::spawn(move || {
            // azure_core retries a failed request, so all requests of one command get the same response.
            for mut connection in listener.incoming().flatten() {
                let head = request(&connection);
                let text = match head.contains("metadata: true") {
                    false => "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    true if ENDLESS.load(Ordering::SeqCst) => "HTTP/1.1 200 OK\r\n\r\n{",
                    true => "",
                };
                match head.contains("metadata: true") {
                    false => drop(connection.write_all(text.as_bytes())),
                    true => drop(thread::spawn(move || stream(connection, text))),
                }
            }
        });
        for (endless, why) in [
            (true, "the response is longer than 4 MiB"),
            (false, "the metadata service did not respond within 30 s\n"),
        ] {
            ENDLESS.store(endless, Ordering::SeqCst);
            let started = Instant::now();
            let failed = account(&w, &[]);
            assert_eq!(failed.code, Some(3), "{}", failed.stderr);
            assert!(failed.stderr.contains(why), "{}", failed.stderr);
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
        }
    });
}

#[test]
fn a_failing_token_service_is_reported_with_its_last_response() {
    isolated("a_failing_token_service_is_reported_with_its_last_response", || {
        let w = lab(&["web01"]);
        let attempt = |port: u16, arguments: &[&str]| {
            let mut command = anonymous(&w, &[&["account"], arguments].concat());
            command
                .env("IDENTITY_ENDPOINT", format!("http://127.0.0.1:{port}/x"))
                .env("IDENTITY_HEADER", "h");
            let started = Instant::now();
            let failed = run(&mut command);
            assert_eq!(failed.code, Some(3), "{}", failed.stderr);
            (failed.arcssh_lines()[0].to_owned(), started.elapsed())
        };
        let named: &[&str] = &["--credential", "managed-identity"];
        for response in ["500 No\r\n", "503 No\r\nRetry-After: 60\r\n", "429 No\r\nRetry-After: 3600\r\n"] {
            let port = service(move |mut connection| {
                request(&connection);
                let head = "Content-Length: 4\r\nConnection: close\r\n\r\nbusy";
                let _ = write!(connection, "HTTP/1.1 {response}{head}");
            });
            for (arguments, limit) in [(&[][..], 5), (named, 15)] {
                let (message, time) = attempt(port, arguments);
                let why = format!("the metadata service responded {}: busy", &response[..3]);
                assert!(message.ends_with(&why), "{message}");
                assert!(time < Duration::from_secs(limit), "{time:?}");
            }
        }
        let (message, time) = attempt(closed_port(), named);
        assert!(message.contains("the metadata service does not respond: Connection refused"), "{message}");
        assert!(time < Duration::from_secs(3), "{time:?}");
    });
}

/// Runs a test of this file in namespaces with only loopback, the address of the metadata service, and empty
/// directories for the Arc agent.
#[track_caller]
fn isolated(name: &str, test: impl FnOnce()) {
    const INSIDE: &str = "ARCSSH_TEST_IS_ISOLATED";
    if env::var_os(INSIDE).is_some() {
        return test();
    }
    let Some(own_namespaces) = namespaces("nm") else { return };
    let shell = "mount -t tmpfs none /opt; mount -t tmpfs none /var/opt; ip link set lo up
        ip addr add 169.254.169.254/32 dev lo; exec \"$0\" --exact \"managed_identity::$1\"";
    let mut unshare = Command::new("unshare");
    unshare
        .args([&own_namespaces, "sh", "-euc", shell])
        .arg(env::current_exe().unwrap())
        .arg(name)
        .env(INSIDE, "1");
    let Run { code, stdout, stderr: messages } = run(&mut unshare);
    // libtest discards the output of a test that passes.
    messages
        .lines()
        .filter(|line| line.starts_with("skipped: "))
        .for_each(|line| drop(writeln!(stderr(), "{line}")));
    let stdout = String::from_utf8_lossy(&stdout);
    assert_eq!(code, Some(0), "{stdout}{messages}");
    assert!(stdout.contains("1 passed"), "{stdout}");
}

fn vm(builder: Builder) -> Builder {
    builder.imds(IMDS.parse().unwrap())
}

fn arc(builder: Builder) -> Builder {
    builder.himds(HIMDS.parse().unwrap())
}

/// arcssh without the service principal and without programs on PATH.
fn anonymous(w: &Lab, arguments: &[&str]) -> Command {
    without_principal(w, w.arcssh(arguments))
}

fn without_principal(w: &Lab, mut command: Command) -> Command {
    for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"] {
        command.env_remove(name);
    }
    command.env("PATH", w.home().join("empty"));
    command
}

fn account(w: &Lab, arguments: &[&str]) -> Run {
    run(&mut anonymous(w, &[&["account"], arguments].concat()))
}

/// Omits the path up to the resource group, whose case differs.
fn resource_group(line: &str) -> String {
    line.split("/resourcegroups/").last().unwrap_or_default().to_owned()
}

/// An agent that responds with this challenge.
fn challenging_agent(challenge: &str) -> u16 {
    let text =
        format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n");
    let text: &'static str = text.leak();
    service(move |connection| respond(connection, text))
}

/// A service that responds with `token` to a request with `header`, and otherwise with `refusal`.
fn serve_token(listener: TcpListener, header: &str, refusal: &str, token: &str) {
    let header = header.to_lowercase();
    let refusal = format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let token =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{token}", token.len());
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let read = connection.read(&mut request).unwrap_or_default();
            let is_authorized = String::from_utf8_lossy(&request[..read]).to_lowercase().contains(&header);
            let _ = connection.write_all(if is_authorized { &token } else { &refusal }.as_bytes());
        }
    });
}

fn respond(mut connection: TcpStream, text: &str) {
    let _ = connection.read(&mut [0; 4096]);
    let _ = connection.write_all(text.as_bytes());
}

fn with_endpoint(command: &mut Command, port: u16) -> &mut Command {
    command
        .env("IDENTITY_ENDPOINT", format!("http://localhost:{port}/token"))
        .env("IMDS_ENDPOINT", "http://localhost")
}

/// The files of the agent's package.
fn install_agent() {
    fs::create_dir_all("/opt/azcmagent/bin").unwrap();
    fs::write("/opt/azcmagent/bin/himds", "").unwrap();
    fs::create_dir_all(KEYS).unwrap();
}

fn write_key(name: &str, key: &str) {
    fs::create_dir_all(KEYS).unwrap();
    fs::write(format!("{KEYS}/{name}"), key).unwrap();
}

fn challenge(key: &str) -> String {
    format!(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm={KEYS}/{key}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// A service of another user, which logs the first data of each connection.
struct OtherService(Child, BufReader<std::process::ChildStdout>);

impl OtherService {
    /// Starts it. With `late`, it accepts a connection half a second after the client established it.
    fn start(host: &str, port: u16, accept: &str, answer: &str) -> Self {
        const SCRIPT: &str = r#"
import os, select, socket, sys
host, port, user, accept, answer = sys.argv[1:6]
os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
listener = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if host == '::': listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.bind((host, int(port))); listener.listen()
print('listening', flush=True)
while True:
    select.select([listener], [], [])
    if accept == 'late': select.select([], [], [], 0.5)
    connection, _ = listener.accept()
    received = connection.recv(4096)
    if received: print(repr(received), flush=True)
    connection.sendall(answer.encode())
    connection.close()
"#;
        let mut python = Command::new("python3");
        python.args(["-c", SCRIPT, host, &port.to_string(), &OTHER_USER.to_string(), accept, answer]);
        let mut child = python.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        Self(child, output)
    }

    /// Stops it. Returns the data that it received.
    fn received(mut self) -> String {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        let mut received = String::new();
        self.1.read_to_string(&mut received).unwrap();
        received
    }
}

impl Drop for OtherService {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A metadata service like Azure's, which gives everyone a token. Returns its number of connections.
fn metadata_service() -> impl Fn() -> usize {
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind(IMDS).unwrap();
    thread::spawn(move || {
        let token =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{TOKEN}", TOKEN.len());
        let refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        for mut connection in listener.incoming().flatten() {
            CONNECTIONS.fetch_add(1, Ordering::SeqCst);
            let has_header = request(&connection).contains("metadata: true");
            let _ = connection.write_all(if has_header { &token } else { refusal }.as_bytes());
        }
    });
    || CONNECTIONS.load(Ordering::SeqCst)
}

/// The head of a request, in lower case.
fn request(mut connection: &TcpStream) -> String {
    let mut request = [0; 4096];
    let read = connection.read(&mut request).unwrap_or_default();
    String::from_utf8_lossy(&request[..read]).to_lowercase()
}

/// Sends `text`, then one character without end. Sends nothing if `text` is empty.
fn stream(mut connection: TcpStream, text: &str) {
    let mut sent = connection.write_all(text.as_bytes());
    while sent.is_ok() && !text.is_empty() {
        sent = connection.write_all(&[b'a'; 65536]);
    }
    respond_and_hang(connection, "");
}

/// Sends `text`, and leaves the connection open until the peer closes it.
fn respond_and_hang(mut connection: TcpStream, text: &str) {
    let _ = connection.read(&mut [0; 4096]);
    let _ = connection.write_all(text.as_bytes());
    let _ = connection.read_to_end(&mut Vec::new());
}
