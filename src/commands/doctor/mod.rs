//! `arcssh doctor`: checks everything between this computer and a machine's sshd, and suggests fixes.

mod bundle;
mod checks;
mod local;
mod outcome;
mod probe;
mod redaction;
mod report;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, interval_at};
use tracing::info;

use crate::azure::arm::Arm;
use crate::azure::hybrid_compute::extension::SshExtension;
use crate::azure::hybrid_connectivity::Service;
use crate::azure::resource_id::ResourceId;
use crate::azure::target::Target;
use crate::cli::DoctorArgs;
use crate::commands::doctor::bundle::{Bundle, Evidence};
use crate::commands::doctor::checks::Evaluator;
use crate::commands::doctor::probe::{Prober, TOTAL_TIMEOUT};
use crate::commands::doctor::report::Report;
use crate::commands::provision::{Mode, Provisioner};
use crate::diagnosis::{Result, all_done};
use crate::entra_ssh::CertificateOptions;
use crate::machines::distinguished;
use crate::net::Net;
use crate::provisioning::DesiredService;
use crate::provisioning::extension::Unfit;
use crate::ssh::managed_block;
use crate::state::Store;
use crate::system::SystemError;
use crate::system::signals::shutdown;
use crate::terminal::TerminalError;
use crate::terminal::progress::Progress;
use crate::terminal::prompt::Confirm;

/// How long `--fix` waits for the machine's agent.
const WAIT: Duration = Duration::from_secs(180);
/// How long it waits for an extension.
const EXTENSION_WAIT: Duration = Duration::from_secs(900);
/// The time between two updates of the line with the checks that run.
const SECOND: Duration = Duration::from_secs(1);

/// Prints the report; 1 if a check failed.
///
/// # Errors
/// An invalid endpoint; a fix that failed.
pub(crate) async fn run(args: &DoctorArgs) -> Result<u8> {
    let bundle = args.bundle.as_deref().map(Bundle::create).transpose()?;
    // A state directory that cannot be used fails its own check, and the other checks run without it.
    let (store, health) = match Store::open().and_then(|store| Ok((store.check()?, store))) {
        Ok((count, store)) => (store, Ok(count)),
        Err(error) => (Store::disabled(), Err(error)),
    };
    let file = args.file.clone().map_or_else(managed_block::default_path, Ok)?;
    let entry = args.machine.as_ref().and_then(|machine| local::entry(&file, machine));
    let proxy = entry.as_ref().and_then(|entry| entry.proxy_args(&args.typed));
    let (azure, certificate) = match &proxy {
        Some(proxy) => (&proxy.azure, proxy.certificate.options()),
        None => (&args.azure, CertificateOptions::default()),
    };
    let (credential, cloud, net) = (azure.credential.options(), azure.cloud()?, Net::unchecked());
    let arm = Arm::new(&cloud, &net, &store, credential.clone());
    let prober = Prober { args, file, entry, credential, certificate, cloud, net, store, arm };
    let mut signal = pin!(shutdown());
    let machine = args.machine.as_deref();
    let mut checked = check(&prober, health.clone(), signal.as_mut()).await?;
    if let Some((id, port, extension)) = checked.fixable().filter(|_| args.fix) {
        let fixed = tokio::select! {
            biased;
            number = signal.as_mut() => Err(number),
            fixed = fix(&prober, id, port, extension) => Ok(fixed),
        };
        match fixed {
            Ok(Ok(())) => checked = check(&prober, health, signal.as_mut()).await?,
            Ok(Err(error)) => {
                checked.report.print_json(machine)?;
                return Err(error);
            }
            Err(number) => checked.signal = Some(number),
        }
    }
    checked.report.print_json(machine)?;
    if let Some(bundle) = bundle.filter(|_| checked.signal.is_none()) {
        let evidence = Evidence { prober: &prober, evaluator: &checked.evaluator, report: &checked.report };
        tokio::select! {
            biased;
            number = signal.as_mut() => checked.signal = Some(number),
            files = evidence.files() => bundle.write(&files)?,
        }
    }
    Ok(match checked.signal {
        Some(number) => 128 + number,
        None => u8::from(checked.report.has_failure()),
    })
}

/// A run of all checks.
struct Checked {
    evaluator: Evaluator,
    report: Report,
    /// The number of the signal that ended it.
    signal: Option<u8>,
}

impl Checked {
    /// Returns the machine, the port and the extension with which `arcssh setup` repairs a failure.
    fn fixable(&self) -> Option<(ResourceId, u16, Option<SshExtension>)> {
        let port = self.evaluator.facts.probes.connection.get()?.port;
        let extension = self.evaluator.missing_extension();
        let is_fixable = self.signal.is_none() && (self.report.is_fixable() || extension.is_some());
        self.evaluator.machine().filter(|_| is_fixable).map(|machine| (machine, port, extension))
    }
}

/// Runs the checks and prints each as soon as it has a result. A signal ends them.
async fn check(
    prober: &Prober<'_>,
    health: Result<Option<usize>, SystemError>,
    mut signal: Pin<&mut impl Future<Output = u8>>,
) -> Result<Checked> {
    let evaluator = Evaluator { facts: prober.facts(health) };
    let mut report = Report::new(prober.args);
    let is_live = report.is_live();
    let mut probe = Box::pin(prober.probe(&evaluator.facts.probes));
    let mut seconds = interval_at(Instant::now() + SECOND, SECOND);
    let work = async {
        loop {
            // Each time that the probes make progress, there can be new facts.
            let step = poll_fn(|context| {
                let ended = probe.as_mut().poll(context);
                report.update(&evaluator).map_or_else(|error| Poll::Ready(Err(error)), |()| ended.map(Ok))
            });
            tokio::select! {
                biased;
                number = signal.as_mut() => return Ok(Some(number)),
                ended = step => return ended.map(|()| None),
                _ = seconds.tick() => {}
            }
        }
    };
    let progress = Progress::default();
    progress.set_deadline("checks".into(), TOTAL_TIMEOUT);
    let signal: Result<_, TerminalError> = if is_live { work.await } else { progress.run(work).await };
    let signal = signal?;
    drop(probe);
    report.finish(&evaluator, evaluator.next_step(prober.args).as_ref())?;
    Ok(Checked { evaluator, report, signal })
}

/// Enables SSH, and installs an extension, as `arcssh setup` does.
async fn fix(
    prober: &Prober<'_>,
    machine: ResourceId,
    port: u16,
    extension: Option<SshExtension>,
) -> Result<()> {
    let Prober { args, net, store, arm, .. } = prober;
    info!("setting up {machine}");
    let desired = DesiredService { service: Service::Ssh, port: Some(port), replace: false };
    let (extensions, unfit) = (extension.as_slice(), Unfit::Reject);
    let wait = if extensions.is_empty() { WAIT } else { EXTENSION_WAIT };
    let provisioner = Provisioner { net, store, arm, desired, extensions, unfit, jobs: 1, wait };
    let target = distinguished(Target::new(&machine, Service::Ssh, port));
    all_done(provisioner.run(vec![target], Mode::Apply(Confirm::of(args.yes))).await.into_results())
}
