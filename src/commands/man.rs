//! `arcssh man`: writes the manual pages, for `make install`.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use anyhow::Context as _;
use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{Cli, ManArgs};
use crate::diagnosis::{ExitStatus, Result};
use crate::system::files;

/// Why a script cannot read an [`ExitStatus`] through ssh.
const SSH_EXIT_STATUS: &str = "ssh does not return the status of its ProxyCommand: ssh exits with 255. To see the error, run arcssh-last(1).";

/// Environment variables that arcssh reads, for arcssh(1).
const ENVIRONMENT: [(&str, &str); 27] = [
    ("ARCSSH_CREDENTIAL", "Default of --credential."),
    (
        "AZURE_TOKEN_CREDENTIALS",
        "Credential sources to try without --credential and ARCSSH_CREDENTIAL: dev, prod, or a credential of Azure's SDKs, such as AzureCliCredential.",
    ),
    ("ARCSSH_CLOUD", "Default of --cloud."),
    ("ARCSSH_ARM_ENDPOINT", "Default of --arm-endpoint."),
    ("ARCSSH_ARM_AUDIENCE", "Default of --arm-audience."),
    ("AZURE_AUTHORITY_HOST", "Default of --authority-host."),
    ("ARCSSH_RELAY_SUFFIX", "Default of --relay-suffix."),
    (
        "ARCSSH_SSH",
        "Default of --ssh. arcssh runs this client to read and verify the ssh configuration, and the ssh-keygen in its directory. It does not change which ssh you run.",
    ),
    ("ARCSSH_STATE_DIR", "Directory in which arcssh creates the state directory, arcssh-state."),
    (
        "ARCSSH_NO_KEYRING",
        "If not empty, arcssh-login(1) stores the refresh token in a file that only you can read.",
    ),
    (
        "AZURE_TENANT_ID, AZURE_CLIENT_ID",
        "Tenant and application of a service principal, with one of the next three.",
    ),
    ("AZURE_CLIENT_SECRET", "Secret of the service principal."),
    (
        "AZURE_CLIENT_CERTIFICATE_PATH",
        "PEM file with the certificate of the service principal and its RSA key, without a password.",
    ),
    (
        "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN",
        "If true, also send the certificates of that file, for an application that accepts certificates by subject and issuer.",
    ),
    ("AZURE_FEDERATED_TOKEN_FILE", "File with a token of another issuer that the service principal trusts."),
    (
        "ACTIONS_ID_TOKEN_REQUEST_URL, ACTIONS_ID_TOKEN_REQUEST_TOKEN",
        "Where GitHub Actions issues such a token to a job with the permission id-token: write. GitHub sets them.",
    ),
    (
        "SYSTEM_OIDCREQUESTURI, SYSTEM_ACCESSTOKEN, AZURESUBSCRIPTION_SERVICE_CONNECTION_ID, AZURESUBSCRIPTION_CLIENT_ID, AZURESUBSCRIPTION_TENANT_ID, ARM_ADO_PIPELINE_SERVICE_CONNECTION_ID, ARM_OIDC_AZURE_SERVICE_CONNECTION_ID",
        "Where Azure Pipelines issues such a token, the token of the job, and the service connection.",
    ),
    (
        "IDENTITY_ENDPOINT, IDENTITY_HEADER, IMDS_ENDPOINT, MSI_ENDPOINT",
        "Where Azure Arc and App Service issue tokens of a managed identity. Azure sets them.",
    ),
    (
        "AZURE_CONFIG_DIR, AZD_CONFIG_DIR, AZURE_CLOUD_NAME",
        "Directories of Azure CLI and Azure Developer CLI, for their sign-ins, and the cloud of Azure CLI.",
    ),
    (
        "SSHPROXY_RELAY_INFO",
        "Relay information for arcssh-proxy(1), as az ssh passes it to Microsoft's sshProxy.",
    ),
    (
        "HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        "HTTP proxy for Azure and for the relay, as http://USER:PASSWORD@HOST:PORT, and the hosts, domains and networks to connect to without it. Lower case works too. A value that arcssh cannot use is an error.",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "File, and directories, with root certificates in PEM format to trust in addition to the system's.",
    ),
    (
        "REQUESTS_CA_BUNDLE",
        "Root certificates of Azure CLI. arcssh does not read them, and names the variable in a hint.",
    ),
    (
        "ARCSSH_FORWARD_HOST, ARCSSH_FORWARD_PORT, ARCSSH_FORWARD_SOCKET",
        "Set by arcssh-forward(1) for the command of --exec: where to connect to the first machine. Those of the second machine end in 2.",
    ),
    ("RUST_LOG", "What to log, such as arcssh=debug."),
    ("NO_COLOR, CLICOLOR", "Without colours: if NO_COLOR is not empty, or CLICOLOR is 0."),
    ("XDG_STATE_HOME", "Parent directory of the state directory: ~/.local/state if not set."),
];

/// Files that arcssh reads or writes, for arcssh(1).
const FILES: [(&str, &str); 9] = [
    (
        "~/.ssh/config",
        "Host entries: the managed block of arcssh-config(1). Earlier versions are next to it.",
    ),
    (
        "~/.ssh/known_hosts, /etc/ssh",
        "Host keys, and the configuration of ssh for all users. arcssh reads them to find names that are in use.",
    ),
    ("~/.ssh/arcssh", "Keys and certificates of arcssh-config(1) with --entra, and sockets of their agents."),
    (
        "~/.ssh/arcssh-%C",
        "Sockets of connections that sessions share, with --control-master of arcssh-config(1).",
    ),
    (
        "~/.local/state/arcssh",
        "State directory: the sign-in, the last error of each machine, and cached tokens, relay credentials and certificates. On Windows: %LOCALAPPDATA%\\arcssh. Without a key store, the sign-in contains the refresh token.",
    ),
    (
        "~/.azure, ~/.azd, ~/.Azure",
        "Sign-ins of Azure CLI, Azure Developer CLI and Azure PowerShell. arcssh reads which account and cloud they use.",
    ),
    ("/opt/azcmagent/bin/himds", "Arc agent of this computer, which issues tokens of its managed identity."),
    ("/var/opt/azcmagent/tokens", "Keys with which that agent verifies that a program may get such a token."),
    (
        "/etc/ssl/certs/ca-certificates.crt",
        "Root certificates of the system on Debian. arcssh finds those of other systems too.",
    ),
];

/// Writes arcssh.1 and a page for each command, and returns the exit status.
///
/// # Errors
/// The directory cannot be written to.
pub(crate) fn run(args: &ManArgs) -> Result<u8> {
    let mut arcssh = Cli::command().disable_help_subcommand(true);
    arcssh.build();
    fs::create_dir_all(&args.directory)
        .and_then(|()| write(&arcssh, &args.directory))
        .with_context(|| format!("cannot write to {}", args.directory.display()))?;
    Ok(0)
}

/// Writes the page of a command and those of its subcommands.
fn write(command: &Command, folder: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write(command, folder)?;
    }
    // clap_mangen omits the text of an option that the short help hides.
    let complete = command.clone().before_help(None).before_long_help(None);
    let complete = complete.after_help(None).after_long_help(None);
    let complete = complete.mut_args(|option| option.hide_short_help(false));
    let man =
        Man::new(complete).source(concat!("arcssh ", env!("CARGO_PKG_VERSION"))).manual("arcssh manual");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let page = with_option_groups(command, &String::from_utf8_lossy(&page));
    // The empty date takes no place, and mandoc(1) warns of blank lines and of line breaks around them.
    let page =
        page.replacen(" 1  \"", " 1 \"\" \"", 1).replace("\n.br\n\n.br\n", "\n\n").replace("\n\n", "\n.sp\n");
    let mut page = page.into_bytes();
    last_sections(command).to_writer(&mut page)?;
    replace(&folder.join(man.get_filename()), &page)
}

/// Makes each group of options a part of OPTIONS. clap_mangen writes it as a section.
fn with_option_groups(command: &Command, page: &str) -> String {
    let line = |name: &str, text: &str| {
        let quote = if text.contains(' ') { "\"" } else { "" };
        format!("\n.{name} {quote}{text}{quote}\n")
    };
    let groups = command.get_arguments().filter_map(Arg::get_help_heading);
    let page = groups.fold(page.to_owned(), |page, group| {
        page.replace(&line("SH", &group.to_uppercase()), &line("SS", group))
    });
    if page.contains("\n.SH OPTIONS\n") {
        return page;
    }
    page.replacen("\n.SS ", "\n.SH OPTIONS\n.SS ", 1)
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

/// Returns the sections that clap_mangen does not write, in the order of man-pages(7).
fn last_sections(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let is_main = command.get_name() == "arcssh";
    definitions(&mut roff, "EXIT STATUS", &ExitStatus::MEANINGS);
    if is_main {
        roff.control("PP", []).text([roman(SSH_EXIT_STATUS)]);
        definitions(&mut roff, "ENVIRONMENT", &ENVIRONMENT);
        definitions(&mut roff, "FILES", &FILES);
    }
    examples(&mut roff, command);
    let other = if is_main {
        "ssh(1), ssh_config(5)"
    } else {
        "arcssh(1), for environment variables and files; ssh(1), ssh_config(5)"
    };
    roff.control("SH", ["SEE ALSO"]).text([roman(other)]);
    roff
}

fn definitions(roff: &mut Roff, heading: &str, definitions: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (term, text) in definitions {
        roff.control("TP", []).text([bold(*term)]).text([roman(*text)]);
    }
}

/// Adds the examples with their line breaks, which clap_mangen would remove.
fn examples(roff: &mut Roff, command: &Command) {
    if let Some(text) = command.get_after_long_help().map(ToString::to_string) {
        let lines = text.lines().filter(|line| *line != "Examples:");
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        roff.extend(lines.map(roman));
        roff.control("fi", []);
    }
}
