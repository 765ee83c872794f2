//! The cache: one process requests for all, only the first connection waits, and no state of the files prevents a
//! connection.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use arcssh_emulator::{ArmCall, ArmFault, EntraFault, Machine, RelayFault, Role, Service};
use serde_json::Value;

use crate::support::{
    ARCSSH, LIMIT, Lab, ended, eventually, finish, lab, lab_with, namespaces, on_a_terminal, run, script,
    service, signal,
};

pub(crate) const GREETING: &str = "SSH-2.0-here\r\n";

/// A service instead of sshd that sends a greeting and closes.
pub(crate) fn greeter() -> u16 {
    service(|mut connection| {
        let _ = connection.write_all(GREETING.as_bytes());
        let _ = connection.shutdown(Shutdown::Write);
        let _ = connection.read_to_end(&mut Vec::new());
    })
}

/// An input that stays open without data, like ssh's until it has read a greeting.
static SILENCE: LazyLock<(PipeReader, PipeWriter)> = LazyLock::new(|| pipe().unwrap());

/// Starts a proxy.
pub(crate) fn start(mut proxy: Command) -> Child {
    let input = SILENCE.0.try_clone().unwrap();
    proxy.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Asserts that each of them connected.
#[track_caller]
fn assert_connected(proxies: Vec<Child>) {
    for proxy in proxies {
        assert_eq!(finish(proxy).clean(), GREETING);
    }
}

/// Number of requests for tokens, and for relay credentials.
pub(crate) fn request_counts(w: &Lab) -> (usize, usize) {
    let emulator = w.emulator();
    let credentials = emulator.requests_to(Service::Arm);
    let credentials =
        credentials.iter().filter(|request| request.path_and_query.contains("/listCredentials?"));
    (emulator.requests_to(Service::Entra).len(), credentials.count())
}

/// The cached values.
fn files(w: &Lab) -> Vec<PathBuf> {
    let files = fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

/// Makes the cached relay credentials this many seconds older.
fn age_credentials(w: &Lab, seconds: u64) {
    for file in files(w) {
        let mut envelope: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        for credentials in envelope["value"]["minted"].as_array_mut().into_iter().flatten() {
            for time in ["at", "until"] {
                credentials[time] = (credentials[time].as_u64().unwrap() - seconds).into();
            }
        }
        fs::write(&file, envelope.to_string()).unwrap();
    }
}

// One request for all processes.

#[test]
fn two_hundred_cold_starts_send_one_request() {
    let w = lab(&["web01"]);
    let port = greeter();
    let proxies = (0..200).map(|_| start(w.proxy_to(port))).collect();
    assert_connected(proxies);
    assert_eq!(request_counts(&w), (1, 1));
}

#[test]
fn concurrent_connections_to_many_machines_need_one_token() {
    let port = greeter();
    let names: Vec<String> = (0..100).map(|number| format!("m{number:03}")).collect();
    let w = lab_with(&[], |builder| {
        names.iter().fold(builder, |builder, name| builder.machine(Machine::new(name).ssh_port(port)))
    });
    let ids: Vec<String> = names.iter().map(|name| w.emulator().machine(name).resource_id()).collect();
    let port = port.to_string();
    let proxies = (0..300).map(|number| start(w.arcssh(&["proxy", &ids[number % 100], "--port", &port])));
    assert_connected(proxies.collect());
    assert_eq!(request_counts(&w), (1, 100));
}

#[test]
fn a_warm_connection_connects_to_the_relay_once_and_sends_no_request_to_azure() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    let (before, handshakes) = (w.emulator().requests().len(), w.emulator().tls_handshakes().len());
    assert_connected(vec![start(w.proxy_to(port))]);
    let requests = w.emulator().requests().split_off(before);
    // The agent accepts the connection with a second one.
    let handshakes = w.emulator().tls_handshakes().split_off(handshakes);
    let to_relay = requests.iter().filter(|request| request.service == Service::Relay).count();
    assert_eq!((handshakes.len(), to_relay), (2, 2), "{handshakes:?} {requests:?}");
    let to_azure =
        requests.iter().filter(|request| [Service::Arm, Service::Entra].contains(&request.service));
    assert_eq!((to_azure.count(), request_counts(&w)), (0, (1, 1)));
}

/// Each environment fails if arcssh creates what the test excludes. An HTTP client for Entra ID fails by its unusable
/// proxy, a token by its missing source or its file mode. A credential program on PATH leaves a file.
#[test]
fn a_warm_connection_creates_no_http_client_and_no_token() {
    let w = lab(&["web01"]);
    let port = greeter();
    let called = w.home().join("called");
    for program in ["az", "azd", "pwsh"] {
        script(&w.home().join("bin"), program, &format!("#!/bin/sh\n: > {}\nexit 1\n", called.display()));
    }
    let without_client = || {
        let mut proxy = w.proxy_to(port);
        proxy.env("AZURE_AUTHORITY_HOST", "https://login.example/");
        proxy.env("HTTPS_PROXY", "socks5://127.0.0.1:9").env("NO_PROXY", "127.0.0.1");
        finish(start(proxy))
    };
    let without_token = || {
        let mut proxy = w.proxy_to(port);
        proxy.env_remove("AZURE_CLIENT_SECRET").env("PATH", w.home().join("bin"));
        finish(start(proxy))
    };
    let open = |mode| {
        let others = files(&w).into_iter().filter(|file| !file.to_string_lossy().contains("/relay-"));
        others.for_each(|file| fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap());
    };
    assert_eq!((without_client().code, without_token().code, called.exists()), (Some(6), Some(3), true));
    assert_connected(vec![start(w.proxy_to(port))]);
    fs::remove_file(&called).unwrap();
    open(0o644);
    assert_eq!((without_client().clean(), without_token().clean()), (GREETING.into(), GREETING.into()));
    assert_connected(vec![start(w.proxy_to(port))]);
    assert!(!called.exists());
    let relay = files(&w).into_iter().find(|file| file.to_string_lossy().contains("/relay-"));
    fs::remove_file(relay.unwrap()).unwrap();
    assert_eq!(
        finish(start(w.proxy_to(port))).code,
        Some(1),
        "without cached relay credentials, the open token file is an error"
    );
}

#[test]
fn another_process_takes_over_from_a_killed_one() {
    let faults: [fn(&Lab); 3] = [
        |w| w.emulator().entra_fault(EntraFault::new(503, "x", 90033, "busy").after(LIMIT)),
        |w| w.emulator().arm_fault(ArmFault::new(503, "x", "busy").on(ArmCall::ListCredentials).after(LIMIT)),
        // It is killed after it has cached the credentials and before it is connected.
        |w| w.emulator().relay_fault(RelayFault::silent_handshake()),
    ];
    for (fault, stage) in faults.into_iter().zip([Service::Entra, Service::Arm, Service::Relay]) {
        let w = lab(&["web01"]);
        let port = greeter();
        fault(&w);
        let mut first = start(w.proxy_to(port));
        let pending = || w.emulator().requests_to(stage).iter().any(|request| request.status.is_none());
        assert!(eventually(LIMIT, pending), "{stage:?}");
        let proxies: Vec<Child> = (0..10).map(|_| start(w.proxy_to(port))).collect();
        signal(first.id(), "KILL");
        ended(&mut first);
        assert_connected(proxies);
    }
}

#[test]
fn an_error_is_cached_for_a_while() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    let proxies: Vec<Child> = (0..20).map(|_| start(w.proxy("web01"))).collect();
    for proxy in proxies {
        let run = finish(proxy);
        assert!(run.code == Some(4) && run.stderr.contains("403 AuthorizationFailed"), "{run:?}");
    }
    assert_eq!(request_counts(&w), (1, 1));
    w.emulator().set_role(Role::Owner);
    w.clear_cache();
    assert_connected(vec![start(w.proxy_to(greeter()))]);
}

#[test]
fn a_cached_error_belongs_to_one_account() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    let id = w.emulator().client_certificate();
    for identity in ["AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH"] {
        for _ in 0..2 {
            let mut proxy = w.proxy("web01");
            if identity == "AZURE_CLIENT_CERTIFICATE_PATH" {
                proxy.env(identity, &id).env_remove("AZURE_CLIENT_SECRET");
            }
            assert_eq!(finish(start(proxy)).code, Some(4));
        }
    }
    assert_eq!(request_counts(&w), (2, 2));
}

#[test]
fn retry_after_applies_to_all_processes() {
    let port = greeter();
    let names: Vec<String> = (0..50).map(|number| format!("m{number:02}")).collect();
    let w = lab_with(&[], |builder| {
        names.iter().fold(builder, |builder, name| builder.machine(Machine::new(name).ssh_port(port)))
    });
    let proxy = |name: &String| {
        start(w.arcssh(&["proxy", &w.emulator().machine(name).resource_id(), "--port", &port.to_string()]))
    };
    let pause = Duration::from_secs(3);
    w.emulator().throttle_tokens(pause);
    w.emulator().throttle(ArmCall::ListCredentials, pause);
    let mut proxies = vec![proxy(&names[0])];
    // Processes that send a request between the response and its caching cannot know the limit.
    let stored = || files(&w).iter().filter(|file| file.to_string_lossy().contains("/throttle-")).count();
    assert!(eventually(LIMIT, || w.state_directory().is_dir() && stored() == 2));
    proxies.extend(names[1..].iter().map(proxy));
    assert_connected(proxies);
    for service in [Service::Entra, Service::Arm] {
        let requests = w.emulator().requests_to(service);
        let answered: Vec<_> = requests.iter().map(|request| request.status).collect();
        assert_eq!(
            answered.iter().filter(|status| **status == Some(429)).count(),
            1,
            "{service:?}: {answered:?}"
        );
        let early = requests[1..].iter().filter(|request| request.arrived - requests[0].arrived < pause);
        assert_eq!(early.count(), 0, "{service:?}");
    }
    assert_eq!(request_counts(&w), (2, 51));
}

#[test]
fn credentials_expire_by_the_clock_of_the_server() {
    for offset in [-7200, 7200] {
        let w = lab_with(&["web01"], |builder| {
            builder.clock_offset(offset).credential_lifetime(Duration::from_secs(3600))
        });
        let port = greeter();
        assert_connected(vec![start(w.proxy_to(port))]);
        age_credentials(&w, 2000);
        assert_connected(vec![start(w.proxy_to(port))]);
        assert_eq!(request_counts(&w).1, 1, "cached until their expiry: {offset}");
        age_credentials(&w, 1600);
        assert_connected(vec![start(w.proxy_to(port))]);
        assert_eq!(request_counts(&w).1, 2, "not used after their expiry: {offset}");
    }
}

// Renewal.

#[test]
fn credentials_near_their_expiry_are_used_and_renewed() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    age_credentials(&w, 8000);
    for _ in 0..3 {
        assert_connected(vec![start(w.proxy_to(port))]);
        assert!(eventually(LIMIT, || w.survivors().is_empty()));
    }
    assert_eq!(request_counts(&w), (1, 2));
    let names: Vec<String> = w.dialled();
    assert!(names.iter().all(|name| name == &names[0]), "a new successor is not used yet");
    // After 30 s, arcssh uses it.
    age_credentials(&w, 30);
    assert_connected(vec![start(w.proxy_to(port))]);
    assert_ne!(w.dialled().last(), names.last());
    assert_eq!(request_counts(&w), (1, 2));
}

#[test]
fn no_connection_waits_for_a_renewal() {
    let w = lab(&["web01"]);
    w.ssh_run(&["web01", "true"]).clean();
    age_credentials(&w, 8000);
    let slow = ArmFault::new(503, "x", "busy").on(ArmCall::ListCredentials).after(LIMIT);
    w.emulator().arm_fault(slow);
    // Waits for the end of ssh and of its standard error, which the proxy inherits.
    assert_eq!(w.ssh_run(&["web01", "echo done"]).clean(), "done\n");
    let pending = w.emulator().requests_to(Service::Arm).pop();
    assert_eq!(pending.map(|request| request.status), Some(None));
}

#[test]
fn a_successor_unknown_to_the_agent_falls_back_to_the_old_credentials() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    age_credentials(&w, 8000);
    assert_connected(vec![start(w.proxy_to(port))]);
    assert!(eventually(LIMIT, || request_counts(&w) == (1, 2) && w.survivors().is_empty()));
    age_credentials(&w, 30);
    w.emulator().relay_fault(RelayFault::refuse(404, "Endpoint does not exist."));
    let run = finish(start(w.proxy_to(port)));
    assert_eq!(run.clean(), GREETING);
    let names = w.dialled();
    assert!(names[names.len() - 2] != names[0] && names[names.len() - 1] == names[0], "{names:?}");
}

#[test]
fn rejected_cached_credentials_are_replaced_once() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    w.emulator().relay_fault(RelayFault::expired_token());
    assert_connected(vec![start(w.proxy_to(port))]);
    assert_eq!(request_counts(&w), (1, 2));
}

#[test]
fn transient_errors_are_retried_with_cached_credentials() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    age_credentials(&w, 200);
    // One more than the attempts within 8 s.
    w.emulator().relay_fault(RelayFault::refuse(503, "The service is unavailable.").times(6));
    assert_connected(vec![start(w.proxy_to(port))]);
    assert_eq!(request_counts(&w), (1, 1));
}

#[test]
fn cached_credentials_without_a_listener_are_replaced_once() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    age_credentials(&w, 200);
    // The attempts within 8 s.
    w.emulator()
        .relay_fault(RelayFault::refuse(404, "There are no listeners connected for the endpoint.").times(5));
    assert_connected(vec![start(w.proxy_to(port))]);
    assert_eq!(request_counts(&w), (1, 2));
}

/// A lab with cached credentials of web01 and a successor that is old enough for its agent.
fn lab_with_successor(port: u16) -> Lab {
    let w = lab(&["web01"]);
    assert_connected(vec![start(w.proxy_to(port))]);
    age_credentials(&w, 8000);
    assert_connected(vec![start(w.proxy_to(port))]);
    assert!(eventually(LIMIT, || request_counts(&w) == (1, 2) && w.survivors().is_empty()));
    age_credentials(&w, 200);
    w
}

#[test]
fn unusable_credentials_and_successor_are_replaced_once() {
    let port = greeter();
    for fault in [
        RelayFault::expired_token().times(2),
        // One attempt with the successor, and those within 8 s.
        RelayFault::refuse(404, "Endpoint does not exist.").times(6),
    ] {
        let w = lab_with_successor(port);
        w.emulator().relay_fault(fault);
        assert_connected(vec![start(w.proxy_to(port))]);
        assert_eq!(request_counts(&w), (1, 3));
        assert_connected(vec![start(w.proxy_to(port))]);
        let names = w.dialled();
        assert_eq!((request_counts(&w), names.last()), ((1, 3), names.iter().nth_back(1)));
    }
}

#[test]
fn an_unusable_successor_is_replaced_and_the_old_one_used() {
    let port = greeter();
    for fault in [RelayFault::expired_token(), RelayFault::refuse(404, "Endpoint does not exist.")] {
        let w = lab_with_successor(port);
        w.emulator().relay_fault(fault);
        assert_connected(vec![start(w.proxy_to(port))]);
        assert!(eventually(LIMIT, || w.survivors().is_empty()));
        let names = w.dialled();
        let [.., failing, working] = &names[..] else { panic!("{names:?}") };
        assert!(
            request_counts(&w) == (1, 3) && working == &names[0] && failing != working,
            "{:?} {names:?}",
            request_counts(&w)
        );
        assert_connected(vec![start(w.proxy_to(port))]);
        assert_eq!((request_counts(&w), w.dialled().last()), ((1, 3), Some(working)));
    }
}

#[test]
fn a_transient_error_of_a_successor_falls_back_to_the_old_one() {
    let port = greeter();
    let w = lab_with_successor(port);
    w.emulator().relay_fault(RelayFault::refuse(503, "Service Unavailable"));
    assert_connected(vec![start(w.proxy_to(port))]);
    assert_eq!(request_counts(&w), (1, 2));
}

#[test]
fn a_name_is_resolved_once_and_again_after_a_404() {
    let port = greeter();
    let w = lab_with(&[], |builder| builder.machine(Machine::new("web01").ssh_port(port)));
    let port = port.to_string();
    let by_name = || start(w.arcssh(&["proxy", "--host", "web01.arc", "--suffix", ".arc", "--port", &port]));
    assert_connected((0..20).map(|_| by_name()).collect());
    let graph = || {
        let requests = w.emulator().requests_to(Service::Arm);
        requests.iter().filter(|request| request.path_and_query.contains("/Microsoft.ResourceGraph/")).count()
    };
    assert_connected(vec![by_name()]);
    assert_eq!(graph(), 1);
    for file in files(&w) {
        let text = fs::read_to_string(&file).unwrap();
        match text.contains("\"kind\":\"relay\"") {
            true => fs::remove_file(&file).unwrap(),
            false => {
                fs::write(&file, text.replace("/resourceGroups/rg-arc/", "/resourceGroups/rg-old/")).unwrap()
            }
        }
    }
    assert_connected(vec![by_name()]);
    assert_eq!(graph(), 2);
}

// Files.

#[test]
fn other_versions_are_replaced_silently_and_damaged_files_with_a_message() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    let before = files(&w).len();
    files(&w).iter().for_each(|file| fs::write(file, r#"{"version":2,"value":{}}"#).unwrap());
    assert_connected(vec![start(w.proxy_to(port))]);
    files(&w).iter().for_each(|file| fs::write(file, "\0not json").unwrap());
    let run = finish(start(w.proxy_to(port)));
    assert_eq!(run.stdout, GREETING.as_bytes());
    let lines = run.arcssh_lines();
    assert!(
        lines.len() == before
            && lines.iter().all(|line| line.starts_with("arcssh: ignoring the damaged file ")),
        "{lines:?}"
    );
    assert_connected(vec![start(w.proxy_to(port))]);
}

#[test]
fn a_readable_state_directory_is_an_error_with_a_chmod_hint() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    let folder = w.state_directory();
    let relay = files(&w).into_iter().find(|file| file.to_string_lossy().contains("/relay-")).unwrap();
    for (path, open, closed) in [(&folder, 0o755, 0o700), (&relay, 0o644, 0o600)] {
        fs::set_permissions(path, fs::Permissions::from_mode(open)).unwrap();
        let why = format!(
            "arcssh: cannot connect to web01: other users can access {} (mode {open:04o})",
            path.display()
        );
        let hint = format!("arcssh: hint: run: chmod {closed:o} {}", path.display());
        finish(start(w.proxy_to(port))).failed(1, &[&why, &hint]);
        fs::set_permissions(path, fs::Permissions::from_mode(closed)).unwrap();
        assert_connected(vec![start(w.proxy_to(port))]);
    }
}

#[test]
fn clearing_the_cache_breaks_no_connection() {
    let w = lab(&["web01"]);
    let port = greeter();
    let mut proxies = Vec::new();
    for _ in 0..20 {
        proxies.extend((0..3).map(|_| start(w.proxy_to(port))));
        run(&mut w.arcssh(&["cache", "clear"])).clean();
    }
    assert_connected(proxies);
}

#[test]
fn arcssh_connects_without_a_state_directory() {
    let w = lab(&["web01"]);
    let port = greeter();
    for folder in ["/proc/arcssh", "/dev/null/arcssh"] {
        let mut proxy = w.proxy_to(port);
        proxy.env("ARCSSH_STATE_DIR", folder);
        assert_connected(vec![start(proxy)]);
    }
    assert_eq!(request_counts(&w), (2, 2));
}

#[test]
fn arcssh_connects_with_a_limit_on_file_size() {
    let w = lab(&["web01"]);
    let proxy = format!("ulimit -f 0; exec {ARCSSH} proxy {} --port {}", w.id(), greeter());
    w.emulator().machine("web01").set_ssh_port(proxy.rsplit(' ').next().unwrap().parse().unwrap());
    assert_eq!(run(w.command("bash").args(["-c", &proxy])).clean(), GREETING);
}

/// A full and a read-only file system, in a mount namespace.
#[test]
fn arcssh_connects_with_a_full_or_read_only_disk() {
    let Some(own_mounts) = namespaces("m") else { return };
    let w = lab(&["web01"]);
    let port = greeter();
    let proxy = format!("{ARCSSH} proxy {} --port {port} </dev/null && {ARCSSH} cert | grep ^login", w.id());
    w.emulator().machine("web01").set_ssh_port(port);
    for mount in ["size=4k,nr_inodes=3", "ro"] {
        let mut shell = w.command("unshare");
        let script = format!("mount -t tmpfs -o mode=700,{mount} tmpfs $ARCSSH_STATE_DIR && {proxy}");
        let folder = w.home().join("disk");
        fs::create_dir_all(&folder).unwrap();
        shell.args([&own_mounts, "sh", "-c", &script]).env("ARCSSH_STATE_DIR", folder);
        let login_name = "login name        c11e4700-0000-4000-8000-000000000001\n";
        assert_eq!(run(&mut shell).clean(), format!("{GREETING}{login_name}"));
    }
}

#[test]
fn special_files_are_ignored_and_do_not_block() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    for file in fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path()) {
        fs::remove_file(&file).unwrap();
        run(w.command("mkfifo").args(["-m", "600"]).arg(&file)).clean();
    }
    assert_connected(vec![start(w.proxy_to(port))]);
    run(&mut w.arcssh(&["cache", "show"])).clean();
}

/// Everything below a directory: paths with the contents of files and the targets of links.
fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries
        .flat_map(|path| match path.symlink_metadata().unwrap() {
            metadata if metadata.is_symlink() => {
                let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                vec![(path, target)]
            }
            metadata if metadata.is_dir() => [vec![(path.clone(), Vec::new())], tree(&path)].concat(),
            _ => vec![(path.clone(), fs::read(&path).unwrap())],
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_state_directory_with_foreign_files_leaves_them_unchanged() {
    let w = lab(&["web01"]);
    let folder = w.home().join("own");
    fs::create_dir_all(folder.join(".key-backups")).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let like_a_cache_file = "relay-0123456789abcdef0123456789abcdef.json";
    for name in [
        "package.json",
        "new-report.txt",
        "new-report",
        "token-foo.json",
        like_a_cache_file,
        ".key-backups/key",
    ] {
        fs::write(folder.join(name), r#"{"version":"1.0.0"}"#).unwrap();
    }
    symlink("package.json", folder.join("token-0123456789abcdef0123456789abcdef.json")).unwrap();
    let old = SystemTime::now() - Duration::from_secs(31 * 24 * 3600);
    for (path, _) in tree(&folder) {
        fs::File::open(path).unwrap().set_modified(old).unwrap();
    }
    let before = tree(&folder);
    for command in ["list", "cache show", "cache clear", "logout"] {
        let words: Vec<&str> = command.split(' ').collect();
        let run = run(w.arcssh(&words).env("ARCSSH_STATE_DIR", &folder));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let state = folder.join("arcssh-state");
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o7777, 0o700);
        let after: Vec<_> = tree(&folder).into_iter().filter(|(path, _)| !path.starts_with(&state)).collect();
        assert_eq!(after, before, "{command}");
    }
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn a_configured_directory_of_an_earlier_version_is_used() {
    let w = lab(&["web01"]);
    let port = greeter();
    assert_connected(vec![start(w.proxy_to(port))]);
    let named = w.home().join("named");
    fs::rename(w.state_directory(), &named).unwrap();
    let mut proxy = w.proxy_to(port);
    proxy.env("ARCSSH_STATE_DIR", &named);
    assert_connected(vec![start(proxy)]);
    assert_eq!(request_counts(&w), (1, 1));
}

// arcssh cache and arcssh warm.

#[test]
fn the_cache_is_shown_without_secrets_and_cleared() {
    let w = lab(&["web01"]);
    assert_connected(vec![start(w.proxy_to(greeter()))]);
    let shown = run(&mut w.arcssh(&["cache", "show"])).clean();
    assert!(shown.starts_with(&format!("{}\n", w.state_directory().display())), "{shown}");
    let row = |shown: &str, kind: &str| -> Vec<String> {
        let line = shown.lines().find(|line| line.starts_with(&format!("{kind} "))).unwrap();
        line.split("  ").map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
    };
    let is_time = |text: &str| text.len() == "2026-03-01T09:10:07Z".len() && text.ends_with('Z');
    assert_eq!(row(&shown, "KIND"), ["KIND", "FOR", "SERVICE", "EXPIRES", "ID"]);
    let relay = row(&shown, "relay");
    assert!(relay[1] == "rg-arc/web01" && relay[2].starts_with("SSH ") && is_time(&relay[3]), "{shown}");
    assert!(relay[4].eq_ignore_ascii_case(&w.id()), "{shown}");
    let token = row(&shown, "token");
    assert_eq!(token[1], "application c11e4700-0000-4000-8000-000000000001, the service principal");
    assert!(token[2] == "-" && is_time(&token[3]) && token.len() == 4, "{shown}");
    for secret in w.emulator().secrets() {
        assert!(!shown.contains(&secret));
    }
    for limit in [100, 60, 40] {
        let mut terminal = w.command("script");
        terminal.env("NO_COLOR", "1");
        let (_, shown) = on_a_terminal(terminal, &format!("stty cols {limit}; {ARCSSH} cache show"));
        assert_eq!(row(&shown, "KIND")[1], "FOR");
        let relay = row(&shown, "relay");
        assert!(relay[1] == "rg-arc/web01" && relay.last().unwrap() == "in 3 hours", "{shown}");
        let mut table = shown.lines().skip(1).map(str::trim_end);
        assert!(table.all(|line| line.chars().count() <= limit), "{limit}: {shown}");
    }
    let clear = || run(&mut w.arcssh(&["cache", "clear"])).clean();
    assert_eq!(clear(), "2 entries cleared: relay 1, token 1\n");
    assert!(files(&w).is_empty());
    assert_eq!(clear(), "nothing was cached\n");
    assert!(run(&mut w.arcssh(&["cache", "show"])).clean().ends_with("\nnothing is cached\n"));
}

#[test]
fn warm_connects_to_every_machine_and_reports_failures() {
    let port = greeter();
    let w = lab_with(&[], |builder| {
        let machine = |name| Machine::new(name).ssh_port(port).resource_group("rg-web");
        builder
            .machine(machine("one"))
            .machine(machine("two"))
            .machine(machine("off").offline())
            .machine(Machine::new("other").ssh_port(port))
    });
    let port = port.to_string();
    let warm = |wait: &str| run(&mut w.arcssh(&["warm", "-g", "rg-web", "--port", &port, "--wait", wait]));
    let output = warm("0");
    assert_eq!(
        (output.code, String::from_utf8_lossy(&output.stdout).as_ref()),
        (Some(1), "2 of 3 machines are ready\n")
    );
    let lines = output.arcssh_lines();
    let [status, error, _hint] = lines[..] else { panic!("{lines:?}") };
    assert!(
        status.starts_with("arcssh: 1 of 3 machines is not connected to Azure: off (Disconnected since ")
    );
    let off = "arcssh: cannot connect to off: the machine's Arc agent is not connected to the relay (";
    assert!(error.starts_with(off), "{lines:?}");
    assert_eq!(request_counts(&w), (1, 3));
    let id = w.emulator().machine("one").resource_id();
    assert_connected(vec![start(w.arcssh(&["proxy", &id, "--port", &port]))]);
    assert_eq!(request_counts(&w), (1, 3));
}

#[test]
fn warm_shows_how_many_machines_are_done() {
    let port = greeter();
    let w = lab_with(&[], |builder| builder.machine(Machine::new("one").ssh_port(port)));
    let slow = ArmFault::new(500, "InternalServerError", "").on(ArmCall::ListCredentials);
    w.emulator().arm_fault(slow.after(Duration::from_secs(3)));
    let command = format!("stty cols 100 rows 30; {ARCSSH} warm one --port {port}");
    let (_, screen) = on_a_terminal(w.command("script"), &command);
    let line = "arcssh: waiting for 1 of 1 machines: one; 2 s so far";
    assert!(screen.contains(line), "{screen:?}");
    let plain = run(&mut w.arcssh(&["warm", "one", "--port", &port.to_string()]));
    assert_eq!(plain.clean(), "1 of 1 machines are ready\n");
    let failed = run(&mut w.arcssh(&["warm"]));
    failed.failed(
        2,
        &[
            "arcssh: no machine was given",
            "arcssh: hint: to see how to name a machine, run: arcssh warm --help",
        ],
    );
}

#[test]
fn machines_that_fail_for_the_same_cause_share_a_message() {
    let port = greeter();
    let w = lab_with(&[], |builder| {
        let builder = builder.machine(Machine::new("one").ssh_port(port));
        let offline = |number| Machine::new(&format!("off{number}")).ssh_port(port).offline();
        let builder = (0..5).fold(builder, |builder, number| builder.machine(offline(number)));
        builder.machine(Machine::new("unset").ssh_port(port).without_endpoint())
    });
    let port = port.to_string();
    let words = ["warm", "--all", "--port", &port, "--wait", "0"];
    let output = run(&mut w.arcssh(&words));
    let offline = "arcssh: cannot connect to 5 machines: the machine's Arc agent is not connected to the relay (the relay responded 404 There are no listeners connected for the endpoint)";
    let lines = output.arcssh_lines();
    let [status, first, agent, unset, setup] = lines[..] else { panic!("{lines:?}") };
    assert!(
        status.starts_with("arcssh: 5 of 7 machines are not connected to Azure: off0 (Disconnected since ")
    );
    assert!(status.ends_with(") and 2 more"), "{status}");
    assert_eq!(first, format!("{offline}: off0, off1, off2 and 2 more"));
    assert!(agent.starts_with("arcssh: hint: check that the machine is on"), "{lines:?}");
    assert!(unset.starts_with("arcssh: cannot connect to unset: "), "{lines:?}");
    assert!(setup.contains("arcssh setup rg-arc/unset --port "), "{lines:?}");
    let ready = "1 of 7 machines are ready\n";
    assert_eq!((output.code, String::from_utf8_lossy(&output.stdout).as_ref()), (Some(1), ready));
    // Each machine has its own last error.
    assert!(run(&mut w.arcssh(&["last", "off4"])).clean().contains("cannot connect to off4: "));
    // On a terminal, the number of machines is the last line.
    let command = format!("{ARCSSH} {}", words.join(" "));
    let (_, screen) = on_a_terminal(w.command("script"), &command);
    assert!(screen.ends_with(&ready.replace('\n', "\r\n")), "{screen}");
    let verbose = run(w.arcssh(&words).arg("-v"));
    let names = format!("{offline}:\narcssh:   off0, off1, off2, off3, off4\n");
    assert!(verbose.stderr.contains(&names), "{}", verbose.stderr);
}
