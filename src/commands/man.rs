//! `arcssh man`: writes the manual pages, for `make install`.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use anyhow::Context as _;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli::{Cli, ManArgs};
use crate::diagnosis::Result;
use crate::system::files;

/// Writes arcssh.1 and a page for each command, and returns the exit status.
///
/// # Errors
/// The directory cannot be written to.
pub(crate) fn run(args: &ManArgs) -> Result<u8> {
    let mut arcssh = Cli::command().disable_help_subcommand(true);
    arcssh.build();
    fs::create_dir_all(&args.folder)
        .and_then(|()| write(&arcssh, &args.folder))
        .with_context(|| format!("cannot write to {}", args.folder.display()))?;
    Ok(0)
}

/// Writes the page of a command and those of its subcommands.
fn write(command: &Command, folder: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write(command, folder)?;
    }
    let man = Man::new(command.clone().after_help(None));
    let mut page = Vec::new();
    man.render(&mut page)?;
    examples(command).to_writer(&mut page)?;
    replace(&folder.join(man.get_filename()), &page)
}

/// Replaces an earlier page. A file that is not a manual page of arcssh is not overwritten, and no link is followed.
fn replace(file: &Path, page: &[u8]) -> io::Result<()> {
    let is_page = |text: Vec<u8>| String::from_utf8_lossy(&text).contains(".TH arcssh");
    let is_free = match fs::symlink_metadata(file) {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(found) => found.is_file() && files::read(file, files::MAX_TEXT).is_ok_and(is_page),
    };
    if !is_free {
        let why = format!("{} is not a manual page of arcssh", file.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, why));
    }
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut new = builder.prefix(".arcssh-").tempfile_in(file.parent().unwrap_or(Path::new(".")))?;
    new.write_all(page)?;
    new.persist(file)?;
    Ok(())
}

/// Returns the examples with their line breaks, which clap_mangen would remove.
fn examples(command: &Command) -> Roff {
    let mut roff = Roff::new();
    if let Some(text) = command.get_after_help().map(ToString::to_string) {
        let lines = text.lines().filter(|line| *line != "Examples:");
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        roff.extend(lines.map(roman));
        roff.control("fi", []);
    }
    roff
}
