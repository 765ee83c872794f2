//! The options of the commands that connect to one machine, by any of its names.

use std::ffi::OsString;

use clap::Args;

use crate::cli::{AzureArgs, TargetArgs, complete};

/// How to find a machine, and how to connect to it.
#[derive(Clone, Debug, Args)]
pub(crate) struct DestinationArgs {
    /// Search only the subscription with this name or ID
    #[arg(short, long, value_name = "SUBSCRIPTION", hide_short_help = true, help_heading = "Machines", add = complete::subscription())]
    pub(crate) subscription: Option<String>,
    #[command(flatten, next_help_heading = "Connection")]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) azure: AzureArgs,
    /// The options of `azure` from the command line. They override those of a host entry, which override the
    /// environment.
    #[arg(skip)]
    pub(crate) typed: Vec<OsString>,
}
