//! A host entry of ssh_config(5): its values, quoted and rendered with a template.
//!
//! A template is the text with `{placeholders}`. The result has no line whose placeholder has no value.

use anyhow::{Result, bail, ensure};

use crate::ssh::patterns::{example, is_wildcard};
use crate::text::is_unsafe;

/// The built-in template of a machine's host entry.
pub(crate) const HOST: &str = include_str!("../../../config-templates/host.conf");
/// The template of the wildcard entry.
pub(crate) const WILDCARD: &str = include_str!("../../../config-templates/wildcard.conf");
/// The options of a connection without a host entry, which override those of the user.
pub(crate) const CONNECTION: &str = include_str!("../../../config-templates/connection.conf");
/// The options of a login without a host entry. Those of the user override them.
pub(crate) const LOGIN: &str = include_str!("../../../config-templates/login.conf");

/// The placeholders of a template.
const PLACEHOLDERS: [&str; 20] = [
    "patterns",
    "host_name",
    "host_key_alias",
    "user",
    "port",
    "identity_file",
    "certificate_file",
    "identity_agent",
    "identities_only",
    "pubkey_authentication",
    "pubkey_algorithms",
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

/// The algorithms of Entra ID's RSA certificates, added to the defaults (ssh_config(5), PubkeyAcceptedAlgorithms). Since 8.5,
/// `PubkeyAcceptedKeyTypes` is the old name of that keyword. OpenSSH 7.8 and later know the algorithms.
pub(crate) const CERTIFICATE_ALGORITHMS: &str =
    "+rsa-sha2-512-cert-v01@openssh.com,rsa-sha2-256-cert-v01@openssh.com";

/// The sockets of shared connections. `%C` is a hash, since names would make the path longer than the 108 bytes of a socket.
const CONTROL_PATH: &str = "~/.ssh/arcssh-%C";
/// How long a shared connection remains open after its last session.
const CONTROL_PERSIST: &str = "60s";

/// The platform of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Linux, macOS and similar systems, where the user's shell runs a ProxyCommand.
    #[value(help = "Linux, macOS and other Unix systems")]
    Unix,
    /// Windows, where ssh starts a ProxyCommand without a shell, and the ssh of Git removes backslashes.
    #[value(help = "Windows")]
    Windows,
}

impl Platform {
    /// The platform that arcssh runs on.
    pub(crate) const HERE: Self = if cfg!(windows) { Self::Windows } else { Self::Unix };
}

/// How ssh gets a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CertificateMode {
    /// From an agent that runs as long as the connection. arcssh writes no files.
    #[value(help = "from an ssh-agent that runs during the connection")]
    Agent,
    /// From files that `Match exec` renews before ssh reads them.
    #[value(help = "from files that Match exec renews")]
    Files,
}

impl CertificateMode {
    /// The default of a platform. OpenSSH for Windows does not support Unix sockets.
    pub(crate) fn on(platform: Platform) -> Self {
        match platform {
            Platform::Unix => Self::Agent,
            Platform::Windows => Self::Files,
        }
    }

    /// The placeholder that a template needs for this mode.
    pub(crate) fn placeholder(self) -> &'static str {
        match self {
            Self::Agent => "{identity_agent}",
            Self::Files => "{renew_command}",
        }
    }

    /// Returns whether a template supports this mode. Templates for earlier versions have `{keep_fresh}` for
    /// `{renew_command}`.
    pub(crate) fn is_in(self, template: &str) -> bool {
        template.contains(self.placeholder()) || self == Self::Files && template.contains("{keep_fresh}")
    }
}

/// A host entry with plain values. Rendering quotes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// The patterns of `Host`. The first one is the alias.
    pub(crate) patterns: Vec<String>,
    /// `HostName`.
    pub(crate) host_name: Option<String>,
    /// `HostKeyAlias`.
    pub(crate) host_key_alias: Option<String>,
    /// `User`.
    pub(crate) user: Option<String>,
    /// `Port`.
    pub(crate) port: Option<u16>,
    /// `IdentityFile`.
    pub(crate) identity_file: Option<String>,
    /// `CertificateFile`. ssh then uses no other key than the one in `identity_file`, if there is one.
    pub(crate) certificate_file: Option<String>,
    /// The words of the command that renews the certificate; see `proxy_command`.
    pub(crate) renew_command: Option<Vec<String>>,
    /// `IdentityAgent`. ssh also uses the user's other keys, and does not forward this agent.
    pub(crate) identity_agent: Option<String>,
    /// Whether sessions share one connection (`ControlMaster auto`). Ignored on Windows, which has no such sockets.
    pub(crate) shared: bool,
    /// The words of `ProxyCommand`, with ssh's tokens. Other `%` are escaped; see [`escape_percent`].
    pub(crate) proxy_command: Vec<String>,
    /// The resource ID of the machine, for a comment.
    pub(crate) resource_id: Option<String>,
}

impl Host {
    /// Renders a template.
    ///
    /// # Errors
    /// A value that ssh would interpret differently, with its keyword; an unknown placeholder.
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

    /// Renders a template as options of ssh's command line, which have the form of the configuration (ssh(1), `-o`).
    ///
    /// # Errors
    /// See [`Self::render`].
    pub(crate) fn options(&self, template: &str) -> Result<Vec<String>> {
        let text = self.render(template, Platform::HERE)?;
        Ok(text.lines().flat_map(|line| ["-o".to_owned(), line.to_owned()]).collect())
    }

    fn render_line(&self, line: &str, platform: Platform) -> Result<Option<String>> {
        let mut rendered = String::new();
        let mut rest = line;
        let mut complete = true;
        while let Some((before, placeholder, after)) = next_placeholder(rest) {
            let value = self.value(placeholder, platform)?;
            complete &= value.is_some();
            rendered.push_str(before);
            rendered.push_str(&value.unwrap_or_default());
            rest = after;
        }
        Ok(complete.then(|| rendered + rest))
    }

    /// The quoted value of a placeholder; `None` if this entry has no such value.
    fn value(&self, placeholder: &str, platform: Platform) -> Result<Option<String>> {
        let quoted =
            |keyword, value: &Option<String>| value.as_deref().map(|v| argument(keyword, v)).transpose();
        let file = |keyword, value: &Option<String>| {
            value.as_deref().map(|file| file_name(keyword, file, platform)).transpose()
        };
        let if_certified = |text: &str| {
            (self.renew_command.is_some() || self.identity_agent.is_some()).then(|| text.to_owned())
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
            "pubkey_authentication" => if_certified("yes"),
            "pubkey_algorithms" => if_certified(CERTIFICATE_ALGORITHMS),
            "forward_agent" => self.identity_agent.is_some().then(|| "no".into()),
            "match_patterns" => Some(self.patterns.join(",")),
            "renew_command" | "keep_fresh" => {
                self.renew_command.as_deref().map(|words| match_exec(words, platform)).transpose()?
            }
            "control_master" => if_shared("auto"),
            "control_path" => if_shared(CONTROL_PATH),
            "control_persist" => if_shared(CONTROL_PERSIST),
            "proxy_command" => Some(self.proxy_command(platform)?),
            "name" => self.patterns.first().cloned(),
            "resource_id" => self.resource_id.clone(),
            other => bail!(
                "the placeholder {{{other}}} of the template is unknown; valid are {}",
                PLACEHOLDERS.join(", ")
            ),
        })
    }

    /// A user's `Host *` may set another value. With yes, ssh ignores the keys of an agent that no `IdentityFile` names, also
    /// the key of a certificate (sshconnect2.c, `pubkey_prepare`); with no, ssh offers other keys first.
    fn identities_only(&self) -> Option<&'static str> {
        if self.certificate_file.is_some() && self.identity_file.is_some() {
            return Some("yes");
        }
        self.identity_agent.is_some().then_some("no")
    }

    /// The line of the ProxyCommand.
    ///
    /// # Errors
    /// A word that a shell would change.
    pub(crate) fn proxy_command(&self, platform: Platform) -> Result<String> {
        command_line(&self.proxy_command, platform)
    }
}

/// Quotes the words of a command for ssh, with ssh's tokens.
///
/// # Errors
/// A word that a shell would change.
pub(crate) fn command_line(words: &[String], platform: Platform) -> Result<String> {
    let words = words.iter().map(|word| command_word(word, platform));
    Ok(words.collect::<Result<Vec<_>>>()?.join(" "))
}

/// The text before the next placeholder, its name, and the text after it. ssh's `${VARIABLE}` is not a placeholder.
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

/// Returns whether arcssh renews a `CertificateFile`, with a certificate of Entra ID.
pub(crate) fn is_of_entra(certificate_file: &str) -> bool {
    certificate_file.contains("/arcssh/id_")
}

/// Returns whether a name is valid in a `Host` line and on ssh's command line. It must not be a pattern or look like an
/// option, and must not contain a character that newer OpenSSH rejects in a host name (ssh.c, `valid_hostname`) or a
/// terminal hides.
pub(crate) fn is_alias(name: &str) -> bool {
    let first = name.chars().next();
    first.is_some_and(|c| c.is_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() && !is_unsafe(c) || "._-".contains(c))
}

/// Returns whether a text is one pattern, such as `*.arc`.
pub(crate) fn is_pattern(text: &str) -> bool {
    is_wildcard(text) && is_alias(&example(text))
}

/// Returns a text as a word of a command in a host entry, on every platform: percent-encodes (RFC 3986, section 2.1) a hyphen
/// at its start and characters that are special to a shell.
pub(crate) fn to_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:,@+#".contains(c);
    let mut word = String::with_capacity(text.len());
    for (position, c) in text.char_indices() {
        if is_plain(c) && !(position == 0 && c == '-') {
            word.push(c);
        } else {
            word.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")));
        }
    }
    word
}

/// Returns the text of a word that may be percent-encoded.
pub(crate) fn from_word(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(b'%'));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).unwrap_or_else(|_| word.to_owned())
}

/// Escapes a text for a command, in which ssh expands tokens.
pub(crate) fn escape_percent(text: &str) -> String {
    text.replace('%', "%%")
}

/// Quotes the argument of a keyword. ssh splits arguments at white space outside of double quotes, inside of which an
/// apostrophe is literal. Since 8.7 a backslash escapes a quote, a backslash or a space (misc.c, `argv_split`), before that
/// it did not. A value that the two read differently is an error.
fn argument(keyword: &str, value: &str) -> Result<String> {
    ensure!(!value.is_empty(), "{keyword} cannot be empty");
    // The name of an Entra user can begin with one (Azure/azure-cli issue 23491). ssh rejects it on its command line only.
    let is_entra_user = keyword == "User" && value.contains('@');
    ensure!(is_entra_user || !value.starts_with('-'), "{keyword} {value:?} cannot begin with a hyphen");
    ensure!(!value.contains(char::is_control), "{keyword} {value:?} cannot contain a control character");
    ensure!(!value.contains('"'), "{keyword} {value:?} cannot contain a double quote");
    ensure!(!value.contains(['%', '$']), "{keyword} {value:?} cannot contain % or $, which ssh expands");
    let escapes = value.ends_with('\\') || ["\\\\", "\\ ", "\\'"].iter().any(|pair| value.contains(pair));
    ensure!(
        !escapes,
        "{keyword} {value:?} contains a backslash, which versions of ssh interpret differently"
    );
    Ok(in_quotes_if_needed(value))
}

/// Quotes and escapes a file name for a keyword such as `IdentityFile`, in which ssh expands tokens. On Windows it gets
/// forward slashes.
fn file_name(keyword: &str, value: &str, platform: Platform) -> Result<String> {
    let value = for_platform(value, platform);
    argument(keyword, &value.replace('%', "_"))?;
    Ok(in_quotes_if_needed(&escape_percent(&value)))
}

fn in_quotes_if_needed(value: &str) -> String {
    let plain = !value.contains(|c: char| c.is_whitespace() || "#=,'".contains(c));
    if plain { value.to_owned() } else { format!("\"{value}\"") }
}

/// Quotes a word of a ProxyCommand. On Unix, the user's shell parses the line, on Windows the C runtime. Double quotes mean
/// the same to all of them if no character inside is special to any of them.
fn command_word(word: &str, platform: Platform) -> Result<String> {
    let word = for_platform(word, platform);
    let special = |c: char| c.is_control() || "\"'\\$`!".contains(c);
    ensure!(
        !word.contains(special),
        "{word:?} cannot be used in a ProxyCommand, where a shell would change it"
    );
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,@+%".contains(c);
    Ok(if !word.is_empty() && word.chars().all(plain) { word } else { format!("\"{word}\"") })
}

/// Quotes the command of a `Match exec`, which is inside double quotes, so that it must not contain any for some versions of
/// ssh. The user's shell parses it, on Windows cmd.exe, which has no other quotes.
fn match_exec(words: &[String], platform: Platform) -> Result<String> {
    let words = words.iter().map(|word| {
        let plain = |c: char| c.is_alphanumeric() || "/._-:,@+%~".contains(c);
        let allowed = |c: char| plain(c) || (platform == Platform::Windows && "\\#".contains(c));
        if !word.is_empty() && word.chars().all(allowed) {
            return Ok(word.clone());
        }
        let special = |c: char| c.is_control() || "\"'\\$`!".contains(c);
        ensure!(
            platform == Platform::Unix && !word.contains(special),
            "{word:?} cannot be used in a Match exec, where a shell would change it"
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
