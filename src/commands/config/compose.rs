//! From what was asked for, now and in earlier runs, to the sections that stand for it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::azure::arm::Arm;
use crate::azure::cloud::{Cloud, CloudName};
use crate::azure::credential::{Identity, Source, Wanted};
use crate::azure::hybrid_compute::{Machine, MachineName, list};
use crate::azure::resource_id::ResourceId;
use crate::azure::ssh_certificate::Asked;
use crate::cli::ConfigArgs;
use crate::commands::config::entra::Entra;
use crate::commands::config::tell;
use crate::files::{MAX_TEXT, read_text};
use crate::fleet::{Named, NoMachine, Selection, select};
use crate::net::Net;
use crate::ssh::config_file;
use crate::ssh::host::{self, Delivery, Host, Platform, is_alias, is_pattern, literal};
use crate::ssh::legacy::Foreign;
use crate::store::Store;

/// What the block was written with, kept in the block so that a bare `arcssh config` can write it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Options {
    #[serde(flatten)]
    selection: Selection,
    #[serde(flatten)]
    login: Login,
    #[serde(flatten)]
    certificate: Asked,
    #[serde(flatten)]
    who: Wanted,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    control_master: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    wildcard: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud: Option<CloudName>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    adopted: Vec<Adopted>,
}

/// How to log in to a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Login {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// How a certificate of Entra ID gets to ssh, where one is logged in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    entra: Option<Delivery>,
}

/// A section that another program wrote, as it lives on under its old name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Adopted {
    alias: String,
    /// The resource ID.
    machine: String,
    #[serde(flatten)]
    login: Login,
}

impl Login {
    fn host(&self, patterns: Vec<String>) -> Host {
        Host {
            patterns,
            user: self.user.clone(),
            port: self.port,
            identity_file: self.identity.clone(),
            ..Host::default()
        }
    }
}

impl Options {
    /// What the block in a text was written with; the default where there is none.
    ///
    /// # Errors
    /// The block's markers do not pair, or its line of options is damaged.
    pub(super) fn of(text: &str) -> Result<Self> {
        match config_file::options(text)? {
            Some(line) => {
                serde_json::from_str(line).context("the options line of the arcssh block is damaged")
            }
            None => Ok(Self::default()),
        }
    }

    /// One line of JSON, so that no value can add a line to the file.
    pub(super) fn line(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Whether there is nothing to write sections for.
    pub(super) fn is_empty(&self) -> bool {
        self.selection.is_empty() && self.adopted.is_empty() && self.wildcard.is_none()
    }

    /// Whether this section of another program's lives on.
    pub(super) fn has_adopted(&self, section: &Foreign) -> bool {
        self.adopted.iter().any(|adopted| section.patterns.first() == Some(&adopted.alias))
    }

    /// Takes out what a section was written for: the machine of its ID, the section taken over under one of its
    /// patterns, or the wildcard of that name.
    pub(super) fn leave(&mut self, id: Option<ResourceId>, patterns: &[String], name: &str) -> Result<()> {
        let before = self.adopted.len();
        self.adopted.retain(|adopted| !patterns.contains(&adopted.alias));
        let is_wildcard = |pattern: &String| pattern.eq_ignore_ascii_case(name);
        match id {
            Some(_) if self.adopted.len() < before => {}
            Some(id) => self.selection.leave(&MachineName::Id(id)),
            None if self.wildcard.as_ref().is_some_and(is_wildcard) => self.wildcard = None,
            None => self.selection.leave(&name.parse()?),
        }
        Ok(())
    }

    /// Those of an earlier run, with what was typed added to its machines and put in place of its values.
    fn and(self, args: &ConfigArgs) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let platform = args.platform.or(self.platform);
        let delivery = Delivery::on(platform.unwrap_or(Platform::HERE));
        let asked = args.certificate.asked();
        Self {
            selection: self.selection.and(args.selection.selection()),
            login: Login {
                user: args.user.clone().or(self.login.user),
                port: args.port.or(self.login.port),
                identity: args.identity.as_deref().map(from_everywhere).or(self.login.identity),
                entra: args.entra.map(|how| how.unwrap_or(delivery)).or(self.login.entra),
            },
            certificate: Asked {
                scope: asked.scope.or(self.certificate.scope),
                client_id: asked.client_id.or(self.certificate.client_id),
            },
            who: args.who.wanted_or(self.who),
            control_master: args.control_master || self.control_master,
            wildcard: args.wildcard.clone().or(self.wildcard),
            template: args.template.as_ref().map(absolute).or(self.template),
            platform,
            cloud: args.cloud.given().or(self.cloud),
            adopted: self.adopted,
        }
    }

    fn platform(&self) -> Platform {
        self.platform.unwrap_or(Platform::HERE)
    }

    /// The ways in which certificates get to ssh.
    fn deliveries(&self) -> Vec<Delivery> {
        let adopted = self.adopted.iter().filter_map(|adopted| adopted.login.entra);
        self.login.entra.into_iter().chain(adopted).collect()
    }

    /// Finds the machines of other programs' sections and takes the sections over.
    fn adopt(&mut self, foreign: &[Foreign], known: &[Machine]) {
        for section in foreign {
            let Some(alias) = section.patterns.first().filter(|alias| is_alias(alias)) else { continue };
            let Some(machine) = machine_of(section, known) else {
                tell(&format!("{alias} stays as it is: no Arc machine that this identity sees fits it"));
                continue;
            };
            self.adopted.retain(|adopted| adopted.alias != *alias);
            self.adopted.push(Adopted {
                alias: alias.clone(),
                machine: machine.id.to_string(),
                login: Login {
                    user: section.user.clone(),
                    port: section.port,
                    // Beside a certificate lies a key that was made for it alone.
                    identity: section.identity_file.clone().filter(|_| !section.has_certificate),
                    entra: section.has_certificate.then_some(Delivery::on(self.platform())),
                },
            });
        }
    }
}

/// A key's file by a name that holds in every folder: ssh looks for a relative one in the folder that it is started in.
/// What is no file here, such as `~/.ssh/key` in quotes or a path of another system, is left to ssh.
fn from_everywhere(identity: &str) -> String {
    let absolute = std::path::absolute(identity).ok().filter(|_| Path::new(identity).exists());
    absolute.and_then(|path| path.to_str().map(Into::into)).unwrap_or_else(|| identity.to_owned())
}

/// The machine whose group and name make up a file's name; else the only one with the section's `HostName`.
fn machine_of<'a>(section: &Foreign, known: &'a [Machine]) -> Option<&'a Machine> {
    let names = section.group_and_name();
    let fits = |machine: &&Machine| {
        let name = format!("{}-{}", machine.id.resource_group, machine.id.name);
        names.iter().any(|given| given.eq_ignore_ascii_case(&name))
    };
    if let Some(machine) = known.iter().find(fits) {
        return Some(machine);
    }
    let host_name = section.host_name.as_ref()?;
    let mut named = known.iter().filter(|machine| machine.id.name.eq_ignore_ascii_case(host_name));
    named.next().filter(|_| named.next().is_none())
}

/// Asks Azure for the machines, and renders their sections.
pub(super) async fn compose(
    args: &ConfigArgs,
    kept: Options,
    foreign: &[Foreign],
) -> Result<(Options, String)> {
    let mut options = kept.and(args);
    if options.is_empty() && foreign.is_empty() {
        bail!(NoMachine { command: "config" });
    }
    let offline = options.selection.is_empty() && options.adopted.is_empty() && foreign.is_empty();
    let (net, store) = (Net::new(), Store::open()?);
    let cloud = options.cloud.unwrap_or(CloudName::Public);
    let azure = Cloud::new(cloud, &args.cloud.endpoints())?;
    let arm = Arm::new(&azure, &net, &store, options.who.clone());
    if !foreign.is_empty() {
        options.adopt(foreign, &list(&arm, &[]).await?);
    }
    let identity = Identity::new(&azure, options.who.clone(), &net, &store);
    let entra = match &options.deliveries()[..] {
        [] => None,
        ways => Some(Entra::of(identity, &options.certificate, ways, options.platform()).await?),
    };
    let writer = Writer { program: program()?, who: options.who.clone(), cloud, entra };
    let mut hosts = Vec::new();
    if !offline {
        hosts.extend(writer.adopted(&options, &arm).await?);
        let machines = select(&arm, &mut options.selection).await?;
        hosts.extend(writer.machines(&options, machines)?);
    }
    let platform = options.platform();
    let mut sections = render(&options, &hosts, platform)?;
    if let Some(pattern) = &options.wildcard {
        ensure!(is_pattern(pattern), "{pattern:?} is not a pattern such as *.arc");
        sections.push(writer.wildcard(&options, pattern)?.render(host::WILDCARD, platform)?);
    }
    Ok((options, sections.join("\n")))
}

fn render(options: &Options, hosts: &[Host], platform: Platform) -> Result<Vec<String>> {
    let template = match &options.template {
        Some(file) => read_text(file, MAX_TEXT).with_context(|| format!("cannot read {}", file.display()))?,
        None => host::HOST.to_owned(),
    };
    for placeholder in options.deliveries().into_iter().map(Delivery::placeholder) {
        ensure!(template.contains(placeholder), "the template has no {placeholder}, which --entra fills in");
    }
    let section = |host: &Host| {
        let name = host.patterns.first().cloned().unwrap_or_default();
        host.render(&template, platform).with_context(|| format!("no section for {name}"))
    };
    hosts.iter().map(section).collect()
}

/// What all sections have in common.
struct Writer {
    /// This program, as a ProxyCommand starts it.
    program: String,
    who: Wanted,
    cloud: CloudName,
    /// Where sections log in with a certificate.
    entra: Option<Entra>,
}

impl Writer {
    fn machines(&self, options: &Options, machines: Vec<Named>) -> Result<Vec<Host>> {
        let mut hosts = Vec::new();
        if options.login.entra.is_some() && !machines.is_empty() {
            let names = machines.iter().filter(|named| is_windows(&named.machine));
            let names: Vec<&str> = names.map(|named| named.machine.id.name.as_str()).collect();
            ensure!(names.len() < machines.len(), "{}: {ONLY_LINUX}", names.join(", "));
        }
        for Named { machine, patterns } in machines {
            match patterns {
                Some(patterns) => {
                    hosts.push(self.machine(&options.login, options.control_master, &machine, patterns)?)
                }
                None => tell(&format!("{} is left out: ssh takes no such name for a host", machine.id.name)),
            }
        }
        Ok(hosts)
    }

    async fn adopted(&self, options: &Options, arm: &Arm) -> Result<Vec<Host>> {
        let ids = options.adopted.iter().map(|adopted| adopted.machine.clone()).collect();
        let machines = select(arm, &mut Selection { machines: ids, ..Selection::default() }).await?;
        let living = |adopted: &Adopted| {
            let Named { machine, .. } =
                machines.iter().find(|n| n.machine.id.to_string() == adopted.machine)?;
            Some(self.machine(&adopted.login, options.control_master, machine, vec![adopted.alias.clone()]))
        };
        options.adopted.iter().filter_map(living).collect()
    }

    fn machine(&self, login: &Login, shared: bool, machine: &Machine, patterns: Vec<String>) -> Result<Host> {
        let id = machine.id.to_string();
        let mut login = login.clone();
        if is_windows(machine) && login.entra.take().is_some() {
            tell(&format!("{} gets a section without a certificate: {ONLY_LINUX}", machine.id.name));
        }
        let host = Host {
            host_name: patterns.first().cloned(),
            // As ssh looks it up among the known hosts.
            host_key_alias: machine.vm_id.as_ref().map(|id| id.to_lowercase()),
            proxy_command: self.command(&[&literal(&id)]),
            resource_id: Some(id.clone()),
            shared,
            ..login.host(patterns)
        };
        self.with_certificate(host, &login, &id)
    }

    /// The section with what it takes to log in with a certificate; `subject` is what the section reaches.
    fn with_certificate(&self, host: Host, login: &Login, subject: &str) -> Result<Host> {
        let Some((entra, delivery)) = self.entra.as_ref().zip(login.entra) else { return Ok(host) };
        let user = login.user.clone().or_else(|| Some(entra.login_name.clone()));
        let Asked { scope, client_id } = &entra.asked;
        // Whom the certificate must let in, where the section says nobody else.
        let login_name = login.user.is_none().then(|| entra.login_name.clone());
        let login_name = login_name.filter(|name| host::is_word(name));
        let options =
            [("--login-name", &login_name), ("--scope", scope), ("--client-id", client_id)].into_iter();
        let asked = options.filter_map(|(name, value)| Some([name.to_owned(), literal(value.as_ref()?)]));
        let asked: Vec<String> = asked.flatten().collect();
        Ok(match delivery {
            Delivery::Agent => {
                let path = entra.agent(subject)?;
                let serving = ["--agent".to_owned(), literal(&path)];
                let proxy_command = [host.proxy_command, serving.to_vec(), asked].concat();
                Host { user, proxy_command, identity_agent: Some(path), ..host }
            }
            Delivery::Files => {
                let key = entra.file();
                let certificate = format!("{key}-cert.pub");
                let words = [&self.program, "cert", "--file", &literal(&certificate)].map(str::to_owned);
                let keep_fresh = [words.to_vec(), asked, self.azure_words()].concat();
                Host {
                    user,
                    identity_file: Some(key),
                    certificate_file: Some(certificate),
                    keep_fresh: Some(keep_fresh),
                    ..host
                }
            }
        })
    }

    fn wildcard(&self, options: &Options, pattern: &str) -> Result<Host> {
        let suffix = pattern.rsplit(['*', '?']).next().unwrap_or_default();
        let words: &[&str] =
            if suffix.is_empty() { &["--host", "%n"] } else { &["--host", "%n", "--suffix", suffix] };
        let host = options.login.host(vec![pattern.to_owned()]);
        let host = Host { proxy_command: self.command(words), shared: options.control_master, ..host };
        self.with_certificate(host, &options.login, pattern)
    }

    /// `arcssh proxy {words} --port %p`, with whose name and the cloud where they are not those that are taken unasked.
    fn command(&self, words: &[&str]) -> Vec<String> {
        let all = [&[self.program.as_str(), "proxy"], words, &["--port", "%p"]].concat();
        all.into_iter().map(Into::into).chain(self.azure_words()).collect()
    }

    fn azure_words(&self) -> Vec<String> {
        let source = Some(self.who.source).filter(|source| *source != Source::Any);
        let cloud = Some(self.cloud).filter(|cloud| *cloud != CloudName::Public);
        let options = [
            ("--credential", source.and_then(name_of)),
            ("--tenant", self.who.tenant.clone()),
            ("--cloud", cloud.and_then(name_of)),
        ];
        let given = options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?]));
        given.flatten().collect()
    }
}

/// How a value is typed.
fn name_of(value: impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}

/// Why a section for a Windows machine has no certificate (Microsoft Learn, "SSH access to Azure Arc-enabled servers";
/// azure-cli-extensions `ssh`, custom.py).
const ONLY_LINUX: &str = "Windows does not let Entra users log in by ssh, only Linux does; \
    use --user, with a key of that user";

fn is_windows(machine: &Machine) -> bool {
    machine.os == "windows"
}

/// This program as ssh should start it: by the absolute path it was found under, which a package manager's link keeps
/// from one version to the next, where its file's own path would not.
fn program() -> Result<String> {
    let file = std::env::current_exe().context("this program does not know its own path")?;
    let typed = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = if typed.components().count() > 1 {
        std::path::absolute(&typed).ok()
    } else {
        std::env::split_paths(&path).map(|folder| folder.join(&typed)).find(|candidate| candidate.is_file())
    };
    let is_this = |candidate: &PathBuf| {
        candidate.is_absolute()
            && candidate.canonicalize().is_ok_and(|found| file.canonicalize().ok() == Some(found))
    };
    let program = found.filter(is_this).unwrap_or(file);
    let text = program.to_str().with_context(|| format!("{} is not text", program.display()))?;
    Ok(literal(&without_spaces(text)))
}

/// The short name that Windows keeps for a path with spaces: its OpenSSH 7.7 cannot start a program in quotes
/// (gravitational/teleport issue 16181).
#[cfg(windows)]
fn without_spaces(path: &str) -> String {
    use std::os::windows::process::CommandExt;
    let mut cmd = std::process::Command::new("cmd");
    cmd.raw_arg(format!("/C for %I in (\"{path}\") do @echo %~sI"));
    let short = cmd.output().ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let short =
        short.map(|text| text.trim().to_owned()).filter(|text| path.contains(' ') && !text.is_empty());
    short.unwrap_or_else(|| path.to_owned())
}

/// Elsewhere spaces are quoted.
#[cfg(not(windows))]
fn without_spaces(path: &str) -> String {
    path.to_owned()
}
