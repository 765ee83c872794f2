//! Excerpts of the ssh configuration for a bug report: values only of options that contain no secret. Options such as `SetEnv`
//! and `ProxyCommand` can contain a password.

use crate::ssh::effective_config::directive;
use crate::ssh::managed_block;

/// Takes the place of a value.
const HIDDEN: &str = "…";

/// Keywords whose values are names, files, numbers or choices (ssh_config(5)), in lower case.
const SHOWN: [&str; 53] = [
    "addkeystoagent",
    "addressfamily",
    "batchmode",
    "canonicalizehostname",
    "casignaturealgorithms",
    "certificatefile",
    "checkhostip",
    "ciphers",
    "compression",
    "connectionattempts",
    "connecttimeout",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "enablesshkeysign",
    "forkafterauthentication",
    "forwardagent",
    "globalknownhostsfile",
    "gssapiauthentication",
    "hashknownhosts",
    "host",
    "hostbasedauthentication",
    "hostkeyalgorithms",
    "hostkeyalias",
    "hostname",
    "identitiesonly",
    "identityagent",
    "identityfile",
    "kbdinteractiveauthentication",
    "kexalgorithms",
    "loglevel",
    "macs",
    "numberofpasswordprompts",
    "passwordauthentication",
    "permitlocalcommand",
    "port",
    "preferredauthentications",
    "proxyusefdpass",
    "pubkeyacceptedalgorithms",
    "pubkeyacceptedkeytypes",
    "pubkeyauthentication",
    "rekeylimit",
    "requesttty",
    "requiredrsasize",
    "serveralivecountmax",
    "serveraliveinterval",
    "sessiontype",
    "stricthostkeychecking",
    "tcpkeepalive",
    "updatehostkeys",
    "user",
    "userknownhostsfile",
    "verifyhostkeydns",
];

/// Returns the numbered lines of a configuration: those of the managed block, and the keywords of the others.
pub(crate) fn of_file(text: &str) -> String {
    let block = managed_block::find(text).ok().flatten().unwrap_or_default();
    let (mut excerpt, mut start) = (String::new(), 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let shown = if block.contains(&start) { own_line(line) } else { foreign_line(line) };
        excerpt += &format!("{number:5}  {shown}\n");
        start += line.len();
    }
    excerpt
}

/// Returns the output of `ssh -G`.
pub(crate) fn of_values(output: &str) -> String {
    output.lines().map(|line| own_line(line) + "\n").collect()
}

/// A first word that cannot be a keyword can be a secret: a lost line of a command, for example.
fn foreign_line(line: &str) -> String {
    let is_keyword = |word: &str| word == "pkcs11provider" || word.chars().all(|c| c.is_ascii_alphabetic());
    match directive(line) {
        Some((keyword, _)) if is_keyword(&keyword) => format!("{keyword} {HIDDEN}"),
        Some(_) => HIDDEN.into(),
        None if line.trim().is_empty() => String::new(),
        None => format!("# {HIDDEN}"),
    }
}

fn own_line(line: &str) -> String {
    let is_shown = match directive(line) {
        Some((keyword, value)) if keyword == "proxycommand" => is_plain_command(&value),
        Some((keyword, _)) => SHOWN.contains(&keyword.as_str()),
        None => is_own_comment(line),
    };
    if is_shown { line.trim_end().to_owned() } else { foreign_line(line) }
}

/// Returns whether arcssh writes such a comment.
fn is_own_comment(line: &str) -> bool {
    let is_id = line.starts_with("# /subscriptions/") && line.split_whitespace().count() == 2;
    is_id || managed_block::is_own_comment(line)
}

/// Returns whether a command is `ARCSSH proxy …` without an environment, a redirection or another command.
fn is_plain_command(command: &str) -> bool {
    let Some((program, arguments)) = command.split_once(" proxy ") else { return false };
    let is_quoted = program.starts_with('"') && program.ends_with('"');
    let is_program = (is_quoted || !program.contains(char::is_whitespace))
        && !program.contains(['=', '@', '$', '`', ';', '|', '&']);
    is_program && arguments.chars().all(|c| c.is_alphanumeric() || " /._-:,@+%#".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_of_a_file_has_values_of_own_host_entries_only() {
        let entry = "# /subscriptions/s\nHost web01\n    User ada\n    SetEnv A=canary\n    # canary\n    \
            ProxyCommand /x/arcssh proxy /subscriptions/s/machines/web01 --port %p\n";
        let block = managed_block::block("{}", entry);
        let text = format!(
            "{block}Host *\n\n  # canary\n  ProxyCommand canary\n  --canary-1 x\nMatch exec canary\n"
        );
        let excerpt = of_file(&text);
        assert!(!excerpt.contains("canary"), "{excerpt}");
        assert_eq!(excerpt.lines().count(), text.lines().count());
        for line in
            ["Host web01", "    User ada", "setenv …", "ProxyCommand /x/arcssh proxy /subscriptions/s/"]
        {
            assert!(excerpt.contains(line), "{line}: {excerpt}");
        }
    }

    #[test]
    fn a_command_is_shown_if_it_only_starts_arcssh() {
        for (command, is_shown) in [
            ("/x/arcssh proxy /subscriptions/s --port %p --cloud china", true),
            ("\"/x y/arcssh\" proxy --host %h", true),
            ("env HTTPS_PROXY=http://u:p@h arcssh proxy --host %h", false),
            ("A=b arcssh proxy --host %h", false),
            ("arcssh proxy --host %h; echo $PASSWORD", false),
            ("arcssh proxy --host %h | tee 'canary'", false),
            ("nc -X connect -P canary %h %p", false),
        ] {
            assert_eq!(is_plain_command(command), is_shown, "{command}");
        }
        assert_eq!(
            of_values("user ada\nsetenv A=b\nproxycommand nc\n"),
            "user ada\nsetenv …\nproxycommand …\n"
        );
    }
}
