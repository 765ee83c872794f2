//! The command line of `arcssh ssh`: short options are ssh's, long ones are those of arcssh, since ssh has none.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Args, ValueHint};
use percent_encoding::percent_decode_str;

use crate::cli::complete::{self, URI};
use crate::cli::destination::DestinationArgs;
use crate::cli::{CertificateArgs, GENERAL};
use crate::ssh::host_entry::{CertificateMode, Platform};

/// The options of ssh that have an argument (OpenSSH 9.9, ssh.c, `getopt` in `main`).
const WITH_ARGUMENT: &str = "bceilmopBDEFIJLOPQRSwW";

const USAGE: &str = "arcssh ssh [OPTIONS] [USER@]MACHINE [SSH-ARGS]...";

pub(super) const EXAMPLES: &str = "\
Examples:
  arcssh ssh web01                         log in
  arcssh ssh azureuser@web01 uptime        run a command
  arcssh ssh -L 8080:localhost:80 -N web01
                                           forward a port
  arcssh ssh --entra web01                 log in with an Entra ID certificate
  arcssh ssh web01 -- -t 'top -n 1; ls'    pass the rest to ssh, unchanged
  rsync -e 'arcssh ssh' -a site/ web01:site/
  GIT_SSH_COMMAND='arcssh ssh' git clone web01:project.git

Short options are those of ssh: -v shows its messages, and --verbose the log of
arcssh. A host entry of arcssh config applies. Without one, ssh reads your
configuration for the host name NAME.ID, which no other host has.";

#[derive(Debug, Args)]
#[command(
    override_usage = USAGE,
    arg = long_verbose(),
    mut_arg("port", |arg| arg.short(None).hide(true)),
    mut_arg("service", |arg| arg.hide(true)),
    mut_arg("subscription", |arg| arg.short(None))
)]
pub(crate) struct SshArgs {
    /// Name, GROUP/NAME, resource ID or ssh host name of a machine; USER@ before it names the user
    #[arg(value_name = "MACHINE", help_heading = "Machines", add = complete::user_and_machine())]
    pub(crate) machine: Option<String>,
    #[command(flatten)]
    pub(crate) login: SshLogin,
    #[command(flatten)]
    pub(crate) destination: DestinationArgs,
    /// The options and the command for ssh.
    #[arg(skip)]
    pub(crate) words: SshWords,
}

/// The options of ssh whose argument is a file.
const WITH_FILE: &str = "iEFIS";

/// The machine in an argument, `[USER@]MACHINE` or, as for ssh, `ssh://[USER@]MACHINE[:PORT]` (ssh(1)).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) user: Option<String>,
    pub(crate) machine: Option<String>,
    pub(crate) port: Option<u16>,
}

impl Address {
    pub(crate) fn of(argument: Option<&str>) -> Self {
        let Some(argument) = argument else { return Self::default() };
        let uri = argument.strip_prefix(URI);
        let text = uri.map_or(argument, |uri| uri.strip_suffix('/').unwrap_or(uri));
        // A user can contain `@` (ssh.c, `main`: the last one counts).
        let (user, machine) = match text.rsplit_once('@') {
            Some((user, machine)) if !user.is_empty() => (Some(user), machine),
            _ => (None, text),
        };
        let Some(_) = uri else {
            return Self { user: user.map(Into::into), machine: Some(machine.into()), port: None };
        };
        // misc.c, `parse_uri`: the user is percent-encoded.
        let user = user.map(|user| percent_decode_str(user).decode_utf8_lossy().into_owned());
        let number = |port: &str| port.parse().ok().filter(|port| *port != 0);
        let with_port = machine.rsplit_once(':').and_then(|(host, port)| Some((host, number(port)?)));
        let (machine, port) = with_port.map_or((machine, None), |(host, port)| (host, Some(port)));
        Self { user, machine: Some(machine.into()), port }
    }

    /// Returns the options with the port of a URI. As in ssh, an option precedes it.
    pub(crate) fn with_port(&self, args: &DestinationArgs) -> DestinationArgs {
        let mut args = args.clone();
        args.target.port = args.target.port.or(self.port);
        args
    }
}

/// The login.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Login")]
pub(crate) struct SshLogin {
    /// User to log in as
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Private key to log in with
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) identity: Option<String>,
    /// Certificate of your own certificate authority to log in with
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "entra", hide_short_help = true)]
    pub(crate) certificate_file: Option<String>,
    /// Log in with an Entra ID SSH certificate
    ///
    /// An agent of arcssh serves the certificate, or arcssh writes it to files [default: agent; on Windows: files]
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true)]
    entra: Option<Option<CertificateMode>>,
    #[command(flatten)]
    pub(crate) certificate: CertificateArgs,
}

impl SshLogin {
    /// Returns how ssh gets a certificate, if the user logs in with one.
    pub(crate) fn entra(&self) -> Option<CertificateMode> {
        self.entra.map(|mode| mode.unwrap_or(CertificateMode::on(Platform::HERE)))
    }

    /// Returns the options with the user who is part of the machine's argument, if there is one.
    pub(crate) fn with_user(&self, user: Option<String>) -> Self {
        Self { user: user.or(self.user.clone()), ..self.clone() }
    }
}

/// The option of every command, without its short name.
fn long_verbose() -> Arg {
    let help = "Log to standard error (twice: also details)";
    Arg::new("verbose").long("verbose").action(ArgAction::Count).global(true).help(help).help_heading(GENERAL)
}

/// The words of a command line of ssh, without the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SshWords {
    pub(crate) options: Vec<OsString>,
    /// The remote command, or the name of a subsystem.
    pub(crate) command: Vec<OsString>,
}

impl SshWords {
    /// Returns whether one of the options has this letter.
    pub(crate) fn has(&self, letter: char) -> bool {
        let mut words = self.options.iter();
        while let Some(word) = words.next() {
            if letters(word).contains(letter) {
                return true;
            }
            if needs_argument(word) {
                words.next();
            }
        }
        false
    }

    /// Returns whether the last option has no argument although ssh requires one. ssh would take a word of arcssh for it.
    pub(crate) fn lacks_argument(&self) -> bool {
        let mut words = self.options.iter();
        while let Some(word) = words.next() {
            if needs_argument(word) && words.next().is_none() {
                return true;
            }
        }
        false
    }
}

/// The words after `arcssh ssh`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// The options of arcssh, and the machine.
    pub(super) own: Vec<OsString>,
    pub(super) ssh: SshWords,
}

/// Splits the words after `arcssh ssh`. Like ssh, it finds options before and after the host (ssh.c, `again`); `--` before the
/// host ends them. After the host, `--` ends the options of arcssh. `has_value` returns whether one of those has a value.
pub(super) fn split(words: impl Iterator<Item = OsString>, has_value: impl Fn(&str) -> bool) -> Split {
    let (mut own, mut ssh) = (Vec::new(), SshWords::default());
    let (mut words, mut machine, mut is_ssh_only) = (words, None, false);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--" && machine.is_none() {
            machine = words.next();
            break;
        } else if text == "--" && !is_ssh_only {
            is_ssh_only = true;
        } else if text == "--" {
            break;
        } else if !is_ssh_only && (text.starts_with("--") || text == "-h") {
            let value = has_value(&text).then(|| words.next()).flatten();
            own.push(word);
            own.extend(value);
        } else if text.starts_with('-') && text.len() > 1 {
            let argument = needs_argument(&word).then(|| words.next()).flatten();
            ssh.options.push(word);
            ssh.options.extend(argument);
        } else if machine.is_none() {
            machine = Some(word);
        } else {
            ssh.command.push(word);
            break;
        }
    }
    ssh.command.extend(words);
    own.extend(machine.into_iter().flat_map(|machine| ["--".into(), machine]));
    Split { own, ssh }
}

/// Returns whether the argument of the last option in a word is a file.
pub(super) fn has_file(word: &OsStr) -> bool {
    letters(word).ends_with(|letter| WITH_FILE.contains(letter))
}

/// Returns the letters of the options in a word, of which only the last one can have an argument.
fn letters(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let letters = text.strip_prefix('-').unwrap_or_default();
    let end = letters.char_indices().find(|(_, letter)| WITH_ARGUMENT.contains(*letter));
    end.map_or(letters, |(at, _)| &letters[..=at]).to_owned()
}

/// Returns whether the next word is the argument of the last option in this word.
fn needs_argument(word: &OsStr) -> bool {
    let letters = letters(word);
    letters.ends_with(|letter| WITH_ARGUMENT.contains(letter)) && letters.len() + 1 == word.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn short_options_are_those_of_ssh_and_long_ones_those_of_arcssh() {
        for (line, own, options, command) in [
            ("web01", "-- web01", "", ""),
            ("", "", "", ""),
            ("-l me -p22 web01 uptime -p", "-- web01", "-l me -p22", "uptime -p"),
            ("web01 --wait 5 -vN --all -o A=b", "--wait 5 --all -- web01", "-vN -o A=b", ""),
            ("--wait=5 -tp 22 web01 -v ls --color", "--wait=5 -- web01", "-tp 22 -v", "ls --color"),
            ("web01 -- -L 1:b:2 -N", "-- web01", "-L 1:b:2 -N", ""),
            ("web01 -- -t top --all", "-- web01", "-t", "top --all"),
            ("web01 -- --all -- -x", "-- web01", "--all", "-x"),
            ("web01 -v -- uptime", "-- web01", "-v", "uptime"),
            // As scp runs it.
            ("-x -oA=b -s -- web01 sftp", "-- web01", "-x -oA=b -s", "sftp"),
            ("-s -- -web01 -v", "-- -web01", "-s", "-v"),
            ("-J - web01", "-- web01", "-J -", ""),
            ("-h", "-h", "", ""),
            ("-o", "", "-o", ""),
            ("web01 - --", "-- web01", "", "- --"),
        ] {
            let split = split(words(line).into_iter(), |option| option == "--wait");
            let ssh = SshWords { options: words(options), command: words(command) };
            assert_eq!(split, Split { own: words(own), ssh }, "{line}");
        }
    }

    #[test]
    fn a_machine_can_be_a_uri_of_ssh() {
        for (argument, user, machine, port) in [
            ("web01", None, "web01", None),
            ("a@b@web01", Some("a@b"), "web01", None),
            ("@web01", None, "@web01", None),
            ("web01:22", None, "web01:22", None),
            ("a%40b@web01", Some("a%40b"), "web01", None),
            ("ssh://web01", None, "web01", None),
            ("ssh://me@web01:2222/", Some("me"), "web01", Some(2222)),
            ("ssh://ada%40contoso.com@rg-web/web01", Some("ada@contoso.com"), "rg-web/web01", None),
            ("ssh://web01:0", None, "web01:0", None),
            ("ssh://web01:x", None, "web01:x", None),
            ("ssh://", None, "", None),
        ] {
            let expected = Address { user: user.map(str::to_owned), machine: Some(machine.to_owned()), port };
            assert_eq!(Address::of(Some(argument)), expected, "{argument}");
        }
        assert_eq!(Address::of(None), Address::default());
    }

    #[test]
    fn an_option_is_found_by_its_letter() {
        let words = SshWords { options: words("-vF file -o F=V -pF"), command: words("-Q") };
        assert!(words.has('F') && words.has('v') && words.has('o') && words.has('p'));
        assert!(!words.has('V') && !words.has('Q') && !words.has('l') && !words.has('='));
        let words = SshWords { options: vec!["-l".into(), "-F".into(), "-oF".into()], ..SshWords::default() };
        assert!(!words.has('F'));
    }

    #[test]
    fn the_last_option_may_lack_its_argument() {
        for (options, lacks) in
            [("-p", true), ("-vp", true), ("-p -l", false), ("-p 1 -l", true), ("-p1 -v", false)]
        {
            let words = SshWords { options: words(options), command: Vec::new() };
            assert_eq!(words.lacks_argument(), lacks, "{options}");
        }
    }
}
