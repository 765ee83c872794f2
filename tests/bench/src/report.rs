//! The figures as a table for readers and as JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The lines of the document between which the table is.
const START: &str = "<!-- figures of make bench -->";
const END: &str = "<!-- end of the figures -->";

/// The bound that a figure should meet.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    None,
    /// The largest ratio to the base line.
    RatioAtMost(f64),
    /// The smallest ratio to the base line.
    RatioAtLeast(f64),
    /// The largest value.
    AtMost(f64),
}

/// One figure of arcssh, with the figure of its base line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) arcssh: f64,
    pub(crate) base: Option<f64>,
    pub(crate) goal: Goal,
}

impl Row {
    /// A figure without base line.
    pub(crate) fn alone(name: impl Into<String>, unit: &'static str, arcssh: f64) -> Self {
        Self { name: name.into(), unit, arcssh, base: None, goal: Goal::None }
    }

    fn ratio(&self) -> Option<f64> {
        self.base.map(|base| self.arcssh / base)
    }

    fn cells(&self) -> [String; 5] {
        let goal = match self.goal {
            Goal::None => String::new(),
            Goal::RatioAtMost(bound) => format!("≤ {bound:.2}"),
            Goal::RatioAtLeast(bound) => format!("≥ {bound:.2}"),
            Goal::AtMost(bound) => format!("≤ {bound} {}", self.unit),
        };
        [
            format!("{}, {}", self.name, self.unit),
            figure(self.arcssh),
            self.base.map(figure).unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            goal,
        ]
    }
}

/// Three significant digits.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle of the values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the lines of the table.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from("| Figure | arcssh | Base line | Ratio | Goal |\n|---|---|---|---|---|\n");
    for row in rows {
        let _ = writeln!(text, "| {} |", row.cells().join(" | "));
    }
    text
}

/// Describes the machine, because figures of different machines do not compare.
pub(crate) fn machine() -> String {
    let first = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {cores} × {}, Linux {}",
        first("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default(),
        model.map_or("unknown CPU", |(_, model)| model),
        first("uname", &["-r"]).unwrap_or_default(),
    )
}

/// Writes the rows as JSON.
pub(crate) fn write_json(rows: &[Row], path: &Path) -> Result<()> {
    let json = serde_json::json!({ "machine": machine(), "rows": rows });
    fs::write(path, serde_json::to_string_pretty(&json)? + "\n").with_context(|| path.display().to_string())
}

/// Replaces the table of a document.
pub(crate) fn write_document(rows: &[Row], path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let marked = text.split_once(START).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = marked.with_context(|| format!("{} has no lines for the table", path.display()))?;
    let text = format!("{head}{START}\n\nMeasured on: {}.\n\n{}\n{END}{tail}", machine(), table(rows));
    Ok(fs::write(path, text)?)
}
