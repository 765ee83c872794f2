//! Host entries of `az ssh config`, Export-AzSshConfig and azure_rm_arcssh for Arc machines, with a relay credential that
//! expires within an hour. They have Microsoft's sshProxy as ProxyCommand.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::ssh::effective_config::directive;
use crate::ssh::patterns::without_comment;

/// The start of each line of an adopted entry. A date follows.
const ADOPTED: &str = "# adopted by arcssh ";

/// A host entry of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignEntry {
    /// The numbers of the lines that an entry of arcssh replaces, from 0: all, unless the user added options.
    lines: BTreeSet<usize>,
    /// The patterns of its `Host`.
    pub(crate) patterns: Vec<String>,
    /// `HostName`: the name of the machine, if it differs from the pattern.
    pub(crate) host_name: Option<String>,
    /// `User`.
    pub(crate) user: Option<String>,
    /// `IdentityFile`.
    pub(crate) identity_file: Option<String>,
    /// `CertificateFile`.
    pub(crate) certificate_file: Option<String>,
    /// The port after `-p`.
    pub(crate) port: Option<u16>,
    /// The file with the relay credential, after `-r`.
    pub(crate) relay_info: PathBuf,
}

impl ForeignEntry {
    /// Candidates for `{group}-{name}` of the machine. az and Az.Ssh use it as a file name, azure_rm_arcssh's documentation
    /// as a directory.
    pub(crate) fn group_and_name(&self) -> Vec<String> {
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let file = name(&self.relay_info).and_then(|file| Some(file.strip_suffix("-relay_info")?.to_owned()));
        [file, self.relay_info.parent().and_then(name)].into_iter().flatten().collect()
    }

    /// Returns whether the entry uses a certificate of Entra ID, by the name that az gives its file (azure-cli-extensions `ssh`,
    /// custom.py: `public_key_file + "-aadcert.pub"`). `az ssh config --certificate-file` names another file.
    pub(crate) fn has_entra_certificate(&self) -> bool {
        self.certificate_file.as_ref().is_some_and(|file| file.ends_with("-aadcert.pub"))
    }

    /// Files that the entry no longer needs, by their names. The caller checks by their content that azure-cli-extensions
    /// `ssh` wrote them.
    pub(crate) fn leftovers(&self) -> Vec<Leftover> {
        let token = Some(self.relay_info.clone()).filter(|file| is_file(file)).map(Leftover::RelayInfo);
        token.into_iter().chain(self.key_pair().map(Leftover::KeyPair)).collect()
    }

    /// The key that az created for the certificate (`custom.py`, `ssh_utils.py`). Both are next to the relay information,
    /// below `az_ssh_config`, and the entry has both names.
    fn key_pair(&self) -> Option<KeyPair> {
        let folder = self.relay_info.parent()?;
        let is_from_az = folder.parent()?.file_name()? == "az_ssh_config";
        let named = |name: &str, value: &Option<String>| {
            let path = folder.join(name);
            (value.as_deref().map(Path::new) == Some(&path) && is_file(&path)).then_some(path)
        };
        let private = named("id_rsa", &self.identity_file).filter(|_| is_from_az)?;
        let certificate = named("id_rsa.pub-aadcert.pub", &self.certificate_file)?;
        let public = Some(folder.join("id_rsa.pub")).filter(|path| is_file(path))?;
        Some(KeyPair { private, public, certificate })
    }
}

/// Files that an adopted entry no longer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// A file with a relay credential.
    RelayInfo(PathBuf),
    /// A key that az created for a certificate.
    KeyPair(KeyPair),
}

/// The files of a key and its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPair {
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
    pub(crate) certificate: PathBuf,
}

impl Leftover {
    /// All files.
    pub(crate) fn files(&self) -> Vec<&Path> {
        match self {
            Self::RelayInfo(file) => vec![file],
            Self::KeyPair(KeyPair { private, public, certificate }) => vec![certificate, public, private],
        }
    }
}

/// Returns whether the path is a regular file, not a link.
fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Finds the entries in a configuration.
pub(crate) fn find(text: &str) -> Vec<ForeignEntry> {
    let lines: Vec<&str> = text.lines().collect();
    let is_header = |line: &&str| directive(line).is_some_and(|(word, _)| word == "host" || word == "match");
    let starts: Vec<usize> = (0..lines.len()).filter(|at| is_header(&lines[*at])).collect();
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    starts.iter().zip(ends).filter_map(|(start, end)| foreign(&lines, *start..end)).collect()
}

/// Finds the adopted entries, and those that are not adopted.
pub(crate) fn find_adopted(text: &str) -> Vec<ForeignEntry> {
    let original = |line: &str| match line.strip_prefix(ADOPTED).and_then(|rest| rest.split_once(": ")) {
        Some((_date, old)) => old.to_owned(),
        None => line.to_owned(),
    };
    find(&text.lines().map(original).collect::<Vec<_>>().join("\n"))
}

/// The numbers of the lines that adopted entries replace, from 0.
pub(crate) fn replaced_lines<'a>(entries: impl IntoIterator<Item = &'a ForeignEntry>) -> BTreeSet<usize> {
    entries.into_iter().flat_map(|entry| entry.lines.iter().copied()).collect()
}

/// Turns the replaced lines of entries into comments with a date. Does not change empty lines.
pub(crate) fn commented_out(text: &str, entries: &[ForeignEntry], date: &str) -> String {
    let replaced = replaced_lines(entries);
    let line = |(number, line): (usize, &str)| {
        let is_comment = replaced.contains(&number) && !line.trim().is_empty();
        if is_comment { format!("{ADOPTED}{date}: {line}") } else { line.to_owned() }
    };
    text.split_inclusive('\n').enumerate().map(line).collect()
}

fn foreign(lines: &[&str], range: Range<usize>) -> Option<ForeignEntry> {
    let body = || lines[range.clone()].iter().filter_map(|line| directive(line));
    let value = |word: &str| body().find(|(keyword, _)| keyword == word).map(|(_, value)| value);
    let plain = |word: &str| value(word).map(|value| value.trim_matches('"').to_owned());
    let command = value("proxycommand")?;
    let words = words(&command);
    let after = |option: &str| words.iter().skip_while(|word| *word != option).nth(1).cloned();
    let relay_info = PathBuf::from(after("-r")?);
    let program = Path::new(words.first()?).file_name()?.to_str()?.to_lowercase();
    if !program.contains("sshproxy") {
        return None;
    }
    let patterns = without_comment(&value("host")?);
    let end = range.start
        + 1
        + lines[range.start + 1..range.end].iter().rposition(|line| directive(line).is_some())?;
    Some(ForeignEntry {
        lines: replaced(lines, range.start..end + 1),
        patterns,
        host_name: plain("hostname"),
        user: plain("user"),
        identity_file: plain("identityfile"),
        certificate_file: plain("certificatefile"),
        port: after("-p").and_then(|port| port.parse().ok()),
        relay_info,
    })
}

/// The lines of a section that an entry of arcssh replaces. ssh uses every key and certificate, and the entry has the first.
fn replaced(lines: &[&str], range: Range<usize>) -> BTreeSet<usize> {
    let (mut replaced, mut is_complete) = (BTreeSet::new(), true);
    let mut files = BTreeSet::new();
    for (number, line) in lines.iter().enumerate().take(range.end).skip(range.start + 1) {
        let Some((keyword, _)) = directive(line) else { continue };
        let is_replaced = match keyword.as_str() {
            "hostname" | "user" | "proxycommand" => true,
            "identityfile" | "certificatefile" => files.insert(keyword),
            _ => false,
        };
        is_complete &= is_replaced;
        replaced.extend(Some(number).filter(|_| is_replaced));
    }
    if is_complete { range.collect() } else { replaced }
}

/// The words of a command, with double quotes as all three programs write them. A backslash is part of a Windows path.
fn words(command: &str) -> Vec<String> {
    let quoted = command.split('"').enumerate().map(|(n, part)| (n % 2 == 1, part));
    let split = |(is_quoted, part): (bool, &str)| {
        if is_quoted { vec![part.to_owned()] } else { part.split_whitespace().map(Into::into).collect() }
    };
    quoted.flat_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format of azure-cli-extensions `ssh_info.py`: a tab before each line, and no newline at the end.
    const AZ: &str = "User me\n\nHost rg-web-web01-azureuser\n\tHostName web01\n\tUser azureuser\n\tIdentityFile \"/home/me/.ssh/id_ed25519\"\n\tProxyCommand \"/home/me/.clientsshproxy/sshProxy_linux_amd64_1_3_026973\" -r \"/home/me/az_ssh_config/rg-web-web01/rg-web-web01-relay_info\" -p 2222";

    #[test]
    fn all_values_of_an_entry_of_az_ssh_config_are_read() {
        let [entry] = &find(AZ)[..] else { panic!("{:?}", find(AZ)) };
        assert_eq!(entry.patterns, ["rg-web-web01-azureuser"]);
        assert_eq!(entry.host_name.as_deref(), Some("web01"));
        assert_eq!(entry.user.as_deref(), Some("azureuser"));
        assert_eq!(entry.identity_file.as_deref(), Some("/home/me/.ssh/id_ed25519"));
        assert_eq!((entry.port, entry.has_entra_certificate()), (Some(2222), false));
        assert_eq!(entry.group_and_name(), ["rg-web-web01", "rg-web-web01"]);
    }

    #[test]
    fn a_windows_path_is_one_word() {
        let words = words(
            r#""C:\Users\me\.clientsshproxy\sshProxy_windows_amd64_1_3_022941.exe" -r "C:\my files\x-relay_info""#,
        );
        assert_eq!(words[2], r"C:\my files\x-relay_info");
    }

    #[test]
    fn entries_without_sshproxy_are_ignored() {
        assert_eq!(find("Host a\n ProxyCommand nc -r x %h\nHost b\n HostName b\n"), []);
        assert_eq!(find("Host a\n ProxyCommand arcssh proxy -r x\n"), []);
    }

    #[test]
    fn adopted_lines_become_comments_with_the_date_and_other_lines_do_not_change() {
        let text = format!("{AZ}\n\nHost other\r\n  Port 1\r\n");
        let commented = commented_out(&text, &find(&text), "2026-11-22");
        assert!(commented.starts_with("User me\n\n# adopted by arcssh 2026-11-22: Host rg-web-web01-azureuser\n# adopted by arcssh 2026-11-22: \tHostName web01\n"));
        assert!(commented.ends_with("-p 2222\n\nHost other\r\n  Port 1\r\n"));
        assert_eq!(find(&commented), []);
        assert_eq!(find_adopted(&commented).len(), 1);
    }
}
