//! Ctrl-C, SIGTERM and SIGHUP in each phase of each command: the status, the screen, and what remains.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use arcssh_emulator::{ArmCall, ArmFault};

use crate::support::{ARCSSH, LIMIT, Lab, ended, eventually, finish, lab, script, signal, terminal};

/// A command on a pseudo-terminal.
pub(crate) struct Terminal {
    script: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub(crate) fn open(script: Command, command: &str) -> Self {
        let mut script = terminal(script, command);
        script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().unwrap();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (mut output, screen) = (script.stdout.take().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                screen.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
        Self { script, shown }
    }

    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).replace("\r\n", "\n")
    }

    /// Types Ctrl-C and waits for the end. Returns the status and the screen from then on.
    pub(crate) fn interrupt(self) -> (Option<i32>, String) {
        let before = self.shown().len();
        self.type_keys(b"\x03");
        let (status, screen) = self.wait();
        (status, screen.split_at(before).1.to_owned())
    }

    pub(crate) fn type_keys(&self, keys: &[u8]) {
        self.script.stdin.as_ref().unwrap().write_all(keys).unwrap();
    }

    /// Waits for the end. Returns the status and the screen.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let status = ended(&mut self.script);
        // script(1) has written everything to the pipe, and the thread reads up to its end.
        assert!(eventually(LIMIT, || Arc::strong_count(&self.shown) == 1));
        (status.code(), self.shown())
    }
}

/// A point in the run of a command.
struct Phase {
    name: &'static str,
    arguments: &'static [&'static str],
    prepare: fn(&Lab),
    /// A text on the screen, or a file in the home directory.
    reached: &'static str,
}

/// A program that creates a file and then waits for ever, in a child process.
const HANGING: &str = "#!/bin/sh\n: >\"$HOME/reached\"\ntail -f /dev/null\n";

fn bin(w: &Lab) -> PathBuf {
    w.home().join("bin")
}

/// Replaces a program by one that hangs.
fn hang(w: &Lab, name: &str) {
    script(&bin(w), name, HANGING);
}

/// Replaces ssh by one that hangs in the run with this number.
fn hang_in_run(w: &Lab, number: u32) {
    let text = format!(
        "#!/bin/sh\necho >>\"$HOME/runs\"\nif [ $(wc -l <\"$HOME/runs\") -eq {number} ]; then : >\"$HOME/reached\"; tail -f /dev/null; fi\nPATH=${{PATH#*:}} exec ssh \"$@\"\n"
    );
    script(&bin(w), "ssh", &text);
}

fn slow(w: &Lab, call: ArmCall) {
    let fault = ArmFault::new(500, "InternalServerError", "").on(call).after(Duration::from_secs(600));
    w.emulator().arm_fault(fault);
}

fn offline(w: &Lab) {
    w.emulator().machine("web01").set_online(false);
}

/// The lab has no program that opens a browser on Linux.
const LAST_LINE_OF_LOGIN: &str =
    if cfg!(target_os = "linux") { "paste the address that it cannot open here:\n" } else { "http" };

const PHASES: &[Phase] = &[
    Phase {
        name: "list of machines",
        arguments: &["list"],
        prepare: |w| slow(w, ArmCall::ResourceGraph),
        reached: "waiting for the list",
    },
    Phase {
        name: "home directory",
        arguments: &["list"],
        prepare: |w| hang_in_run(w, 1),
        reached: "reached",
    },
    Phase {
        name: "verification of the new file",
        arguments: &["config", "web01"],
        prepare: |w| hang_in_run(w, 2),
        reached: "reached",
    },
    Phase {
        name: "verification of the present configuration",
        arguments: &["config", "web01"],
        prepare: |w| hang_in_run(w, 3),
        reached: "reached",
    },
    Phase {
        name: "program of a host entry",
        arguments: &["config", "--program", "other", "web01"],
        prepare: |w| hang(w, "other"),
        reached: "reached",
    },
    Phase {
        name: "question of setup",
        arguments: &["setup", "web01"],
        prepare: |w| w.emulator().machine("web01").remove_endpoint(),
        reached: "[y/N] ",
    },
    Phase {
        name: "agent",
        arguments: &["setup", "web01"],
        prepare: offline,
        reached: "waiting for the agent",
    },
    Phase {
        name: "forward",
        arguments: &["forward", "web01"],
        prepare: |w| slow(w, ArmCall::ListCredentials),
        reached: "waiting for",
    },
    Phase { name: "ping", arguments: &["ping", "web01"], prepare: offline, reached: "waiting for" },
    Phase { name: "warm", arguments: &["warm", "web01"], prepare: offline, reached: "waiting for" },
    Phase {
        name: "known-hosts",
        arguments: &["known-hosts", "web01"],
        prepare: offline,
        reached: "waiting for",
    },
    Phase { name: "key", arguments: &["cert"], prepare: |w| hang(w, "ssh-keygen"), reached: "reached" },
    Phase {
        name: "Azure CLI",
        arguments: &["account", "--credential", "azure-cli"],
        prepare: |w| hang(w, "az"),
        reached: "reached",
    },
    Phase { name: "device code", arguments: &["login", "--device-code"], prepare: |_| {}, reached: "code" },
    Phase { name: "browser", arguments: &["login"], prepare: |_| {}, reached: LAST_LINE_OF_LOGIN },
];

/// The files of the ssh configuration and of the state directory. Locks remain, and the key of a certificate.
fn remains(w: &Lab) -> Vec<String> {
    let folders = [w.home().join(".ssh"), w.state_directory()];
    let files = folders.into_iter().flat_map(fs::read_dir).flatten().flatten();
    let mut names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.ends_with(".lock") && !name.ends_with(".json"));
    names.sort();
    names
}

fn prepared(phase: &Phase) -> (Lab, Command, String) {
    let w = lab(&["web01"]);
    (phase.prepare)(&w);
    let path = format!("{}:{}", bin(&w).display(), w.path().to_str().unwrap());
    let mut command = w.command("script");
    command.env("PATH", path);
    let words = format!("stty cols 100 rows 30; exec {ARCSSH} {}", phase.arguments.join(" "));
    (w, command, words)
}

#[test]
fn ctrl_c_ends_each_phase_at_once_and_leaves_nothing() {
    for phase in PHASES {
        let (w, script, words) = prepared(phase);
        let before = remains(&w);
        let terminal = Terminal::open(script, &words);
        let file = w.home().join("reached");
        let is_reached =
            || file.exists() || phase.reached != "reached" && terminal.shown().contains(phase.reached);
        assert!(eventually(Duration::from_secs(30), is_reached), "{}: {}", phase.name, terminal.shown());
        let (status, screen) = terminal.interrupt();
        assert_eq!(status, Some(130), "{}: {screen}", phase.name);
        // The terminal shows ^C behind the progress line or the question, which arcssh then ends or erases.
        let is_clean = ["^C\n", "^C\r\u{1b}[K", "^C"].contains(&screen.as_str());
        assert!(is_clean, "{}: {screen:?}", phase.name);
        let ended = eventually(Duration::from_secs(15), || w.survivors().is_empty());
        assert!(ended, "{}: {:?}", phase.name, w.survivors());
        assert_eq!(remains(&w), before, "{}", phase.name);
    }
}

/// ssh sends a last message at Ctrl-C, and prints an error if it cannot.
#[test]
fn ctrl_c_ends_a_session_without_an_error() {
    let w = lab(&["web01"]);
    let session = "exec ssh -F .ssh/config web01 'echo reached; exec sleep 60'";
    for _ in 0..6 {
        let terminal = Terminal::open(w.command("script"), session);
        assert!(eventually(LIMIT, || terminal.shown().contains("reached")), "{}", terminal.shown());
        let (status, screen) = terminal.interrupt();
        assert_eq!((status, screen.trim_end()), (Some(255), "^C"));
        assert!(eventually(LIMIT, || w.survivors().is_empty()), "{:?}", w.survivors());
    }
}

#[test]
fn sigterm_and_sighup_end_programs_that_arcssh_runs() {
    for (name, status) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        for phase in PHASES.iter().filter(|phase| phase.reached == "reached") {
            let (w, script, _) = prepared(phase);
            let before = remains(&w);
            let mut arcssh = w.arcssh(phase.arguments);
            arcssh.env("PATH", script.get_envs().find(|(name, _)| *name == "PATH").unwrap().1.unwrap());
            let arcssh = arcssh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            assert!(eventually(LIMIT, || w.home().join("reached").exists()), "{}", phase.name);
            signal(arcssh.id(), name);
            let ended = finish(arcssh);
            assert_eq!((ended.code, ended.arcssh_lines()), (Some(status), vec![]), "{}", phase.name);
            let ended = eventually(Duration::from_secs(15), || w.survivors().is_empty());
            assert!(ended, "SIG{name}, {}: {:?}", phase.name, w.survivors());
            assert_eq!(remains(&w), before, "{}", phase.name);
        }
    }
}
