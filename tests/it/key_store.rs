//! Refresh tokens in the Secret Service: a real GNOME Keyring on a separate session bus.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::sign_in::redeemed;
use crate::support::{ARCSSH, Lab, Run, lab_with, run};

/// The programs of the session. macOS lacks them.
const PROGRAMS: [&str; 4] = ["dbus-run-session", "dbus-send", "gnome-keyring-daemon", "secret-tool"];

/// Functions for the scripts. The password of the key store is `secret`. Until the daemon owns its name, the bus would
/// start another one.
const SESSION: &str = r#"
    arcssh() { "$ARCSSH" "$@"; }
    unlock() {
        printf secret | gnome-keyring-daemon --daemonize --unlock --components=secrets >&2
        until is_running; do sleep 0.1; done
    }
    is_running() {
        dbus-send --session --print-reply --dest=org.freedesktop.DBus /org/freedesktop/DBus \
            org.freedesktop.DBus.NameHasOwner string:org.freedesktop.secrets | grep -q true
    }
    sign_in() { unlock; arcssh login --device-code; }
    lock() {
        dbus-send --session --print-reply --dest=org.freedesktop.secrets /org/freedesktop/secrets \
            org.freedesktop.Secret.Service.Lock array:objpath:/org/freedesktop/secrets/collection/login >&2
    }
    stored() { secret-tool lookup application arcssh || true; }
    delete_tokens() { rm -f "$HOME"/.local/state/arcssh/token-*; }
    expect() { [ "$1" = "$2" ] || { echo "expected $1, found $2" >&2; exit 9; }; }
"#;

/// Part of dbus-daemon's log line when a key store prompts the user (gcr, `org.gnome.keyring.SystemPrompter`).
const PROMPT: &str = "SystemPrompter";

/// A lab whose user approves every device code, or `None` without a key store on this machine.
fn lab() -> Option<Lab> {
    let is_missing = |program: &&&str| Command::new(program).arg("--help").output().is_err();
    if let Some(program) = PROGRAMS.iter().find(is_missing) {
        std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: there is no {program}\n"))
            .unwrap();
        return None;
    }
    Some(lab_with(&["web01"], |builder| builder.device_interval(Duration::from_secs(1)).approve_devices()))
}

/// A bash script without the service principal.
fn bash(w: &Lab, program: &str, arguments: &[&str], script: &str) -> Command {
    let mut command = w.command(program);
    for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "ARCSSH_NO_KEYRING"] {
        command.env_remove(name);
    }
    command.args(arguments).args(["bash", "-euc", &format!("{SESSION}{script}")]);
    command.env("ARCSSH", ARCSSH).env("ID", w.id()).env("PORT", w.sshd().port().to_string());
    command
}

/// Runs the script on a new session bus, and asserts that it succeeds. The bus ends with the script.
#[track_caller]
fn in_session(w: &Lab, script: &str) -> Run {
    succeed(&mut bash(w, "dbus-run-session", &["--"], script))
}

#[track_caller]
fn succeed(command: &mut Command) -> Run {
    let run = run(command);
    assert_eq!(run.code, Some(0), "{}{}", String::from_utf8_lossy(&run.stdout), run.stderr);
    run
}

fn account_file(w: &Lab) -> String {
    let files = fs::read_dir(w.state_directory()).unwrap().map(|file| file.unwrap().path());
    let is_account = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("account-") && name.ends_with(".json")
    };
    fs::read_to_string(files.into_iter().find(is_account).expect("an account file")).unwrap()
}

#[test]
fn the_refresh_token_is_in_the_key_store_and_in_no_file() {
    let Some(w) = lab() else { return };
    let done = in_session(
        &w,
        r#"
        sign_in
        first=$(stored)
        [ -n "$first" ]
        ! grep -rF -- "$first" "$HOME/.local" "$HOME/.ssh"
        arcssh account
        delete_tokens
        ssh -F .ssh/config -o BatchMode=yes web01 echo reached
        second=$(stored)
        [ -n "$second" ] && [ "$second" != "$first" ]
        ! grep -rF -- "$second" "$HOME/.local" "$HOME/.ssh"
        arcssh logout
        expect "" "$(stored)"
        "#,
    );
    let stdout = String::from_utf8_lossy(&done.stdout);
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
    // DISPLAY is set, so only arcssh can prevent the prompt.
    let done = in_session(
        &w,
        r#"
        sign_in
        delete_tokens
        lock
        export DISPLAY=:99
        status=0
        arcssh proxy "$ID" --port "$PORT" < /dev/null > "$HOME/out" 2> "$HOME/err" || status=$?
        expect 3 "$status"
        "#,
    );
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(!done.stderr.contains(PROMPT), "{}", done.stderr);
    let output = fs::read_to_string(w.home().join("err")).unwrap();
    let lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("arcssh: waiting for ")).collect();
    let why = "arcssh: cannot connect to web01: cannot use the sign-in of arcssh: the key store is locked";
    assert_eq!(lines, [why, "arcssh: hint: unlock the key store; or sign in: arcssh login"]);
}

#[test]
fn with_a_locked_key_store_the_token_is_stored_in_a_file() {
    let Some(w) = lab() else { return };
    let done = in_session(
        &w,
        r#"
        unlock
        lock
        arcssh login --device-code
        "#,
    );
    let note =
        "arcssh: the refresh token is stored in a file that only you can read: the key store is locked";
    assert!(done.stderr.lines().any(|line| line == note), "{}", done.stderr);
    assert!(account_file(&w).contains("refresh_token_in_file"), "{}", account_file(&w));
    assert!(!done.stderr.contains(PROMPT), "without a display there is no prompt: {}", done.stderr);
    // A later refresh keeps the token in the file.
    let later = in_session(&w, "unlock; delete_tokens; arcssh account; expect '' \"$(stored)\"");
    let stdout = String::from_utf8_lossy(&later.stdout);
    assert!(stdout.contains("stored   the refresh token is in the file "), "{stdout}");
}

#[test]
fn only_a_sign_in_prompts_to_unlock_the_key_store() {
    let Some(w) = lab() else { return };
    // The display does not exist, so the prompt fails.
    let done = in_session(&w, "unlock; lock; export DISPLAY=:99; arcssh login --device-code");
    assert!(done.stderr.contains(PROMPT), "{}", done.stderr);
}

#[test]
fn a_failed_sign_out_can_be_repeated() {
    let Some(w) = lab() else { return };
    let done = in_session(
        &w,
        r#"
        sign_in
        status=0
        ARCSSH_NO_KEYRING=1 arcssh logout 2> "$HOME/err" || status=$?
        expect 1 "$status"
        [ -n "$(stored)" ]
        arcssh logout
        expect "" "$(stored)"
        arcssh logout
        "#,
    );
    let output = fs::read_to_string(w.home().join("err")).unwrap();
    let expected = [
        "arcssh: the refresh token is still in the key store: ARCSSH_NO_KEYRING is set",
        "arcssh: hint: unset ARCSSH_NO_KEYRING; then run: arcssh logout",
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
    let again = "arcssh: hint: to sign in again, run: arcssh login";
    assert_eq!(done.arcssh_lines()[3..], ["arcssh: signed out", again, "arcssh: no account was signed in"]);
}

#[test]
fn an_older_account_file_works_and_moves_to_the_key_store() {
    let Some(w) = lab() else { return };
    in_session(
        &w,
        r#"
        unlock
        ARCSSH_NO_KEYRING=1 arcssh login --device-code
        expect "" "$(stored)"
        sed -i 's/refresh_token_in_file/refresh_token/' "$HOME"/.local/state/arcssh/account-*.json
        delete_tokens
        ARCSSH_NO_KEYRING=1 arcssh account
        expect "" "$(stored)"
        delete_tokens
        arcssh account
        token=$(stored)
        [ -n "$token" ]
        ! grep -rF -- "$token" "$HOME/.local"
        delete_tokens
        arcssh account
        "#,
    );
    assert_eq!(redeemed(&w).len(), 3 + 1, "the sign-in itself also requests a token");
    assert!(account_file(&w).contains(r#""refresh_token_in":"the Secret Service""#), "{}", account_file(&w));
}

#[test]
fn without_a_session_bus_the_token_is_stored_in_a_file() {
    let Some(w) = lab() else { return };
    for address in ["", "unix:path=/nowhere/bus", "autolaunch:", "nonsense"] {
        let mut login = bash(&w, "env", &[], "arcssh login --device-code; arcssh logout");
        login.env("DBUS_SESSION_BUS_ADDRESS", address).env("XDG_RUNTIME_DIR", w.home().join("run"));
        let login = succeed(&mut login);
        let lines = login.arcssh_lines();
        assert!(lines.len() == 5 && lines[1].contains("signed in as"), "{address}: {}", login.stderr);
    }
}

#[test]
fn an_unusable_key_store_causes_no_message() {
    let Some(w) = lab() else { return };
    let script = "arcssh login --device-code; arcssh account; arcssh logout";
    let bus = w.home().join("bus.conf");
    fs::write(&bus, ROGUE_BUS).unwrap();
    let without = succeed(&mut bash(
        &w,
        "dbus-run-session",
        &["--config-file", &bus.display().to_string(), "--"],
        script,
    ));
    // The bus starts GNOME Keyring without a keyring.
    let empty = in_session(&w, script);
    for done in [without, empty] {
        let lines = done.arcssh_lines();
        assert!(lines.len() == 5 && lines[1].contains("signed in as"), "{}", done.stderr);
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
        sign_in
        DBUS_SESSION_BUS_ADDRESS=unix:path=$HOME/bus ssh -F .ssh/config -o BatchMode=yes web01 echo reached
        "#,
    );
    assert_eq!(done.stdout, b"reached\n", "{}", done.stderr);
    let error = listener.accept().map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_silent_session_bus_times_out() {
    let Some(w) = lab() else { return };
    let silent = w.home().join("bus");
    // The kernel accepts connections, but no process reads them.
    let _listener = UnixListener::bind(&silent).unwrap();
    let mut login = bash(&w, "env", &[], "arcssh login --device-code; delete_tokens; arcssh account");
    login.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", silent.display()));
    let started = Instant::now();
    let login = succeed(&mut login);
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    let note = "arcssh: the refresh token is stored in a file that only you can read: the key store does not respond";
    assert!(login.stderr.lines().any(|line| line == note), "{}", login.stderr);
}

#[test]
fn a_connection_times_out_if_the_key_store_is_silent() {
    let Some(w) = lab() else { return };
    let silent = w.home().join("bus");
    let _listener = UnixListener::bind(&silent).unwrap();
    in_session(
        &w,
        r#"
        sign_in
        delete_tokens
        export DBUS_SESSION_BUS_ADDRESS=unix:path=$HOME/bus
        status=0
        timeout 30 "$ARCSSH" proxy "$ID" --port "$PORT" < /dev/null 2> "$HOME/err" || status=$?
        expect 3 "$status"
        "#,
    );
    let output = fs::read_to_string(w.home().join("err")).unwrap();
    let lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("arcssh: waiting for ")).collect();
    let why =
        "arcssh: cannot connect to web01: cannot use the sign-in of arcssh: the key store does not respond";
    assert_eq!(lines, [why, "arcssh: hint: restart the key store; or sign in: arcssh login"]);
}

/// A bus without access control.
const ROGUE_BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
    "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:dir=/tmp</listen><policy context="default"><allow user="*"/><allow own="*"/>
    <allow send_destination="*"/><allow eavesdrop="true"/></policy></busconfig>"#;

#[test]
fn a_session_bus_of_another_user_gets_no_token() {
    let as_another = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    if !Command::new("setpriv").args(as_another).arg("true").status().is_ok_and(|status| status.success()) {
        return; // only root can change the user
    }
    let Some(w) = lab() else { return };
    let other_home = tempfile::tempdir().unwrap();
    let home = other_home.path().display().to_string();
    std::os::unix::fs::chown(other_home.path(), Some(65534), Some(65534)).unwrap();
    fs::write(other_home.path().join("bus.conf"), ROGUE_BUS).unwrap();
    fs::set_permissions(
        other_home.path().join("bus.conf"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let script = r#"
        cat > "$HOME/script" <<'END'
printf secret | gnome-keyring-daemon --daemonize --unlock --components=secrets >&2
until printf other | secret-tool store --label=other kind other; do sleep 0.1; done
echo "$DBUS_SESSION_BUS_ADDRESS" > "$HOME/address"
while [ ! -e "$HOME/done" ]; do sleep 0.1; done
secret-tool lookup kind other > "$HOME/other"
secret-tool lookup application arcssh > "$HOME/arcssh" || true
END
        cp "$HOME/script" "$OTHER_HOME/script"
        setpriv --reuid 65534 --regid 65534 --clear-groups env -i HOME="$OTHER_HOME" PATH="$PATH" \
            dbus-run-session --config-file="$OTHER_HOME/bus.conf" -- bash "$OTHER_HOME/script" &
        until [ -s "$OTHER_HOME/address" ]; do sleep 0.1; done
        export DBUS_SESSION_BUS_ADDRESS=$(cat "$OTHER_HOME/address")
        arcssh login --device-code
        touch "$OTHER_HOME/done"
        wait
        expect other "$(cat "$OTHER_HOME/other")"
        expect "" "$(cat "$OTHER_HOME/arcssh")""#;
    let mut shell = bash(&w, "env", &[], script);
    succeed(shell.current_dir(other_home.path()).env("OTHER_HOME", &home));
    assert!(account_file(&w).contains("refresh_token_in_file"), "{}", account_file(&w));
}

#[test]
fn each_state_directory_has_its_own_refresh_token() {
    let Some(w) = lab() else { return };
    in_session(
        &w,
        r#"
        sign_in
        ARCSSH_STATE_DIR=$HOME/other arcssh login --device-code
        ARCSSH_STATE_DIR=$HOME/other arcssh logout
        [ -n "$(stored)" ]
        delete_tokens
        arcssh account
        "#,
    );
}
