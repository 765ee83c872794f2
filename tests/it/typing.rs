//! A user who types at a terminal.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::support::{LIMIT, ended, eventually, terminal};

/// A shell command in a pseudo-terminal, script(1), and the bytes that it has shown.
pub(crate) struct Typing {
    script: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    size: (u16, u16),
}

impl Typing {
    /// Starts a shell command on a terminal of this many rows and columns.
    pub(crate) fn start(script: Command, command: &str, (rows, columns): (u16, u16)) -> Self {
        let command = format!("stty rows {rows} cols {columns}; {command}");
        let mut script = terminal(script, &command);
        script.env("TERM", "xterm");
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (mut output, screen) = (script.stdout.take().unwrap(), Arc::clone(&shown));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                screen.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
        Self { script, shown, reader, size: (rows, columns) }
    }

    /// Returns the bytes that the terminal got.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.shown.lock().unwrap().clone()
    }

    /// Returns the text on the screen.
    pub(crate) fn screen(&self) -> String {
        drawn(&self.bytes(), self.size)
    }

    pub(crate) fn press(&mut self, keys: &str) {
        let input = self.script.stdin.as_mut().unwrap();
        input.write_all(keys.as_bytes()).and_then(|()| input.flush()).unwrap();
    }

    /// Waits until a text is on the screen.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        let is_shown = || self.screen().contains(text);
        assert!(eventually(LIMIT, is_shown), "{text:?} is not on the screen:\n{}", self.screen());
    }

    /// Waits for the end of the command, and returns its exit status and the text on the screen.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = ended(&mut self.script).code();
        self.reader.join().unwrap();
        let screen = drawn(&self.shown.lock().unwrap(), self.size);
        (code, screen)
    }
}

fn drawn(bytes: &[u8], (rows, columns): (u16, u16)) -> String {
    let mut terminal = vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 0);
    terminal.process(bytes);
    terminal.screen().contents()
}
