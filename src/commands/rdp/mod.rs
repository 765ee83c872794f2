//! `arcssh rdp`: a remote desktop through a machine's sshd.

mod file;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, anyhow};
use serde_json::json;
use tokio::process::Command;

use crate::cli::LogArgs;
use crate::cli::rdp::RdpArgs;
use crate::cli::ssh::{Address, SshWords};
use crate::commands::client::Client;
use crate::commands::destination::Destination;
use crate::diagnosis::{Context, Result};
use crate::ssh::tunnel::{Tunnel, free_address};
use crate::system::{files, programs};
use crate::terminal::output::{note, print_json};

/// The clients of this platform, and their options before the .rdp file, the best first (FreeRDP's and Remmina's manual pages;
/// open(1) of macOS, whose -W waits for the end of the application).
const CLIENTS: &[(&str, &[&str])] = if cfg!(windows) {
    &[("mstsc", &[])]
} else if cfg!(target_os = "macos") {
    &[("open", &["-W"])]
} else {
    &[
        ("xfreerdp3", &[]),
        ("xfreerdp", &[]),
        ("sdl-freerdp3", &[]),
        ("sdl-freerdp", &[]),
        ("remmina", &["-c"]),
    ]
};

/// What the user can do without a client.
const INSTALL: &str =
    "install FreeRDP, name a client with --client, or enter this address in a client of yours";

/// Opens a tunnel and a client, and returns the exit status of the client, or that of ssh if it ends first.
///
/// # Errors
/// Those of [`Destination::open`] and [`Client::new`]; a program cannot be started; a file cannot be written.
pub(crate) async fn run(args: &RdpArgs, log: &LogArgs) -> Result<u8> {
    let address = Address::of(args.machine.as_deref());
    let options = address.with_port(&args.destination);
    let viewer = viewer(args)?;
    let destination = Destination::open(address.machine.as_deref(), &options, "rdp").await?;
    let login = args.login.with_user(address.user);
    let local = free_address(args.local_port)?;
    let folder = files::temporary("").tempdir().context("cannot create a temporary directory")?;
    let file = args.file.clone().unwrap_or_else(|| folder.path().join(file_name(&destination.id.name)));
    file::write(&file, &file::content(local, args.rdp_user.as_deref().or(login.user.as_deref()))?)?;
    let client = Client::new(&destination, &options, &login, log).await;
    let client = client.map_err(|error| error.during(Context::connecting(destination.target.clone())))?;
    let with_options = |options| client.arguments(&SshWords { options, command: Vec::new() });
    let mut tunnel = Tunnel::start(local, &desktop(args), with_options)?;
    // ssh has printed why it ended.
    if let Some(status) = tunnel.ready().await? {
        return Ok(status_of(status));
    }
    if args.output.is_json() {
        print_json(&json!({
            "machine": destination.target.name, "id": destination.id.to_string(),
            "host": local.ip().to_string(), "port": local.port(),
            "file": args.file.as_ref().map(|file| file.display().to_string()),
            "client": viewer.as_ref().map(|(program, _)| program.display().to_string()),
        }))?;
    }
    let Some((program, options)) = viewer else {
        note(&match args.file {
            Some(_) => format!("wrote {}", file.display()),
            None => format!("no client is installed: {INSTALL}"),
        });
        note(&format!("the desktop of {} is at {local}", destination.target.name));
        note("to close the tunnel, press Ctrl-C");
        return Ok(status_of(tunnel.ended().await?));
    };
    let mut viewer = Command::new(&program);
    viewer.args(options).arg(&file).kill_on_drop(true);
    if args.output.is_json() {
        viewer.stdout(Stdio::from(std::io::stderr()));
    }
    let mut viewer = viewer.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    tokio::select! {
        biased;
        status = viewer.wait() => Ok(status_of(status.context("the client has no exit status")?)),
        status = tunnel.ended() => Ok(status_of(status?)),
    }
}

/// Returns the client to start and its options; `None` if there is none, or if the user starts one.
///
/// # Errors
/// The client of the command line cannot be started.
fn viewer(args: &RdpArgs) -> Result<Option<(PathBuf, &'static [&'static str])>> {
    if args.file.is_some() {
        return Ok(None);
    }
    let Some(program) = &args.client else {
        let find = |(name, options): &(&str, &'static [&str])| {
            Some((programs::find(Path::new(name)).ok()?, *options))
        };
        return Ok(CLIENTS.iter().find_map(find));
    };
    let name = program.display();
    let program = programs::find(program).map_err(|cause| {
        anyhow!("the client {name} {cause}; name another client, or use --file instead of --client")
    })?;
    Ok(Some((program, &[])))
}

/// Returns the address of the desktop for `ssh -L`, which needs brackets around an IPv6 address.
fn desktop(args: &RdpArgs) -> String {
    let RdpArgs { gateway_to: host, rdp_port, .. } = args;
    if host.contains(':') && !host.starts_with('[') {
        return format!("[{host}]:{rdp_port}");
    }
    format!("{host}:{rdp_port}")
}

/// Returns the name of the temporary file, which is the title of the client's window.
fn file_name(machine: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    format!("{}.rdp", machine.chars().map(plain).collect::<String>())
}

fn status_of(status: ExitStatus) -> u8 {
    const FAILED: u8 = 255;
    status.code().and_then(|code| code.try_into().ok()).unwrap_or(FAILED)
}
