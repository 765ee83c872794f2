//! Sections that other programs wrote for Arc machines, with a relay credential that expires within the hour: those of
//! `az ssh config`, Export-AzSshConfig and azure_rm_arcssh. They are known by Microsoft's sshProxy in their ProxyCommand.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::ssh::effective_config::directive;

/// What stands before each line of a section that was adopted, and then a date.
const ADOPTED: &str = "# adopted by arcssh ";

/// A section of another program's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignEntry {
    /// Its lines, counted from 0.
    lines: Range<usize>,
    /// What may be typed for it.
    pub(crate) patterns: Vec<String>,
    /// `HostName`, which is the machine's name; absent where it is the same as the pattern.
    pub(crate) host_name: Option<String>,
    /// `User`.
    pub(crate) user: Option<String>,
    /// `IdentityFile`.
    pub(crate) identity_file: Option<String>,
    /// `CertificateFile`, if it logs in with a certificate of Entra ID.
    pub(crate) certificate_file: Option<String>,
    /// The port that sshProxy is told by `-p`.
    pub(crate) port: Option<u16>,
    /// The file with the relay credential, `-r`.
    pub(crate) relay_info: PathBuf,
}

impl ForeignEntry {
    /// What the machine may be called as `{group}-{name}`: az and Az.Ssh name files so, azure_rm_arcssh's documents
    /// folders.
    pub(crate) fn group_and_name(&self) -> Vec<String> {
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let file = name(&self.relay_info).and_then(|file| Some(file.strip_suffix("-relay_info")?.to_owned()));
        [file, self.relay_info.parent().and_then(name)].into_iter().flatten().collect()
    }

    /// Whether it logs in with a certificate of Entra ID.
    pub(crate) fn has_certificate(&self) -> bool {
        self.certificate_file.is_some()
    }

    /// Files that it leaves behind, as far as their names tell: what they hold decides whether they are what
    /// azure-cli-extensions `ssh` wrote.
    pub(crate) fn leftovers(&self) -> Vec<Leftover> {
        let token = Some(self.relay_info.clone()).filter(|file| is_file(file)).map(Leftover::RelayInfo);
        token.into_iter().chain(self.key_pair().map(Leftover::KeyPair)).collect()
    }

    /// The key that az made for the section's certificate (`custom.py`, `ssh_utils.py`): both are in the folder that is
    /// called as the relay information, below `az_ssh_config`, and the section names both.
    fn key_pair(&self) -> Option<KeyPair> {
        let folder = self.relay_info.parent()?;
        let is_made_by_az = folder.parent()?.file_name()? == "az_ssh_config";
        let named = |name: &str, given: &Option<String>| {
            let path = folder.join(name);
            (given.as_deref().map(Path::new) == Some(&path) && is_file(&path)).then_some(path)
        };
        let private = named("id_rsa", &self.identity_file).filter(|_| is_made_by_az)?;
        let certificate = named("id_rsa.pub-aadcert.pub", &self.certificate_file)?;
        let public = Some(folder.join("id_rsa.pub")).filter(|path| is_file(path))?;
        Some(KeyPair { private, public, certificate })
    }
}

/// What an adopted section leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// A file with a relay credential.
    RelayInfo(PathBuf),
    /// A key that was made for a certificate.
    KeyPair(KeyPair),
}

/// A key with its certificate, in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPair {
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
    pub(crate) certificate: PathBuf,
}

impl Leftover {
    /// Its files.
    pub(crate) fn files(&self) -> Vec<&Path> {
        match self {
            Self::RelayInfo(file) => vec![file],
            Self::KeyPair(KeyPair { private, public, certificate }) => vec![certificate, public, private],
        }
    }
}

/// Whether it is a regular file, and no link to one.
fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// The sections of other programs in a configuration.
pub(crate) fn find(text: &str) -> Vec<ForeignEntry> {
    let lines: Vec<&str> = text.lines().collect();
    let is_head = |line: &&str| directive(line).is_some_and(|(word, _)| word == "host" || word == "match");
    let heads: Vec<usize> = (0..lines.len()).filter(|at| is_head(&lines[*at])).collect();
    let ends = heads.iter().skip(1).copied().chain([lines.len()]);
    heads.iter().zip(ends).filter_map(|(start, end)| foreign(&lines, *start..end)).collect()
}

/// Those that have been adopted, with the lines of the ones that have not.
pub(crate) fn find_adopted(text: &str) -> Vec<ForeignEntry> {
    let bare = |line: &str| match line.strip_prefix(ADOPTED).and_then(|rest| rest.split_once(": ")) {
        Some((_date, old)) => old.to_owned(),
        None => line.to_owned(),
    };
    find(&text.lines().map(bare).collect::<Vec<_>>().join("\n"))
}

/// The text with these sections turned into comments that tell when; empty lines stay empty.
pub(crate) fn commented_out(text: &str, sections: &[ForeignEntry], date: &str) -> String {
    let inside = |number: usize| sections.iter().any(|section| section.lines.contains(&number));
    let line = |(number, line): (usize, &str)| match inside(number) && !line.trim().is_empty() {
        true => format!("{ADOPTED}{date}: {line}"),
        false => line.to_owned(),
    };
    text.split_inclusive('\n').enumerate().map(line).collect()
}

fn foreign(lines: &[&str], range: Range<usize>) -> Option<ForeignEntry> {
    let body = || lines[range.clone()].iter().filter_map(|line| directive(line));
    let value = |word: &str| body().find(|(keyword, _)| keyword == word).map(|(_, value)| value);
    let bare = |word: &str| value(word).map(|value| value.trim_matches('"').to_owned());
    let command = value("proxycommand")?;
    let words = words(&command);
    let after = |option: &str| words.iter().skip_while(|word| *word != option).nth(1).cloned();
    let relay_info = PathBuf::from(after("-r")?);
    let program = Path::new(words.first()?).file_name()?.to_str()?.to_lowercase();
    if !program.contains("sshproxy") {
        return None;
    }
    let patterns =
        value("host")?.split_whitespace().map(|pattern| pattern.trim_matches('"').to_owned()).collect();
    let end = range.start
        + 1
        + lines[range.start + 1..range.end].iter().rposition(|line| directive(line).is_some())?;
    Some(ForeignEntry {
        lines: range.start..end + 1,
        patterns,
        host_name: bare("hostname"),
        user: bare("user"),
        identity_file: bare("identityfile"),
        certificate_file: bare("certificatefile"),
        port: after("-p").and_then(|port| port.parse().ok()),
        relay_info,
    })
}

/// The words of a command in which some are in double quotes, as all three programs write it. A backslash is part of
/// a Windows path.
fn words(command: &str) -> Vec<String> {
    let quoted = command.split('"').enumerate().map(|(n, part)| (n % 2 == 1, part));
    let split = |(quoted, part): (bool, &str)| match quoted {
        true => vec![part.to_owned()],
        false => part.split_whitespace().map(Into::into).collect(),
    };
    quoted.flat_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As azure-cli-extensions `ssh_info.py` writes it: a tab before each line, no newline at the end.
    const AZ: &str = "User me\n\nHost rg-web-web01-azureuser\n\tHostName web01\n\tUser azureuser\n\tIdentityFile \"/home/me/.ssh/id_ed25519\"\n\tProxyCommand \"/home/me/.clientsshproxy/sshProxy_linux_amd64_1_3_026973\" -r \"/home/me/az_ssh_config/rg-web-web01/rg-web-web01-relay_info\" -p 2222";

    #[test]
    fn a_section_of_az_ssh_config_is_read_whole() {
        let [section] = &find(AZ)[..] else { panic!("{:?}", find(AZ)) };
        assert_eq!(section.patterns, ["rg-web-web01-azureuser"]);
        assert_eq!(section.host_name.as_deref(), Some("web01"));
        assert_eq!(section.user.as_deref(), Some("azureuser"));
        assert_eq!(section.identity_file.as_deref(), Some("/home/me/.ssh/id_ed25519"));
        assert_eq!((section.port, section.has_certificate()), (Some(2222), false));
        assert_eq!(section.group_and_name(), ["rg-web-web01", "rg-web-web01"]);
    }

    #[test]
    fn a_windows_path_is_one_word() {
        let words = words(
            r#""C:\Users\me\.clientsshproxy\sshProxy_windows_amd64_1_3_022941.exe" -r "C:\my files\x-relay_info""#,
        );
        assert_eq!(words[2], r"C:\my files\x-relay_info");
    }

    #[test]
    fn other_sections_are_none_of_ours() {
        assert_eq!(find("Host a\n ProxyCommand nc -r x %h\nHost b\n HostName b\n"), []);
        assert_eq!(find("Host a\n ProxyCommand arcssh proxy -r x\n"), []);
    }

    #[test]
    fn a_section_is_commented_out_with_its_date_and_nothing_else_is_touched() {
        let text = format!("{AZ}\n\nHost other\r\n  Port 1\r\n");
        let commented = commented_out(&text, &find(&text), "2026-11-22");
        assert!(commented.starts_with("User me\n\n# adopted by arcssh 2026-11-22: Host rg-web-web01-azureuser\n# adopted by arcssh 2026-11-22: \tHostName web01\n"));
        assert!(commented.ends_with("-p 2222\n\nHost other\r\n  Port 1\r\n"));
        assert_eq!(find(&commented), []);
        assert_eq!(find_adopted(&commented).len(), 1);
    }
}
