//! Standard output is the wire: whatever is logged, it carries the machine's bytes and nothing else.

use std::io::Write as _;

use crate::support::{run, service, world};

#[test]
fn at_every_log_level_standard_output_is_what_the_machine_sent() {
    let w = world(&["web01"]);
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
        let asked_for_a_log = arguments.iter().any(|word| word.starts_with("-v"));
        assert_eq!(!run.stderr.is_empty(), asked_for_a_log, "{arguments:?}: {}", run.stderr);
    }
}
