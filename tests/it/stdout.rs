//! Standard output carries only the machine's bytes at every log level.

use std::io::Write as _;

use crate::support::{lab, run, service};

#[test]
fn standard_output_is_the_same_at_every_log_level() {
    let w = lab(&["web01"]);
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let port = service(|mut connection| {
        let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        connection.write_all(&sent).unwrap();
    });
    let levels: [(&[&str], &str); 6] = [
        (&[], ""),
        (&["-v"], ""),
        (&["-vv"], ""),
        (&["-vvv"], ""),
        (&["--log-file", "log"], ""),
        (&["-vvv", "--log-file", "log"], "trace"),
    ];
    for (arguments, rust_log) in levels {
        let run = run(w.proxy_to(port).args(arguments).env("RUST_LOG", rust_log));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(run.stdout == sent, "{arguments:?}: {} bytes", run.stdout.len());
        let logs_to_stderr = arguments.iter().any(|word| word.starts_with("-v"));
        assert_eq!(!run.stderr.is_empty(), logs_to_stderr, "{arguments:?}: {}", run.stderr);
    }
}
