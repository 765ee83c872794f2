//! One Host section of ssh_config(5): its values, their quoting, and their rendering from a template.
//!
//! A template is the text as it will stand, with `{placeholders}`; a line whose placeholder has no value is left out.

use anyhow::{Result, bail, ensure};

use crate::text::is_unsafe;

/// The section of a machine, unless an organisation brings its own.
pub(crate) const HOST: &str = include_str!("../../../config-templates/host.conf");
/// The section for machines that are found by name when they are connected to.
pub(crate) const WILDCARD: &str = include_str!("../../../config-templates/wildcard.conf");

/// The placeholders that a template may hold.
const PLACEHOLDERS: [&str; 18] = [
    "patterns",
    "host_name",
    "host_key_alias",
    "user",
    "port",
    "identity_file",
    "certificate_file",
    "identity_agent",
    "identities_only",
    "forward_agent",
    "match_patterns",
    "renew_command",
    "control_master",
    "control_path",
    "control_persist",
    "proxy_command",
    "name",
    "resource_id",
];

/// Where the sockets of shared connections live. `%C` is a hash: with names in it a path outgrows a socket's 108 bytes.
const CONTROL_PATH: &str = "~/.ssh/arcssh-%C";
/// How long a shared connection outlives its last session.
const CONTROL_PERSIST: &str = "60s";

/// The system that a configuration is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Linux, macOS and their kin: ssh has the user's shell run a ProxyCommand.
    #[value(help = "Linux, macOS and other Unix systems")]
    Unix,
    /// Windows: ssh starts a ProxyCommand without a shell, and Git's ssh eats backslashes.
    #[value(help = "Windows")]
    Windows,
}

impl Platform {
    /// The one that this program runs on.
    pub(crate) const HERE: Self = if cfg!(windows) { Self::Windows } else { Self::Unix };
}

/// How a certificate gets to ssh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CertificateMode {
    /// By an agent that is there while a connection lasts; no file of the user's is touched.
    #[value(help = "from an ssh-agent that runs during the connection")]
    Agent,
    /// In files that ssh has renewed before it reads them.
    #[value(help = "from files that Match exec renews")]
    Files,
}

impl CertificateMode {
    /// That of a system. OpenSSH for Windows has no sockets for an agent of ours.
    pub(crate) fn on(platform: Platform) -> Self {
        match platform {
            Platform::Unix => Self::Agent,
            Platform::Windows => Self::Files,
        }
    }

    /// The placeholder without which a template does not have it.
    pub(crate) fn placeholder(self) -> &'static str {
        match self {
            Self::Agent => "{identity_agent}",
            Self::Files => "{renew_command}",
        }
    }
}

/// A Host section. Its values are as they are meant; they are quoted when it is rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// What may be typed for it; the first one is its name.
    pub(crate) patterns: Vec<String>,
    /// `HostName`.
    pub(crate) host_name: Option<String>,
    /// `HostKeyAlias`: the name that host keys are recorded under.
    pub(crate) host_key_alias: Option<String>,
    /// `User`.
    pub(crate) user: Option<String>,
    /// `Port`.
    pub(crate) port: Option<u16>,
    /// `IdentityFile`.
    pub(crate) identity_file: Option<String>,
    /// `CertificateFile`, the certificate of the key in `identity_file`, which are used alone.
    pub(crate) certificate_file: Option<String>,
    /// The command that renews them, word by word as in `proxy_command`.
    pub(crate) renew_command: Option<Vec<String>>,
    /// `IdentityAgent`: what it holds is used beside the user's own keys, and never forwarded.
    pub(crate) identity_agent: Option<String>,
    /// Whether sessions share one connection (`ControlMaster auto`); not on Windows, which has no such sockets.
    pub(crate) shared: bool,
    /// `ProxyCommand`, word by word. ssh's tokens stand in it as they are; see [`escape_percent`].
    pub(crate) proxy_command: Vec<String>,
    /// The Azure resource that it reaches, for whoever reads the file.
    pub(crate) resource_id: Option<String>,
}

impl Host {
    /// The section's text.
    ///
    /// # Errors
    /// A value that ssh would read as something else, by the name of its keyword; a placeholder that is not known.
    pub(crate) fn render(&self, template: &str, platform: Platform) -> Result<String> {
        let mut text = String::new();
        for line in template.lines() {
            if let Some(line) = self.render_line(line, platform)? {
                text.push_str(&line);
                text.push('\n');
            }
        }
        Ok(text)
    }

    fn render_line(&self, line: &str, platform: Platform) -> Result<Option<String>> {
        let (mut rendered, mut rest, mut complete) = (String::new(), line, true);
        while let Some((before, placeholder, after)) = next_placeholder(rest) {
            let value = self.value(placeholder, platform)?;
            complete &= value.is_some();
            rendered.push_str(before);
            rendered.push_str(&value.unwrap_or_default());
            rest = after;
        }
        Ok(complete.then(|| rendered + rest))
    }

    /// The value of a placeholder, quoted; `None` where this host has none.
    fn value(&self, placeholder: &str, platform: Platform) -> Result<Option<String>> {
        let quoted =
            |keyword, value: &Option<String>| value.as_deref().map(|v| argument(keyword, v)).transpose();
        let file = |keyword, value: &Option<String>| {
            value.as_deref().map(|file| file_name(keyword, file, platform)).transpose()
        };
        let if_shared = |text: &str| (self.shared && platform == Platform::Unix).then(|| text.to_owned());
        Ok(match placeholder {
            "patterns" => Some(self.patterns.join(" ")),
            "host_name" => quoted("HostName", &self.host_name)?,
            "host_key_alias" => quoted("HostKeyAlias", &self.host_key_alias)?,
            "user" => quoted("User", &self.user)?,
            "port" => self.port.map(|port| port.to_string()),
            "identity_file" => file("IdentityFile", &self.identity_file)?,
            "certificate_file" => file("CertificateFile", &self.certificate_file)?,
            "identity_agent" => file("IdentityAgent", &self.identity_agent)?,
            "identities_only" => self.identities_only().map(Into::into),
            "forward_agent" => self.identity_agent.is_some().then(|| "no".into()),
            "match_patterns" => Some(self.patterns.join(",")),
            "keep_fresh" => {
                self.renew_command.as_deref().map(|words| match_exec(words, platform)).transpose()?
            }
            "control_master" => if_shared("auto"),
            "control_path" => if_shared(CONTROL_PATH),
            "control_persist" => if_shared(CONTROL_PERSIST),
            "proxy_command" => Some(self.proxy_command(platform)?),
            "name" => self.patterns.first().cloned(),
            "resource_id" => self.resource_id.clone(),
            other => bail!("the template's {{{other}}} is not known; known are {}", PLACEHOLDERS.join(", ")),
        })
    }

    /// A user's `Host *` may say yes, which keeps ssh from an agent's keys, or leave it to offer others first.
    fn identities_only(&self) -> Option<&'static str> {
        match (&self.certificate_file, &self.identity_agent) {
            (Some(_), _) => Some("yes"),
            (None, agent) => agent.is_some().then_some("no"),
        }
    }

    /// The ProxyCommand as one line.
    ///
    /// # Errors
    /// A word that a shell would change.
    pub(crate) fn proxy_command(&self, platform: Platform) -> Result<String> {
        let words = self.proxy_command.iter().map(|word| command_word(word, platform));
        Ok(words.collect::<Result<Vec<_>>>()?.join(" "))
    }
}

/// The next `{word}` of a text, with what stands before and after it. ssh's own `${VARIABLE}` is none.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|at| from + at) {
        let close = open + text[open..].find('}')?;
        let word = &text[open + 1..close];
        if !text[..open].ends_with('$')
            && !word.is_empty()
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
        {
            return Some((&text[..open], word, &text[close + 1..]));
        }
        from = open + 1;
    }
    None
}

/// Whether a name can stand in a `Host` line and on ssh's command line: no pattern, nothing that newer OpenSSH refuses
/// in a host name (`valid_hostname` in ssh.c), nothing that looks like an option or that a terminal does not show.
pub(crate) fn is_alias(name: &str) -> bool {
    let first = name.chars().next();
    first.is_some_and(|c| c.is_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() && !is_unsafe(c) || "._-".contains(c))
}

/// Whether a text is a pattern such as `*.arc`, and nothing but one.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?']) && is_alias(&text.replace(['*', '?'], "x"))
}

/// Whether a text can be a word of any command of a section, on every system.
pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "/._-:,@+%#".contains(c))
}

/// A text that is to reach a program through a ProxyCommand as it is, ssh's tokens doubled away.
pub(crate) fn escape_percent(text: &str) -> String {
    text.replace('%', "%%")
}

/// An argument of a keyword. ssh splits arguments at white space and takes `"…"` for one, in which an apostrophe is one;
/// since 8.7 a backslash before a quote, a backslash or a space escapes it (misc.c, `argv_split`), before that it did
/// not: what the two would read differently is refused.
fn argument(keyword: &str, value: &str) -> Result<String> {
    ensure!(!value.is_empty(), "{keyword} cannot be empty");
    ensure!(!value.starts_with('-'), "{keyword} {value:?} cannot begin with a hyphen");
    ensure!(!value.contains(char::is_control), "{keyword} {value:?} cannot hold a control character");
    ensure!(!value.contains('"'), "{keyword} {value:?} cannot hold a double quote");
    ensure!(
        !value.contains(['%', '$']),
        "{keyword} {value:?} cannot hold % or $, which ssh takes for its own"
    );
    let escapes = value.ends_with('\\') || ["\\\\", "\\ ", "\\'"].iter().any(|pair| value.contains(pair));
    ensure!(!escapes, "{keyword} {value:?} holds a backslash that versions of ssh read differently");
    Ok(in_quotes_if_needed(value))
}

/// The file of `IdentityFile` and its kin, in which ssh expands tokens: `%` is doubled. Windows gets forward slashes.
fn file_name(keyword: &str, value: &str, platform: Platform) -> Result<String> {
    let value = for_platform(value, platform);
    argument(keyword, &value.replace('%', "_"))?;
    Ok(in_quotes_if_needed(&escape_percent(&value)))
}

fn in_quotes_if_needed(value: &str) -> String {
    let plain = !value.contains(|c: char| c.is_whitespace() || "#=,'".contains(c));
    if plain { value.to_owned() } else { format!("\"{value}\"") }
}

/// One word of a ProxyCommand. On Unix a shell of the user's choosing reads it, on Windows the C runtime; double quotes
/// mean the same to all of them as long as nothing inside is special to any.
fn command_word(word: &str, platform: Platform) -> Result<String> {
    let word = for_platform(word, platform);
    let special = |c: char| c.is_control() || "\"'\\$`!".contains(c);
    ensure!(
        !word.contains(special),
        "{word:?} cannot stand in a ProxyCommand, where a shell would change it"
    );
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,@+%".contains(c);
    Ok(if !word.is_empty() && word.chars().all(plain) { word } else { format!("\"{word}\"") })
}

/// The command of a `Match match_exec`, which stands in double quotes: those of the command's own would end them for every
/// version of ssh. A shell of the user's choosing reads it, on Windows cmd.exe, which knows no other quotes.
fn match_exec(words: &[String], platform: Platform) -> Result<String> {
    let words = words.iter().map(|word| {
        let plain = |c: char| c.is_alphanumeric() || "/._-:,@+%~".contains(c);
        let known = |c: char| plain(c) || (platform == Platform::Windows && "\\#".contains(c));
        if !word.is_empty() && word.chars().all(known) {
            return Ok(word.clone());
        }
        let special = |c: char| c.is_control() || "\"'\\$`!".contains(c);
        ensure!(
            platform == Platform::Unix && !word.contains(special),
            "{word:?} cannot stand in a Match exec, where a shell would change it"
        );
        Ok(format!("'{word}'"))
    });
    Ok(words.collect::<Result<Vec<_>>>()?.join(" "))
}

fn for_platform(path: &str, platform: Platform) -> String {
    match platform {
        Platform::Windows => path.replace('\\', "/"),
        Platform::Unix => path.to_owned(),
    }
}

#[cfg(all(test, unix))]
mod tests;
