//! The files that host entries name: the program of the `ProxyCommand`, and the key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::proxy_command::{program, split};
use crate::ssh::effective_config::{host_entries, is_same, value};
use crate::ssh::host_entry::{Platform, is_of_entra};
use crate::ssh::patterns::is_alias_of;
use crate::ssh::{SshError, certificate_file, home, managed_block};
#[cfg(unix)]
use crate::system::files::{MAX_TEXT, is_own, read_text};
use crate::system::programs;

/// A fact about the files of host entries that need not break a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remark {
    /// The host entries start another arcssh than this one.
    OtherProgram { entry: String, own: String },
    /// The program that the user set with `--program` does not work on this computer. The cause is a verb with its object.
    Elsewhere { program: String, cause: String },
    /// The `IdentityFile` of the host entry does not exist.
    NoKey { alias: String, file: String },
    /// ssh cannot use the `CertificateFile` of the host entry. The cause is a verb with its object.
    CertificateFile { alias: String, file: String, cause: String },
    /// Others can access the private key, so ssh ignores it.
    ExposedKey { alias: String, file: String, mode: u32 },
}

/// Checks the files in the host entries of the managed block in a configuration, or only those of an alias. Does not check a
/// block for another platform.
///
/// # Errors
/// [`SshError::NoProgram`].
pub(crate) fn check(text: &str, only: Option<&str>) -> Result<Vec<Remark>, SshError> {
    let Some(range) = managed_block::find(text)? else { return Ok(Vec::new()) };
    let options = managed_block::parsed_options(text);
    let here = serde_json::to_value(Platform::HERE).ok();
    if options.get("platform").is_some_and(|platform| Some(platform) != here.as_ref()) {
        return Ok(Vec::new());
    }
    let is_elsewhere = options.get("program").is_some_and(Value::is_string);
    // The first host entry with each program, with each key, and with each certificate.
    let (mut programs, mut keys, mut certificates) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (patterns, values) in host_entries(&text[range]) {
        let Some(alias) = patterns.first() else { continue };
        if only.is_some_and(|only| !patterns.iter().any(|pattern| is_alias_of(pattern, only))) {
            continue;
        }
        // A section of the user, which the next run moves below the block, can run another program.
        let is_checked = |line: &&str| managed_block::is_own_command(line) || !line.contains(" proxy ");
        if let Some(program) = value(&values, "proxycommand").filter(is_checked).and_then(program_of) {
            programs.entry(program).or_insert_with(|| alias.clone());
        }
        // `Match exec` writes the key and the certificate of Entra ID before ssh reads them.
        let certificate = value(&values, "certificatefile");
        if certificate.is_some_and(is_of_entra) {
            continue;
        }
        let key = value(&values, "identityfile");
        if let Some(certificate) = certificate {
            let files = (certificate.to_owned(), key.map(str::to_owned));
            certificates.entry(files).or_insert_with(|| alias.clone());
        }
        if let Some(key) = key {
            keys.entry(key.to_owned()).or_insert_with(|| alias.clone());
        }
    }
    let mut remarks = Vec::new();
    for (program, alias) in programs {
        match (problem(&program), is_elsewhere) {
            (Err(cause), true) => remarks.push(Remark::Elsewhere { program, cause }),
            (Err(cause), false) => return Err(SshError::NoProgram { alias, program, cause }),
            (Ok(Some(own)), false) => remarks.push(Remark::OtherProgram { entry: program, own }),
            (Ok(_), _) => {}
        }
    }
    remarks.extend(keys.into_iter().filter_map(|(file, alias)| remark_on_key(alias, &file)));
    let remark = |((file, key), alias): ((String, Option<String>), String)| {
        let identity = key.as_deref().and_then(local);
        let path = local(&file)?;
        let problem = certificate_file::check(&path, identity.as_deref()).err()?;
        let file = shown(&file, &path);
        Some(Remark::CertificateFile { alias, file, cause: problem.cause().to_owned() })
    };
    remarks.extend(certificates.into_iter().filter_map(remark));
    Ok(remarks)
}

/// The program of a `ProxyCommand`: the word before `proxy`, after programs such as `env` that a template may have added.
/// Otherwise the first word, if it is a path. `None` if a shell could change the words, or the directory.
fn program_of(line: &str) -> Option<String> {
    let words = split(line);
    let at = words.iter().position(|word| word == "proxy");
    let words = &words[..at.unwrap_or(1).min(words.len())];
    let is_special = |word: &String| word.contains(|c: char| "'`$;&|<>()*?[]{}\\".contains(c));
    if words.iter().any(|word| is_special(word) && !(cfg!(windows) && word.contains('\\'))) {
        return None;
    }
    let program = words.last()?;
    let is_path = program.contains(['/', '\\']);
    let depends_on_directory = is_path && words.len() > 1 && !in_home(program).is_absolute();
    ((is_path || at.is_some()) && !depends_on_directory).then(|| program.clone())
}

/// Replaces `~` as the shell that starts the program does: by `HOME`, which ssh itself ignores.
fn in_home(path: &str) -> PathBuf {
    let home = path.strip_prefix("~/").and_then(|rest| Some(std::env::home_dir()?.join(rest)));
    home.unwrap_or_else(|| path.into())
}

/// Returns the path of this arcssh if the program is another one.
///
/// # Errors
/// Why the program cannot be started, or is not arcssh.
fn problem(program_of_entry: &str) -> Result<Option<String>, String> {
    let found = programs::find(&in_home(program_of_entry))?;
    if std::env::current_exe().is_ok_and(|own| is_same(&own, &found)) {
        return Ok(None);
    }
    is_arcssh(&found)?;
    Ok(program().ok())
}

/// Checks that `PROGRAM --version` prints the name of arcssh. A script that starts arcssh may print other lines before it,
/// which ssh skips as those before a server's identification (RFC 4253, 4.2).
fn is_arcssh(program: &Path) -> Result<(), String> {
    let output = programs::version(program, "--version")?;
    let is_version = output.stdout.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"arcssh "));
    if is_version { Ok(()) } else { Err("is not arcssh".into()) }
}

/// Returns the path of a file in a host entry, unless its name depends on the connection, the environment or another user
/// (ssh_config(5), `TOKENS` and `ENVIRONMENT VARIABLES`).
fn local(value: &str) -> Option<PathBuf> {
    let has_token = value.split("%%").any(|part| part.contains('%')) || value.contains("${");
    let is_path = !has_token && !value.eq_ignore_ascii_case("none");
    let path = is_path.then(|| home::expanded(Path::new(&value.replace("%%", "%"))));
    path.filter(|path| !path.to_string_lossy().starts_with('~'))
}

/// Returns the file of a host entry as a message names it. ssh looks for a relative path in its own directory.
fn shown(value: &str, path: &Path) -> String {
    let file = value.replace("%%", "%");
    if path.is_absolute() { file } else { format!("{file} in the current directory") }
}

/// Checks the `IdentityFile` of a host entry.
fn remark_on_key(alias: String, value: &str) -> Option<Remark> {
    let path = local(value)?;
    if !path.exists() {
        return Some(Remark::NoKey { alias, file: shown(value, &path) });
    }
    let mode = exposed_key(&path)?;
    Some(Remark::ExposedKey { alias, file: path.display().to_string(), mode })
}

/// Returns the mode of a private key that ssh ignores: one of this user that others can access (authfile.c,
/// `sshkey_perm_ok`). `IdentityFile` may also name a public key, whose private key is in the agent.
#[cfg(unix)]
fn exposed_key(path: &Path) -> Option<u32> {
    let metadata = path.metadata().ok().filter(is_own)?;
    let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o7777;
    let is_exposed = mode & 0o077 != 0;
    (is_exposed && read_text(path, MAX_TEXT).is_ok_and(|text| text.contains("PRIVATE KEY-----")))
        .then_some(mode)
}

/// On Windows, an access control list protects the key.
#[cfg(not(unix))]
fn exposed_key(_: &Path) -> Option<u32> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_program_is_found_in_every_line_that_no_shell_changes() {
        for (line, program) in [
            ("/x/arcssh proxy /subscriptions/s --port %p", Some("/x/arcssh")),
            ("\"/x y/arcssh\" proxy --host %h", Some("/x y/arcssh")),
            ("/x%%y/arcssh proxy --host %h", Some("/x%y/arcssh")),
            ("arcssh proxy --host %h", Some("arcssh")),
            ("exec ~/bin/arcssh proxy --host %h 2>/dev/null", Some("~/bin/arcssh")),
            ("env HTTPS_PROXY=http://p:1 /x/arcssh proxy --host %h", Some("/x/arcssh")),
            ("env -C /y ./arcssh proxy --host %h", None),
            ("cd /y && /x/arcssh proxy --host %h", None),
            ("$HOME/arcssh proxy --host %h", None),
            ("'/x y/arcssh' proxy --host %h", None),
            ("sh -c \"arcssh proxy --host %h\"", None),
            ("/opt/wrapper %h %p", Some("/opt/wrapper")),
            ("nc %h %p", None),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(program_of(line).as_deref(), program, "{line}");
        }
    }

    #[test]
    fn a_program_must_be_an_executable_file_that_is_arcssh() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b");
        let name = path.to_str().unwrap();
        assert_eq!(problem(name), Err("does not exist".into()));
        assert_eq!(problem(folder.path().to_str().unwrap()), Err("is not a file".into()));
        assert_eq!(problem("no-such-program-of-arcssh"), Err("is not in PATH".into()));
        fs::write(&path, "#!/bin/sh\necho other 1.0\n").unwrap();
        assert_eq!(problem(name), Err("is not executable".into()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(problem(name), Err("is not arcssh".into()));
        assert_eq!(problem("true"), Err("is not arcssh".into()));
        fs::write(&path, "#!/bin/sh\necho start\necho arcssh 1.0\n").unwrap();
        assert!(problem(name).is_ok());
        let own = std::env::current_exe().unwrap();
        assert_eq!(problem(own.to_str().unwrap()), Ok(None));
    }
}
