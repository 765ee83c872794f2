//! ssh reads the rendered host entries, and shells run their ProxyCommands.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Shells that may run a ProxyCommand. The tests use those that are installed.
const SHELLS: [&str; 7] =
    ["/bin/sh", "/bin/bash", "/bin/dash", "/bin/zsh", "/usr/bin/zsh", "/usr/bin/fish", "/bin/tcsh"];

/// Texts with a meaning for ssh, a shell or a template.
const PIECES: [&str; 66] = [
    " ",
    "  ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\0",
    "\u{b}",
    "\u{c}",
    "\u{1b}[31m",
    "\u{a0}",
    "\u{2028}",
    "\u{85}",
    "\"",
    "'",
    "`",
    "`touch x`",
    "\\",
    "\\\\",
    "\\ ",
    "\\\"",
    "\\n",
    "%",
    "%%",
    "%h",
    "%p",
    "%n",
    "%C",
    "%z",
    "$",
    "$HOME",
    "${HOME}",
    "$(touch x)",
    "#",
    " #",
    "*",
    "?",
    "!",
    "!!",
    "-",
    "--",
    "-oProxyCommand=x",
    "=",
    ",",
    ";",
    "&",
    "|",
    "<",
    ">",
    "(",
    ")",
    "[a]",
    "{a,b}",
    "^",
    "~",
    "@",
    ":",
    "+",
    "none",
    "Host",
    "\nHost *\n User x",
    "{user}",
    "{host_entries}",
    "ü",
    "机器",
    "a",
];

fn hostile() -> impl Strategy<Value = String> {
    let piece =
        prop_oneof![8 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// Unusual texts that are valid.
const ODD: [&str; 15] = [
    "a b",
    "a  b",
    "#a",
    "a#b",
    "a=b",
    "=",
    "a,b",
    "ü机",
    "DOMAIN\\user",
    "me@example.com",
    "o'brien@example.com",
    "a;b&c|d",
    "(x)[y]{z}",
    "{user}",
    "it*is?so!",
];

fn entry() -> Host {
    Host {
        patterns: vec!["alias".into()],
        host_name: Some("alias".into()),
        host_key_alias: Some("0a1b".into()),
        user: Some("someone".into()),
        port: Some(2222),
        identity_file: Some("/keys/one".into()),
        proxy_command: vec!["/bin/true".into(), "proxy".into(), "--port".into(), "%p".into()],
        ..Host::default()
    }
}

/// A value of a host entry.
#[derive(Clone, Copy, Debug)]
enum Field {
    HostName,
    HostKeyAlias,
    User,
    IdentityFile,
    Word,
}

const FIELDS: [Field; 5] =
    [Field::HostName, Field::HostKeyAlias, Field::User, Field::IdentityFile, Field::Word];

impl Field {
    fn set(self, host: &mut Host, value: &str) {
        match self {
            Self::HostName => host.host_name = Some(value.into()),
            Self::HostKeyAlias => host.host_key_alias = Some(value.into()),
            Self::User => host.user = Some(value.into()),
            Self::IdentityFile => host.identity_file = Some(value.into()),
            Self::Word => host.proxy_command.push(escape_percent(value)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::HostName => "HostName",
            Self::HostKeyAlias => "HostKeyAlias",
            Self::User => "User",
            Self::IdentityFile => "IdentityFile",
            Self::Word => "ProxyCommand",
        }
    }
}

/// The output of `ssh -G alias`.
fn effective(text: &str) -> BTreeMap<String, Vec<String>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let output = Command::new("ssh").arg("-G").arg("-F").arg(file.path()).arg("alias").output().unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // ssh prints values unquoted, so an injected line would be a separate line of the output.
    for line in String::from_utf8(output.stdout).unwrap().split('\n') {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        values.entry(keyword.to_owned()).or_default().push(value.to_owned());
    }
    values
}

/// Asserts that ssh reads exactly these values, and uses its defaults for all others.
#[track_caller]
fn assert_effective(host: &Host, text: &str) {
    let keywords: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().unwrap_or("")).collect();
    assert_eq!(
        keywords,
        [
            "Host",
            "HostName",
            "HostKeyAlias",
            "User",
            "Port",
            "IdentityFile",
            "ProxyUseFdpass",
            "ProxyCommand"
        ],
        "{text}"
    );
    let mut values = effective(text);
    let mut value = |keyword: &str| values.remove(keyword).map(|values| values.join("\n"));
    let lower = |value: &Option<String>| value.as_ref().map(|value| value.to_ascii_lowercase());
    // ssh converts host names to lower case, unless they look like addresses.
    assert_eq!(lower(&value("hostname")), lower(&host.host_name));
    assert_eq!(value("hostkeyalias"), lower(&host.host_key_alias));
    assert_eq!(value("user"), host.user);
    assert_eq!(value("port"), Some("2222".into()));
    assert_eq!(value("identityfile"), host.identity_file.as_deref().map(escape_percent));
    assert_eq!(value("proxycommand"), Some(host.proxy_command(Platform::Unix).unwrap()));
    let mut others = effective("");
    others.retain(|keyword, _| !["hostname", "user", "port", "identityfile"].contains(&keyword.as_str()));
    for (keyword, value) in &values {
        assert_eq!(others.get(keyword), Some(value), "{keyword} in\n{text}");
    }
    assert_eq!(values.len(), others.len());
}

#[test]
fn unusual_values_are_quoted_correctly() {
    for value in ODD {
        for field in FIELDS {
            // Characters that are special in a shell are an error in a command.
            let may_fail = matches!(field, Field::Word) && value.contains(['\\', '!', '\'']);
            let mut host = entry();
            field.set(&mut host, value);
            match host.render(HOST, Platform::Unix) {
                Ok(text) => assert_effective(&host, &text),
                Err(error) => assert!(may_fail, "{field:?} {value:?}: {error}"),
            }
        }
    }
}

#[test]
fn a_file_name_may_contain_percent_signs() {
    let host = Host { identity_file: Some("/a%h%%b %d/ü".into()), ..entry() };
    let text = host.render(HOST, Platform::Unix).unwrap();
    assert_effective(&host, &text);
    let dir = TempDir::new().unwrap();
    let log = String::from_utf8_lossy(&connect(dir.path(), &text, "/bin/sh", &["-v"]).stderr).into_owned();
    assert!(log.contains("identity file /a%h%%b %d/\\303\\274 type"), "{log}");
}

#[test]
fn invalid_values_are_errors_with_the_keyword() {
    for field in FIELDS {
        for value in ["a\nUser root", "a\rb", "a\0b", "a\tb", "a\"b", "a$HOME"] {
            let mut host = entry();
            field.set(&mut host, value);
            let error = host.render(HOST, Platform::Unix).unwrap_err().to_string();
            assert!(error.contains(field.name()) && error.contains(&format!("{value:?}")), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
    for field in &FIELDS[..4] {
        for value in ["", "-", "-oProxyCommand=x"] {
            let mut host = entry();
            field.set(&mut host, value);
            let error = host.render(HOST, Platform::Unix).unwrap_err().to_string();
            assert!(error.starts_with(field.name()), "{error}");
        }
    }
}

#[test]
fn aliases_and_patterns_have_no_special_characters() {
    for name in ["web01", "WEB01", "a.b-c_d", "_a", "0", "ünö", "机器"] {
        assert!(is_alias(name), "{name}");
    }
    for name in [
        "", "-a", ".a", "a b", "a*", "?", "!a", "a,b", "a#", "\"a\"", "a'", "a\\b", "a%h", "$a", "a/b",
        "a\n", "a@b",
    ] {
        assert!(!is_alias(name), "{name:?}");
    }
    for pattern in ["*.arc", "web*", "?", "*", "a-*.b?"] {
        assert!(is_pattern(pattern), "{pattern}");
    }
    for pattern in ["", "web01", "!*", "-*", "* *", "*.a,b", "*#", "*\n", "*%n", "*$x", "\"*\"", "*\\"] {
        assert!(!is_pattern(pattern), "{pattern:?}");
    }
}

/// Creates a program that writes its name and arguments to the file `argv` in the working directory of ssh.
fn install(program: &Path) -> std::io::Result<()> {
    if let Some(folder) = program.parent() {
        fs::create_dir_all(folder)?;
    }
    let folder = TempDir::new()?;
    let written = folder.path().join("written");
    fs::write(&written, "#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\" >argv\n")?;
    fs::set_permissions(&written, fs::Permissions::from_mode(0o755))?;
    // Another process copies it: a child of a parallel test could inherit a descriptor that is open for writing, and then the
    // program could not be started.
    let copied = Command::new("cp").arg("-p").args([written.as_path(), program]).output()?;
    copied.status.success().then_some(()).ok_or(std::io::ErrorKind::Other.into())
}

/// Starts ssh, which ends with its ProxyCommand.
fn connect(folder: &Path, text: &str, shell: &str, options: &[&str]) -> Output {
    let config = folder.join("config");
    fs::write(&config, text).unwrap();
    let mut ssh = Command::new("ssh");
    ssh.current_dir(folder).env("SHELL", shell).env("HOME", folder).arg("-F").arg(config);
    ssh.args(["-o", "BatchMode=yes"]).args(options).arg("alias").output().unwrap()
}

/// The arguments that a program receives through a ProxyCommand with these words.
fn argv(folder: &Path, words: &[String], shell: &str) -> Result<Vec<String>> {
    let host = Host { proxy_command: words.to_vec(), ..entry() };
    let text = host.render(HOST, Platform::Unix)?;
    let _ = fs::remove_file(folder.join("argv"));
    let output = connect(folder, &text, shell, &[]);
    let words = fs::read_to_string(folder.join("argv"));
    let words = words.map_err(|_| anyhow::anyhow!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    assert!(!folder.join("x").exists(), "a command was injected: {text}");
    Ok(words.split_terminator('\0').map(str::to_owned).collect())
}

fn shells() -> Vec<&'static str> {
    SHELLS.into_iter().filter(|shell| Path::new(shell).exists()).collect()
}

/// A program at a path with `name`, the arguments that it must receive, and the words of the ProxyCommand.
fn words(folder: &Path, name: &str, argument: &str) -> (PathBuf, Vec<String>, Vec<String>) {
    let program = folder.join(format!("bin {name}")).join("arcssh");
    let path = program.to_str().unwrap().to_owned();
    let expected = vec![path, "proxy".into(), argument.into(), "--port".into(), "2222".into()];
    let mut words: Vec<String> = expected.iter().map(|word| escape_percent(word)).collect();
    words[4] = "%p".into();
    (program, expected, words)
}

#[test]
fn every_shell_passes_the_arguments_unchanged() {
    for shell in shells() {
        for odd in
            ODD.into_iter().filter(|odd| !odd.contains(['\\', '!', '\''])).chain(["%", "%h%%", "~", "-x", ""])
        {
            let folder = TempDir::new().unwrap();
            let (program, expected, words) = words(folder.path(), odd, odd);
            install(&program).unwrap();
            assert_eq!(argv(folder.path(), &words, shell).unwrap(), expected, "{shell}: {odd:?}");
        }
    }
}

/// Splits a line without backslashes like the C runtime of Windows.
fn split_by_quotes(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_value_is_quoted_correctly_or_an_error_with_the_keyword(field in prop::sample::select(&FIELDS[..]), value in hostile()) {
        let mut host = entry();
        field.set(&mut host, &value);
        match host.render(HOST, Platform::Unix) {
            Ok(text) => assert_effective(&host, &text),
            Err(error) => prop_assert!(error.to_string().contains(field.name()), "{error}"),
        }
    }

    #[test]
    fn on_windows_the_program_receives_the_arguments_unchanged(value in hostile()) {
        let host = Host { proxy_command: vec![r"C:\Program Files\arcssh.exe".into(), escape_percent(&value)], ..entry() };
        if let Ok(line) = host.proxy_command(Platform::Windows) {
            prop_assert!(!line.contains(['\\', '\'', '\n', '$', '`']), "{line}");
            let received = split_by_quotes(&line.replace("%%", "%"));
            prop_assert_eq!(received, ["C:/Program Files/arcssh.exe", &value.replace('\\', "/")]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn a_shell_passes_the_arguments_unchanged_or_the_word_is_an_error(
        name in hostile(),
        argument in hostile(),
        shell in prop::sample::select(shells()),
    ) {
        let folder = TempDir::new().unwrap();
        let (program, expected, words) = words(folder.path(), &name.replace('/', ""), &argument);
        if install(&program).is_ok() {
            match argv(folder.path(), &words, shell) {
                Ok(received) => prop_assert_eq!(received, expected),
                Err(error) => prop_assert!(error.to_string().contains("cannot be used in a ProxyCommand"), "{error}"),
            }
        }
    }
}

#[test]
fn an_unknown_placeholder_is_an_error_even_on_an_omitted_line() {
    let known = "valid are patterns, host_name, host_key_alias, user, port, identity_file, certificate_file, \
                 identity_agent, identities_only, pubkey_authentication, pubkey_algorithms, forward_agent, match_patterns, renew_command, control_master, \
                 control_path, control_persist, proxy_command, name, resource_id";
    for (template, name) in
        [("Host {patterns}\n{bogus}", "bogus"), ("User {User}", "User"), ("{user} {host-name}", "host-name")]
    {
        let host = Host { user: None, ..entry() };
        let error = host.render(template, Platform::Unix).unwrap_err().to_string();
        assert_eq!(error, format!("the placeholder {{{name}}} of the template is unknown; {known}"));
    }
}

#[test]
fn other_texts_in_braces_are_not_placeholders() {
    let text = entry().render("SetEnv A=${HOME} B={} C={a,b} D={ user }\n", Platform::Unix).unwrap();
    assert_eq!(text, "SetEnv A=${HOME} B={} C={a,b} D={ user }\n");
}

#[test]
fn templates_use_known_placeholders_and_all_of_them() {
    let all = |template: &str| {
        let (mut names, mut rest) = (Vec::new(), template.to_owned());
        while let Some((_, name, after)) = next_placeholder(&rest) {
            names.push(name.to_owned());
            rest = after.to_owned();
        }
        names
    };
    let mut used = [all(HOST), all(WILDCARD), vec!["name".into()]].concat();
    assert!([all(CONNECTION), all(LOGIN)].concat().iter().all(|name| used.contains(name)));
    used.sort();
    used.dedup();
    let mut known = PLACEHOLDERS.map(str::to_owned);
    known.sort();
    assert_eq!(used, known);
}

#[test]
fn a_template_for_an_earlier_version_has_another_name_for_the_renew_command() {
    let host = Host { renew_command: Some(vec!["arcssh".into(), "cert".into()]), ..entry() };
    let line = |placeholder: &str| format!("Match originalhost {{match_patterns}} exec \"{placeholder}\"\n");
    let (old, new) = (line("{keep_fresh}"), line("{renew_command}"));
    assert_eq!(host.render(&old, Platform::Unix).unwrap(), host.render(&new, Platform::Unix).unwrap());
    assert!(CertificateMode::Files.is_in(&old) && CertificateMode::Files.is_in(&new));
    assert!(
        !CertificateMode::Agent.is_in(&old) && !CertificateMode::Files.is_in(HOST.replace('{', "").as_str())
    );
}

#[test]
fn a_login_name_is_a_word_in_a_host_entry() {
    for (name, word) in [
        ("ada@contoso.com", "ada@contoso.com"),
        ("jörg#EXT#@contoso.com", "jörg#EXT#@contoso.com"),
        ("-dash-@contoso.com", "%2Ddash-@contoso.com"),
        ("o'brien b!^~@contoso.com", "o%27brien%20b%21%5E%7E@contoso.com"),
        ("50%@contoso.com", "50%25@contoso.com"),
        ("a%27\u{200b}$(id)", "a%2527%E2%80%8B%24%28id%29"),
    ] {
        assert_eq!(to_word(name), word);
        assert!(word.chars().all(|c| c.is_alphanumeric() || "/._-:,@+%#".contains(c)), "{word}");
        assert_eq!(from_word(word), name);
    }
    for word in ["%", "%2", "a%zz", "%ff", "%+1"] {
        assert_eq!(from_word(word), word);
    }
}
