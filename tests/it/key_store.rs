//! Refresh tokens in the Secret Service: a real GNOME Keyring on a session bus of its own.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{ARCSSH, Lab, Run, lab_with, run};

/// The programs of the session. macOS has none of them.
const PROGRAMS: [&str; 4] = ["dbus-run-session", "dbus-send", "gnome-keyring-daemon", "secret-tool"];

/// What the scripts share. The password of the key store is `secret`.
const SESSION: &str = r#"
    arcssh() { "$ARCSSH" "$@"; }
    unlocked() { printf secret | gnome-keyring-daemon --daemonize --unlock --components=secrets >&2; }
    lock() {
        dbus-send --session --print-reply --dest=org.freedesktop.secrets /org/freedesktop/secrets \
            org.freedesktop.Secret.Service.Lock array:objpath:/org/freedesktop/secrets/collection/login >&2
    }
    stored() { secret-tool lookup application arcssh || true; }
    forget_tokens() { rm -f "$HOME"/.local/state/arcssh/token-*; }
    expect() { [ "$1" = "$2" ] || { echo "expected $1, found $2" >&2; exit 9; }; }
"#;

/// The line of dbus-daemon's log when a key store asks the user for something (gcr, `org.gnome.keyring.SystemPrompter`).
const PROMPT: &str = "SystemPrompter";

/// A lab whose user approves every device code; none where this machine has no key store to run.
fn lab() -> Option<Lab> {
    let is_missing = |program: &&&str| Command::new(program).arg("--help").output().is_err();
    if let Some(program) = PROGRAMS.iter().find(is_missing) {
        std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: there is no {program}\n"))
            .unwrap();
        return None;
    }
    Some(lab_with(&["web01"], |builder| builder.device_interval(Duration::from_secs(1)).approve_devices()))
}

/// A script of bash without the service principal.
fn bash(w: &Lab, program: &str, arguments: &[&str], script: &str) -> Command {
    let mut command = w.command(program);
    for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "ARCSSH_NO_KEYRING"] {
        command.env_remove(name);
    }
    command.args(arguments).args(["bash", "-euc", &format!("{SESSION}{script}")]);
    command.env("ARCSSH", ARCSSH).env("ID", w.id()).env("PORT", w.sshd().port().to_string());
    command
}

/// The script on a session bus of its own, which ends with it.
fn in_session(w: &Lab, script: &str) -> Run {
    run(&mut bash(w, "dbus-run-session", &["--"], script))
}

fn account_file(w: &Lab) -> String {
    let files = fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path());
    let is_account = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("account-") && name.ends_with(".json")
    };
    fs::read_to_string(files.into_iter().find(is_account).expect("an account file")).unwrap()
}

/// The refresh tokens that the emulator was sent, in order.
fn redeemed(w: &Lab) -> Vec<String> {
    let requests = w.emulator().requests_to(arcssh_emulator::Service::Entra).into_iter();
    let field = |body: &str| {
        let mut form = form_urlencoded::parse(body.as_bytes()).into_owned();
        form.find(|(name, _)| name == "refresh_token").map(|(_, value)| value)
    };
    requests.filter_map(|request| field(&request.body)).collect()
}

#[test]
fn the_refresh_token_is_in_the_key_store_and_in_no_file() {
    let Some(w) = lab() else { return };
    let done = in_session(
        &w,
        r#"
        unlocked
        arcssh login --device-code
        first=$(stored)
        [ -n "$first" ]
        ! grep -rF -- "$first" "$HOME/.local" "$HOME/.ssh"
        arcssh account
        forget_tokens
        ssh -F .ssh/config -o BatchMode=yes web01 echo reached
        second=$(stored)
        [ -n "$second" ] && [ "$second" != "$first" ]
        ! grep -rF -- "$second" "$HOME/.local" "$HOME/.ssh"
        arcssh logout
        expect "" "$(stored)"
        "#,
    );
    let stdout = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.code, Some(0), "{stdout}{}", done.stderr);
    assert!(stdout.contains("stored   the refresh token is in the Secret Service\n"), "{stdout}");
    assert!(stdout.ends_with("reached\n"), "{stdout}");
    assert!(!done.stderr.contains(PROMPT), "{}", done.stderr);
    let redeemed = redeemed(&w);
    assert!(redeemed.len() >= 2 && redeemed[0] != redeemed[1], "{} refreshes", redeemed.len());
}

#[test]
fn a_connection_does_not_prompt_for_a_locked_key_store() {
    let Some(w) = lab() else { return };
    let started = Instant::now();
    // DISPLAY is set: only arcssh decides that nothing asks.
    let done = in_session(
        &w,
        r#"
        unlocked
        arcssh login --device-code
        forget_tokens
        lock
        export DISPLAY=:99
        status=0
        arcssh proxy "$ID" --port "$PORT" < /dev/null > "$HOME/out" 2> "$HOME/err" || status=$?
        expect 3 "$status"
        "#,
    );
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(!done.stderr.contains(PROMPT), "{}", done.stderr);
    let output = fs::read_to_string(w.home().join("err")).unwrap();
    let lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("arcssh: waiting for ")).collect();
    let why =
        "arcssh: cannot connect to web01: the sign-in of arcssh cannot be used: the key store is locked";
    assert_eq!(lines, [why, "arcssh: hint: unlock the key store, or run: arcssh login"]);
}

#[test]
fn a_sign_in_with_a_locked_key_store_stores_the_token_in_a_file_and_says_so() {
    let Some(w) = lab() else { return };
    let done = in_session(
        &w,
        r#"
        unlocked
        lock
        arcssh login --device-code
        "#,
    );
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let note =
        "arcssh: the refresh token is stored in a file that only you can read: the key store is locked";
    assert!(done.stderr.lines().any(|line| line == note), "{}", done.stderr);
    assert!(account_file(&w).contains("refresh_token_in_file"), "{}", account_file(&w));
    assert!(!done.stderr.contains(PROMPT), "there is no display for a prompt: {}", done.stderr);
    // It stays where it is.
    let later = in_session(&w, "unlocked; forget_tokens; arcssh account; expect '' \"$(stored)\"");
    assert_eq!(later.code, Some(0), "{}", later.stderr);
    let stdout = String::from_utf8_lossy(&later.stdout);
    assert!(stdout.contains("stored   the refresh token is in the file "), "{stdout}");
}

#[test]
fn only_a_sign_in_may_ask_to_unlock_the_key_store() {
    let Some(w) = lab() else { return };
    // There is no such display: the prompt is tried, and ends.
    let done = in_session(&w, "unlocked; lock; export DISPLAY=:99; arcssh login --device-code");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains(PROMPT), "{}", done.stderr);
}

#[test]
fn a_sign_out_that_cannot_reach_the_token_fails_and_can_be_repeated() {
    let Some(w) = lab() else { return };
    let done = in_session(
        &w,
        r#"
        unlocked
        arcssh login --device-code
        status=0
        ARCSSH_NO_KEYRING=1 arcssh logout 2> "$HOME/err" || status=$?
        expect 1 "$status"
        [ -n "$(stored)" ]
        arcssh logout
        expect "" "$(stored)"
        arcssh logout
        "#,
    );
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let output = fs::read_to_string(w.home().join("err")).unwrap();
    let expected = [
        "arcssh: the refresh token is still in the key store: ARCSSH_NO_KEYRING is set",
        "arcssh: hint: unset ARCSSH_NO_KEYRING, then run: arcssh logout",
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
    assert_eq!(done.arcssh_lines()[2..], ["arcssh: signed out", "arcssh: no account was signed in"]);
}

#[test]
fn an_account_file_of_the_version_before_works_and_moves_to_the_key_store() {
    let Some(w) = lab() else { return };
    let done = in_session(
        &w,
        r#"
        unlocked
        ARCSSH_NO_KEYRING=1 arcssh login --device-code
        expect "" "$(stored)"
        sed -i 's/refresh_token_in_file/refresh_token/' "$HOME"/.local/state/arcssh/account-*.json
        forget_tokens
        ARCSSH_NO_KEYRING=1 arcssh account
        expect "" "$(stored)"
        forget_tokens
        arcssh account
        token=$(stored)
        [ -n "$token" ]
        ! grep -rF -- "$token" "$HOME/.local"
        forget_tokens
        arcssh account
        "#,
    );
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(redeemed(&w).len(), 3 + 1, "one after the sign-in, which looks for other credentials");
    assert!(account_file(&w).contains(r#""refresh_token_in":"the Secret Service""#), "{}", account_file(&w));
}

#[test]
fn without_a_session_bus_the_token_is_in_the_file_and_nothing_is_said() {
    let Some(w) = lab() else { return };
    for address in ["", "unix:path=/nowhere/bus", "autolaunch:", "nonsense"] {
        let mut login = bash(&w, "env", &[], "arcssh login --device-code; arcssh logout");
        login.env("DBUS_SESSION_BUS_ADDRESS", address).env("XDG_RUNTIME_DIR", w.home().join("run"));
        let login = run(&mut login);
        assert_eq!(login.code, Some(0), "{}", login.stderr);
        let lines = login.arcssh_lines();
        assert!(lines.len() == 3 && lines[1].contains("signed in as"), "{address}: {}", login.stderr);
    }
}

#[test]
fn a_session_bus_without_a_usable_key_store_is_no_reason_for_a_message() {
    let Some(w) = lab() else { return };
    let script = "arcssh login --device-code; arcssh account; arcssh logout";
    let bus = w.home().join("bus.conf");
    fs::write(&bus, ROGUE_BUS).unwrap();
    let without =
        run(&mut bash(&w, "dbus-run-session", &["--config-file", &bus.display().to_string(), "--"], script));
    // The bus starts GNOME Keyring, which has no keyring yet.
    let empty = in_session(&w, script);
    for done in [without, empty] {
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let lines = done.arcssh_lines();
        assert!(lines.len() == 3 && lines[1].contains("signed in as"), "{}", done.stderr);
        assert!(!done.stderr.contains(PROMPT), "{}", done.stderr);
        let stdout = String::from_utf8_lossy(&done.stdout);
        assert!(stdout.contains("stored   the refresh token is in the file "), "{stdout}");
    }
}

#[test]
fn a_connection_with_a_cached_token_does_not_use_the_key_store() {
    let Some(w) = lab() else { return };
    let listener = UnixListener::bind(w.home().join("bus")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let done = in_session(
        &w,
        r#"
        unlocked
        arcssh login --device-code
        DBUS_SESSION_BUS_ADDRESS=unix:path=$HOME/bus ssh -F .ssh/config -o BatchMode=yes web01 echo reached
        "#,
    );
    assert_eq!((done.code, &done.stdout[..]), (Some(0), &b"reached\n"[..]), "{}", done.stderr);
    let none = listener.accept().map(|_| ()).unwrap_err();
    assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_session_bus_that_never_answers_is_given_up_in_time() {
    let Some(w) = lab() else { return };
    let silent = w.home().join("bus");
    // The system accepts connections for it; nothing reads them.
    let _listener = UnixListener::bind(&silent).unwrap();
    let mut login = bash(&w, "env", &[], "arcssh login --device-code; forget_tokens; arcssh account");
    login.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", silent.display()));
    let started = Instant::now();
    let login = run(&mut login);
    assert_eq!(login.code, Some(0), "{}", login.stderr);
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    let note =
        "arcssh: the refresh token is stored in a file that only you can read: the key store does not answer";
    assert!(login.stderr.lines().any(|line| line == note), "{}", login.stderr);
}

#[test]
fn a_connection_ends_in_time_when_the_key_store_does_not_answer() {
    let Some(w) = lab() else { return };
    let silent = w.home().join("bus");
    let _listener = UnixListener::bind(&silent).unwrap();
    let done = in_session(
        &w,
        r#"
        unlocked
        arcssh login --device-code
        forget_tokens
        export DBUS_SESSION_BUS_ADDRESS=unix:path=$HOME/bus
        status=0
        timeout 30 "$ARCSSH" proxy "$ID" --port "$PORT" < /dev/null 2> "$HOME/err" || status=$?
        expect 3 "$status"
        "#,
    );
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let output = fs::read_to_string(w.home().join("err")).unwrap();
    let lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("arcssh: waiting for ")).collect();
    let why = "arcssh: cannot connect to web01: the sign-in of arcssh cannot be used: the key store does not answer";
    assert_eq!(lines, [why, "arcssh: hint: restart the key store, or run: arcssh login"]);
}

/// A bus that lets any user in, as a rogue one would.
const ROGUE_BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
    "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:dir=/tmp</listen><policy context="default"><allow user="*"/><allow own="*"/>
    <allow send_destination="*"/><allow eavesdrop="true"/></policy></busconfig>"#;

#[test]
fn a_session_bus_of_another_user_gets_no_token() {
    let as_another = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    if !Command::new("setpriv").args(as_another).arg("true").status().is_ok_and(|status| status.success()) {
        return; // Only root can be another user.
    }
    let Some(w) = lab() else { return };
    let theirs = tempfile::tempdir().unwrap();
    let home = theirs.path().display().to_string();
    std::os::unix::fs::chown(theirs.path(), Some(65534), Some(65534)).unwrap();
    fs::write(theirs.path().join("bus.conf"), ROGUE_BUS).unwrap();
    fs::set_permissions(theirs.path().join("bus.conf"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    let script = r#"
        cat > "$HOME/theirs" <<'END'
printf secret | gnome-keyring-daemon --daemonize --unlock --components=secrets >&2
until printf theirs | secret-tool store --label=theirs kind theirs; do sleep 0.1; done
echo "$DBUS_SESSION_BUS_ADDRESS" > "$HOME/address"
while [ ! -e "$HOME/done" ]; do sleep 0.1; done
secret-tool lookup kind theirs > "$HOME/theirs"
secret-tool lookup application arcssh > "$HOME/ours" || true
END
        cp "$HOME/theirs" "$THEIRS/script"
        setpriv --reuid 65534 --regid 65534 --clear-groups env -i HOME="$THEIRS" PATH="$PATH"             dbus-run-session --config-file="$THEIRS/bus.conf" -- bash "$THEIRS/script" &
        until [ -s "$THEIRS/address" ]; do sleep 0.1; done
        export DBUS_SESSION_BUS_ADDRESS=$(cat "$THEIRS/address")
        arcssh login --device-code
        touch "$THEIRS/done"
        wait
        expect theirs "$(cat "$THEIRS/theirs")"
        expect "" "$(cat "$THEIRS/ours")""#;
    let mut shell = bash(&w, "env", &[], script);
    let done = run(shell.current_dir(theirs.path()).env("THEIRS", &home));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(account_file(&w).contains("refresh_token_in_file"), "{}", account_file(&w));
}

#[test]
fn two_state_directories_have_two_refresh_tokens() {
    let Some(w) = lab() else { return };
    let done = in_session(
        &w,
        r#"
        unlocked
        arcssh login --device-code
        ARCSSH_STATE_DIR=$HOME/other arcssh login --device-code
        ARCSSH_STATE_DIR=$HOME/other arcssh logout
        [ -n "$(stored)" ]
        forget_tokens
        arcssh account
        "#,
    );
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}
