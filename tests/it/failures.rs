//! The exact errors of a failed connection, and the retries before them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use arcssh_emulator::{ArmCall, ArmFault, EntraFault, RelayFault, Role, SUBSCRIPTION, Service};

use crate::support::{Lab, Limited, closed_port, ended, lab, lab_with, run, run_arcssh, signal};

const SERVICE_PRINCIPAL: &str = "arcssh: hint: check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or unset them and run: arcssh login";
const AGENT: &str = "arcssh: hint: check that the machine is on and its Arc agent is connected: on the machine, run azcmagent show";
const TRY_LATER: &str =
    "arcssh: hint: retry in a minute; for outages, see the status page of your Azure cloud";
const NETWORK: &str = "arcssh: hint: check the network of this computer; if it requires a proxy, run: export HTTPS_PROXY=http://PROXY:PORT";
const CREDENTIALS: &str = "arcssh: hint: check the clock of this computer, and connect again";
const ACCOUNT: &str = "arcssh: hint: check account and tenant: arcssh account; to use another tenant, add --tenant TENANT, or run: arcssh login --tenant TENANT";
const MACHINES: &str = "arcssh: hint: list the machines and their IDs: arcssh list -o json; to remove the host entry of a deleted machine, run: arcssh config --remove NAME";

// Credentials.

#[test]
fn an_incomplete_service_principal_names_the_missing_variable() {
    let w = lab(&["web01"]);
    for missing in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"] {
        let why =
            format!("arcssh: cannot connect to web01: AZURE_CLIENT_SECRET is set, but {missing} is not");
        run(w.proxy("web01").env_remove(missing)).failed(3, &[&why, SERVICE_PRINCIPAL]);
    }
    assert!(w.emulator().requests().iter().all(|request| request.service == Service::Relay));
}

#[test]
fn a_wrong_secret_shows_the_error_of_entra_id() {
    let w = lab(&["web01"]);
    let run = run(w.proxy("web01").env("AZURE_CLIENT_SECRET", "wrong"));
    run.failed(3, &["arcssh: cannot connect to web01: Entra ID rejected the service principal (application c11e4700-0000-4000-8000-000000000001): AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app 'c11e4700-0000-4000-8000-000000000001'. Trace ID: … Correlation ID: … Timestamp: …", SERVICE_PRINCIPAL]);
    assert_eq!(w.emulator().requests_to(Service::Entra).len(), 1, "a wrong secret is not retried");
}

#[test]
fn a_wrong_tenant_shows_the_error_of_entra_id() {
    let w = lab(&["web01"]);
    let run = run(w.proxy("web01").env("AZURE_TENANT_ID", "00000000-0000-4000-8000-000000000000"));
    let hint = "arcssh: hint: check the tenant in --tenant, and AZURE_TENANT_ID if you set it; to see the tenant of your account, run: arcssh account";
    run.failed(3, &["arcssh: cannot connect to web01: Entra ID rejected the service principal (application c11e4700-0000-4000-8000-000000000001): AADSTS90002: Tenant '00000000-0000-4000-8000-000000000000' not found. Check to make sure you have the correct tenant ID. Trace ID: … Correlation ID: … Timestamp: …", hint]);
}

#[test]
fn transient_errors_of_entra_id_are_retried() {
    let w = lab(&["web01"]);
    w.emulator().entra_fault(EntraFault::raw(503, "text/html", "<html>busy</html>").times(2));
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    assert_eq!(w.emulator().requests_to(Service::Entra).len(), 3);
}

#[test]
fn token_responses_without_a_token_are_classified() {
    let w = lab(&["web01"]);
    let proxy = &*format!(
        "arcssh: hint: allow {} in the firewall and the proxy; check --cloud, and AZURE_AUTHORITY_HOST if you set it",
        w.address("AZURE_AUTHORITY_HOST")
    );
    let limited = "{\"error\":\"temporarily_unavailable\"}";
    let broken = "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000222: The keys are expired.\\r\\nkeys\"}";
    let cases = [
        (
            3,
            401,
            broken,
            "Entra ID rejected the service principal (application c11e4700-0000-4000-8000-000000000001): AADSTS7000222: The keys are expired. keys",
            "arcssh: hint: create a new client secret of the application, and set AZURE_CLIENT_SECRET to its value",
        ),
        (6, 302, "", "a proxy or captive portal responded instead of Entra ID (302)", proxy),
        (
            6,
            200,
            "<html>sign in to the hotel</html>",
            "a proxy or captive portal responded instead of Entra ID (200)",
            proxy,
        ),
        (
            6,
            403,
            "<html>blocked</html>",
            "a proxy or captive portal responded instead of Entra ID (403)",
            proxy,
        ),
        (1, 501, limited, "Entra ID failed (501)", TRY_LATER),
    ];
    for (status, answer, body, why, hint) in cases {
        w.emulator().entra_fault(EntraFault::raw(answer, "text/html", body));
        run(&mut w.proxy("web01")).failed(status, &[&cannot_connect(why), hint]);
    }
    assert!(w.emulator().requests_to(Service::Arm).is_empty());
}

// Azure Resource Manager.

#[test]
fn errors_of_arm_get_a_hint() {
    let w = lab(&["web01"]);
    let setup = format!("arcssh: hint: enable it: arcssh setup rg-arc/web01 --port {}", w.sshd().port());
    let endpoint = "The resource 'Microsoft.HybridCompute/machines/web01/providers/Microsoft.HybridConnectivity/endpoints/default' could not be found.";
    let allow_arm = format!(
        "arcssh: hint: allow {} in the firewall and the proxy; check --cloud, and ARCSSH_ARM_ENDPOINT if you set it",
        w.address("ARCSSH_ARM_ENDPOINT")
    );
    let cases: [(i32, ArmFault, &str, &str); 10] = [
        (
            3,
            ArmFault::new(401, "InvalidAuthenticationToken", "The access token is invalid."),
            "Azure rejected the access token of the service principal (application c11e4700-0000-4000-8000-000000000001) (InvalidAuthenticationToken: The access token is invalid.)",
            SERVICE_PRINCIPAL,
        ),
        (
            3,
            ArmFault::new(
                401,
                "InvalidAuthenticationTokenTenant",
                "The access token is from the wrong issuer.",
            ),
            "Azure rejected the access token of the service principal (application c11e4700-0000-4000-8000-000000000001) (InvalidAuthenticationTokenTenant: The access token is from the wrong issuer.)",
            SERVICE_PRINCIPAL,
        ),
        (
            5,
            ArmFault::new(404, "ResourceNotFound", endpoint),
            "the machine has no connectivity endpoint (404 ResourceNotFound)",
            &setup,
        ),
        (
            5,
            ArmFault::raw(412, "text/plain", ""),
            "SSH is not enabled on the machine (412 Precondition Failed)",
            &setup,
        ),
        (
            5,
            ArmFault::new(404, "SubscriptionNotFound", "The subscription 's' could not be found."),
            "the subscription does not exist, or the service principal (application c11e4700-0000-4000-8000-000000000001) has no access to it (SubscriptionNotFound: The subscription 's' could not be found.)",
            ACCOUNT,
        ),
        (
            5,
            ArmFault::new(404, "NoRegisteredProviderFound", "No registered resource provider found."),
            "Microsoft.HybridConnectivity is not registered in the subscription, or does not serve the machine's region (NoRegisteredProviderFound: No registered resource provider found.)",
            &setup,
        ),
        (
            5,
            ArmFault::new(409, "NoRegisteredProviderFound", "No registered resource provider found."),
            "Microsoft.HybridConnectivity is not registered in the subscription, or does not serve the machine's region (NoRegisteredProviderFound: No registered resource provider found.)",
            &setup,
        ),
        (
            5,
            ArmFault::new(409, "MissingSubscriptionRegistration", "The subscription is not registered."),
            "Microsoft.HybridConnectivity is not registered in the subscription (MissingSubscriptionRegistration)",
            &setup,
        ),
        (
            1,
            ArmFault::new(429, "TooManyRequests", "Slow down.").header("Retry-After", "300"),
            "Azure Resource Manager throttles requests (429)",
            "arcssh: hint: retry in 300 s",
        ),
        (
            1,
            ArmFault::raw(200, "application/json", "{\"relay\":{\"namespaceName\":1}}"),
            "cannot use the response of Azure Resource Manager: it contains no relay credentials",
            &allow_arm,
        ),
    ];
    for (number, (status, fault, why, hint)) in cases.into_iter().enumerate() {
        w.emulator().arm_fault(fault);
        let mut proxy = w.proxy("web01");
        // After a 401, arcssh would try a cached token again.
        proxy.env("ARCSSH_STATE_DIR", w.home().join(format!("state-{number}")));
        run(&mut proxy).failed(status, &[&cannot_connect(why), hint]);
        assert_eq!(w.emulator().requests_to(Service::Arm).len(), number + 1, "retried: {why}");
        w.clear_cache();
    }
    assert_eq!(writes(&w), 0);
}

#[test]
fn a_response_cannot_control_the_terminal_or_forge_a_hint() {
    let w = lab(&["web01"]);
    let message = "gone\u{1b}[2J\u{1b}]0;title\u{7}\narcssh: hint: curl evil";
    w.emulator().arm_fault(ArmFault::new(404, "SubscriptionNotFound", message));
    let why = cannot_connect(
        "the subscription does not exist, or the service principal (application c11e4700-0000-4000-8000-000000000001) has no access to it (SubscriptionNotFound: gone [2J ]0;title  arcssh: hint: curl evil)",
    );
    run(&mut w.proxy("web01")).failed(5, &[&why, ACCOUNT]);
    w.emulator().arm_fault(ArmFault::new(404, "SubscriptionNotFound", &"x".repeat(100_000)));
    assert!(run(&mut w.proxy("web01")).stderr.len() < 2000);
}

#[test]
fn a_missing_role_is_named_with_account_and_scope() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    let hint = format!(
        "arcssh: hint: ask an owner of the machine to run: az role assignment create --role 'Virtual Machine Local User Login' --assignee 0b1ec700-0000-4000-8000-000000000001 --scope {}",
        w.id()
    );
    let why = cannot_connect(
        "the service principal (application c11e4700-0000-4000-8000-000000000001) has no permission to connect to the machine (403 AuthorizationFailed)",
    );
    run(&mut w.proxy("web01")).failed(4, &[&why, &hint]);
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), 1);
}

#[test]
fn a_machine_without_setup_is_reported_and_not_changed() {
    let w = lab(&["web01"]);
    let setup = format!("arcssh: hint: enable it: arcssh setup rg-arc/web01 --port {}", w.sshd().port());
    w.emulator().machine("web01").remove_service_configuration();
    let why = cannot_connect("SSH is not enabled on the machine (412 Precondition Failed)");
    run(&mut w.proxy("web01")).failed(5, &[&why, &setup]);
    w.emulator().machine("web01").remove_endpoint();
    let why = cannot_connect("the machine has no connectivity endpoint (404 ResourceNotFound)");
    run(&mut w.proxy("web01")).failed(5, &[&why, &setup]);
    assert_eq!(writes(&w), 0);
}

#[test]
fn an_unknown_id_names_the_missing_part() {
    let w = lab(&["web01"]);
    let connect = |from: &str, to: &str| {
        let id = w.id().replace(from, to);
        run(&mut w.arcssh(&["proxy", &id]))
    };
    connect("machines/web01", "machines/web99").failed(5, &["arcssh: cannot connect to web99: the machine does not exist (ResourceNotFound: The Resource 'Microsoft.HybridCompute/machines/web99' under resource group 'rg-arc' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix)", MACHINES]);
    // The ssh configuration has another machine with this name.
    let cannot_connect = |name: &str, cause: &str| format!("arcssh: cannot connect to {name}: {cause}");
    connect("rg-arc", "rg-none").failed(5, &[&cannot_connect("rg-none/web01", "the machine does not exist (ResourceGroupNotFound: Resource group 'rg-none' could not be found.)"), MACHINES]);
    let other = "00000000-0000-4000-8000-000000000001";
    connect(SUBSCRIPTION, other).failed(5, &[&cannot_connect(&format!("web01.rg-arc.{other}"), &format!("the subscription does not exist, or the service principal (application c11e4700-0000-4000-8000-000000000001) has no access to it (SubscriptionNotFound: The subscription '{other}' could not be found.)")), ACCOUNT]);
}

#[test]
fn a_short_retry_after_is_honoured() {
    let w = lab(&["web01"]);
    w.emulator()
        .arm_fault(ArmFault::new(429, "TooManyRequests", "Slow down.").header("Retry-After", "2").times(1));
    let start = Instant::now();
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), 2);
}

#[test]
fn persistent_errors_of_arm_are_reported_after_retries() {
    let cases = [
        (
            ArmFault::new(500, "InternalServerError", "Something broke."),
            "500 InternalServerError Something broke.",
        ),
        (ArmFault::raw(502, "text/html", "<html><h1>Bad Gateway</h1></html>"), "502"),
        (
            ArmFault::new(503, "ServerTimeout", "The request timed out."),
            "503 ServerTimeout The request timed out.",
        ),
    ];
    for (fault, answer) in cases {
        let w = lab(&["web01"]);
        w.emulator().arm_fault(fault.times(100));
        let failed = run(&mut w.proxy("web01"));
        let why = failed.arcssh_lines().into_iter().rev().nth(1).unwrap_or_default().to_owned();
        assert!(
            why.starts_with(&cannot_connect(&format!("Azure Resource Manager failed ({answer}"))),
            "{}",
            failed.stderr
        );
        assert!(!failed.stderr.contains("<h1>"));
        assert_eq!(failed.stderr.lines().last(), Some(TRY_LATER));
        assert_eq!((failed.code, failed.stdout.as_slice()), (Some(1), b"".as_slice()));
        assert_eq!(w.emulator().requests_to(Service::Arm).len(), 4);
    }
}

#[test]
fn transient_errors_of_arm_are_retried() {
    let w = lab(&["web01"]);
    w.emulator().arm_fault(ArmFault::raw(503, "text/html", "<html>busy</html>").times(2));
    let run = w.ssh_run(&["web01", "echo reached"]);
    assert_eq!((run.code, run.stdout.as_slice()), (Some(0), b"reached\n".as_slice()), "{}", run.stderr);
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), 3);
}

// The relay.

#[test]
fn arcssh_waits_for_a_late_listener_and_reports_it() {
    let w = lab_with(&["web01"], |builder| {
        builder.endpoint_delay(Duration::from_millis(900)).listener_delay(Duration::from_secs(2))
    });
    let run = run(&mut w.ssh_by(&format!("arcssh proxy {} --port %p -v", w.id()), "echo reached"));
    assert_eq!((run.code, run.stdout.as_slice()), (Some(0), b"reached\n".as_slice()), "{}", run.stderr);
    let phases = ["404 Endpoint does not exist, ", "404 There are no listeners connected for the endpoint, "];
    for (phase, pause) in phases.into_iter().zip([1, 2]) {
        let retry = format!("; retrying in {pause} s");
        assert!(run.stderr.lines().any(|l| l.contains(phase) && l.ends_with(&retry)), "{}", run.stderr);
    }
    assert!(run.waiting_lines().is_empty(), "{}", run.stderr);
    assert_eq!(
        w.emulator().requests_to(Service::Arm).len(),
        2,
        "the credentials and the status of the machine"
    );
}

#[test]
fn no_listener_fails_at_once_without_wait() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").set_online(false);
    w.emulator().machine("web01").set_status("Connected");
    let run = run(w.proxy("web01").args(["--wait", "0"]));
    run.failed(7, &[&cannot_connect("the machine's Arc agent is not connected to the relay (the relay responded 404 There are no listeners connected for the endpoint, TrackingId …)"), AGENT]);
}

/// With fresh and with cached credentials, and whether arcssh waits or not.
#[test]
fn the_status_of_a_disconnected_machine_is_shown_before_the_wait_and_in_the_error() {
    let w = lab(&["web01"]);
    let connected = run(w.proxy("web01").stdin(Stdio::null()));
    assert_eq!(connected.code, Some(0), "{}", connected.stderr);
    let reads = || {
        let requests = w.emulator().requests_to(Service::Arm).into_iter();
        requests.filter(|request| request.path_and_query.contains("/machines/web01?")).count()
    };
    assert_eq!(reads(), 0, "a connection that works does not read the machine");
    w.emulator().machine("web01").set_online(false);
    for (wait, waits) in [("3", Some("arcssh waits 3 s at most")), ("0", None)] {
        let before = reads();
        let failed = run(w.proxy("web01").args(["--wait", wait]));
        let lines = failed.arcssh_lines();
        let [before_error @ .., error, hint] = &lines[..] else { panic!("{}", failed.stderr) };
        let (_, status) = error.split_once("; Azure reports the machine as ").unwrap();
        assert!(status.starts_with("Disconnected since ") && status.ends_with(" UTC"), "{error}");
        let shown = waits.map(|waits| format!("arcssh: Azure reports web01 as {status}; {waits}"));
        assert_eq!(before_error, shown.iter().collect::<Vec<_>>(), "{}", failed.stderr);
        assert!(
            error.starts_with(&cannot_connect("the machine's Arc agent is not connected to the relay ("))
        );
        assert_eq!((failed.code, *hint), (Some(7), AGENT));
        assert_eq!(reads(), before + 1, "{wait}");
    }
    w.emulator().machine("web01").set_status("Expired");
    let expired = run(w.proxy("web01").args(["--wait", "0"]));
    assert_eq!(expired.code, Some(7), "{}", expired.stderr);
    assert!(expired.stderr.contains("; Azure reports the machine as Expired since "), "{}", expired.stderr);
    assert!(expired.stderr.contains("hint: reconnect the machine: "), "{}", expired.stderr);
}

/// ssh sends SIGHUP when its `ConnectTimeout` has expired.
#[test]
fn an_interrupted_wait_for_a_disconnected_machine_is_stored_with_the_status() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").set_online(false);
    let mut proxy = w.proxy("web01").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(Limited(proxy.stderr.take().unwrap())).lines();
    assert!(
        lines.any(|line| line.unwrap().starts_with("arcssh: Azure reports web01 as Disconnected since "))
    );
    signal(proxy.id(), "HUP");
    assert_eq!(ended(&mut proxy).code(), Some(129));
    let last = run(&mut w.arcssh(&["last"])).clean();
    assert!(last.contains("; Azure reports the machine as Disconnected since "), "{last}");
}

/// The account may not read the machine, or Azure Resource Manager does not respond.
#[test]
fn a_machine_whose_status_is_not_readable_fails_as_before() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").set_online(false);
    run(w.proxy("web01").args(["--wait", "0"]));
    w.emulator().arm_fault(ArmFault::new(403, "AuthorizationFailed", "no").on(ArmCall::Machine));
    let failed = run(w.proxy("web01").args(["--wait", "0"]));
    assert!(
        failed.stderr.contains("arcssh: cannot connect to web01: ")
            && !failed.stderr.contains("Azure reports"),
        "{}",
        failed.stderr
    );
    assert_eq!(failed.code, Some(7), "{}", failed.stderr);
}

#[test]
fn no_listener_fails_after_the_wait() {
    let w = lab_with(&["web01"], |builder| builder.endpoint_delay(Duration::from_secs(3600)));
    let start = Instant::now();
    let run = run(w.proxy("web01").args(["--wait", "3"]));
    assert!((3..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let answer = "the relay responded 404 Endpoint does not exist, TrackingId …";
    run.failed(
        7,
        &[
            &cannot_connect(&format!("the machine's Arc agent is not connected to the relay ({answer})")),
            AGENT,
        ],
    );
}

#[test]
fn a_closed_port_fails_at_once() {
    let w = lab(&["web01"]);
    let port = closed_port();
    w.emulator().machine("web01").set_ssh_port(port);
    let run = run(&mut w.ssh_by(&format!("arcssh proxy {} --port {port}", w.id()), "true"));
    let why = format!(
        "arcssh: cannot connect to web01: no service listens on port {port} of the machine (connection to localhost:{port} failed: dial tcp 127.0.0.1:{port}: connect: connection refused)"
    );
    let hint = "arcssh: hint: start sshd on the machine, or name its port with --port";
    assert_eq!(run.arcssh_lines(), [why.as_str(), hint]);
    assert_eq!(run.code, Some(255));
    assert_eq!(notifications(&w), 1, "not retried");
}

#[test]
fn a_404_without_a_known_code_is_shown() {
    let w = lab(&["web01"]);
    let doctor = "arcssh: hint: check which one is missing: arcssh doctor rg-arc/web01";
    let why = "the machine or its connectivity endpoint does not exist";
    let cases = [
        ("", "404 request "),
        ("<html>not here</html>", "404 request "),
        (r#"{"code":"NotFound","message":"Nothing."}"#, "NotFound: Nothing."),
        (r#"{"error":{"code":404,"message":null}}"#, "404: "),
        ("\u{feff}{\"error\":{\"code\":\"NotFound\",\"message\":\"Nothing.\"}}", "NotFound: Nothing."),
    ];
    for (body, answer) in cases {
        run(w.arcssh(&["cache", "clear"]).stdout(std::process::Stdio::null())).clean();
        w.emulator().arm_fault(ArmFault::raw(404, "application/json", body));
        let run = run(&mut w.proxy("web01"));
        let [line, hint] = run.arcssh_lines()[..] else { panic!("{}", run.stderr) };
        assert!(line.starts_with(&cannot_connect(&format!("{why} ({answer}"))), "{line}");
        assert_eq!((run.code, hint), (Some(5), doctor));
    }
}

/// Windows reports it in the machine's language.
#[test]
fn a_closed_port_in_another_language_fails_at_once() {
    let w = lab(&["web01"]);
    let reason = "connection to localhost:22 failed: dial tcp [::1]:22: connectex: Zielcomputer verweigerte, für Sie – geprüft";
    w.emulator().relay_fault(RelayFault::refuse(503, reason).always());
    let why = cannot_connect(&format!("no service listens on port 22 of the machine ({reason})"));
    let hint = "arcssh: hint: start sshd on the machine, or name its port with --port";
    run(&mut w.proxy_to(22)).failed(7, &[&why, hint]);
    assert_eq!(connection_attempts(&w), 1, "not retried");
}

#[test]
fn transient_errors_of_the_relay_are_retried() {
    for (status, reason) in [
        (500, "Internal error"),
        (503, "Service unavailable"),
        (504, "Gateway timeout"),
        (408, "Timeout"),
        (429, "Too many requests"),
    ] {
        let w = lab(&["web01"]);
        w.emulator().relay_fault(RelayFault::refuse(status, reason));
        assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
        assert_eq!(w.emulator().requests_to(Service::Arm).len(), 1);
    }
}

#[test]
fn errors_of_the_relay_get_a_hint() {
    let w = lab(&["web01"]);
    let port = w.sshd().port();
    let websocket = &format!(
        "arcssh: hint: allow WebSocket connections to {} in the proxy, without TLS inspection",
        w.emulator().relay_authority()
    );
    let check_port = format!(
        "arcssh: hint: check that SSH is enabled on port {port}: arcssh setup rg-arc/web01 --dry-run"
    );
    let cases: [(i32, u16, &str, &str, &str); 10] = [
        (1, 403, "Forbidden.", "the relay or the machine's Arc agent rejected the connection", &check_port),
        (1, 429, "Later.", "the relay throttles requests", "arcssh: hint: retry in a minute"),
        (
            6,
            400,
            "This endpoint is only for web-socket requests.",
            "a proxy removed the WebSocket upgrade from the request",
            websocket,
        ),
        (6, 302, "Found.", "a proxy responded instead of the relay", websocket),
        (6, 407, "Proxy.", "a proxy responded instead of the relay", websocket),
        (1, 418, "Not today.", "the relay or the machine's Arc agent rejected the connection", &check_port),
        (1, 500, "Internal error.", "the relay failed", TRY_LATER),
        (1, 503, "Busy.", "the relay failed", TRY_LATER),
        (7, 504, "Gateway timeout.", "the machine's Arc agent did not respond in time", AGENT),
        (7, 408, "Timeout.", "the machine's Arc agent did not respond in time", AGENT),
    ];
    for (status, answer, reason, why, hint) in cases {
        w.emulator().relay_fault(RelayFault::refuse(answer, reason));
        let why = cannot_connect(&format!(
            "{why} (the relay responded {answer} {}, TrackingId …)",
            reason.trim_end_matches('.')
        ));
        run(w.proxy("web01").args(["--wait", "0"])).failed(status, &[&why, hint]);
    }
}

#[test]
fn rejected_relay_credentials_are_requested_once_more() {
    let w = lab(&["web01"]);
    w.emulator().relay_fault(RelayFault::expired_token());
    assert_eq!(w.ssh_run(&["web01", "echo reached"]).clean(), "reached\n");
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), 2);
}

#[test]
fn relay_credentials_that_are_rejected_twice_are_an_error() {
    let w = lab(&["web01"]);
    w.emulator().relay_fault(RelayFault::expired_token().always());
    let why = cannot_connect(
        "the relay rejected the credentials that Azure Resource Manager issued (the relay responded 401 ExpiredToken: The token is expired, TrackingId …)",
    );
    run(&mut w.proxy("web01")).failed(4, &[&why, CREDENTIALS]);
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), 2);
    assert_eq!(connection_attempts(&w), 2);
}

#[test]
fn an_unreachable_relay_is_reported_with_its_address() {
    let w = lab(&["web01"]);
    let port = closed_port();
    let credentials = serde_json::json!({ "relay": {
        "namespaceName": "127", "namespaceNameSuffix": format!("0.0.1:{port}"), "hybridConnectionName": "a/b",
        "accessKey": "SharedAccessSignature sr=x&sig=y&se=1&skn=z", "expiresOn": 1,
    }});
    w.emulator().arm_fault(ArmFault::raw(200, "application/json", &credentials.to_string()));
    let run = run(&mut w.proxy("web01"));
    let why = cannot_connect(&format!(
        "cannot reach 127.0.0.1:{port}: tcp connect error: Connection refused (os error 111)"
    ));
    run.failed(6, &[&why, NETWORK]);
}

#[test]
fn an_unresolvable_arm_endpoint_is_reported() {
    let w = lab(&["web01"]);
    let run = run(w.proxy("web01").env("ARCSSH_ARM_ENDPOINT", "https://arm.invalid"));
    let lines = run.arcssh_lines();
    let [.., why, hint] = lines[..] else { panic!("{}", run.stderr) };
    let start = cannot_connect("cannot reach arm.invalid: failed to lookup address information: ");
    assert!(why.starts_with(&start), "{why}");
    assert_eq!(hint, NETWORK);
    assert_eq!((run.code, run.stdout.as_slice()), (Some(6), b"".as_slice()));
}

// Command line.

#[test]
fn an_invalid_command_line_exits_with_2() {
    let vm = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm";
    let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/web01";
    let cases: [(&[&str], &str); 7] = [
        (
            &["proxy", "web01"],
            "error: invalid value 'web01' for '[RESOURCE-ID]': the resource ID of an Arc machine has the form /subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.HybridCompute/machines/NAME",
        ),
        (
            &["proxy", vm],
            "error: invalid value '/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm' for '[RESOURCE-ID]': the resource ID names an Azure virtual machine; arcssh connects to Arc machines (Microsoft.HybridCompute/machines)",
        ),
        (
            &["proxy", id, "--port", "0"],
            "error: invalid value '0' for '--port <PORT>': 0 is not in 1..=65535",
        ),
        (
            &["proxy", id, "--port", "ssh"],
            "error: invalid value 'ssh' for '--port <PORT>': not a whole number",
        ),
        (&["proxy", id, "--frobnicate"], "error: unexpected argument '--frobnicate' found"),
        (&["proxy", id, "--cloud", "nowhere"], "error: invalid value 'nowhere' for '--cloud <CLOUD>'"),
        (&["frobnicate"], "error: unrecognized subcommand 'frobnicate'"),
    ];
    for (words, first_line) in cases {
        let run = run_arcssh(words);
        assert_eq!(run.stderr.lines().next(), Some(first_line));
        assert_eq!((run.code, run.stdout.as_slice()), (Some(2), b"".as_slice()), "{words:?}");
    }
}

#[test]
fn empty_and_invalid_variables_are_ignored() {
    let w = lab(&["web01"]);
    let mut ssh = w.ssh_by(&format!("arcssh proxy {} --port %p", w.id()), "echo reached");
    let run = run(ssh.env("ARCSSH_CLOUD", "").env("RUST_LOG", "arcssh=loud"));
    assert_eq!((run.code, run.stdout.as_slice()), (Some(0), b"reached\n".as_slice()), "{}", run.stderr);
    assert_eq!(
        run.arcssh_lines(),
        ["arcssh: ignoring RUST_LOG=arcssh=loud: it is not a list of TARGET=LEVEL"]
    );
}

#[test]
fn proxy_without_a_machine_gets_a_hint() {
    let run = run_arcssh(&["proxy"]);
    run.failed(
        2,
        &[
            "arcssh: no machine was given",
            "arcssh: hint: to see how to name a machine, run: arcssh proxy --help",
        ],
    );
}

#[test]
fn an_http_endpoint_is_rejected_before_any_request() {
    let w = lab(&["web01"]);
    let run = run(w.proxy("web01").env("ARCSSH_ARM_ENDPOINT", "http://127.0.0.1:1"));
    run.failed(1, &[&cannot_connect("ARCSSH_ARM_ENDPOINT=http://127.0.0.1:1 is not an https:// URL")]);
    assert!(w.emulator().requests_to(Service::Entra).is_empty());
}

fn cannot_connect(why: &str) -> String {
    format!("arcssh: cannot connect to web01: {why}")
}

/// Requests to ARM that change a resource. listCredentials is a POST.
fn writes(w: &Lab) -> usize {
    let reads = ["GET", "POST"];
    w.emulator()
        .requests_to(Service::Arm)
        .iter()
        .filter(|request| !reads.contains(&request.method.as_str()))
        .count()
}

/// Connection attempts at the relay.
fn connection_attempts(w: &Lab) -> usize {
    w.emulator()
        .requests_to(Service::Relay)
        .iter()
        .filter(|request| request.path_and_query.contains("sb-hc-action=connect"))
        .count()
}

/// Notifications to the agent.
fn notifications(w: &Lab) -> usize {
    w.emulator().requests_to(Service::Agent).len()
}
