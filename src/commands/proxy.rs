//! `arcssh proxy`: resolves the machine's relay, connects to it, and copies bytes. It changes nothing in Azure.

use std::cell::RefCell;
use std::path::Path;
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::azure::arm::ArmError;
use crate::azure::hybrid_compute::show;
use crate::azure::hybrid_connectivity::{InvalidCredentials, RelayCredentials};
use crate::azure::relay_credential_cache::{IssuedCredentials, RelayCredentialCache};
use crate::azure::relay_host::RelaySuffixes;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::proxy_command::without_suffix;
use crate::cli::{LogArgs, ProxyArgs, RELAY_INFO_VARIABLE};
use crate::commands::session::Session;
use crate::diagnosis::{Context, Error, Result, last_error};
use crate::entra_ssh::cache::{CertificateCache, CertifiedKey};
use crate::machines::{NameCache, SelectError, distinguished};
use crate::net::{self, Net};
use crate::relay::bridge::{self, BridgeEnd, BridgeError};
use crate::relay::connector::{ARM_TIMEOUT, Connector};
use crate::relay::handshake::{ConnectError, Upgraded};
use crate::ssh::agent::Agent;
use crate::state::Store;
use crate::system::signals::{HANGUP, INTERRUPT, shutdown};
use crate::system::timeout::with_timeout;
use crate::system::{files, parent, stdio};
use crate::terminal::TerminalError;
use crate::terminal::progress::{Progress, Step};

/// The limit for a refresh of cached credentials that is still running when ssh ends.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an error waits for the machine's status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects standard input and output to a port of an Arc machine until one side closes, and returns the exit status.
///
/// # Errors
/// The connection cannot be established, or breaks.
pub(crate) async fn run(args: &ProxyArgs, log: &LogArgs) -> Result<u8> {
    let mut target = target(args);
    let result = if args.machine.is_none() && args.host.is_none() {
        run_with_relay_info(args, log, &target).await
    } else {
        run_to_machine(args, log, &mut target).await
    };
    result.map_err(|error| error.during(Context::connecting(distinguished(target))))
}

/// How long a session continues after Ctrl-C, which reaches ssh too: ssh sends a last message, and prints an error if it cannot
/// (OpenSSH, clientloop.c, `client_loop`: "send disconnect").
const LAST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// Connects to a machine by its resource ID or name.
async fn run_to_machine(args: &ProxyArgs, log: &LogArgs, target: &mut Target) -> Result<u8> {
    // A name in Azure contains no percent sign.
    if let Some(token) = args.host.as_ref().filter(|host| host.starts_with('%')) {
        return Err(SelectError::Unexpanded(token.clone()).into());
    }
    let proxy = Proxy::open(args)?;
    let certificates = proxy.certificates()?;
    let mut stop = pin!(ssh_ends());
    let connecting = proxy.connect_with_certificate(target, certificates.as_ref());
    let connecting = or_interrupted(connecting, &proxy.progress, &mut stop).await;
    let (connection, certified) = connecting.map_err(|error| proxy.with_status(error))?;
    let Connection { credentials, upgraded, issued } = connection;
    connected_to(target, &proxy.session.store, log);
    let agent = agent(args, certified)?;
    let refresh = async {
        if credentials.is_due(&issued) {
            credentials.refresh(&issued).await;
        }
        if let Some(certificates) = &certificates {
            certificates.refresh().await;
        }
    };
    run_session(upgraded, agent, stop, refresh).await
}

/// Deletes the machine's last error, and follows ssh into the background from now on.
fn connected_to(target: &Target, store: &Store, log: &LogArgs) {
    info!(%target, "connected");
    last_error::clear(store, target);
    let has_log = log.verbose > 0;
    tokio::spawn(async move {
        parent::ended().await;
        parent::leave_group();
        if !has_log {
            stdio::release_stderr();
        }
    });
}

/// Copies bytes until one side closes, and refreshes the cached credentials meanwhile. After a regular end, the refresh
/// may continue for [`REFRESH_TIMEOUT`]; ssh does not wait for it, because standard input and output are closed by
/// then.
async fn run_session(
    upgraded: Upgraded<net::Stream>,
    agent: Option<Agent>,
    stop: Pin<&mut impl Future<Output = BridgeEnd>>,
    refresh: impl Future<Output = ()>,
) -> Result<u8> {
    stdio::readable().map_err(BridgeError::Input)?;
    stdio::writable().map_err(BridgeError::Output)?;
    let (input, output) = (stdio::input()?, stdio::output()?);
    let mut refresh = pin!(refresh);
    let stop = async {
        let end = stop.await;
        if matches!(end, BridgeEnd::Signal(INTERRUPT)) {
            let _ = timeout(LAST_MESSAGE_TIMEOUT, stdio::output_closed()).await;
        }
        end
    };
    let is_regular = |end: &BridgeEnd| matches!(end, BridgeEnd::Finished | BridgeEnd::Signal(HANGUP));
    let bridge = async {
        let end = bridge::run(upgraded, input, output, stop).await;
        if is_regular(&end) {
            stdio::detach();
        }
        end
    };
    let mut bridge = pin!(async {
        match agent {
            Some(agent) => agent.during(bridge).await,
            None => bridge.await,
        }
    });
    let end = tokio::select! {
        biased;
        end = &mut bridge => {
            if is_regular(&end) {
                let _ = timeout(REFRESH_TIMEOUT, refresh).await;
            }
            end
        }
        () = &mut refresh => bridge.await,
    };
    match end {
        BridgeEnd::Finished => Ok(0),
        BridgeEnd::Signal(number) => Ok(128 + number),
        BridgeEnd::Broken(error) => Err(error.into()),
    }
}

/// Waits until ssh no longer needs the connection: it sends a signal, or closes arcssh's standard output.
async fn ssh_ends() -> BridgeEnd {
    tokio::select! {
        biased;
        number = shutdown() => BridgeEnd::Signal(number),
        () = stdio::output_closed() => BridgeEnd::Finished,
    }
}

/// Serves the key and its certificate at the path in the `IdentityAgent` of the host entry.
fn agent(args: &ProxyArgs, certified: Option<CertifiedKey>) -> Result<Option<Agent>> {
    let Some((path, certified)) = args.agent.as_ref().zip(certified) else { return Ok(None) };
    Ok(Some(Agent::open(path, certified.key, certified.certificate)?))
}

/// Connects to a machine by its resource ID or name.
struct Proxy<'a> {
    args: &'a ProxyArgs,
    session: Session,
    progress: Progress,
    /// The status of a machine that Azure reports as disconnected.
    status: RefCell<Option<String>>,
}

/// A connection with the relay credentials that it was opened with.
struct Connection<'a> {
    credentials: RelayCredentialCache<'a>,
    upgraded: Upgraded<net::Stream>,
    issued: IssuedCredentials,
}

impl<'a> Proxy<'a> {
    fn open(args: &'a ProxyArgs) -> Result<Self> {
        let (session, progress) = (Session::open(&args.azure)?, Progress::for_proxy());
        Ok(Self { args, session, progress, status: RefCell::default() })
    }

    /// Returns the certificate cache if the host entry logs in with a certificate.
    fn certificates(&self) -> Result<Option<CertificateCache>> {
        if self.args.agent.is_none() {
            return Ok(None);
        }
        Ok(Some(CertificateCache::new(self.session.credentials(), self.args.certificate.options())?))
    }

    /// Connects to the machine and gets the certificate at the same time. Without a certificate the connection fails,
    /// because ssh would not show the reason.
    async fn connect_with_certificate(
        &self,
        target: &mut Target,
        certificates: Option<&CertificateCache>,
    ) -> Result<(Connection<'_>, Option<CertifiedKey>)> {
        let start = Instant::now();
        let step = || Step::wait("SSH certificate").with(" from Entra ID");
        let connection = async {
            let connection = self.connect(target).await?;
            self.progress.set_deadline(step(), ARM_TIMEOUT.saturating_sub(start.elapsed()));
            Ok(connection)
        };
        let certified = async {
            let Some(certificates) = certificates else { return Ok(None) };
            let login_name = self.args.login_name.as_deref();
            let certified = async { Ok(certificates.pair().await?.for_login_name(login_name)?) };
            let timed_out = |after| TerminalError::TimedOut { object: step().full_object(), after }.into();
            with_timeout(ARM_TIMEOUT, certified, timed_out).await.map(Some)
        };
        self.progress.run(async { tokio::try_join!(connection, certified) }).await
    }

    /// Connects by resource ID or by name. If a cached name refers to a machine that no longer exists, resolves the
    /// name again: another machine can have it now.
    async fn connect(&self, target: &mut Target) -> Result<Connection<'_>> {
        let Some(host) = &self.args.host else {
            let machine = self.args.machine.clone().ok_or(NO_MACHINE)?;
            return self.connect_to(target, machine).await;
        };
        let name = without_suffix(host, &self.args.suffix);
        let Session { store, arm, .. } = &self.session;
        let names = NameCache::new(arm, store, name, self.args.subscription.as_deref());
        if let Some(machine) = names.cached()? {
            match self.connect_to(target, machine).await {
                Err(error) if is_not_found(&error) => names.forget(),
                result => return result,
            }
        }
        let step = Step::wait(format!("resource ID of {host}"))
            .or("resource ID")
            .with(" from Azure Resource Manager");
        let resolve = async { Ok::<_, Error>(names.resolve_name().await?) };
        let machine = self.progress.run_with_timeout(ARM_TIMEOUT, step, resolve).await?;
        self.connect_to(target, machine).await
    }

    async fn connect_to(&self, target: &mut Target, machine: ResourceId) -> Result<Connection<'_>> {
        let Session { net, store, arm, .. } = &self.session;
        let credentials = RelayCredentialCache::new(arm, store, &machine, target.service, target.port);
        target.machine = Some(machine);
        let (wait, progress, is_absent) = (self.args.target.wait, &self.progress, &Notify::new());
        let on_no_listener = &|| is_absent.notify_one();
        let connector = Connector { net, target, wait, progress, on_no_listener };
        let (upgraded, issued) = self.with_lookup(target, is_absent, connector.connect(&credentials)).await?;
        Ok(Connection { credentials, upgraded, issued })
    }

    /// Connects. After the first response that no agent listens, requests the machine's status at the same time, and shows
    /// it if Azure reports the machine as disconnected. That status is up to half an hour late (azure-docs,
    /// `articles/azure-arc/servers/overview.md`), so arcssh waits nevertheless.
    async fn with_lookup<T>(
        &self,
        target: &Target,
        is_absent: &Notify,
        connecting: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T> {
        let request = async {
            is_absent.notified().await;
            let machine = show(&self.session.arm, target.machine.as_ref()?).boxed_local().await.ok()??;
            machine.disconnected()
        };
        let (mut connecting, mut request) = (pin!(connecting), pin!(request.fuse()));
        let result = tokio::select! {
            biased;
            result = &mut connecting => result,
            status = &mut request => {
                if let Some(status) = &status {
                    let wait = self.args.target.wait.as_secs();
                    let text = format!("Azure reports {target} as {status}; arcssh waits {wait} s at most");
                    self.progress.println(&text);
                }
                self.status.replace(status);
                connecting.await
            }
        };
        if !request.is_terminated() && result.as_ref().is_err_and(ConnectError::is_no_listener) {
            self.status.replace(timeout(STATUS_TIMEOUT, request).await.ok().flatten());
        }
        Ok(result?)
    }

    /// Returns the error with the machine's status, if Azure reports the machine as disconnected.
    fn with_status(&self, error: Error) -> Error {
        match (self.status.take(), error) {
            (Some(status), Error::Connect(error)) if error.is_no_listener() => {
                Error::Offline { status, error: error.into() }
            }
            (Some(status), Error::Terminal(TerminalError::Interrupted { object, after, signal })) => {
                let object = format!("{object}; Azure reports the machine as {status}");
                TerminalError::Interrupted { object, after, signal }.into()
            }
            (_, error) => error,
        }
    }
}

/// Returns whether Azure Resource Manager responded that the machine does not exist.
fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Connect(ConnectError::Credentials(ArmError::Rejected(response))) if response.status == 404)
}

/// Connects with relay information of `az ssh`, without requests to Azure Resource Manager.
async fn run_with_relay_info(args: &ProxyArgs, log: &LogArgs, target: &Target) -> Result<u8> {
    let credentials = relay_info(args.relay_info.as_deref(), &args.azure.cloud.relay_suffixes())?;
    let net = Net::new()?;
    let progress = Progress::for_proxy();
    let (wait, progress) = (args.target.wait, &progress);
    let connector = Connector { net: &net, target, wait, progress, on_no_listener: &|| () };
    let mut stop = pin!(ssh_ends());
    let connecting = progress.run(async { Ok(connector.connect_with(&credentials).await?) });
    let upgraded = or_interrupted(connecting, progress, &mut stop).await?;
    connected_to(target, &Store::open().unwrap_or_else(|_| Store::disabled()), log);
    run_session(upgraded, None, stop, async {}).await
}

/// Returns the result of `work`, unless ssh ends first.
///
/// # Errors
/// Those of `work`; [`TerminalError::Interrupted`].
async fn or_interrupted<T>(
    work: impl Future<Output = Result<T>>,
    progress: &Progress,
    stop: &mut Pin<&mut impl Future<Output = BridgeEnd>>,
) -> Result<T> {
    let start = Instant::now();
    let end = tokio::select! {
        biased;
        result = work => return result,
        end = stop => end,
    };
    let signal = if let BridgeEnd::Signal(number) = end { number } else { HANGUP };
    Err(TerminalError::Interrupted { after: start.elapsed(), object: progress.object(), signal }.into())
}

/// Reads relay information from the file or from the environment.
fn relay_info(file: Option<&Path>, suffixes: &RelaySuffixes) -> Result<RelayCredentials> {
    let (text, origin) = match file {
        Some(file) => {
            let text = files::read_text(file, MAX_RELAY_INFO)
                .with_context(|| format!("cannot read {}", file.display()))?;
            (text, file.display().to_string())
        }
        None => match std::env::var(RELAY_INFO_VARIABLE) {
            Ok(text) => (text, RELAY_INFO_VARIABLE.to_owned()),
            Err(_) => return Err(NO_MACHINE.into()),
        },
    };
    RelayCredentials::from_relay_info(&text, suffixes).map_err(|error| match error {
        InvalidCredentials::UntrustedRelay(host) => ArmError::UntrustedRelay(host).into(),
        InvalidCredentials::Malformed(cause) => {
            anyhow!("{origin} contains no relay information: {cause}").into()
        }
    })
}

/// The most bytes of relay information; a response of listCredentials has about 4 kB, and a third more in base64.
const MAX_RELAY_INFO: u64 = 64 * 1024;

/// The error if the command line has neither a resource ID nor relay information.
const NO_MACHINE: SelectError = SelectError::NothingSelected { command: "proxy" };

fn target(args: &ProxyArgs) -> Target {
    let (service, port) = (args.target.service, args.target.port());
    match &args.machine {
        Some(machine) => Target::new(machine, service, port),
        None => {
            let name = args.host.clone().unwrap_or("the machine".into());
            Target { machine: None, argument: name.clone(), name, port, service }
        }
    }
}
