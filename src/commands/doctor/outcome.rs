//! The results of the checks, also as JSON.

use serde_json::{Value, json};

use crate::diagnosis::Diagnosis;
use crate::text::{json_text, sanitize};

use Outcome::{Failed, NotChecked, Passed, Skipped, Unknown, Warned};

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The check found no problem; its result.
    Passed(String),
    /// Connections work, but not for long or not for all.
    Warned(Diagnosis),
    /// Connections fail.
    Failed(Diagnosis),
    /// arcssh could not read what the check needs; why.
    Unknown(String),
    /// The check does not apply; why.
    Skipped(String),
    /// The check was not made.
    NotChecked(Reason),
}

/// Why arcssh did not make a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// This check failed.
    Blocked(&'static str),
    /// The user named no machine.
    NoMachine,
    /// A signal ended arcssh.
    Interrupted,
}

impl Reason {
    /// Returns the text for people, which follows "because".
    pub(super) fn clause(self) -> String {
        match self {
            Self::Blocked(check) => format!("'{check}' failed"),
            Self::NoMachine => "you named no machine".into(),
            Self::Interrupted => "arcssh was interrupted".into(),
        }
    }
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
        matches!(self.outcome, Failed(_))
    }

    /// Returns whether `arcssh setup` repairs the failure.
    pub(super) fn is_fixable(&self) -> bool {
        matches!(&self.outcome, Failed(diagnosis) if diagnosis.code.is_fixed_by_setup())
    }

    /// Names, outcomes, codes and reasons never change.
    fn json(&self) -> Value {
        let mut value = json!({ "name": self.name, "outcome": self.word() });
        match &self.outcome {
            Passed(text) => value["text"] = sanitize(text).into(),
            Unknown(why) | Skipped(why) => {
                value["text"] = sanitize(why).into();
                let is_unknown = matches!(self.outcome, Unknown(_));
                value["reason"] = if is_unknown { "unknown" } else { "not-applicable" }.into();
            }
            NotChecked(reason) => {
                let (text, reason) = match reason {
                    Reason::Blocked(check) => {
                        value["blocked_by"] = (*check).into();
                        (format!("fix '{check}' first"), "blocked")
                    }
                    Reason::NoMachine => ("no machine was given".into(), "no-machine"),
                    Reason::Interrupted => ("arcssh was interrupted".into(), "interrupted"),
                };
                value["text"] = text.into();
                value["reason"] = reason.into();
            }
            Warned(diagnosis) | Failed(diagnosis) => {
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
            Passed(_) => "passed",
            Warned(_) => "warned",
            Failed(_) => "failed",
            Unknown(_) | Skipped(_) | NotChecked(_) => "skipped",
        }
    }
}

/// Returns the report as JSON.
pub(super) fn json_report(machine: Option<&str>, checks: &[Check]) -> String {
    let is_bad = |check: &Check| check.has_failed() || check.outcome == NotChecked(Reason::Interrupted);
    let ok = !checks.iter().any(is_bad);
    let checks: Vec<Value> = checks.iter().map(Check::json).collect();
    json_text(&json!({ "machine": machine, "ok": ok, "checks": checks })) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Hint;
    use crate::diagnosis::code::Code;

    fn failed(code: Code, hint: Hint) -> Check {
        Check { name: "endpoint", outcome: Failed(Diagnosis::new(code, "gone\u{1b}[2J", hint)) }
    }

    #[test]
    fn json_has_the_cause_of_each_check_without_a_result() {
        let check = |name, outcome| Check { name, outcome };
        let ssh = &check("ssh", Passed("OpenSSH_9.2p1".into()));
        let version = &check("agent version", Unknown("Azure has no information".into()));
        let endpoint = &failed(Code::NoEndpoint, Hint::new("enable it: ", "arcssh setup web01"));
        let relay = &check("relay", NotChecked(Reason::Blocked("endpoint")));
        let certificate = &check("certificate", Skipped("none is cached".into()));
        let unread = json!({ "outcome": "skipped", "text": "Azure has no information", "reason": "unknown" });
        let skipped = json!({ "outcome": "skipped", "text": "none is cached", "reason": "not-applicable" });
        let blocked = json!({
            "outcome": "skipped", "text": "fix 'endpoint' first", "reason": "blocked", "blocked_by": "endpoint",
        });
        let failed = json!({
            "outcome": "failed",
            "text": "gone [2J",
            "code": "no-endpoint",
            "hint": { "text": "enable it: arcssh setup web01", "command": "arcssh setup web01" },
            "request_id": null,
        });
        let passed = json!({ "outcome": "passed", "text": "OpenSSH_9.2p1" });
        for (check, mut expected) in
            [(ssh, passed), (version, unread), (certificate, skipped), (relay, blocked), (endpoint, failed)]
        {
            expected["name"] = check.name.into();
            assert_eq!(check.json(), expected);
        }
        let ok = |check: &Check| {
            let report: Value =
                serde_json::from_str(&json_report(Some("web01"), std::slice::from_ref(check))).unwrap();
            assert_eq!(report["machine"], "web01");
            report["ok"].clone()
        };
        let interrupted = Check { name: "sshd", outcome: NotChecked(Reason::Interrupted) };
        assert_eq!(
            [ssh, version, endpoint, &interrupted].map(ok),
            [true, true, false, false].map(Value::from)
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
        let warned = Warned(Diagnosis::new(Code::NoEndpoint, "gone", set_up()));
        assert!(!Check { name: "endpoint", outcome: warned }.is_fixable());
    }
}
