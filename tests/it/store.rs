//! What is kept between connections: one process asks for all, nobody waits twice, and nothing that happens to the
//! files keeps anybody from connecting.

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
    ARCSSH, LIMIT, Lab, eventually, finish, lab, lab_with, namespaces, on_a_terminal, run, script, service,
    signal,
};

pub(crate) const GREETING: &str = "SSH-2.0-here\r\n";

/// A service in sshd's place that greets and closes.
pub(crate) fn greeter() -> u16 {
    service(|mut connection| {
        let _ = connection.write_all(GREETING.as_bytes());
        let _ = connection.shutdown(Shutdown::Write);
        let _ = connection.read_to_end(&mut Vec::new());
    })
}

/// An input that stays open and silent, as ssh's does until it has been greeted.
static SILENCE: LazyLock<(PipeReader, PipeWriter)> = LazyLock::new(|| pipe().unwrap());

/// A proxy that is on its way.
pub(crate) fn start(mut proxy: Command) -> Child {
    let input = SILENCE.0.try_clone().unwrap();
    proxy.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Asserts that each of them connected.
#[track_caller]
fn all_greeted(proxies: Vec<Child>) {
    for proxy in proxies {
        assert_eq!(finish(proxy).clean(), GREETING);
    }
}

/// How often tokens and relay credentials were asked for.
pub(crate) fn asked(w: &Lab) -> (usize, usize) {
    let emulator = w.emulator();
    let minted = emulator.requests_to(Service::Arm);
    let minted = minted.iter().filter(|request| request.path_and_query.contains("/listCredentials?"));
    (emulator.requests_to(Service::Entra).len(), minted.count())
}

/// The files of the store that hold values.
fn files(w: &Lab) -> Vec<PathBuf> {
    let files = fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

/// Makes what the store holds of relay credentials look as if it had been minted that many seconds earlier.
fn age(w: &Lab, seconds: u64) {
    for file in files(w) {
        let mut envelope: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        for minted in envelope["value"]["minted"].as_array_mut().into_iter().flatten() {
            for time in ["at", "until"] {
                minted[time] = (minted[time].as_u64().unwrap() - seconds).into();
            }
        }
        fs::write(&file, envelope.to_string()).unwrap();
    }
}

// One asks for all.

#[test]
fn two_hundred_cold_starts_ask_once() {
    let w = lab(&["web01"]);
    let port = greeter();
    let proxies = (0..200).map(|_| start(w.proxy_to(port))).collect();
    all_greeted(proxies);
    assert_eq!(asked(&w), (1, 1));
}

#[test]
fn three_connections_to_each_of_a_hundred_machines_ask_for_one_token_and_once_a_machine() {
    let port = greeter();
    let names: Vec<String> = (0..100).map(|number| format!("m{number:03}")).collect();
    let w = lab_with(&[], |builder| {
        names.iter().fold(builder, |builder, name| builder.machine(Machine::new(name).ssh_port(port)))
    });
    let ids: Vec<String> = names.iter().map(|name| w.emulator().machine(name).resource_id()).collect();
    let port = port.to_string();
    let proxies = (0..300).map(|number| start(w.arcssh(&["proxy", &ids[number % 100], "--port", &port])));
    all_greeted(proxies.collect());
    assert_eq!(asked(&w), (1, 100));
}

#[test]
fn a_warm_connection_asks_nobody_but_the_relay() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    let before = w.emulator().requests().len();
    all_greeted(vec![start(w.proxy_to(port))]);
    let requests = w.emulator().requests().split_off(before);
    let to_azure =
        requests.iter().filter(|request| [Service::Arm, Service::Entra].contains(&request.service));
    assert_eq!((to_azure.count(), asked(&w)), (0, (1, 1)));
}

/// Each of these keeps a connection from coming about that builds it: an HTTP client, for ARM or for Entra ID, by a proxy
/// of no use for the latter; whatever a token or a sign-in is read from, by its mode. A program on PATH tells that it
/// was asked.
#[test]
fn a_warm_connection_builds_neither_a_client_nor_a_token() {
    let w = lab(&["web01"]);
    let port = greeter();
    let asked = w.home().join("asked");
    for program in ["az", "azd", "pwsh"] {
        script(&w.home().join("bin"), program, &format!("#!/bin/sh\n: > {}\nexit 1\n", asked.display()));
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
    assert_eq!((without_client().code, without_token().code, asked.exists()), (Some(6), Some(3), true));
    all_greeted(vec![start(w.proxy_to(port))]);
    fs::remove_file(&asked).unwrap();
    open(0o644);
    assert_eq!((without_client().clean(), without_token().clean()), (GREETING.into(), GREETING.into()));
    all_greeted(vec![start(w.proxy_to(port))]);
    assert!(!asked.exists());
    let relay = files(&w).into_iter().find(|file| file.to_string_lossy().contains("/relay-"));
    fs::remove_file(relay.unwrap()).unwrap();
    assert_eq!(finish(start(w.proxy_to(port))).code, Some(1), "what is kept of a token was not too open");
}

#[test]
fn the_death_of_the_one_that_asks_passes_the_work_on() {
    let faults: [fn(&Lab); 3] = [
        |w| w.emulator().entra_fault(EntraFault::new(503, "x", 90033, "busy").after(LIMIT)),
        |w| w.emulator().arm_fault(ArmFault::new(503, "x", "busy").on(ArmCall::ListCredentials).after(LIMIT)),
        // It dies when it has kept what it was given, before its connection stands.
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
        first.wait().unwrap();
        all_greeted(proxies);
    }
}

#[test]
fn a_refusal_is_asked_for_once_in_a_while() {
    let w = lab_with(&["web01"], |builder| builder.role(Role::None));
    let proxies: Vec<Child> = (0..20).map(|_| start(w.proxy("web01"))).collect();
    for proxy in proxies {
        let run = finish(proxy);
        assert!(run.code == Some(4) && run.stderr.contains("403 AuthorizationFailed"), "{run:?}");
    }
    assert_eq!(asked(&w), (1, 1));
    w.emulator().set_role(Role::Owner);
    w.clear_cache();
    all_greeted(vec![start(w.proxy_to(greeter()))]);
}

#[test]
fn the_refusal_of_one_identity_is_not_told_to_another() {
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
    assert_eq!(asked(&w), (2, 2));
}

#[test]
fn what_azure_says_of_its_limits_holds_for_all_processes() {
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
    // Those that ask in the moment between the answer and its being noted cannot know of it.
    let noted = || files(&w).iter().filter(|file| file.to_string_lossy().contains("/throttle-")).count();
    assert!(eventually(LIMIT, || w.state_directory().is_dir() && noted() == 2));
    proxies.extend(names[1..].iter().map(proxy));
    all_greeted(proxies);
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
    assert_eq!(asked(&w), (2, 51));
}

#[test]
fn credentials_end_by_the_clock_of_the_server() {
    for offset in [-7200, 7200] {
        let w = lab_with(&["web01"], |builder| {
            builder.clock_offset(offset).credential_lifetime(Duration::from_secs(3600))
        });
        let port = greeter();
        all_greeted(vec![start(w.proxy_to(port))]);
        age(&w, 2000);
        all_greeted(vec![start(w.proxy_to(port))]);
        assert_eq!(asked(&w).1, 1, "kept for their whole life: {offset}");
        age(&w, 1600);
        all_greeted(vec![start(w.proxy_to(port))]);
        assert_eq!(asked(&w).1, 2, "and no longer: {offset}");
    }
}

// Nobody waits twice.

#[test]
fn credentials_near_their_end_are_used_and_have_a_successor_made() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    age(&w, 8000);
    for _ in 0..3 {
        all_greeted(vec![start(w.proxy_to(port))]);
        assert!(eventually(LIMIT, || w.survivors().is_empty()));
    }
    assert_eq!(asked(&w), (1, 2));
    let names: Vec<String> = w.dialled();
    assert!(
        names.iter().all(|name| name == &names[0]),
        "the successor is not used before its agent has had time"
    );
    // 30 s later it is.
    age(&w, 30);
    all_greeted(vec![start(w.proxy_to(port))]);
    assert_ne!(w.dialled().last(), names.last());
    assert_eq!(asked(&w), (1, 2));
}

#[test]
fn nobody_waits_for_a_successor_that_is_still_being_made() {
    let w = lab(&["web01"]);
    w.ssh_run(&["web01", "true"]).clean();
    age(&w, 8000);
    let slow = ArmFault::new(503, "x", "busy").on(ArmCall::ListCredentials).after(LIMIT);
    w.emulator().arm_fault(slow);
    // This waits for the end of ssh and of its standard error, which the proxy has had too.
    assert_eq!(w.ssh_run(&["web01", "echo done"]).clean(), "done\n");
    let pending = w.emulator().requests_to(Service::Arm).pop();
    assert_eq!(pending.map(|request| request.status), Some(None));
}

#[test]
fn a_successor_that_the_agent_has_not_heard_of_falls_back_to_what_works() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    age(&w, 8000);
    all_greeted(vec![start(w.proxy_to(port))]);
    assert!(eventually(LIMIT, || asked(&w) == (1, 2) && w.survivors().is_empty()));
    age(&w, 30);
    w.emulator().relay_fault(RelayFault::refuse(404, "Endpoint does not exist."));
    let run = finish(start(w.proxy_to(port)));
    assert_eq!(run.clean(), GREETING);
    let names = w.dialled();
    assert!(names[names.len() - 2] != names[0] && names[names.len() - 1] == names[0], "{names:?}");
}

#[test]
fn kept_credentials_that_the_relay_refuses_are_replaced_once() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    w.emulator().relay_fault(RelayFault::expired_token());
    all_greeted(vec![start(w.proxy_to(port))]);
    assert_eq!(asked(&w), (1, 2));
}

#[test]
fn a_fault_on_the_way_is_waited_out_with_kept_credentials_as_with_new_ones() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    age(&w, 200);
    // One more than the tries of 8 seconds.
    w.emulator().relay_fault(RelayFault::refuse(503, "The service is unavailable.").times(6));
    all_greeted(vec![start(w.proxy_to(port))]);
    assert_eq!(asked(&w), (1, 1));
}

#[test]
fn a_kept_name_that_nobody_listens_to_any_more_is_replaced_once() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    age(&w, 200);
    // The tries of 8 seconds.
    w.emulator()
        .relay_fault(RelayFault::refuse(404, "There are no listeners connected for the endpoint.").times(5));
    all_greeted(vec![start(w.proxy_to(port))]);
    assert_eq!(asked(&w), (1, 2));
}

/// A lab in which web01's credentials have a successor that its agent has had time to hear of.
fn world_with_a_successor(port: u16) -> Lab {
    let w = lab(&["web01"]);
    all_greeted(vec![start(w.proxy_to(port))]);
    age(&w, 8000);
    all_greeted(vec![start(w.proxy_to(port))]);
    assert!(eventually(LIMIT, || asked(&w) == (1, 2) && w.survivors().is_empty()));
    age(&w, 200);
    w
}

#[test]
fn kept_credentials_and_their_successor_that_are_both_of_no_use_are_replaced_once() {
    let port = greeter();
    for fault in [
        RelayFault::expired_token().times(2),
        // One try of the successor, and those of 8 seconds.
        RelayFault::refuse(404, "Endpoint does not exist.").times(6),
    ] {
        let w = world_with_a_successor(port);
        w.emulator().relay_fault(fault);
        all_greeted(vec![start(w.proxy_to(port))]);
        assert_eq!(asked(&w), (1, 3));
        all_greeted(vec![start(w.proxy_to(port))]);
        let names = w.dialled();
        assert_eq!((asked(&w), names.last()), ((1, 3), names.iter().nth_back(1)));
    }
}

#[test]
fn a_successor_of_no_use_is_replaced_while_what_came_before_it_works() {
    let port = greeter();
    for fault in [RelayFault::expired_token(), RelayFault::refuse(404, "Endpoint does not exist.")] {
        let w = world_with_a_successor(port);
        w.emulator().relay_fault(fault);
        all_greeted(vec![start(w.proxy_to(port))]);
        assert!(eventually(LIMIT, || w.survivors().is_empty()));
        let names = w.dialled();
        let [.., dead, works] = &names[..] else { panic!("{names:?}") };
        assert!(asked(&w) == (1, 3) && works == &names[0] && dead != works, "{:?} {names:?}", asked(&w));
        all_greeted(vec![start(w.proxy_to(port))]);
        assert_eq!((asked(&w), w.dialled().last()), ((1, 3), Some(works)));
    }
}

#[test]
fn a_passing_fault_of_a_successor_falls_back_to_what_works() {
    let port = greeter();
    let w = world_with_a_successor(port);
    w.emulator().relay_fault(RelayFault::refuse(503, "Service Unavailable"));
    all_greeted(vec![start(w.proxy_to(port))]);
    assert_eq!(asked(&w), (1, 2));
}

#[test]
fn a_name_is_looked_up_once_and_again_when_its_machine_is_gone() {
    let port = greeter();
    let w = lab_with(&[], |builder| builder.machine(Machine::new("web01").ssh_port(port)));
    let port = port.to_string();
    let by_name = || start(w.arcssh(&["proxy", "--host", "web01.arc", "--suffix", ".arc", "--port", &port]));
    all_greeted((0..20).map(|_| by_name()).collect());
    let graph = || {
        let requests = w.emulator().requests_to(Service::Arm);
        requests.iter().filter(|request| request.path_and_query.contains("/Microsoft.ResourceGraph/")).count()
    };
    all_greeted(vec![by_name()]);
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
    all_greeted(vec![by_name()]);
    assert_eq!(graph(), 2);
}

// Whatever happens to the files.

#[test]
fn files_of_another_form_are_replaced_without_a_word_and_damaged_ones_with_one() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    let before = files(&w).len();
    files(&w).iter().for_each(|file| fs::write(file, r#"{"version":2,"value":{}}"#).unwrap());
    all_greeted(vec![start(w.proxy_to(port))]);
    files(&w).iter().for_each(|file| fs::write(file, "\0not json").unwrap());
    let run = finish(start(w.proxy_to(port)));
    assert_eq!(run.stdout, GREETING.as_bytes());
    let lines = run.arcssh_lines();
    assert!(
        lines.len() == before && lines.iter().all(|line| line.ends_with("is damaged, and is left out")),
        "{lines:?}"
    );
    all_greeted(vec![start(w.proxy_to(port))]);
}

#[test]
fn a_store_that_others_can_read_is_refused_with_the_command_that_closes_it() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    let folder = w.state_directory();
    let relay = files(&w).into_iter().find(|file| file.to_string_lossy().contains("/relay-")).unwrap();
    for (path, open, closed) in [(&folder, 0o755, 0o700), (&relay, 0o644, 0o600)] {
        fs::set_permissions(path, fs::Permissions::from_mode(open)).unwrap();
        let why = format!(
            "arcssh: cannot connect to web01: {} is open to other users (mode {open:04o})",
            path.display()
        );
        let hint = format!("arcssh: hint: chmod {closed:o} {}", path.display());
        finish(start(w.proxy_to(port))).failed(1, &[&why, &hint]);
        fs::set_permissions(path, fs::Permissions::from_mode(closed)).unwrap();
        all_greeted(vec![start(w.proxy_to(port))]);
    }
}

#[test]
fn clearing_under_connections_harms_none() {
    let w = lab(&["web01"]);
    let port = greeter();
    let mut proxies = Vec::new();
    for _ in 0..20 {
        proxies.extend((0..3).map(|_| start(w.proxy_to(port))));
        run(&mut w.arcssh(&["cache", "clear"])).clean();
    }
    all_greeted(proxies);
}

#[test]
fn nothing_to_keep_anything_in_is_no_reason_not_to_connect() {
    let w = lab(&["web01"]);
    let port = greeter();
    for folder in ["/proc/arcssh", "/dev/null/arcssh"] {
        let mut proxy = w.proxy_to(port);
        proxy.env("ARCSSH_STATE_DIR", folder);
        all_greeted(vec![start(proxy)]);
    }
    assert_eq!(asked(&w), (2, 2));
}

#[test]
fn a_limit_on_the_size_of_files_is_no_reason_not_to_connect() {
    let w = lab(&["web01"]);
    let proxy = format!("ulimit -f 0; exec {ARCSSH} proxy {} --port {}", w.id(), greeter());
    w.emulator().machine("web01").set_ssh_port(proxy.rsplit(' ').next().unwrap().parse().unwrap());
    assert_eq!(run(w.command("bash").args(["-c", &proxy])).clean(), GREETING);
}

/// In a namespace of its own: a file system that is full, and one that is read-only.
#[test]
fn a_full_disk_and_a_read_only_one_are_no_reason_not_to_connect() {
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
fn what_is_no_file_counts_as_absent_and_is_not_waited_for() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    for file in fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path()) {
        fs::remove_file(&file).unwrap();
        run(w.command("mkfifo").args(["-m", "600"]).arg(&file)).clean();
    }
    all_greeted(vec![start(w.proxy_to(port))]);
    run(&mut w.arcssh(&["cache", "show"])).clean();
}

/// All below a directory: names with what files hold and links lead to.
fn all_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries
        .flat_map(|path| match path.symlink_metadata().unwrap() {
            found if found.is_symlink() => {
                let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                vec![(path, target)]
            }
            found if found.is_dir() => [vec![(path.clone(), Vec::new())], all_below(&path)].concat(),
            _ => vec![(path.clone(), fs::read(&path).unwrap())],
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_state_directory_in_the_users_own_leaves_what_is_theirs() {
    let w = lab(&["web01"]);
    let mine = w.home().join("mine");
    fs::create_dir_all(mine.join(".key-backups")).unwrap();
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o755)).unwrap();
    let like_ours = "relay-0123456789abcdef0123456789abcdef.json";
    for name in
        ["package.json", "new-report.txt", "new-report", "token-foo.json", like_ours, ".key-backups/key"]
    {
        fs::write(mine.join(name), r#"{"version":"1.0.0"}"#).unwrap();
    }
    symlink("package.json", mine.join("token-0123456789abcdef0123456789abcdef.json")).unwrap();
    let old = SystemTime::now() - Duration::from_secs(31 * 24 * 3600);
    for (path, _) in all_below(&mine) {
        fs::File::open(path).unwrap().set_modified(old).unwrap();
    }
    let before = all_below(&mine);
    for command in ["list", "cache show", "cache clear", "logout"] {
        let words: Vec<&str> = command.split(' ').collect();
        let run = run(w.arcssh(&words).env("ARCSSH_STATE_DIR", &mine));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let state = mine.join("arcssh-state");
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o7777, 0o700);
        let after: Vec<_> =
            all_below(&mine).into_iter().filter(|(path, _)| !path.starts_with(&state)).collect();
        assert_eq!(after, before, "{command}");
    }
    assert_eq!(fs::metadata(&mine).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn what_an_earlier_version_kept_in_a_named_directory_still_serves() {
    let w = lab(&["web01"]);
    let port = greeter();
    all_greeted(vec![start(w.proxy_to(port))]);
    let named = w.home().join("named");
    fs::rename(w.state_directory(), &named).unwrap();
    let mut proxy = w.proxy_to(port);
    proxy.env("ARCSSH_STATE_DIR", &named);
    all_greeted(vec![start(proxy)]);
    assert_eq!(asked(&w), (1, 1));
}

// arcssh cache and arcssh warm.

#[test]
fn what_is_kept_is_shown_without_its_secrets_and_cleared() {
    let w = lab(&["web01"]);
    all_greeted(vec![start(w.proxy_to(greeter()))]);
    let shown = run(&mut w.arcssh(&["cache", "show"])).clean();
    assert!(shown.starts_with(&format!("{}\n", w.state_directory().display())), "{shown}");
    assert!(
        shown.contains("relay ") && shown.contains("/machines/web01 SSH ") && shown.contains(" left"),
        "{shown}"
    );
    for secret in w.emulator().secrets() {
        assert!(!shown.contains(&secret));
    }
    assert_eq!(run(&mut w.arcssh(&["cache", "clear"])).clean(), "2 entries cleared\n");
    assert!(files(&w).is_empty());
}

#[test]
fn warm_makes_every_machine_ready_and_names_those_that_are_not() {
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
        (Some(1), "2 of 3 machines are ready to connect to\n")
    );
    let lines = output.arcssh_lines();
    assert!(
        lines[0].starts_with("arcssh: cannot connect to off: its agent does not listen (")
            && lines.len() == 2,
        "{lines:?}"
    );
    assert_eq!(asked(&w), (1, 3));
    let id = w.emulator().machine("one").resource_id();
    all_greeted(vec![start(w.arcssh(&["proxy", &id, "--port", &port]))]);
    assert_eq!(asked(&w), (1, 3));
}

#[test]
fn warm_draws_a_bar_on_a_terminal_only() {
    let port = greeter();
    let w = lab_with(&[], |builder| builder.machine(Machine::new("one").ssh_port(port)));
    let command = format!("{ARCSSH} warm one --port {port}");
    let (_, drawn) = on_a_terminal(w.command("script"), &command);
    assert!(drawn.contains(" of 1 machines, "), "{drawn:?}");
    let plain = run(&mut w.arcssh(&["warm", "one", "--port", &port.to_string()]));
    assert_eq!(plain.clean(), "1 of 1 machines are ready to connect to\n");
    let none = run(&mut w.arcssh(&["warm"]));
    none.failed(
        2,
        &["arcssh: no machine is named", "arcssh: hint: arcssh warm --help shows how to name one"],
    );
}
