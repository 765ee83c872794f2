//! Python's SSH libraries, and libssh through Python, with the entries of `arcssh config --wildcard`.

use std::path::PathBuf;
use std::process::Command;

use super::ansible::succeed;
use super::{Configuration, installed};
use crate::support::{lab, run};

/// Prints the output of a command on the host that each library connects to with the ssh configuration.
const SCRIPT: &str = r#"
import asyncio, sys
library, configuration, host = sys.argv[1:]
if library == "paramiko":
    import paramiko
    values = paramiko.SSHConfig.from_path(configuration).lookup(host)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(values["hostname"], int(values["port"]), values["user"], sock=paramiko.ProxyCommand(values["proxycommand"]),
        key_filename=values["identityfile"], allow_agent=False, look_for_keys=False)
    print(client.exec_command("echo reached")[1].read().decode(), end="")
elif library == "asyncssh":
    import asyncssh
    async def main():
        async with asyncssh.connect(host, config=[configuration], known_hosts=None) as connection:
            print((await connection.run("echo reached")).stdout, end="")
    asyncio.run(main())
else:
    from ssh import options, session
    client = session.Session()
    client.options_set(options.HOST, host)
    client.options_parse_config(configuration)
    client.connect()
    client.userauth_publickey_auto("")
    channel = client.channel_new()
    channel.open_session()
    channel.request_exec("echo reached")
    print(channel.read()[1].decode(), end="")
"#;

#[test]
fn libraries_connect_through_a_wildcard() {
    let w = lab(&["web07"]);
    let hosts = Configuration::generate(&w, &["--wildcard", "*.arc"]);
    for library in ["paramiko", "asyncssh", "libssh"] {
        let mut python = w.command(install().join("bin/python3"));
        python.args(["-c", SCRIPT, library]).arg(&hosts.file).arg("web07.arc");
        let result = run(&mut python);
        assert_eq!(String::from_utf8_lossy(&result.stdout), "reached\n", "{library}: {}", result.stderr);
    }
}

/// Python with its SSH libraries.
pub(super) fn install() -> PathBuf {
    installed("python-ssh-2", |directory| {
        let hint = "this test needs python3 with venv: apt-get install python3-venv";
        succeed(Command::new("python3").args(["-m", "venv"]).arg(directory), hint);
        let packages = ["paramiko==5.1.0", "asyncssh==2.24.1", "fabric==3.2.3", "ssh-python==1.2.0.post1"];
        let mut pip = Command::new(directory.join("bin/python3"));
        succeed(
            pip.args(["-m", "pip", "install", "-q"]).args(packages),
            "pip could not install the libraries",
        );
    })
}
