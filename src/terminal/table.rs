//! Tables: on a terminal they fit its width, and elsewhere no value is shortened.

use clap::builder::styling::Style;

use crate::terminal::output::Screen;
use crate::terminal::palette::TITLE;
use crate::text::{sanitize, shorten, width};

/// Between two columns.
const GAP: &str = "  ";

/// A column of a table.
pub(crate) struct Column {
    title: &'static str,
    /// The width to which a long value may be shortened.
    min: usize,
}

impl Column {
    pub(crate) const fn new(title: &'static str, min: usize) -> Self {
        Self { title, min }
    }
}

/// A value in a row.
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Returns the value in a style, which only a terminal shows.
    pub(crate) fn styled(text: &str, style: Style) -> Self {
        Self { text: sanitize(text), style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text.as_ref(), Style::new())
    }
}

/// A table with a line of titles.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    /// The columns, the most important first.
    importance: Vec<&'static str>,
}

impl Table {
    /// Creates a table without rows. A narrow terminal shortens, and then leaves out, the last columns of `importance` first.
    pub(crate) fn new(columns: Vec<Column>, importance: &[&'static str]) -> Self {
        Self { columns, rows: Vec::new(), importance: importance.to_vec() }
    }

    /// Adds a row with a value for each column.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Returns the lines of the table.
    pub(crate) fn render(&self, screen: Screen) -> String {
        let widths = self.layout(screen.columns().unwrap_or(usize::MAX));
        let titles: Vec<Cell> = self.columns.iter().map(|column| Cell::styled(column.title, TITLE)).collect();
        std::iter::once(&titles).chain(&self.rows).map(|row| line(row, &widths, screen)).collect()
    }

    /// Returns the width of each column, or 0 for a column that is left out.
    fn layout(&self, available: usize) -> Vec<usize> {
        let full: Vec<usize> =
            self.columns.iter().enumerate().map(|(at, column)| self.width(at, column)).collect();
        let position = |title: &&str| self.columns.iter().position(|column| column.title == *title);
        let min = |at: usize| full[at].min(self.columns[at].min);
        let mut shown: Vec<usize> = Vec::new();
        let mut rest = available;
        for at in self.importance.iter().filter_map(position) {
            let gap = if shown.is_empty() { 0 } else { GAP.len() };
            match rest.checked_sub(min(at) + gap) {
                Some(left) => rest = left,
                None if shown.is_empty() => rest = 0,
                None => break,
            }
            shown.push(at);
        }
        let mut widths = vec![0; self.columns.len()];
        for at in shown {
            let more = rest.min(full[at] - min(at));
            rest -= more;
            widths[at] = (min(at) + more).min(available);
        }
        widths
    }

    /// Returns the width of the longest value of a column.
    fn width(&self, at: usize, column: &Column) -> usize {
        let values = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| width(&cell.text));
        values.chain([width(column.title)]).max().unwrap_or_default()
    }
}

/// Returns a row without spaces at its end.
fn line(row: &[Cell], widths: &[usize], screen: Screen) -> String {
    let mut line = String::new();
    let mut missing = String::new();
    for (cell, limit) in row.iter().zip(widths).filter(|(_, limit)| **limit > 0) {
        let text = shorten(&cell.text, *limit);
        let padding = limit.saturating_sub(width(&text));
        if !text.is_empty() {
            line += &std::mem::take(&mut missing);
            line += &screen.styled(&text, cell.style);
        }
        missing += &" ".repeat(padding + GAP.len());
    }
    line + "\n"
}
