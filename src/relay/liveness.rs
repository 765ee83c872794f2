//! Whether the relay still answers: pings, and what follows from a missing pong.
//!
//! No source says whether Azure Relay answers pings on data connections. Therefore only a relay that has answered one on
//! this connection is expected to answer the next.

use std::task::{Context, Poll};
use std::time::{Duration, Instant as SystemInstant, SystemTime};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::debug;

/// How often a ping keeps the relay from taking the connection for idle: losses are reported after about 2 and after
/// about 4 minutes (aztunnel `bridge.go`; Azure/azure-relay issue 33).
pub(crate) const PING_PERIOD: Duration = Duration::from_secs(30);
/// Pings in a row without any sign of life after which a relay that answers pings is taken to be gone. The last byte
/// came 60 to 90 s before.
pub(crate) const MISSED_PINGS: u32 = 2;
/// How long a relay that answers pings may take for the first sign of life after this computer slept.
const AFTER_SLEEP: Duration = Duration::from_secs(10);
/// How much longer than the process the clock on the wall must have run before the computer is taken to have slept:
/// more than a clock that is set right jumps.
const SLEEP: Duration = Duration::from_secs(20);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Send a ping with this payload.
    Ping([u8; 8]),
    /// The relay is gone.
    Stopped,
}

/// What the bridge could do since its last call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relay {
    /// Something has arrived.
    Heard,
    /// Nothing has arrived, and all that had was read.
    Quiet,
    /// It was not read from because the output takes nothing, or a ping would wait behind input that it does not take:
    /// nothing follows from its silence.
    HeldUp,
}

/// The pings of one connection.
pub(crate) struct Liveness {
    ticks: Interval,
    clocks: Clocks,
    /// The number of the last ping, which is its payload. A pong without one was not asked for: .NET sends empty pongs by
    /// itself (dotnet/runtime, `ManagedWebSocket`, `IsUnsolicitedPongKeepAlive`).
    sent: u64,
    answers: bool,
    /// Whether a ping was sent since the last sign of life.
    waiting: bool,
    missed: u32,
}

impl Liveness {
    /// The first ping comes after [`PING_PERIOD`].
    pub(crate) fn new() -> Self {
        let mut ticks = interval_at(Instant::now() + PING_PERIOD, PING_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, clocks: Clocks::now(), sent: 0, answers: false, waiting: false, missed: 0 }
    }

    /// Takes the payload of a pong.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        let number = payload.try_into().map(u64::from_be_bytes);
        self.answers |= number.is_ok_and(|number| (1..=self.sent).contains(&number));
    }

    /// Returns what is due. Call this after the relay was read from: a process that was stopped for long finds the sign
    /// of life there, and a silence is counted once a period however long the process did not run.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, relay: Relay) -> Poll<Pulse> {
        if relay != Relay::Quiet {
            (self.waiting, self.missed) = (false, 0);
        }
        if self.clocks.have_slept(Clocks::now()) {
            return Poll::Ready(self.after_sleep(cx, relay));
        }
        if self.ticks.poll_tick(cx).is_pending() {
            return Poll::Pending;
        }
        cx.waker().wake_by_ref();
        self.missed += u32::from(self.waiting && self.answers);
        Poll::Ready(match self.missed < MISSED_PINGS {
            true => self.ping(relay),
            false => Pulse::Stopped,
        })
    }

    /// The network may have dropped the connection meanwhile, which the next answer shows.
    fn after_sleep(&mut self, cx: &mut Context<'_>, relay: Relay) -> Pulse {
        debug!("this computer slept");
        self.ticks.reset_after(AFTER_SLEEP);
        cx.waker().wake_by_ref();
        self.missed = MISSED_PINGS - 1;
        self.ping(relay)
    }

    fn ping(&mut self, relay: Relay) -> Pulse {
        self.waiting = relay != Relay::HeldUp;
        self.sent += 1;
        Pulse::Ping(self.sent.to_be_bytes())
    }
}

/// The clock of the process, which on Linux and macOS stands still while the computer sleeps, and the clock on the wall.
struct Clocks {
    process: SystemInstant,
    wall: SystemTime,
}

impl Clocks {
    fn now() -> Self {
        Self { process: SystemInstant::now(), wall: SystemTime::now() }
    }

    /// Returns whether the computer has slept since the last call.
    fn have_slept(&mut self, now: Self) -> bool {
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        let slept = wall.saturating_sub(now.process.duration_since(self.process)) > SLEEP;
        *self = now;
        slept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_ran_on_is_a_sleep_and_a_stopped_process_is_none() {
        let mut clocks = Clocks::now();
        let mut after = |process: u64, wall: u64| {
            let now = Clocks {
                process: clocks.process + Duration::from_secs(process),
                wall: clocks.wall + Duration::from_secs(wall),
            };
            clocks.have_slept(now)
        };
        assert!(!after(600, 600), "SIGSTOP");
        assert!(!after(30, 35), "a clock that is corrected");
        assert!(after(30, 3600), "a closed lid");
        assert!(!after(30, 30), "a sleep is reported once");
        assert!(!after(3600, 30), "a clock that is set back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_asks_at_once_and_a_relay_that_answers_pings_has_little_time() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut liveness = Liveness::new();
        let Poll::Ready(Pulse::Ping(number)) = after_sleep(&mut liveness, &mut cx) else { panic!("no ping") };
        tokio::time::advance(AFTER_SLEEP).await;
        assert!(
            matches!(liveness.poll(&mut cx, Relay::Quiet), Poll::Ready(Pulse::Ping(_))),
            "never answered"
        );
        liveness.pong(&number);
        assert_eq!(liveness.poll(&mut cx, Relay::Heard), Poll::Pending);
        assert!(after_sleep(&mut liveness, &mut cx).is_ready());
        assert_eq!(liveness.poll(&mut cx, Relay::Quiet), Poll::Pending);
        tokio::time::advance(AFTER_SLEEP).await;
        assert_eq!(liveness.poll(&mut cx, Relay::Quiet), Poll::Ready(Pulse::Stopped));
    }

    fn after_sleep(liveness: &mut Liveness, cx: &mut Context<'_>) -> Poll<Pulse> {
        liveness.clocks.wall -= Duration::from_secs(3600);
        liveness.poll(cx, Relay::Quiet)
    }

    #[test]
    fn only_a_pong_that_repeats_a_ping_is_an_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let mut liveness = Liveness::new();
        liveness.pong(&[]);
        liveness.pong(&1_u64.to_be_bytes());
        assert!(!liveness.answers, "no ping was sent");
        liveness.ping(Relay::Quiet);
        liveness.pong(b"unasked");
        assert!(!liveness.answers);
        liveness.pong(&1_u64.to_be_bytes());
        assert!(liveness.answers);
    }
}
