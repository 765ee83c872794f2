//! `arcssh ssh`: runs ssh to a machine, with or without a host entry.

use crate::cli::LogArgs;
use crate::cli::ssh::{Address, SshArgs};
use crate::commands::client::Client;
use crate::commands::destination::Destination;
use crate::diagnosis::{Context, Result};
use crate::ssh::session;

/// Runs ssh, and returns its exit status.
///
/// # Errors
/// Those of [`Destination::open`] and [`Client::new`]; ssh cannot be started.
pub(crate) async fn run(args: &SshArgs, log: &LogArgs) -> Result<u8> {
    let words = &args.words;
    // Programs such as Visual Studio Code ask for the version before they connect. ssh explains an option without its argument.
    if args.machine.is_none() && (words.has('V') || words.has('Q')) || words.lacks_argument() {
        return Ok(session::run(&words.options)?);
    }
    let address = Address::of(args.machine.as_deref());
    let options = address.with_port(&args.destination);
    let mut destination = Destination::open(address.machine.as_deref(), &options, "ssh").await?;
    // ssh reads another configuration.
    if words.has('F') {
        destination.entry = None;
    }
    let context = Context::connecting(destination.target.clone());
    let client = Client::new(&destination, &options, &args.login.with_user(address.user), log).await;
    let client = client.map_err(|error| error.during(context))?;
    Ok(session::run(&client.arguments(words))?)
}
