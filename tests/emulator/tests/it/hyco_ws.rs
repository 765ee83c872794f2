//! Azure's listener library, npm `hyco-ws` from Azure/azure-relay-node, instead of the agent.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use arcssh_emulator::{Emulator, IssuedCredentials, Machine};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{self, TIMEOUT};

/// Listens with a token that the library signs, and echoes messages. The library accepts the senders.
const LISTENER: &str = r#"
const WebSocket = require('hyco-ws');
const { LISTEN_URI, KEY_NAME, KEY } = process.env;
const server = WebSocket.createRelayedServer(
  { server: LISTEN_URI, token: () => WebSocket.createRelayToken(LISTEN_URI, KEY_NAME, KEY) },
  (socket) => {
    socket.on('message', (data) => socket.send(data, { binary: true }));
    socket.on('close', (code) => console.log('closed ' + code));
  });
server.on('listening', () => console.log('listening'));
server.on('error', (event) => console.log('error ' + event.message));
"#;

struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The library lists built-in modules of Node.js as dependencies. Not every mirror has their placeholder packages.
const PACKAGE: &str = r#"{
  "private": true,
  "dependencies": { "hyco-ws": "1.0.5" },
  "overrides": {
    "crypto": "file:./builtin", "events": "file:./builtin", "http": "file:./builtin", "util": "file:./builtin"
  }
}"#;

/// Installs the library once per target directory.
fn install() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hyco-ws-1.0.5");
    if !directory.join("installed").exists() {
        fs::create_dir_all(directory.join("builtin")).unwrap();
        fs::write(directory.join("builtin/package.json"), r#"{"name":"builtin","version":"1.0.0"}"#).unwrap();
        fs::write(directory.join("package.json"), PACKAGE).unwrap();
        let install = ["install", "--no-audit", "--no-fund", "--ignore-scripts"];
        let npm = Command::new("npm").args(install).current_dir(&directory).output();
        let npm = npm.expect("this test needs npm and node: install Node.js");
        assert!(
            npm.status.success(),
            "npm could not install hyco-ws: {}",
            String::from_utf8_lossy(&npm.stderr)
        );
        fs::write(directory.join("installed"), "").unwrap();
    }
    fs::write(directory.join("listener.js"), LISTENER).unwrap();
    directory
}

fn start(emulator: &Emulator, issued: &IssuedCredentials) -> Listener {
    let node = Command::new("node")
        .arg("listener.js")
        .current_dir(install())
        .env("NODE_EXTRA_CA_CERTS", emulator.authority_file())
        .env("LISTEN_URI", issued.listen_uri())
        .env("KEY_NAME", &issued.listener_key_name)
        .env("KEY", &issued.listener_key)
        .stdout(Stdio::piped())
        .spawn();
    Listener(node.expect("this test needs node: install Node.js"))
}

#[test]
fn azures_listener_library_attaches_and_echoes() {
    let emulator = Emulator::builder().machine(Machine::new("web01")).without_agent().start().unwrap();
    let issued = client::issue_credentials(&emulator);
    let mut listener = start(&emulator, &issued);
    let mut lines = BufReader::new(listener.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "listening");
    client::runtime().block_on(async {
        let mut sender = client::connect(&emulator, &issued, 22).await.unwrap();
        for size in [1, 1000, 100_000] {
            let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
            sender.send(Message::binary(data.clone())).await.unwrap();
            let echo = tokio::time::timeout(TIMEOUT, sender.next()).await.unwrap().unwrap().unwrap();
            assert!(echo.into_data() == data, "{size}");
        }
        sender.close(None).await.unwrap();
    });
    assert_eq!(lines.next().unwrap().unwrap(), "closed 1001");
}
