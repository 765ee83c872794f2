//! The colours of all output: which text has one, and whether a stream shows colours.

use std::io::IsTerminal;

use clap::builder::styling::{AnsiColor, Style, Styles};

/// A terminal adapts its 16 colours to its background. Yellow, white and bright black are illegible on some.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// A warning.
pub(crate) const WARNING: Style = AnsiColor::Magenta.on_default();
/// A failure, or a removed line.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// Text that the reader can skip.
pub(crate) const ASIDE: Style = Style::new().dimmed();
/// Text that the reader may type, or should follow.
pub(crate) const COMMAND: Style = Style::new().bold();
/// The title of a column.
pub(crate) const TITLE: Style = Style::new().bold();
/// A heading of a help text.
pub(crate) const HEADING: Style = Style::new().bold().underline();
/// The help of clap.
pub(crate) const HELP: Styles = Styles::plain().header(HEADING).usage(HEADING).literal(COMMAND);

/// Whether text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colors {
    /// For a terminal.
    On,
    /// For any other output.
    Off,
}

impl Colors {
    /// Returns whether to write coloured text to this stream.
    pub(crate) fn of(out: &impl IsTerminal) -> Self {
        if out.is_terminal() && !are_disabled() { Self::On } else { Self::Off }
    }

    /// Returns the text in a style, if there are colours.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::On => format!("{style}{text}{style:#}"),
            Self::Off => text.to_owned(),
        }
    }
}

/// Returns whether the user (no-color.org) or the terminal (bixense.com/clicolors) does not permit colours.
fn are_disabled() -> bool {
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|set| set == value);
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    no_color || is("CLICOLOR", "0") || is("TERM", "dumb")
}
