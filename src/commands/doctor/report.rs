//! What a check comes to, and how all of them are shown: to people on a terminal, without colours elsewhere, as JSON to
//! programs.

use serde_json::{Value, json};

use crate::text::{json_text, sanitize};

/// Where a machine's agent does not answer.
pub(crate) const AGENT: &str =
    "check that the machine is on and its Arc agent connected: on it, type azcmagent show";

/// Where the provider is registered, and Azure knows none for the machine's region.
pub(crate) const SERVED_REGION: &str = "on the machine: azcmagent disconnect, and then azcmagent connect --location REGION, with a region that Azure names";

/// A command that a shell of this computer runs as it is, without a placeholder and without another person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `arcssh setup`; `arcssh doctor --fix` does the same.
    SetUp(String),
    /// Any other.
    Other(String),
}

/// What the user can do about a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    /// One line for the user; it contains the command, if there is one.
    pub(crate) text: String,
    /// The command of which the text speaks, if one command is all that there is to do.
    pub(crate) command: Option<Command>,
}

impl Hint {
    /// Returns a hint whose text contains `command`.
    pub(crate) fn new(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self { text: text.into(), command: Some(Command::Other(command.into())) }
    }

    /// Returns a hint that is a command.
    pub(crate) fn command(command: impl Into<String>) -> Self {
        let command = command.into();
        Self::new(command.clone(), command)
    }

    /// Returns a hint that is an `arcssh setup` command.
    pub(crate) fn set_up(command: String) -> Self {
        Self { text: command.clone(), command: Some(Command::SetUp(command)) }
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self { text, command: None }
    }
}

/// Why something fails, and what the user can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    /// Why.
    pub(crate) why: String,
    /// What to do.
    pub(crate) hint: Option<Hint>,
}

impl Words {
    /// Both of them.
    pub(crate) fn new(why: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self { why: why.into(), hint: Some(hint.into()) }
    }
}

/// What a check comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Passed(String),
    /// It works, and may not for long or not for all.
    Warned(Words),
    /// It keeps a connection from coming about.
    Failed(Words),
    /// It was not looked at, and why.
    Skipped(String),
}

/// A check with its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: &'static str,
    /// What it came to.
    pub(crate) outcome: Outcome,
}

impl Check {
    /// Whether it keeps a connection from coming about.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }

    fn json(&self) -> Value {
        let mut value = json!({ "name": self.name, "outcome": self.word() });
        match &self.outcome {
            Outcome::Passed(text) | Outcome::Skipped(text) => value["text"] = sanitize(text).into(),
            Outcome::Warned(Words { why, hint }) | Outcome::Failed(Words { why, hint }) => {
                value["text"] = sanitize(why).into();
                value["hint"] = hint.as_ref().map(|hint| sanitize(&hint.text)).into();
                let command = hint.as_ref().and_then(|hint| hint.command.as_ref());
                // A command that would not be the same on one line cannot be run as it is.
                let command = command.map(|(Command::SetUp(text) | Command::Other(text))| text);
                value["command"] = command.filter(|text| sanitize(text) == text.as_str()).cloned().into();
            }
        }
        value
    }

    fn word(&self) -> &'static str {
        match self.outcome {
            Outcome::Passed(_) => "passed",
            Outcome::Warned(_) => "warned",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped(_) => "skipped",
        }
    }

    /// One line, and a second where there is something to type.
    fn lines(&self, style: Style) -> String {
        let (mark, text, hint) = match &self.outcome {
            Outcome::Passed(text) => (style.in_color(32, "ok  "), text, None),
            Outcome::Warned(Words { why, hint }) => (style.in_color(33, "warn"), why, hint.as_ref()),
            Outcome::Failed(Words { why, hint }) => (style.in_color(31, "FAIL"), why, hint.as_ref()),
            Outcome::Skipped(why) => (style.in_color(2, "skip"), why, None),
        };
        let line = format!("{mark}  {:22} {}\n", self.name, sanitize(text));
        let bold = |hint: &Hint| style.in_color(1, &sanitize(&hint.text));
        let hint = hint.map(|hint| format!("      {:22} hint: {}\n", "", bold(hint)));
        line + &hint.unwrap_or_default()
    }
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without colours.
    Plain,
    /// In colours (ECMA-48, SGR).
    Colored,
}

impl Style {
    fn in_color(self, colour: u8, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colored => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
        }
    }
}

/// The report for people.
pub(crate) fn report(checks: &[Check], style: Style) -> String {
    let count = |word: &str| checks.iter().filter(|check| check.word() == word).count();
    let lines: String = checks.iter().map(|check| check.lines(style)).collect();
    let counts =
        [("failed", "failed"), ("warned", "with a warning"), ("skipped", "skipped"), ("passed", "passed")];
    let counts = counts.map(|(word, told)| (count(word), told)).into_iter().filter(|(number, _)| *number > 0);
    let counts: Vec<String> = counts.map(|(number, told)| format!("{number} {told}")).collect();
    format!("{lines}\n{}\n", counts.join(", "))
}

/// The report for programs; names and outcomes stay as they are from version to version.
pub(crate) fn json_report(machine: Option<&str>, checks: &[Check]) -> String {
    let ok = !checks.iter().any(Check::has_failed);
    let checks: Vec<Value> = checks.iter().map(Check::json).collect();
    json_text(&json!({ "machine": machine, "ok": ok, "checks": checks })) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_a_line_a_check_and_one_for_what_to_type() {
        let failed = Outcome::Failed(Words::new("gone\u{1b}[2J", Hint::set_up("arcssh setup web01".into())));
        let checks = [
            Check { name: "ssh", outcome: Outcome::Passed("OpenSSH_9.2p1".into()) },
            Check { name: "endpoint", outcome: failed },
        ];
        let lines = [
            "ok    ssh                    OpenSSH_9.2p1",
            "FAIL  endpoint               gone [2J",
            "                             hint: arcssh setup web01",
            "",
            "1 failed, 1 passed",
        ];
        assert_eq!(report(&checks, Style::Plain).lines().collect::<Vec<_>>(), lines);
        let colored = report(&checks, Style::Colored);
        assert!(colored.contains("\u{1b}[31mFAIL\u{1b}[0m") && !colored.contains("[2J\u{1b}"));
        let json: Value = serde_json::from_str(&json_report(Some("web01"), &checks)).unwrap();
        let failed = &json["checks"][1];
        assert_eq!((&json["ok"], &failed["command"]), (&json!(false), &json!("arcssh setup web01")));
        assert_eq!((&failed["hint"], failed.get("fix")), (&json!("arcssh setup web01"), None));
        assert_eq!(json["checks"][0], json!({"name":"ssh","outcome":"passed","text":"OpenSSH_9.2p1"}));
    }

    #[test]
    fn a_command_is_told_only_where_it_can_be_run_as_it_is() {
        let json = |hint: Hint| {
            let check = Check { name: "ssh", outcome: Outcome::Warned(Words::new("old", hint)) };
            let json = check.json();
            (json["hint"].clone(), json["command"].clone())
        };
        assert_eq!(json("try again".into()), (json!("try again"), Value::Null));
        let hint = Hint::new("list the machines: arcssh list", "arcssh list");
        assert_eq!(json(hint), (json!("list the machines: arcssh list"), json!("arcssh list")));
        assert_eq!(json(Hint::command("chmod 600 'a\nb'")), (json!("chmod 600 'a b'"), Value::Null));
    }
}
