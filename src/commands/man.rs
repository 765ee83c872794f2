//! `arcssh man`: the pages of the manual, for `make install`.

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::cli::{Cli, ManArgs};

/// Writes arcssh.1 and a page a command; the exit status.
///
/// # Errors
/// The folder cannot be written to.
pub(crate) fn run(args: &ManArgs) -> Result<u8> {
    clap_mangen::generate_to(Cli::command(), &args.folder)
        .with_context(|| format!("cannot write to {}", args.folder.display()))?;
    Ok(0)
}
