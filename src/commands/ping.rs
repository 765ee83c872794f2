//! `arcssh ping`: how long a connection to a machine takes, and a round trip to its relay.
//!
//! The relay connects to the machine's sshd before it responds (Relay Hybrid Connections protocol, "accept"), so arcssh
//! connects once, and then sends pings over that connection.

use std::cell::RefCell;
use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use http::uri::Authority;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::azure::hybrid_connectivity::Service;
use crate::azure::relay_credential_cache::RelayCredentialCache;
use crate::cli::ping::PingArgs;
use crate::cli::ssh::Address;
use crate::commands::destination::Destination;
use crate::diagnosis::{Context, Diagnosis, Error, Result, last_error};
use crate::net::{self, Step};
use crate::relay::connector::{ARM_TIMEOUT, Connector};
use crate::relay::handshake::{self, Upgraded};
use crate::relay::round_trip::Line;
use crate::system::signals::{Signals, or_shutdown, take_over};
use crate::terminal::TerminalError;
use crate::terminal::output::{end_line, note, print, print_json};
use crate::terminal::progress::{self, Progress};
use crate::text::sanitize;

/// The longest silence of sshd before its identification: it may look up names first.
const BANNER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for the relay's answer to a ping.
const PONG_TIMEOUT: Duration = Duration::from_secs(5);
/// The age at which a connection is replaced. sshd ends one without a login after 120 s, and penalizes that more
/// (sshd_config(5), `LoginGraceTime` and `PerSourcePenalties`).
const MAX_AGE: Duration = Duration::from_secs(60);

/// The kind of round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// A ping that the relay answers, over an open connection.
    Ping,
    /// TCP and TLS to the relay, or to it through a proxy: the relay answers no pings.
    Tls,
    /// A connection to the machine.
    Connect,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Tls => "tls",
            Self::Connect => "connect",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Ping => "round trips to the relay",
            Self::Tls => "TLS connections to the relay",
            Self::Connect => "connections to the machine",
        }
    }
}

/// The results so far.
struct Results {
    relay: String,
    /// The duration of each step of the first connection, and of all steps.
    steps: Vec<(&'static str, Duration)>,
    connected: Option<Duration>,
    banner: Option<(String, Duration)>,
    method: Method,
    /// The time of each round trip; `None`: it failed.
    rounds: Vec<Option<Duration>>,
}

/// Measures and prints, and returns the exit status.
///
/// # Errors
/// The machine cannot be reached; the output cannot be written.
pub(crate) async fn run(args: &PingArgs) -> Result<u8> {
    let signals = &mut Signals::new();
    let open = async { open(args).await.map(Ok) };
    let destination = match or_shutdown(signals, open, |number| Ok(Err(128 + number))).await? {
        Ok(destination) => destination,
        Err(status) => return Ok(status),
    };
    take_over();
    let method = if args.connect { Method::Connect } else { Method::Ping };
    let pinger = Pinger {
        args,
        destination: &destination,
        results: RefCell::new(Results {
            relay: String::new(),
            steps: Vec::new(),
            connected: None,
            banner: None,
            method,
            rounds: Vec::new(),
        }),
    };
    let (result, status) = tokio::select! {
        biased;
        number = signals.next() => {
            if pinger.results.borrow().connected.is_some() {
                end_line();
            }
            (Ok(()), 128 + number)
        }
        result = pinger.measure() => (result, 0),
    };
    let target = destination.target.clone();
    let result = result.map_err(|error| match error {
        Error::Terminal(_) => error,
        error => error.during(Context::connecting(target)),
    });
    pinger.finish(result.as_ref().err())?;
    let is_done = result.is_ok() && status == 0;
    if is_done && !args.output.is_json() && stdout().is_terminal() {
        destination
            .connect_command()
            .iter()
            .for_each(|command| note(&format!("hint: to connect, run: {command}")));
    }
    result.map(|()| status)
}

async fn open(args: &PingArgs) -> Result<Destination> {
    // The destination of an ssh command may name a user, and a ping logs in as none.
    let address = Address::of(args.machine.as_deref());
    let options = address.with_port(&args.destination);
    let destination = Destination::open(address.machine.as_deref(), &options, "ping").await?;
    let Destination { session, target, .. } = &destination;
    let progress = Progress::default();
    let step = progress::Step::wait(format!("relay credentials of {target}")).or("relay credentials");
    progress.set_deadline(step.with(" from Azure Resource Manager"), ARM_TIMEOUT);
    let cached = progress.run(session.cache_credentials(target)).await;
    cached.map_err(|error| error.during(Context::connecting(target.clone())))?;
    Ok(destination)
}

/// An open connection to the machine.
struct Open {
    line: Line<net::Stream>,
    relay: Authority,
    since: Instant,
}

struct Pinger<'a> {
    args: &'a PingArgs,
    destination: &'a Destination,
    results: RefCell<Results>,
}

impl Pinger<'_> {
    /// Runs all round trips.
    async fn measure(&self) -> Result<()> {
        let mut open = self.connect_first().await?;
        last_error::clear(&self.destination.session.store, &self.destination.target);
        let mut next = Instant::now();
        for number in 1.. {
            sleep_until(next).await;
            next = Instant::now() + self.args.interval;
            let time = self.round_trip(number, &mut open).await?;
            self.add(number, time)?;
            if self.args.count == number {
                break;
            }
            if number == 1 && time.is_none() {
                note("the relay answers no pings; arcssh measures TLS connections to the relay instead");
                self.results.borrow_mut().method = Method::Tls;
                next = Instant::now();
            }
        }
        open.line.close().await;
        Ok(())
    }

    /// Returns the time of one round trip; `None`: the relay does not answer.
    async fn round_trip(&self, number: u64, open: &mut Open) -> Result<Option<Duration>> {
        let (method, start) = (self.results.borrow().method, Instant::now());
        let progress = Progress::default();
        progress.set("relay".into());
        match method {
            Method::Ping => {
                if open.since.elapsed() > MAX_AGE {
                    let (upgraded, relay) = self.dial().await?;
                    let new = Open { line: Line::new(upgraded), relay, since: Instant::now() };
                    std::mem::replace(open, new).line.close().await;
                }
                progress.set_deadline("relay".into(), PONG_TIMEOUT);
                return Ok(progress.run(open.line.round_trip(number, PONG_TIMEOUT)).await?);
            }
            Method::Tls => {
                drop(progress.run(self.destination.session.net.connect(&open.relay)).await?);
            }
            Method::Connect => {
                let (upgraded, _) = self.dial().await?;
                let time = start.elapsed();
                Line::new(upgraded).close().await;
                return Ok(Some(time));
            }
        }
        Ok(Some(start.elapsed()))
    }

    /// Connects to the machine, and waits for its first bytes.
    async fn connect_first(&self) -> Result<Open> {
        let target = &self.destination.target;
        let start = Instant::now();
        let (upgraded, authority, steps) = self.dial_in_steps().await?;
        let connected = start.elapsed();
        {
            let mut results = self.results.borrow_mut();
            results.relay = authority.to_string();
            results.steps.clone_from(&steps);
            results.connected = Some(connected);
        }
        let parts: Vec<String> = steps.iter().map(|(name, time)| format!("{name} {}", ms(*time))).collect();
        let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        let (port, connected) = (target.port, ms(connected));
        self.say(&format!("{target}:{port} through {authority}: connected in {connected}{parts}"))?;
        let mut line = Line::new(upgraded);
        if target.service == Service::Ssh {
            let start = Instant::now();
            let progress = Progress::default();
            progress
                .set_deadline(progress::Step::wait(format!("sshd of {target}")).or("sshd"), BANNER_TIMEOUT);
            let banner = progress.run(line.identification(BANNER_TIMEOUT)).await?;
            let time = start.elapsed();
            self.say(&format!("{banner} after {}", ms(time)))?;
            self.results.borrow_mut().banner = Some((banner, time));
        }
        Ok(Open { line, relay: authority, since: Instant::now() })
    }

    /// Connects with cached credentials, and measures each step. If that fails, connects as `arcssh proxy` does, with retries
    /// and other credentials.
    async fn dial_in_steps(
        &self,
    ) -> Result<(Upgraded<net::Stream>, Authority, Vec<(&'static str, Duration)>)> {
        let Destination { session, target, .. } = self.destination;
        if let Some(issued) = self.cache().cached()?.into_iter().next() {
            let marks = RefCell::<Vec<Instant>>::default();
            let limit = |step: Step| {
                marks.borrow_mut().push(Instant::now());
                step.timeout()
            };
            let dial = handshake::dial(&session.net, &issued.credentials, target.port, limit);
            match Progress::default().run(dial).await {
                Ok(upgraded) => {
                    let steps = steps(&marks.borrow(), Instant::now());
                    return Ok((upgraded, issued.credentials.relay.authority().clone(), steps));
                }
                Err(error) => info!("{error}; connecting with retries"),
            }
        }
        let (upgraded, authority) = self.dial().await?;
        Ok((upgraded, authority, Vec::new()))
    }

    async fn dial(&self) -> Result<(Upgraded<net::Stream>, Authority)> {
        let Destination { session, target, .. } = self.destination;
        let (wait, progress) = (self.args.destination.target.wait, &Progress::default());
        let connector = Connector { net: &session.net, target, wait, progress, on_no_listener: &|| () };
        let cache = self.cache();
        let connecting = async { Ok::<_, Error>(connector.connect(&cache).await?) };
        let (upgraded, issued) = progress.run(connecting).await?;
        Ok((upgraded, issued.credentials.relay.authority().clone()))
    }

    fn cache(&self) -> RelayCredentialCache<'_> {
        let Destination { session, id, target, .. } = self.destination;
        RelayCredentialCache::new(&session.arm, &session.store, id, target.service, target.port)
    }

    /// Stores and prints the result of a round trip.
    fn add(&self, number: u64, time: Option<Duration>) -> Result<(), TerminalError> {
        self.results.borrow_mut().rounds.push(time);
        match time {
            Some(time) => self.say(&format!("{number}: {}", ms(time))),
            None => self.say(&format!("{number}: no answer within {} s", PONG_TIMEOUT.as_secs())),
        }
    }

    /// Prints a line, unless the output is JSON.
    fn say(&self, line: &str) -> Result<(), TerminalError> {
        if self.args.output.is_json() { Ok(()) } else { print(&(sanitize(line) + "\n")) }
    }

    /// Prints the summary, or all results as JSON.
    fn finish(&self, error: Option<&Error>) -> Result<(), TerminalError> {
        let Results { relay, steps, connected, banner, method, rounds } = &*self.results.borrow();
        let range = range(rounds);
        if self.args.output.is_json() {
            let Destination { id, target, .. } = self.destination;
            let steps = steps.iter().map(|(name, time)| ((*name).to_owned(), seconds(*time)));
            let error = error.map(Error::diagnose).map(|diagnosis| diagnosis.on_one_line());
            let error = error.map(|Diagnosis { code, summary, hint, request_id }| {
                let hint = hint.map(|hint| json!({ "text": hint.text, "command": hint.command }));
                json!({ "code": code.slug(), "text": summary, "hint": hint, "request_id": request_id })
            });
            let [min, median, max] =
                range.map_or([Value::Null, Value::Null, Value::Null], |range| range.map(seconds));
            let report = json!({
                "machine": target.name, "id": id.to_string(), "service": target.service.to_string(), "port": target.port,
                "relay": Some(relay).filter(|relay| !relay.is_empty()),
                "connect": connected.map(|time| json!({ "seconds": seconds(time), "steps": Map::from_iter(steps) })),
                "banner": banner.as_ref().map(|(text, time)| json!({ "text": text, "seconds": seconds(*time) })),
                "method": method.name(), "rounds": rounds.iter().map(|time| time.map(seconds)).collect::<Vec<_>>(),
                "min": min, "median": median, "max": max, "ok": error.is_none(), "error": error,
            });
            return print_json(&report);
        }
        let Some([min, median, max]) = range else { return Ok(()) };
        let (answered, all) = (rounds.iter().flatten().count(), rounds.len());
        let (min, median, max) = (ms(min), ms(median), ms(max));
        self.say(&format!("{answered} of {all} {}; min {min}, median {median}, max {max}", method.title()))
    }
}

/// Returns the names of the steps, from the time at which each began: TCP, the proxy's if there is one, TLS, and the upgrade,
/// for which the relay waits for the machine's agent.
fn steps(begins: &[Instant], end: Instant) -> Vec<(&'static str, Duration)> {
    let [tcp, proxy @ .., tls, upgrade] = begins else { return Vec::new() };
    let after_tcp = proxy.first().unwrap_or(tls);
    let tunnel = proxy.first().map(|proxy| ("proxy", *tls - *proxy));
    let steps = [
        Some(("tcp", *after_tcp - *tcp)),
        tunnel,
        Some(("tls", *upgrade - *tls)),
        Some(("upgrade", end - *upgrade)),
    ];
    steps.into_iter().flatten().collect()
}

/// Returns the shortest, the median and the longest time.
fn range(rounds: &[Option<Duration>]) -> Option<[Duration; 3]> {
    let mut times: Vec<Duration> = rounds.iter().flatten().copied().collect();
    times.sort_unstable();
    let middle = [*times.get(times.len().checked_sub(1)? / 2)?, *times.get(times.len() / 2)?];
    Some([*times.first()?, middle.iter().sum::<Duration>() / 2, *times.last()?])
}

/// Returns milliseconds as a user reads them.
fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Returns seconds, with a precision of microseconds.
fn seconds(time: Duration) -> Value {
    (time.as_micros() as f64 / 1e6).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_two_times() {
        let times = |times: &[u64]| -> Vec<Option<Duration>> {
            times.iter().map(|time| Some(Duration::from_millis(*time))).collect()
        };
        let range_of = |all: &[u64]| range(&times(all)).map(|range| range.map(|time| time.as_millis()));
        assert_eq!(range_of(&[30]), Some([30, 30, 30]));
        assert_eq!(range_of(&[30, 10]), Some([10, 20, 30]));
        assert_eq!(range_of(&[30, 10, 11]), Some([10, 11, 30]));
        assert_eq!(range_of(&[]), None);
        assert_eq!(range(&[None]), None);
    }

    #[test]
    fn the_steps_of_a_proxy_are_one() {
        let start = Instant::now();
        let at =
            |ms: &[u64]| -> Vec<Instant> { ms.iter().map(|ms| start + Duration::from_millis(*ms)).collect() };
        let named = |begins: &[u64]| -> Vec<(&str, u128)> {
            let steps = steps(&at(begins), start + Duration::from_millis(100));
            steps.into_iter().map(|(name, time)| (name, time.as_millis())).collect()
        };
        assert_eq!(named(&[0, 10, 30]), [("tcp", 10), ("tls", 20), ("upgrade", 70)]);
        assert_eq!(named(&[0, 10, 30, 60]), [("tcp", 10), ("proxy", 20), ("tls", 30), ("upgrade", 40)]);
        assert_eq!(named(&[0, 5, 10, 30, 60]), [("tcp", 5), ("proxy", 25), ("tls", 30), ("upgrade", 40)]);
        assert_eq!(named(&[]), []);
    }
}
