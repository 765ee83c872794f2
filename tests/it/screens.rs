//! docs/SCREENS.md: what each command shows on a terminal, on one page. `make screens` writes the page.
//!
//! A program draws on a pseudo-terminal of [`COLUMNS`] columns, and vt100 interprets its output. Values that differ between
//! two runs are replaced by others of the same length.

use std::fs;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use arcssh_emulator::{Machine, Role};
use regex_lite::Regex;

use crate::support::{ARCSSH, Lab, Limited, ended, lab_with, run, script};

const COLUMNS: NonZero<u16> = NonZero::new(100).unwrap();
/// More lines than any screen has, so that nothing scrolls away.
const ROWS: NonZero<u16> = NonZero::new(500).unwrap();

const PAGE: &str = "docs/SCREENS.md";
/// The variable with the file to write instead of comparing; `make screens` sets it.
const FILE: &str = "SCREENS_PAGE";

const START: &str = "\
# Screens

The screens of every command, on a terminal of 100 columns, for review. `make screens` records this page with the emulator of
the tests; a test fails if a screen differs. IDs, times, keys and addresses are replaced. `Answer` is what the user typed, and
`Status` the exit status, if it is not 0.
";

/// What to show: a command line, and the user's answer to its question.
struct Step(&'static str, &'static str);

const COMMANDS: [&str; 21] = [
    "login",
    "setup",
    "config",
    "ssh",
    "rdp",
    "list",
    "forward",
    "warm",
    "cert",
    "known-hosts",
    "proxy",
    "doctor",
    "last",
    "ping",
    "account",
    "cache",
    "logout",
    "teardown",
    "completions",
    "man",
    "version",
];

const USAGE: [Step; 10] = [
    Step("arcssh", ""),
    Step("arcssh confg", ""),
    Step("arcssh config --usr ada", ""),
    Step("arcssh config --group rg-web", ""),
    Step("arcssh config --adopt --remove", ""),
    Step("arcssh cache shwo", ""),
    Step("arcssh list --output jso", ""),
    Step("arcssh setup web01 --port 0", ""),
    Step("arcssh completions", ""),
    Step("arcssh --verbos list", ""),
];

const SIGNED_OUT: [Step; 5] = [
    Step("arcssh account", ""),
    Step("arcssh list", ""),
    Step("arcssh doctor", ""),
    Step("arcssh cert --show", ""),
    Step("arcssh last", ""),
];

const SIGN_IN: [Step; 5] = [
    Step("arcssh login --account bob@arcssh.example", "n"),
    Step("arcssh login", ""),
    Step("arcssh login --device-code", ""),
    Step("arcssh account", ""),
    Step("arcssh doctor", ""),
];

const MACHINES: [Step; 6] = [
    Step("arcssh list", ""),
    Step("arcssh list -g rg-web -o json", ""),
    Step("arcssh list web09", ""),
    Step("arcssh list -g rg-none", ""),
    Step("arcssh config web09", ""),
    Step("arcssh config", ""),
];

const CONFIG: [Step; 8] = [
    Step("arcssh config -g rg-web --user azureuser --dry-run", ""),
    Step("arcssh config -g rg-web --user azureuser", ""),
    Step("arcssh config -g rg-web --user azureuser", ""),
    Step("arcssh config new01 off01", ""),
    Step("arcssh config --verify", ""),
    Step("arcssh config web02 --remove", ""),
    Step("arcssh config --wildcard '*.arc'", ""),
    Step("arcssh config --file team.config web01", ""),
];

const SETUP: [Step; 11] = [
    Step("env TERM=dumb arcssh setup", ""),
    Step("arcssh setup --dry-run", "web02"),
    Step("arcssh setup new01 --dry-run", ""),
    Step("arcssh forward new01 bare01", ""),
    Step("arcssh setup new01", "n"),
    Step("arcssh setup new01", "y"),
    Step("arcssh setup web01", ""),
    Step("arcssh setup web01 --port 2222", ""),
    Step("arcssh setup off01 --wait 0", ""),
    Step("arcssh setup web01 --entra", "y"),
    Step("arcssh setup web01 --sshd", ""),
];

const CONNECT: [Step; 18] = [
    Step("arcssh ssh web09", ""),
    Step("arcssh ssh off01 --wait 0 uptime", ""),
    Step("arcssh rdp web01 --client ./none", ""),
    Step("ssh -o BatchMode=yes web09.arc uptime", ""),
    Step("arcssh last web09.arc", ""),
    Step("arcssh warm web01 web02", ""),
    Step("arcssh warm web01 off01 web02 --jobs 1 --wait 0", ""),
    Step("arcssh known-hosts web01", ""),
    Step("arcssh known-hosts off01 --wait 0", ""),
    Step("arcssh proxy", ""),
    Step("arcssh proxy --host web09", ""),
    Step("arcssh proxy web01", ""),
    Step("arcssh forward web01 --exec 'echo {host} {port}'", ""),
    Step("arcssh forward web08 web09", ""),
    Step("arcssh forward web01 2201", ""),
    Step("arcssh forward web01 --bind 192.0.2.1", ""),
    Step("arcssh ping web01 --count 2", ""),
    Step("arcssh ping off01 --wait 0", ""),
];

const CERTIFICATES: [Step; 4] = [
    Step("arcssh cert --show", ""),
    Step("arcssh cert", ""),
    Step("arcssh cert --show", ""),
    Step("arcssh cert --file id-cert.pub", ""),
];

const DOCTOR: [Step; 3] =
    [Step("arcssh doctor web01", ""), Step("arcssh doctor off01", ""), Step("arcssh doctor web09", "")];

const DENIED: [Step; 4] = [
    Step("arcssh setup bare01", ""),
    Step("arcssh setup bare01 --yes", ""),
    Step("arcssh teardown web01 --yes", ""),
    Step("arcssh doctor web01", ""),
];

const END: [Step; 9] = [
    Step("arcssh cache", ""),
    Step("arcssh cache show", ""),
    Step("arcssh cache clear", ""),
    Step("arcssh teardown web02", "n"),
    Step("arcssh teardown web02", "y"),
    Step("arcssh teardown web02", ""),
    Step("arcssh version", ""),
    Step("arcssh logout", ""),
    Step("arcssh logout", ""),
];

/// Reset, bold, dim, underlined, red, green and magenta (ECMA-48, SGR). A terminal shows them on light and dark backgrounds.
const STYLES: [&str; 7] = ["0", "1", "2", "4", "31", "32", "35"];

/// A browser in which the user signs in at once.
const BROWSER: &str = "#!/bin/sh\nexec curl -sSL --cacert \"$SSL_CERT_FILE\" -o /dev/null \"$1\"\n";

#[test]
#[cfg(target_os = "linux")]
fn the_page_of_screens_is_what_the_commands_show() {
    let page = page();
    if let Some(file) = std::env::var_os(FILE) {
        fs::write(file, page).unwrap();
        return;
    }
    let recorded = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
    let (page, recorded) = (words(&page), words(&recorded));
    let differs = page.iter().zip(&recorded).enumerate().find(|(_, (now, then))| now != then);
    assert!(
        page == recorded,
        "{PAGE} differs; to record it again, run: make screens\n{differs:?}, {} and {} lines",
        page.len(),
        recorded.len()
    );
}

/// Returns the words of each line. The spaces between columns depend on values that differ between two runs.
fn words(page: &str) -> Vec<Vec<&str>> {
    page.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn page() -> String {
    let w = lab();
    let mut page = START.to_owned();
    page += "\n## Help\n";
    for command in ["".to_owned()].into_iter().chain(COMMANDS.map(|name| format!("{name} "))) {
        page += &shown(&w, &format!("arcssh {command}-h"), "");
    }
    for (heading, steps) in [
        ("Usage errors", &USAGE[..]),
        ("Without a sign-in", &SIGNED_OUT),
        ("Sign-in", &SIGN_IN),
        ("Machines", &MACHINES),
        ("Host entries", &CONFIG),
        ("Setup", &SETUP),
        ("Connections", &CONNECT),
        ("Certificates", &CERTIFICATES),
        ("Doctor", &DOCTOR),
    ] {
        page += &section(&w, heading, steps);
    }
    w.emulator().set_role(Role::LocalUserLogin);
    page += &section(&w, "An account with few permissions", &DENIED);
    w.emulator().set_role(Role::Owner);
    page += &section(&w, "The end", &END);
    page += "\n## Full help\n";
    for command in ["".to_owned()].into_iter().chain(COMMANDS.map(|name| format!("{name} "))) {
        page += &shown(&w, &format!("arcssh {command}--help"), "");
    }
    page
}

fn section(w: &Lab, heading: &str, steps: &[Step]) -> String {
    let screens = steps.iter().map(|Step(command, answer)| shown(w, command, answer));
    format!("\n## {heading}\n{}", screens.collect::<String>())
}

/// A lab whose user has a browser and no host entries. SSH is not enabled on new01 and bare01, and off01 is offline.
fn lab() -> Lab {
    let w = lab_with(&[], |builder| {
        let in_group = |name: &str, group: &str| Machine::new(name).resource_group(group).tag("env", "prod");
        let builder = builder.machine(in_group("web01", "rg-web")).machine(in_group("web02", "rg-web"));
        let builder = builder.machine(in_group("off01", "rg-db").offline());
        let without = ["new01", "bare01"].map(|name| in_group(name, "rg-db").without_endpoint());
        without
            .into_iter()
            .fold(builder, |builder, machine| builder.machine(machine))
            .approve_devices()
            .device_interval(Duration::from_secs(1))
    });
    for name in ["web01", "web02", "new01"] {
        w.emulator().machine(name).move_port(22, w.sshd().port());
    }
    fs::remove_file(w.configuration()).unwrap();
    let bin = w.home().join("bin");
    script(&bin, "browser", BROWSER);
    symlink(ARCSSH, bin.join("arcssh")).unwrap();
    w
}

/// Returns a command, and what a terminal shows when it has ended.
fn shown(w: &Lab, command: &str, answer: &str) -> String {
    let (output, status) = output(w, command, answer);
    let mut terminal = vt100::Parser::new(ROWS, COLUMNS, 0);
    terminal.process(normalized(w, &output).as_bytes());
    let rows = terminal.screen().rows(0, COLUMNS.get()).collect::<Vec<_>>();
    let rows: Vec<&str> = rows.iter().map(|row| row.trim_end()).collect();
    let screen = rows.join("\n");
    let answer = if answer.is_empty() { String::new() } else { format!("Answer: `{answer}`\n\n") };
    let status = if status == 0 { String::new() } else { format!("\nStatus: {status}\n") };
    format!("\n{answer}```console\n$ {command}\n{}\n```\n{status}", screen.trim_end())
        .replace("\n\n```", "\n```")
}

/// Runs a command on a pseudo-terminal, and answers its question. Returns its output and its exit status.
fn output(w: &Lab, command: &str, answer: &str) -> (String, i32) {
    let bin = w.home().join("bin");
    let mut script = w.command("script");
    let line = format!("stty cols {COLUMNS} rows 30; timeout --foreground 60 {command}");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    script.env("TERM", "xterm").env("BROWSER", bin.join("browser"));
    script.env("PATH", format!("{}:{}", bin.display(), w.path().to_str().unwrap()));
    for principal in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"] {
        script.env_remove(principal);
    }
    let mut child = script.spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), Limited(child.stdout.take().unwrap()));
    let (mut output, mut part, mut answers) = (Vec::new(), [0; 4096], vec![answer]);
    loop {
        match stdout.read(&mut part).unwrap() {
            0 => break,
            length => output.extend(&part[..length]),
        }
        if (output.ends_with(b"] ") || output.ends_with(b"Filter: "))
            && let Some(answer) = answers.pop()
        {
            writeln!(stdin, "{answer}").unwrap();
        }
    }
    let (output, status) = (String::from_utf8(output).unwrap(), ended(&mut child).code().unwrap());
    let styles = Regex::new("\u{1b}\\[([\\d;]*)m").unwrap();
    let unknown = styles.captures_iter(&output).find(|style| !STYLES.contains(&&style[1]));
    assert!(unknown.is_none(), "{command}: {unknown:?}");
    (output, status)
}

/// Replaces what differs between two runs, and between two computers.
fn normalized(w: &Lab, output: &str) -> String {
    let [entra, arm] =
        ["AZURE_AUTHORITY_HOST", "ARCSSH_ARM_ENDPOINT"].map(|name| w.address(name).replace("https://", ""));
    let ssh = run(Command::new("ssh").arg("-V")).stderr;
    let ssh = ssh.split(',').next().unwrap();
    let known = [
        (w.home().to_str().unwrap(), "/home/me"),
        (w.emulator().directory().to_str().unwrap(), "/etc/emulator"),
        (ARCSSH, "/usr/local/bin/arcssh"),
        (ssh, "OpenSSH_9.2p1"),
        (&entra, "login.microsoftonline.com"),
        (&arm, "management.azure.com"),
        (&w.sshd().port().to_string(), "22"),
    ];
    let output =
        known.iter().fold(output.to_owned(), |text, (value, replacement)| text.replace(value, replacement));
    VARIES.iter().fold(output, |text, (pattern, replacement)| {
        Regex::new(pattern).unwrap().replace_all(&text, *replacement).into_owned()
    })
}

/// What differs between two runs, and its replacement.
const VARIES: [(&str, &str); 18] = [
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "00000000-0000-4000-8000-000000000000"),
    (r"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d", "2026-01-31${1}12:00:00"),
    (r"(&state=|&code_challenge=)[^&]*", "${1}…"),
    (r"(redirect_uri=http%3A%2F%2Flocalhost%3A)\d+", "${1}50000"),
    (r"(enter the code )\w+", "${1}ABCDEFGHJ"),
    (r"(/account-)[0-9a-f]{32}", "${1}00000000000000000000000000000000"),
    (r"AAAAC3[\w+/=]+", "AAAAC3NzaC1lZDI1NTE5AAAAI…"),
    (r"SHA256:[\w+/]+", "SHA256:…"),
    (r"((?:, |expires |  )in )\d+ min(utes)?\b", "${1}60 min${2}"),
    (r"((?:responded|is installed,) after )\d+ s\b", "${1}1 s"),
    (r"\b\d+ (seconds?|minutes?) ago", "1 second ago"),
    (r"since (\d{4}-\d\d-\d\d )?\d\d:\d\d UTC", "since 12:00 UTC"),
    (r"(ok    root certificates +)\S+", "${1}/etc/ssl/certs/ca-certificates.crt"),
    (r"\d+( cached values)", "3${1}"),
    (r"OpenSSH_[\w.]+", "OpenSSH_9.2p1"),
    (r"\d+\.\d ms", "20.0 ms"),
    (r"(\b127\.0\.0\.1 )\d+", "${1}50000"),
    (r"(web01:22 through )\S+", "${1}azgnrelay-weu.servicebus.windows.net:"),
];
