//! The failures of several machines: machines with the same cause share a message and a hint.

use crate::azure::target::Target;
use crate::diagnosis::{Code, Context, Diagnosis, Error, print};
use crate::terminal::output::{note, note_names};
use crate::text::{grouped, replace_word, shell_quote};

/// The name in place of a machine's in a text about several.
const MACHINE: &str = "MACHINE";

/// The most machines in the command of a hint.
const MAX_ARGUMENTS: usize = 5;

/// Machines that failed for the same cause.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cause {
    code: Code,
    /// The beginning of the message, for machines of any number.
    action: String,
    /// The message and the hint without the names of the machines.
    pub(super) summary: String,
    pub(super) hint: Option<String>,
    /// The names of the machines.
    pub(super) names: Vec<String>,
    /// The machines as words of a command.
    arguments: Vec<String>,
    /// The message and the hint of the first machine.
    first: (String, Option<String>),
}

/// Groups failures by cause, in the order of the first failure of each. A failure without a machine has its own group.
pub(super) fn causes<'a>(errors: impl Iterator<Item = &'a Error>) -> Vec<Cause> {
    let mut causes: Vec<Cause> = Vec::new();
    for error in errors {
        let cause = cause(error);
        let is_same = |other: &&mut Cause| {
            let key = |cause: &Cause| (cause.code, cause.summary.clone(), cause.hint.clone());
            !cause.names.is_empty() && cause.action == other.action && key(&cause) == key(other)
        };
        match causes.iter_mut().find(is_same) {
            Some(known) => {
                known.names.extend(cause.names);
                known.arguments.extend(cause.arguments);
            }
            None => causes.push(cause),
        }
    }
    causes
}

fn cause(error: &Error) -> Cause {
    let (cause, context) = error.split();
    let Diagnosis { code, summary, hint, request_id } = error.diagnose();
    let hint = hint.map(|hint| hint.text);
    let first = (format!("{}{summary}", context.prefix(cause)), hint.clone());
    let general = |text: &str| match &context.target {
        Some(target) => generalized(text, target, request_id.as_deref()),
        None => text.to_owned(),
    };
    let several = context.target.clone().map(|target| Target { name: MACHINE.into(), ..target });
    Cause {
        code,
        action: Context { target: several, ..context.clone() }.prefix(cause),
        summary: general(&summary),
        hint: hint.as_deref().map(general),
        names: context.target.iter().map(|target| target.name.clone()).collect(),
        arguments: context.target.iter().map(|target| shell_quote(&target.argument)).collect(),
        first,
    }
}

/// Returns a text without the ID of a request, and with [`MACHINE`] in place of the machine's ID, argument and name.
fn generalized(text: &str, target: &Target, request_id: Option<&str>) -> String {
    let request = request_id.and_then(|id| id.split(' ').next());
    let text = request.map_or_else(|| text.to_owned(), |id| text.replace(&format!(", TrackingId {id}"), ""));
    let text = match &target.machine {
        Some(machine) => replace_word(&text, &machine.to_string(), MACHINE),
        None => text,
    };
    let text = replace_word(&text, &shell_quote(&target.argument), MACHINE);
    replace_word(&text, &target.name, MACHINE)
}

impl Cause {
    /// Prints one message and one hint.
    pub(super) fn print(&self) {
        if self.names.len() < 2 {
            let (summary, hint) = &self.first;
            return print(summary, hint.as_deref());
        }
        let machines = format!("{} machines", grouped(self.names.len()));
        let action = replace_word(&self.action, MACHINE, &machines);
        note_names(&format!("{action}{}", self.summary), &self.names);
        self.hint.iter().for_each(|hint| note(&format!("hint: {}", self.with_arguments(hint))));
    }

    /// Returns the hint with the machines in its command, if the command accepts several and they are few.
    fn with_arguments(&self, hint: &str) -> String {
        if self.arguments.len() > MAX_ARGUMENTS {
            return hint.to_owned();
        }
        ["setup", "warm"].iter().fold(hint.to_owned(), |hint, command| {
            let machines = format!("arcssh {command} {}", self.arguments.join(" "));
            hint.replace(&format!("arcssh {command} {MACHINE}"), &machines)
        })
    }
}
