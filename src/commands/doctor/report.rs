//! The report on standard output: a line for each check as soon as it has a result, then what to do; or JSON at the end.

use clap::builder::styling::Style;
use console::Term;
use tokio::time::Instant;

use crate::cli::DoctorArgs;
use crate::commands::doctor::checks::Evaluator;
use crate::commands::doctor::outcome::Outcome::{Failed, NotChecked, Passed, Skipped, Unknown, Warned};
use crate::commands::doctor::outcome::{Check, Reason, json_report};
use crate::diagnosis::{Diagnosis, Hint};
use crate::terminal::TerminalError;
use crate::terminal::output::print;
use crate::terminal::palette::{ASIDE, BAD, COMMAND, Colors, GOOD, WARNING};
use crate::terminal::progress::{ERASE, is_rewritable};
use crate::text::{cut, sanitize, width, wrap};

/// The form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON object at the end.
    Json,
    /// Text, with a line that names the checks that still run if the terminal can rewrite one.
    Text { is_live: bool },
}

/// The report on standard output.
pub(super) struct Report {
    form: Form,
    layout: Layout,
    start: Instant,
    /// The checks with a result, in order.
    checks: Vec<Check>,
    /// The line on the terminal that will be rewritten.
    line: String,
}

impl Report {
    pub(super) fn new(args: &DoctorArgs) -> Self {
        let terminal = Term::stdout();
        let is_live = is_rewritable(&terminal);
        let form = if args.output.is_json() { Form::Json } else { Form::Text { is_live } };
        Self {
            form,
            layout: Layout::of(&terminal),
            start: Instant::now(),
            checks: Vec::new(),
            line: String::new(),
        }
    }

    /// Returns whether the report itself shows which checks still run.
    pub(super) fn is_live(&self) -> bool {
        self.form == Form::Text { is_live: true }
    }

    pub(super) fn has_failure(&self) -> bool {
        self.checks.iter().any(Check::has_failed)
    }

    pub(super) fn is_fixable(&self) -> bool {
        self.checks.iter().any(Check::is_fixable)
    }

    /// Prints the checks that have a result, in order.
    pub(super) fn update(&mut self, evaluator: &Evaluator) -> Result<(), TerminalError> {
        self.layout = Layout::of(&Term::stdout());
        let mut ready = String::new();
        for name in Evaluator::names().skip(self.checks.len()) {
            let Some(check) = evaluator.check(name) else { break };
            ready += &self.layout.check(&check);
            self.checks.push(check);
        }
        let mut line = String::new();
        if self.is_live() {
            let running: Vec<_> = Evaluator::names().filter(|name| evaluator.check(name).is_none()).collect();
            line = self.layout.running(&running.join(", "), self.start.elapsed().as_secs());
        }
        if self.form == Form::Json || ready.is_empty() && line == self.line {
            return Ok(());
        }
        let erase = if self.line.is_empty() { "" } else { ERASE };
        let text = format!("{erase}{ready}{line}");
        self.line = line;
        print(&text)
    }

    /// Prints the rest: the checks that were not made, and what the user can do.
    pub(super) fn finish(&mut self, evaluator: &Evaluator, next: Option<&Hint>) -> Result<(), TerminalError> {
        let mut text = if self.line.is_empty() { String::new() } else { ERASE.to_owned() };
        self.line.clear();
        for name in Evaluator::names().skip(self.checks.len()) {
            let interrupted = || Check { name, outcome: NotChecked(Reason::Interrupted) };
            let check = evaluator.check(name).unwrap_or_else(interrupted);
            text += &self.layout.check(&check);
            self.checks.push(check);
        }
        text += &self.layout.not_checked(&self.checks);
        text += &self.layout.conclusion(&self.checks, next);
        if self.form == Form::Json { Ok(()) } else { print(&text) }
    }

    /// Returns the report as text for a file.
    pub(super) fn text(&self) -> String {
        let layout = Layout { columns: None, colors: Colors::Off };
        let lines: String = self.checks.iter().map(|check| layout.check(check)).collect();
        lines + &layout.not_checked(&self.checks) + &layout.conclusion(&self.checks, None)
    }

    /// Returns the report as JSON.
    pub(super) fn json(&self, machine: Option<&str>) -> String {
        json_report(machine, &self.checks)
    }

    /// Prints the report if it is JSON.
    pub(super) fn print_json(&self, machine: Option<&str>) -> Result<(), TerminalError> {
        if self.form == Form::Json { print(&self.json(machine)) } else { Ok(()) }
    }
}

/// How the text is laid out.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// The width of the terminal; `None` for any other output, whose lines are not wrapped.
    columns: Option<usize>,
    colors: Colors,
}

/// The columns of a mark, and of a mark with a name.
const MARK: usize = 6;
const NAME: usize = MARK + 23;
/// The fewest columns of a text. In a narrower terminal, the name is a part of the text.
const MIN_TEXT: usize = 24;

impl Layout {
    fn of(terminal: &Term) -> Self {
        let columns = terminal.is_term().then(|| terminal.size_checked()).flatten();
        Self { columns: columns.map(|(_, columns)| columns.into()), colors: Colors::of(&std::io::stdout()) }
    }

    fn paint(self, style: Style, text: &str) -> String {
        self.colors.paint(style, text)
    }

    /// Returns a text after a start of `indent` columns. It is wrapped under its own first line.
    fn paragraph(self, start: &str, indent: usize, text: &str) -> String {
        let text = sanitize(text);
        let lines = match self.columns {
            Some(columns) => wrap(&text, columns.saturating_sub(indent).max(8)),
            None => vec![text],
        };
        format!("{start}{}\n", lines.join(&format!("\n{:indent$}", "")))
    }

    /// Returns the lines of a check, and of the hint of a warning. The conclusion has those of the failures, and
    /// [`Layout::not_checked`] the checks that were not made.
    fn check(self, check: &Check) -> String {
        let (mark, text) = match &check.outcome {
            Passed(text) => (self.paint(GOOD, "ok  "), text.clone()),
            Warned(diagnosis) => (self.paint(WARNING, "warn"), diagnosis.summary.clone()),
            Failed(diagnosis) => (self.paint(BAD, "FAIL"), diagnosis.summary.clone()),
            Unknown(why) => (self.paint(ASIDE, "?   "), format!("unknown: {why}")),
            Skipped(why) => (self.paint(ASIDE, "skip"), why.clone()),
            NotChecked(_) => return String::new(),
        };
        let is_narrow = self.columns.is_some_and(|columns| columns < NAME + MIN_TEXT);
        let (start, indent, text) = if is_narrow {
            (format!("{mark}  "), MARK, format!("{}: {text}", check.name))
        } else {
            (format!("{mark}  {:22} ", check.name), NAME, text)
        };
        let lines = self.paragraph(&start, indent, &text);
        match &check.outcome {
            Warned(Diagnosis { hint: Some(hint), .. }) => lines + &self.hint("hint: ", hint, indent),
            _ => lines,
        }
    }

    /// Returns a hint. A command has a line of its own that is not wrapped, so that it can be copied.
    fn hint(self, label: &str, hint: &Hint, indent: usize) -> String {
        let start = format!("{:indent$}{label}", "");
        let command = hint.command.as_deref().filter(|command| sanitize(command) == **command);
        match command.and_then(|command| Some((hint.text.strip_suffix(command)?, command))) {
            Some((text, command)) => {
                let command = self.paint(COMMAND, command);
                let text = self.paragraph(&start, indent + label.len(), text.trim_end());
                format!("{text}{:1$}{command}\n", "", indent + 4)
            }
            None => self.paragraph(&start, indent + label.len(), &hint.text),
        }
    }

    /// Returns a paragraph for each reason, with the names of the checks that were not made.
    fn not_checked(self, checks: &[Check]) -> String {
        let mut groups: Vec<(Reason, Vec<&str>)> = Vec::new();
        for Check { name, outcome } in checks {
            let NotChecked(reason) = *outcome else { continue };
            match groups.iter_mut().find(|(other, _)| *other == reason) {
                Some((_, names)) => names.push(name),
                None => groups.push((reason, vec![name])),
            }
        }
        let mark = format!("{}  ", self.paint(ASIDE, "skip"));
        let line = |(reason, names): &(Reason, Vec<&str>)| {
            let text = format!("not checked, because {}: {}", reason.clause(), names.join(", "));
            self.paragraph(&mark, MARK, &text)
        };
        groups.iter().map(line).collect()
    }

    /// Returns each failure with its fix, or else the next step.
    fn conclusion(self, checks: &[Check], next: Option<&Hint>) -> String {
        let mut text = String::new();
        for check in checks {
            let Failed(Diagnosis { summary, hint, .. }) = &check.outcome else { continue };
            let label = self.paint(BAD, "Problem: ");
            text += &format!("\n{}", self.paragraph(&label, 9, summary));
            text += &hint.as_ref().map_or(String::new(), |hint| self.hint("Fix: ", hint, 0));
        }
        let is_interrupted = checks.iter().any(|check| check.outcome == NotChecked(Reason::Interrupted));
        if !text.is_empty() || is_interrupted {
            return text;
        }
        let label = match checks.iter().filter(|check| matches!(check.outcome, Warned(_))).count() {
            0 if next.is_none() => "No check failed.".to_owned(),
            0 => "No problem found.".to_owned(),
            1 => "No check failed; 1 has a warning.".to_owned(),
            count => format!("No check failed; {count} have a warning."),
        };
        match next {
            Some(Hint { text, command }) => {
                let hint = Hint { text: format!("{label} {text}"), command: command.clone() };
                format!("\n{}", self.hint("", &hint, 0))
            }
            None => format!("\n{}", self.paragraph("", 0, &label)),
        }
    }

    /// Returns a line that fits, because a wrapped line cannot be rewritten; none if no check runs.
    fn running(self, names: &str, seconds: u64) -> String {
        let start = format!("{:MARK$}checking ", "");
        let end = if seconds < 2 { String::new() } else { format!("; {seconds} s so far") };
        let used = width(&start) + width(&end) + 1;
        let room = self.columns.map_or(usize::MAX, |columns| columns.saturating_sub(used));
        match names {
            "" => String::new(),
            names if width(names) <= room => format!("{start}{names}{end}"),
            names => format!("{start}{}…{end}", cut(names, room.saturating_sub(1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::code::Code;

    const PLAIN: Layout = Layout { columns: None, colors: Colors::Off };

    fn failed(code: Code, hint: Hint) -> Check {
        Check { name: "endpoint", outcome: Failed(Diagnosis::new(code, "gone\u{1b}[2J", hint)) }
    }

    fn report(layout: Layout, checks: &[Check], next: Option<&Hint>) -> String {
        let lines: String = checks.iter().map(|check| layout.check(check)).collect();
        lines + &layout.not_checked(checks) + &layout.conclusion(checks, next)
    }

    /// A check of each outcome.
    fn checks() -> Vec<Check> {
        let warning = Diagnosis::new(Code::ClockSkew, "the clock is late", Hint::new("set it: ", "ntpdate"));
        [
            ("ssh", Passed("OpenSSH_9.2p1".into())),
            ("clock", Warned(warning)),
            ("agent version", Unknown("Azure has no information".into())),
            ("endpoint", failed(Code::NoEndpoint, Hint::new("enable it: ", "arcssh setup web01")).outcome),
            ("relay", NotChecked(Reason::Blocked("endpoint"))),
            ("certificate", Skipped("none is cached".into())),
            ("sshd", NotChecked(Reason::Blocked("endpoint"))),
        ]
        .into_iter()
        .map(|(name, outcome)| Check { name, outcome })
        .collect()
    }

    #[test]
    fn a_report_ends_with_the_failure_and_its_fix() {
        let lines = [
            "ok    ssh                    OpenSSH_9.2p1",
            "warn  clock                  the clock is late",
            "                             hint: set it:",
            "                                 ntpdate",
            "?     agent version          unknown: Azure has no information",
            "FAIL  endpoint               gone [2J",
            "skip  certificate            none is cached",
            "skip  not checked, because 'endpoint' failed: relay, sshd",
            "",
            "Problem: gone [2J",
            "Fix: enable it:",
            "    arcssh setup web01",
        ];
        assert_eq!(report(PLAIN, &checks(), None).lines().collect::<Vec<_>>(), lines);
        let colored = report(Layout { colors: Colors::On, ..PLAIN }, &checks(), None);
        assert!(colored.contains("\u{1b}[31mFAIL\u{1b}[0m") && !colored.contains("[2J\u{1b}"), "{colored:?}");
    }

    #[test]
    fn in_a_narrow_terminal_the_name_is_a_part_of_the_text() {
        let narrow = Layout { columns: Some(24), ..PLAIN };
        let lines = [
            "ok    ssh: OpenSSH_9.2p1",
            "warn  clock: the clock",
            "      is late",
            "      hint: set it:",
            "          ntpdate",
            "?     agent version:",
            "      unknown: Azure has",
            "      no information",
        ];
        assert_eq!(report(narrow, &checks()[..3], None).lines().take(8).collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_report_without_a_failure_ends_with_the_next_step() {
        let next = Hint::new("To connect, run: ", "ssh web01");
        let end = |checks: &[Check], next| {
            let report = report(PLAIN, checks, next);
            report.split_once("\n\n").map(|(_, end)| end.to_owned()).unwrap_or_default()
        };
        let checks = checks();
        assert_eq!(end(&checks[..1], Some(&next)), "No problem found. To connect, run:\n    ssh web01\n");
        let warned = "No check failed; 1 has a warning. To connect, run:\n    ssh web01\n";
        assert_eq!(end(&checks[..2], Some(&next)), warned);
        assert_eq!(end(&checks[..1], None), "No check failed.\n");
        let interrupted = Check { name: "sshd", outcome: NotChecked(Reason::Interrupted) };
        assert_eq!(end(&[interrupted], Some(&next)), "");
    }

    #[test]
    fn the_line_of_the_running_checks_fits() {
        let line =
            |columns, seconds| Layout { columns: Some(columns), ..PLAIN }.running("relay, sshd", seconds);
        assert_eq!(line(80, 1), "      checking relay, sshd");
        assert_eq!(line(80, 12), "      checking relay, sshd; 12 s so far");
        assert_eq!(line(37, 12), "      checking relay, …; 12 s so far");
        assert!((33..80).all(|columns| width(&line(columns, 12)) < columns));
        assert_eq!(PLAIN.running("", 12), "");
    }
}
