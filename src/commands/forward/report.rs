//! What `arcssh forward` prints: a line for each connection, or a JSON object for each event. docs/FORWARD.md lists the events.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::azure::hybrid_connectivity::Service;
use crate::azure::target::Target;
use crate::cli::forward::ForwardArgs;
use crate::commands::destination::Destination;
use crate::commands::forward::Forward;
use crate::diagnosis::code::Code;
use crate::diagnosis::{self, Context, Diagnosis, Result};
use crate::system::clock::{format_time, unix_now};
use crate::terminal::TerminalError;
use crate::terminal::output::{end_line, note, print, print_sanitized_on_stderr};
use crate::text::{grouped, json_text, sanitize};

/// The time after which a note about a limit is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// arcssh has raised its limit up to the hard one, except for `--exec` (setrlimit(2)).
const RAISE_LIMIT: &str = "raise the hard limit of file descriptors, which ulimit -Hn shows";

/// The output style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Lines for a user.
    Text,
    /// One JSON object on each line.
    Json,
    /// Errors only: the terminal and standard output belong to the program of `--exec`.
    Errors,
}

impl Form {
    pub(super) fn of(args: &ForwardArgs) -> Self {
        match (args.output.is_json(), &args.exec) {
            (true, _) => Self::Json,
            (false, Some(_)) => Self::Errors,
            (false, None) => Self::Text,
        }
    }
}

/// How a connection ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client or the machine closed it.
    Closed,
    /// The client left before the machine was connected.
    Left,
    /// arcssh ends.
    Stopped,
}

/// A connection of a client.
pub(super) struct Connection<'a> {
    number: usize,
    target: &'a Target,
    from: String,
    start: Instant,
    sent: Cell<usize>,
    received: Cell<usize>,
}

impl Connection<'_> {
    /// Counts bytes of the client.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes);
    }

    /// Counts bytes of the machine.
    pub(super) fn received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes);
    }

    fn json(&self, event: &str) -> Value {
        let Self { number, target, from, start, sent, received } = self;
        json!({
            "event": event, "connection": number, "machine": target.name, "port": target.port, "from": from,
            "seconds": (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            "sent": sent.get(), "received": received.get(),
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    connections: usize,
    failed: usize,
    sent: usize,
    received: usize,
}

/// Returns how to use the first port, and how to stop.
fn next_step(forwards: &[Forward]) -> String {
    let stop = "to stop, press Ctrl-C";
    let ssh = forwards.iter().filter(|forward| forward.destination.target.service == Service::Ssh);
    match ssh.flat_map(|forward| forward.listener.addresses()).next() {
        Some(address) => {
            format!("hint: {stop}; to connect, run: ssh -p {} USER@{}", address.port(), address.ip())
        }
        None => format!("hint: {stop}"),
    }
}

pub(super) struct Report {
    form: Form,
    totals: Cell<Totals>,
    /// The failures whose hint was printed, of each machine.
    explained: RefCell<BTreeSet<(String, &'static str)>>,
    /// When a note about a limit was printed.
    last_note: Cell<Option<Instant>>,
}

impl Report {
    pub(super) fn new(form: Form) -> Self {
        Self { form, totals: Cell::default(), explained: RefCell::default(), last_note: Cell::default() }
    }

    /// Prints where clients can connect to.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn listening(&self, forwards: &[Forward]) -> Result<(), TerminalError> {
        for Forward { destination, listener } in forwards {
            let Destination { id, target, entry, .. } = destination;
            match self.form {
                Form::Text => {
                    let places = listener.places().join(" and ");
                    print(&(sanitize(&format!("{target}:{} at {places}", target.port)) + "\n"))?;
                }
                Form::Json => self.event(json!({
                    "event": "listening", "machine": target.name, "port": target.port,
                    "id": id.to_string(),
                    "host_key_alias": entry.as_ref().map(|entry| entry.host.key_name.as_str()),
                    "service": target.service.to_string(),
                    "addresses": Value::from_iter(listener.addresses().iter().map(
                        |address| json!({ "host": address.ip().to_string(), "port": address.port() }),
                    )),
                    "socket": listener.socket().map(|path| path.display().to_string()),
                }))?,
                Form::Errors => {}
            }
        }
        if self.form == Form::Text && io::stdout().is_terminal() {
            note(&next_step(forwards));
        }
        Ok(())
    }

    /// Counts a connection.
    pub(super) fn opened<'a>(&self, target: &'a Target, from: &str) -> Connection<'a> {
        let totals = self.totals.get();
        let number = totals.connections + 1;
        self.totals.set(Totals { connections: number, ..totals });
        let (sent, received) = (Cell::default(), Cell::default());
        Connection { number, target, from: from.to_owned(), start: Instant::now(), sent, received }
    }

    /// Reports that the machine is connected. Its next failure is explained again.
    pub(super) fn connected(&self, connection: &Connection<'_>) {
        let argument = &connection.target.argument;
        self.explained.borrow_mut().retain(|(machine, _)| machine != argument);
        if self.form == Form::Json {
            self.try_event(connection.json("connected"));
        }
    }

    /// Reports that a client waits for the machine's agent.
    pub(super) fn waiting(&self, connection: &Connection<'_>, limit: Duration) {
        let code = Code::AgentOffline.slug();
        if self.form == Form::Json {
            let mut event = connection.json("waiting");
            event["code"] = code.into();
            event["limit"] = limit.as_secs().into();
            self.try_event(event);
        } else if self.explain(connection.target, "waiting") {
            let (from, target, limit) = (&connection.from, connection.target, limit.as_secs());
            self.line(&format!(
                "{target} from {from}: the machine's agent is not connected yet; arcssh waits {limit} s at most"
            ));
        }
    }

    /// Reports the end of a connection.
    pub(super) fn closed(&self, connection: &Connection<'_>, end: Result<End>) {
        let (sent, received) = (connection.sent.get(), connection.received.get());
        let Totals { connections, failed, sent: sent_before, received: received_before } = self.totals.get();
        let failed = failed + usize::from(end.is_err());
        let (all_sent, all_received) = (sent_before + sent, received_before + received);
        self.totals.set(Totals { connections, failed, sent: all_sent, received: all_received });
        let end = match end {
            Ok(end) => end,
            Err(error) => {
                let target = connection.target.clone();
                return self
                    .failed(connection, diagnosis::record(&error.during(Context::connecting(target))));
            }
        };
        let Connection { from, target, start, .. } = connection;
        match (self.form, end) {
            (Form::Text, End::Left) => {
                self.line(&format!("{target} from {from}: the client left before the machine was connected"));
            }
            (Form::Text, _) => {
                let (sent, received) = (grouped(sent), grouped(received));
                let seconds = start.elapsed().as_secs();
                self.line(&format!(
                    "{target} from {from}: {sent} bytes sent, {received} received, {seconds} s"
                ));
            }
            (Form::Json, _) => {
                let mut event = connection.json("closed");
                event["reason"] = match end {
                    End::Closed => "closed",
                    End::Left => "left",
                    End::Stopped => "stopped",
                }
                .into();
                self.try_event(event);
            }
            (Form::Errors, _) => {}
        }
    }

    /// Reports a connection that failed, with the hint if it is new.
    fn failed(&self, connection: &Connection<'_>, diagnosis: Diagnosis) {
        let Diagnosis { code, summary, hint, request_id } = diagnosis.on_one_line();
        if self.form == Form::Json {
            let mut event = connection.json("error");
            event["code"] = code.slug().into();
            event["text"] = summary.into();
            event["hint"] = hint.map(|hint| json!({ "text": hint.text, "command": hint.command })).into();
            event["request_id"] = request_id.into();
            return self.try_event(event);
        }
        self.line(&format!("{} from {}: {summary}", connection.target, connection.from));
        if let Some(hint) = hint
            && self.explain(connection.target, code.slug())
        {
            note(&format!("hint: {}", hint.text));
        }
    }

    /// Returns whether a failure of a machine is new since its last connection.
    fn explain(&self, target: &Target, failure: &'static str) -> bool {
        self.explained.borrow_mut().insert((target.argument.clone(), failure))
    }

    /// Reports that new clients wait until another connection ends.
    pub(super) fn full(&self, limit: usize) {
        self.limited(&format!(
            "{} connections are open, and new clients wait for the end of one",
            grouped(limit)
        ));
    }

    /// Reports that the system denies another connection.
    pub(super) fn cannot_accept(&self, error: &io::Error) {
        self.limited(&format!("cannot accept a client, and retries each second: {error}"));
    }

    /// Prints a note about a limit, unless one was printed in the last minute.
    fn limited(&self, text: &str) {
        if self.last_note.get().is_some_and(|last| last.elapsed() < REPEAT_AFTER) {
            return;
        }
        self.last_note.set(Some(Instant::now()));
        if self.form == Form::Json {
            let code = Code::LimitReached.slug();
            let hint = json!({ "text": RAISE_LIMIT, "command": null });
            return self
                .try_event(json!({ "event": "limit", "code": code, "text": sanitize(text), "hint": hint }));
        }
        note(text);
        note(&format!("hint: {RAISE_LIMIT}"));
    }

    /// Prints the totals.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn stopped(&self) -> Result<(), TerminalError> {
        let Totals { connections, failed, sent, received } = self.totals.get();
        match self.form {
            Form::Text => {
                let noun = if connections == 1 { "connection" } else { "connections" };
                let [connections, failed, sent, received] =
                    [connections, failed, sent, received].map(grouped);
                end_line();
                note(&format!("{connections} {noun}, {failed} failed; {sent} bytes sent, {received} received"));
                Ok(())
            }
            Form::Json => self.event(json!({
                "event": "stopped", "connections": connections, "failed": failed, "sent": sent, "received": received,
            })),
            Form::Errors => Ok(()),
        }
    }

    /// Prints a line about a connection.
    fn line(&self, text: &str) {
        print_sanitized_on_stderr(&(sanitize(&format!("{} {text}", format_time(unix_now()))) + "\n"));
    }

    fn event(&self, mut event: Value) -> Result<(), TerminalError> {
        event["time"] = format_time(unix_now()).into();
        print(&(json_text(&event) + "\n"))
    }

    /// Prints an event of one connection. A failed write ends no connection.
    fn try_event(&self, event: Value) {
        let _ = self.event(event);
    }
}
