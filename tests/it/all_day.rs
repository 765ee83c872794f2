//! What a fleet does all day, in five minutes. By its name it is among the first tests to start: it takes the longest, and
//! waits for most of that.

use std::time::{Duration, Instant};

use crate::store::{GREETING, asked, greeter, start};
use crate::support::{finish, world_with};

/// Lives are cut short: the agent hears of a name after 20 s, and a name lives for 60.
#[test]
fn over_five_minutes_of_a_connection_a_second_only_the_first_waits() {
    let w = world_with(&["web01"], |builder| {
        builder
            .listener_delay(Duration::from_secs(20))
            .credential_lifetime(Duration::from_secs(60))
            .strict_expiry()
    });
    let port = greeter();
    let connect = || {
        let mut proxy = w.proxy_to(port);
        proxy.arg("-v");
        let run = finish(start(proxy));
        assert_eq!((run.code, run.stdout.as_slice()), (Some(0), GREETING.as_bytes()), "{}", run.stderr);
        run.stderr.contains("; trying again in ")
    };
    let begin = Instant::now();
    assert!(connect(), "the first waits for the agent");
    while begin.elapsed() < Duration::from_secs(300) {
        let next = Instant::now() + Duration::from_secs(1);
        assert!(!connect(), "waited {} s after the first", begin.elapsed().as_secs());
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
    assert!((10..20).contains(&asked(&w).1), "{:?}", asked(&w));
}
