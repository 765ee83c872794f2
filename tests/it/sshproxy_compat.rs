//! Compatibility with Microsoft's sshProxy: its arguments, its environment variable, and the files that az writes for
//! it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use arcssh_emulator::Service;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::secrets::{Trap, fails_as_untrusted};
use crate::support::{ARCSSH, Lab, Run, closed_port, eventually, lab, run};

/// Less than the limit for work after a connection. Here is no such work.
const SOON: Duration = Duration::from_secs(8);

const AGAIN: &str = "arcssh: hint: run az ssh config again; to connect without relay information, give arcssh proxy the machine's resource ID";

#[test]
fn a_file_of_relay_information_opens_a_session() {
    let w = lab(&["web01"]);
    let text = w.relay_info();
    let wrapped = text.as_bytes().chunks(76).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\r\n");
    for (form, text) in [
        ("unchanged", text.clone()),
        ("with a line end", format!("{text}\n")),
        ("wrapped", format!(" {wrapped}\n\n")),
    ] {
        fs::write(w.home().join("relay_info"), text).unwrap();
        for call in
            ["arcssh -r relay_info -p %p", "arcssh proxy -r relay_info -p %p", "arcssh -p %p -r relay_info"]
        {
            let run = run(without_azure(&mut w.ssh_by(call, "echo reached")));
            assert_eq!((run.stderr.as_str(), run.stdout.as_slice()), ("", b"reached\n".as_slice()), "{form}");
            assert!(eventually(SOON, || w.survivors().is_empty()), "{form}");
        }
    }
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), 1, "only the test's own request");
}

#[test]
fn the_environment_variable_opens_a_session() {
    let w = lab(&["web01"]);
    let info = w.relay_info();
    for call in ["arcssh -p %p", "arcssh proxy -p %p"] {
        let mut ssh = w.ssh_by(call, "echo reached");
        assert_eq!(run(without_azure(&mut ssh).env("SSHPROXY_RELAY_INFO", &info)).clean(), "reached\n");
    }
}

#[test]
fn the_default_port_is_22() {
    let w = lab(&["web01"]);
    w.emulator().machine("web01").set_ssh_port(22);
    let info = w.relay_info();
    fs::write(w.home().join("relay_info"), &info).unwrap();
    run(&mut w.arcssh(&["-r", "relay_info"]));
    run(w.arcssh(&["proxy"]).env("SSHPROXY_RELAY_INFO", &info));
    run(w.arcssh(&[]).env("SSHPROXY_RELAY_INFO", &info));
    let requests = w.emulator().requests_to(Service::Agent);
    let ports: Vec<_> = requests.iter().map(|r| r.header("Microsoft-Guestgateway-Target")).collect();
    assert_eq!(ports, [Some("localhost:22"); 3]);
}

#[test]
fn a_machine_precedes_the_environment_variable() {
    let w = lab(&["web01"]);
    let mut ssh = w.ssh();
    ssh.args(["web01", "echo reached"]).env("SSHPROXY_RELAY_INFO", "not relay information");
    assert_eq!(run(&mut ssh).clean(), "reached\n");
    assert_eq!(w.emulator().requests_to(Service::Arm).len(), 1);
}

#[test]
fn an_expiry_as_text_is_accepted() {
    let w = lab(&["web01"]);
    write_relay_info(&w, |relay| relay["expiresOn"] = relay["expiresOn"].to_string().into());
    let run = run(&mut w.ssh_by("arcssh -r relay_info -p %p", "echo reached"));
    assert_eq!(run.clean(), "reached\n");
}

#[test]
fn relay_information_without_a_service_token_is_rejected_by_the_agent() {
    let w = lab(&["web01"]);
    write_relay_info(&w, |relay| drop(relay.as_object_mut().unwrap().remove("serviceConfigurationToken")));
    let port = w.sshd().port().to_string();
    let run = run(&mut w.arcssh(&["-r", "relay_info", "-p", &port]));
    assert_eq!((run.code, run.stdout.as_slice()), (Some(1), b"".as_slice()));
    assert!(run.stderr.contains("the service configuration token is not valid"), "{}", run.stderr);
    let [accept] = &w.emulator().requests_to(Service::Agent)[..] else { panic!("{}", run.stderr) };
    assert_eq!(accept.header("Service-Configuration-Token"), None);
}

#[test]
fn expired_relay_information_gets_a_hint() {
    let w = lab(&["web01"]);
    write_relay_info(&w, |relay| {
        let key = relay["accessKey"].as_str().unwrap().to_owned();
        let parts = key.split('&').map(|part| match part.split_once('=') {
            Some(("se", _)) => "se=1600000000".to_owned(),
            _ => part.to_owned(),
        });
        relay["accessKey"] = parts.collect::<Vec<_>>().join("&").into();
    });
    let run = run(&mut w.arcssh(&["-r", "relay_info", "-p", "22"]));
    let [why, hint] = run.arcssh_lines()[..] else { panic!("{}", run.stderr) };
    let start = "arcssh: cannot connect to the machine: the relay information has expired or is damaged (the relay responded 401 ";
    assert!(why.starts_with(start), "{why}");
    assert_eq!(hint, AGAIN);
    assert_eq!((run.code, run.stdout.as_slice()), (Some(4), b"".as_slice()));
}

#[test]
fn invalid_relay_information_is_reported_with_its_source() {
    let w = lab(&["web01"]);
    let cannot = "arcssh: cannot connect to the machine:";
    let file = |content: &str| -> Run {
        fs::write(w.home().join("relay_info"), content).unwrap();
        run(&mut w.arcssh(&["-r", "relay_info"]))
    };
    file("no base64 at all!")
        .failed(1, &[&format!("{cannot} relay_info contains no relay information: it is not base64")]);
    file(" \n").failed(1, &[&format!("{cannot} relay_info contains no relay information: it is empty")]);
    let no_credentials =
        format!("{cannot} relay_info contains no relay information: it contains no relay credentials");
    file(&STANDARD.encode("{}")).failed(1, &[&no_credentials]);
    run(&mut w.arcssh(&["-r", "nowhere"]))
        .failed(1, &[&format!("{cannot} cannot read nowhere: No such file or directory (os error 2)")]);
    run(w.arcssh(&["-p", "22"]).env("SSHPROXY_RELAY_INFO", "%%%")).failed(
        1,
        &[&format!("{cannot} SSHPROXY_RELAY_INFO contains no relay information: it is not base64")],
    );
}

#[test]
fn relay_information_for_an_untrusted_host_is_rejected() {
    let w = lab(&["web01"]);
    let trap = Trap::new();
    let hosts = trap.hosts();
    for (name, suffix) in &hosts {
        write_relay_info(&w, |relay| {
            relay["namespaceName"] = name.as_str().into();
            relay["namespaceNameSuffix"] = suffix.as_str().into();
        });
        let info = fs::read_to_string(w.home().join("relay_info")).unwrap();
        let (mut by_file, mut by_variable) = (w.arcssh(&["-r", "relay_info"]), w.arcssh(&["-p", "22"]));
        by_variable.env("SSHPROXY_RELAY_INFO", info);
        for command in [&mut by_file, &mut by_variable] {
            let run = run(command.env_remove("ARCSSH_RELAY_SUFFIX"));
            fails_as_untrusted(&run, "the machine", name, suffix);
        }
    }
    assert_eq!(trap.connections(), 0);
    assert_eq!(w.dialled(), [""; 0]);
}

#[test]
fn relay_information_of_any_cloud_is_accepted_without_cloud_option() {
    let w = lab(&["web01"]);
    for (cloud, suffix) in [
        ("public", "servicebus.windows.net"),
        ("china", "servicebus.chinacloudapi.cn"),
        ("usgov", "servicebus.usgovcloudapi.net"),
    ] {
        write_relay_info(&w, |relay| {
            relay["namespaceName"] = "azgnrelay-test".into();
            relay["namespaceNameSuffix"] = suffix.into();
        });
        let (host, proxy) =
            (format!("azgnrelay-test.{suffix}"), format!("http://127.0.0.1:{}", closed_port()));
        for words in [&["-r", "relay_info"][..], &["-r", "relay_info", "--cloud", cloud]] {
            // The proxy shows that arcssh accepts the host, and keeps the test off the network.
            let mut arcssh = w.arcssh(&[&["proxy"], words].concat());
            let run = run(arcssh.env_remove("ARCSSH_RELAY_SUFFIX").env("HTTPS_PROXY", &proxy));
            assert!(run.stderr.contains("the proxy 127.0.0.1:"), "{host}: {}", run.stderr);
        }
        let other = if cloud == "china" { "usgov" } else { "china" };
        let run = run(w.arcssh(&["proxy", "-r", "relay_info", "--cloud", other]).env("HTTPS_PROXY", &proxy));
        fails_as_untrusted(&run, "the machine", "azgnrelay-test", suffix);
    }
}

#[test]
fn a_host_entry_of_az_ssh_config_works_with_arcssh_as_program() {
    let w = lab(&["web01"]);
    let (home, port) = (w.home().display(), w.sshd().port());
    let user = run(w.command("id").arg("-un")).clean().trim().to_owned();
    fs::write(w.home().join("rg-arc-web01-relay_info"), w.relay_info()).unwrap();
    let block = format!(
        "\nHost rg-arc-web01-{user}\n\tHostName web01\n\tUser {user}\n\tIdentityFile \"{}\"\n\tProxyCommand \"{ARCSSH}\" -r \"{home}/rg-arc-web01-relay_info\" -p {port}",
        w.sshd().client_key().display()
    );
    fs::write(w.home().join("az_ssh_config"), block).unwrap();
    let mut ssh = w.command("ssh");
    ssh.args(["-F", "az_ssh_config", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=.ssh/known_hosts"]);
    ssh.args([&format!("rg-arc-web01-{user}"), "echo reached"]);
    assert_eq!(run(without_azure(&mut ssh)).clean(), "reached\n");
}

#[test]
fn a_command_line_of_az_ssh_arc_works_with_arcssh_as_program() {
    let w = lab(&["web01"]);
    let user = run(w.command("id").arg("-un")).clean().trim().to_owned();
    let mut ssh = w.command("ssh");
    ssh.args(["web01", "-l", &user, "-o"]);
    ssh.arg(format!("ProxyCommand=\"{ARCSSH}\" -p {}", w.sshd().port())).arg("-i").arg(w.sshd().client_key());
    ssh.args([
        "-F",
        "none",
        "-o",
        "UserKnownHostsFile=.ssh/known_hosts",
        "-o",
        "BatchMode=yes",
        "echo reached",
    ]);
    let run = run(without_azure(&mut ssh).env("SSHPROXY_RELAY_INFO", w.relay_info()));
    assert_eq!(run.clean(), "reached\n");
}

/// Writes relay information: a response of ARM with a change.
fn write_relay_info(w: &Lab, change: impl Fn(&mut Value)) {
    let json = STANDARD.decode(w.relay_info().trim()).unwrap();
    let mut relay = serde_json::from_slice::<Value>(&json).unwrap()["relay"].take();
    change(&mut relay);
    let text = STANDARD.encode(json!({ "relay": relay }).to_string());
    fs::write(w.home().join("relay_info"), text).unwrap();
}

/// Removes the credentials and the endpoint of ARM: relay information suffices.
fn without_azure(command: &mut Command) -> &mut Command {
    let variables = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "ARCSSH_ARM_ENDPOINT"];
    variables.iter().fold(command, |command, name| command.env_remove(name))
}
