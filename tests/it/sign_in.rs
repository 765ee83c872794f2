//! `arcssh login` with a browser and with a device code, and `arcssh logout`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arcssh_emulator::{EntraFault, RefreshRefusal, Service};

use crate::support::{
    ARCSSH, Lab, Limited, Run, ended, eventually, finish, lab, lab_with, namespaces, run, run_with_input,
    script,
};

const AGAIN: &str = "arcssh: hint: run the same command again; to sign in with a browser on another device, add --device-code";
const USER: &str = "Ada@arcssh.example";
const TENANT: &str = "7e4a4700-0000-4000-8000-000000000001";
const OTHER_TENANT: &str = "7e4a4700-0000-4000-8000-000000000002";

/// A browser that follows redirects and saves the page.
const BROWSER: &str =
    r#"echo "$1" > "$HOME/address"; curl -sS -L --cacert "$SSL_CERT_FILE" "$1" > "$HOME/page""#;

/// The messages of `arcssh logout`.
const SIGNED_OUT: &str = "arcssh: signed out\narcssh: hint: to sign in again, run: arcssh login\n";

// Browser.

#[test]
fn a_browser_signs_in_and_ssh_connects_without_any_other_program() {
    let w = lab(&["web01"]);
    let login = login(&w, BROWSER, &[]);
    assert_eq!(login.code, Some(0), "{}", login.stderr);
    let lines: Vec<&str> = login.stderr.lines().collect();
    let [first, address, last, next] = lines[..] else { panic!("{}", login.stderr) };
    assert_eq!(first, "arcssh: your browser opens for the sign-in; if it does not, open this address:");
    assert!(
        address
            .contains("/organizations/oauth2/v2.0/authorize?client_id=04b07795-8ddb-461a-bbee-02f9e1bf7b46&"),
        "{address}"
    );
    assert_eq!(last, format!("arcssh: signed in as {USER} in the tenant {TENANT}"));
    assert_eq!(next, "arcssh: hint: to connect, run: ssh web01");
    let page = || fs::read_to_string(w.home().join("page")).unwrap();
    assert!(
        eventually(Duration::from_secs(5), || page()
            .contains("Go back to the terminal: it shows the account")),
        "{}",
        page()
    );
    // Other users can read a browser's command line.
    let link = fs::read_to_string(w.home().join("address")).unwrap();
    assert!(link.starts_with("http://127.0.0.1:"), "{link}");
    for name in ["state", "code_challenge"] {
        let (_, value) = address.split_once(&format!("&{name}=")).unwrap();
        let value = value.split('&').next().unwrap();
        assert!(value.len() >= 43 && !link.contains(value), "{link}");
    }
    assert_eq!(run(anonymous(w.ssh().args(["web01", "echo reached"]))).clean(), "reached\n");
    let account = run(anonymous(&mut w.arcssh(&["account"]))).clean();
    let lines: Vec<&str> = account.lines().take(3).collect();
    assert_eq!(
        lines,
        [
            "source   the sign-in of arcssh",
            &format!("account  {USER}"),
            "tenant   7e4a4700-0000-4000-8000-000000000001"
        ]
    );
}

#[test]
fn a_credential_that_precedes_the_sign_in_is_named() {
    let w = lab(&["web01"]);
    login(&w, BROWSER, &[]);
    let mut second = w.arcssh(&["login"]);
    let run = run(second.env("BROWSER", w.home().join("bin/browser")));
    let last = "arcssh: the service principal takes precedence over this sign-in; to use this sign-in, run: export ARCSSH_CREDENTIAL=arcssh";
    assert_eq!((run.code, run.stderr.lines().last()), (Some(0), Some(last)));
    // An earlier source that fails ends each search.
    let mut third = w.arcssh(&["login"]);
    third.env("BROWSER", w.home().join("bin/browser")).env("AZURE_CLIENT_SECRET", "wrong");
    w.clear_cache();
    let run = crate::support::run(&mut third);
    assert_eq!((run.code, run.stderr.lines().last()), (Some(0), Some(last)));
}

#[test]
fn a_variable_that_excludes_the_sign_in_is_named() {
    let w = lab(&["web01"]);
    for (name, value) in [
        ("AZURE_TOKEN_CREDENTIALS", "prod"),
        ("AZURE_TOKEN_CREDENTIALS", "unknown"),
        ("ARCSSH_CREDENTIAL", "az"),
        ("ARCSSH_CREDENTIAL", "unknown"),
    ] {
        script(&w.home().join("bin"), "browser", &format!("#!/bin/sh\n{BROWSER}\n"));
        let mut login = w.arcssh(&["login"]);
        let run = run(anonymous(&mut login).env(name, value).env("BROWSER", w.home().join("bin/browser")));
        let last = format!(
            "arcssh: {name} excludes this sign-in; to use this sign-in, run: export ARCSSH_CREDENTIAL=arcssh"
        );
        assert_eq!((run.code, run.stderr.lines().last()), (Some(0), Some(last.as_str())), "{value}");
    }
}

#[test]
fn a_form_post_response_is_accepted_and_a_wrong_state_is_not() {
    let w = lab(&["web01"]);
    let browser = r#"
        port=$(echo "$1" | cut -d: -f3 | cut -d/ -f1)
        curl -sS "http://localhost:$port/?code=other&state=wrong" > "$HOME/response"
        url=$(curl -sS -o /dev/null -w '%{redirect_url}' "$1")
        form=$(curl -sS --cacert "$SSL_CERT_FILE" "$url&response_mode=form_post")
        value() { echo "$form" | sed "s/.*name=\"$1\" value=\"\([^\"]*\)\".*/\1/"; }
        curl -sS --data-urlencode "code=$(value code)" --data-urlencode "state=$(value state)" "http://localhost:$port""#;
    let login = login(&w, browser, &["--tenant", "arcssh.example"]);
    assert_eq!(login.code, Some(0), "{}", login.stderr);
    let response = fs::read_to_string(w.home().join("response")).unwrap();
    assert!(response.contains("This is not a response to the sign-in of arcssh."), "{response}");
}

/// Start of a browser script: the port, and a function that logs the status of a request.
const REQUESTS: &str = r#"
    port=$(echo "$1" | cut -d: -f3 | cut -d/ -f1)
    status() { curl -sS -m 20 -o /dev/null -w '%{http_code} ' "$@" >> "$HOME/statuses" || echo "failed " >> "$HOME/statuses"; }"#;

#[test]
fn unrelated_requests_get_an_error_and_do_not_end_the_sign_in() {
    let w = lab(&["web01"]);
    let browser = format!(
        r#"{REQUESTS}
        url="http://localhost:$port"
        status "$url/favicon.ico"
        status "$url"
        status "$url/?code=other"
        status "$url/?code=other&state=wrong"
        status "$url/?error=access_denied&state=wrong"
        status "$url/?error=access_denied"
        status -d code=other -d state=wrong "$url"
        status -H 'Content-Type: text/plain' -d code=other "$url"
        status -I "$url"
        status -I "$1"
        status -X PUT "$url"
        status -X POST "$1"
        status -H 'Host: evil.example' "$1"
        status -H "Host: evil.example:$port" "$url/?code=other&state=wrong"
        status -H 'Host:' "$1"
        status -I --request-target http://evil.example/ "$url"
        status -I --request-target "$url/" "$url"
        head -c 100000 /dev/zero | tr '\0' x > "$HOME/long"
        status -H "X-Long: $(cat "$HOME/long")" "$url"
        status --data-binary "@$HOME/long" "$url"
        {BROWSER}"#
    );
    let login = login(&w, &browser, &[]);
    assert_eq!(login.code, Some(0), "{}", login.stderr);
    let statuses = fs::read_to_string(w.home().join("statuses")).unwrap();
    let expected = "404 400 400 400 400 400 400 415 200 200 405 405 400 400 400 400 200 431 413";
    assert_eq!(statuses.split_whitespace().collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn silent_connections_do_not_delay_the_response() {
    let w = lab(&["web01"]);
    let browser = format!(
        r#"{REQUESTS}
        exec bash -c 'for n in $(seq 60); do exec {{fd}}<>/dev/tcp/127.0.0.1/$0; done
            printf "GET / HT" >&$fd
            curl -sS -L --cacert "$SSL_CERT_FILE" "$1" > "$HOME/page"' "$port" "$1""#
    );
    let started = Instant::now();
    let login = login(&w, &browser, &[]);
    assert_eq!(login.code, Some(0), "{}", login.stderr);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn the_port_is_bound_on_both_loopback_addresses() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // This machine has no ::1.
    }
    let w = lab(&["web01"]);
    let browser = format!("{REQUESTS}\nstatus \"http://[::1]:$port/favicon.ico\"\n{BROWSER}");
    let login = login(&w, &browser, &[]);
    assert_eq!(login.code, Some(0), "{}", login.stderr);
    assert_eq!(fs::read_to_string(w.home().join("statuses")).unwrap(), "404 ");
}

#[cfg(target_os = "linux")]
#[test]
fn another_user_can_neither_open_the_link_nor_respond() {
    let as_another = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    if !Command::new("setpriv").args(as_another).arg("true").status().is_ok_and(|status| status.success()) {
        return; // Only root can be another user.
    }
    let w = lab(&["web01"]);
    let browser = format!(
        r#"{REQUESTS}
        as_other() {{ setpriv {} curl -sS -m 20 -o /dev/null -w '%{{http_code}} ' "$1" >> "$HOME/statuses" 2>&1 || true; }}
        as_other "$1"
        as_other "http://localhost:$port/?code=other"
        url=$(curl -sS -o /dev/null -w '%{{redirect_url}}' "$1")
        answer=$(curl -sS -o /dev/null -w '%{{redirect_url}}' --cacert "$SSL_CERT_FILE" "$url")
        as_other "$answer"
        curl -sS "$answer""#,
        as_another.join(" ")
    );
    let login = login(&w, &browser, &[]);
    assert_eq!(login.code, Some(0), "{}", login.stderr);
    let statuses = fs::read_to_string(w.home().join("statuses")).unwrap();
    assert_eq!(statuses.matches("000").count(), 3, "{statuses}");
}

// Another account than the expected one.

#[test]
fn an_unexpected_account_is_discarded_without_a_terminal() {
    let w = lab_with_device_codes();
    let named = finish(by_device_code(&w, &["--account", "bob@arcssh.example"]));
    let expected = [
        format!(
            "arcssh: {USER} in the tenant {TENANT} signed in, not bob@arcssh.example; arcssh discarded the sign-in"
        ),
        format!("arcssh: hint: to use this account, run: arcssh login --account {USER}"),
    ];
    assert_eq!((named.code, &named.arcssh_lines()[1..]), (Some(3), &[&*expected[0], &*expected[1]][..]));
    assert_eq!(run(&mut w.arcssh(&["logout"])).stderr, "arcssh: no account was signed in\n");
    let same = finish(by_device_code(&w, &["--account", &USER.to_lowercase()]));
    assert_eq!(same.code, Some(0), "{}", same.stderr);
}

#[test]
fn a_different_account_needs_confirmation() {
    let w = lab_with(&["web01"], |builder| {
        builder.device_interval(Duration::from_secs(1)).approve_devices().home_tenant_differs()
    });
    let account = || run(anonymous(&mut w.arcssh(&["account", "--credential", "arcssh"]))).clean();
    let tenant = |text: &str| text.lines().find(|line| line.starts_with("tenant")).unwrap().to_owned();
    // The same user as a guest of the given tenant needs no confirmation.
    assert_eq!(finish(by_device_code(&w, &[])).code, Some(0));
    let home = tenant(&account());
    let guest = finish(by_device_code(&w, &["--tenant", OTHER_TENANT]));
    assert_eq!(guest.code, Some(0), "{}", guest.stderr);
    let before = account();
    assert_ne!(tenant(&before), home);
    // Without --tenant, it is another account.
    let other = finish(by_device_code(&w, &[]));
    assert_eq!(other.code, Some(3), "{}", other.stderr);
    assert!(other.stderr.contains(&format!("signed in, not {USER} in the tenant {OTHER_TENANT};")));
    assert_eq!(tenant(&account()), tenant(&before));
    for (answer, code, is_kept) in [("\n", 3, true), ("n\n", 3, true), ("y\n", 0, false)] {
        let mut script = w.command("script");
        let command = format!("{ARCSSH} login --device-code");
        match cfg!(target_os = "linux") {
            true => script.args(["-qec", &command, "/dev/null"]),
            false => script.args(["-q", "/dev/null", "sh", "-c", &command]),
        };
        let result = run_with_input(anonymous(&mut script).env("TERM", "xterm"), answer.into());
        let screen = String::from_utf8_lossy(&result.stdout).into_owned();
        assert!(screen.contains("Use this account? [y/N] "), "{screen}");
        assert_eq!(result.code, Some(code), "{screen}");
        let declined = format!(
            "arcssh: arcssh discarded the sign-in; {USER} in the tenant {OTHER_TENANT} stays signed in"
        );
        assert_eq!(screen.contains(&declined) && !screen.contains("hint:"), is_kept, "{screen}");
        assert_eq!(tenant(&account()) == tenant(&before), is_kept, "{screen}");
    }
}

#[test]
fn a_declined_sign_in_ends_at_once_with_the_error() {
    let w = lab(&["web01"]);
    w.emulator().deny_sign_in();
    let login = login(&w, BROWSER, &[]);
    assert_eq!(login.code, Some(3), "{}", login.stderr);
    let [.., why, hint] = login.arcssh_lines()[..] else { panic!("{}", login.stderr) };
    assert!(
        why.starts_with("arcssh: Entra ID rejected the sign-in: AADSTS65004: User declined to consent"),
        "{why}"
    );
    assert_eq!(hint, AGAIN);
}

#[test]
fn without_a_browser_the_address_and_device_code_hint_are_shown() {
    let w = lab(&["web01"]);
    let mut login = w.arcssh(&["login"]);
    anonymous(&mut login)
        .env("PATH", w.home().join("empty"))
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY");
    sign_in_without_browser(&w, &mut login, "to connect, run: ssh web01");
}

/// Asserts that arcssh opens no browser and prints the address, and that the address works in another browser.
#[track_caller]
pub(crate) fn sign_in_without_browser(w: &Lab, login: &mut Command, next: &str) {
    let mut login = login.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(Limited(login.stderr.take().unwrap())).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "arcssh: to sign in, open this address in your browser:");
    let address = lines.next().unwrap();
    assert_eq!(
        lines.next().unwrap(),
        "arcssh: cannot open a browser here; to sign in on another device, run: arcssh login --device-code"
    );
    let address = address.strip_prefix("arcssh: ").unwrap();
    run(w.command("curl").args(["-sSL", "--cacert"]).arg(w.emulator().authority_file()).arg(address)).clean();
    assert!(lines.next().unwrap().starts_with("arcssh: signed in as "));
    assert_eq!(lines.next().unwrap(), format!("arcssh: hint: {next}"));
    assert_eq!(ended(&mut login).code(), Some(0));
}

/// A browser on another computer cannot open the redirect URI, and shows it in its address bar.
#[test]
#[cfg(target_os = "linux")]
fn the_address_of_the_response_can_be_pasted_in_a_terminal() {
    use std::io::{Read as _, Write as _};
    let w = lab(&["web01"]);
    let mut script = w.command("script");
    anonymous(&mut script).args(["-qefc", &format!("{ARCSSH} login"), "/dev/null"]).env("TERM", "dumb");
    script
        .env("PATH", "/usr/bin:/bin")
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env("BROWSER", "");
    script.env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22");
    let mut login = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keyboard, mut output) = (login.stdin.take().unwrap(), Limited(login.stdout.take().unwrap()));
    let mut screen = String::new();
    let mut read_until = |text: &str| {
        while !screen.contains(text) {
            let mut bytes = [0; 4096];
            let count = output.read(&mut bytes).unwrap();
            assert_ne!(count, 0, "{text}: {screen}");
            screen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        screen.clone()
    };
    let shown = read_until("and paste the address that it cannot open here:");
    let address = shown.lines().find_map(|line| line.strip_prefix("arcssh: https://")).unwrap().trim();
    writeln!(keyboard, "yes").unwrap();
    read_until("this is not the response to this sign-in");
    let mut curl = w.command("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{redirect_url}", "--cacert"])
        .arg(w.emulator().authority_file());
    let response = run(curl.arg(format!("https://{address}"))).clean();
    assert!(response.starts_with("http://localhost:"), "{response}");
    writeln!(keyboard, "{response}").unwrap();
    read_until(&format!("signed in as {USER}"));
    assert_eq!(ended(&mut login).code(), Some(0));
}

/// Some browsers replace http:// by https:// also for localhost.
#[test]
fn a_browser_that_uses_https_is_noticed() {
    let w = lab(&["web01"]);
    let browser = format!(
        r#"{REQUESTS}
        curl -sSk "https://localhost:$port/?code=other" 2> "$HOME/tls" || true
        status "http://localhost:$port/favicon.ico"
        {BROWSER}"#
    );
    let login = login(&w, &browser, &[]);
    assert_eq!(login.code, Some(0), "{}", login.stderr);
    let note = "in its address bar, type http:// in place of https://";
    assert_eq!(login.stderr.matches(note).count(), 1, "{}", login.stderr);
    assert!(fs::read_to_string(w.home().join("tls")).unwrap().contains("SSL"));
}

#[test]
fn a_browser_that_blocks_its_caller_works() {
    let w = lab(&["web01"]);
    // arcssh waits for a browser that runs in the terminal, such as w3m.
    script(&w.home().join("bin"), "w3m", &format!("#!/bin/sh\n{BROWSER}\n"));
    let mut login = w.arcssh(&["login"]);
    let login = run(anonymous(&mut login).env("BROWSER", w.home().join("bin/w3m")));
    assert_eq!(login.code, Some(0), "{}", login.stderr);
}

#[test]
fn a_connection_opens_no_browser() {
    let w = lab(&["web01"]);
    script(&w.home().join("bin"), "browser", "#!/bin/sh\ntouch \"$HOME/opened\"\n");
    let mut proxy = w.proxy("web01");
    let failed =
        run(anonymous(&mut proxy).env("BROWSER", w.home().join("bin/browser")).env("PATH", w.home()));
    assert_eq!(failed.arcssh_lines().last(), Some(&"arcssh: hint: sign in: arcssh login"));
    assert!(!w.home().join("opened").exists());
}

// Device code.

#[test]
fn a_device_code_signs_in() {
    let w = lab_with(&["web01"], |builder| builder.device_interval(Duration::from_secs(1)));
    let login = by_device_code(&w, &[]);
    assert!(eventually(Duration::from_secs(20), || w.emulator().pending_devices().len() == 1));
    let code = w.emulator().pending_devices().remove(0);
    // arcssh polls until the user approves.
    let polls = || {
        w.emulator()
            .requests_to(Service::Entra)
            .iter()
            .filter(|request| request.path_and_query.ends_with("/token"))
            .count()
    };
    assert!(eventually(Duration::from_secs(20), || polls() >= 2));
    w.emulator().approve_device(&code);
    let login = finish(login);
    let expected = [
        format!(
            "arcssh: To sign in, use a web browser to open the page https://microsoft.com/devicelogin and enter the code {code} to authenticate. The code is valid for 15 minutes."
        ),
        format!("arcssh: signed in as {USER} in the tenant 7e4a4700-0000-4000-8000-000000000001"),
        "arcssh: hint: to connect, run: ssh web01".into(),
    ];
    assert_eq!(login.stderr.lines().collect::<Vec<_>>(), expected);
    assert_eq!((login.code, login.stdout.len()), (Some(0), 0));
    assert_eq!(run(anonymous(w.ssh().args(["web01", "echo reached"]))).clean(), "reached\n");
}

#[test]
fn a_declined_or_expired_device_code_is_reported() {
    let w = lab_with(&["web01"], |builder| builder.device_interval(Duration::from_secs(1)));
    let ends: [(Ending, &str, &str); 3] = [
        (
            |w, code| w.emulator().decline_device(code),
            "AADSTS65004: User declined to consent to access the app.",
            "run the same command again; to sign in with a browser on this computer, remove --device-code",
        ),
        (
            |w, code| w.emulator().expire_device(code),
            "AADSTS70019: The device code has expired.",
            "run the same command again, and enter the new code before it expires",
        ),
        (
            |w, _| w.emulator().entra_fault(EntraFault::new(400, "invalid_grant", 53003, "Blocked.")),
            "AADSTS53003: Blocked.",
            "run the same command without --device-code; if a policy rejects this too, on a computer that the organization manages, run az login, and add --credential azure-cli to arcssh",
        ),
    ];
    for (end, text, fix) in ends {
        let login = by_device_code(&w, &[]);
        assert!(eventually(Duration::from_secs(20), || w.emulator().pending_devices().len() == 1));
        end(&w, &w.emulator().pending_devices()[0]);
        let login = finish(login);
        let [_, why, hint] = login.arcssh_lines()[..] else { panic!("{}", login.stderr) };
        assert!(why.starts_with(&format!("arcssh: Entra ID rejected the sign-in: {text}")), "{why}");
        assert_eq!((login.code, hint), (Some(3), format!("arcssh: hint: {fix}").as_str()));
    }
}

#[test]
fn client_id_and_tenant_can_be_given() {
    let w = lab_with_device_codes();
    let with = |arguments: &[&str]| finish(by_device_code(&w, arguments));
    assert_eq!(with(&["--client-id", arcssh_emulator::PUBLIC_CLIENT]).code, Some(0));
    let unknown = with(&["--client-id", "00000000-0000-4000-8000-000000000009"]);
    assert_eq!(unknown.code, Some(3));
    assert!(unknown.arcssh_lines()[0].contains("AADSTS700016"), "{}", unknown.stderr);
    let elsewhere = with(&["--tenant", "elsewhere.example"]);
    assert_eq!(elsewhere.code, Some(3));
    assert!(elsewhere.arcssh_lines()[0].contains("AADSTS90002"), "{}", elsewhere.stderr);
}

// Refresh tokens and logout.

#[test]
fn each_refresh_stores_the_new_refresh_token() {
    let w = lab_with_device_codes();
    assert_eq!(finish(by_device_code(&w, &[])).code, Some(0));
    for renewals in 1..=3 {
        run(anonymous(&mut w.arcssh(&["account"]))).clean();
        assert_eq!(redeemed(&w).len(), renewals);
        delete_tokens(&w);
    }
    let sent = redeemed(&w);
    assert!(sent[0] != sent[1] && sent[1] != sent[2], "a refresh token was used twice");
}

#[test]
fn a_revoked_sign_in_ends_the_search_with_the_error() {
    let cases = [
        (RefreshRefusal::Revoked, "AADSTS50173: "),
        (RefreshRefusal::Inactive, "AADSTS700082: "),
        (RefreshRefusal::SecondFactor, "AADSTS50076: "),
    ];
    let w = lab_with_device_codes();
    for (refusal, number) in cases {
        assert_eq!(finish(by_device_code(&w, &[])).code, Some(0));
        delete_tokens(&w);
        w.emulator().refuse_refresh_tokens(refusal);
        let failed = run(anonymous(&mut w.proxy("web01")));
        let [why, hint] = failed.arcssh_lines()[..] else { panic!("{}", failed.stderr) };
        assert!(
            why.starts_with(&format!(
                "arcssh: cannot connect to web01: Entra ID rejected the sign-in of arcssh: {number}"
            )),
            "{why}"
        );
        assert_eq!((failed.code, hint), (Some(3), "arcssh: hint: sign in: arcssh login"));
    }
}

#[test]
fn signing_out_deletes_the_sign_in_and_its_tokens() {
    let w = lab_with_device_codes();
    assert_eq!(finish(by_device_code(&w, &[])).code, Some(0));
    assert_eq!(run(anonymous(w.ssh().args(["web01", "echo reached"]))).clean(), "reached\n");
    let logout = || run(&mut w.arcssh(&["logout"])).stderr;
    assert_eq!(logout(), SIGNED_OUT);
    assert_eq!(logout(), "arcssh: no account was signed in\n");
    let failed = run(anonymous(&mut w.proxy("web01")));
    assert_eq!(
        (failed.code, failed.arcssh_lines().last().copied()),
        (Some(3), Some("arcssh: hint: sign in: arcssh login"))
    );
}

#[test]
fn the_next_step_after_the_sign_in_uses_it() {
    let w = lab_with_device_codes();
    let entry = |alias: &str, options: &str| {
        let command = format!("{ARCSSH} proxy {} --port %p{options}", w.id());
        format!("Host {alias}\n  ProxyCommand {command}\n")
    };
    let other_tenant = " --tenant 00000000-0000-4000-8000-000000000009";
    let config = "to add your machines to the ssh configuration, run: arcssh config --all";
    for (text, expected) in [
        (String::new(), config),
        ("Host a\n  ProxyCommand nc %h %p\n".into(), config),
        (entry("a", " --credential azure-cli"), config),
        (entry("a", " --agent ./x --login-name someone@example.com"), config),
        (entry("*.arc", ""), config),
        (entry("a", other_tenant) + &entry("b", ""), "to connect, run: ssh b"),
        (entry("a", &format!(" --tenant {TENANT} --credential arcssh")), "to connect, run: ssh a"),
        (entry("a", &format!(" --agent ./x --login-name {USER}")), "to connect, run: ssh a"),
    ] {
        fs::write(w.configuration(), &text).unwrap();
        let login = finish(by_device_code(&w, &[]));
        let last = login.stderr.lines().last().unwrap();
        assert_eq!(last, format!("arcssh: hint: {expected}"), "{text}");
    }
    fs::write(w.configuration(), "").unwrap();
    let added = run(anonymous(&mut w.arcssh(&["config", "--all"])));
    assert!(
        added.code == Some(0) && added.stderr.contains("arcssh: added web01.rg-arc "),
        "{}",
        added.stderr
    );
}

#[test]
fn signing_out_deletes_concurrent_and_unreadable_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let w = lab_with_device_codes();
    let accounts = || {
        let files = fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path());
        let is_account = |path: &str| path.contains("/account-") && path.ends_with(".json");
        files.filter(|file| is_account(&file.to_string_lossy())).collect::<Vec<_>>()
    };
    let logout = || run(&mut w.arcssh(&["logout"])).stderr;
    assert_eq!(finish(by_device_code(&w, &[])).code, Some(0));
    delete_tokens(&w);
    let before = w.emulator().requests().len();
    w.emulator().entra_fault(
        EntraFault::new(503, "temporarily_unavailable", 90033, "busy").after(Duration::from_secs(1)),
    );
    let mut account = w.arcssh(&["account"]);
    let account = anonymous(&mut account).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(eventually(Duration::from_secs(20), || w.emulator().requests().len() > before));
    assert_eq!(logout(), SIGNED_OUT);
    finish(account).clean();
    assert!(accounts().is_empty(), "the sign-in was stored again");
    assert_eq!(finish(by_device_code(&w, &[])).code, Some(0));
    fs::set_permissions(&accounts()[0], fs::Permissions::from_mode(0o644)).unwrap();
    // Temporary files of killed processes.
    fs::write(w.state_directory().join(".arcssh-aB3dE5gH7jK9.tmp"), "secret").unwrap();
    fs::create_dir(w.state_directory().join(".arcssh-aB3dE5gH7jK9.key")).unwrap();
    fs::write(w.state_directory().join(".arcssh-aB3dE5gH7jK9.key/key"), "secret").unwrap();
    assert_eq!(logout(), SIGNED_OUT);
    let left = run(w.command("ls").arg("-A").arg(w.state_directory())).clean();
    assert!(left.lines().all(|file| file.ends_with(".lock")), "{left}");
}

#[test]
fn without_a_state_directory_no_sign_in_starts() {
    let w = lab(&["web01"]);
    let hint = "arcssh: hint: name a directory of yours in ARCSSH_STATE_DIR";
    let mut login = w.arcssh(&["login"]);
    let failed = run(anonymous(&mut login).env("ARCSSH_STATE_DIR", "/dev/null/arcssh"));
    failed.failed(1, &["arcssh: cannot store the sign-in: there is no state directory", hint]);
    // A full disk.
    let Some(own_mounts) = namespaces("m") else { return };
    let folder = w.home().join("disk");
    fs::create_dir(&folder).unwrap();
    let mount = format!("mount -t tmpfs -o mode=700,size=4k tmpfs $ARCSSH_STATE_DIR && {ARCSSH} login");
    let mut shell = w.command("unshare");
    anonymous(shell.args([&own_mounts, "sh", "-c", &mount])).env("ARCSSH_STATE_DIR", folder);
    let full = run(&mut shell);
    let why = "arcssh: cannot store the sign-in: No space left on device";
    assert!(full.stderr.starts_with(why) && full.arcssh_lines()[1] == hint, "{}", full.stderr);
}

#[test]
fn the_secrets_of_a_sign_in_are_in_no_log_and_no_readable_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let w = lab_with_device_codes();
    let by_code = finish(by_device_code(&w, &["-vvv"]));
    let by_browser = login(&w, BROWSER, &["-vvv"]);
    let account = run(anonymous(&mut w.arcssh(&["account", "-vvv"])).env("RUST_LOG", "trace"));
    for Run { code, stderr, .. } in [&by_code, &by_browser, &account] {
        assert_eq!(*code, Some(0), "{stderr}");
        for secret in w.emulator().secrets() {
            assert!(!stderr.contains(&secret), "a log contains the secret {secret}:\n{stderr}");
        }
    }
    let folder = w.home().join(".local/state/arcssh");
    let files: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|file| file.path()).collect();
    assert!(files.iter().any(|file| file.to_string_lossy().contains("account-")), "{files:?}");
    for file in files {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn a_response_that_is_not_from_entra_id_is_reported() {
    let w = lab(&["web01"]);
    w.emulator().entra_fault(EntraFault::raw(200, "text/html", "<html>sign in to the hotel</html>"));
    let failed = finish(by_device_code(&w, &[]));
    let expected = [
        "arcssh: a proxy or captive portal responded instead of Entra ID (200)",
        &format!(
            "arcssh: hint: allow {} in the firewall and the proxy; check --cloud, and AZURE_AUTHORITY_HOST if you set it",
            w.address("AZURE_AUTHORITY_HOST")
        ),
    ];
    assert_eq!((failed.code, &failed.arcssh_lines()[1..]), (Some(6), &expected[..]));
}

/// The fate of a device code.
type Ending = fn(&Lab, &str);

fn lab_with_device_codes() -> Lab {
    lab_with(&["web01"], |builder| builder.device_interval(Duration::from_secs(1)).approve_devices())
}

/// Removes the service principal.
fn anonymous(command: &mut Command) -> &mut Command {
    ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"]
        .iter()
        .fold(command, |command, name| command.env_remove(name))
}

/// `arcssh login` with a script as browser.
fn login(w: &Lab, browser: &str, arguments: &[&str]) -> Run {
    script(&w.home().join("bin"), "browser", &format!("#!/bin/sh\n{browser}\n"));
    let mut login = w.arcssh(&["login"]);
    run(anonymous(&mut login).args(arguments).env("BROWSER", w.home().join("bin/browser")))
}

fn by_device_code(w: &Lab, arguments: &[&str]) -> Child {
    let mut login = w.arcssh(&["login", "--device-code"]);
    anonymous(&mut login).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    login.spawn().unwrap()
}

/// The refresh tokens in requests to Entra ID, in order.
pub(crate) fn redeemed(w: &Lab) -> Vec<String> {
    let requests = w.emulator().requests_to(Service::Entra).into_iter();
    let field = |body: &str| {
        let mut form = form_urlencoded::parse(body.as_bytes()).into_owned();
        form.find(|(name, _)| name == "refresh_token").map(|(_, value)| value)
    };
    requests.filter_map(|request| field(&request.body)).collect()
}

/// Deletes the cached tokens, but not the sign-in.
fn delete_tokens(w: &Lab) {
    for file in fs::read_dir(w.home().join(".local/state/arcssh")).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("token-") {
            fs::remove_file(file.path()).unwrap();
        }
    }
}
