//! What a check comes to, and how all of them are shown: to people on a terminal, without colours elsewhere, as JSON to
//! programs.

use serde_json::{Value, json};

use crate::line::{json_text, one_line};

/// Where a machine's agent does not answer.
pub(crate) const AGENT: &str =
    "check that the machine is on and its Arc agent connected: on it, type azcmagent show";

/// Where the provider is registered, and Azure knows none for the machine's region.
pub(crate) const SERVED_REGION: &str = "on the machine: azcmagent disconnect, and then azcmagent connect --location REGION, with a region that Azure names";

/// Why something fails, and what puts it right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    /// Why.
    pub(crate) why: String,
    /// The one thing to type or do.
    pub(crate) fix: Option<String>,
}

impl Words {
    /// Both of them.
    pub(crate) fn new(why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { why: why.into(), fix: Some(fix.into()) }
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
            Outcome::Passed(text) | Outcome::Skipped(text) => value["text"] = one_line(text).into(),
            Outcome::Warned(Words { why, fix }) | Outcome::Failed(Words { why, fix }) => {
                value["text"] = one_line(why).into();
                value["fix"] = fix.as_deref().map(one_line).into();
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
    fn lines(&self, paint: Paint) -> String {
        let (mark, text, fix) = match &self.outcome {
            Outcome::Passed(text) => (paint.in_colour(32, "ok  "), text, None),
            Outcome::Warned(Words { why, fix }) => (paint.in_colour(33, "warn"), why, fix.as_ref()),
            Outcome::Failed(Words { why, fix }) => (paint.in_colour(31, "FAIL"), why, fix.as_ref()),
            Outcome::Skipped(why) => (paint.in_colour(2, "skip"), why, None),
        };
        let line = format!("{mark}  {:22} {}\n", self.name, one_line(text));
        let fix = fix.map(|fix| format!("      {:22} fix: {}\n", "", paint.in_colour(1, &one_line(fix))));
        line + &fix.unwrap_or_default()
    }
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Without colours.
    Plain,
    /// In colours (ECMA-48, SGR).
    Coloured,
}

impl Paint {
    fn in_colour(self, colour: u8, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
        }
    }
}

/// The report for people.
pub(crate) fn report(checks: &[Check], paint: Paint) -> String {
    let count = |word: &str| checks.iter().filter(|check| check.word() == word).count();
    let lines: String = checks.iter().map(|check| check.lines(paint)).collect();
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
        let failed = Outcome::Failed(Words::new("gone\u{1b}[2J", "arcssh setup web01"));
        let checks = [
            Check { name: "ssh", outcome: Outcome::Passed("OpenSSH_9.2p1".into()) },
            Check { name: "endpoint", outcome: failed },
        ];
        let lines = [
            "ok    ssh                    OpenSSH_9.2p1",
            "FAIL  endpoint               gone [2J",
            "                             fix: arcssh setup web01",
            "",
            "1 failed, 1 passed",
        ];
        assert_eq!(report(&checks, Paint::Plain).lines().collect::<Vec<_>>(), lines);
        let coloured = report(&checks, Paint::Coloured);
        assert!(coloured.contains("\u{1b}[31mFAIL\u{1b}[0m") && !coloured.contains("[2J\u{1b}"));
        let json: Value = serde_json::from_str(&json_report(Some("web01"), &checks)).unwrap();
        assert_eq!((&json["ok"], &json["checks"][1]["fix"]), (&json!(false), &json!("arcssh setup web01")));
        assert_eq!(json["checks"][0], json!({"name":"ssh","outcome":"passed","text":"OpenSSH_9.2p1"}));
    }
}
