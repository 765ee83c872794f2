//! The names of host keys: ssh's question contains the machine's name, and a name in use remains.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

use super::Home;
use crate::support::{Limited, ended, lab, run};

#[test]
#[cfg(target_os = "linux")]
fn the_question_about_a_host_key_names_the_machine() {
    let w = lab(&["Web01"]);
    let home = Home::new(&w);
    home.succeed(&["web01", "--port", &w.sshd().port().to_string()]);
    let name = format!("web01.{}", w.emulator().machine("Web01").vm_id().unwrap());
    for columns in [60, 100] {
        let command = format!("stty cols {columns} rows 30; ssh web01 true");
        let mut script = home.command("script");
        script.args(["-qefc", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.env("TERM", "xterm").spawn().unwrap();
        let (mut shown, mut screen) = (Limited(script.stdout.take().unwrap()), Vec::new());
        while !String::from_utf8_lossy(&screen).contains("(yes/no/[fingerprint])? ") {
            let mut byte = [0];
            assert_eq!(shown.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&screen));
            screen.extend(byte);
        }
        script.stdin.take().unwrap().write_all(b"no\n").unwrap();
        shown.read_to_end(&mut screen).unwrap();
        assert_eq!(ended(&mut script).code(), Some(255));
        let screen = String::from_utf8(screen).unwrap();
        let question = format!(
            "The authenticity of host '{name} (<no hostip for proxy command>)' can't be established."
        );
        assert!(screen.contains(&question), "{screen}");
    }
    run(home.command("ssh").args([
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=accept-new",
        "web01",
        "true",
    ]));
    let found = run(home.command("ssh-keygen").args(["-F", &name])).clean();
    assert!(found.contains(&format!("Host {name} found")), "{found}");
}

#[test]
fn a_name_in_use_remains() {
    let w = lab(&["web01"]);
    let port = w.sshd().port().to_string();
    let id = w.emulator().machine("web01").vm_id().unwrap();
    let name = format!("web01.{id}");
    let cases = [
        (None, &name),
        (Some(id.clone()), &id),
        (Some(name.clone()), &name),
        (Some(format!("{name},{id}")), &name),
        (Some("web02,*.example.com".into()), &name),
    ];
    for hashes in [false, true] {
        for (known, expected) in &cases {
            let home = Home::with(&w, "");
            let file = home.path.join(".ssh/known_hosts");
            if let Some(known) = known {
                fs::write(&file, w.sshd().known_hosts_line(known).unwrap()).unwrap();
            }
            if hashes && known.is_some() {
                run(home.command("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file));
            }
            home.succeed(&["web01", "--port", &port]);
            assert_eq!(home.effective("web01", "hostkeyalias"), **expected, "{known:?}");
            let strict = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "web01", "true"];
            let rejected =
                run(home.command("ssh").args(strict)).stderr.contains("Host key verification failed");
            let is_known = known.as_ref().is_some_and(|known| known.contains(id.as_str()));
            assert_eq!(rejected, !is_known, "{known:?}");
            // The host entry is now the only place with the name.
            let _ = fs::remove_file(&file);
            assert_eq!(home.changes(&["web01", "--user", "me"]), ["changed web01: user"]);
            assert_eq!(home.effective("web01", "hostkeyalias"), **expected, "{known:?}");
            fs::remove_dir_all(&home.path).unwrap();
        }
    }
}
