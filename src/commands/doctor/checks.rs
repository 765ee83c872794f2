//! What the findings mean, a function a check. Of several things that are wrong the first is blamed: what cannot be
//! known or cannot work before it is put right is skipped.

use std::path::Path;

use anyhow::Error;

use crate::azure::arm::{ArmError, ErrorResponse};
use crate::azure::hybrid_compute::{Extension, Machine};
use crate::azure::hybrid_connectivity::endpoint::Lookup;
use crate::azure::rbac::{CONNECT, LOGIN, LOGIN_AS_ADMIN, SET_UP, least_role};
use crate::azure::resource_id::ResourceId;
use crate::azure::resource_providers::NAMESPACE;
use crate::commands::doctor::local::{Block, HostKey};
use crate::commands::doctor::probe::{Banner, Facts, Probe, Slow};
use crate::commands::doctor::report::{AGENT, Check, Command, Hint, Outcome, SERVED_REGION, Words};
use crate::machines::NoSubscriptions;
use crate::provisioning::ServiceState;
use crate::relay::handshake::ConnectError;
use crate::state::OTHER_DIRECTORY;
use crate::text::shell_quote;

use Outcome::{Failed, Passed, Skipped, Warned};

/// The first agent that knows service configurations (azure-docs `ssh-arc-overview.md`), and the first that ssh could be
/// used with at all (the same in its first version).
const SERVICE_CONFIGURATIONS: [u64; 2] = [1, 31];
const FIRST_AGENT: [u64; 3] = [1, 13, 21320];
/// The first OpenSSH that takes RSA certificates with SHA-2 signatures, which are all that newer clients make
/// (bugzilla.mindrot.org 3351; entra-docs `howto-vm-sign-in-azure-ad-linux.md`).
const SHA2_CERTIFICATES: [u64; 2] = [7, 8];
/// By how many seconds clocks may differ before something notices, and before Entra ID takes no assertion any more
/// (Microsoft Learn, "Microsoft identity platform certificate credentials": minutes).
const SKEW_NOTICED: u64 = 60;
const SKEW_REFUSED: u64 = 300;
/// Of a token's life, the seconds that are told as few.
const SHORT_LIFE: u64 = 60;

/// A judgement of what was found.
type CheckFn = fn(&Evaluator) -> Outcome;

/// In the order in which they are shown.
const CHECKS: [(&str, CheckFn); 22] = [
    ("ssh", |evaluator| evaluator.program(0, "openssh-client")),
    ("ssh-keygen", |evaluator| evaluator.program(1, "openssh-client")),
    ("identity", Evaluator::identity),
    ("clock", Evaluator::clock),
    ("subscription", Evaluator::subscription),
    ("resource provider", Evaluator::provider),
    ("machine", Evaluator::machine_status),
    ("agent version", Evaluator::agent_version),
    ("operating system", Evaluator::operating_system),
    ("region", Evaluator::region),
    ("private link", Evaluator::private_link),
    ("permissions", Evaluator::permissions),
    ("endpoint", Evaluator::endpoint),
    ("service configuration", Evaluator::service_configuration),
    ("entra login", Evaluator::entra_login),
    ("network", Evaluator::network),
    ("relay", Evaluator::relay),
    ("sshd", Evaluator::sshd),
    ("host key", Evaluator::host_key),
    ("certificate", Evaluator::certificate),
    ("ssh configuration", Evaluator::configuration),
    ("state directory", Evaluator::store),
];

/// Returns whether `arcssh setup` repairs what failed.
pub(super) fn is_fixable(check: &Check) -> bool {
    let Failed(Words { hint: Some(hint), .. }) = &check.outcome else { return false };
    matches!(hint.command, Some(Command::SetUp(_)))
}

/// Who judges, with the words of errors.
pub(super) struct Evaluator {
    pub(super) facts: Facts,
    pub(super) explain: fn(&Error) -> Words,
}

impl Evaluator {
    /// All checks.
    pub(super) fn checks(&self) -> Vec<Check> {
        CHECKS.iter().map(|(name, check)| Check { name, outcome: check(self) }).collect()
    }

    /// The machine, where it is there.
    pub(super) fn machine(&self) -> Option<ResourceId> {
        Some(self.facts.machine.as_ref()?.as_ref().ok()?.id.clone())
    }

    fn failed(&self, error: &Error) -> Outcome {
        Failed((self.explain)(error))
    }

    /// The same where the error may have no words for what to type.
    fn failed_or(&self, error: &Error, hint: impl Into<Hint>) -> Outcome {
        let words = (self.explain)(error);
        Failed(Words { hint: words.hint.or(Some(hint.into())), ..words })
    }

    /// What comes before everything in Azure.
    fn in_azure(&self) -> Result<(), Outcome> {
        if self.facts.way.iter().any(|(_, way)| way.is_err()) {
            return Err(blocked_by("the network"));
        }
        match self.facts.token {
            Some(Ok(_)) => Ok(()),
            _ => Err(blocked_by("an identity")),
        }
    }

    /// What comes before everything about a machine.
    fn examined(&self) -> Result<&Machine, Outcome> {
        self.in_azure()?;
        if self.facts.named.is_none() {
            return Err(Skipped("no machine is named".into()));
        }
        if matches!(self.subscription(), Failed(_)) {
            return Err(blocked_by("the subscription"));
        }
        seen(&self.facts.machine).ok_or_else(|| blocked_by("the machine"))
    }

    /// What Azure holds of the machine, where the provider is registered and the identity may connect.
    fn found(&self) -> Result<&ServiceState, Outcome> {
        self.examined()?;
        if self.is_unregistered() {
            return Err(blocked_by("the resource provider"));
        }
        match &self.facts.found {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) if is_refused(error, 403) => Err(blocked_by("the permissions")),
            Some(Err(error)) => Err(self.not_found(error)),
            None => Err(blocked_by("the machine")),
        }
    }

    fn not_found(&self, error: &Error) -> Outcome {
        let is_registered = seen(&self.facts.registration).is_some();
        match refusal(error).filter(|refusal| refusal.is_unserved() && is_registered) {
            Some(ErrorResponse { code, message, .. }) => Failed(Words::new(
                format!("{NAMESPACE} does not serve the machine's region ({code}: {message})"),
                SERVED_REGION,
            )),
            None => self.failed(error),
        }
    }

    fn is_unregistered(&self) -> bool {
        seen(&self.facts.registration).is_some_and(|registration| !registration.is_done())
    }

    fn answers(&self) -> bool {
        matches!(self.facts.relay, Some(Ok(())))
    }

    fn program(&self, number: usize, package: &str) -> Outcome {
        match &self.facts.programs[number] {
            Ok(Some(version)) if number == 0 => Passed(version.clone()),
            Ok(Some(_)) => Passed("installed".into()),
            Ok(None) => Failed(Words::new("it is not installed", Hint::command(installation(package)))),
            Err(error) => self.failed(error),
        }
    }

    fn identity(&self) -> Outcome {
        match &self.facts.token {
            None => blocked_by("the network"),
            Some(Err(error)) if error.is::<Slow>() => {
                Failed(Words::new(error.to_string(), Hint::command("arcssh login")))
            }
            Some(Err(error)) => self.failed(error),
            Some(Ok(token)) => {
                let claims = token.claims();
                let text = |name: &str| claims[name].as_str().map(ToOwned::to_owned);
                let who =
                    ["upn", "unique_name", "appid", "oid"].into_iter().find_map(text).unwrap_or_default();
                let tenant = text("tid").unwrap_or_default();
                let left = token.expires_on.saturating_sub(crate::system::clock::unix_now());
                let told =
                    format!("{}: {who} in the tenant {tenant}, for {} min", token.source.title(), left / 60);
                match left {
                    ..SHORT_LIFE => Warned(Words::new(
                        format!("{told}: it ends now"),
                        Hint::command("arcssh cache clear"),
                    )),
                    _ => Passed(told),
                }
            }
        }
    }

    fn clock(&self) -> Outcome {
        let Some(skew) = self.facts.skew else {
            return self.in_azure().err().unwrap_or(Skipped("Azure did not tell the time".into()));
        };
        let (seconds, way) = (skew.unsigned_abs(), if skew < 0 { "behind" } else { "ahead of" });
        let why = format!("this machine's clock is {seconds} s {way} Azure's");
        if seconds <= SKEW_NOTICED {
            return Passed(format!("within {SKEW_NOTICED} s of Azure's"));
        }
        let words = Words::new(why, Hint::command(set_clock()));
        if seconds <= SKEW_REFUSED { Warned(words) } else { Failed(words) }
    }

    fn subscription(&self) -> Outcome {
        if let Err(skipped) = self.in_azure() {
            return skipped;
        }
        match (&self.facts.subscriptions, &self.facts.registration) {
            (Some(Ok(0)), _) => Warned((self.explain)(&NoSubscriptions.into())),
            (Some(Ok(count)), _) => Passed(format!("{count} to be seen")),
            (Some(Err(error)), _) => self.failed(error),
            (None, Some(Ok(_))) => Passed(self.subscription_id()),
            (None, Some(Err(error))) if is_refused(error, 403) => {
                Passed(format!("{}, of which this identity may see nothing else", self.subscription_id()))
            }
            (None, Some(Err(error))) => self.failed(error),
            (None, None) => blocked_by("the machine"),
        }
    }

    fn subscription_id(&self) -> String {
        self.machine().map_or("it is there".into(), |machine| machine.subscription)
    }

    fn provider(&self) -> Outcome {
        if let Err(skipped) = self.examined() {
            return skipped;
        }
        match &self.facts.registration {
            Some(Ok(registration)) if registration.is_done() => Passed(format!("{NAMESPACE} is registered")),
            Some(Ok(registration)) => Failed(Words::new(
                format!("{NAMESPACE} is {} in the subscription", registration.state),
                self.set_up(),
            )),
            Some(Err(_)) | None => Skipped("its state may not be read with this role".into()),
        }
    }

    fn machine_status(&self) -> Outcome {
        if let Err(skipped) = self.in_azure() {
            return skipped;
        }
        if let Some(error) = failed(&self.facts.machine) {
            let by_subscription = matches!(self.subscription(), Failed(_));
            let list = Hint::new("list the machines that this identity sees: arcssh list", "arcssh list");
            return if by_subscription {
                blocked_by("the subscription")
            } else {
                self.failed_or(error, list)
            };
        }
        let machine = match self.examined() {
            Ok(machine) => machine,
            Err(skipped) => return skipped,
        };
        let told = since(&machine.status, &machine.last_status_change);
        match machine.status.to_lowercase().as_str() {
            "" => Passed("it cannot be read".into()),
            "connected" => Passed(told),
            _ if self.answers() => Warned(Words { why: format!("{told}, and yet it answers"), hint: None }),
            "expired" => Failed(Words::new(
                format!("{told}: Azure has given it up after 45 days"),
                "on the machine: azcmagent disconnect, and then azcmagent connect",
            )),
            _ => Failed(Words::new(told, AGENT)),
        }
    }

    fn agent_version(&self) -> Outcome {
        let machine = match self.examined() {
            Ok(machine) => machine,
            Err(skipped) => return skipped,
        };
        let version = numbers(&machine.agent_version);
        let told = machine.agent_version.clone();
        let update = if machine.os == "windows" {
            "on the machine: install Windows updates, or msiexec /i AzureConnectedMachineAgent.msi"
        } else {
            "on the machine: sudo apt upgrade azcmagent, or yum, dnf, zypper update azcmagent"
        };
        if version.is_empty() {
            return Skipped("Azure does not tell".into());
        }
        if version.as_slice() >= &SERVICE_CONFIGURATIONS[..] {
            return Passed(told);
        }
        let words = if version.as_slice() >= &FIRST_AGENT[..] {
            Words::new(format!("{told} does not know service configurations; 1.31 does"), update)
        } else {
            Words::new(format!("{told} cannot carry ssh at all; 1.31 can"), update)
        };
        if self.answers() { Warned(words) } else { Failed(words) }
    }

    fn operating_system(&self) -> Outcome {
        match self.examined() {
            Ok(machine) if machine.os.is_empty() => Skipped("Azure does not tell".into()),
            Ok(machine) if machine.os == "windows" => {
                Passed("windows: local and domain users; Entra ID's log in to Linux only".into())
            }
            Ok(machine) => Passed(format!("{}: local users, and Entra ID's with its extension", machine.os)),
            Err(skipped) => skipped,
        }
    }

    fn region(&self) -> Outcome {
        match self.examined() {
            Ok(machine) if machine.location.is_empty() => Skipped("Azure does not tell".into()),
            Ok(machine) => Passed([&*machine.location, &*machine.kind].join(" ").trim_end().to_owned()),
            Err(skipped) => skipped,
        }
    }

    fn private_link(&self) -> Outcome {
        match self.examined() {
            // azure-docs `private-link-security.md`.
            Ok(machine) if machine.is_private_link => Warned(Words::new(
                "its agent is in a private link scope, which does not carry ssh",
                Hint::command(format!(
                    "az connectedmachine update --name {} {} --private-link-scope-resource-id=",
                    shell_quote(&machine.id.name),
                    place_of(&machine.id)
                )),
            )),
            Ok(_) => Passed("none".into()),
            Err(skipped) => skipped,
        }
    }

    fn permissions(&self) -> Outcome {
        if let Err(skipped) = self.examined() {
            return skipped;
        }
        let refused = [failed(&self.facts.found), failed(&self.facts.relay)];
        if let Some(error) = refused.into_iter().flatten().find(|error| is_refused(error, 403)) {
            return self.failed(error);
        }
        let Some(permissions) = seen(&self.facts.permissions) else {
            return Skipped("they may not be read with this role".into());
        };
        if !permissions.allow(CONNECT) && !self.answers() {
            let hint =
                format!("an owner of the machine gives this identity the role {}", least_role(CONNECT));
            return Failed(Words::new(format!("it lacks the right {CONNECT}"), hint));
        }
        let set_up = if SET_UP.iter().all(|action| permissions.allow(action)) {
            "connect and set up"
        } else {
            "connect"
        };
        let login = match (permissions.allow_data(LOGIN_AS_ADMIN), permissions.allow_data(LOGIN)) {
            (true, _) => "; log in by Entra ID as administrator",
            (false, true) => "; log in by Entra ID",
            (false, false) => "",
        };
        Passed(format!("{set_up}{login}"))
    }

    fn endpoint(&self) -> Outcome {
        match self.found().map(|found| found.endpoint) {
            Ok(Lookup::Found(())) => Passed("it is there".into()),
            Ok(Lookup::Forbidden) => Passed("it is there, and may not be read with this role".into()),
            Ok(Lookup::NotFound) => Failed(Words::new("it has no connectivity endpoint yet", self.set_up())),
            Err(skipped) => skipped,
        }
    }

    fn service_configuration(&self) -> Outcome {
        let port = self.facts.port;
        match self.found().map(|found| (found.endpoint, found.port)) {
            Ok((Lookup::NotFound, _)) => blocked_by("the endpoint"),
            Ok((_, Lookup::Found(enabled))) if enabled == port => Passed(format!("SSH on port {port}")),
            Ok((_, Lookup::Found(enabled))) => Failed(self.other_port(enabled)),
            Ok((_, Lookup::Forbidden)) => Passed("it is there, and may not be read with this role".into()),
            Ok((_, Lookup::NotFound)) => {
                Failed(Words::new("the service is not enabled on it yet", self.set_up()))
            }
            Err(Failed(_)) => blocked_by("the endpoint"),
            Err(skipped) => skipped,
        }
    }

    /// A machine has one port for ssh, and others may connect by it: it moves for nobody who has not named another.
    fn other_port(&self, enabled: u16) -> Words {
        let port = self.facts.port;
        match &self.facts.section {
            Some(section) if !self.facts.is_typed => Words::new(
                format!(
                    "SSH is enabled on port {enabled}, and ssh connects to {port}: arcssh config --port {enabled} would write that one into all sections"
                ),
                Hint::command(format!("ssh -p {enabled} {}", shell_quote(&section.alias))),
            ),
            _ => Words::new(
                format!(
                    "SSH is enabled on port {enabled}, and a machine has one port for it: ssh -p {enabled} reaches it, {port} would have to take its place"
                ),
                Hint::command(format!("{} --port {port} --replace-port", self.set_up_command())),
            ),
        }
    }

    fn set_up(&self) -> Hint {
        Hint::set_up(match self.facts.port {
            22 => self.set_up_command(),
            port => format!("{} --port {port}", self.set_up_command()),
        })
    }

    fn set_up_command(&self) -> String {
        let id = self.machine().map_or("MACHINE".into(), |machine| machine.to_string());
        format!("arcssh setup {}", shell_quote(&id))
    }

    fn entra_login(&self) -> Outcome {
        let machine = match self.examined() {
            Ok(machine) => machine,
            Err(skipped) => return skipped,
        };
        if machine.os == "windows" {
            return Skipped("Entra ID's users log in to Linux only".into());
        }
        let Some(extensions) = seen(&self.facts.extensions) else {
            return Skipped("its extensions cannot be read".into());
        };
        let extension = extensions.iter().find(|extension| extension.is_entra_login());
        let has_role = seen(&self.facts.permissions).is_some_and(|permissions| permissions.allow_data(LOGIN));
        let on = format!("--machine-name {} {}", shell_quote(&machine.id.name), place_of(&machine.id));
        match (extension.map(Extension::state), has_role) {
            (None, true) => Warned(Words::new(
                "this identity may log in by Entra ID, and the extension for it is not installed",
                Hint::command(format!(
                    "az connectedmachine extension create {on} --publisher Microsoft.Azure.ActiveDirectory --name AADSSHLogin --type AADSSHLoginForLinux --location {}",
                    shell_quote(&machine.location)
                )),
            )),
            (None, false) => Skipped("local users only: the extension is not installed".into()),
            (Some(state), _) if !state.eq_ignore_ascii_case("Succeeded") => Warned(Words::new(
                format!("the extension is there, and its state is {state}"),
                Hint::command(format!("az connectedmachine extension list {on}")),
            )),
            (Some(_), true) => {
                Passed("the extension is installed, and this identity has a role for it".into())
            }
            (Some(_), false) => Passed("the extension is installed; this identity has no role for it".into()),
        }
    }

    fn network(&self) -> Outcome {
        let mut ways = Vec::new();
        for (whom, way) in &self.facts.way {
            match way {
                Ok(way) => ways.push(format!("{whom}: {way}")),
                Err(error) => return self.failed(error),
            }
        }
        Passed(ways.join("; "))
    }

    fn relay(&self) -> Outcome {
        let found = match self.found() {
            Ok(found) => found,
            Err(Skipped(why)) => return Skipped(why),
            Err(_) => return blocked_by("the endpoint"),
        };
        if found.endpoint == Lookup::NotFound {
            return blocked_by("the endpoint");
        }
        match &self.facts.relay {
            None => blocked_by("the service configuration"),
            Some(Ok(())) => Passed("it leads to the machine's agent".into()),
            Some(Err(error)) if is_port_closed(error) => Passed("it leads to the machine's agent".into()),
            Some(Err(error)) if is_refused(error, 403) => blocked_by("the permissions"),
            Some(Err(_)) if matches!(self.machine_status(), Failed(_)) => blocked_by("the machine"),
            Some(Err(_)) if matches!(self.agent_version(), Failed(_)) => blocked_by("the agent"),
            Some(Err(error)) => self.failed(error),
        }
    }

    fn sshd(&self) -> Outcome {
        let port = self.facts.port;
        match (self.relay(), &self.facts.relay, &self.facts.banner) {
            (Skipped(why), ..) => Skipped(why),
            (_, Some(Err(error)), _) if is_port_closed(error) => self.failed(error),
            (Passed(_), _, Some(Ok(Banner::Ssh(banner)))) => greeted(banner),
            (Passed(_), _, Some(Ok(Banner::Nothing))) => Failed(Words::new(
                format!(
                    "what listens on its port {port} ends the connection without a word: sshd cannot start a session, or the machine was set up before its agent was updated to 1.31, which arcssh teardown and setup put right"
                ),
                "on the machine: sudo sshd -t",
            )),
            (Passed(_), _, Some(banner)) => {
                let silent = banner.as_ref().err().map_or(String::new(), |error| format!(": {error}"));
                Failed(Words::new(
                    format!("what listens on its port {port} does not speak SSH{silent}"),
                    "name the port of its sshd with --port",
                ))
            }
            _ => blocked_by("the relay"),
        }
    }

    fn host_key(&self) -> Outcome {
        match (self.sshd(), &self.facts.host_key, self.key_name()) {
            (Skipped(why), ..) => Skipped(why),
            (Failed(_), ..) => blocked_by("sshd"),
            // ssh connects by a process of its own, which the store keeps from it.
            _ if self.facts.store.is_err() => blocked_by("the state directory"),
            (_, None, _) | (_, _, None) => Skipped(format!(
                "{} has no section for this port of the machine; --file names another",
                self.facts.file.display()
            )),
            (_, Some(Ok(HostKey::Known)), _) => Passed("it is the one that ssh knows".into()),
            (_, Some(Ok(HostKey::New)), _) => Passed("ssh knows none yet, and will ask".into()),
            (_, Some(Ok(HostKey::Changed(file))), Some(name)) => Failed(Words::new(
                format!(
                    "it is not the one that {file} holds: the machine was installed anew, or somebody stands between"
                ),
                Hint::command(format!("ssh-keygen -f {} -R {}", shell_quote(file), shell_quote(name))),
            )),
            (_, Some(Err(error)), _) => {
                let alias = self.facts.section.as_ref().map_or("MACHINE", |section| &section.alias);
                let command = format!("ssh -v {}", shell_quote(alias));
                self.failed_or(
                    error,
                    Hint::new(format!("see how far the connection gets: {command}"), command),
                )
            }
        }
    }

    /// The name that ssh keeps the machine's host key under.
    fn key_name(&self) -> Option<&str> {
        self.facts.section.as_ref().map(|section| section.key_name.as_str())
    }

    fn configuration(&self) -> Outcome {
        let file = &self.facts.file;
        match (&self.facts.configuration, open_to_others(file)) {
            (Err(error), _) => {
                let path = shell_quote(&file.display().to_string());
                let hint =
                    format!("correct {path}; arcssh config --verify --file {path} tells when ssh takes it");
                self.failed_or(error, hint)
            }
            (_, Some(exposed)) => exposed,
            (Ok(Block::Missing), _) => Skipped(format!("{} holds no arcssh block", file.display())),
            (Ok(Block::Unjudged), _) => blocked_by("ssh"),
            (Ok(Block::Used(1)), _) => Passed(format!("ssh uses what {} says of 1 name", file.display())),
            (Ok(Block::Used(hosts)), _) => {
                Passed(format!("ssh uses what {} says of {hosts} names", file.display()))
            }
        }
    }

    /// One that has ended keeps nobody out: the next connection asks for another.
    fn certificate(&self) -> Outcome {
        match &self.facts.certificate {
            Ok(None) => Skipped("none is kept; arcssh config --entra logs in with one".into()),
            Ok(Some(pair)) => {
                let name = pair.certificate.login_name().unwrap_or_default();
                Passed(
                    pair.left()
                        .map_or(format!("{name}, ended; the next connection asks for another"), |left| {
                            format!("{name}, for {} min", left.as_secs().div_ceil(60))
                        }),
                )
            }
            Err(open) => self.failed(&open.clone().into()),
        }
    }

    fn store(&self) -> Outcome {
        match &self.facts.store {
            Ok(None) => Warned(Words::new(
                "nothing can be kept: every connection asks Azure anew, and arcssh last knows none",
                OTHER_DIRECTORY,
            )),
            Ok(Some(1)) => Passed("1 value is kept".into()),
            Ok(Some(count)) => Passed(format!("{count} values are kept")),
            Err(open) => self.failed(&open.clone().into()),
        }
    }
}

/// Where Azure CLI is to look for a machine: it has a subscription of its own in mind.
fn place_of(ResourceId { subscription, resource_group, .. }: &ResourceId) -> String {
    format!("--resource-group {} --subscription {}", shell_quote(resource_group), shell_quote(subscription))
}

fn blocked_by(what: &str) -> Outcome {
    Skipped(format!("{what} comes first"))
}

fn seen<T>(look: &Probe<T>) -> Option<&T> {
    look.as_ref()?.as_ref().ok()
}

fn failed<T>(look: &Probe<T>) -> Option<&Error> {
    look.as_ref()?.as_ref().err()
}

fn refusal(error: &Error) -> Option<&ErrorResponse> {
    match error.downcast_ref() {
        Some(ArmError::Refused(refusal)) => Some(refusal),
        _ => None,
    }
}

/// Whether it is ARM's refusal with this status.
fn is_refused(error: &Error, status: u16) -> bool {
    refusal(error).is_some_and(|refusal| refusal.status == status)
}

fn is_port_closed(error: &Error) -> bool {
    error.downcast_ref().is_some_and(ConnectError::is_port_closed)
}

/// A status with the moment of its last change, which Azure does not tell of every machine.
fn since(status: &str, change: &str) -> String {
    match change.split(['T', '.']).take(2).collect::<Vec<_>>().join(" ") {
        moment if moment.is_empty() => status.to_owned(),
        moment => format!("{status} since {moment}"),
    }
}

/// The numbers that a version begins with.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// A server's version, such as `SSH-2.0-OpenSSH_7.4p1 Debian-10`.
fn greeted(banner: &str) -> Outcome {
    let version = banner.split_once("OpenSSH_").map_or("", |(_, version)| version);
    let version = version.strip_prefix("for_Windows_").unwrap_or(version);
    let version =
        numbers(version.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default());
    if version.is_empty() || version.as_slice() >= &SHA2_CERTIFICATES[..] {
        return Passed(banner.to_owned());
    }
    Warned(Words::new(
        format!("{banner} takes certificates of Entra ID only with SHA-1 signatures"),
        "ssh -o PubkeyAcceptedKeyTypes=+ssh-rsa-cert-v01@openssh.com, or update the machine's OpenSSH",
    ))
}

fn installation(package: &str) -> String {
    match std::env::consts::OS {
        "windows" => "Add-WindowsCapability -Online -Name OpenSSH.Client~~~~0.0.1.0".into(),
        "macos" => "brew install openssh".into(),
        _ => format!("sudo apt install {package}"),
    }
}

fn set_clock() -> &'static str {
    match std::env::consts::OS {
        "windows" => "w32tm /resync",
        "macos" => "sudo sntp -sS time.apple.com",
        _ => "sudo timedatectl set-ntp true",
    }
}

/// What keeps ssh from reading a configuration: others may write to it.
#[cfg(unix)]
fn open_to_others(file: &Path) -> Option<Outcome> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = file.metadata().ok()?;
    let is_own = [0, rustix::process::getuid().as_raw()].contains(&metadata.uid());
    exposed(file, is_own, metadata.mode() & 0o7777)
}

/// Elsewhere the folder of a user is that user's own.
#[cfg(not(unix))]
fn open_to_others(_: &Path) -> Option<Outcome> {
    None
}

/// ssh reads what is its user's or root's, and what nobody else may write to (readconf.c, `SSHCONF_CHECKPERM`). Debian's
/// also takes what a group may write to that only the owner is in ("Allow harmless group-writability").
#[cfg(unix)]
fn exposed(file: &Path, is_own: bool, mode: u32) -> Option<Outcome> {
    let (name, path) = (file.display(), shell_quote(&file.display().to_string()));
    let close = Hint::command(format!("chmod go-w {path}"));
    match (is_own, mode & 0o002, mode & 0o020) {
        (false, ..) => Some(Failed(Words::new(
            format!("{name} is another user's, and ssh does not read it"),
            Hint::command(format!("sudo chown $(id -un) {path}")),
        ))),
        (true, 0, 0) => None,
        (true, 0, _) => Some(Warned(Words::new(
            format!("{name} is open to its group (mode {mode:04o}), and not every ssh reads it then"),
            close,
        ))),
        _ => Some(Failed(Words::new(format!("{name} is open to other users (mode {mode:04o})"), close))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_setup_command_is_fixable_whatever_the_text_says() {
        let check = |outcome| Check { name: "endpoint", outcome };
        let failed = |hint: Hint| check(Failed(Words::new("gone", hint)));
        let set_up = Hint::set_up("arcssh setup web01".into());
        assert!(is_fixable(&failed(Hint {
            text: "enable ssh: arcssh setup web01".into(),
            ..set_up.clone()
        })));
        assert!(!is_fixable(&failed("arcssh setup web01 takes a minute".into())));
        assert!(!is_fixable(&failed(Hint::command("arcssh setup web01 --replace-port"))));
        assert!(!is_fixable(&check(Warned(Words::new("gone", set_up)))));
    }

    #[test]
    fn a_version_is_compared_number_by_number() {
        assert!(numbers("1.67.03504.1320").as_slice() >= &SERVICE_CONFIGURATIONS[..]);
        assert!(numbers("2.0").as_slice() >= &SERVICE_CONFIGURATIONS[..]);
        assert!(numbers("1.9.1").as_slice() < &SERVICE_CONFIGURATIONS[..]);
        assert!(numbers("1.13.21320.014").as_slice() >= &FIRST_AGENT[..]);
        assert!(numbers("1.13.21319.9").as_slice() < &FIRST_AGENT[..]);
        assert!(numbers("unknown").is_empty());
    }

    #[test]
    #[cfg(unix)]
    fn a_configuration_of_others_is_not_read_and_one_of_the_group_not_by_every_ssh() {
        let exposed = |is_own, mode| exposed(Path::new("config"), is_own, mode);
        let failed = |outcome| matches!(outcome, Some(Failed(Words { hint: Some(_), .. })));
        assert!(
            failed(exposed(false, 0o600)) && failed(exposed(true, 0o666)) && failed(exposed(true, 0o602))
        );
        assert!(matches!(exposed(true, 0o664), Some(Warned(Words { hint: Some(_), .. }))));
        assert_eq!((exposed(true, 0o644), exposed(true, 0o600)), (None, None));
    }

    #[test]
    fn a_status_is_told_with_the_moment_of_its_change_where_there_is_one() {
        assert_eq!(since("Connected", "2026-03-02T09:14:07.123Z"), "Connected since 2026-03-02 09:14:07");
        assert_eq!(since("Connected", ""), "Connected");
    }

    #[test]
    fn a_server_that_is_too_old_for_certificates_is_told_by_its_greeting() {
        for old in
            ["SSH-2.0-OpenSSH_7.4", "SSH-2.0-OpenSSH_6.6.1p1 Ubuntu", "SSH-2.0-OpenSSH_for_Windows_7.7"]
        {
            assert!(matches!(greeted(old), Warned(_)), "{old}");
        }
        for new in [
            "SSH-2.0-OpenSSH_7.8p1",
            "SSH-2.0-OpenSSH_10.0",
            "SSH-2.0-OpenSSH_for_Windows_9.5",
            "SSH-2.0-dropbear",
        ] {
            assert_eq!(greeted(new), Passed(new.into()));
        }
    }
}
