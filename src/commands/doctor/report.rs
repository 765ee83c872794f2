//! The results of the checks, as text and as JSON.

use console::style;
use serde_json::{Value, json};

use crate::diagnosis::{Diagnosis, Hint};
use crate::text::{json_text, sanitize};

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The check found no problem; its result.
    Passed(String),
    /// Connections work, but not for long or not for all.
    Warned(Diagnosis),
    /// Connections fail.
    Failed(Diagnosis),
    /// The check was not made; why.
    Skipped(String),
}

/// A check with its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// The name of the check, which never changes.
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
}

impl Check {
    /// Returns whether connections fail.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }

    /// Returns whether `arcssh setup` repairs the failure.
    pub(super) fn is_fixable(&self) -> bool {
        matches!(&self.outcome, Outcome::Failed(diagnosis) if diagnosis.code.is_fixed_by_setup())
    }

    fn json(&self) -> Value {
        let mut value = json!({ "name": self.name, "outcome": self.word() });
        match &self.outcome {
            Outcome::Passed(text) | Outcome::Skipped(text) => value["text"] = sanitize(text).into(),
            Outcome::Warned(diagnosis) | Outcome::Failed(diagnosis) => {
                let diagnosis = diagnosis.clone().on_one_line();
                value["text"] = diagnosis.summary.into();
                value["code"] = diagnosis.code.slug().into();
                value["hint"] = json!(diagnosis.hint);
                value["request_id"] = diagnosis.request_id.into();
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

    /// Returns one line, and a second one if there is a hint.
    fn lines(&self, colors: Colors) -> String {
        let mark = |mark| style(mark).force_styling(colors == Colors::On);
        let (mark, text, hint) = match &self.outcome {
            Outcome::Passed(text) => (mark("ok  ").green(), text, None),
            Outcome::Warned(Diagnosis { summary, hint, .. }) => {
                (mark("warn").yellow(), summary, hint.as_ref())
            }
            Outcome::Failed(Diagnosis { summary, hint, .. }) => (mark("FAIL").red(), summary, hint.as_ref()),
            Outcome::Skipped(why) => (mark("skip").dim(), why, None),
        };
        let line = format!("{mark}  {:22} {}\n", self.name, sanitize(text));
        let bold = |hint: &Hint| style(sanitize(&hint.text)).bold().force_styling(colors == Colors::On);
        let hint = hint.map(|hint| format!("      {:22} hint: {}\n", "", bold(hint)));
        line + &hint.unwrap_or_default()
    }
}

/// Whether the report has colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colors {
    /// For a terminal.
    On,
    /// For any other output.
    Off,
}

/// Returns the report as text.
pub(super) fn report(checks: &[Check], colors: Colors) -> String {
    let count = |word: &str| checks.iter().filter(|check| check.word() == word).count();
    let lines: String = checks.iter().map(|check| check.lines(colors)).collect();
    let words =
        [("failed", "failed"), ("warned", "with a warning"), ("skipped", "skipped"), ("passed", "passed")];
    let counts = words.map(|(word, text)| (count(word), text)).into_iter().filter(|(number, _)| *number > 0);
    let counts: Vec<String> = counts.map(|(number, text)| format!("{number} {text}")).collect();
    format!("{lines}\n{}\n", counts.join(", "))
}

/// Returns the report as JSON. Names, outcomes and codes never change.
pub(super) fn json_report(machine: Option<&str>, checks: &[Check]) -> String {
    let ok = !checks.iter().any(Check::has_failed);
    let checks: Vec<Value> = checks.iter().map(Check::json).collect();
    json_text(&json!({ "machine": machine, "ok": ok, "checks": checks })) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::code::Code;

    fn failed(code: Code, hint: Hint) -> Check {
        Check { name: "endpoint", outcome: Outcome::Failed(Diagnosis::new(code, "gone\u{1b}[2J", hint)) }
    }

    #[test]
    fn a_check_has_a_line_and_a_hint_has_another() {
        let checks = [
            Check { name: "ssh", outcome: Outcome::Passed("OpenSSH_9.2p1".into()) },
            failed(Code::NoEndpoint, Hint::new("enable it: ", "arcssh setup web01")),
        ];
        let lines = [
            "ok    ssh                    OpenSSH_9.2p1",
            "FAIL  endpoint               gone [2J",
            "                             hint: enable it: arcssh setup web01",
            "",
            "1 failed, 1 passed",
        ];
        assert_eq!(report(&checks, Colors::Off).lines().collect::<Vec<_>>(), lines);
        let colored = report(&checks, Colors::On);
        assert!(colored.contains("\u{1b}[31mFAIL\u{1b}[0m") && !colored.contains("[2J\u{1b}"), "{colored:?}");
        let json: Value = serde_json::from_str(&json_report(Some("web01"), &checks)).unwrap();
        assert_eq!(
            json,
            json!({
                "machine": "web01",
                "ok": false,
                "checks": [
                    { "name": "ssh", "outcome": "passed", "text": "OpenSSH_9.2p1" },
                    {
                        "name": "endpoint",
                        "outcome": "failed",
                        "text": "gone [2J",
                        "code": "no-endpoint",
                        "hint": { "text": "enable it: arcssh setup web01", "command": "arcssh setup web01" },
                        "request_id": null,
                    },
                ],
            })
        );
    }

    #[test]
    fn json_contains_a_command_only_if_it_can_run_as_it_stands() {
        let command = |hint: Hint| failed(Code::Failed, hint).json()["hint"]["command"].clone();
        assert_eq!(command("try again".into()), Value::Null);
        assert_eq!(command(Hint::new("list the machines: ", "arcssh list")), json!("arcssh list"));
        assert_eq!(command(Hint::command("chmod 600 'a\nb'")), Value::Null);
    }

    #[test]
    fn setup_fixes_a_failure_by_its_code() {
        let set_up = || Hint::command("arcssh setup web01");
        assert!(failed(Code::NoEndpoint, set_up()).is_fixable());
        assert!(failed(Code::NoEndpoint, "see the manual".into()).is_fixable());
        assert!(!failed(Code::PortInUse, set_up()).is_fixable());
        let warned = Outcome::Warned(Diagnosis::new(Code::NoEndpoint, "gone", set_up()));
        assert!(!Check { name: "endpoint", outcome: warned }.is_fixable());
    }
}
